//! One process's output, to its log and to every client.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper_protocol::agent::Output;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep_until;

use super::history::{History, ResumeError};
use super::log::JsonLog;
use super::session::Session;

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
    pub(super) fn includes(self, output: Output) -> bool {
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
    audience: Mutex<Audience>,
    /// Somebody who was away has come back or was given up.
    settled: Notify,
    next: AtomicU64,
    waiting: AtomicU32,
    taken: AtomicU64,
    any: AtomicBool,
}

/// Who gets the output. One lock for all of it, so that a client that comes back gets every byte once.
#[derive(Debug)]
struct Audience {
    /// `None` once the output has ended.
    clients: Option<Vec<Client>>,
    history: History,
}

/// A client's new connection to the output.
#[derive(Debug)]
pub struct Joined {
    /// What it missed.
    pub past: Vec<Piece>,
    /// What comes; `None` when the output has ended.
    pub pieces: Option<mpsc::Receiver<Piece>>,
    /// Bytes of each output before the first that it gets.
    pub position: [u64; 2],
    /// Its session.
    pub session: Arc<Session>,
    /// Number of the connection, for [`Fanout::lose`].
    pub connection: u64,
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
            audience: Mutex::new(Audience { clients: Some(Vec::new()), history: History::default() }),
            settled: Notify::new(),
            next: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
            taken: AtomicU64::new(0),
            any: AtomicBool::new(false),
        }
    }

    /// Adds a client, which gets everything from now on. Its queue closes when the output has ended. `None` when
    /// it has ended already or there are too many clients.
    pub fn attach(&self, interest: Interest) -> Option<mpsc::Receiver<Piece>> {
        let number = self.number();
        lock(&self.audience).add(number, interest)
    }

    /// As [`Fanout::attach`], for a client that can come back when its connection is lost. `None` also when the key
    /// is taken.
    pub fn join(&self, interest: Interest, key: &str) -> Option<Joined> {
        let connection = self.number();
        let session = Session::new(key);
        let mut audience = lock(&self.audience);
        let pieces = audience.add(connection, interest)?;
        if !audience.history.add(session.clone(), connection) {
            audience.remove(connection);
            return None;
        }
        let position = audience.history.produced();
        Some(Joined { past: Vec::new(), pieces: Some(pieces), position, session, connection })
    }

    /// Goes on with a session; `received` bytes of each output the client has.
    ///
    /// # Errors
    /// [`ResumeError`].
    pub fn resume(&self, interest: Interest, key: &str, received: [u64; 2]) -> Result<Joined, ResumeError> {
        let connection = self.number();
        let mut audience = lock(&self.audience);
        let ended = audience.clients.is_none();
        let pieces = audience.add(connection, interest);
        if !ended && pieces.is_none() {
            return Err(ResumeError::Crowded);
        }
        let resumed = audience.history.resume(key, connection, interest, received);
        let (session, past) = resumed.inspect_err(|_| audience.remove(connection))?;
        drop(audience);
        self.settled.notify_waiters();
        Ok(Joined { past, pieces, position: received, session, connection })
    }

    /// Notes that the connection of a session was lost; `false` when there is a newer one, or no such session.
    pub fn lose(&self, key: &str, connection: u64) -> bool {
        let mut audience = lock(&self.audience);
        audience.remove(connection);
        audience.history.lose(key, connection)
    }

    /// Gives up a session whose connection was lost and that has no newer one; says whether it did.
    pub fn expire(&self, key: &str, connection: u64) -> bool {
        let expired = lock(&self.audience).history.expire(key, connection);
        self.settled.notify_waiters();
        expired
    }

    /// Forgets a session.
    pub fn release(&self, key: &str) {
        lock(&self.audience).history.release(key);
        self.settled.notify_waiters();
    }

    /// How many sessions there are, with a connection or without.
    pub fn sessions(&self) -> usize {
        lock(&self.audience).history.sessions()
    }

    /// Writes to the log and gives to every client, waiting for those that are slow or away for a while; a client that
    /// is gone is forgotten. Says whether these were the process's first bytes.
    pub async fn write(&self, output: Output, bytes: &[u8]) -> bool {
        if let Some(log) = &mut *lock(&self.log) {
            log.write(output, bytes);
        }
        let mut piece = None;
        for client in self.publish(output, bytes, &mut piece).await {
            let piece = piece.get_or_insert_with(|| Piece { output, bytes: bytes.into() });
            self.give(client, piece.clone()).await;
        }
        !self.any.swap(true, Ordering::Relaxed)
    }

    /// Counts and keeps a piece as soon as that may be, and says who is to get it.
    async fn publish(&self, output: Output, bytes: &[u8], piece: &mut Option<Piece>) -> Vec<Client> {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let until = {
                let mut audience = lock(&self.audience);
                match audience.history.is_full() {
                    Some(until) => until,
                    None => return audience.publish(output, bytes, piece),
                }
            };
            let waiting = Waiting::begin(&self.waiting);
            tokio::select! {
                () = settled => {}
                () = sleep_until(until) => {
                    // Whoever gives the sessions up may be late.
                    lock(&self.audience).history.give_up();
                }
            }
            drop(waiting);
        }
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
        lock(&self.audience).clients = None;
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
            Err(mpsc::error::TrySendError::Closed(_)) => return lock(&self.audience).remove(client.number),
            Err(mpsc::error::TrySendError::Full(piece)) => piece,
        };
        let waiting = Waiting::begin(&self.waiting);
        let sent = client.queue.send(piece).await;
        drop(waiting);
        match sent {
            Ok(()) => drop(self.taken.fetch_add(1, Ordering::Relaxed)),
            Err(_) => lock(&self.audience).remove(client.number),
        }
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

impl Audience {
    fn add(&mut self, number: u64, interest: Interest) -> Option<mpsc::Receiver<Piece>> {
        let (queue, pieces) = mpsc::channel(QUEUE);
        let clients = self.clients.as_mut()?;
        clients.retain(|client| !client.queue.is_closed());
        if clients.len() >= CLIENTS_MAX {
            return None;
        }
        clients.push(Client { number, interest, queue });
        Some(pieces)
    }

    fn remove(&mut self, number: u64) {
        if let Some(clients) = &mut self.clients {
            clients.retain(|client| client.number != number);
        }
    }

    fn publish(&mut self, output: Output, bytes: &[u8], piece: &mut Option<Piece>) -> Vec<Client> {
        let interested: Vec<_> = match &self.clients {
            Some(clients) => {
                clients.iter().filter(|client| client.interest.includes(output)).cloned().collect()
            }
            None => Vec::new(),
        };
        self.history.push(output, bytes, piece);
        interested
    }
}

/// Counts a wait until it is over or cancelled.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

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
