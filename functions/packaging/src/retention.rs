//! Retention: the rules of a model, what they would do, and their doing.
//!
//! What the rules let go is deleted as anybody would delete it: restorably, with an event that says why. What nobody
//! restores is purged when its window is over.

use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::retention::{Retention, Rules};
use shared::domain::{EventType, ModelName, Principal, TenantName, Timestamp, Version};
use shared::dynamodb::{Outcome, VersionChange};
use shared::http::Caller;
use shared::{App, Error, ErrorCode, Result};

/// How long until the rules are applied again, in milliseconds.
pub(crate) const EVERY_MILLIS: u64 = 24 * 3_600 * 1000;
/// Most versions that one look deletes; the next look is soon if there are more.
const MOST_DELETIONS: usize = 100;
/// How long until a look goes on that had more to delete, in milliseconds.
const SOON_MILLIS: u64 = 5 * 60_000;

/// How the rules are set.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetParams {
    /// Whether to say what the rules would delete instead of setting them.
    #[serde(default)]
    dry_run: bool,
}

/// The rules of a model.
pub(crate) async fn get(app: &App, caller: &Caller, model: &ModelName) -> Result<Value> {
    let head = app.registry.model(&caller.tenant, model).await?;
    let retention = app
        .registry
        .find_retention(&caller.tenant, &head.name)
        .await?
        .ok_or_else(|| {
            Error::new(
                ErrorCode::ArtifactNotFound,
                format!("`{model}` has no retention rules; all of its versions stay"),
            )
        })?;
    Ok(json!(retention))
}

/// Sets the rules of a model, or says what they would delete.
pub(crate) async fn set(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    params: &SetParams,
    rules: Rules,
) -> Result<Outcome<Value>> {
    rules.check()?;
    let head = app.registry.model(&caller.tenant, model).await?;
    head.require_live()?;
    let model = &head.name;
    if params.dry_run {
        let now = app.clock.now();
        let (versions, aliased) = all_of(app, &caller.tenant, model).await?;
        let expired: Vec<Value> = rules
            .expired(&versions, &aliased, now)
            .into_iter()
            .map(|version| {
                json!({
                    "version": version.id.number,
                    "created_at": version.created_at,
                    "size_bytes": version.size_bytes,
                })
            })
            .collect();
        let live = versions
            .iter()
            .filter(|version| version.deleted_at.is_none())
            .count();
        return Ok(Outcome::Done(json!({
            "rules": rules,
            "would_delete": expired,
            "would_keep_count": live - expired.len(),
        })));
    }
    let event = app
        .event(
            EventType::RetentionSet,
            &caller.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .about(model)
        .with("rules", json!(rules));
    let retention = Retention {
        rules,
        set_by: caller.principal.clone(),
        set_at: event.time,
    };
    let view = json!(retention);
    let answer = caller.answer(200, &view, event.time)?;
    let outcome = app
        .registry
        .set_retention((&caller.tenant, model), &retention, &event, answer)
        .await?;
    Ok(outcome.map(|()| view))
}

/// Removes the rules of a model.
pub(crate) async fn remove(
    app: &App,
    caller: &Caller,
    model: &ModelName,
) -> Result<Outcome<Value>> {
    let head = app.registry.model(&caller.tenant, model).await?;
    let model = &head.name;
    let event = app
        .event(
            EventType::RetentionRemoved,
            &caller.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .about(model);
    let answer = caller.answer(200, &json!({}), event.time)?;
    let outcome = app
        .registry
        .remove_retention((&caller.tenant, model), &event, answer)
        .await?;
    Ok(outcome.map(|()| json!({})))
}

type Known = (
    Vec<Version>,
    std::collections::BTreeSet<shared::domain::VersionNumber>,
);

/// Every version of a model, and which of them an alias ever held.
async fn all_of(app: &App, tenant: &TenantName, model: &ModelName) -> Result<Known> {
    let versions = app.registry.every_version(tenant, model).await?;
    let aliased = app.registry.ever_aliased(tenant, model).await?;
    Ok((versions, aliased))
}

/// Applies the rules of a model; when to look again, unless it has none any more.
pub(crate) async fn apply(
    app: &App,
    tenant: &TenantName,
    model: &ModelName,
    now: Timestamp,
) -> Result<Option<Timestamp>> {
    let Some(retention) = app.registry.find_retention(tenant, model).await? else {
        return Ok(None);
    };
    let head = match app.registry.model(tenant, model).await {
        Ok(head) => head,
        Err(error) if error.code == ErrorCode::ModelNotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if head.deleted_at.is_some() {
        // It may be restored, and then has its rules.
        return Ok(Some(now.plus_millis(EVERY_MILLIS)));
    }
    let model = &head.name;
    let (versions, aliased) = all_of(app, tenant, model).await?;
    let expired = retention.rules.expired(&versions, &aliased, now);
    let actor = Principal::parse("slipway").expect("the literal is a valid principal");
    for version in expired.iter().take(MOST_DELETIONS) {
        let id = &version.id;
        let event = app
            .event(
                EventType::VersionDeleted,
                tenant,
                &actor,
                &version.request_id,
            )
            .about(model)
            .of_version(id.number)
            .because(Some(format!(
                "the retention rules that {} set at {}",
                retention.set_by, retention.set_at
            )));
        // An alias that took it meanwhile keeps it.
        let deleted = app
            .registry
            .change_version(id, &VersionChange::Delete, &event, None)
            .await?;
        if deleted.is_ok() {
            tracing::info!(
                model.name = id.model.as_str(),
                version.number = id.number.get(),
                "The retention rules let {id} go"
            );
        }
    }
    let wait = if expired.len() > MOST_DELETIONS {
        SOON_MILLIS
    } else {
        EVERY_MILLIS
    };
    Ok(Some(now.plus_millis(wait)))
}
