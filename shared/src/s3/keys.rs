//! The shape of every object key; nothing else formats or reads one.
//!
//! ```text
//! uploads in flight     incoming/<tenant>/<home>/<version>/<path>
//! a drop was taken      incoming/<tenant>/<home>/<version>/_SLIPWAY_DROPPED
//! validation goes on    incoming/<tenant>/<home>/<version>/_SLIPWAY_CONTINUE_<sequence>
//! S3 computes a digest  incoming/<tenant>/<home>/<version>/_SLIPWAY_DIGEST (uploads that never become an object)
//! drop zone             dropzone/<tenant>/<model>/<path>
//! advisories            advisories/<tenant>/<path>
//! large documents       documents/<tenant>/<home>/<version>/<sha256>.json
//! those of a request    documents/<tenant>/<ulid>/<sha256>.json
//! policies              documents/<tenant>/policies/<sha256>.json
//! validation reports    reports/<tenant>/<home>/<version>/<sha256>.json
//! audit exports         exports/<tenant>/<home>/<sha256>.<format>
//! seals                 seals/<tenant>/<day>.json
//! packaging goes on     reports/<tenant>/<home>/<version>/_SLIPWAY_CONTINUE_<ulid>
//! files of a version    models/<tenant>/<home>/<version>/<path>
//! an archive is wanted  reports/<tenant>/<home>/<version>/_SLIPWAY_ARCHIVE_<format>_<ulid>
//! archives              archives/<tenant>/<home>/<version>/model.<format>
//! packages              packages/<tenant>/<home>/<version>/manifest.json
//! artifacts of runs     runs/<tenant>/<path below the root of all artifacts>
//! ```
//!
//! A version's objects lie under the home of its model, which a renaming does not change; a drop is for a name.
//! Triggers and outputs are disjoint: `incoming/` triggers validation, which writes `reports/`; that triggers packaging,
//! which writes `packages/`; that triggers notifications, which write no object. `dropzone/` triggers registration.
//! The exceptions are the marks with which validation and packaging go on in another invocation.
//! `models/` triggers nothing: it holds what serves, and nothing else.

use crate::domain::artifact::RESERVED_PREFIX;
use crate::domain::location::SCHEME;
use crate::domain::version::FilesOf;
use crate::domain::{
    Artifact, ArtifactPath, Digest, Location, ModelName, StoredPath, TenantName, VersionId,
    VersionNumber,
};
use crate::error::{Error, Result};

/// Longest key that S3 takes, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;

/// The drop-zone object that says: this drop is whole.
pub const COMPLETE_MARKER: &str = "_COMPLETE";

/// Prefix of a version's uploads.
pub fn incoming_prefix(id: &VersionId) -> String {
    format!("incoming/{}/{}/{}/", id.tenant, id.model.home(), id.number)
}

/// An artifact's upload, or an error if the key would be too long for S3.
pub fn incoming(id: &VersionId, path: &ArtifactPath) -> Result<String> {
    let key = format!("{}{path}", incoming_prefix(id));
    if key.len() > MAX_KEY_BYTES {
        return Err(Error::invalid(
            "path",
            format!(
                "artifact path `{}…` is too long together with the model's name: S3 takes {MAX_KEY_BYTES} bytes; shorten it",
                path.as_str().chars().take(60).collect::<String>()
            ),
        ));
    }
    Ok(key)
}

/// Where the object of a judged artifact lies.
pub fn artifact(id: &VersionId, artifact: &Artifact) -> String {
    match &artifact.key {
        Some(key) => key.clone(),
        None if artifact.packaged => file(id, &artifact.path),
        None => format!("{}{}", incoming_prefix(id), artifact.path),
    }
}

/// Prefix of a version's files for good: nothing but these, and the signature over them, lies under it.
pub fn files_prefix(id: &VersionId) -> String {
    format!("models/{}/{}/{}/", id.tenant, id.model.home(), id.number)
}

/// The same, of the version that holds the files of another one.
pub fn files_prefix_of(tenant: &TenantName, holder: &FilesOf) -> String {
    format!("models/{tenant}/{}/{}/", holder.home, holder.version)
}

/// A file of a version, for good; never longer than the key of its upload, which was checked.
pub fn file(id: &VersionId, path: &ArtifactPath) -> String {
    format!("{}{path}", files_prefix(id))
}

/// Prefix of what packaging says of a version.
pub fn package_prefix(id: &VersionId) -> String {
    format!("packages/{}/{}/{}/", id.tenant, id.model.home(), id.number)
}

/// What packaging says of a version, by its file name.
pub fn package(id: &VersionId, name: &str) -> String {
    format!("{}{name}", package_prefix(id))
}

/// The manifest for OCI clients of a version with many files.
pub fn oci_manifest(id: &VersionId) -> String {
    package(id, "oci-manifest.json")
}

/// Where the files of a version came from, exactly.
pub fn sources(id: &VersionId) -> String {
    package(id, "sources.json")
}

/// Prefix of the archives that were made of a version.
pub fn archives_prefix(id: &VersionId) -> String {
    format!("archives/{}/{}/{}/", id.tenant, id.model.home(), id.number)
}

/// An archive of a version, by its format.
pub fn archive(id: &VersionId, format: &str) -> String {
    format!("{}model.{format}", archives_prefix(id))
}

/// What begins the name of an object whose arrival makes an archive be made, or go on.
pub fn archive_mark(format: &str) -> String {
    format!("{RESERVED_PREFIX}ARCHIVE_{format}_")
}

/// The object whose arrival makes an archive be made, or go on.
pub fn archive_wanted(id: &VersionId, format: &str, ulid: &str) -> String {
    format!("{}{}{ulid}", reports_prefix(id), archive_mark(format))
}

/// The object whose arrival makes the packaging of a version go on.
pub fn packaging_continues(id: &VersionId, ulid: &str) -> String {
    format!("{}{RESERVED_PREFIX}CONTINUE_{ulid}", reports_prefix(id))
}

/// Prefix of a version's validation reports.
pub fn reports_prefix(id: &VersionId) -> String {
    format!("reports/{}/{}/{}/", id.tenant, id.model.home(), id.number)
}

/// The object whose arrival sets validation of a dropped version going: its artifacts lie elsewhere.
pub fn dropped(id: &VersionId) -> String {
    format!("{}{RESERVED_PREFIX}DROPPED", incoming_prefix(id))
}

/// The object whose arrival makes the validation of a version go on from a checkpoint.
pub fn continues(id: &VersionId, sequence: u64) -> String {
    format!(
        "{}{RESERVED_PREFIX}CONTINUE_{sequence:010}",
        incoming_prefix(id)
    )
}

/// Under which S3 copies artifacts of a version to compute their digests; no such object ever comes to be.
pub fn hashing(id: &VersionId) -> String {
    format!("{}{RESERVED_PREFIX}DIGEST", incoming_prefix(id))
}

/// Prefix of a model's drop zone.
pub fn drop_prefix(tenant: &TenantName, model: &ModelName) -> String {
    format!("dropzone/{tenant}/{model}/")
}

/// A large document, by its owner and its digest.
pub fn document(tenant: &TenantName, owner: &str, digest: &Digest) -> String {
    format!("documents/{tenant}/{owner}/{}.json", digest.hex())
}

/// The owner of the documents of a version.
pub fn documents_of(id: &VersionId) -> String {
    format!("{}/{}", id.model.home(), id.number)
}

/// Prefix of the documents of a version.
pub fn documents_prefix(id: &VersionId) -> String {
    format!("documents/{}/{}/", id.tenant, documents_of(id))
}

/// The owner of what a tenant's validation policies say: it never goes with a version.
pub const POLICIES: &str = "policies";

/// Where a deployment puts files of advisories for a tenant.
pub fn advisories_prefix(tenant: &TenantName) -> String {
    format!("advisories/{tenant}/")
}

/// Whether a policy of a tenant may name this object as its advisories.
pub fn is_advisories(tenant: &TenantName, key: &str) -> bool {
    key.len() <= MAX_KEY_BYTES
        && [
            advisories_prefix(tenant),
            format!("documents/{tenant}/{POLICIES}/"),
        ]
        .iter()
        .any(|prefix| {
            key.strip_prefix(prefix.as_str())
                .is_some_and(|rest| !rest.is_empty())
        })
}

/// An audit export that is too large for an answer, by its digest.
pub fn export(tenant: &TenantName, model: &ModelName, digest: &Digest, extension: &str) -> String {
    format!(
        "exports/{tenant}/{}/{}.{extension}",
        model.home(),
        digest.hex()
    )
}

/// The seal of a day.
pub fn seal(tenant: &TenantName, day: &str) -> String {
    format!("seals/{tenant}/{day}.json")
}

/// A validation report, by its digest.
pub fn report(id: &VersionId, digest: &Digest) -> String {
    format!("{}{}.json", reports_prefix(id), digest.hex())
}

/// The manifest of a version's package.
pub fn manifest(id: &VersionId) -> String {
    package(id, "manifest.json")
}

/// Prefix of everything that the runs and logged models of a tenant keep.
pub fn tracked_prefix(tenant: &TenantName) -> String {
    format!("runs/{tenant}/")
}

/// A file that a run or a logged model keeps.
pub fn tracked(tenant: &TenantName, path: &StoredPath) -> String {
    format!("{}{path}", tracked_prefix(tenant))
}

/// The root of all artifacts of a tenant, for runs and logged models whose experiment has none of its own.
///
/// With `is_s3` it is an address that clients read and write by themselves, with credentials of their own.
pub fn artifact_root(tenant: &TenantName, bucket: &str, is_s3: bool) -> String {
    if is_s3 {
        format!("s3://{bucket}/{}", tracked_prefix(tenant))
    } else {
        SCHEME.to_owned()
    }
}

/// Where the files of a root lie that is ours: of `mlflow-artifacts:` or of `s3:` in this bucket, and of this tenant.
pub fn tracked_of_uri(tenant: &TenantName, bucket: &str, uri: &str) -> Option<String> {
    if let Some(rest) = uri.strip_prefix("s3://") {
        let key = rest.strip_prefix(bucket)?.strip_prefix('/')?;
        let path = key.strip_prefix(&tracked_prefix(tenant))?;
        let path = StoredPath::parse(path.trim_end_matches('/')).ok()?;
        return Some(tracked(tenant, &path));
    }
    let path = uri.strip_prefix("mlflow-artifacts:")?;
    let path = path.trim_start_matches('/').trim_end_matches('/');
    match Location::of_uri_path(path).ok()? {
        Location::Stored(path) => Some(tracked(tenant, &path)),
        _ => None,
    }
}

/// Which version an object under `prefix` (such as `incoming`) belongs to, and the rest of its key.
pub fn version_of<'a>(prefix: &str, key: &'a str) -> Option<(VersionId, &'a str)> {
    let mut parts = key.strip_prefix(prefix)?.strip_prefix('/')?.splitn(4, '/');
    let id = VersionId {
        tenant: TenantName::parse(parts.next()?).ok()?,
        model: ModelName::of_home(parts.next()?).ok()?,
        number: VersionNumber::parse(parts.next()?).ok()?,
    };
    Some((id, parts.next()?))
}

/// Which model a drop-zone object is for, and its path within the drop.
pub fn drop_of(key: &str) -> Option<(TenantName, ModelName, &str)> {
    let mut parts = key.strip_prefix("dropzone/")?.splitn(3, '/');
    Some((
        TenantName::parse(parts.next()?).ok()?,
        ModelName::parse(parts.next()?).ok()?,
        parts.next()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_drawn_and_read_back() {
        let id = VersionId {
            tenant: TenantName::parse("team-a").unwrap(),
            model: ModelName::parse("my model+検査").unwrap(),
            number: VersionNumber::FIRST,
        };
        let key = incoming(&id, &ArtifactPath::parse("data/x.bin").unwrap()).unwrap();
        assert_eq!(key, "incoming/team-a/my model+検査/1/data/x.bin");
        assert_eq!(
            version_of("incoming", &key),
            Some((id.clone(), "data/x.bin"))
        );
        assert_eq!(version_of("reports", &key), None);
        assert_eq!(
            manifest(&id),
            "packages/team-a/my model+検査/1/manifest.json"
        );
        assert_eq!(
            dropped(&id),
            "incoming/team-a/my model+検査/1/_SLIPWAY_DROPPED"
        );
        assert_eq!(
            continues(&id, 7),
            "incoming/team-a/my model+検査/1/_SLIPWAY_CONTINUE_0000000007"
        );
        assert_eq!(
            hashing(&id),
            "incoming/team-a/my model+検査/1/_SLIPWAY_DIGEST"
        );
        assert_eq!(drop_of("dropzone/default/iris/a/b").unwrap().2, "a/b");
        assert_eq!(drop_of("dropzone/default/iris"), None);
        for (uri, key) in [
            (
                "mlflow-artifacts:/0/r/artifacts",
                Some("runs/team-a/0/r/artifacts"),
            ),
            (
                "s3://slipway/runs/team-a/0/r/artifacts",
                Some("runs/team-a/0/r/artifacts"),
            ),
            ("s3://slipway/runs/team-b/0/r/artifacts", None),
            ("s3://slipway/runs/team-a/../team-b/0/r/artifacts", None),
            ("s3://slipway2/runs/team-a/0/r/artifacts", None),
            ("mlflow-artifacts:/versions/iris/1", None),
            ("file:///etc", None),
        ] {
            assert_eq!(
                tracked_of_uri(&id.tenant, "slipway", uri).as_deref(),
                key,
                "{uri}"
            );
        }
        assert_eq!(
            tracked(
                &id.tenant,
                &StoredPath::parse("0/8a1f/artifacts/plot.png").unwrap()
            ),
            "runs/team-a/0/8a1f/artifacts/plot.png"
        );
    }
}
