//! Client of QEMU's machine protocol (QMP) over a connected socket.
//!
//! QEMU's answers are bounded: one line has at most [`LINE_MAX`] bytes, and anything that is no answer to a
//! question of ours ends the conversation.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{broadcast, oneshot};

use crate::error::VmError;

/// Longest line accepted from QEMU; `query-*` answers for hundreds of disks stay below.
const LINE_MAX: u64 = 1 << 20;
/// How long QEMU may take to answer a command: its main loop can wait for slow storage.
const ANSWER: Duration = Duration::from_secs(30);

/// A command to QEMU.
#[derive(Debug)]
pub struct Command {
    /// Its name.
    pub execute: &'static str,
    /// Its arguments, an object.
    pub arguments: Value,
    /// A descriptor that goes with it (`add-fd`, `getfd`).
    pub descriptor: Option<OwnedFd>,
}

impl Command {
    /// A command without a descriptor.
    pub fn new(execute: &'static str, arguments: Value) -> Self {
        Self { execute, arguments, descriptor: None }
    }
}

/// Something that happened in QEMU.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its name, `DEVICE_DELETED`.
    pub name: String,
    /// What goes with it.
    pub data: Value,
}

type Answer = Result<Value, String>;

/// The conversation. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Qmp {
    // Commands of one batch are sent together, and descriptors with the command they belong to.
    writer: tokio::sync::Mutex<tokio::net::unix::OwnedWriteHalf>,
    pending: Pending,
    events: broadcast::Sender<Event>,
    next: AtomicU64,
    version: String,
}

type Pending = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

impl Qmp {
    /// Takes the greeting and opens the conversation.
    ///
    /// # Errors
    /// [`VmError::Io`], [`VmError::Nonsense`] or, when QEMU closes the socket, [`VmError::Gone`].
    pub async fn open(socket: UnixStream) -> Result<Self, VmError> {
        let (reader, writer) = socket.into_split();
        let mut reader = BufReader::new(reader);
        let greeting = read_line(&mut reader).await?.ok_or_else(|| VmError::Gone("no greeting".into()))?;
        let version =
            version(&greeting).ok_or_else(|| VmError::Nonsense("greeting without version".into()))?;
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let (events, _) = broadcast::channel(64);
        tokio::spawn(read_all(reader, pending.clone(), events.clone()));
        let qmp = Self { writer: writer.into(), pending, events, next: AtomicU64::new(1), version };
        qmp.execute(Command::new("qmp_capabilities", json!({}))).await?;
        Ok(qmp)
    }

    /// QEMU's version, `7.2.22`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Everything that happens from now on. A listener that falls 64 events behind loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// One command and its answer.
    ///
    /// # Errors
    /// See [`VmError`].
    pub async fn execute(&self, command: Command) -> Result<Value, VmError> {
        self.execute_all(vec![command]).await.pop().expect("one command has one answer")
    }

    /// Sends commands without waiting in between; the answers come in order. A command that fails does not keep
    /// later ones from being executed.
    pub async fn execute_all(&self, commands: Vec<Command>) -> Vec<Result<Value, VmError>> {
        let names: Vec<_> = commands.iter().map(|command| command.execute).collect();
        let mut answers = Vec::with_capacity(names.len());
        let sent = self.send_all(commands, &mut answers).await;
        let deadline = tokio::time::Instant::now() + ANSWER;
        let mut results = Vec::with_capacity(names.len());
        for (name, answer) in names.iter().zip(answers) {
            let result = match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(Ok(value))) => Ok(value),
                Ok(Ok(Err(message))) => Err(VmError::Refused { command: (*name).into(), message }),
                Ok(Err(_)) => Err(VmError::Gone("its control socket closed".into())),
                Err(_) => Err(VmError::Timeout { command: (*name).into(), seconds: ANSWER.as_secs() }),
            };
            results.push(result);
        }
        // What was not sent has no answer of its own but the reason.
        let error = sent.err().map_or_else(String::new, |error| error.to_string());
        results.resize_with(names.len(), || Err(VmError::Gone(error.clone())));
        results
    }

    async fn send_all(
        &self,
        commands: Vec<Command>,
        answers: &mut Vec<oneshot::Receiver<Answer>>,
    ) -> io::Result<()> {
        let writer = self.writer.lock().await;
        for command in commands {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let (sender, receiver) = oneshot::channel();
            match &mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(pending) => pending.insert(id, sender),
                None => return Err(io::Error::other("its control socket closed")),
            };
            answers.push(receiver);
            let line =
                json!({ "execute": command.execute, "arguments": command.arguments, "id": id }).to_string();
            send(writer.as_ref(), line.as_bytes(), command.descriptor.as_ref()).await?;
        }
        Ok(())
    }
}

/// Sends a line; a descriptor goes with its first byte, as QEMU expects it.
async fn send(socket: &UnixStream, mut line: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let mut descriptor = descriptor;
    while !line.is_empty() {
        let sent = socket
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let borrowed;
                if let Some(descriptor) = descriptor {
                    borrowed = [descriptor.as_fd()];
                    control.push(SendAncillaryMessage::ScmRights(&borrowed));
                }
                Ok(sendmsg(socket, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?)
            })
            .await?;
        descriptor = None;
        line = &line[sent..];
    }
    Ok(())
}

/// Delivers answers and events until the socket closes; then nobody waits any longer.
async fn read_all(mut reader: BufReader<OwnedReadHalf>, pending: Pending, events: broadcast::Sender<Event>) {
    loop {
        match read_line(&mut reader).await {
            Ok(Some(mut line)) => {
                if let Some(name) = line.get("event").and_then(Value::as_str) {
                    let _ = events.send(Event { name: name.to_owned(), data: line["data"].take() });
                } else if !deliver(line, &pending) {
                    tracing::warn!("QEMU answered what was not asked");
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "QEMU's control socket is not read any further");
                break;
            }
        }
    }
    *pending.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

fn deliver(mut line: Value, pending: &Pending) -> bool {
    let Some(id) = line.get("id").and_then(Value::as_u64) else { return false };
    let waiting =
        pending.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(|all| all.remove(&id));
    let Some(waiting) = waiting else { return false };
    let answer = match line.get("error") {
        None => Ok(line["return"].take()),
        Some(error) => Err(error.get("desc").and_then(Value::as_str).unwrap_or("unknown error").to_owned()),
    };
    let _ = waiting.send(answer);
    true
}

async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> Result<Option<Value>, VmError> {
    let mut line = Vec::new();
    let read = reader.take(LINE_MAX).read_until(b'\n', &mut line).await;
    read.map_err(|source| VmError::Io { attempt: "read from the VMM's control socket", source })?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => {
            serde_json::from_slice(&line).map(Some).map_err(|error| VmError::Nonsense(error.to_string()))
        }
        Some(_) if (line.len() as u64) < LINE_MAX => Ok(None),
        Some(_) => Err(VmError::Nonsense("a line without end".into())),
    }
}

fn version(greeting: &Value) -> Option<String> {
    let qemu = greeting.get("QMP")?.get("version")?.get("qemu")?;
    let part = |name| qemu.get(name).and_then(Value::as_u64);
    Some(format!("{}.{}.{}", part("major")?, part("minor")?, part("micro")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}"#;

    /// A QEMU that answers each line by what `answer` makes of it.
    fn fake(answer: impl Fn(Value) -> String + Send + 'static) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            let (reader, mut writer) = theirs.into_split();
            writer.write_all(format!("{GREETING}\r\n").as_bytes()).await.unwrap();
            // Commands come without a line end between them.
            let mut text = Vec::new();
            let mut reader = BufReader::new(reader);
            while reader.read_buf(&mut text).await.unwrap_or(0) > 0 {
                let mut values = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
                let mut answers = String::new();
                while let Some(Ok(value)) = values.next() {
                    answers += &answer(value);
                }
                let used = values.byte_offset();
                text.drain(..used);
                if writer.write_all(answers.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        ours
    }

    #[tokio::test]
    async fn batch_is_answered_in_order_and_a_refusal_is_its_own() {
        let socket = fake(|command| match command["execute"].as_str().unwrap() {
            "bad" => format!(
                "{}\n",
                json!({"id": command["id"], "error": {"class": "GenericError", "desc": "no"}})
            ),
            name => format!("{}\n", json!({"id": command["id"], "return": name})),
        });
        let qmp = Qmp::open(socket).await.unwrap();
        assert_eq!(qmp.version(), "7.2.22");
        let mut results = qmp
            .execute_all(["one", "bad", "two"].map(|name| Command::new(name, json!({}))).into())
            .await
            .into_iter();
        assert_eq!(results.next().unwrap().unwrap(), "one");
        assert!(matches!(results.next().unwrap(), Err(VmError::Refused { message, .. }) if message == "no"));
        assert_eq!(results.next().unwrap().unwrap(), "two");
    }

    #[tokio::test]
    async fn closed_socket_fails_what_waits_and_what_comes_later() {
        let socket = fake(|command| match command["execute"].as_str().unwrap() {
            "qmp_capabilities" => format!("{}\n", json!({"id": command["id"], "return": {}})),
            _ => "nonsense\n".into(),
        });
        let qmp = Qmp::open(socket).await.unwrap();
        assert!(qmp.execute(Command::new("quit", json!({}))).await.is_err());
        assert!(matches!(qmp.execute(Command::new("again", json!({}))).await, Err(VmError::Gone(_))));
    }

    #[tokio::test]
    async fn endless_line_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move { while theirs.write_all(&[b'x'; 4096]).await.is_ok() {} });
        assert!(matches!(Qmp::open(ours).await, Err(VmError::Nonsense(_))));
    }

    #[tokio::test]
    async fn events_reach_listeners() {
        let socket = fake(|command| {
            format!(
                "{}\n{}\n",
                json!({"event": "DEVICE_DELETED", "data": {"device": "disk0"}, "timestamp": {}}),
                json!({"id": command["id"], "return": {}})
            )
        });
        let qmp = Qmp::open(socket).await.unwrap();
        let mut events = qmp.events();
        qmp.execute(Command::new("device_del", json!({}))).await.unwrap();
        let event = events.recv().await.unwrap();
        assert_eq!((event.name.as_str(), event.data["device"].as_str()), ("DEVICE_DELETED", Some("disk0")));
    }
}
