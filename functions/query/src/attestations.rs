//! What packaging says of a version, and with which key it signs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use shared::domain::{Artifact, Version, VersionId, file_set};
use shared::http::Caller;
use shared::s3::keys;
use shared::{App, Error, ErrorCode, Result};

/// An attestation: its name, the object that holds it, its media type, and what it is.
struct Kind {
    name: &'static str,
    object: &'static str,
    media_type: &'static str,
    about: &'static str,
}

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const STATEMENT: &str = "application/vnd.in-toto+json";

/// All of them; what has a name of its own besides its object is the statement within a signed bundle.
const KINDS: &[Kind] = &[
    Kind {
        name: "model.sig",
        object: "model.sig",
        media_type: BUNDLE,
        about: "The signature over the files, as OpenSSF Model Signing verifies it.",
    },
    Kind {
        name: "public-key.pem",
        object: "public-key.pem",
        media_type: "application/x-pem-file",
        about: "The public key of the signatures.",
    },
    Kind {
        name: "provenance.sigstore.json",
        object: "provenance.sigstore.json",
        media_type: BUNDLE,
        about: "Where the version came from, signed.",
    },
    Kind {
        name: "provenance.json",
        object: "provenance.sigstore.json",
        media_type: STATEMENT,
        about: "The same as a bare statement: SLSA provenance v1.",
    },
    Kind {
        name: "validation.sigstore.json",
        object: "validation.sigstore.json",
        media_type: BUNDLE,
        about: "What validation found, signed.",
    },
    Kind {
        name: "validation.json",
        object: "validation.sigstore.json",
        media_type: STATEMENT,
        about: "The same as a bare statement.",
    },
    Kind {
        name: "bom.cdx.json",
        object: "bom.cdx.json",
        media_type: "application/vnd.cyclonedx+json; version=1.6",
        about: "The bill of materials: CycloneDX 1.6 with a model card.",
    },
];

/// Bytes that are answered as they are.
pub(crate) struct Document {
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Bytes,
}

/// The attestations of a version.
pub(crate) async fn list(app: &App, id: &VersionId) -> Result<Value> {
    let version = attested(app, id).await?;
    let id = &version.id;
    let attestations: Vec<Value> = KINDS
        .iter()
        .map(|kind| {
            json!({
                "name": kind.name,
                "media_type": kind.media_type,
                "about": kind.about,
                "uri": format!("s3://{}/{}", app.bucket.name(), keys::package(id, kind.object)),
            })
        })
        .collect();
    Ok(json!({ "attestations": attestations }))
}

/// One attestation of a version, as it is.
pub(crate) async fn get(app: &App, id: &VersionId, name: &str) -> Result<Document> {
    let kind = KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| {
        Error::new(
            ErrorCode::ArtifactNotFound,
            "there is no attestation of that name; list the version's attestations",
        )
    })?;
    let version = attested(app, id).await?;
    let id = &version.id;
    let key = keys::package(id, kind.object);
    let bytes = app.bucket.read_whole(&key, None).await?.ok_or_else(|| {
        Error::internal(
            "reading an attestation",
            format!("object `{key}` of {id} is missing"),
        )
    })?;
    let bytes = if kind.name == kind.object {
        bytes
    } else {
        statement_of(&bytes)?
    };
    Ok(Document {
        media_type: kind.media_type,
        bytes,
    })
}

/// The statement within a bundle.
fn statement_of(bundle: &[u8]) -> Result<Bytes> {
    let doing = "reading an attestation";
    let bundle: Value =
        serde_json::from_slice(bundle).map_err(|error| Error::internal(doing, error))?;
    let payload = bundle["dsseEnvelope"]["payload"]
        .as_str()
        .unwrap_or_default();
    STANDARD
        .decode(payload)
        .map(Bytes::from)
        .map_err(|error| Error::internal(doing, error))
}

/// Refuses a version without attestations.
async fn attested(app: &App, id: &VersionId) -> Result<Version> {
    let version = app.registry.glance_version(id).await?;
    require_files(&version)?;
    if version.is_reference() {
        return Err(Error::new(
            ErrorCode::ArtifactNotFound,
            format!("the files of {id} lie elsewhere, and nothing is made of them here"),
        ));
    }
    let is_attested = version
        .package
        .as_ref()
        .is_some_and(|package| package.files.is_some());
    if !is_attested {
        return Err(Error::new(
            ErrorCode::ArtifactNotFound,
            format!("{id} was not packaged yet; wait a moment after it is READY"),
        ));
    }
    Ok(version)
}

/// Refuses a version whose files are gone for good.
pub(crate) fn require_files(version: &Version) -> Result<()> {
    match version.purged_at {
        None => Ok(()),
        Some(at) => Err(Error::new(
            ErrorCode::Deleted,
            format!(
                "{} was purged at {at} and its files are gone; register a new version",
                version.id
            ),
        )
        .with("model", version.id.model.as_str())
        .with("version", version.id.number.get())),
    }
}

/// The checksum file of a version, which `sha256sum -c` takes.
pub(crate) async fn checksums(app: &App, id: &VersionId) -> Result<Document> {
    let version = app.registry.glance_version(id).await?;
    version.require_downloadable()?;
    let artifacts: Vec<Artifact> = app
        .load_document(&version.id, "artifacts", &version.artifacts)
        .await?
        .unwrap_or_default();
    Ok(Document {
        media_type: "text/plain; charset=utf-8",
        bytes: file_set::checksum_file(&artifacts).into(),
    })
}

/// The public key of the signatures that are made now.
pub(crate) async fn signing_key(app: &App) -> Result<Document> {
    Ok(Document {
        media_type: "application/x-pem-file",
        bytes: app.signer.public_key().await?.into(),
    })
}

/// The keys whose signatures the tenant trusts.
pub(crate) async fn trusted_keys(app: &App, caller: &Caller) -> Result<Value> {
    let keys = app.registry.trusted_keys(&caller.tenant).await?;
    Ok(json!({ "trusted_keys": keys }))
}
