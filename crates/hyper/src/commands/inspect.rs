//! `hyper inspect`: the daemon's JSON, untouched.

use bytes::Bytes;
use clap::Args;

use super::App;
use super::each::complain_all;
use crate::client::{ApiError, path};
use crate::error::{Failure, Outcome};
use crate::format::{Template, Value, indent_json, unescape};
use crate::output;

/// Exit code of a template that cannot be parsed, as docker's.
const EXIT_TEMPLATE: i32 = 64;

/// Flags of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Only inspect objects of the given type: container, image, network or volume
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    #[command(flatten)]
    rest: GroupInspectArgs,
}

/// Flags of `container inspect` and `image inspect`.
#[derive(Debug, Args)]
pub struct GroupInspectArgs {
    /// Format output: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    size: bool,
    /// Names or IDs
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

/// Which objects are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Container,
    Image,
    Network,
    Volume,
}

/// Inspects containers and images.
pub async fn inspect(app: &App, args: InspectArgs) -> Outcome {
    let kind = match args.kind.as_deref() {
        None | Some("") => Kind::Any,
        Some("container") => Kind::Container,
        Some("image") => Kind::Image,
        Some("network") => Kind::Network,
        Some("volume") => Kind::Volume,
        Some(other @ ("node" | "service" | "secret" | "config" | "plugin" | "task")) => {
            return Err(Failure::new(format!("inspecting a {other} is not supported yet")));
        }
        Some(other) => return Err(Failure::new(format!("\"{other}\" is not a valid value for --type"))),
    };
    print(app, &args.rest, kind).await
}

/// Inspects containers.
pub async fn container_inspect(app: &App, args: GroupInspectArgs) -> Outcome {
    print(app, &args, Kind::Container).await
}

/// Inspects images.
pub async fn image_inspect(app: &App, args: GroupInspectArgs) -> Outcome {
    if args.size {
        return Err(Failure::new("--size is for containers").with_code(crate::error::EXIT_DAEMON));
    }
    print(app, &args, Kind::Image).await
}

async fn print(app: &App, args: &GroupInspectArgs, kind: Kind) -> Outcome {
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for name in &args.names {
        match fetch(app, name, kind, args.size).await {
            Ok(json) => found.push(json),
            Err(failure) => failures.push(failure),
        }
    }
    print_objects(&found, args.format.as_deref(), failures)
}

/// Prints objects as one indented list, as one line of JSON, or each through a template; then tells the failures.
///
/// # Errors
/// A template that is none (before anything is printed, exit code 64), or any of `failures`.
pub fn print_objects(found: &[Bytes], format: Option<&str>, mut failures: Vec<Failure>) -> Outcome {
    let format = format.filter(|format| !format.is_empty());
    let template = match format {
        None | Some("json") => None,
        Some(text) => Some(Template::parse(&unescape(text)).map_err(|error| {
            Failure::new(format!("template parsing error: {error}")).with_code(EXIT_TEMPLATE)
        })?),
    };
    let bodies: Vec<&[u8]> = found.iter().map(|json| json.trim_ascii()).collect();
    let array = || [b"[", bodies.join(&b","[..]).as_slice(), b"]"].concat();
    let Some(template) = template else {
        let text = if format.is_some() { array() } else { indent_json(&array()) };
        output::write_bytes(&[text.as_slice(), b"\n"].concat())?;
        return complain_all(failures);
    };
    let mut text = String::new();
    for json in bodies {
        match fill(&template, json) {
            Ok(filled) => text = text + &filled + "\n",
            Err(failure) => {
                failures.push(failure);
                // Docker ends the output with the line that failed.
                text.push('\n');
                break;
            }
        }
    }
    output::write(&text)?;
    complain_all(failures)
}

fn fill(template: &Template, json: &[u8]) -> Result<String, Failure> {
    let value: Value = serde_json::from_slice(json)
        .map_err(|error| Failure::new(format!("cannot understand the daemon's answer: {error}")))?;
    template.render(&value).map_err(|error| Failure::new(format!("template parsing error: {error}")))
}

async fn fetch(app: &App, name: &str, kind: Kind, size: bool) -> Result<Bytes, Failure> {
    let query: &[(&str, &str)] = if size { &[("size", "1")] } else { &[] };
    if kind == Kind::Volume {
        return Ok(super::volumes::fetch(app, name).await?);
    }
    if kind == Kind::Network {
        return Ok(super::networks::fetch(app, name).await?);
    }
    if kind != Kind::Image {
        match app.client.bytes(&path("containers", name, "/json")?, query).await {
            Err(error) if kind == Kind::Any && error.is_not_found() => {}
            answer => return Ok(answer?),
        }
    }
    match app.client.bytes(&path("images", name, "/json")?, &[]).await {
        Err(error) if kind == Kind::Any && is_unknown(&error) => {
            if let Ok(network) = super::networks::fetch(app, name).await {
                return Ok(network);
            }
            if let Ok(volume) = super::volumes::fetch(app, name).await {
                return Ok(volume);
            }
            Err(Failure::new(format!("No such object: {name}"))
                .with_hint("`hyper ps -a` and `hyper images` list what there is"))
        }
        answer => Ok(answer?),
    }
}

/// A name that is no reference is no image either.
fn is_unknown(error: &ApiError) -> bool {
    error.is_not_found()
        || matches!(error, ApiError::Daemon { message, .. } if message.contains("invalid reference format"))
}
