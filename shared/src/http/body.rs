//! Bodies and query parameters, whose faults answer in our envelope.

use crate::error::{Error, ErrorCode, Result};
use axum::extract::{FromRequest, FromRequestParts, Request};
use http::request::Parts;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

/// Largest body, in bytes: a little below what Lambda takes, so that the answer is ours.
pub const MAX_BODY_BYTES: usize = 5_500_000;

/// A JSON body.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let (parts, body) = request.into_parts();
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
        let media_type = parts
            .headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let essence = media_type
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(Error::new(
                ErrorCode::UnsupportedMediaType,
                "the body must be JSON; send the header `Content-Type: application/json`",
            ));
        }
        parse(&bytes).map(Self)
    }
}

/// Parses JSON, naming the field that breaks a rule.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    if bytes.is_empty() {
        return Err(Error::new(
            ErrorCode::MalformedBody,
            "the body is empty; send a JSON object",
        ));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let field = error.path().to_string();
        let inner = error.inner();
        if inner.is_data() {
            let message = inner.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            let place = if field == "." {
                String::new()
            } else {
                format!("field `{field}`: ")
            };
            Error::invalid(field, format!("{place}{message}"))
        } else {
            Error::new(
                ErrorCode::MalformedBody,
                format!(
                    "the body is not valid JSON at line {}, column {}; correct it",
                    inner.line(),
                    inner.column()
                ),
            )
        }
    })?;
    deserializer.end().map_err(|_| {
        Error::new(
            ErrorCode::MalformedBody,
            "there is more after the JSON value; send one value",
        )
    })?;
    Ok(parsed)
}

/// Query parameters; unknown ones are refused by `deny_unknown_fields` of the type.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        axum::extract::Query::<T>::try_from_uri(&parts.uri)
            .map(|query| Self(query.0))
            .map_err(|rejection| {
                let text = rejection.body_text();
                let text = text
                    .strip_prefix("Failed to deserialize query string: ")
                    .unwrap_or(&text);
                Error::invalid("query", format!("query parameters: {text}"))
            })
    }
}
