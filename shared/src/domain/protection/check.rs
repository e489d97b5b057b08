//! What a protection must be to be set; everything but the types of its expressions.

use super::{Protection, Protections};
use crate::domain::decimal::MAX_DIGITS;
use crate::domain::freeze::minute_of;
use crate::domain::model::{MAX_REASON, check_text};
use crate::error::{Error, Result};
use std::collections::BTreeSet;

/// Most protections of a registry or a model; most conditions, checks or freezes of one protection.
pub const MAX_PARTS: usize = 50;
/// Longest expression, in bytes.
pub const MAX_EXPRESSION_BYTES: usize = 4_096;
/// Most brackets of an expression within each other; who reads it needs stack for each.
pub const MAX_EXPRESSION_DEPTH: usize = 64;

/// How deep the brackets of an expression lie within each other, those in texts and comments left out.
fn nesting(expression: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut characters = expression.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                while let Some(within) = characters.next() {
                    match within {
                        '\\' => drop(characters.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '/' if characters.peek() == Some(&'/') => {
                characters.by_ref().find(|next| *next == '\n');
            }
            '(' | '[' | '{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn check_id(field: &str, id: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if (1..=64).contains(&id.len()) && id.bytes().all(allowed) {
        Ok(())
    } else {
        Err(Error::invalid(
            field,
            format!(
                "`{}` is no id; use 1 to 64 of letters, digits, `_`, `-` and `.`",
                id.chars()
                    .take(70)
                    .flat_map(char::escape_debug)
                    .collect::<String>()
            ),
        ))
    }
}

fn check_unique<'a>(field: &str, ids: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for id in ids {
        check_id(field, id)?;
        if !seen.insert(id) {
            return Err(Error::invalid(
                field,
                format!("`{id}` stands there twice; give each an id of its own"),
            ));
        }
    }
    if seen.len() > MAX_PARTS {
        return Err(Error::invalid(
            field,
            format!("there are {} of them; use at most {MAX_PARTS}", seen.len()),
        ));
    }
    Ok(())
}

impl Protections {
    /// Checks everything but the expressions.
    pub fn check(&self) -> Result<()> {
        check_unique(
            "protections",
            self.protections.iter().map(|one| one.id.as_str()),
        )?;
        self.protections.iter().try_for_each(Protection::check)
    }
}

impl Protection {
    fn check(&self) -> Result<()> {
        let id = &self.id;
        if self.aliases.is_empty() && self.stages.is_empty() {
            return Err(Error::invalid(
                "protections",
                format!("protection `{id}` guards nothing; name `aliases` or `stages`"),
            ));
        }
        if let Some(blank) = self
            .aliases
            .iter()
            .chain(&self.stages)
            .find(|pattern| pattern.trim().is_empty() || pattern.chars().count() > 255)
        {
            return Err(Error::invalid(
                "protections",
                format!(
                    "protection `{id}` has a pattern of {} characters; use 1 to 255",
                    blank.chars().count()
                ),
            ));
        }
        let conditions = self.all_conditions();
        check_unique("conditions", conditions.iter().map(|one| one.id.as_str()))?;
        for condition in &conditions {
            check_text("description", condition.description.as_deref(), MAX_REASON)?;
            check_text("satisfied_by", Some(&condition.satisfied_by), MAX_REASON)?;
            if condition.satisfied_by.trim().is_empty() {
                return Err(Error::invalid(
                    "satisfied_by",
                    format!(
                        "condition `{}` does not say what would satisfy it; say it, for it is shown to who was denied",
                        condition.id
                    ),
                ));
            }
            if condition.when.len() > MAX_EXPRESSION_BYTES {
                return Err(Error::invalid(
                    "when",
                    format!(
                        "the expression of condition `{}` has {} bytes; use at most {MAX_EXPRESSION_BYTES}",
                        condition.id,
                        condition.when.len()
                    ),
                ));
            }
            let depth = nesting(&condition.when);
            if depth > MAX_EXPRESSION_DEPTH {
                return Err(Error::invalid(
                    "when",
                    format!(
                        "the expression of condition `{}` has brackets {depth} deep; use at most {MAX_EXPRESSION_DEPTH} within each other, and several conditions for the rest",
                        condition.id
                    ),
                ));
            }
        }
        check_unique("freezes", self.freezes.iter().map(|one| one.id.as_str()))?;
        for freeze in &self.freezes {
            if let Some(hours) = &freeze.hours
                && (minute_of(&hours.from).is_none() || minute_of(&hours.until).is_none())
            {
                return Err(Error::invalid(
                    "hours",
                    format!("the hours of freeze `{}` are not like `08:30`", freeze.id),
                ));
            }
            if freeze.until.is_some() && freeze.until <= freeze.from {
                return Err(Error::invalid(
                    "until",
                    format!("freeze `{}` ends before it begins", freeze.id),
                ));
            }
            check_text("reason", freeze.reason.as_deref(), MAX_REASON)?;
        }
        check_unique("checks", self.checks.iter().map(|one| one.name.as_str()))?;
        if let Some(check) = self
            .checks
            .iter()
            .find(|check| !(1..=10_080).contains(&check.timeout_minutes))
        {
            return Err(Error::invalid(
                "timeout_minutes",
                format!("check `{}` may take 1 to 10080 minutes", check.name),
            ));
        }
        if let Some(rule) = &self.approval
            && (!(1..=20).contains(&rule.needed)
                || !(1..=2_160).contains(&rule.expires_after_hours))
        {
            return Err(Error::invalid(
                "approval",
                format!("protection `{id}` may need 1 to 20 approvals within 1 to 2160 hours"),
            ));
        }
        if let Some((name, _)) = self
            .metrics
            .iter()
            .find(|(name, scale)| scale.digits > MAX_DIGITS || name.is_empty() || name.len() > 250)
        {
            return Err(Error::invalid(
                "metrics",
                format!(
                    "metric `{name}` may have 0 to {MAX_DIGITS} digits and a name of 1 to 250 bytes"
                ),
            ));
        }
        if self.metrics.len() > MAX_PARTS {
            return Err(Error::invalid(
                "metrics",
                format!(
                    "there are {} metrics; use at most {MAX_PARTS}",
                    self.metrics.len()
                ),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn protections_are_checked_when_they_are_set() {
        let check = |one: Value, expected: &str| {
            let document = json!({"protections": [one.clone()]});
            let answer = serde_json::from_value::<Protections>(document)
                .map_err(|error| Error::invalid("body", error.to_string()))
                .and_then(|parsed| parsed.check());
            match answer {
                Ok(()) => assert_eq!(expected, "", "{one}"),
                Err(error) => assert!(
                    !expected.is_empty() && error.message.contains(expected),
                    "{one}: {}",
                    error.message
                ),
            }
        };
        check(json!({"id": "p", "aliases": ["champion"]}), "");
        check(json!({"id": "p"}), "guards nothing");
        check(json!({"id": "p q", "aliases": ["x"]}), "is no id");
        check(json!({"id": "p", "aliases": [" "]}), "pattern");
        check(
            json!({"id": "p", "aliases": ["x"], "unknown": 1}),
            "unknown field",
        );
        check(
            json!({"id": "p", "aliases": ["x"], "conditions": [{"id": "c", "when": "true", "satisfied_by": " "}]}),
            "what would satisfy",
        );
        check(
            json!({"id": "p", "aliases": ["x"], "conditions": [
                {"id": "c", "when": "true", "satisfied_by": "x"}, {"id": "c", "when": "true", "satisfied_by": "x"}]}),
            "twice",
        );
        check(
            json!({"id": "p", "aliases": ["x"], "freezes": [{"id": "f", "hours": {"from": "8", "until": "9"}}]}),
            "08:30",
        );
        check(
            json!({"id": "p", "aliases": ["x"], "freezes": [
                {"id": "f", "from": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}]}),
            "ends before",
        );
        check(
            json!({"id": "p", "aliases": ["x"], "approval": {"needed": 0}}),
            "1 to 20",
        );
        check(
            json!({"id": "p", "aliases": ["x"], "checks": [{"name": "c", "timeout_minutes": 0}]}),
            "10080",
        );
        check(
            json!({"id": "p", "aliases": ["x"], "metrics": {"a": {"digits": 16}}}),
            "digits",
        );
        let nested = |depth| {
            let when = format!("{}true{}", "(".repeat(depth), ")".repeat(depth));
            json!({"id": "p", "aliases": ["x"], "conditions": [{"id": "c", "when": when, "satisfied_by": "x"}]})
        };
        check(nested(MAX_EXPRESSION_DEPTH), "");
        check(nested(MAX_EXPRESSION_DEPTH + 1), "65 deep");
        check(nested(2_000), "2000 deep");
    }

    #[test]
    fn brackets_in_texts_and_comments_nest_nothing() {
        assert_eq!(nesting(r#"context.tags.contains("((\"((") // ((("#), 1);
        assert_eq!(nesting("[1, [2]] == ({})\n// )\n && (((true)))"), 3);
        assert_eq!(nesting(")))((\"\\"), 2);
    }
}
