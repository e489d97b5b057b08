//! Packages, and which version holds a set of files.
//!
//! A set of files lies in the bucket once for each tenant, under the prefix of the version that was packaged with it
//! first: its holder. Versions that are packaged later with the same set are counted at the holder's item, and the
//! files go when the last of them is purged.

use super::identity::{is_marked, named_as_read, still_named, unmarked};
use super::{Registry, json_of, put_event};
use crate::domain::version::{Document, FilesOf, Package};
use crate::domain::{
    Digest, Event, Model, Status, TenantName, Timestamp, Version, VersionId, VersionNumber,
};
use crate::dynamodb::items::{Builder, Reader, as_number, version_from_item};
use crate::dynamodb::keys;
use crate::dynamodb::table::{Expression, Write, text};
use crate::error::{Error, Result};

/// Who holds a set of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The version under whose prefix the files lie.
    pub files: FilesOf,
    /// How many versions have this set.
    pub count: u64,
}

/// A decided packaging.
#[derive(Debug, Clone)]
pub struct Packing {
    /// The package.
    pub package: Package,
    /// Which files the version has.
    pub files: Digest,
    /// Whether the version becomes their holder, because nobody is.
    pub becomes_holder: bool,
    /// Where the list of artifacts lies, with their places for good.
    pub artifacts: Document,
    /// JSON of the list, if it gets an item of its own.
    pub apart: Option<String>,
}

/// What became of a packaging or a purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// It was committed.
    Committed,
    /// The version is not what it was, or is gone.
    VersionChanged(Option<Box<Version>>),
    /// The set of files is held by another by now, or by nobody any more; look again.
    HolderChanged,
}

/// Why a version is purged: what was deleted, and how long ago.
#[derive(Debug, Clone, Copy)]
pub enum Deleted<'a> {
    /// The version itself, at this time or before.
    Version(Timestamp),
    /// Its model, which is still deleted as it was read.
    Model(&'a Model),
}

impl Deleted<'_> {
    /// The update of a version that is purged at a time.
    fn update(self, at: Timestamp) -> Expression {
        let also = match self {
            Self::Version(_) => "",
            // What is purged counts as deleted, whatever becomes of its model.
            Self::Model(_) => ", #deleted = if_not_exists(#deleted, :purged)",
        };
        Expression::new(format!("SET #purged = :purged, #updated = :purged{also}"))
            .value("purged", as_number(at.millis()))
    }

    /// The condition on the version.
    fn condition(self, rest: &str) -> Expression {
        match self {
            // What is not deleted has no time to compare.
            Self::Version(before) => Expression::new(format!("#deleted <= :before AND {rest}"))
                .value("before", as_number(before.millis())),
            Self::Model(_) => Expression::new(rest),
        }
    }

    /// The check that the model is still deleted, and still has the name by which it was read.
    fn check(self) -> Option<Write> {
        let Self::Model(model) = self else {
            return None;
        };
        let deleted = model.deleted_at.unwrap_or_default();
        let condition = named_as_read(&model.name)
            .and("#deleted = :deleted")
            .value("deleted", as_number(deleted.millis()));
        Some(Write::Check {
            key: keys::model(&model.tenant, &model.name),
            condition,
        })
    }
}

impl Registry {
    /// Who holds a set of files, if somebody does; consistent.
    pub async fn find_holder(&self, tenant: &TenantName, files: &Digest) -> Result<Option<Holder>> {
        let Some(item) = self
            .table
            .get(&keys::files_holder(tenant, files), true)
            .await?
        else {
            return Ok(None);
        };
        let reader = Reader(&item);
        Ok(Some(Holder {
            files: FilesOf {
                home: reader.text("home")?.to_owned(),
                version: VersionNumber::new(reader.number("version")?)
                    .map_err(|error| Error::internal("reading who holds a set of files", error))?,
            },
            count: reader.number("count")?,
        }))
    }

    /// Counts a ready version at the holder of its files, so that these stay until the version is purged.
    ///
    /// It comes before anything that names the files: from then on the holder cannot go.
    pub async fn claim_files(
        &self,
        id: &VersionId,
        files: &Digest,
        holder: &FilesOf,
    ) -> Result<Held> {
        let writes = [
            Write::Update {
                key: keys::version(id),
                update: Expression::new("SET #held = :held")
                    .value("held", text(json_of(holder)?)),
                condition: Expression::new(format!(
                    "#status = :ready AND attribute_not_exists(#pkg) AND attribute_not_exists(#held) AND attribute_not_exists(#purged){}",
                    unmarked(&id.model)
                ))
                .value("ready", text(Status::Ready.as_str())),
            },
            Write::Update {
                key: keys::files_holder(&id.tenant, files),
                update: Expression::new("SET #count = #count + :one").value("one", as_number(1)),
                condition: holds(holder),
            },
        ];
        self.commit_held(id, &writes).await
    }

    /// Marks a ready version with its package, and moves its artifacts to their place for good.
    pub async fn pack_version(
        &self,
        id: &VersionId,
        packing: &Packing,
        event: &Event,
    ) -> Result<Held> {
        let (place, other, at) = match &packing.artifacts {
            Document::Inline(json) => ("#arts", "#arts_at", json.clone()),
            Document::Absent | Document::Item => ("#arts_at", "#arts", "item".to_owned()),
            Document::Object(key) => ("#arts_at", "#arts", key.clone()),
        };
        let update = Expression::new(format!(
            "SET #updated = :updated, #pkg = :pkg, {place} = :arts REMOVE {other}"
        ))
        .value("updated", as_number(event.time.millis()))
        .value("pkg", text(json_of(&packing.package)?))
        .value("arts", text(at));
        let condition = Expression::new(format!(
            "#status = :ready AND attribute_not_exists(#pkg) AND attribute_not_exists(#purged){}",
            unmarked(&id.model)
        ))
        .value("ready", text(Status::Ready.as_str()));
        let mut writes = vec![
            Write::Update {
                key: keys::version(id),
                update,
                condition,
            },
            put_event(event)?,
        ];
        if packing.becomes_holder {
            writes.push(Write::Put {
                item: Builder::at(&keys::files_holder(&id.tenant, &packing.files))
                    .text("home", id.model.home())
                    .number("version", id.number.get())
                    .number("count", 1)
                    .build(),
                condition: Some(Expression::new("attribute_not_exists(#pk)")),
            });
        }
        if let Some(json) = &packing.apart {
            writes.push(super::versions::put_document(id, "artifacts", json));
        }
        self.commit_held(id, &writes).await
    }

    /// Marks a version that was deleted, or whose model was, as purged, and takes it off its holder's count.
    ///
    /// The version is as it was read, with its claim on the files of another one, or without.
    /// From then on it can never be restored, and what no other version has may be removed.
    pub async fn purge_version(
        &self,
        version: &Version,
        deleted: Deleted<'_>,
        held: Option<(&Digest, &Holder)>,
        event: &Event,
    ) -> Result<Held> {
        let id = &version.id;
        // A package and a claim on files are never taken back, but may come while a purge is decided.
        let mut rest = String::from("attribute_not_exists(#purged)");
        if version.package.is_none() {
            rest.push_str(" AND attribute_not_exists(#pkg)");
        }
        if version.files_of.is_none() {
            rest.push_str(" AND attribute_not_exists(#held)");
        }
        let mut writes = vec![Write::Update {
            key: keys::version(id),
            update: deleted.update(event.time),
            condition: deleted.condition(&format!("{rest}{}", unmarked(&id.model))),
        }];
        if let Some((files, holder)) = held {
            let key = keys::files_holder(&id.tenant, files);
            writes.push(if holder.count <= 1 {
                Write::Delete {
                    key,
                    condition: Some(
                        holds(&holder.files)
                            .and("#count = :one")
                            .value("one", as_number(1)),
                    ),
                }
            } else {
                Write::Update {
                    key,
                    update: Expression::new("SET #count = #count - :one")
                        .value("one", as_number(1)),
                    condition: holds(&holder.files)
                        .and("#count > :one")
                        .value("one", as_number(1)),
                }
            });
        }
        writes.push(put_event(event)?);
        match deleted.check() {
            Some(check) => {
                writes.push(check);
                self.commit_as_read(id, &writes).await
            }
            None => self.commit_held(id, &writes).await,
        }
    }

    /// Removes a version's document that has an item of its own.
    pub async fn remove_document(&self, id: &VersionId, document: &str) -> Result<()> {
        let write = Write::Delete {
            key: keys::version_document(id, document),
            condition: None,
        };
        self.table.write(write).await.map(drop)
    }

    async fn commit_held(&self, id: &VersionId, writes: &[Write]) -> Result<Held> {
        let mut writes = writes.to_vec();
        writes.extend(still_named(&id.tenant, &id.model));
        self.commit_as_read(id, &writes).await
    }

    async fn commit_as_read(&self, id: &VersionId, writes: &[Write]) -> Result<Held> {
        self.hints.forget(&keys::version(id));
        let Err(refusals) = self.table.transact(writes).await? else {
            return Ok(Held::Committed);
        };
        let mut refusals = refusals.into_iter();
        match refusals.next() {
            // Its model is being renamed: whoever asks again finds out where it lies.
            Some(version) if version.item.as_ref().is_some_and(is_marked) => {
                Ok(Held::HolderChanged)
            }
            Some(version) if version.refused => {
                let version = version
                    .item
                    .filter(|item| item.contains_key("status"))
                    .map(|item| version_from_item(&id.tenant, &id.model, &item))
                    .transpose()?;
                Ok(Held::VersionChanged(version.map(Box::new)))
            }
            _ => Ok(Held::HolderChanged),
        }
    }
}

/// The condition that a set of files is held by this version.
fn holds(holder: &FilesOf) -> Expression {
    Expression::new("#home = :home AND #version = :version")
        .value("home", text(&holder.home))
        .value("version", as_number(holder.version.get()))
}
