//! Credentials for registries, as clients send them. Where they come from is the clients' affair.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

/// Most bytes of the header; a token has a few thousand.
const MAX_HEADER: usize = 64 << 10;

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
    /// An OAuth2 refresh token, as a login gives it and credential helpers keep it under the user `<token>`.
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

/// Credentials are not in the form that docker clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid credentials for a registry: they must be docker's JSON object, in a header as base64")]
pub struct AuthFormatError;

/// Credentials as docker's JSON has them.
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
    /// It is too long or not base64 of docker's JSON.
    pub fn from_header(header: &str) -> Result<Option<Self>, AuthFormatError> {
        match header.trim() {
            "" => Ok(None),
            text if text.len() > MAX_HEADER => Err(AuthFormatError),
            text => Self::from_json(&decode(text).ok_or(AuthFormatError)?),
        }
    }

    /// Reads docker's JSON, as it is in the header; none when it says nothing.
    ///
    /// # Errors
    /// It is not docker's JSON.
    pub fn from_json(json: &[u8]) -> Result<Option<Self>, AuthFormatError> {
        let entry: Entry = serde_json::from_slice(json).map_err(|_| AuthFormatError)?;
        entry.into_auth().ok_or(AuthFormatError)
    }
}

impl Entry {
    /// What the entry says, if anything; a token wins over a password. None for nonsense.
    fn into_auth(self) -> Option<Option<Auth>> {
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(token) = filled(self.registrytoken) {
            return Some(Some(Auth::RegistryToken(token)));
        }
        if let Some(token) = filled(self.identitytoken) {
            return Some(Some(Auth::IdentityToken(token)));
        }
        if let Some(username) = filled(self.username) {
            return Some(Some(Auth::Basic { username, password: self.password.unwrap_or_default() }));
        }
        let Some(both) = filled(self.auth) else { return Some(None) };
        let text = String::from_utf8(decode(&both)?).ok()?;
        let (username, password) = text.trim_end_matches('\0').split_once(':')?;
        Some(Some(Auth::Basic { username: username.to_owned(), password: password.to_owned() }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_api_header_is_read_in_both_alphabets() {
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE.encode(text);
        assert_eq!(Auth::from_header(""), Ok(None));
        assert_eq!(Auth::from_header("e30="), Ok(None));
        let basic = |username: &str, password: &str| {
            Ok(Some(Auth::Basic { username: username.to_owned(), password: password.to_owned() }))
        };
        let header = encode(r#"{"username":"u","password":"p>?","serveraddress":"x"}"#);
        assert_eq!(Auth::from_header(&header), basic("u", "p>?"));
        assert_eq!(Auth::from_header(header.trim_end_matches('=')), basic("u", "p>?"));
        assert_eq!(Auth::from_header(&encode(r#"{"auth":"dTpwOnA="}"#)), basic("u", "p:p"));
        assert_eq!(Auth::from_header(&encode(r#"{"username":"u"}"#)), basic("u", ""));
        let token = encode(r#"{"username":"u","password":"p","identitytoken":"t"}"#);
        assert_eq!(Auth::from_header(&token), Ok(Some(Auth::IdentityToken("t".to_owned()))));
        let token = encode(r#"{"identitytoken":"t","registrytoken":"r"}"#);
        assert_eq!(Auth::from_header(&token), Ok(Some(Auth::RegistryToken("r".to_owned()))));
    }

    #[test]
    fn a_header_that_is_none_is_refused() {
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE.encode(text);
        let long = encode(&format!(r#"{{"username":"{}"}}"#, "u".repeat(MAX_HEADER)));
        for header in ["!!", "AAAA", &encode("3"), &encode(r#"{"auth":"dXA="}"#), &long] {
            assert_eq!(Auth::from_header(header), Err(AuthFormatError), "{:.80}", header);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(json in proptest::collection::vec(any::<u8>(), 0..100), header in "\\PC{0,60}") {
            let _ = Auth::from_json(&json);
            let _ = Auth::from_header(&header);
        }
    }
}
