//! The key sequence that leaves a container without stopping it.

/// Bytes of ctrl-p ctrl-q, docker's default.
const DEFAULT: [u8; 2] = [0x10, 0x11];

/// A sequence of keys that is looked for in what the user types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys {
    keys: Vec<u8>,
    /// How many keys of the sequence have been typed and held back.
    held: usize,
}

/// A detach-keys text that names no keys.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid detach keys ({text}): unknown character: '{part}'")]
pub struct DetachKeysError {
    text: String,
    part: String,
}

impl DetachKeys {
    /// Parses `ctrl-p,ctrl-q`, `a,b` and the like; an empty text is the default.
    ///
    /// # Errors
    /// [`DetachKeysError`] for anything but single ASCII characters and `ctrl-` with one of `a`-`z @ [ \ ] ^ _`.
    pub fn parse(text: &str) -> Result<Self, DetachKeysError> {
        if text.is_empty() {
            return Ok(Self { keys: DEFAULT.to_vec(), held: 0 });
        }
        let keys = text.split(',').map(|part| {
            key(part).ok_or_else(|| DetachKeysError { text: text.to_owned(), part: part.to_owned() })
        });
        Ok(Self { keys: keys.collect::<Result<_, _>>()?, held: 0 })
    }

    /// What of `input` is to be sent; `None` in the second place while the sequence is not complete.
    ///
    /// Keys of a begun sequence are held back until the next input decides.
    pub fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut pass = Vec::with_capacity(input.len() + self.held);
        for &byte in input {
            if byte == self.keys[self.held] {
                self.held += 1;
                if self.held == self.keys.len() {
                    self.held = 0;
                    return (pass, true);
                }
                continue;
            }
            pass.extend_from_slice(&self.keys[..self.held]);
            self.held = 0;
            if byte == self.keys[0] && self.keys.len() > 1 {
                self.held = 1;
            } else {
                pass.push(byte);
            }
        }
        (pass, false)
    }

    /// The keys held back when the input ended.
    pub fn rest(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        self.keys[..held].to_vec()
    }
}

fn key(part: &str) -> Option<u8> {
    match (part.as_bytes(), part.strip_prefix("ctrl-").map(str::as_bytes)) {
        ([single], _) if single.is_ascii() => Some(*single),
        (_, Some([letter @ b'a'..=b'z'])) => Some(letter - b'a' + 1),
        (_, Some([b'@'])) => Some(0),
        (_, Some([symbol @ b'['..=b'_'])) => Some(symbol - b'[' + 27),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_names_become_bytes() {
        assert_eq!(DetachKeys::parse("").unwrap().keys, [16, 17]);
        assert_eq!(DetachKeys::parse("ctrl-a,d").unwrap().keys, [1, b'd']);
        assert_eq!(DetachKeys::parse("ctrl-@,ctrl-[,ctrl-\\,ctrl-]").unwrap().keys, [0, 27, 28, 29]);
        for wrong in ["ctrl-A", "ab", "ctrl-", "a,", "é"] {
            assert!(DetachKeys::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_sequence_is_found_across_reads_and_never_sent() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.filter(b"ls\x10"), (b"ls".to_vec(), false));
        assert_eq!(keys.filter(b"\x11more"), (vec![], true));
    }

    #[test]
    fn a_broken_sequence_is_sent_in_full() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.filter(b"\x10x\x10\x10y"), (b"\x10x\x10\x10y".to_vec(), false));
        assert_eq!(keys.filter(b"\x10"), (vec![], false));
        assert_eq!(keys.rest(), b"\x10");
    }

    proptest::proptest! {
        #[test]
        fn what_is_typed_is_sent_in_order_unless_it_detaches(
            typed in proptest::collection::vec(0x0fu8..0x13, 0..40), cut in 0usize..40,
        ) {
            let cut = cut.min(typed.len());
            let mut keys = DetachKeys::parse("").unwrap();
            let mut sent = Vec::new();
            let mut detached = false;
            for part in [&typed[..cut], &typed[cut..]] {
                if !detached {
                    let (bytes, found) = keys.filter(part);
                    sent.extend(bytes);
                    detached = found;
                }
            }
            sent.extend(keys.rest());
            let at = typed.windows(2).position(|pair| pair == [0x10, 0x11]);
            proptest::prop_assert_eq!(detached, at.is_some());
            proptest::prop_assert_eq!(&sent[..], &typed[..at.unwrap_or(typed.len())]);
        }
    }
}
