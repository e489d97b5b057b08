//! What is said of a version, so that others can check it: signature, provenance, validation, bill of materials.
//!
//! All of it lies under `packages/…`, written once; the signature over the files lies beside these too.
//! Statements are in-toto's, signed as DSSE envelopes in Sigstore bundles.

mod bill;
pub(crate) mod client;
pub(crate) mod facts;
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
/// Name of the bill of materials.
const BILL: &str = "bom.cdx.json";
/// Largest report that is read for its facts, in bytes.
const MOST_REPORT_BYTES: u64 = 4 * 1024 * 1024;

/// A version, with all that is said of it.
pub(crate) struct Subject<'a> {
    pub(crate) version: &'a Version,
    /// Where the files were when they were judged.
    pub(crate) judged: &'a [Artifact],
    /// Where they are for good.
    pub(crate) artifacts: &'a [Artifact],
    pub(crate) metadata: Metadata,
    /// The validation's report, unless it is very large.
    pub(crate) report: Option<Value>,
}

impl<'a> Subject<'a> {
    /// Reads what there is to say.
    pub(crate) async fn of(
        app: &App,
        version: &'a Version,
        judged: &'a [Artifact],
        artifacts: &'a [Artifact],
    ) -> Result<Self> {
        let metadata = app
            .load_document(&version.id, "metadata", &version.metadata)
            .await?
            .unwrap_or_default();
        Ok(Self {
            version,
            judged,
            artifacts,
            metadata,
            report: report_of(app, version).await?,
        })
    }
}

/// An attestation that was written.
pub(crate) struct Attestation {
    /// The object's name within the package.
    pub(crate) name: &'static str,
    pub(crate) media_type: &'static str,
    /// What the statement within it says, by its predicate; none if it is no statement.
    pub(crate) predicate_type: Option<&'static str>,
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
}

/// Writes all attestations of a version, but those that an earlier packaging wrote.
pub(crate) async fn attest(app: &App, subject: &Subject<'_>) -> Result<Vec<Attestation>> {
    let id = &subject.version.id;
    let public_key = app.signer.public_key().await?;
    let files = files::statement(subject);
    let signature = bundle(app, &public_key, &files).await?;
    let signature = put_once(
        app,
        keys::package(id, files::SIGNATURE),
        signature,
        BUNDLE_TYPE,
    )
    .await?;
    put_once(
        app,
        keys::package(id, "public-key.pem"),
        public_key.clone().into(),
        "application/x-pem-file",
    )
    .await?;
    let bill = serde_json::to_vec(&bill::write(subject))
        .map_err(|error| Error::internal("writing the bill of materials", error))?;
    let bill = put_once(
        app,
        keys::package(id, BILL),
        bill.into(),
        "application/vnd.cyclonedx+json; version=1.6",
    )
    .await?;
    let dropped = provenance::dropped(subject);
    if !dropped.is_empty() {
        let sources = json!({ "sources": dropped }).to_string().into();
        put_once(app, keys::sources(id), sources, "application/json").await?;
    }
    let byproducts = [(files::SIGNATURE, &signature.digest), (BILL, &bill.digest)];
    let statements = [
        (
            "provenance.sigstore.json",
            provenance::PREDICATE_TYPE,
            provenance::statement(app, subject, &byproducts),
        ),
        (
            "validation.sigstore.json",
            validation::PREDICATE_TYPE,
            validation::statement(subject),
        ),
    ];
    let mut attestations = vec![
        signature.named(files::SIGNATURE, BUNDLE_TYPE, Some(files::PREDICATE_TYPE)),
        bill.named(BILL, "application/vnd.cyclonedx+json", None),
    ];
    for (name, predicate_type, statement) in statements {
        let bytes = bundle(app, &public_key, &statement).await?;
        let written = put_once(app, keys::package(id, name), bytes, BUNDLE_TYPE).await?;
        attestations.push(written.named(name, BUNDLE_TYPE, Some(predicate_type)));
    }
    // Beside the files, for those who fetch the prefix: unless the client has put its own there, which is one of them.
    let is_taken = subject
        .artifacts
        .iter()
        .any(|artifact| artifact.path.as_str() == files::SIGNATURE);
    let holds = subject
        .artifacts
        .iter()
        .all(|artifact| artifact.key.is_none());
    if holds && !is_taken {
        let key = format!("{}{}", keys::files_prefix(id), files::SIGNATURE);
        put_once(app, key, signature.bytes, BUNDLE_TYPE).await?;
    }
    Ok(attestations)
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

/// What is said, as it lies in the bucket.
pub(crate) struct Attested {
    pub(crate) digest: Digest,
    pub(crate) bytes: Bytes,
}

impl Attested {
    fn named(
        &self,
        name: &'static str,
        media_type: &'static str,
        predicate_type: Option<&'static str>,
    ) -> Attestation {
        Attestation {
            name,
            media_type,
            predicate_type,
            digest: self.digest.clone(),
            size_bytes: self.bytes.len() as u64,
        }
    }
}

/// Writes an object once; one that an earlier packaging wrote stays, whatever this one would have written.
pub(crate) async fn put_once(
    app: &App,
    key: String,
    bytes: Bytes,
    media_type: &str,
) -> Result<Attested> {
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
