//! What containers and their processes use.

use std::collections::BTreeMap;
use std::fs;

use hyper_protocol::agent::{InterfaceStats, Process, Stats};

use crate::cgroup::Cgroup;
use crate::memory::guest_memory;

/// Ticks of processor time in a second (`USER_HZ`), the same on every Linux of this architecture.
const TICKS: u64 = 100;

/// Most bytes shown of a command line.
const MAX_COMMAND: usize = 4096;

/// What a container and the guest around it use.
pub(crate) fn stats(cgroup: &Cgroup) -> Stats {
    let mut stats = cgroup.stats();
    let memory = guest_memory();
    stats.memory_limit = if stats.memory_limit == 0 { memory } else { stats.memory_limit.min(memory) };
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    stats.cpus = stat.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu ")).count() as u32;
    stats.guest_cpu_us = guest_cpu(&stat) * (1_000_000 / TICKS);
    stats.networks = interfaces(&fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default());
    stats
}

/// Ticks of all states of all processors: busy and idle, without the guests of this guest, which are counted
/// as user time already.
fn guest_cpu(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    line.split_whitespace().take(8).filter_map(|n| n.parse::<u64>().ok()).sum()
}

/// `/proc/net/dev`, without the loopback.
fn interfaces(text: &str) -> BTreeMap<String, InterfaceStats> {
    text.lines()
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let counters: Vec<u64> = counters.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            let [
                rx_bytes,
                rx_packets,
                rx_errors,
                rx_dropped,
                _,
                _,
                _,
                _,
                tx_bytes,
                tx_packets,
                tx_errors,
                tx_dropped,
                ..,
            ] = counters[..]
            else {
                return None;
            };
            let counters = InterfaceStats {
                rx_bytes,
                rx_packets,
                rx_errors,
                rx_dropped,
                tx_bytes,
                tx_packets,
                tx_errors,
                tx_dropped,
            };
            Some((name.trim().to_owned(), counters))
        })
        .filter(|(name, _)| name != "lo")
        .collect()
}

/// The processes of a container; one that ends meanwhile is left out.
pub(crate) fn processes(cgroup: &Cgroup) -> Vec<Process> {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = stat.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or(0);
    cgroup.processes().into_iter().filter_map(|pid| process(pid, boot)).collect()
}

fn process(pid: u32, boot: i64) -> Option<Process> {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}"));
    let stat = String::from_utf8_lossy(&read("stat").ok()?).into_owned();
    let status = String::from_utf8_lossy(&read("status").ok()?).into_owned();
    let uid = status.lines().find_map(|l| l.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())?;
    let mut arguments = read("cmdline").ok()?;
    arguments.truncate(MAX_COMMAND);
    let command: Vec<_> =
        arguments.split(|&b| b == 0).map(String::from_utf8_lossy).filter(|a| !a.is_empty()).collect();
    let parsed = Stat::parse(&stat)?;
    Some(Process {
        pid,
        ppid: parsed.ppid,
        uid,
        started_unix: boot + (parsed.start / TICKS).cast_signed(),
        cpu_ms: parsed.cpu * (1000 / TICKS),
        tty: terminal(parsed.tty),
        name: parsed.name.to_owned(),
        command: if command.is_empty() { format!("[{}]", parsed.name) } else { command.join(" ") },
    })
}

/// Fields of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat<'a> {
    name: &'a str,
    ppid: u32,
    tty: u32,
    /// Ticks in user and kernel mode.
    cpu: u64,
    /// Ticks after boot.
    start: u64,
}

impl Stat<'_> {
    fn parse(text: &str) -> Option<Stat<'_>> {
        // The name may contain anything, parentheses and spaces included; it ends at the last parenthesis.
        let (before, after) = text.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Stat {
            name,
            ppid: number(1)? as u32,
            tty: fields.get(4)?.parse::<i32>().ok()?.cast_unsigned(),
            cpu: number(11)? + number(12)?,
            start: number(19)?,
        })
    }
}

/// Name of a terminal by its device number, in the kernel's packed form.
fn terminal(device: u32) -> String {
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    // Majors 136 to 143 are UNIX98 terminals (`Documentation/admin-guide/devices.txt`).
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_process_calls_itself() {
        let text = "42 (a) b (c) S 1 42 42 34816 42 0 0 0 0 0 7 3 0 0 20 0 1 0 500 0 0";
        let expected = Stat { name: "a) b (c", ppid: 1, tty: 34816, cpu: 10, start: 500 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(terminal(34816), "pts/0");
        assert_eq!(terminal(0), "?");
    }

    #[test]
    fn interface_counters_are_read_without_the_loopback() {
        let text = "Inter-|\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let found = interfaces(text);
        assert_eq!(found.len(), 1);
        assert_eq!((found["eth0"].rx_bytes, found["eth0"].tx_bytes, found["eth0"].tx_dropped), (10, 50, 8));
    }

    #[test]
    fn own_process_is_described() {
        let found = process(std::process::id(), 0).unwrap();
        assert!(!found.command.is_empty());
    }
}
