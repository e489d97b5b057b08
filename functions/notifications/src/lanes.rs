//! Lanes: what a subscription still has to hear of one model, sent one after the other.
//!
//! The first of a lane is sent until it is delivered or given up; only then comes the next. Lanes do not wait for each
//! other, and neither do subscriptions: each call goes through lanes of one subscription.
//! A lane in which something waits is always named by a piece of work, so that nothing is lost with a message of the
//! queue: work is only removed once its lanes were found empty, or once other work that names them was added.

use crate::deliver::{self, Outgoing};
use futures::StreamExt as _;
use shared::domain::subscription::{Circuit, DeliveryStatus, SubscriptionStatus};
use shared::domain::{Subscription, Timestamp};
use shared::dynamodb::{Lane, Place};
use shared::lane_queue::LaneMessage;
use shared::{App, Result};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// After this, what is left of a message goes back to the queue; a last attempt may still be under way then.
const TIME_LIMIT: Duration = Duration::from_secs(25);
/// Places of a lane that are looked up together.
const PLACES_AT_ONCE: usize = 25;
/// Most events of one digest.
const MOST_IN_DIGEST: usize = 50;
/// Most lanes of one subscription that are sent at the same time.
const CONCURRENT_LANES: usize = 4;
/// How long an endpoint that hung is left alone, in milliseconds.
const HANG_MILLIS: u64 = 60_000;
/// How long the lanes of a disabled subscription wait until somebody looks again, in milliseconds.
const DISABLED_MILLIS: u64 = 3_600_000;

/// How a lane was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing waits in it, but what came meanwhile and was asked for by whoever brought it.
    Empty,
    /// Something waits in it, and there is work for it.
    Waiting,
    /// There was no time for all of it.
    Unfinished,
}

/// Asks for lanes to be gone through soon, each once.
///
/// For each message there is work first, by which the sweep finds its lanes should the message be lost.
pub(crate) async fn ask_for(app: &App, lanes: impl IntoIterator<Item = Lane>) -> Result<()> {
    let messages = LaneMessage::about(lanes, &app.ids, app.clock.now());
    for message in &messages {
        app.registry.add_work(&message.work()?).await?;
    }
    app.lane_queue.send(&messages).await
}

/// Goes through the lanes that a message names; what it has no time for goes back to the queue.
pub(crate) async fn go_through(app: &App, message: &LaneMessage) -> Result<()> {
    let subscription = app
        .registry
        .find_subscription(&message.tenant, &message.subscription)
        .await?;
    let Some(subscription) = subscription else {
        for lane in message.lanes() {
            clear(app, &lane).await?;
        }
        return app.registry.finish_work(&message.work()?).await;
    };
    let sender = Sender {
        app,
        deadline: Instant::now() + TIME_LIMIT,
        endpoint: Mutex::new(Endpoint {
            circuit: subscription.circuit.clone(),
            hangs_until: None,
        }),
        subscription,
    };
    let mut unfinished = Vec::new();
    let mut failure = None;
    for (lane, end) in sender.run_all(message.lanes().collect()).await {
        match end {
            Ok(End::Empty | End::Waiting) => {}
            Ok(End::Unfinished) => unfinished.push(lane),
            Err(error) => failure = Some(error),
        }
    }
    ask_for(app, unfinished).await?;
    match failure {
        // The queue brings the whole message again; lanes that are empty by then cost a look.
        Some(error) => Err(error),
        None => app.registry.finish_work(&message.work()?).await,
    }
}

/// Takes everything out of a lane whose subscription was deleted.
async fn clear(app: &App, lane: &Lane) -> Result<()> {
    loop {
        let places = app.registry.lane(lane, PLACES_AT_ONCE).await?;
        for place in &places {
            app.registry.leave_lane(lane, &place.place).await?;
        }
        if places.len() < PLACES_AT_ONCE {
            return Ok(());
        }
    }
}

/// One subscription that is sent to, with what is known of its endpoint.
#[derive(Debug)]
struct Sender<'a> {
    app: &'a App,
    subscription: Subscription,
    deadline: Instant,
    /// What attempts found since the subscription was read.
    endpoint: Mutex<Endpoint>,
}

/// What is known of an endpoint.
#[derive(Debug)]
struct Endpoint {
    circuit: Circuit,
    /// Until when it is left alone because it hung.
    hangs_until: Option<Timestamp>,
}

impl Sender<'_> {
    /// Runs lanes and says how each was left; the first alone, because it may find that the endpoint hangs.
    async fn run_all(&self, mut lanes: Vec<Lane>) -> Vec<(Lane, Result<End>)> {
        let rest = lanes.split_off(1.min(lanes.len()));
        let mut ends = Vec::with_capacity(rest.len() + 1);
        for lane in lanes {
            let end = self.run(&lane).await;
            ends.push((lane, end));
        }
        let rest: Vec<_> = rest
            .into_iter()
            .map(|lane| async {
                let end = self.run(&lane).await;
                (lane, end)
            })
            .collect();
        ends.extend(
            futures::stream::iter(rest)
                .buffer_unordered(CONCURRENT_LANES)
                .collect::<Vec<_>>()
                .await,
        );
        ends
    }

    async fn run(&self, lane: &Lane) -> Result<End> {
        let is_digest = self.subscription.digest_minutes.is_some();
        let at_once = if is_digest {
            MOST_IN_DIGEST
        } else {
            PLACES_AT_ONCE
        };
        loop {
            // Nothing is read that there is no time to send.
            if Instant::now() >= self.deadline {
                return Ok(End::Unfinished);
            }
            let places = self.app.registry.lane(lane, at_once).await?;
            let is_last = places.len() < at_once;
            let waiting = self.load(lane, &places).await?;
            let end = if is_digest {
                self.send_digest(lane, waiting).await?
            } else {
                self.send_in_order(lane, waiting).await?
            };
            match end {
                Some(end) => return Ok(end),
                None if is_last => return Ok(End::Empty),
                None => {}
            }
        }
    }

    /// Reads what stands at places, in order; what is settled, or gone, leaves the lane.
    async fn load(&self, lane: &Lane, places: &[Place]) -> Result<Vec<Outgoing>> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let registry = &self.app.registry;
        let mut ids: Vec<String> = places.iter().map(|place| place.event_id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        let found = registry
            .deliveries_of(&lane.tenant, &lane.subscription, &ids)
            .await?;
        let mut waiting = Vec::with_capacity(places.len());
        for place in places {
            let here = found.iter().find(|(delivery, _)| {
                delivery.event_id == place.event_id
                    && delivery.status == DeliveryStatus::Pending
                    && delivery.place == place.place
            });
            match here {
                Some((delivery, event)) => waiting.push(Outgoing {
                    delivery: delivery.clone(),
                    event: event.clone(),
                }),
                None => registry.leave_lane(lane, &place.place).await?,
            }
        }
        Ok(waiting)
    }

    /// Sends one after the other; answers how the lane is left, or nothing if all of them are settled.
    async fn send_in_order(&self, lane: &Lane, waiting: Vec<Outgoing>) -> Result<Option<End>> {
        for outgoing in waiting {
            if let Some(end) = self.send_first(lane, outgoing).await? {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// Sends the first of a lane; answers how the lane is left, or nothing if the next may come.
    async fn send_first(&self, lane: &Lane, outgoing: Outgoing) -> Result<Option<End>> {
        if Instant::now() >= self.deadline {
            return Ok(Some(End::Unfinished));
        }
        if let Some(until) = self.not_before(outgoing.delivery.due_at) {
            return self.wait(lane, until).await.map(Some);
        }
        let attempted = self.attempt(&[outgoing]).await?;
        match attempted.after.first() {
            // Somebody else recorded another attempt; what it left is looked at anew.
            _ if !attempted.is_recorded => Ok(Some(End::Unfinished)),
            Some(after) if after.status == DeliveryStatus::Pending => {
                self.wait(lane, after.due_at).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Sends all that is due of a subscription that wants digests; answers as [`send_first`](Self::send_first) does.
    async fn send_digest(&self, lane: &Lane, waiting: Vec<Outgoing>) -> Result<Option<End>> {
        let now = self.app.clock.now();
        let next = waiting
            .iter()
            .map(|outgoing| outgoing.delivery.due_at)
            .find(|due| *due > now);
        let due: Vec<Outgoing> = waiting
            .into_iter()
            .take_while(|outgoing| outgoing.delivery.due_at <= now)
            .collect();
        if due.is_empty() {
            return match next {
                Some(due) => self.wait(lane, due).await.map(Some),
                None => Ok(None),
            };
        }
        if let Some(until) = self.not_before(now) {
            return self.wait(lane, until).await.map(Some);
        }
        let attempted = self.attempt(&due).await?;
        if !attempted.is_recorded {
            return Ok(Some(End::Unfinished));
        }
        let again = attempted
            .after
            .iter()
            .filter(|after| after.status == DeliveryStatus::Pending)
            .map(|after| after.due_at)
            .max();
        match again.or(next) {
            Some(due) => self.wait(lane, due).await.map(Some),
            None => Ok(None),
        }
    }

    async fn attempt(&self, outgoing: &[Outgoing]) -> Result<deliver::Attempted> {
        let mut subscription = self.subscription.clone();
        subscription.circuit = self.endpoint().circuit.clone();
        let attempted = deliver::attempt(self.app, &subscription, outgoing).await?;
        let mut endpoint = self.endpoint();
        endpoint.circuit = attempted.circuit.clone();
        if attempted.timed_out() {
            endpoint.hangs_until = Some(self.app.clock.now().plus_millis(HANG_MILLIS));
        }
        drop(endpoint);
        Ok(attempted)
    }

    /// Until when nothing may be sent, if that is not now.
    fn not_before(&self, due: Timestamp) -> Option<Timestamp> {
        let now = self.app.clock.now();
        if self.subscription.status == SubscriptionStatus::Disabled {
            return Some(now.plus_millis(DISABLED_MILLIS));
        }
        let endpoint = self.endpoint();
        [
            Some(due),
            endpoint.circuit.paused_until,
            endpoint.hangs_until,
        ]
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

    fn endpoint(&self) -> MutexGuard<'_, Endpoint> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
