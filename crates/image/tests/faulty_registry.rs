//! Registries that drop, stall, lie and refuse.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::TestStore;
use common::faulty::{Answer, Faulty, Request, Served, gzip, header, ok, status};
use common::tar::Tar;
use futures::StreamExt as _;
use hyper_image::{Auth, Digest, ErrorKind, Image, Limits, PullError, Reference, RegistryConfig};

/// Fails fast.
fn config() -> RegistryConfig {
    RegistryConfig { stall_timeout: Duration::from_millis(400), attempts: 2, ..RegistryConfig::default() }
}

fn small() -> Served {
    let tar = Tar::default().directory("a").file("a/b", b"hello").file("a/c", &[9; 5000]);
    Served::of(&[tar.bytes()])
}

async fn pull(registry: &Faulty, store: &TestStore) -> Result<Image, PullError> {
    pull_as(registry, store, None).await
}

async fn pull_as(registry: &Faulty, store: &TestStore, auth: Option<Auth>) -> Result<Image, PullError> {
    let name = registry.name("x:1");
    store.store.pull(&Reference::parse(&name).unwrap(), None, auth, |_| {}).await?;
    Ok(store.store.get(&name).unwrap())
}

/// After a failure nothing is left, and the store still works.
async fn fails(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> PullError {
    let registry = Faulty::start(handler);
    let store = TestStore::with(config());
    let error = pull(&registry, &store).await.unwrap_err();
    assert!(store.files().is_empty(), "{:?}", store.files());
    assert!(store.store.list().unwrap().is_empty());
    // None of the faults leaves a beginning that is worth keeping.
    assert_eq!(store.ingests(), []);
    let honest = small();
    let registry = Faulty::start(move |request| honest.answer(request));
    pull(&registry, &store).await.unwrap();
    error
}

/// The error and all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_at_every_byte_is_resumed() {
    let served = small();
    let length = served.layers[0].len();
    let cut_at = async |at: usize| {
        let honest = served.clone();
        let registry = Faulty::start(move |request| match honest.is_layer(request, 0) {
            true if request.nth == 0 => Answer::Cut(200, Vec::new(), honest.layers[0].clone(), at),
            _ => honest.answer(request),
        });
        // Many at a time on a busy machine are slow, which is not what is tested.
        let store = TestStore::with(RegistryConfig { attempts: 3, ..RegistryConfig::default() });
        let image = pull(&registry, &store).await.unwrap();
        assert_eq!((image.layers.len(), store.files().len()), (1, 2));
        let requests = registry.seen.lock().unwrap();
        let ranges: Vec<_> = requests.iter().filter_map(|request| request.header("range")).collect();
        let expected = format!("bytes={at}-");
        assert_eq!(ranges, if at == 0 { vec![] } else { vec![expected.as_str()] });
    };
    futures::stream::iter(0..length).for_each_concurrent(16, cut_at).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_is_resumed_by_skipping() {
    let served = small();
    let honest = served.clone();
    let registry = Faulty::start(move |request| match honest.is_layer(request, 0) {
        true if request.nth == 0 => Answer::Cut(200, Vec::new(), honest.layers[0].clone(), 50),
        true => ok(&honest.layers[0]),
        false => honest.answer(request),
    });
    pull(&registry, &TestStore::with(config())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_is_broken_off_and_resumed() {
    let served = small();
    let honest = served.clone();
    let registry = Faulty::start(move |request| match honest.is_layer(request, 0) {
        true if request.nth == 0 => Answer::Stall(honest.layers[0].clone(), 60),
        _ => honest.answer(request),
    });
    pull(&registry, &TestStore::with(config())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_stall_ends_with_an_error() {
    let served = small();
    let error = fails(move |request| match served.is_layer(request, 0) {
        true => Answer::Stall(served.layers[0].clone(), 0),
        false => served.answer(request),
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(chain(&error).contains("does not answer"), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_never_comes_ends_with_an_error() {
    let served = small();
    let error = fails(move |request| match request.path.contains("/manifests/") {
        true => Answer::Stall(served.manifest.clone(), 10),
        false => served.answer(request),
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_with_another_digest_is_refused() {
    let served = small();
    let mut other = served.layers[0].clone();
    // In the gzip header: still the same size and a readable stream.
    other[4] ^= 1;
    let layer = fails({
        let (served, other) = (served.clone(), other.clone());
        move |request| if served.is_layer(request, 0) { ok(&other) } else { served.answer(request) }
    })
    .await;
    assert!(matches!(layer, PullError::Verification { .. }), "{layer}");
    let config = fails({
        let served = served.clone();
        move |request| match request.path.ends_with(&Digest::of(&served.config).to_string()) {
            true => ok(&vec![b' '; served.config.len()]),
            false => served.answer(request),
        }
    })
    .await;
    assert!(matches!(config, PullError::Verification { .. }), "{config}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_length_is_refused() {
    for change in [-1_i64, 1, 1000] {
        let served = small();
        let error = fails(move |request| match served.is_layer(request, 0) {
            true => {
                let mut body = served.layers[0].clone();
                body.resize((body.len() as i64 + change) as usize, 0);
                ok(&body)
            }
            false => served.answer(request),
        })
        .await;
        assert!(matches!(error, PullError::Verification { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_always_ends_too_early_fails() {
    let served = small();
    let error = fails(move |request| match served.is_layer(request, 0) {
        true => Answer::Close,
        false => served.answer(request),
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_lies_about_its_layer_is_refused() {
    let tar = Tar::default().file("a", b"b").bytes();
    let served = Served::with_diff_ids(vec![gzip(&tar)], &[Digest::of(b"something else")]);
    let error = fails(move |request| served.answer(request)).await;
    assert!(chain(&error).contains("wrong content"), "{}", chain(&error));
    let served = Served::with_diff_ids(vec![gzip(&tar)], &[]);
    let error = fails(move |request| served.answer(request)).await;
    assert!(error.to_string().contains("1 layers, its configuration 0"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_said_in_dockers_words() {
    for (code, body, kind, text) in [
        (
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
            ErrorKind::Unauthorized,
            "unauthorized: authentication required",
        ),
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#,
            ErrorKind::NotFound,
            "repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
        ),
        (
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
            ErrorKind::NotFound,
            "not found: manifest unknown: manifest unknown",
        ),
        (404, "", ErrorKind::NotFound, "not found: manifest unknown: manifest unknown"),
        (
            429,
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#,
            ErrorKind::TooManyRequests,
            "toomanyrequests: slow down",
        ),
        (500, "<html>", ErrorKind::Unavailable, "registry 127.0.0.1"),
    ] {
        let served = small();
        let error = fails(move |request| match request.path.contains("/manifests/") {
            true => status(code, body),
            false => served.answer(request),
        })
        .await;
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_manifests_are_refused() {
    let huge = format!(r#"{{"schemaVersion":2,"x":"{}"}}"#, "x".repeat(5 << 20));
    for manifest in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"schemaVersion":2}"#,
        r#"{"schemaVersion":1,"name":"x","signatures":[]}"#,
        r#"{"schemaVersion":2,"manifests":[]}"#,
        r#"{"schemaVersion":2,"config":{"digest":"md5:0","size":1}}"#,
        r#"{"schemaVersion":2,"config":{"digest":"sha256:0","size":-1}}"#,
        huge.as_str(),
    ] {
        let (served, manifest) = (small(), manifest.to_owned());
        let error = fails(move |request| match request.path.contains("/manifests/") {
            true => ok(manifest.as_bytes()),
            false => served.answer(request),
        })
        .await;
        assert!(!error.to_string().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_and_never_shown_to_others() {
    let served = small();
    let blobs = Faulty::start({
        let served = served.clone();
        move |request| {
            served.answer(&Request { path: request.path.replace("/storage", ""), ..request.clone() })
        }
    });
    let storage = blobs.port;
    let tokens = Faulty::start(|request| {
        assert!(request.path.contains("scope=repository%3Ax%3Apull"), "{}", request.path);
        assert_eq!(request.header("authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
        ok(br#"{"token":"abc"}"#)
    });
    let realm = format!(r#"Bearer realm="http://127.0.0.1:{}/token",service="x""#, tokens.port);
    let registry = Faulty::start(move |request| {
        if request.header("authorization") != Some("Bearer abc") && request.path != "/v2/" {
            return Answer::Whole(401, vec![header("WWW-Authenticate", &realm)], Vec::new());
        }
        if request.path.contains("/blobs/") {
            let location = format!("http://127.0.0.1:{storage}/storage{}?signature=s", request.path);
            let digest = request.path.rsplit('/').next().unwrap();
            let _ = digest;
            return Answer::Whole(
                307,
                vec![header("Location", &location.replace("?signature=s", ""))],
                Vec::new(),
            );
        }
        served.answer(request)
    });
    let auth = Auth::Basic { username: "user".to_owned(), password: "secret".to_owned() };
    let store = TestStore::with(config());
    pull_as(&registry, &store, Some(auth)).await.unwrap();
    let seen = blobs.seen.lock().unwrap();
    assert!(seen.len() >= 2);
    assert!(seen.iter().all(|request| request.header("authorization").is_none()));
}

/// A registry that wants the token `abc`, and the server that gives it for what `wanted` sees.
fn with_tokens(wanted: impl Fn(&Request) -> Option<String> + Send + Sync + 'static) -> (Faulty, Faulty) {
    let tokens = Faulty::start(move |request| match wanted(request) {
        Some(answer) => ok(answer.as_bytes()),
        None => status(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}"#),
    });
    let realm = format!(r#"Bearer realm="http://127.0.0.1:{}/token",service="the service""#, tokens.port);
    let served = small();
    let registry = Faulty::start(move |request| match request.header("authorization") {
        Some("Bearer abc") => served.answer(request),
        _ => Answer::Whole(401, vec![header("WWW-Authenticate", &realm)], Vec::new()),
    });
    (registry, tokens)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_exchanged_for_one_that_opens_the_repository() {
    let (registry, tokens) = with_tokens(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let fields = ["grant_type=refresh_token", "refresh_token=of+a+login", "client_id=hyper"];
        let what = ["scope=repository%3Ax%3Apull", "service=the+service"];
        let fits = fields.iter().chain(&what).all(|field| body.split('&').any(|given| given == *field));
        (fits && request.path == "/token").then(|| r#"{"access_token":"abc","expires_in":60}"#.to_owned())
    });
    let store = TestStore::with(config());
    for (token, fits) in [("another", false), ("of a login", true)] {
        let pulled = pull_as(&registry, &store, Some(Auth::IdentityToken(token.to_owned()))).await;
        assert_eq!(pulled.is_ok(), fits, "{pulled:?}");
        let refused = |error: PullError| error.kind() == ErrorKind::Unauthorized;
        assert!(pulled.map_or_else(refused, |_| true));
    }
    assert_eq!(tokens.seen.lock().unwrap().len(), 2, "one token serves all requests of a pull");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_checked_and_may_be_exchanged_for_a_token_to_keep() {
    let (registry, _tokens) = with_tokens(|request| {
        let query = request.path.split_once('?')?.1;
        let has = |field: &str| query.split('&').any(|given| given == field);
        let right = request.header("authorization") == Some("Basic dXNlcjpzZWNyZXQ=");
        let fits = right && has("offline_token=true") && has("client_id=hyper") && has("account=user");
        fits.then(|| r#"{"token":"abc","refresh_token":"of a login"}"#.to_owned())
    });
    let store = TestStore::with(config());
    let login = async |server: &str, password: &str| {
        let auth = Auth::Basic { username: "user".to_owned(), password: password.to_owned() };
        store.store.login(server, auth).await
    };
    let server = format!("https://{}/v1/", registry.name("x").trim_end_matches("/x"));
    assert_eq!(login(&server, "secret").await.unwrap().as_deref(), Some("of a login"));
    let error = login(&server, "wrong").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Unauthorized, "unauthorized: who are you?")
    );
    assert_eq!(login("no registry", "secret").await.unwrap_err().kind(), ErrorKind::InvalidInput);
    let open = Faulty::start(|_| ok(b"{}"));
    assert_eq!(login(open.name("").trim_end_matches('/'), "any").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_token_is_used_as_it_is() {
    let (registry, tokens) = with_tokens(|_| None);
    let auth = Some(Auth::RegistryToken("abc".to_owned()));
    pull_as(&registry, &TestStore::with(config()), auth).await.unwrap();
    assert!(tokens.seen.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_in_a_circle_end() {
    let served = small();
    let error = fails(move |request| match request.path.contains("/blobs/") {
        true => Answer::Whole(302, vec![header("Location", &request.path)], Vec::new()),
        false => served.answer(request),
    })
    .await;
    assert!(chain(&error).contains("too many redirects"), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_tried_first_and_the_registry_next() {
    let served = small();
    let broken = Faulty::start(|_| status(500, ""));
    let registry = Faulty::start(move |request| served.answer(request));
    let mut config = config();
    let domain = format!("127.0.0.1:{}", registry.port);
    config.mirrors.insert(domain, vec![format!("http://127.0.0.1:{}", broken.port)]);
    pull(&registry, &TestStore::with(config)).await.unwrap();
    assert!(!broken.seen.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_and_escapes_are_refused() {
    let bomb = Tar::default().file("zeros", &vec![0; 40 << 20]).bytes();
    for (tar, text) in [
        (bomb, "layer is too large"),
        (Tar::default().file("../x", b"").bytes(), "leads out of the layer"),
        (Tar::default().file("a", b"").file("a/b", b"").bytes(), "is not a directory"),
        (Tar::default().symlink("l", "l").file("l/b", b"").bytes(), "too many symbolic links"),
        (Tar::default().hard_link("a", "nowhere").bytes(), "does not exist"),
        (Tar::default().entry(b"x", b'M', b"", b"", Default::default(), (0, 0)).bytes(), "unknown type"),
        (Tar::default().file("a", b"x").unfinished()[..600].to_vec(), "ends too early"),
        (vec![1; 4096], "checksum"),
    ] {
        let served = Served::of(&[tar]);
        let registry = Faulty::start(move |request| served.answer(request));
        let limits = Limits { free: 1 << 20, ratio: 100, ..Limits::default() };
        let store = TestStore::with(RegistryConfig { limits, ..config() });
        let error = pull(&registry, &store).await.unwrap_err();
        assert!(chain(&error).contains(text), "{}", chain(&error));
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}", chain(&error));
        assert!(store.files().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_asks_for_the_right_to_push_and_tells_that_it_has_none() {
    let tokens = Faulty::start(|request| {
        let query = request.path.split_once('?').map_or("", |(_, query)| query);
        let has = |field: &str| query.split('&').any(|given| given == field);
        // Whatever the challenge says: the first request only looks whether a blob is there.
        assert!(has("scope=repository%3Anew%3Apull%2Cpush"), "{query}");
        ok(br#"{"token":"abc"}"#)
    });
    let realm = format!(
        r#"Bearer realm="http://127.0.0.1:{}/token",service="s",scope="repository:new:pull""#,
        tokens.port
    );
    let served = small();
    let registry = Faulty::start(move |request| match request.header("authorization") {
        _ if request.path.starts_with("/v2/x/") || request.path == "/v2/" => served.answer(request),
        Some("Bearer abc") if request.path.contains("/uploads/") => {
            status(403, r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#)
        }
        Some("Bearer abc") => status(404, ""),
        _ => Answer::Whole(401, vec![header("WWW-Authenticate", &realm)], Vec::new()),
    });
    let store = TestStore::with(config());
    pull_as(&registry, &store, None).await.unwrap();
    let target = registry.name("new:1").parse().unwrap();
    store.store.tag(&registry.name("x:1"), &target).unwrap();
    let error = store.store.push(&target, None, None, |_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "denied: not yours");
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    assert_eq!(tokens.seen.lock().unwrap().len(), 1, "one token serves all requests of a push");
}
