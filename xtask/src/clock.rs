//! Says on standard error what is being done and how long it took.

use std::time::Instant;

use anyhow::Result;

/// Does one step of the work, naming it before and giving its seconds afterwards.
///
/// # Errors
/// Those of the step.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("xtask: {name} …");
    let start = Instant::now();
    let result = work();
    let outcome = if result.is_ok() { "done" } else { "failed" };
    eprintln!("xtask: {name}: {outcome} in {:.1} s", start.elapsed().as_secs_f64());
    result
}
