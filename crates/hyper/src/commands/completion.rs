//! `hyper completion`: what a shell needs to complete our commands and flags.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::{Shell, generate};

use crate::args::{Cli, for_help};
use crate::error::Outcome;
use crate::output;

/// Words of `completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shells,
}

/// The shells.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shells {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script, for example for `source <(hyper completion bash)`.
pub fn completion(args: &CompletionArgs) -> Outcome {
    let shell = match args.shell {
        Shells::Bash => Shell::Bash,
        Shells::Zsh => Shell::Zsh,
        Shells::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut for_help(Cli::command()), "hyper", &mut script);
    output::write_bytes(&script)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_commands_and_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            generate(shell, &mut for_help(Cli::command()), "hyper", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("attach") && script.contains("detach-keys"), "{shell}");
        }
    }
}
