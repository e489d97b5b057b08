//! Transport: HTTP requests, stream records and queue messages become calls of use cases.

use crate::dispatch::{Batch, dispatch_packaged};
use crate::replay::{self, Replay};
use crate::subscriptions::{self, ChangedSubscription, NewSecret, NewSubscription, unsealed};
use crate::views::SubscriptionView;
use crate::{audit, lanes, seals, tenures};
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::subscription::DeliveryStatus;
use shared::dynamodb::Outcome;
use shared::dynamodb::outbox::event_of_record;
use shared::events::{Message, ObjectCreated, each_message, each_record};
use shared::http::{Body, Caller, Pages, Paging, Params, Reply, Target, respond};
use shared::lane_queue::LaneMessage;
use shared::{App, Error, Result};

/// Dispatches the events among stream records, in order, then hands them on.
pub(crate) async fn stream_records(app: &App, records: Vec<Value>) -> Value {
    let batch = Batch::new(app);
    let answer = each_record(records, |record| dispatch_record(&batch, record)).await;
    batch.hand_on().await;
    answer
}

/// Goes through the lanes that messages name; dispatches the events that S3 notifications of manifests tell of.
pub(crate) async fn queue_messages(app: &App, messages: Vec<Message>) -> Value {
    let batch = Batch::new(app);
    let answer = each_message(messages, |message| take_message(app, &batch, message)).await;
    batch.hand_on().await;
    answer
}

async fn dispatch_record(batch: &Batch, record: Value) -> Result<()> {
    match event_of_record(&record) {
        Some(event) => batch.dispatch(&event?).await.map(drop),
        None => Ok(()),
    }
}

async fn take_message(app: &App, batch: &Batch, message: Message) -> Result<()> {
    if let Some(lanes) = LaneMessage::from_body(&message.body) {
        return Box::pin(lanes::go_through(app, &lanes)).await;
    }
    for object in ObjectCreated::from_message(&message.body)? {
        dispatch_packaged(batch, &object.key).await?;
    }
    Ok(())
}

/// Creates a subscription.
pub(crate) async fn create_subscription(
    State(app): State<App>,
    caller: Caller,
    Body(new): Body<NewSubscription>,
) -> Result<Reply> {
    let outcome = subscriptions::create(&app, &caller, new).await;
    respond_unsealed(&app, &caller, 201, outcome).await
}

/// Answers with a secret, which lies sealed in the answer of an earlier request.
async fn respond_unsealed<T: serde::Serialize>(
    app: &App,
    caller: &Caller,
    status: u16,
    outcome: Result<Outcome<T>>,
) -> Result<Reply> {
    let outcome = match outcome {
        Ok(Outcome::Replayed(stored)) => {
            Ok(Outcome::Replayed(unsealed(app, &caller.tenant, stored)))
        }
        // A refusal may come from a repeated request whose first try succeeded.
        Err(error) if error.code.status() < 500 => {
            match subscriptions::earlier(app, caller).await? {
                Some(stored) => Ok(Outcome::Replayed(unsealed(app, &caller.tenant, stored))),
                None => Err(error),
            }
        }
        other => other,
    };
    respond(app, caller, status, outcome).await
}

/// Changes a subscription.
pub(crate) async fn update_subscription(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(change): Body<ChangedSubscription>,
) -> Result<Reply> {
    let outcome = subscriptions::update(&app, &caller, &target.id()?, change).await;
    respond(&app, &caller, 200, outcome).await
}

/// Makes a new secret.
pub(crate) async fn rotate_secret(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(wanted): Body<NewSecret>,
) -> Result<Reply> {
    let outcome = subscriptions::rotate(&app, &caller, &target.id()?, &wanted).await;
    respond_unsealed(&app, &caller, 200, outcome).await
}

/// Lets deliveries be sent again.
pub(crate) async fn replay_deliveries(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(wanted): Body<Replay>,
) -> Result<Reply> {
    let outcome = replay::run(&app, &caller, &target.id()?, wanted).await;
    respond(&app, &caller, 200, outcome).await
}

/// Lists all subscriptions.
pub(crate) async fn list_subscriptions(State(app): State<App>, caller: Caller) -> Result<Reply> {
    let subscriptions = subscriptions::list(&app, &caller).await?;
    Reply::ok(json!({"subscriptions": subscriptions}))
}

/// Shows one subscription.
pub(crate) async fn get_subscription(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    let subscription = subscriptions::get(&app, &caller, &target.id()?).await?;
    Reply::ok(SubscriptionView::of(&app, subscription))
}

/// Deletes a subscription.
pub(crate) async fn delete_subscription(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    let outcome = subscriptions::delete(&app, &caller, &target.id()?).await;
    respond(&app, &caller, 200, outcome).await
}

/// Tests a subscription.
pub(crate) async fn test_subscription(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    let outcome = subscriptions::test(&app, &caller, &target.id()?).await;
    respond(&app, &caller, 200, outcome).await
}

/// The query of the deliveries of a subscription.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeliveriesQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    order: Option<String>,
    status: Option<DeliveryStatus>,
}

/// Lists the deliveries of a subscription, newest first.
pub(crate) async fn list_deliveries(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(query): Params<DeliveriesQuery>,
) -> Result<Reply> {
    let id = target.id()?;
    if query.order.is_some() {
        return Err(Error::invalid(
            "order",
            "deliveries come newest first only; leave `order` out",
        ));
    }
    let paging = Paging {
        limit: query.limit,
        cursor: query.cursor,
        order: None,
    };
    let status = query.status.map_or("", DeliveryStatus::as_str);
    let pages = Pages::new(&app, &caller, &["deliveries", &id, status]);
    let after = pages.after(paging.cursor.as_deref())?;
    let page =
        subscriptions::deliveries(&app, &caller, &id, query.status, paging.limit()?, after).await?;
    let items = page.items.iter().map(|view| json!(view)).collect();
    Reply::ok(pages.render("deliveries", items, page.after.as_deref()))
}

/// Lists who held an alias, or stood in a stage, in any model.
pub(crate) async fn list_tenures(
    State(app): State<App>,
    caller: Caller,
    Params(wanted): Params<tenures::Wanted>,
) -> Result<Reply> {
    Reply::ok(tenures::list(&app, &caller, &wanted).await?)
}

/// Exports the chain of a model.
pub(crate) async fn export_audit(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(wanted): Params<audit::Wanted>,
) -> Result<Response> {
    audit::export(&app, &caller, &target.model()?, &wanted).await
}

/// Lists the seals, newest first.
pub(crate) async fn list_seals(State(app): State<App>, caller: Caller) -> Result<Reply> {
    Reply::ok(seals::list(&app, &caller).await?)
}

/// Shows the seal of a day.
pub(crate) async fn get_seal(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(seals::get(&app, &caller, &target.day()?).await?)
}
