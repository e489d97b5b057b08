//! Versions: register, read, list, change; and their checkpoints.

use super::identity::{Slot, is_marked, slot_of, still_named, touch, unmarked};
use super::stages::Shift;
use super::{Page, RACE_ATTEMPTS, Registry, json_of, put_event};
use crate::domain::model::model_not_found;
use crate::domain::version::{Document, Validation, version_not_found};
use crate::domain::{
    Event, Model, ModelName, StageName, Status, TenantName, Timestamp, Version, VersionId,
};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{
    Builder, Reader, as_number, top_of, version_from_item, version_to_item,
};
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::table::{Expression, Query, Write, text, throttled};
use crate::error::Result;
use aws_sdk_dynamodb::types::AttributeValue;
use std::collections::HashMap;

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
    /// Validation judged it again.
    Rejudge(Box<Rejudgement>),
    /// It is deleted, restorably.
    Delete,
    /// It is restored, into the stage in which it was deleted.
    Restore {
        /// That stage.
        stage: StageName,
    },
    /// Its notes change; `revision` is the one that was read.
    Annotate {
        /// The notes as they will be.
        notes: Document,
        /// JSON of the notes, if they get an item of their own.
        apart: Option<String>,
        /// The revision that was read.
        revision: u64,
        /// When the version counts as changed last.
        updated_at: Timestamp,
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
    /// The object that holds the declaration, if it is one and the judged artifacts take its place.
    pub declared_at: Option<String>,
}

/// What validation decided of a version that was judged before.
#[derive(Debug, Clone)]
pub struct Rejudgement {
    /// What was found before; the change is refused if somebody else judged it again meanwhile.
    pub before: Validation,
    /// The new judgement; without artifacts, those of the version stay.
    pub judgement: Judgement,
    /// Since when it is ready but not accepted, if it is not.
    pub revoked_at: Option<Timestamp>,
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
        let mut may_link = true;
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
            let update = Expression::new("SET #next = :after, #updated = :updated, #top = :number")
                .named("top", top_of(&version.stage))
                .value("number", as_number(version.id.number.get()))
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
            writes.extend(Self::link_to_origin(&version));
            // Last but for the stored answer, so that its own refusal can be told from the others'.
            let link = match &version.origin {
                Some(origin) if may_link => {
                    Box::pin(self.link_to_logged_model(&version.id, origin)).await?
                }
                _ => None,
            };
            let link_at = link.is_some().then_some(writes.len());
            writes.extend(link);
            match self.try_commit(writes, tenant, registration.answer).await? {
                Ok(Outcome::Done(())) => {
                    let mut head = head;
                    head.insert("next".into(), as_number(version.id.number.next().get()));
                    head.insert("updated".into(), as_number(version.created_at.millis()));
                    head.insert(top_of(&version.stage), as_number(version.id.number.get()));
                    self.hints.put(key, head);
                    return Ok(Outcome::Done(version));
                }
                Ok(Outcome::Replayed(response)) => return Ok(Outcome::Replayed(response)),
                Err(refusals) => {
                    let refused = |at: usize| refusals.get(at).is_some_and(|one| one.refused);
                    may_link &= !link_at.is_some_and(refused);
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

    /// Reads a version that is there, and of a model that is there: MLflow knows no restorable deletion.
    pub async fn live_version(&self, id: &VersionId) -> Result<Version> {
        let head_key = keys::model(&id.tenant, &id.model.plain());
        let key = keys::version(id);
        let (mut head, mut found) = (None, None);
        for item in self
            .table
            .batch_get(&[head_key.clone(), key.clone()], true)
            .await?
        {
            if Reader(&item).text("pk")? == head_key.pk {
                head = Some(slot_of(&id.tenant, item)?);
            } else {
                found = Some(item);
            }
        }
        let Some(Slot::Held(model, _)) = head else {
            return Err(version_not_found(id));
        };
        if model.deleted_at.is_some() {
            return Err(version_not_found(id));
        }
        let id = VersionId {
            model: model.name.clone(),
            ..id.clone()
        };
        if keys::version(&id) != key {
            found = self.table.get(&keys::version(&id), true).await?;
        }
        let item = found.ok_or_else(|| version_not_found(&id))?;
        let version = version_from_item(&id.tenant, &id.model, &item)?;
        version.require_live()?;
        Ok(version)
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

    /// One page of versions by number, consistently, for searches that must know all of them.
    ///
    /// The model is one whose head was read.
    pub async fn all_versions(
        &self,
        model: &Model,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Version>> {
        let query = Query::new(keys::model_partition(&model.tenant, &model.name))
            .prefix("V#")
            .limit(limit)
            .after(after)
            .consistent();
        let (items, after) = self.table.query(query).await?;
        let items = items
            .iter()
            .map(|item| version_from_item(&model.tenant, &model.name, item))
            .collect::<Result<_>>()?;
        Ok(Page { items, after })
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

    /// JSON of one document each of several versions, by version; in one call for every hundred.
    pub async fn documents(
        &self,
        ids: &[&VersionId],
        document: &str,
    ) -> Result<HashMap<VersionId, String>> {
        let wanted: HashMap<String, &VersionId> = ids
            .iter()
            .map(|id| (keys::version_document(id, document).pk, *id))
            .collect();
        let keys: Vec<Key> = ids
            .iter()
            .map(|id| keys::version_document(id, document))
            .collect();
        let mut found = HashMap::with_capacity(keys.len());
        for item in self.table.batch_get(&keys, true).await? {
            let reader = Reader(&item);
            if let Some(id) = wanted.get(reader.text("pk")?) {
                found.insert((*id).clone(), reader.text("json")?.to_owned());
            }
        }
        Ok(found)
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
                set_judgement(judgement, &mut set, &mut remove, &mut values)?;
                documents.extend(judgement.apart.clone().map(|json| ("artifacts", json)));
                condition_values.push(("pending", pending));
                "#status = :pending"
            }
            VersionChange::Rejudge(again) => {
                set_judgement(&again.judgement, &mut set, &mut remove, &mut values)?;
                documents.extend(
                    again
                        .judgement
                        .apart
                        .clone()
                        .map(|json| ("artifacts", json)),
                );
                match again.revoked_at {
                    Some(at) => {
                        set.push("#revoked = :revoked");
                        values.push(("revoked", as_number(at.millis())));
                    }
                    None => remove.push("#revoked"),
                }
                condition_values.push(("before", text(json_of(&again.before)?)));
                // What was found before says which status it gave.
                "#val = :before"
            }
            VersionChange::Delete => {
                set.push("#deleted = :deleted");
                values.push(("deleted", as_number(event.time.millis())));
                condition_values.push(("none", as_number(0)));
                "#aliases = :none AND attribute_not_exists(#deleted) AND (attribute_not_exists(#reqs) OR #reqs = :none) \
                 AND (attribute_not_exists(#served) OR #served = :none)"
            }
            VersionChange::Restore { stage } => {
                remove.push("#deleted");
                condition_values.push(("stage", text(stage.as_str())));
                "attribute_exists(#deleted) AND attribute_not_exists(#purged) AND #stage = :stage"
            }
            VersionChange::Annotate {
                notes,
                apart,
                revision,
                updated_at,
            } => {
                values.retain(|(name, _)| *name != "updated");
                values.push(("updated", as_number(updated_at.millis())));
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
        let shift = match change {
            VersionChange::Restore { stage } => Some(Shift {
                number: id.number,
                from: None,
                to: stage.clone(),
            }),
            _ => None,
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
        self.hints.forget(&key);
        for attempt in 1..=RACE_ATTEMPTS {
            let mut writes = writes.clone();
            let span = match &shift {
                Some(shift) => {
                    let shifts = std::slice::from_ref(shift);
                    self.span_write(&id.tenant, &id.model, shifts, event.time, false, None)
                        .await?
                }
                None => None,
            };
            let has_span = span.is_some();
            if shift.is_some() && !has_span && id.model.is_known() {
                // The name means another model by now, and may mean this one again when the transaction commits.
                return Err(throttled());
            }
            // The write of the head checks by itself that the model still has its name.
            let head = match change {
                VersionChange::Delete => Some(touch(&id.tenant, &id.model, event.time)),
                _ => span.or_else(|| still_named(&id.tenant, &id.model)),
            };
            writes.extend(head);
            let refusals = match self.try_commit(writes, &id.tenant, answer.clone()).await? {
                Ok(outcome) => return Ok(Ok(outcome)),
                Err(refusals) => refusals,
            };
            let is_current = refusals.first().is_none_or(|refusal| refusal.refused);
            if !is_current && has_span {
                // Only the head refused: another change of a stage came between reading and writing it.
                self.table.pause(attempt.min(4)).await;
                continue;
            }
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
            return Ok(Err(version));
        }
        Err(throttled())
    }
}

/// Adds what a judgement sets to an update.
fn set_judgement<'a>(
    judgement: &Judgement,
    set: &mut Vec<&'a str>,
    remove: &mut Vec<&'a str>,
    values: &mut Vec<(&'a str, AttributeValue)>,
) -> Result<()> {
    set.extend(["#status = :status", "#val = :val", "#bytes = :bytes"]);
    values.push(("status", text(judgement.status.as_str())));
    values.push(("val", text(json_of(&judgement.validation)?)));
    values.push(("bytes", as_number(judgement.size_bytes)));
    if let Some(key) = &judgement.declared_at {
        set.push("#declared_at = :declared_at");
        values.push(("declared_at", text(key)));
    }
    let (attribute, other, value) = match &judgement.artifacts {
        // What is there stays: a failed version keeps its declaration.
        Document::Absent => return Ok(()),
        Document::Inline(json) => ("#arts = :arts", "#arts_at", json.as_str()),
        Document::Item => ("#arts_at = :arts", "#arts", "item"),
        Document::Object(key) => ("#arts_at = :arts", "#arts", key.as_str()),
    };
    set.push(attribute);
    values.push(("arts", text(value)));
    remove.push(other);
    Ok(())
}

pub(super) fn put_document(id: &VersionId, document: &str, json: &str) -> Write {
    let item = Builder::at(&keys::version_document(id, document))
        .text("json", json)
        .build();
    Write::Put {
        item,
        condition: None,
    }
}
