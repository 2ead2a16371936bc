//! PID 1 of the guest: mounts, network, containers, processes and their stdio.

fn main() {}
