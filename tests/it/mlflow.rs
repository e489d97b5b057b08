//! MLflow's REST API, as its clients see it on the wire.

use crate::world::World;
use serde_json::json;
use shared::domain::{ModelName, StageName, TenantName, VersionId, VersionNumber};
use tower::ServiceExt as _;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_in_the_words_of_mlflow() {
    let world = World::start().await;
    for path in [
        "/api/2.0/mlflow/traces",
        "/ajax-api/2.0/mlflow/gateway/x",
        "/t/team-a/api/2.0/mlflow/none",
    ] {
        let message = world
            .get(path)
            .await
            .expect_mlflow(404, "ENDPOINT_NOT_FOUND");
        assert!(message.contains("does not exist"), "{message}");
    }
    world
        .post("/t/Team A/api/2.0/mlflow/none", json!({}))
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
}

const API: &str = "/api/2.0/mlflow";

/// A version whose files lie elsewhere.
async fn reference(world: &World, model: &str) -> String {
    let body = json!({"name": model, "source": "s3://elsewhere/model"});
    let answer = world
        .post(&format!("{API}/model-versions/create"), body)
        .await
        .expect(200);
    answer["model_version"]["version"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn create(world: &World, model: &str) {
    world
        .post(
            &format!("{API}/registered-models/create"),
            json!({"name": model}),
        )
        .await
        .expect(200);
}

async fn delete(world: &World, path: &str, body: serde_json::Value) -> crate::world::Answer {
    world
        .send(
            reqwest::Method::DELETE,
            &format!("{API}/{path}"),
            Some(body),
            &[],
        )
        .await
}

async fn set_alias(world: &World, model: &str, alias: &str, version: &str) {
    let body = json!({"name": model, "alias": alias, "version": version});
    world
        .post(&format!("{API}/registered-models/alias"), body)
        .await
        .expect(200);
}

async fn move_to(world: &World, version: &str, stage: &str) {
    let body = json!({"name": "iris", "version": version, "stage": stage});
    world
        .post(&format!("{API}/model-versions/transition-stage"), body)
        .await
        .expect(200);
}

/// The latest version of each stage, as `stage version`.
async fn latest(world: &World) -> Vec<String> {
    let answer = world
        .get(&format!(
            "{API}/registered-models/get-latest-versions?name=iris"
        ))
        .await
        .expect(200);
    let shown = |version: &serde_json::Value| {
        format!(
            "{} {}",
            version["current_stage"].as_str().unwrap(),
            version["version"].as_str().unwrap()
        )
    };
    let empty = Vec::new();
    let mut found: Vec<String> = answer["model_versions"]
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .map(shown)
        .collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_elsewhere_is_ready_and_told_to_be_a_reference() {
    let world = World::start().await;
    create(&world, "iris").await;
    reference(&world, "iris").await;
    world.drain().await;
    world.sweep().await;
    let version = world.version("iris", 1).await;
    assert_eq!(version["status"], "READY");
    assert_eq!(version["is_reference"], true);
    assert!(version.get("validation").is_none());
    let uri = world
        .get(&format!(
            "{API}/model-versions/get-download-uri?name=iris&version=1"
        ))
        .await
        .expect(200);
    assert_eq!(uri["artifact_uri"], "s3://elsewhere/model");
}

#[tokio::test(flavor = "multi_thread")]
async fn native_versions_have_a_place_that_clients_of_mlflow_can_read() {
    let world = World::start().await;
    world.ready_model("a b").await;
    let uri = world
        .get(&format!(
            "{API}/model-versions/get-download-uri?name=a+b&version=1"
        ))
        .await
        .expect(200);
    assert_eq!(uri["artifact_uri"], "mlflow-artifacts:/versions/a%20b/1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_holds_the_same_pinned_objects_and_is_validated_before_it_is_answered() {
    let world = World::start().await;
    world.ready_model("iris").await;
    create(&world, "copy").await;
    let body = json!({"name": "copy", "source": "models:/iris/1"});
    let path = format!("{API}/model-versions/create");
    let judged = async {
        let copy = "/v1/models/copy/versions/1";
        while world.get(copy).await.body["status"] != "READY" {
            world.drain().await;
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let (answer, ()) = tokio::join!(world.post(&path, body), judged);
    // MLflow's client does not wait for a copy, so that the answer does.
    assert_eq!(answer.expect(200)["model_version"]["status"], "READY");
    let digests = async |model: &str| {
        let artifacts = world
            .get(&format!("/v1/models/{model}/versions/1/artifacts"))
            .await
            .expect(200);
        artifacts["artifacts"][0]["digest"].clone()
    };
    assert_eq!(digests("copy").await, digests("iris").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_stage_and_a_deletion_touch_the_model_and_a_description_does_not() {
    let world = World::start().await;
    create(&world, "iris").await;
    for _ in 0..2 {
        reference(&world, "iris").await;
    }
    let touched = async || {
        let model = world
            .get(&format!("{API}/registered-models/get?name=iris"))
            .await
            .expect(200);
        model["registered_model"]["last_updated_timestamp"]
            .as_u64()
            .unwrap()
    };
    let mut before = touched().await;
    let mut is_touched = async || {
        let after = touched().await;
        std::mem::replace(&mut before, after) < after
    };
    world.clock.advance_millis(5);
    move_to(&world, "1", "Staging").await;
    assert!(is_touched().await);
    world.clock.advance_millis(5);
    let body = json!({"name": "iris", "version": "1", "description": "new"});
    let path = format!("{API}/model-versions/update");
    world
        .send(reqwest::Method::PATCH, &path, Some(body), &[])
        .await
        .expect(200);
    assert!(!is_touched().await);
    world.clock.advance_millis(5);
    let body = json!({"name": "iris", "version": "2"});
    delete(&world, "model-versions/delete", body)
        .await
        .expect(200);
    assert!(is_touched().await);
    world.clock.advance_millis(5);
    world.drain().await;
    assert!(!is_touched().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_of_each_stage_is_right_after_every_kind_of_change() {
    let world = World::start().await;
    create(&world, "iris").await;
    assert!(latest(&world).await.is_empty());
    for _ in 0..6 {
        reference(&world, "iris").await;
    }
    assert_eq!(latest(&world).await, ["None 6"]);
    move_to(&world, "6", "Production").await;
    assert_eq!(latest(&world).await, ["None 5", "Production 6"]);
    move_to(&world, "2", "production").await;
    assert_eq!(latest(&world).await, ["None 5", "Production 6"]);
    delete(
        &world,
        "model-versions/delete",
        json!({"name": "iris", "version": "6"}),
    )
    .await
    .expect(200);
    // Before and after the deletion's event was dispatched.
    assert_eq!(latest(&world).await, ["None 5", "Production 2"]);
    world.drain().await;
    assert_eq!(latest(&world).await, ["None 5", "Production 2"]);
    world
        .post("/v1/models/iris/versions/6/restore", json!({}))
        .await
        .expect(200);
    assert_eq!(latest(&world).await, ["None 5", "Production 6"]);
    // Whoever dispatches the deletion saw it deleted, and acts when it is restored.
    let restored = VersionId {
        tenant: TenantName::default_tenant(),
        model: ModelName::parse("iris").unwrap(),
        number: VersionNumber::new(6).unwrap(),
    };
    let production = StageName::parse("Production").unwrap();
    let registry = &world.stack.app().registry;
    registry.settle_stage(&restored, &production).await.unwrap();
    assert_eq!(latest(&world).await, ["None 5", "Production 6"]);
    let archive = json!({
        "name": "iris", "version": "5", "stage": "Production", "archive_existing_versions": true,
    });
    world
        .post(&format!("{API}/model-versions/transition-stage"), archive)
        .await
        .expect(200);
    assert_eq!(
        latest(&world).await,
        ["Archived 6", "None 4", "Production 5"]
    );
    for version in ["1", "3", "4"] {
        move_to(&world, version, "Staging").await;
    }
    assert_eq!(
        latest(&world).await,
        ["Archived 6", "Production 5", "Staging 4"]
    );
    reference(&world, "iris").await;
    assert_eq!(
        latest(&world).await,
        ["Archived 6", "None 7", "Production 5", "Staging 4"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_do_not_grow_with_the_number_of_versions() {
    let world = World::start().await;
    create(&world, "iris").await;
    let mut before = None;
    for count in [10, 150] {
        while reference(&world, "iris").await.parse::<u32>().unwrap() < count {}
        // Every version but the newest went the usual way: to production, and then to the archive.
        for version in (count - 9)..count {
            let body = json!({
                "name": "iris", "version": version.to_string(), "stage": "Production",
                "archive_existing_versions": true,
            });
            world
                .post(&format!("{API}/model-versions/transition-stage"), body)
                .await
                .expect(200);
        }
        set_alias(&world, "iris", "champion", "1").await;
        world.drain().await;
        let mut spent = Vec::new();
        for path in [
            "registered-models/get?name=iris",
            "registered-models/get-latest-versions?name=iris",
            "registered-models/alias?name=iris&alias=champion",
            "registered-models/alias?name=iris&alias=latest",
            "model-versions/get?name=iris&version=1",
            "registered-models/search?filter=name%3D'iris'",
        ] {
            let (answer, cost) =
                crate::budgets::cost(&world, world.get(&format!("{API}/{path}"))).await;
            answer.expect(200);
            assert!(cost.operations.len() <= 2, "{path}: {cost:?}");
            spent.push((path, cost.operations));
        }
        assert_eq!(before.get_or_insert(spent.clone()), &spent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_read_together_with_the_version_it_was_last_seen_to_hold() {
    let world = World::start().await;
    create(&world, "iris").await;
    for _ in 0..2 {
        reference(&world, "iris").await;
    }
    world.drain().await;
    let path = format!("{API}/registered-models/alias?name=iris&alias=champion");
    let held = async || {
        let (answer, cost) = crate::budgets::cost(&world, world.get(&path)).await;
        let version = answer.expect(200)["model_version"]["version"].clone();
        (version.as_str().unwrap().to_owned(), cost)
    };
    set_alias(&world, "iris", "champion", "1").await;
    held().await;
    let (version, spent) = held().await;
    assert_eq!(version, "1");
    spent.is(&["BatchGetItem"], 2.0);

    // Another process moves it; this one finds out by the same read, and asks for the other version.
    let app = world.stack.app();
    let other = shared::App::new((*app.config).clone(), world.clock.clone(), &[]);
    let moved = promote::router(other)
        .oneshot(
            axum::http::Request::post(format!("{API}/registered-models/alias"))
                .header("content-type", "application/json")
                .body(axum::body::Body::from(
                    json!({"name": "iris", "alias": "champion", "version": "2"}).to_string(),
                ))
                .unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(moved.status(), 200);
    let (version, spent) = held().await;
    assert_eq!(version, "2");
    spent.is(&["BatchGetItem", "GetItem", "GetItem"], 4.0);
    let (version, spent) = held().await;
    assert_eq!(version, "2");
    spent.is(&["BatchGetItem"], 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_takes_the_aliases_along_and_leaves_their_history() {
    let world = World::start().await;
    create(&world, "iris").await;
    for _ in 0..2 {
        reference(&world, "iris").await;
    }
    set_alias(&world, "iris", "champion", "1").await;
    set_alias(&world, "iris", "challenger", "2").await;
    delete(
        &world,
        "model-versions/delete",
        json!({"name": "iris", "version": "1"}),
    )
    .await
    .expect(200);
    let message = world
        .get(&format!(
            "{API}/registered-models/alias?name=iris&alias=champion"
        ))
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
    assert_eq!(message, "Registered model alias champion not found.");
    delete(&world, "registered-models/delete", json!({"name": "iris"}))
        .await
        .expect(200);
    for path in [
        "registered-models/get?name=iris",
        "model-versions/get?name=iris&version=2",
        "registered-models/alias?name=iris&alias=challenger",
    ] {
        world
            .get(&format!("{API}/{path}"))
            .await
            .expect_mlflow(404, "RESOURCE_DOES_NOT_EXIST");
    }
    delete(&world, "registered-models/delete", json!({"name": "iris"}))
        .await
        .expect_mlflow(404, "RESOURCE_DOES_NOT_EXIST");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_tags_of_prompts_are_kept() {
    let world = World::start().await;
    let text = "ä".repeat(100_000);
    let tags = json!([
        {"key": "mlflow.prompt.is_prompt", "value": "true"},
        {"key": "mlflow.prompt.text", "value": text},
    ]);
    let body = json!({"name": "hello", "tags": [tags[0]]});
    world
        .post(&format!("{API}/registered-models/create"), body)
        .await
        .expect(200);
    let body = json!({"name": "hello", "source": "dummy-source", "tags": tags});
    world
        .post(&format!("{API}/model-versions/create"), body)
        .await
        .expect(200);
    world.drain().await;
    let answer = world
        .get(&format!("{API}/model-versions/get?name=hello&version=1"))
        .await
        .expect(200);
    assert_eq!(answer["model_version"]["tags"], tags);
    for (path, list) in [
        ("registered-models/search", "registered_models"),
        ("model-versions/search", "model_versions"),
    ] {
        let hidden = world.get(&format!("{API}/{path}")).await.expect(200);
        assert!(hidden.get(list).is_none());
        let filter = "filter=tags.%60mlflow.prompt.is_prompt%60+%3D+'true'";
        let shown = world
            .get(&format!("{API}/{path}?{filter}"))
            .await
            .expect(200);
        assert_eq!(shown[list].as_array().unwrap().len(), 1);
    }
    let body = json!({"name": "hello", "key": "k", "value": "x".repeat(100_001)});
    world
        .post(&format!("{API}/registered-models/set-tag"), body)
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_stable_while_others_write_and_belong_to_their_tenant() {
    let world = World::start().await;
    create(&world, "iris").await;
    for _ in 0..9 {
        reference(&world, "iris").await;
    }
    let path = |token: &str| {
        format!(
            "{API}/model-versions/search?filter=name%3D'iris'&max_results=4&order_by=version_number+ASC&page_token={token}"
        )
    };
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let page = world.get(&path(&token)).await.expect(200);
        for version in page["model_versions"].as_array().unwrap() {
            seen.push(version["version"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next_page_token"].as_str() else {
            break;
        };
        next.clone_into(&mut token);
        // What was shown goes away, and something new comes.
        delete(
            &world,
            "model-versions/delete",
            json!({"name": "iris", "version": seen[0]}),
        )
        .await;
        reference(&world, "iris").await;
        world
            .get(&format!("/t/other{}", path(&token)))
            .await
            .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
    }
    assert_eq!(
        seen,
        (1..=11)
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_answers_again_what_was_answered() {
    let world = World::start().await;
    create(&world, "iris").await;
    let body = json!({"name": "iris", "source": "s3://elsewhere/model"});
    let send = async || {
        world
            .send(
                reqwest::Method::POST,
                &format!("{API}/model-versions/create"),
                Some(body.clone()),
                &[("idempotency-key", "once")],
            )
            .await
    };
    let (first, second) = (send().await, send().await);
    assert_eq!(second.headers["idempotency-replayed"], "true");
    assert_eq!(first.expect(200), second.expect(200));
}
