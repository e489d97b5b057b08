//! Logged models: create, read, and change by compare-and-swap.

use super::experiments::{TORN_ATTEMPTS, by_sort_key};
use super::links::{links_of, with_versions};
use super::runs::{place_item, put_place};
use super::sections::{self, Section};
use crate::domain::tracking::logged_model::logged_model_not_found;
use crate::domain::tracking::{
    ExperimentId, Lifecycle, LoggedMetric, LoggedModel, LoggedModelId, LoggedModelStatus,
};
use crate::domain::{TenantName, Timestamp};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{Builder, Reader, as_number};
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::registry::{RACE_ATTEMPTS, Registry};
use crate::dynamodb::table::{Expression, Item, Query, Write, throttled};
use crate::error::{Error, Result};
use std::collections::HashMap;

/// Sections of a logged model.
pub(super) const SECTIONS: [&str; 2] = ["params", "tags"];

/// How a change of a logged model was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoggedModelChange {
    /// It is changed; its time of change moves.
    Touch,
    /// It is changed; its time of change stays.
    Keep,
}

fn sections_of(model: &LoggedModel) -> Result<Vec<Section>> {
    Ok(vec![
        Section::json("params", &model.params, model.params.is_empty())?,
        Section::json("tags", &model.tags, model.tags.is_empty())?,
    ])
}

fn key_of(tenant: &TenantName, model: &LoggedModel) -> Key {
    let created = i64::try_from(model.created_at.millis()).unwrap_or(i64::MAX);
    Key {
        pk: keys::logged_models(tenant, model.experiment_id),
        sk: keys::newest_first(created, model.id.as_str()),
    }
}

fn writes_of(
    tenant: &TenantName,
    model: &LoggedModel,
    before: Option<(&LoggedModel, &Item)>,
) -> Result<Vec<Write>> {
    let key = key_of(tenant, model);
    let valued = before.and_then(|(_, item)| Reader(item).maybe_number("valued"));
    let registered = before.and_then(|(_, item)| Reader(item).maybe_number("registered"));
    let builder = Builder::at(&key)
        .text("name", &model.name)
        .text("kind", &model.model_type)
        .text("run", &model.source_run_id)
        .text("root", &model.artifact_uri)
        .number("status", model.status.number())
        .maybe_number(
            "deleted",
            (model.lifecycle == Lifecycle::Deleted).then_some(1),
        )
        .maybe_number("valued", valued)
        .maybe_number("registered", registered)
        .number("created", model.created_at.millis())
        .number("updated", model.updated_at.millis())
        .number("rev", model.revision);
    let old = before
        .map(|(before, item)| Ok::<_, Error>((item, sections_of(before)?)))
        .transpose()?;
    let (builder, mut writes) = sections::store(
        &key,
        builder,
        model.revision,
        &sections_of(model)?,
        old.as_ref()
            .map(|(item, sections)| (*item, sections.as_slice())),
    )?;
    let condition = match before {
        Some((before, _)) => as_read(before.revision, valued.is_some(), registered),
        None => Expression::new("attribute_not_exists(#pk)"),
    };
    let mut item = builder.build();
    if let Some((_, old)) = before {
        item.extend(links_of(old));
    }
    writes.insert(
        0,
        Write::Put {
            item,
            condition: Some(condition),
        },
    );
    Ok(writes)
}

/// Holds if a logged model is as it was read; a value or a version that came meanwhile must not be forgotten.
fn as_read(revision: u64, has_values: bool, registered: Option<u64>) -> Expression {
    let mut condition = "#rev = :before".to_owned();
    if !has_values {
        condition.push_str(" AND attribute_not_exists(#valued)");
    }
    condition.push_str(match registered {
        Some(_) => " AND #registered = :registered",
        None => " AND attribute_not_exists(#registered)",
    });
    let expression = Expression::new(condition).value("before", as_number(revision));
    match registered {
        Some(count) => expression.value("registered", as_number(count)),
        None => expression,
    }
}

/// A logged model from its item and the items beside it; nothing if parts are of two changes.
pub(super) fn logged_model_from(
    tenant: &TenantName,
    experiment_id: ExperimentId,
    item: &Item,
    beside: &HashMap<String, Item>,
) -> Result<Option<LoggedModel>> {
    let reader = Reader(item);
    let sk = reader.text("sk")?;
    let key = Key {
        pk: keys::logged_models(tenant, experiment_id),
        sk: sk.to_owned(),
    };
    let (Some(params), Some(tags)) = (
        sections::read(&key, item, beside, "params")?,
        sections::read(&key, item, beside, "tags")?,
    ) else {
        return Ok(None);
    };
    let prefix = keys::logged_metrics(&key, "").sk;
    let mut values: Vec<(&String, &Item)> = beside
        .iter()
        .filter(|(sk, _)| sk.starts_with(&prefix))
        .collect();
    values.sort_by_key(|(sk, _)| *sk);
    let mut metrics: Vec<LoggedMetric> = Vec::new();
    for (_, item) in values {
        for value in Reader(item).json::<Vec<LoggedMetric>>("values")? {
            if !metrics.contains(&value) {
                metrics.push(value);
            }
        }
    }
    Ok(Some(LoggedModel {
        id: LoggedModelId::parse(sk.split_once('#').map_or(sk, |(_, id)| id))?,
        experiment_id,
        name: reader.text("name")?.to_owned(),
        model_type: reader.text("kind")?.to_owned(),
        source_run_id: reader.text("run")?.to_owned(),
        artifact_uri: reader.text("root")?.to_owned(),
        status: LoggedModelStatus::parse(&reader.number("status")?.to_string())
            .ok_or_else(|| reader.broken("status"))?,
        lifecycle: match reader.maybe_number("deleted") {
            Some(_) => Lifecycle::Deleted,
            None => Lifecycle::Active,
        },
        created_at: reader.time("created")?,
        updated_at: reader.time("updated")?,
        params: params.value()?,
        tags: with_versions(tags.value()?, item),
        metrics,
        revision: reader.number("rev")?,
    }))
}

impl Registry {
    /// Stores a new logged model.
    pub async fn create_logged_model(
        &self,
        tenant: &TenantName,
        model: &LoggedModel,
        answer: Option<Answer>,
    ) -> Result<Outcome<()>> {
        let key = key_of(tenant, model);
        let mut writes = writes_of(tenant, model, None)?;
        let place = place_item(tenant, model.id.as_str(), model.experiment_id, &key.sk);
        writes.push(put_place(&place));
        let outcome = self.commit(writes, tenant, answer, |_| throttled()).await?;
        self.hints
            .put(keys::tracked(tenant, model.id.as_str()), place);
        Ok(outcome)
    }

    /// Reads a logged model, or nothing if there is none; deleted or not.
    pub async fn find_logged_model(
        &self,
        tenant: &TenantName,
        id: &LoggedModelId,
    ) -> Result<Option<LoggedModel>> {
        Ok(self
            .load_logged_model(tenant, id)
            .await?
            .map(|(model, _)| model))
    }

    /// Reads a logged model; deleted or not.
    pub async fn logged_model(
        &self,
        tenant: &TenantName,
        id: &LoggedModelId,
    ) -> Result<LoggedModel> {
        self.find_logged_model(tenant, id)
            .await?
            .ok_or_else(|| logged_model_not_found(id))
    }

    async fn load_logged_model(
        &self,
        tenant: &TenantName,
        id: &LoggedModelId,
    ) -> Result<Option<(LoggedModel, Item)>> {
        let Some(place) = self.place_of(tenant, id.as_str()).await? else {
            return Ok(None);
        };
        let key = Key {
            pk: keys::logged_models(tenant, place.experiment),
            sk: place.sk,
        };
        for attempt in 1..=TORN_ATTEMPTS {
            let Some(item) = self.table.get(&key, true).await? else {
                return Ok(None);
            };
            let apart = sections::parts_of(&key, &item, &SECTIONS);
            let mut beside = by_sort_key(self.table.batch_get(&apart, true).await?);
            if Reader(&item).maybe_number("valued").is_some() {
                let query = Query::new(&key.pk)
                    .prefix(keys::logged_metrics(&key, "").sk)
                    .limit(1_000_000)
                    .consistent();
                beside.extend(by_sort_key(self.table.query_all(query, usize::MAX).await?));
            }
            if let Some(model) = logged_model_from(tenant, place.experiment, &item, &beside)? {
                return Ok(Some((model, item)));
            }
            self.table.pause(attempt).await;
        }
        Err(throttled())
    }

    /// Changes a logged model as it is, or as it is then when somebody else changed it first.
    pub async fn change_logged_model(
        &self,
        tenant: &TenantName,
        id: &LoggedModelId,
        at: Timestamp,
        change: impl Fn(&mut LoggedModel) -> Result<LoggedModelChange>,
        answer: impl Fn(&LoggedModel) -> Result<Option<Answer>>,
    ) -> Result<Outcome<LoggedModel>> {
        for attempt in 1..=RACE_ATTEMPTS {
            let (before, item) = self
                .load_logged_model(tenant, id)
                .await?
                .ok_or_else(|| logged_model_not_found(id))?;
            let mut after = before.clone();
            if change(&mut after)? == LoggedModelChange::Touch {
                after.updated_at = at;
            }
            after.revision = before.revision + 1;
            let writes = writes_of(tenant, &after, Some((&before, &item)))?;
            match self.try_commit(writes, tenant, answer(&after)?).await? {
                Ok(outcome) => return Ok(outcome.map(|()| after)),
                Err(_) => self.table.pause(attempt.min(4)).await,
            }
        }
        Err(throttled())
    }
}
