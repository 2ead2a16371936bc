//! A real dockerd to compare with: Debian's, in a root and namespaces of its own.
//!
//! The root is made once, with `mmdebstrap`, and kept in the tests' cache. The daemon has private mount and network
//! namespaces and keeps its images and containers in memory: nothing of it is left when it has ended.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::command::wait_until_within;
use crate::images;
use crate::instance::Dockerd;

/// The Debian release whose `docker.io` (26.1) it is; bookworm's is a version without much of today's API.
const RELEASE: &str = "trixie";
/// What is in the root beside the essential packages: the daemon, and `docker compose`.
const PACKAGES: &str = "docker.io,docker-compose,iproute2,iptables,ca-certificates,procps";
/// Where `docker compose` is in it; it runs by itself as well, and outside of the root.
const COMPOSE: &str = "usr/libexec/docker/cli-plugins/docker-compose";
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Prepares the root and becomes the daemon. `$1` is the root, `$2` the directory of its socket.
const SCRIPT: &str = r#"
set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"; mount --rbind /sys "$1/sys"; mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/run"; mount -t tmpfs tmpfs "$1/var/lib/docker"; mount -t tmpfs tmpfs "$1/tmp"
mkdir -p "$1$2"; mount --bind "$2" "$1$2"
ip link set lo up
cd "$1"; pivot_root . oldroot; cd /
update-alternatives --quiet --set iptables /usr/sbin/iptables-nft || true
exec dockerd --storage-driver vfs --host "unix://$2/docker.sock"
"#;

/// A running dockerd; dropping it ends it.
#[derive(Debug)]
pub struct Oracle {
    process: Child,
    directory: tempfile::TempDir,
}

impl Oracle {
    /// Starts one; the first time its root is made, which takes a minute or two.
    ///
    /// # Panics
    /// When it cannot be started, with the end of its log.
    #[must_use]
    pub fn start() -> Self {
        let root = root();
        let directory = tempfile::Builder::new().prefix("he-dockerd-").tempdir_in("/tmp").unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--mount", "--propagation", "private"])
            // What it started goes with it, however it ends.
            .args(["--pid", "--fork", "--kill-child", "bash", "-c", SCRIPT, "oracle"])
            .args([&root, directory.path()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("setpriv and unshare are part of util-linux");
        let mut oracle = Self { process, directory };
        let mut ended = false;
        wait_until_within("dockerd answers", PATIENCE, || {
            ended = oracle.process.try_wait().unwrap().is_some();
            ended || oracle.answers()
        });
        assert!(!ended, "dockerd ended:\n{}", oracle.log());
        oracle
    }

    /// Where it is reached.
    #[must_use]
    pub fn dockerd(&self) -> Dockerd {
        Dockerd::new(format!("unix://{}", self.socket().display()), self.process.id())
    }

    /// A directory that the daemon sees at the same place; the rest of its `/tmp` is its own.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    fn answers(&self) -> bool {
        let docker = crate::docker::program().unwrap_or_else(|missing| panic!("{missing}"));
        let host = format!("unix://{}", self.socket().display());
        let status = Command::new(docker)
            .args(["-H", &host, "version"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        self.socket().exists() && status.is_ok_and(|status| status.success())
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // It keeps nothing, so there is nothing to end in order.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program `docker-compose`, version 2; the first time it is fetched, which takes a minute or two.
#[must_use]
pub fn compose() -> PathBuf {
    root().join(COMPOSE)
}

/// A root whose `docker-compose` is version 1, which has a directory `mnt` to mount something on.
#[must_use]
pub fn compose_1() -> PathBuf {
    // The last release with it.
    made_root("compose-bookworm", "bookworm", "docker-compose", |_| {})
}

/// The root, made when it is not there yet.
fn root() -> PathBuf {
    made_root(&format!("dockerd-{RELEASE}-2"), RELEASE, PACKAGES, |root| {
        fs::create_dir_all(root.join("oldroot")).unwrap();
        fs::create_dir_all(root.join("var/lib/docker")).unwrap();
    })
}

/// A root of a Debian release with some packages, made when it is not there yet and then kept.
///
/// # Panics
/// It cannot be made.
pub fn made_root(name: &str, release: &str, packages: &str, finish: impl FnOnce(&Path)) -> PathBuf {
    let cache = images::cache();
    fs::create_dir_all(&cache).unwrap();
    let lock = File::create(cache.join(format!("lock-{name}"))).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let done = cache.join(name);
    if !done.exists() {
        eprintln!("making a root with {release}'s {packages}");
        let work = tempfile::tempdir_in(&cache).unwrap();
        let root = work.path().join("root");
        let status = Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", &format!("--include={packages}"), release])
            .arg(&root)
            .status()
            .unwrap();
        assert!(status.success(), "mmdebstrap failed: {status}");
        finish(&root);
        fs::rename(root, &done).unwrap();
    }
    done
}
