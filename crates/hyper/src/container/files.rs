//! Environment and label values, from flags and from files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::FlagError;

/// Largest env or label file read, in bytes.
const MAX_FILE: u64 = 8 << 20;

/// The environment in docker's order: files first, then flags.
///
/// `lookup` gives our own environment. A name without a value that we do not have is passed on alone from a flag
/// (it unsets the image's variable) and left out from a file.
///
/// # Errors
/// A file that cannot be read, a line without a name, a flag without a name.
pub fn environment(
    files: &[PathBuf],
    flags: &[String],
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>, FlagError> {
    let mut variables = Vec::new();
    for file in files {
        variables
            .extend(read_pairs(file, "env", |name| lookup(name).map(|value| format!("{name}={value}")))?);
    }
    for flag in flags {
        let (name, has_value) = flag.split_once('=').map_or((flag.as_str(), false), |(name, _)| (name, true));
        if name.is_empty() {
            return Err(FlagError::new("env", flag, "invalid environment variable"));
        }
        variables.push(match lookup(name) {
            Some(value) if !has_value => format!("{name}={value}"),
            _ => flag.clone(),
        });
    }
    Ok(variables)
}

/// The labels: files first, then flags; a later one wins; a key alone has an empty value.
///
/// # Errors
/// A file that cannot be read or a label without a key.
pub fn labels(files: &[PathBuf], flags: &[String]) -> Result<HashMap<String, String>, FlagError> {
    let mut pairs = Vec::new();
    for file in files {
        pairs.extend(read_pairs(file, "label", |_| None)?);
    }
    pairs.extend(flags.iter().cloned());
    let mut labels = HashMap::new();
    for pair in pairs {
        let (key, value) = pair.split_once('=').unwrap_or((&pair, ""));
        if key.is_empty() {
            return Err(FlagError::new("label", &pair, "invalid label: empty name"));
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

/// All bytes of a file of at most `limit` bytes.
///
/// # Errors
/// What the system says, or that the file is too large; the file's own size is not believed.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("the file is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// The lines of a file of `NAME=VALUE`; `alone` decides about lines that are only a name.
fn read_pairs(
    path: &Path,
    kind: &str,
    alone: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>, FlagError> {
    let flag = if kind == "env" { "env-file" } else { "label-file" };
    let shown = path.display().to_string();
    let failed = |reason: String| FlagError::new(flag, &shown, &reason);
    let bytes = read_bounded(path, MAX_FILE).map_err(|error| failed(format!("open {shown}: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| failed("the file is not UTF-8".into()))?;
    let mut pairs = Vec::new();
    for line in text.strip_prefix('\u{feff}').unwrap_or(&text).lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (line, None),
        };
        if name.is_empty() {
            return Err(failed(format!("no variable name on line '{line}'")));
        }
        if name.contains(char::is_whitespace) {
            return Err(failed(format!("variable '{name}' contains whitespaces")));
        }
        match value {
            Some(value) => pairs.push(format!("{name}={value}")),
            None => pairs.extend(alone(name)),
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn ours(name: &str) -> Option<String> {
        (name == "HAVE").then(|| "value".to_owned())
    }

    #[test]
    fn names_alone_take_our_environment() {
        let (_dir, path) = file("\u{feff}# comment\nA=1 2 \n  HAVE\nNOPE\n\nB=\n");
        let flags = ["HAVE".to_owned(), "NOPE".into(), "HAVE=x".into()];
        assert_eq!(
            environment(&[path], &flags, ours).unwrap(),
            ["A=1 2 ", "HAVE=value", "B=", "HAVE=value", "NOPE", "HAVE=x"]
        );
    }

    #[test]
    fn poor_lines_are_refused_with_the_file() {
        for (text, reason) in [("=x\n", "no variable name"), ("a b=1\n", "contains whitespaces")] {
            let (_dir, path) = file(text);
            let error = environment(&[path], &[], ours).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("--env-file"), "{error}");
        }
        assert!(environment(&["/dev/zero".into()], &[], ours).is_err());
        assert!(environment(&["/nonexistent".into()], &[], ours).is_err());
        assert!(environment(&[], &["=x".into()], ours).is_err());
    }

    #[test]
    fn later_labels_win() {
        let (_dir, path) = file("a=file\nb=file\nalone\n");
        let labels = labels(&[path], &["a=flag".into(), "c".into()]).unwrap();
        let mut sorted: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        sorted.sort();
        assert_eq!(sorted, ["a=flag", "b=file", "c="]);
    }
}
