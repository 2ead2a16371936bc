//! Pods as clones of a template, and VMs kept ready.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper_e2e::command::{wait_until, wait_until_within};
use hyper_e2e::instance::kill;
use hyper_e2e::{Instance, Options};
use rustix::process::Signal;

use crate::case_list;
use crate::session::Case;

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Own:
        the_first_start_boots_and_the_next_is_a_clone,
        a_template_that_was_tampered_with_is_thrown_away_and_the_pod_boots,
        first_starts_at_once_make_one_template,
        a_hundred_clones_are_machines_of_their_own,
        a_vm_kept_ready_becomes_the_pod_that_was_asked_for,
        vms_kept_ready_that_die_are_in_nobodys_way,
        a_clone_gives_memory_back_and_its_template_stays_whole,
        starts_that_the_host_has_no_memory_for_are_refused_and_the_rest_run,
    ]
    .to_vec()
}

/// An engine with templates of its own and this many VMs kept ready.
pub fn engine(pool: &str) -> Instance {
    engine_with("own", pool)
}

/// An engine with templates in this directory and this many VMs kept ready.
pub fn engine_with(templates: &str, pool: &str) -> Instance {
    // A relative path would be the daemon's, so one that every engine can have: below its root or shared.
    let env = match templates {
        // Empty means not given: the default place.
        "own" => ("HYPER_TEMPLATES".to_owned(), String::new()),
        dir => ("HYPER_TEMPLATES".to_owned(), dir.to_owned()),
    };
    Instance::start(Options {
        images: vec!["busybox:latest"],
        env: vec![env, ("HYPER_POOL".to_owned(), pool.to_owned())],
        ..Options::default()
    })
}

/// Keys of the templates.
pub fn templates(engine: &Instance) -> Vec<String> {
    let listed = engine.hyper(&["template", "ls", "-q", "--no-trunc"]).run().ok().out();
    listed.split_whitespace().map(str::to_owned).collect()
}

/// How the VM of a new container comes up.
pub fn origin(engine: &Instance, flags: &[&str]) -> String {
    let name = engine.name("origin");
    let mut words = vec!["run", "-d", "--name", &name];
    words.extend(flags);
    words.extend(["busybox:latest", "sleep", "1000"]);
    engine.hyper(&words).run().ok();
    let pods = engine.hyper(&["pod", "ls", "-q"]).run().ok().out();
    let told = engine
        .hyper(&["pod", "inspect", "--format", "{{.Origin}}", pods.split_whitespace().next().unwrap()])
        .run()
        .ok()
        .out();
    engine.hyper(&["rm", "-f", &name]).run().ok();
    told.trim().to_owned()
}

fn the_first_start_boots_and_the_next_is_a_clone() {
    let engine = engine("0");
    assert_eq!(templates(&engine), Vec::<String>::new());
    assert_eq!(origin(&engine, &[]), "booted: there was no template yet");
    wait_until("a template has been made", || templates(&engine).len() == 1);
    let key = templates(&engine).remove(0);
    assert_eq!(origin(&engine, &[]), format!("cloned from template {key}"));
    assert_eq!(origin(&engine, &["--template", "never"]), "booted");
    // Another kind of VM needs another template.
    assert_eq!(origin(&engine, &["-m", "200m"]), "booted: there was no template yet");
    wait_until("a second template has been made", || templates(&engine).len() == 2);
    let listed = engine.hyper(&["template", "ls"]).run().ok().out();
    assert!(listed.contains("296MiB") && listed.contains("512MiB"), "{listed}");
    let info = engine.hyper(&["info"]).run().ok().out();
    assert!(info.contains("Templates:"), "{info}");
    engine.hyper(&["template", "rm", &key[..12]]).run().ok().prints(&format!("{}\n", &key[..12]));
    engine.hyper(&["template", "rm", &key]).run().exits(1).complains(&["No such template"]);
    assert_eq!(origin(&engine, &[]), "booted: there was no template yet");
    let made = engine.hyper(&["template", "create"]).run().ok().out();
    assert_eq!(made.trim(), key);
    assert_eq!(origin(&engine, &[]), format!("cloned from template {key}"));
    let pruned = engine.hyper(&["template", "prune", "-f"]).run().ok().out();
    assert!(pruned.contains(&key) && pruned.contains("Total reclaimed space: "), "{pruned}");
    assert_eq!(templates(&engine), Vec::<String>::new());
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn a_template_that_was_tampered_with_is_thrown_away_and_the_pod_boots() {
    let engine = engine("0");
    type Spoil = fn(PathBuf);
    let spoils: [(&str, Spoil); 7] = [
        ("memory has 4096 bytes", |dir| {
            OpenOptions::new().write(true).open(dir.join("memory")).unwrap().set_len(4096).unwrap();
        }),
        ("memory has been changed", |dir| {
            let memory = OpenOptions::new().write(true).open(dir.join("memory")).unwrap();
            memory.write_all_at(b"evil", 20 << 20).unwrap();
        }),
        ("state has been changed", |dir| {
            OpenOptions::new().append(true).open(dir.join("state")).unwrap().write_all(b"").unwrap();
            let state = fs::read(dir.join("state")).unwrap();
            fs::write(dir.join("state"), state).unwrap();
        }),
        ("memory has 536870911 bytes", |dir| {
            OpenOptions::new()
                .write(true)
                .open(dir.join("memory"))
                .unwrap()
                .set_len((512 << 20) - 1)
                .unwrap();
        }),
        ("state has 0 bytes", |dir| {
            OpenOptions::new().write(true).open(dir.join("state")).unwrap().set_len(0).unwrap();
        }),
        ("it is the template 0123", |dir| {
            let manifest = fs::read_to_string(dir.join("template.json")).unwrap();
            let key = dir.file_name().unwrap().to_str().unwrap().to_owned();
            fs::write(dir.join("template.json"), manifest.replace(&key, "0123")).unwrap();
        }),
        ("manifest is not valid", |dir| fs::write(dir.join("template.json"), "[]").unwrap()),
    ];
    for (why, spoil) in spoils {
        let key = engine.hyper(&["template", "create"]).run().ok().out();
        spoil(engine.root().join("cache/templates").join(key.trim()));
        let told = origin(&engine, &[]);
        assert!(told.starts_with("booted: the template was thrown away") && told.contains(why), "{told}");
        let log = fs::read_to_string(engine.run_directory().join("hyperd.log")).unwrap();
        assert!(log.contains("a template was thrown away"), "{log}");
        // It is made again for the next.
        wait_until("the template is back", || templates(&engine).len() == 1);
        engine.hyper(&["template", "prune", "-f"]).run().ok();
    }
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn first_starts_at_once_make_one_template() {
    let shared = tempfile::tempdir().unwrap();
    let dir = shared.path().join("templates").display().to_string();
    let engines = [engine_with(&dir, "0"), engine_with(&dir, "0")];
    let mut running: Vec<_> = engines
        .iter()
        .flat_map(|engine| (0..2).map(|_| engine.hyper(&["run", "--rm", "busybox:latest", "true"]).spawn()))
        .collect();
    for run in &mut running {
        run.wait().ok();
    }
    wait_until("a template has been made", || templates(&engines[0]).len() == 1);
    // Whoever came second has found it by now.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(templates(&engines[0]), templates(&engines[1]));
    let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the template and the lock: {left:?}");
    for engine in engines {
        assert_eq!(engine.finish(), Vec::<String>::new());
    }
}

fn now_ns() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i128
}

fn a_hundred_clones_are_machines_of_their_own() {
    /// What a clone's clock may be wrong by.
    const CLOCK: i128 = 10_000_000;
    let engine = engine("0");
    engine.hyper(&["template", "create"]).run().ok();
    let tell = "head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; cat /proc/sys/kernel/random/uuid \
        /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address; hostname; date +%s.%N";
    let mut seen = BTreeSet::new();
    for number in 0..100 {
        let before = now_ns();
        let told =
            engine.hyper(&["run", "-d", "--name", "clone", "busybox:latest", "sh", "-c", tell]).run().ok();
        drop(told);
        engine.hyper(&["wait", "clone"]).run().ok().prints("0\n");
        let after = now_ns();
        let lines = engine.hyper(&["logs", "clone"]).run().ok().out();
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 6, "{lines:?}");
        for line in &lines[..5] {
            // The address is used again by the next pod.
            if !line.contains(':') {
                assert!(seen.insert((*line).to_owned()), "clone {number} has what another had: {line}");
            }
        }
        let (seconds, fraction) = lines[5].split_once('.').unwrap();
        // busybox's date knows no %N on some builds.
        let exact = fraction.len() == 9;
        let clock = seconds.parse::<i128>().unwrap() * 1_000_000_000
            + if exact { fraction.parse::<i128>().unwrap() } else { 0 };
        let slack = if exact { CLOCK } else { 1_000_000_000 };
        assert!(clock >= before - slack && clock <= after + CLOCK, "{before} {clock} {after}");
        engine.hyper(&["rm", "clone"]).run().ok();
    }
    assert_eq!(seen.len(), 400);
    // Those that run at the same time differ in their addresses too.
    let mut addresses = BTreeSet::new();
    for number in 0..5 {
        let name = format!("at-once-{number}");
        engine.hyper(&["run", "-d", "--name", &name, "busybox:latest", "sleep", "1000"]).run().ok();
        let show = ["exec", &name, "cat", "/sys/class/net/eth0/address"];
        assert!(addresses.insert(engine.hyper(&show).run().ok().out()));
    }
    assert_eq!(engine.finish(), Vec::<String>::new());
}

pub fn ready(engine: &Instance) -> usize {
    let info = engine.hyper(&["info"]).run().ok().out();
    let ready = info.lines().find_map(|line| line.trim().strip_prefix("Ready: ")).map(str::to_owned);
    ready.unwrap_or_else(|| panic!("{info}")).parse().unwrap()
}

/// Waits until two VMs are ready.
pub fn fill(engine: &Instance) {
    wait_until_within("two VMs are ready", Duration::from_secs(120), || ready(engine) == 2);
}

/// Ends the engine in an orderly way, which leaves nothing.
pub fn stop(engine: Instance) {
    let pid = engine.daemon_pid().unwrap();
    kill(pid, Signal::TERM);
    wait_until("hyperd has ended", || !Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn a_vm_kept_ready_becomes_the_pod_that_was_asked_for() {
    let engine = engine("2");
    engine.hyper(&["run", "--rm", "busybox:latest", "true"]).run().ok();
    fill(&engine);
    let woken = engine.hyper(&["run", "--rm", "--timeline", "busybox:latest", "true"]).run().ok();
    assert!(woken.err().contains("wake a spare VM"), "{woken}");
    fill(&engine);
    let script =
        "hostname; cat /etc/hostname; ip -4 -o addr show eth0 | wc -l; ls /rehearse /run/hyper; exit 5";
    let run =
        ["run", "--name", "mine", "--hostname", "mine", "-e", "A=1", "busybox:latest", "sh", "-c", script];
    let output = engine.hyper(&run).run().exits(5);
    assert!(output.out().starts_with("mine\nmine\n1\n"), "{output}");
    assert_eq!(output.err().matches("No such file").count(), 2, "nothing of the rehearsal is seen: {output}");
    engine.hyper(&["start", "-a", "mine"]).run().exits(5);
    engine.hyper(&["rm", "mine"]).run().ok();
    // Whoever only makes a container gets one of them too, for half a minute.
    fill(&engine);
    engine.hyper(&["create", "--name", "later", "busybox:latest", "echo", "late"]).run().ok();
    wait_until_within("the VM that nobody wanted is gone", Duration::from_secs(60), || ready(&engine) == 2);
    engine.hyper(&["start", "-a", "later"]).run().ok().prints("late\n");
    // Two containers in one of them.
    engine
        .hyper(&["run", "-d", "--pod", "both", "--name", "first", "busybox:latest", "sleep", "1000"])
        .run()
        .ok();
    engine.hyper(&["run", "--rm", "--pod", "both", "busybox:latest", "hostname"]).run().ok().prints("both\n");
    engine.hyper(&["rm", "-f", "first", "later"]).run().ok();
    stop(engine);
}

fn vms_kept_ready_that_die_are_in_nobodys_way() {
    let engine = engine("2");
    engine.hyper(&["run", "--rm", "busybox:latest", "true"]).run().ok();
    fill(&engine);
    for process in engine.pod_processes() {
        if process.command.contains("qemu-system") {
            kill(process.pid, Signal::KILL);
        }
    }
    for _ in 0..3 {
        engine.hyper(&["run", "--rm", "busybox:latest", "echo", "there"]).run().ok().prints("there\n");
    }
    fill(&engine);
    // Those of a daemon that was killed are cleared away by the next.
    let before: Vec<i32> = engine.pod_processes().iter().map(|process| process.pid).collect();
    engine.kill_daemon();
    engine.start_daemon();
    engine.hyper(&["run", "--rm", "busybox:latest", "echo", "again"]).run().ok().prints("again\n");
    wait_until("the old VMs are gone", || {
        engine.pod_processes().iter().all(|process| !before.contains(&process.pid))
    });
    fill(&engine);
    stop(engine);
}

/// Memory of a clone's guest that is not its template's, in MiB.
fn private_memory(engine: &Instance, template: &Path) -> u64 {
    let processes = engine.pod_processes();
    let qemu = processes.iter().find(|process| process.command.contains("qemu-system")).expect("a VMM runs");
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", qemu.pid)).unwrap();
    let mut mapping = smaps.lines().skip_while(|line| !line.ends_with(&*template.to_string_lossy()));
    let line = mapping.find_map(|line| line.strip_prefix("Private_Dirty:")).expect("it is a clone");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

fn a_clone_gives_memory_back_and_its_template_stays_whole() {
    /// Times that memory is used and freed.
    const BURSTS: usize = 3;
    let engine = engine("0");
    let key = engine.hyper(&["template", "create"]).run().ok().out();
    let memory = engine.root().join("cache/templates").join(key.trim()).join("memory");
    let whole = fs::read(&memory).unwrap();
    let name = engine.name("burst");
    let words =
        ["run", "-d", "--name", &name, "--tmpfs", "/burst:size=150m", "busybox:latest", "sleep", "1000"];
    engine.hyper(&words).run().ok();
    let private = || private_memory(&engine, &memory);
    let before = private();
    let in_it = |line: &str| engine.hyper(&["exec", &name, "sh", "-c", line]).run().ok();
    // The guest tells what is free now and then, in blocks of 2 MiB and more. On a busy machine one burst in twenty leaves
    // it with blocks that it tells of only when it frees memory again.
    let mut given_back = false;
    for _ in 0..BURSTS {
        in_it("dd if=/dev/zero of=/burst/file bs=1M count=100 2>/dev/null");
        let most = private();
        assert!((before + 80..before + 150).contains(&most), "{most} after {before} MiB");
        in_it("rm /burst/file");
        let began = Instant::now();
        while !given_back && began.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(100));
            given_back = private() < before + 50;
        }
    }
    assert!(given_back, "{} MiB after {before}", private());
    // What was given back is used again, and holds what is written into it.
    in_it("yes hyper | head -c 16m > /burst/again");
    in_it(
        "test $(yes hyper | head -c 16m | sha256sum | cut -c1-64) = $(sha256sum < /burst/again | cut -c1-64)",
    );
    engine.hyper(&["rm", "-f", &name]).run().ok();
    assert!(fs::read(&memory).unwrap() == whole, "the template was changed");
    assert_eq!(origin(&engine, &[]), format!("cloned from template {}", key.trim()));
}

fn starts_that_the_host_has_no_memory_for_are_refused_and_the_rest_run() {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    let available: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    // Memory for ten and a half, as hyperd reckons.
    let reserve = format!("{}K", available - (1344 << 10));
    let engine = Instance::start(Options {
        images: vec!["busybox:latest"],
        env: vec![("HYPER_MEMORY_RESERVE".to_owned(), reserve)],
        ..Options::default()
    });
    let codes: Vec<(i32, String)> = std::thread::scope(|scope| {
        let run = || {
            let output = engine.hyper(&["run", "--rm", "busybox:latest", "true"]).run();
            (output.code, output.err())
        };
        let runs: Vec<_> = (0..40).map(|_| scope.spawn(run)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let (ran, refused): (Vec<_>, Vec<_>) = codes.into_iter().partition(|(code, _)| *code == 0);
    assert!(!ran.is_empty() && !refused.is_empty(), "{} ran, {} were refused", ran.len(), refused.len());
    for (code, words) in refused {
        assert!(code == 125 && words.contains("not enough memory for another VM"), "{code}: {words}");
    }
    engine.hyper(&["run", "--rm", "busybox:latest", "true"]).run().exits(0);
    assert_eq!(engine.finish(), Vec::<String>::new());
}
