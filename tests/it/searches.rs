//! MLflow's searches over ten thousand models, and over ten thousand versions of one: right, and within the budget.

use crate::growth::{put_all, table_client};
use crate::world::World;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};
use shared::test_util::Cut;
use std::collections::HashMap;

const COUNT: u64 = 10_000;

type Item = HashMap<String, AttributeValue>;

fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

/// A time that nothing else has; neighbours are far apart.
fn updated(at: u64) -> u64 {
    1_700_000_000_000 + at * 7_919 % COUNT
}

async fn item(world: &World, pk: &str, sk: &str) -> Item {
    table_client(world)
        .get_item()
        .table_name(&world.stack.app().config.table)
        .key("pk", text(pk))
        .key("sk", text(sk))
        .send()
        .await
        .unwrap()
        .item
        .unwrap()
}

/// A copy of an item with another sort key, time of change and team.
fn copy(first: &Item, sk: String, at: u64) -> Item {
    let mut copy = first.clone();
    copy.insert("sk".into(), text(sk));
    copy.insert("updated".into(), AttributeValue::N(updated(at).to_string()));
    let mut notes: Value = serde_json::from_str(copy["notes"].as_s().unwrap()).unwrap();
    notes["tags"]["team"] = (at % 10).to_string().into();
    copy.insert("notes".into(), text(notes.to_string()));
    copy
}

/// Every name or number that a search shows, page by page, and what its first page cost.
async fn found(
    world: &World,
    path: &str,
    query: &[(&str, &str)],
    (list, field): (&str, &str),
) -> (Vec<String>, Vec<String>, f64) {
    let mut found = Vec::new();
    let mut cost = None;
    let mut token = String::new();
    loop {
        let query: Vec<String> = query
            .iter()
            .chain(&[("page_token", token.as_str())])
            .map(|(name, value)| {
                let value = percent_encoding::utf8_percent_encode(
                    value,
                    percent_encoding::NON_ALPHANUMERIC,
                );
                format!("{name}={value}")
            })
            .collect();
        world.probe.reset(Cut::Never);
        let page = world
            .ask_mlflow(&format!("{path}/search?{}", query.join("&")))
            .await
            .expect(200);
        cost.get_or_insert_with(|| (world.probe.operations(), world.probe.units()));
        for row in page[list].as_array().unwrap_or(&Vec::new()) {
            found.push(row[field].as_str().unwrap().to_owned());
        }
        match page["next_page_token"].as_str() {
            Some(next) => next.clone_into(&mut token),
            None => break,
        }
    }
    let (calls, units) = cost.unwrap();
    (found, calls, units)
}

fn name(at: u64) -> String {
    format!("m{at:05}")
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_models_are_searched_honestly_and_within_the_budget() {
    let world = World::start().await;
    let body =
        json!({"name": name(0), "description": "a model", "tags": [{"key": "team", "value": "0"}]});
    world
        .mlflow("registered-models/create", body)
        .await
        .expect(200);
    let first = item(&world, "T#default#M", &name(0)).await;
    put_all(&world, (0..COUNT).map(|at| copy(&first, name(at), at))).await;

    let all: Vec<u64> = (0..COUNT).collect();
    let newest = |mut models: Vec<u64>| {
        models.sort_by_key(|at| std::cmp::Reverse(updated(*at)));
        models
    };
    let of_team = |team: u64| -> Vec<u64> { (0..COUNT).filter(|at| at % 10 == team).collect() };
    for (query, expected, most_calls, most_units) in [
        // In the order in which they lie, a page reads as far as it goes.
        (vec![("max_results", "1000")], all.clone(), 1, 130.0),
        (
            vec![("filter", "name LIKE 'm0123%'")],
            (1_230..1_240).collect(),
            1,
            2.0,
        ),
        (vec![("filter", "name = 'm09999'")], vec![9_999], 1, 1.0),
        (
            vec![("filter", "name IN ('m00007', 'm00003', 'none')")],
            vec![3, 7],
            3,
            3.0,
        ),
        // Anything else reads all of them.
        (
            vec![
                ("filter", "tags.team = '3'"),
                ("order_by", "last_updated_timestamp DESC"),
            ],
            newest(of_team(3)),
            11,
            1_300.0,
        ),
        (
            vec![
                ("order_by", "last_updated_timestamp DESC"),
                ("max_results", "1000"),
            ],
            newest(all.clone()),
            11,
            1_300.0,
        ),
        (
            vec![("filter", "name ILIKE 'M%7' AND tags.team != '7'")],
            Vec::new(),
            11,
            1_300.0,
        ),
    ] {
        let (found, calls, units) = found(
            &world,
            "registered-models",
            &query,
            ("registered_models", "name"),
        )
        .await;
        println!(
            "models {query:?}: {} found, {} calls, {units} units",
            found.len(),
            calls.len()
        );
        let expected: Vec<String> = expected.into_iter().map(name).collect();
        assert_eq!(found, expected, "{query:?}");
        assert!(calls.len() <= most_calls, "{query:?}: {calls:?}");
        assert!(units <= most_units, "{query:?}: {units} units");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_versions_are_searched_honestly_and_within_the_budget() {
    let world = World::start().await;
    world
        .mlflow("registered-models/create", json!({"name": "iris"}))
        .await
        .expect(200);
    for _ in 0..2 {
        let body = json!({
            "name": "iris", "source": "s3://elsewhere/model", "run_id": "r0",
            "tags": [{"key": "team", "value": "0"}],
        });
        world
            .mlflow("model-versions/create", body)
            .await
            .expect(200);
    }
    let first = item(&world, "T#default#M#iris", "V#0000000001").await;
    let versions = (1..=COUNT).map(|at| {
        let mut copy = copy(&first, format!("V#{at:010}"), at);
        let mut origin: Value = serde_json::from_str(copy["origin"].as_s().unwrap()).unwrap();
        origin["run_id"] = format!("r{}", at % 100).into();
        copy.insert("origin".into(), text(origin.to_string()));
        copy
    });
    put_all(&world, versions).await;

    let newest = |mut versions: Vec<u64>| {
        versions.sort_by_key(|at| std::cmp::Reverse(updated(*at)));
        versions
    };
    let those =
        |wanted: fn(u64) -> bool| -> Vec<u64> { (1..=COUNT).filter(|at| wanted(*at)).collect() };
    for (query, expected) in [
        (
            vec![("filter", "name = 'iris'"), ("max_results", "200000")],
            newest(those(|_| true)),
        ),
        (
            vec![
                ("filter", "name = 'iris' AND version_number > 9990"),
                ("order_by", "version_number ASC"),
            ],
            (9_991..=COUNT).collect(),
        ),
        (
            vec![
                ("filter", "name = 'iris' AND run_id = 'r7'"),
                ("max_results", "50"),
            ],
            newest(those(|at| at % 100 == 7)),
        ),
        (
            vec![
                ("filter", "name = 'iris' AND tags.team = '3'"),
                ("order_by", "version_number DESC"),
                ("max_results", "600"),
            ],
            those(|at| at % 10 == 3).into_iter().rev().collect(),
        ),
    ] {
        let (found, calls, units) = found(
            &world,
            "model-versions",
            &query,
            ("model_versions", "version"),
        )
        .await;
        println!(
            "versions {query:?}: {} found, {} calls, {units} units",
            found.len(),
            calls.len()
        );
        let expected: Vec<String> = expected.iter().map(u64::to_string).collect();
        assert_eq!(found, expected, "{query:?}");
        assert!(calls.len() <= 12, "{query:?}: {calls:?}");
        assert!(units <= 1_500.0, "{query:?}: {units} units");
    }
}
