//! Promotions: of aliases and stages, and the requests for them.

use super::{Change, Model, Request, allow, text};
use crate::wishes::{Expected, Wish};
use crate::world::Rules;
use std::collections::{BTreeMap, BTreeSet};

impl Model {
    pub(super) fn open(&mut self, change: &Change<'_>) -> Result<(), String> {
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

    pub(super) fn open_request(&mut self, change: &Change<'_>) -> Result<&mut Request, String> {
        let id = change.data["request_id"].as_str().unwrap_or_default();
        let request = self.requests.get_mut(id).ok_or("nobody asked for it")?;
        allow(request.is_open, "a request that was ended was decided on")?;
        Ok(request)
    }

    /// An automatic check of a request answered, or its time is over.
    pub(super) fn answer(&mut self, change: &Change<'_>) -> Result<(), String> {
        let (check, status) = (text(change, "check"), text(change, "status"));
        let request = self.open_request(change)?;
        let before = request.checks.insert(check, status);
        allow(before.is_none(), "a check answered twice")
    }

    /// A request ends because a check of it did not pass.
    pub(super) fn fail(&mut self, change: &Change<'_>) -> Result<(), String> {
        let request = self.open_request(change)?;
        let has_failed = request.checks.values().any(|status| status != "passed");
        allow(has_failed, "no check of the rejected request had failed")?;
        self.end(change, "rejected")
    }

    pub(super) fn end(&mut self, change: &Change<'_>, how: &str) -> Result<(), String> {
        let request = self.open_request(change)?;
        let is_over = request.expires_at.as_str() <= change.time;
        allow(is_over || how != "expired", "a request expired too early")?;
        request.is_open = false;
        Ok(())
    }

    /// Ends the request that brought a promotion about; what guards the target wants so many approvals.
    pub(super) fn promoted(
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

    pub(super) fn is_waived(&self, change: &Change<'_>) -> bool {
        self.waivers
            .values()
            .any(|until| *until.as_str() > *change.time)
    }

    pub(super) fn change_stage(
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

    pub(super) fn move_alias(
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
}
