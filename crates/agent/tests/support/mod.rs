//! What the agent's tests share: a root filesystem of busybox, specifications, and reading to the end.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
#![allow(dead_code, reason = "each test program uses a part")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use hyper_link::channel::{Receiver, Sender};
use hyper_link::{CallError, HostLink};
use hyper_protocol::agent::{
    Container, DiskAddress, Exec, Exit, Failure, Output, Reply, Request, Target, Writable,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// No single step of a test takes longer, even in an emulated guest.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www:/var/www:/bin/sh\n";
pub const GROUP: &str = "root:x:0:\nwww-data:x:33:\naudio:x:29:www-data\n";

/// Why a test cannot run here; prints it.
pub fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}

/// Whether a program is installed.
pub fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// The scratch directory of the tests that run now; the last one to drop it removes it.
pub fn scratch() -> Arc<TempDir> {
    static SCRATCH: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    let mut shared = SCRATCH.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    shared.upgrade().unwrap_or_else(|| {
        let made = Arc::new(tempfile::Builder::new().prefix("hyper-agent-").tempdir().unwrap());
        *shared = Arc::downgrade(&made);
        made
    })
}

/// An EROFS image of busybox with a few files; made once while tests run.
pub fn erofs_image() -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let image = scratch().path().join("busybox.erofs");
    if !image.exists() {
        make_erofs(&scratch().path().join("busybox"), &image);
    }
    image
}

fn make_erofs(root: &Path, image: &Path) {
    for directory in ["bin", "etc", "tmp", "root", "var/www", "dev", "proc", "sys", "opt"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let list = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(list).unwrap().lines().filter(|a| *a != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), PASSWD).unwrap();
    fs::write(root.join("etc/group"), GROUP).unwrap();
    fs::write(root.join("etc/lower"), "from the image\n").unwrap();
    // As in images made for systemd: it leads to nothing.
    std::os::unix::fs::symlink("../run/systemd/stub", root.join("etc/resolv.conf")).unwrap();
    fs::write(root.join("opt/garbage"), [0x7f, 1, 2, 3]).unwrap();
    let mode = |path: &str, mode| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("opt/garbage", 0o755);
    mode("tmp", 0o1777);
    run(Command::new("mkfs.erofs").arg(image).arg(root));
}

/// An EROFS image of a layer to lie over [`erofs_image`]: another `/etc/lower`, no `/etc/group`.
pub fn erofs_layer(name: &str) -> PathBuf {
    let root = scratch().path().join(format!("{name}.d"));
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/lower"), "from the top\n").unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o711)).unwrap();
    run(Command::new("mknod").arg(root.join("etc/group")).args(["c", "0", "0"]));
    let image = scratch().path().join(name);
    run(Command::new("mkfs.erofs").arg(&image).arg(&root));
    image
}

/// A new, empty ext4 image.
pub fn ext4_image(name: &str) -> PathBuf {
    let image = scratch().path().join(name);
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "root_owner=0:0"]).arg(&image));
    image
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A specification like Docker's that runs `args`.
pub fn spec(args: &[&str]) -> Value {
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE"
    ]);
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "oomScoreAdj": 0,
        },
        "root": {"path": "ignored"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["ro", "nosuid", "noexec", "nodev"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"},
                {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/acpi", "/sys/firmware", "/proc/nosuch"],
            "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// A container of the busybox layer at LUN 0, with a writable layer in memory.
pub fn container(id: &str, spec: Value) -> Container {
    Container {
        id: id.to_owned(),
        spec,
        filter: None,
        layers: vec![DiskAddress::Scsi { target: 0, lun: 0 }],
        writable: Writable::Tmpfs { size: 0 },
        root: None,
        user: None,
        groups: Vec::new(),
        stdin: false,
        files: Default::default(),
        pid_of: None,
        volumes: Vec::new(),
        devices: Vec::new(),
    }
}

pub fn exec(container: &str, id: &str, args: &[&str]) -> Exec {
    let mut process = spec(args)["process"].take();
    process["cwd"] = json!("/");
    Exec {
        container: container.to_owned(),
        id: id.to_owned(),
        process,
        user: None,
        groups: Vec::new(),
        stdin: false,
    }
}

pub fn init(container: &str) -> Target {
    Target { container: container.to_owned(), exec: None }
}

pub fn added(container: &str, exec: &str) -> Target {
    Target { container: container.to_owned(), exec: Some(exec.to_owned()) }
}

/// The host's end of a session, with calls that must succeed.
#[derive(Clone)]
pub struct Host(pub HostLink);

impl Host {
    pub async fn try_call(&self, request: Request) -> Result<Reply, Failure> {
        let shown = format!("{request:?}");
        match tokio::time::timeout(PATIENCE, self.0.call(&request)).await {
            Err(_) => panic!("no answer to {shown:.200}"),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(CallError::Failed(failure))) => Err(failure),
            Ok(Err(error)) => panic!("{shown:.200}: {error:?}"),
        }
    }

    pub async fn call(&self, request: Request) -> Reply {
        let shown = format!("{request:?}");
        self.try_call(request).await.unwrap_or_else(|failure| panic!("{shown:.200}: {failure:?}"))
    }

    pub async fn failure(&self, request: Request) -> Failure {
        self.try_call(request).await.expect_err("the call must fail")
    }

    pub async fn create(&self, container: Container) {
        self.call(Request::Create(Box::new(container))).await;
    }

    pub async fn start(&self, target: Target) -> u32 {
        match self.call(Request::Start(target)).await {
            Reply::Started { pid } => pid,
            other => panic!("{other:?}"),
        }
    }

    pub async fn wait(&self, target: Target) -> Exit {
        match self.call(Request::Wait(target)).await {
            Reply::Exited(exit) => exit,
            other => panic!("{other:?}"),
        }
    }

    pub async fn delete(&self, target: Target) {
        self.call(Request::Delete(target)).await;
    }

    /// Output from the beginning to its end.
    pub async fn output(&self, target: Target, output: Output) -> String {
        let mut receiver = Receiver::new();
        let mut bytes = Vec::new();
        let request = Request::ReadOutput { target, output, offset: 0 };
        let (_, stream) = self.0.start_call(&request).await.unwrap();
        let read = receiver.run(stream, async |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        tokio::time::timeout(PATIENCE, read).await.expect("the output ends").unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sends all of a process's input.
    pub async fn input(&self, target: Target, bytes: &[u8]) {
        let (reply, stream) = self.0.start_call(&Request::WriteInput(target)).await.unwrap();
        let Reply::Offset(offset) = reply else { panic!("{reply:?}") };
        let sender = Sender::new();
        let push = async {
            sender.push(bytes).await;
            sender.finish();
        };
        let (served, ()) = tokio::join!(sender.serve(stream, offset), push);
        served.unwrap();
    }

    /// Creates, starts, reads everything, waits and deletes: exit code, standard output, standard error.
    pub async fn run(&self, container: Container) -> (u32, String, String) {
        let target = init(&container.id);
        self.create(container).await;
        self.start(target.clone()).await;
        let (out, err, exit) = tokio::join!(
            self.output(target.clone(), Output::Stdout),
            self.output(target.clone(), Output::Stderr),
            self.wait(target.clone()),
        );
        self.delete(target).await;
        (exit.code, out, err)
    }
}
