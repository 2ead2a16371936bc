//! Several containers in one VM.

use hyper_e2e::command::wait_until;

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both: containers_that_join_a_network_share_it].to_vec();
    cases.extend(case_list![Hyper:
        containers_of_a_pod_share_network_ipc_and_hostname_and_nothing_else,
        a_pod_ends_with_its_last_container,
        a_pod_created_by_name_stays,
        a_pod_is_one_machine,
    ]);
    cases
}

/// Answers every connection to port 7 with `pong`.
const SERVER: &str = "while :; do echo pong | nc -l -p 7; done";

fn containers_that_join_a_network_share_it(s: &Session) {
    let first = s.background(&[], "busybox:latest", &["sh", "-c", SERVER]);
    let join = format!("container:{}", first.name);
    let script = "until nc 127.0.0.1 7; do sleep 0.1; done; hostname";
    let output = s.run(&["run", "--rm", "--network", &join, "busybox:latest", "sh", "-c", script]).ok();
    assert!(output.out().starts_with("pong\n"), "{output}");
    let address = s.run(&["run", "--rm", "--network", &join, "busybox:latest", "hostname", "-i"]).ok().out();
    assert!(address.contains(&first.address()), "{address}");
    let missing = s.run(&["run", "--rm", "--network", "container:nobody", "busybox:latest", "true"]);
    missing.exits(125).complains(&["no such container"]);
}

fn containers_of_a_pod_share_network_ipc_and_hostname_and_nothing_else(s: &Session) {
    let pod = s.name("pod");
    let db = s.background(
        &["--pod", &pod],
        "busybox:latest",
        &["sh", "-c", &format!("touch /only-here; {SERVER}")],
    );
    let run = |script: &str| {
        s.run(&["run", "--rm", "--pod", &pod, "busybox:latest", "sh", "-c", script]).ok().out()
    };
    assert!(run("until nc localhost 7; do sleep 0.1; done").contains("pong"));
    assert_eq!(run("hostname"), s.run(&["exec", &db.name, "hostname"]).ok().out());
    assert_eq!(
        run("readlink /proc/self/ns/ipc"),
        s.run(&["exec", &db.name, "readlink", "/proc/self/ns/ipc"]).out()
    );
    assert_eq!(
        run("readlink /proc/self/ns/net"),
        s.run(&["exec", &db.name, "readlink", "/proc/self/ns/net"]).out()
    );
    assert_eq!(run("ls /only-here 2>/dev/null || echo not here"), "not here\n");
    assert!(!run("ps").contains("nc -l"), "each container has its own processes");
}

fn a_pod_ends_with_its_last_container(s: &Session) {
    let pod = s.name("brief");
    let first = s.background(&["--pod", &pod], "busybox:latest", &["sleep", "1000"]);
    let second = s.background(&["--pod", &pod], "busybox:latest", &["sleep", "1000"]);
    s.run(&["stop", "-t", "0", &first.name]).ok();
    s.run(&["exec", &second.name, "true"]).ok();
    assert!(s.run(&["pod", "ls"]).ok().out().contains(&pod));
    s.run(&["rm", "-f", &first.name]).ok();
    s.run(&["rm", "-f", &second.name]).ok();
    wait_until("the pod is gone", || !s.run(&["pod", "ls"]).ok().out().contains(&pod));
}

fn a_pod_created_by_name_stays(s: &Session) {
    let pod = s.name("kept");
    s.run(&["pod", "create", &pod]).ok();
    s.run(&["pod", "create", &pod]).exits(1).complains(&["already"]);
    for _ in 0..2 {
        s.run(&["run", "--rm", "--pod", &pod, "busybox:latest", "echo", "inside"]).ok().prints("inside\n");
    }
    assert!(s.run(&["pod", "ls"]).ok().out().contains(&pod));
    s.run(&["pod", "rm", "-f", &pod]).ok();
    assert!(!s.run(&["pod", "ls"]).ok().out().contains(&pod));
    s.run(&["pod", "rm", &pod]).exits(1).complains(&["no such pod"]);
}

fn a_pod_is_one_machine(s: &Session) {
    let pod = s.name("one");
    let boot_id = |flags: &[&str]| {
        let arguments =
            [&["run", "--rm"], flags, &["busybox:latest", "cat", "/proc/sys/kernel/random/boot_id"]].concat();
        s.run(&arguments).ok().out()
    };
    let _keeper = s.background(&["--pod", &pod], "busybox:latest", &["sleep", "1000"]);
    assert_eq!(boot_id(&["--pod", &pod]), boot_id(&["--pod", &pod]));
    assert_ne!(boot_id(&["--pod", &pod]), boot_id(&[]));
    let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_ne!(boot_id(&[]), host);
}
