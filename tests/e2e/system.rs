//! The daemon as a service: metrics, TCP for those who prove who they are, a socket from systemd.

use std::path::Path;

use hyper_e2e::command::wait_until;
use hyper_e2e::{Instance, Options, Running};

use crate::case_list;
use crate::session::Case;

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Own:
        metrics_tell_what_runs_and_what_was_done,
        tcp_is_for_clients_with_a_certificate,
        a_socket_from_systemd_is_served_and_left_alone,
    ]
    .to_vec()
}

fn engine(env: &[(&str, &str)]) -> Instance {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Instance::start(Options { images: vec!["busybox:latest"], env, ..Options::default() })
}

fn metrics_tell_what_runs_and_what_was_done() {
    let engine = engine(&[("HYPER_METRICS", "127.0.0.1:9323")]);
    let hyper = |arguments: &[&str]| engine.hyper(arguments).run();
    let check = ["--health-cmd", "true", "--health-interval", "200ms"];
    hyper(&[&["run", "-d", "--name", "lives"][..], &check, &["busybox:latest", "sleep", "1000"]].concat())
        .ok();
    hyper(&["run", "--name", "ended", "busybox:latest", "true"]).ok();
    let scrape = || engine.sh("curl -sS http://127.0.0.1:9323/metrics").run().ok().out();
    wait_until("the healthy one is counted", || {
        scrape().contains("hyper_container_health{status=\"healthy\"} 1")
    });
    let text = scrape();
    for line in [
        "engine_daemon_container_states_containers{state=\"running\"} 1",
        "engine_daemon_container_states_containers{state=\"stopped\"} 1",
        "engine_daemon_container_actions_seconds_count{action=\"start\"} 2",
        "hyper_container_events_total{action=\"die\"} 1",
        "hyper_pods{state=\"running\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    engine.sh("curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:9323/info").run().ok().prints("404");
    assert_eq!(engine.finish(), Vec::<String>::new());
}

/// An authority, a certificate for the daemon at 127.0.0.1, one for a client, and a stranger's.
fn certificates(engine: &Instance, dir: &Path) {
    let script = r#"
        set -e; mkdir -p "$1"; cd "$1"
        new="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        openssl req -x509 $new -keyout ca-key.pem -out ca.pem -subj /CN=authority -days 2
        sign() { openssl x509 -req -in $1.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out $1.pem -days 2 -extfile $1.ext; }
        echo 'subjectAltName=IP:127.0.0.1' >server.ext; echo 'extendedKeyUsage=serverAuth' >>server.ext
        openssl req $new -keyout server-key.pem -out server.csr -subj /CN=daemon; sign server
        echo 'extendedKeyUsage=clientAuth' >cert.ext
        openssl req $new -keyout key.pem -out cert.csr -subj /CN=client; sign cert
        openssl req -x509 $new -keyout stranger-key.pem -out stranger.pem -subj /CN=stranger -days 2
    "#;
    let line = format!("sh -c '{}' sh {}", script.replace('\'', "'\\''"), dir.display());
    engine.sh(&line).run().ok();
}

/// Starts hyperd with these arguments and waits until it serves.
fn daemon(engine: &Instance, before: &str, arguments: &str) -> Running {
    let program = engine.binaries().directory().join("hyperd");
    let running = engine.sh(&format!("exec {before} {} {arguments}", program.display())).spawn();
    let socket = engine.run_directory().join("hyper.sock");
    wait_until("the daemon serves", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    running
}

fn tcp_is_for_clients_with_a_certificate() {
    let engine = Instance::start(Options::default());
    let dir = engine.directory().join("tls");
    certificates(&engine, &dir);
    let at = |name: &str| dir.join(name).display().to_string();
    let program = engine.binaries().directory().join("hyperd");
    let plain = engine.sh(&format!("{} -H tcp://127.0.0.1:2375", program.display())).run().exits(1);
    plain.complains(&["without --tlsverify"]);
    let arguments = format!(
        "-H tcp://127.0.0.1:2376 --tlsverify --tlscacert={} --tlscert={} --tlskey={}",
        at("ca.pem"),
        at("server.pem"),
        at("server-key.pem")
    );
    let daemon = daemon(&engine, "", &arguments);
    engine.fetch("busybox:latest");
    let (ca, cert, key) = (at("ca.pem"), at("cert.pem"), at("key.pem"));
    let flags = [
        "-H",
        "tcp://127.0.0.1:2376",
        "--tlsverify",
        "--tlscacert",
        &ca,
        "--tlscert",
        &cert,
        "--tlskey",
        &key,
    ];
    let remote = |words: &[&str]| engine.hyper(&[&flags[..], words].concat());
    remote(&["run", "--rm", "busybox:latest", "echo", "remote"]).run().ok().prints("remote\n");
    remote(&["run", "--rm", "-i", "busybox:latest", "tr", "a-z", "A-Z"])
        .stdin("hello\n")
        .run()
        .ok()
        .prints("HELLO\n");
    // By docker's environment, with docker's own client.
    let docker = format!(
        "DOCKER_HOST=tcp://127.0.0.1:2376 DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH={} docker run --rm busybox:latest echo docker",
        dir.display()
    );
    engine.sh(&docker).run().ok().prints("docker\n");
    let (strange, strange_key) = (at("stranger.pem"), at("stranger-key.pem"));
    let stranger = [
        "-H",
        "tcp://127.0.0.1:2376",
        "--tlsverify",
        "--tlscacert",
        &ca,
        "--tlscert",
        &strange,
        "--tlskey",
        &strange_key,
    ];
    assert_ne!(engine.hyper(&[&stranger[..], &["ps"]].concat()).run().code, 0);
    let nobody = engine.sh(&format!("curl -sS --cacert {ca} https://127.0.0.1:2376/_ping")).run();
    assert_ne!(nobody.code, 0, "{nobody}");
    engine.sh("curl -sS http://127.0.0.1:2376/_ping").run();
    remote(&["ps", "-q"]).run().ok().prints("");
    assert_eq!(engine.finish(), Vec::<String>::new());
    drop(daemon);
}

fn a_socket_from_systemd_is_served_and_left_alone() {
    if !Path::new("/usr/bin/systemd-socket-activate").exists() {
        println!("skipped: systemd-socket-activate is not installed");
        return;
    }
    let engine = Instance::start(Options::default());
    let socket = engine.run_directory().join("hyper.sock");
    let pass =
        "--setenv=HYPER_ROOT --setenv=HYPER_RUN --setenv=HYPER_TEMPLATES --setenv=HYPER_POOL --setenv=PATH";
    let before = format!("systemd-socket-activate {pass} -l {}", socket.display());
    let daemon = daemon(&engine, &before, "");
    engine.fetch("busybox:latest");
    engine.hyper(&["run", "-d", "--name", "lives", "busybox:latest", "sleep", "1000"]).run().ok();
    let pid = engine.daemon_pid().expect("the daemon runs");
    hyper_e2e::instance::kill(pid, rustix::process::Signal::TERM);
    wait_until("the daemon has ended", || engine.daemon_pid().is_none());
    // The socket is systemd's, and the pods are nobody's to end.
    assert!(socket.exists());
    drop(daemon);
    std::fs::remove_file(&socket).unwrap();
    engine.start_daemon();
    engine.hyper(&["exec", "lives", "echo", "alive"]).run().ok().prints("alive\n");
    assert_eq!(engine.finish(), Vec::<String>::new());
}
