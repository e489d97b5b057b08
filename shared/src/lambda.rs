//! The Lambda host: one process, one function, the real Runtime API.
//!
//! A function's `main.rs` is one call of [`run`] or [`run_http`].

use crate::app::{App, Clock};
use crate::config::Config;
use crate::error::Result;
use crate::telemetry::{logs, metrics};
use axum::Router;
use lambda_http::Adapter;
use lambda_http::request::LambdaRequest;
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
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
                let payload: LambdaRequest = serde_json::from_value(event.payload)?;
                let response = adapter
                    .call(LambdaEvent::new(payload, event.context))
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
    let app = start()?;
    lambda_http::run(router(app)).await
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
    event
        .get("requestContext")
        .and_then(|context| context.get("http"))
        .is_some()
}
