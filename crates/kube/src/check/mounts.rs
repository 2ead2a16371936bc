//! Volumes in containers.

use std::collections::{HashMap, HashSet};

use super::paths;
use crate::expand::expand;
use crate::fault::{Problem, Report, quoted};
use crate::model::{Container, PodSpec, RecursiveReadOnlyMode, VolumeMount, VolumeSource};
use crate::place::At;

/// What the volumes of a pod are, by name.
type Volumes<'a> = HashMap<&'a str, Option<VolumeSource<'a>>>;

/// Of all containers of a pod.
pub(super) fn all(spec: &PodSpec, at: &At, report: &mut Report) {
    let volumes: Volumes =
        spec.volumes.iter().map(|volume| (volume.name.as_str(), volume.source())).collect();
    for (field, containers) in [("initContainers", &spec.init_containers), ("containers", &spec.containers)] {
        for (index, container) in containers.iter().enumerate() {
            let at = at.field(field).index(index);
            mounts(container, &volumes, &at.field("volumeMounts"), report);
            devices(container, &volumes, &at.field("volumeDevices"), report);
        }
    }
}

fn mounts(container: &Container, volumes: &Volumes<'_>, at: &At, report: &mut Report) {
    let mut mounted = HashSet::new();
    let devices: HashSet<&str> = container.volume_devices.iter().map(|device| device.name.as_str()).collect();
    let places: HashSet<&str> =
        container.volume_devices.iter().map(|device| device.device_path.as_str()).collect();
    let variables: HashSet<&str> = container.env.iter().map(|variable| variable.name.as_str()).collect();
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let at = at.index(index);
        let (name_at, path_at) = (at.field("name"), at.field("mountPath"));
        let source = volumes.get(mount.name.as_str());
        if source.is_none() {
            report.not_found(&name_at, &mount.name);
        }
        if !mounted.insert(mount.mount_path.as_str()) {
            report.invalid_text(&path_at, &mount.mount_path, ["must be unique"]);
        }
        if devices.contains(mount.name.as_str()) {
            report.invalid_text(&name_at, &mount.name, ["must not already exist in volumeDevices"]);
        }
        if places.contains(mount.mount_path.as_str()) {
            let why = "must not already exist as a path in volumeDevices";
            report.invalid_text(&path_at, &mount.mount_path, [why]);
        }
        let of_image = matches!(source, Some(Some(VolumeSource::Image(_))));
        let known = container.env_from.is_empty().then_some(&variables);
        below(mount, of_image, known, &at, report);
        let recursive = mount.recursive_read_only.is_some_and(|mode| mode != RecursiveReadOnlyMode::Disabled);
        if recursive && !mount.read_only {
            report.forbidden(&at.field("recursiveReadOnly"), "may only be specified when readOnly is true");
        }
    }
}

/// What of a volume is mounted; `variables` are all that the container has, if that is known.
fn below(
    mount: &VolumeMount,
    of_image: bool,
    variables: Option<&HashSet<&str>>,
    at: &At,
    report: &mut Report,
) {
    let (path_at, text_at) = (at.field("subPath"), at.field("subPathExpr"));
    for (at, path) in [(&path_at, &mount.sub_path), (&text_at, &mount.sub_path_expr)] {
        if let Some(path) = path {
            if of_image {
                report.invalid_text(at, path, ["not allowed in image volume sources"]);
            }
            paths::descending(path, at, report);
        }
    }
    let Some(text) = &mount.sub_path_expr else { return };
    if mount.sub_path.is_some() {
        report.invalid_text(&text_at, text, ["subPathExpr and subPath are mutually exclusive"]);
    }
    let Some(variables) = variables else { return };
    for name in expand(text, |name| variables.contains(name).then(String::new)).missing {
        let why = format!("{} is no variable of the container, which will not start", quoted(&name));
        report.warn(&text_at, Problem::Odd(why));
    }
}

fn devices(container: &Container, volumes: &Volumes<'_>, at: &At, report: &mut Report) {
    let (mut names, mut places) = (HashSet::new(), HashSet::new());
    let mounts: HashSet<&str> = container.volume_mounts.iter().map(|mount| mount.name.as_str()).collect();
    let paths: HashSet<&str> =
        container.volume_mounts.iter().map(|mount| mount.mount_path.as_str()).collect();
    for (index, device) in container.volume_devices.iter().enumerate() {
        let at = at.index(index);
        let (name_at, path_at) = (at.field("name"), at.field("devicePath"));
        match volumes.get(device.name.as_str()) {
            None => report.not_found(&name_at, &device.name),
            Some(Some(VolumeSource::Claim(_))) => {}
            Some(_) => {
                let why =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                report.invalid_text(&name_at, &device.name, [why]);
            }
        }
        if !names.insert(device.name.as_str()) {
            report.invalid_text(&name_at, &device.name, ["must be unique"]);
        }
        if !places.insert(device.device_path.as_str()) {
            report.invalid_text(&path_at, &device.device_path, ["must be unique"]);
        }
        if device.device_path.split('/').any(|part| part == "..") {
            report.invalid_text(&path_at, &device.device_path, ["can not contain backsteps ('..')"]);
        }
        if mounts.contains(device.name.as_str()) {
            report.invalid_text(&name_at, &device.name, ["must not already exist in volumeMounts"]);
        }
        if paths.contains(device.device_path.as_str()) {
            let why = "must not already exist as a path in volumeMounts";
            report.invalid_text(&path_at, &device.device_path, [why]);
        }
    }
}
