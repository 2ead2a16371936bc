//! Pods: endpoints of our own.

use hyper::StatusCode;
use hyper_engine::{
    Filters, NameOptions, Origin, POD_FILTERS, POD_PRUNE_FILTERS, PodInfo, PodRequest, TemplateUse,
};
use serde_json::{Value, json};

use super::to_the_end;
use crate::fields::Fields;
use crate::http::{ApiError, Result, done, json as json_reply, ok, read_json};
use crate::route::Call;

pub(crate) async fn create(call: Call) -> Result {
    let engine = call.app.engine.clone();
    let mut fields = Fields::of(read_json(call.request).await?, "")?;
    let optional = |text: String| (!text.is_empty()).then_some(text);
    let request = PodRequest {
        name: fields.string("Name")?,
        nano_cpus: fields.int("NanoCpus")?,
        memory: fields.int("Memory")?,
        hostname: fields.string("Hostname")?,
        domainname: fields.string("Domainname")?,
        isolated: fields.bool("NetworkDisabled")?,
        sysctls: fields.string_map("Sysctls")?,
        labels: fields.string_map("Labels")?,
        kernel: optional(fields.string("Kernel")?),
        hypervisor: optional(fields.string("Hypervisor")?),
        share_pids: fields.bool("ShareProcessNamespace")?,
        kernel_args: fields.strings("KernelArgs")?,
        names: NameOptions {
            servers: fields.strings("Dns")?,
            search: fields.strings("DnsSearch")?,
            options: fields.strings("DnsOptions")?,
            hosts: fields.strings("ExtraHosts")?,
        },
        files: fields.string_map("Files")?,
        template: TemplateUse::parse(&fields.string("Template")?)?,
    };
    fields.finish()?;
    let id = to_the_end(async move { engine.create_pod(request).await }).await?;
    Ok(json_reply(StatusCode::CREATED, &json!({"Id": id, "Warnings": []})))
}

pub(crate) async fn list(call: Call) -> Result {
    let filters = Filters::parse(call.query.get("filters"), POD_FILTERS)?;
    let pods = call.app.engine.list_pods_filtered(&filters).await?;
    ok(&pods.iter().map(pod).collect::<Vec<_>>())
}

pub(crate) async fn inspect(call: Call, name: &str) -> Result {
    ok(&pod(&call.app.engine.inspect_pod(name).await?))
}

pub(crate) async fn start(call: Call, name: &str) -> Result {
    let (engine, name) = (call.app.engine.clone(), name.to_owned());
    to_the_end(async move { engine.start_pod(&name).await }).await?;
    done()
}

pub(crate) async fn remove(call: Call, name: &str) -> Result {
    let (engine, name, force) = (call.app.engine.clone(), name.to_owned(), call.query.bool("force"));
    let timeout = call.query.number("t")?;
    if timeout.is_some() && !force {
        return Err(ApiError::invalid(
            "parameter t of a removal is for force alone: nothing that runs is removed",
        ));
    }
    to_the_end(async move { engine.remove_pod(&name, force, timeout).await }).await?;
    done()
}

pub(crate) async fn update(call: Call, name: &str) -> Result {
    let (engine, name) = (call.app.engine.clone(), name.to_owned());
    let mut fields = Fields::of(read_json(call.request).await?, "")?;
    let given = |number: i64| (number != 0).then_some(number);
    let (cpus, memory) = (given(fields.int("NanoCpus")?), given(fields.int("Memory")?));
    fields.finish()?;
    to_the_end(async move { engine.update_pod(&name, cpus, memory).await }).await?;
    done()
}

pub(crate) async fn stop(call: Call, name: &str) -> Result {
    let (engine, name, timeout) = (call.app.engine.clone(), name.to_owned(), call.query.number("t")?);
    to_the_end(async move { engine.stop_pod(&name, timeout).await }).await?;
    done()
}

pub(crate) async fn restart(call: Call, name: &str) -> Result {
    let (engine, name, timeout) = (call.app.engine.clone(), name.to_owned(), call.query.number("t")?);
    to_the_end(async move { engine.restart_pod(&name, timeout).await }).await?;
    done()
}

pub(crate) async fn kill(call: Call, name: &str) -> Result {
    let (engine, name) = (call.app.engine.clone(), name.to_owned());
    let signal = call.query.get("signal").to_owned();
    to_the_end(async move { engine.kill_pod(&name, &signal).await }).await?;
    done()
}

pub(crate) async fn pause(call: Call, name: &str) -> Result {
    let (engine, name) = (call.app.engine.clone(), name.to_owned());
    to_the_end(async move { engine.pause_pod(&name).await }).await?;
    done()
}

pub(crate) async fn unpause(call: Call, name: &str) -> Result {
    let (engine, name) = (call.app.engine.clone(), name.to_owned());
    to_the_end(async move { engine.unpause_pod(&name).await }).await?;
    done()
}

pub(crate) async fn prune(call: Call) -> Result {
    let filters = Filters::parse(call.query.get("filters"), POD_PRUNE_FILTERS)?;
    let engine = call.app.engine.clone();
    let (ids, freed) = to_the_end(async move { engine.prune_pods(&filters).await }).await?;
    ok(&json!({"PodsDeleted": ids, "SpaceReclaimed": freed}))
}

fn pod(info: &PodInfo) -> Value {
    let (record, options) = (&info.record, &info.record.options);
    let containers: Vec<_> = info
        .containers
        .iter()
        .map(|container| {
            json!({"Id": container.id, "Name": container.name, "State": container.state.status()})
        })
        .collect();
    let address = record.endpoint.as_ref().map(|endpoint| endpoint.address.addr().to_string());
    json!({
        "Id": record.id,
        "Name": record.name.as_deref().unwrap_or_default(),
        "Explicit": record.explicit,
        "Created": record.created.to_string(),
        "Started": record.started.map(|at| at.to_string()),
        "Status": info.status().name(),
        "State": if info.vm.is_some() { "running" } else { "stopped" },
        "Containers": containers,
        "VCPUs": options.vcpus,
        "MemoryMiB": options.memory_mib,
        "Hostname": options.hostname,
        "Domainname": options.domainname,
        "Sysctls": options.sysctl,
        "ShareProcessNamespace": options.share_pids,
        "Labels": options.labels,
        "Dns": options.names.servers,
        "DnsSearch": options.names.search,
        "DnsOptions": options.names.options,
        "ExtraHosts": options.names.hosts,
        "KernelArgs": options.kernel_args,
        "Files": options.files.keys().collect::<Vec<_>>(),
        "IPAddress": address.unwrap_or_default(),
        "Kernel": options.kernel,
        "Hypervisor": info.vm.as_ref().map_or_else(
            || options.hypervisor.clone().unwrap_or_default(),
            |vm| format!("{} ({})", vm.hypervisor, vm.accelerator),
        ),
        "KernelVersion": info.vm.as_ref().and_then(|vm| vm.kernel.clone()),
        "Template": options.template.word(),
        "Origin": info.vm.as_ref().map(|vm| origin(&vm.origin)),
        "AgentMemory": info.vm.as_ref().and_then(|vm| vm.agent_rss),
        "Pid": info.vm.as_ref().and_then(|vm| vm.vmm_pid),
    })
}

/// How a VM came up, in words.
fn origin(origin: &Origin) -> String {
    match origin {
        Origin::Booted | Origin::Unable => "booted".to_owned(),
        Origin::Cloned(key) => format!("cloned from template {key}"),
        Origin::Shares => "booted: it shares directories of the host".to_owned(),
        Origin::NoTemplate { unsound: None, .. } => "booted: there was no template yet".to_owned(),
        Origin::NoTemplate { unsound: Some(why), .. } => {
            format!("booted: the template was thrown away: {why}")
        }
    }
}
