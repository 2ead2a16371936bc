//! Registries: Debian's `docker-registry`, and one in this process that fails
//! on demand.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::command::wait_until;
use crate::images::{Small, digest};
use crate::layout;
use crate::namespace::Namespace;

/// User and password of a registry that wants a login.
pub const LOGIN: (&str, &str) = ("user", "secret");
/// [`LOGIN`] as a line of an htpasswd file: bcrypt, the only kind the registry takes.
const HTPASSWD: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
/// Longest request head the failing registry reads, bytes.
const HEAD_MAX: usize = 64 * 1024;

/// A running `docker-registry`; it is killed when this is dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
}

impl Registry {
    /// Starts one on `127.0.0.1:port` of `namespace`, and waits until it
    /// listens. Its configuration goes into `directory`. `login` wants
    /// [`LOGIN`] of everybody.
    pub fn start(
        namespace: &Namespace,
        storage: &Path,
        directory: &Path,
        port: u16,
        login: Option<()>,
        read_only: bool,
    ) -> Self {
        let auth = login.map_or(String::new(), |()| {
            let path = directory.join("htpasswd");
            fs::write(&path, HTPASSWD).unwrap();
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path.display())
        });
        let config = directory.join(format!("registry-{port}.yml"));
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\n  maintenance:\n    uploadpurging:\n      enabled: false\n    readonly:\n      \
             enabled: {read_only}\nhttp:\n  addr: 127.0.0.1:{port}\n{auth}",
            storage.display()
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(directory.join(format!("registry-{port}.log"))).unwrap();
        let child = namespace
            .command()
            .args(["setpriv", "--pdeathsig", "KILL", "--", "docker-registry", "serve"])
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("nsenter is part of util-linux");
        let mut registry = Self { child };
        wait_until("the registry listens", || {
            let ended = registry.child.try_wait().unwrap();
            assert!(ended.is_none(), "the registry ended: {ended:?}");
            namespace.thread(move || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()).join().unwrap()
        });
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What goes wrong with a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The connection ends after this many bytes of the layer's body.
    CutAt(usize),
    /// Nothing more comes after this many bytes of the layer's body, and the
    /// connection stays open.
    StallAt(usize),
    /// The byte at this place of the layer is another one.
    WrongByteAt(usize),
    /// The connection ends after this many bytes of the answer to the request
    /// for the manifest, head included.
    CutManifestAt(usize),
}

/// A registry with one image, `fake:latest`, that fails on demand.
#[derive(Clone, Debug)]
pub struct FakeRegistry {
    state: Arc<Mutex<FakeState>>,
    port: u16,
}

#[derive(Debug)]
struct FakeState {
    manifest: Vec<u8>,
    blobs: HashMap<String, Vec<u8>>,
    layer: String,
    fault: Fault,
    /// How many more requests fail.
    failures: usize,
    requests: Vec<String>,
}

impl FakeRegistry {
    /// Serves `image` inside `namespace`.
    pub fn start(namespace: &Namespace, image: &Small) -> Self {
        let listener =
            namespace.thread(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).join().unwrap();
        let port = listener.local_addr().unwrap().port();
        let blobs = [&image.config, &image.layer].map(|blob| (digest(blob), blob.clone()));
        let state = Arc::new(Mutex::new(FakeState {
            manifest: image.manifest.clone(),
            blobs: HashMap::from(blobs),
            layer: digest(&image.layer),
            fault: Fault::None,
            failures: 0,
            requests: Vec::new(),
        }));
        let theirs = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&theirs);
                std::thread::spawn(move || answer(stream, &state));
            }
        });
        Self { state, port }
    }

    /// What to pull.
    pub fn reference(&self) -> String {
        format!("localhost:{}/fake:latest", self.port)
    }

    /// The next `times` requests for the layer (or manifest) meet `fault`.
    pub fn fail(&self, fault: Fault, times: usize) {
        let mut state = self.state.lock().unwrap();
        (state.fault, state.failures) = (fault, times);
    }

    /// The request lines so far, each with its `Range` if there was one.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }
}

/// Serves one request and closes.
fn answer(mut stream: TcpStream, state: &Mutex<FakeState>) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_MAX {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let line = head.lines().next()?.to_owned();
    let mut words = line.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let range = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("range").then(|| value.trim().to_owned())
    });
    let (body, kind, fault) = {
        let mut state = state.lock().unwrap();
        state.requests.push(match &range {
            Some(range) => format!("{method} {path} {range}"),
            None => format!("{method} {path}"),
        });
        let wanted = path.rsplit('/').next()?;
        let is_manifest = path.contains("/manifests/");
        let found = if path == "/v2/" || path == "/v2" {
            Some(b"{}".to_vec())
        } else if is_manifest {
            let ours = wanted == "latest" || wanted == digest(&state.manifest);
            ours.then(|| state.manifest.clone())
        } else {
            state.blobs.get(wanted).cloned()
        };
        let concerned = match state.fault {
            Fault::None => false,
            Fault::CutManifestAt(_) => is_manifest,
            _ => wanted == state.layer,
        };
        let hit = concerned && method == "GET" && state.failures > 0;
        state.failures -= usize::from(hit);
        let kind = if is_manifest { layout::MANIFEST } else { "application/octet-stream" };
        (found, kind, if hit { state.fault } else { Fault::None })
    };
    respond(&mut stream, method, body, kind, range.as_deref(), fault)
}

fn respond(
    stream: &mut TcpStream,
    method: &str,
    body: Option<Vec<u8>>,
    kind: &str,
    range: Option<&str>,
    fault: Fault,
) -> Option<()> {
    let Some(mut body) = body else {
        let text = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"not here"}]}"#;
        let head =
            format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
        return stream.write_all(format!("{head}{text}").as_bytes()).ok();
    };
    let whole = body.len();
    let digest = digest(&body);
    if let Fault::WrongByteAt(at) = fault {
        body[at] ^= 0x55;
    }
    let start = range
        .and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok())
        .filter(|start| *start < whole);
    let status = match start {
        Some(start) => {
            body.drain(..start);
            format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{whole}", whole - 1)
        }
        None => "200 OK".to_owned(),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: {kind}\r\nDocker-Content-Digest: {digest}\r\n\
         Docker-Distribution-API-Version: registry/2.0\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if method == "HEAD" {
        return stream.write_all(head.as_bytes()).ok();
    }
    match fault {
        Fault::CutAt(at) => {
            body.truncate(at.saturating_sub(start.unwrap_or(0)));
            stream.write_all(&[head.as_bytes(), &body].concat()).ok()
        }
        Fault::CutManifestAt(at) => {
            let mut answer = [head.as_bytes(), &body].concat();
            answer.truncate(at);
            stream.write_all(&answer).ok()
        }
        Fault::StallAt(at) => {
            body.truncate(at.saturating_sub(start.unwrap_or(0)));
            stream.write_all(&[head.as_bytes(), &body].concat()).ok()?;
            // Until the other side gives up.
            let _ = stream.set_read_timeout(None);
            let _ = stream.read(&mut [0]);
            None
        }
        Fault::None | Fault::WrongByteAt(_) => stream.write_all(&[head.as_bytes(), &body].concat()).ok(),
    }
}
