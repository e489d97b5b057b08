//! Blobs: redirects to the bytes in S3.

use crate::find::{self, Wants};
use crate::handlers::answer;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use shared::domain::{Digest, Repository};
use shared::oci::{DIGEST_HEADER, EMPTY, OciCode, refused};
use shared::{App, Error, Result};

/// Sends the client to a blob's bytes, or says how many there are.
pub(crate) async fn get(
    app: &App,
    repository: &Repository,
    digest: &str,
    is_head: bool,
) -> Result<Response> {
    let unknown = || {
        refused(
            OciCode::BlobUnknown,
            "there is no such blob in this repository",
        )
    };
    let digest = find::digest_of(digest)?.ok_or_else(unknown)?;
    let value = HeaderValue::from_str(digest.as_ref())
        .map_err(|error| Error::internal("answering a blob", error))?;
    let mut response = if digest == Digest::of(EMPTY) {
        // The configuration of every referrer; there is no object of it.
        app.registry
            .home_of(&repository.tenant, &repository.model)
            .await?;
        answer("application/octet-stream", EMPTY)
    } else {
        let holder = find::by_digest(app, repository, &digest, Wants::Blob).await?;
        let blob = holder
            .and_then(|holder| holder.holding.blob)
            .ok_or_else(unknown)?;
        if is_head {
            let mut response = answer("application/octet-stream", Body::empty());
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_LENGTH, blob.size_bytes.into());
            headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            response
        } else {
            let name = blob.key.rsplit('/').next().unwrap_or_default();
            let request = app
                .bucket
                .presign_get(&blob.key, blob.object_version.as_deref(), name)
                .await?;
            let location = HeaderValue::from_str(&request.url)
                .map_err(|error| Error::internal("presigning a download", error))?;
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            let headers = response.headers_mut();
            headers.insert(header::LOCATION, location);
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
    };
    response.headers_mut().insert(DIGEST_HEADER, value);
    Ok(response)
}
