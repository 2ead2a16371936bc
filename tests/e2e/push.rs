//! Pushing images, and a look at what registries have.

use std::path::Path;
use std::time::Duration;

use hyper_e2e::command::wait_until;
use hyper_e2e::registry::{LOGIN, Registry};
use hyper_e2e::{Cli, Output};

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both:
        what_is_pushed_comes_back_as_it_was,
        layers_that_are_there_are_not_sent_again,
        all_tags_of_a_repository_are_pushed,
        what_cannot_be_pushed_is_named,
        a_push_takes_a_login,
        a_push_survives_its_registry,
    ]
    .to_vec();
    cases.extend(case_list![Hyper: registries_are_looked_into]);
    cases
}

/// A registry that can be written, and its address.
fn registry(s: &Session, directory: &Path, port: u16, login: Option<()>) -> (Registry, String) {
    let port = if s.cli == Cli::Hyper { port } else { port + 1 };
    let storage = directory.join("storage");
    std::fs::create_dir_all(&storage).unwrap();
    let registry = Registry::start(&s.instance.lab.engine, &storage, directory, port, login, false);
    (registry, format!("localhost:{port}"))
}

fn push(s: &Session, arguments: &[&str]) -> Output {
    s.cmd(&[&["push"], arguments].concat()).timeout(Duration::from_secs(180)).run()
}

/// The digest in a push's last line.
fn digest(output: &Output) -> String {
    let text = output.out();
    let line = text.lines().find(|line| line.contains(": digest: sha256:")).unwrap_or_default();
    let digest = line.split_whitespace().nth(2).unwrap_or_default().to_owned();
    assert!(digest.len() == 71, "{output}");
    digest
}

/// An image over busybox with a layer of its own, not packed as a registry has it.
fn committed(s: &Session, name: &str) {
    let container = s.name("pushes");
    s.run(&["run", "--name", &container, "busybox:latest", "sh", "-c", "echo hello >/made; rm /bin/true"])
        .ok();
    s.run(&["commit", &container, name]).ok();
    s.run(&["rm", &container]).ok();
}

fn what_is_pushed_comes_back_as_it_was(s: &Session) {
    let work = tempfile::tempdir().unwrap();
    let (_registry, host) = registry(s, work.path(), 5201, None);
    let name = format!("{host}/some/where:v1");
    committed(s, &name);
    let id = s.inspect(&name)["Id"].clone();
    let pushed = push(s, &[&name]).ok();
    let text = pushed.out();
    let first = format!("The push refers to repository [{host}/some/where]");
    assert_eq!(text.lines().next(), Some(first.as_str()), "{pushed}");
    assert_eq!(text.matches(": Pushed").count(), 2, "{pushed}");
    let digest = digest(&pushed);
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with(&format!("v1: digest: {digest} size: ")), "{pushed}");
    let by_digest = format!("{host}/some/where@{digest}");
    assert!(s.inspect(&name)["RepoDigests"].as_array().unwrap().contains(&by_digest.clone().into()));
    // Others find every digest right.
    let copy = work.path().join("copy");
    let line = format!("skopeo copy --src-tls-verify=false docker://{name} dir:{}", copy.display());
    s.instance.sh(&line).run().ok();
    s.run(&["rmi", &name]).ok();
    s.run(&["inspect", &name]).exits(1);
    for again in [&name, &by_digest] {
        s.run(&["pull", again]).ok();
        assert_eq!(s.inspect(again)["Id"], id);
        s.run(&["run", "--rm", again, "sh", "-c", "cat /made; test -e /bin/true || echo gone"])
            .ok()
            .prints("hello\ngone\n");
    }
    // What came from a registry goes back under its own digest, though nobody kept its bytes.
    let other = format!("{host}/some/where:v2");
    s.run(&["tag", &name, &other]).ok();
    assert_eq!(self::digest(&push(s, &[&other]).ok()), digest);
    for name in [&name, &other, &by_digest] {
        s.run(&["rmi", name]);
    }
}

fn layers_that_are_there_are_not_sent_again(s: &Session) {
    let work = tempfile::tempdir().unwrap();
    let (_registry, host) = registry(s, work.path(), 5203, None);
    let first = format!("{host}/first:1");
    let second = format!("{host}/second:latest");
    s.run(&["tag", "busybox:latest", &first]).ok();
    s.run(&["tag", "busybox:latest", &second]).ok();
    let digest = digest(&push(s, &[&first]).ok());
    let again = push(s, &[&first]).ok();
    assert!(again.out().contains(": Layer already exists") && !again.out().contains(": Pushed"), "{again}");
    assert_eq!(self::digest(&again), digest);
    let mounted = push(s, &[&format!("{host}/second")]).ok();
    assert!(mounted.out().contains("Using default tag: latest"), "{mounted}");
    assert!(mounted.out().contains(": Mounted from first"), "{mounted}");
    assert_eq!(self::digest(&mounted), digest);
    push(s, &["--quiet", &first]).ok().prints(&format!("{first}\n"));
    s.run(&["rmi", &first, &second]).ok();
}

fn all_tags_of_a_repository_are_pushed(s: &Session) {
    let work = tempfile::tempdir().unwrap();
    let (_registry, host) = registry(s, work.path(), 5205, None);
    let repository = format!("{host}/many");
    let names: Vec<String> = ["a", "b"].iter().map(|tag| format!("{repository}:{tag}")).collect();
    s.run(&["tag", "busybox:latest", &names[0]]).ok();
    s.run(&["tag", "debian:12", &names[1]]).ok();
    let pushed = push(s, &["--all-tags", &repository]).ok();
    for tag in ["a", "b"] {
        assert!(pushed.out().contains(&format!("\n{tag}: digest: sha256:")), "{pushed}");
    }
    let tags = s.instance.sh(&format!("curl -sS http://{host}/v2/many/tags/list")).run().ok();
    assert!(tags.out().contains(r#""a""#) && tags.out().contains(r#""b""#), "{tags}");
    push(s, &["-a", &names[0]]).exits(1).complains(&["tag can't be used with --all-tags/-a"]);
    s.run(&[&["rmi"], names.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat()).ok();
}

fn what_cannot_be_pushed_is_named(s: &Session) {
    push(s, &["localhost:1/nothing"]).exits(1).complains(&["An image does not exist locally with the tag"]);
    // Each command line runs this case, at once: the names are its own.
    let own = s.cli.name();
    let name = &format!("localhost:1/refused-{own}");
    s.run(&["tag", "busybox:latest", name]).ok();
    push(s, &[&format!("{name}:other")]).exits(1).complains(&[&format!("tag does not exist: {name}:other")]);
    // Nobody listens there.
    push(s, &[name]).exits(1).complains(&["refused", "connect"]);
    let by_digest = format!("{name}@sha256:{}", "0".repeat(64));
    push(s, &[&by_digest]).exits(1).complains(&["cannot push a digest reference"]);
    push(s, &["UPPER"]).exits(1).complains(&["must be lowercase"]);
    s.run(&["rmi", name]).ok();
    // The engine's own registry takes nothing.
    let name = &format!("localhost:5000/read-only-{own}");
    s.run(&["tag", "busybox:latest", name]).ok();
    let refused = push(s, &[name]).exits(1);
    refused.complains(&["unsupported", "405"]);
    s.run(&["rmi", name]).ok();
}

fn a_push_takes_a_login(s: &Session) {
    let work = tempfile::tempdir().unwrap();
    let (_registry, host) = registry(s, work.path(), 5207, Some(()));
    let name = format!("{host}/secret/thing:1");
    s.run(&["tag", "busybox:latest", &name]).ok();
    let command = |words: &[&str]| s.cmd(words).env("HOME", work.path());
    command(&["push", &name]).run().exits(1).complains(&["no basic auth credentials"]);
    command(&["login", "-u", LOGIN.0, "--password-stdin", &host]).stdin("wrong").run().exits(1);
    command(&["login", "-u", LOGIN.0, "--password-stdin", &host]).stdin(LOGIN.1).run().ok();
    let pushed = command(&["push", &name]).run().ok();
    assert!(pushed.out().contains("1: digest: sha256:"), "{pushed}");
    s.run(&["rmi", &name]).ok();
    s.run(&["pull", &name]).exits(1);
    command(&["pull", &name]).run().ok();
    command(&["logout", &host]).run().ok();
    command(&["push", &name]).run().exits(1).complains(&["no basic auth credentials"]);
    s.run(&["rmi", &name]).ok();
}

fn a_push_survives_its_registry(s: &Session) {
    let work = tempfile::tempdir().unwrap();
    let (running, host) = registry(s, work.path(), 5209, None);
    let name = format!("{host}/big:1");
    let tar = work.path().join("big.tar");
    let script = format!(
        "set -e; cd {}; mkdir d; head -c 60000000 /dev/urandom >d/noise; cp /bin/busybox d/; tar -C d -cf {} .; rm -r d",
        work.path().display(),
        tar.display()
    );
    s.instance.sh(&script).run().ok();
    s.run(&["import", tar.to_str().unwrap(), &name]).ok();
    let id = s.inspect(&name)["Id"].clone();
    let uploads = work.path().join("storage/docker/registry/v2/repositories/big/_uploads");
    let under_way = || {
        hyper_e2e::leftovers::files(&uploads).iter().any(|file| {
            file.ends_with("data") && std::fs::metadata(uploads.join(file)).is_ok_and(|data| data.len() > 0)
        })
    };
    let mut pushing = s.cmd(&["push", &name]).timeout(Duration::from_secs(180)).spawn();
    wait_until("some of the layer has come", under_way);
    drop(running);
    let (_registry, _) = registry(s, work.path(), 5209, None);
    let pushed = pushing.wait().ok();
    let digest = digest(&pushed);
    s.run(&["rmi", &name]).ok();
    s.run(&["pull", &name]).ok();
    assert_eq!(s.inspect(&name)["Id"], id);
    assert!(s.inspect(&name)["RepoDigests"][0].as_str().unwrap().ends_with(&digest));
    s.run(&["rmi", &name]).ok();
}

fn registries_are_looked_into(s: &Session) {
    let socket = s.instance.run_directory().join("hyper.sock");
    let get = |name: &str| {
        let line = format!(
            "curl -sS -w '\\n%{{http_code}}' --unix-socket {} http://d/v1.44/distribution/{name}/json",
            socket.display()
        );
        let output = s.instance.sh(&line).run().ok().out();
        let (body, status) = output.trim_end().rsplit_once('\n').unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        (status.to_owned(), body)
    };
    s.run(&["version"]).ok();
    let (status, found) = get("localhost:5000/busybox:latest");
    assert_eq!(status, "200", "{found}");
    let digest = found["Descriptor"]["digest"].as_str().unwrap();
    let ours = s.inspect("localhost:5000/busybox:latest")["RepoDigests"][0].as_str().unwrap().to_owned();
    assert!(ours.ends_with(digest), "{ours} and {found}");
    assert_eq!(found["Platforms"], serde_json::json!([{"architecture": "amd64", "os": "linux"}]));
    for (name, wanted) in
        [("localhost:5000/busybox:none", "404"), ("localhost:5000/none", "404"), ("UPPER", "400")]
    {
        let (status, body) = get(name);
        assert_eq!(status, wanted, "{body}");
        assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    }
}
