//! Restart policies as users write them.

use bollard::models::{RestartPolicy, RestartPolicyNameEnum};

use super::FlagError;

/// From `no`, `always`, `unless-stopped`, `on-failure` or `on-failure:N`.
///
/// # Errors
/// Another word, or no number behind the colon.
pub fn parse_restart(text: &str) -> Result<RestartPolicy, FlagError> {
    let failed = |reason: &str| FlagError::new("restart", text, reason);
    let (name, count) = match text.split_once(':') {
        Some(("", _)) => {
            return Err(failed("invalid restart policy format: no policy provided before colon"));
        }
        Some((name, count)) => (name, count),
        None => (text, ""),
    };
    let maximum_retry_count =
        match count {
            "" => None,
            count => Some(count.parse().map_err(|_| {
                failed("invalid restart policy format: maximum retry count must be an integer")
            })?),
        };
    let name = match name {
        "" | "no" => RestartPolicyNameEnum::NO,
        "always" => RestartPolicyNameEnum::ALWAYS,
        "unless-stopped" => RestartPolicyNameEnum::UNLESS_STOPPED,
        "on-failure" => RestartPolicyNameEnum::ON_FAILURE,
        other => {
            return Err(failed(&format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or \
                 'unless-stopped'"
            )));
        }
    };
    Ok(RestartPolicy { name: Some(name), maximum_retry_count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_docker_reads_them() {
        let read = |text: &str| parse_restart(text).map(|policy| (policy.name, policy.maximum_retry_count));
        assert_eq!(read("no"), Ok((Some(RestartPolicyNameEnum::NO), None)));
        assert_eq!(read("on-failure:3"), Ok((Some(RestartPolicyNameEnum::ON_FAILURE), Some(3))));
        assert_eq!(read("unless-stopped"), Ok((Some(RestartPolicyNameEnum::UNLESS_STOPPED), None)));
        for (text, word) in [
            (":3", "no policy provided before colon"),
            ("on-failure:x", "must be an integer"),
            ("sometimes", "unknown policy 'sometimes'"),
        ] {
            assert!(read(text).unwrap_err().to_string().contains(word));
        }
    }
}
