//! What carries an event one step: from the bucket to its queue, and from there or from the stream to its function.
//!
//! Both ways of pumping go through here, so a test that chooses every delivery by hand runs what production runs.

use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use shared::App;

use crate::{
    definition::{self, DELIVERIES, Function, Queue, STREAM},
    dynamodb::{Engine, Stream, StreamRecord, to_stream_event},
    functions::Functions,
    inbox::Inbox,
    kms::Kms,
    queues::{Failure, Message, Queues, failed_items, to_sqs_event},
    s3::{Notification, Notifications, S3Server, to_event_record},
};

/// The name under which the stream remembers how far the pump has come.
pub(super) const CONSUMER: &str = "notifications";

/// How many S3 events are carried to the queues at once.
const NOTIFICATION_BATCH: usize = 100;

/// What is kept as the error of a message or record that the function itself reported.
const REPORTED: &str = "the function reported it as failed; its log says why";

/// One event that was handed to a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The message's id, or the record's sequence number; empty for a schedule.
    pub id: String,
    /// Who got it.
    pub function: Function,
    /// What it was, for a person: `ObjectCreated incoming/default/iris/1/model.onnx`.
    pub what: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The function is done with it.
    Done,
    /// It failed, for this reason, and comes again.
    Retry(String),
    /// It failed too often, the last time for this reason, and is a dead letter.
    DeadLetter(String),
}

/// A source of messages: a queue of S3 events, the queue of deliveries, or that of records that the stream gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Queue(&'static Queue),
    Deliveries,
    GivenUp,
}

impl Source {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        definition::QUEUES
            .iter()
            .map(Self::Queue)
            .chain([Self::Deliveries, Self::GivenUp])
    }

    pub(super) fn queue_name(self) -> &'static str {
        match self {
            Self::Queue(queue) => queue.name(),
            Self::Deliveries => DELIVERIES.name,
            Self::GivenUp => STREAM.on_failure_queue,
        }
    }

    pub(super) fn function(self) -> Function {
        match self {
            Self::Queue(queue) => queue.function,
            Self::Deliveries => DELIVERIES.function,
            Self::GivenUp => STREAM.function,
        }
    }

    pub(super) fn batch_size(self) -> usize {
        match self {
            Self::Queue(queue) => queue.batch_size,
            Self::Deliveries => DELIVERIES.batch_size,
            Self::GivenUp => 1,
        }
    }

    pub(super) fn concurrency(self) -> usize {
        match self {
            Self::Queue(queue) => queue.local_concurrency,
            Self::Deliveries => DELIVERIES.local_concurrency,
            Self::GivenUp => 1,
        }
    }

    /// Builds what the function receives; a given-up record's message is the stream event itself.
    pub(super) fn event(self, messages: &[Message]) -> Value {
        match self {
            Self::Queue(_) | Self::Deliveries => to_sqs_event(messages, self.queue_name()),
            Self::GivenUp => messages
                .first()
                .and_then(|message| serde_json::from_str(&message.body).ok())
                .unwrap_or_default(),
        }
    }

    /// Reads which messages failed from a function's answer.
    fn failed<'a>(self, answer: &Value, ids: &[&'a str]) -> Vec<&'a str> {
        match self {
            Self::Queue(_) | Self::Deliveries => failed_items(answer, ids),
            // The function reports records by their sequence number, and there is but one.
            Self::GivenUp => match answer.get("batchItemFailures").and_then(Value::as_array) {
                Some(failures) if !failures.is_empty() => ids.to_vec(),
                _ => Vec::new(),
            },
        }
    }
}

/// Everything that the pumps connect.
#[derive(Debug)]
pub(super) struct Plumbing {
    pub(super) app: App,
    pub(super) functions: Functions,
    pub(super) queues: Queues,
    pub(super) engine: Engine,
    pub(super) stream: Stream,
    pub(super) s3: S3Server,
    pub(super) notifications: Notifications,
    pub(super) inbox: Inbox,
    pub(super) kms: Kms,
}

impl Plumbing {
    /// Carries waiting S3 events to their queues, and counts them.
    ///
    /// An event is forgotten only after its queue has it, so a kill in between sends it twice and loses nothing.
    pub(super) async fn carry_notifications(&self) -> anyhow::Result<usize> {
        let events = self.notifications.peek(NOTIFICATION_BATCH).await?;
        for event in &events {
            if let Some(queue) = announced_in(event) {
                let body = json!({ "Records": [to_event_record(event)] });
                self.queues.send(queue.name(), &body.to_string())?;
            }
        }
        let ids: Vec<i64> = events.iter().map(|event| event.id).collect();
        if !ids.is_empty() {
            self.notifications.acknowledge(ids).await?;
        }
        Ok(events.len())
    }

    /// Hands messages to their function, and deletes what it is done with.
    pub(super) async fn deliver_messages(
        &self,
        source: Source,
        messages: &[Message],
    ) -> Vec<Delivered> {
        let function = source.function();
        let started = Instant::now();
        let answer = self
            .functions
            .call(function, self.app.clone(), source.event(messages))
            .await;
        let duration = started.elapsed();

        let ids: Vec<&str> = messages.iter().map(|message| &*message.id).collect();
        let (failed, reason) = match &answer {
            Ok(answer) => (source.failed(answer, &ids), REPORTED),
            Err(reason) => (ids, &**reason),
        };
        let mut delivered = Vec::with_capacity(messages.len());
        for message in messages {
            let outcome = if failed.contains(&&*message.id) {
                self.fail(message, reason)
            } else {
                self.finish(message)
            };
            let report = Delivered {
                id: message.id.clone(),
                function,
                what: describe_message(&message.body),
                outcome,
            };
            log(&report, duration);
            delivered.push(report);
        }
        delivered
    }

    fn finish(&self, message: &Message) -> Outcome {
        if let Err(error) = self.queues.delete(&message.receipt) {
            tracing::error!(
                error = chain(&error),
                "A message could not be deleted and comes again"
            );
        }
        Outcome::Done
    }

    fn fail(&self, message: &Message, reason: &str) -> Outcome {
        match self.queues.fail(&message.receipt, reason) {
            Ok(Failure::DeadLetter) => Outcome::DeadLetter(reason.to_owned()),
            Ok(_) => Outcome::Retry(reason.to_owned()),
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "A failure could not be stored; its message comes again"
                );
                Outcome::Retry(reason.to_owned())
            }
        }
    }

    /// Hands records of the stream to their function, in order, and returns what became of them.
    ///
    /// The list ends with the first that failed: later ones must not overtake it. The caller moves the checkpoint.
    pub(super) async fn deliver_records(&self, records: &[StreamRecord]) -> Vec<Delivered> {
        let started = Instant::now();
        let answer = self
            .functions
            .call(STREAM.function, self.app.clone(), to_stream_event(records))
            .await;
        let duration = started.elapsed();

        let numbers: Vec<&str> = records
            .iter()
            .map(|record| &*record.sequence_number)
            .collect();
        let (failed, reason) = match &answer {
            Ok(answer) => (failed_items(answer, &numbers), REPORTED),
            Err(reason) => (numbers, &**reason),
        };
        let mut delivered = Vec::with_capacity(records.len());
        for record in records {
            let is_failed = failed.contains(&&*record.sequence_number);
            let report = Delivered {
                id: record.sequence_number.clone(),
                function: STREAM.function,
                what: describe_record(&record.event),
                outcome: if is_failed {
                    Outcome::Retry(reason.to_owned())
                } else {
                    Outcome::Done
                },
            };
            log(&report, duration);
            delivered.push(report);
            if is_failed {
                break;
            }
        }
        delivered
    }

    /// Gives a record up: the stream goes on, and the record is tried once more as a message.
    ///
    /// A dead letter remains of it if that fails too; what the lost event left behind, the sweep makes good.
    pub(super) fn give_up(&self, record: &StreamRecord, reason: &str) -> anyhow::Result<()> {
        let body = json!({ "Records": [&record.event] });
        self.queues
            .send(STREAM.on_failure_queue, &body.to_string())?;
        tracing::error!(
            sequence_number = record.sequence_number,
            error = reason,
            "{:<20} {} failed {} times; the stream goes on without it",
            STREAM.function,
            describe_record(&record.event),
            STREAM.max_attempts,
        );
        Ok(())
    }

    /// Calls a function as its schedule does.
    pub(super) async fn fire_schedule(&self, function: Function) -> Result<(), String> {
        let event = self.schedule_event(function);
        let started = Instant::now();
        let answer = self.functions.call(function, self.app.clone(), event).await;
        let duration_ms = started.elapsed().as_millis();
        match answer {
            Ok(_) => {
                tracing::debug!("{function:<20} schedule → done in {duration_ms} ms");
                Ok(())
            }
            Err(reason) => {
                tracing::warn!(
                    error = reason,
                    "{function:<20} schedule → failed after {duration_ms} ms, comes again"
                );
                Err(reason)
            }
        }
    }

    fn schedule_event(&self, function: Function) -> Value {
        let region = definition::REGION;
        // EventBridge writes its times without fractions.
        let time: String = self
            .app
            .clock
            .now()
            .to_string()
            .chars()
            .take("2026-01-01T00:00:00".len())
            .chain(['Z'])
            .collect();
        json!({
            "version": "0",
            "id": uuid::Uuid::new_v4().to_string(),
            "detail-type": "Scheduled Event",
            "source": "aws.events",
            "account": "000000000000",
            "time": time,
            "region": region,
            "resources": [format!("arn:aws:events:{region}:000000000000:rule/{function}-sweep")],
            "detail": {},
        })
    }

    /// Does what AWS does in the background: expires items, and forgets old stream records.
    pub(super) fn tidy(&self) -> anyhow::Result<()> {
        let expired = self.engine.sweep_ttl()?;
        let trimmed = self.engine.trim_streams()?;
        if expired + trimmed > 0 {
            tracing::debug!("Expired {expired} items and forgot {trimmed} stream records");
        }
        Ok(())
    }

    /// Returns whether no event is under way; dead letters wait for a person, and do not count.
    pub(super) async fn is_idle(&self) -> anyhow::Result<bool> {
        if !self.notifications.peek(1).await?.is_empty() {
            return Ok(false);
        }
        for source in Source::all() {
            if !self.queues.depth(source.queue_name())?.is_drained() {
                return Ok(false);
            }
        }
        Ok(self.stream.next_batch(1)?.is_empty())
    }
}

/// Finds the queue of an S3 event; removals are announced nowhere.
fn announced_in(event: &Notification) -> Option<&'static Queue> {
    event
        .event_name
        .as_str()
        .starts_with("ObjectCreated:")
        .then(|| definition::queue_of(&event.key))
        .flatten()
}

/// Says what a message tells of, for a person.
pub(super) fn describe_message(body: &str) -> String {
    let Ok(body) = serde_json::from_str::<Value>(body) else {
        return "a message that is no JSON".to_owned();
    };
    if let Some(subscription) = body["subscription"].as_str() {
        let count = body["lanes"].as_array().map_or(0, Vec::len);
        return format!("{count} lanes of subscription {}", printable(subscription));
    }
    let record = &body["Records"][0];
    if record["eventSource"] == "aws:dynamodb" {
        return describe_record(record);
    }
    let name = record["eventName"].as_str().unwrap_or("a message");
    let name = name.split(':').next().unwrap_or(name);
    let key = record["s3"]["object"]["key"].as_str().unwrap_or("?");
    let key = key.replace('+', " ");
    let key = percent_decode_str(&key).decode_utf8_lossy();
    format!("{name} {}", printable(&key))
}

/// Says what a record of the stream tells of, for a person.
pub(super) fn describe_record(event: &Value) -> String {
    let key = |name: &str| printable(event["dynamodb"]["Keys"][name]["S"].as_str().unwrap_or("?"));
    let name = event["eventName"].as_str().unwrap_or("?");
    format!("{name} {} {}", key("pk"), key("sk"))
}

/// Keeps control characters of a key out of a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let is_control = character.is_control();
            let escaped = is_control.then(|| character.escape_default());
            escaped
                .into_iter()
                .flatten()
                .chain((!is_control).then_some(character))
        })
        .collect()
}

/// Writes a line for a person who follows what happens, with the same facts as fields.
fn log(delivered: &Delivered, duration: Duration) {
    let Delivered {
        id, function, what, ..
    } = delivered;
    let function_name = function.name();
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match &delivered.outcome {
        Outcome::Done => tracing::info!(
            function = function_name,
            event.id = id,
            duration_ms,
            "{function:<20} {what} → done in {duration_ms} ms"
        ),
        Outcome::Retry(reason) => tracing::warn!(
            function = function_name,
            event.id = id,
            duration_ms,
            error = reason,
            "{function:<20} {what} → failed after {duration_ms} ms, comes again"
        ),
        Outcome::DeadLetter(reason) => tracing::error!(
            function = function_name,
            event.id = id,
            duration_ms,
            error = reason,
            "{function:<20} {what} → failed too often, is a dead letter; see /_local/dead-letters"
        ),
    }
}

/// Writes an error with its causes on one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_described_by_its_event_and_decoded_key() {
        let body = json!({ "Records": [{
            "eventName": "ObjectCreated:Put",
            "s3": { "object": { "key": "incoming/default/my+model%2Bv1/1/a%1B" } },
        }] });
        assert_eq!(
            describe_message(&body.to_string()),
            "ObjectCreated incoming/default/my model+v1/1/a\\u{1b}"
        );
        assert_eq!(describe_message("{"), "a message that is no JSON");
    }
}
