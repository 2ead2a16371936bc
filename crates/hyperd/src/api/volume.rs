//! Volumes.

use std::collections::BTreeMap;

use hyper::StatusCode;
use hyper_engine::{Filters, VOLUME_FILTERS, VOLUME_PRUNE_FILTERS, VolumeInfo, VolumeRequest};
use serde_json::{Value, json};

use super::to_the_end;
use crate::fields::Fields;
use crate::http::{ApiError, Result, done, json as json_reply, ok, read_json};
use crate::route::Call;

/// The first version in which a prune takes volumes without names only.
const PRUNE_ANONYMOUS: u32 = 42;

pub(crate) async fn list(call: Call) -> Result {
    let filters = Filters::parse(call.query.get("filters"), VOLUME_FILTERS)?;
    let volumes = call.app.engine.volumes(&filters, false).await?;
    ok(&json!({"Volumes": volumes.iter().map(volume).collect::<Vec<_>>(), "Warnings": null}))
}

pub(crate) fn inspect(call: &Call, name: &str) -> Result {
    ok(&volume(&call.app.engine.volume(name)?))
}

pub(crate) async fn create(call: Call) -> Result {
    let engine = call.app.engine.clone();
    let mut fields = Fields::of(read_json(call.request).await?, "")?;
    let request = VolumeRequest {
        name: fields.string("Name")?,
        driver: fields.string("Driver")?,
        labels: optional_map(&mut fields, "Labels")?,
        options: optional_map(&mut fields, "DriverOpts")?,
    };
    fields.refuse("ClusterVolumeSpec", &[], "there is no cluster")?;
    fields.finish()?;
    let made = to_the_end(async move { engine.create_volume(request).await }).await?;
    Ok(json_reply(StatusCode::CREATED, &volume(&made)))
}

/// An object of strings, or `None` where there is none.
fn optional_map(fields: &mut Fields, name: &str) -> Result<Option<BTreeMap<String, String>>, ApiError> {
    let map = fields.string_map(name)?;
    Ok((!map.is_empty()).then_some(map))
}

pub(crate) async fn remove(call: Call, name: &str) -> Result {
    let (engine, name, force) = (call.app.engine.clone(), name.to_owned(), call.query.bool("force"));
    to_the_end(async move { engine.remove_volume(&name, force).await }).await?;
    done()
}

pub(crate) async fn prune(call: Call) -> Result {
    let mut text = call.query.get("filters").to_owned();
    if call.version < PRUNE_ANONYMOUS {
        let mut filters: Value = serde_json::from_str(&text).unwrap_or_else(|_| json!({}));
        if filters.get("all").is_none() && filters.is_object() {
            filters["all"] = json!(["true"]);
            text = filters.to_string();
        }
    }
    let filters = Filters::parse(&text, VOLUME_PRUNE_FILTERS)?;
    let engine = call.app.engine.clone();
    let (names, freed) = to_the_end(async move { engine.prune_volumes(&filters).await }).await?;
    let names = if names.is_empty() { Value::Null } else { json!(names) };
    ok(&json!({"VolumesDeleted": names, "SpaceReclaimed": freed}))
}

pub(super) fn volume(info: &VolumeInfo) -> Value {
    let record = &info.record;
    // Seconds are what docker keeps of it.
    let created = record.created.to_string();
    let seconds = created.split_once('.').map_or_else(|| created.clone(), |(whole, _)| format!("{whole}Z"));
    let mut value = json!({
        "CreatedAt": seconds,
        "Driver": record.driver.word(),
        "Labels": record.labels,
        "Mountpoint": info.mountpoint,
        "Name": record.name,
        "Options": record.options,
        "Scope": "local",
    });
    if let Some(size) = info.size {
        value["UsageData"] = json!({"Size": size, "RefCount": info.references});
    }
    value
}
