//! The public keys whose signatures a tenant trusts: added once under a name, and removed.

use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::EventType;
use shared::dynamodb::{MAX_TRUSTED_KEYS, Outcome, TrustedKey};
use shared::http::Caller;
use shared::signing::PublicKey;
use shared::{App, Error, Result};

/// A key to trust.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrustKey {
    /// The public key on P-256, as PEM.
    public_key: String,
}

pub(crate) async fn add(
    app: &App,
    caller: &Caller,
    name: &str,
    command: TrustKey,
) -> Result<Outcome<TrustedKey>> {
    check_name(name)?;
    let key = TrustedKey {
        name: name.to_owned(),
        public_key: PublicKey::parse(&command.public_key)?.pem()?,
        added_by: caller.principal.clone(),
        added_at: app.clock.now(),
    };
    let known = app.registry.trusted_keys(&caller.tenant).await?;
    if known.len() >= MAX_TRUSTED_KEYS && known.iter().all(|known| known.name != name) {
        return Err(Error::invalid(
            "name",
            format!("the tenant trusts {MAX_TRUSTED_KEYS} keys, which is the most; remove one"),
        ));
    }
    let event = app
        .event(
            EventType::TrustedKeyAdded,
            &caller.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .with("name", name);
    let answer = caller.answer(201, &key, event.time)?;
    let outcome = app
        .registry
        .add_trusted_key(&caller.tenant, &key, &event, answer)
        .await?;
    Ok(outcome.map(|()| key))
}

pub(crate) async fn remove(app: &App, caller: &Caller, name: &str) -> Result<Outcome<Value>> {
    check_name(name)?;
    let event = app
        .event(
            EventType::TrustedKeyRemoved,
            &caller.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .with("name", name);
    let answer = caller.answer(200, &json!({}), event.time)?;
    let outcome = app
        .registry
        .remove_trusted_key(&caller.tenant, name, &event, answer)
        .await?;
    Ok(outcome.map(|()| json!({})))
}

fn check_name(name: &str) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(is_plain) {
        Ok(())
    } else {
        Err(Error::invalid(
            "name",
            "the name of a trusted key has 1 to 64 letters, digits, `-`, `_` and `.`",
        ))
    }
}
