//! Tokens: created and shown once, listed, revoked.

use crate::secret::{hash, repeatable, secret_of};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::domain::access::{ModelPattern, check_groups, denied};
use shared::domain::model::check_text;
use shared::domain::token::{MAX_LIFE_SECONDS, MAX_NAME, Token, text_of, token_not_found};
use shared::domain::{Action, EventType, Principal, Scope, Timestamp};
use shared::dynamodb::{Outcome, Page};
use shared::http::Caller;
use shared::{App, Error, Result};
use std::collections::BTreeSet;

/// Random bytes of a token.
const SECRET_BYTES: usize = 32;

/// The body that creates a token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    name: String,
    /// Whose acts those of its bearer are; the token's name unless said.
    #[serde(default)]
    actor: Option<Principal>,
    #[serde(default)]
    groups: Vec<String>,
    actions: BTreeSet<Action>,
    /// Patterns of model names; every model unless said.
    #[serde(default)]
    models: Option<BTreeSet<ModelPattern>>,
    /// It ends by itself after so many seconds; never unless said.
    #[serde(default)]
    expires_in_seconds: Option<u64>,
}

/// A token as it is shown, without itself.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TokenView {
    id: String,
    name: String,
    actor: Principal,
    groups: Vec<String>,
    actions: BTreeSet<Action>,
    models: BTreeSet<ModelPattern>,
    created_by: Principal,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

impl From<Token> for TokenView {
    fn from(token: Token) -> Self {
        Self {
            id: token.id,
            name: token.name,
            actor: token.actor,
            groups: token.groups,
            actions: token.scope.actions,
            models: token.scope.models,
            created_by: token.created_by,
            created_at: token.created_at,
            expires_at: token.expires_at,
        }
    }
}

/// Creates a token; the answer shows it, and no other answer does.
pub(crate) async fn create(app: &App, caller: &Caller, new: NewToken) -> Result<Outcome<Value>> {
    let secret = secret_of(app)?;
    let now = app.clock.now();
    let (token, text) = decide(app, caller, new, secret, now)?;
    let event = app
        .event(
            EventType::TokenCreated,
            &caller.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .with("token_id", token.id.as_str())
        .with("name", token.name.as_str())
        .with("actor", token.actor.as_str())
        .with("groups", token.groups.clone())
        .with("actions", json!(token.scope.actions))
        .with("models", json!(token.scope.models))
        .with("expires_at", json!(token.expires_at));
    let view = TokenView::from(token.clone());
    // What is stored under an idempotency key is the view alone; the token is made again from the key.
    let answer = caller.answer(201, &view, now)?;
    let outcome = app.registry.create_token(&token, &event, answer).await?;
    Ok(match outcome {
        Outcome::Done(()) => {
            tracing::info!(token.id = token.id, "Created token `{}`", token.id);
            Outcome::Done(shown(json!(view), &text))
        }
        Outcome::Replayed(mut stored) => {
            let id = stored.body["id"].as_str().unwrap_or_default().to_owned();
            let text = text_of(&caller.tenant, &id, &secret_part(app, caller, secret));
            stored.body = shown(stored.body, &text);
            Outcome::Replayed(stored)
        }
    })
}

fn shown(mut view: Value, text: &str) -> Value {
    view["token"] = text.into();
    view
}

fn secret_part(app: &App, caller: &Caller, secret: &str) -> String {
    match &caller.idempotency {
        None => hex::encode(app.ids.secret::<SECRET_BYTES>()),
        Some(idempotency) => {
            let request = json!([caller.tenant, idempotency.key, idempotency.fingerprint]);
            repeatable(secret, &request.to_string())
        }
    }
}

fn decide(
    app: &App,
    caller: &Caller,
    new: NewToken,
    secret: &str,
    now: Timestamp,
) -> Result<(Token, String)> {
    check_text("name", Some(&new.name), MAX_NAME)?;
    if new.name.trim().is_empty() {
        return Err(Error::invalid(
            "name",
            "the name is empty; say what the token is for",
        ));
    }
    if new.actions.is_empty() {
        return Err(Error::invalid(
            "actions",
            "the token would allow nothing; name some of `read`, `write`, `promote`, `approve` and `admin`",
        ));
    }
    let models = new.models.unwrap_or_else(|| Scope::everything().models);
    if models.is_empty() || models.len() > 100 {
        return Err(Error::invalid(
            "models",
            "name 1 to 100 patterns of model names, or leave `models` out for every model",
        ));
    }
    let scope = Scope {
        actions: new.actions,
        models,
    };
    // Nobody gives away more than they have.
    if let Some(own) = &caller.scope
        && !own.covers(&scope)
    {
        return Err(denied(Action::Admin));
    }
    let expires_at = match new.expires_in_seconds {
        None => None,
        Some(seconds @ 1..=MAX_LIFE_SECONDS) => {
            Some(Timestamp::from_millis(now.millis() + seconds * 1_000))
        }
        Some(seconds) => {
            return Err(Error::invalid(
                "expires_in_seconds",
                format!("`{seconds}` seconds is out of bounds; use 1 to {MAX_LIFE_SECONDS}"),
            ));
        }
    };
    let id = app.ids.next();
    let text = text_of(&caller.tenant, &id, &secret_part(app, caller, secret));
    let token = Token {
        id,
        tenant: caller.tenant.clone(),
        actor: match new.actor {
            Some(actor) => actor,
            None => Principal::parse(new.name.as_str())?,
        },
        name: new.name,
        groups: check_groups(new.groups)?,
        scope,
        hash: hash(secret, &text),
        created_by: caller.principal.clone(),
        created_at: now,
        expires_at,
    };
    Ok((token, text))
}

/// One page of tokens, newest first.
pub(crate) async fn list(
    app: &App,
    caller: &Caller,
    limit: usize,
    after: Option<String>,
) -> Result<Page<TokenView>> {
    let page = app.registry.tokens(&caller.tenant, limit, after).await?;
    Ok(Page {
        items: page.items.into_iter().map(Into::into).collect(),
        after: page.after,
    })
}

/// One token.
pub(crate) async fn get(app: &App, caller: &Caller, id: &str) -> Result<TokenView> {
    app.registry
        .find_token(&caller.tenant, id)
        .await?
        .map(Into::into)
        .ok_or_else(|| token_not_found(id))
}

/// Revokes a token; its bearers are nobody from now on.
pub(crate) async fn revoke(app: &App, caller: &Caller, id: &str) -> Result<Outcome<Value>> {
    let event = app
        .event(
            EventType::TokenRevoked,
            &caller.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .with("token_id", id);
    let answer = caller.answer(200, &json!({}), app.clock.now())?;
    let outcome = app
        .registry
        .revoke_token(&caller.tenant, id, &event, answer)
        .await?;
    if matches!(outcome, Outcome::Done(())) {
        tracing::info!(token.id = id, "Revoked token `{id}`");
    }
    Ok(outcome.map(|()| json!({})))
}
