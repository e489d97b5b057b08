//! The HTTP operations against an in-memory registry, and the same DynamoDB requests sent by the SDK alone.
//!
//! Both go to the embedded DynamoDB of one stack, over loopback and without pumps, so that nothing else runs.

use anyhow::{Context as _, ensure};
use aws_sdk_dynamodb::config::{Credentials, Region};
use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream;
use local::definition::TABLE;
use local::stack::{PumpMode, Stack, StackOptions};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How many requests are under way at once.
const CONNECTIONS: [usize; 3] = [1, 8, 32];

/// The number of versions that the listed model has.
const VERSIONS: usize = 20;

/// The number of models that versions are registered of.
const REGISTERED: usize = 64;

/// Something to measure: called with a number that differs from call to call.
type Operation = Arc<dyn Fn(usize) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

/// What was measured.
struct Measured {
    per_second: f64,
    median: Duration,
    slow: Duration,
}

/// Runs all measurements, and prints a table.
pub(crate) async fn run(requests: usize) -> anyhow::Result<()> {
    // The client for plain HTTP still wants to know which cryptography it would use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = StackOptions {
        pump: PumpMode::Manual,
        ..StackOptions::default()
    };
    let stack = Stack::start(options).await?;
    let api = Api {
        client: reqwest::Client::new(),
        url: stack.url(),
    };
    let table = raw_client(&stack)?;
    prepare(&api, &stack).await?;

    println!(
        "| Operation | Connections | Requests/s | Median µs | 99 % µs | Raw median µs | Overhead |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (name, operation, raw) in operations(&api, &table) {
        for connections in CONNECTIONS {
            // Connections are opened and caches filled before anything counts.
            measure(&operation, connections * 2, connections).await?;
            measure(&raw, connections * 2, connections).await?;
            let ours = measure(&operation, requests, connections).await?;
            let store = measure(&raw, requests, connections).await?;
            println!(
                "| {name} | {connections} | {:.0} | {} | {} | {} | {:.2} |",
                ours.per_second,
                ours.median.as_micros(),
                ours.slow.as_micros(),
                store.median.as_micros(),
                ours.median.as_secs_f64() / store.median.as_secs_f64(),
            );
        }
    }
    stack.shutdown().await;
    Ok(())
}

/// A caller of the API.
#[derive(Clone)]
struct Api {
    client: reqwest::Client,
    url: String,
}

impl Api {
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status();
        let body: Value = response.json().await?;
        ensure!(status.is_success(), "{path} answered {status}: {body}");
        Ok(body)
    }
}

/// The client of the store, with nothing of ours around it.
fn raw_client(stack: &Stack) -> anyhow::Result<aws_sdk_dynamodb::Client> {
    let config = &stack.app().config;
    let endpoint = config
        .dynamodb_endpoint
        .as_ref()
        .context("the embedded DynamoDB has an address")?;
    let keys = &config.credentials;
    let credentials = Credentials::new(
        &keys.access_key_id,
        &keys.secret_access_key,
        None,
        None,
        "bench",
    );
    let settings = aws_sdk_dynamodb::Config::builder()
        .behavior_version_latest()
        .region(Region::new(config.region.clone()))
        .credentials_provider(credentials)
        .endpoint_url(endpoint)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Ok(aws_sdk_dynamodb::Client::from_conf(settings))
}

/// Makes what is read and promoted: a model with ready versions.
async fn prepare(api: &Api, stack: &Stack) -> anyhow::Result<()> {
    // A safetensors file without a tensor, which is the smallest that is whole.
    let bytes = b"\x02\0\0\0\0\0\0\0{}".to_vec();
    api.send(
        Method::POST,
        "/v1/models",
        Some(json!({"name": "measured"})),
    )
    .await?;
    for version in 1..=VERSIONS {
        let path = "/v1/models/measured/versions";
        api.send(Method::POST, path, Some(declaration(&bytes)))
            .await?;
        let path = format!("{path}/{version}");
        let uploads = api
            .send(Method::POST, &format!("{path}/uploads"), Some(json!({})))
            .await?;
        let upload = &uploads["uploads"][0];
        let mut put = api
            .client
            .put(upload["url"].as_str().context("an upload has a URL")?);
        for (name, value) in upload["headers"]
            .as_object()
            .context("an upload has headers")?
        {
            put = put.header(name, value.as_str().unwrap_or_default());
        }
        put.body(bytes.clone()).send().await?.error_for_status()?;
        api.send(Method::POST, &format!("{path}/finalize"), Some(json!({})))
            .await?;
    }
    stack.drain().await?;
    let first = api
        .send(Method::GET, "/v1/models/measured/versions/1", None)
        .await?;
    ensure!(
        first["status"] == "READY",
        "a version is not ready: {first}"
    );
    let alias = json!({"version": 1, "expected_version": null});
    let path = "/v1/models/measured/aliases/champion";
    api.send(Method::PUT, path, Some(alias)).await?;
    for number in 0..REGISTERED {
        let name = json!({"name": format!("registered-{number}")});
        api.send(Method::POST, "/v1/models", Some(name)).await?;
    }
    Ok(())
}

fn declaration(bytes: &[u8]) -> Value {
    let digest = shared::domain::Digest::of(bytes).to_string();
    json!({"artifacts": [{"path": "m.safetensors", "size_bytes": bytes.len(), "digest": digest}]})
}

/// Every operation, with the request to the store that it stands for.
fn operations(
    api: &Api,
    table: &aws_sdk_dynamodb::Client,
) -> Vec<(&'static str, Operation, Operation)> {
    let call = |method: Method,
                path: fn(usize) -> String,
                body: fn(usize) -> Option<Value>|
     -> Operation {
        let api = api.clone();
        Arc::new(move |number| {
            let (api, method) = (api.clone(), method.clone());
            Box::pin(async move {
                api.send(method, &path(number), body(number))
                    .await
                    .map(drop)
            })
        })
    };
    let writes = |items: usize| transaction(table, items);
    vec![
        (
            "create model",
            call(
                Method::POST,
                |_| "/v1/models".into(),
                |number| Some(json!({"name": format!("model-{number}")})),
            ),
            writes(2),
        ),
        (
            "register version",
            // A model for each connection, since versions of one model stand in line by design.
            call(
                Method::POST,
                |number| format!("/v1/models/registered-{}/versions", number % REGISTERED),
                |_| Some(declaration(b"\x02\0\0\0\0\0\0\0{}")),
            ),
            writes(3),
        ),
        (
            "get version",
            call(
                Method::GET,
                |_| "/v1/models/measured/versions/7".into(),
                |_| None,
            ),
            read(table, "V#0000000007"),
        ),
        (
            "get by alias",
            call(
                Method::GET,
                |_| "/v1/models/measured/aliases/champion".into(),
                |_| None,
            ),
            read(table, "A#champion"),
        ),
        (
            "list a page of 20",
            call(
                Method::GET,
                |_| "/v1/models/measured/versions?limit=20".into(),
                |_| None,
            ),
            page(table),
        ),
        (
            "promote",
            // An alias each, since changes of one alias stand in line by design.
            call(
                Method::PUT,
                |number| format!("/v1/models/measured/aliases/alias-{number}"),
                |number| Some(json!({"version": number % VERSIONS + 1, "expected_version": null})),
            ),
            writes(3),
        ),
    ]
}

/// The raw counterpart of a write: one transaction of so many small items.
fn transaction(table: &aws_sdk_dynamodb::Client, items: usize) -> Operation {
    let table = table.clone();
    Arc::new(move |number| {
        let mut request = table.transact_write_items();
        for item in 0..items {
            let put = Put::builder()
                .table_name(TABLE)
                .item("pk", AttributeValue::S(format!("raw-{number}")))
                .item("sk", AttributeValue::S(format!("{item}")))
                .item("data", AttributeValue::S("x".repeat(400)))
                .condition_expression("attribute_not_exists(pk)")
                .build();
            request =
                request.transact_items(TransactWriteItem::builder().set_put(put.ok()).build());
        }
        Box::pin(async move { Ok(request.send().await.map(drop)?) })
    })
}

/// The raw counterpart of reading one item.
fn read(table: &aws_sdk_dynamodb::Client, sk: &'static str) -> Operation {
    let table = table.clone();
    Arc::new(move |_| {
        let request = table
            .get_item()
            .table_name(TABLE)
            .key("pk", AttributeValue::S(MEASURED.into()))
            .key("sk", AttributeValue::S(sk.into()));
        Box::pin(async move {
            let found = request.send().await?;
            ensure!(found.item.is_some(), "there is no item {sk}");
            Ok(())
        })
    })
}

/// The raw counterpart of a page.
fn page(table: &aws_sdk_dynamodb::Client) -> Operation {
    let table = table.clone();
    Arc::new(move |_| {
        let request = table
            .query()
            .table_name(TABLE)
            .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
            .expression_attribute_values(":pk", AttributeValue::S(MEASURED.into()))
            .expression_attribute_values(":sk", AttributeValue::S("V#".into()))
            .scan_index_forward(false)
            .limit(20);
        Box::pin(async move {
            let found = request.send().await?;
            ensure!(found.count == 20, "{} items", found.count);
            Ok(())
        })
    })
}

/// The partition of the measured model.
const MEASURED: &str = "T#default#M#measured";

/// Counts calls over all measurements, so that names do not repeat.
static CALLS: AtomicUsize = AtomicUsize::new(0);

async fn measure(
    operation: &Operation,
    requests: usize,
    connections: usize,
) -> anyhow::Result<Measured> {
    let started = Instant::now();
    let first = CALLS.fetch_add(requests, Ordering::Relaxed);
    let mut times = Vec::with_capacity(requests);
    let mut calls = stream::iter(first..first + requests)
        .map(|number| {
            let call = operation(number);
            tokio::spawn(async move {
                let started = Instant::now();
                call.await.map(|()| started.elapsed())
            })
        })
        .buffer_unordered(connections);
    while let Some(time) = calls.next().await {
        times.push(time??);
    }
    let elapsed = started.elapsed();
    times.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "a count of requests is small")]
    let per_second = requests as f64 / elapsed.as_secs_f64();
    Ok(Measured {
        per_second,
        median: times[times.len() / 2],
        slow: times[(times.len() - 1) * 99 / 100],
    })
}
