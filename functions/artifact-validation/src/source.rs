//! Artifacts as they are read: ranges of pinned objects, through a small cache.
//!
//! Parsers ask for many small pieces that lie near one another; S3 charges by the request.
//! A first read brings a good part of the head, reads that go forwards bring more each time, and a small artifact is
//! read whole at once.

use crate::allowance::Allowance;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use model_formats::{ReadError, Source};
use shared::domain::DeclaredArtifact;
use shared::s3::{Bucket, ObjectHead};
use shared::{Error, ErrorCode, Result};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;

/// Unit of the cache, in bytes.
const BLOCK_BYTES: u64 = 64 * 1024;
/// What the first read at the head of an artifact brings, in bytes.
const HEAD_BYTES: u64 = 512 * 1024;
/// Up to this size, in bytes, an artifact is read whole at once.
pub(crate) const SMALL_BYTES: u64 = 1024 * 1024;
/// Most that a read brings beyond what was asked for, in bytes.
const MAX_AHEAD_BYTES: u64 = 4 * 1024 * 1024;
/// Pieces over this size, in bytes, are read as they are asked for, and not kept.
const MAX_CACHED_PIECE_BYTES: u64 = 2 * 1024 * 1024;
/// Blocks that are kept for all artifacts of a version together: 8 MiB.
const CACHED_BLOCKS: usize = 128;
/// Ranges that are read at the same time.
const PARALLEL_READS: usize = 8;

/// A declared artifact and the object that holds it, pinned by version id and `ETag`.
#[derive(Debug, Clone)]
pub(crate) struct Pinned {
    /// What was declared.
    pub(crate) declared: DeclaredArtifact,
    /// Key of the object.
    pub(crate) key: String,
    /// The object as it was when it was pinned.
    pub(crate) head: ObjectHead,
}

impl Pinned {
    /// The error for an object that is another one than was pinned; trying again starts over.
    pub(crate) fn exchanged(&self) -> Error {
        Error::new(
            ErrorCode::Unavailable,
            format!(
                "artifact `{}` was exchanged while it was being validated",
                self.declared.path
            ),
        )
        .with("path", self.declared.path.as_str())
    }
}

/// Reads ranges of pinned objects, and counts what was read.
#[derive(Debug)]
pub(crate) struct ObjectReader {
    bucket: Bucket,
    requests: AtomicU64,
    read_bytes: AtomicU64,
}

impl ObjectReader {
    /// A reader that has read nothing.
    pub(crate) fn new(bucket: Bucket) -> Self {
        Self {
            bucket,
            requests: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
        }
    }

    /// Reads a range whole.
    pub(crate) async fn read(&self, pinned: &Pinned, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.read_bytes
            .fetch_add(range.end - range.start, Ordering::Relaxed);
        self.bucket
            .read_range(
                &pinned.key,
                pinned.head.object_version.as_deref(),
                &pinned.head.etag,
                range,
            )
            .await?
            .ok_or_else(|| pinned.exchanged())
    }

    /// How many requests were made.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// How many bytes were asked for.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }
}

/// Bytes of an artifact that were read already, for its digest.
#[derive(Debug, Clone, Default)]
pub(crate) enum Seed {
    /// None were, or none are kept.
    #[default]
    None,
    /// All of them.
    Whole(Bytes),
    /// The beginning and the end.
    Ends {
        /// The beginning.
        head: Bytes,
        /// The end.
        tail: Bytes,
    },
}

impl Seed {
    fn find(&self, size: u64, range: &Range<u64>) -> Option<Bytes> {
        match self {
            Self::None => None,
            Self::Whole(bytes) => slice_of(bytes, 0, range),
            Self::Ends { head, tail } => slice_of(head, 0, range)
                .or_else(|| slice_of(tail, size.checked_sub(tail.len() as u64)?, range)),
        }
    }
}

/// The part of `bytes`, which begin at `start`, that `range` is; `None` if it is not all there.
fn slice_of(bytes: &Bytes, start: u64, range: &Range<u64>) -> Option<Bytes> {
    let from = usize::try_from(range.start.checked_sub(start)?).ok()?;
    let to = usize::try_from(range.end.checked_sub(start)?).ok()?;
    (from <= to && to <= bytes.len()).then(|| bytes.slice(from..to))
}

/// What all artifacts of one inspection share: the reader, the cache, and the first read that failed.
#[derive(Debug)]
pub(crate) struct Shelf {
    reader: Arc<ObjectReader>,
    runtime: Handle,
    allowance: Arc<Allowance>,
    is_exhausted: AtomicBool,
    state: Mutex<ShelfState>,
}

#[derive(Debug, Default)]
struct ShelfState {
    blocks: Blocks,
    failure: Option<Error>,
}

impl Shelf {
    /// An empty cache; reads run on `runtime`, which must be driven by another thread than the one that asks.
    pub(crate) fn new(
        reader: Arc<ObjectReader>,
        runtime: Handle,
        allowance: Arc<Allowance>,
    ) -> Self {
        Self {
            reader,
            runtime,
            allowance,
            is_exhausted: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// The first read that failed, if one did.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.state().failure.take()
    }

    /// Whether a read was refused because the invocation's time was over.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.is_exhausted.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, ShelfState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: Error) -> ReadError {
        let seen = ReadError::Failed(error.message.clone());
        self.state().failure.get_or_insert(error);
        seen
    }
}

/// Blocks of several artifacts, the most recently used last.
#[derive(Debug, Default)]
struct Blocks(VecDeque<((usize, u64), Bytes)>);

impl Blocks {
    fn get(&mut self, artifact: usize, index: u64) -> Option<Bytes> {
        let at = self
            .0
            .iter()
            .rposition(|(known, _)| *known == (artifact, index))?;
        let block = self.0.remove(at)?;
        let bytes = block.1.clone();
        self.0.push_back(block);
        Some(bytes)
    }

    /// Keeps the blocks that `bytes`, which begin at a block's boundary, consist of.
    fn keep(&mut self, artifact: usize, first: u64, bytes: &Bytes) {
        let block_bytes = usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX);
        for (index, chunk) in (first..).zip(bytes.chunks(block_bytes)) {
            let known = (artifact, index);
            if self.0.iter().any(|(other, _)| *other == known) {
                continue;
            }
            if self.0.len() >= CACHED_BLOCKS {
                self.0.pop_front();
            }
            // A copy, so that what is kept does not hold all that was read.
            self.0.push_back((known, Bytes::copy_from_slice(chunk)));
        }
    }
}

/// One artifact under inspection.
#[derive(Debug)]
pub(crate) struct ArtifactSource {
    index: usize,
    pinned: Pinned,
    seed: Seed,
    shelf: Arc<Shelf>,
    ahead: Mutex<ReadAhead>,
}

impl ArtifactSource {
    /// The artifact number `index` of those that share `shelf`.
    pub(crate) fn new(index: usize, pinned: Pinned, seed: Seed, shelf: Arc<Shelf>) -> Self {
        Self {
            index,
            pinned,
            seed,
            shelf,
            ahead: Mutex::default(),
        }
    }

    /// Path within the version.
    pub(crate) fn path(&self) -> &str {
        self.pinned.declared.path.as_str()
    }

    fn check(&self, range: &Range<u64>) -> Result<(), ReadError> {
        let size = self.size();
        if range.start > range.end || range.end > size {
            return Err(ReadError::OutOfRange {
                start: range.start,
                end: range.end,
                size,
            });
        }
        if self.shelf.allowance.is_over() {
            self.shelf.is_exhausted.store(true, Ordering::Relaxed);
            return Err(ReadError::Exhausted("time"));
        }
        // One failed read ends the validation; more requests would be wasted.
        match &self.shelf.state().failure {
            Some(error) => Err(ReadError::Failed(error.message.clone())),
            None => Ok(()),
        }
    }

    fn fetch(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        self.shelf
            .runtime
            .block_on(self.shelf.reader.read(&self.pinned, range))
            .map_err(|error| self.shelf.fail(error))
    }

    /// What is in the cache of the blocks from `first` to `last`.
    fn cached(&self, first: u64, last: u64) -> Vec<Option<Bytes>> {
        let mut state = self.shelf.state();
        (first..=last)
            .map(|index| state.blocks.get(self.index, index))
            .collect()
    }

    fn read_blocks(&self, range: &Range<u64>) -> Result<Bytes, ReadError> {
        let (first, last) = (range.start / BLOCK_BYTES, (range.end - 1) / BLOCK_BYTES);
        let cached = self.cached(first, last);
        let missing = |block: &Option<Bytes>| block.is_none();
        let (Some(from), Some(to)) = (
            cached.iter().position(missing),
            cached.iter().rposition(missing),
        ) else {
            return assemble(first, &cached, range);
        };
        let wanted = (first + from as u64) * BLOCK_BYTES..(first + to as u64 + 1) * BLOCK_BYTES;
        let fetched_range = self
            .ahead
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .plan(&wanted, self.size());
        let fetched = self.fetch(fetched_range.clone())?;
        let answer = if let Some(answer) = slice_of(&fetched, fetched_range.start, range) {
            Ok(answer)
        } else {
            let whole = (first..=last)
                .zip(cached)
                .map(|(index, known)| {
                    let start = index * BLOCK_BYTES;
                    let end = (start + BLOCK_BYTES).min(self.size());
                    known.or_else(|| slice_of(&fetched, fetched_range.start, &(start..end)))
                })
                .collect::<Vec<_>>();
            assemble(first, &whole, range)
        };
        self.shelf
            .state()
            .blocks
            .keep(self.index, fetched_range.start / BLOCK_BYTES, &fetched);
        answer
    }
}

/// Joins consecutive blocks, of which `first` is the first, and cuts `range` out of them.
fn assemble(first: u64, blocks: &[Option<Bytes>], range: &Range<u64>) -> Result<Bytes, ReadError> {
    let start = first * BLOCK_BYTES;
    if let [Some(block)] = blocks
        && let Some(answer) = slice_of(block, start, range)
    {
        return Ok(answer);
    }
    let joined: Bytes = blocks.iter().flatten().flatten().copied().collect();
    slice_of(&joined, start, range)
        .ok_or_else(|| ReadError::Failed("a block is cut short".to_owned()))
}

/// How much a read brings beyond what was asked for.
#[derive(Debug, Default)]
struct ReadAhead {
    /// Where the last fetch ended.
    next: u64,
    /// How much a read that goes on there brings.
    bytes: u64,
}

impl ReadAhead {
    /// What to fetch so that `wanted`, whole blocks, is there.
    fn plan(&mut self, wanted: &Range<u64>, size: u64) -> Range<u64> {
        let fetched = if size <= SMALL_BYTES {
            0..size
        } else {
            self.bytes = if wanted.start == 0 {
                HEAD_BYTES
            } else if wanted.start == self.next {
                (self.bytes * 2).clamp(2 * BLOCK_BYTES, MAX_AHEAD_BYTES)
            } else {
                BLOCK_BYTES
            };
            wanted.start..wanted.end.max(wanted.start + self.bytes).min(size)
        };
        self.next = fetched.end;
        fetched
    }
}

impl Source for ArtifactSource {
    fn size(&self) -> u64 {
        self.pinned.head.size_bytes
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        self.check(&range)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = self.seed.find(self.size(), &range) {
            return Ok(bytes);
        }
        if range.end - range.start > MAX_CACHED_PIECE_BYTES {
            return self.fetch(range);
        }
        self.read_blocks(&range)
    }

    fn read_many(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ReadError> {
        let mut answers = vec![None; ranges.len()];
        let mut missing = Vec::new();
        for (at, range) in ranges.iter().enumerate() {
            self.check(range)?;
            answers[at] = if range.is_empty() {
                Some(Bytes::new())
            } else {
                self.seed.find(self.size(), range)
            };
            if answers[at].is_none() {
                missing.push((at, range.clone()));
            }
        }
        if self.size() <= SMALL_BYTES || missing.len() == 1 {
            for (at, range) in missing.drain(..) {
                answers[at] = Some(self.read(range)?);
            }
        }
        let joined = coalesce(&mut missing);
        let fetched: Vec<Bytes> = self
            .shelf
            .runtime
            .block_on(
                stream::iter(joined.iter().cloned())
                    .map(|range| self.shelf.reader.read(&self.pinned, range))
                    .buffered(PARALLEL_READS)
                    .try_collect(),
            )
            .map_err(|error| self.shelf.fail(error))?;
        for (at, range) in missing {
            answers[at] = joined
                .iter()
                .zip(&fetched)
                .find_map(|(fetch, bytes)| slice_of(bytes, fetch.start, &range));
        }
        answers
            .into_iter()
            .map(|answer| answer.ok_or_else(|| ReadError::Failed("an answer is missing".into())))
            .collect()
    }
}

/// Joins ranges that lie near one another, up to the largest read; sorts `ranges` by their start.
fn coalesce(ranges: &mut [(usize, Range<u64>)]) -> Vec<Range<u64>> {
    ranges.sort_by_key(|(_, range)| (range.start, range.end));
    let mut joined: Vec<Range<u64>> = Vec::new();
    for (_, range) in ranges.iter() {
        match joined.last_mut() {
            Some(last)
                if range.start <= last.end.saturating_add(BLOCK_BYTES)
                    && range.end.max(last.end) - last.start <= MAX_AHEAD_BYTES =>
            {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range.clone()),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_artifact_is_read_whole_and_a_large_one_by_its_head() {
        let plan = |wanted: Range<u64>, size| ReadAhead::default().plan(&wanted, size);
        assert_eq!(plan(0..BLOCK_BYTES, 700_000), 0..700_000);
        assert_eq!(plan(0..BLOCK_BYTES, 1 << 30), 0..HEAD_BYTES);
        let tail = (1 << 30) - BLOCK_BYTES;
        assert_eq!(plan(tail..tail + BLOCK_BYTES, 1 << 30), tail..1 << 30);
    }

    #[test]
    fn reads_that_go_forwards_bring_more_each_time() {
        let mut ahead = ReadAhead::default();
        let size = 1 << 30;
        let mut position = 0;
        let mut lengths = Vec::new();
        for _ in 0..7 {
            let fetched = ahead.plan(&(position..position + BLOCK_BYTES), size);
            lengths.push((fetched.end - fetched.start) / BLOCK_BYTES);
            position = fetched.end;
        }
        assert_eq!(lengths, [8, 16, 32, 64, 64, 64, 64]);
        // A hop starts small again.
        let fetched = ahead.plan(&(BLOCK_BYTES * 9000..BLOCK_BYTES * 9001), size);
        assert_eq!(fetched.end - fetched.start, BLOCK_BYTES);
    }

    #[test]
    fn near_ranges_are_joined_and_far_ones_are_not() {
        let mut ranges = vec![(0, 500_000..500_100), (1, 0..10), (2, 20..30), (3, 5..8)];
        assert_eq!(coalesce(&mut ranges), [0..30, 500_000..500_100]);
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_was_used_last() {
        let mut blocks = Blocks::default();
        let block = Bytes::from(vec![0; usize::try_from(BLOCK_BYTES).unwrap()]);
        for index in 0..CACHED_BLOCKS as u64 {
            blocks.keep(0, index, &block);
        }
        assert!(blocks.get(0, 0).is_some());
        blocks.keep(1, 0, &block);
        assert_eq!(blocks.0.len(), CACHED_BLOCKS);
        assert!(blocks.get(0, 0).is_some());
        assert!(blocks.get(0, 1).is_none());
    }

    #[test]
    fn seeds_answer_what_they_hold_and_nothing_else() {
        let ends = Seed::Ends {
            head: Bytes::from_static(b"abc"),
            tail: Bytes::from_static(b"xyz"),
        };
        assert_eq!(ends.find(100, &(1..3)).unwrap(), "bc");
        assert_eq!(ends.find(100, &(97..100)).unwrap(), "xyz");
        assert_eq!(ends.find(100, &(2..4)), None);
        assert_eq!(ends.find(100, &(96..98)), None);
        assert_eq!(ends.find(2, &(0..1)).unwrap(), "a");
    }
}
