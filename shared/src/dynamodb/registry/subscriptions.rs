//! Subscriptions: create, read, change, delete, and whether their endpoints answer.

use super::{Registry, put_event};
use crate::domain::subscription::{Circuit, MAX_SUBSCRIPTIONS};
use crate::domain::{Event, Subscription, TenantName};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{as_number, subscription_from_item, subscription_to_item};
use crate::dynamodb::keys;
use crate::dynamodb::registry::json_of;
use crate::dynamodb::table::{Expression, Query, Write, text};
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

    /// Replaces what people wrote about a subscription, if nobody changed it since it was read.
    pub async fn replace_subscription(
        &self,
        before: &Subscription,
        after: &Subscription,
        answer: Option<Answer>,
    ) -> Result<Outcome<()>> {
        let condition = if before.revision == 0 {
            Expression::new(
                "attribute_exists(#pk) AND (#rev = :before OR attribute_not_exists(#rev))",
            )
        } else {
            Expression::new("#rev = :before")
        };
        let writes = vec![Write::Update {
            key: keys::subscription(&before.tenant, &before.id),
            update: Expression::new("SET #sub = :sub, #rev = :after")
                .value("sub", text(json_of(after)?))
                .value("after", as_number(after.revision)),
            condition: condition.value("before", as_number(before.revision)),
        }];
        self.commit(writes, &before.tenant, answer, |_| {
            Error::new(
                ErrorCode::Conflict,
                format!(
                    "subscription `{}` was changed or deleted meanwhile; read it again and decide anew",
                    before.id
                ),
            )
        })
        .await
    }

    /// Keeps what attempts found about an endpoint, with the event that tells of it; whether it was as believed.
    pub async fn change_circuit(
        &self,
        subscription: &Subscription,
        after: &Circuit,
        event: Option<&Event>,
    ) -> Result<bool> {
        let update = Write::Update {
            key: keys::subscription(&subscription.tenant, &subscription.id),
            update: Expression::new("SET #circuit = :after").value("after", text(json_of(after)?)),
            condition: Expression::new(
                "attribute_exists(#pk) AND (#circuit = :before OR attribute_not_exists(#circuit))",
            )
            .value("before", text(json_of(&subscription.circuit)?)),
        };
        match event {
            None => Ok(self.table.write(update).await?.is_ok()),
            Some(event) => Ok(self
                .table
                .transact(&[update, put_event(event)?])
                .await?
                .is_ok()),
        }
    }

    /// Deletes a subscription; whether there was one.
    pub async fn delete_subscription(&self, tenant: &TenantName, id: &str) -> Result<bool> {
        let write = Write::Delete {
            key: keys::subscription(tenant, id),
            condition: Some(Expression::new("attribute_exists(#pk)")),
        };
        Ok(self.table.write(write).await?.is_ok())
    }
}
