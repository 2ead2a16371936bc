//! A process's output as its client asked for it, whatever it comes as.
//!
//! A process with a terminal has one stream of plain bytes, one without has two that come in docker's frames: a byte
//! for the stream, three that are zero, four for the length (big-endian), the bytes. With docker it is the start of an
//! exec that says in which form the client takes them, and not the process.

use std::borrow::Cow;

/// Bytes before those of a frame.
const HEADER: usize = 8;

/// The stream of a frame that is standard output.
const STDOUT: u8 = 1;

/// A frame of standard output.
pub(crate) fn stdout_frame(bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + bytes.len());
    frame.extend([STDOUT, 0, 0, 0]);
    frame.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(bytes);
    frame
}

/// What is done with the output on its way to the client.
#[derive(Debug, Default)]
pub(crate) enum Framing {
    /// It comes as the client takes it.
    #[default]
    AsItComes,
    /// Plain bytes, of which frames of standard output are made.
    Wrapped,
    /// Frames, of which the plain bytes of standard output are taken; there is no place for standard error.
    Unwrapped {
        /// The beginning of a frame that is not there entirely.
        header: Vec<u8>,
        /// Bytes of the frame that are still to come.
        left: usize,
        /// They are of standard output.
        wanted: bool,
    },
}

impl Framing {
    /// For a process with or without a terminal, and a client that takes plain bytes (`plain`) or frames.
    pub(crate) fn between(terminal: bool, plain: bool) -> Self {
        match (terminal, plain) {
            (true, false) => Self::Wrapped,
            (false, true) => Self::Unwrapped { header: Vec::new(), left: 0, wanted: false },
            (true, true) | (false, false) => Self::AsItComes,
        }
    }

    /// What the client is to get for these bytes.
    pub(crate) fn pass<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        match self {
            Self::AsItComes => Cow::Borrowed(bytes),
            Self::Wrapped => Cow::Owned(stdout_frame(bytes)),
            Self::Unwrapped { header, left, wanted } => Cow::Owned(unwrap(bytes, header, left, wanted)),
        }
    }
}

fn unwrap(mut bytes: &[u8], header: &mut Vec<u8>, left: &mut usize, wanted: &mut bool) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    while !bytes.is_empty() {
        if *left == 0 {
            let (more, rest) = bytes.split_at(bytes.len().min(HEADER - header.len()));
            header.extend(more);
            bytes = rest;
            if let Some((stream, length)) = parse(header) {
                (*left, *wanted) = (length, stream == STDOUT);
                header.clear();
            }
            continue;
        }
        let (piece, rest) = bytes.split_at(bytes.len().min(*left));
        if *wanted {
            plain.extend(piece);
        }
        *left -= piece.len();
        bytes = rest;
    }
    plain
}

/// Stream and length of a frame whose header is there.
fn parse(header: &[u8]) -> Option<(u8, usize)> {
    let header: [u8; HEADER] = header.try_into().ok()?;
    let [stream, _, _, _, length @ ..] = header;
    Some((stream, usize::try_from(u32::from_be_bytes(length)).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_passes_as_it_is() {
        for both in [true, false] {
            assert_eq!(&*Framing::between(both, both).pass(b"bytes"), b"bytes");
        }
    }

    #[test]
    fn a_terminals_bytes_become_frames() {
        let mut framing = Framing::between(true, false);
        assert_eq!(&*framing.pass(b"ab\r\n"), b"\x01\0\0\0\0\0\0\x04ab\r\n");
    }

    #[test]
    fn frames_become_the_bytes_of_standard_output_wherever_they_are_cut() {
        let mut frames = stdout_frame(b"out ");
        frames.extend(*b"\x02\0\0\0\0\0\0\x03err");
        frames.extend(*b"\x01\0\0\0\0\0\0\0");
        frames.extend(stdout_frame(b"more"));
        for size in 1..frames.len() {
            let mut framing = Framing::between(false, true);
            let plain: Vec<u8> =
                frames.chunks(size).flat_map(|piece| framing.pass(piece).into_owned()).collect();
            assert_eq!(plain, b"out more", "pieces of {size}");
        }
    }
}
