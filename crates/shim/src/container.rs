//! A container of the pod, and what a request to make one says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper_protocol::agent::{self, SystemCallFilter, Writable};
use hyper_protocol::shim::{ContainerConfig, DIRECT};
use serde_json::Value;

use crate::args::is_id;
use crate::devices;
use crate::disks::{self, FILES_MAX, Images, LAYERS_MAX, Plugged};
use crate::error::ShimError;
use crate::process::{Process, Streams};
use crate::volumes::Placed;

/// Longest `config.json`.
const SPEC_MAX: u64 = 4 << 20;
/// Most processes added to one container at a time.
const EXECS_MAX: usize = 1024;

/// A container that the agent has made.
#[derive(Debug)]
pub struct Container {
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its first process.
    pub process: Arc<Process>,
    /// Its disks.
    pub plugged: Plugged,
    /// Its volumes.
    pub placed: Placed,
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
}

impl Container {
    /// A container without added processes.
    pub fn new(bundle: PathBuf, process: Arc<Process>, plugged: Plugged, placed: Placed) -> Self {
        Self { bundle, process, plugged, placed, execs: Mutex::default() }
    }

    /// A process of it by its name; empty for the first.
    ///
    /// # Errors
    /// [`ShimError::NotFound`].
    pub fn process(&self, exec: &str) -> Result<Arc<Process>, ShimError> {
        if exec.is_empty() {
            return Ok(self.process.clone());
        }
        let container = &self.process.target.container;
        let found = self.execs().get(exec).cloned();
        found.ok_or_else(|| ShimError::NotFound(format!("container {container} has no process {exec}")))
    }

    /// Reserves a name for an added process.
    ///
    /// # Errors
    /// [`ShimError::AlreadyExists`], [`ShimError::Invalid`].
    pub fn add_exec(&self, name: &str, process: Arc<Process>) -> Result<(), ShimError> {
        if !is_id(name) {
            return Err(ShimError::Invalid(format!("{name:?} is no name for a process")));
        }
        let mut execs = self.execs();
        if execs.contains_key(name) {
            return Err(ShimError::AlreadyExists(format!("process {name} exists")));
        }
        if execs.len() >= EXECS_MAX {
            return Err(ShimError::Failed(format!("a container has at most {EXECS_MAX} added processes")));
        }
        execs.insert(name.to_owned(), process);
        Ok(())
    }

    /// Forgets an added process.
    pub fn remove_exec(&self, name: &str) {
        self.execs().remove(name);
    }

    /// All its processes, the first one first.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        let mut all = vec![self.process.clone()];
        all.extend(self.execs().values().cloned());
        all
    }

    fn execs(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mount of a root filesystem as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `erofs`, `ext4` or `tmpfs`.
    pub kind: String,
    /// The image.
    pub source: String,
    /// For `tmpfs`: `size=BYTES`. For `erofs`: `device=PATH` for each file that follows the image on its disk, as in a
    /// mount of EROFS from several devices. For `ext4`: [`DIRECT`]. For both what says how others mount an image: `ro`,
    /// `rw` and `loop`.
    pub options: Vec<String>,
}

/// A request to make a container.
#[derive(Debug, Clone)]
pub struct NewContainer {
    /// Its name.
    pub id: String,
    /// Directory with its `config.json`.
    pub bundle: PathBuf,
    /// Its root filesystem, bottom first.
    pub rootfs: Vec<Mount>,
    /// Its standard streams.
    pub streams: Streams,
    /// What else it is to be.
    pub config: ContainerConfig,
}

/// The root filesystem of a container: open images and the kind of the writable layer.
#[derive(Debug)]
pub struct Rootfs {
    /// What is to be plugged.
    pub images: Images,
    /// Size of the writable layer where that is memory, as [`Writable::Tmpfs`] has it.
    pub tmpfs: Option<u64>,
}

impl Rootfs {
    /// Checks and opens a list of mounts.
    ///
    /// # Errors
    /// [`ShimError::Invalid`] for a list of another form than layers and then the writable one.
    pub fn open(mounts: &[Mount]) -> Result<Self, ShimError> {
        let invalid = |text: String| Err(ShimError::Invalid(text));
        let Some((writable, layers)) = mounts.split_last() else {
            return invalid(
                "the root filesystem has no mounts; use a snapshotter that gives erofs layers".into(),
            );
        };
        if layers.is_empty() || layers.len() > LAYERS_MAX {
            return invalid(format!("a root filesystem has 1 to {LAYERS_MAX} layers, not {}", layers.len()));
        }
        if let Some(other) = layers.iter().find(|mount| mount.kind != "erofs") {
            return invalid(format!("a layer is an erofs image, not {:?}", other.kind));
        }
        let open = |mount: &Mount| disks::open_layer(&mount.source, &devices(&mount.options)?);
        let images = layers.iter().map(open).collect::<Result<_, _>>()?;
        match writable.kind.as_str() {
            "ext4" => {
                let image = match is_direct(&writable.options)? {
                    true => disks::open_direct(&writable.source)?,
                    false => disks::open(&writable.source, true)?,
                };
                Ok(Self {
                    images: Images {
                        layers: images,
                        writable: Some(image),
                        volumes: vec![],
                        devices: vec![],
                    },
                    tmpfs: None,
                })
            }
            "tmpfs" => {
                let size = tmpfs_size(&writable.options)?;
                Ok(Self {
                    images: Images { layers: images, writable: None, volumes: vec![], devices: vec![] },
                    tmpfs: Some(size),
                })
            }
            other => invalid(format!("the writable layer is an ext4 image or tmpfs, not {other:?}")),
        }
    }

    /// What the agent is told of the writable layer.
    pub fn writable(tmpfs: Option<u64>, plugged: &Plugged) -> Writable {
        match plugged.writable() {
            Some(address) => Writable::Ext4(address),
            None => Writable::Tmpfs { size: tmpfs.unwrap_or(0) },
        }
    }
}

/// The files that follow a layer's image.
fn devices(options: &[String]) -> Result<Vec<&str>, ShimError> {
    let mut devices = Vec::new();
    for option in options {
        match (option.as_str(), option.split_once('=')) {
            (_, Some(("device", path))) => devices.push(path),
            ("ro" | "loop", _) => {}
            _ => return Err(ShimError::Invalid(format!("a layer does not know option {option:?}"))),
        }
    }
    match devices.len() < FILES_MAX {
        true => Ok(devices),
        false => Err(ShimError::Invalid(format!("a layer has at most {FILES_MAX} files"))),
    }
}

/// Whether the writable layer's image is to stay out of the host's page cache.
fn is_direct(options: &[String]) -> Result<bool, ShimError> {
    let unknown = options.iter().find(|option| ![DIRECT, "rw", "loop"].contains(&option.as_str()));
    match unknown {
        None => Ok(options.iter().any(|option| option == DIRECT)),
        Some(option) => {
            Err(ShimError::Invalid(format!("the writable layer does not know option {option:?}")))
        }
    }
}

fn tmpfs_size(options: &[String]) -> Result<u64, ShimError> {
    let mut size = 0;
    for option in options {
        match option.split_once('=') {
            Some(("size", bytes)) => {
                let parsed = bytes.parse();
                size = parsed.map_err(|_| ShimError::Invalid(format!("{bytes:?} is no number of bytes")))?;
            }
            _ => {
                return Err(ShimError::Invalid(format!(
                    "the writable layer does not know option {option:?}"
                )));
            }
        }
    }
    Ok(size)
}

/// Reads a bundle's `config.json`.
///
/// # Errors
/// When it is missing, too long or no JSON object.
pub fn read_spec(bundle: &Path) -> Result<Value, ShimError> {
    let path = bundle.join("config.json");
    let attempt = format!("cannot read {}", path.display());
    let mut text = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(SPEC_MAX + 1).read_to_end(&mut text))
        .map_err(|error| ShimError::failed(&attempt, &error))?;
    if text.len() as u64 > SPEC_MAX {
        return Err(ShimError::Invalid(format!("{} is longer than {SPEC_MAX} bytes", path.display())));
    }
    let spec: Value = serde_json::from_slice(&text)
        .map_err(|error| ShimError::Invalid(format!("{} is no JSON: {error}", path.display())))?;
    if !spec.is_object() {
        return Err(ShimError::Invalid(format!("{} is no JSON object", path.display())));
    }
    Ok(spec)
}

/// What the agent is asked to make.
pub fn to_agent(
    request: &NewContainer,
    mut spec: Value,
    filter: Option<SystemCallFilter>,
    writable: Writable,
    plugged: &Plugged,
    placed: &Placed,
) -> agent::Container {
    if let Some(process) = spec.get_mut("process").and_then(Value::as_object_mut) {
        process.insert("terminal".into(), request.streams.tty.into());
    }
    let config = request.config.clone();
    agent::Container {
        id: request.id.clone(),
        spec,
        filter,
        layers: plugged.layers(),
        writable,
        root: config.root,
        user: config.user,
        groups: config.groups,
        stdin: config.stdin || !request.streams.stdin.is_empty(),
        files: config.files,
        pid_of: config.pid_of,
        volumes: placed.volumes.clone(),
        devices: devices::to_agent(config.devices, plugged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Mount { kind: kind.into(), source: source.into(), options }
    }

    #[test]
    fn root_filesystem_is_layers_and_then_the_writable_one() {
        let layer = mount("erofs", "/dev/null", &[]);
        let rootfs =
            Rootfs::open(&[layer.clone(), layer.clone(), mount("tmpfs", "", &["size=4096"])]).unwrap();
        assert_eq!((rootfs.images.layers.len(), rootfs.tmpfs), (2, Some(4096)));
        for bad in [
            vec![],
            vec![layer.clone()],
            vec![layer.clone(), layer.clone()],
            vec![layer.clone(), mount("tmpfs", "", &["mode=755"])],
            vec![layer.clone(), mount("tmpfs", "", &["size=many"])],
            vec![mount("overlay", "overlay", &[]), mount("tmpfs", "", &[])],
            vec![mount("bind", "/dir", &["rbind"])],
            vec![mount("erofs", "/dev/null", &["device"]), mount("tmpfs", "", &[])],
            vec![mount("erofs", "/dev/null", &["domain_id=x"]), mount("tmpfs", "", &[])],
            vec![mount("erofs", "/dev/null", &["device=/dev/null"; FILES_MAX]), mount("tmpfs", "", &[])],
        ] {
            assert!(matches!(Rootfs::open(&bad), Err(ShimError::Invalid(_))), "{bad:?}");
        }
        let merged = mount("erofs", "/dev/null", &["ro", "loop", "device=/dev/zero", "device=/dev/null"]);
        assert_eq!(Rootfs::open(&[merged, mount("tmpfs", "", &[])]).unwrap().images.layers.len(), 1);
        for missing in
            [mount("erofs", "/nosuch.erofs", &[]), mount("erofs", "/dev/null", &["device=/nosuch.erofs"])]
        {
            let opened = Rootfs::open(&[missing, mount("tmpfs", "", &[])]);
            assert!(matches!(opened, Err(ShimError::Failed(text)) if text.contains("/nosuch.erofs")));
        }
    }

    #[test]
    fn bundle_without_a_specification_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_spec(dir.path()).is_err());
        for text in ["", "[]", "{", "\"x\""] {
            std::fs::write(dir.path().join("config.json"), text).unwrap();
            assert!(matches!(read_spec(dir.path()), Err(ShimError::Invalid(_))), "{text}");
        }
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        read_spec(dir.path()).unwrap();
    }
}
