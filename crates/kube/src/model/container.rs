//! Containers.

use std::collections::BTreeMap;

use super::{
    ALPHA, EnvFromSource, EnvVar, LATER, Lifecycle, Probe, SecurityContext, VolumeDevice, VolumeMount,
};
use crate::read::choice;
use crate::table::{Harmless, table};
use crate::value::Quantity;

table! {
    /// A container of a pod.
    Container {
        /// What the program is given; else the image's `CMD`. `$(VAR)` is replaced.
        "args" args: Vec<String>;
        /// The program; else the image's `ENTRYPOINT`. `$(VAR)` is replaced.
        "command" command: Vec<String>;
        /// Environment variables.
        "env" env: Vec<EnvVar>;
        /// Where more of them come from.
        "envFrom" env_from: Vec<EnvFromSource>;
        /// The image.
        "image" image: Option<String>;
        /// When the image is pulled; by default always if its tag is `latest` or missing, else if it is not there.
        "imagePullPolicy" image_pull_policy: Option<PullPolicy>;
        /// What is done after its start and before its end.
        "lifecycle" lifecycle: Option<Lifecycle>;
        /// Fails when the container has to be started again.
        "livenessProbe" liveness_probe: Option<Probe>;
        /// Its name in the pod.
        "name" name: String;
        /// Ports that it listens on.
        "ports" ports: Vec<ContainerPort>;
        /// Fails when services must not send to it.
        "readinessProbe" readiness_probe: Option<Probe>;
        /// What it gets at least and at most; without requests, these are the limits.
        "resources" resources: Option<ResourceRequirements>;
        /// `Always` makes a sidecar of an init container.
        "restartPolicy" restart_policy: Option<ContainerRestartPolicy>;
        /// Users, capabilities and more.
        "securityContext" security_context: Option<SecurityContext>;
        /// Holds the other probes back until it succeeds.
        "startupProbe" startup_probe: Option<Probe>;
        /// Whether its standard input is kept open.
        "stdin" stdin: bool = false;
        /// Whether it is closed after the first client.
        "stdinOnce" stdin_once: bool = false;
        /// The file with what it has to say about its end.
        "terminationMessagePath" termination_message_path: String = String::from("/dev/termination-log");
        /// Whether the end of its log does instead.
        "terminationMessagePolicy" termination_message_policy: TerminationMessagePolicy = TerminationMessagePolicy::File;
        /// Whether it has a terminal.
        "tty" tty: bool = false;
        /// Volumes as block devices.
        "volumeDevices" volume_devices: Vec<VolumeDevice>;
        /// Volumes as directories and files.
        "volumeMounts" volume_mounts: Vec<VolumeMount>;
        /// The directory that it starts in; else the image's.
        "workingDir" working_dir: Option<String>;
    }
    refused {
        "restartPolicyRules" => ALPHA, unless Harmless::Empty;
    }
    warned {
        "resizePolicy": Vec<ContainerResizePolicy> => "a container keeps the size that it was started with",
            unless Harmless::Empty;
    }
}

choice! {
    /// When an image is pulled.
    PullPolicy {
        /// Before every start.
        Always = "Always",
        /// If it is not there.
        IfNotPresent = "IfNotPresent",
        /// Not at all.
        Never = "Never",
    }
}

choice! {
    /// What makes a sidecar of an init container.
    ContainerRestartPolicy {
        /// It runs beside the others.
        Always = "Always",
    }
}

choice! {
    /// Where a container's last words come from.
    TerminationMessagePolicy {
        /// The file.
        File = "File",
        /// The end of its log, if the file is empty and it failed.
        FallbackToLogsOnError = "FallbackToLogsOnError",
    }
}

table! {
    /// A port that a container listens on.
    ContainerPort {
        /// The port in the pod.
        "containerPort" container_port: i32;
        /// The host's address that it is published on.
        "hostIP" host_ip: Option<String>;
        /// The host's port that it is published on.
        "hostPort" host_port: Option<i32>;
        /// A name for it.
        "name" name: Option<String>;
        /// The protocol.
        "protocol" protocol: Protocol = Protocol::Tcp;
    }
}

choice! {
    /// A protocol above IP.
    Protocol {
        /// TCP.
        Tcp = "TCP",
        /// UDP.
        Udp = "UDP",
    }
    refused {
        "SCTP" => "ports are those of TCP and UDP";
    }
}

table! {
    /// What a container or pod gets.
    ResourceRequirements {
        /// At most.
        "limits" limits: BTreeMap<String, Quantity>;
        /// At least.
        "requests" requests: BTreeMap<String, Quantity>;
    }
    refused {
        "claims" => LATER, unless Harmless::Empty;
    }
}

table! {
    /// What a new size means for a container that runs.
    ContainerResizePolicy {
        /// `cpu` or `memory`.
        "resourceName" resource_name: String;
        /// Whether it is started again.
        "restartPolicy" restart_policy: ResourceResizeRestartPolicy;
    }
}

choice! {
    /// Whether a container is started again for a new size.
    ResourceResizeRestartPolicy {
        /// It goes on.
        NotRequired = "NotRequired",
        /// It is.
        RestartContainer = "RestartContainer",
    }
}

impl Container {
    /// Whether an init container runs beside the others instead of before them.
    #[must_use]
    pub fn is_sidecar(&self) -> bool {
        self.restart_policy == Some(ContainerRestartPolicy::Always)
    }

    /// How much of a resource it asks for, if it says so.
    #[must_use]
    pub fn request(&self, resource: &str) -> Option<Quantity> {
        self.resources.as_ref()?.requests.get(resource).copied()
    }
}
