//! What a pod made by name is given beyond its size: names, files, words for its kernel; and changing its size.

use std::collections::BTreeMap;

use crate::boot::vm_runs;
use crate::cpuset;
use crate::db::Durability;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::options::{ContainerOptions, PodOptions};
use crate::size;

/// Most words for a pod's kernel, and most bytes of one.
const KERNEL_ARGS_MAX: usize = 32;
const KERNEL_ARG_MAX: usize = 256;

/// Parameters of the kernel by which the guest would not come up, or not as what its pod is.
const KERNEL_ARGS_OURS: [&str; 12] = [
    "console",
    "earlycon",
    "earlyprintk",
    "init",
    "initrd",
    "maxcpus",
    "mem",
    "nr_cpus",
    "rdinit",
    "root",
    "rootfstype",
    "virtio_mmio.device",
];

/// Most files given to a pod, and most bytes of all of them: they go with each container's making, in one message of at
/// most 4 MiB in which a byte may take six.
const FILES_MAX: usize = 32;
const FILES_BYTES_MAX: usize = 512 << 10;

/// Files that are each container's own.
const FILES_OURS: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// Where a file would hide what the kernel has there.
const KERNELS_PLACES: [&str; 3] = ["/dev/", "/proc/", "/sys/"];

/// Refuses words that are no parameters of a kernel, or not the caller's to give.
pub(crate) fn check_kernel_args(words: &[String]) -> Result<()> {
    if words.len() > KERNEL_ARGS_MAX {
        return Err(EngineError::invalid(format!("more than {KERNEL_ARGS_MAX} kernel arguments")));
    }
    for word in words {
        let plain = word.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        if word.is_empty() || word.len() > KERNEL_ARG_MAX || !plain || word.starts_with('-') {
            return Err(EngineError::invalid(format!(
                "kernel argument {word:?} is no NAME or NAME=VALUE of at most {KERNEL_ARG_MAX} printable characters"
            )));
        }
        let name = word.split('=').next().unwrap_or_default();
        if KERNEL_ARGS_OURS.contains(&name) {
            return Err(EngineError::invalid(format!(
                "kernel argument {name} is set by Hyper: a guest needs its own"
            )));
        }
    }
    Ok(())
}

/// Refuses files that cannot be put into every container.
pub(crate) fn check_files(files: &BTreeMap<String, String>) -> Result<()> {
    if files.len() > FILES_MAX {
        return Err(EngineError::invalid(format!("more than {FILES_MAX} files for a pod")));
    }
    if files.values().map(String::len).sum::<usize>() > FILES_BYTES_MAX {
        return Err(EngineError::invalid(format!(
            "the files for a pod have more than {} KiB",
            FILES_BYTES_MAX >> 10
        ))
        .with_hint("mount a volume instead"));
    }
    for path in files.keys() {
        let whole = path.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0')
        });
        if !whole {
            return Err(EngineError::invalid(format!("{path:?} is not the absolute path of a file")));
        }
        if FILES_OURS.contains(&path.as_str()) {
            return Err(EngineError::invalid(format!("{path} is made for each container"))
                .with_hint("the pod's host name, --add-host and --dns are for it"));
        }
        if KERNELS_PLACES.iter().any(|place| path.starts_with(place)) {
            return Err(EngineError::invalid(format!("{path} is where the kernel's own files are")));
        }
    }
    Ok(())
}

/// Gives a container that joins a pod what it does not say itself of names.
pub(crate) fn inherit_names(options: &mut ContainerOptions, pod: &PodOptions) {
    let (own, given) = (&mut options.names, &pod.names);
    for (own, given) in [
        (&mut own.servers, &given.servers),
        (&mut own.search, &given.search),
        (&mut own.options, &given.options),
    ] {
        if own.is_empty() {
            own.clone_from(given);
        }
    }
    let further: Vec<String> = given.hosts.iter().filter(|line| !own.hosts.contains(line)).cloned().collect();
    own.hosts.extend(further);
}

impl Engine {
    /// Changes the size of a pod made by name, for its next VM; `None` for what stays.
    ///
    /// # Errors
    /// It has a VM, which cannot be resized; it was not made by name; a container's limit would not fit.
    pub async fn update_pod(
        &self,
        reference: &str,
        nano_cpus: Option<i64>,
        memory: Option<i64>,
    ) -> Result<()> {
        let pod = self.find_pod(reference)?;
        let _membership = self.shared.membership.lock().await;
        // Held while the VM is booted or ended.
        let vm = pod.vm.lock().await;
        let mut record = pod.record();
        if !record.explicit {
            return Err(EngineError::conflict(format!(
                "cannot update pod {reference}: it was not made by name"
            ))
            .with_hint("`hyper update` is for its containers"));
        }
        if let Some(shim) = &vm.shim
            && vm_runs(shim).await
        {
            return Err(EngineError::conflict(format!(
                "cannot update pod {reference}: its VM runs, and cannot be resized"
            ))
            .with_hint("stop the pod first"));
        }
        if let Some(nano_cpus) = nano_cpus {
            record.options.vcpus = size::vcpus(nano_cpus, self.shared.accelerated())?;
        }
        if let Some(memory) = memory {
            record.options.memory_mib = size::memory_mib(memory)?;
        }
        for container in self.shared.registry.in_pod(&pod.id) {
            let member = container.record();
            let limits = &member.options.resources;
            let too_large = limits.memory > i64::from(record.options.memory_mib) << 20
                || cpuset::vcpus(&limits.cpuset_cpus) > record.options.vcpus;
            if too_large {
                return Err(EngineError::conflict(format!(
                    "cannot update pod {reference}: the limits of container {} are larger",
                    member.name
                )));
            }
        }
        self.shared.db.put_pod(record.clone(), Durability::Synced).await?;
        let name = record.name.clone();
        pod.lock().options = record.options;
        self.shared.pod_event(&pod.id, name.as_deref(), "update");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::NameOptions;

    #[test]
    fn kernel_arguments_are_words_that_are_the_callers() {
        let check = |words: &[&str]| {
            check_kernel_args(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        };
        assert!(check(&["loglevel=7", "transparent_hugepage=never", "nosmt"]).is_ok());
        let long = "x".repeat(KERNEL_ARG_MAX + 1);
        for bad in
            ["", "a b", "--", "-x", "a\"b", "é", "init=/bin/sh", "console=tty0", "mem=1G", long.as_str()]
        {
            assert!(check(&[bad]).is_err(), "{bad:?}");
        }
        assert!(check(&["a"; KERNEL_ARGS_MAX + 1]).is_err());
    }

    #[test]
    fn files_have_paths_that_are_nobody_elses() {
        let check = |path: &str, content: &str| check_files(&[(path.to_owned(), content.to_owned())].into());
        assert!(check("/etc/app/config.toml", "x = 1\n").is_ok());
        for bad in ["etc/x", "/", "", "/a/../b", "/a//b", "/a/", "/etc/hosts", "/proc/x", "/dev/x", "/a\0"] {
            assert!(check(bad, "").is_err(), "{bad:?}");
        }
        assert!(check("/x", &"y".repeat(FILES_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn a_containers_own_names_win() {
        let pod = PodOptions {
            names: NameOptions {
                servers: vec!["10.0.0.1".into()],
                search: vec!["pod".into()],
                hosts: vec!["a:10.0.0.2".into()],
                ..NameOptions::default()
            },
            ..PodOptions::default()
        };
        let mut options = ContainerOptions {
            names: NameOptions {
                search: vec!["own".into()],
                hosts: vec!["b:10.0.0.3".into()],
                ..Default::default()
            },
            ..Default::default()
        };
        inherit_names(&mut options, &pod);
        assert_eq!(
            (&options.names.servers[..], &options.names.search[..]),
            (&["10.0.0.1".to_owned()][..], &["own".to_owned()][..])
        );
        assert_eq!(options.names.hosts, ["b:10.0.0.3", "a:10.0.0.2"]);
    }
}
