//! The signature over a version's files, as `OpenSSF` Model Signing has it: `model.sig`.
//!
//! Format: <https://github.com/ossf/model-signing-spec>; its verifier reads method `files` with SHA-256.

use super::{Subject, in_toto};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shared::domain::Artifact;

/// Name of the signature beside the files.
pub(super) const SIGNATURE: &str = "model.sig";
/// What the verifier leaves out wherever it is asked to verify a folder, and so the signature must, too.
const IGNORED: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];
/// The predicate's type.
pub(super) const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";

/// Whether the verifier looks at a file.
pub(super) fn is_signed(path: &str) -> bool {
    let top = path.split('/').next().unwrap_or(path);
    !IGNORED.contains(&top)
}

/// The statement over the files.
pub(super) fn statement(subject: &Subject<'_>) -> Value {
    let mut files: Vec<&Artifact> = subject
        .artifacts
        .iter()
        .filter(|artifact| is_signed(artifact.path.as_str()))
        .collect();
    // By the parts of their paths, as Python sorts them.
    files.sort_by(|left, right| {
        left.path
            .as_str()
            .split('/')
            .cmp(right.path.as_str().split('/'))
    });
    let mut all = Sha256::new();
    let mut resources = Vec::with_capacity(files.len());
    for file in &files {
        all.update(hex::decode(file.digest.hex()).unwrap_or_default());
        resources.push(json!({
            "name": file.path,
            "algorithm": "sha256",
            "digest": file.digest.hex(),
        }));
    }
    let has_own = files.iter().any(|file| file.path.as_str() == SIGNATURE);
    let ignored: Vec<&str> = (!has_own)
        .then_some(SIGNATURE)
        .into_iter()
        .chain(IGNORED)
        .collect();
    let id = &subject.version.id;
    in_toto(
        &json!([{
            "name": format!("{}/{}", id.model, id.number),
            "digest": {"sha256": hex::encode(all.finalize())},
        }]),
        PREDICATE_TYPE,
        &json!({
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": false,
                "ignore_paths": ignored,
            },
            "resources": resources,
        }),
    )
}
