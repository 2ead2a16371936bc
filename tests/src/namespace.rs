//! Network and mount namespaces, held by a process of their own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A pair of a network and a mount namespace; they vanish with the last
/// process in them.
#[derive(Debug)]
pub struct Namespace {
    holder: Holder,
}

/// Who keeps the namespaces alive.
#[derive(Debug)]
enum Holder {
    /// A process of ours.
    Own(Child),
    /// A process of somebody else, whose network namespace alone is entered.
    Foreign(u32),
}

impl Namespace {
    /// New namespaces with the loopback up, a `/sys` of their own, and
    /// `resolv_conf` as `/etc/resolv.conf`.
    pub fn new(resolv_conf: &Path) -> Self {
        let script = "mount -t sysfs sysfs /sys && mount --bind \"$1\" /etc/resolv.conf && ip link set lo up \
                      && echo ready && exec sleep infinity";
        let mut holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--mount", "--propagation", "private"])
            .args(["sh", "-c", script, "holder"])
            .arg(resolv_conf)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("setpriv and unshare are part of util-linux");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "namespaces cannot be made");
        Self { holder: Holder::Own(holder) }
    }

    /// The network namespace of the process `pid`, with the mounts of this
    /// process.
    pub fn of_process(pid: u32) -> Self {
        Self { holder: Holder::Foreign(pid) }
    }

    /// Process number of the holder.
    pub fn pid(&self) -> u32 {
        match &self.holder {
            Holder::Own(child) => child.id(),
            Holder::Foreign(pid) => *pid,
        }
    }

    /// A command to be run inside; its arguments follow.
    pub fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid().to_string(), "--net"]);
        if matches!(self.holder, Holder::Own(_)) {
            command.arg("--mount");
        }
        command.arg("--");
        command
    }

    /// Runs a shell line inside that must succeed; returns what it printed.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        let output = self.command().args(["sh", "-c", line]).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `work` in a thread whose network is this namespace's.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        })
    }

    /// The mount points inside, one `mountinfo` line each.
    pub fn mounts(&self) -> Vec<String> {
        let text = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.pid())).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Holder::Own(holder) = &mut self.holder {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}
