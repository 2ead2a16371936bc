//! `hyper update`: limits and restart policies of containers that are there.

use bollard::models::ContainerUpdateBody;
use clap::Args;

use super::App;
use super::each::each;
use crate::client::ApiError;
use crate::container::{FlagError, parse_bytes, parse_cpus, parse_restart};
use crate::error::{Failure, Outcome};

/// Flags of `update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_quota: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<i64>,
    /// CPUs of the VM in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "CPUS")]
    cpuset_cpus: Option<String>,
    /// Memory nodes of the VM in which to allow execution: there is one, 0
    #[arg(long, value_name = "NODES")]
    cpuset_mems: Option<String>,
    /// Number of CPUs
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Memory limit
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Memory soft limit
    #[arg(long, value_name = "BYTES")]
    memory_reservation: Option<String>,
    /// Swap limit equal to memory plus swap: '-1' to enable unlimited swap; a VM has none
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Restart policy to apply when a container exits
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl UpdateArgs {
    fn body(&self) -> Result<ContainerUpdateBody, FlagError> {
        let bytes = |flag: &str, text: &Option<String>| {
            text.as_deref().map(|text| parse_bytes(flag, text)).transpose()
        };
        Ok(ContainerUpdateBody {
            cpu_period: self.cpu_period,
            cpu_quota: self.cpu_quota,
            cpu_shares: self.cpu_shares,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            nano_cpus: self.cpus.as_deref().map(parse_cpus).transpose()?,
            memory: bytes("memory", &self.memory)?,
            memory_reservation: bytes("memory-reservation", &self.memory_reservation)?,
            memory_swap: match self.memory_swap.as_deref() {
                Some("-1") => Some(-1),
                _ => bytes("memory-swap", &self.memory_swap)?,
            },
            pids_limit: self.pids_limit,
            restart_policy: self.restart.as_deref().map(parse_restart).transpose()?,
            ..ContainerUpdateBody::default()
        })
    }
}

/// Changes containers.
///
/// # Errors
/// A value that cannot be used, or what the daemon refuses.
pub async fn update(app: &App, args: UpdateArgs) -> Outcome {
    let body = args.body().map_err(|error| Failure::from_error(&error))?;
    if body == ContainerUpdateBody::default() {
        return Err(Failure::new("you must provide one or more flags when using this command"));
    }
    each(&args.containers, |name| {
        let body = body.clone();
        async move {
            app.client.docker().update_container(name, body).await.map_err(ApiError::from)?;
            Ok(name.to_owned())
        }
    })
    .await
}
