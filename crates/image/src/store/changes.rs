//! Dockerfile lines that change an imported image's configuration.

use crate::config::{ContainerConfig, Empty, Healthcheck};

/// Longest line.
const MAX_LINE: usize = 64 << 10;
/// The shell of the shell forms.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Applies one line. The error says what is wrong with it.
pub fn apply(config: &mut ContainerConfig, line: &str) -> Result<(), String> {
    if line.len() > MAX_LINE {
        return Err("it is too long".to_owned());
    }
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    if rest.is_empty() {
        return Err(format!("{} requires at least one argument", word.to_uppercase()));
    }
    match word.to_uppercase().as_str() {
        "CMD" => config.cmd = command(rest),
        "ENTRYPOINT" => {
            config.entrypoint = command(rest);
            // An image's command belongs to its entrypoint.
            config.cmd.clear();
        }
        "ENV" => {
            for (name, value) in pairs(rest)? {
                let prefix = format!("{name}=");
                config.env.retain(|known| !known.starts_with(&prefix));
                config.env.push(format!("{prefix}{value}"));
            }
        }
        "LABEL" => config.labels.extend(pairs(rest)?),
        "EXPOSE" => {
            for port in words(rest)? {
                expose(config, &port)?;
            }
        }
        "USER" => config.user = one(rest)?,
        "VOLUME" => {
            let volumes = json_words(rest).map_or_else(|| words(rest), Ok)?;
            for volume in volumes {
                if volume.is_empty() {
                    return Err("a volume needs a path".to_owned());
                }
                config.volumes.insert(volume, Empty {});
            }
        }
        "WORKDIR" => {
            let directory = unquoted(rest)?;
            config.working_dir = match directory.starts_with('/') {
                true => directory,
                false => format!("{}/{directory}", config.working_dir.trim_end_matches('/')),
            };
        }
        "STOPSIGNAL" => config.stop_signal = Some(signal(&one(rest)?)?),
        "ONBUILD" => {
            let inner = rest.split_whitespace().next().unwrap_or_default().to_uppercase();
            if matches!(inner.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
                return Err(format!("{inner} isn't allowed as an ONBUILD trigger"));
            }
            config.on_build.push(rest.to_owned());
        }
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        other => return Err(format!("{other} is not a valid change command")),
    }
    Ok(())
}

/// The JSON form, or the shell form.
fn command(text: &str) -> Vec<String> {
    json_words(text)
        .unwrap_or_else(|| SHELL.into_iter().map(str::to_owned).chain([text.to_owned()]).collect())
}

/// A JSON list of strings.
fn json_words(text: &str) -> Option<Vec<String>> {
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Exactly one word.
fn one(text: &str) -> Result<String, String> {
    match <[String; 1]>::try_from(words(text)?) {
        Ok([word]) => Ok(word),
        Err(_) => Err("it takes exactly one argument".to_owned()),
    }
}

/// The text with quotes and escapes taken away, spaces kept.
fn unquoted(text: &str) -> Result<String, String> {
    Ok(words(text)?.join(" "))
}

/// Words, with quotes and backslashes as in a shell.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some(end) if end == character => break,
                        Some('\\') if character == '"' => word.extend(characters.next()),
                        Some(inner) => word.push(inner),
                        None => return Err("a quote is not closed".to_owned()),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(characters.next()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    Ok(words)
}

/// `name=value …`, or the old `name value`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace).ok_or("a name needs a value")?;
        return Ok(vec![(name.to_owned(), unquoted(value.trim())?)]);
    }
    let mut pairs = Vec::new();
    for word in words(text)? {
        match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => pairs.push((name.to_owned(), value.to_owned())),
            _ => return Err(format!("{word:?} is not name=value")),
        }
    }
    Ok(pairs)
}

/// `port[-port][/protocol]`.
fn expose(config: &mut ContainerConfig, text: &str) -> Result<(), String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_lowercase();
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let bad = || format!("invalid containerPort: {text}");
    let (first, last) = (port(first).ok_or_else(bad)?, port(last).ok_or_else(bad)?);
    if first > last || !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(bad());
    }
    for port in first..=last {
        config.exposed_ports.insert(format!("{port}/{protocol}"), Empty {});
    }
    Ok(())
}

/// A signal's number, or its name with or without `SIG`.
fn signal(text: &str) -> Result<String, String> {
    /// Linux's names.
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time =
        name == "RTMIN" || name == "RTMAX" || name.starts_with("RTMIN+") || name.starts_with("RTMAX-");
    match text.parse::<u32>() {
        Ok(1..=64) => Ok(text.to_owned()),
        Err(_) if NAMES.contains(&name) || real_time => Ok(text.to_owned()),
        _ => Err(format!("invalid signal: {text}")),
    }
}

/// `[--option=value …] CMD …`, or `NONE`.
fn healthcheck(text: &str) -> Result<Healthcheck, String> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).ok_or("it has no command")?;
        let (name, value) = option.split_once('=').ok_or("an option needs a value")?;
        let duration = || duration(value).ok_or_else(|| format!("invalid duration {value:?}"));
        match name {
            "interval" => check.interval = duration()?,
            "timeout" => check.timeout = duration()?,
            "start-period" => check.start_period = duration()?,
            "start-interval" => check.start_interval = duration()?,
            "retries" => {
                let retries = value.parse().ok().filter(|retries| *retries >= 0);
                check.retries = retries.ok_or_else(|| format!("invalid number of retries {value:?}"))?;
            }
            _ => return Err(format!("unknown option --{name}")),
        }
        rest = after.trim_start();
    }
    let (word, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    check.test = match (word.to_uppercase().as_str(), arguments.trim()) {
        ("NONE", "") => vec!["NONE".to_owned()],
        ("CMD", "") => return Err("it has no command".to_owned()),
        ("CMD", arguments) => match json_words(arguments) {
            Some(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
            None => vec!["CMD-SHELL".to_owned(), arguments.to_owned()],
        },
        (other, _) => return Err(format!("unknown type {other:?}")),
    };
    Ok(check)
}

/// Go's durations (`1m30s`, `500ms`), in nanoseconds.
fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0_f64;
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units =
            [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];
        let (unit, scale) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        total += value * scale;
        rest = &rest[unit.len()..];
    }
    (total < 9.2e18).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The configuration after some lines.
    fn after(lines: &[&str]) -> ContainerConfig {
        let mut config = ContainerConfig::default();
        for line in lines {
            apply(&mut config, line).expect(line);
        }
        config
    }

    #[test]
    fn lines_change_what_they_name() {
        let config = after(&[
            r#"CMD ["sh", "-c", "echo a b"]"#,
            "env A=1 B='x y' C=\"q\\\"\"",
            "ENV OLD some value",
            "ENV A=2",
            "EXPOSE 80 53/udp 90-91",
            "LABEL a.b=c d=\"e f\"",
            "USER www-data:www-data",
            "VOLUME /a /b",
            "WORKDIR /srv",
            "WORKDIR app",
            "STOPSIGNAL SIGQUIT",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f localhost",
        ]);
        assert_eq!(config.cmd, ["sh", "-c", "echo a b"]);
        assert_eq!(config.env, ["B=x y", "C=q\"", "OLD=some value", "A=2"]);
        assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp", "90/tcp", "91/tcp"]);
        assert_eq!(config.labels["d"], "e f");
        assert_eq!(config.working_dir, "/srv/app");
        let check = config.healthcheck.expect("there");
        assert_eq!((check.interval, check.retries), (90_000_000_000, 3));
        assert_eq!(check.test, ["CMD-SHELL", "curl -f localhost"]);
    }

    #[test]
    fn the_shell_form_runs_a_shell() {
        assert_eq!(after(&["CMD echo hi"]).cmd, ["/bin/sh", "-c", "echo hi"]);
    }

    #[test]
    fn unknown_and_broken_lines_are_refused() {
        for bad in [
            "",
            "CMD",
            "RUN x",
            "COPY a b",
            "ENV A",
            "EXPOSE x",
            "EXPOSE 0",
            "EXPOSE 80/xx",
            "USER a b",
            "STOPSIGNAL X",
            "HEALTHCHECK X",
            "ENV A='x",
            "LABEL =x",
        ] {
            assert!(apply(&mut ContainerConfig::default(), bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(word in "CMD|ENV|EXPOSE|LABEL|HEALTHCHECK|VOLUME|USER|WORKDIR|STOPSIGNAL|ONBUILD", rest in "\\PC{0,40}") {
            let _ = apply(&mut ContainerConfig::default(), &format!("{word} {rest}"));
        }
    }
}
