//! `hyper info`

use clap::Args;
use std::fmt::Write as _;

use super::App;
use super::version::version_line;
use crate::client::ApiError;
use crate::error::{Failure, Outcome};
use crate::format::{Template, Value, bytes_size, unescape};
use crate::output;

/// Flags of `info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Format output: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
}

/// Shows the daemon's state: docker's lines, then ours about hypervisors.
pub async fn info(app: &App, args: InfoArgs) -> Outcome {
    let format = args.format.as_deref().filter(|format| !format.is_empty());
    let template = match format {
        Some("json") | None => None,
        Some(text) => Some(
            Template::parse(&unescape(text))
                .map_err(|error| Failure::new(format!("template parsing error: {error}")).with_code(64))?,
        ),
    };
    let server = app.client.json::<Value>("/info", &[]).await;
    let server = match server {
        Ok(server) => server,
        Err(error) => {
            if format.is_none() {
                output::write(&client_lines(app))?;
            }
            return Err(error.into());
        }
    };
    let own = match app.client.json::<Value>("/hyper/info", &[]).await {
        Ok(own) => Some(own),
        Err(ApiError::Daemon { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let merged = merge(server, own.as_ref());
    let text = match (&template, format) {
        (Some(template), _) => template.render(&merged).map_err(|error| Failure::from_error(&error))? + "\n",
        (None, Some(_)) => merged.to_json() + "\n",
        (None, None) => {
            client_lines(app) + "\nServer:\n" + &server_lines(&merged) + &own_lines(own.as_ref()) + "\n"
        }
    };
    output::write(&text)?;
    Ok(0)
}

/// The daemon's two answers as one object; ours under `Hyper`.
fn merge(server: Value, own: Option<&Value>) -> Value {
    match (server, own) {
        (Value::Object { mut fields, kind }, Some(own)) => {
            fields.push(("Hyper".to_owned(), own.clone()));
            Value::Object { fields, kind }
        }
        (server, _) => server,
    }
}

fn client_lines(app: &App) -> String {
    let version = version_line();
    let version = version.rsplit(' ').next().unwrap_or_default();
    format!("Client:\n Version:    {version}\n Endpoint:   {}\n", app.client.endpoint())
}

/// A line of docker's layout.
enum Line {
    /// The field's value.
    Plain(&'static str, &'static str),
    /// A number of bytes.
    Bytes(&'static str, &'static str),
    /// The keys of a map, sorted.
    Keys(&'static str, &'static str),
    /// Lists by kind under a heading.
    Lists(&'static str, &'static str, &'static [&'static str]),
    /// A heading and its items, each on a line.
    Items(&'static str, &'static str),
}

/// Docker's layout, in its order.
const LINES: &[Line] = &[
    Line::Plain(" Containers", "Containers"),
    Line::Plain("  Running", "ContainersRunning"),
    Line::Plain("  Paused", "ContainersPaused"),
    Line::Plain("  Stopped", "ContainersStopped"),
    Line::Plain(" Images", "Images"),
    Line::Plain(" Server Version", "ServerVersion"),
    Line::Plain(" Storage Driver", "Driver"),
    Line::Plain(" Logging Driver", "LoggingDriver"),
    Line::Plain(" Cgroup Driver", "CgroupDriver"),
    Line::Plain(" Cgroup Version", "CgroupVersion"),
    Line::Lists(" Plugins", "Plugins", &["Volume", "Network", "Authorization", "Log"]),
    Line::Keys(" Runtimes", "Runtimes"),
    Line::Plain(" Default Runtime", "DefaultRuntime"),
    Line::Items(" Security Options", "SecurityOptions"),
    Line::Plain(" Kernel Version", "KernelVersion"),
    Line::Plain(" Operating System", "OperatingSystem"),
    Line::Plain(" OSType", "OSType"),
    Line::Plain(" Architecture", "Architecture"),
    Line::Plain(" CPUs", "NCPU"),
    Line::Bytes(" Total Memory", "MemTotal"),
    Line::Plain(" Name", "Name"),
    Line::Plain(" ID", "ID"),
    Line::Plain(" Docker Root Dir", "DockerRootDir"),
    Line::Plain(" Debug Mode", "Debug"),
    Line::Plain(" HTTP Proxy", "HttpProxy"),
    Line::Plain(" HTTPS Proxy", "HttpsProxy"),
    Line::Plain(" No Proxy", "NoProxy"),
    Line::Items(" Labels", "Labels"),
    Line::Plain(" Experimental", "ExperimentalBuild"),
    Line::Plain(" Live Restore Enabled", "LiveRestoreEnabled"),
];

fn server_lines(server: &Value) -> String {
    let mut text = String::new();
    for line in LINES {
        let (Line::Plain(label, name)
        | Line::Bytes(label, name)
        | Line::Keys(label, name)
        | Line::Lists(label, name, _)
        | Line::Items(label, name)) = line;
        let value = match server.field(name) {
            None | Some(Value::Nil(_)) => continue,
            Some(Value::Text(value)) if value.is_empty() => continue,
            Some(Value::List(values)) if values.is_empty() => continue,
            Some(value) => value,
        };
        let _ = match (line, value) {
            (Line::Bytes(..), Value::Int(bytes)) => writeln!(text, "{label}: {}", bytes_size(*bytes as f64)),
            (Line::Keys(..), Value::Object { fields, .. }) => {
                let mut keys: Vec<&str> = fields.iter().map(|(key, _)| key.as_str()).collect();
                keys.sort_unstable();
                writeln!(text, "{label}: {}", keys.join(" "))
            }
            (Line::Lists(_, _, kinds), lists) => {
                let lists = kinds.iter().filter_map(|kind| match lists.field(kind) {
                    Some(Value::List(items)) if !items.is_empty() => Some((kind, words(items))),
                    _ => None,
                });
                let lines: String = lists.map(|(kind, items)| format!("  {kind}: {items}\n")).collect();
                write!(text, "{label}:\n{lines}")
            }
            (Line::Items(..), Value::List(items)) => {
                let items: String = items.iter().map(|item| item_line(&item.to_string())).collect();
                write!(text, "{label}:\n{items}")
            }
            (_, value) => writeln!(text, "{label}: {value}"),
        };
    }
    if let Some(Value::List(warnings)) = server.field("Warnings") {
        for warning in warnings {
            output::complain(&format!("{warning}\n"));
        }
    }
    text
}

fn words(items: &[Value]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// `name=seccomp,profile=builtin` as a heading and its parts; anything else as it is.
fn item_line(item: &str) -> String {
    let mut parts = item.split(',');
    let Some(name) = parts.next().and_then(|part| part.strip_prefix("name=")) else {
        return format!("  {item}\n");
    };
    let rest = parts.map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        format!("   {}: {value}\n", title(key))
    });
    std::iter::once(format!("  {name}\n")).chain(rest).collect()
}

/// Our own part: the hypervisors as a table, everything else as indented fields in the daemon's order.
fn own_lines(own: Option<&Value>) -> String {
    let Some(Value::Object { fields, .. }) = own else { return String::new() };
    let mut text = String::from(" Hyper:\n");
    for (name, value) in fields {
        nested(&mut text, 2, name, value);
    }
    text
}

fn nested(text: &mut String, depth: usize, name: &str, value: &Value) {
    let indent = " ".repeat(depth);
    match value {
        Value::Object { fields, .. } => {
            let _ = writeln!(text, "{indent}{}:", title(name));
            for (name, value) in fields {
                nested(text, depth + 1, name, value);
            }
        }
        Value::List(items) if items.iter().any(|item| matches!(item, Value::Object { .. })) => {
            let _ = writeln!(text, "{indent}{}:", title(name));
            for item in items {
                item_lines(text, depth + 1, item);
            }
        }
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "{indent}{}: {}", title(name), items.join(", "));
        }
        Value::Bool(value) => {
            let _ = writeln!(text, "{indent}{}: {}", title(name), if *value { "yes" } else { "no" });
        }
        Value::Nil(_) => {}
        other => {
            let _ = writeln!(text, "{indent}{}: {other}", title(name));
        }
    }
}

/// One object of a list: its name is the heading, the rest goes below.
fn item_lines(text: &mut String, depth: usize, item: &Value) {
    let Value::Object { fields, .. } = item else {
        let _ = writeln!(text, "{}{item}", " ".repeat(depth));
        return;
    };
    let heading = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("name"));
    if let Some((_, heading)) = heading {
        let _ = writeln!(text, "{}{heading}:", " ".repeat(depth));
    }
    for (name, value) in fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("name")) {
        nested(text, depth + 1, name, value);
    }
}

/// `guest_kernel` and `GuestKernel` as `Guest Kernel`; units keep their spelling.
fn title(name: &str) -> String {
    if let Some(rest) = name.strip_suffix("_mib").or_else(|| name.strip_suffix("MiB")) {
        return format!("{} MiB", title(rest));
    }
    let mut words = String::new();
    let mut before = ' ';
    for c in name.chars() {
        if c == '_' || c == '-' {
            words.push(' ');
        } else {
            if c.is_uppercase() && before.is_lowercase() {
                words.push(' ');
            }
            let starts = words.is_empty() || words.ends_with(' ');
            words.push(if starts { c.to_ascii_uppercase() } else { c });
        }
        before = c;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_part_shows_nested_fields_with_readable_names() {
        let own: Value = serde_json::from_str(
            r#"{"hypervisors":[{"Name":"qemu","Chosen":true,"abilities":{"snapshot":false},"why":"KVM is not usable"}],"memory_mib":512,"guest_kernel":"6.12","Roots":["/a","/b"]}"#,
        )
        .unwrap();
        assert_eq!(
            own_lines(Some(&own)),
            " Hyper:\n  Hypervisors:\n   qemu:\n    Chosen: yes\n    Abilities:\n     Snapshot: no\n    Why: KVM is not usable\n  Memory MiB: 512\n  Guest Kernel: 6.12\n  Roots: /a, /b\n"
        );
    }
}
