//! One container's resource usage, from the API's counters to docker's columns.

use std::collections::HashMap;

use serde::Deserialize;

use crate::format::{Row, Value, bytes_size, short_size};

use super::ps::short_id;

/// A sample as the API sends it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Sample {
    name: String,
    id: String,
    cpu_stats: Cpu,
    precpu_stats: Cpu,
    memory_stats: Memory,
    networks: Option<HashMap<String, Network>>,
    blkio_stats: BlockIo,
    pids_stats: Pids,
    hyper: Hyper,
}

/// What only our daemon tells.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Hyper {
    host_memory: Option<HostMemory>,
}

/// What the container's pod takes of the host's memory, in bytes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct HostMemory {
    pss: u64,
    private: u64,
    shared: u64,
    absent: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Cpu {
    cpu_usage: CpuUsage,
    system_cpu_usage: u64,
    online_cpus: u32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct CpuUsage {
    total_usage: u64,
    percpu_usage: Option<Vec<u64>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Memory {
    usage: u64,
    limit: u64,
    stats: Option<HashMap<String, u64>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Network {
    rx_bytes: u64,
    tx_bytes: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct BlockIo {
    io_service_bytes_recursive: Option<Vec<BlockEntry>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct BlockEntry {
    op: String,
    value: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Pids {
    current: Option<u64>,
}

impl Sample {
    /// The row of docker's columns. `asked` is what the user called the container; without a sample all is `--`.
    pub fn row(sample: Option<&Sample>, asked: &str, no_trunc: bool) -> Row {
        let text = Value::text;
        let Some(sample) = sample else {
            let none = || Value::text("--");
            let both = || Value::text("-- / --");
            return vec![
                ("BlockIO", both()),
                ("CPUPerc", none()),
                ("Container", text(asked)),
                ("HostAbsent", none()),
                ("HostMem", none()),
                ("HostPrivate", none()),
                ("HostShared", none()),
                ("ID", none()),
                ("MemPerc", none()),
                ("MemUsage", both()),
                ("Name", none()),
                ("NetIO", both()),
                ("PIDs", none()),
            ];
        };
        let (used, limit) = (sample.memory_used() as f64, sample.memory_stats.limit as f64);
        let (received, sent) = sample.network();
        let (read, written) = sample.block();
        let pair =
            |a: u64, b: u64| Value::text(format!("{} / {}", short_size(a as f64), short_size(b as f64)));
        let host = |part: fn(&HostMemory) -> u64| {
            let memory = sample.hyper.host_memory.as_ref();
            Value::text(memory.map_or_else(|| "--".to_owned(), |memory| bytes_size(part(memory) as f64)))
        };
        let memory_percent = if limit > 0.0 { used / limit * 100.0 } else { 0.0 };
        vec![
            ("BlockIO", pair(read, written)),
            ("CPUPerc", Value::text(format!("{:.2}%", sample.cpu_percent()))),
            ("Container", text(asked)),
            ("HostAbsent", host(|memory| memory.absent)),
            ("HostMem", host(|memory| memory.pss)),
            ("HostPrivate", host(|memory| memory.private)),
            ("HostShared", host(|memory| memory.shared)),
            ("ID", Value::text(if no_trunc { sample.id.clone() } else { short_id(&sample.id) })),
            ("MemPerc", Value::text(format!("{memory_percent:.2}%"))),
            ("MemUsage", Value::text(format!("{} / {}", bytes_size(used), bytes_size(limit)))),
            ("Name", text(sample.name.trim_start_matches('/'))),
            ("NetIO", pair(received, sent)),
            ("PIDs", Value::text(sample.pids_stats.current.unwrap_or_default().to_string())),
        ]
    }

    fn cpu_percent(&self) -> f64 {
        let delta = |now: u64, before: u64| now as f64 - before as f64;
        let used = delta(self.cpu_stats.cpu_usage.total_usage, self.precpu_stats.cpu_usage.total_usage);
        let system = delta(self.cpu_stats.system_cpu_usage, self.precpu_stats.system_cpu_usage);
        let listed = self.cpu_stats.cpu_usage.percpu_usage.as_ref().map_or(0, Vec::len) as f64;
        let cpus =
            if self.cpu_stats.online_cpus > 0 { f64::from(self.cpu_stats.online_cpus) } else { listed };
        if used > 0.0 && system > 0.0 { used / system * cpus * 100.0 } else { 0.0 }
    }

    /// Used memory without the page cache that can go at once (cgroup v1's and v2's name for it).
    fn memory_used(&self) -> u64 {
        let stats = self.memory_stats.stats.as_ref();
        let inactive =
            stats.and_then(|stats| stats.get("total_inactive_file").or_else(|| stats.get("inactive_file")));
        let usage = self.memory_stats.usage;
        inactive.filter(|inactive| **inactive < usage).map_or(usage, |inactive| usage - inactive)
    }

    fn network(&self) -> (u64, u64) {
        let networks = self.networks.iter().flat_map(HashMap::values);
        networks.fold((0, 0), |(rx, tx), network| (rx + network.rx_bytes, tx + network.tx_bytes))
    }

    fn block(&self) -> (u64, u64) {
        let mut sums = (0, 0);
        for entry in self.blkio_stats.io_service_bytes_recursive.iter().flatten() {
            match entry.op.chars().next() {
                Some('r' | 'R') => sums.0 += entry.value,
                Some('w' | 'W') => sums.1 += entry.value,
                _ => {}
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_become_dockers_columns() {
        let sample: Sample = serde_json::from_str(
            r#"{"name":"/t1","id":"9fad60f3e0986904","cpu_stats":{"cpu_usage":{"total_usage":300},"system_cpu_usage":2000,"online_cpus":2},
            "precpu_stats":{"cpu_usage":{"total_usage":100},"system_cpu_usage":1000},
            "memory_stats":{"usage":2097152,"limit":4194304,"stats":{"inactive_file":1048576}},
            "networks":{"eth0":{"rx_bytes":486,"tx_bytes":0}},
            "blkio_stats":{"io_service_bytes_recursive":[{"op":"read","value":1000},{"op":"Write","value":2000}]},"pids_stats":{"current":3}}"#,
        )
        .unwrap();
        let row: HashMap<&str, String> = Sample::row(Some(&sample), "t1", false)
            .into_iter()
            .map(|(name, value)| (name, value.to_string()))
            .collect();
        assert_eq!(row["CPUPerc"], "40.00%");
        assert_eq!(row["MemUsage"], "1MiB / 4MiB");
        assert_eq!(row["MemPerc"], "25.00%");
        assert_eq!(row["NetIO"], "486B / 0B");
        assert_eq!(row["BlockIO"], "1kB / 2kB");
        assert_eq!(
            (row["PIDs"].as_str(), row["Name"].as_str(), row["ID"].as_str()),
            ("3", "t1", "9fad60f3e098")
        );
    }
}
