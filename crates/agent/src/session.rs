//! One session of the link: streams come, each is a call.

use std::rc::Rc;
use std::time::Duration;

use hyper_link::{GuestLink, LinkError, Stream, read_frame, write_frame};
use hyper_protocol::agent::{Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;

use crate::agent::Agent;
use crate::failure::Failed;

/// Most calls at once. Four per container (two outputs, an input, a wait) and as many again for its added processes
/// are usual.
const MAX_CALLS: usize = 2000;

/// How long a host may take to say what it wants on a stream that it has opened.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the answer to a shutdown may take to arrive.
const LAST_WORD: Duration = Duration::from_millis(50);

/// Answers calls until the session ends. Containers and processes stay.
pub async fn serve(agent: &Rc<Agent>, mut link: GuestLink) {
    while let Some(stream) = link.next().await {
        let agent = Rc::clone(agent);
        spawn_local(async move {
            agent.calls.set(agent.calls.get() + 1);
            // A stream that breaks takes its call with it; there is nobody to tell.
            let _ = call(&agent, stream).await;
            agent.calls.set(agent.calls.get() - 1);
        });
    }
}

async fn call(agent: &Rc<Agent>, mut stream: Stream) -> Result<(), LinkError> {
    if agent.calls.get() > MAX_CALLS {
        return refuse(stream, Failed::wrong_state(format!("{MAX_CALLS} calls are in progress"))).await;
    }
    let request = match tokio::time::timeout(PATIENCE, read_frame::<Request>(&mut stream)).await {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(error)) => {
            return refuse(stream, Failed::invalid(format!("the request is not valid: {}", chain(&error))))
                .await;
        }
        Err(_) => return refuse(stream, Failed::invalid("no request came")).await,
    };
    match request {
        Request::ReadOutput { target, output, offset } => match agent.output(&target, output) {
            Ok(sender) => {
                write_frame(&mut stream, &Reply::Done).await?;
                // However it ends, the bytes are kept for a reader that comes later.
                let _ = sender.serve(stream, offset).await;
                Ok(())
            }
            Err(failed) => refuse(stream, failed).await,
        },
        Request::WriteInput(target) => {
            let process = match agent.process(&target) {
                Ok(process) => process,
                Err(failed) => return refuse(stream, failed).await,
            };
            let Some(stdin) = &process.stdin else {
                return refuse(stream, Failed::wrong_state("standard input is not kept open")).await;
            };
            let offset = stdin.offset().await;
            write_frame(&mut stream, &Reply::Offset(offset)).await?;
            stdin.read(stream);
            Ok(())
        }
        Request::Files(asked) => agent.files(&asked, stream).await,
        Request::Wait(_) => {
            // The one call that may take for ever: a caller that goes away ends it.
            let reply = tokio::select! {
                reply = agent.answer(request) => reply,
                _ = stream.read_u8() => return Ok(()),
            };
            finish(stream, &reply).await
        }
        Request::Shutdown => {
            let reply = agent.answer(Request::Shutdown).await;
            let sent = write_frame(&mut stream, &reply).await;
            let _ = tokio::time::timeout(LAST_WORD, stream.read_u8()).await;
            agent.power_off();
            sent
        }
        request => {
            let reply = agent.answer(request).await;
            finish(stream, &reply).await
        }
    }
}

pub(crate) async fn refuse(stream: Stream, failed: Failed) -> Result<(), LinkError> {
    finish(stream, &Reply::Failed(failed.to_failure())).await
}

/// Sends the answer and waits a moment for the caller to have it before the stream goes.
async fn finish(mut stream: Stream, reply: &Reply) -> Result<(), LinkError> {
    write_frame(&mut stream, reply).await?;
    stream.shutdown().await?;
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_u8()).await;
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
