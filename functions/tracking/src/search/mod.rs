//! Searches: MLflow's grammar over experiments, runs and logged models, in pages that stay put while others write.
//!
//! A page token holds the sort key of the last thing of its page, and the next page holds what sorts after it: nothing
//! is shown twice or left out because something else was added or removed.

pub(crate) mod datasets;
pub(crate) mod experiments;
pub(crate) mod logged_models;
pub(crate) mod runs;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::http::{Pages, Reply};
use shared::mlflow::filter::{Comparator, Condition, Identifier, Literal};
use shared::mlflow::{Fields, invalid};
use shared::{Error, ErrorCode, Result};
use std::cmp::Ordering;

/// Most bytes of things on a page: Lambda answers up to 6 MB.
const MAX_PAGE_BYTES: usize = 4_500_000;

/// A value to sort by. What is missing comes last, and NaN before it, whatever the direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum SortValue {
    /// A whole number.
    Integer(i64),
    /// The bits of a number, so that a token holds it exactly.
    Number(u64),
    /// A text.
    Text(String),
    /// NaN.
    NotANumber,
    /// Nothing.
    Missing,
}

impl SortValue {
    pub(crate) fn number(value: f64) -> Self {
        if value.is_nan() {
            Self::NotANumber
        } else {
            Self::Number(value.to_bits())
        }
    }

    pub(crate) fn text(value: Option<&str>) -> Self {
        value.map_or(Self::Missing, |text| Self::Text(text.to_owned()))
    }

    fn class(&self) -> u8 {
        match self {
            Self::Integer(_) | Self::Number(_) | Self::Text(_) => 0,
            Self::NotANumber => 1,
            Self::Missing => 2,
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Integer(left), Self::Integer(right)) => left.cmp(right),
            (Self::Number(left), Self::Number(right)) => {
                // Not by `total_cmp`, which tells -0 from 0.
                f64::from_bits(*left)
                    .partial_cmp(&f64::from_bits(*right))
                    .unwrap_or(Ordering::Equal)
            }
            (Self::Text(left), Self::Text(right)) => left.cmp(right),
            _ => Ordering::Equal,
        }
    }
}

/// Where a thing stands in an order: the values that were asked for, then the newest first, then by id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) values: Vec<SortValue>,
    pub(crate) time: i64,
    pub(crate) id: String,
}

/// An order of things: for each value whether the smallest comes first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Directions(pub(crate) Vec<bool>);

impl Directions {
    fn compare(&self, left: &Place, right: &Place) -> Ordering {
        for ((left, right), is_ascending) in left.values.iter().zip(&right.values).zip(&self.0) {
            let by_value = left.compare(right);
            let order = left.class().cmp(&right.class()).then(if *is_ascending {
                by_value
            } else {
                by_value.reverse()
            });
            if order.is_ne() {
                return order;
            }
        }
        right
            .time
            .cmp(&left.time)
            .then_with(|| left.id.cmp(&right.id))
    }
}

/// The first things of an order, after a place, of however many that are offered.
#[derive(Debug)]
pub(crate) struct First<T> {
    directions: Directions,
    after: Option<Place>,
    most: usize,
    kept: Vec<(Place, T)>,
}

impl<T> First<T> {
    /// One more than a page holds is kept, to know whether there is another page.
    pub(crate) fn new(directions: Directions, after: Option<Place>, page: usize) -> Self {
        Self {
            directions,
            after,
            most: page + 1,
            kept: Vec::new(),
        }
    }

    pub(crate) fn offer(&mut self, place: Place, thing: T) {
        let is_before = self
            .after
            .as_ref()
            .is_some_and(|after| self.directions.compare(&place, after) != Ordering::Greater);
        if is_before {
            return;
        }
        self.kept.push((place, thing));
        if self.kept.len() >= self.most.saturating_mul(2).max(1_000) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let directions = &self.directions;
        self.kept
            .sort_by(|(left, _), (right, _)| directions.compare(left, right));
        self.kept.truncate(self.most);
    }

    pub(crate) fn into_sorted(mut self) -> Vec<(Place, T)> {
        self.cut();
        self.kept
    }
}

/// The place after which a page begins.
pub(crate) fn place_after(pages: &Pages, fields: &Fields) -> Result<Option<Place>> {
    let token = fields.text("page_token")?.filter(|token| !token.is_empty());
    pages
        .after(token.as_deref())?
        .map(|place| {
            serde_json::from_str(&place).map_err(|error| {
                Error::new(ErrorCode::InvalidCursor, "the cursor holds no place").caused_by(error)
            })
        })
        .transpose()
}

/// A page of sorted things, one more of which may be there than it holds; cut where it would be too large.
pub(crate) fn page<T>(
    pages: &Pages,
    name: &str,
    found: &[(Place, T)],
    most: usize,
    view: impl Fn(&T) -> Value,
) -> Result<Reply> {
    let mut shown = Vec::new();
    let mut bytes = 0;
    for (_, thing) in found.iter().take(most) {
        let view = view(thing);
        bytes += view.to_string().len();
        if bytes > MAX_PAGE_BYTES && !shown.is_empty() {
            break;
        }
        shown.push(view);
    }
    let mut body = Map::new();
    if shown.len() < found.len()
        && let Some((last, _)) = shown.len().checked_sub(1).and_then(|at| found.get(at))
    {
        let place = serde_json::to_string(last)
            .map_err(|error| Error::internal("writing a page token", error))?;
        body.insert("next_page_token".to_owned(), pages.cursor(&place).into());
    }
    if !shown.is_empty() {
        body.insert(name.to_owned(), Value::Array(shown));
    }
    Reply::ok(body)
}

/// The page size; MLflow's stores take 1 to 50,000.
pub(crate) fn page_size(fields: &Fields, default: i64) -> Result<usize> {
    let given = fields.int("max_results")?.unwrap_or(default);
    if given > 50_000 {
        return Err(invalid(format!(
            "Invalid value {given} for parameter 'max_results' supplied. It must be at most 50000"
        )));
    }
    usize::try_from(given)
        .ok()
        .filter(|size| *size > 0)
        .ok_or_else(|| {
            invalid(format!(
                "Invalid value {given} for parameter 'max_results' supplied. It must be a positive integer"
            ))
        })
}

/// Refuses a comparator that a field does not take.
pub(crate) fn check_comparator(condition: &Condition, takes: &[Comparator]) -> Result<()> {
    if takes.contains(&condition.comparator) {
        return Ok(());
    }
    let names: Vec<String> = takes.iter().map(|taken| format!("'{taken}'")).collect();
    Err(invalid(format!(
        "Invalid comparator '{}' not one of '{{{}}}'",
        condition.comparator,
        names.join(", ")
    )))
}

/// Comparators of numbers.
pub(crate) const NUMERIC: [Comparator; 6] = [
    Comparator::Equal,
    Comparator::NotEqual,
    Comparator::Less,
    Comparator::LessOrEqual,
    Comparator::Greater,
    Comparator::GreaterOrEqual,
];

/// Comparators of texts.
pub(crate) const TEXTUAL: [Comparator; 4] = [
    Comparator::Equal,
    Comparator::NotEqual,
    Comparator::Like,
    Comparator::Ilike,
];

/// Comparators of texts that may be one of a list.
pub(crate) const TEXTUAL_OR_LISTED: [Comparator; 6] = [
    Comparator::Equal,
    Comparator::NotEqual,
    Comparator::Like,
    Comparator::Ilike,
    Comparator::In,
    Comparator::NotIn,
];

/// Comparators of tags and parameters, which may be absent.
pub(crate) const KEYED: [Comparator; 6] = [
    Comparator::Equal,
    Comparator::NotEqual,
    Comparator::Like,
    Comparator::Ilike,
    Comparator::IsNull,
    Comparator::IsNotNull,
];

/// Refuses a value that is no quoted text.
pub(crate) fn check_text(kind: &str, condition: &Condition) -> Result<()> {
    match condition.value {
        Literal::Text(_) | Literal::Nothing => Ok(()),
        _ => Err(invalid(format!(
            "Expected a quoted string value for {kind} (e.g. 'my-value'). Got value {}",
            condition.value
        ))),
    }
}

/// The number that a condition compares with.
pub(crate) fn number_of(kind: &str, condition: &Condition) -> Result<f64> {
    match &condition.value {
        Literal::Number(text) => text.parse().ok(),
        _ => None,
    }
    .ok_or_else(|| {
        invalid(format!(
            "Expected numeric value type for {kind}. Found {}",
            condition.value
        ))
    })
}

/// Whether two texts of a map compare as asked; `IS NULL` holds where there is none.
pub(crate) fn keyed_holds(condition: &Condition, text: Option<&str>) -> bool {
    match (condition.comparator, text) {
        (Comparator::IsNull, text) => text.is_none(),
        (_, Some(text)) => condition.holds_for(text),
        (_, None) => false,
    }
}

/// The error for a key that is no attribute.
pub(crate) fn unknown_attribute(identifier: &Identifier, known: &[&str]) -> Error {
    let known: Vec<String> = known.iter().map(|key| format!("'{key}'")).collect();
    invalid(format!(
        "Invalid attribute key '{}' specified. Valid keys are '{{{}}}'",
        identifier.key,
        known.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(value: SortValue, time: i64, id: &str) -> Place {
        Place {
            values: vec![value],
            time,
            id: id.to_owned(),
        }
    }

    #[test]
    fn what_is_missing_comes_last_in_both_directions() {
        let places = [
            place(SortValue::number(2.0), 0, "b"),
            place(SortValue::number(1.0), 0, "a"),
            place(SortValue::NotANumber, 0, "n"),
            place(SortValue::Missing, 5, "new"),
            place(SortValue::Missing, 1, "old"),
        ];
        for (is_ascending, expected) in [
            (true, ["a", "b", "n", "new", "old"]),
            (false, ["b", "a", "n", "new", "old"]),
        ] {
            let mut first = First::new(Directions(vec![is_ascending]), None, 10);
            for place in &places {
                first.offer(place.clone(), ());
            }
            let ids: Vec<String> = first
                .into_sorted()
                .into_iter()
                .map(|(place, ())| place.id)
                .collect();
            assert_eq!(ids, expected);
        }
    }

    #[test]
    fn pages_go_on_after_a_place_whatever_was_added_before_it() {
        let mut places: Vec<Place> = (0..5_000)
            .map(|at| place(SortValue::Integer(at % 7), at, &format!("{at:04}")))
            .collect();
        let directions = Directions(vec![false]);
        let mut whole = places.clone();
        whole.sort_by(|left, right| directions.compare(left, right));
        let mut shown: Vec<Place> = Vec::new();
        while shown.len() < 5_000 {
            let mut first = First::new(directions.clone(), shown.last().cloned(), 700);
            for place in &places {
                first.offer(place.clone(), ());
            }
            let found = first.into_sorted();
            shown.extend(found.into_iter().take(700).map(|(place, ())| place));
            // Before what was shown, so that an offset would show something twice.
            places.push(place(
                SortValue::Integer(99),
                0,
                &format!("new-{}", shown.len()),
            ));
        }
        assert_eq!(shown, whole);
    }
}
