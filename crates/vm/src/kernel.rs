//! Whether a file is a kernel that can be booted directly: an ELF with an entry point for PVH.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of the ELF header (ELF-64 specification, figure 2).
const HEADER: usize = 64;
/// Bytes of a program header.
const PROGRAM_HEADER: usize = 56;
/// Program headers looked at; kernels have about five.
const PROGRAM_HEADERS_MAX: u16 = 64;
/// Bytes of notes looked at; kernels have some hundred.
const NOTES_MAX: u64 = 64 << 10;
/// `EM_X86_64`.
const MACHINE_X86_64: u16 = 62;
/// `PT_NOTE`.
const TYPE_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY` (`xen/interface/elfnote.h`): the 32-bit entry point of PVH.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// A file is no kernel for us.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// It cannot be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// It is something else.
    #[error("it is no ELF file for x86-64 (a compressed bzImage or vmlinuz will not do, vmlinux is needed)")]
    NotElf,
    /// It ends before its headers do.
    #[error("it is truncated")]
    Truncated,
    /// It has no entry point for PVH.
    #[error("it has no PVH entry point (build it with CONFIG_PVH=y)")]
    NoPvh,
}

/// Checks a guest kernel before a VMM is bothered with it.
///
/// # Errors
/// See [`KernelError`].
pub fn check_kernel(path: &Path) -> Result<(), KernelError> {
    let file = File::open(path).map_err(KernelError::Read)?;
    let mut header = [0; HEADER];
    read(&file, &mut header, 0).map_err(|error| match error {
        KernelError::Truncated => KernelError::NotElf,
        other => other,
    })?;
    let little_64 = header[4] == 2 && header[5] == 1;
    if header[..4] != *b"\x7fELF" || !little_64 || u16_at(&header, 18) != MACHINE_X86_64 {
        return Err(KernelError::NotElf);
    }
    let (offset, size, count) = (u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56));
    if usize::from(size) != PROGRAM_HEADER || count > PROGRAM_HEADERS_MAX {
        return Err(KernelError::NotElf);
    }
    for index in 0..u64::from(count) {
        let mut entry = [0; PROGRAM_HEADER];
        let at = offset.checked_add(index * PROGRAM_HEADER as u64).ok_or(KernelError::Truncated)?;
        read(&file, &mut entry, at)?;
        if u32_at(&entry, 0) == TYPE_NOTE && has_pvh_note(&file, u64_at(&entry, 8), u64_at(&entry, 32))? {
            return Ok(());
        }
    }
    Err(KernelError::NoPvh)
}

fn has_pvh_note(file: &File, offset: u64, size: u64) -> Result<bool, KernelError> {
    let mut notes = vec![0; size.min(NOTES_MAX) as usize];
    read(file, &mut notes, offset)?;
    let mut rest = notes.as_slice();
    while rest.len() >= 12 {
        let (name, value) = (u32_at(rest, 0) as usize, u32_at(rest, 4) as usize);
        if u32_at(rest, 8) == NOTE_PHYS32_ENTRY && rest[12..].starts_with(b"Xen\0") {
            return Ok(true);
        }
        let padded = |len: usize| len.checked_next_multiple_of(4);
        let length = padded(name).and_then(|name| padded(value)?.checked_add(name)?.checked_add(12));
        rest = length.and_then(|length| rest.get(length..)).unwrap_or_default();
    }
    Ok(false)
}

fn read(file: &File, into: &mut [u8], at: u64) -> Result<(), KernelError> {
    file.read_exact_at(into, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => KernelError::Truncated,
        _ => KernelError::Read(error),
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8]) -> Result<(), KernelError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinux");
        std::fs::write(&path, bytes).unwrap();
        check_kernel(&path)
    }

    fn elf(note_type: u32, note_size: u64) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + PROGRAM_HEADER];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18] = 62;
        bytes[32] = HEADER as u8;
        bytes[54] = PROGRAM_HEADER as u8;
        bytes[56] = 1;
        bytes[HEADER] = 4;
        bytes[HEADER + 8] = (HEADER + PROGRAM_HEADER) as u8;
        bytes[HEADER + 32..HEADER + 40].copy_from_slice(&note_size.to_le_bytes());
        for word in [4, 4, note_type] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend(b"Xen\0\0\0\0\x01");
        bytes
    }

    #[test]
    fn kernel_with_pvh_entry_is_accepted() {
        check(&elf(NOTE_PHYS32_ENTRY, 20)).unwrap();
    }

    #[test]
    fn kernel_without_pvh_entry_is_refused() {
        assert!(matches!(check(&elf(6, 20)), Err(KernelError::NoPvh)));
    }

    #[test]
    fn anything_else_is_no_kernel() {
        assert!(matches!(check(b""), Err(KernelError::NotElf)));
        assert!(matches!(check(b"#!/bin/sh\n"), Err(KernelError::NotElf)));
        assert!(matches!(check(&std::fs::read("/bin/true").unwrap()), Err(KernelError::NoPvh)));
        assert!(matches!(check_kernel(Path::new("/nosuch")), Err(KernelError::Read(_))));
    }

    #[test]
    fn truncated_and_lying_headers_end_in_an_error() {
        let whole = elf(NOTE_PHYS32_ENTRY, 20);
        for length in 0..whole.len() {
            assert!(check(&whole[..length]).is_err(), "{length}");
        }
        assert!(check(&elf(6, u64::MAX)).is_err());
    }
}
