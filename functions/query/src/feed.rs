//! The feed of all events of a tenant, in the order of their dispatch, for those who poll.
//!
//! Only events are shown that were dispatched a while ago, longer than a dispatch takes to be committed: so nothing
//! is ever committed behind a cursor. A day is a partition, and a cursor names the day and the place in it.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::{Event, Scope, Timestamp};
use shared::dynamodb::FEED_DAYS;
use shared::dynamodb::keys::time_prefix;
use shared::http::{Caller, Pages, Paging, Params, Reply};
use shared::{App, Error, ErrorCode, Result};

/// Milliseconds of a day.
const DAY_MILLIS: u64 = 24 * 3_600_000;
/// Most days that one request looks at: all that there are, so that a page without events says that there are none.
const MOST_DAYS: usize = 32;

/// The query of the feed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FeedQuery {
    after: Option<String>,
    since: Option<Timestamp>,
    limit: Option<usize>,
}

/// Where a reader stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// A time of the day.
    day: Timestamp,
    /// The last place that was read on it.
    after: Option<String>,
}

/// Lists events after a cursor, the oldest first.
pub(crate) async fn list_events(
    State(app): State<App>,
    caller: Caller,
    Params(query): Params<FeedQuery>,
) -> Result<Reply> {
    let limit = Paging {
        limit: query.limit,
        ..Paging::default()
    }
    .limit()?;
    let pages = Pages::new(&app, &caller, &["feed"]);
    let now = app.clock.now();
    let safe = Timestamp::from_millis(
        now.millis()
            .saturating_sub(app.config.feed_delay_seconds * 1_000),
    );
    let mut place = match pages.after(query.after.as_deref())? {
        Some(cursor) => parse(&cursor, now)?,
        None => first(query.since, now, safe),
    };
    let until = time_prefix(safe);
    let mut events: Vec<Value> = Vec::new();
    let mut looked_at = 0;
    let has_more = loop {
        let day = place.day.day();
        let page = app
            .registry
            .feed_day(
                &caller.tenant,
                &day,
                &until,
                limit - events.len(),
                place.after.clone(),
            )
            .await?;
        looked_at += 1;
        if let Some((last, _)) = page.items.last() {
            place.after = Some(last.clone());
        }
        let seen = page
            .items
            .iter()
            .filter(|(_, event)| is_seen(&caller, event));
        events.extend(seen.map(|(_, event)| event.to_wire()));
        if page.after.is_some() {
            break true;
        }
        if day >= safe.day() {
            break false;
        }
        // Nothing is dispatched on a day that is over, and was over for a while.
        place = Place {
            day: Timestamp::from_millis((place.day.millis() / DAY_MILLIS + 1) * DAY_MILLIS),
            after: None,
        };
        if events.len() >= limit || looked_at >= MOST_DAYS {
            break true;
        }
    };
    Reply::ok(json!({
        "events": events,
        "next_cursor": pages.cursor(&written(&place)),
        "has_more": has_more,
    }))
}

fn is_seen(caller: &Caller, event: &Event) -> bool {
    match &event.model {
        Some(model) => caller.sees(model),
        // What is about no model tells of subscriptions, which are for those who may see everything.
        None => caller.scope.as_ref().is_none_or(Scope::reaches_every_model),
    }
}

/// Where a reader without a cursor begins: at a time, or as far back as the feed goes.
fn first(since: Option<Timestamp>, now: Timestamp, safe: Timestamp) -> Place {
    let oldest = Timestamp::from_millis(now.millis().saturating_sub(FEED_DAYS * DAY_MILLIS));
    let since = since.unwrap_or(oldest).max(oldest).min(safe);
    Place {
        day: since,
        after: Some(time_prefix(since)),
    }
}

fn written(place: &Place) -> String {
    format!(
        "{:013}#{}",
        place.day.millis(),
        place.after.as_deref().unwrap_or_default()
    )
}

fn parse(cursor: &str, now: Timestamp) -> Result<Place> {
    let refused = |message: String| Error::new(ErrorCode::InvalidCursor, message);
    let (day, after) = cursor
        .split_once('#')
        .and_then(|(day, after)| Some((day.parse::<u64>().ok()?, after)))
        .ok_or_else(|| refused("the cursor is malformed; begin again without one".to_owned()))?;
    if now.millis().saturating_sub(day) > FEED_DAYS * DAY_MILLIS + DAY_MILLIS {
        return Err(refused(format!(
            "the cursor is older than the {FEED_DAYS} days that the feed goes back; begin again without one, and read what changed before from the models"
        )));
    }
    Ok(Place {
        day: Timestamp::from_millis(day),
        after: Some(after.to_owned()).filter(|after| !after.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_back_until_it_is_too_old() {
        let place = Place {
            day: Timestamp::from_millis(1_700_000_000_000),
            after: Some("01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned()),
        };
        let now = place.day.plus_millis(FEED_DAYS * DAY_MILLIS);
        assert_eq!(parse(&written(&place), now).unwrap(), place);
        let late = now.plus_millis(2 * DAY_MILLIS);
        assert_eq!(
            parse(&written(&place), late).unwrap_err().code,
            ErrorCode::InvalidCursor
        );
        assert!(parse("x", now).is_err());
    }
}
