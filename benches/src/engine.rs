//! What the engine does beside starting: exec, joining a pod, listing, its own memory.

use std::fs;
use std::time::{Duration, Instant};

use hyper_e2e::Instance;

use crate::podman::Podman;
use crate::table::Table;

/// Samples of each side.
const RUNS: usize = 20;

/// Containers to be listed, and to be kept in memory.
const MANY: usize = 200;

/// Bytes of a log that is followed.
const LOG: u64 = 1 << 30;

/// Resident memory of hyperd, at most.
const RESIDENT: u64 = 40 << 20;

/// How long following the log may take.
const LIMIT: Duration = Duration::from_secs(590);

/// Measures all of it, on an engine that keeps no VMs ready.
pub fn measure(instance: &Instance, table: &mut Table) {
    instance.hyper(&["template", "create"]).run().ok();
    exec(instance, table);
    joining(instance, table);
    many(instance, table);
    following(instance, table);
}

fn timed(instance: &Instance, words: &[&str]) -> Duration {
    let start = Instant::now();
    instance.hyper(words).run().exits(0);
    start.elapsed()
}

/// A program in a container that runs, against podman's.
fn exec(instance: &Instance, table: &mut Table) {
    let podman = Podman::new(instance);
    podman.start(instance);
    instance.hyper(&["run", "-d", "--name", "exec", "busybox:latest", "sleep", "3600"]).run().ok();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=RUNS {
        let took = (timed(instance, &["exec", "exec", "true"]), podman.exec(instance));
        // The first round warms the caches.
        if round > 0 {
            ours.push(took.0);
            theirs.push(took.1);
        }
    }
    podman.remove(instance);
    instance.hyper(&["rm", "-f", "exec"]).run().ok();
    table.times("`hyper exec CONTAINER true`", &ours, ("podman exec", &theirs), 1.5);
}

/// A container that joins a running pod, against one in a pod of its own.
fn joining(instance: &Instance, table: &mut Table) {
    let host = ["run", "-d", "--pod", "joined", "--name", "host", "busybox:latest", "sleep", "3600"];
    instance.hyper(&host).run().ok();
    let (mut joined, mut alone) = (Vec::new(), Vec::new());
    for round in 0..=RUNS {
        let run = ["run", "-d", "--name", "one", "busybox:latest", "sleep", "3600"];
        let join = ["run", "-d", "--pod", "joined", "--name", "two", "busybox:latest", "sleep", "3600"];
        let took = (timed(instance, &join), timed(instance, &run));
        instance.hyper(&["rm", "-f", "one", "two"]).run().ok();
        if round > 0 {
            joined.push(took.0);
            alone.push(took.1);
        }
    }
    instance.hyper(&["rm", "-f", "host"]).run().ok();
    table.times("a container that joins a running pod", &joined, ("in a pod of its own", &alone), 0.5);
}

/// Listing 200 containers, and what a daemon that has them all takes.
fn many(instance: &Instance, table: &mut Table) {
    instance.hyper(&["pod", "create", "many"]).run().ok();
    let names: Vec<String> = (0..MANY).map(|number| format!("many{number}")).collect();
    for name in &names {
        instance.hyper(&["run", "--pod", "many", "--name", name, "busybox:latest", "true"]).run().ok();
    }
    let listing: Vec<Duration> = (0..RUNS).map(|_| timed(instance, &["ps", "-a"])).collect();
    table.bounded(&format!("`hyper ps -a` of {MANY} containers"), &listing, Duration::from_millis(50));
    table.bytes(&format!("hyperd with {MANY} stopped containers, resident"), resident(instance), RESIDENT);
    // A daemon that has only just started knows them as well.
    instance.kill_daemon();
    instance.start_daemon();
    table.bytes("the same, started anew", resident(instance), RESIDENT);
    for names in names.chunks(50) {
        let words: Vec<&str> = ["rm", "-f"].into_iter().chain(names.iter().map(String::as_str)).collect();
        instance.hyper(&words).timeout(LIMIT).run().ok();
    }
    instance.hyper(&["pod", "rm", "-f", "many"]).run().ok();
}

/// A log of 1 GB that somebody follows: no memory grows with it.
fn following(instance: &Instance, table: &mut Table) {
    let before = resident(instance);
    let script = format!("yes 0123456789012345678901234567890123456789012345678901234567890 | head -c {LOG}");
    let words = ["run", "-d", "--name", "talks", "busybox:latest", "sh", "-c", &script];
    let start = Instant::now();
    instance.hyper(&words).run().ok();
    let line = format!("{} logs -f talks | wc -c", instance.line(hyper_e2e::Cli::Hyper));
    let mut follow = instance.sh(&line).timeout(LIMIT).spawn();
    let mut most = before;
    while !follow.has_ended() {
        most = most.max(resident(instance));
        assert!(start.elapsed() < LIMIT, "following a log takes too long");
        std::thread::sleep(Duration::from_millis(200));
    }
    let took = start.elapsed();
    assert_eq!(follow.wait().ok().out().trim(), LOG.to_string(), "all of the log");
    instance.hyper(&["rm", "-f", "talks"]).run().ok();
    table.alone("1 GB of a container's output, written, logged and followed", &[took]);
    table.bytes("hyperd's growth meanwhile", most.saturating_sub(before), 16 << 20);
}

/// Resident memory of hyperd, in bytes.
fn resident(instance: &Instance) -> u64 {
    let pid = instance.daemon_pid().expect("hyperd runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has it");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
