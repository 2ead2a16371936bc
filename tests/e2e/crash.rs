//! hyperd killed in the middle of everything: nothing is lost.

use std::time::Duration;

use hyper_e2e::command::{wait_until, wait_until_within};
use hyper_e2e::images::{Small, digest};
use hyper_e2e::instance::kill;
use hyper_e2e::registry::{FakeRegistry, Fault};
use hyper_e2e::{Instance, Options};
use rustix::process::Signal;

use crate::case_list;
use crate::session::Case;

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Own:
        no_container_log_line_or_exit_status_is_lost_with_the_daemon,
        a_pull_goes_on_after_the_daemon_was_killed,
        a_pull_that_was_killed_asks_for_the_rest_of_a_layer_only,
        a_killed_hypervisor_ends_its_containers_and_nothing_else,
        a_killed_shim_ends_its_containers_and_nothing_else,
        a_daemon_killed_while_it_starts_containers_leaves_none_behind,
        the_one_disk_of_many_layers_is_made_anew_when_it_is_gone_or_damaged,
    ]
    .to_vec()
}

fn engine() -> Instance {
    Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() })
}

fn no_container_log_line_or_exit_status_is_lost_with_the_daemon() {
    let engine = engine();
    let hyper = |arguments: &[&str]| engine.hyper(arguments).run();
    let count = "n=0; while [ $n -lt 200 ]; do n=$((n + 1)); echo line $n; sleep 0.1; done; exit 7";
    hyper(&["run", "-d", "--name", "counts", "busybox:latest", "sh", "-c", count]).ok();
    hyper(&["run", "-d", "--name", "stays", "busybox:latest", "sleep", "1000"]).ok();
    hyper(&["run", "-d", "-i", "--name", "attached", "busybox:latest", "cat"]).ok();
    let mut attached = engine.hyper(&["attach", "attached"]).spawn();
    attached.send(b"before\n");
    attached.wait_for("before");
    let exec =
        engine.hyper(&["exec", "stays", "sh", "-c", "echo in exec; sleep 10; echo done >/tmp/done"]).spawn();
    exec.wait_for("in exec");
    hyper(&["run", "-d", "--name", "ends", "busybox:latest", "sh", "-c", "sleep 3; exit 9"]).ok();
    // The commands first: they would start the daemon again.
    drop(attached);
    drop(exec);
    engine.kill_daemon();
    // The container whose exit nobody heard has ended before the daemon is back.
    wait_until("the exit is on record", || {
        hyper_e2e::leftovers::files(&engine.run_directory()).iter().any(|file| file.contains("/exits/"))
    });
    engine.start_daemon();
    hyper(&["wait", "ends"]).ok().prints("9\n");
    hyper(&["wait", "counts"]).ok().prints("7\n");
    let expected: String = (1..=200).map(|n| format!("line {n}\n")).collect();
    hyper(&["logs", "counts"]).ok().prints(&expected);
    hyper(&["exec", "stays", "sh", "-c", "until cat /tmp/done; do sleep 0.1; done"]).ok().prints("done\n");
    let mut again = engine.hyper(&["attach", "attached"]).spawn();
    again.send(b"after\n");
    again.wait_for("after");
    drop(again);
    hyper(&["logs", "attached"]).ok().prints("before\nafter\n");
    hyper(&["stop", "-t", "0", "stays"]).ok();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn a_pull_goes_on_after_the_daemon_was_killed() {
    let engine = Instance::start(Options::default());
    engine.start_daemon();
    let mut pull =
        engine.hyper(&["pull", "localhost:5000/postgres:15"]).timeout(Duration::from_secs(300)).spawn();
    wait_until("the pull has begun", || {
        !hyper_e2e::leftovers::files(&engine.root().join("images")).is_empty()
    });
    std::thread::sleep(Duration::from_millis(300));
    engine.kill_daemon();
    assert_ne!(pull.wait().code, 0);
    engine.hyper(&["pull", "localhost:5000/postgres:15"]).timeout(Duration::from_secs(300)).run().ok();
    let version = ["run", "--rm", "localhost:5000/postgres:15", "postgres", "--version"];
    assert!(engine.hyper(&version).run().ok().out().contains("(PostgreSQL) 15"));
    engine.hyper(&["rmi", "localhost:5000/postgres:15"]).run().ok();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn a_pull_that_was_killed_asks_for_the_rest_of_a_layer_only() {
    let engine = Instance::start(Options::default());
    let image = Small::from_script(
        "mkdir bin; cp /bin/busybox bin/sh; head -c 3000000 /dev/urandom >noise; tar -c noise bin",
    );
    let (layer, half) = (digest(&image.layer), image.layer.len() / 2);
    let registry = FakeRegistry::start(&engine.lab.engine, &image);
    registry.fail(Fault::StallAt(half), 1);
    let reference = registry.reference();
    engine.start_daemon();
    let mut pull = engine.hyper(&["pull", &reference]).spawn();
    let kept = engine.root().join("images/ingest/sha256").join(layer.trim_start_matches("sha256:"));
    wait_until("half of the layer has come", || {
        std::fs::metadata(&kept).is_ok_and(|metadata| metadata.len() == half as u64)
    });
    engine.kill_daemon();
    assert_ne!(pull.wait().code, 0);
    engine.hyper(&["pull", &reference]).run().ok();
    let requests: Vec<String> =
        registry.requests().into_iter().filter(|line| line.contains(&layer)).collect();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(requests[1].ends_with(&format!("bytes={half}-")), "{requests:?}");
    assert!(!kept.exists());
    engine.hyper(&["run", "--rm", &reference, "sh", "-c", "echo alive"]).run().ok().prints("alive\n");
    engine.hyper(&["rmi", &reference]).run().ok();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

/// Process numbers of the programs of this engine whose name has `part`.
fn processes(engine: &Instance, part: &str) -> Vec<i32> {
    let of_program = |command: &str| command.split(' ').next().is_some_and(|program| program.contains(part));
    engine
        .pod_processes()
        .into_iter()
        .filter(|process| of_program(&process.command))
        .map(|process| process.pid)
        .collect()
}

fn a_killed_hypervisor_ends_its_containers_and_nothing_else() {
    killed("qemu-system");
}

fn a_killed_shim_ends_its_containers_and_nothing_else() {
    killed("containerd-shim-hyper");
}

/// Kills the program of the first of two containers.
fn killed(program: &str) {
    let engine = engine();
    let hyper = |arguments: &[&str]| engine.hyper(arguments).run();
    let mut attached = engine
        .hyper(&["run", "--name", "victim", "busybox:latest", "sh", "-c", "echo up; sleep 1000"])
        .spawn();
    attached.wait_for("up");
    let victims = processes(&engine, program);
    hyper(&["run", "-d", "--name", "other", "busybox:latest", "sleep", "1000"]).ok();
    assert_eq!(victims.len(), 1, "one {program} for one container");
    kill(victims[0], Signal::KILL);
    let output = attached.wait_within(Duration::from_secs(30));
    assert_eq!(output.code, 137, "{output}");
    let status = || engine.hyper(&["inspect", "victim"]).run().out();
    wait_until_within("the container has ended", Duration::from_secs(30), || {
        status().contains("\"exited\"") || status().contains("\"dead\"")
    });
    assert!(status().contains("\"Error\": \"the pod's VM is gone: "), "{}", status());
    hyper(&["exec", "other", "echo", "alive"]).ok().prints("alive\n");
    hyper(&["logs", "victim"]).ok().prints("up\n");
    hyper(&["rm", "-f", "victim"]).ok();
    hyper(&["run", "--rm", "--name", "victim", "busybox:latest", "true"]).ok();
    hyper(&["rm", "-f", "other"]).ok();
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn a_daemon_killed_while_it_starts_containers_leaves_none_behind() {
    let engine = engine();
    for pause in [0, 40, 80, 150, 300, 600, 1000] {
        let mut run = engine.hyper(&["run", "--rm", "busybox:latest", "true"]).spawn();
        std::thread::sleep(Duration::from_millis(pause));
        engine.kill_daemon();
        run.wait_within(Duration::from_secs(60));
        engine.start_daemon();
        engine.hyper(&["run", "--rm", "busybox:latest", "echo", "works"]).run().ok().prints("works\n");
    }
    let ids = engine.hyper(&["ps", "-aq"]).run().ok().out();
    for id in ids.split_whitespace() {
        engine.hyper(&["rm", "-f", id]).run().ok();
    }
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn the_one_disk_of_many_layers_is_made_anew_when_it_is_gone_or_damaged() {
    let engine = Instance::start(Options { images: vec!["layers:100"], ..Options::default() });
    let directory = engine.root().join("images/merged/sha256");
    let merged = || {
        let files = std::fs::read_dir(&directory).unwrap().map(|file| file.unwrap().path());
        files.collect::<Vec<_>>()
    };
    let script = "cat /layers/last; ls -A /layers | wc -l; ls /sys/block | grep -c sd";
    let starts = |disks: usize| {
        let run = engine.hyper(&["run", "--rm", "layers:100", "sh", "-c", script]).run().ok();
        assert_eq!(run.out().split_whitespace().collect::<Vec<_>>(), ["100", "91", &disks.to_string()]);
    };
    let [file] = merged().try_into().expect("the pull has made it");
    let sound = std::fs::read(&file).unwrap();
    starts(2);
    // A store that an older version has left.
    engine.kill_daemon();
    std::fs::remove_dir_all(&directory).unwrap();
    engine.start_daemon();
    starts(2);
    assert!(std::fs::read(&file).unwrap() == sound);
    std::fs::File::options().write(true).open(&file).unwrap().set_len(sound.len() as u64 / 2).unwrap();
    starts(2);
    assert!(std::fs::read(&file).unwrap() == sound);
    // Where it cannot be made, each layer is a disk of its own.
    std::fs::remove_dir_all(&directory).unwrap();
    std::fs::write(&directory, "in the way").unwrap();
    starts(101);
    std::fs::remove_file(&directory).unwrap();
    std::fs::create_dir(&directory).unwrap();
    starts(2);
    engine.hyper(&["rmi", "layers:100", "localhost:5000/layers:100"]).run().ok();
    assert_eq!(merged(), Vec::<std::path::PathBuf>::new());
    assert_eq!(engine.finish(), Vec::<String>::new());
}
