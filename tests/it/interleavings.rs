//! Random interleavings of all that makes and frees bytes: nothing that is referred to is ever lost, and nothing else stays.

use crate::world::{Files, World, files, safetensors};
use serde_json::json;
use shared::domain::{ModelName, TenantName, VersionId, VersionNumber};
use shared::s3::{ObjectVersion, keys};
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
    /// What was registered in the models that have their names now.
    versions: BTreeMap<(&'static str, u64), Files>,
    /// Where the models lie that have their names now.
    homes: BTreeMap<&'static str, String>,
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
            homes: MODELS.map(|model| (model, model.to_owned())).into(),
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
        let roll = self.dice.roll(14);
        let model = MODELS[usize::try_from(self.dice.roll(2)).unwrap()];
        if roll >= 12 {
            self.change_model(model).await;
            return;
        }
        if roll < 3 {
            if self.is_deleted(model).await {
                return;
            }
            let files = content(self.dice.roll(3));
            let version = self.world.register(model, &files).await;
            // Some uploads never come.
            if self.dice.roll(6) > 0 {
                let multipart = self.world.upload(model, version, &files).await;
                if self.dice.roll(2) == 0 {
                    let path = format!("/v1/models/{model}/versions/{version}/finalize");
                    self.world.post(&path, multipart).await.expect(200);
                }
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

    async fn is_deleted(&self, model: &str) -> bool {
        let answer = self.world.get(&format!("/v1/models/{model}")).await;
        assert!([200, 409].contains(&answer.status), "{:#}", answer.body);
        answer.status == 409
    }

    /// Deletes, restores or replaces a model, or sets its rules; each may be refused.
    async fn change_model(&mut self, model: &'static str) {
        let path = format!("/v1/models/{model}");
        let is_deleted = self.is_deleted(model).await;
        match (is_deleted, self.dice.roll(3)) {
            (false, 0) => {
                let rules = json!({"keep_last": 1, "expire_after_days": 2});
                let path = format!("{path}/retention");
                self.world.put(&path, rules).await.expect(200);
            }
            (false, _) => {
                self.remove_alias(model).await;
                self.world.delete(&path).await.expect(200);
            }
            (true, 0 | 1) => drop(self.world.post(&format!("{path}/restore"), json!({})).await),
            (true, _) => {
                let created = self
                    .world
                    .post(
                        "/v1/models",
                        json!({"name": model, "replace_deleted": true}),
                    )
                    .await;
                let id = created.expect(201)["model_id"].as_str().unwrap().to_owned();
                assert_ne!(id, self.homes[model]);
                self.homes.insert(model, id);
                self.versions.retain(|(of, _), _| *of != model);
            }
        }
    }

    async fn remove_alias(&self, model: &str) {
        let alias = format!("/v1/models/{model}/aliases/champion");
        if let Some(version) = self.world.get(&alias).await.body["version"].as_u64() {
            let body = json!({"expected_version": version});
            let headers = [("x-slipway-actor", "ada")];
            self.world
                .send(reqwest::Method::DELETE, &alias, Some(body), &headers)
                .await
                .expect(200);
        }
    }

    /// Every version that can be downloaded has its files, byte for byte.
    async fn check_nothing_is_lost(&self) {
        for ((model, version), files) in &self.versions {
            if self.is_deleted(model).await {
                continue;
            }
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
            // Of a model that was deleted longer ago than it can be restored, nothing is left.
            if self.is_deleted(model).await {
                continue;
            }
            let view = self.world.version(model, *version).await;
            if view["purged_at"].is_string() {
                continue;
            }
            let id = VersionId {
                tenant: TenantName::default_tenant(),
                model: ModelName::of_home(self.homes[model].as_str()).unwrap(),
                number: VersionNumber::new(*version).unwrap(),
            };
            allowed.push(keys::reports_prefix(&id));
            match view["package"]["files_uri"].as_str() {
                Some(uri) => {
                    allowed.push(keys::package_prefix(&id));
                    allowed.push(keys::archives_prefix(&id));
                    allowed.push(uri.strip_prefix("s3://slipway/").unwrap().to_owned());
                }
                None if view["status"] != "FAILED_REGISTRATION" => {
                    allowed.push(keys::incoming_prefix(&id));
                }
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
            if !story.is_deleted(model).await {
                story.remove_alias(model).await;
            }
        }
        // One model goes whole, the other version by version.
        story.world.delete("/v1/models/iris").await;
        let all: Vec<_> = story.versions.keys().copied().collect();
        for (model, version) in all {
            let path = format!("/v1/models/{model}/versions/{version}");
            story.world.delete(&path).await;
        }
        story.settle(7).await;
        story.check_nothing_is_left().await;
        let left = story.world.object_versions().await;
        assert_eq!(left, vec![], "seed {seed}");
    }
}
