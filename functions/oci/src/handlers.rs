//! Transport: parse, call, render.

use crate::{blobs, manifests, referrers, tags};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::json;
use shared::domain::{Action, Repository};
use shared::http::{Caller, Params, Reply, Target};
use shared::oci::{Endpoint, OciCode, parse_path, refused};
use shared::{App, Result};

/// The header by which older clients know a registry.
const API_VERSION: &str = "docker-distribution-api-version";

/// Says that this protocol is spoken here, to those who may read.
pub(crate) async fn check() -> Result<Response> {
    let mut response = Reply::ok(json!({}))?.into_response();
    response
        .headers_mut()
        .insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    Ok(response)
}

/// Gives a client what it is to bring from now on: the token that it brought as a password.
pub(crate) async fn token(headers: HeaderMap) -> Result<Response> {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(token_of)
        // Where nobody is asked, any will do.
        .unwrap_or_else(|| "anonymous".to_owned());
    let mut response =
        Reply::ok(json!({"token": token, "access_token": token, "expires_in": 3600}))?
            .into_response();
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The token in the value of an `Authorization` header, which the authorizer let through.
fn token_of(authorization: &str) -> Option<String> {
    let (scheme, rest) = authorization.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    let decoded = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (_, password) = decoded.split_once(':')?;
    Some(password.to_owned())
}

/// Everything within a repository.
pub(crate) async fn pull(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    method: Method,
    headers: HeaderMap,
    Params(params): Params<PullParams>,
) -> Result<Response> {
    let (name, endpoint) = parse_path(target.path()?).ok_or_else(|| {
        refused(
            OciCode::NoEndpoint,
            "there is no such endpoint; ask for `tags/list`, `manifests`, `blobs` or `referrers` of a repository",
        )
    })?;
    let repository = Repository::parse(name)
        // Under a tenant prefix a repository may leave its tenant out.
        .filter(|repository| repository.tenant == caller.tenant || !name.contains('/'))
        .ok_or_else(|| {
            refused(
                OciCode::NameUnknown,
                "there is no such repository; docs/oci.md tells how models are called here",
            )
        })?;
    let repository = Repository {
        tenant: caller.tenant.clone(),
        ..repository
    };
    caller.may(Action::Read, &repository.model)?;
    match endpoint {
        Endpoint::Tags => tags::list(&app, name, &repository, &params).await,
        Endpoint::Manifest(reference) => {
            manifests::get(&app, &repository, reference, &headers).await
        }
        Endpoint::Blob(digest) => {
            blobs::get(&app, &repository, digest, method == Method::HEAD).await
        }
        Endpoint::Referrers(digest) => {
            referrers::list(&app, &repository, digest, params.artifact_type.as_deref()).await
        }
    }
}

/// The query of a request; what else clients put there is none of ours.
#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct PullParams {
    pub(crate) n: Option<String>,
    pub(crate) last: Option<String>,
    #[serde(rename = "artifactType")]
    pub(crate) artifact_type: Option<String>,
}

/// An answer of this type.
pub(crate) fn answer(media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_the_password_or_the_bearer() {
        let basic = format!("Basic {}", STANDARD.encode("any:slw_a:b"));
        for (value, expected) in [
            ("Bearer slw_x", Some("slw_x")),
            ("bearer slw_x", Some("slw_x")),
            (basic.as_str(), Some("slw_a:b")),
            ("Basic ???", None),
            ("slw_x", None),
        ] {
            assert_eq!(token_of(value).as_deref(), expected);
        }
    }
}
