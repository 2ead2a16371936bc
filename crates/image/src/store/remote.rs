//! What a registry has under a name, without fetching it.

use crate::auth::Auth;
use crate::config::ImageConfig;
use crate::platform::Platform;
use crate::reference::{DEFAULT_TAG, Reference};
use crate::registry::{Client, endpoints, is_index, parse_index, parse_manifest};

use super::error::PullError;
use super::image::RemoteImage;

/// Asks the registry itself, no mirror.
///
/// # Errors
/// See [`PullError`].
pub async fn look(
    client: &Client,
    reference: &Reference,
    auth: Option<Auth>,
) -> Result<RemoteImage, PullError> {
    let endpoint = endpoints(reference, client.config()).pop().expect("the registry itself is the last");
    let failed = |error| PullError::of_registry(reference, &endpoint.host, error);
    let unusable = |problem| PullError::Manifest { reference: reference.to_string(), problem };
    let session = client.session(&endpoint, reference, auth).await.map_err(failed)?;
    let name = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or(DEFAULT_TAG).to_owned(),
    };
    let found = session.manifest(&name, reference.digest()).await.map_err(failed)?;
    let found = found.ok_or_else(|| PullError::Schema1(reference.to_string()))?;
    let platforms = if is_index(&found.media_type) {
        let listed = parse_index(&found.bytes).map_err(unusable)?;
        listed.into_iter().filter_map(|(_, platform)| platform).collect()
    } else {
        let config = parse_manifest(&found.bytes).map_err(unusable)?.config;
        let bytes = session.small_blob(config.digest, config.size).await.map_err(failed)?;
        let config = ImageConfig::parse(&bytes)?;
        vec![Platform { os: config.os, architecture: config.architecture, variant: config.variant }]
    };
    Ok(RemoteImage {
        media_type: found.media_type,
        digest: found.digest,
        size: found.bytes.len() as u64,
        platforms,
    })
}
