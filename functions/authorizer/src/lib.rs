//! Function card: `authorizer`
//!
//! - **Trigger:** the gateway, for every request, as its Lambda authorizer (payload 2.0, simple answer); HTTP `/v1/tokens…`.
//! - **Reads:** one token per request, by its id.
//! - **Writes:** tokens, of which only a keyed hash is stored; events, idempotency answers.
//! - **Emits:** `token.created`, `token.revoked`.
//! - **On failure:** lets the request through with a context that names nobody and says why, and the function that the request is for refuses it in the words of its API.
//! - **Permissions:** table read and write; nothing in the bucket.
//!
//! The gateway's own refusals cannot be given a body that MLflow's clients understand, hence the context. A function
//! that gets a request without an identity refuses it, so that a fault here lets nobody in.

mod check;
mod handlers;
mod secret;
mod tokens;

pub use secret::administrator_token;

use axum::Router;
use serde_json::Value;
use shared::domain::Action;
use shared::http::{Route, Subject, delete, get, mount, post};
use shared::{App, Error, ErrorCode, Result};

/// Every route of this function, without the tenant prefix.
pub fn routes() -> Vec<Route> {
    let routes = vec![
        post("/v1/tokens", handlers::create_token),
        get("/v1/tokens", handlers::list_tokens),
        get("/v1/tokens/{id}", handlers::get_token),
        delete("/v1/tokens/{id}", handlers::revoke_token),
    ];
    routes
        .into_iter()
        .map(|route| route.needs(Action::Admin).touches(Subject::Everything))
        .collect()
}

/// The function's HTTP side.
pub fn router(app: App) -> Router {
    mount(app, routes())
}

/// Answers the gateway's question who calls.
pub async fn handle(app: App, event: Value) -> Result<Value> {
    if event.get("routeArn").is_none() {
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            "the event is no request of an HTTP API to its authorizer in payload format 2.0; check the authorizer",
        ));
    }
    Ok(check::answer(&app, &event).await)
}
