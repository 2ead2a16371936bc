//! Recent output, kept for clients whose connection may be lost before all of it has arrived.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hyper_protocol::agent::Output;
use hyper_protocol::shim::SESSION_KEPT_MS;
use tokio::time::Instant;

use super::fanout::{Interest, Piece};
use super::session::Session;

/// Bytes kept for connected clients: more than can be on the way to one. That is a piece in hand and two in the
/// queue (64 KiB each), two sockets' buffers (`net.core.wmem_default`, 208 KiB each) and the daemon's own buffer (32 KiB).
const ON_THE_WAY: usize = 1 << 20;
/// Bytes of new output kept for a client that is away; then the process waits for it.
const WHILE_AWAY: usize = 1 << 20;
/// How long a client may be away.
const KEPT: Duration = Duration::from_millis(SESSION_KEPT_MS);
/// Most sessions of one process.
const SESSIONS_MAX: usize = 64;

/// What of the output is kept, and for whom. Without a session nothing is.
#[derive(Debug, Default)]
pub(super) struct History {
    places: Vec<Place>,
    pieces: VecDeque<Kept>,
    kept: usize,
    produced: [u64; 2],
}

/// A session and the connection that serves it.
#[derive(Debug)]
struct Place {
    session: Arc<Session>,
    connection: u64,
    lost: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    piece: Piece,
    /// Of its first byte in its output.
    offset: u64,
}

/// Why a session cannot be gone on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// There is none of this key.
    #[error("the session is not known, or was given up")]
    Unknown,
    /// The process has as many clients as it may.
    #[error("there are too many clients")]
    Crowded,
    /// Output that the client does not have is not kept any more.
    #[error("output from byte {0} on is not kept any more")]
    Gone(u64),
}

fn index(output: Output) -> usize {
    match output {
        Output::Stdout => 0,
        Output::Stderr => 1,
    }
}

impl History {
    /// Bytes of each output so far.
    pub(super) fn produced(&self) -> [u64; 2] {
        self.produced
    }

    /// Counts a piece of output and keeps it, if it is for anybody, as `piece`.
    pub(super) fn push(&mut self, output: Output, bytes: &[u8], piece: &mut Option<Piece>) {
        let produced = &mut self.produced[index(output)];
        let offset = *produced;
        *produced += bytes.len() as u64;
        if self.places.is_empty() {
            return;
        }
        self.kept += bytes.len();
        let piece = piece.get_or_insert_with(|| Piece { output, bytes: bytes.into() }).clone();
        self.pieces.push_back(Kept { piece, offset });
        if self.places.iter().any(|place| place.lost.is_some()) {
            return;
        }
        while let Some(oldest) = self.pieces.front()
            && self.kept - oldest.piece.bytes.len() >= ON_THE_WAY
        {
            self.kept -= oldest.piece.bytes.len();
            self.pieces.pop_front();
        }
    }

    /// Whether the output has to wait for a client that is away, and until when at most.
    pub(super) fn is_full(&self) -> Option<Instant> {
        let last = self.places.iter().filter_map(|place| place.lost).max()?;
        (self.kept >= ON_THE_WAY + WHILE_AWAY).then(|| last + KEPT)
    }

    /// Adds a session; `false` when its key is taken or there are too many.
    pub(super) fn add(&mut self, session: Arc<Session>, connection: u64) -> bool {
        if self.find(session.key()).is_some() || self.places.len() >= SESSIONS_MAX {
            return false;
        }
        self.places.push(Place { session, connection, lost: None });
        true
    }

    /// Goes on with a session on another connection: the session, and what its client does not have yet.
    ///
    /// # Errors
    /// [`ResumeError`].
    pub(super) fn resume(
        &mut self,
        key: &str,
        connection: u64,
        interest: Interest,
        received: [u64; 2],
    ) -> Result<(Arc<Session>, Vec<Piece>), ResumeError> {
        let at = self.find(key).ok_or(ResumeError::Unknown)?;
        for output in [Output::Stdout, Output::Stderr] {
            let (has, produced) = (received[index(output)], self.produced[index(output)]);
            let of_output = |kept: &&Kept| kept.piece.output == output;
            let first = self.pieces.iter().find(of_output).map_or(produced, |kept| kept.offset);
            if interest.includes(output) && !(first..=produced).contains(&has) {
                return Err(ResumeError::Gone(has));
            }
        }
        let place = &mut self.places[at];
        place.connection = connection;
        place.lost = None;
        let session = place.session.clone();
        let wanted = self.pieces.iter().filter(|kept| interest.includes(kept.piece.output));
        let missing = wanted.filter_map(|kept| {
            let has = received[index(kept.piece.output)].saturating_sub(kept.offset);
            let rest = kept.piece.bytes.get(usize::try_from(has).ok()?..).filter(|rest| !rest.is_empty())?;
            Some(Piece { output: kept.piece.output, bytes: rest.into() })
        });
        Ok((session, missing.collect()))
    }

    /// Notes that a session's connection was lost; `false` when another has taken its place.
    pub(super) fn lose(&mut self, key: &str, connection: u64) -> bool {
        let place = self.places.iter_mut().find(|place| place.session.key() == key);
        let Some(place) = place.filter(|place| place.connection == connection) else { return false };
        place.lost = Some(Instant::now());
        true
    }

    /// Gives a session up if it is still lost by this connection.
    pub(super) fn expire(&mut self, key: &str, connection: u64) -> bool {
        let of_place = |place: &Place| {
            place.session.key() == key && place.connection == connection && place.lost.is_some()
        };
        let expired = self.places.iter().any(of_place);
        if expired {
            self.release(key);
        }
        expired
    }

    /// Gives up all sessions that have been lost for too long.
    pub(super) fn give_up(&mut self) {
        let late = |place: &Place| place.lost.is_some_and(|lost| lost.elapsed() >= KEPT);
        let keys: Vec<String> = self
            .places
            .iter()
            .filter(|place| late(place))
            .map(|place| place.session.key().to_owned())
            .collect();
        keys.iter().for_each(|key| self.release(key));
    }

    /// Forgets a session.
    pub(super) fn release(&mut self, key: &str) {
        self.places.retain(|place| place.session.key() != key);
        if self.places.is_empty() {
            self.pieces = VecDeque::new();
            self.kept = 0;
        }
    }

    /// How many sessions there are.
    pub(super) fn sessions(&self) -> usize {
        self.places.len()
    }

    fn find(&self, key: &str) -> Option<usize> {
        self.places.iter().position(|place| place.session.key() == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: Interest = Interest { stdout: true, stderr: true };

    fn push(history: &mut History, output: Output, bytes: &[u8]) {
        history.push(output, bytes, &mut None);
    }

    fn with_session() -> History {
        let mut history = History::default();
        assert!(history.add(Session::new("k"), 1));
        history
    }

    fn text(pieces: &[Piece], output: Output) -> Vec<u8> {
        pieces.iter().filter(|piece| piece.output == output).flat_map(|piece| piece.bytes.to_vec()).collect()
    }

    proptest! {
        #[test]
        fn a_session_goes_on_at_any_byte(
            sizes in prop::collection::vec((any::<bool>(), 1_usize..20), 0..30),
            has in (0_usize..400, 0_usize..400),
        ) {
            let mut history = with_session();
            let (mut out, mut err) = (Vec::<u8>::new(), Vec::<u8>::new());
            for (index, (errors, size)) in sizes.into_iter().enumerate() {
                let bytes = vec![index as u8; size];
                let (all, output) = if errors { (&mut err, Output::Stderr) } else { (&mut out, Output::Stdout) };
                all.extend(&bytes);
                push(&mut history, output, &bytes);
            }
            let has = (has.0.min(out.len()), has.1.min(err.len()));
            let (_, missing) = history.resume("k", 2, BOTH, [has.0 as u64, has.1 as u64]).unwrap();
            prop_assert_eq!(&text(&missing, Output::Stdout)[..], &out[has.0..]);
            prop_assert_eq!(&text(&missing, Output::Stderr)[..], &err[has.1..]);
        }
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let mut history = History::default();
        push(&mut history, Output::Stdout, b"one");
        assert_eq!((history.kept, history.produced()), (0, [3, 0]));
        assert!(history.add(Session::new("k"), 1) && !history.add(Session::new("k"), 2));
        push(&mut history, Output::Stdout, b"two");
        assert_eq!(history.resume("k", 2, BOTH, [0, 0]).unwrap_err(), ResumeError::Gone(0));
        assert_eq!(history.resume("k", 2, BOTH, [7, 0]).unwrap_err(), ResumeError::Gone(7));
        assert_eq!(text(&history.resume("k", 2, BOTH, [4, 0]).unwrap().1, Output::Stdout), b"wo");
        history.release("k");
        assert_eq!(history.kept, 0);
        assert_eq!(history.resume("k", 3, BOTH, [6, 0]).unwrap_err(), ResumeError::Unknown);
    }

    #[test]
    fn memory_is_bounded_while_connected_and_the_output_held_while_away() {
        let mut history = with_session();
        let chunk = [0; 64 << 10];
        for _ in 0..100 {
            push(&mut history, Output::Stdout, &chunk);
        }
        assert!(history.kept < ON_THE_WAY + chunk.len() && history.is_full().is_none());
        assert!(!history.lose("k", 7), "another connection's loss is not its own");
        assert!(history.lose("k", 1));
        let mut pushed = 0;
        while history.is_full().is_none() {
            push(&mut history, Output::Stdout, &chunk);
            pushed += chunk.len();
        }
        assert!(pushed >= WHILE_AWAY - 2 * chunk.len() && history.kept < ON_THE_WAY + 2 * WHILE_AWAY);
        let produced = history.produced();
        assert!(history.resume("k", 2, BOTH, [produced[0] - pushed as u64, 0]).is_ok());
        assert!(!history.expire("k", 1) && history.is_full().is_none());
        push(&mut history, Output::Stdout, &chunk);
        assert!(history.kept < ON_THE_WAY + chunk.len());
    }
}
