//! What a kernel is made of, and the key that stands for it.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::config::Requests;
use super::source::Source;
use crate::project;

/// The version of this recipe: to be raised when the way of building changes what comes out.
const VERSION: u32 = 2;

/// One file of `guest/kernel/`.
pub struct Fragment {
    /// The file's name.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Every input of a build.
pub struct Recipe {
    /// What the fragments ask for; comments and order make no other kernel.
    pub requests: Requests,
    /// Changes to the source, in the order in which they are applied.
    pub patches: Vec<Fragment>,
    /// The compiler's name and version, as it gives them.
    compiler: String,
    /// The source package's version.
    source: String,
}

impl Recipe {
    /// Reads fragments and patches and asks the compiler for its version.
    ///
    /// # Errors
    /// When there is no fragment, one is not readable or malformed, or there is no compiler.
    pub fn gather(source: &Source) -> Result<Self> {
        let compiler = project::output(Command::new("gcc").arg("--version"))?;
        let compiler = compiler.lines().next().unwrap_or_default().to_owned();
        let fragments = read_all("guest/kernel", "config")?;
        ensure!(!fragments.is_empty(), "no *.config in guest/kernel");
        let requests = Requests::parse(&fragments)?;
        let patches = read_all("guest/kernel/patches", "patch")?;
        Ok(Self { requests, patches, compiler, source: source.version().to_owned() })
    }

    /// The key: the same inputs give the same one, in 64 hexadecimal digits.
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        let mut feed = |field: &str| {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field);
        };
        feed(&VERSION.to_string());
        feed(&self.source);
        feed(&self.compiler);
        feed(&self.requests.render());
        for patch in &self.patches {
            feed(&patch.text);
        }
        hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes every character");
            text
        })
    }
}

/// The files of `directory` with this extension, sorted by name.
fn read_all(directory: &str, extension: &str) -> Result<Vec<Fragment>> {
    let directory = project::root().join(directory);
    let listing = || format!("listing {}", directory.display());
    let mut fragments = Vec::new();
    for entry in fs::read_dir(&directory).with_context(listing)? {
        let path = entry.with_context(listing)?.path();
        if path.extension().is_some_and(|found| found == extension) {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            fragments.push(Fragment { name, text });
        }
    }
    fragments.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(fragments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(text: &str, compiler: &str) -> Recipe {
        let fragment = Fragment { name: "f.config".into(), text: text.into() };
        let requests = Requests::parse(&[fragment]).expect("well formed");
        Recipe { requests, patches: Vec::new(), compiler: compiler.into(), source: "6.12".into() }
    }

    #[test]
    fn every_input_changes_the_key() {
        let key = recipe("CONFIG_A=y", "gcc 1").key();
        assert_eq!(key.len(), 64);
        assert_ne!(key, recipe("CONFIG_A=n", "gcc 1").key());
        assert_ne!(key, recipe("CONFIG_A=y", "gcc 2").key());
        let mut patched = recipe("CONFIG_A=y", "gcc 1");
        patched.patches.push(Fragment { name: "1.patch".into(), text: "---".into() });
        assert_ne!(key, patched.key());
    }

    #[test]
    fn comments_and_order_do_not_change_the_key() {
        let one = recipe("# why\nCONFIG_A=y\nCONFIG_B=4\n", "gcc").key();
        assert_eq!(one, recipe("CONFIG_B=4\n\n# because\nCONFIG_A=y\n", "gcc").key());
    }
}
