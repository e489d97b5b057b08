//! Routes as data, and the layers around every one of them.

use crate::app::App;
use crate::domain::TenantName;
use crate::error::{Error, ErrorCode, Result};
use crate::http::body::MAX_BODY_BYTES;
use crate::http::caller::{Caller, groups_of, idempotency_of, principal_of};
use crate::http::reply::{Failed, render_error};
use crate::telemetry::metrics;
use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::handler::Handler;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use futures::FutureExt as _;
use http::{HeaderValue, Method, Uri};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use lambda_http::request::RequestContext;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tower::ServiceExt as _;
use tracing::Instrument as _;

/// One route of a function.
#[derive(Clone)]
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path, such as `/v1/models/{model}`, without a tenant prefix.
    pub path: &'static str,
    handler: MethodRouter<App>,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.method, self.path)
    }
}

macro_rules! route_functions {
    ($($name:ident $method:ident,)*) => {$(
        #[doc = concat!("A route for ", stringify!($method), ".")]
        pub fn $name<H, T>(path: &'static str, handler: H) -> Route
        where
            H: Handler<T, App>,
            T: 'static,
        {
            Route { method: Method::$method, path, handler: on(MethodFilter::$method, handler) }
        }
    )*};
}

route_functions! {
    get GET,
    post POST,
    put PUT,
    patch PATCH,
    delete DELETE,
}

/// Mounts routes, with and without the tenant prefix `/t/{tenant}`, behind all layers.
pub fn mount(app: App, routes: Vec<Route>) -> Router {
    let mut inner = Router::new();
    for route in routes {
        inner = inner.route(route.path, route.handler);
    }
    let inner = inner
        .method_not_allowed_fallback(|| async {
            Error::new(
                ErrorCode::MethodNotAllowed,
                "the route does not take this method; see `/v1/openapi.json`",
            )
        })
        .fallback(|uri: Uri| async move {
            Error::new(
                ErrorCode::RouteNotFound,
                format!(
                    "there is no route `{}`; see `/v1/openapi.json`",
                    uri.path()
                        .chars()
                        .take(80)
                        .flat_map(char::escape_debug)
                        .collect::<String>()
                ),
            )
        })
        .layer(axum::middleware::from_fn(remember_route))
        .with_state(app.clone());
    let edge = tower::service_fn(move |request: Request| {
        let (app, inner) = (app.clone(), inner.clone());
        async move { Ok::<_, Infallible>(serve(app, inner, request).await) }
    });
    Router::new().fallback_service(edge)
}

/// The route that answered, for the log.
#[derive(Debug, Clone)]
struct Answered(String);

async fn remember_route(request: Request, next: axum::middleware::Next) -> Response {
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let mut response = next.run(request).await;
    if let Some(path) = path {
        response.extensions_mut().insert(Answered(path));
    }
    response
}

async fn serve(app: App, inner: Router, request: Request) -> Response {
    let started = app.clock.now();
    let method = request.method().clone();
    let request_id = request_id_of(&app, &request);
    let span = tracing::info_span!("request", request.id = %request_id);
    let answer =
        AssertUnwindSafe(prepared(&app, inner, request, &request_id).instrument(span.clone()))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| {
                Error::internal("answering a request", "the handler panicked").into_response()
            });
    let _entered = span.enter();
    let route = answer
        .extensions()
        .get::<Answered>()
        .map_or_else(|| "-".to_owned(), |route| route.0.clone());
    let failed = answer
        .extensions()
        .get::<Failed>()
        .map(|failed| Arc::clone(&failed.0));
    let mut answer = match &failed {
        Some(error) => render_error(error, &request_id),
        None => answer,
    };
    let status = answer.status().as_u16();
    let duration_ms = app.clock.now().since(started);
    match &failed {
        Some(error) if status >= 500 => {
            tracing::error!(%method, route, status, duration_ms, error = error.chain(), "{method} {route} failed");
        }
        Some(error) => {
            tracing::info!(%method, route, status, duration_ms, code = error.code.as_str(), "{method} {route} answered {status}");
        }
        None => {
            tracing::info!(%method, route, status, duration_ms, "{method} {route} answered {status}");
        }
    }
    metrics::request(&app.config.function, status, duration_ms);
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        answer.headers_mut().insert("x-request-id", value);
    }
    answer
}

/// Finds tenant and caller, bounds the body, and hands on to the routes.
async fn prepared(app: &App, inner: Router, request: Request, request_id: &str) -> Response {
    match prepare(app, request, request_id).await {
        Ok(request) => match inner.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        Err(error) => error.into_response(),
    }
}

async fn prepare(app: &App, request: Request, request_id: &str) -> Result<Request> {
    let (mut parts, body) = request.into_parts();
    let whole_path = parts
        .uri
        .path_and_query()
        .map_or_else(String::new, ToString::to_string);
    let (tenant, rest) = split_tenant(&parts.uri)?;
    parts.uri = rest;
    let body = match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(Error::new(
                ErrorCode::BodyTooLarge,
                format!(
                    "the body is larger than {MAX_BODY_BYTES} bytes; bytes of artifacts go straight to S3"
                ),
            ));
        }
        Err(error) => {
            return Err(Error::new(
                ErrorCode::MalformedBody,
                "the body did not arrive whole; send it again",
            )
            .caused_by(error));
        }
    };
    let principal = principal_of(
        parts.extensions.get::<RequestContext>(),
        &parts.headers,
        app.config.trust_actor_header,
    )?;
    let groups = groups_of(
        parts.extensions.get::<RequestContext>(),
        &parts.headers,
        app.config.trust_actor_header,
    );
    let idempotency = idempotency_of(&parts.headers, parts.method.as_str(), &whole_path, &body)?;
    parts.extensions.insert(Caller {
        tenant,
        principal,
        groups,
        request_id: request_id.to_owned(),
        idempotency,
    });
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// Takes the tenant prefix off a path: `/t/team-a/v1/models` is `/v1/models` of `team-a`.
fn split_tenant(uri: &Uri) -> Result<(TenantName, Uri)> {
    let Some(rest) = uri.path().strip_prefix("/t/") else {
        return Ok((TenantName::default_tenant(), uri.clone()));
    };
    let (name, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let tenant = TenantName::parse(name)?;
    let query = uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let uri = format!("/{rest}{query}")
        .parse()
        .map_err(|error: http::uri::InvalidUri| {
            Error::invalid("path", "the path is not valid").caused_by(error)
        })?;
    Ok((tenant, uri))
}

/// The gateway's request id, or on the embedded default the client's, or a new one.
fn request_id_of(app: &App, request: &Request) -> String {
    if let Some(RequestContext::ApiGatewayV2(context)) =
        request.extensions().get::<RequestContext>()
        && let Some(id) = &context.request_id
    {
        return id.clone();
    }
    request
        .headers()
        .get("x-request-id")
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            (1..=64).contains(&id.len())
                && id
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
        .map_or_else(|| app.ids.next(), str::to_owned)
}
