//! What digests stand for: which version has a file, an attestation or a manifest, and where its bytes lie.
//!
//! Whoever pulls by digest says no more than the digest and the model. There is a row for each digest of each packaged
//! version, written before its package is committed, so that a row may be there before there is anything to give out;
//! the version decides. All of it goes when the version is purged.

use super::identity::is_marked;
use super::{Page, Registry};
use crate::domain::version::version_not_found;
use crate::domain::{Digest, ModelName, TenantName, Version, VersionId, VersionNumber};
use crate::dynamodb::items::{Builder, Reader, version_from_item};
use crate::dynamodb::keys;
use crate::dynamodb::table::{Item, Query, Write};
use crate::error::{Error, Result};
use crate::oci::OciDocument;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes in the bucket that never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// The object's key.
    pub key: String,
    /// Its version id; absent of what the registry itself writes, which is never overwritten.
    pub object_version: Option<String>,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// A version that has something by a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The version.
    pub number: VersionNumber,
    /// The bytes; none if it is a manifest, which is in the version's [`OciDocument`].
    pub blob: Option<Blob>,
}

/// What a version has, by digest; `None` stands for a manifest.
pub type Contents = BTreeMap<Digest, Option<Blob>>;

impl Registry {
    /// Writes what a version is to OCI clients, and a row for each digest that it has; repeating it changes nothing.
    pub async fn index_contents(
        &self,
        id: &VersionId,
        contents: &Contents,
        zipped: Vec<u8>,
    ) -> Result<()> {
        let document = Builder::at(&keys::oci_document(id))
            .bytes("zip", zipped)
            .build();
        // The document comes first, since it tells which rows there are.
        let items = std::iter::once(document)
            .chain(contents.iter().map(|(digest, blob)| {
                let builder = Builder::at(&keys::content(id, digest));
                match blob {
                    None => builder.build(),
                    Some(blob) => builder
                        .text("key", blob.key.as_str())
                        .maybe_text("object", blob.object_version.as_deref())
                        .number("size", blob.size_bytes)
                        .build(),
                }
            }))
            .collect();
        self.table.batch_put(items).await
    }

    /// Removes what a version is to OCI clients, with the rows of its digests; `files` are the digests of its files.
    pub async fn forget_contents(&self, id: &VersionId, files: BTreeSet<Digest>) -> Result<()> {
        let key = keys::oci_document(id);
        let Some(item) = self.table.get(&key, true).await? else {
            return Ok(());
        };
        let document = document_of(&item)?;
        let mut digests = files;
        digests.extend(document.manifests().map(|manifest| manifest.digest.clone()));
        digests.extend(document.blobs);
        let rows: Vec<_> = digests
            .iter()
            .map(|digest| keys::content(id, digest))
            .collect();
        self.table.batch_delete(&rows).await?;
        let condition = None;
        self.table
            .write(Write::Delete { key, condition })
            .await
            .map(drop)
    }

    /// The versions of a model that have something by a digest, newest first: one read.
    ///
    /// The model is looked for under the home that is known, or under its name.
    pub async fn holdings(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        digest: &Digest,
        limit: usize,
        after: Option<String>,
        consistent: bool,
    ) -> Result<Page<Holding>> {
        let mut query = Query::new(keys::content_partition(tenant, digest))
            .prefix(keys::content_prefix(model))
            .backward()
            .limit(limit)
            .after(after);
        query.consistent = consistent;
        let (items, after) = self.table.query(query).await?;
        Ok(Page {
            items: items.iter().map(holding_of).collect::<Result<_>>()?,
            after,
        })
    }

    /// A version and what it is to OCI clients, if it was packaged for them: one `BatchGetItem`.
    pub async fn oci_version(
        &self,
        id: &VersionId,
        consistent: bool,
    ) -> Result<(Version, Option<OciDocument>)> {
        let mut id = id.clone();
        let (mut version, mut document) = self.version_and_document(&id, consistent).await?;
        if !id.model.is_known() && version.as_ref().is_none_or(is_marked) {
            let model = self.elsewhere(&id.tenant, &id.model).await?;
            id.model = model.ok_or_else(|| version_not_found(&id))?;
            (version, document) = self.version_and_document(&id, consistent).await?;
        }
        let item = version.ok_or_else(|| version_not_found(&id))?;
        let version = version_from_item(&id.tenant, &id.model, &item)?;
        let document = document.as_ref().map(document_of).transpose()?;
        Ok((version, document))
    }

    async fn version_and_document(
        &self,
        id: &VersionId,
        consistent: bool,
    ) -> Result<(Option<Item>, Option<Item>)> {
        let wanted = [keys::version(id), keys::oci_document(id)];
        let (mut version, mut document) = (None, None);
        for item in self.table.batch_get(&wanted, consistent).await? {
            if Reader(&item).text("pk")? == wanted[0].pk {
                version = Some(item);
            } else {
                document = Some(item);
            }
        }
        Ok((version, document))
    }
}

fn document_of(item: &Item) -> Result<OciDocument> {
    OciDocument::unzip(Reader(item).maybe_bytes("zip").unwrap_or_default())
}

fn holding_of(item: &Item) -> Result<Holding> {
    let reader = Reader(item);
    let number = reader
        .text("sk")?
        .rsplit_once('/')
        .and_then(|(_, number)| number.parse::<u64>().ok())
        .ok_or_else(|| reader.broken("sk"))?;
    let blob = match reader.maybe_text("key") {
        None => None,
        Some(key) => Some(Blob {
            key: key.to_owned(),
            object_version: reader.maybe_text("object").map(str::to_owned),
            size_bytes: reader.number("size")?,
        }),
    };
    Ok(Holding {
        number: VersionNumber::new(number)
            .map_err(|error| Error::internal("reading who has a digest", error))?,
        blob,
    })
}
