//! Limits that change while a container runs, and the init that runs its program.

use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::time::Duration;

use hyper_e2e::command::wait_until_within;
use serde_json::json;

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both:
        limits_of_a_running_container_change,
        an_update_gives_another_restart_policy,
        an_init_reaps_what_others_leave,
        an_init_hands_signals_on_and_the_exit_code_back,
        a_cpuset_is_of_the_vms_processors,
        limits_of_swap_hold_without_any,
        rules_for_devices_hold,
    ]
    .to_vec();
    cases.extend(case_list![Hyper:
        limits_beyond_the_vm_are_refused_while_it_runs,
        a_disk_of_the_host_is_a_device_of_the_container,
    ]);
    cases
}

const LONG: Duration = Duration::from_secs(120);

fn limits_of_a_running_container_change(s: &Session) {
    let limited = s.background(&["-m", "64m", "--cpus", "0.5"], "busybox:latest", &["sleep", "1000"]);
    s.run(&[
        "update",
        "-m",
        "32m",
        "--memory-swap",
        "32m",
        "--cpus",
        "0.25",
        "--pids-limit",
        "20",
        &limited.name,
    ])
    .ok()
    .prints(&format!("{}\n", limited.name));
    let host = s.inspect(&limited.name)["HostConfig"].clone();
    assert_eq!((&host["Memory"], &host["NanoCpus"]), (&json!(32 << 20), &json!(250_000_000)));
    assert_eq!(host["PidsLimit"], 20);
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max";
    let seen = s.run(&["exec", &limited.name, "sh", "-c", script]).ok().out();
    assert_eq!(seen, "33554432\n25000 100000\n20\n");
    // It is written down, not only done.
    s.run(&["restart", "-t", "0", &limited.name]).ok();
    assert_eq!(s.run(&["exec", &limited.name, "sh", "-c", script]).ok().out(), seen);
    s.run(&["update", "--pids-limit", "-1", &limited.name]).ok();
    s.run(&["exec", &limited.name, "cat", "/sys/fs/cgroup/pids.max"]).ok().prints("max\n");
    s.run(&["update", "-m", "1k", &limited.name])
        .exits(1)
        .complains(&["Minimum memory limit allowed is 6MB"]);
    s.run(&["update", "-m", "64m", "nobody-has-this-name"]).exits(1).complains(&["No such container"]);
}

fn limits_beyond_the_vm_are_refused_while_it_runs(s: &Session) {
    let limited = s.background(&["-m", "64m", "--cpus", "1"], "busybox:latest", &["sleep", "1000"]);
    let refused = s.run(&["update", "-m", "1g", &limited.name]).exits(1);
    refused.complains(&["memory limit of 1024 MiB is more than the 160 MiB of its VM", "stop the container"]);
    s.run(&["update", "--cpus", "2", &limited.name])
        .exits(1)
        .complains(&["2 CPUs are more than the 1 of its VM"]);
    s.run(&["stop", "-t", "0", &limited.name]).ok();
    s.run(&["update", "-m", "300m", "--cpus", "2", &limited.name]).ok();
    s.run(&["start", &limited.name]).ok();
    s.run(&["exec", &limited.name, "cat", "/sys/fs/cgroup/memory.max"]).ok().prints("314572800\n");
    s.run(&["exec", &limited.name, "nproc"]).ok().prints("2\n");
    assert_eq!(s.inspect(&limited.name)["Hyper"]["Pod"]["MemoryMiB"], 396);
}

fn a_cpuset_is_of_the_vms_processors(s: &Session) {
    let script = "grep -c ^processor /proc/cpuinfo; grep Cpus_allowed_list /proc/self/status";
    let c = s.background(&["--cpuset-cpus", "1"], "busybox:latest", &["sleep", "1000"]);
    s.run(&["exec", &c.name, "sh", "-c", script]).ok().prints("2\nCpus_allowed_list:\t1\n");
    assert_eq!(s.inspect(&c.name)["HostConfig"]["CpusetCpus"], "1");
    s.run(&["update", "--cpuset-cpus", "0-1", &c.name]).ok();
    s.run(&["exec", &c.name, "sh", "-c", script]).ok().prints("2\nCpus_allowed_list:\t0-1\n");
    let more = s.run(&["create", "--cpuset-cpus", "4096", "busybox:latest"]);
    assert!(more.code != 0 && more.err().contains("Requested CPUs are not available"), "{more}");
}

fn limits_of_swap_hold_without_any(s: &Session) {
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max; grep SwapTotal /proc/meminfo";
    let run = s
        .run(&["run", "--rm", "-m", "64m", "--memory-swap", "128m", "busybox:latest", "sh", "-c", script])
        .ok()
        .prints("67108864\n67108864\nSwapTotal:             0 kB\n");
    assert!(run.err().contains("Memory limited without swap"), "{run}");
    let run = s.run(&["run", "--rm", "--memory-swappiness", "40", "busybox:latest", "true"]).ok();
    assert!(run.err().contains("swappiness discarded"), "{run}");
}

fn rules_for_devices_hold(s: &Session) {
    let script = "mknod /k c 1 11; echo hyper > /k";
    let plain = s.run(&["run", "--rm", "busybox:latest", "sh", "-c", script]);
    assert!(plain.code != 0 && plain.err().contains("Operation not permitted"), "{plain}");
    let rule = ["run", "--rm", "--device-cgroup-rule", "c 1:11 w", "busybox:latest", "sh", "-c", script];
    s.run(&rule).ok();
}

/// A block device of the host that is a file.
struct Loop {
    node: String,
    image: tempfile::NamedTempFile,
}

impl Loop {
    /// `None` where the host has no loop devices.
    fn attach() -> Option<Self> {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(32 << 20).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(image.path()).output().ok()?;
        let node = String::from_utf8(made.stdout).ok()?.trim().to_owned();
        made.status.success().then_some(Self { node, image })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.node]).status();
    }
}

fn a_disk_of_the_host_is_a_device_of_the_container(s: &Session) {
    let Some(device) = Loop::attach() else {
        println!("skipped: no loop device can be made");
        return;
    };
    let asked = format!("{}:/dev/mine", device.node);
    let script = "blockdev --getsize64 /dev/mine; echo from the guest | dd of=/dev/mine conv=fsync 2>/dev/null; \
                  stat -c %F /dev/mine";
    let run = ["run", "--rm", "--device", &asked, "busybox:latest", "sh", "-c", script];
    s.run(&run).ok().prints("33554432\nblock special file\n");
    let mut seen = [0; 15];
    device.image.as_file().read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"from the guest\n");
    // What is not asked for is allowed by neither the cgroup nor the disk.
    let read_only = format!("{asked}:r");
    let script = "head -n 1 /dev/mine; echo no > /dev/mine";
    let run = s.run(&["run", "--rm", "--device", &read_only, "busybox:latest", "sh", "-c", script]);
    assert!(run.code != 0 && run.out() == "from the guest\n", "{run}");
    assert!(run.err().contains("Operation not permitted"), "{run}");
    let privileged = ["run", "--rm", "--privileged", "--device", &read_only, "busybox:latest", "sh", "-c"];
    let script = "echo no | dd of=/dev/mine conv=fsync";
    let run = s.run(&[&privileged[..], &[script]].concat());
    assert!(run.code != 0, "the disk itself cannot be written: {run}");
    // One that somebody writes to is nobody else's.
    let first = s.background(&["--device", &asked], "busybox:latest", &["sleep", "1000"]);
    assert_eq!(s.inspect(&first.name)["HostConfig"]["Devices"][0]["PathInContainer"], "/dev/mine");
    s.run(&["run", "--rm", "--device", &asked, "busybox:latest", "true"])
        .exits(125)
        .complains(&["is in use"]);
    s.run(&["restart", "-t", "0", &first.name]).ok();
    s.run(&["exec", &first.name, "head", "-n", "1", "/dev/mine"]).ok().prints("from the guest\n");
    // Docker's client takes 127 of the words.
    for (host, code, words) in [
        ("/dev/fuse", 125, "a container has a kernel of its own"),
        ("/dev/nosuch", 127, "no such file or directory"),
        ("/etc", 125, "not a device node"),
    ] {
        s.run(&["run", "--rm", "--device", host, "busybox:latest", "true"]).exits(code).complains(&[words]);
    }
}

fn an_update_gives_another_restart_policy(s: &Session) {
    let container = s.background(&[], "busybox:latest", &["sh", "-c", "echo run; sleep 2; exit 1"]);
    s.run(&["update", "--restart", "on-failure:1", &container.name]).ok();
    let policy = s.inspect(&container.name)["HostConfig"]["RestartPolicy"].clone();
    assert_eq!(policy, json!({"Name": "on-failure", "MaximumRetryCount": 1}));
    wait_until_within("it was restarted once", LONG, || {
        s.inspect(&container.name)["RestartCount"] == 1 && container.status() == "exited"
    });
    s.run(&["update", "--restart", "sometimes", &container.name]).exits(1).complains(&["sometimes"]);
}

fn an_init_reaps_what_others_leave(s: &Session) {
    let with = s.background(&["--init"], "busybox:latest", &["sleep", "1000"]);
    assert_eq!(s.inspect(&with.name)["HostConfig"]["Init"], true);
    let exec = |line: &str| s.run(&["exec", &with.name, "sh", "-c", line]).ok().out();
    assert!(exec("tr '\\0' ' ' </proc/1/cmdline").starts_with("/sbin/docker-init -- sleep 1000"));
    assert_eq!(exec("cat /proc/1/comm"), "docker-init\n");
    // A process whose parent is gone becomes a child of the init, and is no zombie when it ends.
    exec("(sleep 0.2 & echo $! >/tmp/orphan) & wait");
    wait_until_within("the orphan is reaped", LONG, || {
        exec("ls -d /proc/$(cat /tmp/orphan) 2>/dev/null || echo gone") == "gone\n"
    });
    let without = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    let first = s.run(&["exec", &without.name, "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline"]).ok().out();
    assert!(first.starts_with("sleep 1000"), "{first}");
}

fn an_init_hands_signals_on_and_the_exit_code_back(s: &Session) {
    let script = "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    let asked = s.background(&["--init"], "busybox:latest", &["sh", "-c", script]);
    asked.wait_for_log("ready");
    s.run(&["stop", &asked.name]).ok();
    assert_eq!(s.inspect(&asked.name)["State"]["ExitCode"], 7);
    assert_eq!(asked.logs(), "ready\ngot\n");
    // As process 1 a program without a handler is not ended by a signal; as a child of the init it is.
    let plain = s.background(&["--init"], "busybox:latest", &["sleep", "1000"]);
    s.run(&["kill", "-s", "TERM", &plain.name]).ok();
    s.run(&["wait", &plain.name]).ok().prints("143\n");
    s.run(&["run", "--rm", "--init", "busybox:latest", "sh", "-c", "exit 9"]).exits(9);
    s.run(&["run", "--rm", "--init", "-u", "www-data", "busybox:latest", "id", "-un"])
        .ok()
        .prints("www-data\n");
    s.run(&["run", "--rm", "--init", "busybox:latest", "nosuch"]).exits(127);
}
