//! What else on the host would keep containers from the network.
//!
//! An `accept` in our table ends our table's verdict only: a `drop` in another
//! table, such as docker's `FORWARD` policy, still counts. Nothing of others
//! is changed; the user gets told.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use crate::rules;

/// How long one firewall program may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Names of the active tables of the legacy iptables.
const LEGACY_TABLES: &str = "/proc/net/ip_tables_names";

/// `nft -j list chains`, as far as we read it (`libnftables-json(5)`).
#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    chain: Option<Chain>,
}

#[derive(Deserialize)]
struct Chain {
    family: String,
    table: String,
    name: String,
    hook: Option<String>,
    policy: Option<String>,
}

/// Sentences on other tables that drop what is forwarded to or from `bridge`.
pub(crate) async fn warnings(table: &str, bridge: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    match rules::nft("list the firewall's chains", &["-j", "list", "chains"], "").await {
        Ok(json) => {
            for chain in dropping_chains(&json, table) {
                let place = ["list", "table", &chain.family, &chain.table];
                let text = rules::nft("list a firewall table", &place, "").await.unwrap_or_default();
                if !String::from_utf8_lossy(&text).contains(&format!("\"{bridge}\"")) {
                    warnings
                        .push(sentence(&format!("{} {} {}", chain.family, chain.table, chain.name), bridge));
                }
            }
        }
        Err(error) => {
            let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            warnings.push(format!("the firewall cannot be examined: {error}{hint}"));
        }
    }
    if legacy_drops(bridge).await {
        warnings.push(sentence("iptables-legacy filter FORWARD", bridge));
    }
    warnings
}

fn sentence(chain: &str, bridge: &str) -> String {
    format!(
        "the chain \"{chain}\" drops forwarded packets by default and has no rule for {bridge}: containers do not \
         get beyond this host; allow it with: iptables -I FORWARD -i {bridge} -j ACCEPT; iptables -I FORWARD -o \
         {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT (chain DOCKER-USER on a host with docker)"
    )
}

/// Base chains at the forward hook of IPv4 with policy drop, other than ours.
fn dropping_chains(json: &[u8], own_table: &str) -> Vec<Chain> {
    let listing: Listing = match serde_json::from_slice(json) {
        Ok(listing) => listing,
        Err(_) => return Vec::new(),
    };
    listing
        .nftables
        .into_iter()
        .filter_map(|object| object.chain)
        .filter(|chain| {
            matches!(chain.family.as_str(), "ip" | "inet")
                && chain.table != own_table
                && chain.hook.as_deref() == Some("forward")
                && chain.policy.as_deref() == Some("drop")
        })
        .collect()
}

/// Whether the legacy iptables drop by default and do not know `bridge`.
async fn legacy_drops(bridge: &str) -> bool {
    // Asking iptables-legacy would load its modules; the kernel's list tells
    // first whether the table is in use at all.
    let active = std::fs::read_to_string(LEGACY_TABLES).unwrap_or_default();
    if !active.lines().any(|table| table == "filter") {
        return false;
    }
    let run = Command::new("iptables-legacy").args(["-S"]).stdin(Stdio::null()).kill_on_drop(true).output();
    match tokio::time::timeout(TIMEOUT, run).await {
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().any(|line| line == "-P FORWARD DROP") && !text.contains(bridge)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_foreign_ipv4_forward_chains_with_policy_drop_count() {
        let json = br#"{"nftables":[{"metainfo":{"version":"1.0.6"}},
            {"chain":{"family":"ip","table":"filter","name":"FORWARD","handle":1,"type":"filter","hook":"forward","prio":0,"policy":"drop"}},
            {"chain":{"family":"ip","table":"filter","name":"INPUT","handle":2,"type":"filter","hook":"input","prio":0,"policy":"drop"}},
            {"chain":{"family":"ip6","table":"filter","name":"FORWARD","handle":1,"type":"filter","hook":"forward","prio":0,"policy":"drop"}},
            {"chain":{"family":"ip","table":"hyper","name":"forward","handle":1,"type":"filter","hook":"forward","prio":0,"policy":"drop"}},
            {"chain":{"family":"ip","table":"filter","name":"DOCKER-USER","handle":5}}]}"#;
        let found: Vec<String> =
            dropping_chains(json, "hyper").into_iter().map(|c| format!("{} {}", c.table, c.name)).collect();
        assert_eq!(found, ["filter FORWARD"]);
    }

    #[test]
    fn output_that_is_no_json_counts_as_nothing_found() {
        assert!(dropping_chains(b"not json", "hyper").is_empty());
    }
}
