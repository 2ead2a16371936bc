//! Signals to us become signals to the container; a changed window becomes its terminal's size.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::terminal::window_size;

/// The signals passed on: all that may be caught and mean something to a program.
///
/// Numbers are Linux's (`signal(7)`). Left out are those about ourselves: PIPE (13), CHLD (17), stops of our own
/// terminal (21, 22), URG (23) and WINCH (28).
const FORWARDED: [(i32, &str); 16] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (5, "TRAP"),
    (10, "USR1"),
    (12, "USR2"),
    (14, "ALRM"),
    (15, "TERM"),
    (16, "STKFLT"),
    (18, "CONT"),
    (20, "TSTP"),
    (24, "XCPU"),
    (25, "XFSZ"),
    (26, "VTALRM"),
    (29, "IO"),
    (30, "PWR"),
];

/// Signals caught instead of acting on us.
pub struct Signals {
    arrived: UnboundedReceiver<ForwardedSignal>,
}

/// A caught signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardedSignal {
    /// Linux's number.
    pub number: i32,
    /// Its name without `SIG`.
    pub name: &'static str,
}

impl ForwardedSignal {
    /// The user wants an end.
    pub fn asks_for_end(self) -> bool {
        matches!(self.name, "HUP" | "INT" | "QUIT" | "TERM")
    }
}

impl Signals {
    /// Catches all forwarded signals from now until the process ends.
    pub fn catch() -> Self {
        let (sender, arrived) = unbounded_channel();
        for (number, name) in FORWARDED {
            // A signal that cannot be caught here keeps its default action.
            if let Ok(mut caught) = signal(SignalKind::from_raw(number)) {
                let sender = sender.clone();
                tokio::spawn(async move {
                    while caught.recv().await.is_some()
                        && sender.send(ForwardedSignal { number, name }).is_ok()
                    {}
                });
            }
        }
        Self { arrived }
    }

    /// The next signal.
    pub async fn next(&mut self) -> ForwardedSignal {
        match self.arrived.recv().await {
            Some(signal) => signal,
            // Nothing could be caught.
            None => std::future::pending().await,
        }
    }

    /// The next signal that asks for an end; the others are dropped.
    pub async fn next_end(&mut self) -> ForwardedSignal {
        loop {
            let signal = self.next().await;
            if signal.asks_for_end() {
                return signal;
            }
        }
    }
}

/// Calls `resize` with rows and columns now and at every change of the window.
pub async fn resize_on_change<F, Fut>(resize: F)
where
    F: Fn(u16, u16) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut changes: Option<Signal> = signal(SignalKind::window_change()).ok();
    loop {
        if let Some((rows, columns)) = window_size() {
            resize(rows, columns).await;
        }
        match &mut changes {
            Some(changes) => changes.recv().await,
            None => std::future::pending().await,
        };
    }
}
