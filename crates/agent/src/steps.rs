//! When the steps of a start began and ended, by the guest's clock: where a user who asks finds the time.

use std::cell::RefCell;
use std::collections::VecDeque;

use hyper_protocol::agent::{Reply, Step};
use rustix::time::{ClockId, clock_gettime};

/// Steps kept: those of some containers; the oldest go first.
const KEPT: usize = 200;

thread_local! {
    /// The agent is one thread, and steps come from anywhere in it.
    static STEPS: RefCell<VecDeque<Step>> = const { RefCell::new(VecDeque::new()) };
}

/// Nanoseconds of `CLOCK_BOOTTIME`.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or(0)
}

/// Notes a step that began at `start` and has just ended. Returns now, where the next one begins.
pub(crate) fn since(name: &str, start: u64) -> u64 {
    let end = now();
    add(name, start, end);
    end
}

/// Notes a step.
pub(crate) fn add(name: &str, start_ns: u64, end_ns: u64) {
    STEPS.with_borrow_mut(|steps| {
        if steps.len() == KEPT {
            steps.pop_front();
        }
        steps.push_back(Step { name: name.to_owned(), start_ns, end_ns });
    });
}

/// The steps kept.
pub(crate) fn told() -> Reply {
    STEPS.with_borrow(|steps| Reply::Steps { now_ns: now(), steps: steps.iter().cloned().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_pod_keeps_its_newest_steps() {
        for count in 0..1000 {
            add(&count.to_string(), now(), now());
        }
        let Reply::Steps { steps, now_ns } = told() else { panic!() };
        assert_eq!(steps.len(), KEPT);
        assert_eq!(steps[KEPT - 1].name, "999");
        assert!(steps.iter().all(|step| step.start_ns <= step.end_ns && step.end_ns <= now_ns));
    }
}
