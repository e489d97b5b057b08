//! How a run is played, and what is told of it afterwards.

use crate::check::Violation;
use crate::mutation::{Mutation, Site};
use crate::wishes::Wish;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How a run is played.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many wishes are asked for in all.
    pub wishes: usize,
    /// How many processes serve them.
    pub clients: usize,
    /// How often, in thousandths, something goes wrong with a call.
    pub faults: u32,
    /// The parts of conditions that are removed, if some are.
    pub mutation: Option<Mutation>,
    /// Whether it is written down which conditions there are, and which ones refused something.
    pub surveys: bool,
    /// Whether each step is told.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            wishes: 200,
            clients: 4,
            faults: 60,
            mutation: None,
            surveys: false,
            trace: false,
        }
    }
}

/// What came of a wish.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON body.
    pub body: Value,
}

impl Answer {
    /// Whether the client knows now what became of its wish.
    pub fn is_certain(&self) -> bool {
        self.status < 429
    }
}

/// One wish, from its first request to its last answer.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What was asked for.
    pub wish: Wish,
    /// Of which model.
    pub model: &'static str,
    /// The idempotency key.
    pub key: Option<String>,
    /// The step at which it was first asked for.
    pub from: u64,
    /// The step at which it was last answered.
    pub until: Option<u64>,
    /// The last answer; none if the process died over it.
    pub answer: Option<Answer>,
    /// Whether an earlier request for it ended without a certain answer.
    pub was_repeated: bool,
}

/// What happened in a run.
#[derive(Debug)]
pub struct Played {
    /// Every wish, by number.
    pub asked: Vec<Asked>,
    /// The step at which each item was written last, by partition and sort key, and first.
    pub written: BTreeMap<(String, String), u64>,
    /// Every item at the end.
    pub items: Vec<Value>,
    /// The conditions that writes carried, if it is a survey.
    pub sites: BTreeSet<Site>,
    /// The parts of conditions for which something was refused, together, if it is a survey.
    pub blamed: BTreeSet<BTreeSet<Site>>,
    /// How many calls were applied.
    pub calls: u64,
    /// What should not have happened.
    pub violations: Vec<Violation>,
    /// What was told of it.
    pub trace: Vec<String>,
}
