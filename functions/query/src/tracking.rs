//! Experiments, runs and logged models in the native API, read only; MLflow's clients write them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::domain::Timestamp;
use shared::domain::tracking::run::run_not_found;
use shared::domain::tracking::{
    DatasetInput, Experiment, ExperimentId, Lifecycle, LoggedMetric, LoggedModel, LoggedModelId,
    Metric, ModelOutput, Run, RunId,
};
use shared::dynamodb::{Position, RunLink};
use shared::http::{Caller, Pages, Paging};
use shared::{App, Error, ErrorCode, Result};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Where the artifacts of experiments without a root of their own lie.
const ARTIFACT_ROOT: &str = "mlflow-artifacts:/";
/// Versions of a run that its view shows.
const MAX_VERSIONS: usize = 1_000;

/// Which page of a list, and whether it shows what was deleted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListParams {
    #[serde(default)]
    include_deleted: bool,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
}

impl ListParams {
    fn limit(&self) -> Result<usize> {
        Paging {
            limit: self.limit,
            ..Paging::default()
        }
        .limit()
    }

    const fn scope(&self) -> &'static str {
        if self.include_deleted { "all" } else { "live" }
    }

    fn shows(&self, lifecycle: Lifecycle) -> bool {
        self.include_deleted || lifecycle == Lifecycle::Active
    }
}

/// Which metric of a run, and which page of its history.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryParams {
    key: String,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
}

#[derive(Debug, Serialize)]
struct ExperimentView {
    id: String,
    name: String,
    lifecycle: &'static str,
    artifact_location: String,
    tags: BTreeMap<String, String>,
    /// Absent for a `Default` that nobody wrote to yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<Timestamp>,
}

impl From<&Experiment> for ExperimentView {
    fn from(experiment: &Experiment) -> Self {
        let some = |time: Timestamp| Some(time).filter(|time| time.millis() > 0);
        Self {
            id: experiment.id.to_string(),
            name: experiment.name.clone(),
            lifecycle: experiment.lifecycle.as_str(),
            artifact_location: experiment.artifact_root(ARTIFACT_ROOT),
            tags: experiment.tags.clone(),
            created_at: some(experiment.created_at),
            updated_at: some(experiment.updated_at),
        }
    }
}

#[derive(Debug, Serialize)]
struct PointView {
    value: Value,
    /// Milliseconds since the epoch, as the client sent it.
    timestamp_ms: i64,
    step: i64,
}

impl From<&Metric> for PointView {
    fn from(point: &Metric) -> Self {
        Self {
            value: number(point.value),
            timestamp_ms: point.timestamp,
            step: point.step,
        }
    }
}

/// A number, or the text `NaN`, for which JSON has no number.
fn number(value: f64) -> Value {
    if value.is_nan() {
        "NaN".into()
    } else {
        value.into()
    }
}

#[derive(Debug, Serialize)]
struct RunView {
    id: String,
    experiment_id: String,
    name: String,
    user: String,
    status: &'static str,
    lifecycle: &'static str,
    /// Milliseconds since the epoch, as the client sent it.
    started_at_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at_ms: Option<i64>,
    artifact_uri: String,
    params: BTreeMap<String, String>,
    tags: BTreeMap<String, String>,
    metrics: BTreeMap<String, PointView>,
    datasets: Vec<DatasetInput>,
    model_inputs: Vec<String>,
    model_outputs: Vec<ModelOutput>,
}

impl From<&Run> for RunView {
    fn from(run: &Run) -> Self {
        Self {
            id: run.id.to_string(),
            experiment_id: run.experiment_id.to_string(),
            name: run.name.clone(),
            user: run.user_id.clone(),
            status: run.status.as_str(),
            lifecycle: run.lifecycle.as_str(),
            started_at_ms: run.start_time,
            ended_at_ms: run.end_time,
            artifact_uri: run.artifact_uri.clone(),
            params: run.params.clone(),
            tags: run.tags.clone(),
            metrics: run
                .metrics
                .iter()
                .map(|(key, point)| (key.clone(), point.into()))
                .collect(),
            datasets: run.datasets.clone(),
            model_inputs: run.model_inputs.clone(),
            model_outputs: run.model_outputs.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
struct LoggedModelView {
    id: String,
    experiment_id: String,
    name: String,
    model_type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    run_id: String,
    status: &'static str,
    lifecycle: &'static str,
    artifact_uri: String,
    params: BTreeMap<String, String>,
    tags: BTreeMap<String, String>,
    metrics: Vec<LoggedMetric>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<LoggedModel> for LoggedModelView {
    fn from(model: LoggedModel) -> Self {
        Self {
            id: model.id.to_string(),
            experiment_id: model.experiment_id.to_string(),
            name: model.name,
            model_type: model.model_type,
            run_id: model.source_run_id,
            status: model.status.as_str(),
            lifecycle: model.lifecycle.as_str(),
            artifact_uri: model.artifact_uri,
            params: model.params,
            tags: model.tags,
            metrics: model.metrics,
            created_at: model.created_at,
            updated_at: model.updated_at,
        }
    }
}

fn to_value(view: impl Serialize) -> Result<Value> {
    serde_json::to_value(view).map_err(|error| Error::internal("writing an answer", error))
}

fn not_genuine() -> Error {
    Error::new(
        ErrorCode::InvalidCursor,
        "the cursor holds no position; begin again without one",
    )
}

/// Experiments by number.
pub(crate) async fn list_experiments(
    app: &App,
    caller: &Caller,
    params: &ListParams,
) -> Result<Value> {
    let limit = params.limit()?;
    let pages = Pages::new(app, caller, &["experiments", params.scope()]);
    let after = pages
        .after(params.cursor.as_deref())?
        .map(|after| after.parse::<u64>().map_err(|_| not_genuine()))
        .transpose()?;
    let experiments = app.registry.experiments(&caller.tenant).await?;
    let mut rest = experiments
        .iter()
        .filter(|experiment| {
            after.is_none_or(|after| experiment.id.get() > after)
                && params.shows(experiment.lifecycle)
        })
        .peekable();
    let mut shown = Vec::new();
    let mut last = None;
    for experiment in rest.by_ref().take(limit) {
        last = Some(experiment.id.to_string());
        shown.push(to_value(ExperimentView::from(experiment))?);
    }
    let last = last.filter(|_| rest.peek().is_some());
    Ok(pages.render("experiments", shown, last.as_deref()))
}

pub(crate) async fn get_experiment(app: &App, caller: &Caller, id: ExperimentId) -> Result<Value> {
    let experiment = app.registry.experiment(&caller.tenant, id).await?;
    to_value(ExperimentView::from(&experiment))
}

/// Runs of an experiment, the newest first.
pub(crate) async fn list_runs(
    app: &App,
    caller: &Caller,
    id: ExperimentId,
    params: &ListParams,
) -> Result<Value> {
    let limit = params.limit()?;
    let pages = Pages::new(app, caller, &["runs", &id.to_string(), params.scope()]);
    let after = pages
        .after(params.cursor.as_deref())?
        .map(|after| {
            let (time, id) = serde_json::from_str(&after).map_err(|_| not_genuine())?;
            Ok::<_, Error>(Position { time, id })
        })
        .transpose()?;
    let experiment = app.registry.experiment(&caller.tenant, id).await?;
    let experiments = BTreeMap::from([(id, experiment)]);
    let mut listed = app
        .registry
        .list_runs(&caller.tenant, &[id], after.as_ref());
    let mut shown = Vec::new();
    let mut last = None;
    let mut has_more = false;
    while let Some(run) = listed.next_run(&experiments).await? {
        if !params.shows(run.lifecycle) {
            continue;
        }
        if shown.len() == limit {
            has_more = true;
            break;
        }
        last = Some(json!([run.start_time, run.id.as_str()]).to_string());
        // What a run was fed with may be large, and is whole in the view of the run alone.
        let run = Run {
            datasets: Vec::new(),
            ..run
        };
        shown.push(to_value(RunView::from(&run))?);
    }
    let last = last.filter(|_| has_more);
    Ok(pages.render("runs", shown, last.as_deref()))
}

/// A run with the versions that were registered from it, as far as the caller may see them.
pub(crate) async fn get_run(app: &App, caller: &Caller, id: &RunId) -> Result<Value> {
    let found = app.registry.run(&caller.tenant, id).await?;
    let page = app
        .registry
        .versions_of_run(&caller.tenant, id, MAX_VERSIONS, None)
        .await?;
    let versions: Vec<Value> = page
        .items
        .iter()
        .filter(|link| caller.sees(&link.model))
        .map(|RunLink { model, number }| json!({"model": model.as_str(), "version": number.get()}))
        .collect();
    let mut view = to_value(RunView::from(&found.run))?;
    if let Some(fields) = view.as_object_mut() {
        fields.insert("versions".into(), versions.into());
    }
    Ok(view)
}

/// The history of a metric of a run, the oldest first.
pub(crate) async fn get_history(
    app: &App,
    caller: &Caller,
    id: &RunId,
    params: &HistoryParams,
) -> Result<Value> {
    let limit = Paging {
        limit: params.limit,
        ..Paging::default()
    }
    .limit()?;
    let pages = Pages::new(app, caller, &["history", id.as_str(), &params.key]);
    let after = pages
        .after(params.cursor.as_deref())?
        .map(|after| {
            let (timestamp, step, bits) =
                serde_json::from_str(&after).map_err(|_| not_genuine())?;
            Ok::<_, Error>(Metric {
                key: String::new(),
                value: f64::from_bits(bits),
                timestamp,
                step,
            })
        })
        .transpose()?;
    let mut points = app
        .registry
        .metric_points(&caller.tenant, id, &params.key)
        .await?;
    if points.is_empty() && app.registry.find_run(&caller.tenant, id).await?.is_none() {
        return Err(run_not_found(id));
    }
    if let Some(after) = after {
        points.retain(|point| point.chronological(&after) == Ordering::Greater);
    }
    let has_more = points.len() > limit;
    points.truncate(limit);
    let last = points
        .last()
        .filter(|_| has_more)
        .map(|last| json!([last.timestamp, last.step, last.value.to_bits()]).to_string());
    let shown = points
        .iter()
        .map(|point| to_value(PointView::from(point)))
        .collect::<Result<_>>()?;
    Ok(pages.render("points", shown, last.as_deref()))
}

pub(crate) async fn get_logged_model(
    app: &App,
    caller: &Caller,
    id: &LoggedModelId,
) -> Result<Value> {
    let model = app.registry.logged_model(&caller.tenant, id).await?;
    to_value(LoggedModelView::from(caller.shown(model)))
}
