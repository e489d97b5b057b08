//! Validation over several invocations, and of objects that change under it.

use crate::crashes::{cut_everywhere_with, is_whole};
use crate::world::{Files, World, files, safetensors};
use serde_json::json;

/// A file in parts is larger than S3 copies by one call, and so little may one invocation read that it takes several.
const SMALL: &[(&str, &str)] = &[("COPY_BYTES", "16777216"), ("VALIDATION_BYTES", "8388608")];
/// Read by three requests.
const SIZE: usize = 18_000_000;
const KEY: &str = "incoming/default/iris/1/m.safetensors";

/// A file that comes in parts, so that S3 knows no SHA-256 of the whole and every byte must be read.
fn content() -> Files {
    files(&[("m.safetensors", &safetensors(SIZE, 5))])
}

/// Writes an object in parts, under any key.
pub(crate) async fn put_in_parts(world: &World, key: &str, bytes: &[u8]) {
    let bucket = &world.stack.app().bucket;
    let upload = bucket
        .begin_multipart(key, "application/octet-stream", true)
        .await
        .unwrap()
        .upload_id;
    let mut parts = Vec::new();
    for (number, chunk) in (1..).zip(bytes.chunks(8 * 1024 * 1024)) {
        let chunk = chunk.to_vec().into();
        parts.push(bucket.put_part(key, &upload, number, chunk).await.unwrap());
    }
    assert!(
        bucket
            .complete_multipart(key, &upload, &parts)
            .await
            .unwrap()
    );
}

async fn uploaded(world: &World) {
    world.create_model("iris").await;
    let content = content();
    world.register("iris", &content).await;
    put_in_parts(world, KEY, &content["m.safetensors"]).await;
}

/// Delivers what tells of uploads, one after the other, until none is left or the process is cut.
pub(crate) async fn validate(world: &World) {
    loop {
        let waiting = world.stack.deliveries().await.unwrap();
        let Some(next) = waiting
            .iter()
            .find(|delivery| delivery.what.contains("incoming/"))
        else {
            return;
        };
        world.stack.deliver(&next.id).await.unwrap();
        if world.probe.was_cut() {
            return;
        }
    }
}

/// Delivers the upload, whose validation stops at its allowance and leaves the rest to another invocation.
async fn first_invocation(world: &World) {
    uploaded(world).await;
    let waiting = world.stack.deliveries().await.unwrap();
    let upload = waiting
        .iter()
        .find(|delivery| delivery.what.contains("incoming/"))
        .expect("the upload waits");
    world.stack.deliver(&upload.id).await.unwrap();
    assert_eq!(
        world.version("iris", 1).await["status"],
        "PENDING_REGISTRATION",
        "it goes on later"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validation_that_outruns_its_allowance_goes_on_and_reads_each_byte_once() {
    let world = World::start_with(SMALL).await;
    uploaded(&world).await;
    let read = || {
        world
            .stack
            .s3()
            .counters()
            .snapshot()
            .get("GetObject")
            .map_or(0, |count| count.bytes_out)
    };
    let before = read();
    world.drain().await;
    is_whole(&world).await;
    let marked = world
        .stack
        .app()
        .bucket
        .list("incoming/default/iris/1/_SLIPWAY_", 100)
        .await
        .unwrap();
    assert!(marked.len() >= 2, "it took several invocations: {marked:?}");
    let bytes = read() - before;
    assert!(
        (18_000_000..19_048_576).contains(&bytes),
        "{bytes} bytes were read, which is more than the artifact and, in the last invocation, its header"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_validation_survives_every_cut() {
    cut_everywhere_with(
        SMALL,
        first_invocation,
        async |world, _| {
            validate(world).await;
            true
        },
        is_whole,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_come_twice_do_not_confuse_an_interrupted_validation() {
    let world = World::start_with(SMALL).await;
    uploaded(&world).await;
    loop {
        let waiting = world.stack.deliveries().await.unwrap();
        let Some(next) = waiting.first() else { break };
        let copy = world.stack.duplicate(&next.id).unwrap();
        world.stack.deliver(&copy).await.unwrap();
        world.stack.deliver(&next.id).await.unwrap();
    }
    is_whole(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_validation_whose_continuation_never_comes_is_finished_by_the_sweep() {
    let world = World::start_with(SMALL).await;
    first_invocation(&world).await;
    // Every mark that makes it go on is lost, each time.
    for _ in 0..8 {
        for delivery in world.stack.deliveries().await.unwrap() {
            if delivery.what.contains("_SLIPWAY_CONTINUE_") {
                world.stack.drop_delivery(&delivery.id).unwrap();
            } else {
                world.stack.deliver(&delivery.id).await.unwrap();
            }
        }
        world.clock.advance_millis(3_600_000);
        world.sweep().await;
    }
    world.drain().await;
    is_whole(&world).await;
}

/// Several files that came in parts, some of which S3 hashes, and some of which are read.
#[tokio::test(flavor = "multi_thread")]
async fn several_files_are_proven_across_invocations_and_none_is_begun_again() {
    let world = World::start_with(SMALL).await;
    let content: Files = (0..6_u8)
        .map(|number| {
            // Four beyond what S3 copies by one call, one that it copies, and a small one.
            let size = if number == 4 {
                16_500_000
            } else if number == 5 {
                1_000
            } else {
                17_000_000
            };
            (format!("{number}.safetensors"), safetensors(size, number))
        })
        .collect();
    world.create_model("iris").await;
    world.register("iris", &content).await;
    for (path, bytes) in &content {
        put_in_parts(&world, &format!("incoming/default/iris/1/{path}"), bytes).await;
    }
    let counters = world.stack.s3().counters().clone();
    let read = || {
        counters
            .snapshot()
            .get("GetObject")
            .map_or(0, |count| count.bytes_out)
    };
    let before = read();
    validate(&world).await;
    let bytes = read() - before;
    let sizes: usize = content.values().map(Vec::len).sum();
    // Each once, and the headers of all in the invocation that judges.
    assert!(
        bytes <= (sizes + 6 * 700_000) as u64,
        "{bytes} bytes of {sizes} were read"
    );
    world.drain().await;
    is_whole(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_was_exchanged_while_it_was_validated_is_found() {
    let world = World::start_with(SMALL).await;
    first_invocation(&world).await;
    put_in_parts(&world, KEY, &safetensors(SIZE, 6)).await;
    world.drain().await;
    let view = world.version("iris", 1).await;
    assert_eq!(
        view["status"], "FAILED_REGISTRATION",
        "no digest is made of two objects"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_judged_is_what_is_downloaded_though_the_object_was_overwritten() {
    let world = World::start().await;
    world.ready_model("iris").await;
    let bucket = world.stack.app().bucket.clone();
    let key = "incoming/default/iris/1/model.safetensors";
    let head = bucket.head(key, None).await.unwrap().unwrap();
    bucket.hide(&[(key.to_owned(), head.etag)]).await.unwrap();
    bucket
        .put_immutable(key, b"something else".to_vec().into(), "x/y")
        .await
        .unwrap();
    world.drain().await;
    let answer = world
        .get("/v1/models/iris/versions/1/downloads")
        .await
        .expect(200);
    assert_eq!(
        world.download(&answer["downloads"][0]).await,
        safetensors(64, 1)
    );
    assert_eq!(world.version("iris", 1).await["status"], "READY");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_the_registry_keeps_for_itself_cannot_be_declared() {
    let world = World::start().await;
    world.create_model("iris").await;
    for path in ["_SLIPWAY_DROPPED", "_slipway_continue_1", "_SLIPWAY_/x"] {
        let body = json!({"artifacts": World::declaration(&files(&[(path, b"x")]))});
        world
            .post("/v1/models/iris/versions", body)
            .await
            .expect_error(400, "invalid_argument");
    }
}
