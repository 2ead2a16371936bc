//! The agent as a library, driven over a socket pair: real containers in namespaces of this machine.
//!
//! Each test has a thread in mount, network, UTS and IPC namespaces of its own, with the agent and the host's end of
//! the link on one runtime. Disks are loop devices.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hyper_agent::{Agent, Disks, Places};
use hyper_link::channel::Receiver;
use hyper_link::{GuestLink, HostLink};
use hyper_protocol::agent::{DiskAddress, FailureKind, Output, Reply, Request, Target, Writable};
use hyper_sys::namespace::{Namespaces, leave};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
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

/// Runs a test against an agent; `images` are further disks from LUN 1 on, with whether they are writable.
fn with_agent(images: &[(PathBuf, bool)], test: impl AsyncFnOnce(Host, std::rc::Rc<Agent>, &Path)) {
    if !rustix::process::geteuid().is_root() {
        return skip("containers need root");
    }
    if !["mkfs.erofs", "losetup"].into_iter().all(support::installed) {
        return skip("mkfs.erofs or losetup is not installed");
    }
    let Some(cgroup) = TestCgroup::create() else { return skip("no cgroup of version 2") };
    let mut disks = vec![(support::erofs_image(), false)];
    disks.extend_from_slice(images);
    let disks = Loops::attach(&disks);
    let _detach = Detach(disks.0.clone());
    let all = Namespaces { mount: true, uts: true, ipc: true, network: true, cgroup: false };
    leave(all).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let run = tempfile::tempdir_in(support::scratch()).unwrap();
    let shm = run.path().join("shm");
    fs::create_dir(&shm).unwrap();
    mount("tmpfs", &shm, "tmpfs", MountFlags::empty(), Some(c"size=1m")).unwrap();
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
