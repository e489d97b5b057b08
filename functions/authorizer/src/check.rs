//! Who calls, by what a request brings in its header `Authorization`.

use crate::secret::{has_hash, is_administrator, secret_of};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use shared::domain::{Identity, Principal, Scope, token};
use shared::http::caller::{IDENTITY_KEY, REFUSAL_KEY};
use shared::{App, Error, ErrorCode, Result};

/// Longest header that is looked at, in bytes.
const MAX_HEADER_BYTES: usize = 2_048;

/// The simple answer of an authorizer; its context says who calls, or why nobody does.
pub(crate) async fn answer(app: &App, event: &Value) -> Value {
    let context = match identify(app, authorization_of(event)).await {
        // The name stands by itself, too, for the gateway's log, which cannot look into what is nested.
        Ok(identity) => json!({ IDENTITY_KEY: identity, "principal": identity.principal }),
        Err(error) => {
            if error.code.status() >= 500 {
                tracing::error!(error = error.chain(), "A token could not be checked");
            }
            json!({ REFUSAL_KEY: {"code": error.code.as_str(), "message": error.public_message()} })
        }
    };
    json!({"isAuthorized": true, "context": context})
}

/// The header, whatever the case of its name; an HTTP API writes names in lower case.
fn authorization_of(event: &Value) -> Option<&str> {
    let headers = event.get("headers")?.as_object()?;
    headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("authorization"))
        .and_then(|(_, value)| value.as_str())
}

async fn identify(app: &App, header: Option<&str>) -> Result<Identity> {
    let secret = secret_of(app)?;
    let header = header.ok_or_else(|| {
        refused(
            "the request brings no token; send it as `Authorization: Bearer …`, in MLflow's clients by setting \
             MLFLOW_TRACKING_TOKEN",
        )
    })?;
    let text = token_of(header).ok_or_else(|| {
        refused(
            "the header `Authorization` is neither `Bearer` nor `Basic` with a token; correct it",
        )
    })?;
    if is_administrator(secret, &text) {
        return administrator(app);
    }
    // Which of these it was is nobody's business who has no valid token.
    let unknown = || {
        refused(
            "the token is not valid: it is mistyped, was revoked or has ended; ask for a new one",
        )
    };
    let (tenant, id) = token::parse(&text).ok_or_else(unknown)?;
    let found = app.registry.find_token(&tenant, id).await?;
    let found = found.ok_or_else(unknown)?;
    if !has_hash(secret, &text, &found.hash) {
        return Err(unknown());
    }
    found.identity(app.clock.now()).ok_or_else(unknown)
}

fn administrator(app: &App) -> Result<Identity> {
    if !app.config.administrator_token {
        return Err(refused(
            "this deployment takes no administrator's token; use another one",
        ));
    }
    Ok(Identity {
        principal: Principal::parse("administrator")?,
        groups: Vec::new(),
        tenant: None,
        scope: Some(Scope::everything()),
    })
}

/// The token within a header: `Bearer <token>`, or `Basic` with any name and the token as the password.
fn token_of(header: &str) -> Option<String> {
    if header.len() > MAX_HEADER_BYTES {
        return None;
    }
    let (scheme, rest) = header.trim().split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        return pair
            .split_once(':')
            .map(|(_, password)| password.to_owned());
    }
    None
}

fn refused(message: &str) -> Error {
    Error::new(ErrorCode::Unauthenticated, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_in_either_scheme() {
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for (header, expected) in [
            ("Bearer abc".to_owned(), Some("abc")),
            ("bearer  abc ".to_owned(), Some("abc")),
            (basic("ada:abc"), Some("abc")),
            (basic(":a:b"), Some("a:b")),
            (basic("abc"), None),
            ("Basic !".to_owned(), None),
            ("abc".to_owned(), None),
            ("AWS4-HMAC-SHA256 Credential=x".to_owned(), None),
            (format!("Bearer {}", "a".repeat(3_000)), None),
        ] {
            assert_eq!(token_of(&header).as_deref(), expected, "{header}");
        }
    }
}
