//! Versions: register, read, list, change; and their checkpoints.

use super::identity::{Slot, is_marked, slot_of, still_named, unmarked};
use super::{Page, RACE_ATTEMPTS, Registry, json_of, put_event};
use crate::domain::model::model_not_found;
use crate::domain::version::{Document, Package, Validation, version_not_found};
use crate::domain::{Event, Model, ModelName, Status, TenantName, Timestamp, Version, VersionId};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{Builder, Reader, as_number, version_from_item, version_to_item};
use crate::dynamodb::keys;
use crate::dynamodb::table::{Expression, Write, text, throttled};
use crate::error::Result;

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

impl Registry {
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
                Some(item) => Some(item),
                None => self.table.get(&key, true).await?,
            };
            let slot = head.map(|item| slot_of(tenant, item)).transpose()?;
            let Some(Slot::Held(model, head)) = slot else {
                return Err(model_not_found(name));
            };
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
            let lies = if model.name.is_known() {
                "#home = :home"
            } else {
                "attribute_not_exists(#home)"
            };
            let mut condition = Expression::new(format!(
                "#next = :next AND attribute_not_exists(#deleted) AND {lies}"
            ))
            .value("next", as_number(version.id.number.get()));
            if model.name.is_known() {
                condition = condition.value("home", text(model.name.home()));
            }
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
                        self.table.pause(attempt).await;
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
        if let Some(item) = item.as_ref().filter(|item| !is_marked(item)) {
            let model = if id.model.is_known() {
                id.model.clone()
            } else {
                // What is not marked lies under the name that it has.
                ModelName::parse(id.model.home())?
            };
            return version_from_item(&id.tenant, &model, item).map(Some);
        }
        let Some(model) = self.elsewhere(&id.tenant, &id.model).await? else {
            return item
                .filter(|_| id.model.is_known())
                .map(|item| version_from_item(&id.tenant, &id.model, &item))
                .transpose();
        };
        let lies_there = model.home() == id.model.home();
        let id = VersionId {
            model,
            ..id.clone()
        };
        let item = match item.filter(|_| lies_there) {
            Some(item) => Some(item),
            None => self.table.get(&keys::version(&id), consistent).await?,
        };
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
        let (model, page) = self
            .page_of(tenant, model, "V#", ascending, limit, after)
            .await?;
        Ok(Page {
            items: page
                .items
                .iter()
                .map(|item| version_from_item(tenant, &model, item))
                .collect::<Result<_>>()?,
            after: page.after,
        })
    }

    /// JSON of a version's document that has an item of its own.
    pub async fn document(&self, id: &VersionId, document: &str) -> Result<Option<String>> {
        let mut item = self
            .table
            .get(&keys::version_document(id, document), true)
            .await?;
        if item.is_none()
            && let Some(model) = self.elsewhere(&id.tenant, &id.model).await?
        {
            let id = VersionId {
                model,
                ..id.clone()
            };
            let key = keys::version_document(&id, document);
            item = self.table.get(&key, true).await?;
        }
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
            VersionChange::Delete => {
                set.push("#deleted = :deleted");
                values.push(("deleted", as_number(event.time.millis())));
                condition_values.push(("none", as_number(0)));
                "#aliases = :none AND attribute_not_exists(#deleted) AND (attribute_not_exists(#reqs) OR #reqs = :none) \
                 AND (attribute_not_exists(#served) OR #served = :none)"
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
        let condition = format!("{condition}{}", unmarked(&id.model));
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
        writes.extend(still_named(&id.tenant, &id.model));
        self.hints.forget(&key);
        match self.try_commit(writes, &id.tenant, answer.clone()).await? {
            Ok(outcome) => Ok(Ok(outcome)),
            Err(refusals) => {
                let is_current = refusals.first().is_none_or(|refusal| refusal.refused);
                let item = refusals.into_iter().next().and_then(|refusal| refusal.item);
                let has_moved = item
                    .as_ref()
                    .is_none_or(|item| is_marked(item) || !item.contains_key("status"));
                if !id.model.is_known() && has_moved {
                    if let Some(model) = self.elsewhere(&id.tenant, &id.model).await? {
                        let event = event.clone().about(&model);
                        let id = VersionId {
                            model,
                            ..id.clone()
                        };
                        return Box::pin(self.change_version(&id, change, &event, answer)).await;
                    }
                    return Ok(Err(None));
                }
                if !is_current {
                    return Err(throttled());
                }
                let version = item
                    // An update of a missing item is refused with an empty one.
                    .filter(|item| item.contains_key("status"))
                    .map(|item| version_from_item(&id.tenant, &id.model, &item))
                    .transpose()?;
                Ok(Err(version))
            }
        }
    }
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
