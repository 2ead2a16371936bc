//! Cgroups of version 2: limits, freezing, killing and counting what a container's processes use.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_protocol::agent::Stats;
use rustix::fs::{Mode, OFlags, open};

use crate::deadline::until;
use crate::failure::{Attempt, Failed};
use crate::spec::{BlockIo, Cpu, Memory, Resources, ThrottleDevice};

/// How long the kernel may take to freeze a cgroup or to let go of its last process.
const PATIENCE: Duration = Duration::from_secs(20);

/// A container's cgroup.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

/// Hands all of a tree's controllers down to its children.
pub(crate) fn enable_controllers(root: &Path) -> Result<(), Failed> {
    let failed = || "enable the cgroup controllers".to_owned();
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).attempt(failed)?;
    for controller in controllers.split_whitespace() {
        // One by one: a controller that cannot be enabled (no room for real-time tasks) spares the others.
        if let Err(error) = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}")) {
            crate::console::say(format_args!("cgroup controller {controller} cannot be enabled: {error}"));
        }
    }
    Ok(())
}

impl Cgroup {
    /// Makes the cgroup of a container under `root`.
    pub(crate) fn create(root: &Path, id: &str) -> Result<Cgroup, Failed> {
        // The prefix keeps names such as `cgroup.procs` apart from the kernel's own files.
        let path = root.join(format!("container-{id}"));
        fs::create_dir(&path).attempt(|| "make the container's cgroup".to_owned())?;
        Ok(Cgroup { path })
    }

    /// The cgroup's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file through which a process joins.
    pub(crate) fn entry(&self) -> Result<OwnedFd, Failed> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        open(self.path.join("cgroup.procs"), flags, Mode::empty())
            .attempt(|| "open the container's cgroup".to_owned())
    }

    fn set(&self, file: &str, value: &str) -> Result<(), Failed> {
        fs::write(self.path.join(file), value).attempt(|| format!("set {file} to {value}"))
    }

    fn read(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.path.join(file))
    }

    /// Sets all limits that `resources` names; others stay as they are. Devices are not its business.
    pub(crate) fn apply(&self, resources: &Resources) -> Result<(), Failed> {
        check(resources)?;
        for (file, value) in settings(resources)? {
            self.set(&file, &value)?;
        }
        self.apply_weight(&resources.block_io)?;
        for (file, value) in &resources.unified {
            if file.contains('/') || !file.contains('.') {
                return Err(Failed::invalid(format!("unified: {file:?} is no file of a cgroup")));
            }
            self.set(file, value)?;
        }
        Ok(())
    }

    /// The weight of the BFQ scheduler where there is one, else that of the cost model, whose range is wider.
    fn apply_weight(&self, block_io: &BlockIo) -> Result<(), Failed> {
        let bfq = self.path.join("io.bfq.weight").exists();
        let file = if bfq { "io.bfq.weight" } else { "io.weight" };
        let converted = |weight: u16| {
            if bfq { u64::from(weight) } else { 1 + (u64::from(weight.max(10)) - 10) * 9999 / 990 }
        };
        if let Some(weight) = block_io.weight.filter(|&w| w != 0) {
            self.set(file, &converted(weight).to_string())?;
        }
        for device in &block_io.weight_device {
            if let Some(weight) = device.weight {
                self.set(file, &format!("{}:{} {}", device.major, device.minor, converted(weight)))?;
            }
        }
        Ok(())
    }

    /// Freezes or thaws, and waits until it is so.
    pub(crate) async fn freeze(&self, frozen: bool) -> Result<(), Failed> {
        let (value, event) = if frozen { ("1", "frozen 1") } else { ("0", "frozen 0") };
        self.set("cgroup.freeze", value)?;
        let done = || self.read("cgroup.events").is_ok_and(|events| events.lines().any(|l| l == event));
        if until(PATIENCE, done).await {
            return Ok(());
        }
        let _ = self.set("cgroup.freeze", "0");
        Err(Failed::wrong_state("the container's processes do not come to rest"))
    }

    /// Kills every process in it and below.
    pub(crate) fn kill(&self) -> Result<(), Failed> {
        self.set("cgroup.kill", "1")
    }

    /// Nothing lives in it any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.read("cgroup.events").map_or(true, |events| !events.lines().any(|l| l == "populated 1"))
    }

    /// Kills what is left and removes the cgroup with those that its processes made below it.
    pub(crate) async fn remove(&self) -> Result<(), Failed> {
        let _ = self.set("cgroup.freeze", "0");
        if !self.is_empty() {
            self.kill()?;
        }
        if until(PATIENCE, || self.is_empty() && remove_tree(&self.path).is_ok()).await {
            Ok(())
        } else {
            Err(Failed::wrong_state("processes of the container do not end"))
        }
    }

    /// Numbers of all processes in it and below, in the agent's PID namespace.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        let mut directories = vec![self.path.clone()];
        while let Some(directory) = directories.pop() {
            let members = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            found.extend(members.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|&pid| pid > 0));
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            directories.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
        found.sort_unstable();
        found
    }

    /// Processes that the out-of-memory killer has taken so far.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.keyed("memory.events").get("oom_kill").copied().unwrap_or(0)
    }

    fn keyed(&self, file: &str) -> BTreeMap<String, u64> {
        keyed(&self.read(file).unwrap_or_default())
    }

    /// A file of one number; `max` and absent files are `None`.
    fn number(&self, file: &str) -> Option<u64> {
        self.read(file).ok()?.trim().parse().ok()
    }

    /// What it uses. Fields of the guest are the caller's.
    pub(crate) fn stats(&self) -> Stats {
        let cpu = self.keyed("cpu.stat");
        let cpu = |name: &str| cpu.get(name).copied().unwrap_or(0);
        let io = io_totals(&self.read("io.stat").unwrap_or_default());
        Stats {
            cpu_usage_us: cpu("usage_usec"),
            cpu_user_us: cpu("user_usec"),
            cpu_system_us: cpu("system_usec"),
            cpu_periods: cpu("nr_periods"),
            cpu_throttled_periods: cpu("nr_throttled"),
            cpu_throttled_us: cpu("throttled_usec"),
            memory_usage: self.number("memory.current").unwrap_or(0),
            memory_limit: self.number("memory.max").unwrap_or(0),
            memory_stat: self.keyed("memory.stat"),
            pids: self.number("pids.current").unwrap_or(0),
            pids_limit: self.number("pids.max").unwrap_or(0),
            read_bytes: io[0],
            write_bytes: io[1],
            read_ops: io[2],
            write_ops: io[3],
            ..Stats::default()
        }
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    // A kernel's cgroup has no files that could be unlinked, so only directories are removed, deepest first.
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// Lines of a name and a number.
pub(crate) fn keyed(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// Bytes read and written, reads and writes of `io.stat`, over all devices.
fn io_totals(text: &str) -> [u64; 4] {
    let mut totals = [0_u64; 4];
    for field in text.split_whitespace() {
        let Some((name, value)) = field.split_once('=') else { continue };
        let index = match name {
            "rbytes" => 0,
            "wbytes" => 1,
            "rios" => 2,
            "wios" => 3,
            _ => continue,
        };
        totals[index] = totals[index].saturating_add(value.parse().unwrap_or(0));
    }
    totals
}

/// Refuses what version 2 has no word for.
pub(crate) fn check(resources: &Resources) -> Result<(), Failed> {
    let Resources { memory, cpu, block_io, network, rdma, .. } = resources;
    let refused = [
        ("memory.kernel", memory.kernel.is_some_and(|v| v > 0)),
        ("memory.kernelTCP", memory.kernel_tcp.is_some_and(|v| v > 0)),
        ("memory.swappiness", memory.swappiness.is_some()),
        ("memory.disableOOMKiller", memory.disable_oom_killer),
        ("cpu.realtimeRuntime", cpu.realtime_runtime.is_some_and(|v| v != 0)),
        ("cpu.realtimePeriod", cpu.realtime_period.is_some_and(|v| v != 0)),
        ("blockIO.leafWeight", block_io.leaf_weight.is_some_and(|v| v != 0)),
        ("blockIO.weightDevice.leafWeight", block_io.weight_device.iter().any(|d| d.leaf_weight.is_some())),
        ("network.classID", network.class_id.is_some_and(|v| v != 0)),
        ("network.priorities", !network.priorities.is_empty()),
        ("rdma", !rdma.is_empty()),
    ];
    match refused.iter().find(|(_, set)| *set) {
        Some((name, _)) => {
            Err(Failed::unsupported(format!("not supported in a guest (cgroup version 2): resources.{name}")))
        }
        None => Ok(()),
    }
}

/// The files to write, in order, with their values.
fn settings(resources: &Resources) -> Result<Vec<(String, String)>, Failed> {
    let mut files = Vec::new();
    let mut set = |file: &str, value: String| files.push((file.to_owned(), value));
    cpu_settings(&resources.cpu, &mut set)?;
    memory_settings(&resources.memory, &mut set)?;
    if let Some(limit) = resources.pids.and_then(|p| p.limit) {
        set("pids.max", if limit > 0 { limit.to_string() } else { "max".to_owned() });
    }
    for huge in &resources.hugepage_limits {
        let size = &huge.page_size;
        if !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Failed::invalid(format!("hugepageLimits: no page size {size:?}")));
        }
        set(&format!("hugetlb.{size}.max"), huge.limit.to_string());
    }
    let block_io = &resources.block_io;
    throttle("rbps", &block_io.throttle_read_bps_device, &mut set);
    throttle("wbps", &block_io.throttle_write_bps_device, &mut set);
    throttle("riops", &block_io.throttle_read_iops_device, &mut set);
    throttle("wiops", &block_io.throttle_write_iops_device, &mut set);
    Ok(files)
}

fn throttle(key: &str, devices: &[ThrottleDevice], set: &mut impl FnMut(&str, String)) {
    for device in devices {
        let rate = if device.rate == 0 { "max".to_owned() } else { device.rate.to_string() };
        set("io.max", format!("{}:{} {key}={rate}", device.major, device.minor));
    }
}

/// Shares of version 1 (2 to 262144, 1024 by default) as a weight of version 2 (1 to 10000, 100 by default):
/// the curve through both minima, defaults and maxima that runc 1.3 and crun 1.23 use.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    (10_f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

fn cpu_settings(cpu: &Cpu, set: &mut impl FnMut(&str, String)) -> Result<(), Failed> {
    if !cpu.cpus.is_empty() {
        set("cpuset.cpus", cpu.cpus.clone());
    }
    if !cpu.mems.is_empty() {
        set("cpuset.mems", cpu.mems.clone());
    }
    if let Some(shares) = cpu.shares.filter(|&s| s != 0) {
        set("cpu.weight", weight(shares).to_string());
    }
    if let Some(idle) = cpu.idle {
        set("cpu.idle", idle.to_string());
    }
    let quota = cpu.quota.filter(|&q| q != 0);
    let period = cpu.period.filter(|&p| p != 0);
    if quota.is_some() || period.is_some() {
        let quota = quota.filter(|&q| q > 0).map_or_else(|| "max".to_owned(), |q| q.to_string());
        // The kernel's default period, for a quota given alone.
        set("cpu.max", format!("{quota} {}", period.unwrap_or(100_000)));
    }
    if let Some(burst) = cpu.burst {
        set("cpu.max.burst", burst.to_string());
    }
    Ok(())
}

fn memory_settings(memory: &Memory, set: &mut impl FnMut(&str, String)) -> Result<(), Failed> {
    let text = |bytes: i64| if bytes < 0 { "max".to_owned() } else { bytes.to_string() };
    let limit = memory.limit.filter(|&l| l != 0);
    if let Some(swap) = memory.swap.filter(|&s| s != 0) {
        // Version 1 limits memory and swap together, version 2 swap alone.
        let alone = match (swap, limit) {
            (..0, _) => -1,
            (_, Some(limit @ 0..)) if swap >= limit => swap - limit,
            (_, Some(0..)) => return Err(Failed::invalid("memory.swap is less than memory.limit")),
            _ => return Err(Failed::invalid("memory.swap needs memory.limit")),
        };
        set("memory.swap.max", text(alone));
    }
    if let Some(limit) = limit {
        set("memory.max", text(limit));
    }
    if let Some(reservation) = memory.reservation.filter(|&r| r != 0) {
        set("memory.low", text(reservation));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn files(resources: serde_json::Value) -> Vec<(String, String)> {
        let resources = Resources::parse(resources).unwrap();
        check(&resources).unwrap();
        settings(&resources).unwrap()
    }

    fn pair(file: &str, value: &str) -> (String, String) {
        (file.to_owned(), value.to_owned())
    }

    #[test]
    fn limits_become_files_of_version_2() {
        let found = files(json!({
            "cpu": {"shares": 1024, "quota": 200_000, "period": 100_000, "cpus": "0-1"},
            "memory": {"limit": 536_870_912, "swap": 1_073_741_824, "reservation": 1048576},
            "pids": {"limit": 100},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]},
        }));
        let expected = [
            ("cpuset.cpus", "0-1"),
            ("cpu.weight", "100"),
            ("cpu.max", "200000 100000"),
            ("memory.swap.max", "536870912"),
            ("memory.max", "536870912"),
            ("memory.low", "1048576"),
            ("pids.max", "100"),
            ("hugetlb.2MB.max", "0"),
            ("io.max", "8:0 rbps=1000"),
        ];
        assert_eq!(found, expected.map(|(f, v)| pair(f, v)));
    }

    #[test]
    fn unlimited_is_written_as_max() {
        let found =
            files(json!({"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1}}));
        let expected = [
            ("cpu.max", "max 100000"),
            ("memory.swap.max", "max"),
            ("memory.max", "max"),
            ("pids.max", "max"),
        ];
        assert_eq!(found, expected.map(|(f, v)| pair(f, v)));
    }

    #[test]
    fn weights_meet_both_ends_and_the_default() {
        assert_eq!([weight(2), weight(1024), weight(262_144), weight(0)], [1, 100, 10_000, 1]);
    }

    #[test]
    fn what_version_2_cannot_do_is_refused() {
        for resources in [
            json!({"memory": {"swappiness": 10}}),
            json!({"memory": {"disableOOMKiller": true}}),
            json!({"cpu": {"realtimeRuntime": 1}}),
            json!({"network": {"classID": 1}}),
        ] {
            assert!(check(&Resources::parse(resources.clone()).unwrap()).is_err(), "{resources}");
        }
    }

    #[test]
    fn statistics_are_read_from_the_kernels_files() {
        let directory = tempfile::tempdir().unwrap();
        let cgroup = Cgroup::create(directory.path(), "a").unwrap();
        let write = |file: &str, text: &str| fs::write(cgroup.path().join(file), text).unwrap();
        write("cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 3\n");
        write("memory.current", "4096\n");
        write("memory.max", "max\n");
        write("memory.stat", "anon 1\nfile 2\n");
        write("memory.events", "low 0\noom 1\noom_kill 2\n");
        write(
            "io.stat",
            "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0\n8:16 rbytes=10 wbytes=20 rios=30 wios=40\n",
        );
        let stats = cgroup.stats();
        assert_eq!((stats.cpu_usage_us, stats.cpu_user_us, stats.cpu_periods), (30, 20, 3));
        assert_eq!((stats.memory_usage, stats.memory_limit), (4096, 0));
        assert_eq!(stats.memory_stat["file"], 2);
        assert_eq!((stats.read_bytes, stats.write_bytes, stats.read_ops, stats.write_ops), (11, 22, 33, 44));
        assert_eq!(cgroup.oom_kills(), 2);
    }
}
