//! The shim with a real guest, from `start` to its end.
#![allow(clippy::unwrap_used, missing_docs, reason = "a failed step fails the test")]

mod support;

use hyper_protocol::shim::*;
use support::{New, Shim, alive, converse, guest, until};

/// The guest's files; without them the test is skipped, with the reason.
macro_rules! guest_or_skip {
    () => {
        match guest() {
            Ok(guest) => guest,
            Err(reason) => {
                eprintln!("skipped: {reason}");
                return;
            }
        }
    };
}

#[tokio::test]
async fn container_runs_and_its_output_input_and_exit_code_come_through() {
    let guest = guest_or_skip!();
    let shim = Shim::start("pod1").await;
    shim.boot(&shim.config(&guest)).await;
    assert_eq!(shim.run("c1", &["echo", "hello"], b"").await, ("hello\n".to_owned(), 0));
    assert_eq!(shim.run("c2", &["cat"], b"one\ntwo\n").await, ("one\ntwo\n".to_owned(), 0));
    assert_eq!(shim.run("c3", &["sh", "-c", "echo out; echo err >&2; exit 7"], b"").await.1, 7);
    assert_eq!(shim.run("c4", &["hostname"], b"").await, ("test\n".to_owned(), 0));
    let record = std::fs::read(shim.pod_dir().join("exits/c3.json")).unwrap();
    let record: ExitRecord = serde_json::from_slice(&record).unwrap();
    assert_eq!((record.exit.code, record.error), (7, None));
    let (reply, _) = shim.ask(&PodRequest::Timeline).await;
    let PodReply::Timeline(phases) = reply else { panic!("{reply:?}") };
    for phase in &phases {
        assert!(phase.start_us <= phase.end_us, "{phase:?}");
    }
    let names: Vec<_> = phases.iter().map(|phase| phase.name.as_str()).collect();
    for name in
        ["qemu exec", "qmp ready", "kernel boot", "agent hello", "configure", "plug disks", "create", "start"]
    {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let vmm = shim.vmm_pid().await.unwrap();
    shim.shut_down().await;
    until(|| !alive(vmm)).await;
    assert!(
        !shim.pod_dir().join(files::POD_SOCKET).exists() && shim.pod_dir().join("exits/c1.json").exists()
    );
}

#[tokio::test]
async fn timeline_shows_phases() {
    let guest = guest_or_skip!();
    let shim = Shim::start("pod2").await;
    shim.boot(&shim.config(&guest)).await;
    shim.run("c1", &["true"], b"").await;
    let (PodReply::Timeline(phases), _) = shim.ask(&PodRequest::Timeline).await else { panic!() };
    for phase in phases {
        eprintln!(
            "{:>10} {:>8} us {} {}",
            phase.start_us % 100_000_000,
            phase.end_us - phase.start_us,
            phase.clock,
            phase.name
        );
    }
    let _ = converse;
    let _: New = New::default();
    shim.shut_down().await;
}
