//! What a version is to OCI clients: a model of the CNCF's `ModelPack`, with its attestations as referrers.
//!
//! Specification: <https://github.com/modelpack/model-spec/blob/main/docs/spec.md>.
//! Layers are raw files, so that a layer's blob is the very object of the file, and no byte is copied.
//! All manifests are made once, when the version is packaged, and kept byte for byte: their digests are their names.

mod config;
mod image;
mod layers;

use crate::attest::{Attestation, Subject, put_once};
use image::{Annotations, Descriptor, ImageIndex, ImageManifest, written};
use shared::documents::ITEM_BYTES;
use shared::domain::{Artifact, Digest};
use shared::dynamodb::{Blob, Contents};
use shared::oci::{EMPTY, EMPTY_TYPE, MANIFEST_TYPE, MAX_MANIFEST_BYTES, Manifest, OciDocument};
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

    let config = serde_json::to_string(&config::write(subject, &artifacts))
        .map_err(|error| Error::internal("writing a configuration", error))?;
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
    let manifest = model(subject, config, &artifacts)?;
    let mut document = if manifest.size_bytes > MAX_MANIFEST_BYTES {
        tracing::warn!(
            model.name = id.model.as_str(),
            version.number = id.number.get(),
            "{id} has too many files to be pulled by OCI clients"
        );
        OciDocument::default()
    } else {
        refer(subject, manifest, attestations)?
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
fn model(
    subject: &Subject<'_>,
    config: Descriptor<'_>,
    artifacts: &[&Artifact],
) -> Result<Manifest> {
    let version = subject.version;
    let layers = artifacts
        .iter()
        .map(|artifact| layers::of(artifact))
        .collect();
    let annotations = Annotations::from([
        (CREATED, version.created_at.to_string()),
        (
            "org.opencontainers.image.version",
            version.id.number.to_string(),
        ),
    ]);
    written(&ImageManifest::new(MODEL_TYPE, config, layers, annotations))
}

/// The document of a version with this manifest: an artifact for each attestation, and their index.
fn refer(
    subject: &Subject<'_>,
    manifest: Manifest,
    attestations: &[Attestation],
) -> Result<OciDocument> {
    let about = Descriptor::new(MANIFEST_TYPE, &manifest.digest, manifest.size_bytes);
    let referrers = attestations
        .iter()
        .map(|attestation| referrer(subject, attestation, about.clone()))
        .collect::<Result<Vec<Manifest>>>()?;
    let entries = attestations
        .iter()
        .zip(&referrers)
        .map(|(attestation, referrer)| Descriptor {
            artifact_type: Some(attestation.media_type),
            annotations: annotations_of(subject, attestation),
            ..Descriptor::new(MANIFEST_TYPE, &referrer.digest, referrer.size_bytes)
        })
        .collect();
    let index = written(&ImageIndex::new(entries))?;
    Ok(OciDocument {
        manifest: Some(manifest),
        referrers,
        index: Some(index),
        blobs: Vec::new(),
    })
}

/// The manifest of an attestation: an artifact of one layer and no configuration.
fn referrer(
    subject: &Subject<'_>,
    attestation: &Attestation,
    about: Descriptor<'_>,
) -> Result<Manifest> {
    let empty = Digest::of(EMPTY);
    let config = Descriptor {
        data: Some("e30="),
        ..Descriptor::new(EMPTY_TYPE, &empty, EMPTY.len() as u64)
    };
    let layer = Descriptor {
        annotations: Annotations::from([(TITLE, attestation.name.to_owned())]),
        ..Descriptor::new(
            attestation.media_type,
            &attestation.digest,
            attestation.size_bytes,
        )
    };
    let annotations = annotations_of(subject, attestation);
    let manifest = ImageManifest::new(attestation.media_type, config, vec![layer], annotations);
    written(&manifest.about(about))
}

/// What the manifest of an attestation says, and so its entry in the index.
fn annotations_of(subject: &Subject<'_>, attestation: &Attestation) -> Annotations {
    let mut annotations = Annotations::from([(CREATED, subject.version.created_at.to_string())]);
    if let Some(predicate_type) = attestation.predicate_type {
        // As the tools of Sigstore find the statement that they look for.
        annotations.insert("dev.sigstore.bundle.content", "dsse-envelope".to_owned());
        annotations.insert(
            "dev.sigstore.bundle.predicateType",
            predicate_type.to_owned(),
        );
    }
    annotations
}
