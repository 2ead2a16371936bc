//! What all objects have, and selectors of them.

use std::collections::BTreeMap;

use super::SERVER;
use crate::read::{Anything, choice};
use crate::table::table;

table! {
    /// What every object has.
    ObjectMeta {
        /// The object's name, one of its kind in its namespace.
        "name" name: Option<String>;
        /// What names are in, and part of the names that services have.
        "namespace" namespace: String = String::from("default");
        /// What selectors look at.
        "labels" labels: BTreeMap<String, String>;
        /// What nobody looks at.
        "annotations" annotations: BTreeMap<String, String>;
    }
    refused {
        "generateName" => "an object has a name of its own, so that playing the file again finds it";
    }
    warned {
        "creationTimestamp": Anything => SERVER;
        "deletionGracePeriodSeconds": i64 => SERVER;
        "deletionTimestamp": Anything => SERVER;
        "finalizers": Vec<String> => SERVER;
        "generation": i64 => SERVER;
        "managedFields": Vec<Anything> => SERVER;
        "ownerReferences": Vec<Anything> => SERVER;
        "resourceVersion": String => SERVER;
        "selfLink": String => SERVER;
        "uid": String => SERVER;
    }
}

table! {
    /// Which objects are meant: those that have all of the labels and fulfil all of the expressions.
    LabelSelector {
        /// Labels with these values.
        "matchLabels" match_labels: BTreeMap<String, String>;
        /// Conditions on labels.
        "matchExpressions" match_expressions: Vec<LabelSelectorRequirement>;
    }
}

table! {
    /// A condition on a label.
    LabelSelectorRequirement {
        /// The label.
        "key" key: String;
        /// What is asked of it.
        "operator" operator: SelectorOperator;
        /// Values, for `In` and `NotIn`.
        "values" values: Vec<String>;
    }
}

choice! {
    /// What is asked of a label.
    SelectorOperator {
        /// One of the values.
        In = "In",
        /// None of the values, or no label.
        NotIn = "NotIn",
        /// Any value.
        Exists = "Exists",
        /// No label.
        DoesNotExist = "DoesNotExist",
    }
}

table! {
    /// An object of the same namespace.
    LocalObjectReference {
        /// Its name.
        "name" name: String;
    }
}

impl LabelSelector {
    /// Whether labels are meant. A selector that asks for nothing means all.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let labelled = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        labelled && self.match_expressions.iter().all(|expression| expression.matches(labels))
    }

    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
}

impl LabelSelectorRequirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            SelectorOperator::In => listed,
            SelectorOperator::NotIn => !listed,
            SelectorOperator::Exists => value.is_some(),
            SelectorOperator::DoesNotExist => value.is_none(),
        }
    }
}
