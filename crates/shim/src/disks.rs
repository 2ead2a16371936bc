//! The disks of a pod: the same image is plugged once, however many containers use it, except for writable layers.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use futures::future::join_all;
use hyper_protocol::agent;
use hyper_vm::{DiskAddress, DiskConfig, Vm, VmError};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::Mutex;

use crate::error::ShimError;
use crate::volumes;

/// Most read-only layers of a container (overlayfs's own bound).
pub const LAYERS_MAX: usize = 500;

/// Most files of a layer: the filesystem, and what it has of other layers' contents.
pub const FILES_MAX: usize = LAYERS_MAX + 1;

/// Device and inode of each file of an image.
type Image = Vec<(u64, u64)>;

/// A read-only image, open: its file, and further ones that follow it on its disk.
#[derive(Debug)]
pub struct Layer(Vec<OwnedFd>);

/// Disks of images and volumes that are plugged, with their users.
#[derive(Debug, Default)]
pub struct Disks(Mutex<HashMap<Image, Shared>>);

#[derive(Debug)]
struct Shared {
    address: DiskAddress,
    uses: usize,
}

/// The root filesystem of a container, open.
#[derive(Debug)]
pub struct Images {
    /// Layers, bottom first.
    pub layers: Vec<Layer>,
    /// Image of the writable layer, where that is no memory.
    pub writable: Option<OwnedFd>,
    /// Images of volumes.
    pub volumes: Vec<OwnedFd>,
    /// Block devices of the host, and whether each is only to be read.
    pub devices: Vec<(OwnedFd, bool)>,
}

/// The root filesystem of a container, plugged.
#[derive(Debug, Default)]
pub struct Plugged {
    layers: Vec<(Image, DiskAddress)>,
    writable: Option<DiskAddress>,
    volumes: Vec<(Image, DiskAddress)>,
    devices: Vec<(Image, DiskAddress)>,
}

impl Plugged {
    /// Addresses of the layers, bottom first, as the agent is told.
    pub fn layers(&self) -> Vec<agent::DiskAddress> {
        self.layers.iter().map(|(_, address)| to_agent(*address)).collect()
    }

    /// Address of the writable layer.
    pub fn writable(&self) -> Option<agent::DiskAddress> {
        self.writable.map(to_agent)
    }

    /// Addresses of the volumes, in the order of their images.
    pub fn volumes(&self) -> Vec<agent::DiskAddress> {
        self.volumes.iter().map(|(_, address)| to_agent(*address)).collect()
    }

    /// Addresses of the devices, in their order.
    pub fn devices(&self) -> Vec<agent::DiskAddress> {
        self.devices.iter().map(|(_, address)| to_agent(*address)).collect()
    }
}

impl Disks {
    /// Plugs what is not plugged yet, all at once.
    ///
    /// # Errors
    /// Nothing is plugged then.
    pub async fn plug(&self, vm: &dyn Vm, images: Images) -> Result<Plugged, ShimError> {
        let mut shared = self.0.lock().await;
        let mut keys = Vec::with_capacity(images.layers.len());
        let mut new: Vec<Image> = Vec::new();
        let mut disks = Vec::new();
        let (layers, volumes) = (images.layers.len(), images.volumes.len());
        let wanted = images.layers.into_iter().map(|layer| (layer.0, true));
        let wanted = wanted.chain(images.volumes.into_iter().map(|image| (vec![image], false)));
        let wanted =
            wanted.chain(images.devices.into_iter().map(|(node, read_only)| (vec![node], read_only)));
        for (files, read_only) in wanted {
            let key = files.iter().map(identify).collect::<Result<Image, _>>()?;
            keys.push(key.clone());
            if !shared.contains_key(&key) && !new.contains(&key) {
                new.push(key);
                let mut files = files.into_iter();
                let image = files.next().expect("a layer has a file");
                if !read_only {
                    volumes::claim(&image).await?;
                }
                disks.push(DiskConfig { image, more: files.collect(), read_only });
            }
        }
        let has_writable = images.writable.is_some();
        disks.extend(images.writable.map(|image| DiskConfig::new(image, false)));
        let mut addresses = if disks.is_empty() { Vec::new() } else { vm.plug_disks(disks).await? };
        let writable = if has_writable { addresses.pop() } else { None };
        for (key, address) in new.into_iter().zip(addresses) {
            shared.insert(key, Shared { address, uses: 0 });
        }
        let used = keys.into_iter().map(|key| {
            let disk = shared.get_mut(&key).expect("every key was there or was added just now");
            disk.uses += 1;
            (key, disk.address)
        });
        let mut layers_first: Vec<_> = used.collect();
        let mut volumes_first = layers_first.split_off(layers);
        let devices = volumes_first.split_off(volumes);
        Ok(Plugged { layers: layers_first, writable, volumes: volumes_first, devices })
    }

    /// Unplugs what nobody uses any more. What cannot be unplugged stays; the guest has let go of it already.
    pub async fn unplug(&self, vm: &dyn Vm, plugged: &Plugged) {
        let mut shared = self.0.lock().await;
        let mut unused: Vec<DiskAddress> = plugged.writable.into_iter().collect();
        for (key, address) in plugged.layers.iter().chain(&plugged.volumes).chain(&plugged.devices) {
            let Some(disk) = shared.get_mut(key) else { continue };
            disk.uses -= 1;
            if disk.uses == 0 {
                shared.remove(key);
                unused.push(*address);
            }
        }
        // All at once: each waits for the guest to let go.
        let removed = unused.into_iter().map(async |address| (address, vm.unplug_disk(address).await));
        for (address, result) in join_all(removed).await {
            match result {
                Ok(()) | Err(VmError::Gone(_)) => {}
                Err(error) => tracing::warn!(?address, %error, "a disk stays plugged"),
            }
        }
    }
}

/// Opens an image without waiting for whatever else may be at `path`.
///
/// # Errors
/// When it cannot be opened.
pub fn open(path: &str, writable: bool) -> Result<OwnedFd, ShimError> {
    let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
    rustix::fs::open(path, access | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
        .map_err(|error| ShimError::failed(&format!("cannot open disk image {path}"), &error))
}

/// Opens an image to be written past the host's page cache, where its filesystem is able: the guest has what it uses
/// of it in memory already.
///
/// # Errors
/// When it cannot be opened.
pub fn open_direct(path: &str) -> Result<OwnedFd, ShimError> {
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NONBLOCK;
    // What a filesystem that is not able says (open(2)).
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::INVAL) => open(path, true),
        opened => {
            opened.map_err(|error| ShimError::failed(&format!("cannot open disk image {path}"), &error))
        }
    }
}

/// Opens a layer: its image, and the files that follow it.
///
/// # Errors
/// When one cannot be opened.
pub fn open_layer(image: &str, devices: &[&str]) -> Result<Layer, ShimError> {
    let paths = std::iter::once(&image).chain(devices);
    paths.map(|path| open(path, false)).collect::<Result<_, _>>().map(Layer)
}

fn identify(image: &OwnedFd) -> Result<(u64, u64), ShimError> {
    let stat =
        rustix::fs::fstat(image).map_err(|error| ShimError::failed("cannot look at a disk image", &error))?;
    Ok((stat.st_dev, stat.st_ino))
}

fn to_agent(address: DiskAddress) -> agent::DiskAddress {
    match address {
        DiskAddress::Scsi { target, lun } => agent::DiskAddress::Scsi { target, lun },
    }
}
