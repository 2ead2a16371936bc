//! Log drivers.

use std::time::Duration;

use hyper_e2e::command::{wait_until, wait_until_within};
use hyper_e2e::{Instance, Options};
use serde_json::json;

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both:
        a_local_log_is_read_like_any_other,
        a_rotated_log_is_read_in_order,
        labels_and_variables_are_details_of_a_log,
        drivers_and_options_that_make_no_sense_are_refused,
    ]
    .to_vec();
    cases.extend(case_list![Own:
        lines_go_to_syslog_and_can_be_read_here,
        lines_go_to_the_journal_with_their_container,
    ]);
    cases
}

const LINES: &str = "echo first; echo error >&2; printf 'tab\\there\\n'; printf unfinished";

fn a_local_log_is_read_like_any_other(s: &Session) {
    let local = s.background(&["--log-driver", "local"], "busybox:latest", &["sh", "-c", LINES]);
    s.run(&["wait", &local.name]).ok();
    let logs = s.run(&["logs", &local.name]).ok();
    assert_eq!((logs.out().as_str(), logs.err().as_str()), ("first\ntab\there\nunfinished", "error\n"));
    assert_eq!(s.run(&["logs", "--tail", "1", &local.name]).ok().out(), "unfinished");
    let stamped = s.run(&["logs", "-t", &local.name]).ok().out();
    assert!(stamped.starts_with("20") && stamped.contains("Z first\n"), "{stamped}");
    assert_eq!(s.run(&["logs", "--since", "1h", &local.name]).ok().out().lines().count(), 3);
    s.run(&["logs", "--until", "2020-01-01", &local.name]).ok().prints("");
    assert_eq!(s.inspect(&local.name)["HostConfig"]["LogConfig"], json!({"Type": "local", "Config": {}}));
    assert_eq!(s.inspect(&local.name)["LogPath"], "");
    let follow = "for n in 1 2 3; do echo line $n; sleep 0.2; done";
    let followed = s.background(&["--log-driver", "local"], "busybox:latest", &["sh", "-c", follow]);
    s.run(&["logs", "-f", &followed.name]).ok().prints("line 1\nline 2\nline 3\n");
}

fn a_rotated_log_is_read_in_order(s: &Session) {
    for driver in ["local", "json-file"] {
        let flags = ["--log-driver", driver, "--log-opt", "max-size=10k", "--log-opt", "max-file=3"];
        let rotated = s.background(&flags, "busybox:latest", &["seq", "1", "3000"]);
        s.run(&["wait", &rotated.name]).ok();
        let logs = s.run(&["logs", &rotated.name]).ok().out();
        let numbers: Vec<u32> = logs.lines().map(|line| line.parse().unwrap()).collect();
        let first = numbers[0];
        // The oldest went, the rest is whole.
        assert!(first > 1 && first < 3000, "{driver}: {first}");
        assert!(numbers.iter().copied().eq(first..=3000), "{driver}");
        s.run(&["logs", "--tail", "150", &rotated.name]).ok().prints(&numbers_from(2851));
    }
}

fn numbers_from(first: u32) -> String {
    (first..=3000).map(|number| format!("{number}\n")).collect()
}

fn labels_and_variables_are_details_of_a_log(s: &Session) {
    let flags = [
        "--label",
        "com.x=a b",
        "-e",
        "V=1",
        "--log-opt",
        "labels=com.x",
        "--log-opt",
        "env=V",
        "--log-opt",
        "tag={{.ImageName}}",
    ];
    let detailed = s.background(&flags, "busybox:latest", &["echo", "hello"]);
    s.run(&["wait", &detailed.name]).ok();
    let logs = s.run(&["logs", "--details", &detailed.name]).ok().out();
    for part in ["com.x=a+b", "V=1", "tag=busybox%3Alatest", " hello\n"] {
        assert!(logs.contains(part), "{part} is not in {logs}");
    }
    s.run(&["logs", &detailed.name]).ok().prints("hello\n");
}

fn drivers_and_options_that_make_no_sense_are_refused(s: &Session) {
    for (flags, word) in [
        (&["--log-driver", "nosuch"][..], "no log driver named 'nosuch'"),
        (&["--log-driver", "gelf"], "gelf is not supported"),
        (&["--log-opt", "nosuch=1"], "unknown log opt 'nosuch' for json-file log driver"),
        (&["--log-driver", "syslog", "--log-opt", "syslog-facility=x"], "invalid syslog facility"),
        (&["--log-driver", "none", "--log-opt", "max-size=1k"], "invalid logging opts for driver none"),
    ] {
        s.run(&[&["run", "--rm"][..], flags, &["busybox:latest", "true"]].concat())
            .exits(125)
            .complains(&[word]);
    }
    // What is missing on the host is said at the start.
    let missing = ["--log-driver", "syslog", "--log-opt", "syslog-address=unix:///nosuch/log"];
    let refused = s.run(&[&["run", "--rm"][..], &missing, &["busybox:latest", "true"]].concat());
    refused.exits(125).complains(&["failed to initialize logging driver", "/nosuch/log"]);
}

fn engine(prepare: &str) -> Instance {
    Instance::start(Options {
        images: vec!["busybox:latest"],
        prepare: Some(prepare.to_owned()),
        ..Options::default()
    })
}

/// Takes datagrams of a unix socket into a file, for ever.
fn collector(engine: &Instance, socket: &str, file: &str) -> hyper_e2e::Running {
    let program = format!(
        "import os, socket\n\
         s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
         s.bind('{socket}')\n\
         while True:\n    \
             with open('{file}', 'ab') as f: f.write(s.recv(65536) + b'\\n')\n"
    );
    let script = engine.directory().join("collect.py");
    std::fs::write(&script, program).unwrap();
    let running =
        engine.sh(&format!("exec python3 {}", script.display())).timeout(Duration::from_secs(600)).spawn();
    wait_until("it listens", || engine.sh(&format!("test -S {socket}")).run().code == 0);
    running
}

fn lines_go_to_syslog_and_can_be_read_here() {
    let engine = engine("true");
    let file = engine.directory().join("collected");
    let socket = engine.directory().join("syslog.sock");
    let collector = collector(&engine, &socket.display().to_string(), &file.display().to_string());
    let address = format!("syslog-address=unixgram://{}", socket.display());
    let flags = ["--log-driver", "syslog", "--log-opt", &address, "--log-opt", "tag=app/{{.Name}}"];
    let script = "echo one; echo two >&2; sleep 3; echo three";
    let run =
        [&["run", "-d", "--name", "logs"][..], &flags, &["busybox:latest", "sh", "-c", script]].concat();
    engine.hyper(&run).run().ok();
    // The shim writes it: the daemon may go.
    engine.kill_daemon();
    let collected = || std::fs::read_to_string(&file).unwrap_or_default();
    wait_until_within("all lines are there", Duration::from_secs(60), || collected().contains("]: three\n"));
    let text = collected();
    assert!(text.lines().any(|line| line.starts_with("<30>") && line.contains(" app/logs[")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("<27>") && line.ends_with("]: two")), "{text}");
    engine.start_daemon();
    engine.hyper(&["logs", "logs"]).run().ok().prints("one\nthree\n");
    engine.hyper(&["rm", "-f", "logs"]).run().ok();
    drop(collector);
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn lines_go_to_the_journal_with_their_container() {
    // The engine's own mount namespace, so that the host's journal is not involved.
    let engine =
        engine("mkdir -p /run/systemd && mount -t tmpfs none /run/systemd && mkdir /run/systemd/journal");
    let file = engine.directory().join("collected");
    let flags = ["--log-driver", "journald", "--label", "com.x=y", "--log-opt", "labels=com.x"];
    let line = ["busybox:latest", "sh", "-c", "echo one; echo two >&2"];
    let refused = engine.hyper(&[&["run", "--rm"][..], &flags, &line].concat()).run().exits(125);
    refused.complains(&["journald is not enabled on this host"]);
    let collector = collector(&engine, "/run/systemd/journal/socket", &file.display().to_string());
    engine.hyper(&[&["run", "--name", "logs"][..], &flags, &line].concat()).run().ok();
    let collected = || std::fs::read_to_string(&file).unwrap_or_default();
    wait_until("both lines are there", || collected().contains("MESSAGE=two\n"));
    for part in ["CONTAINER_NAME=logs\n", "COM_X=y\n", "PRIORITY=6\n", "PRIORITY=3\n", "MESSAGE=one\n"] {
        assert!(collected().contains(part), "{part} is not in {}", collected());
    }
    engine.hyper(&["rm", "-f", "logs"]).run().ok();
    drop(collector);
    engine.settles();
    engine.sh("umount /run/systemd").run().ok();
    assert_eq!(engine.finish(), Vec::<String>::new());
}
