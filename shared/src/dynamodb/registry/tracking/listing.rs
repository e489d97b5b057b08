//! Lists of runs and logged models, newest first, over several experiments at once.

use super::experiments::by_sort_key;
use super::{logged_models, runs};
use crate::domain::TenantName;
use crate::domain::tracking::{Experiment, ExperimentId, LoggedModel, LoggedModelId, Run, RunId};
use crate::dynamodb::items::Reader;
use crate::dynamodb::keys;
use crate::dynamodb::registry::Registry;
use crate::dynamodb::table::{Item, Query, sort_key};
use crate::error::Result;
use std::collections::{BTreeMap, VecDeque};

/// Where a list goes on: after the thing that began then, with this id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// When it began, in milliseconds.
    pub time: i64,
    /// Its id.
    pub id: String,
}

/// A list that is read as far as it is asked for, a call per megabyte and experiment.
#[derive(Debug)]
pub struct Listed<'a> {
    registry: &'a Registry,
    tenant: &'a TenantName,
    partitions: Vec<Partition>,
}

#[derive(Debug)]
struct Partition {
    experiment: ExperimentId,
    pk: String,
    /// What was read last, if anything was.
    after: Option<String>,
    /// Whether there may be more to read.
    has_more: bool,
    /// Items of whole things, in order; the last thing of a page may go on in the next.
    waiting: VecDeque<Item>,
}

impl Partition {
    /// Whether the first waiting thing is known to be whole.
    fn has_whole(&self) -> bool {
        !self.has_more || self.waiting.iter().skip(1).any(is_head)
    }
}

/// Whether an item is a thing, and not a part of one: its sort key is `<time>#<id>`.
fn is_head(item: &Item) -> bool {
    Reader(item)
        .maybe_text("sk")
        .is_some_and(|sk| sk.matches('#').count() == 1)
}

impl<'a> Listed<'a> {
    fn new(
        registry: &'a Registry,
        tenant: &'a TenantName,
        experiments: &[ExperimentId],
        after: Option<&Position>,
        pk: impl Fn(ExperimentId) -> String,
    ) -> Self {
        let mut experiments = experiments.to_vec();
        experiments.sort_unstable();
        experiments.dedup();
        Self {
            registry,
            tenant,
            partitions: experiments
                .into_iter()
                .map(|experiment| Partition {
                    experiment,
                    pk: pk(experiment),
                    // `~` sorts after whatever follows an id in the sort key of a part.
                    after: after.map(|position| {
                        format!("{}#~", keys::newest_first(position.time, &position.id))
                    }),
                    has_more: true,
                    waiting: VecDeque::new(),
                })
                .collect(),
        }
    }

    /// The next thing: its experiment, its item, and the items beside it.
    async fn next(&mut self) -> Result<Option<(ExperimentId, Item, Vec<Item>)>> {
        for partition in &mut self.partitions {
            while !partition.has_whole() {
                let query = Query::new(&partition.pk)
                    .limit(1_000_000)
                    .after(partition.after.take())
                    .consistent();
                let (items, after) = self.registry.table.query(query).await?;
                partition.waiting.extend(items);
                partition.has_more = after.is_some();
                partition.after = after;
            }
        }
        let first = self
            .partitions
            .iter_mut()
            .filter(|partition| !partition.waiting.is_empty())
            .min_by_key(|partition| partition.waiting.front().map(sort_key));
        let Some(partition) = first else {
            return Ok(None);
        };
        let Some(head) = partition.waiting.pop_front() else {
            return Ok(None);
        };
        let mut beside = Vec::new();
        while partition.waiting.front().is_some_and(|item| !is_head(item)) {
            beside.extend(partition.waiting.pop_front());
        }
        Ok(Some((partition.experiment, head, beside)))
    }

    /// The next run, its lifecycle in line with its experiment's.
    pub async fn next_run(
        &mut self,
        experiments: &BTreeMap<ExperimentId, Experiment>,
    ) -> Result<Option<Run>> {
        while let Some((experiment_id, item, beside)) = self.next().await? {
            let beside = by_sort_key(beside);
            let mut found = runs::run_from(self.tenant, experiment_id, &item, &beside)?;
            if found.is_none() {
                // It changed between two pages; by itself it is read whole.
                let sk = sort_key(&item);
                let id = RunId::parse(sk.split_once('#').map_or("", |(_, id)| id))?;
                let read = self.registry.find_run(self.tenant, &id).await?;
                found = read.map(|read| read.run);
            }
            if let Some(mut run) = found {
                if let Some(experiment) = experiments.get(&experiment_id) {
                    run.live_in(experiment);
                }
                return Ok(Some(run));
            }
        }
        Ok(None)
    }

    /// The next logged model.
    pub async fn next_logged_model(&mut self) -> Result<Option<LoggedModel>> {
        while let Some((experiment_id, item, beside)) = self.next().await? {
            let beside = by_sort_key(beside);
            let read =
                logged_models::logged_model_from(self.tenant, experiment_id, &item, &beside)?;
            if let Some(model) = read {
                return Ok(Some(model));
            }
            let sk = sort_key(&item);
            let id = LoggedModelId::parse(sk.split_once('#').map_or("", |(_, id)| id))?;
            let found = self.registry.find_logged_model(self.tenant, &id).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

impl Registry {
    /// Runs of experiments, newest first.
    pub fn list_runs<'a>(
        &'a self,
        tenant: &'a TenantName,
        experiments: &[ExperimentId],
        after: Option<&Position>,
    ) -> Listed<'a> {
        Listed::new(self, tenant, experiments, after, |experiment| {
            keys::runs(tenant, experiment)
        })
    }

    /// Logged models of experiments, newest first.
    pub fn list_logged_models<'a>(
        &'a self,
        tenant: &'a TenantName,
        experiments: &[ExperimentId],
        after: Option<&Position>,
    ) -> Listed<'a> {
        Listed::new(self, tenant, experiments, after, |experiment| {
            keys::logged_models(tenant, experiment)
        })
    }

    /// Those of these experiments that there are.
    pub async fn find_experiments(
        &self,
        tenant: &TenantName,
        ids: &[ExperimentId],
    ) -> Result<BTreeMap<ExperimentId, Experiment>> {
        let mut found = BTreeMap::new();
        let mut wanted: Vec<ExperimentId> = ids.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        let wanted_keys: Vec<keys::Key> = wanted
            .iter()
            .map(|id| keys::experiment(tenant, *id))
            .collect();
        let items = by_sort_key(self.table.batch_get(&wanted_keys, true).await?);
        for (id, key) in wanted.into_iter().zip(wanted_keys) {
            let read = match items.get(&key.sk) {
                Some(item) => super::experiments::experiment_from(tenant, item, &items)?,
                None if id == ExperimentId::DEFAULT => Some(Experiment::default_of_tenant()),
                None => continue,
            };
            let experiment = match read {
                Some(experiment) => experiment,
                None => self.experiment(tenant, id).await?,
            };
            found.insert(id, experiment);
        }
        Ok(found)
    }
}
