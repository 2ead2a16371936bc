//! Runs the commands of `tests/docker-cli/commands.txt` with docker's CLI against Hyper and, beside it, against a real
//! dockerd, and tells where they differ in exit code or standard output. An argument chooses the commands that contain it
//! (those before it that it needs are the caller's business).
#![allow(clippy::unwrap_used, reason = "a test program fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use hyper_e2e::command::{Cmd, Output};
use hyper_e2e::{Instance, Options, Oracle};

/// Longest that one line may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The image that the commands use; `$1` is where to make it, and to import it from.
const IMAGE: &str = r#"
set -eu
cd "$1"
mkdir -p root/bin root/etc root/tmp root/root root/usr/bin root/usr/sbin root/sbin
cp "$(command -v busybox)" root/bin/busybox
for applet in $(root/bin/busybox --list); do [ "$applet" = busybox ] || ln -sf /bin/busybox "root/bin/$applet"; done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' > root/etc/passwd
printf 'root:x:0:\nnobody:x:65534:\n' > root/etc/group
chmod 1777 root/tmp
tar -C root --owner 0 --group 0 --numeric-owner -cf busybox.tar .
rm -rf root
docker import --change 'CMD ["sh"]' --change 'ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin' busybox.tar busybox:latest > /dev/null
"#;

/// What is wanted of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Same,
    SameCode,
    Refused,
}

/// A line of the file.
#[derive(Debug, Clone)]
struct Line {
    wanted: Wanted,
    command: String,
    /// What a refusal says.
    words: String,
}

/// Where lines are run.
struct Place<'a> {
    command: &'a dyn Fn() -> Command,
    directory: &'a Path,
}

impl Place<'_> {
    /// Makes `docker` a program that talks to `host`, and the image.
    fn prepare(&self, host: &str) {
        let bin = self.directory.join("bin");
        fs::create_dir_all(&bin).unwrap();
        let docker = hyper_e2e::docker::program().unwrap_or_else(|missing| panic!("{missing}"));
        let script = format!("#!/bin/sh\nexec {} -H {host} \"$@\"\n", docker.display());
        fs::write(bin.join("docker"), script).unwrap();
        fs::set_permissions(bin.join("docker"), fs::Permissions::from_mode(0o755)).unwrap();
        self.run(&["sh", "-c", IMAGE, "image", &self.directory.display().to_string()]).ok();
    }

    fn line(&self, line: &str) -> Output {
        let script = format!("cd \"$D\"; {line}");
        self.run(&["sh", "-c", &script])
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = (self.command)();
        let path = std::env::var("PATH").unwrap();
        command.arg("env").arg(format!("D={}", self.directory.display()));
        command.arg(format!("HOME={}", self.directory.display()));
        command.arg(format!("PATH={}/bin:{path}", self.directory.display()));
        Cmd::new(command, arguments).timeout(PATIENCE).run()
    }

    /// What is the daemon's own choice, made alike.
    fn alike(&self, output: &Output) -> String {
        let text = output.out().replace(&self.directory.display().to_string(), "<directory>");
        let mut alike = String::with_capacity(text.len());
        let mut word = String::new();
        for character in text.chars().chain(['\0']) {
            if character.is_ascii_alphanumeric() {
                word.push(character);
                continue;
            }
            let hexadecimal = word.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
            let id = hexadecimal && matches!(word.len(), 12 | 64);
            alike.push_str(if id { "<id>" } else { &word });
            word.clear();
            if character != '\0' {
                alike.push(character);
            }
        }
        alike
    }
}

fn main() -> ExitCode {
    let chosen = std::env::args().nth(1);
    let lines: Vec<Line> = lines(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docker-cli/commands.txt"))
        .into_iter()
        .filter(|line| chosen.as_ref().is_none_or(|chosen| line.command.contains(chosen)))
        .collect();
    let engine = Instance::start(Options::default());
    engine.start_daemon();
    let own = engine.directory().join("cli");
    let (host, inside) = (engine.host(), || engine.lab.engine.command());
    let here = Place { command: &inside, directory: &own };
    here.prepare(&host);
    let oracle = Oracle::start();
    let theirs = oracle.directory().join("cli");
    let outside = || Command::new("nice");
    let there = Place { command: &outside, directory: &theirs };
    there.prepare(oracle.dockerd().host());

    let mut wrong = 0;
    for line in &lines {
        let ours = here.line(&line.command);
        let told = match line.wanted {
            Wanted::Refused => refusal(&ours, &line.words),
            wanted => difference(wanted, (&here, &ours), (&there, &there.line(&line.command))),
        };
        if let Some(told) = told {
            wrong += 1;
            println!("{}\n{told}", line.command);
        }
    }
    drop(oracle);
    let left = engine.finish();
    left.iter().for_each(|line| println!("left behind: {line}"));
    println!("{} of {} commands as with dockerd", lines.len() - wrong, lines.len());
    if wrong == 0 && left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn lines(path: &Path) -> Vec<Line> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (mark, command) = line.split_once(' ').unwrap_or((line, ""));
            let (command, words) = command.split_once("#!").unwrap_or((command, ""));
            let wanted = match mark {
                "=" => Wanted::Same,
                "~" => Wanted::SameCode,
                "!" => Wanted::Refused,
                _ => panic!("a line without a mark: {line}"),
            };
            Line { wanted, command: command.trim().to_owned(), words: words.trim().to_owned() }
        })
        .collect()
}

fn refusal(ours: &Output, words: &str) -> Option<String> {
    let refused = ours.code != 0 && ours.err().contains(words);
    (!refused).then(|| format!("  is not refused with {words:?}: {ours}"))
}

fn difference(wanted: Wanted, ours: (&Place, &Output), theirs: (&Place, &Output)) -> Option<String> {
    let [us, them] = [ours, theirs].map(|(place, output)| (output.code, place.alike(output)));
    if us.0 == them.0 && (wanted == Wanted::SameCode || us.1 == them.1) {
        return None;
    }
    let shown = |(code, text): &(i32, String), output: &Output| {
        let text: Vec<String> =
            text.lines().chain(output.err().lines()).map(|line| format!("    {line}\n")).collect();
        format!("{code}\n{}", text.concat())
    };
    Some(format!("  hyper {}  dockerd {}", shown(&us, ours.1), shown(&them, theirs.1)))
}
