//! Image references as docker completes and shortens them.

/// Registry of names without one.
const DOCKER_HUB: &str = "docker.io";
/// Path of Docker Hub's own images.
const OFFICIAL: &str = "library/";
/// Tag of names without one.
const LATEST: &str = "latest";

/// A reference taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Registry, `docker.io` by default.
    pub domain: String,
    /// Repository in the registry, `library/` included.
    pub path: String,
    /// Tag, when given.
    pub tag: Option<String>,
    /// Digest, when given.
    pub digest: Option<String>,
}

/// A text that is no reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// The grammar does not fit.
    #[error("invalid reference format: {0:?}")]
    Format(String),
    /// Repositories are lower case.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    UpperCase(String),
}

impl Reference {
    /// Parses and completes `text` (`github.com/distribution/reference`, "ParseNormalizedNamed").
    ///
    /// # Errors
    /// [`ReferenceError`]
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let wrong = || ReferenceError::Format(text.to_owned());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash is a port's.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let (domain, path) = match name.split_once('/') {
            Some((domain, path)) if is_domain(domain) => (domain, path.to_owned()),
            _ => (DOCKER_HUB, name.to_owned()),
        };
        let domain = if domain == "index.docker.io" { DOCKER_HUB } else { domain };
        let path =
            if domain == DOCKER_HUB && !path.contains('/') { format!("{OFFICIAL}{path}") } else { path };
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(ReferenceError::UpperCase(path.trim_start_matches(OFFICIAL).to_owned()));
        }
        let fits =
            path.split('/').all(is_component) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest);
        if !fits || path.len() > 255 {
            return Err(wrong());
        }
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Ok(Self { domain: domain.to_owned(), path, tag: owned(tag), digest: owned(digest) })
    }

    /// Domain and path.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag that a pull asks for; `None` when a digest alone names the image.
    pub fn tag_or_latest(&self) -> Option<&str> {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => Some(tag),
            (None, Some(_)) => None,
            (None, None) => Some(LATEST),
        }
    }

    /// The name as people write it: without `docker.io/library/`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DOCKER_HUB {
            return self.name();
        }
        self.path.strip_prefix(OFFICIAL).filter(|rest| !rest.contains('/')).unwrap_or(&self.path).to_owned()
    }

    /// Name, tag (`latest` by default) and digest in full.
    pub fn full(&self) -> String {
        self.with(self.name())
    }

    /// Name, tag (`latest` by default) and digest as people write them.
    pub fn familiar(&self) -> String {
        self.with(self.familiar_name())
    }

    fn with(&self, mut text: String) -> String {
        if let Some(tag) = self.tag_or_latest() {
            text = text + ":" + tag;
        }
        if let Some(digest) = &self.digest {
            text = text + "@" + digest;
        }
        text
    }
}

fn is_domain(text: &str) -> bool {
    text.contains(['.', ':']) || text == "localhost" || text.chars().any(|c| c.is_ascii_uppercase())
}

fn is_component(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    edge(text.chars().next()) && edge(text.chars().last()) && text.chars().all(inner)
}

fn is_tag(text: &str) -> bool {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    first && text.len() <= 128 && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

fn is_digest(text: &str) -> bool {
    match text.split_once(':') {
        Some(("sha256", hex)) => hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()),
        Some(("sha512", hex)) => hex.len() == 128 && hex.bytes().all(|b| b.is_ascii_hexdigit()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_and_shortened() {
        let digest = format!("sha256:{}", "1".repeat(64));
        let table = [
            ("bb".to_owned(), "docker.io/library/bb:latest".to_owned(), "bb:latest".to_owned()),
            ("a/b:1".into(), "docker.io/a/b:1".into(), "a/b:1".into()),
            (
                "localhost:5000/debian:12".into(),
                "localhost:5000/debian:12".into(),
                "localhost:5000/debian:12".into(),
            ),
            ("h.io/x".into(), "h.io/x:latest".into(), "h.io/x:latest".into()),
            (format!("bb@{digest}"), format!("docker.io/library/bb@{digest}"), format!("bb@{digest}")),
            ("docker.io/library/bb".into(), "docker.io/library/bb:latest".into(), "bb:latest".into()),
        ];
        for (text, full, familiar) in table {
            let reference = Reference::parse(&text).unwrap();
            assert_eq!((reference.full(), reference.familiar()), (full, familiar));
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in ["", ":x", "a//b", "-a", "a:", "a:b c", "a@sha256:1", "a/../b", "/a", "a/"] {
            assert!(matches!(Reference::parse(text), Err(ReferenceError::Format(_))), "{text:?}");
        }
        assert!(matches!(Reference::parse("UP"), Err(ReferenceError::UpperCase(_))));
    }
}
