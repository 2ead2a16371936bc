//! Names, labels, annotations and selectors.

use std::collections::BTreeMap;

use crate::Object;
use crate::fault::Report;
use crate::model::{LabelSelector, ObjectMeta, SelectorOperator};
use crate::place::At;
use crate::value::{dns_1035_label, dns_label, dns_subdomain, label_value, qualified_name};

/// Most bytes of all annotations of an object.
const MOST_ANNOTATIONS: usize = 256 << 10;

/// Longest name of a CronJob: its jobs' names have eleven characters more.
const LONGEST_CRON_JOB: usize = 52;

/// The metadata of an object.
pub(super) fn object(object: &Object, report: &mut Report) {
    let at = At::top().field("metadata");
    let meta = object.metadata();
    let (name, name_at) = (object.name(), at.field("name"));
    if name.is_empty() {
        report.required(&name_at, "");
    } else {
        let why = match object {
            Object::Service(_) => dns_1035_label(name),
            Object::StatefulSet(_) => dns_label(name),
            _ => dns_subdomain(name),
        };
        report.invalid_text(&name_at, name, why);
        if matches!(object, Object::CronJob(_)) && name.len() > LONGEST_CRON_JOB {
            let why = format!("must be no more than {LONGEST_CRON_JOB} characters");
            report.invalid_text(&name_at, name, [why]);
        }
    }
    report.invalid_text(&at.field("namespace"), &meta.namespace, dns_label(&meta.namespace));
    labelled(meta, &at, report);
}

/// Labels and annotations.
pub(super) fn labelled(meta: &ObjectMeta, at: &At, report: &mut Report) {
    labels(&meta.labels, &at.field("labels"), report);
    let at = at.field("annotations");
    let mut size = 0;
    for (key, value) in &meta.annotations {
        size += key.len() + value.len();
        // Only here letters may be large in the domain.
        report.invalid_text(&at.key(key), key, qualified_name(&key.to_lowercase()));
    }
    if size > MOST_ANNOTATIONS {
        report.invalid(
            &at,
            format!("{size} bytes"),
            format!("may not be more than {MOST_ANNOTATIONS} bytes"),
        );
    }
}

/// Labels.
pub(super) fn labels(labels: &BTreeMap<String, String>, at: &At, report: &mut Report) {
    for (key, value) in labels {
        let at = at.key(key);
        report.invalid_text(&at, key, qualified_name(key));
        report.invalid_text(&at, value, label_value(value));
    }
}

/// A selector.
pub(super) fn selector(selector: &LabelSelector, at: &At, report: &mut Report) {
    labels(&selector.match_labels, &at.field("matchLabels"), report);
    for (index, expression) in selector.match_expressions.iter().enumerate() {
        let at = at.field("matchExpressions").index(index);
        report.invalid_text(&at.field("key"), &expression.key, qualified_name(&expression.key));
        let listing = matches!(expression.operator, SelectorOperator::In | SelectorOperator::NotIn);
        let values_at = at.field("values");
        match (listing, expression.values.is_empty()) {
            (true, true) => {
                report.required(&values_at, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            (false, false) => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                report.forbidden(&values_at, why);
            }
            _ => {}
        }
        for (index, value) in expression.values.iter().enumerate() {
            report.invalid_text(&values_at.index(index), value, label_value(value));
        }
    }
}
