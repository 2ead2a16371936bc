//! `hyper export` and `hyper diff`: what a container's files are, and what of them it has changed.

use std::path::PathBuf;

use clap::Args;
use http_body_util::BodyExt;
use http1::Method;
use serde::Deserialize;

use super::App;
use super::save::Partial;
use crate::client::{ApiError, path};
use crate::error::{Failure, Outcome};
use crate::output;
use crate::stream::stdout_is_terminal;

/// Flags of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Flags of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Writes a container's files as a tar archive.
pub async fn export(app: &App, args: ExportArgs) -> Outcome {
    if args.output.is_none() && stdout_is_terminal() {
        let text = "cowardly refusing to save to a terminal";
        return Err(Failure::new(text).with_hint("use the -o flag or redirect"));
    }
    let url = path("containers", &args.container, "/export")?;
    // A refusal comes before the first byte: no file is touched then.
    let mut body = app.client.send(Method::GET, &url, &[]).await?.into_body();
    let mut file = args.output.as_deref().map(Partial::create).transpose()?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::Broken(Box::new(error)))?;
        let Some(data) = frame.data_ref() else { continue };
        match &mut file {
            Some(file) => file.write(data)?,
            None => output::write_bytes(data)?,
        }
    }
    if let Some(file) = file {
        file.finish()?;
    }
    Ok(0)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    path: String,
    kind: u8,
}

/// Lists the changed files.
pub async fn diff(app: &App, args: DiffArgs) -> Outcome {
    let url = path("containers", &args.container, "/changes")?;
    let changes: Option<Vec<Change>> = app.client.json(&url, &[]).await?;
    let mut text = String::new();
    for Change { path, kind } in changes.unwrap_or_default() {
        let letter = match kind {
            0 => 'C',
            1 => 'A',
            _ => 'D',
        };
        text.push(letter);
        text.push(' ');
        text.push_str(&path);
        text.push('\n');
    }
    output::write(&text)?;
    Ok(0)
}
