//! On a terminal: shells, window size, keys.

use crate::case_list;
use crate::session::{Case, Session};

/// The detach keys, ctrl-p ctrl-q.
const DETACH: &[u8] = b"\x10\x11";

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Both:
        a_shell_has_job_control,
        the_windows_size_is_the_terminals_and_follows_it,
        detach_keys_leave_the_container_running,
        other_detach_keys_can_be_chosen,
        exec_has_a_terminal_too,
        start_attaches_to_a_terminal_again,
        a_terminal_where_there_is_none_is_refused,
        the_terminal_is_restored_at_the_end,
    ]
    .to_vec()
}

fn a_shell_has_job_control(s: &Session) {
    let mut shell = s.terminal(&["run", "-it", "--rm", "--hostname", "guest", "debian:12", "bash"]);
    shell.expect("root@guest:/#");
    shell.send(b"sleep 1000\n");
    // The echo shows that the shell has read it; ctrl-c must reach `sleep`.
    shell.expect("sleep 1000");
    std::thread::sleep(std::time::Duration::from_millis(500));
    shell.send(b"\x03");
    shell.expect("#");
    shell.send(b"echo status=$?\n");
    shell.expect("status=130");
    shell.send(b"sleep 1000 &\n");
    shell.expect("[1]");
    shell.send(b"jobs\n");
    shell.expect("Running");
    shell.send(b"kill %1; wait; tty; exit 5\n");
    shell.expect("/dev/pts/0");
    assert_eq!(shell.wait(), 5);
}

fn the_windows_size_is_the_terminals_and_follows_it(s: &Session) {
    let script = "trap 'stty size' WINCH; trap 'exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let mut terminal =
        s.terminal(&["run", "-it", "--rm", "debian:12", "bash", "-c", &format!("stty size; {script}")]);
    terminal.expect("24 80");
    terminal.expect("ready");
    terminal.resize(100, 30);
    terminal.expect("30 100");
    terminal.send(b"\x03");
    assert_eq!(terminal.wait(), 9);
}

fn detach_keys_leave_the_container_running(s: &Session) {
    let name = s.name("detached");
    let mut terminal = s.terminal(&["run", "-it", "--name", &name, "debian:12", "bash"]);
    terminal.expect("#");
    terminal.send(DETACH);
    assert_eq!(terminal.wait(), 0);
    assert_eq!(s.inspect(&name)["State"]["Status"], "running");
    let mut again = s.terminal(&["attach", &name]);
    again.send(b"echo back $((40 + 2))\n");
    again.expect("back 42");
    again.send(b"exit 3\n");
    assert_eq!(again.wait(), 3);
    s.run(&["rm", &name]).ok();
}

fn other_detach_keys_can_be_chosen(s: &Session) {
    let name = s.name("keys");
    let mut terminal =
        s.terminal(&["run", "-it", "--name", &name, "--detach-keys", "ctrl-x,d", "debian:12", "bash"]);
    terminal.expect("#");
    terminal.send(b"\x18d");
    assert_eq!(terminal.wait(), 0);
    s.run(&["rm", "-f", &name]).ok();
}

fn exec_has_a_terminal_too(s: &Session) {
    let container = s.background(&[], "debian:12", &["sleep", "1000"]);
    let mut shell = s.terminal(&["exec", "-it", &container.name, "bash"]);
    shell.expect("#");
    shell.send(b"stty size; tty\n");
    shell.expect("24 80");
    shell.expect("/dev/pts/");
    shell.send(b"exit 4\n");
    assert_eq!(shell.wait(), 4);
    assert_eq!(container.status(), "running");
}

fn start_attaches_to_a_terminal_again(s: &Session) {
    let name = s.name("again");
    s.run(&["create", "-it", "--name", &name, "busybox:latest", "sh"]).ok();
    for round in ["first", "second"] {
        let mut shell = s.terminal(&["start", "-ai", &name]);
        shell.expect("#");
        shell.send(format!("echo the {round} $((1 + 1))\n").as_bytes());
        shell.expect(&format!("the {round} 2"));
        shell.send(b"exit\n");
        assert_eq!(shell.wait(), 0);
    }
    s.run(&["rm", &name]).ok();
}

fn a_terminal_where_there_is_none_is_refused(s: &Session) {
    let output = s.cmd(&["run", "-it", "--rm", "busybox:latest", "true"]).stdin("").run();
    assert_ne!(output.code, 0);
    output.complains(&["not a tty", "not a terminal"]);
    // An output terminal alone is fine without input.
    let tty = s.run(&["run", "-t", "--rm", "busybox:latest", "sh", "-c", "tty; echo two words"]).ok();
    assert!(tty.out().starts_with("/dev/pts/0\r\n") && tty.out().ends_with("two words\r\n"), "{tty}");
}

fn the_terminal_is_restored_at_the_end(s: &Session) {
    // The words are run by a shell on the terminal, so that its modes can be
    // looked at before and after.
    let words = s.instance.line(s.cli);
    let script = format!(
        "stty -g >/dev/shm/$$.a; {words} run -it --rm busybox:latest true; stty -g >/dev/shm/$$.b; \
         cmp /dev/shm/$$.a /dev/shm/$$.b && echo same modes; rm -f /dev/shm/$$.a /dev/shm/$$.b"
    );
    let mut shell = s.instance.shell_on_terminal(&script);
    shell.expect("same modes");
    assert_eq!(shell.wait(), 0);
}
