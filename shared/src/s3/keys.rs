//! The shape of every object key; nothing else formats or reads one.
//!
//! ```text
//! uploads in flight     incoming/<tenant>/<home>/<version>/<path>
//! a drop was taken      incoming/<tenant>/<home>/<version>/_SLIPWAY_DROPPED
//! validation goes on    incoming/<tenant>/<home>/<version>/_SLIPWAY_CONTINUE_<sequence>
//! drop zone             dropzone/<tenant>/<model>/<path>
//! advisories            advisories/<tenant>/<path>
//! large documents       documents/<tenant>/<sha256>.json
//! validation reports    reports/<tenant>/<home>/<version>/<sha256>.json
//! packages              packages/<tenant>/<home>/<version>/manifest.json
//! artifacts of runs     runs/<tenant>/<path below the root of all artifacts>
//! ```
//!
//! A version's objects lie under the home of its model, which a renaming does not change; a drop is for a name.
//! Triggers and outputs are disjoint: `incoming/` triggers validation, which writes `reports/`; that triggers packaging,
//! which writes `packages/`; that triggers notifications, which write no object. `dropzone/` triggers registration.
//! The one exception is the mark with which validation goes on in another invocation.

use crate::domain::artifact::RESERVED_PREFIX;
use crate::domain::location::SCHEME;
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
        None => format!("{}{}", incoming_prefix(id), artifact.path),
    }
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

/// Prefix of a model's drop zone.
pub fn drop_prefix(tenant: &TenantName, model: &ModelName) -> String {
    format!("dropzone/{tenant}/{model}/")
}

/// A large document, by its digest.
pub fn document(tenant: &TenantName, digest: &Digest) -> String {
    format!("documents/{tenant}/{}.json", digest.hex())
}

/// Where a deployment puts files of advisories for a tenant.
pub fn advisories_prefix(tenant: &TenantName) -> String {
    format!("advisories/{tenant}/")
}

/// Whether a policy of a tenant may name this object as its advisories.
pub fn is_advisories(tenant: &TenantName, key: &str) -> bool {
    key.len() <= MAX_KEY_BYTES
        && [advisories_prefix(tenant), format!("documents/{tenant}/")]
            .iter()
            .any(|prefix| {
                key.strip_prefix(prefix.as_str())
                    .is_some_and(|rest| !rest.is_empty())
            })
}

/// A validation report, by its digest.
pub fn report(id: &VersionId, digest: &Digest) -> String {
    format!(
        "reports/{}/{}/{}/{}.json",
        id.tenant,
        id.model.home(),
        id.number,
        digest.hex()
    )
}

/// The manifest of a version's package.
pub fn manifest(id: &VersionId) -> String {
    format!(
        "packages/{}/{}/{}/manifest.json",
        id.tenant,
        id.model.home(),
        id.number
    )
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
