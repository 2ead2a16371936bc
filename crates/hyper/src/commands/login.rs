//! `hyper login` and `hyper logout`

use std::io::{BufRead as _, Read as _};

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::App;
use crate::credentials::{HUB_KEY, Login, LoginFile};
use crate::error::{Failure, Outcome};
use crate::output;
use crate::stream::{INTERRUPT, Silence, stdin_is_terminal};

/// Longest password on standard input, bytes; tokens have a few thousand.
const MAX_PASSWORD: u64 = 64 << 10;

/// Exit code after Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Flags of `login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Password or Personal Access Token (PAT)
    #[arg(short, long, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Take the Password or Personal Access Token (PAT) from stdin
    #[arg(long)]
    password_stdin: bool,
    /// Username
    #[arg(short, long)]
    username: Option<String>,
    /// The registry; Docker Hub without one
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// Words of `logout`.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// The registry; Docker Hub without one
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// What the daemon says about a login.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Status")]
    status: String,
    #[serde(rename = "IdentityToken", default)]
    token: String,
}

/// Has the daemon check a login, and keeps it.
pub async fn login(app: &App, args: LoginArgs) -> Outcome {
    let key = key_of(args.server.as_deref());
    let mut file = LoginFile::open(app.config_dir.as_deref())?;
    let (username, password) = ask(&args)?;
    let body = json!({"username": username, "password": password, "serveraddress": key});
    let answer = app.client.post_json("/auth", &body).await?;
    let answer: Answer = serde_json::from_slice(&answer).map_err(|error| {
        Failure::new(format!("the daemon's answer to POST /auth is not understood: {error}"))
    })?;
    if file.helper(&key).is_none() {
        output::complain(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\n\
             Configure a credential helper to remove this warning. See\n\
             https://docs.docker.com/go/credential-store/\n\n",
            file.path().display()
        ));
    }
    let login = match answer.token.as_str() {
        "" => Login::Password(username, password),
        _ => Login::Token(username, answer.token),
    };
    file.keep(&key, &login)?;
    output::line(&answer.status)?;
    Ok(0)
}

/// Forgets a login.
pub async fn logout(app: &App, args: LogoutArgs) -> Outcome {
    let key = key_of(args.server.as_deref());
    let forgotten = LoginFile::open(app.config_dir.as_deref())?.forget(&key)?;
    output::line(&match forgotten {
        true => format!("Removing login credentials for {key}"),
        false => format!("Not logged in to {key}"),
    })?;
    Ok(0)
}

/// A registry's key in the configuration: `host[:port]`, or Docker Hub's old URL.
fn key_of(server: Option<&str>) -> String {
    let server = server.unwrap_or_default();
    let rest = server.strip_prefix("https://").or(server.strip_prefix("http://")).unwrap_or(server);
    match rest.split('/').next().unwrap_or_default() {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB_KEY.to_owned(),
        host => host.to_owned(),
    }
}

/// Username and password from flags, standard input, or the user.
fn ask(args: &LoginArgs) -> Result<(String, String), Failure> {
    if args.password_stdin {
        let username = args.username.clone();
        let username =
            username.ok_or_else(|| Failure::new("Must provide --username with --password-stdin"))?;
        let mut password = String::new();
        let read = std::io::stdin().take(MAX_PASSWORD).read_to_string(&mut password);
        read.map_err(|error| Failure::new(format!("cannot read the password: {error}")))?;
        return Ok((username, password.trim_end_matches(['\r', '\n']).to_owned()));
    }
    if args.password.is_some() {
        output::complain("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n");
    }
    let username = args.username.clone().map_or_else(|| prompt("Username: "), Ok)?;
    let password = match &args.password {
        Some(password) => password.clone(),
        None => {
            let _silence = stdin_is_terminal().then(Silence::enter);
            let password = prompt("Password: ")?;
            output::line("")?;
            password
        }
    };
    if username.is_empty() || password.is_empty() {
        return Err(Failure::new("username and password must not be empty"));
    }
    Ok((username, password))
}

/// Asks on the terminal.
fn prompt(question: &str) -> Result<String, Failure> {
    if !stdin_is_terminal() {
        return Err(Failure::new("Cannot perform an interactive login from a non TTY device")
            .with_hint("use --username and --password-stdin"));
    }
    output::write(question)?;
    let mut line = String::new();
    let read = std::io::stdin().lock().take(MAX_PASSWORD).read_line(&mut line);
    read.map_err(|error| Failure::new(format!("cannot read from the terminal: {error}")))?;
    if line.ends_with(INTERRUPT) {
        return Err(Failure::silent(INTERRUPTED));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_dockers_keys() {
        for hub in [None, Some("docker.io"), Some("https://index.docker.io/v1/")] {
            assert_eq!(key_of(hub), HUB_KEY);
        }
        assert_eq!(key_of(Some("https://reg.example:5000/v2/")), "reg.example:5000");
        assert_eq!(key_of(Some("localhost:5000")), "localhost:5000");
    }
}
