//! The budgets of `docs/budgets.md`, on the embedded engine's exact accounting.

use crate::world::{World, files, safetensors};
use serde_json::{Value, json};
use shared::test_util::Cut;

/// What an operation cost.
#[derive(Debug)]
pub(crate) struct Cost {
    pub(crate) operations: Vec<String>,
    pub(crate) units: f64,
}

pub(crate) async fn cost<T>(world: &World, act: impl Future<Output = T>) -> (T, Cost) {
    world.probe.reset(Cut::Never);
    let value = act.await;
    (
        value,
        Cost {
            operations: world.probe.operations(),
            units: world.probe.units(),
        },
    )
}

impl Cost {
    #[track_caller]
    pub(crate) fn is(&self, operations: &[&str], most_units: f64) {
        assert_eq!(self.operations, operations, "{self:?}");
        assert!(self.units <= most_units, "{self:?} is over {most_units}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_keep_their_budget() {
    let world = World::start().await;
    let (_, spent) = cost(&world, world.create_model("iris")).await;
    spent.is(&["TransactWriteItems"], 4.0);

    // What this process saw last of the model saves the read; a stale sight would cost one more call.
    let content = files(&[("m.safetensors", &safetensors(8, 1))]);
    let body = json!({"artifacts": World::declaration(&content)});
    let keyed = |key: &'static str, body: Value| {
        let headers = [("idempotency-key", key)];
        let world = &world;
        async move {
            world
                .send(
                    reqwest::Method::POST,
                    "/v1/models/iris/versions",
                    Some(body),
                    &headers,
                )
                .await
        }
    };
    let (answer, spent) = cost(&world, keyed("a", body.clone())).await;
    answer.expect(201);
    spent.is(&["TransactWriteItems"], 8.0);

    let (_, spent) = cost(&world, world.upload("iris", 1, &content)).await;
    spent.is(&["GetItem"], 1.0);
    let (_, spent) = cost(
        &world,
        world.post("/v1/models/iris/versions/1/finalize", json!({})),
    )
    .await;
    spent.is(&["GetItem", "ListObjectsV2", "TransactWriteItems"], 5.0);

    world.drain().await;
    world
        .publish("iris", &files(&[("m.safetensors", &safetensors(8, 2))]))
        .await;

    // What governs the model was not seen in the last seconds, and is read with the rest.
    let (_, spent) = cost(&world, world.set_alias("iris", "champion", 1, json!(null))).await;
    spent.is(&["BatchGetItem", "TransactWriteItems"], 8.0 + 3.0 + 2.0);
    let (_, spent) = cost(&world, world.set_alias("iris", "champion", 2, json!(1))).await;
    spent.is(&["BatchGetItem", "TransactWriteItems"], 8.0 + 3.0);
    // Both versions and the alias were seen: no read.
    let (_, spent) = cost(&world, world.set_alias("iris", "champion", 1, json!(2))).await;
    spent.is(&["TransactWriteItems"], 8.0);
    let sequence = json!({"expected_sequence": 3});
    let (answer, spent) = cost(
        &world,
        world.post("/v1/models/iris/aliases/champion/rollback", sequence),
    )
    .await;
    answer.expect(200);
    spent.is(&["TransactWriteItems"], 8.0);

    world
        .set_alias("iris", "champion", 1, json!(2))
        .await
        .expect(200);
    let (answer, spent) = cost(&world, world.delete("/v1/models/iris/versions/2")).await;
    answer.expect(200);
    // The read is for the answer.
    spent.is(&["GetItem", "TransactWriteItems"], 7.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn multipart_uploads_keep_their_budget() {
    let world = World::start().await;
    world.create_model("big").await;
    let content = files(&[("m.safetensors", &safetensors(70_000_000, 1))]);
    world.register("big", &content).await;
    let (multipart, spent) = cost(&world, world.upload("big", 1, &content)).await;
    spent.is(&["GetItem", "CreateMultipartUpload"], 1.0);
    let (answer, spent) = cost(
        &world,
        world.post("/v1/models/big/versions/1/finalize", multipart),
    )
    .await;
    answer.expect(200);
    // The parts are listed because the client did not send their ETags.
    spent.is(
        &[
            "GetItem",
            "ListParts",
            "CompleteMultipartUpload",
            "TransactWriteItems",
        ],
        5.0,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_keep_their_budget() {
    let world = World::start().await;
    world.ready_model("iris").await;
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);
    for index in 0..30 {
        world.create_model(&format!("m{index:02}")).await;
    }
    world.drain().await;
    for (path, operations, units) in [
        ("/v1/models/iris/versions/1", vec!["GetItem"], 0.5),
        ("/v1/models/iris/aliases/champion", vec!["GetItem"], 0.5),
        ("/v1/models/iris", vec!["GetItem"], 1.0),
        ("/v1/models/iris/versions", vec!["Query"], 2.5),
        ("/v1/models?prefix=m", vec!["Query"], 2.0),
        (
            "/v1/models/iris/aliases/champion/history",
            vec!["Query"],
            0.5,
        ),
        ("/v1/models/iris/versions/1/downloads", vec!["GetItem"], 0.5),
    ] {
        let (answer, spent) = cost(&world, world.get(path)).await;
        answer.expect(200);
        assert_eq!(spent.operations, operations, "{path}");
        assert!(spent.units <= units, "{path}: {spent:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn validation_and_packaging_keep_their_budget() {
    let world = World::start().await;
    world.create_model("iris").await;
    let content = files(&[("m.safetensors", &safetensors(2_000_000, 1))]);
    world.register("iris", &content).await;
    world.upload("iris", 1, &content).await;
    // The events of creating and registering are out of the way.
    for waiting in world.stack.deliveries().await.unwrap() {
        if !waiting.what.contains("ObjectCreated") {
            world.stack.deliver(&waiting.id).await.unwrap();
        }
    }
    let next = async |what: &str| {
        let waiting = world.stack.deliveries().await.unwrap();
        waiting
            .into_iter()
            .find(|delivery| delivery.what.contains(what))
            .expect("it waits")
            .id
    };
    let upload = next("incoming/").await;
    let (_, spent) = cost(&world, world.stack.deliver(&upload)).await;
    assert_eq!(
        spent.operations.first().map(String::as_str),
        Some("GetItem")
    );
    let ranges = spent
        .operations
        .iter()
        .filter(|name| *name == "GetObject")
        .count();
    assert!((1..=2).contains(&ranges), "{spent:?}");
    let others: Vec<&str> = spent
        .operations
        .iter()
        .map(String::as_str)
        .filter(|name| *name != "GetObject")
        .collect();
    assert_eq!(
        others,
        [
            "GetItem",
            "HeadObject",
            "GetItem",
            "PutObject",
            "TransactWriteItems"
        ],
        "the version, and the policy"
    );
    assert!(spent.units <= 6.0, "{spent:?}");

    let report = next("reports/").await;
    let (_, spent) = cost(&world, world.stack.deliver(&report)).await;
    spent.is(
        &[
            "GetItem",
            "GetItem",
            "CopyObject",
            // The manifest, then what is said of the version: the report tells some of it.
            "PutObject",
            "GetObject",
            // The public key, once in a process; each statement is signed before it is written.
            "GetPublicKey",
            "Sign",
            "PutObject",
            "PutObject",
            "PutObject",
            "Sign",
            "PutObject",
            "Sign",
            "PutObject",
            "PutObject",
            // The configuration for OCI clients, then what the version is to them and what it has by digest.
            "PutObject",
            "BatchWriteItem",
            "TransactWriteItems",
        ],
        8.0 + 14.0,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_keep_their_budget() {
    let world = World::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(|| async {});
    tokio::spawn(async move { axum::serve(listener, router).await });
    world
        .post("/v1/subscriptions", json!({ "url": url }))
        .await
        .expect(201);
    world.create_model("iris").await;
    let waiting = world.stack.deliveries().await.unwrap();
    let (_, spent) = cost(&world, world.stack.deliver(&waiting[0].id)).await;
    // Subscriptions; the chain's end; the dispatch; the work that looks after the message; bus and queue at the same
    // time; the work that is done.
    let mut spent = spent;
    spent.operations[3..6].sort_unstable();
    spent.is(
        &[
            "Query",
            "Query",
            "TransactWriteItems",
            "PutEvents",
            "PutItem",
            "SendMessageBatch",
            "DeleteItem",
        ],
        2.0 + (4.0 + 4.0 + 4.0 + 2.0 + 2.0) + 1.0 + 1.0,
    );
    let waiting = world.stack.deliveries().await.unwrap();
    let (_, spent) = cost(&world, world.stack.deliver(&waiting[0].id)).await;
    // The subscription; the lane, and what waits in it; the attempt, the place that is left, and the work that is done.
    spent.is(
        &[
            "GetItem",
            "Query",
            "BatchGetItem",
            "PutItem",
            "DeleteItem",
            "DeleteItem",
        ],
        1.0 + 1.0 + 1.0 + 1.0 + 1.0 + 1.0,
    );
    world.clock.advance_millis(31_000);
    let (answer, spent) = cost(&world, world.get("/v1/events")).await;
    answer.expect(200);
    assert!(
        spent.operations.iter().all(|name| name == "Query"),
        "{spent:?}"
    );
    assert!(spent.units <= 32.0, "{spent:?}");
}
