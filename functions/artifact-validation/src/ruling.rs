//! The policy in force: read once for each judgement, with what it names in the bucket.
//!
//! What a policy names in the bucket never changes, so that a process keeps what it has read of it.

use bytes::Bytes;
use model_formats::environment::Advisories;
use model_formats::{Limits, Policy};
use serde::{Deserialize, Serialize};
use shared::domain::TenantName;
use shared::domain::version::Document;
use shared::dynamodb::StoredPolicy;
use shared::{App, Error, ErrorCode, Result};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Largest file of advisories, in bytes.
pub(crate) const MAX_ADVISORIES_BYTES: u64 = 16 * 1024 * 1024;
/// Files of advisories that a process keeps.
const KEPT: usize = 4;

/// The policy of a tenant as its document has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PolicyDocument {
    /// What the registry decides about validation.
    pub(crate) policy: Policy,
    /// The advisories that dependencies are held against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) advisories: Option<AdvisoriesFile>,
}

/// A file of advisories in OSV format, pinned to the object that was checked when the policy was set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct AdvisoriesFile {
    /// Key of the object.
    pub(crate) key: String,
    /// Version of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) object_version: Option<String>,
    /// `ETag` of the object.
    pub(crate) etag: String,
    /// Its size in bytes.
    pub(crate) size_bytes: u64,
    /// How many records it has.
    pub(crate) record_count: usize,
}

/// What versions are judged by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ruling {
    /// Revision of the policy; 0 without one.
    pub(crate) revision: u64,
    /// The policy.
    pub(crate) policy: Policy,
    /// The bounds and lists that follow from it.
    pub(crate) limits: Limits,
}

impl Ruling {
    /// The ruling of a tenant as it is now, by one consistent read.
    pub(crate) async fn of(app: &App, tenant: &TenantName) -> Result<Self> {
        let Some(stored) = app.registry.find_validation_policy(tenant).await? else {
            return Ok(Self::default());
        };
        let document = read_document(app, &stored).await?;
        let advisories = match &document.advisories {
            Some(file) => Some(advisories(app, file).await?),
            None => None,
        };
        let (policy, limits) = match document.policy.limits(advisories.clone()) {
            Ok(limits) => (document.policy, limits),
            Err(_) => stricter(&document.policy, tenant, advisories)?,
        };
        Ok(Self {
            revision: stored.revision,
            policy,
            limits,
        })
    }
}

/// The policy without what this build cannot take any more; that only makes it stricter.
fn stricter(
    policy: &Policy,
    tenant: &TenantName,
    advisories: Option<Arc<Advisories>>,
) -> Result<(Policy, Limits)> {
    let (policy, refused) = policy.without_refused();
    for error in refused {
        tracing::error!(
            tenant.name = tenant.as_str(),
            "The validation policy of tenant `{tenant}` says what cannot be followed any more: {error}"
        );
    }
    let limits = policy
        .limits(advisories)
        .map_err(|error| Error::internal("following the validation policy", error))?;
    Ok((policy, limits))
}

/// Reads the document of a policy from wherever it lies.
pub(crate) async fn read_document(app: &App, stored: &StoredPolicy) -> Result<PolicyDocument> {
    let json: Bytes = match &stored.document {
        Document::Inline(json) => json.clone().into(),
        Document::Object(key) => app.bucket.read_whole(key, None).await?.ok_or_else(|| {
            Error::internal(
                "reading the validation policy",
                format!("`{key}` is missing"),
            )
        })?,
        Document::Absent | Document::Item => return Ok(PolicyDocument::default()),
    };
    serde_json::from_slice(&json)
        .map_err(|error| Error::internal("reading the validation policy", error))
}

/// Files of advisories that were read last.
type Kept = Vec<(AdvisoriesFile, Arc<Advisories>)>;

static KEPT_ADVISORIES: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);

/// The advisories of a pinned file, read once by each process.
async fn advisories(app: &App, file: &AdvisoriesFile) -> Result<Arc<Advisories>> {
    let kept = || {
        KEPT_ADVISORIES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    };
    let known = kept()
        .iter()
        .find(|(known, _)| known == file)
        .map(|(_, advisories)| Arc::clone(advisories));
    if let Some(known) = known {
        return Ok(known);
    }
    let read = Arc::new(read_advisories(app, file).await?);
    let mut kept = kept();
    if kept.len() >= KEPT {
        kept.remove(0);
    }
    kept.push((file.clone(), Arc::clone(&read)));
    Ok(read)
}

async fn read_advisories(app: &App, file: &AdvisoriesFile) -> Result<Advisories> {
    let bytes = app
        .bucket
        .read_range(
            &file.key,
            file.object_version.as_deref(),
            &file.etag,
            0..file.size_bytes,
        )
        .await?
        .ok_or_else(|| {
            Error::new(
                ErrorCode::Internal,
                format!(
                    "the advisories `{}` of the validation policy are gone",
                    file.key
                ),
            )
        })?;
    Advisories::from_json(&bytes).map_err(|error| Error::internal("reading the advisories", error))
}
