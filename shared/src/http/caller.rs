//! Who calls, for which tenant, under which request id and idempotency key.

use crate::domain::Timestamp;
use crate::domain::{Principal, TenantName};
use crate::dynamodb::idempotency::{Answer, Idempotency, StoredResponse};
use crate::error::{Error, ErrorCode, Result};
use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::request::Parts;
use lambda_http::request::RequestContext;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Header with the client's idempotency key.
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";
/// Header that names the caller where nothing authenticates (the embedded default).
pub const ACTOR_HEADER: &str = "x-slipway-actor";
/// Header that names the caller's groups, comma-separated, where nothing authenticates (the embedded default).
pub const GROUPS_HEADER: &str = "x-slipway-groups";

/// Who calls, for which tenant, under which request id and idempotency key.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The tenant.
    pub tenant: TenantName,
    /// Who it is.
    pub principal: Principal,
    /// The groups that it belongs to.
    pub groups: Vec<String>,
    /// The request's id, in logs, events and answers.
    pub request_id: String,
    /// The idempotency key, if the client sent one.
    pub idempotency: Option<Idempotency>,
}

impl Caller {
    /// The answer to store under the idempotency key, if there is one.
    pub fn answer(
        &self,
        status: u16,
        body: &impl Serialize,
        at: Timestamp,
    ) -> Result<Option<Answer>> {
        let Some(idempotency) = self.idempotency.clone() else {
            return Ok(None);
        };
        let body = serde_json::to_value(body)
            .map_err(|error| Error::internal("writing an answer", error))?;
        Ok(Some(Answer {
            idempotency,
            response: StoredResponse { status, body },
            at,
        }))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Error::internal("finding the caller", "the router was not mounted"))
    }
}

/// Who the gateway says that calls, or on the embedded default who the caller says to be.
pub(super) fn principal_of(
    context: Option<&RequestContext>,
    headers: &HeaderMap,
    trust_actor_header: bool,
) -> Result<Principal> {
    if let Some(RequestContext::ApiGatewayV2(context)) = context {
        let authorizer = context.authorizer.as_ref();
        let role = authorizer
            .and_then(|authorizer| authorizer.iam.as_ref())
            .and_then(|iam| iam.user_arn.clone());
        let subject = authorizer
            .and_then(|authorizer| authorizer.jwt.as_ref())
            .and_then(|jwt| jwt.claims.get("sub").cloned());
        if let Some(name) = role.or(subject) {
            return Principal::parse(name);
        }
    }
    if trust_actor_header {
        let named = headers
            .get(ACTOR_HEADER)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        return Principal::parse(named.unwrap_or_else(|| "anonymous".into()));
    }
    Err(Error::new(
        ErrorCode::Unauthenticated,
        "the gateway names no caller; sign the request with SigV4, or send a token",
    ))
}

/// The groups in a token's claim `groups`, or on the embedded default those that the caller says.
pub(super) fn groups_of(
    context: Option<&RequestContext>,
    headers: &HeaderMap,
    trust_actor_header: bool,
) -> Vec<String> {
    let said = if let Some(RequestContext::ApiGatewayV2(context)) = context {
        let jwt = context.authorizer.as_ref().and_then(|it| it.jwt.as_ref());
        // API Gateway writes a list in a claim as `[a b]`.
        jwt.and_then(|jwt| jwt.claims.get("groups"))
            .map(|claim| claim.trim_matches(['[', ']']).replace(' ', ","))
    } else if trust_actor_header {
        headers
            .get(GROUPS_HEADER)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    } else {
        None
    };
    let said = said.unwrap_or_default();
    said.split(',')
        .map(str::trim)
        .filter(|group| !group.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The idempotency key of a request, with the fingerprint of what it asks.
pub(super) fn idempotency_of(
    headers: &HeaderMap,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<Option<Idempotency>> {
    let Some(value) = headers.get(IDEMPOTENCY_HEADER) else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or_default();
    if key.is_empty() || key.len() > 255 || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid(
            "Idempotency-Key",
            "the idempotency key must be 1 to 255 visible ASCII characters; a UUID does well",
        ));
    }
    let mut hasher = Sha256::new();
    for part in [method.as_bytes(), path.as_bytes(), body] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    Ok(Some(Idempotency {
        key: key.to_owned(),
        fingerprint: hex::encode(hasher.finalize()),
    }))
}
