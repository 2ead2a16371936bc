//! The part of Go's `text/template` that people use in docker's `--format`.
//!
//! Written here because the one crate for it has had no release since 2021. Whatever is not known is an error with
//! its position, never silently printed.

mod eval;
mod functions;
#[cfg(test)]
mod fuzz;
mod parse;
mod value;

pub use eval::Template;
pub use value::Value;

/// A template that cannot be understood or does not fit the data.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("template: {0}")]
pub struct TemplateError(String);

impl TemplateError {
    /// An error with this text.
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}
