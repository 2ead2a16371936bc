//! Aligned columns, as Go's `text/tabwriter` makes them for docker.

/// Narrowest column with its padding (docker's `NewWriter(out, 10, 1, 3, ' ', 0)`).
const MIN_WIDTH: usize = 10;
/// Spaces between columns.
const PADDING: usize = 3;

/// Turns tabs into columns: a cell ends at a tab, and a column is a run of lines that have that cell.
pub fn align(text: &str) -> String {
    align_with(text, MIN_WIDTH, PADDING)
}

/// [`align`] with another smallest width and padding.
pub fn align_with(text: &str, min_width: usize, padding: usize) -> String {
    let ends_with_newline = text.ends_with('\n');
    let lines: Vec<Vec<&str>> =
        text.strip_suffix('\n').unwrap_or(text).split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len()]).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut from = 0;
        while from < lines.len() {
            // The last cell of a line ends at no tab and belongs to no column.
            let run = lines[from..].iter().take_while(|cells| cells.len() > column + 1).count();
            let block = &lines[from..from + run];
            let widest = block.iter().map(|cells| cells[column].chars().count() + padding).max().unwrap_or(0);
            for width in &mut widths[from..from + run] {
                width[column] = widest.max(min_width);
            }
            from += run.max(1);
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (line, (cells, widths)) in lines.iter().zip(&widths).enumerate() {
        if line > 0 {
            out.push('\n');
        }
        for (cell, width) in cells.iter().zip(widths) {
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
    }
    if ends_with_newline {
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        assert_eq!(
            align("CONTAINER ID\tIMAGE\tPORTS\n766b468395cd\tbb\té\n"),
            "CONTAINER ID   IMAGE     PORTS\n766b468395cd   bb        é\n"
        );
    }

    #[test]
    fn a_line_without_the_cell_ends_the_column() {
        assert_eq!(align_with("a\tb\nlong\na much longer\tc\n", 0, 1), "a b\nlong\na much longer c\n");
    }

    proptest::proptest! {
        #[test]
        fn aligning_keeps_the_words(text in "[a-zé\t\n ]{0,60}") {
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let aligned = align(&text);
            proptest::prop_assert!(!aligned.contains('\t'));
            proptest::prop_assert_eq!(words(&aligned), words(&text));
        }
    }
}
