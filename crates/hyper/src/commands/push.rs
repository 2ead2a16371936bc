//! `hyper push`.

use clap::Args;
use http1::Method;

use super::App;
use super::pull::parse;
use crate::credentials::auth_headers;
use crate::error::{Failure, Outcome};
use crate::output;
use crate::progress::{self, To};

/// Flags of `push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Push the image only if it is for this platform
    #[arg(long)]
    platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "NAME[:TAG]")]
    image: String,
}

/// Uploads an image.
pub async fn push(app: &App, args: PushArgs) -> Outcome {
    let mut reference = parse(&args.image)?;
    let bare = reference.tag.is_none() && reference.digest.is_none();
    if args.all_tags && !bare {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    if bare && !args.all_tags {
        reference.tag = reference.tag_or_latest().map(str::to_owned);
        if !args.quiet {
            output::line("Using default tag: latest")?;
        }
    }
    let headers = match auth_headers(app, &reference.domain)? {
        // Docker's daemon wants the header, even when it says nothing: base64 of `{}`.
        headers if headers.is_empty() => vec![("X-Registry-Auth", "e30=".to_owned())],
        headers => headers,
    };
    let digest = reference.digest.as_deref().map_or(String::new(), |digest| format!("@{digest}"));
    let path = format!("/images/{}{digest}/push", reference.name());
    let mut query: Vec<(&str, &str)> = Vec::new();
    query.extend(reference.tag.as_deref().map(|tag| ("tag", tag)));
    query.extend(args.platform.as_deref().map(|platform| ("platform", platform)));
    let lines = app.client.lines(Method::POST, &path, &query, &headers).await?;
    progress::show(lines, if args.quiet { To::Nothing } else { To::Stdout }).await?;
    if args.quiet {
        output::line(&reference.full())?;
    }
    Ok(0)
}
