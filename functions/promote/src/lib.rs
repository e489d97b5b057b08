//! Function card: `promote`
//!
//! - **Trigger:** HTTP (the routes below).
//! - **Reads:** aliases and versions.
//! - **Writes:** aliases with their history, alias counts and stages of versions, events, idempotency answers.
//! - **Emits:** `alias.set`, `alias.rolled_back`, `alias.removed`, `version.stage_changed`.
//! - **On failure:** answers the error envelope and changes nothing; a lost race answers 409 with the winner.
//! - **Permissions:** table read and write; bucket read of documents.

mod aliases;
mod handlers;
mod mlflow;
mod stages;

use axum::Router;
use shared::App;
use shared::domain::Action;
use shared::http::{Route, delete, mount, post, put};

/// Every route of this function, without the tenant prefix.
pub fn routes() -> Vec<Route> {
    let mut routes = vec![
        put("/v1/models/{model}/aliases/{alias}", handlers::set_alias),
        delete("/v1/models/{model}/aliases/{alias}", handlers::remove_alias),
        post(
            "/v1/models/{model}/aliases/{alias}/rollback",
            handlers::roll_alias_back,
        ),
        post(
            "/v1/models/{model}/versions/{version}/stage",
            handlers::change_stage,
        ),
    ];
    routes.extend(mlflow::routes());
    routes
        .into_iter()
        .map(|route| route.needs(Action::Promote))
        .collect()
}

/// The function's HTTP side.
pub fn router(app: App) -> Router {
    mount(app, routes())
}
