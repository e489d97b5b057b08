//! The promotion request: somebody asks, people and automatic checks answer, and the last answer promotes.

use crate::domain::model::check_text;
use crate::domain::{ModelName, Principal, PromotionTarget, Timestamp, VersionNumber};
use crate::error::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Longest comment, in characters.
pub const MAX_COMMENT: usize = 2_000;
/// Most links to evidence with one comment.
pub const MAX_EVIDENCE: usize = 20;
/// Most decisions on one request.
pub const MAX_DECISIONS: usize = 50;

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestStatus {
    /// Waits for approvals or checks.
    Open,
    /// Everything was there, and the version was promoted.
    Promoted,
    /// Somebody rejected it, or a check failed.
    Rejected,
    /// Who asked, or who may, took it back.
    Withdrawn,
    /// It stayed open for too long.
    Expired,
}

impl fmt::Display for RequestStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Open => "open",
            Self::Promoted => "promoted",
            Self::Rejected => "rejected",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
        })
    }
}

/// What is said with a decision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comment {
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Links to what proves it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
}

impl Comment {
    /// Checks lengths and links.
    pub fn check(&self) -> Result<()> {
        check_text("comment", self.comment.as_deref(), MAX_COMMENT)?;
        if self.evidence.len() > MAX_EVIDENCE {
            return Err(Error::invalid(
                "evidence",
                format!(
                    "there are {} links; use at most {MAX_EVIDENCE}",
                    self.evidence.len()
                ),
            ));
        }
        let is_link = |link: &String| {
            link.len() <= 2_048
                && ["https://", "http://", "s3://"]
                    .iter()
                    .any(|scheme| link.starts_with(scheme))
                && !link.chars().any(char::is_control)
        };
        match self.evidence.iter().find(|link| !is_link(link)) {
            Some(_) => Err(Error::invalid(
                "evidence",
                "a link to evidence begins with `https://`, `http://` or `s3://` and has at most 2048 bytes",
            )),
            None => Ok(()),
        }
    }
}

/// What somebody decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// In favour.
    Approve,
    /// Against.
    Reject,
    /// Not any more.
    Withdraw,
}

/// A decision on a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Who.
    pub by: Principal,
    /// The groups of who decided, at that time.
    pub groups: BTreeSet<String>,
    /// What.
    pub decision: Decision,
    /// What was said with it.
    #[serde(flatten)]
    pub said: Comment,
    /// When.
    pub at: Timestamp,
}

/// How far an automatic check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// It was asked.
    Pending,
    /// It said yes.
    Passed,
    /// It said no.
    Failed,
    /// It said nothing in time, which is a no.
    TimedOut,
}

/// An automatic check of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub status: CheckStatus,
    /// When it must have answered.
    pub due_at: Timestamp,
    /// What was said with the answer.
    #[serde(flatten)]
    pub said: Comment,
    /// When it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<Timestamp>,
}

/// A request to promote a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionRequest {
    /// Its id, a ULID.
    pub id: String,
    /// The registered model.
    pub model: ModelName,
    /// The version.
    pub version: VersionNumber,
    /// Where it shall go.
    pub target: PromotionTarget,
    /// How far it is.
    pub status: RequestStatus,
    /// Who asked.
    pub requested_by: Principal,
    /// The groups of who asked, at that time.
    pub requester_groups: Vec<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Links to what proves it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Until when it may be decided on.
    pub expires_at: Timestamp,
    /// When it was decided on, withdrawn or forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Timestamp>,
    /// The alias's sequence, as it was when this was asked for; 0 if it was never set. Absent for a stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_sequence: Option<u64>,
    /// The version's stage, as it was when this was asked for. Absent for an alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_stage: Option<String>,
    /// What people decided.
    pub decisions: Vec<Decided>,
    /// What automatic checks said.
    pub checks: Vec<Check>,
    /// Optimistic-lock counter.
    pub revision: u64,
}

impl PromotionRequest {
    /// Refuses a request that is not open any more.
    pub fn require_open(&self, now: Timestamp) -> Result<()> {
        let status = if self.status == RequestStatus::Open && self.expires_at <= now {
            RequestStatus::Expired
        } else {
            self.status
        };
        if status == RequestStatus::Open {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::Conflict,
            format!(
                "promotion request `{}` of `{}` is {status}; make a new one",
                self.id, self.model
            ),
        )
        .with("current", serde_json::json!({"status": status})))
    }

    /// Who approved, each with the groups of that time.
    pub fn approvals(&self) -> Vec<(Principal, BTreeSet<String>)> {
        self.decisions
            .iter()
            .filter(|decided| decided.decision == Decision::Approve)
            .map(|decided| (decided.by.clone(), decided.groups.clone()))
            .collect()
    }

    /// The checks that passed.
    pub fn checks_passed(&self) -> BTreeSet<String> {
        self.checks
            .iter()
            .filter(|check| check.status == CheckStatus::Passed)
            .map(|check| check.name.clone())
            .collect()
    }

    /// When the sweep must look: at the next check that is due, or when the request expires.
    pub fn due_at(&self) -> Timestamp {
        self.checks
            .iter()
            .filter(|check| check.status == CheckStatus::Pending)
            .map(|check| check.due_at)
            .chain([self.expires_at])
            .min()
            .unwrap_or(self.expires_at)
    }

    /// Adds a decision; a second approval by the same person counts as the first, with what was said last.
    pub fn decide(&mut self, decided: Decided) -> Result<()> {
        if self.decisions.len() >= MAX_DECISIONS {
            return Err(Error::new(
                ErrorCode::Conflict,
                format!(
                    "promotion request `{}` has {MAX_DECISIONS} decisions already; withdraw it and make a new one",
                    self.id
                ),
            ));
        }
        self.decisions
            .retain(|earlier| !(earlier.by == decided.by && earlier.decision == decided.decision));
        match decided.decision {
            Decision::Approve => {}
            Decision::Reject => self.close(RequestStatus::Rejected, decided.at),
            Decision::Withdraw => self.close(RequestStatus::Withdrawn, decided.at),
        }
        self.decisions.push(decided);
        Ok(())
    }

    /// Ends the request.
    pub fn close(&mut self, status: RequestStatus, at: Timestamp) {
        self.status = status;
        self.closed_at = Some(at);
    }

    /// Takes an answer of a check; one that fails ends the request.
    pub fn answer(
        &mut self,
        name: &str,
        status: CheckStatus,
        said: Comment,
        at: Timestamp,
    ) -> Result<()> {
        let check = self
            .checks
            .iter_mut()
            .find(|check| check.name == name)
            .ok_or_else(|| {
                Error::invalid(
                    "check",
                    "the request asks for no such check; name it as `check.requested` does",
                )
            })?;
        if check.status != CheckStatus::Pending {
            return Err(Error::new(
                ErrorCode::Conflict,
                format!("check `{name}` has answered already; its token is used up"),
            )
            .with("current", serde_json::json!({"status": check.status})));
        }
        check.status = status;
        check.said = said;
        check.answered_at = Some(at);
        if status != CheckStatus::Passed {
            self.close(RequestStatus::Rejected, at);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> PromotionRequest {
        let check = |name: &str, due: u64| Check {
            name: name.into(),
            status: CheckStatus::Pending,
            due_at: Timestamp::from_millis(due),
            said: Comment::default(),
            answered_at: None,
        };
        PromotionRequest {
            id: "01J".into(),
            model: ModelName::parse("iris").unwrap(),
            version: VersionNumber::FIRST,
            target: PromotionTarget::Alias("champion".into()),
            status: RequestStatus::Open,
            requested_by: Principal::parse("ada").unwrap(),
            requester_groups: Vec::new(),
            reason: None,
            evidence: Vec::new(),
            created_at: Timestamp::from_millis(0),
            expires_at: Timestamp::from_millis(100),
            closed_at: None,
            expected_sequence: Some(0),
            expected_stage: None,
            decisions: Vec::new(),
            checks: vec![check("smoke", 50), check("load", 70)],
            revision: 1,
        }
    }

    fn decided(by: &str, decision: Decision) -> Decided {
        Decided {
            by: Principal::parse(by).unwrap(),
            groups: BTreeSet::new(),
            decision,
            said: Comment::default(),
            at: Timestamp::from_millis(10),
        }
    }

    #[test]
    fn one_rejection_ends_a_request_whatever_was_approved() {
        let mut one = request();
        one.decide(decided("ben", Decision::Approve)).unwrap();
        one.decide(decided("ben", Decision::Approve)).unwrap();
        assert_eq!(one.approvals().len(), 1);
        one.decide(decided("ben", Decision::Reject)).unwrap();
        assert_eq!(one.status, RequestStatus::Rejected);
        let refused = one.require_open(Timestamp::from_millis(20)).unwrap_err();
        assert!(
            refused.message.contains("is rejected"),
            "{}",
            refused.message
        );
    }

    #[test]
    fn a_check_answers_once_and_a_failure_ends_the_request() {
        let mut one = request();
        let at = Timestamp::from_millis(20);
        let mut answer = |name: &str, status| one.answer(name, status, Comment::default(), at);
        assert!(answer("none", CheckStatus::Passed).is_err());
        answer("smoke", CheckStatus::Passed).unwrap();
        assert!(answer("smoke", CheckStatus::Failed).is_err());
        assert_eq!(one.due_at(), Timestamp::from_millis(70));
        assert_eq!(one.status, RequestStatus::Open);
        one.answer("load", CheckStatus::TimedOut, Comment::default(), at)
            .unwrap();
        assert_eq!(one.status, RequestStatus::Rejected);
        assert_eq!(one.due_at(), Timestamp::from_millis(100));
    }

    #[test]
    fn a_request_whose_time_is_over_is_expired_even_before_somebody_says_so() {
        let refused = request()
            .require_open(Timestamp::from_millis(100))
            .unwrap_err();
        assert!(
            refused.message.contains("is expired"),
            "{}",
            refused.message
        );
        assert!(request().require_open(Timestamp::from_millis(99)).is_ok());
    }

    #[test]
    fn evidence_is_links() {
        let check = |link: &str| {
            Comment {
                comment: None,
                evidence: vec![link.into()],
            }
            .check()
            .is_ok()
        };
        assert!(check("https://ci.example/1") && check("s3://bucket/report.html"));
        assert!(!check("javascript:alert(1)") && !check("") && !check("https://a\nb"));
    }
}
