//! Function card: `query`
//!
//! - **Trigger:** HTTP (the routes below).
//! - **Reads:** models, versions, documents, aliases, events, tag index; reports, manifests and documents in the bucket.
//! - **Writes:** nothing.
//! - **Emits:** nothing.
//! - **On failure:** answers the error envelope.
//! - **Permissions:** table read; bucket read; presigned GET.

mod artifacts;
mod feed;
mod handlers;
mod history;
mod models;
mod versions;

use axum::Router;
use shared::App;
use shared::http::{Route, get, mount};

/// Every route of this function, without the tenant prefix.
pub fn routes() -> Vec<Route> {
    vec![
        get("/v1/models", handlers::list_models),
        get("/v1/models/{model}", handlers::get_model),
        get("/v1/models/{model}/versions", handlers::list_versions),
        get(
            "/v1/models/{model}/versions/{version}",
            handlers::get_version,
        ),
        get(
            "/v1/models/{model}/versions/{version}/artifacts",
            handlers::list_artifacts,
        ),
        get(
            "/v1/models/{model}/versions/{version}/report",
            handlers::get_report,
        ),
        get(
            "/v1/models/{model}/versions/{version}/manifest",
            handlers::get_manifest,
        ),
        get(
            "/v1/models/{model}/versions/{version}/downloads",
            handlers::list_downloads,
        ),
        get("/v1/models/{model}/aliases", handlers::list_aliases),
        get("/v1/models/{model}/aliases/{alias}", handlers::get_alias),
        get(
            "/v1/models/{model}/aliases/{alias}/history",
            handlers::list_alias_history,
        ),
        get("/v1/models/{model}/events", handlers::list_model_events),
        get("/v1/events", feed::list_events),
        get("/v1/openapi.json", handlers::get_openapi).open(),
    ]
}

/// The function's HTTP side.
pub fn router(app: App) -> Router {
    mount(app, routes())
}
