//! Protections: which aliases and stages are guarded, by which conditions, approvals, checks and freezes.
//!
//! The expressions of conditions are Cedar; this module holds their form and everything that is decided without them.

use crate::domain::decimal::MAX_DIGITS;
use crate::domain::freeze::{Freeze, minute_of};
use crate::domain::model::{MAX_REASON, check_text};
use crate::domain::{Principal, Timestamp, VersionNumber};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Most protections of a registry or a model.
pub const MAX_PROTECTIONS: usize = 50;
/// Most conditions, checks or freezes of one protection.
pub const MAX_PARTS: usize = 50;
/// Longest expression, in bytes.
pub const MAX_EXPRESSION_BYTES: usize = 4_096;
/// Most brackets of an expression within each other; who reads it needs stack for each.
pub const MAX_EXPRESSION_DEPTH: usize = 16;
/// Most waivers of one model that are in force at once.
pub const MAX_WAIVERS: usize = 100;
/// Longest life of a waiver, in milliseconds: 90 days.
pub const MAX_WAIVER_MILLIS: u64 = 90 * 24 * 3_600_000;

/// What a version is promoted to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotionTarget {
    /// An alias, by its name.
    Alias(String),
    /// A stage, by its name.
    Stage(String),
}

impl PromotionTarget {
    /// `alias` or `stage`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Alias(_) => "alias",
            Self::Stage(_) => "stage",
        }
    }

    /// The name of the alias or stage.
    pub fn name(&self) -> &str {
        match self {
            Self::Alias(name) | Self::Stage(name) => name,
        }
    }
}

impl fmt::Display for PromotionTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} `{}`", self.kind(), self.name())
    }
}

/// All protections of a registry or a model; those that match a target hold together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protections {
    /// The protections.
    pub protections: Vec<Protection>,
}

/// What must be true before a version gets to certain aliases or stages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protection {
    /// Its name among the protections of its scope: 1 to 64 letters, digits, `_`, `-` and `.`.
    pub id: String,
    /// Aliases that it guards; `*` stands for any characters, case does not matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Stages that it guards; `*` stands for any characters, case does not matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<String>,
    /// What must hold; a clean validation if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// The metrics that conditions may look at, and with how many digits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, MetricScale>,
    /// When nothing moves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freezes: Vec<Freeze>,
    /// Who must approve; nobody if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRule>,
    /// Automatic checks that must pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckRule>,
    /// Groups whose members may grant waivers; without any, nothing here can be waived.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub waiver_groups: BTreeSet<String>,
}

/// A named condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Its name within its protection.
    pub id: String,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A Cedar expression over `context`, true where the condition holds.
    pub when: String,
    /// What somebody can do who was denied.
    pub satisfied_by: String,
}

/// How deep the brackets of an expression lie within each other, those in texts and comments left out.
fn nesting(expression: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut characters = expression.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                while let Some(within) = characters.next() {
                    match within {
                        '\\' => drop(characters.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '/' if characters.peek() == Some(&'/') => {
                characters.by_ref().find(|next| *next == '\n');
            }
            '(' | '[' | '{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// How a metric is given to conditions: as a whole number of `10^-digits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricScale {
    /// Digits after the point; 6 unless said.
    #[serde(default = "six")]
    pub digits: u8,
}

const fn six() -> u8 {
    6
}

/// Who must approve, and what follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own in a rule"
)]
pub struct ApprovalRule {
    /// How many different people.
    #[serde(default = "one")]
    pub needed: u32,
    /// The groups of which each must be a member of one; anybody if empty.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<String>,
    /// Whether who asked may approve.
    #[serde(default)]
    pub requester_may_approve: bool,
    /// How long a request may stay open, in hours; 168 (a week) unless said.
    #[serde(default = "week")]
    pub expires_after_hours: u32,
    /// Whether the last approval, or the last check, promotes at once.
    #[serde(default = "yes")]
    pub auto_promote: bool,
    /// Whether a return to a version that held the alias before needs approval as well.
    #[serde(default)]
    pub rollback_needs_approval: bool,
}

const fn one() -> u32 {
    1
}
const fn week() -> u32 {
    168
}
const fn yes() -> bool {
    true
}

impl Default for ApprovalRule {
    fn default() -> Self {
        Self {
            needed: one(),
            groups: BTreeSet::new(),
            requester_may_approve: false,
            expires_after_hours: week(),
            auto_promote: yes(),
            rollback_needs_approval: false,
        }
    }
}

impl ApprovalRule {
    /// How many different people have approved who may.
    pub fn eligible(
        &self,
        requester: &Principal,
        approvals: &[(Principal, BTreeSet<String>)],
    ) -> usize {
        approvals
            .iter()
            .filter(|(by, groups)| self.may_approve(requester, by, groups))
            .map(|(by, _)| by)
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// Whether somebody's approval counts.
    pub fn may_approve(
        &self,
        requester: &Principal,
        by: &Principal,
        groups: &BTreeSet<String>,
    ) -> bool {
        (self.requester_may_approve || by != requester)
            && (self.groups.is_empty() || !self.groups.is_disjoint(groups))
    }
}

/// An automatic check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRule {
    /// Its name, unique among the checks that guard a target.
    pub name: String,
    /// How long it may take, in minutes; 60 unless said.
    #[serde(default = "hour")]
    pub timeout_minutes: u32,
}

const fn hour() -> u32 {
    60
}

/// The condition of a protection that names none.
pub fn default_condition() -> Condition {
    Condition {
        id: "clean-validation".into(),
        description: Some("the validation found nothing, or what runs code was approved".into()),
        when: "context.validation.verdict == \"clean\" || (context.validation.verdict == \"contains_code\" && context.approvers.count >= 1)".into(),
        satisfied_by: "promote a version whose validation is `clean`; one that contains code needs an approved promotion request, anything else a waiver".into(),
    }
}

/// Whether a text fits a pattern in which `*` stands for any characters; case does not matter.
pub fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl Protection {
    /// Whether it guards a target.
    pub fn guards(&self, target: &PromotionTarget) -> bool {
        let patterns = match target {
            PromotionTarget::Alias(_) => &self.aliases,
            PromotionTarget::Stage(_) => &self.stages,
        };
        patterns.iter().any(|pattern| fits(pattern, target.name()))
    }

    /// Its conditions, or the default one.
    pub fn all_conditions(&self) -> Vec<Condition> {
        self.conditions
            .clone()
            .unwrap_or_else(|| vec![default_condition()])
    }

    /// Every id that a denial may name and a waiver may allow.
    pub fn condition_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self
            .all_conditions()
            .iter()
            .map(|condition| format!("{}/{}", self.id, condition.id))
            .collect();
        ids.extend(
            self.freezes
                .iter()
                .map(|freeze| format!("{}/freeze:{}", self.id, freeze.id)),
        );
        ids.extend(
            self.checks
                .iter()
                .map(|check| format!("{}/check:{}", self.id, check.name)),
        );
        if self.approval.is_some() {
            ids.push(format!("{}/approval", self.id));
        }
        ids
    }
}

fn check_id(field: &str, id: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if (1..=64).contains(&id.len()) && id.bytes().all(allowed) {
        Ok(())
    } else {
        Err(Error::invalid(
            field,
            format!(
                "`{}` is no id; use 1 to 64 of letters, digits, `_`, `-` and `.`",
                id.chars()
                    .take(70)
                    .flat_map(char::escape_debug)
                    .collect::<String>()
            ),
        ))
    }
}

fn check_unique<'a>(field: &str, ids: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for id in ids {
        check_id(field, id)?;
        if !seen.insert(id) {
            return Err(Error::invalid(
                field,
                format!("`{id}` stands there twice; give each an id of its own"),
            ));
        }
    }
    if seen.len() > MAX_PARTS {
        return Err(Error::invalid(
            field,
            format!("there are {} of them; use at most {MAX_PARTS}", seen.len()),
        ));
    }
    Ok(())
}

impl Protections {
    /// Checks everything but the expressions.
    pub fn check(&self) -> Result<()> {
        check_unique(
            "protections",
            self.protections.iter().map(|one| one.id.as_str()),
        )?;
        self.protections.iter().try_for_each(Protection::check)
    }
}

impl Protection {
    fn check(&self) -> Result<()> {
        let id = &self.id;
        if self.aliases.is_empty() && self.stages.is_empty() {
            return Err(Error::invalid(
                "protections",
                format!("protection `{id}` guards nothing; name `aliases` or `stages`"),
            ));
        }
        if let Some(blank) = self
            .aliases
            .iter()
            .chain(&self.stages)
            .find(|pattern| pattern.trim().is_empty() || pattern.chars().count() > 255)
        {
            return Err(Error::invalid(
                "protections",
                format!(
                    "protection `{id}` has a pattern of {} characters; use 1 to 255",
                    blank.chars().count()
                ),
            ));
        }
        let conditions = self.all_conditions();
        check_unique("conditions", conditions.iter().map(|one| one.id.as_str()))?;
        for condition in &conditions {
            check_text("description", condition.description.as_deref(), MAX_REASON)?;
            check_text("satisfied_by", Some(&condition.satisfied_by), MAX_REASON)?;
            if condition.satisfied_by.trim().is_empty() {
                return Err(Error::invalid(
                    "satisfied_by",
                    format!(
                        "condition `{}` does not say what would satisfy it; say it, for it is shown to who was denied",
                        condition.id
                    ),
                ));
            }
            if condition.when.len() > MAX_EXPRESSION_BYTES {
                return Err(Error::invalid(
                    "when",
                    format!(
                        "the expression of condition `{}` has {} bytes; use at most {MAX_EXPRESSION_BYTES}",
                        condition.id,
                        condition.when.len()
                    ),
                ));
            }
            let depth = nesting(&condition.when);
            if depth > MAX_EXPRESSION_DEPTH {
                return Err(Error::invalid(
                    "when",
                    format!(
                        "the expression of condition `{}` has brackets {depth} deep; use at most {MAX_EXPRESSION_DEPTH} within each other, and several conditions for the rest",
                        condition.id
                    ),
                ));
            }
        }
        check_unique("freezes", self.freezes.iter().map(|one| one.id.as_str()))?;
        for freeze in &self.freezes {
            if let Some(hours) = &freeze.hours
                && (minute_of(&hours.from).is_none() || minute_of(&hours.until).is_none())
            {
                return Err(Error::invalid(
                    "hours",
                    format!("the hours of freeze `{}` are not like `08:30`", freeze.id),
                ));
            }
            if freeze.until.is_some() && freeze.until <= freeze.from {
                return Err(Error::invalid(
                    "until",
                    format!("freeze `{}` ends before it begins", freeze.id),
                ));
            }
            check_text("reason", freeze.reason.as_deref(), MAX_REASON)?;
        }
        check_unique("checks", self.checks.iter().map(|one| one.name.as_str()))?;
        if let Some(check) = self
            .checks
            .iter()
            .find(|check| !(1..=10_080).contains(&check.timeout_minutes))
        {
            return Err(Error::invalid(
                "timeout_minutes",
                format!("check `{}` may take 1 to 10080 minutes", check.name),
            ));
        }
        if let Some(rule) = &self.approval
            && (!(1..=20).contains(&rule.needed)
                || !(1..=2_160).contains(&rule.expires_after_hours))
        {
            return Err(Error::invalid(
                "approval",
                format!("protection `{id}` may need 1 to 20 approvals within 1 to 2160 hours"),
            ));
        }
        if let Some((name, _)) = self
            .metrics
            .iter()
            .find(|(name, scale)| scale.digits > MAX_DIGITS || name.is_empty() || name.len() > 250)
        {
            return Err(Error::invalid(
                "metrics",
                format!(
                    "metric `{name}` may have 0 to {MAX_DIGITS} digits and a name of 1 to 250 bytes"
                ),
            ));
        }
        if self.metrics.len() > MAX_PARTS {
            return Err(Error::invalid(
                "metrics",
                format!(
                    "there are {} metrics; use at most {MAX_PARTS}",
                    self.metrics.len()
                ),
            ));
        }
        Ok(())
    }
}

/// All waivers of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waivers {
    /// The waivers that were neither revoked nor long past.
    pub waivers: Vec<Waiver>,
}

/// A condition that need not hold, for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiver {
    /// Its id, a ULID.
    pub id: String,
    /// Which conditions, as `protection/condition`.
    pub conditions: BTreeSet<String>,
    /// For which version; for all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionNumber>,
    /// For which alias or stage; for all that the protections guard if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PromotionTarget>,
    /// Why.
    pub reason: String,
    /// Until when.
    pub expires_at: Timestamp,
    /// Who granted it.
    pub granted_by: Principal,
    /// When.
    pub granted_at: Timestamp,
}

impl Waiver {
    /// Whether it lets a version pass a condition.
    pub fn allows(
        &self,
        condition: &str,
        version: VersionNumber,
        target: &PromotionTarget,
        now: Timestamp,
    ) -> bool {
        now < self.expires_at
            && self.conditions.contains(condition)
            && self.version.is_none_or(|only| only == version)
            && self.target.as_ref().is_none_or(|only| only == target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::freeze::*;
    use serde_json::{Value, json};

    #[test]
    fn a_pattern_stands_for_what_it_looks_like() {
        for (pattern, text, expected) in [
            ("champion", "champion", true),
            ("champion", "Champion", true),
            ("champion", "champion2", false),
            ("*", "", true),
            ("*", "anything", true),
            ("prod*", "production", true),
            ("prod*", "preprod", false),
            ("*prod", "preprod", true),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "abcc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("", "", true),
            ("", "x", false),
            ("Ä*", "äpfel", true),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern:?} of {text:?}");
        }
    }

    #[test]
    fn a_freeze_is_in_force_when_all_that_it_says_is_true() {
        let at = |text: &str| serde_json::from_value::<Timestamp>(json!(text)).unwrap();
        for (freeze, now, expected) in [
            (
                json!({"from": "2026-12-20T00:00:00Z", "until": "2027-01-03T00:00:00Z"}),
                "2026-12-24T12:00:00Z",
                true,
            ),
            (
                json!({"from": "2026-12-20T00:00:00Z", "until": "2027-01-03T00:00:00Z"}),
                "2027-01-03T00:00:00Z",
                false,
            ),
            (
                json!({"weekdays": ["fri", "sat", "sun"]}),
                "2026-11-21T10:00:00Z",
                true,
            ),
            (
                json!({"weekdays": ["fri", "sat", "sun"]}),
                "2026-11-23T10:00:00Z",
                false,
            ),
            (
                json!({"hours": {"from": "18:00", "until": "08:00"}}),
                "2026-11-23T07:59:59Z",
                true,
            ),
            (
                json!({"hours": {"from": "18:00", "until": "08:00"}}),
                "2026-11-23T08:00:00Z",
                false,
            ),
            (
                json!({"hours": {"from": "12:00", "until": "13:30"}}),
                "2026-11-23T13:29:00Z",
                true,
            ),
            (
                json!({"hours": {"from": "12:00", "until": "13:30"}, "weekdays": ["tue"]}),
                "2026-11-23T13:00:00Z",
                false,
            ),
            (json!({}), "2026-11-23T13:00:00Z", true),
        ] {
            let mut document = freeze.clone();
            document["id"] = json!("f");
            let parsed: Freeze = serde_json::from_value(document).unwrap();
            assert_eq!(parsed.is_in_force(at(now)), expected, "{freeze} at {now}");
            assert!(!parsed.satisfied_by().is_empty());
        }
    }

    #[test]
    fn protections_are_checked_when_they_are_set() {
        let check = |one: Value, expected: &str| {
            let document = json!({"protections": [one.clone()]});
            let answer = serde_json::from_value::<Protections>(document)
                .map_err(|error| Error::invalid("body", error.to_string()))
                .and_then(|parsed| parsed.check());
            match answer {
                Ok(()) => assert_eq!(expected, "", "{one}"),
                Err(error) => assert!(
                    !expected.is_empty() && error.message.contains(expected),
                    "{one}: {}",
                    error.message
                ),
            }
        };
        check(json!({"id": "p", "aliases": ["champion"]}), "");
        check(json!({"id": "p"}), "guards nothing");
        check(json!({"id": "p q", "aliases": ["x"]}), "is no id");
        check(json!({"id": "p", "aliases": [" "]}), "pattern");
        check(
            json!({"id": "p", "aliases": ["x"], "unknown": 1}),
            "unknown field",
        );
        check(
            json!({"id": "p", "aliases": ["x"], "conditions": [{"id": "c", "when": "true", "satisfied_by": " "}]}),
            "what would satisfy",
        );
        check(
            json!({"id": "p", "aliases": ["x"], "conditions": [
                {"id": "c", "when": "true", "satisfied_by": "x"}, {"id": "c", "when": "true", "satisfied_by": "x"}]}),
            "twice",
        );
        check(
            json!({"id": "p", "aliases": ["x"], "freezes": [{"id": "f", "hours": {"from": "8", "until": "9"}}]}),
            "08:30",
        );
        check(
            json!({"id": "p", "aliases": ["x"], "freezes": [
                {"id": "f", "from": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}]}),
            "ends before",
        );
        check(
            json!({"id": "p", "aliases": ["x"], "approval": {"needed": 0}}),
            "1 to 20",
        );
        check(
            json!({"id": "p", "aliases": ["x"], "checks": [{"name": "c", "timeout_minutes": 0}]}),
            "10080",
        );
        check(
            json!({"id": "p", "aliases": ["x"], "metrics": {"a": {"digits": 16}}}),
            "digits",
        );
        let nested = |depth| {
            let when = format!("{}true{}", "(".repeat(depth), ")".repeat(depth));
            json!({"id": "p", "aliases": ["x"], "conditions": [{"id": "c", "when": when, "satisfied_by": "x"}]})
        };
        check(nested(MAX_EXPRESSION_DEPTH), "");
        check(nested(MAX_EXPRESSION_DEPTH + 1), "17 deep");
        check(nested(2_000), "2000 deep");
    }

    #[test]
    fn brackets_in_texts_and_comments_nest_nothing() {
        assert_eq!(nesting(r#"context.tags.contains("((\"((") // ((("#), 1);
        assert_eq!(nesting("[1, [2]] == ({})\n// )\n && (((true)))"), 3);
        assert_eq!(nesting(")))((\"\\"), 2);
    }
}
