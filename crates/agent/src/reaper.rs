//! Collects processes that have ended: the agent's own children and, as process 1, everybody's orphans.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper_sys::child::{Ended, collect};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::failure::{Attempt, Failed};

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Exit code, 128+n for signal n.
    pub(crate) code: u32,
    /// Nanoseconds since 1970-01-01 UTC.
    pub(crate) unix_time_ns: i64,
}

/// The children that somebody waits for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reaper {
    waiting: Rc<RefCell<BTreeMap<u32, oneshot::Sender<End>>>>,
}

/// Nanoseconds since 1970-01-01 UTC by the guest's clock.
pub(crate) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

impl Reaper {
    /// Begins to collect on the current runtime. `orphans`: any child, as process 1 must; otherwise only those
    /// that were registered.
    pub(crate) fn start(orphans: bool) -> Result<Reaper, Failed> {
        let reaper = Reaper::default();
        let mut children =
            signal(SignalKind::child()).attempt(|| "listen for children that end".to_owned())?;
        let collecting = reaper.clone();
        tokio::task::spawn_local(async move {
            while children.recv().await.is_some() {
                collecting.collect(orphans);
            }
        });
        Ok(reaper)
    }

    /// Registers a child, which nobody has collected yet. Must follow the fork without an await between, so
    /// that its end cannot be missed.
    pub(crate) fn register(&self, pid: u32) -> oneshot::Receiver<End> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().insert(pid, sender);
        receiver
    }

    fn collect(&self, orphans: bool) {
        if orphans {
            while let Ok(Some((pid, ended))) = collect(None) {
                self.tell(pid, ended);
            }
            return;
        }
        let registered: Vec<u32> = self.waiting.borrow().keys().copied().collect();
        for pid in registered {
            if let Ok(Some((pid, ended))) = collect(Some(pid)) {
                self.tell(pid, ended);
            }
        }
    }

    fn tell(&self, pid: u32, ended: Ended) {
        let code = match ended {
            Ended::Exited(code) => code,
            Ended::Killed(signal) => 128 + signal,
        };
        if let Some(waiting) = self.waiting.borrow_mut().remove(&pid) {
            // Whoever has stopped waiting does not want to know.
            let _ = waiting.send(End { code: code.cast_unsigned(), unix_time_ns: now() });
        }
    }
}
