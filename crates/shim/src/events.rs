//! Events for containerd, sent without ever waiting for it.

use std::time::Duration;

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::events::task as messages;
use containerd_shim_protos::protobuf::MessageFull;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use hyper_protocol::agent::{Exit, Target};
use tokio::sync::mpsc;
use ttrpc::context::{self, Context};

use crate::clock;

/// Events that wait while containerd is away; further ones are dropped.
const QUEUE: usize = 256;
/// How long one event is tried.
const ANSWER: Duration = Duration::from_secs(5);
/// Tries for one event.
const TRIES: u32 = 3;

/// Something that happened to a task.
#[derive(Debug, Clone)]
pub enum Event {
    /// A container was made.
    Create {
        /// Its name.
        container: String,
        /// Its bundle.
        bundle: String,
        /// Its process number.
        pid: u32,
    },
    /// A container was started.
    Start {
        /// Its name.
        container: String,
        /// Its process number.
        pid: u32,
    },
    /// A process was added.
    ExecAdded(Target),
    /// An added process was started.
    ExecStarted(Target, u32),
    /// A process ended.
    Exit {
        /// Which.
        target: Target,
        /// Its number.
        pid: u32,
        /// How.
        exit: Exit,
    },
    /// A container was deleted.
    Delete {
        /// Which process.
        target: Target,
        /// Its number.
        pid: u32,
        /// How it ended.
        exit: Exit,
    },
    /// The kernel's out-of-memory killer was there.
    Oom {
        /// The container.
        container: String,
    },
    /// A container was frozen.
    Paused(String),
    /// A container was thawed.
    Resumed(String),
}

/// Where events go.
#[derive(Debug, Clone)]
pub struct Events(Option<mpsc::Sender<(i64, Event)>>);

impl Events {
    /// Nowhere.
    pub fn none() -> Self {
        Self(None)
    }

    /// To containerd's ttrpc socket at `address`, from now on in the background.
    pub fn to(address: String, namespace: String) -> Self {
        let (queue, events) = mpsc::channel(QUEUE);
        tokio::spawn(forward(address, namespace, events));
        Self(Some(queue))
    }

    /// Sends an event or, when too many wait, drops it.
    pub fn publish(&self, event: Event) {
        let Some(queue) = &self.0 else { return };
        if queue.try_send((clock::unix_ns(), event)).is_err() {
            tracing::debug!("an event was dropped");
        }
    }
}

async fn forward(address: String, namespace: String, mut events: mpsc::Receiver<(i64, Event)>) {
    let address = if address.contains("://") { address } else { format!("unix://{address}") };
    let mut client = None;
    while let Some((time, event)) = events.recv().await {
        let (topic, payload) = encode(event);
        let mut envelope = Envelope::new();
        envelope.set_timestamp(clock::timestamp(time));
        envelope.set_namespace(namespace.clone());
        envelope.set_topic(topic.to_owned());
        envelope.set_event(payload);
        let mut request = ForwardRequest::new();
        request.set_envelope(envelope);
        for _ in 0..TRIES {
            if client.is_none() {
                client = Client::connect(&address).await.ok().map(EventsClient::new);
            }
            let Some(connected) = &client else { break };
            match connected.forward(context(), &request).await {
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(%error, topic, "an event was not taken");
                    client = None;
                }
            }
        }
    }
}

fn context() -> Context {
    context::with_duration(ANSWER)
}

/// Topic and message as containerd has them (`core/runtime/events.go`).
fn encode(event: Event) -> (&'static str, Any) {
    match event {
        Event::Create { container, bundle, pid } => {
            let message = messages::TaskCreate { container_id: container, bundle, pid, ..Default::default() };
            ("/tasks/create", any(&message))
        }
        Event::Start { container, pid } => {
            ("/tasks/start", any(&messages::TaskStart { container_id: container, pid, ..Default::default() }))
        }
        Event::ExecAdded(target) => {
            let (container_id, exec_id) = (target.container, target.exec.unwrap_or_default());
            (
                "/tasks/exec-added",
                any(&messages::TaskExecAdded { container_id, exec_id, ..Default::default() }),
            )
        }
        Event::ExecStarted(target, pid) => {
            let (container_id, exec_id) = (target.container, target.exec.unwrap_or_default());
            let message = messages::TaskExecStarted { container_id, exec_id, pid, ..Default::default() };
            ("/tasks/exec-started", any(&message))
        }
        Event::Exit { target, pid, exit } => {
            let mut message = messages::TaskExit { pid, exit_status: exit.code, ..Default::default() };
            message.id = target.exec.unwrap_or_else(|| target.container.clone());
            message.container_id = target.container;
            message.set_exited_at(clock::timestamp(exit.unix_time_ns));
            ("/tasks/exit", any(&message))
        }
        Event::Delete { target, pid, exit } => {
            let mut message = messages::TaskDelete { pid, exit_status: exit.code, ..Default::default() };
            message.id = target.exec.unwrap_or_default();
            message.container_id = target.container;
            message.set_exited_at(clock::timestamp(exit.unix_time_ns));
            ("/tasks/delete", any(&message))
        }
        Event::Oom { container } => {
            ("/tasks/oom", any(&messages::TaskOOM { container_id: container, ..Default::default() }))
        }
        Event::Paused(container) => {
            ("/tasks/paused", any(&messages::TaskPaused { container_id: container, ..Default::default() }))
        }
        Event::Resumed(container) => {
            ("/tasks/resumed", any(&messages::TaskResumed { container_id: container, ..Default::default() }))
        }
    }
}

/// As containerd's `typeurl` has it: the bare name of the message for a type.
pub fn any<M: MessageFull>(message: &M) -> Any {
    let value = message.write_to_bytes().expect("these messages have no required fields");
    Any { type_url: M::descriptor().full_name().to_owned(), value, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use containerd_shim_protos::api::Empty;
    use containerd_shim_protos::protobuf::Message;
    use containerd_shim_protos::shim_async::{Events as EventsService, create_events};
    use std::sync::Arc;
    use ttrpc::asynchronous::{Server, TtrpcContext};

    struct Containerd(mpsc::UnboundedSender<Envelope>);

    #[async_trait]
    impl EventsService for Containerd {
        async fn forward(&self, _: &TtrpcContext, mut request: ForwardRequest) -> ttrpc::Result<Empty> {
            let _ = self.0.send(request.take_envelope());
            Ok(Empty::new())
        }
    }

    #[tokio::test]
    async fn containerd_gets_an_exit_in_its_own_form() {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("unix://{}/events.sock", dir.path().display());
        let (sender, mut received) = mpsc::unbounded_channel();
        let mut server = Server::new()
            .bind(&address)
            .unwrap()
            .register_service(create_events(Arc::new(Containerd(sender))));
        server.start().await.unwrap();
        let events = Events::to(address, "k8s.io".into());
        let target = Target { container: "c1".into(), exec: None };
        let exit = Exit { code: 7, unix_time_ns: 5_000_000_000, oom_killed: false };
        events.publish(Event::Exit { target, pid: 3, exit });
        let envelope = received.recv().await.unwrap();
        assert_eq!((envelope.topic.as_str(), envelope.namespace.as_str()), ("/tasks/exit", "k8s.io"));
        assert_eq!(envelope.event.type_url, "containerd.events.TaskExit");
        let message = messages::TaskExit::parse_from_bytes(&envelope.event.value).unwrap();
        assert_eq!(
            (message.container_id.as_str(), message.id.as_str(), message.exit_status),
            ("c1", "c1", 7)
        );
        assert_eq!(message.exited_at.seconds, 5);
    }

    #[tokio::test]
    async fn containerd_that_is_away_holds_nobody_up() {
        let events = Events::to("/nosuch/containerd.sock".into(), "n".into());
        for _ in 0..10_000 {
            events.publish(Event::Paused("c1".into()));
        }
    }
}
