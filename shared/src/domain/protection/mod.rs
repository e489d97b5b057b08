//! Protections: which aliases and stages are guarded, by which conditions, approvals, checks and freezes.
//!
//! The expressions of conditions are Cedar; this module holds their form and everything that is decided without them.

mod approval;
mod check;
mod pattern;

pub use approval::ApprovalRule;
pub use check::{MAX_EXPRESSION_BYTES, MAX_EXPRESSION_DEPTH, MAX_PARTS};

use crate::domain::freeze::Freeze;
use pattern::fits;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

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
