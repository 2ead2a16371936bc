//! Our nftables rules: one table of family `ip`, one of family `bridge`.
//!
//! Scripts go to `nft -f -`, which applies each as one transaction: either
//! all of it or nothing. Applying the rules again empties and refills the
//! chains in the same transaction and leaves the set of allowed senders alone,
//! so live pods lose no packet.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::endpoint::Endpoint;
use crate::error::NetworkError;
use crate::instance::Instance;

/// How long one run of `nft` may take; it takes about 5 ms.
const NFT_TIMEOUT: Duration = Duration::from_secs(20);
/// How much of what `nft` printed goes into an error, bytes.
const STDERR_MAX: usize = 600;
/// Where `nft` lives when `PATH` lacks the administration directories.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// What happens to the set of allowed senders when rules are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Senders {
    /// The given endpoints are added.
    Add,
    /// The given endpoints replace all others.
    Replace,
}

/// The script that makes both tables complete, whatever was there before.
pub(crate) fn script(
    instance: &Instance,
    subnet: Ipv4Net,
    endpoints: &[Endpoint],
    senders: Senders,
) -> String {
    let (table, bridge, taps) = (instance.table(), instance.bridge(), instance.tap_prefix());
    let others = instance.user_tap_prefix();
    let mut script = format!(
        r#"add table ip {table}
add chain ip {table} forward {{ type filter hook forward priority filter; policy accept; }}
flush chain ip {table} forward
add rule ip {table} forward iifname "{bridge}" ip saddr != {subnet} drop
add rule ip {table} forward iifname "{bridge}" accept
add rule ip {table} forward oifname "{bridge}" ct state established,related accept
add rule ip {table} forward oifname "{bridge}" ct status dnat accept
add rule ip {table} forward oifname "{bridge}" drop
add chain ip {table} postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}
flush chain ip {table} postrouting
add rule ip {table} postrouting ip saddr {subnet} oifname != "{bridge}" masquerade
add rule ip {table} postrouting ip saddr {subnet} oifname "{bridge}" ct status dnat masquerade
add table bridge {table}
add set bridge {table} senders {{ type ifname . ether_addr . ipv4_addr; }}
add chain bridge {table} from_tap
add chain bridge {table} prerouting {{ type filter hook prerouting priority -300; policy accept; }}
flush chain bridge {table} prerouting
flush chain bridge {table} from_tap
add rule bridge {table} from_tap ether type ip iifname . ether saddr . ip saddr @senders accept
add rule bridge {table} from_tap ether type arp iifname . ether saddr . arp saddr ip @senders accept
add rule bridge {table} from_tap drop
add rule bridge {table} prerouting iifname "{others}*" return
add rule bridge {table} prerouting iifname "{taps}*" jump from_tap
"#
    );
    if senders == Senders::Replace {
        let _ = writeln!(script, "flush set bridge {table} senders");
    }
    for endpoint in endpoints {
        let _ = writeln!(script, "add element bridge {table} senders {{ {} }}", element(endpoint));
    }
    script
}

/// The script that removes both tables, which need not exist.
pub(crate) fn removal(instance: &Instance) -> String {
    let table = instance.table();
    format!(
        "add table ip {table}\ndelete table ip {table}\nadd table bridge {table}\ndelete table bridge {table}\n"
    )
}

fn element(endpoint: &Endpoint) -> String {
    format!("\"{}\" . {} . {}", endpoint.tap, endpoint.mac, endpoint.address.addr())
}

/// Applies `script` as one transaction.
pub(crate) async fn apply(attempt: &str, script: &str) -> Result<(), NetworkError> {
    nft(attempt, &["-f", "-"], script).await.map(drop)
}

/// Takes `endpoint` out of the set of allowed senders; when it or the table
/// is not there, that is no error.
pub(crate) async fn forget(instance: &Instance, endpoint: &Endpoint) -> Result<(), NetworkError> {
    let script = format!("delete element bridge {} senders {{ {} }}\n", instance.table(), element(endpoint));
    match apply("remove a tap from the rules", &script).await {
        Err(NetworkError::Nft { stderr, .. }) if stderr.contains("No such file or directory") => Ok(()),
        other => other,
    }
}

/// Runs `nft` with `arguments` and `input`, and returns what it printed.
pub(crate) async fn nft(attempt: &str, arguments: &[&str], input: &str) -> Result<Vec<u8>, NetworkError> {
    let mut child = Command::new(program())
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => NetworkError::NftMissing(error),
            _ => NetworkError::NftRun(error),
        })?;
    let mut stdin = child.stdin.take().expect("stdin was asked for as a pipe");
    let feed = async {
        // An nft that gives up early closes its stdin; its own words and exit
        // status then say why.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let run = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(NFT_TIMEOUT, run)
        .await
        .map_err(|_| NetworkError::NftTimeout(NFT_TIMEOUT.as_secs()))?
        .map_err(NetworkError::NftRun)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let shown = &output.stderr[..output.stderr.len().min(STDERR_MAX)];
    Err(NetworkError::Nft {
        attempt: attempt.to_owned(),
        stderr: String::from_utf8_lossy(shown).trim().to_owned(),
    })
}

/// Full path of `nft`, or its bare name when it is nowhere.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SBIN.iter().map(PathBuf::from))
        .map(|directory| directory.join("nft"))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| PathBuf::from("nft"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac::MacAddr;

    fn endpoint() -> Endpoint {
        let address: Ipv4Net = "172.30.0.2/16".parse().unwrap();
        Endpoint {
            pod: "p".into(),
            tap: "hy3fa9c22".into(),
            mac: MacAddr::for_address(address.addr()),
            address,
            gateway: "172.30.0.1".parse().unwrap(),
            mtu: 1500,
            address6: None,
            gateway6: None,
        }
    }

    #[test]
    fn the_rules_of_the_default_instance_are_these() {
        let instance = Instance::new("3fa9c2", true).unwrap();
        let script = script(&instance, "172.30.0.0/16".parse().unwrap(), &[endpoint()], Senders::Replace);
        assert_eq!(
            script,
            r#"add table ip hyper
add chain ip hyper forward { type filter hook forward priority filter; policy accept; }
flush chain ip hyper forward
add rule ip hyper forward iifname "hyper0" ip saddr != 172.30.0.0/16 drop
add rule ip hyper forward iifname "hyper0" accept
add rule ip hyper forward oifname "hyper0" ct state established,related accept
add rule ip hyper forward oifname "hyper0" ct status dnat accept
add rule ip hyper forward oifname "hyper0" drop
add chain ip hyper postrouting { type nat hook postrouting priority srcnat; policy accept; }
flush chain ip hyper postrouting
add rule ip hyper postrouting ip saddr 172.30.0.0/16 oifname != "hyper0" masquerade
add rule ip hyper postrouting ip saddr 172.30.0.0/16 oifname "hyper0" ct status dnat masquerade
add table bridge hyper
add set bridge hyper senders { type ifname . ether_addr . ipv4_addr; }
add chain bridge hyper from_tap
add chain bridge hyper prerouting { type filter hook prerouting priority -300; policy accept; }
flush chain bridge hyper prerouting
flush chain bridge hyper from_tap
add rule bridge hyper from_tap ether type ip iifname . ether saddr . ip saddr @senders accept
add rule bridge hyper from_tap ether type arp iifname . ether saddr . arp saddr ip @senders accept
add rule bridge hyper from_tap drop
add rule bridge hyper prerouting iifname "hy3fa9c2n*" return
add rule bridge hyper prerouting iifname "hy3fa9c2*" jump from_tap
flush set bridge hyper senders
add element bridge hyper senders { "hy3fa9c22" . 02:42:ac:1e:00:02 . 172.30.0.2 }
"#
        );
    }

    #[test]
    fn another_instance_touches_its_own_tables_only() {
        let instance = Instance::new("3fa9c2", false).unwrap();
        let script = script(&instance, "172.30.0.0/16".parse().unwrap(), &[], Senders::Add);
        for line in script.lines().chain(removal(&instance).lines()) {
            assert_eq!(line.split(' ').nth(3), Some("hyper-3fa9c2"), "{line}");
        }
        assert!(!script.contains("flush set"));
    }
}
