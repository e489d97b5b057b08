//! The main job, on real models, end to end.

use crate::world::{Files, World, digest, files, read_folder, repository, safetensors};
use serde_json::json;
use std::collections::BTreeMap;

fn fixture(path: &str) -> Vec<u8> {
    std::fs::read(repository().join("tests/fixtures").join(path)).unwrap()
}

async fn travels(world: &World, model: &str, files: &Files) {
    world.create_model(model).await;
    let version = world.publish(model, files).await;
    let view = world.version(model, version).await;
    assert_eq!(
        view["status"],
        "READY",
        "{:#}",
        world
            .get(&format!("/v1/models/{model}/versions/{version}/report"))
            .await
            .body
    );
    assert!(view["package"]["manifest_digest"].is_string(), "{view:#}");

    let listed = world
        .get(&format!(
            "/v1/models/{model}/versions/{version}/downloads?limit=100"
        ))
        .await
        .expect(200);
    let mut downloaded = BTreeMap::new();
    for download in listed["downloads"].as_array().unwrap() {
        downloaded.insert(
            download["path"].as_str().unwrap().to_owned(),
            world.download(download).await,
        );
    }
    assert_eq!(&downloaded, files, "bytes downloaded equal bytes uploaded");

    let manifest = world
        .get(&format!("/v1/models/{model}/versions/{version}/manifest"))
        .await
        .expect(200);
    let digests: BTreeMap<&str, &str> = manifest["artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|artifact| {
            (
                artifact["path"].as_str().unwrap(),
                artifact["digest"].as_str().unwrap(),
            )
        })
        .collect();
    for (path, bytes) in files {
        assert_eq!(digests[path.as_str()], digest(bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_safetensors_file_travels_the_whole_way() {
    let world = World::start().await;
    travels(
        &world,
        "iris",
        &BTreeMap::from([("iris.safetensors".to_owned(), fixture("iris.safetensors"))]),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_onnx_model_travels_the_whole_way() {
    let world = World::start().await;
    travels(
        &world,
        "iris",
        &BTreeMap::from([("iris.onnx".to_owned(), fixture("iris.onnx"))]),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mlflow_model_directory_travels_the_whole_way() {
    let world = World::start().await;
    travels(
        &world,
        "Schwertlilien 検査",
        &read_folder(&repository().join("tests/fixtures/iris-sklearn")),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_200_megabytes_travels_in_parts() {
    let world = World::start().await;
    let big = safetensors(210_000_000, 7);
    travels(
        &world,
        "big",
        &files(&[("model.safetensors", &big), ("README.md", b"# big\n")]),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_comes_back_as_it_was_given() {
    let world = World::start().await;
    world.create_model("iris").await;
    let model = safetensors(8, 1);
    let requirements = b"scikit-learn==1.9.1\n".to_vec();
    let metadata = json!({
        "run": {"id": "r-1", "name": "nightly", "experiment": "iris", "uri": "https://ci.example/1"},
        "framework": {"name": "scikit-learn", "version": "1.9.1"},
        "hyper_parameters": {"depth": 3, "criterion": "gini", "bootstrap": true, "seed": null},
        "metrics": {"accuracy": 0.97, "loss": 1},
        "datasets": [{"name": "iris", "version": "3", "uri": "s3://data/iris", "digest": "md5:1", "source": "UCI", "context": "training"}],
        "code": {"repository": "https://git.example/iris", "commit": "abc", "is_dirty": true},
        "environment_files": ["requirements.txt"],
        "signature": {"inputs": [{"name": "x", "type": "double"}], "outputs": [{"type": "long"}]},
        "author": "Ada",
    });
    let mut body = metadata.clone();
    body["artifacts"] = World::declaration(&files(&[
        ("model.safetensors", &model),
        ("requirements.txt", &requirements),
    ]));
    body["tags"] = json!({"team": "vision"});
    body["description"] = json!("A first try");
    world
        .post("/v1/models/iris/versions", body)
        .await
        .expect(201);
    let view = world.version("iris", 1).await;
    assert_eq!(view["metadata"], metadata);
    assert_eq!(view["tags"], json!({"team": "vision"}));
    assert_eq!(view["description"], "A first try");
    assert_eq!(view["registered_by"], "ada");

    world
        .patch(
            "/v1/models/iris/versions/1",
            json!({"tags": {"team": null, "risk": "low"}}),
        )
        .await
        .expect(200);
    assert_eq!(
        world.version("iris", 1).await["tags"],
        json!({"risk": "low"})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_with_a_wrong_digest_or_size_fails_and_its_report_says_which_file() {
    let world = World::start().await;
    world.create_model("iris").await;
    let good = safetensors(8, 1);
    let mut declaration = World::declaration(&files(&[
        ("a.safetensors", &good),
        ("b.safetensors", &good),
    ]));
    // What is uploaded past the presigned requests may differ from what was declared.
    declaration[1]["digest"] = json!(digest(b"something else"));
    world
        .post(
            "/v1/models/iris/versions",
            json!({"artifacts": declaration}),
        )
        .await
        .expect(201);
    let client = world.stack.app().bucket.clone();
    for path in ["a.safetensors", "b.safetensors"] {
        let key = format!("incoming/default/iris/1/{path}");
        client
            .put_immutable(&key, good.clone().into(), "application/octet-stream")
            .await
            .unwrap();
    }
    world.drain().await;
    let view = world.version("iris", 1).await;
    assert_eq!(view["status"], "FAILED_REGISTRATION");
    let report = world
        .get("/v1/models/iris/versions/1/report")
        .await
        .expect(200);
    let finding = &report["findings"][0];
    assert_eq!(finding["path"], "b.safetensors", "{report:#}");
    assert!(
        finding["rule"].as_str().unwrap().contains("digest"),
        "{report:#}"
    );
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect_error(409, "version_not_ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned_uploads_are_bound_to_length_and_checksum() {
    let world = World::start().await;
    world.create_model("iris").await;
    let good = safetensors(8, 1);
    let version = world
        .register("iris", &files(&[("m.safetensors", &good)]))
        .await;
    let answer = world
        .post(
            &format!("/v1/models/iris/versions/{version}/uploads"),
            json!({}),
        )
        .await
        .expect(200);
    let mut other = good.clone();
    *other.last_mut().unwrap() ^= 1;
    assert_ne!(
        world.put_bytes(&answer["uploads"][0], other).await,
        200,
        "another content"
    );
    let mut longer = good.clone();
    longer.push(0);
    let mut request = answer["uploads"][0].clone();
    request["headers"]["content-length"] = json!(longer.len().to_string());
    assert_eq!(
        world.put_bytes(&request, longer).await,
        403,
        "another length"
    );
    assert_eq!(world.put_bytes(&answer["uploads"][0], good).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upload_alone_sets_validation_and_packaging_going() {
    let world = World::start().await;
    world.create_model("iris").await;
    let content = files(&[("m.safetensors", &safetensors(8, 1))]);
    let version = world.register("iris", &content).await;
    world.upload("iris", version, &content).await;
    world.drain().await;
    assert_eq!(world.version("iris", version).await["status"], "READY");
    // Finalizing afterwards changes nothing and says so.
    let view = world
        .post("/v1/models/iris/versions/1/finalize", json!({}))
        .await
        .expect(200);
    assert_eq!(view["status"], "READY");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_promoted_rolled_back_and_removed_with_its_history() {
    let world = World::start().await;
    world.ready_model("iris").await;
    world
        .publish(
            "iris",
            &files(&[("model.safetensors", &safetensors(64, 2))]),
        )
        .await;

    let first = world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);
    assert_eq!(
        (first["version"].as_u64(), first["sequence"].as_u64()),
        (Some(1), Some(1))
    );
    world
        .set_alias("iris", "champion", 2, json!(1))
        .await
        .expect(200);
    let error = world
        .set_alias("iris", "champion", 1, json!(1))
        .await
        .expect_error(409, "conflict");
    assert_eq!(
        error["details"]["current"]["version"], 2,
        "the conflict carries the winner"
    );
    assert_eq!(error["details"]["current"]["changed_by"], "ada");

    let back = world
        .post(
            "/v1/models/iris/aliases/champion/rollback",
            json!({"reason": "worse on Mondays"}),
        )
        .await
        .expect(200);
    assert_eq!(
        (back["version"].as_u64(), back["sequence"].as_u64()),
        (Some(1), Some(3))
    );
    let alias = world
        .get("/v1/models/iris/aliases/champion")
        .await
        .expect(200);
    assert_eq!(alias["version"], 1);
    assert!(
        alias["manifest_uri"]
            .as_str()
            .unwrap()
            .ends_with("packages/default/iris/1/manifest.json")
    );

    world
        .delete("/v1/models/iris/versions/1")
        .await
        .expect_error(409, "version_in_use");
    world.delete("/v1/models/iris/versions/2").await.expect(200);
    world
        .set_alias("iris", "champion", 2, json!(1))
        .await
        .expect_error(409, "deleted");
    world
        .post("/v1/models/iris/versions/2/restore", json!({}))
        .await
        .expect(200);
    world
        .set_alias("iris", "champion", 2, json!(1))
        .await
        .expect(200);

    world
        .send(
            reqwest::Method::DELETE,
            "/v1/models/iris/aliases/champion",
            Some(json!({"expected_version": 2})),
            &[],
        )
        .await
        .expect(200);
    world
        .get("/v1/models/iris/aliases/champion")
        .await
        .expect_error(404, "alias_not_found");
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);

    let history = world
        .get("/v1/models/iris/aliases/champion/history?order=oldest")
        .await
        .expect(200);
    let seen: Vec<(u64, &str)> = history["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            (
                event["sequence"].as_u64().unwrap(),
                event["type"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (1, "alias.set"),
            (2, "alias.set"),
            (3, "alias.rolled_back"),
            (4, "alias.set"),
            (5, "alias.removed"),
            (6, "alias.set")
        ]
    );
    assert_eq!(history["events"][2]["reason"], "worse on Mondays");
    assert!(
        history["events"]
            .as_array()
            .unwrap()
            .iter()
            .all(|event| event["actor"].is_string() && event["time"].is_string())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_moves_through_stages() {
    let world = World::start().await;
    world.ready_model("iris").await;
    let path = "/v1/models/iris/versions/1/stage";
    let view = world
        .post(path, json!({"stage": "staging", "reason": "try it"}))
        .await
        .expect(200);
    assert_eq!(view["stage"], "Staging");
    world
        .post(
            path,
            json!({"stage": "Production", "expected_stage": "None"}),
        )
        .await
        .expect_error(409, "conflict");
    world
        .post(
            path,
            json!({"stage": "Production", "expected_stage": "Staging"}),
        )
        .await
        .expect(200);
    world
        .post(path, json!({"stage": "Nowhere"}))
        .await
        .expect_error(400, "invalid_argument");
    let events = world.get("/v1/models/iris/events").await.expect(200);
    assert_eq!(events["events"][0]["type"], "version.stage_changed");
    assert_eq!(
        events["events"][0]["data"],
        json!({"from": "Staging", "to": "Production"})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_found_by_prefix_and_by_tag_page_by_page() {
    let world = World::start().await;
    for index in 0..25 {
        let tags = if index % 2 == 0 {
            json!({"team": "vision"})
        } else {
            json!({})
        };
        world
            .post(
                "/v1/models",
                json!({"name": format!("iris-{index:02}"), "tags": tags}),
            )
            .await
            .expect(201);
    }
    world.create_model("rose").await;
    world.drain().await;
    let mut names = Vec::new();
    let mut path = "/v1/models?prefix=iris-&limit=10".to_owned();
    loop {
        let page = world.get(&path).await.expect(200);
        let models = page["models"].as_array().unwrap();
        assert!(models.len() <= 10);
        names.extend(
            models
                .iter()
                .map(|model| model["name"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/models?prefix=iris-&limit=10&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(
        names,
        (0..25)
            .map(|index| format!("iris-{index:02}"))
            .collect::<Vec<_>>()
    );

    let tagged = world
        .get("/v1/models?tag=team=vision&limit=100")
        .await
        .expect(200);
    assert_eq!(tagged["models"].as_array().unwrap().len(), 13);
    world
        .patch("/v1/models/iris-00", json!({"tags": {"team": null}}))
        .await
        .expect(200);
    let tagged = world
        .get("/v1/models?tag=team=vision&limit=100")
        .await
        .expect(200);
    assert_eq!(
        tagged["models"].as_array().unwrap().len(),
        12,
        "a row that is behind is held against the model"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_the_drop_zone_becomes_a_version_once_it_is_quiet() {
    let world = World::start().await;
    let content = read_folder(&repository().join("tests/fixtures/iris-sklearn"));
    let bucket = world.stack.app().bucket.clone();
    for (path, bytes) in &content {
        let key = format!("dropzone/default/iris/{path}");
        bucket
            .put_immutable(&key, bytes.clone().into(), "application/octet-stream")
            .await
            .unwrap();
    }
    world.drain().await;
    world.sweep().await;
    world
        .get("/v1/models/iris/versions/1")
        .await
        .expect_error(404, "version_not_found");

    world.clock.advance_millis(10_000);
    world.sweep().await;
    world.drain().await;
    let view = world.version("iris", 1).await;
    assert_eq!(view["status"], "READY");
    assert_eq!(
        view["artifact_count"].as_u64().unwrap(),
        content.len() as u64
    );
    world.sweep().await;
    world.drain().await;
    world
        .get("/v1/models/iris/versions/2")
        .await
        .expect_error(404, "version_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_of_which_no_notification_came_is_taken_in_the_next_quarter_of_an_hour() {
    let world = World::start().await;
    let bucket = world.stack.app().bucket.clone();
    let key = "dropzone/default/iris/m.safetensors";
    bucket
        .put_immutable(key, safetensors(8, 1).into(), "x/y")
        .await
        .unwrap();
    let quarter = 15 * 60_000;
    let since = world.clock.now().millis() % quarter;
    world.clock.advance_millis(2 * quarter - since);
    world.sweep().await;
    assert_eq!(world.version("iris", 1).await["artifact_count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_drop_is_taken_at_once() {
    let world = World::start().await;
    world.create_model("iris").await;
    let bucket = world.stack.app().bucket.clone();
    bucket
        .put_immutable(
            "dropzone/default/iris/m.safetensors",
            safetensors(8, 1).into(),
            "x/y",
        )
        .await
        .unwrap();
    bucket
        .put_immutable("dropzone/default/iris/_COMPLETE", Vec::new().into(), "x/y")
        .await
        .unwrap();
    world.drain().await;
    assert_eq!(world.version("iris", 1).await["artifact_count"], 1);
    assert_eq!(
        bucket.list("dropzone/", 10).await.unwrap(),
        vec![],
        "what was taken is out of the way"
    );
}
