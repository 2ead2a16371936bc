//! A fresh network namespace per test, a second one as the outside world, and
//! a guest that writes its own Ethernet frames.
#![allow(clippy::unwrap_used, reason = "test code outside #[test] functions")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper_network::{Endpoint, Network, NetworkConfig};

/// Set in the copy of a test that runs inside its namespace.
const INSIDE: &str = "HYPER_NETWORK_TEST_INSIDE";
/// How long anything that should happen may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The host's address towards the world.
pub const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The world's address.
pub const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Instance id of most tests.
pub const ID: &str = "3fa9c2";

/// Runs `body` in a network namespace of its own: starts this very test again
/// there. Skipped, with the reason printed, where that is not possible.
/// `prefix` is put before the command, e.g. to drop privileges.
pub fn isolated_with(name: &str, prefix: &[&str], body: impl AsyncFnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(body());
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: {name} needs root for network namespaces");
        return;
    }
    let probe = Command::new("unshare").args(["-n", "nft", "list", "ruleset"]).output();
    if !probe.as_ref().is_ok_and(|output| output.status.success()) {
        println!("skipped: {name} needs nft and network namespaces: {probe:?}");
        return;
    }
    let status = Command::new("unshare")
        .args(["-n", "--"])
        .args(prefix)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed in its namespace");
}

/// [`isolated_with`] nothing special.
pub fn isolated(name: &str, body: impl AsyncFnOnce()) {
    isolated_with(name, &[], body);
}

/// Runs a command that must succeed; returns what it printed.
pub fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Names of all links but the loopback.
pub fn link_names() -> Vec<String> {
    let mut names: Vec<String> = run("ip -o link")
        .lines()
        .filter_map(|line| line.split(": ").nth(1))
        .map(|name| name.split('@').next().unwrap().to_owned())
        // Devices that some kernels put into every new namespace.
        .filter(|name| name != "lo" && !name.starts_with("ifb") && !name.ends_with("tnl0"))
        .collect();
    names.sort();
    names
}

/// The default network of instance [`ID`], subnet 172.30.0.0/16.
pub async fn network() -> Network {
    Network::open(ID, false, config("nameserver 198.51.100.53\n").0).await.unwrap()
}

/// A configuration whose host `resolv.conf` has this text; keep the directory.
pub fn config(resolv_conf: &str) -> (NetworkConfig, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    std::fs::write(&path, resolv_conf).unwrap();
    let config = NetworkConfig {
        subnet: Some("172.30.0.0/16".parse().unwrap()),
        resolv_conf: path,
        ..NetworkConfig::default()
    };
    (config, directory)
}

/// A second network namespace joined by a veth pair, our way out.
pub struct World {
    holder: Child,
}

impl World {
    pub fn new() -> Self {
        let holder =
            Command::new("unshare").args(["-n", "sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
        let pid = holder.id();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        wait_for("the second namespace", || {
            std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|other| other != own)
        });
        run(&format!(
            "ip link set lo up; ip link add up0 type veth peer name world0 netns {pid} && ip addr add {HOST}/24 dev up0 \
             && ip link set up0 up && nsenter -t {pid} -n ip addr add {WORLD}/24 dev world0 \
             && nsenter -t {pid} -n ip link set world0 up && ip route add default via {WORLD}"
        ));
        Self { holder }
    }

    /// Runs a command out there.
    pub fn run(&self, command: &str) -> String {
        run(&format!("nsenter -t {} -n {command}", self.holder.id()))
    }

    /// A socket out there, bound to `port`.
    pub fn udp(&self, port: u16) -> UdpSocket {
        let namespace = File::open(format!("/proc/{}/ns/net", self.holder.id())).unwrap();
        let bind = move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind).unwrap();
            udp(WORLD, port)
        };
        std::thread::spawn(bind).join().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A socket in this namespace that gives up after [`PATIENCE`].
pub fn udp(address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((address, port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The guest's side of a tap.
pub struct Guest {
    tap: File,
    pub endpoint: Endpoint,
}

impl Guest {
    pub fn new(endpoint: &Endpoint) -> Self {
        Self { tap: File::from(hyper_sys::tap::open(&endpoint.tap).unwrap()), endpoint: endpoint.clone() }
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) {
        (&self.tap).write_all(frame).unwrap();
    }

    /// The next frame that `wanted` accepts; ARP questions for our address are
    /// answered meanwhile. `None` after `limit`.
    pub fn receive_within(&self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        let mut buffer = [0; 2048];
        while Instant::now() < deadline {
            match (&self.tap).read(&mut buffer) {
                Ok(length) => {
                    let frame = &buffer[..length];
                    if let Some(answer) = self.arp_answer(frame) {
                        self.send(&answer);
                    }
                    if wanted(frame) {
                        return Some(frame.to_vec());
                    }
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        None
    }

    pub fn receive(&self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        self.receive_within(PATIENCE, wanted).unwrap_or_else(|| panic!("no {what} arrived"))
    }

    /// Asks who has `address`, and returns the answer's Ethernet address. Asks
    /// again as any host does: a tap's carrier appears a moment after opening.
    pub fn resolve(&self, address: Ipv4Addr) -> [u8; 6] {
        let (mac, own) = (self.endpoint.mac.octets(), self.endpoint.address.addr());
        let answers = |frame: &[u8]| {
            frame.len() >= 42
                && frame[12..14] == [8, 6]
                && frame[21] == 2
                && frame[28..32] == address.octets()
        };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.send(&arp(1, mac, mac, own, [0xff; 6], address));
            if let Some(answer) = self.receive_within(Duration::from_millis(100), answers) {
                return answer[22..28].try_into().unwrap();
            }
        }
        panic!("nobody answers for {address}");
    }

    /// One UDP datagram by the gateway.
    pub fn send_udp(&self, to: (Ipv4Addr, u16), payload: &[u8]) {
        let gateway = self.resolve(self.endpoint.gateway);
        self.send(&udp_frame(self.endpoint.mac.octets(), gateway, self.endpoint.address.addr(), to, payload));
    }

    /// Waits for a datagram with this payload; returns its source address.
    pub fn receive_udp(&self, payload: &[u8]) -> Ipv4Addr {
        let frame = self.receive("datagram", |frame| is_udp(frame, payload));
        Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29])
    }

    fn arp_answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let own = self.endpoint.address.addr();
        let asked =
            frame.len() >= 42 && frame[12..14] == [8, 6] && frame[21] == 1 && frame[38..42] == own.octets();
        if !asked {
            return None;
        }
        let asker: [u8; 6] = frame[22..28].try_into().ok()?;
        let address = Ipv4Addr::new(frame[28], frame[29], frame[30], frame[31]);
        let mac = self.endpoint.mac.octets();
        Some(arp(2, mac, mac, own, asker, address))
    }
}

pub fn is_udp(frame: &[u8], payload: &[u8]) -> bool {
    frame.len() > 42 && frame[12..14] == [8, 0] && frame[23] == 17 && frame[42..].starts_with(payload)
}

/// An ARP frame (RFC 826); `operation` 1 asks, 2 answers.
pub fn arp(
    operation: u8,
    source: [u8; 6],
    mac: [u8; 6],
    own: Ipv4Addr,
    to: [u8; 6],
    address: Ipv4Addr,
) -> Vec<u8> {
    let mut frame = [&to[..], &source, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &mac, &own.octets()].concat();
    frame.extend_from_slice(if operation == 1 { &[0; 6] } else { &to });
    frame.extend_from_slice(&address.octets());
    frame
}

/// An Ethernet frame with a UDP datagram from port 4000, without UDP checksum.
pub fn udp_frame(
    mac: [u8; 6],
    to_mac: [u8; 6],
    own: Ipv4Addr,
    to: (Ipv4Addr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let length = |extra: usize| u16::try_from(payload.len() + extra).unwrap().to_be_bytes();
    let mut header =
        [&[0x45, 0][..], &length(28), &[0, 0, 0, 0, 64, 17, 0, 0], &own.octets(), &to.0.octets()].concat();
    let mut sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let udp = [&4000u16.to_be_bytes()[..], &to.1.to_be_bytes(), &length(8), &[0, 0], payload].concat();
    [&to_mac[..], &mac, &[8, 0], &header, &udp].concat()
}
