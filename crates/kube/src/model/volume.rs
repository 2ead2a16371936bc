//! Volumes and where they are mounted.

use super::{ALPHA, DownwardAPIVolumeFile, LATER, PullPolicy, WALL};
use crate::read::choice;
use crate::table::{Harmless, table};
use crate::value::Quantity;

/// Why disks of clouds are refused.
const CLOUD: &str = "storage of a cloud or a cluster; there is none";

table! {
    /// What containers can mount: one of the sources, an empty directory if there is none.
    Volume {
        /// Its name in the pod.
        "name" name: String;
        /// Files made of a ConfigMap.
        "configMap" config_map: Option<ConfigMapVolumeSource>;
        /// Files about the pod.
        "downwardAPI" downward_api: Option<DownwardAPIVolumeSource>;
        /// A directory that goes with the pod.
        "emptyDir" empty_dir: Option<EmptyDirVolumeSource>;
        /// A file or directory of the host.
        "hostPath" host_path: Option<HostPathVolumeSource>;
        /// The files of an image, read-only.
        "image" image: Option<ImageVolumeSource>;
        /// A directory of a server, mounted by the guest.
        "nfs" nfs: Option<NFSVolumeSource>;
        /// What a claim stands for.
        "persistentVolumeClaim" persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>;
        /// Files from several of these.
        "projected" projected: Option<ProjectedVolumeSource>;
        /// Files made of a Secret.
        "secret" secret: Option<SecretVolumeSource>;
    }
    refused {
        "awsElasticBlockStore" => CLOUD;
        "azureDisk" => CLOUD;
        "azureFile" => CLOUD;
        "cephfs" => CLOUD;
        "cinder" => CLOUD;
        "csi" => "there are no CSI drivers";
        "ephemeral" => LATER;
        "fc" => LATER;
        "flexVolume" => "there are no FlexVolume drivers";
        "flocker" => CLOUD;
        "gcePersistentDisk" => CLOUD;
        "gitRepo" => "gone from Kubernetes: an init container clones into an emptyDir";
        "glusterfs" => CLOUD;
        "iscsi" => LATER;
        "photonPersistentDisk" => CLOUD;
        "portworxVolume" => CLOUD;
        "quobyte" => CLOUD;
        "rbd" => CLOUD;
        "scaleIO" => CLOUD;
        "storageos" => CLOUD;
        "vsphereVolume" => CLOUD;
    }
}

table! {
    /// Files made of a ConfigMap.
    ConfigMapVolumeSource {
        /// The mode of the files.
        "defaultMode" default_mode: i32 = 0o644;
        /// Which keys, and the files they become; all if there are none.
        "items" items: Vec<KeyToPath>;
        /// The ConfigMap.
        "name" name: String;
        /// Whether it may be missing.
        "optional" optional: bool = false;
    }
    refused {
        "defaultUser" => ALPHA;
    }
}

table! {
    /// Files made of a Secret.
    SecretVolumeSource {
        /// The mode of the files.
        "defaultMode" default_mode: i32 = 0o644;
        /// Which keys, and the files they become; all if there are none.
        "items" items: Vec<KeyToPath>;
        /// Whether it may be missing.
        "optional" optional: bool = false;
        /// The Secret.
        "secretName" secret_name: String;
    }
    refused {
        "defaultUser" => ALPHA;
    }
}

table! {
    /// A key and the file it becomes.
    KeyToPath {
        /// The key.
        "key" key: String;
        /// The file's mode; else the volume's.
        "mode" mode: Option<i32>;
        /// The file, relative to the volume.
        "path" path: String;
    }
    refused {
        "user" => ALPHA;
    }
}

table! {
    /// Files about the pod.
    DownwardAPIVolumeSource {
        /// The mode of the files.
        "defaultMode" default_mode: i32 = 0o644;
        /// The files.
        "items" items: Vec<DownwardAPIVolumeFile>;
    }
    refused {
        "defaultUser" => ALPHA;
    }
}

table! {
    /// A directory that goes with the pod.
    EmptyDirVolumeSource {
        /// What it is made of; else a disk.
        "medium" medium: Option<StorageMedium>;
        /// The most that it holds.
        "sizeLimit" size_limit: Option<Quantity>;
    }
    refused {
        "mode" => ALPHA;
    }
}

choice! {
    /// What an empty directory is made of.
    StorageMedium {
        /// Memory of the VM.
        Memory = "Memory",
    }
    refused {
        "HugePages" => "the guest has no huge pages";
        "HugePages-2Mi" => "the guest has no huge pages";
        "HugePages-1Gi" => "the guest has no huge pages";
    }
}

table! {
    /// A file or directory of the host.
    HostPathVolumeSource {
        /// Where it is.
        "path" path: String;
        /// What it has to be, and whether it is made; anything goes without it.
        "type" must_be: Option<HostPathType>;
    }
}

choice! {
    /// What a path of the host has to be.
    HostPathType {
        /// A directory, made if there is none.
        DirectoryOrCreate = "DirectoryOrCreate",
        /// A directory.
        Directory = "Directory",
        /// A file, made if there is none.
        FileOrCreate = "FileOrCreate",
        /// A file.
        File = "File",
        /// A Unix socket.
        Socket = "Socket",
        /// A character device.
        CharDevice = "CharDevice",
        /// A block device.
        BlockDevice = "BlockDevice",
    }
}

table! {
    /// The files of an image.
    ImageVolumeSource {
        /// When it is pulled; as for a container's image.
        "pullPolicy" pull_policy: Option<PullPolicy>;
        /// The image.
        "reference" reference: String;
    }
}

table! {
    /// A directory of an NFS server.
    NFSVolumeSource {
        /// The directory.
        "path" path: String;
        /// Whether nothing can be written.
        "readOnly" read_only: bool = false;
        /// The server.
        "server" server: String;
    }
}

table! {
    /// What a claim stands for.
    PersistentVolumeClaimVolumeSource {
        /// The claim.
        "claimName" claim_name: String;
        /// Whether nothing can be written.
        "readOnly" read_only: bool = false;
    }
}

table! {
    /// Files from several sources in one directory.
    ProjectedVolumeSource {
        /// The mode of the files.
        "defaultMode" default_mode: i32 = 0o644;
        /// The sources.
        "sources" sources: Vec<VolumeProjection>;
    }
    refused {
        "defaultUser" => ALPHA;
    }
}

table! {
    /// One of the sources of a projected volume.
    VolumeProjection {
        /// Files made of a ConfigMap.
        "configMap" config_map: Option<ConfigMapProjection>;
        /// Files about the pod.
        "downwardAPI" downward_api: Option<DownwardAPIProjection>;
        /// Files made of a Secret.
        "secret" secret: Option<SecretProjection>;
    }
    refused {
        "clusterTrustBundle" => "there is no cluster whose certificates these are";
        "podCertificate" => "there is no cluster that would sign one";
        "serviceAccountToken" => "there is no API server that a token could be for";
    }
}

table! {
    /// Files made of a ConfigMap, in a projected volume.
    ConfigMapProjection {
        /// Which keys, and the files they become; all if there are none.
        "items" items: Vec<KeyToPath>;
        /// The ConfigMap.
        "name" name: String;
        /// Whether it may be missing.
        "optional" optional: bool = false;
    }
}

table! {
    /// Files made of a Secret, in a projected volume.
    SecretProjection {
        /// Which keys, and the files they become; all if there are none.
        "items" items: Vec<KeyToPath>;
        /// The Secret.
        "name" name: String;
        /// Whether it may be missing.
        "optional" optional: bool = false;
    }
}

table! {
    /// Files about the pod, in a projected volume.
    DownwardAPIProjection {
        /// The files.
        "items" items: Vec<DownwardAPIVolumeFile>;
    }
}

table! {
    /// A volume in a container.
    VolumeMount {
        /// Where it is mounted.
        "mountPath" mount_path: String;
        /// Whether mounts in it are seen by others.
        "mountPropagation" mount_propagation: Option<MountPropagationMode>;
        /// The volume.
        "name" name: String;
        /// Whether nothing can be written.
        "readOnly" read_only: bool = false;
        /// Whether that holds for mounts below it.
        "recursiveReadOnly" recursive_read_only: Option<RecursiveReadOnlyMode>;
        /// What of the volume is mounted; else all.
        "subPath" sub_path: Option<String>;
        /// The same, with `$(VAR)`.
        "subPathExpr" sub_path_expr: Option<String>;
    }
    refused {
        "bindMountOptions" => ALPHA, unless Harmless::Empty;
    }
}

choice! {
    /// Whether mounts in a volume are seen by others.
    MountPropagationMode {
        /// They are not.
        None = "None",
    }
    refused {
        "HostToContainer" => WALL;
        "Bidirectional" => WALL;
    }
}

choice! {
    /// Whether mounts below a read-only one are read-only.
    RecursiveReadOnlyMode {
        /// They need not be.
        Disabled = "Disabled",
        /// They are where it is possible.
        IfPossible = "IfPossible",
        /// They are, or the container does not start.
        Enabled = "Enabled",
    }
}

table! {
    /// A volume as a block device.
    VolumeDevice {
        /// Where the device is.
        "devicePath" device_path: String;
        /// The volume, a claim of mode `Block`.
        "name" name: String;
    }
}

/// What a volume is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "each is told of at its type")]
pub enum VolumeSource<'a> {
    ConfigMap(&'a ConfigMapVolumeSource),
    DownwardApi(&'a DownwardAPIVolumeSource),
    EmptyDir(&'a EmptyDirVolumeSource),
    HostPath(&'a HostPathVolumeSource),
    Image(&'a ImageVolumeSource),
    Nfs(&'a NFSVolumeSource),
    Claim(&'a PersistentVolumeClaimVolumeSource),
    Projected(&'a ProjectedVolumeSource),
    Secret(&'a SecretVolumeSource),
}

impl Volume {
    /// What it is made of, with the name of the field: one, once it is loaded.
    #[must_use]
    pub fn sources(&self) -> Vec<(&'static str, VolumeSource<'_>)> {
        use VolumeSource as S;
        let all = [
            self.config_map.as_ref().map(|source| ("configMap", S::ConfigMap(source))),
            self.downward_api.as_ref().map(|source| ("downwardAPI", S::DownwardApi(source))),
            self.empty_dir.as_ref().map(|source| ("emptyDir", S::EmptyDir(source))),
            self.host_path.as_ref().map(|source| ("hostPath", S::HostPath(source))),
            self.image.as_ref().map(|source| ("image", S::Image(source))),
            self.nfs.as_ref().map(|source| ("nfs", S::Nfs(source))),
            self.persistent_volume_claim.as_ref().map(|source| ("persistentVolumeClaim", S::Claim(source))),
            self.projected.as_ref().map(|source| ("projected", S::Projected(source))),
            self.secret.as_ref().map(|source| ("secret", S::Secret(source))),
        ];
        all.into_iter().flatten().collect()
    }

    /// What it is made of.
    #[must_use]
    pub fn source(&self) -> Option<VolumeSource<'_>> {
        self.sources().into_iter().next().map(|(_, source)| source)
    }
}
