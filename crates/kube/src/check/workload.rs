//! Workloads.

use super::{meta, pod};
use crate::fault::Report;
use crate::model::{
    DaemonSetSpec, DeploymentSpec, DeploymentStrategyType, LabelSelector, PodTemplateSpec, ReplicaSetSpec,
    RestartPolicy, StatefulSetSpec, UpdateStrategyType,
};
use crate::place::At;
use crate::value::{IntOrString, dns_label};

/// A Deployment.
pub(super) fn deployment(spec: &DeploymentSpec, at: &At, report: &mut Report) {
    counts(Some(spec.replicas), spec.min_ready_seconds, at, report);
    kept(&spec.selector, &spec.template, "Deployment", at, report);
    let deadline_at = at.field("progressDeadlineSeconds");
    report.not_negative(&deadline_at, spec.progress_deadline_seconds);
    if spec.progress_deadline_seconds <= spec.min_ready_seconds {
        report.invalid(&deadline_at, spec.progress_deadline_seconds, "must be greater than minReadySeconds");
    }
    let Some(strategy) = &spec.strategy else { return };
    let at = at.field("strategy").field("rollingUpdate");
    let Some(rolling) = &strategy.rolling_update else { return };
    if strategy.strategy == DeploymentStrategyType::Recreate {
        report.forbidden(&at, "may not be specified when strategy `type` is 'Recreate'");
        return;
    }
    let (unavailable, surge) = (&rolling.max_unavailable, &rolling.max_surge);
    for (field, amount) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
        share(amount.as_ref(), field == "maxUnavailable", &at.field(field), report);
    }
    if is_zero(unavailable.as_ref()) && is_zero(surge.as_ref()) {
        let value = unavailable.as_ref().map(ToString::to_string).unwrap_or_default();
        report.invalid(&at.field("maxUnavailable"), value, "may not be 0 when `maxSurge` is 0");
    }
}

/// A ReplicaSet.
pub(super) fn replica_set(spec: &ReplicaSetSpec, at: &At, report: &mut Report) {
    counts(Some(spec.replicas), spec.min_ready_seconds, at, report);
    kept(&spec.selector, &spec.template, "ReplicaSet", at, report);
}

/// A StatefulSet.
pub(super) fn stateful_set(spec: &StatefulSetSpec, at: &At, report: &mut Report) {
    counts(Some(spec.replicas), spec.min_ready_seconds, at, report);
    kept(&spec.selector, &spec.template, "StatefulSet", at, report);
    if let Some(name) = &spec.service_name {
        report.invalid_text(&at.field("serviceName"), name, dns_label(name));
    }
    if let Some(ordinals) = &spec.ordinals {
        report.not_negative(&at.field("ordinals").field("start"), ordinals.start);
    }
    if let Some(strategy) = &spec.update_strategy {
        let at = at.field("updateStrategy").field("rollingUpdate");
        if let Some(rolling) = &strategy.rolling_update {
            by_hand(strategy.strategy, &at, report);
            report.not_negative(&at.field("partition"), rolling.partition);
            unavailable_not_zero(rolling.max_unavailable.as_ref(), &at, report);
        }
    }
    for (index, claim) in spec.volume_claim_templates.iter().enumerate() {
        let at = at.field("volumeClaimTemplates").index(index);
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let name_at = at.field("metadata").field("name");
        if name.is_empty() {
            report.required(&name_at, "");
        } else {
            report.invalid_text(&name_at, name, dns_label(name));
        }
        meta::labelled(&claim.metadata, &at.field("metadata"), report);
        super::config::claim(&claim.spec, &at.field("spec"), report);
    }
}

/// A DaemonSet.
pub(super) fn daemon_set(spec: &DaemonSetSpec, at: &At, report: &mut Report) {
    counts(None, spec.min_ready_seconds, at, report);
    kept(&spec.selector, &spec.template, "DaemonSet", at, report);
    if let Some(strategy) = &spec.update_strategy {
        let at = at.field("updateStrategy").field("rollingUpdate");
        if let Some(rolling) = &strategy.rolling_update {
            by_hand(strategy.strategy, &at, report);
            let (unavailable, surge) = (rolling.max_unavailable.as_ref(), rolling.max_surge.as_ref());
            share(unavailable, true, &at.field("maxUnavailable"), report);
            share(surge, true, &at.field("maxSurge"), report);
            if is_zero(unavailable) && is_zero(surge) {
                report.required(&at.field("maxUnavailable"), "cannot be 0 when maxSurge is 0");
            } else if !is_zero(unavailable) && !is_zero(surge) {
                let value = surge.map(ToString::to_string).unwrap_or_default();
                report.invalid(
                    &at.field("maxSurge"),
                    value,
                    "may not be set when maxUnavailable is non-zero",
                );
            }
        }
    }
}

fn counts(replicas: Option<i32>, min_ready_seconds: i32, at: &At, report: &mut Report) {
    if let Some(replicas) = replicas {
        report.not_negative(&at.field("replicas"), replicas);
    }
    report.not_negative(&at.field("minReadySeconds"), min_ready_seconds);
}

/// A template whose pods are kept running, and the selector that finds them.
fn kept(selector: &LabelSelector, template: &PodTemplateSpec, kind: &str, at: &At, report: &mut Report) {
    let selector_at = at.field("selector");
    if selector.is_empty() {
        let why = format!("empty selector is invalid for {}", kind.to_lowercase());
        report.invalid(&selector_at, "{}", why);
    }
    meta::selector(selector, &selector_at, report);
    let template_at = at.field("template");
    let none = std::collections::BTreeMap::new();
    let labels = template.metadata.as_ref().map_or(&none, |metadata| &metadata.labels);
    if !selector.is_empty() && !selector.matches(labels) {
        let labels_at = template_at.field("metadata").field("labels");
        let shown: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        report.invalid_text(&labels_at, &shown.join(","), ["`selector` does not match template `labels`"]);
    }
    self::template(template, &template_at, report);
    let spec_at = template_at.field("spec");
    if template.spec.restart_policy != RestartPolicy::Always {
        report.unsupported(&spec_at.field("restartPolicy"), template.spec.restart_policy.name(), &["Always"]);
    }
    if template.spec.active_deadline_seconds.is_some() {
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        report.forbidden(&spec_at.field("activeDeadlineSeconds"), &why);
    }
}

/// A template.
pub(super) fn template(template: &PodTemplateSpec, at: &At, report: &mut Report) {
    if let Some(metadata) = &template.metadata {
        meta::labelled(metadata, &at.field("metadata"), report);
    }
    pod::spec(&template.spec, &at.field("spec"), report);
}

fn by_hand(strategy: UpdateStrategyType, at: &At, report: &mut Report) {
    if strategy == UpdateStrategyType::OnDelete {
        report.invalid(at, "{…}", "only allowed for updateStrategy 'RollingUpdate'");
    }
}

fn is_zero(amount: Option<&IntOrString>) -> bool {
    amount.is_none_or(|amount| amount.of(100, true) == Some(0))
}

fn unavailable_not_zero(amount: Option<&IntOrString>, at: &At, report: &mut Report) {
    let at = at.field("maxUnavailable");
    share(amount, true, &at, report);
    if let Some(amount) = amount.filter(|amount| is_zero(Some(amount))) {
        report.invalid(&at, amount, "cannot be 0");
    }
}

/// A number or a percentage.
fn share(amount: Option<&IntOrString>, at_most_all: bool, at: &At, report: &mut Report) {
    match amount {
        Some(IntOrString::Int(number)) => report.not_negative(at, *number),
        Some(IntOrString::String(text)) => {
            let digits = text.strip_suffix('%').unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
                let why = "a valid percent string must be a numeric string followed by an ending '%' \
                     (e.g. '1%', or '93%')";
                report.invalid_text(at, text, [why]);
            } else if at_most_all && digits.parse::<u32>().map_or(true, |percent| percent > 100) {
                report.invalid_text(at, text, ["must not be greater than 100%"]);
            } else if digits.len() > 9 {
                report.invalid_text(at, text, ["must have at most nine digits"]);
            }
        }
        None => {}
    }
}
