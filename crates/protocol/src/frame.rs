//! Length-prefixed JSON: `u32` length in big endian, then that many bytes of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Longest body of a frame, in bytes. The largest message is a container's runtime specification with its
/// seccomp profile and environment, some hundred KiB; the bound keeps a hostile peer from making us allocate.
pub const MAX_BODY: usize = 4 << 20;

/// Length of the prefix, in bytes.
pub const PREFIX: usize = 4;

/// A frame could not be encoded or decoded.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The body is longer than [`MAX_BODY`].
    #[error("frame of {length} bytes, at most {MAX_BODY} are allowed")]
    TooLong {
        /// Length of the body, in bytes.
        length: usize,
    },
    /// The body is not the JSON that was expected.
    #[error("frame body is not a valid message")]
    Json(#[source] serde_json::Error),
}

/// Encodes a message with its prefix.
///
/// # Errors
/// The message is longer than [`MAX_BODY`] or cannot be serialised.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; PREFIX];
    serde_json::to_writer(&mut bytes, message).map_err(FrameError::Json)?;
    let length = bytes.len() - PREFIX;
    if length > MAX_BODY {
        return Err(FrameError::TooLong { length });
    }
    bytes[..PREFIX].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(bytes)
}

/// Length of the body that a prefix announces.
///
/// # Errors
/// The length exceeds [`MAX_BODY`].
pub fn body_length(prefix: [u8; PREFIX]) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(prefix) as usize;
    if length > MAX_BODY { Err(FrameError::TooLong { length }) } else { Ok(length) }
}

/// Decodes a body.
///
/// # Errors
/// The body is not JSON of the expected shape.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(body).map_err(FrameError::Json)
}
