//! How a command fails: what the user reads and the exit code his shell gets.

use std::error::Error;
use std::fmt::Write as _;

use crate::client::ApiError;
use crate::format::harmless;

/// Exit code of a daemon's or our own failure outside `run`, as docker's.
pub const EXIT_FAILURE: i32 = 1;
/// Exit code of `run` and of a wrong flag, as docker's.
pub const EXIT_DAEMON: i32 = 125;
/// Exit code of a command that cannot be executed, as docker's and the shell's.
pub const EXIT_NOT_EXECUTABLE: i32 = 126;
/// Exit code of a command that was not found, as docker's and the shell's.
pub const EXIT_NOT_FOUND: i32 = 127;
/// Exit code of a writer whose reader went away: 128 + SIGPIPE.
pub const EXIT_BROKEN_PIPE: i32 = 141;

/// The result of a command: the exit code, or a failure to print.
pub type Outcome = Result<i32, Failure>;

/// A failed command.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the process exits with.
    pub code: i32,
    /// `error:` lines, outermost first; empty when everything has been said already.
    pub errors: Vec<String>,
    /// The next step, printed after `hint:`.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with one line and exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: EXIT_FAILURE, errors: vec![message.into()], hint: None }
    }

    /// A failure that prints nothing more.
    pub fn silent(code: i32) -> Self {
        Self { code, errors: Vec::new(), hint: None }
    }

    /// A failure from an error and the chain of its sources, exit code 1.
    pub fn from_error(error: &(dyn Error + 'static)) -> Self {
        let mut errors = vec![error.to_string()];
        let mut source = error.source();
        while let Some(cause) = source {
            errors.push(cause.to_string());
            source = cause.source();
        }
        Self { code: EXIT_FAILURE, errors, hint: None }
    }

    /// The same failure with another exit code.
    pub fn with_code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    /// The same failure with a next step.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The text for standard error; empty for a silent failure.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (depth, error) in self.errors.iter().enumerate() {
            let lead = if depth == 0 { "error" } else { "  caused by" };
            let _ = writeln!(text, "{lead}: {}", harmless(error));
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "hint: {}", harmless(hint));
        }
        text
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let mut failure = Self::from_error(&error);
        // Our daemon's own next step stands at the end of its message.
        if let Some(told) = failure.errors.first_mut()
            && let Some((message, hint)) =
                told.strip_suffix(')').and_then(|text| text.rsplit_once(" (hint: "))
        {
            let (message, hint) = (message.to_owned(), hint.to_owned());
            *told = message;
            return failure.with_hint(hint);
        }
        failure.hint = error.hint();
        failure
    }
}

/// The exit code of `run` and `exec` for a container that could not be made or started.
///
/// The daemon has no field for the reason; docker's CLI reads it from the text, and so do we.
pub fn start_failure_code(message: &str) -> i32 {
    const NOT_FOUND: [&str; 3] =
        ["executable file not found", "no such file or directory", "system cannot find the file specified"];
    const NOT_EXECUTABLE: [&str; 2] = ["permission denied", "is a directory"];
    if NOT_FOUND.iter().any(|text| message.contains(text)) {
        EXIT_NOT_FOUND
    } else if NOT_EXECUTABLE.iter().any(|text| message.contains(text)) {
        EXIT_NOT_EXECUTABLE
    } else {
        EXIT_DAEMON
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_failures_map_to_the_shells_codes() {
        let table = [
            ("exec: \"nosuch\": executable file not found in $PATH: unknown", 127),
            ("exec: \"/nosuch\": stat /nosuch: no such file or directory: unknown", 127),
            ("exec: \"/etc/passwd\": permission denied: unknown", 126),
            ("exec: \"/etc\": is a directory: unknown", 126),
            ("Conflict. The container name \"/x\" is already in use", 125),
        ];
        for (message, code) in table {
            assert_eq!(start_failure_code(message), code, "{message}");
        }
    }

    #[test]
    fn the_daemons_hint_is_told_as_ours() {
        let message =
            "cannot remove pod p1: it has 1 containers (hint: remove them first (or force))".to_owned();
        let failure = Failure::from(ApiError::Daemon { status: 409, message });
        assert_eq!(
            failure.render(),
            "error: cannot remove pod p1: it has 1 containers\nhint: remove them first (or force)\n"
        );
    }

    #[test]
    fn a_failure_prints_its_causes_and_then_the_hint() {
        let failure = Failure {
            code: 1,
            errors: vec!["cannot reach the daemon".into(), "connection refused".into()],
            hint: Some("start hyperd".into()),
        };
        assert_eq!(
            failure.render(),
            "error: cannot reach the daemon\n  caused by: connection refused\nhint: start hyperd\n"
        );
    }
}
