//! Credentials for registries: what clients send, and what docker's configuration has.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

use crate::reference::{DEFAULT_DOMAIN, Reference};
use crate::registry::RegistryError;

/// Docker's configuration calls docker.io so.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// Most bytes of docker's configuration.
const MAX_CONFIG: u64 = 4 << 20;
/// Longest run of a credential helper.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// User name and password, or an access token in place of the password.
    Basic {
        /// The user.
        username: String,
        /// The password or access token.
        password: String,
    },
    /// An OAuth2 refresh token, as credential helpers keep it under the user `<token>`.
    IdentityToken(String),
    /// A bearer token, used as it is.
    RegistryToken(String),
}

/// Never shows the secret.
impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Auth::Basic",
            Self::IdentityToken(_) => "Auth::IdentityToken",
            Self::RegistryToken(_) => "Auth::RegistryToken",
        })
    }
}

/// The header is not what docker clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid X-Registry-Auth header")]
pub struct AuthHeaderError;

/// Credentials as docker's JSON has them, in the header and in the configuration.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    #[serde(alias = "identityToken")]
    identitytoken: Option<String>,
    #[serde(alias = "registryToken")]
    registrytoken: Option<String>,
}

/// Base64 with or without padding, in either alphabet.
fn decode(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabets = [&base64::alphabet::URL_SAFE, &base64::alphabet::STANDARD];
    alphabets.into_iter().find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(text.trim()).ok())
}

impl Auth {
    /// Reads the `X-Registry-Auth` header of docker's API; none when it says nothing.
    ///
    /// # Errors
    /// It is not base64 of docker's JSON.
    pub fn from_header(header: &str) -> Result<Option<Self>, AuthHeaderError> {
        if header.trim().is_empty() {
            return Ok(None);
        }
        let json = decode(header).ok_or(AuthHeaderError)?;
        let entry: Entry = serde_json::from_slice(&json).map_err(|_| AuthHeaderError)?;
        Ok(entry.into_auth())
    }
}

impl Entry {
    /// What the entry says; a token wins over a password.
    fn into_auth(self) -> Option<Auth> {
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(token) = filled(self.registrytoken) {
            return Some(Auth::RegistryToken(token));
        }
        if let Some(token) = filled(self.identitytoken) {
            return Some(Auth::IdentityToken(token));
        }
        if let (Some(username), Some(password)) = (filled(self.username), filled(self.password)) {
            return Some(Auth::Basic { username, password });
        }
        let text = String::from_utf8(decode(&filled(self.auth)?)?).ok()?;
        let (username, password) = text.trim_end_matches('\0').split_once(':')?;
        Some(Auth::Basic { username: username.to_owned(), password: password.to_owned() })
    }
}

/// Docker's client configuration (`~/.docker/config.json`), as far as it is about credentials.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct DockerConfig {
    auths: HashMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: HashMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

impl DockerConfig {
    /// Reads the file; a missing one has no credentials.
    ///
    /// # Errors
    /// It cannot be read, or is not docker's JSON.
    pub async fn load(path: &Path) -> Result<Self, RegistryError> {
        let fail =
            |problem: String| RegistryError::DockerConfig { path: path.display().to_string(), problem };
        let path = path.to_owned();
        let read = tokio::task::spawn_blocking(move || match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(metadata) if metadata.len() > MAX_CONFIG => {
                Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "larger than 4 MiB"))
            }
            Ok(_) => std::fs::read(&path).map(Some),
        });
        match read.await {
            Ok(Ok(None)) => Ok(Self::default()),
            Ok(Ok(Some(bytes))) => serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string())),
            Ok(Err(error)) => Err(fail(error.to_string())),
            Err(error) => Err(fail(error.to_string())),
        }
    }

    /// The credentials for a reference's registry: its helper's, the general helper's, or those in the file.
    ///
    /// # Errors
    /// A helper fails.
    pub async fn credentials(&self, reference: &Reference) -> Result<Option<Auth>, RegistryError> {
        let key = match reference.domain() {
            DEFAULT_DOMAIN => DOCKER_HUB_KEY,
            domain => domain,
        };
        let helper = self.helpers.get(key).or(self.helpers.get(reference.domain())).or(self.store.as_ref());
        if let Some(helper) = helper
            && let Some(auth) = ask_helper(helper, key).await?
        {
            return Ok(Some(auth));
        }
        let exact = self.auths.get(key);
        let found = exact.or_else(|| {
            let host = host_of(key);
            self.auths.iter().find(|(known, _)| host_of(known) == host).map(|(_, entry)| entry)
        });
        let copy = |entry: &Entry| Entry {
            username: entry.username.clone(),
            password: entry.password.clone(),
            auth: entry.auth.clone(),
            identitytoken: entry.identitytoken.clone(),
            registrytoken: entry.registrytoken.clone(),
        };
        Ok(found.map(copy).and_then(Entry::into_auth))
    }
}

/// The host in an old entry such as `https://registry.example/v1/`.
fn host_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or_default()
}

/// Runs `docker-credential-HELPER get`.
async fn ask_helper(helper: &str, key: &str) -> Result<Option<Auth>, RegistryError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let fail = |problem: String| RegistryError::Helper { helper: helper.chars().take(80).collect(), problem };
    let is_name = !helper.is_empty()
        && helper.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !is_name {
        return Err(fail("it is no program name".to_owned()));
    }
    let run = async {
        let mut child = tokio::process::Command::new(format!("docker-credential-{helper}"))
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(key.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(HELPER_TIMEOUT, run).await;
    let output =
        output.map_err(|_| fail("it does not end".to_owned()))?.map_err(|error| fail(error.to_string()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        // The protocol's own word for "I have none".
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(fail(text.trim().chars().take(200).collect()));
    }
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|error| fail(error.to_string()))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Auth::IdentityToken(answer.secret),
        _ => Auth::Basic { username: answer.username, password: answer.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_header_is_read_in_both_alphabets() {
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE.encode(text);
        assert_eq!(Auth::from_header(""), Ok(None));
        assert_eq!(Auth::from_header("e30="), Ok(None));
        let basic = Auth::Basic { username: "u".to_owned(), password: "p>?".to_owned() };
        let header = encode(r#"{"username":"u","password":"p>?","serveraddress":"x"}"#);
        assert_eq!(Auth::from_header(&header), Ok(Some(basic)));
        let token = encode(r#"{"identitytoken":"t"}"#);
        assert_eq!(Auth::from_header(&token), Ok(Some(Auth::IdentityToken("t".to_owned()))));
        assert_eq!(Auth::from_header("!!"), Err(AuthHeaderError));
    }

    #[tokio::test]
    async fn the_configuration_is_searched_by_registry() {
        let config: DockerConfig = serde_json::from_str(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"https://old.example/v1/":{"auth":"YTpi"},
                "reg.local:5000":{"identitytoken":"t"}}}"#,
        )
        .expect("valid");
        let find = async |name: &str| {
            config.credentials(&Reference::parse(name).expect("valid")).await.expect("no helper")
        };
        let basic = |u: &str, p: &str| Some(Auth::Basic { username: u.to_owned(), password: p.to_owned() });
        assert_eq!(find("debian").await, basic("u", "p"));
        assert_eq!(find("old.example/x").await, basic("a", "b"));
        assert_eq!(find("reg.local:5000/x").await, Some(Auth::IdentityToken("t".to_owned())));
        assert_eq!(find("other.example/x").await, None);
    }
}
