//! Packaging: files in their place for good, once for each tenant, and nothing left of what is not needed.

use crate::crashes::{cut_everywhere_with, is_whole};
use crate::world::{Files, World, files, read_objects, safetensors};
use reqwest::Method;
use serde_json::json;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

fn content() -> Files {
    files(&[
        ("data/a.safetensors", &safetensors(8, 1)),
        ("weights.safetensors", &safetensors(64, 2)),
    ])
}

/// Files of a version as they lie in the bucket, by their paths.
async fn files_of(world: &World, model: &str, version: u64) -> Files {
    let package = world.version(model, version).await["package"].clone();
    let uri = package["files_uri"].as_str().unwrap();
    let prefix = uri.strip_prefix("s3://slipway/").unwrap();
    read_objects(world, prefix).await
}

/// How often the bucket holds these bytes, in any version of any object.
async fn copies_of(world: &World, bytes: &[u8]) -> usize {
    let bucket = &world.stack.app().bucket;
    bucket
        .list_versions("")
        .await
        .unwrap()
        .into_iter()
        .filter(|object| object.size_bytes == bytes.len() as u64)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_version_lies_as_it_is_under_its_own_prefix_and_its_uploads_go() {
    let world = World::start().await;
    world.create_model("iris").await;
    world.publish("iris", &content()).await;
    let mut found = files_of(&world, "iris", 1).await;
    found.remove("model.sig");
    assert_eq!(found, content());
    // A download that began before the packaging may still go on.
    let app = world.stack.app();
    assert!(!app.bucket.list("incoming/", 10).await.unwrap().is_empty());
    world.pass(2 * HOUR).await;
    assert_eq!(app.bucket.list_versions("incoming/").await.unwrap(), vec![]);
    let downloads = world
        .get("/v1/models/iris/versions/1/downloads")
        .await
        .expect(200);
    for download in downloads["downloads"].as_array().unwrap() {
        let path = download["path"].as_str().unwrap();
        assert_eq!(world.download(download).await, content()[path]);
        assert!(
            download["url"]
                .as_str()
                .unwrap()
                .contains("/models/default/iris/1/")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_management_that_is_throttled_delays_a_package_and_spoils_nothing() {
    let world = World::start().await;
    world.create_model("iris").await;
    let public = world.get("/v1/signing-key").await;
    assert_eq!(public.status, 200);
    world.register("iris", &content()).await;
    world.upload("iris", 1, &content()).await;
    // The client tries a call four times; then the message comes again.
    world.stack.kms().throttle(6);
    world.drain().await;
    let found = files_of(&world, "iris", 1).await;
    assert!(found.contains_key("model.sig"));
    assert_eq!(found.len(), content().len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_the_tenant_has_are_not_stored_twice_and_stay_until_the_last_is_purged() {
    let world = World::start().await;
    world.create_model("iris").await;
    world.create_model("lily").await;
    world.publish("iris", &content()).await;
    world.publish("lily", &content()).await;
    world.pass(2 * HOUR).await;
    let weights = &content()["weights.safetensors"];
    assert_eq!(copies_of(&world, weights).await, 1);
    let mut found = files_of(&world, "lily", 1).await;
    found.remove("model.sig");
    assert_eq!(found, content());

    // Another tenant has its own.
    world
        .post("/t/other/v1/models", json!({"name": "iris"}))
        .await
        .expect(201);
    let body = json!({"artifacts": World::declaration(&content())});
    world
        .post("/t/other/v1/models/iris/versions", body)
        .await
        .expect(201);
    let uploads = world
        .post("/t/other/v1/models/iris/versions/1/uploads", json!({}))
        .await
        .expect(200);
    for upload in uploads["uploads"].as_array().unwrap() {
        let bytes = content()[upload["path"].as_str().unwrap()].clone();
        assert_eq!(world.put_bytes(upload, bytes).await, 200);
    }
    world.drain().await;
    world.pass(2 * HOUR).await;
    assert_eq!(copies_of(&world, weights).await, 2);

    // The holder goes first; the other still reads the files.
    world.delete("/v1/models/iris/versions/1").await.expect(200);
    world.drain().await;
    world.pass(31 * DAY).await;
    assert!(world.version("iris", 1).await["purged_at"].is_string());
    world
        .send(
            Method::POST,
            "/v1/models/iris/versions/1/restore",
            Some(json!({})),
            &[],
        )
        .await
        .expect_error(409, "deleted");
    let downloads = world
        .get("/v1/models/lily/versions/1/downloads")
        .await
        .expect(200);
    assert_eq!(
        world.download(&downloads["downloads"][1]).await,
        content()["weights.safetensors"]
    );
    world.delete("/v1/models/lily/versions/1").await.expect(200);
    world.drain().await;
    world.pass(31 * DAY).await;
    assert_eq!(copies_of(&world, weights).await, 1, "the other tenant's");
    let left: Vec<String> = world
        .object_versions()
        .await
        .into_iter()
        .map(|object| object.key)
        .filter(|key| key.contains("/default/"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_version_is_whole_again_when_it_is_restored_in_time() {
    let world = World::start().await;
    world.create_model("iris").await;
    world.publish("iris", &content()).await;
    world.delete("/v1/models/iris/versions/1").await.expect(200);
    world.drain().await;
    world.pass(20 * DAY).await;
    world
        .post("/v1/models/iris/versions/1/restore", json!({}))
        .await
        .expect(200);
    world.drain().await;
    world.pass(20 * DAY).await;
    let mut found = files_of(&world, "iris", 1).await;
    found.remove("model.sig");
    assert_eq!(found, content());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_too_large_for_one_call_is_copied_by_parts_and_goes_on_elsewhere() {
    let settings = [("COPY_BYTES", "5242880"), ("PACKAGING_COPIES", "2")];
    let world = World::start_with(&settings).await;
    world.create_model("iris").await;
    let large = files(&[
        ("large.safetensors", &safetensors(17_000_000, 3)),
        ("small.safetensors", &safetensors(8, 1)),
    ]);
    world.publish("iris", &large).await;
    let mut found = files_of(&world, "iris", 1).await;
    found.remove("model.sig");
    assert!(found == large);
    let bucket = &world.stack.app().bucket;
    assert_eq!(bucket.uploads_under("models/").await.unwrap(), vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn copying_by_parts_survives_every_cut() {
    let settings = [("COPY_BYTES", "5242880"), ("PACKAGING_COPIES", "2")];
    cut_everywhere_with(
        &settings,
        async |world| {
            world.create_model("iris").await;
            let content = files(&[("large.safetensors", &safetensors(6_000_000, 3))]);
            world.register("iris", &content).await;
            world.upload("iris", 1, &content).await;
        },
        async |world, _| {
            crate::crashes::drain_until_cut(world).await;
            true
        },
        async |world| {
            is_whole(world).await;
            let found = files_of(world, "iris", 1).await;
            assert_eq!(
                found["large.safetensors"].len(),
                safetensors(6_000_000, 3).len()
            );
            let bucket = &world.stack.app().bucket;
            assert_eq!(bucket.uploads_under("models/").await.unwrap(), vec![]);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn purging_survives_every_cut() {
    cut_everywhere_with(
        &[],
        async |world| {
            world.create_model("iris").await;
            world.publish("iris", &content()).await;
            world.pass(2 * HOUR).await;
            world.delete("/v1/models/iris/versions/1").await.expect(200);
            world.drain().await;
            world.clock.advance_millis(31 * DAY);
        },
        async |world, _| {
            let schedule =
                json!({"detail-type": "Scheduled Event", "source": "aws.events", "detail": {}});
            packaging::handle(world.stack.app().clone(), schedule)
                .await
                .is_ok()
        },
        async |world| {
            world.pass(8 * HOUR).await;
            assert_eq!(world.object_versions().await, vec![]);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn purging_a_deleted_model_survives_every_cut() {
    cut_everywhere_with(
        &[],
        async |world| {
            world.create_model("iris").await;
            world.publish("iris", &content()).await;
            // Its uploads never came.
            world.register("iris", &content()).await;
            world.pass(2 * HOUR).await;
            world.delete("/v1/models/iris").await.expect(200);
            world.drain().await;
            world.clock.advance_millis(31 * DAY);
        },
        async |world, _| {
            let schedule =
                json!({"detail-type": "Scheduled Event", "source": "aws.events", "detail": {}});
            packaging::handle(world.stack.app().clone(), schedule)
                .await
                .is_ok()
        },
        async |world| {
            world.pass(8 * HOUR).await;
            assert_eq!(world.object_versions().await, vec![]);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_model_keeps_its_files_until_it_cannot_be_restored_and_others_keep_what_they_share()
 {
    let world = World::start().await;
    for model in ["iris", "lily"] {
        world.create_model(model).await;
        world.publish(model, &content()).await;
    }
    world.delete("/v1/models/iris").await.expect(200);
    world.drain().await;
    world.pass(20 * DAY).await;
    world
        .post("/v1/models/iris/restore", json!({}))
        .await
        .expect(200);
    world.drain().await;
    world.pass(20 * DAY).await;
    assert_eq!(
        files_of(&world, "iris", 1).await.len(),
        content().len() + 1,
        "the files and their signature"
    );
    world.delete("/v1/models/iris").await.expect(200);
    world.drain().await;
    world.pass(31 * DAY).await;
    world
        .post("/v1/models/iris/restore", json!({}))
        .await
        .expect_error(409, "deleted");
    let downloads = world
        .get("/v1/models/lily/versions/1/downloads")
        .await
        .expect(200);
    let weights = world.download(&downloads["downloads"][1]).await;
    assert_eq!(weights, content()["weights.safetensors"]);
    world.delete("/v1/models/lily").await.expect(200);
    world.drain().await;
    world.pass(31 * DAY).await;
    assert_eq!(world.object_versions().await, vec![]);
}

/// The archive once it is there.
async fn archived(world: &World, format: &str) -> Vec<u8> {
    let path = "/v1/models/iris/versions/1/archives";
    let requested = world
        .post(path, json!({"format": format}))
        .await
        .expect(202);
    assert_eq!(requested["status"], "pending");
    world.drain().await;
    let archives = world.get(path).await.expect(200);
    let archive = archives["archives"]
        .as_array()
        .unwrap()
        .iter()
        .find(|archive| archive["format"] == format)
        .unwrap()
        .clone();
    assert_eq!(archive["status"], "ready");
    let bytes = world.download(&archive).await;
    assert_eq!(archive["size_bytes"], bytes.len() as u64);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_put_together_by_parts_in_several_invocations_and_always_the_same() {
    let large = files(&[
        ("a/config.json", b"{}"),
        ("b.safetensors", &safetensors(11_000_000, 2)),
        ("c.safetensors", &safetensors(23_000_000, 3)),
    ]);
    let mut made = Vec::new();
    for copies in ["1000", "2"] {
        let settings = [("COPY_BYTES", "7000000"), ("PACKAGING_COPIES", copies)];
        let world = World::start_with(&settings).await;
        world.create_model("iris").await;
        world.publish("iris", &large).await;
        let bytes = archived(&world, "tar").await;
        assert_eq!(bytes.len() % 512, 0);
        made.push(bytes);
        let bucket = &world.stack.app().bucket;
        assert_eq!(bucket.uploads_under("archives/").await.unwrap(), vec![]);
        // A second request finds it.
        let again = world
            .post(
                "/v1/models/iris/versions/1/archives",
                json!({"format": "tar"}),
            )
            .await
            .expect(202);
        assert_eq!(again["status"], "ready");
    }
    assert!(made[0] == made[1]);
    assert!(read_tar(&made[0]) == large);
}

/// The files of a tar archive whose paths are short.
fn read_tar(bytes: &[u8]) -> Files {
    let mut found = Files::new();
    let mut at = 0;
    while bytes[at] != 0 {
        let text = |range: std::ops::Range<usize>| {
            let field = &bytes[at + range.start..at + range.end];
            let end = field
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(field.len());
            String::from_utf8(field[..end].to_vec()).unwrap()
        };
        let size = usize::from_str_radix(&text(124..136), 8).unwrap();
        found.insert(text(0..100), bytes[at + 512..at + 512 + size].to_vec());
        at += 512 + size.next_multiple_of(512);
    }
    assert!(bytes[at..].iter().all(|byte| *byte == 0) && bytes.len() - at == 1024);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_survives_every_cut() {
    cut_everywhere_with(
        &[("COPY_BYTES", "5242880")],
        async |world| {
            world.create_model("iris").await;
            world
                .publish(
                    "iris",
                    &files(&[("m.safetensors", &safetensors(10_600_000, 2))]),
                )
                .await;
        },
        async |world, _| {
            let path = "/v1/models/iris/versions/1/archives";
            let headers = [("idempotency-key", "the-key")];
            let body = json!({"format": "tar"});
            let answer = world.send(Method::POST, path, Some(body), &headers).await;
            crate::crashes::drain_until_cut(world).await;
            answer.status < 300
        },
        async |world| {
            let archives = world
                .get("/v1/models/iris/versions/1/archives")
                .await
                .expect(200);
            assert_eq!(archives["archives"][0]["status"], "ready");
            let bytes = world.download(&archives["archives"][0]).await;
            assert_eq!(
                read_tar(&bytes)["m.safetensors"].len(),
                safetensors(10_600_000, 2).len()
            );
            let bucket = &world.stack.app().bucket;
            assert_eq!(bucket.uploads_under("archives/").await.unwrap(), vec![]);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_what_is_not_there_are_refused() {
    let world = World::start().await;
    world.create_model("iris").await;
    world.register("iris", &content()).await;
    let path = "/v1/models/iris/versions/1/archives";
    let tar = json!({"format": "tar"});
    world
        .post(path, tar.clone())
        .await
        .expect_error(409, "version_not_ready");
    world
        .post("/v1/models/iris/versions/2/archives", tar)
        .await
        .expect_error(404, "version_not_found");
    world
        .post(path, json!({"format": "zip"}))
        .await
        .expect_error(400, "invalid_argument");
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_rules_say_what_they_would_delete_and_then_delete_it() {
    let world = World::start().await;
    world.create_model("iris").await;
    for fill in 1..=4 {
        world
            .publish("iris", &files(&[("m.safetensors", &safetensors(8, fill))]))
            .await;
    }
    // Version 1 held an alias once.
    world
        .set_alias("iris", "champion", 1, json!(null))
        .await
        .expect(200);
    world
        .set_alias("iris", "champion", 4, json!(1))
        .await
        .expect(200);
    let path = "/v1/models/iris/retention";
    world
        .get(path)
        .await
        .expect_error(404, "artifact_not_found");
    world
        .put(path, json!({"keep_aliased": true}))
        .await
        .expect_error(400, "invalid_argument");
    let asked = world
        .put(&format!("{path}?dry_run=true"), json!({"keep_last": 1}))
        .await
        .expect(200);
    let named: Vec<u64> = asked["would_delete"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| version["version"].as_u64().unwrap())
        .collect();
    assert_eq!(named, [3, 2]);
    world
        .get(path)
        .await
        .expect_error(404, "artifact_not_found");
    let rules = json!({"keep_last": 1, "expire_after_days": 10});
    world.put(path, rules).await.expect(200);
    world.pass(2 * HOUR).await;
    assert!(world.version("iris", 2).await.get("deleted_at").is_none());
    world.pass(11 * DAY).await;
    let mut gone = Vec::new();
    for number in 1..=4 {
        if world
            .version("iris", number)
            .await
            .get("deleted_at")
            .is_some()
        {
            gone.push(number);
        }
    }
    assert_eq!(gone, [2, 3]);
    world.pass(31 * DAY).await;
    assert!(world.version("iris", 2).await["purged_at"].is_string());
    world.delete(path).await.expect(200);
    world
        .get(path)
        .await
        .expect_error(404, "artifact_not_found");
}
