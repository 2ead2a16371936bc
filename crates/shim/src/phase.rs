//! Which request is allowed in which phase: one table for the pod, one for a process. Looking and waiting are always
//! allowed and not in them.

/// Phase of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PodPhase {
    /// Nothing is known of it yet.
    Empty,
    /// It has a configuration and no VM.
    Created,
    /// Its VM is on the way.
    Booting,
    /// Its agent answers.
    Running,
    /// Its VM is being stopped.
    Stopping,
    /// Its VM is gone. There is no way back.
    Stopped,
}

/// What can be asked of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PodRequest {
    /// Give it a configuration.
    Configure,
    /// Boot its VM.
    Boot,
    /// Make a container in it.
    CreateContainer,
    /// Ask its guest something.
    Ask,
    /// Stop its VM.
    Stop,
}

/// Phase of a process: the first one of a container, or an added one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProcessPhase {
    /// Made, not started.
    Created,
    /// Started.
    Running,
    /// Frozen.
    Paused,
    /// Ended.
    Stopped,
}

/// What can be asked of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProcessRequest {
    /// Start it.
    Start,
    /// Send it a signal.
    Signal,
    /// Add a process to its container.
    Exec,
    /// Set the size of its terminal.
    Resize,
    /// Close its input.
    CloseInput,
    /// Freeze its container.
    Pause,
    /// Thaw its container.
    Resume,
    /// Change its container's limits.
    Update,
    /// Measure its container or list its processes.
    Measure,
    /// Attach to its input and output.
    Attach,
    /// Forget it.
    Delete,
}

/// Answer of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Do it.
    Allowed,
    /// It is so already: say yes and do nothing.
    Already,
    /// Wait until the pod's phase has changed, then ask again.
    Later,
    /// Not in this phase.
    Refused,
    /// Refused because what is asked about is no more.
    Gone,
}

/// Whether a pod in `phase` may do `request`.
pub fn pod(phase: PodPhase, request: PodRequest) -> Verdict {
    use PodPhase as P;
    use PodRequest as R;
    use Verdict as V;
    match (request, phase) {
        (R::Configure, P::Empty) => V::Allowed,
        (R::Configure, _) => V::Refused,
        (R::Boot, P::Created) => V::Allowed,
        (R::Boot, P::Booting) => V::Later,
        (R::Boot, P::Running) => V::Already,
        (R::Boot, P::Empty | P::Stopping | P::Stopped) => V::Refused,
        // Disks are plugged while the guest boots.
        (R::CreateContainer, P::Booting | P::Running) => V::Allowed,
        (R::CreateContainer, P::Created) => V::Later,
        (R::CreateContainer, P::Empty | P::Stopping | P::Stopped) => V::Refused,
        (R::Ask, P::Running) => V::Allowed,
        (R::Ask, P::Booting) => V::Later,
        (R::Ask, P::Empty | P::Created) => V::Refused,
        (R::Ask, P::Stopping | P::Stopped) => V::Gone,
        (R::Stop, P::Created | P::Booting | P::Running) => V::Allowed,
        (R::Stop, P::Stopping) => V::Later,
        (R::Stop, P::Empty | P::Stopped) => V::Already,
    }
}

/// Whether a process in `phase` may do `request`.
pub fn process(phase: ProcessPhase, request: ProcessRequest) -> Verdict {
    use ProcessPhase as P;
    use ProcessRequest as R;
    use Verdict as V;
    match (request, phase) {
        (R::CloseInput, _) => V::Allowed,
        (R::Start, P::Created) => V::Allowed,
        (R::Start, _) => V::Refused,
        (R::Signal, P::Created | P::Running | P::Paused) => V::Allowed,
        (R::Signal, P::Stopped) => V::Gone,
        (R::Exec, P::Running) => V::Allowed,
        (R::Exec, P::Created | P::Paused | P::Stopped) => V::Refused,
        (R::Resize, P::Created | P::Running | P::Paused) => V::Allowed,
        (R::Resize, P::Stopped) => V::Refused,
        (R::Pause, P::Running) => V::Allowed,
        (R::Pause, P::Created | P::Paused | P::Stopped) => V::Refused,
        (R::Resume, P::Paused) => V::Allowed,
        (R::Resume, P::Created | P::Running | P::Stopped) => V::Refused,
        (R::Update | R::Measure, P::Created | P::Running | P::Paused) => V::Allowed,
        (R::Update | R::Measure, P::Stopped) => V::Refused,
        (R::Attach, P::Created | P::Running | P::Paused) => V::Allowed,
        (R::Attach, P::Stopped) => V::Refused,
        (R::Delete, P::Created | P::Stopped) => V::Allowed,
        (R::Delete, P::Running | P::Paused) => V::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;

    const POD_PHASES: [PodPhase; 6] = [
        PodPhase::Empty,
        PodPhase::Created,
        PodPhase::Booting,
        PodPhase::Running,
        PodPhase::Stopping,
        PodPhase::Stopped,
    ];
    const PHASES: [ProcessPhase; 4] =
        [ProcessPhase::Created, ProcessPhase::Running, ProcessPhase::Paused, ProcessPhase::Stopped];
    const REQUESTS: [ProcessRequest; 11] = [
        ProcessRequest::Start,
        ProcessRequest::Signal,
        ProcessRequest::Exec,
        ProcessRequest::Resize,
        ProcessRequest::CloseInput,
        ProcessRequest::Pause,
        ProcessRequest::Resume,
        ProcessRequest::Update,
        ProcessRequest::Measure,
        ProcessRequest::Attach,
        ProcessRequest::Delete,
    ];

    /// The phase after a request that was allowed and succeeded.
    fn step(phase: ProcessPhase, request: ProcessRequest) -> ProcessPhase {
        match request {
            ProcessRequest::Start | ProcessRequest::Resume => ProcessPhase::Running,
            ProcessRequest::Pause => ProcessPhase::Paused,
            _ => phase,
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_a_process_lives_forward(requests in prop::collection::vec(select(&REQUESTS[..]), 0..50)) {
            let mut phase = ProcessPhase::Created;
            let mut starts = 0;
            for request in requests {
                if process(phase, request) == Verdict::Allowed {
                    starts += u32::from(request == ProcessRequest::Start);
                    // It is deleted only when nothing of it runs.
                    prop_assert!(request != ProcessRequest::Delete || phase == ProcessPhase::Created);
                    phase = step(phase, request);
                }
                prop_assert!(phase != ProcessPhase::Created || starts == 0);
            }
            prop_assert!(starts <= 1, "a process is started at most once");
        }

        #[test]
        fn a_stopped_process_answers_only_what_needs_no_guest(request in select(&REQUESTS[..])) {
            let free = [ProcessRequest::Delete, ProcessRequest::CloseInput].contains(&request);
            prop_assert_eq!(process(ProcessPhase::Stopped, request) == Verdict::Allowed, free);
        }

        #[test]
        fn a_guest_is_asked_only_while_there_is_one(phase in select(&POD_PHASES[..])) {
            prop_assert_eq!(pod(phase, PodRequest::Ask) == Verdict::Allowed, phase == PodPhase::Running);
        }
    }

    #[test]
    fn a_pod_is_configured_and_booted_once() {
        for phase in POD_PHASES {
            assert_eq!(pod(phase, PodRequest::Configure) == Verdict::Allowed, phase == PodPhase::Empty);
            assert_eq!(pod(phase, PodRequest::Boot) == Verdict::Allowed, phase == PodPhase::Created);
            assert_ne!(pod(phase, PodRequest::Stop), Verdict::Refused, "stopping is never an error");
        }
    }

    #[test]
    fn every_process_can_be_brought_to_its_end() {
        for phase in PHASES {
            let ends = process(phase, ProcessRequest::Signal) == Verdict::Allowed
                || process(phase, ProcessRequest::Delete) == Verdict::Allowed;
            assert!(ends, "{phase:?}");
        }
    }
}
