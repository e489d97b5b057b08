//! What keeps a model and its versions from being deleted, and what stays with a model whatever it is called.

use crate::promotion::{send_as, version_with};
use crate::world::World;
use reqwest::Method;
use serde_json::{Value, json};

const PLACE: &str = "/v1/rollouts/prod/score";

async fn serve(world: &World, model: &str, revision: u64, versions: &[u64]) -> Value {
    let deployments: Vec<Value> = versions
        .iter()
        .map(|version| json!({"version": version, "role": "champion", "weight": 10_000}))
        .collect();
    let body = json!({"model": model, "strategy": "single", "deployments": deployments, "expected_revision": revision});
    world.put(PLACE, body).await.expect(200)
}

async fn rename(world: &World, from: &str, to: &str) {
    world
        .post(&format!("/v1/models/{from}/rename"), json!({"name": to}))
        .await
        .expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_not_deleted_while_a_request_is_open_or_a_rollout_serves_it() {
    let world = World::start().await;
    world.ready_model("iris").await;
    let requests = "/v1/models/iris/promotion-requests";
    for (target, verb) in [
        (json!({"version": 1, "alias": "champion"}), "withdraw"),
        (json!({"version": 1, "alias": "champion"}), "reject"),
        (json!({"version": 1, "alias": "champion"}), "approve"),
        (json!({"version": 1, "stage": "Production"}), "approve"),
    ] {
        let request = send_as(&world, ("ada", ""), Method::POST, requests, target).await;
        let id = request.expect(201)["id"].as_str().unwrap().to_owned();
        let refused = world.delete("/v1/models/iris").await;
        let error = refused.expect_error(409, "version_in_use");
        assert_eq!(error["details"]["requests"], json!([id]));
        assert!(error["message"].as_str().unwrap().contains(&id), "{error}");
        let who = if verb == "withdraw" { "ada" } else { "ben" };
        let path = format!("{requests}/{id}/{verb}");
        send_as(&world, (who, ""), Method::POST, &path, json!({}))
            .await
            .expect(200);
    }
    // An alias that moves by an approval counts the request down, and nothing else.
    let second = version_with(&world, 2, json!({})).await;
    let body = json!({"version": second, "alias": "champion"});
    let request = send_as(&world, ("ada", ""), Method::POST, requests, body).await;
    let path = format!(
        "{requests}/{}/approve",
        request.expect(201)["id"].as_str().unwrap()
    );
    send_as(&world, ("ben", ""), Method::POST, &path, json!({}))
        .await
        .expect(200);
    let error = world.delete("/v1/models/iris").await;
    let error = error.expect_error(409, "version_in_use");
    assert_eq!(error["details"]["aliases"], json!(["champion"]));
    assert!(error["details"]["requests"].is_null(), "{error}");
    let remove = json!({"unconditional": true});
    world
        .send(
            Method::DELETE,
            "/v1/models/iris/aliases/champion",
            Some(remove),
            &[],
        )
        .await
        .expect(200);

    serve(&world, "iris", 0, &[1]).await;
    let error = world.delete("/v1/models/iris").await;
    let error = error.expect_error(409, "version_in_use");
    assert_eq!(error["details"]["rollouts"], json!(["prod/score"]));
    serve(&world, "iris", 1, &[2]).await;
    serve(&world, "iris", 2, &[]).await;
    world.delete("/v1/models/iris").await.expect(200);
    let body = json!({"model": "iris", "strategy": "single", "expected_revision": 3,
        "deployments": [{"version": 1, "role": "champion", "weight": 10_000}]});
    world.put(PLACE, body).await.expect_error(409, "deleted");
    let body = json!({"version": 1, "alias": "champion"});
    world
        .post(requests, body)
        .await
        .expect_error(409, "deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_request_of_a_renamed_model_lets_go_of_it() {
    let world = World::start().await;
    world.ready_model("iris").await;
    let body = json!({"version": 1, "alias": "champion"});
    let path = "/v1/models/iris/promotion-requests";
    send_as(&world, ("ada", ""), Method::POST, path, body)
        .await
        .expect(201);
    rename(&world, "iris", "lily").await;
    world
        .delete("/v1/models/lily")
        .await
        .expect_error(409, "version_in_use");
    world.clock.advance_millis(169 * 3_600_000);
    world.sweep().await;
    let listed = world.get("/v1/models/lily/promotion-requests").await;
    assert_eq!(listed.expect(200)["requests"][0]["status"], "expired");
    world.delete("/v1/models/lily").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_rollouts_follow_a_model_and_not_its_name() {
    let world = World::start().await;
    world.ready_model("iris").await;
    version_with(&world, 2, json!({})).await;
    let body = json!({"version": 1, "alias": "champion"});
    let path = "/v1/models/iris/promotion-requests";
    let asked = send_as(&world, ("ada", ""), Method::POST, path, body).await;
    let id = asked.expect(201)["id"].clone();
    serve(&world, "iris", 0, &[1]).await;
    rename(&world, "iris", "lily").await;
    // The place serves the same model under its new name: what stays there is neither counted twice nor let go.
    let served = serve(&world, "lily", 1, &[1]).await;
    assert_eq!(served["model"], "lily");
    serve(&world, "lily", 2, &[2]).await;
    rename(&world, "lily", "rose").await;
    let back = world
        .post(&format!("{PLACE}/rollback"), json!({"to_revision": 1}))
        .await
        .expect(200);
    assert_eq!(back["model"], "rose");
    assert_eq!(back["deployments"][0]["version"], 1);

    world.ready_model("iris").await;
    for path in ["promotion-requests", "rollouts"] {
        let of_new = world.get(&format!("/v1/models/iris/{path}")).await;
        let of_new = of_new.expect(200);
        let list = of_new[if path == "rollouts" { path } else { "requests" }].clone();
        assert_eq!(list, json!([]), "{path}");
    }
    world.delete("/v1/models/iris").await.expect(200);
    let of_old = world.get("/v1/models/rose/promotion-requests").await;
    assert_eq!(of_old.expect(200)["requests"][0]["id"], id);
    let of_old = world.get("/v1/models/rose/rollouts").await.expect(200);
    assert_eq!(of_old["rollouts"].as_array().unwrap().len(), 1);
    // The place goes to another model, and the one that was there is let go under the name that it has by now.
    world.ready_model("tulip").await;
    serve(&world, "tulip", 4, &[1]).await;
    let of_old = world.get("/v1/models/rose/rollouts").await.expect(200);
    assert_eq!(of_old["rollouts"], json!([]));
    let path = format!(
        "/v1/models/rose/promotion-requests/{}/reject",
        id.as_str().unwrap()
    );
    send_as(&world, ("ben", ""), Method::POST, &path, json!({}))
        .await
        .expect(200);
    world.delete("/v1/models/rose").await.expect(200);
}
