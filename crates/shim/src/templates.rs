//! Templates: VMs saved when their agent answered, from which pods are cloned.
//!
//! A template is a directory named by its key, a digest of everything that it depends on. It is made under another name
//! and gets its own when it is whole. That it is still what it was is checked each time it is opened.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hyper_link::HostLink;
use hyper_protocol::agent::Request;
use hyper_protocol::shim::{FileMark, PodConfig, TemplateManifest};
use hyper_vm::{Hypervisor, Start, Vm, VmConfig};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use crate::{boot, idle};

/// Longest manifest.
const MANIFEST_MAX: u64 = 64 << 10;
/// Beginning of the name of a template being made or removed.
const UNFINISHED: &str = TemplateManifest::UNFINISHED;

/// Bytes on disk that must be free for a template, and the part of the guest's memory in addition: measured are 52 MiB at
/// 512 MiB, and of a larger guest the kernel's page structures, a 64th. A disk that becomes full meanwhile ends the VM,
/// and worse, it is full for everybody else too.
const ROOM: (u64, u64) = (96 << 20, 32);
/// With fewer bytes free than this a disk is called full.
const FULL: u64 = 4 << 20;

/// How long the guest gets to come to rest before it is saved; measured: some milliseconds.
const SETTLE: Duration = Duration::from_millis(200);

/// A template that was sound when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its key.
    pub key: String,
    /// Where templates are.
    root: PathBuf,
    /// Its memory, by which it is told from one that was made later under the same key.
    memory: FileMark,
}

impl Template {
    /// Its directory.
    pub fn dir(&self) -> PathBuf {
        self.root.join(&self.key)
    }

    /// Removes it, unless another has taken its place; clones that run keep what they have of it.
    pub fn discard(&self) {
        let memory = fs::symlink_metadata(self.dir().join(Start::MEMORY));
        if memory.is_ok_and(|metadata| mark(&metadata) != self.memory) {
            return;
        }
        discard(&self.root, &self.key);
    }
}

/// A template to clone from, or why there is none.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// This one.
    Sound(Template),
    /// There is none.
    None,
    /// It was not what it should be, and has been removed.
    Unsound(String),
}

/// The key of the template that VMs of this configuration are cloned from; `None` where the driver has none.
///
/// # Errors
/// Kernel or initial filesystem cannot be looked at.
pub fn key(hypervisor: &dyn Hypervisor, config: &VmConfig) -> io::Result<Option<String>> {
    let Some(kind) = hypervisor.template_kind(config) else { return Ok(None) };
    let mut digest = Sha256::new();
    let mut add = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    add(env!("CARGO_PKG_VERSION").as_bytes());
    add(hypervisor.name().as_bytes());
    add(kind.as_bytes());
    for file in [&config.kernel, &config.initramfs] {
        let metadata = fs::metadata(file)?;
        // Their content would take longer to read than a clone takes to start.
        let identity = (metadata.dev(), mark(&metadata));
        add(file.as_os_str().as_encoded_bytes());
        add(format!("{identity:?}").as_bytes());
    }
    let digest = digest.finalize();
    Ok(Some(digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// Opens the template of a key; one that is not sound is removed.
pub fn open(root: &Path, key: &str) -> Found {
    let dir = root.join(key);
    match check(&dir, key) {
        Ok(Some(memory)) => {
            // When it was last of use: the oldest go first.
            let _ = File::open(dir.join(TemplateManifest::FILE))
                .and_then(|file| file.set_modified(std::time::SystemTime::now()));
            Found::Sound(Template { key: key.to_owned(), root: root.to_owned(), memory })
        }
        Ok(None) => Found::None,
        Err(error) => {
            discard(root, key);
            Found::Unsound(format!("{error:#}"))
        }
    }
}

fn discard(root: &Path, key: &str) {
    let (dir, gone) = (root.join(key), root.join(format!("{UNFINISHED}{key}-{}-gone", std::process::id())));
    if let Err(error) = fs::rename(&dir, &gone).and_then(|()| fs::remove_dir_all(&gone))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "a template that is not sound cannot be removed");
    }
}

/// The memory of the template in `dir`, if there is one.
fn check(dir: &Path, key: &str) -> anyhow::Result<Option<FileMark>> {
    let path = dir.join(TemplateManifest::FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.exists() => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let mut text = Vec::new();
    file.take(MANIFEST_MAX).read_to_end(&mut text)?;
    let manifest: TemplateManifest = serde_json::from_slice(&text).context("its manifest is not valid")?;
    if manifest.key != key {
        bail!("it is the template {}", manifest.key);
    }
    for name in [Start::MEMORY, Start::STATE] {
        let known = manifest.files.get(name).with_context(|| format!("its manifest does not name {name}"))?;
        let metadata = fs::symlink_metadata(dir.join(name)).with_context(|| format!("{name} is gone"))?;
        let found = mark(&metadata);
        if found.size != known.size {
            bail!("{name} has {} bytes instead of {}", found.size, known.size);
        }
        if !metadata.is_file() || found != *known {
            bail!("{name} has been changed since it was made");
        }
    }
    Ok(manifest.files.get(Start::MEMORY).copied())
}

/// By what a change of a file is noticed.
pub fn mark(metadata: &fs::Metadata) -> FileMark {
    let ns =
        |seconds: i64, nanoseconds: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
    FileMark {
        inode: metadata.ino(),
        size: metadata.size(),
        modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
    }
}

/// Makes the template for pods like this one, unless there is one; prints its manifest in JSON. The pod's directory
/// is used for it and removed. When nobody reads the standard output any more the making is given up.
///
/// # Errors
/// With the whole chain of causes; nothing is left of it then.
pub fn create() -> anyhow::Result<()> {
    let config: PodConfig =
        serde_json::from_reader(io::stdin().lock()).context("the pod's configuration is not valid")?;
    let root = config.templates.clone().context("the configuration names no directory for templates")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let made = runtime.context("cannot start the runtime")?.block_on(make(&root, &config));
    // Whoever gave it may have been killed.
    let _ = fs::remove_dir_all(&config.dir);
    println!("{}", serde_json::to_string(&made?).context("cannot encode the manifest")?);
    Ok(())
}

/// Waits until nobody reads the standard output any more: the daemon that wants the template has ended.
async fn abandoned() {
    let (done, ended) = tokio::sync::oneshot::channel();
    let watch = move || {
        let stdout = io::stdout();
        // Asked for nothing, it tells of the other end's end alone (`poll(2)`).
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        while matches!(poll(&mut watched, None), Ok(0) | Err(rustix::io::Errno::INTR)) {}
        let _ = done.send(());
    };
    let watching = std::thread::Builder::new().name("reader".into()).stack_size(64 << 10).spawn(watch);
    if watching.is_err() || ended.await.is_err() {
        std::future::pending().await
    }
}

async fn make(root: &Path, config: &PodConfig) -> anyhow::Result<TemplateManifest> {
    let began = Instant::now();
    let hypervisor = boot::choose(config)?;
    let mut vm_config = boot::vm_config("template", config)?;
    let key = key(&*hypervisor, &vm_config)
        .context("cannot look at kernel and initial filesystem")?
        .with_context(|| format!("{} has no templates", hypervisor.name()))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)
        .context("cannot make the templates' directory")?;
    // One makes it, others wait and find it.
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(root.join(TemplateManifest::LOCK));
    let lock = lock.context("cannot open the templates' lock")?;
    flock(&lock, FlockOperation::LockExclusive).context("cannot take the templates' lock")?;
    clear_unfinished(root);
    if let Found::Sound(template) = open(root, &key) {
        let text = fs::read(template.dir().join(TemplateManifest::FILE))?;
        return serde_json::from_slice(&text).context("its manifest is not valid");
    }
    check_room(root, config)?;
    let dir = root.join(format!("{UNFINISHED}{key}"));
    DirBuilder::new().mode(0o700).create(&dir).context("cannot make the template's directory")?;
    vm_config.start = Start::Template(dir.clone());
    let made = fill(&*hypervisor, vm_config, config, &dir).await;
    let finished = made.and_then(|(accelerator, version)| {
        let mut files = BTreeMap::new();
        for name in [Start::MEMORY, Start::STATE] {
            files.insert(name.to_owned(), mark(&fs::symlink_metadata(dir.join(name))?));
        }
        let manifest = TemplateManifest {
            key: key.clone(),
            hypervisor: hypervisor.name().to_owned(),
            accelerator,
            version,
            vcpus: config.vcpus,
            memory_mib: config.memory_mib,
            nic_slots: boot::nic_slots(config),
            kernel: config.kernel.clone(),
            kernel_args: config.kernel_args.clone(),
            created_unix_ns: crate::clock::unix_ns(),
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            files,
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(dir.join(TemplateManifest::FILE))?;
        file.write_all(&serde_json::to_vec(&manifest)?)?;
        file.sync_all()?;
        fs::rename(&dir, root.join(&key))?;
        File::open(root)?.sync_all()?;
        Ok(manifest)
    });
    finished.map_err(|error| {
        let full = free(root).is_ok_and(|free| free < FULL);
        let _ = fs::remove_dir_all(&dir);
        if full { error.context(format!("no space is left for {}", root.display())) } else { error }
    })
}

/// Refuses to make a template that the disk may have no room for.
fn check_room(root: &Path, config: &PodConfig) -> anyhow::Result<()> {
    let (fixed, part) = ROOM;
    let need = fixed + (u64::from(config.memory_mib) << 20) / part;
    let free = free(root).context("cannot look at the templates' filesystem")?;
    if free < need {
        bail!(
            "not enough space for a template: {} MiB are free in {}, {} MiB are needed",
            free >> 20,
            root.display(),
            need >> 20
        );
    }
    Ok(())
}

/// Bytes free on the filesystem of a directory.
fn free(dir: &Path) -> io::Result<u64> {
    let status = rustix::fs::statvfs(dir)?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}

/// Boots the VM until its agent answers, and saves it; the accelerator and the version of the VMM.
async fn fill(
    hypervisor: &dyn Hypervisor,
    vm_config: VmConfig,
    config: &PodConfig,
    dir: &Path,
) -> anyhow::Result<(String, String)> {
    let vm = hypervisor.launch(vm_config).await.context("cannot launch the VM")?;
    let made = async {
        tokio::select! {
            answered = answer(&*vm) => answered?,
            rested = idle::hung(vm.info().pid) => bail!("the guest did nothing for {} s", rested.as_secs()),
            () = tokio::time::sleep(Duration::from_millis(config.boot_timeout_ms)) => {
                bail!("the guest's agent did not answer in time")
            }
        }
        // Private to its owner, as is everything that a guest may one day have secrets in.
        let memory = OpenOptions::new().write(true).open(dir.join(Start::MEMORY))?;
        memory.set_permissions(fs::Permissions::from_mode(0o600))?;
        let saving = vm.saving().context("the VM cannot be saved")?;
        saving.save().await.context("cannot save the VM")
    };
    let saved = tokio::select! {
        saved = made => saved,
        () = abandoned() => Err(anyhow::anyhow!("nobody waits for the template any more")),
    };
    vm.kill().await;
    saved.map(|()| (vm.info().accelerator.to_string(), vm.info().version.clone()))
}

/// Waits until the agent answers, and lets go of the link: a clone's agent waits for the next session.
async fn answer(vm: &dyn Vm) -> anyhow::Result<()> {
    loop {
        let Ok(link) = HostLink::open(vm.link().await?).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        link.call(&Request::Ping).await.context("the agent does not answer")?;
        link.end().await;
        // The agent notices, and does nothing any more.
        tokio::time::sleep(SETTLE).await;
        return Ok(());
    }
}

/// Removes what those left who died; the lock is held.
fn clear_unfinished(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::testing::template;

    fn dir_of(found: Found) -> PathBuf {
        match found {
            Found::Sound(template) => template.dir(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sound_template_is_found_again_and_again() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(open(root.path(), "k1"), Found::None);
        template(root.path(), "k1", 8192);
        for _ in 0..2 {
            assert_eq!(dir_of(open(root.path(), "k1")), root.path().join("k1"));
        }
    }

    #[test]
    fn template_that_was_touched_is_thrown_away() {
        type Spoil = fn(&Path);
        let spoil: [(&str, Spoil); 6] = [
            ("memory has 4096 bytes instead of 8192", |dir| {
                OpenOptions::new().write(true).open(dir.join("memory")).unwrap().set_len(4096).unwrap();
            }),
            ("state has been changed", |dir| {
                // Same size, and even the time of the change is set back.
                let path = dir.join("state");
                let time = fs::metadata(&path).unwrap().modified().unwrap();
                let mut file = OpenOptions::new().write(true).open(&path).unwrap();
                file.write_all(b"x").unwrap();
                file.set_modified(time).unwrap();
            }),
            ("memory is gone", |dir| fs::remove_file(dir.join("memory")).unwrap()),
            ("manifest is not valid", |dir| fs::write(dir.join(TemplateManifest::FILE), "{").unwrap()),
            ("cannot open", |dir| fs::remove_file(dir.join(TemplateManifest::FILE)).unwrap()),
            ("changed since", |dir| {
                fs::remove_file(dir.join("state")).unwrap();
                std::os::unix::fs::symlink("memory", dir.join("state")).unwrap();
                fs::remove_file(dir.join("memory")).unwrap();
                fs::write(dir.join("memory"), vec![7; 8192]).unwrap();
            }),
        ];
        for (reason, spoil) in spoil {
            let root = tempfile::tempdir().unwrap();
            template(root.path(), "k1", 8192);
            spoil(&root.path().join("k1"));
            match open(root.path(), "k1") {
                Found::Unsound(why) => assert!(why.contains(reason), "{why:?} instead of {reason:?}"),
                other => panic!("{reason}: {other:?}"),
            }
            assert_eq!(open(root.path(), "k1"), Found::None, "{reason}");
        }
    }

    #[test]
    fn template_cut_off_anywhere_is_thrown_away() {
        const STEP: u64 = 64 << 10;
        const SIZE: u64 = 4 << 20;
        let root = tempfile::tempdir().unwrap();
        for name in [Start::MEMORY, Start::STATE] {
            for size in (0..SIZE).step_by(STEP as usize).chain([SIZE - 1, SIZE + 1]) {
                template(root.path(), "k1", SIZE);
                let file = OpenOptions::new().write(true).open(root.path().join("k1").join(name)).unwrap();
                file.set_len(size).unwrap();
                let why = format!("{name} has {size} bytes instead of {SIZE}");
                assert_eq!(open(root.path(), "k1"), Found::Unsound(why));
                assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "nothing is left");
            }
        }
    }

    #[test]
    fn flipped_bit_is_noticed_wherever_it_is() {
        let root = tempfile::tempdir().unwrap();
        for at in (0..1 << 20).step_by(64 << 10) {
            template(root.path(), "k1", 1 << 20);
            let path = root.path().join("k1").join(Start::MEMORY);
            let before = fs::metadata(&path).unwrap();
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            // As far as a program can set the times back.
            file.set_modified(before.modified().unwrap()).unwrap();
            drop(file);
            assert!(matches!(open(root.path(), "k1"), Found::Unsound(why) if why.contains("changed since")));
        }
    }

    #[test]
    fn template_that_took_the_place_of_a_bad_one_stays() {
        let root = tempfile::tempdir().unwrap();
        template(root.path(), "k1", 4096);
        let Found::Sound(first) = open(root.path(), "k1") else { panic!("it is sound") };
        first.discard();
        first.discard();
        assert_eq!(open(root.path(), "k1"), Found::None);
        template(root.path(), "k1", 4096);
        first.discard();
        assert_eq!(dir_of(open(root.path(), "k1")), first.dir());
    }

    #[test]
    fn template_of_another_key_is_not_taken() {
        let root = tempfile::tempdir().unwrap();
        template(root.path(), "k1", 8192);
        fs::rename(root.path().join("k1"), root.path().join("k2")).unwrap();
        assert!(matches!(open(root.path(), "k2"), Found::Unsound(why) if why.contains("template k1")));
    }
}
