//! Where something stands: a line and a column of a file, and the path of a field.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use crate::fault::shortened;

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One step down a document.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A field, or what stands where one is expected: `.name`.
    Field(Cow<'static, str>),
    /// A place in a list: `[0]`.
    Index(usize),
    /// A key that the user chose: `[app.kubernetes.io/name]`.
    Key(String),
}

/// The path of a field, as Kubernetes writes it: `spec.containers[1].env[0].name`.
#[derive(Clone, Debug, Default)]
pub(crate) struct At(Option<Rc<(At, Step)>>);

impl At {
    /// The document itself.
    pub fn top() -> Self {
        Self::default()
    }

    /// A field of what is here.
    pub fn field(&self, name: &'static str) -> Self {
        self.step(Step::Field(Cow::Borrowed(name)))
    }

    /// A field that no type has.
    pub fn unknown(&self, name: &str) -> Self {
        self.step(Step::Field(Cow::Owned(name.to_owned())))
    }

    /// An element of the list that is here.
    pub fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    /// A key of the map that is here.
    pub fn key(&self, key: &str) -> Self {
        self.step(Step::Key(key.to_owned()))
    }

    fn step(&self, step: Step) -> Self {
        Self(Some(Rc::new((self.clone(), step))))
    }

    /// The field of a path that is written down.
    pub fn parse(path: &str) -> Self {
        let (mut at, mut rest) = (Self::top(), path);
        while !rest.is_empty() {
            if let Some((inside, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                at = match inside.parse() {
                    Ok(index) => at.index(index),
                    Err(_) => at.key(inside),
                };
                rest = after;
            } else {
                rest = rest.strip_prefix('.').unwrap_or(rest);
                let end = rest.find(['.', '[']).unwrap_or(rest.len()).max(1).min(rest.len());
                at = at.unknown(&rest[..end]);
                rest = &rest[end..];
            }
        }
        at
    }

    /// The steps from the document to here.
    pub fn steps(&self) -> Vec<&Step> {
        let mut steps = Vec::new();
        let mut at = self;
        while let Some(here) = &at.0 {
            steps.push(&here.1);
            at = &here.0;
        }
        steps.reverse();
        steps
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps().into_iter().enumerate() {
            match step {
                Step::Field(name) if number == 0 => f.write_str(&shortened(name))?,
                Step::Field(name) => write!(f, ".{}", shortened(name))?,
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => write!(f, "[{}]", shortened(key))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_those_of_kubernetes() {
        let at = At::top().field("spec").field("containers").index(1).field("env").index(0).field("name");
        assert_eq!(at.to_string(), "spec.containers[1].env[0].name");
        let label = At::top().field("metadata").field("labels").key("app.kubernetes.io/name");
        assert_eq!(label.to_string(), "metadata.labels[app.kubernetes.io/name]");
        assert_eq!(At::top().to_string(), "");
        assert_eq!(At::parse(&at.to_string()).steps(), at.steps());
        assert_eq!(At::parse(&label.to_string()).steps(), label.steps());
        for odd in ["[", "]", "..", ".[", "a[b", "[]", "ä.ö[ü]", ".ä"] {
            let _ = At::parse(odd);
        }
    }
}
