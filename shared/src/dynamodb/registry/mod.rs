//! The store in the words of the registry: register, judge, promote, list.
//!
//! Every change is one conditional write or one transaction that also stores its event.
//! What this process has seen last of an item is remembered as a *hint*: it saves the read before a write.
//! A hint is never trusted: the write's condition holds it against the truth, and a refusal brings the truth back.

mod aliases;
mod archives;
mod chain;
mod contents;
mod deliveries;
mod feed;
mod identity;
mod models;
mod packages;
mod policies;
mod renames;
mod requests;
mod retention;
mod rollouts;
mod settings;
mod stage_changes;
mod stages;
mod subscriptions;
mod tokens;
mod tracking;
mod trusted_keys;
mod versions;
mod work;

pub use aliases::{AliasChange, Committed, DECISIONS, Loaded};
pub use archives::{Archive, ArchiveFormat};
pub use chain::Chained;
pub use contents::{Blob, Contents, Holding};
pub use deliveries::{Lane, Place};
pub use feed::{Dispatch, FEED_DAYS};
pub use packages::{Deleted, Held, Holder, Packing};
pub use policies::StoredPolicy;
pub use renames::{Decide, Naming};
pub use requests::{NewRequest, Promotion, RequestChange, Requested};
pub use rollouts::RolloutChange;
pub use settings::{Evidence, Found, Governing, SettingsChange, SettingsName};
pub use stage_changes::{LifecycleChange, StageChange, StageHolder, StageLoaded};
pub use stages::Neighbours;
pub use tracking::{
    ArtifactRoot, Listed, LoggedModelChange, NewExperiment, Position, RunChange, RunLink,
    RunWithExperiment,
};
pub use trusted_keys::{MAX_TRUSTED_KEYS, TrustedKey};
pub use versions::{Judgement, Registration, Rejudgement, VersionChange};
pub use work::{WorkItem, WorkKind};

use super::idempotency::{Answer, KEPT_SECONDS, Outcome, StoredResponse, reused};
use super::items::{Builder, Reader, as_number, event_from_item, event_to_item};
use super::keys::{self, Key};
use super::table::{Expression, Item, Refusal, Table, Write, sort_key, throttled};
use crate::aws::{Clients, Lazy};
use crate::config::Config;
use crate::domain::{Event, TenantName};
use crate::error::{Error, Result};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

/// How often a lost race is run again before the caller is asked to wait.
const RACE_ATTEMPTS: u32 = 80;

/// The registry's table.
#[derive(Debug, Clone)]
pub struct Registry {
    table: Table,
    pub(super) streams: Lazy<aws_sdk_dynamodbstreams::Client>,
    hints: Hints,
    settings: settings::SettingsCache,
}

/// A page of things, and the sort key to go on after.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The things, in order.
    pub items: Vec<T>,
    /// Where the next page begins, if there may be one.
    pub after: Option<String>,
}

/// The last that this process saw of items, by key.
#[derive(Debug, Clone)]
struct Hints(Arc<Mutex<LruCache<Key, Item>>>);

impl Hints {
    fn new() -> Self {
        let capacity = NonZeroUsize::new(1024).expect("1024 is not zero");
        Self(Arc::new(Mutex::new(LruCache::new(capacity))))
    }

    fn get(&self, key: &Key) -> Option<Item> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    fn put(&self, key: Key, item: Item) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(key, item);
    }

    fn forget(&self, key: &Key) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop(key);
    }
}

impl Registry {
    /// Builds the clients; makes no call.
    pub(crate) fn new(config: &Config, clients: &Clients) -> Self {
        Self {
            table: Table::new(clients, config),
            streams: clients.streams(),
            hints: Hints::new(),
            settings: settings::SettingsCache::new(),
        }
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// What was answered under a key: the stored answer, or an error if the key was used with another request.
    pub async fn find_answer(
        &self,
        tenant: &TenantName,
        idempotency: &super::Idempotency,
    ) -> Result<Option<StoredResponse>> {
        let item = self
            .table
            .get(&keys::idempotency(tenant, &idempotency.key), true)
            .await?;
        item.as_ref()
            .map(|item| stored_response(item, idempotency))
            .transpose()
    }

    /// Waits a little before a change that lost a race is run again, longer each time.
    pub async fn wait_after_conflict(&self, attempt: u32) {
        self.table.pause(attempt.min(5)).await;
    }

    /// Stores an answer alone, for operations that write nothing else; the first one wins.
    pub async fn keep_answer(&self, tenant: &TenantName, answer: Answer) -> Result<Outcome<()>> {
        self.commit(Vec::new(), tenant, Some(answer), |_| throttled())
            .await
    }

    /// Commits all writes and the stored answer, or maps the refusals to an error.
    async fn commit(
        &self,
        writes: Vec<Write>,
        tenant: &TenantName,
        answer: Option<Answer>,
        refused: impl FnOnce(&[Refusal]) -> Error,
    ) -> Result<Outcome<()>> {
        self.try_commit(writes, tenant, answer)
            .await?
            .map_err(|refusals| refused(&refusals))
    }

    async fn try_commit(
        &self,
        mut writes: Vec<Write>,
        tenant: &TenantName,
        answer: Option<Answer>,
    ) -> Result<std::result::Result<Outcome<()>, Vec<Refusal>>> {
        let idempotency = answer.as_ref().map(|answer| answer.idempotency.clone());
        if let Some(answer) = answer {
            let item = Builder::at(&keys::idempotency(tenant, &answer.idempotency.key))
                .text("print", answer.idempotency.fingerprint)
                .json("answer", &answer.response)?
                .number("ttl", answer.at.seconds() + KEPT_SECONDS)
                .build();
            // An answer that outlived its time, but not yet its deletion, counts as gone.
            let condition = Expression::new("attribute_not_exists(#pk) OR #ttl < :now")
                .value("now", as_number(answer.at.seconds()));
            writes.push(Write::Put {
                item,
                condition: Some(condition),
            });
        }
        let refusals = if writes.len() == 1 {
            let write = writes.remove(0);
            self.table
                .write(write)
                .await?
                .map_err(|refusal| vec![refusal])
        } else {
            self.table.transact(&writes).await?
        };
        let Err(refusals) = refusals else {
            return Ok(Ok(Outcome::Done(())));
        };
        if let (Some(idempotency), Some(last)) = (idempotency, refusals.last())
            && let (true, Some(item)) = (last.refused, &last.item)
        {
            return Ok(Ok(Outcome::Replayed(stored_response(item, &idempotency)?)));
        }
        Ok(Err(refusals))
    }
}

fn stored_response(item: &Item, idempotency: &super::Idempotency) -> Result<StoredResponse> {
    let reader = Reader(item);
    if reader.text("print")? != idempotency.fingerprint {
        return Err(reused(&idempotency.key));
    }
    reader.json("answer")
}

fn put_event(event: &Event) -> Result<Write> {
    Ok(Write::Put {
        item: event_to_item(event)?,
        condition: Some(Expression::new("attribute_not_exists(#pk)")),
    })
}

fn json_of(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::internal("writing JSON", error))
}

/// The event within a stream record's new image, if the record is an event.
pub(super) fn event_of_image(item: &Item) -> Option<Result<Event>> {
    let sk = sort_key(item);
    // An event that was chained meanwhile was dispatched; its image comes a second time for that.
    let is_event = (sk.starts_with("E#") || sk.starts_with("H#"))
        && item.contains_key("event")
        && !item.contains_key("chain");
    is_event.then(|| event_from_item(item))
}
