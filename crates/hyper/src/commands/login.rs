//! The user's registry logins, as `docker login` keeps them.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde_json::json;

use super::App;
use crate::error::Failure;

/// Key of Docker Hub's login in the configuration file.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The headers that carry the login for `domain`; none without a login.
///
/// # Errors
/// A configuration file or credential helper that fails.
pub fn auth_headers(app: &App, domain: &str) -> Result<Vec<(&'static str, String)>, Failure> {
    let key = if domain == "docker.io" { HUB_KEY } else { domain };
    let body = match credential(app.config_dir.as_deref(), key) {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            json!({ "username": username, "password": password, "serveraddress": key })
        }
        Ok(DockerCredential::IdentityToken(token)) => json!({ "identitytoken": token, "serveraddress": key }),
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => {
            let text = format!("cannot read the login for {domain}: {error}");
            return Err(Failure::new(text)
                .with_hint("look into ~/.docker/config.json, or choose another with --config"));
        }
    };
    Ok(vec![("X-Registry-Auth", URL_SAFE.encode(body.to_string()))])
}

/// Looks the key up in `config.json` of `--config`, `DOCKER_CONFIG` or `~/.docker`, asking helpers it names.
fn credential(config_dir: Option<&Path>, key: &str) -> Result<DockerCredential, CredentialRetrievalError> {
    let from_env = || std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let from_home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker"));
    let dir = config_dir.map(Path::to_owned).or_else(from_env).or_else(from_home);
    let file = dir.and_then(|dir| File::open(dir.join("config.json")).ok());
    let file = file.ok_or(CredentialRetrievalError::ConfigNotFound)?;
    docker_credential::get_credential_from_reader(BufReader::new(file), key)
}

fn is_absent(error: &CredentialRetrievalError) -> bool {
    match error {
        CredentialRetrievalError::NoCredentialConfigured | CredentialRetrievalError::ConfigNotFound => true,
        // What docker's own helpers print when they know nothing about a registry.
        CredentialRetrievalError::HelperFailure { stdout, .. } => stdout.contains("credentials not found"),
        _ => false,
    }
}
