//! The harness itself.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use hyper_e2e::command::wait_until;
use hyper_e2e::{guardian, leftovers};

use crate::case_list;
use crate::session::Case;

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Own: a_killed_test_program_leaves_no_engine_behind].to_vec()
}

/// A case that takes its time, with a daemon and shims.
const LONG: &str = "crash::no_container_log_line_or_exit_status_is_lost_with_the_daemon::hyper";

/// Directories of engines whose test program has this process number.
fn engines(pid: u32) -> Vec<PathBuf> {
    let all = fs::read_dir("/tmp").unwrap().flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(guardian::PREFIX);
    let owned = |path: &PathBuf| {
        fs::read_to_string(path.join("owner")).is_ok_and(|note| note.starts_with(&format!("{pid} ")))
    };
    all.filter(named).filter(owned).collect()
}

fn a_killed_test_program_leaves_no_engine_behind() {
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", LONG])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let has_shim = |engine: &PathBuf| {
        leftovers::named(engine).iter().any(|process| process.command.contains("containerd-shim-hyper"))
    };
    wait_until("its engine runs containers", || engines(program.id()).iter().any(has_shim));
    let engine = engines(program.id()).remove(0);
    program.kill().unwrap();
    program.wait().unwrap();
    wait_until("its engine is gone", || leftovers::named(&engine).is_empty() && !engine.exists());
}
