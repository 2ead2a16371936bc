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

/// Every process that has `directory` in its command line or environment, or
/// lives in one of the engine's namespaces; a VMM may have neither words nor
/// environment of its engine. Zombies and the namespaces' holder do not count.
pub fn processes(directory: &Path, engine: &Namespace) -> Vec<Process> {
    let mark = directory.as_os_str().as_bytes();
    let namespace = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    let holder = engine.pid().to_string();
    let (net, mnt) = (namespace(&holder, "net"), namespace(&holder, "mnt"));
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<i32>() else { continue };
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let (command, environment) = (read("cmdline"), read("environ"));
        if name == own || name == holder || command.is_empty() {
            continue;
        }
        let named = find(&command, mark).is_some() || find(&environment, mark).is_some();
        let inside = || {
            (net.is_some() && namespace(&name, "net") == net)
                || (mnt.is_some() && namespace(&name, "mnt") == mnt)
        };
        if named || inside() {
            let shown = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(Process { pid, command: shown.chars().take(300).collect() });
        }
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
