//! The validation policy of a tenant: read and replace.

use super::{Registry, put_event};
use crate::domain::version::Document;
use crate::domain::{Event, Principal, TenantName, Timestamp};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{as_number, policy_from_item, policy_to_item};
use crate::dynamodb::keys;
use crate::dynamodb::table::{Expression, Write};
use crate::error::Result;

/// A validation policy as it is stored; what its document says is the validator's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPolicy {
    /// How often it was changed.
    pub revision: u64,
    /// Where the document lies: in the item or in the bucket.
    pub document: Document,
    /// Who changed it last.
    pub changed_by: Principal,
    /// When it was changed last.
    pub changed_at: Timestamp,
}

impl Registry {
    /// The validation policy of a tenant, read consistently; `None` if it never set one.
    pub async fn find_validation_policy(
        &self,
        tenant: &TenantName,
    ) -> Result<Option<StoredPolicy>> {
        let item = self
            .table
            .get(&keys::validation_policy(tenant), true)
            .await?;
        item.as_ref().map(policy_from_item).transpose()
    }

    /// Replaces the policy of the revision before, with its event; a refusal answers the policy as it is.
    pub async fn change_validation_policy(
        &self,
        policy: &StoredPolicy,
        event: &Event,
        answer: Option<Answer>,
    ) -> Result<std::result::Result<Outcome<()>, Option<StoredPolicy>>> {
        let condition = match policy.revision {
            0 | 1 => Expression::new("attribute_not_exists(#pk)"),
            revision => Expression::new("#rev = :rev").value("rev", as_number(revision - 1)),
        };
        let writes = vec![
            Write::Put {
                item: policy_to_item(&event.tenant, policy),
                condition: Some(condition),
            },
            put_event(event)?,
        ];
        match self.try_commit(writes, &event.tenant, answer).await? {
            Ok(outcome) => Ok(Ok(outcome)),
            Err(refusals) => {
                let item = refusals.into_iter().next().and_then(|refusal| refusal.item);
                Ok(Err(item.as_ref().map(policy_from_item).transpose()?))
            }
        }
    }
}
