//! What goes in and out of containers: by published ports, and by `cp`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hyper_e2e::command::wait_until;
use hyper_e2e::namespace::Namespace;
use hyper_e2e::{Cli, Instance};

use crate::docker::Docker;
use crate::podman::Podman;
use crate::table::Table;

/// Rounds of each side.
const ROUNDS: usize = 5;
/// Requests of a round, one after another.
const REQUESTS: usize = 100;
/// Bytes of the large file that is fetched.
const BULK: usize = 64 << 20;
/// Bytes that are copied.
const COPIED: usize = 1 << 30;
/// How long a copy may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Serves a page and the large file.
const SERVE: &str =
    "mkdir /w; echo page >/w/page; head -c 67108864 /dev/zero >/w/bulk; exec httpd -f -p 80 -h /w";
/// Where the two are published.
const OURS: u16 = 18200;
const THEIRS: u16 = 18201;

/// A published port beside podman's, from this host and from another.
pub fn ports(instance: &Instance, table: &mut Table) {
    let podman = Podman::new(instance);
    podman.publish(instance, THEIRS, SERVE);
    let published = format!("{OURS}:80");
    let run = ["run", "-d", "--name", "web", "-p", &published, "busybox:latest", "sh", "-c", SERVE];
    instance.hyper(&run).run().ok();
    for (who, side, address) in [
        ("this host", &instance.lab.engine, "127.0.0.1"),
        ("another host", &instance.lab.world, "203.0.113.2"),
    ] {
        for port in [OURS, THEIRS] {
            wait_until("it serves", || fetch(side, address, port, "bulk", 1) == Some(BULK));
        }
        for (what, path, times) in [("100 requests", "page", REQUESTS), ("64 MiB", "bulk", 1)] {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                for (port, samples) in [(OURS, &mut ours), (THEIRS, &mut theirs)] {
                    let start = Instant::now();
                    assert!(fetch(side, address, port, path, times).is_some(), "{address}:{port}/{path}");
                    samples.push(start.elapsed());
                }
            }
            table.beside(&format!("{what} by a published port, from {who}"), &ours, ("podman", &theirs));
        }
    }
    podman.remove(instance);
    instance.hyper(&["rm", "-f", "web"]).run().ok();
}

/// Bytes of a page's body, fetched some times in a row; `None` where one fails.
fn fetch(side: &Namespace, address: &str, port: u16, path: &str, times: usize) -> Option<usize> {
    let (address, request) = (address.to_owned(), format!("GET /{path} HTTP/1.0\r\n\r\n"));
    let work = move || {
        let mut length = 0;
        for _ in 0..times {
            let mut stream = TcpStream::connect((address.as_str(), port)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
            stream.write_all(request.as_bytes()).ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).ok()?;
            let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
            length = answer.starts_with(b"HTTP/1.1 200").then(|| answer.len() - head - 4)?;
        }
        Some(length)
    };
    side.thread(work).join().expect("fetching does not panic")
}

/// `cp` of a large file, beside docker's where there is a dockerd.
pub fn copy(instance: &Instance, docker: Option<&Docker>, table: &mut Table) {
    let file = instance.directory().join("large");
    let copied = format!("head -c {COPIED} /dev/urandom > {0}; cp {0} {0}.warm; rm {0}.warm", file.display());
    instance.sh(&copied).timeout(PATIENCE).run().ok();
    instance.hyper(&["run", "-d", "--name", "box", "-m", "1g", "busybox:latest", "sleep", "3600"]).run().ok();
    let timed = |line: &str| {
        let start = Instant::now();
        instance.sh(line).timeout(PATIENCE).run().ok();
        start.elapsed()
    };
    let command = instance.line(Cli::Hyper);
    let both = |command: &str, name: &str| {
        let into = timed(&format!("{command} cp {} {name}:/large", file.display()));
        let out = timed(&format!("{command} cp {name}:/large {}.out", file.display()));
        let same = timed(&format!("cmp {0} {0}.out && rm {0}.out", file.display()));
        (into, out, same)
    };
    let ours = both(&command, "box");
    instance.hyper(&["rm", "-f", "box"]).run().ok();
    let theirs = docker.map(|docker| {
        let name = docker.start(instance);
        let took = both(&docker.command(), &name);
        docker.end(instance, &name);
        took
    });
    for (what, ours, theirs) in [
        ("1 GiB copied into a container", ours.0, theirs.map(|took| took.0)),
        ("1 GiB copied out of a container", ours.1, theirs.map(|took| took.1)),
    ] {
        match theirs {
            Some(theirs) => table.beside(what, &[ours], ("docker", &[theirs])),
            None => table.alone(what, &[ours]),
        }
    }
    let _ = fs::remove_file(file);
}
