//! Volumes.

use std::collections::HashSet;

use super::{env, paths};
use crate::fault::Report;
use crate::model::{
    DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Volume, VolumeProjection, VolumeSource,
};
use crate::place::At;
use crate::value::{Quantity, config_key, dns_label, dns_subdomain};

/// All volumes of a pod.
pub(super) fn volumes(volumes: &[Volume], at: &At, report: &mut Report) {
    let mut names = HashSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let at = at.index(index);
        let name_at = at.field("name");
        report.invalid_text(&name_at, &volume.name, dns_label(&volume.name));
        if !names.insert(&volume.name) {
            report.duplicate(&name_at, &volume.name);
        }
        for (number, (field, source)) in volume.sources().into_iter().enumerate() {
            let at = at.field(field);
            if number > 0 {
                report.forbidden(&at, "may not specify more than 1 volume type");
            }
            one(source, &at, report);
        }
    }
}

fn one(source: VolumeSource<'_>, at: &At, report: &mut Report) {
    let mode_at = at.field("defaultMode");
    match source {
        VolumeSource::ConfigMap(map) => {
            report.invalid_text(&at.field("name"), &map.name, dns_subdomain(&map.name));
            paths::mode(map.default_mode, &mode_at, report);
            keys(&map.items, at, report);
        }
        VolumeSource::Secret(secret) => {
            report.invalid_text(
                &at.field("secretName"),
                &secret.secret_name,
                dns_subdomain(&secret.secret_name),
            );
            paths::mode(secret.default_mode, &mode_at, report);
            keys(&secret.items, at, report);
        }
        VolumeSource::DownwardApi(about) => {
            paths::mode(about.default_mode, &mode_at, report);
            files(&about.items, at, report);
        }
        VolumeSource::EmptyDir(empty) => {
            if empty.size_limit.is_some_and(|limit| limit < Quantity::ZERO) {
                report.forbidden(&at.field("sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
        }
        VolumeSource::HostPath(host) => {
            let at = at.field("path");
            paths::absolute(&host.path, &at, report);
            paths::without_backsteps(&host.path, &at, report);
        }
        VolumeSource::Nfs(nfs) => paths::absolute(&nfs.path, &at.field("path"), report),
        VolumeSource::Claim(claim) => {
            let name = &claim.claim_name;
            report.invalid_text(&at.field("claimName"), name, dns_subdomain(name));
        }
        VolumeSource::Projected(projected) => {
            paths::mode(projected.default_mode, &mode_at, report);
            sources(projected, &at.field("sources"), report);
        }
        VolumeSource::Image(_) => {}
    }
}

/// Which keys become which files.
fn keys(items: &[KeyToPath], at: &At, report: &mut Report) {
    for (index, item) in items.iter().enumerate() {
        let at = at.field("items").index(index);
        report.invalid_text(&at.field("key"), &item.key, config_key(&item.key));
        paths::of_file(&item.path, &at.field("path"), report);
        if let Some(mode) = item.mode {
            paths::mode(mode, &at.field("mode"), report);
        }
    }
}

/// Files about the pod.
fn files(items: &[DownwardAPIVolumeFile], at: &At, report: &mut Report) {
    for (index, file) in items.iter().enumerate() {
        let at = at.field("items").index(index);
        paths::of_file(&file.path, &at.field("path"), report);
        if let Some(mode) = file.mode {
            paths::mode(mode, &at.field("mode"), report);
        }
        match (&file.field_ref, &file.resource_field_ref) {
            (Some(field), None) => env::field_of_pod(field, &env::IN_FILES, &at.field("fieldRef"), report),
            (None, Some(resource)) => {
                env::resource_of_container(resource, true, &at.field("resourceFieldRef"), report);
            }
            (Some(_), Some(_)) => {
                report.invalid_text(
                    &at,
                    "resource",
                    ["fieldRef and resourceFieldRef can not be specified simultaneously"],
                );
            }
            (None, None) => {
                report.required(&at, "one of fieldRef and resourceFieldRef is required");
            }
        }
    }
}

fn sources(projected: &ProjectedVolumeSource, at: &At, report: &mut Report) {
    let mut all = HashSet::new();
    for (index, source) in projected.sources.iter().enumerate() {
        let at = at.index(index);
        let given = projection(source, &at, report);
        match given.len() {
            0 => report.required(&at, "must specify one of: `secret`, `downwardAPI`, `configMap`"),
            1 => {}
            _ => report.forbidden(&at, "may not specify more than 1 volume type per source"),
        }
        for path in given.into_iter().flatten() {
            if !all.insert(path) {
                report.invalid_text(&at, path, ["conflicting duplicate paths"]);
            }
        }
    }
}

/// Checks one source; the paths of each that it has.
fn projection<'a>(source: &'a VolumeProjection, at: &At, report: &mut Report) -> Vec<Vec<&'a str>> {
    let mut given = Vec::new();
    if let Some(map) = &source.config_map {
        let at = at.field("configMap");
        report.invalid_text(&at.field("name"), &map.name, dns_subdomain(&map.name));
        keys(&map.items, &at, report);
        given.push(map.items.iter().map(|item| item.path.as_str()).collect());
    }
    if let Some(secret) = &source.secret {
        let at = at.field("secret");
        report.invalid_text(&at.field("name"), &secret.name, dns_subdomain(&secret.name));
        keys(&secret.items, &at, report);
        given.push(secret.items.iter().map(|item| item.path.as_str()).collect());
    }
    if let Some(about) = &source.downward_api {
        files(&about.items, &at.field("downwardAPI"), report);
        given.push(about.items.iter().map(|item| item.path.as_str()).collect());
    }
    given
}
