//! Whether what happened is what the model allows.
//!
//! The run knows at which step each write was applied, which gives one order of all changes. That order is a proof of
//! linearizability if, and only if, each change was allowed where it stands, lies between the request and the answer
//! of the wish that caused it, and every answer fits the state at some step between the two. So nothing is searched:
//! the proof is checked.

use crate::draw::{ALIASES, MODELS};
use crate::items;
use crate::model::Change;
use crate::play::{Answer, Asked, Played, RUNS_TENANT};
use crate::wishes::{Expected, Wish};
use crate::world::World;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Something that should not have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// An event with the step at which it was committed.
struct Committed {
    step: u64,
    /// Where its model lies; empty for what is of the registry.
    home: String,
    wish: Option<usize>,
    event: Value,
}

/// A state of an alias, from a step on.
#[derive(Debug, Clone, Copy)]
struct State {
    from: u64,
    version: Option<u32>,
    sequence: u64,
}

/// Checks a run.
pub fn check(played: &Played) -> Vec<Violation> {
    let mut checker = Checker {
        played,
        violations: Vec::new(),
        caused: BTreeMap::new(),
        states: BTreeMap::new(),
        meanings: BTreeMap::new(),
    };
    let events = checker.events();
    let world = checker.replay(&events);
    for (number, asked) in played.asked.iter().enumerate() {
        checker.answer(number, asked);
    }
    let violations = items::check(played, &world);
    checker
        .violations
        .extend(violations.into_iter().map(Violation));
    checker.violations
}

struct Checker<'a> {
    played: &'a Played,
    violations: Vec<Violation>,
    /// The changes that each wish caused: their steps, and the sequence of an alias.
    caused: BTreeMap<usize, Vec<(u64, Option<u64>)>>,
    /// What aliases held, by home and alias.
    states: BTreeMap<(String, String), Vec<State>>,
    /// Which home a name meant, from a step on.
    meanings: BTreeMap<String, Vec<(u64, Option<String>)>>,
}

impl Checker<'_> {
    fn violated(&mut self, text: impl Into<String>) {
        self.violations.push(Violation(text.into()));
    }

    /// Every event, in the order of its commit.
    fn events(&mut self) -> Vec<Committed> {
        let mut events = Vec::new();
        for item in &self.played.items {
            let text = |name: &str| item[name]["S"].as_str().unwrap_or_default();
            let registry = format!("T#{RUNS_TENANT}#E");
            let models = format!("T#{RUNS_TENANT}#M#");
            let home = match text("pk").strip_prefix(&models) {
                Some(home) => home.to_owned(),
                None if text("pk") == registry => String::new(),
                None => continue,
            };
            if item.get("event").is_none() {
                continue;
            }
            let event: Value = serde_json::from_str(text("event")).unwrap_or_default();
            let key = (text("pk").to_owned(), text("sk").to_owned());
            let Some(step) = self.played.written.get(&key).copied() else {
                self.violations
                    .push(Violation(format!("nobody wrote the event {}", key.1)));
                continue;
            };
            let wish = event["request_id"]
                .as_str()
                .and_then(|id| id.strip_prefix("wish-")?.parse().ok());
            events.push(Committed {
                step,
                home,
                wish,
                event,
            });
        }
        // Within one transaction, events were made one after another.
        let id = |event: &Committed| event.event["id"].as_str().unwrap_or_default().to_owned();
        events.sort_by_key(|event| (event.step, id(event)));
        events
    }

    /// Plays all events in their order.
    fn replay(&mut self, events: &[Committed]) -> World {
        let mut world = World::default();
        for (index, committed) in events.iter().enumerate() {
            let event = &committed.event;
            let text = |name: &str| event[name].as_str().unwrap_or_default();
            let number = |name: &str| event[name].as_u64();
            let change = Change {
                kind: text("type"),
                version: number("version").and_then(|number| number.try_into().ok()),
                alias: event["alias"].as_str(),
                sequence: number("sequence").filter(|_| event.get("alias").is_some()),
                actor: text("actor"),
                time: text("time"),
                data: &event["data"],
            };
            let at = committed.step;
            let asked = committed.wish.and_then(|wish| self.played.asked.get(wish));
            if let (Some(asked), Some(wish)) = (asked, committed.wish) {
                let is_late = asked.until.is_some_and(|until| at > until)
                    && asked.answer.as_ref().is_some_and(Answer::is_certain);
                if at < asked.from || is_late {
                    self.violated(format!("wish {wish} changed something outside of its time"));
                }
            }
            world.asked = asked.map_or((at, at), |asked| {
                (asked.from, asked.until.unwrap_or(u64::MAX))
            });
            let wish = asked.map(|asked| &asked.wish);
            let name = match (change.kind, asked) {
                // Only the model that gives its name away is called so.
                ("model.displaced", _) | (_, None) => text("model"),
                (_, Some(asked)) => asked.model,
            };
            if let Err(reason) = world.apply(&committed.home, name, &change, wish) {
                self.violated(format!(
                    "step {at}, wish {:?}, {}: {reason}",
                    committed.wish, change.kind
                ));
            }
            self.remember(committed, &change, &world);
            let is_last = events.get(index + 1).is_none_or(|next| next.step != at);
            if is_last {
                self.exclusive(&events[..=index], &world);
            }
        }
        world
    }

    /// Remembers what is held against answers afterwards.
    fn remember(&mut self, committed: &Committed, change: &Change<'_>, world: &World) {
        let at = committed.step;
        if let Some(alias) = change.alias {
            let key = (committed.home.clone(), alias.to_owned());
            let to = change.data["to"].as_u64();
            self.states.entry(key).or_default().push(State {
                from: at,
                version: to.and_then(|number| number.try_into().ok()),
                sequence: change.sequence.unwrap_or_default(),
            });
        }
        for name in MODELS {
            let means = world.names.get(name).cloned();
            let all = self.meanings.entry(name.to_owned()).or_default();
            if all.last().and_then(|(_, home)| home.clone()) != means {
                all.push((at, means));
            }
        }
        let (Some(wish), false) = (committed.wish, change.kind == "promotion.denied") else {
            return;
        };
        // The events of one transaction are one change.
        let caused = self.caused.entry(wish).or_default();
        match caused.last_mut() {
            Some((step, sequence)) if *step == at => *sequence = sequence.or(change.sequence),
            // Whoever finds that the time of a request is over ends it before it does what it was asked.
            _ if change.kind == "promotion.expired" => {}
            _ => caused.push((at, change.sequence)),
        }
    }

    /// Whether exclusive stages that somebody entered in the last step hold one version.
    fn exclusive(&mut self, events: &[Committed], world: &World) {
        let Some(last) = events.last() else { return };
        for committed in events.iter().rev().take_while(|one| one.step == last.step) {
            let stage = committed.event["data"]["to"].as_str().unwrap_or_default();
            if committed.event["type"] != "version.stage_changed"
                || !world.rules(&committed.home).is_exclusive(stage)
            {
                continue;
            }
            let there = world
                .models
                .get(&committed.home)
                .map(|model| model.standing_in(stage))
                .unwrap_or_default();
            if there.len() > 1 {
                self.violated(format!(
                    "step {}: `{stage}` is exclusive and holds {there:?}",
                    last.step
                ));
            }
        }
    }

    /// Whether an answer fits what happened.
    fn answer(&mut self, number: usize, asked: &Asked) {
        let caused = self.caused.get(&number).cloned().unwrap_or_default();
        if caused.len() > 1 {
            self.violated(format!("wish {number} was done {} times", caused.len()));
        }
        let Some(answer) = asked.answer.as_ref().filter(|answer| answer.is_certain()) else {
            return;
        };
        let until = asked.until.unwrap_or(u64::MAX);
        if answer.status >= 400 && !caused.is_empty() {
            // Without an idempotency key, nobody can tell a repetition from another wish; and one that takes the first of
            // what is listed may take another thing under the same key.
            let takes_another = asked.wish == Wish::RevokeWaiver && answer.status == 422;
            if (asked.key.is_some() || !asked.was_repeated) && !takes_another {
                self.violated(format!(
                    "wish {number} was refused with {}, but done: {}",
                    answer.status, answer.body
                ));
            }
        }
        match &asked.wish {
            Wish::SetAlias { alias, version, .. } if answer.status < 300 => {
                self.moved(number, asked, alias, Some(*version), &answer.body, until);
            }
            Wish::RemoveAlias { alias, .. } if answer.status < 300 => {
                self.moved(number, asked, alias, None, &answer.body, until);
            }
            Wish::RollBack { alias, .. } if answer.status < 300 => {
                let version = version_in(&answer.body);
                self.moved(number, asked, alias, version, &answer.body, until);
            }
            Wish::SetAlias {
                alias,
                expected,
                sequence,
                ..
            }
            | Wish::RemoveAlias {
                alias,
                expected,
                sequence,
            } if answer.status == 409 => {
                self.lost(
                    number,
                    asked,
                    alias,
                    Some(*expected),
                    *sequence,
                    &answer.body,
                    until,
                );
            }
            Wish::RollBack {
                alias, sequence, ..
            } if answer.status == 409 => {
                self.lost(number, asked, alias, None, *sequence, &answer.body, until);
            }
            Wish::GetAlias { alias } => {
                let (version, sequence) = if answer.status == 200 {
                    (version_in(&answer.body), answer.body["sequence"].as_u64())
                } else {
                    (None, None)
                };
                let fits = self.fits(asked, alias, until, |state| {
                    state.version == version
                        && sequence.is_none_or(|sequence| sequence == state.sequence)
                });
                if !fits {
                    self.violated(format!(
                        "wish {number} read {} of `{alias}`, which it never was meanwhile",
                        answer.body
                    ));
                }
            }
            // What is so already needs no change; only these wishes may find it so.
            Wish::ChangeStage { .. }
            | Wish::Annotate { .. }
            | Wish::DeleteVersion { .. }
            | Wish::RestoreVersion { .. }
            | Wish::DeleteModel
            | Wish::RestoreModel
            | Wish::SetLifecycle { .. }
            | Wish::RevokeWaiver
            | Wish::Rename { .. }
            | Wish::Describe
            | Wish::Judge { .. }
            | Wish::Rejudge { .. }
            | Wish::Pack { .. }
            | Wish::Purge { .. }
            | Wish::Finalize { .. } => {}
            wish if wish.is_housekeeping() => {}
            wish if !wish.is_question() && answer.status < 300 && caused.is_empty() => {
                self.violated(format!("wish {number} was granted, but not done: {wish:?}"));
            }
            _ => {}
        }
    }

    fn moved(
        &mut self,
        number: usize,
        asked: &Asked,
        alias: &str,
        version: Option<u32>,
        body: &Value,
        until: u64,
    ) {
        let sequence = body["sequence"].as_u64();
        let caused = self.caused.get(&number).and_then(|caused| caused.first());
        let fits = match caused {
            Some((_, done)) => *done == sequence && version_in(body) == version,
            None => {
                version_in(body) == version
                    && self.fits(asked, alias, until, |state| {
                        state.version == version && Some(state.sequence) == sequence
                    })
            }
        };
        if !fits {
            self.violated(format!("wish {number} was granted, but not done: {body}"));
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "they are what an answer is held against"
    )]
    fn lost(
        &mut self,
        number: usize,
        asked: &Asked,
        alias: &str,
        expected: Option<Expected>,
        sequence: Option<u64>,
        body: &Value,
        until: u64,
    ) {
        let error = &body["error"];
        let current = &error["details"]["current"];
        if error["code"] != "conflict" || current.is_null() {
            return;
        }
        let shown = (version_in(current), current["sequence"].as_u64());
        let fits = self.fits(asked, alias, until, |state| {
            (state.version, Some(state.sequence)) == shown
        });
        if !fits {
            self.violated(format!(
                "wish {number} lost to {current}, which `{alias}` never was meanwhile"
            ));
        }
        let deserved = sequence.is_some_and(|sequence| Some(sequence) != shown.1)
            || match expected {
                Some(Expected::Held(version)) => version != shown.0,
                _ => false,
            };
        if !deserved && (expected.is_some() || sequence.is_some()) {
            self.violated(format!("wish {number} lost to what it expected: {current}"));
        }
    }

    /// Whether an alias was in such a state at some step of a wish.
    fn fits(
        &self,
        asked: &Asked,
        alias: &str,
        until: u64,
        is_such: impl Fn(&State) -> bool,
    ) -> bool {
        let never = [State {
            from: 0,
            version: None,
            sequence: 0,
        }];
        let meanings = self.meanings.get(asked.model);
        let homes = meanings.into_iter().flatten().enumerate();
        let is_during = |from: u64, ends: u64| from <= until && ends >= asked.from;
        let mut meant = homes.filter_map(|(index, (from, home))| {
            let ends = meanings
                .and_then(|all| all.get(index + 1))
                .map_or(u64::MAX, |next| next.0);
            is_during(*from, ends).then_some(home.as_ref())
        });
        let fits_at = |home: Option<&String>| {
            let states = home.and_then(|home| self.states.get(&(home.clone(), alias.to_owned())));
            let states: Vec<State> = never
                .iter()
                .chain(states.into_iter().flatten())
                .copied()
                .collect();
            states.iter().enumerate().any(|(index, state)| {
                let ends = states.get(index + 1).map_or(u64::MAX, |next| next.from);
                is_during(state.from, ends) && is_such(state)
            })
        };
        debug_assert!(ALIASES.contains(&alias), "the alias is one of the run's");
        let is_new = meanings
            .and_then(|all| all.first())
            .is_none_or(|(from, _)| *from >= asked.from);
        (is_new && fits_at(None)) || meant.any(fits_at)
    }
}

fn version_in(body: &Value) -> Option<u32> {
    body["version"]
        .as_u64()
        .and_then(|number| number.try_into().ok())
}
