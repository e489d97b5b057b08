//! What requests, decisions, rollouts, stages, renamings and exports may cost, as `docs/budgets.md` says.

use crate::budgets::cost;
use crate::promotion::{send_as, stage, version_with};
use crate::world::{self, World};
use reqwest::Method;
use serde_json::{Value, json};

const REQUESTS: &str = "/v1/models/iris/promotion-requests";

async fn act(world: &World, who: &str, path: &str, body: Value) -> Value {
    let answer = send_as(world, (who, "risk"), Method::POST, path, body).await;
    answer.expect(if path == REQUESTS { 201 } else { 200 })
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_keep_their_budget() {
    let world = World::start().await;
    world.ready_model("iris").await;
    version_with(&world, 2, json!({})).await;
    for (version, verb) in [
        (1, "reject"),
        (2, "withdraw"),
        (1, "approve"),
        (2, "approve"),
    ] {
        let body = json!({"version": version, "alias": "champion"});
        // What governs the model was seen by the first request.
        let (request, spent) = cost(&world, act(&world, "ada", REQUESTS, body)).await;
        let reads = spent.operations.len() - 1;
        assert!(spent.operations.ends_with(&["TransactWriteItems".into()]));
        assert!(reads <= 2 && spent.units <= 14.0 + 6.0, "{spent:?}");
        let path = format!("{REQUESTS}/{}/{verb}", request["id"].as_str().unwrap());
        let who = if verb == "withdraw" { "ada" } else { "ben" };
        let (ended, spent) = cost(&world, act(&world, who, &path, json!({}))).await;
        let (most_reads, most_units) = match verb {
            // The head and the request, and what the promotion looks at.
            "approve" => (4, 20.0 + 8.0),
            "reject" => (3, 14.0 + 5.0),
            _ => (2, 14.0 + 2.0),
        };
        let reads = spent.operations.len() - 1;
        assert!(
            reads <= most_reads && spent.units <= most_units,
            "{verb}: {spent:?}"
        );
        assert_ne!(ended["status"], "open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rollouts_and_stages_keep_their_budget() {
    let world = World::start().await;
    world.ready_model("iris").await;
    version_with(&world, 2, json!({})).await;
    let put = |revision: u64, version: u64| {
        let body = json!({"model": "iris", "strategy": "single", "expected_revision": revision,
            "deployments": [{"version": version, "role": "champion", "weight": 10_000}]});
        let world = &world;
        async move { world.put("/v1/rollouts/prod/score", body).await.expect(200) }
    };
    let (_, first) = cost(&world, put(0, 1)).await;
    first.is(&["GetItem", "GetItem", "TransactWriteItems"], 14.0);
    let (_, next) = cost(&world, put(1, 2)).await;
    next.is(&["GetItem", "GetItem", "TransactWriteItems"], 12.0);
    let (_, same) = cost(&world, put(2, 2)).await;
    same.is(&["GetItem", "GetItem", "TransactWriteItems"], 8.0);
    let (_, read) = cost(&world, world.get("/v1/rollouts/prod/score")).await;
    read.is(&["GetItem"], 0.5);

    stage(&world, 1, "Staging").await.expect(200);
    let (_, spent) = cost(&world, stage(&world, 1, "Production")).await;
    assert_eq!(spent.operations.last().unwrap(), "TransactWriteItems");
    assert!(
        spent.operations.len() <= 4 && spent.units <= 13.0,
        "{spent:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_exports_keep_their_budget() {
    let world = World::start().await;
    world.ready_model("iris").await;
    let rename = |from: &'static str, to: &'static str| {
        let world = &world;
        async move {
            let path = format!("/v1/models/{from}/rename");
            world.post(&path, json!({"name": to})).await.expect(200)
        }
    };
    let (_, first) = cost(&world, rename("iris", "lily")).await;
    let marks = first.operations.iter().filter(|name| *name == "PutItem");
    assert_eq!(marks.count(), 6, "{first:?}");
    let (_, second) = cost(&world, rename("lily", "rose")).await;
    second.is(&["GetItem", "GetItem", "TransactWriteItems"], 22.0);
    world.drain().await;
    let export = world::http_client().get(world.url("/v1/models/rose/audit"));
    let (answer, spent) = cost(&world, export.send()).await;
    assert!(answer.unwrap().status().is_success());
    let is_read = |name: &String| name == "GetItem" || name == "Query";
    assert!(
        spent.operations.iter().all(is_read) && spent.operations.len() <= 7,
        "{spent:?}"
    );
    let (_, spent) = cost(&world, world.get("/v1/tenures?stage=Production")).await;
    // Asked about now, it first dispatches what the stream holds.
    let queries = spent.operations.iter().filter(|name| *name == "Query");
    assert!(queries.count() == 1, "{spent:?}");
}

/// What conditions look at is read in one call beside what every promotion reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_reads_everything_in_one_call() {
    let world = World::start().await;
    let notes = json!({"metrics": {"accuracy": 0.9}, "description": "x".repeat(2_000), "tags": {"risk": "low"}});
    world.create_model("iris").await;
    for fill in 1..=3 {
        version_with(&world, fill, notes.clone()).await;
    }
    let when = "context.metrics has accuracy && context has risk && (context has holder && context.holder.metrics has accuracy || true)";
    let protection = json!({"expected_revision": 0, "protections": [{"id": "p", "aliases": ["champion"],
        "metrics": {"accuracy": {}}, "conditions": [{"id": "c", "when": when, "satisfied_by": "x"}]}]});
    world
        .put("/v1/models/iris/protections", protection)
        .await
        .expect(200);
    for (version, held) in [(1, json!(null)), (2, json!(1)), (3, json!(2))] {
        let set = world.set_alias("iris", "champion", version, held);
        let (answer, spent) = cost(&world, set).await;
        answer.expect(200);
        assert!(
            spent.operations == ["BatchGetItem", "BatchGetItem", "TransactWriteItems"],
            "{spent:?}"
        );
    }
}
