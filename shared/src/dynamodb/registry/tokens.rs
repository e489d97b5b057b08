//! Tokens: created, listed, looked up by id, and revoked.

use super::{Page, Registry, put_event, throttled};
use crate::domain::token::token_not_found;
use crate::domain::{Event, TenantName, token::Token};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{Builder, Reader};
use crate::dynamodb::keys;
use crate::dynamodb::table::{Expression, Item, Query, Write};
use crate::error::Result;

/// How long the item of a token that has ended is kept, in seconds, so that a list can still show it.
const KEPT_SECONDS: u64 = 30 * 24 * 3_600;

fn token_to_item(token: &Token) -> Result<Item> {
    let mut builder = Builder::at(&keys::token(&token.tenant, &token.id)).json("token", token)?;
    if let Some(end) = token.expires_at {
        builder = builder.number("ttl", end.seconds() + KEPT_SECONDS);
    }
    Ok(builder.build())
}

fn token_from_item(item: &Item) -> Result<Token> {
    Reader(item).json("token")
}

impl Registry {
    /// Stores a new token, with its event.
    pub async fn create_token(
        &self,
        token: &Token,
        event: &Event,
        answer: Option<Answer>,
    ) -> Result<Outcome<()>> {
        let writes = vec![
            Write::Put {
                item: token_to_item(token)?,
                condition: Some(Expression::new("attribute_not_exists(#pk)")),
            },
            put_event(event)?,
        ];
        self.commit(writes, &token.tenant, answer, |_| throttled())
            .await
    }

    /// Reads a token, as it is now.
    pub async fn find_token(&self, tenant: &TenantName, id: &str) -> Result<Option<Token>> {
        let item = self.table.get(&keys::token(tenant, id), true).await?;
        item.as_ref().map(token_from_item).transpose()
    }

    /// One page of a tenant's tokens, newest first.
    pub async fn tokens(
        &self,
        tenant: &TenantName,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Token>> {
        let query = Query::new(keys::tokens(tenant))
            .backward()
            .limit(limit)
            .after(after)
            .consistent();
        let (items, after) = self.table.query(query).await?;
        Ok(Page {
            items: items.iter().map(token_from_item).collect::<Result<_>>()?,
            after,
        })
    }

    /// Removes a token, with its event.
    pub async fn revoke_token(
        &self,
        tenant: &TenantName,
        id: &str,
        event: &Event,
        answer: Option<Answer>,
    ) -> Result<Outcome<()>> {
        let writes = vec![
            Write::Delete {
                key: keys::token(tenant, id),
                condition: Some(Expression::new("attribute_exists(#pk)")),
            },
            put_event(event)?,
        ];
        self.commit(writes, tenant, answer, |_| token_not_found(id))
            .await
    }
}
