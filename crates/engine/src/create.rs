//! Making a container: image and caller together, a name, a pod.

use std::sync::Arc;

use hyper_image::Image;

use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::options::{
    ContainerOptions, ContainerRecord, NetworkMode, PodOptions, PodRecord, State, TemplateUse,
};
use crate::registry::{Container, Pod};
use crate::{cpuset, ids, size, spec, validate};

/// Annotation: the pod, by name.
pub const POD_ANNOTATION: &str = "io.hyper.pod";

/// Annotation: path of the guest kernel.
pub const KERNEL_ANNOTATION: &str = "io.hyper.kernel";

/// Annotation: whether the VM may be a clone of a template (`auto`, `never`).
pub const TEMPLATE_ANNOTATION: &str = "io.hyper.template";

/// Annotation: hypervisor driver.
pub const HYPERVISOR_ANNOTATION: &str = "io.hyper.hypervisor";

/// What begins every annotation of ours.
const OUR_ANNOTATIONS: &str = "io.hyper.";

/// A container to make.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    /// Its name; `None` for a generated one.
    pub name: Option<String>,
    /// What the caller asks for; the image's part is added by [`Engine::create`].
    pub options: ContainerOptions,
}

/// A container that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: String,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

/// The pod a new container goes into.
enum Place {
    /// A pod that is there.
    Existing(Arc<Pod>),
    /// A new one.
    New(Box<PodRecord>),
}

impl Engine {
    /// Makes a container; nothing runs yet.
    ///
    /// # Errors
    /// Unknown image, taken name, options that make no sense together or cannot be honoured.
    pub async fn create(&self, request: CreateRequest) -> Result<Created> {
        let CreateRequest { name, mut options } = request;
        let _image_use = self.shared.image_use.read().await;
        let images = self.shared.images.clone();
        let reference = options.image.clone();
        if reference.is_empty() {
            return Err(EngineError::invalid("config cannot be empty in order to create a container"));
        }
        let image = tokio::task::spawn_blocking(move || images.get(&reference))
            .await
            .map_err(|error| EngineError::system("image lookup ended early", error))??;
        take_pod_label(&mut options)?;
        validate::merge_image(&mut options, &image);
        let warnings = validate::check(&mut options)?;
        let id = ids::container_id();
        let name = self.take_name(name, &id)?;
        let created = self.create_named(&id, &name, options, &image).await;
        match created {
            Ok(()) => Ok(Created { id, warnings }),
            Err(error) => {
                self.shared.registry.release_name(&name);
                let _ = std::fs::remove_dir_all(self.places().container(&id));
                Err(error)
            }
        }
    }

    fn take_name(&self, name: Option<String>, id: &str) -> Result<String> {
        let registry = &self.shared.registry;
        match name {
            Some(name) => {
                let name = name.strip_prefix('/').unwrap_or(&name).to_owned();
                check_name(&name)?;
                registry.reserve_name(&name, id)?;
                Ok(name)
            }
            None => loop {
                let name = ids::generate_name(|name| registry.name_taken(name));
                if registry.reserve_name(&name, id).is_ok() {
                    return Ok(name);
                }
            },
        }
    }

    async fn create_named(
        &self,
        id: &str,
        name: &str,
        mut options: ContainerOptions,
        image: &Image,
    ) -> Result<()> {
        if !options.mounts.is_wanted() {
            return self.create_placed(id, name, options, image).await;
        }
        // What it is to have must not be removed before it has it.
        let _changing = self.shared.volumes.changing.lock().await;
        let resolved = self.resolve(&mut options.mounts, &options.tmpfs).await;
        let made: Vec<String> = options.mounts.anonymous_names().collect();
        let created = match resolved {
            Ok(()) => self.create_placed(id, name, options, image).await,
            Err(error) => Err(error),
        };
        if created.is_err() {
            self.forget_volumes(&made).await;
        }
        created
    }

    async fn create_placed(
        &self,
        id: &str,
        name: &str,
        mut options: ContainerOptions,
        image: &Image,
    ) -> Result<()> {
        let created = Timestamp::now();
        let _membership = self.shared.membership.lock().await;
        crate::networks::resolve(&self.shared, &mut options)?;
        let place = self.place(id, &mut options, created)?;
        let (pod_id, pod_options) = match &place {
            Place::Existing(pod) => (pod.id.clone(), pod.record().options),
            Place::New(record) => (record.id.clone(), record.options.clone()),
        };
        let record = ContainerRecord {
            id: id.to_owned(),
            name: name.to_owned(),
            created,
            image_id: image.id.to_string(),
            pod: pod_id,
            options,
            state: State::default(),
        };
        // What would fail at start for its options alone fails here.
        spec::build(&record, &pod_options)?;
        let directory = self.places().container(id);
        tokio::fs::DirBuilder::new().mode(0o700).create(&directory).await.map_err(|source| {
            EngineError::system(format!("cannot make directory {}", directory.display()), source)
        })?;
        let new_pod = match place {
            Place::Existing(_) => None,
            Place::New(record) => Some(*record),
        };
        self.shared.db.insert(new_pod.clone(), record.clone()).await?;
        if let Some(pod) = new_pod {
            self.shared.registry.add_pod(Pod::new(pod));
        }
        self.shared.registry.add(Container::new(record.clone()));
        self.shared.container_event(&record, "create", &[]);
        Ok(())
    }

    /// Chooses the pod: the one named by annotation, the one of a container whose network is joined, or a new one.
    fn place(&self, id: &str, options: &mut ContainerOptions, created: Timestamp) -> Result<Place> {
        check_annotations(options)?;
        let annotation = |name: &str| options.annotations.get(name).cloned();
        if let NetworkMode::Container(reference) = &options.network {
            if annotation(POD_ANNOTATION).is_some() {
                return Err(EngineError::invalid(format!(
                    "conflicting options: annotation {POD_ANNOTATION} and network of a container"
                )));
            }
            // Docker's client takes "not found" here for a missing image, and pulls.
            let joined = self.shared.registry.find(reference);
            let joined = joined.map_err(|error| EngineError { kind: Kind::Conflict, ..error })?;
            let pod = self.shared.registry.pod(&joined.lock().pod.clone())?;
            options.network = NetworkMode::Container(joined.id.clone());
            return self.join(pod, options);
        }
        let name = annotation(POD_ANNOTATION);
        if let Some(name) = &name {
            check_pod_name(name)?;
            if let Some(pod) = self.shared.registry.pod_named(name) {
                return self.join(pod, options);
            }
        }
        if options.pid_of.is_some() {
            return Err(EngineError::invalid(
                "cannot join the PID namespace of a container of another pod: join its network too",
            ));
        }
        let hostname = match (&options.hostname, &name) {
            (hostname, _) if !hostname.is_empty() => hostname.clone(),
            (_, Some(name)) => name.clone(),
            (_, None) => ids::short(id).to_owned(),
        };
        let mut sysctl = options.sysctls.clone();
        validate::add_default_sysctls(&mut sysctl);
        let pod = PodOptions {
            vcpus: size::vcpus_of(&options.resources, self.shared.accelerated())?,
            memory_mib: size::memory_mib(options.resources.memory)?,
            hostname,
            domainname: options.domainname.clone(),
            sysctl,
            network: options.on_bridge(),
            mac: options.mac.clone(),
            networks: self.shared.pod_networks(options),
            kernel: annotation(KERNEL_ANNOTATION),
            hypervisor: annotation(HYPERVISOR_ANNOTATION),
            template: TemplateUse::parse(&annotation(TEMPLATE_ANNOTATION).unwrap_or_default())?,
            share_pids: false,
            kernel_args: Vec::new(),
            names: Default::default(),
            files: Default::default(),
            labels: Default::default(),
        };
        if let Some(kernel) = &pod.kernel {
            validate::check_kernel(kernel)?;
        }
        Ok(Place::New(Box::new(PodRecord {
            // That of a VM that is ready, if it starts soon.
            id: match options.mounts.needs_share() {
                true => ids::pod_id(),
                false => self.shared.reserve(&pod).unwrap_or_else(ids::pod_id),
            },
            name,
            explicit: false,
            created,
            options: pod,
            endpoint: None,
            slot: 0,
            endpoints: Vec::new(),
            up: false,
            started: None,
        })))
    }

    /// Checks that nothing is asked for that only a pod's first container decides.
    fn join(&self, pod: Arc<Pod>, options: &mut ContainerOptions) -> Result<Place> {
        let record = pod.record();
        let name = record.name.as_deref().unwrap_or(&record.id);
        let refused = |what: &str| {
            Err(EngineError::invalid(format!(
                "conflicting options: {what} belongs to the pod {name}, which exists already"
            )))
        };
        if !options.hostname.is_empty() && options.hostname != record.options.hostname {
            return refused("hostname");
        }
        if !options.domainname.is_empty() && options.domainname != record.options.domainname {
            return refused("domainname");
        }
        if options.sysctls.iter().any(|(key, value)| record.options.sysctl.get(key) != Some(value)) {
            return refused("sysctl");
        }
        if options.network == NetworkMode::None && record.options.network {
            return refused("network");
        }
        if options.mac.is_some() && options.mac != record.options.mac {
            return refused("MAC address");
        }
        let known = |id: &String| record.options.networks.iter().any(|(network, _)| network == id);
        if !options.endpoints.keys().all(known) {
            return refused("network");
        }
        let template = Some(record.options.template.word().to_owned());
        for (annotation, given) in [
            (KERNEL_ANNOTATION, &record.options.kernel),
            (HYPERVISOR_ANNOTATION, &record.options.hypervisor),
            (TEMPLATE_ANNOTATION, &template),
        ] {
            if options.annotations.get(annotation).is_some_and(|wanted| given.as_ref() != Some(wanted)) {
                return refused(annotation);
            }
        }
        let limit = options.resources.memory;
        let vm = i64::from(record.options.memory_mib) << 20;
        if limit > vm {
            return Err(EngineError::invalid(format!(
                "memory limit of {} MiB is more than the {} MiB of the pod {name}",
                limit >> 20,
                record.options.memory_mib
            )));
        }
        if cpuset::vcpus(&options.resources.cpuset_cpus) > record.options.vcpus {
            return Err(EngineError::invalid(format!(
                "Requested CPUs are not available - requested {}, the pod {name} has {}",
                options.resources.cpuset_cpus, record.options.vcpus
            )));
        }
        if let Some(pid_of) = &options.pid_of {
            let other = self.shared.registry.find(pid_of)?;
            if other.lock().pod != pod.id {
                return Err(EngineError::invalid(format!(
                    "cannot join the PID namespace of container {pid_of}: it is in another pod"
                )));
            }
            options.pid_of = Some(other.id.clone());
        }
        crate::pod_options::inherit_names(options, &record.options);
        Ok(Place::Existing(pod))
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// Malformed or taken name.
    pub async fn rename(&self, reference: &str, name: &str) -> Result<()> {
        let container = self.shared.registry.find(reference)?;
        let name = name.strip_prefix('/').unwrap_or(name);
        if name.is_empty() {
            return Err(EngineError::invalid("Neither old nor new names may be empty"));
        }
        check_name(name).map_err(|mut error| {
            // Docker writes the slash that its names have inside.
            let message = error.message.replacen('(', "(/", 1);
            error.message = format!("Error when allocating new name: {message}");
            error
        })?;
        let _transition = container.transition.lock().await;
        let old = container.lock().name.clone();
        if old == name {
            return Err(EngineError::invalid("Renaming a container with the same name as its current name"));
        }
        self.shared.registry.reserve_name(name, &container.id)?;
        if let Err(error) = self.shared.db.rename(&container.id, name).await {
            self.shared.registry.release_name(name);
            return Err(error);
        }
        container.lock().name = name.to_owned();
        self.shared.registry.release_name(&old);
        self.shared.container_event(&container.record(), "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }
}

/// Makes the label that names a pod the annotation: Compose files have labels alone. An image's own label is none.
fn take_pod_label(options: &mut ContainerOptions) -> Result<()> {
    let Some(pod) = options.labels.get(POD_ANNOTATION).cloned() else { return Ok(()) };
    let given = options.annotations.entry(POD_ANNOTATION.to_owned()).or_insert_with(|| pod.clone());
    if *given == pod {
        return Ok(());
    }
    Err(EngineError::invalid(format!(
        "conflicting options: label {POD_ANNOTATION}={pod} and annotation {POD_ANNOTATION}={given}"
    )))
}

/// Refuses what is no name for a pod.
pub(crate) fn check_pod_name(name: &str) -> Result<()> {
    if ids::is_pod_name(name) {
        return Ok(());
    }
    Err(EngineError::invalid(format!(
        "Invalid pod name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-]* of at most {} characters is allowed",
        ids::NAME_MAX
    )))
}

/// Docker's rule for names of containers, in its words.
fn check_name(name: &str) -> Result<()> {
    if ids::is_name(name) {
        return Ok(());
    }
    Err(EngineError::invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

fn check_annotations(options: &ContainerOptions) -> Result<()> {
    let known = [POD_ANNOTATION, KERNEL_ANNOTATION, HYPERVISOR_ANNOTATION, TEMPLATE_ANNOTATION];
    let unknown = options
        .annotations
        .keys()
        .find(|name| name.starts_with(OUR_ANNOTATIONS) && !known.contains(&name.as_str()));
    match unknown {
        Some(name) => Err(EngineError::new(
            Kind::Invalid,
            format!("unknown annotation {name}: known are {}", known.join(", ")),
        )),
        None => Ok(()),
    }
}
