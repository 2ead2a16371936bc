//! Names of containers: the name server of user-defined networks.
//!
//! It listens on the gateway of each network. What it knows it answers itself, everything else it asks the servers that
//! the asker is to use. Questions come from guests: each is bounded in size, number and time, and parsed by a library.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::error::NetworkError;
use crate::forwarder::{Forwarder, Service, at_port};

/// Where the server listens: port 53 of the gateway is led here, for a container may have published that.
pub(crate) const PORT: u16 = 1053;
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

/// Serves on a gateway until what is returned is dropped.
pub(crate) async fn serve(gateway: Ipv4Addr, names: Arc<dyn Names>) -> Result<Forwarder, NetworkError> {
    let known = Arc::new(Known(names));
    Forwarder::serve(SocketAddrV4::new(gateway, PORT), known).await.map(|(server, _)| server)
}

/// Names of ours first.
struct Known(Arc<dyn Names>);

impl Service for Known {
    /// Who is on no network of ours has no names and no servers.
    fn serves(&self, _: IpAddr) -> bool {
        true
    }

    fn own_answer(&self, asker: IpAddr, question: &[u8], longest: usize) -> Option<Vec<u8>> {
        own_answer(&*self.0, asker, question, longest)
    }

    fn servers(&self, asker: IpAddr) -> Vec<SocketAddr> {
        at_port(self.0.servers(asker))
    }
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
    use crate::forwarder::ANSWER_MAX;
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
