//! What the README's numbers come from: ratios against a peer measured in the same run.
//!
//! `hyper-bench [start|pod|once|large|idle|engine|ports|copy|size|pull]…` runs the named parts, all without names. dockerd is a peer where
//! `HYPER_BENCH_DOCKERD` names its socket. Each prints its lines of the
//! table as it goes: the measure, ours, the peer's, the ratio and the bar. The exit code is 1 when a bar is
//! missed. Machines are noisy: ours and the peer's runs alternate, and medians are compared.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

mod data;
mod docker;
mod engine;
mod many;
mod podman;
mod pull;
mod size;
mod start;
mod table;

use std::process::ExitCode;

use docker::Docker;
use hyper_e2e::{Instance, Options};
use table::Table;

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    let parts = ["start", "pod", "once", "large", "idle", "engine", "ports", "copy", "size", "pull"];
    if let Some(unknown) = named.iter().find(|name| !parts.contains(&name.as_str())) {
        eprintln!("error: no part {unknown}; there are {}", parts.join(", "));
        return ExitCode::from(2);
    }
    let instance = Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() });
    let docker = Docker::find(&instance);
    let mut table = Table::new();
    if wanted("start") {
        start::measure(&instance, docker.as_ref(), &mut table);
    }
    if wanted("pod") {
        many::pod(&mut table);
    }
    if wanted("once") {
        many::at_once(&instance, docker.as_ref(), &mut table);
    }
    if wanted("large") {
        many::large_images(&instance, &mut table);
    }
    if wanted("idle") {
        many::idle(&instance, &mut table);
    }
    if wanted("engine") {
        engine::measure(&instance, &mut table);
    }
    if wanted("ports") {
        data::ports(&instance, &mut table);
    }
    if wanted("copy") {
        data::copy(&instance, docker.as_ref(), &mut table);
    }
    if wanted("size") {
        size::measure(&instance, &mut table);
    }
    if wanted("pull") {
        pull::measure(&instance, &mut table);
    }
    if let Some(docker) = &docker {
        docker.remove(&instance);
    }
    let left = instance.finish();
    assert!(left.is_empty(), "left behind: {left:#?}");
    if table.all_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
