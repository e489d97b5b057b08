//! A reader of canonical zip archives: one meaning for every reader, or none.
//!
//! Zip keeps its directory twice, in a header before each member and in a table at the end, and readers differ in
//! which of the two they trust, where they look for the end, and what they ignore.
//! This reader accepts an archive only where no two readers can differ: one end record at the very end, a table that
//! touches it, members that tile the rest without a hole, both directories equal, no flags beyond the two that mean
//! nothing for the content.
//! It reads the table and the headers; the bytes of a member only when they are asked for.

use crate::check::Check;
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::{ReadError, Source};
use bytes::Bytes;
use std::collections::HashSet;
use std::io::Read as _;
use std::ops::Range;

const NOT_CANONICAL: Rule = Rule {
    id: "zip.not-canonical",
    verdict: Verdict::Malformed,
    why: "Readers disagree on what such an archive contains, so that one sees an honest model where another runs code.",
    fix: "Write the archive again with the library that the format belongs to, and upload it unchanged.",
};
const CHECKSUM: Rule = Rule {
    id: "zip.checksum",
    verdict: Verdict::Malformed,
    why: "A member that differs from its checksum is damaged, or is meant to be skipped by readers that verify it.",
    fix: "Write the archive again, and upload it unchanged.",
};
const DUPLICATE: Rule = Rule {
    id: "zip.duplicate-member",
    verdict: Verdict::Malformed,
    why: "Readers disagree on which of two members with one name they open.",
    fix: "Write the archive again with one member per name, also when the case of letters is ignored.",
};
const PATH: Rule = Rule {
    id: "zip.path-escape",
    verdict: Verdict::Unsafe,
    why: "Unpacking a member with such a name writes outside of the target directory.",
    fix: "Use relative member names with `/` between parts and without `..`.",
};
const SPECIAL: Rule = Rule {
    id: "zip.special-file",
    verdict: Verdict::Unsafe,
    why: "A link or device in an archive makes later members land, or reads come, from elsewhere.",
    fix: "Archive the files themselves, not links to them.",
};
const BOMB: Rule = Rule {
    id: "zip.bomb",
    verdict: Verdict::Malformed,
    why: "A member that expands far beyond its size exhausts whoever unpacks it.",
    fix: "Store the member without compression.",
};

/// The rules of archives in zip form.
pub const RULES: &[Rule] = &[NOT_CANONICAL, CHECKSUM, DUPLICATE, PATH, SPECIAL, BOMB];

const END_SIGNATURE: &[u8] = b"PK\x05\x06";
const END_BYTES: usize = 22;
const END64_BYTES: usize = 56;
const LOCATOR_BYTES: usize = 20;
const ENTRY_BYTES: usize = 46;
const HEADER_BYTES: usize = 30;
/// Most bytes that are read of the table; about 80,000 members with names of 50 bytes.
const MAX_TABLE_BYTES: u64 = 8 * 1024 * 1024;
/// Neighbouring headers at most this far apart are fetched together.
const COALESCE_BYTES: u64 = 8 * 1024;
/// Most bytes that one coalesced fetch spans.
const MAX_SPAN_BYTES: u64 = 256 * 1024;
/// Members larger than this may not expand more than [`MAX_RATIO`] times.
const BOMB_BYTES: u64 = 1024 * 1024;
const MAX_RATIO: u64 = 200;
/// Arrays may be all zeros: up to this size, they may expand as far as deflate can.
const MAX_ARRAY_BYTES: u64 = 4 * 1024 * 1024 * 1024;
const MAX_ARRAY_RATIO: u64 = 1040;

/// Why an archive, or a member of it, was not read.
#[derive(Debug)]
pub enum ZipError {
    /// The bytes could not be read.
    Read(ReadError),
    /// A rule applies.
    Refused {
        /// The rule.
        rule: &'static Rule,
        /// Where, in bytes from the start of the archive.
        offset_bytes: Option<u64>,
        /// What was found.
        detail: String,
    },
    /// The member is larger than the caller allows.
    TooLarge {
        /// Name of the member.
        name: String,
        /// Its size after expansion.
        size: u64,
    },
}

impl From<ReadError> for ZipError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl ZipError {
    /// Tells `check` what is wrong with the archive; only a failed read remains an error.
    ///
    /// A member that is too large to be looked into leaves the check unfinished.
    pub fn report(self, check: &mut Check<'_>) -> Result<(), ReadError> {
        match self {
            Self::Read(error) => Err(error),
            Self::Refused {
                rule,
                offset_bytes,
                detail,
            } => {
                check.find(rule, offset_bytes, detail);
                Ok(())
            }
            Self::TooLarge { .. } => Err(ReadError::Exhausted("memory for a compressed member")),
        }
    }
}

fn refused<T>(
    rule: &'static Rule,
    offset_bytes: impl Into<Option<u64>>,
    detail: impl Into<String>,
) -> Result<T, ZipError> {
    Err(ZipError::Refused {
        rule,
        offset_bytes: offset_bytes.into(),
        detail: detail.into(),
    })
}

/// One member, as both directories agree on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name, relative, with `/` between parts; a directory's name ends with `/`.
    pub name: String,
    /// Whether the bytes lie in the archive as they are, without compression.
    pub stored: bool,
    /// CRC-32 of the expanded bytes.
    pub crc32: u32,
    /// Bytes that the member takes in the archive.
    pub compressed_size: u64,
    /// Bytes after expansion.
    pub size: u64,
    /// Where its header starts.
    pub header_offset: u64,
    /// Where its bytes start.
    pub data_offset: u64,
}

impl Entry {
    /// Whether the member stands for a directory.
    pub fn is_directory(&self) -> bool {
        self.name.ends_with('/')
    }

    /// Where the bytes lie in the archive.
    pub fn range(&self) -> Range<u64> {
        self.data_offset..self.data_offset.saturating_add(self.compressed_size)
    }
}

/// A canonical archive.
pub struct Archive<'s> {
    source: &'s dyn Source,
    entries: Vec<Entry>,
}

impl std::fmt::Debug for Archive<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Archive")
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

/// Furthest from the end that readers look for the end record: behind it lies a comment of at most 65,535 bytes, and Python looks one byte further.
pub const END_REACH: u64 = 65_536 + END_BYTES as u64;
/// Most end records that are looked at in one file.
const MAX_ENDS: usize = 64;

/// Whether readers of zip files find an archive in this file, whatever its beginning says.
///
/// They search the end for its record, and hardly any holds the record's fields against each other: disks, counts and
/// the length of the comment are ignored here as they are there.
/// What tells a record from bytes by chance is a table of members in one of the two places where readers expect it.
///
/// `tail` is the end of `source`, of [`END_REACH`] bytes or all there is.
pub fn ends_like_zip(source: &dyn Source, tail: &[u8]) -> Result<bool, ReadError> {
    let start = source.size().saturating_sub(tail.len() as u64);
    let last = tail.len().saturating_sub(END_BYTES - 1);
    let ends = (0..last)
        .rev()
        .filter(|at| {
            tail.get(*at..)
                .is_some_and(|rest| rest.starts_with(END_SIGNATURE))
        })
        .take(MAX_ENDS);
    for at in ends {
        let end = start + at as u64;
        let record = tail.get(at..).unwrap_or_default();
        let table_size = u64::from(u32_at(record, 12).unwrap_or_default());
        let table_offset = u64::from(u32_at(record, 16).unwrap_or_default());
        let has_locator = at
            .checked_sub(LOCATOR_BYTES)
            .and_then(|at| tail.get(at..))
            .is_some_and(|locator| locator.starts_with(b"PK\x06\x07"));
        let is_empty = table_size == 0 && u32_at(record, 8) == Some(0) && table_offset <= end;
        if has_locator || is_empty {
            return Ok(true);
        }
        for place in [end.checked_sub(table_size), Some(table_offset)] {
            let Some(place) = place.filter(|place| place.saturating_add(4) <= end) else {
                continue;
            };
            if *source.read(place..place + 4)? == *b"PK\x01\x02" {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

impl<'s> Archive<'s> {
    /// Reads both directories and holds them against each other.
    pub fn open(source: &'s dyn Source) -> Result<Self, ZipError> {
        let size = source.size();
        let tail_start = size.saturating_sub(64 * 1024);
        let tail = source.read(tail_start..size)?;
        let table = find_table(&tail, size)?;
        let bytes = if table.range.start >= tail_start {
            let start = to_usize(table.range.start - tail_start);
            let end = to_usize(table.range.end - tail_start);
            tail.get(start..end)
                .map_or_else(Bytes::new, |_| tail.slice(start..end))
        } else {
            source.read(table.range.clone())?
        };
        let mut entries = read_table(&bytes, &table)?;
        check_names(&entries)?;
        read_headers(source, &mut entries, table.range.start)?;
        Ok(Self {
            source,
            entries: entries.into_iter().map(|entry| entry.entry).collect(),
        })
    }

    /// The members, in the order of the table.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The member with exactly this name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Reads and verifies the whole member, expanded, if it has at most `limit` bytes.
    pub fn read(&self, entry: &Entry, limit: usize) -> Result<Bytes, ZipError> {
        if entry.size > limit as u64 || entry.compressed_size > limit as u64 + 1024 {
            return Err(ZipError::TooLarge {
                name: entry.name.clone(),
                size: entry.size,
            });
        }
        let raw = self.source.read(entry.range())?;
        let bytes = if entry.stored {
            raw
        } else {
            let (bytes, consumed) = inflate(&raw, to_usize(entry.size).saturating_add(1));
            if consumed != Some(raw.len() as u64) || bytes.len() as u64 != entry.size {
                return refused(
                    &CHECKSUM,
                    entry.data_offset,
                    format!(
                        "member `{}` does not expand to its {} bytes",
                        entry.name, entry.size
                    ),
                );
            }
            bytes.into()
        };
        let crc32 = crc32fast::hash(&bytes);
        if crc32 != entry.crc32 {
            return refused(
                &CHECKSUM,
                entry.data_offset,
                format!("member `{}` differs from its checksum", entry.name),
            );
        }
        Ok(bytes)
    }

    /// Reads at most the first `limit` bytes of the member, expanded, without verifying the checksum.
    pub fn read_prefix(&self, entry: &Entry, limit: usize) -> Result<Bytes, ZipError> {
        if entry.size <= limit as u64 {
            return self.read(entry, limit);
        }
        if entry.stored {
            let end = entry.data_offset.saturating_add(limit as u64);
            return Ok(self.source.read(entry.data_offset..end)?);
        }
        // Deflate expands; so many bytes of input always give `limit` bytes, or the member is padded with empty blocks.
        let want = entry.compressed_size.min(limit as u64 * 2 + 1024);
        let raw = self
            .source
            .read(entry.data_offset..entry.data_offset.saturating_add(want))?;
        let (bytes, _) = inflate(&raw, limit);
        Ok(bytes.into())
    }

    /// The bytes of a stored member, as a source of their own that is read by ranges.
    ///
    /// `None` if the member is compressed: then [`Archive::read`] is the way.
    pub fn stored(&self, entry: &Entry) -> Option<Part<'s>> {
        entry.stored.then(|| Part::new(self.source, entry.range()))
    }
}

/// A range of another source.
pub struct Part<'s> {
    source: &'s dyn Source,
    range: Range<u64>,
}

impl std::fmt::Debug for Part<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Part")
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

impl<'s> Part<'s> {
    /// The bytes of `source` within `range`.
    pub fn new(source: &'s dyn Source, range: Range<u64>) -> Self {
        Self { source, range }
    }

    fn translate(&self, range: &Range<u64>) -> Result<Range<u64>, ReadError> {
        let size = self.size();
        if range.start > range.end || range.end > size {
            return Err(ReadError::OutOfRange {
                start: range.start,
                end: range.end,
                size,
            });
        }
        // Within `0..size`, so that the sums stay within the outer range.
        Ok(self.range.start + range.start..self.range.start + range.end)
    }
}

impl Source for Part<'_> {
    fn size(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        self.source.read(self.translate(&range)?)
    }

    fn read_many(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ReadError> {
        let ranges = ranges
            .iter()
            .map(|range| self.translate(range))
            .collect::<Result<Vec<_>, _>>()?;
        self.source.read_many(&ranges)
    }
}

/// Where the table lies and how many members it lists.
struct Table {
    range: Range<u64>,
    count: u64,
}

fn find_table(tail: &[u8], size: u64) -> Result<Table, ZipError> {
    let end = tail
        .len()
        .checked_sub(END_BYTES)
        .and_then(|start| tail.get(start..))
        .filter(|end| end.starts_with(END_SIGNATURE));
    let Some(end) = end else {
        return refused(
            &NOT_CANONICAL,
            size.saturating_sub(END_BYTES as u64),
            "the end record is not at the very end, or carries a comment",
        );
    };
    let end_offset = size - END_BYTES as u64;
    let field = |at| u16_at(end, at).unwrap_or_default();
    if field(4) != 0 || field(6) != 0 || field(8) != field(10) || field(20) != 0 {
        return refused(
            &NOT_CANONICAL,
            end_offset,
            "the end record names other disks, or carries a comment",
        );
    }
    let mut count = u64::from(field(10));
    let mut table_size = u64::from(u32_at(end, 12).unwrap_or_default());
    let mut table_offset = u64::from(u32_at(end, 16).unwrap_or_default());
    let mut table_end = end_offset;
    let locator = tail
        .len()
        .checked_sub(END_BYTES + LOCATOR_BYTES)
        .and_then(|start| tail.get(start..start + LOCATOR_BYTES))
        .filter(|locator| locator.starts_with(b"PK\x06\x07"));
    if let Some(locator) = locator {
        let end64 = tail
            .len()
            .checked_sub(END_BYTES + LOCATOR_BYTES + END64_BYTES)
            .and_then(|start| tail.get(start..start + END64_BYTES))
            .filter(|end64| end64.starts_with(b"PK\x06\x06"));
        let Some(end64) = end64 else {
            return refused(
                &NOT_CANONICAL,
                end_offset,
                "the 64-bit end record is not in its place",
            );
        };
        let offset64 = end_offset - (LOCATOR_BYTES + END64_BYTES) as u64;
        let wide = |at| u64_at(end64, at).unwrap_or_default();
        let consistent = u32_at(locator, 4) == Some(0)
            && u64_at(locator, 8) == Some(offset64)
            && u32_at(locator, 16) == Some(1)
            && wide(4) == END64_BYTES as u64 - 12
            && u32_at(end64, 16) == Some(0)
            && u32_at(end64, 20) == Some(0)
            && wide(24) == wide(32)
            && (count == 0xffff || count == wide(32))
            && (table_size == 0xffff_ffff || table_size == wide(40))
            && (table_offset == 0xffff_ffff || table_offset == wide(48));
        if !consistent {
            return refused(
                &NOT_CANONICAL,
                offset64,
                "the 32-bit and 64-bit end records disagree",
            );
        }
        count = wide(32);
        table_size = wide(40);
        table_offset = wide(48);
        table_end = offset64;
    }
    if table_offset.checked_add(table_size) != Some(table_end) {
        return refused(
            &NOT_CANONICAL,
            end_offset,
            "the table does not touch the end record, so that something lies before or between them",
        );
    }
    if table_size > MAX_TABLE_BYTES {
        return refused(
            &BOMB,
            table_offset,
            format!("a table of {table_size} bytes is larger than any model needs"),
        );
    }
    if count.saturating_mul(ENTRY_BYTES as u64) > table_size {
        return refused(
            &NOT_CANONICAL,
            end_offset,
            format!("{count} members do not fit into a table of {table_size} bytes"),
        );
    }
    Ok(Table {
        range: table_offset..table_end,
        count,
    })
}

/// A member as the table tells of it, with what its header must repeat.
struct TableEntry {
    entry: Entry,
    flags: u16,
    method: u16,
}

fn read_table(bytes: &[u8], table: &Table) -> Result<Vec<TableEntry>, ZipError> {
    let mut entries = Vec::new();
    let mut position = 0_usize;
    for _ in 0..table.count {
        let offset = table.range.start.saturating_add(position as u64);
        let Some(fixed) = bytes
            .get(position..position.saturating_add(ENTRY_BYTES))
            .filter(|fixed| fixed.starts_with(b"PK\x01\x02"))
        else {
            return refused(&NOT_CANONICAL, offset, "the table is cut short");
        };
        let short = |at| u16_at(fixed, at).unwrap_or_default();
        let long = |at| u32_at(fixed, at).unwrap_or_default();
        let name_start = position + ENTRY_BYTES;
        let extra_start = name_start + usize::from(short(28));
        let end = extra_start + usize::from(short(30));
        let (Some(name), Some(extra)) = (
            bytes.get(name_start..extra_start),
            bytes.get(extra_start..end),
        ) else {
            return refused(&NOT_CANONICAL, offset, "the table is cut short");
        };
        let (flags, method) = (short(8), short(10));
        let name = member_name(name, flags, offset)?;
        if short(32) != 0 || short(34) != 0 {
            return refused(
                &NOT_CANONICAL,
                offset,
                format!("member `{name}` carries a comment or lies on another disk"),
            );
        }
        if flags & !0x0808 != 0 {
            return refused(
                &NOT_CANONICAL,
                offset,
                format!(
                    "member `{name}` has the flags {flags:#06x}, which readers treat differently"
                ),
            );
        }
        if method != 0 && method != 8 {
            return refused(
                &NOT_CANONICAL,
                offset,
                format!(
                    "member `{name}` uses compression method {method}; only stored and deflated are read by all"
                ),
            );
        }
        let kind = (long(38) >> 16) & 0o170_000;
        if !matches!(kind, 0 | 0o100_000 | 0o040_000) {
            return refused(
                &SPECIAL,
                offset,
                format!("member `{name}` is a link or a device"),
            );
        }
        let mut wide = WideFields::new(extra, &[long(24), long(20), long(42)]);
        let (Some(size), Some(compressed_size), Some(header_offset)) =
            (wide.next(), wide.next(), wide.next())
        else {
            return refused(
                &NOT_CANONICAL,
                offset,
                format!("member `{name}` has damaged extra fields"),
            );
        };
        if !wide.is_valid() {
            return refused(
                &NOT_CANONICAL,
                offset,
                format!("member `{name}` has extra fields that change its name or size"),
            );
        }
        if method == 0 && size != compressed_size {
            return refused(
                &NOT_CANONICAL,
                offset,
                format!("member `{name}` is stored, but its two sizes differ"),
            );
        }
        if name.ends_with('/') && size != 0 {
            return refused(
                &NOT_CANONICAL,
                offset,
                format!("directory `{name}` has content"),
            );
        }
        // Arrays of zeros are honest, and whoever unpacks one asks for its size; deflate ends at 1032 times.
        let is_array = name.as_bytes().ends_with(b".npy");
        if size > BOMB_BYTES
            && size / MAX_RATIO > compressed_size
            && !(is_array && size <= MAX_ARRAY_BYTES && size / MAX_ARRAY_RATIO <= compressed_size)
        {
            return refused(
                &BOMB,
                offset,
                format!("member `{name}` expands from {compressed_size} to {size} bytes"),
            );
        }
        entries.push(TableEntry {
            entry: Entry {
                name,
                stored: method == 0,
                crc32: long(16),
                compressed_size,
                size,
                header_offset,
                data_offset: 0,
            },
            flags,
            method,
        });
        position = end;
    }
    if position != bytes.len() {
        return refused(
            &NOT_CANONICAL,
            table.range.start.saturating_add(position as u64),
            "the table holds more than its members",
        );
    }
    Ok(entries)
}

fn member_name(bytes: &[u8], flags: u16, offset: u64) -> Result<String, ZipError> {
    let name = match std::str::from_utf8(bytes) {
        Ok(name) if !name.is_empty() && (name.is_ascii() || flags & 0x0800 != 0) => name,
        _ => {
            return refused(
                &NOT_CANONICAL,
                offset,
                "a member's name is empty or not plainly encoded",
            );
        }
    };
    if !is_safe_path(name.strip_suffix('/').unwrap_or(name)) {
        return refused(
            &PATH,
            offset,
            format!("member `{}` leaves the archive", name.escape_debug()),
        );
    }
    Ok(name.to_owned())
}

/// Whether `path` is relative, stays below its directory, and means the same on every system.
pub fn is_safe_path(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(|character: char| {
            character == '\\' || character == ':' || character.is_control()
        })
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

fn check_names(entries: &[TableEntry]) -> Result<(), ZipError> {
    let mut names = HashSet::with_capacity(entries.len());
    for entry in entries {
        let folded = entry.entry.name.trim_end_matches('/').to_lowercase();
        if !names.insert(folded) {
            return refused(
                &DUPLICATE,
                None,
                format!("member `{}` occurs more than once", entry.entry.name),
            );
        }
    }
    Ok(())
}

/// Reads the header before each member and requires that headers and members tile the archive up to its table.
fn read_headers(
    source: &dyn Source,
    entries: &mut [TableEntry],
    table_offset: u64,
) -> Result<(), ZipError> {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&index| entries.get(index).map(|entry| entry.entry.header_offset));
    // The gap up to the next header bounds how much of the file one header and its member may claim.
    let mut slots = Vec::with_capacity(order.len());
    let mut expected = 0_u64;
    for (place, &index) in order.iter().enumerate() {
        let Some(entry) = entries.get(index) else {
            continue;
        };
        let start = entry.entry.header_offset;
        let end = order
            .get(place + 1)
            .and_then(|&next| entries.get(next))
            .map_or(table_offset, |next| next.entry.header_offset);
        let least = entry
            .entry
            .compressed_size
            .saturating_add((HEADER_BYTES + entry.entry.name.len()) as u64);
        if start != expected || end > table_offset || end.saturating_sub(start) < least {
            return refused(
                &NOT_CANONICAL,
                start,
                format!(
                    "member `{}` overlaps another, or something lies before it",
                    entry.entry.name
                ),
            );
        }
        expected = end;
        slots.push((index, start..end));
    }
    if expected != table_offset {
        return refused(
            &NOT_CANONICAL,
            expected,
            "something lies between the members and the table",
        );
    }
    let mut position = 0;
    while position < slots.len() {
        let batch_end = slots.len().min(position + 1024);
        let batch = slots.get(position..batch_end).unwrap_or_default();
        let mut wanted: Vec<Range<u64>> = Vec::with_capacity(batch.len());
        for (index, slot) in batch {
            let header = header_range(entries.get(*index), slot);
            match wanted.last_mut() {
                Some(last)
                    if header.start <= last.end.saturating_add(COALESCE_BYTES)
                        && header.end.saturating_sub(last.start) <= MAX_SPAN_BYTES =>
                {
                    last.end = last.end.max(header.end);
                }
                _ => wanted.push(header),
            }
        }
        let fetched = source.read_many(&wanted)?;
        for (index, slot) in batch {
            let Some(entry) = entries.get_mut(*index) else {
                continue;
            };
            let header = header_range(Some(entry), slot);
            let span = wanted.partition_point(|span| span.start <= header.start);
            let bytes = span
                .checked_sub(1)
                .and_then(|span| Some((wanted.get(span)?, fetched.get(span)?)))
                .and_then(|(span, bytes)| {
                    bytes
                        .get(to_usize(header.start - span.start)..to_usize(header.end - span.start))
                })
                .unwrap_or_default();
            check_header(source, entry, slot, bytes)?;
        }
        position = batch_end;
    }
    Ok(())
}

/// The bytes that hold a member's header, with room for the padding that aligns a tensor to 64 bytes.
fn header_range(entry: Option<&TableEntry>, slot: &Range<u64>) -> Range<u64> {
    let Some(entry) = entry else {
        return slot.start..slot.start;
    };
    let gap = (slot.end - slot.start).saturating_sub(entry.entry.compressed_size);
    slot.start..slot.start + gap.min((HEADER_BYTES + entry.entry.name.len() + 160) as u64)
}

fn check_header(
    source: &dyn Source,
    entry: &mut TableEntry,
    slot: &Range<u64>,
    bytes: &[u8],
) -> Result<(), ZipError> {
    let name = entry.entry.name.clone();
    let differs = |what: &str| {
        refused(
            &NOT_CANONICAL,
            slot.start,
            format!("the header of member `{name}` differs from the table in its {what}"),
        )
    };
    if !bytes.starts_with(b"PK\x03\x04") {
        return differs("signature");
    }
    let short = |at| u16_at(bytes, at).unwrap_or_default();
    let long = |at| u32_at(bytes, at).unwrap_or_default();
    if short(6) != entry.flags || short(8) != entry.method {
        return differs("flags or compression method");
    }
    let name_end = HEADER_BYTES + usize::from(short(26));
    let extra_bytes = u64::from(short(28));
    if bytes.get(HEADER_BYTES..name_end) != Some(name.as_bytes()) {
        return differs("name");
    }
    let data_offset = slot.start + name_end as u64 + extra_bytes;
    let Some(after) = slot
        .end
        .checked_sub(data_offset)
        .and_then(|room| room.checked_sub(entry.entry.compressed_size))
    else {
        return differs("length");
    };
    let extra_end = name_end + to_usize(extra_bytes);
    let fetched;
    let extra = if let Some(extra) = bytes.get(name_end..extra_end) {
        extra
    } else {
        fetched = source.read(slot.start + name_end as u64..data_offset)?;
        &fetched
    };
    let mut wide = WideFields::new(extra, &[long(22), long(18)]);
    let (Some(size), Some(compressed_size)) = (wide.next(), wide.next()) else {
        return differs("extra fields");
    };
    if !wide.is_valid() {
        return differs("extra fields");
    }
    let deferred = entry.flags & 0x0008 != 0;
    let agrees = |header: u64, table: u64| header == table || (deferred && header == 0);
    if !agrees(size, entry.entry.size)
        || !agrees(compressed_size, entry.entry.compressed_size)
        || !agrees(u64::from(long(14)), u64::from(entry.entry.crc32))
    {
        return differs("size or checksum");
    }
    entry.entry.data_offset = data_offset;
    if !deferred {
        if after != 0 {
            return refused(
                &NOT_CANONICAL,
                slot.start,
                format!("something lies behind member `{name}`"),
            );
        }
        return Ok(());
    }
    // The descriptor behind the member is 12 or 20 bytes, and usually has a signature of 4 before.
    if !matches!(after, 12 | 16 | 20 | 24) {
        return refused(
            &NOT_CANONICAL,
            slot.start,
            format!("something other than a descriptor lies behind member `{name}`"),
        );
    }
    let descriptor = source.read(slot.end - after..slot.end)?;
    let body = descriptor
        .strip_prefix(b"PK\x07\x08")
        .unwrap_or(&descriptor);
    let sizes = match body.len() {
        12 => (
            u32_at(body, 4).map(u64::from),
            u32_at(body, 8).map(u64::from),
        ),
        20 => (u64_at(body, 4), u64_at(body, 12)),
        _ => return differs("descriptor"),
    };
    if u32_at(body, 0) != Some(entry.entry.crc32)
        || sizes != (Some(entry.entry.compressed_size), Some(entry.entry.size))
    {
        return differs("descriptor");
    }
    Ok(())
}

/// Walks the extra fields, and gives each 32-bit value or the 64-bit one that stands in for it.
struct WideFields<'e> {
    /// The values still to be given, last first.
    narrow: Vec<u32>,
    wide: &'e [u8],
    valid: bool,
}

impl<'e> WideFields<'e> {
    fn new(extra: &'e [u8], narrow: &[u32]) -> Self {
        let mut wide = None;
        let mut valid = true;
        let mut rest = extra;
        while !rest.is_empty() {
            let (Some(id), Some(length)) = (u16_at(rest, 0), u16_at(rest, 2)) else {
                valid = false;
                break;
            };
            let end = 4 + usize::from(length);
            let Some(body) = rest.get(4..end) else {
                valid = false;
                break;
            };
            match id {
                // 64-bit sizes: at most once.
                0x0001 => valid &= wide.replace(body).is_none(),
                // A second name, a second comment, encryption, and the checksums of patched archives.
                0x7075 | 0x6375 | 0x9901 | 0x0017 | 0x000f => valid = false,
                _ => {}
            }
            rest = rest.get(end..).unwrap_or_default();
        }
        Self {
            narrow: narrow.iter().rev().copied().collect(),
            wide: wide.unwrap_or_default(),
            valid,
        }
    }

    fn next(&mut self) -> Option<u64> {
        let narrow = self.narrow.pop()?;
        if narrow != u32::MAX {
            return Some(u64::from(narrow));
        }
        let value = u64_at(self.wide, 0)?;
        self.wide = self.wide.get(8..).unwrap_or_default();
        Some(value)
    }

    fn is_valid(&self) -> bool {
        self.valid
    }
}

/// Expands raw deflate data to at most `limit` bytes; also tells how much input was used if the end was reached.
fn inflate(raw: &[u8], limit: usize) -> (Vec<u8>, Option<u64>) {
    let mut decoder = flate2::read::DeflateDecoder::new(raw);
    let mut bytes = Vec::new();
    let ended = decoder
        .by_ref()
        .take(limit as u64)
        .read_to_end(&mut bytes)
        .is_ok()
        && bytes.len() < limit;
    (bytes, ended.then(|| decoder.total_in()))
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
