//! The command line: parse, call the API, render.

mod args;
mod client;
mod commands;
mod container;
mod credentials;
mod daemon;
mod error;
mod format;
mod output;
mod progress;
mod reference;
mod stream;
mod timeline;

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use crate::args::{Cli, Global};
use crate::client::{Certificates, Client, Endpoint, run_dir};
use crate::commands::{App, dispatch, version_line};
use crate::error::{EXIT_FAILURE, Failure, Outcome};
use crate::timeline::Timeline;

fn main() {
    let timeline = Arc::new(Timeline::new());
    let words: Vec<OsString> = std::env::args_os().collect();
    if let [_, verb, program] = words.as_slice()
        && verb == daemon::DETACH
    {
        let error = daemon::become_daemon(Path::new(program));
        output::complain(&format!("cannot become {}: {error}\n", program.to_string_lossy()));
        std::process::exit(EXIT_FAILURE);
    }
    restore_terminal_on_panic();
    let code = match run(&words, timeline) {
        Ok(code) => code,
        Err(failure) => {
            output::complain(&failure.render());
            failure.code
        }
    };
    // Standard input may be read by a thread that nothing can wake: leave without waiting for it.
    std::process::exit(code);
}

/// The panic's own text belongs on a usable terminal.
fn restore_terminal_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        stream::restore_terminal();
        before(info);
    }));
}

fn run(words: &[OsString], timeline: Arc<Timeline>) -> Outcome {
    let mut grammar = args::with_habits(args::teach_refused(Cli::command()));
    let matches = match grammar.try_get_matches_from_mut(words) {
        Ok(matches) => matches,
        Err(error) => return explain(&error, words),
    };
    args::refuse_given(&matches)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| Failure::new(error.to_string()))?;
    if cli.global.version {
        output::line(&version_line())?;
        return Ok(0);
    }
    let Some(command) = cli.command else {
        output::write(&args::for_help(Cli::command()).render_help().to_string())?;
        return Ok(0);
    };
    let app = app(&cli.global, timeline)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(dispatch(&app, command));
    stream::restore_terminal();
    // Dropping the runtime would wait for the thread that reads standard input.
    std::mem::forget(runtime);
    outcome
}

/// Shows help, or what is wrong with the command line.
fn explain(error: &clap::Error, words: &[OsString]) -> Outcome {
    let is_help =
        |kind| matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
    let code = args::exit_code(error.kind());
    let mut text = error.render().to_string();
    if is_help(error.kind()) {
        let plain = args::for_help(args::teach_refused(Cli::command())).try_get_matches_from(words);
        if let Some(plain) = plain.err().filter(|plain| is_help(plain.kind())) {
            text = plain.render().to_string();
        }
        output::write(&text)?;
    } else {
        output::complain(&text);
    }
    if code == 0 { Ok(0) } else { Err(Failure::silent(code)) }
}

fn app(global: &Global, timeline: Arc<Timeline>) -> Result<App, Failure> {
    let env = std::env::var("HYPER_HOST").ok();
    let endpoint = Endpoint::choose(global.host.as_deref(), env.as_deref(), &run_dir())
        .map_err(|error| Failure::from_error(&error))?;
    let level = if global.debug { Some("debug") } else { global.log_level.as_deref() };
    let files = [&global.tlscacert, &global.tlscert, &global.tlskey].map(Clone::clone);
    let certificates = Certificates::choose(global.tlsverify, files, |name| std::env::var(name).ok());
    let client = Client::new(endpoint, certificates, level.map(str::to_owned), Arc::clone(&timeline));
    Ok(App { client: Arc::new(client), timeline, config_dir: global.config.clone() })
}
