//! Registered models of MLflow: create, update, delete, tag.

use super::changes::{remove_aliases, until_won};
use crate::models::{self, CreateModel, Wanted};
use crate::names::{self, RenameModel};
use axum::extract::State;
use serde_json::{Value, json};
use shared::domain::model::{Notes, NotesChange};
use shared::domain::{EventType, Model, ModelName};
use shared::dynamodb::Outcome;
use shared::http::{Caller, Reply, respond};
use shared::mlflow::limits::{self, check_key, check_tag, checked_model_name, new_model_name};
use shared::mlflow::{Fields, MlflowCode, looked_up, lookups, refused, shapes};
use shared::{App, Error, ErrorCode, Result};
use std::collections::BTreeMap;

/// The tag by which MLflow tells prompts from models.
pub(super) const IS_PROMPT: &str = "mlflow.prompt.is_prompt";

/// Whether tags make a prompt.
pub(super) fn is_prompt(tags: &BTreeMap<String, String>) -> bool {
    tags.get(IS_PROMPT)
        .is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// Tags of a request, checked; of a key that comes twice the last value counts.
pub(super) fn tags_of(fields: &Fields) -> Result<BTreeMap<String, String>> {
    let pairs = fields.pairs("tags")?;
    pairs
        .iter()
        .try_for_each(|(key, value)| check_tag(key, value))?;
    Ok(pairs.into_iter().collect())
}

fn created(model: &Model) -> Value {
    json!({"registered_model": shapes::registered_model(model, &[], &BTreeMap::new())})
}

pub(super) async fn create_registered_model(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let tags = fields.pairs("tags")?;
    let description = fields.text("description")?.filter(|text| !text.is_empty());
    let name = new_model_name(&name)?;
    tags.iter()
        .try_for_each(|(key, value)| check_tag(key, value))?;
    let notes = Notes {
        description,
        tags: tags.into_iter().collect(),
    };
    let command = CreateModel {
        name: name.clone(),
        description: notes.description.clone(),
        tags: notes.tags.clone(),
        owner: None,
        // A name that was deleted is free to MLflow's clients; what had it stays restorable, by its id.
        replace_deleted: true,
    };
    let began = app.clock.now();
    let outcome = models::create(&app, &caller, command, (200, &created)).await;
    let found = async {
        let model = match app.registry.model(&caller.tenant, &name).await {
            Ok(model) => model,
            Err(error) if error.code == ErrorCode::ModelNotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_ours =
            model.created_at >= began && model.notes == notes && model.owner == caller.principal;
        Ok(is_ours.then(|| created(&model)))
    };
    let outcome = looked_up(outcome, found).await;
    match respond(&app, &caller, 200, outcome).await {
        Err(error) if error.code == ErrorCode::ModelExists => {
            Err(taken(&app, &caller, &name, is_prompt(&notes.tags)).await)
        }
        other => other,
    }
}

/// A text as Python shows it.
fn quoted(text: &str) -> String {
    if text.contains('\'') && !text.contains('"') {
        format!("\"{text}\"")
    } else {
        format!("'{text}'")
    }
}

/// The refusal of a name that is taken, which says by what.
async fn taken(app: &App, caller: &Caller, name: &ModelName, is_new_prompt: bool) -> Error {
    let is_old_prompt = match app.registry.model(&caller.tenant, name).await {
        Ok(model) => is_prompt(&model.notes.tags),
        Err(_) => is_new_prompt,
    };
    let word = |is_prompt| {
        if is_prompt {
            "Prompt"
        } else {
            "Registered Model"
        }
    };
    let message = if is_old_prompt == is_new_prompt {
        format!("{} (name={name}) already exists.", word(is_new_prompt))
    } else {
        format!(
            "Tried to create a {} with name {}, but the name is already taken by a {}. \
             MLflow does not allow creating a model and a prompt with the same name.",
            word(is_new_prompt).to_lowercase(),
            quoted(name.as_str()),
            word(is_old_prompt).to_lowercase()
        )
    };
    refused(MlflowCode::ResourceAlreadyExists, message)
}

pub(super) async fn update_registered_model(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let change = NotesChange {
        description: Some(fields.text("description")?.unwrap_or_default()),
        tags: BTreeMap::new(),
    };
    let name = checked_model_name(&name)?;
    let outcome = noted(&app, &caller, &name, &change, false).await;
    shown_whole(&app, &caller, &name, outcome).await
}

/// Answers a change with all that MLflow shows of a model, which is more than what the change read.
async fn shown_whole(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    outcome: Result<Outcome<Value>>,
) -> Result<Reply> {
    let is_done = matches!(outcome, Ok(Outcome::Done(_)));
    let reply = respond(app, caller, 200, outcome).await?;
    if !is_done {
        return Ok(reply);
    }
    // The change is made, so that nothing which fails now may fail the answer.
    match app.registry.model(&caller.tenant, name).await {
        Ok(model) => Reply::ok(lookups::changed_model(app, &model).await),
        Err(_) => Ok(reply),
    }
}

pub(super) async fn rename_registered_model(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let new_name = fields.required("new_name")?;
    let to = new_model_name(&new_name)?;
    let name = checked_model_name(&name)?;
    if name == to {
        // Nothing is renamed, and the model must be there.
        let model = app.registry.model(&caller.tenant, &name).await?;
        model.require_live()?;
        return Reply::ok(lookups::changed_model(&app, &model).await);
    }
    let outcome = until_won(&app, || {
        let command = RenameModel {
            name: to.clone(),
            reason: None,
        };
        names::rename_shown(&app, &caller, &name, command, (200, &created))
    })
    .await;
    shown_whole(&app, &caller, &to, outcome).await
}

/// Changes the notes of a model.
async fn noted(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    change: &NotesChange,
    keeps_time: bool,
) -> Result<Outcome<Value>> {
    let show = |model: &Model| {
        if keeps_time {
            json!({})
        } else {
            created(model)
        }
    };
    until_won(app, || async {
        let before = app.registry.model(&caller.tenant, name).await?;
        models::change(
            app,
            caller,
            before,
            Wanted {
                kind: EventType::ModelUpdated,
                reason: None,
                keeps_time,
            },
            (200, &show),
            |before| {
                before.require_live()?;
                let mut after = before.clone();
                after.notes = before.notes.changed(change);
                after.notes.check_size()?;
                Ok(after)
            },
        )
        .await
    })
    .await
}

pub(super) async fn delete_registered_model(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = limits::model_name(&fields)?;
    let outcome = deleted(&app, &caller, &name).await;
    respond(&app, &caller, 200, outcome).await
}

async fn deleted(app: &App, caller: &Caller, name: &ModelName) -> Result<Outcome<Value>> {
    app.registry
        .model(&caller.tenant, name)
        .await?
        .require_live()?;
    until_won(app, || async {
        remove_aliases(app, caller, name, None).await?;
        models::delete_shown(app, caller, name, None, (200, &|_| json!({}))).await
    })
    .await
}

pub(super) async fn set_registered_model_tag(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let key = fields.required("key")?;
    let value = fields.text("value")?.unwrap_or_default();
    let name = checked_model_name(&name)?;
    check_tag(&key, &value)?;
    tagged(&app, &caller, &name, key, Some(value)).await
}

pub(super) async fn delete_registered_model_tag(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let key = fields.required("key")?;
    let name = checked_model_name(&name)?;
    check_key(&key, "key")?;
    tagged(&app, &caller, &name, key, None).await
}

async fn tagged(
    app: &App,
    caller: &Caller,
    name: &ModelName,
    key: String,
    value: Option<String>,
) -> Result<Reply> {
    let change = NotesChange {
        description: None,
        tags: BTreeMap::from([(key, value)]),
    };
    let outcome = noted(app, caller, name, &change, true).await;
    respond(app, caller, 200, outcome).await
}
