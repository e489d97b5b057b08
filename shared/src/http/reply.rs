//! Answers: a status and a JSON body, or the one error envelope.

use crate::app::App;
use crate::dynamodb::{Outcome, StoredResponse};
use crate::error::{Error, ErrorCode, Result};
use crate::http::caller::Caller;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// An answer that is no error.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    status: u16,
    body: Value,
    is_replayed: bool,
}

impl Reply {
    /// 200 with a body.
    pub fn ok(body: impl Serialize) -> Result<Self> {
        Self::with_status(200, body)
    }

    /// Any status with a body.
    pub fn with_status(status: u16, body: impl Serialize) -> Result<Self> {
        let body = serde_json::to_value(body)
            .map_err(|error| Error::internal("writing an answer", error))?;
        Ok(Self {
            status,
            body,
            is_replayed: false,
        })
    }

    fn replayed(stored: StoredResponse) -> Self {
        Self {
            status: stored.status,
            body: stored.body,
            is_replayed: true,
        }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let mut response = json_response(status, &self.body);
        if self.is_replayed {
            response
                .headers_mut()
                .insert("idempotency-replayed", HeaderValue::from_static("true"));
        }
        response
    }
}

/// Turns the outcome of a write into its answer: what was done now, or what was answered before under the same key.
///
/// A refusal may come from a repeated request whose first try succeeded, so the stored answers are asked first.
pub async fn respond<T: Serialize>(
    app: &App,
    caller: &Caller,
    status: u16,
    outcome: Result<Outcome<T>>,
) -> Result<Reply> {
    match outcome {
        Ok(Outcome::Done(body)) => Reply::with_status(status, body),
        Ok(Outcome::Replayed(stored)) => Ok(Reply::replayed(stored)),
        Err(error) => {
            if let Some(idempotency) = &caller.idempotency
                && error.code != ErrorCode::IdempotencyKeyReused
                && error.code.status() < 500
                && let Some(stored) = app
                    .registry
                    .find_answer(&caller.tenant, idempotency)
                    .await?
            {
                return Ok(Reply::replayed(stored));
            }
            Err(error)
        }
    }
}

impl App {
    /// Answers a request that finds everything as it asks, and stores the answer under its idempotency key.
    ///
    /// Without the stored answer a late repetition could change what others changed meanwhile.
    pub async fn keep_unchanged<T: Serialize>(
        &self,
        caller: &Caller,
        status: u16,
        view: T,
    ) -> Result<Outcome<T>> {
        match caller.answer(status, &view, self.clock.now())? {
            Some(answer) => {
                let kept = self.registry.keep_answer(&caller.tenant, answer).await?;
                Ok(kept.map(|()| view))
            }
            None => Ok(Outcome::Done(view)),
        }
    }
}

/// An error on its way to the edge, where it is logged and gets its request id.
#[derive(Debug, Clone)]
pub(super) struct Failed(pub(super) Arc<Error>);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = Response::new(axum::body::Body::empty());
        *response.status_mut() =
            StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.extensions_mut().insert(Failed(Arc::new(self)));
        response
    }
}

/// The one error envelope.
pub fn envelope(error: &Error, request_id: &str) -> Value {
    let mut body = json!({
        "code": error.code.as_str(),
        "message": error.public_message(),
        "retryable": error.code.retryable(),
        "request_id": request_id,
    });
    if let Value::Object(fields) = &mut body
        && !error.details.is_empty()
        && error.code.status() < 500
    {
        fields.insert("details".into(), Value::Object(error.details.clone()));
    }
    json!({ "error": body })
}

pub(super) fn render_error(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, body);
    if matches!(status.as_u16(), 429 | 503) {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(axum::body::Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
