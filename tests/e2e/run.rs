//! `run`: output, input, exit status, and what the flags do.

use hyper_e2e::images::digest;

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both:
        the_programs_output_is_ours,
        standard_input_is_piped_through,
        output_and_errors_stay_apart,
        exit_status_is_the_programs,
        a_missing_program_exits_127,
        a_file_that_is_no_program_exits_126,
        environment_directory_user_hostname_and_entrypoint_are_set,
        users_and_groups_are_looked_up_in_the_image,
        cpu_and_memory_limits_hold,
        names_and_resolver_files_are_the_containers_own,
        capabilities_are_dockers_and_can_be_changed,
        limits_of_processes_are_set,
        a_read_only_root_is_read_only_and_a_tmpfs_is_not,
        nothing_of_a_container_is_seen_by_the_next,
        much_output_arrives_whole,
        much_input_arrives_whole,
        a_reader_that_goes_away_ends_nothing_else,
        pull_happens_when_the_image_is_missing,
        rm_removes_the_container,
        cidfile_and_labels_are_written,
        proc_and_sys_are_masked,
    ]
    .to_vec();
    cases.extend(case_list![Hyper: another_kernel_is_booted, timeline_prints_the_phases]);
    cases
}

fn the_programs_output_is_ours(s: &Session) {
    let output = s.run(&["run", "--rm", "debian:12", "cat", "/etc/os-release"]).ok();
    assert!(output.out().contains("VERSION_CODENAME=bookworm"), "{output}");
}

fn standard_input_is_piped_through(s: &Session) {
    s.cmd(&["run", "-i", "--rm", "debian:12", "tr", "a-z", "A-Z"]).stdin("hi\n").run().ok().prints("HI\n");
    // Without -i there is nothing to read.
    s.cmd(&["run", "--rm", "busybox:latest", "cat"]).stdin("unheard\n").run().ok().prints("");
}

fn output_and_errors_stay_apart(s: &Session) {
    let output = s.shell("echo out; echo err >&2; printf more").ok();
    assert_eq!((output.out().as_str(), output.err().as_str()), ("out\nmore", "err\n"));
}

fn exit_status_is_the_programs(s: &Session) {
    for (script, code) in
        [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("sh -c 'kill -9 $$'; exit $?", 137)]
    {
        s.shell(script).exits(code);
    }
    let container = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    s.run(&["kill", "-s", "KILL", &container.name]).ok();
    s.run(&["wait", &container.name]).ok().prints("137\n");
}

fn a_missing_program_exits_127(s: &Session) {
    s.run(&["run", "--rm", "busybox:latest", "nosuch"]).exits(127).complains(&["not found"]);
    s.run(&["run", "--rm", "busybox:latest", "/no/such"]).exits(127).complains(&["no such file"]);
}

fn a_file_that_is_no_program_exits_126(s: &Session) {
    s.run(&["run", "--rm", "busybox:latest", "/etc/passwd"]).exits(126).complains(&["permission denied"]);
    let directory = s.run(&["run", "--rm", "busybox:latest", "/etc"]).complains(&["is a directory"]);
    // Older command lines of docker do not know these words, which runc uses since 1.1.
    let old = s.cli == hyper_e2e::Cli::Docker && hyper_e2e::docker::major() < 25;
    assert!(directory.code == 126 || (old && directory.code == 125), "{directory}");
}

fn environment_directory_user_hostname_and_entrypoint_are_set(s: &Session) {
    let script = "echo $A $PWD $(id -un) $(hostname) $FROM_IMAGE";
    let flags = ["-e", "A=1", "-w", "/srv", "-u", "www-data", "--hostname", "web", "--entrypoint", "/bin/sh"];
    let arguments = [&["run", "--rm"], &flags[..], &["busybox:latest", "-c", script]].concat();
    s.run(&arguments).ok().prints("1 /srv www-data web yes\n");
    s.cmd(&["run", "--rm", "-e", "FROM_HERE", "busybox:latest", "sh", "-c", "echo $FROM_HERE"])
        .env("FROM_HERE", "taken over")
        .run()
        .ok()
        .prints("taken over\n");
    // A working directory that does not exist is made.
    s.run(&["run", "--rm", "-w", "/made/for/it", "busybox:latest", "pwd"]).ok().prints("/made/for/it\n");
}

fn users_and_groups_are_looked_up_in_the_image(s: &Session) {
    let id = |user: &str, expected: &str| {
        s.run(&["run", "--rm", "-u", user, "busybox:latest", "id"]).ok().prints(&format!("{expected}\n"));
    };
    id("app", "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)");
    id("1234:55", "uid=1234 gid=55 groups=55");
    let added = s.run(&["run", "--rm", "--group-add", "77", "busybox:latest", "id", "-G"]).ok();
    assert!(added.out().split_whitespace().any(|group| group == "77"), "{added}");
    let home = s.run(&["run", "--rm", "-u", "app", "busybox:latest", "sh", "-c", "echo $HOME"]);
    home.ok().prints("/home/app\n");
    let unknown = s.run(&["run", "--rm", "-u", "nosuch", "busybox:latest", "id"]);
    assert!((125..=126).contains(&unknown.code), "{unknown}");
    unknown.complains(&["nosuch"]);
}

fn cpu_and_memory_limits_hold(s: &Session) {
    let script = "cat /sys/fs/cgroup/memory.max; cut -d' ' -f1 /sys/fs/cgroup/cpu.max; nproc";
    let output =
        s.run(&["run", "--rm", "--cpus", "2", "-m", "512m", "busybox:latest", "sh", "-c", script]).ok();
    let lines: Vec<String> = output.out().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], (512 << 20).to_string(), "{output}");
    assert!(lines[1] == "200000" || lines[1] == "max", "{output}");
    assert!(lines[2].parse::<u32>().unwrap() >= 2, "{output}");
    // Over its limit, a program is killed, not the machine.
    let eater = "head -c 200m /dev/zero | tail | wc -c; exit $?";
    let output = s.run(&["run", "--rm", "-m", "64m", "busybox:latest", "sh", "-c", eater]);
    assert!(output.code != 0 || output.out().trim() != (200u32 << 20).to_string(), "{output}");
}

fn names_and_resolver_files_are_the_containers_own(s: &Session) {
    let script = "cat /etc/hostname; grep -c \"$(hostname)\" /etc/hosts; grep -c localhost /etc/hosts; cat /etc/resolv.conf";
    let output = s.run(&["run", "--rm", "--hostname", "named", "busybox:latest", "sh", "-c", script]).ok();
    let text = output.out();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["named", "1"], "{output}");
    assert!(text.contains("nameserver 203.0.113.1"), "{output}");
    let given = s.run(&["run", "--rm", "busybox:latest", "hostname"]).ok().out();
    assert_eq!(given.trim().len(), 12, "without --hostname it is the short id: {given:?}");
}

fn capabilities_are_dockers_and_can_be_changed(s: &Session) {
    let capabilities = |flags: &[&str]| {
        let arguments =
            [&["run", "--rm"], flags, &["busybox:latest", "grep", "CapEff", "/proc/self/status"]].concat();
        s.run(&arguments).ok().out().split_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(capabilities(&[]), "00000000a80425fb");
    assert_eq!(capabilities(&["--cap-drop", "ALL"]), "0000000000000000");
    assert_eq!(capabilities(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"]), "0000000000001000");
    assert_eq!(capabilities(&["-u", "app"]), "0000000000000000");
    assert_ne!(s.shell("mount -t tmpfs none /srv").code, 0);
    s.run(&["run", "--rm", "--privileged", "busybox:latest", "mount", "-t", "tmpfs", "none", "/srv"]).ok();
    let flags =
        ["--security-opt", "no-new-privileges", "busybox:latest", "grep", "NoNewPrivs", "/proc/self/status"];
    s.run(&[&["run", "--rm"], &flags[..]].concat()).ok().prints("NoNewPrivs:\t1\n");
}

fn limits_of_processes_are_set(s: &Session) {
    let flags =
        ["run", "--rm", "--ulimit", "nofile=123:456", "busybox:latest", "sh", "-c", "ulimit -n; ulimit -Hn"];
    s.run(&flags).ok().prints("123\n456\n");
}

fn a_read_only_root_is_read_only_and_a_tmpfs_is_not(s: &Session) {
    let script = "touch /srv/x 2>&1 || echo refused; touch /scratch/x && echo written";
    let output =
        s.run(&["run", "--rm", "--read-only", "--tmpfs", "/scratch", "busybox:latest", "sh", "-c", script]);
    let output = output.ok();
    assert!(output.out().contains("Read-only file system"), "{output}");
    assert!(output.out().ends_with("refused\nwritten\n"), "{output}");
}

fn nothing_of_a_container_is_seen_by_the_next(s: &Session) {
    s.shell("echo mine >/srv/plain.txt; touch /new").ok();
    s.shell("cat /srv/plain.txt; ls /new 2>/dev/null || echo none").ok().prints("data\nnone\n");
}

fn much_output_arrives_whole(s: &Session) {
    let output = s.shell("yes 0123456789abcde | head -c 8000000").ok();
    assert_eq!(output.stdout.len(), 8_000_000);
    assert!(output.stdout.chunks(16).all(|line| line == b"0123456789abcde\n"), "every byte in its place");
}

fn much_input_arrives_whole(s: &Session) {
    let bytes: Vec<u8> = (0..4_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let expected = digest(&bytes).replace("sha256:", "");
    let output = s.cmd(&["run", "-i", "--rm", "busybox:latest", "sha256sum"]).stdin(bytes).run().ok();
    assert_eq!(output.out().split_whitespace().next(), Some(expected.as_str()));
}

fn a_reader_that_goes_away_ends_nothing_else(s: &Session) {
    let name = s.name("endless");
    let mut running = s
        .cmd(&[
            "run",
            "--name",
            &name,
            "busybox:latest",
            "sh",
            "-c",
            "while :; do echo again; sleep 0.1; done",
        ])
        .spawn();
    running.wait_for("again");
    running.signal(rustix::process::Signal::KILL);
    running.wait();
    let before = s.run(&["logs", &name]).ok().out().lines().count();
    hyper_e2e::command::wait_until("the container writes on", || {
        s.run(&["logs", &name]).ok().out().lines().count() > before + 3
    });
    s.run(&["rm", "-f", &name]).ok();
}

fn pull_happens_when_the_image_is_missing(s: &Session) {
    let full = "localhost:5000/python:3";
    let output = s.cmd(&["run", "--rm", full, "python3", "-c", "print(6 * 7)"]).run().ok().prints("42\n");
    drop(output);
    s.run(&["run", "--rm", "--pull", "never", "localhost:5000/not-here:1", "true"])
        .exits(125)
        .complains(&["no such image"]);
}

fn rm_removes_the_container(s: &Session) {
    let name = s.name("brief");
    s.run(&["run", "--rm", "--name", &name, "busybox:latest", "true"]).ok();
    let listed = s.run(&["ps", "-aq", "--filter", &format!("name={name}")]).ok();
    assert_eq!(listed.out(), "", "{listed}");
    // The name is free at once.
    s.run(&["run", "--rm", "--name", &name, "busybox:latest", "true"]).ok();
}

fn cidfile_and_labels_are_written(s: &Session) {
    let name = s.name("labelled");
    let file = s.instance.directory().join(&name);
    let flags = ["--cidfile", file.to_str().unwrap(), "--label", "a=b", "--label", "bare", "--name", &name];
    s.run(&[&["run"], &flags[..], &["busybox:latest", "true"]].concat()).ok();
    let inspected = s.inspect(&name);
    assert_eq!(inspected["Id"].as_str(), Some(std::fs::read_to_string(&file).unwrap().as_str()));
    assert_eq!(inspected["Config"]["Labels"]["a"], "b");
    assert_eq!(inspected["Config"]["Labels"]["bare"], "");
    s.run(&["rm", &name]).ok();
}

fn proc_and_sys_are_masked(s: &Session) {
    // The kernel may lack /proc/kcore; an empty file is as good.
    let script = "cat /proc/kcore /proc/keys 2>/dev/null | wc -c; echo 1 2>/dev/null >/proc/sys/kernel/panic || echo read-only";
    s.shell(script).ok().prints("0\nread-only\n");
}

fn another_kernel_is_booted(s: &Session) {
    let kernel = s.instance.directory().join("another-kernel");
    std::fs::copy(s.instance.binaries().kernel(), &kernel).unwrap();
    let output =
        s.run(&["run", "--rm", "--kernel", kernel.to_str().unwrap(), "debian:12", "uname", "-r"]).ok();
    assert!(output.out().starts_with("6.12"), "{output}");
}

fn timeline_prints_the_phases(s: &Session) {
    let name = s.name("inspected");
    s.run(&["run", "--name", &name, "busybox:latest", "true"]).ok();
    let format = "{{range .Hyper.Timeline.phases}}{{.clock}} {{.name}}, {{end}}";
    let inspected = s.run(&["inspect", "--format", format, &name]).ok().out();
    for step in
        ["host start, ", "host exit, ", "guest unite layers, ", "guest execute program, ", "guest program, "]
    {
        assert!(inspected.contains(step), "{step:?} in {inspected}");
    }
    s.run(&["rm", &name]).ok();
    let output = s.run(&["run", "--rm", "--timeline", "busybox:latest", "true"]).ok();
    assert_eq!(output.out(), "", "the program's own output stays alone");
    for step in ["total", "create container", "start process", "unite layers"] {
        assert!(output.err().contains(step), "{step:?} in {output}");
    }
}
