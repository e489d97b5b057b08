//! The history of metrics: every batch of points is an item of its own, and nothing is read to log one.
//!
//! A batch of one metric lies under that metric, so that its history is read without the others'.
//! A point that is logged twice is read once.

use super::runs::RunChange;
use crate::domain::TenantName;
use crate::domain::tracking::logged_model::logged_model_not_found;
use crate::domain::tracking::{LoggedMetric, LoggedModelId, Metric, RunId, metric};
use crate::dynamodb::items::{Builder, Reader, as_number};
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::registry::Registry;
use crate::dynamodb::table::{Expression, Query, Write};
use crate::error::Result;
use std::collections::{BTreeMap, HashSet};

/// Points of one item; names of 250 characters and all, they stay below 400 KB.
const POINTS_PER_ITEM: usize = 250;
/// A batch of metrics with short names is one item.
const POINTS_PER_SMALL_ITEM: usize = 1_000;
/// Names of a batch, in bytes, up to which it counts as one with short names.
const SMALL_NAMES_BYTES: usize = 200_000;

impl Registry {
    /// The writes of points; those of logged models ask where these lie.
    pub(super) async fn point_writes(
        &self,
        tenant: &TenantName,
        run: &RunId,
        id: &str,
        change: &RunChange,
    ) -> Result<Vec<Write>> {
        let mut writes = Vec::new();
        let names: usize = change.points.iter().map(|point| point.key.len()).sum();
        let most = if names <= SMALL_NAMES_BYTES {
            POINTS_PER_SMALL_ITEM
        } else {
            POINTS_PER_ITEM
        };
        for (part, points) in change.points.chunks(most).enumerate() {
            let of_one = points
                .iter()
                .all(|point| points.first().is_some_and(|first| first.key == point.key));
            let prefix = match points.first() {
                Some(first) if of_one => keys::points_of_metric(&first.key),
                _ => keys::POINTS_OF_BATCH.to_owned(),
            };
            let key = Key {
                pk: keys::points(tenant, run.as_str()),
                sk: format!("{prefix}{id}{part:02}"),
            };
            writes.push(Write::Put {
                item: Builder::at(&key)
                    .bytes("points", metric::pack(points))
                    .build(),
                condition: None,
            });
        }
        let mut by_model: BTreeMap<&LoggedModelId, Vec<&LoggedMetric>> = BTreeMap::new();
        for (model, point) in &change.model_points {
            by_model.entry(model).or_default().push(point);
        }
        for (model, points) in by_model {
            let place = self
                .place_of(tenant, model.as_str())
                .await?
                .ok_or_else(|| logged_model_not_found(model))?;
            let key = Key {
                pk: keys::logged_models(tenant, place.experiment),
                sk: place.sk,
            };
            writes.push(Write::Put {
                item: Builder::at(&keys::logged_metrics(&key, id))
                    .json("values", &points)?
                    .build(),
                condition: None,
            });
            // The model's item says that it has values, so that one without any is read in one call.
            writes.push(Write::Update {
                key,
                update: Expression::new("SET #valued = :yes").value("yes", as_number(1)),
                condition: Expression::new("attribute_exists(#pk)"),
            });
        }
        Ok(writes)
    }

    /// Every point of a metric of a run, each once, in the order of [`Metric::chronological`].
    pub async fn metric_points(
        &self,
        tenant: &TenantName,
        run: &RunId,
        key: &str,
    ) -> Result<Vec<Metric>> {
        let mut seen = HashSet::new();
        let mut points = Vec::new();
        for prefix in [
            keys::points_of_metric(key),
            keys::POINTS_OF_BATCH.to_owned(),
        ] {
            let query = Query::new(keys::points(tenant, run.as_str()))
                .prefix(prefix)
                .limit(1_000_000)
                .consistent();
            for item in self.table.query_all(query, usize::MAX).await? {
                let reader = Reader(&item);
                let packed = reader
                    .maybe_bytes("points")
                    .and_then(metric::unpack)
                    .ok_or_else(|| reader.broken("points"))?;
                points.extend(packed.into_iter().filter(|point| {
                    point.key == key
                        && seen.insert((point.timestamp, point.step, point.value.to_bits()))
                }));
            }
        }
        points.sort_by(Metric::chronological);
        Ok(points)
    }
}
