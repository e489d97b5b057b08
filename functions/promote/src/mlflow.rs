//! MLflow's edge of promoting: aliases and stages; the use cases are those of the native API.

use crate::stages::{ChangeStage, Wish};
use crate::{aliases, settings, stages};
use axum::extract::State;
use serde_json::json;
use shared::domain::{StageName, StageRules, Version, VersionId};
use shared::http::{Caller, Reply, Route, delete, post, respond};
use shared::mlflow::limits::{self, checked_model_name, known_alias, new_alias, version_id};
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
    let id = version_id(&caller.tenant, name, &version)?;
    let wanted = aliases::Move::to(Some(id.number));
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
    let wanted = aliases::Move::to(None);
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
    let id = checked_model_name(&name).and_then(|name| version_id(&caller.tenant, name, &version));
    let (to, is_active) = match &id {
        Ok(id) => self::stage(&app, id, &stage).await?,
        Err(_) => (limits::stage(&stage)?, true),
    };
    if archives && !is_active {
        return Err(invalid(format!(
            "Model version transition cannot archive existing model versions because '{stage}' is not an Active stage. \
             Valid stages are ['Staging', 'Production']"
        )));
    }
    let id = id?;
    let before = app.registry.live_version(&id).await?;
    // What is to be shown of the version is read before it moves: after that, nothing may fail.
    let notes = app
        .load_document(&id, "notes", &before.notes)
        .await?
        .unwrap_or_default();
    let wish = Wish::To(ChangeStage {
        stage: to.to_string(),
        expected_stage: None,
        archive_existing: archives,
        reason: None,
    });
    let show = |version: &Version| json!({"model_version": shared::mlflow::shapes::model_version(version, &notes)});
    let outcome = stages::change(&app, &caller, &id, &wish, &show).await;
    respond(&app, &caller, 200, outcome).await
}

/// A stage in its canonical spelling, and whether versions are at work in it.
///
/// Beside MLflow's own stages it may be one that the model's rules name; those are read only then.
async fn stage(app: &App, id: &VersionId, name: &str) -> Result<(StageName, bool)> {
    let unknown = match limits::stage(name) {
        Ok(stage) => {
            let is_active = ACTIVE_STAGES.contains(&stage.as_str());
            return Ok((stage, is_active));
        }
        Err(error) => error,
    };
    let Ok(version) = app.registry.live_version(id).await else {
        return Err(unknown);
    };
    let id = &version.id;
    let governing = app
        .registry
        .governing(&id.tenant, &id.model, app.clock.now())
        .await?;
    let rules = settings::rules(app, id, governing).await?;
    let stage = match rules.find(name) {
        Ok(stage) => stage,
        Err(_) if rules == StageRules::default() => return Err(unknown),
        Err(error) => return Err(error),
    };
    let is_active = rules.archive_stage().as_ref() != Some(&stage);
    Ok((stage, is_active))
}
