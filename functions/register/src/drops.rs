//! The drop zone: what is copied under `dropzone/<tenant>/<model>/` becomes a version by itself once it is whole.
//!
//! S3 shows an object only when it is whole, but cannot say that no other one follows.
//! So a drop counts as whole when an object named `_COMPLETE` arrives, or when nothing new came for the quiet time.
//! What was taken is hidden behind delete markers; the version pins the object versions, so no byte is moved.

use crate::models::{self, CreateModel};
use crate::versions::{Draft, register_draft};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shared::domain::model::Notes;
use shared::domain::{
    ArtifactPath, DeclaredArtifact, EventType, Metadata, ModelName, Principal, TenantName,
    Timestamp, VersionId, VersionNumber,
};
use shared::dynamodb::{Idempotency, Outcome, WorkItem, WorkKind};
use shared::events::{Message, ObjectCreated, each_message};
use shared::http::Caller;
use shared::s3::{ObjectInfo, keys};
use shared::{App, Error, ErrorCode, Result};
use std::collections::BTreeMap;

/// Which model a drop is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct DropSubject {
    tenant: TenantName,
    model: ModelName,
}

/// What became of a look at a drop.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// There is nothing left to do.
    Done,
    /// It is not quiet yet; look again then.
    Again(Timestamp),
}

/// Handles queue messages about objects in the drop zone.
pub(crate) async fn receive(app: &App, messages: Vec<Message>) -> Value {
    each_message(messages, |message: Message| async move {
        let mut subjects: BTreeMap<DropSubject, bool> = BTreeMap::new();
        for object in ObjectCreated::from_message(&message.body)? {
            let Some((tenant, model, path)) = keys::drop_of(&object.key) else {
                tracing::warn!(
                    object.key = object.key,
                    "An object in the drop zone names no model; it stays where it is"
                );
                continue;
            };
            let is_complete = path == keys::COMPLETE_MARKER;
            *subjects.entry(DropSubject { tenant, model }).or_default() |= is_complete;
        }
        for (subject, is_complete) in subjects {
            if is_complete {
                take(app, &subject, false, &message.id).await?;
            } else {
                app.registry
                    .add_work(&work(&subject, quiet_end(app, app.clock.now()))?)
                    .await?;
            }
        }
        Ok(())
    })
    .await
}

/// Looks at drops whose quiet time is over.
pub(crate) async fn sweep(app: &App) -> Result<Value> {
    let due = app
        .registry
        .due_work(WorkKind::Drop, app.clock.now(), 100)
        .await?;
    let mut seen = std::collections::BTreeSet::new();
    for item in due {
        let Ok(subject) = serde_json::from_str::<DropSubject>(&item.subject) else {
            tracing::error!("A work item of kind `drop` is malformed and is dropped");
            app.registry.finish_work(&item).await?;
            continue;
        };
        if !seen.insert(subject.clone()) {
            // An upload of many files leaves many hints; one look answers them all.
            app.registry.finish_work(&item).await?;
            continue;
        }
        let looked = take(app, &subject, true, &app.ids.next()).await;
        match looked {
            Ok(Look::Done) => app.registry.finish_work(&item).await?,
            Ok(Look::Again(due)) => app.registry.postpone_work(&item, due).await?,
            Err(error) => {
                tracing::warn!(
                    model.name = subject.model.as_str(),
                    error = error.chain(),
                    "Taking a drop failed; it is tried again"
                );
            }
        }
    }
    Ok(Value::Null)
}

/// The end of a quiet time that begins now, on a whole second so that a burst of objects makes one work item.
fn quiet_end(app: &App, from: Timestamp) -> Timestamp {
    Timestamp::from_millis((from.millis() / 1000 + 1 + app.config.drop_zone_quiet_seconds) * 1000)
}

fn work(subject: &DropSubject, due: Timestamp) -> Result<WorkItem> {
    let subject =
        serde_json::to_string(subject).map_err(|error| Error::internal("writing work", error))?;
    Ok(WorkItem {
        kind: WorkKind::Drop,
        due,
        subject,
    })
}

/// Registers what lies in a model's drop zone, if it is whole.
async fn take(
    app: &App,
    subject: &DropSubject,
    needs_quiet: bool,
    request_id: &str,
) -> Result<Look> {
    let prefix = keys::drop_prefix(&subject.tenant, &subject.model);
    let listed = app
        .bucket
        .list(&prefix, shared::domain::artifact::MAX_ARTIFACTS + 100)
        .await?;
    // A console makes empty objects that end in `/` to show folders.
    let objects: Vec<&ObjectInfo> = listed
        .iter()
        .filter(|object| {
            !object.key.ends_with('/')
                && object.key.strip_prefix(&prefix) != Some(keys::COMPLETE_MARKER)
        })
        .collect();
    let marker = listed
        .iter()
        .filter(|object| object.key.strip_prefix(&prefix) == Some(keys::COMPLETE_MARKER));
    let Some(newest) = objects.iter().map(|object| object.modified_at).max() else {
        return Ok(Look::Done);
    };
    let quiet_at = quiet_end(app, newest);
    if needs_quiet && app.clock.now() < quiet_at {
        return Ok(Look::Again(quiet_at));
    }
    let taken: Vec<(String, String)> = objects
        .iter()
        .copied()
        .chain(marker)
        .map(|object| (object.key.clone(), object.etag.clone()))
        .collect();
    match register_drop(app, subject, &prefix, &objects, request_id).await {
        Ok(()) => {
            app.bucket.hide(&taken).await?;
            Ok(Look::Done)
        }
        Err(error) if error.retryable() => Err(error),
        Err(error) => {
            refuse(app, subject, &error, request_id).await?;
            Ok(Look::Done)
        }
    }
}

async fn register_drop(
    app: &App,
    subject: &DropSubject,
    prefix: &str,
    objects: &[&ObjectInfo],
    request_id: &str,
) -> Result<()> {
    let mut artifacts = Vec::with_capacity(objects.len());
    let mut hasher = Sha256::new();
    for object in objects {
        let path = ArtifactPath::parse(object.key.strip_prefix(prefix).unwrap_or_default())?;
        let head = app
            .bucket
            .head(&object.key, None)
            .await?
            .filter(|head| head.etag == object.etag)
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::Unavailable,
                    "the drop changed while it was being taken; it is looked at again",
                )
            })?;
        for part in [
            object.key.as_str(),
            head.etag.as_str(),
            head.object_version.as_deref().unwrap_or_default(),
        ] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        artifacts.push(DeclaredArtifact {
            path,
            size_bytes: head.size_bytes,
            digest: head.digest,
            media_type: None,
            key: Some(object.key.clone()),
            object_version: head.object_version,
        });
    }
    // The same objects are the same drop, however often they are looked at.
    let fingerprint = hex::encode(hasher.finalize());
    let caller = Caller {
        tenant: subject.tenant.clone(),
        principal: Principal::parse("drop-zone")?,
        request_id: request_id.to_owned(),
        idempotency: Some(Idempotency {
            key: format!("drop:{}:{fingerprint}", subject.model),
            fingerprint,
        }),
    };
    let draft = || Draft {
        artifacts: artifacts.clone(),
        metadata: Metadata::default(),
        notes: Notes::default(),
    };
    let outcome = match register_draft(app, &caller, &subject.model, draft()).await {
        Err(error) if error.code == ErrorCode::ModelNotFound => {
            let create = CreateModel {
                name: subject.model.clone(),
                description: None,
                tags: BTreeMap::new(),
                owner: None,
            };
            let creator = Caller {
                idempotency: None,
                ..caller.clone()
            };
            match models::create(app, &creator, create).await {
                Ok(_) => {}
                Err(error) if error.code == ErrorCode::ModelExists => {}
                Err(error) => return Err(error),
            }
            register_draft(app, &caller, &subject.model, draft()).await?
        }
        other => other?,
    };
    let number = match &outcome {
        Outcome::Done(version) => version.id.number,
        // An earlier look registered it and was cut off before it could say so.
        Outcome::Replayed(stored) => {
            VersionNumber::new(stored.body["version"].as_u64().unwrap_or(0))?
        }
    };
    let id = VersionId {
        tenant: subject.tenant.clone(),
        model: subject.model.clone(),
        number,
    };
    app.bucket
        .put_immutable(
            &keys::dropped(&id),
            Vec::new().into(),
            "application/octet-stream",
        )
        .await?;
    Ok(())
}

/// Records why a drop could not become a version; its objects stay, and a new object is a new try.
async fn refuse(app: &App, subject: &DropSubject, error: &Error, request_id: &str) -> Result<()> {
    tracing::warn!(
        model.name = subject.model.as_str(),
        error = error.chain(),
        "Refused a drop for `{}`",
        subject.model
    );
    let event = app
        .event(
            EventType::DropRefused,
            &subject.tenant,
            &Principal::parse("drop-zone")?,
            request_id,
        )
        .about(&subject.model)
        .with("code", error.code.as_str())
        .with("message", error.public_message())
        .with("details", json!(error.details));
    app.registry.record_event(&event).await
}
