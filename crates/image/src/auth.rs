//! Credentials for registries.

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
