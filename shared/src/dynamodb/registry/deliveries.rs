//! Deliveries: the log of each, the lanes in which they wait, and the dead letters among them.
//!
//! A *lane* holds what one subscription still has to hear of one model, in order.
//! Whoever sends takes the first of a lane, and the next only when that one is delivered or given up.
//! A lane in which something waits always has a piece of work that names it, so that a sweep finds it.

use super::{Page, Registry, WorkItem, WorkKind};
use crate::domain::subscription::DeliveryStatus;
use crate::domain::{Delivery, Event, TenantName, Timestamp};
use crate::dynamodb::items::{Builder, Reader, as_number, delivery_from_item, delivery_to_item};
use crate::dynamodb::keys;
use crate::dynamodb::table::{Expression, Item, Query, Write, sort_key};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What a subscription still has to hear of one model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lane {
    /// The tenant.
    pub tenant: TenantName,
    /// The subscription.
    pub subscription: String,
    /// Which model, as a hash.
    pub lane: String,
}

impl Lane {
    /// The work of looking after the lane at a time.
    pub fn work(&self, due: Timestamp) -> Result<WorkItem> {
        Ok(WorkItem {
            kind: WorkKind::Deliver,
            due,
            subject: serde_json::to_string(self)
                .map_err(|error| Error::internal("writing JSON", error))?,
        })
    }

    /// The lane of a delivery, if it waits in one.
    pub fn of(tenant: &TenantName, delivery: &Delivery) -> Option<Self> {
        let (lane, _) = delivery.place.split_once('#')?;
        Some(Self {
            tenant: tenant.clone(),
            subscription: delivery.subscription_id.clone(),
            lane: lane.to_owned(),
        })
    }
}

/// One that waits in a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its place.
    pub place: String,
    /// The event that it delivers.
    pub event_id: String,
}

/// The writes of a delivery that nobody has tried yet.
pub(super) fn put_new(
    tenant: &TenantName,
    delivery: &Delivery,
    event: &Event,
) -> Result<Vec<Write>> {
    let mut writes = vec![Write::Put {
        item: delivery_to_item(tenant, delivery, event)?,
        condition: None,
    }];
    if !delivery.place.is_empty() {
        writes.push(put_waiting(tenant, delivery));
    }
    Ok(writes)
}

fn put_waiting(tenant: &TenantName, delivery: &Delivery) -> Write {
    let key = keys::waiting_delivery(tenant, &delivery.subscription_id, &delivery.place);
    Write::Put {
        item: Builder::at(&key).text("event", &delivery.event_id).build(),
        condition: None,
    }
}

impl Registry {
    /// The first that wait in a lane, in order.
    pub async fn lane(&self, lane: &Lane, limit: usize) -> Result<Vec<Place>> {
        let query = Query::new(keys::waiting_deliveries(&lane.tenant, &lane.subscription))
            .prefix(format!("{}#", lane.lane))
            .limit(limit)
            .consistent();
        let (items, _) = self.table.query(query).await?;
        items.iter().map(place_of).collect()
    }

    /// The lanes of a subscription in which something waits; at most `most` places are looked at.
    pub async fn lanes(
        &self,
        tenant: &TenantName,
        subscription_id: &str,
        most: usize,
    ) -> Result<Vec<Lane>> {
        let query = Query::new(keys::waiting_deliveries(tenant, subscription_id)).consistent();
        let items = self.table.query_all(query, most).await?;
        let mut lanes: Vec<Lane> = items
            .iter()
            .filter_map(|item| {
                Some(Lane {
                    tenant: tenant.clone(),
                    subscription: subscription_id.to_owned(),
                    lane: sort_key(item).split_once('#')?.0.to_owned(),
                })
            })
            .collect();
        lanes.dedup();
        Ok(lanes)
    }

    /// Takes a place out of its lane, for what stood there is settled.
    pub async fn leave_lane(&self, lane: &Lane, place: &str) -> Result<()> {
        self.table
            .write(Write::Delete {
                key: keys::waiting_delivery(&lane.tenant, &lane.subscription, place),
                condition: None,
            })
            .await
            .map(drop)
    }

    /// One page of a subscription's deliveries, newest first.
    pub async fn deliveries(
        &self,
        tenant: &TenantName,
        subscription_id: &str,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<(Delivery, Event)>> {
        let query = Query::new(keys::deliveries(tenant, subscription_id))
            .backward()
            .limit(limit)
            .after(after);
        let (items, after) = self.table.query(query).await?;
        Ok(Page {
            items: items
                .iter()
                .map(delivery_from_item)
                .collect::<Result<_>>()?,
            after,
        })
    }

    /// One page of a subscription's deliveries of events between two ids, oldest first.
    pub async fn deliveries_between(
        &self,
        tenant: &TenantName,
        subscription_id: &str,
        range: (&str, &str),
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<(Delivery, Event)>> {
        let query = Query::new(keys::deliveries(tenant, subscription_id))
            .between(range.0, range.1)
            .limit(limit)
            .after(after);
        let (items, after) = self.table.query(query).await?;
        Ok(Page {
            items: items
                .iter()
                .map(delivery_from_item)
                .collect::<Result<_>>()?,
            after,
        })
    }

    /// One page of the ids of the events that are dead letters of a subscription, oldest first.
    pub async fn dead_letters(
        &self,
        tenant: &TenantName,
        subscription_id: &str,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<String>> {
        let query = Query::new(keys::dead_letters(tenant, subscription_id))
            .limit(limit)
            .after(after)
            .consistent();
        let (items, after) = self.table.query(query).await?;
        Ok(Page {
            items: items.iter().map(sort_key).collect(),
            after,
        })
    }

    /// Reads several deliveries with their events, in the order of their ids.
    pub async fn deliveries_of(
        &self,
        tenant: &TenantName,
        subscription_id: &str,
        event_ids: &[String],
    ) -> Result<Vec<(Delivery, Event)>> {
        let keys: Vec<_> = event_ids
            .iter()
            .map(|id| keys::delivery(tenant, subscription_id, id))
            .collect();
        let mut items = self.table.batch_get(&keys, true).await?;
        items.sort_by_key(sort_key);
        items.iter().map(delivery_from_item).collect()
    }

    /// Records what became of a delivery; whether nobody else wrote it meanwhile.
    ///
    /// One that is settled leaves its lane after it is recorded: a place whose delivery is settled means nothing.
    pub async fn record_delivery(
        &self,
        tenant: &TenantName,
        before: &Delivery,
        after: &Delivery,
        event: &Event,
    ) -> Result<bool> {
        let put = Write::Put {
            item: delivery_to_item(tenant, after, event)?,
            condition: Some(
                Expression::new("#rev = :rev").value("rev", as_number(before.revision)),
            ),
        };
        let is_recorded = if after.status == DeliveryStatus::Exhausted {
            let key = keys::dead_letter(tenant, &after.subscription_id, &after.event_id);
            let letter = Builder::at(&key)
                .number("ttl", after.due_at.seconds() + 90 * 24 * 3_600)
                .build();
            let writes = [
                put,
                Write::Put {
                    item: letter,
                    condition: None,
                },
            ];
            self.table.transact(&writes).await?.is_ok()
        } else {
            self.table.write(put).await?.is_ok()
        };
        if is_recorded
            && after.status != DeliveryStatus::Pending
            && let Some(lane) = Lane::of(tenant, before)
        {
            self.leave_lane(&lane, &before.place).await?;
        }
        Ok(is_recorded)
    }

    /// Lets a settled delivery wait again at the end of its lane; whether nobody else wrote it meanwhile.
    pub async fn replay(
        &self,
        tenant: &TenantName,
        before: &Delivery,
        after: &Delivery,
        event: &Event,
    ) -> Result<bool> {
        let mut writes = vec![
            Write::Put {
                item: delivery_to_item(tenant, after, event)?,
                condition: Some(
                    Expression::new("#rev = :rev").value("rev", as_number(before.revision)),
                ),
            },
            put_waiting(tenant, after),
        ];
        if let Some(lane) = Lane::of(tenant, after) {
            writes.push(Write::Put {
                item: lane.work(after.due_at)?.to_item(),
                condition: None,
            });
        }
        if before.status == DeliveryStatus::Exhausted {
            writes.push(Write::Delete {
                key: keys::dead_letter(tenant, &before.subscription_id, &before.event_id),
                condition: None,
            });
        }
        Ok(self.table.transact(&writes).await?.is_ok())
    }
}

fn place_of(item: &Item) -> Result<Place> {
    Ok(Place {
        place: sort_key(item),
        event_id: Reader(item).text("event")?.to_owned(),
    })
}
