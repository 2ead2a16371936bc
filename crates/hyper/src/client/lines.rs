//! A response body of JSON values, one after the other, as pull, events and stats send them.

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use http1::body::Incoming;
use serde::de::DeserializeOwned;

use super::ApiError;

/// Longest line kept in memory: far above any message of the API.
const MAX_LINE: usize = 16 << 20;

/// Reads one JSON value per line.
pub struct JsonLines {
    body: Incoming,
    pending: BytesMut,
    request: String,
    ended: bool,
}

impl JsonLines {
    pub(super) fn new(body: Incoming, request: String) -> Self {
        Self { body, pending: BytesMut::new(), request, ended: false }
    }

    /// The next value; `None` at the end of the stream.
    ///
    /// # Errors
    /// A broken connection, text that is not `T`, or a line above 16 MiB.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ApiError> {
        loop {
            let Some(line) = self.next_line().await? else { return Ok(None) };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            return serde_json::from_slice(&line)
                .map(Some)
                .map_err(|source| ApiError::Answer { request: self.request.clone(), source });
        }
    }

    /// The next line without its newline, as it came.
    pub async fn next_line(&mut self) -> Result<Option<BytesMut>, ApiError> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.pending[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.pending.split_to(searched + at);
                self.pending.advance(1);
                return Ok(Some(line));
            }
            searched = self.pending.len();
            if searched > MAX_LINE {
                return Err(ApiError::LineTooLong { limit: MAX_LINE });
            }
            if self.ended {
                return Ok((!self.pending.is_empty()).then(|| self.pending.split()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.pending.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(ApiError::Broken(Box::new(error))),
                None => self.ended = true,
            }
        }
    }
}
