//! One attempt at a delivery: what is recorded of it, and what it means for the endpoint's circuit.

use crate::client::TIMED_OUT;
use crate::send::{Tries, send};
use shared::domain::subscription::{
    Attempt, Circuit, CircuitChange, DeliveryStatus, MAX_ATTEMPTS, retry_delay_ms,
};
use shared::domain::{Delivery, Event, EventType, Principal, Subscription};
use shared::telemetry::metrics::{Unit, emit};
use shared::{App, Result};

/// Most that a receiver may put off the next attempt, in milliseconds.
const MAX_RETRY_AFTER_MILLIS: u64 = 4 * 3_600_000;

/// A delivery with its event.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    /// The delivery as it was read or written last.
    pub(crate) delivery: Delivery,
    /// The event.
    pub(crate) event: Event,
}

/// What an attempt found.
#[derive(Debug)]
pub(crate) struct Attempted {
    /// The attempt as it is recorded.
    pub(crate) attempt: Attempt,
    /// The deliveries as they are after it.
    pub(crate) after: Vec<Delivery>,
    /// Whether all of them could be recorded, because nobody else did meanwhile.
    pub(crate) is_recorded: bool,
    /// What is known of the endpoint after it.
    pub(crate) circuit: Circuit,
}

impl Attempted {
    /// Whether the endpoint took what was sent.
    pub(crate) fn is_delivered(&self) -> bool {
        self.attempt.error.is_none()
    }

    /// Whether the endpoint hung.
    pub(crate) fn timed_out(&self) -> bool {
        self.attempt.error.as_deref() == Some(TIMED_OUT)
    }
}

/// Sends deliveries as one, and records what came of it for each; more than one is a digest.
pub(crate) async fn attempt(
    app: &App,
    subscription: &Subscription,
    outgoing: &[Outgoing],
) -> Result<Attempted> {
    let events: Vec<&Event> = outgoing.iter().map(|one| &one.event).collect();
    // Whoever tests a subscription waits for the answer, so that a test is not tried again.
    let is_tried_once = events.iter().any(|event| is_tried_once(event));
    let tries = send(app, subscription, &events, !is_tried_once).await;
    let attempt = tries.last.clone();
    let mut after = Vec::with_capacity(outgoing.len());
    let mut is_recorded = true;
    for one in outgoing {
        let delay_ms = jittered(app, retry_delay_ms(one.delivery.round + 1));
        let next = after_attempt(&one.delivery, tries.clone(), is_tried_once, delay_ms);
        is_recorded &= record(app, subscription, one, &next).await?;
        after.push(next);
    }
    let circuit = change_circuit(app, subscription, attempt.error.is_none()).await;
    Ok(Attempted {
        attempt,
        after,
        is_recorded,
        circuit,
    })
}

async fn record(
    app: &App,
    subscription: &Subscription,
    outgoing: &Outgoing,
    after: &Delivery,
) -> Result<bool> {
    let Outgoing { delivery, event } = outgoing;
    let is_first = app
        .registry
        .record_delivery(&event.tenant, delivery, after, event)
        .await?;
    if !is_first {
        tracing::info!(
            event.id = event.id,
            subscription.id = subscription.id,
            "A delivery was attempted twice at the same time; the other attempt is recorded"
        );
        return Ok(false);
    }
    let Some(attempt) = after.attempts.last() else {
        return Ok(true);
    };
    let is_exhausted = after.status == DeliveryStatus::Exhausted;
    let is_delivered = after.status == DeliveryStatus::Delivered;
    emit(
        &app.config.function,
        &[
            ("deliveries_sent", Unit::Count, u64::from(is_delivered)),
            ("deliveries_failed", Unit::Count, u64::from(!is_delivered)),
            ("deliveries_exhausted", Unit::Count, u64::from(is_exhausted)),
            (
                "delivery_duration_ms",
                Unit::Milliseconds,
                attempt.duration_ms,
            ),
        ],
    );
    let number = after.round;
    if is_delivered {
        tracing::info!(
            event.id = event.id,
            subscription.id = subscription.id,
            request.id = event.request_id,
            status = attempt.status,
            duration_ms = attempt.duration_ms,
            "Delivered an event of type {} at attempt {number}",
            event.kind
        );
    } else {
        let error = attempt.error.as_deref().unwrap_or_default();
        tracing::warn!(
            event.id = event.id,
            subscription.id = subscription.id,
            request.id = event.request_id,
            status = attempt.status,
            error,
            duration_ms = attempt.duration_ms,
            exhausted = is_exhausted,
            "Attempt {number} to deliver an event of type {} failed: {error}",
            event.kind
        );
    }
    Ok(true)
}

/// Keeps what the attempt says of the endpoint; a healthy endpoint that stays so costs nothing.
///
/// A failure here fails nothing: the next attempt finds out again.
async fn change_circuit(app: &App, subscription: &Subscription, is_success: bool) -> Circuit {
    let mut subscription = subscription.clone();
    loop {
        let (after, change) = subscription.circuit.after(is_success, app.clock.now());
        if after == subscription.circuit {
            return after;
        }
        match keep_circuit(app, &subscription, &after, change).await {
            Ok(true) => return after,
            // Another attempt told of itself meanwhile: this one counts on top of it.
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(
                    subscription.id = subscription.id,
                    error = error.chain(),
                    "The state of an endpoint could not be kept"
                );
                return after;
            }
        }
        let found = app
            .registry
            .find_subscription(&subscription.tenant, &subscription.id)
            .await;
        match found {
            Ok(Some(current)) => subscription.circuit = current.circuit,
            // It was deleted, or cannot be read.
            Ok(None) | Err(_) => return after,
        }
    }
}

/// Keeps the state of an endpoint, and tells of it if it was paused or resumed; whether it was as believed.
async fn keep_circuit(
    app: &App,
    subscription: &Subscription,
    after: &Circuit,
    change: CircuitChange,
) -> Result<bool> {
    let kind = match change {
        CircuitChange::None => None,
        CircuitChange::Paused => Some(EventType::SubscriptionPaused),
        CircuitChange::Resumed => Some(EventType::SubscriptionResumed),
    };
    let event = kind.map(|kind| circuit_event(app, kind, subscription, after));
    let is_kept = app
        .registry
        .change_circuit(subscription, after, event.as_ref())
        .await?;
    if let (true, Some(event)) = (is_kept, &event) {
        tracing::warn!(
            subscription.id = subscription.id,
            failures = after.failures,
            "{}: `{}`",
            event.kind,
            subscription.id
        );
        let is_pause = change == CircuitChange::Paused;
        emit(
            &app.config.function,
            &[("endpoints_paused", Unit::Count, u64::from(is_pause))],
        );
    }
    Ok(is_kept)
}

fn circuit_event(
    app: &App,
    kind: EventType,
    subscription: &Subscription,
    after: &Circuit,
) -> Event {
    let actor = Principal::parse("slipway").unwrap_or_else(|_| subscription.created_by.clone());
    let mut event = app
        .event(kind, &subscription.tenant, &actor, &subscription.id)
        .with("subscription_id", subscription.id.as_str())
        .with("owner", subscription.created_by.as_str());
    if let Some(until) = after.paused_until {
        event = event
            .with("failures", after.failures)
            .with("paused_until", until.to_string());
    }
    event
}

/// A delivery after one more attempt.
///
/// `delay_ms` is how long to wait after a failure; the receiver may ask for longer, within bounds.
fn after_attempt(before: &Delivery, tries: Tries, is_tried_once: bool, delay_ms: u64) -> Delivery {
    let Tries {
        earlier,
        last,
        retry_after_ms,
    } = tries;
    let mut after = before.clone();
    let ended = last.at.plus_millis(last.duration_ms);
    let (status, is_success) = (last.status, last.error.is_none());
    after.log(earlier.into_iter().chain([last]));
    after.revision += 1;
    if is_success {
        after.status = DeliveryStatus::Delivered;
    } else if status == Some(410) || is_tried_once || after.round >= MAX_ATTEMPTS {
        // 410 Gone is how a receiver says that it wants no more.
        after.status = DeliveryStatus::Exhausted;
    } else {
        let asked_ms = retry_after_ms.unwrap_or(0).min(MAX_RETRY_AFTER_MILLIS);
        after.due_at = ended.plus_millis(delay_ms.max(asked_ms));
    }
    after
}

fn is_tried_once(event: &Event) -> bool {
    event.kind == EventType::SubscriptionTested
}

/// Shortens a delay by up to 15 %, so that deliveries that failed together do not come back together.
///
/// Shortened this much, [`MAX_ATTEMPTS`] attempts still span a day.
fn jittered(app: &App, delay_ms: u64) -> u64 {
    let random = u64::from(u16::from_le_bytes(app.ids.secret()));
    delay_ms - delay_ms * 15 / 100 * random / u64::from(u16::MAX)
}

#[cfg(test)]
mod tests;
