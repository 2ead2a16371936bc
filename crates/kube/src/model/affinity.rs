//! What only a scheduler looks at: checked, and dropped.

use super::{LabelSelector, ONE_NODE};
use crate::read::choice;
use crate::table::{Harmless, table};

table! {
    /// Where a pod would rather be.
    Affinity {
    }
    warned {
        "nodeAffinity": NodeAffinity => ONE_NODE, unless Harmless::Empty;
        "podAffinity": PodAffinity => ONE_NODE, unless Harmless::Empty;
        "podAntiAffinity": PodAntiAffinity => ONE_NODE, unless Harmless::Empty;
    }
}

table! {
    /// On which nodes a pod would rather be.
    NodeAffinity {
    }
    refused {
        "requiredDuringSchedulingIgnoredDuringExecution" => ONE_NODE;
    }
    warned {
        "preferredDuringSchedulingIgnoredDuringExecution": Vec<PreferredSchedulingTerm> => ONE_NODE, unless Harmless::Empty;
    }
}

table! {
    /// With which pods a pod would rather be.
    PodAffinity {
    }
    refused {
        "requiredDuringSchedulingIgnoredDuringExecution" => ONE_NODE, unless Harmless::Empty;
    }
    warned {
        "preferredDuringSchedulingIgnoredDuringExecution": Vec<WeightedPodAffinityTerm> => ONE_NODE, unless Harmless::Empty;
    }
}

table! {
    /// From which pods a pod would rather stay away.
    PodAntiAffinity {
    }
    refused {
        "requiredDuringSchedulingIgnoredDuringExecution" => ONE_NODE, unless Harmless::Empty;
    }
    warned {
        "preferredDuringSchedulingIgnoredDuringExecution": Vec<WeightedPodAffinityTerm> => ONE_NODE, unless Harmless::Empty;
    }
}

table! {
    /// A wish about nodes.
    PreferredSchedulingTerm {
        /// The nodes.
        "preference" preference: NodeSelectorTerm;
        /// How much it is wished.
        "weight" weight: i32;
    }
}

table! {
    /// Nodes.
    NodeSelectorTerm {
        /// Conditions on labels.
        "matchExpressions" match_expressions: Vec<NodeSelectorRequirement>;
        /// Conditions on fields.
        "matchFields" match_fields: Vec<NodeSelectorRequirement>;
    }
}

table! {
    /// A condition on a node.
    NodeSelectorRequirement {
        /// The label or field.
        "key" key: String;
        /// What is asked of it.
        "operator" operator: NodeSelectorOperator;
        /// The values.
        "values" values: Vec<String>;
    }
}

choice! {
    /// What is asked of a node.
    NodeSelectorOperator {
        /// One of the values.
        In = "In",
        /// None of the values.
        NotIn = "NotIn",
        /// Any value.
        Exists = "Exists",
        /// No label.
        DoesNotExist = "DoesNotExist",
        /// A greater number.
        Gt = "Gt",
        /// A smaller number.
        Lt = "Lt",
    }
}

table! {
    /// A wish about pods.
    WeightedPodAffinityTerm {
        /// The pods.
        "podAffinityTerm" pod_affinity_term: PodAffinityTerm;
        /// How much it is wished.
        "weight" weight: i32;
    }
}

table! {
    /// Pods, and what being with them means.
    PodAffinityTerm {
        /// The pods.
        "labelSelector" label_selector: Option<LabelSelector>;
        /// Labels that have to be the same.
        "matchLabelKeys" match_label_keys: Vec<String>;
        /// Labels that must not be the same.
        "mismatchLabelKeys" mismatch_label_keys: Vec<String>;
        /// The namespaces they are in, by label.
        "namespaceSelector" namespace_selector: Option<LabelSelector>;
        /// The namespaces they are in, by name.
        "namespaces" namespaces: Vec<String>;
        /// Which nodes are the same place.
        "topologyKey" topology_key: String;
    }
}

table! {
    /// A taint that does not keep the pod away.
    Toleration {
        /// What the taint does.
        "effect" effect: Option<TaintEffect>;
        /// Its key.
        "key" key: Option<String>;
        /// How it is compared.
        "operator" operator: Option<TolerationOperator>;
        /// How long it is borne.
        "tolerationSeconds" toleration_seconds: Option<i64>;
        /// Its value.
        "value" value: Option<String>;
    }
}

choice! {
    /// What a taint does.
    TaintEffect {
        /// Keeps new pods away.
        NoSchedule = "NoSchedule",
        /// Rather keeps them away.
        PreferNoSchedule = "PreferNoSchedule",
        /// Drives pods away.
        NoExecute = "NoExecute",
    }
}

choice! {
    /// How a taint is compared.
    TolerationOperator {
        /// It is there.
        Exists = "Exists",
        /// It has the value.
        Equal = "Equal",
        /// It has a smaller number.
        Lt = "Lt",
        /// It has a greater number.
        Gt = "Gt",
    }
}

table! {
    /// How pods are spread over places.
    TopologySpreadConstraint {
        /// The pods.
        "labelSelector" label_selector: Option<LabelSelector>;
        /// Labels that have to be the same.
        "matchLabelKeys" match_label_keys: Vec<String>;
        /// How uneven it may be.
        "maxSkew" max_skew: i32;
        /// In how many places at least.
        "minDomains" min_domains: Option<i32>;
        /// Whether node affinity counts.
        "nodeAffinityPolicy" node_affinity_policy: Option<NodeInclusionPolicy>;
        /// Whether taints count.
        "nodeTaintsPolicy" node_taints_policy: Option<NodeInclusionPolicy>;
        /// Which nodes are the same place.
        "topologyKey" topology_key: String;
        /// What is done where it is not possible.
        "whenUnsatisfiable" when_unsatisfiable: UnsatisfiableConstraintAction;
    }
}

choice! {
    /// Whether something about nodes counts.
    NodeInclusionPolicy {
        /// It does.
        Honor = "Honor",
        /// It does not.
        Ignore = "Ignore",
    }
}

choice! {
    /// What is done where spreading is not possible.
    UnsatisfiableConstraintAction {
        /// The pod waits.
        DoNotSchedule = "DoNotSchedule",
        /// It runs anyway.
        ScheduleAnyway = "ScheduleAnyway",
    }
}
