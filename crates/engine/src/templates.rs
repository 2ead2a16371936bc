//! Templates that VMs are cloned from: made in the background at first use, few, the oldest out.
//!
//! What a template is and whether one fits is the shim's to know; here one is ordered, listed, and removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper_protocol::shim::{Origin, PodConfig, TapInterface, TemplateManifest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::boot::BOOT_TIMEOUT;
use crate::clock::Timestamp;
use crate::engine::{Engine, Shared};
use crate::error::{EngineError, Kind, Result};
use crate::options::{PodOptions, TemplateUse};
use crate::{ids, size};

/// Most templates that are kept.
const TEMPLATES_MAX: usize = 8;
/// Most bytes on disk that they may take together.
const BYTES_MAX: u64 = 4 << 30;
/// Longest manifest.
const MANIFEST_MAX: u64 = 64 << 10;
/// How long a run that had no template is left alone before one is made: it shall not share the processors.
const QUIET: Duration = Duration::from_secs(1);
/// How long the making may take beyond the boot: the memory is written to disk.
const SAVING: Duration = Duration::from_secs(60);
/// How long a shim may take to give the making up.
const GIVING_UP: Duration = Duration::from_secs(5);
/// Priority of the making (`nice`).
const NICENESS: i32 = 10;
/// How long after a template could not be made it is tried again at the earliest: this, doubled with each time, and at
/// most that. What fails for a lasting reason, a full disk say, shall not keep the machine busy with each pod.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// How far into the future a template's last use may be: files and we may read the clock at different moments.
const AHEAD: Duration = Duration::from_secs(60);
/// Directories in the runtime directory that are used for the making begin so.
const WORKSHOP: &str = "template-";

/// A template on disk.
#[derive(Debug, Clone)]
pub struct Template {
    /// What it is.
    pub manifest: TemplateManifest,
    /// Bytes on disk.
    pub bytes: u64,
    /// When a pod was last cloned from it, or it was made.
    pub used: Timestamp,
}

/// A template to make: that of pods with these options.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TemplateRequest {
    /// Thousand millionths of a CPU; 0 for the default.
    pub nano_cpus: i64,
    /// Bytes of memory for its containers; 0 for the default.
    pub memory: i64,
    /// Without network.
    pub isolated: bool,
    /// Guest kernel; `None` for the installed one.
    pub kernel: Option<String>,
    /// Hypervisor driver.
    pub hypervisor: Option<String>,
}

/// The engine's part of the templates.
#[derive(Debug)]
pub(crate) struct Templates {
    root: Option<PathBuf>,
    orders: Mutex<BTreeMap<String, Order>>,
    /// Keys of those that were thrown away because a rehearsal failed.
    doubted: Mutex<BTreeSet<String>>,
}

/// A template that is being made, or could not be.
#[derive(Debug)]
struct Order {
    /// How often it could not be made.
    failures: u32,
    /// When it may be tried again; `None` while it is being made.
    again: Option<Instant>,
}

impl Templates {
    pub(crate) fn new(root: Option<PathBuf>) -> Self {
        Self { root, orders: Mutex::default(), doubted: Mutex::default() }
    }

    fn orders(&self) -> MutexGuard<'_, BTreeMap<String, Order>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a template is to be made now; the caller makes it then, and says how that went.
    fn order(&self, key: &str, now: Instant) -> bool {
        let mut orders = self.orders();
        let order = orders.entry(key.to_owned()).or_insert(Order { failures: 0, again: Some(now) });
        let due = order.again.is_some_and(|again| again <= now);
        if due {
            order.again = None;
        }
        due
    }

    /// Takes note of how the making went; when it can be tried again, if it failed.
    fn note(&self, key: &str, made: bool, now: Instant) -> Option<Duration> {
        let mut orders = self.orders();
        if made {
            orders.remove(key);
            return None;
        }
        let order = orders.get_mut(key)?;
        let (first, longest) = RETRY;
        let pause = first.saturating_mul(2_u32.saturating_pow(order.failures)).min(longest);
        order.failures += 1;
        order.again = Some(now + pause);
        Some(pause)
    }

    /// The directory from which a pod's VM may be cloned.
    pub(crate) fn directory_for(&self, wanted: TemplateUse) -> Option<PathBuf> {
        self.root.clone().filter(|_| wanted == TemplateUse::Auto)
    }
}

impl Engine {
    /// Whether VMs are cloned from templates.
    pub fn clones(&self) -> bool {
        self.shared.templates.root.is_some()
    }

    /// The templates on disk, the one used last first.
    ///
    /// # Errors
    /// Their directory cannot be read.
    pub async fn templates(&self) -> Result<Vec<Template>> {
        self.with_root(list).await
    }

    /// Makes the template of a kind of pods, or finds it.
    ///
    /// # Errors
    /// Templates are switched off, a size that cannot be, or the VM cannot be booted and saved.
    pub async fn create_template(&self, request: TemplateRequest) -> Result<Template> {
        let shared = &self.shared;
        if !self.clones() {
            return Err(EngineError::conflict("templates are switched off (HYPER_TEMPLATES)"));
        }
        if let Some(kernel) = &request.kernel {
            crate::validate::check_kernel(kernel)?;
        }
        let options = PodOptions {
            vcpus: size::vcpus(request.nano_cpus, shared.accelerated())?,
            memory_mib: size::memory_mib(request.memory)?,
            hostname: "template".to_owned(),
            network: !request.isolated,
            kernel: request.kernel,
            hypervisor: request.hypervisor,
            ..PodOptions::default()
        };
        let mut config = shared.pod_config(PathBuf::new(), &options, false)?;
        if !request.isolated {
            config.interfaces.push(slot());
        }
        let manifest = shared.make_template(config).await?;
        let found =
            self.templates().await?.into_iter().find(|template| template.manifest.key == manifest.key);
        found.ok_or_else(|| EngineError::new(Kind::System, "the template was removed as soon as it was made"))
    }

    /// Removes a template by its key or the unambiguous beginning of it; pods cloned from it go on.
    ///
    /// # Errors
    /// There is none, or its files cannot be removed.
    pub async fn remove_template(&self, reference: &str) -> Result<()> {
        let templates = self.templates().await?;
        let mut matching =
            templates.iter().filter(|t| !reference.is_empty() && t.manifest.key.starts_with(reference));
        let key = match (matching.next(), matching.next()) {
            (Some(template), None) => template.manifest.key.clone(),
            (Some(_), Some(_)) => {
                return Err(EngineError::invalid(format!("multiple templates begin with {reference}")));
            }
            (None, _) => return Err(EngineError::not_found(format!("No such template: {reference}"))),
        };
        self.with_root(move |root| remove(root, &key)).await
    }

    /// Removes every template; the next pod of each kind boots and has one made again.
    ///
    /// # Errors
    /// Files cannot be removed.
    pub async fn prune_templates(&self) -> Result<Vec<Template>> {
        self.shared.templates.orders().retain(|_, order| order.again.is_none());
        self.with_root(|root| {
            let templates = list(root)?;
            templates.iter().try_for_each(|template| remove(root, &template.manifest.key))?;
            Ok(templates)
        })
        .await
    }

    pub(crate) async fn with_root<T: Default + Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(root) = self.shared.templates.root.clone() else { return Ok(T::default()) };
        tokio::task::spawn_blocking(move || work(&root))
            .await
            .map_err(|error| EngineError::system("the work on templates ended early", error))?
    }
}

impl Shared {
    /// Takes note of how a pod's VM came up; where there was no template for it, one is made.
    pub(crate) async fn note_origin(self: &Arc<Self>, origin: Origin, config: PodConfig) {
        let Origin::NoTemplate { key, unsound } = origin else { return };
        if let Some(why) = unsound {
            tracing::warn!(key, why, "a template was thrown away, and the pod booted");
        }
        if !self.templates.order(&key, Instant::now()) {
            return;
        }
        tokio::time::sleep(QUIET).await;
        let made = self.make_template(config).await;
        let pause = self.templates.note(&key, made.is_ok(), Instant::now());
        match made {
            Ok(manifest) => tracing::info!(key, took_ms = manifest.took_ms, "made a template"),
            Err(error) => {
                tracing::warn!(key, not_again_within = ?pause, error = %error.report(), "cannot make a template");
            }
        }
    }

    /// Throws a template away in a clone of which a rehearsal failed, and has it made anew: once. If that is no better,
    /// the template was not the reason.
    pub(crate) async fn doubt_template(self: &Arc<Self>, key: String, why: &str, config: PodConfig) {
        let doubted = &self.templates.doubted;
        if !doubted.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            return;
        }
        let engine = Engine { shared: self.clone() };
        let gone = key.clone();
        if let Err(error) = engine.with_root(move |root| remove(root, &gone)).await {
            tracing::warn!(key, error = %error.report(), "a template that is not sound cannot be removed");
        }
        let unsound = Some(format!("a rehearsal failed: {why}"));
        self.note_origin(Origin::NoTemplate { key, unsound }, config).await;
    }

    /// Has the shim make a template, and removes those that are too many then.
    async fn make_template(&self, mut config: PodConfig) -> Result<TemplateManifest> {
        let _unfinished = self.endings.read().await;
        let dir = self.config.places.run.join(format!("{WORKSHOP}{}", ids::pod_id()));
        let failed = |error: io::Error| EngineError::system("cannot make a directory for a template", error);
        DirBuilder::new().mode(0o700).create(&dir).map_err(failed)?;
        config.dir.clone_from(&dir);
        let made = self.run_template(&config).await;
        let _ = tokio::fs::remove_dir_all(&dir).await;
        if let (Err(_), Some(root)) = (&made, config.templates.clone()) {
            // Whoever made it may have been killed.
            let _ = tokio::task::spawn_blocking(move || clear_unfinished(&root)).await;
        }
        let manifest = made?;
        if let Some(root) = config.templates {
            let kept = manifest.key.clone();
            let trimmed = tokio::task::spawn_blocking(move || trim(&root, &kept, Timestamp::now())).await;
            if let Ok(Err(error)) = trimmed {
                tracing::warn!(error = %error.report(), "templates that are too many stay");
            }
        }
        Ok(manifest)
    }

    async fn run_template(&self, config: &PodConfig) -> Result<TemplateManifest> {
        let failed = |error: io::Error| EngineError::system("cannot run the shim to make a template", error);
        let text = serde_json::to_vec(config)
            .map_err(|error| EngineError::system("cannot encode a pod's configuration", error))?;
        let mut child = tokio::process::Command::new(self.shim_program()?)
            .arg("template")
            .current_dir(&config.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            // At its own priority it is made as well.
            let _ = rustix::process::setpriority_process(Some(pid), NICENESS);
        }
        let mut stdin = child.stdin.take().expect("it was made a pipe");
        let output = async {
            stdin.write_all(&text).await.map_err(failed)?;
            drop(stdin);
            let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
            let (mut printed, mut said) = (Vec::new(), Vec::new());
            let (read, also) = tokio::join!(
                stdout.as_mut().expect("it was made a pipe").read_to_end(&mut printed),
                stderr.as_mut().expect("it was made a pipe").read_to_end(&mut said),
            );
            read.and(also).map_err(failed)?;
            Ok((printed, said))
        };
        // Where nobody reads what it prints, the shim clears up what it has and ends.
        let output = tokio::select! {
            output = tokio::time::timeout(BOOT_TIMEOUT + SAVING, output) => output
                .unwrap_or_else(|_| Err(EngineError::new(Kind::System, "the template was not made in time"))),
            () = self.pool.ending() => Err(EngineError::new(Kind::System, "the daemon is ending")),
        };
        let status = match tokio::time::timeout(GIVING_UP, child.wait()).await {
            Ok(status) => status.map_err(failed)?,
            Err(_) => {
                child.kill().await.map_err(failed)?;
                return Err(EngineError::new(Kind::System, "the shim that makes the template does not end"));
            }
        };
        let (printed, said) = output?;
        if !status.success() {
            let why = reason(&String::from_utf8_lossy(&said));
            return Err(EngineError::new(Kind::System, format!("cannot make a template: {why}")));
        }
        serde_json::from_slice(&printed)
            .map_err(|error| EngineError::system("the shim tells no template", error))
    }

    /// Removes what a daemon left that died while a template was made.
    pub(crate) fn clear_workshops(&self) {
        for entry in fs::read_dir(&self.config.places.run).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(WORKSHOP) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        if let Some(root) = &self.templates.root {
            clear_unfinished(root);
        }
    }
}

/// What a program says last that failed: the VMM's own words in it may have several lines.
fn reason(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    let begin = lines.iter().rposition(|line| line.starts_with("error: "));
    let said = &lines[begin.unwrap_or(lines.len().saturating_sub(1))..];
    match said.join("; ").trim_start_matches("error: ") {
        "" => "no reason given".to_owned(),
        text => text.to_owned(),
    }
}

/// Removes what those left who died while they made a template, unless somebody is making one.
fn clear_unfinished(root: &Path) {
    let Ok(lock) = fs::File::open(root.join(TemplateManifest::LOCK)) else { return };
    if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        return;
    }
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(TemplateManifest::UNFINISHED) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Stands for an interface: the template has the slot, the clone the interface.
fn slot() -> TapInterface {
    TapInterface {
        slot: 0,
        tap: String::new(),
        name: String::new(),
        mac: String::new(),
        addresses: Vec::new(),
        gateways: Vec::new(),
        mtu: 0,
    }
}

/// The templates under `root`, the one used last first. What is none is passed over.
fn list(root: &Path) -> Result<Vec<Template>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(EngineError::system(format!("cannot read {}", root.display()), error)),
    };
    let mut templates: Vec<_> = entries.flatten().filter_map(|entry| read(&entry.path())).collect();
    templates.sort_by_key(|template| std::cmp::Reverse(template.used));
    Ok(templates)
}

fn read(dir: &Path) -> Option<Template> {
    let file = fs::File::open(dir.join(TemplateManifest::FILE)).ok()?;
    let status = file.metadata().ok()?;
    let mut text = Vec::new();
    file.take(MANIFEST_MAX).read_to_end(&mut text).ok()?;
    let manifest: TemplateManifest = serde_json::from_slice(&text).ok()?;
    if dir.file_name()?.to_str()? != manifest.key {
        return None;
    }
    let blocks = |entry: fs::DirEntry| entry.metadata().map_or(0, |metadata| metadata.blocks());
    let bytes = fs::read_dir(dir).ok()?.flatten().map(blocks).sum::<u64>() * 512;
    let used = Timestamp::from_parts(status.mtime(), status.mtime_nsec());
    Some(Template { manifest, bytes, used })
}

fn remove(root: &Path, key: &str) -> Result<()> {
    let failed = |error| EngineError::system(format!("cannot remove template {key}"), error);
    // Out of the way at once: nobody finds half of it.
    let gone = root.join(format!("{}{key}-gone", TemplateManifest::UNFINISHED));
    match fs::rename(root.join(key), &gone) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    }
    fs::remove_dir_all(gone).map_err(failed)
}

/// Removes the oldest until the rest is within bounds; never the one just made.
fn trim(root: &Path, kept: &str, now: Timestamp) -> Result<()> {
    let mut templates = list(root)?;
    // The host's clock was set back: when those were used nobody knows, and were they the youngest, the others would
    // have to go each time until the clock is there again.
    let horizon = Timestamp(now.0.saturating_add(i64::try_from(AHEAD.as_nanos()).unwrap_or(i64::MAX)));
    templates.sort_by_key(|template| template.used > horizon);
    let mut count = 0;
    let mut bytes = 0;
    for template in templates {
        count += 1;
        bytes += template.bytes;
        if (count > TEMPLATES_MAX || bytes > BYTES_MAX) && template.manifest.key != kept {
            remove(root, &template.manifest.key)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(root: &Path, key: &str, age_s: u64) {
        let dir = root.join(key);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("memory"), vec![1; 8192]).unwrap();
        let manifest = TemplateManifest {
            key: key.to_owned(),
            hypervisor: "qemu".to_owned(),
            accelerator: "tcg".to_owned(),
            version: "7.2".to_owned(),
            vcpus: 1,
            memory_mib: 1,
            nic_slots: 1,
            kernel: "/k".into(),
            kernel_args: Vec::new(),
            created_unix_ns: 0,
            took_ms: 1,
            files: Default::default(),
        };
        let file = dir.join(TemplateManifest::FILE);
        fs::write(&file, serde_json::to_vec(&manifest).unwrap()).unwrap();
        let time = std::time::SystemTime::now() - Duration::from_secs(age_s);
        fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn all_that_a_program_says_in_the_end_is_the_reason() {
        let stderr = "a warning\nerror: no space is left: qemu ended: hub 1\nhub 0\n";
        assert_eq!(reason(stderr), "no space is left: qemu ended: hub 1; hub 0");
        assert_eq!(reason("gone\n"), "gone");
        assert_eq!(reason(""), "no reason given");
    }

    #[test]
    fn oldest_templates_go_when_there_are_too_many() {
        let root = tempfile::tempdir().unwrap();
        for n in 0..10 {
            template(root.path(), &format!("k{n}"), n * 100);
        }
        fs::create_dir(root.path().join(".new-k11")).unwrap();
        fs::write(root.path().join("lock"), "").unwrap();
        let keys = || -> Vec<String> {
            list(root.path()).unwrap().into_iter().map(|template| template.manifest.key).collect()
        };
        assert_eq!(keys().len(), 10);
        // The oldest of all was just made.
        trim(root.path(), "k9", Timestamp::now()).unwrap();
        assert_eq!(keys(), ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7", "k9"]);
        assert!(list(root.path()).unwrap().iter().all(|template| template.bytes >= 8192));
        remove(root.path(), "k0").unwrap();
        remove(root.path(), "k0").unwrap();
        assert_eq!(keys().len(), 8);
        assert!(list(&root.path().join("nosuch")).unwrap().is_empty());
    }

    #[test]
    fn templates_from_before_the_clock_was_set_back_go_first() {
        let root = tempfile::tempdir().unwrap();
        for n in 0..10 {
            template(root.path(), &format!("k{n}"), n * 100);
        }
        // Set back so far that k0 to k4 were used in the future.
        let now = Timestamp(Timestamp::now().0 - 480_000_000_000);
        trim(root.path(), "k9", now).unwrap();
        let keys: BTreeSet<String> =
            list(root.path()).unwrap().into_iter().map(|template| template.manifest.key).collect();
        let expected = ["k0", "k1", "k2", "k5", "k6", "k7", "k8", "k9"];
        assert_eq!(keys, expected.map(str::to_owned).into());
    }

    #[test]
    fn what_cannot_be_made_is_tried_ever_less_often() {
        let templates = Templates::new(None);
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert!(templates.order("k", now));
            assert!(!templates.order("k", now + Duration::from_secs(3600)), "it is being made");
            let pause = templates.note("k", false, now).unwrap();
            assert!(!templates.order("k", now + pause - Duration::from_millis(1)));
            now += pause;
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        assert!(templates.order("k", now) && templates.order("other", now));
        assert_eq!(templates.note("k", true, now), None);
        // When it is gone one day, it may be made again.
        assert!(templates.order("k", now));
    }

    #[test]
    fn leftovers_of_the_dead_go_and_those_of_the_living_stay() {
        let root = tempfile::tempdir().unwrap();
        let left = root.path().join(".new-k1");
        fs::create_dir(&left).unwrap();
        template(root.path(), "k1", 0);
        let lock = fs::File::create(root.path().join(TemplateManifest::LOCK)).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        clear_unfinished(root.path());
        assert!(left.exists());
        drop(lock);
        clear_unfinished(root.path());
        assert!(!left.exists() && list(root.path()).unwrap().len() == 1);
    }

    #[test]
    fn words_for_the_use_of_templates() {
        assert_eq!(TemplateUse::parse("").unwrap(), TemplateUse::Auto);
        assert_eq!(TemplateUse::parse("never").unwrap(), TemplateUse::Never);
        assert!(TemplateUse::parse("always").unwrap_err().message.contains("always"));
        let templates = Templates::new(Some("/t".into()));
        assert_eq!(templates.directory_for(TemplateUse::Auto), Some("/t".into()));
        assert_eq!(templates.directory_for(TemplateUse::Never), None);
    }
}
