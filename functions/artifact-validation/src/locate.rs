//! Where a version's artifacts are: each is pinned to the object that is there.

use crate::source::Pinned;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use shared::domain::{ArtifactPath, DeclaredArtifact, VersionId};
use shared::s3::keys;
use shared::{App, Result};
use std::collections::HashSet;

/// Heads that are asked for at the same time.
const PARALLEL_HEADS: usize = 16;
/// Up to this many artifacts, heads tell what has arrived; for more, one listing is cheaper.
const HEADS_INSTEAD_OF_LISTING: usize = 12;

/// Where the declared artifacts are.
pub(crate) enum Located {
    /// All are there.
    Whole(Vec<Pinned>),
    /// These are not.
    Misses(Vec<ArtifactPath>),
}

/// Asks S3 for all declared artifacts, and pins each to the object that is there.
pub(crate) async fn locate(
    app: &App,
    id: &VersionId,
    declared: Vec<DeclaredArtifact>,
) -> Result<Located> {
    let mut wanted = Vec::with_capacity(declared.len());
    for artifact in declared {
        let key = match &artifact.key {
            Some(key) => key.clone(),
            None => keys::incoming(id, &artifact.path)?,
        };
        wanted.push((key, artifact));
    }
    let uploads = wanted
        .iter()
        .filter(|(_, artifact)| artifact.key.is_none())
        .count();
    if uploads > HEADS_INSTEAD_OF_LISTING {
        let listed: HashSet<String> = app
            .bucket
            .list(&keys::incoming_prefix(id), usize::MAX)
            .await?
            .into_iter()
            .map(|object| object.key)
            .collect();
        let missing: Vec<ArtifactPath> = wanted
            .iter()
            .filter(|(key, artifact)| artifact.key.is_none() && !listed.contains(key))
            .map(|(_, artifact)| artifact.path.clone())
            .collect();
        if !missing.is_empty() {
            return Ok(Located::Misses(missing));
        }
    }
    // Collected first: a lazy iterator of futures that borrow would not be `Send`.
    let heads: Vec<_> = wanted
        .into_iter()
        .map(|(key, artifact)| pin(app, key, artifact))
        .collect();
    let pinned: Vec<Result<Pinned, ArtifactPath>> = stream::iter(heads)
        .buffered(PARALLEL_HEADS)
        .try_collect()
        .await?;
    let mut whole = Vec::with_capacity(pinned.len());
    let mut missing = Vec::new();
    for artifact in pinned {
        match artifact {
            Ok(artifact) => whole.push(artifact),
            Err(path) => missing.push(path),
        }
    }
    Ok(if missing.is_empty() {
        Located::Whole(whole)
    } else {
        Located::Misses(missing)
    })
}

/// Pins an artifact to the object that is there; its path if there is none.
async fn pin(
    app: &App,
    key: String,
    declared: DeclaredArtifact,
) -> Result<Result<Pinned, ArtifactPath>> {
    let head = app
        .bucket
        .head(&key, declared.object_version.as_deref())
        .await?;
    Ok(match head {
        Some(mut head) => {
            // A pinned version stays pinned, whatever the answer repeats.
            head.object_version = head
                .object_version
                .or_else(|| declared.object_version.clone());
            Ok(Pinned {
                declared,
                key,
                head,
            })
        }
        None => Err(declared.path),
    })
}
