//! Who containers are and what they may.

use std::collections::HashSet;

use super::paths;
use crate::fault::Report;
use crate::model::{PodSecurityContext, SeccompProfile, SeccompProfileType, SecurityContext};
use crate::place::At;

/// The largest number of a user or group.
const LARGEST_ID: i64 = 0xffff_ffff;

/// Of a container.
pub(super) fn of_container(context: &SecurityContext, at: &At, report: &mut Report) {
    ids(&[("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)], at, report);
    if let Some(profile) = &context.seccomp_profile {
        seccomp(profile, &at.field("seccompProfile"), report);
    }
    if context.allow_privilege_escalation == Some(false) {
        let added = context.capabilities.iter().flat_map(|capabilities| &capabilities.add);
        let admin = added.into_iter().any(|name| matches!(name.as_str(), "SYS_ADMIN" | "CAP_SYS_ADMIN"));
        for (is_set, what) in [
            (context.privileged == Some(true), "`privileged` to true"),
            (admin, "`capabilities.Add` CAP_SYS_ADMIN"),
        ] {
            if is_set {
                let why = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
                report.invalid(&at.field("allowPrivilegeEscalation"), false, why);
            }
        }
    }
}

/// Of all containers of a pod.
pub(super) fn of_pod(context: &PodSecurityContext, at: &At, report: &mut Report) {
    let single = [
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
        ("fsGroup", context.fs_group),
    ];
    ids(&single, at, report);
    for (index, group) in context.supplemental_groups.iter().enumerate() {
        report.in_range(&at.field("supplementalGroups").index(index), *group, 0, LARGEST_ID);
    }
    if let Some(profile) = &context.seccomp_profile {
        seccomp(profile, &at.field("seccompProfile"), report);
    }
    let mut names = HashSet::new();
    for (index, sysctl) in context.sysctls.iter().enumerate() {
        let at = at.field("sysctls").index(index).field("name");
        if !is_sysctl(&sysctl.name) {
            let why = "must have at most 253 characters and match regex \
                 ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            report.invalid_text(&at, &sysctl.name, [why]);
        } else if !names.insert(sysctl.name.replace('/', ".")) {
            report.duplicate(&at, &sysctl.name);
        }
    }
}

fn ids(ids: &[(&'static str, Option<i64>)], at: &At, report: &mut Report) {
    for (field, id) in ids {
        if let Some(id) = id {
            report.in_range(&at.field(field), *id, 0, LARGEST_ID);
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let end = |one: char| one.is_ascii_lowercase() || one.is_ascii_digit();
    let sound = |part: &str| {
        part.starts_with(end) && part.ends_with(end) && part.chars().all(|one| end(one) || "-_".contains(one))
    };
    name.len() <= 253 && name.split(['.', '/']).all(sound)
}

fn seccomp(profile: &SeccompProfile, at: &At, report: &mut Report) {
    let at = at.field("localhostProfile");
    match (profile.source, profile.localhost_profile.as_deref()) {
        (SeccompProfileType::Localhost, None) => {
            report.required(&at, "must be set when seccomp type is Localhost")
        }
        (SeccompProfileType::Localhost, Some(path)) => paths::descending(path, &at, report),
        (_, Some(path)) => report.invalid_text(&at, path, ["can only be set when seccomp type is Localhost"]),
        (_, None) => {}
    }
}
