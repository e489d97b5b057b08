//! What a registered model is, in the simplest words: versions, aliases and requests, one change after another.

mod promotions;

use crate::wishes::{Decision, Wish};
use crate::world::Rules;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A registered model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub(crate) is_deleted: bool,
    /// Whether its name was given to another model.
    pub(crate) is_displaced: bool,
    versions: BTreeMap<u32, Version>,
    aliases: BTreeMap<String, Alias>,
    requests: BTreeMap<String, Request>,
    /// The waivers that were granted and not revoked, and when they end, in milliseconds.
    waivers: BTreeMap<String, String>,
    /// How many places serve each version.
    pub(crate) served: BTreeMap<u32, usize>,
    /// When it was deleted last; times are compared as text.
    deleted_at: String,
    /// Whether its tag says that it is owned, if it has the tag.
    pub(crate) tag: Option<String>,
}

/// A version.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Version {
    /// `PENDING_REGISTRATION`, `READY` or `FAILED_REGISTRATION`.
    pub status: &'static str,
    /// The stage.
    pub stage: String,
    /// Whether it is deleted.
    pub is_deleted: bool,
    /// From when on it should not be used any more.
    pub deprecated_at: Option<String>,
    /// From when on it must not be used any more.
    pub end_of_life_at: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Whether it is packaged.
    pub is_packed: bool,
    /// Whether it is gone for good.
    pub is_purged: bool,
    is_finalized: bool,
    /// Whether it was ready, and is not accepted any more.
    is_revoked: bool,
    verdict: String,
    /// The digest of the report that judged it last.
    report: String,
    /// Whether its tags say that it is fit for what asks for that.
    is_fit: bool,
    deleted_at: String,
    /// Which dates it was told of that they have come.
    told: BTreeSet<String>,
}

/// An alias.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alias {
    /// What it holds.
    pub version: Option<u32>,
    /// How often it changed.
    pub sequence: u64,
    held: Vec<u32>,
}

/// A promotion request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The version.
    pub version: u32,
    /// `alias:champion`, or `stage:2:Production`: at most one is open for each.
    pub claim: String,
    /// Whether it is open.
    pub is_open: bool,
    requester: String,
    approvers: BTreeSet<String>,
    expires_at: String,
    /// What its automatic checks answered.
    checks: BTreeMap<String, String>,
}

/// What an event says, as far as the model goes.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// Such as `alias.set`.
    pub kind: &'a str,
    /// The version.
    pub version: Option<u32>,
    /// The alias.
    pub alias: Option<&'a str>,
    /// The position in the alias's history.
    pub sequence: Option<u64>,
    /// Who did it.
    pub actor: &'a str,
    /// When; times are compared as text.
    pub time: &'a str,
    /// What changed.
    pub data: &'a Value,
}

impl Model {
    /// The versions, by number.
    pub fn versions(&self) -> &BTreeMap<u32, Version> {
        &self.versions
    }

    /// The aliases that were ever set, by name.
    pub fn aliases(&self) -> &BTreeMap<String, Alias> {
        &self.aliases
    }

    /// The requests, by id.
    pub fn requests(&self) -> &BTreeMap<String, Request> {
        &self.requests
    }

    /// How many aliases hold a version.
    pub fn holders(&self, number: u32) -> usize {
        self.aliases
            .values()
            .filter(|alias| alias.version == Some(number))
            .count()
    }

    /// How many requests are open, for a version or for any.
    pub fn open_requests(&self, number: Option<u32>) -> usize {
        self.requests
            .values()
            .filter(|request| {
                request.is_open && number.is_none_or(|number| number == request.version)
            })
            .count()
    }

    /// The versions that stand in a stage.
    pub fn standing_in(&self, stage: &str) -> Vec<u32> {
        self.versions
            .iter()
            .filter(|(_, version)| version.stage == stage)
            .map(|(number, _)| *number)
            .collect()
    }

    pub(crate) fn is_promotable(&self, number: u32) -> bool {
        self.versions.get(&number).is_some_and(|version| {
            version.status == "READY" && !version.is_deleted && !version.is_revoked
        })
    }

    /// Whether a version is what a target asks for that wants it to be fit.
    fn is_fit(&self, number: u32) -> bool {
        self.versions
            .get(&number)
            .is_some_and(|version| version.is_fit && version.verdict == "clean")
    }

    /// Applies a change that a wish asked for, if the model, the wish and the rules allow it.
    pub fn apply(
        &mut self,
        change: &Change<'_>,
        wish: Option<&Wish>,
        rules: &Rules,
    ) -> Result<(), String> {
        let number = change.version;
        let Some(wish) = wish else {
            return match change.kind {
                "promotion.expired" => self.end(change, "expired"),
                "version.deprecated" | "version.end_of_life" => self.tell(change),
                "check.answered" => self.answer(change),
                "promotion.rejected" => self.fail(change),
                kind => Err(format!("nobody asked for `{kind}`")),
            };
        };
        match (change.kind, wish) {
            ("model.deleted", Wish::DeleteModel) => {
                allow(!self.is_deleted, "there is no model to delete")?;
                let holding = self.aliases.values().any(|alias| alias.version.is_some());
                allow(!holding, "an alias of the deleted model holds a version")?;
                allow(
                    self.open_requests(None) == 0,
                    "a request for the deleted model is open",
                )?;
                let is_served = self.served.values().any(|count| *count > 0);
                allow(!is_served, "the deleted model is served")?;
                self.is_deleted = true;
                change.time.clone_into(&mut self.deleted_at);
            }
            ("model.updated", Wish::Describe) => {
                allow(!self.is_deleted, "a deleted model was described")?;
                let tag = &change.data["tags_set"][crate::direct::TAG.0];
                self.tag = tag.as_str().map(str::to_owned).or(self.tag.take());
            }
            ("model.restored", Wish::RestoreModel) => {
                allow(self.is_deleted, "the restored model is not deleted")?;
                self.is_deleted = false;
            }
            ("version.registered", Wish::Register) => {
                allow(!self.is_deleted, "there is no model to register with")?;
                let next = self.versions.len() + 1;
                allow(
                    number.is_some_and(|number| number as usize == next),
                    "the version's number is not the next one",
                )?;
                self.versions.insert(
                    number.unwrap_or_default(),
                    Version {
                        status: "PENDING_REGISTRATION",
                        stage: "None".to_owned(),
                        is_deleted: false,
                        deprecated_at: None,
                        end_of_life_at: None,
                        tags: BTreeMap::new(),
                        is_packed: false,
                        is_purged: false,
                        is_finalized: false,
                        is_revoked: false,
                        verdict: String::new(),
                        report: String::new(),
                        is_fit: false,
                        deleted_at: String::new(),
                        told: BTreeSet::new(),
                    },
                );
            }
            ("version.finalized", Wish::Finalize { version }) => {
                let finalized = self.version(number, *version)?;
                allow(
                    finalized.status == "PENDING_REGISTRATION"
                        && !finalized.is_finalized
                        && !finalized.is_deleted,
                    "the finalized version was finalized, judged or deleted before",
                )?;
                finalized.is_finalized = true;
            }
            ("version.ready" | "version.failed", Wish::Judge { version, ready }) => {
                let judged = self.version(number, *version)?;
                allow(
                    judged.status == "PENDING_REGISTRATION",
                    "the version was judged before",
                )?;
                (judged.status, judged.verdict) = if *ready {
                    ("READY", "clean".to_owned())
                } else {
                    ("FAILED_REGISTRATION", "unsafe".to_owned())
                };
                judged.report = text(change, "report");
            }
            ("version.rejudged", Wish::Rejudge { version, .. }) => {
                let judged = self.version(number, *version)?;
                allow(
                    judged.report == text(change, "before"),
                    "the version was judged again on top of another judgement than it had",
                )?;
                if change.data["status"] == "READY" {
                    judged.status = "READY";
                }
                judged.is_revoked = change.data["revoked"] == true;
                judged.verdict = text(change, "verdict");
                judged.report = text(change, "report");
            }
            ("version.packaged", Wish::Pack { version }) => {
                let packed = self.version(number, *version)?;
                allow(
                    packed.status == "READY" && !packed.is_packed && !packed.is_purged,
                    "what was packaged is not ready, was packaged before, or is purged",
                )?;
                packed.is_packed = true;
            }
            ("version.purged", Wish::Purge { version }) => {
                let window = crate::direct::RESTORE_MILLIS;
                let is_over =
                    |deleted: bool, at: &str| deleted && is_since(at, change.time, window);
                let of_model = is_over(self.is_deleted, &self.deleted_at);
                let purged = self.version(number, *version)?;
                allow(!purged.is_purged, "the version was purged before")?;
                allow(
                    of_model || is_over(purged.is_deleted, &purged.deleted_at),
                    "what was purged could still be restored",
                )?;
                purged.is_deleted = true;
                purged.is_purged = true;
            }
            ("version.updated", Wish::Annotate { version, fit, mark }) => {
                let annotated = self.version(number, *version)?;
                allow(!annotated.is_deleted, "the annotated version is deleted")?;
                annotated.is_fit = *fit;
                let fit = if *fit { "yes" } else { "no" };
                annotated.tags.insert("fit".to_owned(), fit.to_owned());
                let mark = format!("mark{mark}");
                let set = change.data["tags_set"][&mark].as_str();
                annotated
                    .tags
                    .insert(mark, set.unwrap_or_default().to_owned());
            }
            ("version.lifecycle_set", Wish::SetLifecycle { version, .. }) => {
                let dated = self.version(number, *version)?;
                allow(!dated.is_deleted, "the dated version is deleted")?;
                let date = |name: &str| change.data[name].as_str().map(str::to_owned);
                dated.deprecated_at = date("deprecated_at");
                dated.end_of_life_at = date("end_of_life_at");
                dated.told.clear();
            }
            ("version.stage_changed", wish) => return self.change_stage(change, wish, rules),
            ("version.deleted", Wish::DeleteVersion { version }) => {
                let holders = self.holders(*version);
                let open = self.open_requests(Some(*version));
                let served = self.served.get(version).copied().unwrap_or_default();
                let deleted = self.version(number, *version)?;
                allow(!deleted.is_deleted, "the version was deleted before")?;
                allow(holders == 0, "an alias holds the deleted version")?;
                allow(open == 0, "the deleted version awaits approval")?;
                allow(served == 0, "the deleted version is served")?;
                deleted.is_deleted = true;
                change.time.clone_into(&mut deleted.deleted_at);
            }
            ("version.restored", Wish::RestoreVersion { version }) => {
                let restored = self.version(number, *version)?;
                allow(restored.is_deleted, "the restored version is not deleted")?;
                allow(!restored.is_purged, "the restored version is purged")?;
                restored.is_deleted = false;
            }
            ("alias.set" | "alias.removed" | "alias.rolled_back", _) => {
                return self.move_alias(change, wish, rules);
            }
            ("promotion.requested", Wish::RequestPromotion { .. }) => return self.open(change),
            ("promotion.approved", Wish::Decide { decision, .. }) => {
                allow(
                    *decision == Decision::Approve,
                    "an approval was not asked for",
                )?;
                let request = self.open_request(change)?;
                allow(
                    request.requester != change.actor,
                    "who asked approved the request",
                )?;
                request.approvers.insert(change.actor.to_owned());
            }
            ("check.answered", Wish::AnswerCheck { .. }) => return self.answer(change),
            ("promotion.rejected", Wish::AnswerCheck { .. }) => return self.fail(change),
            ("promotion.rejected", Wish::Decide { decision, .. }) => {
                allow(*decision == Decision::Reject, "nobody rejected it")?;
                return self.end(change, "rejected");
            }
            ("promotion.withdrawn", Wish::Decide { decision, .. }) => {
                allow(*decision == Decision::Withdraw, "nobody withdrew it")?;
                let request = self.open_request(change)?;
                allow(
                    request.requester == change.actor,
                    "somebody else withdrew it",
                )?;
                return self.end(change, "withdrawn");
            }
            // Whoever finds that the time of a request is over ends it.
            ("promotion.expired", _) => return self.end(change, "expired"),
            ("check.requested", Wish::RequestPromotion { .. }) | ("promotion.denied", _) => {}
            ("waiver.granted", Wish::GrantWaiver) => {
                let waiver = &change.data["waiver"];
                let text = |name: &str| waiver[name].as_str().unwrap_or_default().to_owned();
                self.waivers.insert(text("id"), text("expires_at"));
            }
            ("waiver.revoked", Wish::RevokeWaiver) => {
                let id = change.data["waiver"]["id"].as_str().unwrap_or_default();
                let was = self.waivers.remove(id);
                allow(was.is_some(), "the revoked waiver was not in force")?;
            }
            (kind, wish) => return Err(format!("`{kind}` was caused by {wish:?}")),
        }
        Ok(())
    }

    /// Somebody tells that the date of a version's deprecation has come.
    fn tell(&mut self, change: &Change<'_>) -> Result<(), String> {
        let told = change
            .version
            .and_then(|number| self.versions.get_mut(&number));
        let told = told.ok_or("the version is not there")?;
        let at = text(change, "at");
        let date = match change.kind {
            "version.deprecated" => &told.deprecated_at,
            _ => &told.end_of_life_at,
        };
        allow(
            date.as_ref() == Some(&at) && *at.as_str() <= *change.time,
            "it was told that a date has come which is not the version's, or has not come",
        )?;
        allow(!told.is_deleted, "it was told of a deleted version")?;
        let is_new = told.told.insert(change.kind.to_owned());
        allow(is_new, "it was told twice that a date has come")
    }

    fn version(&mut self, said: Option<u32>, asked: u32) -> Result<&mut Version, String> {
        allow(said == Some(asked), "the event is about another version")?;
        self.versions
            .get_mut(&asked)
            .ok_or_else(|| "the version is not there".to_owned())
    }
}

fn text(change: &Change<'_>, name: &str) -> String {
    change.data[name].as_str().unwrap_or_default().to_owned()
}

/// Whether a time lies so far after another.
fn is_since(from: &str, to: &str, millis: u64) -> bool {
    let parse = |text: &str| -> shared::domain::Timestamp {
        serde_json::from_value(text.into()).unwrap_or_default()
    };
    parse(to) >= parse(from).plus_millis(millis)
}

pub(crate) fn allow(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(otherwise.to_owned())
    }
}
