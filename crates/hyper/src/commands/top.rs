//! `hyper top`

use clap::Args;
use serde::Deserialize;

use super::App;
use crate::client::path;
use crate::error::Outcome;
use crate::format::align_with;
use crate::output;

/// Narrowest column, as docker's.
const MIN_WIDTH: usize = 20;
/// Spaces between columns, as docker's.
const PADDING: usize = 3;

/// Words of `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// The container, then options of ps
    #[arg(required = true, trailing_var_arg = true, value_names = ["CONTAINER", "PS_OPTION"], num_args = 1..)]
    words: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Processes {
    titles: Vec<String>,
    processes: Option<Vec<Vec<String>>>,
}

/// Lists a container's processes.
pub async fn top(app: &App, args: TopArgs) -> Outcome {
    let (container, options) = args.words.split_first().expect("clap requires a word");
    print_table(app, &path("containers", container, "/top")?, options).await
}

/// Prints the processes that the daemon lists at `path`.
///
/// # Errors
/// The daemon's failure.
pub async fn print_table(app: &App, path: &str, options: &[String]) -> Outcome {
    let options = options.join(" ");
    let query: &[(&str, &str)] = if options.is_empty() { &[] } else { &[("ps_args", &options)] };
    let answer: Processes = app.client.json(path, query).await?;
    let lines = std::iter::once(answer.titles).chain(answer.processes.unwrap_or_default());
    let text: String = lines.map(|cells| cells.join("\t") + "\n").collect();
    output::write(&align_with(&text, MIN_WIDTH, PADDING))?;
    Ok(0)
}
