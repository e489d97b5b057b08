//! A model is renamed, its name is used again, and nobody ever sees the one for the other.

use crate::crashes::cut_everywhere;
use crate::world::{Files, World, files, safetensors};
use reqwest::Method;
use serde_json::{Value, json};

fn content(fill: u8) -> Files {
    files(&[("m.safetensors", &safetensors(8, fill))])
}

async fn rename(world: &World, from: &str, to: &str) -> Value {
    world
        .post(&format!("/v1/models/{from}/rename"), json!({"name": to}))
        .await
        .expect(200)
}

/// A model with two versions, an alias that was set and one that was removed.
async fn served(world: &World, name: &str) {
    world.ready_model(name).await;
    world.publish(name, &content(2)).await;
    world
        .set_alias(name, "champion", 1, json!(null))
        .await
        .expect(200);
    world
        .set_alias(name, "champion", 2, json!(1))
        .await
        .expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_model_takes_all_that_it_has_with_it() {
    let world = World::start().await;
    served(&world, "iris").await;
    world
        .patch("/v1/models/iris", json!({"tags": {"team": "flowers"}}))
        .await
        .expect(200);
    world.drain().await;
    let renamed = rename(&world, "iris", "lilac").await;
    assert_eq!(
        (renamed["name"].as_str(), renamed["model_id"].as_str()),
        (Some("lilac"), Some("iris"))
    );
    world.drain().await;

    for path in [
        "/v1/models/iris",
        "/v1/models/iris/events",
        "/v1/models/iris/versions",
        "/v1/models/iris/aliases",
    ] {
        world.get(path).await.expect_error(404, "model_not_found");
    }
    world
        .get("/v1/models/iris/versions/1")
        .await
        .expect_error(404, "version_not_found");
    for path in [
        "/v1/models/iris/aliases/champion",
        "/v1/models/iris/aliases/champion/history",
    ] {
        world.get(path).await.expect_error(404, "alias_not_found");
    }
    let versions = world.get("/v1/models/lilac/versions").await.expect(200);
    assert_eq!(versions["versions"].as_array().unwrap().len(), 2);
    assert_eq!(versions["versions"][0]["model"], "lilac");
    let champion = world
        .get("/v1/models/lilac/aliases/champion")
        .await
        .expect(200);
    assert_eq!(
        (champion["model"].as_str(), champion["version"].as_u64()),
        (Some("lilac"), Some(2))
    );
    assert_eq!(
        world.get("/v1/models/lilac/aliases").await.expect(200)["aliases"][0]["alias"],
        "champion"
    );
    for order in ["newest", "oldest"] {
        let path = format!("/v1/models/lilac/aliases/champion/history?limit=1&order={order}");
        let first = world.get(&path).await.expect(200);
        let cursor = first["next_cursor"].as_str().unwrap();
        let second = world
            .get(&format!("{path}&cursor={cursor}"))
            .await
            .expect(200);
        let mut seen = vec![
            first["events"][0]["sequence"].as_u64(),
            second["events"][0]["sequence"].as_u64(),
        ];
        seen.sort();
        assert_eq!(seen, [Some(1), Some(2)]);
    }
    let events = world.get("/v1/models/lilac/events").await.expect(200);
    assert_eq!(events["events"][0]["type"], "model.renamed");
    assert_eq!(
        (
            events["events"][0]["model"].as_str(),
            events["events"][0]["model_id"].as_str()
        ),
        (Some("lilac"), Some("iris"))
    );
    for (tag, name) in [("team=flowers", "lilac")] {
        let found = world
            .get(&format!("/v1/models?tag={tag}"))
            .await
            .expect(200);
        assert_eq!(found["models"].as_array().unwrap().len(), 1);
        assert_eq!(found["models"][0]["name"], name);
    }

    // It goes on under its new name: versions, their judgement, aliases, stages, downloads.
    let number = world.publish("lilac", &content(3)).await;
    assert_eq!(number, 3);
    let version = world.version("lilac", 3).await;
    assert_eq!(
        (version["status"].as_str(), version["package"].is_object()),
        (Some("READY"), true)
    );
    world
        .set_alias("lilac", "champion", 3, json!(2))
        .await
        .expect(200);
    world
        .set_alias("lilac", "challenger", 2, json!(null))
        .await
        .expect(200);
    world
        .post("/v1/models/lilac/aliases/champion/rollback", json!({}))
        .await
        .expect(200);
    world
        .post(
            "/v1/models/lilac/versions/3/stage",
            json!({"stage": "Staging"}),
        )
        .await
        .expect(200);
    world
        .patch(
            "/v1/models/lilac/versions/1",
            json!({"description": "the first"}),
        )
        .await
        .expect(200);
    assert_eq!(world.version("lilac", 1).await["description"], "the first");
    let downloads = world
        .get("/v1/models/lilac/versions/1/downloads")
        .await
        .expect(200);
    assert!(!world.download(&downloads["downloads"][0]).await.is_empty());
    world
        .get("/v1/models/lilac/versions/1/report")
        .await
        .expect(200);
    world
        .get("/v1/models/lilac/versions/3/manifest")
        .await
        .expect(200);

    // And back, and to a third name.
    world.drain().await;
    rename(&world, "lilac", "iris").await;
    assert_eq!(
        world
            .get("/v1/models/iris/aliases/champion")
            .await
            .expect(200)["version"],
        2
    );
    assert_eq!(
        world.get("/v1/models/iris/events").await.expect(200)["events"][0]["type"],
        "model.renamed"
    );
    world
        .get("/v1/models/lilac/aliases/champion")
        .await
        .expect_error(404, "alias_not_found");
    world
        .get("/v1/models/lilac/events")
        .await
        .expect_error(404, "model_not_found");
    rename(&world, "iris", "rose").await;
    assert_eq!(
        world.get("/v1/models/rose").await.expect(200)["version_count"],
        3
    );
    world.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_free_again_belongs_to_another_model() {
    let world = World::start().await;
    served(&world, "iris").await;
    rename(&world, "iris", "lilac").await;
    let again = world.create_model("iris").await;
    assert_ne!(again["model_id"], "iris");
    assert_eq!(again["version_count"], 0);
    world
        .get("/v1/models/iris/versions/1")
        .await
        .expect_error(404, "version_not_found");
    world
        .get("/v1/models/iris/aliases/champion")
        .await
        .expect_error(404, "alias_not_found");
    let events = world
        .get("/v1/models/iris/events?order=oldest")
        .await
        .expect(200);
    assert_eq!(events["events"].as_array().unwrap().len(), 1);
    assert_eq!(world.publish("iris", &content(9)).await, 1);
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);
    let champion = world
        .get("/v1/models/iris/aliases/champion")
        .await
        .expect(200);
    assert_eq!(
        (champion["version"].as_u64(), champion["sequence"].as_u64()),
        (Some(1), Some(1))
    );
    assert_eq!(
        world
            .get("/v1/models/lilac/aliases/champion")
            .await
            .expect(200)["version"],
        2
    );
    let names: Vec<Value> = world.get("/v1/models").await.expect(200)["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["name"].clone())
        .collect();
    assert_eq!(names, ["iris", "lilac"]);
    world
        .post("/v1/models/lilac/rename", json!({"name": "iris"}))
        .await
        .expect_error(409, "model_exists");
    world.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_model_loses_its_name_and_comes_back_under_another() {
    let world = World::start().await;
    served(&world, "iris").await;
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
    world.delete("/v1/models/iris").await.expect(200);
    world
        .post("/v1/models", json!({"name": "iris"}))
        .await
        .expect_error(409, "deleted");
    let again = world
        .post(
            "/v1/models",
            json!({"name": "iris", "replace_deleted": true}),
        )
        .await
        .expect(201);
    assert_eq!(again["version_count"], 0);
    assert_eq!(world.publish("iris", &content(9)).await, 1);
    let refused = world
        .post("/v1/models/iris/restore", json!({}))
        .await
        .expect_error(409, "conflict");
    assert_eq!(refused["details"]["model_ids"], json!(["iris"]));
    world
        .post("/v1/models/iris/restore?model_id=iris", json!({}))
        .await
        .expect_error(409, "model_exists");
    let restored = world
        .post(
            "/v1/models/iris/restore?model_id=iris&name=iris-of-old",
            json!({}),
        )
        .await
        .expect(200);
    assert_eq!(
        (
            restored["model_id"].as_str(),
            restored["version_count"].as_u64()
        ),
        (Some("iris"), Some(2))
    );
    assert_eq!(world.version("iris-of-old", 2).await["status"], "READY");
    let events = world
        .get("/v1/models/iris-of-old/events?limit=3")
        .await
        .expect(200);
    let kinds: Vec<&str> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        ["model.restored", "model.displaced", "model.deleted"]
    );
    assert_eq!(world.version("iris", 1).await["status"], "READY");
    world.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renaming_survives_every_cut() {
    cut_everywhere(
        async |world| served(world, "iris").await,
        async |world, what| {
            if what == "repeated" {
                // Whoever comes after the crash finds the model under one of its names.
                let mut found = Vec::new();
                for name in ["iris", "lilac"] {
                    let path = format!("/v1/models/{name}/aliases/champion");
                    found.push(world.get(&path).await.status);
                }
                assert!(found == [200, 404] || found == [404, 200], "{found:?}");
            }
            let headers = [("idempotency-key", "the-key")];
            let body = json!({"name": "lilac"});
            world
                .send(Method::POST, "/v1/models/iris/rename", Some(body), &headers)
                .await
                .status
                == 200
        },
        async |world| {
            world
                .get("/v1/models/iris")
                .await
                .expect_error(404, "model_not_found");
            let champion = world
                .get("/v1/models/lilac/aliases/champion")
                .await
                .expect(200);
            assert_eq!(champion["version"], 2);
            let events = world
                .get("/v1/models/lilac/events?limit=100")
                .await
                .expect(200);
            let count = events["events"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|event| event["type"] == "model.renamed")
                .count();
            assert_eq!(count, 1);
        },
    )
    .await;
}
