//! One 512-byte header block.

/// Bytes of a block.
pub const BLOCK: usize = 512;

/// Fields of a header block, as they are.
#[derive(Debug, Clone)]
pub struct Header {
    /// The type flag; NUL is made `0`.
    pub kind: u8,
    /// Prefix and name.
    pub path: Vec<u8>,
    /// Link target.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Bytes of payload.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Device numbers.
    pub device: (u32, u32),
}

/// The dialect, told by the magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    /// Reads a block. The error says what is wrong.
    pub fn parse(block: &[u8; BLOCK]) -> Result<Self, &'static str> {
        verify_checksum(block)?;
        let dialect = match (&block[257..263], &block[263..265], &block[508..512]) {
            (b"ustar\0", _, b"tar\0") => Dialect::Star,
            (b"ustar\0", ..) => Dialect::Ustar,
            (b"ustar ", b" \0", _) => Dialect::Gnu,
            _ => Dialect::V7,
        };
        let prefix = match dialect {
            Dialect::Ustar => text(&block[345..500]),
            Dialect::Star => text(&block[345..476]),
            Dialect::V7 | Dialect::Gnu => &[],
        };
        let mut path = prefix.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(text(&block[0..100]));
        let kind = match block[156] {
            0 => b'0',
            kind => kind,
        };
        let kind = if kind == b'0' && path.ends_with(b"/") { b'5' } else { kind };
        let is_device = matches!(kind, b'3' | b'4') && dialect != Dialect::V7;
        let device_part = |field: &[u8]| -> Result<u32, &'static str> {
            if !is_device {
                return Ok(0);
            }
            u32::try_from(unsigned(field).ok_or("bad device number")?).map_err(|_| "bad device number")
        };
        Ok(Self {
            kind,
            path,
            link: text(&block[157..257]).to_vec(),
            mode: (number(&block[100..108]).ok_or("bad mode")? & 0o7777) as u16,
            uid: unsigned(&block[108..116]).ok_or("bad owner")?,
            gid: unsigned(&block[116..124]).ok_or("bad group")?,
            size: unsigned(&block[124..136]).ok_or("bad size")?,
            mtime: number(&block[136..148]).ok_or("bad time")?,
            device: (device_part(&block[329..337])?, device_part(&block[337..345])?),
        })
    }
}

/// The sum of all bytes with the checksum field as spaces; old writers summed signed bytes.
fn verify_checksum(block: &[u8; BLOCK]) -> Result<(), &'static str> {
    let stored = number(&block[148..156]).ok_or("bad checksum field")?;
    let bytes =
        || block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    let plain: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
    if stored == plain || stored == signed { Ok(()) } else { Err("wrong checksum") }
}

/// A field up to its first NUL.
pub fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// An octal number, or a base-256 one when the first bit is set.
pub fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 == 0 {
        return octal(field);
    }
    // Two's complement, big-endian; bit 6 of the first byte is the sign.
    let negative = first & 0x40 != 0;
    let mut value: i128 = if negative { i128::from(first | 0x80) - 256 } else { i128::from(first & 0x3f) };
    for byte in rest {
        value = value.checked_mul(256)?.checked_add(i128::from(*byte))?;
    }
    i64::try_from(value).ok()
}

/// A number that must not be negative.
pub fn unsigned(field: &[u8]) -> Option<u64> {
    u64::try_from(number(field)?).ok()
}

/// Octal digits among spaces and NULs; nothing at all is zero.
fn octal(field: &[u8]) -> Option<i64> {
    let digits = text(field.trim_ascii_start());
    let digits = digits.trim_ascii();
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(unsigned(&[0xff; 12]), None);
        assert_eq!(number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }

    proptest! {
        #[test]
        fn no_block_panics(bytes in proptest::collection::vec(any::<u8>(), BLOCK)) {
            let block: [u8; BLOCK] = bytes.try_into().expect("a block");
            let _ = Header::parse(&block);
        }

        #[test]
        fn no_field_panics(field in proptest::collection::vec(any::<u8>(), 0..16)) {
            let _ = number(&field);
        }
    }
}
