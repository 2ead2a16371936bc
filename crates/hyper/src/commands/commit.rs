//! `hyper commit`

use clap::{ArgAction, Args};
use http1::Method;
use serde::Deserialize;

use super::App;
use super::pull::parse;
use crate::client::path;
use crate::error::{Failure, Outcome};
use crate::output;

/// Flags of `commit`.
#[derive(Debug, Args)]
pub struct CommitArgs {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long, default_value = "", hide_default_value = true)]
    author: String,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Commit message
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Pause container during commit
    #[arg(short, long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true")]
    pause: bool,
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The new image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// Makes an image of a container.
pub async fn commit(app: &App, args: CommitArgs) -> Outcome {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Made {
        id: String,
    }
    path("containers", &args.container, "")?;
    let name = args.name.as_deref().map(parse).transpose()?;
    if name.as_ref().is_some_and(|name| name.digest.is_some()) {
        return Err(Failure::new("refusing to create a tag with a digest reference"));
    }
    let (repository, tag) = match &name {
        Some(name) => (name.name(), name.tag_or_latest().unwrap_or_default().to_owned()),
        None => Default::default(),
    };
    let mut query = vec![
        ("author", args.author.as_str()),
        ("comment", args.message.as_str()),
        ("container", args.container.as_str()),
        ("repo", repository.as_str()),
        ("tag", tag.as_str()),
    ];
    query.extend(args.change.iter().map(|line| ("changes", line.as_str())));
    query.push(("pause", if args.pause { "1" } else { "0" }));
    let made: Made = app.client.json_of(Method::POST, "/commit", &query).await?;
    output::line(&made.id)?;
    Ok(0)
}
