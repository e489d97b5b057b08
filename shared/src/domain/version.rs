//! The model version: immutable content, counted from 1.

use crate::domain::model::Notes;
use crate::domain::{
    AliasName, Digest, ModelName, Principal, StageName, TenantName, Timestamp, VersionNumber,
};
use crate::error::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Is the content complete and checked?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Not yet: artifacts are missing or not checked.
    PendingRegistration,
    /// Every declared artifact arrived as declared, and every check passed.
    Ready,
    /// It will never be ready; the report says why.
    FailedRegistration,
}

impl Status {
    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PendingRegistration => "PENDING_REGISTRATION",
            Self::Ready => "READY",
            Self::FailedRegistration => "FAILED_REGISTRATION",
        }
    }

    /// Reads the stored form.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::PendingRegistration,
            Self::Ready,
            Self::FailedRegistration,
        ]
        .into_iter()
        .find(|status| status.as_str() == text)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Which version: tenant, model and number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionId {
    /// The tenant.
    pub tenant: TenantName,
    /// The registered model.
    pub model: ModelName,
    /// The number.
    pub number: VersionNumber,
}

impl fmt::Display for VersionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "version {} of `{}`", self.number, self.model)
    }
}

/// Where a document of a version lies: in the item itself, in an item of its own, or in the bucket.
///
/// Small documents ride along for free; large ones do not make every later write of the version dearer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Document {
    /// There is none.
    #[default]
    Absent,
    /// JSON within the version's item.
    Inline(String),
    /// JSON in an item of its own beside the version.
    Item,
    /// JSON in an immutable object, by its key.
    Object(String),
}

/// What validation found, in short; the whole report is an object that is named by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validation {
    /// The verdict, such as `clean`.
    pub verdict: String,
    /// One line for people.
    pub summary: String,
    /// Digest of the report's bytes.
    pub report_digest: Digest,
    /// When it was judged.
    pub at: Timestamp,
    /// Revision of the validation policy that it was judged by; absent without a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_revision: Option<u64>,
}

/// The package that was made of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Digest of the manifest's bytes.
    pub manifest_digest: Digest,
    /// When it was made.
    pub at: Timestamp,
    /// The version under whose prefix the files lie; absent of packages that were made before files had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesOf>,
    /// What came of the signature that the client uploaded with the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<ClientSignature>,
}

/// Under whose prefix the files of a version lie: most often its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesOf {
    /// The home of its model, which a renaming does not change.
    pub home: String,
    /// The number.
    pub version: VersionNumber,
}

impl FilesOf {
    /// This version, as the holder of files.
    pub fn of(id: &VersionId) -> Self {
        Self {
            home: id.model.home().to_owned(),
            version: id.number,
        }
    }

    /// The version, in this tenant.
    pub fn id(&self, tenant: &TenantName) -> Result<VersionId> {
        Ok(VersionId {
            tenant: tenant.clone(),
            model: ModelName::of_home(&self.home)?,
            number: self.version,
        })
    }
}

/// What came of a signature that a client uploaded with a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSignature {
    /// Whether a trusted key signed exactly these files.
    pub verdict: SignatureVerdict,
    /// The name of the trusted key that it was verified with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// The verdict over a signature that a client uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignatureVerdict {
    /// A trusted key signed exactly these files.
    Verified,
    /// No key that is trusted made it.
    Untrusted,
    /// It is malformed, or signs other files than these.
    Invalid,
}

impl SignatureVerdict {
    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Untrusted => "untrusted",
            Self::Invalid => "invalid",
        }
    }
}

/// Where a version came from, as an MLflow client said it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The URI that was registered; may be empty.
    pub source: String,
    /// The run that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Link to a run of another server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_link: Option<String>,
    /// The logged model that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// Where the files lie, if that is neither here nor what `source` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

/// A model version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Which one.
    pub id: VersionId,
    /// Is the content complete and checked?
    pub status: Status,
    /// Place in the life cycle.
    pub stage: StageName,
    /// How many aliases hold it.
    pub alias_count: u32,
    /// The aliases that hold it, as far as they were set since versions keep their names.
    pub aliases: BTreeSet<AliasName>,
    /// Where it came from, if it was registered by URI.
    pub origin: Option<Origin>,
    /// Who registered it.
    pub registered_by: Principal,
    /// The request that registered it; follows it through all its events.
    pub request_id: String,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
    /// When the client said that all uploads are done.
    pub finalized_at: Option<Timestamp>,
    /// When it was deleted, if it is.
    pub deleted_at: Option<Timestamp>,
    /// When its files were given up for good, if they were; it cannot be restored any more.
    pub purged_at: Option<Timestamp>,
    /// Number of artifacts.
    pub artifact_count: u64,
    /// Size of all artifacts together, in bytes.
    pub size_bytes: u64,
    /// Where the metadata lies.
    pub metadata: Document,
    /// Where the list of artifacts lies: declared ones while pending, judged ones when ready.
    pub artifacts: Document,
    /// Where the notes lie.
    pub notes: Document,
    /// Digest of the metadata document.
    pub metadata_digest: Digest,
    /// Optimistic-lock counter of the notes.
    pub revision: u64,
    /// What validation found.
    pub validation: Option<Validation>,
    /// The package that was made.
    pub package: Option<Package>,
    /// Where it came from, where it has been, and what holds on to it.
    pub standing: Standing,
    /// The version at which this one is counted because both have the same files; none if it keeps its own.
    pub files_of: Option<FilesOf>,
    /// The object that held the declaration before the version was judged, if it was an object.
    pub declared_at: Option<String>,
    /// When a ready version was judged again and no longer accepted, if it is not.
    pub revoked_at: Option<Timestamp>,
}

/// How the artifacts of a version came into the registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// By uploads that the registry presigned.
    #[default]
    Upload,
    /// Through the drop zone.
    Drop,
    /// From the artifacts of a run.
    Run,
    /// From another version.
    Copy,
    /// They stayed elsewhere.
    Reference,
}

impl Source {
    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Drop => "drop",
            Self::Run => "run",
            Self::Copy => "copy",
            Self::Reference => "reference",
        }
    }

    /// Reads the stored form.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Upload,
            Self::Drop,
            Self::Run,
            Self::Copy,
            Self::Reference,
        ]
        .into_iter()
        .find(|source| source.as_str() == text)
    }
}

/// Where a version came from, where it has been, and what holds on to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// How its artifacts came.
    pub source: Source,
    /// The stages that it left, each once, the one that it left last at the end.
    pub past_stages: Vec<StageName>,
    /// How many promotion requests for it are open.
    pub open_requests: u32,
    /// How many rollouts serve it.
    pub rollouts: u32,
    /// From when on it should not be used any more.
    pub deprecated_at: Option<Timestamp>,
    /// From when on it must not be used any more.
    pub end_of_life_at: Option<Timestamp>,
}

impl Standing {
    /// The past stages once another one is left as well.
    pub fn after_leaving(&self, stage: &StageName) -> Vec<StageName> {
        let mut past: Vec<StageName> = self
            .past_stages
            .iter()
            .filter(|past| *past != stage)
            .cloned()
            .collect();
        past.push(stage.clone());
        // Names that were configured away must not fill the item.
        let surplus = past.len().saturating_sub(crate::domain::stage::MAX_STAGES);
        past.split_off(surplus)
    }

    /// What an answer must warn of at a moment.
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        warnings(self.deprecated_at, self.end_of_life_at, now)
    }
}

/// What an answer must warn of, given when something is deprecated and when its life ends.
pub fn warnings(
    deprecated_at: Option<Timestamp>,
    end_of_life_at: Option<Timestamp>,
    now: Timestamp,
) -> Vec<String> {
    let past = |at: Option<Timestamp>| at.filter(|at| *at <= now);
    if let Some(at) = past(end_of_life_at) {
        return vec![format!("its life ended at {at}; stop using it")];
    }
    let Some(at) = past(deprecated_at) else {
        return Vec::new();
    };
    vec![match end_of_life_at {
        Some(end) => format!("it is deprecated since {at}, and its life ends at {end}; move on"),
        None => format!("it is deprecated since {at}; move on"),
    }]
}

impl Version {
    /// Whether its files lie elsewhere, so that nobody looked at them: it is `READY` and was never validated.
    pub fn is_reference(&self) -> bool {
        self.origin.is_some() && self.artifact_count == 0
    }

    /// Refuses a version that is deleted, not `READY`, or no longer accepted.
    pub fn require_promotable(&self) -> Result<()> {
        self.require_ready()?;
        match self.revoked_at {
            None => Ok(()),
            Some(at) => Err(self.revoked(at)),
        }
    }

    /// Refuses a version whose bytes are not to be given out: deleted, not `READY`, or no longer accepted and held by
    /// no alias.
    ///
    /// What an alias holds is served, and stays available until the alias moves.
    pub fn require_downloadable(&self) -> Result<()> {
        if self.alias_count > 0 {
            return self.require_ready();
        }
        self.require_promotable()
    }

    fn require_ready(&self) -> Result<()> {
        self.require_live()?;
        match self.status {
            Status::Ready => Ok(()),
            status => Err(version_not_ready(&self.id, status)),
        }
    }

    fn revoked(&self, at: Timestamp) -> Error {
        let verdict = self
            .validation
            .as_ref()
            .map_or("unknown", |validation| validation.verdict.as_str());
        Error::new(
            ErrorCode::VersionRevoked,
            format!(
                "{} was judged `{verdict}` at {at}, which this registry does not accept; read its report, and promote another version",
                self.id
            ),
        )
        .with("model", self.id.model.as_str())
        .with("version", self.id.number.get())
        .with("verdict", verdict)
    }

    /// Refuses a deleted version.
    pub fn require_live(&self) -> Result<()> {
        match self.deleted_at {
            None => Ok(()),
            Some(at) => Err(Error::new(
                ErrorCode::Deleted,
                format!("{} was deleted at {at}; restore it first", self.id),
            )
            .with("model", self.id.model.as_str())
            .with("version", self.id.number.get())),
        }
    }

    /// The stage of a version that was just registered: `None`, as in MLflow.
    pub fn first_stage() -> StageName {
        StageName::parse("None").expect("the literal is a valid stage")
    }
}

/// The error for a version that does not exist.
pub fn version_not_found(id: &VersionId) -> Error {
    Error::new(
        ErrorCode::VersionNotFound,
        format!("{id} does not exist; register it, or check the number"),
    )
    .with("model", id.model.as_str())
    .with("version", id.number.get())
}

/// The error for a version that is not `READY`.
pub fn version_not_ready(id: &VersionId, status: Status) -> Error {
    let advice = match status {
        Status::PendingRegistration => "wait until its validation has passed",
        Status::FailedRegistration => "read its report, and register a new version",
        Status::Ready => "try again",
    };
    Error::new(
        ErrorCode::VersionNotReady,
        format!("{id} is {status}; {advice}"),
    )
    .with("model", id.model.as_str())
    .with("version", id.number.get())
    .with("status", status.as_str())
}

/// The empty notes document costs nothing.
impl From<&Notes> for Option<String> {
    fn from(notes: &Notes) -> Self {
        if notes.is_empty() {
            None
        } else {
            serde_json::to_string(notes).ok()
        }
    }
}
