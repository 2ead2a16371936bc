//! Health checks: a program that is run in the container again and again, and what its exit codes say.
//!
//! As docker has it: healthy with the first success, unhealthy after so many failures in a row; failures do not count
//! within the start period of a container that was never healthy. A container without a check has no task and no row.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_image::Healthcheck;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::task::AbortHandle;

use crate::attach::Attachment;
use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::options::{ContainerOptions, Phase};
use crate::registry::Container;
use crate::signal;
use crate::spec::ExecOptions;

/// Between two probes, unless told otherwise: docker's default, as are the next ones.
const INTERVAL: Duration = Duration::from_secs(30);
/// For one probe.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Between two probes in the start period.
const START_INTERVAL: Duration = Duration::from_secs(5);
/// Failures in a row that make a container unhealthy.
const RETRIES: u64 = 3;
/// Results kept.
const LOG_MAX: usize = 5;
/// Bytes of a probe's output that are kept.
const OUTPUT_MAX: usize = 4096;
/// The shortest time that may be asked for, in nanoseconds.
const SHORTEST: i64 = 1_000_000;

/// How long the start of a probe's process may take; the probe's own time begins after it.
const STARTING: Duration = Duration::from_secs(30);
/// How long a probe that was killed, and the rest of its output, are waited for.
const ENDING: Duration = Duration::from_secs(2);

/// What the probes say of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// No probe has succeeded, and not enough have failed.
    #[default]
    Starting,
    /// The last ones succeeded.
    Healthy,
    /// Too many failed in a row, or nobody asks any more.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl fmt::Display for HealthStatus {
    /// As `ps` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Starting { "health: starting" } else { self.word() })
    }
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// Its exit code; -1 when there is none.
    pub exit_code: i64,
    /// The beginning of what it wrote, or why there is no exit code.
    pub output: String,
}

/// A container's health.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What the probes say.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u64,
    /// The last probes, oldest first.
    pub log: VecDeque<ProbeResult>,
}

impl Health {
    /// Takes a result in.
    fn note(&mut self, result: ProbeResult, check: &Healthcheck, started: Timestamp) {
        let within_start = result.start.0.saturating_sub(started.0) < check.start_period;
        if result.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if self.status != HealthStatus::Starting || !within_start {
            self.failing_streak += 1;
            let retries = u64::try_from(check.retries).ok().filter(|retries| *retries > 0);
            if self.failing_streak >= retries.unwrap_or(RETRIES) {
                self.status = HealthStatus::Unhealthy;
            }
        }
        if self.log.len() >= LOG_MAX {
            self.log.drain(..=self.log.len() - LOG_MAX);
        }
        self.log.push_back(result);
    }
}

/// What a container has of its health.
#[derive(Debug, Default)]
pub(crate) struct HealthState {
    health: Mutex<Option<Health>>,
    task: Mutex<Option<AbortHandle>>,
}

impl HealthState {
    /// What is known of it.
    pub(crate) fn read(&self) -> Option<Health> {
        self.lock().clone()
    }

    pub(crate) fn set(&self, health: Option<Health>) {
        *self.lock() = health;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Health>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace_task(&self, task: Option<AbortHandle>) -> bool {
        let old = std::mem::replace(&mut *self.task.lock().unwrap_or_else(PoisonError::into_inner), task);
        old.inspect(AbortHandle::abort).is_some()
    }
}

/// Adds what the image says of the check where the caller said nothing.
pub(crate) fn merge(given: &mut Option<Healthcheck>, image: Option<&Healthcheck>) {
    let Some(image) = image else { return };
    let Some(given) = given else {
        *given = Some(image.clone());
        return;
    };
    if given.test.is_empty() {
        given.test.clone_from(&image.test);
    }
    for (given, image) in [
        (&mut given.interval, image.interval),
        (&mut given.timeout, image.timeout),
        (&mut given.start_period, image.start_period),
        (&mut given.start_interval, image.start_interval),
        (&mut given.retries, image.retries),
    ] {
        if *given == 0 {
            *given = image;
        }
    }
}

/// Refuses a check that cannot be run.
pub(crate) fn check(options: &ContainerOptions) -> Result<()> {
    let Some(check) = &options.healthcheck else { return Ok(()) };
    for (name, time) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ] {
        if time != 0 && time < SHORTEST {
            return Err(EngineError::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
    }
    if check.retries < 0 {
        return Err(EngineError::invalid("Retries in Healthcheck cannot be negative"));
    }
    match check.test.first().map(String::as_str) {
        None | Some("NONE" | "CMD" | "CMD-SHELL") => {}
        Some(other) => {
            return Err(EngineError::invalid(format!(
                "unknown type {other:?} of Healthcheck.Test: there are \"CMD\", \"CMD-SHELL\" and \"NONE\""
            )));
        }
    }
    if check.test.iter().any(|word| word.contains('\0')) {
        return Err(EngineError::invalid("options must not contain NUL bytes"));
    }
    Ok(())
}

/// The probe's program and arguments; `None` where nothing is probed.
fn command(options: &ContainerOptions) -> Option<Vec<String>> {
    let (kind, words) = options.healthcheck.as_ref()?.test.split_first()?;
    let shell = match kind.as_str() {
        "CMD" => Vec::new(),
        "CMD-SHELL" if options.shell.is_empty() => vec!["/bin/sh".to_owned(), "-c".to_owned()],
        "CMD-SHELL" => options.shell.clone(),
        _ => return None,
    };
    Some([shell, words.to_vec()].concat()).filter(|words| !words.is_empty())
}

/// A time of the check, or its default.
fn time(nanoseconds: i64, default: Duration) -> Duration {
    u64::try_from(nanoseconds).ok().filter(|time| *time > 0).map_or(default, Duration::from_nanos)
}

impl Engine {
    /// Begins to probe a container that has just started, if it has a check.
    pub(crate) async fn begin_health(&self, container: &Arc<Container>) {
        if command(&container.lock().options).is_none() {
            return;
        }
        let log = container.health.read().map(|health| health.log).unwrap_or_default();
        container.health.set(Some(Health { log, ..Health::default() }));
        self.write_health(container).await;
        self.go_on_with_health(container);
    }

    /// Probes a container that runs, if it has a check, from what is known of it on.
    pub(crate) fn go_on_with_health(&self, container: &Arc<Container>) {
        let (command, started) = {
            let record = container.lock();
            (command(&record.options), record.state.started_at)
        };
        let Some(command) = command else { return };
        container.health.lock().get_or_insert_default();
        let (engine, id) = (self.clone(), container.id.clone());
        let started = started.unwrap_or_else(Timestamp::now);
        let task = tokio::spawn(async move { engine.probe_for_ever(&id, &command, started).await });
        container.health.replace_task(Some(task.abort_handle()));
    }

    /// Ends the probing of a container, which counts as unhealthy from then on, as docker has it.
    pub(crate) async fn end_health(&self, container: &Container) {
        if !container.health.replace_task(None) {
            return;
        }
        if let Some(health) = container.health.lock().as_mut() {
            health.status = HealthStatus::Unhealthy;
        }
        self.write_health(container).await;
    }

    async fn probe_for_ever(&self, id: &str, command: &[String], started: Timestamp) {
        loop {
            let Ok(container) = self.shared.registry.find(id) else { return };
            let Some(check) = container.lock().options.healthcheck.clone() else { return };
            let status = container.health.read().map(|health| health.status).unwrap_or_default();
            drop(container);
            let age = Timestamp::now().0.saturating_sub(started.0);
            let pause = if age < check.start_period && status == HealthStatus::Starting {
                time(check.start_interval, START_INTERVAL)
            } else {
                time(check.interval, INTERVAL)
            };
            tokio::time::sleep(pause).await;
            let start = Timestamp::now();
            let probed = self.probe(id, command, time(check.timeout, TIMEOUT)).await;
            let (exit_code, output) = probed.unwrap_or_else(|error| (-1, error.report()));
            let result = ProbeResult { start, end: Timestamp::now(), exit_code, output };
            let Ok(container) = self.shared.registry.find(id) else { return };
            if container.lock().state.phase != Phase::Running {
                return;
            }
            let (before, after) = {
                let mut health = container.health.lock();
                let health = health.get_or_insert_default();
                let before = health.status;
                health.note(result, &check, started);
                (before, health.status)
            };
            self.write_health(&container).await;
            if before != after {
                let action = format!("health_status: {}", after.word());
                self.shared.container_event(&container.record(), &action, &[]);
            }
        }
    }

    /// Runs the probe once: its exit code and what it wrote.
    async fn probe(&self, container: &str, command: &[String], patience: Duration) -> Result<(i64, String)> {
        let options = ExecOptions {
            cmd: command.to_vec(),
            attach_stdout: true,
            attach_stderr: true,
            ..ExecOptions::default()
        };
        let id = self.create_exec(container, options).await?;
        let probed = self.probe_in(&id, patience).await;
        self.forget_exec(&id);
        probed
    }

    async fn probe_in(&self, exec: &str, patience: Duration) -> Result<(i64, String)> {
        let starting = tokio::time::timeout(STARTING, self.start_exec(exec, false, None)).await;
        let slow = || EngineError::new(Kind::System, "timed out starting health check");
        let attachment = starting.map_err(|_| slow())??;
        let output = Arc::new(Mutex::new(Output::default()));
        let reading = tokio::spawn(read(attachment, output.clone()));
        let ended = tokio::time::timeout(patience, self.exec_ended(exec)).await.is_ok();
        if !ended {
            self.kill_exec(exec, signal::KILL).await;
            let _ = tokio::time::timeout(ENDING, self.exec_ended(exec)).await;
        }
        let abort = reading.abort_handle();
        let _ = tokio::time::timeout(ENDING, reading).await;
        abort.abort();
        let text = output.lock().unwrap_or_else(PoisonError::into_inner).text();
        if !ended {
            let exceeded = format!("Health check exceeded timeout ({})", go_duration(patience));
            return Ok((-1, if text.is_empty() { exceeded } else { format!("{exceeded}: {text}") }));
        }
        match self.inspect_exec(exec)?.exit_code {
            Some(code) => Ok((code, text)),
            None => Err(EngineError::new(Kind::System, "the health check has no exit code")),
        }
    }

    /// Writes a container's health down; a power failure may take the last of it.
    async fn write_health(&self, container: &Container) {
        let Some(health) = container.health.read() else { return };
        if container.lock().options.auto_remove {
            // After a crash of the daemon it begins anew.
            return;
        }
        if let Err(error) = self.shared.db.put_health(&container.id, &health).await {
            tracing::warn!(container = container.id, error = %error.report(), "cannot write a container's health");
        }
    }
}

/// What a probe wrote, as far as it is kept.
#[derive(Debug, Default)]
struct Output {
    bytes: Vec<u8>,
    cut: bool,
}

impl Output {
    fn add(&mut self, bytes: &[u8]) {
        let room = OUTPUT_MAX - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.cut |= bytes.len() > room;
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        format!("{text}{}", if self.cut { "..." } else { "" })
    }
}

/// Reads frames, each a stream's number, three zeros and a length, to the end.
async fn read(attachment: Option<Attachment>, output: Arc<Mutex<Output>>) {
    let Some(attachment) = attachment else { return };
    let Some(mut process) = attachment.stream().await else { return };
    let mut header = [0_u8; 8];
    let mut piece = vec![0_u8; 4096];
    while process.stream.read_exact(&mut header).await.is_ok() {
        let mut left = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        while left > 0 {
            let part = left.min(piece.len());
            let Ok(read @ 1..) = process.stream.read(&mut piece[..part]).await else { return };
            output.lock().unwrap_or_else(PoisonError::into_inner).add(&piece[..read]);
            left -= read;
        }
    }
}

/// A duration as Go prints it, in seconds or less.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) if duration < Duration::from_secs(1) => format!("{}ms", duration.as_secs_f64() * 1e3),
        (0, 0) => format!("{}s", duration.as_secs_f64()),
        (0, minutes) => format!("{minutes}m{}s", duration.as_secs_f64() - (minutes * 60) as f64),
        (hours, minutes) => {
            format!("{hours}h{minutes}m{}s", duration.as_secs_f64() - ((hours * 60 + minutes) * 60) as f64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn result(at: i64, exit_code: i64) -> ProbeResult {
        ProbeResult { start: Timestamp(at), end: Timestamp(at), exit_code, output: String::new() }
    }

    fn statuses(check: &Healthcheck, results: &[(i64, i64)]) -> Vec<&'static str> {
        let mut health = Health::default();
        let each = results.iter().map(|(at, code)| {
            health.note(result(at * SECOND, *code), check, Timestamp(0));
            health.status.word()
        });
        each.collect()
    }

    #[test]
    fn failures_in_a_row_make_unhealthy_and_one_success_heals() {
        let check = Healthcheck { retries: 2, ..Healthcheck::default() };
        let seen = statuses(&check, &[(1, 1), (2, 0), (3, 1), (4, -1), (5, 0)]);
        assert_eq!(seen, ["starting", "healthy", "healthy", "unhealthy", "healthy"]);
        let default = statuses(&Healthcheck::default(), &[(1, 1), (2, 1), (3, 1)]);
        assert_eq!(default, ["starting", "starting", "unhealthy"]);
    }

    #[test]
    fn failures_within_the_start_period_do_not_count_before_the_first_success() {
        let check = Healthcheck { retries: 1, start_period: 10 * SECOND, ..Healthcheck::default() };
        assert_eq!(statuses(&check, &[(1, 1), (9, 1), (10, 1)]), ["starting", "starting", "unhealthy"]);
        assert_eq!(statuses(&check, &[(1, 0), (2, 1)]), ["healthy", "unhealthy"]);
    }

    #[test]
    fn five_results_are_kept() {
        let mut health = Health::default();
        for at in 0..9 {
            health.note(result(at, 0), &Healthcheck::default(), Timestamp(0));
        }
        assert_eq!(health.log.iter().map(|result| result.start.0).collect::<Vec<_>>(), [4, 5, 6, 7, 8]);
    }

    #[test]
    fn images_fill_what_callers_leave_out() {
        let image =
            Healthcheck { test: vec!["CMD".into(), "x".into()], retries: 7, ..Healthcheck::default() };
        let mut given = Some(Healthcheck { interval: 5, ..Healthcheck::default() });
        merge(&mut given, Some(&image));
        let merged = given.unwrap();
        assert_eq!((merged.test.len(), merged.interval, merged.retries), (2, 5, 7));
        let mut none = Some(Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() });
        merge(&mut none, Some(&image));
        let options = ContainerOptions { healthcheck: none, ..ContainerOptions::default() };
        assert_eq!(command(&options), None);
    }

    #[test]
    fn output_is_bounded() {
        let mut output = Output::default();
        output.add(&[b'x'; 5000]);
        output.add(b"y");
        assert_eq!(output.text().len(), OUTPUT_MAX + 3);
        assert!(output.text().ends_with("x..."));
    }

    #[test]
    fn durations_are_written_as_go_does() {
        for (duration, text) in [
            (Duration::from_millis(500), "500ms"),
            (Duration::from_secs(1), "1s"),
            (Duration::from_millis(1500), "1.5s"),
            (Duration::from_secs(90), "1m30s"),
            (Duration::from_secs(3600), "1h0m0s"),
        ] {
            assert_eq!(go_duration(duration), text);
        }
    }
}
