//! Whether what happened is what the model allows.
//!
//! The run knows at which step each write was applied, which gives one order of all changes. That order is a proof of
//! linearizability if, and only if, each change was allowed where it stands, lies between the request and the answer
//! of the wish that caused it, and every answer fits the state at some step between the two. So nothing is searched:
//! the proof is checked.

use crate::clients::{Expected, MODELS, Wish};
use crate::model::{Change, Model};
use crate::play::{Answer, Asked, Played, RUNS_TENANT, aliases};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
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
    model: &'static str,
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
    };
    let events = checker.events();
    let models = checker.replay(&events);
    for (number, asked) in played.asked.iter().enumerate() {
        checker.answer(number, asked);
    }
    for (name, model) in &models {
        checker.items(name, model);
    }
    checker.violations
}

struct Checker<'a> {
    played: &'a Played,
    violations: Vec<Violation>,
    /// The changes that each wish caused: their steps, and the sequence of an alias.
    caused: BTreeMap<usize, Vec<(u64, Option<u64>)>>,
    states: BTreeMap<(&'static str, String), Vec<State>>,
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
            let Some(model) = model_of(text("pk")) else {
                continue;
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
            let wish = event["actor"]
                .as_str()
                .and_then(|actor| actor.strip_prefix("wish-")?.parse().ok());
            events.push(Committed {
                step,
                model,
                wish,
                event,
            });
        }
        events.sort_by_key(|event| event.step);
        events
    }

    /// Plays all events in their order.
    fn replay(&mut self, events: &[Committed]) -> BTreeMap<&'static str, Model> {
        let mut models: BTreeMap<&'static str, Model> = MODELS
            .iter()
            .map(|name| (*name, Model::default()))
            .collect();
        for committed in events {
            let event = &committed.event;
            let asked = committed
                .wish
                .and_then(|wish| Some((wish, self.played.asked.get(wish)?)));
            let Some((wish, asked)) = asked else {
                self.violated(format!("nobody asked for {event}"));
                continue;
            };
            let number = |name: &str| event[name].as_u64();
            let change = Change {
                kind: event["type"].as_str().unwrap_or_default(),
                version: number("version").and_then(|number| number.try_into().ok()),
                alias: event["alias"].as_str(),
                sequence: number("sequence").filter(|_| event.get("alias").is_some()),
                data: &event["data"],
            };
            let at = committed.step;
            if committed.model != asked.model {
                self.violated(format!("wish {wish} changed the model {}", committed.model));
            }
            let is_late = asked.until.is_some_and(|until| at > until)
                && asked.answer.as_ref().is_some_and(Answer::is_certain);
            if at < asked.from || is_late {
                self.violated(format!("wish {wish} changed something outside of its time"));
            }
            let Some(model) = models.get_mut(committed.model) else {
                continue;
            };
            if let Err(reason) = model.apply(&change, &asked.wish) {
                self.violated(format!("step {at}, wish {wish}, {}: {reason}", change.kind));
            }
            if let Some(alias) = change.alias {
                let states = self
                    .states
                    .entry((committed.model, alias.to_owned()))
                    .or_default();
                states.push(State {
                    from: at,
                    version: event["data"]["to"]
                        .as_u64()
                        .and_then(|number| number.try_into().ok()),
                    sequence: change.sequence.unwrap_or_default(),
                });
            }
            self.caused
                .entry(wish)
                .or_default()
                .push((at, change.sequence));
        }
        models
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
            // Without an idempotency key, nobody can tell a repetition from another wish.
            if asked.key.is_some() || !asked.was_repeated {
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
            | Wish::Finalize { .. } => {}
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
        let never = State {
            from: 0,
            version: None,
            sequence: 0,
        };
        let states = self.states.get(&(asked.model, alias.to_owned()));
        let states: Vec<State> = std::iter::once(never)
            .chain(states.into_iter().flatten().copied())
            .collect();
        states.iter().enumerate().any(|(index, state)| {
            let ends = states.get(index + 1).map_or(u64::MAX, |next| next.from);
            state.from <= until && ends >= asked.from && is_such(state)
        })
    }

    /// Whether the items at the end are what the events made of them.
    fn items(&mut self, name: &'static str, model: &Model) {
        let partition = format!("T#{RUNS_TENANT}#M#{name}");
        let mut numbers = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for item in &self.played.items {
            let text = |name: &str| item[name]["S"].as_str().unwrap_or_default();
            let count = |name: &str| {
                item[name]["N"]
                    .as_str()
                    .and_then(|text| text.parse::<u64>().ok())
            };
            if text("pk") == format!("T#{RUNS_TENANT}#M") && text("sk") == name {
                let next = model.versions().len() as u64 + 1;
                if count("next") != Some(next) {
                    self.violated(format!(
                        "the next version of `{name}` is not {next}: {item}"
                    ));
                }
                if item.get("deleted").is_none() != model.is_alive() {
                    self.violated(format!(
                        "`{name}` is deleted or not, other than its events say"
                    ));
                }
            }
            if text("pk") != partition {
                continue;
            }
            let sk = text("sk");
            if let Some(number) = sk
                .strip_prefix("V#")
                .and_then(|text| text.parse::<u32>().ok())
            {
                numbers.insert(number);
                let Some(version) = model.versions().get(&number) else {
                    self.violated(format!("version {number} of `{name}` has no event"));
                    continue;
                };
                let holders = model.holders(number) as u64;
                let fits = text("status") == version.status
                    && text("stage") == version.stage
                    && item.get("deleted").is_some() == version.is_deleted
                    && count("aliases") == Some(holders);
                if !fits {
                    self.violated(format!(
                        "version {number} of `{name}`, held by {holders}, is not {version:?}: {item}"
                    ));
                }
            }
            if let Some(alias) = sk.strip_prefix("A#") {
                seen.insert(alias.to_owned());
                let known = model.aliases().get(alias).cloned().unwrap_or_default();
                let version = count("version").and_then(|number| u32::try_from(number).ok());
                if version != known.version || count("seq") != Some(known.sequence) {
                    self.violated(format!("`{alias}` of `{name}` is not {known:?}: {item}"));
                }
                if let Some(version) = version.and_then(|number| model.versions().get(&number))
                    && (version.status != "READY" || version.is_deleted)
                {
                    self.violated(format!("`{alias}` of `{name}` holds what is not ready"));
                }
            }
        }
        if numbers.len() != model.versions().len() {
            self.violated(format!("versions of `{name}` are missing: {numbers:?}"));
        }
        for (_, alias) in aliases().filter(|(of, _)| *of == name) {
            if model.aliases().contains_key(alias) && !seen.contains(alias) {
                self.violated(format!("`{alias}` of `{name}` is missing"));
            }
        }
    }
}

fn version_in(body: &Value) -> Option<u32> {
    body["version"]
        .as_u64()
        .and_then(|number| number.try_into().ok())
}

fn model_of(partition: &str) -> Option<&'static str> {
    let name = partition.strip_prefix(&format!("T#{RUNS_TENANT}#M#"))?;
    MODELS.iter().copied().find(|model| *model == name)
}
