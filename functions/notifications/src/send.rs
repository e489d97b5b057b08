//! Sending: messages to an endpoint, with what signs them, and again at once where MLflow's own server would.

use crate::client::{self, LOGGED_ANSWER_BYTES};
use crate::messages::one_line;
use crate::payload::{Message, messages_of};
use crate::sign::{mlflow_signature, standard_signature};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use shared::domain::subscription::{Attempt, Format};
use shared::domain::{Event, Subscription, Timestamp};
use shared::{App, Error, Result};
use std::time::Duration;
use tokio::time::Instant;

/// What came of sending.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// The HTTP status of the last answer, if there was one.
    pub(crate) status: Option<u16>,
    /// Why it does not count as delivered: a word that holds nothing of URL, secret or body.
    pub(crate) error: Option<String>,
    /// How long the receiver asks to wait, in milliseconds.
    pub(crate) retry_after_ms: Option<u64>,
    /// The first bytes of the last answer.
    pub(crate) answer_start: Vec<u8>,
}

impl Sent {
    fn failed(error: &str) -> Self {
        Self {
            error: Some(error.to_owned()),
            ..Self::default()
        }
    }

    /// What is recorded of it.
    fn attempt(&self, app: &App, began: Timestamp) -> Attempt {
        Attempt {
            at: began,
            duration_ms: app.clock.now().since(began),
            status: self.status,
            error: self.error.clone(),
            answer_start: one_line(&String::from_utf8_lossy(&self.answer_start)),
        }
    }
}

/// The tries of one attempt.
#[derive(Debug, Clone)]
pub(crate) struct Tries {
    /// Those that failed and were repeated at once.
    pub(crate) earlier: Vec<Attempt>,
    /// The last one, which says what came of it.
    pub(crate) last: Attempt,
    /// How long the receiver asks to wait, in milliseconds.
    pub(crate) retry_after_ms: Option<u64>,
}

/// How long MLflow's own server waits before it asks a receiver again, which receivers of its webhooks rely on.
///
/// Source: `_create_webhook_session` in <https://github.com/mlflow/mlflow/blob/master/mlflow/webhooks/delivery.py>.
const REPEATS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// How long after the first try of an attempt another may begin.
const REPEATS_LIMIT: Duration = Duration::from_secs(10);

/// Sends events to a subscription; several are one message.
///
/// With `may_repeat` a receiver of MLflow's webhooks that is busy or failing is asked again within seconds. A
/// message that it took is not sent again for one that it did not take.
pub(crate) async fn send(
    app: &App,
    subscription: &Subscription,
    events: &[&Event],
    may_repeat: bool,
) -> Tries {
    let mut repeats = Repeats::of(subscription, may_repeat);
    let mut earlier = Vec::new();
    let mut began = app.clock.now();
    let mut sent = Sent::default();
    match messages_of(app, subscription, events).await {
        Ok(messages) => {
            for message in messages {
                loop {
                    sent = send_message(app, subscription, &message, app.clock.now()).await;
                    let Some(wait) = repeats.next(&sent) else {
                        break;
                    };
                    earlier.push(sent.attempt(app, began));
                    tokio::time::sleep(wait).await;
                    began = app.clock.now();
                }
                if sent.error.is_some() {
                    break;
                }
            }
        }
        Err(error) => {
            tracing::warn!(
                subscription.id = subscription.id,
                error = error.chain(),
                "A message could not be made"
            );
            sent = Sent::failed(if error.retryable() {
                "registry_unavailable"
            } else {
                "template_failed"
            });
        }
    }
    Tries {
        earlier,
        last: sent.attempt(app, began),
        retry_after_ms: sent.retry_after_ms,
    }
}

/// The repetitions that an attempt has left.
struct Repeats {
    waits: std::slice::Iter<'static, Duration>,
    until: Instant,
}

impl Repeats {
    fn of(subscription: &Subscription, may_repeat: bool) -> Self {
        let waits: &'static [Duration] = if may_repeat && subscription.format == Format::Mlflow {
            &REPEATS
        } else {
            &[]
        };
        Self {
            waits: waits.iter(),
            until: Instant::now() + REPEATS_LIMIT,
        }
    }

    /// How long to wait before the same is sent again, if it is.
    fn next(&mut self, sent: &Sent) -> Option<Duration> {
        let may_pass = match sent.status {
            Some(status) => matches!(status, 429 | 500 | 502 | 503 | 504),
            // Who hangs is left alone for longer, and what the registry lacks comes back no sooner.
            None => matches!(
                sent.error.as_deref(),
                Some(client::CONNECT_FAILED | client::REQUEST_FAILED)
            ),
        };
        if !may_pass {
            return None;
        }
        let asked = Duration::from_millis(sent.retry_after_ms.unwrap_or(0));
        let wait = (*self.waits.next()?).max(asked);
        (Instant::now() + wait < self.until).then_some(wait)
    }
}

/// Sends one message.
pub(crate) async fn send_message(
    app: &App,
    subscription: &Subscription,
    message: &Message,
    at: Timestamp,
) -> Sent {
    if subscription.format == Format::Email {
        let published = app
            .topics
            .publish(&subscription.url, &message.subject, &message.body)
            .await;
        return match published {
            Ok(id) => Sent {
                answer_start: id
                    .into_bytes()
                    .into_iter()
                    .take(LOGGED_ANSWER_BYTES)
                    .collect(),
                ..Sent::default()
            },
            Err(error) => Sent::failed(&error),
        };
    }
    let headers = match headers_of(app, subscription, message, at) {
        Ok(headers) => headers,
        Err(error) => {
            tracing::error!(
                subscription.id = subscription.id,
                error = error.chain(),
                "The secret of a subscription could not be opened"
            );
            return Sent::failed("secret_unreadable");
        }
    };
    match client::post(app, &subscription.url, headers, message.body.clone()).await {
        Ok(answer) => Sent {
            status: Some(answer.status),
            error: (!(200..300).contains(&answer.status)).then(|| "not_2xx".to_owned()),
            retry_after_ms: answer.retry_after_ms,
            answer_start: answer.start,
        },
        Err(kind) => Sent::failed(kind),
    }
}

/// The headers of both conventions, so that the libraries of either verify a delivery.
fn headers_of(
    app: &App,
    subscription: &Subscription,
    message: &Message,
    at: Timestamp,
) -> Result<HeaderMap> {
    let Message { id, body, .. } = message;
    let timestamp = at.seconds();
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, text: String| -> Result<()> {
        let value = HeaderValue::from_str(&text)
            .map_err(|error| Error::internal("writing a header", error))?;
        headers.insert(HeaderName::from_static(name), value);
        Ok(())
    };
    set("content-type", message.media_type.to_owned())?;
    set("webhook-id", id.clone())?;
    set("webhook-timestamp", timestamp.to_string())?;
    set("x-mlflow-delivery-id", id.clone())?;
    set("x-mlflow-timestamp", timestamp.to_string())?;
    let secrets = secrets_of(app, subscription, at)?;
    if let Some(newest) = secrets.first() {
        set(
            "x-mlflow-signature",
            mlflow_signature(newest, id, timestamp, body),
        )?;
        set(
            "webhook-signature",
            standard_signature(&secrets, id, timestamp, body),
        )?;
    }
    Ok(headers)
}

/// The secrets that sign at a time, the newest first.
fn secrets_of(app: &App, subscription: &Subscription, at: Timestamp) -> Result<Vec<String>> {
    let owner = secret_owner(subscription);
    let former = subscription
        .former_secret
        .iter()
        .filter(|former| at < former.until)
        .map(|former| &former.secret);
    subscription
        .secret
        .iter()
        .chain(former)
        .map(|sealed| app.sealer.open(sealed, &owner))
        .collect()
}

/// What a secret is sealed for.
pub(crate) fn secret_owner(subscription: &Subscription) -> String {
    format!("subscription/{}/{}", subscription.tenant, subscription.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::TIMED_OUT;
    use crate::dispatch::tests::subscription;

    fn answered(status: u16, retry_after_ms: Option<u64>) -> Sent {
        Sent {
            status: Some(status),
            retry_after_ms,
            ..Sent::failed("not_2xx")
        }
    }

    fn repeats(format: Format) -> Repeats {
        let mut subscription = subscription("s", &[], None);
        subscription.format = format;
        Repeats::of(&subscription, true)
    }

    #[test]
    fn a_receiver_of_mlflows_webhooks_is_asked_thrice_more_within_seconds() {
        let mut repeats = repeats(Format::Mlflow);
        let waits: Vec<_> = (0..4).map(|_| repeats.next(&answered(500, None))).collect();
        assert_eq!(
            waits,
            [Some(REPEATS[0]), Some(REPEATS[1]), Some(REPEATS[2]), None]
        );
    }

    #[test]
    fn only_what_may_pass_within_seconds_is_repeated() {
        let check = |sent: &Sent, expected: Option<u64>| {
            let wait = repeats(Format::Mlflow).next(sent);
            assert_eq!(wait, expected.map(Duration::from_millis), "{sent:?}");
        };
        for status in [429, 500, 502, 503, 504] {
            check(&answered(status, None), Some(1_000));
        }
        for status in [301, 400, 404, 410, 501] {
            check(&answered(status, None), None);
        }
        check(&answered(429, Some(2_500)), Some(2_500));
        check(&answered(429, Some(60_000)), None);
        check(&Sent::default(), None);
        check(&Sent::failed(client::CONNECT_FAILED), Some(1_000));
        check(&Sent::failed(TIMED_OUT), None);
        check(&Sent::failed("address_forbidden"), None);
    }

    #[test]
    fn other_receivers_and_tests_are_asked_once() {
        let mut cloudevents = repeats(Format::Cloudevents);
        assert_eq!(cloudevents.next(&answered(503, None)), None);
        let mut webhook = subscription("s", &[], None);
        webhook.format = Format::Mlflow;
        let mut tested = Repeats::of(&webhook, false);
        assert_eq!(tested.next(&answered(503, None)), None);
    }
}
