//! `hyper man-pages`, which `cargo xtask dist` runs: a page for every command, from the grammar itself.

use std::path::PathBuf;

use clap::{Args, Command, CommandFactory};

use crate::args::{Cli, for_help};
use crate::error::{Failure, Outcome};

/// Words of `man-pages`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where to write them
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Writes `hyper.1`, `hyper-run.1`, …
///
/// # Errors
/// A file cannot be written.
pub fn man(args: &ManArgs) -> Outcome {
    std::fs::create_dir_all(&args.directory)
        .and_then(|()| clap_mangen::generate_to(grammar(), &args.directory))
        .map_err(|error| {
            Failure::new(format!("cannot write manual pages to {}: {error}", args.directory.display()))
        })?;
    Ok(0)
}

/// The grammar as readers see it.
fn grammar() -> Command {
    let mut grammar = for_help(Cli::command()).version(env!("CARGO_PKG_VERSION"));
    grammar.build();
    grammar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_flags() {
        let dir = tempfile::tempdir().unwrap();
        man(&ManArgs { directory: dir.path().to_owned() }).unwrap();
        for (page, word) in [
            ("hyper.1", "hyper\\-run(1)"),
            ("hyper-run.1", "\\-\\-restart"),
            ("hyper-system-df.1", "verbose"),
        ] {
            let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
            assert!(text.contains(word), "{page} lacks {word}: {text}");
        }
    }
}
