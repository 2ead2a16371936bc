//! `hyper create`, and the making of a container for `run`.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use bollard::query_parameters::CreateContainerOptionsBuilder;
use clap::Args;

use super::App;
use super::pull::{fetch, parse};
use crate::client::ApiError;
use crate::container::{ContainerFlags, Request, request};
use crate::error::{EXIT_DAEMON, Failure, Outcome, start_failure_code};
use crate::output;
use crate::progress::To;
use crate::reference::Reference;
use crate::stream::window_size;

/// Flags of `create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    flags: ContainerFlags,
}

/// Makes a container and prints its id.
pub async fn create(app: &App, args: CreateArgs) -> Outcome {
    let request = prepare(&args.flags)?;
    PullPolicy::parse(&args.flags.pull)?;
    let id = make(app, &args.flags, &request).await.map_err(|failure| failure.with_code(1))?;
    output::line(&id)?;
    Ok(0)
}

/// Converts the flags.
///
/// # Errors
/// A value that cannot be used, with exit code 125.
pub fn prepare(flags: &ContainerFlags) -> Result<Request, Failure> {
    if flags.words.first().is_some_and(String::is_empty) {
        return Err(parse("").expect_err("an empty name is no reference").with_code(EXIT_DAEMON));
    }
    if flags.rm && !matches!(flags.restart.as_deref(), None | Some("" | "no")) {
        return Err(Failure::new("conflicting options: cannot specify both --restart and --rm")
            .with_code(EXIT_DAEMON));
    }
    let console = flags.tty.then(window_size).flatten();
    request(flags, |name| std::env::var(name).ok(), console)
        .map_err(|error| Failure::from_error(&error).with_code(EXIT_DAEMON))
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PullPolicy {
    Always,
    Missing,
    Never,
}

impl PullPolicy {
    fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "always" => Ok(Self::Always),
            "missing" | "" => Ok(Self::Missing),
            "never" => Ok(Self::Never),
            _ => {
                let text = format!(
                    "invalid pull option: '{text}': must be one of \"always\", \"missing\" or \"never\""
                );
                Err(Failure::new(text).with_code(EXIT_DAEMON))
            }
        }
    }
}

/// Makes the container, pulling its image as the flags say, and gives its id.
///
/// # Errors
/// A failure with docker's exit code for the reason.
pub async fn make(app: &App, flags: &ContainerFlags, request: &Request) -> Result<String, Failure> {
    let policy = PullPolicy::parse(&flags.pull)?;
    let mut cid_file = flags.cidfile.as_deref().map(CidFile::create).transpose()?;
    let platform = flags.platform.as_deref();
    let to = if flags.quiet { To::Nothing } else { To::Stderr };
    if policy == PullPolicy::Always {
        fetch(app, &parse(&request.image)?, platform, to).await.map_err(coded)?;
    }
    let id = match call(app, flags, request).await {
        Err(error) if policy == PullPolicy::Missing && lacks_image(&error) => {
            let reference = parse(&request.image).map_err(|failure| failure.with_code(EXIT_DAEMON))?;
            announce(&reference, to);
            fetch(app, &reference, platform, to).await.map_err(coded)?;
            call(app, flags, request).await
        }
        answer => answer,
    }
    .map_err(|error| coded(error.into()))?;
    if let Some(file) = &mut cid_file {
        file.write(&id)?;
    }
    Ok(id)
}

fn announce(reference: &Reference, to: To) {
    if to == To::Stderr {
        output::complain(&format!("Unable to find image '{}' locally\n", reference.familiar()));
    }
}

/// Gives a failure of creating or starting docker's exit code.
pub fn coded(failure: Failure) -> Failure {
    let code = failure.errors.first().map_or(EXIT_DAEMON, |text| start_failure_code(text));
    failure.with_code(code)
}

fn lacks_image(error: &ApiError) -> bool {
    // The image, or its variant for the platform. A network's container can be missing as well; pulling does not help.
    matches!(error, ApiError::Daemon { status: 404, message } if !message.contains("No such container"))
}

async fn call(app: &App, flags: &ContainerFlags, request: &Request) -> Result<String, ApiError> {
    let began = app.timeline.now();
    let mut options = CreateContainerOptionsBuilder::new();
    if let Some(name) = &flags.name {
        options = options.name(name);
    }
    if let Some(platform) = &flags.platform {
        options = options.platform(platform);
    }
    let created = app.client.docker().create_container(Some(options.build()), request.body.clone()).await?;
    app.timeline.record("create", began);
    for warning in created.warnings {
        output::complain(&format!("WARNING: {warning}\n"));
    }
    Ok(created.id)
}

/// The file that receives the container's id; removed again when no id came.
struct CidFile<'a> {
    path: &'a Path,
    file: File,
    written: bool,
}

impl<'a> CidFile<'a> {
    fn create(path: &'a Path) -> Result<Self, Failure> {
        let shown = path.display();
        match File::create_new(path) {
            Ok(file) => Ok(Self { path, file, written: false }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let text = format!("container ID file {shown} exists");
                let hint = format!("make sure the other container isn't running, or delete {shown}");
                Err(Failure::new(text).with_hint(hint).with_code(EXIT_DAEMON))
            }
            Err(error) => {
                let text = format!("failed to create the container ID file {shown}: {error}");
                Err(Failure::new(text).with_code(EXIT_DAEMON))
            }
        }
    }

    fn write(&mut self, id: &str) -> Result<(), Failure> {
        self.written = true;
        self.file.write_all(id.as_bytes()).map_err(|error| {
            let text = format!("failed to write the container ID to {}: {error}", self.path.display());
            Failure::new(text).with_code(EXIT_DAEMON)
        })
    }
}

impl Drop for CidFile<'_> {
    fn drop(&mut self) {
        if !self.written {
            let _ = fs::remove_file(self.path);
        }
    }
}
