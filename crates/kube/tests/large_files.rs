//! Large files, of what could take long, are done with soon.

use std::time::Duration;

use hyper_kube::load;
use rustix::time::{ClockId, clock_gettime};

/// What one file may take of a processor in a debug build. Each takes about a second; what goes with the square of the
/// size takes minutes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What this thread has taken of a processor, however busy the machine is.
fn taken() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
}

#[track_caller]
fn soon(what: &str, text: &str) {
    assert!(text.len() <= 4 << 20, "{what}: {} bytes", text.len());
    let begin = taken();
    let result = load([("f", text.as_bytes())]);
    let taken = taken() - begin;
    let told = result.as_ref().map_or_else(|faults| faults.faults.len(), |loaded| loaded.documents.len());
    eprintln!("{what}: {} bytes, {told} told or loaded, {taken:?}", text.len());
    assert!(taken < PATIENCE, "{what}: {taken:?}");
}

fn many(number: usize, one: impl Fn(usize) -> String) -> String {
    (0..number).map(one).collect()
}

fn pod(spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{{spec}}}}}")
}

#[test]
fn many_of_one_thing_do_not_take_long() {
    soon("unknown fields", &pod(&many(75_000, |n| format!("containrs{n}: 1,"))));
    soon(
        "warned fields",
        &pod(&format!("tolerations: [{}]", many(30_000, |_| "{operator: Exists},".to_owned()))),
    );
    let container =
        |rest: &str| pod(&format!("containers: [{{name: a, image: a, {rest}}}], volumes: [{{name: v}}]"));
    let mounts = many(20_000, |n| format!("{{name: v, mountPath: /{n}, subPathExpr: $(A{n})}},"));
    soon("mounts", &container(&format!("volumeMounts: [{mounts}]")));
    let devices = many(20_000, |n| format!("{{name: v{n}, devicePath: /{n}}},"));
    let mounts = many(20_000, |n| format!("{{name: w{n}, mountPath: /d{n}}},"));
    soon("devices and mounts", &container(&format!("volumeDevices: [{devices}], volumeMounts: [{mounts}]")));
    soon(
        "variables",
        &container(&format!("env: [{}]", many(45_000, |n| format!("{{name: A{n}, value: $(A{n})}},")))),
    );
    soon(
        "ports",
        &container(&format!("ports: [{}]", many(35_000, |n| format!("{{containerPort: 1, name: a{n}}},")))),
    );
    soon(
        "containers",
        &pod(&format!("containers: [{}]", many(40_000, |n| format!("{{name: a{n}, image: a}},")))),
    );
    soon("volumes", &pod(&format!("volumes: [{}]", many(55_000, |n| format!("{{name: a{n}}},")))));
}

#[test]
fn long_texts_and_many_keys_do_not_take_long() {
    soon("a long plain text", &format!("a: {}", "x ".repeat(2_000_000)));
    soon("a long quoted text", &format!("a: \"{}\"", "\\u00e9".repeat(645_000)));
    soon("a long block", &format!("a: |\n{}", "  x\n".repeat(1_000_000)));
    soon("a long key", &format!("{}: a", "k".repeat(4_000_000)));
    soon("a long number", &format!("a: {}", "9".repeat(4_000_000)));
    soon("a long anchor", &format!("a: &{} b", "k".repeat(4_000_000)));
    soon("comments", &"# a\n".repeat(1_000_000));
    soon("anchors", &many(60_000, |n| format!("k{n}: &a{n} b\n")));
    soon("an empty file", &"\n".repeat(4 << 20));
    soon(
        "dollars",
        &pod(&format!("containers: [{{name: a, image: a, args: ['{}']}}]", "$(".repeat(2_000_000))),
    );
    let labels = many(50_000, |n| format!("a{n}: b,"));
    let metadata = format!("{{name: a, labels: {{{labels}}}}}");
    soon("labels", &format!("{{apiVersion: v1, kind: ConfigMap, metadata: {metadata}}}"));
    let json = format!("{{\"a\": \"{}\"}}", "\\ud83d\\ude00".repeat(320_000));
    soon("JSON with pairs", &json);
    soon("JSON texts", &"{\"a\":1}".repeat(900));
    soon("JSON with many lines", &format!("{{\"a\": [{}1]}}", "1,\n".repeat(150_000)));
    soon("open brackets", &"[".repeat(4 << 20));
    soon("dashes", &"- ".repeat(2 << 20));
}
