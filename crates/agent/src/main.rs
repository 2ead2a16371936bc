//! `/init` of the guest.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("hyper-agent: this is the init of a Hyper guest; it runs as process 1 only");
        return ExitCode::FAILURE;
    }
    if let Err(failed) = hyper_agent::run() {
        eprintln!("hyper-agent: cannot go on: {}", failed.to_failure().message);
    }
    hyper_agent::power_off()
}
