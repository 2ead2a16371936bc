//! A client's place at a process's streams, which outlives its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper_protocol::shim::INPUT_PIECE_MAX;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::input::Input;

/// Longest key.
const KEY_MAX: usize = 64;

/// One client, over as many connections as it takes.
#[derive(Debug)]
pub struct Session {
    key: String,
    /// Bytes of input taken from the client.
    taken: AtomicU64,
    /// The task that reads the client's input from the connection.
    reader: Mutex<Option<JoinHandle<()>>>,
}

/// How the input of a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputEnd {
    /// The client said so.
    Ended,
    /// The connection was lost.
    Lost,
}

/// Whether a text can be a session's key.
pub fn is_key(key: &str) -> bool {
    (1..=KEY_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl Session {
    /// A session that has taken nothing.
    pub fn new(key: &str) -> Arc<Self> {
        Arc::new(Self { key: key.to_owned(), taken: AtomicU64::new(0), reader: Mutex::default() })
    }

    /// Its name.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Ends the reading of an older connection and says how many bytes of input were taken over all of them. What
    /// such a connection still holds is not read any more: its client sends it again.
    pub async fn take_over(&self) -> u64 {
        if let Some(reader) = self.reader.lock().await.take() {
            reader.abort();
            // Only a task that has ended takes nothing more.
            let _ = reader.await;
        }
        self.taken.load(Ordering::Relaxed)
    }

    /// Makes `reader` the task that [`Session::take_over`] ends.
    pub(super) async fn set_reader(&self, reader: JoinHandle<()>) {
        *self.reader.lock().await = Some(reader);
    }

    /// Passes framed input on until it ends. Ended at any point, all that was taken has been counted.
    pub(super) async fn read(&self, mut reader: impl AsyncRead + Unpin, input: Option<&Input>) -> InputEnd {
        let mut piece = Vec::new();
        loop {
            let Ok(length) = reader.read_u32().await else { return InputEnd::Lost };
            if length == 0 {
                return InputEnd::Ended;
            }
            if length > INPUT_PIECE_MAX {
                tracing::error!(length, "a client sends a piece of input that is too long");
                return InputEnd::Lost;
            }
            piece.resize(length as usize, 0);
            if reader.read_exact(&mut piece).await.is_err() {
                return InputEnd::Lost;
            }
            let mut rest = piece.as_slice();
            while !rest.is_empty() {
                let taken = match input {
                    Some(input) => input.write_some(rest).await,
                    None => None,
                };
                // What a process that takes no more does not take counts as taken: nobody shall send it again.
                let taken = taken.unwrap_or(rest.len());
                self.taken.fetch_add(taken as u64, Ordering::Relaxed);
                rest = &rest[taken..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_protocol::channel::WINDOW;
    use tokio::io::AsyncWriteExt;

    async fn send(writer: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) {
        writer.write_u32(bytes.len() as u32).await.unwrap();
        writer.write_all(bytes).await.unwrap();
    }

    #[test]
    fn keys_are_short_and_plain() {
        assert!(is_key("0aZ") && is_key(&"k".repeat(64)));
        assert!(!is_key("") && !is_key("a/b") && !is_key(&"k".repeat(65)));
    }

    #[tokio::test]
    async fn an_end_is_told_from_a_loss() {
        for (end, wanted) in [(true, InputEnd::Ended), (false, InputEnd::Lost)] {
            let (session, input) = (Session::new("k"), Input::new(true));
            let (mut client, connection) = tokio::io::duplex(1 << 10);
            send(&mut client, b"some").await;
            if end {
                send(&mut client, b"").await;
            }
            drop(client);
            assert_eq!(session.read(connection, Some(&input)).await, wanted);
            assert_eq!(session.take_over().await, 4);
        }
    }

    #[tokio::test]
    async fn a_reader_that_waits_for_the_process_is_taken_over_at_the_right_byte() {
        let (session, input) = (Session::new("k"), Arc::new(Input::new(true)));
        assert!(input.write(&vec![b'x'; WINDOW - 3]).await);
        let (mut client, connection) = tokio::io::duplex(1 << 10);
        let reader = tokio::spawn({
            let (session, input) = (session.clone(), input.clone());
            async move {
                let _ = session.read(connection, Some(&input)).await;
            }
        });
        session.set_reader(reader).await;
        send(&mut client, b"seven77").await;
        while session.taken.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(session.take_over().await, 3, "there was room for three");
        assert!(client.write_all(&[0; 2 << 10]).await.is_err(), "nobody reads the old connection");
    }
}
