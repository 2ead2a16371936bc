//! Changing a container's limits.

use hyper_engine::ContainerUpdate;
use serde_json::json;

use super::{create_host, to_the_end};
use crate::fields::Fields;
use crate::http::{Result, ok, read_json};
use crate::route::Call;

pub(crate) async fn update(call: Call, id: &str) -> Result {
    let (engine, id) = (call.app.engine.clone(), id.to_owned());
    let body = read_json(call.request).await?;
    let mut fields = Fields::of(body, "")?;
    create_host::refuse_unsupported(&mut fields)?;
    fields.refuse("Ulimits", &[], "the limits of a process are set when it starts")?;
    fields.refuse("Devices", &[], "a container's devices are set when it is made")?;
    fields.refuse("DeviceCgroupRules", &[], "a container's devices are set when it is made")?;
    fields.refuse("OomScoreAdj", &[], "the score of a process is set when it starts")?;
    let policy = fields.take("RestartPolicy");
    let named = !Fields::of(policy.clone(), "RestartPolicy")?.string("Name")?.is_empty();
    let mut around = Fields::of(json!({"RestartPolicy": policy}), "")?;
    let restart = create_host::read_restart_policy(&mut around)?;
    let update = ContainerUpdate {
        resources: create_host::read_resources(&mut fields)?,
        restart: named.then_some(restart),
    };
    fields.finish()?;
    to_the_end(async move { engine.update(&id, &update).await }).await?;
    ok(&json!({"Warnings": null}))
}
