//! Settings: what a registry or a model is governed by. Stages, protections and waivers are documents with revisions.
//!
//! Each document is immutable and named by its revision; a small *head* says which revisions are in force.
//! A promotion that is governed holds the head against the truth in its transaction, at the price of one small item.

use crate::domain::ModelName;
use serde::{Deserialize, Serialize};

/// How long what was seen of a head is believed where nothing is governed, in milliseconds.
///
/// Who sets the first protections or stages is answered after this long, when they are in force everywhere.
pub const HEAD_BELIEVED_MILLIS: u64 = 1_000;
/// Largest document, in bytes of JSON.
pub const MAX_SETTINGS_BYTES: usize = 64 * 1024;

/// What the settings are those of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Realm {
    /// All models of the tenant.
    Registry,
    /// One model.
    Model(ModelName),
}

impl Realm {
    /// The model, if it is one's.
    pub fn model(&self) -> Option<&ModelName> {
        match self {
            Self::Registry => None,
            Self::Model(model) => Some(model),
        }
    }
}

/// Which document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SettingsKind {
    /// Names, order and transitions of stages.
    Stages,
    /// What protects aliases and stages.
    Protections,
    /// What was allowed in spite of a protection.
    Waivers,
}

impl SettingsKind {
    /// The word in keys and in the head.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stages => "stages",
            Self::Protections => "protections",
            Self::Waivers => "waivers",
        }
    }
}

/// Which revisions are in force; 0 where there never was a document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsHead {
    /// Revision of the stages.
    pub stages: u64,
    /// Revision of the protections.
    pub protections: u64,
    /// Revision of the waivers.
    pub waivers: u64,
}

impl SettingsHead {
    /// The revision of one document.
    pub fn revision(self, kind: SettingsKind) -> u64 {
        match kind {
            SettingsKind::Stages => self.stages,
            SettingsKind::Protections => self.protections,
            SettingsKind::Waivers => self.waivers,
        }
    }

    /// Whether nothing was ever set.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}
