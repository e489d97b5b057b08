//! Packages a ready version, once: makes what its package consists of, then marks the version.
//!
//! The object is written before the mark that names it, and is never overwritten; whatever stops half-way is done again
//! from the start, with the same result.
//! A further kind of package is a variant of [`Kind`] with a module of its own that makes its bytes.

use crate::{SERVICE, manifest};
use bytes::Bytes;
use shared::domain::version::Package;
use shared::domain::{Artifact, Digest, EventType, Principal, Status, Version, VersionId};
use shared::dynamodb::VersionChange;
use shared::s3::keys;
use shared::telemetry::metrics::{Unit, emit};
use shared::{App, Error, ErrorCode, Result};

/// What became of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packaged {
    /// It is unknown, deleted, failed, or packaged already.
    NothingToDo,
    /// It was packaged now.
    Now,
}

/// The kinds of package that are made of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The manifest alone: the artifacts stay where they are.
    Manifest,
}

/// An object of a package, as it lies in the bucket.
struct Written {
    key: String,
    digest: Digest,
}

/// Packages a version.
pub async fn package(app: &App, id: &VersionId) -> Result<Packaged> {
    let Some(version) = find_unpackaged(app, id).await? else {
        tracing::debug!(
            model.name = id.model.as_str(),
            version.number = id.number.get(),
            "There is nothing to package in {id}"
        );
        return Ok(Packaged::NothingToDo);
    };
    if version.status == Status::PendingRegistration {
        // The report is written just before the judgement; this event came in between.
        return Err(Error::new(
            ErrorCode::Unavailable,
            format!("{id} has a report but is not judged yet"),
        ));
    }
    let artifacts: Vec<Artifact> = app
        .load_document(&version.id, "artifacts", &version.artifacts)
        .await?
        .unwrap_or_default();
    let manifest = make(app, Kind::Manifest, &version, &artifacts).await?;
    mark(app, &version, &manifest).await
}

/// Reads a version; `None` if it is unknown, deleted, failed, or packaged already.
async fn find_unpackaged(app: &App, id: &VersionId) -> Result<Option<Version>> {
    match app.registry.version(id).await {
        Ok(version) => Ok(Some(version).filter(|version| {
            version.deleted_at.is_none()
                && version.package.is_none()
                && version.status != Status::FailedRegistration
        })),
        Err(error) if error.code == ErrorCode::VersionNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes one kind of package.
async fn make(app: &App, kind: Kind, version: &Version, artifacts: &[Artifact]) -> Result<Written> {
    match kind {
        Kind::Manifest => {
            let bytes = Bytes::from(manifest::write(version, artifacts)?);
            put(
                app,
                keys::manifest(&version.id),
                bytes,
                manifest::MEDIA_TYPE,
            )
            .await
        }
    }
}

/// Writes an object of a package, or finds that it is there with the same bytes.
async fn put(app: &App, key: String, bytes: Bytes, media_type: &str) -> Result<Written> {
    let digest = Digest::of(&bytes);
    let is_new = app
        .bucket
        .put_immutable(&key, bytes.clone(), media_type)
        .await?;
    if !is_new {
        let existing = app.bucket.read_whole(&key, None).await?.ok_or_else(|| {
            Error::new(
                ErrorCode::Unavailable,
                format!("`{key}` is being written by another packaging"),
            )
        })?;
        if existing != bytes {
            tracing::error!(
                object.key = key,
                artifact.digest = Digest::of(&existing).as_str(),
                expected.digest = digest.as_str(),
                "An immutable object has other bytes than this version makes; somebody should look"
            );
            return Err(Error::internal(
                "packaging",
                format!("`{key}` exists with other bytes"),
            ));
        }
    }
    Ok(Written { key, digest })
}

/// Marks the version with its package; one that was marked meanwhile stays as it is.
async fn mark(app: &App, version: &Version, manifest: &Written) -> Result<Packaged> {
    let (id, request_id) = (&version.id, version.request_id.as_str());
    let actor = Principal::parse("slipway").expect("the literal is a valid principal");
    let event = app
        .event(EventType::VersionPackaged, &id.tenant, &actor, request_id)
        .about(&id.model)
        .of_version(id.number)
        .with("manifest_key", manifest.key.as_str())
        .with("manifest_digest", manifest.digest.as_str());
    let change = VersionChange::Pack(Package {
        manifest_digest: manifest.digest.clone(),
        at: event.time,
    });
    let committed = app
        .registry
        .change_version(id, &change, &event, None)
        .await?;
    if committed.is_err() {
        tracing::info!(
            model.name = id.model.as_str(),
            version.number = id.number.get(),
            request.id = request_id,
            "{id} was packaged by another packaging meanwhile"
        );
        return Ok(Packaged::NothingToDo);
    }
    tracing::info!(
        model.name = id.model.as_str(),
        version.number = id.number.get(),
        request.id = request_id,
        "Packaged {id}"
    );
    emit(SERVICE, &[("versions_packaged", Unit::Count, 1)]);
    Ok(Packaged::Now)
}
