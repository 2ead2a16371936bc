//! The top of the grammar: global flags and commands.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::groups::{
    ContainerCommand, ImageCommand, NetworkCommand, PodCommand, SystemCommand, TemplateCommand, VolumeCommand,
};
use crate::commands::*;

/// Docker images, straight on a hypervisor
#[derive(Debug, Parser)]
#[command(name = "hyper", disable_version_flag = true)]
pub struct Cli {
    /// Flags before the command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags before the command.
#[derive(Debug, Args)]
pub struct Global {
    /// Daemon socket to connect to (default $HYPER_HOST, else unix://$HYPER_RUN/hyper.sock)
    #[arg(short = 'H', long, value_name = "ADDRESS")]
    pub host: Option<String>,
    /// Location of client config files (registry logins; default ~/.docker)
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// Enable debug mode: the daemon that we start logs more
    #[arg(short = 'D', long)]
    pub debug: bool,
    /// Logging level of a daemon that we start
    #[arg(short, long, value_name = "LEVEL", value_parser = ["debug", "info", "warn", "error", "fatal"])]
    pub log_level: Option<String>,
    /// Use TLS and verify the daemon, on tcp:// (DOCKER_TLS_VERIFY)
    #[arg(long)]
    pub tlsverify: bool,
    /// Trust daemons with a certificate of this authority (default $DOCKER_CERT_PATH/ca.pem)
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// Our TLS certificate (default $DOCKER_CERT_PATH/cert.pem)
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// Its private key (default $DOCKER_CERT_PATH/key.pem)
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// Print version information and quit
    #[arg(short, long)]
    pub version: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create and run a new container from an image
    Run(RunArgs),
    /// Execute a command in a running container
    Exec(ExecArgs),
    /// List containers
    Ps(PsArgs),
    /// Download an image from a registry
    Pull(PullArgs),
    /// List images
    Images(ImagesArgs),
    /// Show the version information
    Version(VersionArgs),
    /// Display system-wide information
    Info(InfoArgs),
    /// Check this machine and say what to mend
    Doctor(DoctorArgs),
    /// Manage containers
    #[command(subcommand, arg_required_else_help = true)]
    Container(ContainerCommand),
    /// Manage images
    #[command(subcommand, arg_required_else_help = true)]
    Image(ImageCommand),
    /// Manage networks
    #[command(subcommand, arg_required_else_help = true)]
    Network(NetworkCommand),
    /// Manage pods
    #[command(subcommand, arg_required_else_help = true)]
    Pod(PodCommand),
    /// Manage the templates that pods' VMs are cloned from
    #[command(subcommand, arg_required_else_help = true)]
    Template(TemplateCommand),
    /// Manage volumes
    #[command(subcommand, arg_required_else_help = true)]
    Volume(VolumeCommand),
    /// Manage Hyper
    #[command(subcommand, arg_required_else_help = true)]
    System(SystemCommand),
    /// Attach local standard input, output, and error streams to a running container
    Attach(AttachArgs),
    /// Generate the autocompletion script for the specified shell
    Completion(CompletionArgs),
    /// Create a new image from a container's changes
    Commit(CommitArgs),
    /// Copy files/folders between a container and the local filesystem
    Cp(CpArgs),
    /// Create a new container
    Create(CreateArgs),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(DiffArgs),
    /// Export a container's filesystem as a tar archive
    Export(ExportArgs),
    /// Get real time events from the server
    Events(EventsArgs),
    /// Show the history of an image
    History(HistoryArgs),
    /// Import the contents from a tarball to create a filesystem image
    Import(ImportArgs),
    /// Return low-level information on containers and images
    Inspect(InspectArgs),
    /// Kill one or more running containers
    Kill(KillArgs),
    /// Load an image from a tar archive or STDIN
    Load(LoadArgs),
    /// Authenticate to a registry
    Login(LoginArgs),
    /// Log out from a registry
    Logout(LogoutArgs),
    /// Fetch the logs of a container
    Logs(LogsArgs),
    /// Write a manual page for every command
    #[command(hide = true)]
    ManPages(ManArgs),
    /// Pause all processes within one or more containers
    Pause(NamesArgs),
    /// List port mappings or a specific mapping for the container
    Port(PortArgs),
    /// Upload an image to a registry
    Push(PushArgs),
    /// Rename a container
    Rename(RenameArgs),
    /// Restart one or more containers
    Restart(StopArgs),
    /// Remove one or more containers
    Rm(RmArgs),
    /// Remove one or more images
    Rmi(RmiArgs),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(SaveArgs),
    /// Start one or more stopped containers
    Start(StartArgs),
    /// Display a live stream of container(s) resource usage statistics
    Stats(StatsArgs),
    /// Stop one or more running containers
    Stop(StopArgs),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(TagArgs),
    /// Display the running processes of a container
    Top(TopArgs),
    /// Unpause all processes within one or more containers
    Unpause(NamesArgs),
    /// Update configuration of one or more containers
    Update(UpdateArgs),
    /// Block until one or more containers stop, then print their exit codes
    Wait(NamesArgs),
    /// A command that we do not have.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}
