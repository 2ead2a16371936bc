//! Builds, checks, tests and measures the project: `cargo xtask <command>`.
//!
//! One file per command; [`project`] knows where things lie and runs programs, [`clock`] prints where the
//! time went. The guest's two artefacts are made here from scratch: the kernel ([`kernel`]) from Debian's
//! source package and the fragments in `guest/kernel/`, the initramfs ([`initramfs`]) from the agent.

mod bench;
mod build;
mod check;
mod clock;
mod cpio;
mod dist;
mod e2e;
mod fuzz;
mod guest;
mod initramfs;
mod kernel;
mod project;
mod run;
mod static_program;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, checks, tests and measures the project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Subcommand)]
enum Command {
    /// Build the guest kernel, or take it from the cache; prints the path of its vmlinux
    Kernel(kernel::Options),
    /// Build the agent and pack it into the guest's initramfs
    Initramfs {
        /// Where to write the archive [default: guest/initramfs.cpio beside the release binaries]
        #[arg(long)]
        output: Option<PathBuf>,
    },
    /// Build kernel and initramfs into `guest/` beside the release binaries
    Guest,
    /// Build the release binaries and the guest
    Build,
    /// Write manual pages, shell completions and systemd units beside the release binaries
    Dist,
    /// Build, import an image made of Debian packages and run a program in it
    Run,
    /// Format, lints, unit tests, documentation
    Check,
    /// Every test: units first, then end to end
    Test,
    /// Hostile input to everything that parses: API bodies, archives, templates
    Fuzz {
        /// Seconds for each target; all run side by side
        #[arg(long, default_value_t = fuzz::USUAL)]
        seconds: u64,
    },
    /// End-to-end tests with real guests; arguments after `--` go to the test program
    E2e {
        /// Arguments for the test program, a name filter for example
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// docker-py's integration tests, against Hyper and a real dockerd; arguments after `--` go to pytest
    DockerPy {
        /// Arguments for pytest, files or `-k NAME`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Commands of docker's CLI against Hyper and a real dockerd, compared
    DockerCli {
        /// Only those that contain this
        chosen: Option<String>,
    },
    /// Measure against peers; arguments name the parts (start, pull, size)
    Bench {
        /// Parts to measure [default: all]
        parts: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.chain().skip(1).for_each(|cause| eprintln!("  because: {cause}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Kernel(options) => kernel::run(&options),
        Command::Initramfs { output } => initramfs::run(output),
        Command::Guest => guest::run(),
        Command::Build => build::run(),
        Command::Dist => dist::run(),
        Command::Run => run::run(),
        Command::Check => check::run(),
        Command::Test => test::run(),
        Command::Fuzz { seconds } => fuzz::run(seconds),
        Command::E2e { arguments } => e2e::run(&arguments),
        Command::DockerCli { chosen } => e2e::docker_cli(chosen.as_deref()),
        Command::DockerPy { arguments } => e2e::docker_py(&arguments),
        Command::Bench { parts } => bench::run(&parts),
    }
}
