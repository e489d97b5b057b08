//! What an auditor asks: what was when, by whom and why; and whether the answer is what was written.

use crate::crashes::cut_everywhere;
use crate::world::{Files, World, files, safetensors};
use serde_json::{Value, json};
use shared::domain::Timestamp;
use shared::domain::audit::{Anchor, FaultKind, verify};

fn content(fill: u8) -> Files {
    files(&[("m.safetensors", &safetensors(8, fill))])
}

/// A model whose champion went from version 1 to 2 and back, a second apart.
async fn promoted(world: &World, name: &str) -> Vec<String> {
    world.ready_model(name).await;
    world.publish(name, &content(2)).await;
    let mut instants = Vec::new();
    for (version, expected) in [(1, json!(null)), (2, json!(1)), (1, json!(2))] {
        world.clock.advance_millis(1_000);
        let set = world
            .set_alias(name, "champion", version, expected)
            .await
            .expect(200);
        instants.push(set["changed_at"].as_str().unwrap().to_owned());
    }
    instants
}

async fn export(world: &World, query: &str) -> String {
    let url = world.url(&format!("/v1/models/{query}"));
    let answer = reqwest::get(url).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap()
}

fn just_before(instant: &str) -> String {
    let instant: Timestamp = serde_json::from_value(json!(instant)).unwrap();
    Timestamp::from_millis(instant.millis() - 1).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_complete_before_anything_was_dispatched_and_verifies() {
    let world = World::start().await;
    promoted(&world, "iris").await;
    // Nothing was delivered since the last change; the export catches up.
    let text = export(&world, "iris/audit").await;
    let verified = verify(&text, &[]).unwrap();
    assert_eq!(verified.model_id.as_deref(), Some("iris"));
    let kinds: Vec<Value> = text
        .lines()
        .skip(1)
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].clone())
        .collect();
    assert_eq!(
        kinds.iter().filter(|kind| **kind == "alias.set").count(),
        3,
        "{kinds:?}"
    );
    assert_eq!(kinds.len() as u64, verified.last_sequence);

    // What the stream brings later, and twice, changes nothing.
    world.drain().await;
    world.clock.advance_millis(10 * 60_000);
    world.sweep().await;
    world.drain().await;
    let again = verify(&export(&world, "iris/audit").await, &[]).unwrap();
    assert_eq!(
        (again.last_sequence, &again.last_hash),
        (verified.last_sequence, &verified.last_hash)
    );

    // Events show their places.
    let events = world
        .get("/v1/models/iris/events?limit=100")
        .await
        .expect(200);
    for event in events["events"].as_array().unwrap() {
        assert!(
            event["chain"]["sequence"].as_u64().unwrap() >= 1,
            "{event:#}"
        );
    }

    // A changed line is named, and so is a missing tail.
    let edited = text.replacen("\"to\":2", "\"to\":1", 1);
    assert_eq!(verify(&edited, &[]).unwrap_err().kind, FaultKind::Changed);
    let shorter: Vec<&str> = text.lines().collect();
    let fault = verify(&shorter[..shorter.len() - 1].join("\n"), &[]).unwrap_err();
    assert_eq!(
        (fault.kind, fault.sequence),
        (FaultKind::Dropped, verified.last_sequence)
    );

    // Reports say who and why, and nothing in them acts.
    for format in ["md", "html"] {
        let report = export(&world, &format!("iris/audit?format={format}")).await;
        assert!(report.contains("Promotions"), "{report}");
    }
    world
        .get("/v1/models/iris/audit?format=pdf")
        .await
        .expect_error(400, "invalid_argument");
    world
        .get("/v1/models/nothing/audit")
        .await
        .expect_error(404, "model_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_chain_verifies_and_a_seal_holds_it() {
    let world = World::start().await;
    let instants = promoted(&world, "iris").await;
    world.drain().await;
    let part = export(
        &world,
        &format!("iris/audit?from={}&to={}", instants[0], instants[2]),
    )
    .await;
    let verified = verify(&part, &[]).unwrap();
    assert_eq!(
        verified.last_sequence - verified.first_sequence,
        1,
        "{part}"
    );

    // The day ends, and is sealed once.
    for _ in 0..2 {
        world.clock.advance_millis(25 * 3_600_000);
        world.sweep().await;
        world.drain().await;
    }
    let seals = world.get("/v1/seals").await.expect(200);
    let days = seals["seals"].as_array().unwrap();
    assert!(!days.is_empty(), "{seals:#}");
    let first = days.last().unwrap()["day"].as_str().unwrap();
    let seal = world.get(&format!("/v1/seals/{first}")).await.expect(200);
    let end = &seal["models"][0];
    let anchor = Anchor {
        sequence: end["sequence"].as_u64().unwrap(),
        hash: end["hash"].as_str().unwrap().to_owned(),
    };
    let whole = export(&world, "iris/audit").await;
    assert_eq!(verify(&whole, &[anchor]).unwrap().anchors, 1);
    world
        .get("/v1/seals/1970-01-01")
        .await
        .expect_error(404, "artifact_not_found");
    world
        .get("/v1/seals/yesterday")
        .await
        .expect_error(400, "invalid_argument");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_alias_held_is_told_to_the_millisecond() {
    let world = World::start().await;
    let instants = promoted(&world, "iris").await;
    let held = async |at: &str| {
        let path = format!("/v1/models/iris/aliases/champion?at={at}");
        world.get(&path).await.expect(200)["version"].clone()
    };
    assert_eq!(held(&just_before(&instants[0])).await, Value::Null);
    for (index, version) in [1, 2, 1].into_iter().enumerate() {
        assert_eq!(held(&instants[index]).await, json!(version), "{index}");
        if index > 0 {
            assert_ne!(
                held(&just_before(&instants[index])).await,
                json!(version),
                "{index}"
            );
        }
    }
    let shown = world
        .get(&format!(
            "/v1/models/iris/aliases/champion?at={}",
            instants[1]
        ))
        .await
        .expect(200);
    assert!(
        shown["made_from"]["metadata_digest"]
            .as_str()
            .unwrap()
            .starts_with("sha256:")
    );

    let tenures = world
        .get("/v1/models/iris/aliases/champion/tenures")
        .await
        .expect(200);
    let tenures = tenures["tenures"].as_array().unwrap();
    assert_eq!(tenures.len(), 3);
    assert_eq!(tenures[0]["until"], tenures[1]["from"]);
    assert!(tenures[2].get("until").is_none());

    // In any model, at once after the change, although nothing was delivered.
    let anywhere = |at: &str| format!("/v1/tenures?alias=champion&at={at}");
    let found = world.get(&anywhere(&instants[2])).await.expect(200);
    assert_eq!(found["tenures"][0]["version"], 1);
    assert_eq!(found["tenures"][0]["from"], instants[2].as_str());
    let found = world
        .get(&anywhere(&just_before(&instants[2])))
        .await
        .expect(200);
    assert_eq!(found["tenures"][0]["version"], 2);

    // Stages likewise.
    world.clock.advance_millis(1_000);
    let moved = world
        .post(
            "/v1/models/iris/versions/1/stage",
            json!({"stage": "Production"}),
        )
        .await
        .expect(200);
    let at = moved["updated_at"].as_str().unwrap();
    let found = world
        .get(&format!("/v1/tenures?stage=Production&at={at}"))
        .await
        .expect(200);
    assert_eq!(found["tenures"][0]["version"], 1);
    let before = just_before(at);
    let found = world
        .get(&format!("/v1/tenures?stage=Production&at={before}"))
        .await
        .expect(200);
    assert_eq!(found["tenures"], json!([]));
    world
        .get("/v1/tenures")
        .await
        .expect_error(400, "invalid_argument");

    // The old name answers for its time, the new one for its own, whoever has the old one since.
    world.clock.advance_millis(1_000);
    world
        .post("/v1/models/iris/rename", json!({"name": "lilac"}))
        .await
        .expect(200);
    world.clock.advance_millis(1_000);
    let again = world.create_model("iris").await;
    assert_eq!(held(&instants[1]).await, json!(2));
    let later = again["created_at"].as_str().unwrap();
    world
        .get(&format!("/v1/models/iris/aliases/champion?at={later}"))
        .await
        .expect_error(404, "alias_not_found");
    let path = format!("/v1/models/lilac/aliases/champion?at={later}");
    assert_eq!(world.get(&path).await.expect(200)["version"], 1);
    let old = export(&world, &format!("iris/audit?at={}", instants[1])).await;
    assert_eq!(verify(&old, &[]).unwrap().model_id.as_deref(), Some("iris"));
    assert!(old.contains("model.renamed"));
    let new = export(&world, "iris/audit").await;
    assert_ne!(verify(&new, &[]).unwrap().model_id.as_deref(), Some("iris"));
    world.drain().await;
}

/// Every way in which the records of the stream may come leaves one chain with every event in it once.
#[tokio::test(flavor = "multi_thread")]
async fn the_chain_is_whole_whatever_the_stream_does() {
    for seed in 0_u64..6 {
        let world = World::start().await;
        promoted(&world, "iris").await;
        promoted(&world, "lilac").await;
        // Some records come late or twice, some never, and exports dispatch beside them.
        let mut random = seed + 1;
        for _ in 0..40 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let waiting = world.stack.deliveries().await.unwrap();
            if waiting.is_empty() {
                break;
            }
            let one = &waiting[usize::try_from(random >> 33).unwrap() % waiting.len()];
            match (random >> 20) % 8 {
                0 => world.sweep().await,
                1 => {
                    let (left, right) = tokio::join!(
                        export(&world, "iris/audit"),
                        export(&world, "iris/audit?format=md")
                    );
                    assert!(!left.is_empty() && !right.is_empty());
                }
                2 => {
                    // One comes twice, another one never.
                    drop(world.stack.duplicate(&one.id));
                }
                3 if one.what.contains("stream") => drop(world.stack.drop_delivery(&one.id)),
                _ => drop(world.stack.deliver(&one.id).await),
            }
        }
        world.drain().await;
        world.clock.advance_millis(10 * 60_000);
        world.sweep().await;
        world.drain().await;
        for name in ["iris", "lilac"] {
            let text = export(&world, &format!("{name}/audit")).await;
            let verified = verify(&text, &[]).unwrap();
            let mut ids: Vec<String> = text
                .lines()
                .skip(1)
                .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].to_string())
                .collect();
            let count = ids.len();
            ids.sort();
            ids.dedup();
            assert_eq!(
                (ids.len(), verified.last_sequence),
                (count, count as u64),
                "seed {seed}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exporting_and_sealing_survive_every_cut() {
    cut_everywhere(
        async |world| {
            world.ready_model("iris").await;
            world
                .set_alias("iris", "champion", 1, json!(null))
                .await
                .expect(200);
        },
        async |world, _| {
            let url = world.url("/v1/models/iris/audit");
            reqwest::get(url)
                .await
                .is_ok_and(|answer| answer.status() == 200)
        },
        async |world| {
            let text = export(world, "iris/audit").await;
            assert_eq!(verify(&text, &[]).unwrap().first_sequence, 1);
            assert_eq!(text.matches("\"type\":\"alias.set\"").count(), 1);
        },
    )
    .await;
    cut_everywhere(
        async |world| {
            world.ready_model("iris").await;
            world.drain().await;
            world.clock.advance_millis(25 * 3_600_000);
        },
        async |world, _| {
            drop(world.stack.sweep().await);
            true
        },
        async |world| {
            let seals = world.get("/v1/seals").await.expect(200);
            let days = seals["seals"].as_array().unwrap();
            assert_eq!(days.len(), 1, "{seals:#}");
            let day = days[0]["day"].as_str().unwrap();
            let seal = world.get(&format!("/v1/seals/{day}")).await.expect(200);
            assert_eq!(seal["models"][0]["model_id"], "iris");
        },
    )
    .await;
}
