//! The Docker Engine API as the commands call it.
//!
//! Typed calls go through `bollard` over our own [`transport`]; where its models would lose something (unknown
//! JSON fields, a terminal's raw bytes) the [`Client`] offers the same request untouched.

mod api;
mod endpoint;
mod error;
mod lines;
mod tls;
mod transport;

pub use api::{Client, Hijacked, Place, Position, encode, path};
pub use endpoint::{Endpoint, run_dir};
pub use error::ApiError;
pub use lines::JsonLines;
pub use tls::Certificates;
pub use transport::Socket;
