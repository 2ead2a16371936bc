//! A container's life: detached, listed, logged, executed in, stopped,
//! started again, removed.

use hyper_e2e::command::wait_until;
use serde_json::json;

use crate::case_list;
use crate::session::{Case, Session};

/// A program that says each signal it gets and ends on `TERM` with status 3.
const HANDLER: &str =
    "trap 'echo usr1' USR1; trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.1; done";

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Both:
        a_detached_container_runs_until_it_is_stopped_and_starts_again,
        stop_asks_first_and_kills_after_the_time_is_over,
        kill_sends_the_signal,
        wait_prints_the_exit_status,
        logs_shows_the_past_and_follows_the_present,
        attach_shows_output_and_passes_input,
        exec_runs_another_program,
        exec_fails_as_docker_does,
        created_containers_start_with_their_output,
        start_with_input_passes_it,
        ps_lists_and_filters,
        inspect_shows_the_container,
        running_containers_are_removed_by_force_only,
        a_name_can_be_taken_once,
        rename_restart_pause_and_top,
        stats_shows_numbers,
        events_tell_what_happened,
        signals_to_the_command_line_reach_the_program,
        prune_removes_what_has_ended,
    ]
    .to_vec()
}

fn a_detached_container_runs_until_it_is_stopped_and_starts_again(s: &Session) {
    let web = s.background(
        &["-e", "A=1", "-w", "/srv", "-u", "www-data", "--cpus", "2", "-m", "512m", "--hostname", "web"],
        "busybox:latest",
        &[
            "sh",
            "-c",
            "trap 'exit 0' TERM; echo started $A $PWD $(id -un) $(hostname); while :; do sleep 0.1; done",
        ],
    );
    web.wait_for_log("started 1 /srv www-data web");
    assert_eq!(web.status(), "running");
    s.run(&["exec", &web.name, "pwd"]).ok().prints("/srv\n");
    s.run(&["stop", &web.name]).ok().prints(&format!("{}\n", web.name));
    assert_eq!(web.status(), "exited");
    s.run(&["exec", &web.name, "true"]).exits(1).complains(&["not running"]);
    s.run(&["start", &web.name]).ok().prints(&format!("{}\n", web.name));
    wait_until("it started a second time", || web.logs().matches("started").count() == 2);
    s.run(&["rm", "-f", &web.name]).ok().prints(&format!("{}\n", web.name));
    s.run(&["inspect", &web.name]).exits(1);
}

fn stop_asks_first_and_kills_after_the_time_is_over(s: &Session) {
    let polite = s.background(&[], "busybox:latest", &["sh", "-c", HANDLER]);
    polite.wait_for_log("ready");
    s.run(&["stop", &polite.name]).ok();
    assert_eq!(s.inspect(&polite.name)["State"]["ExitCode"], 3);
    assert!(polite.logs().ends_with("term\n"));
    let stubborn = s.background(
        &[],
        "busybox:latest",
        &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"],
    );
    stubborn.wait_for_log("ready");
    s.run(&["stop", "-t", "1", &stubborn.name]).ok();
    assert_eq!(s.inspect(&stubborn.name)["State"]["ExitCode"], 137);
    // Stopping what has stopped is no error.
    s.run(&["stop", &stubborn.name]).ok();
}

fn kill_sends_the_signal(s: &Session) {
    let container = s.background(&[], "busybox:latest", &["sh", "-c", HANDLER]);
    container.wait_for_log("ready");
    s.run(&["kill", "-s", "USR1", &container.name]).ok();
    container.wait_for_log("usr1");
    assert_eq!(container.status(), "running");
    s.run(&["kill", "-s", "NOSUCH", &container.name]).exits(1).complains(&["invalid signal"]);
    s.run(&["kill", &container.name]).ok();
    s.run(&["wait", &container.name]).ok().prints("137\n");
    s.run(&["kill", &container.name]).exits(1).complains(&["not running"]);
}

fn wait_prints_the_exit_status(s: &Session) {
    let container = s.background(&[], "busybox:latest", &["sh", "-c", "sleep 1; exit 9"]);
    s.run(&["wait", &container.name]).ok().prints("9\n");
    s.run(&["wait", &container.name]).ok().prints("9\n");
    s.run(&["wait", "nobody-has-this-name"]).exits(1).complains(&["no such container"]);
}

fn logs_shows_the_past_and_follows_the_present(s: &Session) {
    let script = "for n in 1 2 3 4 5; do echo line $n; sleep 0.3; done; echo error >&2; exit 4";
    let container = s.background(&[], "busybox:latest", &["sh", "-c", script]);
    let followed = s.run(&["logs", "-f", &container.name]).ok();
    assert_eq!(followed.out(), "line 1\nline 2\nline 3\nline 4\nline 5\n");
    assert_eq!(followed.err(), "error\n");
    let tail = s.run(&["logs", "--tail", "2", &container.name]).ok();
    assert_eq!((tail.out().as_str(), tail.err().as_str()), ("line 5\n", "error\n"));
    let stamped = s.run(&["logs", "-t", &container.name]).ok().out();
    assert!(stamped.lines().all(|line| line.starts_with("20") && line.contains("Z line ")), "{stamped}");
    let since = s.run(&["logs", "--since", "1h", &container.name]).ok().out();
    assert_eq!(since.lines().count(), 5);
    s.run(&["logs", "--until", "2020-01-01", &container.name]).ok().prints("");
    s.run(&["logs", "nobody-has-this-name"]).exits(1).complains(&["no such container"]);
}

fn attach_shows_output_and_passes_input(s: &Session) {
    let script = "echo ready; read line; echo got $line; exit 6";
    let container = s.background(&["-i"], "busybox:latest", &["sh", "-c", script]);
    container.wait_for_log("ready");
    let mut attached = s.cmd(&["attach", &container.name]).spawn();
    attached.send(b"hello\n");
    attached.wait_for("got hello");
    attached.wait().exits(6);
    s.run(&["attach", &container.name]).exits(1).complains(&["stopped container", "not running"]);
}

fn exec_runs_another_program(s: &Session) {
    let container = s.background(&["-e", "A=1"], "busybox:latest", &["sleep", "1000"]);
    let exec =
        |flags: &[&str], command: &[&str]| s.run(&[&["exec"], flags, &[&container.name], command].concat());
    exec(&[], &["sh", "-c", "echo $A; exit 5"]).exits(5).prints("1\n");
    exec(&["-e", "B=2", "-w", "/srv", "-u", "app"], &["sh", "-c", "echo $A $B $PWD $(id -un)"])
        .ok()
        .prints("1 2 /srv app\n");
    let piped = s.cmd(&["exec", "-i", &container.name, "tr", "a-z", "A-Z"]).stdin("hi\n").run();
    piped.ok().prints("HI\n");
    exec(&["-d"], &["sh", "-c", "echo made >/tmp/by-exec"]).ok();
    wait_until("the detached program wrote", || exec(&[], &["cat", "/tmp/by-exec"]).out() == "made\n");
    let both = exec(&[], &["sh", "-c", "echo out; echo err >&2"]).ok();
    assert_eq!((both.out().as_str(), both.err().as_str()), ("out\n", "err\n"));
    // The container's own program and the others see each other.
    assert!(exec(&[], &["ps"]).ok().out().contains("sleep 1000"));
}

fn exec_fails_as_docker_does(s: &Session) {
    let container = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    let missing = s.run(&["exec", &container.name, "nosuch"]).exits(126);
    assert!((missing.out() + &missing.err()).contains("not found"), "{missing}");
    let refused = s.run(&["exec", &container.name, "/etc/passwd"]).exits(126);
    assert!((refused.out() + &refused.err()).contains("permission denied"), "{refused}");
    s.run(&["exec", "nobody-has-this-name", "true"]).exits(1).complains(&["no such container"]);
    s.run(&["exec", &container.name, "sh", "-c", "kill -9 $$"]).exits(137);
    assert_eq!(container.status(), "running");
}

fn created_containers_start_with_their_output(s: &Session) {
    let name = s.name("created");
    s.run(&["create", "--name", &name, "busybox:latest", "sh", "-c", "echo out; echo err >&2; exit 8"]).ok();
    assert_eq!(s.inspect(&name)["State"]["Status"], "created");
    for _ in 0..2 {
        let started = s.run(&["start", "-a", &name]).exits(8);
        assert_eq!((started.out().as_str(), started.err().as_str()), ("out\n", "err\n"));
    }
    s.run(&["rm", &name]).ok();
}

fn start_with_input_passes_it(s: &Session) {
    let name = s.name("reader");
    s.run(&["create", "-i", "--name", &name, "busybox:latest", "tr", "a-z", "A-Z"]).ok();
    s.cmd(&["start", "-ai", &name]).stdin("hello\n").run().ok().prints("HELLO\n");
    s.run(&["rm", &name]).ok();
}

fn ps_lists_and_filters(s: &Session) {
    let mark = s.name("mark");
    let label = format!("mark={mark}");
    let up = s.background(&["--label", &label], "busybox:latest", &["sleep", "1000"]);
    let down = s.background(&["--label", &label], "busybox:latest", &["sh", "-c", "exit 3"]);
    s.run(&["wait", &down.name]).ok();
    let ps = |arguments: &[&str]| {
        let filter = format!("label={label}");
        let listed = s.run(&[&["ps", "--filter", &filter, "--no-trunc"], arguments].concat()).ok().out();
        let names = [&up.name, &down.name].into_iter().filter(|name| listed.contains(name.as_str()));
        names.map(|name| if *name == up.name { "up" } else { "down" }).collect::<Vec<_>>()
    };
    assert_eq!(ps(&[]), ["up"]);
    assert_eq!(ps(&["-a"]), ["up", "down"]);
    assert_eq!(ps(&["-a", "--filter", "status=exited"]), ["down"]);
    assert_eq!(ps(&["-a", "--filter", "exited=3"]), ["down"]);
    assert_eq!(ps(&["-a", "--filter", &format!("name={}", up.name)]), ["up"]);
    assert_eq!(ps(&["-a", "--filter", "ancestor=debian:12"]), Vec::<&str>::new());
    let ids = s.run(&["ps", "-aq", "--filter", &format!("label={label}")]).ok().out();
    assert!(ids.lines().count() == 2 && ids.lines().all(|id| id.len() == 12), "{ids}");
    let all = s.run(&["ps", "-a"]).ok().out();
    let header: Vec<&str> = all.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(header, ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]);
    let line = all.lines().find(|line| line.contains(&down.name)).expect("it is listed");
    assert!(
        line.contains("Exited (3)") && line.contains("busybox:latest") && line.contains("\"sh -c 'exit 3'\""),
        "{line}"
    );
    s.run(&["ps", "--filter", "nonsense=1"]).exits(1).complains(&["invalid filter"]);
}

fn inspect_shows_the_container(s: &Session) {
    let container =
        s.background(&["-m", "256m", "--cpus", "1.5", "-e", "A=1"], "busybox:latest", &["sleep", "1000"]);
    let inspected = s.inspect(&container.name);
    assert_eq!(inspected["Name"], format!("/{}", container.name));
    assert_eq!((&inspected["State"]["Running"], &inspected["State"]["ExitCode"]), (&json!(true), &json!(0)));
    assert_eq!(inspected["Config"]["Cmd"], json!(["sleep", "1000"]));
    assert_eq!(inspected["HostConfig"]["Memory"], 256 << 20);
    assert_eq!(inspected["HostConfig"]["NanoCpus"], 1_500_000_000);
    assert!(inspected["Config"]["Env"].as_array().unwrap().contains(&json!("A=1")));
    assert!(
        inspected["NetworkSettings"]["IPAddress"].as_str().is_some_and(|address| address.starts_with("172."))
    );
    let id = inspected["Id"].as_str().unwrap();
    // A unique start of the id is a name as well.
    assert_eq!(s.inspect(&id[..12])["Id"], id);
}

fn running_containers_are_removed_by_force_only(s: &Session) {
    let container = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    s.run(&["rm", &container.name]).exits(1).complains(&["running"]);
    assert_eq!(container.status(), "running");
    s.run(&["rm", "-f", &container.name]).ok();
    s.run(&["rm", &container.name]).exits(1).complains(&["no such container"]);
}

fn a_name_can_be_taken_once(s: &Session) {
    let container = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    let again = s.run(&["run", "--rm", "--name", &container.name, "busybox:latest", "true"]);
    again.exits(125).complains(&["already in use"]);
    assert_eq!(container.status(), "running");
}

fn rename_restart_pause_and_top(s: &Session) {
    let container = s.background(&[], "busybox:latest", &["sh", "-c", "echo up; sleep 1000"]);
    container.wait_for_log("up");
    let other = s.name("renamed");
    s.run(&["rename", &container.name, &other]).ok();
    s.run(&["pause", &other]).ok();
    assert_eq!(s.inspect(&other)["State"]["Status"], "paused");
    s.run(&["unpause", &other]).ok();
    assert!(s.run(&["top", &other]).ok().out().contains("sleep 1000"));
    let chosen = s.run(&["top", &other, "-o", "pid,comm"]).ok().out();
    assert!(chosen.starts_with("PID                 COMMAND\n") && chosen.contains(" sleep\n"), "{chosen}");
    s.run(&["top", &other, "-o", "comm"]).exits(1).complains(&["Couldn't find PID field in ps output"]);
    s.run(&["restart", "-t", "0", &other]).ok();
    wait_until("it started again", || s.run(&["logs", &other]).out().matches("up").count() == 2);
    s.run(&["rename", &other, &container.name]).ok();
}

fn stats_shows_numbers(s: &Session) {
    let container = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    let stats = s.run(&["stats", "--no-stream", &container.name]).ok().out();
    assert!(stats.contains(&container.name) && stats.contains("iB /"), "{stats}");
}

fn events_tell_what_happened(s: &Session) {
    let name = s.name("eventful");
    s.run(&["run", "--rm", "--name", &name, "busybox:latest", "true"]).ok();
    let filter = format!("container={name}");
    // Until a moment in the future, so that the last second counts as well.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let until = (now.as_secs() + 2).to_string();
    let events = s.run(&["events", "--since", "5m", "--until", &until, "--filter", &filter]).ok().out();
    for event in ["create", "start", "die", "destroy"] {
        assert!(events.contains(&format!("container {event} ")), "{event} in {events}");
    }
    let of_networks = ["events", "--since", "5m", "--until", &until, "--filter", "type=network"];
    let id = events.split_whitespace().find(|word| word.len() == 64).expect("the container's id");
    let events = s.run(&of_networks).ok().out();
    for event in ["connect", "disconnect"] {
        let told = |line: &str| line.contains(&format!("network {event} ")) && line.contains(id);
        assert!(events.lines().any(told), "{event} of {id} in {events}");
    }
}

fn signals_to_the_command_line_reach_the_program(s: &Session) {
    let script = "trap 'echo int; exit 4' INT; echo ready; while :; do sleep 0.1; done";
    let mut running = s.cmd(&["run", "--rm", "busybox:latest", "sh", "-c", script]).spawn();
    running.wait_for("ready");
    running.signal(rustix::process::Signal::INT);
    running.wait().exits(4).prints("ready\nint\n");
}

fn prune_removes_what_has_ended(s: &Session) {
    let label = format!("prune={}", s.name("prune"));
    let ended = s.background(&["--label", &label], "busybox:latest", &["true"]);
    let running = s.background(&["--label", &label], "busybox:latest", &["sleep", "1000"]);
    s.run(&["wait", &ended.name]).ok();
    s.run(&["container", "prune", "-f", "--filter", &format!("label={label}")]).ok();
    s.run(&["inspect", &ended.name]).exits(1);
    assert_eq!(running.status(), "running");
}
