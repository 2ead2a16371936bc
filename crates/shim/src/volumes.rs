//! What a container has beside its root filesystem: files of the host and disks of its pod.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hyper_protocol::agent;
use hyper_protocol::shim::{Volume, VolumeSource};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::disks::{self, Plugged};
use crate::error::ShimError;
use crate::pod::Machine;
use crate::share::{Shared, Source};

/// How long a pod may take to end that has a volume's disk: longer than a guest is given to write everything out.
const ENDING: Duration = Duration::from_secs(15);
/// How often it is looked whether it has.
const AGAIN: Duration = Duration::from_millis(20);
/// Most volumes of a container.
const VOLUMES_MAX: usize = 256;

/// Volumes, open.
#[derive(Debug)]
pub struct Volumes(Vec<(Volume, Opened)>);

#[derive(Debug)]
enum Opened {
    Share(Source),
    /// Its image is with the other disks.
    Disk,
    /// The guest's business alone.
    Nfs(agent::Nfs),
}

/// Volumes that the guest has.
#[derive(Debug, Default)]
pub struct Placed {
    /// As the agent is told.
    pub volumes: Vec<agent::Volume>,
    shared: Vec<Shared>,
}

impl Volumes {
    /// Opens volumes; the images of those that are disks are for plugging.
    ///
    /// # Errors
    /// One does not exist, is nothing that a guest can be given, or is another VM's.
    pub fn open(volumes: &[Volume]) -> Result<(Self, Vec<OwnedFd>), ShimError> {
        if volumes.len() > VOLUMES_MAX {
            return Err(ShimError::Invalid(format!("a container has at most {VOLUMES_MAX} volumes")));
        }
        let (mut all, mut images) = (Vec::with_capacity(volumes.len()), Vec::new());
        for volume in volumes {
            let opened = match &volume.source {
                VolumeSource::Host { path, read_only } => {
                    Opened::Share(Source::open(path, &volume.subpath, *read_only)?)
                }
                VolumeSource::Disk(path) => {
                    let image = disks::open(&path.display().to_string(), true)?;
                    images.push(image);
                    Opened::Disk
                }
                VolumeSource::Nfs(nfs) => Opened::Nfs(nfs.clone()),
            };
            all.push((volume.clone(), opened));
        }
        Ok((Self(all), images))
    }

    /// Gives them to the guest of a VM, into which their disks have been plugged.
    ///
    /// # Errors
    /// The guest has none of them then.
    pub async fn place(self, machine: &Machine, plugged: &Plugged) -> Result<Placed, ShimError> {
        let mut placed = Placed::default();
        let mut disks = plugged.volumes().into_iter();
        for (Volume { subpath, populate, .. }, opened) in self.0 {
            let put = match opened {
                Opened::Share(source) => share(machine, source).await.map(|shared| {
                    let name = shared.name.clone();
                    placed.shared.push(shared);
                    (agent::VolumeSource::Share(name), String::new())
                }),
                Opened::Disk => {
                    let address = disks.next().expect("every volume on a disk has had its image plugged");
                    Ok((agent::VolumeSource::Ext4(address), subpath))
                }
                Opened::Nfs(nfs) => Ok((agent::VolumeSource::Nfs(nfs), subpath)),
            };
            match put {
                Ok((source, subpath)) => {
                    placed.volumes.push(agent::Volume { source, subpath, populate });
                }
                Err(error) => {
                    placed.remove(machine).await;
                    return Err(error);
                }
            }
        }
        Ok(placed)
    }
}

impl Placed {
    /// Takes files of the host away from the guest; disks are unplugged with the others.
    pub async fn remove(&self, machine: &Machine) {
        if let Some(shares) = &machine.shares {
            shares.remove(&self.shared).await;
        }
    }
}

async fn share(machine: &Machine, source: Source) -> Result<Shared, ShimError> {
    let shares = machine.shares.as_ref().ok_or_else(|| {
        ShimError::Unsupported(
            "the pod's VM runs without shared directories, and cannot be given any while it runs\n\
             hint: start the container with the volumes first, or stop the pod's containers"
                .into(),
        )
    })?;
    shares.add(source).await
}

/// Takes an image for this pod as long as it is open, here or in the VMM. Waits for a pod that is just ending.
///
/// # Errors
/// Another has it.
pub async fn claim(image: &OwnedFd) -> Result<(), ShimError> {
    let begun = Instant::now();
    loop {
        match flock(image, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < ENDING => tokio::time::sleep(AGAIN).await,
            Err(Errno::WOULDBLOCK) => {
                let words = "a volume of the driver disk is in use by another pod";
                return Err(ShimError::WrongState(words.into()));
            }
            Err(error) => return Err(ShimError::failed("cannot take a volume's disk", &error)),
        }
    }
}
