//! Pulls that go on where an earlier one ended.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use common::faulty::{Answer, Faulty, Request, Served, ok};
use common::tar::Tar;
use common::{TestStore, can_mount, run};
use hyper_image::{Digest, LayerStep, Progress, PullError, Reference, RegistryConfig, Store};

/// One layer that does not compress.
fn served(size: usize) -> Served {
    let mut state = 1_u32;
    let noise: Vec<u8> = (0..size)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    Served::of(&[Tar::default().file("noise", &noise).bytes()])
}

/// Serves all but the layer, of which the first answer ends after so many bytes and leaves the
/// connection open.
fn stalling(served: &Served, at: usize) -> Faulty {
    let served = served.clone();
    Faulty::start(move |request| match served.is_layer(request, 0) && request.nth == 0 {
        true => Answer::Stall(served.layers[0].clone(), at),
        false => served.answer(request),
    })
}

/// Pulls and tells what was told about the layer.
async fn pull(registry: &Faulty, store: &Store) -> Result<Vec<LayerStep>, PullError> {
    let steps = Mutex::new(Vec::new());
    let reference = Reference::parse(&registry.name("x:1")).unwrap();
    let tell = |progress| {
        if let Progress::Layer { step, .. } = progress {
            steps.lock().unwrap().push(step);
        }
    };
    store.pull(&reference, None, None, tell).await?;
    Ok(steps.into_inner().unwrap())
}

/// Pulls until `at` bytes of the layer have come, then drops the pull.
async fn begun(registry: &Faulty, store: TestStore, at: usize) -> TestStore {
    let reached = async {
        while store.ingests().first().is_none_or(|(_, length)| *length < at as u64) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = pull(registry, &store.store) => panic!("the registry stalls: {ended:?}"),
        () = reached => {}
        () = tokio::time::sleep(Duration::from_secs(30)) => panic!("{:?}", store.ingests()),
    }
    store.settles().await;
    store
}

/// The ranges that were asked of the layer; an empty one for all of it.
fn ranges(registry: &Faulty, served: &Served) -> Vec<String> {
    let requests = registry.seen.lock().unwrap();
    let of_layer = requests.iter().filter(|request| served.is_layer(request, 0));
    of_layer.map(|request| request.header("range").unwrap_or_default().to_owned()).collect()
}

fn starts_over(steps: &[LayerStep]) -> usize {
    steps.iter().filter(|step| matches!(step, LayerStep::StartingOver { .. })).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_pull_is_gone_on_with_by_another_process() {
    let served = served(300_000);
    let total = served.layers[0].len() as u64;
    let registry = stalling(&served, 200_000);
    let store = begun(&registry, TestStore::new(), 200_000).await.reopened();
    let steps = pull(&registry, &store.store).await.unwrap();
    assert_eq!(ranges(&registry, &served), ["", "bytes=200000-"]);
    let first = steps.iter().find(|step| matches!(step, LayerStep::Downloading { .. }));
    assert_eq!(first, Some(&LayerStep::Downloading { current: 200_000, total }));
    assert_eq!((store.ingests(), store.files().len(), store.temporaries()), (vec![], 2, 0));
    assert_eq!(store.store.get(&registry.name("x:1")).unwrap().size, 300_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_came_whole_is_not_asked_for_again() {
    let served = served(10_000);
    let registry = stalling(&served, 0);
    let store = TestStore::new();
    let digest = Digest::of(&served.layers[0]);
    std::fs::write(store.ingest_directory().join(digest.hex()), &served.layers[0]).unwrap();
    pull(&registry, &store.store).await.unwrap();
    assert_eq!(ranges(&registry, &served), [""; 0]);
    assert_eq!((store.ingests(), store.files().len()), (vec![], 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_sends_all_again() {
    let served = served(50_000);
    let honest = served.clone();
    let registry = Faulty::start(move |request| match honest.is_layer(request, 0) {
        true if request.nth == 0 => Answer::Stall(honest.layers[0].clone(), 40_000),
        true => ok(&honest.layers[0]),
        false => honest.answer(request),
    });
    let store = begun(&registry, TestStore::new(), 40_000).await;
    let steps = pull(&registry, &store.store).await.unwrap();
    assert_eq!((starts_over(&steps), store.ingests()), (0, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_bytes_that_are_wrong_are_thrown_away_and_fetched_again() {
    let served = served(50_000);
    let whole = served.layers[0].len();
    let digest = Digest::of(&served.layers[0]);
    // In the header only the digest tells; in the middle the stream breaks; the last is all there is.
    for (length, wrong) in [(40_000, 4), (40_000, 20_000), (whole, 4), (whole, 20_000), (1, 0)] {
        let registry = Faulty::start({
            let served = served.clone();
            move |request| served.answer(request)
        });
        let store = TestStore::new();
        let mut kept = served.layers[0][..length].to_vec();
        kept[wrong] ^= 0x55;
        std::fs::write(store.ingest_directory().join(digest.hex()), kept).unwrap();
        let steps = pull(&registry, &store.store).await.unwrap();
        assert_eq!((starts_over(&steps), store.ingests()), (1, vec![]), "{length} {wrong}");
        assert_eq!(ranges(&registry, &served).last().unwrap(), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lies_after_a_resume_fails_after_one_more_attempt() {
    let served = served(50_000);
    let honest = served.clone();
    let registry = Faulty::start(move |request: &Request| match honest.is_layer(request, 0) {
        true if request.nth == 0 => Answer::Stall(honest.layers[0].clone(), 40_000),
        true => {
            let mut other = honest.clone();
            other.layers[0][4] ^= 1;
            ok(&other.layers[0])
        }
        false => honest.answer(request),
    });
    let store = begun(&registry, TestStore::new(), 40_000).await;
    // The beginning was honest, so the first lie goes unnoticed.
    pull(&registry, &store.store).await.unwrap();
    store.store.remove(&registry.name("x:1"), true, false, &|_| None).unwrap();
    std::fs::write(store.ingest_directory().join(Digest::of(&served.layers[0]).hex()), b"wrong").unwrap();
    let error = pull(&registry, &store.store).await.unwrap_err();
    assert!(matches!(error, PullError::Verification { .. }), "{error}");
    assert_eq!((store.ingests(), ranges(&registry, &served).len()), (vec![], 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_the_registry_refuses_is_started_over() {
    let served = served(50_000);
    let honest = served.clone();
    let registry = Faulty::start(move |request| match request.header("range") {
        Some(_) => common::faulty::status(416, ""),
        None if honest.is_layer(request, 0) && request.nth == 0 => {
            Answer::Stall(honest.layers[0].clone(), 40_000)
        }
        None => honest.answer(request),
    });
    let store = begun(&registry, TestStore::new(), 40_000).await;
    let steps = pull(&registry, &store.store).await.unwrap();
    assert_eq!((starts_over(&steps), store.ingests()), (1, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_go_on_with_one_layer_once() {
    let served = served(300_000);
    let registry = stalling(&served, 200_000);
    let store = begun(&registry, TestStore::new(), 200_000).await;
    let (first, second) = tokio::join!(pull(&registry, &store.store), pull(&registry, &store.store));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(ranges(&registry, &served), ["", "bytes=200000-"]);
    assert_eq!((store.ingests(), store.files().len()), (vec![], 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_a_day_goes_when_the_store_opens_or_is_cleaned() {
    let served = served(50_000);
    let registry = stalling(&served, 40_000);
    let store = begun(&registry, TestStore::new(), 40_000).await.reopened();
    assert_eq!(store.ingests().len(), 1);
    let path = store.ingest_directory().join(&store.ingests()[0].0);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(25 * 60 * 60)).unwrap();
    let store = store.reopened();
    assert_eq!(store.ingests(), []);
    std::fs::write(&path, b"some").unwrap();
    assert_eq!(store.store.collect_garbage().unwrap(), 1);
    assert_eq!(store.ingests(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_for_both_gets_the_layer() {
    if !can_mount() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let images = directory.path().join("images");
    std::fs::create_dir(&images).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=3m", "tmpfs", images.to_str().unwrap()]);
    // Whichever of the two meets the end of the disk: half of it is layer, half is kept.
    let ended = async {
        let store =
            Store::open(&images, &directory.path().join("hyper.db"), RegistryConfig::default()).unwrap();
        std::fs::write(images.join("ingest/sha256").join("0".repeat(64)), vec![1; 500_000]).unwrap();
        let served = served(2 << 20);
        let registry = Faulty::start(move |request| served.answer(request));
        let pulled = pull(&registry, &store).await.map(|_| ());
        (pulled, std::fs::read_dir(images.join("ingest/sha256")).unwrap().count())
    };
    let (pulled, left) = ended.await;
    run("umount", &["--lazy", images.to_str().unwrap()]);
    pulled.unwrap();
    assert!(left <= 1, "another pull's bytes may stay, ours may not");
}
