//! MLflow's edge of promoting: aliases and stages; the use cases are those of the native API.

use crate::{aliases, stages};
use axum::extract::State;
use serde_json::{Value, json};
use shared::domain::alias::Expectation;
use shared::domain::version::find_stage;
use shared::domain::{ModelName, StageName, Version, VersionId};
use shared::dynamodb::Outcome;
use shared::http::{Caller, Reply, Route, delete, post, respond};
use shared::mlflow::limits::{self, Wanted, checked_model_name, known_alias, new_alias};
use shared::mlflow::{Fields, MlflowCode, error, invalid, refused};
use shared::{App, ErrorCode, Result};

/// Stages whose versions may be archived by the arrival of another one.
const ACTIVE_STAGES: [&str; 2] = ["Staging", "Production"];

/// MLflow's routes of this function.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        post(
            "/{api}/2.0/mlflow/registered-models/alias",
            set_registered_model_alias,
        ),
        delete(
            "/{api}/2.0/mlflow/registered-models/alias",
            delete_registered_model_alias,
        ),
        post(
            "/{api}/2.0/mlflow/model-versions/transition-stage",
            transition_model_version_stage,
        ),
    ]
}

/// The version that a request names; a number that none can have is not there.
fn named(caller: &Caller, model: ModelName, version: &str) -> Result<VersionId> {
    match limits::version_number(version)? {
        Wanted::Number(number) => Ok(VersionId {
            tenant: caller.tenant.clone(),
            model,
            number,
        }),
        Wanted::Nothing(number) => Err(refused(
            MlflowCode::ResourceDoesNotExist,
            error::version_not_found(model.as_str(), &number.to_string()),
        )),
    }
}

async fn set_registered_model_alias(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let alias = fields.required("alias")?;
    let version = fields.required("version")?;
    let name = checked_model_name(&name)?;
    let alias = new_alias(&alias)?;
    let id = named(&caller, name, &version)?;
    let wanted = aliases::Move::to(Some(id.number), Expectation::Unconditional);
    let outcome =
        aliases::move_alias(&app, &caller, &id.model, &alias, &wanted, &|_| json!({})).await;
    // In MLflow's words it is the version that is not there, whatever happened to its model.
    let outcome = match outcome {
        Err(error) if matches!(error.code, ErrorCode::ModelNotFound | ErrorCode::Deleted) => {
            Err(refused(
                MlflowCode::ResourceDoesNotExist,
                error::version_not_found(id.model.as_str(), &id.number.to_string()),
            ))
        }
        other => other,
    };
    respond(&app, &caller, 200, outcome).await
}

async fn delete_registered_model_alias(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let alias = fields.required("alias")?;
    let name = checked_model_name(&name)?;
    let Some(alias) = known_alias(&alias)? else {
        // No alias can have this name, so that there is none to remove; the model must be there all the same.
        app.registry
            .model(&caller.tenant, &name)
            .await?
            .require_live()?;
        return Reply::ok(json!({}));
    };
    let wanted = aliases::Move::to(None, Expectation::Unconditional);
    let outcome = aliases::move_alias(&app, &caller, &name, &alias, &wanted, &|_| json!({})).await;
    // An alias that is not there is removed already.
    let outcome = match outcome {
        Err(error) if error.code == ErrorCode::AliasNotFound => {
            app.keep_unchanged(&caller, 200, json!({})).await
        }
        other => other,
    };
    respond(&app, &caller, 200, outcome).await
}

async fn transition_model_version_stage(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let version = fields.required("version")?;
    let stage = fields.required("stage")?;
    let archives = fields.flag("archive_existing_versions")?.unwrap_or(false);
    let to = limits::stage(&stage)?;
    if archives && !ACTIVE_STAGES.contains(&to.as_str()) {
        return Err(invalid(format!(
            "Model version transition cannot archive existing model versions because '{stage}' is not an Active stage. \
             Valid stages are ['Staging', 'Production']"
        )));
    }
    let id = named(&caller, checked_model_name(&name)?, &version)?;
    let before = app.registry.live_version(&id).await?;
    // What is to be shown of the version is read before it moves: after that, nothing may fail.
    let notes = app
        .load_document(&id, "notes", &before.notes)
        .await?
        .unwrap_or_default();
    if archives {
        archive_others(&app, &caller, &id, &to).await?;
    }
    let show = |version: &Version| json!({"model_version": shared::mlflow::shapes::model_version(version, &notes)});
    let outcome = stages::move_to(&app, &caller, &id, &stages::Wanted::of(to), &show).await;
    respond(&app, &caller, 200, outcome).await
}

/// Archives every other version of a stage, newest first.
async fn archive_others(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    stage: &StageName,
) -> Result<()> {
    let archived = find_stage("Archived")?;
    let head = app.registry.model(&caller.tenant, &id.model).await?;
    head.require_live()?;
    let mut span = head.span(stage);
    while let Some(version) = app
        .registry
        .newest_in_stage(&caller.tenant, &head.name, stage, span)
        .await?
    {
        span.top = version.id.number.get() - 1;
        if version.id == *id {
            continue;
        }
        let wanted = stages::Wanted::of(archived.clone());
        let outcome: Outcome<Value> = stages::move_to(
            app,
            &Caller {
                idempotency: None,
                ..caller.clone()
            },
            &version.id,
            &wanted,
            &|_| Value::Null,
        )
        .await?;
        drop(outcome);
    }
    Ok(())
}
