//! Where bytes come from: a file of known size that is read by ranges.

use bytes::Bytes;
use std::ops::Range;

/// Bytes that can be read by ranges, such as an object in S3 or a local file.
///
/// Reads are synchronous; a caller on an async runtime runs the inspection on a blocking thread.
pub trait Source: Send + Sync {
    /// The exact size in bytes, known before anything is read.
    fn size(&self) -> u64;

    /// Reads `range`, which must lie within `0..size()`, whole.
    ///
    /// A short answer is an error: a parser never sees fewer bytes than it asked for.
    fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError>;

    /// Reads several ranges, in parallel where the source can.
    fn read_many(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ReadError> {
        ranges
            .iter()
            .map(|range| self.read(range.clone()))
            .collect()
    }
}

/// A read that did not give the bytes that were asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The object changed or vanished since the inspection began.
    #[error("the bytes changed while they were being inspected")]
    Changed,
    /// The range lies outside of the file.
    #[error("bytes {start}..{end} lie outside of a file of {size} bytes")]
    OutOfRange {
        /// First byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
        /// Size of the file.
        size: u64,
    },
    /// The time or byte allowance of this inspection is used up.
    #[error("the inspection ran out of {0}")]
    Exhausted(&'static str),
    /// Anything else, such as a lost connection; trying again may help.
    #[error("reading failed: {0}")]
    Failed(String),
}

impl Source for Bytes {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        let out_of_range = ReadError::OutOfRange {
            start: range.start,
            end: range.end,
            size: self.len() as u64,
        };
        match (usize::try_from(range.start), usize::try_from(range.end)) {
            (Ok(start), Ok(end)) if start <= end && end <= self.len() => Ok(self.slice(start..end)),
            _ => Err(out_of_range),
        }
    }
}
