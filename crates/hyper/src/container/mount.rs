//! `--mount` and `-v`.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{
    Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountTmpfsOptions, MountType,
    MountVolumeOptions, MountVolumeOptionsDriverConfig,
};

use super::values::{FlagError, parse_bytes};

/// Splits `-v` into those that name a source (`SOURCE:TARGET[:MODE]`, a relative path made absolute) and those that are a
/// path of the container alone.
///
/// # Errors
/// Our working directory is not known.
pub fn split_volumes(texts: &[String]) -> Result<(Vec<String>, Vec<String>), FlagError> {
    let (mut binds, mut anonymous) = (Vec::new(), Vec::new());
    for text in texts {
        match text.split_once(':') {
            Some((source, rest)) => binds.push(format!("{}:{rest}", absolute("volume", text, source)?)),
            None => anonymous.push(text.clone()),
        }
    }
    Ok((binds, anonymous))
}

/// A path of the host as the daemon can use it; what is no path is a volume's name.
fn absolute(flag: &str, text: &str, source: &str) -> Result<String, FlagError> {
    if !source.starts_with('.') {
        return Ok(source.to_owned());
    }
    let path = std::path::absolute(Path::new(source))
        .map_err(|error| FlagError::new(flag, text, &error.to_string()))?;
    let mut clean = std::path::PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    clean.into_os_string().into_string().map_err(|_| FlagError::new(flag, text, "the path is not UTF-8"))
}

/// A mount as docker's CLI writes it: `type=…,source=…,target=…` and options of the type.
///
/// # Errors
/// An unknown key, a value that makes no sense, an option of another type, no type or target.
pub fn parse_mount(text: &str) -> Result<Mount, FlagError> {
    let failed = |reason: String| FlagError::new("mount", text, &reason);
    let mut mount = Mount { typ: Some(MountType::VOLUME), ..Mount::default() };
    let (mut bind, mut volume) = (None::<MountBindOptions>, None::<MountVolumeOptions>);
    let mut tmpfs = None::<MountTmpfsOptions>;
    for field in text.split(',') {
        let (key, given) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field, None),
        };
        let key = key.trim().to_ascii_lowercase();
        let switch = || match given {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(failed(format!("invalid value for {key}: {other}"))),
        };
        let value =
            || given.ok_or_else(|| failed(format!("invalid field '{field}' must be a key=value pair")));
        match key.as_str() {
            "type" => mount.typ = Some(kind(value()?).ok_or_else(|| failed("unknown mount type".into()))?),
            "source" | "src" => mount.source = Some(absolute("mount", text, value()?)?),
            "target" | "dst" | "destination" => mount.target = Some(value()?.to_owned()),
            "readonly" | "ro" => mount.read_only = Some(switch()?),
            "consistency" => mount.consistency = Some(value()?.to_owned()),
            "bind-propagation" => {
                let word = propagation(value()?);
                let word = word.ok_or_else(|| failed("unknown bind-propagation".into()))?;
                bind.get_or_insert_default().propagation = Some(word);
            }
            "bind-nonrecursive" => bind.get_or_insert_default().non_recursive = Some(switch()?),
            "bind-recursive" => {
                let options = bind.get_or_insert_default();
                match value()? {
                    "enabled" => {}
                    "disabled" => options.non_recursive = Some(true),
                    "writable" => options.read_only_non_recursive = Some(true),
                    "readonly" => options.read_only_force_recursive = Some(true),
                    other => return Err(failed(format!("invalid value for {key}: {other}"))),
                }
            }
            "volume-subpath" => volume.get_or_insert_default().subpath = Some(value()?.to_owned()),
            "volume-nocopy" => volume.get_or_insert_default().no_copy = Some(switch()?),
            "volume-label" => {
                let (label, value) = value()?.split_once('=').unwrap_or((given.unwrap_or_default(), ""));
                let labels = &mut volume.get_or_insert_default().labels;
                labels.get_or_insert_with(HashMap::new).insert(label.to_owned(), value.to_owned());
            }
            "volume-driver" => driver(&mut volume).name = Some(value()?.to_owned()),
            "volume-opt" => {
                let (option, value) = value()?.split_once('=').unwrap_or((given.unwrap_or_default(), ""));
                let options = &mut driver(&mut volume).options;
                options.get_or_insert_with(HashMap::new).insert(option.to_owned(), value.to_owned());
            }
            "tmpfs-size" => tmpfs.get_or_insert_default().size_bytes = Some(parse_bytes("mount", value()?)?),
            "tmpfs-mode" => {
                let mode = i64::from_str_radix(value()?, 8).ok().filter(|mode| (0..=0o7777).contains(mode));
                let mode = mode.ok_or_else(|| failed("tmpfs-mode takes an octal mode".into()))?;
                tmpfs.get_or_insert_default().mode = Some(mode);
            }
            other => return Err(failed(format!("unexpected key '{other}' in '{field}'"))),
        }
    }
    let typ = mount.typ;
    let foreign = [
        ("bind", bind.is_some() && typ != Some(MountType::BIND)),
        ("volume", volume.is_some() && typ != Some(MountType::VOLUME)),
        ("tmpfs", tmpfs.is_some() && typ != Some(MountType::TMPFS)),
    ];
    if let Some((name, _)) = foreign.iter().find(|(_, given)| *given) {
        let typ = typ.map(|typ| typ.to_string()).unwrap_or_default();
        return Err(failed(format!("cannot mix '{name}-*' options with mount type '{typ}'")));
    }
    if mount.target.as_deref().unwrap_or_default().is_empty() {
        return Err(failed("target is required".into()));
    }
    (mount.bind_options, mount.volume_options, mount.tmpfs_options) = (bind, volume, tmpfs);
    Ok(mount)
}

fn driver(volume: &mut Option<MountVolumeOptions>) -> &mut MountVolumeOptionsDriverConfig {
    volume.get_or_insert_default().driver_config.get_or_insert_default()
}

fn kind(word: &str) -> Option<MountType> {
    Some(match word.to_ascii_lowercase().as_str() {
        "bind" => MountType::BIND,
        "volume" => MountType::VOLUME,
        "tmpfs" => MountType::TMPFS,
        "image" => MountType::IMAGE,
        "npipe" => MountType::NPIPE,
        "cluster" => MountType::CLUSTER,
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<MountBindOptionsPropagationEnum> {
    use MountBindOptionsPropagationEnum as Propagation;
    Some(match word {
        "private" => Propagation::PRIVATE,
        "rprivate" => Propagation::RPRIVATE,
        "shared" => Propagation::SHARED,
        "rshared" => Propagation::RSHARED,
        "slave" => Propagation::SLAVE,
        "rslave" => Propagation::RSLAVE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_docker_does() {
        let mount = parse_mount("type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=1770,readonly").unwrap();
        assert_eq!((mount.target.as_deref(), mount.read_only), (Some("/x"), Some(true)));
        assert_eq!(mount.tmpfs_options.unwrap().mode, Some(0o1770));
        let mount = parse_mount("src=v,dst=/x,volume-nocopy,volume-opt=size=1G,volume-label=a=b").unwrap();
        assert_eq!((mount.typ, mount.source.as_deref()), (Some(MountType::VOLUME), Some("v")));
        let options = mount.volume_options.unwrap();
        assert_eq!(options.driver_config.unwrap().options.unwrap()["size"], "1G");
        assert_eq!((options.no_copy, options.labels.unwrap()["a"].as_str()), (Some(true), "b"));
        let mount = parse_mount("type=bind,source=./y,target=/x,ro=false").unwrap();
        let here = std::env::current_dir().unwrap().join("y");
        assert_eq!(mount.source.as_deref().map(Path::new), Some(here.as_path()));
        for (wrong, words) in [
            ("type=tmpfs", "target is required"),
            ("type=nosuch,dst=/x", "unknown mount type"),
            ("dst=/x,a=b", "unexpected key 'a' in 'a=b'"),
            ("dst", "must be a key=value pair"),
            ("dst=/x,ro=perhaps", "invalid value for ro"),
            ("type=bind,src=/a,dst=/b,volume-nocopy", "cannot mix 'volume-*' options with mount type 'bind'"),
        ] {
            let error = parse_mount(wrong).unwrap_err().to_string();
            assert!(error.contains(words), "{error:?} does not say {words:?}");
        }
    }

    #[test]
    fn relative_sources_are_absolute_for_the_daemon() {
        let texts = ["/a:/b:ro", "vol:/c", "/alone", "./x/../y:/d"].map(str::to_owned);
        let (binds, anonymous) = split_volumes(&texts).unwrap();
        assert_eq!(binds[..2], ["/a:/b:ro", "vol:/c"]);
        assert_eq!(binds[2], format!("{}/y:/d", std::env::current_dir().unwrap().display()));
        assert_eq!(anonymous, ["/alone"]);
    }
}
