//! The metadata of buckets, versions and uploads, in SQLite.
//!
//! Every change is one transaction that also stores the notification it causes, so that a process killed at any
//! moment leaves either nothing, or the whole object together with its event.
//! Keys are stored as bytes: S3 orders them so.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};
use s3s::dto::{ETagCondition, Timestamp};
use s3s::{S3Error, S3ErrorCode, s3_error};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::Notify;

use super::blobs::{Blobs, Pin, Written, fresh_id};
use super::checksums::Checksum;
use super::notifications::EventName;

/// The version id of objects written while a bucket is not versioned.
pub(super) const NULL_VERSION: &str = "null";

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS buckets (
        name TEXT PRIMARY KEY,
        created_ms INTEGER NOT NULL,
        versioning TEXT
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS objects (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        bucket TEXT NOT NULL,
        key BLOB NOT NULL,
        version_id TEXT NOT NULL,
        latest INTEGER NOT NULL,
        marker INTEGER NOT NULL,
        content TEXT,
        size INTEGER NOT NULL,
        etag TEXT NOT NULL,
        modified_ms INTEGER NOT NULL,
        checksum TEXT NOT NULL,
        headers TEXT NOT NULL,
        tags TEXT NOT NULL,
        parts TEXT NOT NULL
    );
    CREATE UNIQUE INDEX IF NOT EXISTS objects_by_version ON objects (bucket, key, version_id);
    CREATE INDEX IF NOT EXISTS objects_by_age ON objects (bucket, key, seq DESC);
    CREATE UNIQUE INDEX IF NOT EXISTS objects_current ON objects (bucket, key) WHERE latest;
    CREATE TABLE IF NOT EXISTS segments (
        content TEXT NOT NULL,
        position INTEGER NOT NULL,
        blob TEXT NOT NULL,
        start INTEGER NOT NULL,
        length INTEGER NOT NULL,
        PRIMARY KEY (content, position)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS segments_by_blob ON segments (blob);
    CREATE TABLE IF NOT EXISTS uploads (
        id TEXT PRIMARY KEY,
        bucket TEXT NOT NULL,
        key BLOB NOT NULL,
        initiated_ms INTEGER NOT NULL,
        plan TEXT NOT NULL,
        completion TEXT
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS uploads_by_key ON uploads (bucket, key, id) WHERE completion IS NULL;
    CREATE TABLE IF NOT EXISTS parts (
        upload TEXT NOT NULL,
        number INTEGER NOT NULL,
        content TEXT NOT NULL,
        size INTEGER NOT NULL,
        etag TEXT NOT NULL,
        modified_ms INTEGER NOT NULL,
        checksum TEXT NOT NULL,
        PRIMARY KEY (upload, number)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS notifications (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        bucket TEXT NOT NULL,
        key BLOB NOT NULL,
        version_id TEXT,
        size INTEGER,
        etag TEXT,
        event_name TEXT NOT NULL,
        time_ms INTEGER NOT NULL
    );
";

/// Why an operation did not happen.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// An answer for the client.
    #[error("{0}")]
    Answer(S3Error),
    #[error("the database failed")]
    Database(#[from] rusqlite::Error),
    #[error("a file failed")]
    File(#[from] std::io::Error),
    #[error("a stored value is not readable")]
    Value(#[from] serde_json::Error),
    #[error("a worker thread failed")]
    Worker(#[from] tokio::task::JoinError),
}

impl From<S3Error> for Refusal {
    fn from(error: S3Error) -> Self {
        Self::Answer(error)
    }
}

impl From<Refusal> for S3Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Answer(error) => error,
            other => Self::with_source(S3ErrorCode::InternalError, Box::new(other)),
        }
    }
}

pub(super) type Outcome<T> = Result<T, Refusal>;

/// Tells the time; tests may stop it.
pub type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

pub(super) fn to_ms(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

pub(super) fn from_ms(ms: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// The headers that S3 stores with an object and gives back.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Headers {
    pub(super) content_type: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) cache_control: Option<String>,
    pub(super) expires_ms: Option<i64>,
    pub(super) website_redirect_location: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
}

pub(super) type Tags = Vec<(String, String)>;

/// A range of a blob.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) blob: String,
    pub(super) start: u64,
    pub(super) length: u64,
}

/// A part of a finished multipart object, as `GetObjectAttributes` reports it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PartSummary {
    pub(super) number: i32,
    pub(super) size: u64,
    pub(super) checksum: Option<Checksum>,
}

/// One version of an object, or a delete marker.
#[derive(Debug, Clone)]
#[expect(clippy::struct_field_names, reason = "S3 calls it so")]
pub(super) struct Version {
    pub(super) seq: i64,
    pub(super) key: String,
    pub(super) version_id: String,
    pub(super) latest: bool,
    pub(super) marker: bool,
    pub(super) content: Option<String>,
    pub(super) size: u64,
    pub(super) etag: String,
    pub(super) modified_ms: i64,
    pub(super) checksum: Option<Checksum>,
    pub(super) headers: Headers,
    pub(super) tags: Tags,
    pub(super) parts: Vec<PartSummary>,
}

impl Version {
    pub(super) const COLUMNS: &str = "seq, key, version_id, latest, marker, content, size, etag, modified_ms, checksum, headers, tags, parts";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            key: key_at(row, 1)?,
            version_id: row.get(2)?,
            latest: row.get(3)?,
            marker: row.get(4)?,
            content: row.get(5)?,
            size: row.get(6)?,
            etag: row.get(7)?,
            modified_ms: row.get(8)?,
            checksum: json_at(row, 9)?,
            headers: json_at(row, 10)?,
            tags: json_at(row, 11)?,
            parts: json_at(row, 12)?,
        })
    }

    pub(super) fn modified(&self) -> Timestamp {
        from_ms(self.modified_ms).into()
    }
}

/// What a writer wants to store under a key.
#[derive(Debug)]
pub(super) struct NewVersion {
    pub(super) key: String,
    pub(super) content: Vec<Segment>,
    pub(super) size: u64,
    pub(super) etag: String,
    pub(super) checksum: Option<Checksum>,
    pub(super) headers: Headers,
    pub(super) tags: Tags,
    pub(super) parts: Vec<PartSummary>,
}

/// The conditions a write may carry.
#[derive(Debug, Clone, Default)]
pub(super) struct WriteConditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
}

pub(super) fn key_at(row: &Row<'_>, index: usize) -> rusqlite::Result<String> {
    let bytes: Vec<u8> = row.get(index)?;
    String::from_utf8(bytes).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            index,
            rusqlite::types::Type::Blob,
            Box::new(error),
        )
    })
}

pub(super) fn json_at<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    let text: String = row.get(index)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            index,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    })
}

/// The database and the blobs it refers to.
pub(super) struct Store {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    pub(super) blobs: Arc<Blobs>,
    pub(super) clock: Clock,
    /// Woken after each commit that raised an event.
    pub(super) raised: Arc<Notify>,
    /// Held so that no second process sweeps this folder's unfinished writes.
    _lock: File,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Store")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Store {
    pub(super) fn open(folder: &Path, durable: bool, clock: Clock) -> Outcome<Self> {
        std::fs::create_dir_all(folder)?;
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock().map_err(std::io::Error::from)?;
        let path = folder.join("metadata.sqlite");
        let writer = connect(&path)?;
        writer.pragma_update(None, "journal_mode", "wal")?;
        writer.pragma_update(None, "synchronous", if durable { "full" } else { "off" })?;
        writer.execute_batch(SCHEMA)?;
        // A repeated Complete is answered for a week, which is far longer than any client retries.
        let forget = to_ms(clock()) - 7 * 24 * 3_600_000;
        writer.execute(
            "DELETE FROM uploads WHERE completion IS NOT NULL AND initiated_ms < ?1",
            [forget],
        )?;
        let blobs = Blobs::open(folder.join("blobs"), durable)?;
        let known: HashSet<String> = writer
            .prepare("SELECT DISTINCT blob FROM segments")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let removed = blobs.sweep(&known)?;
        if removed > 0 {
            tracing::info!(removed, "Removed blobs of interrupted writes");
        }
        Ok(Self {
            path,
            writer: Mutex::new(writer),
            readers: Mutex::default(),
            blobs: Arc::new(blobs),
            clock,
            raised: Arc::default(),
            _lock: lock,
        })
    }

    /// Reads on this thread, on a connection of its own.
    pub(super) fn read_here<T>(&self, read: impl FnOnce(&Connection) -> Outcome<T>) -> Outcome<T> {
        let idle = self
            .readers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path)?,
        };
        // One transaction, so that several statements see one state.
        let transaction = connection.unchecked_transaction()?;
        let answer = read(&transaction);
        drop(transaction);
        self.readers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        answer
    }

    /// Reads on a worker thread.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let store = Arc::clone(self);
        tokio::task::spawn_blocking(move || store.read_here(read)).await?
    }

    /// Finds a version together with its segments, and pins these.
    pub(super) async fn open_content(
        self: &Arc<Self>,
        bucket: String,
        key: String,
        version_id: Option<String>,
    ) -> Outcome<(Version, Vec<Segment>, Pin)> {
        let store = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let look_up = || {
                store.read_here(|connection| {
                    let version = readable(connection, &bucket, &key, version_id.as_deref())?;
                    let segments = segments(connection, version.content.as_deref())?;
                    let ids = segments
                        .iter()
                        .map(|segment| segment.blob.clone())
                        .collect();
                    Ok(((version, segments), ids))
                })
            };
            let ((version, segments), pin) = store.blobs.pinning(look_up)?;
            Ok((version, segments, pin))
        })
        .await?
    }

    /// Changes on this thread, in one transaction.
    pub(super) fn write_here<T>(
        &self,
        write: impl FnOnce(&mut Change<'_>) -> Outcome<T>,
    ) -> Outcome<T> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut change = Change {
            transaction,
            now_ms: to_ms((self.clock)()),
            unreferenced: Vec::new(),
            referenced: Vec::new(),
            written: Vec::new(),
            raised: false,
        };
        let answer = write(&mut change)?;
        let Change {
            transaction,
            unreferenced,
            referenced,
            written,
            raised,
            ..
        } = change;
        transaction.commit()?;
        // Here and not in the caller, who may have gone away: from the commit on, the files belong to the object.
        written.into_iter().for_each(Written::keep);
        // Still under the writer's lock: otherwise a copy could refer to a blob again before it is removed.
        self.blobs.rescue(referenced.iter().map(String::as_str));
        self.blobs.release(unreferenced);
        if raised {
            self.raised.notify_one();
        }
        Ok(answer)
    }

    /// Changes on a worker thread, which finishes even if the caller goes away.
    pub(super) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        write: impl FnOnce(&mut Change<'_>) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let store = Arc::clone(self);
        tokio::task::spawn_blocking(move || store.write_here(write)).await?
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Whether a bucket keeps versions; `None` if it never did.
pub(super) fn versioning(connection: &Connection, bucket: &str) -> Outcome<Option<String>> {
    connection
        .prepare_cached("SELECT versioning FROM buckets WHERE name = ?1")?
        .query_row([bucket], |row| row.get(0))
        .optional()?
        .ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist").into())
}

/// The newest version of a key, which may be a delete marker.
pub(super) fn newest(connection: &Connection, bucket: &str, key: &str) -> Outcome<Option<Version>> {
    let sql = format!(
        "SELECT {} FROM objects WHERE bucket = ?1 AND key = ?2 AND latest",
        Version::COLUMNS
    );
    let found = connection
        .prepare_cached(&sql)?
        .query_row(params![bucket, key.as_bytes()], Version::read)
        .optional()?;
    Ok(found)
}

pub(super) fn exact(
    connection: &Connection,
    bucket: &str,
    key: &str,
    version_id: &str,
) -> Outcome<Option<Version>> {
    let sql = format!(
        "SELECT {} FROM objects WHERE bucket = ?1 AND key = ?2 AND version_id = ?3",
        Version::COLUMNS
    );
    let found = connection
        .prepare_cached(&sql)?
        .query_row(params![bucket, key.as_bytes(), version_id], Version::read)
        .optional()?;
    Ok(found)
}

/// The version a reader asks for, or the answer that S3 gives instead.
pub(super) fn readable(
    connection: &Connection,
    bucket: &str,
    key: &str,
    version_id: Option<&str>,
) -> Outcome<Version> {
    versioning(connection, bucket)?;
    let version = match version_id {
        None => newest(connection, bucket, key)?
            .ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))?,
        Some(version_id) => exact(connection, bucket, key, version_id)?
            .ok_or_else(|| s3_error!(NoSuchVersion, "The specified version does not exist."))?,
    };
    if !version.marker {
        return Ok(version);
    }
    let mut error = if version_id.is_none() {
        s3_error!(NoSuchKey, "The specified key does not exist.")
    } else {
        s3_error!(
            MethodNotAllowed,
            "The specified method is not allowed against this resource."
        )
    };
    let mut headers = http::HeaderMap::new();
    headers.insert(
        "content-type",
        http::HeaderValue::from_static("application/xml"),
    );
    headers.insert(
        "x-amz-delete-marker",
        http::HeaderValue::from_static("true"),
    );
    if let Ok(id) = http::HeaderValue::from_str(&version.version_id) {
        headers.insert("x-amz-version-id", id);
    }
    if version_id.is_some() {
        headers.insert("allow", http::HeaderValue::from_static("DELETE"));
    }
    error.set_headers(headers);
    Err(error.into())
}

pub(super) fn segments(connection: &Connection, content: Option<&str>) -> Outcome<Vec<Segment>> {
    let found = connection
        .prepare_cached(
            "SELECT blob, start, length FROM segments WHERE content = ?1 ORDER BY position",
        )?
        .query_map([content], |row| {
            Ok(Segment {
                blob: row.get(0)?,
                start: row.get(1)?,
                length: row.get(2)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    Ok(found)
}

/// A transaction under way, and what has to happen after it.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) transaction: Transaction<'a>,
    pub(super) now_ms: i64,
    unreferenced: Vec<String>,
    referenced: Vec<String>,
    written: Vec<Written>,
    raised: bool,
}

/// How a deletion ended.
#[derive(Debug)]
pub(super) struct Deleted {
    /// Set if the version that went away, or came to be, is a delete marker.
    pub(super) marker: bool,
    pub(super) version_id: Option<String>,
}

impl Change<'_> {
    /// Leaves a received file in place if the transaction commits.
    pub(super) fn keep(&mut self, blob: Written) {
        self.written.push(blob);
    }

    /// Stores a content and answers its id.
    pub(super) fn add_content(&mut self, segments: &[Segment]) -> Outcome<Option<String>> {
        if segments.is_empty() {
            return Ok(None);
        }
        let content = fresh_id();
        let mut insert = self
            .transaction
            .prepare_cached("INSERT INTO segments (content, position, blob, start, length) VALUES (?1, ?2, ?3, ?4, ?5)")?;
        for (position, segment) in segments.iter().enumerate() {
            insert.execute(params![
                content,
                position,
                segment.blob,
                segment.start,
                segment.length
            ])?;
            self.referenced.push(segment.blob.clone());
        }
        Ok(Some(content))
    }

    /// Forgets a content, and marks the blobs that nothing refers to any more.
    pub(super) fn drop_content(&mut self, content: Option<&str>) -> Outcome<()> {
        let blobs: HashSet<String> = segments(&self.transaction, content)?
            .into_iter()
            .map(|segment| segment.blob)
            .collect();
        self.transaction
            .prepare_cached("DELETE FROM segments WHERE content = ?1")?
            .execute([content])?;
        for blob in blobs {
            let referenced: bool = self
                .transaction
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM segments WHERE blob = ?1)")?
                .query_row([&blob], |row| row.get(0))?;
            if !referenced {
                self.unreferenced.push(blob);
            }
        }
        Ok(())
    }

    fn remove(&mut self, version: &Version) -> Outcome<()> {
        self.transaction
            .prepare_cached("DELETE FROM objects WHERE seq = ?1")?
            .execute([version.seq])?;
        self.drop_content(version.content.as_deref())
    }

    /// Makes room for a new newest version and answers the id it must take.
    fn next_version_id(&mut self, bucket: &str, key: &str) -> Outcome<String> {
        let version_id = if versioning(&self.transaction, bucket)?.as_deref() == Some("Enabled") {
            fresh_id()
        } else {
            if let Some(old) = exact(&self.transaction, bucket, key, NULL_VERSION)? {
                self.remove(&old)?;
            }
            NULL_VERSION.to_owned()
        };
        self.transaction
            .prepare_cached(
                "UPDATE objects SET latest = 0 WHERE bucket = ?1 AND key = ?2 AND latest",
            )?
            .execute(params![bucket, key.as_bytes()])?;
        Ok(version_id)
    }

    /// Refuses the write if its conditions do not hold at this very moment.
    pub(super) fn check(
        &self,
        bucket: &str,
        key: &str,
        conditions: &WriteConditions,
    ) -> Outcome<()> {
        let current = newest(&self.transaction, bucket, key)?.filter(|version| !version.marker);
        match (&conditions.if_none_match, &current) {
            (Some(ETagCondition::ETag(_)), _) => {
                return Err(s3_error!(
                    NotImplemented,
                    "A header you provided implies functionality that is not implemented"
                )
                .into());
            }
            (Some(ETagCondition::Any), Some(_)) => return Err(precondition_failed().into()),
            _ => {}
        }
        match (&conditions.if_match, &current) {
            (None, _) | (Some(ETagCondition::Any), Some(_)) => Ok(()),
            (Some(_), None) => {
                Err(s3_error!(NoSuchKey, "The specified key does not exist.").into())
            }
            (Some(ETagCondition::ETag(etag)), Some(version)) if etag.value() == version.etag => {
                Ok(())
            }
            (Some(ETagCondition::ETag(_)), Some(_)) => Err(precondition_failed().into()),
        }
    }

    /// Makes a version the newest of its key and raises its event.
    pub(super) fn add_version(
        &mut self,
        bucket: &str,
        new: &NewVersion,
        event: EventName,
    ) -> Outcome<Version> {
        let version_id = self.next_version_id(bucket, &new.key)?;
        let content = self.add_content(&new.content)?;
        self.insert(bucket, new, &version_id, content.as_deref(), false)?;
        self.raise(
            bucket,
            &new.key,
            &version_id,
            Some((new.size, &new.etag)),
            event,
        )?;
        newest(&self.transaction, bucket, &new.key)?.ok_or_else(|| {
            s3_error!(InternalError, "A version that was just written is missing").into()
        })
    }

    fn insert(
        &self,
        bucket: &str,
        new: &NewVersion,
        version_id: &str,
        content: Option<&str>,
        marker: bool,
    ) -> Outcome<()> {
        self.transaction
            .prepare_cached(
                "INSERT INTO objects (bucket, key, version_id, latest, marker, content, size, etag, modified_ms,
                    checksum, headers, tags, parts)
                 VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                bucket,
                new.key.as_bytes(),
                version_id,
                marker,
                content,
                new.size,
                new.etag,
                self.now_ms,
                serde_json::to_string(&new.checksum)?,
                serde_json::to_string(&new.headers)?,
                serde_json::to_string(&new.tags)?,
                serde_json::to_string(&new.parts)?,
            ])?;
        Ok(())
    }

    /// Deletes as S3 does: a version for good, or a key behind a marker.
    pub(super) fn delete(
        &mut self,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
    ) -> Outcome<Deleted> {
        let versioning = versioning(&self.transaction, bucket)?;
        let gone = match (version_id, versioning.as_deref()) {
            (Some(version_id), _) => exact(&self.transaction, bucket, key, version_id)?,
            (None, None) => exact(&self.transaction, bucket, key, NULL_VERSION)?,
            (None, Some(_)) => return self.delete_behind_marker(bucket, key),
        };
        let Some(gone) = gone else {
            // Deleting what is not there succeeds.
            return Ok(Deleted {
                marker: false,
                version_id: version_id.map(ToOwned::to_owned),
            });
        };
        self.remove(&gone)?;
        if gone.latest {
            self.transaction
                .prepare_cached(
                    "UPDATE objects SET latest = 1 WHERE seq =
                        (SELECT seq FROM objects WHERE bucket = ?1 AND key = ?2 ORDER BY seq DESC LIMIT 1)",
                )?
                .execute(params![bucket, key.as_bytes()])?;
        }
        self.raise(bucket, key, &gone.version_id, None, EventName::Delete)?;
        Ok(Deleted {
            marker: gone.marker,
            version_id: version_id.map(ToOwned::to_owned),
        })
    }

    fn delete_behind_marker(&mut self, bucket: &str, key: &str) -> Outcome<Deleted> {
        let version_id = self.next_version_id(bucket, key)?;
        let marker = NewVersion {
            key: key.to_owned(),
            content: Vec::new(),
            size: 0,
            etag: String::new(),
            checksum: None,
            headers: Headers::default(),
            tags: Vec::new(),
            parts: Vec::new(),
        };
        self.insert(bucket, &marker, &version_id, None, true)?;
        self.raise(
            bucket,
            key,
            &version_id,
            None,
            EventName::DeleteMarkerCreated,
        )?;
        Ok(Deleted {
            marker: true,
            version_id: Some(version_id),
        })
    }

    fn raise(
        &mut self,
        bucket: &str,
        key: &str,
        version_id: &str,
        content: Option<(u64, &str)>,
        event: EventName,
    ) -> Outcome<()> {
        let version_id = (version_id != NULL_VERSION).then_some(version_id);
        self.transaction
            .prepare_cached(
                "INSERT INTO notifications (bucket, key, version_id, size, etag, event_name, time_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                bucket,
                key.as_bytes(),
                version_id,
                content.map(|(size, _)| size),
                content.map(|(_, etag)| etag),
                event.as_str(),
                self.now_ms
            ])?;
        self.raised = true;
        Ok(())
    }
}

pub(super) fn precondition_failed() -> S3Error {
    s3_error!(
        PreconditionFailed,
        "At least one of the pre-conditions you specified did not hold"
    )
}
