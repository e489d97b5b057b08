//! Rollouts: what is served at a place, every revision of it, and the versions that must stay because of it.

use super::aliases::as_seen;
use super::identity::named_as_read;
use super::{Page, Registry, put_event};
use crate::domain::rollout::{Place, Rollout};
use crate::domain::{Event, ModelName, TenantName, VersionId};
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
            .page_of(tenant, model, keys::ROLLOUTS, true, limit, after)
            .await?;
        let (entries, after) = (page.items, page.after);
        let wanted: Vec<Key> = entries
            .iter()
            .map(|entry| {
                let sk = sort_key(entry);
                keys::rollout(tenant, sk.strip_prefix(keys::ROLLOUTS).unwrap_or(&sk))
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
        let held = served(tenant, change.before.as_ref());
        let holds = served(tenant, Some(after));
        for id in holds.iter().filter(|id| !is_among(id, &held)) {
            writes.push(Write::Update {
                key: keys::version(id),
                update: Expression::new("SET #served = if_not_exists(#served, :zero) + :one")
                    .value("zero", as_number(0))
                    .value("one", as_number(1)),
                condition: as_seen(&id.model, None, false),
            });
        }
        for id in held.iter().filter(|id| !is_among(id, &holds)) {
            writes.push(Write::Update {
                key: keys::version(id),
                update: Expression::new("SET #served = #served - :one").value("one", as_number(1)),
                condition: Expression::new("#served >= :one"),
            });
        }
        let (was, will_be) = (held.first(), holds.first());
        if was.map(|id| id.model.home()) != will_be.map(|id| id.model.home()) {
            if let Some(id) = was {
                // It may be called otherwise by now; it is there, because what is served is not deleted.
                let home = ModelName::of_home(id.model.home())?;
                let Some(model) = self.find_home(tenant, &home).await? else {
                    return Ok(Err(()));
                };
                writes.push(count_place(tenant, &model, false));
                writes.push(Write::Delete {
                    key: keys::rollout_of_model(tenant, &model, &place),
                    condition: None,
                });
            }
            if let Some(id) = will_be {
                writes.push(count_place(tenant, &id.model, true));
                writes.push(Write::Put {
                    item: Builder::at(&keys::rollout_of_model(tenant, &id.model, &place)).build(),
                    condition: None,
                });
            }
        }
        for id in held.iter().chain(&holds) {
            self.hints.forget(&keys::version(id));
        }
        Ok(self
            .try_commit(writes, tenant, change.answer.clone())
            .await?
            .map_err(drop))
    }
}

/// The versions that a rollout serves.
fn served(tenant: &TenantName, rollout: Option<&Rollout>) -> Vec<VersionId> {
    rollout.map_or_else(Vec::new, |rollout| {
        rollout
            .versions()
            .into_iter()
            .map(|number| VersionId {
                tenant: tenant.clone(),
                model: rollout.model.clone(),
                number,
            })
            .collect()
    })
}

/// Whether a version is among others, whatever its model was called when they were written.
fn is_among(id: &VersionId, all: &[VersionId]) -> bool {
    all.iter()
        .any(|other| (id.model.home(), id.number) == (other.model.home(), other.number))
}

/// The write of a model's head that counts the places where it is served, so that it is not deleted meanwhile.
fn count_place(tenant: &TenantName, model: &ModelName, comes: bool) -> Write {
    let as_read = named_as_read(model);
    let (update, condition) = if comes {
        (
            "SET #served = #served + :one ADD #pointers :one",
            as_read.and("attribute_not_exists(#deleted)"),
        )
    } else {
        ("SET #served = #served - :one ADD #pointers :one", as_read)
    };
    Write::Update {
        key: keys::model(tenant, model),
        update: Expression::new(update).value("one", as_number(1)),
        condition,
    }
}
