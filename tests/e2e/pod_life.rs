//! Whole pods: started, stopped, frozen, watched, removed.

use std::time::Duration;

use hyper_e2e::command::{wait_until, wait_until_within};
use hyper_e2e::{Instance, Options};
use serde_json::Value;

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Hyper:
        a_pod_is_stopped_started_and_restarted_as_one,
        a_pod_is_frozen_and_thawed_as_one,
        a_pods_containers_are_watched_side_by_side,
        a_command_runs_in_a_container_of_a_pod,
        a_pod_gives_its_containers_names_files_and_words_for_the_kernel,
        pods_that_have_ended_are_pruned_with_their_containers,
        a_pod_is_removed_with_its_containers_when_none_runs,
        a_pod_of_containers_that_remove_themselves_restarts,
    ]
    .to_vec();
    cases.extend(case_list![Own: a_stop_cut_off_by_the_daemons_end_is_told_as_it_is]);
    cases
}

/// How long a few starts may take on a busy machine.
const LONG: Duration = Duration::from_secs(180);

/// Removes a pod when it is dropped.
struct Pod<'a> {
    session: &'a Session,
    name: String,
}

impl<'a> Pod<'a> {
    fn create(session: &'a Session, flags: &[&str]) -> Self {
        let pod = Self { session, name: session.name("pod") };
        session.run(&[&["pod", "create"], flags, &[&pod.name]].concat()).ok();
        pod
    }

    /// Starts a container in it, named after the pod.
    fn run(&self, stem: &str, flags: &[&str], script: &str) -> String {
        let name = format!("{}-{stem}", self.name);
        let line = ["busybox:latest", "sh", "-c", script];
        let head = ["run", "-d", "--pod", &self.name, "--name", &name];
        self.session.run(&[&head[..], flags, &line].concat()).ok();
        if script.contains("echo up") {
            let logs = || self.session.run(&["logs", &name]).ok().out();
            wait_until("its signals are caught", || logs().contains("up"));
        }
        name
    }

    fn inspect(&self) -> Value {
        let output = self.session.run(&["pod", "inspect", &self.name]).ok();
        let value: Value = serde_json::from_slice(&output.stdout).expect("inspect prints JSON");
        value[0].clone()
    }

    fn status(&self) -> String {
        self.inspect()["Status"].as_str().unwrap_or_default().to_owned()
    }

    fn states(&self) -> Vec<String> {
        let inspected = self.inspect();
        let containers = inspected["Containers"].as_array().unwrap();
        containers.iter().map(|container| container["State"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        let _ = self.session.instance.hyper(&["pod", "rm", "-f", &self.name]).run();
    }
}

/// When a container started last, such that texts compare as times.
fn started(s: &Session, name: &str) -> String {
    let inspected = s.inspect(name);
    let text = inspected["State"]["StartedAt"].as_str().unwrap().trim_end_matches('Z');
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{seconds}.{fraction:0<9}")
}

/// Ends on `TERM`, and says so.
const OBEYS: &str = "trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.1; done";
/// Ends on `USR1` alone.
const OWN_SIGNAL: &str = "trap '' TERM; trap 'echo told; exit 3' USR1; echo up; while :; do sleep 0.1; done";

fn a_pod_is_stopped_started_and_restarted_as_one(s: &Session) {
    let pod = Pod::create(s, &[]);
    assert_eq!(pod.status(), "Created");
    let patient = ["--stop-timeout", "60"];
    let first = pod.run("first", &[&patient[..], &["--restart", "always"]].concat(), OBEYS);
    let second = pod.run(
        "second",
        &[&patient[..], &["--restart", "unless-stopped", "--stop-signal", "USR1"]].concat(),
        OWN_SIGNAL,
    );
    let third =
        pod.run("third", &["--stop-timeout", "1"], "trap '' TERM; echo up; while :; do sleep 1; done");
    let logs = |name: &str| s.run(&["logs", name]).ok().out();
    assert_eq!((pod.status().as_str(), pod.states()), ("Running", vec!["running".to_owned(); 3]));

    s.run(&["pod", "stop", &pod.name]).ok().prints(&format!("{}\n", pod.name));
    assert_eq!((pod.status().as_str(), pod.states()), ("Exited", vec!["exited".to_owned(); 3]));
    assert_eq!(pod.inspect()["State"], "stopped", "its VM has ended");
    assert_eq!((logs(&first), logs(&second)), ("up\ntold\n".to_owned(), "up\ntold\n".to_owned()));
    let codes = [&first, &second, &third].map(|name| s.inspect(name)["State"]["ExitCode"].as_i64());
    assert_eq!(codes, [Some(0), Some(3), Some(137)]);
    assert_eq!(s.inspect(&first)["RestartCount"], 0, "a policy does not undo a stop");
    // As docker: it is so already.
    s.run(&["pod", "stop", &pod.name]).ok();

    s.run(&["pod", "start", &pod.name]).ok().prints(&format!("{}\n", pod.name));
    assert_eq!((pod.status().as_str(), pod.states()), ("Running", vec!["running".to_owned(); 3]));
    let started_at = [&first, &second, &third].map(|name| started(s, name));
    assert!(started_at.is_sorted(), "in the order in which they were made: {started_at:?}");
    s.run(&["pod", "start", &pod.name]).ok();

    s.run(&["pod", "restart", "-t", "0", &pod.name]).ok();
    assert_eq!(pod.status(), "Running");
    let again = started(s, &first);
    assert!(again > started_at[2], "{again} {started_at:?}");

    s.run(&["pod", "kill", &pod.name]).ok();
    assert_eq!((pod.status().as_str(), pod.states()), ("Exited", vec!["exited".to_owned(); 3]));
    s.run(&["pod", "kill", &pod.name]).exits(1).complains(&["none of its containers is running"]);
}

fn a_pod_is_frozen_and_thawed_as_one(s: &Session) {
    let pod = Pod::create(s, &[]);
    let missing = s.name("nosuch");
    for verb in ["stop", "kill", "pause", "unpause", "restart", "start", "rm", "top", "logs"] {
        s.run(&["pod", verb, &missing]).exits(1).complains(&["no such pod"]);
    }
    s.run(&["pod", "stop", "--ignore", &missing]).ok();
    s.run(&["pod", "rm", "--ignore", &missing]).ok();
    s.run(&["pod", "stop"]).exits(1).complains(&["--all"]);
    s.run(&["pod", "pause", &pod.name]).exits(1).complains(&["none of its containers is running"]);
    let one = pod.run("one", &[], OBEYS);
    pod.run("two", &[], OBEYS);
    s.run(&["pod", "pause", &pod.name]).ok().prints(&format!("{}\n", pod.name));
    assert_eq!((pod.status().as_str(), pod.states()), ("Paused", vec!["paused".to_owned(); 2]));
    s.run(&["pod", "pause", &pod.name]).exits(1);
    s.run(&["unpause", &one]).ok();
    assert_eq!(pod.status(), "Degraded");
    s.run(&["pod", "unpause", &pod.name]).ok();
    assert_eq!(pod.status(), "Running");
    s.run(&["pod", "unpause", &pod.name]).exits(1).complains(&["none of its containers is paused"]);
    // What is frozen can be stopped; a missing pod beside it does not hinder that.
    s.run(&["pod", "pause", &pod.name]).ok();
    let both = s.run(&["pod", "stop", "-t", "5", &missing, &pod.name]).exits(1).complains(&["no such pod"]);
    assert_eq!(both.out(), format!("{}\n", pod.name));
    assert_eq!(pod.status(), "Exited");
    let listed = |filters: &[&str]| {
        let head = ["pod", "ls", "--format", "{{.Name}} {{.Status}} {{.Containers}}"];
        s.run(&[&head[..], filters].concat()).ok().out()
    };
    let line = format!("{} Exited 2\n", pod.name);
    let name = format!("name={}", pod.name);
    assert!(listed(&["--filter", &name]).contains(&line), "other names may begin like this");
    let id = format!("id={}", pod.inspect()["Id"].as_str().unwrap());
    assert_eq!(listed(&["--filter", &id]), line);
    assert_eq!(listed(&["--filter", &id, "--filter", "ctr-number=2", "--filter", "status=exited"]), line);
    assert_eq!(listed(&["--filter", &id, "--filter", "status=running"]), "");
    s.run(&["pod", "ls", "--filter", "nosuch=1"]).exits(1).complains(&["invalid filter"]);
    let names =
        s.run(&["pod", "ps", "--filter", &id, "--ctr-names", "--ctr-status", "--noheading"]).ok().out();
    assert!(names.contains(&format!("{one},{}-two", pod.name)) && names.contains("exited,exited"), "{names}");
    assert!(!names.contains("POD ID"), "{names}");
}

fn a_pods_containers_are_watched_side_by_side(s: &Session) {
    let pod = Pod::create(s, &[]);
    let one = pod.run(
        "one",
        &[],
        "echo first; while [ ! -e /go ]; do sleep 0.1; done; echo third; exec sleep 1001",
    );
    wait_until("it has begun", || s.run(&["logs", &one]).ok().out() == "first\n");
    let two = pod.run("two", &[], "echo second; echo oops >&2; exec sleep 1002");
    let logs = |flags: &[&str]| s.run(&[&["pod", "logs"], flags, &[&pod.name]].concat()).ok();
    wait_until("both have begun", || {
        let shown = logs(&[]);
        shown.out().contains("second") && shown.err().contains("oops")
    });
    s.run(&["exec", &one, "touch", "/go"]).ok();
    wait_until("all is written", || logs(&[]).out().contains("third"));
    let shown = logs(&["--names"]);
    assert_eq!(shown.out(), format!("{one} first\n{two} second\n{one} third\n"));
    assert_eq!(shown.err(), format!("{two} oops\n"));
    let inspected = s.inspect(&one);
    let id = &inspected["Id"].as_str().unwrap()[..12];
    assert_eq!(logs(&["-c", &one, "--tail", "1"]).out(), format!("{id} third\n"));
    let stamped = logs(&["--names", "-t", "-c", &two]).out();
    assert!(stamped.starts_with(&format!("{two} 20")) && stamped.ends_with("Z second\n"), "{stamped}");
    let other = s.name("nosuch");
    s.run(&["pod", "logs", "-c", &other, &pod.name]).exits(1).complains(&["no such container"]);

    let top = || s.run(&["pod", "top", &pod.name]).ok().out();
    assert!(top().starts_with("CONTAINER"), "{}", top());
    let has = |name: &str, command: &str| {
        top().lines().any(|line| line.starts_with(name) && line.ends_with(command))
    };
    wait_until("both sleep", || has(&one, " sleep 1001") && has(&two, " sleep 1002"));
    let chosen = s.run(&["pod", "top", &pod.name, "-o", "pid,comm"]).ok().out();
    assert!(chosen.lines().next().is_some_and(|line| line.contains("PID")), "{chosen}");

    let stats = ["pod", "stats", "--no-stream", "--format", "{{.Pod}} {{.Name}} {{.PIDs}}", &pod.name];
    let expected = format!("{0} {one} 1\n{0} {two} 1\n", pod.name);
    wait_until("each has its one process", || s.run(&stats).ok().out() == expected);

    // What follows ends with the pod.
    let follow = s.cmd(&["pod", "logs", "-f", "--names", &pod.name]).spawn();
    follow.wait_for("third");
    s.run(&["pod", "stop", "-t", "0", &pod.name]).ok();
    let mut follow = follow;
    let ended = follow.wait().ok().out();
    assert_eq!(ended, format!("{one} first\n{two} second\n{one} third\n"));
    s.run(&["pod", "top", &pod.name]).exits(1).complains(&["no running containers"]);
}

fn a_command_runs_in_a_container_of_a_pod(s: &Session) {
    let pod = Pod::create(s, &[]);
    s.run(&["pod", "exec", &pod.name, "true"]).exits(125).complains(&["has no containers"]);
    let one = pod.run("one", &["-e", "WHO=one"], OBEYS);
    let exec = |words: &[&str]| s.run(&[&["pod", "exec"], words].concat());
    exec(&[&pod.name, "sh", "-c", "echo $WHO; exit 7"]).exits(7).prints("one\n");
    let two = pod.run("two", &["-e", "WHO=two"], OBEYS);
    exec(&[&pod.name, "sh", "-c", "echo $WHO"]).exits(125).complains(&[
        "which of its containers",
        &one,
        &two,
    ]);
    exec(&[&pod.name, &two, "sh", "-c", "echo $WHO"]).ok().prints("two\n");
    exec(&["-c", &one, "-e", "X=1", &pod.name, "sh", "-c", "echo $WHO$X"]).ok().prints("one1\n");
    let input = ["pod", "exec", "-i", &pod.name, &two, "cat"];
    s.cmd(&input).stdin("in and out").run().ok().prints("in and out");
    exec(&[&pod.name, &two, "nosuch"]).exits(126);
    exec(&["--vm", &pod.name, "true"]).exits(125).complains(&["--vm is not supported yet"]);
}

fn a_pod_gives_its_containers_names_files_and_words_for_the_kernel(s: &Session) {
    let file = s.instance.directory().join(s.name("given"));
    std::fs::write(&file, "as it was\n").unwrap();
    let given = format!("{}:/etc/app/given", file.display());
    let names = ["--dns", "10.9.9.9", "--dns-search", "pod.test", "--add-host", "other:10.1.2.3"];
    let flags = [
        &names[..],
        &["--file", &given, "--kernel-arg", "loglevel=3", "--memory", "200m", "--template=never"],
    ]
    .concat();
    let pod = Pod::create(s, &flags);
    std::fs::write(&file, "changed\n").unwrap();
    let shell = |flags: &[&str], script: &str| {
        let line = ["busybox:latest", "sh", "-c", script];
        s.run(&[&["run", "--rm", "--pod", &pod.name], flags, &line].concat()).ok().out()
    };
    let resolver = shell(&[], "cat /etc/resolv.conf");
    assert!(resolver.contains("nameserver 10.9.9.9") && resolver.contains("search pod.test"), "{resolver}");
    let own = shell(&["--dns", "10.8.8.8", "--add-host", "mine:10.1.2.4"], "cat /etc/resolv.conf /etc/hosts");
    assert!(own.contains("nameserver 10.8.8.8") && !own.contains("10.9.9.9"), "{own}");
    assert!(own.contains("10.1.2.4\tmine\n") && own.contains("10.1.2.3\tother\n"), "{own}");
    // A copy for each: what one writes is not another's.
    assert_eq!(shell(&[], "echo mine > /etc/app/given; cat /etc/app/given"), "mine\n");
    assert_eq!(shell(&[], "cat /etc/app/given"), "as it was\n");
    assert!(shell(&[], "cat /proc/cmdline").split_whitespace().any(|word| word == "loglevel=3"));
    let memory = || shell(&[], "grep MemTotal /proc/meminfo | tr -dc 0-9").parse::<u64>().unwrap();
    let before = memory();
    // No driver resizes a VM that runs.
    s.run(&["pod", "update", "-m", "400m", &pod.name]).exits(1).complains(&["its VM runs"]);
    s.run(&["pod", "stop", &pod.name]).ok();
    s.run(&["pod", "update", &pod.name]).exits(1).complains(&["--memory"]);
    s.run(&["pod", "update", "-m", "400m", &pod.name]).ok().prints(&format!("{}\n", pod.name));
    let after = memory();
    assert!(after > before + (150 << 10), "{before} {after}");
    for (flag, value, words) in [
        ("--kernel-arg", "init=/bin/sh", "is set by Hyper"),
        ("--kernel-arg", "a b", "no NAME or NAME=VALUE"),
        ("--dns", "nowhere", "is not an ip address"),
        ("--file", "/nosuch:/x", "No such file"),
        ("--file", "/proc/version:/etc/hosts", "is made for each container"),
    ] {
        let refused = s.run(&["pod", "create", flag, value, &s.name("never")]);
        assert_ne!(refused.code, 0, "{flag} {value}");
        refused.complains(&[words]);
    }
}

fn pods_that_have_ended_are_pruned_with_their_containers(s: &Session) {
    let label = s.name("prune");
    let flags = ["--label", label.as_str()];
    let (ended, never, runs) = (Pod::create(s, &flags), Pod::create(s, &flags), Pod::create(s, &flags));
    let gone = ended.run("one", &[], "true");
    s.run(&["wait", &gone]).ok();
    // Its VM runs as long as nobody stops it.
    s.run(&["pod", "stop", &ended.name]).ok();
    let stays = runs.run("one", &[], OBEYS);
    let filter = format!("label={label}");
    let pruned = s.run(&["pod", "prune", "-f", "--filter", &filter]).ok().out();
    assert!(pruned.starts_with("Deleted Pods:\n") && pruned.contains("Total reclaimed space: "), "{pruned}");
    s.run(&["pod", "inspect", &ended.name]).exits(1);
    s.run(&["inspect", &gone]).exits(1);
    assert_eq!((never.status().as_str(), runs.status().as_str()), ("Created", "Running"));
    s.run(&["exec", &stays, "true"]).ok();
    let again = s.run(&["pod", "prune", "-f", "--filter", &filter]).ok().out();
    assert_eq!(again, "Total reclaimed space: 0B\n");
}

fn a_pod_is_removed_with_its_containers_when_none_runs(s: &Session) {
    let pod = Pod::create(s, &[]);
    let one = pod.run("one", &["-v", "/data"], OBEYS);
    let volume = s.inspect(&one)["Mounts"][0]["Name"].as_str().unwrap().to_owned();
    let refused = s.run(&["pod", "rm", &pod.name]).exits(1);
    refused.complains(&["cannot remove pod", &one, "is running"]);
    s.run(&["pod", "rm", "-t", "5", &pod.name]).exits(1).complains(&["--force"]);
    s.run(&["exec", &one, "true"]).ok();
    s.run(&["pod", "stop", &pod.name]).ok();
    s.run(&["pod", "rm", &pod.name]).ok().prints(&format!("{}\n", pod.name));
    s.run(&["inspect", &one]).exits(1);
    s.run(&["volume", "inspect", &volume]).exits(1);
    // By force, and in peace.
    let pod = Pod::create(s, &[]);
    let one = pod.run("one", &[], OBEYS);
    let waiting = s.cmd(&["wait", &one]).spawn();
    s.run(&["pod", "rm", "-f", "-t", "60", &pod.name]).ok();
    let mut waiting = waiting;
    waiting.wait().ok().prints("0\n");
    s.run(&["inspect", &one]).exits(1);
}

fn a_pod_of_containers_that_remove_themselves_restarts(s: &Session) {
    // Not made by name: it is there while its containers are.
    let pod = Pod { session: s, name: s.name("pod") };
    let one = pod.run("one", &["--rm"], OBEYS);
    let before = started(s, &one);
    s.run(&["pod", "restart", "-t", "0", &pod.name]).ok();
    assert!(started(s, &one) > before);
    assert_eq!(s.inspect(&one)["HostConfig"]["AutoRemove"], true);
    s.run(&["pod", "stop", "-t", "0", &pod.name]).ok();
    wait_until("the pod is gone", || s.run(&["pod", "inspect", &pod.name]).code == 1);
}

fn a_stop_cut_off_by_the_daemons_end_is_told_as_it_is() {
    let engine = Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() });
    let hyper = |arguments: &[&str]| engine.hyper(arguments).run();
    let status = || hyper(&["pod", "inspect", "--format", "{{.Status}} {{.State}}", "p"]).out();
    hyper(&["pod", "create", "p"]).ok();
    let run = |name: &str, script: &str| {
        let head = ["run", "-d", "--pod", "p", "--name", name, "--restart", "unless-stopped"];
        hyper(&[&head[..], &["busybox:latest", "sh", "-c", script]].concat()).ok();
        wait_until("it is up", || hyper(&["logs", name]).out().contains("up"));
    };
    run("obeys", OBEYS);
    run("stays", "trap '' TERM; echo up; while :; do sleep 1; done");
    let _stop = engine.hyper(&["pod", "stop", "-t", "1000", "p"]).spawn();
    let state = |name: &str| hyper(&["inspect", "--format", "{{.State.Status}}", name]).out();
    wait_until_within("one has ended", LONG, || state("obeys") == "exited\n");
    engine.kill_daemon();
    engine.start_daemon();
    // Neither undone by its policy nor taken for done.
    assert_eq!((state("obeys").as_str(), state("stays").as_str()), ("exited\n", "running\n"));
    assert_eq!(status(), "Degraded running\n");
    hyper(&["pod", "stop", "-t", "0", "p"]).ok();
    assert_eq!(status(), "Exited stopped\n");
    engine.kill_daemon();
    engine.start_daemon();
    assert_eq!((state("obeys").as_str(), state("stays").as_str()), ("exited\n", "exited\n"));
    assert_eq!(status(), "Exited stopped\n");
    hyper(&["pod", "start", "p"]).ok();
    assert_eq!(status(), "Running running\n");
    hyper(&["pod", "rm", "-f", "p"]).ok();
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}
