//! YAML and JSON as a tree in which every value knows its place.
//!
//! Texts, numbers and booleans are told apart as Kubernetes' tools do it (`sigs.k8s.io/yaml`, YAML 1.1), duplicate keys
//! are errors, and every dimension of a file has a limit.

mod json;
mod node;
mod parse;
mod scalar;

pub(crate) use node::{Node, Value};
pub(crate) use parse::{Fault, documents};
