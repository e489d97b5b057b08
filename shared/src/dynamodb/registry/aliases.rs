//! Aliases: read, list, move; and the events of a model, of which their histories are part.

use super::identity::{Slot, is_marked, named_as_read, slot_of, still_named, unmarked};
use super::settings::{Governing, guard};
use super::{Page, RACE_ATTEMPTS, Registry, put_event};
use crate::domain::model::model_not_found;
use crate::domain::{
    Alias, AliasName, Event, ModelName, Realm, SettingsHead, Standing, Status, TenantName,
    Timestamp, Version, VersionId, VersionNumber,
};
use crate::dynamodb::idempotency::{Answer, Outcome, StoredResponse};
use crate::dynamodb::items::{
    Reader, alias_from_item, alias_to_item, as_number, held_by, version_from_item,
};
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::table::{Expression, Item, Query, Write, sort_key, text};
use crate::error::Result;

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
    /// What governs the model.
    pub governing: Governing,
    /// Whether it was just read; what a hint says must be confirmed before it refuses anything.
    pub is_fresh: bool,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq)]
pub enum Committed {
    /// It was done.
    Done,
    /// It was done before under the same idempotency key; this was answered.
    Replayed(StoredResponse),
    /// Something was not as it was believed to be; load it again and decide anew.
    Lost,
}

/// A decided change of an alias.
#[derive(Debug, Clone)]
pub struct AliasChange {
    /// The alias as it will be; its sequence is one more than before.
    pub alias: Alias,
    /// What it held before.
    pub from: Option<VersionNumber>,
    /// The version that it will hold, as it was seen.
    pub version: Option<Version>,
    /// The settings that the decision rests on; empty where there are none.
    pub guards: Vec<(Realm, SettingsHead)>,
    /// Whether a protection guards the alias, so that the decision rests on what the version is.
    pub is_guarded: bool,
    /// Whether it ends a promotion request that held on to the version.
    pub closes_request: bool,
    /// The event that tells it.
    pub event: Event,
    /// The answer to store under an idempotency key.
    pub answer: Option<Answer>,
}

/// How often a lost race is decided anew before the caller is asked to wait.
pub const DECISIONS: u32 = RACE_ATTEMPTS;

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

    /// The version that an alias holds, or nothing where it holds none.
    ///
    /// What it held when this process last saw it is read together with it, so that an alias which has not moved since
    /// costs one call. Both are read consistently.
    pub async fn held_version(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        name: &AliasName,
    ) -> Result<Option<Version>> {
        let id = |number| VersionId {
            tenant: tenant.clone(),
            model: model.clone(),
            number,
        };
        let alias_key = keys::alias(tenant, model, name);
        let held = |item: &Item| -> Result<Option<VersionNumber>> {
            Ok(alias_from_item(tenant, model, item)?.version)
        };
        if let Some(hint) = self.hints.get(&alias_key)
            && let Some(number) = held(&hint)?
        {
            let wanted = [alias_key.clone(), keys::version(&id(number))];
            let (mut alias, mut version) = (None, None);
            for item in self.table.batch_get(&wanted, true).await? {
                if sort_key(&item) == alias_key.sk {
                    alias = Some(item);
                } else {
                    version = Some(item);
                }
            }
            // What is marked is found through the head alone, and an alias that moved holds another version.
            if let (Some(alias), Some(version)) = (alias, version)
                && !is_marked(&alias)
                && !is_marked(&version)
                && held(&alias)? == Some(number)
            {
                return version_from_item(tenant, model, &version).map(Some);
            }
        }
        match self.current_alias(tenant, model, name, None).await? {
            Some(Alias {
                version: Some(number),
                ..
            }) => self.version(&id(number)).await.map(Some),
            _ => Ok(None),
        }
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

    /// Commits a change of an alias with its history entry, its versions' counts and the stored answer.
    pub async fn commit_alias(
        &self,
        change: &AliasChange,
        before: Option<&Alias>,
        attempt: u32,
    ) -> Result<Committed> {
        let alias = &change.alias;
        let writes = Self::alias_writes(change, before)?;
        let outcome = self
            .try_commit(writes, &alias.tenant, change.answer.clone())
            .await?;
        let key = keys::alias(&alias.tenant, &alias.model, &alias.name);
        Ok(match outcome {
            Ok(Outcome::Done(())) => {
                if !alias.model.is_known() {
                    self.hints.put(key, alias_to_item(alias));
                }
                Committed::Done
            }
            Ok(Outcome::Replayed(response)) => Committed::Replayed(response),
            Err(_) => {
                self.forget_alias(alias);
                self.table.pause(attempt.min(4)).await;
                Committed::Lost
            }
        })
    }

    /// Forgets all that a lost change of an alias believed.
    pub(super) fn forget_alias(&self, alias: &Alias) {
        self.hints
            .forget(&keys::alias(&alias.tenant, &alias.model, &alias.name));
        self.forget_heads(&alias.tenant, &alias.model);
    }

    /// Loads an alias, the version that it shall hold and what governs them: from hints, or by one `BatchGetItem`.
    pub async fn load_alias(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        name: &AliasName,
        target: Option<VersionNumber>,
        use_hints: bool,
        now: Timestamp,
    ) -> Result<Loaded> {
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
                    governing: Governing::default(),
                    is_fresh: false,
                })
            };
        let heads = self.believed_heads(tenant, model, now);
        if use_hints && heads.unknown().is_empty() {
            let hinted_version = version_key.as_ref().map(|key| self.hints.get(key));
            let version_known = hinted_version.as_ref().is_none_or(Option::is_some);
            if let (Some(alias), true) = (self.hints.get(&alias_key), version_known) {
                let version = hinted_version.flatten();
                // What is marked is found through the head alone.
                if !is_marked(&alias) && !version.as_ref().is_some_and(is_marked) {
                    let mut loaded = parse(model, Some(alias), version)?;
                    loaded.governing = self.take_heads(heads, &[], now);
                    return Ok(loaded);
                }
            }
        }
        let model_key = keys::model(tenant, model);
        let mut wanted = vec![model_key.clone(), alias_key.clone()];
        wanted.extend(version_key.clone());
        wanted.extend(heads.unknown());
        let (mut head, mut alias, mut version, mut settings) = (None, None, None, Vec::new());
        for item in self.table.batch_get(&wanted, true).await? {
            if Reader(&item).text("pk")? == model_key.pk {
                head = Some(item);
            } else if sort_key(&item) == keys::SETTINGS_HEAD {
                settings.push(item);
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
        let mut heads = heads;
        if found.name.home() != model.home() {
            (alias, version, settings) = (None, None, Vec::new());
            heads = self.believed_heads(tenant, &found.name, now);
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
            let wanted: Vec<_> = version_key
                .into_iter()
                .chain([alias_key.clone()])
                .chain(heads.unknown())
                .collect();
            for item in self.table.batch_get(&wanted, true).await? {
                if sort_key(&item) == keys::SETTINGS_HEAD {
                    settings.push(item);
                } else if sort_key(&item) == alias_key.sk {
                    alias = Some(item);
                } else {
                    version = Some(item);
                }
            }
        }
        let mut loaded = parse(&found.name, alias, version)?;
        loaded.model_deleted_at = found.deleted_at;
        self.hints.put(model_key, head);
        loaded.governing = self.take_heads(heads, &settings, now);
        loaded.is_fresh = true;
        Ok(loaded)
    }

    pub(super) fn alias_writes(change: &AliasChange, before: Option<&Alias>) -> Result<Vec<Write>> {
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
                update: Expression::new(if change.closes_request {
                    "SET #aliases = #aliases + :one, #held = :one, #reqs = #reqs - :one"
                } else {
                    "SET #aliases = #aliases + :one, #held = :one"
                })
                .named("held", held_by(&alias.name))
                .value("one", as_number(1)),
                condition: as_seen(&alias.model, change.version.as_ref(), change.is_guarded),
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
        writes.extend(Self::holding_write(change));
        writes.extend(
            change
                .guards
                .iter()
                .map(|(realm, head)| guard(&alias.tenant, realm, *head)),
        );
        Ok(writes)
    }

    /// The write, or the check, of the model's head that goes with a change of an alias.
    ///
    /// The head counts and names the aliases that hold something, so that a model is deleted only while none does;
    /// moving one from version to version leaves it alone, unless that ends a promotion request, which is counted there too.
    fn holding_write(change: &AliasChange) -> Option<Write> {
        let alias = &change.alias;
        let as_read = named_as_read(&alias.model);
        let (update, condition) = match (change.from, alias.version) {
            (None, Some(_)) => (
                "SET #held = #held + :one, #alias = :one",
                as_read.and("attribute_not_exists(#deleted)"),
            ),
            (Some(_), None) => ("SET #held = #held - :one REMOVE #alias", as_read),
            _ if change.closes_request => ("SET #reqs = #reqs - :one", as_read),
            _ => return still_named(&alias.tenant, &alias.model),
        };
        let is_held_first = change.from.is_none() && alias.version.is_some();
        let update = if change.closes_request && is_held_first {
            format!("{update}, #reqs = #reqs - :one")
        } else {
            update.to_owned()
        };
        let mut update =
            Expression::new(format!("{update} ADD #pointers :one")).value("one", as_number(1));
        if change.from.is_none() || alias.version.is_none() {
            update = update.named("alias", held_by(&alias.name));
        }
        Some(Write::Update {
            key: keys::model(&alias.tenant, &alias.model),
            update,
            condition,
        })
    }

    /// Reads versions by their numbers in one `BatchGetItem`; those that do not exist are left out.
    pub async fn versions_by_number(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        numbers: &[VersionNumber],
    ) -> Result<Vec<Version>> {
        let wanted: Vec<Key> = numbers
            .iter()
            .map(|number| {
                keys::version(&VersionId {
                    tenant: tenant.clone(),
                    model: model.clone(),
                    number: *number,
                })
            })
            .collect();
        let items = self.table.batch_get(&wanted, true).await?;
        items
            .iter()
            .map(|item| version_from_item(tenant, model, item))
            .collect()
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
        let committed = self
            .try_commit(vec![put_event(event)?], &event.tenant, answer)
            .await?;
        // Its id is its own: what is there is this event, whose first answer was lost.
        Ok(committed.unwrap_or(Outcome::Done(())))
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

/// The condition that a version is ready, accepted, and as it was seen, as far as a promotion rests on it.
///
/// What an alias copies from it must be what it says; a guarded promotion rests on its verdict and its tags as well.
pub(super) fn as_seen(
    model: &ModelName,
    version: Option<&Version>,
    is_guarded: bool,
) -> Expression {
    let mut condition = Expression::new(format!(
        "#status = :ready AND attribute_not_exists(#deleted) AND attribute_not_exists(#revoked){}",
        unmarked(model)
    ))
    .value("ready", text(Status::Ready.as_str()));
    let Some(version) = version else {
        return condition;
    };
    condition = dates_as_seen(condition, &version.standing);
    if is_guarded {
        condition = condition
            .and("#rev = :rev")
            .value("rev", as_number(version.revision));
        if let Some(validation) = &version.validation {
            condition = condition
                .and("contains(#val, :report)")
                .value("report", text(validation.report_digest.hex()));
        }
    }
    condition
}

/// The condition, and that the dates of a version are as they were seen.
fn dates_as_seen(condition: Expression, standing: &Standing) -> Expression {
    [
        ("depr", "seen_depr", standing.deprecated_at),
        ("eol", "seen_eol", standing.end_of_life_at),
    ]
    .into_iter()
    .fold(condition, |condition, (name, value, at)| match at {
        Some(at) => condition
            .and(&format!("#{name} = :{value}"))
            .value(value, as_number(at.millis())),
        None => condition.and(&format!("attribute_not_exists(#{name})")),
    })
}
