//! The drop zone: what is copied under `dropzone/<tenant>/<model>/` becomes a version by itself once it is whole.
//!
//! S3 shows an object only when it is whole, but cannot say that no other one follows.
//! So a drop counts as whole when an object named `_COMPLETE` arrives, or when nothing new came for the quiet time.
//! What was taken is hidden behind delete markers; the version pins the object versions, so no byte is moved.

use crate::models::{self, CreateModel};
use crate::versions::{Draft, native, register_draft};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shared::domain::model::Notes;
use shared::domain::{
    ArtifactPath, DeclaredArtifact, EventType, Metadata, ModelName, Principal, Source, TenantName,
    Timestamp, Version, VersionId, VersionNumber,
};
use shared::dynamodb::idempotency::Answer;
use shared::dynamodb::{Idempotency, Outcome, StoredResponse, WorkItem, WorkKind};
use shared::events::{Message, ObjectCreated, each_message};
use shared::http::Caller;
use shared::s3::{ObjectInfo, keys};
use shared::{App, Error, ErrorCode, Result};
use std::collections::{BTreeMap, BTreeSet};

/// How often the whole drop zone is looked at, in minutes.
const LOOK_AROUND_MINUTES: u64 = 15;

/// How many objects are looked at at once.
const PARALLEL_HEADS: usize = 16;

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

/// Looks at drops whose quiet time is over, and now and then at the whole drop zone.
pub(crate) async fn sweep(app: &App) -> Result<Value> {
    let minute = app.clock.now().millis() / 60_000;
    if minute.is_multiple_of(LOOK_AROUND_MINUTES) {
        look_around(app).await?;
    }
    let now = app.clock.now();
    // Each object that arrived left a hint; as long as a subject has one in the future, it is not quiet.
    let horizon = now.plus_millis((app.config.drop_zone_quiet_seconds + 2) * 1000);
    let (due, later): (Vec<WorkItem>, Vec<WorkItem>) = app
        .registry
        .due_work(WorkKind::Drop, horizon, 1_000)
        .await?
        .into_iter()
        .partition(|item| item.due <= now);
    let mut seen: BTreeSet<String> = later.into_iter().map(|item| item.subject).collect();
    for item in due {
        let Ok(subject) = serde_json::from_str::<DropSubject>(&item.subject) else {
            tracing::error!("A work item of kind `drop` is malformed and is dropped");
            app.registry.finish_work(&item).await?;
            continue;
        };
        if !seen.insert(item.subject.clone()) {
            app.registry.finish_work(&item).await?;
            continue;
        }
        match take(app, &subject, true, &app.ids.next()).await {
            Ok(Look::Done) => app.registry.finish_work(&item).await?,
            Ok(Look::Again(due)) => app.registry.postpone_work(&item, due).await?,
            Err(error) => {
                tracing::warn!(
                    model.name = subject.model.as_str(),
                    error = error.chain(),
                    "Taking a drop failed; it is tried again"
                );
                app.registry
                    .postpone_work(&item, quiet_end(app, now))
                    .await?;
            }
        }
    }
    Ok(Value::Null)
}

/// Finds drops whose every notification was lost: what was taken is hidden, so whatever is listed waits.
async fn look_around(app: &App) -> Result<()> {
    let waiting = app.bucket.list("dropzone/", 1_000).await?;
    let subjects: BTreeSet<DropSubject> = waiting
        .iter()
        .filter_map(|object| keys::drop_of(&object.key))
        .map(|(tenant, model, _)| DropSubject { tenant, model })
        .collect();
    // Due now: a look tells by itself whether the drop is quiet, and a hint in the future would keep it waiting for as
    // long as this goes on.
    let now = Timestamp::from_millis(app.clock.now().millis() / 1000 * 1000);
    for subject in subjects {
        app.registry.add_work(&work(&subject, now)?).await?;
    }
    Ok(())
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
    // S3 dates an object that was uploaded in parts by the beginning of its upload, and does not list it before its end.
    let quiet_at = quiet_end(app, newest);
    if needs_quiet && app.clock.now() < quiet_at {
        return Ok(Look::Again(quiet_at));
    }
    if needs_quiet && app.bucket.has_uploads_under_way(&prefix).await? {
        return Ok(Look::Again(quiet_end(app, app.clock.now())));
    }
    let taken: Vec<(String, String)> = objects
        .iter()
        .copied()
        .chain(marker)
        .map(|object| (object.key.clone(), object.etag.clone()))
        .collect();
    let fingerprint = fingerprint(&objects);
    match register_drop(app, subject, &prefix, &objects, &fingerprint, request_id).await {
        Ok(()) => {
            app.bucket.hide(&taken).await?;
            Ok(Look::Done)
        }
        Err(error) if error.retryable() => Err(error),
        Err(error) => {
            refuse(app, subject, &error, &fingerprint, request_id).await?;
            Ok(Look::Done)
        }
    }
}

/// Tells one state of a drop from another: the same objects are the same drop, however often they are looked at.
fn fingerprint(objects: &[&ObjectInfo]) -> String {
    let mut hasher = Sha256::new();
    for object in objects {
        let modified = object.modified_at.to_string();
        for part in [object.key.as_str(), &object.etag, &modified] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
    }
    hex::encode(hasher.finalize())
}

/// Pins an object of a drop as an artifact.
pub(crate) async fn pin(app: &App, prefix: &str, object: &ObjectInfo) -> Result<DeclaredArtifact> {
    let path = ArtifactPath::parse(object.key.strip_prefix(prefix).unwrap_or_default())?;
    let head = app.bucket.head(&object.key, None).await?;
    let head = head
        .filter(|head| head.etag == object.etag)
        .ok_or_else(|| {
            Error::new(
                ErrorCode::Unavailable,
                "the drop changed while it was being taken; it is looked at again",
            )
        })?;
    Ok(DeclaredArtifact {
        path,
        size_bytes: head.size_bytes,
        digest: head.digest,
        media_type: None,
        key: Some(object.key.clone()),
        object_version: head.object_version,
    })
}

async fn register_drop(
    app: &App,
    subject: &DropSubject,
    prefix: &str,
    objects: &[&ObjectInfo],
    fingerprint: &str,
    request_id: &str,
) -> Result<()> {
    let mut artifacts = Vec::with_capacity(objects.len());
    for chunk in objects.chunks(PARALLEL_HEADS) {
        artifacts.extend(try_join_all(chunk.iter().map(|object| pin(app, prefix, object))).await?);
    }
    let caller = Caller {
        tenant: subject.tenant.clone(),
        principal: Principal::parse("drop-zone")?,
        groups: Vec::new(),
        scope: None,
        request_id: request_id.to_owned(),
        idempotency: Some(Idempotency {
            key: format!("drop:{}:{fingerprint}", subject.model),
            fingerprint: fingerprint.to_owned(),
        }),
    };
    let draft = || Draft {
        artifacts: artifacts.clone(),
        metadata: Metadata::default(),
        notes: Notes::default(),
        source: Source::Drop,
        origin: None,
    };
    let show = |version: &Version| native(app, version);
    let outcome = match register_draft(app, &caller, &subject.model, draft(), (201, &show)).await {
        Err(error) if error.code == ErrorCode::ModelNotFound => {
            let create = CreateModel {
                name: subject.model.clone(),
                description: None,
                tags: BTreeMap::new(),
                owner: None,
                replace_deleted: false,
            };
            let creator = Caller {
                idempotency: None,
                ..caller.clone()
            };
            match models::create_native(app, &creator, create).await {
                Ok(_) => {}
                Err(error) if error.code == ErrorCode::ModelExists => {}
                Err(error) => return Err(error),
            }
            register_draft(app, &caller, &subject.model, draft(), (201, &show)).await?
        }
        other => other?,
    };
    let id = match outcome {
        Outcome::Done(version) => version.id,
        // An earlier look registered it and was cut off before it could say so.
        Outcome::Replayed(stored) => {
            let id = VersionId {
                tenant: subject.tenant.clone(),
                model: subject.model.clone(),
                number: VersionNumber::new(stored.body["version"].as_u64().unwrap_or(0))?,
            };
            app.registry.version(&id).await?.id
        }
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

/// Records why a drop could not become a version, once for each state of it; a new object is a new try.
async fn refuse(
    app: &App,
    subject: &DropSubject,
    error: &Error,
    fingerprint: &str,
    request_id: &str,
) -> Result<()> {
    let model = app
        .registry
        .find_home(&subject.tenant, &subject.model)
        .await?
        .unwrap_or_else(|| subject.model.clone());
    let event = app
        .event(
            EventType::DropRefused,
            &subject.tenant,
            &Principal::parse("drop-zone")?,
            request_id,
        )
        .about(&model)
        .with("code", error.code.as_str())
        .with("message", error.public_message())
        .with("details", json!(error.details));
    let answer = Answer {
        idempotency: Idempotency {
            key: format!("drop-refused:{}:{fingerprint}", subject.model),
            fingerprint: fingerprint.to_owned(),
        },
        response: StoredResponse {
            status: error.code.status(),
            body: json!({ "event": event.id }),
        },
        at: event.time,
    };
    if app.registry.record_event(&event, Some(answer)).await? == Outcome::Done(()) {
        tracing::warn!(
            model.name = subject.model.as_str(),
            error = error.chain(),
            "Refused a drop for `{}`",
            subject.model
        );
    }
    Ok(())
}
