//! Whole layers, made of anything: converted, read back, and given back as the tar they were.

use std::fs::File;

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::erofs::{Inode, ReadError, Reader};
use crate::tar::{entry_header, trailer};

/// Converts a tar and finishes it over nothing. Gives disk and map.
fn made(tar: &[u8]) -> Result<(File, File, Summary), LayerError> {
    let file = || tempfile::tempfile().expect("a temporary file");
    let (disk, map) = (file(), file());
    let files = Source {
        disk: disk.try_clone().expect("another handle"),
        scratch: file(),
        map: map.try_clone().expect("another handle"),
    };
    let (converted, diff_id) = convert(tar, Limits::default(), files)?;
    assert_eq!(diff_id, Digest::of(tar));
    let summary = converted.finish(&Lower::default(), [7; 16])?;
    Ok((disk, map, summary))
}

/// Reads everything that a directory leads to, and returns how many files that were.
fn walk(reader: &Reader, directory: &Inode) -> Result<usize, ReadError> {
    let mut count = 0;
    let mut last: Option<Vec<u8>> = None;
    for (name, nid) in reader.entries(directory)? {
        assert!(last.as_ref().is_none_or(|last| *last < name), "names are sorted");
        let inode = reader.inode(nid)?;
        let found = reader.lookup(directory, &name)?.expect("a listed name is found");
        assert_eq!((found.mode, found.size), (inode.mode, inode.size));
        match inode.kind() {
            0o040_000 => count += walk(reader, &inode)?,
            0o120_000 => assert!(!reader.symlink(&inode)?.is_empty()),
            0o100_000 => reader.read(&inode, 0, &mut vec![0; inode.size as usize])?,
            _ => {}
        }
        count += 1;
        last = Some(name);
    }
    Ok(count)
}

/// An entry of a tar: name, type, link target, size.
type Entry = (String, u8, String, usize);

/// The tar of some entries.
fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, kind, link, size) in entries {
        let size = if *kind == b'0' { *size } else { 0 };
        let mut header = entry_header(name.as_bytes(), *kind, 0o755, size as u64, 1).expect("it fits");
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        tar.extend(header);
        tar.extend((0..size).map(|at| at as u8));
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.extend(trailer());
    tar
}

/// Paths of few names, so that they meet each other.
fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        8 => "[a-c]",
        1 => Just("..".to_owned()),
        1 => Just(".".to_owned()),
        1 => "\\.wh\\.[a-c]",
        1 => Just(".wh..wh..opq".to_owned()),
    ];
    (any::<bool>(), proptest::collection::vec(name, 1..4))
        .prop_map(|(absolute, names)| format!("{}{}", if absolute { "/" } else { "" }, names.join("/")))
}

fn entry() -> impl Strategy<Value = Entry> {
    let kind =
        prop_oneof![4 => Just(b'0'), 3 => Just(b'5'), 2 => Just(b'2'), 2 => Just(b'1'), 1 => Just(b'6')];
    let size = prop_oneof![0..10_usize, 4000..4200_usize, Just(8192), Just(70_000)];
    (path(), kind, path(), size)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_entries_make_a_sound_disk_and_come_back(entries in proptest::collection::vec(entry(), 0..25)) {
        let tar = tar_of(&entries);
        if let Ok((disk, map, summary)) = made(&tar) {
            let reader = Reader::new(disk.try_clone().expect("another handle")).expect("an image");
            let root = reader.root().expect("a root");
            walk(&reader, &root).expect("a sound image");
            let map = TarMap::open(map).expect("a map");
            let mut back = Vec::new();
            map.write_tar(&disk, &mut back).expect("the tar");
            prop_assert!(back == tar, "the tar differs");
            prop_assert_eq!((map.size, summary.tar_size), (tar.len() as u64, tar.len() as u64));
            prop_assert_eq!(disk.metadata().expect("metadata").len(), summary.disk_size);
        }
    }

    #[test]
    fn damaged_bytes_never_panic(
        entries in proptest::collection::vec(entry(), 1..6),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut tar = tar_of(&entries);
        for (at, value) in flips {
            let at = at.index(tar.len());
            tar[at] = value;
        }
        let _ = made(&tar);
    }

    #[test]
    fn damaged_disks_never_panic_their_reader(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        use std::os::unix::fs::FileExt;
        let entries = [("a".to_owned(), b'5', String::new(), 0), ("a/b".to_owned(), b'0', String::new(), 5000),
                       ("c".to_owned(), b'2', "a/b".to_owned(), 0)];
        let (disk, ..) = made(&tar_of(&entries)).expect("a good layer");
        let length = disk.metadata().expect("metadata").len() as usize;
        for (at, value) in flips {
            disk.write_all_at(&[value], at.index(length) as u64).expect("a write");
        }
        let Ok(reader) = Reader::new(disk) else { return Ok(()) };
        let Ok(root) = reader.root() else { return Ok(()) };
        let Ok(entries) = reader.entries(&root) else { return Ok(()) };
        for (name, nid) in entries.into_iter().take(100) {
            let _ = reader.lookup(&root, &name);
            if let Ok(inode) = reader.inode(nid) {
                let _ = reader.symlink(&inode);
                let _ = reader.entries(&inode);
                let _ = reader.read(&inode, 0, &mut vec![0; inode.size.min(10_000) as usize]);
            }
        }
    }
}

#[test]
fn concatenated_and_mixed_compressions_are_read() {
    let tar = tar_of(&[("a".to_owned(), b'0', String::new(), 70_000)]);
    let (first, second) = tar.split_at(30_000);
    let gzip = |bytes: &[u8]| {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).expect("memory");
    for stream in [[gzip(first), gzip(second)].concat(), [zstd(first), zstd(second)].concat()] {
        let file = || tempfile::tempfile().expect("a temporary file");
        let files = Source { disk: file(), scratch: file(), map: file() };
        let (_, diff_id) = convert(&stream[..], Limits::default(), files).expect("both parts");
        assert_eq!(diff_id, Digest::of(&tar));
    }
    for (magic, name) in [(b"BZh91AY&SY".as_slice(), "bzip2"), (b"\xfd7zXZ\0\0", "xz")] {
        let file = || tempfile::tempfile().expect("a temporary file");
        let files = Source { disk: file(), scratch: file(), map: file() };
        let error = convert(magic, Limits::default(), files).err().expect("refused");
        assert!(error.to_string().contains(name));
    }
}
