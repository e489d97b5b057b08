//! What a version is to OCI clients: a model of the CNCF's `ModelPack`, with its attestations as referrers.
//!
//! Specification: <https://github.com/modelpack/model-spec/blob/main/docs/spec.md>.
//! Layers are raw files, so that a layer's blob is the very object of the file, and no byte is copied.
//! All manifests are made once, when the version is packaged, and kept byte for byte: their digests are their names.

mod config;
mod layers;

use crate::attest::{Attestation, Subject, put_once};
use serde::Serialize;
use serde_json::{Map, Value, json};
use shared::documents::ITEM_BYTES;
use shared::domain::{Artifact, Digest};
use shared::dynamodb::{Blob, Contents};
use shared::oci::{
    EMPTY, EMPTY_TYPE, INDEX_TYPE, MANIFEST_TYPE, MAX_MANIFEST_BYTES, Manifest, OciDocument,
};
use shared::s3::keys;
use shared::{App, Error, Result};

/// What kind of artifact a model is.
const MODEL_TYPE: &str = "application/vnd.cncf.model.manifest.v1+json";
/// Media type of a model's configuration.
const CONFIG_TYPE: &str = "application/vnd.cncf.model.config.v1+json";
/// Annotation with the time at which something was made.
const CREATED: &str = "org.opencontainers.image.created";
/// Annotation with the name of a file, by which most clients name what they pull.
const TITLE: &str = "org.opencontainers.image.title";

/// What points to bytes: <https://github.com/opencontainers/image-spec/blob/main/descriptor.md>.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: &'a Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    annotations: Map<String, Value>,
}

impl<'a> Descriptor<'a> {
    fn new(media_type: &'a str, digest: &'a Digest, size: u64) -> Self {
        Self {
            media_type,
            digest,
            size,
            artifact_type: None,
            annotations: Map::new(),
        }
    }
}

/// Makes what a version is to OCI clients, writes the parts that are objects, and indexes what it has by digest.
///
/// What an interrupted packaging left is found and made again as it was; nothing is given out before the package is
/// committed.
pub(crate) async fn describe(
    app: &App,
    subject: &Subject<'_>,
    attestations: &[Attestation],
) -> Result<()> {
    let id = &subject.version.id;
    let mut artifacts: Vec<&Artifact> = subject.artifacts.iter().collect();
    artifacts.sort_by(|left, right| left.path.cmp(&right.path));

    let config = to_json(&config::write(subject, &artifacts))?;
    let key = keys::package(id, "oci-config.json");
    let config = put_once(app, key.clone(), config.into(), CONFIG_TYPE).await?;
    let mut contents = Contents::new();
    let own = |key: String, size_bytes: u64| {
        Some(Blob {
            key,
            object_version: None,
            size_bytes,
        })
    };
    contents.insert(config.digest.clone(), own(key, config.bytes.len() as u64));
    for artifact in &artifacts {
        let blob = Blob {
            key: keys::artifact(id, artifact),
            object_version: artifact.object_version.clone(),
            size_bytes: artifact.size_bytes,
        };
        contents.insert(artifact.digest.clone(), Some(blob));
    }
    for attestation in attestations {
        let key = keys::package(id, attestation.name);
        contents.insert(attestation.digest.clone(), own(key, attestation.size_bytes));
    }

    let blobs = attestations
        .iter()
        .map(|attestation| attestation.digest.clone())
        .chain([config.digest.clone()])
        .collect();
    let config = Descriptor::new(CONFIG_TYPE, &config.digest, config.bytes.len() as u64);
    let manifest = to_json(&model(subject, &config, &artifacts))?;
    let mut document = if manifest.len() > MAX_MANIFEST_BYTES {
        tracing::warn!(
            model.name = id.model.as_str(),
            version.number = id.number.get(),
            "{id} has too many files to be pulled by OCI clients"
        );
        OciDocument::default()
    } else {
        refer(subject, Manifest::of(manifest), attestations)?
    };
    document.blobs = blobs;
    contents.extend(
        document
            .manifests()
            .map(|manifest| (manifest.digest.clone(), None)),
    );
    let mut zipped = document.zip()?;
    if zipped.len() > ITEM_BYTES
        && let Some(manifest) = &mut document.manifest
        && let Some(json) = manifest.json.take()
    {
        put_once(app, keys::oci_manifest(id), json.into(), MANIFEST_TYPE).await?;
        zipped = document.zip()?;
    }
    app.registry.index_contents(id, &contents, zipped).await
}

/// The manifest of a model.
fn model(subject: &Subject<'_>, config: &Descriptor<'_>, artifacts: &[&Artifact]) -> Value {
    let version = subject.version;
    let layers: Vec<Descriptor<'_>> = artifacts
        .iter()
        .map(|artifact| layers::of(artifact))
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": MODEL_TYPE,
        "config": config,
        "layers": layers,
        "annotations": {
            CREATED: version.created_at,
            "org.opencontainers.image.version": version.id.number.to_string(),
        },
    })
}

/// The document of a version with this manifest: an artifact for each attestation, and their index.
fn refer(
    subject: &Subject<'_>,
    manifest: Manifest,
    attestations: &[Attestation],
) -> Result<OciDocument> {
    let empty = Digest::of(EMPTY);
    let mut referrers = Vec::with_capacity(attestations.len());
    let mut entries = Vec::with_capacity(attestations.len());
    for attestation in attestations {
        let mut annotations = Map::new();
        annotations.insert(CREATED.into(), json!(subject.version.created_at));
        if let Some(predicate_type) = attestation.predicate_type {
            // As the tools of Sigstore find the statement that they look for.
            annotations.insert("dev.sigstore.bundle.content".into(), "dsse-envelope".into());
            annotations.insert(
                "dev.sigstore.bundle.predicateType".into(),
                predicate_type.into(),
            );
        }
        let mut layer = Descriptor::new(
            attestation.media_type,
            &attestation.digest,
            attestation.size_bytes,
        );
        layer
            .annotations
            .insert(TITLE.into(), attestation.name.into());
        let referrer = Manifest::of(to_json(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": attestation.media_type,
            "config": {
                "mediaType": EMPTY_TYPE,
                "digest": empty,
                "size": EMPTY.len(),
                "data": "e30=",
            },
            "layers": [layer],
            "subject": Descriptor::new(MANIFEST_TYPE, &manifest.digest, manifest.size_bytes),
            "annotations": annotations,
        }))?);
        entries.push(json!(Descriptor {
            artifact_type: Some(attestation.media_type),
            annotations,
            ..Descriptor::new(MANIFEST_TYPE, &referrer.digest, referrer.size_bytes)
        }));
        referrers.push(referrer);
    }
    let index = to_json(&json!({
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": entries,
    }))?;
    Ok(OciDocument {
        manifest: Some(manifest),
        referrers,
        index: Some(Manifest::of(index)),
        blobs: Vec::new(),
    })
}

fn to_json(value: &Value) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::internal("writing a manifest", error))
}
