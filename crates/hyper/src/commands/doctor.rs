//! `hyper doctor`: what is wrong with this machine and what to do about it.

use std::path::Path;
use std::process::Command;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::App;
use crate::client::{ApiError, Endpoint, run_dir};
use crate::daemon::find_program;
use crate::error::{EXIT_FAILURE, Failure, Outcome};
use crate::output;

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Format output: only 'json'
    #[arg(long)]
    format: Option<String>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

/// A check and its result, as the daemon sends them too.
#[derive(Debug, Deserialize, Serialize)]
struct Check {
    name: String,
    status: Status,
    #[serde(default)]
    detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Check {
    fn new(name: &str, status: Status, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), status, detail: detail.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The daemon's answer: a list, alone or under `checks`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answer {
    List(Vec<Check>),
    Object { checks: Vec<Check> },
}

/// Prints every check; exit code 1 when any failed.
pub async fn doctor(app: &App, args: DoctorArgs) -> Outcome {
    if args.format.as_deref().is_some_and(|format| format != "json") {
        return Err(Failure::new("doctor's only --format is json"));
    }
    let mut checks = vec![];
    match app.client.json::<Answer>("/hyper/doctor", &[]).await {
        Ok(Answer::List(more) | Answer::Object { checks: more }) => {
            checks.push(Check::new("daemon", Status::Ok, format!("answers on {}", app.client.endpoint())));
            checks.extend(more);
        }
        Err(error) => {
            checks.push(unreachable_daemon(app, error));
            checks.extend(local_checks(app.client.endpoint()));
        }
    }
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    if args.format.is_some() {
        output::line(&serde_json::to_string(&checks).expect("checks are plain text"))?;
    } else {
        output::write(&render(&checks))?;
    }
    if failed { Err(Failure::silent(EXIT_FAILURE)) } else { Ok(0) }
}

fn unreachable_daemon(app: &App, error: ApiError) -> Check {
    let failure = Failure::from(error);
    let detail = format!("{}: {}", app.client.endpoint(), failure.errors.join(": "));
    let check = Check::new("daemon", Status::Fail, detail);
    // "Run hyper doctor" helps nobody here.
    match failure.hint.filter(|hint| !hint.contains("hyper doctor")) {
        Some(hint) => check.hint(hint),
        None => check,
    }
}

/// What can be seen without a daemon.
fn local_checks(endpoint: &Endpoint) -> Vec<Check> {
    let mut checks = vec![daemon_program(), run_directory(), qemu(), kvm()];
    if let Endpoint::Unix(path) = endpoint
        && let Some(dir) = path.parent()
        && !dir.is_dir()
    {
        let text = format!("the socket's directory {} does not exist", dir.display());
        checks.push(
            Check::new("socket", Status::Fail, text).hint("create it, or choose another address with -H"),
        );
    }
    checks
}

fn daemon_program() -> Check {
    match find_program() {
        Some(path) => Check::new("hyperd program", Status::Ok, path.display().to_string()),
        None => Check::new("hyperd program", Status::Fail, "found neither beside hyper nor in PATH")
            .hint("install hyperd beside hyper"),
    }
}

fn run_directory() -> Check {
    let dir = run_dir();
    let shown = dir.display().to_string();
    let exists = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::access(exists, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Check::new("runtime directory", Status::Ok, shown),
        Err(error) => Check::new("runtime directory", Status::Fail, format!("{shown}: {error}"))
            .hint("run as root, or set HYPER_RUN to a directory of your own"),
    }
}

fn qemu() -> Check {
    let program = format!("qemu-system-{}", std::env::consts::ARCH);
    match Command::new(&program).arg("--version").output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            Check::new("qemu", Status::Ok, text.lines().next().unwrap_or(&program))
        }
        Ok(output) => Check::new("qemu", Status::Fail, format!("{program} --version: {}", output.status)),
        Err(error) => Check::new("qemu", Status::Fail, format!("{program}: {error}"))
            .hint("install it: apt-get install qemu-system-x86"),
    }
}

fn kvm() -> Check {
    let path = Path::new("/dev/kvm");
    match rustix::fs::access(path, rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK) {
        Ok(()) => {
            Check::new("kvm", Status::Ok, "/dev/kvm can be opened; the daemon measures whether it is usable")
        }
        Err(rustix::io::Errno::NOENT) => {
            Check::new("kvm", Status::Warn, "/dev/kvm does not exist: guests are emulated")
                .hint("enable virtualisation in the firmware, or nested virtualisation on the host")
        }
        Err(error) => Check::new("kvm", Status::Warn, format!("/dev/kvm: {error}"))
            .hint("run as root or as a member of the group kvm"),
    }
}

fn render(checks: &[Check]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for check in checks {
        let mark = match check.status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        let colon = if check.detail.is_empty() { "" } else { ": " };
        let _ = writeln!(
            text,
            "[{mark}] {}{colon}{}",
            check.name,
            check.detail.trim_end().replace('\n', "\n       ")
        );
        if let Some(hint) = check.hint.as_deref().filter(|hint| !hint.is_empty()) {
            let _ = writeln!(text, "       hint: {hint}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_show_status_detail_and_hint() {
        let json = r#"{"checks":[{"name":"kvm","status":"warn","detail":"slow","hint":"use TCG"},{"name":"qemu","status":"ok"}]}"#;
        let (Answer::List(checks) | Answer::Object { checks }) = serde_json::from_str(json).unwrap();
        assert_eq!(render(&checks), "[warn] kvm: slow\n       hint: use TCG\n[ok  ] qemu\n");
    }
}
