//! Exit records: what stays of a container when its shim is gone.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use hyper_protocol::shim::{ExitRecord, files};

/// Writes the record of `container` in the pod's directory; after a crash at any moment there is the whole record
/// or none. Not synced: the directory is as short-lived as the machine's uptime, and whoever waits for the exit waits for
/// this.
///
/// # Errors
/// When the disk does not take it.
pub fn write(dir: &Path, container: &str, record: &ExitRecord) -> io::Result<()> {
    let exits = dir.join(files::EXITS);
    match fs::DirBuilder::new().mode(0o700).create(&exits) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let temporary = exits.join(format!(".{container}.tmp"));
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        fs::rename(&temporary, exits.join(format!("{container}.json")))
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// The record of `container`, if there is one.
pub fn read(dir: &Path, container: &str) -> Option<ExitRecord> {
    let path = dir.join(files::EXITS).join(format!("{container}.json"));
    // A record is some hundred bytes and a reason.
    let length = fs::symlink_metadata(&path).ok().filter(|metadata| metadata.is_file())?.len();
    if length > 64 << 10 {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_protocol::agent::Exit;

    #[test]
    fn record_is_read_as_written_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let exit = Exit { code: 7, unix_time_ns: 5, oom_killed: false };
        let record = ExitRecord { exit, error: Some("why".into()) };
        write(dir.path(), "c1", &record).unwrap();
        write(dir.path(), "c1", &record).unwrap();
        assert_eq!(read(dir.path(), "c1"), Some(record));
        assert_eq!(read(dir.path(), "c2"), None);
        assert_eq!(fs::read_dir(dir.path().join(files::EXITS)).unwrap().count(), 1);
    }
}
