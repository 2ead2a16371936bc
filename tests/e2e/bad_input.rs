//! Bad input to the command line and the machine: an error that says what and
//! what next, docker's exit status, nothing left behind.

use std::io::Write;
use std::time::Duration;

use hyper_e2e::{Instance, Options};

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both:
        an_unknown_image_exits_125_and_is_named,
        malformed_words_are_refused,
        too_little_memory_is_refused_or_named,
        a_name_that_is_none_is_refused,
        a_flood_of_output_is_kept_or_held_back_but_not_lost,
        a_program_that_nobody_reads_is_held_back,
    ]
    .to_vec();
    cases.extend(case_list![Hyper:
        a_kernel_that_is_none_is_refused,
        a_kernel_that_never_answers_is_given_up,
        an_unknown_flag_or_command_is_named,
    ]);
    cases.extend(case_list![Own: a_full_disk_is_reported_and_the_next_command_works, a_broken_daemon_socket_is_an_error]);
    cases
}

fn an_unknown_image_exits_125_and_is_named(s: &Session) {
    let missing = s.run(&["run", "--rm", "localhost:5000/nosuch:1", "true"]).exits(125);
    assert!(missing.err().contains("localhost:5000/nosuch"), "{missing}");
    s.run(&["pull", "localhost:5000/busybox:nosuchtag"]).exits(1).complains(&["not found", "unknown"]);
    // Nobody listens there, and no name server knows the other.
    s.run(&["pull", "localhost:1/x:1"]).exits(1).complains(&["connection refused", "connect"]);
    s.run(&["pull", "registry.world.test/x:1"]).exits(1).complains(&["registry.world.test"]);
    // Plain HTTP is for localhost only.
    s.run(&["pull", "203.0.113.1:80/x:1"]).exits(1);
}

fn malformed_words_are_refused(s: &Session) {
    for arguments in [
        &["run", "--rm", "UPPER:case", "true"][..],
        &["run", "--rm", "busybox:bad tag", "true"],
        &["run", "--rm", "-m", "lots", "busybox:latest", "true"],
        &["run", "--rm", "--cpus", "-1", "busybox:latest", "true"],
        &["run", "--rm", "--cpus", "100000", "busybox:latest", "true"],
        &["run", "--rm", "-w", "relative", "busybox:latest", "true"],
        &["run", "--rm", "--ulimit", "nosuch=1", "busybox:latest", "true"],
        &["run", "--rm", "--cap-add", "NOSUCH", "busybox:latest", "true"],
        &["run", "--rm", "--dns", "no-address", "busybox:latest", "true"],
    ] {
        let output = s.run(arguments);
        assert_eq!(output.code, 125, "{output}");
        assert!(!output.err().trim().is_empty() && !output.err().contains("panicked"), "{output}");
    }
    let digest = format!("localhost:5000/busybox@sha256:{}", "0".repeat(64));
    s.run(&["pull", &digest]).exits(1).complains(&["not found", "unknown"]);
    s.run(&["import", "/etc/passwd", "nonsense"]).exits(1);
    s.cmd(&["load"]).stdin("this is no archive at all").run().exits(1);
}

fn too_little_memory_is_refused_or_named(s: &Session) {
    let name = s.name("tiny");
    let output = s.run(&["run", "--rm", "--name", &name, "-m", "4m", "busybox:latest", "true"]).exits(125);
    assert!(output.err().to_lowercase().contains("memory"), "{output}");
    assert_eq!(s.run(&["ps", "-aq", "--filter", &format!("name={name}")]).ok().out(), "");
}

fn a_name_that_is_none_is_refused(s: &Session) {
    for name in ["bad name", "/", "-x", "ä", "a/b"] {
        let output = s.run(&["run", "--rm", &format!("--name={name}"), "busybox:latest", "true"]).exits(125);
        output.complains(&["name"]);
    }
}

fn a_flood_of_output_is_kept_or_held_back_but_not_lost(s: &Session) {
    let container =
        s.background(&[], "busybox:latest", &["sh", "-c", "yes flood | head -c 6000000; echo end"]);
    s.cmd(&["wait", &container.name]).timeout(Duration::from_secs(120)).run().ok().prints("0\n");
    let logs = s.run(&["logs", &container.name]).ok();
    assert_eq!(logs.stdout.len(), 6_000_004);
    assert!(logs.stdout.ends_with(b"flood\nend\n"));
}

fn a_program_that_nobody_reads_is_held_back(s: &Session) {
    let name = s.name("unread");
    // The shell stops reading after one line; the program must not fill the
    // host's memory meanwhile, and must end when asked to.
    let words = s.instance.line(s.cli);
    let script =
        format!("{words} run --name {name} busybox:latest yes unread | (read line; echo \"$line\"; sleep 4)");
    s.instance.sh(&script).run().prints("unread\n");
    let log = s.instance.root().join("containers");
    let size: u64 = hyper_e2e::leftovers::files(&log)
        .iter()
        .filter(|file| file.ends_with("-json.log"))
        .map(|file| std::fs::metadata(log.join(file)).map_or(0, |metadata| metadata.len()))
        .max()
        .unwrap_or_default();
    s.run(&["rm", "-f", &name]).ok();
    assert!(size < 1 << 30, "a log of {size} bytes");
}

fn a_kernel_that_is_none_is_refused(s: &Session) {
    for (path, words) in
        [("/etc/passwd", &["kernel"][..]), ("/no/such/kernel", &["/no/such/kernel"]), ("/tmp", &["kernel"])]
    {
        let output = s.run(&["run", "--rm", "--kernel", path, "busybox:latest", "true"]).exits(125);
        output.complains(words);
    }
}

/// An x86 ELF executable with a PVH entry point that halts forever.
fn silent_kernel() -> Vec<u8> {
    const BASE: u32 = 0x10_0000;
    let mut file = Vec::new();
    let u16s = |values: &[u16]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let u32s = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let u64s = |values: &[u64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    // ELF header (ELF-64 object file format): executable, x86-64, two segments.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend([u16s(&[2, 62]), u32s(&[1]), u64s(&[u64::from(BASE), 64, 0])].concat());
    file.extend([u32s(&[0]), u16s(&[64, 56, 2, 64, 0, 0])].concat());
    // Code at 0x100, a PVH note (XEN_ELFNOTE_PHYS32_ENTRY, 18) at 0x200.
    file.extend([u32s(&[1, 5]), u64s(&[0x100, u64::from(BASE), u64::from(BASE), 4, 4, 0x1000])].concat());
    file.extend([u32s(&[4, 4]), u64s(&[0x200, 0, 0, 20, 20, 4])].concat());
    file.resize(0x100, 0);
    file.extend(b"\xfa\xf4\xeb\xfd");
    file.resize(0x200, 0);
    file.extend([u32s(&[4, 4, 18]), b"Xen\0".to_vec(), u32s(&[BASE])].concat());
    file
}

fn a_kernel_that_never_answers_is_given_up(s: &Session) {
    let path = s.instance.directory().join("silent-kernel");
    std::fs::write(&path, silent_kernel()).unwrap();
    let name = s.name("silent");
    let output = s
        .cmd(&["run", "--rm", "--name", &name, "--kernel", path.to_str().unwrap(), "busybox:latest", "true"])
        .timeout(Duration::from_secs(180))
        .run()
        .exits(125);
    output.complains(&["did not answer", "does not answer", "no answer", "timed out", "within", "boot"]);
    assert_eq!(s.run(&["ps", "-aq", "--filter", &format!("name={name}")]).ok().out(), "");
}

fn an_unknown_flag_or_command_is_named(s: &Session) {
    let output = s.run(&["run", "--no-such-flag", "busybox:latest"]).exits(125);
    assert!(output.err().contains("--no-such-flag"), "{output}");
    let output = s.run(&["no-such-command"]);
    assert!(output.code != 0 && output.err().contains("no-such-command"), "{output}");
    let output = s.run(&["build", "."]);
    assert!(output.code != 0 && output.err().contains("not supported yet"), "{output}");
}

fn a_full_disk_is_reported_and_the_next_command_works() {
    let prepare = "mount -t tmpfs -o size=160m tmpfs \"$1\"".to_owned();
    let engine = Instance::start(Options {
        images: vec!["busybox:latest"],
        prepare: Some(prepare),
        ..Options::default()
    });
    let hyper = |arguments: &[&str]| engine.hyper(arguments).run();
    let pull = engine
        .hyper(&["pull", "localhost:5000/postgres:15"])
        .timeout(Duration::from_secs(300))
        .run()
        .exits(1);
    pull.complains(&["no space left"]);
    hyper(&["run", "--rm", "busybox:latest", "echo", "works"]).ok().prints("works\n");
    // A container that fills the disk gets an error, or its machine ends; the
    // space is there again afterwards.
    let script = "dd if=/dev/urandom of=/big bs=1M count=170 conv=fsync";
    let fill = hyper(&["run", "--rm", "busybox:latest", "sh", "-c", script]);
    assert_ne!(fill.code, 0, "{fill}");
    hyper(&["run", "--rm", "busybox:latest", "echo", "works"]).ok().prints("works\n");
    // One that stays can be removed, which makes room.
    hyper(&["run", "--name", "stays", "busybox:latest", "sh", "-c", script]);
    hyper(&["rm", "stays"]).ok();
    hyper(&["run", "--rm", "busybox:latest", "echo", "works"]).ok().prints("works\n");
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn a_broken_daemon_socket_is_an_error() {
    let engine = Instance::start(Options::default());
    // Nobody can listen there, so no daemon can be started either.
    let nowhere = "unix:///proc/nowhere/x.sock";
    let output = engine.hyper(&["-H", nowhere, "ps"]).run();
    assert!(output.code != 0 && !output.err().is_empty(), "{output}");
    // Bytes that are no HTTP do not harm the daemon.
    engine.start_daemon();
    let socket = engine.run_directory().join("hyper.sock");
    for bytes in [
        &b"\0\xff\xfe garbage\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1.44/containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{",
    ] {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.write_all(bytes).unwrap();
        drop(stream);
    }
    engine.hyper(&["ps"]).run().ok();
    assert_eq!(engine.finish(), Vec::<String>::new());
}
