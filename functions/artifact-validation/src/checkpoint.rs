//! How far a validation came: digests that are proven, and hashes that were interrupted, each pinned to its object.
//!
//! An invocation that uses up its allowance stores its progress and puts a mark under the version's upload prefix, whose
//! arrival makes another invocation go on.
//! Checkpoints are numbered, and a later one is never replaced by an earlier one, so that invocations which run side by
//! side do the same work twice at worst, and have one effect.

use crate::digest::Proof;
use crate::source::Pinned;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::digest::common::hazmat::{SerializableState as _, SerializedState};
use sha2::{Digest as _, Sha256};
use shared::documents::ITEM_BYTES;
use shared::domain::{Artifact, Digest, VersionId};
use shared::s3::keys;
use shared::{App, Error, ErrorCode, Result};
use std::collections::BTreeMap;

/// Below so many bytes to read, a validation that is stopped begins again rather than keep a checkpoint.
const WORTH_BYTES: u64 = 1024 * 1024 * 1024;
/// How long a checkpoint that nobody goes on from is kept, in milliseconds.
const KEPT_MILLIS: u64 = 14 * 24 * 3_600 * 1000;

/// How far each artifact came, by its path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Progress(BTreeMap<String, Entry>);

/// How far one artifact came, and which object it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    etag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object_version: Option<String>,
    size_bytes: u64,
    #[serde(flatten)]
    standing: Standing,
}

/// How far one artifact came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    /// Its digest is proven.
    Done(Digest),
    /// Its hash was interrupted.
    Hashed {
        /// Bytes that were hashed.
        offset_bytes: u64,
        /// The state of the hash, in hexadecimal digits.
        state: String,
    },
}

impl Standing {
    /// A hash that was interrupted.
    pub(crate) fn hashed(offset_bytes: u64, hasher: &Sha256) -> Self {
        Self::Hashed {
            offset_bytes,
            state: hex::encode(hasher.serialize()),
        }
    }
}

/// What is known of one artifact's digest.
pub(crate) enum Known {
    /// All of it.
    Done(Digest),
    /// The hash of so many bytes; of none, if nothing is known.
    Hashed(u64, Sha256),
}

impl Progress {
    /// Remembers how far an artifact came.
    pub(crate) fn keep(&mut self, artifact: &Pinned, standing: Standing) {
        self.0.insert(
            artifact.declared.path.to_string(),
            Entry {
                etag: artifact.head.etag.clone(),
                object_version: artifact.head.object_version.clone(),
                size_bytes: artifact.head.size_bytes,
                standing,
            },
        );
    }

    /// The digests of artifacts that were judged before.
    pub(crate) fn of_judged(artifacts: &[Artifact]) -> Self {
        let entry = |artifact: &Artifact| Entry {
            etag: artifact.etag.clone(),
            object_version: artifact.object_version.clone(),
            size_bytes: artifact.size_bytes,
            standing: Standing::Done(artifact.digest.clone()),
        };
        Self(
            artifacts
                .iter()
                .map(|artifact| (artifact.path.to_string(), entry(artifact)))
                .collect(),
        )
    }

    /// How far an artifact came; nothing is known of an object that was exchanged since.
    pub(crate) fn of(&self, artifact: &Pinned) -> Known {
        let known = self
            .0
            .get(artifact.declared.path.as_str())
            .filter(|entry| {
                entry.etag == artifact.head.etag
                    && entry.object_version == artifact.head.object_version
                    && entry.size_bytes == artifact.head.size_bytes
            })
            .and_then(|entry| match &entry.standing {
                Standing::Done(digest) => Some(Known::Done(digest.clone())),
                Standing::Hashed {
                    offset_bytes,
                    state,
                } => restored(state).map(|hasher| Known::Hashed(*offset_bytes, hasher)),
            });
        known.unwrap_or_else(|| Known::Hashed(0, Sha256::new()))
    }
}

/// The hash in this state.
fn restored(state: &str) -> Option<Sha256> {
    let bytes = hex::decode(state).ok()?;
    let state = SerializedState::<Sha256>::try_from(bytes.as_slice()).ok()?;
    Sha256::deserialize(&state).ok()
}

/// The progress of a validation whose digests are all proven.
pub(crate) fn done(artifacts: &[Pinned], proofs: &[Proof]) -> Progress {
    let mut progress = Progress::default();
    for (artifact, proof) in artifacts.iter().zip(proofs) {
        if !proof.by_s3 {
            progress.keep(artifact, Standing::Done(proof.digest.clone()));
        }
    }
    progress
}

/// Where an earlier invocation stopped.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    is_worth_it: bool,
    sequence: u64,
    progress: Progress,
}

impl Checkpoint {
    /// Loads the checkpoint of a version, if there is so much to read that there may be one.
    ///
    /// What is `known` of the same objects from elsewhere holds as if it had been proven.
    pub(crate) async fn load(
        app: &App,
        id: &VersionId,
        artifacts: &[Pinned],
        known: &Progress,
    ) -> Result<Self> {
        let is_known = |artifact: &Pinned| matches!(known.of(artifact), Known::Done(_));
        let to_read: u64 = artifacts
            .iter()
            .filter(|artifact| artifact.head.digest.is_none() && !is_known(artifact))
            .map(|artifact| artifact.head.size_bytes)
            .sum();
        let worth = app
            .config
            .validation_bytes
            .map_or(WORTH_BYTES, |bytes| bytes.min(WORTH_BYTES));
        let mut checkpoint = Self {
            is_worth_it: to_read > worth,
            sequence: 0,
            progress: Progress::default(),
        };
        if checkpoint.is_worth_it
            && let Some((sequence, document)) = app.registry.find_checkpoint(id).await?
        {
            checkpoint.sequence = sequence;
            checkpoint.progress = app
                .load_document(id, "checkpoint", &document)
                .await?
                .unwrap_or_default();
        }
        checkpoint.progress.0.extend(known.0.clone());
        Ok(checkpoint)
    }

    /// How far the earlier invocation came.
    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Stores how far this invocation came, and sets another one going.
    pub(crate) async fn put_off(
        &self,
        app: &App,
        id: &VersionId,
        progress: Progress,
    ) -> Result<()> {
        if !self.is_worth_it {
            return Err(Error::new(
                ErrorCode::Unavailable,
                format!("the time of this invocation is used up; {id} is validated by another"),
            ));
        }
        let sequence = self.sequence + 1;
        let mut room = ITEM_BYTES;
        let placed = app
            .place_document(&id.tenant, &keys::documents_of(id), &progress, &mut room)
            .await?;
        let expires = app.clock.now().plus_millis(KEPT_MILLIS);
        let is_first = app
            .registry
            .save_checkpoint(id, sequence, &placed.document, expires)
            .await?;
        if is_first {
            app.bucket
                .put_immutable(
                    &keys::continues(id, sequence),
                    Bytes::new(),
                    "application/octet-stream",
                )
                .await?;
        }
        tracing::info!(
            model.name = id.model.as_str(),
            version.number = id.number.get(),
            checkpoint.sequence = sequence,
            "The validation of {id} goes on in another invocation"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_goes_on_where_it_was_interrupted() {
        let content: Vec<u8> = (0_u8..=255).cycle().take(100_003).collect();
        for at in [0, 1, 63, 64, 65, 8_192, 100_003] {
            let mut first = Sha256::new();
            first.update(&content[..at]);
            let Standing::Hashed {
                offset_bytes,
                state,
            } = Standing::hashed(at as u64, &first)
            else {
                panic!("it is interrupted");
            };
            assert_eq!(offset_bytes, at as u64);
            let mut second = restored(&state).unwrap();
            second.update(&content[at..]);
            assert_eq!(
                Digest::from_hash(&second.finalize()),
                Digest::of(&content),
                "at {at}"
            );
        }
        for bad in ["", "zz", "00", "ä0"] {
            assert!(restored(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn progress_is_void_for_an_object_that_was_exchanged() {
        let artifact = crate::report::tests::pinned("a.bin", 3, None);
        let mut progress = Progress::default();
        progress.keep(&artifact, Standing::Done(Digest::of(b"abc")));
        let json = serde_json::to_string(&progress).unwrap();
        let progress: Progress = serde_json::from_str(&json).unwrap();
        assert!(matches!(progress.of(&artifact), Known::Done(_)));
        for change in [
            |artifact: &mut Pinned| artifact.head.etag = "\"f\"".into(),
            |artifact: &mut Pinned| artifact.head.object_version = None,
            |artifact: &mut Pinned| artifact.head.size_bytes = 4,
        ] {
            let mut other = artifact.clone();
            change(&mut other);
            assert!(matches!(progress.of(&other), Known::Hashed(0, _)));
        }
    }
}
