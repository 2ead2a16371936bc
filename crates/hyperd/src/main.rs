//! The daemon: configuration and the Docker Engine API over the engine.

fn main() {}
