//! MLflow's edge of querying: what it asks of models and versions.

mod conditions;
mod models;
mod order;
mod versions;

use axum::extract::State;
use serde_json::json;
use shared::domain::{Model, ModelName, StageName, Version, VersionId};
use shared::http::{Caller, Reply, Route, get, post};
use shared::mlflow::limits::{self, Wanted, checked_model_name, known_alias};
use shared::mlflow::{Fields, MlflowCode, error, invalid, lookups, refused, shapes};
use shared::{App, Result};

/// MLflow's routes of this function.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        get(
            "/{api}/2.0/mlflow/registered-models/get",
            get_registered_model,
        ),
        get(
            "/{api}/2.0/mlflow/registered-models/search",
            models::search_registered_models,
        ),
        get(
            "/{api}/2.0/mlflow/registered-models/get-latest-versions",
            get_latest_versions,
        ),
        post(
            "/{api}/2.0/mlflow/registered-models/get-latest-versions",
            get_latest_versions,
        ),
        get(
            "/{api}/2.0/mlflow/registered-models/alias",
            get_model_version_by_alias,
        ),
        get("/{api}/2.0/mlflow/model-versions/get", get_model_version),
        get(
            "/{api}/2.0/mlflow/model-versions/search",
            versions::search_model_versions,
        ),
        get(
            "/{api}/2.0/mlflow/model-versions/get-download-uri",
            get_model_version_download_uri,
        ),
    ]
}

/// The registered model that a request names.
async fn live_model(app: &App, caller: &Caller, name: &ModelName) -> Result<Model> {
    let model = app.registry.model(&caller.tenant, name).await?;
    model.require_live()?;
    Ok(model)
}

async fn get_registered_model(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = limits::model_name(&fields)?;
    let model = live_model(&app, &caller, &name).await?;
    let shown = lookups::registered_models(&app, &[model]).await?;
    Reply::ok(json!({"registered_model": shown.first()}))
}

/// The latest version of each stage of a model.
async fn latest_of(app: &App, caller: &Caller, name: &ModelName) -> Result<Vec<Version>> {
    let model = live_model(app, caller, name).await?;
    latest_of_model(app, model).await
}

async fn latest_of_model(app: &App, model: Model) -> Result<Vec<Version>> {
    let found = app.registry.neighbours(&[model]).await?;
    Ok(found.into_iter().flat_map(|one| one.latest).collect())
}

/// A stage in its canonical spelling: one of MLflow's, or one that a version of the model ever entered.
fn stage_of(model: &Model, name: &str) -> Result<StageName> {
    limits::stage(name).or_else(|unknown| {
        let own = model.pointers.stages.keys();
        let is_meant = |stage: &&StageName| stage.as_str().to_lowercase() == name.to_lowercase();
        own.into_iter().find(is_meant).cloned().ok_or(unknown)
    })
}

async fn get_latest_versions(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let stages = fields.texts("stages")?;
    let name = checked_model_name(&name)?;
    let model = live_model(&app, &caller, &name).await?;
    let stages = stages
        .iter()
        .map(|stage| stage_of(&model, stage))
        .collect::<Result<Vec<StageName>>>()?;
    let mut latest = latest_of_model(&app, model).await?;
    if !stages.is_empty() {
        latest.retain(|version| stages.contains(&version.stage));
    }
    let shown = lookups::model_versions(&app, &latest).await?;
    Reply::ok(if shown.is_empty() {
        json!({})
    } else {
        json!({ "model_versions": shown })
    })
}

async fn get_model_version_by_alias(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let name = fields.required("name")?;
    let alias = fields.required("alias")?;
    let name = checked_model_name(&name)?;
    let known = known_alias(&alias)?;
    let version = if alias.eq_ignore_ascii_case("latest") {
        let latest = latest_of(&app, &caller, &name).await?;
        latest
            .into_iter()
            .max_by_key(|version| version.id.number)
            .ok_or_else(|| {
                refused(
                    MlflowCode::ResourceDoesNotExist,
                    format!("Latest version not found for model {name}."),
                )
            })?
    } else {
        let held = match &known {
            Some(alias) => {
                app.registry
                    .held_version(&caller.tenant, &name, alias)
                    .await?
            }
            None => None,
        };
        let Some(version) = held else {
            live_model(&app, &caller, &name).await?;
            return Err(invalid(format!(
                "Registered model alias {alias} not found."
            )));
        };
        version
    };
    Reply::ok(json!({"model_version": lookups::model_version(&app, &version).await?}))
}

/// The live version that a request names.
async fn live_version(app: &App, caller: &Caller, fields: &Fields) -> Result<Version> {
    let name = fields.required("name")?;
    let version = fields.required("version")?;
    let model = checked_model_name(&name)?;
    let number = match limits::version_number(&version)? {
        Wanted::Number(number) => number,
        Wanted::Nothing(number) => {
            return Err(refused(
                MlflowCode::ResourceDoesNotExist,
                error::version_not_found(&name, &number.to_string()),
            ));
        }
    };
    let id = VersionId {
        tenant: caller.tenant.clone(),
        model,
        number,
    };
    app.registry.live_version(&id).await
}

async fn get_model_version(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let version = live_version(&app, &caller, &fields).await?;
    Reply::ok(json!({"model_version": lookups::model_version(&app, &version).await?}))
}

async fn get_model_version_download_uri(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let version = live_version(&app, &caller, &fields).await?;
    Reply::ok(json!({"artifact_uri": shapes::download_uri(&version)}))
}
