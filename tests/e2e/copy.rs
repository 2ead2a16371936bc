//! Files in containers: cp both ways, export, diff; of containers that run, have ended, and have never been started.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let both = case_list![Both:
        files_go_into_a_running_container_and_come_out_again,
        files_go_into_a_created_container_and_are_there_when_it_starts,
        files_come_out_of_a_container_that_has_ended,
        cp_names_things_as_docker_does,
        cp_refuses_what_docker_refuses,
        cp_streams_archives,
        archives_lead_nowhere_else,
        cp_follows_links_where_asked,
        export_is_the_whole_file_system_and_can_be_imported,
        diff_tells_what_was_changed,
        commit_makes_an_image_that_runs,
        a_gigabyte_goes_both_ways,
    ];
    let hyper = case_list![Hyper:
        a_container_that_starts_meanwhile_waits_for_the_copy,
        tmpfs_of_a_running_container_is_seen,
        volumes_of_a_container_that_does_not_run_are_reached,
    ];
    [&both[..], &hyper[..]].concat()
}

/// When its files were changed.
fn modified() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

/// A tree to copy: a file, a directory in a directory, a link.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    fs::write(at.join("file"), "one\n").unwrap();
    fs::set_permissions(at.join("file"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::create_dir_all(at.join("dir/sub")).unwrap();
    fs::write(at.join("dir/sub/deep"), "deep\n").unwrap();
    fs::write(at.join("dir/exe"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(at.join("dir/exe"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("exe", at.join("dir/link")).unwrap();
    for name in ["file", "dir/sub/deep", "dir/sub", "dir"] {
        fs::File::open(at.join(name)).unwrap().set_modified(modified()).unwrap();
    }
    dir
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

/// Puts the tree in and takes it out again.
fn there_and_back(s: &Session, container: &str) {
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    s.run(&["cp", &path(from.path(), "file"), &format!("{container}:/in")]).ok();
    s.run(&["cp", &path(from.path(), "dir"), &format!("{container}:/tree")]).ok();
    s.run(&["cp", &format!("{container}:/in"), &path(to.path(), "file")]).ok();
    s.run(&["cp", &format!("{container}:/tree"), to.path().to_str().unwrap()]).ok();
    let at = |name: &str| to.path().join(name);
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "one\n");
    assert_eq!(fs::metadata(at("file")).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(fs::read_to_string(at("tree/sub/deep")).unwrap(), "deep\n");
    assert_eq!(fs::metadata(at("tree/exe")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_link(at("tree/link")).unwrap(), Path::new("exe"));
    for name in ["file", "tree/sub/deep", "tree/sub", "tree"] {
        assert_eq!(fs::metadata(at(name)).unwrap().modified().unwrap(), modified(), "{name}");
    }
}

fn idle(s: &Session) -> crate::session::Container<'_> {
    s.background(&[], "busybox:latest", &["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"])
}

fn files_go_into_a_running_container_and_come_out_again(s: &Session) {
    let c = idle(s);
    there_and_back(s, &c.name);
    s.run(&["exec", &c.name, "cat", "/in", "/tree/sub/deep"]).ok().prints("one\ndeep\n");
    s.run(&["exec", &c.name, "rm", "-r", "/tree"]).ok();
    s.run(&["pause", &c.name]).ok();
    there_and_back(s, &c.name);
    s.run(&["unpause", &c.name]).ok();
}

fn files_go_into_a_created_container_and_are_there_when_it_starts(s: &Session) {
    let name = s.name("made");
    s.run(&["create", "--name", &name, "busybox:latest", "sh", "-c", "cat /in /tree/sub/deep; ls -l /in"])
        .ok();
    there_and_back(s, &name);
    let output = s.run(&["start", "-a", &name]).ok();
    assert!(output.out().starts_with("one\ndeep\n-rw-r-----"), "{output}");
    s.run(&["rm", &name]).ok();
}

fn files_come_out_of_a_container_that_has_ended(s: &Session) {
    let name = s.name("ended");
    s.run(&["run", "--name", &name, "busybox:latest", "sh", "-c", "mkdir /out; echo said > /out/word"]).ok();
    let to = tempfile::tempdir().unwrap();
    s.run(&["cp", &format!("{name}:/out"), to.path().to_str().unwrap()]).ok();
    assert_eq!(fs::read_to_string(to.path().join("out/word")).unwrap(), "said\n");
    there_and_back(s, &name);
    // It can be started again with what was put there, and what is there is no hindrance.
    s.run(&["start", "-a", &name]).exits(0);
    s.run(&["cp", &format!("{name}:/in"), &path(to.path(), "in")]).ok();
    assert_eq!(fs::read_to_string(to.path().join("in")).unwrap(), "one\n");
    s.run(&["rm", &name]).ok();
}

fn cp_names_things_as_docker_does(s: &Session) {
    let c = idle(s);
    let from = tree();
    let at = |name: &str| path(from.path(), name);
    let into = |target: &str| format!("{}:{target}", c.name);
    s.run(&["exec", &c.name, "mkdir", "-p", "/t", "/e"]).ok();
    s.run(&["cp", &at("file"), &into("/t")]).ok();
    s.run(&["cp", &at("file"), &into("/t/")]).ok();
    s.run(&["cp", &at("file"), &into("/t/renamed")]).ok();
    s.run(&["cp", &at("dir"), &into("/t")]).ok();
    s.run(&["cp", &at("dir"), &into("/t/new")]).ok();
    s.run(&["cp", &at("dir/."), &into("/e")]).ok();
    s.run(&["cp", &at("dir/."), &into("/f")]).ok();
    s.run(&["cp", &at("dir/link"), &into("/t/alink")]).ok();
    s.run(&["cp", "-L", &at("dir/link"), &into("/t/afile")]).ok();
    s.run(&["exec", &c.name, "sh", "-c", "cd /; find t e f | sort; readlink t/alink; cat t/afile"]).ok().prints(
        "e\ne/exe\ne/link\ne/sub\ne/sub/deep\nf\nf/exe\nf/link\nf/sub\nf/sub/deep\nt\nt/afile\nt/alink\nt/dir\n\
         t/dir/exe\nt/dir/link\nt/dir/sub\nt/dir/sub/deep\nt/file\nt/new\nt/new/exe\nt/new/link\nt/new/sub\n\
         t/new/sub/deep\nt/renamed\nexe\n#!/bin/sh\n",
    );
    let to = tempfile::tempdir().unwrap();
    let here = |name: &str| path(to.path(), name);
    s.run(&["cp", &into("/t/dir"), &here("new")]).ok();
    s.run(&["cp", &into("/t/dir/."), &here("")]).ok();
    s.run(&["cp", &into("t/file"), &here("one")]).ok();
    s.run(&["cp", &into("/t/file"), &here("one")]).ok();
    s.run(&["cp", &into("/t/new/link"), &here("l")]).ok();
    s.run(&["cp", "-L", &into("/t/new/link"), &here("")]).ok();
    for (name, there) in [("new/sub/deep", true), ("sub/deep", true), ("one", true), ("dir", false)] {
        assert_eq!(to.path().join(name).exists(), there, "{name}");
    }
    assert!(fs::symlink_metadata(to.path().join("l")).unwrap().is_symlink());
    assert!(fs::symlink_metadata(to.path().join("link")).unwrap().is_file());
    // The files have the owners that they have here, or with -a the container's user.
    s.run(&["exec", &c.name, "stat", "-c", "%u:%g", "/t/file"]).ok().prints("0:0\n");
}

fn cp_refuses_what_docker_refuses(s: &Session) {
    let c = idle(s);
    let from = tree();
    let at = |name: &str| path(from.path(), name);
    let into = |target: &str| format!("{}:{target}", c.name);
    s.run(&["exec", &c.name, "sh", "-c", "echo x > /plain; mkdir -p /d/file /d2; echo x > /d2/dir"]).ok();
    let to = tempfile::tempdir().unwrap();
    let here = |name: &str| path(to.path(), name);
    let missing = format!("Could not find the file /nosuch in container {}", c.name);
    let table: [(&[&str], &str); 12] = [
        (&["cp", &into("/nosuch"), &here("x")], &missing),
        (&["cp", "nosuchcontainer:/x", &here("x")], "No such container: nosuchcontainer"),
        (&["cp", &at("file"), &into("/nosuch/x")], "Could not find the file /nosuch in container"),
        (&["cp", &at("file"), &into("/nosuch/")], "no such directory"),
        (&["cp", &at("dir"), &into("/plain")], "cannot copy directory"),
        (&["cp", &at("file"), &into("/d")], "cannot overwrite directory"),
        (&["cp", &at("dir"), &into("/d2")], "cannot overwrite non-directory"),
        (&["cp", &at("nosuch"), &into("/")], "no such file or directory"),
        (&["cp", &into("/etc"), &into("/t")], "copying between containers is not supported"),
        (&["cp", &at("file"), &at("dir")], "must specify at least one container source"),
        (&["cp", &into("/plain"), &here("no/such/dir")], "does not exist"),
        (&["cp", "-", &into("/plain")], "must be a directory"),
    ];
    for (arguments, words) in table {
        s.run(arguments).exits(1).complains(&[words]);
    }
}

fn cp_streams_archives(s: &Session) {
    let c = idle(s);
    let from = tree();
    let tar = |arguments: &[&str]| Command::new("tar").args(arguments).output().unwrap().stdout;
    let archive = tar(&["-C", from.path().to_str().unwrap(), "-czf", "-", "file", "dir"]);
    s.cmd(&["cp", "-", &format!("{}:/", c.name)]).stdin(archive).run().ok();
    s.run(&["exec", &c.name, "cat", "/file", "/dir/sub/deep"]).ok().prints("one\ndeep\n");
    let out = s.run(&["cp", &format!("{}:/dir", c.name), "-"]).ok().stdout;
    let mut list =
        Command::new("tar").args(["-tf", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut list.stdin.take().unwrap(), &out).unwrap();
    let listed = String::from_utf8(list.wait_with_output().unwrap().stdout).unwrap();
    let mut names: Vec<&str> = listed.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["dir/", "dir/exe", "dir/link", "dir/sub/", "dir/sub/deep"]);
    // With -a the files are the container's user's.
    let user = s.background(&["-u", "www-data"], "busybox:latest", &["sleep", "1000"]);
    s.run(&["cp", "-a", &path(from.path(), "file"), &format!("{}:/mine", user.name)]).ok();
    let id = s.run(&["exec", &user.name, "id", "-u"]).ok().out();
    s.run(&["exec", &user.name, "stat", "-c", "%u", "/mine"]).ok().prints(&id);
}

/// One header block of a tar.
fn header(name: &str, kind: u8, link: &str) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(b"00000000000");
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[329..336].copy_from_slice(b"0000001");
    block[337..344].copy_from_slice(b"0000003");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn archives_lead_nowhere_else(s: &Session) {
    let c = idle(s);
    s.run(&["exec", &c.name, "mkdir", "/t"]).ok();
    let put = |blocks: &[Vec<u8>]| {
        let mut tar = blocks.concat();
        tar.extend([0; 1024]);
        s.cmd(&["cp", "-", &format!("{}:/t", c.name)]).stdin(tar).run()
    };
    put(&[header("../up", b'0', "")]).exits(1).complains(&["outside of"]);
    put(&[header("hard", b'1', "../../etc/passwd")]).exits(1).complains(&["invalid hardlink"]);
    put(&[header("l", b'2', "../../..")]).exits(1).complains(&["invalid symlink"]);
    // An absolute name is one below the target; a device is made, in the container.
    put(&[header("/abs", b'0', ""), header("null", b'3', ""), header("l", b'2', "/etc")]).ok();
    s.run(&["exec", &c.name, "sh", "-c", "ls /t; ls /up /abs 2>/dev/null; [ -c /t/null ] && readlink /t/l"])
        .ok()
        .prints("abs\nl\nnull\n/etc\n");
    s.cmd(&["cp", "-", &format!("{}:/t", c.name)]).stdin(vec![b'x'; 2000]).run().exits(1);
}

fn cp_follows_links_where_asked(s: &Session) {
    let c = idle(s);
    s.run(&[
        "exec",
        &c.name,
        "sh",
        "-c",
        "mkdir -p /real/d; echo in > /real/d/f; ln -s /real/d /to; ln -s ../../../../real/d/f /esc",
    ])
    .ok();
    let to = tempfile::tempdir().unwrap();
    let here = |name: &str| path(to.path(), name);
    let at = |name: &str| format!("{}:{name}", c.name);
    s.run(&["cp", &at("/to/"), &here("")]).ok();
    assert_eq!(fs::read_to_string(to.path().join("to/f")).unwrap(), "in\n");
    s.run(&["cp", "-L", &at("/esc"), &here("")]).ok();
    assert_eq!(fs::read_to_string(to.path().join("esc")).unwrap(), "in\n");
    fs::write(to.path().join("more"), "more\n").unwrap();
    s.run(&["cp", &here("more"), &at("/to")]).ok();
    s.run(&["exec", &c.name, "cat", "/real/d/more"]).ok().prints("more\n");
}

fn export_is_the_whole_file_system_and_can_be_imported(s: &Session) {
    let name = s.name("exported");
    s.run(&[
        "run",
        "--name",
        &name,
        "busybox:latest",
        "sh",
        "-c",
        "mkdir -p /srv/x; echo kept > /srv/x/f; rm /bin/true",
    ])
    .ok();
    let dir = tempfile::tempdir().unwrap();
    let archive = path(dir.path(), "all.tar");
    s.run(&["export", "-o", &archive, &name]).ok();
    let image = format!("{}:1", s.name("imported"));
    s.run(&["import", &archive, &image]).ok();
    s.run(&["run", "--rm", &image, "/bin/sh", "-c", "cat /srv/x/f; ls /bin/true 2>/dev/null || echo gone"])
        .ok()
        .prints("kept\ngone\n");
    s.run(&["rmi", &image]).ok();
    s.run(&["rm", &name]).ok();
}

fn diff_tells_what_was_changed(s: &Session) {
    let script = "mkdir -p /new/dir; echo x > /new/dir/f; echo y >> /etc/passwd; rm /bin/true; \
                  rm -r /etc/group; mkdir /etc/group; touch /etc/group/in";
    let wanted = [
        "A /etc/group/in",
        "A /new",
        "A /new/dir",
        "A /new/dir/f",
        "C /bin",
        "C /etc",
        "C /etc/group",
        "C /etc/passwd",
        "D /bin/true",
    ];
    let check = |name: &str| {
        let output = s.run(&["diff", name]).ok().out();
        let mut lines: Vec<&str> = output.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, wanted);
    };
    let c = idle(s);
    s.run(&["diff", &c.name]).ok().prints("");
    s.run(&["exec", &c.name, "sh", "-c", script]).ok();
    check(&c.name);
    s.run(&["stop", &c.name]).ok();
    check(&c.name);
}

fn commit_makes_an_image_that_runs(s: &Session) {
    let c = idle(s);
    s.run(&[
        "exec",
        &c.name,
        "sh",
        "-c",
        "mkdir /new; echo kept > /new/f; rm /bin/true; echo x >> /etc/passwd",
    ])
    .ok();
    let image = format!("{}:1", s.name("committed"));
    let changes =
        ["-c", "CMD [\"cat\", \"/new/f\"]", "-c", "ENV ADDED=yes", "-c", "LABEL l=v", "-c", "WORKDIR /new"];
    let arguments = [&["commit", "-a", "me", "-m", "why"], &changes[..], &[&c.name, &image]].concat();
    let id = s.run(&arguments).ok().out().trim().to_owned();
    assert_eq!(c.status(), "running");
    let made = s.inspect(&image);
    assert_eq!(made["Id"].as_str(), Some(id.as_str()));
    assert_eq!((made["Author"].as_str(), made["Comment"].as_str()), (Some("me"), Some("why")));
    assert_eq!(made["Config"]["Cmd"], serde_json::json!(["cat", "/new/f"]));
    assert_eq!(made["Config"]["Labels"]["l"], "v");
    let layers = |image: &serde_json::Value| image["RootFS"]["Layers"].as_array().unwrap().len();
    assert_eq!(layers(&made), layers(&s.inspect("busybox:latest")) + 1);
    s.run(&["run", "--rm", &image]).ok().prints("kept\n");
    s.run(&[
        "run",
        "--rm",
        &image,
        "sh",
        "-c",
        "echo $ADDED $PWD; ls /bin/true 2>/dev/null; tail -n 1 /etc/passwd",
    ])
    .ok()
    .prints("yes /new\nx\n");
    // Of one that has ended, and has changed nothing since.
    s.run(&["run", "--name", &format!("{}-2", c.name), &image, "true"]).exits(127);
    let again = s.run(&["commit", &format!("{}-2", c.name)]).ok().out().trim().to_owned();
    assert_eq!(layers(&s.inspect(&again)), layers(&made));
    s.run(&["rm", &format!("{}-2", c.name)]).ok();
    s.run(&["rmi", &again, &image]).ok();
    s.run(&["commit", "-c", "FROM x", &c.name]).exits(1).complains(&["FROM"]);
}

fn a_gigabyte_goes_both_ways(s: &Session) {
    let c = idle(s);
    let dir = tempfile::tempdir().unwrap();
    let (there, back) = (path(dir.path(), "big"), path(dir.path(), "back"));
    let made = Command::new("sh")
        .args(["-c", "yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c 1073741824 > \"$0\"", &there])
        .status()
        .unwrap();
    assert!(made.success());
    let run = |arguments: &[&str]| {
        let began = Instant::now();
        s.cmd(arguments).timeout(Duration::from_secs(900)).run().ok();
        began.elapsed().as_secs_f64()
    };
    let into = run(&["cp", &there, &format!("{}:/big", c.name)]);
    let out = run(&["cp", &format!("{}:/big", c.name), &back]);
    eprintln!("cp of 1 GiB: {into:.1} s in, {out:.1} s out ({})", s.cli.name());
    assert!(Command::new("cmp").args([&there, &back]).status().unwrap().success());
}

fn a_container_that_starts_meanwhile_waits_for_the_copy(s: &Session) {
    let name = s.name("racing");
    s.run(&["create", "--name", &name, "busybox:latest", "sh", "-c", "wc -c < /big"]).ok();
    let dir = tempfile::tempdir().unwrap();
    let big = dir.path().join("big");
    fs::write(&big, vec![7; 64 << 20]).unwrap();
    let mut copy = s.cmd(&["cp", big.to_str().unwrap(), &format!("{name}:/big")]).spawn();
    // However far the copy is, its disk is not in two machines: the start comes after or before it.
    let started = s.run(&["start", "-a", &name]);
    let copied = copy.wait_within(Duration::from_secs(120));
    assert!(copied.code == 0 && matches!(started.code, 0 | 1), "{copied} {started}");
    s.run(&["start", "-a", &name]).ok().prints(&format!("{}\n", 64 << 20));
    s.run(&["rm", &name]).ok();
}

fn tmpfs_of_a_running_container_is_seen(s: &Session) {
    let c = s.background(&["--tmpfs", "/scratch"], "busybox:latest", &["sleep", "1000"]);
    let from = tree();
    s.run(&["cp", &path(from.path(), "file"), &format!("{}:/scratch/", c.name)]).ok();
    s.run(&["exec", &c.name, "cat", "/scratch/file"]).ok().prints("one\n");
    s.run(&["exec", &c.name, "rm", "/scratch/file"]).ok();
}

fn volumes_of_a_container_that_does_not_run_are_reached(s: &Session) {
    let (name, volume) = (s.name("ended"), s.name("files"));
    let (host, from) = (tempfile::tempdir().unwrap(), tree());
    fs::write(host.path().join("theirs"), "theirs\n").unwrap();
    let binds = [format!("{volume}:/data"), format!("{}:/host:ro", host.path().display())];
    let script = "echo made > /data/made; ln -s /data /link; mkdir /own";
    s.run(&["run", "--name", &name, "-v", &binds[0], "-v", &binds[1], "busybox:latest", "sh", "-c", script])
        .ok();
    let at = |place: &str| format!("{name}:{place}");
    // Out of the volume, and of the bind.
    let back = tempfile::tempdir().unwrap();
    for (place, file, text) in [("/data/made", "1", "made\n"), ("/host/theirs", "2", "theirs\n")] {
        let to = path(back.path(), file);
        s.run(&["cp", &at(place), &to]).ok();
        assert_eq!(fs::read_to_string(to).unwrap(), text);
    }
    // Into it: by its path, by a link that leads there, and where the container's own files are.
    for place in ["/data/direct", "/link/linked", "/own/own"] {
        s.run(&["cp", &path(from.path(), "file"), &at(place)]).ok();
    }
    s.run(&["cp", &path(from.path(), "file"), &at("/host/new")]).exits(1).complains(&["marked read-only"]);
    assert!(!host.path().join("new").exists());
    let other =
        ["run", "--rm", "-v", &binds[0], "busybox:latest", "sh", "-c", "cd /data; ls; cat direct linked"];
    s.run(&other).ok().prints("direct\nlinked\nmade\none\none\n");
    // It is not among the container's changes, and the mount points are empty in its own files.
    let archive = path(back.path(), "all.tar");
    s.run(&["export", "-o", &archive, &name]).ok();
    let listed = Command::new("tar").args(["-tf", &archive]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().any(|name| name == "own/own"), "{listed}");
    assert!(!listed.lines().any(|name| name.starts_with("data/") && name != "data/"), "{listed}");
    s.run(&["rm", "-v", &name]).ok();
    s.run(&["volume", "rm", &volume]).ok();
}
