//! Rollouts: what is served at a place, every revision of it, and the versions that must stay because of it.

use super::aliases::as_seen;
use super::{Page, Registry, put_event};
use crate::domain::rollout::{Place, Rollout};
use crate::domain::{Event, ModelName, TenantName, VersionId, VersionNumber};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{Builder, Reader, as_number};
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::table::{Expression, Item, Query, Write, sort_key};
use crate::error::Result;

/// A decided change of a rollout.
#[derive(Debug, Clone)]
pub struct RolloutChange {
    /// The tenant.
    pub tenant: TenantName,
    /// The place.
    pub place: Place,
    /// The rollout as it was seen, if there was one.
    pub before: Option<Rollout>,
    /// The rollout as it will be; its revision is one more than before.
    pub after: Rollout,
    /// The event that tells it.
    pub event: Event,
    /// The answer to store under an idempotency key.
    pub answer: Option<Answer>,
}

fn parsed(item: &Item) -> Result<Rollout> {
    let reader = Reader(item);
    let mut rollout: Rollout = reader.json("rollout")?;
    if let Some(home) = reader.maybe_text("home") {
        rollout.model = rollout.model.at(home, false);
    }
    Ok(rollout)
}

impl Registry {
    /// What is served at a place: one read, consistent if it is to be changed.
    pub async fn find_rollout(
        &self,
        tenant: &TenantName,
        place: &Place,
        consistent: bool,
    ) -> Result<Option<Rollout>> {
        let key = keys::rollout(tenant, &place.to_string());
        let item = self.table.get(&key, consistent).await?;
        item.as_ref().map(parsed).transpose()
    }

    /// One revision of what was served at a place.
    pub async fn find_rollout_revision(
        &self,
        tenant: &TenantName,
        place: &Place,
        revision: u64,
    ) -> Result<Option<Rollout>> {
        let key = keys::rollout_revision(tenant, &place.to_string(), revision);
        let item = self.table.get(&key, true).await?;
        item.as_ref().map(parsed).transpose()
    }

    /// One page of what was served at a place, newest first.
    pub async fn rollout_history(
        &self,
        tenant: &TenantName,
        place: &Place,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Rollout>> {
        let query = Query::new(keys::rollout_history(tenant, &place.to_string()))
            .backward()
            .limit(limit)
            .after(after);
        self.rollout_page(query).await
    }

    /// One page of what is served in an environment, or anywhere.
    pub async fn rollouts(
        &self,
        tenant: &TenantName,
        environment: Option<&str>,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Rollout>> {
        let prefix = environment.map_or_else(String::new, |name| format!("{name}/"));
        let query = Query::new(keys::rollouts(tenant))
            .prefix(prefix)
            .limit(limit)
            .after(after);
        self.rollout_page(query).await
    }

    async fn rollout_page(&self, query: Query) -> Result<Page<Rollout>> {
        let (items, after) = self.table.query(query).await?;
        Ok(Page {
            items: items.iter().map(parsed).collect::<Result<_>>()?,
            after,
        })
    }

    /// One page of where a model is served.
    pub async fn rollouts_of_model(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Rollout>> {
        let (_, page) = self
            .page_of(tenant, model, "O#", true, limit, after)
            .await?;
        let (entries, after) = (page.items, page.after);
        let wanted: Vec<Key> = entries
            .iter()
            .map(|entry| {
                let sk = sort_key(entry);
                keys::rollout(tenant, sk.strip_prefix("O#").unwrap_or(&sk))
            })
            .collect();
        let items = self.table.batch_get(&wanted, true).await?;
        let mut rollouts = items.iter().map(parsed).collect::<Result<Vec<_>>>()?;
        rollouts.sort_by(|left, right| {
            (&left.environment, &left.endpoint).cmp(&(&right.environment, &right.endpoint))
        });
        Ok(Page {
            items: rollouts,
            after,
        })
    }

    /// Commits a change with its revision, its event, and the hold on the versions that come or go.
    ///
    /// A refusal answers `false`: the rollout, or one of the versions, is not as it was seen.
    pub async fn change_rollout(
        &self,
        change: &RolloutChange,
    ) -> Result<std::result::Result<Outcome<()>, ()>> {
        let (tenant, after) = (&change.tenant, &change.after);
        let place = change.place.to_string();
        let home = Some(after.model.home()).filter(|home| *home != after.model.as_str());
        let item = |key: &Key| -> Result<Builder> {
            Ok(Builder::at(key)
                .json("rollout", after)?
                .maybe_text("home", home))
        };
        let condition = match &change.before {
            None => Expression::new("attribute_not_exists(#pk)"),
            Some(before) => Expression::new("#rev = :rev").value("rev", as_number(before.revision)),
        };
        let mut writes = vec![
            Write::Put {
                item: item(&keys::rollout(tenant, &place))?
                    .number("rev", after.revision)
                    .build(),
                condition: Some(condition),
            },
            Write::Put {
                item: item(&keys::rollout_revision(tenant, &place, after.revision))?.build(),
                condition: Some(Expression::new("attribute_not_exists(#pk)")),
            },
            put_event(&change.event)?,
        ];
        let held: Vec<(ModelName, VersionNumber)> = served(change.before.as_ref());
        let holds = served(Some(after));
        let id = |(model, number): &(ModelName, VersionNumber)| VersionId {
            tenant: tenant.clone(),
            model: model.clone(),
            number: *number,
        };
        for one in holds.iter().filter(|one| !held.contains(one)) {
            writes.push(Write::Update {
                key: keys::version(&id(one)),
                update: Expression::new("SET #served = if_not_exists(#served, :zero) + :one")
                    .value("zero", as_number(0))
                    .value("one", as_number(1)),
                condition: as_seen(&one.0, None, false),
            });
        }
        for one in held.iter().filter(|one| !holds.contains(one)) {
            writes.push(Write::Update {
                key: keys::version(&id(one)),
                update: Expression::new("SET #served = #served - :one").value("one", as_number(1)),
                condition: Expression::new("#served >= :one"),
            });
        }
        let before_model = change
            .before
            .as_ref()
            .filter(|before| !before.deployments.is_empty())
            .map(|before| &before.model);
        let after_model = Some(&after.model).filter(|_| !after.deployments.is_empty());
        if before_model != after_model {
            if let Some(model) = before_model {
                writes.push(Write::Delete {
                    key: keys::rollout_of_model(tenant, model, &place),
                    condition: None,
                });
            }
            if let Some(model) = after_model {
                writes.push(Write::Put {
                    item: Builder::at(&keys::rollout_of_model(tenant, model, &place)).build(),
                    condition: None,
                });
            }
        }
        for one in held.iter().chain(&holds) {
            self.hints.forget(&keys::version(&id(one)));
        }
        Ok(self
            .try_commit(writes, tenant, change.answer.clone())
            .await?
            .map_err(drop))
    }
}

/// The versions that a rollout serves.
fn served(rollout: Option<&Rollout>) -> Vec<(ModelName, VersionNumber)> {
    rollout.map_or_else(Vec::new, |rollout| {
        rollout
            .versions()
            .into_iter()
            .map(|version| (rollout.model.clone(), version))
            .collect()
    })
}
