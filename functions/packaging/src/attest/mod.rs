//! What is said of a version, so that others can check it: signature, provenance, validation, bill of materials.
//!
//! All of it lies under `packages/…`, written once; the signature over the files lies beside these too.
//! Statements are in-toto's, signed as DSSE envelopes in Sigstore bundles.

mod bill;
pub(crate) mod client;
mod files;
mod provenance;
mod validation;

use crate::package::existing;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use shared::domain::{Artifact, Digest, Metadata, Version};
use shared::s3::keys;
use shared::{App, Error, Result};

/// Type of every statement's envelope.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Type of a Sigstore bundle.
const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Largest report that is read for its facts, in bytes.
const MOST_REPORT_BYTES: u64 = 4 * 1024 * 1024;

/// A version, with all that is said of it.
pub(crate) struct Subject<'a> {
    pub(crate) version: &'a Version,
    /// Where the files were when they were judged.
    pub(crate) judged: &'a [Artifact],
    /// Where they are for good.
    pub(crate) artifacts: &'a [Artifact],
    pub(crate) metadata: &'a Metadata,
    /// The validation's report, unless it is very large.
    pub(crate) report: Option<&'a Value>,
}

/// Writes all attestations of a version, but those that an earlier packaging wrote.
pub(crate) async fn attest(
    app: &App,
    version: &Version,
    judged: &[Artifact],
    artifacts: &[Artifact],
) -> Result<()> {
    let id = &version.id;
    let metadata: Metadata = app
        .load_document(id, "metadata", &version.metadata)
        .await?
        .unwrap_or_default();
    let report = report_of(app, version).await?;
    let subject = Subject {
        version,
        judged,
        artifacts,
        metadata: &metadata,
        report: report.as_ref(),
    };
    let public_key = app.signer.public_key().await?;
    let files = files::statement(&subject);
    let signature = bundle(app, &public_key, &files).await?;
    let signature = put_once(app, keys::package(id, "model.sig"), signature, BUNDLE_TYPE).await?;
    put_once(
        app,
        keys::package(id, "public-key.pem"),
        public_key.clone().into(),
        "application/x-pem-file",
    )
    .await?;
    let bill = serde_json::to_vec(&bill::write(&subject))
        .map_err(|error| Error::internal("writing the bill of materials", error))?;
    let bill = put_once(
        app,
        keys::package(id, "bom.cdx.json"),
        bill.into(),
        "application/vnd.cyclonedx+json; version=1.6",
    )
    .await?;
    let dropped = provenance::dropped(&subject);
    if !dropped.is_empty() {
        let sources = json!({ "sources": dropped }).to_string().into();
        put_once(app, keys::sources(id), sources, "application/json").await?;
    }
    let byproducts = [
        ("model.sig", &signature.digest),
        ("bom.cdx.json", &bill.digest),
    ];
    for (name, statement) in [
        (
            "provenance.sigstore.json",
            provenance::statement(app, &subject, &byproducts),
        ),
        ("validation.sigstore.json", validation::statement(&subject)),
    ] {
        let bytes = bundle(app, &public_key, &statement).await?;
        put_once(app, keys::package(id, name), bytes, BUNDLE_TYPE).await?;
    }
    // Beside the files, for those who fetch the prefix: unless the client has put its own there, which is one of them.
    let is_taken = artifacts
        .iter()
        .any(|artifact| artifact.path.as_str() == files::SIGNATURE);
    let holds = artifacts.iter().all(|artifact| artifact.key.is_none());
    if holds && !is_taken {
        let key = format!("{}{}", keys::files_prefix(id), files::SIGNATURE);
        put_once(app, key, signature.bytes, BUNDLE_TYPE).await?;
    }
    Ok(())
}

/// The report of the validation, for its facts.
async fn report_of(app: &App, version: &Version) -> Result<Option<Value>> {
    let Some(validation) = &version.validation else {
        return Ok(None);
    };
    let key = keys::report(&version.id, &validation.report_digest);
    let Some(bytes) = app.bucket.read_at_most(&key, MOST_REPORT_BYTES).await? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::internal("reading the report", error))
}

/// An attestation as it lies in the bucket.
struct Attested {
    digest: Digest,
    bytes: Bytes,
}

/// Writes an object once; one that an earlier packaging wrote stays, whatever this one would have written.
async fn put_once(app: &App, key: String, bytes: Bytes, media_type: &str) -> Result<Attested> {
    let is_new = app
        .bucket
        .put_immutable(&key, bytes.clone(), media_type)
        .await?;
    let bytes = if is_new {
        bytes
    } else {
        existing(app, &key).await?
    };
    Ok(Attested {
        digest: Digest::of(&bytes),
        bytes,
    })
}

/// A statement of in-toto.
fn in_toto(subject: &Value, predicate_type: &str, predicate: &Value) -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": predicate_type,
        "predicate": predicate,
    })
}

/// The files of a version as subjects of a statement.
fn subjects(subject: &Subject<'_>) -> Value {
    subject
        .artifacts
        .iter()
        .map(|artifact| json!({"name": artifact.path, "digest": {"sha256": artifact.digest.hex()}}))
        .collect()
}

/// Signs a statement, and bundles it with its signature.
async fn bundle(app: &App, public_key: &str, statement: &Value) -> Result<Bytes> {
    let payload = serde_json::to_vec(statement)
        .map_err(|error| Error::internal("writing a statement", error))?;
    let signature = app
        .signer
        .sign(&pre_authentication(PAYLOAD_TYPE, &payload))
        .await?;
    let bundle = json!({
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": Digest::of(public_key.as_bytes()).hex()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": STANDARD.encode(&payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": STANDARD.encode(signature), "keyid": ""}],
        },
    });
    serde_json::to_vec(&bundle)
        .map(Bytes::from)
        .map_err(|error| Error::internal("writing a bundle", error))
}

/// What is signed of an envelope: <https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md>.
fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    )
    .into_bytes();
    message.extend_from_slice(payload);
    message
}
