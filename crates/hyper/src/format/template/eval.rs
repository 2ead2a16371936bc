//! From a tree and data to text.

use super::functions::call;
use super::parse::{BranchKind, Node, Operand, Pipeline, parse};
use super::value::Kind;
use super::{TemplateError, Value};

/// Longest output of one template, in bytes: nested loops must not eat the memory.
const MAX_OUTPUT: usize = 256 << 20;

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template {
    nodes: Vec<Node>,
}

impl Template {
    /// Parses `text`.
    ///
    /// # Errors
    /// [`TemplateError`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { nodes: parse(text)? })
    }

    /// The text for `data`.
    ///
    /// # Errors
    /// A field that is not there, a function that does not exist or does not take these values.
    pub fn render(&self, data: &Value) -> Result<String, TemplateError> {
        let mut run = Run { output: String::new(), variables: vec![("$".to_owned(), data.clone())] };
        run.nodes(&self.nodes, data)?;
        Ok(run.output)
    }
}

/// What comes after a node.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Run {
    output: String,
    variables: Vec<(String, Value)>,
}

impl Run {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        for node in nodes {
            match node {
                Node::Text(text) => self.print(text)?,
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.print(&value.to_string())?;
                    } else {
                        self.bind(pipeline, value)?;
                    }
                }
                Node::Branch { kind, pipeline, body, otherwise } => {
                    let scope = self.variables.len();
                    let flow = self.branch(*kind, pipeline, body, otherwise, dot)?;
                    self.variables.truncate(scope);
                    if flow != Flow::On {
                        return Ok(flow);
                    }
                }
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
            }
        }
        Ok(Flow::On)
    }

    fn print(&mut self, text: &str) -> Result<(), TemplateError> {
        if self.output.len() + text.len() > MAX_OUTPUT {
            return Err(TemplateError::new("the output is too large"));
        }
        self.output.push_str(text);
        Ok(())
    }

    fn bind(&mut self, pipeline: &Pipeline, value: Value) -> Result<(), TemplateError> {
        let Some(name) = pipeline.variables.first() else { return Ok(()) };
        if !pipeline.assigns {
            self.variables.push((name.clone(), value));
            return Ok(());
        }
        let slot = self.variables.iter_mut().rev().find(|(known, _)| known == name);
        let (_, slot) = slot.ok_or_else(|| TemplateError::new(format!("undefined variable {name:?}")))?;
        *slot = value;
        Ok(())
    }

    fn branch(
        &mut self,
        kind: BranchKind,
        pipeline: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, TemplateError> {
        let value = self.pipeline(pipeline, dot)?;
        if kind == BranchKind::Range {
            return self.range(pipeline, value, body, otherwise, dot);
        }
        self.bind(pipeline, value.clone())?;
        match (value.is_true(), kind) {
            (true, BranchKind::With) => self.nodes(body, &value),
            (true, _) => self.nodes(body, dot),
            (false, _) => self.nodes(otherwise, dot),
        }
    }

    fn range(
        &mut self,
        pipeline: &Pipeline,
        value: Value,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, TemplateError> {
        let items: Vec<(Value, Value)> = match value {
            Value::List(values) => (0..).map(Value::Int).zip(values).collect(),
            Value::Object { mut fields, .. } => {
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                fields.into_iter().map(|(key, value)| (Value::Text(key), value)).collect()
            }
            Value::Nil(_) => Vec::new(),
            other => return Err(TemplateError::new(format!("range can't iterate over {other}"))),
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        let scope = self.variables.len();
        for (key, item) in items {
            match pipeline.variables.as_slice() {
                [one] => self.variables.push((one.clone(), item.clone())),
                [one, two] => {
                    self.variables.push((one.clone(), key));
                    self.variables.push((two.clone(), item.clone()));
                }
                _ => {}
            }
            let flow = self.nodes(body, &item)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, dot, last)?);
        }
        last.ok_or_else(|| TemplateError::new("missing value for command"))
    }

    fn command(
        &self,
        command: &[Operand],
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, TemplateError> {
        let Some((first, rest)) = command.split_first() else {
            return Err(TemplateError::new("missing value for command"));
        };
        if let Operand::Function(name) = first
            && (name == "and" || name == "or")
        {
            return self.short_circuit(name, rest, dot, piped);
        }
        let mut arguments =
            rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
        arguments.extend(piped);
        if let Operand::Function(name) = first {
            return call(name, &arguments);
        }
        let value = self.operand(first, dot)?;
        match (value, arguments.as_slice()) {
            (Value::Lookup(pairs), [Value::Text(key)]) => {
                let found = pairs.into_iter().find(|(name, _)| name == key);
                Ok(Value::Text(found.map(|(_, value)| value).unwrap_or_default()))
            }
            (Value::LookupHeading, [Value::Text(key)]) => {
                let last = key.rsplit('.').next().unwrap_or_default();
                Ok(Value::Text(last.replace(['-', '_'], " ")))
            }
            (Value::Lookup(_) | Value::LookupHeading, _) => {
                Err(TemplateError::new("wrong number of args: want 1 text"))
            }
            (value, []) => Ok(value),
            (_, [..]) => Err(TemplateError::new("can't give argument to non-function")),
        }
    }

    /// `and` and `or` look at an operand only when the ones before it did not decide.
    fn short_circuit(
        &self,
        name: &str,
        rest: &[Operand],
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, TemplateError> {
        let mut last = None;
        for operand in rest {
            let value = self.operand(operand, dot)?;
            if value.is_true() == (name == "or") {
                return Ok(value);
            }
            last = Some(value);
        }
        piped
            .or(last)
            .ok_or_else(|| TemplateError::new(format!("wrong number of args for {name}: want at least 1")))
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        match operand {
            Operand::Dot(fields) => walk(dot, fields),
            Operand::Variable(name, fields) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) =
                    found.ok_or_else(|| TemplateError::new(format!("undefined variable {name:?}")))?;
                walk(value, fields)
            }
            Operand::Function(name) => call(name, &[]),
            Operand::Text(text) => Ok(Value::text(text)),
            Operand::Int(value) => Ok(Value::Int(*value)),
            Operand::Float(value) => Ok(Value::Float(*value)),
            Operand::Bool(value) => Ok(Value::Bool(*value)),
            Operand::Nil => Ok(Value::Nil("<nil>")),
            Operand::Group(pipeline, fields) => walk(&self.pipeline(pipeline, dot)?, fields),
        }
    }
}

fn walk(start: &Value, fields: &[String]) -> Result<Value, TemplateError> {
    let mut value = start;
    for field in fields {
        match value.field(field) {
            Some(next) => value = next,
            None if matches!(value, Value::Object { kind: Kind::Map, .. } | Value::Nil("map[]")) => {
                return Ok(Value::Nil("<no value>"));
            }
            None => return Err(missing(value, field)),
        }
    }
    Ok(value.clone())
}

fn missing(value: &Value, field: &str) -> TemplateError {
    match value {
        Value::Object { .. } => TemplateError::new(format!("map has no entry for key {field:?}")),
        Value::Nil(_) => TemplateError::new(format!("nil value; can't evaluate field {field}")),
        _ => TemplateError::new(format!("can't evaluate field {field} in a plain value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> Result<String, TemplateError> {
        let data = r#"{"Id":"sha256:abc","Config":{"Env":["A=1","B=2"],"Labels":{"b":"2","a.x":"1"},"Cmd":null},
            "State":{"Running":true,"ExitCode":0,"Pid":42},"Empty":[],
            "NetworkSettings":{"Networks":{"bridge":{"IPAddress":"172.17.0.2"}}},"Size":1.5}"#;
        Template::parse(template)?.render(&serde_json::from_str(data).unwrap())
    }

    #[test]
    fn what_people_write_gives_what_docker_prints() {
        let table = [
            ("{{.Id}}", "sha256:abc"),
            ("{{.ID}}", "sha256:abc"),
            ("{{ .State.Running }} {{.State.Pid}}", "true 42"),
            ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
            ("{{.Config.Env}}", "[A=1 B=2]"),
            ("{{.Config.Labels}}", "map[a.x:1 b:2]"),
            (r#"{{index .Config.Labels "a.x"}}"#, "1"),
            (r#"[{{index .Config.Labels "nope"}}]"#, "[]"),
            ("{{.Config.Labels.nope}}", "<no value>"),
            ("{{index .Config.Env 1}}", "B=2"),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
            ("{{range $i, $e := .Config.Env}}{{$i}}={{$e}};{{end}}", "0=A=1;1=B=2;"),
            ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "172.17.0.2"),
            (
                "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}:{{$v.IPAddress}}{{end}}",
                "bridge:172.17.0.2",
            ),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if eq .State.ExitCode 1}}one{{else if eq .State.ExitCode 0}}zero{{end}}", "zero"),
            ("{{with .State}}{{.Pid}}{{end}}{{with .Empty}}x{{end}}", "42"),
            (r#"{{join .Config.Env ", "}}"#, "A=1, B=2"),
            (r#"{{ .Id | printf "%s-%d" "x" 3 }}"#, "x-3%!(EXTRA string=sha256:abc)"),
            (r#"{{printf "%.6s|%5d|%-4s|%q" .Id .State.Pid "a" "q"}}"#, "sha256|   42|a   |\"q\""),
            (r#"{{(index .NetworkSettings.Networks "bridge").IPAddress}}"#, "172.17.0.2"),
            ("{{len .Config.Env}} {{len .Id}}", "2 10"),
            ("{{$x := .State}}{{$x.Pid}}{{$x = .Id}}{{$x}}", "42sha256:abc"),
            ("a {{- /* no */ -}} b {{- 1 -}} c", "ab1c"),
            (
                "{{upper .Id}} {{title \"ab cd\"}} {{truncate .Id 3}} {{pad \"x\" 1 2}}|",
                "SHA256:ABC Ab Cd sha  x  |",
            ),
            ("{{range .Config.Env}}{{if eq . \"B=2\"}}{{break}}{{end}}{{.}}{{end}}", "A=1"),
            ("{{and .State.Running .Id}} {{or .Empty \"e\"}} {{not .Empty}}", "sha256:abc e true"),
            ("{{range split .Id \":\"}}<{{.}}>{{end}}", "<sha256><abc>"),
            ("{{.Config.Cmd}} {{.Size}} {{`raw`}} {{'a'}}", "[] 1.5 raw 97"),
            ("{{slice .Id 0 3}} {{gt 2 1}} {{ne .Id \"x\"}} {{lt 1 2 }}", "sha true true true"),
        ];
        for (template, expected) in table {
            assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let table = [
            "{{",
            "{{.Id",
            "{{end}}",
            "{{if .Id}}",
            "{{nope .Id}}",
            "{{.Nope}}",
            "{{.Id.X}}",
            "{{(.Id}}",
            "{{.Id)}}",
            "{{\"x}}",
            "{{index .Config.Env 9}}",
            "{{template \"x\"}}",
            "{{else}}",
            "{{|}}",
            "{{.Id |}}",
            "{{$nope}}",
            "{{range .Id}}{{end}}",
            "{{len 3}}",
            "{{eq .Id 3}}",
            "{{%}}",
            "{{/* x",
            "{{if}}{{end}}",
            "{{'ab'}}",
        ];
        for template in table {
            assert!(render(template).is_err(), "{template}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_template_panics(text in "[{}.a-zé\"`'()|$:=, 0-9%-]{0,40}", inner in ".{0,30}") {
            let _ = render(&text);
            let _ = render(&format!("{{{{{inner}}}}}"));
            let _ = render(&format!("{{{{printf {inner:?} .Id}}}}"));
        }
    }
}
