//! Idempotency keys: the same key and request get the same answer; another request under it is refused.

use crate::world::{World, files, safetensors};
use reqwest::Method;
use serde_json::{Value, json};

async fn twice(
    world: &World,
    method: Method,
    path: &str,
    body: Option<Value>,
    key: &str,
) -> (u16, Value) {
    let headers = [("idempotency-key", key), ("x-slipway-actor", "ada")];
    let first = world
        .send(method.clone(), path, body.clone(), &headers)
        .await;
    assert!(first.status < 300, "{path}: {:#}", first.body);
    let second = world.send(method, path, body, &headers).await;
    assert_eq!(second.status, first.status, "{path}: {:#}", second.body);
    if second.headers.contains_key("idempotency-replayed") && first.body.get("updated_at").is_none()
    {
        assert_eq!(second.body, first.body, "{path}");
    }
    (first.status, first.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_of_the_journey_can_be_repeated() {
    let world = World::start().await;
    twice(
        &world,
        Method::POST,
        "/v1/models",
        Some(json!({"name": "iris"})),
        "k1",
    )
    .await;
    let content = files(&[("m.safetensors", &safetensors(8, 1))]);
    let body = json!({"artifacts": World::declaration(&content)});
    let (_, version) = twice(
        &world,
        Method::POST,
        "/v1/models/iris/versions",
        Some(body),
        "k2",
    )
    .await;
    assert_eq!(version["version"], 1);
    assert_eq!(
        world.get("/v1/models/iris").await.expect(200)["version_count"],
        1,
        "registered once"
    );
    twice(
        &world,
        Method::POST,
        "/v1/models/iris/versions/1/uploads",
        Some(json!({})),
        "k3",
    )
    .await;
    world.upload("iris", 1, &content).await;
    twice(
        &world,
        Method::POST,
        "/v1/models/iris/versions/1/finalize",
        Some(json!({})),
        "k4",
    )
    .await;
    world.drain().await;
    let set = json!({"version": 1, "expected_version": null});
    twice(
        &world,
        Method::PUT,
        "/v1/models/iris/aliases/champion",
        Some(set),
        "k5",
    )
    .await;
    let stage = json!({"stage": "Staging", "expected_stage": "None"});
    twice(
        &world,
        Method::POST,
        "/v1/models/iris/versions/1/stage",
        Some(stage),
        "k6",
    )
    .await;
    let notes = json!({"tags": {"a": "b"}});
    twice(
        &world,
        Method::PATCH,
        "/v1/models/iris/versions/1",
        Some(notes.clone()),
        "k7",
    )
    .await;
    twice(&world, Method::PATCH, "/v1/models/iris", Some(notes), "k8").await;
    let remove = json!({"expected_version": 1});
    twice(
        &world,
        Method::DELETE,
        "/v1/models/iris/aliases/champion",
        Some(remove),
        "k9",
    )
    .await;
    twice(
        &world,
        Method::DELETE,
        "/v1/models/iris/versions/1",
        None,
        "k10",
    )
    .await;
    twice(
        &world,
        Method::POST,
        "/v1/models/iris/versions/1/restore",
        None,
        "k11",
    )
    .await;
    twice(&world, Method::DELETE, "/v1/models/iris", None, "k12").await;
    twice(&world, Method::POST, "/v1/models/iris/restore", None, "k13").await;
    let subscribe = json!({"url": "http://127.0.0.1:9/hook"});
    twice(
        &world,
        Method::POST,
        "/v1/subscriptions",
        Some(subscribe),
        "k14",
    )
    .await;
    let listed = world.get("/v1/subscriptions").await.expect(200);
    assert_eq!(listed["subscriptions"].as_array().unwrap().len(), 1);
    let history = world
        .get("/v1/models/iris/aliases/champion/history")
        .await
        .expect(200);
    assert_eq!(history["events"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_another_request_is_refused() {
    let world = World::start().await;
    let headers = [("idempotency-key", "once")];
    world
        .send(
            Method::POST,
            "/v1/models",
            Some(json!({"name": "iris"})),
            &headers,
        )
        .await
        .expect(201);
    world
        .send(
            Method::POST,
            "/v1/models",
            Some(json!({"name": "rose"})),
            &headers,
        )
        .await
        .expect_error(422, "idempotency_key_reused");
    world
        .get("/v1/models/rose")
        .await
        .expect_error(404, "model_not_found");
    let bad = [("idempotency-key", "")];
    world
        .send(Method::POST, "/v1/models", Some(json!({"name": "x"})), &bad)
        .await
        .expect_error(400, "invalid_argument");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_promotion_answers_as_the_first_did_though_the_alias_moved_on() {
    let world = World::start().await;
    world.ready_model("iris").await;
    world
        .publish("iris", &files(&[("m.safetensors", &safetensors(8, 2))]))
        .await;
    let headers = [("idempotency-key", "promote-1")];
    let path = "/v1/models/iris/aliases/champion";
    let body = json!({"version": 1, "expected_version": null});
    let first = world
        .send(Method::PUT, path, Some(body.clone()), &headers)
        .await
        .expect(200);
    world
        .set_alias("iris", "champion", 2, json!(1))
        .await
        .expect(200);
    let again = world.send(Method::PUT, path, Some(body), &headers).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.expect(200), first);
    assert_eq!(
        world.get(path).await.expect(200)["version"],
        2,
        "nothing moved"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_multipart_upload_is_begun_once_under_a_key() {
    let world = World::start().await;
    world.create_model("big").await;
    let body = json!({"artifacts": [{"path": "m.bin", "size_bytes": 100_000_000, "digest": crate::world::digest(b"")}]});
    world
        .post("/v1/models/big/versions", body)
        .await
        .expect(201);
    let headers = [("idempotency-key", "up")];
    let path = "/v1/models/big/versions/1/uploads";
    let first = world
        .send(Method::POST, path, Some(json!({})), &headers)
        .await
        .expect(200);
    let second = world
        .send(Method::POST, path, Some(json!({})), &headers)
        .await
        .expect(200);
    assert_eq!(
        first["uploads"][0]["upload_id"],
        second["uploads"][0]["upload_id"]
    );
}
