//! A mixed load while hyperd, shims, VMMs and virtiofsd are killed at moments drawn from a seed, which is printed.
//!
//! `HYPER_SOAK_KILLS` says how often (200 unless told), `HYPER_SOAK_SEED` repeats the draws of another run. A command
//! may fail where something was killed around it; what it said when it did not fail must be true, nothing that was
//! acknowledged may be lost, no command may hang, and at the end nothing is left behind.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper_e2e::command::wait_until_within;
use hyper_e2e::instance::kill;
use hyper_e2e::{Instance, Options, Output};
use rustix::process::Signal;

use crate::case_list;
use crate::session::Case;

/// Kills where nobody says how many.
const KILLS: usize = 200;
/// Longest time between two kills.
const PAUSE: Duration = Duration::from_millis(3000);
/// How long after a kill a command may still fail for it: what died is noticed, given up, and started again.
const AFTERMATH: Duration = Duration::from_secs(20);
/// How long a command may take on a machine that is busy with all this.
const PATIENCE: Duration = Duration::from_secs(180);
/// Containers that live through it all, by what they have: nothing of their own, a network and a port, a volume.
const WITNESSES: [(&[&str], &str); 3] = [
    (&[], "/kept"),
    (&["--network", "soaked", "-p", "18099:80"], "/kept"),
    (&["-v", "soaked:/data"], "/data/kept"),
];
/// A network that they come onto and leave.
const OTHER: &str = "other";

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Own: nothing_is_lost_while_everything_is_killed, fifty_containers_started_at_once_all_start]
        .to_vec()
}

/// `xorshift64*` (Vigna 2016): moments and choices that can be drawn again.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, thrower: u64) -> Self {
        // No state may be 0, and those of the throwers shall have nothing in common.
        Self((seed ^ thrower.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// What the threads of a soak share.
struct Soak<'a> {
    engine: &'a Instance,
    over: AtomicBool,
    kills: AtomicUsize,
    last: Mutex<Option<Instant>>,
    /// What was not as it must be.
    wrong: Mutex<Vec<String>>,
}

impl Soak<'_> {
    /// Runs a command. `None` when it failed where something was killed around it; a failure without that is noted.
    fn run(&self, arguments: &[&str]) -> Option<Output> {
        let (before, recent) = (self.kills.load(Ordering::SeqCst), self.recently());
        let began = Instant::now();
        let output = self.engine.hyper(arguments).timeout(PATIENCE).run();
        if output.code == 0 {
            return Some(output);
        }
        if began.elapsed() >= PATIENCE {
            self.note(format!("it hangs: {output}"));
        } else if !recent && self.kills.load(Ordering::SeqCst) == before {
            self.note(format!("it failed though nothing was killed: {output}"));
        }
        None
    }

    fn recently(&self) -> bool {
        self.last.lock().unwrap().is_some_and(|last| last.elapsed() < AFTERMATH)
    }

    fn note(&self, wrong: String) {
        eprintln!("{wrong}");
        self.wrong.lock().unwrap().push(wrong);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Repeats a command until it succeeds.
    fn insist(&self, arguments: &[&str]) -> Option<Output> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(output) = self.run(arguments) {
                return Some(output);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        self.note(format!("it never succeeds: {arguments:?}"));
        None
    }

    /// Kills one of hyperd, a shim, a VMM or a virtiofsd; whether there was one.
    fn kill_one(&self, dice: &mut Dice) -> bool {
        let processes = self.engine.pod_processes();
        let of = |wanted: &dyn Fn(&str) -> bool| -> Vec<i32> {
            processes.iter().filter(|process| wanted(&process.command)).map(|process| process.pid).collect()
        };
        let candidates = match dice.below(7) {
            0 | 1 => self.engine.daemon_pid().into_iter().collect(),
            2 | 3 => of(&|command| command.contains("qemu-system")),
            4 => of(&|command| command.contains("virtiofsd") && !command.contains("containerd-shim-hyper")),
            _ => of(&|command| command.contains("containerd-shim-hyper") && !command.contains("qemu-system")),
        };
        if candidates.is_empty() {
            return false;
        }
        let victim = candidates[dice.below(candidates.len())];
        *self.last.lock().unwrap() = Some(Instant::now());
        self.kills.fetch_add(1, Ordering::SeqCst);
        kill(victim, Signal::KILL);
        *self.last.lock().unwrap() = Some(Instant::now());
        true
    }
}

/// A container that writes numbered lines, and keeps what it is given.
struct Witness {
    name: String,
    /// Where it keeps that.
    place: &'static str,
    /// What it has acknowledged as synced.
    kept: BTreeSet<usize>,
    next: usize,
}

const COUNT: &str = "n=0; while :; do n=$((n + 1)); echo line $n; sleep 0.05; done";

impl Witness {
    fn live(mut self, soak: &Soak<'_>, dice: &mut Dice) -> Self {
        while !soak.is_over() {
            match dice.below(9) {
                0..=2 => self.keep(soak),
                3 => self.check_lines(soak),
                4 => {
                    soak.run(&["stop", "-t", "1", &self.name]);
                    soak.run(&["start", &self.name]);
                }
                5 => {
                    soak.run(&["restart", "-t", "0", &self.name]);
                }
                6 => self.move_network(soak),
                _ => {
                    if let Some(alive) = soak.run(&["exec", &self.name, "echo", "alive"]) {
                        if alive.out() != "alive\n" {
                            soak.note(format!("exec says something else: {alive}"));
                        }
                    } else {
                        soak.run(&["start", &self.name]);
                    }
                }
            }
        }
        self
    }

    fn keep(&mut self, soak: &Soak<'_>) {
        let number = self.next;
        self.next += 1;
        let script = format!("echo {number} >> {} && sync && echo synced", self.place);
        match soak.run(&["exec", &self.name, "sh", "-c", &script]) {
            Some(output) if output.out() == "synced\n" => {
                self.kept.insert(number);
            }
            Some(output) => soak.note(format!("exec says something else: {output}")),
            None => {
                soak.run(&["start", &self.name]);
            }
        }
    }

    /// Its networks, by name, with its address on each.
    fn networks(&self, soak: &Soak<'_>) -> Option<Vec<(String, String)>> {
        let format = "{{range $name, $net := .NetworkSettings.Networks}}{{$name}}={{$net.IPAddress}} {{end}}";
        let shown = soak.run(&["inspect", "--type", "container", "--format", format, &self.name])?.out();
        let pair =
            |pair: &str| pair.split_once('=').map(|(name, address)| (name.to_owned(), address.to_owned()));
        Some(shown.split_whitespace().filter_map(pair).collect())
    }

    /// Onto the other network, or off it.
    fn move_network(&self, soak: &Soak<'_>) {
        let Some(networks) = self.networks(soak) else { return };
        let verb = match networks.iter().any(|(name, _)| name == OTHER) {
            true => "disconnect",
            false => "connect",
        };
        soak.run(&["network", verb, OTHER, &self.name]);
    }

    /// It has the addresses that it is said to have, and no others.
    fn check_addresses(&self, soak: &Soak<'_>) {
        let Some(mut told) = self.networks(soak) else { return };
        let script = "ip -4 -o addr show scope global | sed 's/.* inet //; s/\\/.*//' | sort";
        let Some(shown) = soak.run(&["exec", &self.name, "sh", "-c", script]) else { return };
        told.sort_by(|(_, one), (_, two)| one.cmp(two));
        let told: Vec<String> = told.into_iter().map(|(_, address)| address).collect();
        if shown.out().lines().collect::<Vec<_>>() != told {
            soak.note(format!("{} has {:?}, and is said to have {told:?}", self.name, shown.out()));
        }
    }

    /// Each start writes from 1 on, without a gap.
    fn check_lines(&self, soak: &Soak<'_>) {
        let Some(logs) = soak.run(&["logs", &self.name]) else { return };
        let mut expected = 1;
        for line in logs.out().lines() {
            let number = line.strip_prefix("line ").and_then(|number| number.parse::<usize>().ok());
            match number {
                Some(1) => expected = 2,
                Some(number) if number == expected => expected += 1,
                _ => {
                    return soak.note(format!("{}: {line:?} comes where line {expected} was due", self.name));
                }
            }
        }
    }

    /// Everything that it acknowledged is there.
    fn check_kept(&self, soak: &Soak<'_>) {
        let script = format!("touch {place}; cat {place}", place = self.place);
        let Some(kept) = soak.insist(&["exec", &self.name, "sh", "-c", &script]) else { return };
        let found: BTreeSet<usize> = kept.out().lines().filter_map(|line| line.parse().ok()).collect();
        let lost: Vec<_> = self.kept.difference(&found).collect();
        if !lost.is_empty() {
            soak.note(format!("{} lost {lost:?} of {} that it had synced", self.name, self.kept.len()));
        }
    }
}

/// Containers that come and go.
fn passers_by(soak: &Soak<'_>, name: &str, dice: &mut Dice) -> usize {
    let mut seen = 0;
    while !soak.is_over() {
        seen += 1;
        if dice.below(2) == 0 {
            let word = format!("{name}-{seen}");
            if let Some(output) = soak.run(&["run", "--rm", "busybox:latest", "echo", &word])
                && output.out() != format!("{word}\n")
            {
                soak.note(format!("run says something else: {output}"));
            }
            continue;
        }
        let own = format!("{name}-{seen}");
        let code = dice.below(100) + 1;
        let script = format!("echo out of {own}; exit {code}");
        if soak.run(&["run", "-d", "--name", &own, "busybox:latest", "sh", "-c", &script]).is_some() {
            let before = soak.kills.load(Ordering::SeqCst);
            if let Some(waited) = soak.run(&["wait", &own]) {
                let told = waited.out().trim().to_owned();
                // Whose VM was killed has another.
                let unharmed = !soak.recently() && soak.kills.load(Ordering::SeqCst) == before;
                if told == code.to_string() {
                    let logs = soak.run(&["logs", &own]);
                    if logs.is_some_and(|logs| logs.out() != format!("out of {own}\n")) {
                        soak.note(format!("{own} has lost its output"));
                    }
                } else if unharmed || told.parse::<i32>().is_err() {
                    soak.note(format!("{own} ended with {told} instead of {code}"));
                }
            }
        }
        // It may be there although its command failed.
        let filter = format!("name=^{own}$");
        let found = soak.insist(&["ps", "-aq", "--filter", &filter]);
        if found.is_some_and(|found| !found.out().is_empty()) {
            soak.insist(&["rm", "-f", &own]);
        }
    }
    seen
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|value| !value.is_empty())?.parse().ok()
}

fn nothing_is_lost_while_everything_is_killed() {
    let wanted = from_environment("HYPER_SOAK_KILLS").map_or(KILLS, |kills| kills as usize);
    let seed = from_environment("HYPER_SOAK_SEED").unwrap_or_else(|| {
        let mut bytes = [0; 8];
        File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    });
    println!("soak: seed {seed}, {wanted} kills");
    let engine = Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() });
    let soak = Soak {
        engine: &engine,
        over: AtomicBool::new(false),
        kills: AtomicUsize::new(0),
        last: Mutex::new(None),
        wrong: Mutex::default(),
    };
    for network in ["soaked", OTHER] {
        engine.hyper(&["network", "create", network]).run().ok();
    }
    let witnesses: Vec<Witness> = (0..)
        .zip(WITNESSES)
        .map(|(number, (flags, place))| {
            let name = format!("witness{number}");
            let words = ["run", "-d", "--name", &name];
            let line = [&words, flags, &["busybox:latest", "sh", "-c", COUNT]].concat();
            engine.hyper(&line).timeout(PATIENCE).run().ok();
            Witness { name, place, kept: BTreeSet::new(), next: 0 }
        })
        .collect();
    let witnesses = std::thread::scope(|scope| {
        let soak = &soak;
        let living: Vec<_> = (2..)
            .zip(witnesses)
            .map(|(thrower, witness)| scope.spawn(move || witness.live(soak, &mut Dice::new(seed, thrower))))
            .collect();
        let passing = scope.spawn(|| passers_by(soak, "passer", &mut Dice::new(seed, 100)));
        let mut dice = Dice::new(seed, 1);
        while soak.kills.load(Ordering::SeqCst) < wanted {
            std::thread::sleep(PAUSE.mul_f64(dice.below(1000) as f64 / 1000.0));
            soak.kill_one(&mut dice);
        }
        soak.over.store(true, Ordering::SeqCst);
        let seen = passing.join().unwrap();
        println!("soak: {seen} containers came and went");
        living.into_iter().map(|living| living.join().unwrap()).collect::<Vec<_>>()
    });
    // What was killed last has been noticed.
    wait_until_within("the aftermath is over", AFTERMATH * 2, || !soak.recently());
    for witness in &witnesses {
        let state =
            engine.hyper(&["inspect", "--format", "{{.State.Status}}", &witness.name]).run().ok().out();
        let alive = engine.hyper(&["exec", &witness.name, "true"]).timeout(PATIENCE).run().code == 0;
        if alive != (state.trim() == "running") {
            soak.note(format!("{} is said to be {}, alive: {alive}", witness.name, state.trim()));
        }
        witness.check_lines(&soak);
        if alive {
            witness.check_addresses(&soak);
        }
        if !alive {
            soak.insist(&["start", &witness.name]);
        }
        witness.check_kept(&soak);
        println!("soak: {} acknowledged {} of {}", witness.name, witness.kept.len(), witness.next);
    }
    let wrong = soak.wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
    let names: Vec<String> = witnesses.into_iter().map(|witness| witness.name).collect();
    let mut remove = vec!["rm", "-f"];
    remove.extend(names.iter().map(String::as_str));
    engine.hyper(&remove).timeout(PATIENCE).run().ok();
    engine.settles();
    engine.hyper(&["network", "rm", "soaked", OTHER]).run().ok();
    engine.hyper(&["volume", "rm", "soaked"]).run().ok();
    assert_eq!(engine.finish(), Vec::<String>::new(), "seed {seed}");
}

fn fifty_containers_started_at_once_all_start() {
    /// How many.
    const MANY: usize = 50;
    let engine = Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() });
    let names: Vec<String> = (0..MANY).map(|number| format!("many{number}")).collect();
    let start = |name: &str| {
        let words = ["run", "-d", "--name", name, "busybox:latest", "sleep", "1000"];
        engine.hyper(&words).timeout(PATIENCE).run()
    };
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let starts: Vec<_> = names.iter().map(|name| scope.spawn(|| start(name))).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    for output in outputs {
        output.ok();
    }
    let running = engine.hyper(&["ps", "-q"]).run().ok().out();
    assert_eq!(running.lines().count(), MANY, "{running}");
    for name in &names {
        engine.hyper(&["exec", name, "hostname"]).timeout(PATIENCE).run().ok();
    }
    let words: Vec<&str> = ["rm", "-f"].into_iter().chain(names.iter().map(String::as_str)).collect();
    engine.hyper(&words).timeout(PATIENCE).run().ok();
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}
