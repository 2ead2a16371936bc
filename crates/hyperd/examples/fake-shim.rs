//! A shim without a VM, for the API's tests: what it calls a container is a few words that it obeys itself.
//!
//! `echo WORDS` prints, `exit N` ends with a code, `cat` gives back its input, `sleep` runs until a signal. Any other
//! program is not found, as in a real guest.

#![allow(clippy::unwrap_used, reason = "a double of the tests: what fails here fails them")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest,
    KillRequest, PauseRequest, ResizePtyRequest, ResumeRequest, StartRequest, StartResponse, StateRequest,
    StateResponse, Status, WaitRequest, WaitResponse,
};
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, ShutdownSandboxRequest, ShutdownSandboxResponse,
    StartSandboxRequest, StartSandboxResponse, StopSandboxRequest, StopSandboxResponse,
};
use containerd_shim_protos::sandbox_async::{Sandbox, create_sandbox};
use containerd_shim_protos::shim_async::{Task, create_task};
use containerd_shim_protos::ttrpc::asynchronous::{Server, TtrpcContext};
use containerd_shim_protos::ttrpc::{Code, Error, Result, get_status};
use hyper_protocol::agent::Exit;
use hyper_protocol::shim::{ContainerConfig, ExecConfig, ExitRecord, PodReply, PodRequest, PodState, files};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

type Key = (String, String);

/// One process: what it is told to do, who is attached, how far it is.
struct Process {
    words: Vec<String>,
    tty: bool,
    log: Option<PathBuf>,
    attached: Mutex<Vec<UnixStream>>,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Created,
    Running,
    Paused,
    Stopped(u32),
}

#[derive(Default)]
struct Pod {
    dir: PathBuf,
    processes: Mutex<BTreeMap<Key, Arc<Process>>>,
}

fn failed(code: Code, text: &str) -> Error {
    Error::RpcStatus(get_status(code, text))
}

impl Pod {
    fn find(&self, id: &str, exec: &str) -> Result<Arc<Process>> {
        let key = (id.to_owned(), exec.to_owned());
        self.processes
            .lock()
            .unwrap()
            .get(&key)
            .cloned()
            .ok_or_else(|| failed(Code::NOT_FOUND, "no such process"))
    }

    fn add(&self, id: &str, exec: &str, process: &serde_json::Value, log: Option<PathBuf>) {
        let words = process["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned());
        let process = Process {
            words: words.collect(),
            tty: process["terminal"] == true,
            log,
            attached: Mutex::default(),
            state: watch::Sender::new(State::Created),
        };
        self.processes.lock().unwrap().insert((id.to_owned(), exec.to_owned()), Arc::new(process));
    }

    /// Ends a process, on disk first as the real one does.
    fn end(&self, id: &str, exec: &str, process: &Process, code: u32) {
        if exec.is_empty() {
            let exit = Exit { code, unix_time_ns: 0, oom_killed: false };
            let text = serde_json::to_vec(&ExitRecord { exit, error: None }).unwrap();
            std::fs::write(self.dir.join(files::EXITS).join(format!("{id}.json")), text).unwrap();
        }
        process.attached.lock().unwrap().clear();
        process.state.send_replace(State::Stopped(code));
    }

    async fn output(&self, process: &Process, text: &str) {
        if let Some(path) = &process.log {
            let line = serde_json::json!({"log": text, "stream": "stdout", "time": "2026-11-22T00:00:00Z"});
            let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
            writeln!(file, "{line}").unwrap();
        }
        let mut frame = Vec::new();
        if !process.tty {
            frame.extend([1, 0, 0, 0]);
            frame.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        }
        frame.extend(text.as_bytes());
        let mut attached = std::mem::take(&mut *process.attached.lock().unwrap());
        for client in &mut attached {
            let _ = client.write_all(&frame).await;
        }
        process.attached.lock().unwrap().append(&mut attached);
    }

    async fn run(self: Arc<Self>, id: String, exec: String, process: Arc<Process>) {
        let words: Vec<&str> = process.words.iter().map(String::as_str).collect();
        let code = match words.as_slice() {
            ["echo", text @ ..] => {
                self.output(&process, &format!("{}\n", text.join(" "))).await;
                0
            }
            ["exit", code] => code.parse().unwrap(),
            ["cat"] => {
                let mut input = String::new();
                let client = process.attached.lock().unwrap().pop();
                if let Some(mut client) = client {
                    let _ = client.read_to_string(&mut input).await;
                    process.attached.lock().unwrap().push(client);
                }
                self.output(&process, &input).await;
                0
            }
            _ => return,
        };
        self.end(&id, &exec, &process, code);
    }
}

struct Service(Arc<Pod>);

#[async_trait]
impl Task for Service {
    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> Result<CreateTaskResponse> {
        let spec = std::fs::read(Path::new(&request.bundle).join("config.json")).unwrap();
        let spec: serde_json::Value = serde_json::from_slice(&spec).unwrap();
        let config: ContainerConfig = serde_json::from_slice(&request.options.value).unwrap();
        assert_eq!(request.rootfs.last().unwrap().type_, "ext4");
        self.0.add(&request.id, "", &spec["process"], config.log.map(|log| log.path));
        Ok(CreateTaskResponse::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Result<Empty> {
        self.0.find(&request.id, "")?;
        let config: ExecConfig = serde_json::from_slice(&request.spec.value).unwrap();
        self.0.add(&request.id, &request.exec_id, &config.process, None);
        Ok(Empty::new())
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Result<StartResponse> {
        let process = self.0.find(&request.id, &request.exec_id)?;
        let program = process.words[0].clone();
        if !["echo", "exit", "cat", "sleep"].contains(&program.as_str()) {
            let text = format!("exec: \"{program}\": executable file not found in $PATH: unknown");
            return Err(failed(Code::UNKNOWN, &text));
        }
        process.state.send_replace(State::Running);
        tokio::spawn(self.0.clone().run(request.id, request.exec_id, process));
        Ok(StartResponse { pid: 42, ..StartResponse::new() })
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Result<WaitResponse> {
        let process = self.0.find(&request.id, &request.exec_id)?;
        let mut state = process.state.subscribe();
        let stopped = state.wait_for(|state| matches!(state, State::Stopped(_))).await.unwrap();
        let State::Stopped(code) = *stopped else { unreachable!() };
        Ok(WaitResponse { exit_status: code, ..WaitResponse::new() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Result<StateResponse> {
        let process = self.0.find(&request.id, &request.exec_id)?;
        let mut response = StateResponse { pid: 42, ..StateResponse::new() };
        let (status, code) = match *process.state.borrow() {
            State::Created => (Status::CREATED, 0),
            State::Running => (Status::RUNNING, 0),
            State::Paused => (Status::PAUSED, 0),
            State::Stopped(code) => (Status::STOPPED, code),
        };
        response.status = status.into();
        response.exit_status = code;
        Ok(response)
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Result<Empty> {
        let process = self.0.find(&request.id, &request.exec_id)?;
        self.0.end(&request.id, &request.exec_id, &process, 128 + request.signal);
        Ok(Empty::new())
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Result<DeleteResponse> {
        self.0.find(&request.id, &request.exec_id)?;
        self.0.processes.lock().unwrap().remove(&(request.id, request.exec_id));
        Ok(DeleteResponse::new())
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Result<Empty> {
        self.0.find(&request.id, "")?.state.send_replace(State::Paused);
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Result<Empty> {
        self.0.find(&request.id, "")?.state.send_replace(State::Running);
        Ok(Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Result<Empty> {
        self.0.find(&request.id, &request.exec_id).map(|_| Empty::new())
    }
}

#[async_trait]
impl Sandbox for Service {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        _: CreateSandboxRequest,
    ) -> Result<CreateSandboxResponse> {
        Ok(CreateSandboxResponse::new())
    }

    async fn start_sandbox(&self, _: &TtrpcContext, _: StartSandboxRequest) -> Result<StartSandboxResponse> {
        Ok(StartSandboxResponse::new())
    }

    async fn stop_sandbox(&self, _: &TtrpcContext, _: StopSandboxRequest) -> Result<StopSandboxResponse> {
        Ok(StopSandboxResponse::new())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        _: ShutdownSandboxRequest,
    ) -> Result<ShutdownSandboxResponse> {
        tokio::spawn(async {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            std::process::exit(0);
        });
        Ok(ShutdownSandboxResponse::new())
    }
}

/// Answers on the pod's own socket.
async fn pod_service(pod: Arc<Pod>, listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let pod = pod.clone();
        tokio::spawn(async move {
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            reader.read_line(&mut line).await.unwrap();
            let mut stream = reader.into_inner();
            let request: PodRequest = serde_json::from_str(&line).unwrap();
            let mut attach = None;
            let reply = match request {
                PodRequest::Attach { container, exec, .. } => {
                    let process = pod.find(&container, exec.as_deref().unwrap_or_default()).unwrap();
                    let tty = process.tty;
                    attach = Some(process);
                    PodReply::Attached { tty, position: None }
                }
                PodRequest::Timeline => PodReply::Timeline(Vec::new()),
                PodRequest::Inspect => PodReply::Pod(PodState {
                    hypervisor: "fake".into(),
                    accelerator: "none".into(),
                    vmm_pid: Some(std::process::id()),
                    kernel: None,
                    origin: Default::default(),
                    agent_rss: None,
                    sessions: Default::default(),
                    published: Default::default(),
                    taps: Vec::new(),
                    unheard: None,
                }),
                _ => PodReply::Failed { message: "not here".into(), not_found: false },
            };
            let mut text = serde_json::to_vec(&reply).unwrap();
            text.push(b'\n');
            let Some(process) = attach else { return stream.write_all(&text).await.unwrap() };
            stream.writable().await.unwrap();
            // The client must not see the answer before it is attached.
            let mut attached = process.attached.lock().unwrap();
            assert_eq!(stream.try_write(&text).unwrap(), text.len());
            attached.push(stream);
        });
    }
}

async fn serve(dir: PathBuf) {
    std::fs::create_dir_all(dir.join(files::EXITS)).unwrap();
    let pod = Arc::new(Pod { dir: dir.clone(), ..Pod::default() });
    let listener = UnixListener::bind(dir.join(files::POD_SOCKET)).unwrap();
    tokio::spawn(pod_service(pod.clone(), listener));
    let address = format!("unix://{}", dir.join("task.sock").display());
    let mut server = Server::new()
        .bind(&address)
        .unwrap()
        .register_service(create_task(Arc::new(Service(pod.clone()))))
        .register_service(create_sandbox(Arc::new(Service(pod))));
    server.start().await.unwrap();
    std::fs::write(dir.join(files::SHIM_PID), std::process::id().to_string()).unwrap();
    std::fs::write(dir.join(files::ADDRESS), address).unwrap();
    std::future::pending::<()>().await;
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let dir = std::env::current_dir().unwrap();
    if args.iter().any(|arg| arg == "serve") {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(serve(dir));
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(&args[1..args.len() - 1]).arg("serve");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while std::time::Instant::now() < deadline {
        if let Ok(address) = std::fs::read_to_string(dir.join(files::ADDRESS))
            && !address.is_empty()
        {
            println!("{address}");
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::process::exit(1);
}
