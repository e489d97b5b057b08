//! The signature that a client uploaded with a version, held against the files and the keys that its tenant trusts.

use super::files::{PREDICATE_TYPE, SIGNATURE, is_signed};
use super::{PAYLOAD_TYPE, pre_authentication};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use shared::domain::version::{ClientSignature, SignatureVerdict};
use shared::domain::{Artifact, VersionId};
use shared::s3::keys;
use shared::signing::PublicKey;
use shared::{App, Error, ErrorCode, Result};
use std::collections::BTreeMap;

/// Largest signature that is read, in bytes: that of 10,000 files with long paths has less.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    subject: Vec<StatementSubject>,
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Deserialize)]
struct StatementSubject {
    digest: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Predicate {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    algorithm: String,
    digest: String,
}

/// What comes of the signature that was uploaded with a version; `None` if none was.
pub(crate) async fn verify(
    app: &App,
    id: &VersionId,
    artifacts: &[Artifact],
) -> Result<Option<ClientSignature>> {
    let Some(artifact) = artifacts
        .iter()
        .find(|artifact| artifact.path.as_str() == SIGNATURE)
    else {
        return Ok(None);
    };
    let invalid = || {
        Ok(Some(ClientSignature {
            verdict: SignatureVerdict::Invalid,
            key: None,
        }))
    };
    if artifact.size_bytes > MOST_BYTES {
        return invalid();
    }
    let bytes = app
        .bucket
        .read_range(
            &keys::artifact(id, artifact),
            artifact.object_version.as_deref(),
            &artifact.etag,
            0..artifact.size_bytes,
        )
        .await?
        .ok_or_else(|| {
            Error::new(
                ErrorCode::Unavailable,
                format!("`{SIGNATURE}` of {id} is being moved"),
            )
        })?;
    let Some((payload, signatures)) = opened(&bytes) else {
        return invalid();
    };
    if !covers(&payload, artifacts) {
        return invalid();
    }
    let message = pre_authentication(PAYLOAD_TYPE, &payload);
    for trusted in app.registry.trusted_keys(&id.tenant).await? {
        let key = PublicKey::parse(&trusted.public_key)?;
        if signatures
            .iter()
            .any(|signature| key.verifies(&message, signature))
        {
            return Ok(Some(ClientSignature {
                verdict: SignatureVerdict::Verified,
                key: Some(trusted.name),
            }));
        }
    }
    Ok(Some(ClientSignature {
        verdict: SignatureVerdict::Untrusted,
        key: None,
    }))
}

/// Payload and signatures of a bundle; `None` of what is no bundle.
fn opened(bytes: &[u8]) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let bundle: Bundle = serde_json::from_slice(bytes).ok()?;
    let envelope = bundle.dsse_envelope;
    if envelope.payload_type != PAYLOAD_TYPE {
        return None;
    }
    let signatures = envelope
        .signatures
        .iter()
        .filter_map(|signature| STANDARD.decode(&signature.sig).ok())
        .collect();
    Some((STANDARD.decode(envelope.payload).ok()?, signatures))
}

/// Whether a statement is about exactly these files, but for itself and what a verifier leaves out.
fn covers(payload: &[u8], artifacts: &[Artifact]) -> bool {
    let Ok(statement) = serde_json::from_slice::<Statement>(payload) else {
        return false;
    };
    let resources = &statement.predicate.resources;
    let mut all = Sha256::new();
    for resource in resources {
        let Ok(digest) = hex::decode(&resource.digest) else {
            return false;
        };
        all.update(digest);
    }
    let root = hex::encode(all.finalize());
    let is_consistent = statement.predicate_type == PREDICATE_TYPE
        && statement.subject.len() == 1
        && statement.subject[0].digest.get("sha256") == Some(&root)
        && resources
            .iter()
            .all(|resource| resource.algorithm == "sha256");
    let mut signed: BTreeMap<&str, &str> = BTreeMap::new();
    for resource in resources {
        if signed
            .insert(resource.name.as_str(), resource.digest.as_str())
            .is_some()
        {
            return false;
        }
    }
    let all_signed = artifacts.iter().all(|artifact| {
        let path = artifact.path.as_str();
        match signed.remove(path) {
            Some(digest) => digest == artifact.digest.hex(),
            None => path == SIGNATURE || !is_signed(path),
        }
    });
    is_consistent && all_signed && signed.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use shared::domain::{ArtifactPath, Digest};

    fn artifact(path: &str) -> Artifact {
        Artifact {
            path: ArtifactPath::parse(path).unwrap(),
            size_bytes: 1,
            digest: Digest::of(path.as_bytes()),
            media_type: "application/octet-stream".into(),
            key: None,
            packaged: true,
            object_version: None,
            etag: String::new(),
        }
    }

    fn statement(paths: &[&str]) -> serde_json::Value {
        let mut all = Sha256::new();
        let resources: Vec<serde_json::Value> = paths
            .iter()
            .map(|path| {
                let digest = Digest::of(path.as_bytes());
                all.update(hex::decode(digest.hex()).unwrap());
                json!({"name": path, "algorithm": "sha256", "digest": digest.hex()})
            })
            .collect();
        json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "m", "digest": {"sha256": hex::encode(all.finalize())}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {"resources": resources},
        })
    }

    fn holds(statement: &serde_json::Value, paths: &[&str]) -> bool {
        let artifacts: Vec<Artifact> = paths.iter().map(|path| artifact(path)).collect();
        covers(statement.to_string().as_bytes(), &artifacts)
    }

    #[test]
    fn a_signature_covers_exactly_the_files() {
        assert!(holds(&statement(&["a", "b"]), &["a", "b", "model.sig"]));
        assert!(holds(
            &statement(&["a"]),
            &["a", ".gitattributes", "model.sig"]
        ));
        assert!(!holds(&statement(&["a"]), &["a", "b", "model.sig"]));
        assert!(!holds(&statement(&["a", "b"]), &["a", "model.sig"]));
        assert!(!holds(&statement(&["a", "a"]), &["a", "model.sig"]));
        let mut other = statement(&["a"]);
        other["predicate"]["resources"][0]["digest"] = Digest::of(b"other").hex().into();
        assert!(!holds(&other, &["a", "model.sig"]));
        assert!(opened(b"no bundle").is_none());
        assert!(opened(b"{\"dsseEnvelope\": {\"payload\": \"!\", \"payloadType\": \"x\", \"signatures\": []}}").is_none());
    }
}
