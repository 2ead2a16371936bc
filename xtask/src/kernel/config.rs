//! The kernel's configuration: what the fragments ask for, and whether the kernel granted it.
//!
//! The build starts from nothing (`allnoconfig`) with the fragments on top. Kconfig drops a request silently
//! when a dependency is missing, so every request is looked up in the result.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::recipe::Fragment;

/// An option's value when it is not set.
const OFF: &str = "n";

/// What the fragments ask for: option to value (`y`, `n`, a number, a quoted string).
#[derive(Debug)]
pub struct Requests(BTreeMap<String, String>);

impl Requests {
    /// Reads the fragments.
    ///
    /// # Errors
    /// On a line that is neither empty, a comment nor `CONFIG_X=value`, on an option named twice, and on `m`:
    /// this kernel has no modules.
    pub fn parse(fragments: &[Fragment]) -> Result<Self> {
        let mut requests = BTreeMap::new();
        for fragment in fragments {
            for (index, line) in fragment.text.lines().enumerate() {
                let at = || format!("{}:{}", fragment.name, index + 1);
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let (option, value) = assignment(line).with_context(|| format!("{}: `{line}`", at()))?;
                ensure!(value != "m", "{}: `{option}=m`: the kernel has no modules", at());
                let before = requests.insert(option.to_owned(), value.to_owned());
                ensure!(before.is_none(), "{}: `{option}` is named twice", at());
            }
        }
        Ok(Self(requests))
    }

    /// The requests as a file for `KCONFIG_ALLCONFIG`.
    pub fn render(&self) -> String {
        self.0.iter().map(|(option, value)| format!("{option}={value}\n")).collect()
    }

    /// Compares with the `.config` that came out.
    ///
    /// # Errors
    /// When a request was not granted; the message lists every one.
    pub fn verify(&self, config: &str) -> Result<()> {
        let granted: BTreeMap<_, _> = config.lines().filter_map(|line| assignment(line).ok()).collect();
        let lost: Vec<String> = self
            .0
            .iter()
            .filter_map(|(option, value)| {
                let got = granted.get(option.as_str()).copied().unwrap_or(OFF);
                (got != value).then(|| format!("  {option}={value} became {got}"))
            })
            .collect();
        if !lost.is_empty() {
            bail!("the kernel did not take these options (missing dependency?):\n{}", lost.join("\n"));
        }
        Ok(())
    }
}

/// Splits `CONFIG_X=value`.
fn assignment(line: &str) -> Result<(&str, &str)> {
    let (option, value) = line.split_once('=').context("no `=` in it")?;
    let name = option.strip_prefix("CONFIG_").context("an option starts with `CONFIG_`")?;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    ensure!(!name.is_empty() && name.bytes().all(good), "not an option's name");
    ensure!(!value.is_empty(), "no value");
    Ok((option, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Requests> {
        Requests::parse(&[Fragment { name: "f.config".into(), text: text.into() }])
    }

    fn problem(result: Result<impl Sized>) -> String {
        result.err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[test]
    fn granted_requests_pass() {
        let requests =
            parse("# why\nCONFIG_A=y\n\nCONFIG_B=n\nCONFIG_C=\"x=y\"\nCONFIG_D=64\n").expect("well formed");
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x=y\"\nCONFIG_D=64\nCONFIG_E=y\n";
        requests.verify(config).expect("all were granted");
    }

    #[test]
    fn every_lost_request_is_listed() {
        let requests = parse("CONFIG_A=y\nCONFIG_B=n\nCONFIG_C=4\nCONFIG_D=y\n").expect("well formed");
        let text = problem(requests.verify("CONFIG_B=y\nCONFIG_C=8\nCONFIG_D=y\n"));
        assert!(text.contains("CONFIG_A=y became n"), "{text}");
        assert!(text.contains("CONFIG_B=n became y"), "{text}");
        assert!(text.contains("CONFIG_C=4 became 8"), "{text}");
        assert!(!text.contains("CONFIG_D"), "{text}");
    }

    #[test]
    fn malformed_lines_are_refused_with_their_place() {
        for bad in ["CONFIG_A", "A=y", "CONFIG_=y", "CONFIG_A=", "CONFIG_A B=y", " CONFIG_A=y"] {
            let text = problem(parse(&format!("CONFIG_OK=y\n{bad}\n")));
            assert!(text.starts_with("f.config:2"), "{bad}: {text}");
        }
    }

    #[test]
    fn modules_and_doubles_are_refused() {
        assert!(problem(parse("CONFIG_A=m\n")).contains("no modules"));
        assert!(problem(parse("CONFIG_A=y\nCONFIG_A=n\n")).contains("named twice"));
    }
}
