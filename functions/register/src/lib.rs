//! Function card: `register`
//!
//! - **Trigger:** HTTP (the routes below); queue of S3 notifications for `dropzone/`; schedule.
//! - **Reads:** models, versions and their documents; listings of `incoming/`, `dropzone/` and `runs/`; runs and logged models that a version comes from.
//! - **Writes:** models, versions, documents, events, idempotency answers; work of kind `drop`; delete markers in `dropzone/`.
//! - **Emits:** `model.*`, `version.registered`, `version.finalized`, `version.updated`, `version.deleted`, `version.restored`, `drop.refused`.
//! - **On failure:** HTTP answers the error envelope and changes nothing; messages are redelivered, then dead-lettered.
//! - **Permissions:** table read and write; presigned PUT and multipart on `incoming/`; list; read `runs/`; hide in `dropzone/`.

mod drops;
mod handlers;
mod mlflow;
mod models;
mod names;
mod trusted_keys;
mod uploads;
mod versions;

use axum::Router;
use serde_json::Value;
use shared::events::Incoming;
use shared::http::{Route, delete, mount, patch, post, put};
use shared::{App, Result};

/// Every route of this function, without the tenant prefix.
pub fn routes() -> Vec<Route> {
    let mut routes = vec![
        post("/v1/models", handlers::create_model),
        patch("/v1/models/{model}", handlers::update_model),
        delete("/v1/models/{model}", handlers::delete_model),
        post("/v1/models/{model}/restore", handlers::restore_model),
        post("/v1/models/{model}/rename", handlers::rename_model),
        post("/v1/models/{model}/versions", handlers::register_version),
        patch(
            "/v1/models/{model}/versions/{version}",
            handlers::update_version,
        ),
        delete(
            "/v1/models/{model}/versions/{version}",
            handlers::delete_version,
        ),
        post(
            "/v1/models/{model}/versions/{version}/restore",
            handlers::restore_version,
        ),
        post(
            "/v1/models/{model}/versions/{version}/uploads",
            handlers::upload_artifacts,
        ),
        post(
            "/v1/models/{model}/versions/{version}/finalize",
            handlers::finalize_version,
        ),
        put("/v1/trusted-keys/{name}", handlers::add_trusted_key),
        delete("/v1/trusted-keys/{name}", handlers::remove_trusted_key),
    ];
    routes.extend(mlflow::routes());
    routes
}

/// The function's HTTP side.
pub fn router(app: App) -> Router {
    mount(app, routes())
}

/// The function's event side: the drop zone.
pub async fn handle(app: App, event: Value) -> Result<Value> {
    match Incoming::parse(&event)? {
        Incoming::Messages(messages) => Ok(drops::receive(&app, messages).await),
        Incoming::Schedule => drops::sweep(&app).await,
        Incoming::Records(_) => Ok(Value::Null),
    }
}
