//! Images are removed while hyperd is killed: nothing that is used goes, nothing that went stays.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hyper_e2e::{Instance, Options, leftovers};

use crate::case_list;
use crate::session::Case;

/// Kills in one run.
const KILLS: u64 = 40;

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    case_list![Own: removing_images_survives_a_kill_at_any_moment].to_vec()
}

/// A root filesystem that no other is like.
fn tar(path: &Path, content: &str) {
    let script = format!(
        "set -e; d=$(mktemp -d); mkdir $d/bin; cp /bin/busybox $d/bin/sh; echo {content} >$d/content; tar -C $d -cf {} .; \
         rm -r $d",
        path.display()
    );
    assert!(Command::new("sh").args(["-ec", &script]).status().unwrap().success());
}

/// The layers of all images, and how many of the images have several.
fn layers(engine: &Instance) -> (BTreeSet<String>, usize) {
    let ids = engine.hyper(&["images", "-aq", "--no-trunc"]).run().ok().out();
    let ids: BTreeSet<&str> = ids.split_whitespace().collect();
    let mut layers = BTreeSet::new();
    let mut several = 0;
    for id in ids {
        let found = engine.hyper(&["image", "inspect", "--format", "{{json .RootFS.Layers}}", id]).run().ok();
        let found: Vec<String> = serde_json::from_slice(&found.stdout).unwrap();
        several += usize::from(found.len() > 1);
        layers.extend(found);
    }
    (layers, several)
}

/// What the images' directory has, and the images know nothing of.
#[track_caller]
fn assert_nothing_is_orphaned(engine: &Instance, what: &str) {
    let (layers, several) = layers(engine);
    let files = leftovers::files(&engine.root().join("images"));
    let count = |begin: &str, end: &str| {
        files.iter().filter(|file| file.starts_with(begin) && file.ends_with(end)).count()
    };
    assert_eq!(count("layers/", ".erofs"), layers.len(), "{what}: {files:?}, {layers:?}");
    assert_eq!(count("layers/", ".tarmap"), layers.len(), "{what}: {files:?}, {layers:?}");
    assert!(count("merged/", ".erofs") <= several, "{what}: {files:?}");
    assert_eq!((count("tmp/", ""), count("ingest/sha256/", "")), (0, 0), "{what}: {files:?}");
}

fn removing_images_survives_a_kill_at_any_moment() {
    let engine = Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() });
    let hyper = |arguments: &[&str]| engine.hyper(arguments).run();
    let path = |name: &str| engine.directory().join(name);
    // One image that a container has, one of several layers that shares one with others.
    tar(&path("used.tar"), "used");
    hyper(&["import", path("used.tar").to_str().unwrap(), "used"]).ok();
    hyper(&["create", "--name", "user", "used", "/bin/sh", "-c", "read line </content; echo $line"]).ok();
    hyper(&["run", "--name", "changed", "busybox:latest", "sh", "-c", "echo more >/more"]).ok();
    hyper(&["commit", "changed", "several"]).ok();
    hyper(&["rm", "changed"]).ok();
    hyper(&["save", "-o", path("several.tar").to_str().unwrap(), "several"]).ok();
    for number in 0..3 {
        tar(&path(&format!("{number}.tar")), &format!("of {number}"));
    }
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    let mut random = u64::from(seed) | 1;
    println!("seed {random}");
    for round in 0..KILLS {
        // Xorshift (Marsaglia, 2003).
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        for number in 0..3 {
            hyper(&["import", path(&format!("{number}.tar")).to_str().unwrap(), &format!("image-{number}")])
                .ok();
        }
        hyper(&["load", "-q", "-i", path("several.tar").to_str().unwrap()]).ok();
        let mut removing = match round % 2 {
            0 => engine.hyper(&["image", "prune", "-a", "-f"]).spawn(),
            _ => engine.hyper(&["rmi", "-f", "image-0", "several", "image-1", "used", "image-2"]).spawn(),
        };
        std::thread::sleep(Duration::from_micros(random % 60_000));
        engine.kill_daemon();
        removing.wait_within(Duration::from_secs(60));
        engine.start_daemon();
        let what = format!("round {round} of seed {seed}");
        assert_nothing_is_orphaned(&engine, &what);
        let image = hyper(&["inspect", "--format", "{{.Image}}", "user"]).ok().out();
        hyper(&["image", "inspect", image.trim()]).ok();
    }
    hyper(&["image", "prune", "-a", "-f"]).ok();
    assert_nothing_is_orphaned(&engine, "at the end");
    hyper(&["start", "-a", "user"]).ok().prints("used\n");
    hyper(&["rm", "user"]).ok();
    engine.settles();
    assert_eq!(engine.finish(), Vec::<String>::new());
}
