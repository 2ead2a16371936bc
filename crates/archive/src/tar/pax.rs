//! PAX extended headers.

/// What a PAX header changes about the entry behind it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pax {
    /// `path`
    pub path: Option<Vec<u8>>,
    /// `linkpath`
    pub link: Option<Vec<u8>>,
    /// `size`
    pub size: Option<u64>,
    /// `uid`
    pub uid: Option<u64>,
    /// `gid`
    pub gid: Option<u64>,
    /// `mtime`: seconds and nanoseconds
    pub mtime: Option<(i64, u32)>,
    /// `SCHILY.xattr.*` and `LIBARCHIVE.xattr.*`: name and value
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// `GNU.sparse.major` and `.minor`
    pub sparse_version: (Option<u64>, Option<u64>),
    /// `GNU.sparse.name`
    pub sparse_name: Option<Vec<u8>>,
    /// `GNU.sparse.size` or `.realsize`
    pub sparse_size: Option<u64>,
    /// `GNU.sparse.map`, or the pairs of `GNU.sparse.offset` and `.numbytes`: numbers in a row
    pub sparse_map: Option<Vec<u64>>,
}

/// Most extended attributes of a file; their names alone may take 64 KiB in Linux.
const MAX_XATTRS: usize = 512;
/// Most numbers of a sparse map: pairs for a million pieces.
pub const MAX_SPARSE_NUMBERS: usize = 2 << 20;

impl Pax {
    /// Reads the records of a header's payload. The error says what is wrong.
    pub fn parse(mut payload: &[u8]) -> Result<Self, &'static str> {
        let mut pax = Self::default();
        while !payload.is_empty() && payload[0] != 0 {
            let (key, value, rest) = record(payload).ok_or("bad PAX record")?;
            pax.take(key, value)?;
            payload = rest;
        }
        Ok(pax)
    }

    /// Takes one record in. An empty value means the header block's own value.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let as_number = |value: &[u8]| decimal(value).ok_or("bad PAX number");
        if self.xattrs.len() >= MAX_XATTRS {
            return Err("too many extended attributes");
        }
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.set_xattr(name.to_vec(), value.to_vec());
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let name = percent_decode(name).ok_or("bad PAX attribute name")?;
            let value = base64_decode(value).ok_or("bad PAX attribute value")?;
            if !self.xattrs.iter().any(|(known, _)| *known == name) {
                self.set_xattr(name, value);
            }
            return Ok(());
        }
        if value.is_empty() {
            return Ok(());
        }
        match key {
            b"path" | b"linkpath" | b"GNU.sparse.name" if value.contains(&0) => {
                return Err("NUL in a PAX path");
            }
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(as_number(value)?),
            b"uid" => self.uid = Some(as_number(value)?),
            b"gid" => self.gid = Some(as_number(value)?),
            b"mtime" => self.mtime = Some(time(value).ok_or("bad PAX time")?),
            b"GNU.sparse.major" => self.sparse_version.0 = Some(as_number(value)?),
            b"GNU.sparse.minor" => self.sparse_version.1 = Some(as_number(value)?),
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = Some(as_number(value)?),
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<u64>> = value.split(|byte| *byte == b',').map(decimal).collect();
                self.sparse_map = Some(numbers.ok_or("bad PAX sparse map")?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let map = self.sparse_map.get_or_insert_default();
                if map.len() % 2 != usize::from(key == b"GNU.sparse.numbytes") {
                    return Err("bad PAX sparse map");
                }
                map.push(as_number(value)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds an attribute or replaces its value.
    fn set_xattr(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.xattrs.retain(|(known, _)| *known != name);
        self.xattrs.push((name, value));
    }
}

/// Splits `length key=value\n` off.
fn record(payload: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = payload.iter().take(8).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&payload[..space])?).ok()?;
    let record = payload.get(..length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    if equals == 0 || body[..equals].contains(&0) {
        return None;
    }
    Some((&body[..equals], &body[equals + 1..], &payload[length..]))
}

/// Decimal digits only.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds with a fraction of any length, cut to nanoseconds.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, [].as_slice()),
    };
    let (negative, digits) = match whole.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, whole),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds =
        if digits.is_empty() && !fraction.is_empty() { 0 } else { i64::try_from(decimal(digits)?).ok()? };
    let padded = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = padded.fold(0_u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

/// libarchive escapes attribute names as in URLs.
fn percent_decode(name: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((byte, after)) = rest.split_first() {
        if *byte == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            out.push(*byte);
            rest = after;
        }
    }
    (!out.contains(&0)).then_some(out)
}

/// Base64 with or without padding.
fn base64_decode(value: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let unpadded = value.trim_ascii().split(|byte| *byte == b'=').next().unwrap_or_default();
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(unpadded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_are_read() {
        let payload = b"12 path=a/b\n20 mtime=12.5000009\n27 SCHILY.xattr.user.x=\0=\n\n";
        let pax = Pax::parse(payload).expect("valid");
        assert_eq!(pax.path.as_deref(), Some(b"a/b".as_slice()));
        assert_eq!(pax.mtime, Some((12, 500_000_900)));
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), b"\0=\n".to_vec())]);
    }

    #[test]
    fn times_before_1970_round_down() {
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b".5"), Some((0, 500_000_000)));
        assert_eq!(time(b"1.1234567899"), Some((1, 123_456_789)));
        for bad in [b"".as_slice(), b".", b"x", b"1.x", b"--1", b"1e5"] {
            assert_eq!(time(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn broken_records_are_refused() {
        for bad in
            [b"5 a=b".as_slice(), b"99 a=b\n", b"6 a=bc", b"x a=b\n", b"5 ab\n\n", b"0 a=b\n", b"5 =bb\n"]
        {
            assert!(Pax::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_payload_panics(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pax::parse(&payload);
        }

        #[test]
        fn no_record_panics(key in "[A-Za-z.]{1,20}|GNU\\.sparse\\.(map|offset|numbytes|size)|mtime|SCHILY.xattr.a|LIBARCHIVE.xattr.%4",
                            value in "[0-9,.%=-]{0,30}") {
            let body = format!(" {key}={value}\n");
            let mut length = body.len() + 1;
            if format!("{length}").len() + body.len() != length { length += 1; }
            let _ = Pax::parse(format!("{length}{body}").as_bytes());
        }
    }
}
