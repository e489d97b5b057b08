//! The chain of a model's events, and the changes of aliases and stages by time: written when an event is dispatched.
//!
//! An event gets its place in the transaction that puts it into the feed, so it gets one place. A place is taken on the
//! condition that nobody has it, by whoever knows the event before it, so the chain has no gap and no branch.

use super::identity::is_marked;
use super::{Registry, json_of};
use crate::domain::audit::{Link, canonical};
use crate::domain::{AliasName, Digest, Event, EventType, ModelName, TenantName, Timestamp};
use crate::dynamodb::items::{Builder, Reader, event_from_item, event_key};
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::table::{Expression, Item, Query, Write, text};
use crate::error::{Error, Result};

/// An event of a chain, exactly as it was hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chained {
    /// The event as canonical JSON, without its place.
    pub json: String,
    /// When it happened.
    pub time: Timestamp,
    /// Its place.
    pub link: Link,
}

impl Registry {
    /// Finds an event's place at the end of its model's chain, and the writes that take it.
    ///
    /// Costs 1 Query, 1 RCU, unless this process chained the model's last event (`use_hint`).
    pub(super) async fn chain(
        &self,
        event: &Event,
        model: &ModelName,
        use_hint: bool,
    ) -> Result<(Event, Vec<Write>)> {
        let hint = use_hint
            .then(|| self.hints.get(&last_key(&event.tenant, model)))
            .flatten();
        let last = match hint {
            Some(item) => Some(link_of(&item)?),
            None => self.last_link(&event.tenant, model).await?,
        };
        let wire = Event {
            chain: None,
            ..event.clone()
        }
        .to_wire();
        let link = Link::after(last.as_ref(), &wire)?;
        let chained = Event {
            chain: Some(link.clone()),
            ..event.clone()
        };
        let free = || Expression::new("attribute_not_exists(#pk)");
        let mut writes = vec![
            Write::Put {
                item: Builder::at(&keys::chained(&event.tenant, model, link.sequence))
                    .text("json", canonical(&wire)?)
                    .number("time", event.time.millis())
                    .text("hash", &link.hash)
                    .text("prev", &link.previous_hash)
                    .build(),
                condition: Some(free()),
            },
            Write::Update {
                key: event_key(event),
                update: Expression::new("SET #chain = :chain")
                    .value("chain", text(json_of(&link)?)),
                condition: Expression::new("attribute_exists(#pk)"),
            },
        ];
        for pk in changes_of(event) {
            let key = Key {
                pk,
                sk: keys::change_sk(event.time, &event.id),
            };
            writes.push(Write::Put {
                item: Builder::at(&key).json("event", &chained)?.build(),
                condition: None,
            });
        }
        Ok((chained, writes))
    }

    /// Remembers which event of a model this process chained last.
    pub(super) fn remember_link(&self, event: &Event, model: &ModelName) {
        if let Some(link) = &event.chain {
            let item = Builder::at(&keys::chained(&event.tenant, model, link.sequence))
                .text("hash", &link.hash)
                .text("prev", &link.previous_hash)
                .build();
            self.hints.put(last_key(&event.tenant, model), item);
        }
    }

    /// The end of a model's chain.
    pub async fn last_link(&self, tenant: &TenantName, model: &ModelName) -> Result<Option<Link>> {
        let query = Query::new(keys::model_partition(tenant, model))
            .prefix(keys::CHAIN)
            .backward()
            .limit(1)
            .consistent();
        let (items, _) = self.table.query(query).await?;
        items.first().map(link_of).transpose()
    }

    /// The whole chain of a model, by sequence.
    pub async fn chained_events(
        &self,
        tenant: &TenantName,
        model: &ModelName,
    ) -> Result<Vec<Chained>> {
        let query = Query::new(keys::model_partition(tenant, model))
            .prefix(keys::CHAIN)
            .consistent();
        let items = self.table.query_all(query, usize::MAX).await?;
        items
            .iter()
            .map(|item| {
                let reader = Reader(item);
                Ok(Chained {
                    json: reader.text("json")?.to_owned(),
                    time: reader.time("time")?,
                    link: link_of(item)?,
                })
            })
            .collect()
    }

    /// Events of a model that have no place in its chain yet, in the order of their time.
    pub async fn unchained_events(
        &self,
        tenant: &TenantName,
        model: &ModelName,
    ) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for prefix in [keys::EVENTS, "H#"] {
            let query = Query::new(keys::model_partition(tenant, model))
                .prefix(prefix)
                .consistent();
            for item in self.table.query_all(query, usize::MAX).await? {
                if item.contains_key("event") && !item.contains_key("chain") {
                    events.push(event_from_item(&item)?);
                }
            }
        }
        events.sort_by(|left, right| (left.time, &left.id).cmp(&(right.time, &right.id)));
        Ok(events)
    }

    /// Changes of the aliases of one name, of all models, up to a time, oldest first.
    pub async fn alias_changes_until(
        &self,
        tenant: &TenantName,
        alias: &AliasName,
        at: Timestamp,
    ) -> Result<Vec<Event>> {
        self.changes(keys::alias_changes(tenant, alias), at).await
    }

    /// Changes to and from one stage, of all versions, up to a time, oldest first.
    pub async fn stage_changes_until(
        &self,
        tenant: &TenantName,
        stage: &str,
        at: Timestamp,
    ) -> Result<Vec<Event>> {
        self.changes(keys::stage_changes(tenant, stage), at).await
    }

    async fn changes(&self, pk: String, at: Timestamp) -> Result<Vec<Event>> {
        let query = Query::new(pk)
            .between("0", keys::changes_until(at))
            .consistent();
        let items = self.table.query_all(query, usize::MAX).await?;
        items.iter().map(event_from_item).collect()
    }

    /// The events that were dispatched on a day, each with its place in its chain.
    pub async fn feed_of_day(&self, tenant: &TenantName, day: &str) -> Result<Vec<Event>> {
        let query = Query::new(keys::feed_day(tenant, day)).consistent();
        let items = self.table.query_all(query, usize::MAX).await?;
        items.iter().map(event_from_item).collect()
    }

    /// The day that was sealed last, and the digest of its seal.
    pub async fn last_seal(&self, tenant: &TenantName) -> Result<Option<(String, String)>> {
        Ok(self.seals(tenant, 1).await?.into_iter().next())
    }

    /// The days that were sealed, newest first, with the digests of their seals.
    pub async fn seals(&self, tenant: &TenantName, limit: usize) -> Result<Vec<(String, String)>> {
        let query = Query::new(keys::seal(tenant, "").pk)
            .backward()
            .limit(limit)
            .consistent();
        let (items, _) = self.table.query(query).await?;
        items
            .iter()
            .map(|item| {
                let reader = Reader(item);
                Ok((
                    reader.text("sk")?.to_owned(),
                    reader.text("digest")?.to_owned(),
                ))
            })
            .collect()
    }

    /// Remembers that a day was sealed, once.
    pub async fn keep_seal(&self, tenant: &TenantName, day: &str, digest: &Digest) -> Result<()> {
        let item = Builder::at(&keys::seal(tenant, day))
            .text("digest", digest.as_str())
            .build();
        self.table
            .write(Write::Put {
                item,
                condition: Some(Expression::new("attribute_not_exists(#pk)")),
            })
            .await
            .map(drop)
    }

    /// All changes of an alias, oldest first, of the model that had the name at a time, or has it, or had it last.
    ///
    /// One Query, unless the name was ever given away.
    pub async fn alias_history_of(
        &self,
        tenant: &TenantName,
        name: &ModelName,
        alias: &AliasName,
        at: Option<Timestamp>,
    ) -> Result<Vec<Event>> {
        let (events, is_away) = self.whole_history(tenant, name, alias).await?;
        if !events.is_empty() && !is_away {
            return Ok(events);
        }
        match self.home_at(tenant, name, at).await? {
            Some(home) if home.home() == name.home() => Ok(events),
            Some(home) => Ok(self.whole_history(tenant, &home, alias).await?.0),
            None => Ok(Vec::new()),
        }
    }

    /// The model, by its home, that had a name at a time; without a time, that has it, or had it last.
    pub async fn home_at(
        &self,
        tenant: &TenantName,
        name: &ModelName,
        at: Option<Timestamp>,
    ) -> Result<Option<ModelName>> {
        if let Some(at) = at {
            return self.holder_at(tenant, name, at).await;
        }
        if let Some(home) = self.find_home(tenant, name).await? {
            return ModelName::of_home(home.home()).map(Some);
        }
        self.last_holder(tenant, name).await
    }

    async fn whole_history(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        alias: &AliasName,
    ) -> Result<(Vec<Event>, bool)> {
        let query = Query::new(keys::model_partition(tenant, model))
            .prefix(keys::history_prefix(alias))
            .consistent();
        let items = self.table.query_all(query, usize::MAX).await?;
        let is_away = items.iter().any(is_marked);
        let events = items
            .iter()
            .filter(|item| !is_marked(item))
            .map(event_from_item)
            .collect::<Result<_>>()?;
        Ok((events, is_away))
    }
}

/// Where the last link of a model is remembered.
fn last_key(tenant: &TenantName, model: &ModelName) -> Key {
    Key {
        pk: keys::model_partition(tenant, model),
        sk: keys::CHAIN.to_owned(),
    }
}

fn link_of(item: &Item) -> Result<Link> {
    let reader = Reader(item);
    let sequence = reader
        .text("sk")?
        .strip_prefix(keys::CHAIN)
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Error::internal("reading a chain", "its key is malformed"))?;
    Ok(Link {
        sequence,
        hash: reader.text("hash")?.to_owned(),
        previous_hash: reader.text("prev")?.to_owned(),
    })
}

/// The partitions in which a change is found by its time.
fn changes_of(event: &Event) -> Vec<String> {
    match (event.kind, &event.alias) {
        (
            EventType::AliasSet | EventType::AliasRolledBack | EventType::AliasRemoved,
            Some(alias),
        ) => vec![keys::alias_changes(&event.tenant, alias)],
        (EventType::VersionStageChanged, _) => ["from", "to"]
            .iter()
            .filter_map(|name| event.data.get(*name)?.as_str())
            .map(|stage| keys::stage_changes(&event.tenant, stage))
            .collect(),
        _ => Vec::new(),
    }
}
