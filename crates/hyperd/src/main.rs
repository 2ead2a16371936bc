//! The daemon: configuration and the Docker Engine API over the engine.

mod api;
mod config;
mod detach;
mod fields;
mod framing;
mod hijack;
mod http;
mod media;
mod metrics;
mod path;
mod preupgrade;
mod route;
mod server;
mod tls;
mod upload;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use hyper_engine::image::RegistryConfig;
use hyper_engine::{Engine, EngineConfig, NetworkConfig};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Command, Config, HELP};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain in one line: who starts a daemon reads the end of its log.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    match Config::read(std::env::args().skip(1), |name| std::env::var(name).ok())? {
        Command::Help => print(HELP),
        Command::Version => print(&format!("hyperd {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Serve(config) => {
            log_to_stderr(config.debug);
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .context("cannot start the async runtime")?;
            runtime.block_on(serve(*config))
        }
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

fn log_to_stderr(debug: bool) {
    let default = if debug {
        "info,ttrpc=warn,hyperd=debug,hyper_engine=debug,hyper_image=debug,hyper_network=debug"
    } else {
        "info,ttrpc=warn"
    };
    let chosen = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = chosen.unwrap_or_else(|| default.parse().expect("it is written by the rules"));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(lines).init();
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let engine = Engine::open(engine_config(&config))
        .await
        .map_err(|error| anyhow::anyhow!(error.report()))
        .with_context(|| format!("cannot use {}", config.root.display()))?;
    let pid_file = config.run.join("hyperd.pid");
    std::fs::write(&pid_file, format!("{}\n", std::process::id()))
        .with_context(|| format!("cannot write {}", pid_file.display()))?;
    let served = server::run(&config, engine).await;
    let _ = std::fs::remove_file(&pid_file);
    served
}

fn engine_config(config: &Config) -> EngineConfig {
    let mut registries = RegistryConfig::default();
    registries.insecure.extend(config.insecure_registries.iter().cloned());
    if !config.mirrors.is_empty() {
        registries.mirrors.insert("docker.io".to_owned(), config.mirrors.clone());
    }
    EngineConfig {
        places: config.places(),
        registries,
        network: NetworkConfig::default(),
        storage_size: config.storage_size,
        shim: config.shim.clone(),
        templates: config.templates.clone(),
        pool: config.pool,
        memory_reserve: config.memory_reserve,
    }
}
