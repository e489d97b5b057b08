//! The changes of a table, handed to consumers as Lambda's event source mapping does it.
//!
//! A consumer has a name and a durable checkpoint: the sequence number of the last record that it acknowledged. Until
//! it acknowledges more, [`Stream::next_batch`] returns the same records again, also after a restart, so every record
//! is delivered at least once and in order.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use dynoxide::{
    Database,
    actions::{
        get_records::GetRecordsRequest,
        get_shard_iterator::{GetShardIteratorRequest, decode_shard_iterator},
        list_streams::ListStreamsRequest,
    },
    streams,
};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use serde_json::{Value, json};

use super::{BUSY_TIMEOUT, Engine, Error, failed, sqlite};

/// The region in the records; handlers that take ARNs apart expect a real one.
const REGION: &str = "us-east-1";

/// How long AWS keeps a record.
const RETENTION: Duration = Duration::from_hours(24);

/// How long a record is kept that a consumer has not acknowledged; a consumer that never returns must not fill the disk.
const UNREAD_RETENTION: Duration = Duration::from_hours(30 * 24);

/// How often a waiting stream looks at the database's change counter, which costs microseconds and reads no record.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// How many records are deleted in one transaction, so that writers wait for milliseconds only.
const TRIM_BATCH: usize = 500;

/// One change of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamRecord {
    /// The record's place in the stream; sorts as text.
    pub sequence_number: String,
    /// The record as Lambda receives it, one element of `Records`.
    pub event: Value,
}

/// Builds the event that Lambda receives for a batch of records.
pub fn to_stream_event(records: &[StreamRecord]) -> Value {
    json!({ "Records": records.iter().map(|record| &record.event).collect::<Vec<_>>() })
}

/// The stream of one table, as one consumer sees it.
#[derive(Debug)]
pub struct Stream {
    /// Sees the writes of all other connections, and makes none.
    watcher: Mutex<Connection>,
    engine: Engine,
    table: String,
    consumer: String,
    arn: String,
}

impl Stream {
    pub(super) fn open(engine: Engine, table: &str, consumer: &str) -> Result<Self, Error> {
        let arn = stream_arn(engine.database(), table)?.ok_or_else(|| Error::NoStream {
            table: table.to_owned(),
        })?;
        engine
            .checkpoints()
            .execute(
                "INSERT OR IGNORE INTO checkpoints (table_name, consumer) VALUES (?1, ?2)",
                params![table, consumer],
            )
            .map_err(sqlite("registering a consumer"))?;
        let watcher =
            Connection::open_with_flags(&engine.inner.path, OpenFlags::SQLITE_OPEN_READ_ONLY)
                .and_then(|watcher| watcher.busy_timeout(BUSY_TIMEOUT).map(|()| watcher))
                .map_err(sqlite("watching its tables"))?;
        Ok(Self {
            watcher: Mutex::new(watcher),
            engine,
            table: table.to_owned(),
            consumer: consumer.to_owned(),
            arn,
        })
    }

    /// Returns the oldest records that the consumer has not acknowledged, at most `limit` and at most 1,000.
    pub fn next_batch(&self, limit: usize) -> Result<Vec<StreamRecord>, Error> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let doing = || failed(format!("reading the stream of `{}`", self.table));
        let iterator = iterator(
            self.engine.database(),
            &self.table,
            &self.arn,
            self.checkpoint()?,
        )?;
        let request = GetRecordsRequest {
            shard_iterator: iterator,
            limit: Some(limit),
        };
        let response = self
            .engine
            .database()
            .get_records(request)
            .map_err(doing())?;
        response
            .records
            .iter()
            .map(|record| {
                let mut event = serde_json::to_value(record).map_err(|source| Error::Record {
                    table: self.table.clone(),
                    source,
                })?;
                event["awsRegion"] = REGION.into();
                event["eventSourceARN"] = self.event_source_arn().into();
                Ok(StreamRecord {
                    sequence_number: record.dynamodb.sequence_number.clone(),
                    event,
                })
            })
            .collect()
    }

    /// Remembers that every record up to this one is done with.
    ///
    /// A checkpoint never moves back, so acknowledging an older record again does nothing.
    pub fn acknowledge(&self, sequence_number: &str) -> Result<(), Error> {
        // Sequence numbers have 21 digits, which is what makes them sort as text.
        if sequence_number.len() != 21 || !sequence_number.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Err(Error::SequenceNumber {
                sequence_number: sequence_number.to_owned(),
            });
        }
        self.engine
            .checkpoints()
            .execute(
                "UPDATE checkpoints SET sequence_number = ?3 \
                 WHERE table_name = ?1 AND consumer = ?2 AND COALESCE(sequence_number, '') < ?3",
                params![self.table, self.consumer, sequence_number],
            )
            .map(|_| ())
            .map_err(sqlite("storing a checkpoint"))
    }

    /// Returns the sequence number of the last record that the consumer acknowledged.
    pub fn checkpoint(&self) -> Result<Option<String>, Error> {
        self.engine
            .checkpoints()
            .query_row(
                "SELECT sequence_number FROM checkpoints WHERE table_name = ?1 AND consumer = ?2",
                params![self.table, self.consumer],
                |row| row.get(0),
            )
            .optional()
            .map(Option::flatten)
            .map_err(sqlite("reading a checkpoint"))
    }

    /// Waits until there is a record that the consumer has not acknowledged.
    ///
    /// It returns at once while there is one, so whoever failed to process a batch waits a while on their own account.
    pub async fn wait(&self) -> Result<(), Error> {
        let mut seen = None;
        loop {
            // The counter is read before the records: a write in between is then noticed in the next round.
            let version = self.data_version()?;
            if seen != Some(version) {
                if !self.next_batch(1)?.is_empty() {
                    return Ok(());
                }
                seen = Some(version);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Reads the counter that SQLite changes with every commit of another connection.
    fn data_version(&self) -> Result<i64, Error> {
        self.watcher
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut select| select.query_row([], |row| row.get(0)))
            .map_err(sqlite("looking for changes"))
    }

    fn event_source_arn(&self) -> String {
        self.arn.replacen(
            &format!(":{}:", streams::LOCAL_REGION),
            &format!(":{REGION}:"),
            1,
        )
    }
}

/// Opens the file of checkpoints.
pub(super) fn open_checkpoints(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A kill loses nothing. A power cut may lose the last checkpoints, and then records come twice, which consumers
    // have to expect anyway; that is not worth waiting for the disk after every batch.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS checkpoints (
             table_name TEXT NOT NULL,
             consumer TEXT NOT NULL,
             sequence_number TEXT,
             PRIMARY KEY (table_name, consumer)
         ) WITHOUT ROWID",
    )?;
    Ok(connection)
}

/// Deletes what is too old, in every stream.
pub(super) fn trim(engine: &Engine) -> Result<usize, Error> {
    let tables: Vec<String> = list_streams(engine.database(), None)?
        .into_iter()
        .map(|(table, _)| table)
        .collect();
    let now = engine.now_secs();
    let mut deleted = 0;
    for table in tables {
        let read_up_to = acknowledged_by_all(engine, &table)?;
        loop {
            let count = engine
                .records()
                .execute(
                    "DELETE FROM _stream_records WHERE id IN (
                         SELECT id FROM (
                             SELECT id, created_at, CAST(sequence_number AS INTEGER) AS position
                             FROM _stream_records WHERE table_name = ?1
                             ORDER BY CAST(sequence_number AS INTEGER) LIMIT ?2
                         )
                         WHERE (created_at < ?3 AND position <= ?4 OR created_at < ?5)
                           AND position < (
                             SELECT MAX(CAST(sequence_number AS INTEGER)) FROM _stream_records WHERE table_name = ?1
                         )
                     )",
                    params![
                        table,
                        TRIM_BATCH,
                        now.saturating_sub(RETENTION.as_secs()),
                        read_up_to,
                        now.saturating_sub(UNREAD_RETENTION.as_secs()),
                    ],
                )
                .map_err(sqlite("trimming its streams"))?;
            deleted += count;
            if count < TRIM_BATCH {
                break;
            }
        }
    }
    Ok(deleted)
}

/// Returns the position up to which all consumers of a table have read; everything, if it has none.
fn acknowledged_by_all(engine: &Engine, table: &str) -> Result<i64, Error> {
    let (consumers, oldest): (i64, Option<String>) = engine
        .checkpoints()
        .query_row(
            "SELECT COUNT(*), MIN(COALESCE(sequence_number, '')) FROM checkpoints WHERE table_name = ?1",
            [table],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .map_err(sqlite("reading its checkpoints"))?;
    if consumers == 0 {
        return Ok(i64::MAX);
    }
    let Some(oldest) = oldest.filter(|oldest| !oldest.is_empty()) else {
        return Ok(0);
    };
    // The iterator after a record holds the number under which the record is stored.
    let arn = stream_arn(engine.database(), table)?.ok_or_else(|| Error::NoStream {
        table: table.to_owned(),
    })?;
    let iterator = iterator(engine.database(), table, &arn, Some(oldest))?;
    Ok(decode_shard_iterator(&iterator).map_or(0, |(_, _, position)| position))
}

fn iterator(
    database: &Database,
    table: &str,
    arn: &str,
    after: Option<String>,
) -> Result<String, Error> {
    let kind = if after.is_some() {
        "AFTER_SEQUENCE_NUMBER"
    } else {
        "TRIM_HORIZON"
    };
    let request = GetShardIteratorRequest {
        stream_arn: arn.to_owned(),
        shard_id: streams::shard_id(table),
        shard_iterator_type: kind.to_owned(),
        sequence_number: after,
    };
    database
        .get_shard_iterator(request)
        .map_err(failed(format!(
            "finding a place in the stream of `{table}`"
        )))?
        .shard_iterator
        .ok_or_else(|| Error::NoStream {
            table: table.to_owned(),
        })
}

fn stream_arn(database: &Database, table: &str) -> Result<Option<String>, Error> {
    Ok(list_streams(database, Some(table.to_owned()))?
        .pop()
        .map(|(_, arn)| arn))
}

fn list_streams(
    database: &Database,
    table_name: Option<String>,
) -> Result<Vec<(String, String)>, Error> {
    let request = ListStreamsRequest {
        table_name,
        ..ListStreamsRequest::default()
    };
    let response = database
        .list_streams(request)
        .map_err(failed("listing its streams"))?;
    Ok(response
        .streams
        .into_iter()
        .map(|stream| (stream.table_name, stream.stream_arn))
        .collect())
}
