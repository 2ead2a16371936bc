//! Starts: kept ready and cloned against podman and dockerd, booted against the same QEMU booted by hand.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hyper_e2e::Instance;
use hyper_protocol::hello::{self, Hello, Role};

use crate::docker::Docker;
use crate::many::ready_instance;
use crate::podman::Podman;
use crate::table::Table;

/// Samples of each side.
const RUNS: usize = 20;

/// Between two samples.
const PAUSE: Duration = Duration::from_millis(500);

/// How long one boot may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Measures `hyper run --rm busybox true`, the image local and the daemon up: with a VM that boots, with one that is
/// cloned from a template, and with one that was kept ready.
pub fn measure(instance: &Instance, docker: Option<&Docker>, table: &mut Table) {
    let command_line = command_line_of_a_pod(instance);
    instance.hyper(&["template", "create"]).run().ok();
    let pooled = ready_instance();
    let podman = Podman::new(instance);
    let mut samples: [Vec<Duration>; 6] = Default::default();
    for round in 0..=RUNS {
        pooled.wait_for_spares(2);
        let alone = |run: &dyn Fn() -> Duration| {
            // The VM of the sample before ends behind it.
            sleep(PAUSE);
            run()
        };
        // The one that has another VM made ready behind it comes last.
        let took = [
            alone(&|| podman.run(instance)),
            alone(&|| run(instance, &[])),
            alone(&|| run(instance, &["--template", "never"])),
            alone(&|| boot(&command_line, instance.directory())),
            alone(&|| docker.map_or(Duration::ZERO, |docker| docker.run(instance))),
            alone(&|| run(&pooled, &[])),
        ];
        // The first round warms the caches.
        if round > 0 {
            samples.iter_mut().zip(took).for_each(|(samples, took)| samples.push(took));
        }
    }
    podman.remove(instance);
    // What it keeps ready would count as left behind; it goes with the instance.
    drop(pooled);
    let [podman, cloned, booted, by_hand, dockerd, ready] = &samples;
    let words = "`hyper run --rm IMAGE true`";
    table.times(&format!("{words}, a VM kept ready"), ready, ("podman, bridge", podman), 0.6);
    if docker.is_some() {
        table.times("the same", ready, ("dockerd, bridge", dockerd), 0.8);
    }
    table.times(&format!("{words}, cloned"), cloned, ("podman, bridge", podman), 1.0);
    table.times(&format!("{words}, booted"), booted, ("QEMU by hand to its init", by_hand), 1.5);
}

fn run(instance: &Instance, flags: &[&str]) -> Duration {
    let words = [&["run", "--rm"], flags, &["busybox:latest", "true"]].concat();
    let start = Instant::now();
    instance.hyper(&words).run().exits(0);
    start.elapsed()
}

/// The command line of QEMU as the driver makes it, taken from a running pod.
fn command_line_of_a_pod(instance: &Instance) -> Vec<String> {
    let name = instance.name("peer");
    let words = ["run", "-d", "--name", &name, "--template", "never", "busybox:latest", "sleep", "600"];
    instance.hyper(&words).run().ok();
    let processes = instance.pod_processes();
    let qemu = processes.iter().find(|process| process.command.contains("qemu-system")).expect("a VMM runs");
    let bytes = fs::read(format!("/proc/{}/cmdline", qemu.pid)).unwrap();
    let words = bytes
        .split(|&byte| byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| std::ffi::OsString::from_vec(word.to_vec()).into_string().unwrap())
        .collect();
    instance.hyper(&["rm", "-f", &name]).run().ok();
    words
}

/// Boots QEMU with the same switches, its sockets and console as files in `directory` instead of inherited
/// descriptors, and returns the time until the guest's init answers on the link.
fn boot(command_line: &[String], directory: &Path) -> Duration {
    let work = tempfile::tempdir_in(directory).unwrap();
    let path = |name: &str| work.path().join(name).display().to_string();
    let mut words = Vec::new();
    let mut arguments = command_line[1..].iter();
    while let Some(word) = arguments.next() {
        let argument = |words: &mut Vec<String>, value: &String| words.extend([word.clone(), value.clone()]);
        match (word.as_str(), arguments.clone().next()) {
            ("-add-fd", Some(_)) => drop(arguments.next()),
            // A tap of its own that leads nowhere and goes with it, instead of one that is inherited.
            ("-netdev", Some(value)) if value.starts_with("tap,") => {
                let (inherited, _) = value.split_once(",fd=").expect("it is inherited");
                argument(&mut words, &format!("{inherited},script=no,downscript=no"));
                arguments.next();
            }
            ("-chardev", Some(value)) => {
                let id =
                    ["qmp", "link", "console"].into_iter().find(|id| value.contains(&format!("id={id}")));
                let id = id.unwrap_or_else(|| panic!("unknown chardev {value}"));
                let own = match id {
                    "console" => format!("file,id=console,path={}", path("console")),
                    _ => format!("socket,id={id},path={},server=on,wait=off", path(id)),
                };
                argument(&mut words, &own);
                arguments.next();
            }
            _ => words.push(word.clone()),
        }
    }
    let start = Instant::now();
    let mut qemu = Command::new(&command_line[0])
        .args(&words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    wait_for_init(&path("link"), start);
    let took = start.elapsed();
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    took
}

/// Greets the guest until its init answers: the host's side of how a session on the link opens.
fn wait_for_init(socket: &str, start: Instant) {
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) => assert!(start.elapsed() < LIMIT, "QEMU's socket: {error}"),
        }
        sleep(Duration::from_millis(1));
    };
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let hello = Hello { version: hello::VERSION, role: Role::Host, nonce: [1; 16] };
    stream.write_all(&hello.encode()).unwrap();
    stream.read_exact(&mut [0; hello::LENGTH]).expect("the guest's init answers");
}
