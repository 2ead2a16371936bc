//! `hyper save`

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use futures::StreamExt;

use super::App;
use crate::client::{ApiError, path};
use crate::error::{Failure, Outcome};
use crate::output;
use crate::stream::stdout_is_terminal;

/// Flags of `save`.
#[derive(Debug, Args)]
pub struct SaveArgs {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Writes images as one tar archive.
pub async fn save(app: &App, args: SaveArgs) -> Outcome {
    if args.output.is_none() && stdout_is_terminal() {
        let text = "cowardly refusing to save to a terminal";
        return Err(Failure::new(text).with_hint("use the -o flag or redirect"));
    }
    for image in &args.images {
        path("images", image, "")?;
    }
    let names: Vec<&str> = args.images.iter().map(String::as_str).collect();
    let mut chunks = Box::pin(app.client.docker().export_images(&names));
    let mut next = async || match chunks.next().await {
        Some(Ok(bytes)) => Ok(Some(bytes)),
        Some(Err(error)) => Err(Failure::from(ApiError::from(error))),
        None => Ok(None),
    };
    // A refusal comes before the first byte: no file is touched then.
    let mut first = next().await?;
    match &args.output {
        None => {
            while let Some(bytes) = first {
                output::write_bytes(&bytes)?;
                first = next().await?;
            }
        }
        Some(target) => {
            let mut file = Partial::create(target)?;
            while let Some(bytes) = first {
                file.write(&bytes)?;
                first = next().await?;
            }
            file.finish()?;
        }
    }
    Ok(0)
}

/// A file beside its target that takes the target's name when it is complete.
pub(super) struct Partial {
    target: PathBuf,
    path: PathBuf,
    file: std::fs::File,
    complete: bool,
}

impl Partial {
    pub(super) fn create(target: &Path) -> Result<Self, Failure> {
        // A device or pipe is written in place.
        if target.exists() && !target.is_file() {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(target)
                .map_err(|error| failed(target, &error))?;
            return Ok(Self { target: target.to_owned(), path: target.to_owned(), file, complete: true });
        }
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let path = target.with_file_name(name);
        let file = std::fs::File::create_new(&path).map_err(|error| failed(target, &error))?;
        Ok(Self { target: target.to_owned(), path, file, complete: false })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| failed(&self.target, &error))
    }

    pub(super) fn finish(mut self) -> Result<(), Failure> {
        if !self.complete {
            std::fs::rename(&self.path, &self.target).map_err(|error| failed(&self.target, &error))?;
            self.complete = true;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.complete {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn failed(target: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot write {}: {error}", target.display()))
}
