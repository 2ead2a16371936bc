//! User-defined networks: their containers, their names, and what is kept apart.

use hyper_e2e::command::wait_until;
use hyper_e2e::{Instance, Options};

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both:
        containers_of_a_network_find_each_other_by_name_and_others_do_not,
        an_internal_network_has_no_way_out,
        networks_are_listed_inspected_and_removed,
        an_address_of_ones_own_and_ipv6,
        an_ethernet_address_of_ones_own,
        a_running_container_comes_onto_a_network_and_leaves_it,
        what_cannot_be_connected_is_refused,
    ]
    .to_vec();
    cases.extend(case_list![Own:
        a_network_outlives_the_daemon,
        ports_and_names_follow_a_container_from_network_to_network,
    ]);
    cases
}

const PAGE: &str = "served by busybox\n";
const SERVE: [&str; 6] = ["httpd", "-f", "-p", "80", "-h", "/www"];

/// A network that is removed when this is dropped.
struct Network<'a> {
    session: &'a Session,
    name: String,
}

fn network<'a>(session: &'a Session, flags: &[&str]) -> Network<'a> {
    let name = session.name("net");
    let id = session.run(&[&["network", "create"], flags, &[&name]].concat()).ok().out();
    assert_eq!(id.trim().len(), 64, "{id}");
    Network { session, name }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        let _ = self.session.run(&["network", "rm", &self.name]);
    }
}

fn containers_of_a_network_find_each_other_by_name_and_others_do_not(s: &Session) {
    let (one, two) = (network(s, &[]), network(s, &[]));
    let flags = ["--network", &one.name, "--network-alias", "shop"];
    let web = s.background(&flags, "busybox:latest", &SERVE);
    let id: String = s.inspect(&web.name)["Id"].as_str().unwrap().chars().take(12).collect();
    let script = format!(
        "for name in {} shop {id} {}.{}; do wget -qO- http://$name/ || exit 1; done",
        web.name, web.name, one.name
    );
    let among = ["run", "--rm", "--network", &one.name, "busybox:latest", "sh", "-c", &script];
    s.run(&among).ok().prints(&PAGE.repeat(4));
    // The world is reached, and its names are known.
    let world =
        ["run", "--rm", "--network", &one.name, "busybox:latest", "wget", "-qO-", "http://web.world.test/"];
    s.run(&world).ok().prints("you are 203.0.113.2\n");
    let settings = s.inspect(&web.name)["NetworkSettings"]["Networks"][&one.name].clone();
    let address = settings["IPAddress"].as_str().unwrap().to_owned();
    let script =
        format!("timeout 3 wget -qO- http://{address}/ || echo unreachable; nslookup shop || echo unknown");
    for flags in [vec!["--network", &two.name], vec![]] {
        let line = [&["run", "--rm"], &flags[..], &["busybox:latest", "sh", "-c", &script]].concat();
        let output = s.run(&line).ok().out();
        assert!(output.contains("unreachable\n") && output.ends_with("unknown\n"), "{output}");
    }
    let busy = s.run(&["network", "rm", &one.name]);
    assert_eq!(busy.code, 1, "{busy}");
    assert!(busy.err().contains("has active endpoints"), "{busy}");
}

fn an_internal_network_has_no_way_out(s: &Session) {
    let inside = network(s, &["--internal"]);
    let web = s.background(&["--network", &inside.name], "busybox:latest", &SERVE);
    let script = format!(
        "wget -qO- http://{}/; timeout 3 wget -qO- http://203.0.113.1/ || echo unreachable; nslookup web.world.test || \
         echo unknown",
        web.name
    );
    let line = ["run", "--rm", "--network", &inside.name, "busybox:latest", "sh", "-c", &script];
    let output = s.run(&line).ok().out();
    assert!(output.starts_with(PAGE) && output.contains("unreachable\n"), "{output}");
    assert!(output.ends_with("unknown\n"), "{output}");
}

fn networks_are_listed_inspected_and_removed(s: &Session) {
    let flags = ["--subnet", "10.91.0.0/24", "--gateway", "10.91.0.254", "--label", "a=b"];
    let subnet = match s.cli.name() {
        "hyper" => flags.to_vec(),
        _ => ["--subnet", "10.92.0.0/24", "--gateway", "10.92.0.254", "--label", "a=b"].to_vec(),
    };
    let mine = network(s, &subnet);
    let filter = format!("name={}", mine.name);
    let format = "{{.Name}} {{.Driver}} {{.Scope}}";
    let listed = s.run(&["network", "ls", "--filter", &filter, "--format", format]).ok();
    listed.prints(&format!("{} bridge local\n", mine.name));
    let shown =
        s.run(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}} {{.Labels.a}}", &mine.name]);
    shown.ok().prints(&format!("{} b\n", subnet[3]));
    let again = s.run(&["network", "create", &mine.name]);
    assert!(again.code == 1 && again.err().contains("already exists"), "{again}");
    let overlapping = s.run(&["network", "create", "--subnet", subnet[1], &s.name("overlap")]);
    assert!(overlapping.code == 1 && overlapping.err().contains("Pool overlaps"), "{overlapping}");
    let driver = s.run(&["network", "create", "-d", "overlay", &s.name("overlay")]);
    assert!(driver.code != 0 && driver.err().contains("not a swarm manager"), "{driver}");
    let builtin = s.run(&["network", "rm", "bridge"]);
    assert!(builtin.code == 1 && builtin.err().contains("pre-defined"), "{builtin}");
    s.run(&["network", "rm", &mine.name]).ok().prints(&format!("{}\n", mine.name));
    let missing = s.run(&["network", "inspect", &mine.name]);
    assert!(missing.code == 1 && missing.err().contains("not found"), "{missing}");
}

fn an_address_of_ones_own_and_ipv6(s: &Session) {
    let (subnet, address) = match s.cli.name() {
        "hyper" => ("10.93.0.0/24", "10.93.0.77"),
        _ => ("10.94.0.0/24", "10.94.0.77"),
    };
    let mine = network(s, &["--ipv6", "--subnet", subnet]);
    let web = s.background(&["--network", &mine.name, "--ip", address], "busybox:latest", &SERVE);
    let settings = s.inspect(&web.name)["NetworkSettings"]["Networks"][&mine.name].clone();
    assert_eq!(settings["IPAddress"], address, "{settings}");
    let six = settings["GlobalIPv6Address"].as_str().unwrap().to_owned();
    assert!(six.starts_with("fd"), "{settings}");
    let script = format!("wget -qO- http://{address}/ && wget -qO- http://[{six}]/");
    let line = ["run", "--rm", "--network", &mine.name, "busybox:latest", "sh", "-c", &script];
    s.run(&line).ok().prints(&PAGE.repeat(2));
}

fn an_ethernet_address_of_ones_own(s: &Session) {
    let mac = "02:42:00:aa:bb:01";
    let mine = network(s, &[]);
    let long = format!("name={},mac-address={mac},alias=other", mine.name);
    let script =
        "cat /sys/class/net/eth0/address && wget -qO- http://203.0.113.1/ >/dev/null && echo reached";
    for flags in [&["--mac-address", mac][..], &["--network", &long]] {
        let line = [&["run", "--rm"], flags, &["busybox:latest", "sh", "-c", script]].concat();
        s.run(&line).ok().prints(&format!("{mac}\nreached\n"));
    }
}

fn a_network_outlives_the_daemon() {
    let engine = Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() });
    engine.hyper(&["network", "create", "mine"]).run().ok();
    let run = ["run", "-d", "--name", "web", "--network", "mine", "-p", "8080:80", "busybox:latest"];
    engine.hyper(&[&run[..], &SERVE].concat()).run().ok();
    engine.kill_daemon();
    engine.start_daemon();
    let line = ["run", "--rm", "--network", "mine", "busybox:latest", "wget", "-qO-", "http://web/"];
    engine.hyper(&line).run().ok().prints(PAGE);
    let page =
        || engine.lab.world.sh("timeout 5 busybox wget -qO- http://203.0.113.2:8080/ 2>/dev/null || true");
    wait_until("the published port answers", || page() == PAGE);
    engine.hyper(&["rm", "-f", "web"]).run().ok();
    engine.settles();
    engine.hyper(&["network", "rm", "mine"]).run().ok();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn a_running_container_comes_onto_a_network_and_leaves_it(s: &Session) {
    let (one, two) = (network(s, &[]), network(s, &["--ipv6"]));
    let web = s.background(&["--network", &one.name], "busybox:latest", &SERVE);
    let client = s.background(&["--network", &two.name], "busybox:latest", &["sleep", "1000"]);
    let fetch = |name: &str| {
        s.run(&["exec", &client.name, "timeout", "5", "wget", "-qO-", &format!("http://{name}/")])
    };
    assert_ne!(fetch(&web.name).code, 0);
    s.run(&["network", "connect", "--alias", "late", &two.name, &web.name]).ok();
    fetch("late").ok().prints(PAGE);
    fetch(&web.name).ok().prints(PAGE);
    let networks = s.inspect(&web.name)["NetworkSettings"]["Networks"].clone();
    let six = networks[&two.name]["GlobalIPv6Address"].as_str().unwrap().to_owned();
    fetch(&format!("[{six}]")).ok().prints(PAGE);
    let shown =
        s.run(&["exec", &web.name, "sh", "-c", "ip -o addr show dev eth1; ls /sys/class/net"]).ok().out();
    assert!(shown.contains(networks[&two.name]["IPAddress"].as_str().unwrap()), "{shown}");
    assert!(shown.ends_with("eth0\neth1\nlo\n"), "no other NIC is seen: {shown}");
    let again = s.run(&["network", "connect", &two.name, &web.name]);
    assert!(again.code == 1 && again.err().contains("already exists in network"), "{again}");

    s.run(&["network", "disconnect", &two.name, &web.name]).ok();
    assert_ne!(fetch("late").code, 0);
    assert!(s.inspect(&web.name)["NetworkSettings"]["Networks"].get(&two.name).is_none());
    let shown = s.run(&["exec", &web.name, "ls", "/sys/class/net"]).ok().out();
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), ["eth0", "lo"]);
    let again = s.run(&["network", "disconnect", &two.name, &web.name]);
    assert!(again.code == 1 && again.err().contains("is not connected to"), "{again}");

    // What was connected while it ran, it is connected to when it starts again.
    s.run(&["network", "connect", &two.name, &web.name]).ok();
    s.run(&["network", "disconnect", &one.name, &web.name]).ok();
    fetch(&web.name).ok().prints(PAGE);
    s.run(&["restart", "-t", "0", &web.name]).ok();
    wait_until("it serves again", || fetch(&web.name).out() == PAGE);
    let networks = s.inspect(&web.name)["NetworkSettings"]["Networks"].clone();
    assert_eq!(networks.as_object().unwrap().keys().collect::<Vec<_>>(), [&two.name]);
}

fn what_cannot_be_connected_is_refused(s: &Session) {
    let mine = network(s, &[]);
    let refused = |words: &[&str], text: &str| {
        let output = s.run(&[&["network"], words].concat());
        assert!(output.code == 1 && output.err().contains(text), "{words:?}: {output}");
    };
    let alone = s.background(&["--network", "none"], "busybox:latest", &["sleep", "1000"]);
    refused(&["connect", &mine.name, &alone.name], "private (none) mode");
    let web = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    let joined = format!("container:{}", web.name);
    let joined = s.background(&["--network", &joined], "busybox:latest", &["sleep", "1000"]);
    refused(&["connect", &mine.name, &joined.name], "sharing network namespace");
    refused(&["connect", "nosuch", &web.name], "network nosuch not found");
    refused(&["connect", &mine.name, "nosuch"], "No such container");
    refused(&["connect", "host", &web.name], "host network");
    refused(&["connect", "--ip", "192.0.2.1", &mine.name, &web.name], "no configured subnet");
    refused(&["disconnect", &mine.name, &web.name], "is not connected to");
}

fn ports_and_names_follow_a_container_from_network_to_network() {
    let engine = Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() });
    let hyper = |words: &[&str]| engine.hyper(words).run();
    hyper(&["network", "create", "mine"]).ok();
    hyper(&[&["run", "-d", "--name", "db", "--network", "mine", "busybox:latest"][..], &SERVE].concat()).ok();
    // On the default network names are not known; then it comes onto the other, and they are.
    hyper(&[&["run", "-d", "--name", "web", "-p", "8080:80", "busybox:latest"][..], &SERVE].concat()).ok();
    let page =
        || engine.lab.world.sh("timeout 5 busybox wget -qO- http://203.0.113.2:8080/ 2>/dev/null || true");
    wait_until("the published port answers", || page() == PAGE);
    let of_db = || hyper(&["exec", "web", "timeout", "5", "wget", "-qO-", "http://db/"]);
    assert_ne!(of_db().code, 0);
    hyper(&["network", "connect", "mine", "web"]).ok();
    of_db().ok().prints(PAGE);
    hyper(&["network", "disconnect", "bridge", "web"]).ok();
    of_db().ok().prints(PAGE);
    wait_until("the published port leads to the other network", || page() == PAGE);
    let local = || engine.sh("timeout 5 busybox wget -qO- http://127.0.0.1:8080/").run().out();
    assert_eq!(local(), PAGE);
    // The next daemon finds all of it.
    engine.kill_daemon();
    engine.start_daemon();
    of_db().ok().prints(PAGE);
    wait_until("the published port answers", || page() == PAGE);
    hyper(&["network", "connect", "bridge", "web"]).ok();
    hyper(&["network", "disconnect", "mine", "web"]).ok();
    wait_until("the published port leads back", || page() == PAGE && local() == PAGE);
    hyper(&["rm", "-f", "web", "db"]).ok();
    engine.settles();
    hyper(&["network", "rm", "mine"]).ok();
    assert_eq!(engine.finish(), Vec::<String>::new());
}
