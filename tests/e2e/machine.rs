//! What the engine says about itself and the machine.

use std::process::Command;

use hyper_e2e::command::wait_until;
use hyper_e2e::{Instance, Options};

use crate::case_list;
use crate::session::{Case, Session};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = case_list![Both: info_and_version_answer].to_vec();
    cases.extend(case_list![Hyper: doctor_and_info_say_which_hypervisor_and_why]);
    cases.extend(case_list![Own:
        the_first_command_starts_the_daemon_and_many_at_once_start_one,
        engines_live_side_by_side,
        an_unusable_kvm_is_no_obstacle,
        without_qemu_the_error_names_it,
        what_a_kept_container_writes_is_cached_once,
    ]);
    cases
}

fn info_and_version_answer(s: &Session) {
    let info = s.run(&["info"]).ok().out();
    assert!(info.contains("Containers:") && info.contains("Images:"), "{info}");
    let version = s.run(&["version"]).ok().out();
    assert!(
        version.contains("Client") && version.contains("Server") && version.contains("API version"),
        "{version}"
    );
}

fn doctor_and_info_say_which_hypervisor_and_why(s: &Session) {
    for command in ["doctor", "info"] {
        let output = s.run(&[command]).run_text();
        let lower = output.to_lowercase();
        assert!(lower.contains("qemu") && (lower.contains("kvm") || lower.contains("tcg")), "{output}");
    }
}

/// Output of a command whose exit status says how well the machine is.
trait RunText {
    fn run_text(self) -> String;
}

impl RunText for hyper_e2e::Output {
    fn run_text(self) -> String {
        assert!(self.code == 0 || self.code == 1, "{self}");
        self.out() + &self.err()
    }
}

fn what_a_kept_container_writes_is_cached_once() {
    let engine = Instance::start(Options { images: vec!["busybox:latest"], ..Options::default() });
    let write = "dd if=/dev/zero of=/file bs=1M count=64 conv=fsync 2>/dev/null; ls -s /file";
    let cached = |name: &str, more: &[&str]| {
        let args = [&["run", "-d", "--name", name], more, &["busybox:latest", "sh"], &["-c"]].concat();
        let script = format!("{write}; sleep 1000");
        let id = engine.hyper(&[args.as_slice(), &[&script]].concat()).run().ok().out();
        wait_until("the file is written", || {
            engine.hyper(&["logs", name]).run().ok().out().contains("65536 /file")
        });
        let layer = engine.root().join("containers").join(id.trim()).join("rw.ext4");
        let output = Command::new("fincore").args(["-b", "-n", "-o", "RES"]).arg(layer).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let bytes: u64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        engine.hyper(&["rm", "-f", name]).run().ok();
        bytes
    };
    // By the guest alone.
    let kept = cached("kept", &[]);
    assert!(kept < 8 << 20, "{kept} bytes of the layer are in the host's cache");
    // What is gone with its container may stay there, so that no disk need have it.
    let passing = cached("passing", &["--rm"]);
    assert!(passing > 32 << 20, "{passing}");
    assert_eq!(engine.finish(), Vec::<String>::new());
}

fn the_first_command_starts_the_daemon_and_many_at_once_start_one() {
    let instance = Instance::start(Options::default());
    assert_eq!(instance.daemon_pid(), None);
    let mut running: Vec<_> = (0..4).map(|_| instance.hyper(&["ps"]).spawn()).collect();
    for command in &mut running {
        command.wait().ok();
    }
    let root = instance.root().display().to_string();
    let daemons = instance.processes();
    let daemons: Vec<_> = daemons
        .iter()
        .filter(|p| p.command.split(' ').next().is_some_and(|p| p.ends_with("hyperd")))
        .collect();
    assert_eq!(daemons.len(), 1, "of {root}: {daemons:?}");
    assert_eq!(instance.finish(), Vec::<String>::new());
}

fn engines_live_side_by_side() {
    let images = vec!["busybox:latest"];
    let first = Instance::start(Options { images: images.clone(), ..Options::default() });
    let second = Instance::start(Options { images, ..Options::default() });
    for instance in [&first, &second] {
        instance.hyper(&["run", "-d", "--name", "same", "busybox:latest", "sleep", "1000"]).run().ok();
    }
    first.hyper(&["rm", "-f", "same"]).run().ok();
    second.hyper(&["exec", "same", "echo", "untouched"]).run().ok().prints("untouched\n");
    assert_eq!(first.finish(), Vec::<String>::new());
    assert_eq!(second.finish(), Vec::<String>::new());
}

fn an_unusable_kvm_is_no_obstacle() {
    // A /dev/kvm that opens and does nothing, as on hosts with a broken one.
    let prepare = "[ ! -e /dev/kvm ] || mount --bind /dev/null /dev/kvm".to_owned();
    let instance = Instance::start(Options {
        images: vec!["busybox:latest"],
        prepare: Some(prepare),
        ..Options::default()
    });
    instance
        .hyper(&["run", "--rm", "busybox:latest", "echo", "still works"])
        .run()
        .ok()
        .prints("still works\n");
    assert!(instance.hyper(&["doctor"]).run().run_text().to_lowercase().contains("tcg"));
    assert_eq!(instance.finish(), Vec::<String>::new());
}

fn without_qemu_the_error_names_it() {
    let programs = tempfile::tempdir().unwrap();
    for directory in ["/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let name = entry.file_name();
            if !name.to_string_lossy().starts_with("qemu") {
                let _ = std::os::unix::fs::symlink(entry.path(), programs.path().join(name));
            }
        }
    }
    let path = format!("{}:/usr/local/bin", programs.path().display());
    let instance = Instance::start(Options {
        images: vec!["busybox:latest"],
        env: vec![("PATH".to_owned(), path)],
        ..Options::default()
    });
    let output = instance.hyper(&["run", "--rm", "busybox:latest", "true"]).run().exits(125);
    assert!(output.err().contains("qemu-system-x86"), "{output}");
    assert!(instance.hyper(&["doctor"]).run().run_text().contains("qemu-system-x86"));
    instance.settles();
    assert_eq!(instance.finish(), Vec::<String>::new());
}
