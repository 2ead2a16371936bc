//! `--publish`, as docker reads it.

use std::collections::HashMap;
use std::net::IpAddr;

use bollard::models::PortBinding;

use super::FlagError;

/// Ports of a container (`80/tcp`) to places on the host.
pub type Bindings = HashMap<String, Option<Vec<PortBinding>>>;

/// Most ports of one flag.
const PORTS_MAX: u16 = 4096;

/// All `[[ADDRESS:][PORT[-PORT]]:]PORT[-PORT][/PROTO]`, or `target=80,published=8080[,protocol=tcp]`.
///
/// # Errors
/// What is no port, address or protocol, or ranges that do not fit.
pub fn bindings(texts: &[String]) -> Result<Bindings, FlagError> {
    let mut bindings = Bindings::new();
    for text in texts {
        for (port, binding) in parse_publish(text)? {
            bindings.entry(port).or_default().get_or_insert_default().push(binding);
        }
    }
    Ok(bindings)
}

fn parse_publish(text: &str) -> Result<Vec<(String, PortBinding)>, FlagError> {
    let failed = |reason: String| FlagError::new("publish", text, &reason);
    let plain = if text.contains('=') { standard(text)? } else { text.to_owned() };
    let (places, protocol) = plain.rsplit_once('/').unwrap_or((&plain, "tcp"));
    let protocol = protocol.to_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(failed(format!("invalid proto: {protocol}")));
    }
    let mut parts = places.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let host = parts.next().unwrap_or_default();
    let address = parts.next().unwrap_or_default();
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(failed(format!("invalid IP address: {address}")));
    }
    if container.is_empty() {
        return Err(failed(format!("no port specified: {places}<empty>")));
    }
    let (first, last) =
        range(container).ok_or_else(|| failed(format!("invalid containerPort: {container}")))?;
    let hosts = match host {
        "" => None,
        host => Some(range(host).ok_or_else(|| failed(format!("invalid hostPort: {host}")))?),
    };
    if last - first >= PORTS_MAX {
        return Err(failed(format!("more than {PORTS_MAX} ports")));
    }
    let same = hosts.is_none_or(|(from, to)| to - from == last - first);
    if !same && first != last {
        return Err(failed(format!(
            "invalid ranges specified for container and host Ports: {container} and {host}"
        )));
    }
    let each = (first..=last).map(|port| {
        let host_port = match hosts {
            None => String::new(),
            Some((from, _)) if same => (from + (port - first)).to_string(),
            // Any of the range.
            Some((from, to)) => format!("{from}-{to}"),
        };
        let binding = PortBinding { host_ip: Some(bare.to_owned()), host_port: Some(host_port) };
        (format!("{port}/{protocol}"), binding)
    });
    Ok(each.collect())
}

/// First and last port of `80` or `80-90`.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

/// The long form as the short one.
fn standard(text: &str) -> Result<String, FlagError> {
    let failed = |reason: &str| FlagError::new("publish", text, reason);
    let (mut target, mut published, mut protocol) = (None, "", "tcp");
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| failed("use KEY=VALUE"))?;
        match key.to_lowercase().as_str() {
            "target" => target = Some(value),
            "published" => published = value,
            "protocol" => protocol = value,
            "mode" if value == "host" || value == "ingress" => {}
            _ => return Err(failed("known are target, published, protocol and mode")),
        }
    }
    let target = target.ok_or_else(|| failed("a target is needed"))?;
    Ok(format!("{published}:{target}/{protocol}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        for (text, expected) in [
            ("80", vec![("80/tcp", "", "")]),
            ("8080:80", vec![("80/tcp", "", "8080")]),
            ("127.0.0.1:8080:80/udp", vec![("80/udp", "127.0.0.1", "8080")]),
            ("127.0.0.1::80", vec![("80/tcp", "127.0.0.1", "")]),
            ("[::1]:8080:80", vec![("80/tcp", "::1", "8080")]),
            ("::1:8080:80", vec![("80/tcp", "::1", "8080")]),
            ("8000-8001:80-81", vec![("80/tcp", "", "8000"), ("81/tcp", "", "8001")]),
            ("8000-8010:80", vec![("80/tcp", "", "8000-8010")]),
            ("80-81", vec![("80/tcp", "", ""), ("81/tcp", "", "")]),
            ("target=80,published=8080,protocol=udp", vec![("80/udp", "", "8080")]),
        ] {
            let parsed = parse_publish(text).unwrap();
            let shown: Vec<(&str, &str, &str)> = parsed
                .iter()
                .map(|(port, b)| {
                    (port.as_str(), b.host_ip.as_deref().unwrap(), b.host_port.as_deref().unwrap())
                })
                .collect();
            assert_eq!(shown, expected, "{text}");
        }
        for wrong in [
            "",
            ":",
            "x",
            "80/icmp",
            "1.2.3:80:80",
            "9-8",
            "1-2:3-5",
            "70000",
            "8080:",
            "+80",
            "target=",
            "a=b",
        ] {
            assert!(parse_publish(wrong).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9:/\\-\\[\\]a-z=,.]{0,24}") {
            let _ = parse_publish(&text);
        }
    }
}
