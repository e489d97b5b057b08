//! Calls and units do not grow with the number of versions: ten against ten thousand.

use crate::world::{World, files, safetensors};
use futures::stream::{self, StreamExt as _};
use serde_json::json;
use shared::test_util::Cut;

async fn costs(world: &World, model: &str) -> Vec<(String, Vec<String>, f64)> {
    let newest = world.get(&format!("/v1/models/{model}")).await.expect(200)["version_count"].as_u64().unwrap();
    let mut costs = Vec::new();
    for path in [
        format!("/v1/models/{model}"),
        format!("/v1/models/{model}/versions?limit=10"),
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
    let content = files(&[("m.safetensors", &safetensors(8, 1))]);
    world.probe.reset(Cut::Never);
    let version = world.register(model, &content).await;
    costs.push(("register".into(), world.probe.operations(), world.probe.units()));
    world.upload(model, version, &content).await;
    world.probe.reset(Cut::Never);
    world.post(&format!("/v1/models/{model}/versions/{version}/finalize"), json!({})).await.expect(200);
    costs.push(("finalize".into(), world.probe.operations(), world.probe.units()));
    world.drain().await;
    world.probe.reset(Cut::Never);
    world.set_alias(model, "champion", version, json!(1)).await.expect(200);
    costs.push(("promote".into(), world.probe.operations(), world.probe.units()));
    costs
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_versions_cost_what_ten_do() {
    let world = World::start().await;
    for (model, count) in [("few", 10_u64), ("many", 10_000)] {
        world.create_model(model).await;
        let content = files(&[("m.safetensors", &safetensors(8, 1))]);
        world.publish(model, &content).await;
        world.set_alias(model, "champion", 1, json!(null)).await.expect(200);
        let content = &content;
        let world = &world;
        // Two at a time: more of them would mostly lose races for the next number.
        stream::iter(1..count).map(|_| world.register(model, content)).buffer_unordered(2).count().await;
    }
    world.drain().await;
    assert_eq!(costs(&world, "few").await, costs(&world, "many").await);
}
