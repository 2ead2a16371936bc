//! Published ports: sockets on the host whose connections and datagrams are carried to the pod.
//!
//! They live here and not in the daemon, so that they outlive it. A socket also keeps everybody else off its port. What
//! comes from other hosts usually goes by nftables instead and is not seen here; what comes from this one always is.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper_protocol::port::{PortRequest, Published, Transport};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// Connections of a pod that are carried at a time; more wait with the kernel.
const CONNECTIONS_MAX: usize = 2048;
/// Descriptors that these need, and some.
const DESCRIPTORS: u64 = 2 * CONNECTIONS_MAX as u64 + 1024;
/// Connections that wait to be accepted (`listen(2)`).
const BACKLOG: i32 = 1024;
/// How long the pod may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a connection under way in each direction.
const BUFFER: usize = 64 << 10;
/// Clients of a UDP port that are kept apart at a time; further ones wait until one has been silent for long.
const CLIENTS_MAX: usize = 1024;
/// How long a UDP client may be silent until it is forgotten: docker's proxy has the same.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(90);
/// Largest UDP payload.
const DATAGRAM_MAX: usize = 65_535;
/// How long to rest when the kernel refuses another connection.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a port of the kernel's choice is tried at several addresses.
const TRIES: usize = 64;
/// Most ports of a container.
const PORTS_MAX: usize = 65_536;

/// Why a port is not published.
#[derive(Debug)]
pub struct PortTaken {
    /// Which.
    pub what: Published,
    /// Why.
    pub why: io::Error,
}

/// The published ports of a pod.
#[derive(Debug)]
pub struct Ports {
    open: Mutex<BTreeMap<String, Vec<Open>>>,
    target: Arc<Mutex<IpAddr>>,
    places: Arc<Semaphore>,
}

/// A port that is carried until this is dropped.
#[derive(Debug)]
struct Open {
    what: Published,
    carrier: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

/// A socket of the host that nothing is carried from yet.
enum Bound {
    Tcp(OwnedFd),
    Udp(OwnedFd),
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            target: Arc::new(Mutex::new(Ipv4Addr::UNSPECIFIED.into())),
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }
}

impl Ports {
    /// Publishes ports for a container in addition to those it has, all or none; returns all it has then.
    ///
    /// # Errors
    /// Which is not to be had.
    pub fn publish(
        &self,
        container: &str,
        to: IpAddr,
        requests: &[PortRequest],
    ) -> Result<Vec<Published>, PortTaken> {
        *lock(&self.target) = to;
        if !requests.is_empty() {
            raise_limit();
        }
        let mut bound = Vec::new();
        for request in requests {
            bind_all(request, &mut bound)?;
        }
        let mut open = lock(&self.open);
        let ports = open.entry(container.to_owned()).or_default();
        for (what, socket) in bound {
            let carrier = self.carry(what, socket).map_err(|why| PortTaken { what, why })?;
            ports.push(Open { what, carrier });
        }
        let published = ports.iter().map(|open| open.what).collect();
        if ports.is_empty() {
            open.remove(container);
        }
        Ok(published)
    }

    /// Lets go of a container's ports, and of what is carried by them.
    pub fn remove(&self, container: &str) {
        lock(&self.open).remove(container);
    }

    /// All that are published, by container.
    pub fn published(&self) -> BTreeMap<String, Vec<Published>> {
        let open = lock(&self.open);
        open.iter().map(|(id, ports)| (id.clone(), ports.iter().map(|open| open.what).collect())).collect()
    }

    fn carry(&self, what: Published, socket: Bound) -> io::Result<AbortHandle> {
        let target = Target { address: self.target.clone(), port: what.port };
        let task = match socket {
            Bound::Tcp(fd) => {
                let listener = TcpListener::from_std(fd.into())?;
                tokio::spawn(carry_connections(listener, target, self.places.clone()))
            }
            Bound::Udp(fd) => tokio::spawn(carry_datagrams(UdpSocket::from_std(fd.into())?, target)),
        };
        Ok(task.abort_handle())
    }
}

/// Where a port leads now.
#[derive(Debug, Clone)]
struct Target {
    address: Arc<Mutex<IpAddr>>,
    port: u16,
}

impl Target {
    fn now(&self) -> SocketAddr {
        SocketAddr::new(*lock(&self.address), self.port)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection is two descriptors.
fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if now.current.is_some_and(|current| current < DESCRIPTORS) {
        let current = now.maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..now }) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
    }
}

/// Binds one port of the host at all of its addresses.
fn bind_all(request: &PortRequest, bound: &mut Vec<(Published, Bound)>) -> Result<(), PortTaken> {
    let attempt = |host: IpAddr, host_port: u16| Published {
        port: request.port,
        transport: request.transport,
        host,
        host_port,
    };
    let first_host = request.hosts.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let mut refused =
        PortTaken { what: attempt(first_host, request.first), why: io::ErrorKind::InvalidInput.into() };
    if bound.len() + request.hosts.len() > PORTS_MAX {
        return Err(refused);
    }
    let candidates: Box<dyn Iterator<Item = u16>> = match request.first {
        0 => Box::new(std::iter::repeat_n(0, TRIES)),
        first => Box::new(first..=request.last),
    };
    'candidates: for candidate in candidates {
        let mut port = candidate;
        let mut sockets = Vec::new();
        for &host in &request.hosts {
            match bind(request.transport, SocketAddr::new(host, port)) {
                Ok((socket, chosen)) => {
                    port = chosen;
                    sockets.push((attempt(host, port), socket));
                }
                Err(error) if is_without_ipv6(&error, host) && request.hosts.len() > 1 => {}
                Err(why) => {
                    refused = PortTaken { what: attempt(host, port), why };
                    continue 'candidates;
                }
            }
        }
        bound.append(&mut sockets);
        return Ok(());
    }
    Err(refused)
}

/// Whether the host has no IPv6: an address of it was asked for beside one of IPv4.
fn is_without_ipv6(error: &io::Error, host: IpAddr) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    host.is_ipv6()
        && host.is_unspecified()
        && [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].iter().any(|errno| code == Some(errno.raw_os_error()))
}

fn bind(transport: Transport, address: SocketAddr) -> io::Result<(Bound, u16)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if transport == Transport::Tcp {
        // Connections of an earlier container that are only waiting for their time to pass are no reason to refuse.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    if transport == Transport::Tcp {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    let own: SocketAddr = rustix::net::getsockname(&socket)?.try_into()?;
    let bound = match transport {
        Transport::Tcp => Bound::Tcp(socket),
        Transport::Udp => Bound::Udp(socket),
    };
    Ok((bound, own.port()))
}

async fn carry_connections(listener: TcpListener, target: Target, places: Arc<Semaphore>) {
    // Ends with this task.
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((client, _)) => {
                let target = target.now();
                connections.spawn(async move {
                    let _place = place;
                    if let Err(error) = carry_connection(client, target).await {
                        tracing::debug!(%target, %error, "a connection to a published port ended");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a connection to a published port");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn carry_connection(mut client: TcpStream, target: SocketAddr) -> io::Result<()> {
    let connect = timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await;
    let mut pod = connect.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    client.set_nodelay(true)?;
    pod.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut pod, BUFFER, BUFFER).await.map(drop)
}

/// A client of a UDP port.
struct Client {
    socket: Arc<UdpSocket>,
    target: SocketAddr,
    heard: Arc<Mutex<Instant>>,
}

async fn carry_datagrams(socket: UdpSocket, target: Target) {
    let socket = Arc::new(socket);
    let mut clients: HashMap<SocketAddr, Client> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(gone) = answers.join_next() => {
                if let Ok(peer) = gone
                    && clients.get(&peer).is_some_and(|client| Arc::strong_count(&client.socket) == 1)
                {
                    clients.remove(&peer);
                }
                continue;
            }
        };
        let (length, peer) = match received {
            Ok(received) => received,
            Err(error) => {
                // ICMP errors of earlier answers are told here.
                tracing::debug!(%error, "receiving for a published port");
                sleep(PAUSE).await;
                continue;
            }
        };
        let now = target.now();
        if clients.get(&peer).is_none_or(|client| client.target != now) {
            if clients.len() >= CLIENTS_MAX {
                continue;
            }
            let Ok(client) = meet(now).await else { continue };
            answers.spawn(answer(socket.clone(), peer, client.socket.clone(), client.heard.clone()));
            clients.insert(peer, client);
        }
        let client = &clients[&peer];
        *lock(&client.heard) = Instant::now();
        if let Err(error) = client.socket.send(&buffer[..length]).await {
            tracing::debug!(%peer, %error, "sending to a published port");
        }
    }
}

async fn meet(target: SocketAddr) -> io::Result<Client> {
    let own: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(target).await?;
    Ok(Client { socket: Arc::new(socket), target, heard: Arc::new(Mutex::new(Instant::now())) })
}

/// Sends the pod's datagrams to a client until both have been silent for long; returns whose they were.
async fn answer(
    host: Arc<UdpSocket>,
    peer: SocketAddr,
    pod: Arc<UdpSocket>,
    heard: Arc<Mutex<Instant>>,
) -> SocketAddr {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let silent = lock(&heard).elapsed();
        let Some(patience) = CLIENT_TIMEOUT.checked_sub(silent).filter(|left| !left.is_zero()) else {
            return peer;
        };
        match timeout(patience, pod.recv(&mut buffer)).await {
            Err(_) => {}
            Ok(Ok(length)) => {
                *lock(&heard) = Instant::now();
                let _ = host.send_to(&buffer[..length], peer).await;
            }
            // Nobody listens in the pod, or not yet.
            Ok(Err(_)) => sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn request(transport: Transport, port: u16, first: u16, last: u16) -> PortRequest {
        PortRequest { transport, port, hosts: vec![LOCALHOST], first, last }
    }

    #[tokio::test]
    async fn connections_are_carried_both_ways_until_the_container_goes() {
        let server = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let port = server.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            stream.write_all(text.to_uppercase().as_bytes()).await.unwrap();
        });
        let ports = Ports::default();
        let published = ports.publish("c", LOCALHOST, &[request(Transport::Tcp, port, 0, 0)]).unwrap();
        let host_port = published[0].host_port;
        assert_ne!(host_port, 0);
        let mut client = TcpStream::connect((LOCALHOST, host_port)).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "HELLO");

        let taken = ports.publish("d", LOCALHOST, &[request(Transport::Tcp, 1, host_port, host_port)]);
        assert_eq!(taken.unwrap_err().why.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(ports.published().len(), 1);
        ports.remove("c");
        let gone = async {
            while TcpStream::connect((LOCALHOST, host_port)).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), gone).await.unwrap();
        assert!(ports.published().is_empty());
    }

    #[tokio::test]
    async fn datagrams_come_back_to_whoever_sent_them() {
        let server = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
        let port = server.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut buffer = [0; 100];
            loop {
                let (length, peer) = server.recv_from(&mut buffer).await.unwrap();
                server.send_to(&buffer[..length].to_ascii_uppercase(), peer).await.unwrap();
            }
        });
        let ports = Ports::default();
        let published = ports.publish("c", LOCALHOST, &[request(Transport::Udp, port, 0, 0)]).unwrap();
        for word in ["one", "two"] {
            let client = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
            client.connect((LOCALHOST, published[0].host_port)).await.unwrap();
            client.send(word.as_bytes()).await.unwrap();
            let mut answer = [0; 10];
            let length = timeout(Duration::from_secs(60), client.recv(&mut answer)).await.unwrap().unwrap();
            assert_eq!(answer[..length], *word.to_uppercase().as_bytes());
        }
    }

    #[tokio::test]
    async fn a_range_gives_the_first_port_that_is_free_and_all_addresses_get_the_same() {
        let ports = Ports::default();
        let any = [LOCALHOST, "127.0.0.2".parse().unwrap()].to_vec();
        let both = PortRequest { hosts: any, ..request(Transport::Tcp, 80, 0, 0) };
        let published = ports.publish("a", LOCALHOST, &[both]).unwrap();
        assert_eq!(published.len(), 2);
        let first = published[0].host_port;
        assert_eq!(published[1].host_port, first);
        let range = request(Transport::Tcp, 80, first, first.saturating_add(50));
        let next = ports.publish("b", LOCALHOST, &[range]).unwrap()[0].host_port;
        assert!(next > first, "{next} {first}");
    }
}
