//! The order of a search, and where its next page begins: after the last row that was shown, whatever is written since.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::http::Pages;
use shared::mlflow::filter::parse_order;
use shared::mlflow::invalid;
use shared::{Error, ErrorCode, Result};
use std::cmp::Ordering;

/// What rows can be ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum By {
    Name,
    Number,
    Created,
    Updated,
}

/// A row as far as its order goes; also what a page token holds of the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    #[serde(rename = "n")]
    pub(super) name: String,
    #[serde(rename = "v", default)]
    pub(super) number: u32,
    #[serde(rename = "c", default)]
    pub(super) created: u64,
    #[serde(rename = "u", default)]
    pub(super) updated: u64,
}

/// An order: keys, and whether each ascends.
#[derive(Debug, Clone)]
pub(super) struct Order(Vec<(By, bool)>);

impl Order {
    /// Reads the order of a request; `known` names the keys, and `last` breaks ties.
    pub(super) fn parse(
        clauses: &[String],
        known: &[(&str, By)],
        default: &[(By, bool)],
        last: &[(By, bool)],
    ) -> Result<Self> {
        let mut keys: Vec<(By, bool)> = Vec::new();
        for clause in clauses {
            let order = parse_order(clause)?;
            let key = order.identifier.key.as_str();
            let by = known
                .iter()
                .find(|(name, _)| *name == key && order.identifier.entity.is_none())
                .map(|(_, by)| *by)
                .ok_or_else(|| {
                    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                    invalid(format!(
                        "Invalid order by key '{key}' specified. Valid keys are '{{{}}}'",
                        names.join(", ")
                    ))
                })?;
            if keys.iter().any(|(other, _)| *other == by) {
                return Err(invalid(format!(
                    "`order_by` contains duplicate fields: [{}]",
                    clauses.join(", ")
                )));
            }
            keys.push((by, order.is_ascending));
        }
        if keys.is_empty() {
            keys.extend(default);
        }
        for (by, is_ascending) in last {
            if !keys.iter().any(|(other, _)| other == by) {
                keys.push((*by, *is_ascending));
            }
        }
        Ok(Self(keys))
    }

    /// The first key.
    pub(super) fn first(&self) -> Option<(By, bool)> {
        self.0.first().copied()
    }

    /// Which of two rows comes first.
    pub(super) fn compare(&self, left: &Place, right: &Place) -> Ordering {
        self.0
            .iter()
            .map(|(by, is_ascending)| {
                let order = match by {
                    By::Name => left.name.cmp(&right.name),
                    By::Number => left.number.cmp(&right.number),
                    By::Created => left.created.cmp(&right.created),
                    By::Updated => left.updated.cmp(&right.updated),
                };
                if *is_ascending {
                    order
                } else {
                    order.reverse()
                }
            })
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    /// As a text, so that a token of another order is refused.
    pub(super) fn text(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// The row after which the page begins, from a page token.
pub(super) fn place_of(pages: &Pages, token: Option<&str>) -> Result<Option<Place>> {
    let token = token.filter(|token| !token.is_empty());
    pages
        .after(token)?
        .map(|json| {
            serde_json::from_str(&json).map_err(|error| {
                Error::new(ErrorCode::InvalidCursor, "the cursor holds no place").caused_by(error)
            })
        })
        .transpose()
}

/// The page token that goes on after a row.
pub(super) fn token_of(pages: &Pages, place: &Place) -> Result<Value> {
    let json =
        serde_json::to_string(place).map_err(|error| Error::internal("writing JSON", error))?;
    Ok(pages.cursor(&json).into())
}
