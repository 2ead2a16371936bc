//! Between the guest's channels and this side: copying, and knowing when it is over.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper_link::channel::{ChannelError, Receiver};
use hyper_protocol::agent::{Output, Reply, Request, Target};
use tokio::time::{Instant, sleep};

use super::fanout::Fanout;
use super::input::Input;
use crate::guest::Guest;

/// How long output may stay open after its process has ended, because a child in the background has it (docker's
/// `StreamConfig.Wait` in `daemon/monitor.go`). Time in which a client holds the output up does not count.
const OPEN_AFTER_EXIT: Duration = Duration::from_secs(2);
/// How long a client that takes nothing at all may hold up the news that a process has ended.
const STUCK_AFTER_EXIT: Duration = Duration::from_secs(10);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Copies one output of a process to where it goes until it ends or the guest is gone, over as many links as it
/// takes. `first` is called with the first bytes of the process.
pub async fn pump_output(
    guest: &Guest,
    target: &Target,
    output: Output,
    fanout: Arc<Fanout>,
    first: impl Fn() + Clone + Send,
) {
    let mut receiver = Receiver::new();
    loop {
        let request = Request::ReadOutput { target: target.clone(), output, offset: receiver.offset() };
        let stream = match guest.open_channel(&request).await {
            Ok(Some((Reply::Done, stream))) => stream,
            Ok(Some((reply, _))) => {
                tracing::error!(?reply, "the guest does not give output");
                break;
            }
            Ok(None) => continue,
            Err(error) => {
                tracing::debug!(%error, ?target, ?output, "output ends");
                break;
            }
        };
        let (fanout, first) = (fanout.clone(), first.clone());
        let ended = receiver.run(stream, async move |bytes: &[u8]| {
            if fanout.write(output, bytes).await {
                first();
            }
            Ok(())
        });
        match ended.await {
            Ok(()) => break,
            Err(ChannelError::Io(_)) => {}
            Err(error) => {
                tracing::error!(%error, ?target, ?output, "output is broken off");
                break;
            }
        }
    }
    fanout.end(output);
}

/// Copies input to a process until it ends or the guest is gone.
pub async fn pump_input(guest: &Guest, target: &Target, input: &Input) {
    loop {
        match guest.open_channel(&Request::WriteInput(target.clone())).await {
            Ok(Some((Reply::Offset(offset), stream))) => match input.sender().serve(stream, offset).await {
                Ok(()) => break,
                Err(ChannelError::Io(_)) => {}
                Err(error) => {
                    tracing::debug!(%error, ?target, "input ends");
                    break;
                }
            },
            Ok(Some((reply, _))) => {
                tracing::error!(?reply, "the guest does not take input");
                break;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, ?target, "input ends");
                break;
            }
        }
    }
    input.finish();
}

/// Waits for the outputs of a process that has ended, as long as that makes sense. `false` when they are still open.
pub async fn drain(outputs: impl Future<Output = ()>, fanout: &Fanout) -> bool {
    let mut open = Duration::ZERO;
    let mut stuck = Duration::ZERO;
    let mut taken = fanout.taken();
    tokio::pin!(outputs);
    loop {
        let before = Instant::now();
        tokio::select! {
            biased;
            () = &mut outputs => return true,
            () = sleep(LOOK) => {}
        }
        let passed = before.elapsed();
        let now = fanout.taken();
        if !fanout.is_waiting() {
            open += passed;
        } else if now == taken {
            stuck += passed;
        } else {
            stuck = Duration::ZERO;
        }
        taken = now;
        if open >= OPEN_AFTER_EXIT || stuck >= STUCK_AFTER_EXIT {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdio::Interest;

    #[tokio::test(start_paused = true)]
    async fn background_child_holds_the_end_for_two_seconds() {
        let start = Instant::now();
        assert!(!drain(std::future::pending(), &Fanout::new(None)).await);
        assert!(start.elapsed() >= OPEN_AFTER_EXIT && start.elapsed() < OPEN_AFTER_EXIT * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_client_is_waited_for_and_a_stuck_one_not_for_ever() {
        let fanout = Arc::new(Fanout::new(None));
        let mut pieces = fanout.attach(Interest { stdout: true, stderr: true }).unwrap();
        let writing = |count: usize| {
            let fanout = fanout.clone();
            async move {
                for _ in 0..count {
                    fanout.write(Output::Stdout, b"x").await;
                }
            }
        };
        let reading = tokio::spawn(async move {
            for _ in 0..20 {
                sleep(Duration::from_secs(1)).await;
                pieces.recv().await.unwrap();
            }
            pieces
        });
        assert!(drain(writing(20), &fanout).await, "twenty pieces in twenty seconds are progress");
        let _kept = reading.await.unwrap();
        let start = Instant::now();
        assert!(!drain(writing(20), &fanout).await);
        assert!(start.elapsed() >= STUCK_AFTER_EXIT && start.elapsed() < STUCK_AFTER_EXIT * 2);
    }
}
