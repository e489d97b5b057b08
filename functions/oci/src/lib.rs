//! Function card: `oci`
//!
//! - **Trigger:** HTTP (the routes below), the OCI distribution specification 1.1 for those who pull.
//! - **Reads:** what versions are to OCI clients, and who has a digest; versions, aliases and models.
//! - **Writes:** nothing; whatever would push is answered 405.
//! - **Emits:** nothing.
//! - **On failure:** answers the protocol's error body.
//! - **Permissions:** table read; `models/` and `packages/`, read by presigning, and large manifests under `packages/`.
//!
//! Bytes of files go straight from S3 to the client, to whom a blob is a redirect.

mod blobs;
mod find;
mod handlers;
mod manifests;
mod referrers;
mod tags;

use axum::Router;
use shared::App;
use shared::http::{Route, get, mount};

/// Every route of this function, without the tenant prefix.
pub fn routes() -> Vec<Route> {
    vec![
        get("/v2", handlers::check),
        get("/v2/", handlers::check),
        get("/v2/token", handlers::token),
        get("/v2/{*path}", handlers::pull),
    ]
}

/// The function's HTTP side.
pub fn router(app: App) -> Router {
    mount(app, routes())
}
