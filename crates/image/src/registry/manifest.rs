//! Manifests and indexes, OCI's and docker's.

use serde::Deserialize;

use crate::digest::Digest;
use crate::platform::Platform;

/// Most bytes of a manifest or index, as the distribution specification recommends.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Docker's manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's list of manifests.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI's manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's first manifest format, signed and unsigned; refused.
const SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// A manifest or index as it came.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
}

/// A reference to content.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The platform, in an index.
    #[serde(default)]
    platform: Option<DescriptorPlatform>,
    /// Other places for foreign layers.
    #[serde(default)]
    urls: Option<Vec<String>>,
    /// Remarks.
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct DescriptorPlatform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

/// An image's manifest.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyManifest {
    #[serde(default)]
    schema_version: i64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

impl Descriptor {
    /// An annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// The media type: what the document says, else what the registry said, else what it looks like.
/// None for schema 1, an error text for nonsense.
pub fn media_type_of(bytes: &[u8], header: Option<&str>) -> Result<Option<String>, String> {
    let header = header.map(|value| value.split(';').next().unwrap_or_default().trim().to_owned());
    if header.as_deref().is_some_and(|header| SCHEMA_1.contains(&header)) {
        return Ok(None);
    }
    let document: AnyManifest =
        serde_json::from_slice(bytes).map_err(|error| format!("no manifest: {error}"))?;
    if document.schema_version == 1 {
        return Ok(None);
    }
    let known =
        |value: &String| [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX].contains(&value.as_str());
    // A document that is both is how one digest is made to mean two things (CVE-2021-41190).
    if document.manifests.is_some() && (document.config.is_some() || document.layers.is_some()) {
        return Err("it is a manifest and an index at once".to_owned());
    }
    let is_index = document.manifests.is_some();
    let found = document.media_type.filter(known).or(header.filter(known));
    let media_type = found.unwrap_or_else(|| if is_index { OCI_INDEX } else { OCI_MANIFEST }.to_owned());
    if is_index != matches!(media_type.as_str(), DOCKER_LIST | OCI_INDEX) {
        return Err(format!("its content is not a {media_type}"));
    }
    Ok(Some(media_type))
}

/// Whether a media type is an index's.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, DOCKER_LIST | OCI_INDEX)
}

/// Reads an index: the manifests in it, and for each its platform when it says one.
///
/// # Errors
/// A text about what is wrong.
pub fn parse_index(bytes: &[u8]) -> Result<Vec<(Descriptor, Option<Platform>)>, String> {
    let document: AnyManifest = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let manifests = document.manifests.ok_or("it lists no manifests")?;
    let with_platform = manifests.into_iter().map(|descriptor| {
        let platform = descriptor.platform.clone().map(|platform| Platform {
            os: platform.os,
            architecture: platform.architecture,
            variant: platform.variant.filter(|variant| !variant.is_empty()),
        });
        (descriptor, platform)
    });
    Ok(with_platform.collect())
}

/// The manifest of an index that serves `wanted` best; the first of equals.
pub fn choose(index: Vec<(Descriptor, Option<Platform>)>, wanted: &Platform) -> Option<Descriptor> {
    let mut best: Option<(u32, Descriptor)> = None;
    for (descriptor, platform) in index {
        // Attestations are listed as manifests for unknown/unknown.
        let fitness = match &platform {
            Some(platform) => platform.fitness(wanted),
            None => Some(0),
        };
        if let Some(fitness) = fitness
            && best.as_ref().is_none_or(|(known, _)| fitness > *known)
        {
            best = Some((fitness, descriptor));
        }
    }
    best.map(|(_, descriptor)| descriptor)
}

/// Reads a manifest and checks what does not need the configuration.
///
/// # Errors
/// A text about what is wrong.
pub fn parse_manifest(bytes: &[u8]) -> Result<Manifest, String> {
    let document: AnyManifest = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let config = document.config.ok_or("it has no configuration")?;
    let layers = document.layers.unwrap_or_default();
    if layers.len() > crate::config::MAX_LAYERS {
        return Err(format!(
            "it has {} layers, at most {} are supported",
            layers.len(),
            crate::config::MAX_LAYERS
        ));
    }
    let is_image_config = matches!(
        config.media_type.as_str(),
        "" | "application/vnd.docker.container.image.v1+json"
            | "application/vnd.oci.image.config.v1+json"
            | "application/octet-stream"
    );
    if !is_image_config {
        return Err(format!("it is no container image but an artefact of type {}", config.media_type));
    }
    if config.size > crate::config::MAX_CONFIG {
        return Err(format!(
            "its configuration has {} bytes, at most {} are supported",
            config.size,
            crate::config::MAX_CONFIG
        ));
    }
    for layer in &layers {
        let encrypted = layer.media_type.contains("+encrypted");
        let foreign = layer.urls.as_ref().is_some_and(|urls| !urls.is_empty());
        if encrypted || (foreign && layer.media_type.contains("foreign")) {
            return Err(format!(
                "layer {} is encrypted or not distributable ({})",
                layer.digest, layer.media_type
            ));
        }
    }
    Ok(Manifest { config, layers })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_ambiguous_document_is_refused() {
        let both = br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        assert!(media_type_of(both, None).is_err());
        let liar =
            br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","layers":[]}"#;
        assert!(media_type_of(liar, None).is_err());
        let old = br#"{"schemaVersion":1,"name":"x"}"#;
        assert_eq!(media_type_of(old, None), Ok(None));
    }

    #[test]
    fn an_index_is_searched_for_the_best_variant() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let entry = |text: &str, platform: &str| {
            format!(r#"{{"digest":"{}","size":1,"platform":{platform}}}"#, digest(text))
        };
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{},{},{}]}}"#,
            entry("attestation", r#"{"os":"unknown","architecture":"unknown"}"#),
            entry("v6", r#"{"os":"linux","architecture":"arm","variant":"v6"}"#),
            entry("v7", r#"{"os":"linux","architecture":"arm","variant":"v7"}"#),
            entry("amd64", r#"{"os":"linux","architecture":"amd64"}"#),
        );
        let pick = |platform: &str| {
            let index = parse_index(index.as_bytes()).expect("valid");
            choose(index, &platform.parse().expect("valid")).map(|found| found.digest)
        };
        assert_eq!(pick("linux/amd64"), Some(digest("amd64")));
        assert_eq!(pick("linux/arm"), Some(digest("v7")));
        assert_eq!(pick("linux/arm/v6"), Some(digest("v6")));
        assert_eq!(pick("linux/s390x"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = media_type_of(&bytes, None);
            let _ = parse_index(&bytes);
            let _ = parse_manifest(&bytes);
        }
    }
}
