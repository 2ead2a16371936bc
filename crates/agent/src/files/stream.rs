//! The child's end of the conversation.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use hyper_protocol::agent::Reply;
use hyper_protocol::files::PIECE_MAX;
use hyper_protocol::frame;

/// Sends an answer.
pub(super) fn answer(mut socket: &UnixStream, reply: &Reply) -> io::Result<()> {
    socket.write_all(&frame::encode(reply).map_err(io::Error::other)?)
}

/// Bytes to the host, in pieces.
pub(super) struct Download<'a> {
    socket: &'a UnixStream,
    piece: Vec<u8>,
}

/// Room for a piece's length.
const PREFIX: usize = 4;

impl<'a> Download<'a> {
    pub(super) fn new(socket: &'a UnixStream) -> Self {
        let mut piece = Vec::with_capacity(PREFIX + PIECE_MAX);
        piece.extend([0; PREFIX]);
        Self { socket, piece }
    }

    fn send(&mut self) -> io::Result<()> {
        let length = (self.piece.len() - PREFIX) as u32;
        self.piece[..PREFIX].copy_from_slice(&length.to_be_bytes());
        self.socket.write_all(&self.piece)?;
        self.piece.truncate(PREFIX);
        Ok(())
    }

    /// Sends what is left, the end, and how it went.
    pub(super) fn end(mut self, reply: &Reply) -> io::Result<()> {
        if self.piece.len() > PREFIX {
            self.send()?;
        }
        self.send()?;
        answer(self.socket, reply)
    }
}

impl Write for Download<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PREFIX + PIECE_MAX - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PREFIX + PIECE_MAX {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes from the host.
pub(super) struct Upload<'a> {
    socket: &'a UnixStream,
    left: usize,
    ended: bool,
}

impl<'a> Upload<'a> {
    pub(super) fn new(socket: &'a UnixStream) -> Self {
        Self { socket, left: 0, ended: false }
    }
}

impl Read for Upload<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if self.left == 0 {
            let mut prefix = [0; PREFIX];
            self.socket.read_exact(&mut prefix)?;
            self.left = u32::from_be_bytes(prefix) as usize;
            if self.left > PIECE_MAX {
                return Err(io::Error::other("a piece is too long"));
            }
            if self.left == 0 {
                self.ended = true;
                return Ok(0);
            }
        }
        let want = buffer.len().min(self.left);
        let count = self.socket.read(&mut buffer[..want])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count;
        Ok(count)
    }
}
