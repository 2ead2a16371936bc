//! Images on their way to registries, and a look at what registries have.

use hyper_engine::EngineError;
use hyper_engine::image::{Progress, Reference};
use serde_json::json;

use super::image_transfer::{platform, progress_reply, push_auth, registry_auth, teller};
use crate::http::{Result, ok};
use crate::route::Call;

/// `POST /images/{name}/push`: the tag of the query or the name; without one, all tags.
pub(crate) async fn push(call: Call, name: &str) -> Result {
    let reference = Reference::parse_untagged(name).map_err(EngineError::from)?;
    let reference = match call.query.get("tag") {
        "" => reference,
        tag => reference.with_tag(tag).map_err(EngineError::from)?,
    };
    let (platform, engine) = (platform(&call)?, call.app.engine.clone());
    let auth = push_auth(call).await?;
    let (teller, told) = teller();
    let work = async move {
        let progress = move |event: Progress| teller.tell(event);
        let pushed = engine.images().push(&reference, platform, auth, progress).await?;
        for (tag, digest) in &pushed {
            tracing::info!(image = %reference, tag, %digest, "pushed");
        }
        engine.image_event("push", &reference.to_string(), &reference.familiar_name());
        Ok(())
    };
    progress_reply(told, work).await
}

/// `GET /distribution/{name}/json`
pub(crate) async fn distribution(call: Call, name: &str) -> Result {
    let reference = Reference::parse(name).map_err(EngineError::from)?;
    let auth = registry_auth(&call);
    let found = call.app.engine.images().look(&reference, auth).await.map_err(EngineError::from)?;
    let platforms: Vec<_> = found
        .platforms
        .iter()
        .map(|platform| {
            let mut json = json!({"architecture": platform.architecture, "os": platform.os});
            if let Some(variant) = &platform.variant {
                json["variant"] = json!(variant);
            }
            json
        })
        .collect();
    ok(&json!({
        "Descriptor": {
            "mediaType": found.media_type, "digest": found.digest.to_string(), "size": found.size,
        },
        "Platforms": platforms,
    }))
}
