//! The manifest: what a version consists of, in canonical JSON.
//!
//! It tells what a version is when it is packaged, in a fixed order of fields and artifacts, so that it has the same bytes
//! whenever it is made; only a further judgement before that changes what it tells of validation. Changing its form needs a new `schema_version` and a key of its own.

use serde::Serialize;
use serde_json::{Map, Value};
use shared::domain::{Artifact, Digest, Timestamp, Version};
use shared::s3::keys;
use shared::{Error, Result};

/// Version of the manifest's schema.
const SCHEMA_VERSION: u32 = 1;
/// Media type of the manifest.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.slipway.manifest.v1+json";

#[derive(Serialize)]
struct Manifest<'a> {
    schema_version: u32,
    media_type: &'static str,
    tenant: &'a str,
    model: &'a str,
    version: u32,
    registered_by: &'a str,
    created_at: Timestamp,
    metadata_digest: &'a Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<Validation<'a>>,
    size_bytes: u64,
    artifacts: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Validation<'a> {
    verdict: &'a str,
    report_digest: &'a Digest,
}

#[derive(Serialize)]
struct Entry<'a> {
    path: &'a str,
    size_bytes: u64,
    digest: &'a Digest,
    media_type: &'a str,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_version: Option<&'a str>,
}

/// The manifest's bytes.
pub(crate) fn write(version: &Version, artifacts: &[Artifact]) -> Result<Vec<u8>> {
    let mut entries: Vec<Entry<'_>> = artifacts
        .iter()
        .map(|artifact| Entry {
            path: artifact.path.as_str(),
            size_bytes: artifact.size_bytes,
            digest: &artifact.digest,
            media_type: &artifact.media_type,
            key: keys::artifact(&version.id, artifact),
            object_version: artifact.object_version.as_deref(),
        })
        .collect();
    entries.sort_by(|left, right| left.path.cmp(right.path));
    let manifest = Manifest {
        schema_version: SCHEMA_VERSION,
        media_type: MEDIA_TYPE,
        tenant: version.id.tenant.as_str(),
        // The home: it is in the bytes, which must be the same however often and whenever they are made.
        model: version.id.model.home(),
        version: version.id.number.get(),
        registered_by: version.registered_by.as_str(),
        created_at: version.created_at,
        metadata_digest: &version.metadata_digest,
        validation: version.validation.as_ref().map(|validation| Validation {
            verdict: &validation.verdict,
            report_digest: &validation.report_digest,
        }),
        size_bytes: artifacts.iter().map(|artifact| artifact.size_bytes).sum(),
        artifacts: entries,
    };
    serde_json::to_vec(&manifest).map_err(|error| Error::internal("writing the manifest", error))
}

/// Whether two manifests tell the same of everything but validation.
pub(crate) fn is_of_same_files(left: &[u8], right: &[u8]) -> bool {
    let without_judgement = |bytes: &[u8]| {
        let mut manifest: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
        manifest.remove("validation");
        Some(manifest)
    };
    left == right
        || without_judgement(left)
            .is_some_and(|manifest| without_judgement(right) == Some(manifest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::domain::version::{Document, Validation as Judged};
    use shared::domain::{
        ArtifactPath, ModelName, Principal, StageName, Status, TenantName, VersionId, VersionNumber,
    };

    fn version() -> Version {
        Version {
            id: VersionId {
                tenant: TenantName::default_tenant(),
                model: ModelName::parse("iris").unwrap(),
                number: VersionNumber::FIRST,
            },
            status: Status::Ready,
            stage: Version::first_stage(),
            alias_count: 0,
            registered_by: Principal::parse("ada").unwrap(),
            request_id: "request".to_owned(),
            created_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(0),
            finalized_at: None,
            deleted_at: None,
            purged_at: None,
            aliases: std::collections::BTreeSet::new(),
            origin: None,
            artifact_count: 2,
            size_bytes: 5,
            metadata: Document::Absent,
            artifacts: Document::Absent,
            notes: Document::Absent,
            metadata_digest: Digest::of(b"{}"),
            revision: 1,
            validation: Some(Judged {
                verdict: "clean".into(),
                summary: "clean: 2 artifacts checked".into(),
                report_digest: Digest::of(b"report"),
                at: Timestamp::from_millis(5),
                policy_revision: None,
            }),
            package: None,
            standing: shared::domain::Standing::default(),
            files_of: None,
            declared_at: None,
            revoked_at: None,
        }
    }

    fn artifact(path: &str, size_bytes: u64) -> Artifact {
        Artifact {
            path: ArtifactPath::parse(path).unwrap(),
            size_bytes,
            digest: Digest::of(path.as_bytes()),
            media_type: "application/octet-stream".into(),
            key: None,
            packaged: false,
            object_version: Some("v1".into()),
            etag: "\"e\"".into(),
        }
    }

    #[test]
    fn a_manifest_has_the_same_bytes_in_any_order_and_at_any_time() {
        let version = version();
        let first = write(&version, &[artifact("b/x", 2), artifact("a", 3)]).unwrap();
        let mut later = version.clone();
        later.updated_at = Timestamp::from_millis(9);
        later.stage = StageName::parse("Production").unwrap();
        later.notes = Document::Inline("{}".into());
        later.revision = 7;
        later.alias_count = 2;
        let second = write(&later, &[artifact("a", 3), artifact("b/x", 2)]).unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn a_manifest_is_as_documented() {
        let written = write(&version(), &[artifact("a", 3)]).unwrap();
        let expected = format!(
            concat!(
                r#"{{"schema_version":1,"media_type":"application/vnd.slipway.manifest.v1+json","#,
                r#""tenant":"default","model":"iris","version":1,"registered_by":"ada","#,
                r#""created_at":"1970-01-01T00:00:00.000Z","metadata_digest":"{}","#,
                r#""validation":{{"verdict":"clean","report_digest":"{}"}},"size_bytes":3,"#,
                r#""artifacts":[{{"path":"a","size_bytes":3,"digest":"{}","#,
                r#""media_type":"application/octet-stream","key":"incoming/default/iris/1/a","object_version":"v1"}}]}}"#
            ),
            Digest::of(b"{}"),
            Digest::of(b"report"),
            Digest::of(b"a"),
        );
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    #[test]
    fn a_further_judgement_makes_no_other_files() {
        let artifacts = [artifact("model.safetensors", 5)];
        let first = write(&version(), &artifacts).unwrap();
        let mut again = version();
        again.validation.as_mut().unwrap().report_digest = Digest::of(b"another report");
        let second = write(&again, &artifacts).unwrap();
        assert_ne!(first, second);
        assert!(is_of_same_files(&first, &second));
        let others = write(&version(), &[artifact("model.safetensors", 6)]).unwrap();
        assert!(!is_of_same_files(&first, &others));
        assert!(!is_of_same_files(b"no manifest", &first));
    }
}
