//! What validation fetches of each format, by S3's own count, held against the table in `docs/budgets.md`.

#[path = "../../functions/artifact-validation/formats/tests/large/mod.rs"]
pub(crate) mod large;

use crate::validation::{put_in_parts, validate};
use crate::world::{World, files, read_folder, repository};
use large::Layout;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shared::s3::{Bucket, Source};
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;
/// The least that S3 takes as a part that is not the last.
const LEAST_PART: u64 = 5 * MIB;
/// Zeros that lie in the bucket, of which holes are copied.
const ZEROS: u64 = 64 * MIB;

/// What S3 was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) calls: BTreeMap<String, u64>,
    /// Bytes that `GetObject` answered.
    pub(crate) bytes: u64,
}

impl Fetched {
    /// Up to now.
    fn so_far(world: &World) -> Self {
        let counters = world.stack.s3().counters().snapshot();
        Self {
            bytes: counters.get("GetObject").map_or(0, |count| count.bytes_out),
            calls: counters
                .into_iter()
                .map(|(name, count)| (name, count.calls))
                .collect(),
        }
    }

    /// While `act` ran.
    pub(crate) async fn during(world: &World, act: impl Future<Output = ()>) -> Self {
        let before = Self::so_far(world);
        act.await;
        let mut after = Self::so_far(world);
        after.bytes -= before.bytes;
        for (name, calls) in before.calls {
            *after.calls.entry(name).or_default() -= calls;
        }
        after.calls.retain(|_, calls| *calls > 0);
        after
    }

    pub(crate) fn of(&self, operation: &str) -> u64 {
        self.calls.get(operation).copied().unwrap_or(0)
    }
}

/// The digest of a file that is laid out.
pub(crate) fn digest_of(layout: &Layout) -> String {
    let zeros = vec![0; 1 << 20];
    let mut hasher = Sha256::new();
    let mut at = 0;
    let skip_to = |hasher: &mut Sha256, at: &mut u64, end: u64| {
        while *at < end {
            let length = (end - *at).min(zeros.len() as u64);
            hasher.update(&zeros[..usize::try_from(length).unwrap()]);
            *at += length;
        }
    };
    for (start, part) in &layout.parts {
        skip_to(&mut hasher, &mut at, *start);
        hasher.update(part);
        at += part.len() as u64;
    }
    skip_to(&mut hasher, &mut at, layout.size);
    format!("sha256:{}", hex::encode(hasher.finalize()))
}

/// Writes a file that is laid out: its holes are copies of zeros, so that a gibibyte costs no time on the wire.
pub(crate) async fn put_layout(bucket: &Bucket, key: &str, layout: &Layout) {
    let name = "runs/default/zeros";
    if bucket.head(name, None).await.unwrap().is_none() {
        let content = vec![0; usize::try_from(ZEROS).unwrap()];
        bucket
            .put_immutable(name, content.into(), "x/y")
            .await
            .unwrap();
    }
    let head = bucket.head(name, None).await.unwrap().unwrap();
    let zeros = Source {
        key: name.to_owned(),
        object_version: head.object_version,
        etag: head.etag,
    };
    let upload = bucket.begin_copy(key, "x/y").await.unwrap();
    let mut parts = Vec::new();
    let mut number = 1;
    let literals = far_apart(layout);
    let starts = literals.iter().map(|(start, _)| *start);
    let ends = starts.clone().skip(1).chain([layout.size]);
    for ((start, part), end) in literals.iter().zip(ends) {
        let mut literal = part.clone();
        let length = (part.len() as u64).max(LEAST_PART).min(end - start);
        literal.resize(usize::try_from(length).unwrap(), 0);
        let put = bucket
            .put_part(key, &upload, number, literal.into())
            .await
            .unwrap();
        parts.push(put);
        number += 1;
        let mut at = start + length;
        while at < end {
            let rest = end - at;
            // What remains after a piece must be large enough for a part again.
            let piece = if rest > ZEROS && rest - ZEROS < LEAST_PART {
                ZEROS - LEAST_PART
            } else {
                rest.min(ZEROS)
            };
            let copied = bucket
                .copy_part(&zeros, 0..piece, key, &upload, number)
                .await
                .unwrap();
            parts.push(copied.expect("the zeros are there"));
            number += 1;
            at += piece;
        }
    }
    bucket
        .complete_immutable(key, &upload, &parts)
        .await
        .unwrap()
        .expect("it is new");
}

/// The parts of a layout, joined where the zeros between them are too few for a part of an upload.
fn far_apart(layout: &Layout) -> Vec<(u64, Vec<u8>)> {
    let mut joined: Vec<(u64, Vec<u8>)> = Vec::new();
    for (start, part) in &layout.parts {
        match joined.last_mut() {
            Some((first, last)) if *start < *first + last.len() as u64 + 2 * LEAST_PART => {
                last.resize(usize::try_from(start - *first).unwrap(), 0);
                last.extend_from_slice(part);
            }
            _ => joined.push((*start, part.clone())),
        }
    }
    joined
}

/// Declares a file that is laid out.
pub(crate) fn declaration(layout: &Layout) -> Value {
    let declared =
        json!({"path": layout.name, "size_bytes": layout.size, "digest": digest_of(layout)});
    json!({"artifacts": [declared]})
}

/// Registers a model whose only file is laid out.
pub(crate) async fn register_layout(world: &World, model: &str, layout: &Layout) -> String {
    world.create_model(model).await;
    world
        .post(&format!("/v1/models/{model}/versions"), declaration(layout))
        .await
        .expect(201);
    format!("incoming/default/{model}/1/{}", layout.name)
}

async fn is_ready(world: &World, model: &str) {
    let version = world.version(model, 1).await;
    assert_eq!(version["status"], "READY", "{version:#}");
}

/// Large files of every format that is judged by parts of it.
fn large_files() -> Vec<Layout> {
    vec![
        large::safetensors(96 * MIB, 64),
        large::torch(96 * MIB, 4),
        large::gguf(96 * MIB),
        large::onnx(96 * MIB),
        large::pickle(96 * MIB),
        large::npy(96 * MIB),
        large::hdf5(),
        large::keras(b"{}", b"{}"),
        large::tar(96 * MIB),
        large::zip(96 * MIB),
    ]
}

/// What `docs/budgets.md` grants a file: requests, and bytes in KiB.
fn granted() -> BTreeMap<String, (u64, u64)> {
    let text = std::fs::read_to_string(repository().join("docs/budgets.md")).unwrap();
    let table = text
        .split("| Large file |")
        .nth(1)
        .expect("the table is there");
    table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let number = |text: &str| text.replace(',', "").parse().unwrap();
            let name = cells[0].trim_matches('`').to_owned();
            (name, (number(cells[1]), number(cells[2])))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_is_judged_by_less_than_a_mebibyte() {
    let world = World::start().await;
    for (model, layout) in [
        ("st", large::safetensors(1 << 30, 64)),
        ("pt", large::torch(1 << 30, 4)),
    ] {
        let key = register_layout(&world, model, &layout).await;
        put_layout(&world.stack.app().bucket, &key, &layout).await;
        let fetched = Fetched::during(&world, validate(&world)).await;
        is_ready(&world, model).await;
        assert!(fetched.bytes <= MIB, "{model}: {fetched:?}");
        assert!(fetched.of("GetObject") <= 8, "{model}: {fetched:?}");
        // The upload came in parts, so that S3 had no digest of the whole; it was asked for one.
        assert_eq!(fetched.of("UploadPartCopy"), 1, "{model}: {fetched:?}");
    }
    assert!(
        world
            .stack
            .app()
            .bucket
            .uploads_under("")
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_keeps_its_budget_of_requests_and_bytes() {
    let world = World::start().await;
    let mut granted = granted();
    let mut over = Vec::new();
    for (number, layout) in (1..).zip(large_files()) {
        let model = format!("m{number}");
        let key = register_layout(&world, &model, &layout).await;
        put_layout(&world.stack.app().bucket, &key, &layout).await;
        let fetched = Fetched::during(&world, validate(&world)).await;
        is_ready(&world, &model).await;
        let most = granted.remove(layout.name).unwrap_or_default();
        let spent = (fetched.of("GetObject"), fetched.bytes.div_ceil(1024));
        if spent.0 > most.0 || spent.1 > most.1 {
            over.push(format!("`{}` took {spent:?} of {most:?}", layout.name));
        }
    }
    assert!(over.is_empty(), "{over:#?}");
    assert!(granted.is_empty(), "nobody measures {granted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_are_fetched_by_one_request_each() {
    let world = World::start().await;
    let fixtures = repository().join("functions/artifact-validation/formats/tests/fixtures/benign");
    let mut names: Vec<String> = std::fs::read_dir(&fixtures)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for (number, name) in (1..).zip(names) {
        let path = fixtures.join(&name);
        let content = if path.is_dir() {
            read_folder(&path)
        } else {
            files(&[(name.as_str(), &std::fs::read(&path).unwrap())])
        };
        let model = format!("m{number}");
        world.create_model(&model).await;
        world.register(&model, &content).await;
        world.upload(&model, 1, &content).await;
        let fetched = Fetched::during(&world, validate(&world)).await;
        let sizes: usize = content.values().map(Vec::len).sum();
        assert!(
            fetched.of("GetObject") <= content.len() as u64 && fetched.bytes <= sizes as u64,
            "{name}: {fetched:?}"
        );
        is_ready(&world, &model).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_must_be_read_whole_is_fetched_once() {
    let world = World::start().await;
    let all = large::dense(17 << 20);
    let some = all
        .into_iter()
        .filter(|(name, _)| ["xgb.json", "noise.pkl.gz"].contains(name));
    for (number, (name, bytes)) in (1..).zip(some) {
        let size = bytes.len() as u64;
        // S3 verified the first, and is asked for the digest of the second, which came in parts.
        for how in ["whole", "parts"] {
            let model = format!("{how}{number}");
            let content = files(&[(name, &bytes)]);
            world.create_model(&model).await;
            world.register(&model, &content).await;
            if how == "whole" {
                world.upload(&model, 1, &content).await;
            } else {
                put_in_parts(
                    &world,
                    &format!("incoming/default/{model}/1/{name}"),
                    &bytes,
                )
                .await;
            }
            let fetched = Fetched::during(&world, validate(&world)).await;
            is_ready(&world, &model).await;
            assert!(
                fetched.bytes <= size + 640 * 1024,
                "{name}, {how}: {fetched:?} of {size}"
            );
            assert_eq!(fetched.of("UploadPartCopy"), u64::from(how == "parts"));
        }
    }
}
