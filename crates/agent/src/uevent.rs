//! Waiting for devices: the kernel announces each one, so that nothing is polled while it is busy finding them.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel's own announcements, as against those that udev passes on (`lib/kobject_uevent.c`).
const KERNEL: u32 = 1;

/// How long to wait for an announcement before looking all the same: some changes (a device node, the name of a port)
/// follow theirs.
const TICK: Duration = Duration::from_millis(10);

/// Looks until `done` or until `patience` is over, first at once, then whenever the kernel announces something;
/// tells whether it is done.
pub(crate) async fn until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    if done() {
        return true;
    }
    // From here on nothing is missed: the socket is there before the next look.
    let announcements = open().ok();
    let begin = Instant::now();
    loop {
        if done() {
            return true;
        }
        if begin.elapsed() >= patience {
            return false;
        }
        match &announcements {
            Some(socket) => {
                // The tick is over, or something was announced: a look is due in either case.
                let _ = tokio::time::timeout(TICK, announced(socket)).await;
            }
            None => tokio::time::sleep(TICK).await,
        }
    }
}

fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
    bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
    hyper_sys::watch::watch(socket, Interest::READABLE)
}

/// Waits for an announcement and takes all that are there; what they say is not read.
async fn announced(socket: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut guard = socket.readable().await?;
    let mut buffer = [0; 64];
    while recv(socket.get_ref(), &mut buffer, RecvFlags::TRUNC).is_ok() {}
    guard.clear_ready();
    Ok(())
}
