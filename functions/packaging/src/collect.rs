//! Frees bytes: uploads of versions that are packaged or failed, and everything of versions that are purged.
//!
//! Nothing is removed that a version refers to, or that a download under way may still read: uploads wait for the grace
//! time, deleted versions for the restore window. A purge is committed first, so that nothing can be restored whose
//! objects are about to go; then the objects go, as often as it takes.

use crate::SERVICE;
use serde::Deserialize;
use shared::domain::version::{Document, FilesOf};
use shared::domain::{
    Artifact, DeclaredArtifact, EventType, Principal, Status, Timestamp, Version, VersionId,
    file_set,
};
use shared::dynamodb::{Deleted, Held, Holder};
use shared::s3::{ObjectVersion, keys};
use shared::telemetry::metrics::{Unit, emit};
use shared::{App, Error, ErrorCode, Result};

/// What is to become of a version that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing of it can be freed any more, unless it changes.
    Done,
    /// There is something to free then.
    LookAgain(Timestamp),
}

/// Frees what can be freed of a version by now.
pub(crate) async fn collect(app: &App, id: &VersionId) -> Result<Next> {
    let version = match app.registry.version(id).await {
        Ok(version) => version,
        Err(error) if error.code == ErrorCode::VersionNotFound => return Ok(Next::Done),
        Err(error) => return Err(error),
    };
    let now = app.clock.now();
    let grace = app.config.collect_grace_seconds.saturating_mul(1000);
    if let Some(purged_at) = version.purged_at {
        free(app, &version).await?;
        // What an invocation that ran into the purge has still written is found by another look.
        let last = purged_at.plus_millis(grace);
        return Ok(if now < last {
            Next::LookAgain(last)
        } else {
            Next::Done
        });
    }
    let mut next = Next::Done;
    if let Some(deleted_at) = version.deleted_at {
        let due = deleted_at.plus_millis(app.config.restore_seconds.saturating_mul(1000));
        if now >= due {
            purge(app, &version, Deleted::Version(deleted_at)).await?;
            return Ok(Next::LookAgain(now.plus_millis(grace)));
        }
        next = Next::LookAgain(due);
    }
    if let Some(settled_at) = settled_at(&version) {
        let due = settled_at.plus_millis(grace);
        if now >= due {
            free_uploads(app, &version).await?;
        } else {
            next = match next {
                Next::LookAgain(other) if other < due => next,
                _ => Next::LookAgain(due),
            };
        }
    }
    Ok(next)
}

/// Since when a version has not needed its uploads any more.
fn settled_at(version: &Version) -> Option<Timestamp> {
    match (&version.package, &version.validation) {
        (Some(package), _) if package.files.is_some() => Some(package.at),
        (None, Some(validation)) if version.status == Status::FailedRegistration => {
            Some(validation.at)
        }
        _ => None,
    }
}

/// Purges a version whose restore window is over, and frees what was its own; whoever calls it looks at it once more.
pub(crate) async fn purge(app: &App, version: &Version, deleted: Deleted<'_>) -> Result<()> {
    let id = &version.id;
    let counted = counted(app, version).await?;
    let event = app
        .event(
            EventType::VersionPurged,
            &id.tenant,
            &Principal::parse("slipway").expect("the literal is a valid principal"),
            &version.request_id,
        )
        .about(&id.model)
        .of_version(id.number)
        .with("size_bytes", version.size_bytes);
    let held = counted.as_ref().map(|(files, holder)| (files, holder));
    match app
        .registry
        .purge_version(version, deleted, held, &event)
        .await?
    {
        Held::Committed => {}
        Held::VersionChanged(_) | Held::HolderChanged => {
            return Err(Error::new(
                ErrorCode::Unavailable,
                format!("{id} changed while it was to be purged"),
            ));
        }
    }
    tracing::info!(
        model.name = id.model.as_str(),
        version.number = id.number.get(),
        "Purged {id}"
    );
    emit(SERVICE, &[("versions_purged", Unit::Count, 1)]);
    let purged = Version {
        purged_at: Some(event.time),
        ..version.clone()
    };
    free(app, &purged).await
}

/// The set of files that a version is counted for, and its holder; none if its files are its alone.
async fn counted(app: &App, version: &Version) -> Result<Option<(shared::domain::Digest, Holder)>> {
    if version.package.is_none() && version.files_of.is_none() {
        return Ok(None);
    }
    let Some(artifacts) = artifacts(app, version).await? else {
        return Ok(None);
    };
    let files = file_set::digest(&artifacts);
    let holder = app.registry.find_holder(&version.id.tenant, &files).await?;
    Ok(holder
        .filter(|holder| match &version.files_of {
            Some(of) => holder.files == *of,
            None => holder.files == FilesOf::of(&version.id),
        })
        .map(|holder| (files, holder)))
}

/// The artifacts of a version that was judged; `None` if their list was removed.
async fn artifacts(app: &App, version: &Version) -> Result<Option<Vec<Artifact>>> {
    app.find_document(&version.id, "artifacts", &version.artifacts)
        .await
}

/// Removes everything of a purged version that no other version refers to.
async fn free(app: &App, version: &Version) -> Result<()> {
    let id = &version.id;
    free_uploads(app, version).await?;
    app.registry.forget_archives(id).await?;
    for prefix in [
        keys::reports_prefix(id),
        keys::package_prefix(id),
        keys::archives_prefix(id),
    ] {
        remove_under(app, &prefix).await?;
    }
    if version.package.is_none() {
        // Copies of a packaging that never got to its end.
        remove_under(app, &keys::files_prefix(id)).await?;
    }
    let Some(artifacts) = (match version.status {
        Status::Ready => artifacts(app, version).await?,
        Status::PendingRegistration | Status::FailedRegistration => None,
    }) else {
        return free_documents(app, version).await;
    };
    let digests = artifacts.iter().map(|artifact| artifact.digest.clone());
    app.registry.forget_contents(id, digests.collect()).await?;
    let files = file_set::digest(&artifacts);
    let holder = app
        .registry
        .find_holder(&id.tenant, &files)
        .await?
        .map(|holder| holder.files);
    if let Some(of) = &version.files_of
        && holder.as_ref() != Some(of)
    {
        remove_under(app, &keys::files_prefix_of(&id.tenant, of)).await?;
        let other = app.registry.version(&of.id(&id.tenant)?).await?;
        free_documents(app, &other).await?;
    }
    if holder == Some(FilesOf::of(id)) {
        // Others have the same files, and read from this version's list where these lie.
        return free_replaced(
            app,
            version,
            &[&version.metadata, &version.notes, &version.artifacts],
        )
        .await;
    }
    remove_under(app, &keys::files_prefix(id)).await?;
    // Last, because the list says which files were to go.
    free_documents(app, version).await
}

/// Removes the list of a purged version's artifacts; what else it says of itself stays readable.
async fn free_documents(app: &App, version: &Version) -> Result<()> {
    free_replaced(app, version, &[&version.metadata, &version.notes]).await?;
    app.registry.remove_document(&version.id, "artifacts").await
}

/// Removes the objects of documents that others took the place of.
async fn free_replaced(app: &App, version: &Version, kept: &[&Document]) -> Result<()> {
    let prefix = keys::documents_prefix(&version.id);
    let mut replaced = app.bucket.list_versions(&prefix).await?;
    if let Some(key) = &version.declared_at {
        replaced.extend(app.bucket.list_versions(key).await?);
    }
    let grace = app.config.collect_grace_seconds.saturating_mul(1000);
    let now = app.clock.now();
    replaced.retain(|object| {
        let is_kept = kept
            .iter()
            .any(|document| matches!(document, Document::Object(key) if *key == object.key));
        // What is younger may be named by a change that is under way.
        !is_kept && (version.purged_at.is_some() || now.since(object.written_at) >= grace)
    });
    app.bucket.remove_versions(&replaced).await
}

/// Removes what was uploaded for a version, and what was dropped for it.
async fn free_uploads(app: &App, version: &Version) -> Result<()> {
    let id = &version.id;
    let uploads = app.bucket.list_versions(&keys::incoming_prefix(id)).await?;
    if uploads.iter().any(|upload| upload.key == keys::dropped(id)) {
        let dropped = dropped(app, version).await?;
        app.bucket.remove_versions(&dropped).await?;
    }
    if let Some(package) = &version.package
        && package.files != Some(FilesOf::of(id))
    {
        // Copies that were made before it was known that another version has the same files.
        remove_under(app, &keys::files_prefix(id)).await?;
    }
    if version.purged_at.is_none() {
        let kept = [&version.metadata, &version.notes, &version.artifacts];
        free_replaced(app, version, &kept).await?;
    }
    abort_under(app, &keys::incoming_prefix(id)).await?;
    app.bucket.remove_versions(&uploads).await
}

/// The provenance, as far as it is read back.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    sources: Vec<DroppedObject>,
}

#[derive(Deserialize)]
struct DroppedObject {
    key: String,
    object_version: Option<String>,
}

/// The objects of the drop zone that became this version, exactly as they were taken.
async fn dropped(app: &App, version: &Version) -> Result<Vec<ObjectVersion>> {
    let id = &version.id;
    let sources: Vec<DroppedObject> = if version.package.is_some() {
        match app.bucket.read_whole(&keys::sources(id), None).await? {
            None => Vec::new(),
            Some(bytes) => {
                serde_json::from_slice::<Manifest>(&bytes)
                    .map_err(|error| Error::internal("reading the sources of a version", error))?
                    .sources
            }
        }
    } else {
        let declared: Vec<DeclaredArtifact> = app
            .find_document(id, "artifacts", &version.artifacts)
            .await?
            .unwrap_or_default();
        declared
            .into_iter()
            .filter_map(|artifact| {
                Some(DroppedObject {
                    key: artifact.key?,
                    object_version: artifact.object_version,
                })
            })
            .collect()
    };
    Ok(sources
        .into_iter()
        .filter(|source| source.key.starts_with("dropzone/"))
        .filter_map(|source| {
            Some(ObjectVersion {
                key: source.key,
                object_version: source.object_version?,
                written_at: Timestamp::default(),
                size_bytes: 0,
            })
        })
        .collect())
}

/// Removes every object under a prefix, with every upload that has not ended.
async fn remove_under(app: &App, prefix: &str) -> Result<()> {
    abort_under(app, prefix).await?;
    let objects = app.bucket.list_versions(prefix).await?;
    app.bucket.remove_versions(&objects).await
}

async fn abort_under(app: &App, prefix: &str) -> Result<()> {
    for (key, upload_id) in app.bucket.uploads_under(prefix).await? {
        app.bucket.abort_upload(&key, &upload_id).await?;
    }
    Ok(())
}
