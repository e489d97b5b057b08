//! Work that the sweeps look after: what is due, and what becomes of it.

use super::Registry;
use crate::domain::{ModelName, TenantName, Timestamp, VersionId, VersionNumber};
use crate::dynamodb::items::{Builder, Reader};
use crate::dynamodb::keys;
use crate::dynamodb::keys::Key;
use crate::dynamodb::table::{Item, Query, Write, sort_key};
use crate::error::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};

/// A kind of work that the sweep looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkKind {
    /// A version waits for its uploads or its validation.
    Validate,
    /// A version that was judged waits to be read and judged again.
    Revalidate,
    /// A ready version waits for its package.
    Package,
    /// Something of a version can be freed: its uploads, or after a deletion everything.
    Collect,
    /// The retention rules of a model are to be applied.
    Retain,
    /// An archive waits to be made.
    Archive,
    /// A delivery waits for its next attempt.
    Deliver,
    /// A drop-zone folder waits to become quiet.
    Drop,
    /// A version waits for the day of its deprecation or of its end of life.
    Lifecycle,
    /// A promotion request waits for its checks or its approvals.
    Request,
    /// A day waits to be sealed.
    Seal,
}

impl WorkKind {
    /// The word in the key.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::Revalidate => "revalidate",
            Self::Package => "package",
            Self::Collect => "collect",
            Self::Retain => "retain",
            Self::Archive => "archive",
            Self::Deliver => "deliver",
            Self::Drop => "drop",
            Self::Lifecycle => "lifecycle",
            Self::Request => "request",
            Self::Seal => "seal",
        }
    }
}

/// A piece of work that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkItem {
    /// What kind.
    pub kind: WorkKind,
    /// When it is due.
    pub due: Timestamp,
    /// What it is about, as JSON; also makes its key unique.
    pub subject: String,
}

impl WorkItem {
    pub(super) fn key(&self) -> Key {
        keys::work(self.kind.as_str(), self.due, &self.subject)
    }

    pub(super) fn to_item(&self) -> Item {
        Builder::at(&self.key())
            .text("subject", &self.subject)
            .build()
    }
}

impl Registry {
    /// Work of one kind that is due, earliest first.
    pub async fn due_work(
        &self,
        kind: WorkKind,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<WorkItem>> {
        let query = Query::new(keys::work_partition(kind.as_str()))
            .between("0", format!("{:013}#~", now.millis()))
            .limit(limit);
        let (items, _) = self.table.query(query).await?;
        items
            .iter()
            .map(|item| {
                let due = sort_key(item)
                    .get(..13)
                    .and_then(|digits| digits.parse().ok())
                    .unwrap_or(0);
                Ok(WorkItem {
                    kind,
                    due: Timestamp::from_millis(due),
                    subject: Reader(item).text("subject")?.to_owned(),
                })
            })
            .collect()
    }

    /// Adds work.
    pub async fn add_work(&self, work: &WorkItem) -> Result<()> {
        let write = Write::Put {
            item: work.to_item(),
            condition: None,
        };
        self.table.write(write).await.map(drop)
    }

    /// Work is done.
    pub async fn finish_work(&self, work: &WorkItem) -> Result<()> {
        self.table
            .write(Write::Delete {
                key: work.key(),
                condition: None,
            })
            .await
            .map(drop)
    }

    /// All of this work is done: one call for 25 pieces.
    pub async fn finish_all(&self, done: &[WorkItem]) -> Result<()> {
        match done {
            [] => Ok(()),
            [work] => self.finish_work(work).await,
            _ => {
                let keys: Vec<_> = done.iter().map(WorkItem::key).collect();
                self.table.batch_delete(&keys).await
            }
        }
    }

    /// Work is due again at another time.
    pub async fn postpone_work(&self, work: &WorkItem, due: Timestamp) -> Result<()> {
        let later = WorkItem {
            due,
            ..work.clone()
        };
        let writes = [
            Write::Put {
                item: later.to_item(),
                condition: None,
            },
            Write::Delete {
                key: work.key(),
                condition: None,
            },
        ];
        if later.due == work.due {
            return Ok(());
        }
        self.table.transact(&writes).await.map(drop)
    }
}

/// Shortest wait before the next look, in milliseconds.
const SHORTEST_WAIT_MILLIS: u64 = 5 * 60 * 1000;
/// Longest wait before the next look, in milliseconds.
const LONGEST_WAIT_MILLIS: u64 = 6 * 3_600 * 1000;

/// The subject of work about a version, as it is stored.
#[derive(Serialize, Deserialize)]
struct Subject {
    tenant: TenantName,
    /// The home of the model, so that a renaming does not lose the work.
    model: String,
    version: VersionNumber,
}

impl WorkItem {
    /// Work about a version.
    pub fn about_version(kind: WorkKind, due: Timestamp, id: &VersionId) -> Result<Self> {
        let subject = Subject {
            tenant: id.tenant.clone(),
            model: id.model.home().to_owned(),
            version: id.number,
        };
        Ok(Self {
            kind,
            due,
            subject: serde_json::to_string(&subject)
                .map_err(|error| Error::internal("writing JSON", error))?,
        })
    }

    /// The version that the work is about.
    pub fn version(&self) -> Result<VersionId> {
        let subject: Subject = serde_json::from_str(&self.subject).map_err(|error| {
            Error::new(
                ErrorCode::InvalidArgument,
                "the subject of a work item is no version",
            )
            .caused_by(error)
        })?;
        Ok(VersionId {
            tenant: subject.tenant,
            model: ModelName::of_home(subject.model)?,
            number: subject.version,
        })
    }

    /// When to look again at what has waited since a time: after as long again, from 5 minutes to 6 hours.
    pub fn next_look(since: Timestamp, now: Timestamp) -> Timestamp {
        let wait = now
            .since(since)
            .clamp(SHORTEST_WAIT_MILLIS, LONGEST_WAIT_MILLIS);
        now.plus_millis(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_of_work_is_read_back() {
        let id = VersionId {
            tenant: TenantName::default_tenant(),
            model: ModelName::parse("my \"iris\"").unwrap(),
            number: VersionNumber::FIRST,
        };
        let work = WorkItem::about_version(WorkKind::Validate, Timestamp::default(), &id).unwrap();
        assert_eq!(
            work.subject,
            r#"{"tenant":"default","model":"my \"iris\"","version":1}"#
        );
        assert_eq!(work.version().unwrap(), id);
    }

    #[test]
    fn a_malformed_subject_is_an_error() {
        for subject in [
            "",
            "x",
            "{}",
            r#"{"tenant":"default","model":"a/b","version":1}"#,
            r#"{"tenant":"default","model":"a","version":0}"#,
        ] {
            let work = WorkItem {
                kind: WorkKind::Validate,
                due: Timestamp::default(),
                subject: subject.into(),
            };
            assert!(work.version().is_err(), "{subject}");
        }
    }

    #[test]
    fn waits_double_from_five_minutes_to_six_hours() {
        let minutes = |count: u64| count * 60 * 1000;
        for (age, wait) in [
            (0, 5),
            (4, 5),
            (5, 5),
            (10, 10),
            (20, 20),
            (360, 360),
            (9_999, 360),
        ] {
            let since = Timestamp::from_millis(1_000);
            let now = since.plus_millis(minutes(age));
            assert_eq!(
                WorkItem::next_look(since, now),
                now.plus_millis(minutes(wait)),
                "after {age} minutes"
            );
        }
        let future = Timestamp::from_millis(minutes(10));
        assert_eq!(
            WorkItem::next_look(future, Timestamp::default()),
            Timestamp::from_millis(minutes(5))
        );
    }
}
