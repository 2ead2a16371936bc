//! Which machine an image is for.

use std::fmt;
use std::str::FromStr;

/// Operating system, architecture and variant, in Go's names: `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux` is the only one that can run here.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7`, `v8`, …; none means the architecture's default.
    pub variant: Option<String>,
}

/// A text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is an invalid platform: write os/architecture or os/architecture/variant")]
pub struct ParsePlatformError(pub String);

impl Platform {
    /// The platform of this host, always with `linux` as the system.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well an image made for `self` serves a wish for `wanted`: none when it cannot, more is
    /// better. An absent variant counts as the architecture's default (`v8` for arm64, `v7` for arm).
    pub fn fitness(&self, wanted: &Platform) -> Option<u32> {
        if self.os != wanted.os || self.architecture != wanted.architecture {
            return None;
        }
        let level = |platform: &Platform| -> Option<u32> {
            let default = match platform.architecture.as_str() {
                "arm64" => "v8",
                "arm" => "v7",
                _ => "v1",
            };
            platform.variant.as_deref().unwrap_or(default).strip_prefix('v')?.parse().ok()
        };
        match (level(self), level(wanted)) {
            (Some(has), Some(wants)) if has <= wants => Some(has),
            (Some(_), Some(_)) => None,
            _ => (self.variant == wanted.variant).then_some(0),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// What may stand without an operating system.
const ARCHITECTURES: [&str; 16] = [
    "386", "aarch64", "amd64", "arm", "arm64", "armel", "armhf", "i386", "loong64", "mips64", "mips64le",
    "ppc64le", "riscv64", "s390x", "x86-64", "x86_64",
];

impl FromStr for Platform {
    type Err = ParsePlatformError;

    /// Reads `os/architecture[/variant]`; `x86_64` and `aarch64` are understood as well, and a
    /// lone architecture means `linux`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParsePlatformError(text.chars().take(80).collect());
        let fits = |part: &str| {
            !part.is_empty()
                && part.len() <= 32
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| fits(part)) {
            return Err(fail());
        }
        let (os, architecture, variant) = match parts.as_slice() {
            ["linux" | "windows" | "darwin" | "freebsd"] => {
                return Ok(Self { os: parts[0].to_lowercase(), ..Self::host() });
            }
            [word] if ARCHITECTURES.contains(&word.to_lowercase().as_str()) => ("linux", *word, None),
            [os, architecture] => (*os, *architecture, None),
            [os, architecture, variant] => (*os, *architecture, Some(*variant)),
            _ => return Err(fail()),
        };
        let architecture = match architecture.to_lowercase().as_str() {
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            "i386" => "386".to_owned(),
            other => other.to_owned(),
        };
        Ok(Self { os: os.to_lowercase(), architecture, variant: variant.map(str::to_lowercase) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().expect(text)
    }

    #[test]
    fn texts_parse_and_bad_ones_do_not() {
        assert_eq!(platform("linux/arm64/v8").to_string(), "linux/arm64/v8");
        assert_eq!(platform("x86_64").to_string(), "linux/amd64");
        for bad in ["", "/", "linux/", "a/b/c/d", "linux/a b"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_older_variant_serves_a_newer_machine_and_not_the_reverse() {
        let v7 = platform("linux/arm/v7");
        assert!(platform("linux/arm/v6").fitness(&v7) < v7.fitness(&v7));
        assert_eq!(v7.fitness(&platform("linux/arm/v6")), None);
        assert!(platform("linux/arm64").fitness(&platform("linux/arm64/v8")).is_some());
        assert_eq!(platform("linux/amd64/v3").fitness(&platform("linux/amd64")), None);
        assert_eq!(platform("windows/amd64").fitness(&platform("linux/amd64")), None);
    }
}
