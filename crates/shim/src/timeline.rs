//! When the steps from a request to a running container began and ended.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper_protocol::agent::Step;
use hyper_protocol::shim::Phase;

/// Steps kept; the first ones tell of the start, so later ones are not kept.
const KEPT: usize = 256;
/// Characters of a guest's name for a step.
const NAME_MAX: usize = 40;

/// The steps so far.
#[derive(Debug, Default)]
pub struct Timeline(Mutex<Vec<Phase>>);

impl Timeline {
    /// A step measured by the host's clock.
    pub fn host(&self, name: &str, start: SystemTime, end: SystemTime) {
        let phase = Phase {
            name: name.to_owned(),
            start_us: microseconds(start),
            end_us: microseconds(end),
            clock: "host".to_owned(),
        };
        let mut phases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if phases.len() < KEPT {
            phases.push(phase);
        }
    }

    /// A step that has just ended.
    pub fn since(&self, name: &str, start: SystemTime) {
        self.host(name, start, SystemTime::now());
    }

    /// Forgets all steps.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// All steps, in the order in which they were recorded.
    pub fn phases(&self) -> Vec<Phase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A guest's steps on the host's clock, from the answer that was read at `read`; those that began before `begin`
/// (microseconds since 1970-01-01 UTC), in the template or for another pod, are left out.
pub fn guest_phases(steps: Vec<Step>, now_ns: u64, read: SystemTime, begin: i64) -> Vec<Phase> {
    let at =
        |ns: u64| microseconds(read) - i64::try_from(now_ns.saturating_sub(ns) / 1000).unwrap_or(i64::MAX);
    let phases = steps.into_iter().take(KEPT).map(|step| Phase {
        name: step.name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect(),
        start_us: at(step.start_ns),
        end_us: at(step.end_ns),
        clock: "guest".to_owned(),
    });
    phases.filter(|phase| phase.start_us >= begin).collect()
}

fn microseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_guests_steps_are_told_by_the_hosts_clock() {
        let step = |start_ns, end_ns| Step { name: "x\n".repeat(100), start_ns, end_ns };
        let read = UNIX_EPOCH + Duration::from_secs(100);
        let steps = vec![step(1_000_000, 2_000_000), step(6_000_000, 7_000_000)];
        let phases = guest_phases(steps, 9_000_000, read, 100_000_000 - 4_000);
        assert_eq!(phases.len(), 1);
        assert_eq!((phases[0].start_us, phases[0].end_us), (99_997_000, 99_998_000));
        assert_eq!(phases[0].name, "x".repeat(NAME_MAX));
    }

    #[test]
    fn a_busy_pod_does_not_grow_its_timeline() {
        let timeline = Timeline::default();
        for _ in 0..10_000 {
            timeline.since("start", SystemTime::now());
        }
        assert_eq!(timeline.phases().len(), KEPT);
    }
}
