//! The same code in Lambda: the real bootstraps under the real Runtime API, with events in AWS's own shapes.
//!
//! A small emulator of ours plays the Runtime API; each function is a process of its own, with the environment that
//! `template.yaml` gives it, against the embedded servers of a stack whose own functions stay idle.
//! The events below `events/` are what AWS sends: an HTTP API decodes the path, S3 encodes keys as forms do, a queue
//! wraps its messages.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::reads::{declaration, large, put_layout};
use crate::world::{digest, http_client, safetensors};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use local::stack::{PumpMode, Stack, StackOptions};
use serde_json::{Value, json};
use sha2::Sha256;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};

/// Every bootstrap, and whether it answers HTTP requests and handles events.
const BOOTSTRAPS: [(&str, bool, bool); 10] = [
    ("register", true, true),
    ("promote", true, true),
    ("query", true, false),
    ("notifications", true, true),
    ("artifact-validation", true, true),
    ("packaging", true, true),
    ("tracking", true, false),
    ("artifacts", true, false),
    ("authorizer", true, false),
    ("oci", true, false),
];

/// The caller of `api-iam.json`.
const CALLER: &str = "arn:aws:sts::123456789012:assumed-role/TrainingPipeline/nightly";

/// The key of the hashes of tokens.
const TOKEN_SECRET: &str = "a secret of the tests, and of nobody else";

/// How long a function may take; generous, because the machine may be busy.
const PATIENCE: Duration = Duration::from_mins(1);

/// The folder of the bootstraps, which are built once: `cargo test -p it` alone does not build them.
static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
    let test = std::env::current_exe().unwrap();
    // <target>/<profile's folder>/deps/<test>
    let folder = test.parent().and_then(Path::parent).unwrap().to_owned();
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let mut build = std::process::Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--profile", profile, "--target-dir"]);
    build.arg(folder.parent().unwrap());
    for (name, ..) in BOOTSTRAPS {
        build.args(["-p", name]);
    }
    build.current_dir(crate::world::repository());
    assert!(build.status().unwrap().success(), "the functions are built");
    folder
});

/// What a function answered to one event.
#[derive(Debug)]
enum Outcome {
    Answer(Value),
    /// A Lambda error: the event's source delivers it again, and a gateway answers 500.
    Error(Value),
}

/// An event on its way, and where its outcome goes.
struct Invocation {
    event: Value,
    outcome: oneshot::Sender<Outcome>,
}

/// The Runtime API of one function.
struct Runtime {
    events: tokio::sync::Mutex<mpsc::Receiver<Invocation>>,
    running: Mutex<HashMap<String, oneshot::Sender<Outcome>>>,
}

#[expect(clippy::unused_async, reason = "axum takes async handlers only")]
impl Runtime {
    async fn start() -> (String, mpsc::Sender<Invocation>) {
        let (sender, events) = mpsc::channel(1);
        let runtime = Arc::new(Self {
            events: tokio::sync::Mutex::new(events),
            running: Mutex::default(),
        });
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(Self::next))
            .route(
                "/2018-06-01/runtime/invocation/{id}/response",
                post(Self::response),
            )
            .route(
                "/2018-06-01/runtime/invocation/{id}/error",
                post(Self::error),
            )
            .route("/2018-06-01/runtime/init/error", post(Self::init_error))
            .with_state(runtime);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        (address, sender)
    }

    /// Waits for an event as long as it takes, as Lambda does between two calls.
    async fn next(State(runtime): State<Arc<Self>>) -> Response {
        let Some(invocation) = runtime.events.lock().await.recv().await else {
            return StatusCode::GONE.into_response();
        };
        let id = format!("8476a536-e9f4-11e8-9739-{:012x}", rand_id());
        runtime
            .running
            .lock()
            .unwrap()
            .insert(id.clone(), invocation.outcome);
        let deadline = shared::app::Clock::system().now().millis() + 30_000;
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("lambda-runtime-aws-request-id", id),
            ("lambda-runtime-deadline-ms", deadline.to_string()),
            (
                "lambda-runtime-invoked-function-arn",
                "arn:aws:lambda:us-east-1:123456789012:function:slipway".to_owned(),
            ),
            (
                "lambda-runtime-trace-id",
                "Root=1-69d23a44-1a2b3c4d5e6f708192a3b4c5;Parent=53995c3f42cd8ad8;Sampled=0"
                    .to_owned(),
            ),
        ];
        (
            axum::response::AppendHeaders(headers),
            invocation.event.to_string(),
        )
            .into_response()
    }

    async fn response(
        State(runtime): State<Arc<Self>>,
        UrlPath(id): UrlPath<String>,
        body: Bytes,
    ) -> StatusCode {
        runtime.settle(&id, Outcome::Answer(serde_json::from_slice(&body).unwrap()))
    }

    async fn error(
        State(runtime): State<Arc<Self>>,
        UrlPath(id): UrlPath<String>,
        body: Bytes,
    ) -> StatusCode {
        runtime.settle(&id, Outcome::Error(serde_json::from_slice(&body).unwrap()))
    }

    async fn init_error() -> StatusCode {
        StatusCode::ACCEPTED
    }

    fn settle(&self, id: &str, outcome: Outcome) -> StatusCode {
        let waiting = self.running.lock().unwrap().remove(id);
        match waiting {
            Some(sender) => {
                // A test that gave up waiting has said so already.
                let _ = sender.send(outcome);
                StatusCode::ACCEPTED
            }
            None => StatusCode::BAD_REQUEST,
        }
    }
}

/// A number that differs from call to call.
fn rand_id() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// A running bootstrap.
struct Function {
    name: &'static str,
    process: Child,
    events: mpsc::Sender<Invocation>,
    stdout: Arc<Mutex<Vec<String>>>,
    stderr: Arc<Mutex<Vec<String>>>,
}

impl Function {
    async fn start(name: &'static str, stack: &Stack, more: &[(&str, &str)]) -> Self {
        let folder = tokio::task::spawn_blocking(|| BUILT.clone()).await.unwrap();
        let (runtime, events) = Runtime::start().await;
        let config = stack.app().config.clone();
        let mut command = Command::new(folder.join(name));
        command
            .env_clear()
            // What Lambda itself sets.
            .env("AWS_LAMBDA_RUNTIME_API", runtime)
            .env("AWS_LAMBDA_FUNCTION_NAME", format!("slipway-{name}-1A2B3C"))
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "slipway")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "2026/04/05/[$LATEST]1")
            .env("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
            .env("AWS_REGION", &config.region)
            .env("AWS_ACCESS_KEY_ID", &config.credentials.access_key_id)
            .env(
                "AWS_SECRET_ACCESS_KEY",
                &config.credentials.secret_access_key,
            )
            // What the template sets.
            .env("SLIPWAY_FUNCTION", name)
            .env("TABLE_NAME", &config.table)
            .env("BUCKET_NAME", &config.bucket)
            .env("CURSOR_SECRET", &config.cursor_secret)
            .env("SIGNING_KMS_KEY", config.signing_key.as_ref().unwrap())
            .env(
                "AWS_ENDPOINT_URL_KMS",
                config.kms_endpoint.as_ref().unwrap(),
            )
            .env(
                "DELIVERIES_QUEUE_URL",
                config.deliveries_queue.as_ref().unwrap(),
            )
            .env(
                "AWS_ENDPOINT_URL_SQS",
                config.sqs_endpoint.as_ref().unwrap(),
            )
            // Where the embedded servers are.
            .env(
                "AWS_ENDPOINT_URL_DYNAMODB",
                config.dynamodb_endpoint.as_ref().unwrap(),
            )
            .env("AWS_ENDPOINT_URL_S3", config.s3_endpoint.as_ref().unwrap())
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let stdout = lines_of(process.stdout.take().unwrap());
        let stderr = lines_of(process.stderr.take().unwrap());
        Self {
            name,
            process,
            events,
            stdout,
            stderr,
        }
    }

    /// Sends an event and waits for what becomes of it.
    async fn invoke(&mut self, event: Value) -> Outcome {
        let (sender, outcome) = oneshot::channel();
        let invocation = Invocation {
            event,
            outcome: sender,
        };
        let called = async {
            self.events.send(invocation).await.ok()?;
            outcome.await.ok()
        };
        let answered = tokio::select! {
            answered = called => answered,
            status = self.process.wait() => panic!("{} ended: {status:?}\n{:#?}", self.name, self.stderr.lock().unwrap()),
            () = tokio::time::sleep(PATIENCE) => None,
        };
        answered.unwrap_or_else(|| {
            panic!(
                "{} does not answer\n{:#?}",
                self.name,
                self.stdout.lock().unwrap()
            )
        })
    }

    async fn answer(&mut self, event: Value) -> Value {
        match self.invoke(event).await {
            Outcome::Answer(answer) => answer,
            Outcome::Error(error) => panic!(
                "{}: {error:#}\n{:#?}",
                self.name,
                self.stdout.lock().unwrap()
            ),
        }
    }

    async fn error(&mut self, event: Value) -> Value {
        match self.invoke(event).await {
            Outcome::Error(error) => error,
            Outcome::Answer(answer) => panic!("{} took it: {answer:#}", self.name),
        }
    }

    /// Sends a request of the gateway; answers status and body: JSON, or a string where it is plain text.
    async fn http(&mut self, event: Value) -> (u16, Value) {
        let answer = self.answer(event).await;
        let body = answer["body"].as_str().unwrap_or_default();
        let body = if answer["isBase64Encoded"] == true {
            String::from_utf8(STANDARD.decode(body).unwrap()).unwrap()
        } else {
            body.to_owned()
        };
        let status = u16::try_from(answer["statusCode"].as_u64().unwrap()).unwrap();
        let media_type = &answer["headers"]["content-type"];
        if media_type
            .as_str()
            .is_some_and(|it| it.starts_with("text/"))
        {
            return (status, body.into());
        }
        (
            status,
            serde_json::from_str(&body).unwrap_or_else(|_| panic!("no JSON: {answer:#}")),
        )
    }
}

/// Collects the lines that a process writes.
fn lines_of(pipe: impl AsyncRead + Unpin + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let collected = lines.clone();
    tokio::spawn(async move {
        let mut pipe = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = pipe.next_line().await {
            collected.lock().unwrap().push(line);
        }
    });
    lines
}

/// A recorded event.
fn recorded(name: &str) -> Value {
    let path = crate::world::repository().join(format!("tests/it/events/{name}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The recorded request of an IAM caller, with another method, path and body; the path as the gateway decodes it.
fn request(method: &str, path: &str, body: Option<&Value>) -> Value {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut event = recorded("api-iam");
    event["rawPath"] = json!(path);
    event["rawQueryString"] = json!(query);
    event["requestContext"]["http"]["method"] = json!(method);
    event["requestContext"]["http"]["path"] = json!(path);
    if let Some(body) = body {
        event["body"] = json!(body.to_string());
        event["headers"]["content-type"] = json!("application/json");
    }
    event
}

/// The recorded queue message with another body.
fn message(body: &Value) -> Value {
    let mut event = recorded("sqs-s3-object-created");
    event["Records"][0]["body"] = json!(body.to_string());
    event
}

/// The functions of a test, each a process, against one stack.
struct Deployment {
    stack: Stack,
    functions: Vec<Function>,
}

impl Deployment {
    async fn start(names: &[&str]) -> Self {
        let options = StackOptions {
            pump: PumpMode::Manual,
            ..StackOptions::default()
        };
        let stack = Stack::start(options).await.unwrap();
        let mut functions = Vec::new();
        for (name, ..) in BOOTSTRAPS
            .into_iter()
            .filter(|(name, ..)| names.is_empty() || names.contains(name))
        {
            // Only a receiver on this machine needs it; a deployment never sets it.
            let more: &[(&str, &str)] = match name {
                "notifications" => &[("ALLOW_LOOPBACK_WEBHOOKS", "true")],
                "authorizer" => &[("TOKEN_SECRET", TOKEN_SECRET)],
                "query" => &[
                    ("JWT_GROUPS_CLAIM", "roles"),
                    ("JWT_SUBJECTS", "ben@*, *@login.example"),
                ],
                _ => &[],
            };
            functions.push(Function::start(name, &stack, more).await);
        }
        Self { stack, functions }
    }

    fn function(&mut self, name: &str) -> &mut Function {
        self.functions
            .iter_mut()
            .find(|function| function.name == name)
            .unwrap()
    }

    async fn send(
        &mut self,
        function: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        self.function(function)
            .http(request(method, path, body.as_ref()))
            .await
    }

    async fn expect(
        &mut self,
        status: u16,
        function: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Value {
        let (got, body) = self.send(function, method, path, body).await;
        assert_eq!(got, status, "{method} {path}: {body:#}");
        body
    }

    /// Carries events to the bootstraps until none is left, as queues and the stream would.
    async fn deliver_all(&mut self) -> Vec<&'static str> {
        let mut went = Vec::new();
        loop {
            let waiting = self.stack.deliveries().await.unwrap();
            let Some(first) = waiting.first() else {
                return went;
            };
            let is_record = |event: &Value| event["eventSource"] == "aws:dynamodb";
            // A queue's message goes alone; the stream's records go together, in order.
            let batch: Vec<_> = if is_record(&first.event) {
                waiting
                    .iter()
                    .filter(|delivery| is_record(&delivery.event))
                    .collect()
            } else {
                vec![first]
            };
            let event = if is_record(&first.event) {
                json!({"Records": batch.iter().map(|delivery| &delivery.event).collect::<Vec<_>>()})
            } else {
                message(&first.event)
            };
            let name = first.function.name();
            let answer = self.function(name).answer(event).await;
            assert_eq!(
                answer,
                json!({"batchItemFailures": []}),
                "{name}: {}",
                first.what
            );
            for delivery in &batch {
                self.stack.drop_delivery(&delivery.id).unwrap();
            }
            went.push(name);
        }
    }
}

/// A receiver of webhooks, and what it got.
async fn receiver() -> (String, Arc<Mutex<Vec<(HeaderMap, Bytes)>>>) {
    let got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>> = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let kept = got.clone();
    let router = Router::new().fallback(move |headers: HeaderMap, body: Bytes| async move {
        kept.lock().unwrap().push((headers, body));
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, got)
}

fn is_signed(secret: &str, headers: &HeaderMap, body: &[u8]) -> bool {
    let header = |name: &str| headers[name].to_str().unwrap();
    let mut mac =
        Hmac::<Sha256>::new_from_slice(&STANDARD.decode(&secret["whsec_".len()..]).unwrap())
            .unwrap();
    mac.update(format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")).as_bytes());
    mac.update(body);
    header("webhook-signature") == format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_travels_the_whole_way_through_the_bootstraps() {
    const MODEL: &str = "Qualität #1 100% 検査";
    const UNLOGGED: &str = "a description that no log may show";
    let mut lambda = Deployment::start(&[]).await;
    // Those that have no part in it answer all the same.
    for (function, path) in [
        ("tracking", "/health"),
        ("artifacts", "/api/2.0/mlflow-artifacts/artifacts?path=0"),
        ("authorizer", "/v1/tokens"),
        ("oci", "/v2/"),
    ] {
        let (status, _) = lambda.send(function, "GET", path, None).await;
        assert_eq!(status, 200, "{function}");
    }
    let (url, got) = receiver().await;
    let model = format!("/v1/models/{MODEL}");

    let subscription = lambda
        .expect(
            201,
            "notifications",
            "POST",
            "/v1/subscriptions",
            Some(json!({"url": url})),
        )
        .await;
    let secret = subscription["secret"].as_str().unwrap().to_owned();
    let body = json!({"name": MODEL, "description": UNLOGGED});
    lambda
        .expect(201, "register", "POST", "/v1/models", Some(body))
        .await;
    let bytes = safetensors(64, 1);
    let artifact =
        json!({"path": "model.safetensors", "size_bytes": bytes.len(), "digest": digest(&bytes)});
    let body = json!({"artifacts": [artifact]});
    lambda
        .expect(
            201,
            "register",
            "POST",
            &format!("{model}/versions"),
            Some(body),
        )
        .await;
    let version = format!("{model}/versions/1");
    let uploads = lambda
        .expect(
            200,
            "register",
            "POST",
            &format!("{version}/uploads"),
            Some(json!({})),
        )
        .await;
    let upload = &uploads["uploads"][0];
    let mut put = http_client().put(upload["url"].as_str().unwrap());
    for (name, value) in upload["headers"].as_object().unwrap() {
        put = put.header(name, value.as_str().unwrap());
    }
    assert_eq!(put.body(bytes.clone()).send().await.unwrap().status(), 200);
    lambda
        .expect(
            200,
            "register",
            "POST",
            &format!("{version}/finalize"),
            Some(json!({})),
        )
        .await;

    let went = lambda.deliver_all().await;
    for name in ["artifact-validation", "packaging", "notifications"] {
        assert!(went.contains(&name), "{name} had nothing to do: {went:?}");
    }
    let view = lambda.expect(200, "query", "GET", &version, None).await;
    assert_eq!(view["status"], "READY", "{view:#}");
    assert!(view["package"]["manifest_digest"].is_string(), "{view:#}");

    let alias = format!("{model}/aliases/champion");
    let body = json!({"version": 1, "expected_version": null, "reason": "the first"});
    lambda
        .expect(200, "promote", "PUT", &alias, Some(body))
        .await;
    lambda.deliver_all().await;
    assert_eq!(
        lambda.expect(200, "query", "GET", &alias, None).await["version"],
        1
    );

    let downloads = lambda
        .expect(200, "query", "GET", &format!("{version}/downloads"), None)
        .await;
    let download = http_client()
        .get(downloads["downloads"][0]["url"].as_str().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(
        download.bytes().await.unwrap(),
        bytes,
        "bytes downloaded equal bytes uploaded"
    );
    let repository = shared::domain::Repository {
        tenant: shared::domain::TenantName::default_tenant(),
        model: shared::domain::ModelName::parse(MODEL).unwrap(),
    };
    let pulled = format!("/v2/{repository}");
    let path = format!("{pulled}/manifests/1");
    let manifest = lambda.expect(200, "oci", "GET", &path, None).await;
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    assert_eq!(layer, digest(&bytes));
    let event = request("GET", &format!("{pulled}/blobs/{layer}"), None);
    let answer = lambda.function("oci").answer(event).await;
    assert_eq!(answer["statusCode"], 307, "{answer}");
    let event = request("HEAD", &format!("{pulled}/blobs/{layer}"), None);
    let answer = lambda.function("oci").answer(event).await;
    assert_eq!(answer["headers"]["content-length"], bytes.len().to_string());

    let page = lambda
        .expect(
            200,
            "query",
            "GET",
            &format!("{model}/events?limit=100"),
            None,
        )
        .await;
    for event in page["events"].as_array().unwrap() {
        let kind = event["type"].as_str().unwrap();
        if [
            "alias.set",
            "model.created",
            "version.finalized",
            "version.registered",
        ]
        .contains(&kind)
        {
            assert_eq!(event["actor"], CALLER, "{event:#}");
        }
    }
    let deliveries = got.lock().unwrap().clone();
    let mut kinds = Vec::new();
    for (headers, body) in &deliveries {
        assert!(is_signed(&secret, headers, body));
        let event: Value = serde_json::from_slice(body).unwrap();
        kinds.push(event["type"].as_str().unwrap().to_owned());
    }
    kinds.sort();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "alias.set",
            "model.created",
            "version.finalized",
            "version.packaged",
            "version.ready",
            "version.registered"
        ]
    );

    let config = lambda.stack.app().config.clone();
    let unlogged = [
        "X-Amz-Signature",
        "X-Amz-Credential",
        secret.as_str(),
        config.cursor_secret.as_str(),
        config.credentials.secret_access_key.as_str(),
        UNLOGGED,
    ];
    for function in &lambda.functions {
        let lines = function.stdout.lock().unwrap().clone();
        for line in &lines {
            let line: Value = serde_json::from_str(line)
                .unwrap_or_else(|_| panic!("{}: no JSON: {line}", function.name));
            assert!(
                line["message"].is_string() || line["_aws"].is_object(),
                "{}: {line}",
                function.name
            );
        }
        assert!(
            lines.iter().any(|line| line.contains("\"_aws\"")),
            "{} told no metric: {lines:#?}",
            function.name
        );
        let wrong = unlogged
            .iter()
            .find(|text| lines.iter().any(|line| line.contains(**text)));
        assert_eq!(wrong, None, "{} logged it: {lines:#?}", function.name);
        assert!(
            function.stderr.lock().unwrap().is_empty(),
            "{}: {:#?}",
            function.name,
            function.stderr.lock().unwrap()
        );
    }
    let lines = lambda.function("query").stdout.lock().unwrap().clone();
    let answered = lines
        .iter()
        .find(|line| line.contains("answered 200"))
        .expect("a request leaves a log line");
    assert!(
        answered.contains("K3yZ1hXmFiAEPjA="),
        "the gateway's request id is in the log: {answered}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_says_who_calls_and_for_which_tenant() {
    let mut lambda = Deployment::start(&["register", "query"]).await;
    let (status, body) = lambda
        .function("register")
        .http(recorded("api-iam-tenant-base64"))
        .await;
    assert_eq!(status, 201, "{body:#}");
    let events = lambda
        .expect(200, "query", "GET", "/t/team-a/v1/models/iris/events", None)
        .await;
    assert_eq!(events["events"][0]["actor"], CALLER);
    lambda
        .expect(404, "query", "GET", "/v1/models/iris", None)
        .await;

    let mut token = request("POST", "/v1/models", Some(&json!({"name": "iris"})));
    let authorized = recorded("api-jwt");
    token["requestContext"]["authorizer"] = authorized["requestContext"]["authorizer"].clone();
    assert_eq!(lambda.function("register").http(token).await.0, 201);
    let events = lambda
        .expect(200, "query", "GET", "/v1/models/iris/events", None)
        .await;
    assert_eq!(events["events"][0]["actor"], "ada@login.example");
    assert_eq!(
        lambda.function("query").http(authorized.clone()).await.0,
        200
    );
    let mut stranger = authorized;
    stranger["requestContext"]["authorizer"]["jwt"]["claims"]["sub"] =
        json!("ada@login.example.net");
    let (status, body) = lambda.function("query").http(stranger).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (403, &json!("permission_denied"))
    );

    // A header names nobody where the gateway authenticates.
    for authorizer in [
        Value::Null,
        json!({}),
        json!({"iam": {"userArn": null}}),
        json!({"jwt": {"claims": {}}}),
    ] {
        let mut nobody = request("GET", "/v1/models/iris", None);
        nobody["headers"]["x-slipway-actor"] = json!("ada");
        nobody["requestContext"]["authorizer"] = authorizer.clone();
        let (status, body) = lambda.function("query").http(nobody).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (401, &json!("unauthenticated")),
            "{authorizer}"
        );
    }
}

/// What the gateway asks its authorizer for a request, in payload format 2.0.
fn authorization(event: &Value) -> Value {
    let mut asked = event.clone();
    asked["type"] = json!("REQUEST");
    asked["routeArn"] =
        json!("arn:aws:execute-api:eu-central-1:123456789012:a1b2c3d4e5/$default/GET/v1/models");
    asked["identitySource"] = Value::Null;
    asked["requestContext"]
        .as_object_mut()
        .unwrap()
        .remove("authorizer");
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authorizer_says_who_calls_and_the_functions_believe_it_alone() {
    let mut lambda =
        Deployment::start(&["register", "query", "artifacts", "authorizer", "oci"]).await;
    let administrator = authorizer::administrator_token(TOKEN_SECRET);
    let mut known = Vec::new();
    for header in [
        json!(format!("Bearer {administrator}")),
        json!("Bearer slw_default_nonsense"),
        Value::Null,
    ] {
        let mut event = request("POST", "/v1/models", Some(&json!({"name": "iris"})));
        event["headers"]["authorization"] = header;
        let answer = lambda
            .function("authorizer")
            .answer(authorization(&event))
            .await;
        // The gateway lets everybody through, so that the refusal has a body that clients understand.
        assert_eq!(answer["isAuthorized"], true);
        assert!(!answer.to_string().contains("slw_"), "{answer}");
        known.push(answer["context"].clone());
    }
    assert_eq!(known[0]["principal"], "administrator");
    let with = |method, path, body: Option<&Value>, context: &Value| {
        let mut event = request(method, path, body);
        event["requestContext"]["authorizer"] = json!({ "lambda": context });
        event
    };
    let iris = json!({"name": "iris"});
    let event = with("POST", "/v1/models", Some(&iris), &known[0]);
    assert_eq!(lambda.function("register").http(event).await.0, 201);
    for context in [
        &known[1],
        &known[2],
        &json!({}),
        &json!({"principal": "ada"}),
    ] {
        let event = with("GET", "/v1/models/iris", None, context);
        let (status, body) = lambda.function("query").http(event).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (401, &json!("unauthenticated"))
        );
        let path = "/api/2.0/mlflow-artifacts/artifacts/0/r/artifacts/a";
        let (status, body) = lambda
            .function("artifacts")
            .http(with("GET", path, None, context))
            .await;
        assert_eq!(
            (status, &body["error_code"]),
            (401, &json!("UNAUTHENTICATED"))
        );
        assert!(body["message"].as_str().unwrap().len() > 10, "{body}");
    }
    // Who pulls is told where to bring a token, by the name under which the gateway was asked.
    let event = with("GET", "/v2/", None, &known[2]);
    let answer = lambda.function("oci").answer(event).await;
    assert_eq!(answer["statusCode"], 401);
    assert_eq!(
        answer["headers"]["www-authenticate"],
        "Bearer realm=\"https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com/v2/token\",service=\"slipway\""
    );
    // The route of tokens is the authorizer's own, and its HTTP side beside its other one.
    let new = json!({"name": "ci", "actions": ["read"], "groups": ["ml"]});
    let event = with("POST", "/v1/tokens", Some(&new), &known[0]);
    let (status, created) = lambda.function("authorizer").http(event).await;
    assert_eq!(status, 201, "{created:#}");
    let mut event = request("GET", "/v1/models/iris", None);
    let token = created["token"].as_str().unwrap();
    event["headers"]["authorization"] = json!(format!("Bearer {token}"));
    let answer = lambda
        .function("authorizer")
        .answer(authorization(&event))
        .await;
    assert_eq!(answer["context"]["identity"]["groups"], json!(["ml"]));
    let event = with("GET", "/v1/models/iris", None, &answer["context"]);
    assert_eq!(lambda.function("query").http(event).await.0, 200);
    let event = with(
        "PATCH",
        "/v1/models/iris",
        Some(&json!({"tags": {}})),
        &answer["context"],
    );
    let (status, body) = lambda.function("register").http(event).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (403, &json!("permission_denied"))
    );
    for function in ["authorizer", "query", "artifacts"] {
        let lines = lambda.function(function).stdout.lock().unwrap().join("\n");
        assert!(
            !lines.contains(token.rsplit('_').next().unwrap()),
            "{function} logged a token"
        );
        assert!(!lines.contains(&administrator), "{function} logged a token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_understood_however_the_gateway_writes_it() {
    let mut lambda = Deployment::start(&["register", "query"]).await;
    for name in [
        "Qualität #1 100% 検査",
        "a\\b",
        "a+b",
        "a%2g",
        "50%c4%20",
        "{x}|^`\"<>",
        "a;b=c,d&e",
    ] {
        lambda
            .expect(
                201,
                "register",
                "POST",
                "/v1/models",
                Some(json!({"name": name})),
            )
            .await;
        let view = lambda
            .expect(200, "query", "GET", &format!("/v1/models/{name}"), None)
            .await;
        assert_eq!(view["name"], name, "decoded");
        let encoded =
            percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
        let view = lambda
            .expect(200, "query", "GET", &format!("/v1/models/{encoded}"), None)
            .await;
        assert_eq!(view["name"], name, "encoded");
    }
    let (status, body) = lambda
        .function("query")
        .http(recorded("api-iam-decoded-path"))
        .await;
    assert_eq!(
        (status, &body["name"]),
        (200, &json!("Qualität #1 100% 検査"))
    );
    for query in [
        "prefix=<a>",
        "prefix=\"a b\"",
        "prefix=ä",
        "prefix=%",
        "prefix=%FF",
        "limit=1&limit=2",
    ] {
        let (status, body) = lambda
            .send("query", "GET", &format!("/v1/models?{query}"), None)
            .await;
        assert!(status < 500, "{query}: {status} {body:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_events_are_taken() {
    let mut lambda = Deployment::start(&[
        "register",
        "notifications",
        "artifact-validation",
        "packaging",
    ])
    .await;
    let nothing_failed = json!({"batchItemFailures": []});
    for (name, ..) in BOOTSTRAPS
        .into_iter()
        // Promote has no queue; its schedule is tried below with all others.
        .filter(|(name, _, takes_events)| *takes_events && *name != "promote")
    {
        let function = lambda.function(name);
        for event in ["sqs-s3-object-created", "sqs-s3-test-event"] {
            // The version that the notification tells of is not there, so there is nothing to do.
            assert_eq!(
                function.answer(recorded(event)).await,
                nothing_failed,
                "{name}: {event}"
            );
        }
        function.answer(recorded("scheduled")).await;
        let failed = function.answer(message(&json!("no notification"))).await;
        let id = recorded("sqs-s3-object-created")["Records"][0]["messageId"].clone();
        assert_eq!(
            failed,
            json!({"batchItemFailures": [{"itemIdentifier": id}]}),
            "{name}"
        );
    }
    let answer = lambda
        .function("notifications")
        .answer(recorded("dynamodb-stream"))
        .await;
    assert_eq!(
        answer, nothing_failed,
        "records that are no events are passed over"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_nobody_knows_fails_the_call_and_not_the_process() {
    let mut lambda = Deployment::start(&[]).await;
    for (name, answers_http, takes_events) in BOOTSTRAPS {
        let function = lambda.function(name);
        for event in [
            json!({"hello": "world"}),
            json!({}),
            json!([]),
            json!(null),
            json!("x"),
            json!({"Records": [{"eventSource": "aws:sns"}]}),
        ] {
            let error = function.error(event.clone()).await;
            assert!(
                error["errorType"].is_string() && error["errorMessage"].is_string(),
                "{name}: {event}: {error:#}"
            );
        }
        if takes_events {
            function.answer(recorded("scheduled")).await;
        } else {
            function.error(recorded("scheduled")).await;
        }
        if answers_http {
            let (status, body) = function.http(request("GET", "/nowhere", None)).await;
            assert_eq!(
                (status, &body["error"]["code"]),
                (404, &json!("route_not_found")),
                "{name}"
            );
        } else {
            function.error(recorded("api-iam")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_request_of_the_gateway_is_answered() {
    let mut lambda = Deployment::start(&["register", "query"]).await;
    let with = |pointer: &str, value: Value| {
        let mut event = request("POST", "/v1/models", Some(&json!({"name": "iris"})));
        *event.pointer_mut(pointer).unwrap() = value;
        event
    };
    let malformed = [
        with("/isBase64Encoded", json!(true)),
        with("/isBase64Encoded", json!("yes")),
        with("/body", json!(null)),
        with("/body", json!("{")),
        with("/body", json!(7)),
        with("/rawPath", json!(null)),
        with("/rawPath", json!("no path")),
        with("/rawPath", json!("//")),
        with("/headers", json!({"bad name": "x"})),
        with("/headers", json!(null)),
        with("/headers/host", json!("not a host")),
        with("/headers/x-forwarded-proto", json!(":")),
        with("/requestContext/http", json!({})),
        with("/requestContext/http/method", json!("NO METHOD")),
    ];
    for event in malformed {
        let (status, body) = lambda.function("register").http(event.clone()).await;
        // What the registry does not ask for, such as the host, does not matter.
        assert!(status < 500, "{status} {body:#} for {event}");
        assert_eq!(status >= 400, body["error"]["code"].is_string(), "{body:#}");
    }
    lambda
        .expect(
            201,
            "register",
            "POST",
            "/v1/models",
            Some(json!({"name": "rose"})),
        )
        .await;
    assert_eq!(
        lambda.function("register").stderr.lock().unwrap().len(),
        0,
        "nothing panicked"
    );
}

/// Most memory that a function's process ever held, in KiB, as Linux tells it.
fn peak_kib(function: &Function) -> u64 {
    let id = function.process.id().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn gibibytes_are_judged_in_32_mebibytes_of_memory() {
    let mut deployment = Deployment::start(&["artifact-validation", "register"]).await;
    let mut peaks = Vec::new();
    for (model, content) in [("small", 1 << 20), ("large", 1 << 30)] {
        let body = json!({ "name": model });
        deployment
            .expect(201, "register", "POST", "/v1/models", Some(body))
            .await;
        let (tensors, pickled) = (large::safetensors(content, 64), large::torch(content, 4));
        for (number, layout) in [(1, &tensors), (2, &pickled)] {
            let path = format!("/v1/models/{model}/versions");
            let body = Some(declaration(layout));
            deployment
                .expect(201, "register", "POST", &path, body)
                .await;
            let key = format!("incoming/default/{model}/{number}/{}", layout.name);
            put_layout(&deployment.stack.app().bucket, &key, layout).await;
            let waiting = deployment.stack.deliveries().await.unwrap();
            let upload = waiting
                .iter()
                .find(|delivery| delivery.what.contains(&key))
                .unwrap();
            let function = deployment.function("artifact-validation");
            let answer = function.answer(message(&upload.event)).await;
            assert_eq!(answer, json!({"batchItemFailures": []}));
            let id = shared::domain::VersionId {
                tenant: shared::domain::TenantName::default_tenant(),
                model: shared::domain::ModelName::parse(model).unwrap(),
                number: shared::domain::VersionNumber::new(number).unwrap(),
            };
            let version = deployment.stack.app().registry.version(&id).await.unwrap();
            assert_eq!(version.status, shared::domain::Status::Ready, "{model}");
        }
        peaks.push(peak_kib(deployment.function("artifact-validation")));
    }
    let grown = peaks[1] - peaks[0];
    assert!(grown <= 32 * 1024, "{peaks:?} KiB");
}
