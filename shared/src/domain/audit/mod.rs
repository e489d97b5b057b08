//! The chain of a model's events, which nobody can change afterwards without being found out.
//!
//! Every event of a model has a place in one chain: its sequence, the hash of the event before, and its own hash.
//! The hash is the SHA-256 of the JSON `{"event": …, "previous_hash": …, "sequence": …}` in the canonical form of
//! [RFC 8785](https://www.rfc-editor.org/rfc/rfc8785), where `event` is the event as it is sent, without `chain`.

mod verify;

pub use verify::{Anchor, Fault, FaultKind, Verified, verify};

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The form of exports, as their first line says it in `slipway_audit`.
pub const EXPORT_FORM: u64 = 1;

/// What the first event of a chain has as the hash before it.
pub const NOTHING_BEFORE: &str =
    "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// The place of an event in the chain of its model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Position, counted from 1 without a gap.
    pub sequence: u64,
    /// Hash of this event, its sequence and the hash before.
    pub hash: String,
    /// Hash of the event before; that of nothing for the first.
    pub previous_hash: String,
}

impl Link {
    /// The place of an event behind another one, or the first.
    pub fn after(previous: Option<&Self>, event: &Value) -> Result<Self> {
        let (sequence, previous_hash) = match previous {
            Some(link) => (link.sequence + 1, link.hash.clone()),
            None => (1, NOTHING_BEFORE.to_owned()),
        };
        Ok(Self {
            hash: hash(event, sequence, &previous_hash)?,
            sequence,
            previous_hash,
        })
    }
}

/// The canonical form of JSON, as RFC 8785 defines it.
pub fn canonical(value: &Value) -> Result<String> {
    serde_json_canonicalizer::to_string(value)
        .map_err(|error| Error::internal("writing canonical JSON", error))
}

fn hash(event: &Value, sequence: u64, previous_hash: &str) -> Result<String> {
    let text = canonical(&json!({
        "event": event, "previous_hash": previous_hash, "sequence": sequence,
    }))?;
    Ok(format!("sha256:{}", hex::encode(Sha256::digest(text))))
}
