//! What state a pod is in, by its containers and its VM.

use std::fmt;

use crate::options::Phase;

/// The state of a pod, in podman's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodStatus {
    /// Nothing of it ever ran.
    Created,
    /// All of its containers run, or it has none and its VM runs.
    Running,
    /// Something of it runs, but not all.
    Degraded,
    /// All that runs of it is frozen.
    Paused,
    /// All of its containers have ended.
    Exited,
    /// Its containers have ended or were never started.
    Stopped,
}

impl PodStatus {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "Created",
            Self::Running => "Running",
            Self::Degraded => "Degraded",
            Self::Paused => "Paused",
            Self::Exited => "Exited",
            Self::Stopped => "Stopped",
        }
    }

    /// Of a pod with containers in these phases. `vm`: it has a VM. `ran`: it had one before.
    pub(crate) fn of(phases: &[Phase], vm: bool, ran: bool) -> Self {
        let count = |wanted: &[Phase]| phases.iter().filter(|phase| wanted.contains(phase)).count();
        // One between two runs is as good as running.
        let running = count(&[Phase::Running, Phase::Restarting]);
        let (paused, created) = (count(&[Phase::Paused]), count(&[Phase::Created, Phase::Starting]));
        match phases.len() {
            0 if vm => Self::Running,
            0 if ran => Self::Exited,
            0 => Self::Created,
            all if running == all => Self::Running,
            all if paused == all => Self::Paused,
            // As podman counts the container that stands for the pod itself.
            _ if running + paused > 0 || vm => Self::Degraded,
            all if created == all => Self::Created,
            _ if created > 0 => Self::Stopped,
            _ => Self::Exited,
        }
    }
}

impl fmt::Display for PodStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_podmans() {
        use Phase::{Created, Exited, Paused, Restarting, Running};
        for (phases, vm, ran, status) in [
            (&[][..], false, false, PodStatus::Created),
            (&[], true, true, PodStatus::Running),
            (&[], false, true, PodStatus::Exited),
            (&[Created, Created], false, false, PodStatus::Created),
            (&[Created], true, true, PodStatus::Degraded),
            (&[Running, Running], true, true, PodStatus::Running),
            (&[Running, Restarting], true, true, PodStatus::Running),
            (&[Running, Exited], true, true, PodStatus::Degraded),
            (&[Running, Paused], true, true, PodStatus::Degraded),
            (&[Paused, Paused], true, true, PodStatus::Paused),
            (&[Exited, Exited], true, true, PodStatus::Degraded),
            (&[Exited, Exited], false, true, PodStatus::Exited),
            (&[Exited, Created], false, true, PodStatus::Stopped),
        ] {
            assert_eq!(PodStatus::of(phases, vm, ran), status, "{phases:?} {vm} {ran}");
        }
    }
}
