//! Lanes: what a subscription still has to hear of one model, sent one after the other.
//!
//! The first of a lane is sent until it is delivered or given up; only then comes the next. Lanes do not wait for each
//! other, and neither do subscriptions. A lane in which something waits always has a piece of work that names it:
//! work is only removed once its lane was found empty, or once other work of the lane was added.

use crate::deliver::{self, Outgoing};
use futures::StreamExt as _;
use shared::domain::subscription::{Circuit, DeliveryStatus, SubscriptionStatus};
use shared::domain::{Subscription, Timestamp};
use shared::dynamodb::{Lane, Place};
use shared::{App, Result};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Places of a lane that are looked up together.
const PLACES_AT_ONCE: usize = 25;
/// Most events of one digest.
const MOST_IN_DIGEST: usize = 50;
/// Most lanes of one subscription that are sent at the same time.
const CONCURRENT_LANES: usize = 4;
/// Most subscriptions that are sent to at the same time.
const CONCURRENT_SUBSCRIPTIONS: usize = 48;
/// How long an endpoint that hung is left alone, in milliseconds.
const HANG_MILLIS: u64 = 60_000;
/// How long the lanes of a disabled subscription wait until somebody looks again, in milliseconds.
const DISABLED_MILLIS: u64 = 3_600_000;

/// How a lane was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing waits in it, but what came meanwhile and has work of its own.
    Empty,
    /// Something waits in it, and there is work for it.
    Waiting,
    /// Not all was done for it; the work that led here must stay.
    Interrupted,
}

/// Subscriptions that are sent to together, with what is known of their endpoints.
#[derive(Debug)]
pub(crate) struct Sender<'a> {
    app: &'a App,
    deadline: Instant,
    /// What attempts found in this round; the items were read before it.
    circuits: Mutex<HashMap<String, Circuit>>,
    /// Until when an endpoint that hung in this round is left alone.
    hanging: Mutex<HashMap<String, Timestamp>>,
}

/// A lane with the subscription that it belongs to, and what is known of its deliveries already.
#[derive(Debug)]
pub(crate) struct Run {
    /// The lane.
    pub(crate) lane: Lane,
    /// The subscription; absent if it was deleted.
    pub(crate) subscription: Option<Subscription>,
    /// Deliveries that were just dispatched, by event.
    pub(crate) known: HashMap<String, Outgoing>,
}

impl<'a> Sender<'a> {
    /// A round of sending that takes no longer than about `limit`.
    pub(crate) fn new(app: &'a App, limit: Duration) -> Self {
        Self {
            app,
            deadline: Instant::now() + limit,
            circuits: Mutex::default(),
            hanging: Mutex::default(),
        }
    }

    /// Runs lanes, those of several subscriptions side by side, and says how each was left.
    pub(crate) async fn run_all(&self, runs: Vec<Run>) -> HashMap<Lane, End> {
        let mut groups: BTreeMap<String, Vec<Run>> = BTreeMap::new();
        for run in runs {
            groups
                .entry(run.lane.subscription.clone())
                .or_default()
                .push(run);
        }
        let groups: Vec<_> = groups
            .into_values()
            .map(|group| self.run_group(group))
            .collect();
        futures::stream::iter(groups)
            .buffer_unordered(CONCURRENT_SUBSCRIPTIONS)
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .flatten()
            .collect()
    }

    /// Runs the lanes of one subscription; the first alone, because it may find that the endpoint hangs.
    async fn run_group(&self, mut group: Vec<Run>) -> Vec<(Lane, End)> {
        let rest = group.split_off(1.min(group.len()));
        let mut ends = Vec::with_capacity(rest.len() + 1);
        for run in group {
            ends.push(self.run_logged(run).await);
        }
        let rest: Vec<_> = rest.into_iter().map(|run| self.run_logged(run)).collect();
        ends.extend(
            futures::stream::iter(rest)
                .buffer_unordered(CONCURRENT_LANES)
                .collect::<Vec<_>>()
                .await,
        );
        ends
    }

    async fn run_logged(&self, run: Run) -> (Lane, End) {
        let lane = run.lane.clone();
        let end = self.run(run).await.unwrap_or_else(|error| {
            tracing::warn!(
                subscription.id = lane.subscription,
                error = error.chain(),
                "A lane of deliveries could not be gone through; the sweep tries again"
            );
            End::Interrupted
        });
        (lane, end)
    }

    async fn run(&self, mut run: Run) -> Result<End> {
        loop {
            let places = self.app.registry.lane(&run.lane, PLACES_AT_ONCE).await?;
            let is_last = places.len() < PLACES_AT_ONCE;
            let Some(subscription) = run.subscription.clone() else {
                for place in &places {
                    self.app
                        .registry
                        .leave_lane(&run.lane, &place.place)
                        .await?;
                }
                if is_last {
                    return Ok(End::Empty);
                }
                continue;
            };
            if subscription.digest_minutes.is_some() {
                if let Some(end) = self.send_digest(&mut run, &subscription).await? {
                    return Ok(end);
                }
                continue;
            }
            for place in &places {
                if let Some(end) = self.send_first(&mut run, &subscription, place).await? {
                    return Ok(end);
                }
            }
            if is_last {
                return Ok(End::Empty);
            }
        }
    }

    /// Sends the first of a lane; answers how the lane is left, or nothing if the next may come.
    async fn send_first(
        &self,
        run: &mut Run,
        subscription: &Subscription,
        place: &Place,
    ) -> Result<Option<End>> {
        if Instant::now() >= self.deadline {
            return Ok(Some(End::Interrupted));
        }
        let Some(outgoing) = self.load(run, place).await? else {
            return Ok(None);
        };
        let subscription = self.with_circuit(subscription);
        if let Some(until) = self.not_before(&subscription, outgoing.delivery.due_at) {
            return self.wait(&run.lane, until).await.map(Some);
        }
        let attempted = deliver::attempt(self.app, &subscription, &[outgoing]).await?;
        self.learn(&subscription, &attempted);
        let after = attempted.after.first();
        match after {
            // Whoever recorded another attempt goes on with this lane.
            _ if !attempted.is_recorded => Ok(Some(End::Interrupted)),
            Some(after) if after.status == DeliveryStatus::Pending => {
                self.wait(&run.lane, after.due_at).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Sends all that is due of a subscription that wants digests.
    async fn send_digest(&self, run: &mut Run, subscription: &Subscription) -> Result<Option<End>> {
        let places = self.app.registry.lane(&run.lane, MOST_IN_DIGEST).await?;
        let mut due = Vec::new();
        let now = self.app.clock.now();
        let mut next = None;
        for place in &places {
            let Some(outgoing) = self.load(run, place).await? else {
                continue;
            };
            if outgoing.delivery.due_at > now {
                next = Some(outgoing.delivery.due_at);
                break;
            }
            due.push(outgoing);
        }
        if due.is_empty() {
            return match next {
                Some(due) => self.wait(&run.lane, due).await.map(Some),
                None if places.len() < MOST_IN_DIGEST => Ok(Some(End::Empty)),
                None => Ok(None),
            };
        }
        if Instant::now() >= self.deadline {
            return Ok(Some(End::Interrupted));
        }
        let subscription = self.with_circuit(subscription);
        if let Some(until) = self.not_before(&subscription, now) {
            return self.wait(&run.lane, until).await.map(Some);
        }
        let attempted = deliver::attempt(self.app, &subscription, &due).await?;
        self.learn(&subscription, &attempted);
        if !attempted.is_recorded {
            return Ok(Some(End::Interrupted));
        }
        let waits = attempted
            .after
            .iter()
            .filter(|after| after.status == DeliveryStatus::Pending)
            .map(|after| after.due_at)
            .max();
        match waits {
            Some(due) => self.wait(&run.lane, due).await.map(Some),
            None => Ok(None),
        }
    }

    /// Reads what stands at a place; what is settled, or gone, leaves the lane.
    async fn load(&self, run: &mut Run, place: &Place) -> Result<Option<Outgoing>> {
        if let Some(known) = run.known.remove(&place.event_id) {
            return Ok(Some(known));
        }
        let registry = &self.app.registry;
        let Lane {
            tenant,
            subscription,
            ..
        } = &run.lane;
        let found = registry
            .find_delivery(tenant, subscription, &place.event_id)
            .await?
            .filter(|(delivery, _)| {
                delivery.status == DeliveryStatus::Pending && delivery.place == place.place
            });
        if found.is_none() {
            registry.leave_lane(&run.lane, &place.place).await?;
        }
        Ok(found.map(|(delivery, event)| Outgoing { delivery, event }))
    }

    /// Until when nothing may be sent, if that is not now.
    fn not_before(&self, subscription: &Subscription, due: Timestamp) -> Option<Timestamp> {
        let now = self.app.clock.now();
        if subscription.status == SubscriptionStatus::Disabled {
            return Some(now.plus_millis(DISABLED_MILLIS));
        }
        let hanging = self
            .hanging
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&subscription.id)
            .copied();
        [Some(due), subscription.circuit.paused_until, hanging]
            .into_iter()
            .flatten()
            .max()
            .filter(|until| now < *until)
    }

    /// Lets a lane wait: there is work for it from here on.
    async fn wait(&self, lane: &Lane, until: Timestamp) -> Result<End> {
        self.app.registry.add_work(&lane.work(until)?).await?;
        Ok(End::Waiting)
    }

    fn with_circuit(&self, subscription: &Subscription) -> Subscription {
        let mut subscription = subscription.clone();
        let circuits = self.circuits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(circuit) = circuits.get(&subscription.id) {
            subscription.circuit = circuit.clone();
        }
        subscription
    }

    fn learn(&self, subscription: &Subscription, attempted: &deliver::Attempted) {
        self.circuits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(subscription.id.clone(), attempted.circuit.clone());
        if attempted.timed_out() {
            let until = self.app.clock.now().plus_millis(HANG_MILLIS);
            self.hanging
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(subscription.id.clone(), until);
        }
    }
}
