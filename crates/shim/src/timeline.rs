//! When the steps from a request to a running container began and ended.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper_protocol::shim::Phase;

/// Steps kept; the first ones tell of the start, so later ones are not kept.
const KEPT: usize = 256;

/// The steps so far.
#[derive(Debug, Default)]
pub struct Timeline(Mutex<Vec<Phase>>);

impl Timeline {
    /// A step measured by the host's clock.
    pub fn host(&self, name: &str, start: SystemTime, end: SystemTime) {
        self.add(name, start, end, "host");
    }

    /// A step measured by the guest's clock.
    pub fn guest(&self, name: &str, start: SystemTime, end: SystemTime) {
        self.add(name, start, end, "guest");
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

    fn add(&self, name: &str, start: SystemTime, end: SystemTime, clock: &str) {
        let phase = Phase {
            name: name.to_owned(),
            start_us: microseconds(start),
            end_us: microseconds(end),
            clock: clock.to_owned(),
        };
        let mut phases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if phases.len() < KEPT {
            phases.push(phase);
        }
    }
}

fn microseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_pod_does_not_grow_its_timeline() {
        let timeline = Timeline::default();
        for _ in 0..10_000 {
            timeline.since("start", SystemTime::now());
        }
        assert_eq!(timeline.phases().len(), KEPT);
    }
}
