//! The feed of dispatched events: each once, and in the order in which they were dispatched.

use super::deliveries::put_new;
use super::{Page, RACE_ATTEMPTS, Registry, WorkItem};
use crate::domain::{Delivery, Event, TenantName, Timestamp};
use crate::dynamodb::items::{Builder, event_from_item};
use crate::dynamodb::keys;
use crate::dynamodb::table::{Expression, Query, Write, sort_key, throttled};
use crate::error::{Error, ErrorCode, Result};
use std::time::Duration;

/// How long the events of a day stay in the feed, in days.
pub const FEED_DAYS: u64 = 30;

/// Longest that the commit of a dispatch is waited for.
///
/// Readers of the feed are shown only what is older than this and some more, so that nothing is committed behind them.
const COMMIT_LIMIT: Duration = Duration::from_secs(8);

/// An event as it is dispatched.
#[derive(Debug)]
pub struct Dispatch<'a> {
    /// The event.
    pub event: &'a Event,
    /// Its place in the order of dispatch: a ULID made now.
    pub stamp: &'a str,
    /// When `stamp` was made.
    pub at: Timestamp,
    /// A delivery for each subscription that wants it.
    pub deliveries: &'a [Delivery],
    /// What must follow.
    pub work: &'a [WorkItem],
}

impl Registry {
    /// Whether an event was dispatched: it stands in the feed.
    pub async fn is_dispatched(&self, event: &Event) -> Result<bool> {
        let key = keys::feed(&event.tenant, event.time, &event.id);
        Ok(self.table.get(&key, true).await?.is_some())
    }

    /// Puts an event into the feed, and, if it is about a model, at the end of that model's chain, together with its
    /// deliveries and the work that follows, once.
    ///
    /// Answers the event with its place in the chain, or `None` if it was dispatched before.
    pub async fn dispatch(&self, dispatch: &Dispatch<'_>) -> Result<Option<Event>> {
        tokio::time::timeout(COMMIT_LIMIT, self.commit_dispatch(dispatch))
            .await
            .map_err(|_| {
                Error::new(
                    ErrorCode::Unavailable,
                    "an event could not be dispatched in time; deliver it again",
                )
            })?
    }

    async fn commit_dispatch(&self, dispatch: &Dispatch<'_>) -> Result<Option<Event>> {
        let event = dispatch.event;
        let Some(model) = event.model_by_home() else {
            let writes = feed_writes(dispatch, event)?;
            let committed = self.table.transact(&writes).await?;
            return Ok(committed.is_ok().then(|| event.clone()));
        };
        for attempt in 1..=RACE_ATTEMPTS {
            let (chained, link) = self.chain(event, &model, attempt == 1).await?;
            let mut writes = feed_writes(dispatch, &chained)?;
            writes.extend(link);
            match self.table.transact(&writes).await? {
                Ok(()) => {
                    self.remember_link(&chained, &model);
                    return Ok(Some(chained));
                }
                Err(refusals) if refusals.first().is_some_and(|refusal| refusal.refused) => {
                    return Ok(None);
                }
                // Another dispatcher chained an event of this model first.
                Err(_) => self.table.pause(attempt.min(4)).await,
            }
        }
        Err(throttled())
    }

    /// One page of the events that were dispatched on a day, in order, up to `until`.
    pub async fn feed_day(
        &self,
        tenant: &TenantName,
        day: &str,
        until_stamp: &str,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<(String, Event)>> {
        // Not an exclusive start key: that must lie within the range, and a cursor may stand at its end.
        let low = after.map_or_else(|| "0".to_owned(), |after| format!("{after}0"));
        if low.as_str() > until_stamp {
            return Ok(Page {
                items: Vec::new(),
                after: None,
            });
        }
        let query = Query::new(keys::feed_day(tenant, day))
            .between(low, until_stamp)
            .limit(limit)
            .consistent();
        let (items, after) = self.table.query(query).await?;
        Ok(Page {
            items: items
                .iter()
                .map(|item| Ok((sort_key(item), event_from_item(item)?)))
                .collect::<Result<_>>()?,
            after,
        })
    }

    /// Reads an event by its place in the order of dispatch.
    pub async fn feed_entry(
        &self,
        tenant: &TenantName,
        at: Timestamp,
        stamp: &str,
    ) -> Result<Option<Event>> {
        let item = self
            .table
            .get(&keys::feed_entry(tenant, at, stamp), true)
            .await?;
        item.as_ref().map(event_from_item).transpose()
    }
}

/// The writes of an event's dispatch, of which the first says that it was dispatched.
fn feed_writes(dispatch: &Dispatch<'_>, event: &Event) -> Result<Vec<Write>> {
    let feed_key = keys::feed(&event.tenant, event.time, &event.id);
    let entry_key = keys::feed_entry(&event.tenant, dispatch.at, dispatch.stamp);
    let mut writes = vec![
        Write::Put {
            item: Builder::at(&feed_key).text("at", dispatch.stamp).build(),
            condition: Some(Expression::new("attribute_not_exists(#pk)")),
        },
        Write::Put {
            item: Builder::at(&entry_key)
                .json("event", event)?
                .number("ttl", dispatch.at.seconds() + (FEED_DAYS + 1) * 24 * 3_600)
                .build(),
            condition: None,
        },
    ];
    for delivery in dispatch.deliveries {
        writes.extend(put_new(&event.tenant, delivery, event)?);
    }
    writes.extend(dispatch.work.iter().map(|work| Write::Put {
        item: work.to_item(),
        condition: None,
    }));
    Ok(writes)
}
