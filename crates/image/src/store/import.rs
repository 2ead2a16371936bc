//! An image from a root filesystem's tar.

use std::io::Read;
use std::sync::Arc;

use serde_json::json;

use crate::config::{History, ImageConfig, RootFs};
use crate::digest::{Digest, ImageId};
use crate::layer::Limits;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::DEFAULT_TAG;
use crate::registry::OCI_MANIFEST;

use super::changes;
use super::database::{self, NewImage};
use super::error::{ImportError, StoreError};
use super::image::ImportRequest;
use super::layers::{Shelf, ShelfError};
use super::time;

/// Makes an image of one layer.
///
/// # Errors
/// See [`ImportError`].
pub fn import(
    shelf: &Arc<Shelf>,
    limits: Limits,
    tar: impl Read + Send,
    request: &ImportRequest,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<ImageId, ImportError> {
    if request.reference.as_ref().is_some_and(|reference| reference.digest().is_some()) {
        return Err(ImportError::Digest);
    }
    let mut config = new_config(request)?;
    let failed = |error| match error {
        ShelfError::Layer(error) => ImportError::Layer(error),
        ShelfError::Store(error) => ImportError::Store(error),
    };
    let made = shelf.make(tar, limits).map_err(failed)?;
    let diff_id = made.diff_id;
    let (row, _hold) = shelf.keep(made, &diff_id, &[]).map_err(failed)?;
    config.rootfs = RootFs { kind: "layers".to_owned(), diff_ids: vec![diff_id] };
    let config = serde_json::to_vec(&config).expect("a configuration is valid JSON");
    let id = ImageId::new(Digest::of(&config));
    let manifest = manifest(&config, &[(diff_id, row.summary.tar_size)]);
    let now = time::now();
    let new = NewImage {
        id,
        config: &config,
        manifest_digest: Digest::of(&manifest),
        manifest_media_type: OCI_MANIFEST,
        manifest: &manifest,
        layers: &[row.key],
        now,
    };
    let mut state = shelf.state();
    let transaction = state.connection.transaction().map_err(StoreError::Database)?;
    database::add_image(&transaction, &new).map_err(StoreError::Database)?;
    if let Some(reference) = &request.reference {
        let tag = reference.tag().unwrap_or(DEFAULT_TAG);
        database::set_tag(&transaction, &reference.repository(), tag, &id, now)
            .map_err(StoreError::Database)?;
    }
    transaction.commit().map_err(StoreError::Database)?;
    drop(state);
    progress(Progress::Status(id.to_string()));
    Ok(id)
}

/// The configuration without its layer.
fn new_config(request: &ImportRequest) -> Result<ImageConfig, ImportError> {
    let created = time::now_text();
    let platform = request.platform.clone().unwrap_or_else(Platform::host);
    let comment = request.message.clone().filter(|message| !message.is_empty());
    let comment = comment.unwrap_or_else(|| "Imported from -".to_owned());
    let history =
        History { created: Some(created.clone()), comment: Some(comment.clone()), ..History::default() };
    let mut config = ImageConfig {
        created: Some(created),
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        history: vec![history],
        comment: Some(comment),
        ..ImageConfig::default()
    };
    for line in &request.changes {
        changes::apply(&mut config.config, line)
            .map_err(|problem| ImportError::Change { line: line.clone(), problem })?;
    }
    Ok(config)
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
