//! Indenting JSON without touching its tokens, as Go's `json.Indent` does.

/// `json` with every element on a line of its own, four spaces deeper per level; numbers, texts and order stay.
///
/// `json` is valid JSON; anything else comes out just as wrong as it went in.
pub fn indent_json(json: &[u8]) -> Vec<u8> {
    const STEP: &[u8] = b"    ";
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut depth = 0usize;
    let mut in_text = false;
    let mut escaped = false;
    let mut opened = false;
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        (0..depth).for_each(|_| out.extend_from_slice(STEP));
    };
    for &byte in json {
        if in_text {
            out.push(byte);
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        if opened && !matches!(byte, b'}' | b']') {
            depth += 1;
            newline(&mut out, depth);
        }
        match byte {
            b'{' | b'[' => out.push(byte),
            b'}' | b']' => {
                if !opened {
                    depth = depth.saturating_sub(1);
                    newline(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            _ => {
                in_text = byte == b'"';
                out.push(byte);
            }
        }
        opened = matches!(byte, b'{' | b'[');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stay_and_structure_shows() {
        let json = br#"{"a":[1.50,{"b":"x:\"{,}\\"}],"e":{},"l":[],"n":null}"#;
        let expected = "{\n    \"a\": [\n        1.50,\n        {\n            \"b\": \"x:\\\"{,}\\\\\"\n        }\n    ],\n    \"e\": {},\n    \"l\": [],\n    \"n\": null\n}";
        assert_eq!(String::from_utf8(indent_json(json)).unwrap(), expected);
    }

    proptest::proptest! {
        #[test]
        fn indenting_changes_only_the_space_between_tokens(text in ".*", numbers: Vec<i64>, flag: bool) {
            let value = serde_json::json!({"t": text, "n": numbers, "o": {"f": flag, "e": [], "x": null}});
            let compact = value.to_string();
            let indented = indent_json(compact.as_bytes());
            let back: serde_json::Value = serde_json::from_slice(&indented).unwrap();
            proptest::prop_assert_eq!(back, value);
            proptest::prop_assert_eq!(indent_json(&indented), indented);
        }
    }
}
