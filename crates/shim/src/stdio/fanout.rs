//! One process's output, to its log and to every client.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper_protocol::agent::Output;
use tokio::sync::mpsc;

use super::log::JsonLog;

/// Pieces that wait for a client beside the one it is being sent. A piece is at most 64 KiB
/// ([`hyper_protocol::channel::MAX_DATA`]), shared by all clients.
const QUEUE: usize = 2;

/// Most clients of one process.
const CLIENTS_MAX: usize = 64;

/// What a client wants to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Interest {
    fn includes(self, output: Output) -> bool {
        match output {
            Output::Stdout => self.stdout,
            Output::Stderr => self.stderr,
        }
    }
}

/// A piece of output.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Of which output.
    pub output: Output,
    /// The bytes, at least one.
    pub bytes: Arc<[u8]>,
}

/// Where one process's output goes.
#[derive(Debug)]
pub struct Fanout {
    log: Mutex<Option<JsonLog>>,
    // `None` once the output has ended.
    clients: Mutex<Option<Vec<Client>>>,
    next: AtomicU64,
    waiting: AtomicU32,
    taken: AtomicU64,
    any: AtomicBool,
}

#[derive(Debug, Clone)]
struct Client {
    number: u64,
    interest: Interest,
    queue: mpsc::Sender<Piece>,
}

impl Fanout {
    /// Without clients yet.
    pub fn new(log: Option<JsonLog>) -> Self {
        Self {
            log: Mutex::new(log),
            clients: Mutex::new(Some(Vec::new())),
            next: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
            taken: AtomicU64::new(0),
            any: AtomicBool::new(false),
        }
    }

    /// Adds a client, which gets everything from now on. Its queue closes when the output has ended. `None` when
    /// it has ended already or there are too many clients.
    pub fn attach(&self, interest: Interest) -> Option<mpsc::Receiver<Piece>> {
        let (queue, pieces) = mpsc::channel(QUEUE);
        let mut clients = lock(&self.clients);
        let clients = clients.as_mut()?;
        clients.retain(|client| !client.queue.is_closed());
        if clients.len() >= CLIENTS_MAX {
            return None;
        }
        clients.push(Client { number: self.next.fetch_add(1, Ordering::Relaxed), interest, queue });
        Some(pieces)
    }

    /// Writes to the log and gives to every client, waiting for those that are slow; a client that is gone is
    /// forgotten. Says whether these were the process's first bytes.
    pub async fn write(&self, output: Output, bytes: &[u8]) -> bool {
        if let Some(log) = &mut *lock(&self.log) {
            log.write(output, bytes);
        }
        let interested: Vec<_> = match &*lock(&self.clients) {
            Some(clients) => {
                clients.iter().filter(|client| client.interest.includes(output)).cloned().collect()
            }
            None => Vec::new(),
        };
        if !interested.is_empty() {
            let piece = Piece { output, bytes: bytes.into() };
            for client in interested {
                self.give(client, piece.clone()).await;
            }
        }
        !self.any.swap(true, Ordering::Relaxed)
    }

    /// Notes that one of the outputs has ended: nothing of it comes any more.
    pub fn end(&self, output: Output) {
        if let Some(log) = &mut *lock(&self.log) {
            log.end(output);
        }
    }

    /// Ends all output: clients get what is in their queues and then the end.
    pub fn close(&self) {
        for output in [Output::Stdout, Output::Stderr] {
            self.end(output);
        }
        *lock(&self.clients) = None;
        if let Some(lost) = lock(&self.log).take().map(|log| log.lost()).filter(|lost| *lost > 0) {
            tracing::warn!(lost, "some output was not logged");
        }
    }

    /// Whether output waits for a client at this moment.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Pieces that clients have taken so far: a clock that stands still while all output is stuck.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    async fn give(&self, client: Client, piece: Piece) {
        let piece = match client.queue.try_send(piece) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Closed(_)) => return self.forget(client.number),
            Err(mpsc::error::TrySendError::Full(piece)) => piece,
        };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&self.waiting);
        let sent = client.queue.send(piece).await;
        drop(waiting);
        match sent {
            Ok(()) => drop(self.taken.fetch_add(1, Ordering::Relaxed)),
            Err(_) => self.forget(client.number),
        }
    }

    fn forget(&self, number: u64) {
        if let Some(clients) = &mut *lock(&self.clients) {
            clients.retain(|client| client.number != number);
        }
    }
}

/// Counts a wait until it is over or cancelled.
struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const BOTH: Interest = Interest { stdout: true, stderr: true };

    #[tokio::test]
    async fn every_client_gets_what_it_wants_from_when_it_came() {
        let fanout = Fanout::new(None);
        assert!(fanout.write(Output::Stdout, b"before").await);
        let mut both = fanout.attach(BOTH).unwrap();
        let mut errors = fanout.attach(Interest { stdout: false, stderr: true }).unwrap();
        assert!(!fanout.write(Output::Stdout, b"out").await);
        fanout.write(Output::Stderr, b"err").await;
        fanout.close();
        assert_eq!(&*both.recv().await.unwrap().bytes, b"out");
        assert_eq!(&*both.recv().await.unwrap().bytes, b"err");
        assert!(both.recv().await.is_none());
        assert_eq!(&*errors.recv().await.unwrap().bytes, b"err");
        assert!(errors.recv().await.is_none());
        assert!(fanout.attach(BOTH).is_none());
    }

    #[tokio::test]
    async fn stopped_client_stops_the_output_and_a_gone_one_frees_it() {
        let fanout = Arc::new(Fanout::new(None));
        let pieces = fanout.attach(BOTH).unwrap();
        let writer = {
            let fanout = fanout.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    fanout.write(Output::Stdout, b"piece").await;
                }
            })
        };
        while !fanout.is_waiting() {
            tokio::task::yield_now().await;
        }
        let taken = fanout.taken();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!writer.is_finished() && fanout.taken() == taken);
        drop(pieces);
        writer.await.unwrap();
        assert!(!fanout.is_waiting());
    }

    #[tokio::test]
    async fn clients_are_bounded_and_gone_ones_do_not_count() {
        let fanout = Fanout::new(None);
        let mut kept: Vec<_> = (0..CLIENTS_MAX).map(|_| fanout.attach(BOTH).unwrap()).collect();
        assert!(fanout.attach(BOTH).is_none());
        kept.pop();
        assert!(fanout.attach(BOTH).is_some());
    }
}
