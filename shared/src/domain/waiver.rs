//! Waivers: conditions that need not hold, for a while.

use crate::domain::{Principal, PromotionTarget, Timestamp, VersionNumber};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most waivers of one model that are in force at once.
pub const MAX_WAIVERS: usize = 100;
/// Longest life of a waiver, in milliseconds: 90 days.
pub const MAX_WAIVER_MILLIS: u64 = 90 * 24 * 3_600_000;

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
