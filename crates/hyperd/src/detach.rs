//! The keys that detach a client from a terminal.

use crate::http::ApiError;

/// Docker's default.
const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Most keys of a sequence.
const KEYS_MAX: usize = 32;

/// Looks for a sequence of keys in what a client types.
///
/// Keys that could begin the sequence are held back until it is clear that they do not.
#[derive(Debug, Clone)]
pub(crate) struct Scanner {
    keys: Vec<u8>,
    matched: usize,
}

impl Scanner {
    /// For keys as docker writes them: `ctrl-p,ctrl-q`, `a,b`; empty for the default.
    ///
    /// # Errors
    /// A key is neither one character nor `ctrl-` and one of `a-z@[\]^_`.
    pub(crate) fn new(keys: &str) -> Result<Self, ApiError> {
        let keys = if keys.is_empty() { DEFAULT } else { keys };
        let parsed: Option<Vec<u8>> = keys.split(',').map(key).collect();
        match parsed {
            Some(keys) if keys.len() <= KEYS_MAX => Ok(Self { keys, matched: 0 }),
            _ => Err(ApiError::invalid(format!("Invalid detach keys ({keys}) provided"))),
        }
    }

    /// Takes what was typed; returns what to pass on, or what came before the sequence once it is complete.
    pub(crate) fn push(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut pass = Vec::with_capacity(typed.len());
        for &byte in typed {
            // What is held back is a beginning of the sequence; a shorter one may go on with this byte.
            while self.matched > 0 && self.keys[self.matched] != byte {
                let held = self.matched;
                let shorter =
                    (1..held).rev().find(|&length| self.keys[..length] == self.keys[held - length..held]);
                self.matched = shorter.unwrap_or(0);
                pass.extend_from_slice(&self.keys[..held - self.matched]);
            }
            if self.keys[self.matched] == byte {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (pass, true);
                }
            } else {
                pass.push(byte);
            }
        }
        (pass, false)
    }
}

fn key(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] => Some(*byte),
        [b'c', b't', b'r', b'l', b'-', byte] => match byte {
            b'a'..=b'z' => Some(byte - b'a' + 1),
            b'@' => Some(0),
            b'[' => Some(27),
            b'\\' => Some(28),
            b']' => Some(29),
            b'^' => Some(30),
            b'_' => Some(31),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(keys: &str, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut scanner = Scanner::new(keys).unwrap();
        let mut passed = Vec::new();
        for piece in pieces {
            let (pass, detached) = scanner.push(piece);
            passed.extend(pass);
            if detached {
                return (passed, true);
            }
        }
        (passed, false)
    }

    #[test]
    fn sequence_is_found_across_pieces() {
        assert_eq!(scan("", &[b"ab\x10", b"\x11c"]), (b"ab".to_vec(), true));
        assert_eq!(scan("a,b,c", &[b"xa", b"b", b"c"]), (b"x".to_vec(), true));
    }

    #[test]
    fn keys_that_are_no_sequence_pass_in_order() {
        assert_eq!(scan("", &[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
        assert_eq!(scan("", &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(scan("a,a,b", &[b"aaab"]), (b"a".to_vec(), true));
        assert_eq!(scan("a,b,a,c", &[b"ababac"]), (b"ab".to_vec(), true));
    }

    #[test]
    fn malformed_keys_are_refused() {
        for keys in ["ctrl-", "ctrl-1", "ab", "a,,b", "ctrl-p,"] {
            assert!(Scanner::new(keys).is_err(), "{keys}");
        }
    }
}
