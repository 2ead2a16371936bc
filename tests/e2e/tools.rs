//! Other people's tools on our API: docker compose and testcontainers.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use hyper_e2e::command::{Cmd, wait_until_within};
use hyper_e2e::{Instance, Options, Output, images, oracle};
use rustix::fs::{FlockOperation, flock};

use crate::case_list;
use crate::session::Case;

/// How long a tool may take for one thing: several VMs start in it.
const PATIENCE: Duration = Duration::from_secs(300);

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Own:
        a_compose_project_goes_up_serves_scales_and_goes_down,
        a_compose_project_goes_up_and_down_by_version_1,
        testcontainers_start_use_and_remove_redis_and_postgres,
    ]
    .to_vec()
}

/// A web server in front of an application, which counts in a database.
const PROJECT: &str = r#"
name: shop
services:
  web:
    image: nginx:latest
    command:
      - sh
      - -c
      - |
        printf 'events {} http { server { listen 80; location / { proxy_pass http://app:8080/cgi-bin/hits; } } }' > /tmp/conf
        exec nginx -c /tmp/conf -g 'daemon off;'
    ports: ["127.0.0.1:18090:80"]
    depends_on: [app]
  app:
    image: busybox:latest
    command:
      - sh
      - -c
      - |
        mkdir -p /www/cgi-bin
        printf '#!/bin/sh\necho Content-Type: text/plain\necho\nprintf "INCR hits\\r\\nQUIT\\r\\n" | nc db 6379 | head -1\n' > /www/cgi-bin/hits
        chmod +x /www/cgi-bin/hits
        exec httpd -f -p 8080 -h /www
    depends_on:
      db: {condition: service_healthy}
  db:
    image: redis:latest
    command: ["--protected-mode", "no", "--appendonly", "yes", "--appendfsync", "always"]
    volumes: ["data:/var/lib/redis"]
    healthcheck: {test: ["CMD", "redis-cli", "ping"], interval: 1s, timeout: 10s, retries: 60}
volumes:
  data:
"#;

fn a_compose_project_goes_up_serves_scales_and_goes_down() {
    let compose = oracle::compose();
    let engine = Instance::start(Options {
        images: vec!["busybox:latest", "nginx:latest", "redis:latest"],
        ..Options::default()
    });
    let file = engine.directory().join("compose.yaml");
    fs::write(&file, PROJECT).unwrap();
    engine.start_daemon();
    let run = |arguments: &[&str]| -> Output {
        let mut command = engine.lab.engine.command();
        command.args(["env", &format!("DOCKER_HOST={}", engine.host())]);
        command.arg(format!("HOME={}", engine.directory().display()));
        command.arg(&compose).arg("-f").arg(&file).arg("--ansi=never");
        Cmd::new(command, arguments).timeout(PATIENCE).run()
    };
    let hits = || engine.sh("timeout 20 busybox wget -qO- http://127.0.0.1:18090/").run();
    let count = || hits().out().trim().trim_start_matches(':').parse::<u32>().ok();
    run(&["up", "-d"]).ok();
    wait_until_within("the project serves", PATIENCE, || count().is_some());
    let first = count().expect("it has served before");
    assert_eq!(count(), Some(first + 1), "the database counts");

    // One more of the application, under the same name.
    run(&["up", "-d", "--scale", "app=2", "--no-recreate"]).ok();
    let listed = run(&["ps", "--format", "{{.Service}} {{.State}}"]).ok().out();
    assert_eq!(listed.lines().filter(|line| *line == "app running").count(), 2, "{listed}");
    wait_until_within("both have the name", PATIENCE, || {
        run(&["exec", "-T", "web", "getent", "ahostsv4", "app"]).out().matches("STREAM").count() == 2
    });

    // What it has goes on without the daemon, names are known again with the next one, and that knows the project.
    let before = count().expect("it serves");
    engine.kill_daemon();
    let front = engine.sh("timeout 20 busybox wget -S -qO- http://127.0.0.1:18090/ 2>&1").run();
    assert!(
        front.out().contains("HTTP/1.1 "),
        "the published port answers while no daemon is there: {front}"
    );
    engine.start_daemon();
    wait_until_within("it serves", PATIENCE, || count().is_some_and(|now| now > before));
    assert!(run(&["ps", "-q"]).ok().out().lines().count() == 4);
    assert!(run(&["logs", "--no-color", "db"]).ok().out().contains("Ready to accept connections"));

    // Down and up again: the volume stays.
    run(&["down", "-t", "2"]).ok();
    assert_eq!(engine.hyper(&["ps", "-aq"]).run().ok().out(), "");
    let before = before + 1;
    run(&["up", "-d"]).ok();
    wait_until_within("the project serves again", PATIENCE, || count().is_some_and(|now| now > before));
    run(&["down", "-t", "2", "--volumes"]).ok();
    assert_eq!(engine.hyper(&["volume", "ls", "-q"]).run().ok().out(), "");
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn a_compose_project_goes_up_and_down_by_version_1() {
    let root = oracle::compose_1();
    let engine = Instance::start(Options {
        images: vec!["busybox:latest", "nginx:latest", "redis:latest"],
        ..Options::default()
    });
    // That version knows no names in the file.
    let project = PROJECT.replace("name: shop\n", "").replace("18090", "18091");
    fs::write(engine.directory().join("compose.yaml"), project).unwrap();
    engine.start_daemon();
    let run = |arguments: &[&str]| -> Output {
        let mut command = engine.lab.engine.command();
        command.args(["unshare", "--mount", "sh", "-c"]);
        command
            .arg(r#"root=$1 dir=$2; shift 2; mount --rbind "$dir" "$root/mnt" && exec chroot "$root" "$@""#);
        command.arg("sh").arg(&root).arg(engine.directory());
        command.args(["env", "DOCKER_HOST=unix:///mnt/run/hyper.sock", "COMPOSE_HTTP_TIMEOUT=300"]);
        // There is no docker CLI in that root that it could call.
        command.arg("COMPOSE_INTERACTIVE_NO_CLI=1");
        command.args(["docker-compose", "-p", "shop", "-f", "/mnt/compose.yaml", "--ansi=never"]);
        Cmd::new(command, arguments).timeout(PATIENCE).run()
    };
    let count = || {
        let page = engine.sh("timeout 20 busybox wget -qO- http://127.0.0.1:18091/").run();
        page.out().trim().trim_start_matches(':').parse::<u32>().ok()
    };
    run(&["up", "-d"]).ok();
    wait_until_within("the project serves", PATIENCE, || count().is_some());
    run(&["up", "-d", "--scale", "app=2", "--no-recreate"]).ok();
    assert_eq!(run(&["ps", "-q", "app"]).ok().out().lines().count(), 2);
    assert!(run(&["exec", "-T", "db", "redis-cli", "get", "hits"]).ok().out().trim().parse::<u32>().is_ok());
    run(&["stop", "-t", "2"]).ok();
    run(&["start"]).ok();
    wait_until_within("the project serves again", PATIENCE, || count().is_some());
    run(&["down", "-t", "2", "--volumes"]).ok();
    for left in [&["ps", "-aq"][..], &["volume", "ls", "-q"]] {
        assert_eq!(engine.hyper(left).run().ok().out(), "");
    }
    let networks = engine.hyper(&["network", "ls", "--format", "{{.Name}}"]).run().ok().out();
    assert_eq!(networks, "bridge\nnone\n");
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

/// Starts a server in a container, speaks to it through its published port, and has it removed.
const SERVERS: &str = r#"
import socket, time
from testcontainers.core.container import DockerContainer
from testcontainers.core.waiting_utils import wait_for_logs

with DockerContainer("redis:latest").with_exposed_ports(6379) as redis:
    wait_for_logs(redis, "Ready to accept connections", timeout=120)
    address = (redis.get_container_host_ip(), int(redis.get_exposed_port(6379)))
    with socket.create_connection(address, timeout=60) as stream:
        stream.sendall(b"SET key value\r\nGET key\r\nQUIT\r\n")
        answer = b""
        while chunk := stream.recv(4096):
            answer += chunk
    assert answer == b"+OK\r\n$5\r\nvalue\r\n+OK\r\n", answer
    code, output = redis.exec(["redis-cli", "get", "key"])
    assert (code, output) == (0, b"value\n"), (code, output)
print("redis: used")

command = ("/usr/lib/postgresql/15/bin/postgres -D /var/lib/postgresql/15/main -h 0.0.0.0 "
           "-c config_file=/etc/postgresql/15/main/postgresql.conf -c unix_socket_directories=/tmp")
with DockerContainer("postgres:15").with_command(command).with_exposed_ports(5432) as postgres:
    wait_for_logs(postgres, "ready to accept connections", timeout=180)
    code, output = postgres.exec(["psql", "-h", "/tmp", "-Atc", "select 6 * 7"])
    assert (code, output) == (0, b"42\n"), (code, output)
    address = (postgres.get_container_host_ip(), int(postgres.get_exposed_port(5432)))
    with socket.create_connection(address, timeout=60) as stream:
        # A request for TLS, which a server of PostgreSQL answers with one letter.
        stream.sendall(bytes([0, 0, 0, 8, 4, 210, 22, 47]))
        assert stream.recv(1) in (b"S", b"N")
print("postgres: used")
"#;

fn testcontainers_start_use_and_remove_redis_and_postgres() {
    let python = testcontainers();
    let engine =
        Instance::start(Options { images: vec!["redis:latest", "postgres:15"], ..Options::default() });
    engine.start_daemon();
    let mut command = engine.lab.engine.command();
    command.args(["env", &format!("DOCKER_HOST={}", engine.host()), "TESTCONTAINERS_RYUK_DISABLED=true"]);
    command.arg(format!("HOME={}", engine.directory().display()));
    command.arg(&python);
    let output = Cmd::new(command, &["-c", SERVERS]).timeout(PATIENCE).run().ok();
    assert!(output.out().contains("redis: used\n") && output.out().contains("postgres: used\n"), "{output}");
    assert_eq!(engine.hyper(&["ps", "-aq"]).run().ok().out(), "");
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

/// A Python that has testcontainers, from PyPI; fetched once.
fn testcontainers() -> PathBuf {
    /// What is installed.
    const REQUIREMENT: &str = "testcontainers==4.15.0";
    let cache = images::cache();
    fs::create_dir_all(&cache).unwrap();
    let lock = File::create(cache.join("lock-testcontainers")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let done = cache.join("testcontainers-4.15.0");
    let must = |command: &mut Command| {
        let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(status.success(), "{command:?}: {status}");
    };
    if !done.join("complete").exists() {
        eprintln!("fetching {REQUIREMENT}");
        let _ = fs::remove_dir_all(&done);
        must(Command::new("python3").args(["-m", "venv"]).arg(&done));
        must(Command::new(done.join("bin/pip")).args(["install", "--quiet", REQUIREMENT]));
        fs::write(done.join("complete"), "").unwrap();
    }
    done.join("bin/python")
}
