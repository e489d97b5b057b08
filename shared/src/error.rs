//! The one error type, and the one table of codes, statuses and retry advice.
//!
//! A message says what, which one, and what to do, without a full stop at its end.
//! The cause stays in `source()`, is logged once where the error is handled, and never reaches a caller.

use serde_json::{Map, Value};
use std::fmt;

/// The result of everything that may fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a client would act differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A field, a name or a parameter breaks its rules.
    InvalidArgument,
    /// The body is no JSON, or not of the shape that the route takes.
    MalformedBody,
    /// A page cursor was changed, belongs to another query, or is too old.
    InvalidCursor,
    /// The caller did not say who it is.
    Unauthenticated,
    /// The caller may not do this.
    PermissionDenied,
    /// A protection keeps the version from where it shall go; `details.conditions` says why.
    PromotionDenied,
    /// No such route.
    RouteNotFound,
    /// No such registered model.
    ModelNotFound,
    /// No such model version.
    VersionNotFound,
    /// No such alias.
    AliasNotFound,
    /// No such subscription.
    SubscriptionNotFound,
    /// No such token.
    TokenNotFound,
    /// No such artifact, report or package.
    ArtifactNotFound,
    /// No such promotion request.
    RequestNotFound,
    /// No such waiver.
    WaiverNotFound,
    /// Nothing was ever served at the place, or not at that revision.
    RolloutNotFound,
    /// No such experiment.
    ExperimentNotFound,
    /// No such run.
    RunNotFound,
    /// No such logged model.
    LoggedModelNotFound,
    /// No such tag.
    TagNotFound,
    /// The route exists, the method does not.
    MethodNotAllowed,
    /// A registered model of that name exists already.
    ModelExists,
    /// An experiment of that name exists already.
    ExperimentExists,
    /// Somebody else changed it first; `details.current` carries the winner.
    Conflict,
    /// The version is not `READY`.
    VersionNotReady,
    /// The version was judged again, and is no longer accepted.
    VersionRevoked,
    /// What is stored of the version does not suffice to judge it again.
    NotRejudgeable,
    /// The version, or one of the model's versions, is held by an alias, a promotion request or a rollout.
    VersionInUse,
    /// The rules of the stages do not name this transition.
    TransitionNotAllowed,
    /// The thing was deleted; restore it first.
    Deleted,
    /// Not every declared artifact has arrived.
    UploadIncomplete,
    /// The body is over the limit.
    BodyTooLarge,
    /// The body is not `application/json`.
    UnsupportedMediaType,
    /// The idempotency key was used with another request.
    IdempotencyKeyReused,
    /// Too much at once; try again after a moment.
    Throttled,
    /// A fault on our side.
    Internal,
    /// Something that we depend on does not answer; trying again may help.
    Unavailable,
}

impl ErrorCode {
    /// Every code, in the order of the table in `docs/errors.md`.
    pub const ALL: &'static [Self] = &[
        Self::InvalidArgument,
        Self::MalformedBody,
        Self::InvalidCursor,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::PromotionDenied,
        Self::RouteNotFound,
        Self::ModelNotFound,
        Self::VersionNotFound,
        Self::AliasNotFound,
        Self::SubscriptionNotFound,
        Self::TokenNotFound,
        Self::ArtifactNotFound,
        Self::RequestNotFound,
        Self::WaiverNotFound,
        Self::RolloutNotFound,
        Self::ExperimentNotFound,
        Self::RunNotFound,
        Self::LoggedModelNotFound,
        Self::TagNotFound,
        Self::MethodNotAllowed,
        Self::ModelExists,
        Self::ExperimentExists,
        Self::Conflict,
        Self::VersionNotReady,
        Self::VersionRevoked,
        Self::NotRejudgeable,
        Self::VersionInUse,
        Self::TransitionNotAllowed,
        Self::Deleted,
        Self::UploadIncomplete,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::IdempotencyKeyReused,
        Self::Throttled,
        Self::Internal,
        Self::Unavailable,
    ];

    /// The code on the wire, its HTTP status, and whether the same request may succeed later.
    const fn row(self) -> (&'static str, u16, bool) {
        match self {
            Self::InvalidArgument => ("invalid_argument", 400, false),
            Self::MalformedBody => ("malformed_body", 400, false),
            Self::InvalidCursor => ("invalid_cursor", 400, false),
            Self::Unauthenticated => ("unauthenticated", 401, false),
            Self::PermissionDenied => ("permission_denied", 403, false),
            Self::PromotionDenied => ("promotion_denied", 403, false),
            Self::RouteNotFound => ("route_not_found", 404, false),
            Self::ModelNotFound => ("model_not_found", 404, false),
            Self::VersionNotFound => ("version_not_found", 404, false),
            Self::AliasNotFound => ("alias_not_found", 404, false),
            Self::SubscriptionNotFound => ("subscription_not_found", 404, false),
            Self::TokenNotFound => ("token_not_found", 404, false),
            Self::ArtifactNotFound => ("artifact_not_found", 404, false),
            Self::RequestNotFound => ("request_not_found", 404, false),
            Self::WaiverNotFound => ("waiver_not_found", 404, false),
            Self::RolloutNotFound => ("rollout_not_found", 404, false),
            Self::ExperimentNotFound => ("experiment_not_found", 404, false),
            Self::RunNotFound => ("run_not_found", 404, false),
            Self::LoggedModelNotFound => ("logged_model_not_found", 404, false),
            Self::TagNotFound => ("tag_not_found", 404, false),
            Self::MethodNotAllowed => ("method_not_allowed", 405, false),
            Self::ModelExists => ("model_exists", 409, false),
            Self::ExperimentExists => ("experiment_exists", 409, false),
            Self::Conflict => ("conflict", 409, false),
            Self::VersionNotReady => ("version_not_ready", 409, false),
            Self::VersionRevoked => ("version_revoked", 409, false),
            Self::NotRejudgeable => ("not_rejudgeable", 409, false),
            Self::VersionInUse => ("version_in_use", 409, false),
            Self::TransitionNotAllowed => ("transition_not_allowed", 409, false),
            Self::Deleted => ("deleted", 409, false),
            Self::UploadIncomplete => ("upload_incomplete", 409, false),
            Self::BodyTooLarge => ("body_too_large", 413, false),
            Self::UnsupportedMediaType => ("unsupported_media_type", 415, false),
            Self::IdempotencyKeyReused => ("idempotency_key_reused", 422, false),
            Self::Throttled => ("throttled", 429, true),
            Self::Internal => ("internal", 500, false),
            Self::Unavailable => ("unavailable", 503, true),
        }
    }

    /// The code on the wire, in snake case; stable.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status that goes with the code.
    pub const fn status(self) -> u16 {
        self.row().1
    }

    /// Whether the same request may succeed later, unchanged.
    pub const fn retryable(self) -> bool {
        self.row().2
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Everything that can go wrong, with a code, a message for the caller, and details for its program.
#[derive(Debug)]
pub struct Error {
    /// The code; stable.
    pub code: ErrorCode,
    /// What, which one, what to do.
    pub message: String,
    /// Typed facts for programs, such as `current` on a conflict.
    pub details: Map<String, Value>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with a message for the caller.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Map::new(),
            source: None,
        }
    }

    /// A field, a name or a parameter breaks its rules.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message).with("field", field.into())
    }

    /// A fault on our side; `doing` says what was being done, for the log.
    pub fn internal(
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            source: Some(source.into()),
            ..Self::new(ErrorCode::Internal, doing)
        }
    }

    /// Adds a typed fact for programs.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Keeps the cause for the log.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether the same request, or the same message, may succeed later.
    pub fn retryable(&self) -> bool {
        // An internal fault in an event handler is worth another delivery: nothing was recorded.
        self.code.retryable() || self.code == ErrorCode::Internal
    }

    /// What a caller may read: the message, or a fixed sentence where the fault is ours.
    pub fn public_message(&self) -> &str {
        match self.code {
            ErrorCode::Internal => {
                "something failed on our side; quote the request id when you report it"
            }
            ErrorCode::Unavailable => {
                "a service that this depends on does not answer; try again after a moment"
            }
            _ => &self.message,
        }
    }

    /// The chain of causes in one line, for the log.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
