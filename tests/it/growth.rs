//! Calls and units do not grow with the number of versions: ten against ten thousand.

use crate::world::{Files, World, files, safetensors};
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use serde_json::json;
use shared::test_util::Cut;
use std::collections::HashMap;

/// Files that no other model has, so that each model holds its own.
fn content_of(model: &str, fill: u8) -> Files {
    files(&[("m.safetensors", &safetensors(8 * model.len(), fill))])
}

async fn costs(world: &World, model: &str) -> Vec<(String, Vec<String>, f64)> {
    let newest = world.get(&format!("/v1/models/{model}")).await.expect(200)["version_count"]
        .as_u64()
        .unwrap();
    let mut costs = Vec::new();
    for path in [
        format!("/v1/models/{model}"),
        format!("/v1/models/{model}/versions?limit=7"),
        format!("/v1/models/{model}/versions/{newest}"),
        format!("/v1/models/{model}/aliases/champion"),
        format!("/v1/models/{model}/aliases"),
        format!("/v1/models/{model}/aliases/champion/history"),
    ] {
        world.probe.reset(Cut::Never);
        world.get(&path).await.expect(200);
        let shown = path.replace(model, "M").replace(&newest.to_string(), "N");
        costs.push((shown, world.probe.operations(), world.probe.units()));
    }
    let content = content_of(model, 2);
    world.probe.reset(Cut::Never);
    let version = world.register(model, &content).await;
    costs.push((
        "register".into(),
        world.probe.operations(),
        world.probe.units(),
    ));
    world.upload(model, version, &content).await;
    world.probe.reset(Cut::Never);
    world
        .post(
            &format!("/v1/models/{model}/versions/{version}/finalize"),
            json!({}),
        )
        .await
        .expect(200);
    costs.push((
        "finalize".into(),
        world.probe.operations(),
        world.probe.units(),
    ));
    world.drain().await;
    world.probe.reset(Cut::Never);
    world
        .set_alias(model, "champion", version, json!(1))
        .await
        .expect(200);
    costs.push((
        "promote".into(),
        world.probe.operations(),
        world.probe.units(),
    ));
    costs
}

/// A client of the table itself.
pub(crate) fn table_client(world: &World) -> aws_sdk_dynamodb::Client {
    let config = &world.stack.app().config;
    aws_sdk_dynamodb::Client::from_conf(
        aws_sdk_dynamodb::Config::builder()
            .behavior_version_latest()
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .region(aws_sdk_dynamodb::config::Region::new(config.region.clone()))
            .endpoint_url(config.dynamodb_endpoint.clone().unwrap())
            .credentials_provider(aws_sdk_dynamodb::config::Credentials::for_tests())
            .build(),
    )
}

/// Puts items past the API, because that is quicker.
pub(crate) async fn put_all(
    world: &World,
    items: impl Iterator<Item = HashMap<String, AttributeValue>>,
) {
    let client = table_client(world);
    let puts: Vec<WriteRequest> = items
        .map(|item| {
            WriteRequest::builder()
                .put_request(PutRequest::builder().set_item(Some(item)).build().unwrap())
                .build()
        })
        .collect();
    for chunk in puts.chunks(25) {
        client
            .batch_write_item()
            .request_items(&world.stack.app().config.table, chunk.to_vec())
            .send()
            .await
            .unwrap();
    }
}

/// Fills a model up to `count` versions: copies of its first one, written past the API because that is quicker.
async fn fill(world: &World, model: &str, count: u64) {
    let config = &world.stack.app().config;
    let client = table_client(world);
    let text = |value: String| AttributeValue::S(value);
    let pk = format!("T#default#M#{model}");
    let first = client
        .get_item()
        .table_name(&config.table)
        .key("pk", text(pk))
        .key("sk", text("V#0000000001".into()))
        .send()
        .await
        .unwrap()
        .item
        .unwrap();
    let copies = (2..=count).map(|number| {
        let mut copy = first.clone();
        copy.insert("sk".into(), text(format!("V#{number:010}")));
        copy.insert("aliases".into(), AttributeValue::N("0".into()));
        copy
    });
    put_all(world, copies).await;
    client
        .update_item()
        .table_name(&config.table)
        .key("pk", text("T#default#M".into()))
        .key("sk", text(model.to_owned()))
        .update_expression("SET #next = :next")
        .expression_attribute_names("#next", "next")
        .expression_attribute_values(":next", AttributeValue::N((count + 1).to_string()))
        .send()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_versions_cost_what_ten_do() {
    let world = World::start().await;
    for (model, count) in [("few", 10), ("many", 10_000)] {
        world.create_model(model).await;
        world.publish(model, &content_of(model, 1)).await;
        world
            .set_alias(model, "champion", 1, json!(null))
            .await
            .expect(200);
        fill(&world, model, count).await;
        // What this process saw last of the model is behind; one registration brings it up to date.
        world.register(model, &content_of(model, 1)).await;
    }
    assert_eq!(costs(&world, "few").await, costs(&world, "many").await);
}
