//! From text to trees, within limits.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput, Tag};

use super::node::{Key, Node, Value};
use super::{json, scalar};
use crate::fault::{quoted, shortened};
use crate::place::Place;

/// Largest file. A ConfigMap or Secret holds at most 1 MiB in Kubernetes.
const MOST_BYTES: usize = 4 << 20;

/// Most values of a file, with what its aliases stand for.
const MOST_NODES: usize = 400_000;

/// Most bytes of texts of a file, with what its aliases stand for.
const MOST_TEXT: usize = 4 * MOST_BYTES;

/// Most values within each other. The deepest that Kubernetes has is about 20.
const MOST_DEPTH: usize = 100;

/// Most documents of a file.
const MOST_DOCUMENTS: usize = 1000;

/// What the tags of YAML itself begin with.
const CORE: &str = "tag:yaml.org,2002:";

/// A file that is neither YAML nor JSON, or beyond a limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub message: String,
}

/// The documents of a file, but for empty ones.
pub(crate) fn documents(bytes: &[u8]) -> Result<Vec<Node>, Fault> {
    let start = Place { line: 1, column: 1 };
    if bytes.len() > MOST_BYTES {
        return Err(Fault { place: start, message: format!("the file is larger than {MOST_BYTES} bytes") });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| Fault {
        place: place_of(bytes, error.valid_up_to()),
        message: "the file is not UTF-8 text".to_owned(),
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    match json::split(text) {
        Some(pieces) => {
            for piece in pieces {
                builder.first_line = piece.line;
                builder.stream(&piece.text)?;
            }
        }
        None => builder.stream(text)?,
    }
    builder.documents.retain(|document| document.value != Value::Null);
    Ok(builder.documents)
}

/// Line and column of a byte of a text that is sound up to it.
fn place_of(bytes: &[u8], offset: usize) -> Place {
    let before = &bytes[..offset];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    Place { line, column: String::from_utf8_lossy(&before[begin..]).chars().count() + 1 }
}

/// What an alias may stand for.
enum Anchor {
    /// It is being read: an alias to it would be within itself.
    Open,
    Done(Rc<Node>, Size),
}

/// How much of the limits a value takes.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    text: usize,
    /// Levels below the value.
    depth: usize,
}

type Events<'a> = Parser<'a, StrInput<'a>>;

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    anchors: HashMap<usize, Anchor>,
    taken: Size,
    /// Lines before the text.
    first_line: usize,
}

impl Builder {
    /// Reads all documents of a text.
    fn stream(&mut self, text: &str) -> Result<(), Fault> {
        let mut options = Options::default();
        options.flow_nesting_limit = MOST_DEPTH;
        options.block_nesting_limit = MOST_DEPTH;
        options.block_scalar_eof_without_line_feed = true;
        let mut events = Parser::new_from_str_with_options(text, options);
        loop {
            let (event, place, _) = self.next(&mut events)?;
            match event {
                Event::StreamEnd => return Ok(()),
                Event::DocumentStart(..) => {
                    if self.documents.len() >= MOST_DOCUMENTS {
                        return self.fail(place, format!("more than {MOST_DOCUMENTS} documents in a file"));
                    }
                    self.anchors.clear();
                    let (event, place, _) = self.next(&mut events)?;
                    let (node, _) = self.node(&mut events, event, place, 0)?;
                    self.documents.push(node);
                }
                _ => {}
            }
        }
    }

    fn fail<T>(&self, place: Place, message: impl Into<String>) -> Result<T, Fault> {
        Err(Fault { place, message: message.into() })
    }

    fn place(&self, span: &Span) -> Place {
        Place { line: self.first_line + span.start.line(), column: span.start.col() + 1 }
    }

    fn next<'a>(&self, events: &mut Events<'a>) -> Result<(Event<'a>, Place, Span), Fault> {
        match events.next() {
            Some(Ok((event, span))) => Ok((event, self.place(&span), span)),
            Some(Err(error)) => {
                let marker = error.marker();
                let place = Place { line: self.first_line + marker.line().max(1), column: marker.col() + 1 };
                self.fail(place, shortened(&error.info()))
            }
            None => self.fail(Place::default(), "the file ends too early"),
        }
    }

    /// Counts what is about to be made.
    fn take(&mut self, place: Place, size: Size, depth: usize) -> Result<(), Fault> {
        self.taken.nodes = self.taken.nodes.saturating_add(size.nodes);
        self.taken.text = self.taken.text.saturating_add(size.text);
        if self.taken.nodes > MOST_NODES {
            return self.fail(place, format!("more than {MOST_NODES} values, with what aliases stand for"));
        }
        if self.taken.text > MOST_TEXT {
            return self.fail(place, format!("more than {MOST_TEXT} bytes, with what aliases stand for"));
        }
        if depth + size.depth > MOST_DEPTH {
            return self.fail(place, format!("more than {MOST_DEPTH} levels within each other"));
        }
        Ok(())
    }

    /// The value that begins with `event`.
    fn node(
        &mut self,
        events: &mut Events<'_>,
        event: Event<'_>,
        place: Place,
        depth: usize,
    ) -> Result<(Node, Size), Fault> {
        let (anchor, node, size) = match event {
            Event::Alias(id) => return self.alias(id, place, depth),
            Event::Scalar(text, style, anchor, tag) => {
                let size = Size { nodes: 1, text: text.len(), depth: 0 };
                self.take(place, size, depth)?;
                let value = self.scalar(&text, style, tag.as_deref(), place)?;
                (anchor, Node { place, value }, size)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.take(place, Size { nodes: 1, ..Size::default() }, depth)?;
                self.tagged(tag.as_deref(), "seq", place)?;
                self.open(anchor);
                let (items, size) = self.list(events, depth)?;
                (anchor, Node { place, value: Value::List(items) }, size)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.take(place, Size { nodes: 1, ..Size::default() }, depth)?;
                self.tagged(tag.as_deref(), "map", place)?;
                self.open(anchor);
                let (entries, size) = self.map(events, depth)?;
                (anchor, Node { place, value: Value::Map(entries) }, size)
            }
            _ => return self.fail(place, "a value is expected here"),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, Anchor::Done(Rc::new(node.clone()), size));
            self.take(place, Size { depth: 0, ..size }, depth)?;
        }
        Ok((node, size))
    }

    fn open(&mut self, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, Anchor::Open);
        }
    }

    fn alias(&mut self, id: usize, place: Place, depth: usize) -> Result<(Node, Size), Fault> {
        let (target, size) = match self.anchors.get(&id) {
            Some(Anchor::Done(target, size)) => (target.clone(), *size),
            Some(Anchor::Open) => return self.fail(place, "an alias to the value that it is in"),
            None => return self.fail(place, "an alias to an anchor that is not there"),
        };
        self.take(place, size, depth)?;
        Ok((Node { place, value: target.value.clone() }, size))
    }

    fn list(&mut self, events: &mut Events<'_>, depth: usize) -> Result<(Vec<Node>, Size), Fault> {
        let (mut items, mut size) = (Vec::new(), Size { nodes: 1, ..Size::default() });
        loop {
            let (event, place, _) = self.next(events)?;
            if event == Event::SequenceEnd {
                return Ok((items, size));
            }
            let (item, below) = self.node(events, event, place, depth + 1)?;
            size = size.with(below);
            items.push(item);
        }
    }

    fn map(&mut self, events: &mut Events<'_>, depth: usize) -> Result<(Vec<(Key, Node)>, Size), Fault> {
        let (mut entries, mut size) = (Vec::new(), Size { nodes: 1, ..Size::default() });
        let (mut names, mut merges): (HashMap<String, Place>, _) = (HashMap::new(), Vec::new());
        loop {
            let (event, place, _) = self.next(events)?;
            if event == Event::MappingEnd {
                break;
            }
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let (key, below) = self.node(events, event, place, depth + 1)?;
            size = size.with(below);
            let (event, at, _) = self.next(events)?;
            let (node, below) = self.node(events, event, at, depth + 1)?;
            size = size.with(below);
            if merge {
                merges.push(node);
                continue;
            }
            let key = self.key(key)?;
            if let Some(first) = names.insert(key.name.clone(), key.place) {
                let name = quoted(&key.name);
                return self.fail(key.place, format!("key {name} is already set in line {}", first.line));
            }
            entries.push((key, node));
        }
        self.merge(&mut entries, merges, names.into_keys().collect())?;
        Ok((entries, size))
    }

    /// Adds what maps behind `<<` have and the map itself has not; the first of several counts.
    fn merge(
        &self,
        entries: &mut Vec<(Key, Node)>,
        merges: Vec<Node>,
        mut names: HashSet<String>,
    ) -> Result<(), Fault> {
        for merged in merges {
            let place = merged.place;
            let maps = match merged.value {
                Value::List(maps) => maps,
                value => vec![Node { place, value }],
            };
            for map in maps {
                let Value::Map(more) = map.value else {
                    return self.fail(map.place, "a merge (<<) requires a map, or a list of maps");
                };
                entries.extend(more.into_iter().filter(|(key, _)| names.insert(key.name.clone())));
            }
        }
        Ok(())
    }

    /// A key as text, as a key of JSON has to be.
    fn key(&self, node: Node) -> Result<Key, Fault> {
        let was_bool = matches!(node.value, Value::Bool(_));
        let name = match node.value {
            Value::Text(text) => text,
            Value::Bool(yes) => yes.to_string(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            other => return self.fail(node.place, format!("a key must be a string, not {}", other.kind())),
        };
        Ok(Key { place: node.place, name, was_bool })
    }

    fn scalar(
        &self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        place: Place,
    ) -> Result<Value, Fault> {
        let plain = || {
            let message = format!("{text} is a number that JSON does not have");
            scalar::resolve(text).ok_or(Fault { place, message })
        };
        let Some(tag) = tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix())) else {
            return if style == ScalarStyle::Plain { plain() } else { Ok(Value::Text(text.to_owned())) };
        };
        let value = match tag.strip_prefix(CORE) {
            // Tags of the user's own mean nothing, and make a string.
            None if tag.starts_with('!') => return Ok(Value::Text(text.to_owned())),
            Some("str") => return Ok(Value::Text(text.to_owned())),
            Some("binary") => {
                let packed: String = text.split_whitespace().collect();
                let bytes = STANDARD.decode(packed).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                return match bytes {
                    Some(text) => Ok(Value::Text(text)),
                    None => self.fail(place, "!!binary is not text in base64"),
                };
            }
            Some("timestamp") => return Ok(Value::Text(text.to_owned())),
            Some("int" | "float" | "bool" | "null") => plain()?,
            _ => return self.fail(place, format!("unknown tag {}", quoted(&tag))),
        };
        match (tag.strip_prefix(CORE), value) {
            (Some("float"), Value::Integer(number)) => Ok(Value::Float(number as f64)),
            (Some("int"), value @ Value::Integer(_))
            | (Some("float"), value @ Value::Float(_))
            | (Some("bool"), value @ Value::Bool(_))
            | (Some("null"), value @ Value::Null) => Ok(value),
            (tag, _) => self.fail(place, format!("{} is no !!{}", quoted(text), tag.unwrap_or_default())),
        }
    }

    fn tagged(&self, tag: Option<&Tag>, kind: &str, place: Place) -> Result<(), Fault> {
        let tag = tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix()));
        match tag {
            Some(tag) if !tag.starts_with('!') && tag.strip_prefix(CORE) != Some(kind) => {
                self.fail(place, format!("unknown tag {}", quoted(&tag)))
            }
            _ => Ok(()),
        }
    }
}

impl Size {
    /// With one more value in it.
    fn with(self, below: Self) -> Self {
        Self {
            nodes: self.nodes + below.nodes,
            text: self.text + below.text,
            depth: self.depth.max(below.depth + 1),
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
