//! What an inspection says: verdict, findings, facts.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The judgement over a file or a whole version; the worst of its parts.
///
/// The order is from best to worst, so that `max` combines verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every check of the format passed, and loading runs nobody's code.
    Clean,
    /// Honest as far as can be seen, but loading runs the author's code: needs an explicit approval.
    ContainsCode,
    /// The content is of no format that is known here.
    Unsupported,
    /// A check could not finish; never counts as clean.
    Incomplete,
    /// The file breaks its format's rules, or different readers would read it differently.
    Malformed,
    /// Loading would run code, leave its directory, read foreign files, or exhaust the loader.
    Unsafe,
}

impl Verdict {
    /// The word for it in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::ContainsCode => "contains_code",
            Self::Unsupported => "unsupported",
            Self::Incomplete => "incomplete",
            Self::Malformed => "malformed",
            Self::Unsafe => "unsafe",
        }
    }
}

/// One thing that was found, by a rule of the table in [`crate::rules`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable rule id, such as `pickle.global-not-allowed`.
    pub rule: String,
    /// Path of the file within the version; members of archives follow after `!/`.
    pub path: String,
    /// Where in the file, in bytes from its start, if it has a place.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub offset_bytes: Option<u64>,
    /// What was found here, in one sentence without a full stop.
    pub detail: String,
}

/// What is known of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Path within the version.
    pub path: String,
    /// Format as detected by content, such as `safetensors`; `unknown` if none.
    pub format: String,
    /// Judgement over this file.
    pub verdict: Verdict,
    /// Facts read out of the file: `tensor_count`, `parameter_count`, `dtypes`, `format_version` and so on.
    #[serde(skip_serializing_if = "Map::is_empty", default)]
    pub facts: Map<String, Value>,
}

/// The outcome of one inspection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The worst verdict of all files.
    pub verdict: Verdict,
    /// One entry per file, sorted by path.
    pub files: Vec<FileReport>,
    /// Everything that was found, sorted by path and offset.
    pub findings: Vec<Finding>,
    /// Digest of the rules and of the allow-list that the verdict rests on.
    #[serde(default)]
    pub rules_digest: String,
}
