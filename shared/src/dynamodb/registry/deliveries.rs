//! Subscriptions, the feed of dispatched events, and deliveries.

use super::{Page, RACE_ATTEMPTS, Registry, WorkItem, WorkKind};
use crate::domain::subscription::{DeliveryStatus, MAX_SUBSCRIPTIONS};
use crate::domain::{Delivery, Event, Subscription, TenantName};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{
    Builder, as_number, delivery_from_item, delivery_to_item, subscription_from_item,
    subscription_to_item,
};
use crate::dynamodb::keys;
use crate::dynamodb::table::{Expression, Query, Write, throttled};
use crate::error::{Error, ErrorCode, Result};

impl Registry {
    /// Creates a subscription, refusing one too many.
    pub async fn create_subscription(
        &self,
        subscription: &Subscription,
        answer: Option<Answer>,
    ) -> Result<Outcome<()>> {
        if self.subscriptions(&subscription.tenant).await?.len() >= MAX_SUBSCRIPTIONS {
            return Err(Error::new(
                ErrorCode::Conflict,
                format!("there are {MAX_SUBSCRIPTIONS} subscriptions already; delete one first"),
            ));
        }
        let writes = vec![Write::Put {
            item: subscription_to_item(subscription)?,
            condition: Some(Expression::new("attribute_not_exists(#pk)")),
        }];
        self.commit(writes, &subscription.tenant, answer, |_| {
            Error::internal("creating a subscription", "its id exists already")
        })
        .await
    }

    /// All subscriptions of a tenant, oldest first.
    pub async fn subscriptions(&self, tenant: &TenantName) -> Result<Vec<Subscription>> {
        let query = Query::new(keys::subscriptions(tenant)).consistent();
        let items = self.table.query_all(query, MAX_SUBSCRIPTIONS * 4).await?;
        items.iter().map(subscription_from_item).collect()
    }

    /// Reads a subscription.
    pub async fn find_subscription(
        &self,
        tenant: &TenantName,
        id: &str,
    ) -> Result<Option<Subscription>> {
        let item = self
            .table
            .get(&keys::subscription(tenant, id), true)
            .await?;
        item.as_ref().map(subscription_from_item).transpose()
    }

    /// Deletes a subscription; whether there was one.
    pub async fn delete_subscription(&self, tenant: &TenantName, id: &str) -> Result<bool> {
        let write = Write::Delete {
            key: keys::subscription(tenant, id),
            condition: Some(Expression::new("attribute_exists(#pk)")),
        };
        Ok(self.table.write(write).await?.is_ok())
    }

    /// Whether an event was dispatched: it stands in the feed.
    pub async fn is_dispatched(&self, event: &Event) -> Result<bool> {
        let key = keys::feed(&event.tenant, event.time, &event.id);
        Ok(self.table.get(&key, true).await?.is_some())
    }

    /// Puts an event into the feed, and, if it is about a model, at the end of that model's chain, together with its
    /// deliveries and the work that they are, once.
    ///
    /// Answers the event with its place in the chain, or `None` if it was dispatched before.
    pub async fn dispatch(
        &self,
        event: &Event,
        deliveries: &[Delivery],
        work: &[WorkItem],
    ) -> Result<Option<Event>> {
        let Some(model) = event.model_by_home() else {
            let writes = Self::feed_writes(event, deliveries, work)?;
            return Ok(self.write_all(writes).await?.is_ok().then(|| event.clone()));
        };
        for attempt in 1..=RACE_ATTEMPTS {
            let (chained, link) = self.chain(event, &model, attempt == 1).await?;
            let mut writes = Self::feed_writes(&chained, deliveries, work)?;
            writes.splice(1..1, link);
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

    /// The writes of an event's dispatch, of which the first says that it was dispatched.
    fn feed_writes(
        event: &Event,
        deliveries: &[Delivery],
        work: &[WorkItem],
    ) -> Result<Vec<Write>> {
        let feed_key = keys::feed(&event.tenant, event.time, &event.id);
        let mut writes = vec![Write::Put {
            item: Builder::at(&feed_key).json("event", event)?.build(),
            condition: Some(Expression::new("attribute_not_exists(#pk)")),
        }];
        for delivery in deliveries {
            writes.push(Write::Put {
                item: delivery_to_item(&event.tenant, delivery, event)?,
                condition: None,
            });
            writes.push(Write::Put {
                item: delivery_work(&event.tenant, delivery).to_item(),
                condition: None,
            });
        }
        writes.extend(work.iter().map(|work| Write::Put {
            item: work.to_item(),
            condition: None,
        }));
        Ok(writes)
    }

    async fn write_all(&self, mut writes: Vec<Write>) -> Result<std::result::Result<(), ()>> {
        if writes.len() == 1 {
            let write = writes.remove(0);
            return Ok(self.table.write(write).await?.map_err(drop));
        }
        Ok(self.table.transact(&writes).await?.map_err(drop))
    }

    /// Reads a delivery with its event.
    pub async fn find_delivery(
        &self,
        tenant: &TenantName,
        subscription_id: &str,
        event_id: &str,
    ) -> Result<Option<(Delivery, Event)>> {
        let item = self
            .table
            .get(&keys::delivery(tenant, subscription_id, event_id), true)
            .await?;
        item.as_ref().map(delivery_from_item).transpose()
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

    /// Records an attempt and moves the delivery's due work along; whether nobody else recorded one meanwhile.
    pub async fn record_attempt(
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
                    Expression::new("#tries = :tries")
                        .value("tries", as_number(before.attempts.len())),
                ),
            },
            Write::Delete {
                key: delivery_work(tenant, before).key(),
                condition: None,
            },
        ];
        if after.status == DeliveryStatus::Pending {
            writes.push(Write::Put {
                item: delivery_work(tenant, after).to_item(),
                condition: None,
            });
        }
        Ok(self.table.transact(&writes).await?.is_ok())
    }
}

/// The work that a pending delivery is.
pub(super) fn delivery_work(tenant: &TenantName, delivery: &Delivery) -> WorkItem {
    WorkItem {
        kind: WorkKind::Deliver,
        due: delivery.due_at,
        subject: serde_json::json!({
            "tenant": tenant.as_str(), "subscription": delivery.subscription_id, "event": delivery.event_id,
        })
        .to_string(),
    }
}
