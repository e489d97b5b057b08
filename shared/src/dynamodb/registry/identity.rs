//! Which model a name means: where it lies, and what became of names that were given away.
//!
//! All that a model has lies under its home, which is its name unless it was renamed or its name was used before.
//! Items are read directly under the name, without a look at the model's head. That is right as long as the name still
//! means the home of that name, and a version or an alias for which it may not is marked (`away`): the marks are put on
//! *all* of them before the name is given away. Whoever finds a mark, or nothing, asks the head.
//! Writes to unmarked items are on the condition that they are unmarked; writes to marked ones check in their transaction
//! that the head still says what it said. So no write reaches a model by a name that it lost.

use super::{Page, Registry};
use crate::domain::model::model_not_found;
use crate::domain::{Event, Model, ModelName, TenantName, Timestamp};
use crate::dynamodb::items::{Reader, as_number, event_from_item, model_from_item};
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::table::{Expression, Item, Query, Range, Write, text};
use crate::error::Result;

/// Between a home and a sort key, where a page goes on under another home than its name.
const HOME_END: char = '\u{0}';

/// What stands where the head of a name would.
#[derive(Debug)]
pub(super) enum Slot {
    /// Nothing: the name was never used.
    Free,
    /// The name was used, and means no model.
    Former {
        /// The revision of the model that left.
        revision: u64,
    },
    /// A model has the name.
    Held(Box<Model>, Item),
}

/// Whether an item was marked: its partition's name may not mean it any more.
pub(super) fn is_marked(item: &Item) -> bool {
    item.contains_key("away")
}

/// The condition of a write to an item, that it is not marked if it was read by its name.
pub(super) fn unmarked(model: &ModelName) -> &'static str {
    if model.is_unresolved() {
        " AND attribute_not_exists(#away)"
    } else {
        ""
    }
}

/// The check that a model which was found through its head still has the name by which it was found.
pub(super) fn still_named(tenant: &TenantName, model: &ModelName) -> Option<Write> {
    model.is_known().then(|| Write::Check {
        key: keys::model(tenant, model),
        condition: Expression::new("#home = :home").value("home", text(model.home())),
    })
}

/// Tells a model's head that one of its versions was deleted, and checks that it still has its name.
///
/// A version that lies under its model's name belongs to whoever has that name, unless it is marked; so the write of
/// the version must be on the condition that it is not, and then the head is there.
pub(super) fn touch(tenant: &TenantName, model: &ModelName, at: Timestamp) -> Write {
    let condition = if model.is_known() {
        named_as_read(model)
    } else {
        Expression::default()
    };
    Write::Update {
        key: keys::model(tenant, model),
        update: Expression::new("SET #updated = :updated").value("updated", as_number(at.millis())),
        condition,
    }
}

/// The condition of a write to a model's head, that it is there and still has the name by which it was found.
pub(super) fn named_as_read(model: &ModelName) -> Expression {
    if model.is_known() {
        Expression::new("#home = :home").value("home", text(model.home()))
    } else {
        // What stands for a name that was given away has no next number.
        Expression::new("attribute_exists(#next) AND attribute_not_exists(#home)")
    }
}

impl Registry {
    /// Where the model of a name lies, as its head says; `None` if there is no such model.
    ///
    /// One consistent read. For a model by its home it says what it is called by now, at one more read if it was renamed.
    pub async fn find_home(
        &self,
        tenant: &TenantName,
        model: &ModelName,
    ) -> Result<Option<ModelName>> {
        let mut key = keys::model(tenant, model);
        if !model.is_unresolved() {
            let called = self.table.get(&keys::home(tenant, model), true).await?;
            if let Some(called) = called {
                Reader(&called).text("head")?.clone_into(&mut key.sk);
            }
        }
        let slot = self.read_slot(tenant, &key).await?;
        Ok(match slot {
            Slot::Held(head, _) if model.is_unresolved() || head.name.home() == model.home() => {
                Some(head.name)
            }
            _ => None,
        })
    }

    /// Where the model of a name lies, or the error that there is none.
    pub async fn home_of(&self, tenant: &TenantName, model: &ModelName) -> Result<ModelName> {
        if model.is_known() {
            return Ok(model.clone());
        }
        self.find_home(tenant, model)
            .await?
            .ok_or_else(|| model_not_found(model))
    }

    /// Where to look again for what was not found, or found marked, under a name; `None` if there is no other place.
    pub(super) async fn elsewhere(
        &self,
        tenant: &TenantName,
        model: &ModelName,
    ) -> Result<Option<ModelName>> {
        if model.is_known() {
            return Ok(None);
        }
        Ok(self
            .find_home(tenant, model)
            .await?
            .filter(ModelName::is_known))
    }

    pub(super) async fn read_slot(&self, tenant: &TenantName, key: &Key) -> Result<Slot> {
        match self.table.get(key, true).await? {
            Some(item) => slot_of(tenant, item),
            None => Ok(Slot::Free),
        }
    }

    /// One page of a model's items under a prefix, wherever the model lies.
    ///
    /// A cursor that goes on under another home than the name holds that home.
    pub(super) async fn page_of(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        prefix: &str,
        ascending: bool,
        limit: usize,
        after: Option<String>,
    ) -> Result<(ModelName, Page<Item>)> {
        let (mut home, mut after) = (model.clone(), after);
        if let Some((lies, sk)) = after.as_ref().and_then(|text| text.split_once(HOME_END)) {
            home = model.at(lies, false);
            after = Some(sk.to_owned());
        }
        let is_first = after.is_none();
        let mut page = self
            .raw_page(tenant, &home, prefix, ascending, limit, after)
            .await?;
        let leads_away = page.items.iter().any(is_marked) || (page.items.is_empty() && is_first);
        if leads_away && !home.is_known() {
            let name = home;
            home = self.home_of(tenant, &name).await?;
            if home.is_known() {
                page = self
                    .raw_page(tenant, &home, prefix, ascending, limit, None)
                    .await?;
            }
        }
        if home.is_known() {
            page.after = page
                .after
                .map(|sk| format!("{}{HOME_END}{sk}", home.home()));
        }
        Ok((home, page))
    }

    async fn raw_page(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        prefix: &str,
        ascending: bool,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Item>> {
        let mut query = Query::new(keys::model_partition(tenant, model))
            .prefix(prefix)
            .limit(limit)
            .after(after);
        if model.is_known() {
            // Without the marks, which lie around all others.
            query.range = Range::Between(format!("{prefix}0"), format!("{prefix}z"));
        }
        if !ascending {
            query = query.backward();
        }
        let (items, after) = self.table.query(query).await?;
        Ok(Page { items, after })
    }

    /// One page of events under a prefix of a model's partition.
    pub(super) async fn event_page(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        prefix: &str,
        ascending: bool,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<Event>> {
        let (_, page) = self
            .page_of(tenant, model, prefix, ascending, limit, after)
            .await?;
        Ok(Page {
            items: page
                .items
                .iter()
                .map(event_from_item)
                .collect::<Result<_>>()?,
            after: page.after,
        })
    }

    /// The home that a name meant last; its own if it was never given away.
    pub(super) async fn last_holder(
        &self,
        tenant: &TenantName,
        name: &ModelName,
    ) -> Result<Option<ModelName>> {
        let query = Query::new(keys::holders(tenant, name))
            .backward()
            .limit(2)
            .consistent();
        let (items, _) = self.table.query(query).await?;
        let last = items
            .iter()
            .find_map(|item| Reader(item).maybe_text("home"));
        ModelName::of_home(last.unwrap_or(name.as_str())).map(Some)
    }

    /// The home that a name meant at a time, by its id; `None` if it meant none then.
    ///
    /// Within one millisecond the last change of its meaning counts.
    pub async fn holder_at(
        &self,
        tenant: &TenantName,
        name: &ModelName,
        at: Timestamp,
    ) -> Result<Option<ModelName>> {
        let query = Query::new(keys::holders(tenant, name))
            .between("0", format!("{:013}#~", at.millis()))
            .backward()
            .limit(1)
            .consistent();
        let (items, _) = self.table.query(query).await?;
        match items.first() {
            // Before its name was given away the first time, a name meant the home of that name.
            None => ModelName::of_home(name.as_str()).map(Some),
            Some(item) => Reader(item)
                .maybe_text("home")
                .map(ModelName::of_home)
                .transpose(),
        }
    }
}

pub(super) fn slot_of(tenant: &TenantName, item: Item) -> Result<Slot> {
    if item.contains_key("former") {
        return Ok(Slot::Former {
            revision: Reader(&item).number("rev")?,
        });
    }
    let model = model_from_item(tenant, &item)?.model;
    Ok(Slot::Held(Box::new(model), item))
}
