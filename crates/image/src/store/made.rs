//! Images made here: of a configuration and layers on the shelf, without a registry's manifest.

use serde_json::json;

use crate::config::ImageConfig;
use crate::digest::{Digest, ImageId};
use crate::reference::{DEFAULT_TAG, Reference};
use crate::registry::OCI_MANIFEST;

use super::database::{self, LayerRow, NewImage};
use super::error::StoreError;
use super::layers::Shelf;
use super::time;

/// Writes the image and, if it is to have one, its name. The layers (bottom first) are held by the caller.
///
/// # Errors
/// The database fails.
pub fn add(
    shelf: &Shelf,
    config: &ImageConfig,
    layers: &[LayerRow],
    reference: Option<&Reference>,
) -> Result<ImageId, StoreError> {
    let config = serde_json::to_vec(config).expect("a configuration is valid JSON");
    let id = ImageId::new(Digest::of(&config));
    let sizes: Vec<_> = layers.iter().map(|layer| (layer.diff_id, layer.summary.tar_size)).collect();
    let keys: Vec<Digest> = layers.iter().map(|layer| layer.key).collect();
    let manifest = manifest(&config, &sizes);
    let now = time::now();
    let new = NewImage {
        id,
        config: &config,
        manifest_digest: Digest::of(&manifest),
        manifest_media_type: OCI_MANIFEST,
        manifest: &manifest,
        layers: &keys,
        now,
    };
    let mut state = shelf.state();
    let transaction = state.connection.transaction()?;
    database::add_image(&transaction, &new)?;
    if let Some(reference) = reference {
        let tag = reference.tag().unwrap_or(DEFAULT_TAG);
        database::set_tag(&transaction, &reference.repository(), tag, &id, now)?;
    }
    transaction.commit()?;
    Ok(id)
}

/// An OCI manifest over uncompressed layers (diff ID and size of each).
pub fn manifest(config: &[u8], layers: &[(Digest, u64)]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|(diff_id, size)| {
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": diff_id, "size": size})
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(config),
            "size": config.len(),
        },
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}
