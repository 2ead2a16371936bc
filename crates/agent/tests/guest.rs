//! The agent as process 1 of a real guest: QEMU, the guest's kernel and initramfs, a plugged disk.
//!
//! Needs `HYPER_GUEST`, a directory with `vmlinux` and `initramfs.cpio` (`cargo xtask guest` makes them), or those in
//! the release directory beside the tests.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper_link::HostLink;
use hyper_link::channel::Receiver;
use hyper_protocol::agent::{DiskAddress, Interface, Output, Pod, Reply, Request, Writable};
use serde_json::{Value, json};

mod support;
use support::{Host, PATIENCE, added, container, exec, ext4_image, init, installed, skip, spec};

/// Where the guest's kernel and initramfs are.
fn artefacts() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.ancestors().nth(3)?.join("release/guest");
    let candidates = [std::env::var_os("HYPER_GUEST").map(PathBuf::from), Some(beside)];
    candidates.into_iter().flatten().find(|d| d.join("vmlinux").exists() && d.join("initramfs.cpio").exists())
}

/// A running guest; killed when dropped.
struct Guest {
    qemu: Child,
    directory: tempfile::TempDir,
    qmp: BufReader<UnixStream>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if std::thread::panicking() {
            let console = fs::read_to_string(self.directory.path().join("console")).unwrap_or_default();
            eprintln!("--- console\n{console}---");
        }
    }
}

fn connect(path: &Path) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Guest {
    fn boot(artefacts: &Path) -> Guest {
        let directory = tempfile::tempdir_in(support::scratch().path()).unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let khz = hyper_sys::tsc::frequency_khz().unwrap_or(0);
        let append = format!(
            "console=ttyS0 quiet reboot=t panic=-1 random.trust_cpu=on tsc_early_khz={khz} tsc=reliable \
             nolapic_timer noreplace-smp"
        );
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-M", "microvm,acpi=off,x-option-roms=off", "-accel", "tcg"])
            .args(["-cpu", "max,-erms,-fsrm", "-m", "256", "-smp", "1"])
            .arg("-kernel")
            .arg(artefacts.join("vmlinux"))
            .arg("-initrd")
            .arg(artefacts.join("initramfs.cpio"))
            .args(["-append", &append])
            .args(["-serial", &format!("file:{}", path("console"))])
            .args(["-chardev", &format!("socket,id=link,path={},server=on,wait=off", path("link"))])
            .args([
                "-device",
                "virtio-serial-device",
                "-device",
                "virtserialport,chardev=link,name=hyper.link",
            ])
            .args(["-device", "virtio-scsi-device,id=scsi"])
            .args(["-netdev", "hubport,id=slot0,hubid=0", "-netdev", "hubport,id=slot1,hubid=1"])
            .args(["-device", "virtio-net-device,id=nic0,netdev=slot0,mac=02:00:00:00:00:00"])
            .args(["-device", "virtio-net-device,id=nic1,netdev=slot1,mac=02:00:00:00:00:01"])
            .args(["-device", "virtio-rng-device"])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", path("qmp"))])
            .stdin(Stdio::null());
        let qemu = command.spawn().unwrap();
        let qmp = BufReader::new(connect(&directory.path().join("qmp")));
        let mut guest = Guest { qemu, directory, qmp };
        guest.qmp.read_line(&mut String::new()).unwrap();
        guest.qmp("qmp_capabilities", json!({}));
        guest
    }

    fn qmp(&mut self, command: &str, arguments: Value) -> Value {
        let line = json!({"execute": command, "arguments": arguments}).to_string();
        writeln!(self.qmp.get_mut(), "{line}").unwrap();
        loop {
            let mut answer = String::new();
            assert!(self.qmp.read_line(&mut answer).unwrap() > 0, "QMP ended");
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert!(answer.get("error").is_none(), "{line}: {answer}");
            if let Some(result) = answer.get("return") {
                return result.clone();
            }
        }
    }

    fn plug(&mut self, lun: u16, image: &Path, read_only: bool) {
        self.qmp(
            "blockdev-add",
            json!({"driver": "raw", "node-name": format!("disk{lun}"), "read-only": read_only,
                   "file": {"driver": "file", "filename": image}}),
        );
        self.qmp(
            "device_add",
            json!({"driver": "scsi-hd", "id": format!("scsi{lun}"), "drive": format!("disk{lun}"),
                   "bus": "scsi.0", "channel": 0, "scsi-id": 0, "lun": lun}),
        );
    }

    async fn session(&self) -> Host {
        let stream = connect(&self.directory.path().join("link"));
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::UnixStream::from_std(stream).unwrap();
        let link = tokio::time::timeout(PATIENCE, HostLink::open(stream)).await.expect("the agent answers");
        Host(link.unwrap())
    }

    /// Processor time that the machine has taken, in milliseconds: what a step costs on a busy test machine too.
    fn cpu_ms(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.qemu.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // Ticks of 10 ms in user and kernel mode.
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>() * 10
    }

    fn ended(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.qemu.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

fn pod() -> Pod {
    let interface = |slot: u32, name: &str, address: &str, gateway: Option<&str>| Interface {
        slot,
        name: name.to_owned(),
        mac: format!("02:42:ac:11:00:0{slot}"),
        addresses: [Some((address, 16)), (slot == 0).then_some(("fd00::2", 64))]
            .into_iter()
            .flatten()
            .map(|(address, prefix)| (address.parse().unwrap(), prefix))
            .collect(),
        gateways: gateway.iter().map(|g| g.parse().unwrap()).collect(),
        mtu: 1400,
    };
    Pod {
        hostname: "pod".to_owned(),
        domainname: String::new(),
        interfaces: vec![
            // The names that the kernel gives, the other way round.
            interface(0, "eth1", "172.17.0.2", Some("172.17.0.1")),
            interface(1, "eth0", "172.18.0.2", None),
        ],
        sysctl: [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into(),
        unix_time_ns: 1_700_000_000_000_000_000,
        entropy: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".to_owned(),
    }
}

fn with_guest(test: impl AsyncFnOnce(Guest)) {
    let Some(artefacts) = artefacts() else { return skip("no guest kernel and initramfs") };
    if !installed("qemu-system-x86_64") || !installed("mkfs.erofs") {
        return skip("QEMU or mkfs.erofs is not installed");
    }
    let _scratch = support::scratch();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { test(Guest::boot(&artefacts)).await });
}

#[test]
fn container_runs_in_a_real_guest() {
    with_guest(async |mut guest| {
        let begin = Instant::now();
        let host = guest.session().await;
        let Reply::Pong { uptime_ns, kernel, .. } = host.call(Request::Ping).await else { panic!() };
        let up = uptime_ns / 1_000_000;
        eprintln!(
            "pong after {:?}, guest up {up} ms, cpu {} ms, kernel {kernel}",
            begin.elapsed(),
            guest.cpu_ms()
        );
        let begin = Instant::now();
        host.call(Request::Configure(Box::new(pod()))).await;
        host.call(Request::Configure(Box::new(pod()))).await;
        eprintln!("configured twice in {:?}, cpu {} ms", begin.elapsed(), guest.cpu_ms());

        for slot in 0..2 {
            let filter = guest.qmp("query-rx-filter", json!({"name": format!("nic{slot}")}));
            assert_eq!(filter[0]["main-mac"], format!("02:42:ac:11:00:0{slot}"), "slots are in QEMU's order");
        }

        let erofs = support::erofs_image();
        let ext4 = ext4_image("writable.ext4");
        guest.plug(0, &erofs, true);
        guest.plug(1, &ext4, false);
        let script = "hostname; id -u; cat /etc/lower; echo changed > /etc/lower; cat /etc/lower; ls /dev; \
                      cat /proc/1/comm; date +%Y; ip -o addr; ip route; cat /proc/self/cgroup; \
                      cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; head -c1 /dev/sda; exit 7";
        let mut wanted = container("a", spec(&["sh", "-c", script]));
        wanted.spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
        wanted.spec["linux"]["resources"]["pids"] = json!({"limit": 50});
        wanted.writable = Writable::Ext4(DiskAddress::Scsi { target: 0, lun: 1 });
        let begin = Instant::now();
        host.create(wanted).await;
        eprintln!("created in {:?}, cpu {} ms", begin.elapsed(), guest.cpu_ms());
        let begin = Instant::now();
        host.start(init("a")).await;
        let (out, err, exit) = tokio::join!(
            host.output(init("a"), Output::Stdout),
            host.output(init("a"), Output::Stderr),
            host.wait(init("a"))
        );
        eprintln!("started and ended in {:?}, cpu {} ms", begin.elapsed(), guest.cpu_ms());
        eprintln!("{out}{err}");
        assert_eq!(exit.code, 7);
        assert!(!out.contains("eth0    inet6"), "no IPv6 where there is no address of it");
        for expected in [
            "pod\n0\nfrom the image\nchanged\n",
            "172.17.0.2/16",
            "default via 172.17.0.1 dev eth1",
            "172.18.0.2/16",
            "fd00::2/64",
            "0::/\n",
            "67108864\n50\n",
        ] {
            assert!(out.contains(expected), "{expected:?} is missing");
        }
        host.delete(init("a")).await;

        let mut wanted = container("b", spec(&["grep", "VmRSS", "/agent/1/status"]));
        wanted.spec["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/agent", "type": "bind", "source": "/proc", "options": ["ro"]}));
        let (_, out, _) = host.run(wanted).await;
        let kib: u32 = out.split_whitespace().nth(1).unwrap().parse().unwrap();
        eprintln!("the agent holds {kib} KiB");
        assert!(kib <= 6 << 10, "the agent holds {kib} KiB");

        guest.qmp("device_del", json!({"id": "scsi1"}));
        let begin = Instant::now();
        host.call(Request::Shutdown).await;
        assert!(guest.ended(), "the guest powers off");
        eprintln!("powered off in {:?}", begin.elapsed());
    });
}

#[test]
fn link_is_closed_and_opened_again_while_a_container_writes() {
    with_guest(async |mut guest| {
        let host = guest.session().await;
        guest.plug(0, &support::erofs_image(), true);
        let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
        host.create(container("a", spec(&["sh", "-c", script]))).await;
        host.start(init("a")).await;
        let mut host = host;
        let mut receiver = Receiver::new();
        let mut got: Vec<u8> = Vec::new();
        for session in 0.. {
            assert!(session < 50, "no progress");
            let offset = receiver.offset();
            let read = Request::ReadOutput { target: init("a"), output: Output::Stdout, offset };
            let (_, stream) = host.0.start_call(&read).await.unwrap();
            let before = got.len();
            let ended = receiver.run(stream, async |piece: &[u8]| {
                if got.len() > before + 50_000 {
                    return Err(std::io::Error::other("enough for this session"));
                }
                got.extend_from_slice(piece);
                Ok(())
            });
            if tokio::time::timeout(PATIENCE, ended).await.expect("the output goes on").is_ok() {
                break;
            }
            drop(host);
            tokio::time::sleep(Duration::from_millis(20)).await;
            host = guest.session().await;
        }
        let expected: String = (0..20000).map(|i| format!("line {i}\n")).collect();
        assert!(got == expected.as_bytes(), "{} bytes of {}", got.len(), expected.len());
        assert_eq!(host.wait(init("a")).await.code, 0);
        host.delete(init("a")).await;
    });
}

#[test]
fn limits_hold_in_a_real_guest() {
    with_guest(async |mut guest| {
        let host = guest.session().await;
        guest.plug(0, &support::erofs_image(), true);

        let mut wanted =
            container("memory", spec(&["sh", "-c", "head -c 60000000 /dev/zero | tail | wc -c"]));
        wanted.spec["linux"]["resources"]["memory"] = json!({"limit": 16_777_216, "swap": 16_777_216});
        host.create(wanted).await;
        host.start(init("memory")).await;
        let exit = host.wait(init("memory")).await;
        assert!(exit.oom_killed, "{exit:?}");
        let Reply::Stats(stats) = host.call(Request::Stats("memory".to_owned())).await else { panic!() };
        assert_eq!(stats.memory_limit, 16_777_216);
        assert!(stats.cpu_usage_us > 0 && !stats.memory_stat.is_empty(), "{stats:?}");
        let wider = json!({"memory": {"limit": 33_554_432, "swap": 33_554_432}});
        host.call(Request::Update { id: "memory".to_owned(), resources: wider }).await;
        let Reply::Stats(stats) = host.call(Request::Stats("memory".to_owned())).await else { panic!() };
        assert_eq!(stats.memory_limit, 33_554_432);
        host.delete(init("memory")).await;

        let script = "mknod /tmp/disk b 8 0 && head -c1 /tmp/disk; mknod /tmp/null c 1 3 && echo x > /tmp/null && echo null";
        let (_, out, err) = host.run(container("devices", spec(&["sh", "-c", script]))).await;
        assert_eq!((out.as_str(), err.as_str()), ("null\n", "head: /tmp/disk: Operation not permitted\n"));

        let mut wanted =
            container("all", spec(&["sh", "-c", "mknod /tmp/disk b 8 0 && head -c1 /tmp/disk | wc -c"]));
        wanted.spec["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
        assert_eq!(host.run(wanted).await.1, "1\n");

        let mut wanted =
            container("pids", spec(&["sh", "-c", "for i in 1 2 3 4 5; do sleep 5 & done; wait"]));
        wanted.spec["linux"]["resources"]["pids"] = json!({"limit": 4});
        let (code, _, err) = host.run(wanted).await;
        assert!(code != 0 && err.contains("fork"), "{code} {err}");

        host.create(container("frozen", spec(&["sleep", "60"]))).await;
        host.start(init("frozen")).await;
        host.call(Request::Exec(Box::new(exec("frozen", "e", &["cat", "/proc/1/comm"])))).await;
        host.call(Request::Pause("frozen".to_owned())).await;
        host.failure(Request::Start(added("frozen", "e"))).await;
        host.call(Request::Resume("frozen".to_owned())).await;
        host.start(added("frozen", "e")).await;
        assert_eq!(host.output(added("frozen", "e"), Output::Stdout).await, "sleep\n");
        host.call(Request::Shutdown).await;
        assert!(guest.ended(), "a shutdown ends what runs");
    });
}

#[test]
fn containers_come_and_go_without_a_trace() {
    with_guest(async |mut guest| {
        let host = guest.session().await;
        guest.plug(0, &support::erofs_image(), true);
        let mut least = [Duration::MAX; 4];
        for _ in 0..15 {
            let begin = Instant::now();
            host.create(container("a", spec(&["true"]))).await;
            let created = begin.elapsed();
            host.start(init("a")).await;
            let started = begin.elapsed();
            host.wait(init("a")).await;
            let ended = begin.elapsed();
            host.delete(init("a")).await;
            let steps = [created, started - created, ended - started, begin.elapsed() - ended];
            least = std::array::from_fn(|i| least[i].min(steps[i]));
        }
        let [create, start, wait, delete] = least;
        eprintln!("at best: create {create:?}, start {start:?}, end {wait:?}, delete {delete:?}");
        let mut wanted =
            container("b", spec(&["sh", "-c", "wc -l < /agent/1/mounts; ls /agent/1/fd | wc -l"]));
        wanted.spec["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/agent", "type": "bind", "source": "/proc", "options": ["ro"]}));
        let (_, once, _) = host.run(wanted.clone()).await;
        let (_, again, _) = host.run(wanted).await;
        assert_eq!(once, again, "mounts and descriptors of the agent");
        let Reply::Containers(known) = host.call(Request::List).await else { panic!() };
        assert!(known.is_empty());
    });
}
