//! A container's file tree: pivots into the root filesystem, then mounts on it.
//!
//! Whatever comes from outside the container is taken hold of before the pivot; every path is looked up
//! after it, when nothing but the container's own tree can be reached, so that no symbolic link of an image leads
//! out of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use hyper_protocol::agent::Volume;
use hyper_sys::mount::{self, Change};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, fstat,
    makedev, mkdirat, mknodat, openat2, readlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_bind,
    mount_change, move_mount, open_tree, unmount,
};

use super::devices;
use super::mounts::Options;
use super::populate::populate;
use crate::failure::{Attempt, Failed};
use crate::spec::{self, Spec};
use crate::volumes::Place;

/// What a container's tree is made of, checked.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Where the agent has mounted the root filesystem.
    pub(crate) root: PathBuf,
    mounts: Vec<Step>,
    /// Directory of files that are bound over paths of the container: name in it by path.
    files: BTreeMap<String, PathBuf>,
    devices: Vec<spec::Device>,
    masked: Vec<String>,
    readonly: Vec<String>,
    read_only_root: bool,
    root_propagation: u64,
    working_directory: String,
}

#[derive(Debug)]
struct Step {
    mount: spec::Mount,
    options: Options,
    volume: Option<Place>,
}

impl Plan {
    /// Checks what the specification wants of the tree. `files` are the agent's own, by the container's path.
    pub(crate) fn new(
        spec: &Spec,
        root: PathBuf,
        files: BTreeMap<String, PathBuf>,
        volumes: &[Place],
    ) -> Result<Plan, Failed> {
        devices::check(&spec.linux.devices)?;
        let mounts = spec.mounts.iter().map(|mount| Step::new(mount, volumes)).collect::<Result<_, _>>()?;
        let root_propagation = match spec.linux.rootfs_propagation.as_str() {
            "" => MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
            "private" | "rprivate" => MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
            "slave" | "rslave" => MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
            "shared" | "rshared" => MountPropagationFlags::SHARED | MountPropagationFlags::REC,
            "unbindable" | "runbindable" => MountPropagationFlags::UNBINDABLE | MountPropagationFlags::REC,
            other => return Err(Failed::invalid(format!("unknown rootfsPropagation {other:?}"))),
        };
        for path in spec.linux.masked_paths.iter().chain(&spec.linux.readonly_paths).chain(files.keys()) {
            if !path.starts_with('/') || path.contains('\0') {
                return Err(Failed::invalid(format!("path {path:?} is not absolute")));
            }
        }
        Ok(Plan {
            root,
            mounts,
            files,
            devices: spec.linux.devices.clone(),
            masked: spec.linux.masked_paths.clone(),
            readonly: spec.linux.readonly_paths.clone(),
            read_only_root: spec.root.readonly,
            root_propagation: u64::from(root_propagation.bits()),
            working_directory: spec.process.as_ref().map_or_else(String::new, |p| p.cwd.clone()),
        })
    }

    /// Builds the tree and makes it this process's root. The process must be alone in its mount namespace and
    /// already in the PID and cgroup namespaces of the container. `console` is called when `/dev` is there.
    pub(crate) fn build(&self, console: impl FnOnce() -> Result<(), Failed>) -> Result<(), Failed> {
        rustix::process::umask(Mode::empty());
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .attempt(|| "make the container's mounts private".to_owned())?;
        let bound = self.mounts.iter().map(Step::take_source).collect::<Result<Vec<_>, _>>()?;
        let files = self
            .files
            .iter()
            .map(|(path, file)| Ok((path, clone_tree(file, false)?)))
            .collect::<Result<Vec<_>, Failed>>()?;
        self.pivot()?;
        for (step, source) in self.mounts.iter().zip(bound) {
            step.apply(source).map_err(|e| in_mount(&step.mount, e))?;
        }
        if !self.mounts.is_empty() {
            // A tree on which nothing is mounted is there for its files: nothing of ours is to be among them.
            devices::make(&self.devices)?;
        }
        for (path, file) in files {
            let failed = || format!("put the file {path} in place");
            let target = make_target(Path::new(path), false).attempt(failed)?;
            attach(&file, &target).attempt(failed)?;
        }
        console()?;
        if !self.working_directory.is_empty() && self.working_directory != "/" {
            let path = Path::new(&self.working_directory);
            if open_path(path).is_err_and(|e| e == Errno::NOENT) {
                make_target(path, true)
                    .attempt(|| format!("make the working directory {}", self.working_directory))?;
            }
        }
        self.protect()
    }

    fn pivot(&self) -> Result<(), Failed> {
        let failed = || format!("make {} the root", self.root.display());
        rustix::process::chdir(&self.root).attempt(failed)?;
        // Both roots at one place: the old one lies on top of the new and is taken off.
        rustix::process::pivot_root(".", ".").attempt(failed)?;
        unmount(".", UnmountFlags::DETACH).attempt(failed)?;
        rustix::process::chdir("/").attempt(failed)
    }

    /// Hides and write-protects paths, last of all the root itself.
    fn protect(&self) -> Result<(), Failed> {
        for path in &self.readonly {
            make_read_only(Path::new(path)).attempt(|| format!("make {path} read-only"))?;
        }
        for path in &self.masked {
            mask(Path::new(path)).attempt(|| format!("mask {path}"))?;
        }
        let failed = || "set the attributes of the root filesystem".to_owned();
        let root = open_path(Path::new("/")).attempt(failed)?;
        let propagation = Change { propagation: self.root_propagation & !REC, ..Change::default() };
        mount::change(root.as_fd(), c"", true, propagation).attempt(failed)?;
        if self.read_only_root {
            let read_only = Change { set: mount::READ_ONLY, ..Change::default() };
            mount::change(root.as_fd(), c"", false, read_only).attempt(failed)?;
        }
        Ok(())
    }
}

/// `MS_REC`, which `mount_setattr` takes as a flag of its own.
const REC: u64 = MountPropagationFlags::REC.bits() as u64;

fn in_mount(mount: &spec::Mount, failed: Failed) -> Failed {
    let failure = failed.to_failure();
    let name = if mount.kind.is_empty() { "bind" } else { &mount.kind };
    Failed::new(failure.kind, format!("mount {name} on {}: {}", mount.destination, failure.message))
}

impl Step {
    fn new(mount: &spec::Mount, volumes: &[Place]) -> Result<Step, Failed> {
        let mut options = Options::parse(&mount.options).map_err(|e| in_mount(mount, e))?;
        if !mount.destination.starts_with('/') || mount.destination.contains('\0') {
            return Err(Failed::invalid(format!(
                "mount destination {:?} is not absolute",
                mount.destination
            )));
        }
        if mount.kind == "bind" && options.bind.is_none() {
            options.bind = Some(false);
        }
        let mut volume = None;
        if mount.kind == Volume::MOUNT_TYPE {
            options.bind = Some(true);
            let found = mount.source.parse().ok().and_then(|number: usize| volumes.get(number));
            let missing =
                || in_mount(mount, Failed::invalid(format!("there is no volume {:?}", mount.source)));
            volume = Some(found.ok_or_else(missing)?.clone());
        }
        if options.bind.is_some() {
            if let Some((name, _)) = options.data.first() {
                let failed = Failed::invalid(format!("option {name:?} means nothing for a bind mount"));
                return Err(in_mount(mount, failed));
            }
        } else if mount.kind.is_empty() {
            return Err(in_mount(mount, Failed::invalid("it has no type")));
        }
        Ok(Step { mount: mount.clone(), options, volume })
    }

    /// Takes hold of what a bind mount binds, while it can still be seen.
    fn take_source(&self) -> Result<Option<OwnedFd>, Failed> {
        let Some(recursive) = self.options.bind else { return Ok(None) };
        if let Some(place) = &self.volume {
            return take_volume(place).map(Some).map_err(|failed| in_mount(&self.mount, failed));
        }
        let source = Path::new(&self.mount.source);
        if !source.is_absolute() || !source.exists() {
            return Err(in_mount(
                &self.mount,
                Failed::unsupported(format!(
                    "bind source {} does not exist in the guest (directories of the host are not there)",
                    self.mount.source
                )),
            ));
        }
        clone_tree(source, recursive).map(Some)
    }

    fn apply(&self, source: Option<OwnedFd>) -> Result<(), Failed> {
        let path = Path::new(&self.mount.destination);
        let failed = || "make the mount point".to_owned();
        let (tree, target) = match source {
            Some(tree) => {
                let status = fstat(&tree).attempt(|| "look at the bind source".to_owned())?;
                let directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
                let target = make_target(path, directory).attempt(failed)?;
                if self.volume.as_ref().is_some_and(|place| place.populate) {
                    populate(target.as_fd(), tree.as_fd())
                        .attempt(|| "copy the image's files into the volume".to_owned())?;
                }
                (tree, target)
            }
            None => {
                let existed = open_path(path).is_ok();
                let target = make_target(path, true).attempt(failed)?;
                let mode = if existed { fstat(&target).ok().map(|s| s.st_mode & 0o7777) } else { None };
                (self.new_filesystem(mode)?, target)
            }
        };
        let failed = || "set the mount's attributes".to_owned();
        for (change, recursive) in [(self.options.own, false), (self.options.recursive, true)] {
            if change != Change::default() {
                mount::change(tree.as_fd(), c"", recursive, change).attempt(failed)?;
            }
        }
        attach(&tree, &target).attempt(|| "attach the mount".to_owned())?;
        if let Some((propagation, recursive)) = self.options.propagation {
            let change = Change { propagation, ..Change::default() };
            mount::change(tree.as_fd(), c"", recursive, change).attempt(failed)?;
        }
        Ok(())
    }

    /// Makes a filesystem that is mounted nowhere yet. `mode` is that of the directory it will cover: a tmpfs
    /// takes it over unless told another.
    fn new_filesystem(&self, mode: Option<u32>) -> Result<OwnedFd, Failed> {
        // Specifications written for either version of cgroups say `cgroup`; a guest has version 2 alone.
        let kind = if self.mount.kind == "cgroup" { "cgroup2" } else { self.mount.kind.as_str() };
        let mut data = self.options.data.clone();
        if kind == "tmpfs" && self.options.value("mode").is_none() {
            data.extend(mode.map(|mode| ("mode".to_owned(), Some(format!("{mode:o}")))));
        }
        new_filesystem(kind, &self.mount.source, &data)
    }
}

/// Makes a filesystem that is mounted nowhere yet.
pub(crate) fn new_filesystem(
    kind: &str,
    source: &str,
    data: &[(String, Option<String>)],
) -> Result<OwnedFd, Failed> {
    let filesystem = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .attempt(|| format!("find the filesystem {kind} in the guest's kernel"))?;
    if !source.is_empty() {
        fsconfig_set_string(&filesystem, "source", source).attempt(|| format!("set the source {source}"))?;
    }
    for (name, value) in data {
        match value {
            Some(value) => fsconfig_set_string(&filesystem, name, value),
            None => fsconfig_set_flag(&filesystem, name),
        }
        .attempt(|| format!("set the option {name}"))?;
    }
    fsconfig_create(&filesystem).attempt(|| format!("make the filesystem {kind}"))?;
    fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .attempt(|| format!("mount the filesystem {kind}"))
}

/// Puts a mount that is nowhere yet on an open directory or file.
pub(crate) fn attach(tree: &OwnedFd, target: &OwnedFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd, Failed> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).attempt(|| format!("take hold of {}", path.display()))
}

/// Takes hold of a volume, or of a part of it that is looked up without leaving it.
fn take_volume(place: &Place) -> Result<OwnedFd, Failed> {
    if place.subpath.is_empty() {
        return clone_tree(&place.path, true);
    }
    let failed = || format!("find {:?} in the volume", place.subpath);
    let whole = open_path(&place.path).attempt(failed)?;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let part = openat2(&whole, &place.subpath, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), within);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let flags = flags | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(part.attempt(failed)?, "", flags).attempt(failed)
}

/// Opens a path without reading it and without following the magic links of `/proc`, behind which other
/// namespaces may lie.
fn open_path(path: &Path) -> rustix::io::Result<OwnedFd> {
    openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

/// Makes a directory and its parents unless they exist.
pub(crate) fn make_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    make_target(path, true)
}

/// Most symbolic links followed on the way to a path that is being made (`MAXSYMLINKS` of `linux/namei.h`).
const MAX_LINKS: usize = 40;

/// Opens a path, making it as an empty directory or file, with its parents, unless it exists. Where a symbolic
/// link leads to nothing (`/etc/resolv.conf` of many images), what it leads to is made.
fn make_target(path: &Path, directory: bool) -> rustix::io::Result<OwnedFd> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match open_path(&path) {
            Err(Errno::NOENT) => {}
            outcome => return outcome,
        }
        if let Some(dangling) = make_missing(&path, directory)? {
            path = dangling;
        }
    }
    Err(Errno::LOOP)
}

/// Makes what is missing of a path; stops at a link that leads to nothing and returns the path with the link
/// replaced by where it leads.
fn make_missing(path: &Path, directory: bool) -> rustix::io::Result<Option<PathBuf>> {
    let names: Vec<_> =
        path.components().filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir)).collect();
    let mut at = PathBuf::from("/");
    for (index, name) in names.iter().enumerate() {
        let parent = open_path(&at)?;
        let here = at.clone();
        at.push(name);
        if !matches!(open_path(&at), Err(Errno::NOENT)) {
            continue;
        }
        let last = index + 1 == names.len();
        let before = fstat(&parent)?;
        let made = if directory || !last {
            mkdirat(&parent, name.as_os_str(), Mode::from_raw_mode(0o755))
        } else {
            mknodat(&parent, name.as_os_str(), FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
        };
        match made {
            // What is made for us to mount on is no change of the container's.
            Ok(()) => keep_modified(&parent, &before)?,
            Err(Errno::EXIST) => {
                let link = readlinkat(&parent, name.as_os_str(), Vec::new())?;
                let mut leads_to = here.join(OsStr::from_bytes(link.to_bytes()));
                leads_to.extend(&names[index + 1..]);
                return Ok(Some(leads_to));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Sets the modification time of an open file, which may be open as a path only, and leaves the others alone.
pub(crate) fn set_modified(file: impl AsFd, modified: Timespec) -> rustix::io::Result<()> {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: omit, last_modification: modified };
    utimensat(file, "", &times, AtFlags::EMPTY_PATH)
}

/// Gives a directory the modification time that it had. One that does not keep times has none to lose.
fn keep_modified(directory: &OwnedFd, before: &Stat) -> rustix::io::Result<()> {
    let modified = Timespec { tv_sec: before.st_mtime, tv_nsec: before.st_mtime_nsec as _ };
    match set_modified(directory, modified) {
        Err(Errno::PERM | Errno::ROFS | Errno::OPNOTSUPP) => Ok(()),
        outcome => outcome,
    }
}

/// Hides a path behind an empty directory or `/dev/null`; one that does not exist is hidden already.
fn mask(path: &Path) -> rustix::io::Result<()> {
    let target = match open_path(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        outcome => outcome?,
    };
    if FileType::from_raw_mode(fstat(&target)?.st_mode) == FileType::Directory {
        let filesystem = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&filesystem)?;
        let empty = fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        return attach(&empty, &target);
    }
    let null =
        open_tree(CWD, "/dev/null", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    if fstat(&null)?.st_rdev != makedev(1, 3) {
        return Err(Errno::NODEV);
    }
    attach(&null, &target)
}

/// Binds a path over itself without the right to write; one that does not exist needs none.
fn make_read_only(path: &Path) -> rustix::io::Result<()> {
    let target = match open_path(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        outcome => outcome?,
    };
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(&target, "", flags | OpenTreeFlags::AT_EMPTY_PATH)?;
    let read_only = Change { set: mount::READ_ONLY, ..Change::default() };
    mount::change(tree.as_fd(), c"", true, read_only)
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    attach(&tree, &target)
}

/// Makes `/dev/console` the terminal at `path`.
pub(crate) fn bind_console(path: &str) -> Result<(), Failed> {
    let failed = || "make the terminal the container's console".to_owned();
    make_target(Path::new("/dev/console"), false).attempt(failed)?;
    mount_bind(path, "/dev/console").attempt(failed)
}
