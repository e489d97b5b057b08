//! Events come twice, late, in any order, or never; the end is the same.

use crate::world::{World, files, safetensors};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

/// What a receiver got, and how it answers.
#[derive(Clone)]
struct Receiver {
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    status: Arc<AtomicU16>,
    url: String,
}

impl Receiver {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let receiver = Self {
            got: Arc::default(),
            status: Arc::new(AtomicU16::new(200)),
            url,
        };
        let answer = |State(receiver): State<Self>, headers: HeaderMap, body: Bytes| async move {
            receiver.got.lock().unwrap().push((headers, body));
            StatusCode::from_u16(receiver.status.load(Ordering::SeqCst)).unwrap()
        };
        let router = Router::new().fallback(answer).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    fn bodies(&self) -> Vec<Value> {
        self.got
            .lock()
            .unwrap()
            .iter()
            .map(|(_, body)| serde_json::from_slice(body).unwrap())
            .collect()
    }

    /// Events by id, so that what came twice counts once.
    fn types(&self) -> Vec<String> {
        let events: BTreeMap<String, String> = self
            .bodies()
            .iter()
            .map(|event| {
                (
                    event["id"].as_str().unwrap().to_owned(),
                    event["type"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        let mut types: Vec<String> = events.into_values().collect();
        types.sort();
        types
    }
}

async fn subscribe(world: &World, receiver: &Receiver, more: Value) -> Value {
    let mut body = json!({"url": receiver.url});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    world.post("/v1/subscriptions", body).await.expect(201)
}

const JOURNEY: [&str; 6] = [
    "alias.set",
    "model.created",
    "version.finalized",
    "version.packaged",
    "version.ready",
    "version.registered",
];

async fn journey(world: &World) {
    world.create_model("iris").await;
    let content = files(&[("m.safetensors", &safetensors(8, 1))]);
    let version = world.register("iris", &content).await;
    world.upload("iris", version, &content).await;
    world
        .post("/v1/models/iris/versions/1/finalize", json!({}))
        .await
        .expect(200);
    world.drain().await;
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);
    world.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_reaches_a_subscription_signed() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let subscription = subscribe(&world, &receiver, json!({})).await;
    journey(&world).await;
    assert_eq!(receiver.types(), JOURNEY);

    let secret = STANDARD
        .decode(
            subscription["secret"]
                .as_str()
                .unwrap()
                .strip_prefix("whsec_")
                .unwrap(),
        )
        .unwrap();
    for (headers, body) in receiver.got.lock().unwrap().iter() {
        let header = |name: &str| headers[name].to_str().unwrap();
        let signed = format!(
            "{}.{}.{}",
            header("webhook-id"),
            header("webhook-timestamp"),
            std::str::from_utf8(body).unwrap()
        );
        let mut mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
        mac.update(signed.as_bytes());
        assert_eq!(
            header("webhook-signature"),
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        );
        let event: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(
            event["id"],
            header("webhook-id"),
            "the id is the deduplication id"
        );
        assert_eq!(event["specversion"], "1.0");
    }
    let id = subscription["id"].as_str().unwrap();
    let shown = world
        .get(&format!("/v1/subscriptions/{id}"))
        .await
        .expect(200);
    assert!(
        !shown.to_string().contains("whsec_"),
        "the secret is shown once"
    );
    let log = world
        .get(&format!("/v1/subscriptions/{id}/deliveries"))
        .await
        .expect(200);
    assert_eq!(log["deliveries"].as_array().unwrap().len(), JOURNEY.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_hears_only_what_it_asked_for() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    subscribe(
        &world,
        &receiver,
        json!({"event_types": ["alias.set"], "model": "iris"}),
    )
    .await;
    world.ready_model("rose").await;
    world
        .set_alias("rose", "champion", 1, json!(null))
        .await
        .expect(200);
    journey(&world).await;
    assert_eq!(receiver.types(), ["alias.set"]);
    world
        .post(
            "/v1/subscriptions",
            json!({"url": receiver.url, "event_types": ["alias.moved"]}),
        )
        .await
        .expect_error(400, "invalid_argument");
    for url in [
        "ftp://example.org/",
        "http://example.org/",
        "https://user:pw@example.org/",
        "nonsense",
        "",
    ] {
        world
            .post("/v1/subscriptions", json!({ "url": url }))
            .await
            .expect_error(400, "invalid_argument");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_receiver_is_tried_again_until_it_answers() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    receiver.status.store(500, Ordering::SeqCst);
    let subscription =
        subscribe(&world, &receiver, json!({"event_types": ["model.created"]})).await;
    world.create_model("iris").await;
    world.drain().await;
    assert_eq!(receiver.bodies().len(), 1);
    world.sweep().await;
    world.drain().await;
    assert_eq!(receiver.bodies().len(), 1, "it is not due yet");
    world.clock.advance_millis(3 * 60_000);
    world.sweep().await;
    world.drain().await;
    assert_eq!(receiver.bodies().len(), 2);
    receiver.status.store(200, Ordering::SeqCst);
    world.clock.advance_millis(10 * 60_000);
    world.sweep().await;
    world.drain().await;
    world.clock.advance_millis(10 * 60_000);
    world.sweep().await;
    world.drain().await;
    assert_eq!(
        receiver.bodies().len(),
        3,
        "a delivered event is not sent again"
    );
    let id = subscription["id"].as_str().unwrap();
    let log = world
        .get(&format!("/v1/subscriptions/{id}/deliveries"))
        .await
        .expect(200);
    let delivery = &log["deliveries"][0];
    assert_eq!(delivery["status"], "delivered");
    let statuses: Vec<u64> = delivery["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| attempt["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [500, 500, 200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_is_delivered_at_once() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let subscription = subscribe(&world, &receiver, json!({"event_types": ["alias.set"]})).await;
    let id = subscription["id"].as_str().unwrap();
    let outcome = world
        .post(&format!("/v1/subscriptions/{id}/test"), json!({}))
        .await
        .expect(200);
    assert_eq!(receiver.types(), ["subscription.tested"], "{outcome:#}");
    world
        .delete(&format!("/v1/subscriptions/{id}"))
        .await
        .expect(200);
    world
        .post(&format!("/v1/subscriptions/{id}/test"), json!({}))
        .await
        .expect_error(404, "subscription_not_found");
}

/// What a reader sees at the end, without times, ids and digests that name times.
async fn outcome(world: &World) -> Value {
    let version = world.version("iris", 1).await;
    let mut report = world
        .get("/v1/models/iris/versions/1/report")
        .await
        .expect(200);
    for artifact in report["artifacts"].as_array_mut().unwrap() {
        // Every registry has objects of its own.
        artifact.as_object_mut().unwrap().remove("object_version");
    }
    json!({
        "status": version["status"],
        "verdict": version["validation"]["verdict"],
        "report": report,
        "packaged": version["package"].is_object(),
        "aliases": world.get("/v1/models/iris/aliases").await.expect(200)["aliases"][0]["sequence"],
    })
}

/// A small generator of choices, so that a seed reproduces a run.
struct Choices(u64);

impl Choices {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_delivered_twice_and_in_any_order_end_in_the_same_state() {
    let mut ends = Vec::new();
    for seed in 0..12 {
        let world = World::start().await;
        let receiver = Receiver::start().await;
        subscribe(&world, &receiver, json!({})).await;
        world.create_model("iris").await;
        let content = files(&[
            ("a.safetensors", &safetensors(8, 1)),
            ("b.safetensors", &safetensors(8, 2)),
        ]);
        let version = world.register("iris", &content).await;
        world.upload("iris", version, &content).await;
        world
            .post("/v1/models/iris/versions/1/finalize", json!({}))
            .await
            .expect(200);
        let mut choices = Choices(seed);
        let mut promoted = false;
        loop {
            let waiting = world.stack.deliveries().await.unwrap();
            if waiting.is_empty() {
                if promoted {
                    break;
                }
                promoted = true;
                world
                    .set_alias("iris", "champion", 1, json!(null))
                    .await
                    .expect(200);
                continue;
            }
            let chosen = &waiting[choices.next(waiting.len())];
            if choices.next(2) == 0 && !chosen.id.contains("copy") {
                let copy = world.stack.duplicate(&chosen.id).unwrap();
                world.stack.deliver(&copy).await.unwrap();
            }
            world.stack.deliver(&chosen.id).await.unwrap();
        }
        assert!(
            world.stack.dead_letters().unwrap().is_empty(),
            "seed {seed}"
        );
        let mut expected: Vec<&str> = JOURNEY.to_vec();
        expected.sort_unstable();
        assert_eq!(receiver.types(), expected, "seed {seed}");
        ends.push(outcome(&world).await);
    }
    assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "{ends:#?}");
    assert_eq!(ends[0]["status"], "READY");
}

/// Loses every event and message that waits.
async fn lose_everything(world: &World) {
    for lost in world.stack.deliveries().await.unwrap() {
        world.stack.drop_delivery(&lost.id).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_never_delivered_are_made_good_by_the_sweep() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    subscribe(&world, &receiver, json!({})).await;
    world.create_model("iris").await;
    let content = files(&[("m.safetensors", &safetensors(8, 1))]);
    let version = world.register("iris", &content).await;
    world.upload("iris", version, &content).await;
    world
        .post("/v1/models/iris/versions/1/finalize", json!({}))
        .await
        .expect(200);
    for _ in 0..12 {
        lose_everything(&world).await;
        world.clock.advance_millis(20 * 60_000);
        world.sweep().await;
    }
    assert_eq!(outcome(&world).await["status"], "READY");
    assert_eq!(outcome(&world).await["packaged"], true);
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);
    for _ in 0..3 {
        lose_everything(&world).await;
        world.clock.advance_millis(20 * 60_000);
        world.sweep().await;
    }
    assert_eq!(
        receiver.bodies().len(),
        0,
        "what was to be sent was lost each time"
    );
    world.drain().await;
    assert_eq!(receiver.types(), JOURNEY);
}
