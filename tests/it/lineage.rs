//! Runs, logged models and the versions that MLflow's clients register from them find each other.

use crate::crashes::cut_everywhere;
use crate::tracking::{pairs, send};
use crate::world::World;
use reqwest::Method;
use serde_json::{Value, json};

const VERSIONS: &str = "mlflow.modelVersions";

/// Creates `iris` and a logged model, and answers the logged model's id.
async fn logged_model(world: &World) -> String {
    world
        .mlflow("registered-models/create", json!({"name": "iris"}))
        .await
        .expect(200);
    let body = json!({"experiment_id": "0", "name": "lm"});
    let model = world.mlflow("logged-models", body).await.expect(200);
    model["model"]["info"]["model_id"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn register(world: &World, model_id: &str) {
    let body = json!({"name": "iris", "source": "s3://elsewhere/model", "model_id": model_id});
    world
        .mlflow("model-versions/create", body)
        .await
        .expect(200);
}

async fn tags(world: &World, model_id: &str) -> Value {
    let shown = world
        .ask_mlflow(&format!("logged-models/{model_id}"))
        .await
        .expect(200);
    json!(pairs(&shown["model"]["info"]["tags"]))
}

async fn set_tag(world: &World, model_id: &str, key: &str, value: &str) {
    let path = format!("/api/2.0/mlflow/logged-models/{model_id}/tags");
    let body = json!({"tags": [{"key": key, "value": value}]});
    world
        .send(Method::PATCH, &path, Some(body), &[])
        .await
        .expect(200);
}

/// What clients of MLflow do after `register_model`: they read the tag, add to it, and write it.
#[tokio::test(flavor = "multi_thread")]
async fn a_logged_model_names_the_versions_that_were_registered_from_it() {
    let world = World::start().await;
    let id = logged_model(&world).await;
    register(&world, &id).await;
    assert_eq!(
        tags(&world, &id).await,
        json!({VERSIONS: r#"[{"name": "iris", "version": 1}]"#})
    );
    let appended = r#"[{"name": "iris", "version": 1}, {"name": "iris", "version": "1"}]"#;
    set_tag(&world, &id, VERSIONS, appended).await;
    assert_eq!(tags(&world, &id).await[VERSIONS], appended);
    register(&world, &id).await;
    let shown = tags(&world, &id).await[VERSIONS].clone();
    assert!(
        shown
            .as_str()
            .unwrap()
            .ends_with(r#", {"name": "iris", "version": 2}]"#)
    );

    let found = json!({
        "experiment_ids": ["0"], "filter": format!("tags.`{VERSIONS}` LIKE '%\"version\": 2%'"),
    });
    let found = world
        .mlflow("logged-models/search", found)
        .await
        .expect(200);
    assert_eq!(found["models"].as_array().unwrap().len(), 1);

    // A logged model that is not here is as good as none.
    register(&world, "m-none").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_and_changes_of_a_logged_model_lose_nothing_of_each_other() {
    let world = World::start().await;
    let id = logged_model(&world).await;
    let registering = async {
        for _ in 0..20 {
            register(&world, &id).await;
        }
    };
    let tagging = async {
        for number in 0..20 {
            set_tag(&world, &id, &format!("t{number}"), "x").await;
        }
    };
    tokio::join!(registering, tagging);
    let tags = tags(&world, &id).await;
    let versions: Vec<Value> = serde_json::from_str(tags[VERSIONS].as_str().unwrap()).unwrap();
    assert_eq!(versions.len(), 20);
    assert_eq!(tags.as_object().unwrap().len(), 21);
}

/// MLflow's tag has room for so many; whoever registers more still registers.
#[tokio::test(flavor = "multi_thread")]
async fn a_logged_model_names_two_hundred_versions_at_most() {
    let world = World::start().await;
    let id = logged_model(&world).await;
    for _ in 0..202 {
        register(&world, &id).await;
    }
    let tags = tags(&world, &id).await;
    let versions: Vec<Value> = serde_json::from_str(tags[VERSIONS].as_str().unwrap()).unwrap();
    assert_eq!(versions.len(), 200);
    let version = world
        .ask_mlflow("model-versions/get?name=iris&version=202")
        .await
        .expect(200);
    assert_eq!(version["model_version"]["model_id"], id.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn datasets_of_experiments_are_told_once_each() {
    let world = World::start().await;
    for context in ["training", "training", "eval"] {
        let run = world.run("0", 1).await;
        let dataset = json!({"name": "d", "digest": "1", "source_type": "local", "source": "x"});
        let tags = json!([{"key": "mlflow.data.context", "value": context}]);
        let body = json!({"run_id": run, "datasets": [{"tags": tags, "dataset": dataset}]});
        world.mlflow("runs/log-inputs", body).await.expect(200);
    }
    let path = "experiments/search-datasets";
    let found = world
        .mlflow(path, json!({"experiment_ids": ["0", "9"]}))
        .await
        .expect(200);
    let summary = |context: &str| json!({"experiment_id": "0", "name": "d", "digest": "1", "context": context});
    assert_eq!(
        found["dataset_summaries"],
        json!([summary("eval"), summary("training")])
    );
    for ids in [json!([]), json!(vec!["0"; 21])] {
        world
            .mlflow(path, json!({"experiment_ids": ids}))
            .await
            .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_a_registered_model_survives_every_cut() {
    cut_everywhere(
        async |_| {},
        async |world, _| {
            let body = json!({"name": "iris", "tags": [{"key": "k", "value": "v"}]});
            send(world, "registered-models/create", body).await
        },
        async |world| {
            let found = world
                .ask_mlflow("registered-models/get?name=iris")
                .await
                .expect(200);
            assert_eq!(pairs(&found["registered_model"]["tags"])["k"], "v");
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_a_version_from_a_logged_model_survives_every_cut() {
    cut_everywhere(
        async |world| {
            logged_model(world).await;
        },
        async |world, _| {
            let found = json!({"experiment_ids": ["0"]});
            let found = world.mlflow("logged-models/search", found).await.body;
            let Some(id) = found["models"][0]["info"]["model_id"].as_str() else {
                return false;
            };
            let body = json!({"name": "iris", "source": format!("models:/{id}"), "run_id": "r1"});
            send(world, "model-versions/create", body).await
        },
        async |world| {
            let found = world
                .ask_mlflow("model-versions/search?filter=")
                .await
                .expect(200);
            assert_eq!(found["model_versions"].as_array().unwrap().len(), 1);
            let id = found["model_versions"][0]["model_id"].as_str().unwrap();
            assert_eq!(
                tags(world, id).await[VERSIONS],
                r#"[{"name": "iris", "version": 1}]"#
            );
        },
    )
    .await;
}

/// Both were registered from the run, and only one of them is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_found_by_its_run_once_though_its_models_name_was_used_before() {
    let world = World::start().await;
    let body = json!({"name": "iris", "source": "s3://elsewhere/model", "run_id": "r1"});
    for life in 0..2 {
        world
            .mlflow("registered-models/create", json!({"name": "iris"}))
            .await
            .expect(200);
        world
            .mlflow("model-versions/create", body.clone())
            .await
            .expect(200);
        if life == 0 {
            let path = "/api/2.0/mlflow/registered-models/delete";
            world
                .send(Method::DELETE, path, Some(json!({"name": "iris"})), &[])
                .await
                .expect(200);
        }
    }
    for filter in ["run_id%20%3D%20%27r1%27", "run_id%20IN%20(%27r1%27)"] {
        let found = world
            .ask_mlflow(&format!("model-versions/search?filter={filter}"))
            .await
            .expect(200);
        assert_eq!(found["model_versions"].as_array().unwrap().len(), 1);
    }
}
