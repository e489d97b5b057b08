//! Function card: `notifications`
//!
//! Publishes events to subscriptions and indexes.
//!
//! - **Trigger:** the table's stream (new images) · a queue with S3 notifications of `packages/…/manifest.json` · a schedule, each minute · HTTP `/v1/subscriptions…`, `/v1/models/{model}/audit`, `/v1/seals…`, `/v1/tenures`
//! - **Reads:** events, subscriptions, deliveries, work that is due, registered models (for the tag index), chains, the stream (sweep, tenures of the last minutes), seals
//! - **Writes:** event feed, chains, changes by time, `seals/`, `exports/`, deliveries, work that is due, tag index, subscriptions, the sweep's checkpoints
//! - **Emits:** `subscription.tested`; every event, signed, to each subscription that wants it
//! - **On failure:** a stream record or a queue message is delivered again; an event that never came is made good by the sweep; a delivery is tried for a day
//! - **Permissions:** `dynamodb`: `GetItem`, `Query`, `PutItem`, `UpdateItem`, `DeleteItem`, `ConditionCheckItem` on the table, `ListStreams`, `DescribeStream`, `GetShardIterator`, `GetRecords` on its stream · `sqs`: `ReceiveMessage`, `DeleteMessage`, `GetQueueAttributes` on its queue
//!
//! An event is *dispatched* once: its row in the feed, its deliveries and the work that follows from it are one transaction.
//! A delivery is *sent* at least once: the receiver tells repetitions by `webhook-id`.

mod address;
mod audit;
mod client;
mod cloud_event;
mod deliver;
mod dispatch;
mod facts;
mod handlers;
mod lanes;
mod messages;
mod mlflow;
mod payload;
mod replay;
mod report;
mod seals;
mod send;
mod sign;
mod subscriptions;
mod sweep;
mod tenures;
mod views;

use crate::mlflow::handlers as webhooks;
use axum::Router;
use serde_json::Value;
use shared::domain::Action;
use shared::events::Incoming;
use shared::http::{Route, Subject, delete, get, mount, patch, post};
use shared::{App, Result};

/// The routes of this function.
pub fn routes() -> Vec<Route> {
    let routes = vec![
        post("/v1/subscriptions", handlers::create_subscription),
        get("/v1/subscriptions", handlers::list_subscriptions),
        get("/v1/subscriptions/{id}", handlers::get_subscription),
        patch("/v1/subscriptions/{id}", handlers::update_subscription),
        delete("/v1/subscriptions/{id}", handlers::delete_subscription),
        post("/v1/subscriptions/{id}/secret", handlers::rotate_secret),
        post("/v1/subscriptions/{id}/replay", handlers::replay_deliveries),
        post("/v1/subscriptions/{id}/test", handlers::test_subscription),
        get(
            "/v1/subscriptions/{id}/deliveries",
            handlers::list_deliveries,
        ),
        post("/{api}/2.0/mlflow/webhooks", webhooks::create_webhook),
        get("/{api}/2.0/mlflow/webhooks", webhooks::list_webhooks),
        get("/{api}/2.0/mlflow/webhooks/{id}", webhooks::get_webhook),
        patch("/{api}/2.0/mlflow/webhooks/{id}", webhooks::update_webhook),
        delete("/{api}/2.0/mlflow/webhooks/{id}", webhooks::delete_webhook),
        post(
            "/{api}/2.0/mlflow/webhooks/{id}/test",
            webhooks::test_webhook,
        ),
    ];
    // A subscription hears of every model.
    routes
        .into_iter()
        .map(|route| route.needs(Action::Admin).touches(Subject::Everything))
        .chain(audit_routes())
        .collect()
}

/// The routes of those who ask what was.
fn audit_routes() -> Vec<Route> {
    vec![
        get("/v1/tenures", handlers::list_tenures),
        get("/v1/seals", handlers::list_seals).touches(Subject::Everything),
        get("/v1/seals/{day}", handlers::get_seal).touches(Subject::Everything),
        get("/v1/models/{model}/audit", handlers::export_audit),
    ]
}

/// Answers HTTP requests.
pub fn router(app: App) -> Router {
    mount(app, routes())
}

/// Handles stream records, queue messages and the schedule.
pub async fn handle(app: App, event: Value) -> Result<Value> {
    match Incoming::parse(&event)? {
        Incoming::Records(records) => Ok(handlers::stream_records(&app, records).await),
        Incoming::Messages(messages) => Ok(handlers::queue_messages(&app, messages).await),
        Incoming::Schedule => sweep::run(&app).await,
    }
}
