//! Runs: create, read, and change by compare-and-swap, together with the points that a change logs.

use super::experiments::{TORN_ATTEMPTS, by_sort_key, experiment_from};
use super::sections::{self, Content, Section};
use crate::domain::tracking::experiment::experiment_not_found;
use crate::domain::tracking::run::run_not_found;
use crate::domain::tracking::{
    Experiment, ExperimentId, Lifecycle, LoggedMetric, LoggedModelId, Metric, Run, RunId,
    RunStatus, metric,
};
use crate::domain::{ModelName, TenantName, VersionId, VersionNumber};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{Builder, Reader, as_number};
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::registry::{Page, RACE_ATTEMPTS, Registry};
use crate::dynamodb::table::{Expression, Item, Query, Write, sort_key, throttled};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Sections of a run.
pub(super) const SECTIONS: [&str; 4] = ["params", "tags", "metrics", "io"];

/// A run with the experiment that it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct RunWithExperiment {
    /// The run, its lifecycle in line with the experiment's.
    pub run: Run,
    /// The experiment.
    pub experiment: Experiment,
}

/// A run as it shall be, and the points that are logged with it.
#[derive(Debug, Clone, Default)]
pub struct RunChange {
    /// Points of the run's metrics.
    pub points: Vec<Metric>,
    /// Values of metrics of logged models.
    pub model_points: Vec<(LoggedModelId, LoggedMetric)>,
}

/// A version that was registered from a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunLink {
    /// The registered model.
    pub model: ModelName,
    /// The version's number.
    pub number: VersionNumber,
}

/// Where a run or a logged model lies; it never moves.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) experiment: ExperimentId,
    pub(super) sk: String,
}

/// What a run used and made.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct InputsAndOutputs {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    datasets: Vec<crate::domain::tracking::DatasetInput>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<crate::domain::tracking::ModelOutput>,
}

fn sections_of(run: &Run) -> Result<Vec<Section>> {
    let io = InputsAndOutputs {
        datasets: run.datasets.clone(),
        inputs: run.model_inputs.clone(),
        outputs: run.model_outputs.clone(),
    };
    let metrics = Section {
        name: "metrics",
        content: (!run.metrics.is_empty())
            .then(|| Content::Bytes(metric::pack(run.metrics.values()))),
    };
    Ok(vec![
        Section::json("params", &run.params, run.params.is_empty())?,
        Section::json("tags", &run.tags, run.tags.is_empty())?,
        metrics,
        Section::json("io", &io, io == InputsAndOutputs::default())?,
    ])
}

pub(super) fn run_key(tenant: &TenantName, run: &Run) -> Key {
    Key {
        pk: keys::runs(tenant, run.experiment_id),
        sk: keys::newest_first(run.start_time, run.id.as_str()),
    }
}

/// The writes of a run whose item must be as `before` was.
fn writes_of(tenant: &TenantName, run: &Run, before: Option<(&Run, &Item)>) -> Result<Vec<Write>> {
    let key = run_key(tenant, run);
    let builder = Builder::at(&key)
        .text("name", &run.name)
        .text("user", &run.user_id)
        .text("status", run.status.as_str())
        .number("start", run.start_time)
        .maybe_number("end", run.end_time)
        .text("root", &run.artifact_uri)
        .maybe_number(
            "deleted",
            (run.lifecycle == Lifecycle::Deleted).then_some(1),
        )
        .number("life", run.life)
        .number("rev", run.revision);
    let old = before
        .map(|(before, item)| Ok::<_, Error>((item, sections_of(before)?)))
        .transpose()?;
    let (builder, mut writes) = sections::store(
        &key,
        builder,
        run.revision,
        &sections_of(run)?,
        old.as_ref()
            .map(|(item, sections)| (*item, sections.as_slice())),
    )?;
    let condition = match before {
        Some((before, _)) => {
            Expression::new("#rev = :before").value("before", as_number(before.revision))
        }
        None => Expression::new("attribute_not_exists(#pk)"),
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

/// A run from its item and the parts beside it; nothing if they are of two changes.
///
/// Its lifecycle is its own; [`Run::live_in`] brings it in line with the experiment's.
pub(super) fn run_from(
    tenant: &TenantName,
    experiment_id: ExperimentId,
    item: &Item,
    parts: &HashMap<String, Item>,
) -> Result<Option<Run>> {
    let reader = Reader(item);
    let sk = reader.text("sk")?;
    let key = Key {
        pk: keys::runs(tenant, experiment_id),
        sk: sk.to_owned(),
    };
    let mut read = Vec::with_capacity(SECTIONS.len());
    for name in SECTIONS {
        match sections::read(&key, item, parts, name)? {
            Some(section) => read.push(section),
            None => return Ok(None),
        }
    }
    let [params, tags, metrics, io] = read.as_slice() else {
        return Ok(None);
    };
    let io: InputsAndOutputs = io.value()?;
    let points = match &metrics.content {
        Some(Content::Bytes(bytes)) => {
            metric::unpack(bytes).ok_or_else(|| reader.broken("metrics"))?
        }
        _ => Vec::new(),
    };
    Ok(Some(Run {
        id: RunId::parse(sk.split_once('#').map_or(sk, |(_, id)| id))?,
        experiment_id,
        name: reader.text("name")?.to_owned(),
        user_id: reader.text("user")?.to_owned(),
        status: RunStatus::parse(reader.text("status")?).ok_or_else(|| reader.broken("status"))?,
        start_time: reader
            .integer("start")
            .ok_or_else(|| reader.broken("start"))?,
        end_time: reader.integer("end"),
        artifact_uri: reader.text("root")?.to_owned(),
        lifecycle: match reader.maybe_number("deleted") {
            Some(_) => Lifecycle::Deleted,
            None => Lifecycle::Active,
        },
        life: reader.number("life")?,
        params: params.value()?,
        tags: tags.value()?,
        metrics: points
            .into_iter()
            .map(|point| (point.key.clone(), point))
            .collect(),
        datasets: io.datasets,
        model_inputs: io.inputs,
        model_outputs: io.outputs,
        revision: reader.number("rev")?,
    }))
}

impl Registry {
    /// Stores a new run.
    pub async fn create_run(
        &self,
        tenant: &TenantName,
        run: &Run,
        answer: Option<Answer>,
    ) -> Result<Outcome<()>> {
        let key = run_key(tenant, run);
        let mut writes = writes_of(tenant, run, None)?;
        let place = place_item(tenant, run.id.as_str(), run.experiment_id, &key.sk);
        writes.push(put_place(&place));
        let outcome = self.commit(writes, tenant, answer, |_| throttled()).await?;
        self.hints
            .put(keys::tracked(tenant, run.id.as_str()), place);
        Ok(outcome)
    }

    /// Reads a run with everything that it logged, or nothing if there is none; deleted or not.
    pub async fn find_run(
        &self,
        tenant: &TenantName,
        id: &RunId,
    ) -> Result<Option<RunWithExperiment>> {
        Ok(self.load_run(tenant, id).await?.map(|(found, _)| found))
    }

    /// Reads a run with everything that it logged; deleted or not.
    pub async fn run(&self, tenant: &TenantName, id: &RunId) -> Result<RunWithExperiment> {
        self.find_run(tenant, id)
            .await?
            .ok_or_else(|| run_not_found(id))
    }

    async fn load_run(
        &self,
        tenant: &TenantName,
        id: &RunId,
    ) -> Result<Option<(RunWithExperiment, Item)>> {
        let Some(place) = self.place_of(tenant, id.as_str()).await? else {
            return Ok(None);
        };
        let run_key = Key {
            pk: keys::runs(tenant, place.experiment),
            sk: place.sk.clone(),
        };
        let experiment_key = keys::experiment(tenant, place.experiment);
        for attempt in 1..=TORN_ATTEMPTS {
            let found = self
                .table
                .batch_get(&[run_key.clone(), experiment_key.clone()], true)
                .await?;
            let mut found = by_sort_key(found);
            let Some(item) = found.remove(&run_key.sk) else {
                return Ok(None);
            };
            let experiment_item = found.remove(&experiment_key.sk);
            let mut apart = sections::parts_of(&run_key, &item, &SECTIONS);
            if let Some(experiment) = &experiment_item {
                apart.extend(sections::parts_of(&experiment_key, experiment, &["tags"]));
            }
            let parts = by_sort_key(self.table.batch_get(&apart, true).await?);
            let run = run_from(tenant, place.experiment, &item, &parts)?;
            let experiment = match &experiment_item {
                Some(experiment) => experiment_from(tenant, experiment, &parts)?,
                None if place.experiment == ExperimentId::DEFAULT => {
                    Some(Experiment::default_of_tenant())
                }
                None => return Err(experiment_not_found(place.experiment)),
            };
            if let (Some(mut run), Some(experiment)) = (run, experiment) {
                run.live_in(&experiment);
                return Ok(Some((RunWithExperiment { run, experiment }, item)));
            }
            self.table.pause(attempt).await;
        }
        Err(throttled())
    }

    /// Where a run or a logged model lies; it never moves, so what was seen once is not read again.
    pub(super) async fn place_of(&self, tenant: &TenantName, id: &str) -> Result<Option<Place>> {
        let key = keys::tracked(tenant, id);
        let item = match self.hints.get(&key) {
            Some(item) => item,
            None => match self.table.get(&key, true).await? {
                Some(item) => {
                    self.hints.put(key, item.clone());
                    item
                }
                None => return Ok(None),
            },
        };
        let reader = Reader(&item);
        Ok(Some(Place {
            experiment: ExperimentId::new(reader.number("experiment")?),
            sk: reader.text("at")?.to_owned(),
        }))
    }

    /// Changes a run as it is, or as it is then when somebody else changed it first, and logs points with it.
    ///
    /// `points_id` names the items of the points; a change that changes nothing writes nothing.
    /// `answer` makes what is stored under the request's idempotency key, of the run as it will be.
    pub async fn change_run(
        &self,
        tenant: &TenantName,
        id: &RunId,
        points_id: &str,
        change: impl Fn(&mut Run) -> Result<RunChange>,
        answer: impl Fn(&Run) -> Result<Option<Answer>>,
    ) -> Result<Outcome<Run>> {
        for attempt in 1..=RACE_ATTEMPTS {
            let (RunWithExperiment { run: before, .. }, item) = self
                .load_run(tenant, id)
                .await?
                .ok_or_else(|| run_not_found(id))?;
            let mut after = before.clone();
            let logged = change(&mut after)?;
            let mut writes = Vec::new();
            if after != before {
                after.revision = before.revision + 1;
                writes.extend(writes_of(tenant, &after, Some((&before, &item)))?);
            }
            let has_run = !writes.is_empty();
            writes.extend(self.point_writes(tenant, id, points_id, &logged).await?);
            let answer = answer(&after)?;
            if writes.is_empty() && answer.is_none() {
                return Ok(Outcome::Done(after));
            }
            match self.try_commit(writes, tenant, answer).await? {
                Ok(outcome) => return Ok(outcome.map(|()| after)),
                Err(refusals) => {
                    let lost_race = has_run && refusals.first().is_some_and(|first| first.refused);
                    if !lost_race {
                        return Err(throttled());
                    }
                    self.table.pause(attempt.min(5)).await;
                }
            }
        }
        Err(throttled())
    }

    /// Versions that were registered from a run, by model and number, under the names that the models have by now.
    pub async fn versions_of_run(
        &self,
        tenant: &TenantName,
        id: &RunId,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<RunLink>> {
        let query = Query::new(keys::versions_of_run(tenant, id.as_str()))
            .limit(limit)
            .after(after)
            .consistent();
        let (rows, after) = self.table.query(query).await?;
        let mut names: BTreeMap<String, Option<ModelName>> = BTreeMap::new();
        let mut items = Vec::new();
        for row in &rows {
            let sk = sort_key(row);
            let (home, number) = sk
                .rsplit_once('#')
                .ok_or_else(|| Reader(row).broken("sk"))?;
            if !names.contains_key(home) {
                let model = self.find_home(tenant, &ModelName::of_home(home)?).await?;
                names.insert(home.to_owned(), model);
            }
            if let Some(Some(model)) = names.get(home) {
                items.push(RunLink {
                    model: model.clone(),
                    number: VersionNumber::parse(number.trim_start_matches('0'))?,
                });
            }
        }
        Ok(Page { items, after })
    }
}

/// The write that says that a version was registered from a run; belongs in the transaction of the registration.
pub(in crate::dynamodb::registry) fn link_to_run(id: &VersionId, run: &RunId) -> Write {
    Write::Put {
        item: Builder::at(&keys::version_of_run(id, run.as_str())).build(),
        condition: None,
    }
}

/// Says where a run or a logged model lies.
pub(super) fn place_item(
    tenant: &TenantName,
    id: &str,
    experiment: ExperimentId,
    sk: &str,
) -> Item {
    Builder::at(&keys::tracked(tenant, id))
        .number("experiment", experiment.get())
        .text("at", sk)
        .build()
}

pub(super) fn put_place(place: &Item) -> Write {
    Write::Put {
        item: place.clone(),
        condition: Some(Expression::new("attribute_not_exists(#pk)")),
    }
}
