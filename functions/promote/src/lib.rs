//! Function card: `promote`
//!
//! - **Trigger:** HTTP (the routes below) · a schedule, each minute.
//! - **Reads:** aliases, versions and their documents, settings, promotion requests, rollouts.
//! - **Writes:** aliases with their history, alias counts, stages and dates of versions, settings, promotion requests, rollouts, events, work that is due, idempotency answers.
//! - **Emits:** `alias.set`, `alias.rolled_back`, `alias.removed`, `version.stage_changed`, `version.lifecycle_set`, `version.deprecated`, `version.end_of_life`, `promotion.…`, `check.…`, `stages.changed`, `protections.changed`, `waiver.granted`, `waiver.revoked`, `rollout.changed`.
//! - **On failure:** answers the error envelope and changes nothing; a lost race answers 409 with the winner; a promotion that is denied is recorded; what is due stays due.
//! - **Permissions:** table read and write; in the bucket only large documents (`documents/*`), read.

mod aliases;
mod gate;
mod handlers;
mod lifecycle;
mod mlflow;
mod policy;
mod requests;
mod rollouts;
mod settings;
mod simulate;
mod stages;
mod sweep;
mod waivers;

use axum::Router;
use serde_json::Value;
use shared::domain::{Action, Protections, StageRules};
use shared::events::Incoming;
use shared::http::{Route, delete, get, mount, post, put};
use shared::{App, Error, ErrorCode, Result};

/// Every route of this function, without the tenant prefix.
pub fn routes() -> Vec<Route> {
    [
        promotions(),
        stages_and_dates(),
        protections(),
        requests(),
        rollouts(),
        needing(Action::Promote, mlflow::routes()),
    ]
    .concat()
}

fn promotions() -> Vec<Route> {
    let moves = [
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
        post(
            "/v1/models/{model}/versions/{version}/archive",
            handlers::archive,
        ),
        post(
            "/v1/models/{model}/versions/{version}/unarchive",
            handlers::unarchive,
        ),
    ];
    let mut routes = needing(Action::Promote, moves);
    routes.push(post("/v1/models/{model}/simulate", handlers::simulate).needs(Action::Read));
    routes
}

fn stages_and_dates() -> Vec<Route> {
    vec![
        put(
            "/v1/models/{model}/versions/{version}/lifecycle",
            handlers::set_lifecycle,
        )
        .needs(Action::Promote),
        get("/v1/stages", handlers::get_settings::<StageRules>),
        put("/v1/stages", handlers::put_settings::<StageRules>).needs(Action::Admin),
        get(
            "/v1/models/{model}/stages",
            handlers::get_settings::<StageRules>,
        ),
        put(
            "/v1/models/{model}/stages",
            handlers::put_settings::<StageRules>,
        )
        .needs(Action::Admin),
    ]
}

fn protections() -> Vec<Route> {
    let mut routes = needing(
        Action::Admin,
        [
            put("/v1/protections", handlers::put_settings::<Protections>),
            put(
                "/v1/models/{model}/protections",
                handlers::put_settings::<Protections>,
            ),
        ],
    );
    routes.extend(needing(
        Action::Approve,
        [
            post("/v1/models/{model}/waivers", handlers::grant_waiver),
            delete("/v1/models/{model}/waivers/{id}", handlers::revoke_waiver),
        ],
    ));
    routes.extend([
        get("/v1/protections", handlers::get_settings::<Protections>),
        get(
            "/v1/models/{model}/protections",
            handlers::get_settings::<Protections>,
        ),
        get("/v1/models/{model}/waivers", handlers::list_waivers),
    ]);
    routes
}

fn requests() -> Vec<Route> {
    let mut routes = needing(
        Action::Approve,
        [
            post(
                "/v1/models/{model}/promotion-requests/{id}/approve",
                handlers::approve,
            ),
            post(
                "/v1/models/{model}/promotion-requests/{id}/reject",
                handlers::reject,
            ),
            post(
                "/v1/models/{model}/promotion-requests/{id}/checks",
                handlers::answer_check,
            ),
        ],
    );
    routes.extend(needing(
        Action::Promote,
        [
            post(
                "/v1/models/{model}/promotion-requests",
                handlers::request_promotion,
            ),
            post(
                "/v1/models/{model}/promotion-requests/{id}/withdraw",
                handlers::withdraw,
            ),
            post(
                "/v1/models/{model}/promotion-requests/{id}/promote",
                handlers::promote_request,
            ),
        ],
    ));
    routes.extend([
        get("/v1/promotion-requests", handlers::list_inbox),
        get(
            "/v1/models/{model}/promotion-requests",
            handlers::list_requests,
        ),
        get(
            "/v1/models/{model}/promotion-requests/{id}",
            handlers::get_request,
        ),
    ]);
    routes
}

fn rollouts() -> Vec<Route> {
    vec![
        get("/v1/rollouts", handlers::list_rollouts),
        get(
            "/v1/rollouts/{environment}/{endpoint}",
            handlers::get_rollout,
        ),
        put(
            "/v1/rollouts/{environment}/{endpoint}",
            handlers::put_rollout,
        )
        .needs(Action::Promote),
        post(
            "/v1/rollouts/{environment}/{endpoint}/rollback",
            handlers::roll_rollout_back,
        )
        .needs(Action::Promote),
        get(
            "/v1/rollouts/{environment}/{endpoint}/history",
            handlers::list_rollout_history,
        ),
        get(
            "/v1/models/{model}/rollouts",
            handlers::list_rollouts_of_model,
        ),
    ]
}

fn needing(action: Action, routes: impl IntoIterator<Item = Route>) -> Vec<Route> {
    routes
        .into_iter()
        .map(|route| route.needs(action))
        .collect()
}

/// The function's HTTP side.
pub fn router(app: App) -> Router {
    mount(app, routes())
}

/// Handles the schedule.
pub async fn handle(app: App, event: Value) -> Result<Value> {
    match Incoming::parse(&event)? {
        Incoming::Schedule => sweep::run(&app).await,
        Incoming::Messages(_) | Incoming::Records(_) => Err(Error::new(
            ErrorCode::InvalidArgument,
            "the event is of no kind that this function takes; see its card",
        )),
    }
}
