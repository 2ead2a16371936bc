//! One process's input, shared by all its clients.

use std::sync::atomic::{AtomicBool, Ordering};

use hyper_link::channel;
use tokio::sync::Notify;

/// The input of a process: one stream, whoever writes to it.
#[derive(Debug)]
pub struct Input {
    sender: channel::Sender,
    exists: bool,
    open: AtomicBool,
    closed: Notify,
}

impl Input {
    /// Open when the process has an input at all.
    pub fn new(exists: bool) -> Self {
        Self { sender: channel::Sender::new(), exists, open: AtomicBool::new(exists), closed: Notify::new() }
    }

    /// Whether the process has an input at all, if only one that has ended already.
    pub fn exists(&self) -> bool {
        self.exists
    }

    /// Whether it can be written to.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Adds bytes, waiting while the process does not read; `false` when the input is closed, before or meanwhile.
    pub async fn write(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.write_some(bytes).await {
                Some(taken) => bytes = &bytes[taken..],
                None => return false,
            }
        }
        true
    }

    /// Adds a beginning of `bytes`, waiting until there is room for at least one; says how many it took, or `None` when
    /// the input is closed, before or meanwhile. Cancelled, it has added nothing.
    pub async fn write_some(&self, bytes: &[u8]) -> Option<usize> {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if !self.is_open() {
                return None;
            }
            tokio::select! {
                _ = self.sender.room() => {}
                () = closed => return None,
            }
            // Somebody else may have been quicker.
            let taken = self.sender.offer(bytes);
            if taken > 0 || bytes.is_empty() {
                return Some(taken);
            }
        }
    }

    /// Ends the input behind what was written.
    pub fn finish(&self) {
        self.open.store(false, Ordering::Relaxed);
        self.sender.finish();
        self.closed.notify_waiters();
    }

    /// The half that goes to the guest.
    pub fn sender(&self) -> &channel::Sender {
        &self.sender
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_protocol::channel::WINDOW;
    use std::sync::Arc;

    #[tokio::test]
    async fn writer_waits_for_the_process_and_is_released_by_the_end() {
        let input = Arc::new(Input::new(true));
        assert!(input.write(&vec![b'x'; WINDOW]).await);
        let blocked = tokio::spawn({
            let input = input.clone();
            async move { input.write(b"more").await }
        });
        tokio::task::yield_now().await;
        assert!(!blocked.is_finished());
        input.finish();
        assert!(!blocked.await.unwrap());
        assert!(!input.write(b"late").await);
    }

    #[tokio::test]
    async fn process_without_input_takes_none() {
        assert!(!Input::new(false).write(b"x").await);
    }
}
