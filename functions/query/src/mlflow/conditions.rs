//! Conditions of a search of models or versions: which attributes there are, and whether a row is as they ask.

use shared::domain::model::Notes;
use shared::mlflow::filter::{self, Comparator, Condition, Literal};
use shared::mlflow::invalid;
use shared::{Result, mlflow::filter::Identifier};
use std::collections::BTreeSet;

/// The tag by which MLflow tells prompts from models.
const IS_PROMPT: &str = "mlflow.prompt.is_prompt";

/// A filter, checked.
#[derive(Debug)]
pub(super) struct Conditions {
    attributes: Vec<Condition>,
    tags: Vec<Condition>,
    /// Whether prompts are asked for, and nothing else.
    pub(super) wants_prompts: bool,
}

/// What may be compared, by which comparators.
pub(super) struct Attributes {
    /// Texts that may be compared with `=`, `!=`, `LIKE`, `ILIKE`.
    pub(super) texts: &'static [&'static str],
    /// Those of them that may be compared with `IN` and `NOT IN`.
    pub(super) listed: &'static [&'static str],
    /// Whole numbers.
    pub(super) numbers: &'static [&'static str],
}

const TEXT_COMPARATORS: [Comparator; 4] = [
    Comparator::Equal,
    Comparator::NotEqual,
    Comparator::Like,
    Comparator::Ilike,
];
const NUMBER_COMPARATORS: [Comparator; 6] = [
    Comparator::Equal,
    Comparator::NotEqual,
    Comparator::Less,
    Comparator::LessOrEqual,
    Comparator::Greater,
    Comparator::GreaterOrEqual,
];

fn is_tag(identifier: &Identifier) -> Result<bool> {
    match identifier.entity.as_deref() {
        None | Some("attribute") => Ok(false),
        Some("tag" | "tags") => Ok(true),
        Some(other) => Err(invalid(format!(
            "Invalid entity type '{other}'. Valid entity types are ('attribute', 'tag', 'tags')"
        ))),
    }
}

impl Conditions {
    /// Reads and checks a filter.
    pub(super) fn parse(text: &str, known: &Attributes) -> Result<Self> {
        let mut conditions = Self {
            attributes: Vec::new(),
            tags: Vec::new(),
            wants_prompts: false,
        };
        let mut says_prompts = None;
        for condition in filter::parse(text)? {
            if is_tag(&condition.identifier)? {
                check_tag(&condition)?;
                if condition.identifier.key == IS_PROMPT {
                    let wants = wants_prompts(&condition);
                    // The first condition on prompts decides, as in MLflow's server.
                    says_prompts.get_or_insert(wants);
                }
                conditions.tags.push(condition);
            } else {
                check_attribute(&condition, known)?;
                conditions.attributes.push(condition);
            }
        }
        conditions.wants_prompts = says_prompts.unwrap_or(false);
        if !conditions.wants_prompts {
            // Prompts are hidden then, and what is no prompt has no such tag to compare.
            conditions
                .tags
                .retain(|condition| condition.identifier.key != IS_PROMPT);
        }
        Ok(conditions)
    }

    /// Whether notes must be read to tell.
    pub(super) fn has_tags(&self) -> bool {
        !self.tags.is_empty()
    }

    /// Whether attributes are as asked; `value` answers the text of an attribute.
    pub(super) fn hold_for_attributes(&self, value: impl Fn(&str) -> String) -> bool {
        self.attributes.iter().all(|condition| {
            let text = value(&condition.identifier.key);
            match (&condition.value, text.parse::<i128>()) {
                (Literal::Number(wanted), Ok(number)) => wanted
                    .parse::<i128>()
                    .is_ok_and(|wanted| condition.comparator.holds(Some(number.cmp(&wanted)))),
                _ => condition.holds_for(&text),
            }
        })
    }

    /// Whether tags are as asked: a condition holds only for what has the tag.
    pub(super) fn hold_for_tags(&self, notes: &Notes) -> bool {
        self.tags.iter().all(|condition| {
            notes
                .tags
                .get(&condition.identifier.key)
                .is_some_and(|value| condition.holds_for(value))
        })
    }

    /// The only values that a text attribute can have, if the filter says so.
    pub(super) fn only(&self, key: &str) -> Option<BTreeSet<String>> {
        let mut only: Option<BTreeSet<String>> = None;
        for condition in self.of(key) {
            let named: BTreeSet<String> = match (condition.comparator, &condition.value) {
                (Comparator::Equal, Literal::Text(text)) => BTreeSet::from([text.clone()]),
                (Comparator::In, Literal::List(texts)) => texts.iter().cloned().collect(),
                _ => continue,
            };
            only = Some(match only {
                Some(before) => before.intersection(&named).cloned().collect(),
                None => named,
            });
        }
        only
    }

    /// Whether nothing is asked, but that prompts are hidden.
    pub(super) fn are_none(&self) -> bool {
        self.attributes.is_empty() && self.tags.is_empty() && !self.wants_prompts
    }

    /// What every value of a text attribute begins with.
    pub(super) fn prefix(&self, key: &str) -> String {
        self.of(key)
            .filter(|condition| condition.comparator == Comparator::Like)
            .filter_map(|condition| match &condition.value {
                Literal::Text(pattern) => pattern.split(['%', '_']).next(),
                _ => None,
            })
            .max_by_key(|prefix| prefix.len())
            .unwrap_or_default()
            .to_owned()
    }

    fn of<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Condition> {
        self.attributes
            .iter()
            .filter(move |condition| condition.identifier.key == key)
    }
}

fn wants_prompts(condition: &Condition) -> bool {
    let Literal::Text(value) = &condition.value else {
        return false;
    };
    match condition.comparator {
        Comparator::Equal => value.eq_ignore_ascii_case("true"),
        Comparator::NotEqual => value.eq_ignore_ascii_case("false"),
        _ => false,
    }
}

/// Whether tags make a prompt.
pub(super) fn is_prompt(notes: &Notes) -> bool {
    notes
        .tags
        .get(IS_PROMPT)
        .is_some_and(|value| value == "true")
}

fn check_tag(condition: &Condition) -> Result<()> {
    if !TEXT_COMPARATORS.contains(&condition.comparator) {
        return Err(invalid(format!(
            "Invalid comparator for tag: {}",
            condition.comparator
        )));
    }
    match &condition.value {
        Literal::Text(_) => Ok(()),
        other => Err(invalid(format!(
            "Expected a quoted string value for tag (e.g. 'my-value'). Got value {other}"
        ))),
    }
}

fn check_attribute(condition: &Condition, known: &Attributes) -> Result<()> {
    let key = condition.identifier.key.as_str();
    let comparator = condition.comparator;
    if known.numbers.contains(&key) {
        if !NUMBER_COMPARATORS.contains(&comparator) {
            return Err(invalid(format!(
                "Invalid comparator for attribute {key}: {comparator}"
            )));
        }
        let text = match &condition.value {
            Literal::Text(text) | Literal::Number(text) => text.as_str(),
            Literal::List(_) | Literal::Nothing => "",
        };
        if text.trim().parse::<i128>().is_err() {
            return Err(invalid(format!(
                "Invalid value for numeric attribute '{key}': '{text}'"
            )));
        }
        return Ok(());
    }
    if !known.texts.contains(&key) {
        let mut keys = [known.texts, known.numbers].concat();
        keys.sort_unstable();
        return Err(invalid(format!(
            "Invalid attribute key '{key}' specified. Valid keys are '{{{}}}'",
            keys.join(", ")
        )));
    }
    let is_list = matches!(comparator, Comparator::In | Comparator::NotIn);
    if !(TEXT_COMPARATORS.contains(&comparator) || is_list && known.listed.contains(&key)) {
        return Err(invalid(format!(
            "Invalid comparator for attribute: {comparator}"
        )));
    }
    match &condition.value {
        Literal::Text(_) | Literal::List(_) => Ok(()),
        other => Err(invalid(format!(
            "Expected a quoted string value or a list of quoted string values for attributes. Got value {other}"
        ))),
    }
}
