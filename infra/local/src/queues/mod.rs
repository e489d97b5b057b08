//! The embedded queues: durable, at least once, with dead letters.
//!
//! They keep the promises of SQS that the functions rely on, and no others. A received message is invisible to other
//! receivers until its visibility timeout ends; only [`Queues::delete`] makes it go away; a message that was received
//! too often moves to the dead letters of its queue. Of messages with a group, one is under way at a time, in order.
//! [`to_sqs_event`] has the shape in which a function sees messages.
//!
//! One thing is better than on AWS: a process that was killed holds no message any more, so [`Queues::open`] makes
//! visible at once what was in flight. That receipt still counts, so that a message which kills its receiver ends as a
//! dead letter and not in a circle.

mod dead_letters;
mod server;
mod sqs_event;

pub use dead_letters::DeadLetter;
pub use sqs_event::{failed_items, to_sqs_event};

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    clock::{Clock, milliseconds, time_from_ms, unix_ms},
    data_folder::{DataFolder, DataFolderError},
};

/// How long a failed message waits before its second attempt; each later wait is twice as long.
pub const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// The longest that a failed message waits for its next attempt.
pub const LONGEST_BACKOFF: Duration = Duration::from_mins(5);

/// How long a waiting receiver trusts its timer: a timer does not run while a laptop sleeps, but its clock does.
const LONGEST_TIMER: Duration = Duration::from_secs(5);

/// Makes the tables; `position` orders messages by their arrival.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS messages (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        queue TEXT NOT NULL,
        body TEXT NOT NULL,
        sent_at INTEGER NOT NULL,
        visible_at INTEGER NOT NULL,
        receive_count INTEGER NOT NULL DEFAULT 0,
        first_received_at INTEGER,
        receipt TEXT UNIQUE,
        last_error TEXT,
        in_group TEXT
    );
    CREATE INDEX IF NOT EXISTS messages_by_visibility ON messages (queue, visible_at);
    CREATE TABLE IF NOT EXISTS dead_letters (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        queue TEXT NOT NULL,
        body TEXT NOT NULL,
        sent_at INTEGER NOT NULL,
        died_at INTEGER NOT NULL,
        receive_count INTEGER NOT NULL,
        last_error TEXT,
        in_group TEXT
    );
";

/// What a folder lacks that was made before queues had groups.
const ADD_GROUPS: &str = "
    ALTER TABLE messages ADD COLUMN in_group TEXT;
    ALTER TABLE dead_letters ADD COLUMN in_group TEXT;
";

/// Finds the messages of a group; it comes after the column was added.
const GROUP_INDEX: &str =
    "CREATE INDEX IF NOT EXISTS messages_by_group ON messages (in_group, position)
    WHERE in_group IS NOT NULL";

/// Whether a message may be received now: it is visible, and no earlier one of its group is still under way or waits.
const IS_RECEIVABLE: &str = "queue = ?1 AND visible_at <= ?2 AND (in_group IS NULL OR NOT EXISTS (
        SELECT 1 FROM messages AS earlier
        WHERE earlier.in_group = messages.in_group AND earlier.position < messages.position))";

/// How a queue behaves; the fields mean what they mean in SQS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueDefinition {
    /// The queue's name.
    pub name: String,
    /// How long a received message stays invisible.
    pub visibility_timeout: Duration,
    /// How long a sent message stays invisible.
    pub delay: Duration,
    /// How often a message is received before it is a dead letter.
    pub max_receive_count: u32,
    /// Whether there are dead letters; without them, a message is tried for ever.
    pub dead_letter: bool,
    /// How many messages a function takes at once.
    pub batch_size: usize,
}

/// A received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The message's name, which stays the same over all its receipts.
    pub id: String,
    /// What deletes or releases the message; valid until it is received again.
    pub receipt: String,
    /// What was sent.
    pub body: String,
    /// How often the message was received, this time included.
    pub receive_count: u32,
    /// When the message was sent.
    pub sent_at: SystemTime,
    /// When the message was received for the first time.
    pub first_received_at: SystemTime,
}

/// A message that waits for a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The message's name.
    pub id: String,
    /// What was sent.
    pub body: String,
    /// How often the message was received until now.
    pub receive_count: u32,
}

/// What became of a message that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It is visible again after this time.
    Retry(Duration),
    /// It was received too often and is a dead letter.
    DeadLetter,
    /// The receipt was out of date: the message was deleted, or received again.
    OutOfDate,
}

/// How many messages a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages that can be received.
    pub visible: usize,
    /// Messages that are being processed.
    pub in_flight: usize,
    /// Messages that wait for their delay or their next attempt.
    pub delayed: usize,
    /// Messages that were received too often.
    pub dead_letters: usize,
}

impl Depth {
    /// Returns whether nothing is left to do; dead letters wait for a person.
    pub fn is_drained(&self) -> bool {
        self.visible + self.in_flight + self.delayed == 0
    }
}

/// Why a queue could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The data folder cannot be used.
    #[error("the queues cannot use their data folder")]
    Folder(#[from] DataFolderError),
    /// SQLite failed.
    #[error("the queues' file `{}` failed while {doing}; is the disk full?", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What was going on.
        doing: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// No queue has that name.
    #[error("there is no queue `{queue}`; the queues are {known}")]
    UnknownQueue {
        /// The name.
        queue: String,
        /// All names.
        known: String,
    },
}

/// All queues of an embedded stack; clones share them.
#[derive(Clone)]
pub struct Queues {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Mutex<Connection>,
    queues: BTreeMap<String, Queue>,
    path: PathBuf,
    clock: Clock,
    _folder: DataFolder,
}

struct Queue {
    definition: QueueDefinition,
    arrived: Notify,
}

impl Queues {
    /// Opens the queues of a data folder.
    ///
    /// Messages of a queue that is no longer defined stay in the file and are there again when it is.
    pub fn open(
        folder: &DataFolder,
        definitions: Vec<QueueDefinition>,
        clock: Clock,
    ) -> Result<Self, Error> {
        let path = folder.subfolder("queues")?.join("queues.db");
        let connection = open_file(&path, unix_ms(&clock)).map_err(|source| Error::Sqlite {
            path: path.clone(),
            doing: "opening it",
            source,
        })?;
        let queues = definitions
            .into_iter()
            .map(|definition| {
                (
                    definition.name.clone(),
                    Queue {
                        definition,
                        arrived: Notify::new(),
                    },
                )
            })
            .collect();
        Ok(Self {
            inner: Arc::new(Inner {
                connection: Mutex::new(connection),
                queues,
                path,
                clock,
                _folder: folder.clone(),
            }),
        })
    }

    /// Lists the queues by name.
    pub fn definitions(&self) -> impl Iterator<Item = &QueueDefinition> {
        self.inner.queues.values().map(|queue| &queue.definition)
    }

    /// Stores a message and returns its id.
    ///
    /// When it returns, the message survives the end of the process.
    pub fn send(&self, queue: &str, body: &str) -> Result<String, Error> {
        self.send_in_group(queue, None, body)
    }

    /// Stores a message of a group, of which one is received at a time, the oldest first.
    pub fn send_in_group(
        &self,
        queue: &str,
        group: Option<&str>,
        body: &str,
    ) -> Result<String, Error> {
        let to = self.queue(queue)?;
        let id = Uuid::new_v4().to_string();
        let now = self.now();
        self.connection()
            .execute(
                "INSERT INTO messages (id, queue, body, sent_at, visible_at, in_group) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    id,
                    queue,
                    body,
                    now,
                    now.saturating_add(milliseconds(to.definition.delay)),
                    group
                ],
            )
            .map_err(self.failed("storing a message"))?;
        to.arrived.notify_waiters();
        Ok(id)
    }

    /// Receives up to `max` visible messages, the oldest first.
    ///
    /// Messages that were received too often become dead letters instead, as they do on AWS.
    pub fn receive(&self, queue: &str, max: usize) -> Result<Vec<Message>, Error> {
        let definition = &self.queue(queue)?.definition;
        let now = self.now();
        let hidden_until = now.saturating_add(milliseconds(definition.visibility_timeout));
        let doing = "receiving messages";

        let mut connection = self.connection();
        let transaction = connection.transaction().map_err(self.failed(doing))?;
        if definition.dead_letter {
            dead_letters::bury_exhausted(&transaction, definition, now)
                .map_err(self.failed(doing))?;
        }
        let positions: Vec<i64> = transaction
            .prepare_cached(&format!(
                "SELECT position FROM messages WHERE {IS_RECEIVABLE} ORDER BY position LIMIT ?3"
            ))
            .and_then(|mut select| {
                select
                    .query_map(params![queue, now, max], |row| row.get(0))?
                    .collect()
            })
            .map_err(self.failed(doing))?;
        let messages = positions
            .into_iter()
            .map(|position| take(&transaction, position, now, hidden_until))
            .collect::<Result<_, _>>()
            .map_err(self.failed(doing))?;
        transaction.commit().map_err(self.failed(doing))?;
        Ok(messages)
    }

    /// Receives one visible message by its id, out of turn; nothing, if it is not visible or became a dead letter.
    pub fn receive_one(&self, queue: &str, id: &str) -> Result<Option<Message>, Error> {
        let definition = &self.queue(queue)?.definition;
        let now = self.now();
        let hidden_until = now.saturating_add(milliseconds(definition.visibility_timeout));
        let doing = "receiving a message";

        let mut connection = self.connection();
        let transaction = connection.transaction().map_err(self.failed(doing))?;
        if definition.dead_letter {
            dead_letters::bury_exhausted(&transaction, definition, now)
                .map_err(self.failed(doing))?;
        }
        let message = transaction
            .query_row(
                &format!("SELECT position FROM messages WHERE {IS_RECEIVABLE} AND id = ?3"),
                params![queue, now, id],
                |row| row.get(0),
            )
            .optional()
            .and_then(|position| {
                position
                    .map(|position| take(&transaction, position, now, hidden_until))
                    .transpose()
            })
            .map_err(self.failed(doing))?;
        transaction.commit().map_err(self.failed(doing))?;
        Ok(message)
    }

    /// Lists the visible messages of a queue, the oldest first and at most `max`, and leaves them where they are.
    pub fn waiting(&self, queue: &str, max: usize) -> Result<Vec<Waiting>, Error> {
        self.queue(queue)?;
        self.connection()
            .prepare_cached(&format!(
                "SELECT id, body, receive_count FROM messages
                 WHERE {IS_RECEIVABLE} ORDER BY position LIMIT ?3"
            ))
            .and_then(|mut select| {
                select
                    .query_map(params![queue, self.now(), max], |row| {
                        Ok(Waiting {
                            id: row.get(0)?,
                            body: row.get(1)?,
                            receive_count: row.get(2)?,
                        })
                    })?
                    .collect()
            })
            .map_err(self.failed("listing messages"))
    }

    /// Deletes a processed message, and returns whether the receipt was up to date.
    pub fn delete(&self, receipt: &str) -> Result<bool, Error> {
        let queue: Option<String> = self
            .connection()
            .query_row(
                "DELETE FROM messages WHERE receipt = ?1 RETURNING queue",
                [receipt],
                |row| row.get(0),
            )
            .optional()
            .map_err(self.failed("deleting a message"))?;
        // The next of its group may come.
        self.wake(queue.as_deref());
        Ok(queue.is_some())
    }

    /// Gives a message back after a delay, and returns whether the receipt was up to date.
    pub fn release(&self, receipt: &str, delay: Duration) -> Result<bool, Error> {
        let queue: Option<String> = self
            .connection()
            .query_row(
                "UPDATE messages SET visible_at = ?2, receipt = NULL WHERE receipt = ?1 RETURNING queue",
                params![receipt, self.now().saturating_add(milliseconds(delay))],
                |row| row.get(0),
            )
            .optional()
            .map_err(self.failed("releasing a message"))?;
        self.wake(queue.as_deref());
        Ok(queue.is_some())
    }

    /// Gives back a message whose processing failed.
    ///
    /// It is visible again after a wait that doubles with each receipt, or becomes a dead letter if that was its last
    /// attempt. The error is kept with the message for whoever looks at the dead letters.
    pub fn fail(&self, receipt: &str, error: &str) -> Result<Failure, Error> {
        let doing = "recording a failure";
        let now = self.now();
        let mut connection = self.connection();
        let transaction = connection.transaction().map_err(self.failed(doing))?;
        let found: Option<(i64, String, u32)> = transaction
            .query_row(
                "UPDATE messages SET last_error = ?2 WHERE receipt = ?1
                 RETURNING position, queue, receive_count",
                params![receipt, error],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .optional()
            .map_err(self.failed(doing))?;
        let Some((position, queue, receive_count)) = found else {
            return Ok(Failure::OutOfDate);
        };
        let exhausted = self.inner.queues.get(&queue).is_some_and(|queue| {
            queue.definition.dead_letter && receive_count >= queue.definition.max_receive_count
        });
        let failure = if exhausted {
            dead_letters::bury(&transaction, position, now).map_err(self.failed(doing))?;
            Failure::DeadLetter
        } else {
            let wait = backoff(receive_count);
            transaction
                .execute(
                    "UPDATE messages SET visible_at = ?2, receipt = NULL WHERE position = ?1",
                    params![position, now.saturating_add(milliseconds(wait))],
                )
                .map_err(self.failed(doing))?;
            Failure::Retry(wait)
        };
        transaction.commit().map_err(self.failed(doing))?;
        self.wake(Some(&queue));
        Ok(failure)
    }

    /// Counts the messages of a queue.
    pub fn depth(&self, queue: &str) -> Result<Depth, Error> {
        self.queue(queue)?;
        self.connection()
            .query_row(
                "SELECT COUNT(*) FILTER (WHERE visible_at <= ?2),
                        COUNT(*) FILTER (WHERE visible_at > ?2 AND receipt IS NOT NULL),
                        COUNT(*) FILTER (WHERE visible_at > ?2 AND receipt IS NULL),
                        (SELECT COUNT(*) FROM dead_letters WHERE queue = ?1)
                 FROM messages WHERE queue = ?1",
                params![queue, self.now()],
                |row| {
                    Ok(Depth {
                        visible: row.get(0)?,
                        in_flight: row.get(1)?,
                        delayed: row.get(2)?,
                        dead_letters: row.get(3)?,
                    })
                },
            )
            .map_err(self.failed("counting messages"))
    }

    /// Returns how long it takes until a message is visible; nothing, if the queue is empty.
    pub fn next_due(&self, queue: &str) -> Result<Option<Duration>, Error> {
        self.queue(queue)?;
        let due: Option<i64> = self
            .connection()
            .query_row(
                // A later message of a group is due when the first of it is dealt with, of which it is told.
                "SELECT MIN(visible_at) FROM messages WHERE queue = ?1 AND (in_group IS NULL OR NOT EXISTS (
                    SELECT 1 FROM messages AS earlier
                    WHERE earlier.in_group = messages.in_group AND earlier.position < messages.position))",
                [queue],
                |row| row.get(0),
            )
            .map_err(self.failed("looking for messages"))?;
        let now = self.now();
        Ok(due.map(|due| {
            Duration::from_millis(u64::try_from(due.saturating_sub(now)).unwrap_or_default())
        }))
    }

    /// Waits until a message is visible.
    ///
    /// Another receiver may be faster, so [`receive`](Self::receive) may return nothing nevertheless.
    pub async fn wait(&self, queue: &str) -> Result<(), Error> {
        let arrived = &self.queue(queue)?.arrived;
        loop {
            // Listening begins before looking, so that a message sent in between is not missed.
            let mut notified = std::pin::pin!(arrived.notified());
            notified.as_mut().enable();
            match self.next_due(queue)? {
                Some(Duration::ZERO) => return Ok(()),
                Some(due) => {
                    // Either ending leads to another look.
                    let _ = tokio::time::timeout(due.min(LONGEST_TIMER), notified).await;
                }
                None => notified.await,
            }
        }
    }

    fn queue(&self, name: &str) -> Result<&Queue, Error> {
        self.inner
            .queues
            .get(name)
            .ok_or_else(|| Error::UnknownQueue {
                queue: name.to_owned(),
                known: self
                    .inner
                    .queues
                    .keys()
                    .map(|known| format!("`{known}`"))
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    fn wake(&self, queue: Option<&str>) {
        if let Some(queue) = queue.and_then(|name| self.inner.queues.get(name)) {
            queue.arrived.notify_waiters();
        }
    }

    fn now(&self) -> i64 {
        unix_ms(&self.inner.clock)
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere leaves the connection usable: its transaction was rolled back.
        self.inner
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
        let path = self.inner.path.clone();
        move |source| Error::Sqlite {
            path,
            doing,
            source,
        }
    }
}

impl fmt::Debug for Queues {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Queues")
            .field("path", &self.inner.path)
            .field("queues", &self.inner.queues.keys())
            .finish_non_exhaustive()
    }
}

fn open_file(path: &std::path::Path, now: i64) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A kill loses nothing, because the operating system has what was written. A power cut may lose the last messages;
    // they are hints, and the sweep repairs a lost one, so waiting for the disk with every message buys nothing.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.execute_batch(SCHEMA)?;
    let has_groups = connection
        .prepare("SELECT 1 FROM pragma_table_info('messages') WHERE name = 'in_group'")?
        .exists([])?;
    if !has_groups {
        connection.execute_batch(ADD_GROUPS)?;
    }
    connection.execute_batch(GROUP_INDEX)?;
    connection.execute(
        "UPDATE messages SET visible_at = ?1, receipt = NULL WHERE receipt IS NOT NULL",
        [now],
    )?;
    Ok(connection)
}

/// Hides a message behind a new receipt.
fn take(
    connection: &Connection,
    position: i64,
    now: i64,
    hidden_until: i64,
) -> rusqlite::Result<Message> {
    connection
        .prepare_cached(
            "UPDATE messages SET visible_at = ?2, receipt = ?3, receive_count = receive_count + 1,
                 first_received_at = COALESCE(first_received_at, ?4)
             WHERE position = ?1
             RETURNING id, receipt, body, receive_count, sent_at, first_received_at",
        )?
        .query_row(
            params![position, hidden_until, Uuid::new_v4().to_string(), now],
            message,
        )
}

fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    Ok(Message {
        id: row.get(0)?,
        receipt: row.get(1)?,
        body: row.get(2)?,
        receive_count: row.get(3)?,
        sent_at: time_from_ms(row.get(4)?),
        first_received_at: time_from_ms(row.get(5)?),
    })
}

/// Returns how long a message waits after this many receipts.
fn backoff(receive_count: u32) -> Duration {
    let doublings = receive_count.saturating_sub(1).min(16);
    FIRST_BACKOFF
        .saturating_mul(1 << doublings)
        .min(LONGEST_BACKOFF)
}
