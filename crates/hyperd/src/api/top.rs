//! The columns of `ps -o`, for those that a VM can tell of its processes.

use hyper_engine::{Process, Timestamp};

use super::stats::{processor_time, start_time, user};
use crate::http::{ApiError, Result};

/// A column: its names, its heading, and what stands in it.
type Column = (&'static [&'static str], &'static str, fn(&Process, i64) -> String);

/// Columns by the names that procps has for them.
const COLUMNS: [Column; 13] = [
    (&["pid", "tgid"], "PID", |process, _| process.pid.to_string()),
    (&["ppid"], "PPID", |process, _| process.ppid.to_string()),
    (&["user", "euser", "uname"], "USER", |process, _| user(process)),
    (&["ruser"], "RUSER", |process, _| user(process)),
    (&["uid", "euid"], "UID", |process, _| process.uid.to_string()),
    (&["comm", "ucmd", "ucomm"], "COMMAND", |process, _| process.name.clone()),
    (&["args", "command"], "COMMAND", |process, _| process.command.clone()),
    (&["cmd"], "CMD", |process, _| process.command.clone()),
    (&["time", "cputime"], "TIME", |process, _| processor_time(process)),
    (&["tty", "tt"], "TT", |process, _| process.tty.clone()),
    (&["tname"], "TTY", |process, _| process.tty.clone()),
    (&["stime"], "STIME", start_time),
    (&["etimes"], "ELAPSED", |process, now| (now - process.started_unix).max(0).to_string()),
];

/// The table that ps arguments ask for: headings and a row for each process.
pub(super) fn table(arguments: &str, processes: &[Process]) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    let columns = columns(arguments)?;
    if !columns.iter().any(|(_, heading, _)| *heading == "PID") {
        return Err(ApiError::new(
            hyper::StatusCode::INTERNAL_SERVER_ERROR,
            "Couldn't find PID field in ps output",
        ));
    }
    let now = Timestamp::now().seconds();
    let row = |process: &Process| columns.iter().map(|(_, _, cell)| cell(process, now)).collect();
    Ok((
        columns.iter().map(|(_, heading, _)| (*heading).to_owned()).collect(),
        processes.iter().map(row).collect(),
    ))
}

fn columns(arguments: &str) -> Result<Vec<Column>> {
    let refused = || {
        ApiError::unsupported(format!(
            "ps arguments {arguments:?} are not supported: the processes are in a VM without ps; there are -ef, aux and \
             -o with {}",
            COLUMNS.iter().map(|(names, ..)| names[0]).collect::<Vec<_>>().join(",")
        ))
    };
    let mut columns = Vec::new();
    let mut words = arguments.split_whitespace();
    while let Some(word) = words.next() {
        let list = match word {
            "-e" | "-A" | "ax" => continue,
            "-o" | "-eo" | "-Ao" | "o" | "axo" | "--format" => words.next().ok_or_else(refused)?,
            word => word.strip_prefix("-o").or_else(|| word.strip_prefix("-eo")).ok_or_else(refused)?,
        };
        for name in list.split(',') {
            let known = COLUMNS.into_iter().find(|(names, ..)| names.contains(&name));
            columns.push(known.ok_or_else(refused)?);
        }
    }
    if columns.is_empty() { Err(refused()) } else { Ok(columns) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_chosen_by_procps_names() {
        let process = Process {
            pid: 7,
            ppid: 1,
            uid: 0,
            started_unix: 0,
            cpu_ms: 61_000,
            tty: "?".into(),
            name: "sh".into(),
            command: "sh -c x".into(),
        };
        let rows = |arguments: &str| table(arguments, std::slice::from_ref(&process));
        for (arguments, headings, cells) in [
            ("-o pid,comm", &["PID", "COMMAND"][..], &["7", "sh"][..]),
            ("-eo pid,user,args", &["PID", "USER", "COMMAND"], &["7", "root", "sh -c x"]),
            ("-e -o pid -o time", &["PID", "TIME"], &["7", "00:01:01"]),
            ("axo pid,ppid", &["PID", "PPID"], &["7", "1"]),
        ] {
            let (titles, processes) = rows(arguments).unwrap();
            assert_eq!(titles, headings);
            assert_eq!(processes[0], cells);
        }
        assert!(rows("-o comm").unwrap_err().message.contains("Couldn't find PID"));
        for bad in ["-o", "-o pid,nosuch", "-x", "-e"] {
            assert!(rows(bad).unwrap_err().message.contains("not supported"), "{bad}");
        }
    }
}
