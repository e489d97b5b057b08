//! The process is killed between any two AWS calls of any handler; after a restart everything converges.
//!
//! A cut before call `k` never sends it; a cut after call `k` applies it and loses the answer.
//! From the cut on no call is sent, as if the process were gone; then it lives again, the client repeats its request
//! under the same idempotency key, and events are delivered again.

use crate::world::{Files, World, files, safetensors};
use reqwest::Method;
use serde_json::{Value, json};
use shared::test_util::Cut;

/// More calls than any operation makes; the loop ends at the first `k` that cuts nothing.
const MOST_CALLS: usize = 100;

/// Every cut point of a fresh registry, until an uncut run.
pub(crate) async fn cut_everywhere(
    prepare: impl AsyncFn(&World),
    act: impl AsyncFn(&World, &str) -> bool,
    check: impl AsyncFn(&World),
) {
    cut_everywhere_with(&[], prepare, act, check).await;
}

/// The same, with variables of the configuration set.
pub(crate) async fn cut_everywhere_with(
    settings: &[(&str, &str)],
    prepare: impl AsyncFn(&World),
    act: impl AsyncFn(&World, &str) -> bool,
    check: impl AsyncFn(&World),
) {
    let mut points = 0;
    for make in [
        Cut::Before as fn(usize) -> Cut,
        Cut::After as fn(usize) -> Cut,
    ] {
        for k in 1..=MOST_CALLS {
            let world = World::start_with(settings).await;
            prepare(&world).await;
            world.probe.reset(make(k));
            act(&world, "cut").await;
            let was_cut = world.probe.was_cut();
            world.probe.reset(Cut::Never);
            if was_cut {
                points += 1;
                assert!(
                    act(&world, "repeated").await,
                    "the repeated request succeeds after {:?}",
                    make(k)
                );
            }
            converge(&world).await;
            check(&world).await;
            if !was_cut {
                break;
            }
            assert!(
                k < MOST_CALLS,
                "the operation makes more than {MOST_CALLS} calls"
            );
        }
    }
    assert!(points > 0, "nothing was cut");
}

/// Time goes on, sweeps run, everything that waits is delivered.
async fn converge(world: &World) {
    for _ in 0..4 {
        world.stack.drain().await.unwrap();
        world.clock.advance_millis(10 * 60_000);
        world.sweep().await;
    }
    world.drain().await;
}

/// Delivers what waits until the process is cut; what a handler was given then is delivered again later.
pub(crate) async fn drain_until_cut(world: &World) {
    while !world.probe.was_cut() && world.stack.step().await.unwrap().is_some() {}
}

fn content() -> Files {
    files(&[
        ("a.safetensors", &safetensors(8, 1)),
        ("b.safetensors", &safetensors(8, 2)),
    ])
}

async fn send(world: &World, method: Method, path: &str, body: Value) -> bool {
    let headers = [("idempotency-key", "the-key"), ("x-slipway-actor", "ada")];
    world.send(method, path, Some(body), &headers).await.status < 300
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_a_model_survives_every_cut() {
    cut_everywhere(
        async |_| {},
        async |world, _| {
            send(
                world,
                Method::POST,
                "/v1/models",
                json!({"name": "iris", "tags": {"team": "vision"}}),
            )
            .await
        },
        async |world| {
            let tagged = world.get("/v1/models?tag=team=vision").await.expect(200);
            assert_eq!(tagged["models"].as_array().unwrap().len(), 1);
            assert_eq!(events_of(world, "model.created").await, 1);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_a_version_survives_every_cut() {
    cut_everywhere(
        async |world| drop(world.create_model("iris").await),
        async |world, _| {
            let body = json!({"artifacts": World::declaration(&content()), "hyper_parameters": {"x": "y".repeat(2_000)}});
            send(world, Method::POST, "/v1/models/iris/versions", body).await
        },
        async |world| {
            assert_eq!(world.get("/v1/models/iris").await.expect(200)["version_count"], 1);
            assert_eq!(events_of(world, "version.registered").await, 1);
            assert_eq!(world.version("iris", 1).await["metadata"]["hyper_parameters"]["x"].as_str().unwrap().len(), 2_000);
        },
    )
    .await;
}

async fn events_of(world: &World, kind: &str) -> usize {
    let events = world
        .get("/v1/models/iris/events?limit=100")
        .await
        .expect(200);
    events["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["type"] == kind)
        .count()
}

async fn uploaded(world: &World) {
    world.create_model("iris").await;
    world.register("iris", &content()).await;
    world.upload("iris", 1, &content()).await;
}

pub(crate) async fn is_whole(world: &World) {
    let version = world.version("iris", 1).await;
    assert_eq!(version["status"], "READY", "{version:#}");
    assert!(version["package"].is_object(), "{version:#}");
    for kind in ["version.ready", "version.packaged"] {
        assert_eq!(events_of(world, kind).await, 1, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizing_survives_every_cut() {
    cut_everywhere(
        uploaded,
        async |world, _| {
            send(
                world,
                Method::POST,
                "/v1/models/iris/versions/1/finalize",
                json!({}),
            )
            .await
        },
        is_whole,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn validating_packaging_and_notifying_survive_every_cut() {
    cut_everywhere(
        async |world| {
            uploaded(world).await;
            world
                .post("/v1/subscriptions", json!({"url": "http://127.0.0.1:9/"}))
                .await
                .expect(201);
        },
        async |world, _| {
            drain_until_cut(world).await;
            true
        },
        is_whole,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promoting_survives_every_cut() {
    cut_everywhere(
        async |world| {
            world.ready_model("iris").await;
        },
        async |world, _| {
            let body = json!({"version": 1, "expected_version": null});
            send(world, Method::PUT, "/v1/models/iris/aliases/champion", body).await
        },
        async |world| {
            assert_eq!(
                world
                    .get("/v1/models/iris/aliases/champion")
                    .await
                    .expect(200)["sequence"],
                1
            );
            assert_eq!(world.version("iris", 1).await["alias_count"], 1);
            let history = world
                .get("/v1/models/iris/aliases/champion/history")
                .await
                .expect(200);
            assert_eq!(history["events"].as_array().unwrap().len(), 1);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_back_survives_every_cut() {
    cut_everywhere(
        async |world| {
            world.ready_model("iris").await;
            world
                .publish("iris", &files(&[("m.safetensors", &safetensors(8, 9))]))
                .await;
            world
                .set_alias("iris", "champion", 1, json!(null))
                .await
                .expect(200);
            world
                .set_alias("iris", "champion", 2, json!(1))
                .await
                .expect(200);
        },
        async |world, _| {
            send(
                world,
                Method::POST,
                "/v1/models/iris/aliases/champion/rollback",
                json!({}),
            )
            .await
        },
        async |world| {
            let alias = world
                .get("/v1/models/iris/aliases/champion")
                .await
                .expect(200);
            assert_eq!(
                (alias["version"].as_u64(), alias["sequence"].as_u64()),
                (Some(1), Some(3))
            );
            assert_eq!(world.version("iris", 1).await["alias_count"], 1);
            assert_eq!(world.version("iris", 2).await["alias_count"], 0);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_stage_deleting_and_restoring_survive_every_cut() {
    cut_everywhere(
        async |world| {
            world.ready_model("iris").await;
        },
        async |world, _| {
            send(
                world,
                Method::POST,
                "/v1/models/iris/versions/1/stage",
                json!({"stage": "Staging"}),
            )
            .await
        },
        async |world| {
            assert_eq!(world.version("iris", 1).await["stage"], "Staging");
            assert_eq!(events_of(world, "version.stage_changed").await, 1);
        },
    )
    .await;
    cut_everywhere(
        async |world| {
            world.ready_model("iris").await;
        },
        async |world, _| {
            send(
                world,
                Method::DELETE,
                "/v1/models/iris/versions/1",
                json!({}),
            )
            .await
        },
        async |world| {
            assert!(world.version("iris", 1).await["deleted_at"].is_string());
            assert_eq!(events_of(world, "version.deleted").await, 1);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_a_drop_survives_every_cut() {
    cut_everywhere(
        async |world| {
            let bucket = world.stack.app().bucket.clone();
            for path in ["m.safetensors", "_COMPLETE"] {
                let bytes = if path == "_COMPLETE" {
                    Vec::new()
                } else {
                    safetensors(8, 1)
                };
                bucket
                    .put_immutable(
                        &format!("dropzone/default/iris/{path}"),
                        bytes.into(),
                        "x/y",
                    )
                    .await
                    .unwrap();
            }
        },
        async |world, _| {
            drain_until_cut(world).await;
            true
        },
        async |world| {
            is_whole(world).await;
            assert_eq!(
                world.get("/v1/models/iris").await.expect(200)["version_count"],
                1,
                "registered once"
            );
        },
    )
    .await;
}
