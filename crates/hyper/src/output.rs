//! Writing to standard output: a reader that went away ends the command quietly.

use std::io::{self, Write};

use crate::error::{EXIT_BROKEN_PIPE, Failure};

/// Writes `bytes` to standard output at once.
///
/// # Errors
/// A silent failure with exit code 141 when the reader is gone, a spoken one otherwise.
pub fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| stdout_failure(&error))
}

/// Writes `text` to standard output at once; errors as [`write_bytes`].
pub fn write(text: &str) -> Result<(), Failure> {
    write_bytes(text.as_bytes())
}

/// Writes `text` and a newline to standard output; errors as [`write_bytes`].
pub fn line(text: &str) -> Result<(), Failure> {
    write_bytes(format!("{text}\n").as_bytes())
}

/// Writes `text` to standard error; nobody can be told when that fails.
pub fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// The failure that a standard-output error means.
pub fn stdout_failure(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::silent(EXIT_BROKEN_PIPE)
    } else {
        Failure::new(format!("cannot write to standard output: {error}"))
    }
}

/// Writes bytes to standard error; nobody can be told when that fails.
pub fn complain_bytes(bytes: &[u8]) {
    let _ = io::stderr().lock().write_all(bytes);
}
