//! What happened: a ring of recent events, and a stream of new ones.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use tokio::sync::broadcast;

use crate::clock::Timestamp;
use crate::filter::Filters;

/// Events kept for those who ask later: docker's number.
const KEPT: usize = 256;

/// Events that a slow listener may lag behind before it loses some.
const BACKLOG: usize = 1024;

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `container`, `image`, `network`, `pod` or `volume`.
    pub kind: &'static str,
    /// What (`create`, `start`, `die`, …).
    pub action: String,
    /// Id of what it happened to.
    pub actor: String,
    /// Name, image, labels and details.
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub time: Timestamp,
}

/// All events of an engine.
#[derive(Debug)]
pub(crate) struct Events {
    ring: Mutex<VecDeque<Event>>,
    sender: broadcast::Sender<Event>,
}

/// A listener's view: what was, then what comes.
#[derive(Debug)]
pub struct EventStream {
    past: VecDeque<Event>,
    receiver: broadcast::Receiver<Event>,
    filters: Filters,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { ring: Mutex::new(VecDeque::new()), sender: broadcast::channel(BACKLOG).0 }
    }

    pub(crate) fn publish(&self, event: Event) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(event.clone());
        // Without a listener there is nobody to tell.
        let _ = self.sender.send(event);
    }

    pub(crate) fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }

    /// Events from `since` on (none: from now on) that pass the filters.
    pub(crate) fn listen(&self, since: Option<Timestamp>, filters: Filters) -> EventStream {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.sender.subscribe();
        let past = match since {
            Some(since) => ring.iter().filter(|event| event.time >= since).cloned().collect(),
            None => VecDeque::new(),
        };
        EventStream { past, receiver, filters }
    }
}

impl EventStream {
    /// The next event that passes; `None` when the engine is gone.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let event = match self.past.pop_front() {
                Some(event) => event,
                None => match self.receiver.recv().await {
                    Ok(event) => event,
                    Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
            };
            if passes(&event, &self.filters) {
                return Some(event);
            }
        }
    }

    /// The next event that has already happened.
    pub fn next_past(&mut self) -> Option<Event> {
        while let Some(event) = self.past.pop_front() {
            if passes(&event, &self.filters) {
                return Some(event);
            }
        }
        None
    }
}

/// Names of filters that [`EventStream`] knows.
pub const EVENT_FILTERS: &[&str] =
    &["type", "event", "container", "image", "label", "scope", "daemon", "network", "volume", "pod"];

fn passes(event: &Event, filters: &Filters) -> bool {
    let name = event.attributes.get("name").map_or("", String::as_str);
    let is_about = |kind: &str, wanted: &str| {
        event.kind == kind && (name == wanted || (!wanted.is_empty() && event.actor.starts_with(wanted)))
    };
    let any = |key: &str, test: &dyn Fn(&str) -> bool| filters.any(key, test);
    any("type", &|wanted| wanted == event.kind)
        && any("event", &|wanted| {
            event.action == wanted
                || event.action.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(':'))
        })
        && any("scope", &|wanted| wanted == "local")
        && any("daemon", &|_| true)
        && any("container", &|wanted| is_about("container", wanted))
        && any("network", &|wanted| is_about("network", wanted))
        && any("volume", &|wanted| event.kind == "volume" && event.actor == wanted)
        && any("pod", &|wanted| {
            is_about("pod", wanted) || event.attributes.get("pod").is_some_and(|pod| pod == wanted)
        })
        && any("image", &|wanted| {
            is_about("image", wanted)
                || event.attributes.get("image").is_some_and(|image| {
                    image == wanted || image.rsplit_once(':').is_some_and(|(name, _)| name == wanted)
                })
        })
        && filters.matches_labels(&event.attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, actor: &str) -> Event {
        Event {
            kind: "container",
            action: action.into(),
            actor: actor.into(),
            attributes: [("name".into(), "web".into()), ("image".into(), "debian:12".into())].into(),
            time: Timestamp(actor.len() as i64),
        }
    }

    fn filters(text: &str) -> Filters {
        Filters::parse(text, EVENT_FILTERS).unwrap()
    }

    #[test]
    fn filters_choose_by_type_action_container_and_image() {
        let event = event("start", "abc");
        for passing in
            ["", r#"{"type":["container"]}"#, r#"{"container":["web"]}"#, r#"{"image":["debian"]}"#]
        {
            assert!(passes(&event, &filters(passing)), "{passing}");
        }
        for failing in [r#"{"type":["image"]}"#, r#"{"event":["die"]}"#, r#"{"label":["a"]}"#] {
            assert!(!passes(&event, &filters(failing)), "{failing}");
        }
        let exec = Event { action: "exec_start: sh".into(), ..event };
        assert!(passes(&exec, &filters(r#"{"event":["exec_start"]}"#)));
    }

    #[test]
    fn ring_keeps_the_newest_for_those_who_ask_since() {
        let events = Events::new();
        for index in 0..300 {
            events.publish(event(&index.to_string(), "a"));
        }
        let mut stream = events.listen(Some(Timestamp(0)), Filters::default());
        assert_eq!(stream.next_past().unwrap().action, "44");
        let mut stream = events.listen(None, Filters::default());
        assert_eq!(stream.next_past(), None);
    }
}
