//! What would have left the account: an embedded EventBridge and SNS that keep what they were given.
//!
//! They speak as much of the protocols as `PutEvents` and `Publish` need, so that both are sent by the real SDK.
//! EventBridge: <https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html>,
//! SNS: <https://docs.aws.amazon.com/sns/latest/api/API_Publish.html>.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, body::Bytes, extract::State, response::Response, routing::post};
use http::{HeaderMap, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

/// How many of each kind are kept; older ones are forgotten.
const MOST_KEPT: usize = 1_000;
/// Most entries that `PutEvents` takes.
const MOST_ENTRIES: usize = 10;

/// What was put on the bus, and what was published to topics.
#[derive(Clone, Debug, Default)]
pub struct Inbox(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Value>,
    messages: VecDeque<Value>,
    failing_entries: usize,
    failing_calls: usize,
}

impl Inbox {
    /// The entries that the bus took, the oldest first, each with its detail as JSON.
    pub fn events(&self) -> Vec<Value> {
        self.kept(|kept| kept.events.iter().cloned().collect())
    }

    /// The messages that topics took, the oldest first.
    pub fn messages(&self) -> Vec<Value> {
        self.kept(|kept| kept.messages.iter().cloned().collect())
    }

    /// Lets the next entries fail, each alone, as a throttled bus does.
    pub fn fail_entries(&self, count: usize) {
        self.kept(|kept| kept.failing_entries = count);
    }

    /// Lets the next calls of either service fail.
    pub fn fail_calls(&self, count: usize) {
        self.kept(|kept| kept.failing_calls = count);
    }

    /// Answers both protocols.
    pub(crate) fn router(self) -> Router {
        Router::new().route("/", post(answer)).with_state(self)
    }

    fn kept<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn answer(State(inbox): State<Inbox>, headers: HeaderMap, body: Bytes) -> Response {
    let is_failing = inbox.kept(|kept| {
        let is_failing = kept.failing_calls > 0;
        kept.failing_calls = kept.failing_calls.saturating_sub(1);
        is_failing
    });
    let target = headers
        .get("x-amz-target")
        .and_then(|value| value.to_str().ok());
    match target {
        _ if is_failing => respond(
            StatusCode::INTERNAL_SERVER_ERROR,
            "application/x-amz-json-1.1",
            json!({"__type": "InternalException"}).to_string(),
        ),
        Some("AWSEvents.PutEvents") => inbox.kept(|kept| put_events(kept, &body)),
        Some(_) => refuse_json("UnknownOperationException"),
        None => inbox.kept(|kept| publish(kept, &body)),
    }
}

fn put_events(kept: &mut Kept, body: &[u8]) -> Response {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let entries = request["Entries"].as_array().cloned().unwrap_or_default();
    if entries.is_empty() || entries.len() > MOST_ENTRIES {
        return refuse_json("ValidationException");
    }
    let mut failed = 0;
    let mut answers = Vec::with_capacity(entries.len());
    for mut entry in entries {
        let detail = entry["Detail"]
            .as_str()
            .and_then(|detail| serde_json::from_str::<Value>(detail).ok())
            .filter(Value::is_object);
        let Some(detail) = detail else {
            failed += 1;
            answers.push(
                json!({"ErrorCode": "MalformedDetail", "ErrorMessage": "Detail is malformed."}),
            );
            continue;
        };
        if kept.failing_entries > 0 {
            kept.failing_entries -= 1;
            failed += 1;
            answers
                .push(json!({"ErrorCode": "ThrottlingException", "ErrorMessage": "Rate exceeded"}));
            continue;
        }
        entry["Detail"] = detail;
        let id = uuid::Uuid::new_v4().to_string();
        answers.push(json!({ "EventId": id }));
        keep(&mut kept.events, entry);
    }
    let answer = json!({"FailedEntryCount": failed, "Entries": answers});
    respond(
        StatusCode::OK,
        "application/x-amz-json-1.1",
        answer.to_string(),
    )
}

fn publish(kept: &mut Kept, body: &[u8]) -> Response {
    let fields = form(&String::from_utf8_lossy(body));
    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let topic = field("TopicArn");
    let is_topic = topic.starts_with("arn:aws:sns:") && topic.split(':').count() == 6;
    if field("Action") != "Publish" || !is_topic || field("Message").is_empty() {
        let error = "<ErrorResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><Error><Type>Sender</Type>\
             <Code>InvalidParameter</Code><Message>Invalid parameter</Message></Error></ErrorResponse>";
        return respond(StatusCode::BAD_REQUEST, "text/xml", error.to_owned());
    }
    if topic.ends_with(":missing") {
        let error = "<ErrorResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><Error><Type>Sender</Type>\
             <Code>NotFound</Code><Message>Topic does not exist</Message></Error></ErrorResponse>";
        return respond(StatusCode::NOT_FOUND, "text/xml", error.to_owned());
    }
    let id = uuid::Uuid::new_v4();
    keep(
        &mut kept.messages,
        json!({
            "topic_arn": topic,
            "subject": field("Subject"),
            "message": field("Message"),
            "message_id": id.to_string(),
        }),
    );
    let answer = format!(
        "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishResult><MessageId>{id}</MessageId>\
         </PublishResult><ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata></PublishResponse>"
    );
    respond(StatusCode::OK, "text/xml", answer)
}

/// The fields of a form, as the query protocol of AWS sends them.
fn form(body: &str) -> BTreeMap<String, String> {
    body.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| {
            let value = value.replace('+', " ");
            (
                name.to_owned(),
                percent_decode_str(&value).decode_utf8_lossy().into_owned(),
            )
        })
        .collect()
}

fn keep(kept: &mut VecDeque<Value>, one: Value) {
    if kept.len() >= MOST_KEPT {
        kept.pop_front();
    }
    kept.push_back(one);
}

fn refuse_json(code: &str) -> Response {
    respond(
        StatusCode::BAD_REQUEST,
        "application/x-amz-json-1.1",
        json!({ "__type": code }).to_string(),
    )
}

fn respond(status: StatusCode, media_type: &'static str, body: String) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        http::HeaderValue::from_static(media_type),
    );
    response
}
