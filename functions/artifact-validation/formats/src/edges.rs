//! What is kept of a compressed tar archive while it is decompressed for the first time.
//!
//! Headers, small members, and the beginnings and ends of large ones are mostly all that is asked for afterwards, so that
//! an archive of large files in formats with headers is decompressed once.
//! It is a guess what will be asked for: nothing is checked here, and what is not kept is decompressed again.

use crate::archive;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::ops::Range;

const BLOCK: u64 = 512;
/// Members up to this size, in bytes, are kept whole.
const WHOLE_BYTES: u64 = 1024 * 1024;
/// What is kept of the beginning of a larger one, in bytes.
const HEAD_BYTES: u64 = 512 * 1024;
/// What is kept of its end, in bytes: more than the end of a zip archive with the longest comment.
const TAIL_BYTES: u64 = 128 * 1024;
/// Most that is kept, in bytes.
const KEPT_BYTES: usize = 12 * 1024 * 1024;
/// Most pieces that are kept.
const MAX_PIECES: usize = 50_000;

/// Pieces of the content, by where they start.
#[derive(Debug, Default)]
pub(crate) struct Edges(Vec<(u64, Bytes)>);

impl Edges {
    /// The bytes of a range, if one piece holds them all.
    pub(crate) fn find(&self, range: &Range<u64>) -> Option<Bytes> {
        let after = self.0.partition_point(|(start, _)| *start <= range.start);
        let (start, piece) = self.0.get(after.checked_sub(1)?)?;
        let from = usize::try_from(range.start - start).ok()?;
        let to = usize::try_from(range.end - start).ok()?;
        (to <= piece.len()).then(|| piece.slice(from..to))
    }
}

/// Follows the content as it is decompressed.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// Ranges that are yet to come, in order; the first may have begun.
    wanted: VecDeque<Range<u64>>,
    begun: BytesMut,
    /// Where the next header lies; `None` behind the last.
    header: Option<u64>,
    position: u64,
    held_bytes: usize,
    edges: Edges,
}

impl Keeper {
    pub(crate) fn new() -> Self {
        Self {
            wanted: std::iter::once(0..BLOCK).collect(),
            begun: BytesMut::new(),
            header: Some(0),
            position: 0,
            held_bytes: 0,
            edges: Edges::default(),
        }
    }

    /// Takes the next bytes of the content.
    pub(crate) fn take(&mut self, block: &[u8]) {
        let end = self.position + block.len() as u64;
        while let Some(range) = self.wanted.front().cloned() {
            let from = range.start.max(self.position);
            let to = range.end.min(end);
            if from >= to {
                break;
            }
            let inside = |at: u64| usize::try_from(at - self.position).unwrap_or(usize::MAX);
            let part = block.get(inside(from)..inside(to)).unwrap_or_default();
            if self.held_bytes + part.len() > KEPT_BYTES || self.edges.0.len() >= MAX_PIECES {
                // Full: what was begun is of no use, and nothing more is followed.
                self.wanted.clear();
                self.begun.clear();
                break;
            }
            self.held_bytes += part.len();
            self.begun.extend_from_slice(part);
            if to < range.end {
                break;
            }
            self.finish();
        }
        self.position = end;
    }

    /// What was kept.
    pub(crate) fn end(mut self) -> Edges {
        if !self.begun.is_empty() {
            self.finish();
        }
        self.edges
    }

    fn finish(&mut self) {
        let Some(range) = self.wanted.pop_front() else {
            return;
        };
        let piece = self.begun.split().freeze();
        if self.header == Some(range.start) {
            self.header = self.follow(range.start, &piece);
        }
        self.edges.0.push((range.start, piece));
    }

    /// Wants what follows a header; answers where the next one lies.
    fn follow(&mut self, at: u64, header: &[u8]) -> Option<u64> {
        if header.iter().all(|byte| *byte == 0) {
            // Whoever reads the end reads it from this block on.
            self.wanted.push_back(at + BLOCK..u64::MAX);
            return None;
        }
        let size = archive::octal(header.get(124..136)?)?;
        let data = at.checked_add(BLOCK)?;
        let end = data.checked_add(size)?;
        let next = end.checked_next_multiple_of(BLOCK)?;
        if size <= WHOLE_BYTES {
            if next > data {
                self.wanted.push_back(data..next);
            }
        } else {
            self.wanted.push_back(data..data + HEAD_BYTES);
            self.wanted.push_back(end - TAIL_BYTES..next);
        }
        self.wanted.push_back(next..next.checked_add(BLOCK)?);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(size: u64) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[0] = b'a';
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        header
    }

    #[test]
    fn headers_small_members_and_edges_of_large_ones_are_kept() {
        let large = 3 * 1024 * 1024 + 5;
        let mut content = header(700);
        content.extend((0..=255_u8).cycle().take(1024));
        content.extend(header(large));
        let data = content.len() as u64;
        content.extend((0..251_u8).cycle().take(3 * 1024 * 1024 + 5));
        content.resize(content.len().next_multiple_of(512) + 10_240, 0);
        for step in [1000, 512, 65_536, 5_000_000] {
            let mut keeper = Keeper::new();
            for block in content.chunks(step) {
                keeper.take(block);
            }
            let edges = keeper.end();
            let end = data + large;
            for (range, is_kept) in [
                (0..512, true),
                (512..1212, true),
                (1212..1536, true),
                (1536..2048, true),
                (data..data + 65_536, true),
                (data..data + HEAD_BYTES, true),
                (data..data + HEAD_BYTES + 1, false),
                (end - TAIL_BYTES..end, true),
                (end - TAIL_BYTES - 1..end, false),
            ] {
                let found = edges.find(&range);
                assert_eq!(found.is_some(), is_kept, "{range:?} by {step}");
                if let Some(found) = found {
                    let at = |offset: u64| usize::try_from(offset).unwrap();
                    assert_eq!(found, content[at(range.start)..at(range.end)]);
                }
            }
        }
    }

    #[test]
    fn whatever_headers_say_little_is_kept_and_as_it_is() {
        for filler in [0, 0x80, 0xff, b'7'] {
            let mut keeper = Keeper::new();
            for _ in 0..1000 {
                keeper.take(&vec![filler; 65_536]);
            }
            let edges = keeper.end();
            let pieces = edges.0.iter().map(|(_, piece)| piece.len());
            assert!(pieces.sum::<usize>() <= KEPT_BYTES);
            for at in [0, 511, 1000, 60_000_000] {
                let found = edges.find(&(at..at + 1));
                assert!(found.is_none_or(|found| found[..] == [filler]));
            }
        }
    }
}
