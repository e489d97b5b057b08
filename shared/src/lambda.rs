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
use tower::Service as _;

/// The error that ends a function's process.
pub type HostError = lambda_runtime::Error;

/// Runs a function that answers HTTP requests and handles other events.
pub async fn run<H>(router: fn(App) -> Router, handle: H) -> Result<(), HostError>
where
    H: AsyncHandler,
{
    let app = start()?;
    let adapter = Adapter::from(router(app.clone()));
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| {
        let (app, mut adapter, handle) = (app.clone(), adapter.clone(), handle.clone());
        async move {
            if is_http(&event.payload) {
                let payload: LambdaRequest = serde_json::from_value(event.payload)?;
                let response = adapter
                    .call(LambdaEvent::new(payload, event.context))
                    .await?;
                return Ok::<Value, HostError>(serde_json::to_value(response)?);
            }
            handle
                .call(app, event.payload)
                .await
                .map_err(HostError::from)
        }
    }))
    .await
}

/// Runs a function that answers HTTP requests only.
pub async fn run_http(router: fn(App) -> Router) -> Result<(), HostError> {
    let app = start()?;
    lambda_http::run(router(app)).await
}

/// Runs a function that handles events only.
pub async fn run_events<H>(handle: H) -> Result<(), HostError>
where
    H: AsyncHandler,
{
    let app = start()?;
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| {
        let (app, handle) = (app.clone(), handle.clone());
        async move {
            handle
                .call(app, event.payload)
                .await
                .map_err(HostError::from)
        }
    }))
    .await
}

/// A function's event handler: `async fn handle(app: App, event: Value) -> Result<Value>`.
pub trait AsyncHandler: Clone + Send + Sync + 'static {
    /// Handles one event.
    fn call(&self, app: App, event: Value) -> impl Future<Output = Result<Value>> + Send;
}

impl<F, Fut> AsyncHandler for F
where
    F: Fn(App, Value) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Value>> + Send,
{
    fn call(&self, app: App, event: Value) -> impl Future<Output = Result<Value>> + Send {
        self(app, event)
    }
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
