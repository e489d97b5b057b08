//! The store in the words of the registry: register, judge, promote, list.
//!
//! Every change is one conditional write or one transaction that also stores its event.
//! What this process has seen last of an item is remembered as a *hint*: it saves the read before a write.
//! A hint is never trusted: the write's condition holds it against the truth, and a refusal brings the truth back.

use super::idempotency::{Answer, KEPT_SECONDS, Outcome, StoredResponse, reused};
use super::items::{
    Builder, INLINE_NOTES_BYTES, ModelItem, Reader, alias_from_item, alias_to_item, as_number,
    delivery_from_item, delivery_to_item, event_from_item, event_to_item, model_from_item,
    model_to_item, notes_json, subscription_from_item, subscription_to_item, version_from_item,
    version_to_item,
};
use super::keys::{self, Key};
use super::table::{
    Expression, Item, Query, Refusal, Table, Write, pause, sort_key, text, throttled,
};
use crate::aws::{Clients, Lazy};
use crate::config::Config;
use crate::domain::model::model_not_found;
use crate::domain::subscription::{DeliveryStatus, MAX_SUBSCRIPTIONS};
use crate::domain::version::{Document, Package, Validation, version_not_found};
use crate::domain::{
    Alias, AliasName, Delivery, Event, Model, ModelName, StageName, Status, Subscription,
    TenantName, Timestamp, Version, VersionId, VersionNumber,
};
use crate::error::{Error, ErrorCode, Result};
use lru::LruCache;
use std::collections::HashMap;
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
}

/// A page of things, and the sort key to go on after.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The things, in order.
    pub items: Vec<T>,
    /// Where the next page begins, if there may be one.
    pub after: Option<String>,
}

/// What is known before an alias is changed.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The alias, if it was ever set.
    pub alias: Option<Alias>,
    /// The version that it shall hold, if one was named.
    pub version: Option<Version>,
    /// When the model was deleted, as far as it was looked at.
    pub model_deleted_at: Option<Timestamp>,
}

/// What became of a wanted change of an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// It was changed.
    Changed(Alias),
    /// It is as wanted already, or was never set.
    Unchanged(Option<Alias>),
}

/// A decided change of an alias.
#[derive(Debug, Clone)]
pub struct AliasChange {
    /// The alias as it will be; its sequence is one more than before.
    pub alias: Alias,
    /// What it held before.
    pub from: Option<VersionNumber>,
    /// The event that tells it.
    pub event: Event,
    /// The answer to store under an idempotency key.
    pub answer: Option<Answer>,
}

/// A decided registration.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The version as it will be.
    pub version: Version,
    /// Documents that get items of their own: name and JSON.
    pub documents: Vec<(&'static str, String)>,
    /// The event that tells it.
    pub event: Event,
    /// The answer to store under an idempotency key.
    pub answer: Option<Answer>,
}

/// A change of one version.
#[derive(Debug, Clone)]
pub enum VersionChange {
    /// The client said that all uploads are done.
    Finalize,
    /// Validation judged it.
    Judge(Box<Judgement>),
    /// Packaging made its package.
    Pack(Package),
    /// It moves to another stage.
    MoveTo {
        /// The stage that it leaves.
        from: StageName,
        /// The stage that it enters.
        to: StageName,
    },
    /// It is deleted, restorably.
    Delete,
    /// It is restored.
    Restore,
    /// Its notes change; `revision` is the one that was read.
    Annotate {
        /// The notes as they will be.
        notes: Document,
        /// JSON of the notes, if they get an item of their own.
        apart: Option<String>,
        /// The revision that was read.
        revision: u64,
    },
}

/// What validation decided.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// `Ready` or `FailedRegistration`.
    pub status: Status,
    /// The verdict in short.
    pub validation: Validation,
    /// The judged artifacts; absent if it failed.
    pub artifacts: Document,
    /// JSON of the judged artifacts, if they get an item of their own.
    pub apart: Option<String>,
    /// Size of all artifacts together, in bytes.
    pub size_bytes: u64,
}

/// A kind of work that the sweep looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkKind {
    /// A version waits for its uploads or its validation.
    Validate,
    /// A ready version waits for its package.
    Package,
    /// A delivery waits for its next attempt.
    Deliver,
    /// A drop-zone folder waits to become quiet.
    Drop,
}

impl WorkKind {
    /// The word in the key.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::Package => "package",
            Self::Deliver => "deliver",
            Self::Drop => "drop",
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
    fn key(&self) -> Key {
        keys::work(self.kind.as_str(), self.due, &self.subject)
    }

    fn to_item(&self) -> Item {
        Builder::at(&self.key())
            .text("subject", &self.subject)
            .build()
    }
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
            table: Table::new(clients.dynamodb(), config),
            streams: clients.streams(),
            hints: Hints::new(),
        }
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    // ---- registered models ----

    /// Creates a registered model with its event.
    pub async fn create_model(
        &self,
        model: &Model,
        event: &Event,
        answer: Option<Answer>,
    ) -> Result<Outcome<()>> {
        let item = model_to_item(model);
        let key = keys::model(&model.tenant, &model.name);
        let mut writes = vec![
            Write::Put {
                item: item.clone(),
                condition: Some(Expression::new("attribute_not_exists(#pk)")),
            },
            put_event(event)?,
        ];
        Self::push_notes(&mut writes, model);
        let outcome = self
            .commit(writes, &model.tenant, answer, |refusals| {
                let existing = refusals.first().and_then(|refusal| refusal.item.as_ref());
                match existing.map(|item| model_from_item(&model.tenant, item)).transpose() {
                    Ok(Some(found)) if found.model.deleted_at.is_some() => Error::new(
                        ErrorCode::Deleted,
                        format!("registered model `{}` exists but was deleted; restore it, or choose another name", model.name),
                    )
                    .with("model", model.name.as_str()),
                    Ok(_) => Error::new(
                        ErrorCode::ModelExists,
                        format!("registered model `{}` exists already; use it, or choose another name", model.name),
                    )
                    .with("model", model.name.as_str()),
                    Err(error) => error,
                }
            })
            .await?;
        self.hints.put(key, item);
        Ok(outcome)
    }

    fn push_notes(writes: &mut Vec<Write>, model: &Model) {
        if let Some(json) = notes_json(&model.notes).filter(|json| json.len() > INLINE_NOTES_BYTES)
        {
            let item = Builder::at(&keys::model_notes(&model.tenant, &model.name))
                .text("json", json)
                .build();
            writes.push(Write::Put {
                item,
                condition: None,
            });
        }
    }

    /// Reads a registered model with its notes.
    pub async fn model(&self, tenant: &TenantName, name: &ModelName) -> Result<Model> {
        let key = keys::model(tenant, name);
        let item = self
            .table
            .get(&key, true)
            .await?
            .ok_or_else(|| model_not_found(name))?;
        self.hints.put(key, item.clone());
        let ModelItem {
            mut model,
            notes_apart,
        } = model_from_item(tenant, &item)?;
        if notes_apart
            && let Some(notes) = self
                .table
                .get(&keys::model_notes(tenant, name), true)
                .await?
        {
            model.notes = Reader(&notes).json("json")?;
        }
        Ok(model)
    }

    /// One page of registered models by name, each with its notes.
    pub async fn models(
        &self,
        tenant: &TenantName,
        prefix: &str,
        descending: bool,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Model>> {
        let mut query = Query::new(keys::models(tenant))
            .prefix(prefix)
            .limit(limit)
            .after(after)
            .consistent();
        if descending {
            query = query.backward();
        }
        let (items, after) = self.table.query(query).await?;
        let items = self.with_notes(tenant, &items).await?;
        Ok(Page { items, after })
    }

    /// Reads models from their items, and the notes that lie apart from them in one more call.
    async fn with_notes(&self, tenant: &TenantName, items: &[Item]) -> Result<Vec<Model>> {
        let found = items
            .iter()
            .map(|item| model_from_item(tenant, item))
            .collect::<Result<Vec<_>>>()?;
        let apart: Vec<Key> = found
            .iter()
            .filter(|found| found.notes_apart)
            .map(|found| keys::model_notes(tenant, &found.model.name))
            .collect();
        let mut notes = HashMap::new();
        for item in self.table.batch_get(&apart, true).await? {
            let reader = Reader(&item);
            notes.insert(reader.text("pk")?.to_owned(), reader.json("json")?);
        }
        Ok(found
            .into_iter()
            .map(|found| {
                let mut model = found.model;
                if let Some(apart) = notes.remove(&keys::model_notes(tenant, &model.name).pk) {
                    model.notes = apart;
                }
                model
            })
            .collect())
    }

    /// One page of registered models that carry a tag, by name; the tag is held against each model itself.
    pub async fn models_with_tag(
        &self,
        tenant: &TenantName,
        tag: (&str, &str),
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Model>> {
        let query = Query::new(keys::tag(tenant, tag.0, tag.1))
            .limit(limit)
            .after(after);
        let (rows, after) = self.table.query(query).await?;
        let mut names: Vec<String> = rows
            .iter()
            .filter(|row| !row.contains_key("gone"))
            .map(sort_key)
            .collect();
        names.sort();
        let keys: Vec<Key> = names
            .iter()
            .map(|name| Key {
                pk: keys::models(tenant),
                sk: name.clone(),
            })
            .collect();
        let items = self.table.batch_get(&keys, false).await?;
        let mut models = self.with_notes(tenant, &items).await?;
        models.retain(|model| model.notes.tags.get(tag.0).map(String::as_str) == Some(tag.1));
        models.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(Page {
            items: models,
            after,
        })
    }

    /// Replaces a registered model as it was read, if nobody changed it since.
    pub async fn replace_model(
        &self,
        before: &Model,
        after: &Model,
        event: &Event,
        answer: Option<Answer>,
    ) -> Result<Outcome<()>> {
        let key = keys::model(&before.tenant, &before.name);
        let notes = notes_json(&after.notes);
        let apart = notes
            .as_ref()
            .is_some_and(|json| json.len() > INLINE_NOTES_BYTES);
        let mut update = String::from("SET #rev = :rev, #updated = :updated, #owner = :owner");
        let mut remove = Vec::new();
        match (&notes, apart) {
            (Some(_), true) => {
                update.push_str(", #notes_at = :at");
                remove.push("#notes");
            }
            (Some(_), false) => {
                update.push_str(", #notes = :notes");
                remove.push("#notes_at");
            }
            (None, _) => remove.extend(["#notes", "#notes_at"]),
        }
        match after.deleted_at {
            Some(_) => update.push_str(", #deleted = :deleted"),
            None => remove.push("#deleted"),
        }
        let mut update = Expression::new(format!("{update} REMOVE {}", remove.join(", ")))
            .value("rev", as_number(after.revision))
            .value("updated", as_number(after.updated_at.millis()))
            .value("owner", text(after.owner.as_str()));
        if let Some(at) = after.deleted_at {
            update = update.value("deleted", as_number(at.millis()));
        }
        if let Some(json) = notes {
            update = if apart {
                update.value("at", text("item"))
            } else {
                update.value("notes", text(json))
            };
        }
        let condition =
            Expression::new("#rev = :before").value("before", as_number(before.revision));
        let mut writes = vec![
            Write::Update {
                key: key.clone(),
                update,
                condition,
            },
            put_event(event)?,
        ];
        Self::push_notes(&mut writes, after);
        self.hints.forget(&key);
        self.commit(writes, &before.tenant, answer, |_| {
            Error::new(
                ErrorCode::Conflict,
                format!(
                    "registered model `{}` was changed meanwhile; read it again and decide anew",
                    before.name
                ),
            )
        })
        .await
    }

    // ---- versions ----

    /// Registers the next version: number, version, event and stored answer in one transaction.
    ///
    /// `decide` gets the model as it is believed to be, and is called again if that was wrong.
    pub async fn register(
        &self,
        tenant: &TenantName,
        name: &ModelName,
        decide: impl Fn(&Model) -> Result<Registration>,
    ) -> Result<Outcome<Version>> {
        let key = keys::model(tenant, name);
        let mut known = self.hints.get(&key);
        for attempt in 1..=RACE_ATTEMPTS {
            let fresh = known.is_none();
            let head = match known.take() {
                Some(item) => item,
                None => self
                    .table
                    .get(&key, true)
                    .await?
                    .ok_or_else(|| model_not_found(name))?,
            };
            let model = model_from_item(tenant, &head)?.model;
            let registration = match decide(&model) {
                Ok(registration) => registration,
                // A stale hint must not refuse what the truth would allow.
                Err(_) if !fresh && attempt == 1 => continue,
                Err(error) => return Err(error),
            };
            let version = registration.version;
            let update = Expression::new("SET #next = :after, #updated = :updated")
                .value("after", as_number(version.id.number.next().get()))
                .value("updated", as_number(version.created_at.millis()));
            let condition = Expression::new("#next = :next AND attribute_not_exists(#deleted)")
                .value("next", as_number(version.id.number.get()));
            let mut writes = vec![
                Write::Update {
                    key: key.clone(),
                    update,
                    condition,
                },
                Write::Put {
                    item: version_to_item(&version)?,
                    condition: Some(Expression::new("attribute_not_exists(#pk)")),
                },
                put_event(&registration.event)?,
            ];
            for (document, json) in &registration.documents {
                writes.push(put_document(&version.id, document, json));
            }
            match self.try_commit(writes, tenant, registration.answer).await? {
                Ok(Outcome::Done(())) => {
                    let mut head = head;
                    head.insert("next".into(), as_number(version.id.number.next().get()));
                    head.insert("updated".into(), as_number(version.created_at.millis()));
                    self.hints.put(key, head);
                    return Ok(Outcome::Done(version));
                }
                Ok(Outcome::Replayed(response)) => return Ok(Outcome::Replayed(response)),
                Err(refusals) => {
                    // The refusal brings the truth, which is good for another try at once; after a few lost
                    // tries it is better to wait, and then to look again, than to stay in step with the others.
                    self.hints.forget(&key);
                    known = refusals.into_iter().next().and_then(|refusal| refusal.item);
                    if attempt > 3 {
                        pause(attempt).await;
                        known = None;
                    }
                }
            }
        }
        Err(throttled())
    }

    /// Reads a version, consistently.
    pub async fn version(&self, id: &VersionId) -> Result<Version> {
        self.find_version(id, true)
            .await?
            .ok_or_else(|| version_not_found(id))
    }

    /// Reads a version as one eventually consistent read: half the price, at most about a second behind.
    pub async fn glance_version(&self, id: &VersionId) -> Result<Version> {
        self.find_version(id, false)
            .await?
            .ok_or_else(|| version_not_found(id))
    }

    async fn find_version(&self, id: &VersionId, consistent: bool) -> Result<Option<Version>> {
        let item = self.table.get(&keys::version(id), consistent).await?;
        item.map(|item| version_from_item(&id.tenant, &id.model, &item))
            .transpose()
    }

    /// One page of versions, newest first unless `ascending`.
    pub async fn versions(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        ascending: bool,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Version>> {
        let mut query = Query::new(keys::model_partition(tenant, model))
            .prefix("V#")
            .limit(limit)
            .after(after);
        if !ascending {
            query = query.backward();
        }
        let (items, after) = self.table.query(query).await?;
        let items = items
            .iter()
            .map(|item| version_from_item(tenant, model, item))
            .collect::<Result<_>>()?;
        Ok(Page { items, after })
    }

    /// JSON of a version's document that has an item of its own.
    pub async fn document(&self, id: &VersionId, document: &str) -> Result<Option<String>> {
        let item = self
            .table
            .get(&keys::version_document(id, document), true)
            .await?;
        item.map(|item| Reader(&item).text("json").map(str::to_owned))
            .transpose()
    }

    /// How far the validation of a version came: the sequence of its checkpoint, and where that lies.
    pub async fn find_checkpoint(&self, id: &VersionId) -> Result<Option<(u64, Document)>> {
        let key = keys::version_document(id, "checkpoint");
        let item = self.table.get(&key, true).await?;
        item.map(|item| {
            let reader = Reader(&item);
            Ok((reader.number("seq")?, reader.document("json")))
        })
        .transpose()
    }

    /// Replaces the checkpoint before `sequence`; `false` if another validation came further meanwhile.
    pub async fn save_checkpoint(
        &self,
        id: &VersionId,
        sequence: u64,
        document: &Document,
        expires: Timestamp,
    ) -> Result<bool> {
        let item = Builder::at(&keys::version_document(id, "checkpoint"))
            .number("seq", sequence)
            .document("json", document)
            .number("ttl", expires.seconds())
            .build();
        let condition = Expression::new("attribute_not_exists(#seq) OR #seq < :seq")
            .value("seq", as_number(sequence));
        let write = Write::Put {
            item,
            condition: Some(condition),
        };
        Ok(self.table.write(write).await?.is_ok())
    }

    /// Changes one version with its event; the condition of each change is part of the change.
    ///
    /// A refusal answers the version as it is, so that the caller can say why.
    pub async fn change_version(
        &self,
        id: &VersionId,
        change: &VersionChange,
        event: &Event,
        answer: Option<Answer>,
    ) -> Result<std::result::Result<Outcome<()>, Option<Version>>> {
        let (mut set, mut remove, mut values) =
            (vec!["#updated = :updated"], Vec::new(), Vec::new());
        values.push(("updated", as_number(event.time.millis())));
        let mut condition_values = Vec::new();
        let pending = text(Status::PendingRegistration.as_str());
        let mut documents = Vec::new();
        let condition = match change {
            VersionChange::Finalize => {
                set.push("#finalized = :finalized");
                values.push(("finalized", as_number(event.time.millis())));
                condition_values.push(("pending", pending));
                "#status = :pending AND attribute_not_exists(#finalized) AND attribute_not_exists(#deleted)"
            }
            VersionChange::Judge(judgement) => {
                set.extend(["#status = :status", "#val = :val", "#bytes = :bytes"]);
                values.push(("status", text(judgement.status.as_str())));
                values.push(("val", text(json_of(&judgement.validation)?)));
                values.push(("bytes", as_number(judgement.size_bytes)));
                match &judgement.artifacts {
                    // A failed version keeps its declaration.
                    Document::Absent => {}
                    Document::Inline(json) => {
                        set.push("#arts = :arts");
                        values.push(("arts", text(json)));
                        remove.push("#arts_at");
                    }
                    Document::Item => {
                        set.push("#arts_at = :arts");
                        values.push(("arts", text("item")));
                        remove.push("#arts");
                    }
                    Document::Object(key) => {
                        set.push("#arts_at = :arts");
                        values.push(("arts", text(key)));
                        remove.push("#arts");
                    }
                }
                if let Some(json) = &judgement.apart {
                    documents.push(("artifacts", json.clone()));
                }
                condition_values.push(("pending", pending));
                "#status = :pending"
            }
            VersionChange::Pack(package) => {
                set.push("#pkg = :pkg");
                values.push(("pkg", text(json_of(package)?)));
                condition_values.push(("ready", text(Status::Ready.as_str())));
                "#status = :ready AND attribute_not_exists(#pkg)"
            }
            VersionChange::MoveTo { from, to } => {
                set.push("#stage = :to");
                values.push(("to", text(to.as_str())));
                condition_values.push(("from", text(from.as_str())));
                condition_values.push(("ready", text(Status::Ready.as_str())));
                "#stage = :from AND #status = :ready AND attribute_not_exists(#deleted)"
            }
            VersionChange::Delete => {
                set.push("#deleted = :deleted");
                values.push(("deleted", as_number(event.time.millis())));
                condition_values.push(("none", as_number(0)));
                "#aliases = :none AND attribute_not_exists(#deleted)"
            }
            VersionChange::Restore => {
                remove.push("#deleted");
                "attribute_exists(#deleted)"
            }
            VersionChange::Annotate {
                notes,
                apart,
                revision,
            } => {
                set.push("#rev = :rev");
                values.push(("rev", as_number(revision + 1)));
                match notes {
                    Document::Absent => remove.extend(["#notes", "#notes_at"]),
                    Document::Inline(json) => {
                        set.push("#notes = :notes");
                        values.push(("notes", text(json)));
                        remove.push("#notes_at");
                    }
                    Document::Item => {
                        set.push("#notes_at = :notes");
                        values.push(("notes", text("item")));
                        remove.push("#notes");
                    }
                    Document::Object(key) => {
                        set.push("#notes_at = :notes");
                        values.push(("notes", text(key)));
                        remove.push("#notes");
                    }
                }
                if let Some(json) = apart {
                    documents.push(("notes", json.clone()));
                }
                condition_values.push(("read", as_number(revision)));
                "#rev = :read AND attribute_not_exists(#deleted)"
            }
        };
        let mut update = format!("SET {}", set.join(", "));
        if !remove.is_empty() {
            update.push_str(" REMOVE ");
            update.push_str(&remove.join(", "));
        }
        let update = values
            .into_iter()
            .fold(Expression::new(update), |expression, (name, value)| {
                expression.value(name, value)
            });
        let condition = condition_values
            .into_iter()
            .fold(Expression::new(condition), |expression, (name, value)| {
                expression.value(name, value)
            });
        let key = keys::version(id);
        let mut writes = vec![
            Write::Update {
                key: key.clone(),
                update,
                condition,
            },
            put_event(event)?,
        ];
        writes.extend(
            documents
                .iter()
                .map(|(name, json)| put_document(id, name, json)),
        );
        self.hints.forget(&key);
        match self.try_commit(writes, &id.tenant, answer).await? {
            Ok(outcome) => Ok(Ok(outcome)),
            Err(refusals) => {
                let item = refusals.into_iter().next().and_then(|refusal| refusal.item);
                let version = item
                    // An update of a missing item is refused with an empty one.
                    .filter(|item| item.contains_key("status"))
                    .map(|item| version_from_item(&id.tenant, &id.model, &item))
                    .transpose()?;
                Ok(Err(version))
            }
        }
    }

    // ---- aliases ----

    /// Reads an alias: one eventually consistent read.
    pub async fn find_alias(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        name: &AliasName,
    ) -> Result<Option<Alias>> {
        let item = self
            .table
            .get(&keys::alias(tenant, model, name), false)
            .await?;
        item.map(|item| alias_from_item(tenant, model, &item))
            .transpose()
    }

    /// Reads an alias consistently, or answers what this process saw last if that is at `sequence`.
    pub async fn current_alias(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        name: &AliasName,
        sequence: Option<u64>,
    ) -> Result<Option<Alias>> {
        let key = keys::alias(tenant, model, name);
        if let (Some(item), Some(sequence)) = (self.hints.get(&key), sequence) {
            let alias = alias_from_item(tenant, model, &item)?;
            if alias.sequence == sequence {
                return Ok(Some(alias));
            }
        }
        let item = self.table.get(&key, true).await?;
        if let Some(item) = &item {
            self.hints.put(key, item.clone());
        }
        item.map(|item| alias_from_item(tenant, model, &item))
            .transpose()
    }

    /// All aliases of a model that hold a version, by name.
    pub async fn aliases(&self, tenant: &TenantName, model: &ModelName) -> Result<Vec<Alias>> {
        let query = Query::new(keys::model_partition(tenant, model))
            .prefix("A#")
            .consistent();
        let items = self.table.query_all(query, 10_000).await?;
        let aliases = items
            .iter()
            .map(|item| alias_from_item(tenant, model, item))
            .collect::<Result<Vec<_>>>()?;
        Ok(aliases
            .into_iter()
            .filter(|alias| alias.version.is_some())
            .collect())
    }

    /// Changes an alias with its history entry, its versions' counts and the stored answer in one transaction.
    ///
    /// `decide` gets what is believed, with whether it was just read, and is called again if that was wrong.
    /// It answers `None` if there is nothing to change.
    pub async fn change_alias(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        name: &AliasName,
        target: Option<VersionNumber>,
        decide: impl Fn(&Loaded) -> Result<Option<AliasChange>>,
    ) -> Result<Outcome<Moved>> {
        let alias_key = keys::alias(tenant, model, name);
        let mut use_hints = true;
        for attempt in 1..=RACE_ATTEMPTS {
            let (loaded, fresh) = self
                .load_alias(tenant, model, name, target, use_hints)
                .await?;
            let change = match decide(&loaded) {
                Ok(Some(change)) => change,
                // What a hint says must be confirmed before it refuses, or decides that nothing is to do.
                Ok(None) | Err(_) if !fresh => {
                    use_hints = false;
                    continue;
                }
                Ok(None) => return Ok(Outcome::Done(Moved::Unchanged(loaded.alias))),
                Err(error) => return Err(error),
            };
            let writes = Self::alias_writes(&change, loaded.alias.as_ref())?;
            match self
                .try_commit(writes, tenant, change.answer.clone())
                .await?
            {
                Ok(Outcome::Done(())) => {
                    self.hints.put(alias_key, alias_to_item(&change.alias));
                    return Ok(Outcome::Done(Moved::Changed(change.alias)));
                }
                Ok(Outcome::Replayed(response)) => return Ok(Outcome::Replayed(response)),
                Err(_) => {
                    use_hints = false;
                    self.hints.forget(&alias_key);
                    pause(attempt.min(4)).await;
                }
            }
        }
        Err(throttled())
    }

    async fn load_alias(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        name: &AliasName,
        target: Option<VersionNumber>,
        use_hints: bool,
    ) -> Result<(Loaded, bool)> {
        let alias_key = keys::alias(tenant, model, name);
        let version_key = target.map(|number| {
            keys::version(&VersionId {
                tenant: tenant.clone(),
                model: model.clone(),
                number,
            })
        });
        let parse = |alias: Option<Item>, version: Option<Item>| -> Result<Loaded> {
            Ok(Loaded {
                alias: alias
                    .map(|item| alias_from_item(tenant, model, &item))
                    .transpose()?,
                version: version
                    .map(|item| version_from_item(tenant, model, &item))
                    .transpose()?,
                model_deleted_at: None,
            })
        };
        if use_hints {
            let hinted_version = version_key.as_ref().map(|key| self.hints.get(key));
            let version_known = hinted_version.as_ref().is_none_or(Option::is_some);
            if let (Some(alias), true) = (self.hints.get(&alias_key), version_known) {
                return Ok((parse(Some(alias), hinted_version.flatten())?, false));
            }
        }
        let model_key = keys::model(tenant, model);
        let mut wanted = vec![model_key.clone(), alias_key.clone()];
        wanted.extend(version_key.clone());
        let (mut head, mut alias, mut version) = (None, None, None);
        for item in self.table.batch_get(&wanted, true).await? {
            if Reader(&item).text("pk")? == model_key.pk {
                head = Some(item);
            } else if sort_key(&item) == alias_key.sk {
                self.hints.put(alias_key.clone(), item.clone());
                alias = Some(item);
            } else if let Some(key) = &version_key {
                // A version that may still change what an alias copies from it is not worth a hint.
                if item.contains_key("pkg") {
                    self.hints.put(key.clone(), item.clone());
                }
                version = Some(item);
            }
        }
        let head = head.ok_or_else(|| model_not_found(model))?;
        let mut loaded = parse(alias, version)?;
        loaded.model_deleted_at = model_from_item(tenant, &head)?.model.deleted_at;
        self.hints.put(model_key, head);
        Ok((loaded, true))
    }

    fn alias_writes(change: &AliasChange, before: Option<&Alias>) -> Result<Vec<Write>> {
        let alias = &change.alias;
        let id = |number| VersionId {
            tenant: alias.tenant.clone(),
            model: alias.model.clone(),
            number,
        };
        let condition = match before {
            None => Expression::new("attribute_not_exists(#pk)"),
            Some(before) => Expression::new("#seq = :seq").value("seq", as_number(before.sequence)),
        };
        let mut writes = vec![
            Write::Put {
                item: alias_to_item(alias),
                condition: Some(condition),
            },
            put_event(&change.event)?,
        ];
        if let Some(to) = alias.version {
            writes.push(Write::Update {
                key: keys::version(&id(to)),
                update: Expression::new("SET #aliases = #aliases + :one")
                    .value("one", as_number(1)),
                condition: Expression::new("#status = :ready AND attribute_not_exists(#deleted)")
                    .value("ready", text(Status::Ready.as_str())),
            });
        }
        if let Some(from) = change.from {
            writes.push(Write::Update {
                key: keys::version(&id(from)),
                update: Expression::new("SET #aliases = #aliases - :one")
                    .value("one", as_number(1)),
                condition: Expression::new("#aliases > :zero").value("zero", as_number(0)),
            });
        }
        Ok(writes)
    }

    /// One page of an alias's history, newest first unless `ascending`.
    pub async fn alias_history(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        alias: &AliasName,
        ascending: bool,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Event>> {
        self.event_page(
            keys::model_partition(tenant, model),
            &keys::history_prefix(alias),
            ascending,
            limit,
            after,
        )
        .await
    }

    /// One page of a model's events other than alias changes, newest first unless `ascending`.
    pub async fn model_events(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        ascending: bool,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Event>> {
        self.event_page(
            keys::model_partition(tenant, model),
            "E#",
            ascending,
            limit,
            after,
        )
        .await
    }

    async fn event_page(
        &self,
        pk: String,
        prefix: &str,
        ascending: bool,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Event>> {
        let mut query = Query::new(pk).prefix(prefix).limit(limit).after(after);
        if !ascending {
            query = query.backward();
        }
        let (items, after) = self.table.query(query).await?;
        Ok(Page {
            items: items.iter().map(event_from_item).collect::<Result<_>>()?,
            after,
        })
    }

    /// Records an event that goes with no other change, once if an answer is stored with it.
    pub async fn record_event(&self, event: &Event, answer: Option<Answer>) -> Result<Outcome<()>> {
        self.commit(vec![put_event(event)?], &event.tenant, answer, |_| {
            Error::internal("recording an event", "its id exists already")
        })
        .await
    }

    /// The newest event of a kind about a version, if it is among the model's latest hundred.
    pub async fn find_version_event(
        &self,
        id: &VersionId,
        kind: crate::domain::EventType,
    ) -> Result<Option<Event>> {
        let page = self
            .model_events(&id.tenant, &id.model, false, 100, None)
            .await?;
        Ok(page
            .items
            .into_iter()
            .find(|event| event.kind == kind && event.version == Some(id.number)))
    }

    // ---- subscriptions and deliveries ----

    /// Creates a subscription, refusing one too many.
    pub async fn create_subscription(
        &self,
        subscription: &Subscription,
        answer: Option<Answer>,
    ) -> Result<Outcome<()>> {
        if self.subscriptions(&subscription.tenant).await?.len() >= MAX_SUBSCRIPTIONS {
            return Err(Error::new(
                ErrorCode::Conflict,
                format!("there are {MAX_SUBSCRIPTIONS} subscriptions already; delete one first"),
            ));
        }
        let writes = vec![Write::Put {
            item: subscription_to_item(subscription)?,
            condition: Some(Expression::new("attribute_not_exists(#pk)")),
        }];
        self.commit(writes, &subscription.tenant, answer, |_| {
            Error::internal("creating a subscription", "its id exists already")
        })
        .await
    }

    /// All subscriptions of a tenant, oldest first.
    pub async fn subscriptions(&self, tenant: &TenantName) -> Result<Vec<Subscription>> {
        let query = Query::new(keys::subscriptions(tenant)).consistent();
        let items = self.table.query_all(query, MAX_SUBSCRIPTIONS * 4).await?;
        items.iter().map(subscription_from_item).collect()
    }

    /// Reads a subscription.
    pub async fn find_subscription(
        &self,
        tenant: &TenantName,
        id: &str,
    ) -> Result<Option<Subscription>> {
        let item = self
            .table
            .get(&keys::subscription(tenant, id), true)
            .await?;
        item.as_ref().map(subscription_from_item).transpose()
    }

    /// Deletes a subscription; whether there was one.
    pub async fn delete_subscription(&self, tenant: &TenantName, id: &str) -> Result<bool> {
        let write = Write::Delete {
            key: keys::subscription(tenant, id),
            condition: Some(Expression::new("attribute_exists(#pk)")),
        };
        Ok(self.table.write(write).await?.is_ok())
    }

    /// Whether an event was dispatched: it stands in the feed.
    pub async fn is_dispatched(&self, event: &Event) -> Result<bool> {
        let key = keys::feed(&event.tenant, event.time, &event.id);
        Ok(self.table.get(&key, true).await?.is_some())
    }

    /// Puts an event into the feed together with its deliveries and the work that they are, once.
    ///
    /// Answers `false` if it was dispatched before.
    pub async fn dispatch(
        &self,
        event: &Event,
        deliveries: &[Delivery],
        work: &[WorkItem],
    ) -> Result<bool> {
        let feed_key = keys::feed(&event.tenant, event.time, &event.id);
        let mut writes = vec![Write::Put {
            item: Builder::at(&feed_key).json("event", event)?.build(),
            condition: Some(Expression::new("attribute_not_exists(#pk)")),
        }];
        for delivery in deliveries {
            writes.push(Write::Put {
                item: delivery_to_item(&event.tenant, delivery, event)?,
                condition: None,
            });
            writes.push(Write::Put {
                item: delivery_work(&event.tenant, delivery).to_item(),
                condition: None,
            });
        }
        writes.extend(work.iter().map(|work| Write::Put {
            item: work.to_item(),
            condition: None,
        }));
        if writes.len() == 1 {
            let write = writes.remove(0);
            return Ok(self.table.write(write).await?.is_ok());
        }
        Ok(self.table.transact(&writes).await?.is_ok())
    }

    /// Reads a delivery with its event.
    pub async fn find_delivery(
        &self,
        tenant: &TenantName,
        subscription_id: &str,
        event_id: &str,
    ) -> Result<Option<(Delivery, Event)>> {
        let item = self
            .table
            .get(&keys::delivery(tenant, subscription_id, event_id), true)
            .await?;
        item.as_ref().map(delivery_from_item).transpose()
    }

    /// One page of a subscription's deliveries, newest first.
    pub async fn deliveries(
        &self,
        tenant: &TenantName,
        subscription_id: &str,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<(Delivery, Event)>> {
        let query = Query::new(keys::deliveries(tenant, subscription_id))
            .backward()
            .limit(limit)
            .after(after);
        let (items, after) = self.table.query(query).await?;
        Ok(Page {
            items: items
                .iter()
                .map(delivery_from_item)
                .collect::<Result<_>>()?,
            after,
        })
    }

    /// Records an attempt and moves the delivery's due work along; whether nobody else recorded one meanwhile.
    pub async fn record_attempt(
        &self,
        tenant: &TenantName,
        before: &Delivery,
        after: &Delivery,
        event: &Event,
    ) -> Result<bool> {
        let mut writes = vec![
            Write::Put {
                item: delivery_to_item(tenant, after, event)?,
                condition: Some(
                    Expression::new("#tries = :tries")
                        .value("tries", as_number(before.attempts.len())),
                ),
            },
            Write::Delete {
                key: delivery_work(tenant, before).key(),
                condition: None,
            },
        ];
        if after.status == DeliveryStatus::Pending {
            writes.push(Write::Put {
                item: delivery_work(tenant, after).to_item(),
                condition: None,
            });
        }
        Ok(self.table.transact(&writes).await?.is_ok())
    }

    // ---- work ----

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

    // ---- tag index ----

    /// Brings the index of one tag of a model in line with what the model carries at `revision`.
    ///
    /// A row keeps the revision that wrote it, so that events which come late or twice change nothing.
    pub async fn index_tag(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        tag: (&str, &str),
        is_carried: bool,
        revision: u64,
        expires: Timestamp,
    ) -> Result<()> {
        let key = Key {
            pk: keys::tag(tenant, tag.0, tag.1),
            sk: model.as_str().to_owned(),
        };
        let update = if is_carried {
            Expression::new("SET #rev = :rev REMOVE #gone, #ttl").value("rev", as_number(revision))
        } else {
            Expression::new("SET #rev = :rev, #gone = :gone, #ttl = :ttl")
                .value("rev", as_number(revision))
                .value("gone", as_number(1))
                .value("ttl", as_number(expires.seconds()))
        };
        let condition = Expression::new("attribute_not_exists(#rev) OR #rev <= :rev")
            .value("rev", as_number(revision));
        self.table
            .write(Write::Update {
                key,
                update,
                condition,
            })
            .await
            .map(drop)
    }

    // ---- idempotency ----

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

    /// Stores an answer alone, for operations that write nothing else; the first one wins.
    pub async fn keep_answer(&self, tenant: &TenantName, answer: Answer) -> Result<Outcome<()>> {
        self.commit(Vec::new(), tenant, Some(answer), |_| throttled())
            .await
    }

    // ---- committing ----

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

/// The work that a pending delivery is.
pub(super) fn delivery_work(tenant: &TenantName, delivery: &Delivery) -> WorkItem {
    WorkItem {
        kind: WorkKind::Deliver,
        due: delivery.due_at,
        subject: serde_json::json!({
            "tenant": tenant.as_str(), "subscription": delivery.subscription_id, "event": delivery.event_id,
        })
        .to_string(),
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

fn put_document(id: &VersionId, document: &str, json: &str) -> Write {
    let item = Builder::at(&keys::version_document(id, document))
        .text("json", json)
        .build();
    Write::Put {
        item,
        condition: None,
    }
}

fn json_of(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::internal("writing JSON", error))
}

/// The event within a stream record's new image, if the record is an event.
pub(super) fn event_of_image(item: &Item) -> Option<Result<Event>> {
    let sk = sort_key(item);
    let is_event = (sk.starts_with("E#") || sk.starts_with("H#")) && item.contains_key("event");
    is_event.then(|| event_from_item(item))
}
