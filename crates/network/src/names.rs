//! Names of containers: the name server of user-defined networks.
//!
//! It listens on the gateway of each network. What it knows it answers itself, everything else it asks the servers that
//! the asker is to use. Questions come from guests: each is bounded in size, number and time, and parsed by a library.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::error::NetworkError;
use crate::forwarder::{ask_tcp, ask_udp, failure, is_question, read_message, within, write_message};

/// Where the server listens: port 53 of the gateway is led here, for a container may have published that.
pub(crate) const PORT: u16 = 1053;
/// The domain service (RFC 1035, 4.2).
const DOMAIN: u16 = 53;
/// Longest message over UDP, bytes.
const MESSAGE_MAX: usize = 65_535;
/// Longest answer of ours over UDP, bytes, whatever the asker could take (RFC 1035, 4.2.1).
const ANSWER_MAX: usize = 512;
/// UDP questions in flight; more are dropped, and the resolver asks again.
const QUESTIONS_MAX: usize = 256;
/// TCP connections at a time; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a TCP connection may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to rest when the kernel refuses another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long an answer of ours holds, seconds: docker's.
const TTL: u32 = 600;

/// What the server knows. Called for each question: not to block.
pub trait Names: Send + Sync + 'static {
    /// Addresses of a name (in lower case, without the last dot) for whoever asks from `asker`; `None` where it is no name
    /// of a network that he is on.
    fn addresses(&self, asker: IpAddr, name: &str) -> Option<Vec<IpAddr>>;

    /// The name at an address, if that is on a network of the asker's.
    fn name_at(&self, asker: IpAddr, address: IpAddr) -> Option<String>;

    /// Servers to ask for all other names; none where the asker is on internal networks alone.
    fn servers(&self, asker: IpAddr) -> Vec<IpAddr>;
}

/// A running server; it ends when this is dropped.
pub(crate) struct Resolver {
    _tasks: JoinSet<()>,
}

impl Resolver {
    /// Serves on a gateway.
    pub(crate) async fn start(gateway: Ipv4Addr, names: Arc<dyn Names>) -> Result<Self, NetworkError> {
        let address = SocketAddrV4::new(gateway, PORT);
        let failed = |source| NetworkError::Forwarder { address: SocketAddr::V4(address), source };
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(Arc::new(udp), Arc::clone(&names)));
        tasks.spawn(serve_tcp(tcp, names));
        Ok(Self { _tasks: tasks })
    }
}

fn servers(names: &dyn Names, asker: IpAddr) -> Vec<SocketAddr> {
    names.servers(asker).into_iter().map(|address| SocketAddr::new(address, DOMAIN)).collect()
}

async fn serve_udp(socket: Arc<UdpSocket>, names: Arc<dyn Names>) {
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; MESSAGE_MAX];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "receiving a question");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while answers.try_join_next().is_some() {}
        let question = &buffer[..length];
        if !is_question(question) {
            continue;
        }
        if let Some(answer) = own_answer(&*names, peer.ip(), question, ANSWER_MAX) {
            let _ = socket.send_to(&answer, peer).await;
            continue;
        }
        if answers.len() >= QUESTIONS_MAX {
            continue;
        }
        let (question, socket, servers) =
            (question.to_vec(), Arc::clone(&socket), servers(&*names, peer.ip()));
        answers.spawn(async move {
            if let Some(answer) = ask_udp(&question, &servers).await.or_else(|| failure(&question)) {
                let _ = socket.send_to(&answer, peer).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, names: Arc<dyn Names>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let names = Arc::clone(&names);
                connections.spawn(async move {
                    let _place = place;
                    if let Err(error) = answer_connection(stream, peer.ip(), &*names).await {
                        tracing::debug!(%peer, %error, "answering questions over TCP");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer_connection(mut stream: TcpStream, asker: IpAddr, names: &dyn Names) -> io::Result<()> {
    while let Some(question) = within(IDLE_TIMEOUT, read_message(&mut stream)).await? {
        if !is_question(&question) {
            return Ok(());
        }
        let answer = match own_answer(names, asker, &question, MESSAGE_MAX) {
            Some(answer) => Some(answer),
            None => ask_tcp(&question, &servers(names, asker)).await.or_else(|| failure(&question)),
        };
        let Some(answer) = answer else { return Ok(()) };
        within(IDLE_TIMEOUT, timeout_write(&mut stream, &answer)).await?;
    }
    Ok(())
}

async fn timeout_write(stream: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    timeout(IDLE_TIMEOUT, write_message(stream, answer))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The answer to a question about names of ours; `None` to ask others.
fn own_answer(names: &dyn Names, asker: IpAddr, question: &[u8], longest: usize) -> Option<Vec<u8>> {
    let message = Message::from_vec(question).ok()?;
    let [query] = message.queries.as_slice() else { return None };
    if message.metadata.op_code != OpCode::Query || query.query_class() != DNSClass::IN {
        return None;
    }
    let name = query.name();
    let data: Vec<RData> = match query.query_type() {
        RecordType::PTR => {
            let address = name.parse_arpa_name().ok()?.addr();
            let found = names.name_at(asker, address)?;
            vec![RData::PTR(PTR(Name::from_ascii(format!("{found}.")).ok()?))]
        }
        kind => {
            let text = name.to_ascii().to_ascii_lowercase();
            let found = names.addresses(asker, text.strip_suffix('.').unwrap_or(&text))?;
            let of_kind = |address: IpAddr| match (kind, address) {
                (RecordType::A | RecordType::ANY, IpAddr::V4(v4)) => Some(RData::A(A(v4))),
                (RecordType::AAAA | RecordType::ANY, IpAddr::V6(v6)) => Some(RData::AAAA(AAAA(v6))),
                _ => None,
            };
            found.into_iter().filter_map(of_kind).collect()
        }
    };
    let mut answer = Message::new(message.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = message.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = ResponseCode::NoError;
    answer.add_query(query.clone());
    for data in data {
        answer.add_answer(Record::from_rdata(name.clone(), TTL, data));
    }
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= longest {
        return Some(bytes);
    }
    // The asker comes again over TCP.
    answer.answers.clear();
    answer.metadata.truncation = true;
    answer.to_vec().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct One;

    impl Names for One {
        fn addresses(&self, asker: IpAddr, name: &str) -> Option<Vec<IpAddr>> {
            (asker == IpAddr::V4(Ipv4Addr::LOCALHOST) && name == "web")
                .then(|| vec!["172.29.0.2".parse().unwrap()])
        }

        fn name_at(&self, _: IpAddr, address: IpAddr) -> Option<String> {
            (address.to_string() == "172.29.0.2").then(|| "web.mine".to_owned())
        }

        fn servers(&self, _: IpAddr) -> Vec<IpAddr> {
            Vec::new()
        }
    }

    fn ask(name: &str, kind: RecordType, asker: &str) -> Option<Message> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(hickory_proto::op::Query::query(Name::from_ascii(name).unwrap(), kind));
        let answer = own_answer(&One, asker.parse().unwrap(), &message.to_vec().unwrap(), ANSWER_MAX)?;
        Some(Message::from_vec(&answer).unwrap())
    }

    #[test]
    fn names_of_ours_are_answered_and_others_are_not() {
        let answer = ask("WEB.", RecordType::A, "127.0.0.1").unwrap();
        assert_eq!(answer.metadata.id, 7);
        assert_eq!(answer.answers[0].data, RData::A(A("172.29.0.2".parse().unwrap())));
        // Known, but without such an address: nobody else is asked.
        assert!(ask("web.", RecordType::AAAA, "127.0.0.1").unwrap().answers.is_empty());
        let reverse = ask("2.0.29.172.in-addr.arpa.", RecordType::PTR, "127.0.0.1").unwrap();
        assert_eq!(reverse.answers[0].data.to_string(), "web.mine.");
        assert!(ask("web.", RecordType::A, "127.0.0.2").is_none());
        assert!(ask("example.org.", RecordType::A, "127.0.0.1").is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_or_not(bytes: Vec<u8>) {
            if let Some(answer) = own_answer(&One, IpAddr::V4(Ipv4Addr::LOCALHOST), &bytes, ANSWER_MAX) {
                prop_assert!(answer.len() <= ANSWER_MAX);
            }
        }
    }
}
