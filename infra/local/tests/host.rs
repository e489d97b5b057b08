//! The host, as a person starts it and as a test drives it.

#![expect(clippy::unwrap_used, reason = "a helper that fails ends its test")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use local::{
    definition::Function,
    functions::Functions,
    stack::{ACCESS_KEY_ID, Outcome, PumpMode, SECRET_ACCESS_KEY, Stack, StackOptions, Storage},
};
use serde_json::{Value, json};
use shared::{
    App, Error, ErrorCode,
    domain::{Event, EventType, ModelName, Principal, TenantName, Timestamp},
    dynamodb::{WorkItem, WorkKind, keys},
};

/// How long a test waits for what should come at once, on a machine that is busy.
const PATIENCE: Duration = Duration::from_mins(1);

// ---- the binary ----

/// A running `slipway`; it is killed at the end of its test.
struct Slipway {
    process: Child,
    greeting: String,
    url: String,
    s3_url: String,
}

impl Slipway {
    fn start(arguments: &[&str]) -> Self {
        let mut process = command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut greeting = String::new();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        while !greeting.contains("Ctrl-C stops.") {
            assert!(lines.read_line(&mut greeting).unwrap() > 0, "{greeting}");
        }
        let address = |name: &str| {
            let line = greeting.lines().find(|line| line.contains(name)).unwrap();
            let mut words = line.split_whitespace();
            words.nth(1).unwrap().to_owned()
        };
        Self {
            url: address("  API "),
            s3_url: address("  S3 "),
            greeting,
            process,
        }
    }

    fn end(mut self, signal: &str) -> ExitStatus {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
        self.process.wait().unwrap()
    }
}

impl Drop for Slipway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipway"));
    command
        .args(["--port", "0", "--s3-port", "0"])
        .args(arguments);
    command
}

/// Runs a command line that must fail, and returns its exit code and the one line that it says.
fn refused(command: &mut Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

/// A client for plain HTTP; it still wants to know which cryptography it would use.
fn http_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

async fn get(url: &str) -> (u16, Value) {
    let response = http_client().get(url).send().await.unwrap();
    let status = response.status().as_u16();
    let body = response.text().await.unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

async fn post(url: &str, body: &Value) -> (u16, Value) {
    let sent = http_client().post(url).body(body.to_string()).send();
    let response = sent.await.unwrap();
    let status = response.status().as_u16();
    let body = response.text().await.unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

fn folder_arguments(folder: &Path) -> [&str; 2] {
    ["--data-dir", folder.to_str().unwrap()]
}

#[tokio::test]
async fn an_in_memory_registry_greets_answers_and_ends_on_sigterm() {
    let slipway = Slipway::start(&["--in-memory"]);
    for expected in [
        "temporary",
        "AWS_ACCESS_KEY_ID=slipway",
        "AWS_SECRET_ACCESS_KEY=slipway-local",
        "/v1/models -H",
    ] {
        assert!(
            slipway.greeting.contains(expected),
            "{expected}: {}",
            slipway.greeting
        );
    }
    let (status, body) = get(&format!("{}/healthz", slipway.url)).await;
    assert_eq!((status, &body["status"]), (200, &json!("ready")), "{body}");
    let (status, body) = get(&format!("{}/_local/dead-letters", slipway.url)).await;
    assert_eq!((status, body), (200, json!({ "dead_letters": [] })));
    let (status, body) = get(&format!("{}/nowhere", slipway.url)).await;
    assert_eq!(status, 404);
    assert_eq!(body["error"]["code"], "route_not_found");
    assert!(slipway.end("-TERM").success());
}

#[test]
fn ctrl_c_ends_it_with_success() {
    assert!(Slipway::start(&["--in-memory"]).end("-INT").success());
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let arguments = folder_arguments(&data);

    let first = Slipway::start(&arguments);
    put_object(&first.s3_url, "dropzone/default/iris/model.bin", "weights").await;
    let secret = fs::read_to_string(data.join("cursor-secret")).unwrap();
    first.end("-KILL");

    for _ in 0..3 {
        let next = Slipway::start(&arguments);
        let (status, _) = get(&format!("{}/healthz", next.url)).await;
        assert_eq!(status, 200);
        assert_eq!(
            get_object(&next.s3_url, "dropzone/default/iris/model.bin").await,
            "weights"
        );
        next.end("-KILL");
    }
    assert_eq!(
        fs::read_to_string(data.join("cursor-secret")).unwrap(),
        secret
    );
}

#[tokio::test]
async fn a_kill_at_any_moment_of_the_start_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for milliseconds in [0, 2, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200] {
        let mut process = command(&folder_arguments(&data))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let slipway = Slipway::start(&folder_arguments(&data));
    let (status, body) = get(&format!("{}/healthz", slipway.url)).await;
    assert_eq!(status, 200, "{body}");
}

#[test]
fn a_port_in_use_is_named_with_the_option_that_helps() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for option in ["--port", "--s3-port"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slipway"));
        let other = if option == "--port" {
            "--s3-port"
        } else {
            "--port"
        };
        let (code, error) = refused(command.args(["--in-memory", other, "0", option, &port]));
        assert_eq!(code, 1);
        assert_eq!(
            error,
            format!(
                "error: port {port} on 127.0.0.1 is in use; stop what uses it, or choose another one with `{option}`\n"
            )
        );
    }
}

#[test]
fn a_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Slipway::start(&folder_arguments(folder.path()));
    let (code, error) = refused(&mut command(&folder_arguments(folder.path())));
    assert_eq!(code, 1);
    assert!(error.contains("is in use by another slipway"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_folder_that_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let (code, error) = refused(&mut command(&folder_arguments(&file.join("data"))));
    assert_eq!(code, 1);
    assert!(error.contains("is not writable"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_folder_of_a_newer_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("FORMAT"), "99\n").unwrap();
    let (code, error) = refused(&mut command(&folder_arguments(folder.path())));
    assert_eq!(code, 1);
    assert!(error.contains("has format 99"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn an_address_that_others_reach_is_a_usage_error() {
    for host in ["0.0.0.0", "192.168.0.1", "::"] {
        let (code, error) = refused(&mut command(&["--in-memory", "--host", host]));
        assert_eq!(code, 2);
        assert!(error.contains("nothing authenticates them"), "{error}");
    }
}

#[test]
fn json_logs_are_json_lines() {
    let mut process = command(&["--in-memory", "--json-logs", "--log", "debug"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(process.stderr.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(serde_json::from_str::<Value>(&first).is_ok(), "{first}");
}

// ---- the stack ----

/// Records what a function received, and fails as often as it is told.
#[derive(Clone, Default)]
struct Recorder {
    events: Arc<Mutex<Vec<Value>>>,
    failures_left: Arc<AtomicU32>,
}

impl Recorder {
    fn failing(times: u32) -> Self {
        let recorder = Self::default();
        recorder.failures_left.store(times, Ordering::SeqCst);
        recorder
    }

    fn handle(&self, event: Value) -> shared::Result<Value> {
        self.events.lock().unwrap().push(event);
        let left = self
            .failures_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        match left {
            Ok(left) if left % 2 == 0 => panic!("as told"),
            Ok(_) => Err(Error::new(ErrorCode::Unavailable, "not now")),
            Err(_) => Ok(json!({ "batchItemFailures": [] })),
        }
    }

    fn instead_of(&self, functions: Functions, function: Function) -> Functions {
        let recorder = self.clone();
        functions.with_handler(function, move |_: App, event| {
            let recorder = recorder.clone();
            async move { recorder.handle(event) }
        })
    }

    fn count(&self) -> usize {
        self.events.lock().unwrap().len()
    }
}

/// The functions, none of which does anything but record.
fn recording() -> (Functions, BTreeMap<Function, Recorder>) {
    let mut functions = Functions::slipway();
    let mut recorders = BTreeMap::new();
    for function in Function::ALL {
        let recorder = Recorder::default();
        functions = recorder.instead_of(functions, function);
        recorders.insert(function, recorder);
    }
    (functions, recorders)
}

async fn manual(functions: Functions) -> Stack {
    Stack::start(StackOptions {
        pump: PumpMode::Manual,
        functions,
        ..StackOptions::default()
    })
    .await
    .unwrap()
}

fn s3_client(url: &str) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version_latest()
        .region(aws_sdk_s3::config::Region::new("us-east-1"))
        .credentials_provider(aws_sdk_s3::config::Credentials::new(
            ACCESS_KEY_ID,
            SECRET_ACCESS_KEY,
            None,
            None,
            "test",
        ))
        .endpoint_url(url)
        .force_path_style(true)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

async fn put_object(url: &str, key: &str, body: &str) {
    s3_client(url)
        .put_object()
        .bucket("slipway")
        .key(key)
        .body(body.as_bytes().to_vec().into())
        .send()
        .await
        .unwrap();
}

async fn get_object(url: &str, key: &str) -> String {
    let object = s3_client(url)
        .get_object()
        .bucket("slipway")
        .key(key)
        .send()
        .await
        .unwrap();
    String::from_utf8(object.body.collect().await.unwrap().to_vec()).unwrap()
}

/// An event of no model, whose id is given.
fn event(id: &str) -> Event {
    Event {
        id: id.to_owned(),
        schema_version: 1,
        kind: EventType::SubscriptionTested,
        tenant: TenantName::default_tenant(),
        model: None,
        model_id: None,
        version: None,
        alias: None,
        sequence: None,
        actor: Principal::parse("ada").unwrap(),
        reason: None,
        time: Timestamp::from_millis(1_000),
        request_id: "request".to_owned(),
        data: serde_json::Map::new(),
        chain: None,
    }
}

/// Records an event, so that the stream has a record that somebody is called for, and one that nobody is.
async fn change_table(stack: &Stack, id: &str) {
    let registry = &stack.app().registry;
    let unseen = WorkItem {
        kind: WorkKind::Package,
        due: Timestamp::from_millis(9_000_000_000_000),
        subject: id.to_owned(),
    };
    registry.add_work(&unseen).await.unwrap();
    registry.record_event(&event(id), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_prefix_reaches_its_function_as_lambda_would_see_it() {
    let (functions, recorders) = recording();
    let stack = manual(functions).await;
    for (key, function) in [
        (
            "incoming/default/my model/1/a",
            Function::ArtifactValidation,
        ),
        ("reports/default/iris/1/r.json", Function::Packaging),
        (
            "packages/default/iris/1/manifest.json",
            Function::Notifications,
        ),
        ("dropzone/default/iris/a", Function::Register),
    ] {
        put_object(&stack.s3_url(), key, "bytes").await;
        let delivered = stack.drain().await.unwrap();
        assert_eq!(delivered.len(), 1, "{delivered:?}");
        assert_eq!(delivered[0].function, function);
        assert_eq!(delivered[0].what, format!("ObjectCreated {key}"));
        assert_eq!(delivered[0].outcome, Outcome::Done);
        let event = recorders[&function].events.lock().unwrap().remove(0);
        assert_eq!(event["Records"][0]["eventSource"], "aws:sqs");
        let body = event["Records"][0]["body"].as_str().unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            body["Records"][0]["s3"]["object"]["key"],
            key.replace(' ', "+")
        );
        assert!(body["Records"][0]["s3"]["object"]["versionId"].is_string());
    }
    put_object(&stack.s3_url(), "documents/default/d.json", "{}").await;
    assert_eq!(stack.drain().await.unwrap(), []);
    stack.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_message_is_retried_without_waiting_and_ends_as_a_dead_letter() {
    let recorder = Recorder::failing(7);
    let stack = manual(recorder.instead_of(Functions::slipway(), Function::Register)).await;
    put_object(&stack.s3_url(), "dropzone/default/iris/a", "bytes").await;
    let started = Instant::now();
    let delivered = stack.drain().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "it waited");
    assert_eq!(delivered.len(), 5);
    assert!(
        matches!(&delivered[3].outcome, Outcome::Retry(reason) if reason.ends_with("panicked: as told")),
        "{delivered:?}"
    );
    assert!(
        matches!(&delivered[4].outcome, Outcome::DeadLetter(reason) if reason.contains("not now")),
        "{delivered:?}"
    );
    let letters = stack.dead_letters().unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].queue, "register");

    let url = format!("{}/_local/dead-letters", stack.url());
    let (_, listed) = get(&url).await;
    assert_eq!(
        listed["dead_letters"][0]["what"],
        "ObjectCreated dropzone/default/iris/a"
    );
    let (status, error) = post(&format!("{url}/redrive"), &json!({ "id": "none" })).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (400, &json!("invalid_argument"))
    );
    let (status, answer) = post(&format!("{url}/redrive"), &json!({})).await;
    assert_eq!((status, answer), (200, json!({ "redriven": 1 })));
    let delivered = stack.drain().await.unwrap();
    assert_eq!(delivered.len(), 3, "two more failures, then success");
    assert!(stack.dead_letters().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_records_come_in_any_order_twice_or_never() {
    let (functions, recorders) = recording();
    let stack = manual(functions).await;
    for subject in ["a", "b", "c"] {
        change_table(&stack, subject).await;
    }
    let seen = || {
        let mut events = recorders[&Function::Notifications].events.lock().unwrap();
        let images: Vec<String> = events
            .drain(..)
            .map(|event| {
                let image = &event["Records"][0]["dynamodb"]["NewImage"];
                let event: Event =
                    serde_json::from_str(image["event"]["S"].as_str().unwrap()).unwrap();
                event.id
            })
            .collect();
        images
    };
    let pending = stack.deliveries().await.unwrap();
    assert_eq!(pending.len(), 3);
    let expected = keys::tenant_event(&TenantName::default_tenant(), "a");
    assert_eq!(
        pending[0].what,
        format!("INSERT {} {}", expected.pk, expected.sk)
    );

    stack.deliver(&pending[2].id).await.unwrap();
    let copy = stack.duplicate(&pending[0].id).unwrap();
    stack.drop_delivery(&pending[1].id).unwrap();
    stack.deliver(&copy).await.unwrap();
    assert_eq!(seen(), ["c", "a"]);
    assert!(stack.deliver(&pending[1].id).await.is_err());
    assert_eq!(stack.drain().await.unwrap().len(), 1);
    assert_eq!(seen(), ["a"]);
    assert!(stack.deliveries().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_come_in_any_order_twice_or_never() {
    let (functions, recorders) = recording();
    let stack = manual(functions).await;
    for name in ["a", "b", "c"] {
        put_object(
            &stack.s3_url(),
            &format!("dropzone/default/iris/{name}"),
            name,
        )
        .await;
    }
    let pending = stack.deliveries().await.unwrap();
    let copy = stack.duplicate(&pending[1].id).unwrap();
    stack.drop_delivery(&pending[0].id).unwrap();
    stack.deliver(&pending[2].id).await.unwrap();
    stack.deliver(&copy).await.unwrap();
    let delivered = stack.drain().await.unwrap();
    assert_eq!(delivered.len(), 1);
    assert_eq!(delivered[0].id, pending[1].id);
    assert_eq!(recorders[&Function::Register].count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_always_fails_is_given_up_and_the_stream_goes_on() {
    let recorder = Recorder::failing(11);
    let stack = manual(recorder.instead_of(Functions::slipway(), Function::Notifications)).await;
    change_table(&stack, "a").await;
    change_table(&stack, "b").await;
    let delivered = stack.drain().await.unwrap();
    // Ten attempts in the stream, one as a message, one for the record behind it.
    assert_eq!(delivered.len(), 12, "{delivered:?}");
    let letters = stack.dead_letters().unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].queue, "notifications-stream");
    assert_eq!(recorder.count(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_and_a_shutdown_leave_what_was_not_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let (functions, _) = recording();
    let start = || {
        Stack::start(StackOptions {
            storage: Storage::Folder(folder.path().to_owned()),
            pump: PumpMode::Manual,
            functions: functions.clone(),
            ..StackOptions::default()
        })
    };
    let stack = start().await.unwrap();
    put_object(&stack.s3_url(), "incoming/default/iris/1/a", "bytes").await;
    change_table(&stack, "a").await;
    stack.crash().await;
    let stack = start().await.unwrap();
    assert_eq!(stack.deliveries().await.unwrap().len(), 2);
    stack.shutdown().await;
    let stack = start().await.unwrap();
    assert_eq!(stack.drain().await.unwrap().len(), 2);
    stack.crash().await;
    let stack = start().await.unwrap();
    assert!(stack.deliveries().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_calls_every_function_with_a_schedule_event() {
    let (functions, recorders) = recording();
    let stack = manual(functions).await;
    let outcomes = stack.sweep().await;
    assert_eq!(outcomes.len(), recorders.len());
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()));
    for recorder in recorders.values() {
        let events = recorder.events.lock().unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["detail-type"], "Scheduled Event");
        let incoming = shared::events::Incoming::parse(&events[0]).unwrap();
        assert!(matches!(incoming, shared::events::Incoming::Schedule));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn automatic_pumps_retry_until_nothing_is_left() {
    let (functions, recorders) = recording();
    let register = Recorder::failing(1);
    let stream = Recorder::failing(2);
    let functions = register.instead_of(functions, Function::Register);
    let functions = stream.instead_of(functions, Function::Notifications);
    let stack = Stack::start(StackOptions {
        functions,
        ..StackOptions::default()
    })
    .await
    .unwrap();
    assert!(stack.drain().await.is_err(), "deliveries are not by hand");
    put_object(&stack.s3_url(), "dropzone/default/iris/a", "bytes").await;
    put_object(&stack.s3_url(), "incoming/default/iris/1/a", "bytes").await;
    for subject in ["a", "b", "c"] {
        change_table(&stack, subject).await;
    }
    tokio::time::timeout(PATIENCE, stack.idle())
        .await
        .unwrap()
        .unwrap();
    let messages = |recorder: &Recorder| {
        let events = recorder.events.lock().unwrap();
        let is_message = |event: &&Value| event.get("Records").is_some();
        events.iter().filter(is_message).count()
    };
    assert!(messages(&register) >= 1);
    assert_eq!(messages(&recorders[&Function::ArtifactValidation]), 1);
    assert!(messages(&stream) >= 1);
    assert!(stack.dead_letters().unwrap().is_empty());
    let (_, state) = get(&format!("{}/_local/state", stack.url())).await;
    assert_eq!(state["idle"], true, "{state}");
    stack.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_reach_the_functions_and_other_addresses_are_refused() {
    let stack = Stack::start(StackOptions {
        settings: BTreeMap::from([
            ("PRESIGN_SECONDS".to_owned(), "7".to_owned()),
            ("TRUST_ACTOR_HEADER".to_owned(), "false".to_owned()),
        ]),
        ..StackOptions::default()
    })
    .await
    .unwrap();
    assert_eq!(stack.app().config.presign_seconds, 7);
    assert!(!stack.app().config.trust_actor_header);
    assert_eq!(stack.app().config.drop_zone_quiet_seconds, 3);

    let refused = Stack::start(StackOptions {
        http: "0.0.0.0:0".parse().unwrap(),
        ..StackOptions::default()
    });
    let error = refused.await.unwrap_err().to_string();
    assert!(error.contains("nothing authenticates"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_tells_that_the_store_is_gone() {
    let stack = manual(Functions::slipway()).await;
    let name = ModelName::parse("iris").unwrap();
    let tenant = TenantName::default_tenant();
    let found = stack.app().registry.model(&tenant, &name).await;
    assert_eq!(found.unwrap_err().code, ErrorCode::ModelNotFound);
    let url = format!("{}/healthz", stack.url());
    assert_eq!(get(&url).await.0, 200);
    let s3 = s3_client(&stack.s3_url());
    s3.delete_bucket().bucket("slipway").send().await.unwrap();
    let (status, body) = get(&url).await;
    assert_eq!((status, &body["status"]), (503, &json!("broken")), "{body}");
    assert_eq!(body["table"], "ok");
}
