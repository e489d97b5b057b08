//! Documents of a version: metadata, artifacts, notes. Each lies where its size is cheapest.
//!
//! Up to the room that is left in the version's item it rides there for free; up to 32 KiB it has an item of its own;
//! beyond that it is an immutable object, named by its own digest, that is written before the item that names it.

use crate::app::App;
use crate::domain::model::Notes;
use crate::domain::version::Document;
use crate::domain::{Digest, TenantName, Version, VersionId};
use crate::error::{Error, Result};
use crate::s3::keys;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;

/// What one version's documents may take of its item, in bytes: the item stays under 1 KiB.
pub const INLINE_BYTES: usize = 300;
/// Largest document that gets an item of its own, in bytes.
pub const ITEM_BYTES: usize = 32 * 1024;

/// A document that found its place.
#[derive(Debug, Clone, Default)]
pub struct Placed {
    /// Where it lies.
    pub document: Document,
    /// Its JSON, if it is to be written as an item of its own.
    pub apart: Option<String>,
}

impl App {
    /// Finds the place of a document, using up `room` if it rides in the version's item.
    ///
    /// `owner` is the folder of an object: [`keys::documents_of`] a version, or one of its own before there is a number.
    /// No two versions ever share an object, so that it may go with its version.
    pub async fn place_document(
        &self,
        tenant: &TenantName,
        owner: &str,
        value: &impl Serialize,
        room: &mut usize,
    ) -> Result<Placed> {
        let json =
            serde_json::to_string(value).map_err(|error| Error::internal("writing JSON", error))?;
        if json.len() <= *room {
            *room -= json.len();
            return Ok(Placed {
                document: Document::Inline(json),
                apart: None,
            });
        }
        if json.len() <= ITEM_BYTES {
            return Ok(Placed {
                document: Document::Item,
                apart: Some(json),
            });
        }
        let key = keys::document(tenant, owner, &Digest::of(json.as_bytes()));
        self.bucket
            .put_immutable(&key, json.into_bytes().into(), "application/json")
            .await?;
        Ok(Placed {
            document: Document::Object(key),
            apart: None,
        })
    }

    /// The notes of several versions, in their order; those that lie apart come in one call for every hundred.
    pub async fn notes_of(&self, versions: &[Version]) -> Result<Vec<Notes>> {
        let apart: Vec<&VersionId> = versions
            .iter()
            .filter(|version| version.notes == Document::Item)
            .map(|version| &version.id)
            .collect();
        let mut found = if apart.is_empty() {
            HashMap::new()
        } else {
            self.registry.documents(&apart, "notes").await?
        };
        let mut notes = Vec::with_capacity(versions.len());
        for version in versions {
            let document = match found.remove(&version.id) {
                Some(json) => Document::Inline(json),
                None => version.notes.clone(),
            };
            notes.push(
                self.load_document(&version.id, "notes", &document)
                    .await?
                    .unwrap_or_default(),
            );
        }
        Ok(notes)
    }

    /// Reads a document of a version from wherever it lies; `None` if the version has none.
    pub async fn load_document<T: DeserializeOwned>(
        &self,
        id: &VersionId,
        name: &str,
        document: &Document,
    ) -> Result<Option<T>> {
        let found = self.find_document(id, name, document).await?;
        if found.is_none() && *document != Document::Absent {
            return Err(Error::internal(
                "reading a document",
                format!("document `{name}` of {id} is missing"),
            ));
        }
        Ok(found)
    }

    /// Reads a document that may have been removed, because its version was purged.
    pub async fn find_document<T: DeserializeOwned>(
        &self,
        id: &VersionId,
        name: &str,
        document: &Document,
    ) -> Result<Option<T>> {
        let json = match document {
            Document::Absent => return Ok(None),
            Document::Inline(json) => json.clone(),
            Document::Item => match self.registry.document(id, name).await? {
                Some(json) => json,
                None => return Ok(None),
            },
            Document::Object(key) => match self.bucket.read_whole(key, None).await? {
                Some(bytes) => String::from_utf8(bytes.to_vec())
                    .map_err(|error| Error::internal("reading a document", error))?,
                None => return Ok(None),
            },
        };
        serde_json::from_str(&json)
            .map(Some)
            .map_err(|error| Error::internal(format!("reading document `{name}` of {id}"), error))
    }
}
