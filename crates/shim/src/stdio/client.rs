//! A client attached over the pod's socket.

use std::sync::Arc;
use std::time::Duration;

use hyper_protocol::agent::Output;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::fanout::Piece;
use super::input::Input;

/// Bytes read from a client at a time.
const CHUNK: usize = 16 << 10;
/// How often a silent connection is looked at for a client that is gone.
const LOOK: Duration = Duration::from_secs(5);

/// What a client is attached to.
#[derive(Debug)]
pub struct Attachment {
    /// Raw bytes instead of frames.
    pub tty: bool,
    /// The output, from when it was asked for.
    pub pieces: mpsc::Receiver<Piece>,
    /// The input, if the client sends any.
    pub input: Option<Arc<Input>>,
    /// Close the process's input with the client's.
    pub input_once: bool,
}

/// Serves a client until the output ends or the client goes.
///
/// As with docker, the end of a client's input closes the process's input only if that is so configured and there
/// is no terminal, and otherwise ends the client's session.
pub async fn serve(reader: BufReader<OwnedReadHalf>, mut writer: OwnedWriteHalf, attachment: Attachment) {
    let Attachment { tty, mut pieces, input, input_once } = attachment;
    let closes_input = input_once && !tty;
    let ends_session = input.is_some() && !closes_input;
    let mut reading = tokio::spawn(async move {
        match input {
            Some(input) => read_input(reader, &input, closes_input).await,
            // Whatever a client sends that was to send nothing goes nowhere; its end is its own business.
            None => drop(discard(reader).await),
        }
    });
    let mut read_to_end = false;
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            biased;
            piece = pieces.recv() => {
                let Some(piece) = piece else { break };
                // A failed write means that the client is gone: dropping the queue tells the fan-out.
                if send(&mut writer, tty, &piece).await.is_err() {
                    break;
                }
            }
            _ = &mut reading, if !read_to_end => {
                read_to_end = true;
                if ends_session {
                    break;
                }
            }
            _ = look.tick() => {
                if is_hung_up(&writer) {
                    break;
                }
            }
        }
    }
    drop(pieces);
    let _ = writer.shutdown().await;
    if !read_to_end {
        reading.abort();
    }
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
        let attachment =
            Attachment { tty, pieces: fanout.attach(BOTH).unwrap(), input: input.cloned(), input_once: once };
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
}
