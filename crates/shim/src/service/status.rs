//! Errors as containerd tells them apart.

use std::future::Future;

use ttrpc::{Code, get_status};

use crate::error::ShimError;

/// The status code and text of an error.
pub fn status(error: ShimError) -> ttrpc::Error {
    let code = match &error {
        ShimError::NotFound(_) => Code::NOT_FOUND,
        ShimError::AlreadyExists(_) => Code::ALREADY_EXISTS,
        ShimError::WrongState(_) => Code::FAILED_PRECONDITION,
        ShimError::Invalid(_) => Code::INVALID_ARGUMENT,
        ShimError::Unsupported(_) => Code::UNIMPLEMENTED,
        ShimError::Gone(_) => Code::UNAVAILABLE,
        ShimError::Program(_) | ShimError::Unanswered(_) | ShimError::Failed(_) => Code::UNKNOWN,
    };
    ttrpc::Error::RpcStatus(get_status(code, error))
}

/// Does something to its end even when the one who asked goes away meanwhile, which drops the request's own future.
pub async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ShimError>> + Send + 'static,
) -> ttrpc::Result<T> {
    match tokio::spawn(work).await {
        Ok(done) => done.map_err(status),
        Err(error) => Err(status(ShimError::failed("the request broke off", &error))),
    }
}
