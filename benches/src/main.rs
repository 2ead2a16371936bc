//! What the README's numbers come from: ratios against a peer measured in the same run.
//!
//! `hyper-bench [start|pull|size]…` runs the named parts, all without names. Each prints its lines of the
//! table as it goes: the measure, ours, the peer's, the ratio and the bar. The exit code is 1 when a bar is
//! missed. Machines are noisy: ours and the peer's runs alternate, and medians are compared.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

mod pull;
mod size;
mod start;
mod table;

use std::process::ExitCode;

use hyper_e2e::{Instance, Options};
use table::Table;

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    let parts = ["start", "pull", "size"];
    if let Some(unknown) = named.iter().find(|name| !parts.contains(&name.as_str())) {
        eprintln!("error: no part {unknown}; there are {}", parts.join(", "));
        return ExitCode::from(2);
    }
    let instance = Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() });
    let mut table = Table::new();
    if wanted("start") {
        start::measure(&instance, &mut table);
    }
    if wanted("size") {
        size::measure(&instance, &mut table);
    }
    if wanted("pull") {
        pull::measure(&instance, &mut table);
    }
    let left = instance.finish();
    assert!(left.is_empty(), "left behind: {left:#?}");
    if table.all_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
