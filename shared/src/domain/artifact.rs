//! Artifacts: the stored objects of a version, first as declared, then as judged.

use crate::domain::{ArtifactPath, Digest};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most artifacts in one version.
pub const MAX_ARTIFACTS: usize = 10_000;
/// Largest artifact, in bytes: what validation reads within a few hours, one invocation after another.
pub const MAX_ARTIFACT_BYTES: u64 = 1024 * 1024 * 1024 * 1024;
/// Names at the top of a version that begin so are the registry's own, in any case.
pub const RESERVED_PREFIX: &str = "_SLIPWAY_";
/// Up to this size, in bytes, an artifact is uploaded by one PUT.
pub const SINGLE_PUT_BYTES: u64 = 64 * 1024 * 1024;
/// Smallest part of a multipart upload that we plan, in bytes.
pub const MIN_PART_BYTES: u64 = 16 * 1024 * 1024;
/// Most parts that S3 takes for one upload.
pub const MAX_PARTS: u64 = 10_000;

/// What the client says that it will upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredArtifact {
    /// Path within the version.
    pub path: ArtifactPath,
    /// Exact size in bytes.
    #[serde(rename = "size_bytes")]
    pub size_bytes: u64,
    /// SHA-256 of the whole content; unknown only for what came through the drop zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The object's key, where it is not the version's own upload prefix (drop zone).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The object's version id, where it is pinned from the start (drop zone).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_version: Option<String>,
}

/// An artifact whose bytes were checked, pinned to the object that was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Path within the version.
    pub path: ArtifactPath,
    /// Exact size in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the whole content, proven.
    pub digest: Digest,
    /// Media type.
    pub media_type: String,
    /// Key of the object in the bucket, where it is under no prefix of the version's own: from the drop zone while it is
    /// not packaged, and under another version's final prefix where both have the same files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether it lies under the version's final prefix, and no longer where it was uploaded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub packaged: bool,
    /// Version id of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_version: Option<String>,
    /// `ETag` of the object.
    pub etag: String,
}

/// Checks a declaration as a whole: counts, sizes, collisions of paths.
pub fn check_declaration(artifacts: &[DeclaredArtifact]) -> Result<()> {
    if artifacts.len() > MAX_ARTIFACTS {
        return Err(Error::invalid(
            "artifacts",
            format!(
                "the version declares {} artifacts; {MAX_ARTIFACTS} is the most, so archive some of them",
                artifacts.len()
            ),
        ));
    }
    let mut seen: BTreeMap<String, &ArtifactPath> = BTreeMap::new();
    for artifact in artifacts {
        let path = &artifact.path;
        if artifact.size_bytes > MAX_ARTIFACT_BYTES {
            return Err(Error::invalid(
                "artifacts",
                format!(
                    "artifact `{path}` declares {} bytes; {MAX_ARTIFACT_BYTES} is the most, so split it into shards",
                    artifact.size_bytes
                ),
            )
            .with("path", path.as_str()));
        }
        let collision_key = path.collision_key();
        if collision_key.starts_with(&RESERVED_PREFIX.to_lowercase()) {
            return Err(Error::invalid(
                "artifacts",
                format!(
                    "artifact `{path}` begins with `{RESERVED_PREFIX}`, which the registry keeps for itself; rename it"
                ),
            )
            .with("path", path.as_str()));
        }
        if let Some(other) = seen.insert(collision_key, path) {
            return Err(Error::invalid(
                "artifacts",
                if other == path {
                    format!("artifact `{path}` is declared twice; declare it once")
                } else {
                    format!("artifacts `{other}` and `{path}` are one file on systems that fold case or Unicode; rename one")
                },
            )
            .with("path", path.as_str()));
        }
    }
    // A file and a folder of one name cannot lie side by side when the version is downloaded.
    for (key, path) in &seen {
        let mut parent = key.as_str();
        while let Some((folder, _)) = parent.rsplit_once('/') {
            if let Some(file) = seen.get(folder) {
                return Err(Error::invalid(
                    "artifacts",
                    format!("artifact `{file}` is also the folder of `{path}`; rename one"),
                )
                .with("path", path.as_str()));
            }
            parent = folder;
        }
    }
    Ok(())
}

/// How an artifact is cut into parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartPlan {
    /// Size of every part but the last, in bytes.
    pub part_size_bytes: u64,
    /// Number of parts, at least 1.
    pub part_count: u64,
    /// Size of the whole, in bytes.
    pub size_bytes: u64,
}

impl PartPlan {
    /// Plans the parts of an artifact, or `None` if one PUT does.
    pub fn of(size_bytes: u64) -> Option<Self> {
        if size_bytes <= SINGLE_PUT_BYTES {
            return None;
        }
        let mebibyte = 1024 * 1024;
        let part_size_bytes =
            MIN_PART_BYTES.max(size_bytes.div_ceil(MAX_PARTS).div_ceil(mebibyte) * mebibyte);
        Some(Self {
            part_size_bytes,
            part_count: size_bytes.div_ceil(part_size_bytes),
            size_bytes,
        })
    }

    /// Exact size of part `number` (counted from 1), in bytes.
    pub fn size_of(&self, number: u64) -> u64 {
        if number < self.part_count {
            self.part_size_bytes
        } else {
            self.size_bytes - self.part_size_bytes * (self.part_count - 1)
        }
    }
}

/// A media type by the path's extension, for artifacts that were declared without one.
pub fn media_type_of(path: &ArtifactPath) -> &'static str {
    let name = path.as_str().rsplit('/').next().unwrap_or_default();
    let extension = name
        .rsplit_once('.')
        .map(|(_, extension)| extension.to_ascii_lowercase());
    match (name, extension.as_deref()) {
        ("MLmodel", _) | (_, Some("yaml" | "yml")) => "application/yaml",
        (_, Some("json")) => "application/json",
        (_, Some("txt" | "lgb")) => "text/plain",
        (_, Some("md")) => "text/markdown",
        (_, Some("py")) => "text/x-python",
        (_, Some("csv")) => "text/csv",
        (_, Some("xml" | "pmml")) => "application/xml",
        (_, Some("zip" | "keras" | "skops")) => "application/zip",
        (_, Some("tar")) => "application/x-tar",
        (_, Some("gz" | "tgz")) => "application/gzip",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_an_artifact_exactly() {
        for size in [
            SINGLE_PUT_BYTES + 1,
            200_000_000,
            5 * 1024 * 1024 * 1024,
            MAX_ARTIFACT_BYTES,
        ] {
            let plan = PartPlan::of(size).unwrap();
            let total: u64 = (1..=plan.part_count)
                .map(|number| plan.size_of(number))
                .sum();
            assert_eq!(total, size);
            assert!(plan.part_count <= MAX_PARTS);
            assert!(plan.size_of(plan.part_count) > 0);
        }
        assert_eq!(PartPlan::of(SINGLE_PUT_BYTES), None);
    }
}
