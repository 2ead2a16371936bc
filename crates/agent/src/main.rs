//! `/init` of the guest, and the init of containers that ask for one.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|name| name == hyper_agent::init::NAME) {
        return hyper_agent::init::run();
    }
    if std::process::id() != 1 {
        eprintln!("hyper-agent: this is the init of a Hyper guest; it runs as process 1 only");
        return ExitCode::FAILURE;
    }
    if let Err(failed) = hyper_agent::run() {
        eprintln!("hyper-agent: cannot go on: {}", failed.to_failure().message);
    }
    hyper_agent::power_off()
}
