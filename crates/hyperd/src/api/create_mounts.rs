//! What a request for a container says of volumes and files of the host.

use hyper_engine::{ContainerOptions, MountRequest, propagation};
use serde_json::{Value, json};

use crate::fields::Fields;
use crate::http::{ApiError, Result};

/// Adds the fields of a `HostConfig` that are about mounts to a container's options.
pub(super) fn read(host: &mut Fields, options: &mut ContainerOptions) -> Result<()> {
    options.mounts.binds = host.strings("Binds")?;
    options.mounts.volumes_from = host.strings("VolumesFrom")?;
    options.mounts.volume_driver = host.string("VolumeDriver")?;
    let mounts = match host.take("Mounts") {
        Value::Null => return Ok(()),
        Value::Array(mounts) => mounts,
        _ => return Err(ApiError::invalid("invalid JSON: HostConfig.Mounts must be a list")),
    };
    for mount in mounts {
        options.mounts.written.push(mount.clone());
        let mut mount = Fields::of(mount, "HostConfig.Mounts")?;
        let kind = mount.string("Type")?;
        match kind.as_str() {
            "tmpfs" => read_tmpfs(mount, options)?,
            "bind" | "volume" => options.mounts.mounts.push(read_mount(mount, kind == "bind")?),
            "npipe" => return Err(ApiError::unsupported("mounts of type npipe are for Windows containers")),
            "cluster" => {
                return Err(ApiError::unsupported("mounts of type cluster need a swarm, there is none"));
            }
            "image" => {
                return Err(ApiError::unsupported(
                    "HostConfig.Mounts of type image is not supported: mounting images comes later",
                ));
            }
            other => {
                return Err(ApiError::invalid(format!(
                    "invalid mount config for type \"{other}\": mount type unknown"
                )));
            }
        }
    }
    Ok(())
}

fn read_mount(mut mount: Fields, bind: bool) -> Result<MountRequest> {
    let kind = if bind { "bind" } else { "volume" };
    let mut request = MountRequest {
        bind,
        source: mount.string("Source")?,
        target: mount.string("Target")?,
        read_only: mount.bool("ReadOnly")?,
        ..MountRequest::default()
    };
    mount.refuse(
        "Consistency",
        &[json!("default"), json!("consistent"), json!("cached"), json!("delegated")],
        "",
    )?;
    let foreign = if bind { ["VolumeOptions", "TmpfsOptions"] } else { ["BindOptions", "TmpfsOptions"] };
    for name in foreign.into_iter().chain(["ImageOptions", "ClusterOptions"]) {
        if mount.take(name) != Value::Null {
            return Err(ApiError::invalid(format!(
                "invalid mount config for type \"{kind}\": field {name} must not be specified"
            )));
        }
    }
    if bind {
        let mut details = mount.object("BindOptions")?;
        match details.string("Propagation")?.as_str() {
            "" | "private" | "rprivate" => {}
            word => return Err(propagation(word).into()),
        }
        request.create_source = details.bool("CreateMountpoint")?;
        details.refuse("NonRecursive", &[], "what is mounted below a directory is shared with it")?;
        details.refuse(
            "ReadOnlyNonRecursive",
            &[],
            "what is mounted below a directory is as read-only as it",
        )?;
        // That is so in any case.
        details.bool("ReadOnlyForceRecursive")?;
        details.finish()?;
    } else {
        let mut details = mount.object("VolumeOptions")?;
        request.no_copy = details.bool("NoCopy")?;
        request.labels = details.string_map("Labels")?;
        request.subpath = details.string("Subpath")?;
        let mut driver = details.object("DriverConfig")?;
        request.driver = driver.string("Name")?;
        request.driver_options = driver.string_map("Options")?;
        driver.finish()?;
        details.finish()?;
    }
    mount.finish()?;
    Ok(request)
}

fn read_tmpfs(mut mount: Fields, options: &mut ContainerOptions) -> Result<()> {
    let target = mount.string("Target")?;
    mount.refuse("Source", &[], "a tmpfs has no source")?;
    mount.refuse("Consistency", &[json!("default")], "it is for other platforms")?;
    let mut words = Vec::new();
    if mount.bool("ReadOnly")? {
        words.push("ro".to_owned());
    }
    let mut tmpfs = mount.object("TmpfsOptions")?;
    let size = tmpfs.int("SizeBytes")?;
    if size > 0 {
        words.push(format!("size={size}"));
    }
    let mode = tmpfs.int("Mode")?;
    if mode > 0 {
        words.push(format!("mode={mode:o}"));
    }
    tmpfs.finish()?;
    mount.finish()?;
    if options.tmpfs.insert(target.clone(), words.join(",")).is_some() {
        return Err(ApiError::invalid(format!("Duplicate mount point: {target}")));
    }
    Ok(())
}

/// Adds what a `HostConfig` shows of mounts.
pub(super) fn show(options: &ContainerOptions, host: &mut serde_json::Map<String, Value>) {
    let mounts = &options.mounts;
    let list = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
    host.insert("Binds".into(), list(&mounts.binds));
    host.insert("VolumesFrom".into(), list(&mounts.volumes_from));
    host.insert("VolumeDriver".into(), json!(mounts.volume_driver));
    if !mounts.written.is_empty() {
        host.insert("Mounts".into(), json!(mounts.written));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_host(host: Value) -> Result<ContainerOptions> {
        let mut options = ContainerOptions::default();
        let mut fields = Fields::of(host, "HostConfig")?;
        read(&mut fields, &mut options)?;
        fields.finish()?;
        Ok(options)
    }

    #[test]
    fn mounts_of_every_kind_are_taken_over() {
        let options = read_host(json!({
            "Binds": ["/a:/b:ro"], "VolumesFrom": ["x:ro"], "VolumeDriver": "local",
            "Mounts": [
                {"Type": "bind", "Source": "/s", "Target": "/t", "ReadOnly": true,
                 "BindOptions": {"Propagation": "rprivate"}},
                {"Type": "volume", "Source": "v", "Target": "/v",
                 "VolumeOptions": {"NoCopy": true, "Subpath": "p", "DriverConfig": {"Name": "disk", "Options": {"size": "1G"}}}},
                {"Type": "tmpfs", "Target": "/m", "TmpfsOptions": {"SizeBytes": 4096}},
            ],
        }))
        .unwrap();
        let [bind, volume] = options.mounts.mounts.as_slice() else { panic!("two of them") };
        assert!(bind.bind && bind.read_only && !bind.create_source);
        assert!(volume.no_copy && volume.driver == "disk" && volume.driver_options["size"] == "1G");
        assert_eq!(options.tmpfs["/m"], "size=4096");
        assert_eq!(options.mounts.written.len(), 3);
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let mount = |value: Value| read_host(json!({"Mounts": [value]})).unwrap_err().message;
        for (value, words) in [
            (json!({"Type": "npipe"}), "npipe"),
            (json!({"Type": "image", "Source": "x", "Target": "/x"}), "type image"),
            (json!({"Type": "nosuch"}), "mount type unknown"),
            (json!({"Type": "bind", "VolumeOptions": {}}), "field VolumeOptions must not be specified"),
            (json!({"Type": "bind", "BindOptions": {"Propagation": "rshared"}}), "rshared"),
            (json!({"Type": "bind", "BindOptions": {"NonRecursive": true}}), "NonRecursive"),
            (json!({"Type": "volume", "VolumeOptions": {"Tomorrow": 1}}), "Tomorrow"),
        ] {
            let message = mount(value);
            assert!(message.contains(words), "{message:?} does not name {words:?}");
        }
    }
}
