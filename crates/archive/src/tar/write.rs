//! Writing: the plain tars that a save produces, and entries with all that a file has.

use std::io::{self, Write};

use super::header::BLOCK;
use super::reader::{Entry, EntryKind};

/// Greatest number of seven octal digits, as owners, modes and devices have.
const SEVEN_DIGITS: u64 = 0o777_7777;
/// Greatest number of eleven, as sizes and times have.
const ELEVEN_DIGITS: u64 = 0o777_7777_7777;
/// Longest path of a header block.
const SHORT_PATH: usize = 100;

/// A ustar header owned by root. None when path or size do not fit.
pub fn entry_header(path: &[u8], kind: u8, mode: u16, size: u64, mtime: u64) -> Option<Vec<u8>> {
    let mut block = vec![0; BLOCK];
    if path.len() > 100 {
        return None;
    }
    block[..path.len()].copy_from_slice(path);
    let mut octal = |at: usize, width: usize, value: u64| -> Option<()> {
        let digits = format!("{value:0width$o}");
        (digits.len() == width).then(|| block[at..at + width].copy_from_slice(digits.as_bytes()))
    };
    octal(100, 7, u64::from(mode))?;
    octal(108, 7, 0)?;
    octal(116, 7, 0)?;
    octal(136, 11, mtime)?;
    match octal(124, 11, size) {
        Some(()) => {}
        // Eight GiB and more: GNU's base-256.
        None => {
            block[124] = 0x80;
            block[128..136].copy_from_slice(&size.to_be_bytes());
        }
    }
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    Some(block)
}

/// The end of an archive.
pub fn trailer() -> Vec<u8> {
    vec![0; 2 * BLOCK]
}

/// Bytes up to the next block.
pub fn padding_of(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

/// Writes what stands before the payload of an entry: a ustar block, and a PAX header before it for what does not fit
/// there. The payload, `entry.size` bytes of a regular file, and [`padding_of`] zeros are the caller's to write.
///
/// # Errors
/// The writer's.
pub fn write_header(out: &mut impl Write, entry: &Entry) -> io::Result<()> {
    let size = if entry.kind == EntryKind::File { entry.size } else { 0 };
    let mut records = Vec::new();
    let mut record = |key: &[u8], value: &[u8]| add_record(&mut records, key, value);
    if entry.path.len() > SHORT_PATH {
        record(b"path", &entry.path);
    }
    if entry.link.len() > SHORT_PATH {
        record(b"linkpath", &entry.link);
    }
    if size > ELEVEN_DIGITS {
        record(b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(b"uid", entry.uid), (b"gid", entry.gid)] {
        if u64::from(id) > SEVEN_DIGITS {
            record(key, id.to_string().as_bytes());
        }
    }
    let time_fits = (0..=ELEVEN_DIGITS.cast_signed()).contains(&entry.mtime);
    if !time_fits || entry.mtime_nanoseconds > 0 {
        record(b"mtime", time_text(entry.mtime, entry.mtime_nanoseconds).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        record(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    if !records.is_empty() {
        let mut path = b"PaxHeaders.0/".to_vec();
        path.extend(entry.path.iter().copied().filter(|&byte| byte != b'/').take(SHORT_PATH - path.len()));
        let extension = Entry {
            path,
            link: Vec::new(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
            device: (0, 0),
            ..entry.clone()
        };
        out.write_all(&block(&extension, b'x', records.len() as u64))?;
        out.write_all(&records)?;
        out.write_all(&[0; BLOCK][..padding_of(records.len() as u64) as usize])?;
    }
    let kind = match entry.kind {
        EntryKind::File => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::CharacterDevice => b'3',
        EntryKind::BlockDevice => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    };
    out.write_all(&block(entry, kind, size))
}

/// One header block; what does not fit is cut, and stands in the PAX header before it.
fn block(entry: &Entry, kind: u8, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut text = |at: usize, bytes: &[u8]| {
        let length = bytes.len().min(SHORT_PATH);
        block[at..at + length].copy_from_slice(&bytes[..length]);
    };
    text(0, &entry.path);
    text(157, &entry.link);
    let mut octal = |at: usize, width: usize, value: u64| {
        block[at..at + width].copy_from_slice(format!("{value:0width$o}").as_bytes());
    };
    let fitting = |value: u64, greatest: u64| if value > greatest { 0 } else { value };
    octal(100, 7, u64::from(entry.mode & 0o7777));
    octal(108, 7, fitting(entry.uid.into(), SEVEN_DIGITS));
    octal(116, 7, fitting(entry.gid.into(), SEVEN_DIGITS));
    octal(124, 11, fitting(size, ELEVEN_DIGITS));
    octal(136, 11, fitting(u64::try_from(entry.mtime).unwrap_or(0), ELEVEN_DIGITS));
    octal(329, 7, fitting(entry.device.0.into(), SEVEN_DIGITS));
    octal(337, 7, fitting(entry.device.1.into(), SEVEN_DIGITS));
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Adds `length key=value\n`, whose length counts its own digits.
fn add_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(length.to_string().bytes());
    records.push(b' ');
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

/// Seconds, with a fraction where there is one. A time before 1970 has a fraction that counts away from zero.
fn time_text(seconds: i64, nanoseconds: u32) -> String {
    match (seconds, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (0.., _) => format!("{seconds}.{nanoseconds:09}"),
        _ => format!("-{}.{:09}", seconds.unsigned_abs() - 1, 1_000_000_000 - nanoseconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::Reader;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_written_is_read(
            path in "[a-zA-Z0-9/äß ]{1,300}[a-z]", link in "[a-z/.]{0,300}", mode in 0_u16..0o10000,
            uid: u32, gid: u32, mtime in -5_000_000_000_i64..50_000_000_000, mtime_nanoseconds in 0_u32..1_000_000_000,
            value in proptest::collection::vec(any::<u8>(), 0..100),
            kind in proptest::sample::select(vec![EntryKind::Symlink, EntryKind::Directory, EntryKind::Fifo]),
        ) {
            let entry = Entry {
                kind, path: path.into_bytes(), link: link.into_bytes(), mode, uid, gid, mtime, mtime_nanoseconds,
                size: 0, sparse: None, device: (0, 0), xattrs: vec![(b"user.x".to_vec(), value)],
            };
            let mut bytes = Vec::new();
            write_header(&mut bytes, &entry).unwrap();
            bytes.extend(trailer());
            let read = Reader::new(bytes.as_slice(), ()).next_entry().unwrap().unwrap();
            prop_assert_eq!(format!("{read:?}"), format!("{entry:?}"));
        }
    }
}
