//! The sweep: events that were never dispatched, and deliveries that are due.
//!
//! It is what makes hints enough: whatever a lost record, a crash or a dead receiver left behind is found here.

use crate::dispatch::{Batch, Fresh, put_on_bus};
use crate::lanes::{End, Run, Sender};
use crate::seals;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::{Subscription, TenantName, Timestamp};
use shared::dynamodb::outbox::OutboxShard;
use shared::dynamodb::{Lane, WorkItem, WorkKind};
use shared::telemetry::metrics::{Unit, emit};
use shared::{App, Result};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// Pieces of work that are looked at together.
const DUE_AT_ONCE: usize = 100;
/// After this no more work is looked at; what is left stays due.
const TIME_LIMIT: Duration = Duration::from_secs(25);

/// What a piece of delivery work is about.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Subject {
    Fresh(Fresh),
    Lane(Lane),
}

/// Makes good what was missed, then attempts what is due; a fault in one does not keep the other from running.
pub(crate) async fn run(app: &App) -> Result<Value> {
    let now = app.clock.now();
    let made_good = dispatch_missed(app, now).await;
    let looked_at = deliver_due(app, now).await;
    let sealed = seals::seal_due(app, now).await;
    Ok(json!({"made_good": made_good?, "looked_at": looked_at?, "sealed": sealed?}))
}

/// Dispatches the events in the stream that were not dispatched when they should have been.
async fn dispatch_missed(app: &App, now: Timestamp) -> Result<u64> {
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

/// Goes through the lanes that are due, and puts on the bus what is not there yet.
async fn deliver_due(app: &App, now: Timestamp) -> Result<usize> {
    let deadline = Instant::now() + TIME_LIMIT;
    let mut looked_at = 0;
    while Instant::now() < deadline {
        let work = app
            .registry
            .due_work(WorkKind::Deliver, now, DUE_AT_ONCE)
            .await?;
        looked_at += work.len();
        let sender = Sender::new(app, deadline.duration_since(Instant::now()));
        let settled = settle(app, &sender, &work).await?;
        // Work that could not be settled would come back at once, for ever.
        if work.len() < DUE_AT_ONCE || settled == 0 {
            break;
        }
    }
    Ok(looked_at)
}

/// Does what pieces of work ask for, each lane once, and removes those that are done; how many were.
async fn settle(app: &App, sender: &Sender<'_>, work: &[WorkItem]) -> Result<usize> {
    let mut lanes: BTreeMap<Lane, Vec<usize>> = BTreeMap::new();
    let mut for_bus: Vec<(usize, Fresh)> = Vec::new();
    for (index, item) in work.iter().enumerate() {
        match serde_json::from_str(&item.subject) {
            Ok(Subject::Fresh(fresh)) => {
                for lane in fresh.lanes() {
                    lanes.entry(lane).or_default().push(index);
                }
                if fresh.bus {
                    for_bus.push((index, fresh));
                }
            }
            Ok(Subject::Lane(lane)) => lanes.entry(lane).or_default().push(index),
            Err(_) => tracing::error!(
                work.subject = item.subject,
                "Work for a delivery is malformed and is dropped"
            ),
        }
    }
    let mut is_done = vec![true; work.len()];
    for (index, is_on_bus) in put_missing(app, &for_bus).await {
        is_done[index] &= is_on_bus;
    }
    let mut subscriptions = HashMap::new();
    let mut runs = Vec::new();
    for lane in lanes.keys() {
        runs.push(Run {
            subscription: subscription_of(app, lane, &mut subscriptions).await?,
            lane: lane.clone(),
            known: HashMap::new(),
        });
    }
    let ends = sender.run_all(runs).await;
    for (lane, indexes) in &lanes {
        let end = ends.get(lane).copied().unwrap_or(End::Interrupted);
        if end == End::Interrupted {
            for index in indexes {
                is_done[*index] = false;
            }
        }
    }
    let mut settled = 0;
    for (item, is_done) in work.iter().zip(is_done) {
        if is_done {
            app.registry.finish_work(item).await?;
            settled += 1;
        }
    }
    Ok(settled)
}

/// Puts events on the bus that may not be there, and says of each whether it is.
async fn put_missing(app: &App, missing: &[(usize, Fresh)]) -> Vec<(usize, bool)> {
    let mut found = Vec::new();
    let mut outcomes = Vec::new();
    for (index, fresh) in missing {
        match app
            .registry
            .feed_entry(&fresh.tenant, fresh.at, &fresh.stamp)
            .await
        {
            Ok(Some(event)) => found.push((*index, event)),
            // It is older than the feed goes back.
            Ok(None) => outcomes.push((*index, true)),
            Err(_) => outcomes.push((*index, false)),
        }
    }
    let taken = put_on_bus(app, found.iter().map(|(_, event)| event)).await;
    outcomes.extend(
        found
            .iter()
            .zip(taken)
            .map(|((index, _), taken)| (*index, taken)),
    );
    outcomes
}

async fn subscription_of(
    app: &App,
    lane: &Lane,
    known: &mut HashMap<(TenantName, String), Option<Subscription>>,
) -> Result<Option<Subscription>> {
    let key = (lane.tenant.clone(), lane.subscription.clone());
    if let Some(found) = known.get(&key) {
        return Ok(found.clone());
    }
    let found = app.registry.find_subscription(&key.0, &key.1).await?;
    known.insert(key, found.clone());
    Ok(found)
}
