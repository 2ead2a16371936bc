//! The reader against tars from GNU tar, and against nonsense.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::tar::{entry_header, trailer};

/// Collects what is no payload.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Sink for Raw {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Entries with their payload.
type Contents = Vec<(Entry, Vec<u8>)>;

fn read_all(tar: &[u8]) -> Result<(Contents, Vec<u8>), TarError> {
    let mut reader = Reader::new(io::BufReader::with_capacity(700, tar), Raw::default());
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut payload = Vec::new();
        reader.payload(|sink, bytes| {
            payload.extend_from_slice(bytes);
            sink.raw(bytes).map_err(TarError::Keep)
        })?;
        entries.push((entry, payload));
    }
    reader.drain()?;
    Ok((entries, reader.into_parts().1.0))
}

/// GNU tar over a directory.
fn gnu_tar(format: &str, directory: &std::path::Path) -> Vec<u8> {
    let output = Command::new("tar")
        .args(["--sparse", "--sort=name", "-C"])
        .arg(directory)
        .args(["--format", format, "-c", "."])
        .stderr(Stdio::null())
        .output()
        .expect("tar runs");
    output.stdout
}

#[test]
fn gnu_and_pax_tars_with_long_names_and_holes_are_read() {
    let directory = tempfile::tempdir().expect("directory");
    let long = "n".repeat(200);
    std::fs::write(directory.path().join(&long), b"long").expect("file");
    std::os::unix::fs::symlink("t".repeat(300), directory.path().join("link")).expect("link");
    let mut holes = std::fs::File::create(directory.path().join("holes")).expect("file");
    for index in 0..40_u64 {
        use std::io::{Seek, SeekFrom};
        holes.seek(SeekFrom::Start(index * (1 << 20))).expect("seek");
        holes.write_all(&[index as u8 + 1; 5000]).expect("write");
    }
    holes.set_len(50 << 20).expect("length");
    for format in ["gnu", "pax", "oldgnu"] {
        let tar = gnu_tar(format, directory.path());
        let (entries, raw) = read_all(&tar).expect(format);
        assert_eq!(raw, tar);
        let find =
            |name: &str| entries.iter().find(|(entry, _)| entry.path.ends_with(name.as_bytes())).expect(name);
        assert_eq!(find(&long).1, b"long");
        assert_eq!(find("link").0.link.len(), 300);
        let (entry, payload) = find("holes");
        let map = entry.sparse.as_ref().expect("sparse");
        assert_eq!(entry.size, 50 << 20);
        let mut content = vec![0_u8; entry.size as usize];
        let mut at = 0;
        for (offset, length) in map {
            content[*offset as usize..][..*length as usize]
                .copy_from_slice(&payload[at..at + *length as usize]);
            at += *length as usize;
        }
        assert_eq!(content, std::fs::read(directory.path().join("holes")).expect("read"), "{format}");
    }
}

#[test]
fn an_archive_without_trailer_ends_cleanly_and_a_cut_one_does_not() {
    let mut tar = entry_header(b"a", b'0', 0o644, 5, 0).expect("fits");
    tar.extend_from_slice(b"hello");
    assert!(matches!(read_all(&tar), Err(TarError::Truncated)));
    tar.resize(1024, 0);
    assert_eq!(read_all(&tar).expect("whole").0.len(), 1);
    tar.extend(trailer());
    tar.extend_from_slice(b"garbage after the end");
    let (entries, raw) = read_all(&tar).expect("whole");
    assert_eq!((entries.len(), raw), (1, tar));
}

#[test]
fn hard_links_have_no_payload_whatever_their_size_says() {
    let mut tar = entry_header(b"b", b'1', 0o644, 4096, 0).expect("fits");
    tar.extend(entry_header(b"c", b'0', 0o644, 0, 0).expect("fits"));
    assert_eq!(read_all(&tar).expect("valid").0.len(), 2);
}

proptest! {
    #[test]
    fn damaged_tars_never_panic(
        flips in proptest::collection::vec((0_usize..4096, any::<u8>()), 0..8),
        cut in 0_usize..4096,
    ) {
        let mut tar = entry_header(b"a", b'0', 0o644, 600, 7).expect("fits");
        tar.resize(1536, b'x');
        let payload = b"19 path=some/where\n30 mtime=1350244992.023960108\n";
        tar.extend(entry_header(b"pax", b'x', 0o644, payload.len() as u64, 7).expect("fits"));
        tar.extend_from_slice(payload);
        tar.resize(2560, 0);
        tar.extend(entry_header(b"b", b'S', 0o644, 0, 7).expect("fits"));
        tar.extend(trailer());
        for (at, value) in flips {
            if let Some(byte) = tar.get_mut(at) { *byte = value; }
        }
        // The checksum would reject nearly every flip before anything interesting.
        for header in [0, 1536, 2560] {
            let block = &mut tar[header..header + BLOCK];
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        tar.truncate(cut);
        if let Ok((_, raw)) = read_all(&tar) {
            prop_assert_eq!(raw, tar);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = read_all(&bytes);
    }
}
