//! What a registry is, in the simplest words: names, models, settings and places, one change after another.

use crate::model::{Change, Model, allow};
use crate::wishes::Wish;
use serde_json::Value;
use std::collections::BTreeMap;

/// Everything that the events made.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Which home a name means, deleted models among them.
    pub(crate) names: BTreeMap<String, String>,
    /// Models by their homes.
    pub(crate) models: BTreeMap<String, Model>,
    /// Revision and document of the stages of the registry (by the empty home) and of models.
    stages: BTreeMap<String, (u64, Value)>,
    protections: BTreeMap<String, (u64, Value)>,
    places: BTreeMap<String, Place>,
    /// When the first settings of the registry, and of models, were answered, by their homes.
    governed_from: BTreeMap<String, u64>,
    /// When the change that comes next was asked for, and answered.
    pub(crate) asked: (u64, u64),
}

/// What is served at a place.
#[derive(Debug, Clone, Default)]
struct Place {
    revision: u64,
    home: String,
    versions: Vec<u32>,
}

/// What governs one model.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    stages: Value,
    /// Of the registry, which waivers lift, and of the model, which nothing lifts.
    protections: [Value; 2],
}

impl Rules {
    /// Whether a version may go from one stage to another.
    pub fn allows(&self, from: &str, to: &str) -> bool {
        self.stages["transitions"][from]
            .as_array()
            .is_none_or(|next| next.iter().any(|stage| stage == to))
    }

    /// Whether a stage holds one version at most.
    pub fn is_exclusive(&self, stage: &str) -> bool {
        let stages = self.stages["stages"].as_array();
        stages
            .into_iter()
            .flatten()
            .any(|one| one["name"] == stage && one["exclusive"] == true)
    }

    /// How many people must approve what gets to an alias, without a waiver and with one.
    pub fn approvals_for_alias(&self, alias: &str) -> [usize; 2] {
        self.approvals("aliases", alias)
    }

    /// How many people must approve what gets to a stage, without a waiver and with one.
    pub fn approvals_for_stage(&self, stage: &str) -> [usize; 2] {
        self.approvals("stages", stage)
    }

    /// Whether what gets to an alias must be tagged as fit, and clean.
    pub fn alias_wants_fit(&self, alias: &str) -> bool {
        self.wants_fit("aliases", alias)
    }

    /// Whether an automatic check must pass before an alias gets a version.
    pub fn alias_wants_check(&self, alias: &str) -> bool {
        self.wants_check("aliases", alias)
    }

    /// Whether one must before a version gets to a stage.
    pub fn stage_wants_check(&self, stage: &str) -> bool {
        self.wants_check("stages", stage)
    }

    fn wants_check(&self, kind: &str, name: &str) -> bool {
        self.protections
            .iter()
            .flat_map(|one| Self::matching(one, kind, name))
            .any(|one| !one["checks"][0].is_null())
    }

    /// Whether what gets to a stage must be.
    pub fn stage_wants_fit(&self, stage: &str) -> bool {
        self.wants_fit("stages", stage)
    }

    fn wants_fit(&self, kind: &str, name: &str) -> bool {
        self.protections
            .iter()
            .flat_map(|one| Self::matching(one, kind, name))
            .any(|one| one["conditions"][0]["id"] == "fit")
    }

    fn matching<'a>(
        protections: &'a Value,
        kind: &'a str,
        name: &'a str,
    ) -> impl Iterator<Item = &'a Value> {
        let all = protections["protections"].as_array();
        all.into_iter().flatten().filter(move |one| {
            let named = one[kind].as_array();
            named.is_some_and(|named| named.iter().any(|pattern| pattern == name))
        })
    }

    fn approvals(&self, kind: &str, name: &str) -> [usize; 2] {
        let [registry, model] =
            [0, 1].map(|index| Self::needed(&self.protections[index], kind, name));
        [registry.max(model), model]
    }

    fn needed(protections: &Value, kind: &str, name: &str) -> usize {
        Self::matching(protections, kind, name)
            .filter_map(|one| one["approval"]["needed"].as_u64())
            .filter_map(|needed| usize::try_from(needed).ok())
            .max()
            .unwrap_or(0)
    }
}

impl World {
    /// What governs a model.
    pub(crate) fn rules(&self, home: &str) -> Rules {
        let own = self.stages.get(home).or_else(|| self.stages.get(""));
        Rules {
            stages: own
                .map(|(_, document)| document.clone())
                .unwrap_or_default(),
            protections: ["", home].map(|home| {
                let found = self.protections.get(home);
                found
                    .map(|(_, document)| document.clone())
                    .unwrap_or_default()
            }),
        }
    }

    /// What holds for the change that comes next: nothing, where it was asked for before the first settings were answered.
    fn rules_in_force(&self, home: &str) -> Rules {
        let first = ["", home]
            .iter()
            .filter_map(|home| self.governed_from.get(*home))
            .min();
        if first.is_some_and(|answered| self.asked.0 < *answered) {
            return Rules::default();
        }
        self.rules(home)
    }

    /// Applies a change of what lies under a home, or of the registry's own settings, which lie under none.
    pub(crate) fn apply(
        &mut self,
        home: &str,
        name: &str,
        change: &Change<'_>,
        wish: Option<&Wish>,
    ) -> Result<(), String> {
        let means = self.names.get(name).cloned();
        let is_meant = means.as_deref() == Some(home);
        match change.kind {
            "stages.changed" | "protections.changed" => {
                allow(
                    home.is_empty() || is_meant,
                    "the settings of another model were changed",
                )?;
                let settings = if change.kind == "stages.changed" {
                    &mut self.stages
                } else {
                    &mut self.protections
                };
                let before = settings.get(home).map_or(0, |(revision, _)| *revision);
                let next = next_revision(change, before)?;
                let document = change.data["document"].clone();
                settings.insert(home.to_owned(), (next, document));
                let answered = self.asked.1;
                self.governed_from
                    .entry(home.to_owned())
                    .or_insert(answered);
                return Ok(());
            }
            "model.created" => {
                let holder = means.and_then(|home| self.models.get(&home));
                allow(
                    holder.is_none_or(|holder| holder.is_deleted),
                    "the name of the created model was taken",
                )?;
                allow(
                    !self.models.contains_key(home),
                    "the home of the created model was used before",
                )?;
                allow(
                    matches!(wish, Some(Wish::CreateModel { .. })),
                    "not asked for",
                )?;
                let model = Model::default();
                self.models.insert(home.to_owned(), model);
                self.names.insert(name.to_owned(), home.to_owned());
                return Ok(());
            }
            "model.displaced" => {
                let model = self.models.get_mut(home).ok_or("there is no such model")?;
                allow(model.is_deleted, "a live model lost its name")?;
                model.is_displaced = true;
                // The name may mean its new holder already.
                self.names.retain(|_, meant| meant != home);
                return Ok(());
            }
            "model.renamed" => {
                let Some(Wish::Rename { to }) = wish else {
                    return Err("nobody asked for another name".to_owned());
                };
                let is_alive = self.models.get(home).is_some_and(|model| !model.is_deleted);
                allow(is_meant && is_alive, "another model was renamed")?;
                let holder = self.names.get(*to).and_then(|home| self.models.get(home));
                allow(
                    holder.is_none_or(|holder| holder.is_deleted),
                    "the new name was taken",
                )?;
                self.names.remove(name);
                self.names.insert((*to).to_owned(), home.to_owned());
                return Ok(());
            }
            "rollout.changed" => return self.serve(home, change, wish),
            // A denial changes nothing, and is recorded of the model that was meant when it was decided.
            "promotion.denied" => return Ok(()),
            // The schedule knows models by their homes.
            _ if wish.is_none() => {}
            "promotion.expired" => {}
            _ => allow(is_meant, "the name meant another model")?,
        }
        let rules = self.rules_in_force(home);
        let model = self.models.get_mut(home).ok_or("there is no such model")?;
        model.apply(change, wish, &rules)
    }

    fn serve(
        &mut self,
        home: &str,
        change: &Change<'_>,
        wish: Option<&Wish>,
    ) -> Result<(), String> {
        let after = &change.data["rollout"];
        let text = |name: &str| change.data[name].as_str().unwrap_or_default();
        let place = text("endpoint").to_owned();
        let versions: Vec<u32> = after["deployments"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| u32::try_from(one["version"].as_u64()?).ok())
            .collect();
        match wish {
            Some(Wish::PutRollout { .. } | Wish::RollRolloutBack { .. }) => {}
            wish => return Err(format!("a rollout was changed by {wish:?}")),
        }
        let before = self.places.entry(place).or_default();
        let revision = next_revision(change, before.revision)?;
        if let Some(model) = self.models.get_mut(&before.home) {
            for version in &before.versions {
                *model.served.entry(*version).or_default() -= 1;
            }
        }
        let model = self.models.get_mut(home).ok_or("there is no such model")?;
        allow(
            versions.is_empty() || !model.is_deleted,
            "a deleted model is served",
        )?;
        let stayed = before.home == home;
        for version in &versions {
            let stays = stayed && before.versions.contains(version);
            allow(
                stays || model.is_promotable(*version),
                "what is served is not ready, or deleted",
            )?;
            *model.served.entry(*version).or_default() += 1;
        }
        *before = Place {
            revision,
            home: home.to_owned(),
            versions,
        };
        Ok(())
    }
}

fn next_revision(change: &Change<'_>, before: u64) -> Result<u64, String> {
    let revision = change.data["revision"].as_u64().unwrap_or_default();
    allow(
        revision == before + 1,
        "a revision was left out, or made twice",
    )?;
    Ok(revision)
}
