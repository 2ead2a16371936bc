//! A shim under test: started as containerd starts it, talked to as hyperd does.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::*;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::sandbox_api::*;
use containerd_shim_protos::sandbox_async::SandboxClient;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use hyper_protocol::shim::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use ttrpc::context::{self, Context};

/// The program under test.
pub const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-hyper-v2");

/// What a real guest needs, or why there is none.
pub fn guest() -> Result<PathBuf, String> {
    let named = std::env::var_os("HYPER_GUEST").map(PathBuf::from);
    let beside = Path::new(SHIM).parent().expect("a program is in a directory").join("guest");
    let release = beside.parent().and_then(Path::parent).map(|target| target.join("release/guest"));
    let dirs: Vec<_> = named.into_iter().chain([beside]).chain(release).collect();
    for program in ["qemu-system-x86_64", "mkfs.erofs", "mkfs.ext4", "busybox"] {
        if Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            return Err(format!("{program} is not installed"));
        }
    }
    dirs.iter()
        .find(|dir| dir.join("vmlinux").is_file() && dir.join("initramfs.cpio").is_file())
        .cloned()
        .ok_or_else(|| format!("no vmlinux and initramfs.cpio in {dirs:?}"))
}

/// Every call has a deadline, so that a test that fails ends.
pub fn patience() -> Context {
    context::with_duration(Duration::from_secs(90))
}

/// A running shim with its pod's directory.
pub struct Shim {
    pub dir: TempDir,
    pub id: String,
    pub tasks: TaskClient,
    pub sandbox: SandboxClient,
}

impl Shim {
    /// Starts a shim for a pod called `id`.
    pub async fn start(id: &str) -> Self {
        Self::launch(id, None, &[]).await
    }

    /// Starts a shim that knows where the guest's files are.
    pub async fn start_in(id: &str, guest: Option<&Path>) -> Self {
        Self::launch(id, guest, &[]).await
    }

    /// Starts a shim in a network namespace of its own that `setup`, a shell script, has made ready.
    pub async fn start_on_network(id: &str, setup: &str) -> Self {
        let script = format!("set -e; {setup}; exec \"$0\" \"$@\"");
        Self::launch(id, None, &["unshare", "--net", "sh", "-c", &script]).await
    }

    async fn launch(id: &str, guest: Option<&Path>, wrapper: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("hyper-shim-").tempdir().unwrap();
        let pod = dir.path().join("pods").join(id);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&pod).unwrap();
        let words: Vec<_> = wrapper.iter().copied().chain([SHIM]).collect();
        let output = Command::new(words[0])
            .args(&words[1..])
            .args(["-namespace", "test", "-address", "/nowhere", "-id", id, "start"])
            .current_dir(&pod)
            .env_remove("TTRPC_ADDRESS")
            .env("HYPER_LOG", "debug")
            .env("HYPER_GUEST", guest.unwrap_or(Path::new("/nosuch")))
            .output()
            .unwrap();
        let address = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let client = Client::connect(&address).await.unwrap();
        let (tasks, sandbox) = (TaskClient::new(client.clone()), SandboxClient::new(client));
        Self { dir, id: id.to_owned(), tasks, sandbox }
    }

    /// The pod's directory.
    pub fn pod_dir(&self) -> PathBuf {
        self.dir.path().join("pods").join(&self.id)
    }

    /// A usual configuration.
    pub fn config(&self, guest: &Path) -> PodConfig {
        PodConfig {
            share: false,
            dir: self.pod_dir(),
            kernel: guest.join("vmlinux"),
            initramfs: guest.join("initramfs.cpio"),
            kernel_args: vec![],
            hypervisor: None,
            vcpus: 1,
            memory_mib: 256,
            hostname: "test".into(),
            domainname: String::new(),
            sysctl: Default::default(),
            interfaces: vec![],
            nic_slots: 0,
            autostop: false,
            boot_timeout_ms: 60_000,
            templates: None,
        }
    }

    /// `CreateSandbox`.
    pub async fn create_sandbox(&self, config: &PodConfig) -> ttrpc::Result<CreateSandboxResponse> {
        let mut request = CreateSandboxRequest { sandbox_id: self.id.clone(), ..Default::default() };
        request.options = MessageField::some(any(POD_CONFIG_URL, config));
        self.sandbox.create_sandbox(patience(), &request).await
    }

    /// `StartSandbox`.
    pub async fn start_sandbox(&self) -> ttrpc::Result<StartSandboxResponse> {
        let request = StartSandboxRequest { sandbox_id: self.id.clone(), ..Default::default() };
        self.sandbox.start_sandbox(patience(), &request).await
    }

    /// A pod that runs.
    pub async fn boot(&self, config: &PodConfig) {
        self.create_sandbox(config).await.unwrap();
        self.start_sandbox().await.unwrap();
    }

    /// Makes a container that runs `args` in the busybox image.
    pub async fn create(&self, id: &str, container: New<'_>) -> ttrpc::Result<CreateTaskResponse> {
        let bundle = self.dir.path().join(format!("bundle-{id}"));
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), spec(container.args, container.tty).to_string()).unwrap();
        let layer = |text: String| {
            let mut words = text.split(' ').map(str::to_owned);
            let source = words.next().unwrap();
            Mount { type_: "erofs".into(), source, options: words.collect(), ..Default::default() }
        };
        let mut rootfs = vec![layer(self.image())];
        rootfs.extend(container.layers.iter().cloned().map(layer));
        let writable = match container.writable {
            Some(path) => Mount { type_: "ext4".into(), source: path.to_owned(), ..Default::default() },
            None => Mount { type_: "tmpfs".into(), ..Default::default() },
        };
        rootfs.push(writable);
        let mut request = CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.to_str().unwrap().to_owned(),
            rootfs,
            terminal: container.tty,
            ..Default::default()
        };
        request.options = MessageField::some(any(CONTAINER_CONFIG_URL, &container.config));
        self.tasks.create(patience(), &request).await
    }

    /// `Start`.
    pub async fn start_task(&self, id: &str, exec: &str) -> ttrpc::Result<StartResponse> {
        let request = StartRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.tasks.start(patience(), &request).await
    }

    /// `Wait`.
    pub async fn wait(&self, id: &str, exec: &str) -> u32 {
        let request = WaitRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.tasks.wait(patience(), &request).await.unwrap().exit_status
    }

    /// `Kill`.
    pub async fn kill(&self, id: &str, signal: u32) -> ttrpc::Result<Empty> {
        let request = KillRequest { id: id.into(), signal, ..Default::default() };
        self.tasks.kill(patience(), &request).await
    }

    /// `Delete`.
    pub async fn delete(&self, id: &str, exec: &str) -> ttrpc::Result<DeleteResponse> {
        let request = DeleteRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.tasks.delete(patience(), &request).await
    }

    /// `Exec` of our own form.
    pub async fn exec(&self, id: &str, exec: &str, args: &[&str], stdin: bool) -> ttrpc::Result<Empty> {
        let process = spec(args, false)["process"].clone();
        let config = ExecConfig { process, user: None, stdin };
        let mut request = ExecProcessRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        request.spec = MessageField::some(any(EXEC_CONFIG_URL, &config));
        self.tasks.exec(patience(), &request).await
    }

    /// `ResizePty`.
    pub async fn resize(&self, id: &str, width: u32, height: u32) {
        let request = ResizePtyRequest { id: id.into(), width, height, ..Default::default() };
        self.tasks.resize_pty(patience(), &request).await.unwrap();
    }

    /// An image with an empty ext4 filesystem.
    pub fn ext4(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        fs::File::create(&path).unwrap().set_len(32 << 20).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(&path).output().unwrap();
        assert!(made.status.success());
        path.to_str().unwrap().to_owned()
    }

    /// Attaches to a process.
    pub async fn attach(&self, id: &str, exec: Option<&str>, stdin: bool) -> BufReader<UnixStream> {
        let exec = exec.map(str::to_owned);
        let request = PodRequest::Attach {
            container: id.into(),
            exec,
            stdin,
            stdout: true,
            stderr: true,
            session: None,
        };
        let (reply, stream) = self.ask(&request).await;
        assert!(matches!(reply, PodReply::Attached { .. }), "{reply:?}");
        stream
    }

    /// One request to the pod's socket.
    pub async fn ask(&self, request: &PodRequest) -> (PodReply, BufReader<UnixStream>) {
        let mut stream = UnixStream::connect(self.pod_dir().join(files::POD_SOCKET)).await.unwrap();
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        stream.write_all(&line).await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut answer = String::new();
        stream.read_line(&mut answer).await.unwrap();
        (serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}")), stream)
    }

    /// Runs a container to its end: what it wrote (both outputs) and its exit code.
    pub async fn run(&self, id: &str, args: &[&str], input: &[u8]) -> (String, u32) {
        let config = ContainerConfig { stdin: true, stdin_once: true, ..Default::default() };
        self.create(id, New { args, config, ..New::default() }).await.unwrap();
        let stream = self.attach(id, None, true).await;
        self.start_task(id, "").await.unwrap();
        let text = converse(stream, input).await;
        let code = self.wait(id, "").await;
        self.delete(id, "").await.unwrap();
        (String::from_utf8_lossy(&text).into_owned(), code)
    }

    /// The end of the shim, as hyperd asks for it.
    pub async fn shut_down(&self) {
        let request = ShutdownSandboxRequest { sandbox_id: self.id.clone(), ..Default::default() };
        let pid = self.pid();
        self.sandbox.shutdown_sandbox(patience(), &request).await.unwrap();
        until(|| !alive(pid)).await;
    }

    /// `Connect`: the shim's process number.
    pub async fn connect(&self) -> u32 {
        self.tasks.connect(patience(), &ConnectRequest::new()).await.unwrap().shim_pid
    }

    /// `Shutdown` of the Task API.
    pub async fn shut_down_task(&self) {
        self.tasks.shutdown(patience(), &ShutdownRequest::new()).await.unwrap();
    }

    /// Process number of the shim.
    pub fn pid(&self) -> u32 {
        fs::read_to_string(self.pod_dir().join(files::SHIM_PID)).unwrap().trim().parse().unwrap()
    }

    /// Process number of the VMM.
    pub async fn vmm_pid(&self) -> Option<u32> {
        match self.ask(&PodRequest::Inspect).await.0 {
            PodReply::Pod(state) => state.vmm_pid,
            other => panic!("{other:?}"),
        }
    }

    /// An EROFS image with one file, named like the image.
    pub fn layer(&self, name: &str) -> String {
        let (root, image) = (self.dir.path().join(format!("root-{name}")), self.dir.path().join(name));
        fs::create_dir(&root).unwrap();
        fs::write(root.join(name), name).unwrap();
        let made = Command::new("mkfs.erofs").arg(&image).arg(&root).output().unwrap();
        assert!(made.status.success());
        image.to_str().unwrap().to_owned()
    }

    /// An EROFS image of busybox, made once for each shim.
    fn image(&self) -> String {
        let image = self.dir.path().join("busybox.erofs");
        if !image.exists() {
            let root = self.dir.path().join("busybox");
            for dir in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
                fs::create_dir_all(root.join(dir)).unwrap();
            }
            let which = Command::new("sh").args(["-c", "command -v busybox"]).output().unwrap();
            let busybox = String::from_utf8(which.stdout).unwrap();
            fs::copy(busybox.trim(), root.join("bin/busybox")).unwrap();
            for applet in [
                "sh", "cat", "echo", "sleep", "true", "yes", "head", "seq", "stty", "id", "hostname", "ps",
                "wc", "dd",
            ] {
                symlink("busybox", root.join("bin").join(applet)).unwrap();
            }
            fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
            let made = Command::new("mkfs.erofs").arg(&image).arg(&root).output().unwrap();
            assert!(made.status.success());
        }
        image.to_str().unwrap().to_owned()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in [files::SHIM_LOG, files::CONSOLE] {
                let mut text = String::new();
                if let Ok(mut file) = fs::File::open(self.pod_dir().join(name)) {
                    let _ = file.read_to_string(&mut text);
                }
                let tail: Vec<_> = text.lines().rev().take(40).collect();
                eprintln!("--- {name}");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
        if let Ok(text) = fs::read_to_string(self.pod_dir().join(files::SHIM_PID)) {
            let _ = Command::new("sh").args(["-c", "kill -9 $0", text.trim()]).status();
        }
    }
}

/// A container to make.
#[derive(Default)]
pub struct New<'a> {
    pub args: &'a [&'a str],
    pub tty: bool,
    /// Images, each with mount options behind it.
    pub layers: &'a [String],
    pub writable: Option<&'a str>,
    pub config: ContainerConfig,
}

/// Sends `input` and its end, and reads to the end; frames are taken apart.
pub async fn converse(mut stream: BufReader<UnixStream>, input: &[u8]) -> Vec<u8> {
    let input = input.to_vec();
    let mut frames = Vec::new();
    let (reader, mut writer) = tokio::io::split(&mut stream);
    let send = async move {
        let _ = writer.write_all(&input).await;
        let _ = writer.shutdown().await;
    };
    let mut reader = reader;
    tokio::join!(send, async { reader.read_to_end(&mut frames).await.unwrap() });
    payload(&frames)
}

/// What docker's frames carry.
pub fn payload(mut frames: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((header, rest)) = frames.split_at_checked(8) {
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        bytes.extend(&rest[..length]);
        frames = &rest[length..];
    }
    bytes
}

/// Waits for a condition, and not for ever.
pub async fn until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "the condition holds in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a process exists and is no zombie.
pub fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

fn any(url: &str, value: &impl serde::Serialize) -> Any {
    Any { type_url: url.into(), value: serde_json::to_vec(value).unwrap(), ..Default::default() }
}

fn spec(args: &[&str], tty: bool) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": tty,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": ["CAP_NET_RAW"], "effective": ["CAP_NET_RAW"], "permitted": ["CAP_NET_RAW"],
            },
        },
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
        ],
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }] },
    })
}
