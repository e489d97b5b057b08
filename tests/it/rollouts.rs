//! Rollouts: what is served where, by compare-and-swap, with every revision to return to.

use crate::crashes::cut_everywhere_with;
use crate::promotion::{events, version_with};
use crate::world::{Answer, World};
use reqwest::Method;
use serde_json::{Value, json};
use shared::test_util::Cut;

const PLACE: &str = "/v1/rollouts/prod-eu/score";

fn body(revision: u64, strategy: &str, deployments: &[(u64, &str, u32)]) -> Value {
    let deployments: Vec<Value> = deployments
        .iter()
        .map(|(version, role, weight)| json!({"version": version, "role": role, "weight": weight}))
        .collect();
    json!({"model": "iris", "strategy": strategy, "deployments": deployments, "expected_revision": revision})
}

async fn set(
    world: &World,
    revision: u64,
    strategy: &str,
    deployments: &[(u64, &str, u32)],
) -> Answer {
    world
        .put(PLACE, body(revision, strategy, deployments))
        .await
}

async fn three_versions(world: &World) {
    world.ready_model("iris").await;
    for fill in 2..4 {
        version_with(world, fill, json!({})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_grows_becomes_the_champion_and_is_rolled_back() {
    let world = World::start().await;
    three_versions(&world).await;
    world
        .get(PLACE)
        .await
        .expect_error(404, "rollout_not_found");
    let first = set(&world, 0, "single", &[(1, "champion", 10_000)])
        .await
        .expect(200);
    let lost = set(&world, 0, "single", &[(2, "champion", 10_000)])
        .await
        .expect_error(409, "conflict");
    assert_eq!(lost["details"]["current"]["revision"], 1);
    world.clock.advance_millis(1_000);
    let shadowed = [(1, "champion", 9_500), (2, "canary", 500), (3, "shadow", 0)];
    let canary = set(&world, 1, "canary", &shadowed).await.expect(200);
    // Who stays has been there since it came.
    assert_eq!(
        canary["deployments"][0]["since"],
        first["deployments"][0]["since"]
    );
    assert_ne!(
        canary["deployments"][1]["since"],
        first["deployments"][0]["since"]
    );
    assert_eq!(canary["deployments"][1]["by"], "ada");
    for version in 1..=3 {
        world
            .delete(&format!("/v1/models/iris/versions/{version}"))
            .await
            .expect_error(409, "version_in_use");
    }
    set(&world, 2, "single", &[(2, "champion", 10_000)])
        .await
        .expect(200);
    world.delete("/v1/models/iris/versions/3").await.expect(200);
    // Version 3 is gone, so what was with it cannot come back; what was before can.
    let path = format!("{PLACE}/rollback");
    world
        .post(&path, json!({}))
        .await
        .expect_error(409, "deleted");
    world
        .post(&path, json!({"to_revision": 9}))
        .await
        .expect_error(404, "rollout_not_found");
    world
        .post(&path, json!({"expected_revision": 2}))
        .await
        .expect_error(409, "conflict");
    let back = world
        .post(&path, json!({"to_revision": 1, "reason": "errors"}))
        .await
        .expect(200);
    assert_eq!(
        (&back["revision"], &back["rolled_back_to"]),
        (&json!(4), &json!(1))
    );
    assert_eq!(back["deployments"][0]["version"], 1);

    world.probe.reset(Cut::Never);
    assert_eq!(world.get(PLACE).await.expect(200)["revision"], 4);
    assert_eq!(world.probe.operations(), ["GetItem"]);
    assert!(world.probe.units() <= 0.5);
    let history = world.get(&format!("{PLACE}/history")).await.expect(200);
    let revisions: Vec<&Value> = history["rollouts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["revision"])
        .collect();
    assert_eq!(revisions, [4, 3, 2, 1]);
    for path in [
        "/v1/rollouts",
        "/v1/rollouts?environment=prod-eu",
        "/v1/models/iris/rollouts",
    ] {
        let page = world.get(path).await.expect(200);
        assert_eq!(page["rollouts"][0]["endpoint"], "score", "{path}");
    }
    assert_eq!(
        world.get("/v1/rollouts?environment=prod").await.expect(200)["rollouts"],
        json!([])
    );
    assert_eq!(events(&world, "rollout.changed").await.len(), 4);
    // Nothing is served any more.
    set(&world, 4, "single", &[]).await.expect(200);
    assert_eq!(
        world.get("/v1/models/iris/rollouts").await.expect(200)["rollouts"],
        json!([])
    );
    world.delete("/v1/models/iris/versions/1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rollouts_that_make_no_sense_are_refused() {
    let world = World::start().await;
    three_versions(&world).await;
    set(&world, 0, "single", &[(1, "champion", 9_999)])
        .await
        .expect_error(400, "invalid_argument");
    set(&world, 0, "single", &[(1, "king", 10_000)])
        .await
        .expect_error(400, "invalid_argument");
    set(&world, 0, "ab_test", &[(1, "variant", 10_000)])
        .await
        .expect_error(400, "invalid_argument");
    set(&world, 0, "single", &[(9, "champion", 10_000)])
        .await
        .expect_error(404, "version_not_found");
    let mut other = body(0, "single", &[(1, "champion", 10_000)]);
    other["model"] = json!("nothing");
    world
        .put(PLACE, other)
        .await
        .expect_error(404, "model_not_found");
    world
        .put("/v1/rollouts/a%20b/c", body(0, "single", &[]))
        .await
        .expect_error(400, "invalid_argument");
    world
        .register("iris", &crate::world::files(&[("a.bin", b"a")]))
        .await;
    set(&world, 0, "single", &[(4, "champion", 10_000)])
        .await
        .expect_error(409, "version_not_ready");
    world
        .get(PLACE)
        .await
        .expect_error(404, "rollout_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_changes_with_one_expectation_exactly_one_wins() {
    let world = World::start().await;
    three_versions(&world).await;
    let versions = [1, 2, 3, 1, 2, 3];
    let all = versions.map(|version| {
        let world = &world;
        async move { set(world, 0, "single", &[(version, "champion", 10_000)]).await }
    });
    let answers = futures::future::join_all(all).await;
    assert_eq!(
        answers.iter().filter(|answer| answer.status == 200).count(),
        1
    );
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == 200 || answer.status == 409)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_a_rollout_survives_every_cut() {
    cut_everywhere_with(
        &[],
        async |world| {
            three_versions(world).await;
            set(world, 0, "single", &[(1, "champion", 10_000)])
                .await
                .expect(200);
        },
        async |world, _| {
            let body = body(1, "canary", &[(1, "champion", 9_000), (2, "canary", 1_000)]);
            let headers = [("idempotency-key", "the-key"), ("x-slipway-actor", "ada")];
            world
                .send(Method::PUT, PLACE, Some(body), &headers)
                .await
                .status
                < 300
        },
        async |world| {
            assert_eq!(world.get(PLACE).await.expect(200)["revision"], 2);
            assert_eq!(events(world, "rollout.changed").await.len(), 2);
            set(world, 2, "single", &[]).await.expect(200);
            for version in 1..=2 {
                world
                    .delete(&format!("/v1/models/iris/versions/{version}"))
                    .await
                    .expect(200);
            }
        },
    )
    .await;
}
