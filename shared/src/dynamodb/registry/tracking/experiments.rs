//! Experiments: create, read, list, change; `Default` is there without a write.

use super::sections::{self, Section};
use crate::domain::tracking::experiment::{
    experiment_exists, experiment_name_not_found, experiment_not_found,
};
use crate::domain::tracking::{DEFAULT_EXPERIMENT_NAME, Experiment, ExperimentId, Lifecycle};
use crate::domain::{TenantName, Timestamp};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{Builder, Reader, as_number};
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::registry::{RACE_ATTEMPTS, Registry};
use crate::dynamodb::table::{Expression, Item, Query, Write, sort_key, throttled};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashMap};

/// What a client says of a new experiment.
#[derive(Debug, Clone, Default)]
pub struct NewExperiment {
    /// Its name.
    pub name: String,
    /// Root of its artifacts, if it shall have one of its own.
    pub artifact_location: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// Sections of an experiment.
const SECTIONS: [&str; 1] = ["tags"];
/// How often parts of two changes are read before the caller is asked to wait.
pub(super) const TORN_ATTEMPTS: u32 = 10;

fn sections_of(experiment: &Experiment) -> Result<Vec<Section>> {
    Ok(vec![Section::json(
        "tags",
        &experiment.tags,
        experiment.tags.is_empty(),
    )?])
}

/// The writes of an experiment whose item must be at revision `before`.
fn writes_of(
    tenant: &TenantName,
    experiment: &Experiment,
    before: Option<(&Experiment, &Item)>,
) -> Result<Vec<Write>> {
    let key = keys::experiment(tenant, experiment.id);
    let builder = Builder::at(&key)
        .text("name", &experiment.name)
        .maybe_text("location", experiment.artifact_location.as_deref())
        .number("lives", experiment.lives)
        .maybe_number(
            "deleted",
            (experiment.lifecycle == Lifecycle::Deleted).then_some(experiment.updated_at.millis()),
        )
        .number("created", experiment.created_at.millis())
        .number("updated", experiment.updated_at.millis())
        .number("rev", experiment.revision);
    let old = before
        .map(|(before, item)| Ok::<_, Error>((item, sections_of(before)?)))
        .transpose()?;
    let (builder, mut writes) = sections::store(
        &key,
        builder,
        experiment.revision,
        &sections_of(experiment)?,
        old.as_ref()
            .map(|(item, sections)| (*item, sections.as_slice())),
    )?;
    let condition = match before {
        Some((before, _)) if before.revision > 0 => {
            Expression::new("#rev = :before").value("before", as_number(before.revision))
        }
        _ => Expression::new("attribute_not_exists(#pk)"),
    };
    writes.insert(
        0,
        Write::Put {
            item: builder.build(),
            condition: Some(condition),
        },
    );
    Ok(writes)
}

/// An experiment from its item and the parts beside it; nothing if they are of two changes.
pub(super) fn experiment_from(
    tenant: &TenantName,
    item: &Item,
    parts: &HashMap<String, Item>,
) -> Result<Option<Experiment>> {
    let reader = Reader(item);
    let id = ExperimentId::parse(reader.text("sk")?)?;
    let key = keys::experiment(tenant, id);
    let Some(tags) = sections::read(&key, item, parts, "tags")? else {
        return Ok(None);
    };
    Ok(Some(Experiment {
        id,
        name: reader.text("name")?.to_owned(),
        artifact_location: reader.maybe_text("location").map(str::to_owned),
        tags: tags.value()?,
        lifecycle: match reader.maybe_number("deleted") {
            Some(_) => Lifecycle::Deleted,
            None => Lifecycle::Active,
        },
        lives: reader.number("lives")?,
        created_at: reader.time("created")?,
        updated_at: reader.time("updated")?,
        revision: reader.number("rev")?,
    }))
}

pub(super) fn by_sort_key(items: Vec<Item>) -> HashMap<String, Item> {
    items
        .into_iter()
        .map(|item| (sort_key(&item), item))
        .collect()
}

impl Registry {
    /// Creates an experiment under the next number; its name must be new in the tenant.
    ///
    /// `answer` makes what is stored under the request's idempotency key, once the number is known.
    pub async fn create_experiment(
        &self,
        tenant: &TenantName,
        new: &NewExperiment,
        at: Timestamp,
        answer: impl Fn(&Experiment) -> Result<Option<Answer>>,
    ) -> Result<Outcome<Experiment>> {
        if new.name == DEFAULT_EXPERIMENT_NAME {
            let default = self.experiment(tenant, ExperimentId::DEFAULT).await?;
            if default.name == new.name {
                return Err(experiment_exists(&new.name));
            }
        }
        let counter = keys::experiment_counter(tenant);
        let name = keys::experiment_name(tenant, &new.name);
        let mut seen = match self.hints.get(&counter) {
            Some(item) => Some(item),
            None => self.table.get(&counter, true).await?,
        };
        for attempt in 1..=RACE_ATTEMPTS {
            let next = match &seen {
                Some(item) => Reader(item).number("next")?,
                None => 1,
            };
            let experiment = Experiment {
                id: ExperimentId::new(next),
                name: new.name.clone(),
                artifact_location: new.artifact_location.clone(),
                tags: new.tags.clone(),
                created_at: at,
                updated_at: at,
                revision: 1,
                ..Experiment::default_of_tenant()
            };
            let next_item = Builder::at(&counter).number("next", next + 1).build();
            let condition = match &seen {
                Some(_) => Expression::new("#next = :next").value("next", as_number(next)),
                None => Expression::new("attribute_not_exists(#pk)"),
            };
            let mut writes = vec![
                Write::Put {
                    item: next_item.clone(),
                    condition: Some(condition),
                },
                put_name(&name, experiment.id),
            ];
            writes.extend(writes_of(tenant, &experiment, None)?);
            match self
                .try_commit(writes, tenant, answer(&experiment)?)
                .await?
            {
                Ok(outcome) => {
                    self.hints.put(counter, next_item);
                    return Ok(outcome.map(|()| experiment));
                }
                Err(refusals) => {
                    self.hints.forget(&counter);
                    if refusals.get(1).is_some_and(|refusal| refusal.refused) {
                        return Err(experiment_exists(&new.name));
                    }
                    seen = match refusals.into_iter().next().and_then(|refusal| refusal.item) {
                        Some(item) => Some(item),
                        None => self.table.get(&counter, true).await?,
                    };
                    self.table.pause(attempt.min(4)).await;
                }
            }
        }
        Err(throttled())
    }

    /// Reads an experiment, deleted or not.
    pub async fn experiment(&self, tenant: &TenantName, id: ExperimentId) -> Result<Experiment> {
        self.experiment_item(tenant, id)
            .await
            .map(|(experiment, _)| experiment)
    }

    async fn experiment_item(
        &self,
        tenant: &TenantName,
        id: ExperimentId,
    ) -> Result<(Experiment, Item)> {
        let key = keys::experiment(tenant, id);
        for attempt in 1..=TORN_ATTEMPTS {
            let Some(item) = self.table.get(&key, true).await? else {
                return if id == ExperimentId::DEFAULT {
                    Ok((Experiment::default_of_tenant(), Item::new()))
                } else {
                    Err(experiment_not_found(id))
                };
            };
            let apart = sections::parts_of(&key, &item, &SECTIONS);
            let parts = by_sort_key(self.table.batch_get(&apart, true).await?);
            if let Some(experiment) = experiment_from(tenant, &item, &parts)? {
                return Ok((experiment, item));
            }
            self.table.pause(attempt).await;
        }
        Err(throttled())
    }

    /// Reads the experiment of a name, deleted or not.
    pub async fn experiment_by_name(&self, tenant: &TenantName, name: &str) -> Result<Experiment> {
        let key = keys::experiment_name(tenant, name);
        let id = match self.table.get(&key, true).await? {
            Some(item) => ExperimentId::new(Reader(&item).number("id")?),
            // The name of the experiment 0 is nowhere until that is renamed.
            None if name == DEFAULT_EXPERIMENT_NAME => ExperimentId::DEFAULT,
            None => return Err(experiment_name_not_found(name)),
        };
        let experiment = self.experiment(tenant, id).await?;
        if experiment.name == name {
            Ok(experiment)
        } else {
            Err(experiment_name_not_found(name))
        }
    }

    /// All experiments of a tenant, by number, deleted ones too.
    pub async fn experiments(&self, tenant: &TenantName) -> Result<Vec<Experiment>> {
        for attempt in 1..=TORN_ATTEMPTS {
            let query = Query::new(keys::experiments(tenant))
                .limit(1_000_000)
                .consistent();
            let items = self.table.query_all(query, usize::MAX).await?;
            let items = by_sort_key(items);
            let mut experiments = Vec::new();
            let mut is_torn = false;
            for (_, item) in items.iter().filter(|(sk, _)| !sk.contains('#')) {
                match experiment_from(tenant, item, &items)? {
                    Some(experiment) => experiments.push(experiment),
                    None => is_torn = true,
                }
            }
            if !is_torn {
                if !experiments
                    .iter()
                    .any(|experiment| experiment.id == ExperimentId::DEFAULT)
                {
                    experiments.push(Experiment::default_of_tenant());
                }
                experiments.sort_by_key(|experiment| experiment.id);
                return Ok(experiments);
            }
            self.table.pause(attempt).await;
        }
        Err(throttled())
    }

    /// Changes an experiment as it is, or as it is then when somebody else changed it first.
    pub async fn change_experiment(
        &self,
        tenant: &TenantName,
        id: ExperimentId,
        answer: Option<Answer>,
        change: impl Fn(&mut Experiment) -> Result<()>,
    ) -> Result<Outcome<Experiment>> {
        for attempt in 1..=RACE_ATTEMPTS {
            let (before, item) = self.experiment_item(tenant, id).await?;
            let mut after = before.clone();
            change(&mut after)?;
            after.revision = before.revision + 1;
            let mut writes = writes_of(tenant, &after, Some((&before, &item)))?;
            let mut new_name = None;
            if after.name != before.name {
                if after.name == DEFAULT_EXPERIMENT_NAME && id != ExperimentId::DEFAULT {
                    let default = self.experiment(tenant, ExperimentId::DEFAULT).await?;
                    if default.name == after.name {
                        return Err(experiment_exists(&after.name));
                    }
                }
                new_name = Some(writes.len());
                writes.push(put_name(&keys::experiment_name(tenant, &after.name), id));
                writes.push(Write::Delete {
                    key: keys::experiment_name(tenant, &before.name),
                    condition: None,
                });
            }
            match self.try_commit(writes, tenant, answer.clone()).await? {
                Ok(outcome) => return Ok(outcome.map(|()| after)),
                Err(refusals) => {
                    let is_taken = new_name
                        .and_then(|at| refusals.get(at))
                        .is_some_and(|refusal| refusal.refused);
                    if is_taken {
                        return Err(experiment_exists(&after.name));
                    }
                    self.table.pause(attempt.min(4)).await;
                }
            }
        }
        Err(throttled())
    }
}

fn put_name(key: &Key, id: ExperimentId) -> Write {
    Write::Put {
        item: Builder::at(key).number("id", id.get()).build(),
        condition: Some(Expression::new("attribute_not_exists(#pk)")),
    }
}
