//! Pulling: manifest, configuration, layers side by side, then one transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::auth::Auth;
use crate::config::ImageConfig;
use crate::digest::{Digest, ImageId};
use crate::layer::{LayerError, Limits};
use crate::platform::Platform;
use crate::progress::{LayerStep, Progress};
use crate::reference::Reference;
use crate::registry::{
    BlobStream, Client, Descriptor, DownloadEvent, Fetched, Manifest, RegistryError, Session, choose,
    endpoints, is_index, parse_index, parse_manifest,
};

use super::blobs::{self, Blob};
use super::database::{self, LayerRow, NewImage};
use super::error::{PullError, StoreError};
use super::image::PullOutcome;
use super::ingest::{Ingest, Resumed};
use super::layers::{Hold, Made, Shelf, ShelfError, chain_ids};
use super::merged;
use super::time::now;

/// Download progress is told at most so often per layer.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// HTTP's answer to a range that a blob does not have.
const RANGE_NOT_SATISFIABLE: u16 = 416;

/// What a pull is told and uses.
pub struct Pull<'a> {
    /// Where layers go.
    pub shelf: &'a Arc<Shelf>,
    /// How registries are spoken to.
    pub client: &'a Client,
    /// Layers that may be fetched at once, over all pulls.
    pub slots: &'a Semaphore,
    /// Bounds on layers.
    pub limits: Limits,
    /// The image.
    pub reference: &'a Reference,
    /// What to choose from an index.
    pub platform: Option<Platform>,
    /// Whom to tell.
    pub progress: &'a (dyn Fn(Progress) + Send + Sync),
}

/// The image that was found.
struct Found {
    /// Digest of what the tag names.
    digest: Digest,
    manifest: Fetched,
    parsed: Manifest,
}

/// A layer to get.
struct Job<'a> {
    descriptor: &'a Descriptor,
    diff_id: Digest,
    chain_id: Digest,
}

/// A layer whose tar is read and is what it should be.
struct Arrived {
    made: Made,
    /// Its compressed bytes, until it is on the shelf.
    ingest: Ingest,
}

/// How far a layer came by itself.
enum Got {
    /// On the shelf.
    Kept(LayerRow, Hold),
    /// It needs the layers below to be finished.
    Arrived(Box<Arrived>),
}

/// What a failure says about the bytes that were kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// Nothing: they are good for another attempt.
    Connection,
    /// They may be wrong, or what followed was.
    Content,
    /// They take room that the layer needs.
    Room,
    /// They are of no use, but not the cause.
    Elsewhere,
}

/// Why a layer was not fetched.
struct Failure {
    error: PullError,
    /// Another attempt that makes sense.
    again: Option<Again>,
}

/// Another attempt, from a layer's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// With the kept bytes the layer is not what it should be.
    KeptNoUse,
    /// Keeping its bytes takes the room of its disk.
    NoRoom,
}

impl Again {
    /// What users are told.
    fn reason(self) -> &'static str {
        match self {
            Self::KeptNoUse => "what an earlier pull kept is of no use",
            Self::NoRoom => "the disk has no room to keep what comes",
        }
    }
}

impl Pull<'_> {
    /// Does it all.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn run(&self, auth: Option<Auth>) -> Result<PullOutcome, PullError> {
        self.shelf.ingests().sweep_stale();
        let (session, found) = self.find(auth).await?;
        let id = ImageId::new(found.parsed.config.digest);
        self.tell(Progress::PullingFrom { repository: self.shown_repository(), tag: self.shown_tag() });
        let bytes = self.config_bytes(&session, &found, &id).await?;
        let config = ImageConfig::parse(&bytes)?;
        self.check_config(&config, &found)?;
        let layers = self.layers(&session, &found.parsed, &config).await?;
        let changed = self.commit(&found, &id, &bytes, &layers)?;
        let shelf = Arc::clone(self.shelf);
        let prepared = tokio::task::spawn_blocking(move || merged::prepare(&shelf, &id)).await;
        prepared.map_err(StoreError::Task)?;
        self.tell(Progress::Digest(found.digest));
        let status = match changed {
            true => format!("Status: Downloaded newer image for {}", self.reference),
            false => format!("Status: Image is up to date for {}", self.reference),
        };
        self.tell(Progress::Status(status));
        Ok(PullOutcome { image_id: id, digest: found.digest, up_to_date: !changed })
    }

    /// Finds the manifest at the first endpoint that has it. The last endpoint, the registry
    /// itself, has the last word.
    async fn find(&self, auth: Option<Auth>) -> Result<(Session<'_>, Found), PullError> {
        let endpoints = endpoints(self.reference, self.client.config());
        let count = endpoints.len();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let attempt = async {
                let session = self.client.session(endpoint, self.reference, auth.clone()).await;
                let session = session.map_err(|error| self.failed(&endpoint.host, error))?;
                let found = self.find_at(&session).await?;
                Ok::<_, PullError>((session, found))
            };
            match attempt.await {
                Ok(found) => return Ok(found),
                Err(error) if index + 1 == count => return Err(error),
                Err(error) => {
                    tracing::warn!(mirror = endpoint.host, %error, "registry mirror failed, going on")
                }
            }
        }
        unreachable!("endpoints end with the registry itself")
    }

    /// Fetches the manifest, through an index if there is one.
    async fn find_at(&self, session: &Session<'_>) -> Result<Found, PullError> {
        let name = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or(crate::reference::DEFAULT_TAG).to_owned(),
        };
        let top = self.manifest(session, &name, self.reference.digest()).await?;
        let digest = top.digest;
        let mut manifest = top;
        // One list inside another is legal and rare; deeper nesting is a loop.
        for _ in 0..2 {
            if !is_index(&manifest.media_type) {
                break;
            }
            let wanted = self.platform.clone().unwrap_or_else(Platform::host);
            let index = parse_index(&manifest.bytes).map_err(|problem| self.unusable(problem))?;
            let descriptor = choose(index, &wanted);
            let descriptor =
                descriptor.ok_or_else(|| PullError::NoPlatform { platform: wanted.to_string() })?;
            manifest =
                self.manifest(session, &descriptor.digest.to_string(), Some(descriptor.digest)).await?;
        }
        if is_index(&manifest.media_type) {
            return Err(self.unusable("its indexes are nested too deeply".to_owned()));
        }
        let parsed = parse_manifest(&manifest.bytes).map_err(|problem| self.unusable(problem))?;
        Ok(Found { digest, manifest, parsed })
    }

    /// Fetches one manifest.
    async fn manifest(
        &self,
        session: &Session<'_>,
        name: &str,
        digest: Option<Digest>,
    ) -> Result<Fetched, PullError> {
        let fetched = session.manifest(name, digest).await;
        let fetched = fetched.map_err(|error| self.failed(&session.registry(), error))?;
        fetched.ok_or_else(|| PullError::Schema1(self.reference.to_string()))
    }

    /// The configuration, from the store if it is there.
    async fn config_bytes(
        &self,
        session: &Session<'_>,
        found: &Found,
        id: &ImageId,
    ) -> Result<Vec<u8>, PullError> {
        let known = database::image(&self.shelf.state().connection, id).map_err(StoreError::Database)?;
        if let Some(image) = known {
            return Ok(image.config);
        }
        let descriptor = &found.parsed.config;
        let bytes = session.small_blob(descriptor.digest, descriptor.size).await;
        bytes.map_err(|error| self.failed(&session.registry(), error))
    }

    /// Configuration, manifest and wish must agree.
    fn check_config(&self, config: &ImageConfig, found: &Found) -> Result<(), PullError> {
        let (in_config, in_manifest) = (config.rootfs.diff_ids.len(), found.parsed.layers.len());
        if in_config != in_manifest {
            let problem = format!("it has {in_manifest} layers, its configuration {in_config}");
            return Err(self.unusable(problem));
        }
        let Some(wanted) = &self.platform else { return Ok(()) };
        let has = Platform {
            os: config.os.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
        };
        match has.fitness(wanted) {
            Some(_) => Ok(()),
            None => Err(PullError::WrongPlatform {
                reference: self.reference.to_string(),
                wanted: wanted.to_string(),
                found: has.to_string(),
            }),
        }
    }

    /// Gets all layers, several at a time. The holds keep them until the image is in the database.
    async fn layers(
        &self,
        session: &Session<'_>,
        manifest: &Manifest,
        config: &ImageConfig,
    ) -> Result<Vec<(LayerRow, Hold)>, PullError> {
        let diff_ids = &config.rootfs.diff_ids;
        let jobs: Vec<Job<'_>> = manifest
            .layers
            .iter()
            .zip(diff_ids.iter().zip(chain_ids(diff_ids)))
            .map(|(descriptor, (diff_id, chain_id))| Job { descriptor, diff_id: *diff_id, chain_id })
            .collect();
        let mut running: FuturesUnordered<_> = jobs
            .iter()
            .enumerate()
            .map(|(index, job)| async move { (index, self.layer(session, job).await) })
            .collect();
        let mut got: Vec<Option<Got>> = jobs.iter().map(|_| None).collect();
        while let Some((index, result)) = running.next().await {
            got[index] = Some(result?);
        }
        drop(running);
        let mut kept: Vec<(LayerRow, Hold)> = Vec::with_capacity(jobs.len());
        for (job, got) in jobs.iter().zip(got) {
            let layer = match got.expect("every job has ended") {
                Got::Kept(row, hold) => (row, hold),
                Got::Arrived(arrived) => {
                    let below = kept.iter().map(|(row, _)| row.key).collect();
                    self.keep(*arrived, job, below).await?
                }
            };
            kept.push(layer);
        }
        Ok(kept)
    }

    /// Gets one layer: from the shelf, from another pull, or from the registry.
    async fn layer(&self, session: &Session<'_>, job: &Job<'_>) -> Result<Got, PullError> {
        if let Some(kept) = self.find_layer(job)? {
            return Ok(kept);
        }
        self.step(job, LayerStep::PullingFsLayer);
        let lock = self.shelf.making(job.diff_id);
        let _making = match lock.try_lock() {
            Ok(guard) => guard,
            Err(_) => {
                self.step(job, LayerStep::Waiting);
                lock.lock().await
            }
        };
        if let Some(kept) = self.find_layer(job)? {
            return Ok(kept);
        }
        let slot = match self.slots.try_acquire() {
            Ok(slot) => slot,
            Err(_) => {
                self.step(job, LayerStep::Waiting);
                self.slots.acquire().await.expect("the semaphore is never closed")
            }
        };
        let arrived = self.fetch(session, job).await?;
        drop(slot);
        if arrived.made.needs_lower() {
            return Ok(Got::Arrived(Box::new(arrived)));
        }
        let (row, hold) = self.keep(arrived, job, Vec::new()).await?;
        Ok(Got::Kept(row, hold))
    }

    /// The layer, if it is on the shelf. Then nobody needs its bytes: a pull may have died just before it
    /// removed them.
    fn find_layer(&self, job: &Job<'_>) -> Result<Option<Got>, PullError> {
        let Some((row, hold)) = self.shelf.find(&job.diff_id, &job.chain_id)? else { return Ok(None) };
        self.shelf.ingests().forget(&job.descriptor.digest);
        self.step(job, LayerStep::AlreadyExists);
        Ok(Some(Got::Kept(row, hold)))
    }

    /// Fetches a layer, going on where an earlier pull ended. Once, if that may help, from the beginning.
    async fn fetch(&self, session: &Session<'_>, job: &Job<'_>) -> Result<Arrived, PullError> {
        let Descriptor { digest, size, .. } = job.descriptor;
        let ingest = self.shelf.ingests().take(digest, *size).await;
        let Failure { error, again } = match self.attempt(session, job, ingest).await {
            Ok(arrived) => return Ok(arrived),
            Err(failure) => failure,
        };
        let Some(again) = again else { return Err(error) };
        let reason = again.reason();
        log_start_over(digest, &error, reason);
        self.step(job, LayerStep::StartingOver { reason });
        let ingest = match again {
            Again::KeptNoUse => self.shelf.ingests().take(digest, *size).await,
            Again::NoRoom => Ingest::none(),
        };
        self.attempt(session, job, ingest).await.map_err(|failure| failure.error)
    }

    /// Downloads what is not kept of a layer and makes its disk meanwhile.
    async fn attempt(
        &self,
        session: &Session<'_>,
        job: &Job<'_>,
        ingest: Ingest,
    ) -> Result<Arrived, Failure> {
        let size = job.descriptor.size;
        let from = ingest.start();
        let (pieces, stream) = BlobStream::channel();
        let mut source = Resumed::new(ingest, stream);
        let (shelf, limits) = (Arc::clone(self.shelf), self.limits);
        let making = tokio::task::spawn_blocking(move || {
            let made = shelf.make(&mut source, limits).and_then(|made| {
                let (digest, length) = source.finish().map_err(LayerError::Source)?;
                Ok((made, digest, length))
            });
            (made, source.into_ingest())
        });
        let told = std::sync::Mutex::new(Instant::now() - TELL_EVERY);
        let downloaded = session
            .download(job.descriptor.digest, size, from, &pieces, &|event| match event {
                DownloadEvent::Bytes(current) => {
                    let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if current == size || told.elapsed() >= TELL_EVERY {
                        *told = Instant::now();
                        self.step(job, LayerStep::Downloading { current, total: size });
                    }
                }
                DownloadEvent::Pause(pause) => {
                    self.step(job, LayerStep::Retrying { seconds: pause.as_secs().max(1) });
                }
            })
            .await;
        drop(pieces);
        if downloaded.is_ok() {
            self.step(job, LayerStep::VerifyingChecksum);
        }
        let (made, mut ingest) = match making.await {
            Ok(ended) => ended,
            Err(error) => return Err(Failure { error: StoreError::Task(error).into(), again: None }),
        };
        let (error, blame) = match self.judge(session, job, downloaded, made) {
            Ok(made) => return Ok(Arrived { made, ingest }),
            Err(failed) => failed,
        };
        let again = match blame {
            Blame::Content => (from > 0).then_some(Again::KeptNoUse),
            Blame::Room => {
                // What other pulls left is in the way as well.
                let others = self.shelf.ingests().collect().unwrap_or_default();
                (others > 0 || ingest.takes_room()).then_some(Again::NoRoom)
            }
            Blame::Connection | Blame::Elsewhere => None,
        };
        if blame != Blame::Connection {
            ingest.discard();
        }
        Err(Failure { error: *error, again })
    }

    /// Whether a download and what was made of it are what the manifest says.
    fn judge(
        &self,
        session: &Session<'_>,
        job: &Job<'_>,
        downloaded: Result<(), RegistryError>,
        made: Result<(Made, Digest, u64), ShelfError>,
    ) -> Result<Made, (Box<PullError>, Blame)> {
        let Descriptor { digest, size, .. } = job.descriptor;
        match downloaded {
            Ok(()) | Err(RegistryError::Abandoned) => {}
            Err(error) => {
                let unlike = matches!(error, RegistryError::Content { .. })
                    || error.refusal().is_some_and(|refusal| refusal.status == RANGE_NOT_SATISFIABLE);
                let blame = if unlike { Blame::Content } else { Blame::Connection };
                return Err((self.failed(&session.registry(), error).into(), blame));
            }
        }
        let (made, found, length) = made.map_err(|error| {
            let blame = match &error {
                ShelfError::Layer(LayerError::NoSpace) | ShelfError::Store(StoreError::NoSpace { .. }) => {
                    Blame::Room
                }
                ShelfError::Layer(LayerError::Write(_) | LayerError::Lower(_)) | ShelfError::Store(_) => {
                    Blame::Elsewhere
                }
                ShelfError::Layer(_) => Blame::Content,
            };
            (self.shelf_failed(job, error).into(), blame)
        })?;
        if found != *digest || length != *size {
            let problem = format!("expected {size} bytes with digest {digest}, got {length} with {found}");
            let error = PullError::Verification { what: format!("layer {digest}"), problem };
            return Err((error.into(), Blame::Content));
        }
        self.step(job, LayerStep::DownloadComplete);
        if made.diff_id != job.diff_id {
            let source = LayerError::DiffId { expected: job.diff_id, found: made.diff_id };
            return Err((PullError::Layer { digest: *digest, source }.into(), Blame::Elsewhere));
        }
        Ok(made)
    }

    /// Finishes a layer over those below.
    async fn keep(
        &self,
        arrived: Arrived,
        job: &Job<'_>,
        below: Vec<Digest>,
    ) -> Result<(LayerRow, Hold), PullError> {
        let total = job.descriptor.size;
        self.step(job, LayerStep::Extracting { current: total, total });
        let (shelf, chain_id) = (Arc::clone(self.shelf), job.chain_id);
        let kept = tokio::task::spawn_blocking(move || {
            let Arrived { made, mut ingest } = arrived;
            let kept = shelf.keep(made, &chain_id, &below);
            ingest.discard();
            kept
        });
        let kept = kept.await;
        let kept = kept.map_err(StoreError::Task)?.map_err(|error| self.shelf_failed(job, error))?;
        self.step(job, LayerStep::PullComplete);
        Ok(kept)
    }

    /// Writes the image and its names. Returns whether anything is new.
    fn commit(
        &self,
        found: &Found,
        id: &ImageId,
        config: &[u8],
        layers: &[(LayerRow, Hold)],
    ) -> Result<bool, PullError> {
        let keys: Vec<Digest> = layers.iter().map(|(row, _)| row.key).collect();
        let new = NewImage {
            id: *id,
            config,
            manifest_digest: found.manifest.digest,
            manifest_media_type: &found.manifest.media_type,
            manifest: &found.manifest.bytes,
            layers: &keys,
            now: now(),
        };
        let mut state = self.shelf.state();
        Ok(self.write(&mut state.connection, &new, found, layers).map_err(StoreError::Database)?)
    }

    /// The transaction of [`Self::commit`].
    fn write(
        &self,
        connection: &mut Connection,
        new: &NewImage<'_>,
        found: &Found,
        layers: &[(LayerRow, Hold)],
    ) -> rusqlite::Result<bool> {
        let repository = self.reference.repository();
        let transaction = connection.transaction()?;
        let known = database::by_digest(&transaction, &repository, &found.digest)? == Some(new.id);
        database::add_image(&transaction, new)?;
        database::set_digest(&transaction, &repository, &found.digest, &new.id)?;
        for (layer, (row, _)) in found.parsed.layers.iter().zip(layers) {
            let Descriptor { digest, size, media_type, .. } = layer.clone();
            let blob = Blob { digest, media_type, size };
            blobs::remember(&transaction, &row.diff_id, &repository, &blob, new.now)?;
        }
        let moved = match (self.reference.tag(), self.reference.digest()) {
            (Some(tag), None) => database::set_tag(&transaction, &repository, tag, &new.id, new.now)?,
            _ => false,
        };
        transaction.commit()?;
        Ok(!known || moved)
    }

    /// Tells something.
    fn tell(&self, progress: Progress) {
        (self.progress)(progress);
    }

    /// Tells something about a layer.
    fn step(&self, job: &Job<'_>, step: LayerStep) {
        self.tell(Progress::Layer { id: job.descriptor.digest.short(), step });
    }

    /// The repository in docker's first line: its path, with `library/`.
    fn shown_repository(&self) -> String {
        self.reference.path().to_owned()
    }

    /// The tag or digest in docker's first line.
    fn shown_tag(&self) -> String {
        match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or_default().to_owned(),
        }
    }

    /// A manifest that cannot be used.
    fn unusable(&self, problem: String) -> PullError {
        PullError::Manifest { reference: self.reference.to_string(), problem }
    }

    /// A layer or the store failed.
    fn shelf_failed(&self, job: &Job<'_>, error: ShelfError) -> PullError {
        match error {
            ShelfError::Store(error) => PullError::Store(error),
            ShelfError::Layer(source) => PullError::Layer { digest: job.descriptor.digest, source },
        }
    }

    /// A registry's failure.
    fn failed(&self, registry: &str, error: RegistryError) -> PullError {
        PullError::of_registry(self.reference, registry, error)
    }
}

impl PullError {
    /// A registry's failure, in docker's words where it has some.
    pub(super) fn of_registry(reference: &Reference, registry: &str, error: RegistryError) -> Self {
        let repository = || reference.familiar_name();
        if let RegistryError::Content { problem, url } = &error {
            return Self::Verification { what: url.clone(), problem: problem.clone() };
        }
        if let Some(refusal) = error.refusal() {
            let denied = "requested access to the resource is denied";
            match (refusal.status, refusal.code.as_str()) {
                (403, _) | (_, "DENIED") => {
                    let message = format!("denied: {}", refusal.words(denied));
                    return Self::Denied { repository: repository(), message };
                }
                (401, _) => return Self::Unauthorized(refusal.words("authentication required")),
                (_, "NAME_UNKNOWN") => {
                    let message = refusal.words("repository name not known to registry");
                    return Self::NameUnknown { repository: repository(), message };
                }
                (404, "" | "MANIFEST_UNKNOWN") if error.to_string().contains("/manifests/") => {
                    let reference = reference.to_string();
                    return Self::ManifestUnknown { reference, message: refusal.words("manifest unknown") };
                }
                (429, _) => {
                    return Self::TooManyRequests(refusal.words("the registry's rate limit is reached"));
                }
                _ => {}
            }
        }
        if matches!(error, RegistryError::NoLogin { .. }) {
            return Self::Unauthorized("authentication required".to_owned());
        }
        Self::Registry { registry: registry.to_owned(), source: error }
    }
}

/// Logs why what came of a layer is given up, with all causes.
fn log_start_over(digest: &Digest, error: &PullError, reason: &str) {
    let cause: &dyn std::error::Error = error;
    tracing::warn!(%digest, cause, reason, "a layer is fetched from its beginning");
}
