//! The public keys whose signatures a tenant trusts.

use super::{Registry, json_of, put_event};
use crate::domain::{Event, Principal, TenantName, Timestamp};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{Builder, Reader};
use crate::dynamodb::keys;
use crate::dynamodb::table::{Expression, Query, Write, throttled};
use crate::error::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};

/// Most keys that a tenant trusts.
pub const MAX_TRUSTED_KEYS: usize = 100;

/// A public key whose signatures a tenant trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedKey {
    /// Its name.
    pub name: String,
    /// The key on P-256 as PEM.
    pub public_key: String,
    /// Who added it.
    pub added_by: Principal,
    /// When.
    pub added_at: Timestamp,
}

impl Registry {
    /// Every key that a tenant trusts, by name; consistent.
    pub async fn trusted_keys(&self, tenant: &TenantName) -> Result<Vec<TrustedKey>> {
        let query = Query::new(keys::trusted_keys(tenant)).consistent();
        let items = self.table.query_all(query, MAX_TRUSTED_KEYS).await?;
        items.iter().map(|item| Reader(item).json("key")).collect()
    }

    /// Adds a key; a name is given once, so that what was verified with it stays so.
    pub async fn add_trusted_key(
        &self,
        tenant: &TenantName,
        key: &TrustedKey,
        event: &Event,
        answer: Option<Answer>,
    ) -> Result<Outcome<()>> {
        let item = Builder::at(&keys::trusted_key(tenant, &key.name))
            .text("key", json_of(key)?)
            .build();
        let writes = vec![
            Write::Put {
                item,
                condition: Some(Expression::new("attribute_not_exists(#pk)")),
            },
            put_event(event)?,
        ];
        self.commit(writes, tenant, answer, |refusals| {
            if refusals.first().is_some_and(|refusal| refusal.refused) {
                Error::new(
                    ErrorCode::Conflict,
                    format!(
                        "a trusted key `{}` exists; remove it first, or use another name",
                        key.name
                    ),
                )
            } else {
                throttled()
            }
        })
        .await
    }

    /// Removes a key; what was verified with it keeps its verdict.
    pub async fn remove_trusted_key(
        &self,
        tenant: &TenantName,
        name: &str,
        event: &Event,
        answer: Option<Answer>,
    ) -> Result<Outcome<()>> {
        let writes = vec![
            Write::Delete {
                key: keys::trusted_key(tenant, name),
                condition: Some(Expression::new("attribute_exists(#pk)")),
            },
            put_event(event)?,
        ];
        self.commit(writes, tenant, answer, |refusals| {
            if refusals.first().is_some_and(|refusal| refusal.refused) {
                Error::new(
                    ErrorCode::ArtifactNotFound,
                    format!("there is no trusted key `{name}`; list them"),
                )
            } else {
                throttled()
            }
        })
        .await
    }
}
