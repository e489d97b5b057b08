//! The embedded DynamoDB.
//!
//! An [`Engine`] keeps tables in an SQLite file through `dynoxide`, answers the DynamoDB and DynamoDB Streams protocols
//! on a loopback address ([`Engine::serve`]), and hands a table's changes to consumers in the way that Lambda's event
//! source mapping does ([`Engine::stream`]). What AWS does in the background happens here when the host asks for it:
//! [`Engine::sweep_ttl`] and [`Engine::trim_streams`].
//!
//! Two things reach below `dynoxide`'s public interface, which is why its version is pinned: an index on its table of
//! stream records, without which every write would read all of them, and the trimming of that table.
//!
//! Known differences from AWS: there is no `TransactionConflict`, reads are never stale, a table's stream has one shard
//! that never closes, and ARNs carry the region `dynoxide` everywhere except in the records that a [`Stream`] returns.

mod protocol;
mod stream;
mod tables;

pub use stream::{Stream, StreamRecord, to_stream_event};

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use dynoxide::{Database, DynoxideError, storage::Storage, storage_backend};
use futures::FutureExt as _;
use rusqlite::Connection;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::{
    clock::Clock,
    data_folder::{DataFolder, DataFolderError},
};

/// How long a statement of ours waits for a write of `dynoxide`'s to end.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Finds the last stream record of a table at once.
///
/// `dynoxide` asks for `MAX(CAST(sequence_number AS INTEGER))` on each write to a table with a stream. Without an index
/// on that very expression SQLite reads every record to answer.
const STREAM_INDEX: &str = "CREATE INDEX IF NOT EXISTS slipway_stream_sequence \
     ON _stream_records (table_name, CAST(sequence_number AS INTEGER))";

/// The embedded DynamoDB; clones share one database.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// The order of the fields matters: the databases are closed before the folder is unlocked and perhaps removed.
struct Inner {
    database: Database,
    /// Our own connection to `dynoxide`'s file, for what its interface does not offer.
    records: Mutex<Connection>,
    checkpoints: Mutex<Connection>,
    turn: protocol::Turn,
    path: PathBuf,
    clock: Clock,
    _folder: DataFolder,
}

/// Why the embedded DynamoDB could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The data folder cannot be used.
    #[error("the embedded DynamoDB cannot use its data folder")]
    Folder(#[from] DataFolderError),
    /// The path of the data folder cannot be given to SQLite.
    #[error("the path `{}` is not valid UTF-8; choose another data folder", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// `dynoxide` refused or failed.
    #[error("the embedded DynamoDB failed while {doing}")]
    Database {
        /// What was going on.
        doing: String,
        /// What `dynoxide` said.
        source: DynoxideError,
    },
    /// SQLite failed.
    #[error("the embedded DynamoDB's files failed while {doing}; is the disk full?")]
    Sqlite {
        /// What was going on.
        doing: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A table definition is not what `CreateTable` takes.
    #[error("the table definition is not valid: {reason}; write it as CreateTable takes it")]
    Definition {
        /// What is wrong with it.
        reason: String,
    },
    /// A table exists with another definition.
    #[error(
        "the table `{table}` exists with another {what} than its definition says; \
         rename the table, or choose another data folder"
    )]
    TableDiffers {
        /// The table.
        table: String,
        /// Which part of the definition differs.
        what: &'static str,
    },
    /// A table has no stream.
    #[error("the table `{table}` has no stream; create it with a `StreamSpecification`")]
    NoStream {
        /// The table.
        table: String,
    },
    /// A sequence number is not one of the stream's.
    #[error(
        "`{sequence_number}` is not a sequence number of the stream; acknowledge one that a batch contained"
    )]
    SequenceNumber {
        /// The number.
        sequence_number: String,
    },
    /// A record of the stream cannot be read.
    #[error("a record of the stream of `{table}` cannot be read")]
    Record {
        /// The table.
        table: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The server was to listen on an address that others reach.
    #[error(
        "the embedded DynamoDB checks no signatures and cannot listen on `{address}`; use a loopback address"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The listener's socket failed.
    #[error("the listener of the embedded DynamoDB is not usable")]
    Listener(#[source] std::io::Error),
    /// The server ended by itself.
    #[error("the embedded DynamoDB stopped serving: {reason}")]
    Serve {
        /// What the server said.
        reason: String,
    },
}

impl Engine {
    /// Opens the database of a data folder.
    ///
    /// The clock decides what has expired. The times in stream records come from the operating system's clock, because
    /// `dynoxide` takes no other for a database in a file.
    pub fn open(folder: &DataFolder, clock: Clock) -> Result<Self, Error> {
        let subfolder = folder.subfolder("dynamodb")?;
        let path = subfolder.join("tables.db");
        let database = Database::new(text(&path)?).map_err(failed("opening its tables"))?;
        let records = Connection::open(&path).and_then(|records| {
            records.busy_timeout(BUSY_TIMEOUT)?;
            // What we write here is the removal of old records, and losing that in a power cut costs nothing.
            records.pragma_update(None, "synchronous", "NORMAL")?;
            records.execute_batch(STREAM_INDEX)?;
            Ok(records)
        });
        let records = records.map_err(sqlite("indexing its stream records"))?;
        let checkpoints = stream::open_checkpoints(&subfolder.join("checkpoints.db"))
            .map_err(sqlite("opening its checkpoints"))?;
        Ok(Self {
            inner: Arc::new(Inner {
                database,
                records: Mutex::new(records),
                checkpoints: Mutex::new(checkpoints),
                turn: protocol::Turn::default(),
                path,
                clock,
                _folder: folder.clone(),
            }),
        })
    }

    /// Answers the DynamoDB and DynamoDB Streams protocols until `shutdown` resolves.
    ///
    /// Requests that are running then are finished first. They run on the caller's runtime and hold its thread for the
    /// time that SQLite takes, about half a millisecond for a write, so give it more than one thread if that matters.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Error> {
        let address = listener.local_addr().map_err(Error::Listener)?;
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback { address });
        }
        // Accepted sockets inherit the option from the listener; without it, small answers wait for acknowledgements.
        socket2::SockRef::from(&listener)
            .set_tcp_nodelay(true)
            .map_err(Error::Listener)?;
        dynoxide::server::serve_with_shutdown(listener, self.inner.database.clone(), shutdown)
            .await
            .map_err(|reason| Error::Serve { reason })
    }

    /// Creates a table, or checks that it exists as defined.
    ///
    /// The definition is the JSON that `CreateTable` takes. As in a SAM template, it may also name the
    /// attribute that expires items, and leave `StreamEnabled` to be understood:
    ///
    /// ```json
    /// {
    ///   "StreamSpecification": { "StreamViewType": "NEW_IMAGE" },
    ///   "TimeToLiveSpecification": { "AttributeName": "ttl", "Enabled": true }
    /// }
    /// ```
    pub fn create_table(&self, definition: Value) -> Result<(), Error> {
        tables::create(&self.inner.database, definition)
    }

    /// Deletes the items whose time to live is over, and counts them.
    ///
    /// AWS does so within a few days; here it happens when asked. The removals appear in the stream with the identity
    /// of the service, as they do on AWS.
    pub fn sweep_ttl(&self) -> Result<usize, Error> {
        // The database that serves requests goes by the operating system's clock and cannot be told otherwise. A
        // storage of its own, opened for this sweep, takes ours; SQLite keeps the two apart item by item.
        let storage = Storage::new(text(&self.inner.path)?)
            .map_err(failed("opening its tables for a sweep"))?;
        let storage = storage.with_clock(Arc::new(EngineClock(self.inner.clock.clone())));
        dynoxide::ttl::sweep_expired_items(&storage)
            .now_or_never()
            .expect("a native storage answers within the call")
            .map_err(failed("deleting expired items"))
    }

    /// Opens the stream of a table for a named consumer.
    ///
    /// A consumer that is new begins with the oldest record; one that is known goes on after the last record that it
    /// acknowledged.
    pub fn stream(&self, table: &str, consumer: &str) -> Result<Stream, Error> {
        Stream::open(self.clone(), table, consumer)
    }

    /// Deletes stream records that are older than 24 hours, and counts them.
    ///
    /// Unlike AWS, it spares for 30 days what a consumer has not acknowledged: AWS never sleeps, but a laptop does, and
    /// a weekend must not cost it its events. It also keeps the newest record of each table, because the next sequence
    /// number is counted from it.
    pub fn trim_streams(&self) -> Result<usize, Error> {
        stream::trim(self)
    }

    fn now_secs(&self) -> u64 {
        (self.inner.clock)()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    }

    fn database(&self) -> &Database {
        &self.inner.database
    }

    fn records(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere leaves the connection usable: SQLite rolled its statement back.
        self.inner
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn checkpoints(&self) -> MutexGuard<'_, Connection> {
        self.inner
            .checkpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Engine")
            .field("path", &self.inner.path)
            .finish_non_exhaustive()
    }
}

/// Our clock, as `dynoxide` asks for it.
struct EngineClock(Clock);

impl storage_backend::Clock for EngineClock {
    fn now_unix_secs(&self) -> u64 {
        (self.0)()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    }

    fn now_unix_secs_f64(&self) -> f64 {
        (self.0)()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64()
    }
}

fn text(path: &Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| Error::Path {
        path: path.to_owned(),
    })
}

fn failed(doing: impl Into<String>) -> impl FnOnce(DynoxideError) -> Error {
    move |source| Error::Database {
        doing: doing.into(),
        source,
    }
}

fn sqlite(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |source| Error::Sqlite { doing, source }
}
