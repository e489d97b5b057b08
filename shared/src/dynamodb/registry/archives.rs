//! Archives of versions: requested, and ready.

use super::work::{WorkItem, WorkKind};
use super::{Registry, json_of, put_event};
use crate::domain::{Event, Principal, Timestamp, VersionId};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{Builder, Reader};
use crate::dynamodb::keys;
use crate::dynamodb::table::{Expression, Write, text};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// How long an archive may take before the sweep looks after it, in milliseconds.
const WORK_DUE_MILLIS: u64 = 20 * 60_000;

/// A format of archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ArchiveFormat {
    /// Put together by S3.
    #[serde(rename = "tar")]
    Tar,
    /// Compressed, of small versions.
    #[serde(rename = "tar.gz")]
    TarGz,
}

impl ArchiveFormat {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Tar, Self::TarGz];

    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::TarGz => "tar.gz",
        }
    }

    fn document(self) -> &'static str {
        match self {
            Self::Tar => "archive.tar",
            Self::TarGz => "archive.tar.gz",
        }
    }
}

/// An archive that was requested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// Its format.
    pub format: ArchiveFormat,
    /// Who requested it.
    pub requested_by: Principal,
    /// When.
    pub requested_at: Timestamp,
    /// Since when it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Timestamp>,
    /// Its size in bytes, once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

impl Registry {
    /// An archive that was requested of a version; consistent.
    pub async fn find_archive(
        &self,
        id: &VersionId,
        format: ArchiveFormat,
    ) -> Result<Option<Archive>> {
        let key = keys::version_document(id, format.document());
        let item = self.table.get(&key, true).await?;
        item.map(|item| Reader(&item).json("json")).transpose()
    }

    /// Every archive that was requested of a version.
    pub async fn archives(&self, id: &VersionId) -> Result<Vec<Archive>> {
        let wanted = ArchiveFormat::ALL.map(|format| keys::version_document(id, format.document()));
        let items = self.table.batch_get(&wanted, false).await?;
        let mut archives = items
            .iter()
            .map(|item| Reader(item).json("json"))
            .collect::<Result<Vec<Archive>>>()?;
        archives.sort_by_key(|archive| archive.format);
        Ok(archives)
    }

    /// Requests an archive, with the work that looks after it; one that was requested meanwhile stays.
    pub async fn request_archive(
        &self,
        id: &VersionId,
        archive: &Archive,
        answer: Option<Answer>,
    ) -> Result<Outcome<()>> {
        let key = keys::version_document(id, archive.format.document());
        let due = archive.requested_at.plus_millis(WORK_DUE_MILLIS);
        let writes = vec![
            Write::Put {
                item: Builder::at(&key).text("json", json_of(archive)?).build(),
                condition: None,
            },
            Write::Put {
                item: WorkItem::about_archive(due, id, archive.format).to_item(),
                condition: None,
            },
        ];
        self.commit(writes, &id.tenant, answer, |_| {
            crate::dynamodb::table::throttled()
        })
        .await
    }

    /// An archive is there; whether it was told now.
    pub async fn finish_archive(
        &self,
        id: &VersionId,
        archive: &Archive,
        size_bytes: u64,
        event: &Event,
    ) -> Result<bool> {
        let ready = Archive {
            ready_at: Some(event.time),
            size_bytes: Some(size_bytes),
            ..archive.clone()
        };
        let key = keys::version_document(id, archive.format.document());
        let writes = [
            Write::Put {
                item: Builder::at(&key).text("json", json_of(&ready)?).build(),
                condition: Some(
                    Expression::new("#json = :known").value("known", text(json_of(archive)?)),
                ),
            },
            put_event(event)?,
        ];
        Ok(self.table.transact(&writes).await?.is_ok())
    }

    /// Forgets the archives of a version that is purged.
    pub async fn forget_archives(&self, id: &VersionId) -> Result<()> {
        for format in ArchiveFormat::ALL {
            self.remove_document(id, format.document()).await?;
        }
        Ok(())
    }
}

impl WorkItem {
    /// Work about an archive of a version.
    pub fn about_archive(due: Timestamp, id: &VersionId, format: ArchiveFormat) -> Self {
        let subject = json!({
            "tenant": id.tenant, "model": id.model.home(), "version": id.number, "format": format,
        });
        Self {
            kind: WorkKind::Archive,
            due,
            subject: subject.to_string(),
        }
    }

    /// The format of the archive that the work is about.
    pub fn archive_format(&self) -> Result<ArchiveFormat> {
        #[derive(Deserialize)]
        struct OfFormat {
            format: ArchiveFormat,
        }
        serde_json::from_str::<OfFormat>(&self.subject)
            .map(|of| of.format)
            .map_err(|error| Error::internal("reading a work item", error))
    }
}
