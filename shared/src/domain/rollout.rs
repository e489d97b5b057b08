//! The rollout: what is served at a place, and how the traffic is split; the truth that servers read.

use crate::domain::{ModelName, Principal, Timestamp, VersionNumber};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Most deployments at one place.
pub const MAX_DEPLOYMENTS: usize = 20;
/// All traffic: weights are parts of ten thousand, so that a canary may have 0.01 %.
pub const ALL_TRAFFIC: u32 = 10_000;

/// Where something is served: an environment and an endpoint in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    environment: String,
    endpoint: String,
}

impl Place {
    /// Parses both names: 1 to 64 letters, digits, `_`, `-` and `.` each.
    ///
    /// ```
    /// use shared::domain::rollout::Place;
    /// assert_eq!(Place::parse("prod-eu", "score").unwrap().to_string(), "prod-eu/score");
    /// assert!(Place::parse("prod/eu", "score").is_err());
    /// ```
    pub fn parse(environment: &str, endpoint: &str) -> Result<Self> {
        for (field, name) in [("environment", environment), ("endpoint", endpoint)] {
            check_name(field, name)?;
        }
        Ok(Self {
            environment: environment.to_owned(),
            endpoint: endpoint.to_owned(),
        })
    }

    /// The environment.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// Checks the name of an environment or an endpoint.
pub fn check_name(field: &str, name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if (1..=64).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::invalid(
        field,
        format!(
            "{field} `{}` is not valid; use 1 to 64 letters, digits, `_`, `-` and `.`",
            name.chars()
                .take(70)
                .flat_map(char::escape_debug)
                .collect::<String>()
        ),
    ))
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.environment, self.endpoint)
    }
}

/// How traffic is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// One version answers everything.
    Single,
    /// A new version answers a part of the traffic.
    Canary,
    /// The challenger is measured against the champion.
    ChampionChallenger,
    /// Variants are compared on equal users.
    AbTest,
}

/// What a version is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The one that is trusted.
    Champion,
    /// The one that may become it.
    Challenger,
    /// A small part of the traffic tries it.
    Canary,
    /// A variant of a test.
    Variant,
    /// Gets a copy of the traffic, and its answers are thrown away; its weight is 0.
    Shadow,
}

/// How far the servers are with a version, as they say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentStatus {
    /// It is wanted.
    #[default]
    Pending,
    /// It is on its way.
    Deploying,
    /// It answers.
    Active,
    /// It could not be brought up.
    Failed,
}

/// A version at a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The version.
    pub version: VersionNumber,
    /// What it is there for.
    pub role: Role,
    /// Its part of the traffic, in parts of ten thousand.
    pub weight: u32,
    /// How far the servers are with it.
    pub status: DeploymentStatus,
    /// Since when it has been at the place without a break.
    pub since: Timestamp,
    /// Who brought it there.
    pub by: Principal,
    /// A name that servers may know it by, such as that of a variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What is served at a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The environment.
    pub environment: String,
    /// The endpoint.
    pub endpoint: String,
    /// The registered model.
    pub model: ModelName,
    /// How traffic is split.
    pub strategy: Strategy,
    /// The versions; none where nothing is served any more.
    pub deployments: Vec<Deployment>,
    /// How often it was changed.
    pub revision: u64,
    /// The revision that this one returned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_to: Option<u64>,
    /// Who changed it last.
    pub changed_by: Principal,
    /// When it was changed last.
    pub changed_at: Timestamp,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Rollout {
    /// Checks that versions, roles and weights fit together.
    pub fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::invalid("deployments", message));
        if self.deployments.is_empty() {
            return Ok(());
        }
        if self.deployments.len() > MAX_DEPLOYMENTS {
            return refuse(format!(
                "there are {} deployments; use at most {MAX_DEPLOYMENTS}",
                self.deployments.len()
            ));
        }
        let mut count: BTreeMap<VersionNumber, usize> = BTreeMap::new();
        let mut roles: BTreeMap<Role, usize> = BTreeMap::new();
        let mut total = 0_u64;
        for one in &self.deployments {
            *count.entry(one.version).or_default() += 1;
            *roles.entry(one.role).or_default() += 1;
            total += u64::from(one.weight);
            if one.role == Role::Shadow && one.weight > 0 {
                return refuse(format!(
                    "version {} is a shadow, whose answers are thrown away; its weight is 0",
                    one.version
                ));
            }
            if one
                .name
                .as_ref()
                .is_some_and(|name| name.is_empty() || name.chars().count() > 64)
            {
                return refuse(format!(
                    "the name of version {} has 1 to 64 characters",
                    one.version
                ));
            }
        }
        if let Some((version, _)) = count.iter().find(|(_, count)| **count > 1) {
            return refuse(format!(
                "version {version} stands there twice; give it one role and one weight"
            ));
        }
        if total != u64::from(ALL_TRAFFIC) {
            return refuse(format!(
                "the weights add up to {total}; let them add up to {ALL_TRAFFIC}, which is all traffic"
            ));
        }
        let of = |role: Role| roles.get(&role).copied().unwrap_or(0);
        let answering: usize = self
            .deployments
            .iter()
            .filter(|one| one.role != Role::Shadow)
            .count();
        let fits = match self.strategy {
            Strategy::Single => answering == 1 && of(Role::Champion) == 1,
            Strategy::Canary => of(Role::Champion) == 1 && of(Role::Canary) == 1 && answering == 2,
            Strategy::ChampionChallenger => {
                of(Role::Champion) == 1
                    && of(Role::Challenger) >= 1
                    && answering == 1 + of(Role::Challenger)
            }
            Strategy::AbTest => of(Role::Variant) >= 2 && answering == of(Role::Variant),
        };
        if fits {
            return Ok(());
        }
        refuse(
            match self.strategy {
                Strategy::Single => "`single` has one `champion`, and any number of shadows",
                Strategy::Canary => {
                    "`canary` has one `champion` and one `canary`, and any number of shadows"
                }
                Strategy::ChampionChallenger => {
                    "`champion_challenger` has one `champion` and at least one `challenger`, and any number of shadows"
                }
                Strategy::AbTest => {
                    "`ab_test` has at least two of role `variant`, and any number of shadows"
                }
            }
            .into(),
        )
    }

    /// The versions at the place.
    pub fn versions(&self) -> Vec<VersionNumber> {
        self.deployments.iter().map(|one| one.version).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(strategy: &str, deployments: &[(u64, &str, u32)], problem: &str) {
        let deployments: Vec<Value> = deployments
            .iter()
            .map(|(version, role, weight)| {
                json!({"version": version, "role": role, "weight": weight, "status": "active",
                    "since": "2026-01-01T00:00:00Z", "by": "ada"})
            })
            .collect();
        let rollout: Rollout = serde_json::from_value(json!({
            "environment": "e", "endpoint": "p", "model": "iris", "strategy": strategy,
            "deployments": deployments, "revision": 1, "changed_by": "ada",
            "changed_at": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        match rollout.check() {
            Ok(()) => assert_eq!(problem, "", "{strategy} {deployments:?}"),
            Err(error) => assert!(
                !problem.is_empty() && error.message.contains(problem),
                "{strategy} {deployments:?}: {}",
                error.message
            ),
        }
    }

    #[test]
    fn weights_and_roles_fit_together() {
        check("single", &[], "");
        check("single", &[(1, "champion", 10_000)], "");
        check("single", &[(1, "champion", 10_000), (2, "shadow", 0)], "");
        check("single", &[(1, "champion", 9_999)], "add up to 9999");
        check("single", &[(1, "canary", 10_000)], "one `champion`");
        check(
            "single",
            &[(1, "champion", 10_000), (2, "shadow", 1)],
            "is a shadow",
        );
        check("canary", &[(1, "champion", 9_999), (2, "canary", 1)], "");
        check("canary", &[(1, "champion", 10_000)], "one `canary`");
        check(
            "canary",
            &[(1, "champion", 9_999), (1, "canary", 1)],
            "twice",
        );
        check(
            "champion_challenger",
            &[(1, "champion", 5_000), (2, "challenger", 5_000)],
            "",
        );
        check(
            "champion_challenger",
            &[(1, "champion", 5_000), (2, "canary", 5_000)],
            "challenger",
        );
        check(
            "ab_test",
            &[(1, "variant", 5_000), (2, "variant", 5_000)],
            "",
        );
        check("ab_test", &[(1, "variant", 10_000)], "at least two");
        check(
            "ab_test",
            &[(1, "variant", u32::MAX), (2, "variant", u32::MAX)],
            "add up",
        );
    }

    #[test]
    fn a_place_is_two_plain_names() {
        for (environment, endpoint, expected) in [
            ("prod", "score", true),
            ("prod.eu-1", "a_b", true),
            ("", "score", false),
            ("prod", "", false),
            ("prod", "a/b", false),
            ("prod", "a#b", false),
            ("prod", "ä", false),
        ] {
            assert_eq!(
                Place::parse(environment, endpoint).is_ok(),
                expected,
                "{environment}/{endpoint}"
            );
        }
    }
}
