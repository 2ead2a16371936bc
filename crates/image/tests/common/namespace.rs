//! A network of its own, where addresses are not loopback and lead nowhere else.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::have;

/// The address in it (RFC 5737: for documentation).
pub const ADDRESS: &str = "192.0.2.1";

/// Runs `work` in a network namespace that has [`ADDRESS`] and nothing else. False where that cannot
/// be: what is missing was said.
pub fn inside(work: impl AsyncFnOnce() + Send + 'static) -> bool {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return false;
    }
    if !have(&["setpriv", "unshare", "ip"]) {
        return false;
    }
    let script =
        format!("ip link set lo up && ip addr add {ADDRESS}/32 dev lo && echo ready && exec sleep infinity");
    let mut holder = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "unshare", "--net", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "a network namespace cannot be made");
    let namespace = File::open(format!("/proc/{}/ns/net", holder.id())).unwrap();
    // Threads that this one starts are in the namespace as well.
    let thread = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(work());
    });
    let ended = thread.join();
    holder.kill().unwrap();
    holder.wait().unwrap();
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
    true
}
