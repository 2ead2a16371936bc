//! A container's root filesystem: read-only EROFS layers under one writable layer.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_protocol::agent::{DiskAddress, NEW_UPPER_MTIME, RootDirectory, Writable};
use rustix::fs::Timespec;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount, mount_bind, unmount,
};

use crate::container::root::{attach, make_directory, set_modified};
use crate::deadline::until;
use crate::disks::{self, Disks};
use crate::failure::{Attempt, Failed};
use crate::steps;

/// Most layers of an overlay (`OVL_MAX_STACK` of `fs/overlayfs/params.h`).
const MAX_LAYERS: usize = 500;

/// How long the kernel may take to let go of a disk after its last mount has gone.
pub(crate) const LET_GO: Duration = Duration::from_secs(2);

/// A mounted root filesystem.
#[derive(Debug)]
pub(crate) struct Rootfs {
    /// Mount points, in the order in which they were mounted.
    mounted: Vec<PathBuf>,
    /// Filesystem and device node of each disk.
    disks: Vec<(&'static str, PathBuf)>,
    root: PathBuf,
    /// Where the read-only layers are mounted, bottom first.
    lower: Vec<PathBuf>,
    /// What the writable layer holds.
    upper: PathBuf,
}

impl Rootfs {
    /// Mounts disks and their union under `directory`. A new writable layer gets `root` as its root directory.
    pub(crate) async fn assemble(
        finder: &dyn Disks,
        layers: &[DiskAddress],
        writable: &Writable,
        root: Option<RootDirectory>,
        directory: &Path,
    ) -> Result<Rootfs, Failed> {
        if layers.len() > MAX_LAYERS {
            let count = layers.len();
            return Err(Failed::invalid(format!("{count} layers, an overlay takes {MAX_LAYERS}")));
        }
        let mut rootfs = Rootfs {
            mounted: Vec::new(),
            disks: Vec::new(),
            root: directory.join("root"),
            lower: Vec::new(),
            upper: PathBuf::new(),
        };
        match rootfs.mount(finder, layers, writable, root, directory).await {
            Ok(()) => Ok(rootfs),
            Err(failed) => {
                rootfs.release(|_| false).await;
                Err(failed)
            }
        }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    /// Where its read-only layers are mounted, bottom first.
    pub(crate) fn lower(&self) -> &[PathBuf] {
        &self.lower
    }

    /// What its writable layer holds.
    pub(crate) fn upper(&self) -> &Path {
        &self.upper
    }

    async fn mount(
        &mut self,
        finder: &dyn Disks,
        layers: &[DiskAddress],
        writable: &Writable,
        root: Option<RootDirectory>,
        directory: &Path,
    ) -> Result<(), Failed> {
        let mut lower = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            let point = directory.join(format!("layer-{index}"));
            self.mount_disk(finder, layer, "erofs", MountFlags::RDONLY, &point).await?;
            lower.push(point);
        }
        let point = directory.join("writable");
        match writable {
            Writable::Ext4(address) => {
                self.mount_disk(finder, address, "ext4", MountFlags::empty(), &point).await?;
            }
            Writable::Tmpfs { size } => {
                make_point(&point)?;
                let size = if *size == 0 { "50%".to_owned() } else { size.to_string() };
                let options = format!("mode=0755,size={size}");
                let options = std::ffi::CString::new(options).invalid(|| "tmpfs options".to_owned())?;
                mount("tmpfs", &point, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
                    .attempt(|| "mount the writable layer in memory".to_owned())?;
                self.mounted.push(point.clone());
            }
        }
        let (upper, work) = (point.join("upper"), point.join("work"));
        let start = steps::now();
        make_upper(&upper, &work, root, lower.last().map(PathBuf::as_path))?;
        let start = steps::since("prepare writable layer", start);
        make_point(&self.root)?;
        if lower.is_empty() {
            mount_bind(&upper, &self.root).attempt(|| "mount the writable layer as the root".to_owned())?;
        } else {
            mount_overlay(&lower, &upper, &work, &self.root)?;
        }
        (self.lower, self.upper) = (lower, upper);
        steps::since("unite layers", start);
        self.mounted.push(self.root.clone());
        Ok(())
    }

    async fn mount_disk(
        &mut self,
        finder: &dyn Disks,
        address: &DiskAddress,
        filesystem: &'static str,
        flags: MountFlags,
        point: &Path,
    ) -> Result<(), Failed> {
        let start = steps::now();
        let node = disks::wait(finder, address).await?;
        let start = steps::since("find disk", start);
        make_point(point)?;
        mount(&node, point, filesystem, flags, None)
            .attempt(|| format!("mount {filesystem} of the disk {address:?}"))?;
        steps::since(if filesystem == "ext4" { "mount writable layer" } else { "mount layer" }, start);
        self.mounted.push(point.to_owned());
        self.disks.push((filesystem, node));
        Ok(())
    }

    /// Whether it is mounted from this disk, by its device node.
    pub(crate) fn uses(&self, node: &Path) -> bool {
        self.disks.iter().any(|(_, used)| used == node)
    }

    /// Unmounts everything and waits until the kernel has let go of the disks, so that they can be unplugged;
    /// except those that another container, as `shared` tells by the device node, still uses.
    pub(crate) async fn release(&mut self, shared: impl Fn(&Path) -> bool) {
        for point in self.mounted.drain(..).rev() {
            // A mount that is busy leaves the tree at once and ends with its last user.
            if let Err(error) = unmount(&point, UnmountFlags::DETACH) {
                crate::console::say(format_args!("cannot unmount {}: {error}", point.display()));
            }
        }
        for (filesystem, node) in self.disks.drain(..) {
            let name = node.file_name().unwrap_or_default();
            let used = Path::new("/sys/fs").join(filesystem).join(name);
            if !shared(&node) {
                until(LET_GO, || !used.exists()).await;
            }
        }
    }
}

fn make_point(point: &Path) -> Result<(), Failed> {
    make_directory(point).map(drop).attempt(|| format!("make the mount point {}", point.display()))
}

/// Makes the directories of the writable layer unless they are there. The union's root directory shows the
/// attributes of the upper one, so a new one takes `root`'s, or those of the topmost layer.
fn make_upper(
    upper: &Path,
    work: &Path,
    root: Option<RootDirectory>,
    lower: Option<&Path>,
) -> Result<(), Failed> {
    let failed = || "prepare the writable layer".to_owned();
    if !work.exists() {
        fs::create_dir(work).attempt(failed)?;
    }
    let new = match fs::metadata(upper) {
        Ok(status) if (status.mtime(), status.mtime_nsec()) != (NEW_UPPER_MTIME, 0) => return Ok(()),
        Ok(_) => upper.to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Given its name when it is complete: a guest may be killed at any time.
            let new = upper.with_extension("new");
            if new.exists() {
                fs::remove_dir(&new).attempt(failed)?;
            }
            fs::create_dir(&new).attempt(failed)?;
            new
        }
        Err(error) => return Err(error).attempt(failed),
    };
    let root = match (root, lower) {
        (Some(root), _) => root,
        (None, Some(lower)) => attributes(&fs::metadata(lower).attempt(failed)?),
        (None, None) => {
            let mtime = crate::reaper::now() / 1_000_000_000;
            RootDirectory { mode: 0o755, uid: 0, gid: 0, mtime, mtime_nanoseconds: 0 }
        }
    };
    let directory = fs::File::open(&new).attempt(failed)?;
    let status = directory.metadata().attempt(failed)?;
    if (status.uid(), status.gid()) != (root.uid, root.gid) {
        fchown(&directory, Some(root.uid), Some(root.gid)).attempt(failed)?;
    }
    if status.mode() & 0o7777 != root.mode & 0o7777 {
        directory.set_permissions(fs::Permissions::from_mode(root.mode & 0o7777)).attempt(failed)?;
    }
    // Last: this ends its being new.
    let modified = Timespec { tv_sec: root.mtime, tv_nsec: root.mtime_nanoseconds.into() };
    set_modified(&directory, modified).attempt(failed)?;
    if new != upper { fs::rename(&new, upper).attempt(failed) } else { Ok(()) }
}

fn attributes(status: &fs::Metadata) -> RootDirectory {
    RootDirectory {
        mode: status.mode(),
        uid: status.uid(),
        gid: status.gid(),
        mtime: status.mtime(),
        mtime_nanoseconds: u32::try_from(status.mtime_nsec()).unwrap_or(0),
    }
}

/// Mounts the union with one call per layer: all of them in one option would not fit.
fn mount_overlay(lower: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> Result<(), Failed> {
    let failed = || "mount the union of the layers".to_owned();
    let filesystem = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).attempt(failed)?;
    for layer in lower.iter().rev() {
        fsconfig_set_string(&filesystem, "lowerdir+", layer).attempt(failed)?;
    }
    fsconfig_set_string(&filesystem, "upperdir", upper).attempt(failed)?;
    fsconfig_set_string(&filesystem, "workdir", work).attempt(failed)?;
    fsconfig_create(&filesystem).attempt(failed)?;
    let tree =
        fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).attempt(failed)?;
    let target = make_directory(target).attempt(failed)?;
    attach(&tree, &target).attempt(failed)
}
