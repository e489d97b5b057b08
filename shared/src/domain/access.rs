//! Who may do what: actions, patterns of model names, and the scope that joins them.

use crate::domain::{ModelName, Principal, TenantName};
use crate::error::{Error, ErrorCode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Most groups of one caller.
pub const MAX_GROUPS: usize = 100;
/// Longest name of a group, in characters.
pub const MAX_GROUP_LENGTH: usize = 256;

/// What a request does, as far as permission is concerned; nothing follows from another action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Reads, lists, searches and downloads.
    Read,
    /// Registers, uploads, describes, tags, deletes and restores; logs runs.
    Write,
    /// Moves aliases and stages.
    Promote,
    /// Approves and rejects versions.
    Approve,
    /// Manages tokens, subscriptions and policies.
    Admin,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::Promote,
        Self::Approve,
        Self::Admin,
    ];

    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Promote => "promote",
            Self::Approve => "approve",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A pattern of model names: `*` stands for any characters, everything else for itself.
///
/// ```
/// use shared::domain::{ModelName, access::ModelPattern};
/// let pattern = ModelPattern::parse("vision-*").unwrap();
/// assert!(pattern.matches("vision-cats"));
/// assert!(!pattern.matches("my-vision-cats"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelPattern(String);

impl ModelPattern {
    /// Parses a pattern of 1 to 256 characters that some model name can match.
    pub fn parse(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        // With every `*` taken for a letter a pattern must be a name, or it could match none.
        match ModelName::parse(text.replace('*', "x")) {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(Error::invalid(
                "models",
                format!(
                    "the pattern `{}` matches no model name: {}; write a name, with `*` for any characters",
                    text.chars()
                        .take(60)
                        .flat_map(char::escape_debug)
                        .collect::<String>(),
                    error.message
                ),
            )),
        }
    }

    /// Whether it matches every name.
    pub fn is_every(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    /// Whether it matches this name.
    pub fn matches(&self, name: &str) -> bool {
        is_match(&self.0, name)
    }

    /// Whether every name that the other one matches is matched by this one, as far as can be told from the texts.
    fn covers(&self, other: &Self) -> bool {
        self == other
            || self.is_every()
            || (!other.0.contains('*') && self.matches(&other.0))
            || self
                .0
                .strip_suffix('*')
                .is_some_and(|prefix| !prefix.contains('*') && other.0.starts_with(prefix))
    }
}

/// Whether a pattern, in which `*` stands for any characters, matches a whole text.
pub fn is_match(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    true
}

impl TryFrom<String> for ModelPattern {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl From<ModelPattern> for String {
    fn from(pattern: ModelPattern) -> Self {
        pattern.0
    }
}

/// What a token may do, and with which models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// The actions.
    pub actions: BTreeSet<Action>,
    /// The models.
    pub models: BTreeSet<ModelPattern>,
}

impl Scope {
    /// Everything.
    pub fn everything() -> Self {
        Self {
            actions: Action::ALL.into(),
            models: [ModelPattern("*".into())].into(),
        }
    }

    /// Whether an action is among its actions.
    pub fn allows(&self, action: Action) -> bool {
        self.actions.contains(&action)
    }

    /// Whether it reaches a model of this name.
    pub fn reaches(&self, model: &str) -> bool {
        self.models.iter().any(|pattern| pattern.matches(model))
    }

    /// Whether it reaches every model.
    pub fn reaches_every_model(&self) -> bool {
        self.models.iter().any(ModelPattern::is_every)
    }

    /// Whether the other one allows nothing that this one does not.
    pub fn covers(&self, other: &Self) -> bool {
        self.actions.is_superset(&other.actions)
            && other
                .models
                .iter()
                .all(|wanted| self.models.iter().any(|pattern| pattern.covers(wanted)))
    }
}

/// Who calls, as the gateway or the host has found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Who it is.
    pub principal: Principal,
    /// The groups that the caller belongs to.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The one tenant that the caller may reach; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// What the caller may do; without a scope the gateway's own rules are the only ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

/// Checks groups, drops empty ones and repetitions, and sorts them.
pub fn check_groups(groups: impl IntoIterator<Item = String>) -> Result<Vec<String>, Error> {
    let groups: BTreeSet<String> = groups
        .into_iter()
        .map(|group| group.trim().to_owned())
        .filter(|group| !group.is_empty())
        .collect();
    let is_strange = |group: &String| {
        group.chars().count() > MAX_GROUP_LENGTH || group.chars().any(char::is_control)
    };
    if groups.len() > MAX_GROUPS || groups.iter().any(is_strange) {
        return Err(Error::invalid(
            "groups",
            format!(
                "there may be {MAX_GROUPS} groups of 1 to {MAX_GROUP_LENGTH} visible characters; correct them"
            ),
        ));
    }
    Ok(groups.into_iter().collect())
}

/// The refusal of what a scope does not allow; it is the same whether the thing exists or not.
pub fn denied(action: Action) -> Error {
    Error::new(
        ErrorCode::PermissionDenied,
        format!("your token does not allow to `{action}` here; use one whose scope does"),
    )
    .with("action", action.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(actions: &[Action], models: &[&str]) -> Scope {
        Scope {
            actions: actions.iter().copied().collect(),
            models: models
                .iter()
                .map(|text| ModelPattern::parse(*text).unwrap())
                .collect(),
        }
    }

    #[test]
    fn a_pattern_matches_whole_names() {
        for (pattern, name, expected) in [
            ("iris", "iris", true),
            ("iris", "iris2", false),
            ("iris*", "iris", true),
            ("iris*", "iris2", true),
            ("*iris", "my-iris", true),
            ("*iris", "iris-2", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "a-c-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("**", "anything", true),
            ("検*", "検査", true),
            ("*検*", "x検", true),
        ] {
            let matched = ModelPattern::parse(pattern).unwrap().matches(name);
            assert_eq!(matched, expected, "{pattern} {name}");
        }
        for bad in ["", "a/b", "a:*", " ", "..", "a\u{0}"] {
            assert!(ModelPattern::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_scope_covers_what_is_narrower() {
        use Action::{Admin, Read, Write};
        let all = Scope::everything();
        let vision = scope(&[Read, Admin], &["vision-*"]);
        for (wide, narrow, expected) in [
            (&all, &vision, true),
            (&vision, &all, false),
            (&vision, &scope(&[Read], &["vision-cats"]), true),
            (&vision, &scope(&[Read], &["vision-c*"]), true),
            (&vision, &scope(&[Write], &["vision-cats"]), false),
            (&vision, &scope(&[Read], &["vision-cats", "audio"]), false),
            (&vision, &scope(&[Read], &["vision*"]), false),
            (&scope(&[Read], &["*-b"]), &scope(&[Read], &["a-b"]), true),
            (&scope(&[Read], &["a*b"]), &scope(&[Read], &["a*"]), false),
        ] {
            assert_eq!(wide.covers(narrow), expected, "{wide:?} {narrow:?}");
        }
    }

    #[test]
    fn groups_are_sorted_and_checked() {
        let groups = ["b ", "a", "", "a"].map(str::to_owned);
        assert_eq!(check_groups(groups).unwrap(), ["a", "b"]);
        assert!(check_groups(["a\nb".to_owned()]).is_err());
        assert!(check_groups((0..101).map(|number| number.to_string())).is_err());
    }
}
