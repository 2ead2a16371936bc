//! A name forwarder on the gateway address, and what every server of names is made of ([`Service`]).
//!
//! It serves hosts whose name servers containers cannot reach: loopback or
//! IPv6 ones. Messages are passed on as they are, over UDP and TCP (RFC 1035
//! 4.2, RFC 7766); nothing is cached. Questions come from guests: only the
//! pods' subnet is answered, everything is bounded in size, number and time,
//! and of a message no more is looked at than its header and question.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::NetworkConfig;
use crate::error::NetworkError;
use crate::resolv::{self, Plan};

/// The domain service (RFC 1035, 4.2).
const PORT: u16 = 53;
/// Longest message over UDP that is passed on, bytes (the largest UDP payload).
const MESSAGE_MAX: usize = 65_535;
/// Longest answer of a service's own over UDP, bytes, whatever the asker could take (RFC 1035, 4.2.1).
pub(crate) const ANSWER_MAX: usize = 512;
/// Length of a message's header, bytes (RFC 1035, 4.1.1).
const HEADER: usize = 12;
/// UDP questions in flight; more are dropped, and the resolver asks again.
const QUESTIONS_MAX: usize = 256;
/// TCP connections at a time; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 64;
/// How long one server may take before the next is asked; below glibc's own
/// time-out of 5 s, so that a second server still gets its turn.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a TCP connection may be silent (RFC 7766, 6.2.3: a few seconds).
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to rest when the kernel refuses another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a server of names answers, and to whom. Called for each question: not to block.
pub(crate) trait Service: Send + Sync + 'static {
    /// Whether this one is answered at all.
    fn serves(&self, asker: IpAddr) -> bool;

    /// The service's own answer, of at most `longest` bytes; `None` to ask others.
    fn own_answer(&self, asker: IpAddr, question: &[u8], longest: usize) -> Option<Vec<u8>>;

    /// The servers to ask now.
    fn servers(&self, asker: IpAddr) -> Vec<SocketAddr>;
}

/// Addresses of servers, where such listen.
pub(crate) fn at_port(servers: Vec<IpAddr>) -> Vec<SocketAddr> {
    servers.into_iter().map(|address| SocketAddr::new(address, PORT)).collect()
}

/// A running forwarder; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    _tasks: JoinSet<()>,
}

/// Passes everything on for a subnet.
struct Passing {
    config: Arc<NetworkConfig>,
    subnet: Ipv4Net,
}

impl Forwarder {
    /// Serves `subnet` on `gateway`, port 53. The servers to ask are read from
    /// the host's configuration for each question, so changes count at once.
    pub(crate) async fn start(
        gateway: Ipv4Addr,
        subnet: Ipv4Net,
        config: Arc<NetworkConfig>,
    ) -> Result<Self, NetworkError> {
        let passing = Arc::new(Passing { config, subnet });
        let (forwarder, bound) = Self::serve(SocketAddrV4::new(gateway, PORT), passing).await?;
        tracing::info!(address = %bound, "forwarding names");
        Ok(forwarder)
    }

    /// Serves on an address, which is returned as it was bound.
    pub(crate) async fn serve(
        address: SocketAddrV4,
        service: Arc<dyn Service>,
    ) -> Result<(Self, SocketAddr), NetworkError> {
        let failed = |source| NetworkError::Forwarder { address: SocketAddr::V4(address), source };
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        let bound = udp.local_addr().map_err(failed)?;
        let tcp = TcpListener::bind(bound).await.map_err(failed)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(Arc::new(udp), Arc::clone(&service)));
        tasks.spawn(serve_tcp(tcp, service));
        Ok((Self { _tasks: tasks }, bound))
    }
}

impl Service for Passing {
    fn serves(&self, asker: IpAddr) -> bool {
        matches!(asker, IpAddr::V4(address) if self.subnet.contains(&address))
    }

    fn own_answer(&self, _: IpAddr, _: &[u8], _: usize) -> Option<Vec<u8>> {
        None
    }

    fn servers(&self, _: IpAddr) -> Vec<SocketAddr> {
        match resolv::plan(&self.config) {
            Ok(Plan::Forward(conf) | Plan::Direct(conf)) => at_port(conf.nameservers),
            Err(error) => {
                tracing::debug!(%error, "no servers to forward names to");
                Vec::new()
            }
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, service: Arc<dyn Service>) {
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; MESSAGE_MAX];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // ICMP errors of earlier answers are reported here.
                tracing::debug!(%error, "receiving a question");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while answers.try_join_next().is_some() {}
        let question = &buffer[..length];
        if !service.serves(peer.ip()) || !is_question(question) {
            continue;
        }
        if let Some(answer) = service.own_answer(peer.ip(), question, ANSWER_MAX) {
            let _ = socket.send_to(&answer, peer).await;
            continue;
        }
        if answers.len() >= QUESTIONS_MAX {
            continue;
        }
        let (question, socket, servers) =
            (question.to_vec(), Arc::clone(&socket), service.servers(peer.ip()));
        answers.spawn(async move {
            if let Some(answer) = ask_udp(&question, &servers).await.or_else(|| failure(&question)) {
                let _ = socket.send_to(&answer, peer).await;
            }
        });
    }
}

async fn ask_udp(question: &[u8], servers: &[SocketAddr]) -> Option<Vec<u8>> {
    for server in servers {
        match timeout(ANSWER_TIMEOUT, exchange_udp(question, *server)).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%server, %error, "asking a name server"),
            Err(_) => tracing::debug!(%server, "a name server did not answer in time"),
        }
    }
    None
}

async fn exchange_udp(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let own: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; MESSAGE_MAX];
    loop {
        let length = socket.recv(&mut answer).await?;
        // An answer carries the question's id; anything else is not for us.
        if length >= HEADER && answer[..2] == question[..2] {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn serve_tcp(listener: TcpListener, service: Arc<dyn Service>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) if service.serves(peer.ip()) => {
                let service = Arc::clone(&service);
                connections.spawn(async move {
                    let _place = place;
                    if let Err(error) = answer_connection(stream, peer.ip(), &*service).await {
                        tracing::debug!(%peer, %error, "answering questions over TCP");
                    }
                });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "accepting a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer_connection(mut stream: TcpStream, asker: IpAddr, service: &dyn Service) -> io::Result<()> {
    while let Some(question) = within(IDLE_TIMEOUT, read_message(&mut stream)).await? {
        if !is_question(&question) {
            return Ok(());
        }
        let answer = match service.own_answer(asker, &question, MESSAGE_MAX) {
            Some(answer) => Some(answer),
            None => ask_tcp(&question, &service.servers(asker)).await.or_else(|| failure(&question)),
        };
        let Some(answer) = answer else { return Ok(()) };
        within(IDLE_TIMEOUT, write_message(&mut stream, &answer)).await?;
    }
    Ok(())
}

/// The first answer of a server over TCP.
async fn ask_tcp(question: &[u8], servers: &[SocketAddr]) -> Option<Vec<u8>> {
    for &server in servers {
        match within(ANSWER_TIMEOUT, exchange_tcp(question, server)).await {
            Ok(Some(message)) => return Some(message),
            Ok(None) => {}
            Err(error) => tracing::debug!(%server, %error, "asking a name server over TCP"),
        }
    }
    None
}

async fn exchange_tcp(question: &[u8], server: SocketAddr) -> io::Result<Option<Vec<u8>>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, question).await?;
    read_message(&mut stream).await
}

/// One message with its two-byte length before it; `None` at the end.
async fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Whether `message` has a header and is no answer (bit QR, RFC 1035, 4.1.1).
fn is_question(message: &[u8]) -> bool {
    message.len() >= HEADER && message[2] & 0x80 == 0
}

/// The answer "server failure" to `question`, or nothing when its question
/// section is malformed.
fn failure(question: &[u8]) -> Option<Vec<u8>> {
    let mut end = HEADER;
    // Exactly one question is what resolvers send; a name is a row of labels
    // of at most 63 bytes that ends with an empty one, then type and class.
    if question.get(4..6)? != [0, 1] {
        return None;
    }
    loop {
        match *question.get(end)? {
            0 => break,
            length @ 1..=63 => end += 1 + usize::from(length),
            _ => return None,
        }
    }
    let mut answer = question.get(..end + 5)?.to_vec();
    answer[2] = (answer[2] & 0x79) | 0x80;
    answer[3] = 0x80 | 2;
    answer[6..HEADER].fill(0);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A question for the A record of `example.`.
    const QUESTION: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x07example\0\0\x01\0\x01";

    async fn forwarder(resolv_conf: &str) -> (Forwarder, SocketAddr, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let config =
            NetworkConfig { resolv_conf: directory.path().join("resolv.conf"), ..NetworkConfig::default() };
        std::fs::write(&config.resolv_conf, resolv_conf).unwrap();
        let config = Arc::new(config);
        // The port that the kernel chooses for UDP may be somebody's for TCP.
        let mut tries = 0..100;
        let (forwarder, address) = loop {
            let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
            let passing = Passing { config: Arc::clone(&config), subnet: "127.0.0.0/8".parse().unwrap() };
            match Forwarder::serve(any, Arc::new(passing)).await {
                Err(NetworkError::Forwarder { source, .. })
                    if source.kind() == io::ErrorKind::AddrInUse && tries.next().is_some() => {}
                started => break started.unwrap(),
            }
        };
        (forwarder, address, directory)
    }

    #[tokio::test]
    async fn a_question_nobody_can_answer_is_answered_with_server_failure() {
        // Port 53 of this loopback address has no server.
        let (_forwarder, address, _directory) = forwarder("nameserver 127.99.99.99\n").await;
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(QUESTION, address).await.unwrap();
        let mut answer = [0; 512];
        let length = timeout(Duration::from_secs(10), client.recv(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer[..length], b"\x12\x34\x81\x82\0\x01\0\0\0\0\0\0\x07example\0\0\x01\0\x01");

        let mut stream = TcpStream::connect(address).await.unwrap();
        write_message(&mut stream, QUESTION).await.unwrap();
        let over_tcp =
            timeout(Duration::from_secs(10), read_message(&mut stream)).await.unwrap().unwrap().unwrap();
        assert_eq!(over_tcp, answer[..length]);
    }

    #[tokio::test]
    async fn messages_that_are_no_question_end_a_connection() {
        let (_forwarder, address, _directory) = forwarder("").await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        write_message(&mut stream, b"short").await.unwrap();
        assert_eq!(timeout(Duration::from_secs(10), read_message(&mut stream)).await.unwrap().unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_get_a_bounded_failure_or_none(bytes: Vec<u8>) {
            if is_question(&bytes) && let Some(answer) = failure(&bytes) {
                prop_assert!(answer.len() <= bytes.len());
                prop_assert_eq!(&answer[..2], &bytes[..2]);
                prop_assert!(!is_question(&answer));
            }
        }
    }
}
