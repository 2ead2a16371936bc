//! `delete`: what a dead shim left is cleaned up.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{Message, MessageField};
use hyper_vm::VmConfig;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::args::Args;
use crate::home::{self, Note};
use crate::{clock, exits};

/// Exit status of a container whose shim died: that of `SIGKILL`, as containerd expects it.
const KILLED: u32 = 137;
/// How long a killed VMM may take to be gone.
const DEATH: Duration = Duration::from_secs(5);

/// Cleans up and prints how the container ended.
pub fn delete(args: &Args, bundle: &Path) -> anyhow::Result<()> {
    let note = Note::read(bundle);
    let mut response = DeleteResponse::new();
    response.exit_status = KILLED;
    response.exited_at = MessageField::some(clock::timestamp(clock::unix_ns()));
    if let Some(note) = note.filter(|note| note.pod == args.id) {
        let alive = UnixStream::connect(&note.socket).is_ok();
        if let Some(dir) = &note.dir {
            if let Some(record) = exits::read(dir, &args.id) {
                response.exit_status = record.exit.code;
                response.exited_at = MessageField::some(clock::timestamp(record.exit.unix_time_ns));
            }
            // A shim that answers cleans up by itself.
            if !alive {
                response.pid = kill_vmm(dir, &note.pod).unwrap_or(0);
                home::close(dir);
            }
        }
        if !alive {
            let _ = fs::remove_file(&note.socket);
            Note::remove(bundle);
        }
    }
    let bytes = response.write_to_bytes().context("cannot encode the answer")?;
    std::io::stdout().write_all(&bytes).context("cannot print the answer")
}

/// Kills the pod's VMM if there still is one; its process number. It normally died with the shim.
fn kill_vmm(dir: &Path, pod: &str) -> Option<u32> {
    let file = dir.join(VmConfig::PID_FILE);
    let number: u32 = fs::read_to_string(&file).ok()?.trim().parse().ok()?;
    // The descriptor first: the number cannot pass to another process between look and kill.
    let process = Pid::from_raw(i32::try_from(number).ok()?)?;
    if let Ok(descriptor) = pidfd_open(process, PidfdFlags::empty())
        && is_vmm_of(number, pod)
    {
        let _ = pidfd_send_signal(&descriptor, Signal::KILL);
        let start = Instant::now();
        while Path::new(&format!("/proc/{number}")).exists() && start.elapsed() < DEATH {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let _ = fs::remove_file(file);
    Some(number)
}

/// Whether a process is QEMU running this pod, by its command line.
fn is_vmm_of(number: u32, pod: &str) -> bool {
    let Ok(line) = fs::read(format!("/proc/{number}/cmdline")) else { return false };
    let mut words = line.split(|&byte| byte == 0);
    let program = words.next().unwrap_or_default();
    let name = Path::new(std::ffi::OsStr::from_bytes(program)).file_name().unwrap_or_default();
    name.as_bytes().starts_with(b"qemu-system-")
        && words.any(|word| word == format!("guest={pod}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_that_is_no_vmm_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("/bin/sleep").arg("100").spawn().unwrap();
        fs::write(dir.path().join(VmConfig::PID_FILE), format!("{}\n", child.id())).unwrap();
        assert_eq!(kill_vmm(dir.path(), "pod"), Some(child.id()));
        assert!(child.try_wait().unwrap().is_none(), "it lives");
        assert!(!dir.path().join(VmConfig::PID_FILE).exists());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
