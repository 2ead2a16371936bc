//! Importing, naming, removing, saving and loading, and what happens when something dies.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use common::faulty::gzip;
use common::tar::{Meta, Tar};
use common::tree::{Mounted, tree};
use common::{TestStore, can_mount, docker_archive, run};
use hyper_image::{
    Digest, ErrorKind, Image, ImageUse, ImportRequest, LoadError, OpenError, Reference, RegistryConfig,
    Removed, Store,
};

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn root_filesystem() -> Vec<u8> {
    Tar::default()
        .directory_as("./", Meta { mode: 0o711, uid: 1, gid: 2, mtime: 3 })
        .directory("./etc")
        .file("./etc/hostname", b"x")
        .bytes()
}

fn import(store: &TestStore, name: &str, tar: &[u8]) -> Image {
    let request = ImportRequest { reference: Some(reference(name)), ..ImportRequest::default() };
    let id = store.store.import(tar, &request, &|_| {}).unwrap();
    store.store.get(&id.to_string()).unwrap()
}

fn unused(_: &hyper_image::ImageId) -> Option<ImageUse> {
    None
}

#[test]
fn an_import_makes_an_image_of_one_layer() {
    let store = TestStore::new();
    let request = ImportRequest {
        reference: Some(reference("mine:1")),
        changes: vec![r#"CMD ["sh"]"#.to_owned(), "ENV A=1".to_owned(), "WORKDIR /srv".to_owned()],
        message: Some("made by hand".to_owned()),
        platform: Some("linux/arm64".parse().unwrap()),
    };
    let id = store.store.import(&gzip(&root_filesystem())[..], &request, &|_| {}).unwrap();
    let image = store.store.get("mine:1").unwrap();
    assert_eq!((image.id, image.size, image.architecture.as_str()), (id, 1, "arm64"));
    assert_eq!(
        (image.config.config.cmd.join(" "), image.config.config.working_dir.as_str()),
        ("sh".to_owned(), "/srv")
    );
    assert_eq!(image.comment, "made by hand");
    assert_eq!((image.root.mode, image.root.uid, image.root.gid, image.root.mtime), (0o711, 1, 2, 3));
    assert_eq!(image.layers[0].diff_id, Digest::of(&root_filesystem()));
    assert!(image.created_seconds > 1_700_000_000);
    let bad = ImportRequest { changes: vec!["RUN x".to_owned()], ..ImportRequest::default() };
    let error = store.store.import(&root_filesystem()[..], &bad, &|_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn images_are_found_by_name_id_and_prefix() {
    let store = TestStore::new();
    let image = import(&store, "a/b:c", &root_filesystem());
    let hex = image.id.hex();
    for name in ["a/b:c", "docker.io/a/b:c", &hex, &image.id.to_string(), &hex[..12], &hex[..1]] {
        assert_eq!(store.store.get(name).unwrap().id, image.id, "{name}");
    }
    let error = store.store.get("nosuch").unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::NotFound, "No such image: nosuch:latest")
    );
    assert_eq!(store.store.get("BAD NAME").unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn names_move_and_images_go_with_their_last_name() {
    let store = TestStore::new();
    let first = import(&store, "x:1", &root_filesystem());
    store.store.tag("x:1", &reference("y")).unwrap();
    let second = import(&store, "x:1", &Tar::default().file("other", b"").bytes());
    assert_eq!(store.store.get("y").unwrap().id, first.id);
    assert_eq!(store.store.get("x:1").unwrap().id, second.id);
    assert_eq!(store.store.list().unwrap().len(), 2);
    let removed = store.store.remove("y", false, false, &unused).unwrap();
    assert_eq!(removed[0], Removed::Untagged("y:latest".to_owned()));
    assert_eq!(removed[1], Removed::Deleted(first.id.to_string()));
    assert_eq!(store.files().len(), 2);
    store.store.tag("x:1", &reference("z:1")).unwrap();
    let error = store.store.remove(&second.id.short(), false, false, &unused).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(
        error.to_string().ends_with("(must be forced) - image is referenced in multiple repositories"),
        "{error}"
    );
    store.store.remove(&second.id.short(), true, false, &unused).unwrap();
    assert!(store.files().is_empty() && store.store.list().unwrap().is_empty());
    let error = store.store.remove("x:1", false, false, &unused).unwrap_err();
    assert_eq!(error.to_string(), "No such image: x:1");
}

#[test]
fn an_image_in_use_stays() {
    let store = TestStore::new();
    let image = import(&store, "x:1", &root_filesystem());
    let user =
        |running| move |_: &hyper_image::ImageId| Some(ImageUse { container: "c".repeat(64), running });
    let error = store.store.remove("x:1", false, false, &user(false)).unwrap_err();
    let short = image.id.short();
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to remove repository reference \"x:1\" (must force) - container cccccccccccc is using its referenced image {short}"
        )
    );
    let error = store.store.remove(&short, true, false, &user(true)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("(cannot be forced) - image is being used by running container cccccccccccc")
    );
    let removed = store.store.remove("x:1", true, false, &user(false)).unwrap();
    assert_eq!(removed, [Removed::Untagged("x:1".to_owned())]);
    assert_eq!(store.store.get(&short).unwrap().repo_tags, Vec::<String>::new());
    store.store.tag(&short, &reference("x:2")).unwrap();
    let removed = store.store.remove(&short, true, false, &user(false)).unwrap();
    assert_eq!(removed, [Removed::Untagged("x:2".to_owned())]);
    assert_eq!(store.files().len(), 2);
    store.store.remove(&short, false, false, &unused).unwrap();
    assert!(store.files().is_empty());
}

#[test]
fn layers_are_shared_and_go_with_the_last_image() {
    let store = TestStore::new();
    let base = root_filesystem();
    let top = |name: &str| Tar::default().directory("etc").file("etc/name", name.as_bytes()).bytes();
    for name in ["a", "b"] {
        store.store.load(&docker_archive(&[base.clone(), top(name)], name)[..], &|_| {}).unwrap();
    }
    assert_eq!(store.files().len(), 6);
    store.store.remove("a", false, false, &unused).unwrap();
    assert_eq!(store.files().len(), 4);
    store.store.remove("b", false, false, &unused).unwrap();
    assert!(store.files().is_empty());
}

#[test]
fn an_old_docker_archive_is_loaded_and_its_history_told() {
    let store = TestStore::new();
    let archive = docker_archive(&[root_filesystem()], "old:1");
    let loaded = store.store.load(&gzip(&archive)[..], &|_| {}).unwrap();
    assert_eq!(loaded[0].references, ["old:1"]);
    let history = store.store.history("old:1").unwrap();
    let lines: Vec<(&str, u64)> = history.iter().map(|line| (line.created_by.as_str(), line.size)).collect();
    assert_eq!(lines, [("nothing", 0), ("first", 1)]);
    assert_eq!((history[0].id.as_str(), history[0].tags.len()), (loaded[0].id.to_string().as_str(), 1));
}

#[test]
fn broken_archives_are_refused_and_leave_nothing() {
    let good = docker_archive(&[root_filesystem()], "x");
    let mut wrong_layer = Tar::default();
    let manifest = br#"[{"Config":"c","RepoTags":null,"Layers":["l"]}]"#;
    let config =
        format!(r#"{{"os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#, Digest::of(b"no"));
    wrong_layer = wrong_layer
        .file("manifest.json", manifest)
        .file("c", config.as_bytes())
        .file("l", &root_filesystem());
    for archive in [
        Vec::new(),
        b"not a tar at all".to_vec(),
        Tar::default().file("x", b"y").bytes(),
        Tar::default().file("manifest.json", b"[{").bytes(),
        Tar::default().file("manifest.json", manifest).bytes(),
        Tar::default().symlink("manifest.json", "manifest.json").bytes(),
        good[..good.len() / 2].to_vec(),
        wrong_layer.bytes(),
    ] {
        let store = TestStore::new();
        let error: LoadError = store.store.load(&archive[..], &|_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(store.files().is_empty());
    }
}

#[test]
fn a_layer_that_links_into_a_lower_one_gets_a_copy() {
    let bottom = Tar::default()
        .directory("usr")
        .directory("usr/lib")
        .symlink("lib", "usr/lib")
        .pax(&[("SCHILY.xattr.user.x", b"y")])
        .file("usr/lib/a", b"from below");
    let top = Tar::default().hard_link("b", "lib/a").hard_link("c", "b");
    let store = TestStore::new();
    let archive = docker_archive(&[bottom.bytes(), top.bytes()], "x");
    store.store.load(&archive[..], &|_| {}).unwrap();
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(&store.store.get("x").unwrap());
    let tree = tree(&mounted.root());
    let (b, c) = (&tree[b"b".as_slice()], &tree[b"c".as_slice()]);
    assert_eq!((b.content, b.names, c.same_as.as_str()), (Some(Digest::of(b"from below")), 2, "b"));
    assert_eq!(b.xattrs["user.x"], Digest::of(b"y"));
}

#[test]
fn an_opaque_root_hides_everything_below() {
    let bottom = Tar::default().directory("a").file("a/old", b"").file("b", b"").directory("c");
    let top = Tar::default().file(".wh..wh..opq", b"").directory("a").file("a/new", b"");
    let store = TestStore::new();
    store.store.load(&docker_archive(&[bottom.bytes(), top.bytes()], "x")[..], &|_| {}).unwrap();
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(&store.store.get("x").unwrap());
    let tree = tree(&mounted.root());
    let names: Vec<_> = tree.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    assert_eq!(names, ["a", "a/new"]);
}

#[test]
fn one_layer_borrows_differently_over_different_bases() {
    let base = |mode| Tar::default().directory_as("d", Meta { mode, ..Meta::default() }).bytes();
    let top = Tar::default().file("d/x", b"").bytes();
    let store = TestStore::new();
    for (name, mode) in [("a", 0o700), ("b", 0o750)] {
        store.store.load(&docker_archive(&[base(mode), top.clone()], name)[..], &|_| {}).unwrap();
    }
    let blob = |name: &str| store.store.get(name).unwrap().layers[1].blob.clone();
    assert_ne!(blob("a"), blob("b"));
    if !can_mount() {
        return;
    }
    for (name, mode) in [("a", 0o040_700), ("b", 0o040_750)] {
        let mounted = Mounted::new(&store.store.get(name).unwrap());
        assert_eq!(tree(&mounted.root())[b"d".as_slice()].mode, mode);
    }
}

#[test]
fn a_saved_image_is_the_same_when_loaded() {
    let store = TestStore::new();
    // Odd tars must come back as they were: no trailer, garbage behind it, sparse, duplicates.
    let odd = Tar::default()
        .file("a", b"first")
        .file("a", &vec![5; 9000])
        .file(".wh.b", b"content nobody needs")
        .file(".wh..wh.plnk/x", b"aufs")
        .hard_link("from aufs", ".wh..wh.plnk/x")
        .unfinished();
    let mut garbage = root_filesystem();
    garbage.extend(b"behind the end");
    let archive = docker_archive(&[garbage, odd, Tar::default().bytes()], "odd:1");
    let loaded = store.store.load(&archive[..], &|_| {}).unwrap();
    let mut saved = Vec::new();
    store.store.save(&["odd".to_owned()], &mut saved).unwrap();
    let other = TestStore::new();
    let again = other.store.load(&saved[..], &|_| {}).unwrap();
    assert_eq!(again, loaded);
    assert_eq!(again[0].references, ["odd:1"]);
    let error = store.store.save(&["nosuch".to_owned()], Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "No such image: nosuch:latest");
}

#[test]
fn a_store_has_one_owner_and_sweeps_what_was_left() {
    let store = TestStore::new();
    import(&store, "x", &root_filesystem());
    let (images, database) = (store.directory.path().join("images"), store.directory.path().join("hyper.db"));
    let open = || Store::open(&images, &database, RegistryConfig::default());
    assert!(matches!(open(), Err(OpenError::Locked(_))));
    let TestStore { directory: _directory, store } = store;
    drop(store);
    let orphan = images.join(format!("layers/sha256/{}.erofs", Digest::of(b"orphan").hex()));
    for path in [images.join("tmp/123-4"), orphan.clone(), images.join("layers/sha256/nonsense")] {
        std::fs::write(path, b"left").unwrap();
    }
    let store = open().unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(!orphan.exists());
    assert_eq!(std::fs::read_dir(images.join("tmp")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(images.join("layers/sha256")).unwrap().count(), 2);
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=2m", "tmpfs", directory.path().to_str().unwrap()]);
    let outside = tempfile::tempdir().unwrap();
    let result = full_disk(directory.path(), outside.path());
    run("umount", &["--lazy", directory.path().to_str().unwrap()]);
    assert_eq!(result, (ErrorKind::NoSpace, 0, true));
}

/// The kind of the error, what is left, and whether something smaller then fits.
fn full_disk(directory: &Path, outside: &Path) -> (ErrorKind, usize, bool) {
    let images = directory.join("images");
    let store = Store::open(&images, &outside.join("hyper.db"), RegistryConfig::default()).unwrap();
    let tar = Tar::default().file("large", &vec![1; 5 << 20]).bytes();
    let error = store.import(&tar[..], &ImportRequest::default(), &|_| {}).unwrap_err();
    let left = std::fs::read_dir(images.join("tmp")).unwrap().count();
    // Programs that other tests start hold our open files between their fork and exec.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let next = store.import(&root_filesystem()[..], &ImportRequest::default(), &|_| {});
        if next.is_ok() || std::time::Instant::now() > deadline {
            return (error.kind(), left, next.is_ok());
        }
    }
}
