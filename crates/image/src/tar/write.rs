//! Writing the plain tars that a save produces.

use super::header::BLOCK;

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
