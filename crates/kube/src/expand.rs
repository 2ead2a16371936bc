//! `$(VAR)` in commands, arguments, values of variables and paths below volumes.

/// A text with its references replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expanded {
    /// The text. What is not known stays as it was, as Kubernetes has it for commands and values.
    pub text: String,
    /// The names that are not known: an error in `subPathExpr`.
    pub missing: Vec<String>,
}

/// Replaces `$(NAME)` by what `value` has for it; `$$` stands for `$`, so `$$(NAME)` stays `$(NAME)`.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> Expanded {
    let mut expanded = Expanded { text: String::with_capacity(text.len()), missing: Vec::new() };
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.text.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            match value(name) {
                Some(value) => expanded.text.push_str(&value),
                None => {
                    expanded.text.push_str(&format!("$({name})"));
                    expanded.missing.push(name.to_owned());
                }
            }
            rest = after;
        } else {
            expanded.text.push('$');
        }
    }
    expanded.text.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> String {
        let known = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "REF" => Some("$(A)".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        expand(text, known).text
    }

    #[test]
    fn references_are_replaced_as_kubernetes_replaces_them() {
        for (from, to) in [
            ("$(A)", "a"),
            ("x$(A)y$(A)", "xaya"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$$$$(A)", "$$(A)"),
            ("$(REF)", "$(A)"),
            ("[$(EMPTY)]", "[]"),
            ("$(NO)", "$(NO)"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$", "$"),
            ("$$", "$"),
            ("a$", "a$"),
            ("$()", "$()"),
            ("$(ä)€$(A)", "$(ä)€a"),
        ] {
            assert_eq!(text(from), to, "{from}");
        }
    }

    #[test]
    fn what_is_missing_is_told() {
        let expanded = expand("$(A)/$$(B)/$(C)", |_| None);
        assert_eq!(expanded.missing, ["A", "C"]);
    }

    proptest::proptest! {
        #[test]
        fn what_has_no_dollar_stays(text in "[^$]*") {
            proptest::prop_assert_eq!(expand(&text, |_| None).text, text);
        }

        #[test]
        fn what_is_escaped_stays(text in ".*") {
            proptest::prop_assert_eq!(expand(&text.replace('$', "$$"), |_| None).text, text);
        }
    }
}
