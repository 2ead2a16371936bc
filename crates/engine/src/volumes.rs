//! Volumes: files that outlive containers, by name.
//!
//! A volume of the driver `local` is a directory of the host ([`VolumeRecord::directory`]) that guests share; one of the
//! driver `disk` is an image of an ext4 filesystem, a disk of one pod at a time. What a volume holds was written by
//! guests: the host lists and removes it, and never mounts it.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper_protocol::agent::Nfs;
use hyper_protocol::shim::{Volume, VolumeSource};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::engine::{Engine, Shared};
use crate::error::{EngineError, Kind, Result};
use crate::events::Event;
use crate::filter::Filters;
use crate::registry::Container;
use crate::{ids, layer};

/// Label of volumes that got a name from us: docker's.
pub(crate) const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// Names of filters of [`Engine::volumes`].
pub const VOLUME_FILTERS: &[&str] = &["dangling", "driver", "label", "label!", "name"];

/// Names of filters of [`Engine::prune_volumes`].
pub const VOLUME_PRUNE_FILTERS: &[&str] = &["all", "label", "label!"];

/// Begins the names of directories of volumes that are being removed; no volume has such a name.
const REMOVING: &str = ".removing-";

/// Bytes of a volume of the driver disk that was given no size.
const DISK_SIZE: u64 = 10 << 30;

/// How many of a volume's files are counted for its size before that is given up: it is a number for people.
const COUNTED_MAX: u64 = 4 << 20;

/// Where a volume's files are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeDriver {
    /// In a directory of the host.
    #[default]
    Local,
    /// In a filesystem of their own, in an image.
    Disk,
}

impl VolumeDriver {
    /// From the word that users write; empty is the default.
    fn parse(word: &str) -> Option<Self> {
        match word {
            "" | "local" => Some(Self::Local),
            "disk" => Some(Self::Disk),
            _ => None,
        }
    }

    /// The word that users write.
    pub fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Disk => "disk",
        }
    }
}

/// A volume as the database holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRecord {
    /// Its name.
    pub name: String,
    /// Where its files are.
    pub driver: VolumeDriver,
    /// When it was made.
    pub created: Timestamp,
    /// Labels; `None` where the caller gave none, which `inspect` tells apart as docker does.
    pub labels: Option<BTreeMap<String, String>>,
    /// The driver's options as the caller wrote them; `None` likewise.
    pub options: Option<BTreeMap<String, String>>,
}

impl VolumeRecord {
    /// Whether its name is ours.
    pub fn is_anonymous(&self) -> bool {
        self.labels.as_ref().is_some_and(|labels| labels.contains_key(ANONYMOUS_LABEL))
    }

    fn option(&self, name: &str) -> &str {
        self.options.as_ref().and_then(|options| options.get(name)).map_or("", String::as_str)
    }

    /// The directory of the host that is shared, for the driver local: a directory of ours, or the one that the options
    /// name (`type=none,o=bind,device=PATH`).
    pub(crate) fn directory(&self, own: PathBuf) -> PathBuf {
        match self.option("device") {
            "" => own,
            device => PathBuf::from(device),
        }
    }

    /// The server whose files it is, for the driver local (`type=nfs,o=addr=…,device=:/path`).
    pub(crate) fn nfs(&self) -> Option<Nfs> {
        let kind = self.option("type");
        (self.driver == VolumeDriver::Local && ["nfs", "nfs4"].contains(&kind)).then(|| Nfs {
            kind: kind.to_owned(),
            device: self.option("device").to_owned(),
            options: self.option("o").to_owned(),
        })
    }

    /// The options say that nobody writes to it.
    pub(crate) fn is_read_only(&self) -> bool {
        self.driver == VolumeDriver::Local && self.option("o").split(',').any(|word| word == "ro")
    }
}

/// A volume to make.
#[derive(Debug, Clone, Default)]
pub struct VolumeRequest {
    /// Its name; empty for one of ours.
    pub name: String,
    /// Its driver; empty for the default.
    pub driver: String,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// The driver's options.
    pub options: Option<BTreeMap<String, String>>,
}

/// A volume as people see it.
#[derive(Debug, Clone)]
pub struct VolumeInfo {
    /// What the database holds.
    pub record: VolumeRecord,
    /// Where it is on the host.
    pub mountpoint: PathBuf,
    /// How many containers have it.
    pub references: usize,
    /// Bytes on the host, where that was asked for.
    pub size: Option<u64>,
}

/// The volumes there are.
#[derive(Debug)]
pub(crate) struct Volumes {
    known: Mutex<BTreeMap<String, VolumeRecord>>,
    /// Held while volumes are made and removed, and while a container that is to have some is being made.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

impl Volumes {
    /// Those of the database. Removes what an interrupted removal left, and makes the directory of a volume whose making
    /// was interrupted. Blocks.
    pub(crate) fn open(root: &Path, records: Vec<VolumeRecord>) -> Self {
        let known: HashSet<&str> = records.iter().map(|record| record.name.as_str()).collect();
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            if name.to_string_lossy().starts_with(REMOVING) {
                let _ = fs::remove_dir_all(path);
            } else if !known.contains(name.to_string_lossy().as_ref()) {
                // Its making was interrupted. What has files in it stays: perhaps the database is another.
                let _ = fs::remove_file(path.join("disk.partial"));
                let _ = fs::remove_dir(path.join("_data"));
                let _ = fs::remove_dir(path);
            }
        }
        for record in records.iter().filter(|record| record.driver == VolumeDriver::Local) {
            let data = root.join(&record.name).join("_data");
            if !data.is_dir()
                && let Err(error) = make_directory(&data)
            {
                tracing::warn!(volume = record.name, %error, "cannot make a volume's directory");
            }
        }
        let known = records.into_iter().map(|record| (record.name.clone(), record)).collect();
        Self { known: Mutex::new(known), changing: tokio::sync::Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, VolumeRecord>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A volume by its name.
    pub(crate) fn find(&self, name: &str) -> Option<VolumeRecord> {
        self.lock().get(name).cloned()
    }
}

/// Makes a directory as docker makes those of volumes: whoever knows a path in it may go there.
fn make_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o711).create(parent)?;
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn missing(name: &str) -> EngineError {
    EngineError::new(Kind::NotFound, format!("get {name}: no such volume"))
}

impl Engine {
    /// Makes a volume; one of this name and driver that is there already is left as it is.
    ///
    /// # Errors
    /// A name or an option that makes no sense, or the name has another driver.
    pub async fn create_volume(&self, request: VolumeRequest) -> Result<VolumeInfo> {
        let _changing = self.shared.volumes.changing.lock().await;
        let (record, _) = self.shared.make_volume(request).await?;
        Ok(self.volume_info(record, &self.volume_users()))
    }

    /// A volume by its name.
    ///
    /// # Errors
    /// There is none.
    pub fn volume(&self, name: &str) -> Result<VolumeInfo> {
        let record = self.shared.volumes.find(name).ok_or_else(|| missing(name))?;
        Ok(self.volume_info(record, &self.volume_users()))
    }

    /// Volumes that pass the filters ([`VOLUME_FILTERS`]), by name; with their sizes if asked.
    ///
    /// # Errors
    /// A filter's value makes no sense.
    pub async fn volumes(&self, filters: &Filters, sizes: bool) -> Result<Vec<VolumeInfo>> {
        let dangling = filters.boolean("dangling")?;
        let users = self.volume_users();
        let nothing = BTreeMap::new();
        let all: Vec<_> = self.shared.volumes.lock().values().cloned().collect();
        let fits = |info: &VolumeInfo| {
            let record = &info.record;
            filters.any("name", &|wanted| record.name.contains(wanted))
                && filters.any("driver", &|wanted| record.driver.word() == wanted)
                && dangling.is_none_or(|dangling| dangling == (info.references == 0))
                && filters.matches_labels(record.labels.as_ref().unwrap_or(&nothing))
        };
        let mut infos: Vec<_> =
            all.into_iter().map(|record| self.volume_info(record, &users)).filter(fits).collect();
        if sizes {
            let places: Vec<_> = infos.iter().map(|info| info.mountpoint.clone()).collect();
            let sizes = tokio::task::spawn_blocking(move || {
                places.iter().map(|place| size_of(place)).collect::<Vec<_>>()
            });
            let sizes = sizes.await.map_err(|error| EngineError::system("counting ended early", error))?;
            for (info, size) in infos.iter_mut().zip(sizes) {
                info.size = Some(size);
            }
        }
        Ok(infos)
    }

    /// Removes a volume with its files.
    ///
    /// # Errors
    /// No such volume, unless `force`; a container has it.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let _changing = self.shared.volumes.changing.lock().await;
        let Some(record) = self.shared.volumes.find(name) else {
            return if force { Ok(()) } else { Err(missing(name)) };
        };
        let users = self.volume_users();
        if let Some(containers) = users.get(name) {
            let list = containers.join(", ");
            return Err(EngineError::conflict(format!("remove {name}: volume is in use - [{list}]")));
        }
        self.shared.discard_volume(&record).await
    }

    /// Removes volumes that no container has: those with names of ours, or with `all` every one. Tells which, and how many
    /// bytes that freed.
    ///
    /// # Errors
    /// A filter's value makes no sense.
    pub async fn prune_volumes(&self, filters: &Filters) -> Result<(Vec<String>, u64)> {
        let all = filters.boolean("all")?.unwrap_or(false);
        let _changing = self.shared.volumes.changing.lock().await;
        let (mut names, mut bytes) = (Vec::new(), 0);
        let nothing = BTreeMap::new();
        for info in self.volumes(&Filters::default(), true).await? {
            let record = &info.record;
            let labels = record.labels.as_ref().unwrap_or(&nothing);
            let goes =
                info.references == 0 && (all || record.is_anonymous()) && filters.matches_labels(labels);
            if !goes {
                continue;
            }
            match self.shared.discard_volume(record).await {
                Ok(()) => {
                    names.push(record.name.clone());
                    bytes += info.size.unwrap_or(0);
                }
                Err(error) => {
                    tracing::warn!(volume = record.name, error = %error.report(), "cannot remove a volume");
                }
            }
        }
        self.shared.volume_event("", "prune", &[("reclaimed", bytes.to_string())]);
        Ok((names, bytes))
    }

    /// Which containers have each volume.
    fn volume_users(&self) -> BTreeMap<String, Vec<String>> {
        let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for container in self.shared.registry.containers() {
            let names: HashSet<String> = container.lock().options.mounts.volume_names().collect();
            for name in names {
                users.entry(name).or_default().push(container.id.clone());
            }
        }
        users
    }

    fn volume_info(&self, record: VolumeRecord, users: &BTreeMap<String, Vec<String>>) -> VolumeInfo {
        VolumeInfo {
            references: users.get(&record.name).map_or(0, Vec::len),
            mountpoint: self.shared.mountpoint(&record),
            record,
            size: None,
        }
    }

    /// Removes the volumes with names of ours that only this container had, which is gone.
    pub(crate) async fn remove_anonymous(&self, container: &Container) {
        let names: Vec<String> = container.lock().options.mounts.anonymous_names().collect();
        if names.is_empty() {
            return;
        }
        let _changing = self.shared.volumes.changing.lock().await;
        self.forget_volumes(&names).await;
    }

    /// Removes volumes that no container has; the caller holds [`Volumes::changing`].
    pub(crate) async fn forget_volumes(&self, names: &[String]) {
        let users = self.volume_users();
        for name in names {
            let Some(record) = self.shared.volumes.find(name) else { continue };
            if !users.contains_key(name)
                && let Err(error) = self.shared.discard_volume(&record).await
            {
                tracing::warn!(volume = name, error = %error.report(), "cannot remove a volume");
            }
        }
    }
}

impl Shared {
    /// Where a volume is on the host.
    pub(crate) fn mountpoint(&self, record: &VolumeRecord) -> PathBuf {
        let own = self.config.places.volumes().join(&record.name);
        match record.driver {
            VolumeDriver::Local => own.join("_data"),
            VolumeDriver::Disk => own.join("disk.ext4"),
        }
    }

    /// Makes a volume, or finds it; says whether it is new. The caller holds [`Volumes::changing`].
    pub(crate) async fn make_volume(&self, request: VolumeRequest) -> Result<(VolumeRecord, bool)> {
        let VolumeRequest { mut name, driver: word, mut labels, options } = request;
        let driver = VolumeDriver::parse(&word).ok_or_else(|| {
            let words =
                format!("create {name}: error looking up volume plugin {word}: plugin \"{word}\" not found");
            EngineError::new(Kind::NotFound, words)
        })?;
        if name.is_empty() {
            name = ids::container_id();
            labels.get_or_insert_default().insert(ANONYMOUS_LABEL.to_owned(), String::new());
        }
        check_name(&name)?;
        if let Some(known) = self.volumes.find(&name) {
            if !word.is_empty() && known.driver != driver {
                return Err(EngineError::conflict(format!(
                    "create {name}: conflict: volume name must be unique: a volume named {name} exists already with \
                     the driver {}",
                    known.driver.word()
                )));
            }
            return Ok((known, false));
        }
        let nothing = BTreeMap::new();
        let given = options.as_ref().unwrap_or(&nothing);
        let size = match driver {
            VolumeDriver::Local => check_local(&name, given).map(|()| None)?,
            VolumeDriver::Disk => Some(disk_size(&name, given)?),
        };
        let record = VolumeRecord { name, driver, created: Timestamp::now(), labels, options };
        let place = self.mountpoint(&record);
        let made = match size {
            None => make_directory(&place).map_err(|error| {
                EngineError::system(format!("cannot make directory {}", place.display()), error)
            }),
            Some(size) => make_disk(&place, size).await,
        };
        let made = match made {
            Ok(()) => self.db.add_volume(record.clone()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = made {
            let _ = fs::remove_dir_all(self.config.places.volumes().join(&record.name));
            return Err(error);
        }
        self.volumes.lock().insert(record.name.clone(), record.clone());
        self.volume_event(&record.name, "create", &[("driver", driver.word().to_owned())]);
        Ok((record, true))
    }

    /// Removes a volume that nobody has; the caller holds [`Volumes::changing`].
    async fn discard_volume(&self, record: &VolumeRecord) -> Result<()> {
        let root = self.config.places.volumes();
        let (place, gone) = (root.join(&record.name), root.join(format!("{REMOVING}{}", record.name)));
        let failed = |error| EngineError::system(format!("cannot remove {}", place.display()), error);
        // Away in one step: a volume is there whole or not at all.
        match fs::rename(&place, &gone) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        if let Err(error) = self.db.remove_volume(&record.name).await {
            let _ = fs::rename(&gone, &place);
            return Err(error);
        }
        self.volumes.lock().remove(&record.name);
        if let Err(error) = tokio::fs::remove_dir_all(&gone).await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(volume = record.name, %error, "files of a removed volume stay until the next start");
        }
        self.volume_event(&record.name, "destroy", &[("driver", record.driver.word().to_owned())]);
        Ok(())
    }

    /// Tells listeners about a volume.
    pub(crate) fn volume_event(&self, name: &str, action: &str, details: &[(&str, String)]) {
        self.events.publish(Event {
            kind: "volume",
            action: action.to_owned(),
            actor: name.to_owned(),
            attributes: details.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
            time: Timestamp::now(),
        });
    }

    /// Refuses a container's start when a volume of the driver disk is another pod's at this time.
    pub(crate) fn check_disks(&self, container: &Container) -> Result<()> {
        let pod = container.lock().pod.clone();
        self.check_disks_but_in(container, Some(&pod))
    }

    /// Refuses work in a VM of no pod on a container one of whose volumes of the driver disk any pod has.
    ///
    /// # Errors
    /// As [`Shared::check_disks`].
    pub(crate) fn check_disks_unused(&self, container: &Container) -> Result<()> {
        self.check_disks_but_in(container, None)
    }

    fn check_disks_but_in(&self, container: &Container, pod: Option<&str>) -> Result<()> {
        let names: HashSet<String> = container.lock().options.mounts.disk_names().collect();
        if names.is_empty() {
            return Ok(());
        }
        let runs_elsewhere = |other: &Arc<Container>| {
            let other = other.lock();
            pod != Some(other.pod.as_str())
                && other.state.is_running()
                && other.options.mounts.disk_names().any(|name| names.contains(&name))
        };
        match self.registry.containers().into_iter().find(runs_elsewhere) {
            None => Ok(()),
            Some(other) => {
                let shared = other.lock().options.mounts.disk_names().find(|name| names.contains(name));
                Err(EngineError::conflict(format!(
                    "volume {} is in use by the pod of container {}: a volume of the driver disk belongs to one pod at a \
                     time",
                    shared.unwrap_or_default(),
                    other.lock().name
                ))
                .with_hint("join that pod (--network container:NAME), or use a volume of the driver local"))
            }
        }
    }
}

/// Docker's rule for names of volumes, in its words.
fn check_name(name: &str) -> Result<()> {
    if name.len() == 1 {
        return Err(EngineError::invalid(
            "volume name is too short, names should be at least two alphanumeric characters",
        ));
    }
    // Longer ones are no names of directories.
    if ids::is_name(name) && name.len() <= 200 {
        return Ok(());
    }
    Err(EngineError::invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" \
         are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

/// Checks the options of a volume of the driver local: a directory of the host that is bound is all that they can ask for.
fn check_local(name: &str, options: &BTreeMap<String, String>) -> Result<()> {
    let refused = |reason: &str| Err(EngineError::new(Kind::Unsupported, format!("create {name}: {reason}")));
    if let Some(unknown) = options.keys().find(|key| !["type", "o", "device", "size"].contains(&key.as_str()))
    {
        return Err(EngineError::invalid(format!("create {name}: invalid option: \"{unknown}\"")));
    }
    let of = |key: &str| options.get(key).map_or("", String::as_str);
    if options.contains_key("size") {
        return refused("the driver local has no sizes: use the driver disk (-d disk -o size=…)");
    }
    let (kind, device, flags) = (of("type"), of("device"), of("o"));
    if kind.is_empty() && device.is_empty() && flags.is_empty() {
        return Ok(());
    }
    if device.is_empty() {
        return Err(EngineError::invalid(format!("create {name}: missing required option: \"device\"")));
    }
    if ["nfs", "nfs4"].contains(&kind) {
        let addressed =
            flags.split(',').any(|word| word.strip_prefix("addr=").is_some_and(|addr| !addr.is_empty()));
        if !addressed || !device.contains(":/") {
            return Err(EngineError::invalid(format!(
                "create {name}: type={kind} needs the server's address (o=addr=…) and its path (device=:/path)"
            )));
        }
        return Ok(());
    }
    let words: Vec<&str> = flags.split(',').filter(|word| !word.is_empty()).collect();
    let binds = words.iter().any(|word| ["bind", "rbind"].contains(word));
    if !binds || !["", "none", "bind"].contains(&kind) {
        return refused(&format!(
            "type={kind} is not supported: the host mounts nothing for a guest; a directory of it can be bound \
             (type=none,o=bind,device=/path)"
        ));
    }
    if let Some(other) = words.iter().find(|word| !["bind", "rbind", "ro", "rw"].contains(word)) {
        return refused(&format!("the mount option {other} is not supported"));
    }
    if !device.starts_with('/') {
        return Err(EngineError::invalid(format!(
            "create {name}: device must be an absolute path, not {device:?}"
        )));
    }
    Ok(())
}

/// Makes addresses of servers' names: a guest's kernel asks nobody.
///
/// # Errors
/// A name is nobody's.
pub(crate) async fn find_servers(volumes: &mut [Volume]) -> Result<()> {
    for volume in volumes {
        let VolumeSource::Nfs(nfs) = &mut volume.source else { continue };
        let mut words: Vec<String> = nfs.options.split(',').map(str::to_owned).collect();
        for word in &mut words {
            let Some(name) = word.strip_prefix("addr=").filter(|name| name.parse::<IpAddr>().is_err()) else {
                continue;
            };
            let failed = |error| {
                EngineError::system(
                    format!("error resolving passed in network volume address: {name}"),
                    error,
                )
            };
            let found = tokio::net::lookup_host((name, 0)).await.map_err(failed)?;
            let found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            let best = found.iter().find(|address| address.is_ipv4()).or(found.first());
            let best = best.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
            *word = format!("addr={best}");
        }
        nfs.options = words.join(",");
    }
    Ok(())
}

/// Bytes of a volume of the driver disk.
fn disk_size(name: &str, options: &BTreeMap<String, String>) -> Result<u64> {
    if let Some(unknown) = options.keys().find(|key| *key != "size") {
        return Err(EngineError::invalid(format!("create {name}: invalid option: \"{unknown}\"")));
    }
    match options.get("size") {
        None => Ok(DISK_SIZE),
        Some(text) => layer::parse_size(text).map_err(|_| {
            EngineError::invalid(format!(
                "create {name}: invalid size: '{text}': a volume of the driver disk has between 32 MiB and 16 TiB"
            ))
        }),
    }
}

async fn make_disk(path: &Path, size: u64) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
    let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(&parent);
    made.map_err(|error| EngineError::system(format!("cannot make directory {}", parent.display()), error))?;
    layer::make_volume(path, size).await
}

/// Bytes that a directory's files take on the host, or an image does. Blocks.
fn size_of(path: &Path) -> u64 {
    let mut left = COUNTED_MAX;
    let mut todo = vec![path.to_owned()];
    let (mut bytes, mut linked) = (0, HashSet::new());
    while let Some(path) = todo.pop() {
        left = left.saturating_sub(1);
        let Ok(status) = fs::symlink_metadata(&path) else { continue };
        if left == 0 {
            break;
        }
        if status.is_dir() {
            todo.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else if status.is_file() && (status.nlink() == 1 || linked.insert((status.dev(), status.ino()))) {
            bytes += status.len().min(status.blocks() * 512);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn local_binds_directories_and_refuses_mounts_by_name() {
        check_local("v", &options(&[])).unwrap();
        check_local("v", &options(&[("type", "none"), ("o", "bind,ro"), ("device", "/srv")])).unwrap();
        for (list, words) in [
            (vec![("foo", "1")], "invalid option: \"foo\""),
            (vec![("type", "tmpfs")], "missing required option: \"device\""),
            (vec![("type", "nfs"), ("o", "nfsvers=4"), ("device", ":/x")], "needs the server's address"),
            (
                vec![("type", "cifs"), ("o", "addr=1.2.3.4"), ("device", "//a/x")],
                "type=cifs is not supported",
            ),
            (vec![("type", "tmpfs"), ("device", "tmpfs")], "type=tmpfs is not supported"),
            (vec![("type", "none"), ("o", "bind,shared"), ("device", "/x")], "option shared"),
            (vec![("type", "none"), ("o", "bind"), ("device", "x")], "absolute path"),
            (vec![("size", "1g")], "driver disk"),
        ] {
            let error = check_local("v", &options(&list)).unwrap_err();
            assert!(error.message.contains(words), "{:?} does not say {words:?}", error.message);
        }
    }

    #[test]
    fn names_and_sizes_are_checked() {
        for bad in ["a", "a b", "-x", "../x", "", "ä"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        check_name("my_data.1").unwrap();
        assert_eq!(disk_size("v", &options(&[("size", "1G")])).unwrap(), 1 << 30);
        assert!(disk_size("v", &options(&[("size", "1")])).is_err());
        assert!(disk_size("v", &options(&[("type", "x")])).is_err());
    }

    #[test]
    fn size_counts_what_is_on_disk_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![1; 8192]).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        assert_eq!(size_of(dir.path()), 8192);
    }
}
