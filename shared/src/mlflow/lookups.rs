//! Models and versions with all that MLflow shows of them.

use super::shapes;
use crate::app::App;
use crate::domain::{Model, Version};
use crate::error::Result;
use serde_json::{Value, json};

/// Registered models with their latest versions and aliases, in their order.
pub async fn registered_models(app: &App, models: &[Model]) -> Result<Vec<Value>> {
    let neighbours = app.registry.neighbours(models).await?;
    let latest: Vec<Version> = neighbours
        .iter()
        .flat_map(|one| one.latest.iter().cloned())
        .collect();
    let mut shown = model_versions(app, &latest).await?.into_iter();
    Ok(models
        .iter()
        .zip(&neighbours)
        .map(|(model, one)| {
            let latest: Vec<Value> = shown.by_ref().take(one.latest.len()).collect();
            shapes::registered_model(model, &latest, &one.aliases)
        })
        .collect())
}

/// A registered model, as the answer of a change: what cannot be read now is left out, for the change is made.
pub async fn changed_model(app: &App, model: &Model) -> Value {
    let shown = match registered_models(app, std::slice::from_ref(model)).await {
        Ok(models) => models.into_iter().next(),
        Err(error) => {
            tracing::warn!(
                model.name = model.name.as_str(),
                error = error.chain(),
                "Answered a change without the latest versions and aliases"
            );
            None
        }
    };
    let shown = shown.unwrap_or_else(|| {
        shapes::registered_model(model, &[], &std::collections::BTreeMap::new())
    });
    json!({ "registered_model": shown })
}

/// Versions with their notes, in their order.
pub async fn model_versions(app: &App, versions: &[Version]) -> Result<Vec<Value>> {
    let notes = app.notes_of(versions).await?;
    Ok(versions
        .iter()
        .zip(&notes)
        .map(|(version, notes)| shapes::model_version(version, notes))
        .collect())
}

/// A version with its notes.
pub async fn model_version(app: &App, version: &Version) -> Result<Value> {
    let notes = app
        .load_document(&version.id, "notes", &version.notes)
        .await?
        .unwrap_or_default();
    Ok(shapes::model_version(version, &notes))
}
