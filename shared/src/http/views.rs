//! What the native API shows of models, versions and aliases; converted by hand, stable on the wire.

use crate::app::App;
use crate::domain::model::Notes;
use crate::domain::version::{Origin, warnings};
use crate::domain::{Alias, Metadata, Model, Repository, Timestamp, Version, VersionNumber};
use crate::s3::keys;
use serde::Serialize;
use std::collections::BTreeMap;

/// A registered model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelView {
    /// Its name.
    pub name: String,
    /// What it keeps when it is renamed.
    pub model_id: String,
    /// Who answers for it.
    pub owner: String,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Free key/value pairs.
    pub tags: BTreeMap<String, String>,
    /// How many versions were ever registered; the number of the newest.
    pub version_count: u32,
    /// Optimistic-lock counter.
    pub revision: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
    /// When it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
}

impl From<&Model> for ModelView {
    fn from(model: &Model) -> Self {
        Self {
            name: model.name.to_string(),
            model_id: model.name.home().to_owned(),
            owner: model.owner.to_string(),
            description: model.notes.description.clone(),
            tags: model.notes.tags.clone(),
            version_count: model.version_count(),
            revision: model.revision,
            created_at: model.created_at,
            updated_at: model.updated_at,
            deleted_at: model.deleted_at,
        }
    }
}

/// What validation found, in short.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValidationView {
    /// The verdict.
    pub verdict: String,
    /// One line for people.
    pub summary: String,
    /// Digest of the whole report.
    pub report_digest: String,
    /// When it was judged.
    pub at: Timestamp,
    /// Revision of the validation policy that it was judged by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_revision: Option<u64>,
}

/// The package of a version.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PackageView {
    /// Where the manifest lies.
    pub manifest_uri: String,
    /// Its digest.
    pub manifest_digest: String,
    /// When it was made.
    pub at: Timestamp,
    /// The prefix under which the files lie, and nothing else but the signature over them; loads as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files_uri: Option<String>,
    /// The repository whose tags OCI clients pull.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci_repository: Option<String>,
    /// What came of the signature that the client uploaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<ClientSignatureView>,
}

/// What came of a signature that a client uploaded with a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientSignatureView {
    /// `verified`, `untrusted` or `invalid`.
    pub verdict: &'static str,
    /// The name of the trusted key that it was verified with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A model version.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VersionView {
    /// The registered model.
    pub model: String,
    /// The number.
    pub version: u32,
    /// Is the content complete and checked?
    pub status: &'static str,
    /// Place in the life cycle.
    pub stage: String,
    /// How many aliases hold it.
    pub alias_count: u32,
    /// Number of artifacts.
    pub artifact_count: u64,
    /// Size of all artifacts together, in bytes.
    pub size_bytes: u64,
    /// Digest of the metadata.
    pub metadata_digest: String,
    /// Who registered it.
    pub registered_by: String,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
    /// When the client said that all uploads are done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finalized_at: Option<Timestamp>,
    /// When it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    /// When its files were given up for good; it cannot be restored any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purged_at: Option<Timestamp>,
    /// What validation found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationView>,
    /// When it was judged again and no longer accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// The package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<PackageView>,
    /// How its artifacts came.
    pub source: &'static str,
    /// From when on it should not be used any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deprecated_at: Option<Timestamp>,
    /// From when on it must not be used any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_of_life_at: Option<Timestamp>,
    /// What whoever uses it should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Where it came from, if it was registered by URI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Whether its files lie elsewhere, so that it was never validated.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_reference: bool,
}

impl VersionView {
    /// The view of a version in the app's bucket.
    pub fn of(app: &App, version: &Version) -> Self {
        Self {
            model: version.id.model.to_string(),
            version: version.id.number.get(),
            status: version.status.as_str(),
            stage: version.stage.to_string(),
            alias_count: version.alias_count,
            artifact_count: version.artifact_count,
            size_bytes: version.size_bytes,
            metadata_digest: version.metadata_digest.to_string(),
            registered_by: version.registered_by.to_string(),
            created_at: version.created_at,
            updated_at: version.updated_at,
            finalized_at: version.finalized_at,
            deleted_at: version.deleted_at,
            purged_at: version.purged_at,
            validation: version
                .validation
                .as_ref()
                .map(|validation| ValidationView {
                    verdict: validation.verdict.clone(),
                    summary: validation.summary.clone(),
                    report_digest: validation.report_digest.to_string(),
                    at: validation.at,
                    policy_revision: validation.policy_revision,
                }),
            revoked_at: version.revoked_at,
            package: version.package.as_ref().map(|package| PackageView {
                manifest_uri: format!("s3://{}/{}", app.bucket.name(), keys::manifest(&version.id)),
                manifest_digest: package.manifest_digest.to_string(),
                at: package.at,
                files_uri: package.files.as_ref().map(|holder| {
                    let prefix = keys::files_prefix_of(&version.id.tenant, holder);
                    format!("s3://{}/{prefix}", app.bucket.name())
                }),
                oci_repository: package.files.as_ref().map(|_| {
                    let repository = Repository {
                        tenant: version.id.tenant.clone(),
                        model: version.id.model.clone(),
                    };
                    repository.to_string()
                }),
                signature: package
                    .signature
                    .as_ref()
                    .map(|signature| ClientSignatureView {
                        verdict: signature.verdict.as_str(),
                        key: signature.key.clone(),
                    }),
            }),
            source: version.standing.source.as_str(),
            deprecated_at: version.standing.deprecated_at,
            end_of_life_at: version.standing.end_of_life_at,
            warnings: version.standing.warnings(app.clock.now()),
            origin: version.origin.clone(),
            is_reference: version.is_reference(),
        }
    }
}

/// A model version with its documents.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FullVersionView {
    /// What every answer shows.
    #[serde(flatten)]
    pub version: VersionView,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Free key/value pairs.
    pub tags: BTreeMap<String, String>,
    /// What it tells of its making.
    pub metadata: Metadata,
}

impl FullVersionView {
    /// Puts a version together with its documents.
    pub fn of(app: &App, version: &Version, notes: Notes, metadata: Metadata) -> Self {
        Self {
            version: VersionView::of(app, version),
            description: notes.description,
            tags: notes.tags,
            metadata,
        }
    }
}

/// An alias: all that a service needs in order to load what it points to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AliasView {
    /// The registered model.
    pub model: String,
    /// Its name.
    pub alias: String,
    /// The version that it holds; `null` after it was removed.
    pub version: Option<u32>,
    /// The version that it held before.
    pub previous_version: Option<u32>,
    /// How often it was changed; give it back as `expected_sequence` to change it without a read.
    pub sequence: u64,
    /// Where the version's manifest lies, if it was packaged when the alias was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest_uri: Option<String>,
    /// Digest of the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    /// Who changed it last.
    pub changed_by: String,
    /// When it was changed last.
    pub changed_at: Timestamp,
    /// What whoever uses its version should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl AliasView {
    /// The view of an alias in the app's bucket.
    pub fn of(app: &App, alias: &Alias) -> Self {
        let id = alias.version.map(|number| crate::domain::VersionId {
            tenant: alias.tenant.clone(),
            model: alias.model.clone(),
            number,
        });
        let manifest_uri = id
            .filter(|_| alias.manifest_digest.is_some())
            .map(|id| format!("s3://{}/{}", app.bucket.name(), keys::manifest(&id)));
        Self {
            model: alias.model.to_string(),
            alias: alias.name.to_string(),
            version: alias.version.map(VersionNumber::get),
            previous_version: alias.previous.map(VersionNumber::get),
            sequence: alias.sequence,
            manifest_uri,
            manifest_digest: alias.manifest_digest.as_ref().map(ToString::to_string),
            changed_by: alias.changed_by.to_string(),
            changed_at: alias.changed_at,
            warnings: warnings(alias.deprecated_at, alias.end_of_life_at, app.clock.now()),
        }
    }
}
