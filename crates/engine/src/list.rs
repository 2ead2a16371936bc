//! Listing, inspecting and pruning containers.

use std::collections::BTreeMap;

use hyper_network::Endpoint;

use crate::MountSource;
use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::filter::Filters;
use crate::health::Health;
use crate::ids::short;
use crate::networks::NetworkRecord;
use crate::options::{ContainerRecord, NetworkMode, Phase, PodRecord};

/// Names of filters that [`Engine::list`] knows.
pub const LIST_FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "pod",
];

/// Names of filters that [`Engine::prune`] knows.
pub const PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

/// A container with all that is shown of it.
#[derive(Debug, Clone)]
pub struct ContainerInfo {
    /// What the database has.
    pub record: ContainerRecord,
    /// Its pod.
    pub pod: PodRecord,
    /// Name of the image it was made from, as `ps` shows it: an id when that name is another image's now. Only in
    /// lists.
    pub image_name: String,
    /// Its log.
    pub log: Option<std::path::PathBuf>,
    /// Ids of added processes that have not ended.
    pub execs: Vec<String>,
    /// Bytes that the writable layer takes on disk, and those of the image; where asked for.
    pub sizes: Option<(u64, u64)>,
    /// Id of the network it is in.
    pub network_id: String,
    /// User-defined networks that it is on, or was made for.
    pub networks: Vec<NetworkRecord>,
    /// What its health checks say; `None` where there are none.
    pub health: Option<Health>,
}

impl ContainerInfo {
    /// Docker's sentence for `ps`: that of its state, with its health.
    pub fn describe(&self, now: Timestamp) -> String {
        let text = self.record.state.describe(now);
        match &self.health {
            Some(health) if self.record.state.phase == Phase::Running => {
                format!("{text} ({})", health.status)
            }
            _ => text,
        }
    }

    /// Its place in the network while its pod has one.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.pod.endpoint.as_ref().filter(|_| self.record.state.is_running())
    }

    /// The network mode as docker writes it.
    pub fn network_mode(&self) -> String {
        match &self.record.options.network {
            NetworkMode::Bridge => "bridge".to_owned(),
            NetworkMode::None => "none".to_owned(),
            NetworkMode::Container(id) => format!("container:{id}"),
            NetworkMode::Named(name) => name.clone(),
        }
    }
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Those that do not run, too.
    pub all: bool,
    /// At most so many, the newest; 0 for no bound. Implies `all`.
    pub limit: usize,
    /// With sizes.
    pub size: bool,
    /// Which.
    pub filters: Filters,
}

impl Engine {
    /// A container.
    ///
    /// # Errors
    /// No such container.
    pub fn inspect(&self, reference: &str, size: bool) -> Result<ContainerInfo> {
        let record = self.record(reference)?;
        self.info(record, &BTreeMap::new(), size)
    }

    /// What the database has of a container.
    ///
    /// # Errors
    /// No such container.
    pub fn record(&self, reference: &str) -> Result<ContainerRecord> {
        Ok(self.shared.registry.find(reference)?.record())
    }

    /// Containers, newest first.
    ///
    /// # Errors
    /// A filter's value makes no sense.
    pub async fn list(&self, query: &ListQuery) -> Result<Vec<ContainerInfo>> {
        let test = Test::new(self, query)?;
        let names = self.image_names().await?;
        let mut records: Vec<_> =
            self.shared.registry.containers().iter().map(|container| container.record()).collect();
        records.sort_by_key(|record| std::cmp::Reverse((record.created, record.id.clone())));
        let limit = if query.limit == 0 { usize::MAX } else { query.limit };
        let mut infos = Vec::new();
        for record in records {
            if infos.len() == limit {
                break;
            }
            // A pod that goes in this moment takes its container along.
            let Ok(info) = self.info(record, &names, query.size) else { continue };
            if test.passes(&info) {
                infos.push(info);
            }
        }
        Ok(infos)
    }

    /// The id of one of the instance's networks (`bridge`, `none`).
    pub fn network_id(&self, name: &str) -> String {
        crate::ids::derived_id(&format!("network {name} of {}", self.shared.id))
    }

    /// Subnet and gateway of the default network, once it was used.
    pub fn bridge_subnet(&self) -> Option<(String, String)> {
        let network = self.shared.open_network()?;
        Some((network.subnet().trunc().to_string(), network.gateway().addr().to_string()))
    }

    fn info(
        &self,
        record: ContainerRecord,
        names: &BTreeMap<String, String>,
        size: bool,
    ) -> Result<ContainerInfo> {
        let pod = self.shared.registry.pod(&record.pod)?.record();
        let image_name = image_name(&record, names);
        let sizes = size.then(|| {
            use std::os::unix::fs::MetadataExt as _;
            let writable = self.places().container(&record.id).join("rw.ext4");
            let taken = std::fs::metadata(writable).map_or(0, |metadata| metadata.blocks() * 512);
            (taken, self.shared.images.get(&record.image_id).map_or(0, |image| image.size))
        });
        // Docker shows the path of json-file alone.
        let log = match record.options.log {
            crate::options::LogOptions::JsonFile { .. } => Some(self.places().log(&record.id)),
            _ => None,
        };
        let network_id =
            self.network_id(if record.options.network == NetworkMode::None { "none" } else { "bridge" });
        let on = pod.options.networks.iter().filter_map(|(id, _)| self.shared.networks.by_id(id));
        let networks = on.map(|net| net.record.clone()).collect();
        Ok(ContainerInfo {
            network_id,
            networks,
            health: self.shared.registry.find(&record.id).ok().and_then(|found| found.health.read()),
            execs: self.exec_ids(&record.id),
            record,
            pod,
            image_name,
            log,
            sizes,
        })
    }

    /// Names of images to their ids.
    async fn image_names(&self) -> Result<BTreeMap<String, String>> {
        let images = self.shared.images.clone();
        let list = tokio::task::spawn_blocking(move || images.list())
            .await
            .map_err(|error| EngineError::system("image list ended early", error))??;
        let mut names = BTreeMap::new();
        for image in list {
            for name in image.repo_tags.iter().chain(&image.repo_digests) {
                names.insert(name.clone(), image.id.to_string());
            }
        }
        Ok(names)
    }

    /// Removes containers that do not run; returns their ids and the bytes that became free.
    ///
    /// # Errors
    /// A filter's value makes no sense.
    pub async fn prune(&self, filters: &Filters) -> Result<(Vec<String>, u64)> {
        use std::os::unix::fs::MetadataExt as _;
        let until = match filters.values("until") {
            [] => None,
            [text] => Some(until_time(text)?),
            _ => return Err(EngineError::invalid("more than one until filter specified")),
        };
        let (mut ids, mut freed) = (Vec::new(), 0);
        for container in self.shared.registry.containers() {
            let record = container.record();
            let ended = matches!(record.state.phase, Phase::Created | Phase::Exited | Phase::Dead);
            if !ended
                || until.is_some_and(|until| record.created >= until)
                || !filters.matches_labels(&record.options.labels)
            {
                continue;
            }
            let writable = self.places().container(&record.id).join("rw.ext4");
            let size = std::fs::metadata(writable).map_or(0, |metadata| metadata.blocks() * 512);
            match self.remove(&record.id, false, false).await {
                Ok(()) => {
                    ids.push(record.id);
                    freed += size;
                }
                Err(error) => tracing::warn!(container = record.id, error = %error.report(), "cannot prune"),
            }
        }
        Ok((ids, freed))
    }
}

/// A point in time, or a duration (`24h`, `1h30m`) before now.
pub(crate) fn until_time(text: &str) -> Result<Timestamp> {
    Timestamp::parse(text)
        .or_else(|| parse_duration(text).map(|nanos| Timestamp(Timestamp::now().0.saturating_sub(nanos))))
        .ok_or_else(|| EngineError::invalid(format!("invalid until filter: '{text}'")))
}

/// Nanoseconds of a duration as Go writes it.
pub fn parse_duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut nanos = 0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanos += number * unit;
        rest = &rest[unit_end..];
    }
    (nanos < i64::MAX as f64).then_some(nanos as i64)
}

/// The name that the container was made from if it still leads to its image, else the image's short id.
fn image_name(record: &ContainerRecord, names: &BTreeMap<String, String>) -> String {
    let given = &record.options.image;
    let familiar =
        hyper_image::Reference::parse(given).map_or_else(|_| given.clone(), |name| name.to_string());
    let leads_here = [given, &familiar].into_iter().any(|name| names.get(name) == Some(&record.image_id));
    let hex = record.image_id.strip_prefix("sha256:").unwrap_or(&record.image_id);
    let is_id = given.strip_prefix("sha256:").is_some_and(|given| hex.starts_with(given))
        || (given.len() >= 12 && hex.starts_with(given.as_str()));
    match () {
        () if leads_here => given.clone(),
        () if is_id => short(hex).to_owned(),
        () => record.image_id.clone(),
    }
}

/// A query made ready.
struct Test<'a> {
    query: &'a ListQuery,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    ancestors: Option<Vec<String>>,
}

impl<'a> Test<'a> {
    fn new(engine: &Engine, query: &'a ListQuery) -> Result<Self> {
        let filters = &query.filters;
        let created = |name: &str| -> Result<Option<Timestamp>> {
            let times = filters.values(name).iter().map(|reference| {
                engine.shared.registry.find(reference).map(|container| container.lock().created)
            });
            Ok(times.collect::<Result<Vec<_>>>()?.into_iter().min())
        };
        for status in filters.values("status") {
            let known = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];
            if !known.contains(&status.as_str()) {
                return Err(EngineError::invalid(format!("invalid filter 'status={status}'")));
            }
        }
        for code in filters.values("exited") {
            if code.parse::<i64>().is_err() {
                return Err(EngineError::invalid(format!("invalid filter 'exited={code}'")));
            }
        }
        for health in filters.values("health") {
            if !["none", "starting", "healthy", "unhealthy"].contains(&health.as_str()) {
                return Err(EngineError::invalid(format!("invalid filter 'health={health}'")));
            }
        }
        for name in ["publish", "expose"] {
            if let Some(port) = filters.values(name).iter().find(|port| !is_port(port)) {
                return Err(EngineError::invalid(format!(
                    "error while looking up for {name} {port}: invalid containerPort: {port}"
                )));
            }
        }
        filters.boolean("is-task")?;
        let ancestors = filters.values("ancestor");
        let ancestors = (!ancestors.is_empty()).then(|| {
            let id = |name: &String| engine.shared.images.get(name).ok().map(|image| image.id.to_string());
            ancestors.iter().filter_map(id).collect()
        });
        Ok(Self { query, before: created("before")?, since: created("since")?, ancestors })
    }

    fn passes(&self, info: &ContainerInfo) -> bool {
        let (record, filters) = (&info.record, &self.query.filters);
        let running = crate::restart::counts_as_running(record.state.phase);
        let explicit =
            self.query.all || self.query.limit > 0 || self.before.is_some() || self.since.is_some();
        if !running && !explicit && filters.values("status").is_empty() && filters.values("exited").is_empty()
        {
            return false;
        }
        if self.before.is_some_and(|time| record.created >= time)
            || self.since.is_some_and(|time| record.created <= time)
            || self.ancestors.as_ref().is_some_and(|ids| !ids.contains(&record.image_id))
        {
            return false;
        }
        let network = info.network_mode();
        let exposed =
            |wanted: &str| record.options.exposed_ports.iter().any(|port| port_matches(port, wanted));
        let published = |wanted: &str| {
            let ports = record.state.ports.iter();
            ports
                .into_iter()
                .any(|p| port_matches(&format!("{}/{}", p.host_port, p.transport.name()), wanted))
        };
        filters.any("id", &|wanted| record.id.starts_with(wanted))
            && filters.any("name", &|wanted| name_matches(&record.name, wanted))
            && filters.any("status", &|wanted| record.state.status() == wanted)
            && filters.any("exited", &|wanted| {
                record.state.phase == Phase::Exited && wanted.parse() == Ok(record.state.exit_code)
            })
            && filters.any("health", &|wanted| {
                wanted == info.health.as_ref().map_or("none", |health| health.status.word())
            })
            && filters.any("network", &|wanted| {
                let named = |net: &NetworkRecord| net.request.name == wanted || net.id.starts_with(wanted);
                network == wanted || info.networks.iter().any(named)
            })
            && filters.any("pod", &|wanted| info.pod.name.as_deref() == Some(wanted) || info.pod.id == wanted)
            && filters.any("volume", &|wanted| {
                record.options.mounts.points.iter().any(|point| {
                    let named = matches!(&point.source, MountSource::Volume { name, .. } if name == wanted);
                    named || point.target == wanted
                })
            })
            && filters.any("publish", &published)
            && filters.any("expose", &exposed)
            && filters.any("isolation", &|wanted| wanted == "default")
            && filters.any("is-task", &|wanted| matches!(wanted, "false" | "0"))
            && filters.matches_labels(&record.options.labels)
    }
}

/// Whether this is a port, or a range of them, as filters have it.
fn is_port(wanted: &str) -> bool {
    let numbers = wanted.split_once('/').map_or(wanted, |(numbers, _)| numbers);
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    first.parse::<u16>().is_ok() && last.parse::<u16>().is_ok()
}

/// Whether `port` (`80/tcp`) is `wanted`: a port or a range of them, of TCP unless it says.
fn port_matches(port: &str, wanted: &str) -> bool {
    let (numbers, kind) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let number = |text: &str| text.parse::<u16>().ok();
    match (port.split_once('/'), number(first), number(last)) {
        (Some((port, of)), Some(first), Some(last)) => {
            of == kind && number(port).is_some_and(|port| (first..=last).contains(&port))
        }
        _ => false,
    }
}

/// Docker takes the name filter for a regular expression; anchors and plain text are what people use of it.
fn name_matches(name: &str, wanted: &str) -> bool {
    let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
    let (start, wanted) = match wanted.strip_prefix('^') {
        Some(rest) => (true, rest.strip_prefix('/').unwrap_or(rest)),
        None => (false, wanted),
    };
    let (end, wanted) = wanted.strip_suffix('$').map_or((false, wanted), |rest| (true, rest));
    match (start, end) {
        (true, true) => name == wanted,
        (true, false) => name.starts_with(wanted),
        (false, true) => name.ends_with(wanted),
        (false, false) => name.contains(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_filter_knows_anchors() {
        for (wanted, fits) in
            [("eb", true), ("^web$", true), ("^/web$", true), ("/web", true), ("^eb", false), ("we$", false)]
        {
            assert_eq!(name_matches("web", wanted), fits, "{wanted}");
        }
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(parse_duration("1h30m"), Some(5400 * 1_000_000_000));
        assert_eq!(parse_duration("1.5s"), Some(1_500_000_000));
        for bad in ["", "1", "h", "1x", "-1h", "1h2"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
