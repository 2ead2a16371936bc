//! The way of a process from the fork to its program.
//!
//! [`Launch`] holds all that the child needs; it is prepared and checked before the fork. The child sends one
//! message when everything but the program itself is ready, with the terminal's descriptor if there is one,
//! waits for the word to go, and executes. The socket closes on execution; what fails before is sent over it.

use std::ffi::CString;
use std::fs;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;

use hyper_protocol::agent::Failure;
use hyper_sys::namespace::Namespaces;
use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, open};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::filter::Filter;
use super::identity::{self, Identity};
use super::{capability, program, rlimit, root};
use crate::failure::{Attempt, Failed};
use crate::{spec, steps};

/// First byte of the child's message when it is ready to execute.
pub(crate) const READY: u8 = b'R';
/// First byte of the child's message that carries a [`Failure`] in JSON.
pub(crate) const FAILED: u8 = b'F';
/// Most bytes of a message.
pub(crate) const MAX_MESSAGE: usize = 8 << 10;

/// What the child becomes.
#[derive(Debug)]
pub(crate) struct Launch {
    process: spec::Process,
    user: Option<String>,
    groups: Vec<String>,
    capabilities: capability::Sets,
    filter: Option<Rc<Filter>>,
    arguments: Vec<CString>,
    init: bool,
}

/// Steps of the child's way, each from the mark before it.
const STEPS: [&str; 4] = ["enter cgroup", "enter namespaces", "build file tree", "find user"];

/// When the child came to the steps of its way: the first mark is where it began.
#[derive(Debug, Default)]
pub(crate) struct Marks(Vec<u64>);

impl Marks {
    fn next(&mut self) {
        self.0.push(steps::now());
    }

    fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|mark| mark.to_be_bytes()).collect()
    }

    /// What follows the first byte of the child's message.
    pub(crate) fn decode(bytes: &[u8]) -> Marks {
        Marks(bytes.as_chunks().0.iter().map(|mark| u64::from_be_bytes(*mark)).collect())
    }

    /// Notes them as steps.
    pub(crate) fn tell(&self) {
        for (name, marks) in STEPS.iter().zip(self.0.windows(2)) {
            steps::add(name, marks[0], marks[1]);
        }
    }
}

/// Where the child goes to.
pub(crate) enum Place<'a> {
    /// Into a tree of its own, as the first process of a container.
    New {
        root: &'a root::Plan,
        /// Host and domain name, when they are not the pod's.
        names: Option<(&'a str, &'a str)>,
        /// In a cgroup namespace of its own.
        cgroup_namespace: bool,
    },
    /// Into a running container, beside the process behind this PID descriptor.
    Beside(BorrowedFd<'a>),
}

/// The child's ends of its standard streams; a terminal is made by the child itself.
#[derive(Debug)]
pub(crate) enum Streams<'a> {
    Terminal,
    Pipes { stdin: Option<BorrowedFd<'a>>, stdout: BorrowedFd<'a>, stderr: BorrowedFd<'a> },
}

impl Launch {
    /// Checks everything that can be checked before there is a child.
    pub(crate) fn new(
        process: spec::Process,
        user: Option<String>,
        groups: Vec<String>,
        filter: Option<Rc<Filter>>,
    ) -> Result<Launch, Failed> {
        rlimit::check(&process.rlimits)?;
        let arguments = c_strings(&process.args, "an argument")?;
        c_strings(&process.env, "an environment variable")?;
        Ok(Launch {
            capabilities: capability::Sets::parse(process.capabilities.as_ref()),
            arguments,
            process,
            user,
            groups,
            filter,
            init: false,
        })
    }

    /// The program is to be the child of an init.
    pub(crate) fn with_init(mut self, init: bool) -> Launch {
        self.init = init;
        self
    }

    /// The process gets a terminal.
    pub(crate) fn terminal(&self) -> bool {
        self.process.terminal
    }

    /// The whole way, in the child; returns only when it failed. `cgroup` is the open `cgroup.procs`.
    pub(crate) fn run(
        &self,
        place: &Place<'_>,
        streams: &Streams<'_>,
        cgroup: BorrowedFd<'_>,
        parent: &OwnedFd,
    ) -> u8 {
        let Err(failed) = self.go(place, streams, cgroup, parent);
        report(parent, &failed.to_failure());
        1
    }

    fn go(
        &self,
        place: &Place<'_>,
        streams: &Streams<'_>,
        cgroup: BorrowedFd<'_>,
        parent: &OwnedFd,
    ) -> Result<std::convert::Infallible, Failed> {
        let init = match self.init {
            // While the agent's own file tree is still here.
            true => Some(
                open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .attempt(|| "open the init".to_owned())?,
            ),
            false => None,
        };
        let identity = self.prepare(place, streams, cgroup, parent)?;
        self.finish(identity, init.as_ref(), parent)
    }

    fn prepare(
        &self,
        place: &Place<'_>,
        streams: &Streams<'_>,
        cgroup: BorrowedFd<'_>,
        parent: &OwnedFd,
    ) -> Result<Identity, Failed> {
        let mut marks = Marks::default();
        marks.next();
        hyper_sys::child::reset_signals();
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
            .attempt(|| "keep the agent's memory to itself".to_owned())?;
        rustix::process::setsid().attempt(|| "begin a session".to_owned())?;
        hyper_sys::keyring::join_new_session().attempt(|| "make a session keyring".to_owned())?;
        let score = self.process.oom_score_adj.unwrap_or(0);
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .attempt(|| format!("set oom_score_adj to {score}"))?;
        rustix::io::write(cgroup, b"0").attempt(|| "move into the container's cgroup".to_owned())?;
        marks.next();
        let mut terminal = None;
        match place {
            Place::New { root, names, cgroup_namespace } => {
                enter_new(*names, *cgroup_namespace)?;
                marks.next();
                root.build(|| {
                    if self.terminal() {
                        terminal = Some(self.open_terminal(true)?);
                    }
                    Ok(())
                })?;
            }
            Place::Beside(process) => {
                let all = Namespaces { mount: true, uts: true, cgroup: true, ..Namespaces::default() };
                hyper_sys::namespace::join(*process, all)
                    .attempt(|| "enter the container's namespaces".to_owned())?;
                marks.next();
                if self.terminal() {
                    terminal = Some(self.open_terminal(false)?);
                }
            }
        }
        marks.next();
        let identity = self.identity()?;
        marks.next();
        match (terminal, streams) {
            (Some((ours, theirs)), _) => {
                fchown(&theirs, Some(Uid::from_raw(identity.uid)), None)
                    .attempt(|| "give the terminal to the user".to_owned())?;
                rustix::process::ioctl_tiocsctty(&theirs).attempt(|| "take the terminal".to_owned())?;
                let theirs = theirs.as_fd();
                install(theirs, theirs, theirs)?;
                send_ready(parent, Some(ours.as_fd()), &marks)?;
            }
            (None, Streams::Pipes { stdin, stdout, stderr }) => {
                self.install_pipes(*stdin, *stdout, *stderr, &identity)?;
                send_ready(parent, None, &marks)?;
            }
            (None, Streams::Terminal) => return Err(Failed::invalid("the process has no terminal")),
        }
        Ok(identity)
    }

    /// Makes a terminal of the container's own `devpts`: the agent's end and the process's.
    fn open_terminal(&self, console: bool) -> Result<(OwnedFd, OwnedFd), Failed> {
        let failed = || "make a terminal in the container".to_owned();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let ours = open("/dev/pts/ptmx", flags, Mode::empty()).attempt(failed)?;
        unlockpt(&ours).attempt(failed)?;
        let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .attempt(failed)?;
        let size = self.process.console_size;
        if (size.width, size.height) != (0, 0) {
            let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
            tcsetwinsize(&ours, size).attempt(failed)?;
        }
        if console {
            let name = ptsname(&ours, Vec::new()).attempt(failed)?;
            root::bind_console(&name.to_string_lossy())?;
        }
        Ok((ours, theirs))
    }

    fn install_pipes(
        &self,
        stdin: Option<BorrowedFd<'_>>,
        stdout: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
        identity: &Identity,
    ) -> Result<(), Failed> {
        for pipe in [stdin, Some(stdout), Some(stderr)].into_iter().flatten() {
            // So that a process that is not root may open /dev/stdout again.
            fchown(pipe, Some(Uid::from_raw(identity.uid)), None)
                .attempt(|| "give the standard streams to the user".to_owned())?;
        }
        let null;
        let stdin = match stdin {
            Some(stdin) => stdin,
            None => {
                null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .attempt(|| "open /dev/null in the container".to_owned())?;
                null.as_fd()
            }
        };
        install(stdin, stdout, stderr)
    }

    fn identity(&self) -> Result<Identity, Failed> {
        let by_name = self.user.is_some() || !self.groups.is_empty();
        let read = |path| match read_bounded(path) {
            // Numbers need no names.
            Err(_) if !by_name => Ok(String::new()),
            text => text.attempt(|| format!("read the container's {path}")),
        };
        identity::resolve(
            self.user.as_deref(),
            &self.groups,
            &self.process.user,
            &read("/etc/passwd")?,
            &read("/etc/group")?,
        )
    }

    /// Waits for the word, then drops what the process shall not have and executes.
    fn finish(
        &self,
        identity: Identity,
        init: Option<&OwnedFd>,
        parent: &OwnedFd,
    ) -> Result<std::convert::Infallible, Failed> {
        let mut word = [0];
        match rustix::io::retry_on_intr(|| rustix::io::read(parent, &mut word)) {
            Ok(1) => {}
            _ => return Err(Failed::wrong_state("the process was given up before its start")),
        }
        let mut environment = self.process.env.clone();
        if !environment.iter().any(|e| e.starts_with("HOME=")) {
            environment.push(format!("HOME={}", identity.home));
        }
        let c_environment = c_strings(&environment, "an environment variable")?;
        rlimit::apply(&self.process.rlimits)?;
        let mask = self.process.user.umask.unwrap_or(0o022) & 0o777;
        rustix::process::umask(Mode::from_raw_mode(mask));
        if !self.process.no_new_privileges {
            // Without no-new-privileges only CAP_SYS_ADMIN may install a filter, and that is still here.
            self.install_filter()?;
        }
        self.capabilities.bound()?;
        let entered = program::enter(&self.process.cwd);
        become_user(&identity)?;
        if entered.is_err() {
            // Perhaps only the user may enter it.
            program::enter(&self.process.cwd)?;
        }
        self.capabilities.apply()?;
        if self.process.no_new_privileges {
            rustix::thread::set_no_new_privs(true).attempt(|| "set no-new-privileges".to_owned())?;
            self.install_filter()?;
        }
        let name = self.process.args.first().map_or("", String::as_str);
        let path = program::find(name, &environment)?;
        match init {
            None => Err(program::execute(&path, &self.arguments, &c_environment)),
            Some(init) => {
                Err(program::execute_init(init, &crate::init::arguments(&self.arguments), &c_environment))
            }
        }
    }

    fn install_filter(&self) -> Result<(), Failed> {
        let Some(filter) = &self.filter else { return Ok(()) };
        filter.install()
    }
}

fn enter_new(names: Option<(&str, &str)>, cgroup: bool) -> Result<(), Failed> {
    let new = Namespaces { mount: true, cgroup, uts: names.is_some(), ..Namespaces::default() };
    hyper_sys::namespace::leave(new).attempt(|| "make the container's namespaces".to_owned())?;
    if let Some((host, domain)) = names {
        rustix::system::sethostname(host.as_bytes()).attempt(|| format!("set the host name {host:?}"))?;
        rustix::system::setdomainname(domain.as_bytes())
            .attempt(|| format!("set the domain name {domain:?}"))?;
    }
    Ok(())
}

/// Makes the three standard streams; the first two arguments may be the same descriptor.
fn install(stdin: BorrowedFd<'_>, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> Result<(), Failed> {
    let failed = || "set up the standard streams".to_owned();
    rustix::stdio::dup2_stdin(stdin).attempt(failed)?;
    rustix::stdio::dup2_stdout(stdout).attempt(failed)?;
    rustix::stdio::dup2_stderr(stderr).attempt(failed)
}

fn become_user(identity: &Identity) -> Result<(), Failed> {
    let failed = || format!("become user {}:{}", identity.uid, identity.gid);
    rustix::thread::set_keep_capabilities(true).attempt(failed)?;
    let groups: Vec<Gid> = identity.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    rustix::thread::set_thread_groups(&groups).attempt(failed)?;
    let gid = Gid::from_raw(identity.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).attempt(failed)?;
    let uid = Uid::from_raw(identity.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).attempt(failed)?;
    rustix::thread::set_keep_capabilities(false).attempt(failed)
}

/// Content of a file of the container, as text; empty when it does not exist. Only a regular file within bounds
/// is read: an image may have put anything there.
pub(crate) fn read_bounded(path: &str) -> std::io::Result<String> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = match fs::File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(identity::MAX_FILE).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == identity::MAX_FILE {
        return Err(std::io::Error::other(format!("longer than {} bytes", identity::MAX_FILE)));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn c_strings(strings: &[String], what: &str) -> Result<Vec<CString>, Failed> {
    strings
        .iter()
        .map(|s| CString::new(s.as_str()).invalid(|| format!("{what} contains a NUL byte")))
        .collect()
}

fn send_ready(parent: &OwnedFd, terminal: Option<BorrowedFd<'_>>, marks: &Marks) -> Result<(), Failed> {
    let descriptors = terminal.as_slice();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Failed::invalid("no room for the terminal's descriptor"));
    }
    sendmsg(
        parent,
        &[IoSlice::new(&[READY]), IoSlice::new(&marks.encode())],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .attempt(|| "tell the agent".to_owned())?;
    Ok(())
}

/// Sends a failure, its text cut where it would not fit.
fn report(parent: &OwnedFd, failure: &Failure) {
    let message: String = failure.message.chars().take(MAX_MESSAGE / 8).collect();
    let mut bytes = vec![FAILED];
    let failure = Failure { kind: failure.kind, message };
    if serde_json::to_writer(&mut bytes, &failure).is_ok() {
        // A parent that is gone has nobody to tell.
        let _ = rustix::net::send(parent, &bytes, SendFlags::NOSIGNAL);
    }
}
