//! Registered models: read, list, replace; and the index of their tags.

use super::identity::Slot;
use super::{Page, Registry, put_event};
use crate::domain::model::model_not_found;
use crate::domain::{Event, Model, ModelName, TenantName, Timestamp};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{
    Builder, INLINE_NOTES_BYTES, ModelItem, Reader, as_number, model_from_item, notes_json,
};
use crate::dynamodb::keys;
use crate::dynamodb::keys::Key;
use crate::dynamodb::table::{Expression, Item, Query, Write, sort_key, text};
use crate::error::{Error, ErrorCode, Result};
use std::collections::HashMap;

impl Registry {
    pub(super) fn push_notes(writes: &mut Vec<Write>, model: &Model) {
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

    /// Reads a registered model without notes that lie apart: one consistent read.
    pub async fn model_head(&self, tenant: &TenantName, name: &ModelName) -> Result<Model> {
        match self.read_slot(tenant, &keys::model(tenant, name)).await? {
            Slot::Held(model, _) => Ok(*model),
            Slot::Free | Slot::Former { .. } => Err(model_not_found(name)),
        }
    }

    /// Reads a registered model with its notes.
    pub async fn model(&self, tenant: &TenantName, name: &ModelName) -> Result<Model> {
        let key = keys::model(tenant, name);
        let Slot::Held(_, item) = self.read_slot(tenant, &key).await? else {
            return Err(model_not_found(name));
        };
        self.hints.put(key, item.clone());
        let ModelItem {
            mut model,
            notes_apart,
        } = model_from_item(tenant, &item)?;
        if notes_apart
            && let Some(notes) = self
                .table
                .get(&keys::model_notes(tenant, &model.name), true)
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
            // Names that were given away stand among the models.
            .filter(|item| !item.contains_key("former"))
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
        let condition = match after.deleted_at {
            // Aliases, requests and rollouts count themselves here in their own transactions, so that none is left behind.
            Some(_) if before.deleted_at.is_none() => Expression::new(
                "#rev = :before AND #held = :none AND #reqs = :none AND #served = :none",
            )
            .value("none", as_number(0)),
            _ => Expression::new("#rev = :before"),
        }
        .value("before", as_number(before.revision));
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
}
