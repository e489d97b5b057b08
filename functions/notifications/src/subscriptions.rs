//! Subscriptions: create, list, test, delete, and the log of their deliveries.

use crate::address::parse_url;
use crate::deliver::{self, Outgoing};
use crate::dispatch::first_delivery;
use crate::sign::secret_of;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::domain::model::check_text;
use shared::domain::subscription::{Attempt, DeliveryStatus};
use shared::domain::{
    Delivery, Event, EventType, ModelName, Principal, Subscription, Timestamp, VersionNumber,
};
use shared::dynamodb::{Outcome, Page, StoredResponse};
use shared::http::Caller;
use shared::{App, Error, ErrorCode, Result};

/// Random bytes of a secret; Standard Webhooks asks for 24 to 64.
const SECRET_BYTES: usize = 24;
/// Longest description of a subscription, in characters.
const MAX_DESCRIPTION: usize = 1_000;

/// The body that creates a subscription.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSubscription {
    url: String,
    #[serde(default)]
    event_types: Vec<EventType>,
    #[serde(default)]
    model: Option<ModelName>,
    #[serde(default)]
    description: Option<String>,
}

/// A subscription as it is shown, without its secret.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SubscriptionView {
    id: String,
    url: String,
    event_types: Vec<EventType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<ModelName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    created_by: Principal,
    created_at: Timestamp,
}

impl From<Subscription> for SubscriptionView {
    fn from(subscription: Subscription) -> Self {
        Self {
            id: subscription.id,
            url: subscription.url,
            event_types: subscription.event_types,
            model: subscription.model,
            description: subscription.description,
            created_by: subscription.created_by,
            created_at: subscription.created_at,
        }
    }
}

/// A subscription as its creator sees it once, with its secret.
#[derive(Clone, Serialize)]
pub(crate) struct CreatedView {
    #[serde(flatten)]
    subscription: SubscriptionView,
    secret: String,
}

impl std::fmt::Debug for CreatedView {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.subscription.fmt(formatter)
    }
}

/// What came of the test of a subscription.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TestView {
    event_id: String,
    is_delivered: bool,
    #[serde(flatten)]
    attempt: Attempt,
    /// The first bytes of the answer, as text.
    #[serde(skip_serializing_if = "String::is_empty")]
    answer_start: String,
}

/// A delivery as it is shown.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DeliveryView {
    event_id: String,
    event_type: EventType,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<ModelName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<VersionNumber>,
    status: DeliveryStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<Timestamp>,
    attempts: Vec<Attempt>,
}

impl From<(Delivery, Event)> for DeliveryView {
    fn from((delivery, event): (Delivery, Event)) -> Self {
        let is_pending = delivery.status == DeliveryStatus::Pending;
        Self {
            event_id: delivery.event_id,
            event_type: event.kind,
            model: event.model,
            version: event.version,
            status: delivery.status,
            next_attempt_at: Some(delivery.due_at).filter(|_| is_pending),
            attempts: delivery.attempts,
        }
    }
}

/// Creates a subscription with a new secret.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    new: NewSubscription,
) -> Result<Outcome<CreatedView>> {
    let subscription = decide(app, caller, new)?;
    let view = CreatedView {
        secret: subscription.secret.clone(),
        subscription: subscription.clone().into(),
    };
    // With an idempotency key the secret lies in the stored answer, too: the same key must give the same answer.
    // That item is in the same encrypted table as the subscription itself, and is gone after 24 hours.
    let answer = caller.answer(201, &view, subscription.created_at)?;
    let outcome = app
        .registry
        .create_subscription(&subscription, answer)
        .await?;
    if matches!(outcome, Outcome::Done(())) {
        tracing::info!(
            subscription.id = subscription.id,
            "Created subscription `{}`",
            subscription.id
        );
    }
    Ok(outcome.map(|()| view))
}

fn decide(app: &App, caller: &Caller, new: NewSubscription) -> Result<Subscription> {
    parse_url(&new.url, app.config.allow_loopback_webhooks)?;
    check_text("description", new.description.as_deref(), MAX_DESCRIPTION)?;
    let mut event_types = new.event_types;
    event_types.sort_unstable();
    event_types.dedup();
    Ok(Subscription {
        id: app.ids.next(),
        tenant: caller.tenant.clone(),
        url: new.url,
        event_types,
        model: new.model,
        secret: secret_of(&app.ids.secret::<SECRET_BYTES>()),
        description: new.description,
        created_by: caller.principal.clone(),
        created_at: app.clock.now(),
    })
}

/// All subscriptions of a tenant, oldest first; there are few enough for one page.
pub(crate) async fn list(app: &App, caller: &Caller) -> Result<Vec<SubscriptionView>> {
    let subscriptions = app.registry.subscriptions(&caller.tenant).await?;
    Ok(subscriptions.into_iter().map(Into::into).collect())
}

/// One subscription.
pub(crate) async fn get(app: &App, caller: &Caller, id: &str) -> Result<Subscription> {
    app.registry
        .find_subscription(&caller.tenant, id)
        .await?
        .ok_or_else(|| not_found(id))
}

/// Deletes a subscription; the sweep gives its pending deliveries up.
pub(crate) async fn delete(app: &App, caller: &Caller, id: &str) -> Result<Outcome<Value>> {
    if let Some(stored) = earlier(app, caller).await? {
        return Ok(Outcome::Replayed(stored));
    }
    if !app.registry.delete_subscription(&caller.tenant, id).await? {
        return Err(not_found(id));
    }
    tracing::info!(subscription.id = id, "Deleted subscription `{id}`");
    keep(app, caller, json!({})).await
}

/// Delivers a `subscription.tested` event now, whatever types the subscription wants, and says what came of it.
pub(crate) async fn test(app: &App, caller: &Caller, id: &str) -> Result<Outcome<TestView>> {
    if let Some(stored) = earlier(app, caller).await? {
        return Ok(Outcome::Replayed(stored));
    }
    let subscription = get(app, caller, id).await?;
    let event = app
        .event(
            EventType::SubscriptionTested,
            &caller.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .with("subscription_id", id);
    let delivery = first_delivery(&event, &subscription, event.time);
    // It changes nothing, so that it has no item of its own: the feed's row and the delivery are its record.
    app.registry
        .dispatch(&event, std::slice::from_ref(&delivery), &[])
        .await?;
    let outgoing = Outgoing {
        subscription,
        delivery,
        event,
    };
    let attempted = deliver::attempt(app, &outgoing).await?;
    let view = TestView {
        event_id: outgoing.event.id,
        is_delivered: attempted.attempt.error.is_none(),
        attempt: attempted.attempt,
        answer_start: String::from_utf8_lossy(&attempted.answer_start).into_owned(),
    };
    keep(app, caller, view).await
}

/// One page of a subscription's deliveries, newest first.
pub(crate) async fn deliveries(
    app: &App,
    caller: &Caller,
    id: &str,
    limit: usize,
    after: Option<String>,
) -> Result<Page<DeliveryView>> {
    get(app, caller, id).await?;
    let page = app
        .registry
        .deliveries(&caller.tenant, id, limit, after)
        .await?;
    Ok(Page {
        items: page.items.into_iter().map(Into::into).collect(),
        after: page.after,
    })
}

/// What was answered to the same request before, for operations whose write does not store the answer itself.
async fn earlier(app: &App, caller: &Caller) -> Result<Option<StoredResponse>> {
    match &caller.idempotency {
        None => Ok(None),
        Some(idempotency) => app.registry.find_answer(&caller.tenant, idempotency).await,
    }
}

/// Stores the answer under the idempotency key, if there is one.
async fn keep<T: Serialize>(app: &App, caller: &Caller, view: T) -> Result<Outcome<T>> {
    match caller.answer(200, &view, app.clock.now())? {
        None => Ok(Outcome::Done(view)),
        Some(answer) => {
            let outcome = app.registry.keep_answer(&caller.tenant, answer).await?;
            Ok(outcome.map(|()| view))
        }
    }
}

fn not_found(id: &str) -> Error {
    Error::new(
        ErrorCode::SubscriptionNotFound,
        format!("subscription `{id}` does not exist; list the subscriptions to see which do"),
    )
    .with("subscription", id)
}
