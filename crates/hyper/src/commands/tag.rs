//! `hyper tag`

use bollard::query_parameters::TagImageOptionsBuilder;
use clap::Args;

use super::App;
use super::pull::parse;
use crate::client::{ApiError, path};
use crate::error::{Failure, Outcome};

/// Words of `tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// The image
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// Its new name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

/// Gives an image another name.
pub async fn tag(app: &App, args: TagArgs) -> Outcome {
    path("images", &args.source, "")?;
    let target = parse(&args.target)?;
    if target.digest.is_some() {
        return Err(Failure::new("refusing to create a tag with a digest reference"));
    }
    let tag = target.tag_or_latest().unwrap_or_default();
    let options = TagImageOptionsBuilder::new().repo(&target.name()).tag(tag).build();
    let tagged = app.client.docker().tag_image(&args.source, Some(options)).await;
    tagged.map_err(|error| Failure::from(ApiError::from(error)))?;
    Ok(0)
}
