//! A host and a guest over an in-memory stream.

use std::sync::Arc;
use std::time::Duration;

use hyper_link::channel::{ChannelError, Receiver, Sender};
use hyper_link::{GuestLink, HostLink, LinkError, Stream, read_frame, write_frame};
use hyper_protocol::agent::{Output, Reply, Request, Target};
use hyper_protocol::channel::WINDOW;
use hyper_protocol::hello::{Hello, Role, VERSION};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

async fn pair() -> (HostLink, GuestLink) {
    let (host, guest) = duplex(64 << 10);
    let (host, guest) = tokio::join!(HostLink::open(host), GuestLink::accept(guest));
    (host.expect("host"), guest.expect("guest"))
}

fn output_from(offset: u64) -> Request {
    let target = Target { container: "c".into(), exec: None };
    Request::ReadOutput { target, output: Output::Stdout, offset }
}

/// Answers the next call with `Done` and returns its stream and the offset it asked for.
async fn accept_output(guest: &mut GuestLink) -> (Stream, u64) {
    let mut stream = guest.next().await.expect("stream");
    let request: Request = read_frame(&mut stream).await.expect("frame").expect("request");
    write_frame(&mut stream, &Reply::Done).await.expect("reply");
    let Request::ReadOutput { offset, .. } = request else { panic!("{request:?}") };
    (stream, offset)
}

#[tokio::test]
async fn calls_are_answered_side_by_side() {
    let (host, mut guest) = pair().await;
    let server = tokio::spawn(async move {
        let mut first = guest.next().await.expect("first");
        let mut second = guest.next().await.expect("second");
        for (stream, cpus) in [(&mut second, 2), (&mut first, 1)] {
            let _: Option<Request> = read_frame(stream).await.expect("request");
            write_frame(stream, &Reply::Offset(cpus)).await.expect("reply");
        }
        guest
    });
    let first = host.call(&Request::Ping);
    let second = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        host.call(&Request::Ping).await
    };
    let (first, second) = tokio::join!(first, second);
    assert!(matches!(first.expect("first"), Reply::Offset(1)));
    assert!(matches!(second.expect("second"), Reply::Offset(2)));
    drop(server.await.expect("server"));
}

#[tokio::test]
async fn session_opens_behind_bytes_of_an_older_one() {
    let (mut host, mut guest) = duplex(64 << 10);
    let stale = Hello { version: VERSION, role: Role::Confirm, nonce: [7; 16] }.encode();
    host.write_all(&stale).await.expect("write");
    host.write_all(b"\0\0\0\x01 leftover").await.expect("write");
    guest.write_all(&stale[..20]).await.expect("write");
    let (host, guest) = tokio::join!(HostLink::open(host), GuestLink::accept(guest));
    assert!(host.is_ok() && guest.is_ok());
}

#[tokio::test(start_paused = true)]
async fn host_asks_again_when_its_hello_was_swallowed() {
    let (host, mut guest) = duplex(64 << 10);
    let guest = async move {
        guest.read_exact(&mut [0; 36]).await.expect("the old session takes the first hello");
        GuestLink::accept(guest).await
    };
    let (host, guest) = tokio::join!(HostLink::open(host), guest);
    assert!(host.is_ok() && guest.is_ok());
}

#[tokio::test]
async fn other_version_is_named() {
    let (host, mut guest) = duplex(4096);
    let answer = async move {
        let mut hello = [0; 36];
        guest.read_exact(&mut hello).await.expect("hello");
        let nonce = hello[16..32].try_into().expect("nonce");
        guest.write_all(&Hello { version: 99, role: Role::Guest, nonce }.encode()).await.expect("write");
        guest
    };
    let (host, _guest) = tokio::join!(HostLink::open(host), answer);
    assert!(matches!(host, Err(LinkError::Version { theirs: 99 })));
}

#[tokio::test]
async fn host_notices_the_end_of_a_session() {
    let (host, guest) = pair().await;
    drop(guest);
    host.closed().await;
    assert!(host.is_closed());
    assert!(host.call(&Request::Ping).await.is_err());
}

#[tokio::test]
async fn channel_resumes_on_another_session_without_loss() {
    let sent: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let sender = Arc::new(Sender::new());
    let pushed = (sender.clone(), sent.clone());
    let producer = tokio::spawn(async move {
        pushed.0.push(&pushed.1).await;
        pushed.0.finish();
    });
    let mut receiver = Receiver::new();
    let mut received = Vec::new();
    let mut sessions = 0;
    while !receiver.is_ended() {
        sessions += 1;
        let (host, mut guest) = pair().await;
        let served = sender.clone();
        let serving = tokio::spawn(async move {
            let (stream, offset) = accept_output(&mut guest).await;
            // The first sessions end in the middle, wherever that is.
            let serve = served.serve(stream, offset);
            let limit = if sessions < 20 { Duration::from_millis(2) } else { Duration::from_secs(60) };
            let _ = tokio::time::timeout(limit, serve).await;
        });
        let (_, stream) = host.start_call(&output_from(receiver.offset())).await.expect("call");
        let _ = receiver
            .run(stream, async |bytes: &[u8]| {
                received.extend_from_slice(bytes);
                Ok(())
            })
            .await;
        serving.await.expect("serving");
    }
    producer.await.expect("producer");
    assert!(received == sent, "{} of {} bytes in {sessions} sessions", received.len(), sent.len());
}

#[tokio::test]
async fn sender_waits_for_a_reader_that_stopped() {
    let sender = Arc::new(Sender::new());
    let pushing = sender.clone();
    let producer = tokio::spawn(async move { pushing.push(&vec![1; 3 * WINDOW]).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!producer.is_finished());
    producer.abort();
}

#[tokio::test]
async fn newer_server_takes_over() {
    let sender = Sender::new();
    let (first, _first_reader) = duplex(1024);
    let (second, _second_reader) = duplex(1024);
    let serving = sender.serve(first, 0);
    let newer = async {
        tokio::task::yield_now().await;
        let _ = tokio::time::timeout(Duration::from_millis(20), sender.serve(second, 0)).await;
    };
    let (older, ()) = tokio::join!(serving, newer);
    assert!(matches!(older, Err(ChannelError::Superseded)));
}

#[tokio::test]
async fn offsets_out_of_range_are_refused() {
    let sender = Sender::new();
    sender.push(b"abc").await;
    let (stream, _peer) = duplex(1024);
    assert!(matches!(
        sender.serve(stream, 4).await,
        Err(ChannelError::Offset { offset: 4, base: 0, end: 3 })
    ));
}
