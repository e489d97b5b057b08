//! The shapes in which Lambda hands messages to a function, and hears which of them failed.

use std::time::{SystemTime, UNIX_EPOCH};

use md5::{Digest as _, Md5};
use serde_json::{Value, json};

use super::Message;

/// The region and the account in the ARNs; handlers that take ARNs apart expect real-looking ones.
const REGION: &str = "us-east-1";
const ACCOUNT: &str = "000000000000";

/// Builds the event that Lambda receives for a batch of messages.
pub fn to_sqs_event(messages: &[Message], queue: &str) -> Value {
    let records: Vec<Value> = messages
        .iter()
        .map(|message| record(message, queue))
        .collect();
    json!({ "Records": records })
}

fn record(message: &Message, queue: &str) -> Value {
    json!({
        "messageId": message.id,
        "receiptHandle": message.receipt,
        "body": message.body,
        "attributes": {
            "ApproximateReceiveCount": message.receive_count.to_string(),
            "SentTimestamp": timestamp(message.sent_at),
            "SenderId": ACCOUNT,
            "ApproximateFirstReceiveTimestamp": timestamp(message.first_received_at),
        },
        "messageAttributes": {},
        "md5OfBody": hex::encode(Md5::digest(&message.body)),
        "eventSource": "aws:sqs",
        "eventSourceARN": format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}"),
        "awsRegion": REGION,
    })
}

/// SQS writes its times as text, in milliseconds since 1970.
fn timestamp(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis()
        .to_string()
}

/// Reads which items of a batch a function reported as failed, in the order of the batch.
///
/// The rules are Lambda's: an answer without `batchItemFailures`, or with an empty or null list, means that everything
/// succeeded; one that cannot be read, or names an item that is not in the batch, means that everything failed.
/// Items are message ids, or sequence numbers of a stream.
pub fn failed_items<'a>(answer: &Value, batch: &[&'a str]) -> Vec<&'a str> {
    let everything = || batch.to_vec();
    let failures = match answer {
        Value::Object(fields) => match fields.get("batchItemFailures") {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(failures)) => failures,
            Some(_) => return everything(),
        },
        // A function may answer nothing, or whatever it likes; Lambda takes only an object for a report.
        _ => return Vec::new(),
    };
    let mut failed = Vec::with_capacity(failures.len());
    for failure in failures {
        match failure["itemIdentifier"].as_str() {
            Some(item) if batch.contains(&item) => failed.push(item),
            _ => return everything(),
        }
    }
    batch
        .iter()
        .copied()
        .filter(|item| failed.contains(item))
        .collect()
}
