//! An image from another and a layer over it.

use std::io::Read;
use std::sync::Arc;

use crate::config::{ContainerConfig, History, ImageConfig, MAX_LAYERS};
use crate::digest::{Digest, ImageId};
use crate::layer::Limits;
use crate::tar::trailer;

use super::error::{CommitError, LookupError};
use super::image::CommitRequest;
use super::layers::{Shelf, ShelfError, chain_ids};
use super::names::find;
use super::{changes, made, time};

/// Applies Dockerfile lines to a configuration.
///
/// # Errors
/// [`CommitError::Change`].
pub fn changed(mut config: ContainerConfig, lines: &[String]) -> Result<ContainerConfig, CommitError> {
    for line in lines {
        changes::apply(&mut config, line)
            .map_err(|problem| CommitError::Change { line: line.clone(), problem })?;
    }
    Ok(config)
}

/// Makes the image. A layer in which nothing is becomes none.
///
/// # Errors
/// See [`CommitError`].
pub fn commit(
    shelf: &Arc<Shelf>,
    limits: Limits,
    layer: impl Read + Send,
    request: &CommitRequest,
) -> Result<ImageId, CommitError> {
    if request.reference.as_ref().is_some_and(|reference| reference.digest().is_some()) {
        return Err(CommitError::Digest);
    }
    let running = changed(request.config.clone(), &request.changes)?;
    let parent = find(&shelf.state(), &request.parent)?;
    let mut config = ImageConfig::parse(&parent.config)?;
    let mut diff_ids = config.rootfs.diff_ids.clone();
    let mut holds = Vec::new();
    for (row, chain_id) in parent.layers.iter().zip(chain_ids(&diff_ids)) {
        let found = shelf.find(&row.diff_id, &chain_id)?;
        let (_, hold) = found.ok_or_else(|| LookupError::NotFound(request.parent.clone()))?;
        holds.push(hold);
    }
    let below: Vec<Digest> = parent.layers.iter().map(|row| row.key).collect();
    let mut rows = parent.layers;
    let failed = |error| match error {
        ShelfError::Layer(error) => CommitError::Layer(error),
        ShelfError::Store(error) => CommitError::Store(error),
    };
    let made = shelf.make(layer, limits).map_err(failed)?;
    let diff_id = made.diff_id;
    let empty = diff_id == Digest::of(&trailer());
    if !empty {
        if diff_ids.len() >= MAX_LAYERS {
            return Err(CommitError::TooManyLayers);
        }
        diff_ids.push(diff_id);
        let chain_id = *chain_ids(&diff_ids).last().expect("one was just added");
        let lock = shelf.making(diff_id);
        let _making = lock.blocking_lock();
        let (row, hold) = match shelf.find(&diff_id, &chain_id)? {
            Some(found) => found,
            None => shelf.keep(made, &chain_id, &below).map_err(failed)?,
        };
        holds.push(hold);
        rows.push(row);
    }
    let created = time::now_text();
    config.created = Some(created.clone());
    config.author.clone_from(&request.author);
    config.comment.clone_from(&request.comment);
    config.docker_version = None;
    config.config = running;
    config.rootfs.diff_ids = diff_ids;
    config.history.push(History {
        created: Some(created),
        created_by: Some(request.created_by.clone()).filter(|text| !text.is_empty()),
        author: request.author.clone(),
        comment: request.comment.clone(),
        empty_layer: empty,
    });
    let id = made::add(shelf, &config, &rows, request.reference.as_ref())?;
    drop(holds);
    Ok(id)
}
