//! The user's terminal: raw mode that is undone on every way out, and its size.

use std::io::{self, IsTerminal};
use std::sync::Mutex;

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};

/// The terminal's settings from before raw mode; present only while raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Keeps standard input's terminal raw; dropped, it restores the settings from before.
pub struct RawMode(());

impl RawMode {
    /// Switches standard input's terminal to raw mode.
    pub fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        if let Ok(mut slot) = BEFORE.lock() {
            slot.get_or_insert(before);
        }
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

/// What Ctrl-C types.
pub const INTERRUPT: char = '\u{3}';

/// Keeps standard input's terminal from showing what is typed; dropped, it shows it again. [`INTERRUPT`] ends a line
/// meanwhile and no process, which would leave the terminal silent.
pub struct Silence(());

impl Silence {
    /// Switches the echo off.
    pub fn enter() -> Self {
        if let Ok(before) = tcgetattr(io::stdin()) {
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
            silent.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT as u8;
            if let Ok(mut slot) = BEFORE.lock() {
                slot.get_or_insert(before);
            }
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &silent);
        }
        Self(())
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        restore_terminal();
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore_terminal();
    }
}

/// Undoes raw mode if it is on; for exits and panics that drop nothing.
pub fn restore_terminal() {
    // A panic while the lock is held must not end in a second one.
    let Ok(mut slot) = BEFORE.try_lock() else { return };
    if let Some(before) = slot.take() {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// Standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Standard output is a terminal.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Standard error is a terminal.
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Rows and columns of standard output's terminal, when it has a size.
pub fn window_size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
