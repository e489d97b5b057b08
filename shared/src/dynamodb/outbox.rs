//! The table's stream, read a second time by the sweep, so that an event whose delivery was lost is found.
//!
//! Lambda's event source mapping delivers stream records at least once, until it gives up on one.
//! The sweep reads from its own checkpoint up to a minute ago and asks for each event whether it stands in the feed.

use super::items::Builder;
use super::keys;
use super::registry::{Registry, event_of_image};
use super::table::{Write, failed};
use crate::domain::{Event, Timestamp};
use crate::error::Result;
use aws_sdk_dynamodbstreams::types::{AttributeValue as StreamValue, Record, ShardIteratorType};
use std::collections::HashMap;

/// Events younger than this, in milliseconds, are left to the regular delivery.
pub const GRACE_MILLIS: u64 = 60_000;

/// Most records that one sweep reads per shard.
const MOST_RECORDS: usize = 10_000;

/// What one shard of the stream held since the last look.
#[derive(Debug)]
pub struct OutboxShard {
    /// The shard.
    pub shard: String,
    /// Events in it, in order.
    pub events: Vec<Event>,
    /// Where the next look begins, once these events are dealt with.
    pub checkpoint: Option<String>,
}

impl Registry {
    /// Reads what the stream held between the last look and `now` less the grace time, shard by shard.
    pub async fn read_outbox(&self, now: Timestamp) -> Result<Vec<OutboxShard>> {
        let until_seconds = now.millis().saturating_sub(GRACE_MILLIS) / 1000;
        let mut shards = Vec::new();
        let listed = self
            .streams
            .list_streams()
            .table_name(&self.table().name)
            .send()
            .await
            .map_err(|error| failed("listing streams", error))?;
        for stream in listed.streams() {
            let Some(arn) = stream.stream_arn() else {
                continue;
            };
            let mut start = None;
            loop {
                let described = self
                    .streams
                    .describe_stream()
                    .stream_arn(arn)
                    .set_exclusive_start_shard_id(start)
                    .send()
                    .await
                    .map_err(|error| failed("describing the stream", error))?;
                let Some(description) = described.stream_description else {
                    break;
                };
                for shard in description.shards() {
                    if let Some(id) = shard.shard_id() {
                        shards.push(self.read_outbox_shard(arn, id, until_seconds).await?);
                    }
                }
                start = description.last_evaluated_shard_id;
                if start.is_none() {
                    break;
                }
            }
        }
        Ok(shards)
    }

    async fn read_outbox_shard(
        &self,
        arn: &str,
        shard: &str,
        until_seconds: u64,
    ) -> Result<OutboxShard> {
        let item = self
            .table()
            .get(&keys::outbox_checkpoint(shard), true)
            .await?;
        let before =
            item.and_then(|item| item.get("seq").and_then(|value| value.as_s().ok()).cloned());
        let kind = if before.is_some() {
            ShardIteratorType::AfterSequenceNumber
        } else {
            ShardIteratorType::TrimHorizon
        };
        let begun = self
            .streams
            .get_shard_iterator()
            .stream_arn(arn)
            .shard_id(shard)
            .shard_iterator_type(kind)
            .set_sequence_number(before.clone())
            .send()
            .await;
        let begun = match begun {
            Ok(begun) => begun,
            // A checkpoint older than the stream keeps records: begin at the oldest that there is.
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(aws_sdk_dynamodbstreams::operation::get_shard_iterator::GetShardIteratorError::is_trimmed_data_access_exception) =>
            {
                self.streams
                    .get_shard_iterator()
                    .stream_arn(arn)
                    .shard_id(shard)
                    .shard_iterator_type(ShardIteratorType::TrimHorizon)
                    .send()
                    .await
                    .map_err(|error| failed("reading the stream from its oldest record", error))?
            }
            Err(error) => return Err(failed("reading the stream", error)),
        };
        let mut iterator = begun.shard_iterator;
        let mut outcome = OutboxShard {
            shard: shard.to_owned(),
            events: Vec::new(),
            checkpoint: None,
        };
        let mut count = 0;
        while let Some(current) = iterator.take() {
            let page = self
                .streams
                .get_records()
                .shard_iterator(current)
                .send()
                .await
                .map_err(|error| failed("reading the stream", error))?;
            let records = page.records.unwrap_or_default();
            if records.is_empty() {
                // An open shard answers empty pages for ever; the next look goes on.
                break;
            }
            for record in records {
                if created_seconds(&record) > until_seconds {
                    return Ok(outcome);
                }
                count += 1;
                if let Some(event) = event_of(&record) {
                    outcome.events.push(event?);
                }
                outcome.checkpoint = record
                    .dynamodb
                    .and_then(|dynamodb| dynamodb.sequence_number)
                    .or(outcome.checkpoint);
            }
            if count >= MOST_RECORDS {
                break;
            }
            iterator = page.next_shard_iterator;
        }
        Ok(outcome)
    }

    /// Remembers that a shard was dealt with up to its checkpoint.
    pub async fn keep_outbox_checkpoint(&self, shard: &OutboxShard, now: Timestamp) -> Result<()> {
        let Some(checkpoint) = &shard.checkpoint else {
            return Ok(());
        };
        let item = Builder::at(&keys::outbox_checkpoint(&shard.shard))
            .text("seq", checkpoint)
            // A shard is gone a day after it closed; its checkpoint follows.
            .number("ttl", now.seconds() + 3 * 24 * 3_600)
            .build();
        self.table()
            .write(Write::Put {
                item,
                condition: None,
            })
            .await
            .map(drop)
    }
}

fn created_seconds(record: &Record) -> u64 {
    record
        .dynamodb
        .as_ref()
        .and_then(|dynamodb| dynamodb.approximate_creation_date_time)
        .map_or(0, |time| u64::try_from(time.secs()).unwrap_or(0))
}

fn event_of(record: &Record) -> Option<Result<Event>> {
    let image = record.dynamodb.as_ref()?.new_image.as_ref()?;
    let item: HashMap<_, _> = image
        .iter()
        .filter_map(|(name, value)| match value {
            StreamValue::S(text) => Some((name.clone(), super::table::text(text))),
            _ => None,
        })
        .collect();
    event_of_image(&item)
}

/// The event within a stream record as Lambda delivers it, if the record is one.
pub fn event_of_record(record: &serde_json::Value) -> Option<Result<Event>> {
    let image = record.get("dynamodb")?.get("NewImage")?.as_object()?;
    let item: HashMap<_, _> = image
        .iter()
        .filter_map(|(name, value)| {
            Some((name.clone(), super::table::text(value.get("S")?.as_str()?)))
        })
        .collect();
    event_of_image(&item)
}
