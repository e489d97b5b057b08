//! The search of experiments.

use super::{
    Directions, First, KEYED, NUMERIC, Place, SortValue, TEXTUAL, check_comparator, check_text,
    keyed_holds, number_of, page, page_size, place_after, unknown_attribute,
};
use crate::runs::enumerated;
use crate::views;
use axum::extract::State;
use shared::domain::tracking::{Experiment, ExperimentId, ViewType};
use shared::http::{Caller, Pages, Reply};
use shared::mlflow::filter::{self, Comparator, Condition, Identifier, Literal};
use shared::mlflow::{Fields, invalid};
use shared::{App, Result};

const ATTRIBUTES: [&str; 4] = ["creation_time", "experiment_id", "last_update_time", "name"];

/// What can be asked of an experiment.
enum Field {
    Name,
    Id,
    Created,
    Updated,
    Tag(String),
}

fn field(identifier: &Identifier) -> Result<Field> {
    match identifier.entity.as_deref() {
        Some("tag" | "tags") => return Ok(Field::Tag(identifier.key.clone())),
        None | Some("attribute") => {}
        Some(other) => {
            return Err(invalid(format!(
                "Invalid entity type '{other}'. Valid entity types are ('attribute', 'tag', 'tags')"
            )));
        }
    }
    match identifier.key.as_str() {
        "name" => Ok(Field::Name),
        "experiment_id" => Ok(Field::Id),
        "creation_time" => Ok(Field::Created),
        "last_update_time" => Ok(Field::Updated),
        _ => Err(unknown_attribute(identifier, &ATTRIBUTES)),
    }
}

fn time(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

/// Whether an experiment is as a condition asks.
type Test = Box<dyn Fn(&Experiment) -> bool + Send + Sync>;

fn test(condition: Condition) -> Result<Test> {
    let comparator = condition.comparator;
    match field(&condition.identifier)? {
        Field::Name => {
            check_comparator(&condition, &TEXTUAL)?;
            check_text("attributes", &condition)?;
            Ok(Box::new(move |experiment| {
                condition.holds_for(&experiment.name)
            }))
        }
        Field::Id => {
            let ids = match &condition.value {
                Literal::Text(text) => vec![ExperimentId::parse(text)?],
                Literal::List(texts) => texts
                    .iter()
                    .map(|text| ExperimentId::parse(text))
                    .collect::<Result<_>>()?,
                Literal::Number(_) | Literal::Nothing => {
                    check_text("attributes", &condition)?;
                    Vec::new()
                }
            };
            match comparator {
                Comparator::Equal | Comparator::In => {
                    Ok(Box::new(move |experiment| ids.contains(&experiment.id)))
                }
                Comparator::NotEqual | Comparator::NotIn => {
                    Ok(Box::new(move |experiment| !ids.contains(&experiment.id)))
                }
                _ => Err(invalid(format!(
                    "Invalid comparator for experiment_id: {comparator}"
                ))),
            }
        }
        field @ (Field::Created | Field::Updated) => {
            check_comparator(&condition, &NUMERIC)?;
            number_of("numeric attribute", &condition)?;
            let wanted: i64 = match &condition.value {
                Literal::Number(text) => text.parse().ok(),
                _ => None,
            }
            .ok_or_else(|| {
                invalid(format!(
                    "Invalid value for numeric attribute '{}': '{}'",
                    condition.identifier.key, condition.value
                ))
            })?;
            Ok(Box::new(move |experiment| {
                let time = time(match field {
                    Field::Created => experiment.created_at.millis(),
                    _ => experiment.updated_at.millis(),
                });
                comparator.holds(Some(time.cmp(&wanted)))
            }))
        }
        Field::Tag(key) => {
            check_comparator(&condition, &KEYED)?;
            check_text("tag", &condition)?;
            Ok(Box::new(move |experiment| {
                keyed_holds(&condition, experiment.tags.get(&key).map(String::as_str))
            }))
        }
    }
}

pub(crate) async fn search(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let root = views::artifact_root(&app, &caller);
    let view = enumerated(&fields, "view_type", ViewType::parse)?.unwrap_or_default();
    // MLflow's server has no default here, and answers 400.
    let size = page_size(&fields, 0)?;
    let filter = fields.text("filter")?.unwrap_or_default();
    let tests = filter::parse(&filter)?
        .into_iter()
        .map(test)
        .collect::<Result<Vec<_>>>()?;
    let asked = fields.texts("order_by")?;
    let mut keys = Vec::new();
    let mut directions = Vec::new();
    for order in &asked {
        let order = filter::parse_order(order)?;
        match field(&order.identifier)? {
            Field::Tag(_) => return Err(invalid("Invalid order_by entity: tag")),
            key => keys.push(key),
        }
        directions.push(order.is_ascending);
    }
    if keys.is_empty() {
        keys.extend([Field::Created, Field::Id]);
        directions.extend([false, true]);
    } else if !keys.iter().any(|key| matches!(key, Field::Id)) {
        keys.push(Field::Id);
        directions.push(false);
    }
    let scope = [
        &["experiments", view.as_str(), &filter][..],
        &asked.iter().map(String::as_str).collect::<Vec<_>>(),
    ]
    .concat();
    let pages = Pages::new(&app, &caller, &scope);
    let mut first = First::new(Directions(directions), place_after(&pages, &fields)?, size);
    for experiment in app.registry.experiments(&caller.tenant).await? {
        if !view.shows(experiment.lifecycle) || !tests.iter().all(|test| test(&experiment)) {
            continue;
        }
        let values = keys
            .iter()
            .map(|key| match key {
                Field::Name => SortValue::Text(experiment.name.clone()),
                Field::Created => SortValue::Integer(time(experiment.created_at.millis())),
                Field::Updated => SortValue::Integer(time(experiment.updated_at.millis())),
                Field::Id | Field::Tag(_) => SortValue::Integer(time(experiment.id.get())),
            })
            .collect();
        let place = Place {
            values,
            time: 0,
            id: String::new(),
        };
        first.offer(place, experiment);
    }
    page(
        &pages,
        "experiments",
        &first.into_sorted(),
        size,
        |experiment| views::experiment(experiment, &root),
    )
}
