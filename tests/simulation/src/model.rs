//! What a registered model is, in the simplest words: versions, aliases and requests, one change after another.

use crate::wishes::{Decision, Expected, Wish};
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
            ("check.requested", Wish::RequestPromotion { .. }) => {}
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
            ("promotion.denied", _) => {}
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

    fn open(&mut self, change: &Change<'_>) -> Result<(), String> {
        let said = &change.data["request"];
        let version = change.version.unwrap_or_default();
        allow(
            !self.is_deleted,
            "a promotion of a deleted model was asked for",
        )?;
        allow(
            self.is_promotable(version),
            "a promotion of what is not ready, or deleted, was asked for",
        )?;
        let claim = match (
            said["target"]["alias"].as_str(),
            said["target"]["stage"].as_str(),
        ) {
            (Some(alias), _) => format!("alias:{alias}"),
            (_, stage) => format!("stage:{version}:{}", stage.unwrap_or_default()),
        };
        let is_taken = self
            .requests
            .values()
            .any(|request| request.is_open && request.claim == claim);
        allow(!is_taken, "two requests are open for one target")?;
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        let request = Request {
            version,
            claim,
            is_open: true,
            requester: change.actor.to_owned(),
            approvers: BTreeSet::new(),
            expires_at: text("expires_at"),
            checks: BTreeMap::new(),
        };
        self.requests.insert(text("id"), request);
        Ok(())
    }

    fn open_request(&mut self, change: &Change<'_>) -> Result<&mut Request, String> {
        let id = change.data["request_id"].as_str().unwrap_or_default();
        let request = self.requests.get_mut(id).ok_or("nobody asked for it")?;
        allow(request.is_open, "a request that was ended was decided on")?;
        Ok(request)
    }

    /// An automatic check of a request answered, or its time is over.
    fn answer(&mut self, change: &Change<'_>) -> Result<(), String> {
        let (check, status) = (text(change, "check"), text(change, "status"));
        let request = self.open_request(change)?;
        let before = request.checks.insert(check, status);
        allow(before.is_none(), "a check answered twice")
    }

    /// A request ends because a check of it did not pass.
    fn fail(&mut self, change: &Change<'_>) -> Result<(), String> {
        let request = self.open_request(change)?;
        let has_failed = request.checks.values().any(|status| status != "passed");
        allow(has_failed, "no check of the rejected request had failed")?;
        self.end(change, "rejected")
    }

    fn end(&mut self, change: &Change<'_>, how: &str) -> Result<(), String> {
        let request = self.open_request(change)?;
        let is_over = request.expires_at.as_str() <= change.time;
        allow(is_over || how != "expired", "a request expired too early")?;
        request.is_open = false;
        Ok(())
    }

    /// Ends the request that brought a promotion about; what guards the target wants so many approvals.
    fn promoted(
        &mut self,
        change: &Change<'_>,
        to: u32,
        claim: &str,
        (needed, wants_check): ([usize; 2], bool),
    ) -> Result<(), String> {
        let needed = needed[usize::from(self.is_waived(change))];
        if change.data["request_id"].is_null() {
            allow(!wants_check, "it was promoted without a check")?;
            return allow(needed == 0, "it was promoted without approvals");
        }
        let request = self.open_request(change)?;
        allow(
            request.version == to && request.claim == claim,
            "another promotion was asked for",
        )?;
        // A request for what nothing guards needs one person.
        allow(
            request.approvers.len() >= needed.max(1),
            "it was promoted with too few approvals",
        )?;
        let has_passed = request.checks.values().any(|status| status == "passed");
        allow(
            has_passed || !wants_check,
            "it was promoted without a check",
        )?;
        request.is_open = false;
        Ok(())
    }

    fn is_waived(&self, change: &Change<'_>) -> bool {
        self.waivers
            .values()
            .any(|until| *until.as_str() > *change.time)
    }

    fn change_stage(
        &mut self,
        change: &Change<'_>,
        wish: &Wish,
        rules: &Rules,
    ) -> Result<(), String> {
        let number = change.version.ok_or("the event names no version")?;
        let text = |name: &str| change.data[name].as_str().unwrap_or_default().to_owned();
        let (from, to) = (text("from"), text("to"));
        let is_archived = !change.data["archived_for"].is_null();
        let moved = self
            .versions
            .get(&number)
            .ok_or("the version is not there")?
            .clone();
        allow(
            from == moved.stage,
            "the event names another stage than there was",
        )?;
        if is_archived {
            allow(to == "Archived", "it was archived into another stage")?;
        } else {
            allow(
                self.is_promotable(number),
                "the version that changed its stage is not ready or deleted",
            )?;
            allow(
                rules.allows(&from, &to),
                "the stages do not allow the transition",
            )?;
            match wish {
                Wish::ChangeStage {
                    version,
                    stage,
                    expected,
                } => allow(
                    (number, to.as_str()) == (*version, *stage)
                        && expected.is_none_or(|expected| expected == from),
                    "the stage was not the expected one",
                )?,
                Wish::Decide { .. } | Wish::AnswerCheck { .. } => {}
                wish => return Err(format!("a stage was changed by {wish:?}")),
            }
            allow(
                !rules.stage_wants_fit(&to) || self.is_fit(number),
                "what got to the stage is not what the stage asks for",
            )?;
            let claim = format!("stage:{number}:{to}");
            let wants = (rules.approvals_for_stage(&to), rules.stage_wants_check(&to));
            self.promoted(change, number, &claim, wants)?;
        }
        if let Some(version) = self.versions.get_mut(&number) {
            version.stage = to;
        }
        Ok(())
    }

    fn move_alias(
        &mut self,
        change: &Change<'_>,
        wish: &Wish,
        rules: &Rules,
    ) -> Result<(), String> {
        let name = change.alias.ok_or("the event names no alias")?;
        let to = change.data["to"]
            .as_u64()
            .and_then(|number| u32::try_from(number).ok());
        if let Some(to) = to {
            allow(!self.is_deleted, "the model of the alias is deleted")?;
            allow(
                self.is_promotable(to),
                "the alias got a version that is not ready or deleted",
            )?;
            allow(
                !rules.alias_wants_fit(name) || self.is_fit(to),
                "the alias got a version that is not what the alias asks for",
            )?;
        }
        let alias = self.aliases.entry(name.to_owned()).or_default().clone();
        allow(
            change.sequence == Some(alias.sequence + 1),
            "the history has a gap",
        )?;
        let from = change.data["from"]
            .as_u64()
            .and_then(|number| u32::try_from(number).ok());
        allow(
            from == alias.version,
            "the event names another version than was held",
        )?;
        let expecting = |wanted: &str, expected: Expected, sequence: Option<u64>| {
            allow(name == wanted, "another alias was changed")?;
            allow(
                sequence.is_none_or(|sequence| sequence == alias.sequence),
                "the alias was not at the expected sequence",
            )?;
            match expected {
                Expected::Anything => Ok(()),
                Expected::Held(version) => allow(
                    version == alias.version,
                    "the alias did not hold the expected version",
                ),
            }
        };
        let needed = rules.approvals_for_alias(name);
        let wants = (needed, rules.alias_wants_check(name));
        match wish {
            Wish::SetAlias {
                alias: wanted,
                version,
                expected,
                sequence,
            } => {
                expecting(wanted, *expected, *sequence)?;
                allow(
                    to == Some(*version),
                    "the alias got another version than asked for",
                )?;
                self.promoted(change, *version, "", wants)?;
            }
            Wish::Decide { .. } | Wish::AnswerCheck { .. } => {
                let claim = format!("alias:{name}");
                self.promoted(change, to.unwrap_or_default(), &claim, wants)?;
            }
            Wish::RemoveAlias {
                alias: wanted,
                expected,
                sequence,
            } => {
                expecting(wanted, *expected, *sequence)?;
                allow(to.is_none() && from.is_some(), "nothing was removed")?;
            }
            Wish::RollBack {
                alias: wanted,
                to: asked,
                sequence,
            } => {
                expecting(wanted, Expected::Anything, *sequence)?;
                let held = to.is_some_and(|to| alias.held.contains(&to));
                allow(
                    held || (needed[usize::from(self.is_waived(change))] == 0 && !wants.1),
                    "it was rolled back to what it never held, without approvals",
                )?;
                match asked {
                    Some(asked) => {
                        allow(to == Some(*asked), "it was rolled back to another version")?;
                    }
                    None => allow(
                        held && to != from,
                        "it was rolled back to a version that it never held",
                    )?,
                }
            }
            wish => return Err(format!("an alias was changed by {wish:?}")),
        }
        if let Some(alias) = self.aliases.get_mut(name) {
            alias.version = to;
            alias.sequence += 1;
            alias.held.extend(to);
        }
        Ok(())
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
