//! Images: pull, list, inspect, history, tag, remove, import, save, load.

use std::process::Command;
use std::time::Duration;

use hyper_e2e::images;

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Both:
        the_second_pull_says_up_to_date,
        pull_by_digest_gives_the_same_image,
        images_lists_name_tag_and_id,
        inspect_shows_the_images_configuration,
        history_has_a_line_for_every_layer,
        a_tag_is_another_name_until_it_is_removed,
        an_image_in_use_is_not_removed_without_force,
        a_root_filesystem_tar_is_imported_and_runs,
        import_reads_standard_input,
        what_save_wrote_can_be_read_by_others_and_loaded,
        archives_of_others_are_loaded,
        a_hundred_layers_are_one_file_system,
    ]
    .to_vec()
}

fn the_second_pull_says_up_to_date(s: &Session) {
    s.run(&["pull", "localhost:5000/busybox:latest"]).ok();
    let again = s.run(&["pull", "localhost:5000/busybox:latest"]).ok();
    assert!(again.out().contains("up to date"), "{again}");
}

fn pull_by_digest_gives_the_same_image(s: &Session) {
    let inspected = s.inspect("localhost:5000/busybox:latest");
    let digest = inspected["RepoDigests"][0].as_str().expect("a pulled image knows its digest").to_owned();
    assert!(digest.starts_with("localhost:5000/busybox@sha256:"), "{digest}");
    s.run(&["pull", &digest]).ok();
    assert_eq!(s.inspect(&digest)["Id"], inspected["Id"]);
    s.run(&["run", "--rm", &digest, "echo", "by digest"]).ok().prints("by digest\n");
}

fn images_lists_name_tag_and_id(s: &Session) {
    let listed = s.run(&["images"]).ok().out();
    let header: Vec<&str> = listed.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(header, ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]);
    let line =
        |name: &str, tag: &str| listed.lines().any(|line| line.split_whitespace().take(2).eq([name, tag]));
    assert!(line("localhost:5000/busybox", "latest") && line("debian", "12"), "{listed}");
    let id = s.run(&["images", "-q", "--no-trunc", "busybox:latest"]).ok().out();
    assert_eq!(Some(id.trim()), s.inspect("busybox:latest")["Id"].as_str());
}

fn inspect_shows_the_images_configuration(s: &Session) {
    let image = s.inspect("busybox:latest");
    assert_eq!(image["Config"]["Env"], serde_json::json!(["PATH=/bin", "FROM_IMAGE=yes"]));
    assert_eq!(image["Config"]["Labels"]["made"], "from busybox-static");
    assert_eq!((image["Architecture"].as_str(), image["Os"].as_str()), (Some("amd64"), Some("linux")));
    assert_eq!(image["RootFS"]["Layers"].as_array().map(Vec::len), Some(1));
    s.run(&["inspect", "no-such-thing"]).exits(1).complains(&["no such"]);
}

fn history_has_a_line_for_every_layer(s: &Session) {
    let history = s.run(&["history", "--no-trunc", "busybox:latest"]).ok().out();
    assert!(history.starts_with("IMAGE") && history.contains("layer 0"), "{history}");
    assert_eq!(history.lines().count(), 2, "{history}");
}

fn a_tag_is_another_name_until_it_is_removed(s: &Session) {
    let name = format!("{}:v1", s.name("tagged"));
    s.run(&["tag", "busybox:latest", &name]).ok();
    assert_eq!(s.inspect(&name)["Id"], s.inspect("busybox:latest")["Id"]);
    s.run(&["run", "--rm", &name, "true"]).ok();
    let removed = s.run(&["rmi", &name]).ok();
    assert!(removed.out().contains(&format!("Untagged: {name}")), "{removed}");
    s.run(&["inspect", &name]).exits(1);
    s.run(&["inspect", "busybox:latest"]).ok();
    s.run(&["rmi", &name]).exits(1).complains(&["no such image"]);
}

fn an_image_in_use_is_not_removed_without_force(s: &Session) {
    let image = import(s);
    let name = s.name("user");
    s.run(&["create", "--name", &name, &image, "/bin/sh"]).ok();
    s.run(&["rmi", &image]).exits(1).complains(&["conflict"]);
    s.run(&["rm", &name]).ok();
    let removed = s.run(&["rmi", &image]).ok();
    assert!(removed.out().contains("Deleted: sha256:"), "{removed}");
}

/// Imports a small root filesystem, different for each call; returns its name.
fn import(s: &Session) -> String {
    let name = s.name("imported");
    let tar = s.instance.directory().join(format!("{name}.tar"));
    let script = format!(
        "set -e; d=$(mktemp -d); mkdir $d/bin $d/etc; cp /bin/busybox $d/bin/; ln -s busybox $d/bin/sh; \
         ln -s busybox $d/bin/cat; echo {name} >$d/etc/made-for; tar -C $d -cf {} .; rm -r $d",
        tar.display()
    );
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    let imported = s.run(&["import", tar.to_str().unwrap(), &name]).ok();
    assert!(imported.out().trim().starts_with("sha256:"), "{imported}");
    name
}

fn a_root_filesystem_tar_is_imported_and_runs(s: &Session) {
    let image = import(s);
    s.run(&["run", "--rm", &image, "/bin/cat", "/etc/made-for"]).ok().prints(&format!("{image}\n"));
    s.run(&["rmi", &image]).ok();
}

fn import_reads_standard_input(s: &Session) {
    let name = s.name("piped");
    let tar = Command::new("tar").args(["-C", "/bin", "-c", "busybox"]).output().unwrap().stdout;
    s.cmd(&["import", "-", &name]).stdin(tar).run().ok();
    s.run(&["run", "--rm", &name, "/busybox", "echo", "alive"]).ok().prints("alive\n");
    s.run(&["rmi", &name]).ok();
}

fn what_save_wrote_can_be_read_by_others_and_loaded(s: &Session) {
    let image = import(s);
    let archive = s.instance.directory().join(format!("{image}-saved.tar"));
    let archive = archive.to_str().unwrap();
    s.run(&["save", "-o", archive, &image]).ok();
    let skopeo =
        Command::new("skopeo").args(["inspect", &format!("docker-archive:{archive}")]).output().unwrap();
    let text = String::from_utf8_lossy(&skopeo.stdout).into_owned();
    assert!(skopeo.status.success(), "{text}{}", String::from_utf8_lossy(&skopeo.stderr));
    let manifest = Command::new("tar").args(["-xOf", archive, "manifest.json"]).output().unwrap().stdout;
    let manifest = String::from_utf8_lossy(&manifest).into_owned();
    assert!(manifest.contains(&format!("{image}:latest")), "{manifest}");
    s.run(&["rmi", &image]).ok();
    let loaded = s.run(&["load", "-i", archive]).ok();
    assert!(loaded.out().contains(&format!("Loaded image: {image}:latest")), "{loaded}");
    s.run(&["run", "--rm", &image, "/bin/cat", "/etc/made-for"]).ok().prints(&format!("{image}\n"));
    s.run(&["rmi", &image]).ok();
}

fn archives_of_others_are_loaded(s: &Session) {
    let layout = images::layout_of("busybox:latest");
    for kind in ["docker-archive", "oci-archive"] {
        let name = format!("{}:x", s.name("foreign"));
        let archive = s.instance.directory().join(format!("{}.tar", name.replace(':', "-")));
        let copied = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", &format!("oci:{}:latest", layout.display())])
            .arg(format!("{kind}:{}:{name}", archive.display()))
            .status();
        assert!(copied.unwrap().success());
        s.run(&["load", "-i", archive.to_str().unwrap()]).ok();
        s.run(&["run", "--rm", &name, "echo", kind]).ok().prints(&format!("{kind}\n"));
        s.run(&["rmi", &name]).ok();
    }
}

fn a_hundred_layers_are_one_file_system(s: &Session) {
    s.cmd(&["pull", "-q", "localhost:5000/layers:100"]).timeout(Duration::from_secs(300)).run().ok();
    let script =
        "ls -A /layers | wc -l; cat /layers/last; [ -e /layers/10 ] || echo gone; ls -A /layers | grep -c wh";
    let output = s.run(&["run", "--rm", "localhost:5000/layers:100", "sh", "-c", script]);
    assert_eq!(output.out().split_whitespace().collect::<Vec<_>>(), ["91", "100", "gone", "0"], "{output}");
}
