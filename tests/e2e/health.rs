//! Health checks.

use std::time::Duration;

use hyper_e2e::command::{wait_until, wait_until_within};
use hyper_e2e::{Instance, Options};
use serde_json::{Value, json};

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both:
        health_follows_what_the_probe_says,
        a_probe_that_takes_too_long_has_failed,
        health_options_that_make_no_sense_are_refused,
    ]
    .to_vec();
    cases.extend(case_list![Own: health_outlives_the_daemon]);
    cases
}

const LONG: Duration = Duration::from_secs(120);

fn health_follows_what_the_probe_says(s: &Session) {
    let flags =
        ["--health-cmd", "echo seen; test -e /ok", "--health-interval", "300ms", "--health-retries", "2"];
    let checked = s.background(&flags, "busybox:latest", &["sleep", "1000"]);
    let plain = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    let health = || s.inspect(&checked.name)["State"]["Health"].clone();
    let listed =
        |filter: &str| s.run(&["ps", "--filter", filter, "--format", "{{.Names}} {{.Status}}"]).ok().out();
    wait_until_within("it is unhealthy", LONG, || health()["Status"] == "unhealthy");
    assert!(health()["FailingStreak"].as_u64() >= Some(2), "{}", health());
    assert!(listed("health=unhealthy").contains(&format!("{} Up ", checked.name)));
    assert!(listed("health=unhealthy").contains("(unhealthy)"));
    assert!(listed("health=none").contains(&plain.name) && !listed("health=none").contains(&checked.name));
    s.run(&["exec", &checked.name, "touch", "/ok"]).ok();
    wait_until_within("it is healthy", LONG, || health()["Status"] == "healthy");
    assert_eq!(health()["FailingStreak"], 0);
    wait_until_within("five results are kept", LONG, || health()["Log"].as_array().map(Vec::len) == Some(5));
    let last = health()["Log"][4].clone();
    assert_eq!((&last["ExitCode"], &last["Output"]), (&json!(0), &json!("seen\n")));
    assert!(listed(&format!("name={}", checked.name)).contains("(healthy)"));
    // Told when it is so, which may be a moment later.
    let container = format!("container={}", checked.name);
    let filters = ["--filter", &container, "--filter", "event=health_status", "--format", "{{.Action}}"];
    wait_until_within("both changes are events", LONG, || {
        let events = s.run(&[&["events", "--since", "10m", "--until", "0s"], &filters[..]].concat()).ok();
        events.out() == "health_status: unhealthy\nhealth_status: healthy\n"
    });
    // Nobody asks while it is frozen.
    s.run(&["pause", &checked.name]).ok();
    assert_eq!(health()["Status"], "unhealthy");
    s.run(&["unpause", &checked.name]).ok();
    wait_until_within("it is healthy again", LONG, || health()["Status"] == "healthy");
    assert_eq!(s.inspect(&plain.name)["State"]["Health"], Value::Null);
    let check = s.inspect(&checked.name)["Config"]["Healthcheck"].clone();
    assert_eq!(
        check,
        json!({"Test": ["CMD-SHELL", "echo seen; test -e /ok"], "Interval": 300_000_000, "Retries": 2})
    );
}

fn a_probe_that_takes_too_long_has_failed(s: &Session) {
    let flags = [
        "--health-cmd",
        "echo begun; sleep 1000",
        "--health-interval",
        "200ms",
        "--health-timeout",
        "1s",
        "--health-retries",
        "1",
    ];
    let slow = s.background(&flags, "busybox:latest", &["sleep", "1000"]);
    let health = || s.inspect(&slow.name)["State"]["Health"].clone();
    wait_until_within("it is unhealthy", LONG, || health()["Status"] == "unhealthy");
    assert_eq!(health()["Log"][0]["ExitCode"], -1);
    assert_eq!(health()["Log"][0]["Output"], "Health check exceeded timeout (1s): begun\n");
    // The probes that took too long are gone from the container.
    let probes = || s.run(&["exec", &slow.name, "ps"]).out().matches("echo begun").count();
    wait_until("probes do not pile up", || probes() <= 1);
}

fn health_options_that_make_no_sense_are_refused(s: &Session) {
    for (flags, word) in [
        (&["--health-retries", "-1"][..], "--health-retries cannot be negative"),
        (
            &["--health-cmd", "x", "--health-interval", "1us"],
            "Interval in Healthcheck cannot be less than 1ms",
        ),
        (&["--health-cmd", "x", "--no-healthcheck"], "--no-healthcheck conflicts with --health-* options"),
    ] {
        s.run(&[&["run"][..], flags, &["busybox:latest", "true"]].concat()).exits(125).complains(&[word]);
    }
    let none = s.background(&["--no-healthcheck"], "busybox:latest", &["sleep", "1000"]);
    let inspected = s.inspect(&none.name);
    assert_eq!(inspected["Config"]["Healthcheck"], json!({"Test": ["NONE"]}));
    assert_eq!(inspected["State"]["Health"], Value::Null);
}

fn health_outlives_the_daemon() {
    let engine = Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() });
    let hyper = |arguments: &[&str]| engine.hyper(arguments).run();
    let flags = ["--health-cmd", "test -e /ok", "--health-interval", "500ms", "--health-retries", "1"];
    let line = ["busybox:latest", "sh", "-c", "touch /ok; sleep 1000"];
    hyper(&[&["run", "-d", "--name", "checked"][..], &flags, &line].concat()).ok();
    let health = || {
        let out = hyper(&["inspect", "--format", "{{json .State.Health}}", "checked"]).ok().out();
        serde_json::from_str::<Value>(&out).unwrap()
    };
    wait_until_within("it is healthy", LONG, || health()["Status"] == "healthy");
    engine.kill_daemon();
    engine.start_daemon();
    assert_eq!(health()["Status"], "healthy");
    let before = health()["Log"].as_array().and_then(|log| log.last().cloned());
    wait_until_within("it is probed again", LONG, || {
        health()["Log"].as_array().and_then(|log| log.last().cloned()) != before
    });
    hyper(&["exec", "checked", "rm", "/ok"]).ok();
    wait_until_within("it is unhealthy", LONG, || health()["Status"] == "unhealthy");
    hyper(&["rm", "-f", "checked"]).ok();
    assert_eq!(engine.finish(), Vec::<String>::new());
}
