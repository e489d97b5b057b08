//! Function card: `query`
//!
//! - **Trigger:** HTTP (the routes below).
//! - **Reads:** models, versions, documents, aliases, events, tag index; experiments, runs and logged models; reports, manifests and documents in the bucket.
//! - **Writes:** nothing.
//! - **Emits:** nothing.
//! - **On failure:** answers the error envelope.
//! - **Permissions:** table read; bucket read; presigned GET.

mod artifacts;
mod attestations;
mod feed;
mod handlers;
mod history;
mod mlflow;
mod models;
mod tenures;
mod tracking;
mod versions;

use axum::Router;
use shared::App;
use shared::http::{Route, Subject, get, mount};

/// Every route of this function, without the tenant prefix.
pub fn routes() -> Vec<Route> {
    let mut routes = vec![
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
        get(
            "/v1/models/{model}/versions/{version}/checksums",
            handlers::get_checksums,
        ),
        get(
            "/v1/models/{model}/versions/{version}/attestations",
            handlers::list_attestations,
        ),
        get(
            "/v1/models/{model}/versions/{version}/attestations/{name}",
            handlers::get_attestation,
        ),
        get("/v1/signing-key", handlers::get_signing_key),
        get("/v1/trusted-keys", handlers::list_trusted_keys),
        get("/v1/models/{model}/aliases", handlers::list_aliases),
        get("/v1/models/{model}/aliases/{alias}", handlers::get_alias),
        get(
            "/v1/models/{model}/aliases/{alias}/history",
            handlers::list_alias_history,
        ),
        get(
            "/v1/models/{model}/aliases/{alias}/tenures",
            handlers::list_alias_tenures,
        ),
        get("/v1/models/{model}/events", handlers::list_model_events),
        get("/v1/experiments", handlers::list_experiments),
        get("/v1/experiments/{experiment}", handlers::get_experiment),
        get("/v1/experiments/{experiment}/runs", handlers::list_runs),
        get("/v1/runs/{run}", handlers::get_run),
        get("/v1/runs/{run}/metrics", handlers::get_metric_history),
        get("/v1/logged-models/{model_id}", handlers::get_logged_model),
        // It tells of every model.
        get("/v1/events", feed::list_events).touches(Subject::Everything),
        get("/v1/openapi.json", handlers::get_openapi).open(),
    ];
    routes.extend(mlflow::routes());
    routes
}

/// The function's HTTP side.
pub fn router(app: App) -> Router {
    mount(app, routes())
}
