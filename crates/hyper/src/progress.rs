//! The daemon's progress messages: bars on a terminal, docker's plain lines elsewhere.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;

use crate::client::{ApiError, JsonLines};
use crate::error::Failure;
use crate::format::harmless;
use crate::output;
use crate::stream::{stderr_is_terminal, stdout_is_terminal};

/// Redraws per second.
const REDRAW_HZ: u8 = 12;
/// Most bars at once: as many layers as an image may have.
const MAX_BARS: usize = 512;
/// Most text kept for below the bars, in bytes: a pull has two lines there.
const MAX_CLOSING: usize = 64 << 10;

/// Where the progress goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Standard output: `pull`, `load`, `import`.
    Stdout,
    /// Standard error: a pull on the way to a container.
    Stderr,
    /// Nowhere.
    Nothing,
}

/// A message as pull, load and import send it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Message {
    id: String,
    status: String,
    stream: String,
    #[serde(rename = "progressDetail")]
    progress: Option<Progress>,
    error: String,
    #[serde(rename = "errorDetail")]
    error_detail: Option<ErrorDetail>,
    aux: serde_json::Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Progress {
    current: u64,
    total: u64,
}

#[derive(Debug, Deserialize)]
struct ErrorDetail {
    message: String,
}

/// Shows the messages until the stream ends.
///
/// # Errors
/// The error in the stream, a broken connection, or a reader that went away.
pub async fn show(mut lines: JsonLines, to: To) -> Result<(), Failure> {
    let mut screen = Screen::new(to);
    while let Some(message) = lines.next::<Message>().await? {
        if let Some(text) = error_of(&message) {
            screen.finish()?;
            return Err(ApiError::Daemon { status: 500, message: text }.into());
        }
        screen.show(&message)?;
    }
    screen.finish()
}

fn error_of(message: &Message) -> Option<String> {
    match &message.error_detail {
        Some(detail) if !detail.message.is_empty() => Some(detail.message.clone()),
        _ => (!message.error.is_empty()).then(|| message.error.clone()),
    }
}

struct Screen {
    to: To,
    bars: Option<Bars>,
}

impl Screen {
    fn new(to: To) -> Self {
        let bars = match to {
            To::Stdout if stdout_is_terminal() => Some(ProgressDrawTarget::stdout_with_hz(REDRAW_HZ)),
            To::Stderr if stderr_is_terminal() => Some(ProgressDrawTarget::stderr_with_hz(REDRAW_HZ)),
            _ => None,
        };
        Self { to, bars: bars.map(Bars::new) }
    }

    fn show(&mut self, message: &Message) -> Result<(), Failure> {
        if let Some(bars) = &mut self.bars {
            bars.show(message);
            return Ok(());
        }
        match (self.to, plain(message)) {
            (To::Nothing, _) | (_, None) => Ok(()),
            (To::Stdout, Some(text)) => output::write(&text),
            (To::Stderr, Some(text)) => {
                output::complain(&text);
                Ok(())
            }
        }
    }

    fn finish(&mut self) -> Result<(), Failure> {
        let closing = self.bars.as_mut().map(Bars::finish).unwrap_or_default();
        match self.to {
            To::Stdout => output::write(&closing),
            To::Stderr | To::Nothing => {
                output::complain(&closing);
                Ok(())
            }
        }
    }
}

/// A message's line without a terminal; what only moves a bar has none.
fn plain(message: &Message) -> Option<String> {
    if !message.aux.is_null() || message.progress.as_ref().is_some_and(|progress| progress.current > 0) {
        return None;
    }
    if !message.stream.is_empty() {
        return Some(harmless(&message.stream));
    }
    let lead = if message.id.is_empty() { String::new() } else { format!("{}: ", message.id) };
    Some(harmless(&format!("{lead}{}\n", message.status)))
}

struct Bars {
    multi: MultiProgress,
    by_id: HashMap<String, ProgressBar>,
    moving: ProgressStyle,
    still: ProgressStyle,
    /// Lines that belong below the bars.
    closing: String,
}

impl Bars {
    fn new(target: ProgressDrawTarget) -> Self {
        let style =
            |template| ProgressStyle::with_template(template).expect("our own template is well-formed");
        Self {
            multi: MultiProgress::with_draw_target(target),
            by_id: HashMap::new(),
            moving: style("{prefix}: {msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes}")
                .progress_chars("=> "),
            still: style("{prefix}: {msg}"),
            closing: String::new(),
        }
    }

    fn show(&mut self, message: &Message) {
        if !message.aux.is_null() {
            return;
        }
        let text = if message.stream.is_empty() { &message.status } else { &message.stream };
        // The first line of a pull carries the tag as its id and is no layer.
        let is_layer = !message.id.is_empty() && message.progress.is_some();
        let known = self.by_id.contains_key(&message.id);
        if !(is_layer || known) || self.by_id.len() >= MAX_BARS {
            let lead = if message.id.is_empty() { String::new() } else { format!("{}: ", message.id) };
            let line = harmless(&format!("{lead}{}\n", text.trim_end()));
            match self.by_id.is_empty() {
                true => drop(self.multi.println(line.trim_end())),
                false if self.closing.len() < MAX_CLOSING => self.closing += &line,
                false => {}
            }
            return;
        }
        let (multi, still) = (&self.multi, &self.still);
        let bar = self.by_id.entry(message.id.clone()).or_insert_with(|| {
            let bar = ProgressBar::new(0).with_style(still.clone()).with_prefix(harmless(&message.id));
            multi.add(bar)
        });
        match &message.progress {
            Some(progress) if progress.total > 0 => {
                bar.set_style(self.moving.clone());
                bar.set_length(progress.total);
                bar.set_position(progress.current);
            }
            _ => bar.set_style(self.still.clone()),
        }
        bar.set_message(harmless(text));
        bar.tick();
    }

    /// Leaves every layer's last line on the screen and gives the lines for below.
    fn finish(&mut self) -> String {
        for bar in self.by_id.values() {
            bar.abandon();
        }
        std::mem::take(&mut self.closing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(json: &str) -> Message {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn plain_lines_leave_out_what_only_moves_a_bar() {
        let table = [
            (r#"{"status":"Pulling from debian","id":"12"}"#, Some("12: Pulling from debian\n")),
            (
                r#"{"status":"Pulling fs layer","progressDetail":{},"id":"ab"}"#,
                Some("ab: Pulling fs layer\n"),
            ),
            (r#"{"status":"Downloading","progressDetail":{"current":5,"total":9},"id":"ab"}"#, None),
            (r#"{"status":"Digest: sha256:0"}"#, Some("Digest: sha256:0\n")),
            (r#"{"stream":"Loaded image: bb\n"}"#, Some("Loaded image: bb\n")),
            (r#"{"aux":{"x":1}}"#, None),
        ];
        for (json, line) in table {
            assert_eq!(plain(&message(json)).as_deref(), line, "{json}");
        }
    }

    #[test]
    fn an_error_in_the_stream_is_found() {
        assert_eq!(
            error_of(&message(r#"{"error":"x","errorDetail":{"message":"full"}}"#)).as_deref(),
            Some("full")
        );
        assert_eq!(error_of(&message(r#"{"error":"x"}"#)).as_deref(), Some("x"));
        assert_eq!(error_of(&message(r#"{"status":"x"}"#)), None);
    }
}
