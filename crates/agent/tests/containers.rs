//! The agent as a library, driven over a socket pair: real containers in namespaces of this machine.
//!
//! Each test has a thread in mount, network, UTS and IPC namespaces of its own, with the agent and the host's end of
//! the link on one runtime. Disks are loop devices.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_agent::{Agent, Disks, Places};
use hyper_link::channel::Receiver;
use hyper_link::{GuestLink, HostLink};
use hyper_protocol::agent::{
    DiskAddress, FailureKind, Output, Reply, Request, SHARED_PIDS_ANNOTATION, SystemCallFilter, Writable,
};
use hyper_sys::namespace::{Namespaces, leave};
use hyper_sys::seccomp::Instruction;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use serde_json::json;
use tokio::task::LocalSet;

mod support;
use support::{Host, added, container, exec, ext4_image, init, run, skip, spec};

/// Disks that are loop devices, by LUN.
struct Loops(Vec<PathBuf>);

impl Disks for Loops {
    fn find(&self, address: &DiskAddress) -> io::Result<Option<PathBuf>> {
        let DiskAddress::Scsi { lun, .. } = address else { return Ok(None) };
        Ok(self.0.get(usize::from(*lun)).cloned())
    }

    fn scan(&self, _: &DiskAddress) {}
}

impl Loops {
    fn attach(images: &[(PathBuf, bool)]) -> Loops {
        let attach = |(image, writable): &(PathBuf, bool)| {
            let mut losetup = Command::new("losetup");
            losetup.args(["--find", "--show"]).args((!writable).then_some("--read-only"));
            PathBuf::from(run(losetup.arg(image)))
        };
        Loops(images.iter().map(attach).collect())
    }
}

/// Detaches loop devices, whatever becomes of the test.
struct Detach(Vec<PathBuf>);

impl Drop for Detach {
    fn drop(&mut self) {
        for device in &self.0 {
            let _ = Command::new("losetup").arg("--detach").arg(device).status();
        }
    }
}

/// Unmounts, whatever becomes of the test.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// A cgroup of version 2 for the test's containers.
struct TestCgroup(PathBuf);

impl TestCgroup {
    fn create() -> Option<TestCgroup> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let root = mounts.lines().find_map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            (fields[2] == "cgroup2").then(|| PathBuf::from(fields[1]))
        })?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("hyper-agent-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(TestCgroup(path))
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                let _ = fs::write(entry.path().join("cgroup.kill"), "1");
                for _ in 0..1000 {
                    if fs::remove_dir(entry.path()).is_ok() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// Connects a new session to the agent.
async fn session(agent: &std::rc::Rc<Agent>) -> Host {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let agent = agent.clone();
    tokio::task::spawn_local(async move {
        let link = GuestLink::accept(theirs).await.unwrap();
        hyper_agent::session::serve(&agent, link).await;
    });
    Host(HostLink::open(ours).await.unwrap())
}

/// Runs a test against an agent; `images` are names of disks from LUN 1 on: layers
/// (`.erofs`) and empty, writable ones.
fn with_agent(images: &[&str], test: impl AsyncFnOnce(Host, std::rc::Rc<Agent>, &Path)) {
    if !rustix::process::geteuid().is_root() {
        return skip("containers need root");
    }
    if !["mkfs.erofs", "losetup"].into_iter().all(support::installed) {
        return skip("mkfs.erofs or losetup is not installed");
    }
    let Some(cgroup) = TestCgroup::create() else { return skip("no cgroup of version 2") };
    let scratch = support::scratch();
    let mut disks = vec![(support::erofs_image(), false)];
    disks.extend(images.iter().map(|name| match name.ends_with(".erofs") {
        true => (support::erofs_layer(name), false),
        false => (ext4_image(name), true),
    }));
    let disks = Loops::attach(&disks);
    let _detach = Detach(disks.0.clone());
    let all = Namespaces { mount: true, uts: true, ipc: true, network: true, cgroup: false };
    leave(all).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let run = tempfile::tempdir_in(scratch.path()).unwrap();
    let shm = run.path().join("shm");
    fs::create_dir(&shm).unwrap();
    mount("tmpfs", &shm, "tmpfs", MountFlags::empty(), Some(c"size=1m")).unwrap();
    let _unmount = Unmount(shm.clone());
    let places = Places { run: run.path().join("containers"), cgroups: cgroup.0.clone(), shm };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let agent = Agent::new(places, Box::new(disks), false).unwrap();
        let host = session(&agent).await;
        test(host, agent.clone(), run.path()).await;
        agent.shut_down().await;
    });
    let left: Vec<_> = fs::read_dir(run.path().join("containers")).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn program_runs_and_its_output_and_exit_code_come_back() {
    with_agent(&[], async |host, _, _| {
        let spec = spec(&["sh", "-c", "echo out; echo err >&2; cat /etc/lower; exit 7"]);
        let (code, out, err) = host.run(container("a", spec)).await;
        assert_eq!((code, out.as_str(), err.as_str()), (7, "out\nfrom the image\n", "err\n"));
    });
}

#[test]
fn programs_that_cannot_run_fail_in_the_words_of_runc() {
    with_agent(&[], async |host, _, _| {
        use FailureKind::{ProgramNotExecutable, ProgramNotFound};
        let cases = [
            ("nosuch", ProgramNotFound, "exec: \"nosuch\": executable file not found in $PATH"),
            ("/x/y", ProgramNotFound, "exec: \"/x/y\": stat /x/y: no such file or directory"),
            ("/etc/passwd", ProgramNotExecutable, "exec: \"/etc/passwd\": permission denied"),
            ("/etc", ProgramNotExecutable, "exec: \"/etc\": is a directory"),
            ("/opt/garbage", ProgramNotExecutable, "exec /opt/garbage: exec format error"),
        ];
        for (index, (program, kind, message)) in cases.into_iter().enumerate() {
            let id = format!("c{index}");
            host.create(container(&id, spec(&[program]))).await;
            let failure = host.failure(Request::Start(init(&id))).await;
            assert_eq!((failure.kind, failure.message.as_str()), (kind, message));
            assert_eq!(host.output(init(&id), Output::Stdout).await, "", "{program}: output ends");
            host.delete(init(&id)).await;
        }
    });
}

#[test]
fn user_is_looked_up_in_the_containers_own_files() {
    with_agent(&[], async |host, _, _| {
        let script = "id -u; id -g; id -G; echo $HOME; : > /proc/self/fd/1 && echo reopened";
        let mut wanted = container("a", spec(&["sh", "-c", script]));
        wanted.user = Some("www-data".to_owned());
        wanted.groups = vec!["root".to_owned(), "4242".to_owned()];
        let (code, out, err) = host.run(wanted).await;
        assert_eq!((code, out.as_str(), err.as_str()), (0, "33\n33\n33 0 29 4242\n/var/www\nreopened\n", ""));

        let mut wanted = container("b", spec(&["true"]));
        wanted.user = Some("nosuch".to_owned());
        let failure = host.failure(Request::Create(Box::new(wanted))).await;
        assert_eq!(failure.kind, FailureKind::NoSuchUser);
        assert_eq!(failure.message, "unable to find user nosuch: no matching entries in passwd file");
    });
}

#[test]
fn input_reaches_the_process_whole_and_its_end_closes_it() {
    with_agent(&[], async |host, _, _| {
        let bytes: Vec<u8> = (0..2_000_000_u32).map(|n| b'a' + (n % 26) as u8).collect();
        let mut wanted = container("a", spec(&["sh", "-c", "sleep 0.1; cat"]));
        wanted.stdin = true;
        host.create(wanted).await;
        host.start(init("a")).await;
        let (out, ()) = tokio::join!(host.output(init("a"), Output::Stdout), host.input(init("a"), &bytes));
        assert!(out.as_bytes() == bytes, "{} bytes of {}", out.len(), bytes.len());
        assert_eq!(host.wait(init("a")).await.code, 0);

        let failure = host.failure(Request::WriteInput(init("nosuch"))).await;
        assert_eq!(failure.kind, FailureKind::NotFound);
        host.create(container("b", spec(&["cat"]))).await;
        assert_eq!(host.failure(Request::WriteInput(init("b"))).await.kind, FailureKind::WrongState);
        host.start(init("b")).await;
        assert_eq!(host.wait(init("b")).await.code, 0, "standard input is /dev/null");
    });
}

#[test]
fn input_of_a_process_that_reads_none_does_not_block_the_sender_for_ever() {
    with_agent(&[], async |host, _, _| {
        let mut wanted = container("a", spec(&["sh", "-c", "exec <&-; sleep 0.2"]));
        wanted.stdin = true;
        host.create(wanted).await;
        host.start(init("a")).await;
        host.input(init("a"), &vec![0; 1 << 20]).await;
        assert_eq!(host.wait(init("a")).await.code, 0);
    });
}

#[test]
fn output_that_nobody_reads_stops_the_process_and_is_lost_by_nobody() {
    with_agent(&[], async |host, _, _| {
        let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo done > /dev/shm/done";
        host.create(container("a", spec(&["sh", "-c", script]))).await;
        host.start(init("a")).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let Reply::Containers(known) = host.call(Request::List).await else { panic!() };
        assert_eq!(known[0].exit, None, "the process waits for its reader");
        let out = host.output(init("a"), Output::Stdout).await;
        assert_eq!(out.len(), 3_000_000);
        assert!(out.bytes().all(|b| b == b'x'));
        assert_eq!(host.wait(init("a")).await.code, 0);
    });
}

#[test]
fn stdio_survives_the_loss_of_sessions() {
    with_agent(&[], async |first, agent, _| {
        let mut wanted = container("a", spec(&["cat"]));
        wanted.stdin = true;
        first.create(wanted).await;
        first.start(init("a")).await;
        let sent: Vec<u8> = (0..1_500_000_u32).map(|n| (n % 251) as u8).collect();
        let sender = std::rc::Rc::new(hyper_link::channel::Sender::new());
        let pushing = sender.clone();
        let bytes = sent.clone();
        let pushed = tokio::task::spawn_local(async move {
            pushing.push(&bytes).await;
            pushing.finish();
        });
        let mut receiver = Receiver::new();
        let mut got: Vec<u8> = Vec::new();
        let mut host = first;
        for round in 0.. {
            assert!(round < 200, "no progress");
            let (reply, input) = host.0.start_call(&Request::WriteInput(init("a"))).await.unwrap();
            let Reply::Offset(offset) = reply else { panic!("{reply:?}") };
            let read =
                Request::ReadOutput { target: init("a"), output: Output::Stdout, offset: receiver.offset() };
            let (_, output) = host.0.start_call(&read).await.unwrap();
            let before = got.len();
            let take = receiver.run(output, async |piece: &[u8]| {
                if got.len() > before + 200_000 {
                    return Err(io::Error::other("enough for this session"));
                }
                got.extend_from_slice(piece);
                Ok(())
            });
            let (ended, _) = tokio::join!(take, async {
                tokio::time::timeout(Duration::from_millis(500), sender.serve(input, offset)).await
            });
            if ended.is_ok() {
                break;
            }
            // A new session; the old one ends with its last handle.
            host = session(&agent).await;
        }
        assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
        pushed.await.unwrap();
        assert_eq!(host.wait(init("a")).await.code, 0);
    });
}

#[test]
fn terminal_has_its_size_its_signals_and_one_output() {
    with_agent(&[], async |host, _, _| {
        let script = "tty; stty size; test -c /dev/console && echo console; trap 'echo INT' INT; \
                      trap 'stty size; exit 3' WINCH; echo ready; while :; do read -r line && echo got $line; done";
        let mut wanted = container("a", spec(&["sh", "-c", script]));
        wanted.spec["process"]["terminal"] = json!(true);
        wanted.spec["process"]["consoleSize"] = json!({"height": 25, "width": 83});
        wanted.stdin = true;
        host.create(wanted).await;
        let failure =
            host.failure(Request::ReadOutput { target: init("a"), output: Output::Stderr, offset: 0 }).await;
        assert_eq!(failure.kind, FailureKind::Invalid);
        host.start(init("a")).await;
        let mut seen = String::new();
        let mut receiver = Receiver::new();
        let read = Request::ReadOutput { target: init("a"), output: Output::Stdout, offset: 0 };
        let (_, stream) = host.0.start_call(&read).await.unwrap();
        let (reply, input) = host.0.start_call(&Request::WriteInput(init("a"))).await.unwrap();
        assert!(matches!(reply, Reply::Offset(0)));
        let sender = hyper_link::channel::Sender::new();
        let mut step = 0;
        let reading = receiver.run(stream, async |piece: &[u8]| {
            seen.push_str(&String::from_utf8_lossy(piece));
            let next = [("ready", "line\n"), ("got line", "\u{3}"), ("INT", "")];
            if let Some((word, answer)) = next.get(step)
                && seen.contains(word)
            {
                step += 1;
                sender.push(answer.as_bytes()).await;
                if step == 3 {
                    host.call(Request::Resize { target: init("a"), width: 99, height: 33 }).await;
                }
            }
            Ok(())
        });
        let reading = tokio::time::timeout(support::PATIENCE, reading);
        tokio::select! {
            ended = reading => ended.unwrap().unwrap(),
            served = sender.serve(input, 0) => panic!("{served:?}"),
        }
        for expected in ["/dev/pts/0\r\n25 83\r\nconsole\r\n", "got line", "INT", "33 99"] {
            assert!(seen.contains(expected), "{expected:?} in {seen:?}");
        }
        assert_eq!(host.wait(init("a")).await.code, 3);
    });
}

#[test]
fn added_process_joins_the_container_as_a_user_of_its_own() {
    with_agent(&[], async |host, _, _| {
        host.create(container("a", spec(&["sh", "-c", "echo hi > /tmp/file; sleep 60"]))).await;
        let failure = host.failure(Request::Exec(Box::new(exec("a", "early", &["true"])))).await;
        assert_eq!(failure.kind, FailureKind::WrongState);
        host.start(init("a")).await;
        let script = "until grep -q sleep /proc/1/comm; do :; done; cat /tmp/file /proc/1/cmdline | tr '\\0' ' '; id -u; \
                      cat; exit 9";
        let mut wanted = exec("a", "e", &["sh", "-c", script]);
        wanted.user = Some("www-data".to_owned());
        wanted.stdin = true;
        host.call(Request::Exec(Box::new(wanted.clone()))).await;
        assert_eq!(host.failure(Request::Exec(Box::new(wanted))).await.kind, FailureKind::AlreadyExists);
        host.start(added("a", "e")).await;
        host.input(added("a", "e"), b"typed\n").await;
        let out = host.output(added("a", "e"), Output::Stdout).await;
        assert_eq!(out, "hi\nsleep 60 33\ntyped\n");
        assert_eq!(host.wait(added("a", "e")).await.code, 9);
        host.delete(added("a", "e")).await;
        assert_eq!(host.failure(Request::Wait(added("a", "e"))).await.kind, FailureKind::NotFound);

        host.call(Request::Exec(Box::new(exec("a", "f", &["nosuch"])))).await;
        let failure = host.failure(Request::Start(added("a", "f"))).await;
        assert_eq!(failure.kind, FailureKind::ProgramNotFound);
        let mut terminal = exec("a", "t", &["tty"]);
        terminal.process["terminal"] = json!(true);
        host.call(Request::Exec(Box::new(terminal))).await;
        host.start(added("a", "t")).await;
        assert_eq!(host.output(added("a", "t"), Output::Stdout).await, "/dev/pts/0\r\n");

        assert_eq!(host.failure(Request::Delete(init("a"))).await.kind, FailureKind::WrongState);
        host.call(Request::Signal { target: init("a"), signal: 9, all: false }).await;
        assert_eq!(host.wait(init("a")).await.code, 137);
        let failure = host.failure(Request::Exec(Box::new(exec("a", "late", &["true"])))).await;
        assert_eq!(failure.kind, FailureKind::WrongState);
    });
}

#[test]
fn root_is_protected_as_the_specification_says() {
    with_agent(&[], async |host, _, _| {
        let script = "cat /etc/hosts /etc/new/file /etc/resolv.conf; \
            touch /etc/x 2>&1; touch /tmp/x 2>&1; \
            echo 1 > /proc/sys/kernel/panic 2>&1; head -c1 /proc/kcore | wc -c; \
            ls -la /dev/null /dev/ptmx /dev/fd /dev/mine | tr -s ' ' | cut -d' ' -f1,3-6,9-; \
            mkdir /sys/x 2>&1; pwd; umask; grep -E '^(CapBnd|CapEff|NoNewPrivs|Seccomp):' /proc/self/status; \
            ulimit -c; cat /proc/self/oom_score_adj";
        let mut wanted = container("a", spec(&["sh", "-c", script]));
        wanted.files.insert("/etc/hosts".to_owned(), "127.0.0.1 localhost\n".to_owned());
        wanted.files.insert("/etc/new/file".to_owned(), "made\n".to_owned());
        wanted.files.insert("/etc/resolv.conf".to_owned(), "nameserver 192.0.2.1\n".to_owned());
        wanted.spec["root"]["readonly"] = json!(true);
        wanted.spec["process"]["cwd"] = json!("/srv/made");
        wanted.spec["process"]["noNewPrivileges"] = json!(true);
        wanted.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
        wanted.spec["process"]["oomScoreAdj"] = json!(123);
        wanted.spec["process"]["user"]["umask"] = json!(0o027);
        wanted.spec["process"]["capabilities"] = json!({"bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_NOSUCH"],
            "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]});
        wanted.filter = Some(filter(&[]));
        wanted.spec["linux"]["devices"] = json!([
            {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 33, "gid": 33}]);
        wanted.spec["mounts"].as_array_mut().unwrap().push(
            json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=700"]}));
        let (code, out, err) = host.run(wanted).await;
        let expected = [
            "127.0.0.1 localhost",
            "made",
            "nameserver 192.0.2.1",
            "touch: /etc/x: Read-only file system",
            "0",
        ];
        let lines: Vec<&str> = out.lines().collect();
        for line in expected {
            assert!(lines.contains(&line), "{line:?} in {out}{err}");
        }
        for part in [
            "/dev/fd -> /proc/self/fd",
            "/dev/ptmx -> pts/ptmx",
            "crw-rw-rw- root root 1, 3",
            "crw-r----- 33 33 1, 5",
            "mkdir: can't create directory '/sys/x'",
            "\n/srv/made\n",
            "\n0027\n",
            "CapBnd:\t0000000000000021\n",
            "CapEff:\t0000000000000020\n",
            "NoNewPrivs:\t1\n",
            "Seccomp:\t2\n",
            "\n0\n123\n",
        ] {
            assert!(out.replace("www-data", "33").contains(part), "{part:?} in {out}{err}");
        }
        assert!(!out.contains("/tmp/x"), "/tmp is writable: {out}");
        assert!(
            err.contains("can't create /proc/sys/kernel/panic")
                || out.contains("can't create /proc/sys/kernel/panic")
        );
        assert_eq!(code, 0, "{out}{err}");
    });
}

/// `__NR_mkdir` and `__NR_mkdirat` of `asm/unistd_64.h`.
const MKDIR: u32 = 83;
const MKDIRAT: u32 = 258;

/// A filter that refuses some system calls, by their numbers on x86-64, as not supported and allows all others.
fn filter(refused: &[u32]) -> SystemCallFilter {
    // BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K and BPF_RET | BPF_K of linux/bpf_common.h.
    let instruction =
        |code, jump_false, operand| Instruction { code, jump_true: 0, jump_false, operand }.to_bytes();
    let mut program = vec![instruction(0x20, 0, 0)];
    for &number in refused {
        program.push(instruction(0x15, 1, number));
        program.push(instruction(0x06, 0, 0x0005_0000 | 95));
    }
    program.push(instruction(0x06, 0, 0x7fff_0000));
    SystemCallFilter { program: STANDARD.encode(program.concat()), flags: 0 }
}

#[test]
fn what_is_no_filter_is_refused() {
    with_agent(&[], async |host, _, _| {
        for program in ["", "=", "AAAA", &STANDARD.encode([0; 8 * 4097])] {
            let mut wanted = container("a", spec(&["true"]));
            wanted.filter = Some(SystemCallFilter { program: program.to_owned(), flags: 0 });
            let failure = host.failure(Request::Create(Box::new(wanted))).await;
            assert_eq!(failure.kind, FailureKind::Invalid, "{failure:?}");
        }
        let mut wanted = container("a", spec(&["true"]));
        wanted.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        let failure = host.failure(Request::Create(Box::new(wanted))).await;
        assert_eq!(failure.kind, FailureKind::Unsupported, "{failure:?}");
    });
}

#[test]
fn seccomp_profile_holds_with_and_without_new_privileges() {
    with_agent(&[], async |host, _, _| {
        for (index, no_new_privileges) in [false, true].into_iter().enumerate() {
            let mut wanted =
                container(&format!("c{index}"), spec(&["sh", "-c", "mkdir /tmp/x; mkdir /tmp/y; echo on"]));
            wanted.user = Some("33".to_owned());
            wanted.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
            wanted.filter = Some(filter(&[MKDIR, MKDIRAT]));
            let (code, out, err) = host.run(wanted).await;
            assert_eq!((code, out.as_str()), (0, "on\n"), "{err}");
            assert_eq!(err.matches("Operation not supported").count(), 2, "{err}");
        }
    });
}

#[test]
fn containers_of_a_pod_share_network_names_and_memory_but_not_processes_or_files() {
    with_agent(&[], async |host, _, _| {
        run(Command::new("ip").args(["link", "set", "lo", "up"]));
        let serve = "echo shared > /dev/shm/word; touch /tmp/mine; sleep 64 & nc -l -p 4000 -e echo hello";
        host.create(container("db", spec(&["sh", "-c", serve]))).await;
        host.start(init("db")).await;
        let ask = "until nc 127.0.0.1 4000 2> /dev/null; do sleep 0.05; done; cat /dev/shm/word; ls /tmp; \
                   hostname; ps | grep -c '[s]leep 64'";
        let (_, out, err) = host.run(container("web", spec(&["sh", "-c", ask]))).await;
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        assert_eq!(out, format!("hello\nshared\n{name}\n0\n"), "{err}");

        let mut wanted = container("own", spec(&["hostname"]));
        wanted.spec["hostname"] = json!("other");
        assert_eq!(host.run(wanted).await.1, "other\n");
        assert_eq!(rustix::system::uname().nodename().to_string_lossy(), name, "the pod keeps its name");

        host.create(container("first", spec(&["sleep", "61"]))).await;
        host.start(init("first")).await;
        let mut wanted = container("second", spec(&["sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '"]));
        wanted.pid_of = Some("first".to_owned());
        assert_eq!(host.run(wanted).await.1, "sleep 61 ");
    });
}

#[test]
fn containers_of_a_pod_share_their_processes_where_it_says_so() {
    with_agent(&[], async |host, _, _| {
        let shared = |id: &str, script: &str| {
            let mut wanted = container(id, spec(&["sh", "-c", script]));
            let namespaces = wanted.spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "pid");
            wanted.spec["annotations"] = json!({SHARED_PIDS_ANNOTATION: "true"});
            wanted
        };
        host.create(shared("one", "sleep 71 & exec sleep 72")).await;
        host.start(init("one")).await;
        // The first process is nobody's, and nobody looks into it.
        let look = "until ps | grep -q '[s]leep 71'; do sleep 0.05; done; cat /proc/1/comm; \
                    ls /proc/1/root/ /proc/1/fd > /dev/null 2>&1 || echo closed; \
                    kill -9 1; [ $$ != 1 ] && echo beside";
        let (_, out, err) = host.run(shared("two", look)).await;
        assert_eq!(out, "pod-pids\nclosed\nbeside\n", "{err}");
        // With its first process all of a container ends, and nothing of another.
        let (code, out, _) = host.run(shared("three", "sleep 73 & sleep 74 & exit 3")).await;
        assert_eq!((code, out.as_str()), (3, ""));
        let left = "ps | grep '[s]leep 7' | sed 's/.* //' | sort";
        assert_eq!(host.run(shared("four", left)).await.1, "71\n72\n");
        // Alone among them.
        let own = container("own", spec(&["sh", "-c", "ps | grep -c '[s]leep 7'; echo $$"]));
        assert_eq!(host.run(own).await.1, "0\n1\n");
        host.call(Request::Signal { target: init("one"), signal: 9, all: false }).await;
        assert_eq!(host.wait(init("one")).await.code, 137);
        assert_eq!(host.run(shared("five", left)).await.1, "");
    });
}

#[test]
fn processes_are_signalled_frozen_counted_and_listed() {
    with_agent(&[], async |host, _, _| {
        let script = "trap 'echo TERM; exit 4' TERM; echo up; while :; do sleep 0.01; done";
        host.create(container("a", spec(&["sh", "-c", script]))).await;
        host.start(init("a")).await;
        // Before its trap is set, a first process does not hear signals at all.
        let (_, stream) = host
            .0
            .start_call(&Request::ReadOutput { target: init("a"), output: Output::Stdout, offset: 0 })
            .await
            .unwrap();
        let up = Receiver::new().run(stream, async |_: &[u8]| Err(io::Error::other("enough"))).await;
        assert!(up.is_err());
        host.call(Request::Pause("a".to_owned())).await;
        assert_eq!(host.failure(Request::Pause("a".to_owned())).await.kind, FailureKind::WrongState);
        let Reply::Containers(known) = host.call(Request::List).await else { panic!() };
        assert!(known[0].paused && known[0].pid.is_some() && known[0].exit.is_none(), "{known:?}");
        host.call(Request::Signal { target: init("a"), signal: 15, all: false }).await;
        let waited = tokio::time::timeout(Duration::from_millis(200), host.wait(init("a"))).await;
        assert!(waited.is_err(), "a frozen process does not end");
        host.call(Request::Resume("a".to_owned())).await;
        let exit = host.wait(init("a")).await;
        assert_eq!((exit.code, exit.oom_killed), (4, false));
        assert!(host.output(init("a"), Output::Stdout).await.ends_with("TERM\n"));
        host.delete(init("a")).await;

        host.create(container("b", spec(&["sh", "-c", "sleep 62 & sleep 62 & wait"]))).await;
        let pid = host.start(init("b")).await;
        let mut processes: Vec<hyper_protocol::agent::Process> = Vec::new();
        while processes.iter().filter(|p| p.command == "sleep 62").count() < 2 {
            let Reply::Processes(found) = host.call(Request::Processes("b".to_owned())).await else {
                panic!()
            };
            processes = found;
        }
        assert!(
            processes.iter().any(|p| p.pid == pid && p.uid == 0 && p.command.contains("wait")),
            "{processes:?}"
        );
        assert!(processes.iter().any(|p| p.ppid == pid && p.command == "sleep 62"), "{processes:?}");
        let Reply::Stats(stats) = host.call(Request::Stats("b".to_owned())).await else { panic!() };
        assert!(stats.cpus > 0 && stats.guest_cpu_us > 0 && stats.memory_limit > 0, "{stats:?}");
        host.call(Request::Signal { target: init("b"), signal: 9, all: true }).await;
        assert_eq!(host.wait(init("b")).await.code, 137);
        let bad = Request::Signal { target: init("b"), signal: 65, all: true };
        assert_eq!(host.failure(bad).await.kind, FailureKind::Invalid);
    });
}

#[test]
fn end_of_the_first_process_ends_all_others() {
    with_agent(&[], async |host, _, _| {
        host.create(container("a", spec(&["sh", "-c", "sleep 63 & sleep 63 & exit 5"]))).await;
        host.start(init("a")).await;
        let out = host.output(init("a"), Output::Stdout).await;
        assert_eq!((out.as_str(), host.wait(init("a")).await.code), ("", 5));
        let Reply::Processes(left) = host.call(Request::Processes("a".to_owned())).await else { panic!() };
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn writable_disk_keeps_what_was_written() {
    with_agent(&["keeps.ext4"], async |host, _, _| {
        let disk = Writable::Ext4(DiskAddress::Scsi { target: 0, lun: 1 });
        let mut wanted =
            container("a", spec(&["sh", "-c", "rm /etc/lower; echo kept > /etc/upper; stat -c %a /"]));
        wanted.writable = disk.clone();
        assert_eq!(host.run(wanted).await, (0, "755\n".to_owned(), String::new()));
        let mut wanted = container("a", spec(&["sh", "-c", "ls /etc; cat /etc/upper"]));
        wanted.writable = disk.clone();
        assert_eq!(host.run(wanted).await.1, "group\npasswd\nresolv.conf\nupper\nkept\n");
        // Without layers, what was written is all there is.
        let mut wanted = container("b", spec(&["/nosuch"]));
        wanted.writable = disk;
        wanted.layers.clear();
        host.create(wanted).await;
        assert_eq!(host.failure(Request::Start(init("b"))).await.kind, FailureKind::ProgramNotFound);
    });
}

#[test]
fn upper_layers_cover_and_remove_what_is_in_lower_ones() {
    with_agent(&["top.erofs"], async |host, _, _| {
        let mut wanted = container("a", spec(&["sh", "-c", "cat /etc/lower; ls /etc; stat -c %a /"]));
        wanted.layers.push(DiskAddress::Scsi { target: 0, lun: 1 });
        let (_, out, err) = host.run(wanted).await;
        assert_eq!(out, "from the top\nlower\npasswd\nresolv.conf\n711\n", "{err}");
    });
}

#[test]
fn links_of_an_image_do_not_lead_out_of_it() {
    with_agent(&[], async |host, _, run| {
        let outside = run.join("outside");
        fs::create_dir(&outside).unwrap();
        let mut wanted =
            container("a", spec(&["sh", "-c", "ls -d /etc/escaped /tmp/escaped 2>&1; cat /tmp/escaped/f"]));
        // `/bin/..` and the like stay inside as well.
        wanted.spec["mounts"].as_array_mut().unwrap().push(json!({"destination":
            format!("/../../../../{}/made", outside.display()), "type": "tmpfs", "source": "tmpfs", "options": []}));
        wanted.files.insert("/../tmp/escaped/f".to_owned(), "inside\n".to_owned());
        let (_, out, err) = host.run(wanted).await;
        assert!(out.ends_with("inside\n"), "{out}{err}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing is made outside");
        assert!(!Path::new("/tmp/escaped").exists());
    });
}

/// Makes a request bad.
type Spoil = fn(&mut hyper_protocol::agent::Container);

#[test]
fn requests_that_make_no_sense_are_refused_and_leave_nothing() {
    with_agent(&[], async |host, _, _| {
        let refused = async |change: Spoil| {
            let mut wanted = container("a", spec(&["true"]));
            change(&mut wanted);
            host.failure(Request::Create(Box::new(wanted))).await
        };
        let cases: [(&str, FailureKind, Spoil); 9] = [
            ("is no name", FailureKind::Invalid, |c| c.id = "../x".to_owned()),
            ("not valid", FailureKind::Invalid, |c| c.spec = json!(7)),
            ("no process", FailureKind::Invalid, |c| c.spec["process"] = json!(null)),
            ("does not exist in the guest", FailureKind::Unsupported, |c| {
                c.spec["mounts"] = json!([{"destination": "/x", "type": "bind", "source": "/nosuch/dir"}]);
            }),
            ("find the filesystem nosuchfs", FailureKind::System, |c| {
                c.spec["mounts"] = json!([{"destination": "/x", "type": "nosuchfs"}]);
            }),
            ("kernel.panic", FailureKind::Unsupported, |c| {
                c.spec["linux"]["sysctl"] = json!({"kernel.panic": "1"});
            }),
            ("rlimit", FailureKind::Invalid, |c| {
                c.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_X", "soft": 0, "hard": 0}]);
            }),
            ("swappiness", FailureKind::Unsupported, |c| {
                c.spec["linux"]["resources"]["memory"] = json!({"swappiness": 1});
            }),
            ("PID namespace", FailureKind::Unsupported, |c| {
                c.spec["linux"]["namespaces"] = json!([{"type": "mount"}]);
            }),
        ];
        for (words, kind, change) in cases {
            let failure = refused(change).await;
            assert!(failure.message.contains(words) && failure.kind == kind, "{words}: {failure:?}");
        }
        let Reply::Containers(known) = host.call(Request::List).await else { panic!() };
        assert!(known.is_empty());
        assert_eq!(host.run(container("a", spec(&["echo", "fine"]))).await.1, "fine\n");
    });
}

#[test]
fn container_that_was_never_started_is_deleted_and_its_name_is_free_again() {
    with_agent(&[], async |host, _, _| {
        for _ in 0..3 {
            host.create(container("a", spec(&["true"]))).await;
            let again = host.failure(Request::Create(Box::new(container("a", spec(&["true"]))))).await;
            assert_eq!(again.kind, FailureKind::AlreadyExists);
            host.delete(init("a")).await;
        }
        assert_eq!(host.failure(Request::Delete(init("a"))).await.kind, FailureKind::NotFound);
    });
}

#[test]
fn bytes_that_are_no_request_get_an_answer() {
    with_agent(&[], async |host, _, _| {
        use tokio::io::AsyncWriteExt;
        for body in [&b"{}"[..], b"nonsense", b"{\"start\":7}", b""] {
            let mut stream = host.0.stream().await.unwrap();
            stream.write_all(&(body.len() as u32).to_be_bytes()).await.unwrap();
            stream.write_all(body).await.unwrap();
            let reply: Option<Reply> = hyper_link::read_frame(&mut stream).await.unwrap();
            let Some(Reply::Failed(failure)) = reply else { panic!("{reply:?}") };
            assert_eq!(failure.kind, FailureKind::Invalid);
        }
        let mut stream = host.0.stream().await.unwrap();
        stream.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        let reply: Option<Reply> = hyper_link::read_frame(&mut stream).await.unwrap();
        assert!(matches!(reply, Some(Reply::Failed(_))), "{reply:?}");
        assert!(matches!(host.call(Request::Ping).await, Reply::Pong { .. }));
    });
}

#[test]
fn memory_shared_by_the_pod_grows_to_the_largest_wish() {
    with_agent(&[], async |host, _, _| {
        let (_, out, _) =
            host.run(container("a", spec(&["sh", "-c", "df -k /dev/shm | tail -1 | tr -s ' '"]))).await;
        assert!(out.starts_with("tmpfs 65536 "), "{out}");
    });
}
