//! MLflow's edge of registering: its routes, parsed and rendered; the use cases are those of the native API.

mod changes;
mod models;
mod sources;
mod versions;

use shared::http::{Route, delete, patch, post};

/// MLflow's routes of this function.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        post(
            "/{api}/2.0/mlflow/registered-models/create",
            models::create_registered_model,
        ),
        post(
            "/{api}/2.0/mlflow/registered-models/rename",
            models::rename_registered_model,
        ),
        patch(
            "/{api}/2.0/mlflow/registered-models/update",
            models::update_registered_model,
        ),
        delete(
            "/{api}/2.0/mlflow/registered-models/delete",
            models::delete_registered_model,
        ),
        post(
            "/{api}/2.0/mlflow/registered-models/set-tag",
            models::set_registered_model_tag,
        ),
        delete(
            "/{api}/2.0/mlflow/registered-models/delete-tag",
            models::delete_registered_model_tag,
        ),
        post(
            "/{api}/2.0/mlflow/model-versions/create",
            versions::create_model_version,
        ),
        patch(
            "/{api}/2.0/mlflow/model-versions/update",
            versions::update_model_version,
        ),
        delete(
            "/{api}/2.0/mlflow/model-versions/delete",
            versions::delete_model_version,
        ),
        post(
            "/{api}/2.0/mlflow/model-versions/set-tag",
            versions::set_model_version_tag,
        ),
        delete(
            "/{api}/2.0/mlflow/model-versions/delete-tag",
            versions::delete_model_version_tag,
        ),
    ]
}
