//! What commands that list things have in common.

use crate::error::{Failure, Outcome};
use crate::format::List;
use crate::output;

/// Prints a list in the format asked for; `quiet` without one means ids alone.
///
/// # Errors
/// The user's template is wrong, or standard output is closed.
pub fn print(list: List, format: Option<&str>, quiet: bool) -> Outcome {
    let text = list.render(format.or(quiet.then_some("{{.ID}}")));
    output::write(&text.map_err(|error| Failure::from_error(&error))?)?;
    Ok(0)
}
