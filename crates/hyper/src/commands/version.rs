//! `hyper version`

use clap::Args;

use super::App;
use crate::error::{Failure, Outcome};
use crate::format::{Template, Value, align_with, unescape};
use crate::output;

/// Our version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Flags of `version`.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Format output: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
}

/// What `hyper --version` prints.
pub fn version_line() -> String {
    format!("Hyper version {VERSION}")
}

/// Docker's layout: the component's own lines first, then its details.
const TEMPLATE: &str = "Client:
 Version:\t{{.Client.Version}}
 API version:\t{{.Client.ApiVersion}}
 OS/Arch:\t{{.Client.Os}}/{{.Client.Arch}}
{{- with .Server}}

Server:{{with .Platform}}{{if .Name}} {{.Name}}{{end}}{{end}}
{{- range .Components}}
 {{.Name}}:
  Version:\t{{.Version}}
{{- if eq .Name \"Engine\"}}
  API version:\t{{.Details.ApiVersion}} (minimum version {{.Details.MinAPIVersion}})
{{- with index .Details \"GitCommit\"}}
  Git commit:\t{{.}}
{{- end}}
{{- with index .Details \"BuildTime\"}}
  Built:\t{{.}}
{{- end}}
  OS/Arch:\t{{.Details.Os}}/{{.Details.Arch}}
{{- else}}
{{- range $key, $value := .Details}}
  {{$key}}:\t{{$value}}
{{- end}}
{{- end}}
{{- end}}
{{- end}}
";

/// Shows our version and, when it answers, the daemon's.
pub async fn version(app: &App, args: VersionArgs) -> Outcome {
    let format = match args.format.as_deref().filter(|format| !format.is_empty()) {
        Some("json") => Some("{{json .}}".to_owned()),
        other => other.map(unescape),
    };
    let text = format.as_deref().unwrap_or(TEMPLATE);
    let template = Template::parse(text)
        .map_err(|error| Failure::new(format!("template parsing error: {error}")).with_code(64))?;
    let server = app.client.json::<Value>("/version", &[]).await;
    let (server, failure) = match server {
        Ok(server) => (with_readable_dates(server), None),
        Err(error) => (Value::Nil("<nil>"), Some(Failure::from(error))),
    };
    let text = template.render(&data(app, server)).map_err(|error| Failure::from_error(&error))?;
    if format.is_some() {
        output::line(&text)?;
    } else {
        output::write(&align_with(&text, 20, 1))?;
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(0),
    }
}

/// `2026-08-13T05:35:47Z` as `Thu Aug 13 05:35:47 2026`, wherever a build time is.
fn with_readable_dates(value: Value) -> Value {
    match value {
        Value::Object { fields, kind } => {
            let readable = |(name, value): (String, Value)| {
                let value = match value {
                    Value::Text(text) if name == "BuildTime" => match text.parse::<jiff::Timestamp>() {
                        Ok(time) => Value::text(time.strftime("%a %b %e %H:%M:%S %Y").to_string()),
                        Err(_) => Value::Text(text),
                    },
                    other => with_readable_dates(other),
                };
                (name, value)
            };
            Value::Object { fields: fields.into_iter().map(readable).collect(), kind }
        }
        Value::List(values) => Value::List(values.into_iter().map(with_readable_dates).collect()),
        other => other,
    }
}

fn data(app: &App, server: Value) -> Value {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let text = |name: &str, value: &str| (name.to_owned(), Value::text(value));
    let client = Value::object(vec![
        text("Version", VERSION),
        text("ApiVersion", app.client.api_version()),
        text("Os", std::env::consts::OS),
        text("Arch", arch),
    ]);
    Value::object(vec![("Client".to_owned(), client), ("Server".to_owned(), server)])
}
