//! Freezes: times in which nothing that a protection guards moves.

use crate::domain::Timestamp;
use serde::{Deserialize, Serialize};

/// A time in which nothing moves: everything that is given must be true of the moment, in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freeze {
    /// Its name within its protection.
    pub id: String,
    /// When it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// On which days of the week.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weekdays: Vec<Weekday>,
    /// In which hours of the day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

const WEEK: [Weekday; 7] = [
    Weekday::Mon,
    Weekday::Tue,
    Weekday::Wed,
    Weekday::Thu,
    Weekday::Fri,
    Weekday::Sat,
    Weekday::Sun,
];

impl Weekday {
    /// The day of a point in time, in UTC.
    pub fn of(time: Timestamp) -> Self {
        // The first of January 1970 was a Thursday.
        let days = time.millis() / 86_400_000 + 3;
        WEEK[usize::try_from(days % 7).unwrap_or(0)]
    }

    /// 1 for Monday to 7 for Sunday.
    pub fn number(self) -> i64 {
        self as i64 + 1
    }
}

/// Hours of the day, from the first to before the second; over midnight if the second is not later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hours {
    /// `HH:MM`.
    pub from: String,
    /// `HH:MM`.
    pub until: String,
}

pub(super) fn minute_of(text: &str) -> Option<u64> {
    let (hour, minute) = text.split_once(':')?;
    if hour.len() != 2 || minute.len() != 2 {
        return None;
    }
    let (hour, minute) = (hour.parse::<u64>().ok()?, minute.parse::<u64>().ok()?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

/// The minute of the day, in UTC.
pub fn minute_of_day(time: Timestamp) -> u64 {
    time.millis() / 60_000 % 1_440
}

impl Freeze {
    /// Whether nothing moves at a moment.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        let in_hours = self.hours.as_ref().is_none_or(|hours| {
            let minute = minute_of_day(now);
            match (minute_of(&hours.from), minute_of(&hours.until)) {
                (Some(from), Some(until)) if from < until => (from..until).contains(&minute),
                (Some(from), Some(until)) => minute >= from || minute < until,
                _ => true,
            }
        });
        self.from.is_none_or(|from| now >= from)
            && self.until.is_none_or(|until| now < until)
            && (self.weekdays.is_empty() || self.weekdays.contains(&Weekday::of(now)))
            && in_hours
    }

    /// What somebody can do who was denied.
    pub fn satisfied_by(&self) -> String {
        match (&self.until, &self.hours, self.weekdays.is_empty()) {
            (Some(until), None, true) => format!("wait until {until}"),
            (_, Some(hours), _) => format!(
                "promote outside of {} to {} UTC{}",
                hours.from,
                hours.until,
                if self.weekdays.is_empty() {
                    ""
                } else {
                    " or on another day"
                }
            ),
            (_, None, false) => "promote on another day (UTC)".into(),
            (None, None, true) => "wait until the freeze is lifted".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_freeze_is_in_force_when_all_that_it_says_is_true() {
        let at = |text: &str| serde_json::from_value::<Timestamp>(json!(text)).unwrap();
        for (freeze, now, expected) in [
            (
                json!({"from": "2026-12-20T00:00:00Z", "until": "2027-01-03T00:00:00Z"}),
                "2026-12-24T12:00:00Z",
                true,
            ),
            (
                json!({"from": "2026-12-20T00:00:00Z", "until": "2027-01-03T00:00:00Z"}),
                "2027-01-03T00:00:00Z",
                false,
            ),
            (
                json!({"weekdays": ["fri", "sat", "sun"]}),
                "2026-11-21T10:00:00Z",
                true,
            ),
            (
                json!({"weekdays": ["fri", "sat", "sun"]}),
                "2026-11-23T10:00:00Z",
                false,
            ),
            (
                json!({"hours": {"from": "18:00", "until": "08:00"}}),
                "2026-11-23T07:59:59Z",
                true,
            ),
            (
                json!({"hours": {"from": "18:00", "until": "08:00"}}),
                "2026-11-23T08:00:00Z",
                false,
            ),
            (
                json!({"hours": {"from": "12:00", "until": "13:30"}}),
                "2026-11-23T13:29:00Z",
                true,
            ),
            (
                json!({"hours": {"from": "12:00", "until": "13:30"}, "weekdays": ["tue"]}),
                "2026-11-23T13:00:00Z",
                false,
            ),
            (json!({}), "2026-11-23T13:00:00Z", true),
        ] {
            let mut document = freeze.clone();
            document["id"] = json!("f");
            let parsed: Freeze = serde_json::from_value(document).unwrap();
            assert_eq!(parsed.is_in_force(at(now)), expected, "{freeze} at {now}");
            assert!(!parsed.satisfied_by().is_empty());
        }
    }
}
