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
    for name in [
        "qemu exec",
        "qmp ready",
        "kernel",
        "agent hello",
        "configure",
        "plug disks",
        "create",
        "start",
        "program",
    ] {
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
async fn layer_of_several_files_is_one_disk_whatever_its_files_begin_with() {
    let guest = guest_or_skip!();
    let shim = Shim::start("pod2").await;
    shim.boot(&shim.config(&guest)).await;
    // A layer with a file that begins like an image of QEMU's own kind, cut there and at another place.
    let mut content = b"QFI\xfb\0\0\0\x03 not a disk\n".to_vec();
    content.extend((0..4000).flat_map(|line| format!("line {line}\n").into_bytes()));
    let root = shim.dir.path().join("hostile");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("hostile-file"), &content).unwrap();
    let image = shim.dir.path().join("hostile.erofs");
    let made = std::process::Command::new("mkfs.erofs").arg(&image).arg(&root).output().unwrap();
    assert!(made.status.success());
    let whole = std::fs::read(&image).unwrap();
    let begin = whole.windows(16).position(|bytes| bytes == &content[..16]).unwrap();
    assert!(begin % 4096 == 0 && begin > 0 && whole.len() > begin + 8192, "{begin} of {}", whole.len());
    let cuts = [0, begin, begin + 8192, whole.len()];
    let files: Vec<String> = (0..3)
        .map(|index| {
            let path = shim.dir.path().join(format!("part{index}"));
            std::fs::write(&path, &whole[cuts[index]..cuts[index + 1]]).unwrap();
            path.to_str().unwrap().to_owned()
        })
        .collect();
    let layers = [format!("{} ro device={} device={}", files[0], files[1], files[2])];
    for id in ["c1", "c2"] {
        let args: &[&str] = &["cat", "/hostile-file"];
        shim.create(id, New { args, layers: &layers, ..New::default() }).await.unwrap();
        let stream = shim.attach(id, None, false).await;
        shim.start_task(id, "").await.unwrap();
        assert!(converse(stream, b"").await == content, "{id}");
        assert_eq!(shim.wait(id, "").await, 0);
        shim.delete(id, "").await.unwrap();
    }
    shim.shut_down().await;
}

#[tokio::test]
async fn programs_that_cannot_start_are_told_in_runcs_words() {
    let guest = guest_or_skip!();
    let shim = Shim::start("pod3").await;
    shim.boot(&shim.config(&guest)).await;
    for (id, program, text) in [
        ("c1", "nosuch", "exec: \"nosuch\": executable file not found in $PATH: unknown"),
        ("c2", "/nosuch", "exec: \"/nosuch\": stat /nosuch: no such file or directory: unknown"),
        ("c3", "/etc/passwd", "exec: \"/etc/passwd\": permission denied: unknown"),
    ] {
        // Like runc, an agent may notice at either step.
        let made = shim.create(id, New { args: &[program], ..New::default() }).await;
        let error = match made {
            Ok(_) => {
                let error = shim.start_task(id, "").await.unwrap_err();
                shim.delete(id, "").await.unwrap();
                error
            }
            Err(error) => error,
        };
        let ttrpc::Error::RpcStatus(status) = error else { panic!("{error:?}") };
        assert!(status.message().ends_with(text), "{}", status.message());
    }
    // The pod goes on.
    assert_eq!(shim.run("c4", &["echo", "on"], b"").await, ("on\n".to_owned(), 0));
    shim.shut_down().await;
}

#[tokio::test]
async fn processes_are_added_killed_and_deleted_with_containerds_codes() {
    let guest = guest_or_skip!();
    let shim = Shim::start("pod4").await;
    shim.boot(&shim.config(&guest)).await;
    let code = |error: ttrpc::Error| match error {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("{other:?}"),
    };
    let sleeper = New { args: &["sleep", "1000"], ..New::default() };
    shim.create("c1", sleeper).await.unwrap();
    let again = New { args: &["true"], ..New::default() };
    assert_eq!(code(shim.create("c1", again).await.unwrap_err()), ttrpc::Code::ALREADY_EXISTS);
    assert_eq!(
        code(shim.exec("c1", "e0", &["true"], false).await.unwrap_err()),
        ttrpc::Code::FAILED_PRECONDITION
    );
    shim.start_task("c1", "").await.unwrap();
    assert_eq!(code(shim.start_task("c1", "").await.unwrap_err()), ttrpc::Code::FAILED_PRECONDITION);
    assert_eq!(code(shim.delete("c1", "").await.unwrap_err()), ttrpc::Code::FAILED_PRECONDITION);
    assert_eq!(code(shim.start_task("c9", "").await.unwrap_err()), ttrpc::Code::NOT_FOUND);

    shim.exec("c1", "e1", &["sh", "-c", "cat; exit 3"], true).await.unwrap();
    let stream = shim.attach("c1", Some("e1"), true).await;
    shim.start_task("c1", "e1").await.unwrap();
    assert_eq!(converse(stream, b"through").await, b"through");
    assert_eq!(shim.wait("c1", "e1").await, 3);
    shim.delete("c1", "e1").await.unwrap();
    assert_eq!(code(shim.delete("c1", "e1").await.unwrap_err()), ttrpc::Code::NOT_FOUND);

    shim.kill("c1", 9).await.unwrap();
    assert_eq!(shim.wait("c1", "").await, 137);
    assert_eq!(code(shim.kill("c1", 9).await.unwrap_err()), ttrpc::Code::NOT_FOUND);
    shim.delete("c1", "").await.unwrap();
    shim.shut_down().await;
}

#[tokio::test]
async fn containers_of_a_pod_share_a_layer_and_keep_their_own_files() {
    let guest = guest_or_skip!();
    let shim = Shim::start("pod5").await;
    shim.boot(&shim.config(&guest)).await;
    let image = shim.ext4("rw.ext4");
    let writes = New { args: &["sh", "-c", "echo kept > /file"], writable: Some(&image), ..New::default() };
    shim.create("c1", writes).await.unwrap();
    shim.create("c2", New { args: &["sh", "-c", "cat /file"], ..New::default() }).await.unwrap();
    shim.start_task("c1", "").await.unwrap();
    assert_eq!(shim.wait("c1", "").await, 0);
    shim.start_task("c2", "").await.unwrap();
    assert_eq!(shim.wait("c2", "").await, 1, "another's file is not there");
    shim.delete("c1", "").await.unwrap();
    shim.delete("c2", "").await.unwrap();
    // What was written is there for a later container with the same writable layer.
    let config = ContainerConfig { stdin: true, stdin_once: true, ..Default::default() };
    shim.create("c3", New { args: &["cat", "/file"], writable: Some(&image), config, ..New::default() })
        .await
        .unwrap();
    let stream = shim.attach("c3", None, true).await;
    shim.start_task("c3", "").await.unwrap();
    assert_eq!(converse(stream, b"").await, b"kept\n");
    shim.shut_down().await;
}

#[tokio::test]
async fn hundred_layers_are_one_tree() {
    let guest = guest_or_skip!();
    let shim = Shim::start("pod15").await;
    shim.boot(&shim.config(&guest)).await;
    let layers: Vec<_> = (0..99).map(|number| shim.layer(&format!("layer{number}"))).collect();
    let config = ContainerConfig { stdin: true, stdin_once: true, ..Default::default() };
    let args = &["sh", "-c", "echo /layer* | wc -w"];
    shim.create("c1", New { args, layers: &layers, config, ..New::default() }).await.unwrap();
    let stream = shim.attach("c1", None, true).await;
    shim.start_task("c1", "").await.unwrap();
    assert_eq!(converse(stream, b"").await, b"99\n");
    assert_eq!(shim.wait("c1", "").await, 0);
    shim.delete("c1", "").await.unwrap();
    // Their disks are gone, and the pod goes on.
    assert_eq!(shim.run("c2", &["echo", "on"], b"").await, ("on\n".to_owned(), 0));
    shim.shut_down().await;
}

#[tokio::test]
async fn log_has_every_byte_and_a_stopped_client_stops_the_writer() {
    let guest = guest_or_skip!();
    let shim = Shim::start("pod6").await;
    shim.boot(&shim.config(&guest)).await;
    let path = shim.dir.path().join("c1-json.log");
    let log = Log { path: path.clone(), max_size: None, max_files: 1, ..Log::default() };
    let config = ContainerConfig { log: Some(log), ..Default::default() };
    shim.create("c1", New { args: &["seq", "200000"], config, ..New::default() }).await.unwrap();
    let stopped = shim.attach("c1", None, false).await;
    shim.start_task("c1", "").await.unwrap();
    // 1.3 MB do not fit into what is kept on the way: the writer is stopped, and the log with it.
    let mut before = 0;
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let now = std::fs::metadata(&path).unwrap().len();
        if now > 0 && now == before {
            break;
        }
        before = now;
    }
    assert!(before < 60 * 200_000, "{before}");
    let (reply, _) = shim.ask(&PodRequest::Processes { container: "c1".into() }).await;
    assert!(matches!(&reply, PodReply::Processes(list) if list.len() == 1), "{reply:?}");
    let all = converse(stopped, b"").await;
    let wanted: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(all == wanted.as_bytes());
    assert_eq!(shim.wait("c1", "").await, 0);
    let logged: String = std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["log"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(logged == wanted);
    shim.shut_down().await;
}

#[tokio::test]
async fn terminal_has_a_size_and_takes_input() {
    let guest = guest_or_skip!();
    let shim = Shim::start("pod7").await;
    shim.boot(&shim.config(&guest)).await;
    let config = ContainerConfig { stdin: true, ..Default::default() };
    let args = &["sh", "-c", "read line; stty size; echo got $line; exit 4"];
    shim.create("c1", New { args, tty: true, config, ..New::default() }).await.unwrap();
    let mut stream = shim.attach("c1", None, true).await;
    shim.start_task("c1", "").await.unwrap();
    shim.resize("c1", 100, 40).await;
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"word\n").await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await.unwrap();
    assert!(text.contains("40 100\r\n") && text.contains("got word\r\n"), "{text:?}");
    assert_eq!(shim.wait("c1", "").await, 4);
    shim.shut_down().await;
}

#[tokio::test]
async fn last_container_takes_the_vm_with_it_when_so_configured() {
    let guest = guest_or_skip!();
    let shim = Shim::start("pod8").await;
    shim.boot(&PodConfig { autostop: true, ..shim.config(&guest) }).await;
    let vmm = shim.vmm_pid().await.unwrap();
    shim.create("c1", New { args: &["sh", "-c", "exit 5"], ..New::default() }).await.unwrap();
    shim.start_task("c1", "").await.unwrap();
    assert_eq!(shim.wait("c1", "").await, 5);
    until(|| !alive(vmm)).await;
    // The shim still answers.
    assert_eq!(shim.wait("c1", "").await, 5);
    assert_eq!(shim.delete("c1", "").await.unwrap().exit_status, 5);
    shim.shut_down().await;
}

#[tokio::test]
async fn killed_vm_gives_every_container_an_exit_with_a_reason() {
    let guest = guest_or_skip!();
    let shim = Shim::start("pod9").await;
    shim.boot(&shim.config(&guest)).await;
    shim.create("c1", New { args: &["sleep", "1000"], ..New::default() }).await.unwrap();
    let stream = shim.attach("c1", None, false).await;
    shim.start_task("c1", "").await.unwrap();
    let vmm = shim.vmm_pid().await.unwrap();
    signal(vmm, "KILL");
    assert_eq!(shim.wait("c1", "").await, 137);
    assert_eq!(converse(stream, b"").await, b"");
    let record = std::fs::read(shim.pod_dir().join("exits/c1.json")).unwrap();
    let record: ExitRecord = serde_json::from_slice(&record).unwrap();
    assert!(record.error.as_deref().unwrap().contains("killed by signal 9"), "{record:?}");
    assert!(shim.create("c2", New { args: &["true"], ..New::default() }).await.is_err());
    shim.delete("c1", "").await.unwrap();
    shim.shut_down().await;
}

#[tokio::test]
async fn shim_killed_takes_its_vm_along_and_delete_cleans_up() {
    let guest = guest_or_skip!();
    let shim = Shim::start("pod10").await;
    shim.boot(&shim.config(&guest)).await;
    shim.create("c1", New { args: &["sh", "-c", "exit 6"], ..New::default() }).await.unwrap();
    shim.start_task("c1", "").await.unwrap();
    assert_eq!(shim.wait("c1", "").await, 6);
    let vmm = shim.vmm_pid().await.unwrap();
    let pid = shim.pid();
    signal(pid, "KILL");
    until(|| !alive(pid) && !alive(vmm)).await;
    assert!(shim.pod_dir().join("exits/c1.json").exists());
    let output = std::process::Command::new(support::SHIM)
        .args(["-namespace", "test", "-address", "/nowhere", "-id", "pod10", "delete"])
        .current_dir(shim.pod_dir())
        .output()
        .unwrap();
    assert!(output.status.success() && !output.stdout.is_empty());
    for name in [files::POD_SOCKET, files::SHIM_PID, files::ADDRESS, "task.sock", "qemu.pid"] {
        assert!(!shim.pod_dir().join(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn tap_connects_the_containers_to_the_host() {
    let guest = guest_or_skip!();
    let setup = "ip tuntap add dev tap7 mode tap; ip addr add 10.99.7.1/24 dev tap7; ip link set tap7 up";
    let shim = Shim::start_on_network("pod13", setup).await;
    let mut config = shim.config(&guest);
    config.interfaces.push(TapInterface {
        slot: 0,
        tap: "tap7".into(),
        name: "eth0".into(),
        mac: "02:42:0a:63:07:02".into(),
        addresses: vec![("10.99.7.2".parse().unwrap(), 24)],
        gateways: vec!["10.99.7.1".parse().unwrap()],
        mtu: 1500,
    });
    shim.boot(&config).await;
    let (text, code) = shim.run("c1", &["busybox", "ping", "-c", "1", "-W", "10", "10.99.7.1"], b"").await;
    assert_eq!(code, 0, "{text}");
    let (text, _) = shim.run("c2", &["busybox", "ip", "link", "show", "eth0"], b"").await;
    assert!(text.contains("02:42:0a:63:07:02"), "{text}");
    shim.shut_down().await;
}

#[tokio::test]
async fn missing_tap_is_told_by_name() {
    let guest = guest_or_skip!();
    let shim = Shim::start("pod14").await;
    let mut config = shim.config(&guest);
    config.interfaces.push(TapInterface {
        slot: 0,
        tap: "hyper-nosuch".into(),
        name: "eth0".into(),
        mac: "02:42:0a:63:07:02".into(),
        addresses: vec![],
        gateways: vec![],
        mtu: 1500,
    });
    shim.create_sandbox(&config).await.unwrap();
    let error = shim.start_sandbox().await.unwrap_err().to_string();
    assert!(error.contains("hyper-nosuch"), "{error}");
    shim.shut_down().await;
}

#[tokio::test]
async fn container_without_a_pod_gets_one_of_its_own() {
    let guest = guest_or_skip!();
    let shim = Shim::start_in("c1", Some(&guest)).await;
    shim.create("c1", New { args: &["sh", "-c", "exit 8"], ..New::default() }).await.unwrap();
    shim.start_task("c1", "").await.unwrap();
    assert_eq!(shim.wait("c1", "").await, 8);
    shim.delete("c1", "").await.unwrap();
    let pid = shim.connect().await;
    shim.shut_down_task().await;
    until(|| !alive(pid)).await;
}

#[tokio::test]
async fn guest_that_never_answers_fails_with_its_console_and_leaves_nothing() {
    let guest = guest_or_skip!();
    let shim = Shim::start("pod11").await;
    let mut config = shim.config(&guest);
    // A kernel that stops before its init.
    config.kernel_args =
        vec!["init=/nosuch".into(), "rdinit=/nosuch".into(), "panic=0".into(), "loglevel=7".into()];
    config.boot_timeout_ms = 20_000;
    shim.create_sandbox(&config).await.unwrap();
    let ttrpc::Error::RpcStatus(status) = shim.start_sandbox().await.unwrap_err() else { panic!() };
    assert!(status.message().contains("its console ends:"), "{}", status.message());
    assert_eq!(shim.vmm_pid().await, None);
    assert!(!shim.pod_dir().join("qemu.pid").exists());
    shim.shut_down().await;
}

#[tokio::test]
async fn nonsense_is_refused_and_the_shim_lives() {
    let shim = Shim::start("pod12").await;
    let mut config = shim.config(std::path::Path::new("/nosuch"));
    for change in [
        |config: &mut PodConfig| config.vcpus = 0,
        |config: &mut PodConfig| config.hostname = String::new(),
        |config: &mut PodConfig| config.boot_timeout_ms = 0,
        |config: &mut PodConfig| config.dir = "/nosuch".into(),
    ] {
        let mut bad = config.clone();
        change(&mut bad);
        assert!(shim.create_sandbox(&bad).await.is_err(), "{bad:?}");
    }
    config.hypervisor = Some("nosuch".into());
    shim.create_sandbox(&config).await.unwrap();
    assert!(shim.create_sandbox(&config).await.is_err(), "a pod is configured once");
    let ttrpc::Error::RpcStatus(status) = shim.start_sandbox().await.unwrap_err() else { panic!() };
    assert_eq!(status.code(), ttrpc::Code::INVALID_ARGUMENT);
    assert_eq!(status.message(), "there is no hypervisor driver \"nosuch\", only qemu");
    let (reply, _) = shim.ask(&PodRequest::Stats { container: "c1".into() }).await;
    assert!(matches!(reply, PodReply::Failed { not_found: true, .. }), "{reply:?}");
    shim.shut_down().await;
}

fn signal(pid: u32, name: &str) {
    assert!(
        std::process::Command::new("sh")
            .args(["-c", "kill -$0 $1", name])
            .arg(pid.to_string())
            .status()
            .unwrap()
            .success()
    );
}
