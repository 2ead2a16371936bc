//! Services: one address for many pods.

use std::collections::BTreeMap;

use super::workload::objects;
use super::{ONE_NODE, ObjectMeta, Protocol, SERVER};
use crate::read::{Anything, choice};
use crate::table::{Harmless, table};
use crate::value::IntOrString;

/// Why what is a load balancer's is refused.
const NO_BALANCER: &str = "there is no load balancer outside; NodePort publishes ports on the host";

objects! {
    /// A stable name and address for the pods that it selects.
    Service: ServiceSpec;
}

table! {
    /// What a Service is to be.
    ServiceSpec {
        /// Its address; `None` for none, which makes its name that of the pods.
        "clusterIP" cluster_ip: Option<String>;
        /// Its addresses, the first being `clusterIP`.
        "clusterIPs" cluster_ips: Vec<String>;
        /// The families of its addresses.
        "ipFamilies" ip_families: Vec<IPFamily>;
        /// Whether it has addresses of both.
        "ipFamilyPolicy" ip_family_policy: Option<IPFamilyPolicy>;
        /// Its ports.
        "ports" ports: Vec<ServicePort>;
        /// Whether pods count that are not ready.
        "publishNotReadyAddresses" publish_not_ready_addresses: bool = false;
        /// The labels of its pods.
        "selector" selector: BTreeMap<String, String>;
        /// Whether a client stays with a pod.
        "sessionAffinity" session_affinity: ServiceAffinity = ServiceAffinity::None;
        /// For how long.
        "sessionAffinityConfig" session_affinity_config: Option<SessionAffinityConfig>;
        /// Who reaches it.
        "type" reach: ServiceType = ServiceType::ClusterIp;
    }
    refused {
        "allocateLoadBalancerNodePorts" => NO_BALANCER;
        "externalIPs" => "addresses of the host are published by NodePort or hostPort", unless Harmless::Empty;
        "externalName" => "names outside are not for services to give";
        "healthCheckNodePort" => NO_BALANCER, unless Harmless::Number(0);
        "loadBalancerClass" => NO_BALANCER;
        "loadBalancerIP" => NO_BALANCER;
        "loadBalancerSourceRanges" => NO_BALANCER, unless Harmless::Empty;
    }
    warned {
        "externalTrafficPolicy": TrafficPolicy => ONE_NODE, unless Harmless::Text("Cluster");
        "internalTrafficPolicy": TrafficPolicy => ONE_NODE, unless Harmless::Text("Cluster");
        "trafficDistribution": String => ONE_NODE;
    }
}

choice! {
    /// Who reaches a Service.
    ServiceType {
        /// Pods and this host.
        ClusterIp = "ClusterIP",
        /// Everybody, by a port of the host.
        NodePort = "NodePort",
    }
    refused {
        "LoadBalancer" => NO_BALANCER;
        "ExternalName" => "names outside are not for services to give";
    }
}

choice! {
    /// Whether a client stays with a pod.
    ServiceAffinity {
        /// It does, told by its address.
        ClientIp = "ClientIP",
        /// It does not.
        None = "None",
    }
}

choice! {
    /// Which nodes' pods are meant.
    TrafficPolicy {
        /// All.
        Cluster = "Cluster",
        /// The one where the client is.
        Local = "Local",
    }
}

choice! {
    /// A family of addresses.
    IPFamily {
        /// IPv4.
        V4 = "IPv4",
        /// IPv6.
        V6 = "IPv6",
    }
}

choice! {
    /// Whether there are addresses of both families.
    IPFamilyPolicy {
        /// Of one.
        SingleStack = "SingleStack",
        /// Of both where that is possible.
        PreferDualStack = "PreferDualStack",
        /// Of both.
        RequireDualStack = "RequireDualStack",
    }
}

table! {
    /// A port of a Service.
    ServicePort {
        /// Its name, if there are several.
        "name" name: Option<String>;
        /// The host's port, for `NodePort`; else one is chosen.
        "nodePort" node_port: Option<i32>;
        /// The port.
        "port" port: i32;
        /// The protocol.
        "protocol" protocol: Protocol = Protocol::Tcp;
        /// The port of the pods, by number or name; by default the same.
        "targetPort" target_port: Option<IntOrString>;
    }
    warned {
        "appProtocol": String => "bytes are passed on as they are";
    }
}

table! {
    /// For how long a client stays with a pod.
    SessionAffinityConfig {
        /// Told by its address.
        "clientIP" client_ip: Option<ClientIPConfig>;
    }
}

table! {
    /// For how long a client with an address stays.
    ClientIPConfig {
        /// Seconds since it was last seen.
        "timeoutSeconds" timeout_seconds: i32 = 10800;
    }
}
