//! Artifacts of a version: what they are, how to download them, what validation and packaging said of them.

use crate::attestations::require_files;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::{Artifact, ArtifactPath, DeclaredArtifact, Status, Version, VersionId};
use shared::http::{Caller, Pages, Paging};
use shared::s3::keys;
use shared::{App, Error, ErrorCode, Result};

/// Most downloads on a page: a manifest of all files of most versions, and well below what one answer may have.
const MOST_DOWNLOADS: usize = 1_000;

/// Which downloads.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DownloadParams {
    /// One artifact; all, page by page, if absent.
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
}

pub(crate) async fn list(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    paging: &Paging,
) -> Result<Value> {
    let version = app.registry.glance_version(id).await?;
    require_files(&version)?;
    let id = &version.id;
    let limit = paging.limit()?;
    if paging.order.is_some() {
        return Err(Error::invalid(
            "order",
            "artifacts are listed by path; leave `order` out",
        ));
    }
    let pages = Pages::new(
        app,
        caller,
        &["artifacts", id.model.as_str(), &id.number.to_string()],
    );
    let after = pages.after(paging.cursor.as_deref())?;
    let views: Vec<(String, Value)> = if version.status == Status::Ready {
        judged(app, &version)
            .await?
            .iter()
            .map(|artifact| (artifact.path.to_string(), shown(artifact)))
            .collect()
    } else {
        let declared: Vec<DeclaredArtifact> = app
            .load_document(id, "artifacts", &version.artifacts)
            .await?
            .unwrap_or_default();
        declared
            .iter()
            .map(|artifact| {
                let view = json!({
                    "path": artifact.path, "size_bytes": artifact.size_bytes,
                    "digest": artifact.digest, "media_type": artifact.media_type,
                });
                (artifact.path.to_string(), view)
            })
            .collect()
    };
    let (page, next) = cut(views, after.as_deref(), limit);
    Ok(pages.render("artifacts", page, next.as_deref()))
}

pub(crate) async fn downloads(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    params: &DownloadParams,
) -> Result<Value> {
    let version = app.registry.glance_version(id).await?;
    let id = &version.id;
    version.require_downloadable()?;
    let artifacts = judged(app, &version).await?;
    if let Some(path) = &params.path {
        if params.limit.is_some() || params.cursor.is_some() {
            return Err(Error::invalid(
                "path",
                "one artifact is no page; leave out `limit` and `cursor`, or `path`",
            ));
        }
        let path = ArtifactPath::parse(path.as_str())?;
        let artifact = artifacts
            .iter()
            .find(|artifact| artifact.path == path)
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::ArtifactNotFound,
                    format!("{id} has no artifact `{path}`; list its artifacts"),
                )
                .with("path", path.as_str())
            })?;
        return Ok(json!({
            "downloads": [presigned(app, id, artifact).await?],
            "expires_in_seconds": app.bucket.presign_seconds(),
        }));
    }
    let limit = match params.limit {
        Some(limit) if (1..=MOST_DOWNLOADS).contains(&limit) => limit,
        Some(limit) => {
            return Err(Error::invalid(
                "limit",
                format!("limit `{limit}` is out of bounds; use 1 to {MOST_DOWNLOADS}"),
            ));
        }
        None => Paging::default().limit()?,
    };
    let pages = Pages::new(
        app,
        caller,
        &["downloads", id.model.as_str(), &id.number.to_string()],
    );
    let after = pages.after(params.cursor.as_deref())?;
    let all = artifacts
        .into_iter()
        .map(|artifact| (artifact.path.to_string(), artifact))
        .collect();
    let (page, next) = cut(all, after.as_deref(), limit);
    let mut views = Vec::with_capacity(page.len());
    for artifact in &page {
        views.push(presigned(app, id, artifact).await?);
    }
    let mut answer = pages.render("downloads", views, next.as_deref());
    answer["expires_in_seconds"] = app.bucket.presign_seconds().into();
    Ok(answer)
}

pub(crate) async fn report(app: &App, id: &VersionId) -> Result<Value> {
    let version = app.registry.glance_version(id).await?;
    require_files(&version)?;
    let id = &version.id;
    let validation = version.validation.as_ref().ok_or_else(|| {
        Error::new(
            ErrorCode::ArtifactNotFound,
            format!("{id} was not validated yet; wait until its uploads are checked"),
        )
    })?;
    stored_json(app, id, &keys::report(id, &validation.report_digest)).await
}

pub(crate) async fn manifest(app: &App, id: &VersionId) -> Result<Value> {
    let version = app.registry.glance_version(id).await?;
    require_files(&version)?;
    let id = &version.id;
    version.package.as_ref().ok_or_else(|| {
        Error::new(
            ErrorCode::ArtifactNotFound,
            format!("{id} was not packaged yet; wait a moment after it is READY"),
        )
    })?;
    stored_json(app, id, &keys::manifest(id)).await
}

async fn stored_json(app: &App, id: &VersionId, key: &str) -> Result<Value> {
    let bytes = app.bucket.read_whole(key, None).await?.ok_or_else(|| {
        Error::internal(
            "reading an object",
            format!("object `{key}` of {id} is missing"),
        )
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::internal(format!("reading `{key}`"), error))
}

async fn judged(app: &App, version: &Version) -> Result<Vec<Artifact>> {
    Ok(app
        .load_document(&version.id, "artifacts", &version.artifacts)
        .await?
        .unwrap_or_default())
}

fn shown(artifact: &Artifact) -> Value {
    json!({
        "path": artifact.path, "size_bytes": artifact.size_bytes,
        "digest": artifact.digest, "media_type": artifact.media_type,
    })
}

async fn presigned(app: &App, id: &VersionId, artifact: &Artifact) -> Result<Value> {
    let name = artifact
        .path
        .as_str()
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let request = app
        .bucket
        .presign_get(
            &keys::artifact(id, artifact),
            artifact.object_version.as_deref(),
            name,
        )
        .await?;
    let mut view = shown(artifact);
    view["method"] = request.method.into();
    view["url"] = request.url.into();
    view["headers"] = json!(request.headers);
    Ok(view)
}

/// One page of things that are sorted by path, and the path to go on after.
fn cut<T>(all: Vec<(String, T)>, after: Option<&str>, limit: usize) -> (Vec<T>, Option<String>) {
    let mut rest = all
        .into_iter()
        .filter(|(path, _)| after.is_none_or(|after| path.as_str() > after))
        .peekable();
    let mut page = Vec::new();
    let mut last = None;
    while page.len() < limit {
        let Some((path, thing)) = rest.next() else {
            break;
        };
        last = Some(path);
        page.push(thing);
    }
    let next = if rest.peek().is_some() { last } else { None };
    (page, next)
}
