//! What a pod costs in memory, and the guest in bytes.

use std::fs;

use hyper_e2e::Instance;

use crate::table::{Table, mib};

/// Measures an idle pod.
pub fn measure(instance: &Instance, table: &mut Table) {
    let name = instance.name("idle");
    instance.hyper(&["run", "-d", "--name", &name, "busybox:latest", "sleep", "600"]).run().ok();
    let processes = instance.pod_processes();
    let shim =
        processes.iter().find(|process| process.command.contains("containerd-shim")).expect("a shim runs");
    table.bytes("shim, PSS", pss(shim.pid).unwrap(), 8 << 20);
    let qemu = processes.iter().find(|process| process.command.contains("qemu-system")).expect("a VMM runs");
    let vmm = pss(qemu.pid).unwrap();
    let pods = instance.hyper(&["pod", "ls", "-q"]).run().ok().out();
    let show = ["pod", "inspect", "--format", "{{.AgentMemory}}", pods.trim()];
    let agent = instance.hyper(&show).run().ok().out();
    table.bytes("agent, RSS", agent.trim().parse().expect("a number of bytes"), 6 << 20);
    println!("| of one idle pod: QEMU, PSS | {:.1} MiB | | | |", mib(vmm));
    further(instance, table);
    let guest = instance.binaries().directory().join("guest");
    let initramfs = fs::metadata(guest.join("initramfs.cpio")).unwrap().len();
    table.bytes("initramfs", initramfs, 4 << 20);
    let kernel = fs::metadata(guest.join("vmlinux")).unwrap().len();
    table.bytes("guest kernel", kernel, 32 << 20);
    instance.hyper(&["rm", "-f", &name]).run().ok();
}

/// What all processes of pods take more when there is one more, and what the memory of the youngest is.
fn further(instance: &Instance, table: &mut Table) {
    let total =
        || -> u64 { instance.pod_processes().iter().filter_map(|process| pss(process.pid).ok()).sum() };
    let names = [0, 1].map(|_| instance.name("further"));
    let totals = names.each_ref().map(|name| {
        instance.hyper(&["run", "-d", "--name", name, "busybox:latest", "sleep", "600"]).run().ok();
        std::thread::sleep(std::time::Duration::from_secs(2));
        total()
    });
    table.bytes("each further idle pod, PSS of its processes", totals[1] - totals[0], 45 << 20);
    let processes = instance.pod_processes();
    let qemus = processes.iter().filter(|process| process.command.contains("qemu-system"));
    let youngest = qemus.map(|process| process.pid).max().expect("a VMM runs");
    for (name, bytes) in parts(&fs::read_to_string(format!("/proc/{youngest}/smaps")).unwrap()) {
        println!("| of the last one: {name} | {:.1} MiB | | | |", mib(bytes));
    }
    instance.hyper(&["rm", "-f", &names[0], &names[1]]).run().ok();
}

/// The parts of a QEMU's proportional memory, by its `smaps`.
fn parts(smaps: &str) -> [(&'static str, u64); 3] {
    let mut parts = [("what TCG has translated", 0), ("guest memory", 0), ("the rest of QEMU", 0)];
    let mut part = 2;
    for line in smaps.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            // Nothing else is executable without being a file.
            [_, permissions, _, _, _] if permissions.contains('x') => part = 0,
            [_, _, _, _, _, path @ ..] if path.concat().ends_with("/memory") => part = 1,
            [range, _, _, _, _, ..] if range.contains('-') => part = 2,
            ["Pss:", kib, "kB"] => parts[part].1 += kib.parse::<u64>().expect("a number") << 10,
            _ => {}
        }
    }
    parts
}

/// Proportional memory of a process, in bytes.
fn pss(pid: i32) -> std::io::Result<u64> {
    fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map(|text| field(&text, "Pss:"))
}

/// The value of a `Name: N kB` line, in bytes.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).expect("the field is there");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    kib << 10
}
