//! Errors as MLflow's clients read them, and the one mapping from ours.
//!
//! The body is `{"error_code": …, "message": …}`; codes and statuses are those of `mlflow/exceptions.py`.

use crate::error::{Error, ErrorCode};
use serde_json::{Value, json};
use std::fmt;

/// An error code of MLflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MlflowCode {
    /// A parameter is missing, or breaks a rule.
    InvalidParameterValue,
    /// The request cannot be read.
    BadRequest,
    /// A name is taken.
    ResourceAlreadyExists,
    /// The caller did not say who it is.
    Unauthenticated,
    /// The caller may not do this.
    PermissionDenied,
    /// The thing does not exist.
    ResourceDoesNotExist,
    /// No such route.
    EndpointNotFound,
    /// It is not known whether the change was made.
    Aborted,
    /// The state of the thing forbids the change.
    ResourceConflict,
    /// Too much at once.
    RequestLimitExceeded,
    /// A fault on our side.
    InternalError,
    /// The server does not offer this.
    NotImplemented,
    /// Something that we depend on does not answer.
    TemporarilyUnavailable,
}

impl MlflowCode {
    /// The code on the wire, its HTTP status, and the code of ours that is nearest to it.
    const fn row(self) -> (&'static str, u16, ErrorCode) {
        match self {
            Self::InvalidParameterValue => {
                ("INVALID_PARAMETER_VALUE", 400, ErrorCode::InvalidArgument)
            }
            Self::BadRequest => ("BAD_REQUEST", 400, ErrorCode::MalformedBody),
            Self::ResourceAlreadyExists => ("RESOURCE_ALREADY_EXISTS", 400, ErrorCode::ModelExists),
            Self::Unauthenticated => ("UNAUTHENTICATED", 401, ErrorCode::Unauthenticated),
            Self::PermissionDenied => ("PERMISSION_DENIED", 403, ErrorCode::PermissionDenied),
            Self::ResourceDoesNotExist => {
                ("RESOURCE_DOES_NOT_EXIST", 404, ErrorCode::ArtifactNotFound)
            }
            Self::EndpointNotFound => ("ENDPOINT_NOT_FOUND", 404, ErrorCode::RouteNotFound),
            Self::Aborted => ("ABORTED", 409, ErrorCode::Conflict),
            Self::ResourceConflict => ("RESOURCE_CONFLICT", 409, ErrorCode::Conflict),
            Self::RequestLimitExceeded => ("REQUEST_LIMIT_EXCEEDED", 429, ErrorCode::Throttled),
            Self::InternalError => ("INTERNAL_ERROR", 500, ErrorCode::Internal),
            Self::NotImplemented => ("NOT_IMPLEMENTED", 501, ErrorCode::Internal),
            Self::TemporarilyUnavailable => {
                ("TEMPORARILY_UNAVAILABLE", 503, ErrorCode::Unavailable)
            }
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

/// What only MLflow knows how to say; travels as the cause of an [`Error`].
#[derive(Debug)]
struct Said {
    code: MlflowCode,
    message: String,
}

impl fmt::Display for Said {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code.as_str())
    }
}

impl std::error::Error for Said {}

/// An error in MLflow's own words.
pub fn refused(code: MlflowCode, message: impl Into<String>) -> Error {
    let message = message.into();
    Error::new(code.row().2, message.clone()).caused_by(Said { code, message })
}

/// The refusal of a parameter, in MLflow's own words.
pub fn invalid(message: impl Into<String>) -> Error {
    refused(MlflowCode::InvalidParameterValue, message)
}

/// The refusal of a path, or of a method on it.
pub fn endpoint_not_found(method: &http::Method, path: &str) -> Error {
    let path: String = path
        .chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect();
    refused(
        MlflowCode::EndpointNotFound,
        format!(
            "The endpoint '{method} {path}' does not exist. docs/mlflow.md lists those that do."
        ),
    )
}

/// An error in MLflow's vocabulary: the one place where ours is mapped to it.
pub fn translated(error: &Error) -> (MlflowCode, String) {
    if let Some(said) =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<Said>())
    {
        return (said.code, said.message.clone());
    }
    let detail = |name: &str| match error.details.get(name) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let own = || error.public_message().to_owned();
    match error.code {
        ErrorCode::ModelNotFound => (
            MlflowCode::ResourceDoesNotExist,
            detail("model").map_or_else(own, |model| model_not_found(&model)),
        ),
        // MLflow knows no restorable deletion: what was deleted is not there.
        ErrorCode::VersionNotFound | ErrorCode::Deleted => (
            MlflowCode::ResourceDoesNotExist,
            match (detail("model"), detail("version")) {
                (Some(model), Some(version)) => version_not_found(&model, &version),
                (Some(model), None) => model_not_found(&model),
                _ => own(),
            },
        ),
        ErrorCode::AliasNotFound => (
            MlflowCode::InvalidParameterValue,
            detail("alias").map_or_else(own, |alias| {
                format!("Registered model alias {alias} not found.")
            }),
        ),
        ErrorCode::ModelExists => (
            MlflowCode::ResourceAlreadyExists,
            detail("model").map_or_else(own, |model| {
                format!("Registered Model (name={model}) already exists.")
            }),
        ),
        ErrorCode::InvalidArgument => (MlflowCode::InvalidParameterValue, own()),
        ErrorCode::InvalidCursor => (
            MlflowCode::InvalidParameterValue,
            "Invalid page token: it was changed, or belongs to another query. Begin again without one.".to_owned(),
        ),
        ErrorCode::MalformedBody | ErrorCode::BodyTooLarge | ErrorCode::UnsupportedMediaType => {
            (MlflowCode::BadRequest, own())
        }
        ErrorCode::Unauthenticated => (MlflowCode::Unauthenticated, own()),
        ErrorCode::PermissionDenied | ErrorCode::PromotionDenied => {
            (MlflowCode::PermissionDenied, own())
        }
        ErrorCode::RouteNotFound | ErrorCode::MethodNotAllowed => (MlflowCode::EndpointNotFound, own()),
        ErrorCode::SubscriptionNotFound
        | ErrorCode::TokenNotFound
        | ErrorCode::ArtifactNotFound
        | ErrorCode::ExperimentNotFound
        | ErrorCode::RunNotFound
        | ErrorCode::LoggedModelNotFound
        | ErrorCode::TagNotFound
        | ErrorCode::RequestNotFound
        | ErrorCode::WaiverNotFound
        | ErrorCode::RolloutNotFound => (MlflowCode::ResourceDoesNotExist, own()),
        ErrorCode::ExperimentExists => (MlflowCode::ResourceAlreadyExists, own()),
        ErrorCode::Conflict
        | ErrorCode::VersionNotReady
        | ErrorCode::VersionRevoked
        | ErrorCode::NotRejudgeable
        | ErrorCode::VersionInUse
        | ErrorCode::TransitionNotAllowed
        | ErrorCode::UploadIncomplete
        | ErrorCode::IdempotencyKeyReused => (MlflowCode::ResourceConflict, own()),
        ErrorCode::Throttled => (MlflowCode::RequestLimitExceeded, own()),
        ErrorCode::Internal => (MlflowCode::InternalError, own()),
        ErrorCode::Unavailable => (MlflowCode::TemporarilyUnavailable, own()),
    }
}

/// MLflow's words for a registered model that does not exist.
pub fn model_not_found(name: &str) -> String {
    format!("Registered Model with name={name} not found")
}

/// MLflow's words for a version that does not exist.
pub fn version_not_found(name: &str, version: &str) -> String {
    format!("Model Version (name={name}, version={version}) not found")
}

/// Status and body of an error, as MLflow's clients understand them.
pub(crate) fn envelope(error: &Error) -> (u16, Value) {
    let (code, message) = translated(error);
    let body = json!({"error_code": code.as_str(), "message": message});
    // A method that a route does not take has a status of its own, in MLflow's server too.
    let status = match error.code {
        ErrorCode::MethodNotAllowed => 405,
        // A file too large for a plain PUT is told so by the status that gateways use for it, too.
        ErrorCode::BodyTooLarge => 413,
        _ => code.status(),
    };
    (status, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ModelName, model::model_not_found as no_model};

    #[test]
    fn every_code_of_ours_has_one_of_mlflow_with_a_status_that_its_client_retries_alike() {
        for code in ErrorCode::ALL {
            let (mapped, message) = translated(&Error::new(*code, "why"));
            assert!(!message.is_empty());
            assert_eq!(
                code.retryable(),
                matches!(mapped.status(), 429 | 503),
                "{code} became {}",
                mapped.as_str()
            );
            assert_eq!(*code == ErrorCode::Internal, mapped.status() == 500);
        }
    }

    #[test]
    fn words_are_those_of_mlflow() {
        let error = no_model(&ModelName::parse("iris").unwrap());
        assert_eq!(
            translated(&error),
            (
                MlflowCode::ResourceDoesNotExist,
                "Registered Model with name=iris not found".to_owned()
            )
        );
        let error = refused(MlflowCode::NotImplemented, "no");
        assert_eq!(
            translated(&error),
            (MlflowCode::NotImplemented, "no".to_owned())
        );
    }
}
