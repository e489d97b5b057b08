//! Giving names to models: create, rename, restore under a name; and what happens to who had the name before.
//!
//! First the items of a home whose name is to be given away are marked, in idempotent steps that mean nothing by
//! themselves, so that a crash leaves the old name working and a repetition goes on. Then one transaction switches.

use super::identity::{Slot, is_marked, slot_of};
use super::{RACE_ATTEMPTS, Registry, put_event};
use crate::domain::model::{deleted_model, model_not_found};
use crate::domain::{Event, Model, ModelName, TenantName, Timestamp};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{Builder, as_number, model_from_item, model_to_item};
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::table::{Expression, Item, Query, Write, sort_key, text, throttled};
use crate::error::{Error, ErrorCode, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::time::Duration;
use tokio::time::Instant;

/// Marks that are put at the same time.
const PARALLEL_MARKS: usize = 32;
/// How long one request puts marks before it asks for a repetition: well below what an API call may take.
const MARKING_TIME: Duration = Duration::from_secs(22);

/// Makes the event, and the answer to store, for a model as it will be.
pub type Decide<'a> = dyn Fn(&Model) -> Result<(Event, Option<Answer>)> + Sync + 'a;

/// A wanted name, and what goes with its giving.
pub struct Naming<'a> {
    /// A ULID that makes a new home unique, should one be needed.
    pub ulid: String,
    /// Whether a deleted model may lose the name.
    pub may_displace: bool,
    /// The event that tells it, and the answer to store, for the model as it will be.
    pub decide: &'a Decide<'a>,
    /// The event that tells that a deleted model lost its name.
    pub displaced: &'a (dyn Fn(&Model) -> Event + Sync),
}

impl std::fmt::Debug for Naming<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Naming").finish_non_exhaustive()
    }
}

impl Registry {
    /// Creates a registered model with its event; answers the model as it was created.
    ///
    /// Where the name was used before, the model gets a home of its own, and its revision goes on from where that of the
    /// last holder ended. A deleted holder stays restorable, by its id.
    pub async fn create_model(&self, draft: &Model, naming: &Naming<'_>) -> Result<Outcome<Model>> {
        let mut slot = Slot::Free;
        for attempt in 1..=RACE_ATTEMPTS {
            let mut model = draft.clone();
            match &slot {
                Slot::Free => {}
                Slot::Former { revision } => {
                    model.revision = revision + 1;
                    model.name = model.name.at(model.name.new_home(&naming.ulid), false);
                }
                Slot::Held(holder, _) => {
                    require_displaceable(holder, naming)?;
                    model.revision = holder.revision + 1;
                    model.name = model.name.at(model.name.new_home(&naming.ulid), false);
                }
            }
            let item = model_to_item(&model);
            let (event, answer) = (naming.decide)(&model)?;
            let mut writes = self
                .take_name(&model, item.clone(), &slot, &event, naming)
                .await?;
            // The event is second: what the refusals say first is about the name.
            writes.insert(1, put_event(&event)?);
            Self::push_notes(&mut writes, &model);
            match self.try_commit(writes, &model.tenant, answer).await? {
                Ok(Outcome::Done(())) => {
                    self.hints
                        .put(keys::model(&model.tenant, &model.name), item);
                    return Ok(Outcome::Done(model));
                }
                Ok(Outcome::Replayed(response)) => return Ok(Outcome::Replayed(response)),
                Err(refusals) => {
                    let existing = refusals.into_iter().next().and_then(|refusal| refusal.item);
                    slot = if let Some(item) = existing {
                        slot_of(&model.tenant, item)?
                    } else {
                        self.table.pause(attempt.min(4)).await;
                        let key = keys::model(&model.tenant, &model.name);
                        self.read_slot(&model.tenant, &key).await?
                    };
                }
            }
        }
        Err(throttled())
    }

    /// Gives a live model another name: versions, tags, aliases and history follow, and the old name is free.
    ///
    /// Costs 2 reads and 1 transaction, and before its first renaming 1 write for each version and alias. A request that
    /// cannot mark them all in time answers `throttled`; a repetition goes on where it ended.
    pub async fn rename_model(
        &self,
        tenant: &TenantName,
        from: &ModelName,
        to: &ModelName,
        now: Timestamp,
        naming: &Naming<'_>,
    ) -> Result<Outcome<Model>> {
        let key = keys::model(tenant, &from.plain());
        for attempt in 1..=RACE_ATTEMPTS {
            let Slot::Held(before, item) = self.read_slot(tenant, &key).await? else {
                return Err(model_not_found(from));
            };
            before.require_live()?;
            if let Some(outcome) = self.move_head(&before, &item, to, now, naming).await? {
                return Ok(outcome);
            }
            self.table.pause(attempt.min(4)).await;
        }
        Err(throttled())
    }

    /// Restores a deleted model that lost its name, and that `require` lets through, under a name that is free.
    pub async fn restore_displaced(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        to: &ModelName,
        now: Timestamp,
        require: impl Fn(&Model) -> Result<()>,
        naming: &Naming<'_>,
    ) -> Result<Outcome<Model>> {
        for attempt in 1..=RACE_ATTEMPTS {
            let key = keys::model(tenant, &model.at(model.home(), true));
            let Slot::Held(before, item) = self.read_slot(tenant, &key).await? else {
                return Err(model_not_found(model).with("model_id", model.home()));
            };
            require(&before)?;
            if let Some(outcome) = self.move_head(&before, &item, to, now, naming).await? {
                return Ok(outcome);
            }
            self.table.pause(attempt.min(4)).await;
        }
        Err(throttled())
    }

    /// Deleted models that lost this name to another one, by their homes.
    pub async fn displaced_models(
        &self,
        tenant: &TenantName,
        name: &ModelName,
    ) -> Result<Vec<Model>> {
        let query = Query::new(keys::models(tenant))
            .prefix(keys::displaced_prefix(name))
            .limit(100)
            .consistent();
        let (items, _) = self.table.query(query).await?;
        items
            .iter()
            .map(|item| Ok(model_from_item(tenant, item)?.model))
            .collect()
    }

    /// Moves a head to another name; `None` if somebody changed it, or the name, meanwhile.
    async fn move_head(
        &self,
        before: &Model,
        item: &Item,
        to: &ModelName,
        now: Timestamp,
        naming: &Naming<'_>,
    ) -> Result<Option<Outcome<Model>>> {
        let tenant = &before.tenant;
        let slot = self
            .read_slot(tenant, &keys::model(tenant, &to.plain()))
            .await?;
        let behind = match &slot {
            Slot::Free => 0,
            Slot::Former { revision } => *revision,
            Slot::Held(holder, _) => {
                require_displaceable(holder, naming)?;
                holder.revision
            }
        };
        if !self.mark_home(before, item).await? {
            return Ok(None);
        }
        let after = Model {
            name: to.at(before.name.home(), false),
            revision: before.revision.max(behind) + 1,
            updated_at: now,
            deleted_at: None,
            ..before.clone()
        };
        let (event, answer) = (naming.decide)(&after)?;
        let mut head = item.clone();
        head.insert("sk".into(), text(to.as_str()));
        head.insert("home".into(), text(after.name.home()));
        head.insert("marked".into(), as_number(1));
        head.insert("rev".into(), as_number(after.revision));
        head.insert("updated".into(), as_number(now.millis()));
        head.remove("deleted");
        let mut writes = self.take_name(&after, head, &slot, &event, naming).await?;
        let as_read = as_read(before, item)
            .and("#next = :next")
            .value("next", as_number(before.next_version.get()));
        let key = keys::model(tenant, &before.name);
        if before.name.is_displaced() {
            writes.push(Write::Delete {
                key: key.clone(),
                condition: Some(as_read),
            });
        } else {
            writes.push(Write::Put {
                item: Builder::at(&key)
                    .text("former", after.name.home())
                    .number("rev", after.revision)
                    .build(),
                condition: Some(as_read),
            });
            writes.push(meaning(tenant, &before.name, None, &event));
        }
        writes.push(put_event(&event)?);
        self.hints.forget(&key);
        self.hints.forget(&keys::model(tenant, to));
        match self.try_commit(writes, tenant, answer).await? {
            Ok(Outcome::Done(())) => Ok(Some(Outcome::Done(after))),
            Ok(Outcome::Replayed(response)) => Ok(Some(Outcome::Replayed(response))),
            Err(_) => Ok(None),
        }
    }

    /// The writes that give a name to a model, whatever the name meant before; the first puts the model's head.
    async fn take_name(
        &self,
        model: &Model,
        head: Item,
        slot: &Slot,
        event: &Event,
        naming: &Naming<'_>,
    ) -> Result<Vec<Write>> {
        let tenant = &model.tenant;
        let as_read = match slot {
            Slot::Free => Expression::new("attribute_not_exists(#pk)"),
            Slot::Former { revision } => {
                Expression::new("attribute_exists(#former) AND #rev = :seen")
                    .value("seen", as_number(*revision))
            }
            // Its revision is that of a deleted model.
            Slot::Held(holder, item) => as_read(holder, item),
        };
        let mut head = head;
        if model.name.is_known() {
            // All that a home which is not its name ever gets carries the mark from the beginning.
            head.insert("marked".into(), as_number(1));
        }
        let mut writes = vec![Write::Put {
            item: head,
            condition: Some(as_read),
        }];
        if model.name.is_known() {
            writes.push(called(tenant, &model.name));
            writes.push(meaning(tenant, &model.name, Some(model.name.home()), event));
            // Events that are no model's may lie under the name, so that what is asked there must lead away.
            writes.extend(marks(tenant, &model.name.plain(), keys::EVENTS));
        }
        if let Slot::Held(holder, item) = slot {
            self.mark_home(holder, item).await?;
            let displaced = holder.name.at(holder.name.home(), true);
            let mut moved = item.clone();
            moved.insert("sk".into(), text(keys::model_sk(&displaced)));
            moved.insert("home".into(), text(displaced.home()));
            moved.insert("marked".into(), as_number(1));
            writes.push(Write::Put {
                item: moved,
                condition: Some(Expression::new("attribute_not_exists(#pk)")),
            });
            writes.push(called(tenant, &displaced));
            let holder = Model {
                name: displaced,
                ..(**holder).clone()
            };
            writes.push(put_event(&(naming.displaced)(&holder))?);
        }
        Ok(writes)
    }

    /// Marks all versions and aliases of a home, once; `false` if its head was changed meanwhile.
    async fn mark_home(&self, model: &Model, head: &Item) -> Result<bool> {
        if head.contains_key("marked") {
            return Ok(true);
        }
        let tenant = &model.tenant;
        let key = keys::model(tenant, &model.name);
        let revision = as_number(model.revision);
        // From here on, whatever comes to the home carries the mark.
        let begun = self
            .table
            .write(Write::Update {
                key: key.clone(),
                update: Expression::new("SET #home = :home").value("home", text(model.name.home())),
                condition: Expression::new("#rev = :rev").value("rev", revision.clone()),
            })
            .await?;
        self.hints.forget(&key);
        if begun.is_err() {
            return Ok(false);
        }
        let deadline = Instant::now() + MARKING_TIME;
        // Versions first: after that, no change of an alias that does not know of the mark goes through.
        self.mark_prefix(model, "V#", deadline).await?;
        self.mark_prefix(model, "A#", deadline).await?;
        for prefix in [keys::EVENTS, keys::REQUESTS, keys::ROLLOUTS] {
            for mark in marks(tenant, &model.name, prefix) {
                self.table.write(mark).await?.ok();
            }
        }
        let done = self
            .table
            .write(Write::Update {
                key,
                update: Expression::new("SET #marked = :one").value("one", as_number(1)),
                condition: Expression::new("#rev = :rev").value("rev", revision),
            })
            .await?;
        Ok(done.is_ok())
    }

    async fn mark_prefix(&self, model: &Model, prefix: &str, deadline: Instant) -> Result<()> {
        let partition = keys::model_partition(&model.tenant, &model.name);
        let mut after = None;
        loop {
            let query = Query::new(partition.clone())
                .prefix(prefix)
                .after(after)
                .consistent();
            let (items, next) = self.table.query(query).await?;
            let unmarked: Vec<String> = items
                .iter()
                .filter(|item| !is_marked(item))
                .map(sort_key)
                .collect();
            stream::iter(unmarked)
                .map(|sk| self.mark(model, sk, deadline))
                .buffer_unordered(PARALLEL_MARKS)
                .try_collect::<Vec<()>>()
                .await?;
            after = next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn mark(&self, model: &Model, sk: String, deadline: Instant) -> Result<()> {
        if Instant::now() >= deadline {
            return Err(Error::new(
                ErrorCode::Throttled,
                format!(
                    "`{}` has so much that its renaming takes longer than one request; repeat the request to go on",
                    model.name
                ),
            ));
        }
        // The marks of an alias's history come before its own, which says that they are there.
        if let Some(alias) = sk.strip_prefix("A#") {
            for mark in marks(&model.tenant, &model.name, &format!("H#{alias}#")) {
                self.table.write(mark).await?.ok();
            }
        }
        let key = Key {
            pk: keys::model_partition(&model.tenant, &model.name),
            sk,
        };
        self.hints.forget(&key);
        self.table
            .write(Write::Update {
                key,
                update: Expression::new("SET #away = :one").value("one", as_number(1)),
                condition: Expression::new("attribute_exists(#pk)"),
            })
            .await?
            .ok();
        Ok(())
    }
}

/// The condition that a head is marked and as it was read, so that moving it loses nothing.
fn as_read(model: &Model, head: &Item) -> Expression {
    let condition =
        Expression::new("#rev = :rev AND #marked = :one AND attribute_not_exists(#pointers)");
    let condition = match head.get("pointers") {
        Some(count) => Expression::new("#rev = :rev AND #marked = :one AND #pointers = :pointers")
            .value("pointers", count.clone()),
        None => condition,
    };
    condition
        .value("rev", as_number(model.revision))
        .value("one", as_number(1))
}

/// Refuses a name whose holder keeps it.
fn require_displaceable(holder: &Model, naming: &Naming<'_>) -> Result<()> {
    match holder.deleted_at {
        None => Err(Error::new(
            ErrorCode::ModelExists,
            format!(
                "registered model `{}` exists already; use it, or choose another name",
                holder.name
            ),
        )
        .with("model", holder.name.as_str())),
        Some(_) if naming.may_displace => Ok(()),
        Some(at) => {
            let mut error = deleted_model(&holder.name, at);
            error.message = format!(
                "registered model `{}` exists but was deleted; restore it, choose another name, or say `replace_deleted` to use the name again",
                holder.name
            );
            Err(error)
        }
    }
}

/// What a home is called from now on.
fn called(tenant: &TenantName, model: &ModelName) -> Write {
    Write::Put {
        item: Builder::at(&keys::home(tenant, model))
            .text("head", keys::model_sk(model))
            .build(),
        condition: None,
    }
}

/// What a name means from now on.
fn meaning(tenant: &TenantName, name: &ModelName, home: Option<&str>, event: &Event) -> Write {
    Write::Put {
        item: Builder::at(&keys::holder(tenant, name, event.time, &event.id))
            .maybe_text("home", home)
            .build(),
        condition: None,
    }
}

/// The marks around what a prefix finds in the partition of a home.
fn marks(tenant: &TenantName, home: &ModelName, prefix: &str) -> [Write; 2] {
    keys::away_marks(tenant, home, prefix).map(|key| Write::Put {
        item: Builder::at(&key).number("away", 1).build(),
        condition: None,
    })
}
