//! What a registry is, in the simplest words: a registered model with versions and aliases, one change after another.

use crate::clients::{Expected, Wish};
use serde_json::Value;
use std::collections::BTreeMap;

/// A registered model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    exists: bool,
    is_deleted: bool,
    versions: BTreeMap<u32, Version>,
    aliases: BTreeMap<String, Alias>,
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
    is_finalized: bool,
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

    /// Whether it exists and is not deleted.
    pub fn is_alive(&self) -> bool {
        self.exists && !self.is_deleted
    }

    /// How many aliases hold a version.
    pub fn holders(&self, number: u32) -> usize {
        self.aliases
            .values()
            .filter(|alias| alias.version == Some(number))
            .count()
    }

    /// Applies a change that a wish asked for, if the model and the wish allow it.
    pub fn apply(&mut self, change: &Change<'_>, wish: &Wish) -> Result<(), String> {
        let number = change.version;
        match (change.kind, wish) {
            ("model.created", Wish::CreateModel) => {
                allow(!self.exists, "the model exists")?;
                self.exists = true;
            }
            ("model.deleted", Wish::DeleteModel) => {
                allow(self.is_alive(), "there is no model to delete")?;
                let holding = self.aliases.values().any(|alias| alias.version.is_some());
                allow(!holding, "an alias of the deleted model holds a version")?;
                self.is_deleted = true;
            }
            ("model.restored", Wish::RestoreModel) => {
                allow(self.is_deleted, "the restored model is not deleted")?;
                self.is_deleted = false;
            }
            ("version.registered", Wish::Register) => {
                allow(self.is_alive(), "there is no model to register with")?;
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
                        is_finalized: false,
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
                judged.status = if *ready {
                    "READY"
                } else {
                    "FAILED_REGISTRATION"
                };
            }
            ("version.updated", Wish::Annotate { version }) => {
                let annotated = self.version(number, *version)?;
                allow(!annotated.is_deleted, "the annotated version is deleted")?;
            }
            (
                "version.stage_changed",
                Wish::ChangeStage {
                    version,
                    stage,
                    expected,
                },
            ) => {
                let moved = self.version(number, *version)?;
                allow(
                    moved.status == "READY" && !moved.is_deleted,
                    "the version that changed its stage is not ready or deleted",
                )?;
                allow(
                    change.data["from"] == *moved.stage && change.data["to"] == **stage,
                    "the event names another stage than there was",
                )?;
                allow(
                    expected.is_none_or(|expected| expected == moved.stage),
                    "the stage was not the expected one",
                )?;
                (*stage).clone_into(&mut moved.stage);
            }
            ("version.deleted", Wish::DeleteVersion { version }) => {
                let holders = self.holders(*version);
                let deleted = self.version(number, *version)?;
                allow(!deleted.is_deleted, "the version was deleted before")?;
                allow(holders == 0, "an alias holds the deleted version")?;
                deleted.is_deleted = true;
            }
            ("version.restored", Wish::RestoreVersion { version }) => {
                let restored = self.version(number, *version)?;
                allow(restored.is_deleted, "the restored version is not deleted")?;
                restored.is_deleted = false;
            }
            ("alias.set" | "alias.removed" | "alias.rolled_back", _) => {
                return self.move_alias(change, wish);
            }
            (kind, wish) => return Err(format!("`{kind}` was caused by {wish:?}")),
        }
        Ok(())
    }

    fn move_alias(&mut self, change: &Change<'_>, wish: &Wish) -> Result<(), String> {
        let name = change.alias.ok_or("the event names no alias")?;
        let to = change.data["to"]
            .as_u64()
            .and_then(|number| u32::try_from(number).ok());
        if let Some(to) = to {
            allow(self.is_alive(), "the model of the alias is deleted")?;
            let version = self
                .versions
                .get(&to)
                .ok_or("the alias got a version that is not there")?;
            allow(
                version.status == "READY" && !version.is_deleted,
                "the alias got a version that is not ready or deleted",
            )?;
        }
        let alias = self.aliases.entry(name.to_owned()).or_default();
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
                match asked {
                    Some(asked) => {
                        allow(to == Some(*asked), "it was rolled back to another version")?;
                    }
                    None => allow(
                        to.is_some_and(|to| {
                            to != from.unwrap_or_default() && alias.held.contains(&to)
                        }),
                        "it was rolled back to a version that it never held",
                    )?,
                }
            }
            wish => return Err(format!("an alias was changed by {wish:?}")),
        }
        alias.version = to;
        alias.sequence += 1;
        alias.held.extend(to);
        Ok(())
    }

    fn version(&mut self, said: Option<u32>, asked: u32) -> Result<&mut Version, String> {
        allow(said == Some(asked), "the event is about another version")?;
        self.versions
            .get_mut(&asked)
            .ok_or_else(|| "the version is not there".to_owned())
    }
}

fn allow(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(otherwise.to_owned())
    }
}
