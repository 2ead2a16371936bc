//! One connection per request: connecting to a unix socket costs less than keeping a pool honest.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http1::body::{Body, Incoming};
use http1::client::conn::http1 as connection;
use http1::header::{HOST, HeaderValue};
use http1::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{ApiError, Certificates, Endpoint};
use crate::timeline::Timeline;
use crate::{daemon, output};

/// A connected byte stream.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// How long a daemon that was ended in an orderly way may take to be back: it was told to end, and is not ours to start.
const ENDED_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks for it.
const POLL: Duration = Duration::from_millis(50);

/// Opens connections to one daemon, starting it when nobody listens on its unix socket.
pub struct Transport {
    endpoint: Endpoint,
    certificates: Option<Certificates>,
    log_level: Option<String>,
    started: AtomicBool,
    told: AtomicBool,
    timeline: Arc<Timeline>,
}

impl Transport {
    pub(super) fn new(
        endpoint: Endpoint,
        certificates: Option<Certificates>,
        log_level: Option<String>,
        timeline: Arc<Timeline>,
    ) -> Self {
        let (started, told) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { endpoint, certificates, log_level, started, told, timeline }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends one request on a connection of its own and gives the answer's head.
    pub(super) async fn send<B>(&self, mut request: Request<B>) -> Result<Response<Incoming>, ApiError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let socket = self.connect().await?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse::<Uri>().map_err(|error| ApiError::Broken(Box::new(error)))?;
        // A unix socket has no name of its own; the header has to be there all the same.
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
        let broken = |error: http1::Error| ApiError::Broken(Box::new(error));
        let (mut sender, connection) = connection::handshake(TokioIo::new(socket)).await.map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(broken)
    }

    async fn connect(&self) -> Result<Box<dyn Socket>, ApiError> {
        let first = !self.started.swap(true, Ordering::Relaxed);
        let began = self.timeline.now();
        let attempt = self.dial().await;
        if first {
            self.timeline.record("connect", began);
        }
        match (attempt, &self.endpoint) {
            (Ok(socket), _) => Ok(socket),
            (Err(error), Endpoint::Unix(path)) if first && nobody_listens(&error) => {
                let began = self.timeline.now();
                daemon::start(path, &self.endpoint.to_string(), self.log_level.as_deref()).await?;
                self.timeline.record("daemon start", began);
                self.dial().await.map_err(|source| self.unreachable(source))
            }
            (Err(error), _) => Err(self.unreachable(error)),
        }
    }

    /// Reaches the daemon again after it was lost, and says so once. One that crashed, which its socket without a
    /// listener shows, is started as at first use.
    ///
    /// # Errors
    /// It was ended in an orderly way and does not come back, or cannot be started.
    pub(super) async fn come_back(&self) -> Result<(), ApiError> {
        if !self.told.swap(true, Ordering::Relaxed) {
            output::complain("hyper: the connection to the daemon is lost; connecting again\n");
        }
        let began = Instant::now();
        loop {
            let error = match self.dial().await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            match &self.endpoint {
                Endpoint::Unix(path) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    daemon::start(path, &self.endpoint.to_string(), self.log_level.as_deref()).await?;
                    return Ok(());
                }
                _ if nobody_listens(&error) && began.elapsed() < ENDED_PATIENCE => {
                    tokio::time::sleep(POLL).await;
                }
                _ => return Err(self.unreachable(error)),
            }
        }
    }

    async fn dial(&self) -> io::Result<Box<dyn Socket>> {
        match &self.endpoint {
            Endpoint::Unix(path) => Ok(Box::new(daemon::connect(path).await?)),
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str()).await?;
                stream.set_nodelay(true)?;
                match &self.certificates {
                    Some(certificates) => Ok(Box::new(certificates.connect(address, stream).await?)),
                    None => Ok(Box::new(stream)),
                }
            }
        }
    }

    fn unreachable(&self, source: io::Error) -> ApiError {
        ApiError::Connect { endpoint: self.endpoint.to_string(), source }
    }
}

/// No socket file, or one that a dead daemon left behind.
pub fn nobody_listens(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
