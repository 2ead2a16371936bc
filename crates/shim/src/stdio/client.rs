//! A client attached over the pod's socket.

use std::sync::Arc;
use std::time::Duration;

use hyper_protocol::agent::Output;
use hyper_protocol::shim::SESSION_KEPT_MS;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::fanout::{Fanout, Piece};
use super::input::Input;
use super::session::{InputEnd, Session};

/// Bytes read from a client at a time.
const CHUNK: usize = 16 << 10;
/// How often a silent connection is looked at for a client that is gone.
const LOOK: Duration = Duration::from_secs(5);

/// What a client is attached to.
#[derive(Debug)]
pub struct Attachment {
    /// Raw bytes instead of frames.
    pub tty: bool,
    /// Output that comes first.
    pub past: Vec<Piece>,
    /// The output, from when it was asked for; `None` when it has ended.
    pub pieces: Option<mpsc::Receiver<Piece>>,
    /// The input, if the client sends any.
    pub input: Option<Arc<Input>>,
    /// Close the process's input with the client's.
    pub input_once: bool,
    /// Its session, if it can come back.
    pub membership: Option<Membership>,
}

/// A connection's part in a session.
#[derive(Debug)]
pub struct Membership {
    /// Where the session's output comes from.
    pub fanout: Arc<Fanout>,
    /// The session.
    pub session: Arc<Session>,
    /// Number of the connection.
    pub connection: u64,
}

/// Serves a client until the output ends or the client goes.
///
/// As with docker, the end of a client's input closes the process's input only if that is so configured and there
/// is no terminal, and otherwise ends the client's session.
pub async fn serve(reader: BufReader<OwnedReadHalf>, mut writer: OwnedWriteHalf, attachment: Attachment) {
    let Attachment { tty, past, pieces, input, input_once, membership } = attachment;
    let closes_input = input_once && !tty;
    let ends_session = input.is_some() && !closes_input;
    let (tell, mut told) = oneshot::channel();
    let reading = tokio::spawn({
        let (input, session) = (input.clone(), membership.as_ref().map(|member| member.session.clone()));
        async move {
            let end = match session {
                Some(session) => read_session(reader, &session, input.as_deref(), closes_input).await,
                None => read_plain(reader, input.as_deref(), closes_input).await,
            };
            let _ = tell.send(end);
        }
    });
    let abort = reading.abort_handle();
    if let Some(member) = &membership {
        member.session.set_reader(reading).await;
    }
    let output = async {
        for piece in past {
            send(&mut writer, tty, &piece).await?;
        }
        let Some(mut pieces) = pieces else { return Ok(false) };
        let mut read_to_end = false;
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                biased;
                piece = pieces.recv() => match piece {
                    // A failed write means that the client is gone: dropping the queue tells the fan-out.
                    Some(piece) => send(&mut writer, tty, &piece).await?,
                    None => return Ok(false),
                },
                end = &mut told, if !read_to_end => match end {
                    Ok(InputEnd::Ended) if ends_session => return Ok(true),
                    Ok(InputEnd::Ended) => read_to_end = true,
                    // Without an end the reader was taken over: there is a newer connection.
                    Ok(InputEnd::Lost) | Err(_) => return Ok(false),
                },
                _ = look.tick() => {
                    if is_hung_up(&writer) {
                        return Ok(false);
                    }
                }
            }
        }
    };
    let left: std::io::Result<bool> = output.await;
    let _ = writer.shutdown().await;
    abort.abort();
    match membership {
        Some(member) if matches!(left, Ok(true)) => member.fanout.release(member.session.key()),
        Some(member) => stay(member, input.filter(|_| closes_input)),
        None => {}
    }
}

/// Keeps a session for a client that may come back, for a while. One that does not has ended its input by that,
/// if `input` is given.
fn stay(member: Membership, input: Option<Arc<Input>>) {
    let Membership { fanout, session, connection } = member;
    if !fanout.lose(session.key(), connection) {
        return;
    }
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(SESSION_KEPT_MS)).await;
        if fanout.expire(session.key(), connection)
            && let Some(input) = input
        {
            input.finish();
        }
    });
}

async fn read_session(
    reader: BufReader<OwnedReadHalf>,
    session: &Session,
    input: Option<&Input>,
    close: bool,
) -> InputEnd {
    let end = session.read(reader, input).await;
    if end == InputEnd::Ended
        && close
        && let Some(input) = input
    {
        input.finish();
    }
    end
}

async fn read_plain(reader: BufReader<OwnedReadHalf>, input: Option<&Input>, close: bool) -> InputEnd {
    match input {
        Some(input) => read_input(reader, input, close).await,
        // Whatever a client sends that was to send nothing goes nowhere; its end is its own business.
        None => drop(discard(reader).await),
    }
    InputEnd::Ended
}

async fn read_input(mut reader: BufReader<OwnedReadHalf>, input: &Input, close: bool) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = reader.read(&mut buffer).await {
        if !input.write(&buffer[..read]).await {
            // The process takes no more; the client learns of it by the end of the output.
            let _ = discard(reader).await;
            return;
        }
    }
    if close {
        input.finish();
    }
}

async fn discard(mut reader: impl AsyncRead + Unpin) -> std::io::Result<()> {
    let mut buffer = vec![0; 1024];
    while reader.read(&mut buffer).await? > 0 {}
    Ok(())
}

async fn send(writer: &mut OwnedWriteHalf, tty: bool, piece: &Piece) -> std::io::Result<()> {
    if !tty {
        let stream = match piece.output {
            Output::Stdout => 1,
            Output::Stderr => 2,
        };
        let length = u32::try_from(piece.bytes.len()).expect("a piece is at most 64 KiB").to_be_bytes();
        writer.write_all(&[stream, 0, 0, 0, length[0], length[1], length[2], length[3]]).await?;
    }
    writer.write_all(&piece.bytes).await
}

/// Whether the other end has closed its socket altogether, not just its sending half.
fn is_hung_up(writer: &OwnedWriteHalf) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stream: &tokio::net::UnixStream = writer.as_ref();
    let mut descriptors = [PollFd::new(stream, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut descriptors, Some(&now)).is_ok() && descriptors[0].revents().contains(PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdio::{Fanout, Interest};
    use tokio::net::UnixStream;
    use tokio::task::JoinHandle;

    const BOTH: Interest = Interest { stdout: true, stderr: true };

    fn attach(
        fanout: &Fanout,
        tty: bool,
        input: Option<&Arc<Input>>,
        once: bool,
    ) -> (UnixStream, JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = theirs.into_split();
        let attachment = Attachment {
            tty,
            past: Vec::new(),
            pieces: fanout.attach(BOTH),
            input: input.cloned(),
            input_once: once,
            membership: None,
        };
        (ours, tokio::spawn(serve(BufReader::new(reader), writer, attachment)))
    }

    async fn rest(mut stream: UnixStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn output_has_dockers_frames_without_a_terminal_and_none_with_one() {
        let fanout = Fanout::new(None);
        let (plain, _serving) = attach(&fanout, false, None, false);
        let (terminal, _serving) = attach(&fanout, true, None, false);
        fanout.write(Output::Stdout, b"hello").await;
        fanout.write(Output::Stderr, b"oh").await;
        fanout.close();
        assert_eq!(rest(plain).await, b"\x01\0\0\0\0\0\0\x05hello\x02\0\0\0\0\0\0\x02oh");
        assert_eq!(rest(terminal).await, b"hellooh");
    }

    #[tokio::test]
    async fn end_of_input_closes_the_process_input_only_when_told() {
        let fanout = Fanout::new(None);
        let input = Arc::new(Input::new(true));
        let (mut keeps, session) = attach(&fanout, false, Some(&input), false);
        keeps.write_all(b"one").await.unwrap();
        keeps.shutdown().await.unwrap();
        // Without "once" the client's end is the end of its session alone.
        session.await.unwrap();
        assert!(input.is_open());

        let (mut closes, session) = attach(&fanout, false, Some(&input), true);
        closes.write_all(b"two").await.unwrap();
        closes.shutdown().await.unwrap();
        while input.is_open() {
            tokio::task::yield_now().await;
        }
        // It still gets the output.
        fanout.write(Output::Stdout, b"x").await;
        fanout.close();
        session.await.unwrap();
        assert_eq!(rest(closes).await, b"\x01\0\0\0\0\0\0\x01x");
    }

    #[tokio::test]
    async fn client_that_vanishes_does_not_hold_the_output() {
        let fanout = Fanout::new(None);
        let (stream, session) = attach(&fanout, true, None, false);
        drop(stream);
        for _ in 0..1000 {
            fanout.write(Output::Stdout, &[b'x'; 4096]).await;
        }
        session.await.unwrap();
    }

    #[tokio::test]
    async fn client_that_stops_reading_holds_the_output_and_gets_it_all_later() {
        let fanout = Arc::new(Fanout::new(None));
        let (stream, _session) = attach(&fanout, true, None, false);
        let writer = tokio::spawn({
            let fanout = fanout.clone();
            async move {
                for _ in 0..100 {
                    fanout.write(Output::Stdout, &[b'x'; 64 << 10]).await;
                }
                fanout.close();
            }
        });
        while !fanout.is_waiting() {
            tokio::task::yield_now().await;
        }
        assert!(!writer.is_finished());
        assert_eq!(rest(stream).await.len(), 100 * (64 << 10));
    }

    /// A connection of a session, begun or gone on with.
    fn connect(
        fanout: &Arc<Fanout>,
        joined: crate::stdio::fanout::Joined,
        input: &Arc<Input>,
    ) -> (UnixStream, JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = theirs.into_split();
        let (session, connection) = (joined.session, joined.connection);
        let attachment = Attachment {
            tty: true,
            past: joined.past,
            pieces: joined.pieces,
            input: Some(input.clone()),
            input_once: true,
            membership: Some(Membership { fanout: fanout.clone(), session, connection }),
        };
        (ours, tokio::spawn(serve(BufReader::new(reader), writer, attachment)))
    }

    #[tokio::test]
    async fn client_that_comes_back_gets_every_byte_once() {
        let (fanout, input) = (Arc::new(Fanout::new(None)), Arc::new(Input::new(true)));
        fanout.write(Output::Stdout, b"before").await;
        let joined = fanout.join(BOTH, "k").unwrap();
        assert_eq!(joined.position, [6, 0]);
        let session = joined.session.clone();
        let (mut client, serving) = connect(&fanout, joined, &input);
        client.write_all(b"\0\0\0\x02hi").await.unwrap();
        fanout.write(Output::Stdout, b"seen and lost").await;
        let mut seen = [0; 4];
        client.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"seen");
        drop(client);
        serving.await.unwrap();
        fanout.write(Output::Stdout, b", and missed").await;
        assert!(input.is_open(), "a connection that was lost is no end of input");

        let joined = fanout.resume(BOTH, "k", [10, 0]).unwrap();
        assert_eq!(session.take_over().await, 2);
        let (client, serving) = connect(&fanout, joined, &input);
        fanout.write(Output::Stdout, b", and new").await;
        fanout.close();
        assert_eq!(rest(client).await, b" and lost, and missed, and new");
        serving.await.unwrap();
        // The end may come to nobody as well.
        let late = fanout.resume(BOTH, "k", [36, 0]).unwrap();
        assert!(late.pieces.is_none());
        assert_eq!(late.past.iter().flat_map(|piece| piece.bytes.to_vec()).collect::<Vec<_>>(), b" new");
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_stays_away_is_given_up_and_its_input_ends() {
        let (fanout, input) = (Arc::new(Fanout::new(None)), Arc::new(Input::new(true)));
        let joined = fanout.join(BOTH, "k").unwrap();
        let (session, connection) = (joined.session.clone(), joined.connection);
        drop(joined);
        stay(Membership { fanout: fanout.clone(), session, connection }, Some(input.clone()));
        let writer = tokio::spawn({
            let fanout = fanout.clone();
            async move {
                for _ in 0..100 {
                    fanout.write(Output::Stdout, &[b'x'; 64 << 10]).await;
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(SESSION_KEPT_MS / 2)).await;
        assert!(fanout.is_waiting() && !writer.is_finished() && input.is_open());
        writer.await.unwrap();
        assert!(!input.is_open() && fanout.sessions() == 0);
    }
}
