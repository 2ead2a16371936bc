//! `hyper template …`

use std::path::PathBuf;

use clap::Args;
use http1::Method;
use serde::Deserialize;
use serde_json::json;

use super::App;
use super::each::each;
use super::listing;
use super::prune::{confirmed, report, titled};
use crate::client::{ApiError, encode};
use crate::container::{FlagError, kernel_path, parse_bytes, parse_cpus};
use crate::error::{EXIT_DAEMON, Failure, Outcome};
use crate::format::{List, Row, Value, duration, human_size};
use crate::output;

/// Path of the templates.
const TEMPLATES: &str = "/hyper/templates";

/// Flags of `template ls`.
#[derive(Debug, Args)]
pub struct TemplateListArgs {
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display template IDs
    #[arg(short, long)]
    quiet: bool,
}

/// Flags of `template create`: those of `run` that decide which template a pod is cloned from.
#[derive(Debug, Args)]
pub struct TemplateCreateArgs {
    /// Number of CPUs
    #[arg(long, value_name = "DECIMAL")]
    cpus: Option<String>,
    /// For pods on this hypervisor
    #[arg(long, value_name = "NAME")]
    hypervisor: Option<String>,
    /// For pods with this kernel
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Memory for the pods' containers
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// For pods on this network: default, bridge or none
    #[arg(long, value_name = "NETWORK", default_value = "default", value_parser = ["default", "bridge", "none"])]
    network: String,
}

/// Flags of `template prune`.
#[derive(Debug, Args)]
pub struct TemplatePruneArgs {
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// Only ids of templates.
#[derive(Debug, Args)]
pub struct TemplateNamesArgs {
    /// The templates
    #[arg(required = true, value_name = "TEMPLATE")]
    templates: Vec<String>,
}

const HEADINGS: &[(&str, &str)] = &[
    ("ID", "TEMPLATE ID"),
    ("Hypervisor", "HYPERVISOR"),
    ("CPUs", "CPUS"),
    ("Memory", "MEMORY"),
    ("Networks", "NETWORKS"),
    ("Kernel", "KERNEL"),
    ("Created", "CREATED"),
    ("LastUsed", "LAST USED"),
    ("Size", "SIZE"),
];

/// A template as the daemon tells of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Template {
    id: String,
    hypervisor: String,
    accelerator: String,
    #[serde(rename = "VCPUs")]
    vcpus: u32,
    #[serde(rename = "MemoryMiB")]
    memory_mib: u64,
    networks: u32,
    kernel: String,
    created: String,
    last_used: String,
    size: u64,
}

/// Lists templates.
pub async fn list(app: &App, args: TemplateListArgs) -> Outcome {
    let templates: Vec<Template> = app.client.json(TEMPLATES, &[]).await?;
    let now = jiff::Timestamp::now().as_second();
    let rows = templates.iter().map(|template| row(template, args.no_trunc, now)).collect();
    let table = "{{.ID}}\t{{.Hypervisor}}\t{{.CPUs}}\t{{.Memory}}\t{{.Networks}}\t{{.Created}}\t{{.LastUsed}}\t{{.Size}}";
    let list = List { headings: HEADINGS, table, rows };
    listing::print(list, args.format.as_deref(), args.quiet)
}

fn row(template: &Template, no_trunc: bool, now: i64) -> Row {
    let id = if no_trunc { template.id.clone() } else { super::ps::short_id(&template.id) };
    let ago = |time: &str| {
        let time = time.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_second);
        time.map_or_else(|_| String::new(), |at| format!("{} ago", duration(now - at)))
    };
    vec![
        ("ID", Value::text(id)),
        ("Hypervisor", Value::text(format!("{} ({})", template.hypervisor, template.accelerator))),
        ("CPUs", Value::text(template.vcpus.to_string())),
        ("Memory", Value::text(format!("{}MiB", template.memory_mib))),
        ("Networks", Value::text(template.networks.to_string())),
        ("Kernel", Value::text(template.kernel.clone())),
        ("Created", Value::text(ago(&template.created))),
        ("LastUsed", Value::text(ago(&template.last_used))),
        ("Size", Value::text(human_size(template.size as f64))),
    ]
}

/// Makes a template and prints its id.
pub async fn create(app: &App, args: TemplateCreateArgs) -> Outcome {
    let body = body(&args).map_err(|error| Failure::from_error(&error).with_code(EXIT_DAEMON))?;
    let answer = app.client.post_json(TEMPLATES, &body).await?;
    let template: Template = serde_json::from_slice(&answer)
        .map_err(|source| Failure::from(ApiError::Answer { request: format!("POST {TEMPLATES}"), source }))?;
    output::line(&template.id)?;
    Ok(0)
}

/// The request's body: only what was given.
fn body(args: &TemplateCreateArgs) -> Result<serde_json::Value, FlagError> {
    let mut body = serde_json::Map::new();
    let mut set = |name: &str, value: Option<serde_json::Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    set("NanoCpus", args.cpus.as_deref().map(parse_cpus).transpose()?.map(|cpus| json!(cpus)));
    let memory = args.memory.as_deref().map(|text| parse_bytes("memory", text)).transpose()?;
    set("Memory", memory.map(|memory| json!(memory)));
    set("Hypervisor", args.hypervisor.as_ref().map(|name| json!(name)));
    set("Kernel", args.kernel.as_deref().map(kernel_path).transpose()?.map(|path| json!(path)));
    set("NetworkDisabled", (args.network == "none").then_some(json!(true)));
    Ok(body.into())
}

/// Removes templates and prints their ids.
pub async fn remove(app: &App, args: TemplateNamesArgs) -> Outcome {
    each(&args.templates, |id| async move {
        if id.is_empty() {
            return Err(ApiError::EmptyName { what: "template" });
        }
        app.client.send(Method::DELETE, &format!("{TEMPLATES}/{}", encode(id)), &[]).await?;
        Ok(id.to_owned())
    })
    .await
}

/// What a prune tells.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pruned {
    templates_deleted: Vec<String>,
    space_reclaimed: i64,
}

/// Removes all templates.
pub async fn prune(app: &App, args: TemplatePruneArgs) -> Outcome {
    if !args.force && !confirmed("This will remove all templates; the next pods boot.")? {
        return Ok(0);
    }
    let answer = app.client.post_json(&format!("{TEMPLATES}/prune"), &json!({})).await?;
    let pruned: Pruned = serde_json::from_slice(&answer).map_err(|source| {
        Failure::from(ApiError::Answer { request: format!("POST {TEMPLATES}/prune"), source })
    })?;
    let lines: String = pruned.templates_deleted.into_iter().map(|id| id + "\n").collect();
    report(&titled("Deleted Templates:\n", &lines), pruned.space_reclaimed)
}
