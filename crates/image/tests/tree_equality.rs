//! An image's disks, mounted, show the very tree that `umoci unpack` makes of the same image.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use common::tar::{Meta, Tar, mode};
use common::tree::{Mounted, assert_same, tree};
use common::{TestStore, can_mount, debian, have, layout, run};

/// Loads an OCI layout made by umoci, mounts it, and compares with `umoci unpack`.
fn equals_umoci(layers: &[&Path]) {
    if !have(&["umoci", "mount", "fsck.erofs"]) || !can_mount() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = layout(directory.path(), layers);
    let bundle = directory.path().join("bundle");
    run("umoci", &["unpack", "--keep-dirlinks", "--image", &image, bundle.to_str().unwrap()]);
    let archive = directory.path().join("archive.tar");
    let layout = directory.path().join("layout");
    run("tar", &["-C", layout.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]);
    let store = TestStore::new();
    let loaded = store.store.load(std::fs::File::open(&archive).unwrap(), &|_| {}).unwrap();
    let image = store.store.get(&loaded[0].id.to_string()).unwrap();
    for layer in &image.layers {
        run("fsck.erofs", &[layer.blob.to_str().unwrap()]);
    }
    let expected = tree(&bundle.join("rootfs"));
    assert_same(&tree(&Mounted::new(&image).root()), &expected);
    let merged = store.store.merged(&image).unwrap();
    assert_eq!(merged.is_some(), image.layers.len() > 1, "one layer is one disk already");
    if let Some(merged) = merged {
        for one_file in [true, false] {
            assert_same(&tree(&Mounted::merged(&merged, one_file).root()), &expected);
        }
    }
}

/// Writes layers to files.
fn files(directory: &Path, tars: Vec<Vec<u8>>) -> Vec<std::path::PathBuf> {
    let write = |(index, tar): (usize, Vec<u8>)| {
        let path = directory.join(format!("{index}.tar"));
        std::fs::write(&path, tar).unwrap();
        path
    };
    tars.into_iter().enumerate().map(write).collect()
}

/// Compares an image of such layers.
fn tars_equal_umoci(tars: Vec<Vec<u8>>) {
    let directory = tempfile::tempdir().unwrap();
    let paths = files(directory.path(), tars);
    let paths: Vec<&Path> = paths.iter().map(|path| path.as_path()).collect();
    equals_umoci(&paths);
}

#[test]
fn nginx() {
    if let Some(tar) = debian("nginx-light,busybox-static") {
        equals_umoci(&[&tar]);
    }
}

#[test]
fn redis() {
    if let Some(tar) = debian("redis-server,busybox-static") {
        equals_umoci(&[&tar]);
    }
}

#[test]
fn python() {
    if let Some(tar) = debian("python3,busybox-static") {
        equals_umoci(&[&tar]);
    }
}

#[test]
fn postgresql() {
    if let Some(tar) = debian("postgresql,busybox-static") {
        equals_umoci(&[&tar]);
    }
}

#[test]
fn a_hundred_layers() {
    let Some(tar) = debian("busybox-static") else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut layers = vec![tar];
    let tars = (1..100).map(|index| {
        let tar = Tar::default()
            .directory("srv/")
            .directory(&format!("srv/{}", index / 10))
            .file(&format!("srv/{}/{index}", index / 10), format!("layer {index}").as_bytes());
        match index % 3 {
            0 => tar.file(&format!("srv/{}/.wh.{}", (index - 1) / 10, index - 1), b"").bytes(),
            1 => tar.file("srv/same", &vec![index as u8; index * 100]).bytes(),
            _ => tar.bytes(),
        }
    });
    layers.extend(files(directory.path(), tars.collect()));
    let layers: Vec<&Path> = layers.iter().map(|path| path.as_path()).collect();
    equals_umoci(&layers);
}

#[test]
fn every_kind_of_file_and_attribute() {
    let pattern: Vec<u8> = (0..=u8::MAX).cycle().take(1_000_000).collect();
    let mut tar = Tar::default()
        .directory("a/")
        .directory_as("a/sticky", mode(0o1777))
        .file_as("a/setuid", b"x", Meta { mode: 0o6755, uid: 1000, gid: 70_000, mtime: 1 })
        .file("a/empty", b"")
        .symlink("a/link", "../b/target")
        .hard_link_as("a/hard", "a/setuid", Meta { mode: 0o6755, uid: 1000, gid: 70_000, mtime: 1 })
        .device("a/null", b'3', (1, 3))
        .device("a/disk", b'4', (259, 1_048_575))
        .fifo("a/fifo")
        .raw_name(b"a/\xff\xfe not utf-8 \x01", b"y")
        .file("a/!before the dots", b"z")
        .pax(&[("mtime", b"1234567890.123456789"), ("SCHILY.xattr.user.big", &pattern[..3000])])
        .file("a/xattrs", b"attributes")
        .pax(&[("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0")])
        .file_as("a/ping", b"capable", mode(0o755))
        .pax(&[("path", format!("a/{}", "long".repeat(60)).as_bytes())])
        .file("short", b"long name")
        .pax(&[("linkpath", "t/".repeat(400).as_bytes())])
        .symlink("a/long link", "short");
    for size in [1, 31, 32, 33, 4000, 4032, 4033, 4064, 4095, 4096, 4097, 8191, 8192, 100_000, 1_000_000] {
        tar = tar.file(&format!("a/size {size}"), &pattern[..size]);
    }
    tars_equal_umoci(vec![tar.bytes()]);
}

#[test]
fn sparse_files() {
    use std::io::{Seek, SeekFrom, Write};
    for format in ["gnu", "pax"] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        for (name, size, runs) in
            [("small", 40_000, 2), ("large", 80 << 20, 30), ("all hole", 3 << 20, 0), ("huge", 5 << 30, 2)]
        {
            let mut file = std::fs::File::create(root.join(name)).unwrap();
            for run in 0..runs {
                file.seek(SeekFrom::Start(size / runs * run + 100)).unwrap();
                file.write_all(&vec![run as u8 + 1; 6000]).unwrap();
            }
            file.set_len(size).unwrap();
        }
        // Reading five gigabytes of zeros three times says no more than forty megabytes do.
        std::fs::File::options().write(true).open(root.join("huge")).unwrap().set_len(40 << 20).unwrap();
        let tar = directory.path().join("sparse.tar");
        let (tar, root) = (tar.to_str().unwrap(), root.to_str().unwrap());
        run("tar", &["--sparse", "--format", format, "-C", root, "-cf", tar, "."]);
        // umoci does not know GNU's own form, which GNU tar certainly does.
        if format == "pax" {
            equals_umoci(&[Path::new(tar)]);
        }
        if !can_mount() {
            return;
        }
        let unpacked = tempfile::tempdir().unwrap();
        run("tar", &["-C", unpacked.path().to_str().unwrap(), "-xpf", tar]);
        let store = TestStore::new();
        let id = store.store.import(std::fs::File::open(tar).unwrap(), &Default::default(), &|_| {}).unwrap();
        let image = store.store.get(&id.to_string()).unwrap();
        run("fsck.erofs", &[image.layers[0].blob.to_str().unwrap()]);
        assert!(
            std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&image.layers[0].blob).unwrap()) < 2000
        );
        assert_same(&tree(&Mounted::new(&image).root()), &tree(unpacked.path()));
    }
}

#[test]
fn a_directory_of_many_names() {
    let mut tar = Tar::default().directory("d");
    for index in 0..3000 {
        tar = tar.file(&format!("d/{index}-{}", "n".repeat(index % 90)), format!("{index}").as_bytes());
    }
    tars_equal_umoci(vec![tar.bytes()]);
}

#[test]
fn whiteouts_and_opaque_directories() {
    let bottom = Tar::default()
        .directory("keep")
        .file("keep/a", b"a")
        .file("keep/b", b"b")
        .directory("opaque")
        .file("opaque/old", b"old")
        .directory("replaced")
        .file("replaced/old", b"old")
        .file("file", b"file")
        .directory("gone")
        .file("gone/x", b"x")
        .directory("turns")
        .file("turns/x", b"x");
    let top = Tar::default()
        .directory("keep")
        .file("keep/.wh.a", b"")
        .directory("opaque")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"new")
        .file(".wh.replaced", b"")
        .directory("replaced")
        .file("replaced/new", b"new")
        .file(".wh.gone", b"")
        .file(".wh.file", b"")
        .file("turns", b"now a file");
    tars_equal_umoci(vec![bottom.bytes(), top.bytes()]);
}

#[test]
fn undescribed_parents_keep_the_attributes_below() {
    let strange = Meta { mode: 0o2711, uid: 7, gid: 8, mtime: 99 };
    let bottom = Tar::default()
        .directory_as("a", strange)
        .pax(&[("SCHILY.xattr.user.x", b"y")])
        .directory_as("a/b", strange)
        .file("a/b/old", b"old");
    let top = Tar::default().file("a/b/new", b"new");
    if !have(&["umoci"]) || !can_mount() {
        return;
    }
    // umoci touches the directory's time when it writes the file; ours stays as it was described.
    let directory = tempfile::tempdir().unwrap();
    let paths = files(directory.path(), vec![bottom.bytes(), top.bytes()]);
    let store = TestStore::new();
    layout(directory.path(), &[&paths[0], &paths[1]]);
    let archive = directory.path().join("archive.tar");
    run(
        "tar",
        &["-C", directory.path().join("layout").to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."],
    );
    let loaded = store.store.load(std::fs::File::open(&archive).unwrap(), &|_| {}).unwrap();
    let mounted = Mounted::new(&store.store.get(&loaded[0].id.to_string()).unwrap());
    let tree = tree(&mounted.root());
    let found = &tree[b"a/b".as_slice()];
    assert_eq!((found.mode & 0o7777, found.owner, found.mtime), (0o2711, (7, 8), (99, 0)));
    assert_eq!(found.xattrs["user.x"], hyper_image::Digest::of(b"y"));
    assert_eq!((tree[b"a".as_slice()].mode & 0o7777, tree.len()), (0o2711, 4));
}
