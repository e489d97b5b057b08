//! Registered models: create, update, delete, restore.

use crate::names::displaced;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::model::{MAX_REASON, Notes, NotesChange, check_text};
use shared::domain::{EventType, Model, ModelName, Principal, VersionNumber};
use shared::dynamodb::{Naming, Outcome};
use shared::http::Caller;
use shared::http::views::ModelView;
use shared::{App, Error, ErrorCode, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Creates a registered model.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateModel {
    pub(crate) name: ModelName,
    #[serde(default)]
    pub(crate) description: Option<String>,
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) owner: Option<Principal>,
    /// Whether the name of a deleted model may be used again; that model stays restorable by its id.
    #[serde(default)]
    pub(crate) replace_deleted: bool,
}

/// Changes what people write about a registered model.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateModel {
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, Option<String>>,
    #[serde(default)]
    owner: Option<Principal>,
    #[serde(default)]
    expected_revision: Option<u64>,
}

pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    command: CreateModel,
) -> Result<Outcome<ModelView>> {
    let notes = Notes {
        description: command.description,
        tags: command.tags,
    };
    notes.check()?;
    let now = app.clock.now();
    let model = Model {
        tenant: caller.tenant.clone(),
        name: command.name,
        owner: command.owner.unwrap_or_else(|| caller.principal.clone()),
        notes,
        next_version: VersionNumber::FIRST,
        revision: 1,
        created_at: now,
        updated_at: now,
        deleted_at: None,
    };
    let decide = |model: &Model| {
        let event = app
            .event(
                EventType::ModelCreated,
                &caller.tenant,
                &caller.principal,
                &caller.request_id,
            )
            .about(&model.name)
            .with("owner", model.owner.as_str())
            .with("tags_changed", tag_pairs(&Notes::default(), &model.notes))
            .with("tags_set", tags_set(&Notes::default(), &model.notes))
            .with("revision", model.revision);
        Ok((event, caller.answer(201, &ModelView::from(model), now)?))
    };
    let naming = Naming {
        ulid: app.ids.next(),
        may_displace: command.replace_deleted,
        decide: &decide,
        displaced: &|holder| displaced(app, caller, holder),
    };
    let outcome = app.registry.create_model(&model, &naming).await?;
    if matches!(outcome, Outcome::Done(_)) {
        tracing::info!(
            model.name = model.name.as_str(),
            "Created registered model `{}`",
            model.name
        );
    }
    Ok(outcome.map(|model| ModelView::from(&model)))
}

pub(crate) async fn update(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    command: UpdateModel,
) -> Result<Outcome<ModelView>> {
    let before = app.registry.model(&caller.tenant, name).await?;
    change(
        app,
        caller,
        before,
        EventType::ModelUpdated,
        None,
        |before| {
            before.require_live()?;
            if let Some(expected) = command.expected_revision
                && expected != before.revision
            {
                return Err(Error::new(
                ErrorCode::Conflict,
                format!(
                    "registered model `{name}` is at revision {}; read it again and decide anew",
                    before.revision
                ),
            )
            .with("current", json!({ "revision": before.revision })));
            }
            let mut after = before.clone();
            let change = NotesChange {
                description: command.description.clone(),
                tags: command.tags.clone(),
            };
            after.notes = before.notes.changed(&change);
            after.notes.check()?;
            if let Some(owner) = &command.owner {
                after.owner = owner.clone();
            }
            Ok(after)
        },
    )
    .await
}

pub(crate) async fn delete(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    reason: Option<String>,
) -> Result<Outcome<ModelView>> {
    let before = app.registry.model(&caller.tenant, name).await?;
    require_no_alias(app, caller, &before.name).await?;
    let now = app.clock.now();
    let lies = before.name.clone();
    let outcome = change(
        app,
        caller,
        before,
        EventType::ModelDeleted,
        reason,
        |before| {
            before.require_live()?;
            Ok(Model {
                deleted_at: Some(now),
                ..before.clone()
            })
        },
    )
    .await?;
    // An alias may have been set between the look and the deletion; then the deletion is taken back.
    if let Err(error) = require_no_alias(app, caller, &lies).await {
        let undoing = Caller {
            idempotency: None,
            ..caller.clone()
        };
        restore(
            app,
            &undoing,
            name,
            Some(error.message.chars().take(MAX_REASON).collect()),
        )
        .await?;
        return Err(error);
    }
    Ok(outcome)
}

/// Refuses a model that has an alias.
async fn require_no_alias(app: &App, caller: &Caller, name: &ModelName) -> Result<()> {
    let aliases = app.registry.aliases_at(&caller.tenant, name).await?;
    if let Some(alias) = aliases.first() {
        let names: Vec<&str> = aliases
            .iter()
            .take(20)
            .map(|alias| alias.name.as_str())
            .collect();
        return Err(Error::new(
            ErrorCode::VersionInUse,
            format!(
                "registered model `{name}` has the alias `{}`; remove its aliases first",
                alias.name
            ),
        )
        .with("aliases", names));
    }
    Ok(())
}

pub(crate) async fn restore(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    reason: Option<String>,
) -> Result<Outcome<ModelView>> {
    let before = app.registry.model(&caller.tenant, name).await?;
    change(
        app,
        caller,
        before,
        EventType::ModelRestored,
        reason,
        |before| {
            if before.deleted_at.is_none() {
                return Err(Error::new(
                    ErrorCode::Conflict,
                    format!(
                        "registered model `{name}` is not deleted; there is nothing to restore"
                    ),
                ));
            }
            Ok(Model {
                deleted_at: None,
                ..before.clone()
            })
        },
    )
    .await
}

/// Lets `decide` change a model as it was read, and commits the change.
async fn change(
    app: &App,
    caller: &Caller,
    before: Model,
    kind: EventType,
    reason: Option<String>,
    decide: impl FnOnce(&Model) -> Result<Model>,
) -> Result<Outcome<ModelView>> {
    check_text("reason", reason.as_deref(), MAX_REASON)?;
    let name = &before.name;
    let mut after = decide(&before)?;
    after.revision = before.revision + 1;
    after.updated_at = app.clock.now();
    // A deleted model carries no tag in the index; its notes stay for the day it is restored.
    let carried = |model: &Model| {
        if model.deleted_at.is_some() {
            Notes::default()
        } else {
            model.notes.clone()
        }
    };
    let event = app
        .event(kind, &caller.tenant, &caller.principal, &caller.request_id)
        .about(name)
        .because(reason)
        .with(
            "tags_changed",
            tag_pairs(&carried(&before), &carried(&after)),
        )
        .with("tags_set", tags_set(&carried(&before), &carried(&after)))
        .with(
            "tags_removed",
            tags_removed(&carried(&before), &carried(&after)),
        )
        .with(
            "description_changed",
            before.notes.description != after.notes.description,
        )
        .with("revision", after.revision);
    let view = ModelView::from(&after);
    let answer = caller.answer(200, &view, after.updated_at)?;
    let outcome = app
        .registry
        .replace_model(&before, &after, &event, answer)
        .await?;
    if matches!(outcome, Outcome::Done(())) {
        tracing::info!(
            model.name = name.as_str(),
            "Changed registered model `{name}`: {kind}"
        );
    }
    Ok(outcome.map(|()| view))
}

/// Every key/value pair that one of the two carries and the other does not.
pub(crate) fn tag_pairs(before: &Notes, after: &Notes) -> Value {
    let left: BTreeSet<_> = before.tags.iter().collect();
    let right: BTreeSet<_> = after.tags.iter().collect();
    left.symmetric_difference(&right)
        .map(|(key, value)| json!([key, value]))
        .collect()
}

/// The tags that got a value, or another one, as it is now.
pub(crate) fn tags_set(before: &Notes, after: &Notes) -> Value {
    after
        .tags
        .iter()
        .filter(|(key, value)| before.tags.get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect()
}

/// The keys of the tags that are gone.
pub(crate) fn tags_removed(before: &Notes, after: &Notes) -> Value {
    before
        .tags
        .keys()
        .filter(|key| !after.tags.contains_key(*key))
        .map(|key| json!(key))
        .collect()
}
