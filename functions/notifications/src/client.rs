//! One POST to an endpoint: bounded in time and size, without redirects, to checked addresses only.

use crate::address::{PublicResolver, Refused, parse_url};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Response};
use shared::domain::Timestamp;
use shared::{App, Error, Result};
use std::error::Error as StdError;
use std::sync::OnceLock;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// How long one attempt may take.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// How long the body of an answer may take: its status has decided already.
const BODY_TIME_LIMIT: Duration = Duration::from_secs(2);
/// How much of an answer is read, in bytes; reading it to its end lets the connection be used again.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// How much of an answer the log keeps, in bytes.
pub(crate) const LOGGED_ANSWER_BYTES: usize = 200;

/// The error kind of an attempt that took too long.
pub(crate) const TIMED_OUT: &str = "timed_out";
/// The error where there is no connection.
pub(crate) const CONNECT_FAILED: &str = "connect_failed";
/// The error where the connection broke, or the answer is no HTTP.
pub(crate) const REQUEST_FAILED: &str = "request_failed";

/// What a receiver answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    /// How long it asks to wait, in milliseconds.
    pub(crate) retry_after_ms: Option<u64>,
    /// The first bytes of the body.
    pub(crate) start: Vec<u8>,
}

/// Posts a body; the error is a word for the delivery log that holds nothing of URL, secret or body.
pub(crate) async fn post(
    app: &App,
    url: &str,
    headers: HeaderMap,
    body: String,
) -> Result<Answer, &'static str> {
    let allow_loopback = app.config.allow_loopback_webhooks;
    // Checked again, because rules may have changed since, and because addresses in URLs are not resolved.
    let url = parse_url(url, allow_loopback).map_err(|_| "address_forbidden")?;
    let client = client(allow_loopback).map_err(|error| {
        tracing::error!(error = error.chain(), "The HTTP client could not be built");
        REQUEST_FAILED
    })?;
    let mut response = client
        .post(url)
        .headers(headers)
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
    let mut start = Vec::new();
    let _ = tokio::time::timeout(BODY_TIME_LIMIT, read_bounded(&mut response, &mut start)).await;
    Ok(Answer {
        status,
        retry_after_ms,
        start,
    })
}

/// Reads an answer as far as its bound, and keeps its first bytes.
async fn read_bounded(response: &mut Response, start: &mut Vec<u8>) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        let room = LOGGED_ANSWER_BYTES - start.len();
        start.extend(chunk.iter().take(room));
        if read >= MAX_ANSWER_BYTES {
            break;
        }
    }
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
        CONNECT_FAILED
    } else {
        REQUEST_FAILED
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
    let client = build_client(PublicResolver::of_the_system(allow_loopback))?;
    Ok(cell.get_or_init(|| client).clone())
}

pub(crate) fn build_client(resolver: PublicResolver) -> Result<Client> {
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
        .https_only(!resolver.allow_loopback)
        .dns_resolver(resolver)
        // A proxy would resolve names itself, past the checks.
        .no_proxy()
        // A redirect would lead past the checks, and a signed body to where nobody subscribed.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .timeout(TIME_LIMIT)
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(8)
        .user_agent("Slipway-Webhook/1")
        .build()
        .map_err(|error| failed(error.into()))
}

#[cfg(test)]
pub(crate) mod tests;
