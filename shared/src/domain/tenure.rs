//! Tenures: which version held an alias or stood in a stage, from when to when, put there by whom and why.
//!
//! A tenure holds its first instant and not its last: `from <= t < until`. Of several changes in one millisecond the last
//! counts, and the others have tenures of no length; changes of an alias are ordered by their sequence.

use crate::domain::{Event, EventType, Timestamp};
use serde::Serialize;
use std::collections::HashMap;

/// One version's time with an alias or in a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tenure {
    /// Name of the registered model when it began.
    pub model: String,
    /// Id of the registered model.
    pub model_id: String,
    /// The version.
    pub version: u32,
    /// When it began; this instant is part of it.
    pub from: Timestamp,
    /// When it ended; this instant is not part of it. Absent while it lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Who put the version there.
    pub set_by: String,
    /// Why, in their words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The type of the event that began it.
    pub began_with: EventType,
    /// The id of that event.
    pub event_id: String,
    /// Who ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<String>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
}

impl Tenure {
    /// Whether an instant is part of it.
    pub fn contains(&self, at: Timestamp) -> bool {
        self.from <= at && self.until.is_none_or(|until| at < until)
    }

    fn begun_by(event: &Event) -> Option<Self> {
        Some(Self {
            model: event.model.as_ref()?.to_string(),
            model_id: event.home()?.to_owned(),
            version: event.version?.get(),
            from: event.time,
            until: None,
            set_by: event.actor.to_string(),
            reason: event.reason.clone(),
            began_with: event.kind,
            event_id: event.id.clone(),
            ended_by: None,
            end_reason: None,
        })
    }

    fn end(&mut self, event: &Event) {
        self.until = Some(event.time.max(self.from));
        self.ended_by = Some(event.actor.to_string());
        self.end_reason.clone_from(&event.reason);
    }
}

/// The tenures of one alias, of each model that has it, in the order in which they began.
pub fn alias_tenures(mut events: Vec<Event>) -> Vec<Tenure> {
    events.sort_by_key(|event| (event.time, event.sequence));
    let mut tenures: Vec<Tenure> = Vec::new();
    let mut open: HashMap<String, usize> = HashMap::new();
    for event in &events {
        let Some(home) = event.home() else { continue };
        if let Some(index) = open.remove(home) {
            tenures[index].end(event);
        }
        if event.kind != EventType::AliasRemoved
            && let Some(tenure) = Tenure::begun_by(event)
        {
            open.insert(home.to_owned(), tenures.len());
            tenures.push(tenure);
        }
    }
    tenures
}

/// The tenures of one stage, of each version that was in it, in the order in which they began.
pub fn stage_tenures(stage: &str, mut events: Vec<Event>) -> Vec<Tenure> {
    events.sort_by(|left, right| (left.time, &left.id).cmp(&(right.time, &right.id)));
    let mut tenures: Vec<Tenure> = Vec::new();
    let mut open: HashMap<(String, u32), usize> = HashMap::new();
    for event in &events {
        let (Some(home), Some(version)) = (event.home(), event.version) else {
            continue;
        };
        let key = (home.to_owned(), version.get());
        if let Some(index) = open.remove(&key) {
            tenures[index].end(event);
        }
        let enters = event
            .data
            .get("to")
            .and_then(|to| to.as_str())
            .is_some_and(|to| to.to_lowercase() == stage.to_lowercase());
        if enters && let Some(tenure) = Tenure::begun_by(event) {
            open.insert(key, tenures.len());
            tenures.push(tenure);
        }
    }
    tenures
}
