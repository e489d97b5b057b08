//! The history of metrics, in pages and as samples.

use crate::runs::run_id;
use crate::views;
use axum::extract::State;
use serde_json::{Map, Value, json};
use shared::domain::tracking::{Metric, RunId};
use shared::http::{Caller, Pages, Reply};
use shared::mlflow::{Fields, invalid};
use shared::{App, Error, ErrorCode, Result};
use std::cmp::Ordering;

/// Most points of an answer.
const MAX_POINTS: usize = 25_000;
/// Most bytes of points: Lambda answers up to 6 MB.
const MAX_BYTES: usize = 4_500_000;
/// Most runs of one question.
const MAX_RUNS: usize = 100;
/// Most points of a run in a sampled history.
const MAX_SAMPLE: usize = 2_500;

/// Most points of a metric that an answer has room for; each says the metric's name and its run again.
fn room(key: &str) -> usize {
    MAX_POINTS.min(MAX_BYTES / (key.len() + 150))
}

/// Where a page of a history ended: a point after which all others come.
fn token_of(point: &Metric) -> String {
    json!([point.timestamp, point.step, point.value.to_bits()]).to_string()
}

fn point_of(token: &str) -> Result<Metric> {
    let (timestamp, step, bits) = serde_json::from_str(token)
        .map_err(|error| Error::new(ErrorCode::InvalidCursor, "no position").caused_by(error))?;
    Ok(Metric {
        key: String::new(),
        value: f64::from_bits(bits),
        timestamp,
        step,
    })
}

pub(crate) async fn get(State(app): State<App>, caller: Caller, fields: Fields) -> Result<Reply> {
    let key = fields.required("metric_key")?;
    let limit = match fields.int("max_results")? {
        None => room(&key),
        Some(limit) => match usize::try_from(limit) {
            Ok(limit) if limit > 0 => limit.min(room(&key)),
            _ => {
                return Err(invalid(format!(
                    "Invalid value {limit} for parameter 'max_results' supplied. It must be a positive integer."
                )));
            }
        },
    };
    // A run that there is not has no history, as in MLflow's server.
    let Ok(id) = run_id(&fields) else {
        let _ = fields.required("run_id")?;
        return Reply::ok(json!({}));
    };
    let pages = Pages::new(&app, &caller, &["metric-history", id.as_str(), &key]);
    let token = fields.text("page_token")?.filter(|token| !token.is_empty());
    let after = pages
        .after(token.as_deref())?
        .map(|token| point_of(&token))
        .transpose()?;
    let mut points = app
        .registry
        .metric_points(&caller.tenant, &id, &key)
        .await?;
    if let Some(after) = after {
        points.retain(|point| point.chronological(&after) == Ordering::Greater);
    }
    let has_more = points.len() > limit;
    points.truncate(limit);
    let mut view = Map::new();
    if !points.is_empty() {
        let shown = points.iter().map(views::metric).collect();
        view.insert("metrics".into(), Value::Array(shown));
    }
    if let Some(last) = points.last().filter(|_| has_more) {
        view.insert(
            "next_page_token".into(),
            pages.cursor(&token_of(last)).into(),
        );
    }
    Reply::ok(view)
}

/// The history of one metric in several runs, run by run.
pub(crate) async fn get_bulk(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let mut runs = fields.texts("run_id")?;
    if runs.is_empty() {
        return Err(invalid(
            "GetMetricHistoryBulk request must specify at least one run_id.",
        ));
    }
    if runs.len() > MAX_RUNS {
        return Err(invalid(format!(
            "GetMetricHistoryBulk request cannot specify more than {MAX_RUNS} run_ids. Received {} run_ids.",
            runs.len()
        )));
    }
    let key = fields
        .text("metric_key")?
        .ok_or_else(|| invalid("GetMetricHistoryBulk request must specify a metric_key."))?;
    let limit = fields
        .int("max_results")?
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(MAX_POINTS)
        .min(room(&key));
    runs.sort();
    runs.dedup();
    let mut shown = Vec::new();
    for run in runs {
        let Ok(id) = RunId::parse(run) else { continue };
        if shown.len() >= limit {
            break;
        }
        let points = app
            .registry
            .metric_points(&caller.tenant, &id, &key)
            .await?;
        shown.extend(
            points
                .iter()
                .map(|point| views::metric_of_run(point, id.as_str())),
        );
    }
    shown.truncate(limit);
    Reply::ok(json!({ "metrics": shown }))
}

/// The same, with at most `max_results` points of each run, evenly spread, the first and the last among them.
pub(crate) async fn get_sampled(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let runs = fields.texts("run_ids")?;
    if runs.is_empty() {
        return Err(shared::mlflow::fields::missing("run_ids"));
    }
    if runs.len() > MAX_RUNS {
        return Err(invalid(format!(
            "GetMetricHistoryBulkInterval request must specify at most {MAX_RUNS} run_ids. Received {} run_ids. See the API docs for more information about request parameters.",
            runs.len()
        )));
    }
    let key = fields.required("metric_key")?;
    let limit = match fields.int("max_results")? {
        None => MAX_SAMPLE,
        Some(limit) => usize::try_from(limit)
            .ok()
            .filter(|limit| (1..=MAX_SAMPLE).contains(limit))
            .ok_or_else(|| {
                invalid(format!(
                    "max_results must be between 1 and {MAX_SAMPLE}. See the API docs for more information about request parameters."
                ))
            })?,
    };
    let steps = match (fields.int("start_step")?, fields.int("end_step")?) {
        (None, None) => i64::MIN..=i64::MAX,
        (Some(start), Some(end)) if start > end => {
            return Err(invalid(format!(
                "end_step must be greater than start_step. Found start_step={start} and end_step={end}."
            )));
        }
        (Some(start), Some(end)) => start..=end,
        _ => {
            return Err(invalid(
                "If either start step or end step are specified, both must be specified.",
            ));
        }
    };
    // Many runs share the room of the answer.
    let limit = limit.min((room(&key) / runs.len()).max(1));
    let mut shown = Vec::new();
    for run in runs {
        let Ok(id) = RunId::parse(run) else { continue };
        let mut points = app
            .registry
            .metric_points(&caller.tenant, &id, &key)
            .await?;
        points.retain(|point| steps.contains(&point.step));
        points.sort_by(Metric::by_step);
        shown.extend(
            sampled(&points, limit)
                .into_iter()
                .map(|point| views::metric_of_run(point, id.as_str())),
        );
    }
    let mut view = Map::new();
    if !shown.is_empty() {
        view.insert("metrics".into(), Value::Array(shown));
    }
    Reply::ok(view)
}

/// The first point of each of `most` buckets of even size, and the last point of all.
fn sampled(points: &[Metric], most: usize) -> Vec<&Metric> {
    let buckets = most.min(points.len());
    if buckets == 0 {
        return Vec::new();
    }
    // As SQL's NTILE has it: the first buckets hold one more where the points do not divide.
    let (size, larger) = (points.len() / buckets, points.len() % buckets);
    let mut at: Vec<usize> = (0..buckets)
        .map(|bucket| bucket * size + bucket.min(larger))
        .collect();
    let last = points.len() - 1;
    if at.last() != Some(&last) {
        if at.len() >= most {
            at.pop();
        }
        at.push(last);
    }
    at.into_iter().filter_map(|at| points.get(at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread_and_end_with_the_last_point() {
        let points: Vec<Metric> = (0..10)
            .map(|step| Metric::new("loss", 0.5, 1, step))
            .collect();
        for (most, expected) in [
            (1, vec![9]),
            (2, vec![0, 9]),
            (3, vec![0, 4, 9]),
            (4, vec![0, 3, 6, 9]),
            (10, (0..10).collect()),
            (99, (0..10).collect()),
        ] {
            let steps: Vec<i64> = sampled(&points, most)
                .iter()
                .map(|point| point.step)
                .collect();
            assert_eq!(steps, expected, "{most}");
        }
        assert!(sampled(&[], 5).is_empty());
        let nowhere = [Metric::new("loss", f64::NAN, 1, 1)];
        assert_eq!(sampled(&nowhere, 2).len(), 1);
    }
}
