//! Aliases: read, list, move; and the events of a model, of which their histories are part.

use super::identity::{Slot, is_marked, named_as_read, slot_of, still_named, unmarked};
use super::{Page, RACE_ATTEMPTS, Registry, put_event};
use crate::domain::model::model_not_found;
use crate::domain::{
    Alias, AliasName, Event, ModelName, Status, TenantName, Timestamp, Version, VersionId,
    VersionNumber,
};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{
    Reader, alias_from_item, alias_to_item, as_number, held_by, version_from_item,
};
use crate::dynamodb::keys;
use crate::dynamodb::table::{Expression, Item, Query, Write, sort_key, text, throttled};
use crate::error::{Error, Result};

/// What is known before an alias is changed.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The model, and where it lies.
    pub model: ModelName,
    /// The alias, if it was ever set.
    pub alias: Option<Alias>,
    /// The version that it shall hold, if one was named.
    pub version: Option<Version>,
    /// When the model was deleted, as far as it was looked at.
    pub model_deleted_at: Option<Timestamp>,
}

/// What became of a wanted change of an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// It was changed.
    Changed(Alias),
    /// It is as wanted already, or was never set.
    Unchanged(Option<Alias>),
}

/// A decided change of an alias.
#[derive(Debug, Clone)]
pub struct AliasChange {
    /// The alias as it will be; its sequence is one more than before.
    pub alias: Alias,
    /// What it held before.
    pub from: Option<VersionNumber>,
    /// The event that tells it.
    pub event: Event,
    /// The answer to store under an idempotency key.
    pub answer: Option<Answer>,
}

/// The aliases among items that hold a version.
fn live_aliases(tenant: &TenantName, model: &ModelName, items: &[Item]) -> Result<Vec<Alias>> {
    let mut aliases = items
        .iter()
        .map(|item| alias_from_item(tenant, model, item))
        .collect::<Result<Vec<_>>>()?;
    aliases.retain(|alias| alias.version.is_some());
    Ok(aliases)
}

impl Registry {
    /// Reads an alias: one eventually consistent read.
    pub async fn find_alias(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        name: &AliasName,
    ) -> Result<Option<Alias>> {
        self.read_alias(tenant, model, name, false).await
    }

    async fn read_alias(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        name: &AliasName,
        consistent: bool,
    ) -> Result<Option<Alias>> {
        let key = keys::alias(tenant, model, name);
        let mut item = self.table.get(&key, consistent).await?;
        let mut lies = model.clone();
        if !model.is_known() && item.as_ref().is_none_or(is_marked) {
            let Some(home) = self.elsewhere(tenant, model).await? else {
                // A mark without a head of this name: the model is called otherwise by now.
                return Ok(None);
            };
            lies = home;
            item = self
                .table
                .get(&keys::alias(tenant, &lies, name), consistent)
                .await?;
        }
        if let Some(item) = item.as_ref().filter(|_| consistent && !lies.is_known()) {
            self.hints.put(key, item.clone());
        }
        item.map(|item| alias_from_item(tenant, &lies, &item))
            .transpose()
    }

    /// Reads an alias consistently, or answers what this process saw last if that is at `sequence`.
    pub async fn current_alias(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        name: &AliasName,
        sequence: Option<u64>,
    ) -> Result<Option<Alias>> {
        let key = keys::alias(tenant, model, name);
        if let (Some(item), Some(sequence)) = (self.hints.get(&key), sequence) {
            let alias = alias_from_item(tenant, model, &item)?;
            if alias.sequence == sequence && !is_marked(&item) {
                return Ok(Some(alias));
            }
        }
        self.read_alias(tenant, model, name, true).await
    }

    /// All aliases of a model that hold a version, by name.
    pub async fn aliases(&self, tenant: &TenantName, model: &ModelName) -> Result<Vec<Alias>> {
        let items = self.alias_items(tenant, model).await?;
        if !model.is_known() && (items.is_empty() || items.iter().any(is_marked)) {
            let lies = self.home_of(tenant, model).await?;
            if lies.is_known() {
                return self.aliases_at(tenant, &lies).await;
            }
        }
        live_aliases(tenant, model, &items)
    }

    /// All aliases of a model whose head was read, by name.
    pub async fn aliases_at(&self, tenant: &TenantName, model: &ModelName) -> Result<Vec<Alias>> {
        let items = self.alias_items(tenant, model).await?;
        live_aliases(tenant, model, &items)
    }

    async fn alias_items(&self, tenant: &TenantName, model: &ModelName) -> Result<Vec<Item>> {
        let query = Query::new(keys::model_partition(tenant, model))
            .prefix("A#")
            .consistent();
        self.table.query_all(query, 10_000).await
    }

    /// Changes an alias with its history entry, its versions' counts and the stored answer in one transaction.
    ///
    /// `decide` gets what is believed, with whether it was just read, and is called again if that was wrong.
    /// It answers `None` if there is nothing to change.
    pub async fn change_alias(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        name: &AliasName,
        target: Option<VersionNumber>,
        decide: impl Fn(&Loaded) -> Result<Option<AliasChange>>,
    ) -> Result<Outcome<Moved>> {
        let alias_key = keys::alias(tenant, model, name);
        let mut use_hints = true;
        for attempt in 1..=RACE_ATTEMPTS {
            let (loaded, fresh) = self
                .load_alias(tenant, model, name, target, use_hints)
                .await?;
            let change = match decide(&loaded) {
                Ok(Some(change)) => change,
                // What a hint says must be confirmed before it refuses, or decides that nothing is to do.
                Ok(None) | Err(_) if !fresh => {
                    use_hints = false;
                    continue;
                }
                Ok(None) => return Ok(Outcome::Done(Moved::Unchanged(loaded.alias))),
                Err(error) => return Err(error),
            };
            let writes = Self::alias_writes(&change, loaded.alias.as_ref())?;
            match self
                .try_commit(writes, tenant, change.answer.clone())
                .await?
            {
                Ok(Outcome::Done(())) => {
                    if !change.alias.model.is_known() {
                        self.hints.put(alias_key, alias_to_item(&change.alias));
                    }
                    return Ok(Outcome::Done(Moved::Changed(change.alias)));
                }
                Ok(Outcome::Replayed(response)) => return Ok(Outcome::Replayed(response)),
                Err(_) => {
                    use_hints = false;
                    self.hints.forget(&alias_key);
                    self.table.pause(attempt.min(4)).await;
                }
            }
        }
        Err(throttled())
    }

    async fn load_alias(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        name: &AliasName,
        target: Option<VersionNumber>,
        use_hints: bool,
    ) -> Result<(Loaded, bool)> {
        let alias_key = keys::alias(tenant, model, name);
        let version_key = target.map(|number| {
            keys::version(&VersionId {
                tenant: tenant.clone(),
                model: model.clone(),
                number,
            })
        });
        let parse =
            |model: &ModelName, alias: Option<Item>, version: Option<Item>| -> Result<Loaded> {
                Ok(Loaded {
                    model: model.clone(),
                    alias: alias
                        .map(|item| alias_from_item(tenant, model, &item))
                        .transpose()?,
                    version: version
                        .map(|item| version_from_item(tenant, model, &item))
                        .transpose()?,
                    model_deleted_at: None,
                })
            };
        if use_hints {
            let hinted_version = version_key.as_ref().map(|key| self.hints.get(key));
            let version_known = hinted_version.as_ref().is_none_or(Option::is_some);
            if let (Some(alias), true) = (self.hints.get(&alias_key), version_known) {
                let version = hinted_version.flatten();
                // What is marked is found through the head alone.
                if !is_marked(&alias) && !version.as_ref().is_some_and(is_marked) {
                    return Ok((parse(model, Some(alias), version)?, false));
                }
            }
        }
        let model_key = keys::model(tenant, model);
        let mut wanted = vec![model_key.clone(), alias_key.clone()];
        wanted.extend(version_key.clone());
        let (mut head, mut alias, mut version) = (None, None, None);
        for item in self.table.batch_get(&wanted, true).await? {
            if Reader(&item).text("pk")? == model_key.pk {
                head = Some(item);
            } else if sort_key(&item) == alias_key.sk {
                self.hints.put(alias_key.clone(), item.clone());
                alias = Some(item);
            } else if let Some(key) = &version_key {
                // A version that may still change what an alias copies from it is not worth a hint.
                if item.contains_key("pkg") {
                    self.hints.put(key.clone(), item.clone());
                }
                version = Some(item);
            }
        }
        let Some(Slot::Held(found, head)) = head.map(|item| slot_of(tenant, item)).transpose()?
        else {
            return Err(model_not_found(model));
        };
        if found.name.home() != model.home() {
            (alias, version) = (None, None);
            let (alias_key, version_key) = (
                keys::alias(tenant, &found.name, name),
                target.map(|number| {
                    keys::version(&VersionId {
                        tenant: tenant.clone(),
                        model: found.name.clone(),
                        number,
                    })
                }),
            );
            let wanted: Vec<_> = version_key.into_iter().chain([alias_key.clone()]).collect();
            for item in self.table.batch_get(&wanted, true).await? {
                if sort_key(&item) == alias_key.sk {
                    alias = Some(item);
                } else {
                    version = Some(item);
                }
            }
        }
        let mut loaded = parse(&found.name, alias, version)?;
        loaded.model_deleted_at = found.deleted_at;
        self.hints.put(model_key, head);
        Ok((loaded, true))
    }

    fn alias_writes(change: &AliasChange, before: Option<&Alias>) -> Result<Vec<Write>> {
        let alias = &change.alias;
        let id = |number| VersionId {
            tenant: alias.tenant.clone(),
            model: alias.model.clone(),
            number,
        };
        let condition = match before {
            None => Expression::new("attribute_not_exists(#pk)"),
            Some(before) => Expression::new("#seq = :seq").value("seq", as_number(before.sequence)),
        };
        let mut writes = vec![
            Write::Put {
                item: alias_to_item(alias),
                condition: Some(condition),
            },
            put_event(&change.event)?,
        ];
        if let Some(to) = alias.version {
            writes.push(Write::Update {
                key: keys::version(&id(to)),
                update: Expression::new("SET #aliases = #aliases + :one, #held = :one")
                    .named("held", held_by(&alias.name))
                    .value("one", as_number(1)),
                condition: Expression::new(format!(
                    "#status = :ready AND attribute_not_exists(#deleted) AND attribute_not_exists(#revoked){}",
                    unmarked(&alias.model)
                ))
                .value("ready", text(Status::Ready.as_str())),
            });
        }
        if let Some(from) = change.from {
            writes.push(Write::Update {
                key: keys::version(&id(from)),
                update: Expression::new("SET #aliases = #aliases - :one REMOVE #held")
                    .named("held", held_by(&alias.name))
                    .value("one", as_number(1)),
                condition: Expression::new(format!("#aliases > :zero{}", unmarked(&alias.model)))
                    .value("zero", as_number(0)),
            });
        }
        // The model's head counts and names the aliases that hold something, so that a model is deleted only while none
        // does; moving one from version to version leaves it alone.
        let as_read = named_as_read(&alias.model);
        let (update, condition) = match (change.from, alias.version) {
            (None, Some(_)) => (
                "SET #alias = :one, #held = #held + :one ADD #pointers :one",
                as_read.and("attribute_not_exists(#deleted)"),
            ),
            (Some(_), None) => (
                "SET #held = #held - :one REMOVE #alias ADD #pointers :one",
                as_read,
            ),
            _ => {
                writes.extend(still_named(&alias.tenant, &alias.model));
                return Ok(writes);
            }
        };
        writes.push(Write::Update {
            key: keys::model(&alias.tenant, &alias.model),
            update: Expression::new(update)
                .named("alias", held_by(&alias.name))
                .value("one", as_number(1)),
            condition,
        });
        Ok(writes)
    }

    /// One page of an alias's history, newest first unless `ascending`.
    pub async fn alias_history(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        alias: &AliasName,
        ascending: bool,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Event>> {
        self.event_page(
            tenant,
            model,
            &keys::history_prefix(alias),
            ascending,
            limit,
            after,
        )
        .await
    }

    /// One page of a model's events other than alias changes, newest first unless `ascending`.
    pub async fn model_events(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        ascending: bool,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Event>> {
        self.event_page(tenant, model, keys::EVENTS, ascending, limit, after)
            .await
    }

    /// Records an event that goes with no other change, once if an answer is stored with it.
    pub async fn record_event(&self, event: &Event, answer: Option<Answer>) -> Result<Outcome<()>> {
        self.commit(vec![put_event(event)?], &event.tenant, answer, |_| {
            Error::internal("recording an event", "its id exists already")
        })
        .await
    }

    /// The newest event of a kind about a version, if it is among the model's latest hundred.
    pub async fn find_version_event(
        &self,
        id: &VersionId,
        kind: crate::domain::EventType,
    ) -> Result<Option<Event>> {
        let page = self
            .model_events(&id.tenant, &id.model, false, 100, None)
            .await?;
        Ok(page
            .items
            .into_iter()
            .find(|event| event.kind == kind && event.version == Some(id.number)))
    }
}
