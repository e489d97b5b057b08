//! Manifests by tag and by digest.

use crate::find::{self, Pulled, Wants};
use crate::handlers::answer;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use shared::domain::{Digest, Repository};
use shared::oci::{
    DIGEST_HEADER, INDEX_TYPE, MANIFEST_TYPE, Manifest, OciCode, OciDocument, refused,
};
use shared::s3::keys;
use shared::{App, Error, Result};

/// Answers a manifest; what a tag means changes, so that nothing may keep it without asking.
pub(crate) async fn get(
    app: &App,
    repository: &Repository,
    reference: &str,
    headers: &HeaderMap,
) -> Result<Response> {
    let (pulled, digest) = if reference.contains(':') {
        by_digest(app, repository, find::digest_of(reference)?).await?
    } else if let Some(subject) = subject_of(reference) {
        // Where clients look that do not know the endpoint of referrers.
        let (pulled, digest) = by_digest(app, repository, Some(subject)).await?;
        let index = pulled
            .document
            .index
            .as_ref()
            .map(|index| index.digest.clone());
        let is_subject = is_model(&pulled.document, &digest);
        let index = index.filter(|_| is_subject).ok_or_else(unknown)?;
        (pulled, index)
    } else {
        let pulled = find::by_tag(app, repository, reference).await?;
        let manifest = pulled.document.manifest.as_ref().ok_or_else(|| {
            refused(
                OciCode::ManifestUnknown,
                "the version has too many files for a manifest; fetch `package.files_uri`",
            )
        })?;
        let digest = manifest.digest.clone();
        (pulled, digest)
    };
    let document = &pulled.document;
    let manifest = document
        .manifests()
        .find(|manifest| manifest.digest == digest)
        .ok_or_else(unknown)?;
    let media_type = match &document.index {
        Some(index) if index.digest == digest => INDEX_TYPE,
        _ => MANIFEST_TYPE,
    };
    if !accepts(headers, media_type) {
        return Err(refused(
            OciCode::NotAcceptable,
            format!("this is an `{media_type}`; accept it"),
        ));
    }
    let etag = format!("\"{digest}\"");
    let is_known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| matches!(tag.trim().trim_start_matches("W/"), tag if tag == etag || tag == "*"));
    let mut response = if is_known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        answer(media_type, bytes_of(app, &pulled, manifest).await?)
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (DIGEST_HEADER, digest.to_string()),
        ("etag", etag),
        ("cache-control", "private, no-cache".to_owned()),
    ] {
        let value = HeaderValue::from_str(&value)
            .map_err(|error| Error::internal("answering a manifest", error))?;
        headers.insert(name, value);
    }
    Ok(response)
}

/// What has a digest, if that is the digest of a manifest.
async fn by_digest(
    app: &App,
    repository: &Repository,
    digest: Option<Digest>,
) -> Result<(Pulled, Digest)> {
    let digest = digest.ok_or_else(unknown)?;
    let pulled = document_of(app, repository, &digest)
        .await?
        .ok_or_else(unknown)?;
    Ok((pulled, digest))
}

/// What the version is that has a manifest of this digest; `None` if there is none that is given out.
pub(crate) async fn document_of(
    app: &App,
    repository: &Repository,
    digest: &Digest,
) -> Result<Option<Pulled>> {
    let holder = find::by_digest(app, repository, digest, Wants::Document).await?;
    Ok(holder
        .filter(|holder| holder.holding.blob.is_none())
        .and_then(|holder| {
            Some(Pulled {
                id: holder.id,
                document: holder.document?,
            })
        }))
}

/// Whether a digest is that of the version's own manifest.
pub(crate) fn is_model(document: &OciDocument, digest: &Digest) -> bool {
    document
        .manifest
        .as_ref()
        .is_some_and(|manifest| manifest.digest == *digest)
}

/// The bytes of a manifest, exactly as they were made.
async fn bytes_of(app: &App, pulled: &Pulled, manifest: &Manifest) -> Result<Body> {
    if let Some(json) = &manifest.json {
        return Ok(json.clone().into());
    }
    let key = keys::oci_manifest(&pulled.id);
    let bytes = app.bucket.read_whole(&key, None).await?;
    bytes
        .map(Body::from)
        .ok_or_else(|| Error::internal("reading a manifest", format!("object `{key}` is missing")))
}

fn unknown() -> Error {
    refused(
        OciCode::ManifestUnknown,
        "there is no such manifest in this repository",
    )
}

/// The subject in a tag of the specification's referrers tag schema, such as `sha256-e3b0…`.
fn subject_of(tag: &str) -> Option<Digest> {
    let hex = tag.strip_prefix("sha256-")?;
    Digest::parse(format!("sha256:{hex}")).ok()
}

/// Whether a client takes an answer of this type; one that does not say takes any.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let mut ranges = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .peekable();
    ranges.peek().is_none()
        || ranges.any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let range = parts.next().unwrap_or_default();
            let is_refused = parts.any(|part| {
                part.strip_prefix("q=")
                    .and_then(|quality| quality.parse::<f32>().ok())
                    .is_some_and(|quality| quality <= 0.0)
            });
            let matches = matches!(range, "*/*" | "application/*" | "application/json")
                || range.eq_ignore_ascii_case(media_type);
            matches && !is_refused
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_what_it_accepts() {
        for (accept, expected) in [
            (&[][..], true),
            (&["*/*"][..], true),
            (
                &["application/vnd.docker.distribution.manifest.v2+json"][..],
                false,
            ),
            (
                &[
                    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json;q=0.5",
                ][..],
                true,
            ),
            (
                &["text/html", "application/vnd.oci.image.manifest.v1+json"][..],
                true,
            ),
            (
                &["application/vnd.oci.image.manifest.v1+json;q=0"][..],
                false,
            ),
            (&["application/vnd.oci.image.index.v1+json"][..], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(header::ACCEPT, HeaderValue::from_static(value));
            }
            assert_eq!(accepts(&headers, MANIFEST_TYPE), expected, "{accept:?}");
        }
    }
}
