//! Safe wrappers over system calls, one module per kernel facility.

pub mod tap;
