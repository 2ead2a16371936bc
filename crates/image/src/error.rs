//! What kind of failure an error is, for callers that speak HTTP.

/// The kinds of failure, one per HTTP status that docker's API answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// 400: the request cannot mean anything.
    InvalidInput,
    /// 401: the registry wants a login, or another one.
    Unauthorized,
    /// 403: the registry refuses.
    Forbidden,
    /// 404: no such image, repository or manifest.
    NotFound,
    /// 409: the image is in use, or a short id is ambiguous.
    Conflict,
    /// 429: the registry's rate limit.
    TooManyRequests,
    /// 503: the registry cannot be reached or does not answer properly.
    Unavailable,
    /// 507 in spirit; docker answers 500: the disk is full.
    NoSpace,
    /// 500: anything else.
    Internal,
}
