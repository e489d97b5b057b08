//! What has no route: what validation, packaging, the schedule and the dispatcher do by themselves.
//!
//! Their reading and writing of the bucket is left out: what is asked of the table is what they ask of it.

use crate::play::{Answer, RUNS_TENANT};
use crate::wishes::{VERDICTS, Wish};
use serde_json::{Value, json};
use shared::domain::version::{Document, FilesOf, Package, Validation};
use shared::domain::{
    Digest, Event, EventType, Model, ModelName, Principal, Status, TenantName, VersionId,
    VersionNumber,
};
use shared::dynamodb::{Deleted, Dispatch, Held, Judgement, Packing, Rejudgement, VersionChange};
use shared::{App, Error, ErrorCode, Result};

/// How long what is deleted can be restored, in milliseconds.
pub(crate) const RESTORE_MILLIS: u64 = 5;
/// The tag of models, and the values that it has.
pub(crate) const TAG: (&str, [&str; 2]) = ("owned", ["yes", "no"]);

/// Does what has no route; `None` if the wish has one.
pub(crate) async fn ask(app: &App, wish: &Wish, model: &str, number: usize) -> Option<Answer> {
    let done = match wish {
        Wish::Sweep => {
            let schedule = json!({"detail-type": "Scheduled Event"});
            promote::handle(app.clone(), schedule).await.map(|_| true)
        }
        Wish::Dispatch { salt } => some_dispatch(app, model, *salt).await,
        Wish::Judge { version, .. }
        | Wish::Finalize { version }
        | Wish::Rejudge { version, .. }
        | Wish::Pack { version }
        | Wish::Purge { version } => {
            let id = VersionId {
                tenant: tenant(),
                model: ModelName::parse(model).expect("the name is valid"),
                number: VersionNumber::try_from(u64::from(*version)).expect("the number is valid"),
            };
            let step = Step { app, id, number };
            match wish {
                Wish::Judge { ready, .. } => step.judge(*ready).await,
                Wish::Finalize { .. } => step.finalize().await,
                Wish::Rejudge { verdict, .. } => step.rejudge(VERDICTS[*verdict]).await,
                Wish::Pack { .. } => step.pack().await,
                _ => step.purge().await,
            }
        }
        _ => return None,
    };
    let status = match done {
        Ok(true) => 200,
        Ok(false) => 409,
        Err(error)
            if matches!(
                error.code,
                ErrorCode::VersionNotFound | ErrorCode::ModelNotFound
            ) =>
        {
            404
        }
        Err(_) => 503,
    };
    Some(Answer {
        status,
        body: Value::Null,
    })
}

/// The automatic check that some protections ask for.
pub(crate) const CHECK: &str = "smoke";

/// The token with which a request's check answers, as a subscription gets it.
pub(crate) fn check_token(app: &App, model: &str, request: &str) -> Value {
    let actor = Principal::parse("slipway").expect("the name is valid");
    let event = app
        .event(EventType::CheckRequested, &tenant(), &actor, "none")
        .about(&ModelName::parse(model).expect("the name is valid"))
        .with("request_id", request)
        .with("check", CHECK);
    let mut wire = shared::check_token::to_delivered_wire(&app.config, &event);
    wire["data"]["token"].take()
}

fn tenant() -> TenantName {
    TenantName::parse(RUNS_TENANT).expect("the name is valid")
}

/// Which set of files a version has: some have the same.
pub(crate) fn files_of(number: u64) -> Digest {
    Digest::of(if number.is_multiple_of(2) {
        b"even"
    } else {
        b"odd!"
    })
}

/// A step of a version's way.
struct Step<'a> {
    app: &'a App,
    id: VersionId,
    /// Of the wish.
    number: usize,
}

impl Step<'_> {
    fn event(&self, kind: EventType, id: &VersionId) -> Event {
        let actor = Principal::parse("slipway").expect("the name is valid");
        self.app
            .event(kind, &id.tenant, &actor, &format!("wish-{}", self.number))
            .about(&id.model)
            .of_version(id.number)
    }

    async fn change(&self, id: &VersionId, change: &VersionChange, event: &Event) -> Result<bool> {
        let committed = self
            .app
            .registry
            .change_version(id, change, event, None)
            .await?;
        Ok(committed.is_ok())
    }

    async fn finalize(&self) -> Result<bool> {
        let event = self.event(EventType::VersionFinalized, &self.id);
        self.change(&self.id, &VersionChange::Finalize, &event)
            .await
    }

    fn judgement(&self, status: Status, verdict: &str, event: &Event) -> Judgement {
        Judgement {
            status,
            validation: Validation {
                verdict: verdict.to_owned(),
                summary: verdict.to_owned(),
                report_digest: Digest::of(self.number.to_string().as_bytes()),
                policy_revision: None,
                at: event.time,
            },
            artifacts: Document::Absent,
            apart: None,
            size_bytes: 8,
            declared_at: None,
        }
    }

    async fn judge(&self, is_ready: bool) -> Result<bool> {
        let (kind, status, verdict) = if is_ready {
            (EventType::VersionReady, Status::Ready, "clean")
        } else {
            (
                EventType::VersionFailed,
                Status::FailedRegistration,
                "unsafe",
            )
        };
        let event = self.event(kind, &self.id);
        let judgement = self.judgement(status, verdict, &event);
        let event = event.with("report", judgement.validation.report_digest.as_str());
        self.change(&self.id, &VersionChange::Judge(Box::new(judgement)), &event)
            .await
    }

    async fn rejudge(&self, verdict: &str) -> Result<bool> {
        let version = self.app.registry.version(&self.id).await?;
        let Some(before) = version.validation.clone() else {
            return Ok(false);
        };
        let is_accepted = verdict != "unsafe";
        let status = if is_accepted {
            Status::Ready
        } else {
            version.status
        };
        let event = self.event(EventType::VersionRejudged, &version.id);
        let judgement = self.judgement(status, verdict, &event);
        let revoked_at = (status == Status::Ready && !is_accepted)
            .then(|| version.revoked_at.unwrap_or(event.time));
        let event = event
            .with("verdict", verdict)
            .with("status", status.as_str())
            .with("revoked", revoked_at.is_some())
            .with("before", before.report_digest.as_str())
            .with("report", judgement.validation.report_digest.as_str());
        let change = VersionChange::Rejudge(Box::new(Rejudgement {
            before,
            judgement,
            revoked_at,
        }));
        self.change(&version.id, &change, &event).await
    }

    /// As `functions/packaging/src/package.rs` decides.
    async fn pack(&self) -> Result<bool> {
        let registry = &self.app.registry;
        let version = registry.version(&self.id).await?;
        if version.deleted_at.is_some()
            || version.package.is_some()
            || version.status == Status::FailedRegistration
        {
            return Ok(false);
        }
        let id = &version.id;
        let files = files_of(id.number.get().into());
        let own = FilesOf::of(id);
        let (holder, is_held) = match version.files_of.clone() {
            Some(held) => (held, true),
            None => match registry.find_holder(&id.tenant, &files).await? {
                None => (own, false),
                Some(holder) if holder.files == own => (own, true),
                Some(holder) => {
                    if registry.claim_files(id, &files, &holder.files).await? != Held::Committed {
                        return Ok(false);
                    }
                    (holder.files, true)
                }
            },
        };
        let event = self
            .event(EventType::VersionPackaged, id)
            .with("files", json!(holder));
        let mut packing = Packing {
            package: Package {
                manifest_digest: Digest::of(b"manifest"),
                at: event.time,
                files: Some(holder),
                signature: None,
            },
            files,
            becomes_holder: !is_held,
            artifacts: Document::Item,
            apart: None,
        };
        let mut held = registry.pack_version(id, &packing, &event).await?;
        if held == Held::HolderChanged {
            packing.becomes_holder = false;
            held = registry.pack_version(id, &packing, &event).await?;
        }
        Ok(held == Held::Committed)
    }

    /// As `functions/packaging/src/collect.rs` and `collect_model.rs` decide.
    async fn purge(&self) -> Result<bool> {
        let registry = &self.app.registry;
        let version = registry.version(&self.id).await?;
        let now = self.app.clock.now();
        let is_over = |at: shared::domain::Timestamp| now >= at.plus_millis(RESTORE_MILLIS);
        let model;
        let deleted = match version.deleted_at {
            _ if version.purged_at.is_some() => return Ok(false),
            Some(at) if is_over(at) => Deleted::Version(at),
            _ => {
                model = registry
                    .model_head(&version.id.tenant, &version.id.model)
                    .await?;
                if !model.deleted_at.is_some_and(is_over) {
                    return Ok(false);
                }
                Deleted::Model(&model)
            }
        };
        let files = files_of(version.id.number.get().into());
        let counted = if version.package.is_none() && version.files_of.is_none() {
            None
        } else {
            let holder = registry.find_holder(&version.id.tenant, &files).await?;
            let own = FilesOf::of(&version.id);
            holder.filter(|holder| holder.files == *version.files_of.as_ref().unwrap_or(&own))
        };
        let event = self.event(EventType::VersionPurged, &version.id);
        let held = counted.as_ref().map(|holder| (&files, holder));
        let purged = registry
            .purge_version(&version, deleted, held, &event)
            .await?;
        Ok(purged == Held::Committed)
    }
}

async fn some_dispatch(app: &App, model: &str, salt: usize) -> Result<bool> {
    let name = ModelName::parse(model)?;
    let home = app.registry.home_of(&tenant(), &name).await?;
    dispatch(app, &home, salt, 6).await.map(|()| true)
}

/// Dispatches events of a model that are not chained yet, in an order that the salt decides.
pub(crate) async fn dispatch(app: &App, model: &ModelName, salt: usize, most: usize) -> Result<()> {
    let mut events = app.registry.unchained_events(&tenant(), model).await?;
    let count = events.len().max(1);
    events.rotate_left(salt % count);
    if salt % 2 == 1 {
        events.reverse();
    }
    for event in events.iter().take(most) {
        index_tags(app, event).await?;
        app.registry.settle_deletion(event).await?;
        let dispatch = Dispatch {
            event,
            stamp: &app.ids.next(),
            at: app.clock.now(),
            deliveries: &[],
            work: &[],
        };
        app.registry.dispatch(&dispatch).await?;
    }
    Ok(())
}

/// As `functions/notifications/src/dispatch.rs` does, of the one tag that there is.
async fn index_tags(app: &App, event: &Event) -> Result<()> {
    let text = |name: &str| event.data.get(name).and_then(Value::as_str);
    if event
        .data
        .get("tags_changed")
        .is_none_or(|pairs| *pairs == json!([]))
    {
        return Ok(());
    }
    let old = text("from").filter(|_| event.kind == EventType::ModelRenamed);
    let names = event.model.iter().map(ModelName::as_str).chain(old);
    for name in names {
        let name = ModelName::parse(name)?;
        let carried = |model: &Model| {
            let is_there = model.deleted_at.is_none();
            model.notes.tags.get(TAG.0).filter(|_| is_there).cloned()
        };
        let (carried, revision) = match app.registry.model(&event.tenant, &name).await {
            Ok(model) => (carried(&model), model.revision),
            Err(error) if error.code == ErrorCode::ModelNotFound => {
                let revision = event.data.get("revision").and_then(Value::as_u64);
                (None, revision.unwrap_or_default())
            }
            Err(error) => return Err(error),
        };
        for value in TAG.1 {
            let expires = app.clock.now().plus_millis(24 * 3_600_000);
            let is_carried = carried.as_deref() == Some(value);
            app.registry
                .index_tag(
                    &event.tenant,
                    &name,
                    (TAG.0, value),
                    is_carried,
                    revision,
                    expires,
                )
                .await?;
        }
    }
    Ok::<(), Error>(())
}
