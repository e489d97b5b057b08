//! The sweep: events that were never dispatched, and deliveries that are due.
//!
//! It is what makes hints enough: whatever a lost record, a crash or a dead receiver left behind is found here.

use crate::deliver::{self, Outgoing};
use crate::dispatch::Batch;
use crate::seals;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::subscription::DeliveryStatus;
use shared::domain::{Subscription, TenantName, Timestamp};
use shared::dynamodb::outbox::OutboxShard;
use shared::dynamodb::{WorkItem, WorkKind};
use shared::telemetry::metrics::{Unit, emit};
use shared::{App, Result};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Deliveries that are looked up together.
const DUE_AT_ONCE: usize = 100;
/// After this no more deliveries are looked up; what is left stays due.
const TIME_LIMIT: Duration = Duration::from_secs(25);

/// What a piece of delivery work is about.
#[derive(Debug, Deserialize)]
struct Subject {
    tenant: TenantName,
    subscription: String,
    event: String,
}

/// Makes good what was missed, then attempts what is due; a fault in one does not keep the other from running.
pub(crate) async fn run(app: &App) -> Result<Value> {
    let now = app.clock.now();
    let made_good = dispatch_missed(app, now).await;
    let attempted = attempt_due(app, now).await;
    let sealed = seals::seal_due(app, now).await;
    Ok(json!({"made_good": made_good?, "attempted": attempted?, "sealed": sealed?}))
}

/// Dispatches the events in the stream that were not dispatched when they should have been.
pub(crate) async fn dispatch_missed(app: &App, now: Timestamp) -> Result<u64> {
    let shards = app.registry.read_outbox(now).await?;
    let batch = Batch::new(app);
    let mut made_good = 0;
    let mut failure = None;
    for shard in &shards {
        match dispatch_shard(app, &batch, shard, now).await {
            Ok(count) => made_good += count,
            // The shard's checkpoint stays, so that the next sweep begins with the event that failed.
            Err(error) => failure = Some(error),
        }
    }
    batch.send().await;
    if made_good > 0 {
        emit(
            &app.config.function,
            &[("events_made_good", Unit::Count, made_good)],
        );
    }
    failure.map_or(Ok(made_good), Err)
}

async fn dispatch_shard(
    app: &App,
    batch: &Batch,
    shard: &OutboxShard,
    now: Timestamp,
) -> Result<u64> {
    let mut made_good = 0;
    for event in &shard.events {
        if app.registry.is_dispatched(event).await? {
            continue;
        }
        if batch.dispatch(event).await? {
            made_good += 1;
            tracing::warn!(
                event.id = event.id,
                event.kind = event.kind.as_str(),
                request.id = event.request_id,
                "Made an event of type {} good that the stream did not deliver",
                event.kind
            );
        }
    }
    app.registry.keep_outbox_checkpoint(shard, now).await?;
    Ok(made_good)
}

/// Attempts the deliveries that are due.
async fn attempt_due(app: &App, now: Timestamp) -> Result<usize> {
    let deadline = Instant::now() + TIME_LIMIT;
    let mut attempted = 0;
    while Instant::now() < deadline {
        let work = app
            .registry
            .due_work(WorkKind::Deliver, now, DUE_AT_ONCE)
            .await?;
        let mut outgoing = Vec::new();
        let mut settled = 0;
        let mut subscriptions = HashMap::new();
        for item in &work {
            match load(app, item, &mut subscriptions).await {
                Ok(Some(one)) => outgoing.push(one),
                Ok(None) => settled += 1,
                Err(error) => {
                    tracing::warn!(
                        error = error.chain(),
                        "A due delivery could not be read; the next sweep tries again"
                    );
                }
            }
        }
        let count = outgoing.len();
        deliver::send_all(app, outgoing).await;
        attempted += count;
        // Work that could be neither settled nor sent would come back at once, for ever.
        if work.len() < DUE_AT_ONCE || count + settled == 0 {
            break;
        }
    }
    Ok(attempted)
}

/// Reads what a piece of work needs to be sent; `None` if it is settled without.
async fn load(
    app: &App,
    work: &WorkItem,
    subscriptions: &mut HashMap<(TenantName, String), Option<Subscription>>,
) -> Result<Option<Outgoing>> {
    let Ok(subject) = serde_json::from_str::<Subject>(&work.subject) else {
        tracing::error!(
            work.subject,
            "Work for a delivery is malformed and was dropped"
        );
        app.registry.finish_work(work).await?;
        return Ok(None);
    };
    let found = app
        .registry
        .find_delivery(&subject.tenant, &subject.subscription, &subject.event)
        .await?
        // A delivery that is done, or due later under another row, leaves nothing to do for this one.
        .filter(|(delivery, _)| {
            delivery.status == DeliveryStatus::Pending && delivery.due_at <= work.due
        });
    let Some((delivery, event)) = found else {
        app.registry.finish_work(work).await?;
        return Ok(None);
    };
    let key = (subject.tenant, subject.subscription);
    if !subscriptions.contains_key(&key) {
        let found = app.registry.find_subscription(&key.0, &key.1).await?;
        subscriptions.insert(key.clone(), found);
    }
    let subscription = subscriptions.get(&key).cloned().flatten();
    let Some(subscription) = subscription else {
        deliver::give_up(app, &delivery, &event).await?;
        return Ok(None);
    };
    Ok(Some(Outgoing {
        subscription,
        delivery,
        event,
    }))
}
