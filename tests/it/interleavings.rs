//! Random interleavings of all that makes and frees bytes: nothing that is referred to is ever lost, and nothing else stays.

use crate::world::{Files, World, files, safetensors};
use serde_json::json;
use shared::s3::ObjectVersion;
use std::collections::BTreeMap;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const MODELS: [&str; 2] = ["iris", "lily"];

/// Numbers that look random and are the same in every run of one seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// One of few sets of files, so that versions share them; the last has nothing in common with the others.
fn content(kind: u64) -> Files {
    match kind {
        0 => files(&[("a.safetensors", &safetensors(8, 1))]),
        1 => files(&[
            ("a.safetensors", &safetensors(8, 1)),
            ("b.safetensors", &safetensors(9, 2)),
        ]),
        _ => files(&[("c.safetensors", &safetensors(10, 3))]),
    }
}

struct Story {
    world: World,
    dice: Dice,
    /// What was registered.
    versions: BTreeMap<(&'static str, u64), Files>,
}

impl Story {
    async fn start(seed: u64) -> Self {
        let days = (5 * DAY / 1000).to_string();
        let world = World::start_with(&[("RESTORE_SECONDS", &days)]).await;
        for model in MODELS {
            world.create_model(model).await;
        }
        Self {
            world,
            dice: Dice(seed),
            versions: BTreeMap::new(),
        }
    }

    fn any(&mut self) -> Option<(&'static str, u64)> {
        let count = self.versions.len() as u64;
        (count > 0).then(|| {
            let index = usize::try_from(self.dice.roll(count)).unwrap();
            *self.versions.keys().nth(index).unwrap()
        })
    }

    async fn act(&mut self) {
        let roll = self.dice.roll(12);
        if roll < 3 {
            let model = MODELS[usize::try_from(self.dice.roll(2)).unwrap()];
            let files = content(self.dice.roll(3));
            let version = self.world.register(model, &files).await;
            // Some uploads never come.
            if self.dice.roll(6) > 0 {
                self.world.upload(model, version, &files).await;
            }
            self.versions.insert((model, version), files);
            return;
        }
        if roll < 5 {
            for _ in 0..self.dice.roll(8) {
                if self.world.stack.step().await.unwrap().is_none() {
                    break;
                }
            }
            return;
        }
        if roll < 7 {
            self.world
                .clock
                .advance_millis(self.dice.roll(3 * DAY) + HOUR / 2);
            self.world.sweep().await;
            return;
        }
        let Some((model, version)) = self.any() else {
            return;
        };
        let path = format!("/v1/models/{model}/versions/{version}");
        // Each may be refused, as things are; what counts is what is there afterwards.
        match roll {
            7 => {
                let body = json!({"version": version});
                let headers = [("x-slipway-actor", "ada")];
                let alias = format!("/v1/models/{model}/aliases/champion");
                let current = self.world.get(&alias).await.body["version"].clone();
                let mut body = body;
                body["expected_version"] = current;
                self.world
                    .send(reqwest::Method::PUT, &alias, Some(body), &headers)
                    .await;
            }
            8 | 9 => drop(self.world.delete(&path).await),
            10 => drop(self.world.post(&format!("{path}/restore"), json!({})).await),
            _ => {
                let body = json!({"format": "tar"});
                self.world.post(&format!("{path}/archives"), body).await;
            }
        }
    }

    /// Every version that can be downloaded has its files, byte for byte.
    async fn check_nothing_is_lost(&self) {
        for ((model, version), files) in &self.versions {
            let view = self.world.version(model, *version).await;
            if view["status"] != "READY" || view["deleted_at"].is_string() {
                continue;
            }
            let downloads = self
                .world
                .get(&format!("/v1/models/{model}/versions/{version}/downloads"))
                .await
                .expect(200);
            let downloads = downloads["downloads"].as_array().unwrap();
            assert_eq!(downloads.len(), files.len());
            for download in downloads {
                let bytes = self.world.download(download).await;
                assert_eq!(bytes, files[download["path"].as_str().unwrap()]);
            }
        }
    }

    /// Nothing lies in the bucket but what a version refers to.
    async fn check_nothing_is_left(&self) {
        let mut allowed = Vec::new();
        for (model, version) in self.versions.keys() {
            let view = self.world.version(model, *version).await;
            if view["purged_at"].is_string() {
                continue;
            }
            let mut of =
                |prefix: &str| allowed.push(format!("{prefix}/default/{model}/{version}/"));
            of("reports");
            match view["package"]["files_uri"].as_str() {
                Some(uri) => {
                    of("packages");
                    of("archives");
                    allowed.push(uri.strip_prefix("s3://slipway/").unwrap().to_owned());
                }
                None if view["status"] != "FAILED_REGISTRATION" => of("incoming"),
                None => {}
            }
        }
        let bucket = &self.world.stack.app().bucket;
        let left: Vec<ObjectVersion> = self
            .world
            .object_versions()
            .await
            .into_iter()
            .filter(|object| !allowed.iter().any(|prefix| object.key.starts_with(prefix)))
            .collect();
        assert_eq!(left, vec![]);
        assert_eq!(bucket.uploads_under("").await.unwrap(), vec![]);
    }

    /// Every event arrives, and every sweep runs for as long as it finds something.
    async fn settle(&self, days: u64) {
        for _ in 0..days * 4 {
            self.world.drain().await;
            self.world.clock.advance_millis(6 * HOUR);
            self.world.sweep().await;
        }
        self.world.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_in_whatever_order_no_byte_is_lost_and_none_is_left() {
    for seed in [3, 1_412, 77_777] {
        let mut story = Story::start(seed).await;
        for _ in 0..45 {
            story.act().await;
            story.check_nothing_is_lost().await;
        }
        story.settle(9).await;
        story.check_nothing_is_lost().await;
        story.check_nothing_is_left().await;
        for model in MODELS {
            let alias = format!("/v1/models/{model}/aliases/champion");
            if let Some(version) = story.world.get(&alias).await.body["version"].as_u64() {
                let body = json!({"expected_version": version});
                let headers = [("x-slipway-actor", "ada")];
                story
                    .world
                    .send(reqwest::Method::DELETE, &alias, Some(body), &headers)
                    .await
                    .expect(200);
            }
        }
        let all: Vec<_> = story.versions.keys().copied().collect();
        for (model, version) in all {
            story
                .world
                .delete(&format!("/v1/models/{model}/versions/{version}"))
                .await;
        }
        story.settle(7).await;
        story.check_nothing_is_left().await;
        let left = story.world.object_versions().await;
        assert_eq!(left, vec![], "seed {seed}");
    }
}
