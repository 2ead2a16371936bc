//! `cargo xtask fuzz`: hostile input, for a given time.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::{clock, project};

/// The packages with targets: tests named `fuzz_…`.
const PACKAGES: [&str; 6] =
    ["hyper-archive", "hyper-cli", "hyper-image", "hyper-kube", "hyperd", "hyper-fuzz"];

/// What each target gets in a run of all tests, in seconds.
pub const USUAL: u64 = 60;

/// Runs all targets at once, each for so many seconds.
pub fn run(seconds: u64) -> Result<()> {
    let programs = clock::step("fuzz targets", build)?;
    clock::step("fuzzing", || {
        let mut running = Vec::new();
        for program in &programs {
            let mut command = std::process::Command::new(program);
            command
                .args(["fuzz_", "--nocapture", "--test-threads=8"])
                .env("HYPER_FUZZ_SECONDS", seconds.to_string());
            let child = command.current_dir(project::root()).stdout(Stdio::piped()).stderr(Stdio::piped());
            running
                .push((program, child.spawn().with_context(|| format!("starting {}", program.display()))?));
        }
        let mut failed = Vec::new();
        for (program, child) in running {
            let output = child.wait_with_output()?;
            eprint!("{}", String::from_utf8_lossy(&output.stdout));
            if !output.status.success() {
                eprint!("{}", String::from_utf8_lossy(&output.stderr));
                failed.push(program.display().to_string());
            }
        }
        if failed.is_empty() { Ok(()) } else { bail!("fuzzing found something: {}", failed.join(", ")) }
    })
}

/// The test programs: with the checks of a debug build, that find more.
fn build() -> Result<Vec<PathBuf>> {
    let mut cargo = project::cargo();
    cargo.args(["test", "--no-run", "--message-format", "json", "--lib", "--bins"]);
    let messages = project::output(cargo.args(PACKAGES.iter().flat_map(|package| ["--package", package])))?;
    let programs: Vec<PathBuf> = messages.lines().filter_map(program_of).collect();
    if programs.len() < PACKAGES.len() { bail!("cargo names no test programs") } else { Ok(programs) }
}

/// The test program that one of cargo's messages is about.
fn program_of(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let is_test = message["profile"]["test"].as_bool().unwrap_or(false);
    message["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_cargos_messages() {
        let test = r#"{"reason":"compiler-artifact","profile":{"test":true},"executable":"/x/deps/a-1"}"#;
        let other = r#"{"reason":"compiler-artifact","profile":{"test":false},"executable":"/x/a"}"#;
        assert_eq!(program_of(test), Some(PathBuf::from("/x/deps/a-1")));
        assert_eq!((program_of(other), program_of("x")), (None, None));
    }
}
