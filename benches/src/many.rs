//! Many at once and many at a time: a pod of three, twenty starts together, large images, a hundred idle pods.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use hyper_e2e::{Instance, Options};

use crate::docker::Docker;
use crate::podman::Podman;
use crate::table::{Table, median};

/// Samples of each side.
const RUNS: usize = 20;

/// Containers started at the same moment, and how often.
const AT_ONCE: usize = 20;
const ROUNDS: usize = 3;

/// Idle pods, and samples at either end.
const IDLE: usize = 100;
const ENDS: usize = 5;

/// Bytes of the large image.
const LARGE: u64 = 5 << 30;

/// The image of many layers, among the test images.
const LAYERS: &str = "layers:100";

/// How long the slowest of them may take.
const LIMIT: Duration = Duration::from_secs(300);

/// A pod of three containers, all running, against the same in podman.
pub fn pod(table: &mut Table) {
    let instance = ready_instance();
    let podman = Podman::new(&instance);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=RUNS {
        instance.wait_for_spares(2);
        let took = (pod_of_three(&instance), podman.pod(&instance));
        // The first round warms the caches.
        if round > 0 {
            ours.push(took.0);
            theirs.push(took.1);
        }
    }
    podman.remove(&instance);
    table.times("a pod of 3 containers, all running", &ours, ("podman", &theirs), 0.6);
    table.time("the same", median(&ours), Duration::from_millis(350));
}

/// An engine that keeps two VMs ready.
pub fn ready_instance() -> Instance {
    let env = [("HYPER_POOL", "2"), ("HYPER_TEMPLATES", "")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let instance = Instance::start(Options { images: vec!["busybox:latest"], env, ..Options::default() });
    instance.hyper(&["run", "--rm", "busybox:latest", "true"]).run().ok();
    instance
}

fn pod_of_three(instance: &Instance) -> Duration {
    let names = [0, 1, 2].map(|_| instance.name("three"));
    let start = Instant::now();
    for name in &names {
        let words = ["run", "-d", "--pod", "three", "--name", name, "busybox:latest", "sleep", "600"];
        instance.hyper(&words).run().exits(0);
    }
    let took = start.elapsed();
    instance.hyper(&["rm", "-f", &names[0], &names[1], &names[2]]).run().ok();
    took
}

/// Twenty starts at once, from the first to the end of the last.
pub fn at_once(instance: &Instance, docker: Option<&Docker>, table: &mut Table) {
    let ours = format!("{} run --rm busybox:latest true", instance.line(hyper_e2e::Cli::Hyper));
    let all = |line: &str| {
        let script = format!(
            "for i in $(seq {AT_ONCE}); do {line} & p=\"$p $!\"; done; for i in $p; do wait $i || exit 1; done"
        );
        let start = Instant::now();
        instance.sh(&script).timeout(LIMIT).run().exits(0);
        start.elapsed()
    };
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        mine.push(all(&ours));
        theirs.extend(docker.map(|docker| all(&docker.line())));
    }
    let measure = format!("{AT_ONCE} starts at once, all of them");
    match docker {
        Some(_) => table.times(&measure, &mine, ("dockerd", &theirs), 1.5),
        None => table.alone(&measure, &mine),
    }
}

/// Starts from images of 5 GB and of 100 layers against those from one of 5 MB.
pub fn large_images(instance: &Instance, table: &mut Table) {
    instance.fetch(LAYERS);
    import_large(instance);
    let mut samples: [Vec<Duration>; 3] = Default::default();
    for round in 0..=RUNS {
        let took = ["busybox:latest", "large:1", LAYERS].map(|image| {
            let start = Instant::now();
            instance.hyper(&["run", "--rm", image, "/bin/busybox", "true"]).run().exits(0);
            start.elapsed()
        });
        if round > 0 {
            samples.iter_mut().zip(took).for_each(|(samples, took)| samples.push(took));
        }
    }
    instance.hyper(&["rmi", "large:1"]).run().ok();
    let [small, large, layers] = &samples;
    table.times("start from an image of 5 GB", large, ("one of 1 MB", small), 1.1);
    table.times("start from an image of 100 layers", layers, ("one of 1 MB", small), 1.1);
}

/// An image of busybox and files of 5 GB, none of them a hole.
fn import_large(instance: &Instance) {
    let work = tempfile::tempdir_in(instance.directory()).unwrap();
    let files = work.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let block: Vec<u8> =
        (0..1 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect();
    for index in 0..5 {
        let mut file = File::create(files.join(format!("file{index}"))).unwrap();
        for _ in 0..LARGE / 5 / block.len() as u64 {
            file.write_all(&block).unwrap();
        }
    }
    let line = format!(
        "cd {0}; mkdir -p files/bin; cp $(command -v busybox) files/bin/; ln -s busybox files/bin/true; tar -C files -cf - . | {1} import - large:1",
        work.path().display(),
        instance.line(hyper_e2e::Cli::Hyper),
    );
    instance.sh(&line).timeout(LIMIT).run().ok();
}

/// A hundred idle pods: the last starts against the first.
pub fn idle(instance: &Instance, table: &mut Table) {
    let names: Vec<String> = (0..IDLE).map(|_| instance.name("idle")).collect();
    let took: Vec<Duration> = names
        .iter()
        .map(|name| {
            let start = Instant::now();
            instance.hyper(&["run", "-d", "--name", name, "busybox:latest", "sleep", "3600"]).run().exits(0);
            start.elapsed()
        })
        .collect();
    for names in names.chunks(10) {
        let words: Vec<&str> = ["rm", "-f"].into_iter().chain(names.iter().map(String::as_str)).collect();
        instance.hyper(&words).timeout(LIMIT).run().ok();
    }
    let measure = format!("of {IDLE} idle pods, the last {ENDS} starts");
    table.times(&measure, &took[IDLE - ENDS..], ("the first", &took[..ENDS]), 1.3);
}
