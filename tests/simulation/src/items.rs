//! Whether the items at the end are what the events made of them.

use crate::model::Model;
use crate::play::{Played, RUNS_TENANT};
use crate::world::World;
use serde_json::Value;
use shared::domain::TenantName;
use shared::domain::audit::Link;
use std::collections::{BTreeMap, BTreeSet};

/// An item of the table.
#[derive(Debug, Clone, Copy)]
struct Item<'a>(&'a Value);

impl<'a> Item<'a> {
    fn text(self, name: &str) -> &'a str {
        self.0[name]["S"].as_str().unwrap_or_default()
    }

    fn count(self, name: &str) -> Option<u64> {
        self.0[name]["N"].as_str()?.parse().ok()
    }

    /// A time as events write it.
    fn date(self, name: &str) -> Option<String> {
        let millis = self.count(name)?;
        Some(shared::domain::Timestamp::from_millis(millis).to_string())
    }

    /// The tags of a version.
    fn tags(self) -> BTreeMap<String, String> {
        let notes: Value = serde_json::from_str(self.text("notes")).unwrap_or_default();
        serde_json::from_value(notes["tags"].clone()).unwrap_or_default()
    }

    fn has(self, name: &str) -> bool {
        self.0.get(name).is_some()
    }
}

/// Checks every item at the end of a run.
pub(crate) fn check(played: &Played, world: &World) -> Vec<String> {
    let mut partitions: BTreeMap<&str, Vec<Item<'_>>> = BTreeMap::new();
    for item in &played.items {
        let item = Item(item);
        partitions.entry(item.text("pk")).or_default().push(item);
    }
    let mut found = Found {
        violations: Vec::new(),
    };
    let none = Vec::new();
    let heads = partitions
        .get(format!("T#{RUNS_TENANT}#M").as_str())
        .unwrap_or(&none);
    let inbox: BTreeSet<&str> = partitions
        .get(format!("T#{RUNS_TENANT}#R").as_str())
        .unwrap_or(&none)
        .iter()
        .map(|item| item.text("sk"))
        .collect();
    let mut open = BTreeSet::new();
    for (home, model) in &world.models {
        let items = partitions
            .get(format!("T#{RUNS_TENANT}#M#{home}").as_str())
            .unwrap_or(&none);
        let head = heads.iter().find(|head| {
            let name = head.text("sk").split(':').next().unwrap_or_default();
            let lies = if head.has("home") {
                head.text("home")
            } else {
                name
            };
            lies == home && !head.has("former")
        });
        match head {
            Some(head) => found.head(home, model, *head, world),
            None => found.say(format!("`{home}` has no head")),
        }
        found.versions(home, model, items, head.copied());
        found.aliases(home, model, items);
        found.requests(home, model, items);
        found.chain(home, items);
        for (id, request) in model.requests() {
            if request.is_open {
                open.insert(id.as_str());
            }
        }
    }
    found.files(&partitions);
    found.tags(&partitions, world);
    if open != inbox {
        found.say(format!(
            "open requests are {open:?}, and the inbox has {inbox:?}"
        ));
    }
    found.violations
}

struct Found {
    violations: Vec<String>,
}

impl Found {
    fn say(&mut self, text: String) {
        self.violations.push(text);
    }

    fn head(&mut self, home: &str, model: &Model, head: Item<'_>, world: &World) {
        let name = world.names.iter().find(|(_, meant)| *meant == home);
        let is_called = match name {
            Some((name, _)) => head.text("sk") == name,
            None => head.text("sk").contains(':') && model.is_displaced,
        };
        if !is_called {
            self.say(format!("`{home}` is not called {name:?}: {}", head.0));
        }
        let holding = model
            .aliases()
            .values()
            .filter(|alias| alias.version.is_some())
            .count();
        let wanted = [
            ("next", model.versions().len() + 1),
            ("held", holding),
            ("reqs", model.open_requests(None)),
        ];
        for (name, wanted) in wanted {
            if head.count(name) != Some(wanted as u64) {
                self.say(format!("`{name}` of `{home}` is not {wanted}: {}", head.0));
            }
        }
        let is_served = model.served.values().any(|count| *count > 0);
        if head
            .count("served")
            .is_none_or(|places| (places > 0) != is_served)
        {
            self.say(format!("`{home}` is served, or not: {}", head.0));
        }
        if head.has("deleted") != model.is_deleted {
            self.say(format!(
                "`{home}` is deleted or not, other than its events say"
            ));
        }
        for (alias, state) in model.aliases() {
            if head.has(&format!("@{alias}")) != state.version.is_some() {
                self.say(format!("the head of `{home}` knows nothing of `{alias}`"));
            }
        }
    }

    fn versions(&mut self, home: &str, model: &Model, items: &[Item<'_>], head: Option<Item<'_>>) {
        let mut numbers = BTreeSet::new();
        for item in items {
            let number = item.text("sk").strip_prefix("V#");
            let Some(number) = number.and_then(|text| text.parse::<u32>().ok()) else {
                continue;
            };
            numbers.insert(number);
            let Some(version) = model.versions().get(&number) else {
                self.say(format!("version {number} of `{home}` has no event"));
                continue;
            };
            let served = model.served.get(&number).copied().unwrap_or_default();
            let fits = item.text("status") == version.status
                && item.text("stage") == version.stage
                && item.has("deleted") == version.is_deleted
                && item.date("depr") == version.deprecated_at
                && item.date("eol") == version.end_of_life_at
                && item.tags() == version.tags
                && item.count("aliases") == Some(model.holders(number) as u64)
                && item.count("reqs").unwrap_or(0) == model.open_requests(Some(number)) as u64
                && item.count("served").unwrap_or(0) == served as u64;
            if !fits {
                self.say(format!(
                    "version {number} of `{home}`, held by {}, asked for by {}, served by {served}, is not {version:?}: {}",
                    model.holders(number),
                    model.open_requests(Some(number)),
                    item.0
                ));
            }
            let span = |word: &str| {
                let name = format!("{word}:{}", version.stage);
                head.and_then(|head| head.count(&name)).unwrap_or(0)
            };
            let lies_in = (span("floor") + 1..=span("top")).contains(&u64::from(number));
            if !version.is_deleted && !lies_in {
                self.say(format!(
                    "version {number} of `{home}` is not where its stage is looked for"
                ));
            }
        }
        if numbers.len() != model.versions().len() {
            self.say(format!("versions of `{home}` are missing: {numbers:?}"));
        }
    }

    fn aliases(&mut self, home: &str, model: &Model, items: &[Item<'_>]) {
        let mut seen = BTreeSet::new();
        for item in items {
            let Some(alias) = item.text("sk").strip_prefix("A#") else {
                continue;
            };
            seen.insert(alias);
            let known = model.aliases().get(alias).cloned().unwrap_or_default();
            let version = item
                .count("version")
                .and_then(|number| u32::try_from(number).ok());
            if version != known.version || item.count("seq") != Some(known.sequence) {
                self.say(format!(
                    "`{alias}` of `{home}` is not {known:?}: {}",
                    item.0
                ));
            }
            if let Some(version) = version.and_then(|number| model.versions().get(&number)) {
                if version.status != "READY" || version.is_deleted {
                    self.say(format!("`{alias}` of `{home}` holds what is not ready"));
                }
                let dates = (item.date("depr"), item.date("eol"));
                if dates
                    != (
                        version.deprecated_at.clone(),
                        version.end_of_life_at.clone(),
                    )
                {
                    self.say(format!(
                        "`{alias}` of `{home}` has other dates than the version that it holds: {}",
                        item.0
                    ));
                }
            }
        }
        for alias in model.aliases().keys() {
            if !seen.contains(alias.as_str()) {
                self.say(format!("`{alias}` of `{home}` is missing"));
            }
        }
    }

    fn requests(&mut self, home: &str, model: &Model, items: &[Item<'_>]) {
        let claims = items
            .iter()
            .filter(|item| item.text("sk").starts_with("Q#"))
            .map(|item| item.text("id"));
        let claims: BTreeSet<&str> = claims.collect();
        let open: BTreeSet<&str> = model
            .requests()
            .iter()
            .filter(|(_, request)| request.is_open)
            .map(|(id, _)| id.as_str())
            .collect();
        if claims != open {
            self.say(format!(
                "`{home}` has claims of {claims:?}, and open are {open:?}"
            ));
        }
        for item in items {
            let Some(id) = item
                .text("sk")
                .strip_prefix("R#")
                .filter(|_| item.has("request"))
            else {
                continue;
            };
            let stored: Value = serde_json::from_str(item.text("request")).unwrap_or_default();
            if (stored["status"] == "open") != open.contains(id) {
                self.say(format!(
                    "request {id} is open or not, other than its events say"
                ));
            }
        }
    }

    /// Whether each set of files is counted as often as versions have it, and stays as long as one does.
    fn files(&mut self, partitions: &BTreeMap<&str, Vec<Item<'_>>>) {
        let models = format!("T#{RUNS_TENANT}#M#");
        let sets = format!("T#{RUNS_TENANT}#PF#");
        let mut holders: BTreeMap<String, (String, u64)> = BTreeMap::new();
        for (pk, items) in partitions {
            if let (Some(set), Some(item)) = (pk.strip_prefix(&sets), items.first()) {
                let holder = format!(
                    "{}/{}",
                    item.text("home"),
                    item.count("version").unwrap_or(0)
                );
                holders.insert(set.to_owned(), (holder, item.count("count").unwrap_or(0)));
            }
        }
        let mut counted: BTreeMap<String, u64> = BTreeMap::new();
        for (pk, items) in partitions {
            let Some(home) = pk.strip_prefix(&models) else {
                continue;
            };
            for item in items.iter().filter(|item| !item.has("purged")) {
                let number = item.text("sk").strip_prefix("V#");
                let Some(number) = number.and_then(|text| text.parse::<u64>().ok()) else {
                    continue;
                };
                let set = crate::direct::files_of(number).hex().to_owned();
                let holder = holders.get(&set).map(|(holder, _)| holder.as_str());
                let own = format!("{home}/{number}");
                let held: Value = serde_json::from_str(item.text("held")).unwrap_or_default();
                let held = held["home"]
                    .as_str()
                    .map(|home| format!("{home}/{}", held["version"]));
                if held.is_some() && item.text("status") != "READY" {
                    self.say(format!("{own} has files before it is ready"));
                }
                if held.is_some() && held.as_deref() != holder {
                    self.say(format!("the files of {own} were given away: {}", item.0));
                }
                let is_own = held.is_none() && item.has("pkg") && holder == Some(own.as_str());
                if held.is_some() || is_own {
                    *counted.entry(set).or_default() += 1;
                }
            }
        }
        for (set, (holder, count)) in holders {
            let counted = counted.get(&set).copied().unwrap_or_default();
            if counted != count || count == 0 {
                self.say(format!(
                    "{holder} is counted {count} times, and has {counted}"
                ));
            }
        }
    }

    /// Whether models are found by the tags that they have.
    fn tags(&mut self, partitions: &BTreeMap<&str, Vec<Item<'_>>>, world: &World) {
        let (key, values) = crate::direct::TAG;
        let tenant = TenantName::parse(RUNS_TENANT).expect("the name is valid");
        for value in values {
            let pk = shared::dynamodb::keys::tag(&tenant, key, value);
            let rows = partitions.get(pk.as_str()).into_iter().flatten();
            let found: BTreeSet<&str> = rows
                .filter(|row| !row.has("gone"))
                .map(|row| row.text("sk"))
                .collect();
            let carrying: BTreeSet<&str> = world
                .names
                .iter()
                .filter(|(_, home)| {
                    let model = world.models.get(*home);
                    model.is_some_and(|model| {
                        !model.is_deleted && model.tag.as_deref() == Some(value)
                    })
                })
                .map(|(name, _)| name.as_str())
                .collect();
            if found != carrying {
                self.say(format!(
                    "by the tag `{value}` are found {found:?}, and {carrying:?} have it"
                ));
            }
        }
    }

    /// Whether every event is in the chain once, and nothing of it was changed.
    fn chain(&mut self, home: &str, items: &[Item<'_>]) {
        let mut events: BTreeSet<&str> = items
            .iter()
            .filter(|item| item.has("event"))
            .filter_map(|item| {
                let text = item.text("event");
                let at = text.find("\"id\":\"")? + 6;
                text.get(at..at + 26)
            })
            .collect();
        let unplaced: Vec<&str> = items
            .iter()
            .filter(|item| item.has("event") && !item.has("chain"))
            .map(|item| item.text("sk"))
            .collect();
        if !unplaced.is_empty() {
            self.say(format!(
                "events of `{home}` do not know their places: {unplaced:?}"
            ));
        }
        let mut chained: Vec<Item<'_>> = items
            .iter()
            .copied()
            .filter(|item| item.text("sk").starts_with("C#"))
            .collect();
        chained.sort_by_key(|item| item.text("sk"));
        let mut last: Option<Link> = None;
        for item in chained {
            let event: Value = serde_json::from_str(item.text("json")).unwrap_or_default();
            let Ok(link) = Link::after(last.as_ref(), &event) else {
                self.say(format!("an event of the chain of `{home}` is no JSON"));
                continue;
            };
            let is_next = item.text("sk") == format!("C#{:010}", link.sequence)
                && item.text("hash") == link.hash
                && item.text("prev") == link.previous_hash;
            if !is_next {
                self.say(format!(
                    "the chain of `{home}` is broken at {}",
                    item.text("sk")
                ));
            }
            if !events.remove(event["id"].as_str().unwrap_or_default()) {
                self.say(format!("the chain of `{home}` has an event twice: {event}"));
            }
            last = Some(link);
        }
        if !events.is_empty() {
            self.say(format!("events of `{home}` are not chained: {events:?}"));
        }
    }
}
