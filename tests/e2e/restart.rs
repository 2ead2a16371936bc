//! Restart policies: after exits, killed VMs, and when all was killed.

use std::time::Duration;

use hyper_e2e::command::{wait_until, wait_until_within};
use hyper_e2e::instance::kill;
use hyper_e2e::leftovers::Process;
use hyper_e2e::{Instance, Options};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both:
        a_policy_restarts_what_ended_and_counts,
        what_a_user_stops_stays_stopped,
        policies_that_make_no_sense_are_refused,
    ]
    .to_vec();
    cases.extend(case_list![Own:
        a_container_whose_vm_was_killed_is_restarted,
        what_ran_before_a_reboot_runs_after_it,
    ]);
    cases
}

/// How long a few starts may take on a busy machine.
const LONG: Duration = Duration::from_secs(180);

fn a_policy_restarts_what_ended_and_counts(s: &Session) {
    let failing =
        s.background(&["--restart", "on-failure:2"], "busybox:latest", &["sh", "-c", "echo run; exit 3"]);
    let state = || s.inspect(&failing.name);
    wait_until_within("it has failed for good", LONG, || {
        state()["State"]["Status"] == "exited" && state()["RestartCount"] == 2
    });
    assert_eq!(state()["State"]["ExitCode"], 3);
    assert_eq!(state()["HostConfig"]["RestartPolicy"], json!({"Name": "on-failure", "MaximumRetryCount": 2}));
    assert_eq!(failing.logs(), "run\nrun\nrun\n");
    // A user's start begins to count anew.
    s.run(&["start", &failing.name]).ok();
    wait_until_within("it has failed again", LONG, || failing.logs() == "run\n".repeat(6));
    // Without a failure there is nothing to restart.
    let fine = s.background(&["--restart", "on-failure"], "busybox:latest", &["true"]);
    s.run(&["wait", &fine.name]).ok().prints("0\n");
    assert_eq!(s.inspect(&fine.name)["RestartCount"], 0);
}

fn what_a_user_stops_stays_stopped(s: &Session) {
    let always = s.background(
        &["--restart", "always"],
        "busybox:latest",
        &[
            "sh",
            "-c",
            "echo run; trap 'exit 0' TERM; while [ ! -e /end ]; do sleep 0.1; done; rm /end; exit 5",
        ],
    );
    always.wait_for_log("run");
    s.run(&["exec", &always.name, "touch", "/end"]).ok();
    wait_until_within("it runs again, with what it wrote", LONG, || {
        always.status() == "running" && always.logs() == "run\nrun\n"
    });
    s.run(&["stop", &always.name]).ok();
    let inspected = s.inspect(&always.name);
    assert_eq!((&inspected["State"]["Status"], &inspected["RestartCount"]), (&json!("exited"), &json!(1)));
    // Between two runs it counts as running, can be stopped, and cannot be entered.
    let failing = s.background(&["--restart", "always"], "busybox:latest", &["sh", "-c", "exit 4"]);
    let restarting = || {
        let state = s.inspect(&failing.name)["State"].clone();
        (state["Status"] == "restarting" && s.inspect(&failing.name)["RestartCount"].as_u64() > Some(3))
            .then_some(state)
    };
    let mut seen = None;
    wait_until_within("it waits for its restart", LONG, || {
        seen = restarting();
        seen.is_some()
    });
    let seen = seen.unwrap_or(Value::Null);
    assert_eq!(
        (&seen["Running"], &seen["Restarting"], &seen["Pid"]),
        (&json!(true), &json!(true), &json!(0))
    );
    let listed = s.run(&["ps", "--filter", "status=restarting", "--format", "{{.Names}}"]).ok().out();
    assert!(listed.contains(&failing.name) || s.inspect(&failing.name)["State"]["Status"] == "running");
    s.run(&["stop", &failing.name]).ok();
    assert_eq!(failing.status(), "exited");
    assert_eq!(s.inspect(&failing.name)["State"]["Running"], false);
    s.run(&["rm", &failing.name]).ok();
}

fn policies_that_make_no_sense_are_refused(s: &Session) {
    for (flags, word) in [
        (&["--restart", "sometimes"][..], "unknown policy 'sometimes'"),
        (&["--restart", "always:3"], "maximum retry count can only be used with 'on-failure'"),
        (&["--restart", "on-failure:x"], "maximum retry count must be an integer"),
        (&["--restart", "always", "--rm"], "cannot specify both --restart and --rm"),
    ] {
        let words = [&["run"][..], flags, &["busybox:latest", "true"]].concat();
        s.run(&words).exits(125).complains(&[word]);
    }
}

fn engine() -> Instance {
    Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() })
}

fn state(engine: &Instance, name: &str) -> Value {
    let out = engine.hyper(&["inspect", name]).run().ok().out();
    let values: Value = serde_json::from_str(&out).unwrap();
    values[0].clone()
}

/// Kills every process of the pods at once, the daemon's first.
fn kill_all(engine: &Instance) {
    engine.kill_daemon();
    for process in engine.pod_processes() {
        kill(process.pid, Signal::KILL);
    }
    wait_until("all is gone", || engine.pod_processes().is_empty());
}

fn a_container_whose_vm_was_killed_is_restarted() {
    let engine = engine();
    let hyper = |arguments: &[&str]| engine.hyper(arguments).run();
    let line = ["busybox:latest", "sh", "-c", "echo run; sleep 1000"];
    hyper(&[&["run", "-d", "--name", "lives", "--restart", "unless-stopped"][..], &line].concat()).ok();
    wait_until("it runs", || hyper(&["logs", "lives"]).out() == "run\n");
    for part in [Process::is_vmm_of_pod, Process::is_shim_of_pod] {
        let pids: Vec<i32> = engine
            .pod_processes()
            .iter()
            .filter(|process| part(process))
            .map(|process| process.pid)
            .collect();
        assert_eq!(pids.len(), 1, "{:?}", engine.pod_processes());
        let before = state(&engine, "lives")["RestartCount"].as_u64();
        pids.iter().for_each(|pid| kill(*pid, Signal::KILL));
        wait_until_within("it runs again", LONG, || {
            let state = state(&engine, "lives");
            state["RestartCount"].as_u64() > before && state["State"]["Status"] == "running"
        });
    }
    // The VMM of a shim that was killed is gone. One that makes a template may be there: the pod booted, because the
    // template of a clone that was killed early is thrown away.
    let vms = engine.pod_processes().into_iter().filter(Process::is_vmm_of_pod);
    assert_eq!(vms.count(), 1, "{:?}", engine.pod_processes());
    hyper(&["exec", "lives", "echo", "alive"]).ok().prints("alive\n");
    hyper(&["rm", "-f", "lives"]).ok();
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn what_ran_before_a_reboot_runs_after_it() {
    let engine = engine();
    let hyper = |arguments: &[&str]| engine.hyper(arguments).run();
    let line = ["busybox:latest", "sh", "-c", "echo run; sleep 1000"];
    let run = |name: &str, policy: &str| {
        hyper(&[&["run", "-d", "--name", name, "--restart", policy][..], &line].concat()).ok();
    };
    run("always", "always");
    run("stopped-always", "always");
    run("unless", "unless-stopped");
    run("stopped-unless", "unless-stopped");
    run("failed", "on-failure:3");
    run("never", "no");
    let joined = ["run", "-d", "--name", "joined", "--restart", "always", "--network", "container:always"];
    hyper(&[&joined[..], &line].concat()).ok();
    hyper(&["stop", "-t", "0", "stopped-always", "stopped-unless"]).ok();
    kill_all(&engine);
    engine.start_daemon();
    let expected = [
        ("always", "running"),
        ("stopped-always", "running"),
        ("unless", "running"),
        ("stopped-unless", "exited"),
        ("failed", "running"),
        ("never", "exited"),
        ("joined", "running"),
    ];
    wait_until_within("what should run runs", LONG, || {
        expected.iter().all(|(name, status)| state(&engine, name)["State"]["Status"] == *status)
    });
    assert_eq!(state(&engine, "never")["State"]["ExitCode"], 137);
    hyper(&["exec", "joined", "echo", "alive"]).ok().prints("alive\n");
    // Killed again before anything is up: the next daemon brings it up all the same.
    kill_all(&engine);
    engine.start_daemon();
    kill_all(&engine);
    engine.start_daemon();
    wait_until_within("what should run runs again", LONG, || {
        expected.iter().all(|(name, status)| state(&engine, name)["State"]["Status"] == *status)
    });
    // A policy that was met while the daemon was away.
    let ends = ["run", "-d", "--name", "ends", "--restart", "always", "busybox:latest"];
    hyper(&[&ends[..], &["sh", "-c", "echo run; sleep 4; exit 2"]].concat()).ok();
    wait_until("it runs", || hyper(&["logs", "ends"]).out().contains("run\n"));
    engine.kill_daemon();
    wait_until("the exit is on record", || {
        hyper_e2e::leftovers::files(&engine.run_directory()).iter().any(|file| file.contains("/exits/"))
    });
    engine.start_daemon();
    wait_until_within("it has been restarted", LONG, || {
        hyper(&["logs", "ends"]).out().matches("run").count() > 1
    });
    assert_eq!(engine.finish(), Vec::<String>::new());
}
