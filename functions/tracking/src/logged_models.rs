//! Logged models: create, read, finalize, tag, delete.

use crate::experiments;
use crate::runs::{enumerated, new_id, random_name};
use crate::views::{self, artifact_root};
use axum::extract::State;
use serde_json::{Value, json};
use shared::domain::tracking::experiment::append_to_uri;
use shared::domain::tracking::logged_model::logged_model_not_found;
use shared::domain::tracking::{Lifecycle, LoggedModel, LoggedModelId, LoggedModelStatus, rules};
use shared::dynamodb::LoggedModelChange;
use shared::http::{Caller, Reply, Target, respond};
use shared::mlflow::fields::missing;
use shared::mlflow::{Fields, invalid, looked_up};
use shared::{App, Error, ErrorCode, Result};
use std::collections::BTreeMap;

pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let _ = fields.required("experiment_id")?;
    let name = fields.text("name")?.filter(|name| !name.is_empty());
    if let Some(name) = &name {
        rules::check_logged_model_name(name)?;
    }
    let experiment = experiments::for_new(&app, &caller, &fields).await?;
    let id = format!("m-{}", new_id(&app));
    let now = app.clock.now();
    let model = LoggedModel {
        artifact_uri: append_to_uri(
            &experiment.artifact_root(&artifact_root(&app, &caller)),
            &["models", &id, "artifacts"],
        ),
        id: LoggedModelId::parse(id)?,
        experiment_id: experiment.id,
        name: name.unwrap_or_else(|| random_name(&app)),
        model_type: fields.text("model_type")?.unwrap_or_default(),
        source_run_id: fields.text("source_run_id")?.unwrap_or_default(),
        status: LoggedModelStatus::Pending,
        lifecycle: Lifecycle::Active,
        created_at: now,
        updated_at: now,
        params: checked_params(&fields)?,
        tags: fields.pairs("tags")?.into_iter().collect(),
        metrics: Vec::new(),
        revision: 1,
    };
    let view = json!({"model": views::logged_model(&model)});
    let answer = caller.answer(200, &view, now)?;
    let outcome = app
        .registry
        .create_logged_model(&caller.tenant, &model, answer)
        .await
        .map(|outcome| outcome.map(|()| view.clone()));
    let outcome = looked_up(outcome, async {
        let found = app.registry.find_logged_model(&caller.tenant, &model.id);
        Ok(found.await?.map(|_| view))
    })
    .await;
    respond(&app, &caller, 200, outcome).await
}

fn checked_params(fields: &Fields) -> Result<BTreeMap<String, String>> {
    let params = fields.pairs("params")?;
    for (key, value) in &params {
        rules::check_length("Param key", key, 255)?;
        rules::check_length("Param value", value, rules::MAX_PARAM_VALUE)?;
    }
    Ok(params.into_iter().collect())
}

pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    fields: Fields,
) -> Result<Reply> {
    let id = target.logged_model()?;
    let model = app.registry.logged_model(&caller.tenant, &id).await?;
    if model.lifecycle == Lifecycle::Deleted && fields.flag("allow_deleted")? != Some(true) {
        return Err(logged_model_not_found(id));
    }
    Reply::ok(json!({"model": views::logged_model(&caller.shown(model))}))
}

/// Changes a logged model; `view` makes the answer of it.
async fn change(
    app: &App,
    caller: &Caller,
    target: &Target,
    change: impl Fn(&mut LoggedModel) -> Result<LoggedModelChange>,
    view: impl Fn(&LoggedModel) -> Value,
) -> Result<Reply> {
    let id = target.logged_model()?;
    let now = app.clock.now();
    let outcome = app
        .registry
        .change_logged_model(&caller.tenant, &id, now, change, |model| {
            caller.answer(200, &view(model), now)
        })
        .await
        .map(|outcome| outcome.map(|model| view(&model)));
    respond(app, caller, 200, outcome).await
}

pub(crate) async fn finalize(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    fields: Fields,
) -> Result<Reply> {
    let status = enumerated(&fields, "status", LoggedModelStatus::parse)?
        .ok_or_else(|| missing("status"))?;
    if status == LoggedModelStatus::Unspecified {
        return Err(invalid(format!(
            "Unknown model status: {}",
            status.number()
        )));
    }
    let apply = |model: &mut LoggedModel| {
        model.status = status;
        Ok(LoggedModelChange::Touch)
    };
    change(
        &app,
        &caller,
        &target,
        apply,
        |model| json!({"model": views::logged_model(&caller.shown(model.clone()))}),
    )
    .await
}

pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    let apply = |model: &mut LoggedModel| {
        model.lifecycle = Lifecycle::Deleted;
        Ok(LoggedModelChange::Touch)
    };
    change(&app, &caller, &target, apply, |_| json!({})).await
}

pub(crate) async fn set_tags(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    fields: Fields,
) -> Result<Reply> {
    let tags = fields.pairs("tags")?;
    for (key, value) in &tags {
        rules::check_length("key", key, 255)?;
        rules::check_length("value", value, rules::MAX_TAG_VALUE)?;
    }
    let apply = |model: &mut LoggedModel| {
        model.tags.extend(tags.iter().cloned());
        Ok(LoggedModelChange::Keep)
    };
    change(&app, &caller, &target, apply, |_| json!({})).await
}

pub(crate) async fn delete_tag(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    let key = target.tag()?;
    let apply = |model: &mut LoggedModel| match model.tags.remove(&key) {
        Some(_) => Ok(LoggedModelChange::Keep),
        None => Err(Error::new(
            ErrorCode::TagNotFound,
            format!(
                "No tag with key '{key}' found for model with ID '{}'.",
                model.id
            ),
        )),
    };
    change(&app, &caller, &target, apply, |_| json!({})).await
}

pub(crate) async fn log_params(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    fields: Fields,
) -> Result<Reply> {
    let params = checked_params(&fields)?;
    let apply = |model: &mut LoggedModel| {
        for (key, value) in &params {
            if let Some(old) = model.params.get(key).filter(|old| *old != value) {
                // MLflow's server answers the text of a database error here.
                return Err(invalid(format!(
                    "Changing param values is not allowed. Param with key='{key}' was already logged with value='{old}' for model ID='{}'. Attempted logging new value '{value}'.",
                    model.id
                )));
            }
        }
        model.params.extend(params.clone());
        Ok(LoggedModelChange::Keep)
    };
    change(&app, &caller, &target, apply, |_| json!({})).await
}
