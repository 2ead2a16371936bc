//! A container's log.

use hyper::header::{HeaderName, HeaderValue};
use hyper_engine::{LogLine, LogQuery, LogSource, Timestamp};

use crate::hijack;
use crate::http::{Query, Result, not_a_number};
use crate::route::Call;

/// Asks for a frame with the time in front for every entry, also for a terminal's, whatever the parameters say; sent
/// back by a daemon that does so. By the time a client can go on where it was after this daemon was ended.
const TIMED: HeaderName = HeaderName::from_static("hyper-timed");

pub(crate) async fn logs(call: Call, id: &str) -> Result {
    let query = parse(&call.query)?;
    let timed = call.request.headers().contains_key(TIMED);
    let (timestamps, details) = (timed || call.query.bool("timestamps"), call.query.bool("details"));
    let record = call.app.engine.record(id)?;
    let tty = record.options.tty && !timed;
    let mut lines = call.app.engine.logs(&record.id, query)?;
    let (sender, mut reply) = crate::http::stream(hijack::content_type(call.version, tty));
    if timed {
        reply.headers_mut().insert(TIMED, HeaderValue::from_static("1"));
    }
    tokio::spawn(async move {
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = sender.closed() => return,
            };
            match line {
                Ok(Some(mut line)) => {
                    if details {
                        let each = line
                            .attributes
                            .iter()
                            .map(|(key, value)| format!("{}={}", encode(key), encode(value)));
                        let shown = each.collect::<Vec<_>>().join(",");
                        line.text.insert_str(0, &format!("{shown} "));
                    }
                    if sender.send(frame(&line, tty, timestamps)).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot read a log");
                    return;
                }
            }
        }
    });
    Ok(reply)
}

/// Text as Go's `url.QueryEscape` has it.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            b' ' => "+".to_owned(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

pub(super) fn parse(query: &Query) -> Result<LogQuery> {
    let time = |name: &str| -> Result<Option<Timestamp>> {
        match query.get(name) {
            "" => Ok(None),
            // Go's clients write zero for "none".
            "0" | "0.000000000" if name == "until" => Ok(None),
            text => Timestamp::parse(text).map(Some).ok_or_else(|| not_a_number("ParseInt", text).blamed()),
        }
    };
    let tail = match query.get("tail") {
        "" | "all" => None,
        // Docker takes what is no number for all.
        text => text.parse::<i64>().ok().and_then(|lines| usize::try_from(lines).ok()),
    };
    Ok(LogQuery {
        stdout: query.bool("stdout"),
        stderr: query.bool("stderr"),
        since: time("since")?,
        until: time("until")?,
        tail,
        follow: query.bool("follow"),
    })
}

/// An entry as it goes over the wire: with docker's 8-byte header, or raw for a terminal.
pub(super) fn frame(line: &LogLine, tty: bool, timestamps: bool) -> Vec<u8> {
    let text = match timestamps {
        true => format!("{} {}", line.time_text, line.text),
        false => line.text.clone(),
    };
    if tty {
        return text.into_bytes();
    }
    let number = match line.source {
        LogSource::Stdout => 1,
        LogSource::Stderr => 2,
    };
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut frame = vec![number, 0, 0, 0];
    frame.extend(length.to_be_bytes());
    frame.extend(text.into_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_dockers_header() {
        let line = LogLine {
            source: LogSource::Stderr,
            time: Timestamp(0),
            time_text: "1970-01-01T00:00:00.000000000Z".into(),
            text: "hi\n".into(),
            attributes: Default::default(),
        };
        assert_eq!(frame(&line, false, false), b"\x02\0\0\0\0\0\0\x03hi\n");
        assert_eq!(frame(&line, true, true), b"1970-01-01T00:00:00.000000000Z hi\n");
    }

    #[test]
    fn query_is_read_as_docker_reads_it() {
        let query = parse(&Query::parse(Some("stdout=1&tail=10&since=1.5&until=0&follow=true"))).unwrap();
        assert_eq!(query.tail, Some(10));
        assert_eq!(query.since, Some(Timestamp(1_500_000_000)));
        assert_eq!(query.until, None);
        assert!(query.stdout && !query.stderr && query.follow);
        assert!(parse(&Query::parse(Some("since=x"))).is_err());
    }
}
