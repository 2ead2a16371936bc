//! The tree of a document.

use crate::place::{At, Place, Step};

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// Where it begins; for what an alias stands for, where the alias is.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

/// What a value can be: that of JSON.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    /// Where it is.
    pub place: Place,
    /// Its name; a number or a boolean has become a text.
    pub name: String,
    /// Whether it was a boolean in the file (`on`, `y`), which is hardly ever meant.
    pub was_bool: bool,
}

impl Value {
    /// What it is, for a message.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

impl Node {
    /// The value of a key, if this is a map that has it.
    pub fn get(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The text of a key, if there is one.
    pub fn text(&self, name: &str) -> Option<&str> {
        match &self.get(name)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The place of a field, or of the nearest that is there of what it would be in.
    pub fn nearest(&self, at: &At) -> Place {
        let (mut node, mut place) = (self, self.place);
        for step in at.steps() {
            let next = match (step, &node.value) {
                (Step::Index(index), Value::List(items)) => items.get(*index).map(|node| (node, node.place)),
                (Step::Field(name), Value::Map(entries)) => below(entries, name),
                (Step::Key(name), Value::Map(entries)) => below(entries, name),
                _ => None,
            };
            let Some((below, there)) = next else { break };
            (node, place) = (below, there);
        }
        place
    }
}

/// A value that stands on a line of its own is found by its key, which is what the user looks for.
fn below<'a>(entries: &'a [(Key, Node)], name: &str) -> Option<(&'a Node, Place)> {
    let (key, node) = entries.iter().find(|(key, _)| key.name == name)?;
    let place = if node.place.line == key.place.line { node.place } else { key.place };
    Some((node, place))
}
