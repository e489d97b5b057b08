//! Packages a ready version, once: its files to their place for good, then what is said of them, then the mark.
//!
//! Objects are written before the mark that names them, and are never overwritten; whatever stops half-way is done again
//! from the start, where all that was done already is found and left as it is.

use crate::SERVICE;
use crate::allowance::Allowance;
use crate::attest::{Subject, attest, client};
use crate::files::{self, Placed};
use crate::{manifest, oci};
use bytes::Bytes;
use shared::documents::INLINE_BYTES;
use shared::domain::version::{Document, FilesOf, Package};
use shared::domain::{
    Artifact, Digest, EventType, Principal, Status, Version, VersionId, file_set,
};
use shared::dynamodb::{Held, Packing};
use shared::s3::keys;
use shared::telemetry::metrics::{Unit, emit};
use shared::{App, Error, ErrorCode, Result};
use std::collections::HashMap;

/// What became of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packaged {
    /// It is unknown, deleted, failed, or packaged already.
    NothingToDo,
    /// It goes on in another invocation.
    Continues,
    /// It was packaged now.
    Now,
}

/// An object of a package, as it lies in the bucket.
pub(crate) struct Written {
    pub(crate) key: String,
    pub(crate) digest: Digest,
}

/// Packages a version.
pub(crate) async fn package(app: &App, id: &VersionId, allowance: &Allowance) -> Result<Packaged> {
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
    // From here on it is known where its model lies.
    let id = &version.id;
    let judged: Vec<Artifact> = app
        .load_document(id, "artifacts", &version.artifacts)
        .await?
        .unwrap_or_default();
    let files = file_set::digest(&judged);
    let (holder, is_held) = match holder_of(app, &version, &files).await? {
        Some(holder) => (holder, true),
        None => (FilesOf::of(id), false),
    };
    let artifacts = if holder == FilesOf::of(id) {
        match files::place(app, id, &judged, allowance).await? {
            Placed::All(artifacts) => artifacts,
            Placed::Partly => return put_off(app, id, allowance).await,
        }
    } else {
        share(app, id, &holder, &judged).await?
    };
    let manifest = put_manifest(app, &version, &artifacts).await?;
    let subject = Subject::of(app, &version, &judged, &artifacts).await?;
    let attestations = attest(app, &subject).await?;
    let signature = client::verify(app, id, &artifacts).await?;
    oci::describe(app, &subject, &attestations).await?;
    let mut packing = pack(
        app, &version, &artifacts, files, &holder, !is_held, &manifest,
    )
    .await?;
    packing.package.signature = signature;
    commit(app, &version, packing, &manifest).await
}

/// Reads a version; `None` if it is unknown, deleted, failed, packaged already, or has no files here.
async fn find_unpackaged(app: &App, id: &VersionId) -> Result<Option<Version>> {
    match app.registry.version(id).await {
        Ok(version) => Ok(Some(version).filter(|version| {
            version.deleted_at.is_none()
                && version.package.is_none()
                && !version.is_reference()
                && version.status != Status::FailedRegistration
        })),
        Err(error) if error.code == ErrorCode::VersionNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The version under whose prefix the files of this one lie already, which it then claims; itself if it is the holder.
async fn holder_of(app: &App, version: &Version, files: &Digest) -> Result<Option<FilesOf>> {
    let id = &version.id;
    if let Some(held) = &version.files_of {
        return Ok(Some(held.clone()));
    }
    let Some(holder) = app.registry.find_holder(&id.tenant, files).await? else {
        return Ok(None);
    };
    let holder = holder.files;
    if holder == FilesOf::of(id) {
        return Ok(Some(holder));
    }
    match app.registry.claim_files(id, files, &holder).await? {
        Held::Committed => Ok(Some(holder)),
        // Whatever changed, this message comes again and finds it.
        Held::VersionChanged(_) | Held::HolderChanged => Err(Error::new(
            ErrorCode::Unavailable,
            format!("the files of {id} are being packaged or purged elsewhere"),
        )),
    }
}

/// The artifacts of a version whose files another one holds.
async fn share(
    app: &App,
    id: &VersionId,
    holder: &FilesOf,
    judged: &[Artifact],
) -> Result<Vec<Artifact>> {
    let version = app.registry.version(&holder.id(&id.tenant)?).await?;
    let holder = &version.id;
    let held: Vec<Artifact> = app
        .load_document(holder, "artifacts", &version.artifacts)
        .await?
        .unwrap_or_default();
    let held: HashMap<&str, &Artifact> = held
        .iter()
        .map(|artifact| (artifact.path.as_str(), artifact))
        .collect();
    judged
        .iter()
        .map(|artifact| {
            let place = held
                .get(artifact.path.as_str())
                .filter(|place| place.packaged && place.digest == artifact.digest)
                .ok_or_else(|| {
                    Error::internal(
                        "packaging",
                        format!("{holder} does not hold `{}` of {id}", artifact.path),
                    )
                })?;
            Ok(Artifact {
                key: Some(keys::artifact(holder, place)),
                packaged: true,
                object_version: place.object_version.clone(),
                etag: place.etag.clone(),
                ..artifact.clone()
            })
        })
        .collect()
}

/// Sets another invocation going, which goes on where this one stopped.
async fn put_off(app: &App, id: &VersionId, allowance: &Allowance) -> Result<Packaged> {
    if !allowance.has_progressed() {
        return Err(Error::new(
            ErrorCode::Unavailable,
            format!("the time of this invocation is used up; {id} is packaged by another"),
        ));
    }
    let mark = keys::packaging_continues(id, &app.ids.next());
    app.bucket
        .put_immutable(&mark, Bytes::new(), "application/octet-stream")
        .await?;
    tracing::info!(
        model.name = id.model.as_str(),
        version.number = id.number.get(),
        "The packaging of {id} goes on in another invocation"
    );
    Ok(Packaged::Continues)
}

/// Writes the manifest, or finds that an earlier packaging wrote it.
///
/// That one tells the judgement of its time, should the version have been judged again since; all else is the same.
async fn put_manifest(app: &App, version: &Version, artifacts: &[Artifact]) -> Result<Written> {
    let key = keys::manifest(&version.id);
    let bytes = Bytes::from(manifest::write(version, artifacts)?);
    let mut digest = Digest::of(&bytes);
    let is_new = app
        .bucket
        .put_immutable(&key, bytes.clone(), manifest::MEDIA_TYPE)
        .await?;
    if !is_new {
        let existing = existing(app, &key).await?;
        if manifest::is_of_same_files(&existing, &bytes) {
            digest = Digest::of(&existing);
        } else {
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

/// An object that was there before this packaging wrote it.
pub(crate) async fn existing(app: &App, key: &str) -> Result<Bytes> {
    app.bucket.read_whole(key, None).await?.ok_or_else(|| {
        Error::new(
            ErrorCode::Unavailable,
            format!("`{key}` is being written by another packaging"),
        )
    })
}

/// Decides what the version will be marked with.
async fn pack(
    app: &App,
    version: &Version,
    artifacts: &[Artifact],
    files: Digest,
    holder: &FilesOf,
    becomes_holder: bool,
    manifest: &Written,
) -> Result<Packing> {
    let mut room = room_for_artifacts(version);
    let placed = app
        .place_document(
            &version.id.tenant,
            &keys::documents_of(&version.id),
            &artifacts,
            &mut room,
        )
        .await?;
    Ok(Packing {
        package: Package {
            manifest_digest: manifest.digest.clone(),
            at: app.clock.now(),
            files: Some(holder.clone()),
            signature: None,
        },
        files,
        becomes_holder,
        artifacts: placed.document,
        apart: placed.apart,
    })
}

/// What the version's item has room for, beside its other documents, in bytes.
fn room_for_artifacts(version: &Version) -> usize {
    [&version.metadata, &version.notes]
        .into_iter()
        .map(|document| match document {
            Document::Inline(json) => json.len(),
            Document::Absent | Document::Item | Document::Object(_) => 0,
        })
        .fold(INLINE_BYTES, usize::saturating_sub)
}

/// Marks the version with its package; one that was marked meanwhile stays as it is.
async fn commit(
    app: &App,
    version: &Version,
    mut packing: Packing,
    manifest: &Written,
) -> Result<Packaged> {
    let (id, request_id) = (&version.id, version.request_id.as_str());
    let actor = Principal::parse("slipway").expect("the literal is a valid principal");
    let mut event = app
        .event(EventType::VersionPackaged, &id.tenant, &actor, request_id)
        .about(&id.model)
        .of_version(id.number)
        .with("manifest_key", manifest.key.as_str())
        .with("manifest_digest", manifest.digest.as_str());
    if let Some(holder) = &packing.package.files {
        event = event.with("files_prefix", keys::files_prefix_of(&id.tenant, holder));
    }
    packing.package.at = event.time;
    let mut held = app.registry.pack_version(id, &packing, &event).await?;
    if held == Held::HolderChanged {
        // Another version was packaged with the same files meanwhile. This one has its own by now, and keeps them.
        packing.becomes_holder = false;
        held = app.registry.pack_version(id, &packing, &event).await?;
    }
    if held == Held::HolderChanged {
        return Err(Error::new(
            ErrorCode::Unavailable,
            format!("{id} changed while it was packaged"),
        ));
    }
    if held != Held::Committed {
        tracing::info!(
            model.name = id.model.as_str(),
            version.number = id.number.get(),
            request.id = request_id,
            "{id} was packaged by another packaging, or changed, meanwhile"
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
