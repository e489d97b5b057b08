//! Registered models: create, update, delete, restore.

use crate::names::displaced;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::model::{MAX_REASON, Notes, NotesChange, Pointers, check_text, is_searchable};
use shared::domain::request::RequestStatus;
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

/// How an edge shows a model: its status and the body, for the answer that goes under an idempotency key too.
pub(crate) type Show<'a> = (u16, &'a (dyn Fn(&Model) -> Value + Send + Sync));

/// As the native API shows a model.
pub(crate) fn native(model: &Model) -> Value {
    serde_json::to_value(ModelView::from(model)).unwrap_or_default()
}

pub(crate) async fn create_native(
    app: &App,
    caller: &Caller,
    command: CreateModel,
) -> Result<Outcome<Value>> {
    let notes = Notes {
        description: command.description.clone(),
        tags: command.tags.clone(),
    };
    notes.check()?;
    create(app, caller, command, (201, &native)).await
}

pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    command: CreateModel,
    (status, show): Show<'_>,
) -> Result<Outcome<Value>> {
    let notes = Notes {
        description: command.description,
        tags: command.tags,
    };
    notes.check_size()?;
    let now = app.clock.now();
    let model = Model {
        tenant: caller.tenant.clone(),
        name: command.name,
        owner: command.owner.unwrap_or_else(|| caller.principal.clone()),
        notes,
        next_version: VersionNumber::FIRST,
        held_aliases: 0,
        open_requests: 0,
        rollouts: 0,
        revision: 1,
        created_at: now,
        updated_at: now,
        deleted_at: None,
        pointers: Pointers::default(),
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
        Ok((event, caller.answer(status, &show(model), now)?))
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
    Ok(outcome.map(|model| show(&model)))
}

pub(crate) async fn update(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    command: UpdateModel,
) -> Result<Outcome<Value>> {
    let before = app.registry.model(&caller.tenant, name).await?;
    change(
        app,
        caller,
        before,
        Wanted::of(EventType::ModelUpdated, None),
        (200, &native),
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
            after.notes.check_changed(&before.notes, &change)?;
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
) -> Result<Outcome<Value>> {
    delete_shown(app, caller, name, reason, (200, &native)).await
}

/// Deletes a model and answers as an edge shows it.
pub(crate) async fn delete_shown(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    reason: Option<String>,
    show: Show<'_>,
) -> Result<Outcome<Value>> {
    let before = app.registry.model(&caller.tenant, name).await?;
    if before.held_aliases + before.open_requests + before.rollouts > 0 {
        return Err(in_use(app, caller, &before).await?);
    }
    let now = app.clock.now();
    change(
        app,
        caller,
        before,
        Wanted::of(EventType::ModelDeleted, reason),
        show,
        |before| {
            before.require_live()?;
            Ok(Model {
                deleted_at: Some(now),
                ..before.clone()
            })
        },
    )
    .await
}

/// The error for a model that is in use: it names what holds it, and what to do about it.
async fn in_use(app: &App, caller: &Caller, model: &Model) -> Result<Error> {
    const MOST_NAMED: usize = 20;
    let (tenant, name) = (&caller.tenant, &model.name);
    let (mut aliases, mut requests, mut places) = (Vec::new(), Vec::new(), Vec::new());
    let mut advice = Vec::new();
    if model.held_aliases > 0 {
        let found = app.registry.aliases_at(tenant, name).await?;
        aliases.extend(found.iter().map(|alias| alias.name.to_string()));
        advice.push(match aliases.first() {
            Some(alias) => format!("has the alias `{alias}`; remove its aliases first"),
            None => "has an alias that holds a version; remove its aliases first".to_owned(),
        });
    }
    if model.open_requests > 0 {
        let found = app
            .registry
            .requests(tenant, name, MOST_NAMED * 5, None)
            .await?;
        let open = found
            .items
            .iter()
            .filter(|request| request.status == RequestStatus::Open);
        requests.extend(open.map(|request| request.id.clone()));
        let which = requests
            .first()
            .map_or_else(String::new, |id| format!(" `{id}`"));
        advice.push(format!(
            "has an open promotion request{which}; decide on its requests or withdraw them first"
        ));
    }
    if model.rollouts > 0 {
        let found = app
            .registry
            .rollouts_of_model(tenant, name, MOST_NAMED, None)
            .await?;
        places.extend(
            found
                .items
                .iter()
                .map(|rollout| format!("{}/{}", rollout.environment, rollout.endpoint)),
        );
        let which = places
            .first()
            .map_or_else(String::new, |place| format!(" at `{place}`"));
        advice.push(format!(
            "is served{which}; let its rollouts serve something else first"
        ));
    }
    let mut error = Error::new(
        ErrorCode::VersionInUse,
        format!("registered model `{name}` {}", advice.join(", and ")),
    );
    for (kind, mut names) in [
        ("aliases", aliases),
        ("requests", requests),
        ("rollouts", places),
    ] {
        names.truncate(MOST_NAMED);
        if kind == "aliases" || !names.is_empty() {
            error = error.with(kind, names);
        }
    }
    Ok(error)
}

pub(crate) async fn restore(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    reason: Option<String>,
) -> Result<Outcome<Value>> {
    let before = app.registry.model(&caller.tenant, name).await?;
    change(
        app,
        caller,
        before,
        Wanted::of(EventType::ModelRestored, reason),
        (200, &native),
        |before| {
            if before.deleted_at.is_none() {
                return Err(Error::new(
                    ErrorCode::Conflict,
                    format!(
                        "registered model `{name}` is not deleted; there is nothing to restore"
                    ),
                ));
            }
            require_restorable(app, before)?;
            Ok(Model {
                deleted_at: None,
                ..before.clone()
            })
        },
    )
    .await
}

/// Refuses to restore a model whose restore window is over: its versions are being purged.
pub(crate) fn require_restorable(app: &App, before: &Model) -> Result<()> {
    let window = app.config.restore_seconds.saturating_mul(1000);
    match before.deleted_at {
        Some(at) if app.clock.now() >= at.plus_millis(window) => Err(Error::new(
            ErrorCode::Deleted,
            format!(
                "registered model `{}` was deleted at {at} and its restore window is over; register a new one",
                before.name
            ),
        )
        .with("model", before.name.as_str())),
        _ => Ok(()),
    }
}

/// What kind of change of a model is wanted, and why.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) kind: EventType,
    pub(crate) reason: Option<String>,
    /// Whether the model counts as unchanged: a tag is no change of it to MLflow's clients.
    pub(crate) keeps_time: bool,
}

impl Wanted {
    fn of(kind: EventType, reason: Option<String>) -> Self {
        Self {
            kind,
            reason,
            keeps_time: false,
        }
    }
}

/// Lets `decide` change a model as it was read, and commits the change.
pub(crate) async fn change(
    app: &App,
    caller: &Caller,
    before: Model,
    wanted: Wanted,
    (status, show): Show<'_>,
    decide: impl FnOnce(&Model) -> Result<Model>,
) -> Result<Outcome<Value>> {
    let Wanted {
        kind,
        reason,
        keeps_time,
    } = wanted;
    check_text("reason", reason.as_deref(), MAX_REASON)?;
    let name = &before.name;
    let mut after = decide(&before)?;
    if keeps_time && after == before {
        return app.keep_unchanged(caller, status, show(&before)).await;
    }
    after.revision = before.revision + 1;
    let now = app.clock.now();
    if !keeps_time {
        after.updated_at = now;
    }
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
    let view = show(&after);
    let answer = caller.answer(status, &view, now)?;
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
        // An event tells no long value; a search by tag does not find it either.
        .filter(|(_, value)| is_searchable(value))
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
