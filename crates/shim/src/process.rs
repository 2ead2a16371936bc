//! A process: the first one of a container, or one added to it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hyper_protocol::agent::{Exit, Output, Target};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::error::ShimError;
use crate::phase::{self, ProcessPhase, ProcessRequest, Verdict};
use crate::stdio::{self, Fanout, Input, Interest, JsonLog};

/// Standard streams as a request names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streams {
    /// One terminal instead of three streams.
    pub tty: bool,
    /// Named pipe with the input; empty for none.
    pub stdin: String,
    /// Named pipe for the output; empty for none.
    pub stdout: String,
    /// Named pipe for the errors; empty for none, and with a terminal.
    pub stderr: String,
}

/// Where a process is in its life, with what it has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Made, not started.
    Created,
    /// Started.
    Running {
        /// Its number in the guest.
        pid: u32,
    },
    /// Frozen.
    Paused {
        /// Its number in the guest.
        pid: u32,
    },
    /// Ended.
    Stopped {
        /// How.
        exit: Exit,
        /// Why, where it did not end by itself.
        error: Option<String>,
    },
}

impl State {
    /// Its phase.
    pub fn phase(&self) -> ProcessPhase {
        match self {
            Self::Created => ProcessPhase::Created,
            Self::Running { .. } => ProcessPhase::Running,
            Self::Paused { .. } => ProcessPhase::Paused,
            Self::Stopped { .. } => ProcessPhase::Stopped,
        }
    }
}

/// A process and its standard streams.
#[derive(Debug)]
pub struct Process {
    /// Which one.
    pub target: Target,
    /// Its streams as named.
    pub streams: Streams,
    /// Its input ends with that of the first client attached to it.
    pub input_once: bool,
    /// Its output.
    pub fanout: Arc<Fanout>,
    /// Its input.
    pub input: Arc<Input>,
    /// Requests that change it go one by one.
    pub turn: tokio::sync::Mutex<()>,
    input_pipe: Option<Arc<Notify>>,
    state: watch::Sender<State>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Process {
    /// A process that has been made, with its streams open. `has_input` without a named pipe is for attached
    /// clients.
    ///
    /// # Errors
    /// A stream cannot be opened.
    pub fn new(
        target: Target,
        streams: Streams,
        has_input: bool,
        input_once: bool,
        log: Option<JsonLog>,
    ) -> Result<Self, ShimError> {
        for name in [&streams.stdin, &streams.stdout, &streams.stderr] {
            stdio::check_fifo(name).map_err(ShimError::Invalid)?;
        }
        let fanout = Arc::new(Fanout::new(log));
        let input = Arc::new(Input::new(has_input || !streams.stdin.is_empty()));
        let failed = |name: &str, error| ShimError::failed(&format!("cannot open {name}"), &error);
        let outputs = [
            (&streams.stdout, Interest { stdout: true, stderr: streams.tty }),
            (&streams.stderr, Interest { stdout: false, stderr: true }),
        ];
        for (name, interest) in outputs {
            // With a terminal there is one output.
            let second = streams.tty && !interest.stdout;
            if !name.is_empty() && !second {
                let pieces = fanout.attach(interest).expect("a new fan-out is open and has no clients yet");
                stdio::open_output(Path::new(name), pieces).map_err(|error| failed(name, error))?;
            }
        }
        let mut input_pipe = None;
        if !streams.stdin.is_empty() {
            let close = Arc::new(Notify::new());
            stdio::open_input(Path::new(&streams.stdin), input.clone(), close.clone())
                .map_err(|error| failed(&streams.stdin, error))?;
            input_pipe = Some(close);
        }
        Ok(Self {
            target,
            streams,
            input_once,
            fanout,
            input,
            turn: tokio::sync::Mutex::new(()),
            input_pipe,
            state: watch::channel(State::Created).0,
            tasks: Mutex::default(),
        })
    }

    /// Its name in messages.
    pub fn name(&self) -> String {
        match &self.target.exec {
            None => format!("container {}", self.target.container),
            Some(exec) => format!("process {exec} of container {}", self.target.container),
        }
    }

    /// The outputs that the guest has of it.
    pub fn outputs(&self) -> &'static [Output] {
        if self.streams.tty { &[Output::Stdout] } else { &[Output::Stdout, Output::Stderr] }
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Moves it on. A process that has stopped stays so.
    pub fn set_state(&self, state: State) {
        self.state.send_if_modified(|now| {
            let moves = !matches!(now, State::Stopped { .. }) && *now != state;
            if moves {
                *now = state;
            }
            moves
        });
    }

    /// Fails unless it may do `request` now.
    ///
    /// # Errors
    /// [`ShimError::WrongState`] or, for a signal to what has ended, [`ShimError::NotFound`].
    pub fn admit(&self, request: ProcessRequest) -> Result<(), ShimError> {
        let now = self.state().phase();
        let word = match now {
            ProcessPhase::Created => "has not been started",
            ProcessPhase::Running => "is running",
            ProcessPhase::Paused => "is paused",
            ProcessPhase::Stopped => "is not running",
        };
        match phase::process(now, request) {
            Verdict::Allowed | Verdict::Already => Ok(()),
            Verdict::Gone => Err(ShimError::NotFound(format!("{}: process already finished", self.name()))),
            Verdict::Later | Verdict::Refused => {
                Err(ShimError::WrongState(format!("{} {word}", self.name())))
            }
        }
    }

    /// Waits until it has ended.
    pub async fn wait(&self) -> (Exit, Option<String>) {
        let mut state = self.state.subscribe();
        let stopped = state.wait_for(|state| matches!(state, State::Stopped { .. })).await;
        match stopped.as_deref() {
            Ok(State::Stopped { exit, error }) => (exit.clone(), error.clone()),
            _ => unreachable!("the sender lives in self, and the state waited for is this one"),
        }
    }

    /// Ends its input, after what is on the way in a named pipe.
    pub fn close_input(&self) {
        match &self.input_pipe {
            Some(close) => close.notify_one(),
            None => self.input.finish(),
        }
    }

    /// Remembers a task that works for it, to be ended with it.
    pub fn adopt(&self, task: AbortHandle) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    /// Ends everything that works for it; clients see the end of its output.
    pub fn release(&self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        self.input.finish();
        self.fanout.close();
    }
}
