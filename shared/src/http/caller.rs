//! Who calls, for which tenant, under which request id and idempotency key.

use crate::config::Config;
use crate::domain::access::{check_groups, denied, is_match};
use crate::domain::tracking::LoggedModel;
use crate::domain::{Action, Identity, ModelName, Principal, Scope, TenantName, Timestamp};
use crate::dynamodb::idempotency::{Answer, Idempotency, StoredResponse};
use crate::error::{Error, ErrorCode, Result};
use axum::extract::{FromRequestParts, Request};
use http::HeaderMap;
use http::request::Parts;
use lambda_http::aws_lambda_events::apigw::{
    ApiGatewayRequestAuthorizer, ApiGatewayV2httpRequestContext,
};
use lambda_http::request::RequestContext;
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// Who calls where nobody says so.
pub const ANONYMOUS: &str = "anonymous";
/// Header with the client's idempotency key.
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";
/// Header that names the caller where nothing authenticates (the embedded default).
pub const ACTOR_HEADER: &str = "x-slipway-actor";
/// Header with the caller's groups, separated by commas, where nothing authenticates (the embedded default).
pub const GROUPS_HEADER: &str = "x-slipway-groups";
/// Key in the authorizer's context under which an [`Identity`] stands.
pub const IDENTITY_KEY: &str = "identity";
/// Key in the authorizer's context under which stands why it lets nobody through.
pub const REFUSAL_KEY: &str = "refusal";

/// Who calls, for which tenant, under which request id and idempotency key.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The tenant.
    pub tenant: TenantName,
    /// Who it is.
    pub principal: Principal,
    /// The groups that the caller belongs to.
    pub groups: Vec<String>,
    /// What the caller's token allows; without a scope the gateway's own rules are the only ones.
    pub scope: Option<Scope>,
    /// The request's id, in logs, events and answers.
    pub request_id: String,
    /// The idempotency key, if the client sent one.
    pub idempotency: Option<Idempotency>,
}

impl Caller {
    /// Refuses what the caller's scope does not allow to do with a model, without saying whether there is one.
    pub fn may(&self, action: Action, model: &ModelName) -> Result<()> {
        match &self.scope {
            Some(scope) if !(scope.allows(action) && scope.reaches(model.as_str())) => {
                Err(denied(action))
            }
            _ => Ok(()),
        }
    }

    /// Whether lists and searches may show a model to the caller.
    pub fn sees(&self, model: &ModelName) -> bool {
        self.scope
            .as_ref()
            .is_none_or(|scope| scope.reaches(model.as_str()))
    }

    /// A logged model without the names of models that lists may not show to the caller.
    pub fn shown(&self, mut model: LoggedModel) -> LoggedModel {
        if let Some(scope) = &self.scope {
            model.hide_versions(|name| scope.reaches(name));
        }
        model
    }

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
pub(super) fn identity_of(
    context: Option<&RequestContext>,
    headers: &HeaderMap,
    config: &Config,
) -> Result<Identity> {
    if let Some(RequestContext::ApiGatewayV2(context)) = context
        && let Some(authorizer) = &context.authorizer
    {
        if let Some(refusal) = authorizer.fields.get(REFUSAL_KEY) {
            return Err(refusal_of(refusal));
        }
        if let Some(identity) = authorizer.fields.get(IDENTITY_KEY) {
            return serde_json::from_value(identity.clone())
                .map_err(|error| Error::internal("reading the authorizer's context", error));
        }
        let role = authorizer.iam.as_ref().and_then(|iam| iam.user_arn.clone());
        if let Some(name) = role {
            return plain(name, Vec::new());
        }
        if let Some(jwt) = &authorizer.jwt
            && let Some(subject) = jwt.claims.get("sub")
        {
            if !config
                .jwt_subjects
                .iter()
                .any(|pattern| is_match(pattern, subject))
            {
                return Err(Error::new(
                    ErrorCode::PermissionDenied,
                    "the subject of your JWT is none that this deployment lets in",
                ));
            }
            let groups = jwt.claims.get(&config.jwt_groups_claim);
            return plain(
                subject.clone(),
                groups.map(|text| listed(text)).unwrap_or_default(),
            );
        }
    }
    if config.trust_actor_header {
        let text = |name| {
            headers
                .get(name)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let groups = text(GROUPS_HEADER).unwrap_or_default();
        return plain(
            text(ACTOR_HEADER).unwrap_or_else(|| ANONYMOUS.into()),
            groups.split(',').map(str::to_owned).collect(),
        );
    }
    Err(Error::new(
        ErrorCode::Unauthenticated,
        "the gateway names no caller; sign the request with SigV4, or send a token",
    ))
}

/// The refusal that the authorizer left to the function, so that its answer is in the words of the API that was asked.
fn refusal_of(refusal: &Value) -> Error {
    let message = refusal.get("message").and_then(Value::as_str);
    let code = match refusal.get("code").and_then(Value::as_str) {
        Some("throttled") => ErrorCode::Throttled,
        Some("unavailable") => ErrorCode::Unavailable,
        _ => ErrorCode::Unauthenticated,
    };
    Error::new(code, message.unwrap_or("the credentials are not valid"))
}

fn plain(name: String, groups: Vec<String>) -> Result<Identity> {
    Ok(Identity {
        principal: Principal::parse(name)?,
        groups: check_groups(groups)?,
        tenant: None,
        scope: None,
    })
}

/// The values of a claim with several: an HTTP API writes the array `["a", "b"]` as `[a b]`.
fn listed(claim: &str) -> Vec<String> {
    let inner = claim
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(claim);
    let separator = if inner.contains(',') { ',' } else { ' ' };
    inner
        .split(separator)
        .map(|group| group.trim().trim_matches('"').to_owned())
        .collect()
}

/// Gives a request the context that an authorizer answered, as the gateway does.
pub fn give_context(request: &mut Request, fields: &Map<String, Value>) {
    let mut authorizer = ApiGatewayRequestAuthorizer::default();
    authorizer.fields = fields.clone().into_iter().collect();
    let mut context = ApiGatewayV2httpRequestContext::default();
    context.authorizer = Some(authorizer);
    request
        .extensions_mut()
        .insert(RequestContext::ApiGatewayV2(context));
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
