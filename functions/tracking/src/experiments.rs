//! Experiments: create, read, rename, tag, delete, restore.

use crate::views;
use axum::extract::State;
use serde_json::{Value, json};
use shared::domain::tracking::experiment::experiment_not_found;
use shared::domain::tracking::{Experiment, ExperimentId, Lifecycle, rules};
use shared::dynamodb::NewExperiment;
use shared::http::{Caller, Reply, respond};
use shared::mlflow::{Fields, invalid, looked_up};
use shared::{App, Error, ErrorCode, Result};

/// The experiment that a request names.
pub(crate) fn experiment_id(fields: &Fields) -> Result<ExperimentId> {
    ExperimentId::parse(&fields.required("experiment_id")?)
}

pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let new = NewExperiment {
        name: fields.required("name")?,
        artifact_location: fields
            .text("artifact_location")?
            .filter(|location| !location.is_empty()),
        tags: fields.pairs("tags")?.into_iter().collect(),
    };
    rules::check_experiment_name(&new.name)?;
    if let Some(location) = &new.artifact_location {
        rules::check_artifact_location(location)?;
    }
    for (key, value) in &new.tags {
        rules::check_experiment_tag(key, value)?;
    }
    let now = app.clock.now();
    let view = |experiment: &Experiment| json!({"experiment_id": experiment.id.to_string()});
    let outcome = app
        .registry
        .create_experiment(&caller.tenant, &new, now, |experiment| {
            caller.answer(200, &view(experiment), now)
        })
        .await
        .map(|outcome| outcome.map(|experiment| view(&experiment)));
    let outcome = looked_up(outcome, async {
        match app
            .registry
            .experiment_by_name(&caller.tenant, &new.name)
            .await
        {
            Ok(found) => Ok((found.created_at == now).then(|| view(&found))),
            Err(error) if error.code == ErrorCode::ExperimentNotFound => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn get(State(app): State<App>, caller: Caller, fields: Fields) -> Result<Reply> {
    let id = experiment_id(&fields)?;
    let experiment = app.registry.experiment(&caller.tenant, id).await?;
    Reply::ok(
        json!({"experiment": views::experiment(&experiment, &views::artifact_root(&app, &caller))}),
    )
}

pub(crate) async fn get_by_name(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("experiment_name")?;
    let experiment = app
        .registry
        .experiment_by_name(&caller.tenant, &name)
        .await?;
    Reply::ok(
        json!({"experiment": views::experiment(&experiment, &views::artifact_root(&app, &caller))}),
    )
}

/// Changes the experiment that a request names; the answer is empty.
async fn change(
    app: &App,
    caller: &Caller,
    fields: &Fields,
    change: impl Fn(&mut Experiment) -> Result<()>,
) -> Result<Reply> {
    let id = experiment_id(fields)?;
    let empty = json!({});
    let answer = caller.answer(200, &empty, app.clock.now())?;
    let outcome = app
        .registry
        .change_experiment(&caller.tenant, id, answer, change)
        .await
        .map(|outcome| outcome.map(|_| empty));
    respond::<Value>(app, caller, 200, outcome).await
}

pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let now = app.clock.now();
    change(&app, &caller, &fields, |experiment| {
        experiment.set_lifecycle(Lifecycle::Deleted, now)
    })
    .await
}

pub(crate) async fn restore(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let now = app.clock.now();
    change(&app, &caller, &fields, |experiment| {
        experiment.set_lifecycle(Lifecycle::Active, now)
    })
    .await
}

pub(crate) async fn update(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let _ = experiment_id(&fields)?;
    let name = fields.required("new_name")?;
    rules::check_experiment_name(&name)?;
    let now = app.clock.now();
    change(&app, &caller, &fields, |experiment| {
        if experiment.lifecycle == Lifecycle::Deleted {
            // MLflow's server answers 500 here.
            return Err(invalid("Cannot rename a non-active experiment."));
        }
        experiment.name.clone_from(&name);
        experiment.updated_at = now;
        Ok(())
    })
    .await
}

pub(crate) async fn set_tag(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let _ = experiment_id(&fields)?;
    let key = fields.required("key")?;
    let value = fields.text("value")?.unwrap_or_default();
    rules::check_experiment_tag(&key, &value)?;
    change(&app, &caller, &fields, |experiment| {
        experiment.require_active()?;
        experiment.tags.insert(key.clone(), value.clone());
        Ok(())
    })
    .await
}

pub(crate) async fn delete_tag(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let _ = experiment_id(&fields)?;
    let key = fields.required("key")?;
    change(&app, &caller, &fields, |experiment| {
        experiment.require_active()?;
        experiment.tags.remove(&key).map(drop).ok_or_else(|| {
            Error::new(
                ErrorCode::TagNotFound,
                format!(
                    "No tag with name: {key} in experiment with id {}",
                    experiment.id
                ),
            )
        })
    })
    .await
}

/// The experiment in which something is to be created; it must be there.
pub(crate) async fn for_new(app: &App, caller: &Caller, fields: &Fields) -> Result<Experiment> {
    let given = fields.text("experiment_id")?.unwrap_or_default();
    // MLflow's store takes an empty id for the default experiment here.
    let id = if given.is_empty() {
        ExperimentId::DEFAULT
    } else {
        ExperimentId::parse(&given)?
    };
    let experiment = app.registry.experiment(&caller.tenant, id).await?;
    if experiment.id != id {
        return Err(experiment_not_found(id));
    }
    experiment.require_active()?;
    Ok(experiment)
}
