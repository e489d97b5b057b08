//! Compressed bytes as a source that is read by ranges: raw deflate, gzip (RFC 1952) and Zstandard (RFC 8878).
//!
//! Reading forward decompresses once; reading backward starts again from the beginning, within an allowance, so that
//! memory stays small however large the content is.

use crate::cursor::Trouble;
use crate::edges::{Edges, Keeper};
use crate::source::{ReadError, Source};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Deflate,
    Gzip,
    Zstandard,
}

/// Largest expansion of a stream that is larger than [`FREE_BYTES`].
pub(crate) const MAX_RATIO: u64 = 200;
/// Content up to this size may expand from any size.
const FREE_BYTES: u64 = 1024 * 1024;
/// Bytes that are decompressed at once.
const BLOCK_BYTES: usize = 256 * 1024;
/// Blocks that are kept for reading a little backward.
const KEPT_BLOCKS: usize = 8;
/// Largest window of Zstandard, which a decoder holds in memory.
const MAX_WINDOW_BYTES: u64 = 8 * 1024 * 1024;

/// Compressed bytes, read as what they stand for.
pub(crate) struct Inflated<'a> {
    source: &'a dyn Source,
    coding: Coding,
    size: u64,
    edges: Edges,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    decoder: Option<Decoder<'a>>,
    /// The last blocks, with where they start.
    blocks: VecDeque<(u64, Bytes)>,
    position: u64,
    allowance: u64,
}

struct Decoder<'a> {
    reader: Box<dyn Read + Send + 'a>,
    failure: Arc<Mutex<Option<ReadError>>>,
    /// Bytes of the compressed source that were taken.
    taken: Arc<Mutex<u64>>,
}

/// Reads a source from front to back for a decoder.
struct Feed<'a> {
    source: &'a dyn Source,
    chunk: Bytes,
    index: usize,
    offset: u64,
    failure: Arc<Mutex<Option<ReadError>>>,
    taken: Arc<Mutex<u64>>,
}

impl Read for Feed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.index >= self.chunk.len() {
            let end = self.source.size().min(self.offset + BLOCK_BYTES as u64);
            if self.offset >= end {
                return Ok(0);
            }
            match self.source.read(self.offset..end) {
                Ok(chunk) => {
                    self.offset = end;
                    self.chunk = chunk;
                    self.index = 0;
                }
                Err(error) => {
                    *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return Err(std::io::Error::other("the source failed"));
                }
            }
        }
        let available = self.chunk.get(self.index..).unwrap_or(&[]);
        let count = available.len().min(buffer.len());
        for (slot, byte) in buffer.iter_mut().zip(available) {
            *slot = *byte;
        }
        self.index += count;
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) += count as u64;
        Ok(count)
    }
}

impl<'a> Decoder<'a> {
    fn new(source: &'a dyn Source, coding: Coding) -> std::io::Result<Self> {
        let failure = Arc::new(Mutex::new(None));
        let taken = Arc::new(Mutex::new(0));
        let feed = Feed {
            source,
            chunk: Bytes::new(),
            index: 0,
            offset: 0,
            failure: Arc::clone(&failure),
            taken: Arc::clone(&taken),
        };
        let reader: Box<dyn Read + Send + 'a> = match coding {
            Coding::Deflate => Box::new(flate2::read::DeflateDecoder::new(feed)),
            Coding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(feed)),
            Coding::Zstandard => Box::new(
                ruzstd::decoding::StreamingDecoder::new(feed).map_err(std::io::Error::other)?,
            ),
        };
        Ok(Self {
            reader,
            failure,
            taken,
        })
    }

    /// The next block; an empty one only at the end.
    fn block(&mut self) -> std::io::Result<Vec<u8>> {
        let mut block = Vec::new();
        (&mut self.reader)
            .take(BLOCK_BYTES as u64)
            .read_to_end(&mut block)?;
        Ok(block)
    }

    fn failure(&self) -> Option<ReadError> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl<'a> Inflated<'a> {
    /// Makes a source of content whose size is known, such as a member of a zip archive.
    pub(crate) fn with_size(source: &'a dyn Source, coding: Coding, size: u64) -> Self {
        Self {
            source,
            coding,
            size,
            edges: Edges::default(),
            state: Mutex::new(State {
                decoder: None,
                blocks: VecDeque::new(),
                position: 0,
                allowance: size.saturating_mul(64).saturating_add(256 << 20),
            }),
        }
    }

    /// Decompresses a tar archive once, to learn its size and that it is whole; keeps what is likely asked for.
    pub(crate) fn measure(source: &'a dyn Source, coding: Coding) -> Result<Self, Trouble> {
        if coding == Coding::Zstandard {
            check_window(source)?;
        }
        let limit = source.size().saturating_mul(MAX_RATIO).max(FREE_BYTES);
        let broken = |error: &std::io::Error| {
            Trouble::malformed(0, format!("the compressed stream is damaged: {error}"))
        };
        let mut decoder = Decoder::new(source, coding).map_err(|error| broken(&error))?;
        let mut size = 0_u64;
        let mut keeper = Keeper::new();
        loop {
            match decoder.block() {
                Ok(block) if block.is_empty() => break,
                Ok(block) => {
                    keeper.take(&block);
                    size = size.saturating_add(block.len() as u64);
                }
                Err(error) => {
                    return Err(match decoder.failure() {
                        Some(failure) => failure.into(),
                        None => broken(&error),
                    });
                }
            }
            if size > limit {
                return Err(Trouble::too_large(
                    0,
                    format!(
                        "{} bytes expand to more than {limit}, over {MAX_RATIO} times as much",
                        source.size()
                    ),
                ));
            }
        }
        let taken = *decoder.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if coding == Coding::Zstandard && taken != source.size() {
            return Err(Trouble::malformed(
                taken,
                "something follows the compressed stream",
            ));
        }
        Ok(Self {
            edges: keeper.end(),
            ..Self::with_size(source, coding, size)
        })
    }
}

/// A frame of Zstandard tells how much memory its decoder needs.
pub(crate) fn check_window(source: &dyn Source) -> Result<(), Trouble> {
    let head = source.read(0..source.size().min(18))?;
    let descriptor = head.get(4).copied().unwrap_or(0);
    let is_single = descriptor & 0x20 != 0;
    let window = if is_single {
        let dictionary_bytes = match descriptor & 3 {
            3 => 4,
            bytes => usize::from(bytes),
        };
        let start = 5 + dictionary_bytes;
        let bytes = |count: usize| {
            head.get(start..start + count).map(|bytes| {
                bytes
                    .iter()
                    .rev()
                    .fold(0_u64, |value, byte| (value << 8) | u64::from(*byte))
            })
        };
        match descriptor >> 6 {
            0 => bytes(1),
            1 => bytes(2).map(|value| value + 256),
            2 => bytes(4),
            _ => bytes(8),
        }
    } else {
        head.get(5).map(|byte| {
            let base = 1_u64 << (10 + (byte >> 3));
            base + base / 8 * u64::from(byte & 7)
        })
    };
    match window {
        Some(window) if window <= MAX_WINDOW_BYTES => Ok(()),
        Some(window) => Err(Trouble::too_large(
            4,
            format!("the stream needs a window of {window} bytes"),
        )),
        None => Err(Trouble::malformed(0, "the stream has no header")),
    }
}

impl Source for Inflated<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        if range.start > range.end || range.end > self.size {
            return Err(ReadError::OutOfRange {
                start: range.start,
                end: range.end,
                size: self.size,
            });
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = self.edges.find(&range) {
            return Ok(bytes);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::new();
        let mut at = range.start;
        let oldest = state
            .blocks
            .front()
            .map_or(state.position, |(start, _)| *start);
        if at < oldest {
            state.decoder = None;
            state.blocks.clear();
            state.position = 0;
        }
        while at < range.end {
            let kept = state.blocks.iter().find_map(|(start, block)| {
                let skipped = usize::try_from(at.checked_sub(*start)?).ok()?;
                block.get(skipped..).filter(|rest| !rest.is_empty())
            });
            if let Some(rest) = kept {
                let wanted = usize::try_from(range.end - at).unwrap_or(usize::MAX);
                let part = rest.get(..wanted.min(rest.len())).unwrap_or(&[]);
                at += part.len() as u64;
                bytes.extend_from_slice(part);
                continue;
            }
            state.advance(self.source, self.coding)?;
        }
        Ok(bytes.into())
    }
}

impl<'a> State<'a> {
    /// Decompresses the next block.
    fn advance(&mut self, source: &'a dyn Source, coding: Coding) -> Result<(), ReadError> {
        let damaged = || ReadError::Failed("the compressed stream is damaged".to_owned());
        if self.allowance < BLOCK_BYTES as u64 {
            return Err(ReadError::Exhausted("its allowance of decompression"));
        }
        self.allowance -= BLOCK_BYTES as u64;
        if self.decoder.is_none() {
            self.decoder = Some(Decoder::new(source, coding).map_err(|_| damaged())?);
            self.position = 0;
        }
        let Some(decoder) = &mut self.decoder else {
            return Err(damaged());
        };
        match decoder.block() {
            Ok(block) if !block.is_empty() => {
                if self.blocks.len() >= KEPT_BLOCKS {
                    self.blocks.pop_front();
                }
                let start = self.position;
                self.position += block.len() as u64;
                self.blocks.push_back((start, block.into()));
                Ok(())
            }
            Ok(_) => Err(damaged()),
            Err(_) => Err(decoder.failure().unwrap_or_else(damaged)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn ranges_can_be_read_in_any_order() {
        let content: Vec<u8> = (0..5_000_000_u32)
            .flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes())
            .take(5_000_000)
            .collect();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&content).unwrap();
        let source = Bytes::from(encoder.finish().unwrap());
        let inflated = Inflated::measure(&source, Coding::Gzip).unwrap();
        assert_eq!(inflated.size(), 5_000_000);
        for range in [
            4_000_000..4_000_010,
            0..10,
            100..3_000_000,
            2_999_990..5_000_000_usize,
        ] {
            let read = inflated.read(range.start as u64..range.end as u64).unwrap();
            assert_eq!(read.as_ref(), &content[range]);
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 20_000_000]).unwrap();
        let source = Bytes::from(encoder.finish().unwrap());
        assert!(matches!(
            Inflated::measure(&source, Coding::Gzip),
            Err(Trouble::TooLarge { .. })
        ));
    }
}
