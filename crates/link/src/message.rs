//! Frames on a stream.

use hyper_protocol::frame;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::LinkError;

/// Reads one message; `None` when the stream ends before it begins.
///
/// # Errors
/// The stream fails or ends inside the message, or the message is too long or of another shape.
pub async fn read_frame<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, LinkError> {
    let mut prefix = [0; frame::PREFIX];
    if stream.read(&mut prefix[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut prefix[1..]).await?;
    let length = frame::body_length(prefix)?;
    // Grows with what arrives, not with what was announced.
    let mut body = Vec::with_capacity(length.min(64 << 10));
    (&mut *stream).take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(LinkError::Closed);
    }
    Ok(Some(frame::decode(&body)?))
}

/// Writes one message.
///
/// # Errors
/// The stream fails, or the message is too long.
pub async fn write_frame<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), LinkError> {
    stream.write_all(&frame::encode(message)?).await?;
    stream.flush().await?;
    Ok(())
}
