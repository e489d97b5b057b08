//! The search of runs.

use super::{
    Directions, First, KEYED, NUMERIC, Place, SortValue, TEXTUAL_OR_LISTED, check_comparator,
    check_text, keyed_holds, number_of, page, page_size, place_after, unknown_attribute,
};
use crate::runs::enumerated;
use crate::views;
use axum::extract::State;
use shared::domain::tracking::run::RUN_NAME_TAG;
use shared::domain::tracking::{ExperimentId, Run, ViewType};
use shared::dynamodb::Position;
use shared::http::{Caller, Pages, Reply};
use shared::mlflow::fields::mistyped;
use shared::mlflow::filter::{self, Comparator, Condition, Identifier, Literal, Order};
use shared::mlflow::{Fields, invalid};
use shared::{App, Result};

/// Tag of a dataset's use that says what it was used for.
pub(super) const CONTEXT_TAG: &str = "mlflow.data.context";

const ATTRIBUTES: [&str; 12] = [
    "Created",
    "Run Name",
    "Run name",
    "artifact_uri",
    "created",
    "end_time",
    "run name",
    "run_id",
    "run_name",
    "start_time",
    "status",
    "user_id",
];

/// A property of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DatasetField {
    Name,
    Digest,
    Context,
}

/// What can be asked of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Id,
    Name,
    Status,
    UserId,
    ArtifactUri,
    Start,
    End,
    Metric(String),
    Param(String),
    Tag(String),
    Dataset(DatasetField),
}

fn field(identifier: &Identifier) -> Result<Field> {
    let key = identifier.key.clone();
    match identifier.entity.as_deref() {
        Some("metric" | "metrics") => Ok(Field::Metric(key)),
        Some("parameter" | "parameters" | "param" | "params") => Ok(Field::Param(key)),
        Some("tag" | "tags") => Ok(Field::Tag(key)),
        Some("dataset" | "datasets") => match key.as_str() {
            "name" => Ok(Field::Dataset(DatasetField::Name)),
            "digest" => Ok(Field::Dataset(DatasetField::Digest)),
            "context" => Ok(Field::Dataset(DatasetField::Context)),
            _ => Err(invalid(format!(
                "Invalid dataset key '{key}' specified. Valid keys are '{{'context', 'digest', 'name'}}'"
            ))),
        },
        None | Some("attribute" | "attributes" | "attr" | "run") => match key.as_str() {
            "run_id" => Ok(Field::Id),
            "run_name" | "run name" | "Run name" | "Run Name" => Ok(Field::Name),
            "status" => Ok(Field::Status),
            "user_id" => Ok(Field::UserId),
            "artifact_uri" => Ok(Field::ArtifactUri),
            "start_time" | "created" | "Created" => Ok(Field::Start),
            "end_time" => Ok(Field::End),
            _ => Err(unknown_attribute(identifier, &ATTRIBUTES)),
        },
        Some(other) => Err(invalid(format!(
            "Invalid entity type '{other}'. Valid values are ['metric', 'parameter', 'tag', 'attribute', 'dataset']"
        ))),
    }
}

/// Whether a run is as a condition asks.
type Test = Box<dyn Fn(&Run) -> bool + Send + Sync>;

fn test(condition: Condition) -> Result<Test> {
    let is_null_test = matches!(
        condition.comparator,
        Comparator::IsNull | Comparator::IsNotNull
    );
    let field = field(&condition.identifier)?;
    match field {
        Field::Tag(key) => {
            check_comparator(&condition, &KEYED)?;
            check_text("tag", &condition)?;
            Ok(Box::new(move |run| {
                keyed_holds(&condition, run.tags.get(&key).map(String::as_str))
            }))
        }
        Field::Param(key) => {
            check_comparator(&condition, &KEYED)?;
            check_text("parameter", &condition)?;
            Ok(Box::new(move |run| {
                keyed_holds(&condition, run.params.get(&key).map(String::as_str))
            }))
        }
        _ if is_null_test => Err(invalid(format!(
            "IS NULL / IS NOT NULL is only supported for tags and params, not for '{}'",
            condition.identifier.key
        ))),
        Field::Metric(key) => {
            check_comparator(&condition, &NUMERIC)?;
            let wanted = number_of("metric", &condition)?;
            Ok(Box::new(move |run| {
                run.metrics.get(&key).is_some_and(|metric| {
                    condition
                        .comparator
                        .holds(metric.value.partial_cmp(&wanted))
                })
            }))
        }
        Field::Start | Field::End => time_test(&condition, field == Field::Start),
        Field::Dataset(property) => {
            check_comparator(&condition, &TEXTUAL_OR_LISTED)?;
            if !matches!(condition.value, Literal::List(_)) {
                check_text("dataset attributes", &condition)?;
            }
            Ok(Box::new(move |run| {
                dataset_holds(run, property, &condition)
            }))
        }
        Field::Id | Field::Name | Field::Status | Field::UserId | Field::ArtifactUri => {
            check_comparator(&condition, &TEXTUAL_OR_LISTED)?;
            match &condition.value {
                Literal::List(_) if field == Field::Id => {}
                Literal::List(_) => {
                    return Err(invalid(
                        "Only ['run_id'] attributes support comparison with a list of quoted string values.",
                    ));
                }
                _ => check_text("attributes", &condition)?,
            }
            Ok(Box::new(move |run| {
                text_of(run, &field).is_some_and(|text| condition.holds_for(text))
            }))
        }
    }
}

fn time_test(condition: &Condition, is_start: bool) -> Result<Test> {
    check_comparator(condition, &NUMERIC)?;
    let wanted = number_of(
        &format!("numeric attribute: {}", condition.identifier.key),
        condition,
    )?;
    let comparator = condition.comparator;
    // A whole number is compared as one: a float does not hold every millisecond of an int64.
    let whole: Option<i64> = match &condition.value {
        Literal::Number(text) => text.parse().ok(),
        _ => None,
    };
    Ok(Box::new(move |run| {
        let time = if is_start {
            Some(run.start_time)
        } else {
            run.end_time
        };
        time.is_some_and(|time| {
            comparator.holds(match whole {
                Some(whole) => Some(time.cmp(&whole)),
                None => as_float(time).partial_cmp(&wanted),
            })
        })
    }))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the client compares with a fraction, and says so"
)]
fn as_float(number: i64) -> f64 {
    number as f64
}

fn dataset_holds(run: &Run, property: DatasetField, condition: &Condition) -> bool {
    run.datasets.iter().any(|input| match property {
        DatasetField::Name => condition.holds_for(&input.dataset.name),
        DatasetField::Digest => condition.holds_for(&input.dataset.digest),
        DatasetField::Context => input
            .tags
            .iter()
            .any(|tag| tag.key == CONTEXT_TAG && condition.holds_for(&tag.value)),
    })
}

/// A textual attribute, as a filter sees it: the name of a run is its tag.
fn text_of<'a>(run: &'a Run, field: &Field) -> Option<&'a str> {
    match field {
        Field::Id => Some(run.id.as_str()),
        Field::Name => run.tags.get(RUN_NAME_TAG).map(String::as_str),
        Field::Status => Some(run.status.as_str()),
        Field::UserId => Some(&run.user_id),
        Field::ArtifactUri => Some(&run.artifact_uri),
        _ => None,
    }
}

fn sort_value(run: &Run, field: &Field) -> SortValue {
    match field {
        Field::Metric(key) => run
            .metrics
            .get(key)
            .map_or(SortValue::Missing, |metric| SortValue::number(metric.value)),
        Field::Param(key) => SortValue::text(run.params.get(key).map(String::as_str)),
        Field::Tag(key) => SortValue::text(run.tags.get(key).map(String::as_str)),
        Field::Start => SortValue::Integer(run.start_time),
        Field::End => run.end_time.map_or(SortValue::Missing, SortValue::Integer),
        Field::Name => SortValue::Text(run.name.clone()),
        other => SortValue::text(text_of(run, other)),
    }
}

/// The fields to sort by and their directions; empty where the order is that in which runs lie, newest first.
fn orders(asked: &[String]) -> Result<(Vec<Field>, Directions)> {
    let mut keys = Vec::new();
    let mut directions = Vec::new();
    for order in asked {
        let Order {
            identifier,
            is_ascending,
        } = filter::parse_order(order)?;
        let key = field(&identifier)?;
        if matches!(key, Field::Dataset(_)) {
            return Err(invalid("Invalid identifier type 'dataset'"));
        }
        if keys.contains(&key) {
            return Err(invalid(format!(
                "`order_by` contains duplicate fields: {asked:?}"
            )));
        }
        keys.push(key);
        directions.push(is_ascending);
    }
    if keys == [Field::Start] && directions == [false] {
        return Ok((Vec::new(), Directions::default()));
    }
    Ok((keys, Directions(directions)))
}

pub(crate) async fn search(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    if let Some(given) = fields.int("max_results")?.filter(|given| *given > 50_000) {
        return Err(mistyped("max_results", &given.into()));
    }
    let size = page_size(&fields, 1_000)?;
    let view = enumerated(&fields, "run_view_type", ViewType::parse)?.unwrap_or_default();
    let filter = fields.text("filter")?.unwrap_or_default();
    let tests = filter::parse(&filter)?
        .into_iter()
        .map(test)
        .collect::<Result<Vec<_>>>()?;
    let asked = fields.texts("order_by")?;
    let (keys, directions) = orders(&asked)?;
    let named = fields.texts("experiment_ids")?;
    let ids = named
        .iter()
        .map(|id| ExperimentId::parse(id))
        .collect::<Result<Vec<_>>>()?;

    let lists = [&named, &asked].map(|list| serde_json::json!(list).to_string());
    let scope = ["runs", view.as_str(), &filter, &lists[0], &lists[1]];
    let pages = Pages::new(&app, &caller, &scope);
    let after = place_after(&pages, &fields)?;
    let experiments = app.registry.find_experiments(&caller.tenant, &ids).await?;
    let present: Vec<ExperimentId> = experiments.keys().copied().collect();
    // In the order in which they lie, reading goes on where the last page ended; in any other all must be seen.
    let position = after
        .as_ref()
        .filter(|_| keys.is_empty())
        .map(|place| Position {
            time: place.time,
            id: place.id.clone(),
        });
    let mut listed = app
        .registry
        .list_runs(&caller.tenant, &present, position.as_ref());
    let mut first = First::new(directions, after, size);
    let mut found = 0;
    while let Some(run) = listed.next_run(&experiments).await? {
        if !view.shows(run.lifecycle) || !tests.iter().all(|test| test(&run)) {
            continue;
        }
        let place = Place {
            values: keys.iter().map(|key| sort_value(&run, key)).collect(),
            time: run.start_time,
            id: run.id.to_string(),
        };
        first.offer(place, run);
        found += 1;
        if keys.is_empty() && found > size {
            break;
        }
    }
    page(&pages, "runs", &first.into_sorted(), size, |run| {
        // A list shows what a run was fed with, but no models that it was fed with, as in MLflow's server.
        let run = Run {
            model_inputs: Vec::new(),
            ..run.clone()
        };
        views::run(&run)
    })
}
