//! Real server programs from Debian's packages.

use std::time::Duration;

use hyper_e2e::command::wait_until;

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Both: nginx_serves, redis_keeps_what_it_is_told, postgres_answers_queries, python_computes]
        .to_vec()
}

/// Pulls an image, which takes a while the first time.
fn pull(s: &Session, image: &str) -> String {
    let full = format!("localhost:5000/{image}");
    s.cmd(&["pull", "-q", &full]).timeout(Duration::from_secs(300)).run().ok();
    full
}

fn nginx_serves(s: &Session) {
    let image = pull(s, "nginx:latest");
    let web = s.background(&[], &image, &[]);
    let url = format!("http://{}/", web.address());
    wait_until("nginx answers", || {
        s.instance.sh(&format!("busybox wget -qO- {url}")).run().out().contains("Welcome to nginx")
    });
    s.run(&["stop", &web.name]).ok();
    assert_eq!(s.inspect(&web.name)["State"]["ExitCode"], 0, "nginx ends by itself on its stop signal");
}

fn redis_keeps_what_it_is_told(s: &Session) {
    let image = pull(s, "redis:latest");
    let redis = s.background(&[], &image, &[]);
    let ask = |words: &[&str]| s.run(&[&["exec", &redis.name, "redis-cli"], words].concat()).out();
    wait_until("redis answers", || ask(&["ping"]) == "PONG\n");
    assert_eq!(ask(&["set", "key", "value"]), "OK\n");
    assert_eq!(ask(&["get", "key"]), "value\n");
    assert_eq!(s.run(&["exec", &redis.name, "id", "-un"]).ok().out(), "redis\n");
}

fn postgres_answers_queries(s: &Session) {
    let image = pull(s, "postgres:15");
    let postgres = s.background(&["-m", "512m"], &image, &[]);
    let ask = |query: &str| s.run(&["exec", &postgres.name, "psql", "-h", "/tmp", "-Atc", query]).out();
    wait_until("postgres answers", || ask("select 6 * 7") == "42\n");
    assert_eq!(
        ask("create table t as select generate_series(1, 1000) as n; select sum(n) from t"),
        "SELECT 1000\n500500\n"
    );
}

fn python_computes(s: &Session) {
    let image = pull(s, "python:3");
    let program = "import sys; print(sum(int(line) for line in sys.stdin))";
    s.cmd(&["run", "-i", "--rm", &image, "python3", "-c", program])
        .stdin("1\n2\n39\n")
        .run()
        .ok()
        .prints("42\n");
}
