//! The `process` object: what is executed, with which environment and rights.

use serde_json::{Value, json};

use crate::error::{EngineError, Result};
use crate::ids::short;
use crate::options::{ContainerRecord, PodOptions};

use super::{capabilities, resources};

/// Where programs are looked for unless the image says: docker's default.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an added process is asked to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExecOptions {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// Environment beside the container's.
    pub env: Vec<String>,
    /// Working directory; empty for the container's.
    pub working_dir: String,
    /// `USER[:GROUP]`; empty for the container's.
    pub user: String,
    /// Has a terminal.
    pub tty: bool,
    /// All capabilities.
    pub privileged: bool,
    /// Input will be sent.
    pub attach_stdin: bool,
    /// Output will be read.
    pub attach_stdout: bool,
    /// Error output will be read.
    pub attach_stderr: bool,
    /// Keys that detach, for `inspect`.
    pub detach_keys: String,
    /// Size of the caller's terminal, rows and columns.
    pub console_size: Option<[u32; 2]>,
}

/// The first process of a container.
///
/// # Errors
/// No command, or an unknown capability.
pub(super) fn process(record: &ContainerRecord, pod: &PodOptions) -> Result<Value> {
    let options = &record.options;
    let args = record.command();
    if args.is_empty() {
        return Err(EngineError::invalid("no command specified"));
    }
    let mut env = base_env(record, pod, options.tty);
    merge_env(&mut env, &options.env);
    let held = capabilities::of(&options.security)?;
    let mut process = json!({
        "terminal": options.tty,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": env,
        "cwd": if options.working_dir.is_empty() { "/" } else { &options.working_dir },
        "capabilities": {"bounding": held, "effective": held, "permitted": held},
        "rlimits": resources::rlimits(&options.resources.ulimits),
        "noNewPrivileges": options.security.no_new_privileges,
        "oomScoreAdj": options.resources.oom_score_adj,
    });
    if options.tty && options.console_size != [0, 0] {
        process["consoleSize"] = json!({"height": options.console_size[0], "width": options.console_size[1]});
    }
    Ok(process)
}

/// A process added to a container.
///
/// # Errors
/// An unknown capability in the container's options.
pub(crate) fn exec_process(record: &ContainerRecord, pod: &PodOptions, exec: &ExecOptions) -> Result<Value> {
    let options = &record.options;
    let mut env = base_env(record, pod, exec.tty);
    merge_env(&mut env, &options.env);
    merge_env(&mut env, &exec.env);
    let held = if exec.privileged { capabilities::all() } else { capabilities::of(&options.security)? };
    let cwd = [exec.working_dir.as_str(), options.working_dir.as_str(), "/"]
        .into_iter()
        .find(|dir| !dir.is_empty())
        .unwrap_or("/");
    let mut process = json!({
        "terminal": exec.tty,
        "user": {"uid": 0, "gid": 0},
        "args": exec.cmd,
        "env": env,
        "cwd": cwd,
        "capabilities": {"bounding": held, "effective": held, "permitted": held},
        "rlimits": resources::rlimits(&options.resources.ulimits),
        "noNewPrivileges": options.security.no_new_privileges,
        "oomScoreAdj": options.resources.oom_score_adj,
    });
    if let Some([height, width]) = exec.console_size.filter(|_| exec.tty) {
        process["consoleSize"] = json!({"height": height, "width": width});
    }
    Ok(process)
}

fn base_env(record: &ContainerRecord, pod: &PodOptions, tty: bool) -> Vec<String> {
    let hostname = if pod.hostname.is_empty() { short(&record.id) } else { &pod.hostname };
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    env
}

/// Puts variables over those of the same name; a name alone takes the variable away.
fn merge_env(env: &mut Vec<String>, over: &[String]) {
    for variable in over {
        let (name, value) = match variable.split_once('=') {
            Some((name, _)) => (name, Some(variable)),
            None => (variable.as_str(), None),
        };
        let position = env.iter().position(|held| held.split_once('=').is_some_and(|(held, _)| held == name));
        match (position, value) {
            (Some(at), Some(value)) => env[at].clone_from(value),
            (Some(at), None) => drop(env.remove(at)),
            (None, Some(value)) => env.push(value.clone()),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_replace_and_remove_by_name() {
        let mut env = vec!["A=1".to_owned(), "B=2".to_owned()];
        merge_env(&mut env, &["A=3".to_owned(), "B".to_owned(), "C=".to_owned(), "D".to_owned()]);
        assert_eq!(env, ["A=3", "C="]);
    }
}
