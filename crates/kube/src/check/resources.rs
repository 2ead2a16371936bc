//! Amounts of resources.

use std::collections::BTreeMap;

use crate::fault::{Problem, Report, quoted};
use crate::model::{PodSpec, ResourceRequirements};
use crate::place::At;
use crate::value::{Quantity, qualified_name};

/// What a container can ask for.
const OF_CONTAINERS: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// What a pod can ask for.
const OF_PODS: [&str; 2] = ["cpu", "memory"];

/// What a container gets.
pub(super) fn requirements(required: &ResourceRequirements, at: &At, report: &mut Report) {
    both(required, &OF_CONTAINERS, "must be a standard resource for containers", at, report);
}

/// What a pod gets, and what is added to it.
pub(super) fn of_pod(spec: &PodSpec, at: &At, report: &mut Report) {
    let overhead_at = at.field("overhead");
    amounts(
        &spec.overhead,
        &OF_CONTAINERS,
        "must be a standard resource for containers",
        &overhead_at,
        report,
    );
    let Some(required) = &spec.resources else { return };
    let at = at.field("resources");
    both(required, &OF_PODS, "must be a standard resource for pods", &at, report);
    for name in OF_PODS {
        let asked = spec.requests(name);
        if let (Some(sum), Some(request)) = (asked, required.requests.get(name))
            && sum > *request
        {
            let why = format!("must be greater than or equal to aggregate container requests of {sum}");
            report.invalid_text(&at.field("requests").key(name), &request.to_string(), [why]);
        }
    }
    let containers_at = At::top().field("spec").field("containers");
    for (index, container) in spec.containers.iter().enumerate() {
        for (name, limit) in container.resources.iter().flat_map(|resources| &resources.limits) {
            let Some(most) = required.limits.get(name).filter(|most| limit > *most) else { continue };
            let at = containers_at.index(index).field("resources").field("limits").key(name);
            let why = format!("must be less than or equal to pod limits of {most}");
            report.invalid_text(&at, &limit.to_string(), [why]);
        }
    }
}

fn both(required: &ResourceRequirements, known: &[&str], why: &str, at: &At, report: &mut Report) {
    amounts(&required.limits, known, why, &at.field("limits"), report);
    let at = at.field("requests");
    // Requests that the limits made have been told of.
    let own = required.requests.iter().filter(|(name, amount)| required.limits.get(*name) != Some(amount));
    let own: BTreeMap<String, Quantity> = own.map(|(name, amount)| (name.clone(), *amount)).collect();
    amounts(&own, known, why, &at, report);
    for (name, amount) in &own {
        if let Some(limit) = required.limits.get(name).filter(|limit| amount > *limit) {
            let why = format!("must be less than or equal to {name} limit of {limit}");
            report.invalid_text(&at.key(name), &amount.to_string(), [why]);
        }
    }
}

fn amounts(amounts: &BTreeMap<String, Quantity>, known: &[&str], why: &str, at: &At, report: &mut Report) {
    for (name, amount) in amounts {
        let at = at.key(name);
        if !known.contains(&name.as_str()) {
            if name.starts_with("hugepages-") {
                report.refused(&at, "the guest has no huge pages");
            } else if name.contains('/') && qualified_name(name).is_empty() {
                report.refused(&at, "there are no device plugins that would offer it");
            } else {
                report.invalid_text(&at, name, [why]);
            }
        }
        if *amount < Quantity::ZERO {
            let why = "must be greater than or equal to 0";
            report.invalid_text(&at, &amount.to_string(), [why]);
        } else if name == "memory" && amount.is_fraction() {
            let text = format!(
                "{} is a part of a byte (a suffix like M or Mi is likely meant)",
                quoted(&amount.to_string())
            );
            report.warn(&at, Problem::Odd(text));
        }
    }
}
