//! The greeting that opens a session on a link.
//!
//! A link is a byte stream that outlives the programs at its ends: a port of a virtio console keeps bytes
//! of an older session in its queues, and an end may learn late that the other began anew. So a session opens
//! in four steps, each a [`Hello`] with the same nonce, and everything that is not one is skipped:
//! the host sends [`Role::Host`] with a fresh nonce and repeats it until it is answered; the guest answers
//! each with [`Role::Guest`]; the host sends [`Role::Confirm`] once; the guest sends [`Role::Ready`] once. The
//! bytes behind the last two belong to the session.

use thiserror::Error;

/// First bytes of every hello. Begins with a byte that no JSON text or yamux header of version 0 begins with.
pub const MAGIC: [u8; 8] = *b"\xffHYPERL\n";

/// Version of everything in this crate that crosses the link. Both ends must have the same, since the agent
/// always comes from the host's own initramfs.
pub const VERSION: u32 = 6;

/// Length of an encoded hello: magic, version, role, three zero bytes, nonce, checksum.
pub const LENGTH: usize = 8 + 4 + 4 + 16 + 4;

/// Who speaks, and for which step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The shim, asking for a session.
    Host,
    /// The agent, waiting for one.
    Guest,
    /// The shim, having read the agent's answer.
    Confirm,
    /// The agent, having read the shim's confirmation.
    Ready,
}

impl Role {
    const ALL: [Role; 4] = [Role::Host, Role::Guest, Role::Confirm, Role::Ready];

    fn byte(self) -> u8 {
        match self {
            Role::Host => b'h',
            Role::Guest => b'g',
            Role::Confirm => b'c',
            Role::Ready => b'r',
        }
    }
}

/// The greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Protocol version of the sender.
    pub version: u32,
    /// The sender and the step.
    pub role: Role,
    /// Chosen by the host at random, repeated by the guest.
    pub nonce: [u8; 16],
}

/// Why bytes that begin with the magic are not a hello.
#[derive(Debug, Error, PartialEq, Eq)]
enum HelloError {
    /// The checksum is another: half a hello with other bytes behind it.
    #[error("hello with a wrong checksum")]
    Checksum,
    /// Neither a host nor a guest.
    #[error("hello of an unknown role {role:#x}")]
    Role {
        /// The byte found.
        role: u8,
    },
}

impl Hello {
    /// The bytes that go on the wire.
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_be_bytes());
        bytes[12] = self.role.byte();
        bytes[16..32].copy_from_slice(&self.nonce);
        let sum = checksum(&bytes[..32]);
        bytes[32..].copy_from_slice(&sum);
        bytes
    }

    /// Reads a hello from bytes that begin with [`MAGIC`].
    fn decode(bytes: &[u8; LENGTH]) -> Result<Self, HelloError> {
        if bytes[32..] != checksum(&bytes[..32]) {
            return Err(HelloError::Checksum);
        }
        let role = Role::ALL
            .into_iter()
            .find(|role| role.byte() == bytes[12])
            .ok_or(HelloError::Role { role: bytes[12] })?;
        let mut version = [0; 4];
        version.copy_from_slice(&bytes[8..12]);
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&bytes[16..32]);
        Ok(Hello { version: u32::from_be_bytes(version), role, nonce })
    }
}

/// FNV-1a with 32 bits: tells a whole hello from a cut one; it is no protection against intent.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    let hash =
        bytes.iter().fold(0x811c_9dc5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.to_be_bytes()
}

/// Finds hellos in a stream that may begin with bytes of an older session.
///
/// Holds at most [`LENGTH`] bytes, whatever is pushed.
#[derive(Debug, Default)]
pub struct Scanner {
    window: Vec<u8>,
}

impl Scanner {
    /// A scanner that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that are missing at least until a hello is complete: reading no more than this at once never
    /// takes bytes that follow a hello. Always at least 1.
    pub fn missing(&self) -> usize {
        LENGTH - self.window.len()
    }

    /// Takes one byte; returns the hello that it completes, if it does.
    pub fn push(&mut self, byte: u8) -> Option<Hello> {
        self.window.push(byte);
        self.drop_mismatch();
        let bytes: &[u8; LENGTH] = self.window.as_slice().try_into().ok()?;
        let hello = Hello::decode(bytes).ok();
        self.window.drain(..if hello.is_some() { LENGTH } else { 1 });
        self.drop_mismatch();
        hello
    }

    /// Drops bytes from the front until what is left could be the beginning of a hello.
    fn drop_mismatch(&mut self) {
        let keep = (0..=self.window.len())
            .find(|&start| {
                let rest = &self.window[start..];
                let compared = rest.len().min(MAGIC.len());
                rest[..compared] == MAGIC[..compared]
            })
            .unwrap_or(self.window.len());
        self.window.drain(..keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello { version: VERSION, role: Role::Host, nonce: *b"0123456789abcdef" }
    }

    #[test]
    fn hello_is_found_after_half_a_hello() {
        let mut stream = hello().encode()[..20].to_vec();
        stream.extend(hello().encode());
        let mut scanner = Scanner::new();
        let found: Vec<_> = stream.iter().filter_map(|&b| scanner.push(b)).collect();
        assert_eq!(found, [hello()]);
    }

    proptest! {
        #[test]
        fn hello_is_found_after_any_bytes(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut stream = noise;
            stream.extend(hello().encode());
            let mut scanner = Scanner::new();
            let last = stream.iter().filter_map(|&b| scanner.push(b)).last();
            prop_assert_eq!(last, Some(hello()));
        }
    }
}
