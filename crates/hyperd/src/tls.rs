//! The API over TCP: by TLS alone, and only for clients with a certificate of our authority.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;

/// How long a client may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Files of our own certificate and of the authority of clients' ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Where the API is served over TCP.
pub(crate) struct Tcp {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Tcp {
    /// Listens.
    ///
    /// # Errors
    /// A file cannot be read or is no PEM of its kind, or the address is taken.
    pub(crate) async fn listen(address: &str, files: &Files) -> anyhow::Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(server_config(files)?));
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        Ok(Self { listener, acceptor })
    }

    /// The next connection, before it has proven anything.
    pub(crate) async fn accept(&self) -> std::io::Result<TcpStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Shakes hands, and gives what the client says in the form of a local connection: whatever serves one does not know
    /// the difference.
    pub(crate) async fn admit(
        &self,
        stream: TcpStream,
        slot: OwnedSemaphorePermit,
    ) -> anyhow::Result<UnixStream> {
        let peer = stream.peer_addr()?;
        stream.set_nodelay(true)?;
        let shaken = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await;
        let mut remote =
            shaken.context("no TLS handshake came")?.with_context(|| format!("{peer} is refused"))?;
        let (ours, mut theirs) = UnixStream::pair()?;
        tokio::spawn(async move {
            let copied = tokio::io::copy_bidirectional(&mut remote, &mut theirs).await;
            if let Err(error) = copied {
                tracing::debug!(%peer, %error, "a TLS connection ended early");
            }
            drop(slot);
        });
        Ok(ours)
    }
}

fn server_config(files: &Files) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(&files.authority)? {
        authorities
            .add(certificate)
            .with_context(|| format!("{} is no authority's certificate", files.authority.display()))?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider.clone())
        .build()
        .with_context(|| format!("cannot verify clients by {}", files.authority.display()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("cannot read the private key in {}", files.key.display()))?;
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(&files.certificate)?, key)
        .with_context(|| format!("cannot use the certificate in {}", files.certificate.display()))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read the certificates in {}", path.display()))?;
    ensure!(!certificates.is_empty(), "there is no certificate in {}", path.display());
    Ok(certificates)
}
