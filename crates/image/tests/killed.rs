//! A pull that dies by `kill -9` leaves the old state, and the next one works.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::TestStore;
use common::faulty::{Answer, Faulty, Served};
use common::tar::Tar;
use hyper_image::{Reference, RegistryConfig, Store};

/// The child's half: pulls forever from a registry that stalls.
#[test]
fn pull_for_the_parent() {
    let (Ok(directory), Ok(name)) =
        (std::env::var("HYPER_TEST_DIRECTORY"), std::env::var("HYPER_TEST_IMAGE"))
    else {
        return;
    };
    let directory = Path::new(&directory);
    let store =
        Store::open(&directory.join("images"), &directory.join("hyper.db"), RegistryConfig::default())
            .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _ = runtime.block_on(store.pull(&Reference::parse(&name).unwrap(), None, None, |_| {}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pull_leaves_the_old_state() {
    let tars: Vec<Vec<u8>> =
        (0..3).map(|index| Tar::default().file(&format!("{index}"), &vec![index; 50_000]).bytes()).collect();
    let served = Served::of(&tars);
    let honest = served.clone();
    let registry = Faulty::start(move |request| match honest.is_layer(request, 2) {
        true if request.nth == 0 => Answer::Stall(honest.layers[2].clone(), honest.layers[2].len() / 2),
        _ => honest.answer(request),
    });
    let TestStore { directory, store } = TestStore::new();
    drop(store);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pull_for_the_parent"])
        .env("HYPER_TEST_DIRECTORY", directory.path())
        .env("HYPER_TEST_IMAGE", registry.name("x:1"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Until two layers are kept and the third one hangs.
    let layers = directory.path().join("images/layers/sha256");
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::fs::read_dir(&layers).unwrap().count() < 4 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let open = || {
        let path = directory.path();
        Store::open(&path.join("images"), &path.join("hyper.db"), RegistryConfig::default()).unwrap()
    };
    let store = open();
    assert!(store.list().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(directory.path().join("images/tmp")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(&layers).unwrap().count(), 0);
    let name = registry.name("x:1");
    store.pull(&Reference::parse(&name).unwrap(), None, None, |_| {}).await.unwrap();
    assert_eq!(store.get(&name).unwrap().layers.len(), 3);
}
