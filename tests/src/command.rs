//! Running programs with a time limit, all of their output, and their end.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a command may take unless it says otherwise. One VM boots in about
/// a second; the rest is for machines with less to spare.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(90);
/// How long output may still come after a program's end.
const OUTPUT_GRACE: Duration = Duration::from_secs(10);
/// Between two looks at a child.
const POLL: Duration = Duration::from_millis(5);

/// A program to run.
#[derive(Debug)]
pub struct Cmd {
    command: Command,
    line: String,
    stdin: Option<Vec<u8>>,
    timeout: Duration,
}

/// What a program did.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit status, or 128 + the signal that ended it.
    pub code: i32,
    /// Everything it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to its standard error.
    pub stderr: Vec<u8>,
    /// How long it took.
    pub elapsed: Duration,
    line: String,
}

impl Cmd {
    /// `program` with its arguments, started as `command` says.
    pub fn new(mut command: Command, arguments: &[impl AsRef<OsStr>]) -> Self {
        command.args(arguments);
        let shown: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        // What nsenter and its options are is of no interest to a reader.
        let start = shown.iter().position(|word| word == "--").map_or(0, |at| at + 1);
        let line = shown[start..].join(" ");
        Self { command, line, stdin: None, timeout: DEFAULT_TIMEOUT }
    }

    /// What the program reads; without it, nothing at all.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Another time limit.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// A variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.command.env(name, value.into());
        self
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Output {
        let input = self.stdin.take();
        let timeout = self.timeout;
        let mut running = if input.is_some() { self.spawn() } else { self.spawn_with(Stdio::null()) };
        if let (Some(mut stdin), Some(input)) = (running.stdin.take(), input) {
            std::thread::spawn(move || {
                // A program that ends without reading all is for the test to judge.
                let _ = stdin.write_all(&input);
            });
        }
        running.wait_within(timeout)
    }

    /// Starts it with a pipe as its standard input.
    pub fn spawn(self) -> Running {
        self.spawn_with(Stdio::piped())
    }

    fn spawn_with(mut self, stdin: Stdio) -> Running {
        let spawned = self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("cannot start {}: {error}", self.line));
        let stdout = Collector::start(child.stdout.take().unwrap());
        let stderr = Collector::start(child.stderr.take().unwrap());
        let stdin = child.stdin.take();
        Running {
            child,
            stdin,
            stdout,
            stderr,
            line: self.line,
            began: Instant::now(),
            timeout: self.timeout,
        }
    }
}

impl Output {
    /// The standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Wants this exit status.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit status of {self}");
        self
    }

    /// Wants exit status 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// Wants exactly this standard output.
    #[track_caller]
    pub fn prints(self, expected: &str) -> Self {
        assert_eq!(self.out(), expected, "output of {self}");
        self
    }

    /// Wants one of these words in the standard error, in any case.
    #[track_caller]
    pub fn complains(self, words: &[&str]) -> Self {
        let text = self.err().to_lowercase();
        assert!(words.iter().any(|word| text.contains(&word.to_lowercase())), "none of {words:?} in {self}");
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tail = |bytes: &[u8]| {
            let start = bytes.len().saturating_sub(4000);
            String::from_utf8_lossy(&bytes[start..]).into_owned()
        };
        writeln!(f, "`{}` (status {}, {:.2} s)", self.line, self.code, self.elapsed.as_secs_f32())?;
        writeln!(f, "--- stdout\n{}\n--- stderr\n{}", tail(&self.stdout), tail(&self.stderr))
    }
}

/// A program that runs; it is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Collector,
    stderr: Collector,
    line: String,
    began: Instant,
    timeout: Duration,
}

impl Running {
    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its standard input.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().expect("standard input is a pipe and open").write_all(bytes).unwrap();
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Everything it wrote to its standard output so far.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.stdout.bytes()).into_owned()
    }

    /// Waits until its standard output has `text`.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        if !self.stdout.wait_for(text.as_bytes(), DEFAULT_TIMEOUT) {
            let (out, err) = (self.so_far(), self.stderr.bytes());
            panic!("{:?} never came from `{}`: {out:?} {:?}", text, self.line, String::from_utf8_lossy(&err));
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end, at most as long as its command allowed.
    #[track_caller]
    pub fn wait(&mut self) -> Output {
        let limit = self.timeout;
        self.wait_within(limit)
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_within(&mut self, limit: Duration) -> Output {
        self.stdin = self.stdin.take();
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > deadline {
                break None;
            }
            std::thread::sleep(POLL);
        };
        let elapsed = self.began.elapsed();
        let in_time = status.is_some();
        if !in_time {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let closed = self.stdout.wait_for_end(OUTPUT_GRACE) && self.stderr.wait_for_end(OUTPUT_GRACE);
        let output = Output {
            code: status.map_or(-1, code_of),
            stdout: self.stdout.bytes(),
            stderr: self.stderr.bytes(),
            elapsed,
            line: self.line.clone(),
        };
        assert!(in_time, "no end within {} s: {output}", limit.as_secs());
        assert!(closed, "somebody still holds the output of {output}");
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// Reads a stream to its end in a thread.
#[derive(Debug)]
pub(crate) struct Collector {
    shared: Arc<(Mutex<Collected>, Condvar)>,
    _thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Collected {
    bytes: Vec<u8>,
    ended: bool,
}

impl Collector {
    pub(crate) fn start(mut stream: impl Read + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(Collected::default()), Condvar::new()));
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let length = match stream.read(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    // A terminal whose other side is closed reads as EIO.
                    Err(_) => 0,
                };
                let mut collected = theirs.0.lock().unwrap();
                collected.bytes.extend_from_slice(&buffer[..length]);
                collected.ended = length == 0;
                theirs.1.notify_all();
                if length == 0 {
                    return;
                }
            }
        });
        Self { shared, _thread: thread }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.shared.0.lock().unwrap().bytes.clone()
    }

    fn wait_for_end(&self, limit: Duration) -> bool {
        self.wait_until(limit, |collected| collected.ended)
    }

    pub(crate) fn wait_for(&self, text: &[u8], limit: Duration) -> bool {
        self.wait_until(limit, |collected| find(&collected.bytes, text).is_some())
            && find(&self.bytes(), text).is_some()
    }

    /// Waits until `done`, the end of the stream, or the limit; tells whether
    /// it was one of the first two.
    fn wait_until(&self, limit: Duration, done: impl Fn(&Collected) -> bool) -> bool {
        let guard = self.shared.0.lock().unwrap();
        let waiting = |collected: &mut Collected| !done(collected) && !collected.ended;
        !self.shared.1.wait_timeout_while(guard, limit, waiting).unwrap().1.timed_out()
    }
}

/// Where `needle` starts in `haystack`.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len().max(1)).position(|window| window == needle)
}

/// Waits until `condition` holds, at most [`DEFAULT_TIMEOUT`].
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_until_within(what, DEFAULT_TIMEOUT, condition);
}

/// Waits until `condition` holds.
#[track_caller]
pub fn wait_until_within(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {} s in vain until {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
