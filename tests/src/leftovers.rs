//! What an engine left behind on the host.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::command::find;
use crate::namespace::Namespace;

/// A process that belongs to an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its command line, words separated by spaces, at most 300 bytes.
    pub command: String,
}

/// Every process that has `directory` in its command line or environment;
/// zombies do not count.
pub fn processes(directory: &Path) -> Vec<Process> {
    let mark = directory.as_os_str().as_bytes();
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if u32::try_from(pid) == Ok(own) {
            continue;
        }
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let (command, environment) = (read("cmdline"), read("environ"));
        if command.is_empty() || (find(&command, mark).is_none() && find(&environment, mark).is_none()) {
            continue;
        }
        let shown = String::from_utf8_lossy(&command).replace('\0', " ");
        found.push(Process { pid, command: shown.chars().take(300).collect() });
    }
    found
}

/// Links in `engine` beyond the lab's own.
pub fn links(engine: &Namespace) -> Vec<String> {
    engine
        .sh("ip -o link")
        .lines()
        .filter_map(|line| line.split(": ").nth(1))
        .map(|name| name.split('@').next().unwrap().to_owned())
        .filter(|name| {
            !matches!(name.as_str(), "lo" | "up0") && !name.starts_with("ifb") && !name.ends_with("tnl0")
        })
        .collect()
}

/// The nft tables in `engine`.
pub fn tables(engine: &Namespace) -> Vec<String> {
    engine.sh("nft list tables").lines().map(str::to_owned).collect()
}

/// Files and directories below `directory`, relative to it.
pub fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                pending.push(path.clone());
            }
            found.push(path.strip_prefix(directory).unwrap_or(&path).display().to_string());
        }
    }
    found.sort();
    found
}
