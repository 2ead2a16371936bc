//! ConfigMaps, Secrets and claims: what pods refer to.

use std::collections::BTreeMap;

use super::workload::objects;
use super::{LATER, ObjectMeta, SERVER};
use crate::read::{Anything, Bytes, choice};
use crate::table::{Harmless, table};
use crate::value::Quantity;

table! {
    /// Settings.
    ConfigMap {
        /// `v1`.
        "apiVersion" api_version: Option<String>;
        /// `ConfigMap`.
        "kind" kind: Option<String>;
        /// Its name and labels.
        "metadata" metadata: ObjectMeta;
        /// Bytes.
        "binaryData" binary_data: BTreeMap<String, Bytes>;
        /// Texts.
        "data" data: BTreeMap<String, String>;
        /// Whether it stays as it is.
        "immutable" immutable: bool = false;
    }
}

table! {
    /// Settings that are not for everybody.
    Secret {
        /// `v1`.
        "apiVersion" api_version: Option<String>;
        /// `Secret`.
        "kind" kind: Option<String>;
        /// Its name and labels.
        "metadata" metadata: ObjectMeta;
        /// Bytes; what `stringData` has is among them once the file is loaded.
        "data" data: BTreeMap<String, Bytes>;
        /// Whether it stays as it is.
        "immutable" immutable: bool = false;
        /// Texts that become bytes; none once the file is loaded.
        "stringData" string_data: BTreeMap<String, String>;
        /// What it is for.
        "type" purpose: String = String::from("Opaque");
    }
}

objects! {
    /// Storage that outlives pods.
    PersistentVolumeClaim: PersistentVolumeClaimSpec;
}

table! {
    /// What storage is claimed.
    PersistentVolumeClaimSpec {
        /// Who uses it at the same time.
        "accessModes" access_modes: Vec<PersistentVolumeAccessMode>;
        /// How much of it.
        "resources" resources: Option<VolumeResourceRequirements>;
        /// What kind of it.
        "storageClassName" storage_class_name: Option<String>;
        /// Whether it has a filesystem.
        "volumeMode" volume_mode: PersistentVolumeMode = PersistentVolumeMode::Filesystem;
    }
    refused {
        "dataSource" => LATER;
        "dataSourceRef" => LATER;
        "selector" => "there are no PersistentVolumes to choose from: a claim makes its own", unless Harmless::Empty;
        "volumeAttributesClassName" => "there are no classes of attributes";
        "volumeName" => "there are no PersistentVolumes to choose from: a claim makes its own";
    }
}

choice! {
    /// Who uses storage at the same time.
    PersistentVolumeAccessMode {
        /// One node.
        ReadWriteOnce = "ReadWriteOnce",
        /// Many, none of which writes.
        ReadOnlyMany = "ReadOnlyMany",
        /// Many.
        ReadWriteMany = "ReadWriteMany",
        /// One pod.
        ReadWriteOncePod = "ReadWriteOncePod",
    }
}

choice! {
    /// Whether storage has a filesystem.
    PersistentVolumeMode {
        /// It has.
        Filesystem = "Filesystem",
        /// It is a block device.
        Block = "Block",
    }
}

table! {
    /// How much storage.
    VolumeResourceRequirements {
        /// At most.
        "limits" limits: BTreeMap<String, Quantity>;
        /// At least.
        "requests" requests: BTreeMap<String, Quantity>;
    }
}
