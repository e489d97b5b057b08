//! What a route needs to be allowed, and the one place where scopes are enforced.
//!
//! A handler asks [`Caller::may`] only for models that neither the path nor the body names, and lists ask
//! [`Caller::sees`].

use crate::domain::access::denied;
use crate::domain::{Action, Scope};
use crate::error::{Error, ErrorCode, Result};
use crate::http::caller::Caller;
use axum::RequestExt as _;
use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::Method;
use http_body_util::BodyExt as _;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::Arc;

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The action; without one everybody may ask, logged in or not.
    pub action: Option<Action>,
    /// Which models the route touches.
    pub subject: Subject,
}

/// Which models a route touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// None, or those that its handler asks for.
    Nothing,
    /// Those that it names: `{model}` in its path; `name`, `new_name` and the model of a `models:/` source in its query
    /// and body.
    Named,
    /// All of them.
    Everything,
}

impl Access {
    /// What a route needs unless it says otherwise: reads need `read`, everything else `write`.
    pub(super) fn usual(method: &Method, path: &str) -> Self {
        // Where MLflow's questions have bodies, they are POSTs.
        let is_question = *method == Method::GET
            || path.contains("/mlflow/")
                && ["/search", "/search-datasets", "/get-latest-versions"]
                    .iter()
                    .any(|question| path.ends_with(question));
        Self {
            action: Some(if is_question {
                Action::Read
            } else {
                Action::Write
            }),
            subject: if path.starts_with("/v1/models")
                || path.contains("{model}")
                || path.contains("/mlflow/registered-models")
                || path.contains("/mlflow/model-versions")
            {
                Subject::Named
            } else {
                Subject::Nothing
            },
        }
    }
}

/// Why nobody is known to call; the route decides whether that matters.
#[derive(Debug, Clone)]
pub(super) struct Unknown(pub(super) Arc<Error>);

impl Unknown {
    /// The refusal, anew.
    pub(super) fn refusal(&self) -> Error {
        Error::new(self.0.code, self.0.message.clone())
    }
}

/// Lets a request through to its route if the caller's scope allows it.
pub(super) async fn enforce(
    State(access): State<Access>,
    mut request: Request,
    next: Next,
) -> Response {
    match check(access, &mut request).await {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

async fn check(access: Access, request: &mut Request) -> Result<()> {
    let Some(action) = access.action else {
        return Ok(());
    };
    if let Some(unknown) = request.extensions().get::<Unknown>() {
        return Err(unknown.refusal());
    }
    let Some(scope) = request
        .extensions()
        .get::<Caller>()
        .and_then(|caller| caller.scope.clone())
    else {
        return Ok(());
    };
    let is_allowed = scope.allows(action)
        && match access.subject {
            Subject::Nothing => true,
            Subject::Everything => scope.reaches_every_model(),
            Subject::Named => {
                reaches_path(&scope, request).await && reaches_request(&scope, request).await?
            }
        };
    if is_allowed {
        Ok(())
    } else {
        Err(denied(action))
    }
}

/// Whether a scope reaches the model that the path names, if it names one.
async fn reaches_path(scope: &Scope, request: &mut Request) -> bool {
    let params = request.extract_parts::<RawPathParams>().await;
    params.is_ok_and(|params| {
        params
            .iter()
            .all(|(name, value)| name != "model" || scope.reaches(value))
    })
}

/// Whether a scope reaches every model that query and body name.
async fn reaches_request(scope: &Scope, request: &mut Request) -> Result<bool> {
    if scope.reaches_every_model() {
        return Ok(true);
    }
    let body = std::mem::take(request.body_mut());
    let bytes = body
        .collect()
        .await
        .map_err(|error| {
            Error::new(
                ErrorCode::MalformedBody,
                "the body did not arrive whole; send it again",
            )
            .caused_by(error)
        })?
        .to_bytes();
    let query = request.uri().query().unwrap_or_default();
    let in_query = query_values(query).all(|(name, value)| reaches_field(scope, &name, &value));
    // What is no JSON names no model, and its handler refuses it.
    let in_body = match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(fields)) => fields.iter().all(|(name, value)| {
            value
                .as_str()
                .is_none_or(|text| reaches_field(scope, name, text))
        }),
        _ => true,
    };
    *request.body_mut() = Body::from(bytes);
    Ok(in_query && in_body)
}

fn reaches_field(scope: &Scope, field: &str, value: &str) -> bool {
    match field {
        "name" | "new_name" => scope.reaches(value),
        "source" => model_of_source(value)
            .is_none_or(|name| scope.allows(Action::Read) && scope.reaches(&name)),
        _ => true,
    }
}

/// The model that a source `models:/<name>/<version>` or `models:/<name>@<alias>` names, percent-decoded.
fn model_of_source(source: &str) -> Option<Cow<'_, str>> {
    let rest = source.strip_prefix("models:")?.trim_start_matches('/');
    let end = rest.rfind(['/', '@'])?;
    let name = rest.get(..end)?;
    Some(percent_decode_str(name).decode_utf8_lossy())
}

/// The pairs of a query, decoded as a form.
fn query_values(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " "))
        .decode_utf8_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_name_their_models() {
        for (source, expected) in [
            ("models:/iris/3", Some("iris")),
            ("models:/iris@champion", Some("iris")),
            ("models:/my%20iris/3", Some("my iris")),
            ("models:///iris/3", Some("iris")),
            ("models:/m-0123", None),
            ("runs:/abc/model", None),
            ("s3://bucket/a/b", None),
        ] {
            assert_eq!(model_of_source(source).as_deref(), expected, "{source}");
        }
    }

    #[test]
    fn questions_are_reads() {
        for (method, path, action, subject) in [
            (Method::GET, "/v1/models", Action::Read, Subject::Named),
            (Method::POST, "/v1/models", Action::Write, Subject::Named),
            (Method::GET, "/v1/runs", Action::Read, Subject::Nothing),
            (
                Method::GET,
                "/v1/models/{model}/versions",
                Action::Read,
                Subject::Named,
            ),
            (
                Method::POST,
                "/{api}/2.0/mlflow/runs/search",
                Action::Read,
                Subject::Nothing,
            ),
            (
                Method::POST,
                "/{api}/2.0/mlflow/experiments/search-datasets",
                Action::Read,
                Subject::Nothing,
            ),
            (
                Method::POST,
                "/{api}/2.0/mlflow/registered-models/get-latest-versions",
                Action::Read,
                Subject::Named,
            ),
            (
                Method::DELETE,
                "/{api}/2.0/mlflow/model-versions/delete",
                Action::Write,
                Subject::Named,
            ),
        ] {
            let access = Access::usual(&method, path);
            assert_eq!((access.action, access.subject), (Some(action), subject));
        }
    }
}
