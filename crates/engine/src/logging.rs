//! Log drivers: what a container's output is written to, by docker's names and options.

use std::collections::BTreeMap;

use hyper_protocol::shim::{Log, LogFormat, RemoteLog, Syslog, SyslogAddress, SyslogFormat};

use crate::error::{EngineError, Kind, Result};
use crate::ids::short;
use crate::options::{ContainerRecord, LogOptions};
use crate::places::Places;

/// Most rotated files of a log.
const LOG_FILES_MAX: u32 = 1000;

/// Bytes and number of files of `local`, and of what is kept for `logs` beside `syslog` and `journald`: docker's.
const LOCAL_SIZE: u64 = 20_000_000;
const LOCAL_FILES: u32 = 5;

/// Facilities of syslog by name (RFC 5424, table 1, with the names that syslog.conf uses).
const FACILITIES: [(&str, u8); 20] = [
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// The facility unless told otherwise: docker's, `daemon`.
const DEFAULT_FACILITY: u8 = 3;

impl LogOptions {
    /// From docker's driver and options.
    ///
    /// # Errors
    /// An unknown driver or option, or a value that makes no sense.
    pub fn parse(driver: &str, config: BTreeMap<String, String>) -> Result<Self> {
        let driver = if driver.is_empty() { "json-file" } else { driver };
        let known: &[&str] = match driver {
            "none" if config.is_empty() => return Ok(Self::None),
            "none" => return Err(EngineError::invalid("log driver none takes no options")),
            "json-file" => &["max-size", "max-file", "tag", "labels", "env", "compress", "mode"],
            "local" => &["max-size", "max-file", "compress", "mode"],
            "syslog" => &["syslog-address", "syslog-facility", "syslog-format", "tag", "mode"],
            "journald" => &["tag", "labels", "env", "mode"],
            "fluentd" | "gelf" | "awslogs" | "splunk" | "gcplogs" | "etwlogs" => {
                return Err(EngineError::new(
                    Kind::Unsupported,
                    format!(
                        "log driver {driver} is not supported: there are json-file, local, journald, syslog and none"
                    ),
                ));
            }
            other => {
                return Err(EngineError::invalid(format!(
                    "logger: no log driver named '{other}' is registered"
                )));
            }
        };
        if let Some(name) = config.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(EngineError::invalid(format!("unknown log opt '{name}' for {driver} log driver")));
        }
        let get = |name: &str| config.get(name).map(String::as_str);
        if get("mode").is_some_and(|mode| mode != "blocking") {
            return Err(EngineError::invalid(
                "log opt mode is not supported but as \"blocking\": the shim's log never holds the container up",
            ));
        }
        if get("compress").is_some_and(|compress| compress != "false") {
            return Err(EngineError::invalid(
                "log opt compress is not supported but as \"false\": rotated logs are not compressed",
            ));
        }
        if let Some(tag) = get("tag") {
            check_tag(tag)?;
        }
        let (max_size, max_files) = rotation(&config)?;
        match driver {
            // Without a size no second file is ever begun, which docker takes, too.
            "json-file" => Ok(Self::JsonFile { max_size, max_files: max_files.unwrap_or(1), config }),
            "local" => Ok(Self::Local {
                max_size: max_size.unwrap_or(LOCAL_SIZE),
                max_files: max_files.unwrap_or(LOCAL_FILES),
                config,
            }),
            "syslog" => {
                syslog(&config, String::new())?;
                Ok(Self::Syslog { config })
            }
            _ => Ok(Self::Journald { config }),
        }
    }

    /// Docker's name.
    pub fn driver(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::JsonFile { .. } => "json-file",
            Self::Local { .. } => "local",
            Self::Syslog { .. } => "syslog",
            Self::Journald { .. } => "journald",
        }
    }

    /// The options as the caller wrote them.
    pub fn config(&self) -> BTreeMap<String, String> {
        match self {
            Self::None => BTreeMap::new(),
            Self::JsonFile { config, .. }
            | Self::Local { config, .. }
            | Self::Syslog { config }
            | Self::Journald { config } => config.clone(),
        }
    }

    /// Files kept of it, for who reads them; `None` where nothing is kept.
    pub(crate) fn files(&self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::JsonFile { max_files, .. } | Self::Local { max_files, .. } => Some(*max_files),
            Self::Syslog { .. } | Self::Journald { .. } => Some(LOCAL_FILES),
        }
    }
}

/// Where a container's output is kept on this host.
pub(crate) fn path(places: &Places, record: &ContainerRecord) -> std::path::PathBuf {
    match record.options.log {
        LogOptions::JsonFile { .. } | LogOptions::None => places.log(&record.id),
        _ => places.container(&record.id).join("container.log"),
    }
}

/// What the shim is told to do with a container's output.
pub(crate) fn shim_log(places: &Places, record: &ContainerRecord) -> Result<Option<Log>> {
    let path = path(places, record);
    let local = |max_size, max_files, remote| Log {
        path: path.clone(),
        max_size: Some(max_size),
        max_files,
        format: LogFormat::Compact,
        attributes: BTreeMap::new(),
        remote,
    };
    let config = record.options.log.config();
    let tag = config.get("tag").map(String::as_str);
    Ok(match &record.options.log {
        LogOptions::None => None,
        LogOptions::JsonFile { max_size, max_files, .. } => {
            let mut attributes = chosen(record, &config);
            if let Some(tag) = tag.filter(|tag| !tag.is_empty()) {
                attributes.insert("tag".to_owned(), render(tag, record));
            }
            Some(Log {
                max_size: *max_size,
                max_files: *max_files,
                format: LogFormat::Json,
                attributes,
                ..local(0, 1, None)
            })
        }
        LogOptions::Local { max_size, max_files, .. } => Some(local(*max_size, *max_files, None)),
        LogOptions::Syslog { config } => {
            let tag = render(tag.unwrap_or(DEFAULT_TAG), record);
            let remote = RemoteLog::Syslog(syslog(config, tag)?);
            Some(local(LOCAL_SIZE, LOCAL_FILES, Some(remote)))
        }
        LogOptions::Journald { .. } => {
            let tag = render(tag.unwrap_or(DEFAULT_TAG), record);
            let mut fields: BTreeMap<String, String> = chosen(record, &config)
                .into_iter()
                .map(|(key, value)| (journal_field(&key), value))
                .filter(|(key, _)| !key.is_empty())
                .collect();
            for (name, value) in [
                ("CONTAINER_ID", short(&record.id).to_owned()),
                ("CONTAINER_ID_FULL", record.id.clone()),
                ("CONTAINER_NAME", record.name.clone()),
                ("CONTAINER_TAG", tag.clone()),
                ("IMAGE_NAME", record.options.image.clone()),
                ("SYSLOG_IDENTIFIER", tag),
            ] {
                fields.insert(name.to_owned(), value);
            }
            Some(local(LOCAL_SIZE, LOCAL_FILES, Some(RemoteLog::Journald { fields })))
        }
    })
}

/// The tag unless told otherwise: docker's.
const DEFAULT_TAG: &str = "{{.ID}}";

/// What a tag's template may name, and what it stands for.
fn tag_fields(record: &ContainerRecord) -> [(&'static str, String); 8] {
    let image = record.image_id.strip_prefix("sha256:").unwrap_or(&record.image_id);
    [
        ("{{.ID}}", short(&record.id).to_owned()),
        ("{{.FullID}}", record.id.clone()),
        ("{{.Name}}", record.name.clone()),
        ("{{.ImageID}}", short(image).to_owned()),
        ("{{.ImageFullID}}", record.image_id.clone()),
        ("{{.ImageName}}", record.options.image.clone()),
        ("{{.Command}}", record.command().join(" ")),
        ("{{.DaemonName}}", "hyper".to_owned()),
    ]
}

fn render(tag: &str, record: &ContainerRecord) -> String {
    tag_fields(record).into_iter().fold(tag.to_owned(), |tag, (field, value)| tag.replace(field, &value))
}

fn check_tag(tag: &str) -> Result<()> {
    let known = ["ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "Command", "DaemonName"];
    let rest = known.iter().fold(tag.to_owned(), |rest, name| rest.replace(&format!("{{{{.{name}}}}}"), ""));
    if rest.contains("{{") || rest.contains('\0') {
        return Err(EngineError::invalid(format!(
            "log opt tag {tag:?} is not supported: it may name {}",
            known.map(|name| format!("{{{{.{name}}}}}")).join(", ")
        )));
    }
    Ok(())
}

/// Labels and variables that are to be in the log.
fn chosen(record: &ContainerRecord, config: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let wanted = |name: &str| -> Vec<String> {
        let names = config.get(name).into_iter().flat_map(|names| names.split(','));
        names.map(str::to_owned).filter(|name| !name.is_empty()).collect()
    };
    let labels = wanted("labels")
        .into_iter()
        .filter_map(|name| record.options.labels.get(&name).map(|value| (name.clone(), value.clone())));
    let names = wanted("env");
    let variables = record.options.env.iter().filter_map(|variable| variable.split_once('='));
    let variables = variables
        .filter(|(name, _)| names.iter().any(|wanted| wanted == name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    labels.chain(variables).collect()
}

/// A name as journald takes it: capitals, digits and underscores, no digit or underscore first.
fn journal_field(name: &str) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    name.trim_start_matches(|c: char| c == '_' || c.is_ascii_digit()).chars().take(64).collect()
}

fn rotation(config: &BTreeMap<String, String>) -> Result<(Option<u64>, Option<u32>)> {
    let max_size = match config.get("max-size").map(String::as_str) {
        None | Some("-1") => None,
        Some(text) => Some(decimal_size(text).filter(|size| *size > 0).ok_or_else(|| {
            EngineError::invalid(format!("invalid value for log option max-size: {text:?}"))
        })?),
    };
    let max_files = match config.get("max-file") {
        None => None,
        Some(text) => Some(
            text.parse()
                .ok()
                .filter(|count| (1..=LOG_FILES_MAX).contains(count))
                .ok_or_else(|| EngineError::invalid("max-file cannot be less than 1 or more than 1000"))?,
        ),
    };
    Ok((max_size, max_files))
}

/// Bytes of `10k`, `1.5m`: powers of 1000, as docker's log options have them.
fn decimal_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        _ => return None,
    };
    let size = number * unit;
    (size.is_finite() && size < 1e18).then_some(size as u64)
}

fn syslog(config: &BTreeMap<String, String>, tag: String) -> Result<Syslog> {
    let get = |name: &str| config.get(name).map(String::as_str).unwrap_or_default();
    let facility = match get("syslog-facility") {
        "" => DEFAULT_FACILITY,
        text => {
            let named = FACILITIES.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
            named
                .or_else(|| text.parse().ok().filter(|number| *number <= 23))
                .ok_or_else(|| EngineError::invalid("invalid syslog facility"))?
        }
    };
    let format = match get("syslog-format") {
        "" => SyslogFormat::Unix,
        "rfc3164" => SyslogFormat::Rfc3164,
        "rfc5424" => SyslogFormat::Rfc5424,
        "rfc5424micro" => SyslogFormat::Rfc5424Micro,
        other => return Err(EngineError::invalid(format!("Invalid syslog format: {other}"))),
    };
    Ok(Syslog { address: syslog_address(get("syslog-address"))?, facility, format, tag })
}

fn syslog_address(text: &str) -> Result<SyslogAddress> {
    if text.is_empty() {
        return Ok(SyslogAddress::Local);
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let with_port = |rest: &str| {
        let port = rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if port { rest.to_owned() } else { format!("{rest}:514") }
    };
    match scheme {
        "unix" | "unixgram" if !rest.starts_with('/') => {
            Err(EngineError::invalid(format!("invalid syslog-address {text:?}: the path must be absolute")))
        }
        "unix" => Ok(SyslogAddress::Unix(rest.into())),
        "unixgram" => Ok(SyslogAddress::UnixDatagram(rest.into())),
        "udp" | "tcp" if rest.is_empty() => {
            Err(EngineError::invalid(format!("invalid syslog-address {text:?}: no host")))
        }
        "udp" => Ok(SyslogAddress::Udp(with_port(rest))),
        "tcp" => Ok(SyslogAddress::Tcp(with_port(rest))),
        "tcp+tls" => Err(EngineError::new(
            Kind::Unsupported,
            "syslog-address tcp+tls is not supported: there are unix, unixgram, udp and tcp",
        )),
        _ => Err(EngineError::invalid(format!("unsupported scheme in syslog-address: {text:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::options::{ContainerOptions, State};

    fn config(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn record(driver: &str, pairs: &[(&str, &str)]) -> ContainerRecord {
        ContainerRecord {
            id: "0123456789abcdef".repeat(4),
            name: "web".into(),
            created: Timestamp(0),
            image_id: format!("sha256:{}", "f".repeat(64)),
            pod: "p".into(),
            options: ContainerOptions {
                image: "debian:12".into(),
                labels: config(&[("com.x", "1"), ("other", "2")]),
                env: vec!["A=1".into(), "B=2".into()],
                log: LogOptions::parse(driver, config(pairs)).unwrap(),
                ..ContainerOptions::default()
            },
            state: State::default(),
        }
    }

    #[test]
    fn log_sizes_are_decimal() {
        assert_eq!(decimal_size("10k"), Some(10_000));
        assert_eq!(decimal_size("1.5m"), Some(1_500_000));
        for bad in ["", "k", "1x", "1e9", "-1"] {
            assert_eq!(decimal_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (driver, pairs, word) in [
            ("nosuch", &[][..], "no log driver named 'nosuch'"),
            ("gelf", &[], "gelf is not supported"),
            ("json-file", &[("nosuch", "1")], "unknown log opt 'nosuch' for json-file"),
            ("local", &[("tag", "x")], "unknown log opt 'tag' for local"),
            ("local", &[("max-size", "x")], "max-size"),
            ("local", &[("compress", "true")], "compress"),
            ("json-file", &[("max-file", "0")], "max-file"),
            ("json-file", &[("mode", "non-blocking")], "mode"),
            ("syslog", &[("syslog-facility", "x")], "facility"),
            ("syslog", &[("syslog-format", "x")], "format"),
            ("syslog", &[("syslog-address", "tcp+tls://h:1")], "tls"),
            ("syslog", &[("syslog-address", "unix://dev/log")], "absolute"),
            ("journald", &[("tag", "{{.Nosuch}}")], "tag"),
            ("none", &[("max-size", "1k")], "no options"),
        ] {
            let message = LogOptions::parse(driver, config(pairs)).unwrap_err().message;
            assert!(message.contains(word), "{message:?} does not name {word:?}");
        }
    }

    #[test]
    fn drivers_become_what_the_shim_does() {
        let places = Places { root: "/r".into(), run: "/run".into(), guest: None };
        let of = |driver: &str, pairs: &[(&str, &str)]| shim_log(&places, &record(driver, pairs)).unwrap();
        assert_eq!(of("none", &[]), None);
        let json = of("", &[("labels", "com.x,nosuch"), ("env", "B"), ("tag", "{{.Name}}/{{.ID}}")]).unwrap();
        assert_eq!(json.attributes, config(&[("com.x", "1"), ("B", "2"), ("tag", "web/0123456789ab")]));
        assert_eq!((json.max_size, json.max_files, json.remote), (None, 1, None));
        let local = of("local", &[("max-size", "1m")]).unwrap();
        assert_eq!((local.max_size, local.max_files), (Some(1_000_000), 5));
        assert!(local.path.ends_with("container.log"));
        let Some(RemoteLog::Syslog(syslog)) =
            of("syslog", &[("syslog-address", "udp://h"), ("syslog-facility", "local1")]).unwrap().remote
        else {
            panic!("to syslog")
        };
        assert_eq!(syslog.address, SyslogAddress::Udp("h:514".into()));
        assert_eq!((syslog.facility, syslog.tag.as_str()), (17, "0123456789ab"));
        let Some(RemoteLog::Journald { fields }) = of("journald", &[("labels", "com.x")]).unwrap().remote
        else {
            panic!("to journald")
        };
        assert_eq!(fields["COM_X"], "1");
        assert_eq!((fields["CONTAINER_NAME"].as_str(), fields["IMAGE_NAME"].as_str()), ("web", "debian:12"));
    }
}
