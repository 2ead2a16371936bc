//! What is packed is unpacked the same; what leads elsewhere is refused.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use hyper_archive::tar::{Entry, EntryKind, trailer, write_header};
use hyper_archive::{Owner, Packer, Tree, UnpackError, UnpackOptions, Walls, unpack};

fn open(path: &Path) -> fs::File {
    fs::File::open(path).unwrap()
}

fn packed(dir: &Path, path: &str, name: &str) -> Vec<u8> {
    let base = open(dir);
    let mut packer = Packer::new(Vec::new());
    let tree = Tree { base: base.as_fd(), path: path.as_bytes(), name: name.as_bytes(), shallow: &|_| false };
    packer.tree(&tree).unwrap();
    packer.finish().unwrap()
}

fn options() -> UnpackOptions<'static> {
    UnpackOptions {
        no_overwrite: true,
        owner: Owner::Own,
        privileged: false,
        walls: Walls::Target,
        target: "/target",
        rename: None,
        only: b"",
    }
}

fn put(tar: &[u8], target: &Path, options: &UnpackOptions<'_>) -> Result<(), UnpackError> {
    unpack(tar, open(target).as_fd(), options)
}

fn entry(kind: EntryKind, path: &str, link: &str) -> Entry {
    Entry {
        kind,
        path: path.into(),
        link: link.into(),
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 1,
        mtime_nanoseconds: 0,
        size: 0,
        sparse: None,
        device: (0, 0),
        xattrs: Vec::new(),
    }
}

fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        write_header(&mut bytes, entry).unwrap();
    }
    bytes.extend(trailer());
    bytes
}

#[test]
fn tree_keeps_content_modes_times_and_links() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| from.path().join(name);
    let long = "n".repeat(200);
    fs::create_dir_all(at("d/sub")).unwrap();
    fs::write(at("d/sub/file"), vec![7; 300_000]).unwrap();
    fs::write(at("d").join(&long), "long").unwrap();
    fs::hard_link(at("d/sub/file"), at("d/twin")).unwrap();
    symlink("sub/file", at("d/link")).unwrap();
    fs::set_permissions(at("d/sub"), fs::Permissions::from_mode(0o2750)).unwrap();
    let time = UNIX_EPOCH + Duration::from_secs(1_000_000);
    for name in ["d/sub/file", "d/sub", "d"] {
        open(&at(name)).set_modified(time).unwrap();
    }
    put(&packed(from.path(), "d", "e"), to.path(), &options()).unwrap();
    let got = |name: &str| to.path().join("e").join(name);
    assert_eq!(fs::read(got("sub/file")).unwrap(), vec![7; 300_000]);
    assert_eq!(fs::read_to_string(got(&long)).unwrap(), "long");
    assert_eq!(fs::metadata(got("twin")).unwrap().ino(), fs::metadata(got("sub/file")).unwrap().ino());
    assert_eq!(fs::read_link(got("link")).unwrap(), Path::new("sub/file"));
    assert_eq!(fs::metadata(got("sub")).unwrap().mode() & 0o7777, 0o2750);
    for name in ["sub/file", "sub", ""] {
        assert_eq!(fs::metadata(got(name)).unwrap().modified().unwrap(), time, "{name}");
    }
}

#[test]
fn nothing_is_made_outside_of_the_target() {
    use EntryKind::{BlockDevice, Directory, File, HardLink, Symlink};
    let through = [entry(Symlink, "l", "/tmp"), entry(File, "l/evil", "")];
    let lies: [&[Entry]; 7] = [
        &[entry(File, "../evil", "")],
        &[entry(File, "a/../../evil", "")],
        &[entry(HardLink, "h", "../evil")],
        &[entry(Symlink, "a/l", "../../evil")],
        &through,
        &[entry(Directory, "d/", ""), entry(Symlink, "d/l", "x"), entry(Directory, "d/l/m/", "")],
        &[entry(BlockDevice, "sda", "")],
    ];
    for lie in lies {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("t");
        fs::create_dir(&target).unwrap();
        assert!(put(&tar(lie), &target, &options()).is_err(), "{lie:?}");
        let made: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(made, ["t"]);
    }
    assert!(!Path::new("/tmp/evil").exists());
}

#[test]
fn directories_and_other_files_do_not_replace_each_other_unless_told() {
    use EntryKind::{Directory, File};
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/in"), "in").unwrap();
    fs::write(dir.path().join("f"), "f").unwrap();
    for kind in [entry(File, "d", ""), entry(Directory, "f/", "")] {
        let error = put(&tar(std::slice::from_ref(&kind)), dir.path(), &options()).unwrap_err();
        assert!(error.to_string().starts_with("cannot overwrite"), "{error}");
        put(&tar(&[kind]), dir.path(), &UnpackOptions { no_overwrite: false, ..options() }).unwrap();
    }
    assert!(dir.path().join("d").is_file() && dir.path().join("f").is_dir());
}

#[test]
fn only_what_was_asked_for_is_taken_under_its_new_name() {
    use EntryKind::{Directory, File};
    let dir = tempfile::tempdir().unwrap();
    let asked = UnpackOptions { rename: Some((b"old", b"new")), only: b"new", ..options() };
    put(&tar(&[entry(Directory, "old/", ""), entry(File, "old/old", "")]), dir.path(), &asked).unwrap();
    assert!(dir.path().join("new/old").is_file());
    assert!(put(&tar(&[entry(File, "other", "")]), dir.path(), &asked).is_err());
    assert!(put(&tar(&[entry(File, "newer", "")]), dir.path(), &asked).is_err());
}
