//! Waiting for something that the kernel tells nobody about.

use std::time::{Duration, Instant};

/// Asks until `done` or until `patience` is over, first at once, then with growing pauses of at most 1 ms at the
/// beginning and 10 ms later; tells whether it is done.
pub(crate) async fn until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if done() {
            return true;
        }
        if begin.elapsed() >= patience {
            return false;
        }
        tokio::time::sleep(pause).await;
        let longest = if begin.elapsed() < Duration::from_millis(100) { 1 } else { 10 };
        pause = (pause * 2).min(Duration::from_millis(longest));
    }
}
