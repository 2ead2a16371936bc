//! What a case gets to work with.

use std::sync::Arc;

use hyper_e2e::{Cli, Cmd, Instance, Output, Terminal};
use libtest_mimic::Trial;

/// One test.
#[derive(Clone, Copy)]
pub struct Case {
    /// What it claims.
    pub name: &'static str,
    /// How it is run.
    pub body: Body,
}

/// How a case is run.
#[derive(Clone, Copy)]
pub enum Body {
    /// With each command line, on the shared engine.
    Both(fn(&Session)),
    /// With `hyper` alone, on the shared engine.
    Hyper(fn(&Session)),
    /// Once, with an engine of its own.
    Own(fn()),
}

/// Cases of one kind, named as their functions.
#[macro_export]
macro_rules! case_list {
    ($kind:ident: $($name:ident),+ $(,)?) => {
        [$($crate::session::Case { name: stringify!($name), body: $crate::session::Body::$kind($name) }),+]
    };
}

impl Case {
    /// The trials of this case. Without an engine (when only listing) they
    /// have names and nothing to do.
    pub fn trials(self, group: &str, shared: Option<&Arc<Instance>>, docker: bool) -> Vec<Trial> {
        let name = |cli: &str| format!("{group}::{}::{cli}", self.name);
        let on_shared = |cli: Cli, body: fn(&Session)| {
            let shared = shared.cloned();
            Trial::test(name(cli.name()), move || {
                let instance = shared.expect("the engine was started for every chosen case");
                body(&Session { instance, cli });
                Ok(())
            })
        };
        match self.body {
            Body::Hyper(body) => vec![on_shared(Cli::Hyper, body)],
            Body::Both(body) => {
                let with_docker = on_shared(Cli::Docker, body).with_ignored_flag(!docker);
                vec![on_shared(Cli::Hyper, body), with_docker]
            }
            Body::Own(body) => vec![Trial::test(name("hyper"), move || {
                body();
                Ok(())
            })],
        }
    }
}

/// An engine and one of the command lines.
pub struct Session {
    /// The shared engine.
    pub instance: Arc<Instance>,
    /// The command line under test.
    pub cli: Cli,
}

impl Session {
    /// The command line with these arguments.
    pub fn cmd(&self, arguments: &[&str]) -> Cmd {
        self.instance.cli(self.cli, arguments)
    }

    /// Runs the command line to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.cmd(arguments).run()
    }

    /// `run --rm busybox:latest sh -c SCRIPT`.
    pub fn shell(&self, script: &str) -> Output {
        self.run(&["run", "--rm", "busybox:latest", "sh", "-c", script])
    }

    /// The command line on a terminal.
    pub fn terminal(&self, arguments: &[&str]) -> Terminal {
        self.instance.terminal(self.cli, arguments)
    }

    /// A name nobody else uses.
    pub fn name(&self, stem: &str) -> String {
        self.instance.name(&format!("{stem}-{}", self.cli.name()))
    }

    /// A container that runs in the background; it is removed when the guard
    /// is dropped.
    pub fn background(&self, flags: &[&str], image: &str, command: &[&str]) -> Container<'_> {
        let name = self.name("c");
        let arguments = [&["run", "-d", "--name", &name], flags, &[image], command].concat();
        let output = self.run(&arguments).ok();
        let container = Container { session: self, name };
        let id = output.out().trim().to_owned();
        assert!(
            id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()),
            "run -d prints the id: {output}"
        );
        container
    }

    /// `inspect` of a container or image as JSON.
    pub fn inspect(&self, name: &str) -> serde_json::Value {
        let output = self.run(&["inspect", name]).ok();
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("inspect prints JSON");
        value[0].clone()
    }
}

/// A container that is removed when this is dropped.
pub struct Container<'a> {
    session: &'a Session,
    /// Its name.
    pub name: String,
}

impl Container<'_> {
    /// Its address.
    pub fn address(&self) -> String {
        let inspected = self.session.inspect(&self.name);
        let address = inspected["NetworkSettings"]["IPAddress"].as_str().unwrap_or_default().to_owned();
        assert!(!address.is_empty(), "a running container has an address: {}", inspected["NetworkSettings"]);
        address
    }

    /// Its state: `running`, `exited`, …
    pub fn status(&self) -> String {
        self.session.inspect(&self.name)["State"]["Status"].as_str().unwrap_or_default().to_owned()
    }

    /// Its log.
    pub fn logs(&self) -> String {
        self.session.run(&["logs", &self.name]).ok().out()
    }

    /// Waits until its log has `text`.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        hyper_e2e::command::wait_until(&format!("the log has {text:?}"), || self.logs().contains(text));
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.session.instance.hyper(&["rm", "-f", &self.name]).run();
    }
}
