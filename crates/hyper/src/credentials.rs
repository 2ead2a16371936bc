//! The user's registry logins, kept as `docker login` keeps them: in `config.json`, or by the helper that it names.

use std::fs::{self, File};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde_json::{Map, Value, json};

use crate::commands::App;
use crate::error::Failure;

/// Key of Docker Hub's login in the configuration file.
pub const HUB_KEY: &str = "https://index.docker.io/v1/";

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

/// `config.json` of `--config`, `DOCKER_CONFIG` or `~/.docker`.
fn config_file(config_dir: Option<&Path>) -> Option<PathBuf> {
    let from_env = || std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let from_home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker"));
    let dir = config_dir.map(Path::to_owned).or_else(from_env).or_else(from_home);
    dir.map(|dir| dir.join("config.json"))
}

/// Looks the key up in `config.json` of `--config`, `DOCKER_CONFIG` or `~/.docker`, asking helpers it names.
fn credential(config_dir: Option<&Path>, key: &str) -> Result<DockerCredential, CredentialRetrievalError> {
    let file = config_file(config_dir).and_then(|path| File::open(path).ok());
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

/// A login to be kept.
pub enum Login {
    /// User and password.
    Password(String, String),
    /// The user, and the token that the registry gave in place of the password.
    Token(String, String),
}

/// The configuration file, for changes.
pub struct LoginFile {
    path: PathBuf,
    root: Map<String, Value>,
}

impl LoginFile {
    /// Reads the file; a missing one is empty.
    ///
    /// # Errors
    /// It cannot be read, or is no JSON object.
    pub fn open(config_dir: Option<&Path>) -> Result<Self, Failure> {
        let path =
            config_file(config_dir).ok_or_else(|| Failure::new("cannot keep logins: HOME is not set"))?;
        let failed = |problem: &dyn std::fmt::Display| Failure::new(format!("{}: {problem}", path.display()));
        let root = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(&error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(failed(&error)),
        };
        Ok(Self { path, root })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The helper that keeps the logins for `key`.
    pub fn helper(&self, key: &str) -> Option<&str> {
        let own = self.root.get("credHelpers").and_then(|helpers| helpers.get(key));
        let name = own.or(self.root.get("credsStore")).and_then(Value::as_str);
        name.filter(|name| !name.is_empty())
    }

    /// Keeps a login under `key`.
    ///
    /// # Errors
    /// The helper's, or the file cannot be written.
    pub fn keep(&mut self, key: &str, login: &Login) -> Result<(), Failure> {
        let entry = match (self.helper(key).map(str::to_owned), login) {
            (Some(helper), login) => {
                let (user, secret) = match login {
                    Login::Password(user, password) => (user.as_str(), password),
                    // The protocol's word for a token.
                    Login::Token(_, token) => ("<token>", token),
                };
                let body = json!({"ServerURL": key, "Username": user, "Secret": secret});
                ask_helper(&helper, "store", &body.to_string())?;
                json!({})
            }
            (None, Login::Password(user, password)) => {
                json!({"auth": STANDARD.encode(format!("{user}:{password}"))})
            }
            (None, Login::Token(user, token)) => {
                json!({"auth": STANDARD.encode(format!("{user}:")), "identitytoken": token})
            }
        };
        let auths = self.root.entry("auths").or_insert_with(|| json!({}));
        let auths = auths.as_object_mut();
        auths.ok_or_else(|| Failure::new("auths is no object"))?.insert(key.to_owned(), entry);
        self.write()
    }

    /// Forgets the login under `key`. False if there was none.
    ///
    /// # Errors
    /// The helper's, or the file cannot be written.
    pub fn forget(&mut self, key: &str) -> Result<bool, Failure> {
        let known = self.root.get_mut("auths").and_then(Value::as_object_mut);
        let known = known.is_some_and(|auths| auths.remove(key).is_some());
        if let Some(helper) = self.helper(key) {
            ask_helper(helper, "erase", key)?;
        }
        if known {
            self.write()?;
        }
        Ok(known)
    }

    /// Replaces the file. Only its owner can read it; a link to it stays one.
    fn write(&self) -> Result<(), Failure> {
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let failed = |error: io::Error| Failure::new(format!("cannot write {}: {error}", path.display()));
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let next = path.with_extension(format!("json.{}", std::process::id()));
        let mut text = serde_json::to_string_pretty(&self.root).expect("a JSON object has a text");
        text.push('\n');
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options.open(&next).and_then(|mut file| file.write_all(text.as_bytes()));
        written.and_then(|()| fs::rename(&next, &path)).map_err(|error| {
            let _ = fs::remove_file(&next);
            failed(error)
        })
    }
}

/// Runs `docker-credential-HELPER VERB`.
fn ask_helper(helper: &str, verb: &str, input: &str) -> Result<(), Failure> {
    let program = format!("docker-credential-{helper}");
    let failed = |problem: &dyn std::fmt::Display| Failure::new(format!("{program} {verb}: {problem}"));
    if helper.contains('/') {
        return Err(failed(&"a helper has a name, not a path"));
    }
    let child = Command::new(&program).arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| failed(&error))?;
    let sent = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stdout).trim()));
    }
    sent.unwrap_or(Ok(())).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn read(directory: &Path, key: &str) -> Option<DockerCredential> {
        credential(Some(directory), key).ok()
    }

    #[test]
    fn a_login_is_kept_where_only_its_owner_reads_and_the_rest_of_the_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        fs::write(&path, r#"{"HttpHeaders": {"a": "b"}, "auths": {"other": {"auth": "dTpw"}}}"#).unwrap();
        let open = || LoginFile::open(Some(directory.path())).unwrap();
        open().keep("reg.example:5000", &Login::Password("user".into(), "a:b\"c".into())).unwrap();
        open().keep("token.example", &Login::Token("user".into(), "abc".into())).unwrap();
        let password = DockerCredential::UsernamePassword("user".into(), "a:b\"c".into());
        assert_eq!(read(directory.path(), "reg.example:5000"), Some(password));
        let token = Some(DockerCredential::IdentityToken("abc".into()));
        assert_eq!(read(directory.path(), "token.example"), token);
        assert!(read(directory.path(), "other").is_some());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&path).unwrap().contains("HttpHeaders"));
        assert!(open().forget("reg.example:5000").unwrap());
        assert!(!open().forget("reg.example:5000").unwrap());
        assert_eq!(read(directory.path(), "reg.example:5000"), None);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_no_configuration_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["", "[]", "{"] {
            fs::write(directory.path().join("config.json"), text).unwrap();
            assert!(LoginFile::open(Some(directory.path())).is_err(), "{text:?}");
        }
    }
}
