//! `hyper pull`, and the pull on the way to a container.

use clap::Args;
use http1::Method;

use super::App;
use crate::credentials::auth_headers;
use crate::error::{Failure, Outcome};
use crate::output;
use crate::progress::{self, To};
use crate::reference::Reference;

/// Flags of `pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Download all tagged images in the repository (not supported yet)
    #[arg(short, long)]
    all_tags: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
}

/// Downloads an image.
pub async fn pull(app: &App, args: PullArgs) -> Outcome {
    if args.all_tags {
        return Err(Failure::new("--all-tags is not supported yet").with_hint("pull one tag at a time"));
    }
    let reference = parse(&args.image)?;
    if reference.tag.is_none() && reference.digest.is_none() && !args.quiet {
        output::line("Using default tag: latest")?;
    }
    let to = if args.quiet { To::Nothing } else { To::Stdout };
    fetch(app, &reference, args.platform.as_deref(), to).await?;
    output::line(&reference.full())?;
    Ok(0)
}

/// An image's name as a reference.
///
/// # Errors
/// A name that is none.
pub fn parse(image: &str) -> Result<Reference, Failure> {
    Reference::parse(image).map_err(|error| Failure::from_error(&error))
}

/// Downloads `reference` and shows the progress.
///
/// # Errors
/// The daemon's or the registry's refusal, or a login that cannot be read.
pub async fn fetch(app: &App, reference: &Reference, platform: Option<&str>, to: To) -> Result<(), Failure> {
    let began = app.timeline.now();
    let headers = auth_headers(app, &reference.domain)?;
    let name = reference.name();
    let tag = reference.digest.as_deref().or(reference.tag_or_latest()).unwrap_or_default();
    let mut query = vec![("fromImage", name.as_str()), ("tag", tag)];
    query.extend(platform.map(|platform| ("platform", platform)));
    let lines = app.client.lines(Method::POST, "/images/create", &query, &headers).await?;
    progress::show(lines, to).await?;
    app.timeline.record("pull", began);
    Ok(())
}
