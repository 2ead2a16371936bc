//! What the tests of this crate share: tars, images, a registry, trees to compare.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod faulty;
pub mod namespace;
pub mod tar;
pub mod tree;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper_image::{Digest, OpenError, RegistryConfig, Store};

use self::tar::Tar;

/// A store in a directory of its own.
pub struct TestStore {
    pub directory: tempfile::TempDir,
    pub store: Store,
}

impl TestStore {
    pub fn new() -> Self {
        Self::with(RegistryConfig::default())
    }

    pub fn with(config: RegistryConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("images"), &directory.path().join("hyper.db"), config)
            .unwrap();
        Self { directory, store }
    }

    /// Files below the store's directory, the lock aside.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for directory in ["images/tmp", "images/layers/sha256"] {
            let entries = std::fs::read_dir(self.directory.path().join(directory)).unwrap();
            files.extend(entries.map(|entry| entry.unwrap().path()));
        }
        files.sort();
        files
    }

    /// What is kept of unfinished layers: their digests and how many bytes came.
    pub fn ingests(&self) -> Vec<(String, u64)> {
        let entries = std::fs::read_dir(self.ingest_directory()).unwrap();
        let file = |entry: std::fs::DirEntry| {
            (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())
        };
        entries.map(|entry| file(entry.unwrap())).collect()
    }

    pub fn ingest_directory(&self) -> PathBuf {
        self.directory.path().join("images/ingest/sha256")
    }

    /// Waits until pulls that were dropped have let go of their files.
    pub async fn settles(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.files().is_empty() {
            assert!(Instant::now() < deadline, "{:?}", self.files());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The store as another process finds it.
    pub fn reopened(self) -> Self {
        let Self { directory, store } = self;
        drop(store);
        let path = directory.path();
        let open = || Store::open(&path.join("images"), &path.join("hyper.db"), RegistryConfig::default());
        let deadline = Instant::now() + Duration::from_secs(10);
        // A dropped pull holds the store a little longer.
        while matches!(open(), Err(OpenError::Locked(_))) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let store = open().unwrap();
        Self { directory, store }
    }

    pub fn temporaries(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("images/tmp")).unwrap().count()
    }
}

/// Whether the programs are installed; says which is not.
pub fn have(programs: &[&str]) -> bool {
    for program in programs {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
        });
        if !found {
            eprintln!("skipped: {program} is not installed");
            return false;
        }
    }
    true
}

/// Whether disks can be mounted here.
pub fn can_mount() -> bool {
    let root = rustix::process::getuid().is_root();
    if !root || !Path::new("/dev/loop-control").exists() {
        eprintln!("skipped: mounting needs root and loop devices");
        return false;
    }
    true
}

/// Runs a program to its success.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}{errors}");
    text
}

/// A tar of Debian packages, made once and kept in the target directory.
pub fn debian(packages: &str) -> Option<PathBuf> {
    if !have(&["mmdebstrap"]) {
        return None;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
    std::fs::create_dir_all(&target).unwrap();
    let path = target.join(format!("{}.tar", packages.replace(',', "+")));
    if !path.exists() {
        let partial =
            target.join(format!("{}-{}.partial.tar", packages.replace(',', "+"), std::process::id()));
        let include = format!("--include={packages}");
        let made = Command::new("mmdebstrap")
            .args(["--variant=extract", "--quiet", &include, "bookworm", partial.to_str().unwrap()])
            .output()
            .unwrap();
        if !made.status.success() {
            eprintln!("skipped: mmdebstrap: {}", String::from_utf8_lossy(&made.stderr));
            return None;
        }
        std::fs::rename(&partial, &path).unwrap();
    }
    Some(path)
}

/// An OCI layout with one image `x` of these layer tars, made by umoci.
pub fn layout(directory: &Path, layers: &[&Path]) -> String {
    let layout = directory.join("layout");
    let layout = layout.to_str().unwrap();
    let image = format!("{layout}:x");
    run("umoci", &["init", "--layout", layout]);
    run("umoci", &["new", "--image", &image]);
    for layer in layers {
        run("umoci", &["raw", "add-layer", "--image", &image, layer.to_str().unwrap()]);
    }
    image
}

/// Docker's own archive format, as old dockers wrote it.
pub fn docker_archive(layers: &[Vec<u8>], tag: &str) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "first"}, {"created_by": "nothing", "empty_layer": true}],
    });
    let names: Vec<String> = (0..layers.len()).map(|index| format!("{index}/layer.tar")).collect();
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]);
    let mut tar = Tar::default().file("manifest.json", manifest.to_string().as_bytes());
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.file(name, layer);
    }
    tar.file("config.json", config.to_string().as_bytes()).bytes()
}

/// Two layers, the second over the first.
pub fn small_image(directory: &Path) -> String {
    let bottom =
        Tar::default().directory("etc").file("etc/hosts", b"localhost").file("big", &vec![7; 300_000]);
    let top = Tar::default().directory("etc").file("etc/.wh.hosts", b"").file("etc/new", b"new");
    let paths = [directory.join("0.tar"), directory.join("1.tar")];
    std::fs::write(&paths[0], bottom.bytes()).unwrap();
    std::fs::write(&paths[1], top.bytes()).unwrap();
    layout(directory, &[&paths[0], &paths[1]])
}

/// Configuration of a registry that wants the login `user` with the password `secret`; its file goes
/// into `directory`.
pub fn login_wanted(directory: &Path) -> String {
    let passwords = directory.join("htpasswd");
    // bcrypt of "secret"
    std::fs::write(&passwords, "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n")
        .unwrap();
    format!("auth: {{htpasswd: {{realm: x, path: {}}}}}\n", passwords.display())
}

/// Docker's registry on a port of its own.
pub struct Registry {
    child: Child,
    address: &'static str,
    pub port: u16,
    _directory: tempfile::TempDir,
}

impl Registry {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With more configuration.
    pub fn start_with(more: &str) -> Self {
        Self::start_at("127.0.0.1", "", more)
    }

    /// At another address, with more configuration of HTTP and of the rest.
    pub fn start_at(address: &'static str, http: &str, more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '{address}:{port}'{http}}}\n{more}",
            directory.path().join("data").display()
        );
        let path = directory.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect((address, port)).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, address, port, _directory: directory }
    }

    /// Copies an image into it.
    pub fn push(&self, from: &str, name: &str, more: &[&str]) {
        let to = format!("docker://{}", self.name(name));
        let mut arguments = vec!["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"];
        arguments.extend(more);
        arguments.extend([from, &to]);
        run("skopeo", &arguments);
    }

    /// A name in it.
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// Address and port.
    pub fn host(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody uses at the moment.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
