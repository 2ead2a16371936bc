//! A dockerd to compare with, where there is one.

use std::time::{Duration, Instant};

use hyper_e2e::Instance;

/// Names the socket (`unix://…`) of a dockerd with a network of its own.
const VARIABLE: &str = "HYPER_BENCH_DOCKERD";

/// Docker's name of the image; any other image with this name would be taken for it.
const IMAGE: &str = "hyper-bench/busybox:1";

/// The peer.
pub struct Docker {
    host: String,
}

impl Docker {
    /// The one that the environment names, with `busybox:latest` of `instance` loaded into it.
    pub fn find(instance: &Instance) -> Option<Self> {
        let host = std::env::var(VARIABLE).ok()?;
        let docker = Self { host };
        instance.hyper(&["tag", "busybox:latest", IMAGE]).run().ok();
        let load =
            format!("{} save {IMAGE} | docker -H {} load", instance.line(hyper_e2e::Cli::Hyper), docker.host);
        instance.sh(&load).timeout(Duration::from_secs(120)).run().ok();
        Some(docker)
    }

    /// A command line that runs `true` in a container that removes itself.
    pub fn line(&self) -> String {
        format!("docker -H {} run --rm {IMAGE} true", self.host)
    }

    /// Its command line.
    pub fn command(&self) -> String {
        format!("docker -H {}", self.host)
    }

    /// Starts a container that does nothing; its name.
    pub fn start(&self, instance: &Instance) -> String {
        let line = format!("{} run -d {IMAGE} sleep 3600", self.command());
        instance.sh(&line).run().ok().out().trim().to_owned()
    }

    /// Removes it.
    pub fn end(&self, instance: &Instance, name: &str) {
        instance.sh(&format!("{} rm -f {name}", self.command())).run().ok();
    }

    /// Runs it.
    pub fn run(&self, instance: &Instance) -> Duration {
        let start = Instant::now();
        instance.sh(&self.line()).run().exits(0);
        start.elapsed()
    }

    /// Takes the image away again.
    pub fn remove(&self, instance: &Instance) {
        instance.sh(&format!("docker -H {} rmi {IMAGE}", self.host)).run();
    }
}
