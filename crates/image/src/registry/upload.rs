//! Sending blobs and manifests (distribution specification, "Push").

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::mpsc;

use crate::digest::Digest;

use super::client::{Session, shown};
use super::error::RegistryError;

/// Pieces of an upload that wait for the network.
const PIECES: usize = 8;
/// Longest a registry may take to check and store what has come.
const FINISH_PATIENCE: Duration = Duration::from_secs(300);

/// Where a begun upload goes on.
#[derive(Debug)]
pub struct Upload(Url);

/// What came of asking for a blob of another repository.
#[derive(Debug)]
pub enum Mounted {
    /// It is in this repository, too.
    Yes,
    /// It is to be uploaded.
    No(Upload),
}

/// The writing end of a blob on its way.
pub struct BlobSink(mpsc::Sender<Bytes>);

/// The sending end, for [`Session::send`].
pub struct BlobSource {
    pieces: mpsc::Receiver<Bytes>,
    sent: Arc<AtomicU64>,
}

/// The two ends. Whoever writes does so where blocking is allowed.
pub fn blob_pipe() -> (BlobSink, BlobSource) {
    let (sender, pieces) = mpsc::channel(PIECES);
    (BlobSink(sender), BlobSource { pieces, sent: Arc::default() })
}

impl io::Write for BlobSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobSource {
    /// A request's body. The blob's end is where the writing end is dropped: whoever wrote says whether that was all.
    fn body(self) -> reqwest::Body {
        let Self { mut pieces, sent } = self;
        let frames = futures::stream::poll_fn(move |context| match pieces.poll_recv(context) {
            Poll::Ready(Some(piece)) => {
                sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                Poll::Ready(Some(Ok::<_, io::Error>(http_body::Frame::data(piece))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        reqwest::Body::wrap(BoxBody::new(StreamBody::new(frames)))
    }
}

impl Session<'_> {
    /// Whether the repository has a blob of this digest, and how long it is.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn blob_size(&self, digest: Digest) -> Result<Option<u64>, RegistryError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        match self.request(Method::HEAD, url, &HeaderMap::new(), Bytes::new()).await {
            Ok(answer) => {
                let length = answer.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
                Ok(length.and_then(|length| length.parse().ok()))
            }
            Err(error) if error.refusal().is_some_and(|refusal| refusal.status == 404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for a blob of the repository `from` at the same registry.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn mount(&self, digest: Digest, from: &str) -> Result<Mounted, RegistryError> {
        let mut url = self.url("blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        self.post(url).await
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn begin_upload(&self) -> Result<Upload, RegistryError> {
        let url = self.url("blobs/uploads/")?;
        match self.post(url.clone()).await? {
            Mounted::No(upload) => Ok(upload),
            Mounted::Yes => {
                let problem = "it has a blob that was not named".to_owned();
                Err(RegistryError::Protocol { url: shown(url.as_str()), problem })
            }
        }
    }

    async fn post(&self, url: Url) -> Result<Mounted, RegistryError> {
        let answer = self.request(Method::POST, url, &HeaderMap::new(), Bytes::new()).await?;
        match answer.status() {
            StatusCode::CREATED => Ok(Mounted::Yes),
            _ => self.next_place(&answer).map(Mounted::No),
        }
    }

    /// Sends a blob's bytes to a begun upload.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn send(&self, upload: Upload, source: BlobSource) -> Result<Upload, RegistryError> {
        let sent = Arc::clone(&source.sent);
        let request = self.authorized(Method::PATCH, upload.0.clone()).await?;
        let request = request.header(CONTENT_TYPE, "application/octet-stream").body(source.body()).send();
        tokio::pin!(request);
        let mut before = 0;
        let mut idle = Duration::ZERO;
        let after = self.client().config().stall_timeout;
        let step = (after / 10).max(Duration::from_millis(10));
        let answer = loop {
            match tokio::time::timeout(step, &mut request).await {
                Ok(answer) => break answer,
                Err(_) => {
                    let now = sent.load(Ordering::Relaxed);
                    idle = if now > before { Duration::ZERO } else { idle + step };
                    before = now;
                    if idle >= after {
                        return Err(RegistryError::Stalled { url: shown(upload.0.as_str()), after });
                    }
                }
            }
        };
        let answer = answer.map_err(|source| RegistryError::Http {
            url: shown(upload.0.as_str()),
            source: source.without_url(),
        })?;
        let answer = self.success(answer).await?;
        self.next_place(&answer)
    }

    /// Completes an upload: what was sent has this digest.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn complete(&self, upload: Upload, digest: Digest) -> Result<(), RegistryError> {
        self.put_upload(upload, digest, Bytes::new()).await
    }

    /// Uploads a small blob at once.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn put_blob(&self, digest: Digest, bytes: Bytes) -> Result<(), RegistryError> {
        let upload = self.begin_upload().await?;
        self.put_upload(upload, digest, bytes).await
    }

    async fn put_upload(&self, upload: Upload, digest: Digest, bytes: Bytes) -> Result<(), RegistryError> {
        let Upload(mut url) = upload;
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let octets = HeaderValue::from_static("application/octet-stream");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, octets)]);
        let stored = self.request(Method::PUT, url.clone(), &headers, bytes);
        match tokio::time::timeout(FINISH_PATIENCE, stored).await {
            Ok(answer) => answer.map(|_| ()),
            Err(_) => Err(RegistryError::Stalled { url: shown(url.as_str()), after: FINISH_PATIENCE }),
        }
    }

    /// Stores a manifest under a tag.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn put_manifest(
        &self,
        tag: &str,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Result<(), RegistryError> {
        let url = self.url(&format!("manifests/{tag}"))?;
        let content_type = HeaderValue::from_str(media_type).map_err(|_| RegistryError::Protocol {
            url: shown(url.as_str()),
            problem: format!("{media_type:?} is no media type"),
        })?;
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type)]);
        self.request(Method::PUT, url, &headers, bytes.into()).await.map(|_| ())
    }

    /// Where an answer says that an upload goes on: at the registry or, as registries may have it, elsewhere.
    fn next_place(&self, answer: &reqwest::Response) -> Result<Upload, RegistryError> {
        let asked = answer.url();
        let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let next = location.and_then(|location| asked.join(location).ok());
        let fail = |problem: &str| RegistryError::Protocol {
            url: shown(asked.as_str()),
            problem: problem.to_owned(),
        };
        let next = next.ok_or_else(|| fail("it does not say where the upload goes on"))?;
        match (asked.scheme(), next.scheme()) {
            (_, "https") | ("http", "http") => Ok(Upload(next)),
            ("https", "http") if self.is_insecure() => Ok(Upload(next)),
            _ => Err(fail("the upload is to go on away from https")),
        }
    }
}
