//! From a parsed command to its function.

use std::ffi::OsString;

use super::*;
use crate::args::{
    Command, ContainerCommand, ImageCommand, NetworkCommand, PodCommand, SystemCommand, TemplateCommand,
    VolumeCommand, refuse_command,
};
use crate::error::Outcome;

/// Runs `command`.
///
/// # Errors
/// The command's failure.
pub async fn dispatch(app: &App, command: Command) -> Outcome {
    match command {
        Command::Run(args) => run::run(app, args).await,
        Command::Exec(args) => exec::exec(app, args).await,
        Command::Ps(args) => ps::ps(app, args).await,
        Command::Pull(args) => pull::pull(app, args).await,
        Command::Images(args) => images::images(app, args).await,
        Command::Version(args) => version::version(app, args).await,
        Command::Info(args) => info::info(app, args).await,
        Command::Doctor(args) => doctor::doctor(app, args).await,
        Command::Container(command) => container(app, command).await,
        Command::Image(command) => image(app, command).await,
        Command::Network(command) => network(app, command).await,
        Command::Pod(command) => pod(app, command).await,
        Command::Template(command) => template(app, command).await,
        Command::Volume(command) => volume(app, command).await,
        Command::System(command) => of_system(app, command).await,
        Command::Attach(args) => attach::attach(app, args).await,
        Command::Completion(args) => completion::completion(&args),
        Command::Commit(args) => commit::commit(app, args).await,
        Command::Cp(args) => cp::cp(app, args).await,
        Command::Create(args) => create::create(app, args).await,
        Command::Diff(args) => export::diff(app, args).await,
        Command::Export(args) => export::export(app, args).await,
        Command::Events(args) => events::events(app, args).await,
        Command::History(args) => history::history(app, args).await,
        Command::Import(args) => load::import(app, args).await,
        Command::Inspect(args) => inspect::inspect(app, args).await,
        Command::Kill(args) => lifecycle::kill(app, args).await,
        Command::Load(args) => load::load(app, args).await,
        Command::Login(args) => login::login(app, args).await,
        Command::Logout(args) => login::logout(app, args).await,
        Command::Logs(args) => logs::logs(app, args).await,
        Command::ManPages(args) => man::man(&args),
        Command::Pause(args) => lifecycle::pause(app, args).await,
        Command::Port(args) => port::port(app, args).await,
        Command::Push(args) => push::push(app, args).await,
        Command::Rename(args) => lifecycle::rename(app, args).await,
        Command::Restart(args) => lifecycle::restart(app, args).await,
        Command::Rm(args) => remove::rm(app, args).await,
        Command::Rmi(args) => remove::rmi(app, args).await,
        Command::Save(args) => save::save(app, args).await,
        Command::Start(args) => start::start(app, args).await,
        Command::Stats(args) => stats::stats(app, args).await,
        Command::Stop(args) => lifecycle::stop(app, args).await,
        Command::Tag(args) => tag::tag(app, args).await,
        Command::Top(args) => top::top(app, args).await,
        Command::Unpause(args) => lifecycle::unpause(app, args).await,
        Command::Update(args) => update::update(app, args).await,
        Command::Wait(args) => lifecycle::wait(app, args).await,
        Command::Other(words) => unknown("", &words),
    }
}

async fn container(app: &App, command: ContainerCommand) -> Outcome {
    match command {
        ContainerCommand::Attach(args) => attach::attach(app, args).await,
        ContainerCommand::Commit(args) => commit::commit(app, args).await,
        ContainerCommand::Cp(args) => cp::cp(app, args).await,
        ContainerCommand::Create(args) => create::create(app, args).await,
        ContainerCommand::Diff(args) => export::diff(app, args).await,
        ContainerCommand::Export(args) => export::export(app, args).await,
        ContainerCommand::Exec(args) => exec::exec(app, args).await,
        ContainerCommand::Inspect(args) => inspect::container_inspect(app, args).await,
        ContainerCommand::Kill(args) => lifecycle::kill(app, args).await,
        ContainerCommand::Logs(args) => logs::logs(app, args).await,
        ContainerCommand::Ls(args) => ps::ps(app, args).await,
        ContainerCommand::Pause(args) => lifecycle::pause(app, args).await,
        ContainerCommand::Port(args) => port::port(app, args).await,
        ContainerCommand::Prune(args) => prune::containers(app, args).await,
        ContainerCommand::Rename(args) => lifecycle::rename(app, args).await,
        ContainerCommand::Restart(args) => lifecycle::restart(app, args).await,
        ContainerCommand::Rm(args) => remove::rm(app, args).await,
        ContainerCommand::Run(args) => run::run(app, args).await,
        ContainerCommand::Start(args) => start::start(app, args).await,
        ContainerCommand::Stats(args) => stats::stats(app, args).await,
        ContainerCommand::Stop(args) => lifecycle::stop(app, args).await,
        ContainerCommand::Top(args) => top::top(app, args).await,
        ContainerCommand::Unpause(args) => lifecycle::unpause(app, args).await,
        ContainerCommand::Update(args) => update::update(app, args).await,
        ContainerCommand::Wait(args) => lifecycle::wait(app, args).await,
        ContainerCommand::Other(words) => unknown("container ", &words),
    }
}

async fn image(app: &App, command: ImageCommand) -> Outcome {
    match command {
        ImageCommand::History(args) => history::history(app, args).await,
        ImageCommand::Import(args) => load::import(app, args).await,
        ImageCommand::Inspect(args) => inspect::image_inspect(app, args).await,
        ImageCommand::Load(args) => load::load(app, args).await,
        ImageCommand::Ls(args) => images::images(app, args).await,
        ImageCommand::Prune(args) => prune::images(app, args).await,
        ImageCommand::Pull(args) => pull::pull(app, args).await,
        ImageCommand::Push(args) => push::push(app, args).await,
        ImageCommand::Rm(args) => remove::rmi(app, args).await,
        ImageCommand::Save(args) => save::save(app, args).await,
        ImageCommand::Tag(args) => tag::tag(app, args).await,
        ImageCommand::Other(words) => unknown("image ", &words),
    }
}

async fn pod(app: &App, command: PodCommand) -> Outcome {
    match command {
        PodCommand::Ls(args) => pods::list(app, args).await,
        PodCommand::Create(args) => pods::create(app, *args).await,
        PodCommand::Inspect(args) => pods::inspect(app, args).await,
        PodCommand::Exec(args) => pod_exec::exec(app, args).await,
        PodCommand::Kill(args) => pod_life::kill(app, args).await,
        PodCommand::Logs(args) => pod_watch::logs(app, args).await,
        PodCommand::Pause(args) => pod_life::pause(app, args).await,
        PodCommand::Prune(args) => pod_life::prune(app, args).await,
        PodCommand::Restart(args) => pod_life::restart(app, args).await,
        PodCommand::Rm(args) => pod_life::remove(app, args).await,
        PodCommand::Start(args) => pod_life::start(app, args).await,
        PodCommand::Stats(args) => pod_watch::stats(app, args).await,
        PodCommand::Stop(args) => pod_life::stop(app, args).await,
        PodCommand::Top(args) => pod_watch::top(app, args).await,
        PodCommand::Update(args) => pod_life::update(app, args).await,
        PodCommand::Unpause(args) => pod_life::unpause(app, args).await,
        PodCommand::Other(words) => unknown("pod ", &words),
    }
}

async fn template(app: &App, command: TemplateCommand) -> Outcome {
    match command {
        TemplateCommand::Ls(args) => templates::list(app, args).await,
        TemplateCommand::Create(args) => templates::create(app, args).await,
        TemplateCommand::Prune(args) => templates::prune(app, args).await,
        TemplateCommand::Rm(args) => templates::remove(app, args).await,
        TemplateCommand::Other(words) => unknown("template ", &words),
    }
}

async fn volume(app: &App, command: VolumeCommand) -> Outcome {
    match command {
        VolumeCommand::Create(args) => volumes::create(app, args).await,
        VolumeCommand::Inspect(args) => volumes::inspect(app, args).await,
        VolumeCommand::Ls(args) => volumes::list(app, args).await,
        VolumeCommand::Prune(args) => volumes::prune(app, args).await,
        VolumeCommand::Rm(args) => volumes::remove(app, args).await,
        VolumeCommand::Other(words) => unknown("volume ", &words),
    }
}

async fn of_system(app: &App, command: SystemCommand) -> Outcome {
    match command {
        SystemCommand::Df(args) => system::df(app, args).await,
        SystemCommand::Prune(args) => system::prune(app, args).await,
        SystemCommand::Events(args) => events::events(app, args).await,
        SystemCommand::Info(args) => info::info(app, args).await,
        SystemCommand::Other(words) => unknown("system ", &words),
    }
}

fn unknown(group: &str, words: &[OsString]) -> Outcome {
    let name = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    Err(refuse_command(group, &name))
}

async fn network(app: &App, command: NetworkCommand) -> Outcome {
    match command {
        NetworkCommand::Connect(args) => networks::connect(app, args).await,
        NetworkCommand::Create(args) => networks::create(app, *args).await,
        NetworkCommand::Disconnect(args) => networks::disconnect(app, args).await,
        NetworkCommand::Inspect(args) => networks::inspect(app, args).await,
        NetworkCommand::Ls(args) => networks::list(app, args).await,
        NetworkCommand::Prune(args) => networks::prune(app, args).await,
        NetworkCommand::Rm(args) => networks::remove(app, args).await,
        NetworkCommand::Other(words) => unknown("network ", &words),
    }
}
