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

impl Process {
    /// Whether it is the VMM of a pod. A template's, which is made in the background when there is none, is not.
    pub fn is_vmm_of_pod(&self) -> bool {
        self.runs("qemu-system") && !self.command.contains(" -name guest=template ")
    }

    /// Whether it is the shim of a pod, and not one that makes a template.
    pub fn is_shim_of_pod(&self) -> bool {
        self.runs("containerd-shim-hyper") && self.command.split(' ').nth(1) != Some("template")
    }

    /// Whether the path of its program has `part`.
    fn runs(&self, part: &str) -> bool {
        self.command.split(' ').next().is_some_and(|program| program.contains(part))
    }
}

/// Every process that has a path below `directory` in its command line or environment. Zombies do not count.
pub fn named(directory: &Path) -> Vec<Process> {
    let mark = [directory.as_os_str().as_bytes(), b"/"].concat();
    matching(|process| {
        let has = |file: &str| find(&fs::read(process.join(file)).unwrap_or_default(), &mark).is_some();
        has("cmdline") || has("environ")
    })
}

/// Every process that has `directory` in its command line or environment, or
/// lives in one of the engine's namespaces; a VMM may have neither words nor
/// environment of its engine. Zombies and the namespaces' holder do not count.
pub fn processes(directory: &Path, engine: &Namespace) -> Vec<Process> {
    let holder = Path::new("/proc").join(engine.pid().to_string());
    let namespace = |process: &Path, kind: &str| fs::read_link(process.join("ns").join(kind)).ok();
    let (net, mnt) = (namespace(&holder, "net"), namespace(&holder, "mnt"));
    let mut found = named(directory);
    found.extend(matching(|process| {
        (net.is_some() && namespace(process, "net") == net)
            || (mnt.is_some() && namespace(process, "mnt") == mnt)
    }));
    found.sort_by_key(|process| process.pid);
    found.dedup_by_key(|process| process.pid);
    found.retain(|process| process.pid.unsigned_abs() != engine.pid());
    found
}

/// The processes for whose directory in `/proc` the condition holds, zombies and this one aside.
fn matching(condition: impl Fn(&Path) -> bool) -> Vec<Process> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if pid.unsigned_abs() != own && !command.is_empty() && condition(&entry.path()) {
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
