//! Function card: `artifacts`
//!
//! - **Trigger:** HTTP (the routes below), all of MLflow's API.
//! - **Reads:** runs, logged models and experiments, to know whose root a file lies in; versions and their documents; listings and heads of `runs/`.
//! - **Writes:** objects under `runs/`, and delete markers there.
//! - **Emits:** nothing; files of runs are no part of the registry until a version is registered from them.
//! - **On failure:** answers MLflow's error body; an upload that was begun and not completed ends by the bucket's lifecycle rule.
//! - **Permissions:** table read; `runs/` read, write, multipart and hide; objects that versions hold, read by presigning; list under `runs/`.
//!
//! Bytes go straight between client and S3 by presigned requests, except for files small enough for one request of a
//! client that knows no other way.

mod download;
mod handlers;
mod list;
mod paths;
mod roots;
mod upload;
mod versions;

use axum::Router;
use shared::App;
use shared::domain::Action;
use shared::http::{Route, Subject, delete, get, mount, post, put};

/// Every route of this function, without the tenant prefix.
pub fn routes() -> Vec<Route> {
    vec![
        get(
            "/{api}/2.0/mlflow-artifacts/artifacts",
            handlers::list_folder,
        ),
        get(
            "/{api}/2.0/mlflow-artifacts/artifacts/{*path}",
            handlers::download,
        ),
        put(
            "/{api}/2.0/mlflow-artifacts/artifacts/{*path}",
            handlers::upload,
        ),
        delete(
            "/{api}/2.0/mlflow-artifacts/artifacts/{*path}",
            handlers::delete_artifacts,
        ),
        get(
            "/{api}/2.0/mlflow-artifacts/presigned/{*path}",
            handlers::presign_download,
        ),
        post(
            "/{api}/2.0/mlflow-artifacts/mpu/create/{*path}",
            handlers::create_multipart,
        ),
        post(
            "/{api}/2.0/mlflow-artifacts/mpu/complete/{*path}",
            handlers::complete_multipart,
        ),
        post(
            "/{api}/2.0/mlflow-artifacts/mpu/abort/{*path}",
            handlers::abort_multipart,
        ),
        get(
            "/{api}/2.0/mlflow/artifacts/list",
            handlers::list_run_artifacts,
        ),
        post(
            "/{api}/2.0/mlflow/artifacts/presigned-upload-url",
            handlers::presigned_upload_url,
        ),
        post(
            "/{api}/2.0/mlflow/artifacts/presigned-download-url",
            handlers::presigned_download_url,
        )
        .needs(Action::Read),
        get(
            "/{api}/2.0/mlflow/logged-models/{model_id}/artifacts/directories",
            handlers::list_logged_model_artifacts,
        ),
        get(
            "/{api}/2.0/mlflow/logged-models/{model_id}/artifacts/files",
            handlers::get_logged_model_artifact,
        ),
        get("/get-artifact", handlers::get_artifact),
        get(
            "/model-versions/get-artifact",
            handlers::get_version_artifact,
        )
        .touches(Subject::Named),
    ]
}

/// The function's HTTP side.
pub fn router(app: App) -> Router {
    mount(app, routes())
}
