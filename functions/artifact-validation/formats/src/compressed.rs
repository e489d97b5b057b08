//! Streams of one compressed file: gzip, zlib, bzip2, xz, lzma, lz4, zstd.
//!
//! Every decoder is written in Rust, and its memory and output are bounded.
//! Archives behind a compression belong to their own module; here a stream is one file, such as a pickle or a text.

use crate::check::Check;
use crate::inspect;
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::{ReadError, Source};
use bytes::Bytes;
use std::io::{BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const DAMAGED: Rule = Rule {
    id: "compressed.damaged",
    verdict: Verdict::Malformed,
    why: "A damaged stream is read up to different places by different readers.",
    fix: "Compress the file again, and upload it unchanged.",
};
const BOMB: Rule = Rule {
    id: "compressed.bomb",
    verdict: Verdict::Malformed,
    why: "A file that expands far beyond its size exhausts whoever unpacks it.",
    fix: "Upload the file without compression.",
};

/// The rules of compressed files.
pub const RULES: &[Rule] = &[DAMAGED, BOMB];

/// Largest dictionary that a decoder may hold, in KiB: that of the highest level, of which only as much as the content
/// is long is ever touched.
const DICTIONARY_KIB: u32 = 66 * 1024;
/// Expanded files up to this size are looked into.
const MAX_EXPANDED: usize = 8 * 1024 * 1024;
/// Streams may expand so many times beyond the free bytes; arrays of zeros in a model compress well.
const MAX_RATIO: u64 = 250;
const FREE_BYTES: u64 = 64 * 1024 * 1024;

/// A compression, told by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950.
    Zlib,
    /// Burrows and Wheeler's.
    Bzip2,
    /// LZMA2 in its container.
    Xz,
    /// LZMA without a container.
    Lzma,
    /// LZ4 frames.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// The compression that `head` begins, if it is one.
    pub fn of(head: &[u8]) -> Option<Self> {
        Some(match head {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x5d, 0, 0, ..] => Self::Lzma,
            [4, 0x22, 0x4d, 0x18, ..] => Self::Lz4,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0x78, flags @ (0x01 | 0x5e | 0x9c | 0xda), ..]
                if (0x7800 + u16::from(*flags)).is_multiple_of(31) =>
            {
                Self::Zlib
            }
            _ => return None,
        })
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zlib => "zlib",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// How many bytes a compressed file of `size` bytes may expand to.
pub fn allowance(size: u64) -> u64 {
    size.saturating_mul(MAX_RATIO).max(FREE_BYTES)
}

/// How much of the compressed file was used.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Bytes of the compressed file that were used.
    pub fn used(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reads a source from front to back.
struct Feed<'s> {
    source: &'s dyn Source,
    chunk: Bytes,
    at: usize,
    progress: Progress,
}

impl Read for Feed<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..count), available.get(..count)) {
            to.copy_from_slice(from);
        }
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Feed<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.at >= self.chunk.len() {
            let start = self.progress.used();
            let end = self.source.size().min(start.saturating_add(256 * 1024));
            self.chunk = if start < end {
                self.source
                    .read(start..end)
                    .map_err(std::io::Error::other)?
            } else {
                Bytes::new()
            };
            self.at = 0;
        }
        Ok(self.chunk.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
        self.progress.0.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// A decoder over the whole of `source`, and how far it is.
pub fn reader(
    coding: Coding,
    source: &dyn Source,
) -> Result<(Box<dyn Read + '_>, Progress), String> {
    let progress = Progress::default();
    let feed = Feed {
        source,
        chunk: Bytes::new(),
        at: 0,
        progress: progress.clone(),
    };
    let reader: Box<dyn Read + '_> = match coding {
        Coding::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(feed)),
        Coding::Zlib => Box::new(flate2::bufread::ZlibDecoder::new(feed)),
        Coding::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(feed)),
        Coding::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
            feed,
            true,
            DICTIONARY_KIB,
        )),
        Coding::Lzma => Box::new(Lzma {
            decoder: Some(
                lzma_rust2::LzmaReader::new_mem_limit(feed, DICTIONARY_KIB, None)
                    .map_err(|error| error.to_string())?,
            ),
            progress: progress.clone(),
        }),
        Coding::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(feed)),
        Coding::Zstd => Box::new(
            ruzstd::decoding::StreamingDecoder::new(feed).map_err(|error| error.to_string())?,
        ),
    };
    Ok((reader, progress))
}

/// A decoder that reads ahead, and gives back at its end what it did not use.
struct Lzma<'s> {
    decoder: Option<lzma_rust2::LzmaReader<Feed<'s>>>,
    progress: Progress,
}

impl Read for Lzma<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(0);
        };
        let count = decoder.read(into)?;
        if count == 0
            && !into.is_empty()
            && let Some(decoder) = self.decoder.take()
        {
            let unused = decoder.into_parts().1.len() as u64;
            self.progress.0.fetch_sub(unused, Ordering::Relaxed);
        }
        Ok(count)
    }
}

/// Expands the beginning of a file to at most 64 KiB; also tells whether that was all.
pub fn expand_prefix(coding: Coding, head: &[u8]) -> (Vec<u8>, bool) {
    let bytes = Bytes::copy_from_slice(head);
    let mut expanded = Vec::new();
    let ended = match reader(coding, &bytes) {
        Ok((reader, _)) => {
            let mut limited = reader.take(64 * 1024);
            read_lenient(&mut limited, &mut expanded)
        }
        Err(_) => false,
    };
    let ended = ended && expanded.len() < 64 * 1024;
    (expanded, ended)
}

/// Keeps what was read before an error; tells whether there was none.
fn read_lenient(reader: &mut dyn Read, into: &mut Vec<u8>) -> bool {
    let mut block = [0; 4096];
    loop {
        match reader.read(&mut block) {
            Ok(0) => return true,
            Ok(count) => into.extend_from_slice(block.get(..count).unwrap_or_default()),
            Err(_) => return false,
        }
    }
}

/// Whether the content is compressed at all.
pub fn detect(head: &[u8], _tail: &[u8], _path: &str, _size: u64) -> bool {
    Coding::of(head).is_some()
}

/// Expands the file and inspects what it holds.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let source = check.source;
    let head = source.read(0..source.size().min(16))?;
    let Some(coding) = Coding::of(&head) else {
        return Ok(());
    };
    check.fact("compression", coding.name());
    let (reader, progress) = match reader(coding, source) {
        Ok(reader) => reader,
        Err(reason) => {
            check.find(&DAMAGED, Some(0), reason);
            return Ok(());
        }
    };
    let mut expanded = Vec::new();
    let mut limited = reader.take(MAX_EXPANDED as u64 + 1);
    if let Err(error) = limited.read_to_end(&mut expanded) {
        if let Some(read) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<ReadError>())
        {
            return Err(read.clone());
        }
        check.find(&DAMAGED, Some(progress.used()), error.to_string());
        return Ok(());
    }
    if expanded.len() > 1024 * 1024 && expanded.len() as u64 / MAX_RATIO > progress.used() {
        check.find(
            &BOMB,
            None,
            format!(
                "{} bytes expand to more than {} bytes",
                progress.used(),
                expanded.len()
            ),
        );
        return Ok(());
    }
    if expanded.len() > MAX_EXPANDED {
        return Err(ReadError::Exhausted("memory for a compressed file"));
    }
    if progress.used() < source.size() {
        check.find(
            &DAMAGED,
            Some(progress.used()),
            "something lies behind the compressed stream",
        );
    }
    let expanded = Bytes::from(expanded);
    inspect::check_part(check, "content", &expanded)
}
