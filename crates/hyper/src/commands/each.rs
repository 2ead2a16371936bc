//! One call per name: all at once, answers in the order of the names.

use std::future::Future;

use futures::StreamExt;

use crate::client::ApiError;
use crate::error::{EXIT_FAILURE, Failure, Outcome};
use crate::output;

/// Calls under way at the same time, as docker's CLI.
const AT_ONCE: usize = 50;

/// Calls `act` for every name and prints what it returns; failures are told at the end.
///
/// # Errors
/// A silent failure with exit code 1 when any call failed.
pub async fn each<'a, F, Fut>(names: &'a [String], act: F) -> Outcome
where
    F: Fn(&'a str) -> Fut,
    Fut: Future<Output = Result<String, ApiError>>,
{
    let mut failures = Vec::new();
    let mut answers = futures::stream::iter(names.iter().map(|name| act(name))).buffered(AT_ONCE);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(text) => output::line(&text)?,
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    complain_all(failures)
}

/// Tells all failures, a repeated hint once.
///
/// # Errors
/// A silent failure with exit code 1 unless `failures` is empty.
pub fn complain_all(mut failures: Vec<Failure>) -> Outcome {
    if failures.is_empty() {
        return Ok(0);
    }
    for index in 1..failures.len() {
        let (before, rest) = failures.split_at_mut(index);
        if let Some(last) = before.last_mut()
            && last.hint == rest[0].hint
        {
            last.hint = None;
        }
    }
    for failure in &failures {
        output::complain(&failure.render());
    }
    Err(Failure::silent(EXIT_FAILURE))
}
