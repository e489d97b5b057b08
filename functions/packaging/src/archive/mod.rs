//! Archives of a version on demand: `model.tar`, which S3 puts together from parts, and `model.tar.gz` of small models.
//!
//! Each is requested through the API, made once, and kept until its version is purged.
//! Whatever stops half-way goes on with the same upload, part by part.

mod plan;
mod tar;

use crate::SERVICE;
use crate::allowance::Allowance;
use bytes::Bytes;
use flate2::{Compression, GzBuilder};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use plan::{Entry, Part, Piece, TooLarge};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::{Artifact, EventType, Principal, Version, VersionId};
use shared::dynamodb::{Archive, ArchiveFormat, Outcome};
use shared::http::Caller;
use shared::s3::{CompletedPart, Source, keys};
use shared::telemetry::metrics::{Unit, emit};
use shared::{App, Error, ErrorCode, Result};
use std::collections::BTreeMap;
use std::io::Write as _;

/// Largest version of which a compressed archive is made, in bytes: all of it passes through the function's memory.
const MOST_COMPRESSED_BYTES: u64 = 256 * 1024 * 1024;
/// Parts that are made at the same time.
const PARALLEL_PARTS: usize = 4;
/// Pieces that are read at the same time.
const PARALLEL_READS: usize = 8;
/// What is read at once for a compressed archive, in bytes.
const READ_BYTES: u64 = 8 * 1024 * 1024;

/// A request for an archive.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestArchive {
    format: ArchiveFormat,
}

/// What became of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// It is there, or there is nothing to make one of.
    Done,
    /// It goes on in another invocation.
    Continues,
}

/// Requests an archive; one that was requested before is answered as it is.
pub(crate) async fn request(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    command: RequestArchive,
) -> Result<Outcome<Value>> {
    let version = app.registry.version(id).await?;
    version.require_downloadable()?;
    let id = &version.id;
    if version.is_reference() {
        return Err(Error::new(
            ErrorCode::ArtifactNotFound,
            format!("the files of {id} lie elsewhere, and nothing is made of them here"),
        ));
    }
    if version.package.is_none() {
        return Err(Error::new(
            ErrorCode::ArtifactNotFound,
            format!("{id} was not packaged yet; wait a moment after it is READY"),
        ));
    }
    let format = command.format;
    check_size(app, &version, format).await?;
    if let Some(known) = app.registry.find_archive(id, format).await? {
        let view = shown(&known);
        return app.keep_unchanged(caller, 202, view).await;
    }
    let now = app.clock.now();
    let archive = Archive {
        format,
        requested_by: caller.principal.clone(),
        requested_at: now,
        ready_at: None,
        size_bytes: None,
    };
    let view = shown(&archive);
    let answer = caller.answer(202, &view, now)?;
    let outcome = app.registry.request_archive(id, &archive, answer).await?;
    app.bucket
        .put_immutable(
            &keys::archive_wanted(id, format.as_str(), &app.ids.next()),
            Bytes::new(),
            "application/octet-stream",
        )
        .await?;
    Ok(outcome.map(|()| view))
}

/// The archives of a version, with URLs of those that are there.
pub(crate) async fn list(app: &App, id: &VersionId) -> Result<Value> {
    let version = app.registry.glance_version(id).await?;
    version.require_downloadable()?;
    let id = &version.id;
    let mut archives = Vec::new();
    for archive in app.registry.archives(id).await? {
        let mut view = shown(&archive);
        if archive.ready_at.is_some() {
            let name = format!("{}-{}.{}", id.model, id.number, archive.format.as_str());
            let key = keys::archive(id, archive.format.as_str());
            let request = app.bucket.presign_get(&key, None, &name).await?;
            view["method"] = request.method.into();
            view["url"] = request.url.into();
            view["headers"] = json!(request.headers);
        }
        archives.push(view);
    }
    Ok(json!({"archives": archives, "expires_in_seconds": app.bucket.presign_seconds()}))
}

fn shown(archive: &Archive) -> Value {
    let mut view = json!({
        "format": archive.format.as_str(),
        "status": if archive.ready_at.is_some() { "ready" } else { "pending" },
        "requested_by": archive.requested_by,
        "requested_at": archive.requested_at,
    });
    if let Some(at) = archive.ready_at {
        view["ready_at"] = json!(at);
    }
    if let Some(size) = archive.size_bytes {
        view["size_bytes"] = size.into();
    }
    view
}

/// Refuses what is too large for an archive of this format.
async fn check_size(app: &App, version: &Version, format: ArchiveFormat) -> Result<()> {
    match format {
        ArchiveFormat::TarGz if version.size_bytes > MOST_COMPRESSED_BYTES => Err(Error::invalid(
            "format",
            format!(
                "{} has {} bytes, and `tar.gz` is made of at most {MOST_COMPRESSED_BYTES}; ask for `tar`",
                version.id, version.size_bytes
            ),
        )),
        ArchiveFormat::TarGz => Ok(()),
        ArchiveFormat::Tar => {
            let artifacts = artifacts_of(app, version).await?;
            plan::plan(&entries(&artifacts), app.config.copy_bytes)
                .map(drop)
                .map_err(|reason| too_large(&version.id, reason))
        }
    }
}

fn too_large(id: &VersionId, reason: TooLarge) -> Error {
    let why = match reason {
        TooLarge::Parts(parts) => format!("{parts} parts, and S3 takes 10,000"),
        TooLarge::Bytes(bytes) => format!("{bytes} bytes, which is more than S3 takes"),
    };
    Error::invalid(
        "format",
        format!("an archive of {id} would have {why}; download the files one by one"),
    )
}

async fn artifacts_of(app: &App, version: &Version) -> Result<Vec<Artifact>> {
    let artifacts = app
        .load_document(&version.id, "artifacts", &version.artifacts)
        .await?;
    Ok(artifacts.unwrap_or_default())
}

fn entries(artifacts: &[Artifact]) -> Vec<Entry> {
    artifacts
        .iter()
        .map(|artifact| Entry {
            path: artifact.path.to_string(),
            size: artifact.size_bytes,
        })
        .collect()
}

/// Makes an archive that was requested.
pub(crate) async fn make(
    app: &App,
    id: &VersionId,
    format: ArchiveFormat,
    allowance: &Allowance,
) -> Result<Made> {
    let version = app.registry.version(id).await?;
    let id = &version.id;
    let Some(archive) = app.registry.find_archive(id, format).await? else {
        return Ok(Made::Done);
    };
    if archive.ready_at.is_some() || version.package.is_none() || version.purged_at.is_some() {
        return Ok(Made::Done);
    }
    let artifacts = artifacts_of(app, &version).await?;
    let key = keys::archive(id, format.as_str());
    let mut size = app
        .bucket
        .head(&key, None)
        .await?
        .map(|head| head.size_bytes);
    if size.is_none() {
        size = match format {
            ArchiveFormat::Tar => put_together(app, id, &artifacts, &key, allowance).await?,
            ArchiveFormat::TarGz => Some(compress(app, id, &artifacts, &key).await?),
        };
    }
    let Some(size) = size else {
        return put_off(app, id, format, allowance).await;
    };
    let event = app
        .event(
            EventType::VersionArchived,
            &id.tenant,
            &Principal::parse("slipway").expect("the literal is a valid principal"),
            &version.request_id,
        )
        .about(&id.model)
        .of_version(id.number)
        .with("format", format.as_str())
        .with("size_bytes", size);
    if app
        .registry
        .finish_archive(id, &archive, size, &event)
        .await?
    {
        tracing::info!(
            model.name = id.model.as_str(),
            version.number = id.number.get(),
            "Made the archive `{}` of {id}",
            format.as_str()
        );
        emit(SERVICE, &[("archives_made", Unit::Count, 1)]);
    }
    Ok(Made::Done)
}

/// Sets another invocation going, which goes on where this one stopped.
async fn put_off(
    app: &App,
    id: &VersionId,
    format: ArchiveFormat,
    allowance: &Allowance,
) -> Result<Made> {
    if !allowance.has_progressed() {
        return Err(Error::new(
            ErrorCode::Unavailable,
            format!("the time of this invocation is used up; another makes the archive of {id}"),
        ));
    }
    let mark = keys::archive_wanted(id, format.as_str(), &app.ids.next());
    app.bucket
        .put_immutable(&mark, Bytes::new(), "application/octet-stream")
        .await?;
    Ok(Made::Continues)
}

/// Has S3 put a tar archive together; its size, or `None` if the allowance was used up.
async fn put_together(
    app: &App,
    id: &VersionId,
    artifacts: &[Artifact],
    key: &str,
    allowance: &Allowance,
) -> Result<Option<u64>> {
    let parts = plan::plan(&entries(artifacts), app.config.copy_bytes)
        .map_err(|reason| too_large(id, reason))?;
    let size = parts.iter().map(Part::len).sum();
    if let [Part::Read(pieces)] = parts.as_slice() {
        let bytes = assemble(app, id, artifacts, pieces).await?;
        app.bucket
            .put_immutable(key, bytes, "application/x-tar")
            .await?;
        return Ok(Some(size));
    }
    let begun = app.bucket.uploads_of(key).await?;
    let mut known = BTreeMap::new();
    let upload = if let Some(upload) = begun.first() {
        let Some(parts) = app.bucket.parts(key, upload).await? else {
            return Err(Error::new(
                ErrorCode::Unavailable,
                format!("another invocation ends the archive of {id}"),
            ));
        };
        known.extend(parts.into_iter().map(|part| (part.number, part)));
        upload.clone()
    } else {
        app.bucket.begin_copy(key, "application/x-tar").await?
    };
    let upload = upload.as_str();
    let making: Vec<_> = (1_u32..)
        .zip(&parts)
        .map(|(number, part)| {
            let known = known.remove(&number);
            async move {
                if known.is_some() {
                    return Ok(known);
                }
                if !allowance.take() {
                    return Ok(None);
                }
                make_part(app, id, artifacts, part, (key, upload, number))
                    .await
                    .map(Some)
            }
        })
        .collect();
    let made: Vec<Option<CompletedPart>> = stream::iter(making)
        .buffered(PARALLEL_PARTS)
        .try_collect()
        .await?;
    let Some(made) = made.into_iter().collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let completed = app.bucket.complete_immutable(key, upload, &made).await?;
    for other in app.bucket.uploads_of(key).await? {
        app.bucket.abort_upload(key, &other).await?;
    }
    if completed.is_none() && app.bucket.head(key, None).await?.is_none() {
        return Err(Error::new(
            ErrorCode::Unavailable,
            format!("the upload of the archive of {id} was ended; it begins again"),
        ));
    }
    Ok(Some(size))
}

/// Makes one part of an upload.
async fn make_part(
    app: &App,
    id: &VersionId,
    artifacts: &[Artifact],
    part: &Part,
    (key, upload, number): (&str, &str, u32),
) -> Result<CompletedPart> {
    match part {
        Part::Read(pieces) => {
            let bytes = assemble(app, id, artifacts, pieces).await?;
            app.bucket.put_part(key, upload, number, bytes).await
        }
        Part::Copied(index, range) => {
            let artifact = &artifacts[*index];
            let source = Source {
                key: keys::artifact(id, artifact),
                object_version: artifact.object_version.clone(),
                etag: artifact.etag.clone(),
            };
            app.bucket
                .copy_part(&source, range.clone(), key, upload, number)
                .await?
                .ok_or_else(|| gone(id, artifact))
        }
    }
}

fn gone(id: &VersionId, artifact: &Artifact) -> Error {
    Error::internal(
        "archiving",
        format!("the file `{}` of {id} is gone", artifact.path),
    )
}

/// The bytes of a part that is put together here.
async fn assemble(
    app: &App,
    id: &VersionId,
    artifacts: &[Artifact],
    pieces: &[Piece],
) -> Result<Bytes> {
    let reading: Vec<_> = pieces
        .iter()
        .map(|piece| async move {
            match piece {
                Piece::Bytes(bytes) => Ok(Bytes::copy_from_slice(bytes)),
                Piece::File(index, range) => read(app, id, &artifacts[*index], range.clone()).await,
            }
        })
        .collect();
    let read: Vec<Bytes> = stream::iter(reading)
        .buffered(PARALLEL_READS)
        .try_collect()
        .await?;
    Ok(read.concat().into())
}

async fn read(
    app: &App,
    id: &VersionId,
    artifact: &Artifact,
    range: std::ops::Range<u64>,
) -> Result<Bytes> {
    app.bucket
        .read_range(
            &keys::artifact(id, artifact),
            artifact.object_version.as_deref(),
            &artifact.etag,
            range,
        )
        .await?
        .ok_or_else(|| gone(id, artifact))
}

/// Makes a compressed archive in memory; its size.
async fn compress(app: &App, id: &VersionId, artifacts: &[Artifact], key: &str) -> Result<u64> {
    let doing = "compressing an archive";
    let failed = |error| Error::internal(doing, error);
    // No name and no time, so that the same files make the same bytes.
    let mut encoder = GzBuilder::new()
        .operating_system(255)
        .write(Vec::new(), Compression::default());
    let mut sorted: Vec<&Artifact> = artifacts.iter().collect();
    sorted.sort_by(|left, right| left.path.cmp(&right.path));
    for artifact in sorted {
        let size = artifact.size_bytes;
        let mut pieces = vec![Bytes::from(tar::header(artifact.path.as_str(), size))];
        let mut start = 0;
        while start < size {
            let end = size.min(start + READ_BYTES);
            pieces.push(read(app, id, artifact, start..end).await?);
            start = end;
            encoder = written(encoder, std::mem::take(&mut pieces)).await?;
        }
        pieces.push(Bytes::from(vec![0; tar::padding(size)]));
        encoder = written(encoder, pieces).await?;
    }
    let trailer = vec![0; usize::try_from(tar::TRAILER).unwrap_or(0)];
    encoder.write_all(&trailer).map_err(failed)?;
    let bytes = encoder.finish().map_err(failed)?;
    let size = bytes.len() as u64;
    app.bucket
        .put_immutable(key, bytes.into(), "application/gzip")
        .await?;
    Ok(size)
}

type Encoder = flate2::write::GzEncoder<Vec<u8>>;

/// Compresses pieces on a thread of its own.
async fn written(mut encoder: Encoder, pieces: Vec<Bytes>) -> Result<Encoder> {
    tokio::task::spawn_blocking(move || {
        for piece in pieces {
            encoder.write_all(&piece)?;
        }
        Ok::<_, std::io::Error>(encoder)
    })
    .await
    .map_err(|error| Error::internal("compressing an archive", error))?
    .map_err(|error| Error::internal("compressing an archive", error))
}
