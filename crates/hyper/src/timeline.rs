//! Where a run's time goes: the CLI's own phases and, from the daemon, the pod's.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

/// Collects named spans since the program began.
pub struct Timeline {
    origin: Instant,
    origin_unix_us: u64,
    spans: Mutex<Vec<Span>>,
}

/// A span in microseconds since the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    name: String,
    start_us: u64,
    end_us: u64,
    clock: String,
}

/// The daemon's answer to `GET /hyper/containers/{id}/timeline`.
#[derive(Debug, Deserialize)]
pub struct DaemonTimeline {
    /// The phases, in any order.
    #[serde(default)]
    phases: Vec<DaemonPhase>,
    /// The origin of the `host` clock, in microseconds since 1970.
    #[serde(default)]
    origin_unix_us: u64,
}

#[derive(Debug, Deserialize)]
struct DaemonPhase {
    name: String,
    start_us: u64,
    end_us: u64,
    #[serde(default)]
    clock: String,
}

impl Timeline {
    /// A timeline that begins now.
    pub fn new() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { origin: Instant::now(), origin_unix_us: micros(unix), spans: Mutex::new(Vec::new()) }
    }

    /// Microseconds since the origin.
    pub fn now(&self) -> u64 {
        micros(self.origin.elapsed())
    }

    /// Records a span from `start_us` until now.
    pub fn record(&self, name: &str, start_us: u64) {
        let span = Span { name: name.to_owned(), start_us, end_us: self.now(), clock: "cli".to_owned() };
        if let Ok(mut spans) = self.spans.lock() {
            spans.push(span);
        }
    }

    /// The table of all phases: our own and the daemon's, by start.
    pub fn render(&self, daemon: Option<&DaemonTimeline>) -> String {
        let mut spans = self.spans.lock().map(|spans| spans.clone()).unwrap_or_default();
        let mut guest = Vec::new();
        if let Some(daemon) = daemon {
            for phase in &daemon.phases {
                let on_guest = phase.clock == "guest";
                let shift = if on_guest {
                    0
                } else {
                    i128::from(daemon.origin_unix_us) - i128::from(self.origin_unix_us)
                };
                let span = Span {
                    name: phase.name.clone(),
                    start_us: shifted(phase.start_us, shift),
                    end_us: shifted(phase.end_us, shift),
                    clock: if on_guest { "guest".into() } else { "host".into() },
                };
                if on_guest { guest.push(span) } else { spans.push(span) }
            }
        }
        spans.sort_by_key(|span| span.start_us);
        guest.sort_by_key(|span| span.start_us);
        table(spans.iter().chain(&guest), self.now())
    }
}

fn table<'a>(spans: impl Iterator<Item = &'a Span>, total_us: u64) -> String {
    let mut text = format!("{:<28} {:>6} {:>12} {:>12}\n", "PHASE", "CLOCK", "START", "TOOK");
    for span in spans {
        let took = span.end_us.saturating_sub(span.start_us);
        let _ = writeln!(
            text,
            "{:<28} {:>6} {:>9} ms {:>9} ms",
            span.name,
            span.clock,
            millis(span.start_us),
            millis(took)
        );
    }
    let _ = writeln!(text, "{:<28} {:>6} {:>12} {:>9} ms", "total", "cli", "", millis(total_us));
    text
}

fn millis(micros: u64) -> String {
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn shifted(at: u64, by: i128) -> u64 {
    u64::try_from((i128::from(at) + by).max(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_phases_move_to_our_origin_and_guest_phases_follow() {
        let timeline =
            Timeline { origin: Instant::now(), origin_unix_us: 1_000_000, spans: Mutex::new(Vec::new()) };
        timeline.spans.lock().unwrap().push(Span {
            name: "create".into(),
            start_us: 100,
            end_us: 5_100,
            clock: "cli".into(),
        });
        let daemon: DaemonTimeline = serde_json::from_str(
            r#"{"origin_unix_us":1002000,"phases":[
                {"name":"init","start_us":0,"end_us":7,"clock":"guest"},
                {"name":"boot","start_us":500,"end_us":1500,"clock":"host"}]}"#,
        )
        .unwrap();
        let text = timeline.render(Some(&daemon));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "create                          cli     0.100 ms     5.000 ms");
        assert_eq!(lines[2], "boot                           host     2.500 ms     1.000 ms");
        assert_eq!(lines[3], "init                          guest     0.000 ms     0.007 ms");
        assert!(lines[4].starts_with("total"));
    }
}
