//! Versions of MLflow: create, update, delete, tag.

use super::changes::{remove_aliases, until_won};
use super::models::{is_prompt, tags_of};
use super::sources::{self, Request};
use crate::versions::{self, Draft, Noted, register_draft};
use axum::extract::State;
use serde_json::{Value, json};
use shared::domain::model::{Notes, NotesChange};
use shared::domain::{Metadata, ModelName, Source, Status, Version, VersionId};
use shared::dynamodb::Outcome;
use shared::http::{Caller, Reply, respond};
use shared::mlflow::limits::{
    check_key, check_tag, checked_model_name, version_id, version_number,
};
use shared::mlflow::{Fields, looked_up, shapes};
use shared::s3::keys;
use shared::{App, Result};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many of the newest versions are looked at for the one that a request may have registered.
const LOOK_BACK: usize = 50;

/// How long it is waited for the validation of a copy between looks at it: 5 seconds in all.
const COPY_WAITS: [Duration; 8] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(750),
    Duration::from_secs(1),
    Duration::from_secs(1),
    Duration::from_millis(1_500),
];

pub(super) async fn create_model_version(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let source = fields.required("source")?;
    let given = |field: &str| -> Result<Option<String>> {
        Ok(fields.text(field)?.filter(|text| !text.is_empty()))
    };
    let run_id = given("run_id")?;
    let tags = fields.pairs("tags")?;
    let run_link = given("run_link")?;
    let description = given("description")?;
    let model_id = given("model_id")?;
    let name = checked_model_name(&name)?;
    for (key, value) in &tags {
        check_tag(key, value)?;
    }
    let notes = Notes {
        description,
        tags: tags_of(&fields)?,
    };
    let request = Request {
        source,
        run_id,
        run_link,
        model_id,
        is_prompt: is_prompt(&notes.tags),
    };
    let outcome = Box::pin(created(&app, &caller, &name, request, notes)).await;
    respond(&app, &caller, 200, outcome).await
}

async fn created(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    request: Request,
    notes: Notes,
) -> Result<Outcome<Value>> {
    let resolved = sources::resolve(app, caller, request).await?;
    let show = |version: &Version| json!({"model_version": shapes::model_version(version, &notes)});
    let draft = Draft {
        artifacts: resolved.artifacts,
        metadata: Metadata::default(),
        notes: notes.clone(),
        source: resolved.kind,
        origin: Some(resolved.origin),
    };
    let is_copy = resolved.kind == Source::Copy;
    let mut outcome = register_draft(app, caller, name, draft, (200, &show)).await;
    if let Ok(Outcome::Done(version)) = &mut outcome
        && version.status == Status::PendingRegistration
    {
        begin_validation(app, &version.id).await;
        if is_copy {
            wait_for_validation(app, version).await;
        }
    }
    let found = async {
        let page = app
            .registry
            .versions(&caller.tenant, name, false, LOOK_BACK, None)
            .await?;
        let ours = page
            .items
            .into_iter()
            .find(|version| version.request_id == caller.request_id);
        Ok(ours.map(|version| show(&version)))
    };
    looked_up(
        outcome.map(|done| done.map(|version| show(&version))),
        found,
    )
    .await
}

/// Sets validation going; should that fail, the sweep does, because the version is registered.
async fn begin_validation(app: &App, id: &VersionId) {
    let marked = app
        .bucket
        .put_immutable(
            &keys::dropped(id),
            Vec::new().into(),
            "application/octet-stream",
        )
        .await;
    if let Err(error) = marked {
        tracing::warn!(
            model.name = id.model.as_str(),
            version.number = id.number.get(),
            error = error.chain(),
            "Validation of {id} waits for the sweep"
        );
    }
}

/// Waits a little for the validation of a copy, because MLflow's `copy_model_version` alone does not: it is loaded and
/// given an alias at once.
async fn wait_for_validation(app: &App, version: &mut Version) {
    for wait in COPY_WAITS {
        tokio::time::sleep(wait).await;
        match app.registry.version(&version.id).await {
            Ok(found) if found.status != Status::PendingRegistration => {
                *version = found;
                return;
            }
            Ok(_) => {}
            // It is registered, whatever is known of it.
            Err(_) => return,
        }
    }
}

/// The version that a request names by two fields.
fn named(caller: &Caller, name: &str, version: &str) -> Result<VersionId> {
    version_id(&caller.tenant, checked_model_name(name)?, version)
}

pub(super) async fn update_model_version(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let version = fields.required("version")?;
    let description = fields.text("description")?.unwrap_or_default();
    let id = named(&caller, &name, &version)?;
    let change = NotesChange {
        description: Some(description),
        tags: BTreeMap::new(),
    };
    let show = |version: &Version, notes: &Notes| json!({"model_version": shapes::model_version(version, notes)});
    let outcome = noted(&app, &caller, &id, &change, false, show).await;
    respond(&app, &caller, 200, outcome).await
}

async fn noted(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    change: &NotesChange,
    keeps_time: bool,
    show: impl Fn(&Version, &Notes) -> Value + Copy,
) -> Result<Outcome<Value>> {
    app.registry.live_version(id).await?;
    until_won(app, || {
        let noted = Noted {
            change,
            is_native: false,
            keeps_time,
        };
        versions::annotate_shown(app, caller, id, noted, show)
    })
    .await
}

pub(super) async fn delete_model_version(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let version = fields.required("version")?;
    // The number is checked before the name, as in MLflow's server.
    version_number(&version)?;
    let id = named(&caller, &name, &version)?;
    let outcome = deleted(&app, &caller, &id).await;
    respond(&app, &caller, 200, outcome).await
}

async fn deleted(app: &App, caller: &Caller, id: &VersionId) -> Result<Outcome<Value>> {
    let before = app.registry.live_version(id).await?;
    if before.alias_count > 0 {
        remove_aliases(app, caller, &id.model, Some(id.number)).await?;
    }
    versions::delete_shown(app, caller, id, None, &|_| json!({})).await
}

pub(super) async fn set_model_version_tag(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let version = fields.required("version")?;
    let key = fields.required("key")?;
    let value = fields.text("value")?.unwrap_or_default();
    checked_model_name(&name)?;
    version_number(&version)?;
    check_tag(&key, &value)?;
    let id = named(&caller, &name, &version)?;
    tagged(&app, &caller, &id, key, Some(value)).await
}

pub(super) async fn delete_model_version_tag(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let version = fields.required("version")?;
    let key = fields.required("key")?;
    checked_model_name(&name)?;
    version_number(&version)?;
    check_key(&key, "key")?;
    let id = named(&caller, &name, &version)?;
    tagged(&app, &caller, &id, key, None).await
}

async fn tagged(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    key: String,
    value: Option<String>,
) -> Result<Reply> {
    let change = NotesChange {
        description: None,
        tags: BTreeMap::from([(key, value)]),
    };
    let outcome = noted(app, caller, id, &change, true, |_, _| json!({})).await;
    respond(app, caller, 200, outcome).await
}
