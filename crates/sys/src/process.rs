//! Settings of processes that are started by the standard library.
