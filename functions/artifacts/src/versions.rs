//! What registered versions hold: the objects that were judged, whatever happened to the run's files since.

use crate::download::{Held, no_artifact};
use shared::domain::{Action, Artifact, ArtifactPath, Status, VersionId};
use shared::http::Caller;
use shared::s3::{Folder, keys};
use shared::{App, Result};
use std::collections::BTreeSet;

/// The version where its model lies by now, and its artifacts.
async fn artifacts(
    app: &App,
    caller: &Caller,
    id: &VersionId,
) -> Result<(VersionId, Vec<Artifact>)> {
    caller.may(Action::Read, &id.model)?;
    let mut version = app.registry.glance_version(id).await?;
    if version.status != Status::Ready {
        // A client that was told a moment ago that it is ready must find it so.
        version = app.registry.version(id).await?;
    }
    version.require_downloadable()?;
    let artifacts = app
        .load_document(&version.id, "artifacts", &version.artifacts)
        .await?
        .unwrap_or_default();
    Ok((version.id, artifacts))
}

/// The object of one file of a version.
pub(crate) async fn held(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    path: &ArtifactPath,
) -> Result<Held> {
    let (id, artifacts) = artifacts(app, caller, id).await?;
    let artifact = artifacts
        .iter()
        .find(|artifact| artifact.path == *path)
        .ok_or_else(|| no_artifact(path.as_str()))?;
    Ok(Held {
        key: keys::artifact(&id, artifact),
        object_version: artifact.object_version.clone(),
        size_bytes: artifact.size_bytes,
        name: path
            .as_str()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned(),
    })
}

/// What lies directly in a folder of a version.
pub(crate) async fn folder(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    path: Option<&ArtifactPath>,
) -> Result<Folder> {
    let prefix = path.map_or_else(String::new, |path| format!("{path}/"));
    let mut folders = BTreeSet::new();
    let mut files = Vec::new();
    for artifact in artifacts(app, caller, id).await?.1 {
        let Some(rest) = artifact.path.as_str().strip_prefix(&prefix) else {
            continue;
        };
        match rest.split_once('/') {
            Some((folder, _)) => {
                folders.insert(folder.to_owned());
            }
            None => files.push((rest.to_owned(), artifact.size_bytes)),
        }
    }
    Ok(Folder {
        files,
        folders: folders.into_iter().collect(),
    })
}
