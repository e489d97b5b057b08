//! Proves the SHA-256 of artifacts: from S3 where it has verified one, else by the cheapest way that fetches each byte
//! at most once.
//!
//! A small artifact is read whole, hashed, and kept for the inspection that follows.
//! A larger one is hashed by S3, which copies it for the purpose, so that nothing of it is read here.
//! What is larger than S3 copies by one call is read by pieces; its ends are kept, for formats of that size have their
//! headers there.
//! It all stops when the invocation's allowance is used up, with the state of the hash in a checkpoint.
//! Memory stays under 32 MiB: 16 MiB in flight and 16 MiB kept.

use crate::allowance::Allowance;
use crate::checkpoint::{Known, Progress, Standing};
use crate::source::{ObjectReader, Pinned, SMALL_BYTES, Seed};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use shared::domain::{Digest, VersionId};
use shared::s3::{Hashed, Source, keys};
use shared::{App, Error, Result};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Up to this size, in bytes, an artifact is read by one request.
const WHOLE_BYTES: u64 = 16 * 1024 * 1024;
/// Larger ones are read by requests of this size, in bytes, one ahead of the hashing.
const PIECE_BYTES: u64 = 8 * 1024 * 1024;
/// What is kept of the beginning of a larger one, in bytes.
const KEPT_HEAD_BYTES: u64 = 512 * 1024;
/// What is kept of the end of a larger one, in bytes.
const KEPT_TAIL_BYTES: u64 = 128 * 1024;
/// Hashing beyond this size, in bytes, leaves the thread that drives the requests.
const INLINE_HASH_BYTES: usize = 256 * 1024;
/// What both bounds of memory count in, in bytes.
const PERMIT_BYTES: u64 = 1024;
/// Artifacts that are read at the same time.
const PARALLEL_ARTIFACTS: usize = 16;
/// S3 copies faster than this, in bytes for each millisecond; slower copies may outlast an invocation.
const COPIED_BYTES_PER_MILLI: u64 = 16 * 1024;

/// The proven digest of an artifact, and what was read to prove it.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    /// SHA-256 of the whole content.
    pub(crate) digest: Digest,
    /// Whether S3 verified it when the artifact was uploaded, so that nothing had to be computed.
    pub(crate) by_s3: bool,
    /// Bytes that were read, as far as they are kept.
    pub(crate) seed: Seed,
}

/// Bounds of memory, in permits of [`PERMIT_BYTES`].
struct Budget {
    in_flight: Semaphore,
    kept: Semaphore,
}

/// What became of proving all artifacts.
pub(crate) enum Proven {
    /// All are proven, in their order.
    All(Vec<Proof>),
    /// The allowance was used up; this is how far each came that was begun.
    Partly(Progress),
}

/// What became of proving one.
enum Outcome {
    Done(Proof),
    /// Not begun, or interrupted in this state.
    Stopped(Option<Standing>),
}

/// Proves the digests of the artifacts of one version.
pub(crate) struct Prover<'a> {
    /// The world.
    pub(crate) app: &'a App,
    /// The version.
    pub(crate) id: &'a VersionId,
    /// Reads its artifacts.
    pub(crate) reader: &'a ObjectReader,
    /// What this invocation may spend.
    pub(crate) allowance: &'a Allowance,
    /// How far earlier ones came.
    pub(crate) progress: &'a Progress,
}

/// Proves the digests of all artifacts, going on where the prover's progress ends.
pub(crate) async fn prove_all(prover: &Prover<'_>, artifacts: &[Pinned]) -> Result<Proven> {
    let permits = usize::try_from(WHOLE_BYTES / PERMIT_BYTES).unwrap_or(usize::MAX);
    let budget = Budget {
        in_flight: Semaphore::new(permits),
        kept: Semaphore::new(permits),
    };
    // Collected first: a lazy iterator of futures that borrow would not be `Send`.
    let proofs: Vec<_> = artifacts
        .iter()
        .map(|artifact| prover.prove(&budget, artifact))
        .collect();
    let outcomes: Vec<Outcome> = stream::iter(proofs)
        .buffered(PARALLEL_ARTIFACTS)
        .try_collect()
        .await?;
    if outcomes
        .iter()
        .any(|outcome| matches!(outcome, Outcome::Stopped(_)))
    {
        let mut reached = Progress::default();
        for (artifact, outcome) in artifacts.iter().zip(outcomes) {
            match outcome {
                Outcome::Done(proof) if !proof.by_s3 => {
                    reached.keep(artifact, Standing::Done(proof.digest));
                }
                Outcome::Stopped(Some(standing)) => reached.keep(artifact, standing),
                Outcome::Done(_) | Outcome::Stopped(None) => {}
            }
        }
        return Ok(Proven::Partly(reached));
    }
    let proofs = outcomes
        .into_iter()
        .filter_map(|outcome| match outcome {
            Outcome::Done(proof) => Some(proof),
            Outcome::Stopped(_) => None,
        })
        .collect();
    Ok(Proven::All(proofs))
}

impl Prover<'_> {
    async fn prove(&self, budget: &Budget, artifact: &Pinned) -> Result<Outcome> {
        if let Some(digest) = &artifact.head.digest {
            return Ok(Outcome::without_reading(digest.clone(), true));
        }
        let (start, hasher) = match self.progress.of(artifact) {
            Known::Done(digest) => return Ok(Outcome::without_reading(digest, false)),
            Known::Hashed(start, hasher) => (start, hasher),
        };
        let size = artifact.head.size_bytes;
        let is_kept = size <= WHOLE_BYTES && keep(budget, size);
        // What is small is cheaper to read twice than to copy, should memory be full.
        if is_kept || size <= SMALL_BYTES {
            return self.prove_whole(budget, artifact, is_kept).await;
        }
        if start == 0 && size <= self.app.config.copy_bytes {
            match self.prove_by_s3(artifact).await? {
                Some(outcome) => return Ok(outcome),
                None if size <= WHOLE_BYTES => {
                    return self.prove_whole(budget, artifact, false).await;
                }
                None => {}
            }
        }
        let _permit = in_flight(budget, WHOLE_BYTES).await?;
        let kept = keep(budget, KEPT_HEAD_BYTES + KEPT_TAIL_BYTES);
        prove_by_pieces(self.reader, artifact, kept, self.allowance, start, hasher).await
    }

    /// Reads an artifact by one request.
    async fn prove_whole(
        &self,
        budget: &Budget,
        artifact: &Pinned,
        is_kept: bool,
    ) -> Result<Outcome> {
        let size = artifact.head.size_bytes;
        let _permit = in_flight(budget, size).await?;
        if !self.allowance.take(size) {
            return Ok(Outcome::Stopped(None));
        }
        let bytes = self.reader.read(artifact, 0..size).await?;
        let digest = if bytes.len() <= INLINE_HASH_BYTES {
            Digest::of(&bytes)
        } else {
            let bytes = bytes.clone();
            blocking(move || Digest::of(&bytes)).await?
        };
        Ok(Outcome::Done(Proof {
            digest,
            by_s3: false,
            seed: if is_kept {
                Seed::Whole(bytes)
            } else {
                Seed::None
            },
        }))
    }

    /// Lets S3 compute the digest; `None` if it does not tell.
    async fn prove_by_s3(&self, artifact: &Pinned) -> Result<Option<Outcome>> {
        let size = artifact.head.size_bytes;
        if !self.allowance.take_millis(size / COPIED_BYTES_PER_MILLI) {
            return Ok(Some(Outcome::Stopped(None)));
        }
        let source = Source {
            key: artifact.key.clone(),
            object_version: artifact.head.object_version.clone(),
            etag: artifact.head.etag.clone(),
        };
        let key = keys::hashing(self.id);
        match self.app.bucket.hash(&source, &key).await? {
            Hashed::Sha256(digest) => Ok(Some(Outcome::without_reading(digest, false))),
            Hashed::SourceGone => Err(artifact.exchanged()),
            Hashed::Untold => Ok(None),
        }
    }
}

impl Outcome {
    fn without_reading(digest: Digest, by_s3: bool) -> Self {
        Self::Done(Proof {
            digest,
            by_s3,
            seed: Seed::None,
        })
    }
}

/// Reads the next piece while the last one is hashed.
async fn prove_by_pieces(
    reader: &ObjectReader,
    artifact: &Pinned,
    kept: bool,
    allowance: &Allowance,
    mut start: u64,
    mut hasher: Sha256,
) -> Result<Outcome> {
    let size = artifact.head.size_bytes;
    let (mut head, mut tail) = (Bytes::new(), Vec::new());
    let tail_start = size.saturating_sub(KEPT_TAIL_BYTES);
    let begun = start;
    let may_read = |range: &std::ops::Range<u64>| allowance.take(range.end - range.start);
    let first = piece_at(start, size);
    if !may_read(&first) {
        let standing = (start > 0).then(|| Standing::hashed(start, &hasher));
        return Ok(Outcome::Stopped(standing));
    }
    let mut piece = reader.read(artifact, first).await?;
    while start < size {
        let end = start + piece.len() as u64;
        if kept {
            if start == 0 {
                let length = piece.len().min(bytes_of(KEPT_HEAD_BYTES));
                head = Bytes::copy_from_slice(&piece[..length]);
            }
            if end > tail_start {
                let from = bytes_of(tail_start.saturating_sub(start)).min(piece.len());
                tail.extend_from_slice(&piece[from..]);
            }
        }
        let next = piece_at(end, size);
        let goes_on = next.is_empty() || may_read(&next);
        let (done, next) = tokio::join!(
            blocking(move || {
                hasher.update(&piece);
                hasher
            }),
            reader.read(artifact, if goes_on { next } else { end..end }),
        );
        hasher = done?;
        if !goes_on {
            return Ok(Outcome::Stopped(Some(Standing::hashed(end, &hasher))));
        }
        piece = next?;
        start = end;
    }
    // Of an artifact that was begun by another invocation, the beginning was not read here.
    let kept = kept && (begun == 0 || tail.len() as u64 == size - tail_start);
    Ok(Outcome::Done(Proof {
        digest: Digest::from_hash(&hasher.finalize()),
        by_s3: false,
        seed: if kept {
            Seed::Ends {
                head,
                tail: tail.into(),
            }
        } else {
            Seed::None
        },
    }))
}

/// The piece that begins at `start`; empty at the end.
fn piece_at(start: u64, size: u64) -> std::ops::Range<u64> {
    start..start.saturating_add(PIECE_BYTES).min(size)
}

/// Takes memory for a read.
async fn in_flight(budget: &Budget, bytes: u64) -> Result<SemaphorePermit<'_>> {
    budget
        .in_flight
        .acquire_many(permits(bytes.min(WHOLE_BYTES)))
        .await
        .map_err(|error| Error::internal("waiting for memory", error))
}

/// Takes memory for what is kept until the inspection is over; whether there was enough.
fn keep(budget: &Budget, bytes: u64) -> bool {
    match budget.kept.try_acquire_many(permits(bytes)) {
        Ok(permit) => {
            permit.forget();
            true
        }
        Err(_) => false,
    }
}

fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}

fn bytes_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("hashing", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_an_artifact_exactly() {
        for size in [WHOLE_BYTES + 1, 3 * PIECE_BYTES, 100 * 1024 * 1024 + 7] {
            let (mut start, mut count) = (0, 0);
            while start < size {
                let piece = piece_at(start, size);
                assert_eq!(piece.start, start);
                assert!(piece.end > start);
                start = piece.end;
                count += 1;
            }
            assert_eq!(start, size);
            assert_eq!(count, size.div_ceil(PIECE_BYTES));
            assert!(piece_at(size, size).is_empty());
        }
    }

    #[test]
    fn memory_for_what_is_kept_is_bounded() {
        let budget = Budget {
            in_flight: Semaphore::new(0),
            kept: Semaphore::new(3),
        };
        assert!(keep(&budget, 2 * PERMIT_BYTES));
        assert!(!keep(&budget, 2 * PERMIT_BYTES));
        assert!(keep(&budget, 1));
        assert!(!keep(&budget, 1));
    }
}
