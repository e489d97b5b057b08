//! Manifests, indexes and descriptors of the OCI image specification 1.1, whose JSON is always the same bytes.
//!
//! Fields stand in the order of the specification, annotations in that of their names:
//! <https://github.com/opencontainers/image-spec/blob/main/manifest.md>.

use serde::Serialize;
use shared::domain::Digest;
use shared::oci::{INDEX_TYPE, MANIFEST_TYPE, Manifest};
use shared::{Error, Result};
use std::collections::BTreeMap;

/// Free text by name.
pub(super) type Annotations = BTreeMap<&'static str, String>;

/// What points to bytes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor<'a> {
    pub(super) media_type: &'a str,
    pub(super) digest: &'a Digest,
    pub(super) size: u64,
    /// The bytes themselves in base64, where they are few.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: Annotations,
}

impl<'a> Descriptor<'a> {
    pub(super) fn new(media_type: &'a str, digest: &'a Digest, size: u64) -> Self {
        Self {
            media_type,
            digest,
            size,
            data: None,
            artifact_type: None,
            annotations: Annotations::new(),
        }
    }
}

/// What an artifact consists of.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageManifest<'a> {
    schema_version: u8,
    media_type: &'static str,
    artifact_type: &'a str,
    config: Descriptor<'a>,
    layers: Vec<Descriptor<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Descriptor<'a>>,
    annotations: Annotations,
}

impl<'a> ImageManifest<'a> {
    pub(super) fn new(
        artifact_type: &'a str,
        config: Descriptor<'a>,
        layers: Vec<Descriptor<'a>>,
        annotations: Annotations,
    ) -> Self {
        Self {
            schema_version: 2,
            media_type: MANIFEST_TYPE,
            artifact_type,
            config,
            layers,
            subject: None,
            annotations,
        }
    }

    /// Says that this is about another manifest.
    pub(super) fn about(mut self, subject: Descriptor<'a>) -> Self {
        self.subject = Some(subject);
        self
    }
}

/// A list of manifests.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageIndex<'a> {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Descriptor<'a>>,
}

impl<'a> ImageIndex<'a> {
    pub(super) fn new(manifests: Vec<Descriptor<'a>>) -> Self {
        Self {
            schema_version: 2,
            media_type: INDEX_TYPE,
            manifests,
        }
    }
}

/// A manifest or an index as it is served.
pub(super) fn written(document: &impl Serialize) -> Result<Manifest> {
    serde_json::to_string(document)
        .map(Manifest::of)
        .map_err(|error| Error::internal("writing a manifest", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::oci::{EMPTY, EMPTY_TYPE};

    #[test]
    fn bytes_are_always_the_same() {
        let digest = Digest::of(EMPTY);
        let empty = Descriptor {
            data: Some("e30="),
            ..Descriptor::new(EMPTY_TYPE, &digest, 2)
        };
        let layer = Descriptor {
            annotations: Annotations::from([("b", "2".to_owned()), ("a", "1".to_owned())]),
            ..Descriptor::new("text/plain", &digest, 2)
        };
        let annotations = Annotations::from([("c", "3".to_owned())]);
        let manifest = ImageManifest::new("text/plain", empty, vec![layer], annotations)
            .about(Descriptor::new(MANIFEST_TYPE, &digest, 2));
        let name = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(
            written(&manifest).unwrap().json.unwrap(),
            format!(
                "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"artifactType\":\"text/plain\",\
                 \"config\":{{\"mediaType\":\"application/vnd.oci.empty.v1+json\",\"digest\":\"{name}\",\"size\":2,\"data\":\"e30=\"}},\
                 \"layers\":[{{\"mediaType\":\"text/plain\",\"digest\":\"{name}\",\"size\":2,\"annotations\":{{\"a\":\"1\",\"b\":\"2\"}}}}],\
                 \"subject\":{{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"{name}\",\"size\":2}},\
                 \"annotations\":{{\"c\":\"3\"}}}}"
            )
        );
    }
}
