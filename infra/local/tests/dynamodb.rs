//! What the registry relies on in DynamoDB and its streams, checked on the embedded engine through the AWS SDK.

#![expect(clippy::unwrap_used, reason = "a helper that fails ends its test")]

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use aws_sdk_dynamodb::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    error::SdkError,
    operation::transact_write_items::{TransactWriteItemsError, TransactWriteItemsOutput},
    primitives::Blob,
    types::{
        AttributeValue, CancellationReason, ConditionCheck, KeysAndAttributes, Put,
        ReturnConsumedCapacity, ReturnValuesOnConditionCheckFailure as OnFailure,
        TransactWriteItem, Update,
    },
};
use local::{
    clock::Clock,
    data_folder::{DataFolder, DataFolderError},
    dynamodb::{Engine, Error, Stream, to_stream_event},
    queues::{QueueDefinition, Queues},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const TABLE: &str = "registry";

/// A clock that is ahead of the operating system's by as much as a test wants.
#[derive(Clone, Default)]
struct Time(Arc<AtomicU64>);

impl Time {
    fn pass(&self, duration: Duration) {
        self.0.fetch_add(duration.as_secs(), Ordering::SeqCst);
    }

    fn clock(&self) -> Clock {
        let time = self.clone();
        Arc::new(move || now() + Duration::from_secs(time.0.load(Ordering::SeqCst)))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the engine stamps stream records with this clock"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

fn definition() -> Value {
    json!({
        "TableName": TABLE,
        "AttributeDefinitions": [
            { "AttributeName": "PK", "AttributeType": "S" },
            { "AttributeName": "SK", "AttributeType": "S" },
            { "AttributeName": "g", "AttributeType": "S" },
        ],
        "KeySchema": [
            { "AttributeName": "PK", "KeyType": "HASH" },
            { "AttributeName": "SK", "KeyType": "RANGE" },
        ],
        "GlobalSecondaryIndexes": [{
            "IndexName": "work",
            "KeySchema": [{ "AttributeName": "g", "KeyType": "HASH" }],
            "Projection": { "ProjectionType": "KEYS_ONLY" },
        }],
        "BillingMode": "PAY_PER_REQUEST",
        "StreamSpecification": { "StreamViewType": "NEW_IMAGE" },
        "TimeToLiveSpecification": { "AttributeName": "ttl", "Enabled": true },
    })
}

/// A served engine with the table, and clients for it.
struct Served {
    engine: Engine,
    client: Client,
    endpoint: String,
    time: Time,
}

fn http_client() -> aws_sdk_dynamodb::config::SharedHttpClient {
    aws_smithy_http_client::Builder::new().build_http()
}

fn credentials() -> Credentials {
    Credentials::new("local", "local", None, None, "test")
}

async fn serve_folder(folder: &DataFolder) -> Served {
    let time = Time::default();
    let engine = Engine::open(folder, time.clock()).unwrap();
    engine.create_table(definition()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn({
        let engine = engine.clone();
        async move { engine.serve(listener, std::future::pending()).await }
    });
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials())
        .endpoint_url(&endpoint)
        .http_client(http_client())
        .build();
    Served {
        engine,
        client: Client::from_conf(config),
        endpoint,
        time,
    }
}

async fn serve() -> Served {
    serve_folder(&DataFolder::temporary().unwrap()).await
}

fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

#[expect(clippy::needless_pass_by_value, reason = "numbers are copied")]
fn n(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn key(pk: &str, sk: &str) -> HashMap<String, AttributeValue> {
    HashMap::from([("PK".to_owned(), s(pk)), ("SK".to_owned(), s(sk))])
}

fn put(pk: &str, sk: &str) -> aws_sdk_dynamodb::types::builders::PutBuilder {
    Put::builder()
        .table_name(TABLE)
        .item("PK", s(pk))
        .item("SK", s(sk))
}

impl Served {
    async fn put(&self, pk: &str, sk: &str, value: impl ToString) {
        let request = self
            .client
            .put_item()
            .table_name(TABLE)
            .set_item(Some(key(pk, sk)));
        request.item("v", n(value)).send().await.unwrap();
    }

    async fn get(&self, pk: &str, sk: &str) -> Option<HashMap<String, AttributeValue>> {
        let request = self
            .client
            .get_item()
            .table_name(TABLE)
            .set_key(Some(key(pk, sk)));
        request.consistent_read(true).send().await.unwrap().item
    }

    async fn transact(
        &self,
        items: Vec<TransactWriteItem>,
    ) -> Result<TransactWriteItemsOutput, SdkError<TransactWriteItemsError>> {
        self.client
            .transact_write_items()
            .set_transact_items(Some(items))
            .send()
            .await
    }

    fn stream(&self, consumer: &str) -> Stream {
        self.engine.stream(TABLE, consumer).unwrap()
    }
}

fn reasons(error: SdkError<TransactWriteItemsError>) -> Vec<CancellationReason> {
    match error.into_service_error() {
        TransactWriteItemsError::TransactionCanceledException(canceled) => {
            canceled.cancellation_reasons.unwrap()
        }
        other => panic!("{other:?}"),
    }
}

fn sort_keys(items: Option<Vec<HashMap<String, AttributeValue>>>) -> Vec<String> {
    items
        .unwrap()
        .iter()
        .map(|item| item["SK"].as_s().unwrap().clone())
        .collect()
}

// Writes

#[tokio::test]
async fn a_refused_put_or_update_answers_with_the_item_that_is_there() {
    let served = serve().await;
    served.put("a", "1", 7).await;
    let error = served
        .client
        .put_item()
        .table_name(TABLE)
        .set_item(Some(key("a", "1")))
        .condition_expression("attribute_not_exists(PK)")
        .return_values_on_condition_check_failure(OnFailure::AllOld)
        .send()
        .await
        .unwrap_err()
        .into_service_error();
    let aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(
        failed,
    ) = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(failed.item.unwrap()["v"], n(7));

    let error = served
        .client
        .update_item()
        .table_name(TABLE)
        .set_key(Some(key("a", "1")))
        .update_expression("SET v = v + :one")
        .condition_expression("v = :six")
        .expression_attribute_values(":one", n(1))
        .expression_attribute_values(":six", n(6))
        .return_values_on_condition_check_failure(OnFailure::AllOld)
        .send()
        .await
        .unwrap_err()
        .into_service_error();
    let aws_sdk_dynamodb::operation::update_item::UpdateItemError::ConditionalCheckFailedException(
        failed,
    ) = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(failed.item.unwrap()["v"], n(7));
    assert_eq!(served.get("a", "1").await.unwrap()["v"], n(7));
}

#[tokio::test]
async fn a_refused_transaction_changes_nothing_and_names_the_item_that_refused_it() {
    let served = serve().await;
    served.put("a", "1", 7).await;
    let refused = put("a", "1")
        .condition_expression("attribute_not_exists(PK)")
        .return_values_on_condition_check_failure(OnFailure::AllOld)
        .build()
        .unwrap();
    let check = ConditionCheck::builder()
        .table_name(TABLE)
        .set_key(Some(key("a", "absent")))
        .condition_expression("attribute_exists(PK)")
        .return_values_on_condition_check_failure(OnFailure::AllOld)
        .build()
        .unwrap();
    let error = served
        .transact(vec![
            TransactWriteItem::builder()
                .put(put("a", "2").build().unwrap())
                .build(),
            TransactWriteItem::builder().put(refused).build(),
            TransactWriteItem::builder().condition_check(check).build(),
        ])
        .await
        .unwrap_err();
    let reasons = reasons(error);
    let codes: Vec<_> = reasons
        .iter()
        .map(|reason| reason.code.as_deref().unwrap())
        .collect();
    assert_eq!(
        codes,
        ["None", "ConditionalCheckFailed", "ConditionalCheckFailed"]
    );
    assert_eq!(reasons[1].item.as_ref().unwrap()["v"], n(7));
    assert!(reasons[2].item.as_ref().is_none_or(HashMap::is_empty));
    assert_eq!(served.get("a", "2").await, None);
}

#[tokio::test]
async fn a_transaction_with_a_known_token_is_not_applied_twice() {
    let served = serve().await;
    served.put("a", "1", 0).await;
    let transact = |by: i32| {
        let update = Update::builder()
            .table_name(TABLE)
            .set_key(Some(key("a", "1")))
            .update_expression("ADD v :by")
            .expression_attribute_values(":by", n(by))
            .build()
            .unwrap();
        served
            .client
            .transact_write_items()
            .transact_items(TransactWriteItem::builder().update(update).build())
            .client_request_token("token")
            .send()
    };
    transact(1).await.unwrap();
    transact(1).await.unwrap();
    assert_eq!(served.get("a", "1").await.unwrap()["v"], n(1));
    let error = transact(2).await.unwrap_err().into_service_error();
    assert!(
        error.is_idempotent_parameter_mismatch_exception(),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_concurrent_registrations_count_without_a_gap() {
    let served = Arc::new(serve().await);
    served.put("model", "#", 0).await;
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let served = Arc::clone(&served);
            tokio::spawn(async move {
                let mut guess = 0;
                loop {
                    let next = guess + 1;
                    let head = Update::builder()
                        .table_name(TABLE)
                        .set_key(Some(key("model", "#")))
                        .update_expression("SET v = :next")
                        .condition_expression("v = :guess")
                        .expression_attribute_values(":next", n(next))
                        .expression_attribute_values(":guess", n(guess))
                        .return_values_on_condition_check_failure(OnFailure::AllOld)
                        .build()
                        .unwrap();
                    let version = put("model", &format!("V#{next:010}"))
                        .condition_expression("attribute_not_exists(PK)")
                        .build()
                        .unwrap();
                    let result = served
                        .transact(vec![
                            TransactWriteItem::builder().update(head).build(),
                            TransactWriteItem::builder().put(version).build(),
                        ])
                        .await;
                    match result {
                        Ok(_) => return next,
                        Err(error) => {
                            let reasons = reasons(error);
                            let head = reasons[0].item.as_ref().unwrap();
                            guess = head["v"].as_n().unwrap().parse().unwrap();
                        }
                    }
                }
            })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=50).collect::<Vec<i32>>());
}

#[tokio::test]
async fn an_item_beyond_400_kb_is_refused() {
    let served = serve().await;
    let put = |size: usize| {
        let request = served
            .client
            .put_item()
            .table_name(TABLE)
            .set_item(Some(key("a", "1")));
        request
            .item("v", AttributeValue::B(Blob::new(vec![0; size])))
            .send()
    };
    // Names and keys count: `PK`, `a`, `SK`, `1` and `v` are seven bytes.
    put(400 * 1024 - 7).await.unwrap();
    let error = put(400 * 1024 - 6).await.unwrap_err().into_service_error();
    assert_eq!(
        error.meta().code(),
        Some("ValidationException"),
        "{error:?}"
    );
    assert!(
        error
            .meta()
            .message()
            .unwrap()
            .contains("exceeded the maximum allowed size")
    );
}

// Reads

#[tokio::test]
async fn a_query_pages_through_a_prefix_in_both_directions() {
    let served = serve().await;
    for number in 1..=7 {
        served.put("a", &format!("V#{number:010}"), number).await;
    }
    served.put("a", "A#champion", 0).await;
    served.put("a", "W", 0).await;
    let query = |forward: bool, from: Option<HashMap<String, AttributeValue>>| {
        served
            .client
            .query()
            .table_name(TABLE)
            .consistent_read(true)
            .key_condition_expression("PK = :pk AND begins_with(SK, :prefix)")
            .expression_attribute_values(":pk", s("a"))
            .expression_attribute_values(":prefix", s("V#"))
            .scan_index_forward(forward)
            .limit(3)
            .set_exclusive_start_key(from)
            .send()
    };
    for forward in [true, false] {
        let mut found = Vec::new();
        let mut from = None;
        loop {
            let page = query(forward, from).await.unwrap();
            found.extend(sort_keys(page.items));
            from = page.last_evaluated_key;
            if from.is_none() {
                break;
            }
            assert_eq!(found.len() % 3, 0);
        }
        let mut expected: Vec<_> = (1..=7).map(|number| format!("V#{number:010}")).collect();
        if !forward {
            expected.reverse();
        }
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_batch_get_returns_the_items_that_exist() {
    let served = serve().await;
    served.put("a", "1", 1).await;
    served.put("b", "1", 2).await;
    let keys = KeysAndAttributes::builder()
        .keys(key("a", "1"))
        .keys(key("b", "1"))
        .keys(key("c", "1"))
        .build()
        .unwrap();
    let output = served
        .client
        .batch_get_item()
        .request_items(TABLE, keys)
        .send()
        .await
        .unwrap();
    assert_eq!(output.responses.unwrap()[TABLE].len(), 2);
    assert!(output.unprocessed_keys.is_none_or(|keys| keys.is_empty()));
}

// Budgets

#[tokio::test]
async fn a_transaction_of_four_small_items_consumes_eight_units() {
    let served = serve().await;
    let items = (0..4)
        .map(|number| {
            let put = put("a", &number.to_string()).item("v", s("x".repeat(900)));
            TransactWriteItem::builder()
                .put(put.build().unwrap())
                .build()
        })
        .collect();
    let output = served
        .client
        .transact_write_items()
        .set_transact_items(Some(items))
        .return_consumed_capacity(ReturnConsumedCapacity::Total)
        .send()
        .await
        .unwrap();
    let units: f64 = output
        .consumed_capacity()
        .iter()
        .map(|capacity| capacity.capacity_units().unwrap())
        .sum();
    assert!((units - 8.0).abs() < 1e-9, "{units}");
}

#[tokio::test]
async fn a_sparse_index_costs_only_the_items_that_are_in_it() {
    let served = serve().await;
    let put = |sk: &str, group: Option<&str>| {
        let mut item = key("a", sk);
        item.extend(group.map(|group| ("g".to_owned(), s(group))));
        served
            .client
            .put_item()
            .table_name(TABLE)
            .set_item(Some(item))
            .return_consumed_capacity(ReturnConsumedCapacity::Indexes)
            .send()
    };
    let units = |capacity: Option<aws_sdk_dynamodb::types::ConsumedCapacity>| {
        capacity.unwrap().capacity_units.unwrap()
    };
    let outside = put("1", None).await.unwrap();
    assert!((units(outside.consumed_capacity) - 1.0).abs() < 1e-9);
    let inside = put("1", Some("x")).await.unwrap();
    let index = inside
        .consumed_capacity
        .as_ref()
        .and_then(|capacity| capacity.global_secondary_indexes())
        .and_then(|indexes| indexes["work"].capacity_units)
        .unwrap();
    assert!((index - 1.0).abs() < 1e-9);
    assert!((units(inside.consumed_capacity) - 2.0).abs() < 1e-9);
    // Another index key is a removal and an insertion there.
    let moved = put("1", Some("y")).await.unwrap();
    assert!((units(moved.consumed_capacity) - 3.0).abs() < 1e-9);

    let found = served
        .client
        .query()
        .table_name(TABLE)
        .index_name("work")
        .key_condition_expression("g = :g")
        .expression_attribute_values(":g", s("y"))
        .return_consumed_capacity(ReturnConsumedCapacity::Total)
        .send()
        .await
        .unwrap();
    assert_eq!(found.count, 1);
    assert!((units(found.consumed_capacity) - 0.5).abs() < 1e-9);
}

// Tables

#[tokio::test]
async fn a_table_is_created_once_and_a_different_definition_is_refused() {
    let served = serve().await;
    served.put("a", "1", 1).await;
    served.engine.create_table(definition()).unwrap();
    assert!(served.get("a", "1").await.is_some());

    let mut other = definition();
    other["KeySchema"][1]["AttributeName"] = "g".into();
    other["GlobalSecondaryIndexes"][0]["KeySchema"][0]["AttributeName"] = "SK".into();
    let error = served.engine.create_table(other).unwrap_err();
    assert!(
        matches!(error, Error::TableDiffers { what: "key", .. }),
        "{error}"
    );
    let mut other = definition();
    other["GlobalSecondaryIndexes"][0]["IndexName"] = "other".into();
    let error = served.engine.create_table(other).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TableDiffers {
                what: "set of indexes",
                ..
            }
        ),
        "{error}"
    );
    let error = served
        .engine
        .create_table(json!({ "TableName": 7 }))
        .unwrap_err();
    assert!(matches!(error, Error::Definition { .. }), "{error}");
}

#[tokio::test]
async fn the_server_listens_on_loopback_only() {
    let served = serve().await;
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let error = served
        .engine
        .serve(listener, std::future::pending())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotLoopback { .. }), "{error}");
}

#[tokio::test]
async fn the_server_stops_when_asked() {
    let engine = Engine::open(&DataFolder::temporary().unwrap(), Time::default().clock()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        engine
            .serve(listener, async move { stopped.await.unwrap() })
            .await
    });
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn expired_items_are_swept_by_our_clock_and_their_removal_is_in_the_stream() {
    let served = serve().await;
    let soon = now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600;
    for (sk, ttl) in [("soon", soon), ("later", soon + 86_400)] {
        let request = served
            .client
            .put_item()
            .table_name(TABLE)
            .set_item(Some(key("a", sk)));
        request.item("ttl", n(ttl)).send().await.unwrap();
    }
    assert_eq!(served.engine.sweep_ttl().unwrap(), 0);
    served.time.pass(Duration::from_hours(2));
    assert_eq!(served.engine.sweep_ttl().unwrap(), 1);
    assert_eq!(served.get("a", "soon").await, None);
    assert!(served.get("a", "later").await.is_some());

    let records = served.stream("pump").next_batch(10).unwrap();
    let removal = &records.last().unwrap().event;
    assert_eq!(removal["eventName"], "REMOVE");
    assert_eq!(
        removal["userIdentity"]["principalId"],
        "dynamodb.amazonaws.com"
    );
    assert_eq!(removal["userIdentity"]["type"], "Service");
}

// Streams

#[tokio::test]
async fn a_record_looks_as_it_does_in_lambda() {
    let served = serve().await;
    served.put("a", "1", 7).await;
    let stream = served.stream("pump");
    let records = stream.next_batch(10).unwrap();
    assert_eq!(records.len(), 1);
    let mut event = to_stream_event(&records);
    let record = &mut event["Records"][0];
    let created = record["dynamodb"]["ApproximateCreationDateTime"]
        .take()
        .as_f64()
        .unwrap();
    assert!((created - now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()).abs() < 60.0);
    assert!(record["dynamodb"]["SizeBytes"].take().as_i64().unwrap() > 0);
    assert_eq!(record["eventID"].take().as_str().unwrap().len(), 32);
    let arn = record["eventSourceARN"].take();
    let arn = arn.as_str().unwrap();
    let prefix = "arn:aws:dynamodb:us-east-1:000000000000:table/registry/stream/";
    assert!(arn.starts_with(prefix), "{arn}");
    let sequence_number = &records[0].sequence_number;
    assert_eq!(
        event,
        json!({ "Records": [{
            "eventID": null,
            "eventName": "INSERT",
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": "us-east-1",
            "dynamodb": {
                "ApproximateCreationDateTime": null,
                "Keys": { "PK": { "S": "a" }, "SK": { "S": "1" } },
                "NewImage": { "PK": { "S": "a" }, "SK": { "S": "1" }, "v": { "N": "7" } },
                "SequenceNumber": sequence_number,
                "SizeBytes": null,
                "StreamViewType": "NEW_IMAGE",
            },
            "eventSourceARN": null,
        }]})
    );
}

#[tokio::test]
async fn records_come_in_order_again_and_again_until_they_are_acknowledged() {
    let served = serve().await;
    for value in 0..6 {
        served.put("a", &(value % 2).to_string(), value).await;
    }
    let stream = served.stream("pump");
    let values = |limit| -> Vec<String> {
        let records = stream.next_batch(limit).unwrap();
        let text = |event: &Value| {
            event["dynamodb"]["NewImage"]["v"]["N"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        records.iter().map(|record| text(&record.event)).collect()
    };
    assert_eq!(values(3), ["0", "1", "2"]);
    assert_eq!(values(10), ["0", "1", "2", "3", "4", "5"]);
    let records = stream.next_batch(3).unwrap();
    stream.acknowledge(&records[1].sequence_number).unwrap();
    assert_eq!(values(10), ["2", "3", "4", "5"]);
    // A checkpoint does not move back, and consumers have their own.
    stream.acknowledge(&records[0].sequence_number).unwrap();
    assert_eq!(values(1), ["2"]);
    assert_eq!(served.stream("other").next_batch(10).unwrap().len(), 6);
    assert!(matches!(
        stream.acknowledge("7"),
        Err(Error::SequenceNumber { .. })
    ));
}

#[tokio::test]
async fn a_waiting_consumer_is_woken_by_a_write() {
    let served = serve().await;
    let stream = served.stream("pump");
    let waiting = tokio::time::timeout(Duration::from_millis(100), stream.wait()).await;
    assert!(waiting.is_err(), "there is nothing to wake up for");
    let (woken, ()) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(10), stream.wait()),
        served.put("a", "1", 1)
    );
    woken.unwrap().unwrap();
    assert_eq!(stream.next_batch(10).unwrap().len(), 1);
}

#[tokio::test]
async fn records_are_trimmed_after_a_day_unless_somebody_still_needs_them() {
    let served = serve().await;
    for value in 0..4 {
        served.put("a", "1", value).await;
    }
    assert_eq!(served.engine.trim_streams().unwrap(), 0);

    // One consumer has read two records: those may go, when they are a day old.
    let stream = served.stream("pump");
    let records = stream.next_batch(2).unwrap();
    stream.acknowledge(&records[1].sequence_number).unwrap();
    assert_eq!(served.engine.trim_streams().unwrap(), 0);
    served.time.pass(Duration::from_hours(25));
    assert_eq!(served.engine.trim_streams().unwrap(), 2);
    assert_eq!(stream.next_batch(10).unwrap().len(), 2);

    // A consumer that never returns does not hold its records for ever; the newest record holds the count.
    served.time.pass(Duration::from_hours(31 * 24));
    assert_eq!(served.engine.trim_streams().unwrap(), 1);
    served.put("a", "1", 4).await;
    let values: Vec<_> = stream
        .next_batch(10)
        .unwrap()
        .into_iter()
        .map(|record| record.event["dynamodb"]["NewImage"]["v"]["N"].clone())
        .collect();
    assert_eq!(values, ["3", "4"]);
}

#[tokio::test]
async fn records_that_nobody_registered_for_are_trimmed_after_a_day() {
    let served = serve().await;
    for value in 0..4 {
        served.put("a", "1", value).await;
    }
    served.time.pass(Duration::from_hours(23));
    assert_eq!(served.engine.trim_streams().unwrap(), 0);
    served.time.pass(Duration::from_hours(2));
    assert_eq!(served.engine.trim_streams().unwrap(), 3);
}

#[tokio::test]
async fn the_sdk_reads_the_stream() {
    use aws_sdk_dynamodbstreams::types::{OperationType, ShardIteratorType};

    let served = serve().await;
    served.put("a", "1", 1).await;
    served.put("a", "1", 2).await;
    served
        .client
        .delete_item()
        .table_name(TABLE)
        .set_key(Some(key("a", "1")))
        .send()
        .await
        .unwrap();

    let config = aws_sdk_dynamodbstreams::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials())
        .endpoint_url(&served.endpoint)
        .http_client(http_client())
        .build();
    let client = aws_sdk_dynamodbstreams::Client::from_conf(config);
    let streams = client
        .list_streams()
        .table_name(TABLE)
        .send()
        .await
        .unwrap()
        .streams
        .unwrap();
    assert_eq!(streams.len(), 1);
    let arn = streams[0].stream_arn().unwrap();
    let described = served
        .client
        .describe_table()
        .table_name(TABLE)
        .send()
        .await
        .unwrap();
    assert_eq!(described.table.unwrap().latest_stream_arn.unwrap(), arn);

    let description = client
        .describe_stream()
        .stream_arn(arn)
        .send()
        .await
        .unwrap()
        .stream_description
        .unwrap();
    assert_eq!(
        description.stream_view_type.as_ref().unwrap().as_str(),
        "NEW_IMAGE"
    );
    let shard = description.shards()[0].shard_id().unwrap();
    let iterator = |kind: ShardIteratorType, after: Option<String>| {
        client
            .get_shard_iterator()
            .stream_arn(arn)
            .shard_id(shard)
            .shard_iterator_type(kind)
            .set_sequence_number(after)
            .send()
    };
    let begin = iterator(ShardIteratorType::TrimHorizon, None)
        .await
        .unwrap()
        .shard_iterator;
    let page = client
        .get_records()
        .set_shard_iterator(begin)
        .limit(2)
        .send()
        .await
        .unwrap();
    let kinds: Vec<_> = page
        .records()
        .iter()
        .map(|record| record.event_name.clone().unwrap())
        .collect();
    assert_eq!(kinds, [OperationType::Insert, OperationType::Modify]);
    let page = client
        .get_records()
        .set_shard_iterator(page.next_shard_iterator)
        .send()
        .await
        .unwrap();
    assert_eq!(page.records()[0].event_name, Some(OperationType::Remove));
    let last = page.records()[0].dynamodb().unwrap();
    assert!(last.new_image.is_none() && last.old_image.is_none());

    let after = iterator(
        ShardIteratorType::AfterSequenceNumber,
        last.sequence_number.clone(),
    );
    let after = after.await.unwrap().shard_iterator;
    let page = client
        .get_records()
        .set_shard_iterator(after)
        .send()
        .await
        .unwrap();
    assert!(page.records().is_empty());
    assert!(page.next_shard_iterator.is_some(), "the shard is open");
}

// Durability

#[tokio::test]
async fn a_restart_keeps_items_streams_and_checkpoints() {
    let parent = tempfile::tempdir().unwrap();
    {
        let served = serve_folder(&DataFolder::open(parent.path()).unwrap()).await;
        served.put("a", "1", 1).await;
        served.put("a", "1", 2).await;
        let stream = served.stream("pump");
        let records = stream.next_batch(1).unwrap();
        stream.acknowledge(&records[0].sequence_number).unwrap();
    }
    // What a kill leaves behind is the folder as it is, without any goodbye; a copy of it is just that.
    let killed = tempfile::tempdir().unwrap();
    copy(parent.path(), killed.path());
    let served = serve_folder(&DataFolder::open(killed.path()).unwrap()).await;
    assert_eq!(served.get("a", "1").await.unwrap()["v"], n(2));
    served.put("a", "1", 3).await;
    let records = served.stream("pump").next_batch(10).unwrap();
    let values: Vec<_> = records
        .iter()
        .map(|record| &record.event["dynamodb"]["NewImage"]["v"]["N"])
        .collect();
    assert_eq!(values, ["2", "3"]);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs itself again as another process, in a folder where this file says that it is the one to be killed.
#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    const ROLE: &str = "to-be-killed";
    if Path::new(ROLE).exists() {
        return write_until_killed().await;
    }

    let parent = tempfile::tempdir().unwrap();
    std::fs::write(parent.path().join(ROLE), "").unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "what_was_acknowledged_survives_a_kill",
            "--nocapture",
        ])
        .current_dir(parent.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The pipe stays open, or else the process would end by itself.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let last: u32 = lines
        .by_ref()
        .filter_map(|line| line.unwrap().split_once("acknowledged ")?.1.parse().ok())
        .find(|number| *number == 100)
        .unwrap();
    let data = parent.path().join("data");
    let error = DataFolder::open(&data).unwrap_err();
    assert!(matches!(error, DataFolderError::InUse { .. }), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();

    let folder = DataFolder::open(&data).unwrap();
    let served = serve_folder(&folder).await;
    let queues = killed_queues(&folder);
    for number in 0..=last {
        assert!(
            served.get("a", &number.to_string()).await.is_some(),
            "{number}"
        );
    }
    // The checkpoint covers what was acknowledged, so what is left is newer.
    let records = served.stream("pump").next_batch(1).unwrap();
    if let Some(record) = records.first() {
        let value = &record.event["dynamodb"]["NewImage"]["v"]["N"];
        assert!(
            value.as_str().unwrap().parse::<u32>().unwrap() > last,
            "{value}"
        );
    }
    let bodies: Vec<u32> = queues
        .receive("queue", 10_000)
        .unwrap()
        .iter()
        .map(|message| message.body.parse().unwrap())
        .collect();
    assert_eq!(bodies[..=last as usize], (0..=last).collect::<Vec<_>>());
}

#[expect(
    clippy::print_stdout,
    reason = "the process that kills this one reads it"
)]
async fn write_until_killed() {
    let folder = DataFolder::open("data").unwrap();
    let served = serve_folder(&folder).await;
    let queues = killed_queues(&folder);
    let stream = served.stream("pump");
    for number in 0_u32.. {
        served.put("a", &number.to_string(), number).await;
        queues.send("queue", &number.to_string()).unwrap();
        let records = stream.next_batch(10).unwrap();
        stream
            .acknowledge(&records.last().unwrap().sequence_number)
            .unwrap();
        println!("acknowledged {number}");
    }
}

fn killed_queues(folder: &DataFolder) -> Queues {
    let definition = QueueDefinition {
        name: "queue".to_owned(),
        visibility_timeout: Duration::from_secs(30),
        delay: Duration::ZERO,
        max_receive_count: 3,
        dead_letter: true,
        batch_size: 10,
    };
    Queues::open(folder, vec![definition], Time::default().clock()).unwrap()
}

#[tokio::test]
async fn writes_stay_fast_when_the_stream_grows() {
    const ROUND: u32 = 600;
    let served = serve().await;
    // The machine may be busy with something else for a while, so the quickest tenth of many writes is compared.
    let quick_write = async || {
        let mut durations = Vec::new();
        for number in 0..ROUND {
            let started = Instant::now();
            served.put("a", &number.to_string(), number).await;
            durations.push(started.elapsed());
        }
        durations.sort();
        durations[durations.len() / 10]
    };
    let fill = async |first: u32, count: u32| {
        for chunk in (first..first + count).collect::<Vec<_>>().chunks(25) {
            let puts = chunk.iter().map(|number| {
                let put = put("fill", &number.to_string()).build().unwrap();
                TransactWriteItem::builder().put(put).build()
            });
            served.transact(puts.collect()).await.unwrap();
        }
    };
    quick_write().await;
    let before = quick_write().await;
    fill(0, 10_000).await;
    let after = quick_write().await;
    let ratio = after.as_secs_f64() / before.as_secs_f64();
    assert!(
        ratio < 2.0,
        "writes take {ratio:.2} times as long after 10,000 records"
    );
}
