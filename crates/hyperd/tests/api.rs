//! The daemon from outside: its API over a socket, with a shim that needs no VM.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon of a test's own, ended with it.
struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

/// An answer: status, body.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn message(&self) -> String {
        self.json()["message"].as_str().unwrap().to_owned()
    }
}

/// The fake shim, which cargo builds beside the tests, under the name by which its process is known.
fn fake_shim(dir: &Path) -> Option<PathBuf> {
    let tests = std::env::current_exe().ok()?;
    let built = tests.parent()?.parent()?.join("examples/fake-shim");
    if !built.is_file() {
        eprintln!("skipped: {} is not built (cargo build --examples)", built.display());
        return None;
    }
    let link = dir.join("containerd-shim-hyper-v2");
    std::fs::copy(built, &link).ok()?;
    Some(link)
}

impl Daemon {
    /// Starts a daemon with one image, `box`; `None` when this machine cannot.
    fn start() -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("hyperd").tempdir().unwrap();
        let guest = dir.path().join("guest");
        std::fs::create_dir(&guest).unwrap();
        std::fs::write(guest.join("vmlinux"), b"").unwrap();
        std::fs::write(guest.join("initramfs.cpio"), b"").unwrap();
        let shim = fake_shim(dir.path())?;
        let child = spawn(dir.path(), &shim);
        let daemon = Self { child, dir };
        daemon.wait_until_up();
        // An empty tar: two blocks of zeros.
        let import = daemon.send("POST", "/images/create?fromSrc=-&repo=box&tag=latest", &[0; 1024]);
        assert_eq!(import.status, 200, "{import:?}");
        Some(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/hyper.sock")
    }

    fn wait_until_up(&self) {
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "the daemon does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the daemon without a word, and starts another on the same state.
    fn crash_and_start(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.dir.path(), &self.dir.path().join("containerd-shim-hyper-v2"));
        self.wait_until_up();
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn send(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let head = format!(
            "{method} /v1.47{path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        parse(&bytes)
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, b"")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, body.to_string().as_bytes())
    }

    fn create(&self, name: &str, cmd: &[&str], more: Value) -> String {
        let mut body = json!({"Image": "box", "Cmd": cmd, "HostConfig": {"NetworkMode": "none"}});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let answer = self.post(&format!("/containers/create?name={name}"), &body);
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["Id"].as_str().unwrap().to_owned()
    }

    fn state(&self, name: &str) -> Value {
        self.get(&format!("/containers/{name}/json")).json()["State"].clone()
    }

    fn wait(&self, name: &str) -> i64 {
        self.post(&format!("/containers/{name}/wait"), &Value::Null).json()["StatusCode"].as_i64().unwrap()
    }

    /// Asks for a stream; returns the connection after the head.
    fn hijack(&self, path: &str, body: &str) -> (u16, UnixStream) {
        let mut stream = self.connect();
        let head = format!(
            "POST /v1.47{path} HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        (status(&head), stream)
    }

    /// Pods that have anything left in the runtime directory.
    fn pods(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("run/pods")).unwrap().count()
    }

    fn wait_for(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "{what} did not come true");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for container in self.get("/containers/json?all=1").json().as_array().cloned().unwrap_or_default() {
            let id = container["Id"].as_str().unwrap_or_default();
            self.send("DELETE", &format!("/containers/{id}?force=1"), b"");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &Path, shim: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_hyperd"))
        .env("HYPER_ROOT", dir.join("root"))
        .env("HYPER_RUN", dir.join("run"))
        .env("HYPER_GUEST", dir.join("guest"))
        .env("HYPER_SHIM", shim)
        .env_remove("HYPER_HOST")
        .stdin(Stdio::null())
        .stderr(std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap())
        .spawn()
        .unwrap()
}

fn status(head: &[u8]) -> u16 {
    std::str::from_utf8(&head[9..12]).unwrap().parse().unwrap()
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n").expect("a complete head");
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let mut rest = &bytes[end + 4..];
    if !head.contains("transfer-encoding: chunked") {
        return Answer { status: status(bytes), body: rest.to_vec() };
    }
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|end| end == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        body.extend(&rest[line + 2..line + 2 + length]);
        rest = &rest[line + 2 + length + 2..];
        if length == 0 {
            return Answer { status: status(bytes), body };
        }
    }
}

fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![1, 0, 0, 0, 0, 0, 0, text.len() as u8];
    frame.extend(text.as_bytes());
    frame
}

#[test]
fn container_runs_and_leaves_its_log_and_exit_code() {
    let Some(daemon) = Daemon::start() else { return };
    daemon.create("one", &["echo", "hello"], json!({}));
    assert_eq!(daemon.state("one")["Status"], "created");
    assert_eq!(daemon.post("/containers/one/start", &Value::Null).status, 204);
    assert_eq!(daemon.wait("one"), 0);
    assert_eq!(daemon.get("/containers/one/logs?stdout=1").body, frame("hello\n"));
    let state = daemon.state("one");
    assert_eq!((state["Status"].as_str(), state["Pid"].as_u64()), (Some("exited"), Some(0)));
    daemon.wait_for("the pod's end", |daemon| daemon.pods() == 0);
    assert_eq!(daemon.send("DELETE", "/containers/one", b"").status, 204);
    assert_eq!(daemon.get("/containers/one/json").status, 404);
}

#[test]
fn attach_before_the_start_carries_input_and_all_output() {
    let Some(daemon) = Daemon::start() else { return };
    daemon.create("io", &["cat"], json!({"OpenStdin": true, "StdinOnce": true}));
    let (status, mut stream) = daemon.hijack("/containers/io/attach?stream=1&stdin=1&stdout=1&stderr=1", "");
    assert_eq!(status, 101);
    stream.write_all(b"typed\n").unwrap();
    assert_eq!(daemon.post("/containers/io/start", &Value::Null).status, 204);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut output = Vec::new();
    stream.read_to_end(&mut output).unwrap();
    assert_eq!(output, frame("typed\n"));
    assert_eq!(daemon.wait("io"), 0);
}

#[test]
fn exec_has_its_streams_and_exit_codes() {
    let Some(daemon) = Daemon::start() else { return };
    daemon.create("host", &["sleep", "1000"], json!({}));
    daemon.post("/containers/host/start", &Value::Null);
    let exec = |cmd: &[&str]| {
        let body = json!({"Cmd": cmd, "AttachStdout": true, "AttachStderr": true});
        daemon.post("/containers/host/exec", &body).json()["Id"].as_str().unwrap().to_owned()
    };
    for (cmd, output, code) in [(&["echo", "in"][..], frame("in\n"), 0), (&["exit", "3"][..], Vec::new(), 3)]
    {
        let id = exec(cmd);
        let (status, mut stream) = daemon.hijack(&format!("/exec/{id}/start"), "{\"Detach\":false}");
        assert_eq!(status, 101);
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).unwrap();
        assert_eq!(seen, output);
        assert_eq!(daemon.get(&format!("/exec/{id}/json")).json()["ExitCode"], code);
    }
    let id = exec(&["nosuch"]);
    let (_, mut stream) = daemon.hijack(&format!("/exec/{id}/start"), "{}");
    let mut seen = Vec::new();
    stream.read_to_end(&mut seen).unwrap();
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.contains("executable file not found"), "{seen:?}");
    assert_eq!(daemon.get(&format!("/exec/{id}/json")).json()["ExitCode"], 126);
}

#[test]
fn failed_start_leaves_nothing_and_has_dockers_code_and_words() {
    let Some(daemon) = Daemon::start() else { return };
    daemon.create("bad", &["nosuch"], json!({}));
    let refused = daemon.post("/containers/bad/start", &Value::Null);
    assert_eq!(refused.status, 400);
    assert_eq!(
        refused.message(),
        "failed to create task for container: failed to create shim task: exec: \"nosuch\": executable file not found \
         in $PATH: unknown"
    );
    let state = daemon.state("bad");
    assert_eq!((state["Status"].as_str(), state["ExitCode"].as_i64()), (Some("created"), Some(127)));
    assert_eq!(daemon.pods(), 0);
    daemon.create("gone", &["nosuch"], json!({"HostConfig": {"NetworkMode": "none", "AutoRemove": true}}));
    daemon.post("/containers/gone/start", &Value::Null);
    assert_eq!(daemon.get("/containers/gone/json").status, 404);
}

#[test]
fn killed_daemon_finds_running_and_ended_containers_again() {
    let Some(mut daemon) = Daemon::start() else { return };
    daemon.create("live", &["sleep", "1000"], json!({}));
    daemon.create("ends", &["cat"], json!({"OpenStdin": true}));
    daemon.create("lost", &["sleep", "1000"], json!({}));
    daemon.create(
        "brief",
        &["sleep", "1000"],
        json!({"HostConfig": {"NetworkMode": "none", "AutoRemove": true}}),
    );
    let (_, stream) = daemon.hijack("/containers/ends/attach?stream=1&stdin=1&stdout=1", "");
    for name in ["live", "ends", "lost", "brief"] {
        assert_eq!(daemon.post(&format!("/containers/{name}/start"), &Value::Null).status, 204, "{name}");
    }
    let pod = |name: &str| {
        let id = daemon.get(&format!("/containers/{name}/json")).json()["Hyper"]["Pod"]["Id"].clone();
        daemon.dir.path().join("run/pods").join(id.as_str().unwrap())
    };
    let shims: Vec<String> =
        ["lost", "brief"].map(|name| std::fs::read_to_string(pod(name).join("shim.pid")).unwrap()).into();
    let ended = pod("ends");
    let id = daemon.get("/containers/ends/json").json()["Id"].as_str().unwrap().to_owned();
    // The daemon dies; then one container's input ends, and two lose their shims.
    daemon.child.kill().unwrap();
    drop(stream);
    let deadline = Instant::now() + PATIENCE;
    while !ended.join(format!("exits/{id}.json")).exists() {
        assert!(Instant::now() < deadline, "the container did not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    for shim in shims {
        Command::new("sh").args(["-c", "kill -9 $0", &shim]).status().unwrap();
    }
    daemon.crash_and_start();
    assert_eq!(daemon.state("live")["Status"], "running");
    let ends = daemon.state("ends");
    assert_eq!((ends["Status"].as_str(), ends["ExitCode"].as_i64()), (Some("exited"), Some(0)));
    let lost = daemon.state("lost");
    assert_eq!((lost["Status"].as_str(), lost["ExitCode"].as_i64()), (Some("exited"), Some(137)));
    daemon.wait_for("the removal", |daemon| daemon.get("/containers/brief/json").status == 404);
    daemon.wait_for("the end of other pods", |daemon| daemon.pods() == 1);
    assert_eq!(daemon.post("/containers/live/kill", &Value::Null).status, 204);
    assert_eq!(daemon.wait("live"), 137);
}

#[test]
fn pod_made_by_name_outlives_its_containers_and_another_does_not() {
    let Some(daemon) = Daemon::start() else { return };
    let made = daemon.post("/hyper/pods", &json!({"Name": "kept", "NetworkDisabled": true}));
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(daemon.post("/hyper/pods", &json!({"Name": "kept"})).status, 409);
    let inside = |pod: &str| json!({"HostConfig": {"NetworkMode": "none", "AutoRemove": true, "Annotations": {"io.hyper.pod": pod}}});
    for pod in ["kept", "brief"] {
        let name = format!("in-{pod}");
        daemon.create(&name, &["exit", "0"], inside(pod));
        assert_eq!(daemon.post(&format!("/containers/{name}/start"), &Value::Null).status, 204);
        daemon
            .wait_for("the removal", |daemon| daemon.get(&format!("/containers/{name}/json")).status == 404);
    }
    let pods = daemon.get("/hyper/pods").json();
    let names: Vec<_> = pods.as_array().unwrap().iter().map(|pod| (&pod["Name"], &pod["State"])).collect();
    assert_eq!(names, [(&json!("kept"), &json!("running"))]);
    assert_eq!(daemon.send("DELETE", "/hyper/pods/kept", b"").status, 204);
    assert_eq!(daemon.pods(), 0);
}

#[test]
fn twenty_starts_at_once_all_run() {
    let Some(daemon) = Daemon::start() else { return };
    let names: Vec<String> = (0..20).map(|number| format!("many{number}")).collect();
    for name in &names {
        daemon.create(name, &["echo", name], json!({}));
    }
    std::thread::scope(|scope| {
        for name in &names {
            let daemon = &daemon;
            scope.spawn(move || {
                assert_eq!(daemon.post(&format!("/containers/{name}/start"), &Value::Null).status, 204);
                assert_eq!(daemon.wait(name), 0);
            });
        }
    });
    for name in &names {
        let log = daemon.get(&format!("/containers/{name}/logs?stdout=1")).body;
        assert_eq!(log, frame(&format!("{name}\n")));
    }
    daemon.wait_for("the pods' end", |daemon| daemon.pods() == 0);
}

#[test]
fn nonsense_on_the_socket_is_answered_and_harms_nobody() {
    let Some(daemon) = Daemon::start() else { return };
    for bytes in [
        &b"\x00\x01\x02\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /x",
        b"GET /v1.1/info HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = daemon.connect();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    for (path, body, status) in [
        ("/containers/create", "{", 400),
        ("/containers/create", "[]", 400),
        ("/containers/create", "{\"Image\":1}", 400),
        ("/containers/create", "{\"Image\":\"nosuch\",\"Cmd\":[\"x\"]}", 404),
        (
            "/containers/create",
            "{\"Image\":\"box\",\"Cmd\":[\"x\"],\"HostConfig\":{\"Links\":[\"a:b\"]}}",
            501,
        ),
        ("/build", "", 501),
        ("/nosuch", "", 404),
    ] {
        let answer = daemon.send("POST", path, body.as_bytes());
        assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
        assert!(!answer.message().is_empty());
    }
    assert_eq!(daemon.get("/_ping").body, b"OK");
}
