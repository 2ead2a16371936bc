//! What containers use, their processes, and where the time of a start went.

use std::time::Duration;

use hyper_engine::{HostMemory, Process, Stats, Step, Timestamp};
use serde_json::{Map, Value, json};

use crate::http::{Result, ok};
use crate::route::Call;

/// Between two pieces of streamed statistics: docker's.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) async fn stats(call: Call, id: &str) -> Result {
    let engine = call.app.engine.clone();
    let record = engine.record(id)?;
    let (id, name) = (record.id, record.name);
    let live = !call.query.has("stream") || call.query.bool("stream");
    let one_shot = call.query.bool("one-shot");
    if !live {
        let before =
            if one_shot { None } else { engine.stats(&id).await?.map(|stats| (stats, Timestamp::now())) };
        if before.is_some() {
            tokio::time::sleep(INTERVAL).await;
        }
        let (now, host) = (engine.stats(&id).await?, engine.host_memory(&id).await?);
        return ok(&render(&id, &name, now.as_ref(), before.as_ref(), host));
    }
    let (sender, reply) = crate::http::stream("application/json");
    tokio::spawn(async move {
        let mut before: Option<(Stats, Timestamp)> = None;
        loop {
            // A container that is gone ends the stream.
            let Ok(now) = engine.stats(&id).await else { return };
            let Ok(host) = engine.host_memory(&id).await else { return };
            let line = format!("{}\n", render(&id, &name, now.as_ref(), before.as_ref(), host));
            if sender.send(line).await.is_err() {
                return;
            }
            before = now.map(|stats| (stats, Timestamp::now()));
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = sender.closed() => return,
            }
        }
    });
    Ok(reply)
}

pub(super) fn render(
    id: &str,
    name: &str,
    now: Option<&Stats>,
    before: Option<&(Stats, Timestamp)>,
    host: Option<HostMemory>,
) -> Value {
    let read = now.map_or_else(|| Timestamp::NEVER.to_owned(), |_| Timestamp::now().to_string());
    let preread = before.map_or_else(|| Timestamp::NEVER.to_owned(), |(_, at)| at.to_string());
    let mut value = json!({
        "name": format!("/{name}"),
        "id": id,
        "read": read,
        "preread": preread,
        "num_procs": 0,
        "pids_stats": now.map_or_else(|| json!({}), pids),
        "blkio_stats": now.map_or_else(|| json!({}), block),
        "storage_stats": {},
        "cpu_stats": cpu(now),
        "precpu_stats": cpu(before.map(|(stats, _)| stats)),
        "memory_stats": now.map_or_else(|| json!({}), memory),
    });
    if let Some(host) = host {
        // What the pod costs the host, beside what the container uses in the guest.
        value["hyper"] = json!({"host_memory": {
            "pss": host.proportional,
            "private": host.private,
            "shared": host.shared,
            "absent": host.absent,
        }});
    }
    if let Some(now) = now.filter(|now| !now.networks.is_empty()) {
        value["networks"] =
            Value::Object(now.networks.iter().map(|(name, at)| (name.clone(), network(at))).collect());
    }
    value
}

fn pids(stats: &Stats) -> Value {
    let mut pids = json!({"current": stats.pids});
    if stats.pids_limit > 0 {
        pids["limit"] = stats.pids_limit.into();
    }
    pids
}

fn block(stats: &Stats) -> Value {
    let entries = |read: u64, write: u64| {
        json!([
            {"major": 0, "minor": 0, "op": "read", "value": read},
            {"major": 0, "minor": 0, "op": "write", "value": write},
        ])
    };
    json!({
        "io_service_bytes_recursive": entries(stats.read_bytes, stats.write_bytes),
        "io_serviced_recursive": entries(stats.read_ops, stats.write_ops),
        "io_queue_recursive": null,
        "io_service_time_recursive": null,
        "io_wait_time_recursive": null,
        "io_merged_recursive": null,
        "io_time_recursive": null,
        "sectors_recursive": null,
    })
}

/// Processor time. `system_cpu_usage` is what clients divide by: the time that passed on all of the guest's processors.
fn cpu(stats: Option<&Stats>) -> Value {
    let Some(stats) = stats else {
        return json!({
            "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        });
    };
    json!({
        "cpu_usage": {
            "total_usage": stats.cpu_usage_us.saturating_mul(1000),
            "usage_in_kernelmode": stats.cpu_system_us.saturating_mul(1000),
            "usage_in_usermode": stats.cpu_user_us.saturating_mul(1000),
        },
        "system_cpu_usage": stats.guest_cpu_us.saturating_mul(1000),
        "online_cpus": stats.cpus,
        "throttling_data": {
            "periods": stats.cpu_periods,
            "throttled_periods": stats.cpu_throttled_periods,
            "throttled_time": stats.cpu_throttled_us.saturating_mul(1000),
        },
    })
}

fn memory(stats: &Stats) -> Value {
    json!({
        "usage": stats.memory_usage,
        "stats": stats.memory_stat,
        "limit": stats.memory_limit,
    })
}

fn network(counters: &hyper_engine::InterfaceStats) -> Value {
    json!({
        "rx_bytes": counters.rx_bytes,
        "rx_packets": counters.rx_packets,
        "rx_errors": counters.rx_errors,
        "rx_dropped": counters.rx_dropped,
        "tx_bytes": counters.tx_bytes,
        "tx_packets": counters.tx_packets,
        "tx_errors": counters.tx_errors,
        "tx_dropped": counters.tx_dropped,
    })
}

/// Processes in the columns of `ps -ef`, or `ps aux`.
pub(crate) async fn top(call: Call, id: &str) -> Result {
    let processes = call.app.engine.processes(id).await?;
    let (titles, rows) = table(call.query.get("ps_args"), &processes)?;
    ok(&json!({"Titles": titles, "Processes": rows}))
}

/// Headings and rows for what ps arguments ask for.
pub(super) fn table(arguments: &str, processes: &[Process]) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    let wide = match arguments.trim() {
        "" | "-ef" | "ef" => false,
        "aux" | "-aux" => true,
        other => return super::top::table(other, processes),
    };
    let now = Timestamp::now().seconds();
    let titles = match wide {
        true => &["USER", "PID", "START", "TTY", "TIME", "COMMAND"][..],
        false => &["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"],
    };
    let row = |process: &Process| match wide {
        true => aux_row(process, now).to_vec(),
        false => ef_row(process, now).to_vec(),
    };
    Ok((titles.iter().map(|title| (*title).to_owned()).collect(), processes.iter().map(row).collect()))
}

/// Hour and minute of today, or the date.
pub(super) fn start_time(process: &Process, now: i64) -> String {
    let text = Timestamp::from_parts(process.started_unix, 0).to_string();
    let range = if now - process.started_unix < 24 * 3600 { 11..16 } else { 0..10 };
    text.get(range).unwrap_or_default().to_owned()
}

pub(super) fn processor_time(process: &Process) -> String {
    let seconds = process.cpu_ms / 1000;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

pub(super) fn user(process: &Process) -> String {
    if process.uid == 0 { "root".to_owned() } else { process.uid.to_string() }
}

fn ef_row(process: &Process, now: i64) -> [String; 8] {
    let age_ms = u64::try_from((now - process.started_unix).max(1)).unwrap_or(1) * 1000;
    [
        user(process),
        process.pid.to_string(),
        process.ppid.to_string(),
        (process.cpu_ms * 100 / age_ms).to_string(),
        start_time(process, now),
        process.tty.clone(),
        processor_time(process),
        process.command.clone(),
    ]
}

fn aux_row(process: &Process, now: i64) -> [String; 6] {
    [
        user(process),
        process.pid.to_string(),
        start_time(process, now),
        process.tty.clone(),
        processor_time(process),
        process.command.clone(),
    ]
}

/// Steps of a container's last start, in microseconds since the first one's beginning; with `started`, of the start that
/// is about to come.
pub(crate) async fn timeline(call: Call, id: &str) -> Result {
    let engine = &call.app.engine;
    let steps = match call.query.bool("started") {
        true => engine.timeline_once_started(id).await?,
        false => engine.timeline(id).await?,
    };
    ok(&phases(&steps))
}

/// Steps as clients get them.
pub(super) fn phases(steps: &[Step]) -> Value {
    let origin =
        steps.iter().filter(|step| step.clock == "host").map(|step| step.start_us).min().unwrap_or(0);
    json!({
        "phases": steps.iter().map(|step| phase(step, origin)).collect::<Vec<_>>(),
        "origin_unix_us": origin.max(0),
    })
}

fn phase(step: &Step, origin: i64) -> Value {
    let mut phase = Map::new();
    phase.insert("name".into(), step.name.clone().into());
    phase.insert("start_us".into(), (step.start_us - origin).max(0).into());
    phase.insert("end_us".into(), (step.end_us - origin).max(0).into());
    phase.insert("clock".into(), step.clock.clone().into());
    Value::Object(phase)
}
