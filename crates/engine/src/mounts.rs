//! What a container sees at paths of its own beside its image's files: volumes and files of the host.
//!
//! A caller asks in three ways (`-v`, `--mount`, `--volumes-from`), an image in a fourth (`VOLUME`). [`Engine::resolve`]
//! makes one list of [`MountPoint`]s of it, when the container is made; a start turns that into what the shim is told.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use hyper_protocol::shim::{Volume, VolumeSource};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::options::ContainerRecord;
use crate::volumes::{VolumeDriver, VolumeRequest};

/// Most of them in a container.
const POINTS_MAX: usize = 256;

/// A file that lies in a volume whose filling was interrupted.
const POPULATING: &str = ".hyper-populating";

/// What a caller asked for, and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountOptions {
    /// `SOURCE:TARGET[:MODE]` as the caller wrote it.
    pub binds: Vec<String>,
    /// Mounts in the longer form.
    pub mounts: Vec<MountRequest>,
    /// The same as the caller wrote them, and those of memory, for `inspect`.
    pub written: Vec<Value>,
    /// `CONTAINER[:MODE]`.
    pub volumes_from: Vec<String>,
    /// Driver of volumes that the short form makes; empty for the default.
    pub volume_driver: String,
    /// Paths that are volumes without a name: the caller's, then the image's too.
    pub anonymous: Vec<String>,
    /// What became of it all.
    pub points: Vec<MountPoint>,
}

/// A volume or file of the host to mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountRequest {
    /// A path of the host; else it is a volume.
    pub bind: bool,
    /// The path, or the volume's name; empty for a volume without a name.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// It cannot be written.
    pub read_only: bool,
    /// A path of the host that does not exist is made.
    pub create_source: bool,
    /// An empty volume is not filled with what the image has there.
    pub no_copy: bool,
    /// Part of the volume.
    pub subpath: String,
    /// Driver of a volume that is made; empty for the default.
    pub driver: String,
    /// Its options.
    pub driver_options: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Something mounted in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// What.
    pub source: MountSource,
    /// Path in the container.
    pub target: String,
    /// Part of the volume; empty for all.
    #[serde(default)]
    pub subpath: String,
    /// It cannot be written.
    pub read_only: bool,
    /// An empty volume is filled with what the image has there.
    pub copy: bool,
    /// The mode as the caller wrote it, for `inspect`.
    pub mode: String,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        /// Its path.
        path: PathBuf,
        /// It is made as a directory when it does not exist.
        create: bool,
    },
    /// A volume.
    Volume {
        /// Its name.
        name: String,
        /// Where its files are.
        driver: VolumeDriver,
        /// Its files are on a server.
        #[serde(default)]
        remote: bool,
        /// The name is ours, and the volume goes with the container.
        anonymous: bool,
    },
}

impl MountPoint {
    /// Whether its files are on a server, which only a VM with a network reaches.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.source, MountSource::Volume { remote: true, .. })
    }
}

impl MountOptions {
    /// Whether anything is asked for.
    pub(crate) fn is_wanted(&self) -> bool {
        !(self.binds.is_empty()
            && self.mounts.is_empty()
            && self.volumes_from.is_empty()
            && self.anonymous.is_empty())
    }

    fn volumes(&self) -> impl Iterator<Item = (&String, VolumeDriver, bool)> {
        self.points.iter().filter_map(|point| match &point.source {
            MountSource::Bind { .. } => None,
            MountSource::Volume { name, driver, anonymous, .. } => Some((name, *driver, *anonymous)),
        })
    }

    /// Names of its volumes.
    pub fn volume_names(&self) -> impl Iterator<Item = String> {
        self.volumes().map(|(name, ..)| name.clone())
    }

    /// Names of its volumes that go with the container.
    pub(crate) fn anonymous_names(&self) -> impl Iterator<Item = String> {
        self.volumes().filter(|(.., anonymous)| *anonymous).map(|(name, ..)| name.clone())
    }

    /// Names of its volumes of the driver disk.
    pub(crate) fn disk_names(&self) -> impl Iterator<Item = String> {
        self.volumes().filter(|(_, driver, _)| *driver == VolumeDriver::Disk).map(|(name, ..)| name.clone())
    }

    /// Whether its VM has to share files of the host.
    pub(crate) fn needs_share(&self) -> bool {
        self.points.iter().any(|point| match &point.source {
            MountSource::Bind { .. } => true,
            MountSource::Volume { driver, remote, .. } => *driver == VolumeDriver::Local && !remote,
        })
    }
}

/// What `-v` says after the second colon.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mode {
    read_only: bool,
    no_copy: bool,
}

/// Reads a mode of docker's; each kind of word once.
fn parse_mode(mode: &str, bind: bool) -> Result<Mode> {
    let invalid = || EngineError::invalid(format!("invalid mode: {mode}"));
    let mut parsed = Mode::default();
    let mut seen = [false; 5];
    let mut once =
        |kind: usize| if std::mem::replace(&mut seen[kind], true) { Err(invalid()) } else { Ok(()) };
    for word in mode.split(',') {
        match word {
            "rw" => once(0)?,
            "ro" => {
                once(0)?;
                parsed.read_only = true;
            }
            // Labels of SELinux, which a guest does not have.
            "z" | "Z" => once(1)?,
            "private" | "rprivate" if bind => once(2)?,
            "shared" | "rshared" | "slave" | "rslave" if bind => return Err(propagation(word)),
            "nocopy" if !bind => {
                once(3)?;
                parsed.no_copy = true;
            }
            // For other platforms.
            "consistent" | "cached" | "delegated" | "default" => once(4)?,
            _ => return Err(invalid()),
        }
    }
    Ok(parsed)
}

/// The refusal of a propagation.
pub fn propagation(word: &str) -> EngineError {
    EngineError::unsupported(format!(
        "bind propagation {word} is not supported: a VM has mounts of its own, only private and rprivate make sense"
    ))
}

fn is_mode(word: &str) -> bool {
    parse_mode(word, true).is_ok() || parse_mode(word, false).is_ok()
}

/// Reads docker's short form.
fn parse_bind(text: &str, driver: &str) -> Result<(MountRequest, String)> {
    let invalid = |why: &str| {
        let colon = if why.is_empty() { "" } else { ": " };
        EngineError::invalid(format!("invalid volume specification: '{text}'{colon}{why}"))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [_, mode] if is_mode(mode) => return Err(invalid("")),
        [source, target] => (*source, *target, ""),
        [source, target, mode] => (*source, *target, *mode),
        _ => return Err(invalid("")),
    };
    if target.is_empty() || (source.is_empty() && parts.len() > 1) {
        return Err(invalid(""));
    }
    let bind = source.starts_with('/');
    let Mode { read_only, no_copy } = if mode.is_empty() { Mode::default() } else { parse_mode(mode, bind)? };
    let request = MountRequest {
        bind,
        source: source.to_owned(),
        target: target.to_owned(),
        read_only,
        create_source: true,
        no_copy,
        driver: if bind { String::new() } else { driver.to_owned() },
        ..MountRequest::default()
    };
    check(&request).map_err(|error| match error.kind {
        Kind::Invalid => invalid(&error.message),
        _ => error,
    })?;
    Ok((request, mode.to_owned()))
}

/// Docker's checks of a mount, in its words.
fn check(request: &MountRequest) -> Result<()> {
    let kind = if request.bind { "bind" } else { "volume" };
    let invalid =
        |why: String| Err(EngineError::invalid(format!("invalid mount config for type \"{kind}\": {why}")));
    let absolute = |path: &str| format!("invalid mount path: '{path}' mount path must be absolute");
    if request.target.is_empty() {
        return invalid("field Target must not be empty".into());
    }
    if !request.target.starts_with('/') {
        return invalid(absolute(&request.target));
    }
    if request.target.contains('\0') || request.source.contains('\0') {
        return invalid("a path has a NUL byte in it".into());
    }
    if clean(&request.target) == "/" {
        return invalid("invalid specification: destination can't be '/'".into());
    }
    if request.bind {
        if request.source.is_empty() {
            return invalid("field Source must not be empty".into());
        }
        if !request.source.starts_with('/') {
            return invalid(absolute(&request.source));
        }
        if !request.create_source && fs::metadata(&request.source).is_err() {
            return invalid(format!("bind source path does not exist: {}", request.source));
        }
    }
    let part = Path::new(&request.subpath);
    if !request.subpath.is_empty()
        && (request.source.is_empty()
            || part.is_absolute()
            || part.components().any(|part| matches!(part, Component::ParentDir)))
    {
        return invalid(match request.source.is_empty() {
            true => "must not set Subpath when using anonymous volumes".into(),
            false => "subpath must be a relative path within the volume".into(),
        });
    }
    Ok(())
}

/// A path without `.`, `..` and double slashes, as Go's `path.Clean` has it.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

impl Engine {
    /// Makes mount points of what was asked for, and volumes that do not exist yet. The caller holds
    /// [`crate::volumes::Volumes::changing`] until the container is known.
    ///
    /// # Errors
    /// Something makes no sense; what was made until then is in the list.
    pub(crate) async fn resolve(
        &self,
        mounts: &mut MountOptions,
        tmpfs: &BTreeMap<String, String>,
    ) -> Result<()> {
        let mut points = BTreeMap::new();
        let added = self.add_points(mounts, tmpfs, &mut points).await;
        mounts.points = points.into_values().collect();
        added
    }

    async fn add_points(
        &self,
        mounts: &MountOptions,
        tmpfs: &BTreeMap<String, String>,
        points: &mut BTreeMap<String, MountPoint>,
    ) -> Result<()> {
        // In docker's order: what comes later takes the place of what was taken over from others.
        for text in &mounts.volumes_from {
            for point in self.taken_over(text)? {
                points.insert(point.target.clone(), point);
            }
        }
        let mut given = std::collections::BTreeSet::new();
        let mut wanted = Vec::new();
        for text in &mounts.binds {
            wanted.push(parse_bind(text, &mounts.volume_driver)?);
        }
        for request in &mounts.mounts {
            check(request)?;
            wanted.push((request.clone(), String::new()));
        }
        for (request, mode) in wanted {
            let target = clean(&request.target);
            if !given.insert(target.clone()) || tmpfs.keys().any(|path| clean(path) == target) {
                return Err(EngineError::invalid(format!("Duplicate mount point: {target}")));
            }
            let point = self.point(request, target.clone(), mode).await?;
            points.insert(target, point);
        }
        for path in &mounts.anonymous {
            let target = clean(path);
            let tmpfs = tmpfs.keys().any(|path| clean(path) == target);
            if target == "/" || tmpfs || points.contains_key(&target) {
                continue;
            }
            let point = self.point(MountRequest::default(), target.clone(), String::new()).await?;
            points.insert(target, MountPoint { mode: String::new(), ..point });
        }
        if points.len() > POINTS_MAX {
            return Err(EngineError::invalid(format!("a container has at most {POINTS_MAX} mounts")));
        }
        Ok(())
    }

    /// What another container has.
    fn taken_over(&self, text: &str) -> Result<Vec<MountPoint>> {
        let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
        if name.is_empty() {
            return Err(EngineError::invalid("invalid volumes from specification: ''".to_owned()));
        }
        let read_only = match mode {
            "rw" | "z" | "Z" => false,
            "ro" => true,
            _ => parse_mode(mode, true)?.read_only,
        };
        // Docker's client takes "not found" here for a missing image, and pulls.
        let other = self.shared.registry.find(name);
        let other = other.map_err(|error| EngineError { kind: Kind::Conflict, ..error })?;
        let points = other.lock().options.mounts.points.clone();
        let take = |mut point: MountPoint| {
            point.read_only |= read_only;
            point.copy = false;
            if let MountSource::Volume { anonymous, .. } = &mut point.source {
                // It is the other's, and goes with it.
                *anonymous = false;
            }
            point
        };
        Ok(points.into_iter().map(take).collect())
    }

    async fn point(&self, request: MountRequest, target: String, mode: String) -> Result<MountPoint> {
        let MountRequest { bind, source, read_only, no_copy, subpath, create_source, .. } = request;
        if bind {
            let source = MountSource::Bind { path: PathBuf::from(source), create: create_source };
            return Ok(MountPoint { source, target, subpath, read_only, copy: false, mode });
        }
        let some = |map: BTreeMap<String, String>| (!map.is_empty()).then_some(map);
        let wanted = VolumeRequest {
            name: source.clone(),
            driver: request.driver,
            labels: some(request.labels),
            options: some(request.driver_options),
        };
        let (record, _) = self.shared.make_volume(wanted).await?;
        // Docker's default of a mode that nobody wrote.
        let mode = if mode.is_empty() { "z".to_owned() } else { mode };
        let source = MountSource::Volume {
            remote: record.nfs().is_some(),
            name: record.name,
            driver: record.driver,
            anonymous: source.is_empty(),
        };
        Ok(MountPoint { source, target, subpath, read_only, copy: !no_copy, mode })
    }

    /// What the shim is told of a container's mounts, in their order. Makes directories of the host that are to be bound
    /// and do not exist.
    ///
    /// # Errors
    /// A volume is gone, or a directory cannot be made.
    pub(crate) fn volumes_to_mount(&self, record: &ContainerRecord) -> Result<Vec<Volume>> {
        let points = record.options.mounts.points.iter();
        points.map(|point| self.volume_to_mount(point)).collect()
    }

    fn volume_to_mount(&self, point: &MountPoint) -> Result<Volume> {
        let subpath = point.subpath.clone();
        let (name, copy) = match &point.source {
            MountSource::Bind { path, create } => {
                if *create {
                    make_missing(path)?;
                }
                let source = VolumeSource::Host { path: path.clone(), read_only: point.read_only };
                return Ok(Volume { source, subpath, populate: false });
            }
            MountSource::Volume { name, .. } => (name, point.copy),
        };
        let record = self
            .shared
            .volumes
            .find(name)
            .ok_or_else(|| EngineError::new(Kind::System, format!("get {name}: no such volume")))?;
        if let Some(nfs) = record.nfs() {
            return Ok(Volume {
                source: VolumeSource::Nfs(nfs),
                subpath,
                populate: copy && !record.is_read_only(),
            });
        }
        let place = self.shared.mountpoint(&record);
        Ok(match record.driver {
            VolumeDriver::Disk => Volume { source: VolumeSource::Disk(place), subpath, populate: copy },
            VolumeDriver::Local => {
                let path = record.directory(place);
                let fixed = record.is_read_only();
                // A directory that somebody else put there is not filled.
                let populate = copy && !fixed && record.options.is_none() && is_new(&path);
                // The guest fills it: it cannot do without writing, this once.
                let read_only = fixed || (point.read_only && !populate);
                Volume { source: VolumeSource::Host { path, read_only }, subpath, populate }
            }
        })
    }

    /// Tells listeners that a container's volumes are used, or no longer.
    pub(crate) fn volume_events(&self, record: &ContainerRecord, action: &str) {
        for point in &record.options.mounts.points {
            let MountSource::Volume { name, driver, .. } = &point.source else { continue };
            let mut details = vec![("container", record.id.clone()), ("driver", driver.word().to_owned())];
            if action == "mount" {
                details.push(("destination", point.target.clone()));
                details.push(("propagation", String::new()));
                details.push(("read/write", (!point.read_only).to_string()));
            }
            self.shared.volume_event(name, action, &details);
        }
    }

    /// A container's mounts as `inspect` shows them.
    pub fn shown_mounts(&self, record: &ContainerRecord) -> Vec<Value> {
        let shown = |point: &MountPoint| match &point.source {
            MountSource::Bind { path, .. } => json!({
                "Type": "bind",
                "Source": path,
                "Destination": point.target,
                "Mode": point.mode,
                "RW": !point.read_only,
                "Propagation": "rprivate",
            }),
            MountSource::Volume { name, driver, .. } => {
                let known = self.shared.volumes.find(name);
                json!({
                    "Type": "volume",
                    "Name": name,
                    "Source": known.map(|known| self.shared.mountpoint(&known)).unwrap_or_default(),
                    "Destination": point.target,
                    "Driver": driver.word(),
                    "Mode": point.mode,
                    "RW": !point.read_only,
                    "Propagation": "",
                })
            }
        };
        record.options.mounts.points.iter().map(shown).collect()
    }
}

/// Docker's way of a source of `-v` that does not exist.
fn make_missing(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        _ => return Ok(()),
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|error| {
        EngineError::system(format!("error while creating mount source path '{}'", path.display()), error)
    })
}

/// Whether nobody has put anything into a volume's directory, or its filling was interrupted.
fn is_new(path: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(path) else { return false };
    entries.next().is_none() || fs::symlink_metadata(path.join(POPULATING)).is_ok()
}

/// The mounts of a specification, in the order in which they are made: what lies deeper comes later.
pub(crate) fn in_spec(mounts: &MountOptions) -> Vec<(String, Value)> {
    let kind = hyper_protocol::agent::Volume::MOUNT_TYPE;
    let entry = |(index, point): (usize, &MountPoint)| {
        let access = if point.read_only { ["ro", "rro"].as_slice() } else { &["rw"] };
        let mut options = vec!["rprivate"];
        options.extend(access);
        let mount = json!({
            "destination": point.target,
            "type": kind,
            "source": index.to_string(),
            "options": options,
        });
        (point.target.clone(), mount)
    };
    mounts.points.iter().enumerate().map(entry).collect()
}

/// Sorts mounts by how deep they lie, as docker does.
pub(crate) fn depth(path: &str) -> usize {
    clean(path).matches('/').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_form_is_read_as_docker_does() {
        let read = |text| parse_bind(text, "").map(|(request, mode)| (request.bind, request.read_only, mode));
        assert_eq!(read("/a:/b").unwrap(), (true, false, String::new()));
        assert_eq!(read("/a:/b:ro").unwrap(), (true, true, "ro".into()));
        assert_eq!(read("vol:/b:nocopy,ro").unwrap(), (false, true, "nocopy,ro".into()));
        assert_eq!(read("/only").unwrap(), (false, false, String::new()));
        assert!(read("/a:/b:rprivate,z").unwrap().0);
        for (text, words) in [
            ("", "invalid volume specification: ''"),
            ("/a:rw", "invalid volume specification: '/a:rw'"),
            ("/a:/b:/c:/d", "invalid volume specification"),
            (":/b", "invalid volume specification"),
            (
                "/a:b",
                "invalid volume specification: '/a:b': invalid mount config for type \"bind\": invalid mount path: 'b' mount path must be absolute",
            ),
            ("/a:/", "destination can't be '/'"),
            ("/a:/b:xx", "invalid mode: xx"),
            ("/a:/b:ro,rw", "invalid mode: ro,rw"),
            ("/a:/b:nocopy", "invalid mode: nocopy"),
            ("/a:/b:rshared", "bind propagation rshared is not supported"),
        ] {
            let error = parse_bind(text, "").unwrap_err();
            assert!(error.message.contains(words), "{:?} does not say {words:?}", error.message);
        }
    }

    #[test]
    fn long_form_is_checked_in_dockers_words() {
        let volume = MountRequest { source: "v".into(), target: "/t".into(), ..MountRequest::default() };
        let bind = MountRequest { bind: true, source: "/nosuch".into(), ..volume.clone() };
        check(&volume).unwrap();
        for (request, words) in [
            (
                bind.clone(),
                "invalid mount config for type \"bind\": bind source path does not exist: /nosuch",
            ),
            (MountRequest { source: String::new(), ..bind.clone() }, "field Source must not be empty"),
            (MountRequest { source: "x".into(), ..bind }, "'x' mount path must be absolute"),
            (MountRequest { target: String::new(), ..volume.clone() }, "field Target must not be empty"),
            (MountRequest { subpath: "../x".into(), ..volume.clone() }, "subpath must be a relative path"),
            (MountRequest { subpath: "x".into(), source: String::new(), ..volume }, "anonymous volumes"),
        ] {
            let error = check(&request).unwrap_err();
            assert!(error.message.contains(words), "{:?} does not say {words:?}", error.message);
        }
    }

    #[test]
    fn paths_are_cleaned_and_sorted_by_depth() {
        assert_eq!(clean("//a/./b/../c/"), "/a/c");
        assert_eq!(clean("/.."), "/");
        assert!(depth("/a/b") > depth("/a"));
    }
}
