//! A program on a terminal of its own.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::command::{Collector, DEFAULT_TIMEOUT, find};

/// A program whose standard streams are one terminal.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: File,
    screen: Collector,
    seen: usize,
}

impl Terminal {
    /// Starts `command` on a new terminal of 80 columns and 24 rows. The
    /// command's words go through `setsid --ctty`, which makes the terminal the
    /// controlling one.
    pub fn start(prefix: Command, words: &[impl AsRef<std::ffi::OsStr>]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave =
            rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
        let slave: OwnedFd = slave.unwrap();
        resize(&master, 80, 24);
        let stream = || Stdio::from(slave.try_clone().unwrap());
        let mut command = prefix;
        command.args(["setsid", "--ctty", "--wait"]).args(words).env("TERM", "xterm");
        let child = command.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
        drop(command);
        let master = File::from(master);
        let screen = Collector::start(master.try_clone().unwrap());
        Self { child, master, screen, seen: 0 }
    }

    /// Types.
    #[track_caller]
    pub fn send(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    /// Changes the window's size.
    pub fn resize(&self, columns: u16, rows: u16) {
        resize(&self.master, columns, rows);
    }

    /// Waits until `text` appears after what was waited for before.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + DEFAULT_TIMEOUT;
        loop {
            let bytes = self.screen.bytes();
            if let Some(at) = find(&bytes[self.seen..], text.as_bytes()) {
                self.seen += at + text.len();
                return;
            }
            let shown = || String::from_utf8_lossy(&bytes[self.seen..]).into_owned();
            assert!(Instant::now() < deadline, "{text:?} never appeared in {:?}", shown());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything that appeared so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.bytes()).into_owned()
    }

    /// Waits for the program's end; returns its exit status.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let deadline = Instant::now() + DEFAULT_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "no end; the terminal shows {:?}", self.screen());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(terminal: impl AsFd, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}
