//! Archives that only carry files: tar (POSIX.1-2001 and GNU), alone or in gzip or Zstandard, and plain zip.
//!
//! Everything that decides where a member lands when it is unpacked is checked here; what the members are is for the
//! driver, which [`with_members`] hands them to as sources of their own.
//! A compressed archive is decompressed as it is read, so that memory stays small; see the module `inflated`.

use crate::check::Check;
use crate::cursor::{Trouble, quote, settle};
use crate::inflated::{Coding, Inflated, MAX_RATIO};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::{ReadError, Source};
use crate::zip::{Archive, Entry, Part, is_safe_path};
use bytes::Bytes;
use serde_json::json;
use std::collections::HashSet;
use std::io::Read as _;
use std::ops::Range;

/// The rules of this format.
pub const RULES: &[Rule] = &[
    MALFORMED,
    BOMB,
    TOO_DEEP,
    TOO_LARGE,
    PATH,
    SPECIAL,
    MODE,
    DUPLICATE,
    OVERRIDE,
    NOT_INSPECTED,
];

const MALFORMED: Rule = Rule {
    id: "archive.malformed",
    verdict: Verdict::Malformed,
    why: "Programs differ in what they unpack from an archive that breaks its format's rules.",
    fix: "Pack the files again with a current tool.",
};
const BOMB: Rule = Rule {
    id: "archive.bomb",
    verdict: Verdict::Unsafe,
    why: "An archive that expands far beyond its size exhausts whoever unpacks it.",
    fix: "Upload the files without compression.",
};
const TOO_DEEP: Rule = Rule {
    id: "archive.nested-too-deeply",
    verdict: Verdict::Unsafe,
    why: "Archives within archives hide what is in them, and expand without bound.",
    fix: "Upload the files themselves.",
};
const TOO_LARGE: Rule = Rule {
    id: "archive.too-large",
    verdict: Verdict::Incomplete,
    why: "The archive has more members, or more content, than can be inspected.",
    fix: "Upload the files themselves.",
};
const PATH: Rule = Rule {
    id: "archive.path-escape",
    verdict: Verdict::Unsafe,
    why: "Unpacking the member writes outside of the directory that was asked for.",
    fix: "Pack files with relative paths without `..`.",
};
const SPECIAL: Rule = Rule {
    id: "archive.special-file",
    verdict: Verdict::Unsafe,
    why: "Links and devices make later members land, and readers read, outside of the directory.",
    fix: "Pack plain files and directories only.",
};
const MODE: Rule = Rule {
    id: "archive.privileged-mode",
    verdict: Verdict::Unsafe,
    why: "A file that is unpacked with set-user-id or set-group-id runs with rights of another user.",
    fix: "Pack the files with plain permissions.",
};
const DUPLICATE: Rule = Rule {
    id: "archive.duplicate-member",
    verdict: Verdict::Malformed,
    why: "Which of two members of one name counts depends on the program and the file system.",
    fix: "Pack each file once.",
};
const OVERRIDE: Rule = Rule {
    id: "archive.name-override",
    verdict: Verdict::Malformed,
    why: "Programs that ignore the extended header unpack another file than those that follow it.",
    fix: "Pack the files again with a current tool.",
};
const NOT_INSPECTED: Rule = Rule {
    id: "archive.members-not-inspected",
    verdict: Verdict::Incomplete,
    why: "An archive is as safe as its members.",
    fix: "Validate again with an engine that looks into archives.",
};

const BLOCK: u64 = 512;
const MAX_MEMBERS: usize = 65_536;
const MAX_NAME_BYTES: usize = 4096;
/// Most bytes of names of all members.
const MAX_NAMES_BYTES: usize = 2 * 1024 * 1024;
/// Largest extended header.
const MAX_EXTENDED_BYTES: u64 = 64 * 1024;
/// Small members of compressed archives are kept, so that looking at them again does not decompress again.
const KEPT_MEMBER_BYTES: u64 = 1024 * 1024;
const KEPT_BYTES: u64 = 8 * 1024 * 1024;
/// Archives may expand freely up to this size.
const FREE_BYTES: u64 = 1024 * 1024;
/// Longest run of zeros behind the last member; tape blocks are 10 KiB, and some tools write larger ones.
const MAX_PADDING_BYTES: u64 = 1024 * 1024;

/// One file of an archive.
pub struct Member<'s> {
    /// Path within the archive, relative.
    pub path: String,
    /// The content.
    pub source: Box<dyn Source + 's>,
}

impl std::fmt::Debug for Member<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Member")
            .field("path", &self.path)
            .field("size", &self.source.size())
            .finish()
    }
}

/// What the driver does with the members of an archive.
pub type Inspect<'i> = dyn FnMut(&mut Check<'_>, Vec<Member<'_>>) -> Result<(), ReadError> + 'i;

/// What kind of archive the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A tar archive.
    Tar,
    /// A tar archive in gzip.
    TarGzip,
    /// A tar archive in Zstandard.
    TarZstandard,
    /// A zip archive.
    Zip,
}

impl Kind {
    /// Name of the format in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::TarGzip => "tar.gz",
            Self::TarZstandard => "tar.zst",
            Self::Zip => "zip",
        }
    }
}

/// Tells what kind of archive this is, if any.
pub fn kind(head: &[u8]) -> Option<Kind> {
    if head.starts_with(b"\x1f\x8b") {
        let mut block = Vec::new();
        let decoder = flate2::read::GzDecoder::new(head);
        // The head is cut off, so that an error behind the first block means nothing.
        let _ = decoder.take(BLOCK).read_to_end(&mut block);
        return is_tar(&block).then_some(Kind::TarGzip);
    }
    if head.starts_with(b"\x28\xb5\x2f\xfd") {
        let mut block = Vec::new();
        let source = Bytes::copy_from_slice(head);
        if crate::inflated::check_window(&source).is_err() {
            // Claimed all the same, so that it is refused with a reason.
            return Some(Kind::TarZstandard);
        }
        if let Ok(decoder) = ruzstd::decoding::StreamingDecoder::new(head) {
            let _ = decoder.take(BLOCK).read_to_end(&mut block);
        }
        return (block.is_empty() || is_tar(&block)).then_some(Kind::TarZstandard);
    }
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return Some(Kind::Zip);
    }
    is_tar(head).then_some(Kind::Tar)
}

/// Tells whether this is an archive; formats that are zip archives of their own come first.
pub fn detect(head: &[u8], _tail: &[u8], _path: &str, _size: u64) -> bool {
    kind(head).is_some()
}

/// Whether a block is the header of a member, by its checksum.
fn is_tar(head: &[u8]) -> bool {
    head.get(..512).is_some_and(|block| {
        block.first().is_some_and(|byte| *byte != 0) && checksum(block).is_some()
    })
}

/// Checks the archive without looking at its members, which leaves the inspection incomplete.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    with_members(check, &mut |check, members| {
        if !members.is_empty() {
            check.find(&NOT_INSPECTED, None, format!("{} members", members.len()));
        }
        Ok(())
    })
}

/// Checks the archive, then hands its members to `inspect`; nothing is handed over if the archive is refused.
pub fn with_members(check: &mut Check<'_>, inspect: &mut Inspect<'_>) -> Result<(), ReadError> {
    if check.depth >= check.limits.archive_depth {
        check.find(
            &TOO_DEEP,
            None,
            format!("{} archives are nested", check.depth + 1),
        );
        return Ok(());
    }
    let head = check.read(0..check.size().min(64 * 1024))?;
    let Some(kind) = kind(&head) else {
        check.find(&MALFORMED, Some(0), "no archive");
        return Ok(());
    };
    let source = check.source;
    match kind {
        Kind::Zip => zip(check, inspect),
        Kind::Tar => {
            let outcome = tar(source);
            tar_members(check, source, outcome, false, inspect)
        }
        Kind::TarGzip | Kind::TarZstandard => {
            let coding = if kind == Kind::TarGzip {
                Coding::Gzip
            } else {
                Coding::Zstandard
            };
            let outcome = Inflated::measure(source, coding);
            let Some(inflated) = settle(check, outcome, &MALFORMED, &BOMB)? else {
                return Ok(());
            };
            if is_beyond_depth(check, inflated.size()) {
                return Ok(());
            }
            let outcome = tar(&inflated);
            tar_members(check, &inflated, outcome, true, inspect)
        }
    }
}

/// Each level of nesting multiplies what is to be read, so inner archives may hold less.
fn is_beyond_depth(check: &mut Check<'_>, size: u64) -> bool {
    let limit = match check.depth {
        0 => u64::MAX,
        1 => 1 << 30,
        _ => 64 << 20,
    };
    if size > limit {
        check.find(
            &TOO_LARGE,
            None,
            format!("{size} bytes within an archive at level {}", check.depth),
        );
    }
    size > limit
}

/// A member of a tar archive.
#[derive(Debug)]
struct File {
    path: String,
    range: Range<u64>,
}

fn tar_members(
    check: &mut Check<'_>,
    source: &dyn Source,
    outcome: Result<Vec<File>, Trouble>,
    is_compressed: bool,
    inspect: &mut Inspect<'_>,
) -> Result<(), ReadError> {
    let Some(files) = settle(check, outcome, &MALFORMED, &TOO_LARGE)? else {
        return Ok(());
    };
    check.fact("member_count", files.len());
    check.fact("expanded_bytes", source.size());
    check.fact(
        "members",
        json!(
            files
                .iter()
                .take(200)
                .map(|file| &file.path)
                .collect::<Vec<_>>()
        ),
    );
    let mut kept = 0;
    let mut members = Vec::with_capacity(files.len());
    for file in files {
        let size = file.range.end - file.range.start;
        let keep = is_compressed && size <= KEPT_MEMBER_BYTES && kept + size <= KEPT_BYTES;
        let content: Box<dyn Source + '_> = if keep {
            kept += size;
            Box::new(source.read(file.range)?)
        } else {
            Box::new(Part::new(source, file.range))
        };
        members.push(Member {
            path: file.path,
            source: content,
        });
    }
    inspect(check, members)
}

fn zip(check: &mut Check<'_>, inspect: &mut Inspect<'_>) -> Result<(), ReadError> {
    let source = check.source;
    let archive = match Archive::open(source) {
        Ok(archive) => archive,
        Err(error) => return error.report(check),
    };
    let entries = archive.entries();
    let expanded = entries
        .iter()
        .fold(0_u64, |sum, entry| sum.saturating_add(entry.size));
    if expanded > FREE_BYTES && expanded / MAX_RATIO > check.size() {
        check.find(
            &BOMB,
            None,
            format!("{} bytes expand to {expanded}", check.size()),
        );
        return Ok(());
    }
    if entries.len() > MAX_MEMBERS {
        check.find(&TOO_LARGE, None, format!("{} members", entries.len()));
        return Ok(());
    }
    if is_beyond_depth(check, expanded) {
        return Ok(());
    }
    let mut names = Names::default();
    for entry in entries {
        let outcome = names.add(
            entry.name.trim_end_matches('/'),
            entry.is_directory(),
            entry.header_offset,
        );
        if settle(check, outcome, &MALFORMED, &TOO_LARGE)?.is_none() {
            return Ok(());
        }
    }
    check.fact("member_count", entries.len());
    check.fact("expanded_bytes", expanded);
    check.fact(
        "members",
        json!(
            entries
                .iter()
                .take(200)
                .map(|entry| &entry.name)
                .collect::<Vec<_>>()
        ),
    );
    let files: Vec<&Entry> = entries
        .iter()
        .filter(|entry| !entry.is_directory())
        .collect();
    let parts: Vec<Part<'_>> = files
        .iter()
        .map(|entry| Part::new(source, entry.range()))
        .collect();
    let mut kept = 0;
    let mut members = Vec::with_capacity(files.len());
    for (entry, part) in files.iter().zip(&parts) {
        let content: Box<dyn Source + '_> = if entry.stored {
            Box::new(Part::new(source, entry.range()))
        } else if entry.size <= KEPT_MEMBER_BYTES && kept + entry.size <= KEPT_BYTES {
            kept += entry.size;
            match archive.read(
                entry,
                usize::try_from(KEPT_MEMBER_BYTES).unwrap_or(usize::MAX),
            ) {
                Ok(bytes) => Box::new(bytes),
                Err(error) => return error.report(check),
            }
        } else {
            let inflated = Inflated::with_size(part, Coding::Deflate, entry.size);
            if crc32(&inflated)? != entry.crc32 {
                check.find(
                    &MALFORMED,
                    Some(entry.data_offset),
                    format!("member {} differs from its checksum", quote(&entry.name)),
                );
                return Ok(());
            }
            Box::new(inflated)
        };
        members.push(Member {
            path: entry.name.clone(),
            source: content,
        });
    }
    inspect(check, members)
}

fn crc32(source: &dyn Source) -> Result<u32, ReadError> {
    let mut hasher = crc32fast::Hasher::new();
    let mut at = 0;
    while at < source.size() {
        let end = source.size().min(at + FREE_BYTES);
        hasher.update(&source.read(at..end)?);
        at = end;
    }
    Ok(hasher.finalize())
}

/// The names of an archive so far.
#[derive(Debug, Default)]
struct Names {
    folded: HashSet<String>,
    /// Files, and directories that files lie in, to find a file that is also a directory.
    files: HashSet<String>,
    directories: HashSet<String>,
    bytes: usize,
}

impl Names {
    fn add(&mut self, path: &str, is_directory: bool, offset: u64) -> Result<(), Trouble> {
        let folded = path.to_lowercase();
        self.bytes = self.bytes.saturating_add(folded.len());
        if self.bytes > MAX_NAMES_BYTES || self.folded.len() > MAX_MEMBERS {
            return Err(Trouble::too_large(offset, "too many members"));
        }
        if path.split('/').count() > 64 {
            return Err(Trouble::malformed(offset, "a path of over 64 parts"));
        }
        let mut end = 0;
        while let Some(next) = folded.get(end..).and_then(|rest| rest.find('/')) {
            end += next;
            let parent = folded.get(..end).unwrap_or("");
            if self.files.contains(parent) {
                return Err(Trouble::rule(
                    &DUPLICATE,
                    offset,
                    format!("{} is a file and a directory", quote(parent)),
                ));
            }
            if !self.directories.contains(parent) {
                self.bytes = self.bytes.saturating_add(parent.len());
                self.directories.insert(parent.to_owned());
            }
            end += 1;
        }
        if !self.folded.insert(folded.clone()) {
            return Err(Trouble::rule(
                &DUPLICATE,
                offset,
                format!(
                    "the member {} is there twice, if case is ignored",
                    quote(path)
                ),
            ));
        }
        if is_directory {
            self.directories.insert(folded);
        } else {
            if self.directories.contains(&folded) {
                return Err(Trouble::rule(
                    &DUPLICATE,
                    offset,
                    format!("{} is a file and a directory", quote(path)),
                ));
            }
            self.files.insert(folded);
        }
        Ok(())
    }
}

/// Names and sizes that the next header takes from extended headers.
#[derive(Debug, Default)]
struct Extended {
    path: Option<String>,
    size: Option<u64>,
    is_long_name: bool,
}

/// Walks the headers of a tar archive.
fn tar(source: &dyn Source) -> Result<Vec<File>, Trouble> {
    let size = source.size();
    if !size.is_multiple_of(BLOCK) {
        return Err(Trouble::malformed(
            size,
            "the archive does not end with a block",
        ));
    }
    let mut files = Vec::new();
    let mut names = Names::default();
    let mut extended = Extended::default();
    let mut at = 0_u64;
    while at < size {
        let block = source.read(at..at + BLOCK)?;
        if block.iter().all(|byte| *byte == 0) {
            if extended.path.is_some() || extended.size.is_some() {
                return Err(Trouble::malformed(at, "an extended header for no member"));
            }
            padding(source, at)?;
            return Ok(files);
        }
        let header = Header::read(&block, at)?;
        let data = at + BLOCK;
        let end = data
            .checked_add(header.size)
            .filter(|end| *end <= size)
            .ok_or_else(|| Trouble::malformed(at, "a member that is longer than the archive"))?;
        match header.kind {
            b'x' | b'g' => {
                extended_header(source, &header, data..end, &mut extended)?;
            }
            b'L' => {
                if header.size > MAX_NAME_BYTES as u64 {
                    return Err(Trouble::malformed(at, "a name that is too long"));
                }
                let name = source.read(data..end)?;
                let name = name.strip_suffix(b"\0").unwrap_or(&name);
                let name = text(name, at)?;
                if extended.path.replace(name).is_some() {
                    return Err(Trouble::malformed(at, "two long names for one member"));
                }
                extended.is_long_name = true;
            }
            _ => {
                if let Some(file) = member(&header, &mut extended, &mut names, at, end)? {
                    files.push(file);
                }
            }
        }
        at = end
            .checked_next_multiple_of(BLOCK)
            .ok_or_else(|| Trouble::malformed(at, "a member that is longer than the archive"))?;
        if at > end {
            let gap = source.read(end..at.min(size))?;
            if gap.iter().any(|byte| *byte != 0) {
                return Err(Trouble::malformed(end, "something lies behind a member"));
            }
        }
    }
    Err(Trouble::malformed(size, "the archive has no end"))
}

/// Behind the last member lie zeros only: some programs go on reading there.
fn padding(source: &dyn Source, start: u64) -> Result<(), Trouble> {
    let size = source.size();
    if size - start > MAX_PADDING_BYTES {
        return Err(Trouble::malformed(
            start,
            "too much lies behind the end of the archive",
        ));
    }
    if size - start < 2 * BLOCK {
        return Err(Trouble::malformed(
            start,
            "the end of the archive is cut off",
        ));
    }
    // The first block is known to be zeros.
    let start = start + BLOCK;
    let rest = source.read(start..size)?;
    match rest.iter().position(|byte| *byte != 0) {
        Some(index) => Err(Trouble::malformed(
            start + index as u64,
            "something lies behind the end of the archive",
        )),
        None => Ok(()),
    }
}

/// What a header says, before extended headers.
#[derive(Debug)]
struct Header {
    name: String,
    size: u64,
    kind: u8,
    mode: u64,
}

impl Header {
    fn read(block: &[u8], at: u64) -> Result<Self, Trouble> {
        if checksum(block).is_none() {
            return Err(Trouble::malformed(at, "a header with a wrong checksum"));
        }
        let field = |start: usize, end: usize| block.get(start..end).unwrap_or(&[]);
        let number = |start: usize, end: usize| {
            octal(field(start, end))
                .ok_or_else(|| Trouble::malformed(at, "a number that no program writes"))
        };
        let kind = block.get(156).copied().unwrap_or(0);
        let mut name = text(until_zero(field(0, 100)), at)?;
        let magic = field(257, 265);
        // Only POSIX archives have the first part of long paths here; GNU keeps times.
        if magic.starts_with(b"ustar\x0000") {
            let prefix = text(until_zero(field(345, 500)), at)?;
            if !prefix.is_empty() {
                name = format!("{prefix}/{name}");
            }
        }
        Ok(Self {
            name,
            size: number(124, 136)?,
            kind,
            mode: number(100, 108)?,
        })
    }
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.get(..end.unwrap_or(bytes.len())).unwrap_or(&[])
}

fn text(bytes: &[u8], at: u64) -> Result<String, Trouble> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(Trouble::malformed(at, "a name that is not UTF-8")),
    }
}

/// Sum of the header's bytes with the checksum itself as blanks, if it is what the header says.
fn checksum(block: &[u8]) -> Option<u64> {
    let stated = octal(block.get(148..156)?)?;
    let sum = block
        .iter()
        .enumerate()
        .map(|(index, byte)| {
            if (148..156).contains(&index) {
                u64::from(b' ')
            } else {
                u64::from(*byte)
            }
        })
        .sum::<u64>();
    (sum == stated).then_some(sum)
}

/// A number in octal digits, or in GNU's binary form.
pub(crate) fn octal(field: &[u8]) -> Option<u64> {
    if let Some((0x80, rest)) = field.split_first() {
        return rest.iter().try_fold(0_u64, |value, byte| {
            value.checked_mul(256)?.checked_add(u64::from(*byte))
        });
    }
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches(['\0', ' ']);
    if text.is_empty() {
        return Some(0);
    }
    if !text.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
        return None;
    }
    u64::from_str_radix(text, 8).ok()
}

/// Records of the form `<length> <key>=<value>\n`.
fn extended_header(
    source: &dyn Source,
    header: &Header,
    range: Range<u64>,
    extended: &mut Extended,
) -> Result<(), Trouble> {
    let at = range.start;
    if header.size > MAX_EXTENDED_BYTES {
        return Err(Trouble::malformed(
            at,
            "an extended header that is too long",
        ));
    }
    let bytes = source.read(range)?;
    let mut rest: &[u8] = &bytes;
    while !rest.is_empty() {
        let broken = || Trouble::malformed(at, "a damaged extended header");
        let blank = rest
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or_else(broken)?;
        let length: usize = rest
            .get(..blank)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| !digits.starts_with(['0', '+']))
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(broken)?;
        let record = rest
            .get(blank + 1..length)
            .and_then(|record| record.strip_suffix(b"\n"))
            .ok_or_else(broken)?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(broken)?;
        let key = text(record.get(..equals).unwrap_or(&[]), at)?;
        let value = record.get(equals + 1..).unwrap_or(&[]);
        rest = rest.get(length..).unwrap_or(&[]);
        match key.as_str() {
            "path" | "size" if header.kind == b'g' => {
                return Err(Trouble::rule(
                    &OVERRIDE,
                    at,
                    format!("a global {} for all members", quote(&key)),
                ));
            }
            "path" => {
                let before = extended.path.replace(text(value, at)?);
                if before.is_some() {
                    return Err(Trouble::malformed(at, "two names for one member"));
                }
            }
            "size" => {
                let size = text(value, at)?.parse().map_err(|_| broken())?;
                if extended.size.replace(size).is_some() {
                    return Err(Trouble::malformed(at, "two sizes for one member"));
                }
            }
            "linkpath" => return Err(Trouble::rule(&SPECIAL, at, "a link")),
            "hdrcharset" => return Err(Trouble::malformed(at, "names in another encoding")),
            key if key.starts_with("GNU.sparse") => {
                return Err(Trouble::malformed(at, "a file with holes"));
            }
            // Times, owners, comments and attributes do not decide what is unpacked where.
            _ => {}
        }
    }
    Ok(())
}

/// Checks one member; returns it if it is a file.
fn member(
    header: &Header,
    extended: &mut Extended,
    names: &mut Names,
    at: u64,
    end: u64,
) -> Result<Option<File>, Trouble> {
    let extended = std::mem::take(extended);
    let is_directory = match header.kind {
        0 | b'0' => header.name.ends_with('/') && header.size == 0,
        b'5' => true,
        kind => {
            let what = match kind {
                b'1' => "a hard link".to_owned(),
                b'2' => "a symbolic link".to_owned(),
                b'3' | b'4' => "a device".to_owned(),
                b'6' => "a named pipe".to_owned(),
                _ => format!("of type 0x{kind:02x}"),
            };
            return Err(Trouble::rule(
                &SPECIAL,
                at,
                format!("the member {} is {what}", quote(&header.name)),
            ));
        }
    };
    if header.mode & 0o6000 != 0 {
        return Err(Trouble::rule(
            &MODE,
            at,
            format!(
                "the member {} has mode {:o}",
                quote(&header.name),
                header.mode
            ),
        ));
    }
    if let Some(size) = extended.size
        && size != header.size
    {
        // Only sizes beyond eleven octal digits need the extended header, and no file here has one.
        return Err(Trouble::rule(
            &OVERRIDE,
            at,
            format!("a size of {size} over one of {}", header.size),
        ));
    }
    if let Some(path) = &extended.path {
        let may_differ = path.len() > 99 || !path.is_ascii();
        if !may_differ && path.trim_end_matches('/') != header.name.trim_end_matches('/') {
            return Err(Trouble::rule(
                &OVERRIDE,
                at,
                format!("the name {} over {}", quote(path), quote(&header.name)),
            ));
        }
    }
    // Programs without extended headers would use this name, so it must be harmless as well.
    for name in [Some(&header.name), extended.path.as_ref()]
        .into_iter()
        .flatten()
    {
        let path = normal(name);
        if !path.is_empty() && !is_safe_path(path) {
            return Err(Trouble::rule(
                &PATH,
                at,
                format!("the member {}", quote(name)),
            ));
        }
    }
    let name = extended.path.as_ref().unwrap_or(&header.name);
    let path = normal(name);
    if is_directory && header.size != 0 {
        return Err(Trouble::malformed(at, "a directory with content"));
    }
    if path.is_empty() {
        // `./`, the directory that was packed.
        return if is_directory && name.starts_with('.') {
            Ok(None)
        } else {
            Err(Trouble::malformed(at, "a member without a name"))
        };
    }
    if !is_directory && name.ends_with('/') {
        return Err(Trouble::malformed(
            at,
            "a file with the name of a directory",
        ));
    }
    names.add(path, is_directory, at)?;
    Ok((!is_directory).then(|| File {
        path: path.to_owned(),
        range: end - header.size..end,
    }))
}

/// A path without what `tar` puts around it: `./` before, and `/` behind directories.
fn normal(name: &str) -> &str {
    let path = name.strip_prefix("./").unwrap_or(name);
    let path = path.strip_suffix('/').unwrap_or(path);
    if path == "." { "" } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Bundle;
    use crate::inspect::Limits;

    /// Builds one header and its content.
    fn entry(name: &str, kind: u8, mode: &str, content: &[u8]) -> Vec<u8> {
        let mut block = vec![0_u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..100 + mode.len()].copy_from_slice(mode.as_bytes());
        let size = format!("{:011o}", content.len());
        block[124..135].copy_from_slice(size.as_bytes());
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum::<u64>() + 8 * 32;
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block[155] = b' ';
        block.extend_from_slice(content);
        block.resize(block.len().next_multiple_of(512), 0);
        block
    }

    fn run(parts: &[Vec<u8>]) -> (Verdict, Vec<String>, Vec<String>) {
        let mut bytes = parts.concat();
        bytes.extend_from_slice(&[0; 1024]);
        run_bytes(bytes)
    }

    fn run_bytes(bytes: Vec<u8>) -> (Verdict, Vec<String>, Vec<String>) {
        let source = Bytes::from(bytes);
        let bundle = Bundle::new(Vec::new());
        let limits = Limits::default();
        let mut check = Check::new(&bundle, "x.tar", &source, &limits, 0);
        let mut paths = Vec::new();
        with_members(&mut check, &mut |_, members| {
            paths.extend(members.into_iter().map(|member| member.path));
            Ok(())
        })
        .unwrap();
        let (verdict, findings, _) = check.finish();
        (
            verdict,
            findings.into_iter().map(|finding| finding.rule).collect(),
            paths,
        )
    }

    fn pax(records: &[(&str, &str)]) -> Vec<u8> {
        let mut content = String::new();
        for (key, value) in records {
            let rest = format!(" {key}={value}\n");
            let length = (1..10)
                .map(|digits| rest.len() + digits)
                .find(|length| length.to_string().len() + rest.len() == *length)
                .unwrap();
            content.push_str(&length.to_string());
            content.push_str(&rest);
        }
        entry("PaxHeaders/x", b'x', "0000644", content.as_bytes())
    }

    #[test]
    fn plain_files_and_directories_are_handed_over() {
        let (verdict, _, paths) = run(&[
            entry("./", b'5', "0000755", b""),
            entry("./a/", b'5', "0000755", b""),
            pax(&[("mtime", "1.5")]),
            entry("./a/b", b'0', "0000644", b"x"),
        ]);
        assert_eq!((verdict, paths), (Verdict::Clean, vec!["a/b".to_owned()]));
    }

    #[test]
    fn what_lands_elsewhere_is_refused() {
        let cases = [
            (entry("../x", b'0', "0000644", b""), "archive.path-escape"),
            (entry("/x", b'0', "0000644", b""), "archive.path-escape"),
            (
                entry("a/../../x", b'0', "0000644", b""),
                "archive.path-escape",
            ),
            (
                entry("a\\..\\x", b'0', "0000644", b""),
                "archive.path-escape",
            ),
            (entry("x", b'2', "0000644", b""), "archive.special-file"),
            (entry("x", b'1', "0000644", b""), "archive.special-file"),
            (entry("x", b'3', "0000644", b""), "archive.special-file"),
            (entry("x", b'6', "0000644", b""), "archive.special-file"),
            (entry("x", b'S', "0000644", b""), "archive.special-file"),
            (entry("x", b'0', "0004755", b""), "archive.privileged-mode"),
        ];
        for (part, rule) in cases {
            let (verdict, rules, paths) = run(&[part]);
            assert_eq!(
                (verdict, rules, paths),
                (Verdict::Unsafe, vec![rule.to_owned()], Vec::new())
            );
        }
    }

    #[test]
    fn what_programs_read_differently_is_refused() {
        let file = |name: &str| entry(name, b'0', "0000644", b"x");
        let cases = [
            (vec![file("a"), file("A")], "archive.duplicate-member"),
            (vec![file("a"), file("a/b")], "archive.duplicate-member"),
            (vec![file("a/b"), file("a")], "archive.duplicate-member"),
            (
                vec![pax(&[("path", "evil")]), file("safe")],
                "archive.name-override",
            ),
            (
                vec![pax(&[("path", "../../evil")]), file("safe")],
                "archive.name-override",
            ),
            (
                vec![pax(&[("size", "0")]), file("safe")],
                "archive.name-override",
            ),
            (vec![pax(&[("path", "a")])], "archive.malformed"),
        ];
        for (parts, rule) in cases {
            assert_eq!(run(&parts).1, [rule]);
        }
        let mut hidden = file("a");
        hidden.extend_from_slice(&[0; 1024]);
        hidden.extend_from_slice(&file("b"));
        assert_eq!(run(&[hidden]).1, ["archive.malformed"]);
        let mut cut = file("a");
        cut.truncate(512);
        assert_eq!(run_bytes(cut).1, ["archive.malformed"]);
    }
}
