//! Whether a VM does anything at all, by what the host's scheduler tells of its process.
//!
//! A guest that is slow because the host is busy waits for a processor or a disk; one that hangs waits for nothing that
//! the host knows of. (One that spins cannot be told from one that works.)

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// For so many looks it must have done next to nothing. A booting guest that is not held up does not rest for one.
const LOOKS: u32 = 15;
/// The part of that time that its threads may have run or waited for a processor, and of the looks that may have found one
/// doing so or waiting for a disk. What boots is at it all the time, however few processors it is given; one that hangs is
/// woken for its timers, and on a busy host waits for a processor each time.
const NOTHING: u32 = 3;

/// Waits until the process has done so little for so long that it will not go on; for ever where the host does not tell.
/// Returns how long that was.
pub async fn hung(pid: u32) -> Duration {
    loop {
        let before = wanted(pid);
        let mut busy = 0;
        for _ in 0..LOOKS {
            sleep(EVERY).await;
            busy += u32::from(!rests(pid));
        }
        if let (Some(before), Some(now)) = (before, wanted(pid))
            && now.saturating_sub(before) < EVERY * LOOKS / NOTHING
            && busy < LOOKS / NOTHING
        {
            return EVERY * LOOKS;
        }
    }
}

/// For how long the threads of a process have run or waited for a processor, in all.
fn wanted(pid: u32) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    for thread in threads(pid)? {
        // Nanoseconds on a processor and in its queue, and how often (`Documentation/scheduler/sched-stats.rst`).
        let text = std::fs::read_to_string(thread.join("schedstat")).ok()?;
        let mut fields = text.split_whitespace().map(|field| field.parse().ok());
        sum += Duration::from_nanos(fields.next()??) + Duration::from_nanos(fields.next()??);
    }
    Some(sum)
}

/// Whether each of its threads sleeps until something wakes it.
fn rests(pid: u32) -> bool {
    let state = |thread: PathBuf| {
        let stat = std::fs::read_to_string(thread.join("stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    };
    threads(pid).is_some_and(|mut all| all.all(|thread| matches!(state(thread), Some('S' | 'I' | 'T'))))
}

fn threads(pid: u32) -> Option<impl Iterator<Item = PathBuf>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    Some(entries.flatten().map(|entry| entry.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn process_that_sleeps_is_told_from_one_that_works() {
        let spawn = |line: &str| std::process::Command::new("/bin/sh").args(["-c", line]).spawn().unwrap();
        let (mut sleeps, mut works) = (spawn("exec sleep 1000"), spawn("while :; do :; done"));
        while !rests(sleeps.id()) {
            std::thread::yield_now();
        }
        // The clock of this test is not that of the processes: what works is found working at each look.
        assert_eq!(hung(sleeps.id()).await, Duration::from_secs(15));
        let patience = Duration::from_secs(150);
        assert!(tokio::time::timeout(patience, hung(works.id())).await.is_err());
        // That took no time: what works may have had less of a processor yet than it takes to start what sleeps.
        let slept = wanted(sleeps.id()).expect("the host tells");
        while wanted(works.id()).is_some_and(|worked| worked <= slept) {
            std::thread::yield_now();
        }
        for process in [&mut sleeps, &mut works] {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        assert_eq!((wanted(sleeps.id()), wanted(works.id())), (None, None));
    }
}
