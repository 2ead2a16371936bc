//! Pulling from docker's own registry.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::{Arc, Mutex};

use common::{Registry, TestStore, debian, have, layout, login_wanted, run, small_image};
use hyper_image::{Auth, ErrorKind, LayerStep, Progress, PullError, Reference};

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn tools() -> bool {
    have(&["umoci", "skopeo", "docker-registry"])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_then_up_to_date() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = small_image(directory.path());
    let registry = Registry::start();
    registry.push(&format!("oci:{image}"), "lib/x:1", &[]);
    let store = TestStore::new();
    let events = Arc::new(Mutex::new(Vec::new()));
    let name = registry.name("lib/x:1");
    let seen = Arc::clone(&events);
    let first =
        store.store.pull(&reference(&name), None, None, move |event| seen.lock().unwrap().push(event)).await;
    let first = first.unwrap();
    assert!(!first.up_to_date);
    let events = std::mem::take(&mut *events.lock().unwrap());
    assert_eq!(events[0], Progress::PullingFrom { repository: "lib/x".to_owned(), tag: "1".to_owned() });
    assert_eq!(events.last(), Some(&Progress::Status(format!("Status: Downloaded newer image for {name}"))));
    let complete =
        events.iter().filter(|event| matches!(event, Progress::Layer { step: LayerStep::PullComplete, .. }));
    assert_eq!(complete.count(), 2);
    let second = store.store.pull(&reference(&name), None, None, |_| {}).await.unwrap();
    assert!(second.up_to_date);
    assert_eq!((second.image_id, second.digest), (first.image_id, first.digest));
    let image = store.store.get(&name).unwrap();
    assert_eq!(image.repo_digests, [format!("{}@{}", registry.name("lib/x"), first.digest)]);
    assert_eq!(image.size, 300_000 + 9 + 3);
    let by_digest = registry.name(&format!("lib/x@{}", first.digest));
    assert!(store.store.pull(&reference(&by_digest), None, None, |_| {}).await.unwrap().up_to_date);
    assert_eq!(store.files().len(), 4);
    assert_eq!(store.temporaries(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn formats_and_compressions_lead_to_the_same_disks() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = small_image(directory.path());
    let registry = Registry::start();
    let from = format!("oci:{image}");
    registry.push(&from, "x:oci", &["--format", "oci"]);
    registry.push(&from, "x:docker", &["--format", "v2s2"]);
    registry.push(&from, "x:zstd", &["--format", "oci", "--dest-compress-format", "zstd"]);
    let store = TestStore::new();
    let mut layers = Vec::new();
    for tag in ["oci", "docker", "zstd"] {
        let name = registry.name(&format!("x:{tag}"));
        store.store.pull(&reference(&name), None, None, |_| {}).await.unwrap();
        layers.push(store.store.get(&name).unwrap().layers);
    }
    assert!(layers.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(store.files().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_of_one_image_fetch_each_layer_once() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = small_image(directory.path());
    let registry = Registry::start();
    registry.push(&format!("oci:{image}"), "x:1", &[]);
    let store = TestStore::new();
    let name = reference(&registry.name("x:1"));
    let fetched = Mutex::new(0);
    let count = |event: Progress| {
        if matches!(event, Progress::Layer { step: LayerStep::DownloadComplete, .. }) {
            *fetched.lock().unwrap() += 1;
        }
    };
    let (first, second) =
        tokio::join!(store.store.pull(&name, None, None, count), store.store.pull(&name, None, None, count));
    assert_eq!(first.unwrap().image_id, second.unwrap().image_id);
    assert_eq!(*fetched.lock().unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_in_dockers_words() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = small_image(directory.path());
    let registry = Registry::start();
    registry.push(&format!("oci:{image}"), "x:1", &[]);
    let store = TestStore::new();
    let missing_tag = registry.name("x:2");
    let error = store.store.pull(&reference(&missing_tag), None, None, |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().starts_with(&format!("manifest for {missing_tag} not found: manifest unknown: "))
    );
    let error = store.store.pull(&reference(&registry.name("y:1")), None, None, |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let arm = Some("linux/arm64".parse().unwrap());
    let error = store.store.pull(&reference(&registry.name("x:1")), arm, None, |_| {}).await.unwrap_err();
    assert!(matches!(error, PullError::WrongPlatform { .. }), "{error}");
    assert!(store.files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_wanted_and_taken_from_the_caller() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = small_image(directory.path());
    let registry = Registry::start_with(&login_wanted(directory.path()));
    registry.push(&format!("oci:{image}"), "x:1", &["--dest-creds", "user:secret"]);
    let name = reference(&registry.name("x:1"));
    let store = TestStore::new();
    let error = store.store.pull(&name, None, None, |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    let login = |password: &str| Auth::Basic { username: "user".to_owned(), password: password.to_owned() };
    let error = store.store.pull(&name, None, Some(login("wrong")), |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    store.store.pull(&name, None, Some(login("secret")), |_| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_image_gives_every_layer_back_byte_for_byte() {
    if !tools() {
        return;
    }
    let Some(tar) = debian("nginx-light,busybox-static") else { return };
    let directory = tempfile::tempdir().unwrap();
    let image = layout(directory.path(), &[&tar]);
    let registry = Registry::start();
    registry.push(&format!("oci:{image}"), "x:1", &[]);
    let store = TestStore::new();
    let name = registry.name("x:1");
    store.store.pull(&reference(&name), None, None, |_| {}).await.unwrap();
    let archive = directory.path().join("saved.tar");
    store.store.save(std::slice::from_ref(&name), std::fs::File::create(&archive).unwrap()).unwrap();
    let original = store.store.get(&name).unwrap();
    let layer = run("tar", &["-tf", archive.to_str().unwrap()]);
    assert!(layer.contains(&format!("blobs/sha256/{}", original.layers[0].diff_id.hex())));
    let other = TestStore::new();
    let path = archive.clone();
    let handle = other.store.clone();
    let loaded =
        tokio::task::spawn_blocking(move || handle.load(std::fs::File::open(path).unwrap(), &|_| {}));
    let loaded = loaded.await.unwrap().unwrap();
    assert_eq!(loaded[0].id, original.id);
    assert_eq!(loaded[0].references, [name]);
    // Others must read it as well.
    for kind in ["docker-archive", "oci-archive"] {
        run(
            "skopeo",
            &[
                "copy",
                "--quiet",
                "--insecure-policy",
                &format!("{kind}:{}", archive.display()),
                &format!("dir:{}", directory.path().join(kind).display()),
            ],
        );
    }
}
