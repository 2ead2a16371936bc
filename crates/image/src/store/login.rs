//! Whether a registry takes a login.

use crate::auth::Auth;
use crate::reference::{DEFAULT_DOMAIN, Reference};
use crate::registry::{Client, endpoints};

use super::error::LoginError;

/// Names of docker.io in clients' configurations.
const DOCKER_HUB: [&str; 4] = ["", "index.docker.io", "registry-1.docker.io", DEFAULT_DOMAIN];

/// Shows a login to a registry: `host[:port]`, or a URL of which only that counts. Gives the token that
/// may be kept in its place.
///
/// # Errors
/// See [`LoginError`].
pub async fn login(client: &Client, server: &str, auth: Auth) -> Result<Option<String>, LoginError> {
    let reference = repository_at(server).ok_or_else(|| LoginError::Server(server.to_owned()))?;
    let endpoint = endpoints(&reference, client.config()).pop().expect("the registry itself is the last");
    let fail = |source| LoginError::Registry { registry: endpoint.host.clone(), source };
    let session = client.session(&endpoint, &reference, Some(auth)).await.map_err(fail)?;
    session.login().await.map_err(|error| match error.refusal() {
        Some(refusal) if matches!(refusal.status, 401 | 403) => {
            LoginError::Unauthorized(refusal.words("incorrect username or password"))
        }
        _ => fail(error),
    })
}

/// Some repository of a registry.
fn repository_at(server: &str) -> Option<Reference> {
    let rest = server.strip_prefix("https://").or(server.strip_prefix("http://")).unwrap_or(server);
    let host = rest.split('/').next().unwrap_or_default();
    let domain = if DOCKER_HUB.contains(&host) { DEFAULT_DOMAIN } else { host };
    let reference = Reference::parse(&format!("{domain}/x")).ok()?;
    (reference.domain() == domain).then_some(reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_as_clients_name_them() {
        let domain = |server: &str| repository_at(server).map(|found| found.domain().to_owned());
        for hub in ["", "docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"] {
            assert_eq!(domain(hub).as_deref(), Some("docker.io"), "{hub}");
        }
        for server in ["reg.example:5000", "http://reg.example:5000", "https://reg.example:5000/v2/"] {
            assert_eq!(domain(server).as_deref(), Some("reg.example:5000"), "{server}");
        }
        assert_eq!(domain("localhost").as_deref(), Some("localhost"));
        for bad in ["word", "a b", "user@reg.example", "reg.example:port", "../x", "[::1"] {
            assert_eq!(domain(bad), None, "{bad}");
        }
    }
}
