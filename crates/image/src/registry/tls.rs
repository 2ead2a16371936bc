//! Whom to trust, and how to prove who we are.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The ciphers do not fit together.
    #[error("no usable TLS version")]
    Version(#[source] rustls::Error),
    /// A file of additional roots or of a client's certificate is none.
    #[error("{path} holds no certificate")]
    Certificate {
        /// The file.
        path: String,
    },
    /// A client's certificate or key has no other half.
    #[error("{path} does not exist or holds nothing usable, but its other half does")]
    Pair {
        /// The file that is missing.
        path: String,
    },
    /// There are several client certificates.
    #[error("{directory} has more than one client certificate: keep one .cert with its .key there")]
    Ambiguous {
        /// The directory.
        directory: String,
    },
    /// The client's certificate cannot be used.
    #[error("client certificate in {directory} cannot be used")]
    Client {
        /// The directory.
        directory: String,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The verifier cannot be made.
    #[error("trusted certificates cannot be used")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// The system's roots, read when first needed.
#[derive(Default)]
pub struct Roots(OnceLock<RootCertStore>);

impl Roots {
    /// The system's roots. Where there are none, registries with public certificates fail and
    /// loopback ones work.
    fn system(&self) -> &RootCertStore {
        self.0.get_or_init(|| {
            let mut store = RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::warn!(%error, "some of the system's trusted certificates cannot be read");
            }
            store.add_parsable_certificates(found.certs);
            store
        })
    }

    /// For a registry: the system's roots and what `certs_dir/registry/` adds, or no check at all.
    /// As with docker, `*.crt` there are roots, and `NAME.cert` with `NAME.key` is what the registry
    /// sees of us.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn config(&self, certs_dir: &Path, registry: &str, verify: bool) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Version)?;
        if !verify {
            let verifier = Arc::new(Unchecked(provider));
            return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
        }
        let directory = certs_dir.join(registry);
        let extra = extra_roots(&directory)?;
        let mut roots = self.system().clone();
        let builder = if extra.is_empty() {
            builder.with_root_certificates(roots)
        } else {
            let (added, _) = roots.add_parsable_certificates(extra.iter().cloned());
            if added < extra.len() {
                return Err(TlsError::Certificate { path: format!("{}/*.crt", directory.display()) });
            }
            let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let chains = chains.map_err(TlsError::Verifier)?;
            let verifier = Arc::new(Pinning { chains, pinned: extra });
            builder.dangerous().with_custom_certificate_verifier(verifier)
        };
        match client_pair(&directory)? {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|source| TlsError::Client { directory: directory.display().to_string(), source }),
        }
    }
}

/// What a change of the files that [`Roots::config`] reads of a registry changes: their names and times.
pub fn stamp(certs_dir: &Path, registry: &str) -> Vec<(PathBuf, Option<SystemTime>)> {
    let directory = certs_dir.join(registry);
    let files = ["crt", "cert", "key"].into_iter().flat_map(|wanted| with_extension(&directory, wanted));
    let time = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    files.map(|path| (path.clone(), time(&path))).collect()
}

/// The files of a directory with an extension, in order; none if there is no directory.
fn with_extension(directory: &Path, wanted: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == wanted)).collect();
    found.sort_unstable();
    found
}

/// The certificates of a file, one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(TlsError::Certificate { path: path.display().to_string() }),
    }
}

/// The roots of a directory.
fn extra_roots(directory: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let mut roots = Vec::new();
    for path in with_extension(directory, "crt") {
        roots.extend(certificates(&path)?);
    }
    Ok(roots)
}

/// A certificate with those that vouch for it, and its key.
type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The client's certificate in a directory.
fn client_pair(directory: &Path) -> Result<Option<Pair>, TlsError> {
    let missing = |path: &Path| TlsError::Pair { path: path.display().to_string() };
    for key in with_extension(directory, "key") {
        let certificate = key.with_extension("cert");
        if !certificate.exists() {
            return Err(missing(&certificate));
        }
    }
    match with_extension(directory, "cert").as_slice() {
        [] => Ok(None),
        [path] => {
            let key = path.with_extension("key");
            let read = PrivateKeyDer::from_pem_file(&key).map_err(|_| missing(&key))?;
            Ok(Some((certificates(path)?, read)))
        }
        _ => Err(TlsError::Ambiguous { directory: directory.display().to_string() }),
    }
}

/// Accepts what roots vouch for, and the very certificates that the user put beside them: one that signs itself is
/// both an authority and a server's, which chains do not allow and docker takes.
#[derive(Debug)]
struct Pinning {
    chains: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Pinning {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.chains.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // "CA used as end entity" is among the others; it comes after the dates were found good.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.pinned.contains(certificate) =>
            {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Accepts any certificate, for registries the user called insecure.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
