//! A container's root filesystem: read-only EROFS layers under one writable layer.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_protocol::agent::{DiskAddress, Writable};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount, mount_bind, unmount,
};

use crate::container::root::{attach, make_directory};
use crate::deadline::until;
use crate::disks::{self, Disks};
use crate::failure::{Attempt, Failed};

/// Most layers of an overlay (`OVL_MAX_STACK` of `fs/overlayfs/params.h`).
const MAX_LAYERS: usize = 500;

/// How long the kernel may take to let go of a disk after its last mount has gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// A mounted root filesystem.
#[derive(Debug)]
pub(crate) struct Rootfs {
    /// Mount points, in the order in which they were mounted.
    mounted: Vec<PathBuf>,
    /// Filesystem and device node of each disk.
    disks: Vec<(&'static str, PathBuf)>,
    root: PathBuf,
}

impl Rootfs {
    /// Mounts disks and their union under `directory`.
    pub(crate) async fn assemble(
        finder: &dyn Disks,
        layers: &[DiskAddress],
        writable: &Writable,
        directory: &Path,
    ) -> Result<Rootfs, Failed> {
        if layers.len() > MAX_LAYERS {
            let count = layers.len();
            return Err(Failed::invalid(format!("{count} layers, an overlay takes {MAX_LAYERS}")));
        }
        let mut rootfs = Rootfs { mounted: Vec::new(), disks: Vec::new(), root: directory.join("root") };
        match rootfs.mount(finder, layers, writable, directory).await {
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

    async fn mount(
        &mut self,
        finder: &dyn Disks,
        layers: &[DiskAddress],
        writable: &Writable,
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
        make_upper(&upper, &work, lower.last().map(PathBuf::as_path))?;
        make_point(&self.root)?;
        if lower.is_empty() {
            mount_bind(&upper, &self.root).attempt(|| "mount the writable layer as the root".to_owned())?;
        } else {
            mount_overlay(&lower, &upper, &work, &self.root)?;
        }
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
        let node = disks::wait(finder, address).await?;
        make_point(point)?;
        mount(&node, point, filesystem, flags, None)
            .attempt(|| format!("mount {filesystem} of the disk {address:?}"))?;
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
                until(PATIENCE, || !used.exists()).await;
            }
        }
    }
}

fn make_point(point: &Path) -> Result<(), Failed> {
    make_directory(point).map(drop).attempt(|| format!("make the mount point {}", point.display()))
}

/// Makes the directories of the writable layer unless they are there; the root of the union has the owner and
/// mode of the upper one, so it takes them from the image.
fn make_upper(upper: &Path, work: &Path, lower: Option<&Path>) -> Result<(), Failed> {
    let failed = || "prepare the writable layer".to_owned();
    if !upper.exists() {
        let status = lower.map(fs::metadata).transpose().attempt(failed)?;
        fs::create_dir(upper).attempt(failed)?;
        let (mode, uid, gid) = status.map_or((0o755, 0, 0), |s| (s.mode() & 0o7777, s.uid(), s.gid()));
        chown(upper, Some(uid), Some(gid)).attempt(failed)?;
        fs::set_permissions(upper, fs::Permissions::from_mode(mode)).attempt(failed)?;
    }
    if !work.exists() {
        fs::create_dir(work).attempt(failed)?;
    }
    Ok(())
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
