//! Processes added to a container.

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper_engine::{ExecInfo, ExecOptions};
use serde_json::{Value, json};

use super::container::size_parameters;
use crate::detach::Scanner;
use crate::fields::Fields;
use crate::framing::{Framing, stdout_frame};
use crate::hijack::{self, Client};
use crate::http::{ApiError, Result, empty, json as json_reply, ok, read_json};
use crate::route::Call;

pub(crate) async fn create(call: Call, container: &str) -> Result {
    let engine = call.app.engine.clone();
    let mut fields = Fields::of(read_json(call.request).await?, "")?;
    let detach_keys = fields.string("DetachKeys")?;
    Scanner::new(&detach_keys).map_err(ApiError::blamed)?;
    let options = ExecOptions {
        cmd: fields.strings("Cmd")?,
        env: fields.strings("Env")?,
        working_dir: fields.string("WorkingDir")?,
        user: fields.string("User")?,
        tty: fields.bool("Tty")?,
        privileged: fields.bool("Privileged")?,
        attach_stdin: fields.bool("AttachStdin")?,
        attach_stdout: fields.bool("AttachStdout")?,
        attach_stderr: fields.bool("AttachStderr")?,
        console_size: console_size(&mut fields)?,
        detach_keys,
    };
    // Told again at the start.
    fields.bool("Detach")?;
    // Some clients (docker-py) send what the path says.
    fields.string("Container")?;
    fields.finish()?;
    let id = engine.create_exec(container, options).await?;
    Ok(json_reply(hyper::StatusCode::CREATED, &json!({"Id": id})))
}

/// Rows and columns.
fn console_size(fields: &mut Fields) -> Result<Option<[u32; 2]>> {
    match fields.take("ConsoleSize") {
        Value::Null => Ok(None),
        value => serde_json::from_value(value)
            .map(Some)
            .map_err(|_| ApiError::invalid("invalid JSON: ConsoleSize must be two numbers")),
    }
}

pub(crate) async fn start(mut call: Call, id: &str) -> Result {
    let engine = call.app.engine.clone();
    // The upgrade is asked for before the body is read: both need the request.
    let (client, mut reply) = hijack::take(&mut call.request, call.version, true);
    let mut fields = Fields::of(read_json(call.request).await?, "")?;
    let detach = fields.bool("Detach")?;
    // How the client takes the output; whether the process has a terminal was said when it was made.
    let plain = fields.bool("Tty")?;
    let console_size = console_size(&mut fields)?.filter(|_| plain);
    fields.finish()?;
    let info = engine.inspect_exec(id)?;
    let id = id.to_owned();
    if detach {
        super::to_the_end(async move { engine.start_exec(&id, true, console_size).await }).await?;
        return Ok(empty(hyper::StatusCode::OK));
    }
    if info.running || info.exit_code.is_some() {
        return Err(ApiError::new(
            hyper::StatusCode::CONFLICT,
            format!("Error: Exec command {id} has already run"),
        ));
    }
    let keys = Scanner::new(&info.options.detach_keys)?;
    let keys = (info.options.tty && info.options.attach_stdin).then_some(keys);
    if reply.status() == hyper::StatusCode::SWITCHING_PROTOCOLS {
        let content_type = HeaderValue::from_static(hijack::content_type(call.version, plain));
        reply.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    tokio::spawn(run(call.app.engine.clone(), info, (client, plain), console_size, keys));
    Ok(reply)
}

/// Starts the process and copies its streams. As with docker, the reply is out before the start is tried: a failure is
/// told in the stream, and in the exit code that clients ask for after it.
async fn run(
    engine: hyper_engine::Engine,
    info: ExecInfo,
    (client, plain): (Client, bool),
    console_size: Option<[u32; 2]>,
    keys: Option<Scanner>,
) {
    let started = engine.start_exec(&info.id, false, console_size).await;
    let Some(mut client) = client.connect().await else { return };
    match started {
        Ok(attachment) => {
            let stream = match attachment {
                Some(attachment) => attachment.stream().await,
                None => None,
            };
            let Some(process) = stream else { return client.close().await };
            let framing = Framing::between(info.options.tty, plain);
            client.copy(process, framing, keys, engine.settle_exec(&info.id)).await;
        }
        Err(error) => {
            let text = format!("{}\r\n", error.report()).into_bytes();
            let text = if plain { text } else { stdout_frame(&text) };
            let _ = client.send(&text).await;
            client.close().await;
        }
    }
}

pub(crate) async fn resize(call: Call, id: &str) -> Result {
    let (width, height) = size_parameters(&call)?;
    call.app.engine.resize_exec(id, width, height).await?;
    Ok(empty(hyper::StatusCode::OK))
}

pub(crate) fn inspect(call: &Call, id: &str) -> Result {
    let info = call.app.engine.inspect_exec(id)?;
    let options = &info.options;
    let (entrypoint, arguments) =
        options.cmd.split_first().map_or(("", &[][..]), |(first, rest)| (first, rest));
    ok(&json!({
        "ID": info.id,
        "Running": info.running,
        "ExitCode": info.exit_code,
        "ProcessConfig": {
            "tty": options.tty,
            "entrypoint": entrypoint,
            "arguments": arguments,
            "privileged": options.privileged,
            "user": options.user,
        },
        "OpenStdin": options.attach_stdin,
        "OpenStderr": options.attach_stderr,
        "OpenStdout": options.attach_stdout,
        "CanRemove": !info.running && info.exit_code.is_some(),
        "ContainerID": info.container,
        "DetachKeys": options.detach_keys,
        "Pid": info.pid,
    }))
}
