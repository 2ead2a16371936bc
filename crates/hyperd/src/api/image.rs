//! Images: showing, naming, removing.

use hyper::StatusCode;
use hyper_engine::image::{Image, ImageId, ImageUse, Reference, Removed};
use hyper_engine::{Engine, EngineError, Filters, Kind, ListQuery, Timestamp};
use serde_json::{Map, Value, json};

use crate::http::{ApiError, Result, empty, ok};
use crate::route::Call;

/// Filters of the image list.
const FILTERS: &[&str] = &["dangling", "label", "label!", "before", "since", "reference", "until"];

/// Runs work on the store where blocking is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> hyper_engine::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(ApiError::from),
        Err(error) => {
            tracing::error!(%error, "work on images ended early");
            Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "work on images ended early"))
        }
    }
}

/// All images, newest first.
pub(super) async fn all(engine: &Engine) -> Result<Vec<Image>> {
    let store = engine.images().clone();
    blocking(move || store.list().map_err(EngineError::from)).await
}

pub(super) async fn get(engine: &Engine, name: &str) -> Result<Image> {
    let (store, name) = (engine.images().clone(), name.to_owned());
    blocking(move || store.get(&name).map_err(EngineError::from)).await
}

pub(crate) async fn list(call: Call) -> Result {
    let filters = Filters::parse(call.query.get("filters"), FILTERS)?;
    let images = all(&call.app.engine).await?;
    let created = |name: &str| -> Result<Option<i64>> {
        let store = call.app.engine.images();
        let times = filters.values(name).iter().map(|reference| {
            store
                .get(reference)
                .map(|image| image.created_seconds)
                .map_err(|error| EngineError::from(error).into())
        });
        Ok(times.collect::<Result<Vec<_>>>()?.into_iter().min())
    };
    let (before, since) = (created("before")?, created("since")?);
    let dangling = filters.boolean("dangling")?;
    let until = until(&filters).map_err(ApiError::blamed)?;
    let shown = images.iter().filter(|image| {
        dangling.is_none_or(|wanted| image.repo_tags.is_empty() == wanted)
            && before.is_none_or(|time| image.created_seconds < time)
            && since.is_none_or(|time| image.created_seconds > time)
            && until.is_none_or(|time| image.created_seconds < time.seconds())
            && filters.matches_labels(&image.config.config.labels)
            && filters.any("reference", &|pattern| {
                image.repo_tags.iter().chain(&image.repo_digests).any(|name| name_matches(name, pattern))
            })
    });
    let mut values: Vec<Value> = shown.map(|image| summary(image, -1)).collect();
    let patterns = filters.values("reference");
    if !patterns.is_empty() {
        // Of the names, too, only those that were asked for are shown.
        let wanted = |name: &Value| {
            name.as_str().is_some_and(|name| patterns.iter().any(|pattern| name_matches(name, pattern)))
        };
        for value in &mut values {
            for key in ["RepoTags", "RepoDigests"] {
                if let Some(names) = value[key].as_array_mut() {
                    names.retain(wanted);
                }
            }
        }
    }
    ok(&values)
}

/// Docker matches a pattern against the whole name, and against it without the tag.
fn name_matches(name: &str, pattern: &str) -> bool {
    let untagged = name.split('@').next().unwrap_or(name);
    let repository = match untagged.rfind(':') {
        Some(at) if !untagged[at..].contains('/') => &untagged[..at],
        _ => untagged,
    };
    glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), repository.as_bytes())
}

/// `*` is any text without a slash, `?` any byte but a slash.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // The positions to go back to when what follows the last star does not fit.
    let (mut at, mut position, mut star) = (0, 0, None);
    while position < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, position));
                at += 1;
            }
            Some(&byte) if byte == text[position] || (byte == b'?' && text[position] != b'/') => {
                at += 1;
                position += 1;
            }
            _ => match star {
                Some((star_at, taken)) if text[taken] != b'/' => {
                    star = Some((star_at, taken + 1));
                    at = star_at + 1;
                    position = taken + 1;
                }
                _ => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

pub(super) fn summary(image: &Image, containers: i64) -> Value {
    let labels = &image.config.config.labels;
    json!({
        "Containers": containers,
        "Created": image.created_seconds,
        "Id": image.id.to_string(),
        "Labels": if labels.is_empty() { Value::Null } else { json!(labels) },
        "ParentId": "",
        "RepoDigests": image.repo_digests,
        "RepoTags": image.repo_tags,
        "SharedSize": -1,
        "Size": image.size,
    })
}

pub(crate) async fn inspect(call: Call, name: &str) -> Result {
    let image = get(&call.app.engine, name).await?;
    let tagged = Timestamp::from_parts(image.last_tagged_seconds, 0).to_string();
    let layers: Vec<String> = image.layers.iter().map(|layer| layer.blob.display().to_string()).collect();
    let mut value = json!({
        "Id": image.id.to_string(),
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Parent": "",
        "Comment": image.comment,
        "Created": image.created,
        "DockerVersion": image.config.docker_version.clone().unwrap_or_default(),
        "Author": image.author,
        "Config": config(&image),
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size,
        "GraphDriver": {
            "Data": {"Layers": layers.join(":")},
            "Name": "erofs",
        },
        "RootFS": {
            "Type": "layers",
            "Layers": image.layers.iter().map(|layer| layer.diff_id.to_string()).collect::<Vec<_>>(),
        },
        "Metadata": {"LastTagTime": tagged},
    });
    if let Some(variant) = &image.variant {
        value["Variant"] = variant.clone().into();
    }
    ok(&value)
}

/// An image's configuration with all of docker's fields, those that it leaves out as docker shows them.
fn config(image: &Image) -> Value {
    let given = serde_json::to_value(&image.config.config).unwrap_or_default();
    let mut config: Map<String, Value> = match json!({
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
        "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": null, "Cmd": null, "Image": "", "Volumes": null,
        "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": null,
    }) {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    if let Value::Object(given) = given {
        config.extend(given);
    }
    Value::Object(config)
}

pub(crate) async fn history(call: Call, name: &str) -> Result {
    let (store, name) = (call.app.engine.images().clone(), name.to_owned());
    let entries = blocking(move || store.history(&name).map_err(EngineError::from)).await?;
    let lines = entries.iter().map(|entry| {
        json!({
            "Comment": entry.comment,
            "Created": entry.created,
            "CreatedBy": entry.created_by,
            "Id": entry.id,
            "Size": entry.size,
            "Tags": if entry.tags.is_empty() { Value::Null } else { json!(entry.tags) },
        })
    });
    ok(&lines.collect::<Vec<_>>())
}

pub(crate) async fn tag(call: Call, name: &str) -> Result {
    let (repository, tag) = (call.query.get("repo"), call.query.get("tag"));
    let target = match tag {
        "" => repository.to_owned(),
        tag => format!("{repository}:{tag}"),
    };
    let target = Reference::parse(&target).map_err(EngineError::from)?;
    let engine = call.app.engine.clone();
    let name = name.to_owned();
    blocking(move || {
        // For dockerd a name that cannot be is one that is not there.
        engine.images().tag(&name, &target).map_err(EngineError::from).map_err(|error| match error.kind {
            Kind::Invalid => EngineError { kind: Kind::NotFound, ..error },
            _ => error,
        })?;
        let id = engine.images().get(&name).map(|image| image.id.to_string()).unwrap_or_default();
        engine.image_event("tag", &id, &target.to_string());
        Ok(())
    })
    .await?;
    Ok(empty(StatusCode::CREATED))
}

pub(crate) async fn remove(call: Call, name: &str) -> Result {
    let (force, no_prune) = (call.query.bool("force"), call.query.bool("noprune"));
    let engine = call.app.engine.clone();
    let still = engine.keep_image_uses().await;
    let uses = image_uses(&engine).await?;
    let name = name.to_owned();
    let removed = blocking(move || {
        let _still = still;
        let removed = engine.images().remove(&name, force, no_prune, &|id| used_by(&uses, id))?;
        for removal in &removed {
            match removal {
                Removed::Untagged(name) => engine.image_event("untag", name, name),
                Removed::Deleted(id) => engine.image_event("delete", id, id),
            }
        }
        Ok(removed)
    })
    .await?;
    ok(&removals(&removed))
}

/// Image ids and the containers made from them, running ones first.
async fn image_uses(engine: &Engine) -> Result<Vec<(String, ImageUse)>> {
    let containers = engine.list(&ListQuery { all: true, ..ListQuery::default() }).await?;
    let mut uses: Vec<_> = containers
        .into_iter()
        .map(|info| {
            let running = info.record.state.is_running();
            (info.record.image_id, ImageUse { container: info.record.id, running })
        })
        .collect();
    uses.sort_by_key(|(_, by)| !by.running);
    Ok(uses)
}

fn used_by(uses: &[(String, ImageUse)], id: &ImageId) -> Option<ImageUse> {
    let id = id.to_string();
    uses.iter().find(|(image, _)| *image == id).map(|(_, by)| by.clone())
}

fn removals(removed: &[Removed]) -> Vec<Value> {
    removed
        .iter()
        .map(|removal| match removal {
            Removed::Untagged(name) => json!({"Untagged": name}),
            Removed::Deleted(id) => json!({"Deleted": id}),
        })
        .collect()
}

/// The time before which images must have been made: a point in time, or a duration before now.
fn until(filters: &Filters) -> Result<Option<Timestamp>> {
    let text = match filters.values("until") {
        [] => return Ok(None),
        [text] => text,
        _ => return Err(ApiError::invalid("more than one until filter specified")),
    };
    let before_now = |nanos| Timestamp(Timestamp::now().0.saturating_sub(nanos));
    Timestamp::parse(text)
        .or_else(|| hyper_engine::parse_duration(text).map(before_now))
        .map(Some)
        .ok_or_else(|| ApiError::invalid(format!("failed to parse value as time or duration: {text:?}")))
}

pub(crate) async fn prune(call: Call) -> Result {
    let filters = Filters::parse(call.query.get("filters"), &["dangling", "label", "label!", "until"])?;
    let only_dangling = filters.boolean("dangling")?.unwrap_or(true);
    let until = until(&filters)?;
    let engine = call.app.engine.clone();
    let still = engine.keep_image_uses().await;
    let uses = image_uses(&engine).await?;
    let images = all(&engine).await?;
    let (removed, freed) = blocking(move || {
        let _still = still;
        let (mut removed, mut freed) = (Vec::new(), 0);
        for image in images {
            let wanted = (!only_dangling || image.repo_tags.is_empty())
                && used_by(&uses, &image.id).is_none()
                && until.is_none_or(|until| image.created_seconds < until.seconds())
                && filters.matches_labels(&image.config.config.labels);
            if !wanted {
                continue;
            }
            match engine.images().remove(&image.id.to_string(), true, false, &|id| used_by(&uses, id)) {
                Ok(gone) => {
                    freed += image.size;
                    for removal in &gone {
                        match removal {
                            Removed::Untagged(name) => engine.image_event("untag", name, name),
                            Removed::Deleted(id) => engine.image_event("delete", id, id),
                        }
                    }
                    removed.extend(gone);
                }
                Err(error) => tracing::warn!(%error, "cannot prune an image"),
            }
        }
        // What pulls that failed or died left for another attempt.
        if let Err(error) = engine.images().collect_garbage() {
            tracing::warn!(%error, "cannot prune what unfinished pulls left");
        }
        Ok((removed, freed))
    })
    .await?;
    let list = removals(&removed);
    let list = if list.is_empty() { Value::Null } else { json!(list) };
    ok(&json!({"ImagesDeleted": list, "SpaceReclaimed": freed}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_filter_has_stars_and_optional_tags() {
        for (name, pattern, fits) in [
            ("debian:12", "debian", true),
            ("debian:12", "deb*", true),
            ("debian:12", "*:12", true),
            ("localhost:5000/debian:12", "localhost:5000/debian", true),
            ("localhost:5000/debian:12", "debian", false),
            ("a/b:1", "*", false),
            ("a/b:1", "a/?", true),
            ("debian:12", "debian:13", false),
        ] {
            assert_eq!(name_matches(name, pattern), fits, "{name} {pattern}");
        }
    }
}
