//! TLS to a daemon on TCP: it proves who it is, and so do we.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Files of our certificate and of the daemon's authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    /// Who vouches for the daemon.
    pub authority: PathBuf,
    /// Ours.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Certificates {
    /// What flags and docker's environment say: nothing without `--tlsverify` or `DOCKER_TLS_VERIFY`.
    pub fn choose(
        verify: bool,
        flags: [Option<PathBuf>; 3],
        env: impl Fn(&str) -> Option<String>,
    ) -> Option<Self> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let given = flags.iter().any(Option::is_some);
        if !verify && !given && env("DOCKER_TLS_VERIFY").is_none() {
            return None;
        }
        let directory = env("DOCKER_CERT_PATH")
            .map(PathBuf::from)
            .unwrap_or_else(|| Path::new(&env("HOME").unwrap_or_else(|| "/".to_owned())).join(".docker"));
        let [authority, certificate, key] = flags;
        Some(Self {
            authority: authority.unwrap_or_else(|| directory.join("ca.pem")),
            certificate: certificate.unwrap_or_else(|| directory.join("cert.pem")),
            key: key.unwrap_or_else(|| directory.join("key.pem")),
        })
    }

    /// Shakes hands over a connection to `address` (`host:port`).
    pub async fn connect(&self, address: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(self.config()?)).connect(name, stream).await
    }

    fn config(&self) -> io::Result<ClientConfig> {
        let mut authorities = RootCertStore::empty();
        for certificate in certificates(&self.authority)? {
            authorities.add(certificate).map_err(|error| about(&self.authority, error))?;
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| about(&self.key, error))?;
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(authorities)
            .with_client_auth_cert(certificates(&self.certificate)?, key)
            .map_err(|error| about(&self.certificate, error))
    }
}

fn about(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("cannot use {}: {error}", path.display()))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| about(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_environment_and_flags_choose_the_files() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            }
        };
        let none = [const { None }; 3];
        assert_eq!(Certificates::choose(false, none.clone(), env(&[("HOME", "/h")])), None);
        let home = Certificates::choose(true, none.clone(), env(&[("HOME", "/h")])).unwrap();
        assert_eq!(home.authority, Path::new("/h/.docker/ca.pem"));
        let variables = env(&[("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", "/c")]);
        let files = Certificates::choose(false, [None, None, Some("/k.pem".into())], variables).unwrap();
        assert_eq!((files.certificate, files.key), ("/c/cert.pem".into(), "/k.pem".into()));
    }
}
