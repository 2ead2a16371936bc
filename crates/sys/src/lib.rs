//! Safe wrappers over system calls, one module per kernel facility.
