//! An image from a root filesystem's tar.

use std::io::Read;
use std::sync::Arc;

use crate::config::{History, ImageConfig, RootFs};
use crate::digest::ImageId;
use crate::layer::Limits;
use crate::platform::Platform;
use crate::progress::Progress;

use super::error::ImportError;
use super::image::ImportRequest;
use super::layers::{Shelf, ShelfError};
use super::{changes, made, time};

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
    let id = made::add(shelf, &config, &[row], request.reference.as_ref())?;
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
