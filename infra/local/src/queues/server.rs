//! As much of the protocol of SQS as sending needs, so that the functions send by the real SDK.
//!
//! API: <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>

use std::collections::BTreeSet;

use axum::{Router, body::Bytes, extract::State, response::Response, routing::post};
use http::{HeaderMap, StatusCode, header};
use md5::{Digest as _, Md5};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Queues;

/// Most messages that one call may bring.
const MOST_ENTRIES: usize = 10;
/// Most bytes that all messages of one call may have.
const MOST_BYTES: usize = 256 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendMessageBatch {
    queue_url: String,
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    id: String,
    message_body: String,
    message_group_id: Option<String>,
    message_deduplication_id: Option<String>,
}

impl Queues {
    /// Answers senders.
    pub(crate) fn router(self) -> Router {
        Router::new().fallback(post(answer)).with_state(self)
    }
}

async fn answer(State(queues): State<Queues>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers
        .get("x-amz-target")
        .and_then(|value| value.to_str().ok());
    let (status, answer) = match target {
        Some("AmazonSQS.SendMessageBatch") => match send_message_batch(&queues, &body) {
            Ok(answer) => (StatusCode::OK, answer),
            Err(code) => (StatusCode::BAD_REQUEST, refusal(code)),
        },
        _ => (StatusCode::BAD_REQUEST, refusal("UnsupportedOperation")),
    };
    let mut response = Response::new(answer.to_string().into());
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/x-amz-json-1.0"),
    );
    response
}

fn refusal(code: &str) -> Value {
    json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": code })
}

fn send_message_batch(queues: &Queues, body: &[u8]) -> Result<Value, &'static str> {
    let request: SendMessageBatch =
        serde_json::from_slice(body).map_err(|_| "InvalidParameterValueException")?;
    let ids: BTreeSet<&str> = request.entries.iter().map(|entry| &*entry.id).collect();
    let bytes: usize = request
        .entries
        .iter()
        .map(|entry| entry.message_body.len())
        .sum();
    let name = request.queue_url.rsplit('/').next().unwrap_or_default();
    let is_grouped = |entry: &Entry| {
        entry.message_group_id.is_some() && entry.message_deduplication_id.is_some()
    };
    if request.entries.is_empty() {
        return Err("EmptyBatchRequest");
    } else if request.entries.len() > MOST_ENTRIES {
        return Err("TooManyEntriesInBatchRequest");
    } else if ids.len() < request.entries.len() {
        return Err("BatchEntryIdsNotDistinct");
    } else if bytes > MOST_BYTES {
        return Err("BatchRequestTooLong");
    } else if name
        .rsplit_once('.')
        .is_some_and(|(_, kind)| kind == "fifo")
        && !request.entries.iter().all(is_grouped)
    {
        return Err("MissingParameter");
    }
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for entry in &request.entries {
        match queues.send_in_group(name, entry.message_group_id.as_deref(), &entry.message_body) {
            Ok(id) => successful.push(json!({
                "Id": entry.id,
                "MessageId": id,
                "MD5OfMessageBody": hex::encode(Md5::digest(&entry.message_body)),
            })),
            Err(super::Error::UnknownQueue { .. }) => return Err("QueueDoesNotExist"),
            Err(error) => {
                tracing::error!(%error, "A message could not be stored");
                failed.push(json!({
                    "Id": entry.id,
                    "Code": "InternalError",
                    "SenderFault": false,
                }));
            }
        }
    }
    Ok(json!({ "Successful": successful, "Failed": failed }))
}
