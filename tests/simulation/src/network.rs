//! The calls under way, and what may become of them.
//!
//! A call is one exchange with the table: it is sent, it is applied, its answer arrives. Between any two of these it
//! waits for the run, which goes on with any exchange it likes. A client that dies leaves its exchanges behind, and
//! what was sent may still be applied.

use crate::mutation::Mutation;
use aws_smithy_async::rt::sleep::{AsyncSleep, SharedAsyncSleep, Sleep};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use dynoxide::{Database, DynoxideError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// An answer of the table: a status and a body.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    body: String,
}

impl Reply {
    fn refusal(kind: &str, extra: Value) -> Self {
        let mut body =
            json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{kind}"), "message": kind});
        if let (Value::Object(body), Value::Object(extra)) = (&mut body, extra) {
            body.extend(extra);
        }
        Self {
            status: 400,
            body: body.to_string(),
        }
    }

    /// Whether the table did what it was asked.
    pub fn is_success(&self) -> bool {
        self.status == 200
    }

    /// Whether a condition refused it.
    pub(crate) fn is_refusal(&self) -> bool {
        self.body.contains("ConditionalCheckFailed")
    }

    /// Too many requests; nothing was applied.
    pub fn throttled() -> Self {
        Self::refusal("ThrottlingException", json!({}))
    }

    /// The service failed before it applied anything, or after; the client cannot know.
    pub fn failed() -> Self {
        Self {
            status: 500,
            body: json!({"__type": "com.amazonaws.dynamodb.v20120810#InternalServerError", "message": "try again"})
                .to_string(),
        }
    }

    /// Another transaction touches the same items; nothing was applied.
    pub fn conflicting(request: &Request) -> Self {
        let body = request.body();
        let Some(writes) = body["TransactItems"].as_array() else {
            return Self::refusal("TransactionConflictException", json!({}));
        };
        let mut reasons = vec![json!({"Code": "None"}); writes.len()];
        reasons[0] = json!({"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"});
        Self::refusal(
            "TransactionCanceledException",
            json!({"CancellationReasons": reasons}),
        )
    }
}

/// A request to the table.
#[derive(Debug, Clone)]
pub struct Request {
    /// Such as `TransactWriteItems`.
    pub operation: String,
    bytes: Arc<[u8]>,
}

impl Request {
    /// Its body.
    pub fn body(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    /// Whether it may change something.
    pub fn is_write(&self) -> bool {
        !matches!(
            self.operation.as_str(),
            "GetItem" | "BatchGetItem" | "Query"
        )
    }
}

/// How far an exchange has come.
#[derive(Debug, Clone)]
pub enum Progress {
    /// The request is on its way.
    Sent(Request),
    /// The table answered; the answer is on its way.
    Answered(Reply),
    /// The client only waits for time to pass.
    Sleeping,
}

/// Something that a client waits for.
#[derive(Debug)]
pub struct Exchange {
    /// Its number; later ones have higher numbers.
    pub number: u64,
    /// Who waits.
    pub client: usize,
    /// How far it has come.
    pub progress: Progress,
    seat: Arc<Seat>,
}

impl Exchange {
    /// Whether nobody waits for it any more.
    pub fn is_abandoned(&self) -> bool {
        self.seat.state().is_abandoned
    }

    /// Lets it come as far as its answer.
    #[must_use]
    pub fn answered(mut self, reply: Reply) -> Self {
        self.progress = Progress::Answered(reply);
        self
    }

    /// Ends it with an answer, or with a broken connection.
    pub fn end(&self, outcome: Option<Reply>) {
        let mut seat = self.seat.state();
        seat.outcome = Some(outcome);
        if let Some(waker) = seat.waker.take() {
            waker.wake();
        }
    }
}

/// Where a client waits for the end of an exchange.
#[derive(Debug, Default)]
struct Seat(Mutex<SeatState>);

/// The end of an exchange: its reply, unless that was lost.
type Ended = Option<Reply>;

#[derive(Debug, Default)]
struct SeatState {
    outcome: Option<Ended>,
    waker: Option<Waker>,
    is_abandoned: bool,
}

impl Seat {
    fn state(&self) -> MutexGuard<'_, SeatState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the end of an exchange; dropping it abandons the exchange.
struct Waiting(Arc<Seat>);

impl Future for Waiting {
    type Output = Option<Reply>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut seat = self.0.state();
        if let Some(outcome) = seat.outcome.take() {
            Poll::Ready(outcome)
        } else {
            seat.waker = Some(context.waker().clone());
            Poll::Pending
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.state().is_abandoned = true;
    }
}

/// The network of one run.
#[derive(Debug, Clone, Default)]
pub struct Network(Arc<Mutex<NetworkState>>);

#[derive(Debug, Default)]
struct NetworkState {
    under_way: Vec<Exchange>,
    count: u64,
}

impl Network {
    fn state(&self) -> MutexGuard<'_, NetworkState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, client: usize, progress: Progress) -> Waiting {
        let seat = Arc::new(Seat::default());
        let mut state = self.state();
        state.count += 1;
        let number = state.count;
        state.under_way.push(Exchange {
            number,
            client,
            progress,
            seat: Arc::clone(&seat),
        });
        Waiting(seat)
    }

    /// How many exchanges are under way.
    pub fn len(&self) -> usize {
        self.state().under_way.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes an exchange out; what is to go on must be put back.
    pub fn take(&self, index: usize) -> Exchange {
        self.state().under_way.remove(index)
    }

    /// Puts an exchange back.
    pub fn put_back(&self, exchange: Exchange) {
        self.state().under_way.push(exchange);
    }

    /// The HTTP client of one client.
    pub fn http(&self, client: usize) -> SharedHttpClient {
        SharedHttpClient::new(Wire {
            network: self.clone(),
            client,
        })
    }

    /// The sleep of one client: time passes when the run says so.
    pub fn sleep(&self, client: usize) -> SharedAsyncSleep {
        SharedAsyncSleep::new(Wire {
            network: self.clone(),
            client,
        })
    }
}

/// One client's end of the network.
#[derive(Clone)]
struct Wire {
    network: Network,
    client: usize,
}

impl fmt::Debug for Wire {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Wire({})", self.client)
    }
}

impl HttpClient for Wire {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request
            .headers()
            .get("x-amz-target")
            .and_then(|target| target.rsplit_once('.'))
            .map_or_else(String::new, |(_, operation)| operation.to_owned());
        let sent = Progress::Sent(Request {
            operation: target,
            bytes: request.body().bytes().unwrap_or_default().into(),
        });
        let answer = self.network.begin(self.client, sent);
        HttpConnectorFuture::new(async move {
            let Some(reply) = answer.await else {
                return Err(ConnectorError::io("the connection broke".into()));
            };
            let status = StatusCode::try_from(reply.status)
                .map_err(|error| ConnectorError::user(error.into()))?;
            let mut response = HttpResponse::new(status, SdkBody::from(reply.body));
            response
                .headers_mut()
                .insert("content-type", "application/x-amz-json-1.0");
            Ok(response)
        })
    }
}

impl AsyncSleep for Wire {
    fn sleep(&self, _: Duration) -> Sleep {
        let end = self.network.begin(self.client, Progress::Sleeping);
        Sleep::new(async move {
            end.await;
        })
    }
}

/// Applies a request to the table, without the parts of conditions that a mutation removes.
pub fn apply(table: &Database, request: &Request, mutation: Option<&Mutation>) -> Reply {
    let mut bytes = Arc::clone(&request.bytes);
    if let Some(mutation) = mutation.filter(|_| request.is_write()) {
        let mut body = request.body();
        mutation.remove_from(&request.operation, &mut body);
        bytes = body.to_string().into_bytes().into();
    }
    let answer = match request.operation.as_str() {
        "GetItem" => run(&bytes, |request| table.get_item(request)),
        "BatchGetItem" => run(&bytes, |request| table.batch_get_item(request)),
        "Query" => run(&bytes, |request| table.query(request)),
        "PutItem" => run(&bytes, |request| table.put_item(request)),
        "UpdateItem" => run(&bytes, |request| table.update_item(request)),
        "DeleteItem" => run(&bytes, |request| table.delete_item(request)),
        "TransactWriteItems" => run(&bytes, |request| table.transact_write_items(request)),
        other => panic!("the simulation does not know `{other}`"),
    };
    match answer {
        Ok(body) => Reply { status: 200, body },
        Err(error) => Reply {
            status: error.status_code(),
            body: error.to_json(),
        },
    }
}

fn run<Q: DeserializeOwned, A: Serialize>(
    bytes: &[u8],
    call: impl FnOnce(Q) -> Result<A, DynoxideError>,
) -> Result<String, DynoxideError> {
    let request = serde_json::from_slice(bytes).expect("the SDK writes requests that can be read");
    Ok(serde_json::to_string(&call(request)?).expect("answers can be written"))
}
