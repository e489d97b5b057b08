//! The sweep: events that were never dispatched, and lanes of deliveries that are due.
//!
//! It is what makes hints enough: whatever a lost record, a crash or a dead receiver left behind is found here.
//! It sends nothing itself, so that no endpoint can make it late.

use crate::dispatch::{Batch, Fresh, put_on_bus};
use crate::{lanes, seals};
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::Timestamp;
use shared::dynamodb::outbox::OutboxShard;
use shared::dynamodb::{Lane, WorkItem, WorkKind};
use shared::lane_queue::LaneMessage;
use shared::telemetry::metrics::{Unit, emit};
use shared::{App, Result};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Pieces of work that are looked at together.
const DUE_AT_ONCE: usize = 500;
/// Pieces of work that are removed at the same time.
const FINISHED_AT_ONCE: usize = 16;
/// After this no more work is looked at; what is left stays due.
const TIME_LIMIT: Duration = Duration::from_secs(25);

/// What a piece of delivery work is about.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Subject {
    Fresh(Fresh),
    Message(LaneMessage),
    Lane(Lane),
}

/// Makes good what was missed, then asks for what is due; a fault in one does not keep the other from running.
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
    batch.hand_on().await;
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

/// Asks for the lanes that are due, and puts on the bus what is not there yet.
async fn deliver_due(app: &App, now: Timestamp) -> Result<usize> {
    let deadline = Instant::now() + TIME_LIMIT;
    let mut looked_at = 0;
    while Instant::now() < deadline {
        let work = app
            .registry
            .due_work(WorkKind::Deliver, now, DUE_AT_ONCE)
            .await?;
        looked_at += work.len();
        let settled = settle(app, &work).await?;
        // Work that could not be settled would come back at once, for ever.
        if work.len() < DUE_AT_ONCE || settled == 0 {
            break;
        }
    }
    Ok(looked_at)
}

/// Does what pieces of work ask for, and removes those that are done; how many were.
///
/// A lane is asked for before its work is removed, so that a crash in between asks for it twice.
async fn settle(app: &App, work: &[WorkItem]) -> Result<usize> {
    let mut lanes: BTreeSet<Lane> = BTreeSet::new();
    let mut for_bus: Vec<(usize, Fresh)> = Vec::new();
    for (index, item) in work.iter().enumerate() {
        match serde_json::from_str(&item.subject) {
            Ok(Subject::Fresh(fresh)) => {
                lanes.extend(fresh.lanes());
                if fresh.bus {
                    for_bus.push((index, fresh));
                }
            }
            Ok(Subject::Message(message)) => lanes.extend(message.lanes()),
            Ok(Subject::Lane(lane)) => {
                lanes.insert(lane);
            }
            Err(_) => tracing::error!(
                work.subject = item.subject,
                "Work for a delivery is malformed and is dropped"
            ),
        }
    }
    lanes::ask_for(app, lanes).await?;
    let mut is_done = vec![true; work.len()];
    for (index, is_on_bus) in put_missing(app, &for_bus).await {
        is_done[index] &= is_on_bus;
    }
    let done: Vec<_> = work
        .iter()
        .zip(is_done)
        .filter(|(_, is_done)| *is_done)
        .map(|(item, _)| app.registry.finish_work(item))
        .collect();
    let settled = done.len();
    let finished: Vec<Result<()>> = futures::stream::iter(done)
        .buffer_unordered(FINISHED_AT_ONCE)
        .collect()
        .await;
    finished.into_iter().collect::<Result<()>>()?;
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
