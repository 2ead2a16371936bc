//! The network as a container sees it, and as the world sees a container.

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Both:
        the_world_is_reached_with_the_engines_address,
        names_are_resolved_as_the_host_resolves_them,
        a_container_has_the_address_that_inspect_shows_and_a_default_route,
        containers_and_host_reach_a_container,
        without_a_network_there_is_the_loopback_alone,
        what_comes_later_is_refused_clearly,
    ]
    .to_vec()
}

fn the_world_is_reached_with_the_engines_address(s: &Session) {
    s.shell("wget -qO- http://203.0.113.1/").ok().prints("you are 203.0.113.2\n");
}

fn names_are_resolved_as_the_host_resolves_them(s: &Session) {
    s.shell("wget -qO- http://web.world.test/").ok().prints("you are 203.0.113.2\n");
    s.run(&["run", "--rm", "debian:12", "getent", "hosts", "web.world.test"])
        .ok()
        .prints("203.0.113.1     web.world.test\n");
    let unknown = s.shell("wget -qO- http://nobody.world.test/");
    assert_ne!(unknown.code, 0, "{unknown}");
    let other = s.run(&[
        "run",
        "--rm",
        "--dns",
        "203.0.113.99",
        "--dns-search",
        "lan",
        "busybox:latest",
        "cat",
        "/etc/resolv.conf",
    ]);
    let other = other.ok().out();
    assert!(other.contains("nameserver 203.0.113.99") && other.contains("search lan"), "{other}");
}

fn a_container_has_the_address_that_inspect_shows_and_a_default_route(s: &Session) {
    let container = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    let inspected = s.inspect(&container.name);
    let (address, gateway) =
        (container.address(), inspected["NetworkSettings"]["Gateway"].as_str().unwrap().to_owned());
    let exec = |command: &[&str]| s.run(&[&["exec", &container.name], command].concat()).ok().out();
    let shown = exec(&["ip", "addr", "show", "dev", "eth0"]);
    assert!(shown.contains(&format!("inet {address}/")), "{shown}");
    let mac = inspected["NetworkSettings"]["MacAddress"].as_str().unwrap().to_owned();
    assert!(shown.contains(&mac) && mac.starts_with("02:42:"), "{shown} {mac}");
    let route = exec(&["ip", "route"]);
    assert!(route.contains(&format!("default via {gateway}")), "{route}");
    let hosts = exec(&["cat", "/etc/hosts"]);
    assert!(hosts.contains(&address), "{hosts}");
}

fn containers_and_host_reach_a_container(s: &Session) {
    let web = s.background(&[], "busybox:latest", &["httpd", "-f", "-p", "80", "-h", "/www"]);
    let url = format!("http://{}/", web.address());
    let script = format!("until wget -qO- {url}; do sleep 0.1; done");
    s.shell(&script).ok().prints("served by busybox\n");
    s.instance.sh(&format!("busybox wget -qO- {url}")).run().ok().prints("served by busybox\n");
}

fn without_a_network_there_is_the_loopback_alone(s: &Session) {
    let script =
        "ip -o link | wc -l; ip route | wc -l; wget -T 2 -qO- http://203.0.113.1/ || echo unreachable";
    let output = s.run(&["run", "--rm", "--network", "none", "busybox:latest", "sh", "-c", script]).ok();
    assert!(output.out().ends_with("unreachable\n"), "{output}");
    let loopback =
        s.run(&["run", "--rm", "--network", "none", "busybox:latest", "ip", "-o", "link", "show", "up"]).ok();
    assert_eq!(loopback.out().lines().count(), 1, "{loopback}");
}

fn what_comes_later_is_refused_clearly(s: &Session) {
    let refused = |flags: &[&str]| {
        let name = s.name("refused");
        let output = s.run(&[&["run", "--rm", "--name", &name], flags, &["busybox:latest", "true"]].concat());
        assert_eq!(output.code, 125, "{output}");
        assert!(!output.err().trim().is_empty(), "{output}");
        let listed = s.run(&["ps", "-aq", "--filter", &format!("name={name}")]).ok();
        assert_eq!(listed.out(), "", "nothing stays of a refused container");
        output
    };
    refused(&["--network", "host"]).complains(&["network"]);
    refused(&["--link", "other"]).complains(&["link"]);
}
