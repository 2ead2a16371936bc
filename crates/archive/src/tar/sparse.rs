//! GNU's four ways to store files with holes.

use super::header::{BLOCK, number, unsigned};
use super::pax::{MAX_SPARSE_NUMBERS, decimal};

/// Where the data of a file with holes lies: offset and length, ascending and apart.
pub type Map = Vec<(u64, u64)>;

/// Makes a map of numbers in pairs and checks it against the file's size and payload.
pub fn map_of(numbers: &[u64], size: u64, payload: u64) -> Result<Map, &'static str> {
    if !numbers.len().is_multiple_of(2) || numbers.len() > MAX_SPARSE_NUMBERS {
        return Err("bad sparse map");
    }
    let (mut end, mut data) = (0_u64, 0_u64);
    let mut map = Vec::with_capacity(numbers.len() / 2);
    for pair in numbers.chunks_exact(2) {
        let (offset, length) = (pair[0], pair[1]);
        let after = offset.checked_add(length).ok_or("bad sparse map")?;
        if offset < end || after > size {
            return Err("bad sparse map");
        }
        end = after;
        data += length;
        if length > 0 {
            map.push((offset, length));
        }
    }
    if data == payload { Ok(map) } else { Err("sparse map does not fit its data") }
}

/// Old GNU headers: four pairs in the header block.
pub fn header_numbers(block: &[u8; BLOCK]) -> Result<(Vec<u64>, u64, bool), &'static str> {
    let mut numbers = Vec::new();
    take_pairs(&block[386..482], &mut numbers)?;
    let size = unsigned(&block[483..495]).ok_or("bad sparse size")?;
    Ok((numbers, size, block[482] != 0))
}

/// Old GNU continuation blocks: 21 pairs each. Tells whether another one follows.
pub fn continuation_numbers(block: &[u8; BLOCK], numbers: &mut Vec<u64>) -> Result<bool, &'static str> {
    take_pairs(&block[..504], numbers)?;
    if numbers.len() > MAX_SPARSE_NUMBERS {
        return Err("sparse map is too long");
    }
    Ok(block[504] != 0)
}

/// Pairs of 12-byte numbers, up to the first unused one.
fn take_pairs(fields: &[u8], numbers: &mut Vec<u64>) -> Result<(), &'static str> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 || pair[12] == 0 {
            break;
        }
        for field in [&pair[..12], &pair[12..]] {
            let value = number(field).and_then(|value| u64::try_from(value).ok());
            numbers.push(value.ok_or("bad sparse map")?);
        }
    }
    Ok(())
}

/// PAX 1.0: the map stands as decimal lines before the data, padded to blocks.
#[derive(Debug, Default)]
pub struct LineMap {
    numbers: Vec<u64>,
    expected: Option<usize>,
    line: Vec<u8>,
}

impl LineMap {
    /// Takes a block in. Returns true when the map is complete.
    pub fn take(&mut self, block: &[u8; BLOCK]) -> Result<bool, &'static str> {
        for byte in block {
            if self.expected.is_some_and(|expected| self.numbers.len() >= expected) {
                return Ok(true);
            }
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > 20 {
                    return Err("bad sparse map");
                }
                continue;
            }
            let value = decimal(&self.line).ok_or("bad sparse map")?;
            self.line.clear();
            match self.expected {
                Some(_) => self.numbers.push(value),
                None => {
                    let count = usize::try_from(value).ok().and_then(|count| count.checked_mul(2));
                    self.expected = Some(
                        count.filter(|count| *count <= MAX_SPARSE_NUMBERS).ok_or("sparse map is too long")?,
                    );
                }
            }
        }
        Ok(self.expected.is_some_and(|expected| self.numbers.len() >= expected))
    }

    /// The numbers in pairs.
    pub fn into_numbers(self) -> Vec<u64> {
        self.numbers
    }
}
