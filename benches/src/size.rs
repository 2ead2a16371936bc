//! What a pod costs in memory, and the guest in bytes.

use std::fs;

use hyper_e2e::Instance;

use crate::table::Table;

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
    println!("| of one idle pod: QEMU, PSS | {:.1} MiB | | | |", vmm as f64 / f64::from(1 << 20));
    table.bytes("each further idle pod, PSS of its processes", further(instance), 45 << 20);
    let guest = instance.binaries().directory().join("guest");
    let initramfs = fs::metadata(guest.join("initramfs.cpio")).unwrap().len();
    table.bytes("initramfs", initramfs, 4 << 20);
    let kernel = fs::metadata(guest.join("vmlinux")).unwrap().len();
    table.bytes("guest kernel", kernel, 32 << 20);
    instance.hyper(&["rm", "-f", &name]).run().ok();
}

/// What all processes of pods take more when there is one more.
fn further(instance: &Instance) -> u64 {
    let total =
        || -> u64 { instance.pod_processes().iter().filter_map(|process| pss(process.pid).ok()).sum() };
    let names = [0, 1].map(|_| instance.name("further"));
    let totals = names.each_ref().map(|name| {
        instance.hyper(&["run", "-d", "--name", name, "busybox:latest", "sleep", "600"]).run().ok();
        std::thread::sleep(std::time::Duration::from_secs(2));
        total()
    });
    instance.hyper(&["rm", "-f", &names[0], &names[1]]).run().ok();
    totals[1] - totals[0]
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
