//! The handlers, one module for each thing that the API is about.
//!
//! API types are made here from engine types and the other way; nothing of the API's shapes goes further down.

pub(crate) mod archive;
pub(crate) mod attach;
pub(crate) mod container;
pub(crate) mod create;
pub(crate) mod create_host;
pub(crate) mod create_mounts;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod health;
pub(crate) mod image;
pub(crate) mod image_push;
pub(crate) mod image_transfer;
pub(crate) mod inspect;
pub(crate) mod logs;
pub(crate) mod networks;
pub(crate) mod pod;
pub(crate) mod pod_watch;
mod ports;
pub(crate) mod stats;
pub(crate) mod system;
pub(crate) mod template;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod volume;

use std::future::Future;

use crate::http::{ApiError, Result};

/// Runs what must not stop half-way when its client goes away.
pub(crate) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = hyper_engine::Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result.map_err(ApiError::from),
        Err(error) => {
            tracing::error!(%error, "a request's task ended early");
            Err(ApiError::new(hyper::StatusCode::INTERNAL_SERVER_ERROR, "the request's task ended early"))
        }
    }
}
