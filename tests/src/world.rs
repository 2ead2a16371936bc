//! What plays the outside world: a name server and a web server, as threads.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::namespace::Namespace;

/// Address of everything in the world (TEST-NET-3, RFC 5737).
pub const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The engine's address towards the world.
pub const ENGINE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The one name the world knows; its address is [`WORLD`].
pub const NAME: &str = "web.world.test";
/// Longest request head the web server reads, bytes.
const HEAD_MAX: usize = 16 * 1024;

/// Joins the two namespaces by a veth pair, and starts the world's servers.
/// The servers end with the process.
pub fn join(engine: &Namespace, world: &Namespace) {
    engine.sh(&format!(
        "ip link add up0 type veth peer name world0 netns {} && ip addr add {ENGINE}/24 dev up0 && ip link set up0 up",
        world.pid()
    ));
    world.sh(&format!("ip addr add {WORLD}/24 dev world0 && ip link set world0 up"));
    engine.sh(&format!("ip route add default via {WORLD}"));
    let sockets = world.thread(|| {
        let names = UdpSocket::bind((WORLD, 53)).expect("nobody else listens in a new namespace");
        let web = TcpListener::bind((WORLD, 80)).expect("nobody else listens in a new namespace");
        (names, web)
    });
    let (names, web) = sockets.join().unwrap();
    std::thread::spawn(move || serve_names(&names));
    std::thread::spawn(move || serve_web(&web));
}

/// Answers each request with the address it came from.
fn serve_web(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || answer_request(stream));
    }
}

fn answer_request(mut stream: TcpStream) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let SocketAddr::V4(peer) = stream.peer_addr().ok()? else { return None };
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_MAX {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let body = format!("you are {}\n", peer.ip());
    let length = body.len();
    stream
        .write_all(
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
                .as_bytes(),
        )
        .ok()
}

fn serve_names(socket: &UdpSocket) {
    let mut buffer = [0; 512];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        if let Some(answer) = answer_name(&buffer[..length]) {
            let _ = socket.send_to(&answer, peer);
        }
    }
}

/// The answer to one question (RFC 1035): the address of [`NAME`], or NXDOMAIN.
fn answer_name(question: &[u8]) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while *question.get(at)? != 0 {
        let length = usize::from(question[at]);
        labels.push(String::from_utf8_lossy(question.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let kind = question.get(at + 1..at + 3)?;
    let known = labels.join(".") == NAME;
    let address = known && kind == [0, 1];
    let mut answer = question.get(..at + 5)?.to_vec();
    let (code, answers) = (if known { 0 } else { 3 }, u8::from(address));
    answer[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]);
    if address {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend_from_slice(&WORLD.octets());
    }
    Some(answer)
}
