//! The network on a real kernel, each test in a network namespace of its own.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hyper_network::{Network, NetworkConfig, NetworkError};
use support::*;

/// How long to look for something that must not arrive.
const SILENCE: Duration = Duration::from_millis(300);

#[test]
fn traffic_of_a_pod_leaves_with_the_hosts_address_and_answers_come_back() {
    isolated("traffic_of_a_pod_leaves_with_the_hosts_address_and_answers_come_back", async || {
        let world = World::new();
        let network = network().await;
        let endpoint = network.attach("web").await.unwrap();
        assert_eq!(endpoint.address.to_string(), "172.30.0.2/16");
        assert_eq!(
            (endpoint.tap.as_str(), endpoint.mac.to_string().as_str()),
            ("hy3fa9c22", "02:42:ac:1e:00:02")
        );

        let server = world.udp(7);
        let guest = Guest::new(&endpoint);
        guest.send_udp((WORLD, 7), b"question");
        let mut buffer = [0; 100];
        let (length, peer) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], peer.ip()), (&b"question"[..], IpAddr::V4(HOST)));
        server.send_to(b"answer", peer).unwrap();
        assert_eq!(guest.receive_udp(b"answer"), WORLD);
    });
}

#[test]
fn pods_reach_each_other_and_the_host() {
    isolated("pods_reach_each_other_and_the_host", async || {
        let network = network().await;
        let first = Guest::new(&network.attach("a").await.unwrap());
        let second = Guest::new(&network.attach("b").await.unwrap());
        let asked = second.endpoint.address.addr();
        std::thread::scope(|scope| {
            let answering = scope.spawn(|| second.receive_udp(b"hello"));
            let mac = first.resolve(asked);
            assert_eq!(mac, second.endpoint.mac.octets());
            let own = (first.endpoint.mac.octets(), first.endpoint.address.addr());
            first.send(&udp_frame(own.0, mac, own.1, (asked, 9), b"hello"));
            assert_eq!(answering.join().unwrap(), own.1);
        });
        let host = udp(network.gateway().addr(), 9);
        first.send_udp((network.gateway().addr(), 9), b"to the host");
        assert_eq!(host.recv_from(&mut [0; 100]).unwrap().1.ip(), IpAddr::V4(first.endpoint.address.addr()));
    });
}

#[test]
fn frames_with_anothers_address_are_dropped() {
    isolated("frames_with_anothers_address_are_dropped", async || {
        let network = network().await;
        let victim = network.attach("victim").await.unwrap();
        let guest = Guest::new(&network.attach("liar").await.unwrap());
        let (gateway, own) = (network.gateway().addr(), guest.endpoint.address.addr());
        let (mac, bridge) = (guest.endpoint.mac.octets(), guest.resolve(gateway));
        let host = udp(gateway, 9);

        guest.send(&udp_frame(mac, bridge, victim.address.addr(), (gateway, 9), b"false address"));
        guest.send(&udp_frame(victim.mac.octets(), bridge, own, (gateway, 9), b"false MAC"));
        guest.send(&udp_frame(mac, bridge, Ipv4Addr::new(8, 8, 8, 8), (gateway, 9), b"foreign address"));
        guest.send(&arp(2, mac, mac, victim.address.addr(), bridge, gateway));
        let mut tagged = udp_frame(mac, bridge, victim.address.addr(), (gateway, 9), b"behind a VLAN tag");
        tagged.splice(12..12, [0x81, 0, 0, 0]);
        guest.send(&tagged);
        guest.send(&udp_frame(mac, bridge, own, (gateway, 9), b"true"));

        let mut buffer = [0; 100];
        let (length, _) = host.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"true");
        let neighbours = run("ip neigh show dev hy3fa9c2");
        assert!(!neighbours.contains(&victim.address.addr().to_string()), "{neighbours}");
    });
}

#[test]
fn nobody_outside_reaches_a_pod_uninvited() {
    isolated("nobody_outside_reaches_a_pod_uninvited", async || {
        let world = World::new();
        let network = network().await;
        let guest = Guest::new(&network.attach("web").await.unwrap());
        let address = guest.endpoint.address.addr();
        world.run(&format!("ip route add {} via {HOST}", network.subnet()));
        world.udp(9).send_to(b"from outside", (address, 80)).unwrap();
        assert_eq!(guest.receive_within(SILENCE, |frame| is_udp(frame, b"from outside")), None);
        udp(HOST, 9).send_to(b"from the host", (address, 80)).unwrap();
        assert_eq!(guest.receive_udp(b"from the host"), HOST);
    });
}

#[test]
fn teardown_leaves_nothing_and_waits_for_the_last_pod() {
    isolated("teardown_leaves_nothing_and_waits_for_the_last_pod", async || {
        let before = (link_names(), run("nft list ruleset"));
        let network = network().await;
        let endpoint = network.attach("web").await.unwrap();
        assert_eq!(link_names(), ["hy3fa9c2", "hy3fa9c22"]);
        assert!(matches!(network.teardown().await, Err(NetworkError::InUse(1))));
        let _held_open = Guest::new(&endpoint);
        network.detach(&endpoint).await.unwrap();
        network.detach(&endpoint).await.unwrap();
        network.teardown().await.unwrap();
        assert_eq!((link_names(), run("nft list ruleset")), before);
        network.teardown().await.unwrap();
        assert_eq!(network.attach("again").await.unwrap().address.to_string(), "172.30.0.3/16");
    });
}

#[test]
fn reconcile_keeps_the_living_and_removes_the_rest() {
    isolated("reconcile_keeps_the_living_and_removes_the_rest", async || {
        let world = World::new();
        let before_crash = network().await;
        let stray = before_crash.attach("dead").await.unwrap();
        let kept = before_crash.attach("alive").await.unwrap();
        let guest = Guest::new(&kept);
        run("ip tuntap add hy3fa9c3f mode tap; ip tuntap add mine0 mode tap");
        drop(before_crash);

        let network = network().await;
        network.reconcile(std::slice::from_ref(&kept)).await.unwrap();
        assert_eq!(link_names(), ["hy3fa9c2", "hy3fa9c23", "hy3fa9c3f", "mine0", "up0"]);
        let senders = run("nft list set bridge hyper-3fa9c2 senders");
        assert!(senders.contains(&kept.tap) && !senders.contains(&stray.mac.to_string()), "{senders}");
        let server = world.udp(7);
        guest.send_udp((WORLD, 7), b"still here");
        assert_eq!(server.recv_from(&mut [0; 100]).unwrap().1.ip(), IpAddr::V4(HOST));

        assert_eq!(network.attach("alive").await.unwrap(), kept);
        assert_eq!(network.attach("new").await.unwrap().address.to_string(), "172.30.0.2/16");
        network.reconcile(&[]).await.unwrap();
        network.teardown().await.unwrap();
        assert_eq!(link_names(), ["hy3fa9c3f", "mine0", "up0"]);
    });
}

#[test]
fn reconcile_of_nothing_on_a_clean_host_changes_nothing() {
    isolated("reconcile_of_nothing_on_a_clean_host_changes_nothing", async || {
        network().await.reconcile(&[]).await.unwrap();
        assert_eq!((link_names(), run("nft list ruleset")), (Vec::new(), String::new()));
    });
}

#[test]
fn reconcile_refuses_endpoints_it_would_not_have_made() {
    isolated("reconcile_refuses_endpoints_it_would_not_have_made", async || {
        let network = network().await;
        let good = network.attach("web").await.unwrap();
        let mut foreign = good.clone();
        foreign.tap = "eth0".into();
        assert!(matches!(network.reconcile(&[foreign]).await, Err(NetworkError::ForeignEndpoint { .. })));
        let mut twin = good.clone();
        twin.pod = "twin".into();
        assert!(matches!(network.reconcile(&[good.clone(), twin]).await, Err(NetworkError::AddressInUse(_))));
        assert_eq!(link_names(), ["hy3fa9c2", "hy3fa9c22"]);
    });
}

#[test]
fn ensure_restores_what_somebody_removed() {
    isolated("ensure_restores_what_somebody_removed", async || {
        let world = World::new();
        let network = network().await;
        let endpoint = network.attach("web").await.unwrap();
        run(
            "nft flush ruleset; ip addr flush dev hy3fa9c2; ip link set hy3fa9c2 down; echo 0 >/proc/sys/net/ipv4/ip_forward",
        );
        network.ensure().await.unwrap();
        network.ensure().await.unwrap();
        let server = world.udp(7);
        let guest = Guest::new(&endpoint);
        guest.send_udp((WORLD, 7), b"back");
        assert_eq!(server.recv_from(&mut [0; 100]).unwrap().1.ip(), IpAddr::V4(HOST));

        drop(guest);
        run("ip link delete hy3fa9c2; ip link delete hy3fa9c22");
        assert_eq!(network.attach("web").await.unwrap(), endpoint);
        Guest::new(&endpoint).send_udp((WORLD, 7), b"again");
        assert_eq!(server.recv_from(&mut [0; 100]).unwrap().1.ip(), IpAddr::V4(HOST));
    });
}

#[test]
fn instances_live_side_by_side() {
    isolated("instances_live_side_by_side", async || {
        let first = network().await;
        let (mut config, _directory) = config("");
        config.subnet = None;
        first.ensure().await.unwrap();
        let second = Network::open("aaaaaa", true, config).await.unwrap();
        assert_eq!(second.subnet().to_string(), "172.29.0.0/16");
        let other = second.attach("db").await.unwrap();
        first.attach("web").await.unwrap();
        assert_eq!(link_names(), ["hy3fa9c2", "hy3fa9c22", "hyaaaaaa2", "hyper0"]);
        second.detach(&other).await.unwrap();
        second.teardown().await.unwrap();
        assert_eq!(link_names(), ["hy3fa9c2", "hy3fa9c22"]);
        assert!(run("nft list tables").contains("hyper-3fa9c2"));
    });
}

#[test]
fn a_subnet_found_once_is_found_again_on_the_bridge() {
    isolated("a_subnet_found_once_is_found_again_on_the_bridge", async || {
        let _world = World::new();
        run("ip addr add 172.30.5.1/24 dev up0");
        let open = async || {
            let (config, directory) = config("");
            Network::open(ID, false, NetworkConfig { subnet: None, ..config })
                .await
                .map(|n| (n, directory))
                .unwrap()
                .0
        };
        let network = open().await;
        assert_eq!(network.subnet().to_string(), "172.29.0.0/16");
        network.ensure().await.unwrap();
        assert_eq!(open().await.subnet(), network.subnet());
    });
}

#[test]
fn a_name_taken_by_another_link_is_refused_with_its_name() {
    isolated("a_name_taken_by_another_link_is_refused_with_its_name", async || {
        run("ip link add hy3fa9c2 type veth peer name other0");
        let error = network().await.attach("web").await.unwrap_err();
        assert_eq!(error.to_string(), "link hy3fa9c2 exists already and is not ours: it is no bridge");
        assert!(error.hint().unwrap().contains("ip link delete hy3fa9c2"));
        assert_eq!(link_names(), ["hy3fa9c2", "other0"]);
    });
}

#[test]
fn a_failed_attach_leaves_nothing_and_its_address_is_free_again() {
    isolated("a_failed_attach_leaves_nothing_and_its_address_is_free_again", async || {
        let network = network().await;
        network.ensure().await.unwrap();
        // A set of another type in our table makes nft refuse the rules.
        run(
            "nft 'delete table bridge hyper-3fa9c2; add table bridge hyper-3fa9c2; add set bridge hyper-3fa9c2 senders { type mark; }'",
        );
        let error = network.attach("web").await.unwrap_err();
        assert!(matches!(error, NetworkError::Nft { .. }), "{error}");
        assert_eq!(link_names(), ["hy3fa9c2"]);
        run("nft delete table bridge hyper-3fa9c2");
        network.attach("web").await.unwrap();
    });
}

#[test]
fn a_reserved_tap_leads_nowhere_until_it_is_attached_and_goes_with_its_address() {
    isolated("a_reserved_tap_leads_nowhere_until_it_is_attached_and_goes_with_its_address", async || {
        let network = network().await;
        let reserved = network.reserve("web", None).await.unwrap();
        assert_eq!(link_names(), [reserved.tap.as_str()]);
        assert_eq!(network.reserve("web", None).await.unwrap(), reserved);
        let bridged = || run(&format!("ip -o link show {}", reserved.tap)).contains("master hy3fa9c2");
        assert_eq!(network.attach("web").await.unwrap(), reserved);
        assert!(bridged());
        network.detach(&reserved).await.unwrap();
        // One that was never attached goes just so.
        let other = network.reserve("db", None).await.unwrap();
        network.detach(&other).await.unwrap();
        assert_eq!(link_names(), ["hy3fa9c2"]);
    });
}

#[test]
fn another_firewall_that_drops_is_reported_with_the_remedy() {
    isolated("another_firewall_that_drops_is_reported_with_the_remedy", async || {
        let network = network().await;
        network.ensure().await.unwrap();
        let firewall = |warnings: Vec<String>| {
            warnings.into_iter().filter(|w| w.contains("FORWARD")).collect::<Vec<_>>()
        };
        assert_eq!(firewall(network.warnings().await), Vec::<String>::new());
        run(
            "nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'",
        );
        let warnings = firewall(network.warnings().await);
        assert!(
            warnings.len() == 1 && warnings[0].contains("iptables -I FORWARD -i hy3fa9c2"),
            "{warnings:?}"
        );
        run("nft 'add rule ip filter FORWARD iifname \"hy3fa9c2\" accept'");
        assert_eq!(firewall(network.warnings().await), Vec::<String>::new());
    });
}

#[test]
fn a_loopback_name_server_is_asked_by_a_forwarder_on_the_gateway() {
    isolated("a_loopback_name_server_is_asked_by_a_forwarder_on_the_gateway", async || {
        run("ip link set lo up");
        let server = udp(Ipv4Addr::new(127, 0, 0, 1), 53);
        let (config, _directory) = config("nameserver 127.0.0.1\nsearch lan\n");
        let network = Network::open(ID, false, config).await.unwrap();
        let guest = Guest::new(&network.attach("web").await.unwrap());
        let conf = network.resolvers().await.unwrap();
        assert_eq!(conf.to_string(), "nameserver 172.30.0.1\nsearch lan\n");

        let question = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x07example\0\0\x01\0\x01";
        let work = tokio::task::spawn_blocking(move || {
            guest.send_udp((Ipv4Addr::new(172, 30, 0, 1), 53), question);
            let mut buffer = [0; 512];
            let (length, peer) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], question);
            server.send_to(b"\x12\x34the answer", peer).unwrap();
            assert_eq!(guest.receive_udp(b"\x12\x34the answer"), Ipv4Addr::new(172, 30, 0, 1));
        });
        work.await.unwrap();
    });
}

#[test]
fn without_privilege_the_error_says_which_one_is_missing() {
    let drop = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--"];
    isolated_with("without_privilege_the_error_says_which_one_is_missing", &drop, async || {
        let network = network().await;
        network.reconcile(&[]).await.unwrap();
        let error = network.attach("web").await.unwrap_err();
        assert_eq!(error.to_string(), "cannot add bridge hy3fa9c2");
        assert!(error.hint().unwrap().contains("CAP_NET_ADMIN"), "{error:?}");
    });
}
