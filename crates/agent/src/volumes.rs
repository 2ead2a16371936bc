//! What containers have beside their root filesystems: files that the host shares, and disks of volumes.
//!
//! The shared files are one filesystem, mounted when the first container wants something of it, and from then on. A
//! volume's disk is mounted once, however many containers use it, and goes with the last of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_protocol::agent::{DiskAddress, Nfs, SHARE_TAG, Volume, VolumeSource};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::container::root::make_directory;
use crate::deadline::until;
use crate::disks::{self, Disks};
use crate::failure::{Attempt, Failed};
use crate::rootfs::LET_GO;
use crate::steps;

/// Most volumes of a container.
const MAX_VOLUMES: usize = 256;

/// How long a server may take to answer: less than the shim waits for the agent.
const SERVER_PATIENCE: Duration = Duration::from_secs(30);

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
    remote: RefCell<Vec<Remote>>,
}

/// What a server has.
#[derive(Debug)]
struct Remote {
    nfs: Nfs,
    point: PathBuf,
    uses: usize,
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
    remote: Vec<Nfs>,
}

impl Volumes {
    /// Nothing is mounted yet; `directory` is for mount points.
    pub(crate) fn new(directory: PathBuf) -> Volumes {
        Volumes {
            directory,
            share: Cell::new(false),
            shared: RefCell::default(),
            disks: RefCell::default(),
            remote: RefCell::default(),
        }
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
            VolumeSource::Nfs(nfs) => {
                let point = self.remote(nfs).await?;
                held.remote.push(nfs.clone());
                point
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

    /// Where the files of a server are mounted; mounts them for their first user.
    async fn remote(&self, nfs: &Nfs) -> Result<PathBuf, Failed> {
        let found = |remote: &mut Remote| {
            remote.uses += 1;
            remote.point.clone()
        };
        if let Some(point) = self.remote.borrow_mut().iter_mut().find(|remote| remote.nfs == *nfs).map(found)
        {
            return Ok(point);
        }
        let start = steps::now();
        if !["nfs", "nfs4"].contains(&nfs.kind.as_str()) {
            return Err(Failed::invalid(format!("{:?} is no filesystem of servers", nfs.kind)));
        }
        let (flags, data) = mount_options(&nfs.options);
        let data = CString::new(data).map_err(|_| Failed::invalid("an option of NFS has a NUL"))?;
        let point = self.directory.join("nfs").join(start.to_string());
        make_directory(&point).attempt(|| format!("make the mount point {}", point.display()))?;
        let Nfs { kind, device, .. } = nfs.clone();
        let place = point.clone();
        let mounted = in_time(move || {
            let mounted = mount(device, &place, kind, flags, Some(data.as_c_str()));
            let undo = move || {
                let _ = unmount(&place, UnmountFlags::DETACH);
            };
            (mounted, Box::new(undo) as Undo)
        });
        mounted.await.attempt(|| format!("mount {} of {}", nfs.device, nfs.options))?;
        // Another call may have come here meanwhile, for the same files.
        let mut remotes = self.remote.borrow_mut();
        if let Some(other) = remotes.iter_mut().find(|remote| remote.nfs == *nfs).map(found) {
            let _ = unmount(&point, UnmountFlags::DETACH);
            return Ok(other);
        }
        remotes.push(Remote { nfs: nfs.clone(), point: point.clone(), uses: 1 });
        steps::since("mount NFS", start);
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
        for nfs in held.remote {
            let unused = {
                let mut remotes = self.remote.borrow_mut();
                let Some(index) = remotes.iter().position(|remote| remote.nfs == nfs) else { continue };
                remotes[index].uses -= 1;
                (remotes[index].uses == 0).then(|| remotes.swap_remove(index))
            };
            if let Some(Remote { point, .. }) = unused {
                // What was written goes to the server now.
                let unmounted =
                    in_time(move || (unmount(&point, UnmountFlags::DETACH), Box::new(|| ()) as Undo));
                if let Err(error) = unmounted.await {
                    crate::console::say(format_args!("cannot unmount {}: {error}", nfs.device));
                }
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

/// What is done when something comes too late.
type Undo = Box<dyn FnOnce() + Send>;

/// Does something that waits for a server, beside all else, for as long as [`SERVER_PATIENCE`]. What succeeds after that
/// is undone.
async fn in_time(
    work: impl FnOnce() -> (rustix::io::Result<()>, Undo) + Send + 'static,
) -> std::io::Result<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("server".to_owned()).spawn(move || {
        let (result, undo) = work();
        let done = result.is_ok();
        if sender.send(result).is_err() && done {
            undo();
        }
    })?;
    match tokio::time::timeout(SERVER_PATIENCE, receiver).await {
        Ok(Ok(result)) => result.map_err(Into::into),
        Ok(Err(_)) => Err(std::io::Error::other("the thread for it ended")),
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

/// Takes the options that all filesystems have out of those of one.
fn mount_options(options: &str) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut rest = Vec::new();
    for word in options.split(',').filter(|word| !word.is_empty()) {
        let (flag, on) = match word {
            "defaults" => continue,
            "ro" => (MountFlags::RDONLY, true),
            "rw" => (MountFlags::RDONLY, false),
            "nosuid" => (MountFlags::NOSUID, true),
            "suid" => (MountFlags::NOSUID, false),
            "nodev" => (MountFlags::NODEV, true),
            "dev" => (MountFlags::NODEV, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "exec" => (MountFlags::NOEXEC, false),
            "sync" => (MountFlags::SYNCHRONOUS, true),
            "async" => (MountFlags::SYNCHRONOUS, false),
            "noatime" => (MountFlags::NOATIME, true),
            "atime" => (MountFlags::NOATIME, false),
            "nodiratime" => (MountFlags::NODIRATIME, true),
            "diratime" => (MountFlags::NODIRATIME, false),
            "relatime" => (MountFlags::RELATIME, true),
            "strictatime" => (MountFlags::STRICTATIME, true),
            other => {
                rest.push(other);
                continue;
            }
        };
        flags.set(flag, on);
    }
    (flags, rest.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_all_filesystems_are_told_from_those_of_one() {
        let (flags, rest) = mount_options("addr=10.0.0.1,ro,nfsvers=4.1,,noatime,rw,soft");
        assert_eq!((flags, rest.as_str()), (MountFlags::NOATIME, "addr=10.0.0.1,nfsvers=4.1,soft"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_server_does_not_answer_in_time_is_given_up_and_undone() {
        let (undone, was_undone) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let late = in_time(move || {
            let _ = wait.recv();
            (Ok(()), Box::new(move || undone.send(()).unwrap()) as Undo)
        });
        assert_eq!(late.await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        go.send(()).unwrap();
        was_undone.recv().unwrap();
    }
}
