//! Pods, containers and their state as the user knows them.
//!
//! [`Engine`] is one instance: everything under one root and one runtime directory. What always holds:
//!
//! - The database is written before memory, and a container is `starting` there before anything of it runs, so
//!   that a crash at any point leaves a state that [`Engine::open`] resolves by asking the shims.
//! - The VM, the log and the exit code are the shim's: nothing of them is lost with this process.
//! - A container changes its phase only under its own transition lock; a pod's VM is booted and ended only under
//!   the pod's. The first is taken before the second.
//! - What a failed start had taken (address, tap, shim, directory) is given back before the error is returned.

mod admission;
mod attach;
mod boot;
mod clock;
mod connect;
mod cpuset;
mod create;
mod db;
mod devices;
mod doctor;
mod engine;
mod error;
mod events;
mod exec;
mod files;
mod filter;
mod health;
mod ids;
mod layer;
mod life;
mod list;
mod logging;
mod logs;
mod mounts;
mod names;
mod networks;
mod options;
mod places;
mod pod_life;
mod pod_options;
mod pod_status;
mod pods;
mod podsock;
mod pool;
mod publish;
mod registry;
mod restart;
mod restore;
mod shim;
mod signal;
mod size;
mod spec;
mod start;
mod stats;
mod templates;
mod update;
mod validate;
mod volumes;

pub use attach::{Attachment, ProcessStream};
pub use clock::{Timestamp, human_duration};
pub use create::{
    CreateRequest, Created, HYPERVISOR_ANNOTATION, KERNEL_ANNOTATION, POD_ANNOTATION, TEMPLATE_ANNOTATION,
};
pub use devices::{DeviceOptions, DeviceRequest};
pub use doctor::{Check, CheckStatus};
pub use engine::{Engine, EngineConfig};
pub use error::{EngineError, Kind, Result};
pub use events::{EVENT_FILTERS, Event, EventStream};
pub use exec::ExecInfo;
pub use files::{CommitOptions, Download, UnpackFlags};
pub use filter::Filters;
pub use health::{Health, HealthStatus, ProbeResult};
pub use hyper_image as image;
pub use hyper_network::MacAddr;
pub use hyper_network::{Endpoint, NetworkConfig, ResolvConf};
pub use hyper_protocol::agent::{InterfaceStats, Process, Stats};
pub use hyper_protocol::files::{Change, ChangeKind, PathStat};
pub use hyper_protocol::shim::{Origin, Phase as Step, PodState};
pub use ids::{derived_id, short as short_id};
pub use layer::{DEFAULT_SIZE as DEFAULT_STORAGE_SIZE, parse_bytes, parse_size};
pub use life::{WaitCondition, Waiting};
pub use list::{ContainerInfo, LIST_FILTERS, ListQuery, PRUNE_FILTERS, parse_duration};
pub use logs::{LogLine, LogQuery, LogSource, LogStream};
pub use mounts::{MountOptions, MountPoint, MountRequest, MountSource, propagation};
pub use networks::{EndpointOptions, Ipam, NETWORK_FILTERS, NetworkRecord, NetworkRequest, Placed};
pub use options::{
    AttachFlags, ContainerOptions, ContainerRecord, DEFAULT_SHM_SIZE, LogOptions, NameOptions, NetworkMode,
    Phase, PodOptions, PodRecord, Resources, Seccomp, Security, State, TemplateUse, Ulimit,
};
pub use places::{DEFAULT_ROOT, DEFAULT_RUN, Places};
pub use pod_life::POD_PRUNE_FILTERS;
pub use pod_status::PodStatus;
pub use pods::{POD_FILTERS, PodInfo, PodRequest};
pub use podsock::AttachStreams;
pub use pool::PoolInfo;
pub use publish::{HostBinding, PortOptions};
pub use restart::RestartPolicy;
pub use signal::parse as parse_signal;
pub use size::{DEFAULT_MEMORY_MIB, OVERHEAD_MIB, host_cpus};
pub use spec::{DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS, ExecOptions};
pub use stats::HostMemory;
pub use templates::{Template, TemplateRequest};
pub use update::ContainerUpdate;
pub use volumes::{
    VOLUME_FILTERS, VOLUME_PRUNE_FILTERS, VolumeDriver, VolumeInfo, VolumeRecord, VolumeRequest,
};
