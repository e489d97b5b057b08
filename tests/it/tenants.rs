//! Borders: nothing of one tenant can be seen, counted or guessed from another.

use crate::world::{World, files, safetensors};
use reqwest::Method;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_a_registry_of_its_own() {
    let world = World::start().await;
    for prefix in ["", "/t/team-a", "/t/team-b"] {
        world
            .post(&format!("{prefix}/v1/models"), json!({"name": "iris"}))
            .await
            .expect(201);
    }
    let content = files(&[("m.safetensors", &safetensors(8, 1))]);
    let body = json!({"artifacts": World::declaration(&content)});
    let registered = world
        .post("/t/team-a/v1/models/iris/versions", body)
        .await
        .expect(201);
    assert_eq!(registered["version"], 1);
    for prefix in ["", "/t/default", "/t/team-b"] {
        let view = world
            .get(&format!("{prefix}/v1/models/iris"))
            .await
            .expect(200);
        assert_eq!(view["version_count"], 0, "{prefix}");
        world
            .get(&format!("{prefix}/v1/models/iris/versions/1"))
            .await
            .expect_error(404, "version_not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_tenant_is_the_one_without_a_prefix() {
    let world = World::start().await;
    world.create_model("iris").await;
    world.get("/t/default/v1/models/iris").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_keys_and_subscriptions_stay_at_home() {
    let world = World::start().await;
    for prefix in ["/t/team-a", "/t/team-b"] {
        for name in ["a", "b", "c"] {
            world
                .post(&format!("{prefix}/v1/models"), json!({"name": name}))
                .await
                .expect(201);
        }
    }
    let page = world.get("/t/team-a/v1/models?limit=1").await.expect(200);
    let cursor = page["next_cursor"].as_str().unwrap();
    world
        .get(&format!("/t/team-a/v1/models?limit=1&cursor={cursor}"))
        .await
        .expect(200);
    for path in [
        "/t/team-b/v1/models?limit=1",
        "/v1/models?limit=1",
        "/t/team-a/v1/models?limit=1&prefix=a",
    ] {
        world
            .get(&format!("{path}&cursor={cursor}"))
            .await
            .expect_error(400, "invalid_cursor");
    }
    let key = [("idempotency-key", "same")];
    let body = json!({"name": "same-key"});
    for prefix in ["/t/team-a", "/t/team-b"] {
        let answer = world
            .send(
                Method::POST,
                &format!("{prefix}/v1/models"),
                Some(body.clone()),
                &key,
            )
            .await;
        assert!(!answer.headers.contains_key("idempotency-replayed"));
        answer.expect(201);
    }
    let hook = world
        .post(
            "/t/team-a/v1/subscriptions",
            json!({"url": "http://127.0.0.1:9/"}),
        )
        .await
        .expect(201);
    let id = hook["id"].as_str().unwrap();
    world
        .get(&format!("/t/team-b/v1/subscriptions/{id}"))
        .await
        .expect_error(404, "subscription_not_found");
    world
        .delete(&format!("/t/team-b/v1/subscriptions/{id}"))
        .await
        .expect_error(404, "subscription_not_found");
    let listed = world.get("/t/team-b/v1/subscriptions").await.expect(200);
    assert_eq!(listed["subscriptions"], json!([]));
    world.drain().await;
    let sent = world
        .get(&format!("/t/team-b/v1/subscriptions/{id}/deliveries"))
        .await;
    sent.expect_error(404, "subscription_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_imitate_keys_reach_nothing() {
    let world = World::start().await;
    world
        .post("/t/team-a/v1/models", json!({"name": "secret"}))
        .await
        .expect(201);
    for name in [
        "M%23secret",
        "T%23team-a%23M",
        "%23",
        "..%2Fteam-a",
        "team-a%2Fsecret",
        "secret%23",
        "*",
        "%25",
    ] {
        let answer = world.get(&format!("/t/team-b/v1/models/{name}")).await;
        assert!(matches!(answer.status, 400 | 404), "{name}: {answer:?}");
    }
    for tenant in [
        "Team-A",
        "team-a%23M",
        "-team",
        "",
        "team_a",
        "a%2Fb",
        &"x".repeat(64),
    ] {
        let answer = world.get(&format!("/t/{tenant}/v1/models")).await;
        answer.expect_error(400, "invalid_argument");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned_requests_reach_one_object_of_one_tenant() {
    let world = World::start().await;
    let content = files(&[("m.safetensors", &safetensors(8, 1))]);
    for prefix in ["/t/team-a", "/t/team-b"] {
        world
            .post(&format!("{prefix}/v1/models"), json!({"name": "iris"}))
            .await
            .expect(201);
        let body = json!({"artifacts": World::declaration(&content)});
        world
            .post(&format!("{prefix}/v1/models/iris/versions"), body)
            .await
            .expect(201);
    }
    let uploads = world
        .post("/t/team-a/v1/models/iris/versions/1/uploads", json!({}))
        .await
        .expect(200);
    let mut stolen = uploads["uploads"][0].clone();
    let url = stolen["url"]
        .as_str()
        .unwrap()
        .replace("/team-a/", "/team-b/");
    stolen["url"] = json!(url);
    assert_eq!(
        world
            .put_bytes(&stolen, content["m.safetensors"].clone())
            .await,
        403
    );
    world.drain().await;
    assert_eq!(
        world
            .get("/t/team-b/v1/models/iris/versions/1")
            .await
            .expect(200)["status"],
        "PENDING_REGISTRATION"
    );
}
