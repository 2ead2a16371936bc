//! The one disk of an image of several layers: when it is made, when anew, and when it goes.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::PathBuf;

use common::tar::Tar;
use common::{TestStore, docker_archive};
use hyper_image::{Image, ImageUse, MergeError, Store};

/// Two layers with much content and one without any.
fn layers(number: u8) -> Vec<Vec<u8>> {
    let bottom = Tar::default().directory("a").file("a/large", &vec![number; 600_000]).file("gone", b"x");
    let middle = Tar::default().file("a/other", &vec![number + 1; 500_000]);
    vec![bottom.bytes(), middle.bytes(), Tar::default().file(".wh.gone", b"").bytes()]
}

fn load(store: &Store, layers: &[Vec<u8>], name: &str) -> Image {
    store.load(&docker_archive(layers, name)[..], &|_| {}).unwrap();
    store.get(name).unwrap()
}

fn remove(store: &Store, name: &str) {
    store.remove(name, false, false, &|_| None::<ImageUse>).unwrap();
}

/// What is there of merged layers.
fn files(store: &TestStore) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(store.directory.path().join("images/merged/sha256")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn it_is_there_when_the_image_is_and_names_the_layers_that_it_needs() {
    let store = TestStore::new();
    let image = load(&store.store, &layers(1), "x:1");
    let made = files(&store);
    let merged = store.store.merged(&image).unwrap().unwrap();
    assert_eq!(made, std::slice::from_ref(&merged.metadata));
    assert_eq!(merged.metadata.file_stem().unwrap().to_str().unwrap(), image.layers[2].chain_id.hex());
    let mut blobs = [image.layers[0].blob.clone(), image.layers[1].blob.clone()];
    let mut devices = merged.devices.clone();
    blobs.sort();
    devices.sort();
    assert_eq!(devices, blobs);
    assert!(merged.metadata.metadata().unwrap().len() <= 3 * 4096);
    let single = load(&store.store, &layers(1)[..1], "single:1");
    assert_eq!(store.store.merged(&single).unwrap(), None);
}

#[test]
fn it_goes_with_the_last_image_of_its_layers() {
    let store = TestStore::new();
    load(&store.store, &layers(1), "x:1");
    let other =
        load(&store.store, &[layers(1), vec![Tar::default().file("more", b"y").bytes()]].concat(), "y:1");
    assert_eq!(files(&store).len(), 2);
    remove(&store.store, "x:1");
    let kept = store.store.merged(&other).unwrap().unwrap();
    assert_eq!(files(&store), [kept.metadata]);
    remove(&store.store, "y:1");
    assert_eq!(files(&store), Vec::<PathBuf>::new());
    assert_eq!(store.files(), Vec::<PathBuf>::new());
}

#[test]
fn a_store_without_it_makes_it_at_first_use_once_for_all() {
    let store = TestStore::new();
    let image = load(&store.store, &layers(1), "x:1");
    let [path] = files(&store).try_into().unwrap();
    let first = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(path.with_file_name("nonsense"), b"left").unwrap();
    std::fs::write(path.with_file_name(format!("{}.erofs", "0".repeat(64))), b"left").unwrap();
    let store = store.reopened();
    assert_eq!(files(&store), Vec::<PathBuf>::new());
    std::thread::scope(|scope| {
        let using: Vec<_> = (0..4).map(|_| scope.spawn(|| store.store.merged(&image).unwrap())).collect();
        for used in using {
            assert_eq!(used.join().unwrap().unwrap().metadata, path);
        }
    });
    assert!(std::fs::read(&path).unwrap() == first, "the same layers give the same file");
    assert_eq!(store.temporaries(), 0);
    let modified = path.metadata().unwrap().modified().unwrap();
    store.store.merged(&image).unwrap();
    assert_eq!(path.metadata().unwrap().modified().unwrap(), modified);
}

#[test]
fn one_that_is_damaged_or_of_other_layers_is_made_anew() {
    let store = TestStore::new();
    let image = load(&store.store, &layers(1), "x:1");
    load(&store.store, &layers(5), "other:1");
    let path = store.store.merged(&image).unwrap().unwrap().metadata;
    let other = files(&store).into_iter().find(|file| *file != path).unwrap();
    let sound = std::fs::read(&path).unwrap();
    let patched = |at: usize, value: u8| {
        let mut bytes = sound.clone();
        bytes[at] ^= value;
        bytes
    };
    for bad in [
        Vec::new(),
        sound[..sound.len() - 4096].to_vec(),
        sound[..100].to_vec(),
        [sound.clone(), vec![0; 4096]].concat(),
        // The magic number, the device count, a device's tag and its address.
        patched(1024, 1),
        patched(1024 + 86, 3),
        patched(1152, 1),
        patched(1152 + 68, 1),
        std::fs::read(other).unwrap(),
    ] {
        std::fs::write(&path, bad).unwrap();
        assert_eq!(store.store.merged(&image).unwrap().unwrap().metadata, path);
        assert!(std::fs::read(&path).unwrap() == sound);
    }
}

#[test]
fn damaged_layers_are_told_of_and_leave_nothing() {
    let store = TestStore::new();
    let image = load(&store.store, &layers(1), "x:1");
    let [path] = files(&store).try_into().unwrap();
    let blob = &image.layers[1].blob;
    let sound = std::fs::read(blob).unwrap();
    std::fs::write(blob, &sound[..sound.len() - 4096]).unwrap();
    let refused = store.store.merged(&image);
    assert!(matches!(refused, Err(MergeError::Layers { .. })), "{refused:?}");
    assert_eq!(store.temporaries(), 0);
    std::fs::write(blob, sound).unwrap();
    assert_eq!(store.store.merged(&image).unwrap().unwrap().metadata, path);
}
