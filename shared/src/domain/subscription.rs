//! The subscription: who wants to hear of what; the delivery: one event for one subscription.

use crate::domain::{EventType, ModelName, Principal, TenantName, Timestamp};
use serde::{Deserialize, Serialize};

/// Most subscriptions of one tenant: an event and all its deliveries are written in one transaction.
pub const MAX_SUBSCRIPTIONS: usize = 40;

/// Most attempts for one delivery.
pub const MAX_ATTEMPTS: u32 = 15;

/// An interest in events, and where to send them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its id, a ULID.
    pub id: String,
    /// The tenant.
    pub tenant: TenantName,
    /// Where to POST.
    pub url: String,
    /// Which types; all if empty.
    #[serde(default)]
    pub event_types: Vec<EventType>,
    /// Which registered model; all if absent.
    #[serde(default)]
    pub model: Option<ModelName>,
    /// The signing secret, `whsec_` and base64; shown once, when it is created.
    pub secret: String,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
    /// Who created it.
    pub created_by: Principal,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Subscription {
    /// Whether it wants to hear of this.
    pub fn wants(&self, kind: EventType, model: Option<&ModelName>) -> bool {
        (self.event_types.is_empty() || self.event_types.contains(&kind))
            && match &self.model {
                None => true,
                // A subscription names a model by its name, wherever that lies.
                Some(wanted) => model.is_some_and(|model| model.as_str() == wanted.as_str()),
            }
    }
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// Waits for its first or next attempt.
    Pending,
    /// The receiver answered 2xx.
    Delivered,
    /// Every attempt failed.
    Exhausted,
}

/// One send, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The HTTP status of the answer, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there was none, or that it was not 2xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One event for one subscription.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The event's id; sent as `webhook-id`.
    pub event_id: String,
    /// The subscription's id.
    pub subscription_id: String,
    /// How far it is.
    pub status: DeliveryStatus,
    /// When the next attempt is due.
    pub due_at: Timestamp,
    /// What was tried so far.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
}

/// How long to wait after attempt `count` (counted from 1) failed, in milliseconds: 1 minute, doubling, at most 4 hours.
///
/// [`MAX_ATTEMPTS`] attempts span a little more than a day.
pub fn retry_delay_ms(count: u32) -> u64 {
    let minute = 60_000_u64;
    (minute << count.saturating_sub(1).min(8)).min(4 * 60 * minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_span_more_than_a_day() {
        let total: u64 = (1..MAX_ATTEMPTS).map(retry_delay_ms).sum();
        assert!(total >= 24 * 60 * 60_000, "{total} ms");
        assert_eq!(retry_delay_ms(1), 60_000);
        assert_eq!(retry_delay_ms(30), 4 * 60 * 60_000);
    }
}
