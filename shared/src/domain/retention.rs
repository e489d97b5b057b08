//! Which versions of a model are kept, and which go: rules, and the decision.

use crate::domain::{Principal, Timestamp, Version, VersionNumber};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most that either rule takes.
const MOST: u32 = 100_000;
/// A day, in milliseconds.
const DAY_MILLIS: u64 = 24 * 3_600 * 1000;

/// What a model keeps: a version goes only if no rule keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The newest so many versions stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<u32>,
    /// What is younger than so many days stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_after_days: Option<u32>,
    /// Whether what an alias ever held stays.
    #[serde(default = "yes")]
    pub keep_aliased: bool,
}

fn yes() -> bool {
    true
}

/// The rules of a model, as they were set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// The rules.
    #[serde(flatten)]
    pub rules: Rules,
    /// Who set them.
    pub set_by: Principal,
    /// When.
    pub set_at: Timestamp,
}

impl Rules {
    /// Refuses rules that would keep nothing, or too much to mean anything.
    pub fn check(&self) -> Result<()> {
        if self.keep_last.is_none() && self.expire_after_days.is_none() {
            return Err(Error::invalid(
                "keep_last",
                "the rules would let every version go; set `keep_last`, `expire_after_days` or both",
            ));
        }
        for (name, value) in [
            ("keep_last", self.keep_last),
            ("expire_after_days", self.expire_after_days),
        ] {
            if value.is_some_and(|value| !(1..=MOST).contains(&value)) {
                return Err(Error::invalid(
                    name,
                    format!("`{name}` is out of bounds; use 1 to {MOST}"),
                ));
            }
        }
        Ok(())
    }

    /// The versions that go, of all that a model has, newest first; what is deleted or pending is not looked at.
    ///
    /// What an alias holds always stays.
    pub fn expired<'a>(
        &self,
        versions: &'a [Version],
        ever_aliased: &BTreeSet<VersionNumber>,
        now: Timestamp,
    ) -> Vec<&'a Version> {
        let mut settled: Vec<&Version> = versions
            .iter()
            .filter(|version| version.deleted_at.is_none() && version.validation.is_some())
            .collect();
        settled.sort_by_key(|version| std::cmp::Reverse(version.id.number));
        let kept = self
            .keep_last
            .map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX));
        settled
            .into_iter()
            .skip(kept)
            .filter(|version| version.alias_count == 0)
            .filter(|version| !(self.keep_aliased && ever_aliased.contains(&version.id.number)))
            .filter(|version| {
                self.expire_after_days.is_none_or(|days| {
                    now.since(version.created_at) >= u64::from(days) * DAY_MILLIS
                })
            })
            .collect()
    }
}
