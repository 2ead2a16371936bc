//! `hyper pod …`

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::App;
use super::inspect::print_objects;
use super::ps::filters;
use crate::client::{ApiError, encode};
use crate::container::{FlagError, kernel_path, labels, parse_add_host, parse_bytes, parse_cpus, parse_pair};
use crate::error::{EXIT_DAEMON, Failure, Outcome};
use crate::format::{List, Row, Value, duration};
use crate::output;

/// Path of the pods.
pub const PODS: &str = "/hyper/pods";

/// Flags of `pod ls`.
#[derive(Debug, Args)]
pub struct PodListArgs {
    /// Display the containers' IDs
    #[arg(long)]
    ctr_ids: bool,
    /// Display the containers' names
    #[arg(long)]
    ctr_names: bool,
    /// Display the containers' states
    #[arg(long)]
    ctr_status: bool,
    #[arg(short, long, value_name = "KEY=VALUE", help = "Filter output based on conditions provided")]
    filter: Vec<String>,
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Do not print headings
    #[arg(short, long)]
    noheading: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display pod IDs
    #[arg(short, long)]
    quiet: bool,
    /// Sort by this
    #[arg(long, value_name = "FIELD", default_value = "created", value_parser = ["created", "id", "name", "number", "status"])]
    sort: String,
}

/// Flags of `pod create`.
#[derive(Debug, Args)]
pub struct PodCreateArgs {
    /// Add a custom host-to-IP mapping for the pod's containers
    #[arg(long, value_name = "HOST:IP")]
    add_host: Vec<String>,
    /// Number of CPUs
    #[arg(long, value_name = "DECIMAL")]
    cpus: Option<String>,
    /// Set custom DNS servers for the pod's containers
    #[arg(long, value_name = "IP")]
    dns: Vec<String>,
    /// Set DNS options for the pod's containers
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Set custom DNS search domains for the pod's containers
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Put a text file of this machine, as it is now, into each of the pod's containers
    #[arg(long, value_name = "FILE:PATH")]
    file: Vec<String>,
    /// Container NIS domain name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// Host name of the pod's containers (default its name)
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Run the pod on this hypervisor
    #[arg(long, value_name = "NAME")]
    hypervisor: Option<String>,
    /// Boot the pod with this kernel
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Add words to the kernel's command line
    #[arg(long, value_name = "NAME[=VALUE]")]
    kernel_arg: Vec<String>,
    /// Clone the pod's VM from a template where there is one, or never
    #[arg(long, value_name = "USE", value_parser = ["auto", "never"])]
    template: Option<String>,
    /// Set meta data on the pod
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Memory for the pod's containers
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Connect the pod to a network: default, bridge or none
    #[arg(long, value_name = "NETWORK", default_value = "default", value_parser = ["default", "bridge", "none"])]
    network: String,
    /// What the containers share beside network, IPC, host name and shared memory: pid
    #[arg(long, value_name = "NAMESPACES")]
    share: Option<String>,
    /// Sysctl options
    #[arg(long, value_name = "KEY=VALUE")]
    sysctl: Vec<String>,
    /// The pod's name
    #[arg(value_name = "NAME")]
    name: String,
}

/// Flags of `pod inspect`.
#[derive(Debug, Args)]
pub struct PodInspectArgs {
    /// Format output: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// The pods
    #[arg(required = true, value_name = "NAME|ID")]
    pods: Vec<String>,
}

const HEADINGS: &[(&str, &str)] = &[
    ("ID", "POD ID"),
    ("Name", "NAME"),
    ("Status", "STATUS"),
    ("State", "VM"),
    ("Containers", "CONTAINERS"),
    ("ContainerIds", "CONTAINER IDS"),
    ("ContainerNames", "NAMES"),
    ("ContainerStatuses", "STATUS"),
    ("Labels", "LABELS"),
    ("Hypervisor", "HYPERVISOR"),
    ("RunningFor", "CREATED"),
];

/// Lists pods.
pub async fn list(app: &App, args: PodListArgs) -> Outcome {
    let filters = filters(&args.filter)?;
    let filters = serde_json::to_string(&filters).unwrap_or_default();
    let mut pods: Vec<Value> = app.client.json(PODS, &[("filters", &filters)]).await?;
    sort(&mut pods, &args.sort);
    let now = jiff::Timestamp::now().as_second();
    let rows = pods.iter().map(|pod| row(pod, args.no_trunc, now)).collect();
    let mut table =
        "{{.ID}}\t{{.Name}}\t{{.Status}}\t{{.Containers}}\t{{.Hypervisor}}\t{{.RunningFor}}".to_owned();
    for (wanted, column) in [
        (args.ctr_ids, "\t{{.ContainerIds}}"),
        (args.ctr_names, "\t{{.ContainerNames}}"),
        (args.ctr_status, "\t{{.ContainerStatuses}}"),
    ] {
        table += if wanted { column } else { "" };
    }
    let list = List { headings: HEADINGS, table: &table, rows };
    let format = args.format.as_deref().or(args.quiet.then_some("{{.ID}}"));
    let text = list.render(format).map_err(|error| Failure::from_error(&error))?;
    let has_heading = format.is_none_or(|format| format.starts_with("table"));
    let text = match text.split_once('\n') {
        Some((_, rows)) if args.noheading && has_heading => rows,
        _ => &text,
    };
    output::write(text)?;
    Ok(0)
}

/// Sorts pods, which come newest first.
fn sort(pods: &mut [Value], by: &str) {
    let text = |pod: &Value, field: &str| pod.field(field).map(ToString::to_string).unwrap_or_default();
    match by {
        "id" => pods.sort_by_key(|pod| text(pod, "Id")),
        "name" => pods.sort_by_key(|pod| text(pod, "Name")),
        "status" => pods.sort_by_key(|pod| text(pod, "Status")),
        "number" => pods.sort_by_key(|pod| members(pod).len()),
        _ => {}
    }
}

fn members(pod: &Value) -> &[Value] {
    match pod.field("Containers") {
        Some(Value::List(containers)) => containers,
        _ => &[],
    }
}

fn row(pod: &Value, no_trunc: bool, now: i64) -> Row {
    let field = |names: &[&str]| names.iter().find_map(|name| pod.field(name));
    let text = |names: &[&str]| match field(names) {
        None | Some(Value::Nil(_)) => String::new(),
        Some(value) => value.to_string(),
    };
    let id = text(&["Id", "ID"]);
    let of_members = |name: &str, short: bool| {
        let each = members(pod)
            .iter()
            .filter_map(|container| container.field(name))
            .map(|value| if short { super::ps::short_id(&value.to_string()) } else { value.to_string() });
        Value::text(each.collect::<Vec<_>>().join(","))
    };
    let created = match field(&["Created"]) {
        Some(Value::Int(seconds)) => i64::try_from(*seconds).ok(),
        Some(Value::Text(time)) => time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second),
        _ => None,
    };
    vec![
        ("ID", Value::text(if no_trunc { id } else { super::ps::short_id(&id) })),
        ("Name", Value::text(text(&["Name"]))),
        ("Status", Value::text(text(&["Status", "State"]))),
        ("State", Value::text(text(&["State"]))),
        ("Containers", Value::text(members(pod).len().to_string())),
        ("ContainerIds", of_members("Id", !no_trunc)),
        ("ContainerNames", of_members("Name", false)),
        ("ContainerStatuses", of_members("State", false)),
        ("Labels", Value::text(labels_of(pod))),
        ("Hypervisor", Value::text(text(&["Hypervisor"]))),
        (
            "RunningFor",
            Value::text(created.map(|at| format!("{} ago", duration(now - at))).unwrap_or_default()),
        ),
    ]
}

/// Labels as docker's lists have them.
fn labels_of(pod: &Value) -> String {
    match pod.field("Labels").map(Value::to_json).map(|json| serde_json::from_str(&json)) {
        Some(Ok(serde_json::Value::Object(labels))) => {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            labels.iter().map(|(key, value)| format!("{key}={}", text(value))).collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    }
}

/// Creates a pod and prints its id.
pub async fn create(app: &App, args: PodCreateArgs) -> Outcome {
    let body = body(&args).map_err(|error| Failure::from_error(&error).with_code(EXIT_DAEMON))?;
    let answer = app.client.post_json(PODS, &body).await?;
    let pod: Value = serde_json::from_slice(&answer)
        .map_err(|source| Failure::from(ApiError::Answer { request: format!("POST {PODS}"), source }))?;
    let id = pod.field("Id").or_else(|| pod.field("ID")).map_or(args.name, ToString::to_string);
    output::line(&id)?;
    Ok(0)
}

/// The request's body: only what was given.
fn body(args: &PodCreateArgs) -> Result<serde_json::Value, FlagError> {
    if args.name.is_empty() {
        return Err(FlagError::new("name", "", "the pod needs a name"));
    }
    let mut body = serde_json::Map::from_iter([("Name".to_owned(), json!(args.name))]);
    let mut set = |name: &str, value: Option<serde_json::Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    set("NanoCpus", args.cpus.as_deref().map(parse_cpus).transpose()?.map(|cpus| json!(cpus)));
    let memory = args.memory.as_deref().map(|text| parse_bytes("memory", text)).transpose()?;
    set("Memory", memory.map(|memory| json!(memory)));
    set("Hostname", args.hostname.as_ref().map(|name| json!(name)));
    set("Domainname", args.domainname.as_ref().map(|name| json!(name)));
    set("Hypervisor", args.hypervisor.as_ref().map(|name| json!(name)));
    set("Template", args.template.as_ref().map(|word| json!(word)));
    set("Kernel", args.kernel.as_deref().map(kernel_path).transpose()?.map(|path| json!(path)));
    set("NetworkDisabled", (args.network == "none").then_some(json!(true)));
    set("ShareProcessNamespace", args.share.as_deref().map(shared).transpose()?.map(|pids| json!(pids)));
    let words = |words: &[String]| (!words.is_empty()).then(|| json!(words));
    set("Dns", words(&args.dns));
    set("DnsOptions", words(&args.dns_option));
    set("DnsSearch", words(&args.dns_search));
    let hosts = args.add_host.iter().map(|text| parse_add_host(text)).collect::<Result<Vec<_>, _>>()?;
    set("ExtraHosts", words(&hosts));
    set("KernelArgs", words(&args.kernel_arg));
    let files = args.file.iter().map(|text| read_file(text)).collect::<Result<HashMap<_, _>, _>>()?;
    set("Files", (!files.is_empty()).then_some(json!(files)));
    set("Labels", (!args.label.is_empty()).then_some(json!(labels(&[], &args.label)?)));
    let sysctls: HashMap<String, String> =
        args.sysctl.iter().map(|text| parse_pair("sysctl", text)).collect::<Result<_, _>>()?;
    set("Sysctls", (!sysctls.is_empty()).then_some(json!(sysctls)));
    Ok(body.into())
}

/// A `--file`: where it goes, and what is in it.
fn read_file(text: &str) -> Result<(String, String), FlagError> {
    /// What the daemon takes of all files together.
    const MAX: u64 = 512 << 10;
    use std::io::Read as _;
    let failed = |reason: &str| FlagError::new("file", text, reason);
    let (source, target) = text.rsplit_once(':').ok_or_else(|| failed("use FILE:PATH"))?;
    let open = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(source)?.take(MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = open().map_err(|error| failed(&error.to_string()))?;
    if bytes.len() as u64 > MAX {
        return Err(failed("it has more than 512 KiB: mount a volume instead"));
    }
    let content = String::from_utf8(bytes).map_err(|_| failed("it is no text: mount a volume instead"))?;
    Ok((target.to_owned(), content))
}

/// Whether the containers share a PID namespace, by podman's `--share`.
fn shared(text: &str) -> Result<bool, FlagError> {
    let mut pids = false;
    for name in text.split(',') {
        match name.trim_start_matches('+') {
            "pid" => pids = true,
            // They always do: the network is the VM's.
            "ipc" | "net" | "uts" => {}
            other => {
                return Err(FlagError::new(
                    "share",
                    other,
                    "the containers of a pod share net, ipc and uts, and pid by choice",
                ));
            }
        }
    }
    Ok(pids)
}

/// Shows pods as the daemon describes them.
pub async fn inspect(app: &App, args: PodInspectArgs) -> Outcome {
    let mut pods = Vec::new();
    let mut failures = Vec::new();
    for name in &args.pods {
        match app.client.bytes(&format!("{PODS}/{}", encode(name)), &[]).await {
            Ok(pod) => pods.push(pod),
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    print_objects(&pods, args.format.as_deref(), failures)
}

/// A pod's name as it goes into a path.
///
/// # Errors
/// It is empty.
pub fn checked(name: &str) -> Result<String, ApiError> {
    if name.is_empty() { Err(ApiError::EmptyName { what: "pod" }) } else { Ok(encode(name)) }
}
