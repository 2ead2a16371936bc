//! What the daemon is told by its environment and command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use hyper_engine::{DEFAULT_ROOT, DEFAULT_RUN, DEFAULT_STORAGE_SIZE, Places};

use crate::tls::Files;

/// The command line's help.
pub(crate) const HELP: &str = "\
hyperd: the Hyper daemon, serving the Docker Engine API

usage: hyperd [OPTIONS]

  --root DIR                state (HYPER_ROOT, default /var/lib/hyper)
  --run DIR                 sockets and pids (HYPER_RUN, default /run/hyper)
  -H, --host unix://PATH    where to listen (HYPER_HOST, default unix://RUN/hyper.sock, or systemd's socket)
  -H, --host tcp://ADDRESS  listen there as well, for clients with a certificate; needs --tlsverify
  --tlsverify               use TLS and verify clients
  --tlscacert FILE          the authority of clients' certificates (default /etc/hyper/tls/ca.pem)
  --tlscert FILE            the daemon's certificate (default /etc/hyper/tls/cert.pem)
  --tlskey FILE             its private key (default /etc/hyper/tls/key.pem)
  --metrics IP:PORT         serve Prometheus metrics (HYPER_METRICS)
  --guest DIR               guest kernel and initramfs (HYPER_GUEST)
  --shim PATH               the shim, instead of the one beside hyperd or in PATH (HYPER_SHIM)
  --templates DIR|never     templates that VMs are cloned from (HYPER_TEMPLATES, default ROOT/cache/templates)
  --pool N|auto             VMs kept ready for the next starts (HYPER_POOL, default auto: by free memory)
  --memory-reserve SIZE     memory left to the host, with less no VM starts (HYPER_MEMORY_RESERVE, default 5 %)
  --storage-size SIZE       writable layer of a container (HYPER_STORAGE_SIZE, default 20G, sparse)
  --insecure-registry HOST  plain HTTP or an unknown certificate is accepted (repeatable)
  --registry-mirror URL     asked before docker.io (repeatable)
  --debug                   more log (HYPER_DEBUG=1); RUST_LOG chooses in detail
  --version, --help
";

/// The daemon's settings.
/// Most VMs that are kept ready: each takes memory and an address.
const POOL_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) root: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) guest: Option<PathBuf>,
    pub(crate) shim: Option<PathBuf>,
    pub(crate) storage_size: u64,
    /// VMs kept ready; `None` for as many as fit.
    pub(crate) pool: Option<usize>,
    /// Bytes left to the host; `None` for the engine's choice.
    pub(crate) memory_reserve: Option<u64>,
    /// Directory of templates; `None` for none.
    pub(crate) templates: Option<PathBuf>,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) mirrors: Vec<String>,
    pub(crate) debug: bool,
    /// Where metrics are served.
    pub(crate) metrics: Option<SocketAddr>,
    /// Where the API is served over TCP, with whose certificates.
    pub(crate) tcp: Option<(String, Files)>,
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Serve(Box<Config>),
    Help,
    Version,
}

/// What is said of TLS.
#[derive(Debug, Default)]
struct Tls {
    verify: bool,
    authority: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Tls {
    /// Whether it fits to the address: who reaches a port without proving who he is could do anything as root.
    fn check(self, address: Option<String>) -> anyhow::Result<Option<(String, Files)>> {
        let given =
            self.verify || self.authority.is_some() || self.certificate.is_some() || self.key.is_some();
        let Some(address) = address else {
            if given {
                bail!("--tlsverify and its files are for -H tcp://ADDRESS, which is missing");
            }
            return Ok(None);
        };
        if !self.verify {
            bail!(
                "cannot listen on tcp://{address} without --tlsverify: whoever reaches the port could do anything as \
                 root"
            );
        }
        let path = |given: Option<String>, name: &str| {
            std::path::absolute(given.unwrap_or_else(|| format!("/etc/hyper/tls/{name}")))
                .context("cannot make a path absolute")
        };
        let files = Files {
            authority: path(self.authority, "ca.pem")?,
            certificate: path(self.certificate, "cert.pem")?,
            key: path(self.key, "key.pem")?,
        };
        Ok(Some((address, files)))
    }
}

impl Config {
    /// Reads command line and environment; the first wins.
    ///
    /// # Errors
    /// An option that is not known, misses its value, or has one that makes no sense.
    pub(crate) fn read(
        args: impl IntoIterator<Item = String>,
        env: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Command> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let (mut root, mut run, mut host) = (env("HYPER_ROOT"), env("HYPER_RUN"), env("HYPER_HOST"));
        let (mut tcp, mut tls, mut metrics) = (None, Tls::default(), env("HYPER_METRICS"));
        let (mut guest, mut shim) = (env("HYPER_GUEST"), env("HYPER_SHIM"));
        let mut storage = env("HYPER_STORAGE_SIZE");
        let mut reserve = env("HYPER_MEMORY_RESERVE");
        let (mut templates, mut pool) = (env("HYPER_TEMPLATES"), env("HYPER_POOL"));
        let (mut insecure_registries, mut mirrors) = (Vec::new(), Vec::new());
        let mut debug = env("HYPER_DEBUG").is_some_and(|value| value != "0");
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let (name, inline) = match arg.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
                _ => (arg, None),
            };
            let mut value =
                || inline.clone().or_else(|| args.next()).with_context(|| format!("{name} needs a value"));
            match name.as_str() {
                "--root" => root = Some(value()?),
                "--run" => run = Some(value()?),
                "-H" | "--host" => {
                    let value = value()?;
                    match value.strip_prefix("tcp://") {
                        Some(address) => tcp = Some(address.trim_end_matches('/').to_owned()),
                        None => host = Some(value),
                    }
                }
                "--tls" => bail!("--tls without verifying clients is not supported: use --tlsverify"),
                "--tlsverify" => tls.verify = true,
                "--tlscacert" => tls.authority = Some(value()?),
                "--tlscert" => tls.certificate = Some(value()?),
                "--tlskey" => tls.key = Some(value()?),
                "--metrics" => metrics = Some(value()?),
                "--guest" => guest = Some(value()?),
                "--shim" => shim = Some(value()?),
                "--storage-size" => storage = Some(value()?),
                "--templates" => templates = Some(value()?),
                "--memory-reserve" => reserve = Some(value()?),
                "--pool" => pool = Some(value()?),
                "--insecure-registry" => insecure_registries.push(value()?),
                "--registry-mirror" => mirrors.push(value()?),
                "--debug" | "-D" => debug = true,
                "--help" | "-h" => return Ok(Command::Help),
                "--version" | "-v" => return Ok(Command::Version),
                other => bail!("unknown option {other} (see --help)"),
            }
        }
        let absolute = |path: Option<String>, default: &str| {
            std::path::absolute(path.as_deref().unwrap_or(default)).context("cannot make a path absolute")
        };
        let run = absolute(run, DEFAULT_RUN)?;
        let socket = match host.as_deref() {
            None => run.join("hyper.sock"),
            Some(host) => match host.strip_prefix("unix://") {
                Some(path) if path.starts_with('/') => PathBuf::from(path),
                _ => bail!("cannot listen on {host:?}: only unix:///absolute/path is supported"),
            },
        };
        let tcp = tls.check(tcp)?;
        let metrics = metrics
            .map(|text| {
                text.parse().with_context(|| format!("cannot serve metrics on {text:?}: use IP:PORT"))
            })
            .transpose()?;
        let storage_size = match storage {
            Some(text) => hyper_engine::parse_size(&text).map_err(|error| anyhow::anyhow!(error.report()))?,
            None => DEFAULT_STORAGE_SIZE,
        };
        let memory_reserve = reserve.map(|text| hyper_engine::parse_bytes(&text)).transpose();
        let memory_reserve = memory_reserve.map_err(|error| anyhow::anyhow!(error.report()))?;
        let root = absolute(root, DEFAULT_ROOT)?;
        let templates = match templates.as_deref() {
            Some("never") => None,
            Some(dir) => Some(std::path::absolute(dir).context("cannot make a path absolute")?),
            None => Some(root.join("cache/templates")),
        };
        let pool = match pool.as_deref() {
            None | Some("auto") => None,
            Some(text) => match text.parse() {
                Ok(count) if count <= POOL_MAX => Some(count),
                _ => bail!("cannot keep {text:?} VMs ready: a number from 0 to {POOL_MAX}, or auto"),
            },
        };
        Ok(Command::Serve(Box::new(Self {
            root,
            run,
            socket,
            guest: guest.map(PathBuf::from),
            shim: shim.map(PathBuf::from),
            storage_size,
            templates,
            pool,
            memory_reserve,
            insecure_registries,
            mirrors,
            debug,
            metrics,
            tcp,
        })))
    }

    /// Directories for the engine.
    pub(crate) fn places(&self) -> Places {
        Places { root: self.root.clone(), run: self.run.clone(), guest: self.guest.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<Command> {
        Config::read(args.iter().map(|arg| (*arg).to_owned()), |name| {
            env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn command_line_wins_over_environment_over_defaults() {
        let Ok(Command::Serve(config)) =
            read(&["--run=/r", "--insecure-registry", "a:1"], &[("HYPER_RUN", "/e"), ("HYPER_ROOT", "/s")])
        else {
            panic!("must be read")
        };
        assert_eq!(config.run, PathBuf::from("/r"));
        assert_eq!(config.socket, PathBuf::from("/r/hyper.sock"));
        assert_eq!(config.root, PathBuf::from("/s"));
        assert_eq!(config.insecure_registries, ["a:1"]);
        assert_eq!(config.storage_size, DEFAULT_STORAGE_SIZE);
        assert_eq!(config.templates.as_deref(), Some(config.root.join("cache/templates").as_path()));
    }

    #[test]
    fn tcp_comes_beside_the_socket_with_verified_clients() {
        let args =
            ["-H", "tcp://0.0.0.0:2376", "--tlsverify", "--tlscacert=/c/ca.pem", "--metrics=127.0.0.1:9323"];
        let Ok(Command::Serve(config)) = read(&args, &[("HYPER_RUN", "/e")]) else { panic!("must be read") };
        assert_eq!(config.socket, PathBuf::from("/e/hyper.sock"));
        let (address, files) = config.tcp.unwrap();
        assert_eq!((address.as_str(), files.authority), ("0.0.0.0:2376", PathBuf::from("/c/ca.pem")));
        assert_eq!(files.key, PathBuf::from("/etc/hyper/tls/key.pem"));
        assert_eq!(config.metrics, Some("127.0.0.1:9323".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(read(&["--nosuch"], &[]).is_err());
        assert!(read(&["--root"], &[]).is_err());
        assert!(read(&["-H", "tcp://0.0.0.0:2375"], &[]).unwrap_err().to_string().contains("--tlsverify"));
        assert!(read(&["-H", "tcp://127.0.0.1:2375", "--tls"], &[]).is_err());
        assert!(read(&["--tlsverify"], &[]).is_err());
        assert!(read(&["--metrics", "here"], &[]).is_err());
        assert!(read(&[], &[("HYPER_STORAGE_SIZE", "1")]).is_err());
        assert!(read(&["--memory-reserve", "much"], &[]).is_err());
        assert!(read(&["--pool", "65"], &[]).is_err() && read(&["--pool=x"], &[]).is_err());
    }
}
