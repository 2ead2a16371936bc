//! The file tree that a container sees is the one that `umoci unpack` makes of the same image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hyper_e2e::{images, layout};
use rustix::fs::{XattrFlags, lsetxattr};

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Hyper:
        debian_is_as_unpacked,
        nginx_is_as_unpacked,
        redis_is_as_unpacked,
        postgres_is_as_unpacked,
        python_is_as_unpacked,
        a_hundred_layers_are_as_unpacked,
        odd_files_and_an_odd_root_are_as_unpacked,
    ]
    .to_vec()
}

/// Reading every byte of an image under emulation takes its time.
const PATIENCE: Duration = Duration::from_secs(900);

/// Runs the program it reads from its input. `/dev` is a file system of the guest's own, so the image's tree
/// stays as it is.
const PRINT: &str = "cat >/dev/hyper-tree && { chmod 755 /dev/hyper-tree || busybox chmod 755 /dev/hyper-tree; } 2>/dev/null \
     && exec /dev/hyper-tree /";

fn debian_is_as_unpacked(s: &Session) {
    pulled(s, "debian:12");
}

fn nginx_is_as_unpacked(s: &Session) {
    pulled(s, "nginx:latest");
}

fn redis_is_as_unpacked(s: &Session) {
    pulled(s, "redis:latest");
}

fn postgres_is_as_unpacked(s: &Session) {
    pulled(s, "postgres:15");
}

fn python_is_as_unpacked(s: &Session) {
    pulled(s, "python:3");
}

fn a_hundred_layers_are_as_unpacked(s: &Session) {
    pulled(s, "layers:100");
}

/// Compares an image of the registry.
fn pulled(s: &Session, name: &str) {
    let full = format!("localhost:5000/{name}");
    s.cmd(&["pull", "-q", &full]).timeout(Duration::from_secs(300)).run().ok();
    compare(s, &full, &images::layout_of(name));
}

/// Two layers: the lower one describes the root directory, the upper one does not.
fn odd_files_and_an_odd_root_are_as_unpacked(s: &Session) {
    let work = tempfile::tempdir().unwrap();
    let sh = |line: &str| {
        let status = Command::new("bash").args(["-ec", line]).current_dir(work.path()).status().unwrap();
        assert!(status.success(), "{line}: {status}");
    };
    sh("mkdir -p lower/{bin,etc} lower/odd/{gone,opaque,linked} upper/odd/opaque && cp /bin/busybox lower/bin/
        for applet in sh cat chmod; do ln -s busybox lower/bin/$applet; done
        cd lower/odd && echo same >one && ln one two && ln one linked/three && chown 1234:4321 one
        ln -s one link && ln -s /no/where dangling && mkfifo pipe && mknod null c 1 3 && mknod disk b 259 1048575
        echo x >suid && chmod 6755 suid && echo y >sticky && chmod 1644 sticky && truncate -s 5M sparse
        echo gone >gone/file && echo old >opaque/old && echo old >replaced && echo ping >ping && echo x >attribute
        touch -h -d @1000000000.987654321 one link pipe null && touch $'not \\xff utf-8' $'new\\nline'
        touch \"$(printf 'long%.0s' $(seq 50))\" && chmod 700 linked && chown 70000:70001 linked");
    let set = |file: &str, name: &str, value: &[u8]| {
        lsetxattr(work.path().join("lower/odd").join(file), name, value, XattrFlags::empty()).unwrap();
    };
    // `cap_net_raw+ep` of version 2 (`struct vfs_cap_data`).
    set("ping", "security.capability", &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    set("attribute", "user.note", &[b'n'; 3000]);
    sh("touch -d @1100000000 lower/odd lower/odd/linked && chmod 2751 lower && chown 3:4 lower
        touch -d @981173106.123456789 lower && tar --format=pax --sort=name --xattrs --xattrs-include='*' -C lower -cf 1.tar .
        cd upper/odd && : >.wh.gone && : >opaque/.wh..wh..opq && echo new >opaque/new && echo new >replaced
        touch -d @1200000000 opaque . && cd .. && tar --format=pax --sort=name -cf ../2.tar odd");
    let made = work.path().join("layout");
    let tars = [work.path().join("1.tar"), work.path().join("2.tar")];
    layout::write(&made, &tars, &serde_json::json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}));
    sh("tar -C layout -cf archive.tar .");
    let loaded = s.run(&["load", "-i", work.path().join("archive.tar").to_str().unwrap()]).ok();
    let name = loaded.out().split_whitespace().last().expect("load prints the image").to_owned();
    let guest = compare(s, &name, &made);
    assert!(guest[0].starts_with("/ 42751 3:4 0 981173106.123456789 "), "{}", guest[0]);
    s.run(&["rmi", "-f", &name]).ok();
}

/// Wants the same lines from a container of `image` as from `umoci unpack` of `layout`; returns them.
fn compare(s: &Session, image: &str, layout: &Path) -> Vec<String> {
    let program = s.instance.binaries().tree().unwrap_or_else(|missing| panic!("{missing}"));
    let arguments =
        ["run", "-i", "--rm", "-u", "0", "--cap-add", "SYS_ADMIN", "--entrypoint", "sh", image, "-c", PRINT];
    let printed = s.cmd(&arguments).stdin(fs::read(&program).unwrap()).timeout(PATIENCE).run().ok();
    let mounts = printed.err();
    let skipped: BTreeSet<&str> = mounts.lines().filter_map(|line| line.strip_prefix("mount ")).collect();
    // Nothing else may hide a difference.
    let own = ["proc", "dev", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf"];
    let foreign = |path: &&&str| !own.iter().any(|own| *path == own || path.starts_with(&format!("{own}/")));
    assert_eq!(skipped.iter().find(foreign), None, "mount points of a container: {skipped:?}");

    let work = tempfile::tempdir().unwrap();
    let bundle = unpack(work.path(), layout);
    let mut host = Command::new(&program);
    for path in &skipped {
        host.args(["--skip", path]);
    }
    let unpacked = host.arg(bundle.join("rootfs")).output().unwrap();
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    let unpacked = String::from_utf8(unpacked.stdout).unwrap();
    let (guest, host) = (printed.out(), by_path(&unpacked));
    let found = by_path(&guest);
    let paths: BTreeSet<&&str> = found.keys().chain(host.keys()).collect();
    let differing: Vec<String> = paths
        .into_iter()
        .filter(|path| found.get(**path) != host.get(**path))
        .map(|path| format!("guest  {:?}\numoci {:?}", found.get(path), host.get(path)))
        .collect();
    let shown = differing.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
    assert!(differing.is_empty(), "{image}: {} of {} files differ:\n{shown}", differing.len(), host.len());
    assert!(host.len() > 20, "{image} has only {} files", host.len());
    guest.lines().map(str::to_owned).collect()
}

fn unpack(work: &Path, layout: &Path) -> PathBuf {
    let bundle = work.join("bundle");
    let output = Command::new("umoci")
        .args(["unpack", "--keep-dirlinks", "--image", &format!("{}:latest", layout.display())])
        .arg(&bundle)
        .output()
        .expect("umoci is installed");
    assert!(output.status.success(), "umoci unpack: {}", String::from_utf8_lossy(&output.stderr));
    bundle
}

/// Lines by their first word.
fn by_path(lines: &str) -> BTreeMap<&str, &str> {
    lines.lines().map(|line| (line.split(' ').next().unwrap_or_default(), line)).collect()
}
