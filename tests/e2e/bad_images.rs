//! Registries and images that are broken or hostile.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use hyper_e2e::images::{Small, digest};
use hyper_e2e::registry::{FakeRegistry, Fault, LOGIN, Registry};
use hyper_e2e::{Instance, Options};

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both:
        a_login_is_wanted_and_taken_from_dockers_configuration,
        a_login_is_taken_from_a_credential_helper,
        a_login_is_checked_kept_and_forgotten,
        a_wrong_byte_is_found_by_the_digest,
        a_dropped_connection_is_resumed_or_reported_at_every_offset,
        a_stalling_registry_is_given_up,
        layers_that_are_no_archives_are_refused,
        paths_that_escape_stay_inside,
        a_bomb_is_refused,
        odd_files_arrive_as_they_are,
    ]
    .to_vec();
    cases.extend(case_list![Own: two_pulls_of_one_image_at_once_both_succeed]);
    cases
}

/// A small image whose layer has a few kilobytes that do not compress.
fn small() -> Small {
    Small::from_script(
        "mkdir bin; cp /bin/busybox bin/sh; head -c 50000 /dev/urandom >noise; tar -c noise bin",
    )
}

fn pull(s: &Session, reference: &str) -> hyper_e2e::Output {
    s.cmd(&["pull", reference]).timeout(Duration::from_secs(180)).run()
}

fn no_such_image(s: &Session, reference: &str) {
    s.run(&["inspect", reference]).exits(1);
}

fn a_login_is_wanted_and_taken_from_dockers_configuration(s: &Session) {
    let port = if s.cli == hyper_e2e::Cli::Hyper { 5101 } else { 5102 };
    let work = tempfile::tempdir().unwrap();
    let storage = hyper_e2e::images::registry_storage();
    let _registry = Registry::start(&s.instance.lab.engine, &storage, work.path(), port, Some(()), true);
    let reference = format!("localhost:{port}/busybox:latest");
    pull(s, &reference).exits(1).complains(&[
        "unauthorized",
        "authentication",
        "login",
        "denied",
        "no basic auth",
    ]);
    let home = work.path().join("home");
    let configure = |password: &str| {
        std::fs::create_dir_all(home.join(".docker")).unwrap();
        let auth = base64(format!("{}:{password}", LOGIN.0).as_bytes());
        let config = format!(r#"{{"auths": {{"localhost:{port}": {{"auth": "{auth}"}}}}}}"#);
        std::fs::write(home.join(".docker/config.json"), config).unwrap();
        s.cmd(&["pull", &reference]).env("HOME", &home).run()
    };
    configure("wrong").exits(1);
    configure(LOGIN.1).ok();
    s.run(&["rmi", &reference]).ok();
}

fn a_login_is_taken_from_a_credential_helper(s: &Session) {
    let port = if s.cli == hyper_e2e::Cli::Hyper { 5103 } else { 5104 };
    let work = tempfile::tempdir().unwrap();
    let storage = hyper_e2e::images::registry_storage();
    let _registry = Registry::start(&s.instance.lab.engine, &storage, work.path(), port, Some(()), true);
    let host = format!("localhost:{port}");
    let reference = format!("{host}/busybox:latest");
    // As docker's helpers: the server's name comes in, a login or one sentence goes out.
    let helper = format!(
        "#!/bin/sh\nread -r server; [ \"$1 $server\" = 'get {host}' ] || {{ echo 'credentials not found in native \
         keychain'; exit 1; }}\necho '{{\"ServerURL\": \"{host}\", \"Username\": \"{}\", \"Secret\": \"{}\"}}'\n",
        LOGIN.0, LOGIN.1
    );
    let program = work.path().join("docker-credential-e2e");
    std::fs::write(&program, helper).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", work.path().display(), std::env::var("PATH").unwrap());
    let home = work.path().join("home");
    std::fs::create_dir_all(home.join(".docker")).unwrap();
    let pull_with = |config: &str| {
        std::fs::write(home.join(".docker/config.json"), config).unwrap();
        s.cmd(&["pull", &reference]).env("HOME", &home).env("PATH", &path).run()
    };
    pull_with(r#"{"credHelpers": {"elsewhere.example": "e2e"}}"#).exits(1);
    for config in
        [format!(r#"{{"credHelpers": {{"{host}": "e2e"}}}}"#), r#"{"credsStore": "e2e"}"#.to_owned()]
    {
        pull_with(&config).ok();
        s.run(&["rmi", &reference]).ok();
    }
}

fn a_login_is_checked_kept_and_forgotten(s: &Session) {
    let port = if s.cli == hyper_e2e::Cli::Hyper { 5105 } else { 5106 };
    let work = tempfile::tempdir().unwrap();
    let storage = hyper_e2e::images::registry_storage();
    let _registry = Registry::start(&s.instance.lab.engine, &storage, work.path(), port, Some(()), true);
    let host = format!("localhost:{port}");
    let reference = format!("{host}/busybox:latest");
    let command = |words: &[&str]| s.cmd(words).env("HOME", work.path());
    let login =
        |password: &str| command(&["login", "-u", LOGIN.0, "--password-stdin", &host]).stdin(password).run();
    login("wrong").exits(1).complains(&["unauthorized"]);
    command(&["pull", &reference]).run().exits(1);
    assert!(login(LOGIN.1).ok().out().contains("Login Succeeded"));
    command(&["pull", &reference]).run().ok();
    s.run(&["rmi", &reference]).ok();
    command(&["logout", &host]).run().ok();
    command(&["pull", &reference]).run().exits(1);
}

fn base64(bytes: &[u8]) -> String {
    let mut child = Command::new("base64")
        .arg("-w0")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

fn a_wrong_byte_is_found_by_the_digest(s: &Session) {
    let image = small();
    let registry = FakeRegistry::start(&s.instance.lab.engine, &image);
    registry.fail(Fault::WrongByteAt(image.layer.len() / 2), usize::MAX);
    let reference = registry.reference();
    pull(s, &reference).exits(1).complains(&["digest", "checksum", "corrupt", "mismatch"]);
    no_such_image(s, &reference);
    registry.fail(Fault::None, 0);
    pull(s, &reference).ok();
    s.run(&["rmi", &reference]).ok();
}

fn a_dropped_connection_is_resumed_or_reported_at_every_offset(s: &Session) {
    let image = small();
    let registry = FakeRegistry::start(&s.instance.lab.engine, &image);
    let reference = registry.reference();
    let whole = image.layer.len();
    for offset in [0, 1, 9, 10, 511, 4096, whole / 3, whole / 2, whole - 9, whole - 1] {
        registry.fail(Fault::CutAt(offset), 1);
        pull(s, &reference).ok();
        s.run(&["rmi", &reference]).ok();
    }
    let resumed = registry.requests().iter().filter(|line| line.contains("bytes=")).count();
    assert!(resumed > 0, "no pull went on where it was cut: {:?}", registry.requests());
    for offset in [0, 1, 20, 100, 400] {
        registry.fail(Fault::CutManifestAt(offset), 1);
        let output = pull(s, &reference);
        assert!(output.code == 0 || output.code == 1, "{output}");
        if output.code == 0 {
            s.run(&["rmi", &reference]).ok();
        }
    }
    // A registry that always drops is given up.
    registry.fail(Fault::CutAt(whole / 2), usize::MAX);
    let failed = pull(s, &reference).exits(1);
    assert!(!failed.err().is_empty(), "{failed}");
    no_such_image(s, &reference);
    registry.fail(Fault::None, 0);
    pull(s, &reference).ok();
    s.run(&["rmi", &reference]).ok();
}

fn a_stalling_registry_is_given_up(s: &Session) {
    let image = small();
    let registry = FakeRegistry::start(&s.instance.lab.engine, &image);
    let reference = registry.reference();
    registry.fail(Fault::StallAt(1000), 1);
    // Once is resumed, or reported.
    let once = pull(s, &reference);
    assert!(once.code == 0 || once.code == 1, "{once}");
    registry.fail(Fault::None, 0);
    pull(s, &reference).ok();
    s.run(&["rmi", &reference]).ok();
}

fn layers_that_are_no_archives_are_refused(s: &Session) {
    let good = small();
    let plain = gunzip(&good.layer);
    let truncated_gzip = good.layer[..good.layer.len() / 2].to_vec();
    let truncated_tar = gzip(&plain[..plain.len() / 2]);
    let noise = b"this is neither a tar file nor compressed in any way at all".repeat(40);
    // An entry that claims 2^62 bytes: base-256 size field (GNU tar).
    let mut huge = plain.clone();
    huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0]);
    let sum: u32 = huge[..512]
        .iter()
        .enumerate()
        .map(|(n, b)| if (148..156).contains(&n) { 32 } else { u32::from(*b) })
        .sum();
    huge[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let cases = [
        (truncated_gzip, digest(&plain)),
        (truncated_tar, digest(&plain[..plain.len() / 2])),
        (noise.clone(), digest(&noise)),
        (gzip(&noise), digest(&noise)),
        (gzip(&huge), digest(&huge)),
        // Right in itself, and not what the configuration promises.
        (good.layer.clone(), digest(b"something else")),
    ];
    for (number, (layer, diff)) in cases.into_iter().enumerate() {
        let registry = FakeRegistry::start(&s.instance.lab.engine, &Small::new(layer, &diff));
        let reference = registry.reference();
        let output = pull(s, &reference);
        assert_eq!(output.code, 1, "layer {number}: {output}");
        no_such_image(s, &reference);
    }
    s.shell("true").ok();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    filter("gzip", bytes)
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    filter("gunzip", bytes)
}

fn filter(program: &str, bytes: &[u8]) -> Vec<u8> {
    let work = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(work.path(), bytes).unwrap();
    let output =
        Command::new(program).arg("-c").stdin(std::fs::File::open(work.path()).unwrap()).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn paths_that_escape_stay_inside(s: &Session) {
    let mark = s.instance.directory().join(s.name("escaped"));
    let mark = mark.to_str().unwrap().trim_start_matches('/').to_owned();
    let climb = "../".repeat(20);
    let scripts = [
        format!("touch x; tar -cP --transform 's,^x$,{climb}{mark}-a,' x"),
        format!(
            "ln -s / out; tar -cf l.tar out; mkdir o; touch o/f; tar -rPf l.tar --transform 's,^o/f$,out/{mark}-b,' o/f; cat l.tar"
        ),
        format!("touch x; tar -cP --transform 's,^x$,/{mark}-c,' x"),
        format!("touch x; ln x y; tar -cP --transform 's,^x$,{climb}etc/passwd,;s,^y$,link,' x y"),
    ];
    for script in scripts {
        let busybox = "mkdir bin; cp /bin/busybox bin/sh; ";
        let with_shell = format!(
            "{busybox} tar -cf base.tar bin; ({script}) >more.tar; tar -Af base.tar more.tar; cat base.tar"
        );
        let registry = FakeRegistry::start(&s.instance.lab.engine, &Small::from_script(&with_shell));
        let reference = registry.reference();
        let output = pull(s, &reference);
        assert!(output.code == 0 || output.code == 1, "{output}");
        if output.code == 0 {
            s.run(&["run", "--rm", &reference, "/bin/sh", "-c", "echo alive"]).ok().prints("alive\n");
            s.run(&["rmi", &reference]).ok();
        }
        let escaped = hyper_e2e::leftovers::files(s.instance.directory());
        assert!(
            !escaped.iter().any(|file| file.contains("escaped") && !file.starts_with("root/")),
            "{escaped:?}"
        );
    }
}

fn a_bomb_is_refused(s: &Session) {
    // Each gzip member expands a megabyte of zeros to a gigabyte and the tar
    // header in front claims them all as one file of 16 TiB.
    let member = filter_zeros();
    let size: u64 = 16 << 40;
    let mut header = tar_header();
    header[124..136].copy_from_slice(&[&[0x80u8, 0, 0, 0][..], &size.to_be_bytes()].concat());
    let sum: u32 = header
        .iter()
        .enumerate()
        .map(|(n, b)| if (148..156).contains(&n) { 32 } else { u32::from(*b) })
        .sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut layer = gzip(&header);
    for _ in 0..16 {
        layer.extend_from_slice(&member);
    }
    let registry =
        FakeRegistry::start(&s.instance.lab.engine, &Small::new(layer, &digest(b"nobody gets this far")));
    let reference = registry.reference();
    let output = pull(s, &reference).exits(1);
    assert!(!output.err().is_empty(), "{output}");
    no_such_image(s, &reference);
}

/// A gzip member of 64 MiB of zeros.
fn filter_zeros() -> Vec<u8> {
    let output = Command::new("bash").args(["-c", "head -c 64M /dev/zero | gzip -n -c"]).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn tar_header() -> Vec<u8> {
    let output = Command::new("bash")
        .args(["-c", "cd $(mktemp -d) && touch file && tar -c file && rm -r $PWD"])
        .output();
    output.unwrap().stdout[..512].to_vec()
}

fn odd_files_arrive_as_they_are(s: &Session) {
    let script = "mkdir bin odd; cp /bin/busybox bin/busybox; for a in sh stat cat ls od readlink; do ln -s busybox bin/$a; done; \
        cd odd; echo same >one; ln one two; ln -s one link; ln -s /no/where dangling; mkfifo pipe; mknod null c 1 3; \
        touch $'not \\xff utf-8'; touch \"$(printf 'long%.0s' $(seq 50))\"; mkdir -p a/b/c; echo deep >a/b/c/d; \
        truncate -s 5M sparse; echo x >suid; chmod 4755 suid; chown 1234:4321 one; touch -d @1000000000 one; cd ..; \
        tar --format=pax --sparse -c bin odd";
    let registry = FakeRegistry::start(&s.instance.lab.engine, &Small::from_script(script));
    let reference = registry.reference();
    pull(s, &reference).ok();
    let look = "cd odd; stat -c '%h %u:%g %a %Y' one; cat two; readlink link; readlink dangling; stat -c '%F' pipe null; \
        printf %s not* | od -c | grep -c 377; ls | grep -c longlong; cat a/b/c/d; stat -c '%s %a' sparse suid";
    let output = s.run(&["run", "--rm", &reference, "sh", "-c", look]).ok();
    output.prints(
        "2 1234:4321 644 1000000000\nsame\none\n/no/where\nfifo\ncharacter special file\n1\n1\ndeep\n5242880 644\n2 4755\n",
    );
    s.run(&["rmi", &reference]).ok();
}

fn two_pulls_of_one_image_at_once_both_succeed() {
    let engine = Instance::start(Options::default());
    engine.start_daemon();
    let mut pulls: Vec<_> = (0..3)
        .map(|_| {
            engine.hyper(&["pull", "localhost:5000/nginx:latest"]).timeout(Duration::from_secs(300)).spawn()
        })
        .collect();
    for pull in &mut pulls {
        pull.wait().ok();
    }
    engine.hyper(&["run", "--rm", "localhost:5000/nginx:latest", "nginx", "-v"]).run().ok();
    assert_eq!(engine.finish(), Vec::<String>::new());
}
