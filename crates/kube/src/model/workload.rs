//! Workloads: pods of which several are kept running.

use super::{LabelSelector, ObjectMeta, PersistentVolumeClaim, PodTemplateSpec, SERVER};
use crate::read::{Anything, choice};
use crate::table::{Harmless, table};
use crate::value::IntOrString;

/// Why old revisions are not kept.
const NO_HISTORY: &str = "nothing is kept of what was played before";

/// Declares an object of a kind with metadata, spec and status.
macro_rules! objects {
    ($( $(#[doc = $about:literal])+ $name:ident: $spec:ident; )*) => {
        $(
            table! {
                $(#[doc = $about])+
                $name {
                    /// The version of its format.
                    "apiVersion" api_version: Option<String>;
                    /// Its kind.
                    "kind" kind: Option<String>;
                    /// Its name and labels.
                    "metadata" metadata: ObjectMeta;
                    /// What it is to be.
                    "spec" spec: $spec;
                }
                warned {
                    "status": Anything => SERVER, unless Harmless::Empty;
                }
            }
        )*
    };
}
pub(super) use objects;

objects! {
    /// Pods that are replaced by new ones when their template changes.
    Deployment: DeploymentSpec;
    /// Pods of which a number is kept.
    ReplicaSet: ReplicaSetSpec;
    /// Pods with names and volumes that stay.
    StatefulSet: StatefulSetSpec;
    /// One pod a node, which is one here.
    DaemonSet: DaemonSetSpec;
}

table! {
    /// What a Deployment is to be.
    DeploymentSpec {
        /// Seconds that a pod has to be ready for.
        "minReadySeconds" min_ready_seconds: i32 = 0;
        /// Whether changes wait.
        "paused" paused: bool = false;
        /// Seconds after which a change that gets nowhere has failed.
        "progressDeadlineSeconds" progress_deadline_seconds: i32 = 600;
        /// How many pods.
        "replicas" replicas: i32 = 1;
        /// The pods that are its.
        "selector" selector: LabelSelector;
        /// How pods are replaced.
        "strategy" strategy: Option<DeploymentStrategy>;
        /// What they look like.
        "template" template: PodTemplateSpec;
    }
    warned {
        "revisionHistoryLimit": i32 => NO_HISTORY, unless Harmless::Number(10);
    }
}

table! {
    /// How the pods of a Deployment are replaced.
    DeploymentStrategy {
        /// How many at a time.
        "rollingUpdate" rolling_update: Option<RollingUpdateDeployment>;
        /// All at once, or some at a time.
        "type" strategy: DeploymentStrategyType = DeploymentStrategyType::RollingUpdate;
    }
}

choice! {
    /// Whether pods are replaced all at once.
    DeploymentStrategyType {
        /// The old ones first.
        Recreate = "Recreate",
        /// Some at a time.
        RollingUpdate = "RollingUpdate",
    }
}

table! {
    /// How many pods of a Deployment are replaced at a time; 25% both, if it does not say.
    RollingUpdateDeployment {
        /// How many more there may be.
        "maxSurge" max_surge: Option<IntOrString>;
        /// How many fewer.
        "maxUnavailable" max_unavailable: Option<IntOrString>;
    }
}

table! {
    /// What a ReplicaSet is to be.
    ReplicaSetSpec {
        /// Seconds that a pod has to be ready for.
        "minReadySeconds" min_ready_seconds: i32 = 0;
        /// How many pods.
        "replicas" replicas: i32 = 1;
        /// The pods that are its.
        "selector" selector: LabelSelector;
        /// What they look like.
        "template" template: PodTemplateSpec;
    }
}

table! {
    /// What a StatefulSet is to be.
    StatefulSetSpec {
        /// Seconds that a pod has to be ready for.
        "minReadySeconds" min_ready_seconds: i32 = 0;
        /// The numbers in the pods' names.
        "ordinals" ordinals: Option<StatefulSetOrdinals>;
        /// Whether claims go with it.
        "persistentVolumeClaimRetentionPolicy" retention: Option<StatefulSetPersistentVolumeClaimRetentionPolicy>;
        /// Whether pods start one after the other.
        "podManagementPolicy" pod_management_policy: PodManagementPolicy = PodManagementPolicy::OrderedReady;
        /// How many pods.
        "replicas" replicas: i32 = 1;
        /// The pods that are its.
        "selector" selector: LabelSelector;
        /// The headless service that the pods' names are below.
        "serviceName" service_name: Option<String>;
        /// What they look like.
        "template" template: PodTemplateSpec;
        /// How pods are replaced.
        "updateStrategy" update_strategy: Option<StatefulSetUpdateStrategy>;
        /// A claim of each of these for every pod.
        "volumeClaimTemplates" volume_claim_templates: Vec<PersistentVolumeClaim>;
    }
    warned {
        "revisionHistoryLimit": i32 => NO_HISTORY, unless Harmless::Number(10);
    }
}

table! {
    /// The numbers in the names of a StatefulSet's pods.
    StatefulSetOrdinals {
        /// The first.
        "start" start: i32 = 0;
    }
}

table! {
    /// Whether claims go with a StatefulSet's pods.
    StatefulSetPersistentVolumeClaimRetentionPolicy {
        /// When it is removed.
        "whenDeleted" when_deleted: RetentionPolicy = RetentionPolicy::Retain;
        /// When it gets fewer pods.
        "whenScaled" when_scaled: RetentionPolicy = RetentionPolicy::Retain;
    }
}

choice! {
    /// Whether a claim goes.
    RetentionPolicy {
        /// It stays.
        Retain = "Retain",
        /// It goes.
        Delete = "Delete",
    }
}

choice! {
    /// Whether pods start one after the other.
    PodManagementPolicy {
        /// Each when the one before it is ready.
        OrderedReady = "OrderedReady",
        /// All at once.
        Parallel = "Parallel",
    }
}

table! {
    /// How the pods of a StatefulSet are replaced.
    StatefulSetUpdateStrategy {
        /// Which, and how many at a time.
        "rollingUpdate" rolling_update: Option<RollingUpdateStatefulSetStrategy>;
        /// By whom.
        "type" strategy: UpdateStrategyType = UpdateStrategyType::RollingUpdate;
    }
}

table! {
    /// Which pods of a StatefulSet are replaced.
    RollingUpdateStatefulSetStrategy {
        /// How many may be missing.
        "maxUnavailable" max_unavailable: Option<IntOrString>;
        /// Those from this number on.
        "partition" partition: i32 = 0;
    }
}

choice! {
    /// By whom pods are replaced.
    UpdateStrategyType {
        /// One after the other.
        RollingUpdate = "RollingUpdate",
        /// When the user removes them.
        OnDelete = "OnDelete",
    }
}

table! {
    /// What a DaemonSet is to be.
    DaemonSetSpec {
        /// Seconds that a pod has to be ready for.
        "minReadySeconds" min_ready_seconds: i32 = 0;
        /// The pods that are its.
        "selector" selector: LabelSelector;
        /// What they look like.
        "template" template: PodTemplateSpec;
        /// How pods are replaced.
        "updateStrategy" update_strategy: Option<DaemonSetUpdateStrategy>;
    }
    warned {
        "revisionHistoryLimit": i32 => NO_HISTORY, unless Harmless::Number(10);
    }
}

table! {
    /// How the pod of a DaemonSet is replaced.
    DaemonSetUpdateStrategy {
        /// Whether the new one starts first.
        "rollingUpdate" rolling_update: Option<RollingUpdateDaemonSet>;
        /// By whom.
        "type" strategy: UpdateStrategyType = UpdateStrategyType::RollingUpdate;
    }
}

table! {
    /// Whether the new pod of a DaemonSet starts first.
    RollingUpdateDaemonSet {
        /// How many nodes may have both.
        "maxSurge" max_surge: Option<IntOrString>;
        /// How many nodes may have none.
        "maxUnavailable" max_unavailable: Option<IntOrString>;
    }
}
