//! End-to-end tests: real images, real guests, `hyper` and the docker CLI.
//!
//! Most cases share one engine and run with both command lines; a case that
//! disturbs its engine (kills the daemon, fills its disk) starts its own. At
//! the end the shared engine is taken down and must have left nothing.
//! Arguments are those of libtest: a name filter, `--list`, `--test-threads`.
//! With `HYPER_E2E_DOCKERD` ([`Dockerd`]) the docker CLI's cases meet a real
//! dockerd instead.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

mod api;
mod api_input;
mod api_status;
mod bad_images;
mod bad_input;
mod copy;
mod crash;
mod garbage;
mod harness;
mod health;
mod images;
mod isolation;
mod lifecycle;
mod limits;
mod logging;
mod machine;
mod network;
mod networks;
mod pod_life;
mod pods;
mod ports;
mod push;
mod restart;
mod run;
mod servers;
mod session;
mod soak;
mod survival;
mod system;
mod template_faults;
mod templates;
mod terminal;
mod tools;
mod trees;
mod upkeep;
mod volumes;
mod watching;

use std::process::ExitCode;
use std::sync::Arc;

use hyper_e2e::{Binaries, Dockerd, Instance, Options};
use libtest_mimic::Arguments;
use session::{Body, Case};

/// Every case, in the order of a user's way.
fn cases() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("images", images::cases()),
        ("push", push::cases()),
        ("run", run::cases()),
        ("lifecycle", lifecycle::cases()),
        ("api", api::cases()),
        ("watching", watching::cases()),
        ("copy", copy::cases()),
        ("terminal", terminal::cases()),
        ("pods", pods::cases()),
        ("pod_life", pod_life::cases()),
        ("isolation", isolation::cases()),
        ("network", network::cases()),
        ("networks", networks::cases()),
        ("ports", ports::cases()),
        ("machine", machine::cases()),
        ("bad_input", bad_input::cases()),
        ("api_input", api_input::cases()),
        ("api_status", api_status::cases()),
        ("bad_images", bad_images::cases()),
        ("trees", trees::cases()),
        ("volumes", volumes::cases()),
        ("servers", servers::cases()),
        ("crash", crash::cases()),
        ("garbage", garbage::cases()),
        ("survival", survival::cases()),
        ("soak", soak::cases()),
        ("tools", tools::cases()),
        ("restart", restart::cases()),
        ("health", health::cases()),
        ("limits", limits::cases()),
        ("upkeep", upkeep::cases()),
        ("logging", logging::cases()),
        ("system", system::cases()),
        ("templates", templates::cases()),
        ("template_faults", template_faults::cases()),
        ("harness", harness::cases()),
    ]
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if let Some(reason) = cannot_run() {
        // Asked for by name, missing binaries are a failure; in a plain
        // `cargo test` they are a test that cannot run here.
        println!("skipped: the end-to-end tests: {reason}");
        return if std::env::var_os("HYPER_BIN").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    // A list need not wait for a download.
    let docker = if arguments.list { Ok(()) } else { hyper_e2e::docker::program().map(drop) };
    if let Err(missing) = &docker {
        println!("skipped: every case with the docker CLI: {missing}");
    }
    let docker = docker.is_ok();
    hyper_e2e::guardian::sweep_dead_runs();
    let shared = needs_engine(&arguments).then(|| {
        Arc::new(Instance::start(Options {
            images: vec!["busybox:latest", "debian:12"],
            ..Options::default()
        }))
    });
    let mut trials = Vec::new();
    for (group, cases) in cases() {
        for case in cases {
            trials.extend(case.trials(group, shared.as_ref(), docker));
        }
    }
    if Dockerd::from_environment().is_some() {
        trials.retain(|trial| trial.name().ends_with("::docker"));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let left = shared
        .map(|shared| Arc::into_inner(shared).expect("every case has ended").finish())
        .unwrap_or_default();
    for line in &left {
        eprintln!("left behind: {line}");
    }
    if left.is_empty() && !conclusion.has_failed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cannot_run() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("they need root for network namespaces".to_owned());
    }
    for program in
        ["nsenter", "setpriv", "nft", "ip", "mmdebstrap", "skopeo", "docker-registry", "qemu-system-x86_64"]
    {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|directory| directory.join(program).exists())
        });
        if !found {
            return Some(format!("{program} is not installed"));
        }
    }
    if Dockerd::from_environment().is_some() { None } else { Binaries::find().err() }
}

/// Whether any chosen case uses the shared engine; its start takes a moment.
fn needs_engine(arguments: &Arguments) -> bool {
    !arguments.list
        && cases().iter().any(|(group, cases)| {
            cases.iter().any(|case| {
                let name = format!("{group}::{}", case.name);
                let chosen = arguments.filter.as_ref().is_none_or(|filter| {
                    [format!("{name}::hyper"), format!("{name}::docker")].iter().any(|name| {
                        if arguments.exact { name == filter } else { name.contains(filter.as_str()) }
                    })
                });
                chosen && !matches!(case.body, Body::Own(_))
            })
        })
}
