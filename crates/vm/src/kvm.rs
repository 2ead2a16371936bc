//! Whether KVM is worth using: probed, not assumed.
//!
//! `/dev/kvm` can exist and be useless, because the host is itself a VM whose hypervisor emulates the code of guest
//! kernels instruction by instruction. A micro guest that counts to a few thousand in ring 0 tells within
//! milliseconds.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use hyper_sys::kvm::{KvmError, MicroGuest};
use serde::{Deserialize, Serialize};

/// Instructions of a timed run.
const RUN: u64 = 8_000;
/// Instructions of the first run, which pays for first touches of memory and the host's first use of its own code.
const WARM_UP: u64 = 1_000;
/// After this long no further run is begun.
const BUDGET: Duration = Duration::from_millis(60);
/// Most timed runs, of which the fastest counts: one may meet a busy host.
const RUNS: u32 = 3;
/// Fewest instructions per second in guest ring 0 with which KVM beats translation. Hardware does thousands of
/// millions, nested hardware hundreds, an emulating host about one; QEMU's translator some hundreds.
const GOOD: u64 = 20_000_000;

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Verdict {
    /// Use it.
    Good,
    /// It runs guest kernels slower than software would.
    TooSlow,
    /// `/dev/kvm` is there and not to be had, or does not do what it should.
    Unreadable,
    /// There is no `/dev/kvm`.
    Absent,
}

/// Result of the probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// What it means.
    pub verdict: Verdict,
    /// Why, in a sentence without a full stop.
    pub reason: String,
    /// Instructions per second in guest ring 0, where measured.
    pub rate: Option<u64>,
    /// Frequency of the host's time stamp counter in kHz, measured where guests must run in software: theirs
    /// counts at the same rate and they have nothing to calibrate it by.
    pub tsc_khz: Option<u32>,
}

impl Probe {
    /// KVM shall be used.
    pub fn usable(&self) -> bool {
        self.verdict == Verdict::Good
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Probes `/dev/kvm`, in about 60 ms where that is slow, and in less than one where it is not.
pub fn probe() -> Probe {
    let bare = |verdict, reason| Probe { verdict, reason, rate: None, tsc_khz: None };
    let mut probe = match measure() {
        Ok(rate) => judge(rate),
        Err(error @ KvmError::Absent(_)) => bare(Verdict::Absent, error.to_string()),
        Err(error) => bare(Verdict::Unreadable, chain(&error)),
    };
    if !probe.usable() {
        probe.tsc_khz = hyper_sys::tsc::frequency_khz();
    }
    probe
}

/// Answers from `cache` if that holds a probe of this boot of the host, else probes and writes it there. A cache
/// that belongs to another user is not believed; one that cannot be written costs a probe each time.
pub fn probe_cached(cache: &Path) -> Probe {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot = boot.trim();
    if let Some(kept) = read_cache(cache).filter(|kept| !boot.is_empty() && kept.boot == boot) {
        return kept.probe;
    }
    let kept = Kept { boot: boot.to_owned(), probe: probe() };
    if let Err(error) = write_cache(cache, &kept) {
        tracing::debug!(cache = %cache.display(), %error, "the KVM probe is not cached");
    }
    kept.probe
}

/// The cache file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    boot: String,
    probe: Probe,
}

fn read_cache(path: &Path) -> Option<Kept> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if !ours || !metadata.is_file() || metadata.len() > 4096 {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn write_cache(path: &Path, kept: &Kept) -> std::io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written =
        serde_json::to_vec(kept).map_err(std::io::Error::from).and_then(|json| file.write_all(&json));
    let done = written.and_then(|()| fs::rename(&temporary, path));
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done
}

fn measure() -> Result<u64, KvmError> {
    let mut guest = MicroGuest::new()?;
    let mut spent = guest.run(WARM_UP)?;
    let mut best = 0;
    for _ in 0..RUNS {
        let took = guest.run(RUN)?;
        best = best.max(per_second(RUN, took));
        spent += took;
        if best >= GOOD || spent > BUDGET {
            break;
        }
    }
    Ok(best)
}

fn per_second(instructions: u64, took: Duration) -> u64 {
    let nanoseconds = took.as_nanos().max(1);
    u64::try_from(u128::from(instructions) * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX)
}

fn judge(rate: u64) -> Probe {
    let millions = rate as f64 / 1e6;
    let (verdict, reason) = if rate >= GOOD {
        (
            Verdict::Good,
            format!("KVM runs guest kernels at full speed ({millions:.0} million instructions/s measured)"),
        )
    } else {
        (
            Verdict::TooSlow,
            format!(
                "/dev/kvm emulates guest kernels: {millions:.1} million instructions/s, at least {} are needed",
                GOOD / 1_000_000
            ),
        )
    };
    Probe { verdict, reason, rate: Some(rate), tsc_khz: None }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulated_guest_is_too_slow_and_hardware_is_good() {
        assert_eq!(judge(1_300_000).verdict, Verdict::TooSlow);
        assert_eq!(judge(700_000_000).verdict, Verdict::Good);
    }

    #[test]
    fn probe_ends_soon_and_gives_a_reason() {
        let start = std::time::Instant::now();
        let probe = probe();
        assert!(!probe.reason.is_empty());
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[test]
    fn probe_is_kept_for_this_boot_only() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("kvm.json");
        let found = probe_cached(&cache);
        assert_eq!(read_cache(&cache).unwrap().probe, found);

        let forged = Probe { verdict: Verdict::Good, reason: "kept".into(), rate: None, tsc_khz: None };
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
        write_cache(&cache, &Kept { boot, probe: forged.clone() }).unwrap();
        assert_eq!(probe_cached(&cache), forged);
        write_cache(&cache, &Kept { boot: "another".into(), probe: forged.clone() }).unwrap();
        assert_ne!(probe_cached(&cache), forged);
    }
}
