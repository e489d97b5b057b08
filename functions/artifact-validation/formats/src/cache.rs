//! A source that remembers what was read, so that small reads do not become many requests.
//!
//! Reads here and there fetch small blocks; a reader that goes forwards gets blocks that grow.
//! Several ranges that are asked for at once are fetched as they are, in parallel where the source can.

use crate::source::{ReadError, Source};
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Size of a fetch that does not follow another.
const FIRST_FETCH: u64 = 16 * 1024;
const LARGEST_FETCH: u64 = 1024 * 1024;

/// A source with a bounded memory of what was read.
pub(crate) struct Cached<'s> {
    source: &'s dyn Source,
    memory_bytes: usize,
    allowance: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was read, the latest last.
    blocks: VecDeque<(u64, Bytes)>,
    held_bytes: usize,
    read_bytes: u64,
    next: u64,
    fetch: u64,
}

impl<'s> Cached<'s> {
    /// Remembers at most `memory_bytes` of `source`, and reads at most `allowance` bytes of it.
    pub(crate) fn new(source: &'s dyn Source, memory_bytes: usize, allowance: u64) -> Self {
        Self {
            source,
            memory_bytes,
            allowance,
            state: Mutex::default(),
        }
    }

    /// How many bytes were fetched.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.state().read_bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn charge(&self, state: &mut State, bytes: u64) -> Result<(), ReadError> {
        state.read_bytes = state.read_bytes.saturating_add(bytes);
        if state.read_bytes > self.allowance {
            return Err(ReadError::Exhausted("bytes that may be read of one file"));
        }
        Ok(())
    }

    fn check_range(&self, range: &Range<u64>) -> Result<(), ReadError> {
        let size = self.source.size();
        if range.start > range.end || range.end > size {
            return Err(ReadError::OutOfRange {
                start: range.start,
                end: range.end,
                size,
            });
        }
        Ok(())
    }
}

impl State {
    fn find(&self, range: &Range<u64>) -> Option<Bytes> {
        self.blocks.iter().rev().find_map(|(start, block)| {
            let from = usize::try_from(range.start.checked_sub(*start)?).ok()?;
            let to = usize::try_from(range.end.checked_sub(*start)?).ok()?;
            (to <= block.len()).then(|| block.slice(from..to))
        })
    }

    fn keep(&mut self, start: u64, block: Bytes, memory_bytes: usize) {
        if block.len() > memory_bytes / 2 {
            return;
        }
        self.held_bytes += block.len();
        self.blocks.push_back((start, block));
        while self.held_bytes > memory_bytes || self.blocks.len() > 64 {
            match self.blocks.pop_front() {
                Some((_, block)) => self.held_bytes -= block.len(),
                None => break,
            }
        }
    }
}

impl Source for Cached<'_> {
    fn size(&self) -> u64 {
        self.source.size()
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        self.check_range(&range)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let mut state = self.state();
        if let Some(bytes) = state.find(&range) {
            return Ok(bytes);
        }
        // Readers that go forwards get more each time; a little overlap or gap does not matter.
        let follows =
            range.start <= state.next && range.start + FIRST_FETCH >= state.next && state.next > 0;
        state.fetch = if follows {
            (state.fetch * 2).clamp(FIRST_FETCH, LARGEST_FETCH)
        } else {
            FIRST_FETCH
        };
        let end = range
            .end
            .max(range.start.saturating_add(state.fetch))
            .min(self.source.size());
        self.charge(&mut state, end - range.start)?;
        let block = self.source.read(range.start..end)?;
        if block.len() as u64 != end - range.start {
            return Err(ReadError::Failed("the answer is cut short".to_owned()));
        }
        state.next = end;
        let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let answer = block.slice(..wanted.min(block.len()));
        let memory_bytes = self.memory_bytes;
        state.keep(range.start, block, memory_bytes);
        Ok(answer)
    }

    fn read_many(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ReadError> {
        let mut missing = Vec::new();
        let mut answers = Vec::with_capacity(ranges.len());
        let mut state = self.state();
        for range in ranges {
            self.check_range(range)?;
            let known = if range.is_empty() {
                Some(Bytes::new())
            } else {
                state.find(range)
            };
            if known.is_none() {
                self.charge(&mut state, range.end - range.start)?;
                missing.push(range.clone());
            }
            answers.push(known);
        }
        drop(state);
        let mut fetched = if missing.is_empty() {
            Vec::new()
        } else {
            self.source.read_many(&missing)?
        }
        .into_iter();
        answers
            .into_iter()
            .zip(ranges)
            .map(|(known, range)| {
                let bytes = match known {
                    Some(bytes) => bytes,
                    None => fetched
                        .next()
                        .ok_or_else(|| ReadError::Failed("an answer is missing".to_owned()))?,
                };
                if bytes.len() as u64 != range.end - range.start {
                    return Err(ReadError::Failed("the answer is cut short".to_owned()));
                }
                Ok(bytes)
            })
            .collect()
    }
}
