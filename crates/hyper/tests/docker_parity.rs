//! The same commands with docker's CLI and ours against the same dockerd: same standard output, same exit code.
//!
//! Runs when `HYPER_PARITY_HOST` names a dockerd (`unix://…`), the docker CLI is installed and a static busybox
//! is there to make an image from; else it reports that it was skipped.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where Debian's `busybox-static` puts it.
const BUSYBOX: &str = "/bin/busybox";
/// The image that the commands use.
const IMAGE: &str = "parity-bb";
/// API version of both clients: dockerd 26's.
const API_VERSION: &str = "1.45";

/// What a command gave.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    stdout: String,
    code: Option<i32>,
}

/// A command line for both; `{n}` becomes a prefix of the CLI's own, `<` separates the input.
struct Step {
    line: &'static str,
    /// Standard error has to contain this, whoever runs it.
    stderr: &'static str,
}

const fn step(line: &'static str) -> Step {
    Step { line, stderr: "" }
}

const fn fails(line: &'static str, stderr: &'static str) -> Step {
    Step { line, stderr }
}

const STEPS: &[Step] = &[
    step("run --rm parity-bb echo hi there"),
    step("run --rm -i parity-bb tr a-z A-Z < hello"),
    step("run --rm parity-bb cat < nobody reads this"),
    step("run --rm parity-bb sh -c exit\u{a0}7"),
    step("run --rm parity-bb sh -c kill\u{a0}-9\u{a0}$$"),
    step("run --rm parity-bb sh -c echo\u{a0}err\u{a0}>&2;echo\u{a0}out"),
    fails("run --rm parity-bb nosuch", "executable file not found"),
    fails("run --rm parity-bb /etc/passwd", "permission denied"),
    fails("run --rm -w /nosuch-dir/x/y parity-bb /nosuch", ""),
    fails("run --pull never parity-nosuch", "No such image: parity-nosuch:latest"),
    fails("run --rm --memory 1k parity-bb true", "Minimum memory limit"),
    fails("run --rm --memory x parity-bb true", "invalid size"),
    fails("run -d -a stdout parity-bb true", "cannot specify both --attach and --detach"),
    fails("run --rm -it parity-bb sh", "not a TTY"),
    fails("run", "require"),
    fails("run --no-such-flag parity-bb", "no-such-flag"),
    step("run --rm -e A=1 -e PARITY -e NOPE -w /tmp parity-bb sh -c echo\u{a0}$A$PARITY$NOPE;pwd"),
    step("run --rm -u www-data --group-add 77 parity-bb id"),
    step("run --rm -h web --domainname d.example parity-bb hostname"),
    step("run --rm --entrypoint /bin/echo parity-bb from entry"),
    step(
        "run --rm --network none --read-only --tmpfs /x:size=1m parity-bb sh -c echo\u{a0}a>/x/y&&cat\u{a0}/x/y;touch\u{a0}/z",
    ),
    step("run --rm --ulimit nofile=64:64 parity-bb sh -c ulimit\u{a0}-n"),
    step("run --rm -a stdout parity-bb sh -c echo\u{a0}o;echo\u{a0}e>&2"),
    step("run --rm -a stderr parity-bb sh -c echo\u{a0}o;echo\u{a0}e>&2"),
    step("run --name {n}one -l a=b -l c=d -e X=y parity-bb sh -c echo\u{a0}one;echo\u{a0}two"),
    fails("run --name {n}one parity-bb true", "is already in use by container"),
    step("logs {n}one"),
    step("logs -n 1 {n}one"),
    step("logs --tail 0 {n}one"),
    step("logs --details {n}one"),
    step("logs --since 10m {n}one"),
    step("logs --until 2000-01-01 {n}one"),
    fails("logs --since nonsense {n}one", "failed to parse value as time or duration"),
    fails("logs {n}nosuch", "No such container"),
    step("start -a {n}one"),
    step("start {n}one"),
    step("wait {n}one"),
    step(
        "ps -a --filter name={n}one --format {{.Names}}|{{.Image}}|{{.Command}}|{{.State}}|{{.Labels}}|{{.Networks}}|{{.Ports}}|{{.Size}}|{{.Mounts}}|{{.LocalVolumes}}|{{.Label\u{a0}\"a\"}}",
    ),
    step("ps -a --filter name={n}one --format table\u{a0}{{.Names}}\\t{{.Image}}\\t{{.Command}}"),
    step("ps -a --filter name={n}nothing"),
    step("ps -q --filter name={n}nothing"),
    fails("ps --filter nonsense", ""),
    fails("ps --filter nonsense=1", "invalid filter"),
    fails("ps --format {{.Nope}}", ""),
    fails("ps --format {{.Names", "unclosed action"),
    step(
        "inspect -f {{.Name}}\u{a0}{{.Config.Env}}\u{a0}{{.Config.Labels}}\u{a0}{{.State.ExitCode}}\u{a0}{{.HostConfig.Binds}} {n}one",
    ),
    step("inspect -f {{json\u{a0}.Config.Labels}}{{range\u{a0}.Config.Cmd}}[{{.}}]{{end}} {n}one"),
    step("inspect -f {{index\u{a0}.Config.Labels\u{a0}\"a\"}}{{.Config.Labels.nope}} {n}one"),
    step("inspect --format json --type image parity-bb"),
    step("inspect parity-bb"),
    step("image inspect parity-bb"),
    fails("inspect {n}nosuch", "No such object"),
    fails("inspect --type container {n}nosuch", "No such container"),
    fails("inspect -f {{.Nope}} {n}one", "map has no entry for key \"Nope\""),
    fails("inspect -f {{.Nope {n}one", "unclosed action"),
    fails("inspect -f {{.Id}} {n}one {n}nosuch", "No such object"),
    step("run -d --name {n}odd parity-bb echo \"a\\b\t\x1b[1m世界世界世界"),
    step("ps -a --filter name={n}odd --format {{.Command}}"),
    step("ps -a --no-trunc --filter name={n}odd --format {{.Command}}"),
    step("rm -f {n}odd"),
    step("rename {n}one {n}two"),
    fails("rename {n}one {n}three", "No such container"),
    step("rm {n}two"),
    fails("rm {n}two", "No such container"),
    fails("rm -f {n}two", "No such container"),
    step("create --name {n}c -i parity-bb cat"),
    step("ps -a --filter name={n}c --format {{.Names}}\u{a0}{{.Status}}"),
    step("start -ai {n}c < through start"),
    step("rm {n}c"),
    step("run -d --name {n}bg parity-bb sleep 1000"),
    step("exec {n}bg echo in exec"),
    step("exec -i {n}bg cat < exec input"),
    step("exec -e Q=5 -w /tmp -u www-data {n}bg sh -c echo\u{a0}$Q;pwd;id\u{a0}-u"),
    step("exec {n}bg sh -c exit\u{a0}3"),
    step("exec {n}bg nosuch"),
    step("exec {n}bg /etc/passwd"),
    fails("exec -d {n}bg nosuch", ""),
    step("exec -d {n}bg true"),
    fails("exec {n}nosuch true", "No such container"),
    fails("exec {n}bg", "require"),
    fails("attach {n}nosuch", "No such container"),
    step("top {n}bg -o comm"),
    step("port {n}bg"),
    fails("port {n}bg 80", "No public port"),
    step("pause {n}bg"),
    fails("pause {n}bg", "already paused"),
    step("ps --filter name={n}bg --filter status=paused --format {{.Names}}"),
    step("unpause {n}bg"),
    fails("rm {n}bg", "remov"),
    step("stats --no-stream --format {{.Name}}\u{a0}{{.Container}}\u{a0}{{.PIDs}} {n}bg"),
    step("restart -t 0 {n}bg"),
    step("kill -s KILL {n}bg"),
    step("wait {n}bg"),
    fails("kill {n}bg", "is not running"),
    step("stop -t 0 {n}bg"),
    fails("stop {n}nosuch {n}nosuch2", "No such container"),
    step("inspect -f {{.State.ExitCode}}\u{a0}{{.State.Status}} {n}bg"),
    fails("attach {n}bg", "cannot attach to a stopped container"),
    step("rm -fv {n}bg"),
    step("images --format {{.Repository}}:{{.Tag}}\u{a0}{{.ID}}\u{a0}{{.Size}} parity-bb"),
    step("images parity-bb"),
    step("images --digests --no-trunc parity-bb"),
    step("images -q parity-bb"),
    step("images --format json parity-bb"),
    step("image ls --filter reference=parity-b*"),
    step("history parity-bb"),
    step("history --no-trunc --format json parity-bb"),
    step("history -q parity-bb"),
    step("history -H=false parity-bb"),
    fails("history {n}nosuch", "No such image"),
    step("tag parity-bb {n}tagged:x"),
    step("images {n}tagged"),
    step("rmi {n}tagged:x"),
    fails("rmi {n}tagged:x", "No such image"),
    fails("rmi -f {n}tagged:x", "No such image"),
    fails("tag {n}nosuch {n}x", "No such image"),
    fails("tag parity-bb UPPER", "must be lowercase"),
    fails("pull UPPER", "must be lowercase"),
    fails("pull localhost:1/x", "connection refused"),
    fails("save {n}nosuch", "No such image"),
    fails("load -i /nonexistent", "/nonexistent"),
    fails("import /nonexistent", "/nonexistent"),
    step("import - {n}imported:y < not a tar"),
    fails("no-such-command", "unknown command"),
    step("container prune -f --filter label=parity-none"),
    step("image prune -f --filter label=parity-none"),
    step("container prune < n"),
    step("events --since 1700000000 --until 1700000001"),
    fails("create --pull foo parity-bb", "invalid pull option"),
    fails("create --pull never {n}nosuch", "No such image"),
    fails("create UPPER", "must be lowercase"),
    fails("run UPPER", "must be lowercase"),
    fails("run --name a\u{a0}b parity-bb", "Invalid container name"),
    fails("ps -n x", "-last"),
    fails("tag parity-bb", "require"),
    fails("rm", "require"),
];

/// Commands on a terminal: the line, what is typed, and the exit code that both must have.
const ON_A_TERMINAL: &[(&str, &str, i32)] = &[
    ("run --rm -it parity-bb sh", "exit 3\r", 3),
    ("run --name {n}tty -it parity-bb sh", "\x10\x11", 0),
    ("attach {n}tty", "\x10\x11", 1),
    ("attach --detach-keys ctrl-a,x {n}tty", "\x01x", 1),
    ("exec -it {n}tty sh", "exit 5\r", 5),
    ("exec -it {n}tty sh", "\x10\x11", 1),
    ("attach {n}tty", "exit 4\r", 4),
    ("start -ai {n}tty", "exit 6\r", 6),
    ("rm {n}tty", "", 0),
    ("save parity-bb", "", 1),
    ("load", "", 1),
];

#[test]
fn a_terminal_works_as_dockers_does() {
    let Some(host) = ready() else { return };
    for (line, typed, code) in ON_A_TERMINAL {
        for (program, prefix) in [("docker", "dk"), (env!("CARGO_BIN_EXE_hyper"), "hy")] {
            let line = line.replace("{n}", &format!("{prefix}-parity-"));
            let mut child = Command::new("script")
                .args(["-qefc", &format!("{program} -H {host} {line}"), "/dev/null"])
                .env("DOCKER_API_VERSION", API_VERSION)
                .env("HYPER_API_VERSION", API_VERSION)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("script is part of util-linux");
            let mut keyboard = child.stdin.take().expect("piped");
            let began = Instant::now();
            // Keys typed too early are lost with the old terminal mode: they are typed until the command ends.
            let status = loop {
                if let Some(status) = child.try_wait().expect("our child") {
                    break status;
                }
                assert!(began.elapsed() < Duration::from_secs(30), "{program} {line} does not end");
                std::thread::sleep(Duration::from_millis(400));
                let _ = keyboard.write_all(typed.as_bytes());
            };
            assert_eq!(status.code(), Some(*code), "{program} {line}");
        }
    }
}

#[test]
fn our_answers_are_dockers() {
    let Some(host) = ready() else { return };
    let mut differences = Vec::new();
    for step in STEPS {
        let (docker, docker_errors) = answer(Path::new("docker"), &host, "dk", step.line);
        let (ours, our_errors) = answer(Path::new(env!("CARGO_BIN_EXE_hyper")), &host, "hy", step.line);
        if docker != ours {
            differences
                .push(format!("{}\n  docker {docker:?}\n  ours   {ours:?}\n  {our_errors}", step.line));
        }
        for (who, errors) in [("docker", &docker_errors), ("ours", &our_errors)] {
            if !errors.contains(step.stderr) {
                differences
                    .push(format!("{}\n  {who} does not say {:?}: {errors:?}", step.line, step.stderr));
            }
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

/// The dockerd's address when all tools are there; makes the image.
fn ready() -> Option<String> {
    let Ok(host) = std::env::var("HYPER_PARITY_HOST") else {
        eprintln!("skipped: HYPER_PARITY_HOST names no dockerd");
        return None;
    };
    if Command::new("docker").arg("--version").output().is_err() || !Path::new(BUSYBOX).exists() {
        eprintln!("skipped: needs the docker CLI and {BUSYBOX}");
        return None;
    }
    let made = Command::new("sh")
        .arg("-c")
        .arg(MAKE_IMAGE)
        .env("DOCKER_HOST", &host)
        .env("IMAGE", IMAGE)
        .output()
        .expect("a shell runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Some(host)
}

/// A busybox image with two users; imported once.
const MAKE_IMAGE: &str = r#"
set -e
docker image inspect "$IMAGE" >/dev/null 2>&1 && exit 0
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/bin" "$dir/etc" "$dir/tmp"
cp /bin/busybox "$dir/bin/"
for name in sh cat echo true sleep tr id pwd hostname touch kill ps; do ln -s busybox "$dir/bin/$name"; done
printf 'root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n' >"$dir/etc/passwd"
printf 'root:x:0:\nwww-data:x:33:\nextra:x:77:\n' >"$dir/etc/group"
tar -C "$dir" -c . | docker import -c 'CMD ["/bin/sh"]' -c 'ENV FOO=bar' - "$IMAGE" >/dev/null
"#;

fn answer(program: &Path, host: &str, prefix: &str, line: &str) -> (Answer, String) {
    let line = line.replace("{n}", &format!("{prefix}-parity-"));
    let (words, input) = line.split_once(" < ").unwrap_or((&line, ""));
    // A no-break space keeps a word together.
    let words = words.split(' ').map(|word| word.replace('\u{a0}', " "));
    let mut child = Command::new(program)
        .args(["-H", host])
        .args(words)
        .env("PARITY", "from-env")
        .env("DOCKER_API_VERSION", API_VERSION)
        .env("HYPER_API_VERSION", API_VERSION)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    // A command that does not read its input may be gone already.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("the program ends");
    let stdout = normal(&String::from_utf8_lossy(&output.stdout), prefix);
    (Answer { stdout, code: output.status.code() }, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Without what must differ: names and ids of containers, ages, program names.
fn normal(text: &str, prefix: &str) -> String {
    let text = text.replace(&format!("{prefix}-parity-"), "{n}").replace("hyper", "docker");
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
            continue;
        }
        let is_id = word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
        out.push_str(if is_id { "ID" } else { &word });
        word.clear();
        out.push(c);
    }
    out.pop();
    out
}
