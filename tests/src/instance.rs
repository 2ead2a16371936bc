//! A private engine and its command lines.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::binaries::Binaries;
use crate::command::{Cmd, Output, wait_until, wait_until_within};
use crate::docker;
use crate::guardian::{Guardian, PREFIX};
use crate::lab::Lab;
use crate::leftovers::{self, Process};
use crate::pty::Terminal;

/// How long hyperd may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long traces of removed containers may still be seen: a shim whose daemon
/// was killed while it started gives up by itself after 30 s.
const SETTLE: Duration = Duration::from_secs(45);

/// What may stay in the runtime directory: logs, locks, the directory of pods,
/// and what was found out about the machine.
const STAYS: [&str; 4] = [".log", ".lock", "pods", "kvm-probe.json"];

/// Which command line speaks to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cli {
    /// Ours.
    Hyper,
    /// Docker's, with `-H`.
    Docker,
}

impl Cli {
    /// Its name in test and container names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hyper => "hyper",
            Self::Docker => "docker",
        }
    }
}

/// How an instance differs from the usual.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Variables of the environment of every command, and so of hyperd.
    pub env: Vec<(String, String)>,
    /// A shell line run in the engine's namespaces first; `$1` is the root directory.
    pub prepare: Option<String>,
    /// Images of the registry to pull at once, under their short names too.
    pub images: Vec<&'static str>,
}

/// A real dockerd to run the docker CLI's cases against, which tells whether
/// the cases are right about docker.
#[derive(Clone, Debug)]
pub struct Dockerd {
    host: String,
    pid: u32,
}

impl Dockerd {
    pub(crate) fn new(host: String, pid: u32) -> Self {
        Self { host, pid }
    }

    /// Where it is reached, `unix://…`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The one that `HYPER_E2E_DOCKERD` (its socket, `unix://…`) and
    /// `HYPER_E2E_DOCKERD_PID` (its process number) name.
    pub fn from_environment() -> Option<Self> {
        let host = std::env::var("HYPER_E2E_DOCKERD").ok()?;
        let pid = std::env::var("HYPER_E2E_DOCKERD_PID").ok()?.parse().ok()?;
        Some(Self { host, pid })
    }
}

/// A private engine. Everything of it is below one temporary directory.
#[derive(Debug)]
pub struct Instance {
    /// Its namespaces and registry.
    pub lab: Lab,
    binaries: Binaries,
    // Before the directory, so that it is told of the end before that is gone.
    _guardian: Guardian,
    directory: TempDir,
    options: Options,
    names: AtomicU32,
    mounts: Vec<String>,
    dockerd: Option<Dockerd>,
    finished: bool,
}

impl Instance {
    /// Starts one. hyperd is started by the first command, as users have it.
    pub fn start(options: Options) -> Self {
        let dockerd = Dockerd::from_environment();
        let binaries = match &dockerd {
            Some(_) => Binaries::none(),
            None => Binaries::find().unwrap_or_else(|missing| panic!("{missing}")),
        };
        // Short, because socket paths are limited to 107 bytes (unix(7)).
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in("/tmp").unwrap();
        let guardian = Guardian::new(directory.path());
        let lab = Lab::new(directory.path(), dockerd.as_ref().map(|dockerd| dockerd.pid));
        for name in ["root", "run", "home"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        if let Some(line) = &options.prepare {
            let root = directory.path().join("root");
            let status =
                lab.engine.command().args(["sh", "-ec", line, "prepare"]).arg(root).status().unwrap();
            assert!(status.success(), "{line}: {status}");
        }
        let mounts = lab.engine.mounts();
        let names = AtomicU32::new(0);
        let instance = Self {
            lab,
            binaries,
            _guardian: guardian,
            directory,
            options,
            names,
            mounts,
            dockerd,
            finished: false,
        };
        for image in instance.options.images.clone() {
            instance.fetch(image);
        }
        instance
    }

    /// Pulls `image` from the registry and gives it its short name.
    pub fn fetch(&self, image: &str) {
        let full = format!("localhost:5000/{image}");
        self.hyper(&["pull", "-q", &full]).timeout(Duration::from_secs(300)).run().ok();
        self.hyper(&["tag", &full, image]).run().ok();
    }

    /// The programs under test.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The directory of everything; keep own files in it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `HYPER_ROOT`.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// `HYPER_RUN`.
    pub fn run_directory(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// `HYPER_HOST`.
    pub fn host(&self) -> String {
        match &self.dockerd {
            Some(dockerd) => dockerd.host.clone(),
            None => format!("unix://{}", self.run_directory().join("hyper.sock").display()),
        }
    }

    /// A name for a container, pod or image that nobody else uses.
    pub fn name(&self, stem: &str) -> String {
        format!("{stem}-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// `hyper` with these arguments.
    pub fn hyper(&self, arguments: &[&str]) -> Cmd {
        self.cli(Cli::Hyper, arguments)
    }

    /// `docker -H …` with these arguments.
    pub fn docker(&self, arguments: &[&str]) -> Cmd {
        self.cli(Cli::Docker, arguments)
    }

    /// One of the command lines with these arguments.
    pub fn cli(&self, cli: Cli, arguments: &[&str]) -> Cmd {
        let words = self.words(cli, arguments);
        Cmd::new(self.command(), &words)
    }

    /// One of the command lines on a terminal of its own.
    pub fn terminal(&self, cli: Cli, arguments: &[&str]) -> Terminal {
        Terminal::start(self.command(), &self.words(cli, arguments))
    }

    /// A shell line on a terminal of its own.
    pub fn shell_on_terminal(&self, line: &str) -> Terminal {
        Terminal::start(self.command(), &["sh", "-c", line])
    }

    /// A shell line in the engine's namespaces and environment.
    pub fn sh(&self, line: &str) -> Cmd {
        Cmd::new(self.command(), &["sh", "-c", line])
    }

    /// The beginning of one of the command lines, for a shell line.
    pub fn line(&self, cli: Cli) -> String {
        self.words(cli, &[]).join(" ")
    }

    fn words(&self, cli: Cli, arguments: &[&str]) -> Vec<String> {
        let mut words = match cli {
            Cli::Hyper if self.dockerd.is_none() => vec![self.binaries.hyper().display().to_string()],
            _ => {
                let docker = docker::program().unwrap_or_else(|missing| panic!("{missing}"));
                vec![docker.display().to_string(), "-H".to_owned(), self.host()]
            }
        };
        words.extend(arguments.iter().map(|&argument| argument.to_owned()));
        words
    }

    /// The start of every command: the engine's namespaces and environment.
    fn command(&self) -> Command {
        let mut command = self.lab.engine.command();
        command
            .env("HYPER_ROOT", self.root())
            .env("HYPER_RUN", self.run_directory())
            .env("HYPER_HOST", self.host())
            // What one engine has made serves all, also in the next run.
            .env("HYPER_TEMPLATES", crate::images::cache().join("templates"))
            // A VM kept ready would count as left behind, and take the time of the others.
            .env("HYPER_POOL", "0")
            .env("HOME", self.directory.path().join("home"))
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONFIG")
            .env_remove("XDG_RUNTIME_DIR")
            .envs(self.options.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Process number of hyperd.
    pub fn daemon_pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.run_directory().join("hyperd.pid")).ok()?;
        text.trim().parse().ok().filter(|pid| Path::new(&format!("/proc/{pid}")).exists())
    }

    /// Kills hyperd with SIGKILL and waits until it is gone.
    #[track_caller]
    pub fn kill_daemon(&self) {
        let pid = self.daemon_pid().expect("hyperd runs and wrote its process number");
        kill(pid, Signal::KILL);
        // The first thread can be a zombie while others still hold the socket; and a command that is under way
        // may have started the next daemon already.
        let socket = self.run_directory().join("hyper.sock");
        let replaced = || self.daemon_pid().is_some_and(|next| next != pid);
        wait_until("hyperd is gone", || !alive(pid) && (replaced() || UnixStream::connect(&socket).is_err()));
    }

    /// Starts hyperd if it does not run.
    pub fn start_daemon(&self) -> Output {
        self.hyper(&["version"]).run().ok()
    }

    /// Every process of this engine and its lab.
    pub fn processes(&self) -> Vec<Process> {
        leftovers::processes(self.directory.path(), &self.lab.engine)
    }

    /// The processes of this engine other than hyperd and the command lines.
    pub fn pod_processes(&self) -> Vec<Process> {
        let daemon = self.daemon_pid();
        let hyper = self.binaries.hyper().display().to_string();
        let mut processes = self.processes();
        processes.retain(|process| {
            let program = process.command.split(' ').next().unwrap_or_default();
            let name = program.rsplit('/').next().unwrap_or_default();
            Some(process.pid) != daemon
                && program != hyper
                && !matches!(name, "docker" | "docker-registry" | "nsenter" | "sh" | "setsid")
        });
        processes
    }

    /// What of removed containers is still there.
    pub fn traces(&self) -> Vec<String> {
        let mut traces: Vec<String> =
            self.pod_processes().into_iter().map(|p| format!("process {} {}", p.pid, p.command)).collect();
        let pods = leftovers::files(&self.run_directory().join("pods"));
        traces.extend(pods.into_iter().map(|file| format!("file run/pods/{file}")));
        let containers = leftovers::files(&self.root().join("containers"));
        traces.extend(containers.into_iter().map(|file| format!("file root/containers/{file}")));
        let taps = leftovers::links(&self.lab.engine).into_iter().filter(|link| self.is_tap(link));
        traces.extend(taps.map(|link| format!("tap {link}")));
        let mounts = self.lab.engine.mounts().into_iter().filter(|mount| !self.mounts.contains(mount));
        traces.extend(mounts.map(|mount| format!("mount {mount}")));
        traces
    }

    /// Waits until the engine keeps `count` VMs ready.
    #[track_caller]
    pub fn wait_for_spares(&self, count: usize) {
        let ready = format!("Ready: {count}");
        wait_until_within("VMs are ready", Duration::from_secs(60), || {
            self.hyper(&["info"]).run().ok().out().contains(&ready)
        });
    }

    /// Waits until removed containers have left no trace.
    #[track_caller]
    pub fn settles(&self) {
        let deadline = Instant::now() + SETTLE;
        while !self.traces().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        let left = self.traces();
        if !left.is_empty() {
            // Whether the engine knows of it.
            for words in [&["ps", "-a", "--no-trunc"][..], &["pod", "ls"], &["container", "inspect"]] {
                let mut words = words.to_vec();
                let all = self.hyper(&["ps", "-aq"]).run().out();
                if words == ["container", "inspect"] {
                    words.extend(all.lines());
                }
                eprintln!("{}", self.hyper(&words).run());
            }
        }
        assert_eq!(left, Vec::<String>::new(), "left behind");
    }

    /// Bridges are named `hy` and six digits; taps have more.
    fn is_tap(&self, link: &str) -> bool {
        link.starts_with("hy") && link.len() > 8
    }

    /// Removes all containers and pods, stops hyperd, and lists whatever is
    /// left of it on the host.
    pub fn finish(mut self) -> Vec<String> {
        self.finished = true;
        let mut left = Vec::new();
        if self.dockerd.is_some() {
            return left;
        }
        if self.daemon_pid().is_some() {
            left.extend(self.remove_everything());
            let deadline = Instant::now() + SETTLE;
            while !self.traces().is_empty() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
            left.extend(
                self.traces().into_iter().map(|trace| format!("after removing all containers: {trace}")),
            );
            left.extend(self.stop_daemon());
        }
        // It does not wait for what ends with it, a template in the making say.
        let deadline = Instant::now() + SETTLE;
        while self.processes().iter().any(|process| !self.is_harness(process)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        for process in self.processes() {
            if self.is_harness(&process) {
                continue;
            }
            left.push(format!("process {} {}", process.pid, process.command));
        }
        left.extend(leftovers::links(&self.lab.engine).into_iter().map(|link| format!("link {link}")));
        left.extend(leftovers::tables(&self.lab.engine).into_iter().map(|table| format!("nft {table}")));
        let run = leftovers::files(&self.run_directory()).into_iter();
        left.extend(
            run.filter(|file| !STAYS.iter().any(|end| file.ends_with(end))).map(|file| format!("run/{file}")),
        );
        let root = leftovers::files(&self.root()).into_iter();
        left.extend(root.filter(|file| is_temporary(file)).map(|file| format!("root/{file}")));
        self.kill_everything();
        left
    }

    /// The registry has our directory in its command line too.
    fn is_harness(&self, process: &Process) -> bool {
        process.command.starts_with("docker-registry")
            || process.command.starts_with("nsenter")
            || process.command.starts_with("sleep infinity")
    }

    fn remove_everything(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (list, remove) in
            [(vec!["ps", "-aq"], vec!["rm", "-f"]), (vec!["pod", "ls", "-q"], vec!["pod", "rm", "-f"])]
        {
            let listed = self.hyper(&list).run();
            if listed.code != 0 {
                problems.push(format!("cannot list: {listed}"));
                continue;
            }
            let ids = listed.out();
            let mut words = remove;
            words.extend(ids.split_whitespace());
            if ids.split_whitespace().next().is_some() {
                let removed = self.hyper(&words).run();
                if removed.code != 0 {
                    problems.push(format!("cannot remove: {removed}"));
                }
            }
        }
        problems
    }

    fn stop_daemon(&self) -> Option<String> {
        let pid = self.daemon_pid()?;
        kill(pid, Signal::TERM);
        let deadline = Instant::now() + STOP_LIMIT;
        while alive(pid) {
            if Instant::now() > deadline {
                return Some(format!("hyperd {pid} did not end after SIGTERM"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    fn kill_everything(&self) {
        if self.dockerd.is_some() {
            return;
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut processes = self.processes();
            processes.retain(|process| !self.is_harness(process));
            if processes.is_empty() || Instant::now() > deadline {
                return;
            }
            for process in processes {
                kill(process.pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if !self.finished {
            if std::thread::panicking() {
                let log = fs::read_to_string(self.run_directory().join("hyperd.log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("hyperd's log ends:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            }
            self.kill_everything();
        }
        // A file system mounted on the root directory exists in the engine's
        // namespace only, and ends with it.
    }
}

/// Whether the name of a file says that it is unfinished.
fn is_temporary(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or_default();
    let in_directory = file.split('/').rev().skip(1).any(|directory| directory == "tmp");
    in_directory || name.ends_with(".tmp") || name.ends_with(".part") || name.starts_with(".tmp")
}

/// Whether the process exists and is no zombie.
fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// Sends a signal to a process that an instance started; one that is gone is fine.
pub fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}
