//! What may be a name of what: the rules of `k8s.io/apimachinery/pkg/util/validation`, in its words.

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
     start and end with an alphanumeric character (e.g. 'my-name', or '123-abc')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character (e.g. 'example.com')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
     alphabetic character, and end with an alphanumeric character (e.g. 'my-name', or 'abc-123')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
     with an alphanumeric character (e.g. 'MyName', or 'my.name', or '123-abc')";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
     must start and end with an alphanumeric character (e.g. 'MyValue', or 'my_value', or '12345')";

/// Why a text is not sound; nothing if it is.
type Reasons = Vec<String>;

fn too_long(text: &str, most: usize) -> Option<String> {
    (text.len() > most).then(|| format!("must be no more than {most} bytes"))
}

fn reasons(text: &str, most: usize, sound: bool, why: &str) -> Reasons {
    too_long(text, most).into_iter().chain((!sound).then(|| why.to_owned())).collect()
}

/// Characters of `also` or lower case letters and digits, the latter at both ends.
fn bounded(text: &str, upper: bool, also: &str) -> bool {
    let end =
        |one: char| one.is_ascii_digit() || one.is_ascii_lowercase() || (upper && one.is_ascii_uppercase());
    text.starts_with(end) && text.ends_with(end) && text.chars().all(|one| end(one) || also.contains(one))
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(|label| bounded(label, false, "-"))
}

/// A label of a domain's name: container's and volume's names.
pub(crate) fn dns_label(text: &str) -> Reasons {
    let dotted = text.contains('.') && is_subdomain(text);
    reasons(text, 63, bounded(text, false, "-"), if dotted { "must not contain dots" } else { LABEL })
}

/// A domain's name: the names of most objects.
pub(crate) fn dns_subdomain(text: &str) -> Reasons {
    reasons(text, 253, is_subdomain(text), SUBDOMAIN)
}

/// A label that begins with a letter.
pub(crate) fn dns_1035_label(text: &str) -> Reasons {
    let letter = text.starts_with(|first: char| first.is_ascii_lowercase());
    reasons(text, 63, letter && bounded(text, false, "-"), LABEL_1035)
}

/// The key of a label or annotation: `[example.com/]name`.
pub(crate) fn qualified_name(text: &str) -> Reasons {
    let (prefix, name) = match text.rsplit_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let mut why = Vec::new();
    if let Some(prefix) = prefix {
        if prefix.contains('/') {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                QUALIFIED.trim_start_matches("name part ")
            )];
        }
        match prefix {
            "" => why.push("prefix part must be non-empty".to_owned()),
            _ => why.extend(dns_subdomain(prefix).into_iter().map(|reason| format!("prefix part {reason}"))),
        }
    }
    match name {
        "" => why.push("name part must be non-empty".to_owned()),
        _ if name.len() > 63 => why.push("name part must be no more than 63 bytes".to_owned()),
        _ => {}
    }
    if !bounded(name, true, "-_.") {
        why.push(QUALIFIED.to_owned());
    }
    why
}

/// The value of a label.
pub(crate) fn label_value(text: &str) -> Reasons {
    reasons(text, 63, text.is_empty() || bounded(text, true, "-_."), VALUE)
}

/// The name of a port.
pub(crate) fn port_name(text: &str) -> Reasons {
    let mut why: Reasons = too_long(text, 15).into_iter().collect();
    let mut tell = |bad: bool, reason: &str| why.extend(bad.then(|| reason.to_owned()));
    let known = |one: char| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '-';
    tell(
        text.is_empty() || !text.chars().all(known),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    tell(!text.chars().any(|one| one.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    tell(text.contains("--"), "must not contain consecutive hyphens");
    tell(text.starts_with('-') || text.ends_with('-'), "must not begin or end with a hyphen");
    why
}

/// The name of a variable of the environment, as relaxed as Kubernetes has it since 1.34.
pub(crate) fn env_name(text: &str) -> Reasons {
    let why = match text {
        "" => "environment variable name must be non-empty",
        _ if text.chars().any(|one| !matches!(one, ' '..='~') || one == '=') => {
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
        }
        _ => return Vec::new(),
    };
    vec![why.to_owned()]
}

/// The key of a ConfigMap or Secret, which becomes a file's name.
pub(crate) fn config_key(text: &str) -> Reasons {
    let mut why: Reasons = too_long(text, 253).into_iter().collect();
    if text.is_empty() || !text.chars().all(|one| one.is_ascii_alphanumeric() || "-_.".contains(one)) {
        let reason = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' \
             (e.g. 'key.name', or 'KEY_NAME', or 'key-name')";
        why.push(reason.to_owned());
    }
    match text {
        "." => why.push("must not be '.'".to_owned()),
        ".." => why.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => why.push("must not start with '..'".to_owned()),
        _ => {}
    }
    why
}

/// The name of a header of HTTP.
pub(crate) fn header_name(text: &str) -> Reasons {
    let sound = !text.is_empty() && text.chars().all(|one| one.is_ascii_alphanumeric() || one == '-');
    let why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name')";
    reasons(text, usize::MAX, sound, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sort(rule: fn(&str) -> Reasons, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(rule(text).is_empty(), "{text:?}: {:?}", rule(text));
        }
        for text in bad {
            assert!(!rule(text).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn names_are_what_kubernetes_takes() {
        let (l63, l64) = ("a".repeat(63), "a".repeat(64));
        sort(dns_label, &["a", "a-b", "0", "a--b", &l63], &["", "A", "-a", "a-", "a_b", "a.b", "ä", &l64]);
        sort(
            dns_subdomain,
            &["a", "a.b", "0.1", &"a".repeat(253)],
            &["", ".", "a.", "a..b", "A.b", &"a".repeat(254)],
        );
        sort(dns_1035_label, &["a", "a-1"], &["", "1", "1a", "a.b", "-a"]);
        sort(
            qualified_name,
            &["a", "A_b.c", "app.kubernetes.io/name", "a/B", &l63],
            &["", "/a", "a/", "a/b/c", "-a", "a b", "A.b/c", &l64],
        );
        sort(label_value, &["", "a", "A_1.b", "1"], &["-", "a-", "a b", "ä", &l64]);
        sort(
            port_name,
            &["http", "a", "1a", "p-1"],
            &["", "80", "Http", "a--b", "-a", "a-", "a_b", &"a".repeat(16)],
        );
        sort(env_name, &["A", "a.b", "1", "A B", "a-b"], &["", "A=B", "ä", "a\n"]);
        sort(config_key, &["a", "A.b_c-d", ".a"], &["", ".", "..", "..a", "a/b", "a b"]);
        sort(header_name, &["X-Y", "a"], &["", "a b", "a:"]);
    }

    #[test]
    fn reasons_are_in_the_words_of_kubernetes() {
        assert_eq!(dns_label("a.b"), ["must not contain dots"]);
        assert!(dns_label("A")[0].starts_with("a lowercase RFC 1123 label must consist of"));
        assert_eq!(dns_label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }
}
