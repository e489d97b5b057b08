//! The alias: a movable pointer to a version, and the truth of what serves.

use crate::domain::{
    AliasName, Digest, Event, ModelName, Principal, TenantName, Timestamp, VersionNumber,
};
use crate::error::{Error, ErrorCode, Result};
use serde_json::json;

/// An alias of a registered model.
///
/// An alias that was removed keeps its item without a version, so that its history goes on without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The tenant.
    pub tenant: TenantName,
    /// The registered model.
    pub model: ModelName,
    /// Its name.
    pub name: AliasName,
    /// The version that it holds; `None` when it was removed.
    pub version: Option<VersionNumber>,
    /// The version that it held before.
    pub previous: Option<VersionNumber>,
    /// How often it was changed; the sequence of its newest history entry.
    pub sequence: u64,
    /// Digest of the package manifest of the version, if it was packaged when the alias was set.
    pub manifest_digest: Option<Digest>,
    /// Who changed it last.
    pub changed_by: Principal,
    /// When it was changed last.
    pub changed_at: Timestamp,
    /// From when on its version should not be used any more.
    pub deprecated_at: Option<Timestamp>,
    /// From when on its version must not be used any more.
    pub end_of_life_at: Option<Timestamp>,
}

impl Alias {
    /// The alias after it was moved, by the event that tells it.
    #[must_use]
    pub fn moved(&self, to: Option<VersionNumber>, event: &Event) -> Self {
        Self {
            version: to,
            previous: self.version.or(self.previous),
            sequence: self.sequence + 1,
            manifest_digest: None,
            deprecated_at: None,
            end_of_life_at: None,
            changed_by: event.actor.clone(),
            // Clocks of two environments may differ; within one alias, time never runs backwards.
            changed_at: event.time.max(self.changed_at),
            ..self.clone()
        }
    }
}

/// What the caller believes that an alias holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// It holds this version.
    Version(VersionNumber),
    /// It holds nothing, or does not exist.
    Absent,
    /// The caller does not care, and said so.
    Unconditional,
}

impl Expectation {
    /// Refuses if `current` is not what the caller expects; the error carries what is.
    pub fn check(
        self,
        alias: &AliasName,
        model: &ModelName,
        current: Option<&Alias>,
    ) -> Result<()> {
        let held = current.and_then(|alias| alias.version);
        let holds = match self {
            Self::Unconditional => true,
            Self::Absent => held.is_none(),
            Self::Version(version) => held == Some(version),
        };
        if holds {
            Ok(())
        } else {
            Err(lost(alias, model, current))
        }
    }
}

/// The error for a lost race: it names the winner.
pub fn lost(alias: &AliasName, model: &ModelName, current: Option<&Alias>) -> Error {
    let message = match current.and_then(|alias| alias.version) {
        Some(version) => format!(
            "alias `{alias}` of `{model}` holds version {version}; read it again and decide anew"
        ),
        None => {
            format!("alias `{alias}` of `{model}` holds nothing; expect null, or set it first")
        }
    };
    Error::new(ErrorCode::Conflict, message).with(
        "current",
        current.map_or_else(
            || json!({"version": null, "sequence": 0}),
            |alias| {
                json!({
                    "version": alias.version.map(VersionNumber::get),
                    "sequence": alias.sequence,
                    "changed_by": alias.changed_by.as_str(),
                    "changed_at": alias.changed_at.to_string(),
                })
            },
        ),
    )
}

/// The error for an alias that does not exist.
pub fn alias_not_found(alias: &AliasName, model: &ModelName) -> Error {
    Error::new(
        ErrorCode::AliasNotFound,
        format!("alias `{alias}` of `{model}` does not exist; set it first, or check the name"),
    )
    .with("model", model.as_str())
    .with("alias", alias.as_str())
}
