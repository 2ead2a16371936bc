//! The flags of health checks.

use bollard::models::HealthConfig;
use clap::Args;

use super::FlagError;

/// How a container's health is asked for.
#[derive(Debug, Clone, Default, Args)]
pub struct HealthFlags {
    /// Command to run to check health
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// Time between running the check (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "DURATION")]
    pub health_interval: Option<String>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub health_retries: Option<i64>,
    /// Time between running the check during the start period (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "DURATION")]
    pub health_start_interval: Option<String>,
    /// Start period for the container to initialize before starting health-retries countdown (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "DURATION")]
    pub health_start_period: Option<String>,
    /// Maximum time to allow one check to run (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "DURATION")]
    pub health_timeout: Option<String>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    pub no_healthcheck: bool,
}

impl HealthFlags {
    /// The API's description; `None` where nothing is asked for.
    ///
    /// # Errors
    /// A value that is no duration, a negative number, flags that contradict each other.
    pub fn config(&self) -> Result<Option<HealthConfig>, FlagError> {
        let time = |flag: &str, text: &Option<String>| {
            let nanoseconds = text.as_deref().map(|text| parse_duration(flag, text)).transpose()?;
            Ok::<_, FlagError>(nanoseconds.filter(|nanoseconds| *nanoseconds != 0))
        };
        let config = HealthConfig {
            test: (self.health_cmd.as_ref())
                .filter(|command| !command.is_empty())
                .map(|command| vec!["CMD-SHELL".to_owned(), command.clone()]),
            interval: time("health-interval", &self.health_interval)?,
            timeout: time("health-timeout", &self.health_timeout)?,
            start_period: time("health-start-period", &self.health_start_period)?,
            start_interval: time("health-start-interval", &self.health_start_interval)?,
            retries: self.health_retries.filter(|retries| *retries != 0),
        };
        let asked = config != HealthConfig::default();
        if self.no_healthcheck {
            if asked {
                let reason = "--no-healthcheck conflicts with --health-* options";
                return Err(FlagError::new("no-healthcheck", "true", reason));
            }
            return Ok(Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }));
        }
        if self.health_retries.is_some_and(|retries| retries < 0) {
            let text = self.health_retries.unwrap_or_default().to_string();
            return Err(FlagError::new("health-retries", &text, "--health-retries cannot be negative"));
        }
        Ok(asked.then_some(config))
    }
}

/// Nanoseconds of a duration as Go writes it (`1m30s`), which must not be negative.
fn parse_duration(flag: &str, text: &str) -> Result<i64, FlagError> {
    let failed = |reason: &str| FlagError::new(flag, text, reason);
    if text == "0" {
        return Ok(0);
    }
    if text.starts_with('-') {
        return Err(failed(&format!("--{flag} cannot be negative")));
    }
    let invalid = || failed("use a number and ns, us, ms, s, m or h");
    let mut rest = text;
    let mut nanoseconds = 0_f64;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        nanoseconds += number
            * match &rest[..end] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return Err(invalid()),
            };
        rest = &rest[end..];
    }
    if nanoseconds >= i64::MAX as f64 { Err(invalid()) } else { Ok(nanoseconds as i64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_a_check() {
        let flags = HealthFlags {
            health_cmd: Some("test -e /ok".into()),
            health_interval: Some("1m30s".into()),
            health_timeout: Some("500ms".into()),
            health_retries: Some(2),
            ..HealthFlags::default()
        };
        let config = flags.config().unwrap().unwrap();
        assert_eq!(config.test.unwrap(), ["CMD-SHELL", "test -e /ok"]);
        assert_eq!(config.interval, Some(90_000_000_000));
        assert_eq!((config.timeout, config.retries), (Some(500_000_000), Some(2)));
        assert_eq!(HealthFlags::default().config(), Ok(None));
    }

    #[test]
    fn contradictions_and_nonsense_are_refused() {
        let conflict =
            HealthFlags { no_healthcheck: true, health_cmd: Some("x".into()), ..Default::default() };
        assert!(conflict.config().unwrap_err().to_string().contains("conflicts with --health-*"));
        let negative = HealthFlags { health_retries: Some(-1), ..Default::default() };
        assert!(negative.config().unwrap_err().to_string().contains("cannot be negative"));
        for text in ["", "1", "x", "1x", "-1s"] {
            assert!(parse_duration("health-interval", text).is_err(), "{text}");
        }
    }
}
