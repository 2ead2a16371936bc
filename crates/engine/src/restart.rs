//! Restart policies: whether a container that ended starts again, and when.
//!
//! As docker has it: the pause before a restart begins at 100 ms and doubles up to a minute; a container that ran for ten
//! seconds begins anew. What was stopped by a user stays stopped, until the daemon starts again for `always`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};

use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::options::{ContainerOptions, NetworkMode, Phase, State};
use crate::registry::Container;

/// The first pause before a restart, docker's.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A container that ran for so long gets the first pause again.
const SETTLED: Duration = Duration::from_secs(10);

/// Containers that are brought up side by side when the daemon starts: their VMs take turns as all starts do
/// (`Admission`), and each that waits for its turn has memory promised.
const AT_ONCE: usize = 4;

/// When a container that has ended starts again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When it failed; at most so many times in a row, 0 for without end.
    OnFailure(u32),
    /// Always, and whenever the daemon starts.
    Always,
    /// Always, unless a user stopped it.
    UnlessStopped,
}

impl RestartPolicy {
    /// From docker's name and number.
    ///
    /// # Errors
    /// An unknown name, or a number where there is none.
    pub fn parse(name: &str, retries: i64) -> Result<Self> {
        let bounded = |policy: Self| match retries {
            0 => Ok(policy),
            _ => Err(EngineError::invalid(format!(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'{}",
                if retries < 0 { " and cannot be negative" } else { "" }
            ))),
        };
        match name {
            "" => Ok(Self::No),
            "no" => bounded(Self::No),
            "always" => bounded(Self::Always),
            "unless-stopped" => bounded(Self::UnlessStopped),
            "on-failure" if retries < 0 => {
                Err(EngineError::invalid("invalid restart policy: maximum retry count cannot be negative"))
            }
            "on-failure" => Ok(Self::OnFailure(u32::try_from(retries).unwrap_or(u32::MAX))),
            _ => Err(EngineError::invalid(format!(
                "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or \
                 'unless-stopped'"
            ))),
        }
    }

    /// Docker's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure(_) => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }

    /// Docker's `MaximumRetryCount`.
    pub fn retries(self) -> u32 {
        match self {
            Self::OnFailure(retries) => retries,
            _ => 0,
        }
    }

    /// Whether a container that has just ended starts again.
    fn after_exit(self, state: &State, exit_code: i64) -> bool {
        !state.manually_stopped
            && match self {
                Self::No => false,
                Self::OnFailure(most) => exit_code != 0 && (most == 0 || state.restart_count < most),
                Self::Always | Self::UnlessStopped => true,
            }
    }

    /// Whether a container that is found ended when the daemon starts is started.
    fn at_daemon_start(self, state: &State) -> bool {
        match self {
            // Even one that was stopped: this is what tells it from the next.
            Self::Always => true,
            _ => self.after_exit(state, state.exit_code),
        }
    }
}

/// Refuses a policy that makes no sense with the other options.
pub(crate) fn check(options: &ContainerOptions) -> Result<()> {
    if options.auto_remove && options.restart != RestartPolicy::No {
        return Err(EngineError::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    Ok(())
}

/// The pause before the next restart of a container that ran for `ran`.
fn pause_after(last: Option<Duration>, ran: Duration) -> Duration {
    match last {
        Some(last) if ran < SETTLED => (last * 2).min(LONGEST_PAUSE),
        _ => FIRST_PAUSE,
    }
}

/// A restart that will come.
#[derive(Debug)]
pub(crate) struct Planned {
    pause: Duration,
    /// The plan's number: a later one takes its place.
    epoch: u64,
}

/// What a container has that may be restarted.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    /// The last pause; none before the first restart since a user started it.
    pause: std::sync::Mutex<Option<Duration>>,
    /// Counts the plans.
    epoch: std::sync::atomic::AtomicU64,
}

impl Restarts {
    fn plan(&self, ran: Duration) -> Planned {
        let mut last = self.pause.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let pause = pause_after(*last, ran);
        *last = Some(pause);
        Planned { pause, epoch: self.epoch.fetch_add(1, Ordering::AcqRel) + 1 }
    }

    /// A user takes over: the pauses begin anew.
    pub(crate) fn reset(&self) {
        *self.pause.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
}

/// Makes the end of a container in `state` a pause before its restart, if its policy says so.
pub(crate) fn plan(container: &Container, state: &mut State) -> Option<Planned> {
    let policy = container.lock().options.restart;
    if !policy.after_exit(state, state.exit_code) {
        return None;
    }
    let ran = match (state.started_at, state.finished_at) {
        (Some(started), Some(finished)) => finished.0.saturating_sub(started.0),
        _ => 0,
    };
    state.phase = Phase::Restarting;
    state.restart_count = state.restart_count.saturating_add(1);
    Some(container.restarts.plan(Duration::from_nanos(u64::try_from(ran).unwrap_or(0))))
}

impl Engine {
    /// Starts a container again after its pause, unless somebody stops, starts or removes it meanwhile.
    pub(crate) fn restart_later(&self, container: &Arc<Container>, planned: Planned) {
        let (engine, container) = (self.clone(), Arc::downgrade(container));
        tokio::spawn(async move {
            tokio::time::sleep(planned.pause).await;
            let Some(container) = container.upgrade() else { return };
            engine.restart_now(&container, planned.epoch).await;
        });
    }

    async fn restart_now(&self, container: &Arc<Container>, epoch: u64) {
        let transition = container.transition.lock().await;
        let current = container.restarts.epoch.load(Ordering::Acquire) == epoch;
        if !current || container.lock().state.phase != Phase::Restarting {
            return;
        }
        tracing::info!(container = container.id, "restarting a container by its policy");
        let started = self.start_locked(container).await;
        let Err(error) = started else { return };
        tracing::error!(container = container.id, error = %error.report(), "cannot restart a container");
        let planned = self.plan_after_failed_start(container, &error).await;
        drop(transition);
        if let Some(planned) = planned {
            self.restart_later(container, planned);
        }
    }

    /// What the host could not do now it may be able to do later; what is wrong with the container stays wrong.
    async fn plan_after_failed_start(
        &self,
        container: &Arc<Container>,
        error: &EngineError,
    ) -> Option<Planned> {
        if error.kind != Kind::System {
            return None;
        }
        let mut state = container.lock().state.clone();
        // Not that of when it ran last: it did not run.
        state.started_at = None;
        let planned = plan(container, &mut state)?;
        let count = state.restart_count;
        let written = self
            .shared
            .set_state(container, |state| {
                state.phase = Phase::Restarting;
                state.restart_count = count;
            })
            .await;
        container.progress.send_modify(|progress| progress.restarting = true);
        written.is_ok().then_some(planned)
    }

    /// Makes a container that waits for its restart one that has ended; its transition lock is held.
    pub(crate) async fn cancel_restart(&self, container: &Container) -> Result<()> {
        self.shared
            .set_state(container, |state| {
                state.phase = Phase::Exited;
                state.manually_stopped = true;
            })
            .await?;
        container.progress.send_modify(|progress| {
            progress.restarting = false;
            progress.exits += 1;
        });
        Ok(())
    }

    /// Notes that a user ends the container, before it is asked to: whatever happens next, it is not restarted.
    pub(crate) async fn note_manual_stop(&self, container: &Container) -> Result<()> {
        let concerned = {
            let record = container.lock();
            record.options.restart != RestartPolicy::No && !record.state.manually_stopped
        };
        if !concerned {
            return Ok(());
        }
        self.shared.set_state(container, |state| state.manually_stopped = true).await
    }

    /// Starts what has a policy that says so, when the daemon starts: containers whose network others share before
    /// those.
    pub(crate) async fn restart_all(&self) {
        let mut concerned = BTreeMap::new();
        for container in self.shared.registry.containers() {
            let record = container.record();
            let wanted = match record.state.phase {
                // The daemon ended in the pause before it.
                Phase::Restarting => true,
                Phase::Exited if record.state.started_at.is_some() => {
                    record.options.restart.at_daemon_start(&record.state)
                }
                _ => false,
            };
            if wanted {
                concerned.insert(container.id.clone(), (container, watch::Sender::new(false)));
            }
        }
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut starts = Vec::new();
        for (container, done) in concerned.values() {
            let shared = match &container.lock().options.network {
                NetworkMode::Container(other) => concerned.get(other).map(|(_, done)| done.subscribe()),
                _ => None,
            };
            let (engine, container, done) = (self.clone(), container.clone(), done.clone());
            let slots = slots.clone();
            starts.push(tokio::spawn(async move {
                if let Some(mut shared) = shared {
                    let _ = shared.wait_for(|done| *done).await;
                }
                let _slot = slots.acquire().await;
                engine.restart_found(&container).await;
                done.send_replace(true);
            }));
        }
        futures::future::join_all(starts).await;
    }

    async fn restart_found(&self, container: &Arc<Container>) {
        let transition = container.take_over().await;
        // A user may have been faster.
        if !matches!(container.lock().state.phase, Phase::Exited | Phase::Restarting) {
            return;
        }
        tracing::info!(container = container.id, "starting a container by its restart policy");
        container.lock().state.restart_count = 0;
        container.lock().state.manually_stopped = false;
        let started = self.start_locked(container).await;
        let Err(error) = started else { return };
        tracing::error!(container = container.id, error = %error.report(), "cannot start a container");
        let planned = self.plan_after_failed_start(container, &error).await;
        drop(transition);
        if let Some(planned) = planned {
            self.restart_later(container, planned);
        }
    }
}

/// The words for a container between two runs.
pub(crate) fn in_between(id: &str) -> EngineError {
    EngineError::conflict(format!("Container {id} is restarting, wait until the container is running"))
}

/// When a container is as good as running to those who ask docker.
pub(crate) fn counts_as_running(phase: Phase) -> bool {
    matches!(phase, Phase::Running | Phase::Paused | Phase::Restarting)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(exit_code: i64, count: u32, stopped: bool) -> State {
        State { exit_code, restart_count: count, manually_stopped: stopped, ..State::default() }
    }

    #[test]
    fn policies_decide_as_docker_does() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        for (policy, state, after_exit, at_start) in [
            (No, state(1, 0, false), false, false),
            (Always, state(0, 9, false), true, true),
            (Always, state(0, 0, true), false, true),
            (UnlessStopped, state(0, 0, false), true, true),
            (UnlessStopped, state(137, 0, true), false, false),
            (OnFailure(0), state(0, 0, false), false, false),
            (OnFailure(0), state(1, 99, false), true, true),
            (OnFailure(2), state(1, 1, false), true, true),
            (OnFailure(2), state(1, 2, false), false, false),
            (OnFailure(2), state(1, 0, true), false, false),
        ] {
            assert_eq!(policy.after_exit(&state, state.exit_code), after_exit, "{policy:?} {state:?}");
            assert_eq!(policy.at_daemon_start(&state), at_start, "{policy:?} {state:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew_after_ten_seconds() {
        let mut last = None;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let pause = pause_after(last, Duration::from_secs(1));
            pauses.push(pause.as_millis());
            last = Some(pause);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        assert_eq!(pause_after(last, SETTLED), FIRST_PAUSE);
    }

    #[test]
    fn words_of_policies_are_dockers() {
        for (name, retries) in [("no", 0), ("always", 0), ("unless-stopped", 0), ("on-failure", 3)] {
            let policy = RestartPolicy::parse(name, retries).unwrap();
            assert_eq!((policy.name(), i64::from(policy.retries())), (name, retries));
        }
        for (name, retries, word) in [
            ("sometimes", 0, "unknown policy 'sometimes'"),
            ("always", 2, "can only be used with 'on-failure'"),
            ("always", -2, "and cannot be negative"),
            ("on-failure", -1, "cannot be negative"),
        ] {
            let message = RestartPolicy::parse(name, retries).unwrap_err().message;
            assert!(message.contains(word), "{message}");
        }
    }
}
