//! What is wrong with a file, or odd about it: where, and in Kubernetes' own words where it has them.

use std::fmt;

use crate::place::{At, Place};
use crate::yaml::Node;

/// The most faults, and the most warnings, that are told of one document.
const MOST: usize = 100;

/// The most characters of a value that are repeated to the user.
const MOST_SHOWN: usize = 120;

/// Something wrong, or odd, in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, as the caller named it.
    pub file: String,
    /// Where in the file: the field's value, or what it would have to be added to.
    pub place: Place,
    /// The object, `Pod "web"`; empty where it is not known.
    pub object: String,
    /// The path of the field, `spec.containers[1].env[0].name`; empty for a whole document or file.
    pub path: String,
    /// What it is about.
    pub problem: Problem,
}

/// What a fault is about. The text of most is that of Kubernetes' `field.Error`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Neither YAML nor JSON, or beyond a limit.
    #[error("{0}")]
    Syntax(String),
    /// A field that no type of Kubernetes has, and the nearest that it has.
    #[error("unknown field{}", suggestion(.0.as_deref()))]
    Unknown(Option<String>),
    /// A value of another type.
    #[error("expected {wanted}, got {found}")]
    Type {
        /// What is wanted.
        wanted: String,
        /// What is there, with what helps.
        found: String,
    },
    /// Missing.
    #[error("Required value{}", detail(.0))]
    Required(String),
    /// Not a sound value.
    #[error("Invalid value: {value}{}", detail(.reason))]
    Invalid {
        /// The value as it is.
        value: String,
        /// Why not.
        reason: String,
    },
    /// None of the values that are possible.
    #[error("Unsupported value: {value}: supported values: {supported}")]
    Unsupported {
        /// The value as it is.
        value: String,
        /// The possible ones.
        supported: String,
    },
    /// There twice.
    #[error("Duplicate value: {0}")]
    Duplicate(String),
    /// Names something that is not there.
    #[error("Not found: {0}")]
    NotFound(String),
    /// Not allowed here.
    #[error("Forbidden{}", detail(.0))]
    Forbidden(String),
    /// Sound to Kubernetes, and refused by Hyper.
    #[error("not supported: {0}")]
    Refused(String),
    /// Sound to Kubernetes, and without effect in Hyper (a warning).
    #[error("has no effect: {0}")]
    Ignored(String),
    /// Sound, and likely not what is meant (a warning).
    #[error("{0}")]
    Odd(String),
    /// There is more of it than is told.
    #[error("and {0} more")]
    More(usize),
}

fn suggestion(name: Option<&str>) -> String {
    name.map(|name| format!(", did you mean {name:?}?")).unwrap_or_default()
}

fn detail(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.place)?;
        for part in [&self.object, &self.path].into_iter().filter(|part| !part.is_empty()) {
            write!(f, "{part}: ")?;
        }
        write!(f, "{}", self.problem)
    }
}

impl std::error::Error for Fault {}

/// A text of the user's, short enough for a message.
pub(crate) fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(MOST_SHOWN).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A text of the user's, quoted as Kubernetes quotes it.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

/// Gathers what is wrong with one document.
pub(crate) struct Report<'a> {
    file: &'a str,
    /// The object, once it is known.
    pub object: String,
    root: &'a Node,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
    untold: usize,
}

impl<'a> Report<'a> {
    /// For the document `root` of `file`.
    pub fn new(file: &'a str, root: &'a Node) -> Self {
        Self { file, object: String::new(), root, faults: Vec::new(), warnings: Vec::new(), untold: 0 }
    }

    /// Whether nothing is wrong so far.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether what is told from now on is only counted.
    pub fn is_full(&self) -> bool {
        self.faults.len() >= MOST
    }

    /// What is wrong, and what is odd.
    pub fn into_parts(mut self) -> (Vec<Fault>, Vec<Fault>) {
        if self.untold > 0 {
            let more = Problem::More(self.untold);
            self.faults.push(self.fault(&At::top(), more));
        }
        (self.faults, self.warnings)
    }

    fn fault(&self, at: &At, problem: Problem) -> Fault {
        let place = self.root.nearest(at);
        Fault {
            file: self.file.to_owned(),
            place,
            object: self.object.clone(),
            path: at.to_string(),
            problem,
        }
    }

    /// Tells of something wrong.
    pub fn tell(&mut self, at: &At, problem: Problem) {
        if !self.is_full() {
            let fault = self.fault(at, problem);
            self.faults.push(fault);
        } else {
            self.untold += 1;
        }
    }

    /// Tells of something odd.
    pub fn warn(&mut self, at: &At, problem: Problem) {
        if self.warnings.len() < MOST {
            let fault = self.fault(at, problem);
            self.warnings.push(fault);
        }
    }

    /// A value is missing.
    pub fn required(&mut self, at: &At, detail: &str) {
        self.tell(at, Problem::Required(detail.to_owned()));
    }

    /// A text is not sound, for each of the reasons.
    pub fn invalid_text<S: Into<String>>(&mut self, at: &At, text: &str, why: impl IntoIterator<Item = S>) {
        for reason in why {
            self.tell(at, Problem::Invalid { value: quoted(text), reason: reason.into() });
        }
    }

    /// A number, or something else that is written without quotes, is not sound.
    pub fn invalid(&mut self, at: &At, value: impl fmt::Display, reason: impl Into<String>) {
        self.tell(at, Problem::Invalid { value: shortened(&value.to_string()), reason: reason.into() });
    }

    /// A text is none of the possible ones.
    pub fn unsupported(&mut self, at: &At, text: &str, supported: &[&str]) {
        let supported = supported.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ");
        self.tell(at, Problem::Unsupported { value: quoted(text), supported });
    }

    /// A text is there twice.
    pub fn duplicate(&mut self, at: &At, text: &str) {
        self.tell(at, Problem::Duplicate(quoted(text)));
    }

    /// A text names what is not there.
    pub fn not_found(&mut self, at: &At, text: &str) {
        self.tell(at, Problem::NotFound(quoted(text)));
    }

    /// Something must not be there.
    pub fn forbidden(&mut self, at: &At, why: &str) {
        self.tell(at, Problem::Forbidden(why.to_owned()));
    }

    /// Something is sound, and not supported.
    pub fn refused(&mut self, at: &At, why: &str) {
        self.tell(at, Problem::Refused(why.to_owned()));
    }

    /// Not below zero, as most numbers.
    pub fn not_negative(&mut self, at: &At, number: impl Into<i64>) {
        let number = number.into();
        if number < 0 {
            self.invalid(at, number, "must be greater than or equal to 0");
        }
    }

    /// Between two bounds, both included.
    pub fn in_range(&mut self, at: &At, number: impl Into<i64>, from: i64, to: i64) {
        let number = number.into();
        if !(from..=to).contains(&number) {
            self.invalid(at, number, format!("must be between {from} and {to}, inclusive"));
        }
    }
}
