//! The Lambda host: one process, one function, the real Runtime API.
//!
//! A function's `main.rs` is one call of [`run`] or [`run_http`].

use crate::app::{App, Clock};
use crate::config::Config;
use crate::error::{Error, ErrorCode, Result};
use crate::http::Edge;
use crate::http::reply::envelope;
use crate::telemetry::{logs, metrics};
use axum::Router;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lambda_http::Adapter;
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use lambda_http::request::LambdaRequest;
use lambda_runtime::{LambdaEvent, service_fn};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};
use std::pin::Pin;
use tower::Service as _;

/// The error that ends a function's process.
pub type HostError = lambda_runtime::Error;

/// A future on the heap: handlers are deep, and the compiler lays out what is not boxed as one type.
type Boxed = Pin<Box<dyn Future<Output = Result<Value, HostError>>>>;

/// Runs a function that answers HTTP requests and handles other events.
///
/// `handle` is a function's `async fn handle(app: App, event: Value) -> Result<Value>`.
pub async fn run<H, Fut>(router: fn(App) -> Router, handle: H) -> Result<(), HostError>
where
    H: Fn(App, Value) -> Fut,
    Fut: Future<Output = Result<Value>> + Send + 'static,
{
    let app = start()?;
    let adapter = Adapter::from(router(app.clone()));
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| -> Boxed {
        if is_http(&event.payload) {
            let mut adapter = adapter.clone();
            return Box::pin(async move {
                let request_id = event.context.request_id.clone();
                let edge = Edge::of(
                    event
                        .payload
                        .get("rawPath")
                        .and_then(Value::as_str)
                        .unwrap_or_default(),
                );
                let request = match request_of(event.payload) {
                    Ok(request) => request,
                    Err(error) => return Ok(refusal(edge, &error, &request_id)),
                };
                let response = adapter
                    .call(LambdaEvent::new(request, event.context))
                    .await?;
                Ok(serde_json::to_value(response)?)
            });
        }
        boxed(handle(app.clone(), event.payload))
    }))
    .await
}

/// Runs a function that answers HTTP requests only.
pub async fn run_http(router: fn(App) -> Router) -> Result<(), HostError> {
    run(router, |_, _| async {
        Err(Error::new(
            ErrorCode::InvalidArgument,
            "the event is no HTTP request, and this function takes no other; see its card",
        ))
    })
    .await
}

/// Runs a function that handles events only.
pub async fn run_events<H, Fut>(handle: H) -> Result<(), HostError>
where
    H: Fn(App, Value) -> Fut,
    Fut: Future<Output = Result<Value>> + Send + 'static,
{
    let app = start()?;
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| -> Boxed {
        boxed(handle(app.clone(), event.payload))
    }))
    .await
}

fn boxed(handled: impl Future<Output = Result<Value>> + Send + 'static) -> Boxed {
    Box::pin(async move { handled.await.map_err(HostError::from) })
}

fn start() -> Result<App, HostError> {
    logs::start_json();
    metrics::enable();
    Ok(App::new(Config::from_env()?, Clock::system(), &[]))
}

fn is_http(event: &Value) -> bool {
    // The gateway asks an authorizer with the same context, and names the route that is asked for.
    event.get("routeArn").is_none()
        && event
            .get("requestContext")
            .and_then(|context| context.get("http"))
            .is_some()
}

/// What a path of HTTP may not contain as it is, besides what a URL parser would take for something else.
const OUTSIDE_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// What a query of HTTP may not contain as it is.
const OUTSIDE_QUERY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'`');

/// Reads the gateway's event, so that whatever a client sent becomes a request that the router can answer.
fn request_of(mut event: Value) -> Result<LambdaRequest> {
    // The adapter makes a URL of host and path, and panics if it is none; a challenge names the host, from another header.
    if let Some(Value::Object(headers)) = event.get_mut("headers") {
        headers.retain(|name, _| !name.eq_ignore_ascii_case("x-forwarded-host"));
        if let Some(host) = headers.remove("host") {
            headers.insert("x-forwarded-host".to_owned(), host);
        }
        headers.retain(|name, _| !name.eq_ignore_ascii_case("host"));
    }
    if let Some(domain) = event.pointer_mut("/requestContext/domainName") {
        *domain = Value::Null;
    }
    // An HTTP API decodes the path before it hands it on. `#`, `\` and a bare `%` would change its meaning, or be no
    // path at all; and an adapter that cannot build a URI panics.
    for (field, set) in [("rawPath", OUTSIDE_PATH), ("rawQueryString", OUTSIDE_QUERY)] {
        if let Some(Value::String(text)) = event.get_mut(field) {
            *text = encoded(text, set);
        }
    }
    if let Some(Value::String(path)) = event.get_mut("rawPath")
        && !path.starts_with('/')
    {
        path.insert(0, '/');
    }
    if event.get("isBase64Encoded") == Some(&Value::Bool(true)) {
        let body = event
            .get("body")
            .and_then(Value::as_str)
            .unwrap_or_default();
        STANDARD.decode(body).map_err(|error| {
            Error::new(
                ErrorCode::MalformedBody,
                "the body is marked as base64 and is none; send it again",
            )
            .caused_by(error)
        })?;
    }
    serde_json::from_value::<ApiGatewayV2httpRequest>(event)
        .map(LambdaRequest::ApiGatewayV2)
        .map_err(|error| {
            Error::new(
                ErrorCode::InvalidArgument,
                "the event is no request of an HTTP API in payload format 2.0; check the integration",
            )
            .caused_by(error)
        })
}

/// Encodes what may not stand as it is, and every `%` that does not begin an escape of a character.
fn encoded(text: &str, set: &'static AsciiSet) -> String {
    let mut whole = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (escapes, after) = rest.split_at(length_of_escapes(rest));
        // Bytes that are no character can be in no path: such an escape is part of a name, such as of `50%c4`.
        if percent_decode_str(escapes).decode_utf8().is_ok() {
            whole.push_str(escapes);
        } else {
            whole.push_str(&escapes.replace('%', "%25"));
        }
        let next = after.find('%').unwrap_or(after.len());
        if escapes.is_empty() && next == 0 {
            whole.push_str("%25");
            rest = &after[1..];
        } else {
            whole.extend(utf8_percent_encode(&after[..next], set));
            rest = &after[next..];
        }
    }
    whole
}

/// How many bytes at the beginning of a text are escapes, one after the other.
fn length_of_escapes(text: &str) -> usize {
    let is_escape = |bytes: &&[u8]| match bytes {
        [b'%', high, low] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
        _ => false,
    };
    3 * text.as_bytes().chunks(3).take_while(is_escape).count()
}

/// The answer, as the gateway wants it, to what never became a request.
fn refusal(edge: Edge, error: &Error, request_id: &str) -> Value {
    tracing::warn!(
        request.id = request_id,
        error = error.chain(),
        code = error.code.as_str(),
        "An event of the gateway was refused"
    );
    let (status, body) = match edge {
        Edge::Native => (error.code.status(), envelope(error, request_id)),
        Edge::Mlflow => crate::mlflow::error::envelope(error),
        Edge::Oci => crate::oci::error::envelope(error),
    };
    json!({
        "statusCode": status,
        "headers": {"content-type": "application/json", "x-request-id": request_id},
        "body": body.to_string(),
        "isBase64Encoded": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoded_path_is_encoded_again_and_an_encoded_one_is_kept() {
        for (raw, expected) in [
            ("/v1/models/iris", "/v1/models/iris"),
            ("/v1/models/a b", "/v1/models/a%20b"),
            ("/v1/models/a%20b", "/v1/models/a%20b"),
            ("/v1/models/100% #1\\?", "/v1/models/100%25%20%231%5C%3F"),
            ("/v1/models/50%", "/v1/models/50%25"),
            ("/v1/models/50%%", "/v1/models/50%25%25"),
            ("/v1/models/50%c4", "/v1/models/50%25c4"),
            ("/v1/models/%c3%a4%c4x", "/v1/models/%25c3%25a4%25c4x"),
            ("/v1/models/%c3%a4 検%", "/v1/models/%c3%a4%20%E6%A4%9C%25"),
            ("/a/dog%step%100%17", "/a/dog%25step%100%17"),
            ("/v1/models/検", "/v1/models/%E6%A4%9C"),
        ] {
            assert_eq!(encoded(raw, OUTSIDE_PATH), expected);
        }
        assert_eq!(encoded("a=<b>&c=%3C", OUTSIDE_QUERY), "a=%3Cb%3E&c=%3C");
    }
}
