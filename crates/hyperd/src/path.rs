//! The path of a request, as dockerd's router takes it.

use std::cmp::Ordering;
use std::fmt::Write as _;

use crate::http::{ApiError, Result, decode};

/// The API's version, as docker counts them.
pub(crate) const API_VERSION: &str = "1.47";

/// The oldest version that clients may ask for.
pub(crate) const MIN_API_VERSION: &str = "1.24";

/// Whether this is a path at all: Go's server refuses others before anybody looks at them.
pub(crate) fn is_path(path: &str) -> bool {
    path.starts_with('/') && bad_escape(path).is_none()
}

/// Refuses a query that is not encoded as it must be.
pub(crate) fn check_query(query: &str) -> Result<()> {
    if let Some(bad) = bad_escape(query) {
        return Err(ApiError::invalid(format!("invalid URL escape {bad:?}")));
    }
    if query.contains(';') {
        return Err(ApiError::invalid("invalid semicolon separator in query"));
    }
    Ok(())
}

/// The first `%` without two digits after it, with what is there instead.
fn bad_escape(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|byte| *byte == b'%') {
        at += next;
        let escape = &bytes[at..bytes.len().min(at + 3)];
        if escape.len() < 3 || !escape[1..].iter().all(u8::is_ascii_hexdigit) {
            return Some(String::from_utf8_lossy(escape).into_owned());
        }
        at += 3;
    }
    None
}

/// Where a client is sent that wrote a path with `//`, `.` or `..` in it.
pub(crate) fn cleaned(path: &str) -> Option<String> {
    let path = decode(path);
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    (clean != path).then(|| encode(&clean))
}

/// A path as Go's `URL.String` writes it.
fn encode(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Takes `/v1.NN` off a path: the minor number, and the rest without its first slash.
pub(crate) fn split_version(path: &str) -> Result<(u32, &str)> {
    let newest = (minor(API_VERSION), path);
    let Some(rest) = path.strip_prefix("/v") else { return Ok(newest) };
    let (version, tail) = rest.split_once('/').unwrap_or((rest, ""));
    if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Ok(newest);
    }
    if compare(version, MIN_API_VERSION) == Ordering::Less {
        return Err(ApiError::invalid(format!(
            "client version {version} is too old. Minimum supported API version is {MIN_API_VERSION}, please upgrade \
             your client to a newer version"
        )));
    }
    if compare(version, API_VERSION) == Ordering::Greater {
        return Err(ApiError::invalid(format!(
            "client version {version} is too new. Maximum supported API version is {API_VERSION}"
        )));
    }
    Ok((minor(version), tail))
}

/// The numbers of a version.
fn numbers(version: &str) -> impl Iterator<Item = u64> {
    version.split('.').map(|number| number.parse().unwrap_or(0))
}

fn compare(a: &str, b: &str) -> Ordering {
    let length = a.split('.').count().max(b.split('.').count());
    let padded = |version| numbers(version).chain(std::iter::repeat(0)).take(length);
    padded(a).cmp(padded(b))
}

/// The second number of a version.
fn minor(version: &str) -> u32 {
    numbers(version).nth(1).and_then(|minor| minor.try_into().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_taken_off_the_path_and_bounded() {
        assert_eq!(split_version("/v1.41/info").unwrap(), (41, "info"));
        assert_eq!(split_version("/v01.045/info").unwrap(), (45, "info"));
        assert_eq!(split_version("/info").unwrap(), (47, "/info"));
        assert_eq!(split_version("/volumes").unwrap(), (47, "/volumes"));
        assert_eq!(split_version("/version").unwrap(), (47, "/version"));
        assert_eq!(split_version("/v1.x/info").unwrap(), (47, "/v1.x/info"));
        for refused in
            ["/v1/info", "/v1.23/info", "/v1.99/info", "/v2.0/info", "/v1.47.1/info", "/v1.99999999999999/x"]
        {
            assert!(split_version(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn unclean_paths_lead_to_the_clean_one() {
        for (path, clean) in [
            ("//info", "/info"),
            ("/v1.45//containers//json", "/v1.45/containers/json"),
            ("/./info", "/info"),
            ("/x/../info/", "/info/"),
            ("//", "/"),
            ("/containers/%2e%2e/json", "/json"),
            ("/images/a%20b//json", "/images/a%20b/json"),
            ("/../..", "/"),
        ] {
            assert_eq!(cleaned(path).as_deref(), Some(clean), "{path}");
        }
        for clean in ["/", "/info", "/volumes/", "/images/a/b:c/json", "/containers/a%2Fb/json"] {
            assert_eq!(cleaned(clean), None, "{clean}");
        }
    }

    #[test]
    fn what_is_not_encoded_is_refused() {
        assert!(is_path("/a%20b") && !is_path("/%zz") && !is_path("/x%2") && !is_path("info"));
        check_query("a=%20&b=+").unwrap();
        assert_eq!(check_query("limit=%zz").unwrap_err().message, "invalid URL escape \"%zz\"");
        assert_eq!(check_query("a=%").unwrap_err().message, "invalid URL escape \"%\"");
        assert!(check_query("a=1;b=2").is_err());
    }
}
