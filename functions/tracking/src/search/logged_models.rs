//! The search of logged models.

use super::{
    Directions, First, NUMERIC, Place, SortValue, TEXTUAL_OR_LISTED, check_comparator, number_of,
    page, page_size, place_after,
};
use crate::views;
use axum::extract::State;
use shared::domain::tracking::{
    ExperimentId, Lifecycle, LoggedMetric, LoggedModel, LoggedModelStatus,
};
use shared::dynamodb::Position;
use shared::http::{Caller, Pages, Reply};
use shared::mlflow::fields::missing;
use shared::mlflow::filter::{self, Condition, Identifier, Literal};
use shared::mlflow::{Fields, invalid};
use shared::{App, Result};
use std::cmp::Reverse;

/// What can be asked of a logged model.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Id,
    Name,
    ModelType,
    SourceRun,
    Status,
    Experiment,
    Root,
    Created,
    Updated,
    Metric(String),
    Param(String),
    Tag(String),
}

fn attribute(key: &str) -> Option<Field> {
    match key {
        "model_id" => Some(Field::Id),
        "name" => Some(Field::Name),
        "model_type" => Some(Field::ModelType),
        "source_run_id" => Some(Field::SourceRun),
        "status" => Some(Field::Status),
        "experiment_id" => Some(Field::Experiment),
        "artifact_location" => Some(Field::Root),
        "creation_time" | "creation_timestamp" | "creation_timestamp_ms" => Some(Field::Created),
        "last_updated_timestamp" | "last_updated_timestamp_ms" => Some(Field::Updated),
        _ => None,
    }
}

fn field(identifier: &Identifier) -> Result<Field> {
    let key = identifier.key.clone();
    match identifier.entity.as_deref() {
        Some("metrics") => Ok(Field::Metric(key)),
        Some("params") => Ok(Field::Param(key)),
        Some("tags") => Ok(Field::Tag(key)),
        None | Some("attributes") => attribute(&key)
            .ok_or_else(|| invalid(format!("Invalid attribute key '{key}' specified."))),
        Some(other) => Err(invalid(format!(
            "Invalid entity type: '{other}'. Expected one of ['attributes', 'metrics', 'params', 'tags']."
        ))),
    }
}

/// A dataset that metrics shall have been measured on.
#[derive(Debug, Clone)]
struct OnDataset {
    name: String,
    digest: Option<String>,
}

impl OnDataset {
    fn read(fields: &Fields) -> Result<Self> {
        Ok(Self {
            name: fields.text("dataset_name")?.unwrap_or_default(),
            digest: fields
                .text("dataset_digest")?
                .filter(|digest| !digest.is_empty()),
        })
    }

    fn has(&self, metric: &LoggedMetric) -> bool {
        (self.name.is_empty() || metric.dataset_name.as_deref() == Some(&self.name))
            && self
                .digest
                .as_ref()
                .is_none_or(|digest| metric.dataset_digest.as_ref() == Some(digest))
    }
}

/// Whether a logged model is as a condition asks.
type Test = Box<dyn Fn(&LoggedModel) -> bool + Send + Sync>;

fn test(mut condition: Condition, datasets: &[OnDataset]) -> Result<Test> {
    let field = field(&condition.identifier)?;
    if matches!(field, Field::Created | Field::Updated | Field::Metric(_)) {
        check_comparator(&condition, &NUMERIC)?;
        let wanted = number_of("metric", &condition)?;
        let datasets = datasets.to_vec();
        return Ok(Box::new(move |model| match &field {
            Field::Metric(key) => model.metrics.iter().any(|metric| {
                metric.key == *key
                    && condition
                        .comparator
                        .holds(metric.value.partial_cmp(&wanted))
                    && (datasets.is_empty() || datasets.iter().any(|dataset| dataset.has(metric)))
            }),
            other => condition
                .comparator
                .holds(as_float(time_of(model, other)).partial_cmp(&wanted)),
        }));
    }
    check_comparator(&condition, &TEXTUAL_OR_LISTED)?;
    if let (Field::Status, Literal::Text(text)) = (&field, &mut condition.value) {
        // MLflow's store compares a number with the text here; a client means the name.
        let full = format!("LOGGED_MODEL_{text}");
        let status = LoggedModelStatus::parse(&full).or_else(|| LoggedModelStatus::parse(text));
        if let Some(status) = status {
            status.as_str().clone_into(text);
        }
    }
    Ok(Box::new(move |model| {
        text_of(model, &field).is_some_and(|text| condition.holds_for(&text))
    }))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 are far below 2^53"
)]
fn as_float(number: i64) -> f64 {
    number as f64
}

fn time_of(model: &LoggedModel, field: &Field) -> i64 {
    let time = match field {
        Field::Updated => model.updated_at,
        _ => model.created_at,
    };
    i64::try_from(time.millis()).unwrap_or(i64::MAX)
}

fn text_of(model: &LoggedModel, field: &Field) -> Option<String> {
    match field {
        Field::Id => Some(model.id.to_string()),
        Field::Name => Some(model.name.clone()),
        Field::ModelType => Some(model.model_type.clone()),
        Field::SourceRun => Some(model.source_run_id.clone()),
        Field::Status => Some(model.status.as_str().to_owned()),
        Field::Experiment => Some(model.experiment_id.to_string()),
        Field::Root => Some(model.artifact_uri.clone()),
        Field::Param(key) => model.params.get(key).cloned(),
        Field::Tag(key) => model.tags.get(key).cloned(),
        Field::Created | Field::Updated | Field::Metric(_) => None,
    }
}

/// One key of an order, with the dataset that a metric shall have been measured on.
struct Key {
    field: Field,
    dataset: OnDataset,
}

impl Key {
    fn read(fields: &Fields) -> Result<(Self, bool)> {
        let name = fields.text("field_name")?.unwrap_or_default();
        let field = match name.split_once('.') {
            None => attribute(&name)
                .ok_or_else(|| invalid(format!("Invalid order by field name: {name}")))?,
            Some(("metrics", key)) => Field::Metric(key.to_owned()),
            Some(_) => {
                return Err(invalid(format!(
                    "Invalid order by field name: {name}. Only metrics are supported."
                )));
            }
        };
        let key = Self {
            field,
            dataset: OnDataset::read(fields)?,
        };
        Ok((key, fields.flag("ascending")?.unwrap_or(true)))
    }

    fn value(&self, model: &LoggedModel) -> SortValue {
        match &self.field {
            Field::Created | Field::Updated => SortValue::Integer(time_of(model, &self.field)),
            Field::Metric(key) => model
                .metrics
                .iter()
                .filter(|metric| metric.key == *key && self.dataset.has(metric))
                .max_by_key(|metric| (metric.timestamp, metric.step, Reverse(&metric.run_id)))
                .map_or(SortValue::Missing, |metric| SortValue::number(metric.value)),
            other => SortValue::text(text_of(model, other).as_deref()),
        }
    }
}

pub(crate) async fn search(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let named = fields.texts("experiment_ids")?;
    if named.is_empty() && fields.value("experiment_ids").is_none() {
        return Err(missing("experiment_ids"));
    }
    let ids = named
        .iter()
        .map(|id| ExperimentId::parse(id))
        .collect::<Result<Vec<_>>>()?;
    // 0 means the server's choice.
    let size = match fields.int("max_results")? {
        None => 50,
        Some(0) => 100,
        Some(_) => page_size(&fields, 50)?,
    };
    let datasets = fields
        .objects("datasets")?
        .iter()
        .map(OnDataset::read)
        .collect::<Result<Vec<_>>>()?;
    if datasets.iter().any(|dataset| dataset.name.is_empty()) {
        return Err(invalid(
            "`dataset_name` in the `datasets` clause must be specified.",
        ));
    }
    let filter = fields.text("filter")?.unwrap_or_default();
    let conditions = filter::parse(&filter)?;
    let mut tests = Vec::new();
    let mut has_metric = false;
    for condition in conditions {
        has_metric |= matches!(field(&condition.identifier)?, Field::Metric(_));
        tests.push(test(condition, &datasets)?);
    }
    if !datasets.is_empty() && !has_metric {
        let datasets = datasets.clone();
        tests.push(Box::new(move |model: &LoggedModel| {
            model
                .metrics
                .iter()
                .any(|metric| datasets.iter().any(|dataset| dataset.has(metric)))
        }));
    }
    let mut keys = Vec::new();
    let mut directions = Vec::new();
    for order in fields.objects("order_by")? {
        let (key, is_ascending) = Key::read(&order)?;
        keys.push(key);
        directions.push(is_ascending);
    }
    if let ([key], [false]) = (keys.as_slice(), directions.as_slice())
        && key.field == Field::Created
    {
        keys.clear();
        directions.clear();
    }

    let asked = ["experiment_ids", "datasets", "order_by"].map(|name| {
        fields.list(name).map_or_else(
            |_| String::new(),
            |list| serde_json::json!(list).to_string(),
        )
    });
    let scope = ["logged-models", &filter, &asked[0], &asked[1], &asked[2]];
    let pages = Pages::new(&app, &caller, &scope);
    let after = place_after(&pages, &fields)?;
    let position = after
        .as_ref()
        .filter(|_| keys.is_empty())
        .map(|place| Position {
            time: place.time,
            id: place.id.clone(),
        });
    let mut listed = app
        .registry
        .list_logged_models(&caller.tenant, &ids, position.as_ref());
    let mut first = First::new(Directions(directions), after, size);
    let mut found = 0;
    while let Some(model) = listed.next_logged_model().await? {
        let model = caller.shown(model);
        if model.lifecycle == Lifecycle::Deleted || !tests.iter().all(|test| test(&model)) {
            continue;
        }
        let place = Place {
            values: keys.iter().map(|key| key.value(&model)).collect(),
            time: time_of(&model, &Field::Created),
            id: model.id.to_string(),
        };
        first.offer(place, model);
        found += 1;
        if keys.is_empty() && found > size {
            break;
        }
    }
    page(
        &pages,
        "models",
        &first.into_sorted(),
        size,
        views::logged_model,
    )
}
