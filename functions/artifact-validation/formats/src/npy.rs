//! NumPy arrays, by `numpy/lib/_format_impl.py` (formats 1.0 to 3.0), alone and in `.npz` archives.
//!
//! The header is a Python literal; it is read by a parser that knows no more than NumPy writes.
//! An array of objects is a pickle behind the header, and goes to the machine for pickles.

use crate::check::Check;
use crate::cursor::{Trouble, quote, settle};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::{ReadError, Source};
use crate::zip::Archive;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The rules of this format.
pub const RULES: &[Rule] = &[MALFORMED, SIZE, MEMBER];

const MALFORMED: Rule = Rule {
    id: "npy.malformed",
    verdict: Verdict::Malformed,
    why: "NumPy evaluates the header, and a header that it did not write may exhaust or confuse it.",
    fix: "Save the array again with `numpy.save`.",
};
const SIZE: Rule = Rule {
    id: "npy.size",
    verdict: Verdict::Malformed,
    why: "The array that the header promises is not the one that follows.",
    fix: "Save the array again with `numpy.save`.",
};
const MEMBER: Rule = Rule {
    id: "npy.foreign-member",
    verdict: Verdict::Malformed,
    why: "An archive of arrays holds arrays; anything else in it was not written by NumPy.",
    fix: "Save the arrays again with `numpy.savez`.",
};

const MAGIC: &[u8] = b"\x93NUMPY";
/// NumPy's own bound for headers that it evaluates.
const MAX_HEADER_BYTES: usize = 10_000;
/// Enough for the longest header and what comes before it.
const HEAD_BYTES: usize = MAX_HEADER_BYTES + 12;
/// Largest member that is decompressed whole.
const MAX_MEMBER_BYTES: usize = 16 * 1024 * 1024;

/// Tells whether this is an array.
pub fn detect(head: &[u8], _tail: &[u8], _path: &str, _size: u64) -> bool {
    head.starts_with(MAGIC)
}

/// Tells whether this is an archive of arrays.
pub fn detect_npz(head: &[u8], tail: &[u8], path: &str, _size: u64) -> bool {
    if !head.starts_with(b"PK\x03\x04") && !head.starts_with(b"PK\x05\x06") {
        return false;
    }
    if path.to_ascii_lowercase().ends_with(".npz") {
        return true;
    }
    let length = usize::from(head.get(26).copied().unwrap_or(0));
    let name = head.get(30..30 + length).unwrap_or(&[]);
    name.ends_with(b".npy") && !tail.windows(11).any(|window| window == b"schema.json")
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Version of the format.
    pub version: u8,
    /// Type of an element, in NumPy's short form.
    pub dtype: String,
    /// Lengths of the dimensions.
    pub shape: Vec<u64>,
    /// Whether elements are Python objects, stored as a pickle.
    pub has_objects: bool,
    /// Bytes of all elements, if they are not objects.
    pub data_bytes: u64,
    /// Where the elements start.
    pub data_offset: u64,
}

/// Reads the header at the start of `head`.
pub fn read_header(head: &[u8]) -> Result<Header, String> {
    let malformed = |detail: &str| Err(detail.to_owned());
    if !head.starts_with(MAGIC) {
        return malformed("no array of NumPy");
    }
    let version = head.get(6).copied().unwrap_or(0);
    if head.get(7) != Some(&0) || !(1..=3).contains(&version) {
        return malformed("a version of the format that does not exist");
    }
    let (length, start) = if version == 1 {
        let bytes = head.get(8..10).and_then(|bytes| bytes.try_into().ok());
        (bytes.map(u16::from_le_bytes).map(u32::from), 10)
    } else {
        let bytes = head.get(8..12).and_then(|bytes| bytes.try_into().ok());
        (bytes.map(u32::from_le_bytes), 12)
    };
    let length = length.and_then(|length| usize::try_from(length).ok());
    let Some(length) = length.filter(|length| *length <= MAX_HEADER_BYTES) else {
        return Err(format!("a header of over {MAX_HEADER_BYTES} bytes"));
    };
    let Some(text) = head.get(start..start + length) else {
        return malformed("the file ends within its header");
    };
    let text = match std::str::from_utf8(text) {
        Ok(text) => text.to_owned(),
        // The first two versions are in Latin-1.
        Err(_) if version < 3 => text.iter().map(|byte| char::from(*byte)).collect(),
        Err(_) => return malformed("a header that is not UTF-8"),
    };
    let mut parser = Literal {
        text: &text,
        position: 0,
    };
    let Node::Dict(entries) = parser.node(0)? else {
        return malformed("a header that is no dictionary");
    };
    parser.blank();
    if parser.position != text.len() {
        return malformed("something follows the header's dictionary");
    }
    let (mut descr, mut order, mut shape) = (None, None, None);
    for (key, value) in entries {
        let slot = match key.as_str() {
            "descr" => &mut descr,
            "fortran_order" => &mut order,
            "shape" => &mut shape,
            _ => return Err(format!("the header has the key {}", quote(&key))),
        };
        if slot.replace(value).is_some() {
            return malformed("the header names a key twice");
        }
    }
    let (Some(descr), Some(Node::Bool(_)), Some(Node::Tuple(shape))) = (descr, order, shape) else {
        return malformed("the header lacks one of its three keys");
    };
    let mut lengths = Vec::new();
    for length in shape {
        match length {
            Node::Number(length) if i64::try_from(length).is_ok() => lengths.push(length),
            _ => return malformed("a shape that is no tuple of lengths"),
        }
    }
    if lengths.len() > 64 {
        return malformed("more than 64 dimensions");
    }
    let mut has_objects = false;
    let item_bytes = item_size(&descr, &mut has_objects, 0)?;
    // A dimension of zero hides what the others overflow to; NumPy multiplies them all.
    let largest = lengths.iter().try_fold(item_bytes.max(1), |bytes, length| {
        bytes.checked_mul((*length).max(1))
    });
    if largest.is_none() {
        return malformed("a shape whose size overflows");
    }
    let data_bytes = lengths.iter().product::<u64>() * item_bytes;
    Ok(Header {
        version,
        dtype: show(&descr),
        shape: lengths,
        has_objects,
        data_bytes,
        data_offset: (start + length) as u64,
    })
}

fn show(descr: &Node) -> String {
    match descr {
        Node::Text(text) => text.clone(),
        Node::List(fields) => format!("structure of {} fields", fields.len()),
        _ => "unknown".to_owned(),
    }
}

/// Bytes of one element; notes whether any part of it is an object.
fn item_size(descr: &Node, has_objects: &mut bool, depth: usize) -> Result<u64, String> {
    let unknown = |what: &str| Err(format!("the element type {}", quote(what)));
    match descr {
        Node::Text(text) => {
            let body = text.strip_prefix(['<', '>', '|', '=']).unwrap_or(text);
            let mut characters = body.chars();
            let kind = characters.next().unwrap_or(' ');
            let rest = characters.as_str();
            if kind == 'O' {
                *has_objects = true;
                return match rest {
                    "" | "8" | "4" => Ok(8),
                    _ => unknown(text),
                };
            }
            let (digits, unit) = match rest.find('[') {
                Some(end) => rest.split_at(end),
                None => (rest, ""),
            };
            let is_time = matches!(kind, 'M' | 'm');
            let is_unit = unit.is_empty()
                || (is_time
                    && unit.ends_with(']')
                    && unit.len() <= 16
                    && unit
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "[]/".contains(c)));
            let is_count = !digits.is_empty()
                && digits.len() <= 10
                && digits.bytes().all(|b| b.is_ascii_digit());
            let Some(count) = digits.parse::<u64>().ok().filter(|_| is_count && is_unit) else {
                return unknown(text);
            };
            let is_allowed = match kind {
                'b' | '?' => count == 1,
                'i' | 'u' => matches!(count, 1 | 2 | 4 | 8),
                'f' => matches!(count, 2 | 4 | 8 | 12 | 16),
                'c' => matches!(count, 8 | 16 | 24 | 32),
                'M' | 'm' => count == 8,
                'S' | 'a' | 'V' | 'U' => true,
                _ => false,
            };
            if !is_allowed {
                return unknown(text);
            }
            Ok(if kind == 'U' { count * 4 } else { count })
        }
        Node::List(fields) if depth < 8 && !fields.is_empty() => {
            let mut total = 0_u64;
            for field in fields {
                let Node::Tuple(parts) = field else {
                    return unknown("a field that is no tuple");
                };
                let (name, descr, shape) = match parts.as_slice() {
                    [name, descr] => (name, descr, None),
                    [name, descr, Node::Tuple(shape)] => (name, descr, Some(shape)),
                    _ => return unknown("a field of other than two or three parts"),
                };
                let is_name = match name {
                    Node::Text(_) => true,
                    Node::Tuple(names) => {
                        names.len() == 2 && names.iter().all(|name| matches!(name, Node::Text(_)))
                    }
                    _ => false,
                };
                if !is_name {
                    return unknown("a field without a name");
                }
                let mut size = item_size(descr, has_objects, depth + 1)?;
                for length in shape.into_iter().flatten() {
                    let Node::Number(length) = length else {
                        return unknown("a field of an unknown shape");
                    };
                    size = size
                        .checked_mul(*length)
                        .ok_or("a field whose size overflows")?;
                }
                total = total
                    .checked_add(size)
                    .ok_or("an element whose size overflows")?;
            }
            Ok(total)
        }
        _ => unknown("neither a name nor a list of fields"),
    }
}

/// The few literals of Python that NumPy writes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Text(String),
    Number(u64),
    Bool(bool),
    Tuple(Vec<Node>),
    List(Vec<Node>),
    Dict(Vec<(String, Node)>),
}

struct Literal<'a> {
    text: &'a str,
    position: usize,
}

impl Literal<'_> {
    /// Deeper than any type that NumPy writes, and shallow enough to recurse.
    const MAX_DEPTH: usize = 24;

    fn blank(&mut self) {
        while matches!(self.peek(), Some(' ' | '\n' | '\t')) {
            self.position += 1;
        }
    }

    fn rest(&self) -> &str {
        self.text.get(self.position..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn fail<T>(&self) -> Result<T, String> {
        Err(format!(
            "a header that NumPy does not write, at {}",
            self.position
        ))
    }

    fn node(&mut self, depth: usize) -> Result<Node, String> {
        if depth > Self::MAX_DEPTH {
            return Err("a header that is nested too deeply".to_owned());
        }
        self.blank();
        match self.peek() {
            Some('\'' | '"') => self.string().map(Node::Text),
            Some('(') => self.items(')', depth).map(Node::Tuple),
            Some('[') => self.items(']', depth).map(Node::List),
            Some('{') => self.dict(depth),
            Some('0'..='9') => {
                let rest = self.rest();
                let end = rest
                    .find(|character: char| !character.is_ascii_digit())
                    .unwrap_or(rest.len());
                let number = rest.get(..end).and_then(|digits| digits.parse().ok());
                self.position += end;
                // Python 2 marks long integers.
                if self.peek() == Some('L') {
                    self.position += 1;
                }
                number.map_or_else(|| self.fail(), |number| Ok(Node::Number(number)))
            }
            _ => {
                for (word, value) in [("True", true), ("False", false)] {
                    if self.rest().starts_with(word) {
                        self.position += word.len();
                        return Ok(Node::Bool(value));
                    }
                }
                self.fail()
            }
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let quote = self.peek();
        self.position += 1;
        let rest = self.rest();
        let end = rest.find(|character| Some(character) == quote);
        match end.and_then(|end| rest.get(..end)) {
            Some(text) if !text.contains(['\\', '\n']) => {
                let text = text.to_owned();
                self.position += text.len() + 1;
                Ok(text)
            }
            _ => self.fail(),
        }
    }

    fn items(&mut self, close: char, depth: usize) -> Result<Vec<Node>, String> {
        self.position += 1;
        let mut items = Vec::new();
        loop {
            self.blank();
            if self.peek() == Some(close) {
                self.position += 1;
                return Ok(items);
            }
            items.push(self.node(depth + 1)?);
            self.blank();
            match self.peek() {
                Some(',') => self.position += 1,
                Some(character) if character == close => {}
                _ => return self.fail(),
            }
        }
    }

    fn dict(&mut self, depth: usize) -> Result<Node, String> {
        self.position += 1;
        let mut entries = Vec::new();
        loop {
            self.blank();
            match self.peek() {
                Some('}') => {
                    self.position += 1;
                    return Ok(Node::Dict(entries));
                }
                Some('\'' | '"') => {}
                _ => return self.fail(),
            }
            let key = self.string()?;
            self.blank();
            if self.peek() != Some(':') {
                return self.fail();
            }
            self.position += 1;
            entries.push((key, self.node(depth + 1)?));
            self.blank();
            match self.peek() {
                Some(',') => self.position += 1,
                Some('}') => {}
                _ => return self.fail(),
            }
        }
    }
}

/// Inspects one array.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let head = check.read(0..check.size().min(HEAD_BYTES as u64))?;
    let header = match read_header(&head) {
        Ok(header) => header,
        Err(detail) => {
            check.find(&MALFORMED, Some(0), detail);
            return Ok(());
        }
    };
    check.fact("format_version", format!("{}.0", header.version));
    check.fact("tensor_count", 1);
    check.fact("dtypes", json!({header.dtype.as_str(): 1}));
    check.fact("shapes", json!([header.shape]));
    check.fact("parameter_count", header.shape.iter().product::<u64>());
    array(check, &header)
}

/// Inspects what follows the header of the array that `check` stands on.
fn array(check: &mut Check<'_>, header: &Header) -> Result<(), ReadError> {
    let size = check.size();
    if header.has_objects {
        return objects(check, check.source, header.data_offset);
    }
    if header.data_offset.checked_add(header.data_bytes) != Some(size) {
        check.find(
            &SIZE,
            Some(header.data_offset),
            format!(
                "{} bytes follow the header, but the shape needs {}",
                size - header.data_offset,
                header.data_bytes
            ),
        );
    }
    Ok(())
}

/// Inspects every array of an archive.
pub fn check_npz(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = npz(check, false);
    settle(check, outcome, &MALFORMED, &MALFORMED)?;
    Ok(())
}

/// Inspects an archive of arrays; `data_only` refuses objects whatever they are.
pub(crate) fn npz(check: &mut Check<'_>, data_only: bool) -> Result<(), Trouble> {
    let archive = match Archive::open(check.source) {
        Ok(archive) => archive,
        Err(error) => return Ok(error.report(check)?),
    };
    let mut arrays = Vec::new();
    let mut dtypes: BTreeMap<String, u64> = BTreeMap::new();
    let mut shapes = Map::new();
    let mut parameters = 0_u64;
    for entry in archive.entries() {
        let name = entry.name.strip_suffix(".npy");
        if let Some(name) = name {
            if arrays.len() < 1000 {
                arrays.push(json!(name));
            }
        } else {
            check.find(
                &MEMBER,
                Some(entry.header_offset),
                format!("the member {}", quote(&entry.name)),
            );
            continue;
        }
        let Some(header) = array_of(check, &archive, entry, data_only)? else {
            continue;
        };
        let elements: u64 = header.shape.iter().product();
        parameters = parameters.saturating_add(elements);
        if dtypes.len() < 64 || dtypes.contains_key(&header.dtype) {
            *dtypes.entry(header.dtype).or_default() += 1;
        }
        if shapes.len() < 50 {
            shapes.insert(name.unwrap_or_default().to_owned(), json!(header.shape));
        }
    }
    check.fact("tensor_count", archive.entries().len());
    check.fact("parameter_count", parameters);
    check.fact("dtypes", json!(dtypes));
    check.fact("shapes", Value::Object(shapes));
    check.fact("tensors", json!(arrays));
    Ok(())
}

/// Inspects one member that should be an array.
pub(crate) fn member(
    check: &mut Check<'_>,
    archive: &Archive<'_>,
    entry: &crate::zip::Entry,
    data_only: bool,
) -> Result<(), Trouble> {
    array_of(check, archive, entry, data_only)?;
    Ok(())
}

/// The same; answers what its header says, if it can be read.
fn array_of(
    check: &mut Check<'_>,
    archive: &Archive<'_>,
    entry: &crate::zip::Entry,
    data_only: bool,
) -> Result<Option<Header>, Trouble> {
    let head = match archive.read_prefix(entry, HEAD_BYTES) {
        Ok(head) => head,
        Err(error) => {
            error.report(check)?;
            return Ok(None);
        }
    };
    let header = match read_header(&head) {
        Ok(header) => header,
        Err(detail) => {
            check.find(
                &MALFORMED,
                Some(entry.data_offset),
                format!("member {}: {detail}", quote(&entry.name)),
            );
            return Ok(None);
        }
    };
    if header.has_objects {
        if data_only {
            return Err(Trouble::rule(
                &MEMBER,
                entry.data_offset,
                format!("member {} is an array of objects", quote(&entry.name)),
            ));
        }
        if let Some(part) = archive.stored(entry) {
            objects(check, &part, header.data_offset)?;
        } else {
            match archive.read(entry, MAX_MEMBER_BYTES) {
                Ok(bytes) => objects(check, &bytes, header.data_offset)?,
                Err(error) => error.report(check)?,
            }
        }
        return Ok(Some(header));
    }
    if header.data_offset.checked_add(header.data_bytes) != Some(entry.size) {
        check.find(
            &SIZE,
            Some(entry.data_offset),
            format!(
                "member {} has {} bytes, but its shape needs {} behind a header of {}",
                quote(&entry.name),
                entry.size,
                header.data_bytes,
                header.data_offset
            ),
        );
    } else if entry.size <= MAX_MEMBER_BYTES as u64
        && !entry.stored
        && let Err(error) = archive.read(entry, MAX_MEMBER_BYTES)
    {
        error.report(check)?;
    }
    Ok(Some(header))
}

/// Inspects the pickle that begins at `offset` of an array of objects.
fn objects(check: &mut Check<'_>, source: &dyn Source, offset: u64) -> Result<(), ReadError> {
    crate::pickle::check_at(check, source, offset)
}
