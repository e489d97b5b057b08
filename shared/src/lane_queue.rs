//! The queue through which lanes of deliveries reach whoever sends them.
//!
//! It is first in, first out by group, and a group is a subscription: one call at a time goes through the lanes of a
//! subscription, and an endpoint that hangs keeps nobody waiting but itself.
//! API: <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>

use crate::app::Ids;
use crate::aws::{Clients, Lazy};
use crate::config::Config;
use crate::domain::{TenantName, Timestamp};
use crate::dynamodb::{Lane, WorkItem, WorkKind};
use crate::error::{Error, ErrorCode, Result};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{BatchResultErrorEntry, SendMessageBatchRequestEntry};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most messages of one call.
const MOST_MESSAGES: usize = 10;
/// Most lanes of one message: ten such messages stay below the 256 KiB that one call may have.
const MOST_LANES: usize = 500;
/// How often what was not taken is sent again in one call.
const ATTEMPTS: u32 = 3;

/// How long a message has before the sweep looks after its lanes, in milliseconds: longer than a queue takes to bring a
/// message again whose receiver was killed.
const LOOK_AFTER_MILLIS: u64 = 10 * 60_000;

/// Lanes of one subscription in which something waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneMessage {
    /// The message's id; no two have the same.
    pub id: String,
    /// The tenant.
    pub tenant: TenantName,
    /// The subscription.
    pub subscription: String,
    /// Its lanes.
    pub lanes: Vec<String>,
    /// When the sweep looks after the lanes, should the message be lost.
    pub look_at: Timestamp,
}

impl LaneMessage {
    /// The messages for lanes: one for each subscription, or several where there are very many lanes.
    pub fn about(lanes: impl IntoIterator<Item = Lane>, ids: &Ids, now: Timestamp) -> Vec<Self> {
        let mut groups: BTreeMap<(TenantName, String), BTreeSet<String>> = BTreeMap::new();
        for lane in lanes {
            groups
                .entry((lane.tenant, lane.subscription))
                .or_default()
                .insert(lane.lane);
        }
        let mut messages = Vec::with_capacity(groups.len());
        for ((tenant, subscription), lanes) in groups {
            let lanes: Vec<String> = lanes.into_iter().collect();
            for part in lanes.chunks(MOST_LANES) {
                messages.push(Self {
                    id: ids.next(),
                    tenant: tenant.clone(),
                    subscription: subscription.clone(),
                    lanes: part.to_vec(),
                    look_at: now.plus_millis(LOOK_AFTER_MILLIS),
                });
            }
        }
        messages
    }

    /// Reads the body of a message; `None` for what is another kind of message.
    pub fn from_body(body: &str) -> Option<Self> {
        serde_json::from_str(body).ok()
    }

    fn body(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Error::internal("writing JSON", error))
    }

    /// The lanes that it names.
    pub fn lanes(&self) -> impl Iterator<Item = Lane> {
        self.lanes.iter().map(|lane| Lane {
            tenant: self.tenant.clone(),
            subscription: self.subscription.clone(),
            lane: lane.clone(),
        })
    }

    /// The work by which the sweep finds its lanes until it was dealt with.
    pub fn work(&self) -> Result<WorkItem> {
        Ok(WorkItem {
            kind: WorkKind::Deliver,
            due: self.look_at,
            subject: self.body()?,
        })
    }
}

/// The queue.
#[derive(Debug, Clone)]
pub struct LaneQueue {
    client: Lazy<Client>,
    url: Option<String>,
}

impl LaneQueue {
    pub(crate) fn new(config: &Config, clients: &Clients) -> Self {
        Self {
            client: clients.sqs(),
            url: config.deliveries_queue.clone(),
        }
    }

    /// Sends messages, of each subscription in their order; one call for every ten.
    ///
    /// If it fails, some of them may be in the queue nevertheless.
    pub async fn send(&self, messages: &[LaneMessage]) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let url = self.url.as_ref().ok_or_else(|| {
            Error::internal(
                "asking for deliveries",
                "`DELIVERIES_QUEUE_URL` is not set; set it",
            )
        })?;
        for batch in messages.chunks(MOST_MESSAGES) {
            self.send_batch(url, batch).await?;
        }
        Ok(())
    }

    async fn send_batch(&self, url: &str, batch: &[LaneMessage]) -> Result<()> {
        let mut open: Vec<usize> = (0..batch.len()).collect();
        for attempt in 1..=ATTEMPTS {
            let entries = open
                .iter()
                .map(|index| entry(*index, &batch[*index]))
                .collect::<Result<Vec<_>>>()?;
            let answer = self
                .client
                .send_message_batch()
                .queue_url(url)
                .set_entries(Some(entries))
                .send()
                .await
                .map_err(|error| {
                    Error::new(ErrorCode::Unavailable, "SQS: asking for deliveries")
                        .caused_by(error)
                })?;
            let failed: BTreeSet<&str> = answer
                .failed()
                .iter()
                .map(BatchResultErrorEntry::id)
                .collect();
            open.retain(|index| failed.contains(index.to_string().as_str()));
            if open.is_empty() {
                return Ok(());
            }
            if attempt < ATTEMPTS {
                tokio::time::sleep(std::time::Duration::from_millis(50 << attempt)).await;
            }
        }
        Err(Error::new(
            ErrorCode::Unavailable,
            format!("SQS did not take {} messages", open.len()),
        ))
    }
}

fn entry(index: usize, message: &LaneMessage) -> Result<SendMessageBatchRequestEntry> {
    SendMessageBatchRequestEntry::builder()
        .id(index.to_string())
        .message_body(message.body()?)
        .message_group_id(&message.subscription)
        // Two messages that name the same are two: the second may be about what came after the first was dealt with.
        .message_deduplication_id(&message.id)
        .build()
        .map_err(|error| Error::internal("building a message", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(subscription: &str, lane: usize) -> Lane {
        Lane {
            tenant: TenantName::default_tenant(),
            subscription: subscription.to_owned(),
            lane: format!("{lane:016x}"),
        }
    }

    fn messages_of(lanes: impl IntoIterator<Item = Lane>) -> Vec<LaneMessage> {
        let clock = crate::app::Clock::fixed(Timestamp::from_millis(1_700_000_000_000));
        LaneMessage::about(lanes, &Ids::new(clock.clone()), clock.now())
    }

    #[test]
    fn a_subscription_has_one_message_and_each_lane_is_named_once() {
        let messages = messages_of([lane("b", 1), lane("a", 2), lane("b", 1), lane("b", 0)]);
        let told: Vec<_> = messages.iter().flat_map(LaneMessage::lanes).collect();
        assert_eq!(told, [lane("a", 2), lane("b", 0), lane("b", 1)]);
        assert_eq!(messages.len(), 2);
        assert!(messages_of([]).is_empty());
    }

    #[test]
    fn ten_messages_stay_below_what_a_call_may_have() {
        let longest = "s".repeat(26);
        let messages = messages_of((0..MOST_LANES * 3).map(|number| lane(&longest, number)));
        assert_eq!(messages.len(), 3);
        let largest = messages
            .iter()
            .map(|message| message.body().unwrap().len())
            .max();
        assert!(largest.unwrap() * MOST_MESSAGES < 256 * 1024);
    }

    #[test]
    fn a_message_is_told_from_others_and_has_work_of_its_own() {
        let messages = messages_of([lane("a", 1), lane("b", 1)]);
        let body = messages[0].body().unwrap();
        assert_eq!(LaneMessage::from_body(&body).as_ref(), Some(&messages[0]));
        assert_eq!(LaneMessage::from_body(r#"{"Records": []}"#), None);
        assert_eq!(LaneMessage::from_body("no JSON"), None);
        assert_ne!(messages[0].work().unwrap(), messages[1].work().unwrap());
    }
}
