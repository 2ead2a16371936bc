//! What an engine leaves when the test program is killed.
//!
//! An engine's daemon and shims outlive everybody by design, so each [`Instance`](crate::Instance) has a guardian: a
//! process that ends them and removes the directory when the test program ends without having done so. What is left
//! when guardians are killed as well, the next run finds by the note in the directory.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::instance::kill;
use crate::leftovers;

/// Beginning of the names of all engines' directories, in `/tmp`.
pub const PREFIX: &str = "he-";
/// Name of the note in an engine's directory: process number and start time of the test program.
const OWNER: &str = "owner";
/// How often what is left is killed again: a process may start another just then.
const ROUNDS: usize = 20;
/// Pause between.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads the directory, then waits for a word. Its own words and environment must not have the directory's name, by
/// which it finds the others.
const SCRIPT: &str = r#"
read -r directory || exit 0
read -r ended && exit 0
for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    left=
    for process in /proc/[0-9]*; do
        grep -qsaF -- "$directory/" "$process/cmdline" "$process/environ" || continue
        kill -KILL "${process#/proc/}" 2>/dev/null && left=1
    done
    [ -n "$left" ] || break
    sleep 0.1
done
rm -rf -- "$directory"
"#;

/// Ends an engine when this program ends.
#[derive(Debug)]
pub struct Guardian {
    process: Child,
}

impl Guardian {
    /// Guards the engine in `directory`.
    pub fn new(directory: &Path) -> Self {
        let own = std::process::id();
        let note = format!("{own} {}\n", start_time(own).expect("this process exists"));
        fs::write(directory.join(OWNER), note).unwrap();
        // A session of its own: what ends our process group spares it.
        let mut process = Command::new("setsid")
            .args(["sh", "-c", SCRIPT, "guardian"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("setsid is part of util-linux");
        let line = format!("{}\n", directory.display());
        process.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
        Self { process }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.process.stdin.take() {
            let _ = stdin.write_all(b"ended\n");
        }
        let _ = self.process.wait();
    }
}

/// Ends the engines of test programs that are no more, and removes their directories.
pub fn sweep_dead_runs() {
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let directory = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let note = fs::read_to_string(directory.join(OWNER)).unwrap_or_default();
        let owner = note.trim().split_once(' ').and_then(|(pid, start)| Some((pid.parse().ok()?, start)));
        let Some((pid, start)) = owner.filter(|_| ours) else { continue };
        // Another process may have got the number since.
        if start_time(pid).as_deref() != Some(start) {
            eprintln!("removing what a test program that was killed has left in {}", directory.display());
            sweep(&directory);
        }
    }
}

fn sweep(directory: &Path) {
    for _ in 0..ROUNDS {
        let left = leftovers::named(directory);
        if left.is_empty() {
            break;
        }
        left.iter().for_each(|process| kill(process.pid, Signal::KILL));
        std::thread::sleep(PAUSE);
    }
    let _ = fs::remove_dir_all(directory);
}

/// When a process was started, in clock ticks since boot (`proc_pid_stat(5)`); `None` when there is none or it is a
/// zombie.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    (fields.first() != Some(&"Z")).then(|| fields.get(19).copied().unwrap_or_default().to_owned())
}
