//! `hyper logs`

use bytes::BytesMut;
use clap::Args;
use http_body_util::BodyExt;
use http1::Method;
use http1::header::CONTENT_TYPE;

use super::App;
use crate::client::{ApiError, path};
use crate::error::{Failure, Outcome};
use crate::format::parse_when;
use crate::output;
use crate::stream::{Frames, Output};

/// Media type of a terminal's log: bytes as they are.
const RAW: &str = "application/vnd.docker.raw-stream";
/// Media type of a log in frames.
const FRAMED: &str = "application/vnd.docker.multiplexed-stream";

/// Flags of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "all", allow_negative_numbers = true)]
    tail: String,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Show logs before a timestamp or relative time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// A `--since` or `--until` as the API takes it.
///
/// # Errors
/// A text that is no time.
pub fn when(flag: &str, text: Option<&str>) -> Result<Option<String>, Failure> {
    let parse = |text| {
        parse_when(text, jiff::Timestamp::now())
            .map_err(|error| Failure::new(format!("invalid value for \"{flag}\": {error}")))
    };
    text.filter(|text| !text.is_empty()).map(parse).transpose()
}

/// Prints a container's log.
pub async fn logs(app: &App, args: LogsArgs) -> Outcome {
    let since = when("since", args.since.as_deref())?;
    let until = when("until", args.until.as_deref())?;
    let mut query = vec![("stdout", "1"), ("stderr", "1"), ("tail", args.tail.as_str())];
    query.extend(args.follow.then_some(("follow", "1")));
    query.extend(args.timestamps.then_some(("timestamps", "1")));
    query.extend(args.details.then_some(("details", "1")));
    query.extend(since.as_deref().map(|since| ("since", since)));
    query.extend(until.as_deref().map(|until| ("until", until)));
    let response =
        app.client.send(Method::GET, &path("containers", &args.container, "/logs")?, &query).await?;
    let media = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let framed = match media.as_deref() {
        Some(FRAMED) => true,
        Some(RAW) => false,
        _ => !has_terminal(app, &args.container).await?,
    };
    let mut body = response.into_body();
    let mut frames = Frames::default();
    let mut pending = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::Broken(Box::new(error)))?;
        let Some(data) = frame.data_ref() else { continue };
        if !framed {
            output::write_bytes(data)?;
            continue;
        }
        pending.extend_from_slice(data);
        while let Some((kind, bytes)) =
            frames.next(&mut pending).map_err(|error| Failure::from_error(&error))?
        {
            match kind {
                Output::Stdout => output::write_bytes(&bytes)?,
                Output::Stderr => output::complain_bytes(&bytes),
                Output::Daemon => return Err(Failure::new(String::from_utf8_lossy(&bytes).into_owned())),
            }
        }
    }
    Ok(0)
}

/// For a daemon that does not say what it sends.
async fn has_terminal(app: &App, container: &str) -> Result<bool, ApiError> {
    let container: super::attach::Attachable =
        app.client.json(&path("containers", container, "/json")?, &[]).await?;
    Ok(container.config.tty)
}
