//! Objects that are exchanged while a version is judged and packaged: what is judged is what is served.

use crate::validation::{put_in_parts, validate};
use crate::world::{Files, World, files, safetensors};
use std::sync::Arc;

const KEY: &str = "incoming/default/iris/1/m.safetensors";
/// Not kept in memory whole, so that it is read by several requests.
const SIZE: usize = 17_000_000;

/// When an object is exchanged: just before this call of validation.
#[derive(Debug, Clone, Copy)]
struct Moment(&'static str, usize);

const MOMENTS: [Moment; 3] = [
    // S3 is about to compute the digest of what was pinned by its head.
    Moment("UploadPartCopy", 1),
    Moment("GetObject", 1),
    // Between two ranges.
    Moment("GetObject", 2),
];

async fn uploaded(world: &World) -> Files {
    let content = files(&[("m.safetensors", &safetensors(SIZE, 1))]);
    world.create_model("iris").await;
    world.register("iris", &content).await;
    put_in_parts(world, KEY, &content["m.safetensors"]).await;
    content
}

/// Does one thing, and another when the first is at a moment of it.
///
/// The first has a task of its own, because it blocks while it is held.
async fn do_and_at<F>(
    world: &Arc<World>,
    does: impl FnOnce(Arc<World>) -> F,
    moment: Moment,
    act: impl AsyncFnOnce(),
) where
    F: Future<Output = ()> + Send + 'static,
{
    let held = world.probe.hold(moment.0, moment.1);
    let doing = tokio::spawn(does(Arc::clone(world)));
    let held = tokio::task::spawn_blocking(move || held.wait().then_some(held))
        .await
        .unwrap();
    assert!(held.is_some(), "{moment:?} never came");
    act().await;
    drop(held);
    doing.await.unwrap();
}

async fn validate_and_at(world: &Arc<World>, moment: Moment, act: impl AsyncFnOnce()) {
    do_and_at(
        world,
        |world| async move { validate(&world).await },
        moment,
        act,
    )
    .await;
}

/// The version is ready, and what is downloaded is what was uploaded first.
async fn serves(world: &World, content: &Files) {
    let view = world.version("iris", 1).await;
    assert_eq!(view["status"], "READY", "{view:#}");
    assert!(view["package"].is_object(), "{view:#}");
    let answer = world
        .get("/v1/models/iris/versions/1/downloads")
        .await
        .expect(200);
    let served = world.download(&answer["downloads"][0]).await;
    assert!(served == content["m.safetensors"], "other bytes are served");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_overwritten_between_two_calls_of_validation_changes_nothing() {
    for moment in MOMENTS {
        let world = Arc::new(World::start().await);
        let content = uploaded(&world).await;
        validate_and_at(&world, moment, async || {
            put_in_parts(&world, KEY, &safetensors(SIZE, 2)).await;
        })
        .await;
        world.drain().await;
        serves(&world, &content).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_replaced_for_good_while_it_is_validated_is_found() {
    for moment in MOMENTS {
        let world = Arc::new(World::start().await);
        uploaded(&world).await;
        validate_and_at(&world, moment, async || {
            let bucket = &world.stack.app().bucket;
            let pinned = bucket.list_versions(KEY).await.unwrap();
            put_in_parts(&world, KEY, &safetensors(SIZE, 2)).await;
            bucket.remove_versions(&pinned).await.unwrap();
        })
        .await;
        world.drain().await;
        let view = world.version("iris", 1).await;
        assert_eq!(view["status"], "FAILED_REGISTRATION", "{view:#}");
        assert_eq!(view["validation"]["verdict"], "rejected", "{view:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_overwritten_after_the_verdict_is_not_what_is_packaged() {
    for moment in ["before packaging", "before the copy"] {
        let world = Arc::new(World::start().await);
        let content = uploaded(&world).await;
        validate(&world).await;
        assert_eq!(world.version("iris", 1).await["status"], "READY");
        if moment == "before packaging" {
            put_in_parts(&world, KEY, &safetensors(SIZE, 2)).await;
            world.drain().await;
        } else {
            do_and_at(
                &world,
                |world| async move { world.drain().await },
                Moment("CopyObject", 1),
                async || put_in_parts(&world, KEY, &safetensors(SIZE, 2)).await,
            )
            .await;
        }
        serves(&world, &content).await;
    }
}
