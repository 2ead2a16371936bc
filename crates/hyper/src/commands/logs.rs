//! `hyper logs`

use std::time::Duration;

use bytes::BytesMut;
use clap::Args;
use http_body_util::BodyExt;
use http1::Method;
use http1::header::CONTENT_TYPE;

use super::App;
use super::session::Broken;
use crate::client::{ApiError, path};
use crate::error::{Failure, Outcome};
use crate::format::parse_when;
use crate::output;
use crate::stream::{Frames, Output, StreamError};

/// Media type of a terminal's log: bytes as they are.
const RAW: &str = "application/vnd.docker.raw-stream";
/// Media type of a log in frames.
const FRAMED: &str = "application/vnd.docker.multiplexed-stream";

/// Header that asks for a frame with the time in front for every entry, whatever else is asked for; a daemon that
/// knows it sends it back.
const TIMED: &str = "hyper-timed";
/// Most losses of the daemon that one command survives.
const LOSSES_MAX: usize = 100;
/// Pause before the daemon is asked again.
const PAUSE: Duration = Duration::from_millis(100);

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

/// Prints a container's log. A daemon that is lost meanwhile is started again, and the log goes on where it was.
pub async fn logs(app: &App, args: LogsArgs) -> Outcome {
    let since = when("since", args.since.as_deref())?;
    let until = when("until", args.until.as_deref())?;
    let mut mark = Mark::default();
    let mut lost = 0;
    loop {
        if lost > 0 {
            app.client.come_back().await?;
        }
        match show(app, &args, since.as_deref(), until.as_deref(), &mut mark).await {
            Ok(()) => return Ok(0),
            Err(Broken::Lost(_)) if lost < LOSSES_MAX && mark.resumable => {
                lost += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(broken) => return Err(broken.into()),
        }
    }
}

/// Where in a log we are: the time of the last entry, and how many entries of this very time were shown.
#[derive(Debug, Default)]
struct Mark {
    time: String,
    shown: usize,
    /// The daemon tells every entry's time.
    resumable: bool,
}

impl Mark {
    /// Notes an entry's time; `true` for one that was shown already. `again` are the entries of the marked time that
    /// come once more since the log was asked for again.
    fn pass(&mut self, time: &str, again: &mut usize) -> bool {
        if self.time != time {
            *again = 0;
            self.time = time.to_owned();
            self.shown = 0;
        }
        if *again > 0 {
            *again -= 1;
            return true;
        }
        self.shown += 1;
        false
    }
}

/// Prints what the daemon sends, from the mark on.
async fn show(
    app: &App,
    args: &LogsArgs,
    since: Option<&str>,
    until: Option<&str>,
    mark: &mut Mark,
) -> Result<(), Broken> {
    let resumed = (!mark.time.is_empty()).then(|| mark.time.clone());
    let mut query = vec![("stdout", "1"), ("stderr", "1")];
    query.push(("tail", if resumed.is_some() { "all" } else { args.tail.as_str() }));
    query.extend(args.follow.then_some(("follow", "1")));
    query.extend(args.timestamps.then_some(("timestamps", "1")));
    query.extend(args.details.then_some(("details", "1")));
    query.extend(resumed.as_deref().or(since).map(|since| ("since", since)));
    query.extend(until.map(|until| ("until", until)));
    let path = path("containers", &args.container, "/logs")?;
    let response = app.client.send_with(Method::GET, &path, &query, &[(TIMED, "1")]).await?;
    let timed = response.headers().contains_key(TIMED);
    mark.resumable = timed;
    let media = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let framed = match media.as_deref() {
        Some(FRAMED) => true,
        Some(RAW) => false,
        _ => !has_terminal(app, &args.container).await?,
    };
    let mut body = response.into_body();
    let mut frames = Frames::default();
    let mut pending = BytesMut::new();
    let mut again = mark.shown;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::Broken(Box::new(error)))?;
        let Some(data) = frame.data_ref() else { continue };
        if !framed {
            output::write_bytes(data).map_err(Broken::Failed)?;
            continue;
        }
        pending.extend_from_slice(data);
        if timed {
            while let Some((kind, entry)) = frames.next_whole(&mut pending).map_err(failed)? {
                show_entry(kind, &entry, args.timestamps, mark, &mut again).map_err(Broken::Failed)?;
            }
            continue;
        }
        while let Some((kind, bytes)) = frames.next(&mut pending).map_err(failed)? {
            show_piece(kind, &bytes).map_err(Broken::Failed)?;
        }
    }
    Ok(())
}

fn failed(error: StreamError) -> Broken {
    Broken::Failed(Failure::from_error(&error))
}

/// Prints an entry that has its time in front, unless it was printed before.
fn show_entry(
    kind: Output,
    entry: &[u8],
    timestamps: bool,
    mark: &mut Mark,
    again: &mut usize,
) -> Result<(), Failure> {
    let space = entry.iter().position(|byte| *byte == b' ').unwrap_or(entry.len());
    let time = String::from_utf8_lossy(&entry[..space]);
    if mark.pass(&time, again) {
        return Ok(());
    }
    let text = if timestamps { entry } else { entry.get(space + 1..).unwrap_or_default() };
    show_piece(kind, text)
}

/// Prints a piece of output where it belongs.
///
/// # Errors
/// Standard output is closed, or the daemon tells of a failure.
pub fn show_piece(kind: Output, bytes: &[u8]) -> Result<(), Failure> {
    match kind {
        Output::Stdout => output::write_bytes(bytes),
        Output::Stderr => {
            output::complain_bytes(bytes);
            Ok(())
        }
        Output::Daemon => Err(Failure::new(String::from_utf8_lossy(bytes).into_owned())),
    }
}

/// For a daemon that does not say what it sends.
async fn has_terminal(app: &App, container: &str) -> Result<bool, ApiError> {
    let container: super::attach::Attachable =
        app.client.json(&path("containers", container, "/json")?, &[]).await?;
    Ok(container.config.tty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_behind_the_last_entry_even_among_entries_of_one_time() {
        let entries = ["1 a", "2 b", "2 c", "2 d", "3 e"];
        let time = |entry: &str| entry[..1].to_owned();
        for cut in 0..=entries.len() {
            let (mut mark, mut shown) = (Mark::default(), Vec::new());
            for entry in &entries[..cut] {
                if !mark.pass(&time(entry), &mut 0) {
                    shown.push(*entry);
                }
            }
            let mut again = mark.shown;
            let since = mark.time.clone();
            for entry in entries.iter().filter(|entry| time(entry) >= since) {
                if !mark.pass(&time(entry), &mut again) {
                    shown.push(*entry);
                }
            }
            assert_eq!(shown, entries, "cut at {cut}");
        }
    }
}
