//! The command groups: `container`, `image`, `pod`, `template`, `volume`, `system`.

use std::ffi::OsString;

use clap::Subcommand;

use crate::commands::*;

/// `hyper container …`
#[derive(Debug, Subcommand)]
pub enum ContainerCommand {
    /// Attach local standard input, output, and error streams to a running container
    Attach(AttachArgs),
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
    /// Execute a command in a running container
    Exec(ExecArgs),
    /// Display detailed information on one or more containers
    Inspect(GroupInspectArgs),
    /// Kill one or more running containers
    Kill(KillArgs),
    /// Fetch the logs of a container
    Logs(LogsArgs),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(PsArgs),
    /// Pause all processes within one or more containers
    Pause(NamesArgs),
    /// List port mappings or a specific mapping for the container
    Port(PortArgs),
    /// Remove all stopped containers
    Prune(ContainerPruneArgs),
    /// Rename a container
    Rename(RenameArgs),
    /// Restart one or more containers
    Restart(StopArgs),
    /// Remove one or more containers
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Create and run a new container from an image
    Run(RunArgs),
    /// Start one or more stopped containers
    Start(StartArgs),
    /// Display a live stream of container(s) resource usage statistics
    Stats(StatsArgs),
    /// Stop one or more running containers
    Stop(StopArgs),
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

/// `hyper image …`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Show the history of an image
    History(HistoryArgs),
    /// Import the contents from a tarball to create a filesystem image
    Import(ImportArgs),
    /// Display detailed information on one or more images
    Inspect(GroupInspectArgs),
    /// Load an image from a tar archive or STDIN
    Load(LoadArgs),
    /// List images
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    /// Remove unused images
    Prune(ImagePruneArgs),
    /// Download an image from a registry
    Pull(PullArgs),
    /// Upload an image to a registry
    Push(PushArgs),
    /// Remove one or more images
    #[command(visible_alias = "remove")]
    Rm(RmiArgs),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(SaveArgs),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(TagArgs),
    /// A command that we do not have.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// `hyper network …`
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Connect a container to a network
    Connect(NetworkConnectArgs),
    /// Create a network
    Create(Box<NetworkCreateArgs>),
    /// Disconnect a container from a network
    Disconnect(NetworkDisconnectArgs),
    /// Display detailed information on one or more networks
    Inspect(NetworkInspectArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(NetworkListArgs),
    /// Remove all unused networks
    Prune(NetworkPruneArgs),
    /// Remove one or more networks
    #[command(visible_alias = "remove")]
    Rm(NetworkRemoveArgs),
    /// A command that we do not have.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// `hyper pod …`
#[derive(Debug, Subcommand)]
pub enum PodCommand {
    /// List pods
    #[command(visible_aliases = ["list", "ps"])]
    Ls(PodListArgs),
    /// Create a pod that stays until it is removed
    Create(Box<PodCreateArgs>),
    /// Display detailed information on one or more pods
    Inspect(PodInspectArgs),
    /// Execute a command in a container of a pod
    Exec(PodExecArgs),
    /// Send a signal to the containers of one or more pods
    Kill(PodKillArgs),
    /// Fetch the logs of a pod's containers
    Logs(PodLogsArgs),
    /// Pause the containers of one or more pods
    Pause(PodNamesArgs),
    /// Remove all pods that have ended, with their containers
    Prune(PodPruneArgs),
    /// Restart one or more pods
    Restart(PodRestartArgs),
    /// Remove one or more pods with their containers
    #[command(visible_alias = "remove")]
    Rm(PodRemoveArgs),
    /// Start one or more pods with all of their containers
    Start(PodNamesArgs),
    /// Display a live stream of resource usage of pods' containers
    Stats(PodStatsArgs),
    /// Stop one or more pods
    Stop(PodStopArgs),
    /// Display the running processes of a pod's containers
    Top(PodTopArgs),
    /// Unpause the containers of one or more pods
    Unpause(PodNamesArgs),
    /// Give one or more pods that do not run another size
    Update(PodUpdateArgs),
    /// A command that we do not have.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// `hyper template …`
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// List templates
    #[command(visible_alias = "list")]
    Ls(TemplateListArgs),
    /// Make the template for a kind of pods, or find it
    Create(TemplateCreateArgs),
    /// Remove all templates
    Prune(TemplatePruneArgs),
    /// Remove one or more templates
    #[command(visible_alias = "remove")]
    Rm(TemplateNamesArgs),
    /// A command that we do not have.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// `hyper volume …`
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Create a volume
    Create(VolumeCreateArgs),
    /// Display detailed information on one or more volumes
    Inspect(VolumeInspectArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(VolumeListArgs),
    /// Remove unused local volumes
    Prune(VolumePruneArgs),
    /// Remove one or more volumes
    #[command(visible_alias = "remove")]
    Rm(VolumeRemoveArgs),
    /// A command that we do not have.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// `hyper system …`
#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Show disk usage
    Df(DfArgs),
    /// Remove unused data
    Prune(SystemPruneArgs),
    /// Get real time events from the server
    Events(EventsArgs),
    /// Display system-wide information
    Info(InfoArgs),
    /// A command that we do not have.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}
