//! Referrers of a manifest: the attestations of the version.

use crate::find::digest_of;
use crate::handlers::answer;
use crate::manifests::{document_of, is_model};
use axum::response::Response;
use http::HeaderValue;
use serde_json::{Value, json};
use shared::domain::Repository;
use shared::oci::INDEX_TYPE;
use shared::{App, Error, Result};

/// Says that the list was filtered, and by what.
const FILTERS_APPLIED: &str = "oci-filters-applied";

/// The index of what refers to a manifest, empty if nothing does.
pub(crate) async fn list(
    app: &App,
    repository: &Repository,
    digest: &str,
    artifact_type: Option<&str>,
) -> Result<Response> {
    let pulled = match digest_of(digest) {
        Ok(Some(digest)) => document_of(app, repository, &digest)
            .await?
            .filter(|pulled| is_model(&pulled.document, &digest)),
        Ok(None) => None,
        Err(error) => return Err(error),
    };
    let index = pulled.and_then(|pulled| pulled.document.index?.json);
    let mut index: Value = match index {
        Some(json) => serde_json::from_str(&json)
            .map_err(|error| Error::internal("reading an index", error))?,
        None => json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}),
    };
    if let Some(wanted) = artifact_type
        && let Some(manifests) = index["manifests"].as_array_mut()
    {
        manifests.retain(|manifest| manifest["artifactType"] == wanted);
    }
    let mut response = answer(INDEX_TYPE, index.to_string());
    if artifact_type.is_some() {
        response
            .headers_mut()
            .insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}
