//! Whom to trust.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The ciphers do not fit together.
    #[error("no usable TLS version")]
    Version(#[source] rustls::Error),
    /// A file of additional roots is no certificate.
    #[error("{path} holds no certificate")]
    Certificate {
        /// The file.
        path: String,
    },
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

    /// For a registry: the system's roots and `certs_dir/registry/*.crt`, or no check at all.
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
        let mut roots = self.system().clone();
        for path in extra_certificates(&certs_dir.join(registry)) {
            let fail = || TlsError::Certificate { path: path.display().to_string() };
            let certificates = CertificateDer::pem_file_iter(&path).map_err(|_| fail())?;
            for certificate in certificates {
                roots.add(certificate.map_err(|_| fail())?).map_err(|_| fail())?;
            }
        }
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

/// The `.crt` files of a directory; none if there is no directory.
fn extra_certificates(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "crt")).collect()
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
