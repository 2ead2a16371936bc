//! Archives that nobody would pack.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::tar::{BLOCK, Entry, EntryKind, Reader, trailer, write_header};
use crate::{Owner, Packer, Tree, UnpackError, UnpackOptions, Walls, unpack};

/// Names, numbers and records that mean something in a tar.
const TOKENS: [&[u8]; 16] = [
    b"../",
    b"/",
    b"\0",
    b"ustar\x0000",
    b"ustar  \0",
    b"30 path=../../outside/x\n",
    b"GNU.sparse.map",
    b"GNU.sparse.major=1",
    b"SCHILY.xattr.user.x=",
    b"99999999999 size=1\n",
    b"77777777777\0",
    b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"1",
    b"2",
    b"x",
    b"S",
];

fn tree() -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    fs::create_dir_all(path.join("d/e")).expect("a directory");
    fs::write(path.join("d/file"), b"content").expect("a file");
    fs::write(path.join("d").join("long".repeat(60)), vec![7; 1500]).expect("a file");
    fs::hard_link(path.join("d/file"), path.join("d/e/link")).expect("a link");
    symlink("../d/file", path.join("d/e/symbolic")).expect("a link");
    symlink("..", path.join("d/up")).expect("a link");
    let base = fs::File::open(path).expect("a directory");
    let mut packer = Packer::new(Vec::new());
    let tree = Tree { base: base.as_fd(), path: b".", name: b"", shallow: &|_| false };
    packer.tree(&tree).expect("it can be packed");
    packer.finish().expect("memory takes it")
}

/// Entries of the kinds that a tree here cannot have.
fn odd() -> Vec<u8> {
    let entry = |kind, path: &[u8], link: &[u8]| Entry {
        kind,
        path: path.to_vec(),
        link: link.to_vec(),
        mode: 0o4755,
        uid: 5,
        gid: 6,
        mtime: 1,
        mtime_nanoseconds: 2,
        size: 0,
        sparse: None,
        device: (1, 3),
        xattrs: vec![(b"user.a".to_vec(), b"b".to_vec())],
    };
    let mut tar = Vec::new();
    for (kind, path, link) in [
        (EntryKind::Symlink, &b"out"[..], &b"../outside"[..]),
        (EntryKind::File, b"out/x", b""),
        (EntryKind::HardLink, b"hard", b"out/secret"),
        (EntryKind::Directory, b"a/b", b""),
        (EntryKind::Symlink, b"a/b/c", b"/etc"),
        (EntryKind::File, b"/abs/olute", b""),
    ] {
        write_header(&mut tar, &entry(kind, path, link)).expect("memory takes it");
    }
    tar.extend(trailer());
    tar
}

#[test]
fn fuzz_unpacking() {
    let directory = tempfile::tempdir().expect("a directory");
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("secret"), b"secret").expect("a file");
    let target = directory.path().join("target");
    hyper_fuzz::tars(&[tree(), odd()], &TOKENS, |tar| {
        let _ = fs::remove_dir_all(&target);
        fs::create_dir(&target).expect("a directory");
        let open = fs::File::open(&target).expect("a directory");
        let options = UnpackOptions {
            no_overwrite: tar.len().is_multiple_of(2),
            owner: Owner::Own,
            privileged: false,
            walls: Walls::Target,
            target: "target",
            rename: None,
            only: b"",
        };
        let result: Result<(), UnpackError> = unpack(tar, open.as_fd(), &options);
        if let Err(error) = result {
            assert!(!error.to_string().is_empty());
        }
        assert_untouched(&outside);
    });
}

/// Nothing has come out of the target.
fn assert_untouched(outside: &Path) {
    let names: Vec<_> =
        fs::read_dir(outside).expect("a directory").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["secret"]);
    assert_eq!(fs::read(outside.join("secret")).expect("a file"), b"secret");
}

#[test]
fn fuzz_reading() {
    hyper_fuzz::tars(&[tree(), odd(), vec![0; 2 * BLOCK]], &TOKENS, |tar| {
        let mut reader = Reader::new(tar, ());
        let mut entries = 0;
        while let Ok(Some(entry)) = reader.next_entry() {
            assert!(entry.path.len() <= 4095 && entry.link.len() <= 4095 && !entry.path.contains(&0));
            entries += 1;
            assert!(entries <= tar.len() / BLOCK + 1);
        }
    });
}
