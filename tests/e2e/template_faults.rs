//! Templates, clones and spares when something goes wrong: files that are not what they were, full disks, and processes
//! that are killed at any moment. A run goes on all the same, or says why not, and the next one does.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper_e2e::command::{wait_until, wait_until_within};
use hyper_e2e::instance::kill;
use hyper_e2e::leftovers::Process;
use hyper_e2e::{Instance, Options, Output};
use rustix::process::Signal;
use serde_json::json;

use crate::case_list;
use crate::session::Case;
use crate::templates::{engine, engine_with, fill, origin, ready, stop, templates};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Own:
        a_clone_that_does_not_come_up_is_replaced_by_a_vm_that_boots,
        a_template_that_rotted_is_thrown_away_by_the_spares_made_of_it,
        clones_go_on_when_their_template_is_removed_or_replaced,
        a_disk_without_room_for_a_template_is_named_and_runs_go_on,
        a_template_whose_making_is_killed_is_in_nobodys_way,
        a_template_in_the_making_ends_with_its_daemon,
        a_clone_that_is_killed_while_it_starts_harms_nobody_else,
        spares_killed_while_they_are_made_are_in_nobodys_way,
        a_spare_that_ends_before_its_container_is_made_is_replaced,
        a_daemon_that_ends_waits_for_no_spare,
        steps_of_the_hosts_clock_disturb_no_start,
    ]
    .to_vec()
}

/// A run that works prints this, and the next one as well.
fn works(engine: &Instance) -> Output {
    engine.hyper(&["run", "--rm", "busybox:latest", "echo", "works"]).run().ok().prints("works\n")
}

/// Makes the template of the default kind; its directory.
fn make(engine: &Instance) -> PathBuf {
    let key = engine.hyper(&["template", "create"]).run().ok().out();
    engine.root().join("cache/templates").join(key.trim())
}

/// Bytes without sense, and not the same ones twice.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

/// A moment up to `longest` away, another one each time.
fn moment(longest: Duration) -> Duration {
    let random = u32::from_le_bytes(noise(4).try_into().unwrap());
    longest.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Notes in the manifest what the files look like now, as if they had been made so: a disk that rots changes no times.
fn forge(dir: &Path) {
    let path = dir.join("template.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let ns = |seconds: i64, nanoseconds: i64| seconds * 1_000_000_000 + nanoseconds;
    for name in ["memory", "state"] {
        let found = fs::metadata(dir.join(name)).unwrap();
        manifest["files"][name] = json!({
            "inode": found.ino(),
            "size": found.size(),
            "modified_ns": ns(found.mtime(), found.mtime_nsec()),
            "changed_ns": ns(found.ctime(), found.ctime_nsec()),
        });
    }
    fs::write(path, manifest.to_string()).unwrap();
}

/// Writes noise over part of a file that is not a hole.
fn spoil(path: &Path, from: u64, length: usize) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&noise(length), from).unwrap();
}

fn a_clone_that_does_not_come_up_is_replaced_by_a_vm_that_boots() {
    type Spoil = fn(&Path);
    let engine = engine("0");
    let spoils: [(&str, Spoil); 5] = [
        ("the state is noise", |dir| fs::write(dir.join("state"), noise(62_000)).unwrap()),
        ("the state is cut off", |dir| {
            let state = OpenOptions::new().write(true).open(dir.join("state")).unwrap();
            state.set_len(state.metadata().unwrap().len() / 2).unwrap();
        }),
        ("the state is empty", |dir| fs::write(dir.join("state"), "").unwrap()),
        // The kernel's code begins at 16 MiB.
        ("the kernel is noise", |dir| spoil(&dir.join("memory"), 16 << 20, 12 << 20)),
        ("the kernel is nothing", |dir| {
            let memory = OpenOptions::new().write(true).open(dir.join("memory")).unwrap();
            memory.write_all_at(&vec![0; 12 << 20], 16 << 20).unwrap();
        }),
    ];
    for (what, spoil) in spoils {
        let dir = make(&engine);
        spoil(&dir);
        forge(&dir);
        let began = Instant::now();
        let told = origin(&engine, &[]);
        let why = "booted: the template was thrown away: a clone failed: ";
        assert!(told.starts_with(why), "{what}: {told}");
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: {:?}", began.elapsed());
        let log = fs::read_to_string(engine.run_directory().join("hyperd.log")).unwrap();
        assert!(log.contains(told.trim_start_matches("booted: the template was thrown away: ")), "{log}");
        // It is made again for the next.
        wait_until("the template is back", || templates(&engine).len() == 1);
        assert!(origin(&engine, &[]).starts_with("cloned from template"), "{what}");
        engine.hyper(&["template", "prune", "-f"]).run().ok();
    }
    let dir = make(&engine);
    fs::write(dir.join("state"), noise(62_000)).unwrap();
    forge(&dir);
    engine.hyper(&["run", "-d", "--name", "kept", "busybox:latest", "sleep", "1000"]).run().ok();
    wait_until("the timeline tells of it", || {
        engine.hyper(&["inspect", "kept"]).run().ok().out().contains("clone that failed")
    });
    engine.hyper(&["rm", "-f", "kept"]).run().ok();
    works(&engine);
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn a_template_that_rotted_is_thrown_away_by_the_spares_made_of_it() {
    let engine = engine("2");
    let dir = make(&engine);
    spoil(&dir.join("memory"), 16 << 20, 12 << 20);
    forge(&dir);
    // Who does not use it has the spares made all the same.
    engine.hyper(&["run", "--rm", "--template", "never", "busybox:latest", "true"]).run().ok();
    fill(&engine);
    let woken = engine.hyper(&["run", "--rm", "--timeline", "busybox:latest", "true"]).run().ok();
    assert!(woken.err().contains("wake a spare VM"), "{woken}");
    stop(engine);
}

fn clones_go_on_when_their_template_is_removed_or_replaced() {
    let engine = engine("0");
    let dir = make(&engine);
    let names = ["one", "two"];
    for name in names {
        let words =
            ["run", "-d", "--name", name, "--tmpfs", "/t:size=100m", "busybox:latest", "sleep", "1000"];
        engine.hyper(&words).run().ok();
    }
    let works_in = |name: &str, round: &str| {
        // Reads the image, writes the writable layer and memory that no clone has touched.
        let script = format!(
            "find / -xdev -type f | xargs cat >/dev/null && yes {round} | head -c 4m >/file && \
             cp /file /t/file && cmp /file /t/file && wc -c </t/file"
        );
        engine.hyper(&["exec", name, "sh", "-c", &script]).run().ok().prints("4194304\n");
    };
    names.iter().for_each(|name| works_in(name, "before"));
    engine.hyper(&["template", "rm", dir.file_name().unwrap().to_str().unwrap()]).run().ok();
    names.iter().for_each(|name| works_in(name, "removed"));
    assert_eq!(make(&engine), dir);
    names.iter().for_each(|name| works_in(name, "made-anew"));
    // As somebody would who does not know better.
    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("memory"), noise(1 << 20)).unwrap();
    names.iter().for_each(|name| works_in(name, "replaced"));
    assert!(origin(&engine, &[]).starts_with("booted: the template was thrown away: "));
    engine.hyper(&["rm", "-f", "one", "two"]).run().ok();
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn a_disk_without_room_for_a_template_is_named_and_runs_go_on() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().display().to_string();
    let engine = Instance::start(Options {
        images: vec!["busybox:latest"],
        env: vec![("HYPER_TEMPLATES".to_owned(), dir.clone())],
        prepare: Some(format!("mount -t tmpfs -o size=140m templates {dir}")),
    });
    let inside = PathBuf::from(format!("/proc/{}/root{dir}", engine.lab.engine.pid()));
    // There is room at first, and somebody else takes it.
    let thief = {
        let inside = inside.clone();
        std::thread::spawn(move || {
            let making = || {
                let mut entries = fs::read_dir(&inside).unwrap().flatten();
                entries.any(|entry| entry.path().join("memory").exists())
            };
            let deadline = Instant::now() + Duration::from_secs(60);
            while !making() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Until it is full.
            let _ = fs::write(inside.join("thief"), vec![1; 140 << 20]);
        })
    };
    let failed = engine.hyper(&["template", "create"]).run().exits(1);
    failed.complains(&["no space is left"]);
    thief.join().unwrap();
    let left = || -> Vec<String> {
        let entries = fs::read_dir(&inside).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut found = left();
    found.sort();
    assert_eq!(found, ["lock", "thief"]);
    // No room from the beginning.
    let log = || fs::read_to_string(engine.run_directory().join("hyperd.log")).unwrap();
    let refusals = || log().matches("not enough space for a template").count();
    let began = Instant::now();
    works(&engine);
    wait_until("the log says so", || refusals() > 0);
    for _ in 0..3 {
        works(&engine);
    }
    let tries = 1 + began.elapsed().as_secs() as usize / 10;
    assert!(refusals() <= tries, "it is tried after ten seconds at the earliest: {}", log());
    assert_eq!(left().len(), 2);
    // With room again it is made, when it is time to try again.
    fs::remove_file(inside.join("thief")).unwrap();
    wait_until_within("a template has been made", Duration::from_secs(60), || {
        works(&engine);
        templates(&engine).len() == 1
    });
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

/// The processes of the engine of which this is true.
fn those(engine: &Instance, wanted: impl Fn(&Process) -> bool) -> Vec<i32> {
    engine.pod_processes().into_iter().filter(wanted).map(|process| process.pid).collect()
}

fn is_vmm(process: &Process) -> bool {
    process.command.contains("qemu-system")
}

fn is_maker(process: &Process) -> bool {
    process.command.contains("containerd-shim-hyper-v2 template")
}

/// Waits for a process and kills it a little later; nothing if it never comes.
fn kill_one(engine: &Instance, after: Duration, wanted: impl Fn(&Process) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut found = Vec::new();
    while found.is_empty() && Instant::now() < deadline {
        found = those(engine, &wanted);
    }
    std::thread::sleep(after);
    found.into_iter().for_each(|pid| kill(pid, Signal::KILL));
}

/// How many descriptors hyperd has open.
fn descriptors(engine: &Instance) -> usize {
    fs::read_dir(format!("/proc/{}/fd", engine.daemon_pid().unwrap())).unwrap().count()
}

/// Nothing unfinished among the templates, and no workshop.
fn nothing_half_made(engine: &Instance) {
    let root = engine.root().join("cache/templates");
    wait_until("nothing is being made", || those(engine, is_maker).is_empty());
    let unfinished = |dir: &Path, begin: &str| {
        let entries = fs::read_dir(dir).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(begin)).count()
    };
    wait_until("what was half made is gone", || unfinished(&root, ".new-") == 0);
    wait_until("no workshop is left", || unfinished(&engine.run_directory(), "template-") == 0);
}

fn a_template_whose_making_is_killed_is_in_nobodys_way() {
    /// Longer than the making takes.
    const LONGEST: Duration = Duration::from_millis(2500);
    let engine = engine("0");
    works(&engine);
    engine.hyper(&["template", "create"]).run().ok();
    let before = descriptors(&engine);
    for wanted in [is_maker as fn(&Process) -> bool, is_vmm] {
        for _ in 0..3 {
            engine.hyper(&["template", "prune", "-f"]).run().ok();
            let mut making = engine.hyper(&["template", "create"]).spawn();
            kill_one(&engine, moment(LONGEST), wanted);
            making.wait_within(Duration::from_secs(30));
            works(&engine);
            nothing_half_made(&engine);
            engine.hyper(&["template", "create"]).run().ok();
            assert!(origin(&engine, &[]).starts_with("cloned from template"));
        }
    }
    engine.settles();
    let after = descriptors(&engine);
    assert!(after <= before + 3, "{before} descriptors became {after}");
    for _ in 0..3 {
        engine.hyper(&["template", "prune", "-f"]).run().ok();
        let mut making = engine.hyper(&["template", "create"]).spawn();
        let maker = Instant::now();
        wait_until("it is being made", || {
            !those(&engine, is_maker).is_empty() || maker.elapsed() > Duration::from_secs(5)
        });
        std::thread::sleep(moment(LONGEST));
        engine.kill_daemon();
        making.wait_within(Duration::from_secs(30));
        works(&engine);
        engine.hyper(&["template", "create"]).run().ok();
        nothing_half_made(&engine);
        assert!(origin(&engine, &[]).starts_with("cloned from template"));
    }
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn a_template_in_the_making_ends_with_its_daemon() {
    let engine = engine("0");
    works(&engine);
    for signal in [Signal::TERM, Signal::KILL] {
        wait_until("nothing is being made", || those(&engine, is_maker).is_empty());
        engine.hyper(&["template", "prune", "-f"]).run().ok();
        let mut making = engine.hyper(&["template", "create"]).spawn();
        wait_until("its VM is there", || !those(&engine, is_vmm).is_empty());
        kill(engine.daemon_pid().unwrap(), signal);
        making.wait_within(Duration::from_secs(30));
        // Without the next daemon.
        wait_until("hyperd is gone", || engine.daemon_pid().is_none());
        wait_until("who makes it is gone", || engine.pod_processes().is_empty());
        nothing_half_made(&engine);
        works(&engine);
    }
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn a_clone_that_is_killed_while_it_starts_harms_nobody_else() {
    let engine = engine("0");
    works(&engine);
    let before = descriptors(&engine);
    engine.hyper(&["run", "-d", "--name", "stays", "busybox:latest", "sleep", "1000"]).run().ok();
    let stays = those(&engine, |_| true);
    let vmm = |process: &Process| is_vmm(process) && !stays.contains(&process.pid);
    let shim = |process: &Process| {
        process.command.contains("containerd-shim-hyper") && !is_vmm(process) && !stays.contains(&process.pid)
    };
    type Wanted<'a> = &'a dyn Fn(&Process) -> bool;
    for (kind, wanted) in [("vmm", &vmm as Wanted), ("shim", &shim)] {
        for _ in 0..6 {
            engine.hyper(&["template", "create"]).run().ok();
            let delay = moment(Duration::from_millis(600));
            let mut run = engine.hyper(&["run", "--rm", "busybox:latest", "echo", "works"]).spawn();
            kill_one(&engine, delay, wanted);
            let output = run.wait_within(Duration::from_secs(60));
            // Before a container was made another VM takes the place of a lost one; later its end is the run's.
            let told = match output.code {
                0 => output.out() == "works\n",
                137 => true,
                125 => {
                    output.err().contains("gone") || output.err().contains("shim") || !output.err().is_empty()
                }
                _ => false,
            };
            assert!(told, "{kind} killed after {delay:?}: {output}");
            works(&engine);
        }
    }
    engine.hyper(&["exec", "stays", "echo", "alive"]).run().ok().prints("alive\n");
    engine.hyper(&["rm", "-f", "stays"]).run().ok();
    engine.settles();
    nothing_half_made(&engine);
    let after = descriptors(&engine);
    assert!(after <= before + 3, "{before} descriptors became {after}");
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn spares_killed_while_they_are_made_are_in_nobodys_way() {
    let engine = engine_with("own", "2");
    works(&engine);
    fill(&engine);
    for round in 0..6 {
        // One is taken, and made anew.
        works(&engine);
        std::thread::sleep(moment(Duration::from_millis(2500)));
        // Not the template that may just be made: a later start makes that again.
        let spares = |process: &Process| !is_maker(process) && !process.command.contains("guest=template");
        let found = those(&engine, |process| spares(process) && is_vmm(process) == (round % 2 == 0));
        found.into_iter().for_each(|pid| kill(pid, Signal::KILL));
        works(&engine);
    }
    fill(&engine);
    nothing_half_made(&engine);
    stop(engine);
}

/// A library that has a process see another time of day than the host's, and the same monotonic time.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

fn a_spare_that_ends_before_its_container_is_made_is_replaced() {
    // A container's layer that takes as long to make as the test likes.
    let place = tempfile::tempdir().unwrap();
    let (asked, go) = (place.path().join("asked"), place.path().join("go"));
    let script = format!(
        "#!/bin/sh\ntouch {}\nwhile [ ! -e {} ]; do sleep 0.01; done\nexec /usr/sbin/mke2fs \"$@\"\n",
        asked.display(),
        go.display()
    );
    let program = place.path().join("mke2fs");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&go, "").unwrap();
    let path = format!("{}:{}", place.path().display(), std::env::var("PATH").unwrap());
    let engine = Instance::start(Options {
        images: vec!["busybox:latest"],
        env: vec![
            ("HYPER_TEMPLATES".to_owned(), String::new()),
            ("HYPER_POOL".to_owned(), "1".to_owned()),
            ("PATH".to_owned(), path),
        ],
        ..Options::default()
    });
    make(&engine);
    works(&engine);
    wait_until_within("a VM is ready", Duration::from_secs(120), || ready(&engine) == 1);
    let spare = those(&engine, is_vmm);
    assert_eq!(spare.len(), 1);
    fs::remove_file(&go).unwrap();
    fs::remove_file(&asked).unwrap();
    let run = ["run", "--rm", "--timeline", "--storage-opt", "size=3G", "busybox:latest", "echo", "works"];
    let mut run = engine.hyper(&run).spawn();
    wait_until("the layer is being made", || asked.exists());
    // Lost before it is the pod's VM it is replaced as well; after a second it nearly always is.
    std::thread::sleep(Duration::from_secs(1));
    spare.iter().for_each(|&pid| kill(pid, Signal::KILL));
    fs::write(&go, "").unwrap();
    let output = run.wait_within(Duration::from_secs(60)).ok().prints("works\n");
    assert!(output.err().contains("start shim"), "another VM was started: {output}");
    works(&engine);
    stop(engine);
}

fn a_daemon_that_ends_waits_for_no_spare() {
    let engine = engine("2");
    make(&engine);
    engine.hyper(&["run", "-d", "--name", "stays", "busybox:latest", "sleep", "1000"]).run().ok();
    let stays = those(&engine, |_| true);
    let mut making = Vec::new();
    wait_until("a spare is being made", || {
        making = those(&engine, |process| is_vmm(process) && !stays.contains(&process.pid));
        !making.is_empty()
    });
    // It will never be ready.
    making.iter().for_each(|&pid| kill(pid, Signal::STOP));
    let daemon = engine.daemon_pid().unwrap();
    let began = Instant::now();
    kill(daemon, Signal::TERM);
    wait_until("the daemon is gone", || !Path::new(&format!("/proc/{daemon}")).exists());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    wait_until("nothing of the spare is left", || those(&engine, |_| true).len() == stays.len());
    engine.hyper(&["exec", "stays", "echo", "alive"]).run().ok().prints("alive\n");
    engine.hyper(&["rm", "-f", "stays"]).run().ok();
    stop(engine);
}

fn steps_of_the_hosts_clock_disturb_no_start() {
    const DAY: i64 = 86_400;
    if !Path::new(FAKETIME).exists() {
        println!("skipped: steps of the clock: {FAKETIME} is not installed (libfaketime)");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let offset = place.path().join("offset");
    let step_to = |seconds: i64| {
        fs::write(place.path().join("new"), format!("{seconds:+}s\n")).unwrap();
        fs::rename(place.path().join("new"), &offset).unwrap();
    };
    step_to(0);
    let variables = [
        ("LD_PRELOAD", FAKETIME),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        // Nor other times of files than they have.
        ("NO_FAKE_STAT", "1"),
        ("HYPER_TEMPLATES", ""),
        ("HYPER_POOL", "1"),
    ];
    let engine = Instance::start(Options {
        images: vec!["busybox:latest"],
        env: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ..Options::default()
    });
    engine.hyper(&["template", "create"]).run().ok();
    works(&engine);
    engine.wait_for_spares(1);
    for (step, seconds) in [DAY, -30 * DAY, 365 * DAY, 0].into_iter().enumerate() {
        step_to(seconds);
        let began = Instant::now();
        // One that was kept ready, a clone, and one that boots.
        for flags in [&[][..], &[], &["--template", "never"]] {
            let words = [&["run", "--rm", "--timeline"], flags, &["busybox:latest", "date", "+%s"]].concat();
            let output = engine.hyper(&words).run().ok();
            let told: i64 = output.out().trim().parse().unwrap();
            let host = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            let off = told - (i64::try_from(host.as_secs()).unwrap() + seconds);
            assert!(off.abs() <= 30, "a guest is {off} s off after step {step}: {output}");
        }
        assert_eq!(templates(&engine).len(), 1, "the template is as good as before");
        // While they run, and while spares are made.
        let mut run =
            engine.hyper(&["run", "--rm", "busybox:latest", "sh", "-c", "sleep 1; echo slept"]).spawn();
        std::thread::sleep(moment(Duration::from_millis(500)));
        step_to(seconds - DAY);
        run.wait_within(Duration::from_secs(60)).ok().prints("slept\n");
        engine.wait_for_spares(1);
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "nothing waits for the clock: {:?}",
            began.elapsed()
        );
    }
    stop(engine);
}
