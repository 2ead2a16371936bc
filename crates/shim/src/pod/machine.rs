//! A pod's VM, from its launch to its end.
//!
//! A clone that fails is not the pod's end: as long as no container has been made in it, a VM that boots takes its place,
//! once. Nor is a boot of whose guest nothing was heard: it boots once more. Whatever was asked of the pod waits
//! meanwhile; its directory, its taps and its disks serve the one as the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use hyper_protocol::shim::{Origin, PodConfig};
use hyper_vm::{ExitKind, Hypervisor, Start, Vm, VmConfig};
use tokio::time::timeout;

use super::{Boot, Ending, Live, Phase, Pod, Slot, lock};
use crate::boot::{self, Unmet};
use crate::disks::Disks;
use crate::error::ShimError;
use crate::phase::PodPhase;
use crate::share::Shares;
use crate::templates::Template;

/// How long after its launch the end of a clone is put down to its template, although containers have been started in it:
/// what a broken template does to a guest it does early. Later it is the containers' doing, or the host's.
const SUSPECT: Duration = Duration::from_secs(10);
/// How long after a call to it failed a VM may take to be known to have ended; measured: some milliseconds.
const DEATH: Duration = Duration::from_secs(2);

/// A VM with what is plugged into it.
pub struct Machine {
    /// The VM.
    pub vm: Arc<dyn Vm>,
    /// Its disks.
    pub disks: Disks,
    /// Files of the host that it has, where it may have such.
    pub shares: Option<Shares>,
    template: Option<Template>,
    launched: Instant,
    made: AtomicBool,
    started: AtomicBool,
}

impl Machine {
    fn new(vm: Arc<dyn Vm>, shares: Option<Shares>, template: Option<Template>, launched: Instant) -> Self {
        let (made, started) = Default::default();
        Self { vm, disks: Disks::default(), shares, template, launched, made, started }
    }

    /// Takes note that a container has been made in it: it cannot be replaced any more.
    pub fn note_made(&self) {
        self.made.store(true, Ordering::Relaxed);
    }

    /// Takes note that a container is being started in it: what happens from now on may be the container's doing.
    pub fn note_started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// Whether the end of this VM, which nobody asked for, may be its template's fault.
    fn is_suspect(&self, by_itself: bool) -> bool {
        let started = self.started.load(Ordering::Relaxed);
        !started || (by_itself && self.launched.elapsed() < SUSPECT)
    }
}

/// Templates that a VM has to do with.
struct Origins<'a> {
    /// That of which it is a clone.
    template: Option<Template>,
    /// That of which a clone failed in its place.
    suspect: Option<&'a Template>,
}

/// Why a VM is of no use.
struct Fault {
    error: ShimError,
    /// The same for somebody who knows that it was a clone.
    why: String,
    /// Nothing was heard of its guest.
    mute: bool,
}

impl From<ShimError> for Fault {
    fn from(error: ShimError) -> Self {
        Self { why: error.to_string(), error, mute: false }
    }
}

impl From<Unmet> for Fault {
    fn from(Unmet { why, console, mute }: Unmet) -> Self {
        let error = ShimError::Failed(format!("the guest did not boot: {why}{console}"));
        Self { error, why, mute }
    }
}

impl Pod {
    /// Brings its VM up, as a clone where there is a template, and follows it to its end.
    pub(super) async fn bring_up(self: Arc<Self>, config: Arc<PodConfig>) {
        let planned = (self.choose)(&config)
            .and_then(|hypervisor| Ok((hypervisor, boot::vm_config(&self.id, &config)?)));
        let (hypervisor, vm_config) = match planned {
            Ok(planned) => planned,
            Err(error) => return self.end(Ending::failed(error)).await,
        };
        let (template, origin) = boot::template(&*hypervisor, &vm_config, &config);
        *lock(&self.origin) = origin;
        let mut suspect = None;
        if let Some(template) = template {
            let began = SystemTime::now();
            let start = Start::Clone(template.dir());
            let clone = VmConfig { start, ..vm_config.clone() };
            let origin = Origins { template: Some(template.clone()), suspect: None };
            let cloned =
                self.run_vm(&*hypervisor, clone, &config, boot::patience(&config, true), origin).await;
            let Err(fault) = cloned else { return };
            let again = Phase::Booting(config.clone(), Boot::Launching);
            // Stopped meanwhile, it has an end already.
            if !self.advance(PodPhase::Booting, again) {
                return;
            }
            self.timeline.since("clone that failed", began);
            let why = format!("a clone failed: {}", fault.why.lines().collect::<Vec<_>>().join("; "));
            tracing::warn!(key = template.key, error = %fault.error, "a template seems to be of no use; the guest boots");
            *lock(&self.origin) =
                Origin::NoTemplate { key: template.key.clone(), unsound: Some(why.clone()) };
            suspect = Some((template, why));
        }
        let origin = || Origins { template: None, suspect: suspect.as_ref().map(|(template, _)| template) };
        let (began, launched) = (SystemTime::now(), Instant::now());
        let first = self
            .run_vm(&*hypervisor, vm_config.clone(), &config, boot::patience(&config, false), origin())
            .await;
        let again = Phase::Booting(config.clone(), Boot::Launching);
        let booted = match first {
            Err(fault) if fault.mute && self.advance(PodPhase::Booting, again) => {
                self.timeline.since("boot that failed", began);
                tracing::warn!(pod = %self.id, error = %fault.error, "nothing was heard of the guest; it boots again");
                let patience = boot::patience_again(&config, launched.elapsed());
                *lock(&self.unheard) = Some(fault.error.to_string());
                self.run_vm(&*hypervisor, vm_config, &config, patience, origin()).await
            }
            first => first,
        };
        if let Err(Fault { error, why, .. }) = booted
            && matches!(self.phase(), Phase::Booting(..))
        {
            let error = match (error, suspect) {
                (ShimError::Failed(text), Some((_, clone))) if !clone.contains(&why) => {
                    ShimError::Failed(format!("{text}\nbefore, {clone}"))
                }
                (error, _) => error,
            };
            self.end(Ending::failed(error)).await;
        }
    }

    /// Launches a VM, makes it this pod, and follows it to its end. When it comes up where a clone of the suspect did not,
    /// that template was at fault, and no other pod is to be cloned from it.
    ///
    /// # Errors
    /// It did not come up, or is a clone that was lost before a container was made in it. Nothing is left of it.
    async fn run_vm(
        &self,
        hypervisor: &dyn Hypervisor,
        vm_config: VmConfig,
        config: &Arc<PodConfig>,
        patience: Duration,
        Origins { template, suspect }: Origins<'_>,
    ) -> Result<(), Fault> {
        let launched = Instant::now();
        let cloned = template.is_some();
        let (vm, shares) = boot::launch(hypervisor, vm_config, config, &self.timeline).await?;
        let machine = Arc::new(Machine::new(vm.clone(), shares, template, launched));
        // A clone's guest has long been listening.
        let boot = if cloned { Boot::Listening } else { Boot::Silent };
        if !self.advance(PodPhase::Booting, Phase::Booting(config.clone(), boot(machine.clone()))) {
            // Stopped meanwhile.
            vm.kill().await;
            return Ok(());
        }
        let listening = || {
            let phase = Phase::Booting(config.clone(), Boot::Listening(machine.clone()));
            self.advance(PodPhase::Booting, phase);
        };
        let guest = boot::meet(vm.clone(), config, (launched, patience), &self.timeline, listening).await?;
        if let Some(template) = suspect {
            template.discard();
        }
        let live = Arc::new(Live {
            config: config.clone(),
            interfaces: config.interfaces.clone().into(),
            machine: machine.clone(),
            guest,
        });
        if !self.advance(PodPhase::Booting, Phase::Running(live.clone())) {
            live.guest.end("the pod was stopped");
            vm.kill().await;
            return Ok(());
        }
        let info = vm.info();
        tracing::info!(pod = %self.id, pid = info.pid, accelerator = %info.accelerator, "the guest is up");
        self.follow(&live).await
    }

    /// Follows a VM to its end.
    async fn follow(&self, live: &Live) -> Result<(), Fault> {
        let machine = &live.machine;
        let kernel = boot::identify(&live.guest);
        let keep = async {
            *lock(&self.kernel) = kernel.await;
            live.guest.keep().await
        };
        let (reason, by_itself) = tokio::select! {
            exit = machine.vm.wait() => {
                (exit.reason, matches!(exit.kind, ExitKind::Panic | ExitKind::Lost))
            }
            how = unserved(machine) => {
                // Whoever uses a shared file would wait for ever: nothing in the guest answers in the server's place.
                machine.vm.kill().await;
                (format!("virtiofsd, which serves its volumes, ended ({how})"), false)
            }
            reason = keep => {
                machine.vm.kill().await;
                (reason, false)
            }
        };
        // When it is being stopped, that says how it ended.
        let lost = matches!(self.phase(), Phase::Running(_));
        if lost && let Some(template) = &machine.template {
            if machine.is_suspect(by_itself) {
                tracing::warn!(key = template.key, reason, "a clone was lost early; its template goes");
                template.discard();
            }
            if self.take_back(live) {
                live.guest.end(&reason);
                return Err(ShimError::Gone(reason).into());
            }
        }
        live.guest.end(&reason);
        if lost {
            tracing::error!(pod = %self.id, %reason, "the VM was lost");
            self.end(Ending::now(format!("the pod's VM is gone: {reason}"), false)).await;
        }
        Ok(())
    }

    /// Takes a lost clone out of the pod, if its first container is just being made: that can be done again.
    fn take_back(&self, live: &Live) -> bool {
        let containers = lock(&self.containers);
        let wanted = containers.values().any(|slot| matches!(slot, Slot::Coming));
        if !wanted || live.machine.made.load(Ordering::Relaxed) {
            return false;
        }
        self.advance(PodPhase::Running, Phase::Booting(live.config.clone(), Boot::Launching))
    }

    /// Whether another VM takes the place of this one, which may have ended; waits until that is known.
    pub async fn replaces(&self, lost: &Machine) -> bool {
        if timeout(DEATH, lost.vm.wait()).await.is_err() {
            return false;
        }
        let mut phase = self.phase.subscribe();
        let other = |phase: &Phase| !phase.machine().is_some_and(|now| std::ptr::eq(&**now, lost));
        let settled = phase.wait_for(other).await;
        settled.is_ok_and(|phase| matches!(phase.kind(), PodPhase::Booting | PodPhase::Running))
    }
}

/// Waits until the server of a VM's shared files has ended without the VM; for ever where there is none.
async fn unserved(machine: &Machine) -> String {
    let Some(shares) = &machine.shares else { return std::future::pending().await };
    let how = shares.server().ended().await;
    // It ends with its VM, which is known a little later.
    tokio::time::sleep(DEATH).await;
    how
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hyper_protocol::agent::Request;
    use hyper_protocol::shim::Origin;

    use super::*;
    use crate::tasks;
    use crate::testing::{self, FakeGuest, Flaw, container, to_be_cloned};

    /// A pod whose clones have this flaw, and how many templates are there after what is done with it.
    async fn with_flaw<T>(
        flaw: Flaw,
        work: impl AsyncFnOnce(&Path, Arc<Pod>, Arc<FakeGuest>) -> T,
    ) -> (T, bool) {
        let dir = tempfile::tempdir().unwrap();
        let (pod, guest, key) = to_be_cloned(dir.path());
        *guest.flaw.lock().unwrap() = flaw;
        let done = timeout(Duration::from_secs(300), work(dir.path(), pod, guest)).await;
        (done.expect("it does not hang"), dir.path().join("templates").join(key).exists())
    }

    async fn run(dir: &Path, pod: &Arc<Pod>) -> Result<(), ShimError> {
        pod.begin_boot();
        tasks::create(pod, container(dir, "c1", &["base", "one"])).await?;
        tasks::start(pod, &pod.container("c1")?.process).await
    }

    #[tokio::test]
    async fn clone_that_fails_before_a_container_was_made_is_replaced_once() {
        for (flaw, words) in [
            (Flaw::Launch, "no such machine"),
            (Flaw::Mute, "its agent did not answer within 2500 ms"),
            (Flaw::Death, "it ended"),
            (Flaw::Refusal, "no"),
            (Flaw::DeathInCreate, "it panicked"),
        ] {
            let (_, kept) = with_flaw(flaw, async |dir, pod, guest| {
                run(dir, &pod).await.unwrap();
                let launches = guest.launches.lock().unwrap().clone();
                assert!(matches!(launches[..], [Start::Clone(_), Start::Boot]), "{flaw:?}: {launches:?}");
                let origin = pod.inspect().origin;
                assert!(
                    matches!(&origin, Origin::NoTemplate { unsound: Some(why), .. } if why.contains(words)),
                    "{flaw:?}: {origin:?}"
                );
                assert_eq!(guest.plugged.lock().unwrap().len(), 2, "{flaw:?}: the disks of one VM");
                let steps = pod.steps().await;
                assert!(steps.iter().any(|step| step.name == "clone that failed"), "{steps:?}");
                guest.process("c1").exit(0);
                pod.container("c1").unwrap().process.wait().await;
                pod.stop(Duration::ZERO, "done").await;
            })
            .await;
            assert!(!kept, "{flaw:?}: no other pod is cloned from it");
        }
    }

    #[tokio::test]
    async fn boot_of_which_nothing_is_heard_is_begun_anew_once() {
        for (mute, error) in [(1, None), (2, Some("its agent did not answer within 1"))] {
            let dir = tempfile::tempdir().unwrap();
            let config = PodConfig { boot_timeout_ms: 3000, ..testing::config(dir.path()) };
            let (pod, guest) = testing::configured(dir.path(), config);
            guest.mute_boots.store(mute, Ordering::Relaxed);
            let ran = run(dir.path(), &pod).await;
            match error {
                None => ran.unwrap(),
                Some(words) => {
                    let error = pod.boot().await.map(drop).unwrap_err().to_string();
                    assert!(ran.is_err() && error.contains(words), "{error}");
                }
            }
            assert_eq!(*guest.launches.lock().unwrap(), [Start::Boot, Start::Boot]);
            let unheard = pod.inspect().unheard.unwrap();
            assert!(unheard.contains("its agent did not answer within 3000 ms; its console"), "{unheard}");
            let steps = pod.steps().await;
            assert!(steps.iter().any(|step| step.name == "boot that failed"), "{steps:?}");
            if error.is_none() {
                assert_eq!(guest.plugged.lock().unwrap().len(), 2, "the disks of one VM");
                guest.process("c1").exit(0);
                pod.stop(Duration::ZERO, "done").await;
            }
        }
    }

    #[tokio::test]
    async fn clone_without_a_flaw_stays_and_so_does_its_template() {
        let (_, kept) = with_flaw(Flaw::None, async |dir, pod, guest| {
            run(dir, &pod).await.unwrap();
            assert_eq!(guest.launches.lock().unwrap().len(), 1);
            assert!(matches!(pod.inspect().origin, Origin::Cloned(_)));
            guest.process("c1").exit(0);
            pod.stop(Duration::ZERO, "done").await;
        })
        .await;
        assert!(kept);
    }

    #[tokio::test]
    async fn clone_lost_when_its_container_starts_takes_its_template_along() {
        let (_, kept) = with_flaw(Flaw::DeathInStart, async |dir, pod, guest| {
            let error = run(dir, &pod).await.unwrap_err().to_string();
            assert!(error.contains("gone") || error.contains("did not answer"), "{error}");
            assert!(pod.stopped().await.reason.contains("it panicked"));
            assert_eq!(guest.launches.lock().unwrap().len(), 1, "what ran may not run twice");
        })
        .await;
        assert!(!kept);
    }

    #[tokio::test]
    async fn boot_that_is_refused_as_well_clears_the_template() {
        let (_, kept) = with_flaw(Flaw::Refusal, async |_, pod, guest| {
            // Whatever it is, it refuses.
            let refuse = async {
                while guest.launches.lock().unwrap().len() < 2 {
                    tokio::task::yield_now().await;
                }
                guest.launches.lock().unwrap().push(Start::Clone("again".into()));
            };
            let (booted, ()) = tokio::join!(pod.boot(), refuse);
            let error = booted.map(drop).unwrap_err().to_string();
            assert!(error.ends_with("no; its console is empty"), "{error}");
        })
        .await;
        assert!(kept, "it was the configuration's fault");
    }

    #[tokio::test(start_paused = true)]
    async fn pod_stopped_while_its_clone_is_silent_does_not_boot() {
        let (_, _) = with_flaw(Flaw::Mute, async |_, pod, guest| {
            pod.begin_boot();
            tokio::time::sleep(Duration::from_millis(100)).await;
            pod.stop(Duration::ZERO, "not wanted any more").await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(guest.launches.lock().unwrap().len(), 1);
            assert!(pod.stopped().await.wanted);
            assert!(!guest.requests.lock().unwrap().iter().any(|r| matches!(r, Request::Configure(_))));
        })
        .await;
    }
}
