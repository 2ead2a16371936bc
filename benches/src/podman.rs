//! podman with the same image, a runtime that works in a container, and its default network.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyper_e2e::Instance;

/// Mounts the control groups, which the instance's namespaces have not: in the version that the host has.
const CGROUPS: &str = "controllers=$(cut -d: -f2 /proc/self/cgroup | grep -v '^$' | grep -v ^name=)
if [ -z \"$controllers\" ]; then exec mount -t cgroup2 cgroup2 /sys/fs/cgroup; fi
mount -t tmpfs tmpfs /sys/fs/cgroup
for controller in $controllers; do
    mkdir /sys/fs/cgroup/$controller
    mount -t cgroup -o $controller cgroup /sys/fs/cgroup/$controller
done
if grep -q name=systemd /proc/self/cgroup; then
    mkdir /sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
fi";

/// Its configuration: without these limits it would raise those of this machine, which not every machine allows.
const CONFIGURATION: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\n";

/// Its name of the image.
const IMAGE: &str = "localhost:5000/busybox:latest";

/// The peer.
pub struct Podman {
    storage: String,
    directory: PathBuf,
}

impl Podman {
    /// With `busybox:latest` pulled.
    pub fn new(instance: &Instance) -> Self {
        let directory = instance.directory().join("podman");
        let storage = format!(
            "env CONTAINERS_CONF={0}.conf podman --root {0}/root --runroot {0}/run --storage-driver overlay --runtime runc --cgroup-manager cgroupfs",
            directory.display()
        );
        fs::write(directory.with_extension("conf"), CONFIGURATION).unwrap();
        let podman = Self { storage, directory };
        instance.sh(CGROUPS).run().ok();
        let pull = format!("{} pull -q --tls-verify=false {IMAGE}", podman.storage);
        instance.sh(&pull).timeout(Duration::from_secs(120)).run().ok();
        podman
    }

    /// Runs `true` in a container that removes itself.
    pub fn run(&self, instance: &Instance) -> Duration {
        let line = format!("{} run --rm {IMAGE} true", self.storage);
        let start = Instant::now();
        instance.sh(&line).run().exits(0);
        start.elapsed()
    }

    /// Starts a container for [`Podman::exec`].
    pub fn start(&self, instance: &Instance) {
        let line = format!("{} run -d --name exec {IMAGE} sleep 3600", self.storage);
        instance.sh(&line).run().ok();
    }

    /// Starts a container whose port 80 is published.
    pub fn publish(&self, instance: &Instance, port: u16, script: &str) {
        let line = format!("{} run -d -p {port}:80 {IMAGE} sh -c '{script}'", self.storage);
        instance.sh(&line).run().ok();
    }

    /// Runs `true` in the container that runs.
    pub fn exec(&self, instance: &Instance) -> Duration {
        let line = format!("{} exec exec true", self.storage);
        let start = Instant::now();
        instance.sh(&line).run().exits(0);
        start.elapsed()
    }

    /// Starts a pod of three containers that do nothing, and removes it afterwards.
    pub fn pod(&self, instance: &Instance) -> Duration {
        let podman = &self.storage;
        let member = format!("{podman} run -d --pod bench {IMAGE} sleep 600");
        let line = format!("set -e; {podman} pod create --name bench; {member}; {member}; {member}");
        let start = Instant::now();
        instance.sh(&line).run().exits(0);
        let took = start.elapsed();
        instance.sh(&format!("{podman} pod rm -f -t 0 bench")).run().exits(0);
        took
    }

    /// Removes all it made.
    pub fn remove(&self, instance: &Instance) {
        // Its bridge, its rules and its namespaces are removed with it: the instance's namespaces are all its own.
        let line = format!(
            "{0} pod rm -af; {0} rm -af -t 0; {0} rmi -af; {0} system reset -f; umount -R /sys/fs/cgroup; \
             ip link del cni-podman0 2>/dev/null; nft flush ruleset; umount /run/netns/* 2>/dev/null; \
             umount /run/netns 2>/dev/null; rm -rf {1}",
            self.storage,
            self.directory.display()
        );
        instance.sh(&line).timeout(Duration::from_secs(60)).run();
    }
}
