//! From template text to a tree.

use super::TemplateError;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// Text as it is.
    Text(String),
    /// `{{pipeline}}`, or `{{$x := pipeline}}` which prints nothing.
    Action(Pipeline),
    /// `{{if}}`, `{{with}}` or `{{range}}` with its two branches.
    Branch {
        /// Which of the three.
        kind: BranchKind,
        /// The condition or list.
        pipeline: Pipeline,
        /// While true, or for each.
        body: Vec<Node>,
        /// Otherwise.
        otherwise: Vec<Node>,
    },
    /// `{{break}}`
    Break,
    /// `{{continue}}`
    Continue,
}

/// The block words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BranchKind {
    /// Conditional.
    If,
    /// Conditional that moves the dot.
    With,
    /// Loop.
    Range,
}

/// Commands joined by `|`, with the variables that receive the result.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// `$x` or `$i, $x`.
    pub variables: Vec<String>,
    /// `=` instead of `:=`.
    pub assigns: bool,
    /// Each gets the one's before result as its last argument.
    pub commands: Vec<Vec<Operand>>,
}

/// A word of a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// `.` with the fields after it.
    Dot(Vec<String>),
    /// `$name` with the fields after it.
    Variable(String, Vec<String>),
    /// A function's name.
    Function(String),
    /// `"text"`, `` `text` ``, `'c'`
    Text(String),
    /// A whole number.
    Int(i128),
    /// A number with a point or exponent.
    Float(f64),
    /// `true`, `false`
    Bool(bool),
    /// `nil`
    Nil,
    /// `(pipeline)` with the fields after it.
    Group(Box<Pipeline>, Vec<String>),
}

/// Deepest nesting of blocks and parentheses.
const MAX_DEPTH: usize = 64;

/// Parses a whole template.
///
/// # Errors
/// An unclosed action or block, a block word out of place, a word that is none.
pub fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let pieces = split(text)?;
    let mut parser = Blocks { pieces: &pieces, at: 0 };
    let (nodes, end) = parser.nodes(0)?;
    match end {
        None => Ok(nodes),
        Some(word) => Err(TemplateError::new(format!("unexpected {{{{{word}}}}}"))),
    }
}

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

/// Cuts a template at its delimiters and applies the trim markers.
fn split(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    loop {
        let (before, action) = match rest.split_once("{{") {
            Some((before, action)) => (before, Some(action)),
            None => (rest, None),
        };
        let mut before = if trim_next { before.trim_start() } else { before };
        let mut action = match action {
            Some(action) => action,
            None => {
                pieces.push(Piece::Text(before.to_owned()));
                return Ok(pieces);
            }
        };
        if let Some(trimmed) = action.strip_prefix('-').filter(|rest| rest.starts_with(char::is_whitespace)) {
            before = before.trim_end();
            action = trimmed;
        }
        pieces.push(Piece::Text(before.to_owned()));
        let comment = action.trim_start().starts_with("/*");
        let (tokens, after) = if comment { (Vec::new(), skip_comment(action)?) } else { tokens(action)? };
        trim_next = after.trims;
        rest = after.rest;
        if !comment {
            pieces.push(Piece::Action(tokens));
        }
    }
}

struct After<'a> {
    rest: &'a str,
    trims: bool,
}

fn skip_comment(action: &str) -> Result<After<'_>, TemplateError> {
    let unclosed = || TemplateError::new("unclosed comment");
    let end = action.find("*/").ok_or_else(unclosed)?;
    let close = &action[end + 2..];
    let trims = close.trim_start().starts_with("-}}");
    let at = close.find("}}").ok_or_else(unclosed)?;
    Ok(After { rest: &close[at + 2..], trims })
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// `.a.b` as fields; a lone dot has none.
    Fields(Vec<String>),
    Variable(String, Vec<String>),
    Word(String),
    Text(String),
    Number(String),
    Open,
    /// `)` with the fields after it.
    Close(Vec<String>),
    Pipe,
    Declare,
    Assign,
    Comma,
}

/// The tokens of an action up to its `}}`.
fn tokens(action: &str) -> Result<(Vec<Token>, After<'_>), TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = action;
    loop {
        let spaces = rest.len() - rest.trim_start().len();
        rest = &rest[spaces..];
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((tokens, After { rest: after, trims: false }));
        }
        if spaces > 0
            && let Some(after) = rest.strip_prefix("-}}")
        {
            return Ok((tokens, After { rest: after, trims: true }));
        }
        let (token, length) = token(rest)?;
        tokens.push(token);
        rest = &rest[length..];
    }
}

fn token(rest: &str) -> Result<(Token, usize), TemplateError> {
    let first = rest.chars().next().ok_or_else(|| TemplateError::new("unclosed action"))?;
    match first {
        '.' => {
            let (fields, length) = fields(rest);
            Ok((Token::Fields(fields), length.max(1)))
        }
        '$' => {
            let name = 1 + word_length(&rest[1..]);
            let (fields, length) = fields(&rest[name..]);
            Ok((Token::Variable(rest[..name].to_owned(), fields), name + length))
        }
        '"' | '`' | '\'' => quoted(rest, first),
        '(' => Ok((Token::Open, 1)),
        ')' => {
            let (fields, length) = fields(&rest[1..]);
            Ok((Token::Close(fields), 1 + length))
        }
        '|' => Ok((Token::Pipe, 1)),
        ',' => Ok((Token::Comma, 1)),
        ':' if rest.starts_with(":=") => Ok((Token::Declare, 2)),
        '=' => Ok((Token::Assign, 1)),
        '0'..='9' | '-' | '+' => {
            let numeric = |c: char| c.is_ascii_alphanumeric() || ".+-_".contains(c);
            let length = rest.find(|c| !numeric(c)).unwrap_or(rest.len());
            Ok((Token::Number(rest[..length].to_owned()), length))
        }
        _ if first.is_alphabetic() || first == '_' => {
            let length = word_length(rest);
            Ok((Token::Word(rest[..length].to_owned()), length))
        }
        _ => Err(TemplateError::new(format!("unexpected {first:?} in command"))),
    }
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// `.a.b` at the front of `rest`, and its length; none when it does not start with a field.
fn fields(rest: &str) -> (Vec<String>, usize) {
    let mut fields = Vec::new();
    let mut length = 0;
    while let Some(field) = rest[length..].strip_prefix('.') {
        let word = word_length(field);
        if word == 0 {
            break;
        }
        fields.push(field[..word].to_owned());
        length += 1 + word;
    }
    (fields, length)
}

fn quoted(rest: &str, quote: char) -> Result<(Token, usize), TemplateError> {
    let unclosed = || TemplateError::new("unterminated quoted string");
    if quote == '`' {
        let end = rest[1..].find('`').ok_or_else(unclosed)?;
        return Ok((Token::Text(rest[1..=end].to_owned()), end + 2));
    }
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => text.push(match characters.next().ok_or_else(unclosed)?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                same @ ('\\' | '"' | '\'') => same,
                other => return Err(TemplateError::new(format!("unknown escape \\{other}"))),
            }),
            _ if c == quote && quote == '\'' => {
                let mut single = text.chars();
                let (Some(rune), None) = (single.next(), single.next()) else {
                    return Err(TemplateError::new("a character constant has one character"));
                };
                return Ok((Token::Number(u32::from(rune).to_string()), at + 1));
            }
            _ if c == quote => return Ok((Token::Text(text), at + 1)),
            _ => text.push(c),
        }
    }
    Err(unclosed())
}

struct Blocks<'a> {
    pieces: &'a [Piece],
    at: usize,
}

impl Blocks<'_> {
    /// Nodes up to an `end` or `else` of an outer block, which is returned with what follows the word.
    fn nodes(&mut self, depth: usize) -> Result<(Vec<Node>, Option<String>), TemplateError> {
        if depth > MAX_DEPTH {
            return Err(TemplateError::new("blocks are nested too deeply"));
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.get(self.at) {
            let tokens = match piece {
                Piece::Text(text) => {
                    self.at += 1;
                    nodes.push(Node::Text(text.clone()));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            let Some(Token::Word(word)) = tokens.first() else {
                self.at += 1;
                nodes.push(Node::Action(pipeline(tokens)?));
                continue;
            };
            match word.as_str() {
                // Left for the block that it belongs to.
                "end" | "else" => return Ok((nodes, Some(word.clone()))),
                "if" | "with" | "range" => {
                    self.at += 1;
                    nodes.push(self.branch(word, &tokens[1..], depth)?);
                    continue;
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "define" | "template" | "block" => {
                    return Err(TemplateError::new(format!("{{{{{word}}}}} is not supported")));
                }
                _ => nodes.push(Node::Action(pipeline(tokens)?)),
            }
            self.at += 1;
        }
        Ok((nodes, None))
    }

    fn branch(&mut self, word: &str, tokens: &[Token], depth: usize) -> Result<Node, TemplateError> {
        let kind = match word {
            "if" => BranchKind::If,
            "with" => BranchKind::With,
            _ => BranchKind::Range,
        };
        let pipeline = pipeline(tokens)?;
        let (body, end) = self.nodes(depth + 1)?;
        let otherwise = match end.as_deref() {
            Some("else") => self.otherwise(depth)?,
            Some(_) => {
                self.at += 1;
                Vec::new()
            }
            None => return Err(TemplateError::new(format!("unexpected end of template in {{{{{word}}}}}"))),
        };
        Ok(Node::Branch { kind, pipeline, body, otherwise })
    }

    /// What follows an `else`: a branch up to its `end`, or another condition that shares it.
    fn otherwise(&mut self, depth: usize) -> Result<Vec<Node>, TemplateError> {
        let Some(Piece::Action(tokens)) = self.pieces.get(self.at) else { return Ok(Vec::new()) };
        self.at += 1;
        match &tokens[1..] {
            [] => {
                let (nodes, end) = self.nodes(depth + 1)?;
                if end.as_deref() != Some("end") {
                    return Err(TemplateError::new("expected {{end}} after {{else}}"));
                }
                self.at += 1;
                Ok(nodes)
            }
            [Token::Word(word), rest @ ..] if word == "if" || word == "with" => {
                Ok(vec![self.branch(word, rest, depth + 1)?])
            }
            _ => Err(TemplateError::new("unexpected words after {{else")),
        }
    }
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline, TemplateError> {
    let (variables, assigns, rest) = match tokens {
        [Token::Variable(one, none), Token::Declare, rest @ ..] if none.is_empty() => {
            (vec![one.clone()], false, rest)
        }
        [Token::Variable(one, none), Token::Assign, rest @ ..] if none.is_empty() => {
            (vec![one.clone()], true, rest)
        }
        [Token::Variable(one, _), Token::Comma, Token::Variable(two, _), Token::Declare, rest @ ..] => {
            (vec![one.clone(), two.clone()], false, rest)
        }
        _ => (Vec::new(), false, tokens),
    };
    let mut words = Words { tokens: rest, at: 0 };
    let commands = words.commands(0)?;
    if words.at != rest.len() {
        return Err(TemplateError::new("unexpected right paren or word"));
    }
    Ok(Pipeline { variables, assigns, commands })
}

struct Words<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Words<'_> {
    /// Commands up to the end or an unmatched `)`, which stays.
    fn commands(&mut self, depth: usize) -> Result<Vec<Vec<Operand>>, TemplateError> {
        if depth > MAX_DEPTH {
            return Err(TemplateError::new("parentheses are nested too deeply"));
        }
        let mut commands = vec![Vec::new()];
        while let Some(token) = self.tokens.get(self.at) {
            let operand = match token {
                Token::Close(_) => break,
                Token::Pipe => {
                    if commands.last().is_some_and(Vec::is_empty) {
                        return Err(TemplateError::new("missing value for command"));
                    }
                    commands.push(Vec::new());
                    self.at += 1;
                    continue;
                }
                Token::Open => self.group(depth)?,
                other => operand(other)?,
            };
            self.at += 1;
            if let Some(command) = commands.last_mut() {
                command.push(operand);
            }
        }
        if commands.last().is_some_and(Vec::is_empty) {
            return Err(TemplateError::new("missing value for command"));
        }
        Ok(commands)
    }

    fn group(&mut self, depth: usize) -> Result<Operand, TemplateError> {
        self.at += 1;
        let commands = self.commands(depth + 1)?;
        match self.tokens.get(self.at) {
            Some(Token::Close(fields)) => {
                let pipeline = Pipeline { variables: Vec::new(), assigns: false, commands };
                Ok(Operand::Group(Box::new(pipeline), fields.clone()))
            }
            _ => Err(TemplateError::new("unclosed left paren")),
        }
    }
}

fn operand(token: &Token) -> Result<Operand, TemplateError> {
    Ok(match token {
        Token::Fields(fields) => Operand::Dot(fields.clone()),
        Token::Variable(name, fields) => Operand::Variable(name.clone(), fields.clone()),
        Token::Text(text) => Operand::Text(text.clone()),
        Token::Number(text) => number(text)?,
        Token::Word(word) => match word.as_str() {
            "true" => Operand::Bool(true),
            "false" => Operand::Bool(false),
            "nil" => Operand::Nil,
            _ => Operand::Function(word.clone()),
        },
        Token::Open | Token::Close(_) | Token::Pipe | Token::Declare | Token::Assign | Token::Comma => {
            return Err(TemplateError::new("unexpected punctuation in command"));
        }
    })
}

fn number(text: &str) -> Result<Operand, TemplateError> {
    let whole = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => i128::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match (whole, text.parse::<f64>()) {
        (Ok(whole), _) => Ok(Operand::Int(whole)),
        (_, Ok(float)) if float.is_finite() => Ok(Operand::Float(float)),
        _ => Err(TemplateError::new(format!("bad number syntax: {text:?}"))),
    }
}
