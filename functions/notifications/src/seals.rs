//! Seals: once a day, the ends of all chains that grew are written into an object that is never written again.
//!
//! A seal names the seal before it by its digest, so that none can be taken out unnoticed. Whoever keeps one seal can
//! prove every event until then.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::domain::audit::canonical;
use shared::domain::{Digest, TenantName, Timestamp};
use shared::dynamodb::{WorkItem, WorkKind};
use shared::http::Caller;
use shared::s3::keys;
use shared::{App, Error, ErrorCode, Result};
use std::collections::BTreeMap;

/// A day in milliseconds.
const DAY_MILLIS: u64 = 24 * 3_600_000;
/// How long after its end a day is sealed, in milliseconds: longer than any event of it is on its way as a rule.
const DELAY_MILLIS: u64 = 10 * 60_000;
/// Seals that are due and made in one sweep.
const AT_ONCE: usize = 20;

/// What a piece of sealing work is about.
#[derive(Debug, Serialize, Deserialize)]
struct Subject {
    tenant: TenantName,
    /// The first instant of the day, in milliseconds.
    begins: u64,
}

/// The work of sealing the day on which an event was chained.
pub(crate) fn work_of(tenant: &TenantName, now: Timestamp) -> WorkItem {
    let begins = now.millis() - now.millis() % DAY_MILLIS;
    WorkItem {
        kind: WorkKind::Seal,
        due: Timestamp::from_millis(begins + DAY_MILLIS + DELAY_MILLIS),
        subject: json!({"tenant": tenant, "begins": begins}).to_string(),
    }
}

/// Makes the seals that are due.
pub(crate) async fn seal_due(app: &App, now: Timestamp) -> Result<usize> {
    let work = app.registry.due_work(WorkKind::Seal, now, AT_ONCE).await?;
    for item in &work {
        if let Ok(subject) = serde_json::from_str::<Subject>(&item.subject) {
            seal(app, &subject, now).await?;
        } else {
            tracing::error!(item.subject, "Work for a seal is malformed and was dropped");
        }
        app.registry.finish_work(item).await?;
    }
    Ok(work.len())
}

async fn seal(app: &App, subject: &Subject, now: Timestamp) -> Result<()> {
    let tenant = &subject.tenant;
    let begins = Timestamp::from_millis(subject.begins);
    let day = begins.day();
    let before = app.registry.last_seal(tenant).await?;
    if before.as_ref().is_some_and(|(last, _)| *last >= day) {
        return Ok(());
    }
    let mut ends: BTreeMap<String, Value> = BTreeMap::new();
    // Events are chained when they are dispatched, so this is all that grew a chain on the day.
    for event in app.registry.feed_of_day(tenant, &day).await? {
        let (Some(home), Some(link)) = (event.home(), &event.chain) else {
            continue;
        };
        let sealed = ends.get(home).and_then(|end| end["sequence"].as_u64());
        if sealed.is_none_or(|sealed| sealed < link.sequence) {
            ends.insert(
                home.to_owned(),
                json!({
                    "model_id": home, "model": event.model,
                    "sequence": link.sequence, "hash": link.hash,
                }),
            );
        }
    }
    let document = canonical(&json!({
        "slipway_seal": 1,
        "tenant": tenant,
        "day": day,
        "sealed_at": now,
        "previous": before.map(|(day, digest)| json!({"day": day, "digest": digest})),
        "models": ends.into_values().collect::<Vec<_>>(),
    }))?;
    let key = keys::seal(tenant, &day);
    let mut bytes = document.into_bytes();
    let days = app.config.seal_retention_days;
    let until = (days > 0).then(|| now.plus_millis(days * DAY_MILLIS));
    if !app
        .bucket
        .put_sealed(&key, bytes.clone().into(), "application/json", until)
        .await?
    {
        // An earlier sweep wrote it and was cut off before it could say so.
        bytes = app
            .bucket
            .read_whole(&key, None)
            .await?
            .ok_or_else(|| Error::new(ErrorCode::Unavailable, "a seal is being written"))?
            .to_vec();
    }
    let digest = Digest::of(&bytes);
    app.registry.keep_seal(tenant, &day, &digest).await?;
    tracing::info!(object.key = key, "Sealed {day}");
    Ok(())
}

/// Lists the last hundred seals, newest first.
pub(crate) async fn list(app: &App, caller: &Caller) -> Result<Value> {
    let seals: Vec<Value> = app
        .registry
        .seals(&caller.tenant, 100)
        .await?
        .into_iter()
        .map(|(day, digest)| json!({"day": day, "digest": digest}))
        .collect();
    Ok(json!({"seals": seals}))
}

/// The seal of a day.
pub(crate) async fn get(app: &App, caller: &Caller, day: &str) -> Result<Value> {
    let bytes = app
        .bucket
        .read_whole(&keys::seal(&caller.tenant, day), None)
        .await?
        .ok_or_else(|| {
            Error::new(
                ErrorCode::ArtifactNotFound,
                format!("there is no seal of day `{day}`; a day is sealed a little after its end if a chain grew on it"),
            )
        })?;
    serde_json::from_slice(&bytes).map_err(|error| Error::internal("reading a seal", error))
}
