//! What the tests of this crate share: tars, images, a registry, trees to compare.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod faulty;
pub mod tar;
pub mod tree;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper_image::{RegistryConfig, Store};

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

/// Docker's registry on a port of its own.
pub struct Registry {
    child: Child,
    pub port: u16,
    _directory: tempfile::TempDir,
}

impl Registry {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With more configuration.
    pub fn start_with(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:{port}'}}\n{more}",
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
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port, _directory: directory }
    }

    /// Copies an image into it.
    pub fn push(&self, from: &str, name: &str, more: &[&str]) {
        let to = format!("docker://127.0.0.1:{}/{name}", self.port);
        let mut arguments = vec!["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"];
        arguments.extend(more);
        arguments.extend([from, &to]);
        run("skopeo", &arguments);
    }

    /// A name in it.
    pub fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
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
