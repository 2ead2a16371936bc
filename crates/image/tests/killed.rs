//! A pull that dies by `kill -9` leaves the old state, and the next one goes on where it was.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::TestStore;
use common::faulty::{Answer, Faulty, Served};
use common::tar::Tar;
use hyper_image::{Digest, Reference, RegistryConfig, Store};

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
async fn a_killed_pull_leaves_the_old_state_and_is_gone_on_with() {
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
    // Until two layers are kept, so that their bytes are gone, and the third one hangs in the middle.
    let layers = directory.path().join("images/layers/sha256");
    let ingests = directory.path().join("images/ingest/sha256");
    let ingest = ingests.join(Digest::of(&served.layers[2]).hex());
    let half = served.layers[2].len() as u64 / 2;
    let count = |directory: &Path| std::fs::read_dir(directory).unwrap().count();
    let deadline = Instant::now() + Duration::from_secs(60);
    while (count(&layers), count(&ingests)) != (4, 1)
        || std::fs::metadata(&ingest).map_or(0, |metadata| metadata.len()) < half
    {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let path = directory.path();
    let store = Store::open(&path.join("images"), &path.join("hyper.db"), RegistryConfig::default()).unwrap();
    let store = TestStore { directory, store };
    assert!(store.store.list().unwrap().is_empty());
    assert_eq!((store.temporaries(), store.files().len()), (0, 4));
    let name = registry.name("x:1");
    store.store.pull(&Reference::parse(&name).unwrap(), None, None, |_| {}).await.unwrap();
    assert_eq!(store.store.get(&name).unwrap().layers.len(), 3);
    assert_eq!(store.ingests(), []);
    let requests = registry.seen.lock().unwrap();
    let of_layer =
        |index| -> Vec<_> { requests.iter().filter(|request| served.is_layer(request, index)).collect() };
    assert_eq!([0, 1, 2].map(|index| of_layer(index).len()), [1, 1, 2]);
    assert_eq!(of_layer(2)[1].header("range"), Some(format!("bytes={half}-").as_str()));
}
