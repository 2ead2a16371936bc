//! Kubernetes v1 files as a checked, typed model. No I/O, no engine, no VM.
//!
//! [`load()`] reads YAML or JSON and gives objects of the [`model`], with all defaults, that Kubernetes would take; or
//! everything that is wrong with them, each with the path of the field and its line. What is supported of Kubernetes'
//! fields is one table, the declarations of the model; `docs/kube.md` is made from it.

// What tests of the table are made of is also used by tests in here.
#[cfg(test)]
extern crate self as hyper_kube;

mod check;
mod defaults;
mod expand;
mod fault;
#[cfg(test)]
mod fuzz;
mod load;
pub mod model;
mod place;
mod read;
mod references;
mod table;
mod value;
mod yaml;

pub use expand::{Expanded, expand};
pub use fault::{Fault, Problem};
pub use load::{Document, Faults, KINDS, Kind, Loaded, Object, load};
pub use place::Place;
pub use read::{Anything, Bytes};
pub use references::Reference;
pub use table::{Harmless, Row, Shape, Standing, Table};
pub use value::{IntOrString, NoQuantity, NoSchedule, Quantity, Schedule, Times};
