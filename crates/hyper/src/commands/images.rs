//! `hyper images`

use bollard::models::ImageSummary;
use bollard::query_parameters::ListImagesOptionsBuilder;
use clap::Args;

use super::App;
use super::listing;
use super::ps::{filters, short_id};
use crate::client::ApiError;
use crate::error::{Failure, Outcome};
use crate::format::{List, Row, Value, duration, go_time, human_size, short_size};

/// What stands for a missing name, tag or digest.
const NONE: &str = "<none>";

/// Flags of `images`.
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Show all images (default hides intermediate images)
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// Only images with this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// Docker's columns of images.
pub const HEADINGS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

/// Lists images.
pub async fn images(app: &App, args: ImagesArgs) -> Outcome {
    let mut filters = filters(&args.filter)?;
    if let Some(name) = &args.name {
        filters.entry("reference".into()).or_default().push(name.clone());
    }
    let mut options = ListImagesOptionsBuilder::new().all(args.all);
    if !filters.is_empty() {
        options = options.filters(&filters);
    }
    let images = app.client.docker().list_images(Some(options.build())).await;
    let mut images = images.map_err(|error| Failure::from(ApiError::from(error)))?;
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    let wants_digest =
        args.digests || args.format.as_deref().is_some_and(|format| format.contains(".Digest"));
    let now = jiff::Timestamp::now().as_second();
    let rows = images.iter().flat_map(|image| rows(image, &args, wants_digest, now)).collect();
    let table = match (args.quiet, args.digests) {
        (true, _) => "{{.ID}}",
        (false, false) => "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
        (false, true) => "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    };
    let list = List { headings: HEADINGS, table, rows };
    listing::print(list, args.format.as_deref(), args.quiet)
}

/// The rows of an image in the details of `system df`.
pub fn image_rows(image: &ImageSummary, now: i64) -> Vec<Row> {
    let args = ImagesArgs {
        all: false,
        digests: false,
        filter: Vec::new(),
        format: None,
        no_trunc: false,
        quiet: false,
        name: None,
    };
    rows(image, &args, false, now)
}

/// A row for every tag and, when asked for, digest of the image.
fn rows(image: &ImageSummary, args: &ImagesArgs, digests: bool, now: i64) -> Vec<Row> {
    let tags: Vec<(&str, &str)> = image
        .repo_tags
        .iter()
        .filter_map(|tag| tag.rsplit_once(':'))
        .filter(|(name, tag)| (*name, *tag) != (NONE, NONE))
        .collect();
    let digested: Vec<(&str, &str)> = image
        .repo_digests
        .iter()
        .filter_map(|digest| digest.split_once('@'))
        .filter(|(name, _)| *name != NONE)
        .collect();
    let mut rows = Vec::new();
    let mut used = vec![false; digested.len()];
    for (name, tag) in &tags {
        let mut matching = Vec::new();
        for (index, (digest_name, digest)) in digested.iter().enumerate() {
            if digest_name == name {
                used[index] = true;
                matching.push(*digest);
            }
        }
        if !digests || matching.is_empty() {
            matching = vec![NONE];
        }
        rows.extend(matching.into_iter().map(|digest| row(image, args, now, [name, tag, digest])));
    }
    // Digests without a tag: pulled by digest, or the tag moved on.
    let mut untagged: Vec<(&str, &str)> =
        digested.iter().zip(&used).filter(|(_, used)| !**used).map(|(digest, _)| *digest).collect();
    if !digests {
        untagged.dedup_by_key(|(name, _)| *name);
    }
    for (name, digest) in untagged {
        rows.push(row(image, args, now, [name, NONE, if digests { digest } else { NONE }]));
    }
    if rows.is_empty() {
        rows.push(row(image, args, now, [NONE, NONE, NONE]));
    }
    rows
}

fn row(image: &ImageSummary, args: &ImagesArgs, now: i64, [name, tag, digest]: [&str; 3]) -> Row {
    let text = |text: &str| Value::text(text);
    let bytes = |bytes: i64| if bytes == -1 { "N/A".to_owned() } else { short_size(bytes as f64) };
    let since =
        if image.created == 0 { "N/A".into() } else { format!("{} ago", duration(now - image.created)) };
    let containers = if image.containers == -1 { "N/A".to_owned() } else { image.containers.to_string() };
    let unique = if image.shared_size == -1 { -1 } else { image.size - image.shared_size };
    vec![
        ("Repository", text(name)),
        ("Tag", text(tag)),
        ("Digest", text(digest)),
        ("ID", Value::text(if args.no_trunc { image.id.clone() } else { short_id(&image.id) })),
        ("CreatedSince", Value::text(since)),
        ("CreatedAt", Value::text(go_time(image.created))),
        ("Size", Value::text(short_size(image.size as f64))),
        ("Containers", Value::text(containers)),
        ("VirtualSize", Value::text(human_size(image.size as f64))),
        ("SharedSize", Value::text(bytes(image.shared_size))),
        ("UniqueSize", Value::text(bytes(unique))),
    ]
}
