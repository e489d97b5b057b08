//! Puts the files of a version in their place for good: `models/<tenant>/<model>/<version>/<path>`.
//!
//! Each is copied by S3 from exactly the object that was judged, and never over anything, while S3 computes the SHA-256.
//! A file that is there already is a copy that an earlier invocation made; it is looked at, and not made again.

use crate::allowance::Allowance;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use shared::domain::{Artifact, VersionId};
use shared::s3::{CompletedPart, Copied, Copy, Source, keys};
use shared::{App, Error, ErrorCode, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// Files that are copied at the same time.
const PARALLEL_FILES: usize = 32;
/// Parts of one file that are copied at the same time.
const PARALLEL_PARTS: usize = 4;
/// Size of the parts by which a large file is copied, in bytes: S3 copies several side by side faster than one large one.
const PART_BYTES: u64 = 1024 * 1024 * 1024;
/// Most parts that S3 takes for one object.
const MOST_PARTS: u64 = 10_000;

/// What became of placing all files.
#[derive(Debug)]
pub(crate) enum Placed {
    /// All are in their place.
    All(Vec<Artifact>),
    /// The allowance was used up.
    Partly,
}

/// Puts every file in its place.
pub(crate) async fn place(
    app: &App,
    id: &VersionId,
    artifacts: &[Artifact],
    allowance: &Allowance,
) -> Result<Placed> {
    // Collected first: a lazy iterator of futures that borrow would not be `Send`.
    let placing: Vec<_> = artifacts
        .iter()
        .map(|artifact| place_one(app, id, artifact, allowance))
        .collect();
    let placed: Vec<Option<Artifact>> = stream::iter(placing)
        .buffered(PARALLEL_FILES)
        .try_collect()
        .await?;
    let all: Option<Vec<Artifact>> = placed.into_iter().collect();
    Ok(all.map_or(Placed::Partly, Placed::All))
}

/// Puts one file in its place; `None` if the allowance was used up.
async fn place_one(
    app: &App,
    id: &VersionId,
    artifact: &Artifact,
    allowance: &Allowance,
) -> Result<Option<Artifact>> {
    let key = keys::file(id, &artifact.path);
    let source = Source {
        key: keys::artifact(id, artifact),
        object_version: artifact.object_version.clone(),
        etag: artifact.etag.clone(),
    };
    let copied = if artifact.size_bytes > app.config.copy_bytes {
        match copy_by_parts(app, &source, &key, artifact, allowance).await? {
            Parts::Stopped => return Ok(None),
            Parts::Made(copied) => Some(copied),
            Parts::Exists => None,
            Parts::SourceGone => return Err(gone(id, artifact)),
        }
    } else {
        if !allowance.take() {
            return Ok(None);
        }
        match app
            .bucket
            .copy_immutable(&source, &key, &artifact.media_type)
            .await?
        {
            Copy::Made(copied) => Some(copied),
            Copy::Exists => {
                allowance.give_back();
                None
            }
            Copy::SourceGone => return Err(gone(id, artifact)),
        }
    };
    let copied = match copied {
        Some(copied) => copied,
        None => look(app, &key, artifact).await?,
    };
    if copied
        .digest
        .as_ref()
        .is_some_and(|digest| *digest != artifact.digest)
    {
        tracing::error!(
            object.key = key,
            artifact.digest = artifact.digest.as_str(),
            "A file's copy is not what was judged; somebody should look"
        );
        return Err(Error::internal(
            "packaging",
            format!("`{key}` is not the file that was judged"),
        ));
    }
    Ok(Some(Artifact {
        key: None,
        packaged: true,
        object_version: copied.object_version,
        etag: copied.etag,
        ..artifact.clone()
    }))
}

/// Looks at a file that was there already.
async fn look(app: &App, key: &str, artifact: &Artifact) -> Result<Copied> {
    let head = app.bucket.head(key, None).await?.ok_or_else(|| {
        Error::new(
            ErrorCode::Unavailable,
            format!("`{key}` is being written by another packaging"),
        )
    })?;
    if head.size_bytes != artifact.size_bytes {
        return Err(Error::internal(
            "packaging",
            format!(
                "`{key}` has {} bytes where {} were judged",
                head.size_bytes, artifact.size_bytes
            ),
        ));
    }
    Ok(Copied {
        object_version: head.object_version,
        etag: head.etag,
        digest: head.digest,
    })
}

fn gone(id: &VersionId, artifact: &Artifact) -> Error {
    Error::internal(
        "packaging",
        format!(
            "the object of `{}` that was judged for {id} is gone",
            artifact.path
        ),
    )
}

/// What became of a copy by parts.
enum Parts {
    Made(Copied),
    Exists,
    SourceGone,
    Stopped,
}

/// Copies a file that is too large for one call, going on with an upload that an earlier invocation began.
async fn copy_by_parts(
    app: &App,
    source: &Source,
    key: &str,
    artifact: &Artifact,
    allowance: &Allowance,
) -> Result<Parts> {
    let begun = app.bucket.uploads_of(key).await?;
    let mut known = BTreeMap::new();
    let upload_id = if let Some(upload_id) = begun.first() {
        let Some(parts) = app.bucket.parts(key, upload_id).await? else {
            return Ok(Parts::Exists);
        };
        known.extend(parts.into_iter().map(|part| (part.number, part)));
        upload_id.clone()
    } else {
        // An upload that ended left the file, and one that is to begin would end in vain.
        if app.bucket.head(key, None).await?.is_some() {
            return Ok(Parts::Exists);
        }
        app.bucket.begin_copy(key, &artifact.media_type).await?
    };
    let ranges = parts_of(artifact.size_bytes, app.config.copy_bytes);
    let upload = upload_id.as_str();
    let copying: Vec<_> = (1_u32..)
        .zip(ranges)
        .map(|(number, range)| {
            let known = known.remove(&number);
            async move {
                if let Some(part) = known {
                    return Ok(Some(Some(part)));
                }
                if !allowance.take() {
                    return Ok(None);
                }
                let part = app
                    .bucket
                    .copy_part(source, range, key, upload, number)
                    .await?;
                Ok::<_, Error>(Some(part))
            }
        })
        .collect();
    let outcomes: Vec<Option<Option<CompletedPart>>> = stream::iter(copying)
        .buffered(PARALLEL_PARTS)
        .try_collect()
        .await?;
    let Some(outcomes) = outcomes.into_iter().collect::<Option<Vec<_>>>() else {
        return Ok(Parts::Stopped);
    };
    let Some(parts) = outcomes.into_iter().collect::<Option<Vec<_>>>() else {
        app.bucket.abort_upload(key, upload).await?;
        return Ok(Parts::SourceGone);
    };
    let completed = app.bucket.complete_immutable(key, upload, &parts).await?;
    for other in begun
        .iter()
        .filter(|id| completed.is_none() || *id != upload)
    {
        app.bucket.abort_upload(key, other).await?;
    }
    if completed.is_none() && begun.is_empty() {
        app.bucket.abort_upload(key, upload).await?;
    }
    Ok(completed.map_or(Parts::Exists, Parts::Made))
}

/// The ranges of the parts by which a file is copied; none is smaller than the last but the last.
fn parts_of(size: u64, most: u64) -> Vec<Range<u64>> {
    let part = PART_BYTES.min(most).max(size.div_ceil(MOST_PARTS)).max(1);
    let mut ranges = Vec::new();
    let mut start = 0;
    while start < size {
        let end = size.min(start + part);
        ranges.push(start..end);
        start = end;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_file_exactly_and_within_the_limits_of_s3() {
        const GIB: u64 = 1024 * 1024 * 1024;
        for size in [1, GIB, 5 * GIB + 1, 936 * GIB, 1024 * GIB, 48 * 1024 * GIB] {
            let parts = parts_of(size, 5 * GIB);
            assert!(parts.len() as u64 <= MOST_PARTS);
            assert_eq!(parts.first().unwrap().start, 0);
            assert_eq!(parts.last().unwrap().end, size);
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            let (last, others) = parts.split_last().unwrap();
            assert!(last.end > last.start);
            for part in others {
                assert!((5 * 1024 * 1024..=5 * GIB).contains(&(part.end - part.start)));
            }
        }
    }
}
