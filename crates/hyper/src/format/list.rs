//! Lists in docker's three shapes: a table, JSON lines, a template per row.

use super::{Template, TemplateError, Value, align, harmless};

/// One object: its columns by docker's names.
pub type Row = Vec<(&'static str, Value)>;

/// A list with its columns' headings.
pub struct List<'a> {
    /// Columns and headings, for `table` templates.
    pub headings: &'static [(&'static str, &'static str)],
    /// The template behind `table`.
    pub table: &'a str,
    /// The rows, in order.
    pub rows: Vec<Row>,
}

impl List<'_> {
    /// The list in `format`: nothing or `table`, `table TEMPLATE`, `json`, or a template.
    ///
    /// # Errors
    /// [`TemplateError`] of the user's template.
    pub fn render(self, format: Option<&str>) -> Result<String, TemplateError> {
        let format = format.unwrap_or("table");
        let rows = self.rows.into_iter().map(into_value);
        if format == "json" {
            return Ok(rows.map(|row| row.to_json() + "\n").collect());
        }
        let (is_table, template) = match format.strip_prefix("table") {
            Some("") => (true, self.table.to_owned()),
            Some(rest) if rest.starts_with(char::is_whitespace) => (true, rest.trim().to_owned()),
            _ => (false, format.to_owned()),
        };
        let template = Template::parse(&unescape(&template))?;
        // Rendered for every format: a wrong field is told without rows as well.
        let heading = template.render(&heading_row(self.headings))?;
        let mut text = if is_table { heading + "\n" } else { String::new() };
        for row in rows {
            text += &template.render(&row)?;
            text.push('\n');
        }
        Ok(if is_table { align(&harmless(&text)) } else { text })
    }
}

fn into_value(row: Row) -> Value {
    let mut fields: Vec<_> = row.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    // Docker's rows are Go maps, whose JSON is sorted.
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Value::row(fields)
}

fn heading_row(headings: &[(&str, &str)]) -> Value {
    let headings = headings.iter().map(|(name, heading)| ((*name).to_owned(), Value::text(*heading)));
    Value::object(headings.chain([("Label".to_owned(), Value::LookupHeading)]).collect())
}

/// The shell's single quotes leave `\t` and `\n` as two characters; docker reads them as one.
pub fn unescape(template: &str) -> String {
    template.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> List<'static> {
        List {
            headings: &[("ID", "CONTAINER ID"), ("Names", "NAMES")],
            table: "{{.ID}}\t{{.Names}}",
            rows: vec![vec![
                ("Names", Value::text("web")),
                ("Label", Value::Lookup(vec![("a.my-label".into(), "x".into())])),
                ("ID", Value::text("0123456789ab")),
            ]],
        }
    }

    #[test]
    fn a_list_has_dockers_shapes() {
        let table = [
            (None, "CONTAINER ID   NAMES\n0123456789ab   web\n"),
            (Some("table {{.Names}}\\t{{.ID}}"), "NAMES     CONTAINER ID\nweb       0123456789ab\n"),
            (Some("{{.Names}}:{{.ID}}"), "web:0123456789ab\n"),
            (Some("table {{.Label \"a.my-label\"}}"), "my label\nx\n"),
            (Some("json"), "{\"ID\":\"0123456789ab\",\"Names\":\"web\"}\n"),
            (Some("{{json .}}"), "{\"ID\":\"0123456789ab\",\"Names\":\"web\"}\n"),
        ];
        for (format, expected) in table {
            assert_eq!(list().render(format).as_deref(), Ok(expected), "{format:?}");
        }
        assert!(list().render(Some("{{.Nope}}")).is_err());
    }
}
