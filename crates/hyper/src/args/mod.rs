//! What the command line means: its grammar, docker's flag habits, and what is refused by name.

mod commands;
mod groups;
mod habits;
mod refused;

#[cfg(test)]
mod tests;

pub use commands::{Cli, Command, Global};
pub use groups::{
    ContainerCommand, ImageCommand, NetworkCommand, PodCommand, SystemCommand, TemplateCommand, VolumeCommand,
};
pub use habits::{exit_code, for_help, with_habits};
pub use refused::{refuse_command, refuse_given, teach_refused};
