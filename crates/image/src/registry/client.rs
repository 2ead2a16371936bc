//! Requests to registries: schemes, redirects, logins.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use crate::auth::Auth;
use crate::digest::Digest;
use crate::reference::Reference;

use super::challenge::Challenge;
use super::endpoint::{Endpoint, is_insecure};
use super::error::{Refusal, RegistryError};
use super::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Fetched, MAX_MANIFEST, OCI_INDEX, OCI_MANIFEST, media_type_of,
};
use super::settings::RegistryConfig;
use super::tls::{Roots, stamp};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Most redirects followed.
const MAX_REDIRECTS: usize = 10;
/// What token servers call us.
const CLIENT_ID: &str = "hyper";
/// Most bytes of an error or token answer.
const MAX_ANSWER: u64 = 1 << 20;

/// Speaks to registries. One serves all pulls.
pub struct Client {
    config: RegistryConfig,
    roots: Roots,
    /// HTTP clients by registry and whether its certificate is checked.
    clients: Mutex<HashMap<(String, bool), Known>>,
    /// Schemes found out, by registry.
    schemes: Mutex<HashMap<String, &'static str>>,
}

/// An HTTP client and what the files that it was made from looked like.
struct Known {
    http: reqwest::Client,
    files: Vec<(PathBuf, Option<SystemTime>)>,
}

/// One registry for the time of one pull: a way to speak, and what it wants to see.
pub struct Session<'a> {
    client: &'a Client,
    http: reqwest::Client,
    base: Url,
    path: String,
    insecure: bool,
    auth: Option<Auth>,
    /// What tokens are asked for, whatever challenges say; empty: what they say.
    scopes: Vec<String>,
    authorization: tokio::sync::Mutex<Option<HeaderValue>>,
}

/// What a token server gives.
struct Token {
    /// Opens what was asked for, for a while.
    text: String,
    /// To be kept in place of a password.
    lasting: Option<String>,
}

impl Client {
    /// With these settings.
    pub fn new(config: RegistryConfig) -> Self {
        Self { config, roots: Roots::default(), clients: Mutex::default(), schemes: Mutex::default() }
    }

    /// The settings.
    pub fn config(&self) -> &RegistryConfig {
        &self.config
    }

    /// Gets ready to speak to an endpoint about a repository.
    ///
    /// # Errors
    /// It cannot be reached in any acceptable way.
    pub async fn session(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        auth: Option<Auth>,
    ) -> Result<Session<'_>, RegistryError> {
        let http = self.http(&endpoint.host, !endpoint.insecure)?;
        let scheme = self.scheme(endpoint, &http).await?;
        let text = format!("{scheme}://{}{}/", endpoint.host, endpoint.prefix);
        let base = Url::parse(&text)
            .map_err(|error| RegistryError::Protocol { url: text, problem: error.to_string() })?;
        Ok(Session {
            client: self,
            http,
            base,
            path: reference.path().to_owned(),
            insecure: endpoint.insecure,
            auth: auth.filter(|_| endpoint.origin),
            scopes: Vec::new(),
            authorization: tokio::sync::Mutex::default(),
        })
    }

    /// The HTTP client for a registry. The first one with checks reads the system's roots.
    fn http(&self, host: &str, verify: bool) -> Result<reqwest::Client, RegistryError> {
        let files = if verify { stamp(&self.config.certs_dir, host) } else { Vec::new() };
        let mut clients = self.clients.lock().expect("no holder panics");
        let key = (host.to_owned(), verify);
        if let Some(known) = clients.get(&key).filter(|known| known.files == files) {
            return Ok(known.http.clone());
        }
        let tls = self.roots.config(&self.config.certs_dir, host, verify)?;
        let mut builder = reqwest::Client::builder();
        if is_insecure(host, &[]) {
            // A proxy's loopback is another machine.
            builder = builder.no_proxy();
        }
        let http = builder
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("hyper/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| RegistryError::Http { url: host.to_owned(), source })?;
        clients.insert(key, Known { http: http.clone(), files });
        Ok(http)
    }

    /// The endpoint's scheme: given, known, or found out by asking, TLS first.
    async fn scheme(
        &self,
        endpoint: &Endpoint,
        http: &reqwest::Client,
    ) -> Result<&'static str, RegistryError> {
        if let Some(scheme) = endpoint.scheme {
            return Ok(scheme);
        }
        if let Some(scheme) = self.schemes.lock().expect("no holder panics").get(&endpoint.host) {
            return Ok(scheme);
        }
        let mut failure = None;
        for scheme in ["https", "http"] {
            let url = format!("{scheme}://{}{}/v2/", endpoint.host, endpoint.prefix);
            match self.send(http.get(&url), &url).await {
                Ok(answer) if scheme == "http" || answer.status() != StatusCode::BAD_REQUEST => {
                    self.schemes.lock().expect("no holder panics").insert(endpoint.host.clone(), scheme);
                    return Ok(scheme);
                }
                Ok(_) => {}
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or(RegistryError::Protocol {
            url: endpoint.host.clone(),
            problem: "it speaks neither https nor http".to_owned(),
        }))
    }

    /// Sends one request and waits for the answer's head.
    async fn send(&self, request: reqwest::RequestBuilder, url: &str) -> Result<Response, RegistryError> {
        let after = self.config.stall_timeout;
        match tokio::time::timeout(after, request.send()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(RegistryError::Http { url: shown(url), source: source.without_url() }),
            Err(_) => Err(RegistryError::Stalled { url: shown(url), after }),
        }
    }

    /// Reads an answer's body up to a limit.
    async fn body(&self, mut answer: Response, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let url = shown(answer.url().as_str());
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk(&mut answer).await? {
            if body.len() as u64 + chunk.len() as u64 > limit {
                return Err(RegistryError::Protocol { url, problem: format!("more than {limit} bytes") });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// The next bytes of a body.
    pub(super) async fn chunk(&self, answer: &mut Response) -> Result<Option<Bytes>, RegistryError> {
        let after = self.config.stall_timeout;
        match tokio::time::timeout(after, answer.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(source)) => {
                Err(RegistryError::Http { url: shown(answer.url().as_str()), source: source.without_url() })
            }
            Err(_) => Err(RegistryError::Stalled { url: shown(answer.url().as_str()), after }),
        }
    }
}

impl Session<'_> {
    /// The same for writing into the repository, and reading from others that blobs may be mounted from.
    #[must_use]
    pub fn for_push<'p>(mut self, sources: impl IntoIterator<Item = &'p str>) -> Self {
        self.scopes = vec![format!("repository:{}:pull,push", self.path)];
        self.scopes.extend(sources.into_iter().map(|path| format!("repository:{path}:pull")));
        self
    }

    /// Whether plain HTTP is acceptable.
    pub(super) fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// Forgets what the registry was shown: it takes it no longer.
    pub async fn log_in_again(&self) {
        *self.authorization.lock().await = None;
    }

    /// `host[:port]`, for messages.
    pub fn registry(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The client.
    pub fn client(&self) -> &Client {
        self.client
    }

    /// Fetches a manifest or index by tag or digest; the bytes fit the digest, if one was asked for.
    /// None for schema 1.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn manifest(
        &self,
        name: &str,
        expected: Option<Digest>,
    ) -> Result<Option<Fetched>, RegistryError> {
        let mut accept = HeaderMap::new();
        for media_type in [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST] {
            accept.append(ACCEPT, HeaderValue::from_static(media_type));
        }
        let answer = self.get(&format!("manifests/{name}"), &accept).await?;
        let url = shown(answer.url().as_str());
        let header =
            |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (content_type, content_digest) = (header("content-type"), header("docker-content-digest"));
        let bytes = self.client.body(answer, MAX_MANIFEST).await?;
        let digest = Digest::of(&bytes);
        let claimed = content_digest.and_then(|text| text.parse::<Digest>().ok());
        if let Some(expected) = expected.or(claimed).filter(|expected| *expected != digest) {
            let problem = format!("expected digest {expected}, got {digest}");
            return Err(RegistryError::Content { url, problem });
        }
        match media_type_of(&bytes, content_type.as_deref()) {
            Ok(Some(media_type)) => Ok(Some(Fetched { bytes, digest, media_type })),
            Ok(None) => Ok(None),
            Err(problem) => Err(RegistryError::Protocol { url, problem }),
        }
    }

    /// Fetches a small blob whole and checks it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn small_blob(&self, digest: Digest, size: u64) -> Result<Vec<u8>, RegistryError> {
        let answer = self.get(&format!("blobs/{digest}"), &HeaderMap::new()).await?;
        let url = shown(answer.url().as_str());
        let bytes = self.client.body(answer, size).await?;
        if bytes.len() as u64 != size || Digest::of(&bytes) != digest {
            let problem = format!(
                "expected {size} bytes with digest {digest}, got {} with {}",
                bytes.len(),
                Digest::of(&bytes)
            );
            return Err(RegistryError::Content { url, problem });
        }
        Ok(bytes)
    }

    /// Begins a blob's download at `offset`. The answer is 200 or, from an offset, maybe 206.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub(super) async fn open_blob(&self, digest: Digest, offset: u64) -> Result<Response, RegistryError> {
        let mut headers = HeaderMap::new();
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-"));
            headers.insert(RANGE, range.expect("digits are a valid header"));
        }
        self.get(&format!("blobs/{digest}"), &headers).await
    }

    /// Shows the login to the registry. Gives the token that may be kept in its place, where token servers
    /// have such.
    ///
    /// # Errors
    /// See [`RegistryError`]; a refused login is a refusal with status 401.
    pub async fn login(&self) -> Result<Option<String>, RegistryError> {
        let text = format!("{}v2/", self.base);
        let url = Url::parse(&text)
            .map_err(|error| RegistryError::Protocol { url: text, problem: error.to_string() })?;
        let answer = self.follow(&Method::GET, url.clone(), &HeaderMap::new(), &Bytes::new(), None).await?;
        let challenge = match (answer.status(), challenge_of(&answer)) {
            (StatusCode::UNAUTHORIZED, Some(challenge)) => challenge,
            _ => return self.success(answer).await.map(|_| None),
        };
        let (value, lasting) = match (&challenge, &self.auth) {
            (
                Challenge::Bearer { realm, service, scope },
                Some(Auth::Basic { .. } | Auth::IdentityToken(_)),
            ) => {
                let scopes: Vec<&str> = scope.as_deref().into_iter().collect();
                let token = self.token(realm, service.as_deref(), &scopes, true).await?;
                (secret(&format!("Bearer {}", token.text)), token.lasting)
            }
            _ => (self.answer(&challenge).await?, None),
        };
        let answer = self.follow(&Method::GET, url, &HeaderMap::new(), &Bytes::new(), value).await?;
        self.success(answer).await.map(|_| lasting)
    }

    /// The address of something below the repository.
    pub(super) fn url(&self, what: &str) -> Result<Url, RegistryError> {
        let text = format!("{}v2/{}/{what}", self.base, self.path);
        Url::parse(&text).map_err(|error| RegistryError::Protocol { url: text, problem: error.to_string() })
    }

    /// Reads something below the repository.
    async fn get(&self, what: &str, headers: &HeaderMap) -> Result<Response, RegistryError> {
        self.request(Method::GET, self.url(what)?, headers, Bytes::new()).await
    }

    /// A request about the repository, with whatever login it takes. Only success comes back.
    pub(super) async fn request(
        &self,
        method: Method,
        url: Url,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response, RegistryError> {
        let used = self.authorization.lock().await.clone();
        let send = |authorization| self.follow(&method, url.clone(), headers, &body, authorization);
        let answer = send(used.clone()).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return self.success(answer).await;
        }
        let Some(challenge) = challenge_of(&answer) else { return self.success(answer).await };
        {
            // Several layers meet the same challenge; the first one answers for all.
            let mut authorization = self.authorization.lock().await;
            if *authorization == used {
                match self.answer(&challenge).await? {
                    Some(value) => *authorization = Some(value),
                    None if challenge == Challenge::Basic && self.auth.is_none() => {
                        return Err(RegistryError::NoLogin { url: shown(url.as_str()) });
                    }
                    None => return self.success(answer).await,
                }
            }
        }
        let now = self.authorization.lock().await.clone();
        self.success(send(now).await?).await
    }

    /// A request to a place that the registry has named, with what it was shown last.
    pub(super) async fn authorized(
        &self,
        method: Method,
        url: Url,
    ) -> Result<reqwest::RequestBuilder, RegistryError> {
        let authorization = self.authorization.lock().await.clone();
        let http = self.http_for(&url)?;
        let request = http.request(method, url.clone());
        Ok(match authorization {
            Some(value) if url.origin() == self.base.origin() => request.header(AUTHORIZATION, value),
            _ => request,
        })
    }

    /// The HTTP client for an address: the registry's, or that of where it leads.
    fn http_for(&self, url: &Url) -> Result<reqwest::Client, RegistryError> {
        match (url.origin() == self.base.origin(), url.host_str()) {
            (false, Some(host)) => {
                let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
                self.client.http(&host, !is_insecure(&host, &self.client.config.insecure))
            }
            _ => Ok(self.http.clone()),
        }
    }

    /// Sends a request and follows redirects. Only the registry itself sees the authorization.
    async fn follow(
        &self,
        method: &Method,
        mut url: Url,
        headers: &HeaderMap,
        body: &Bytes,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, RegistryError> {
        for _ in 0..MAX_REDIRECTS {
            let at_registry = url.origin() == self.base.origin();
            let mut request =
                self.http_for(&url)?.request(method.clone(), url.clone()).headers(headers.clone());
            if let (true, Some(value)) = (at_registry, &authorization) {
                request = request.header(AUTHORIZATION, value.clone());
            }
            if !matches!(*method, Method::GET | Method::HEAD) {
                // Registries want a length, also of nothing.
                request = request.header(CONTENT_LENGTH, body.len()).body(body.clone());
            }
            let answer = self.client.send(request, url.as_str()).await?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let fail = |problem: &str| RegistryError::Protocol {
                url: shown(url.as_str()),
                problem: problem.to_owned(),
            };
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next =
                location.and_then(|location| url.join(location).ok()).ok_or(fail("a redirect to nowhere"))?;
            match (url.scheme(), next.scheme()) {
                (_, "https") | ("http", "http") => {}
                ("https", "http") if self.insecure => {}
                _ => return Err(fail("a redirect away from https")),
            }
            url = next;
        }
        Err(RegistryError::Protocol { url: shown(url.as_str()), problem: "too many redirects".to_owned() })
    }

    /// The answer itself if it is a success, else its refusal.
    pub(super) async fn success(&self, answer: Response) -> Result<Response, RegistryError> {
        if answer.status().is_success() {
            return Ok(answer);
        }
        let url = shown(answer.url().as_str());
        let refusal = self.refusal(answer).await;
        Err(RegistryError::Refused { url, refusal })
    }

    /// Reads what a refusal says.
    async fn refusal(&self, answer: Response) -> Refusal {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<ErrorEntry>,
        }
        #[derive(Deserialize)]
        struct ErrorEntry {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let status = answer.status().as_u16();
        let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = seconds.map(Duration::from_secs);
        let body = self.client.body(answer, MAX_ANSWER).await.unwrap_or_default();
        let first =
            serde_json::from_slice(&body).ok().and_then(|errors: Errors| errors.errors.into_iter().next());
        let clean = |text: String| text.chars().filter(|c| !c.is_control()).take(400).collect();
        let (code, message) =
            first.map_or_else(Default::default, |entry| (clean(entry.code), clean(entry.message)));
        Refusal { status, code, message, retry_after }
    }

    /// The header that answers a challenge; none if there is nothing to answer it with.
    async fn answer(&self, challenge: &Challenge) -> Result<Option<HeaderValue>, RegistryError> {
        match (challenge, &self.auth) {
            (_, Some(Auth::RegistryToken(token))) => Ok(secret(&format!("Bearer {token}"))),
            (Challenge::Basic, Some(Auth::Basic { username, password })) => Ok(basic(username, password)),
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service, scope }, _) => {
                let own = format!("repository:{}:pull", self.path);
                let scopes: Vec<&str> = match self.scopes.as_slice() {
                    [] => vec![scope.as_deref().unwrap_or(&own)],
                    scopes => scopes.iter().map(String::as_str).collect(),
                };
                let token = self.token(realm, service.as_deref(), &scopes, false).await?;
                Ok(secret(&format!("Bearer {}", token.text)))
            }
        }
    }

    /// A token from the registry's token server; with `lasting` one to keep in a login's place as well.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scopes: &[&str],
        lasting: bool,
    ) -> Result<Token, RegistryError> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
            refresh_token: Option<String>,
        }
        let fail = |problem: &str| RegistryError::Protocol { url: shown(realm), problem: problem.to_owned() };
        let mut url = Url::parse(realm).map_err(|_| fail("the token server's address is none"))?;
        let host = url.host_str().ok_or(fail("the token server's address is none"))?;
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let plain_is_fine = self.insecure || is_insecure(&host, &self.client.config.insecure);
        if url.scheme() != "https" && !(url.scheme() == "http" && plain_is_fine) {
            return Err(fail("the token server is not reached by https"));
        }
        let http =
            self.client.http(&host, !is_insecure(&host, &self.client.config.insecure) && !self.insecure)?;
        let joined = scopes.join(" ");
        let mut fields = Vec::new();
        match &self.auth {
            // OAuth2 has one field for all of them, docker's own requests one for each.
            Some(Auth::IdentityToken(_)) if joined.is_empty() => {}
            Some(Auth::IdentityToken(_)) => fields.push(("scope", joined.as_str())),
            _ => fields.extend(scopes.iter().map(|scope| ("scope", *scope))),
        }
        fields.extend(service.map(|service| ("service", service)));
        let request = if let Some(Auth::IdentityToken(token)) = &self.auth {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT_ID),
                ("refresh_token", token),
            ]);
            let mut form = Url::parse("form:").expect("a constant URL");
            form.query_pairs_mut().extend_pairs(&fields);
            let body = form.query().unwrap_or_default().to_owned();
            http.post(url.clone()).header("content-type", "application/x-www-form-urlencoded").body(body)
        } else {
            if let Some(Auth::Basic { username, .. }) = &self.auth {
                fields.push(("account", username));
            }
            if lasting {
                fields.extend([("offline_token", "true"), ("client_id", CLIENT_ID)]);
            }
            url.query_pairs_mut().extend_pairs(&fields);
            let request = http.get(url.clone());
            match &self.auth {
                Some(Auth::Basic { username, password }) => {
                    let value = basic(username, password).ok_or(fail("the credentials are no header"))?;
                    request.header(AUTHORIZATION, value)
                }
                _ => request,
            }
        };
        let answer = self.client.send(request, url.as_str()).await?;
        let answer = self.success(answer).await?;
        let body = self.client.body(answer, MAX_ANSWER).await?;
        let body: Body =
            serde_json::from_slice(&body).map_err(|_| fail("the token server sends no token"))?;
        let text = if body.token.is_empty() { body.access_token } else { body.token };
        match text.as_str() {
            "" => Err(fail("the token server sends no token")),
            _ => Ok(Token { text, lasting: body.refresh_token.filter(|token| !token.is_empty()) }),
        }
    }
}

/// The challenge in a 401 answer.
fn challenge_of(answer: &Response) -> Option<Challenge> {
    let headers = answer.headers().get_all(WWW_AUTHENTICATE).iter();
    let values: Vec<&str> = headers.filter_map(|value| value.to_str().ok()).collect();
    Challenge::parse(&values.join(", "))
}

/// Basic authorization.
fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    secret(&format!("Basic {text}"))
}

/// A header value that logs do not show.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A URL without its query, which may hold signatures.
pub(super) fn shown(url: &str) -> String {
    url.split('?').next().unwrap_or_default().chars().take(300).collect()
}
