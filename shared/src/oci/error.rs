//! Errors as OCI clients read them, and the one mapping from ours.
//!
//! The body is `{"errors": [{"code": …, "message": …}]}`; codes are those of the OCI distribution specification 1.1.

use crate::error::{Error, ErrorCode};
use serde_json::{Value, json};
use std::fmt;

/// An error code of the distribution specification, where several of its cases have statuses of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OciCode {
    /// There is no such repository.
    NameUnknown,
    /// There is no such manifest, or it is not given out.
    ManifestUnknown,
    /// There is no such blob, or it is not given out.
    BlobUnknown,
    /// A digest cannot be read.
    DigestInvalid,
    /// The caller did not say who it is.
    Unauthorized,
    /// The caller may not do this.
    Denied,
    /// A parameter cannot be read.
    Unreadable,
    /// There is no such endpoint.
    NoEndpoint,
    /// The registry takes nothing in by this protocol.
    PullOnly,
    /// The client takes no type in which the manifest could be answered.
    NotAcceptable,
    /// Too much at once.
    TooManyRequests,
    /// A fault on our side.
    Unknown,
    /// Something that we depend on does not answer.
    Unavailable,
}

impl OciCode {
    /// The code on the wire, its HTTP status, and the code of ours that is nearest to it.
    const fn row(self) -> (&'static str, u16, ErrorCode) {
        match self {
            Self::NameUnknown => ("NAME_UNKNOWN", 404, ErrorCode::ModelNotFound),
            Self::ManifestUnknown => ("MANIFEST_UNKNOWN", 404, ErrorCode::VersionNotFound),
            Self::BlobUnknown => ("BLOB_UNKNOWN", 404, ErrorCode::ArtifactNotFound),
            Self::DigestInvalid => ("DIGEST_INVALID", 400, ErrorCode::InvalidArgument),
            Self::Unauthorized => ("UNAUTHORIZED", 401, ErrorCode::Unauthenticated),
            Self::Denied => ("DENIED", 403, ErrorCode::PermissionDenied),
            Self::Unreadable => ("UNSUPPORTED", 400, ErrorCode::InvalidArgument),
            Self::NoEndpoint => ("UNSUPPORTED", 404, ErrorCode::RouteNotFound),
            Self::PullOnly => ("UNSUPPORTED", 405, ErrorCode::MethodNotAllowed),
            Self::NotAcceptable => ("UNSUPPORTED", 406, ErrorCode::UnsupportedMediaType),
            Self::TooManyRequests => ("TOOMANYREQUESTS", 429, ErrorCode::Throttled),
            Self::Unknown => ("UNKNOWN", 500, ErrorCode::Internal),
            Self::Unavailable => ("UNAVAILABLE", 503, ErrorCode::Unavailable),
        }
    }

    /// The code on the wire.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status that goes with it.
    pub const fn status(self) -> u16 {
        self.row().1
    }
}

/// A code that only this protocol has; travels as the cause of an [`Error`].
#[derive(Debug)]
struct Said(OciCode);

impl fmt::Display for Said {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.as_str())
    }
}

impl std::error::Error for Said {}

/// An error with a code of this protocol.
pub fn refused(code: OciCode, message: impl Into<String>) -> Error {
    Error::new(code.row().2, message).caused_by(Said(code))
}

/// The code of an error: the one place where ours are mapped to those of this protocol.
pub fn code_of(error: &Error) -> OciCode {
    if let Some(Said(code)) =
        std::error::Error::source(error).and_then(|source| source.downcast_ref())
    {
        return *code;
    }
    match error.code {
        ErrorCode::ModelNotFound => OciCode::NameUnknown,
        // What is deleted, not ready or no longer accepted is not there for those who pull.
        ErrorCode::VersionNotFound
        | ErrorCode::AliasNotFound
        | ErrorCode::ArtifactNotFound
        | ErrorCode::Deleted
        | ErrorCode::VersionNotReady
        | ErrorCode::VersionRevoked => OciCode::ManifestUnknown,
        ErrorCode::Unauthenticated => OciCode::Unauthorized,
        ErrorCode::PermissionDenied => OciCode::Denied,
        ErrorCode::RouteNotFound => OciCode::NoEndpoint,
        ErrorCode::MethodNotAllowed | ErrorCode::BodyTooLarge => OciCode::PullOnly,
        ErrorCode::Throttled => OciCode::TooManyRequests,
        ErrorCode::Internal => OciCode::Unknown,
        ErrorCode::Unavailable => OciCode::Unavailable,
        // What cannot be read, and what only other routes than these answer.
        _ => OciCode::Unreadable,
    }
}

/// Status and body of an error, as OCI clients understand them.
pub(crate) fn envelope(error: &Error) -> (u16, Value) {
    let code = code_of(error);
    let message = match code {
        OciCode::PullOnly => {
            "models are only pulled by this protocol; register versions by `POST /v1/models/{model}/versions`"
        }
        _ => error.public_message(),
    };
    let body = json!({"errors": [{"code": code.as_str(), "message": message}]});
    (code.status(), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_ours_has_one_with_a_status_that_clients_retry_alike() {
        for code in ErrorCode::ALL {
            let status = code_of(&Error::new(*code, "why")).status();
            assert_eq!(code.retryable(), matches!(status, 429 | 503), "{code}");
            assert_eq!(*code == ErrorCode::Internal, status == 500, "{code}");
        }
    }

    #[test]
    fn a_code_of_the_protocol_is_kept() {
        let (status, body) = envelope(&refused(OciCode::BlobUnknown, "no"));
        assert_eq!(status, 404);
        assert_eq!(
            body,
            json!({"errors": [{"code": "BLOB_UNKNOWN", "message": "no"}]})
        );
    }
}
