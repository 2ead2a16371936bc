//! What containers have beside their root filesystems: files that the host shares, and disks of volumes.
//!
//! The shared files are one filesystem, mounted when the first container wants something of it, and from then on. A
//! volume's disk is mounted once, however many containers use it, and goes with the last of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hyper_protocol::agent::{DiskAddress, SHARE_TAG, Volume, VolumeSource};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::container::root::make_directory;
use crate::deadline::until;
use crate::disks::{self, Disks};
use crate::failure::{Attempt, Failed};
use crate::rootfs::LET_GO;
use crate::steps;

/// Most volumes of a container.
const MAX_VOLUMES: usize = 256;

/// Directory of a volume on its disk: beside it lies `lost+found`, which is no business of the container's.
const DATA: &str = "data";

/// What is mounted.
#[derive(Debug)]
pub(crate) struct Volumes {
    directory: PathBuf,
    share: Cell<bool>,
    /// What the host shares and containers use, and how many do.
    shared: RefCell<BTreeMap<PathBuf, usize>>,
    disks: RefCell<Vec<Disk>>,
}

#[derive(Debug)]
struct Disk {
    address: DiskAddress,
    node: PathBuf,
    point: PathBuf,
    uses: usize,
}

/// A volume as a container's file tree is built with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where it lies in the guest.
    pub(crate) path: PathBuf,
    /// What of it is meant; empty for all.
    pub(crate) subpath: String,
    /// See [`Volume::populate`].
    pub(crate) populate: bool,
}

/// The volumes of one container.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// In the order of [`hyper_protocol::agent::Container::volumes`].
    pub(crate) places: Vec<Place>,
    shared: Vec<PathBuf>,
    disks: Vec<DiskAddress>,
}

impl Volumes {
    /// Nothing is mounted yet; `directory` is for mount points.
    pub(crate) fn new(directory: PathBuf) -> Volumes {
        Volumes { directory, share: Cell::new(false), shared: RefCell::default(), disks: RefCell::default() }
    }

    /// Makes volumes available to a container.
    pub(crate) async fn hold(&self, finder: &dyn Disks, volumes: &[Volume]) -> Result<Held, Failed> {
        if volumes.len() > MAX_VOLUMES {
            return Err(Failed::invalid(format!("a container has at most {MAX_VOLUMES} volumes")));
        }
        let mut held = Held::default();
        for volume in volumes {
            if let Err(failed) = self.hold_one(finder, volume, &mut held).await {
                self.release(held).await;
                return Err(failed);
            }
        }
        Ok(held)
    }

    async fn hold_one(&self, finder: &dyn Disks, volume: &Volume, held: &mut Held) -> Result<(), Failed> {
        let path = match &volume.source {
            VolumeSource::Share(name) => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric();
                if name.is_empty() || !name.bytes().all(plain) {
                    return Err(Failed::invalid(format!("{name:?} is no name of a share")));
                }
                let path = self.share()?.join(name);
                // Walking over it mounts it, here, so that all containers have the same: one lock, one cache.
                let _ = fs::metadata(path.join("."));
                *self.shared.borrow_mut().entry(path.clone()).or_default() += 1;
                held.shared.push(path.clone());
                path
            }
            VolumeSource::Ext4(address) => {
                let point = self.disk(finder, address).await?;
                held.disks.push(address.clone());
                point.join(DATA)
            }
        };
        held.places.push(Place { path, subpath: volume.subpath.clone(), populate: volume.populate });
        Ok(())
    }

    /// Where the shared files are.
    fn share(&self) -> Result<PathBuf, Failed> {
        let point = self.directory.join("share");
        if !self.share.get() {
            let start = steps::now();
            make_directory(&point).attempt(|| format!("make the mount point {}", point.display()))?;
            mount(SHARE_TAG, &point, "virtiofs", MountFlags::empty(), None)
                .attempt(|| "mount the files that the host shares".to_owned())?;
            self.share.set(true);
            steps::since("mount share", start);
        }
        Ok(point)
    }

    /// Where a disk is mounted; mounts it for its first user.
    async fn disk(&self, finder: &dyn Disks, address: &DiskAddress) -> Result<PathBuf, Failed> {
        if let Some(disk) = self.disks.borrow_mut().iter_mut().find(|disk| disk.address == *address) {
            disk.uses += 1;
            return Ok(disk.point.clone());
        }
        let start = steps::now();
        let node = disks::wait(finder, address).await?;
        let name = node.file_name().unwrap_or_default().to_owned();
        let point = self.directory.join("disk").join(name);
        make_directory(&point).attempt(|| format!("make the mount point {}", point.display()))?;
        // Blocks of removed files go back to the host.
        let options = Some(c"discard");
        mount(&node, &point, "ext4", MountFlags::empty(), options)
            .attempt(|| format!("mount ext4 of the volume's disk {address:?}"))?;
        // Another call may have come here meanwhile, for the same disk.
        let mut disks = self.disks.borrow_mut();
        if let Some(disk) = disks.iter_mut().find(|disk| disk.address == *address) {
            disk.uses += 1;
            let _ = unmount(&point, UnmountFlags::DETACH);
            return Ok(disk.point.clone());
        }
        let made = match fs::create_dir(point.join(DATA)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        if let Err(error) = made {
            let _ = unmount(&point, UnmountFlags::DETACH);
            return Err(error).attempt(|| "make the volume's directory on its disk".to_owned());
        }
        disks.push(Disk { address: address.clone(), node, point: point.clone(), uses: 1 });
        steps::since("mount volume", start);
        Ok(point)
    }

    /// Ends a container's use of its volumes; waits until disks that nobody uses any more can be unplugged.
    pub(crate) async fn release(&self, held: Held) {
        for path in held.shared {
            let mut shared = self.shared.borrow_mut();
            let uses = shared.entry(path.clone()).or_default();
            *uses = uses.saturating_sub(1);
            if *uses == 0 {
                shared.remove(&path);
                // A file is no mount.
                let _ = unmount(&path, UnmountFlags::DETACH);
            }
        }
        let mut unused = Vec::new();
        for address in held.disks {
            let mut disks = self.disks.borrow_mut();
            let Some(index) = disks.iter().position(|disk| disk.address == address) else { continue };
            disks[index].uses -= 1;
            if disks[index].uses == 0 {
                unused.push(disks.swap_remove(index));
            }
        }
        for disk in unused {
            if let Err(error) = unmount(&disk.point, UnmountFlags::DETACH) {
                crate::console::say(format_args!("cannot unmount {}: {error}", disk.point.display()));
            }
            let used = Path::new("/sys/fs/ext4").join(disk.node.file_name().unwrap_or_default());
            until(LET_GO, || !used.exists()).await;
        }
    }
}
