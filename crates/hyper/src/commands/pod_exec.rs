//! `hyper pod exec`: another process in a container of a pod.

use clap::Args;

use super::App;
use super::exec::{ExecFlags, run};
use super::pod_life::{Member, Pod};
use super::pods::{PODS, checked};
use crate::error::{EXIT_DAEMON, Failure, Outcome};

/// Flags of `pod exec`.
#[derive(Debug, Args)]
pub struct PodExecArgs {
    /// The container of the pod (default the one named before the command, or the only one that runs)
    #[arg(short, long, value_name = "CONTAINER")]
    container: Option<String>,
    /// Refused, with the reason.
    #[arg(long, hide = true)]
    vm: bool,
    #[command(flatten)]
    flags: ExecFlags,
    /// The pod, the container unless there is one alone or --container names it, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["POD", "[CONTAINER] COMMAND"], num_args = 2..)]
    words: Vec<String>,
}

/// Runs the command; the exit code is its own.
pub async fn exec(app: &App, args: PodExecArgs) -> Outcome {
    if args.vm {
        let failure =
            Failure::new("--vm is not supported yet: the guest has no programs beside its containers'");
        return Err(failure
            .with_hint(
                "`hyper exec --privileged` in a container sees the guest's kernel, network and devices",
            )
            .with_code(EXIT_DAEMON));
    }
    let Some((name, words)) = args.words.split_first() else {
        return Err(Failure::new("exec needs a pod and a command"));
    };
    let pod: Pod = app.client.json(&format!("{PODS}/{}", checked(name)?), &[]).await?;
    let (container, command) = choose(&pod.containers, args.container.as_deref(), words)
        .map_err(|reason| Failure::new(format!("pod {name}: {reason}")).with_code(EXIT_DAEMON))?;
    run(app, &args.flags, &container.id, command).await
}

/// The container that is meant, and the command.
fn choose<'a>(
    members: &'a [Member],
    named: Option<&str>,
    words: &'a [String],
) -> Result<(&'a Member, &'a [String]), String> {
    let all = || members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
    let find = |word: &str| {
        let by_name = members.iter().find(|member| member.name == word || member.id == word);
        let mut by_id = members.iter().filter(|member| word.len() >= 4 && member.id.starts_with(word));
        by_name.or_else(|| by_id.next().filter(|_| by_id.next().is_none()))
    };
    if members.is_empty() {
        return Err("it has no containers".to_owned());
    }
    if let Some(named) = named {
        let member =
            find(named).ok_or_else(|| format!("it has no container {named}: there are {}", all()))?;
        return Ok((member, words));
    }
    if let [first, command @ ..] = words
        && !command.is_empty()
        && let Some(member) = find(first)
    {
        return Ok((member, command));
    }
    let mut running = members.iter().filter(|member| member.state == "running");
    match (members, running.next(), running.next()) {
        ([member], ..) | (_, Some(member), None) => Ok((member, words)),
        _ => Err(format!("which of its containers? There are {}", all())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(states: &[(&str, &str)]) -> Vec<Member> {
        let member = |(name, state): &(&str, &str)| Member {
            id: format!("{:0<64}", name.bytes().map(|byte| format!("{byte:02x}")).collect::<String>()),
            name: (*name).to_owned(),
            state: (*state).to_owned(),
        };
        states.iter().map(member).collect()
    }

    fn chosen(states: &[(&str, &str)], named: Option<&str>, line: &str) -> Result<String, String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let members = members(states);
        choose(&members, named, &words)
            .map(|(member, command)| format!("{}: {}", member.name, command.join(" ")))
    }

    #[test]
    fn the_container_is_named_or_the_only_one() {
        let two = [("web", "running"), ("db", "running")];
        let one_runs = [("web", "running"), ("db", "exited")];
        for (states, named, line, expected) in [
            (&two[..], None, "web ls -l", "web: ls -l"),
            (&two, Some("db"), "web ls", "db: web ls"),
            (&two, None, "6462 ls", "db: ls"),
            (&two[..1], None, "ls -l", "web: ls -l"),
            (&two[..1], None, "web", "web: web"),
            (&one_runs, None, "ls", "web: ls"),
            (&one_runs, None, "db ls", "db: ls"),
        ] {
            assert_eq!(chosen(states, named, line).as_deref(), Ok(expected), "{line}");
        }
        for (states, named, line, words) in [
            (&two[..], None, "ls -l", "There are web, db"),
            (&two, Some("x"), "ls", "no container x"),
            (&[], None, "ls", "no containers"),
        ] {
            assert!(chosen(states, named, line).unwrap_err().contains(words), "{line}");
        }
    }
}
