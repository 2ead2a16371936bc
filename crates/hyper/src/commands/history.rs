//! `hyper history`

use clap::Args;
use serde::Deserialize;

use super::App;
use super::listing;
use super::ps::short_id;
use crate::client::path;
use crate::error::Outcome;
use crate::format::{List, Row, Value, duration, ellipsis, local_time, short_size};

/// Longest instruction shown.
const CREATED_BY_WIDTH: usize = 45;
/// What a layer without an image of its own has for an id.
const MISSING: &str = "<missing>";

/// Flags of `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Print sizes and dates in human readable format (default true)
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, default_value = "true",
        default_missing_value = "true", value_name = "BOOL", hide_default_value = true, hide_possible_values = true,
        action = clap::ArgAction::Set)]
    human: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "IMAGE")]
    image: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Layer {
    id: String,
    created: i64,
    created_by: String,
    size: i64,
    comment: String,
}

const HEADINGS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

/// Shows how an image was made.
pub async fn history(app: &App, args: HistoryArgs) -> Outcome {
    let layers: Vec<Layer> = app.client.json(&path("images", &args.image, "/history")?, &[]).await?;
    let now = jiff::Timestamp::now().as_second();
    let table = match (args.quiet, args.human) {
        (true, _) => "{{.ID}}",
        (false, true) => "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
        (false, false) => "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    };
    let rows = layers.into_iter().map(|layer| row(layer, &args, now)).collect();
    let list = List { headings: HEADINGS, table, rows };
    listing::print(list, args.format.as_deref(), args.quiet)
}

fn row(layer: Layer, args: &HistoryArgs, now: i64) -> Row {
    let created_by = layer.created_by.replace('\t', " ");
    let created_by = if args.no_trunc { created_by } else { ellipsis(&created_by, CREATED_BY_WIDTH) };
    let at = jiff::Timestamp::from_second(layer.created).map(local_time).unwrap_or_default();
    // No creation time at all: reproducible builds.
    let epoch = layer.created <= 0;
    let since = if epoch { "N/A".to_owned() } else { format!("{} ago", duration(now - layer.created)) };
    let id = if args.no_trunc || layer.id == MISSING { layer.id } else { short_id(&layer.id) };
    let size = if args.human { short_size(layer.size as f64) } else { layer.size.to_string() };
    let text = Value::text;
    vec![
        ("ID", text(id)),
        ("CreatedSince", text(since)),
        ("CreatedAt", text(at)),
        ("CreatedBy", text(created_by)),
        ("Size", text(size)),
        ("Comment", text(layer.comment)),
    ]
}
