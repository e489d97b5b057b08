//! Tracking as MLflow's clients use it: experiments, runs, what they log, logged models, and searches over many.

use crate::crashes::cut_everywhere_with;
use crate::growth::{put_all, table_client};
use crate::world::{Answer, World};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use reqwest::Method;
use serde_json::{Value, json};
use shared::domain::TenantName;
use shared::domain::tracking::{ExperimentId, Metric, metric};
use shared::dynamodb::keys;
use shared::test_util::Cut;
use std::collections::{BTreeMap, BTreeSet};

const API: &str = "/api/2.0/mlflow";

/// Callers with verbs.
impl World {
    pub(crate) async fn mlflow(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, &format!("{API}/{path}"), Some(body), &[])
            .await
    }

    pub(crate) async fn ask_mlflow(&self, path: &str) -> Answer {
        self.get(&format!("{API}/{path}")).await
    }

    async fn experiment(&self, name: &str) -> String {
        text(
            &self
                .mlflow("experiments/create", json!({"name": name}))
                .await
                .expect(200)["experiment_id"],
        )
    }

    pub(crate) async fn run(&self, experiment: &str, start: i64) -> String {
        let body = json!({"experiment_id": experiment, "start_time": start, "run_name": "r"});
        let answer = self.mlflow("runs/create", body).await.expect(200);
        text(&answer["run"]["info"]["run_id"])
    }

    async fn run_as_it_is(&self, id: &str) -> Value {
        self.ask_mlflow(&format!("runs/get?run_id={id}"))
            .await
            .expect(200)["run"]
            .clone()
    }

    async fn history(&self, id: &str, metric: &str) -> Vec<Value> {
        let path = format!("metrics/get-history?run_id={id}&metric_key={metric}");
        let answer = self.ask_mlflow(&path).await.expect(200);
        answer["metrics"].as_array().cloned().unwrap_or_default()
    }

    /// Ids of all runs that a search finds, page by page.
    async fn found(&self, body: Value) -> Vec<String> {
        let mut found = Vec::new();
        let mut body = body;
        loop {
            let page = self.mlflow("runs/search", body.clone()).await.expect(200);
            for run in page["runs"].as_array().unwrap_or(&Vec::new()) {
                found.push(text(&run["info"]["run_id"]));
            }
            match page.get("next_page_token") {
                Some(token) => body["page_token"] = token.clone(),
                None => return found,
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The pairs of a list of keys and values.
pub(crate) fn pairs(list: &Value) -> BTreeMap<String, Value> {
    list.as_array()
        .unwrap_or(&Vec::new())
        .iter()
        .map(|pair| (text(&pair["key"]), pair["value"].clone()))
        .collect()
}

fn batch(run: &str, from: u64, count: u64) -> Value {
    let metrics: Vec<Value> = (from..from + count)
        .map(|at| json!({"key": format!("m{}", at % 10), "value": at, "timestamp": at, "step": at}))
        .collect();
    json!({"run_id": run, "metrics": metrics})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_experiment_is_there_before_anybody_writes_and_can_be_changed() {
    let world = World::start().await;
    let default = world
        .ask_mlflow("experiments/get?experiment_id=0")
        .await
        .expect(200);
    assert_eq!(default["experiment"]["name"], "Default");
    assert_eq!(
        default["experiment"]["artifact_location"],
        "mlflow-artifacts:/0"
    );
    world
        .mlflow("experiments/create", json!({"name": "Default"}))
        .await
        .expect_mlflow(400, "RESOURCE_ALREADY_EXISTS");
    let run = world.run("0", 1).await;
    world
        .mlflow(
            "experiments/update",
            json!({"experiment_id": "0", "new_name": "first"}),
        )
        .await
        .expect(200);
    world
        .ask_mlflow("experiments/get-by-name?experiment_name=Default")
        .await
        .expect_mlflow(404, "RESOURCE_DOES_NOT_EXIST");
    let other = world.experiment("Default").await;
    let named = world
        .ask_mlflow("experiments/get-by-name?experiment_name=Default")
        .await
        .expect(200);
    assert_eq!(named["experiment"]["experiment_id"], other.as_str());
    assert_eq!(world.run_as_it_is(&run).await["info"]["experiment_id"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_experiment_takes_its_runs_along_when_it_is_deleted_and_restored() {
    let world = World::start().await;
    let experiment = world.experiment("e").await;
    let (kept, deleted) = (
        world.run(&experiment, 1).await,
        world.run(&experiment, 2).await,
    );
    let id = |run: &str| json!({"run_id": run});
    let of = json!({"experiment_id": experiment});
    world.mlflow("runs/delete", id(&deleted)).await.expect(200);
    world
        .mlflow("experiments/delete", of.clone())
        .await
        .expect(200);
    world
        .mlflow("experiments/delete", of.clone())
        .await
        .expect_mlflow(404, "RESOURCE_DOES_NOT_EXIST");
    let message = world
        .mlflow(
            "runs/set-tag",
            json!({"run_id": kept, "key": "a", "value": "b"}),
        )
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
    assert!(
        message.contains("must be in the 'active' state"),
        "{message}"
    );
    world
        .mlflow("runs/create", of.clone())
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
    // A run may be restored by itself, and is then there although its experiment is not.
    world.mlflow("runs/restore", id(&kept)).await.expect(200);
    assert_eq!(
        world.run_as_it_is(&kept).await["info"]["lifecycle_stage"],
        "active"
    );
    assert_eq!(
        world.run_as_it_is(&deleted).await["info"]["lifecycle_stage"],
        "deleted"
    );
    world
        .mlflow("experiments/restore", of.clone())
        .await
        .expect(200);
    // As in MLflow, a restored experiment brings back every run, those that were deleted before it too.
    let all = world.found(json!({"experiment_ids": [experiment]})).await;
    assert_eq!(all, [deleted, kept]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_metrics_are_a_handful_of_calls() {
    let world = World::start().await;
    let run = world.run("0", 1).await;
    world.probe.reset(Cut::Never);
    world
        .mlflow("runs/log-batch", batch(&run, 0, 1_000))
        .await
        .expect(200);
    assert_eq!(
        world.probe.operations(),
        ["BatchGetItem", "TransactWriteItems"]
    );
    // 2 units per KB: 13 KB of points, and 1 KB of the run.
    assert!(
        world.probe.units() <= 2.0 * 15.0 + 2.0,
        "{}",
        world.probe.units()
    );

    for (act, path, body, operations, units) in [
        (
            "get",
            format!("runs/get?run_id={run}"),
            None,
            vec!["BatchGetItem"],
            2.0,
        ),
        (
            "tag",
            "runs/set-tag".to_owned(),
            Some(json!({"run_id": run, "key": "a", "value": "b"})),
            vec!["BatchGetItem", "PutItem"],
            4.0,
        ),
        (
            "the same tag",
            "runs/set-tag".to_owned(),
            Some(json!({"run_id": run, "key": "a", "value": "b"})),
            vec!["BatchGetItem"],
            2.0,
        ),
        (
            "history",
            format!("metrics/get-history?run_id={run}&metric_key=m3"),
            None,
            vec!["Query", "Query"],
            6.0,
        ),
        (
            "create",
            "runs/create".to_owned(),
            Some(json!({"experiment_id": "0"})),
            vec!["GetItem", "TransactWriteItems"],
            5.0,
        ),
        (
            "create an experiment",
            "experiments/create".to_owned(),
            Some(json!({"name": "e"})),
            vec!["GetItem", "TransactWriteItems"],
            7.0,
        ),
        (
            "create another",
            "experiments/create".to_owned(),
            Some(json!({"name": "f"})),
            vec!["TransactWriteItems"],
            6.0,
        ),
        (
            "delete an experiment",
            "experiments/delete".to_owned(),
            Some(json!({"experiment_id": "1"})),
            vec!["GetItem", "PutItem"],
            2.0,
        ),
        (
            "create a logged model",
            "logged-models".to_owned(),
            Some(json!({"experiment_id": "0", "name": "m"})),
            vec!["GetItem", "TransactWriteItems"],
            5.0,
        ),
    ] {
        world.probe.reset(Cut::Never);
        match body {
            Some(body) => world.mlflow(&path, body).await.expect(200),
            None => world.ask_mlflow(&path).await.expect(200),
        };
        assert_eq!(world.probe.operations(), operations, "{act}");
        assert!(
            world.probe.units() <= units,
            "{act}: {}",
            world.probe.units()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_logged_twice_is_there_once_and_the_latest_is_by_step() {
    let world = World::start().await;
    let run = world.run("0", 1).await;
    for _ in 0..2 {
        world
            .mlflow("runs/log-batch", batch(&run, 0, 30))
            .await
            .expect(200);
    }
    for (value, timestamp, step) in [
        (json!("NaN"), 5, 1),
        (json!("-Infinity"), 1, 7),
        (json!(0.25), 9, 6),
        (json!(0.25), 9, 6),
    ] {
        let body = json!({"run_id": run, "key": "loss", "value": value, "timestamp": timestamp, "step": step});
        world.mlflow("runs/log-metric", body).await.expect(200);
    }
    assert_eq!(world.history(&run, "m3").await.len(), 3);
    let losses: Vec<Value> = world
        .history(&run, "loss")
        .await
        .iter()
        .map(|point| point["value"].clone())
        .collect();
    assert_eq!(losses, [json!(-f64::MAX), json!("NaN"), json!(0.25)]);
    let shown = world.run_as_it_is(&run).await;
    assert_eq!(pairs(&shown["data"]["metrics"])["loss"], json!(-f64::MAX));

    let mut token = String::new();
    let mut seen = Vec::new();
    loop {
        let path = format!("metrics/get-history?run_id={run}&metric_key=loss&max_results=1{token}");
        let page = world.ask_mlflow(&path).await.expect(200);
        seen.push(page["metrics"][0]["value"].clone());
        match page.get("next_page_token") {
            Some(next) => token = format!("&page_token={}", text(next)),
            None => break,
        }
    }
    assert_eq!(seen, losses);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_of_one_run_lose_nothing() {
    let world = World::start().await;
    let run = world.run("0", 1).await;
    let writers = (0..12_u64).map(|writer| {
        let (world, run) = (&world, &run);
        async move {
            for round in 0..5 {
                let mut body = batch(run, writer * 1_000 + round * 20, 20);
                body["params"] = json!([{"key": format!("p{writer}"), "value": "v"}]);
                body["tags"] =
                    json!([{"key": format!("t{writer}-{round}"), "value": "v".repeat(300)}]);
                world.mlflow("runs/log-batch", body).await.expect(200);
                // Read while others write: parts of two changes never make one run.
                world.run_as_it_is(run).await;
            }
        }
    });
    futures::future::join_all(writers).await;
    let shown = world.run_as_it_is(&run).await;
    assert_eq!(pairs(&shown["data"]["params"]).len(), 12);
    assert_eq!(pairs(&shown["data"]["tags"]).len(), 61);
    assert_eq!(pairs(&shown["data"]["metrics"])["m9"], json!(11_099.0));
    assert_eq!(world.history(&run, "m9").await.len(), 12 * 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_is_logged_once_and_a_refused_batch_leaves_nothing_behind() {
    let world = World::start().await;
    let run = world.run("0", 1).await;
    let param = |value: &str| json!({"run_id": run, "key": "lr", "value": value});
    for _ in 0..2 {
        world
            .mlflow("runs/log-parameter", param("0.1"))
            .await
            .expect(200);
    }
    let message = world
        .mlflow("runs/log-parameter", param("0.2"))
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
    assert!(
        message.contains("Changing param values is not allowed"),
        "{message}"
    );
    let mut body = batch(&run, 0, 5);
    body["params"] = json!([{"key": "lr", "value": "0.3"}, {"key": "new", "value": "1"}]);
    world
        .mlflow("runs/log-batch", body)
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
    let shown = world.run_as_it_is(&run).await;
    assert_eq!(
        pairs(&shown["data"]["params"]),
        BTreeMap::from([("lr".into(), json!("0.1"))])
    );
    assert_eq!(world.history(&run, "m1").await.len(), 0);
    for (body, part) in [
        (
            json!({"run_id": run, "metrics": [{"key": "a", "timestamp": 1}]}),
            "metrics[0].value",
        ),
        (
            json!({"run_id": run, "metrics": [{"key": "../a", "value": 1, "timestamp": 1}]}),
            "would resolve to",
        ),
        (
            json!({"run_id": run, "metrics": [{"key": "a", "value": "x", "timestamp": 1}]}),
            "value",
        ),
        (
            json!({"run_id": run, "params": [{"key": "a".repeat(251), "value": "b"}]}),
            "exceeds the maximum length of 250",
        ),
        (
            json!({"run_id": run, "params": [{"key": "a", "value": "1"}, {"key": "a", "value": "1"}]}),
            "Duplicate parameter keys",
        ),
        (batch(&run, 0, 1_001), "at most 1000 metrics. Got 1001"),
        (json!({}), "run_id"),
    ] {
        let message = world
            .mlflow("runs/log-batch", body)
            .await
            .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
        assert!(message.contains(part), "{message}");
    }
    world
        .mlflow("runs/log-batch", batch("nothing", 0, 1))
        .await
        .expect_mlflow(404, "RESOURCE_DOES_NOT_EXIST");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_runs_lie_in_parts_and_are_read_whole() {
    let world = World::start().await;
    let run = world.run("0", 1).await;
    let value = "é".repeat(6_000);
    for round in 0..2 {
        let params: Vec<Value> = (0..40)
            .map(|at| json!({"key": format!("p{round}-{at}"), "value": value}))
            .collect();
        let body = json!({"run_id": run, "params": params});
        world.mlflow("runs/log-batch", body).await.expect(200);
    }
    world
        .mlflow("runs/log-batch", batch(&run, 0, 1_000))
        .await
        .expect(200);
    let params = pairs(&world.run_as_it_is(&run).await["data"]["params"]);
    assert_eq!(params.len(), 80);
    assert!(params.values().all(|param| *param == value.as_str()));
    let other = world.run("0", 2).await;
    let found = world
        .found(json!({"experiment_ids": ["0"], "filter": format!("params.`p0-1` = '{value}'")}))
        .await;
    assert_eq!(found, std::slice::from_ref(&run));
    assert_eq!(
        world.found(json!({"experiment_ids": ["0"]})).await,
        [other, run.clone()]
    );

    let dataset = json!({"dataset": {"name": "d", "digest": "1", "source_type": "s", "source": "{}", "profile": "x".repeat(1_000_000)}});
    let body = json!({"run_id": run, "datasets": [dataset]});
    world.mlflow("runs/log-inputs", body).await.expect(200);
    let shown = world.run_as_it_is(&run).await;
    assert_eq!(
        shown["inputs"]["dataset_inputs"][0]["dataset"]["profile"]
            .as_str()
            .unwrap()
            .len(),
        1_000_000
    );
}

/// Adds runs to an experiment: copies of its first one, written past the API because that is quicker.
async fn fill(world: &World, experiment: u64, count: i64) {
    let tenant = TenantName::default_tenant();
    let first = world.run(&experiment.to_string(), 0).await;
    let client = table_client(world);
    let item = client
        .get_item()
        .table_name(&world.stack.app().config.table)
        .key(
            "pk",
            AttributeValue::S(keys::runs(&tenant, ExperimentId::new(experiment))),
        )
        .key("sk", AttributeValue::S(keys::newest_first(0, &first)))
        .send()
        .await
        .unwrap()
        .item
        .unwrap();
    let copies = (1..count).map(|at| {
        let mut copy = item.clone();
        let loss = Metric::new("loss", loss_of(at), 1, 1);
        for (name, value) in [
            (
                "sk",
                AttributeValue::S(keys::newest_first(at, &format!("{at:032x}"))),
            ),
            ("start", AttributeValue::N(at.to_string())),
            (
                "params",
                AttributeValue::S(json!({"even": (at % 2 == 0).to_string()}).to_string()),
            ),
            (
                "metrics",
                AttributeValue::B(Blob::new(metric::pack([&loss]))),
            ),
        ] {
            copy.insert(name.to_owned(), value);
        }
        copy
    });
    put_all(world, copies).await;
}

/// A loss that no other run has, in no order.
fn loss_of(at: i64) -> f64 {
    f64::from(i32::try_from(at * 7_919 % 10_007).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_runs_are_searched_honestly_and_within_the_budget() {
    const COUNT: i64 = 10_000;
    let world = World::start().await;
    let experiment: u64 = world.experiment("many").await.parse().unwrap();
    fill(&world, experiment, COUNT).await;
    let ids = json!([experiment.to_string()]);

    world.probe.reset(Cut::Never);
    let body = json!({"experiment_ids": ids, "max_results": 100});
    let page = world.mlflow("runs/search", body).await.expect(200);
    assert_eq!(page["runs"].as_array().unwrap().len(), 100);
    assert_eq!(world.probe.operations(), ["BatchGetItem", "Query"]);

    // The ten best of all, wherever they lie.
    world.probe.reset(Cut::Never);
    let body = json!({
        "experiment_ids": ids, "max_results": 10, "order_by": ["metrics.loss DESC"],
        "filter": "params.even = 'true' and metrics.loss < 9000",
    });
    let page = world.mlflow("runs/search", body).await.expect(200);
    let mut expected: Vec<(f64, i64)> = (1..COUNT)
        .filter(|at| at % 2 == 0)
        .map(|at| (loss_of(at), at))
        .filter(|(loss, _)| *loss < 9_000.0)
        .collect();
    expected.sort_by(|(left, _), (right, _)| right.total_cmp(left));
    let found: Vec<String> = page["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| text(&run["info"]["run_id"]))
        .collect();
    let wanted: Vec<String> = expected
        .iter()
        .take(10)
        .map(|(_, at)| format!("{at:032x}"))
        .collect();
    assert_eq!(found, wanted);
    let calls = world.probe.operations();
    assert!(calls.len() <= 8, "a call per megabyte: {calls:?}");
    assert!(world.probe.units() <= 2_000.0, "{}", world.probe.units());

    let all: BTreeSet<String> = world
        .found(json!({"experiment_ids": ids, "max_results": 50_000, "order_by": ["metrics.loss"]}))
        .await
        .into_iter()
        .collect();
    assert_eq!(all.len(), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_stay_put_while_others_write() {
    let world = World::start().await;
    let experiment = world.experiment("e").await;
    let mut first = Vec::new();
    for start in 0..9 {
        first.push(world.run(&experiment, start).await);
    }
    for order_by in [json!([]), json!(["attributes.end_time", "start_time ASC"])] {
        let mut body =
            json!({"experiment_ids": [experiment, "0"], "max_results": 2, "order_by": order_by});
        let mut seen = Vec::new();
        loop {
            let page = world.mlflow("runs/search", body.clone()).await.expect(200);
            for run in page["runs"].as_array().unwrap() {
                seen.push(text(&run["info"]["run_id"]));
            }
            // Newer and older runs than any that was shown.
            world.run("0", 1_000).await;
            world.run("0", -1_000).await;
            match page.get("next_page_token") {
                Some(token) => body["page_token"] = token.clone(),
                None => break,
            }
            if seen.len() > 40 {
                break;
            }
        }
        let unique: BTreeSet<&String> = seen.iter().collect();
        assert_eq!(unique.len(), seen.len(), "nothing is shown twice");
        assert!(
            first.iter().all(|run| seen.contains(run)),
            "nothing is left out"
        );
    }
    // A token belongs to its question.
    let body = json!({"experiment_ids": [experiment], "max_results": 2});
    let page = world.mlflow("runs/search", body).await.expect(200);
    let body = json!({"experiment_ids": ["0"], "page_token": page["next_page_token"]});
    world
        .mlflow("runs/search", body)
        .await
        .expect_mlflow(400, "INVALID_PARAMETER_VALUE");
}

#[tokio::test(flavor = "multi_thread")]
async fn logged_models_live_and_are_measured() {
    let world = World::start().await;
    let run = world.run("0", 1).await;
    let body = json!({"experiment_id": "0", "name": "lm", "source_run_id": run, "params": [{"key": "a", "value": "1"}]});
    let model = world.mlflow("logged-models", body).await.expect(200)["model"].clone();
    let id = text(&model["info"]["model_id"]);
    assert_eq!(model["info"]["status"], "LOGGED_MODEL_PENDING");
    assert_eq!(
        model["info"]["artifact_uri"],
        format!("mlflow-artifacts:/0/models/{id}/artifacts")
    );
    let path = format!("{API}/logged-models/{id}");
    let ready = world
        .send(
            Method::PATCH,
            &path,
            Some(json!({"status": "LOGGED_MODEL_READY"})),
            &[],
        )
        .await
        .expect(200);
    assert_eq!(ready["model"]["info"]["status"], "LOGGED_MODEL_READY");
    for (value, dataset) in [(0.5, "train"), (0.9, "test"), (0.9, "test")] {
        let body = json!({
            "run_id": run, "key": "acc", "value": value, "timestamp": 1, "step": 1,
            "model_id": id, "dataset_name": dataset, "dataset_digest": "x",
        });
        world.mlflow("runs/log-metric", body).await.expect(200);
    }
    let tags = json!({"tags": [{"key": "stage", "value": "dev"}]});
    world
        .send(Method::PATCH, &format!("{path}/tags"), Some(tags), &[])
        .await
        .expect(200);
    let shown = world.get(&path).await.expect(200);
    assert_eq!(
        shown["model"]["data"]["metrics"].as_array().unwrap().len(),
        2
    );
    for (filter, datasets, count) in [
        ("metrics.acc > 0.8", json!([]), 1),
        ("metrics.acc > 0.8", json!([{"dataset_name": "train"}]), 0),
        ("", json!([{"dataset_name": "train"}]), 1),
        (
            "params.a = 1 AND name LIKE 'l%' AND tags.stage != 'prod'",
            json!([]),
            1,
        ),
        ("status = 'READY'", json!([]), 1),
    ] {
        let body = json!({"experiment_ids": ["0"], "filter": filter, "datasets": datasets});
        let found = world.mlflow("logged-models/search", body).await.expect(200);
        let found = found["models"].as_array().map_or(0, Vec::len);
        assert_eq!(found, count, "{filter} {datasets}");
    }
    let unknown =
        json!({"run_id": run, "key": "acc", "value": 1, "timestamp": 1, "model_id": "m-none"});
    world
        .mlflow("runs/log-metric", unknown)
        .await
        .expect_mlflow(404, "RESOURCE_DOES_NOT_EXIST");
    world.delete(&path).await.expect(200);
    world
        .get(&path)
        .await
        .expect_mlflow(404, "RESOURCE_DOES_NOT_EXIST");
    world
        .get(&format!("{path}?allow_deleted=true"))
        .await
        .expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_nothing_of_anothers_runs() {
    let world = World::start().await;
    let run = world.run("0", 1).await;
    let body = json!({"experiment_id": "0", "name": "lm"});
    let model =
        text(&world.mlflow("logged-models", body).await.expect(200)["model"]["info"]["model_id"]);
    let there = format!("/t/team-a{API}");
    for path in [
        format!("runs/get?run_id={run}"),
        format!("logged-models/{model}"),
    ] {
        world
            .get(&format!("{there}/{path}"))
            .await
            .expect_mlflow(404, "RESOURCE_DOES_NOT_EXIST");
    }
    let found = world
        .post(
            &format!("{there}/runs/search"),
            json!({"experiment_ids": ["0"]}),
        )
        .await
        .expect(200);
    assert_eq!(found, json!({}));
    let created = world
        .post(&format!("{there}/experiments/create"), json!({"name": "e"}))
        .await
        .expect(200);
    assert_eq!(created["experiment_id"], "1");
    assert_eq!(world.experiment("e").await, "1");
}

/// Sends under an idempotency key, as a client that repeats itself does.
pub(crate) async fn send(world: &World, path: &str, body: Value) -> bool {
    let headers = [("idempotency-key", "the-key")];
    let path = format!("{API}/{path}");
    world
        .send(Method::POST, &path, Some(body), &headers)
        .await
        .status
        < 300
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_experiments_and_runs_survives_every_cut() {
    cut_everywhere_with(
        &[],
        async |_| {},
        async |world, _| send(world, "experiments/create", json!({"name": "e"})).await,
        async |world| {
            let body = json!({"max_results": 10});
            let found = world.mlflow("experiments/search", body).await.expect(200);
            assert_eq!(found["experiments"].as_array().unwrap().len(), 2);
        },
    )
    .await;
    cut_everywhere_with(
        &[],
        async |_| {},
        async |world, _| {
            let body = json!({"experiment_id": "0", "tags": [{"key": "long", "value": "x".repeat(5_000)}]});
            send(world, "runs/create", body).await
        },
        async |world| {
            assert_eq!(world.found(json!({"experiment_ids": ["0"]})).await.len(), 1);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_survives_every_cut() {
    cut_everywhere_with(
        &[],
        async |world| {
            world.run("0", 1).await;
        },
        async |world, _| {
            let search = json!({"experiment_ids": ["0"]});
            let found = world.mlflow("runs/search", search).await.body;
            let Some(run) = found["runs"][0]["info"]["run_id"].as_str() else {
                return false;
            };
            let mut body = batch(run, 0, 50);
            body["params"] = json!([{"key": "p", "value": "y".repeat(2_000)}]);
            // Without a key: what a client logs again after a lost answer is there once anyhow.
            world.mlflow("runs/log-batch", body).await.status < 300
        },
        async |world| {
            let run = world.found(json!({"experiment_ids": ["0"]})).await[0].clone();
            assert_eq!(world.history(&run, "m3").await.len(), 5);
            let shown = world.run_as_it_is(&run).await;
            assert_eq!(pairs(&shown["data"]["params"])["p"], "y".repeat(2_000));
            assert_eq!(pairs(&shown["data"]["metrics"])["m9"], json!(49.0));
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renaming_and_deleting_an_experiment_survive_every_cut() {
    cut_everywhere_with(
        &[],
        async |world| {
            world.experiment("e").await;
        },
        async |world, _| {
            let rename = json!({"experiment_id": "1", "new_name": "f"});
            world.mlflow("experiments/update", rename).await.status < 300
        },
        async |world| {
            let found = world
                .ask_mlflow("experiments/get-by-name?experiment_name=f")
                .await
                .expect(200);
            assert_eq!(found["experiment"]["experiment_id"], "1");
            world
                .ask_mlflow("experiments/get-by-name?experiment_name=e")
                .await
                .expect_mlflow(404, "RESOURCE_DOES_NOT_EXIST");
        },
    )
    .await;
    cut_everywhere_with(
        &[],
        async |world| {
            world.experiment("e").await;
        },
        async |world, _| send(world, "experiments/delete", json!({"experiment_id": "1"})).await,
        async |world| {
            let found = world
                .ask_mlflow("experiments/get?experiment_id=1")
                .await
                .expect(200);
            assert_eq!(found["experiment"]["lifecycle_stage"], "deleted");
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_learn_what_the_server_offers_without_logging_in() {
    let world = World::start().await;
    let info = world.get("/api/3.0/mlflow/server-info").await.expect(200);
    assert_eq!(info["artifacts_presigned_only"], true);
    for path in ["/health", "/version", "/t/team-a/health"] {
        assert_eq!(world.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_and_the_versions_made_from_them_are_linked_both_ways_and_seen_natively() {
    let world = World::start().await;
    let experiment = world.experiment("e").await;
    let run = world.run(&experiment, 1).await;
    world
        .mlflow("runs/log-batch", batch(&run, 0, 30))
        .await
        .expect(200);
    world
        .mlflow("registered-models/create", json!({"name": "iris"}))
        .await
        .expect(200);
    let body = json!({"name": "iris", "source": "s3://elsewhere/model", "run_id": run});
    let version = world
        .mlflow("model-versions/create", body)
        .await
        .expect(200);
    assert_eq!(version["model_version"]["run_id"], run.as_str());

    let shown = world.get(&format!("/v1/runs/{run}")).await.expect(200);
    assert_eq!(shown["versions"], json!([{"model": "iris", "version": 1}]));
    assert_eq!(shown["metrics"]["m9"]["value"], 29.0);
    let version = world.get("/v1/models/iris/versions/1").await.expect(200);
    assert_eq!(version["origin"]["run_id"], run.as_str());

    let body = json!({"name": "iris", "new_name": "flowers"});
    world
        .mlflow("registered-models/rename", body)
        .await
        .expect(200);
    let shown = world.get(&format!("/v1/runs/{run}")).await.expect(200);
    assert_eq!(
        shown["versions"],
        json!([{"model": "flowers", "version": 1}])
    );

    let experiments = world.get("/v1/experiments?limit=1").await.expect(200);
    assert_eq!(experiments["experiments"][0]["name"], "Default");
    let cursor = text(&experiments["next_cursor"]);
    let experiments = world
        .get(&format!("/v1/experiments?limit=1&cursor={cursor}"))
        .await
        .expect(200);
    assert_eq!(experiments["experiments"][0]["id"], experiment.as_str());
    assert!(experiments.get("next_cursor").is_none());
    world.get("/v1/experiments/1").await.expect(200);
    world
        .get("/v1/experiments/77")
        .await
        .expect_error(404, "experiment_not_found");

    world.run(&experiment, 2).await;
    let mut seen = Vec::new();
    let mut cursor = String::new();
    for _ in 0..2 {
        let path = format!("/v1/experiments/{experiment}/runs?limit=1{cursor}");
        let page = world.get(&path).await.expect(200);
        seen.push(page["runs"][0]["started_at_ms"].clone());
        cursor = format!(
            "&cursor={}",
            page["next_cursor"].as_str().unwrap_or_default()
        );
    }
    assert_eq!(seen, [2, 1]);

    let path = format!("/v1/runs/{run}/metrics?key=m9&limit=2");
    let page = world.get(&path).await.expect(200);
    assert_eq!(page["points"][1]["step"], 19);
    let cursor = text(&page["next_cursor"]);
    let page = world
        .get(&format!("{path}&cursor={cursor}"))
        .await
        .expect(200);
    assert_eq!(
        page["points"],
        json!([{"value": 29.0, "timestamp_ms": 29, "step": 29}])
    );
    for (path, code) in [
        ("/v1/runs/nothing", "run_not_found"),
        ("/v1/runs/nothing/metrics?key=a", "run_not_found"),
        ("/v1/logged-models/m-nothing", "logged_model_not_found"),
    ] {
        world.get(path).await.expect_error(404, code);
    }
    let body = json!({"experiment_id": "0", "name": "lm", "source_run_id": run});
    let model = world.mlflow("logged-models", body).await.expect(200);
    let id = text(&model["model"]["info"]["model_id"]);
    let shown = world
        .get(&format!("/v1/logged-models/{id}"))
        .await
        .expect(200);
    assert_eq!(shown["run_id"], run.as_str());
}
