//! Docker's flag habits on top of clap: `--rm=false`, the last of two wins, `-h` where it is free.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};

use crate::error::{EXIT_DAEMON, EXIT_FAILURE};

/// Words that Go's `strconv.ParseBool` takes for true.
const TRUE: [&str; 6] = ["1", "t", "T", "TRUE", "true", "True"];
/// Words that Go's `strconv.ParseBool` takes for false.
const FALSE: [&str; 6] = ["0", "f", "F", "FALSE", "false", "False"];

/// Gives a command and all its subcommands docker's habits.
pub fn with_habits(command: Command) -> Command {
    with_help(command).mut_args(flag).mut_subcommands(with_habits)
}

/// The same grammar for people: `--rm` instead of the `--rm[=<BOOL>]` that is understood as well.
pub fn for_help(command: Command) -> Command {
    with_help(command).mut_subcommands(for_help)
}

fn with_help(command: Command) -> Command {
    let command = command.disable_help_flag(true).args_override_self(true);
    let short_is_free = !command.get_arguments().any(|arg| arg.get_short() == Some('h'));
    let has_help = command.get_arguments().any(|arg| arg.get_id() == "help");
    let help = Arg::new("help").long("help").help("Print usage").action(ArgAction::Help);
    match (has_help, short_is_free) {
        (true, _) => command,
        (false, true) => command.arg(help.short('h')),
        (false, false) => command.arg(help),
    }
}

/// Makes a switch take `=true` and `=false`, and a flag with a value take the next word whatever it is.
fn flag(arg: Arg) -> Arg {
    match arg.get_action() {
        ArgAction::SetTrue => switch(arg),
        ArgAction::Set | ArgAction::Append if !arg.is_positional() && !arg.is_require_equals_set() => {
            arg.allow_hyphen_values(true)
        }
        _ => arg,
    }
}

fn switch(arg: Arg) -> Arg {
    let words = PossibleValuesParser::new(TRUE.iter().chain(&FALSE).copied());
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .default_value("false")
        .hide_default_value(true)
        .hide_possible_values(true)
        .value_name("BOOL")
        .value_parser(words.map(|word| TRUE.contains(&word.as_str())))
}

/// Docker's exit code for a command line that cannot be understood.
pub fn exit_code(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => 0,
        ErrorKind::MissingRequiredArgument
        | ErrorKind::InvalidSubcommand
        | ErrorKind::MissingSubcommand
        | ErrorKind::TooFewValues
        | ErrorKind::TooManyValues
        | ErrorKind::WrongNumberOfValues => EXIT_FAILURE,
        _ => EXIT_DAEMON,
    }
}
