//! The policy of a registry: what it accepts, asks for and allows beyond what this crate decides by itself.
//!
//! A policy can make validation stricter wherever it likes, and milder in one way only: by names that pickles may
//! import, of which those that can never be harmless are refused.

use crate::completeness::Requirements;
use crate::environment::Advisories;
use crate::inspect::Limits;
use crate::pickle::{AllowList, AllowListError};
use crate::report::Verdict;
use crate::rules;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most lines of an allow-list.
pub const MAX_LINES: usize = 10_000;
/// Longest line of an allow-list, in bytes.
pub const MAX_LINE_BYTES: usize = 2_000;
/// Largest allow-list, in bytes.
pub const MAX_LIST_BYTES: usize = 1024 * 1024;

/// What a registry decides about validation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Names that pickles may import besides those of the built-in list, each line `<use> <module> <name>…`.
    pub allow_list: Vec<String>,
    /// What every version must bring along.
    pub required: BTreeSet<Part>,
    /// Verdicts with which a version becomes `READY`; `clean` is always one of them.
    pub accepted_verdicts: BTreeSet<Verdict>,
    /// Rules that lead to a worse verdict in this registry, by their ids.
    pub rule_verdicts: BTreeMap<String, Verdict>,
}

/// What a version can be required to bring along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// What the model takes and answers.
    Signature,
    /// An example of what it takes.
    InputExample,
    /// The files from which its environment is built.
    EnvironmentFiles,
    /// A licence.
    Licence,
    /// A model card.
    ModelCard,
}

/// Why a policy cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The allow-list has a line that is none, or a name that can never be allowed.
    #[error("{0}")]
    AllowList(#[from] AllowListError),
    /// The allow-list is over a bound.
    #[error("the allow-list has {found}; at most {most} are taken")]
    TooLong {
        /// How much there is of what.
        found: String,
        /// The bound.
        most: usize,
    },
    /// A version of this verdict can never become ready.
    #[error(
        "verdict `{}` can never be accepted; accept `clean`, and `contains_code` or `unsupported` if you like",
        .0.word()
    )]
    NeverAccepted(Verdict),
    /// `clean` is missing among the accepted verdicts.
    #[error(
        "`clean` is missing in `accepted_verdicts`; a registry that refuses clean models takes none"
    )]
    CleanMissing,
    /// There is no such rule.
    #[error("there is no rule `{0}`; docs/validation-rules.md lists them")]
    UnknownRule(String),
    /// The verdict of the rule cannot be set to this.
    #[error("rule `{rule}` leads to `{}`; a policy can raise rules that lead to `clean` or `contains_code`, to `contains_code`, `malformed` or `unsafe`", .own.word())]
    CannotRaise {
        /// The rule.
        rule: String,
        /// What it leads to by itself.
        own: Verdict,
    },
}

impl PolicyError {
    /// The field of the policy that is at fault.
    pub fn field(&self) -> &'static str {
        match self {
            Self::AllowList(_) | Self::TooLong { .. } => "allow_list",
            Self::NeverAccepted(_) | Self::CleanMissing => "accepted_verdicts",
            Self::UnknownRule(_) | Self::CannotRaise { .. } => "rule_verdicts",
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            allow_list: Vec::new(),
            required: BTreeSet::new(),
            accepted_verdicts: [Verdict::Clean, Verdict::ContainsCode, Verdict::Unsupported].into(),
            rule_verdicts: BTreeMap::new(),
        }
    }
}

impl Policy {
    /// Whether a version of this verdict becomes `READY`.
    pub fn accepts(&self, verdict: Verdict) -> bool {
        self.accepted_verdicts.contains(&verdict)
    }

    /// The bounds by which versions are inspected, or what is wrong with the policy.
    pub fn limits(&self, advisories: Option<Arc<Advisories>>) -> Result<Limits, PolicyError> {
        for verdict in &self.accepted_verdicts {
            if matches!(
                verdict,
                Verdict::Incomplete | Verdict::Malformed | Verdict::Unsafe
            ) {
                return Err(PolicyError::NeverAccepted(*verdict));
            }
        }
        if !self.accepts(Verdict::Clean) {
            return Err(PolicyError::CleanMissing);
        }
        let has = |part| self.required.contains(&part);
        Ok(Limits {
            allow_list: self.extended_list()?,
            advisories,
            requirements: Requirements {
                signature: has(Part::Signature),
                input_example: has(Part::InputExample),
                environment_files: has(Part::EnvironmentFiles),
                licence: has(Part::Licence),
                model_card: has(Part::ModelCard),
            },
            raised: self.raised()?,
            ..Limits::default()
        })
    }

    /// The policy without what this build refuses, and what that is.
    ///
    /// Between builds, rules go and names become known to be harmful; leaving them out makes a policy stricter.
    pub fn without_refused(&self) -> (Self, Vec<PolicyError>) {
        let mut refused = Vec::new();
        let mut takes = |policy: Self| {
            policy
                .limits(None)
                .map_err(|error| refused.push(error))
                .is_ok()
        };
        let mut kept = Self {
            required: self.required.clone(),
            ..Self::default()
        };
        for line in &self.allow_list {
            let alone = Self {
                allow_list: vec![line.clone()],
                ..Self::default()
            };
            if takes(alone) {
                kept.allow_list.push(line.clone());
            }
        }
        for (rule, verdict) in &self.rule_verdicts {
            let alone = Self {
                rule_verdicts: [(rule.clone(), *verdict)].into(),
                ..Self::default()
            };
            if takes(alone) {
                kept.rule_verdicts.insert(rule.clone(), *verdict);
            }
        }
        kept.accepted_verdicts
            .retain(|verdict| *verdict == Verdict::Clean || self.accepts(*verdict));
        (kept, refused)
    }

    fn extended_list(&self) -> Result<Option<Arc<AllowList>>, PolicyError> {
        let too_long = |count: usize, what: &str, most| PolicyError::TooLong {
            found: format!("{count} {what}"),
            most,
        };
        if self.allow_list.is_empty() {
            return Ok(None);
        }
        if self.allow_list.len() > MAX_LINES {
            return Err(too_long(self.allow_list.len(), "lines", MAX_LINES));
        }
        let longest = self.allow_list.iter().map(String::len).max().unwrap_or(0);
        if longest > MAX_LINE_BYTES {
            return Err(too_long(longest, "bytes in a line", MAX_LINE_BYTES));
        }
        let total = self.allow_list.iter().map(String::len).sum();
        if total > MAX_LIST_BYTES {
            return Err(too_long(total, "bytes", MAX_LIST_BYTES));
        }
        // Within a line of the policy there is one line of the list, so that errors count as the policy does.
        if let Some(line) = self
            .allow_list
            .iter()
            .position(|line| line.contains(['\n', '\r']))
        {
            return Err(AllowListError::Malformed {
                line: line + 1,
                text: self.allow_list[line].escape_debug().take(200).collect(),
            }
            .into());
        }
        let mut list = AllowList::built_in().clone();
        list.extend(&self.allow_list.join("\n"))?;
        Ok(Some(Arc::new(list)))
    }

    fn raised(&self) -> Result<BTreeMap<&'static str, Verdict>, PolicyError> {
        self.rule_verdicts
            .iter()
            .map(|(id, verdict)| {
                let rule = rules::find(id)
                    .ok_or_else(|| PolicyError::UnknownRule(id.chars().take(100).collect()))?;
                let can_rise = matches!(rule.verdict, Verdict::Clean | Verdict::ContainsCode);
                let is_word = matches!(
                    verdict,
                    Verdict::ContainsCode | Verdict::Malformed | Verdict::Unsafe
                );
                if can_rise && is_word && *verdict >= rule.verdict {
                    Ok((rule.id, *verdict))
                } else {
                    Err(PolicyError::CannotRaise {
                        rule: rule.id.to_owned(),
                        own: rule.verdict,
                    })
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowing(lines: &[&str]) -> Result<Limits, PolicyError> {
        let policy = Policy {
            allow_list: lines.iter().map(|line| (*line).to_owned()).collect(),
            ..Policy::default()
        };
        policy.limits(None)
    }

    #[test]
    fn names_of_ones_own_packages_can_be_allowed() {
        for line in [
            "class our_models.scoring Scorer Calibrator",
            "call our_models.scoring make_scorer",
            "data our_models.scoring relu",
            "class-dict lightning.custom Config",
            "class imblearn.pipeline Pipeline",
            "class uuid UUID",
            "class sklearn.preprocessing._data StandardScaler",
            "",
            "# a comment",
        ] {
            let allowed = allowing(&[line]);
            assert!(allowed.is_ok(), "{line}: {allowed:?}");
        }
    }

    #[test]
    fn names_that_can_never_be_harmless_are_refused_by_name() {
        for (line, name) in [
            ("call os system", "os.system"),
            ("call posix system", "posix.system"),
            ("data builtins eval", "builtins.eval"),
            ("class __builtin__ file", "__builtin__.file"),
            ("call ours.tools ok exec", "ours.tools.exec"),
            ("call importlib import_module", "importlib.import_module"),
            ("class subprocess Popen", "subprocess.Popen"),
            ("call operator attrgetter", "operator.attrgetter"),
            ("call pickle loads", "pickle.loads"),
            ("call numpy load", "numpy.load"),
            ("class numpy memmap", "numpy.memmap"),
            ("call torch load", "torch.load"),
            ("call torch.hub list", "torch.hub.list"),
            ("class __main__ Net", "__main__.Net"),
            ("class ours __reduce__", "ours.__reduce__"),
            ("call functools partial2", "functools.partial2"),
            ("check ours thing", "ours.thing"),
            ("call numpy dtype", "numpy.dtype"),
            ("class timeit Timer", "timeit.Timer"),
            ("class random _os", "random._os"),
            ("class collections namedtuple", "collections.namedtuple"),
            ("call pandas read_pickle", "pandas.read_pickle"),
        ] {
            let refused = allowing(&["class ours Fine", line]).expect_err(line);
            assert!(
                refused
                    .to_string()
                    .contains(&format!("line 2 of the allow-list names `{name}`")),
                "{refused}"
            );
        }
    }

    #[test]
    fn lines_that_are_none_are_refused_with_their_number() {
        for line in [
            "class",
            "class ours",
            "klass ours A",
            "class ours a.b",
            "class ours A\ncall os system",
            "class ours 'A'",
            "class .ours A",
            "class ours 1A",
        ] {
            let refused = allowing(&["class ours Fine", line]).expect_err(line);
            assert!(refused.to_string().contains("line 2"), "{refused}");
        }
        let long = "x".repeat(MAX_LINE_BYTES + 1);
        assert!(allowing(&[&long]).is_err());
        assert!(allowing(&vec!["class ours A"; MAX_LINES + 1]).is_err());
    }

    #[test]
    fn what_is_refused_for_good_cannot_be_accepted() {
        for verdict in [Verdict::Unsafe, Verdict::Malformed, Verdict::Incomplete] {
            let policy = Policy {
                accepted_verdicts: [Verdict::Clean, verdict].into(),
                ..Policy::default()
            };
            assert_eq!(
                policy.limits(None).expect_err("refused"),
                PolicyError::NeverAccepted(verdict)
            );
        }
        let none = Policy {
            accepted_verdicts: [Verdict::ContainsCode].into(),
            ..Policy::default()
        };
        assert_eq!(
            none.limits(None).expect_err("refused"),
            PolicyError::CleanMissing
        );
    }

    #[test]
    fn rules_can_be_raised_and_never_lowered() {
        let raise = |rule: &str, verdict| {
            let policy = Policy {
                rule_verdicts: [(rule.to_owned(), verdict)].into(),
                ..Policy::default()
            };
            policy.limits(None)
        };
        assert!(raise("environment.unpinned", Verdict::Malformed).is_ok());
        assert!(raise("environment.foreign-index", Verdict::Unsafe).is_ok());
        assert!(raise("environment.foreign-index", Verdict::Clean).is_err());
        assert!(raise("environment.unpinned", Verdict::Incomplete).is_err());
        assert!(raise("pickle.global-not-allowed", Verdict::Malformed).is_err());
        assert!(raise("no.such-rule", Verdict::Unsafe).is_err());
    }

    #[test]
    fn what_a_later_build_refuses_is_left_out_and_told() {
        let policy = Policy {
            allow_list: vec!["class ours Fine".into(), "call os system".into()],
            accepted_verdicts: [Verdict::Clean, Verdict::Unsafe].into(),
            rule_verdicts: [
                ("gone.rule".to_owned(), Verdict::Unsafe),
                ("environment.unpinned".to_owned(), Verdict::Unsafe),
            ]
            .into(),
            ..Policy::default()
        };
        let (kept, refused) = policy.without_refused();
        assert_eq!(refused.len(), 2);
        assert!(kept.limits(None).is_ok());
        assert_eq!(kept.allow_list, ["class ours Fine"]);
        assert_eq!(kept.accepted_verdicts, [Verdict::Clean].into());
        assert_eq!(kept.rule_verdicts.len(), 1);
    }

    #[test]
    fn a_policy_is_read_as_it_is_written_and_unknown_fields_are_refused() {
        let policy: Policy = serde_json::from_str(
            r#"{"required": ["signature", "model_card"], "accepted_verdicts": ["clean"],
                "rule_verdicts": {"environment.unpinned": "malformed"}}"#,
        )
        .unwrap();
        assert!(policy.limits(None).unwrap().requirements.model_card);
        assert!(!policy.accepts(Verdict::ContainsCode));
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
        assert!(serde_json::from_str::<Policy>(r#"{"allowed": []}"#).is_err());
        assert!(serde_json::from_str::<Policy>(r#"{"required": ["hat"]}"#).is_err());
    }
}
