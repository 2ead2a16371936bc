//! Commands that outlive the daemon they speak to.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use hyper_e2e::command::{wait_until, wait_until_within};
use hyper_e2e::instance::kill;
use hyper_e2e::{Cli, Instance, Options, Running};
use rustix::process::Signal;

use crate::case_list;
use crate::session::Case;

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Own:
        a_run_in_the_foreground_outlives_the_daemon,
        no_byte_of_a_flood_is_lost_or_doubled_with_the_daemon,
        no_byte_of_the_input_is_lost_or_doubled_with_the_daemon,
        what_follows_a_container_outlives_the_daemon,
        a_terminal_outlives_the_daemon,
        a_container_that_ended_meanwhile_gives_its_last_words_and_its_code,
        a_daemon_killed_while_it_starts_the_container_is_started_again,
        an_exec_whose_daemon_was_killed_says_so,
        a_daemon_that_was_told_to_end_is_not_started_again,
        a_container_that_removes_itself_and_is_never_started_goes_with_the_daemon,
    ]
    .to_vec()
}

const LOST: &str = "the connection to the daemon is lost; connecting again";

fn engine() -> Instance {
    Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() })
}

/// A shell line that writes numbered lines, one every twentieth of a second, and ends with status 7.
fn count(lines: usize) -> String {
    format!("n=0; while [ $n -lt {lines} ]; do n=$((n + 1)); echo line $n; sleep 0.05; done; exit 7")
}

fn lines(count: usize) -> String {
    (1..=count).map(|n| format!("line {n}\n")).collect()
}

/// Kills the daemon and waits until the command has it back.
fn kill_under(engine: &Instance, command: &Running) {
    let before = command.so_far().len();
    engine.kill_daemon();
    wait_until("the command has output again", || command.so_far().len() > before + 20);
}

fn finish(engine: Instance) {
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn a_run_in_the_foreground_outlives_the_daemon() {
    let engine = engine();
    let mut run = engine.hyper(&["run", "--rm", "busybox:latest", "sh", "-c", &count(200)]).spawn();
    run.wait_for("line 3\n");
    for _ in 0..3 {
        kill_under(&engine, &run);
    }
    let output = run.wait().exits(7).prints(&lines(200));
    assert_eq!(output.err().matches(LOST).count(), 1, "{output}");
    finish(engine);
}

fn no_byte_of_a_flood_is_lost_or_doubled_with_the_daemon() {
    let engine = engine();
    let script = "seq 1 400000 & seq 1 1000 >&2; wait; exit 3";
    let mut run = engine
        .hyper(&["run", "--rm", "busybox:latest", "sh", "-c", script])
        .timeout(Duration::from_secs(300))
        .spawn();
    for part in ["\n1000\n", "\n100000\n", "\n200000\n", "\n300000\n"] {
        run.wait_for(part);
        engine.kill_daemon();
    }
    let output = run.wait().exits(3);
    let expected: String = (1..=400_000).map(|n| format!("{n}\n")).collect();
    assert!(output.out() == expected, "{} bytes instead of {}", output.stdout.len(), expected.len());
    let errors = output.err().replace(&format!("hyper: {LOST}\n"), "");
    assert_eq!(errors, (1..=1000).map(|n| format!("{n}\n")).collect::<String>());
    finish(engine);
}

fn no_byte_of_the_input_is_lost_or_doubled_with_the_daemon() {
    let engine = engine();
    let bytes: Vec<u8> = (0..8_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut run = engine
        .hyper(&["run", "-i", "--rm", "busybox:latest", "sh", "-c", "echo ready; exec sha256sum"])
        .timeout(Duration::from_secs(300))
        .spawn();
    run.wait_for("ready\n");
    for (index, part) in bytes.chunks(1_000_000).enumerate() {
        run.send(part);
        if index % 2 == 1 {
            engine.kill_daemon();
        }
    }
    run.close_stdin();
    let output = run.wait().exits(0);
    let mut sum = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    sum.stdin.take().unwrap().write_all(&bytes).unwrap();
    let expected = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(output.out(), format!("ready\n{expected}"), "{output}");
    finish(engine);
}

fn what_follows_a_container_outlives_the_daemon() {
    let engine = engine();
    let hyper = |arguments: &[&str]| engine.hyper(arguments);
    let create = ["create", "-i", "--name", "counts", "busybox:latest", "sh", "-c"];
    hyper(&[&create[..], &[&format!("read go; {}", count(150))]].concat()).run().ok();
    let mut started = hyper(&["start", "-ai", "counts"]).spawn();
    wait_until("it runs", || hyper(&["inspect", "counts"]).run().out().contains("\"running\""));
    let mut attached = hyper(&["attach", "--no-stdin", "counts"]).spawn();
    let mut following = hyper(&["logs", "-f", "counts"]).spawn();
    let mut stamped = hyper(&["logs", "-f", "-t", "--tail", "5", "counts"]).spawn();
    let mut waiting = hyper(&["wait", "counts"]).spawn();
    // The attach is there when it gets a byte; nothing else shows it.
    std::thread::sleep(Duration::from_secs(1));
    started.send(b"go\n");
    for command in [&started, &attached, &following, &stamped] {
        command.wait_for("line 3\n");
    }
    kill_under(&engine, &following);
    kill_under(&engine, &started);
    started.wait().exits(7).prints(&lines(150));
    attached.wait().exits(7).prints(&lines(150));
    following.wait().ok().prints(&lines(150));
    let stamped = stamped.wait().ok();
    let texts: Vec<_> =
        stamped.out().lines().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect();
    assert_eq!(texts.join("\n") + "\n", lines(150), "{stamped}");
    waiting.wait().ok().prints("7\n");
    hyper(&["rm", "counts"]).run().ok();
    finish(engine);
}

fn a_terminal_outlives_the_daemon() {
    let engine = engine();
    let mut shell = engine.terminal(Cli::Hyper, &["run", "-it", "--rm", "busybox:latest", "sh"]);
    shell.expect("#");
    for round in 1..3 {
        engine.kill_daemon();
        if round == 1 {
            shell.expect(LOST);
        }
        shell.send(format!("echo round $((10 + {round}))\n").as_bytes());
        shell.expect(&format!("round 1{round}\r\n"));
    }
    shell.resize(100, 30);
    shell.send(b"stty size\n");
    shell.expect("30 100");
    shell.send(b"exit 5\n");
    assert_eq!(shell.wait(), 5);
    finish(engine);
}

fn a_container_that_ended_meanwhile_gives_its_last_words_and_its_code() {
    let engine = engine();
    for rm in [true, false] {
        let flags: &[&str] = if rm { &["run", "--rm"] } else { &["run", "--name", "kept"] };
        let script = "echo begins; sleep 2; seq 1 5000; echo ends; exit 9";
        let mut run = engine.hyper(&[flags, &["busybox:latest", "sh", "-c", script]].concat()).spawn();
        run.wait_for("begins\n");
        // The command cannot start the daemon again before the container has ended.
        let pid = i32::try_from(run.pid()).unwrap();
        kill(pid, Signal::STOP);
        engine.kill_daemon();
        wait_until("the exit is on record", || {
            hyper_e2e::leftovers::files(&engine.run_directory()).iter().any(|file| file.contains("/exits/"))
        });
        if rm {
            // Somebody else starts it: the container stays for the one who is attached.
            engine.start_daemon();
        }
        kill(pid, Signal::CONT);
        let expected: String = (1..=5000).map(|n| format!("{n}\n")).collect();
        run.wait().exits(9).prints(&format!("begins\n{expected}ends\n"));
    }
    engine.hyper(&["rm", "kept"]).run().ok();
    finish(engine);
}

fn a_daemon_killed_while_it_starts_the_container_is_started_again() {
    let engine = engine();
    engine.start_daemon();
    let mut survived = 0;
    for pause in [30, 60, 100, 150, 250, 400, 700, 1000] {
        let script = "echo out; sleep 0.2; exit 6";
        let mut run = engine.hyper(&["run", "--rm", "busybox:latest", "sh", "-c", script]).spawn();
        std::thread::sleep(Duration::from_millis(pause));
        engine.kill_daemon();
        let output = run.wait();
        // Before the container is made there is nothing to go on with.
        if output.code == 6 {
            assert_eq!(output.out(), "out\n", "{output}");
            survived += 1;
        } else {
            assert_eq!((output.code, output.out().as_str()), (125, ""), "{output}");
        }
        engine.start_daemon();
    }
    assert!(survived >= 5, "only {survived} of 8 were run to their end");
    let ids = engine.hyper(&["ps", "-aq"]).run().ok().out();
    for id in ids.split_whitespace() {
        engine.hyper(&["rm", "-f", id]).run().ok();
    }
    finish(engine);
}

fn an_exec_whose_daemon_was_killed_says_so() {
    let engine = engine();
    engine.hyper(&["run", "-d", "--name", "stays", "busybox:latest", "sleep", "1000"]).run().ok();
    let mut exec = engine.hyper(&["exec", "stays", "sh", "-c", "echo in exec; sleep 1000"]).spawn();
    exec.wait_for("in exec");
    engine.kill_daemon();
    exec.wait().exits(125).complains(&["its exit code cannot be known"]);
    engine.hyper(&["exec", "stays", "echo", "alive"]).run().ok().prints("alive\n");
    engine.hyper(&["rm", "-f", "stays"]).run().ok();
    finish(engine);
}

fn a_daemon_that_was_told_to_end_is_not_started_again() {
    let engine = engine();
    let mut run =
        engine.hyper(&["run", "--name", "goes-on", "busybox:latest", "sh", "-c", &count(1000)]).spawn();
    run.wait_for("line 3\n");
    kill(engine.daemon_pid().expect("hyperd runs"), Signal::TERM);
    run.wait_within(Duration::from_secs(60)).exits(125).complains(&["cannot connect to the daemon"]);
    assert_eq!(engine.daemon_pid(), None);
    let status = engine.hyper(&["inspect", "goes-on"]).run().out();
    assert!(status.contains("\"running\""), "{status}");
    engine.hyper(&["rm", "-f", "goes-on"]).run().ok();
    finish(engine);
}

fn a_container_that_removes_itself_and_is_never_started_goes_with_the_daemon() {
    let engine = engine();
    for name in ["never", "later"] {
        engine.hyper(&["create", "--rm", "--name", name, "busybox:latest", "sleep", "1000"]).run().ok();
    }
    engine.hyper(&["create", "--name", "kept", "busybox:latest", "sleep", "1000"]).run().ok();
    engine.kill_daemon();
    // Who made it may come back a little later.
    engine.hyper(&["start", "later"]).run().ok();
    let there = || engine.hyper(&["ps", "-a", "--format", "{{.Names}}"]).run().ok().out();
    wait_until_within("it is gone", Duration::from_secs(90), || !there().contains("never"));
    let names = there();
    assert!(names.contains("later") && names.contains("kept"), "{names}");
    engine.hyper(&["exec", "later", "true"]).run().ok();
    engine.hyper(&["rm", "-f", "later", "kept"]).run().ok();
    finish(engine);
}
