//! Approval rules: who must approve, and what follows.

use crate::domain::Principal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

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
