//! Routes as data, and the layers around every one of them.

use crate::app::App;
use crate::domain::access::Identity;
use crate::domain::{Action, Principal, TenantName};
use crate::error::{Error, ErrorCode, Result};
use crate::http::access::{Access, Subject, Unknown, enforce};
use crate::http::body::MAX_BODY_BYTES;
use crate::http::caller::{ANONYMOUS, Caller, idempotency_of, identity_of};
use crate::http::reply::{Failed, envelope, render_error};
use crate::telemetry::metrics;
use crate::{mlflow, oci};
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::handler::Handler;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{Extension, Router};
use futures::FutureExt as _;
use http::{HeaderValue, Method, Uri, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use lambda_http::request::RequestContext;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tower::ServiceExt as _;
use tracing::Instrument as _;

/// How much of a body that is too large is read all the same, in bytes.
const MAX_DISCARDED_BYTES: usize = 2_000_000_000;

/// One route of a function.
#[derive(Clone)]
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path, such as `/v1/models/{model}`, without a tenant prefix.
    pub path: &'static str,
    /// What it needs to be allowed.
    pub access: Access,
    handler: MethodRouter<App>,
}

impl Route {
    /// Needs another action than its method says: a read `read`, anything else `write`.
    #[must_use]
    pub fn needs(mut self, action: Action) -> Self {
        self.access.action = Some(action);
        self
    }

    /// Touches other models than its path says.
    #[must_use]
    pub fn touches(mut self, subject: Subject) -> Self {
        self.access.subject = subject;
        self
    }

    /// Answers everybody, logged in or not.
    #[must_use]
    pub fn open(mut self) -> Self {
        self.access.action = None;
        self
    }
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
            Route {
                method: Method::$method,
                path,
                access: Access::usual(&Method::$method, path),
                handler: on(MethodFilter::$method, handler),
            }
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
///
/// A path that begins with `/{api}/` is MLflow's, and is mounted under `/api/` and `/ajax-api/`.
pub fn mount(app: App, routes: Vec<Route>) -> Router {
    let mut inner = Router::new();
    for route in routes {
        let guard = axum::middleware::from_fn_with_state(route.access, enforce);
        let handler = route.handler.layer(guard);
        match route.path.strip_prefix(mlflow::API) {
            None => inner = inner.route(route.path, handler),
            Some(rest) => {
                for api in mlflow::APIS {
                    inner = inner.route(&format!("{api}{rest}"), handler.clone());
                }
            }
        }
    }
    let inner = inner
        .method_not_allowed_fallback(|unknown: Option<Extension<Unknown>>| async {
            known(unknown).err().unwrap_or_else(|| {
                Error::new(
                    ErrorCode::MethodNotAllowed,
                    "the route does not take this method; see `/v1/openapi.json`",
                )
            })
        })
        .fallback(
            |unknown: Option<Extension<Unknown>>, method: Method, uri: Uri| async move {
                known(unknown)
                    .err()
                    .unwrap_or_else(|| route_not_found(&method, uri.path()))
            },
        )
        .layer(axum::middleware::from_fn(remember_route))
        .with_state(app.clone());
    let edge = tower::service_fn(move |request: Request| {
        let (app, inner) = (app.clone(), inner.clone());
        async move { Ok::<_, Infallible>(serve(app, inner, request).await) }
    });
    Router::new().fallback_service(edge)
}

/// Refuses a caller of whom nothing is known.
fn known(unknown: Option<Extension<Unknown>>) -> Result<()> {
    match unknown {
        Some(Extension(unknown)) => Err(unknown.refusal()),
        None => Ok(()),
    }
}

fn route_not_found(method: &Method, path: &str) -> Error {
    if mlflow::is_mlflow(path) {
        return mlflow::endpoint_not_found(method, path);
    }
    Error::new(
        ErrorCode::RouteNotFound,
        format!(
            "there is no route `{}`; see `/v1/openapi.json`",
            path.chars()
                .take(80)
                .flat_map(char::escape_debug)
                .collect::<String>()
        ),
    )
}

/// Whose API a path belongs to, and so which shape its errors have, whoever makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// Ours: the error envelope.
    Native,
    /// MLflow's: `error_code` and `message`.
    Mlflow,
    /// That of the OCI distribution specification: a list of `errors`.
    Oci,
}

impl Edge {
    /// The edge of a path, with or without the tenant prefix.
    pub fn of(path: &str) -> Self {
        let rest = path
            .strip_prefix("/t/")
            .and_then(|rest| rest.find('/').map(|end| &rest[end..]))
            .unwrap_or(path);
        if mlflow::is_mlflow(rest) {
            Self::Mlflow
        } else if oci::is_oci(rest) {
            Self::Oci
        } else {
            Self::Native
        }
    }

    /// The answer for an error.
    pub fn render(self, error: &Error, request_id: &str) -> Response {
        let (status, body) = match self {
            Self::Native => (error.code.status(), envelope(error, request_id)),
            Self::Mlflow => mlflow::error::envelope(error),
            Self::Oci => oci::error::envelope(error),
        };
        render_error(status, &body)
    }
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
    let edge = Edge::of(request.uri().path());
    let challenge =
        (edge == Edge::Oci).then(|| oci::challenge(request.uri().path(), request.headers()));
    let elsewhere = mlflow::without_empty_parts(request.uri());
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
    let mut answer = match (&failed, elsewhere) {
        (Some(error), Some(uri)) if error.code == ErrorCode::RouteNotFound => {
            Redirect::permanent(&uri).into_response()
        }
        (Some(error), _) => edge.render(error, &request_id),
        (None, _) => answer,
    };
    let status = answer.status().as_u16();
    if let Some(challenge) = challenge.filter(|_| status == 401) {
        answer
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
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
    let (named, rest) = split_tenant(&parts.uri)?;
    // Who asks for no repository by that protocol has no tenant to name, and asks for their own.
    let named = named.or_else(|| match Edge::of(rest.path()) {
        Edge::Oci => oci::tenant_of(rest.path()),
        Edge::Native | Edge::Mlflow => Some(TenantName::default_tenant()),
    });
    parts.uri = rest;
    let mut body = body;
    let collected = Limited::new(&mut body, MAX_BODY_BYTES).collect().await;
    let body = match collected {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            discard(body).await;
            if mlflow::uploads::is_upload(parts.uri.path()) {
                return Err(mlflow::uploads::file_too_large());
            }
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
    let identity = identity_of(
        parts.extensions.get::<RequestContext>(),
        &parts.headers,
        &app.config,
    )
    .and_then(|identity| of_tenant(identity, named.as_ref()));
    let idempotency = idempotency_of(&parts.headers, parts.method.as_str(), &whole_path, &body)?;
    let identity = match identity {
        Ok(identity) => identity,
        Err(error) if error.code == ErrorCode::Unauthenticated => {
            parts.extensions.insert(Unknown(Arc::new(error)));
            nobody()?
        }
        Err(error) => return Err(error),
    };
    let own = || identity.tenant.clone();
    parts.extensions.insert(Caller {
        tenant: named
            .or_else(own)
            .unwrap_or_else(TenantName::default_tenant),
        principal: identity.principal,
        groups: identity.groups,
        scope: identity.scope,
        request_id: request_id.to_owned(),
        idempotency,
    });
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// Reads what is left of a body that is too large, since many clients read no answer before they have sent everything.
async fn discard(mut body: Body) {
    let mut rest = MAX_DISCARDED_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, bytes::Bytes::len);
        match rest.checked_sub(bytes) {
            Some(less) => rest = less,
            None => return,
        }
    }
}

/// Refuses a caller who belongs to another tenant; what is there is nobody else's business.
fn of_tenant(identity: Identity, tenant: Option<&TenantName>) -> Result<Identity> {
    match (&identity.tenant, tenant) {
        (Some(own), Some(tenant)) if own != tenant => Err(Error::new(
            ErrorCode::PermissionDenied,
            "your token is not for this tenant; use one of the tenant that the path names",
        )),
        _ => Ok(identity),
    }
}

/// Who calls an open route without saying who.
fn nobody() -> Result<Identity> {
    Ok(Identity {
        principal: Principal::parse(ANONYMOUS)?,
        groups: Vec::new(),
        tenant: None,
        scope: None,
    })
}

/// Takes the tenant prefix off a path: `/t/team-a/v1/models` is `/v1/models` of `team-a`.
fn split_tenant(uri: &Uri) -> Result<(Option<TenantName>, Uri)> {
    let Some(rest) = uri.path().strip_prefix("/t/") else {
        return Ok((None, uri.clone()));
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
    Ok((Some(tenant), uri))
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
