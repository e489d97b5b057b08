//! The HTTP port: the functions' routes, and the few of the host itself.
//!
//! ```text
//! GET  /healthz                      whether the registry answers
//! GET  /_local/state                 what is on its way
//! GET  /_local/dead-letters          what was given up
//! GET  /_local/inbox                 what was put on the event bus, and what was published to topics
//! POST /_local/dead-letters/redrive  try again: all, one `{"id":…}`, or those of one queue `{"queue":…}`
//! ```

use std::{
    convert::Infallible,
    future::Future,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use http::{StatusCode, header};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use shared::{
    App, Error, ErrorCode,
    app::Ids,
    domain::{Action, Identity, TenantName, Timestamp},
    http::{
        Edge,
        caller::{IDENTITY_KEY, give_context},
        reply::envelope,
    },
};
use tokio::{net::TcpListener, sync::Notify, task::JoinSet, time::timeout};
use tower::ServiceExt as _;

use super::plumbing::{Plumbing, Source, describe_message};
use crate::{definition::REGION, queues::DeadLetter};

/// How long a health check may take before it counts as failed.
const HEALTH_LIMIT: Duration = Duration::from_secs(2);

/// How long a request waits for the registry to start, if it comes that early.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A name under which nothing is stored; the health checks ask for it.
const NOTHING: &str = "healthz";

/// How many records of the stream are counted at most.
const MOST_COUNTED_RECORDS: usize = 1_000;

/// What stands behind the port; empty until the registry has started.
#[derive(Debug)]
pub(super) struct Door {
    inside: OnceLock<Inside>,
    opened: Notify,
    ids: Ids,
}

#[derive(Debug)]
struct Inside {
    plumbing: Arc<Plumbing>,
    api: Router,
}

impl Door {
    pub(super) fn new(ids: Ids) -> Arc<Self> {
        Arc::new(Self {
            inside: OnceLock::new(),
            opened: Notify::new(),
            ids,
        })
    }

    /// Lets requests through.
    pub(super) fn open(&self, plumbing: Arc<Plumbing>) {
        let api = shared::http::mount(plumbing.app.clone(), plumbing.functions.routes.clone());
        // The registry starts once, so the door was not open before.
        let _ = self.inside.set(Inside { plumbing, api });
        self.opened.notify_waiters();
    }

    /// What stands behind the port, as soon as it does.
    ///
    /// The port is open a moment before the registry has started, and who comes then comes as soon as it is.
    async fn opened(&self) -> Result<&Inside, Error> {
        let waiting = async {
            loop {
                let opened = self.opened.notified();
                if let Some(inside) = self.inside.get() {
                    return inside;
                }
                opened.await;
            }
        };
        timeout(START_LIMIT, waiting).await.map_err(|_| starting())
    }

    fn plumbing(&self) -> Result<&Plumbing, Error> {
        self.inside
            .get()
            .map(|inside| &*inside.plumbing)
            .ok_or_else(starting)
    }

    fn refuse(&self, error: &Error) -> Response {
        if error.code.status() >= 500 {
            tracing::warn!(error = error.chain(), "A route of the host failed");
        }
        let status =
            StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        answer(status, &envelope(error, &self.ids.next()))
    }

    fn render(&self, outcome: Result<Value, Error>) -> Response {
        match outcome {
            Ok(body) => answer(StatusCode::OK, &body),
            Err(error) => self.refuse(&error),
        }
    }
}

/// The routes of the host, before those of the functions.
pub(super) fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route("/_local/state", get(state))
        .route("/_local/dead-letters", get(dead_letters))
        .route("/_local/inbox", get(inbox))
        .route("/_local/dead-letters/redrive", post(redrive))
        .route_layer(from_fn_with_state(Arc::clone(&door), require_administrator))
        .route("/healthz", get(health))
        .method_not_allowed_fallback(wrong_method)
        .fallback(functions)
        .with_state(door)
}

async fn functions(State(door): State<Arc<Door>>, mut request: Request) -> Response {
    let edge = Edge::of(request.uri().path());
    let inside = match door.opened().await {
        Ok(inside) => inside,
        Err(error) => return edge.render(&error, &door.ids.next()),
    };
    if asks_for_tokens(&inside.plumbing.app) {
        let question = question(&request);
        match authorize(&inside.plumbing.app, question).await {
            Ok(context) => give_context(&mut request, &context),
            Err(error) => return edge.render(&error, &door.ids.next()),
        }
    }
    match inside.api.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn starting() -> Error {
    Error::new(
        ErrorCode::Unavailable,
        "the registry is starting; try again after a moment",
    )
}

/// Whether callers must bring tokens.
fn asks_for_tokens(app: &App) -> bool {
    app.config.token_secret.is_some() && !app.config.trust_actor_header
}

/// What the gateway asks its authorizer for a request.
fn question(request: &Request) -> Value {
    let path = request.uri().path();
    let authorization = request
        .headers()
        .get(header::AUTHORIZATION)
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    json!({
        "version": "2.0",
        "type": "REQUEST",
        "routeArn": format!("arn:aws:execute-api:{REGION}:000000000000:slipway/$default/{}{path}", request.method()),
        "rawPath": path,
        "headers": authorization.map(|value| json!({ "authorization": value })).unwrap_or_default(),
        "requestContext": {"http": {"method": request.method().as_str(), "path": path}},
    })
}

/// Asks the authorizer who calls, and answers the context that it gave.
async fn authorize(app: &App, question: Value) -> Result<Map<String, Value>, Error> {
    let mut answer = authorizer::handle(app.clone(), question).await?;
    match answer["context"].take() {
        Value::Object(context) => Ok(context),
        _ => Err(Error::internal(
            "asking the authorizer",
            "it answered no context",
        )),
    }
}

/// Refuses the host's own routes, but for the health check, to who may not administer the registry.
async fn require_administrator(
    State(door): State<Arc<Door>>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(inside) = door.inside.get()
        && asks_for_tokens(&inside.plumbing.app)
    {
        let question = question(&request);
        let refusal = match authorize(&inside.plumbing.app, question).await {
            Ok(context) => check_administrator(&context).err(),
            Err(error) => Some(error),
        };
        if let Some(error) = refusal {
            return door.refuse(&error);
        }
    }
    next.run(request).await
}

fn check_administrator(context: &Map<String, Value>) -> Result<(), Error> {
    let Some(identity) = context.get(IDENTITY_KEY) else {
        return Err(Error::new(
            ErrorCode::Unauthenticated,
            "this route of the host needs a token; send it as `Authorization: Bearer …`",
        ));
    };
    let identity: Identity = serde_json::from_value(identity.clone())
        .map_err(|error| Error::internal("reading the authorizer's context", error))?;
    let may = identity.tenant.is_none()
        && identity
            .scope
            .is_none_or(|scope| scope.allows(Action::Admin) && scope.reaches_every_model());
    if may {
        Ok(())
    } else {
        Err(Error::new(
            ErrorCode::PermissionDenied,
            "this route of the host needs the administrator's token",
        ))
    }
}

async fn wrong_method(State(door): State<Arc<Door>>) -> Response {
    door.refuse(&Error::new(
        ErrorCode::MethodNotAllowed,
        "this route of the host does not take the method; see `docs/operations.md`",
    ))
}

async fn health(State(door): State<Arc<Door>>) -> Response {
    let Some(inside) = door.inside.get() else {
        return answer(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({ "status": "starting" }),
        );
    };
    let app = &inside.plumbing.app;
    let tenant = TenantName::default_tenant();
    let (table, bucket) = tokio::join!(
        check(app.registry.find_subscription(&tenant, NOTHING)),
        check(app.bucket.list(NOTHING, 1)),
    );
    let is_ready = table.is_ok() && bucket.is_ok();
    let verdict = |checked: Result<(), String>| match checked {
        Ok(()) => "ok".to_owned(),
        Err(reason) => reason,
    };
    let body = json!({
        "status": if is_ready { "ready" } else { "broken" },
        "version": env!("CARGO_PKG_VERSION"),
        "table": verdict(table),
        "bucket": verdict(bucket),
    });
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    answer(status, &body)
}

async fn check<T>(call: impl Future<Output = shared::Result<T>>) -> Result<(), String> {
    match timeout(HEALTH_LIMIT, call).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.chain()),
        Err(_) => Err(format!("no answer within {} s", HEALTH_LIMIT.as_secs())),
    }
}

async fn state(State(door): State<Arc<Door>>) -> Response {
    let outcome = match door.plumbing() {
        Ok(plumbing) => read_state(plumbing)
            .await
            .map_err(|error| Error::internal("reading the host's state", error)),
        Err(error) => Err(error),
    };
    door.render(outcome)
}

async fn read_state(plumbing: &Plumbing) -> anyhow::Result<Value> {
    let mut queues = serde_json::Map::new();
    for source in Source::all() {
        let depth = plumbing.queues.depth(source.queue_name())?;
        queues.insert(
            source.queue_name().to_owned(),
            json!({
                "visible": depth.visible,
                "in_flight": depth.in_flight,
                "delayed": depth.delayed,
                "dead_letters": depth.dead_letters,
            }),
        );
    }
    let lag = plumbing.stream.next_batch(MOST_COUNTED_RECORDS)?.len();
    Ok(json!({
        "idle": plumbing.is_idle().await?,
        "s3_events": plumbing.notifications.peek(MOST_COUNTED_RECORDS).await?.len(),
        "queues": queues,
        "stream": { "lag_records": lag, "checkpoint": plumbing.stream.checkpoint()? },
    }))
}

async fn inbox(State(door): State<Arc<Door>>) -> Response {
    let outcome = door.plumbing().map(|plumbing| {
        json!({
            "events": plumbing.inbox.events(),
            "messages": plumbing.inbox.messages(),
        })
    });
    door.render(outcome)
}

async fn dead_letters(State(door): State<Arc<Door>>) -> Response {
    let outcome = door.plumbing().and_then(|plumbing| {
        plumbing
            .queues
            .dead_letters()
            .map(|letters| json!({ "dead_letters": letters.iter().map(view).collect::<Vec<_>>() }))
            .map_err(|error| Error::internal("listing dead letters", error))
    });
    door.render(outcome)
}

fn view(letter: &DeadLetter) -> Value {
    json!({
        "id": letter.id,
        "queue": letter.queue,
        "what": describe_message(&letter.body),
        "body": serde_json::from_str(&letter.body)
            .unwrap_or_else(|_| Value::String(letter.body.clone())),
        "receive_count": letter.receive_count,
        "sent_at": timestamp(letter.sent_at),
        "died_at": timestamp(letter.died_at),
        "last_error": letter.last_error,
    })
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Which dead letters are tried again; all, unless it says otherwise.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Redrive {
    id: Option<String>,
    queue: Option<String>,
}

async fn redrive(State(door): State<Arc<Door>>, body: Bytes) -> Response {
    let outcome = door
        .plumbing()
        .and_then(|plumbing| redrive_letters(plumbing, &body));
    door.render(outcome)
}

fn redrive_letters(plumbing: &Plumbing, body: &[u8]) -> Result<Value, Error> {
    let which: Redrive = if body.is_empty() {
        Redrive::default()
    } else {
        serde_json::from_slice(body).map_err(|error| {
            Error::new(
                ErrorCode::MalformedBody,
                "the body must be empty, or a JSON object with `id` or `queue`",
            )
            .caused_by(error)
        })?
    };
    let failed = |error| Error::internal("redriving dead letters", error);
    let mut redriven = 0;
    if let Some(id) = &which.id {
        if !plumbing.queues.redrive(id).map_err(failed)? {
            return Err(Error::invalid(
                "id",
                format!(
                    "there is no dead letter `{}`; see `/_local/dead-letters`",
                    id.escape_debug()
                ),
            ));
        }
        redriven = 1;
    } else {
        let mut is_known = which.queue.is_none();
        for queue in Source::all().map(Source::queue_name) {
            if which.queue.as_deref().is_none_or(|wanted| wanted == queue) {
                is_known = true;
                redriven += plumbing.queues.redrive_all(queue).map_err(failed)?;
            }
        }
        if !is_known {
            return Err(Error::invalid(
                "queue",
                "there is no queue of that name; see `/_local/state`",
            ));
        }
    }
    Ok(json!({ "redriven": redriven }))
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

/// Serves until `shutdown` resolves, and then gives requests under way `grace` to finish.
///
/// Dropping the future ends every connection at once.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // A client that is gone already, or too many open files: neither ends the server.
                    tracing::warn!(%error, "Could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
            () = &mut shutdown => break,
        };
        // Small answers must not wait for the acknowledgement of their headers.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "A connection ended before its first request");
            continue;
        }
        let router = router.clone();
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let router = router.clone();
            async move {
                let request = request.map(axum::body::Body::new);
                Ok::<_, Infallible>(match router.oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                })
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "A connection ended early");
            }
        });
    }
    drop(listener);
    if timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            "Cut off requests that did not finish within {} s",
            grace.as_secs()
        );
    }
    connections.shutdown().await;
}
