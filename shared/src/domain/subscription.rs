//! The subscription: who wants to hear of what; the delivery: one event for one subscription.

use crate::domain::{
    AliasName, Event, EventType, ModelName, Principal, StageName, TenantName, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most subscriptions of one tenant: an event and all its deliveries are written in one transaction.
pub const MAX_SUBSCRIPTIONS: usize = 40;

/// Most attempts for one delivery.
pub const MAX_ATTEMPTS: u32 = 15;

/// Longest pattern of model names, in characters.
pub const MAX_PATTERN: usize = 256;
/// Most stages, aliases or tags that a subscription filters by.
pub const MAX_FILTERS: usize = 20;

/// What the body of a delivery looks like, and so who can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// The event as one `CloudEvents` 1.0 object.
    #[default]
    Cloudevents,
    /// MLflow's webhook payload; only events that MLflow knows are sent.
    Mlflow,
    /// A Slack message in Block Kit, for an incoming webhook.
    Slack,
    /// A Microsoft Teams message with an Adaptive Card, for a workflow's webhook.
    Teams,
    /// A text to a topic of SNS, which sends it on as e-mail.
    Email,
}

impl Format {
    /// Whether a person reads it.
    pub const fn is_for_people(self) -> bool {
        matches!(self, Self::Slack | Self::Teams | Self::Email)
    }
}

/// Whether a subscription is sent to at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionStatus {
    /// It gets its deliveries.
    #[default]
    Active,
    /// It gets none; events that happen meanwhile are not kept for it.
    Disabled,
}

/// A former secret, which still signs beside the newer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerSecret {
    /// The secret, sealed.
    pub secret: String,
    /// Until when it signs.
    pub until: Timestamp,
}

/// An endpoint that failed too often in a row is left alone for a while.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circuit {
    /// Attempts that failed since the last success.
    #[serde(default)]
    pub failures: u32,
    /// How many pauses there were since the last success; each is longer than the one before.
    #[serde(default)]
    pub pauses: u32,
    /// Until when nothing is sent; the first delivery after it is the probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<Timestamp>,
    /// Since when it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
}

/// Failures in a row after which an endpoint is paused.
pub const FAILURES_TO_PAUSE: u32 = 10;
/// The first pause, in milliseconds; each further one is twice as long.
pub const FIRST_PAUSE_MILLIS: u64 = 5 * 60_000;
/// The longest pause, in milliseconds.
pub const LONGEST_PAUSE_MILLIS: u64 = 3_600_000;

/// What an attempt did to a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CircuitChange {
    /// Nothing that anybody must hear of.
    None,
    /// It was closed, and is open: the endpoint is paused.
    Paused,
    /// It was open, and is closed: the endpoint answers again.
    Resumed,
}

impl Circuit {
    /// Whether nothing may be sent at a time.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// The circuit after an attempt, and what that changed.
    #[must_use]
    pub fn after(&self, is_success: bool, now: Timestamp) -> (Self, CircuitChange) {
        if is_success {
            let change = if self.paused_until.is_some() {
                CircuitChange::Resumed
            } else {
                CircuitChange::None
            };
            return (Self::default(), change);
        }
        let mut after = self.clone();
        after.failures = self.failures.saturating_add(1);
        after.failing_since = self.failing_since.or(Some(now));
        // While a pause lasts, late failures of what was on its way already do not lengthen it.
        if after.failures < FAILURES_TO_PAUSE || self.is_open(now) {
            return (after, CircuitChange::None);
        }
        let wait = (FIRST_PAUSE_MILLIS << self.pauses.min(8)).min(LONGEST_PAUSE_MILLIS);
        after.pauses = self.pauses.saturating_add(1);
        after.paused_until = Some(now.plus_millis(wait));
        let change = if self.paused_until.is_none() {
            CircuitChange::Paused
        } else {
            CircuitChange::None
        };
        (after, change)
    }
}

/// An interest in events, and where to send them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its id, a ULID.
    pub id: String,
    /// The tenant.
    pub tenant: TenantName,
    /// A name for people; MLflow's webhooks have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where to POST, or the ARN of the topic for e-mail.
    pub url: String,
    /// What a delivery looks like.
    #[serde(default)]
    pub format: Format,
    /// Which events, and about what.
    #[serde(flatten)]
    pub filter: Filter,
    /// The signing secret, sealed; absent if deliveries are not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The secret before, while it still signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_secret: Option<FormerSecret>,
    /// How the message for people reads, if not as usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Events of this many minutes are one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_minutes: Option<u32>,
    /// Whether it is sent to.
    #[serde(default)]
    pub status: SubscriptionStatus,
    /// Whether the endpoint answers.
    #[serde(default)]
    pub circuit: Circuit,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Who created it.
    pub created_by: Principal,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was changed last by a person.
    #[serde(default)]
    pub updated_at: Option<Timestamp>,
    /// Optimistic-lock counter of what people write about it.
    #[serde(default)]
    pub revision: u64,
}

/// Which events a subscription wants; what is empty does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Which types.
    #[serde(default)]
    pub event_types: Vec<EventType>,
    /// Which of MLflow's events, such as `model_version.created`; only in MLflow's format.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mlflow_events: Vec<String>,
    /// Which registered model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// Which registered models, with `*` for any characters and `?` for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_pattern: Option<String>,
    /// Which stages a version comes from or goes to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageName>,
    /// Which aliases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<AliasName>,
    /// Which tags the registered model, or the version, must carry: all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

impl Filter {
    /// Whether an event passes by all that the event itself says; tags are asked for apart.
    pub fn wants(&self, event: &Event) -> bool {
        (self.event_types.is_empty() || self.event_types.contains(&event.kind))
            && self.wants_name(event.model.as_ref())
            && self.wants_model(event.model.as_ref())
            && self.wants_target(event)
    }

    /// A subscription names a model by its name, wherever that lies.
    fn wants_name(&self, model: Option<&ModelName>) -> bool {
        self.model
            .as_ref()
            .is_none_or(|wanted| model.is_some_and(|model| model.as_str() == wanted.as_str()))
    }

    fn wants_model(&self, model: Option<&ModelName>) -> bool {
        match (&self.model_pattern, model) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(pattern), Some(model)) => matches_pattern(pattern, model.as_str()),
        }
    }

    /// Stages and aliases restrict together: an event passes if either names what it is about.
    fn wants_target(&self, event: &Event) -> bool {
        if self.stages.is_empty() && self.aliases.is_empty() {
            return true;
        }
        let has_alias = event
            .alias
            .as_ref()
            .is_some_and(|alias| self.aliases.contains(alias));
        let has_stage = ["from", "to", "stage"].iter().any(|side| {
            event
                .data
                .get(*side)
                .and_then(|value| value.as_str())
                .is_some_and(|name| {
                    self.stages
                        .iter()
                        .any(|stage| stage.as_str().eq_ignore_ascii_case(name))
                })
        });
        has_alias || has_stage
    }

    /// Whether the tags of a model and of a version satisfy the filter.
    pub fn wants_tags(&self, tags: &[&BTreeMap<String, String>]) -> bool {
        self.tags
            .iter()
            .all(|(key, value)| tags.iter().any(|carried| carried.get(key) == Some(value)))
    }
}

/// Whether a name is as a pattern says: `*` stands for any characters, `?` for one.
///
/// ```
/// use shared::domain::subscription::matches_pattern;
/// assert!(matches_pattern("fraud-*", "fraud-eu"));
/// assert!(!matches_pattern("fraud-?", "fraud-eu"));
/// ```
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    // Where the last `*` was, and how much of the name it has swallowed: linear but for the stars.
    let (mut at, mut seen, mut star) = (0, 0, None);
    while seen < name.len() {
        if at < pattern.len() && pattern[at] == '*' {
            star = Some((at, seen));
            at += 1;
        } else if at < pattern.len() && (pattern[at] == '?' || pattern[at] == name[seen]) {
            at += 1;
            seen += 1;
        } else if let Some((star_at, swallowed)) = star {
            star = Some((star_at, swallowed + 1));
            at = star_at + 1;
            seen = swallowed + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|character| *character == '*')
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// Waits for its first or next attempt.
    Pending,
    /// The receiver answered 2xx.
    Delivered,
    /// Every attempt failed: a dead letter, which can be sent again.
    Exhausted,
}

impl DeliveryStatus {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Exhausted => "exhausted",
        }
    }
}

/// One send, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The HTTP status of the answer, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there was none, or that it was not 2xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The first bytes of the answer, as text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answer_start: String,
}

/// One event for one subscription.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The event's id; sent as `webhook-id`.
    pub event_id: String,
    /// The subscription's id.
    pub subscription_id: String,
    /// How far it is.
    pub status: DeliveryStatus,
    /// When the next attempt is due.
    pub due_at: Timestamp,
    /// Where it waits: its lane, and its place in it; empty for a test, which waits nowhere.
    #[serde(default)]
    pub place: String,
    /// How often it was written; a write holds it against the truth.
    #[serde(default)]
    pub revision: u64,
    /// Attempts in this round; a replay begins another.
    #[serde(default)]
    pub round: u32,
    /// How often somebody asked for it to be sent again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replays: u32,
    /// The request that asked for the last replay; it asks once, however often it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<String>,
    /// The last attempts, of all rounds; what was tried again at once is there as well.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
}

/// Most attempts that the log of a delivery keeps.
pub const LOGGED_ATTEMPTS: usize = 40;

impl Delivery {
    /// Counts an attempt and adds its tries to the log, which forgets the oldest.
    pub fn log(&mut self, tries: impl IntoIterator<Item = Attempt>) {
        self.attempts.extend(tries);
        let surplus = self.attempts.len().saturating_sub(LOGGED_ATTEMPTS);
        self.attempts.drain(..surplus);
        self.round = self.round.saturating_add(1);
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// How long to wait after attempt `count` (counted from 1) failed, in milliseconds: 1 minute, doubling, at most 4 hours.
///
/// [`MAX_ATTEMPTS`] attempts span a little more than a day.
pub fn retry_delay_ms(count: u32) -> u64 {
    let minute = 60_000_u64;
    (minute << count.saturating_sub(1).min(8)).min(4 * 60 * minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_span_more_than_a_day() {
        let total: u64 = (1..MAX_ATTEMPTS).map(retry_delay_ms).sum();
        assert!(total >= 24 * 60 * 60_000, "{total} ms");
        assert_eq!(retry_delay_ms(1), 60_000);
        assert_eq!(retry_delay_ms(30), 4 * 60 * 60_000);
    }

    #[test]
    fn patterns_match_whole_names() {
        let check = |pattern: &str, name: &str, expected: bool| {
            assert_eq!(
                matches_pattern(pattern, name),
                expected,
                "{pattern} and {name}"
            );
        };
        check("iris", "iris", true);
        check("iris", "iris2", false);
        check("*", "", true);
        check("*", "anything", true);
        check("fraud-*", "fraud-", true);
        check("*-eu", "fraud-eu-eu", true);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "a-b-b-", false);
        check("?", "検", true);
        check("??", "検", false);
        // A pattern that would take a backtracking matcher for ever.
        check(&"*a".repeat(40), &"a".repeat(39), false);
    }

    #[test]
    fn a_circuit_opens_after_failures_in_a_row_and_closes_after_a_success() {
        let mut now = Timestamp::from_millis(1_000);
        let mut circuit = Circuit::default();
        for number in 1..FAILURES_TO_PAUSE {
            let (after, change) = circuit.after(false, now);
            assert_eq!(change, CircuitChange::None, "failure {number}");
            circuit = after;
        }
        let (paused, change) = circuit.after(false, now);
        assert_eq!(change, CircuitChange::Paused);
        assert!(paused.is_open(now));
        let (late, change) = paused.after(false, now);
        assert_eq!(
            (late.paused_until, change),
            (paused.paused_until, CircuitChange::None)
        );
        // The probe fails: the pause is twice as long, and nobody is told again.
        now = now.plus_millis(FIRST_PAUSE_MILLIS);
        assert!(!paused.is_open(now));
        let (again, change) = paused.after(false, now);
        assert_eq!(change, CircuitChange::None);
        assert_eq!(
            again.paused_until,
            Some(now.plus_millis(2 * FIRST_PAUSE_MILLIS))
        );
        let (closed, change) = again.after(true, now);
        assert_eq!(
            (closed, change),
            (Circuit::default(), CircuitChange::Resumed)
        );
        assert_eq!(Circuit::default().after(true, now).1, CircuitChange::None);
    }
}
