//! What a pod refers to: it does not start before all of it is there.

use crate::model::{Container, KeyToPath, PodSpec, VolumeSource};

/// An object that a pod refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The kind: `ConfigMap`, `Secret` or `PersistentVolumeClaim`.
    pub kind: &'static str,
    /// The object's name, in the pod's namespace.
    pub name: String,
    /// The key that it has to have, if it is about one.
    pub key: Option<String>,
    /// Whether it may be missing.
    pub optional: bool,
    /// The path of the field that has the name, below the pod's spec: what [`crate::Document::place_of`] takes behind
    /// `spec.` or `spec.template.spec.`.
    pub path: String,
}

impl PodSpec {
    /// All that it refers to, in the order of the fields. Secrets for registries may be missing.
    #[must_use]
    pub fn references(&self) -> Vec<Reference> {
        let mut all = Vec::new();
        for (index, secret) in self.image_pull_secrets.iter().enumerate() {
            all.push(reference("Secret", &secret.name, true, format!("imagePullSecrets[{index}].name")));
        }
        for (field, containers) in
            [("initContainers", &self.init_containers), ("containers", &self.containers)]
        {
            for (index, container) in containers.iter().enumerate() {
                of_environment(container, &format!("{field}[{index}]"), &mut all);
            }
        }
        for (index, volume) in self.volumes.iter().enumerate() {
            for (field, source) in volume.sources() {
                of_volume(source, &format!("volumes[{index}].{field}"), &mut all);
            }
        }
        all
    }
}

fn reference(kind: &'static str, name: &str, optional: bool, path: String) -> Reference {
    Reference { kind, name: name.to_owned(), key: None, optional, path }
}

fn of_environment(container: &Container, at: &str, all: &mut Vec<Reference>) {
    for (index, source) in container.env_from.iter().enumerate() {
        let at = format!("{at}.envFrom[{index}]");
        if let Some(map) = &source.config_map_ref {
            all.push(reference("ConfigMap", &map.name, map.optional, format!("{at}.configMapRef.name")));
        }
        if let Some(secret) = &source.secret_ref {
            all.push(reference("Secret", &secret.name, secret.optional, format!("{at}.secretRef.name")));
        }
    }
    for (index, variable) in container.env.iter().enumerate() {
        let Some(from) = &variable.value_from else { continue };
        let at = format!("{at}.env[{index}].valueFrom");
        if let Some(map) = &from.config_map_key_ref {
            let path = format!("{at}.configMapKeyRef.name");
            let key = Some(map.key.clone());
            all.push(Reference { key, ..reference("ConfigMap", &map.name, map.optional, path) });
        }
        if let Some(secret) = &from.secret_key_ref {
            let path = format!("{at}.secretKeyRef.name");
            let key = Some(secret.key.clone());
            all.push(Reference { key, ..reference("Secret", &secret.name, secret.optional, path) });
        }
    }
}

fn of_volume(source: VolumeSource<'_>, at: &str, all: &mut Vec<Reference>) {
    match source {
        VolumeSource::ConfigMap(map) => {
            of_files(reference("ConfigMap", &map.name, map.optional, format!("{at}.name")), &map.items, all);
        }
        VolumeSource::Secret(secret) => {
            let path = format!("{at}.secretName");
            of_files(reference("Secret", &secret.secret_name, secret.optional, path), &secret.items, all);
        }
        VolumeSource::Claim(claim) => {
            let path = format!("{at}.claimName");
            all.push(reference("PersistentVolumeClaim", &claim.claim_name, false, path));
        }
        VolumeSource::Projected(projected) => {
            for (index, source) in projected.sources.iter().enumerate() {
                let at = format!("{at}.sources[{index}]");
                if let Some(map) = &source.config_map {
                    let path = format!("{at}.configMap.name");
                    of_files(reference("ConfigMap", &map.name, map.optional, path), &map.items, all);
                }
                if let Some(secret) = &source.secret {
                    let path = format!("{at}.secret.name");
                    of_files(reference("Secret", &secret.name, secret.optional, path), &secret.items, all);
                }
            }
        }
        VolumeSource::DownwardApi(_)
        | VolumeSource::EmptyDir(_)
        | VolumeSource::HostPath(_)
        | VolumeSource::Image(_)
        | VolumeSource::Nfs(_) => {}
    }
}

/// One for each key that becomes a file, or one for all keys.
fn of_files(whole: Reference, items: &[KeyToPath], all: &mut Vec<Reference>) {
    all.extend(items.iter().map(|item| Reference { key: Some(item.key.clone()), ..whole.clone() }));
    if items.is_empty() {
        all.push(whole);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Object, load};

    #[test]
    fn all_that_a_pod_refers_to_is_named_with_its_place() {
        let loaded = load([("trio", include_bytes!("../tests/files/trio.yaml").as_slice())]).unwrap();
        let mut found = Vec::new();
        for document in &loaded.documents {
            let spec = match &document.object {
                Object::StatefulSet(set) => &set.spec.template.spec,
                Object::Deployment(deployment) => &deployment.spec.template.spec,
                _ => continue,
            };
            for one in spec.references() {
                let line = document.place_of(&format!("spec.template.spec.{}", one.path)).line;
                let text = include_str!("../tests/files/trio.yaml").lines().nth(line - 1).unwrap();
                assert!(text.contains(&one.name), "{one:?}: {text}");
                found.push(format!("{} {} {} {}", one.kind, one.name, one.key.unwrap_or_default(), one.path));
            }
        }
        assert_eq!(
            found,
            [
                "Secret database password containers[0].env[0].valueFrom.secretKeyRef.name",
                "PersistentVolumeClaim data  volumes[0].persistentVolumeClaim.claimName",
                "Secret database  containers[1].envFrom[0].secretRef.name",
                "ConfigMap nginx default.conf volumes[0].configMap.name",
                "Secret database username volumes[2].projected.sources[1].secret.name",
            ]
        );
    }
}
