//! The stages of a registry or a model: their names and order, who may follow whom, and which hold one version at most.

use crate::domain::StageName;
use crate::error::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// The stage of a version that entered none: `None`, as in MLflow. Every set of stages has it, as its first.
pub const NO_STAGE: &str = "None";
/// The stages that a registry has until it configures its own, in their order; as in MLflow.
pub const DEFAULT_STAGES: &[&str] = &[NO_STAGE, "Staging", "Production", "Archived"];
/// Most stages of one set.
pub const MAX_STAGES: usize = 20;

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Its name.
    pub name: StageName,
    /// Whether it holds one version of a model at most: who enters it archives who was there.
    #[serde(default)]
    pub exclusive: bool,
}

/// The stages of a registry or a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRules {
    /// The stages, in their order; `None` is the first, and is added if it is missing.
    pub stages: Vec<Stage>,
    /// Where a version may go from a stage; a stage without an entry may be left for any other.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub transitions: BTreeMap<StageName, BTreeSet<StageName>>,
    /// Where versions are archived; `Archived` unless it says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<StageName>,
}

impl Default for StageRules {
    fn default() -> Self {
        let stages = DEFAULT_STAGES
            .iter()
            .map(|name| Stage {
                name: StageName::parse(*name).expect("the literal is a valid stage"),
                exclusive: false,
            })
            .collect();
        Self {
            stages,
            transitions: BTreeMap::new(),
            archive: None,
        }
    }
}

fn same(left: &str, right: &str) -> bool {
    left.to_lowercase() == right.to_lowercase()
}

impl StageRules {
    /// Checks the rules, adds `None`, and spells every name as its stage does.
    pub fn checked(mut self) -> Result<Self> {
        if !self
            .stages
            .iter()
            .any(|stage| same(stage.name.as_str(), NO_STAGE))
        {
            let none = Self::default().stages.swap_remove(0);
            self.stages.insert(0, none);
        }
        if !same(self.stages[0].name.as_str(), NO_STAGE) || self.stages[0].exclusive {
            return Err(Error::invalid(
                "stages",
                "stage `None` is where versions begin: it comes first, and is not exclusive",
            ));
        }
        self.stages[0] = Self::default().stages.swap_remove(0);
        if self.stages.len() > MAX_STAGES {
            return Err(Error::invalid(
                "stages",
                format!(
                    "there are {} stages; use at most {MAX_STAGES}",
                    self.stages.len()
                ),
            ));
        }
        for (index, stage) in self.stages.iter().enumerate() {
            let earlier = &self.stages[..index];
            if let Some(twin) = earlier
                .iter()
                .find(|other| same(other.name.as_str(), stage.name.as_str()))
            {
                return Err(Error::invalid(
                    "stages",
                    format!(
                        "stages `{}` and `{}` differ in nothing but case; keep one of them",
                        twin.name, stage.name
                    ),
                ));
            }
        }
        let mut transitions = BTreeMap::new();
        for (from, to) in &self.transitions {
            let to = to
                .iter()
                .map(|name| self.named("transitions", name.as_str()))
                .collect::<Result<_>>()?;
            transitions.insert(self.named("transitions", from.as_str())?, to);
        }
        self.transitions = transitions;
        if let Some(archive) = &self.archive {
            let archive = self.named("archive", archive.as_str())?;
            if self.is_exclusive(&archive) || same(archive.as_str(), NO_STAGE) {
                return Err(Error::invalid(
                    "archive",
                    format!("stage `{archive}` is exclusive or the first; archive into another"),
                ));
            }
            self.archive = Some(archive);
        }
        let has_exclusive = self.stages.iter().any(|stage| stage.exclusive);
        if has_exclusive && self.archive_stage().is_none() {
            return Err(Error::invalid(
                "archive",
                "an exclusive stage archives the version that it held; name a stage in `archive`",
            ));
        }
        Ok(self)
    }

    fn named(&self, field: &str, name: &str) -> Result<StageName> {
        self.stages
            .iter()
            .find(|stage| same(stage.name.as_str(), name))
            .map(|stage| stage.name.clone())
            .ok_or_else(|| {
                Error::invalid(
                    field,
                    format!(
                        "stage `{}` does not exist; use one of {}",
                        name.chars()
                            .take(60)
                            .flat_map(char::escape_debug)
                            .collect::<String>(),
                        self.names()
                    ),
                )
            })
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self
            .stages
            .iter()
            .map(|stage| stage.name.as_str())
            .collect();
        names.join(", ")
    }

    /// Finds a stage by its name in any case.
    pub fn find(&self, name: &str) -> Result<StageName> {
        self.named("stage", name)
    }

    /// Whether a stage holds one version of a model at most.
    pub fn is_exclusive(&self, name: &StageName) -> bool {
        self.stages
            .iter()
            .any(|stage| stage.exclusive && stage.name == *name)
    }

    /// Where versions are archived, if anywhere.
    pub fn archive_stage(&self) -> Option<StageName> {
        self.archive.clone().or_else(|| {
            self.stages
                .iter()
                .find(|stage| same(stage.name.as_str(), "Archived") && !stage.exclusive)
                .map(|stage| stage.name.clone())
        })
    }

    /// Refuses a transition that the rules do not name.
    ///
    /// A version that stands in a stage which the rules do not know any more may go anywhere.
    pub fn check_transition(&self, from: &StageName, to: &StageName) -> Result<()> {
        match self.transitions.get(from) {
            Some(allowed) if !allowed.contains(to) => {
                let allowed: Vec<&str> = allowed.iter().map(StageName::as_str).collect();
                let advice = if allowed.is_empty() {
                    "nothing follows it".to_owned()
                } else {
                    format!("move it to {} first", allowed.join(" or "))
                };
                Err(Error::new(
                    ErrorCode::TransitionNotAllowed,
                    format!("a version may not go from stage `{from}` to `{to}`; {advice}"),
                )
                .with("from", from.as_str())
                .with("to", to.as_str())
                .with("allowed", json!(allowed)))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn rules(document: Value) -> Result<StageRules> {
        serde_json::from_value::<StageRules>(document)
            .map_err(|error| Error::invalid("stages", error.to_string()))?
            .checked()
    }

    #[test]
    fn the_default_is_that_of_mlflow() {
        let rules = StageRules::default().checked().unwrap();
        assert_eq!(rules, StageRules::default());
        assert_eq!(rules.names(), "None, Staging, Production, Archived");
        assert_eq!(rules.find("pRoduction").unwrap().as_str(), "Production");
        assert_eq!(rules.archive_stage().unwrap().as_str(), "Archived");
        let (none, production) = (
            rules.find("none").unwrap(),
            rules.find("production").unwrap(),
        );
        rules.check_transition(&none, &production).unwrap();
    }

    #[test]
    fn rules_are_checked_when_they_are_set() {
        let check = |document: Value, expected: &str| match rules(document.clone()) {
            Ok(rules) => assert_eq!(rules.names(), expected, "{document}"),
            Err(error) => assert!(
                error.message.contains(expected),
                "{document}: {}",
                error.message
            ),
        };
        check(
            json!({"stages": [{"name": "Dev"}, {"name": "Live"}]}),
            "None, Dev, Live",
        );
        check(
            json!({"stages": [{"name": "none"}, {"name": "Live"}]}),
            "None, Live",
        );
        check(
            json!({"stages": [{"name": "Dev"}, {"name": "None"}]}),
            "comes first",
        );
        check(
            json!({"stages": [{"name": "Dev"}, {"name": "DEV"}]}),
            "nothing but case",
        );
        check(
            json!({"stages": [{"name": "Live", "exclusive": true}]}),
            "name a stage in `archive`",
        );
        check(
            json!({"stages": [{"name": "Live", "exclusive": true}, {"name": "Old"}], "archive": "old"}),
            "None, Live, Old",
        );
        check(
            json!({"stages": [{"name": "Live", "exclusive": true}], "archive": "Live"}),
            "archive into another",
        );
        check(
            json!({"stages": [{"name": "Live"}], "transitions": {"Live": ["Gone"]}}),
            "does not exist",
        );
        check(
            json!({"stages": [], "transitions": {"x": []}}),
            "does not exist",
        );
        let many: Vec<Value> = (0..30)
            .map(|index| json!({"name": format!("s{index}")}))
            .collect();
        check(json!({"stages": many}), "at most 20");
    }

    #[test]
    fn a_transition_that_is_not_named_is_refused() {
        let rules = rules(json!({
            "stages": [{"name": "Dev"}, {"name": "Live"}, {"name": "End"}],
            "transitions": {"none": ["dev"], "Dev": ["LIVE"], "End": []},
        }))
        .unwrap();
        let check = |from: &str, to: &str, expected: Option<&str>| {
            let stage = |name: &str| StageName::parse(name).unwrap();
            let answer = rules.check_transition(&stage(from), &stage(to));
            match (answer, expected) {
                (Ok(()), None) => {}
                (Err(error), Some(part)) => {
                    assert!(error.message.contains(part), "{}", error.message);
                }
                (answer, _) => panic!("{from} to {to}: {answer:?}"),
            }
        };
        check("None", "Dev", None);
        check("None", "Live", Some("move it to Dev first"));
        check("Dev", "Live", None);
        check("Live", "None", None);
        check("End", "Dev", Some("nothing follows it"));
        check("Removed", "Live", None);
    }
}
