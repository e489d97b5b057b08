//! Dispatching an event: tag index first, then its row in the feed with its deliveries and work, then the sending.
//!
//! The feed row says that an event was dispatched. Everything that a crash must repeat happens before it is written;
//! everything after it is also found by the sweep.

use crate::deliver::{self, Outgoing};
use serde_json::json;
use shared::domain::subscription::{DeliveryStatus, MAX_SUBSCRIPTIONS};
use shared::domain::{
    Delivery, Event, EventType, Model, ModelName, Subscription, TenantName, Timestamp, VersionId,
};
use shared::dynamodb::{WorkItem, WorkKind};
use shared::s3::keys;
use shared::telemetry::metrics::{Unit, emit};
use shared::{App, Error, ErrorCode, Result};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// A delivery is first sent at once; this much later the sweep looks after it, in milliseconds.
const FIRST_DUE_MILLIS: u64 = 60_000;
/// How long validation and packaging have before the sweep looks after a version, in milliseconds.
const WORK_DUE_MILLIS: u64 = 5 * 60_000;
/// How long an index row remembers that a tag is gone: longer than any event may be late, in milliseconds.
const GONE_MILLIS: u64 = 7 * 24 * 3_600_000;
/// Most deliveries of one event: with the event and its work they fill a transaction of 100 writes.
///
/// A little more than [`MAX_SUBSCRIPTIONS`], which concurrent creations may overstep.
const MAX_DELIVERIES: usize = MAX_SUBSCRIPTIONS + 8;

/// Events that came together; their deliveries are sent together once all of them are dispatched.
#[derive(Debug)]
pub(crate) struct Batch {
    app: App,
    subscriptions: Mutex<HashMap<TenantName, Arc<Vec<Subscription>>>>,
    outgoing: Mutex<Vec<Outgoing>>,
}

impl Batch {
    /// An empty batch.
    pub(crate) fn new(app: &App) -> Self {
        Self {
            app: app.clone(),
            subscriptions: Mutex::default(),
            outgoing: Mutex::default(),
        }
    }

    /// Dispatches an event, once; whether it was not dispatched before.
    pub(crate) async fn dispatch(&self, event: &Event) -> Result<bool> {
        index_tags(&self.app, event).await?;
        let subscriptions = self.subscriptions_of(&event.tenant).await?;
        let now = self.app.clock.now();
        let outgoing = outgoing_of(event, &subscriptions, now);
        let deliveries: Vec<Delivery> = outgoing.iter().map(|one| one.delivery.clone()).collect();
        let is_new = self
            .app
            .registry
            .dispatch(event, &deliveries, &work_of(event))
            .await?;
        if is_new {
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
            self.outgoing
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(outgoing);
        }
        Ok(is_new)
    }

    /// Sends what was dispatched; what fails here is tried again by the sweep.
    pub(crate) async fn send(self) {
        let outgoing = self
            .outgoing
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        deliver::send_fresh(&self.app, outgoing).await;
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

/// Dispatches the event that an S3 notification of a package's manifest tells of.
///
/// The manifest is written before its version is marked, so the mark may still be missing; then the queue asks again.
pub(crate) async fn dispatch_packaged(batch: &Batch, key: &str) -> Result<()> {
    let Some((id, "manifest.json")) = keys::version_of("packages", key) else {
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

/// The deliveries of an event, each with the subscription that wants it.
fn outgoing_of(event: &Event, subscriptions: &[Subscription], now: Timestamp) -> Vec<Outgoing> {
    subscriptions
        .iter()
        .filter(|subscription| subscription.wants(event.kind, event.model.as_ref()))
        .take(MAX_DELIVERIES)
        .map(|subscription| Outgoing {
            delivery: first_delivery(event, subscription, now),
            subscription: subscription.clone(),
            event: event.clone(),
        })
        .collect()
}

/// A delivery that nobody has tried yet.
pub(crate) fn first_delivery(
    event: &Event,
    subscription: &Subscription,
    now: Timestamp,
) -> Delivery {
    Delivery {
        event_id: event.id.clone(),
        subscription_id: subscription.id.clone(),
        status: DeliveryStatus::Pending,
        due_at: now.plus_millis(FIRST_DUE_MILLIS),
        attempts: Vec::new(),
    }
}

/// What must happen after an event, should the regular way to it be lost.
fn work_of(event: &Event) -> Vec<WorkItem> {
    let kinds: &[WorkKind] = match event.kind {
        EventType::VersionRegistered => &[WorkKind::Validate],
        EventType::VersionReady => &[WorkKind::Package],
        // It may have been deleted at any point of its way.
        EventType::VersionRestored => &[WorkKind::Validate, WorkKind::Package],
        _ => return Vec::new(),
    };
    let (Some(home), Some(version)) = (event.home(), event.version) else {
        return Vec::new();
    };
    let subject = json!({"tenant": event.tenant, "model": home, "version": version}).to_string();
    kinds
        .iter()
        .map(|kind| WorkItem {
            kind: *kind,
            due: event.time.plus_millis(WORK_DUE_MILLIS),
            subject: subject.clone(),
        })
        .collect()
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
pub(crate) mod tests {
    use super::*;
    use shared::domain::{Principal, VersionNumber};

    pub(crate) fn event(kind: EventType, model: Option<&str>) -> Event {
        Event {
            id: "01J0000000000000000000000A".into(),
            schema_version: 1,
            kind,
            tenant: TenantName::default_tenant(),
            model: model.map(|name| ModelName::parse(name).unwrap()),
            model_id: None,
            version: model.map(|_| VersionNumber::FIRST),
            alias: None,
            sequence: None,
            actor: Principal::parse("ann").unwrap(),
            reason: None,
            time: Timestamp::from_millis(1_000),
            request_id: "r".into(),
            data: serde_json::Map::new(),
        }
    }

    pub(crate) fn subscription(id: &str, kinds: &[EventType], model: Option<&str>) -> Subscription {
        Subscription {
            id: id.into(),
            tenant: TenantName::default_tenant(),
            url: "https://example.com/".into(),
            event_types: kinds.to_vec(),
            model: model.map(|name| ModelName::parse(name).unwrap()),
            secret: crate::sign::secret_of(&[1; 24]),
            description: None,
            created_by: Principal::parse("ann").unwrap(),
            created_at: Timestamp::from_millis(0),
        }
    }

    #[test]
    fn an_event_goes_to_those_who_want_it() {
        let subscriptions = [
            subscription("all", &[], None),
            subscription("ready", &[EventType::VersionReady], None),
            subscription("iris", &[], Some("iris")),
            subscription(
                "iris-aliases",
                &[EventType::AliasSet, EventType::AliasRemoved],
                Some("iris"),
            ),
        ];
        let check = |kind, model, expected: &[&str]| {
            let found: Vec<_> = outgoing_of(
                &event(kind, model),
                &subscriptions,
                Timestamp::from_millis(0),
            )
            .into_iter()
            .map(|one| one.delivery.subscription_id)
            .collect();
            assert_eq!(found, expected, "{kind} of {model:?}");
        };
        check(
            EventType::VersionReady,
            Some("iris"),
            &["all", "ready", "iris"],
        );
        check(EventType::VersionReady, Some("wine"), &["all", "ready"]);
        check(
            EventType::AliasSet,
            Some("iris"),
            &["all", "iris", "iris-aliases"],
        );
        check(EventType::ModelCreated, None, &["all"]);
    }

    #[test]
    fn an_event_never_has_more_deliveries_than_a_transaction_holds() {
        let subscriptions: Vec<_> = (0..200)
            .map(|number| subscription(&number.to_string(), &[], None))
            .collect();
        let event = event(EventType::VersionReady, Some("iris"));
        let count = outgoing_of(&event, &subscriptions, Timestamp::from_millis(0)).len();
        assert!(1 + 2 * count + work_of(&event).len() <= 100);
    }

    #[test]
    fn a_registered_version_is_looked_after() {
        let work = work_of(&event(EventType::VersionRegistered, Some("iris")));
        assert_eq!(work[0].kind, WorkKind::Validate);
        assert_eq!(work[0].due, Timestamp::from_millis(301_000));
        assert_eq!(
            work[0].subject,
            r#"{"model":"iris","tenant":"default","version":1}"#
        );
        let work = work_of(&event(EventType::VersionReady, Some("iris")));
        assert_eq!(work[0].kind, WorkKind::Package);
        assert!(work_of(&event(EventType::VersionPackaged, Some("iris"))).is_empty());
    }

    #[test]
    fn only_events_about_models_change_the_tag_index() {
        let pairs = json!([["team", "a"], ["team", "b"]]);
        let changed = |kind| {
            changed_tags(&event(kind, Some("iris")).with("tags_changed", pairs.clone())).len()
        };
        assert_eq!(changed(EventType::ModelUpdated), 2);
        assert_eq!(changed(EventType::ModelDeleted), 2);
        assert_eq!(changed(EventType::VersionUpdated), 0);
        assert!(changed_tags(&event(EventType::ModelCreated, Some("iris"))).is_empty());
    }

    #[test]
    fn every_type_of_event_is_documented() {
        let page = include_str!("../../../docs/events.md");
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../../../docs/events.schema.json")).unwrap();
        let kinds: Vec<_> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(schema["properties"]["type"]["enum"], json!(kinds));
        for kind in kinds {
            assert!(page.contains(&format!("\n| `{kind}` |")), "{kind}");
        }
    }
}
