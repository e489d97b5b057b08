//! The retention rules of models, and what they ask.

use super::work::{WorkItem, WorkKind};
use super::{Registry, json_of, put_event};
use crate::domain::retention::Retention;
use crate::domain::{Event, ModelName, TenantName, Timestamp, Version, VersionNumber};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{Builder, Reader, event_from_item, version_from_item};
use crate::dynamodb::keys;
use crate::dynamodb::table::{Query, Write, throttled};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

impl Registry {
    /// The rules of a model, if it has some; consistent.
    pub async fn find_retention(
        &self,
        tenant: &TenantName,
        model: &ModelName,
    ) -> Result<Option<Retention>> {
        let item = self
            .table
            .get(&keys::retention(tenant, model), true)
            .await?;
        item.map(|item| Reader(&item).json("json")).transpose()
    }

    /// Sets the rules of a model, with the work that applies them.
    pub async fn set_retention(
        &self,
        (tenant, model): (&TenantName, &ModelName),
        retention: &Retention,
        event: &Event,
        answer: Option<Answer>,
    ) -> Result<Outcome<()>> {
        let writes = vec![
            Write::Put {
                item: Builder::at(&keys::retention(tenant, model))
                    .text("json", json_of(retention)?)
                    .build(),
                condition: None,
            },
            Write::Put {
                item: WorkItem::about_model(WorkKind::Retain, event.time, tenant, model).to_item(),
                condition: None,
            },
            put_event(event)?,
        ];
        self.commit(writes, tenant, answer, |_| throttled()).await
    }

    /// Removes the rules of a model; the work ends when it finds none.
    pub async fn remove_retention(
        &self,
        (tenant, model): (&TenantName, &ModelName),
        event: &Event,
        answer: Option<Answer>,
    ) -> Result<Outcome<()>> {
        let writes = vec![
            Write::Delete {
                key: keys::retention(tenant, model),
                condition: None,
            },
            put_event(event)?,
        ];
        self.commit(writes, tenant, answer, |_| throttled()).await
    }

    /// Every version of a model, consistently, for its rules.
    pub async fn every_version(
        &self,
        tenant: &TenantName,
        model: &ModelName,
    ) -> Result<Vec<Version>> {
        let query = Query::new(keys::model_partition(tenant, model))
            .prefix("V#")
            .consistent();
        let items = self.table.query_all(query, usize::MAX).await?;
        items
            .iter()
            .map(|item| version_from_item(tenant, model, item))
            .collect()
    }

    /// The versions that any alias of a model ever held, consistently.
    pub async fn ever_aliased(
        &self,
        tenant: &TenantName,
        model: &ModelName,
    ) -> Result<BTreeSet<VersionNumber>> {
        let query = Query::new(keys::model_partition(tenant, model))
            .prefix("H#")
            .consistent();
        let items = self.table.query_all(query, usize::MAX).await?;
        let mut held = BTreeSet::new();
        // Beside the entries lie the marks of models that moved.
        for item in items.iter().filter(|item| item.contains_key("event")) {
            let event = event_from_item(item)?;
            held.extend(
                ["from", "to"]
                    .into_iter()
                    .filter_map(|name| event.data.get(name).and_then(Value::as_u64))
                    .filter_map(|number| VersionNumber::new(number).ok()),
            );
        }
        Ok(held)
    }
}

impl WorkItem {
    /// Work about a model.
    pub fn about_model(
        kind: WorkKind,
        due: Timestamp,
        tenant: &TenantName,
        model: &ModelName,
    ) -> Self {
        Self {
            kind,
            due,
            subject: json!({"tenant": tenant, "model": model.home()}).to_string(),
        }
    }

    /// The model that the work is about.
    pub fn model(&self) -> Result<(TenantName, ModelName)> {
        #[derive(Deserialize)]
        struct OfModel {
            tenant: TenantName,
            model: String,
        }
        let of: OfModel = serde_json::from_str(&self.subject)
            .map_err(|error| Error::internal("reading a work item", error))?;
        Ok((of.tenant, ModelName::of_home(of.model)?))
    }
}
