//! Batches: which event this is, and which of its items failed.
//!
//! Three outcomes: done; a permanent failure, recorded and done; a failure that may pass, reported for redelivery.
//! Anchor: the batch processing of Powertools for AWS Lambda.

use crate::error::{Error, ErrorCode, Result};
use serde_json::{Value, json};

/// An event as Lambda delivers it.
#[derive(Debug, Clone)]
pub enum Incoming {
    /// Messages of a queue.
    Messages(Vec<Message>),
    /// Records of the table's stream, in order.
    Records(Vec<Value>),
    /// A schedule fired.
    Schedule,
}

/// A message of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id.
    pub id: String,
    /// Its body.
    pub body: String,
}

impl Incoming {
    /// Tells events apart by their shape.
    pub fn parse(event: &Value) -> Result<Self> {
        if event.get("detail-type").and_then(Value::as_str) == Some("Scheduled Event") {
            return Ok(Self::Schedule);
        }
        let unknown = || {
            Error::new(
                ErrorCode::InvalidArgument,
                "the event is of no kind that this function takes; see its card",
            )
        };
        let records = event
            .get("Records")
            .and_then(Value::as_array)
            .ok_or_else(unknown)?;
        let source = records
            .first()
            .and_then(|record| record.get("eventSource"))
            .and_then(Value::as_str);
        match source {
            Some("aws:sqs") => Ok(Self::Messages(
                records
                    .iter()
                    .map(|record| Message {
                        id: text(record, "messageId"),
                        body: text(record, "body"),
                    })
                    .collect(),
            )),
            Some("aws:dynamodb") => Ok(Self::Records(records.clone())),
            None if records.is_empty() => Ok(Self::Messages(Vec::new())),
            _ => Err(unknown()),
        }
    }
}

fn text(record: &Value, name: &str) -> String {
    record
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// Runs every message on its own, and reports those that are worth another delivery.
pub async fn each_message<F, Fut>(messages: Vec<Message>, run: F) -> Value
where
    F: Fn(Message) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let mut failures = Vec::new();
    for message in messages {
        let id = message.id.clone();
        if let Err(error) = run(message).await {
            // A malformed message goes to the dead letters too: somebody should see what sent it.
            tracing::warn!(
                message.id = id,
                error = error.chain(),
                code = error.code.as_str(),
                "A message failed and is reported for redelivery"
            );
            failures.push(json!({"itemIdentifier": id}));
        }
    }
    json!({"batchItemFailures": failures})
}

/// Runs records in order and stops at the first that fails: later ones must not overtake it.
pub async fn each_record<F, Fut>(records: Vec<Value>, run: F) -> Value
where
    F: Fn(Value) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    for record in records {
        let sequence = record
            .get("dynamodb")
            .and_then(|dynamodb| dynamodb.get("SequenceNumber"))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if let Err(error) = run(record).await {
            tracing::warn!(
                record.sequence = sequence,
                error = error.chain(),
                code = error.code.as_str(),
                "A stream record failed; the batch stops there"
            );
            return json!({"batchItemFailures": [{"itemIdentifier": sequence}]});
        }
    }
    json!({"batchItemFailures": []})
}
