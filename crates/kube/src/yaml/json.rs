//! JSON as it comes: one text behind the other, characters beyond the first plane as two escapes, and characters that
//! YAML has only as escapes.
//!
//! What is JSON is YAML but for these, so it is read by the same parser once they are gone.

use serde_json::value::RawValue;

/// One text of a stream, as YAML.
pub(super) struct Piece {
    /// Lines before it.
    pub line: usize,
    /// The text, moved to its column.
    pub text: String,
}

/// The texts of a stream of JSON objects; `None` if it is something else.
pub(super) fn split(text: &str) -> Option<Vec<Piece>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let (mut pieces, mut line, mut seen) = (Vec::new(), 0, 0);
    while let Some(value) = values.next() {
        let value = value.ok()?.get();
        let begin = values.byte_offset() - value.len();
        line += newlines(&text[seen..begin]);
        let column = text[..begin].rsplit('\n').next().unwrap_or_default().chars().count();
        pieces.push(Piece { line, text: format!("{}{}", " ".repeat(column), joined(value)) });
        line += newlines(value);
        seen = begin + value.len();
    }
    Some(pieces)
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// Two escapes that are one character (`\ud83d\ude00`) become the one that YAML has for it (`\U0001f600`), and what YAML
/// does not print becomes an escape.
fn joined(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|one| one == '\\' || is_not_printed(one)) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let first = rest.chars().next().unwrap_or_default();
        let pair = unit(rest).zip(rest.get(6..).and_then(unit));
        let character = pair.and_then(|(high, low)| char::decode_utf16([high, low]).next()?.ok());
        let taken = if is_not_printed(first) {
            out.push_str(&format!("\\u{:04x}", u32::from(first)));
            first.len_utf8()
        } else if let Some(character) = character.filter(|character| *character > '\u{ffff}') {
            out.push_str(&format!("\\U{:08x}", u32::from(character)));
            12
        } else {
            let taken = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
            out.push_str(&rest[..taken]);
            taken
        };
        rest = &rest[taken..];
    }
    out.push_str(rest);
    out
}

/// What YAML has only as an escape, or takes for the end of a line.
fn is_not_printed(one: char) -> bool {
    matches!(one, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// The value of `\uXXXX` at the start of a text.
fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.get(..6)?.strip_prefix("\\u")?, 16).ok()
}
