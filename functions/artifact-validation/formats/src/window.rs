//! Reads small pieces of a large file through a few cached blocks, and stops early with a finding.
//!
//! Parsers of headers ask for many small pieces that lie near one another.
//! [`Window`] turns these into reads of whole blocks and keeps a bounded number of them, so that neither requests nor
//! memory grow with what a header says of itself.

use crate::check::Check;
use crate::rules::Rule;
use crate::source::{ReadError, Source};
use bytes::Bytes;

/// Declares rules as constants and gathers them in `RULES`, in reading order.
macro_rules! declare_rules {
    ($($name:ident = $id:literal, $verdict:ident, $why:literal, $fix:literal;)+) => {
        $(pub(crate) const $name: $crate::rules::Rule = $crate::rules::Rule {
            id: $id,
            verdict: $crate::report::Verdict::$verdict,
            why: $why,
            fix: $fix,
        };)+
        /// The rules of this format.
        pub const RULES: &[$crate::rules::Rule] = &[$($name),+];
    };
}
pub(crate) use declare_rules;

/// Why a parser went no further.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A read failed.
    Read(ReadError),
    /// A rule applies, and what follows cannot be understood.
    Found {
        /// The rule that applies.
        rule: &'static Rule,
        /// Where, if it has a place.
        offset: Option<u64>,
        /// What was found.
        detail: String,
    },
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl Stop {
    /// Stops because `rule` applies at `offset`.
    pub(crate) fn at(rule: &'static Rule, offset: u64, detail: impl Into<String>) -> Self {
        Self::Found {
            rule,
            offset: Some(offset),
            detail: detail.into(),
        }
    }

    /// Stops because `rule` applies to the file as a whole.
    pub(crate) fn whole(rule: &'static Rule, detail: impl Into<String>) -> Self {
        Self::Found {
            rule,
            offset: None,
            detail: detail.into(),
        }
    }
}

/// Tells the finding that a parser stopped at, and hands on a failed read.
pub(crate) fn settle(check: &mut Check<'_>, outcome: Result<(), Stop>) -> Result<(), ReadError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(Stop::Read(error)) => Err(error),
        Err(Stop::Found {
            rule,
            offset,
            detail,
        }) => {
            check.find(rule, offset, detail);
            Ok(())
        }
    }
}

/// The path of the file under inspection within its own bundle: members of an archive are a bundle of their own.
///
/// Answers also whether the bundle is that one, so that a neighbour that is not found is missing.
pub(crate) fn place_in_bundle<'p>(check: &Check<'p>) -> (&'p str, bool) {
    let local = check.path.rsplit("!/").next().unwrap_or(check.path);
    (local, check.bundle.find(local).is_some())
}

/// A view of a source through a bounded number of cached blocks.
pub(crate) struct Window<'a> {
    source: &'a dyn Source,
    block_bytes: u64,
    capacity: usize,
    /// Index of a block and its bytes, the most recently used last.
    blocks: Vec<(u64, Bytes)>,
}

impl<'a> Window<'a> {
    /// Most bytes that one call may ask for.
    pub(crate) const MAX_PIECE_BYTES: usize = 16 * 1024 * 1024;

    /// Makes a window that keeps at most `capacity` blocks of `block_bytes` each.
    pub(crate) fn new(source: &'a dyn Source, block_bytes: u64, capacity: usize) -> Self {
        Self {
            source,
            block_bytes: block_bytes.max(1),
            capacity: capacity.max(1),
            blocks: Vec::new(),
        }
    }

    /// Size of the file in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.source.size()
    }

    /// Reads `length` bytes at `offset`; `None` if the file ends before, or if the piece is larger than any header.
    pub(crate) fn get(&mut self, offset: u64, length: usize) -> Result<Option<Bytes>, ReadError> {
        let Some(end) = offset.checked_add(length as u64) else {
            return Ok(None);
        };
        if end > self.source.size() || length > Self::MAX_PIECE_BYTES {
            return Ok(None);
        }
        if length == 0 {
            return Ok(Some(Bytes::new()));
        }
        let first = offset / self.block_bytes;
        let last = (end - 1) / self.block_bytes;
        if last - first > 1 {
            // A piece that spans blocks is read by itself, and not kept.
            return self.source.read(offset..end).map(Some);
        }
        let head = self.block(first)?;
        let start = usize::try_from(offset - first * self.block_bytes).unwrap_or(usize::MAX);
        if first == last {
            let Some(stop) = start.checked_add(length) else {
                return Ok(None);
            };
            return Ok((stop <= head.len()).then(|| head.slice(start..stop)));
        }
        let mut piece = Vec::with_capacity(length);
        piece.extend_from_slice(head.get(start..).unwrap_or_default());
        let tail = self.block(last)?;
        let missing = length.saturating_sub(piece.len());
        piece.extend_from_slice(tail.get(..missing).unwrap_or_default());
        Ok((piece.len() == length).then(|| Bytes::from(piece)))
    }

    /// Reads a little-endian number of `width` bytes (at most eight) at `offset`.
    pub(crate) fn number(&mut self, offset: u64, width: usize) -> Result<Option<u64>, ReadError> {
        Ok(self.get(offset, width.min(8))?.map(|bytes| little(&bytes)))
    }

    fn block(&mut self, index: u64) -> Result<Bytes, ReadError> {
        if let Some(at) = self.blocks.iter().rposition(|(known, _)| *known == index) {
            let block = self.blocks.remove(at);
            let bytes = block.1.clone();
            self.blocks.push(block);
            return Ok(bytes);
        }
        let start = index.saturating_mul(self.block_bytes);
        let end = start
            .saturating_add(self.block_bytes)
            .min(self.source.size());
        let bytes = self.source.read(start..end)?;
        if self.blocks.len() >= self.capacity {
            self.blocks.remove(0);
        }
        self.blocks.push((index, bytes.clone()));
        Ok(bytes)
    }
}

/// The little-endian number that `bytes` (at most eight) spell.
pub(crate) fn little(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .rev()
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// Finds a central directory of a zip archive at the end of `tail`, where every zip reader looks for it.
///
/// Answers the position within `tail`. Chance cannot make one: besides the signature of the end record, the directory
/// that it points to must begin with its own signature, or lie beyond what is visible in a consistent place.
pub(crate) fn zip_trailer(tail: &[u8], size: u64) -> Option<usize> {
    let tail_start = size.saturating_sub(tail.len() as u64);
    let mut from = tail.len().saturating_sub(65_535 + 22);
    while let Some(found) = tail
        .get(from..)?
        .windows(4)
        .position(|window| window == b"PK\x05\x06")
    {
        let at = from + found;
        let record = tail.get(at..at + 22)?;
        let entries = little(&record[10..12]);
        let directory_bytes = little(&record[12..16]);
        let place = tail_start.saturating_add(at as u64);
        let zip64 = at >= 20 && tail.get(at - 20..at - 16) == Some(b"PK\x06\x07");
        if zip64 {
            return Some(at);
        }
        if entries > 0 && directory_bytes <= place && directory_bytes >= 46 {
            let directory = place - directory_bytes;
            let visible = directory
                .checked_sub(tail_start)
                .and_then(|start| usize::try_from(start).ok());
            let is_directory = match visible {
                Some(start) => tail.get(start..start + 4) == Some(b"PK\x01\x02"),
                // The directory begins before the tail: believe the record if its own offset agrees.
                None => little(&record[16..20]) <= directory && little(&record[4..8]) == 0,
            };
            if is_directory {
                return Some(at);
            }
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_gives_the_same_bytes_as_the_source() {
        let bytes = Bytes::from((0..=255u8).cycle().take(1000).collect::<Vec<_>>());
        let mut window = Window::new(&bytes, 64, 2);
        for offset in [0u64, 1, 63, 64, 120, 900, 990] {
            for length in [0usize, 1, 10, 70, 200] {
                let end = usize::try_from(offset).unwrap() + length;
                let expected = bytes.get(usize::try_from(offset).unwrap()..end);
                let got = window.get(offset, length).unwrap();
                assert_eq!(got.as_deref(), expected, "{offset} {length}");
            }
        }
        assert!(window.get(u64::MAX, 5).unwrap().is_none());
    }

    #[test]
    fn a_signature_alone_is_no_archive() {
        let mut bytes = vec![7u8; 100];
        bytes.extend_from_slice(b"PK\x05\x06");
        bytes.extend_from_slice(&[0; 18]);
        assert_eq!(zip_trailer(&bytes, bytes.len() as u64), None);
    }
}
