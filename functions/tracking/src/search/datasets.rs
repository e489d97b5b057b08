//! The datasets that runs of experiments used, each once, without what was logged of them.

use super::runs::CONTEXT_TAG;
use axum::extract::State;
use serde_json::{Map, Value, json};
use shared::domain::tracking::ExperimentId;
use shared::http::{Caller, Reply};
use shared::mlflow::{Fields, invalid};
use shared::{App, Result};
use std::collections::BTreeSet;

/// Most experiments of one question.
const MAX_EXPERIMENTS: usize = 20;
/// Most datasets of an answer, which has no pages.
const MAX_DATASETS: usize = 1_000;

pub(crate) async fn search(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let named = fields.texts("experiment_ids")?;
    if named.is_empty() {
        return Err(invalid(
            "SearchDatasets request must specify at least one experiment_id.",
        ));
    }
    if named.len() > MAX_EXPERIMENTS {
        return Err(invalid(format!(
            "SearchDatasets request cannot specify more than {MAX_EXPERIMENTS} experiment_ids. \
             Received {} experiment_ids.",
            named.len()
        )));
    }
    let ids = named
        .iter()
        .map(|id| ExperimentId::parse(id))
        .collect::<Result<Vec<_>>>()?;
    let experiments = app.registry.find_experiments(&caller.tenant, &ids).await?;
    let present: Vec<ExperimentId> = experiments.keys().copied().collect();
    let mut listed = app.registry.list_runs(&caller.tenant, &present, None);
    let mut found = BTreeSet::new();
    // As in MLflow's server, what a deleted run used is told too.
    while found.len() < MAX_DATASETS
        && let Some(run) = listed.next_run(&experiments).await?
    {
        for input in run.datasets {
            let context = input.tags.into_iter().find(|tag| tag.key == CONTEXT_TAG);
            found.insert((
                run.experiment_id,
                input.dataset.name,
                input.dataset.digest,
                context.map(|tag| tag.value),
            ));
        }
    }
    let shown: Vec<Value> = found
        .into_iter()
        .take(MAX_DATASETS)
        .map(|(experiment, name, digest, context)| {
            let mut view = json!({
                "experiment_id": experiment.to_string(), "name": name, "digest": digest,
            });
            if let Some(context) = context {
                view["context"] = context.into();
            }
            view
        })
        .collect();
    let mut view = Map::new();
    if !shown.is_empty() {
        view.insert("dataset_summaries".to_owned(), Value::Array(shown));
    }
    Reply::ok(view)
}
