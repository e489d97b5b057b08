//! Dead letters: messages that were received too often, kept until a person decides.

use std::time::SystemTime;

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{Error, QueueDefinition, Queues};
use crate::clock::time_from_ms;

/// What is kept as the error of a message that nobody reported a failure for.
const SILENT: &str = "the message was not deleted before its visibility timeout";

/// A message that was received too often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The message's name.
    pub id: String,
    /// The queue that gave it up.
    pub queue: String,
    /// What was sent.
    pub body: String,
    /// How often the message was received.
    pub receive_count: u32,
    /// When the message was sent.
    pub sent_at: SystemTime,
    /// When the queue gave it up.
    pub died_at: SystemTime,
    /// Why the last attempt failed.
    pub last_error: String,
}

impl Queues {
    /// Lists the dead letters of all queues, the oldest first.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, Error> {
        self.connection()
            .prepare_cached(
                "SELECT id, queue, body, receive_count, sent_at, died_at, last_error
                 FROM dead_letters ORDER BY position",
            )
            .and_then(|mut select| {
                select
                    .query_map([], |row| {
                        Ok(DeadLetter {
                            id: row.get(0)?,
                            queue: row.get(1)?,
                            body: row.get(2)?,
                            receive_count: row.get(3)?,
                            sent_at: time_from_ms(row.get(4)?),
                            died_at: time_from_ms(row.get(5)?),
                            last_error: row
                                .get::<_, Option<String>>(6)?
                                .unwrap_or_else(|| SILENT.to_owned()),
                        })
                    })?
                    .collect()
            })
            .map_err(self.failed("listing dead letters"))
    }

    /// Puts a dead letter back into its queue, as if it had never been received, and returns whether there was one.
    pub fn redrive(&self, id: &str) -> Result<bool, Error> {
        let doing = "redriving a dead letter";
        let queue: Option<String> = self
            .connection()
            .query_row(
                "SELECT queue FROM dead_letters WHERE id = ?1",
                [id],
                |row| row.get(0),
            )
            .optional()
            .map_err(self.failed(doing))?;
        match queue {
            Some(queue) => self.put_back(&queue, Some(id)).map(|count| count > 0),
            None => Ok(false),
        }
    }

    /// Puts all dead letters of a queue back, and counts them.
    pub fn redrive_all(&self, queue: &str) -> Result<usize, Error> {
        self.put_back(queue, None)
    }

    fn put_back(&self, queue: &str, id: Option<&str>) -> Result<usize, Error> {
        self.queue(queue)?;
        let doing = "redriving dead letters";
        let now = self.now();
        let mut connection = self.connection();
        let transaction = connection.transaction().map_err(self.failed(doing))?;
        transaction
            .execute(
                "INSERT INTO messages (id, queue, body, sent_at, visible_at, last_error, in_group)
                 SELECT id, queue, body, sent_at, ?3, last_error, in_group FROM dead_letters
                 WHERE queue = ?1 AND id = COALESCE(?2, id) ORDER BY position",
                params![queue, id, now],
            )
            .map_err(self.failed(doing))?;
        let count = transaction
            .execute(
                "DELETE FROM dead_letters WHERE queue = ?1 AND id = COALESCE(?2, id)",
                params![queue, id],
            )
            .map_err(self.failed(doing))?;
        transaction.commit().map_err(self.failed(doing))?;
        self.wake(Some(queue));
        Ok(count)
    }
}

/// Moves a message to the dead letters.
pub(super) fn bury(transaction: &Transaction<'_>, position: i64, now: i64) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO dead_letters (id, queue, body, sent_at, died_at, receive_count, last_error, in_group)
         SELECT id, queue, body, sent_at, ?2, receive_count, last_error, in_group FROM messages WHERE position = ?1",
        [position, now],
    )?;
    transaction.execute("DELETE FROM messages WHERE position = ?1", [position])?;
    Ok(())
}

/// Moves the visible messages of a queue that have no attempt left.
pub(super) fn bury_exhausted(
    transaction: &Transaction<'_>,
    definition: &QueueDefinition,
    now: i64,
) -> rusqlite::Result<()> {
    let exhausted: Vec<i64> = transaction
        .prepare_cached(
            "SELECT position FROM messages
             WHERE queue = ?1 AND visible_at <= ?2 AND receive_count >= ?3 ORDER BY position",
        )?
        .query_map(
            params![definition.name, now, definition.max_receive_count],
            |row| row.get(0),
        )?
        .collect::<Result<_, _>>()?;
    exhausted
        .into_iter()
        .try_for_each(|position| bury(transaction, position, now))
}
