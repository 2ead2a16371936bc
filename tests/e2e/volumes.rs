//! Volumes and files of the host in containers.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use hyper_e2e::command::{wait_until, wait_until_within};
use hyper_e2e::instance::kill;
use hyper_e2e::{Instance, Options};
use rustix::process::Signal;

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both:
        bound_directories_and_files_are_the_hosts_own,
        a_read_only_bind_cannot_be_written_and_others_can,
        sources_that_do_not_exist_are_made_or_refused,
        a_named_volume_outlives_its_containers_and_is_filled_once,
        anonymous_volumes_go_with_their_containers,
        volumes_are_taken_over_from_other_containers,
        volumes_are_listed_inspected_and_removed,
        a_part_of_a_volume_is_mounted,
    ]
    .to_vec();
    cases.extend(case_list![Hyper:
        what_makes_no_sense_across_the_wall_is_refused_with_the_reason,
        a_guest_reaches_nothing_but_what_was_asked_for,
        a_pod_with_volumes_boots_and_says_so,
        containers_of_one_pod_and_of_two_see_each_others_files,
        a_volume_on_a_disk_belongs_to_one_pod_at_a_time,
        a_shared_directory_behaves_as_posix_says,
    ]);
    cases.extend(case_list![Own:
        what_was_synced_survives_the_end_of_vm_shim_and_server,
        a_daemon_killed_while_it_makes_volumes_leaves_them_whole,
        a_volume_is_on_a_server,
    ]);
    cases
}

/// A directory of the host with a file in it.
fn directory(s: &Session, stem: &str) -> PathBuf {
    let path = s.instance.directory().join(s.name(stem));
    fs::create_dir_all(path.join("sub")).unwrap();
    fs::write(path.join("file"), "from the host\n").unwrap();
    path
}

fn in_busybox(s: &Session, flags: &[&str], script: &str) -> hyper_e2e::Output {
    s.run(&[&["run", "--rm"], flags, &["busybox:latest", "sh", "-c", script]].concat())
}

fn bound_directories_and_files_are_the_hosts_own(s: &Session) {
    let host = directory(s, "bind");
    let shown = host.display();
    let (all, file) = (format!("{shown}:/data"), format!("{shown}/file:/etc/one"));
    let script = "cat /data/file /etc/one; echo from the guest >/data/sub/new; echo more >>/etc/one; chmod 640 /data/sub/new; chown 7:8 /data/sub/new; ls /etc/passwd";
    let output = in_busybox(s, &["-v", &all, "-v", &file], script).ok();
    assert_eq!(output.out(), "from the host\nfrom the host\n/etc/passwd\n");
    assert_eq!(fs::read_to_string(host.join("sub/new")).unwrap(), "from the guest\n");
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "from the host\nmore\n");
    let status = fs::metadata(host.join("sub/new")).unwrap();
    assert_eq!((status.mode() & 0o7777, status.uid(), status.gid()), (0o640, 7, 8));
    let container = s.background(&["-v", &all], "busybox:latest", &["sleep", "1000"]);
    let mounts = s.inspect(&container.name)["Mounts"].clone();
    let expected = serde_json::json!([{
        "Type": "bind", "Source": host, "Destination": "/data", "Mode": "", "RW": true, "Propagation": "rprivate",
    }]);
    assert_eq!(mounts, expected);
    assert_eq!(s.inspect(&container.name)["HostConfig"]["Binds"], serde_json::json!([all]));
}

fn a_read_only_bind_cannot_be_written_and_others_can(s: &Session) {
    let host = directory(s, "ro");
    let shown = host.display();
    let (ro, rw) = (format!("{shown}/sub:/ro:ro"), format!("{shown}:/rw"));
    let script = "touch /ro/x 2>&1; touch /rw/y && echo written";
    let output = in_busybox(s, &["-v", &ro, "-v", &rw], script).ok().out();
    assert!(output.contains("Read-only file system") && output.ends_with("written\n"), "{output}");
    assert!(host.join("y").exists() && !host.join("sub/x").exists());
    let mount = format!("type=bind,source={shown},target=/m,readonly");
    let output = in_busybox(s, &["--mount", &mount], "cat /m/file; rm /m/file 2>&1 || true").ok().out();
    assert!(output.starts_with("from the host\n") && output.contains("Read-only"), "{output}");
}

fn sources_that_do_not_exist_are_made_or_refused(s: &Session) {
    let missing = s.instance.directory().join(s.name("missing"));
    let mount = format!("type=bind,source={},target=/m", missing.display());
    in_busybox(s, &["--mount", &mount], "true")
        .exits(125)
        .complains(&["invalid mount config for type \"bind\": bind source path does not exist: "]);
    assert!(!missing.exists());
    let bind = format!("{}/deeper:/m", missing.display());
    in_busybox(s, &["-v", &bind], "echo here >/m/file").ok();
    assert_eq!(fs::read_to_string(missing.join("deeper/file")).unwrap(), "here\n");
    for (bind, words) in [
        ("/a:b", "mount path must be absolute"),
        ("/a:/b:nosuch", "invalid mode: nosuch"),
        ("/a:/", "destination can't be '/'"),
        ("x!y:/b", "includes invalid characters for a local volume name"),
    ] {
        in_busybox(s, &["-v", bind], "true").exits(125).complains(&[words]);
    }
    let twice = ["-v", "/tmp:/b", "-v", "/srv:/b"];
    in_busybox(s, &twice, "true").exits(125).complains(&["Duplicate mount point: /b"]);
}

fn a_named_volume_outlives_its_containers_and_is_filled_once(s: &Session) {
    let (name, empty) = (s.name("named"), s.name("nocopy"));
    let volume = format!("{name}:/etc");
    let script = "ls /etc/passwd; stat -c %a:%u:%g /etc /etc/passwd; echo kept >/etc/mine; rm /etc/passwd";
    let first = in_busybox(s, &["-v", &volume], script).ok().out();
    let plain = in_busybox(s, &[], "ls /etc/passwd; stat -c %a:%u:%g /etc /etc/passwd").ok().out();
    assert_eq!(first, plain, "owner and mode are the image's");
    let second = in_busybox(s, &["-v", &volume], "cat /etc/mine; ls /etc/passwd 2>&1 || true").ok().out();
    assert!(second.starts_with("kept\n") && second.contains("No such file"), "{second}");
    let mount = format!("type=volume,source={empty},target=/etc,volume-nocopy");
    let nothing = in_busybox(s, &["--mount", &mount], "ls /etc | grep -c passwd || true").ok().out();
    assert_eq!(nothing, "0\n");
    s.run(&["volume", "rm", &name, &empty]).ok().prints(&format!("{name}\n{empty}\n"));
}

fn anonymous_volumes_go_with_their_containers(s: &Session) {
    let volumes = |container: &str| -> Vec<String> {
        let mounts = s.inspect(container)["Mounts"].as_array().unwrap().clone();
        mounts.iter().map(|mount| mount["Name"].as_str().unwrap().to_owned()).collect()
    };
    let there = |name: &str| s.run(&["volume", "inspect", name]).code == 0;
    for (flag, stays) in [("", true), ("-v", false)] {
        let name = s.name("anon");
        s.run(&["create", "--name", &name, "-v", "/data", "busybox:latest", "true"]).ok();
        let own = volumes(&name);
        assert!(own.len() == 1 && own[0].len() == 64 && there(&own[0]), "{own:?}");
        let arguments: Vec<&str> = ["rm", flag, &name].into_iter().filter(|word| !word.is_empty()).collect();
        s.run(&arguments).ok();
        assert_eq!(there(&own[0]), stays);
        if stays {
            s.run(&["volume", "rm", &own[0]]).ok();
        }
    }
    let name = s.name("anon-rm");
    let kept = s.name("kept");
    s.run(&[
        "create",
        "--rm",
        "--name",
        &name,
        "-v",
        "/data",
        "-v",
        &format!("{kept}:/kept"),
        "busybox:latest",
        "true",
    ])
    .ok();
    let own = volumes(&name);
    s.run(&["start", "-a", &name]).ok();
    wait_until("the anonymous volume is gone", || own.iter().filter(|volume| there(volume)).count() == 1);
    s.run(&["volume", "rm", &kept]).ok();
}

fn volumes_are_taken_over_from_other_containers(s: &Session) {
    let host = directory(s, "from");
    let (name, volume) = (s.name("from"), s.name("from-volume"));
    let bind = format!("{}:/bound:ro", host.display());
    s.run(&[
        "create",
        "--name",
        &name,
        "-v",
        &bind,
        "-v",
        &format!("{volume}:/data"),
        "busybox:latest",
        "true",
    ])
    .ok();
    let script = "cat /bound/file; touch /bound/x 2>&1; echo shared >/data/file";
    let output = in_busybox(s, &["--volumes-from", &name], script).ok().out();
    assert!(output.starts_with("from the host\n") && output.contains("Read-only"), "{output}");
    let from = format!("{name}:ro");
    let output =
        in_busybox(s, &["--volumes-from", &from], "cat /data/file; touch /data/x 2>&1 || true").ok().out();
    assert!(output.starts_with("shared\n") && output.contains("Read-only"), "{output}");
    in_busybox(s, &["--volumes-from", "nobody"], "true").exits(125).complains(&["No such container: nobody"]);
    s.run(&["rm", &name]).ok();
    s.run(&["volume", "rm", &volume]).ok();
}

fn volumes_are_listed_inspected_and_removed(s: &Session) {
    let (name, other) = (s.name("listed"), s.name("other"));
    s.run(&["volume", "create", "--label", "a=b", &name]).ok().prints(&format!("{name}\n"));
    s.run(&["volume", "create", &name]).ok().prints(&format!("{name}\n"));
    s.run(&["volume", "create", &other]).ok();
    let quiet = |filter: &str| s.run(&["volume", "ls", "-q", "--filter", filter]).ok().out();
    assert_eq!(quiet("label=a=b").lines().filter(|line| *line == name).count(), 1);
    assert!(!quiet("label=a").contains(&other));
    assert_eq!(quiet(&format!("name={other}")), format!("{other}\n"));
    let table = s.run(&["volume", "ls"]).ok().out();
    assert!(table.starts_with("DRIVER    VOLUME NAME\n"), "{table}");
    let inspected: serde_json::Value =
        serde_json::from_slice(&s.run(&["volume", "inspect", &name]).ok().stdout).unwrap();
    assert_eq!(inspected[0]["Labels"], serde_json::json!({"a": "b"}));
    assert_eq!((&inspected[0]["Driver"], &inspected[0]["Scope"]), (&"local".into(), &"local".into()));
    assert!(inspected[0]["Mountpoint"].as_str().unwrap().ends_with(&format!("/volumes/{name}/_data")));
    let user = s.name("user");
    let volume = format!("{name}:/x");
    s.run(&["create", "--name", &user, "-v", &volume, "busybox:latest", "true"]).ok();
    s.run(&["volume", "rm", &name]).exits(1).complains(&["volume is in use - ["]);
    assert!(!quiet("dangling=true").lines().any(|line| line == name));
    assert!(quiet("dangling=true").lines().any(|line| line == other));
    s.run(&["rm", &user]).ok();
    s.run(&["volume", "rm", &name, &other]).ok().prints(&format!("{name}\n{other}\n"));
    s.run(&["volume", "inspect", &name]).exits(1).complains(&["no such volume"]);
    s.run(&["volume", "rm", &name]).exits(1).complains(&["no such volume"]);
    s.run(&["volume", "rm", "-f", &name]).ok();
    s.run(&["volume", "create", "a b"]).exits(1).complains(&["includes invalid characters"]);
    s.run(&["volume", "create", "-d", "nosuch", &name]).exits(1).complains(&["nosuch"]);
}

fn a_part_of_a_volume_is_mounted(s: &Session) {
    let name = s.name("parts");
    in_busybox(
        s,
        &["-v", &format!("{name}:/v")],
        "mkdir -p /v/a/b; echo deep >/v/a/b/file; ln -s /etc /v/out",
    )
    .ok();
    let mount = |part: &str| format!("type=volume,source={name},target=/p,volume-subpath={part}");
    in_busybox(s, &["--mount", &mount("a/b")], "cat /p/file").ok().prints("deep\n");
    assert_ne!(in_busybox(s, &["--mount", &mount("nosuch")], "true").code, 0);
    assert_ne!(
        in_busybox(s, &["--mount", &mount("out")], "true").code,
        0,
        "it does not lead out of the volume"
    );
    s.run(&["volume", "rm", &name]).ok();
}

fn what_makes_no_sense_across_the_wall_is_refused_with_the_reason(s: &Session) {
    let host = directory(s, "senseless");
    let socket = host.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let bind = format!("{}:/s", socket.display());
    in_busybox(s, &["-v", &bind], "true").exits(125).complains(&["it is a socket"]);
    in_busybox(s, &["-v", "/dev/null:/n"], "true").exits(125).complains(&["it is a device"]);
    let shared = format!("{}:/s:rshared", host.display());
    in_busybox(s, &["-v", &shared], "true")
        .exits(125)
        .complains(&["bind propagation rshared is not supported"]);
    let cifs = [
        "volume",
        "create",
        "-o",
        "type=cifs",
        "-o",
        "o=addr=10.0.0.1",
        "-o",
        "device=//a/x",
        &s.name("cifs"),
    ];
    s.run(&cifs).exits(1).complains(&["type=cifs is not supported: the host mounts nothing for a guest"]);
    // A VM that runs without a share cannot get one.
    let first = s.background(&[], "busybox:latest", &["sleep", "1000"]);
    let join = format!("container:{}", first.name);
    let bind = format!("{}:/s", host.display());
    in_busybox(s, &["--network", &join, "-v", &bind], "true")
        .exits(125)
        .complains(&["runs without shared directories"]);
}

fn a_guest_reaches_nothing_but_what_was_asked_for(s: &Session) {
    let host = directory(s, "wall");
    let secret = host.join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key"), "secret").unwrap();
    let shared = host.join("sub");
    symlink("../secret/key", shared.join("up")).unwrap();
    symlink(secret.join("key"), shared.join("absolute")).unwrap();
    let bind = format!("{}:/s", shared.display());
    let script = "cat /s/up /s/absolute /s/../secret/key 2>&1 | grep -c secret; mknod /s/null c 1 3 2>&1; mknod /s/pipe p && echo pipe";
    let output = in_busybox(s, &["--privileged", "-v", &bind], script).ok().out();
    // Three complaints that name the path, and no key.
    assert!(!output.contains("secret\n") && output.contains("not permitted"), "{output}");
    assert!(output.ends_with("pipe\n"), "{output}");
    assert!(!shared.join("null").exists());
    // What one pod has is not in another's.
    let other = s.background(&["-v", &bind], "busybox:latest", &["sleep", "1000"]);
    let list = s.run(&["exec", &other.name, "sh", "-c", "cat /proc/mounts | grep -c virtiofs"]).ok().out();
    assert_eq!(list, "1\n");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains("hyper-share"), "nothing is mounted on the host");
}

fn a_pod_with_volumes_boots_and_says_so(s: &Session) {
    let host = directory(s, "boot");
    let bind = format!("{}:/s", host.display());
    let container = s.background(&["-v", &bind], "busybox:latest", &["sleep", "1000"]);
    let inspected = s.inspect(&container.name);
    let timeline = inspected["Hyper"]["Timeline"].to_string();
    assert!(timeline.contains("start virtiofsd") && timeline.contains("mount share"), "{timeline}");
    let pod = inspected["Hyper"]["Pod"]["Id"].as_str().unwrap();
    let pod = s.run(&["pod", "inspect", pod]).ok().out();
    assert!(pod.contains("booted: it shares directories of the host"), "{pod}");
}

fn containers_of_one_pod_and_of_two_see_each_others_files(s: &Session) {
    let name = s.name("common");
    let volume = format!("{name}:/v");
    let first = s.background(&["-v", &volume], "debian:12", &["sleep", "1000"]);
    let join = format!("container:{}", first.name);
    let same = s.background(&["--network", &join, "-v", &volume], "debian:12", &["sleep", "1000"]);
    let other = s.background(&["-v", &volume], "busybox:latest", &["sleep", "1000"]);
    let exec = |container: &str, script: &str| s.run(&["exec", container, "sh", "-c", script]);
    exec(&first.name, "echo one >/v/file").ok();
    for container in [&same.name, &other.name] {
        assert!(exec(container, "cat /v/file").ok().out().starts_with("one\n"));
        exec(container, &format!("echo {container} >>/v/file")).ok();
    }
    wait_until("both lines are seen", || exec(&first.name, "cat /v/file").ok().out().lines().count() == 3);
    // In one VM a lock of the one holds up the other.
    exec(
        &first.name,
        "flock /v/lock sleep 1000 >/dev/null 2>&1 & until ! flock -n /v/lock true; do sleep 0.1; done",
    )
    .ok();
    exec(&same.name, "flock -n /v/lock true").exits(1);
    // Started later, from what the pod has already.
    let host = directory(s, "later");
    let bind = format!("{}:/late", host.display());
    in_busybox(s, &["--network", &join, "-v", &bind], "cat /late/file").ok().prints("from the host\n");
    drop((first, same, other));
    s.run(&["volume", "rm", &name]).ok();
}

fn a_volume_on_a_disk_belongs_to_one_pod_at_a_time(s: &Session) {
    let name = s.name("disk");
    s.run(&["volume", "create", "-d", "disk", "-o", "size=256M", &name]).ok();
    let volume = format!("{name}:/etc");
    let first = s.background(&["-v", &volume], "busybox:latest", &["sleep", "1000"]);
    let exec = |container: &str, script: &str| s.run(&["exec", container, "sh", "-c", script]);
    exec(
        &first.name,
        "cat /etc/passwd >/dev/null; ls /etc/lost+found 2>/dev/null; echo mine >/etc/mine; sync",
    )
    .ok()
    .prints("");
    assert!(exec(&first.name, "df -m /etc | tail -1").ok().out().contains("/etc"));
    let join = format!("container:{}", first.name);
    in_busybox(s, &["--network", &join, "-v", &volume], "cat /etc/mine").ok().prints("mine\n");
    in_busybox(s, &["-v", &volume], "true").exits(125).complains(&["belongs to one pod at a time"]);
    let pod = s.inspect(&first.name)["Hyper"]["Pod"]["Id"].as_str().unwrap().to_owned();
    let pod = s.run(&["pod", "inspect", &pod]).ok().out();
    assert!(!pod.contains("shares directories"), "a disk needs no share: {pod}");
    // It grows by what is used, and shrinks by what is removed.
    let image = s.instance.root().join("volumes").join(&name).join("disk.ext4");
    let used = || fs::metadata(&image).unwrap().blocks() * 512;
    assert_eq!(fs::metadata(&image).unwrap().len(), 256 << 20);
    exec(&first.name, "head -c 40000000 /dev/urandom >/etc/big; sync").ok();
    let full = used();
    assert!(full > 38 << 20, "{full}");
    exec(&first.name, "rm /etc/big; sync").ok();
    wait_until("the room is given back", || {
        exec(&first.name, "sync").ok();
        used() < full - (30 << 20)
    });
    s.run(&["stop", "-t", "0", &first.name]).ok();
    in_busybox(s, &["-v", &volume], "cat /etc/mine").ok().prints("mine\n");
    drop(first);
    s.run(&["volume", "rm", &name]).ok();
    assert!(!image.exists());
    s.run(&["volume", "create", "-d", "disk", "-o", "size=1", &name]).exits(1).complains(&["between 32 MiB"]);
}

/// Run by Debian's perl, which its base system has.
const POSIX: &str = r#"
use strict; use warnings; use Fcntl qw(:DEFAULT :flock :mode);
chdir "/s" or die; my $n = 0;
sub ok { my ($t, $w) = @_; $n++; die "not ok: $w: $!\n" unless $t; }
sub put { my ($f, $c) = @_; open(my $h, ">", $f) or die "$f: $!"; print $h $c; close $h or die; }
sub get { open(my $h, "<", $_[0]) or die "$_[0]: $!"; local $/; my $c = <$h>; close $h; $c }
put("a", "one"); put("b", "two"); ok(rename("a", "b"), "rename over"); ok(get("b") eq "one" && !-e "a", "renamed content");
mkdir "d1"; mkdir "d2"; put("d2/x", ""); ok(!rename("d1", "d2"), "rename over a directory with files"); unlink "d2/x";
ok(rename("d1", "d2") && !-e "d1", "rename over an empty directory");
open(my $h, "+>", "u") or die; ok(unlink("u"), "unlink open"); ok(syswrite($h, "still") == 5, "write after unlink");
sysseek($h, 0, 0); my $c; sysread($h, $c, 5); ok($c eq "still" && (stat $h)[3] == 0, "read after unlink"); close $h;
put("l", "x"); ok(link("l", "l2"), "hard link"); my @s = stat "l"; my @t = stat "l2";
ok($s[1] == $t[1] && $s[3] == 2, "two names of one inode"); put("l2", "y"); ok(get("l") eq "y", "one content");
symlink("l", "sl") or die; ok(readlink("sl") eq "l" && get("sl") eq "y", "symbolic link");
open($h, ">", "sp") or die; sysseek($h, 1<<30, 0); syswrite($h, "end"); close $h; @s = stat "sp";
ok($s[7] == (1<<30)+3 && $s[12]*512 < 1<<20, "sparse file"); truncate("sp", 10); ok(-s "sp" == 10, "truncate");
chmod 04751, "l" or die; chown 123, 456, "l" or die; @s = stat "l"; ok($s[4] == 123 && $s[5] == 456, "owner");
ok(($s[2] & 07777) == 0751, "set-user-id goes with the owner"); chmod 02775, "d2"; chown 0, 77, "d2"; chmod 02775, "d2";
put("d2/in", ""); ok((stat "d2/in")[5] == 77, "group of a set-group-id directory");
utime(1000000000, 1100000000, "l"); @s = stat "l"; ok($s[8] == 1000000000 && $s[9] == 1100000000, "times");
ok(sysopen($h, "ex", O_CREAT|O_EXCL|O_WRONLY) && !sysopen(my $h2, "ex", O_CREAT|O_EXCL|O_WRONLY), "exclusive creation");
open($h, ">>", "ap"); open(my $i, ">>", "ap"); syswrite($h, "1"); syswrite($i, "2"); syswrite($h, "3"); ok(get("ap") eq "123", "append");
open($h, ">", "lk"); ok(flock($h, LOCK_EX), "flock"); my $p = fork; if (!$p) { open(my $j, ">", "lk"); exit(flock($j, LOCK_EX|LOCK_NB) ? 1 : 0) } waitpid $p, 0; ok($? == 0, "flock is held");
close $h; open($h, "+>", "fl"); my $lk = pack("s s l! l! i", F_WRLCK, 0, 0, 0, 0); ok(fcntl($h, F_SETLK, $lk), "fcntl lock");
$p = fork; if (!$p) { open(my $j, "+<", "fl"); my $k = pack("s s l! l! i", F_WRLCK, 0, 0, 0, 0); exit(fcntl($j, F_SETLK, $k) ? 1 : 0) } waitpid $p, 0; ok($? == 0, "fcntl lock is held");
my $name = "x" x 255; put($name, ""); ok(-e $name, "longest name"); ok(!open(my $k, ">", $name."x") && $!{ENAMETOOLONG}, "longer name");
ok(!open($k, "<", "nosuch/x") && $!{ENOENT}, "ENOENT"); ok(!open($k, "<", "l/x") && $!{ENOTDIR}, "ENOTDIR"); ok(!rmdir("d2") && $!{ENOTEMPTY}, "ENOTEMPTY");
mkdir "many"; put("many/$_", $_) for 1..500; opendir(my $dh, "many"); my @e = grep { !/^\./ } readdir $dh; ok(@e == 500, "directory of 500"); unlink "many/$_" for 1..500; ok(rmdir "many", "emptied");
put("sync", "synced"); open($h, "+<", "sync"); use IO::Handle; ok($h->sync, "fsync"); close $h;
print "posix: $n claims hold\n";
"#;

/// System calls that perl has no words for: a shared writable mapping, and extended attributes.
const SYSCALLS: &str = r#"
use strict; use warnings; chdir "/s" or die; my $n = 0;
sub ok { my ($t, $w) = @_; $n++; die "not ok: $w: $!\n" unless $t; }
open(my $f, ">", "map") or die; print $f "\0" x 4096; close $f; open($f, "+<", "map") or die;
my $at = syscall(9, 0, 4096, 3, 1, fileno($f), 0); ok($at > 0, "shared writable mapping");
pipe(my $r, my $w); syswrite($w, "by mapping"); ok(syscall(0, fileno($r), $at, 10) == 10, "write to the mapping");
open(my $g, "<", "map"); sysread($g, my $c, 10); ok($c eq "by mapping", "read what was mapped");
sysseek($f, 4000, 0); syswrite($f, "by write"); ok(unpack("P4096", pack("Q", $at)) =~ /by write/, "see what was written");
ok(syscall(26, $at, 4096, 4) == 0, "msync");
pipe($r, $w); syswrite($w, "not synced"); ok(syscall(0, fileno($r), $at + 100, 10) == 10, "write once more");
my ($p, $k, $v) = ("map", "user.colour", "blue"); ok(syscall(188, $p, $k, $v, 4, 0) == 0, "setxattr");
my $b = " " x 16; ok(syscall(191, $p, $k, $b, 16) == 4 && $b =~ /^blue/, "getxattr");
ok(syscall(194, $p, $b, 16) == 12, "listxattr"); ok(syscall(197, $p, $k) == 0, "removexattr");
ok(syscall(191, $p, $k, $b, 16) == -1, "it is gone"); ok(syscall(285, fileno($f), 0, 8192, 4096) == 0 && -s "map" == 12288, "fallocate");
my ($from, $to) = ("map", "sync"); ok(syscall(316, -100, $from, -100, $to, 1) == -1 && $!{EEXIST}, "rename without replacing");
print "calls: $n claims hold\n";
"#;

fn a_shared_directory_behaves_as_posix_says(s: &Session) {
    let host = directory(s, "posix");
    fs::set_permissions(&host, fs::Permissions::from_mode(0o777)).unwrap();
    let bind = format!("{}:/s", host.display());
    let output = s.run(&["run", "--rm", "-v", &bind, "debian:12", "perl", "-e", POSIX]).ok();
    assert!(output.out().starts_with("posix: ") && output.out().ends_with("claims hold\n"), "{output}");
    assert_eq!(fs::read_to_string(host.join("sync")).unwrap(), "synced");
    assert_eq!(fs::metadata(host.join("l")).unwrap().nlink(), 2);
    let output = s.run(&["run", "--rm", "-v", &bind, "debian:12", "perl", "-e", SYSCALLS]).ok();
    assert!(output.out().ends_with("claims hold\n"), "{output}");
    let mapped = fs::read(host.join("map")).unwrap();
    assert!(mapped.starts_with(b"by mapping"));
    assert_eq!(&mapped[100..110], b"not synced", "what is mapped is written out at the container's end");
}

fn engine() -> Instance {
    Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() })
}

/// Counts in files of a shared directory and of a disk, and says so far it came when that is synced.
const COUNT: &str =
    "n=0; while :; do n=$((n + 1)); echo $n >>/local/n; echo $n >>/disk/n; sync; echo $n; done";

fn what_was_synced_survives_the_end_of_vm_shim_and_server() {
    let engine = engine();
    let hyper = |arguments: &[&str]| engine.hyper(arguments).run();
    hyper(&["volume", "create", "local"]).ok();
    hyper(&["volume", "create", "-d", "disk", "-o", "size=64M", "disk"]).ok();
    let volumes = ["-v", "local:/local", "-v", "disk:/disk"];
    for program in ["qemu-system", "containerd-shim-hyper", "virtiofsd"] {
        let run = [&["run", "-d", "--name", "counts"], &volumes[..], &["busybox:latest", "sh", "-c", COUNT]];
        hyper(&run.concat()).ok();
        let logged = || hyper(&["logs", "counts"]).ok().out().lines().count();
        wait_until_within("it counts", Duration::from_secs(60), || logged() >= 3);
        let processes = engine.pod_processes();
        let victims: Vec<i32> = processes
            .iter()
            .filter(|process| process.command.split(' ').next().unwrap_or_default().contains(program))
            .map(|process| process.pid)
            .collect();
        let pods: Vec<i32> = processes.iter().map(|process| process.pid).collect();
        assert!(!victims.is_empty(), "{program}: {processes:?}");
        for victim in victims {
            kill(victim, Signal::KILL);
        }
        hyper(&["wait", "counts"]).ok().prints("137\n");
        let inspected = hyper(&["inspect", "counts"]).ok().out();
        assert!(inspected.contains("\"Error\": \"the pod's VM is gone: "), "{program}: {inspected}");
        if program == "virtiofsd" {
            assert!(inspected.contains("virtiofsd, which serves its volumes, ended"), "{inspected}");
        }
        wait_until("nothing of the pod runs", || {
            let left = engine.pod_processes();
            !left.iter().any(|process| pods.contains(&process.pid) && process.command.contains("counts"))
                && !left.iter().any(|process| process.command.contains("virtiofsd"))
        });
        let last = logged();
        let count = "wc -l </local/n; wc -l </disk/n; rm /local/n /disk/n";
        let read = [&["run", "--rm"], &volumes[..], &["busybox:latest", "sh", "-c", count]];
        let kept = hyper(&read.concat()).ok().out();
        let kept: Vec<usize> = kept.lines().filter_map(|line| line.trim().parse().ok()).collect();
        assert!(kept.len() == 2 && kept.iter().all(|n| *n >= last), "{program}: {kept:?} after {last}");
        hyper(&["rm", "counts"]).ok();
    }
    hyper(&["volume", "rm", "local", "disk"]).ok();
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn a_daemon_killed_while_it_makes_volumes_leaves_them_whole() {
    let engine = engine();
    let hyper = |arguments: &[&str]| engine.hyper(arguments).run();
    engine.start_daemon();
    for round in 0..6 {
        let names: Vec<String> = (0..8).map(|n| format!("v{round}-{n}")).collect();
        let making: Vec<_> =
            names.iter().map(|name| engine.hyper(&["volume", "create", name]).spawn()).collect();
        let mut disk =
            engine.hyper(&["volume", "create", "-d", "disk", "-o", "size=64M", &format!("d{round}")]).spawn();
        // Somewhere in the middle: when some are there.
        wait_until("some are made", || {
            fs::read_dir(engine.root().join("volumes")).is_ok_and(|all| all.count() > round * 9 + round)
        });
        engine.kill_daemon();
        for mut making in making {
            making.wait();
        }
        disk.wait();
        engine.start_daemon();
        let list = hyper(&["volume", "ls", "-q"]).ok().out();
        for name in list.lines() {
            let inspected = hyper(&["volume", "inspect", "--format", "{{.Mountpoint}}", name]).ok().out();
            assert!(fs::metadata(inspected.trim()).is_ok(), "{name} is there whole");
        }
        // What was not made can be made.
        for name in &names {
            hyper(&["volume", "create", name]).ok();
        }
    }
    let all = hyper(&["volume", "ls", "-q"]).ok().out();
    hyper(&[&["volume", "rm"], all.lines().collect::<Vec<_>>().as_slice()].concat()).ok();
    let left: Vec<_> = fs::read_dir(engine.root().join("volumes")).unwrap().flatten().collect();
    assert!(left.iter().all(|entry| entry.file_name().to_string_lossy().starts_with('d')), "{left:?}");
    assert_eq!(engine.finish(), Vec::<String>::new());
}

/// What of NFS-Ganesha is on, and what it exports.
const GANESHA: &str = "\
NFS_CORE_PARAM { Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }
NFSv4 { Graceless = true; Only_Numeric_Owners = true; RecoveryBackend = fs; }
EXPORT { Export_Id = 1; Path = /srv; Pseudo = /srv; Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
         Protocols = 4; Transports = TCP; FSAL { Name = VFS; } }
";

/// A server in the world that exports a memory filesystem; it ends with this.
struct Server(std::process::Child);

impl Server {
    fn start(engine: &Instance) -> Self {
        let root = hyper_e2e::oracle::made_root("nfs-bookworm", "bookworm", "nfs-ganesha-vfs", |root| {
            fs::write(root.join("ganesha.conf"), GANESHA).unwrap();
            // It looks there for what is mounted.
            symlink("../proc/self/mounts", root.join("etc/mtab")).unwrap();
        });
        let mut command = engine.lab.world.command();
        command.args(["unshare", "--mount", "sh", "-c"]);
        command.arg(
            "mount -t tmpfs srv $1/srv && mount -t tmpfs run $1/run && mkdir -p $1/run/ganesha && mount --bind /proc $1/proc \
             && exec chroot $1 ganesha.nfsd -F -L /dev/null -f /ganesha.conf -p /run/pid",
        );
        Self(command.arg("sh").arg(&root).spawn().expect("nsenter is part of util-linux"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_volume_is_on_a_server() {
    let engine = Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() });
    let server = Server::start(&engine);
    let hyper = |words: &[&str]| engine.hyper(words).timeout(Duration::from_secs(180)).run();
    let options =
        ["-o", "type=nfs", "-o", "o=addr=203.0.113.1,nfsvers=4.1,soft,timeo=50", "-o", "device=:/srv"];
    hyper(&[&["volume", "create"][..], &options, &["far"]].concat()).ok();
    let run = |script: &str| hyper(&["run", "--rm", "-v", "far:/far", "busybox:latest", "sh", "-c", script]);
    wait_until_within("the server serves", Duration::from_secs(120), || run("true").code == 0);
    run("echo one >/far/file && chown 7:8 /far/file && mkdir /far/dir").ok();
    run("cat /far/file && stat -c %u:%g /far/file && grep -c ' /far nfs4 ' /proc/mounts")
        .ok()
        .prints("one\n7:8\n1\n");
    // Two pods at once, one of them reading only; nothing of it is on this host.
    hyper(&["run", "-d", "--name", "reader", "-v", "far:/far:ro", "busybox:latest", "sleep", "1000"]).ok();
    run("echo two >/far/file").ok();
    hyper(&["exec", "reader", "cat", "/far/file"]).ok().prints("two\n");
    assert_ne!(hyper(&["exec", "reader", "touch", "/far/x"]).code, 0);
    assert!(!engine.sh("cat /proc/mounts").run().out().contains(" nfs"), "the host has mounted nothing");
    hyper(&["rm", "-f", "reader"]).ok();
    // Without the server a start fails in time, and says why.
    drop(server);
    let failed = run("true");
    assert!(failed.code == 125 && failed.err().contains("mount :/srv"), "{failed}");
    let bad = hyper(&["volume", "create", "-o", "type=nfs", "-o", "device=:/srv", "bad"]);
    assert!(bad.code == 1 && bad.err().contains("needs the server's address"), "{bad}");
    hyper(&["volume", "rm", "far"]).ok();
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}
