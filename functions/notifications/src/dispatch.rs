//! Dispatching an event: tag index first, then its row in the feed with its deliveries and work, then handing it on.
//!
//! The feed row says that an event was dispatched. Everything that a crash must repeat happens before it is written;
//! everything after it is also found by the sweep, for which a piece of work is written in the same transaction.

use crate::facts::Facts;
use crate::lanes;
use crate::seals;
use serde::{Deserialize, Serialize};
use shared::domain::subscription::{DeliveryStatus, MAX_SUBSCRIPTIONS, SubscriptionStatus};
use shared::domain::{
    Delivery, Event, EventType, Model, ModelName, Subscription, TenantName, Timestamp, VersionId,
};
use shared::dynamodb::{Dispatch, Lane, WorkItem, WorkKind, keys};
use shared::s3;
use shared::telemetry::metrics::{Unit, emit};
use shared::{App, Error, ErrorCode, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Deliveries are asked for at once; this much later the sweep looks whether they were, in milliseconds.
const FIRST_DUE_MILLIS: u64 = 60_000;
/// How long validation and packaging have before the sweep looks after a version, in milliseconds.
const WORK_DUE_MILLIS: u64 = 5 * 60_000;
/// How long an index row remembers that a tag is gone: longer than any event may be late, in milliseconds.
const GONE_MILLIS: u64 = 7 * 24 * 3_600_000;
/// Most deliveries of one event: with the event and its work they fill a transaction of 100 writes.
///
/// A little more than [`MAX_SUBSCRIPTIONS`], which concurrent creations may overstep.
const MAX_DELIVERIES: usize = MAX_SUBSCRIPTIONS + 6;
/// The lane of a subscription that wants digests.
const DIGEST_LANE: &str = "digest";

/// What the sweep looks after once an event was dispatched: its deliveries, and its place on the bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fresh {
    /// The tenant.
    pub(crate) tenant: TenantName,
    /// Where the event stands in the feed.
    pub(crate) stamp: String,
    /// When it was dispatched.
    pub(crate) at: Timestamp,
    /// Subscription and lane of each delivery.
    pub(crate) lanes: Vec<(String, String)>,
    /// Whether it must be put on the bus.
    pub(crate) bus: bool,
}

impl Fresh {
    fn work(&self) -> Result<WorkItem> {
        Ok(WorkItem {
            kind: WorkKind::Deliver,
            due: self.at.plus_millis(FIRST_DUE_MILLIS),
            subject: serde_json::to_string(self)
                .map_err(|error| Error::internal("writing JSON", error))?,
        })
    }

    /// The lanes of its deliveries.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = Lane> {
        self.lanes.iter().map(|(subscription, lane)| Lane {
            tenant: self.tenant.clone(),
            subscription: subscription.clone(),
            lane: lane.clone(),
        })
    }
}

/// An event that was dispatched and is to be sent.
#[derive(Debug)]
struct Dispatched {
    event: Event,
    fresh: Fresh,
    work: WorkItem,
    deliveries: Vec<(Subscription, Delivery)>,
}

/// Events that came together; their deliveries are asked for together once all of them are dispatched.
#[derive(Debug)]
pub(crate) struct Batch {
    app: App,
    subscriptions: Mutex<HashMap<TenantName, Arc<Vec<Subscription>>>>,
    dispatched: Mutex<Vec<Dispatched>>,
    sealed: Mutex<HashSet<TenantName>>,
}

impl Batch {
    /// An empty batch.
    pub(crate) fn new(app: &App) -> Self {
        Self {
            app: app.clone(),
            subscriptions: Mutex::default(),
            dispatched: Mutex::default(),
            sealed: Mutex::default(),
        }
    }

    /// Dispatches an event, once; whether it was not dispatched before.
    pub(crate) async fn dispatch(&self, event: &Event) -> Result<bool> {
        index_tags(&self.app, event).await?;
        self.app.registry.settle_deletion(event).await?;
        let subscriptions = self.subscriptions_of(&event.tenant).await?;
        let wanting = wanting(&self.app, event, &subscriptions).await?;
        let stamp = self.app.ids.next();
        // The feed's partition is the day of the stamp, so that no stamp lies in another day's.
        let at = keys::time_of(&stamp);
        let deliveries: Vec<(Subscription, Delivery)> = wanting
            .into_iter()
            .map(|subscription| {
                let delivery = first_delivery(event, &subscription, at, &stamp);
                (subscription, delivery)
            })
            .collect();
        let fresh = Fresh {
            tenant: event.tenant.clone(),
            stamp: stamp.clone(),
            at,
            lanes: deliveries
                .iter()
                .filter_map(|(_, delivery)| Lane::of(&event.tenant, delivery))
                .map(|lane| (lane.subscription, lane.lane))
                .collect(),
            bus: self.app.bus.is_set(),
        };
        let fresh_work = fresh.work()?;
        let grace = self.app.config.collect_grace_seconds.saturating_mul(1000);
        let window = self.app.config.restore_seconds.saturating_mul(1000);
        let mut work = work_of(event, grace, window)?;
        if fresh.bus || !fresh.lanes.is_empty() {
            work.push(fresh_work.clone());
        }
        if event.home().is_some() && self.is_first_of(&event.tenant) {
            work.push(seals::work_of(&event.tenant, at));
        }
        let to_write: Vec<Delivery> = deliveries
            .iter()
            .map(|(_, delivery)| delivery.clone())
            .collect();
        let chained = self
            .app
            .registry
            .dispatch(&Dispatch {
                event,
                stamp: &stamp,
                at,
                deliveries: &to_write,
                work: &work,
            })
            .await?;
        let is_new = chained.is_some();
        if let Some(event) = chained {
            tracing::info!(
                event.id = event.id,
                event.kind = event.kind.as_str(),
                request.id = event.request_id,
                deliveries = deliveries.len(),
                "Dispatched an event of type {} to {} subscriptions",
                event.kind,
                deliveries.len()
            );
            emit(
                &self.app.config.function,
                &[("events_dispatched", Unit::Count, 1)],
            );
            self.dispatched
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Dispatched {
                    event,
                    fresh,
                    work: fresh_work,
                    deliveries,
                });
        }
        Ok(is_new)
    }

    /// Puts what was dispatched on the bus, and asks for its deliveries; what fails here is tried again by the sweep.
    pub(crate) async fn hand_on(self) {
        let dispatched = self
            .dispatched
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let (on_bus, is_asked_for) = tokio::join!(
            Box::pin(put_on_bus(
                &self.app,
                dispatched.iter().map(|one| &one.event)
            )),
            Box::pin(ask_for_all(&self.app, &dispatched))
        );
        let done: Vec<WorkItem> = dispatched
            .into_iter()
            .zip(on_bus)
            .filter(|(one, is_on_bus)| {
                *is_on_bus && is_asked_for && (one.fresh.bus || !one.fresh.lanes.is_empty())
            })
            .map(|(one, _)| one.work)
            .collect();
        if let Err(error) = self.app.registry.finish_all(&done).await {
            tracing::info!(
                error = error.chain(),
                "The work of looking after {} events stays, and is looked at once more",
                done.len()
            );
        }
    }

    /// Whether nobody asked this of the tenant before: the day's seal is asked for once in a batch.
    fn is_first_of(&self, tenant: &TenantName) -> bool {
        self.sealed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(tenant.clone())
    }

    async fn subscriptions_of(&self, tenant: &TenantName) -> Result<Arc<Vec<Subscription>>> {
        let known = self
            .subscriptions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(tenant)
            .cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let loaded = Arc::new(self.app.registry.subscriptions(tenant).await?);
        self.subscriptions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(tenant.clone(), Arc::clone(&loaded));
        Ok(loaded)
    }
}

/// Asks for the lanes of deliveries to be gone through: now, or when the first of them may be sent.
async fn ask_for_all(app: &App, dispatched: &[Dispatched]) -> bool {
    let mut now = BTreeSet::new();
    let mut later = BTreeSet::new();
    for one in dispatched {
        for (subscription, delivery) in &one.deliveries {
            let Some(lane) = Lane::of(&one.event.tenant, delivery) else {
                continue;
            };
            // Nobody need be called to find that a digest is not due, or that an endpoint is paused.
            let due = subscription
                .circuit
                .paused_until
                .map_or(delivery.due_at, |until| until.max(delivery.due_at));
            if due > app.clock.now() {
                later.insert((lane, due));
            } else {
                now.insert(lane);
            }
        }
    }
    let asked = async {
        for (lane, due) in later {
            app.registry.add_work(&lane.work(due)?).await?;
        }
        lanes::ask_for(app, now).await
    };
    asked
        .await
        .inspect_err(|error| {
            tracing::warn!(
                error = error.chain(),
                "Deliveries could not be asked for; the sweep tries again"
            );
        })
        .is_ok()
}

/// Puts events on the bus, if there is one, and says of each whether it is there.
pub(crate) async fn put_on_bus<'a>(
    app: &App,
    events: impl Iterator<Item = &'a Event>,
) -> Vec<bool> {
    let events: Vec<&Event> = events.collect();
    match app.bus.put(&events).await {
        Ok(taken) => taken,
        Err(error) => {
            tracing::warn!(
                error = error.chain(),
                "Events could not be put on the bus; the sweep tries again"
            );
            vec![false; events.len()]
        }
    }
}

/// Dispatches the event that an S3 notification of a package's manifest tells of.
///
/// The manifest is written before its version is marked, so the mark may still be missing; then the queue asks again.
pub(crate) async fn dispatch_packaged(batch: &Batch, key: &str) -> Result<()> {
    let Some((id, "manifest.json")) = s3::keys::version_of("packages", key) else {
        tracing::info!(object.key = key, "Ignored an object that is no manifest");
        return Ok(());
    };
    let registry = &batch.app.registry;
    if let Some(event) = registry
        .find_version_event(&id, EventType::VersionPackaged)
        .await?
    {
        return batch.dispatch(&event).await.map(drop);
    }
    require_packaged(&batch.app, &id).await
}

/// Refuses, for now, a version without its package; a packaged one whose event is long past is the sweep's.
async fn require_packaged(app: &App, id: &VersionId) -> Result<()> {
    if app.registry.version(id).await?.package.is_some() {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::Unavailable,
        format!(
            "version {} of `{}` is not marked as packaged yet; deliver the message again",
            id.number, id.model
        ),
    ))
}

/// The subscriptions that want an event.
async fn wanting(
    app: &App,
    event: &Event,
    subscriptions: &[Subscription],
) -> Result<Vec<Subscription>> {
    let mut facts = Facts::new(app, event);
    let mut wanting = Vec::new();
    for subscription in subscriptions {
        if wanting.len() < MAX_DELIVERIES
            && subscription.status == SubscriptionStatus::Active
            && facts.are_wanted_by(subscription).await?
        {
            wanting.push(subscription.clone());
        }
    }
    Ok(wanting)
}

/// A delivery that nobody has tried yet.
pub(crate) fn first_delivery(
    event: &Event,
    subscription: &Subscription,
    at: Timestamp,
    stamp: &str,
) -> Delivery {
    let lane = match subscription.digest_minutes {
        Some(_) => DIGEST_LANE.to_owned(),
        None => keys::lane(event.home()),
    };
    Delivery {
        event_id: event.id.clone(),
        subscription_id: subscription.id.clone(),
        status: DeliveryStatus::Pending,
        due_at: due_of(subscription, at),
        place: keys::lane_place(&lane, stamp),
        revision: 0,
        round: 0,
        replays: 0,
        replay: None,
        attempts: Vec::new(),
    }
}

/// When a delivery is due that becomes one now: at once, or at the end of the digest's window.
pub(crate) fn due_of(subscription: &Subscription, at: Timestamp) -> Timestamp {
    let Some(minutes) = subscription.digest_minutes else {
        return at;
    };
    let window = u64::from(minutes.max(1)) * 60_000;
    Timestamp::from_millis((at.millis() / window + 1) * window)
}

/// What must happen after an event: what would otherwise be lost with it, and what has a time of its own.
///
/// What nothing needs any more is freed after `grace` milliseconds, what was deleted after `window`.
fn work_of(event: &Event, grace: u64, window: u64) -> Result<Vec<WorkItem>> {
    // A version whose files lie elsewhere is ready from the beginning.
    if event.kind == EventType::VersionRegistered
        && event.data.get("status").and_then(serde_json::Value::as_str) == Some("READY")
    {
        return Ok(Vec::new());
    }
    if event.kind == EventType::ModelDeleted {
        let Some(home) = event.home() else {
            return Ok(Vec::new());
        };
        return Ok(vec![WorkItem::about_model(
            WorkKind::Collect,
            event.time.plus_millis(window),
            &event.tenant,
            &ModelName::of_home(home)?,
        )]);
    }
    let kinds: &[(WorkKind, u64)] = match event.kind {
        EventType::VersionRegistered => &[(WorkKind::Validate, WORK_DUE_MILLIS)],
        EventType::VersionReady => &[(WorkKind::Package, WORK_DUE_MILLIS)],
        EventType::VersionRejudged if became_ready(event) => {
            // The report came before the judgement that names it, and set nothing going.
            &[(WorkKind::Package, 0)]
        }
        // It may have been deleted at any point of its way.
        EventType::VersionRestored => &[
            (WorkKind::Validate, WORK_DUE_MILLIS),
            (WorkKind::Package, WORK_DUE_MILLIS),
        ],
        EventType::VersionPackaged | EventType::VersionFailed => &[(WorkKind::Collect, grace)],
        EventType::VersionDeleted => &[(WorkKind::Collect, window)],
        _ => return Ok(Vec::new()),
    };
    let (Some(home), Some(number)) = (event.home(), event.version) else {
        return Ok(Vec::new());
    };
    let id = VersionId {
        tenant: event.tenant.clone(),
        model: ModelName::of_home(home)?,
        number,
    };
    kinds
        .iter()
        .map(|(kind, wait)| WorkItem::about_version(*kind, event.time.plus_millis(*wait), &id))
        .collect()
}

/// Whether a version that had failed is ready since it was judged again.
fn became_ready(event: &Event) -> bool {
    let status = |name: &str| event.data.get(name).and_then(serde_json::Value::as_str);
    status("status") == Some("READY") && status("previous_status") != Some("READY")
}

/// Brings the index of every tag that an event names in line with what the model carries by now.
async fn index_tags(app: &App, event: &Event) -> Result<()> {
    let pairs = changed_tags(event);
    if pairs.is_empty() {
        return Ok(());
    }
    for name in named_models(event) {
        index_tags_of(app, event, &name, &pairs).await?;
    }
    Ok(())
}

/// The names whose tags an event changes: after a renaming the old one carries nothing.
fn named_models(event: &Event) -> Vec<ModelName> {
    let old = event
        .data
        .get("from")
        .filter(|_| event.kind == EventType::ModelRenamed)
        .and_then(serde_json::Value::as_str)
        .and_then(|name| ModelName::parse(name).ok());
    event
        .model
        .iter()
        .map(ModelName::plain)
        .chain(old)
        .collect()
}

async fn index_tags_of(
    app: &App,
    event: &Event,
    name: &ModelName,
    pairs: &[(String, String)],
) -> Result<()> {
    let (carried, revision) = match app.registry.model(&event.tenant, name).await {
        Ok(model) => (carried_tags(&model), model.revision),
        Err(error) if error.code == ErrorCode::ModelNotFound => {
            (BTreeMap::new(), revision_of(event))
        }
        Err(error) => return Err(error),
    };
    let expires = app.clock.now().plus_millis(GONE_MILLIS);
    for (key, value) in pairs {
        let is_carried = carried.get(key) == Some(value);
        app.registry
            .index_tag(
                &event.tenant,
                name,
                (key, value),
                is_carried,
                revision,
                expires,
            )
            .await?;
    }
    Ok(())
}

fn carried_tags(model: &Model) -> BTreeMap<String, String> {
    if model.deleted_at.is_some() {
        return BTreeMap::new();
    }
    model.notes.tags.clone()
}

/// The tag pairs that an event about a model says were added or removed.
fn changed_tags(event: &Event) -> Vec<(String, String)> {
    let is_about_tags = matches!(
        event.kind,
        EventType::ModelCreated
            | EventType::ModelUpdated
            | EventType::ModelDeleted
            | EventType::ModelRestored
            | EventType::ModelRenamed
    );
    let named = event
        .data
        .get("tags_changed")
        .filter(|_| is_about_tags)
        .cloned();
    named
        .and_then(|pairs| serde_json::from_value(pairs).ok())
        .unwrap_or_default()
}

fn revision_of(event: &Event) -> u64 {
    event
        .data
        .get("revision")
        .and_then(serde_json::Value::as_u64)
        .unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests;
