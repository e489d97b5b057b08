//! Proves the SHA-256 of artifacts: from S3 where it has verified one, else by reading every byte once.
//!
//! Reading stops when the invocation's allowance is used up, with the state of the hash in a checkpoint.
//! What was read is kept, within bounds, for the inspection that follows. Memory stays under 32 MiB:
//! 16 MiB in flight and 16 MiB kept.

use crate::allowance::Allowance;
use crate::checkpoint::{Known, Progress, Standing};
use crate::source::{ObjectReader, Pinned, Seed};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use shared::domain::Digest;
use shared::{Error, Result};
use tokio::sync::Semaphore;

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

/// The proven digest of an artifact, and what was read to prove it.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    /// SHA-256 of the whole content.
    pub(crate) digest: Digest,
    /// Whether S3 had verified it, so that nothing was read.
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

/// Proves the digests of all artifacts, going on where `progress` ends.
pub(crate) async fn prove_all(
    reader: &ObjectReader,
    artifacts: &[Pinned],
    allowance: &Allowance,
    progress: &Progress,
) -> Result<Proven> {
    let permits = usize::try_from(WHOLE_BYTES / PERMIT_BYTES).unwrap_or(usize::MAX);
    let budget = Budget {
        in_flight: Semaphore::new(permits),
        kept: Semaphore::new(permits),
    };
    // Collected first: a lazy iterator of futures that borrow would not be `Send`.
    let proofs: Vec<_> = artifacts
        .iter()
        .map(|artifact| prove(reader, &budget, artifact, allowance, progress))
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

async fn prove(
    reader: &ObjectReader,
    budget: &Budget,
    artifact: &Pinned,
    allowance: &Allowance,
    progress: &Progress,
) -> Result<Outcome> {
    let without_reading = |digest: &Digest, by_s3| {
        Outcome::Done(Proof {
            digest: digest.clone(),
            by_s3,
            seed: Seed::None,
        })
    };
    if let Some(digest) = &artifact.head.digest {
        return Ok(without_reading(digest, true));
    }
    let (start, hasher) = match progress.of(artifact) {
        Known::Done(digest) => return Ok(without_reading(&digest, false)),
        Known::Hashed(start, hasher) => (start, hasher),
    };
    let size = artifact.head.size_bytes;
    let _permit = budget
        .in_flight
        .acquire_many(permits(size.min(WHOLE_BYTES)))
        .await
        .map_err(|error| Error::internal("waiting for memory", error))?;
    if size > WHOLE_BYTES {
        let kept = keep(budget, KEPT_HEAD_BYTES + KEPT_TAIL_BYTES);
        return prove_by_pieces(reader, artifact, kept, allowance, start, hasher).await;
    }
    if !allowance.take(size) {
        return Ok(Outcome::Stopped(None));
    }
    let bytes = reader.read(artifact, 0..size).await?;
    let digest = if bytes.len() <= INLINE_HASH_BYTES {
        Digest::of(&bytes)
    } else {
        let bytes = bytes.clone();
        blocking(move || Digest::of(&bytes)).await?
    };
    Ok(Outcome::Done(Proof {
        digest,
        by_s3: false,
        seed: if keep(budget, size) {
            Seed::Whole(bytes)
        } else {
            Seed::None
        },
    }))
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
