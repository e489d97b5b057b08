//! What clients can ask for.

/// What a registry may say of its stages.
pub(crate) const STAGE_RULES: [&str; 3] = [
    r#"[{"name": "Staging"}, {"name": "Production"}, {"name": "Archived"}]"#,
    r#"[{"name": "Staging"}, {"name": "Production", "exclusive": true}, {"name": "Archived"}]"#,
    r#"[{"name": "Staging", "exclusive": true}, {"name": "Production", "exclusive": true}, {"name": "Archived"}]"#,
];
/// What must be true before a version becomes the champion, or the canary.
pub(crate) const PROTECTIONS: [&str; 5] = [
    r#"{"aliases": ["champion"], "approval": {"needed": 1, "expires_after_hours": 1}}"#,
    r#"{"aliases": ["champion"], "approval": {"needed": 2, "expires_after_hours": 1}}"#,
    r#"{"aliases": ["champion"], "stages": ["Production"], "approval": {"needed": 1}}"#,
    r#"{"aliases": ["champion"], "approval": {"needed": 1}, "checks": [{"name": "smoke", "timeout_minutes": 30}]}"#,
    r#"{"aliases": ["canary"], "stages": ["Staging"], "conditions": [{"id": "fit", "satisfied_by": "tag it",
        "when": "context.tags.contains(\"fit=yes\") && context.validation.verdict == \"clean\""}]}"#,
];
/// What a further validation may find: all but the last accept the version.
pub(crate) const VERDICTS: [&str; 3] = ["clean", "contains_code", "unsafe"];

/// What a client believes of an alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Believed {
    /// The version that it holds.
    pub version: Option<u32>,
    /// How often it changed.
    pub sequence: u64,
}

/// What a client expects of an alias that it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Whatever is there.
    Anything,
    /// This version, or none.
    Held(Option<u32>),
}

/// What somebody decides on a promotion request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the API")]
pub enum Decision {
    Approve,
    Reject,
    Withdraw,
    Promote,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are those of the API")]
pub enum Wish {
    CreateModel {
        /// Whether a deleted model may lose the name.
        replace: bool,
    },
    DeleteModel,
    RestoreModel,
    /// Changes the tags of the model.
    Describe,
    Rename {
        to: &'static str,
    },
    Register,
    Judge {
        version: u32,
        ready: bool,
    },
    /// Judges a version that was judged before.
    Rejudge {
        version: u32,
        /// Which of the verdicts.
        verdict: usize,
    },
    Finalize {
        version: u32,
    },
    /// Packages a version with the set of files that it has in common with others.
    Pack {
        version: u32,
    },
    /// Purges a version that was deleted, or whose model was.
    Purge {
        version: u32,
    },
    SetAlias {
        alias: &'static str,
        version: u32,
        expected: Expected,
        sequence: Option<u64>,
    },
    RemoveAlias {
        alias: &'static str,
        expected: Expected,
        sequence: Option<u64>,
    },
    RollBack {
        alias: &'static str,
        to: Option<u32>,
        sequence: Option<u64>,
    },
    ChangeStage {
        version: u32,
        stage: &'static str,
        expected: Option<&'static str>,
    },
    SetLifecycle {
        version: u32,
        /// The hour of its deprecation, on the day of the run.
        hour: Option<u8>,
        /// The hour of its end of life.
        end: Option<u8>,
    },
    Annotate {
        version: u32,
        /// Whether it is tagged as fit for the canary.
        fit: bool,
        /// Which of its other tags is set.
        mark: u8,
    },
    DeleteVersion {
        version: u32,
    },
    RestoreVersion {
        version: u32,
    },
    RequestPromotion {
        version: u32,
        alias: Option<&'static str>,
        stage: Option<&'static str>,
    },
    Decide {
        id: String,
        decision: Decision,
    },
    /// Answers the automatic check of a request.
    AnswerCheck {
        id: String,
        passed: bool,
    },
    PutStages {
        /// Whether of the model, or of the registry.
        of_model: bool,
        rules: usize,
        revision: u64,
    },
    PutProtections {
        /// Whether of the model, or of the registry.
        of_model: bool,
        rules: usize,
        revision: u64,
    },
    GrantWaiver,
    /// Revokes the first waiver of a model.
    RevokeWaiver,
    PutRollout {
        place: &'static str,
        versions: Vec<u32>,
        revision: u64,
    },
    RollRolloutBack {
        place: &'static str,
    },
    GetAlias {
        alias: &'static str,
    },
    ListVersions,
    /// Looks after what is due, as the schedule does.
    Sweep,
    /// Dispatches some of a model's events, as the stream brings them: late, twice, in any order.
    Dispatch {
        salt: usize,
    },
}

impl Wish {
    /// Whether it only asks.
    pub fn is_question(&self) -> bool {
        matches!(self, Self::GetAlias { .. } | Self::ListVersions)
    }

    /// Whether it is what the registry does by itself.
    pub fn is_housekeeping(&self) -> bool {
        matches!(self, Self::Sweep | Self::Dispatch { .. })
    }

    /// Whether it has no route, so that nobody repeats it under a key.
    pub fn is_internal(&self) -> bool {
        self.is_housekeeping()
            || matches!(
                self,
                Self::Judge { .. }
                    | Self::Rejudge { .. }
                    | Self::Finalize { .. }
                    | Self::Pack { .. }
                    | Self::Purge { .. }
            )
    }

    /// Of which revisions it is, if it replaces one.
    pub fn revises(&self, model: &str) -> Option<String> {
        match self {
            Self::PutStages { of_model, .. } => Some(settings_path("stages", *of_model, model)),
            Self::PutProtections { of_model, .. } => {
                Some(settings_path("protections", *of_model, model))
            }
            Self::PutRollout { place, .. } | Self::RollRolloutBack { place } => {
                Some((*place).to_owned())
            }
            _ => None,
        }
    }
}

pub(crate) fn settings_path(kind: &str, of_model: bool, model: &str) -> String {
    if of_model {
        format!("/v1/models/{model}/{kind}")
    } else {
        format!("/v1/{kind}")
    }
}
