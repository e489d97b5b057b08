//! Many at once: nothing is lost, nothing doubles.

use crate::world::{World, files, safetensors};
use futures::future::join_all;
use serde_json::json;
use std::collections::BTreeSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn fifty_registrations_at_once_give_fifty_numbers_without_a_gap() {
    let world = World::start().await;
    world.create_model("iris").await;
    let content = files(&[("m.safetensors", &safetensors(8, 1))]);
    let numbers = join_all((0..50).map(|_| world.register("iris", &content))).await;
    assert_eq!(
        numbers.iter().copied().collect::<BTreeSet<_>>(),
        (1..=50).collect()
    );
    assert_eq!(
        world.get("/v1/models/iris").await.expect(200)["version_count"],
        50
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn of_fifty_promotions_with_one_expectation_exactly_one_wins() {
    let world = World::start().await;
    world.ready_model("iris").await;
    let answers =
        join_all((0..50).map(|_| world.set_alias("iris", "champion", 1, json!(null)))).await;
    // Setting an alias to what it holds already is no change, so each contender wants another version.
    assert!(answers.iter().filter(|answer| answer.status == 200).count() >= 1);

    let second = world
        .publish("iris", &files(&[("m.safetensors", &safetensors(8, 2))]))
        .await;
    let third = world
        .publish("iris", &files(&[("m.safetensors", &safetensors(8, 3))]))
        .await;
    let wanted: Vec<u64> = (0..50)
        .map(|index| if index % 2 == 0 { second } else { third })
        .collect();
    let answers = join_all(
        wanted
            .iter()
            .map(|version| world.set_alias("iris", "champion", *version, json!(1))),
    )
    .await;
    let winners: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 200)
        .collect();
    assert_eq!(winners.len(), 1, "{answers:#?}");
    let winner = winners[0].body["version"].clone();
    for loser in answers.iter().filter(|answer| answer.status != 200) {
        let error = loser.clone().expect_error(409, "conflict");
        assert_eq!(
            error["details"]["current"]["version"], winner,
            "the conflict names the winner"
        );
    }
    let history = world
        .get("/v1/models/iris/aliases/champion/history")
        .await
        .expect(200);
    assert_eq!(history["events"].as_array().unwrap().len(), 2);
    assert_eq!(world.version("iris", 1).await["alias_count"], 0);
    assert_eq!(
        world.version("iris", winner.as_u64().unwrap()).await["alias_count"],
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_deletion_and_a_promotion_at_once_never_both_succeed() {
    let world = World::start().await;
    world.ready_model("iris").await;
    for round in 0..10 {
        let version = world
            .publish("iris", &files(&[("m.safetensors", &safetensors(8, round))]))
            .await;
        let alias = format!("a{round}x");
        let path = format!("/v1/models/iris/versions/{version}");
        let (promoted, deleted) = tokio::join!(
            world.set_alias("iris", &alias, version, json!(null)),
            world.delete(&path)
        );
        assert_ne!(
            promoted.status == 200,
            deleted.status == 200,
            "{promoted:?} {deleted:?}"
        );
    }
}
