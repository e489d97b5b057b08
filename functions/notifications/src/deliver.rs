//! Sending deliveries: one signed POST per attempt, and what each attempt means for the delivery.
//!
//! Nothing here fails its caller: a delivery that could not be sent, or whose attempt could not be recorded, is still due.

use crate::address::{PublicResolver, Refused, parse_url};
use crate::sign::signature;
use futures::StreamExt as _;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response};
use shared::domain::subscription::{Attempt, DeliveryStatus, MAX_ATTEMPTS, retry_delay_ms};
use shared::domain::{Delivery, Event, EventType, Subscription, Timestamp};
use shared::telemetry::metrics::{Unit, emit};
use shared::{App, Error, Result, check_token};
use std::collections::{BTreeMap, HashMap};
use std::error::Error as StdError;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::Instant;

/// How long one attempt may take.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// How long the body of an answer may take: its status has decided already.
const BODY_TIME_LIMIT: Duration = Duration::from_secs(2);
/// How much of an answer is read, in bytes; reading it to its end lets the connection be used again.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// How much of an answer the test of a subscription shows, in bytes.
const SHOWN_ANSWER_BYTES: usize = 200;
/// Most that a receiver may put off the next attempt, in milliseconds.
const MAX_RETRY_AFTER_MILLIS: u64 = 4 * 3_600_000;
/// Most subscriptions that are sent to at the same time.
const CONCURRENT_SUBSCRIPTIONS: usize = 16;
/// After this, what is left of a batch waits for the sweep.
const BATCH_TIME_LIMIT: Duration = Duration::from_secs(25);
/// How long a receiver that hangs is left to the sweep, in milliseconds, so that it does not hold up the stream.
const HANG_MILLIS: u64 = 60_000;

/// The error kind of an attempt that took too long.
const TIMED_OUT: &str = "timed_out";
/// The error kind of an attempt that was not made, because the receiver hung in the one before.
const NOT_SENT: &str = "not_sent_after_timeout";

/// A delivery with all that its sending needs.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    /// Where to.
    pub(crate) subscription: Subscription,
    /// The delivery as it was read or written last.
    pub(crate) delivery: Delivery,
    /// The event.
    pub(crate) event: Event,
}

/// What an attempt found.
#[derive(Debug)]
pub(crate) struct Attempted {
    /// The attempt as it is recorded.
    pub(crate) attempt: Attempt,
    /// The first bytes of the answer; for the subscription's owner, never for the log.
    pub(crate) answer_start: Vec<u8>,
}

/// Sends deliveries of events that were just dispatched; receivers that hang are left to the sweep.
pub(crate) async fn send_fresh(app: &App, outgoing: Vec<Outgoing>) {
    let now = app.clock.now();
    let outgoing = outgoing
        .into_iter()
        .filter(|one| !hangs(&one.subscription.id, now))
        .collect();
    send_all(app, outgoing).await;
}

/// Sends deliveries, those of one subscription in order, those of several at the same time.
pub(crate) async fn send_all(app: &App, outgoing: Vec<Outgoing>) {
    let mut groups: BTreeMap<String, Vec<Outgoing>> = BTreeMap::new();
    for one in outgoing {
        groups
            .entry(one.subscription.id.clone())
            .or_default()
            .push(one);
    }
    let deadline = Instant::now() + BATCH_TIME_LIMIT;
    let sends: Vec<_> = groups
        .into_values()
        .map(|group| send_group(app.clone(), group, deadline))
        .collect();
    futures::stream::iter(sends)
        .buffer_unordered(CONCURRENT_SUBSCRIPTIONS)
        .collect::<()>()
        .await;
}

/// Sends the deliveries of one subscription.
///
/// After a timeout the rest counts as tried: a receiver that hangs takes one time limit, not one for each delivery.
async fn send_group(app: App, group: Vec<Outgoing>, deadline: Instant) {
    let mut is_hanging = false;
    for one in group {
        if Instant::now() >= deadline {
            return;
        }
        let outcome = if is_hanging {
            skip(&app, &one).await
        } else {
            attempt(&app, &one).await.map(|attempted| {
                is_hanging = attempted.attempt.error.as_deref() == Some(TIMED_OUT);
            })
        };
        if let Err(error) = outcome {
            tracing::warn!(
                event.id = one.event.id,
                subscription.id = one.subscription.id,
                error = error.chain(),
                "An attempt could not be recorded; the sweep tries the delivery again"
            );
        }
    }
}

/// Makes one attempt and records it.
pub(crate) async fn attempt(app: &App, outgoing: &Outgoing) -> Result<Attempted> {
    let at = app.clock.now();
    let sent = post(app, outgoing, at).await;
    let ended = app.clock.now();
    let (status, retry_after_ms, answer_start) = match &sent {
        Ok(answer) => (
            Some(answer.status),
            answer.retry_after_ms,
            answer.start.clone(),
        ),
        Err(_) => (None, None, Vec::new()),
    };
    let error = match &sent {
        Ok(answer) if is_success(answer.status) => None,
        Ok(_) => Some("not_2xx"),
        Err(kind) => Some(*kind),
    };
    if error == Some(TIMED_OUT) {
        remember_hang(&outgoing.subscription.id, ended.plus_millis(HANG_MILLIS));
    }
    let attempt = Attempt {
        at,
        duration_ms: ended.since(at),
        status,
        error: error.map(str::to_owned),
    };
    let after = after_attempt(
        &outgoing.delivery,
        attempt.clone(),
        is_tried_once(&outgoing.event),
        jittered(app, retry_delay_ms(count(&outgoing.delivery) + 1)),
        retry_after_ms,
    );
    record(app, outgoing, &after).await?;
    Ok(Attempted {
        attempt,
        answer_start,
    })
}

/// Records that a delivery was not sent because its receiver hung a moment ago.
async fn skip(app: &App, outgoing: &Outgoing) -> Result<()> {
    let attempt = Attempt {
        at: app.clock.now(),
        duration_ms: 0,
        status: None,
        error: Some(NOT_SENT.to_owned()),
    };
    let delay_ms = jittered(app, retry_delay_ms(count(&outgoing.delivery) + 1));
    let after = after_attempt(
        &outgoing.delivery,
        attempt,
        is_tried_once(&outgoing.event),
        delay_ms,
        None,
    );
    record(app, outgoing, &after).await
}

/// Gives a delivery up whose subscription was deleted.
pub(crate) async fn give_up(app: &App, delivery: &Delivery, event: &Event) -> Result<()> {
    let after = Delivery {
        status: DeliveryStatus::Exhausted,
        ..delivery.clone()
    };
    app.registry
        .record_attempt(&event.tenant, delivery, &after, event)
        .await?;
    tracing::info!(
        event.id = event.id,
        subscription.id = delivery.subscription_id,
        "Gave a delivery up, its subscription was deleted"
    );
    Ok(())
}

async fn record(app: &App, outgoing: &Outgoing, after: &Delivery) -> Result<()> {
    let Outgoing {
        subscription,
        delivery,
        event,
    } = outgoing;
    let is_first = app
        .registry
        .record_attempt(&event.tenant, delivery, after, event)
        .await?;
    if !is_first {
        tracing::info!(
            event.id = event.id,
            subscription.id = subscription.id,
            "A delivery was attempted twice at the same time; the other attempt is recorded"
        );
        return Ok(());
    }
    let Some(attempt) = after.attempts.last() else {
        return Ok(());
    };
    let is_exhausted = after.status == DeliveryStatus::Exhausted;
    let is_delivered = after.status == DeliveryStatus::Delivered;
    emit(
        &app.config.function,
        &[
            ("deliveries_sent", Unit::Count, u64::from(is_delivered)),
            ("deliveries_failed", Unit::Count, u64::from(!is_delivered)),
            ("deliveries_exhausted", Unit::Count, u64::from(is_exhausted)),
            (
                "delivery_duration_ms",
                Unit::Milliseconds,
                attempt.duration_ms,
            ),
        ],
    );
    let number = after.attempts.len();
    if is_delivered {
        tracing::info!(
            event.id = event.id,
            subscription.id = subscription.id,
            request.id = event.request_id,
            status = attempt.status,
            duration_ms = attempt.duration_ms,
            "Delivered an event of type {} at attempt {number}",
            event.kind
        );
    } else {
        let error = attempt.error.as_deref().unwrap_or_default();
        tracing::warn!(
            event.id = event.id,
            subscription.id = subscription.id,
            request.id = event.request_id,
            status = attempt.status,
            error,
            duration_ms = attempt.duration_ms,
            exhausted = is_exhausted,
            "Attempt {number} to deliver an event of type {} failed: {error}",
            event.kind
        );
    }
    Ok(())
}

/// A delivery after one more attempt.
///
/// `delay_ms` is how long to wait after a failure; the receiver may ask for longer, within bounds.
fn after_attempt(
    before: &Delivery,
    attempt: Attempt,
    is_tried_once: bool,
    delay_ms: u64,
    retry_after_ms: Option<u64>,
) -> Delivery {
    let mut after = before.clone();
    let ended = attempt.at.plus_millis(attempt.duration_ms);
    let status = attempt.status;
    after.attempts.push(attempt);
    if status.is_some_and(is_success) {
        after.status = DeliveryStatus::Delivered;
    } else if status == Some(410) || is_tried_once || count(&after) >= MAX_ATTEMPTS {
        // 410 Gone is how a receiver says that it wants no more.
        after.status = DeliveryStatus::Exhausted;
    } else {
        let asked_ms = retry_after_ms.unwrap_or(0).min(MAX_RETRY_AFTER_MILLIS);
        after.due_at = ended.plus_millis(delay_ms.max(asked_ms));
    }
    after
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Whoever tests a subscription waits for the answer, so that a test is not tried again.
fn is_tried_once(event: &Event) -> bool {
    event.kind == EventType::SubscriptionTested
}

fn count(delivery: &Delivery) -> u32 {
    u32::try_from(delivery.attempts.len()).unwrap_or(u32::MAX)
}

/// Shortens a delay by up to 15 %, so that deliveries that failed together do not come back together.
///
/// Shortened this much, [`MAX_ATTEMPTS`] attempts still span a day.
fn jittered(app: &App, delay_ms: u64) -> u64 {
    let random = u64::from(u16::from_le_bytes(app.ids.secret()));
    delay_ms - delay_ms * 15 / 100 * random / u64::from(u16::MAX)
}

// ---- the request ----

/// What a receiver answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    retry_after_ms: Option<u64>,
    start: Vec<u8>,
}

/// Posts an event; the error is a word for the delivery log that holds nothing of URL, secret or body.
async fn post(app: &App, outgoing: &Outgoing, at: Timestamp) -> Result<Answer, &'static str> {
    let Outgoing {
        subscription,
        event,
        ..
    } = outgoing;
    let allow_loopback = app.config.allow_loopback_webhooks;
    // Checked again, because rules may have changed since, and because addresses in URLs are not resolved.
    let url = parse_url(&subscription.url, allow_loopback).map_err(|_| "address_forbidden")?;
    let body = check_token::to_delivered_wire(&app.config, event).to_string();
    let timestamp = at.seconds();
    let signed = signature(&subscription.secret, &event.id, timestamp, &body)
        .map_err(|_| "secret_unreadable")?;
    let client = client(allow_loopback).map_err(|error| {
        tracing::error!(error = error.chain(), "The HTTP client could not be built");
        "request_failed"
    })?;
    let mut response = client
        .post(url)
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", &event.id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", signed)
        .body(body)
        .send()
        .await
        .map_err(|error| error_kind(&error))?;
    let status = response.status().as_u16();
    let retry_after_ms = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| parse_retry_after(value, app.clock.now()));
    // A body that hangs, breaks off or never ends changes nothing: the status has decided.
    let start = tokio::time::timeout(BODY_TIME_LIMIT, read_bounded(&mut response))
        .await
        .unwrap_or_default();
    Ok(Answer {
        status,
        retry_after_ms,
        start,
    })
}

/// Reads an answer as far as its bound, and keeps its first bytes.
async fn read_bounded(response: &mut Response) -> Vec<u8> {
    let (mut start, mut read) = (Vec::new(), 0);
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        let room = SHOWN_ANSWER_BYTES - start.len();
        start.extend(chunk.iter().take(room));
        if read >= MAX_ANSWER_BYTES {
            break;
        }
    }
    start
}

/// Milliseconds that `Retry-After` asks to wait: seconds, or a date.
fn parse_retry_after(value: &str, now: Timestamp) -> Option<u64> {
    if let Ok(seconds) = value.trim().parse::<u64>() {
        return Some(seconds.saturating_mul(1000));
    }
    let date = OffsetDateTime::parse(value.trim(), &Rfc2822).ok()?;
    let millis = u64::try_from(date.unix_timestamp())
        .ok()?
        .checked_mul(1000)?;
    Some(Timestamp::from_millis(millis).since(now))
}

/// The word for what went wrong with a request; details would show its URL.
fn error_kind(error: &reqwest::Error) -> &'static str {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(inner) = cause {
        match inner.downcast_ref::<Refused>() {
            Some(Refused::Forbidden) => return "address_forbidden",
            Some(Refused::UnknownHost) => return "unknown_host",
            None => {}
        }
        // `source` of an I/O error passes over the error that it wraps.
        let wrapped = inner
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .and_then(|wrapped| wrapped.downcast_ref::<rustls::Error>());
        if wrapped.is_some() || inner.is::<rustls::Error>() {
            return "tls_failed";
        }
        cause = inner.source();
    }
    if error.is_timeout() {
        TIMED_OUT
    } else if error.is_connect() {
        "connect_failed"
    } else {
        "request_failed"
    }
}

/// The HTTP client, built at first use: most invocations send nothing, and the roots take time to read.
fn client(allow_loopback: bool) -> Result<Client> {
    static PUBLIC: OnceLock<Client> = OnceLock::new();
    static LOOPBACK: OnceLock<Client> = OnceLock::new();
    let cell = if allow_loopback { &LOOPBACK } else { &PUBLIC };
    if let Some(client) = cell.get() {
        return Ok(client.clone());
    }
    let client = build_client(allow_loopback)?;
    Ok(cell.get_or_init(|| client).clone())
}

fn build_client(allow_loopback: bool) -> Result<Client> {
    let failed = |error: Box<dyn StdError + Send + Sync>| {
        Error::internal("building the HTTP client for deliveries", error)
    };
    // Receivers are anywhere, so that this client trusts all of Mozilla's roots, not Amazon's only.
    let roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.into()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .dns_resolver(PublicResolver { allow_loopback })
        .https_only(!allow_loopback)
        // A proxy would resolve names itself, past the checks.
        .no_proxy()
        // A redirect would lead past the checks, and a signed body to where nobody subscribed.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .timeout(TIME_LIMIT)
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(4)
        .user_agent("Slipway-Webhook/1")
        .build()
        .map_err(|error| failed(error.into()))
}

// ---- receivers that hang ----

/// Until when each subscription's receiver counts as hanging; only what this process found.
static HANGING: Mutex<Option<HashMap<String, Timestamp>>> = Mutex::new(None);

fn remember_hang(subscription_id: &str, until: Timestamp) {
    let mut hanging = HANGING.lock().unwrap_or_else(PoisonError::into_inner);
    let hanging = hanging.get_or_insert_default();
    if hanging.len() >= 10_000 {
        hanging.clear();
    }
    hanging.insert(subscription_id.to_owned(), until);
}

fn hangs(subscription_id: &str, now: Timestamp) -> bool {
    HANGING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .as_ref()
        .and_then(|hanging| hanging.get(subscription_id))
        .is_some_and(|until| now < *until)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(attempts: u32) -> Delivery {
        let attempt = failed(Some(500));
        Delivery {
            event_id: "e".into(),
            subscription_id: "s".into(),
            status: DeliveryStatus::Pending,
            due_at: Timestamp::from_millis(0),
            attempts: (0..attempts).map(|_| attempt.clone()).collect(),
        }
    }

    fn failed(status: Option<u16>) -> Attempt {
        Attempt {
            at: Timestamp::from_millis(1_000),
            duration_ms: 500,
            status,
            error: Some("not_2xx".into()),
        }
    }

    #[test]
    fn an_attempt_decides_what_becomes_of_a_delivery() {
        use DeliveryStatus::{Delivered, Exhausted, Pending};
        let check = |before: u32, status: Option<u16>, expected: DeliveryStatus| {
            let after = after_attempt(&delivery(before), failed(status), false, 60_000, None);
            assert_eq!(after.status, expected, "{status:?} after {before} attempts");
            assert_eq!(count(&after), before + 1);
        };
        check(0, Some(200), Delivered);
        check(0, Some(204), Delivered);
        check(MAX_ATTEMPTS - 1, Some(299), Delivered);
        check(0, Some(301), Pending);
        check(0, Some(404), Pending);
        check(0, Some(500), Pending);
        check(0, None, Pending);
        check(0, Some(410), Exhausted);
        check(MAX_ATTEMPTS - 2, None, Pending);
        check(MAX_ATTEMPTS - 1, None, Exhausted);
        let tested = after_attempt(&delivery(0), failed(None), true, 60_000, None);
        assert_eq!(tested.status, Exhausted);
    }

    #[test]
    fn a_receiver_may_ask_for_more_time_within_bounds() {
        let due = |retry_after_ms| {
            after_attempt(
                &delivery(0),
                failed(Some(503)),
                false,
                60_000,
                retry_after_ms,
            )
            .due_at
            .millis()
        };
        assert_eq!(due(None), 61_500);
        assert_eq!(due(Some(1_000)), 61_500);
        assert_eq!(due(Some(120_000)), 121_500);
        assert_eq!(due(Some(u64::MAX)), 1_500 + MAX_RETRY_AFTER_MILLIS);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Timestamp::from_millis(1_445_412_420_000);
        let check = |value: &str, expected: Option<u64>| {
            assert_eq!(parse_retry_after(value, now), expected, "{value}");
        };
        check("120", Some(120_000));
        check(" 0 ", Some(0));
        check("Wed, 21 Oct 2015 07:28:00 GMT", Some(60_000));
        check("Wed, 21 Oct 2015 07:00:00 GMT", Some(0));
        check("soon", None);
        check("-1", None);
    }

    #[test]
    fn a_receiver_that_hangs_is_left_alone_for_a_while() {
        remember_hang("slow", Timestamp::from_millis(100));
        assert!(hangs("slow", Timestamp::from_millis(99)));
        assert!(!hangs("slow", Timestamp::from_millis(100)));
        assert!(!hangs("quick", Timestamp::from_millis(99)));
    }

    // ---- against receivers on this machine ----

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    fn app() -> App {
        let config = shared::config::Config::from_lookup(&|name| {
            // What is not needed keeps its default.
            match name {
                "AWS_REGION" => Some("local".to_owned()),
                "ALLOW_LOOPBACK_WEBHOOKS" => Some("true".to_owned()),
                "TABLE_NAME"
                | "BUCKET_NAME"
                | "CURSOR_SECRET"
                | "AWS_ACCESS_KEY_ID"
                | "AWS_SECRET_ACCESS_KEY" => Some("x".to_owned()),
                _ => None,
            }
        });
        let clock = shared::app::Clock::fixed(Timestamp::from_millis(1_614_265_330_999));
        App::new(config.unwrap(), clock, &[])
    }

    /// Sends to a receiver that answers these bytes; what became of it, and the request as the receiver saw it.
    async fn send_to(host: &str, answer: &'static [u8]) -> (Result<Answer, &'static str>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let receiver = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            // The body is JSON and ends with the object.
            while !seen.ends_with(b"}") {
                let mut buffer = [0; 4096];
                let read = stream.read(&mut buffer).await.unwrap();
                seen.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(seen).unwrap()
        });
        let mut outgoing = outgoing();
        outgoing.subscription.url = format!("http://{host}:{port}/hook?token=x");
        let app = app();
        let sent = post(&app, &outgoing, app.clock.now()).await;
        if sent.is_err() {
            receiver.abort();
        }
        (sent, receiver.await.unwrap_or_default())
    }

    fn outgoing() -> Outgoing {
        use crate::dispatch::tests::{event, subscription};
        Outgoing {
            subscription: subscription("s", &[], None),
            delivery: delivery(0),
            event: event(EventType::AliasSet, Some("iris")),
        }
    }

    #[tokio::test]
    async fn a_delivery_is_a_signed_post() {
        for host in ["127.0.0.1", "localhost"] {
            let (sent, seen) =
                send_to(host, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            let answer = sent.unwrap();
            assert_eq!((answer.status, answer.start.as_slice()), (200, &b"ok"[..]));
            let (head, body) = seen.split_once("\r\n\r\n").unwrap();
            let one = outgoing();
            assert_eq!(body, one.event.to_wire().to_string());
            let signed =
                signature(&one.subscription.secret, &one.event.id, 1_614_265_330, body).unwrap();
            for line in [
                "POST /hook?token=x HTTP/1.1".to_owned(),
                format!("webhook-id: {}", one.event.id),
                "webhook-timestamp: 1614265330".to_owned(),
                format!("webhook-signature: {signed}"),
                "content-type: application/json".to_owned(),
                "user-agent: Slipway-Webhook/1".to_owned(),
            ] {
                assert!(head.lines().any(|other| other == line), "{line} in {head}");
            }
        }
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_not_followed() {
        let (sent, _) = send_to(
            "127.0.0.1",
            b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        assert_eq!(sent.unwrap().status, 302);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_does_not_undo_a_status() {
        let (sent, _) = send_to(
            "127.0.0.1",
            b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 1000000\r\n\r\npart",
        )
        .await;
        let answer = sent.unwrap();
        assert_eq!((answer.status, answer.retry_after_ms), (503, Some(7_000)));
    }

    #[tokio::test]
    async fn an_answer_that_is_no_http_is_a_failure() {
        let (sent, _) = send_to("127.0.0.1", b"no HTTP\r\n\r\n").await;
        assert_eq!(sent.unwrap_err(), "request_failed");
    }

    #[tokio::test]
    async fn what_cannot_be_reached_has_a_word() {
        let app = app();
        let free_port = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        for (url, expected) in [
            (format!("http://127.0.0.1:{free_port}/"), "connect_failed"),
            ("http://10.0.0.1/".to_owned(), "address_forbidden"),
            (
                "https://[::ffff:169.254.169.254]/".to_owned(),
                "address_forbidden",
            ),
        ] {
            let mut one = outgoing();
            one.subscription.url = url.clone();
            let kind = post(&app, &one, app.clock.now()).await.unwrap_err();
            assert_eq!(kind, expected, "{url}");
        }
    }
}
