//! What comes between somebody's reading and writing is not lost.
//!
//! One request is held right before its write, another one is answered meanwhile, and then the first goes on.

use crate::world::{Answer, World};
use reqwest::Method;
use serde_json::{Value, json};
use shared::test_util::Cut;
use std::sync::Arc;

/// A request that changes something.
#[derive(Debug, Clone)]
struct Change(Method, String, Value);

impl Change {
    fn mlflow(path: &str, body: Value) -> Self {
        Self(Method::POST, format!("/api/2.0/mlflow/{path}"), body)
    }

    async fn send(&self, world: &World) -> Answer {
        world
            .send(self.0.clone(), &self.1, Some(self.2.clone()), &[])
            .await
    }
}

/// Holds the first at a call, answers the second, and lets the first go on; what they were answered.
async fn race(
    world: &Arc<World>,
    held_at: &'static str,
    first: Change,
    second: Change,
) -> (Answer, Answer) {
    let held = world.probe.hold(held_at, 1);
    let (asking, asked) = (Arc::clone(world), first.clone());
    let doing = tokio::spawn(async move { asked.send(&asking).await });
    let probe = world.probe.clone();
    let waiting = tokio::task::spawn_blocking(move || held.wait().then_some(held));
    let waiting = tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await;
    let Ok(Ok(Some(held))) = waiting else {
        let calls = probe.operations();
        probe.reset(Cut::Never);
        panic!("{first:?} makes no `{held_at}`, but {calls:?}");
    };
    let answered = second.send(world).await;
    drop(held);
    (doing.await.unwrap(), answered)
}

fn tag(named: &str, id: &str, key: &str) -> Value {
    json!({named: id, "key": key, "value": "1"})
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_are_set_at_once_are_both_there() {
    let world = Arc::new(World::start().await);
    let body = json!({"name": "shared"});
    let experiment = world.mlflow("experiments/create", body).await.expect(200);
    let experiment = experiment["experiment_id"].as_str().unwrap().to_owned();
    let run = world.run(&experiment, 1).await;
    for (path, named, id, held_at) in [
        ("runs/set-tag", "run_id", &run, "PutItem"),
        (
            "experiments/set-experiment-tag",
            "experiment_id",
            &experiment,
            "PutItem",
        ),
    ] {
        let change = |key| Change::mlflow(path, tag(named, id, key));
        let (first, second) = race(&world, held_at, change("a"), change("b")).await;
        first.expect(200);
        second.expect(200);
    }
    let shown = world.ask_mlflow(&format!("runs/get?run_id={run}")).await;
    let of_run = shown.expect(200)["run"]["data"]["tags"].to_string();
    let path = format!("experiments/get?experiment_id={experiment}");
    let shown = world.ask_mlflow(&path).await;
    let of_experiment = shown.expect(200)["experiment"]["tags"].to_string();
    for tags in [of_run, of_experiment] {
        for key in ["a", "b"] {
            assert!(tags.contains(&format!("\"key\":\"{key}\"")), "{tags}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_experiments_with_one_name_one_is_created() {
    let world = Arc::new(World::start().await);
    let create = |name| Change::mlflow("experiments/create", json!({"name": name}));
    create("before").send(&world).await.expect(200);
    let (first, second) = race(&world, "TransactWriteItems", create("same"), create("same")).await;
    second.expect(200);
    first.expect_mlflow(400, "RESOURCE_ALREADY_EXISTS");
    let (first, second) = race(&world, "TransactWriteItems", create("one"), create("two")).await;
    let ids = [first.expect(200), second.expect(200)].map(|body| body["experiment_id"].clone());
    assert_ne!(ids[0], ids[1], "each has a number of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logged_model_keeps_what_came_while_it_was_changed() {
    let world = Arc::new(World::start().await);
    let run = world.run("0", 1).await;
    let body = json!({"experiment_id": "0", "name": "lm", "source_run_id": run});
    let model = world.mlflow("logged-models", body).await.expect(200)["model"].clone();
    let id = model["info"]["model_id"].as_str().unwrap().to_owned();
    let path = format!("/api/2.0/mlflow/logged-models/{id}");
    let tags = |key: &str| {
        let body = json!({"tags": [{"key": key, "value": "1"}]});
        Change(Method::PATCH, format!("{path}/tags"), body)
    };
    let measured = Change::mlflow(
        "runs/log-metric",
        json!({"run_id": run, "key": "acc", "value": 0.5, "timestamp": 1, "step": 1, "model_id": id}),
    );
    for (first, second) in [(tags("a"), tags("b")), (tags("c"), measured)] {
        let (first, second) = race(&world, "PutItem", first, second).await;
        first.expect(200);
        second.expect(200);
    }
    let shown = world.get(&path).await.expect(200);
    let data = shown["model"]["data"].to_string();
    let tags = shown["model"]["info"]["tags"].to_string();
    for key in ["a", "b", "c"] {
        assert!(tags.contains(&format!("\"key\":\"{key}\"")), "{tags}");
    }
    assert!(data.contains("\"acc\""), "{data}");
    let filter = json!({"experiment_ids": ["0"], "filter": "metrics.acc > 0.1"});
    let found = world
        .mlflow("logged-models/search", filter)
        .await
        .expect(200);
    assert_eq!(found["models"].as_array().map_or(0, Vec::len), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_changes_of_a_subscription_one_is_refused() {
    let world = Arc::new(World::start().await);
    let body = json!({"url": "http://127.0.0.1:9/", "event_types": ["model.created"]});
    let created = world.post("/v1/subscriptions", body).await.expect(201);
    let path = format!("/v1/subscriptions/{}", created["id"].as_str().unwrap());
    let change = |body: Value| Change(Method::PATCH, path.clone(), body);
    for (held_at, first, second) in [
        (
            "UpdateItem",
            change(json!({"event_types": ["model.deleted"]})),
            change(json!({"url": "http://127.0.0.1:9/other"})),
        ),
        (
            "UpdateItem",
            change(json!({"event_types": ["model.restored"]})),
            Change(Method::DELETE, path.clone(), Value::Null),
        ),
    ] {
        let (first, second) = race(&world, held_at, first, second).await;
        assert!(second.status < 300, "{second:?}");
        assert_eq!(first.status, 409, "{first:?}");
    }
    assert_eq!(world.get(&path).await.status, 404, "it stays deleted");
}
