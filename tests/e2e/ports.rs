//! Published ports, from the world, from the host and from other containers.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use hyper_e2e::command::wait_until;
use hyper_e2e::namespace::Namespace;
use hyper_e2e::world::ENGINE;
use hyper_e2e::{Cli, Instance, Options};
use serde_json::Value;

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both:
        a_published_port_is_reached_from_the_world_the_host_and_containers,
        a_port_of_the_hosts_choice_is_shown_and_leads_to_the_container,
        a_port_is_given_to_one_only,
        datagrams_come_and_go,
        a_client_of_datagrams_reaches_the_next_container_at_once,
    ]
    .to_vec();
    cases.extend(case_list![Own:
        published_ports_outlive_the_daemon,
        a_port_of_a_container_that_ended_without_daemon_is_taken_back,
    ]);
    cases
}

const PAGE: &str = "served by busybox\n";
const SERVE: [&str; 6] = ["httpd", "-f", "-p", "80", "-h", "/www"];

/// A port of this command line's own: the cases of both run at a time.
fn port(s: &Session, port: u16) -> u16 {
    match s.cli {
        Cli::Hyper => port,
        Cli::Docker => port + 1000,
    }
}

/// What a web server says to somebody in a namespace.
fn page(from: &Namespace, url: &str) -> String {
    let line = format!("timeout 5 busybox wget -qO- {url} 2>/dev/null || true");
    from.sh(&line)
}

#[track_caller]
fn serves(from: &Namespace, url: &str) {
    wait_until(&format!("{url} answers"), || page(from, url) == PAGE);
}

fn ports(inspected: &Value) -> Value {
    inspected["NetworkSettings"]["Ports"].clone()
}

fn a_published_port_is_reached_from_the_world_the_host_and_containers(s: &Session) {
    let lab = &s.instance.lab;
    let [first, second, third, fourth] = [8080, 8081, 8085, 8086].map(|number| port(s, number));
    let flags = [
        format!("{first}:80"),
        format!("127.0.0.1:{second}:80"),
        format!("{third}-{fourth}:{third}-{fourth}"),
    ];
    let flags = ["-p", &flags[0], "-p", &flags[1], "-p", &flags[2]];
    let web = s.background(&flags, "busybox:latest", &SERVE);
    let outside = format!("http://{ENGINE}:{first}/");
    serves(&lab.world, &outside);
    for host in [format!("127.0.0.1:{first}"), format!("[::1]:{first}"), format!("127.0.0.1:{second}")] {
        serves(&lab.engine, &format!("http://{host}/"));
    }
    serves(&lab.engine, &outside);
    assert_eq!(page(&lab.world, &format!("http://{ENGINE}:{second}/")), "", "published for this host alone");
    // From another container, and from itself, by the host's address.
    let script = format!("wget -qO- {outside}");
    s.shell(&script).ok().prints(PAGE);
    s.run(&["exec", &web.name, "sh", "-c", &script]).ok().prints(PAGE);

    let inspected = s.inspect(&web.name);
    let number = first.to_string();
    assert_eq!(ports(&inspected)["80/tcp"][0]["HostPort"], number, "{}", ports(&inspected));
    assert_eq!(inspected["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"], number);
    let shown = s.run(&["port", &web.name]).ok().out();
    for line in [
        format!("80/tcp -> 0.0.0.0:{first}\n"),
        format!("80/tcp -> 127.0.0.1:{second}\n"),
        format!("{fourth}/tcp -> 0.0.0.0:{fourth}\n"),
    ] {
        assert!(shown.contains(&line), "{shown}");
    }
    let filter = format!("publish={first}");
    let listed = s.run(&["ps", "--filter", &filter, "--format", "{{.Names}} {{.Ports}}"]).ok().out();
    let range = format!("0.0.0.0:{third}-{fourth}->{third}-{fourth}/tcp");
    assert!(listed.starts_with(&web.name) && listed.contains(&range), "{listed}");

    s.run(&["stop", "-t", "0", &web.name]).ok();
    assert_eq!(ports(&s.inspect(&web.name)), serde_json::json!({}));
    let inside = format!("http://127.0.0.1:{first}/");
    wait_until("the port is free", || page(&lab.engine, &inside).is_empty());
    assert_eq!(page(&lab.world, &outside), "");
    s.run(&["start", &web.name]).ok();
    serves(&lab.world, &outside);
}

fn a_port_of_the_hosts_choice_is_shown_and_leads_to_the_container(s: &Session) {
    let web = s.background(&["--expose", "80", "-P"], "busybox:latest", &SERVE);
    let inspected = s.inspect(&web.name);
    let port = ports(&inspected)["80/tcp"][0]["HostPort"].as_str().unwrap().to_owned();
    assert_ne!(port.parse::<u16>().unwrap(), 0);
    serves(&s.instance.lab.world, &format!("http://{ENGINE}:{port}/"));
    let shown = s.run(&["port", &web.name, "80"]).ok().out();
    assert!(shown.contains(&format!("0.0.0.0:{port}\n")), "{shown}");
}

fn a_port_is_given_to_one_only(s: &Session) {
    let [ours, others] = [8090, 8091].map(|number| port(s, number));
    let flag = format!("{ours}:80");
    let _web = s.background(&["-p", &flag], "busybox:latest", &SERVE);
    let again = s.run(&["run", "--rm", "-p", &flag, "busybox:latest", "true"]);
    assert_eq!(again.code, 125, "{again}");
    assert!(again.err().contains("port is already allocated"), "{again}");
    let listen = move || TcpListener::bind((Ipv4Addr::LOCALHOST, others)).unwrap();
    let _listener = s.instance.lab.engine.thread(listen).join().unwrap();
    let taken = s.run(&["run", "--rm", "-p", &format!("{others}:80"), "busybox:latest", "true"]);
    assert_eq!(taken.code, 125, "{taken}");
    assert!(taken.err().contains("address already in use"), "{taken}");
}

fn datagrams_come_and_go(s: &Session) {
    let lab = &s.instance.lab;
    let script = "use IO::Socket::INET; $s = IO::Socket::INET->new(LocalPort => 5000, Proto => 'udp'); \
                  while (defined $s->recv($b, 1500)) { $s->send($b) }";
    let number = port(s, 5005);
    let echo = s.background(&["-p", &format!("{number}:5000/udp")], "debian:12", &["perl", "-e", script]);
    for (namespace, host) in [(&lab.engine, Ipv4Addr::LOCALHOST), (&lab.engine, ENGINE), (&lab.world, ENGINE)]
    {
        let said = namespace.thread(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.connect((host, number)).unwrap();
            let mut buffer = [0; 100];
            for _ in 0..30 {
                let _ = socket.send(b"hello");
                if let Ok(length) = socket.recv(&mut buffer) {
                    return buffer[..length].to_vec();
                }
            }
            Vec::new()
        });
        assert_eq!(said.join().unwrap(), b"hello", "{host}: {}", echo.logs());
    }
}

/// A program that answers each datagram to port 5000 with a word.
fn answering(word: &str) -> String {
    format!(
        "use IO::Socket::INET; $s = IO::Socket::INET->new(LocalPort => 5000, Proto => 'udp'); \
         while (defined $s->recv($b, 1500)) {{ $s->send('{word}') }}"
    )
}

fn a_client_of_datagrams_reaches_the_next_container_at_once(s: &Session) {
    let number = port(s, 5105);
    let flag = format!("{number}:5000/udp");
    let start = |word: &str| s.background(&["-p", &flag], "debian:12", &["perl", "-e", &answering(word)]);
    // From one port all the time, so that for the kernel it is one flow.
    let ask = |from: u16, word: &'static str, patience: Duration| {
        let asked = s.instance.lab.world.thread(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, from)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            socket.connect((ENGINE, number)).unwrap();
            let (begun, mut heard) = (Instant::now(), String::new());
            while begun.elapsed() < patience {
                let mut buffer = [0; 100];
                let _ = socket.send(b"hello");
                if let Ok(length) = socket.recv(&mut buffer) {
                    heard = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    if heard == word {
                        break;
                    }
                }
            }
            heard
        });
        asked.join().unwrap()
    };
    let from = number + 3000;
    let first = start("first");
    assert_eq!(ask(from, "first", Duration::from_secs(60)), "first", "{}", first.logs());
    // The kernel's own word for it, where it tells: which address the second gets is not ours to say.
    let led = format!("dport={number} src={} ", first.address());
    let flows = || s.instance.lab.engine.sh("cat /proc/net/nf_conntrack 2>/dev/null || true");
    let to_first = || flows().lines().any(|flow| flow.replace("[UNREPLIED] ", "").contains(&led));
    assert!(to_first() || flows().is_empty(), "{led} is not in {}", flows());
    s.run(&["rm", "-f", &first.name]).ok();
    wait_until("the kernel has forgotten it", || !to_first());
    let other = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    let second = start("second");
    assert_eq!(ask(from, "second", Duration::from_secs(60)), "second", "{}", second.logs());
    drop(other);
}

fn a_port_of_a_container_that_ended_without_daemon_is_taken_back() {
    let engine = Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() });
    // It ends with its first client.
    let serve = "echo once | nc -l -p 80";
    engine
        .hyper(&["run", "-d", "--name", "once", "-p", "8080:80", "busybox:latest", "sh", "-c", serve])
        .run()
        .ok();
    let rules = || engine.lab.engine.sh("nft list ruleset");
    assert!(rules().contains("8080"), "{}", rules());
    let listens = || engine.lab.engine.sh("cat /proc/net/tcp").contains(":1F90 ");
    assert!(listens());
    engine.kill_daemon();
    wait_until("it has had its client", || {
        engine.lab.world.sh(&format!("timeout 5 busybox nc {ENGINE} 8080 </dev/null || true"));
        !listens()
    });
    engine.start_daemon();
    wait_until("the rule is gone", || !rules().contains("8080"));
    engine.hyper(&["rm", "once"]).run().ok();
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn published_ports_outlive_the_daemon() {
    let engine = Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() });
    let (host, world) = ("http://127.0.0.1:8080/", format!("http://{ENGINE}:8080/"));
    let run = [&["run", "-d", "--name", "web", "-p", "8080:80", "busybox:latest"][..], &SERVE].concat();
    engine.hyper(&run).run().ok();
    serves(&engine.lab.world, &world);
    engine.kill_daemon();
    serves(&engine.lab.world, &world);
    serves(&engine.lab.engine, host);
    engine.start_daemon();
    serves(&engine.lab.world, &world);
    serves(&engine.lab.engine, host);
    let shown = engine.hyper(&["port", "web"]).run().ok().out();
    assert!(shown.contains("80/tcp -> 0.0.0.0:8080\n"), "{shown}");
    let again = engine.hyper(&["run", "--rm", "-p", "8080:80", "busybox:latest", "true"]).run();
    assert!(again.err().contains("port is already allocated"), "{again}");
    engine.hyper(&["rm", "-f", "web"]).run().ok();
    wait_until("nobody answers", || page(&engine.lab.engine, host).is_empty());
    let rules = engine.lab.engine.sh("nft list ruleset");
    assert!(!rules.contains("8080"), "{rules}");
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}
