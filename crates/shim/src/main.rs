//! One host process per pod, serving containerd's shim v2 API.

fn main() {}
