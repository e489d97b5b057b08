//! The EventBridge bus on which other systems find every event.
//!
//! API: <https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html>

use crate::aws::{Clients, Lazy};
use crate::config::Config;
use crate::domain::Event;
use crate::error::{Error, ErrorCode, Result};
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::primitives::DateTime;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;

/// The source of all entries, by which rules tell them.
pub const SOURCE: &str = "slipway";
/// Most entries of one call.
const MOST_ENTRIES: usize = 10;
/// Most bytes of the entries of one call: EventBridge takes 256 KB, counted with what is around each.
const MOST_BYTES: usize = 240_000;
/// How often what was not taken is sent again in one call.
const ATTEMPTS: u32 = 3;

/// The bus; without one nothing is put.
#[derive(Debug, Clone)]
pub struct Bus {
    client: Lazy<Client>,
    name: Option<String>,
}

impl Bus {
    pub(crate) fn new(config: &Config, clients: &Clients) -> Self {
        Self {
            client: clients.eventbridge(),
            name: config.event_bus.clone(),
        }
    }

    /// Whether there is a bus.
    pub fn is_set(&self) -> bool {
        self.name.is_some()
    }

    /// Puts events on the bus, and says of each whether it was taken.
    pub async fn put(&self, events: &[&Event]) -> Result<Vec<bool>> {
        let Some(name) = &self.name else {
            return Ok(vec![true; events.len()]);
        };
        let mut taken = vec![false; events.len()];
        let details: Vec<String> = events
            .iter()
            .map(|event| event.to_wire().to_string())
            .collect();
        for attempt in 1..=ATTEMPTS {
            let open: Vec<usize> = (0..events.len()).filter(|index| !taken[*index]).collect();
            for batch in batches(&open, &details) {
                self.put_batch(name, &batch, events, &details, &mut taken)
                    .await?;
            }
            if taken.iter().all(|taken| *taken) || attempt == ATTEMPTS {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50 << attempt)).await;
        }
        Ok(taken)
    }

    async fn put_batch(
        &self,
        name: &str,
        batch: &[usize],
        events: &[&Event],
        details: &[String],
        taken: &mut [bool],
    ) -> Result<()> {
        let mut request = self.client.put_events();
        for index in batch {
            let event = events[*index];
            let millis = i64::try_from(event.time.millis()).unwrap_or(i64::MAX);
            request = request.entries(
                PutEventsRequestEntry::builder()
                    .event_bus_name(name)
                    .source(SOURCE)
                    .detail_type(event.kind.as_str())
                    .detail(&details[*index])
                    .time(DateTime::from_millis(millis))
                    .build(),
            );
        }
        let answer = request.send().await.map_err(|error| {
            Error::new(ErrorCode::Unavailable, "EventBridge: putting events").caused_by(error)
        })?;
        for (index, entry) in batch.iter().zip(answer.entries()) {
            taken[*index] = entry.event_id().is_some();
            if let Some(code) = entry.error_code() {
                tracing::warn!(
                    event.id = events[*index].id,
                    code,
                    "The event bus did not take an event: {code}"
                );
            }
        }
        Ok(())
    }
}

/// Parts indexes into calls that EventBridge takes, in order.
fn batches(open: &[usize], details: &[String]) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for index in open {
        let size = details[*index].len() + 200;
        match batches.last_mut() {
            Some(batch) if batch.len() < MOST_ENTRIES && bytes + size <= MOST_BYTES => {
                batch.push(*index);
                bytes += size;
            }
            _ => {
                batches.push(vec![*index]);
                bytes = size;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_hold_ten_entries_and_no_more_bytes_than_the_bus_takes() {
        let open: Vec<usize> = (0..23).collect();
        let small = vec!["x".to_owned(); 23];
        let sizes: Vec<usize> = batches(&open, &small).iter().map(Vec::len).collect();
        assert_eq!(sizes, [10, 10, 3]);
        let large = vec!["x".repeat(100_000); 23];
        assert!(batches(&open, &large).iter().all(|batch| batch.len() <= 2));
        assert!(batches(&[], &small).is_empty());
    }
}
