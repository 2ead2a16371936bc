//! What docker knows and Hyper does not do yet: recognised by name, refused with the reason.

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::error::{EXIT_DAEMON, Failure};

/// A flag of docker's `run` and `create` that is refused.
struct Refused {
    long: &'static str,
    takes_value: bool,
    reason: &'static str,
}

const fn value(long: &'static str, reason: &'static str) -> Refused {
    Refused { long, takes_value: true, reason }
}

const fn switch(long: &'static str, reason: &'static str) -> Refused {
    Refused { long, takes_value: false, reason }
}

const NOT_YET: &str = "is not supported yet";
const DEVICES: &str = "is not supported: a container's devices are its virtual machine's";
const HOST_KERNEL: &str = "is not supported: the container has a kernel of its own, not the host's";
const WINDOWS: &str = "is for Windows containers, which are not supported";

/// Docker 28.2's flags of `run` and `create` that are refused.
const RUN: &[Refused] = &[
    value("link", "is not supported: use a network, names and aliases"),
    value("link-local-ip", "is not supported: link-local addresses are the kernel's"),
    value("gpus", DEVICES),
    value("device-read-bps", NOT_YET),
    value("device-read-iops", NOT_YET),
    value("device-write-bps", NOT_YET),
    value("device-write-iops", NOT_YET),
    value("blkio-weight", NOT_YET),
    value("blkio-weight-device", NOT_YET),
    value("cpu-rt-period", NOT_YET),
    value("cpu-rt-runtime", NOT_YET),
    value("kernel-memory", NOT_YET),
    switch("oom-kill-disable", NOT_YET),
    value("uts", "is not supported yet: the containers of a pod share one hostname"),
    value("userns", NOT_YET),
    value("cgroupns", NOT_YET),
    value("cgroup-parent", HOST_KERNEL),
    switch("disable-content-trust", NOT_YET),
    switch("use-api-socket", NOT_YET),
    value("cpu-count", WINDOWS),
    value("cpu-percent", WINDOWS),
    value("io-maxbandwidth", WINDOWS),
    value("io-maxiops", WINDOWS),
];

/// Docker 28.2's commands that are not there yet.
const COMMANDS: &[&str] = &[
    "build",
    "builder",
    "buildx",
    "checkpoint",
    "compose",
    "config",
    "context",
    "manifest",
    "node",
    "plugin",
    "search",
    "secret",
    "service",
    "stack",
    "swarm",
    "trust",
];

/// Teaches `run` and `create` the names of the refused flags, so that clap knows which take a value.
pub fn teach_refused(command: Command) -> Command {
    command.mut_subcommands(|command| match command.get_name() {
        "run" | "create" => with_refused(command),
        "container" => teach_refused(command),
        _ => command,
    })
}

fn with_refused(command: Command) -> Command {
    RUN.iter().fold(command, |command, refused| {
        let arg = Arg::new(refused.long).long(refused.long).hide(true);
        command.arg(if refused.takes_value {
            arg.action(ArgAction::Append).num_args(1)
        } else {
            arg.action(ArgAction::SetTrue)
        })
    })
}

/// Refuses the first flag of the command line that is not supported.
///
/// # Errors
/// A [`Failure`] with exit code 125 that names the flag and the reason.
pub fn refuse_given(matches: &ArgMatches) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("run" | "create", command)) => refuse(command),
        Some(("container", command)) => refuse_given(command),
        _ => Ok(()),
    }
}

fn refuse(matches: &ArgMatches) -> Result<(), Failure> {
    // Commands without these flags do not know the names.
    let given = |refused: &&Refused| match refused.takes_value {
        true => matches.try_contains_id(refused.long).unwrap_or(false),
        false => matches.try_get_one::<bool>(refused.long).ok().flatten().copied().unwrap_or(false),
    };
    match RUN.iter().find(given) {
        Some(refused) => {
            Err(Failure::new(format!("--{} {}", refused.long, refused.reason)).with_code(EXIT_DAEMON))
        }
        None => Ok(()),
    }
}

/// The failure for a command that docker has and Hyper does not, or that nobody has. `group` ends in a space.
pub fn refuse_command(group: &str, name: &str) -> Failure {
    let known = match group {
        "" => COMMANDS,
        "image " => &["build"],
        "system " => &["dial-stdio"],
        _ => &[],
    };
    let help = format!("`hyper {group}--help` lists the commands");
    if known.contains(&name) {
        return Failure::new(format!("`hyper {group}{name}` is not supported yet")).with_hint(help);
    }
    Failure::new(format!("unknown command: hyper {group}{name}")).with_hint(help)
}
