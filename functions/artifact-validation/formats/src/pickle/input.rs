//! The bytes of a pickle, read forwards: from a file by ranges, or out of a decoder.
//!
//! Only what is looked at is fetched: the bytes of an array are skipped, which in a file costs nothing.

use crate::source::{ReadError, Source};
use bytes::Bytes;
use std::io::Read;

/// Size of the first fetch; it doubles while the pickle is read without gaps.
const FIRST_FETCH: u64 = 64 * 1024;
const LARGEST_FETCH: u64 = 1024 * 1024;

/// Why no more bytes came.
#[derive(Debug)]
pub enum InputError {
    /// The source failed.
    Read(ReadError),
    /// The compressed stream is damaged.
    Damaged(String),
    /// The compressed stream expands further than it may.
    Bomb,
}

impl From<ReadError> for InputError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

enum Origin<'s> {
    File {
        source: &'s dyn Source,
        fetch: u64,
    },
    Decoder {
        reader: Box<dyn Read + 's>,
        limit: u64,
    },
}

/// Bytes that are read forwards.
pub struct Input<'s> {
    origin: Origin<'s>,
    /// Bytes at hand; those before `at` are used up.
    buffer: Bytes,
    at: usize,
    /// Offset of the first byte of `buffer`.
    start: u64,
    ended: bool,
    /// Most opcodes that are worth following of what a small stream expands to.
    pub(super) opcode_limit: u64,
}

impl std::fmt::Debug for Input<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Input")
            .field("offset", &self.offset())
            .finish_non_exhaustive()
    }
}

impl<'s> Input<'s> {
    /// Reads the file from `offset` on.
    pub fn file(source: &'s dyn Source, offset: u64) -> Self {
        Self {
            origin: Origin::File {
                source,
                fetch: FIRST_FETCH,
            },
            buffer: Bytes::new(),
            at: 0,
            start: offset.min(source.size()),
            ended: false,
            opcode_limit: u64::MAX,
        }
    }

    /// Reads what a decoder gives, at most `limit` bytes.
    pub fn decoder(reader: Box<dyn Read + 's>, limit: u64) -> Self {
        Self {
            origin: Origin::Decoder { reader, limit },
            buffer: Bytes::new(),
            at: 0,
            start: 0,
            ended: false,
            opcode_limit: u64::MAX,
        }
    }

    /// Where the next byte lies.
    pub fn offset(&self) -> u64 {
        self.start + self.at as u64
    }

    /// The same bytes from here on, for a second reader; `None` if they can be read once only.
    pub(super) fn second(&self) -> Option<Input<'s>> {
        match &self.origin {
            Origin::File { source, .. } => Some(Input::file(*source, self.offset())),
            Origin::Decoder { .. } => None,
        }
    }

    /// The next bytes, at most `count`, without using them up.
    pub(super) fn peek(&mut self, count: usize) -> Result<Bytes, InputError> {
        if self.buffer.len() - self.at < count {
            // What is there is all there is.
            self.fill(count)?;
        }
        let end = self.buffer.len().min(self.at + count);
        Ok(self.buffer.slice(self.at..end))
    }

    /// The next byte, or `None` at the end.
    #[inline]
    pub fn byte(&mut self) -> Result<Option<u8>, InputError> {
        if let Some(&byte) = self.buffer.get(self.at) {
            self.at += 1;
            return Ok(Some(byte));
        }
        Ok(self.take(1)?.and_then(|bytes| bytes.first().copied()))
    }

    /// The next `count` bytes, or `None` if fewer are left; `count` is at most a few KiB.
    #[inline]
    pub fn take(&mut self, count: usize) -> Result<Option<&[u8]>, InputError> {
        if self.buffer.len() - self.at < count && !self.fill(count)? {
            return Ok(None);
        }
        let start = self.at;
        self.at += count;
        Ok(self.buffer.get(start..self.at))
    }

    /// The next line without its end, or `None` if there is none within `limit` bytes.
    pub fn line(&mut self, limit: usize) -> Result<Option<&[u8]>, InputError> {
        let mut length = 0;
        loop {
            let rest = self.buffer.get(self.at..).unwrap_or_default();
            if let Some(end) = rest.iter().skip(length).position(|&byte| byte == b'\n') {
                let start = self.at;
                let end = start + length + end;
                self.at = end + 1;
                return Ok(self.buffer.get(start..end));
            }
            length = rest.len();
            if length >= limit || !self.fill(length + 1)? {
                return Ok(None);
            }
        }
    }

    /// Passes over the rest of a line, however long it is; false if it has no end.
    pub(super) fn skip_line(&mut self) -> Result<bool, InputError> {
        loop {
            let rest = self.buffer.get(self.at..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                self.at += end + 1;
                return Ok(true);
            }
            self.at = self.buffer.len();
            if !self.fill(1)? {
                return Ok(false);
            }
        }
    }

    /// Passes over `count` bytes; false if fewer are left.
    pub fn skip(&mut self, count: u64) -> Result<bool, InputError> {
        let at_hand = (self.buffer.len() - self.at) as u64;
        if count <= at_hand {
            // At most the length of the buffer.
            self.at += usize::try_from(count).unwrap_or_default();
            return Ok(true);
        }
        if let Origin::File { source, fetch } = &mut self.origin {
            let Some(target) = self
                .start
                .checked_add(self.at as u64)
                .and_then(|offset| offset.checked_add(count))
                .filter(|target| *target <= source.size())
            else {
                return Ok(false);
            };
            *fetch = FIRST_FETCH;
            self.start = target;
            self.buffer = Bytes::new();
            self.at = 0;
            return Ok(true);
        }
        let mut left = count - at_hand;
        self.at = self.buffer.len();
        while left > 0 {
            if !self.fill(1)? {
                return Ok(false);
            }
            let step = left.min((self.buffer.len() - self.at) as u64);
            self.at += usize::try_from(step).unwrap_or_default();
            left -= step;
        }
        Ok(true)
    }

    /// Whether no byte is left.
    pub fn is_at_end(&mut self) -> Result<bool, InputError> {
        Ok(self.at >= self.buffer.len() && !self.fill(1)?)
    }

    /// Makes at least `count` bytes available; false if the input ends before.
    fn fill(&mut self, count: usize) -> Result<bool, InputError> {
        let rest = self.buffer.slice(self.at.min(self.buffer.len())..);
        let start = self.start + self.at as u64;
        match &mut self.origin {
            Origin::File { source, fetch } => {
                let have = start + rest.len() as u64;
                let want = (*fetch).max((count - rest.len().min(count)) as u64);
                let end = have.saturating_add(want).min(source.size());
                if end - start.min(end) < count as u64 {
                    return Ok(false);
                }
                let more = source.read(have..end)?;
                *fetch = (*fetch * 2).min(LARGEST_FETCH);
                self.buffer = if rest.is_empty() {
                    more
                } else {
                    let mut joined = Vec::with_capacity(rest.len() + more.len());
                    joined.extend_from_slice(&rest);
                    joined.extend_from_slice(&more);
                    joined.into()
                };
            }
            Origin::Decoder { reader, limit } => {
                if self.ended {
                    return Ok(rest.len() >= count);
                }
                let mut joined = rest.to_vec();
                let wanted = count.max(64 * 1024);
                while joined.len() < wanted {
                    let old = joined.len();
                    joined.resize(old + 64 * 1024, 0);
                    let got = reader
                        .read(joined.get_mut(old..).unwrap_or_default())
                        .map_err(|error| unwrap_read_error(&error))?;
                    joined.truncate(old + got);
                    if got == 0 {
                        self.ended = true;
                        break;
                    }
                    *limit = limit.checked_sub(got as u64).ok_or(InputError::Bomb)?;
                }
                self.buffer = joined.into();
            }
        }
        self.start = start;
        self.at = 0;
        Ok(self.buffer.len() >= count)
    }
}

/// Tells a failed source, which may work the next time, from a damaged stream.
fn unwrap_read_error(error: &std::io::Error) -> InputError {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<ReadError>())
        .map_or_else(
            || InputError::Damaged(error.to_string()),
            |read| InputError::Read(read.clone()),
        )
}
