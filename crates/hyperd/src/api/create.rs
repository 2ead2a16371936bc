//! Making a container: what a client asks for, field by field.
//!
//! Whatever is neither honoured nor neutral is refused by name; nothing is passed over in silence.

use hyper::StatusCode;
use hyper_engine::{AttachFlags, ContainerOptions, CreateRequest, MountOptions, NetworkMode};
use serde_json::{Value, json};

use super::{create_host, networks, to_the_end};
use crate::fields::Fields;
use crate::http::{ApiError, Result, json as json_reply, read_json};
use crate::route::Call;

pub(crate) async fn create(call: Call) -> Result {
    let name = call.query.get("name").to_owned();
    let platform = call.query.get("platform").to_owned();
    let engine = call.app.engine.clone();
    let body = read_json(call.request).await?;
    if body.is_null() {
        return Err(ApiError::invalid("invalid JSON: got EOF while reading request body"));
    }
    let options = read(body)?;
    check_platform(&engine, &options.image, &platform).await?;
    let request = CreateRequest { name: (!name.is_empty()).then_some(name), options };
    let created = to_the_end(async move { engine.create(request).await }).await?;
    Ok(json_reply(StatusCode::CREATED, &json!({"Id": created.id, "Warnings": created.warnings})))
}

/// Refuses an image for another platform than the one asked for, in the words that make clients pull.
async fn check_platform(engine: &hyper_engine::Engine, image: &str, platform: &str) -> Result<()> {
    if platform.is_empty() {
        return Ok(());
    }
    let wanted: hyper_engine::image::Platform = platform
        .parse()
        .map_err(|error: hyper_engine::image::ParsePlatformError| ApiError::invalid(error.to_string()))?;
    let (store, name) = (engine.images().clone(), image.to_owned());
    let found = tokio::task::spawn_blocking(move || store.get(&name)).await;
    let Ok(Ok(found)) = found else { return Ok(()) };
    let actual = hyper_engine::image::Platform {
        os: found.os.clone(),
        architecture: found.architecture.clone(),
        variant: found.variant.clone(),
    };
    if actual.fitness(&wanted).is_some() {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::NOT_FOUND,
        format!(
            "image with reference {image} was found but does not match the specified platform: wanted {platform}, \
             actual: {}/{}",
            actual.os, actual.architecture
        ),
    ))
}

/// The options in a request's body.
fn read(body: Value) -> Result<ContainerOptions> {
    let mut fields = Fields::of(body, "")?;
    let host = fields.object("HostConfig")?;
    let networking = fields.take("NetworkingConfig");
    let mac = fields.string("MacAddress")?;
    let mut options = ContainerOptions {
        image: fields.string("Image")?,
        entrypoint: fields.optional_strings("Entrypoint")?,
        cmd: fields.optional_strings("Cmd")?,
        env: fields.strings("Env")?,
        working_dir: fields.string("WorkingDir")?,
        user: fields.string("User")?,
        tty: fields.bool("Tty")?,
        open_stdin: fields.bool("OpenStdin")?,
        stdin_once: fields.bool("StdinOnce")?,
        attach: AttachFlags {
            stdin: fields.bool("AttachStdin")?,
            stdout: fields.bool("AttachStdout")?,
            stderr: fields.bool("AttachStderr")?,
        },
        hostname: fields.string("Hostname")?,
        domainname: fields.string("Domainname")?,
        labels: fields.string_map("Labels")?,
        mounts: MountOptions { anonymous: fields.keys("Volumes")?, ..MountOptions::default() },
        exposed_ports: fields.keys("ExposedPorts")?,
        stop_signal: Some(fields.string("StopSignal")?).filter(|name| !name.is_empty()),
        stop_timeout: fields.optional_int("StopTimeout")?,
        // docker-py puts it here.
        runtime: fields.string("Runtime")?,
        ..ContainerOptions::default()
    };
    if fields.bool("NetworkDisabled")? {
        options.network = NetworkMode::None;
    }
    options.healthcheck = super::health::read(&mut fields)?;
    refuse_config(&mut fields)?;
    fields.finish()?;
    create_host::read(host, &mut options)?;
    read_networking(networking, mac, &mut options)?;
    Ok(options)
}

fn refuse_config(fields: &mut Fields) -> Result<()> {
    fields.refuse("OnBuild", &[], "triggers belong to building images, which comes later")?;
    fields.refuse("Shell", &[], "it belongs to building images, which comes later")?;
    fields.refuse("ArgsEscaped", &[], "it is for Windows containers")?;
    Ok(())
}

/// The endpoints asked for, where the network mode allows any.
fn read_networking(networking: Value, mac: String, options: &mut ContainerOptions) -> Result<()> {
    for (name, endpoint) in networks::endpoints(networking)? {
        let builtin = match &options.network {
            NetworkMode::Bridge => matches!(name.as_str(), "default" | "bridge"),
            NetworkMode::None => name == "none",
            NetworkMode::Container(_) => name.starts_with("container:"),
            NetworkMode::Named(_) => false,
        };
        if !builtin {
            options.endpoints.insert(name, endpoint);
            continue;
        }
        let refuse = |what: &str, why: &str| {
            Err(ApiError::unsupported(format!("{what} on network {name} is not supported: {why}")))
        };
        if endpoint.mac.is_some() && options.network != NetworkMode::Bridge {
            return refuse("MacAddress", "the container has no network of its own");
        }
        options.mac = endpoint.mac;
        if endpoint.address.is_some() || endpoint.address6.is_some() {
            return Err(ApiError::invalid(
                "invalid config for network bridge: invalid endpoint settings:\nuser specified IP address is supported \
                 on user defined networks only",
            ));
        }
        if !endpoint.aliases.is_empty() {
            return refuse(
                "Aliases",
                "network-scoped alias is supported only for containers in user defined networks",
            );
        }
    }
    if !mac.is_empty() {
        if mac.parse::<hyper_engine::MacAddr>().is_err() {
            return Err(ApiError::invalid(format!("invalid MAC address: {mac}")));
        }
        match &options.network {
            NetworkMode::Bridge => options.mac.get_or_insert(mac),
            NetworkMode::Named(name) => {
                options.endpoints.entry(name.clone()).or_default().mac.get_or_insert(mac)
            }
            NetworkMode::None | NetworkMode::Container(_) => {
                return Err(ApiError::unsupported(
                    "MacAddress is not supported: the container has no network of its own",
                ));
            }
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_engine::{LogOptions, Seccomp};

    fn refused(body: Value) -> ApiError {
        read(body).expect_err("must be refused")
    }

    #[test]
    fn what_the_docker_cli_sends_for_a_plain_run_is_accepted() {
        let body: Value =
            serde_json::from_str(include_str!("../../tests/data/docker-cli-28-create.json")).unwrap();
        let options = read(body).unwrap();
        assert_eq!(options.image, "bb");
        assert_eq!(options.cmd.unwrap(), ["sleep", "100"]);
        assert_eq!(options.network, NetworkMode::Bridge);
        assert_eq!(options.log, LogOptions::default());
        assert!(!options.tty && options.attach.stdout);
    }

    #[test]
    fn fuzz_create_bodies() {
        let plain = include_str!("../../tests/data/docker-cli-28-create.json");
        let plain: Value = serde_json::from_str(plain).unwrap();
        let full = json!({
            "Image": "x", "Cmd": ["one"], "Entrypoint": "e", "StopTimeout": 3, "ExposedPorts": {"80/tcp": {}},
            "Env": ["A=1"], "Labels": {"a": "b"}, "Volumes": {"/v": {}}, "StopSignal": "TERM",
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000, "Retries": 3},
            "HostConfig": {
                "NanoCpus": 1_500_000_000, "Memory": 1 << 29, "AutoRemove": true, "NetworkMode": "none",
                "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}], "Tmpfs": {"/tmp": "size=1m,mode=1777"},
                "SecurityOpt": ["no-new-privileges", "seccomp={}"], "CapAdd": ["NET_ADMIN"],
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "10k", "max-file": "3"}},
                "StorageOpt": {"size": "1G"}, "PublishAllPorts": true, "Sysctls": {"net.x": "1"},
                "PortBindings": {"80-82/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080-8082"}]},
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "ExtraHosts": ["a:1.2.3.4"],
                "Binds": ["/a:/b:ro", "v:/c"], "Dns": ["1.1.1.1"], "ShmSize": 1 << 20, "ConsoleSize": [24, 80],
                "Mounts": [
                    {"Type": "volume", "Source": "v", "Target": "/t", "VolumeOptions": {"NoCopy": true}},
                    {"Type": "bind", "Source": "/s", "Target": "/u", "ReadOnly": true},
                    {"Type": "tmpfs", "Target": "/w", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 448}},
                ],
            },
            "NetworkingConfig": {"EndpointsConfig": {"n": {"Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.0.0.2"}}}},
        });
        hyper_fuzz::json(&[plain, full], |body| {
            if let Err(error) = read(body.clone()) {
                assert!(!error.message.is_empty() && error.status != StatusCode::INTERNAL_SERVER_ERROR);
            }
        });
    }

    #[test]
    fn every_option_of_later_is_refused_by_name() {
        for (host, name) in [
            (json!({"RestartPolicy": {"Name": "sometimes"}}), "sometimes"),
            (json!({"Devices": [{"PathOnHost": "/dev/x", "Nosuch": 1}]}), "Devices.Nosuch"),
            (json!({"DeviceRequests": [{"Driver": "nvidia"}]}), "DeviceRequests"),
            (json!({"NetworkMode": "host"}), "host"),
            (json!({"PidMode": "host"}), "PidMode"),
            (json!({"IpcMode": "host"}), "IpcMode"),
            (json!({"UTSMode": "host"}), "UTSMode"),
            (json!({"CgroupnsMode": "host"}), "CgroupnsMode"),
            (json!({"Init": 1}), "Init"),
            (json!({"Isolation": "hyperv"}), "hyperv"),
            (json!({"BlkioWeight": 100}), "BlkioWeight"),
            (json!({"OomKillDisable": true}), "OomKillDisable"),
            (json!({"Links": ["a:b"]}), "Links"),
            (json!({"LogConfig": {"Type": "gelf"}}), "gelf"),
            (json!({"StorageOpt": {"x": "1"}}), "StorageOpt"),
            (json!({"SecurityOpt": ["label=disable:x", "nosuch"]}), "SecurityOpt"),
            (json!({"Runtime": "nvidia"}), "nvidia"),
            (json!({"FieldOfTomorrow": 1}), "FieldOfTomorrow"),
        ] {
            let error = refused(json!({"Image": "x", "HostConfig": host}));
            assert!(error.message.contains(name), "{:?} does not name {name}", error.message);
        }
        for (body, name) in [
            (json!({"Healthcheck": {"Test": ["CMD", "true"], "Nosuch": 1}}), "Healthcheck.Nosuch"),
            (json!({"MacAddress": "02:42:ac:11:00:02", "HostConfig": {"NetworkMode": "none"}}), "MacAddress"),
            (json!({"NetworkingConfig": {"EndpointsConfig": {"bridge": {"Aliases": ["a"]}}}}), "Aliases"),
        ] {
            let error = refused(body);
            assert!(error.message.contains(name), "{:?} does not name {name}", error.message);
        }
    }

    #[test]
    fn the_runtime_is_taken_wherever_it_is_said() {
        let runtime = |body| read(body).map(|options| options.runtime);
        assert_eq!(runtime(json!({"Image": "x", "Runtime": "runc"})).unwrap(), "runc");
        let both = json!({"Image": "x", "Runtime": "runc", "HostConfig": {"Runtime": "hyper"}});
        assert_eq!(runtime(both).unwrap(), "hyper");
        assert!(refused(json!({"Image": "x", "Runtime": "nosuch"})).message.contains("nosuch"));
    }

    #[test]
    fn options_are_taken_over() {
        let options = read(json!({
            "Image": "x", "Cmd": "one", "Entrypoint": ["e"], "StopTimeout": 3, "ExposedPorts": {"80/tcp": {}},
            "HostConfig": {
                "NanoCpus": 1_500_000_000, "Memory": 1 << 29, "AutoRemove": true, "NetworkMode": "none",
                "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}], "Tmpfs": {"/tmp": "size=1m"},
                "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"], "CapAdd": ["NET_ADMIN"],
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "10k", "max-file": "3"}},
                "Devices": [{"PathOnHost": "/dev/vdb"}, {"PathOnHost": "/d", "PathInContainer": "/e", "CgroupPermissions": "r"}],
                "CpusetCpus": "0,1", "MemorySwappiness": 40, "DeviceCgroupRules": ["c 7:128 rwm"], "Runtime": "runc",
                "Isolation": "default", "StorageOpt": {"size": "1G"}, "Annotations": {"io.hyper.pod": "p"}, "PublishAllPorts": true,
                "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}], "81/tcp": null},
            },
        }))
        .unwrap();
        assert_eq!(options.cmd.unwrap(), ["one"]);
        assert_eq!(options.stop_timeout, Some(3));
        assert_eq!(options.resources.nano_cpus, 1_500_000_000);
        assert_eq!(options.network, NetworkMode::None);
        assert_eq!(options.resources.ulimits[0].hard, 20);
        assert!(options.security.no_new_privileges && options.auto_remove);
        assert_eq!(options.security.seccomp, Seccomp::Unconfined);
        assert_eq!(options.storage_size, Some(1 << 30));
        assert_eq!((options.runtime.as_str(), options.isolation.as_str()), ("runc", "default"));
        assert_eq!(options.resources.cpuset_cpus, "0,1");
        assert_eq!(options.resources.memory_swappiness, Some(40));
        assert_eq!(options.devices.rules, ["c 7:128 rwm"]);
        let disks: Vec<_> = options.devices.disks.iter().map(|d| [&d.host, &d.path, &d.access]).collect();
        assert_eq!(disks, [["/dev/vdb", "/dev/vdb", "rwm"], ["/d", "/e", "r"]]);
        assert!(options.ports.all);
        assert_eq!(options.ports.bindings["80/tcp"][0].ip, "127.0.0.1");
        let LogOptions::JsonFile { max_size, max_files, .. } = options.log else { panic!("logs to a file") };
        assert_eq!((max_size, max_files), (Some(10_000), 3));
    }
}
