//! What MLflow's clients see of experiments, runs and logged models: protobuf's JSON, which leaves out what is empty.

use serde_json::{Map, Value, json};
use shared::App;
use shared::domain::tracking::{DatasetInput, Experiment, LoggedMetric, LoggedModel, Metric, Run};
use shared::http::Caller;
use shared::s3::keys;
use std::collections::BTreeMap;

/// Root of all artifacts of the caller's tenant, for experiments without one of their own.
pub(crate) fn artifact_root(app: &App, caller: &Caller) -> String {
    keys::artifact_root(
        &caller.tenant,
        app.bucket.name(),
        app.config.s3_artifact_roots,
    )
}

fn pairs(map: &BTreeMap<String, String>) -> Vec<Value> {
    map.iter()
        .map(|(key, value)| json!({"key": key, "value": value}))
        .collect()
}

/// Adds a list unless it is empty.
fn put_list(object: &mut Map<String, Value>, name: &str, list: Vec<Value>) {
    if !list.is_empty() {
        object.insert(name.to_owned(), Value::Array(list));
    }
}

/// A number, or the text that protobuf writes for one that JSON does not have.
fn number(value: f64) -> Value {
    if value.is_nan() {
        "NaN".into()
    } else {
        json!(value)
    }
}

pub(crate) fn experiment(experiment: &Experiment, root: &str) -> Value {
    let mut view = Map::new();
    view.insert("experiment_id".into(), experiment.id.to_string().into());
    view.insert("name".into(), experiment.name.clone().into());
    view.insert(
        "artifact_location".into(),
        experiment.artifact_root(root).into(),
    );
    view.insert(
        "lifecycle_stage".into(),
        experiment.lifecycle.as_str().into(),
    );
    for (name, time) in [
        ("last_update_time", experiment.updated_at),
        ("creation_time", experiment.created_at),
    ] {
        if time.millis() > 0 {
            view.insert(name.into(), time.millis().into());
        }
    }
    put_list(&mut view, "tags", pairs(&experiment.tags));
    Value::Object(view)
}

pub(crate) fn run_info(run: &Run) -> Value {
    let mut info = json!({
        "run_uuid": run.id.as_str(),
        "run_id": run.id.as_str(),
        "run_name": run.name,
        "experiment_id": run.experiment_id.to_string(),
        "user_id": run.user_id,
        "status": run.status.as_str(),
        "start_time": run.start_time,
        "artifact_uri": run.artifact_uri,
        "lifecycle_stage": run.lifecycle.as_str(),
    });
    // The protobuf's 0 is "none" for an end time.
    if let (Some(fields), Some(end)) = (info.as_object_mut(), run.end_time.filter(|end| *end != 0))
    {
        fields.insert("end_time".into(), end.into());
    }
    info
}

pub(crate) fn metric(metric: &Metric) -> Value {
    json!({
        "key": metric.key,
        "value": number(metric.value),
        "timestamp": metric.timestamp,
        "step": metric.step,
    })
}

pub(crate) fn metric_of_run(metric: &Metric, run_id: &str) -> Value {
    let mut view = self::metric(metric);
    if let Some(fields) = view.as_object_mut() {
        fields.insert("run_id".into(), run_id.into());
    }
    view
}

fn dataset_input(input: &DatasetInput) -> Value {
    let mut view = Map::new();
    let tags = input
        .tags
        .iter()
        .map(|tag| json!({"key": tag.key, "value": tag.value}))
        .collect();
    put_list(&mut view, "tags", tags);
    let dataset = &input.dataset;
    let mut shown = json!({
        "name": dataset.name,
        "digest": dataset.digest,
        "source_type": dataset.source_type,
        "source": dataset.source,
    });
    if let Some(fields) = shown.as_object_mut() {
        for (name, text) in [("schema", &dataset.schema), ("profile", &dataset.profile)] {
            if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
                fields.insert(name.into(), text.clone().into());
            }
        }
    }
    view.insert("dataset".into(), shown);
    Value::Object(view)
}

pub(crate) fn run(run: &Run) -> Value {
    let mut data = Map::new();
    put_list(
        &mut data,
        "metrics",
        run.metrics.values().map(metric).collect(),
    );
    put_list(&mut data, "params", pairs(&run.params));
    put_list(&mut data, "tags", pairs(&run.tags));
    let mut inputs = Map::new();
    put_list(
        &mut inputs,
        "dataset_inputs",
        run.datasets.iter().map(dataset_input).collect(),
    );
    put_list(
        &mut inputs,
        "model_inputs",
        run.model_inputs
            .iter()
            .map(|id| json!({"model_id": id}))
            .collect(),
    );
    let mut outputs = Map::new();
    put_list(
        &mut outputs,
        "model_outputs",
        run.model_outputs
            .iter()
            .map(|output| json!({"model_id": output.model_id, "step": output.step}))
            .collect(),
    );
    json!({"info": run_info(run), "data": data, "inputs": inputs, "outputs": outputs})
}

fn logged_metric(model: &LoggedModel, metric: &LoggedMetric) -> Value {
    let mut view = json!({
        "key": metric.key,
        "value": number(metric.value),
        "timestamp": metric.timestamp,
        "step": metric.step,
        "model_id": model.id.as_str(),
        "run_id": metric.run_id,
    });
    if let Some(fields) = view.as_object_mut() {
        for (name, text) in [
            ("dataset_name", &metric.dataset_name),
            ("dataset_digest", &metric.dataset_digest),
        ] {
            if let Some(text) = text {
                fields.insert(name.into(), text.clone().into());
            }
        }
    }
    view
}

pub(crate) fn logged_model(model: &LoggedModel) -> Value {
    let mut info = json!({
        "model_id": model.id.as_str(),
        "experiment_id": model.experiment_id.to_string(),
        "name": model.name,
        "creation_timestamp_ms": model.created_at.millis(),
        "last_updated_timestamp_ms": model.updated_at.millis(),
        "artifact_uri": model.artifact_uri,
        "status": model.status.as_str(),
        "model_type": model.model_type,
        "source_run_id": model.source_run_id,
    });
    if let Some(fields) = info.as_object_mut() {
        put_list(fields, "tags", pairs(&model.tags));
    }
    let mut data = Map::new();
    put_list(&mut data, "params", pairs(&model.params));
    put_list(
        &mut data,
        "metrics",
        model
            .metrics
            .iter()
            .map(|metric| logged_metric(model, metric))
            .collect(),
    );
    json!({"info": info, "data": data})
}
