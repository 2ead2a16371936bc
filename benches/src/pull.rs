//! Pulling and preparing a 1 GB image against podman.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper_e2e::registry::Registry;
use hyper_e2e::{Instance, layout};
use serde_json::json;

use crate::table::Table;

/// Pulls of each side.
const RUNS: usize = 3;

/// Port of the registry that has the image; the instance's own is on 5000, and cannot be written to.
const PORT: u16 = 5001;
/// The image.
const IMAGE: &str = "localhost:5001/big:1";

/// Layers of the image, and bytes of each before compression.
const LAYERS: u64 = 5;
const LAYER_SIZE: u64 = 200 << 20;

/// Measures a pull from a local registry into an empty store, ours and podman's in turn.
pub fn measure(instance: &Instance, table: &mut Table) {
    let work = tempfile::tempdir_in(instance.directory()).unwrap();
    let storage = work.path().join("registry");
    fs::create_dir(&storage).unwrap();
    let _registry = Registry::start(&instance.lab.engine, &storage, work.path(), PORT, None, false);
    publish(instance, work.path());
    let (mut ours, mut podman) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        ours.push(pull_ours(instance));
        podman.push(pull_podman(instance, &work.path().join(format!("podman{run}"))));
    }
    table.times("pull of a 1 GB image", &ours, ("podman pull", &podman), 1.0);
}

fn pull_ours(instance: &Instance) -> Duration {
    let start = Instant::now();
    instance.hyper(&["pull", "-q", IMAGE]).timeout(Duration::from_secs(600)).run().ok();
    let took = start.elapsed();
    instance.hyper(&["rmi", IMAGE]).run().ok();
    took
}

fn pull_podman(instance: &Instance, directory: &Path) -> Duration {
    let storage = format!(
        "--root {0}/root --runroot {0}/run --storage-driver overlay --cgroup-manager cgroupfs",
        directory.display()
    );
    let pull = format!("podman {storage} pull -q --tls-verify=false {IMAGE}");
    let start = Instant::now();
    instance.sh(&pull).timeout(Duration::from_secs(600)).run().ok();
    let took = start.elapsed();
    instance.sh(&format!("podman {storage} rmi -af && rm -rf {}", directory.display())).run().ok();
    took
}

/// Makes the image of files of this machine's `/usr`, which compress as programs and libraries do, and
/// pushes it to the registry.
fn publish(instance: &Instance, work: &Path) {
    let mut files = Vec::new();
    collect(Path::new("/usr"), &mut files);
    let mut files = files.into_iter();
    let tars: Vec<PathBuf> = (0..LAYERS)
        .map(|layer| {
            let tar = work.join(format!("{layer}.tar"));
            let list = work.join(format!("{layer}.list"));
            let mut names = File::create(&list).unwrap();
            let mut size = 0;
            while size < LAYER_SIZE {
                let (path, length) = files.next().expect("/usr has more than 1 GB");
                writeln!(names, "{}", path.display()).unwrap();
                size += length;
            }
            let words = format!("tar -C / -cf {} -T {}", tar.display(), list.display());
            instance.sh(&words).timeout(Duration::from_secs(120)).run().ok();
            tar
        })
        .collect();
    let image = work.join("layout");
    layout::write(&image, &tars, &json!({"Cmd": ["true"]}));
    tars.iter().for_each(|tar| fs::remove_file(tar).unwrap());
    let push = format!(
        "skopeo copy -q --insecure-policy --dest-tls-verify=false oci:{}:latest docker://{IMAGE}",
        image.display()
    );
    instance.sh(&push).timeout(Duration::from_secs(300)).run().ok();
}

/// Plain files below `directory` with their sizes, in the order of their names.
fn collect(directory: &Path, files: &mut Vec<(PathBuf, u64)>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            collect(&path, files);
        } else if metadata.is_file() && !path.display().to_string().contains('\n') {
            files.push((path.strip_prefix("/").unwrap().to_path_buf(), metadata.len()));
        }
    }
}
