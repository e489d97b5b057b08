//! The registered model: a named line of versions.

use crate::domain::{
    AliasName, ModelName, Principal, StageName, TenantName, Timestamp, VersionNumber,
};
use crate::error::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Largest description and tags together, in bytes of JSON: they are one item of at most 400 KB.
pub const MAX_NOTES_BYTES: usize = 350 * 1024;
/// Largest tags together, in bytes, of those that can be searched by value: an event tells old and new ones in one item.
pub const MAX_SEARCHABLE_BYTES: usize = 64 * 1024;
/// Most tags that a model or a version may be given by the native API.
pub const MAX_TAGS: usize = 100;
/// Most tags that a model or a version may carry.
pub const MOST_TAGS: usize = 1_000;
/// Longest key of a tag, in characters.
pub const MAX_TAG_KEY: usize = 250;
/// Longest value of a tag, in characters.
pub const MAX_TAG_VALUE: usize = 5_000;
/// Longest reason for a change, in characters.
pub const MAX_REASON: usize = 300;
/// Longest description, in characters.
pub const MAX_DESCRIPTION: usize = 10_000;

/// What people write about a model or a version, and may change later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// Free text, Markdown if you like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Free key/value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

impl Notes {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.description.is_none() && self.tags.is_empty()
    }

    /// Checks lengths and characters as the native API has them.
    pub fn check(&self) -> Result<()> {
        check_text("description", self.description.as_deref(), MAX_DESCRIPTION)?;
        self.check_count(MAX_TAGS)?;
        self.tags
            .iter()
            .try_for_each(|(key, value)| check_tag(key, value))?;
        self.check_size()
    }

    /// Checks what a change by the native API leads to; what is there already may be over its limits.
    pub fn check_changed(&self, before: &Self, change: &NotesChange) -> Result<()> {
        change.check()?;
        if self.tags.len() > before.tags.len() {
            self.check_count(MAX_TAGS)?;
        }
        self.check_size()
    }

    fn check_count(&self, most: usize) -> Result<()> {
        if self.tags.len() > most {
            return Err(Error::invalid(
                "tags",
                format!("there are {} tags; use at most {most}", self.tags.len()),
            ));
        }
        Ok(())
    }

    /// Checks what is stored, whichever API it came by.
    pub fn check_size(&self) -> Result<()> {
        self.check_count(MOST_TAGS)?;
        let searchable: usize = self
            .tags
            .iter()
            .filter(|(_, value)| is_searchable(value))
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if searchable > MAX_SEARCHABLE_BYTES {
            return Err(Error::invalid(
                "tags",
                format!(
                    "the tags together have {searchable} bytes; {MAX_SEARCHABLE_BYTES} is the most, so shorten them"
                ),
            ));
        }
        let size = serde_json::to_vec(self).map_or(usize::MAX, |json| json.len());
        if size > MAX_NOTES_BYTES {
            return Err(Error::invalid(
                "tags",
                format!(
                    "description and tags together have {size} bytes; {MAX_NOTES_BYTES} is the most, so shorten them"
                ),
            ));
        }
        Ok(())
    }

    /// Applies a change; `None` for a tag's value removes the tag.
    #[must_use]
    pub fn changed(&self, change: &NotesChange) -> Self {
        let mut notes = self.clone();
        if let Some(description) = &change.description {
            notes.description = Some(description.clone()).filter(|text| !text.is_empty());
        }
        for (key, value) in &change.tags {
            match value {
                Some(value) => notes.tags.insert(key.clone(), value.clone()),
                None => notes.tags.remove(key),
            };
        }
        notes
    }
}

/// A change of [`Notes`]: what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotesChange {
    /// The new description; empty removes it.
    #[serde(default)]
    pub description: Option<String>,
    /// Tags to set, or with `null` to remove.
    #[serde(default)]
    pub tags: BTreeMap<String, Option<String>>,
}

/// Whether a tag's value is short enough to be told in events and found by the native search.
pub fn is_searchable(value: &str) -> bool {
    value.chars().count() <= MAX_TAG_VALUE
}

impl NotesChange {
    /// Checks lengths and characters of what changes, as the native API has them.
    pub fn check(&self) -> Result<()> {
        check_text("description", self.description.as_deref(), MAX_DESCRIPTION)?;
        self.tags
            .iter()
            .filter_map(|(key, value)| Some((key, value.as_ref()?)))
            .try_for_each(|(key, value)| check_tag(key, value))
    }
}

/// Checks one tag.
pub fn check_tag(key: &str, value: &str) -> Result<()> {
    let bad_character = key.chars().find(|character| character.is_control());
    if key.is_empty() || key.chars().count() > MAX_TAG_KEY || bad_character.is_some() {
        return Err(Error::invalid(
            "tags",
            format!(
                "a tag's key has 1 to {MAX_TAG_KEY} characters and no control characters; `{}` does not",
                key.chars()
                    .take(40)
                    .flat_map(char::escape_debug)
                    .collect::<String>()
            ),
        ));
    }
    if value.chars().count() > MAX_TAG_VALUE {
        return Err(Error::invalid(
            "tags",
            format!(
                "the value of tag `{key}` is longer than {MAX_TAG_VALUE} characters; shorten it"
            ),
        ));
    }
    Ok(())
}

/// Checks an optional text's length.
pub fn check_text(field: &str, text: Option<&str>, limit: usize) -> Result<()> {
    match text.map(|text| text.chars().count()) {
        Some(length) if length > limit => Err(Error::invalid(
            field,
            format!("`{field}` has {length} characters; use at most {limit}"),
        )),
        _ => Ok(()),
    }
}

/// What a model's head knows of its aliases and stages, so that no question has to look at every version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pointers {
    /// The aliases that hold a version.
    pub aliases: BTreeSet<AliasName>,
    /// Where the versions of each stage lie.
    pub stages: BTreeMap<StageName, Span>,
    /// Whether what is not named is not there; heads that were written before there were pointers name nothing.
    pub is_complete: bool,
}

/// Where the live versions of a stage lie: none has a number above `top`, or one that is not above `floor`.
///
/// The version `top` itself may have been deleted since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// No version of the stage has a number above it.
    pub top: u32,
    /// Every version of the stage has a number above it.
    pub floor: u32,
}

impl Span {
    /// Whether it is known that the stage has no version.
    pub const fn is_empty(self) -> bool {
        self.top <= self.floor
    }

    /// The span with one version more.
    #[must_use]
    pub fn with(self, number: VersionNumber) -> Self {
        if self.is_empty() {
            return Self {
                top: number.get(),
                floor: number.get() - 1,
            };
        }
        Self {
            top: self.top.max(number.get()),
            floor: self.floor.min(number.get() - 1),
        }
    }
}

/// A registered model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The tenant that it belongs to.
    pub tenant: TenantName,
    /// Its name, unique in the tenant.
    pub name: ModelName,
    /// Who answers for it.
    pub owner: Principal,
    /// Description and tags.
    pub notes: Notes,
    /// The number that the next version gets.
    pub next_version: VersionNumber,
    /// How many of its aliases hold a version; while one does, the model cannot be deleted.
    pub held_aliases: u64,
    /// How many promotion requests of it are open; while one is, the model cannot be deleted.
    pub open_requests: u64,
    /// How many places serve versions of it; while one does, the model cannot be deleted.
    pub rollouts: u64,
    /// Optimistic-lock counter of the notes.
    pub revision: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its notes, or its set of versions, changed last.
    pub updated_at: Timestamp,
    /// When it was deleted, if it is.
    pub deleted_at: Option<Timestamp>,
    /// Its aliases and stages in short.
    pub pointers: Pointers,
}

impl Model {
    /// Where the versions of a stage lie.
    pub fn span(&self, stage: &StageName) -> Span {
        let unknown = if self.pointers.is_complete {
            Span::default()
        } else {
            Span {
                top: self.version_count(),
                floor: 0,
            }
        };
        self.pointers.stages.get(stage).copied().unwrap_or(unknown)
    }

    /// How many versions were ever registered.
    pub fn version_count(&self) -> u32 {
        self.next_version.get() - 1
    }

    /// Refuses a deleted model.
    pub fn require_live(&self) -> Result<()> {
        match self.deleted_at {
            None => Ok(()),
            Some(at) => Err(deleted_model(&self.name, at)),
        }
    }
}

/// The error for a registered model that does not exist.
pub fn model_not_found(name: &ModelName) -> Error {
    Error::new(
        ErrorCode::ModelNotFound,
        format!("registered model `{name}` does not exist; create it first, or check the name"),
    )
    .with("model", name.as_str())
}

/// The error for a registered model that was deleted.
pub fn deleted_model(name: &ModelName, at: Timestamp) -> Error {
    Error::new(
        ErrorCode::Deleted,
        format!("registered model `{name}` was deleted at {at}; restore it first"),
    )
    .with("model", name.as_str())
}
