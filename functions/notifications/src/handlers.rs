//! Transport: HTTP requests, stream records and queue messages become calls of use cases.

use crate::dispatch::{Batch, dispatch_packaged};
use crate::subscriptions::{self, NewSubscription, SubscriptionView};
use crate::{audit, seals, tenures};
use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use shared::dynamodb::outbox::event_of_record;
use shared::events::{Message, ObjectCreated, each_message, each_record};
use shared::http::{Body, Caller, Pages, Paging, Params, Reply, Target, respond};
use shared::{App, Error, Result};

/// Dispatches the events among stream records, in order, then sends them.
pub(crate) async fn stream_records(app: &App, records: Vec<Value>) -> Value {
    let batch = Batch::new(app);
    let answer = each_record(records, |record| dispatch_record(&batch, record)).await;
    batch.send().await;
    answer
}

/// Dispatches the events that S3 notifications of manifests tell of, then sends them.
pub(crate) async fn queue_messages(app: &App, messages: Vec<Message>) -> Value {
    let batch = Batch::new(app);
    let answer = each_message(messages, |message| dispatch_message(&batch, message)).await;
    batch.send().await;
    answer
}

async fn dispatch_record(batch: &Batch, record: Value) -> Result<()> {
    match event_of_record(&record) {
        Some(event) => batch.dispatch(&event?).await.map(drop),
        None => Ok(()),
    }
}

async fn dispatch_message(batch: &Batch, message: Message) -> Result<()> {
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
    respond(&app, &caller, 201, outcome).await
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
    Reply::ok(SubscriptionView::from(subscription))
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

/// Lists the deliveries of a subscription, newest first.
pub(crate) async fn list_deliveries(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(paging): Params<Paging>,
) -> Result<Reply> {
    let id = target.id()?;
    if paging.order.is_some() {
        return Err(Error::invalid(
            "order",
            "deliveries come newest first only; leave `order` out",
        ));
    }
    let pages = Pages::new(&app, &caller, &["deliveries", &id]);
    let after = pages.after(paging.cursor.as_deref())?;
    let page = subscriptions::deliveries(&app, &caller, &id, paging.limit()?, after).await?;
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
