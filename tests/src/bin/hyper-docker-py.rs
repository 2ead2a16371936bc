//! Runs docker-py's integration tests against Hyper and against a real dockerd, and writes a table of both.
//!
//! Fails when a test passes on dockerd, does not on Hyper, and is not among the exceptions with their reasons. Arguments
//! choose tests, as pytest takes them (`-k NAME`, or files); the table is written only of the whole.
#![allow(clippy::unwrap_used, reason = "a test program fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use hyper_e2e::{Instance, Options, Oracle};
use serde::Deserialize;

/// The last version whose source package has its tests.
const VERSION: &str = "7.0.0";
/// What it runs with: `requests` 2.32 took away what this version extends.
const REQUIREMENTS: [&str; 5] =
    ["docker==7.0.0", "requests<2.32", "pytest<9", "pytest-timeout<3", "paramiko<4"];
/// Whatever is about neither swarm, services, plugins nor building images.
const FILES: [&str; 16] = [
    "api_client_test.py",
    "api_container_test.py",
    "api_exec_test.py",
    "api_healthcheck_test.py",
    "api_image_test.py",
    "api_network_test.py",
    "api_volume_test.py",
    "client_test.py",
    "context_api_test.py",
    "errors_test.py",
    "models_containers_test.py",
    "models_images_test.py",
    "models_networks_test.py",
    "models_resources_test.py",
    "models_volumes_test.py",
    "regression_test.py",
];
/// Longest that one test may take, in seconds.
const TEST_SECONDS: &str = "120";
/// Makes the images that the tests want: a busybox under the names of others, and one that says hello.
const IMAGES: &str = r#"
set -eu
mkdir -p root/bin root/etc root/tmp root/root root/home root/var/run root/usr/bin root/usr/sbin root/sbin hello
cp "$(command -v busybox)" root/bin/busybox
for applet in $(root/bin/busybox --list); do [ "$applet" = busybox ] || ln -sf /bin/busybox "root/bin/$applet"; done
printf 'root:x:0:0:root:/root:/bin/sh\nbin:x:1:1:bin:/bin:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n' \
    > root/etc/passwd
printf 'root:x:0:\nbin:x:1:\nnobody:x:65534:\n' > root/etc/group
chmod 1777 root/tmp
tar -C root --owner 0 --group 0 --numeric-owner -cf busybox.tar .
cp root/bin/busybox hello/busybox
tar -C hello --owner 0 --group 0 --numeric-owner -cf hello.tar busybox
"#;
/// Imports them; `$1` is the command line of one of the daemons, `$2` where the images are.
const IMPORT: &str = r#"
set -eu
cd "$2"
path='ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
for name in alpine:3.10 alpine:latest busybox:latest; do
    $1 import --change 'CMD ["/bin/sh"]' --change "$path" busybox.tar $name > /dev/null
done
$1 import --change 'ENTRYPOINT ["/busybox", "echo"]' --change 'CMD ["Hello from Docker!"]' hello.tar hello-world:latest \
    > /dev/null
"#;

/// How a test ended.
#[derive(Debug, Clone, Deserialize)]
struct End {
    test: String,
    outcome: String,
    why: String,
}

type Ends = BTreeMap<String, End>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker-py");
    let suite = prepare();
    let work = tempfile::tempdir().unwrap();
    must(Command::new("sh").args(["-c", IMAGES]).current_dir(work.path()));

    let engine = Instance::start(Options::default());
    engine.start_daemon();
    let line = engine.line(hyper_e2e::Cli::Docker);
    must(engine.lab.engine.command().args(["sh", "-c", IMPORT, "import", &line]).arg(work.path()));
    let inside = engine.lab.engine.command();
    let ours = run(&suite, &own, inside, &engine.host(), &work.path().join("hyper"), &arguments);
    let left = engine.finish();

    let oracle = Oracle::start();
    let dockerd = oracle.dockerd();
    let docker = hyper_e2e::docker::program().unwrap_or_else(|missing| panic!("{missing}"));
    let line = format!("{} -H {}", docker.display(), dockerd.host());
    must(Command::new("sh").args(["-c", IMPORT, "import", &line]).arg(work.path()));
    let theirs =
        run(&suite, &own, Command::new("env"), dockerd.host(), &work.path().join("dockerd"), &arguments);
    drop(oracle);

    let exceptions = exceptions(&own.join("exceptions.txt"));
    let table = table(&ours, &theirs, &exceptions);
    println!("{table}");
    if arguments.is_empty() {
        fs::write(own.join("results.md"), &table).unwrap();
    }
    let wrong = judge(&ours, &theirs, &exceptions);
    wrong.iter().for_each(|line| println!("{line}"));
    left.iter().for_each(|line| println!("left behind: {line}"));
    if wrong.is_empty() && left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The tests and what they run with, fetched once.
fn prepare() -> PathBuf {
    let cache = hyper_e2e::images::cache();
    fs::create_dir_all(&cache).unwrap();
    let done = cache.join(format!("docker-py-{VERSION}-2"));
    if !done.exists() {
        eprintln!("fetching docker-py {VERSION}");
        let work = tempfile::tempdir_in(&cache).unwrap();
        // A virtual environment knows its place, so it is made there.
        let source = format!("docker=={VERSION}");
        must(Command::new("python3").args(["-m", "venv"]).arg(&done));
        let pip = done.join("bin/pip");
        must(Command::new(&pip).args(["install", "--quiet"]).args(REQUIREMENTS));
        must(
            Command::new(&pip)
                .args(["download", "--quiet", "--no-deps", "--no-binary", ":all:", &source])
                .current_dir(work.path()),
        );
        let archive = work.path().join(format!("docker-{VERSION}.tar.gz"));
        must(Command::new("tar").arg("-C").arg(&done).arg("-xf").arg(archive));
        fs::write(done.join("complete"), "").unwrap();
    }
    if !done.join("complete").exists() {
        fs::remove_dir_all(&done).unwrap();
        return prepare();
    }
    done
}

#[track_caller]
fn must(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// Runs the tests against the daemon at `host`, in the namespaces of `command`.
fn run(suite: &Path, own: &Path, mut command: Command, host: &str, report: &Path, chosen: &[String]) -> Ends {
    let source = suite.join(format!("docker-{VERSION}"));
    let files = FILES.iter().map(|file| format!("tests/integration/{file}"));
    let by_name = chosen.iter().any(|argument| argument.ends_with(".py") || argument.contains("::"));
    let files: Vec<String> = if by_name { Vec::new() } else { files.collect() };
    command
        .arg("env")
        .arg("--chdir")
        .arg(&source)
        .arg(format!("DOCKER_HOST={host}"))
        .arg(format!("PYTHONPATH={}", own.display()))
        .arg("PYTHONDONTWRITEBYTECODE=1")
        .arg(format!("HYPER_REPORT={}", report.display()))
        .arg(suite.join("bin/python"))
        .args(["-m", "pytest", "--quiet", "--tb=line", "-p", "no:cacheprovider", "-p", "hyper_report"])
        .args(["--timeout", TEST_SECONDS])
        .args(files)
        .args(chosen);
    // It fails when a test does, which is judged by the report.
    let status = command.status().unwrap();
    let text =
        fs::read_to_string(report).unwrap_or_else(|error| panic!("no report ({error}): pytest {status}"));
    let ends = text.lines().map(|line| serde_json::from_str::<End>(line).unwrap());
    ends.map(|end| (end.test.clone(), end)).collect()
}

/// Tests that need not pass, with the reason.
fn exceptions(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (test, reason) = line.split_once("  ").unwrap_or_else(|| panic!("no reason: {line}"));
            (test.to_owned(), reason.trim().to_owned())
        })
        .collect()
}

fn passed(ends: &Ends, test: &str) -> bool {
    ends.get(test).is_some_and(|end| end.outcome == "passed")
}

fn table(ours: &Ends, theirs: &Ends, exceptions: &BTreeMap<String, String>) -> String {
    let mut text = format!(
        "# docker-py {VERSION}'s integration tests\n\nWritten by `cargo xtask docker-py`. Whatever is about swarm, \
         services, plugins and building images is left out.\n\n| file | passed on dockerd | on Hyper | on both | on \
         dockerd alone |\n|---|---:|---:|---:|---:|\n"
    );
    let tests: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let mut rows: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
    for test in tests {
        let row = rows.entry(test.split("::").next().unwrap_or_default()).or_default();
        let (us, them) = (passed(ours, test), passed(theirs, test));
        for (cell, counts) in row.iter_mut().zip([them, us, us && them, them && !us]) {
            *cell += usize::from(counts);
        }
    }
    let mut sum = [0; 4];
    for (file, row) in &rows {
        writeln!(text, "| {file} | {} | {} | {} | {} |", row[0], row[1], row[2], row[3]).unwrap();
        sum.iter_mut().zip(row).for_each(|(sum, cell)| *sum += cell);
    }
    writeln!(text, "| all | {} | {} | {} | {} |", sum[0], sum[1], sum[2], sum[3]).unwrap();
    if !exceptions.is_empty() {
        text.push_str("\nOn dockerd alone, and why:\n\n");
        for (test, reason) in exceptions {
            writeln!(text, "- `{test}`: {reason}").unwrap();
        }
    }
    text
}

/// What is not as it should be.
fn judge(ours: &Ends, theirs: &Ends, exceptions: &BTreeMap<String, String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for test in theirs.keys().filter(|test| passed(theirs, test) && !passed(ours, test)) {
        if !exceptions.contains_key(test) {
            let why = ours.get(test).map_or("it was not run", |end| &end.why);
            wrong.push(format!("passes on dockerd alone: {test}: {why}"));
        }
    }
    for test in exceptions.keys().filter(|test| passed(ours, test)) {
        wrong.push(format!("passes, though it is an exception: {test}"));
    }
    wrong
}
