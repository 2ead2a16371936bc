//! Pods.

use std::collections::BTreeMap;

use super::affinity::{Affinity, Toleration, TopologySpreadConstraint};
use super::{
    ALPHA, Container, LATER, LocalObjectReference, ONE_NODE, ObjectMeta, PodSecurityContext,
    ResourceRequirements, SERVER, Volume, WALL,
};
use crate::read::{Anything, choice};
use crate::table::{Harmless, table};
use crate::value::Quantity;

/// Why an account in the cluster has no effect.
const NO_ACCOUNTS: &str = "there is no API server that an account could be for";

table! {
    /// A pod: one virtual machine and the containers in it.
    Pod {
        /// `v1`.
        "apiVersion" api_version: Option<String>;
        /// `Pod`.
        "kind" kind: Option<String>;
        /// Its name and labels.
        "metadata" metadata: ObjectMeta;
        /// What runs in it.
        "spec" spec: PodSpec;
    }
    warned {
        "status": Anything => SERVER, unless Harmless::Empty;
    }
}

table! {
    /// What the pods of a workload look like.
    PodTemplateSpec {
        /// Their labels and annotations.
        "metadata" metadata: Option<ObjectMeta>;
        /// What runs in them.
        "spec" spec: PodSpec;
    }
}

table! {
    /// What runs in a pod, and how.
    PodSpec {
        /// Seconds after which the pod is ended and has failed.
        "activeDeadlineSeconds" active_deadline_seconds: Option<i64>;
        /// The containers; all of them run together.
        "containers" containers: Vec<Container>;
        /// Servers and search domains for names.
        "dnsConfig" dns_config: Option<PodDNSConfig>;
        /// Where name servers come from.
        "dnsPolicy" dns_policy: DnsPolicy = DnsPolicy::ClusterFirst;
        /// Whether there is an environment variable for the address of each service.
        "enableServiceLinks" enable_service_links: bool = true;
        /// Lines of `/etc/hosts`.
        "hostAliases" host_aliases: Vec<HostAlias>;
        /// The host name; else the pod's name.
        "hostname" hostname: Option<String>;
        /// The host name, whatever else says.
        "hostnameOverride" hostname_override: Option<String>;
        /// Secrets with logins for registries.
        "imagePullSecrets" image_pull_secrets: Vec<LocalObjectReference>;
        /// Containers that run one after the other before the others, and sidecars.
        "initContainers" init_containers: Vec<Container>;
        /// The system that the containers are for.
        "os" os: Option<PodOS>;
        /// Resources on top of what the containers ask for.
        "overhead" overhead: BTreeMap<String, Quantity>;
        /// What the pod has for all its containers: the size of its VM.
        "resources" resources: Option<ResourceRequirements>;
        /// Which containers are started again.
        "restartPolicy" restart_policy: RestartPolicy = RestartPolicy::Always;
        /// Chooses the hypervisor.
        "runtimeClassName" runtime_class_name: Option<String>;
        /// Users, groups and more, of all containers.
        "securityContext" security_context: Option<PodSecurityContext>;
        /// Whether the host name is the whole name of the domain.
        "setHostnameAsFQDN" set_hostname_as_fqdn: bool = false;
        /// Whether the containers see each other's processes.
        "shareProcessNamespace" share_process_namespace: bool = false;
        /// The domain below the namespace's that the pod is in.
        "subdomain" subdomain: Option<String>;
        /// Seconds between asking containers to end and ending them.
        "terminationGracePeriodSeconds" termination_grace_period_seconds: i64 = 30;
        /// What containers can mount.
        "volumes" volumes: Vec<Volume>;
    }
    refused {
        "automountServiceAccountToken" => NO_ACCOUNTS, unless Harmless::Is(false);
        "ephemeralContainers" => "they are added to a pod that runs, for debugging; Kubernetes refuses them in a file, too",
            unless Harmless::Empty;
        "evictionResponders" => ONE_NODE, unless Harmless::Empty;
        "hostIPC" => WALL, unless Harmless::Is(false);
        "hostNetwork" => WALL, unless Harmless::Is(false);
        "hostPID" => WALL, unless Harmless::Is(false);
        "nodeName" => ONE_NODE;
        "nodeSelector" => ONE_NODE, unless Harmless::Empty;
        "readinessGates" => "nobody sets conditions from outside, so the pod would never be ready", unless Harmless::Empty;
        "resourceClaims" => LATER, unless Harmless::Empty;
        "schedulingGates" => "nobody opens gates, so the pod would never start", unless Harmless::Empty;
        "schedulingGroup" => ALPHA;
    }
    warned {
        "affinity": Affinity => ONE_NODE, unless Harmless::Empty;
        "hostUsers": bool => "users of a pod are those of its VM, never the host's", unless Harmless::Is(true);
        "preemptionPolicy": String => ONE_NODE;
        "priority": i32 => ONE_NODE, unless Harmless::Number(0);
        "priorityClassName": String => ONE_NODE;
        "schedulerName": String => ONE_NODE, unless Harmless::Text("default-scheduler");
        "serviceAccount": String => NO_ACCOUNTS, unless Harmless::Text("default");
        "serviceAccountName": String => NO_ACCOUNTS, unless Harmless::Text("default");
        "tolerations": Vec<Toleration> => ONE_NODE, unless Harmless::Empty;
        "topologySpreadConstraints": Vec<TopologySpreadConstraint> => ONE_NODE, unless Harmless::Empty;
    }
}

choice! {
    /// Which containers of a pod are started again.
    RestartPolicy {
        /// All.
        Always = "Always",
        /// Those that failed.
        OnFailure = "OnFailure",
        /// None.
        Never = "Never",
    }
}

choice! {
    /// Where name servers come from.
    DnsPolicy {
        /// The names of services and pods first.
        ClusterFirst = "ClusterFirst",
        /// The host's.
        Default = "Default",
        /// Only what `dnsConfig` names.
        None = "None",
    }
    refused {
        "ClusterFirstWithHostNet" => WALL;
    }
}

table! {
    /// Name servers, besides or instead of those of the policy.
    PodDNSConfig {
        /// Addresses of servers, at most three.
        "nameservers" nameservers: Vec<String>;
        /// Options of the resolver.
        "options" options: Vec<PodDNSConfigOption>;
        /// Domains that short names are looked up in.
        "searches" searches: Vec<String>;
    }
}

table! {
    /// An option of the resolver, as in `resolv.conf`.
    PodDNSConfigOption {
        /// Its name.
        "name" name: String;
        /// Its value, if it takes one.
        "value" value: Option<String>;
    }
}

table! {
    /// A line of `/etc/hosts`.
    HostAlias {
        /// The address.
        "ip" ip: String;
        /// Its names.
        "hostnames" hostnames: Vec<String>;
    }
}

table! {
    /// The system that the containers are for.
    PodOS {
        /// Its name.
        "name" name: OsName;
    }
}

choice! {
    /// The name of a system.
    OsName {
        /// The only one.
        Linux = "linux",
    }
    refused {
        "windows" => "the guest is Linux";
    }
}

impl PodSpec {
    /// How much of a resource its containers ask for together, as Kubernetes adds it up: all that run at the same time,
    /// with the sidecars that run by then. `None` if none of them asks.
    #[must_use]
    pub fn requests(&self, resource: &str) -> Option<Quantity> {
        let plus = |sum: Option<Quantity>, one: Option<Quantity>| match (sum, one) {
            (Some(sum), Some(one)) => Some(sum.plus(one)),
            (sum, one) => sum.or(one),
        };
        let (mut sidecars, mut most) = (None, None);
        for container in &self.init_containers {
            let with = plus(sidecars, container.request(resource));
            most = most.max(with);
            if container.is_sidecar() {
                sidecars = with;
            }
        }
        let together = self.containers.iter().map(|one| one.request(resource)).fold(sidecars, plus);
        most.max(together)
    }
}
