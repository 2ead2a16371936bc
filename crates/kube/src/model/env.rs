//! The environment of containers.

use super::ALPHA;
use crate::table::table;
use crate::value::Quantity;

table! {
    /// An environment variable.
    EnvVar {
        /// Its name.
        "name" name: String;
        /// Its value; `$(VAR)` is replaced by what was set before it.
        "value" value: String = String::new();
        /// Where its value comes from instead.
        "valueFrom" value_from: Option<EnvVarSource>;
    }
}

table! {
    /// Where the value of a variable comes from: one of these.
    EnvVarSource {
        /// A key of a ConfigMap.
        "configMapKeyRef" config_map_key_ref: Option<ConfigMapKeySelector>;
        /// A field of the pod.
        "fieldRef" field_ref: Option<ObjectFieldSelector>;
        /// A resource of the container.
        "resourceFieldRef" resource_field_ref: Option<ResourceFieldSelector>;
        /// A key of a Secret.
        "secretKeyRef" secret_key_ref: Option<SecretKeySelector>;
    }
    refused {
        "fileKeyRef" => ALPHA;
    }
}

table! {
    /// A key of a ConfigMap.
    ConfigMapKeySelector {
        /// The ConfigMap.
        "name" name: String;
        /// The key.
        "key" key: String;
        /// Whether it may be missing.
        "optional" optional: bool = false;
    }
}

table! {
    /// A key of a Secret.
    SecretKeySelector {
        /// The Secret.
        "name" name: String;
        /// The key.
        "key" key: String;
        /// Whether it may be missing.
        "optional" optional: bool = false;
    }
}

table! {
    /// A field of the pod.
    ObjectFieldSelector {
        /// The version of the pod's format.
        "apiVersion" api_version: String = String::from("v1");
        /// The field, like `metadata.name`.
        "fieldPath" field_path: String;
    }
}

table! {
    /// A resource of a container.
    ResourceFieldSelector {
        /// The container; in an environment its own.
        "containerName" container_name: Option<String>;
        /// What it is counted in.
        "divisor" divisor: Option<Quantity>;
        /// The resource, like `limits.memory`.
        "resource" resource: String;
    }
}

table! {
    /// Where many variables come from: one of these.
    EnvFromSource {
        /// All keys of a ConfigMap.
        "configMapRef" config_map_ref: Option<ConfigMapEnvSource>;
        /// What their names begin with.
        "prefix" prefix: Option<String>;
        /// All keys of a Secret.
        "secretRef" secret_ref: Option<SecretEnvSource>;
    }
}

table! {
    /// All keys of a ConfigMap.
    ConfigMapEnvSource {
        /// The ConfigMap.
        "name" name: String;
        /// Whether it may be missing.
        "optional" optional: bool = false;
    }
}

table! {
    /// All keys of a Secret.
    SecretEnvSource {
        /// The Secret.
        "name" name: String;
        /// Whether it may be missing.
        "optional" optional: bool = false;
    }
}

table! {
    /// A file about the pod.
    DownwardAPIVolumeFile {
        /// A field of the pod.
        "fieldRef" field_ref: Option<ObjectFieldSelector>;
        /// The file's mode; else the volume's.
        "mode" mode: Option<i32>;
        /// The file, relative to the volume.
        "path" path: String;
        /// A resource of a container.
        "resourceFieldRef" resource_field_ref: Option<ResourceFieldSelector>;
    }
    refused {
        "user" => ALPHA;
    }
}
