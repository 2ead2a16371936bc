//! Templates: endpoints of our own.

use hyper::StatusCode;
use hyper_engine::{Template, TemplateRequest, Timestamp};
use serde_json::{Value, json};

use super::to_the_end;
use crate::fields::Fields;
use crate::http::{Result, done, json as json_reply, ok, read_json};
use crate::route::Call;

pub(crate) async fn list(call: Call) -> Result {
    let templates = call.app.engine.templates().await?;
    ok(&templates.iter().map(template).collect::<Vec<_>>())
}

pub(crate) async fn create(call: Call) -> Result {
    let engine = call.app.engine.clone();
    let mut fields = Fields::of(read_json(call.request).await?, "")?;
    let optional = |text: String| (!text.is_empty()).then_some(text);
    let request = TemplateRequest {
        nano_cpus: fields.int("NanoCpus")?,
        memory: fields.int("Memory")?,
        isolated: fields.bool("NetworkDisabled")?,
        kernel: optional(fields.string("Kernel")?),
        hypervisor: optional(fields.string("Hypervisor")?),
    };
    fields.finish()?;
    let made = to_the_end(async move { engine.create_template(request).await }).await?;
    Ok(json_reply(StatusCode::CREATED, &template(&made)))
}

pub(crate) async fn remove(call: Call, key: &str) -> Result {
    call.app.engine.remove_template(key).await?;
    done()
}

pub(crate) async fn prune(call: Call) -> Result {
    let removed = call.app.engine.prune_templates().await?;
    let reclaimed: u64 = removed.iter().map(|template| template.bytes).sum();
    let keys: Vec<_> = removed.into_iter().map(|template| template.manifest.key).collect();
    ok(&json!({"TemplatesDeleted": keys, "SpaceReclaimed": reclaimed}))
}

fn template(template: &Template) -> Value {
    let manifest = &template.manifest;
    json!({
        "Id": manifest.key,
        "Hypervisor": manifest.hypervisor,
        "Accelerator": manifest.accelerator,
        "Version": manifest.version,
        "VCPUs": manifest.vcpus,
        "MemoryMiB": manifest.memory_mib,
        "Networks": manifest.nic_slots,
        "Kernel": manifest.kernel,
        "Created": Timestamp(manifest.created_unix_ns).to_string(),
        "TookMs": manifest.took_ms,
        "LastUsed": template.used.to_string(),
        "Size": template.bytes,
    })
}
