//! Reads a file once from front to back, in bounded chunks, and says what went wrong where.

use crate::check::Check;
use crate::rules::Rule;
use crate::source::{ReadError, Source};
use bytes::Bytes;

/// Why a parser of this crate stopped before the end of its file.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The bytes could not be read.
    Read(ReadError),
    /// The file breaks its format's rules.
    Malformed { offset: u64, detail: String },
    /// The file goes beyond a bound of this crate, so that it cannot be checked.
    TooLarge { offset: u64, detail: String },
    /// A rule of the format was found to apply, and the rest of the file has no meaning.
    Rule {
        rule: &'static Rule,
        offset: u64,
        detail: String,
    },
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl Trouble {
    /// Makes the trouble of a file that breaks its format's rules.
    pub(crate) fn malformed(offset: u64, detail: impl Into<String>) -> Self {
        Self::Malformed {
            offset,
            detail: detail.into(),
        }
    }

    /// Makes the trouble of a file beyond a bound.
    pub(crate) fn too_large(offset: u64, detail: impl Into<String>) -> Self {
        Self::TooLarge {
            offset,
            detail: detail.into(),
        }
    }

    /// Makes the trouble of a rule that ends the inspection.
    pub(crate) fn rule(rule: &'static Rule, offset: u64, detail: impl Into<String>) -> Self {
        Self::Rule {
            rule,
            offset,
            detail: detail.into(),
        }
    }
}

/// Turns the outcome of a parser into findings; only a failed read stays an error.
pub(crate) fn settle<T>(
    check: &mut Check<'_>,
    outcome: Result<T, Trouble>,
    malformed: &Rule,
    too_large: &Rule,
) -> Result<Option<T>, ReadError> {
    match outcome {
        Ok(value) => return Ok(Some(value)),
        Err(Trouble::Read(error)) => return Err(error),
        Err(Trouble::Malformed { offset, detail }) => check.find(malformed, Some(offset), detail),
        Err(Trouble::TooLarge { offset, detail }) => check.find(too_large, Some(offset), detail),
        Err(Trouble::Rule {
            rule,
            offset,
            detail,
        }) => check.find(rule, Some(offset), detail),
    }
    Ok(None)
}

/// Makes text from a file fit for a report: short, and on one line.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted: String = text
        .chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect();
    if text.chars().nth(80).is_some() {
        quoted.push('…');
    }
    format!("`{quoted}`")
}

/// A place in a file that only moves forward.
pub(crate) struct Cursor<'a> {
    source: &'a dyn Source,
    size: u64,
    /// Bytes of the file from `start`.
    chunk: Bytes,
    start: u64,
    /// Index within `chunk` of the next byte.
    index: usize,
}

impl<'a> Cursor<'a> {
    /// Bytes that are asked for at once.
    const CHUNK_BYTES: u64 = 1024 * 1024;

    /// Begins at the start of the file.
    pub(crate) fn new(source: &'a dyn Source) -> Self {
        Self::at(source, 0)
    }

    /// Begins at `offset`.
    pub(crate) fn at(source: &'a dyn Source, offset: u64) -> Self {
        Self {
            source,
            size: source.size(),
            chunk: Bytes::new(),
            start: offset,
            index: 0,
        }
    }

    /// Offset of the next byte.
    pub(crate) fn offset(&self) -> u64 {
        self.start.saturating_add(self.index as u64)
    }

    /// How many bytes follow.
    pub(crate) fn remaining(&self) -> u64 {
        self.size.saturating_sub(self.offset())
    }

    /// The bytes that are in memory from here; none only at the end of the file.
    pub(crate) fn window(&mut self) -> Result<&[u8], ReadError> {
        if self.index >= self.chunk.len() {
            let start = self.offset();
            if start >= self.size {
                return Ok(&[]);
            }
            let end = start.saturating_add(Self::CHUNK_BYTES).min(self.size);
            self.chunk = self.source.read(start..end)?;
            self.start = start;
            self.index = 0;
        }
        Ok(self.chunk.get(self.index..).unwrap_or(&[]))
    }

    /// Moves on by `count` bytes of the window.
    pub(crate) fn advance(&mut self, count: usize) {
        self.index = self.index.saturating_add(count).min(self.chunk.len());
    }

    /// The next byte, without moving on.
    pub(crate) fn peek(&mut self) -> Result<Option<u8>, ReadError> {
        if let Some(byte) = self.chunk.get(self.index) {
            return Ok(Some(*byte));
        }
        Ok(self.window()?.first().copied())
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> Result<Option<u8>, ReadError> {
        let byte = self.peek()?;
        if byte.is_some() {
            self.index += 1;
        }
        Ok(byte)
    }

    /// The next `N` bytes, if the file has that many.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<Option<[u8; N]>, ReadError> {
        let mut bytes = [0; N];
        for slot in &mut bytes {
            match self.byte()? {
                Some(byte) => *slot = byte,
                None => return Ok(None),
            }
        }
        Ok(Some(bytes))
    }

    /// The next `count` bytes, which the caller has held against a bound.
    pub(crate) fn take(&mut self, count: usize) -> Result<Option<Vec<u8>>, ReadError> {
        if self.remaining() < count as u64 {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            let missing = count - bytes.len();
            let window = self.window()?;
            let taken = window.get(..missing.min(window.len())).unwrap_or(&[]);
            if taken.is_empty() {
                return Ok(None);
            }
            bytes.extend_from_slice(taken);
            let length = taken.len();
            self.advance(length);
        }
        Ok(Some(bytes))
    }

    /// The next line without its `\n`, or `None` at the end; at most `limit` bytes.
    pub(crate) fn line(&mut self, line: &mut Vec<u8>, limit: usize) -> Result<bool, Trouble> {
        line.clear();
        if self.remaining() == 0 {
            return Ok(false);
        }
        loop {
            let offset = self.offset();
            let window = self.window()?;
            if window.is_empty() {
                return Ok(true);
            }
            let end = window.iter().position(|byte| *byte == b'\n');
            let part = window.get(..end.unwrap_or(window.len())).unwrap_or(&[]);
            if line.len().saturating_add(part.len()) > limit {
                return Err(Trouble::too_large(
                    offset,
                    format!("a line is longer than {limit} bytes"),
                ));
            }
            line.extend_from_slice(part);
            let length = part.len() + usize::from(end.is_some());
            self.advance(length);
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}

/// Reads a whole small file, or tells that it is larger than `limit`.
pub(crate) fn read_small(source: &dyn Source, limit: u64) -> Result<Bytes, Trouble> {
    let size = source.size();
    if size > limit {
        return Err(Trouble::too_large(
            0,
            format!("{size} bytes, but at most {limit} are expected here"),
        ));
    }
    Ok(source.read(0..size)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_line_feeds_and_at_the_end_of_the_file() {
        let source = Bytes::from_static(b"one\n\ntwo");
        let mut cursor = Cursor::new(&source);
        let mut line = Vec::new();
        let mut lines = Vec::new();
        while cursor.line(&mut line, 10).unwrap() {
            lines.push(String::from_utf8(line.clone()).unwrap());
        }
        assert_eq!(lines, ["one", "", "two"]);
    }

    #[test]
    fn a_take_beyond_the_end_allocates_nothing() {
        let source = Bytes::from_static(b"abc");
        assert!(Cursor::new(&source).take(usize::MAX).unwrap().is_none());
        assert_eq!(Cursor::new(&source).take(3).unwrap().unwrap(), b"abc");
    }
}
