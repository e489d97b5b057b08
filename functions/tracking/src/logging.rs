//! What runs log: metrics, parameters, tags, inputs and outputs.

use crate::runs::run_id;
use axum::extract::State;
use serde_json::{Value, json};
use shared::domain::tracking::{
    Dataset, DatasetInput, InputTag, LoggedMetric, LoggedModelId, Metric, ModelOutput, Run, RunId,
    rules,
};
use shared::dynamodb::RunChange;
use shared::http::{Caller, Reply, respond};
use shared::mlflow::fields::missing;
use shared::mlflow::{Fields, invalid};
use shared::{App, Error, ErrorCode, Result};
use std::collections::HashSet;

/// Tag in which 2.x clients keep the models that they logged.
const LOGGED_MODELS_TAG: &str = "mlflow.log-model.history";

/// Changes a run, with the points that the change logs, and answers with a view of it.
pub(crate) async fn change(
    app: &App,
    caller: &Caller,
    id: &RunId,
    change: impl Fn(&mut Run) -> Result<RunChange>,
    view: impl Fn(&Run) -> Value,
) -> Result<Reply> {
    let points_id = app.ids.next();
    let now = app.clock.now();
    let outcome = app
        .registry
        .change_run(&caller.tenant, id, &points_id, change, |run| {
            caller.answer(200, &view(run), now)
        })
        .await
        .map(|outcome| outcome.map(|run| view(&run)));
    respond(app, caller, 200, outcome).await
}

/// Changes a run that must be there; the answer is empty.
async fn log(
    app: &App,
    caller: &Caller,
    id: &RunId,
    apply: impl Fn(&mut Run) -> Result<RunChange>,
) -> Result<Reply> {
    let apply = |run: &mut Run| {
        run.require_active()?;
        apply(run)
    };
    change(app, caller, id, apply, |_| json!({})).await
}

/// A metric of a request, and the logged model that it is about, if it is about one.
struct Measured {
    point: Metric,
    model: Option<(LoggedModelId, LoggedMetric)>,
}

/// Reads a metric; `path` leads its names in messages and is empty where it stands alone.
fn metric(fields: &Fields, path: &str, run: &RunId) -> Result<Measured> {
    let value = fields
        .float("value")?
        .ok_or_else(|| missing(&within(path, "value")))?;
    let timestamp = fields
        .int("timestamp")?
        .ok_or_else(|| missing(&within(path, "timestamp")))?;
    let key = fields
        .text("key")?
        .filter(|key| !key.is_empty())
        .ok_or_else(|| missing(&within(path, "key")))?;
    let point = Metric::new(
        key,
        value,
        timestamp,
        fields.int("step")?.unwrap_or_default(),
    );
    rules::check_metric(path, &point)?;
    let text = |name: &str| Ok::<_, Error>(fields.text(name)?.filter(|text| !text.is_empty()));
    let (dataset_name, dataset_digest) = (text("dataset_name")?, text("dataset_digest")?);
    if dataset_name.is_some() != dataset_digest.is_some() {
        return Err(invalid(
            "Both dataset_name and dataset_digest must be provided if one is provided",
        ));
    }
    let model = text("model_id")?
        .map(|id| {
            let logged = LoggedMetric {
                key: point.key.clone(),
                value: if point.value.is_nan() {
                    0.0
                } else {
                    point.value
                },
                timestamp: point.timestamp,
                step: point.step,
                run_id: run.to_string(),
                dataset_name,
                dataset_digest,
            };
            Ok::<_, Error>((LoggedModelId::parse(id)?, logged))
        })
        .transpose()?;
    Ok(Measured { point, model })
}

fn within(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// What a change logs, each point once.
fn logged(measured: &[Measured]) -> RunChange {
    let mut seen = HashSet::new();
    RunChange {
        points: measured
            .iter()
            .map(|measured| &measured.point)
            .filter(|point| {
                seen.insert((
                    point.key.as_str(),
                    point.timestamp,
                    point.step,
                    point.value.to_bits(),
                ))
            })
            .cloned()
            .collect(),
        model_points: measured
            .iter()
            .filter_map(|measured| measured.model.clone())
            .collect(),
    }
}

pub(crate) async fn log_metric(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let id = run_id(&fields)?;
    let measured = [metric(&fields, "", &id)?];
    log(&app, &caller, &id, |run| {
        let change = logged(&measured);
        run.log_metrics(&change.points);
        Ok(change)
    })
    .await
}

pub(crate) async fn log_param(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let id = run_id(&fields)?;
    let key = fields.required("key")?;
    let mut value = fields.text("value")?.unwrap_or_default();
    rules::check_param("", &key, &mut value)?;
    log(&app, &caller, &id, |run| {
        run.log_param(&key, &value)?;
        Ok(RunChange::default())
    })
    .await
}

pub(crate) async fn set_tag(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let id = run_id(&fields)?;
    let key = fields.required("key")?;
    let mut value = fields.text("value")?.unwrap_or_default();
    rules::check_tag("", &key, &mut value)?;
    log(&app, &caller, &id, |run| {
        run.set_tag(&key, &value);
        Ok(RunChange::default())
    })
    .await
}

pub(crate) async fn delete_tag(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let id = run_id(&fields)?;
    let key = fields.required("key")?;
    log(&app, &caller, &id, |run| {
        run.tags.remove(&key).ok_or_else(|| {
            Error::new(
                ErrorCode::TagNotFound,
                format!("No tag with name: {key} in run with id {}", run.id),
            )
        })?;
        Ok(RunChange::default())
    })
    .await
}

pub(crate) async fn log_batch(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let id = run_id(&fields)?;
    let metrics = fields.objects("metrics")?;
    let measured = metrics
        .iter()
        .enumerate()
        .map(|(at, fields)| metric(fields, &format!("metrics[{at}]"), &id))
        .collect::<Result<Vec<_>>>()?;
    let mut params = keyed(&fields, "params")?;
    for (at, (key, value)) in params.iter_mut().enumerate() {
        rules::check_param(&format!("params[{at}]"), key, value)?;
    }
    let mut tags = keyed(&fields, "tags")?;
    for (at, (key, value)) in tags.iter_mut().enumerate() {
        rules::check_tag(&format!("tags[{at}]"), key, value)?;
    }
    rules::check_batch(measured.len(), params.len(), tags.len())?;
    rules::check_params_unique(&params)?;
    log(&app, &caller, &id, |run| {
        run.log_params(&params)?;
        let change = logged(&measured);
        run.log_metrics(&change.points);
        for (key, value) in &tags {
            run.set_tag(key, value);
        }
        Ok(change)
    })
    .await
}

/// Pairs whose keys must be there.
fn keyed(fields: &Fields, name: &str) -> Result<Vec<(String, String)>> {
    let pairs = fields.pairs(name)?;
    match pairs.iter().position(|(key, _)| key.is_empty()) {
        Some(at) => Err(missing(&format!("{name}[{at}].key"))),
        None => Ok(pairs),
    }
}

fn dataset_input(fields: &Fields) -> Result<DatasetInput> {
    let dataset = fields
        .object("dataset")?
        .ok_or_else(|| invalid("Dataset cannot be None"))?;
    let text = |name: &str| Ok::<_, Error>(dataset.text(name)?.unwrap_or_default());
    let some = |name: &str| Ok::<_, Error>(dataset.text(name)?.filter(|text| !text.is_empty()));
    Ok(DatasetInput {
        tags: fields
            .pairs("tags")?
            .into_iter()
            .map(|(key, value)| InputTag { key, value })
            .collect(),
        dataset: Dataset {
            name: text("name")?,
            digest: text("digest")?,
            source_type: text("source_type")?,
            source: text("source")?,
            schema: some("schema")?,
            profile: some("profile")?,
        },
    })
}

fn model_ids(fields: &[Fields]) -> Result<Vec<String>> {
    fields
        .iter()
        .map(|fields| Ok(fields.text("model_id")?.unwrap_or_default()))
        .collect()
}

pub(crate) async fn log_inputs(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let id = run_id(&fields)?;
    let datasets = fields
        .objects("datasets")?
        .iter()
        .map(dataset_input)
        .collect::<Result<Vec<_>>>()?;
    rules::check_datasets(&datasets)?;
    let models = model_ids(&fields.objects("models")?)?;
    log(&app, &caller, &id, |run| {
        run.add_datasets(datasets.clone());
        for model in &models {
            if !run.model_inputs.contains(model) {
                run.model_inputs.push(model.clone());
            }
        }
        Ok(RunChange::default())
    })
    .await
}

pub(crate) async fn log_outputs(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let id = run_id(&fields)?;
    let models = fields.objects("models")?;
    if models.is_empty() && fields.value("models").is_none() {
        return Err(missing("models"));
    }
    let outputs = models
        .iter()
        .map(|fields| {
            Ok(ModelOutput {
                model_id: fields.text("model_id")?.unwrap_or_default(),
                step: fields.int("step")?.unwrap_or_default(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    log(&app, &caller, &id, |run| {
        // A client that repeats a request after a lost answer logs the same output; it is one.
        for output in &outputs {
            if !run.model_outputs.contains(output) {
                run.model_outputs.push(output.clone());
            }
        }
        Ok(RunChange::default())
    })
    .await
}

/// Adds a model to the tag in which 2.x clients find the models of a run.
pub(crate) async fn log_model(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let id = run_id(&fields)?;
    let text = fields.required("model_json")?;
    let Ok(Value::Object(model)) = serde_json::from_str(&text) else {
        return Err(invalid(format!(
            "Malformed model info. \n {text} \n is not a valid JSON."
        )));
    };
    let absent: Vec<String> = ["artifact_path", "flavors", "utc_time_created", "run_id"]
        .into_iter()
        .filter(|name| !model.contains_key(*name))
        .map(|name| format!("'{name}'"))
        .collect();
    if !absent.is_empty() {
        return Err(invalid(format!(
            "Model json is missing mandatory fields: {{{}}}",
            absent.join(", ")
        )));
    }
    // The tag is small: what MLflow's server keeps of a model, too.
    let mut kept = model;
    kept.retain(|name, _| {
        [
            "run_id",
            "utc_time_created",
            "artifact_path",
            "model_uuid",
            "flavors",
        ]
        .contains(&name.as_str())
    });
    if let Some(Value::Object(flavors)) = kept.get_mut("flavors") {
        for flavor in flavors.values_mut() {
            if let Value::Object(flavor) = flavor {
                flavor.remove("config");
            }
        }
    }
    log(&app, &caller, &id, |run| {
        let mut history: Vec<Value> = run
            .tags
            .get(LOGGED_MODELS_TAG)
            .and_then(|tag| serde_json::from_str(tag).ok())
            .unwrap_or_default();
        let model = Value::Object(kept.clone());
        if !history.contains(&model) {
            history.push(model);
        }
        let value = Value::Array(history).to_string();
        // It is read whole or not at all, so that only the limit of all tags of a run bounds it.
        run.set_tag(LOGGED_MODELS_TAG, &value);
        Ok(RunChange::default())
    })
    .await
}
