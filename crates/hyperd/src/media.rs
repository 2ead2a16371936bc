//! The media type of a request's body, as dockerd checks it.

use hyper::header::{CONTENT_TYPE, HeaderMap};

use crate::http::{ApiError, Result};

/// Refuses a body that is not said to be JSON. A body that is not there needs no type.
pub(crate) fn expect_json(headers: &HeaderMap, no_body: bool) -> Result<()> {
    let text = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let text = text.unwrap_or_default();
    if text.is_empty() && no_body {
        return Ok(());
    }
    match media_type(&text) {
        Ok(kind) if kind == "application/json" => Ok(()),
        Ok(_) => Err(ApiError::invalid(format!(
            "unsupported Content-Type header ({text}): must be 'application/json'"
        ))),
        Err(reason) => {
            Err(ApiError::invalid(format!("malformed Content-Type header ({text}): mime: {reason}")))
        }
    }
}

/// The type without its parameters, in small letters, or what Go's `mime.ParseMediaType` says against it.
fn media_type(text: &str) -> std::result::Result<String, &'static str> {
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let (first, rest) = token(&kind);
    if first.is_empty() {
        return Err("no media type");
    }
    if !rest.is_empty() {
        let rest = rest.strip_prefix('/').ok_or("expected slash after first token")?;
        match token(rest) {
            ("", _) => return Err("expected token after slash"),
            (_, "") => {}
            _ => return Err("unexpected content after media subtype"),
        }
    }
    Ok(kind)
}

/// The token that a text begins with (RFC 2045), and the rest.
fn token(text: &str) -> (&str, &str) {
    let special = |byte: u8| !byte.is_ascii_graphic() || b"()<>@,;:\\\"/[]?=".contains(&byte);
    text.split_at(text.bytes().position(special).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn check(kind: Option<&'static str>, no_body: bool) -> std::result::Result<(), String> {
        let mut headers = HeaderMap::new();
        headers.extend(kind.map(|kind| (CONTENT_TYPE, HeaderValue::from_static(kind))));
        expect_json(&headers, no_body).map_err(|error| error.message)
    }

    #[test]
    fn json_is_known_by_its_type_alone() {
        for kind in
            ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/json;"]
        {
            assert_eq!(check(Some(kind), false), Ok(()), "{kind}");
        }
        assert_eq!(check(None, true), Ok(()));
    }

    /// The texts are dockerd 26.1's.
    #[test]
    fn other_types_are_refused_in_dockers_words() {
        for (kind, message) in [
            (Some("text/plain"), "unsupported Content-Type header (text/plain): must be 'application/json'"),
            (Some("garbage"), "unsupported Content-Type header (garbage): must be 'application/json'"),
            (None, "malformed Content-Type header (): mime: no media type"),
            (Some(";"), "malformed Content-Type header (;): mime: no media type"),
            (
                Some("text/plain, application/json"),
                "malformed Content-Type header (text/plain, application/json): mime: unexpected content after media \
                 subtype",
            ),
        ] {
            assert_eq!(check(kind, false), Err(message.to_owned()));
        }
        assert!(check(Some("text/plain"), true).is_err());
    }
}
