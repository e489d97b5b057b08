//! HDF5: groups, datasets and attributes, as far as h5py and Keras write them.
//!
//! Specification: <https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html> (superblocks 0 to 3).
//! Only metadata are read.
//! Structures that h5py does not write are refused, since what cannot be followed cannot be judged; data that lie
//! outside of the file (external storage, external links, virtual datasets) are refused, since loading reads them
//! (CVE-2026-1669).

use crate::check::Check;
use crate::keras_config::{MAX_CONFIG_BYTES, check_config};
use crate::safetensors::{has_extension, shorten};
use crate::source::ReadError;
use crate::window::{Stop, Window, declare_rules, little, settle, zip_trailer};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};

declare_rules! {
    STRUCTURE = "hdf5.structure", Malformed,
        "Metadata that break the format, or lie outside of the file, make the native library read foreign memory.",
        "Write the file again with h5py or Keras.";
    TRUNCATED = "hdf5.end-of-file", Malformed,
        "The file ends elsewhere than its superblock says: it was cut off, or something was appended.",
        "Upload the whole file, unchanged.";
    USER_BLOCK = "hdf5.user-block", Unsafe,
        "Bytes before the superblock let the same file be something else for another reader.",
        "Write the file without a user block.";
    EXTERNAL = "hdf5.external-storage", Unsafe,
        "The bytes of the dataset lie in another file, so that loading reads files of the host (CVE-2026-1669).",
        "Store the data in the file itself.";
    LINK = "hdf5.external-link", Unsafe,
        "The link leads into another file, so that loading reads files of the host.",
        "Copy the linked object into the file.";
    VIRTUAL = "hdf5.virtual-dataset", Unsafe,
        "A virtual dataset maps other files, so that loading reads files of the host.",
        "Store the data in the file itself.";
    FILTER = "hdf5.unknown-filter", Unsafe,
        "A filter that is not built in makes the library look for native plugins.",
        "Use no compression, gzip or lzf.";
    UNKNOWN = "hdf5.unknown-structure", Malformed,
        "The structure is not one that h5py or Keras write, and cannot be followed.",
        "Write the file again with h5py and its default settings.";
    BOMB = "hdf5.oversized-dataset", Unsafe,
        "A dataset that claims far more data than the file can hold exhausts the memory of whoever loads it.",
        "Write the dataset with its real shape.";
    NAMED_KERAS = "hdf5.named-keras", Unsafe,
        "Keras loads an HDF5 file named `.keras` through the legacy reader, which ignores safe mode (CVE-2025-9905).",
        "Name the file `.h5`, or save it in the Keras v3 format.";
    POLYGLOT = "hdf5.zip-inside", Unsafe,
        "The file ends in a zip directory, so that zip readers load a different file from the same bytes.",
        "Remove the appended archive.";
}

const SIGNATURE: &[u8] = b"\x89HDF\r\n\x1a\n";
const UNDEFINED: u64 = u64::MAX;
/// Most objects of one file.
const MAX_OBJECTS: usize = 200_000;
/// Most pieces of metadata that are looked at.
const MAX_STEPS: u64 = 4_000_000;

/// Whether the content is an HDF5 file, also behind a user block.
pub fn detect(head: &[u8], _tail: &[u8], _path: &str, _size: u64) -> bool {
    signature_at(head).is_some()
}

fn signature_at(head: &[u8]) -> Option<usize> {
    std::iter::once(0)
        .chain((9..16).map(|power| 1usize << power))
        .find(|at| head.get(*at..at + 8) == Some(SIGNATURE))
}

/// Checks the metadata, and the Keras configurations in attributes.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = file(check);
    settle(check, outcome)
}

fn file(check: &mut Check<'_>) -> Result<(), Stop> {
    let size = check.size();
    let tail = check.read(size.saturating_sub(65_536 + 22)..size)?;
    if let Some(at) = zip_trailer(&tail, size) {
        check.find(
            &POLYGLOT,
            Some(size - tail.len() as u64 + at as u64),
            "a zip archive ends where the file ends",
        );
    }
    if has_extension(check.path, "keras") {
        check.find(
            &NAMED_KERAS,
            None,
            "the content is HDF5, the name ends in `.keras`",
        );
    }
    let head = check.read(0..size.min(64 * 1024))?;
    match signature_at(&head) {
        Some(0) => {}
        Some(at) => {
            return Err(Stop::at(
                &USER_BLOCK,
                0,
                format!("{at} bytes stand before the superblock"),
            ));
        }
        None => return Err(Stop::at(&STRUCTURE, 0, "there is no superblock")),
    }
    let mut walk = Walk {
        window: Window::new(check.source, 8 * 1024, 256),
        check,
        visited: HashSet::new(),
        open: Vec::new(),
        end: size,
        steps: 0,
        datasets: 0,
        parameters: 0,
        logical_bytes: 0,
        dtypes: BTreeMap::new(),
        shapes: Map::new(),
        external: Vec::new(),
    };
    let outcome = walk.file();
    walk.tell();
    outcome
}

struct Walk<'c, 'a> {
    check: &'c mut Check<'a>,
    window: Window<'a>,
    visited: HashSet<u64>,
    /// Objects that are still to be looked at, with their paths.
    open: Vec<(u64, String)>,
    end: u64,
    steps: u64,
    datasets: u64,
    parameters: u64,
    logical_bytes: u64,
    dtypes: BTreeMap<String, u64>,
    shapes: Map<String, Value>,
    external: Vec<String>,
}

/// What the messages of one object say.
#[derive(Default)]
struct Object {
    shape: Option<Vec<u64>>,
    datatype: Option<(String, u64, u8)>,
    layout: Option<Layout>,
    filtered: bool,
}

enum Layout {
    Compact(u64),
    Contiguous(u64, u64),
    Chunked(u64),
}

fn structure<T>(offset: u64, detail: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::at(&STRUCTURE, offset, detail))
}

/// A piece of metadata that is read front to back.
struct Piece {
    bytes: Bytes,
    at: usize,
    offset: u64,
}

impl Piece {
    fn number(&mut self, width: usize) -> Result<u64, Stop> {
        match self
            .at
            .checked_add(width)
            .and_then(|end| self.bytes.get(self.at..end))
        {
            Some(bytes) => {
                self.at += width;
                Ok(little(bytes))
            }
            None => structure(self.offset, "a structure ends too early"),
        }
    }

    fn take(&mut self, length: usize) -> Result<Bytes, Stop> {
        match self
            .at
            .checked_add(length)
            .filter(|end| *end <= self.bytes.len())
        {
            Some(end) => {
                let piece = self.bytes.slice(self.at..end);
                self.at = end;
                Ok(piece)
            }
            None => structure(self.offset, "a structure ends too early"),
        }
    }

    fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }
}

impl Walk<'_, '_> {
    fn tell(&mut self) {
        self.check.fact("tensor_count", self.datasets);
        self.check.fact("parameter_count", self.parameters);
        self.check.fact("dtypes", json!(self.dtypes));
        self.check
            .fact("shapes", Value::Object(std::mem::take(&mut self.shapes)));
        if !self.external.is_empty() {
            self.check.fact("external_references", json!(self.external));
        }
    }

    fn piece(&mut self, offset: u64, length: usize) -> Result<Piece, Stop> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return structure(offset, "the file has more metadata than any real one");
        }
        let within = offset
            .checked_add(length as u64)
            .is_some_and(|end| end <= self.end);
        match self.window.get(offset, length)? {
            Some(bytes) if within => Ok(Piece {
                bytes,
                at: 0,
                offset,
            }),
            _ => structure(
                offset,
                format!("{length} bytes at {offset} lie outside of the file"),
            ),
        }
    }

    fn file(&mut self) -> Result<(), Stop> {
        let size = self.window.size();
        let version = self.piece(8, 1)?.number(1)?;
        self.check.fact("format_version", version);
        let (base, end, root, driver);
        match version {
            0 | 1 => {
                let shift = if version == 1 { 4 } else { 0 };
                let mut sizes = self.piece(13, 2)?;
                if (sizes.number(1)?, sizes.number(1)?) != (8, 8) {
                    return Err(Stop::at(&UNKNOWN, 13, "offsets are not of eight bytes"));
                }
                let mut rest = self.piece(24 + shift, 32 + 40)?;
                base = rest.number(8)?;
                rest.number(8)?;
                end = rest.number(8)?;
                driver = rest.number(8)?;
                rest.number(8)?;
                root = rest.number(8)?;
            }
            2 | 3 => {
                let mut rest = self.piece(9, 39)?;
                if (rest.number(1)?, rest.number(1)?) != (8, 8) {
                    return Err(Stop::at(&UNKNOWN, 9, "offsets are not of eight bytes"));
                }
                rest.number(1)?;
                base = rest.number(8)?;
                let extension = rest.number(8)?;
                driver = UNDEFINED;
                end = rest.number(8)?;
                root = rest.number(8)?;
                if extension != UNDEFINED {
                    self.open.push((extension, "(superblock extension)".into()));
                }
            }
            _ => {
                return Err(Stop::at(
                    &UNKNOWN,
                    8,
                    format!("the superblock has version {version}"),
                ));
            }
        }
        if base != 0 {
            return Err(Stop::at(
                &USER_BLOCK,
                24,
                format!("addresses are counted from byte {base}"),
            ));
        }
        if driver != UNDEFINED {
            return Err(Stop::at(
                &UNKNOWN,
                48,
                "the file is spread over several by a driver",
            ));
        }
        if end != size {
            return Err(Stop::at(
                &TRUNCATED,
                end.min(size),
                format!("the file should have {end} bytes, it has {size}"),
            ));
        }
        self.open.push((root, String::new()));
        while let Some((address, path)) = self.open.pop() {
            if !self.visited.insert(address) {
                continue;
            }
            if self.visited.len() > MAX_OBJECTS {
                return structure(address, "the file has more objects than any real one");
            }
            self.object(address, &path)?;
        }
        // A real file holds what it claims; repetitive data compress a thousandfold at most.
        if self.logical_bytes / 1100 > size {
            return Err(Stop::whole(
                &BOMB,
                format!(
                    "the datasets claim {} bytes in a file of {size}",
                    self.logical_bytes
                ),
            ));
        }
        Ok(())
    }

    fn object(&mut self, address: u64, path: &str) -> Result<(), Stop> {
        let mut object = Object::default();
        let start = self.piece(
            address,
            16.min(usize::try_from(self.end.saturating_sub(address)).unwrap_or(16)),
        )?;
        // Each block of messages: where it lies, and whether it is of the second version with which extra bytes.
        let mut blocks = Vec::new();
        let second = start.bytes.starts_with(b"OHDR");
        let mut ordered = false;
        if second {
            let flags = u64::from(start.bytes.get(5).copied().unwrap_or(0));
            if start.bytes.get(4) != Some(&2) || flags & 0xc0 != 0 {
                return Err(Stop::at(
                    &UNKNOWN,
                    address,
                    "an object header has an unknown version or flag",
                ));
            }
            ordered = flags & 4 != 0;
            let mut skip = 6;
            skip += if flags & 0x20 == 0 { 0 } else { 16 };
            skip += if flags & 0x10 == 0 { 0 } else { 4 };
            let width = 1usize << (flags & 3);
            let size = self
                .piece(address.saturating_add(skip), width)?
                .number(width)?;
            blocks.push((address.saturating_add(skip + width as u64), size));
        } else {
            let mut header = start;
            if header.number(1)? != 1 {
                return structure(address, "there is no object header");
            }
            header.number(1)?;
            header.number(2)?;
            header.number(4)?;
            let size = header.number(4)?;
            blocks.push((address.saturating_add(16), size));
        }
        let mut messages = 0;
        let mut seen_blocks = HashSet::new();
        while let Some((offset, size)) = blocks.pop() {
            if size > 8 * 1024 * 1024 || !seen_blocks.insert(offset) || seen_blocks.len() > 10_000 {
                return structure(
                    offset,
                    "an object header is larger than any real one, or goes in circles",
                );
            }
            let mut block = self.piece(offset, usize::try_from(size).unwrap_or(usize::MAX))?;
            let header_bytes = if second {
                4 + if ordered { 2 } else { 0 }
            } else {
                8
            };
            while block.bytes.len() - block.at >= header_bytes {
                messages += 1;
                if messages > 200_000 {
                    return structure(offset, "an object has more messages than any real one");
                }
                let kind = block.number(if second { 1 } else { 2 })?;
                let length = usize::try_from(block.number(2)?).unwrap_or(0);
                let flags = block.number(1)?;
                block.take(header_bytes - 4 - usize::from(!second))?;
                let place = offset.saturating_add(block.at as u64);
                let body = Piece {
                    bytes: block.take(length)?,
                    at: 0,
                    offset: place,
                };
                if kind == 0x10 {
                    let mut body = body;
                    let (next, length) = (body.number(8)?, body.number(8)?);
                    if second {
                        // A signature before the messages, a checksum behind them.
                        if self.piece(next, 4)?.bytes.as_ref() != b"OCHK" || length < 8 {
                            return structure(next, "a continuation block has no signature");
                        }
                        blocks.push((next.saturating_add(4), length - 8));
                    } else {
                        blocks.push((next, length));
                    }
                    continue;
                }
                self.message(&mut object, kind, flags, body, path)?;
            }
        }
        self.dataset(&object, address, path)
    }

    fn message(
        &mut self,
        object: &mut Object,
        kind: u64,
        flags: u64,
        mut body: Piece,
        path: &str,
    ) -> Result<(), Stop> {
        let place = body.offset;
        let shared = flags & 2 != 0;
        if shared && kind != 0x03 {
            return Err(Stop::at(&UNKNOWN, place, "a message is shared"));
        }
        match kind {
            // Nothing; fill values; group information; comment; times; B-tree constants; reference count; free space.
            0x00 | 0x04 | 0x05 | 0x0a | 0x0d | 0x0e | 0x12 | 0x13 | 0x16 | 0x17 => {}
            0x01 => object.shape = Some(dataspace(&mut body)?),
            0x02 => self.link_info(&mut body, path)?,
            0x03 if shared => {}
            0x03 => object.datatype = Some(datatype(&mut body)?),
            0x06 => self.link(&mut body, path)?,
            0x07 => {
                self.external.push(shorten(path));
                return Err(Stop::at(
                    &EXTERNAL,
                    place,
                    format!("the dataset `{}`", shorten(path)),
                ));
            }
            0x08 => object.layout = Some(layout(&mut body, path)?),
            0x0b => {
                object.filtered = true;
                filters(&mut body)?;
            }
            0x0c => self.attribute(&mut body, path)?,
            0x11 => {
                let (tree, heap) = (body.number(8)?, body.number(8)?);
                self.group(tree, heap, path)?;
            }
            0x15 => {
                body.number(1)?;
                let flags = body.number(1)?;
                if flags & 1 != 0 {
                    body.number(2)?;
                }
                let (heap, index) = (body.number(8)?, body.number(8)?);
                if heap != UNDEFINED {
                    self.dense(heap, index, Dense::Attributes, path)?;
                }
            }
            _ => {
                return Err(Stop::at(
                    &UNKNOWN,
                    place,
                    format!("a message has the type {kind:#x}"),
                ));
            }
        }
        Ok(())
    }

    fn dataset(&mut self, object: &Object, address: u64, path: &str) -> Result<(), Stop> {
        let Some(layout) = &object.layout else {
            return Ok(());
        };
        let shape = object.shape.clone().unwrap_or_default();
        let elements = shape
            .iter()
            .try_fold(1u64, |product, dimension| product.checked_mul(*dimension));
        let element_bytes = object.datatype.as_ref().map(|(_, bytes, _)| *bytes);
        let Some((elements, bytes)) = elements.and_then(|elements| {
            Some((elements, elements.checked_mul(element_bytes.unwrap_or(1))?))
        }) else {
            return structure(
                address,
                format!("the dimensions of `{}` overflow", shorten(path)),
            );
        };
        self.logical_bytes = self.logical_bytes.saturating_add(bytes);
        match *layout {
            Layout::Compact(length) => {
                if element_bytes.is_some() && length != bytes {
                    return structure(
                        address,
                        format!(
                            "`{}` takes {bytes} bytes, but {length} are there",
                            shorten(path)
                        ),
                    );
                }
            }
            Layout::Contiguous(UNDEFINED, _) => {
                if bytes > 64 * 1024 * 1024 {
                    return Err(Stop::at(
                        &BOMB,
                        address,
                        format!("`{}` claims {bytes} bytes and has none", shorten(path)),
                    ));
                }
            }
            Layout::Contiguous(start, length) => {
                if start.checked_add(length).is_none_or(|end| end > self.end) {
                    return structure(
                        address,
                        format!("the data of `{}` lie outside of the file", shorten(path)),
                    );
                }
                if element_bytes.is_some() && length != bytes {
                    return structure(
                        address,
                        format!(
                            "`{}` takes {bytes} bytes, but {length} are there",
                            shorten(path)
                        ),
                    );
                }
            }
            Layout::Chunked(start) => {
                if start != UNDEFINED && start >= self.end {
                    return structure(
                        address,
                        format!("the chunks of `{}` lie outside of the file", shorten(path)),
                    );
                }
                if start == UNDEFINED && bytes > 64 * 1024 * 1024 {
                    return Err(Stop::at(
                        &BOMB,
                        address,
                        format!("`{}` claims {bytes} bytes and has none", shorten(path)),
                    ));
                }
                if !object.filtered && start != UNDEFINED && bytes > self.end.saturating_mul(16) {
                    return Err(Stop::at(
                        &BOMB,
                        address,
                        format!(
                            "`{}` claims {bytes} bytes without compression",
                            shorten(path)
                        ),
                    ));
                }
            }
        }
        self.datasets += 1;
        let kind = object
            .datatype
            .as_ref()
            .map_or("shared", |(name, ..)| name.as_str());
        if object
            .datatype
            .as_ref()
            .is_some_and(|(_, _, class)| *class <= 1)
        {
            self.parameters = self.parameters.saturating_add(elements);
        }
        if self.dtypes.len() < 64 || self.dtypes.contains_key(kind) {
            *self.dtypes.entry(kind.to_owned()).or_default() += 1;
        }
        if self.shapes.len() < 50 && path.len() <= 256 {
            self.shapes.insert(path.to_owned(), json!(shape));
        }
        Ok(())
    }

    fn child(&mut self, path: &str, name: &[u8], address: u64, place: u64) -> Result<(), Stop> {
        let Ok(name) = std::str::from_utf8(name) else {
            return structure(place, "a name is not UTF-8");
        };
        if self.open.len() > MAX_OBJECTS {
            return structure(place, "the file has more objects than any real one");
        }
        // Paths serve facts only, so that long ones may be cut.
        let mut full = if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}/{name}")
        };
        if full.len() > 512 {
            full = shorten(&full);
        }
        self.open.push((address, full));
        Ok(())
    }

    /// Follows the B-tree of a group to its symbol tables.
    fn group(&mut self, tree: u64, heap: u64, path: &str) -> Result<(), Stop> {
        let mut header = self.piece(heap, 32)?;
        if header.take(4)?.as_ref() != b"HEAP" {
            return structure(heap, "a group has no heap of names");
        }
        header.number(4)?;
        let heap_bytes = header.number(8)?;
        header.number(8)?;
        let names = header.number(8)?;
        if names
            .checked_add(heap_bytes)
            .is_none_or(|end| end > self.end)
        {
            return structure(heap, "the names of a group lie outside of the file");
        }
        let mut nodes = vec![tree];
        let mut seen = HashSet::new();
        while let Some(node) = nodes.pop() {
            if !seen.insert(node) || seen.len() > MAX_OBJECTS {
                return structure(node, "the tree of a group goes in circles");
            }
            let mut header = self.piece(node, 8)?;
            let signature = header.take(4)?;
            if signature.as_ref() == b"SNOD" {
                header.number(2)?;
                let count = usize::try_from(header.number(2)?).unwrap_or(0);
                let mut table = self.piece(node.saturating_add(8), count * 40)?;
                for _ in 0..count {
                    let name = table.number(8)?;
                    let address = table.number(8)?;
                    let cache = table.number(4)?;
                    table.take(20)?;
                    let text = self.heap_name(names, heap_bytes, name)?;
                    match cache {
                        0 | 1 => self.child(path, &text, address, node)?,
                        // A symbolic link within the file.
                        2 => {}
                        _ => {
                            return Err(Stop::at(
                                &UNKNOWN,
                                node,
                                format!("a symbol has the cache type {cache}"),
                            ));
                        }
                    }
                }
                continue;
            }
            if signature.as_ref() != b"TREE" || header.number(1)? != 0 {
                return structure(node, "a group has no tree");
            }
            header.number(1)?;
            let count = usize::try_from(header.number(2)?).unwrap_or(0);
            let mut entries = self.piece(node.saturating_add(24), count * 16 + 8)?;
            entries.number(8)?;
            for _ in 0..count {
                nodes.push(entries.number(8)?);
                entries.number(8)?;
            }
        }
        Ok(())
    }

    fn heap_name(&mut self, names: u64, heap_bytes: u64, at: u64) -> Result<Bytes, Stop> {
        if at >= heap_bytes {
            return structure(names, "a name lies outside of its heap");
        }
        let start = names.saturating_add(at);
        // Names are short; the longest that anybody uses fit a kilobyte.
        let length = usize::try_from((heap_bytes - at).min(4096)).unwrap_or(4096);
        let piece = self.piece(start, length)?;
        match piece.bytes.iter().position(|byte| *byte == 0) {
            Some(end) => Ok(piece.bytes.slice(..end)),
            None => structure(start, "a name does not end"),
        }
    }

    fn link_info(&mut self, body: &mut Piece, path: &str) -> Result<(), Stop> {
        body.number(1)?;
        let flags = body.number(1)?;
        if flags & 1 != 0 {
            body.number(8)?;
        }
        let (heap, index) = (body.number(8)?, body.number(8)?);
        if heap == UNDEFINED {
            return Ok(());
        }
        self.dense(heap, index, Dense::Links, path)
    }

    fn link(&mut self, body: &mut Piece, path: &str) -> Result<(), Stop> {
        let place = body.offset;
        let version = body.number(1)?;
        let flags = body.number(1)?;
        if version != 1 || flags & 0xe0 != 0 {
            return Err(Stop::at(
                &UNKNOWN,
                place,
                "a link has an unknown version or flag",
            ));
        }
        let kind = if flags & 8 == 0 { 0 } else { body.number(1)? };
        if flags & 4 != 0 {
            body.number(8)?;
        }
        if flags & 0x10 != 0 {
            body.number(1)?;
        }
        let length = usize::try_from(body.number(1 << (flags & 3))?).unwrap_or(usize::MAX);
        let name = body.take(length)?;
        match kind {
            0 => {
                let address = body.number(8)?;
                self.child(path, &name, address, place)
            }
            1 => Ok(()),
            64 => {
                let text = String::from_utf8_lossy(&name).into_owned();
                self.external.push(shorten(&text));
                Err(Stop::at(
                    &LINK,
                    place,
                    format!("the link `{}`", shorten(&text)),
                ))
            }
            _ => Err(Stop::at(
                &UNKNOWN,
                place,
                format!("a link has the type {kind}"),
            )),
        }
    }

    /// Reads the links or attributes that lie in a fractal heap, by walking its blocks through the index.
    fn dense(&mut self, heap: u64, index: u64, what: Dense, path: &str) -> Result<(), Stop> {
        let heap = Heap::read(self, heap)?;
        // Records of the name index: links keep hash and heap id, attributes heap id, flags, order and hash.
        let (kind, record_bytes, id) = match what {
            Dense::Links => (5, 11, 4..11),
            Dense::Attributes => (8, 17, 0..8),
        };
        for record in self.records(index, kind, record_bytes)? {
            let mut body = heap.object(self, record.get(id.clone()).unwrap_or_default())?;
            match what {
                Dense::Links => self.link(&mut body, path)?,
                Dense::Attributes => self.attribute(&mut body, path)?,
            }
        }
        Ok(())
    }

    /// All records of a B-tree of the second version.
    fn records(&mut self, index: u64, kind: u64, record_bytes: u64) -> Result<Vec<Bytes>, Stop> {
        let mut header = self.piece(index, 34)?;
        if header.take(4)?.as_ref() != b"BTHD" {
            return structure(index, "an index has no tree");
        }
        header.number(1)?;
        let found = (header.number(1)?, header.number(4)?, header.number(2)?);
        let node_bytes = found.1;
        let depth = header.number(2)?;
        header.number(2)?;
        let root = header.number(8)?;
        let root_records = header.number(2)?;
        if (found.0, found.2) != (kind, record_bytes)
            || !(64..=1 << 20).contains(&node_bytes)
            || depth > 4
        {
            return Err(Stop::at(&UNKNOWN, index, "an index is of an unknown kind"));
        }
        if root == UNDEFINED {
            return Ok(Vec::new());
        }
        // Widths of the counts within internal nodes follow from how many records fit below.
        let width = |count: u64| u64::from((64 - count.leading_zeros()).div_ceil(8).max(1));
        let leaf_capacity = (node_bytes - 10) / record_bytes;
        let count_width = width(leaf_capacity);
        // By level: the width of a child's total, which only nodes above the second level keep.
        let mut total_widths = vec![0, 0];
        let mut total_capacity = leaf_capacity;
        for level in 1..=depth {
            let total_width = if level > 1 { width(total_capacity) } else { 0 };
            if level > 1 {
                total_widths.push(total_width);
            }
            let pointer = 8 + count_width + total_width;
            let capacity = (node_bytes - 10).saturating_sub(pointer) / (record_bytes + pointer);
            total_capacity = capacity
                .saturating_add(1)
                .saturating_mul(total_capacity)
                .saturating_add(capacity);
        }
        let to_usize = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let mut nodes = vec![(root, root_records, depth)];
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        while let Some((node, records, level)) = nodes.pop() {
            if !seen.insert(node) || all.len() > MAX_OBJECTS {
                return structure(node, "an index goes in circles");
            }
            let mut piece = self.piece(node, to_usize(node_bytes))?;
            let signature = piece.take(4)?;
            if signature.as_ref() != (if level == 0 { b"BTLF" } else { b"BTIN" }) {
                return structure(node, "an index has a broken node");
            }
            piece.number(2)?;
            for _ in 0..records {
                all.push(Bytes::copy_from_slice(&piece.take(to_usize(record_bytes))?));
            }
            if level > 0 {
                let total = total_widths.get(to_usize(level)).copied().unwrap_or(0);
                for _ in 0..=records {
                    let child = piece.number(8)?;
                    let count = piece.number(to_usize(count_width))?;
                    piece.take(to_usize(total))?;
                    nodes.push((child, count, level - 1));
                }
            }
        }
        Ok(all)
    }

    fn attribute(&mut self, body: &mut Piece, path: &str) -> Result<(), Stop> {
        let place = body.offset;
        let version = body.number(1)?;
        let flags = body.number(1)?;
        let name_bytes = usize::try_from(body.number(2)?).unwrap_or(0);
        let type_bytes = usize::try_from(body.number(2)?).unwrap_or(0);
        let space_bytes = usize::try_from(body.number(2)?).unwrap_or(0);
        let pad = match version {
            1 => 8,
            2 | 3 => 1,
            _ => {
                return Err(Stop::at(
                    &UNKNOWN,
                    place,
                    format!("an attribute has version {version}"),
                ));
            }
        };
        if version == 3 {
            body.number(1)?;
        }
        let name = body.take(name_bytes.next_multiple_of(pad))?;
        let name = name
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default()
            .to_vec();
        let kind = body.take(type_bytes.next_multiple_of(pad))?;
        let space = body.take(space_bytes.next_multiple_of(pad))?;
        let name = String::from_utf8_lossy(&name).into_owned();
        let is_config = matches!(name.as_str(), "model_config" | "training_config");
        let is_told = matches!(name.as_str(), "keras_version" | "backend");
        if !is_config && !is_told {
            return Ok(());
        }
        if version > 1 && flags & 3 != 0 {
            return Err(Stop::at(
                &UNKNOWN,
                place,
                format!("the type of `{name}` lies elsewhere"),
            ));
        }
        let (_, size, class) = datatype(&mut Piece {
            bytes: kind,
            at: 0,
            offset: place,
        })?;
        let shape = dataspace(&mut Piece {
            bytes: space,
            at: 0,
            offset: place,
        })?;
        if shape.iter().any(|dimension| *dimension != 1) {
            return structure(place, format!("`{name}` is not one string"));
        }
        let text = match class {
            3 => body.take(usize::try_from(size).unwrap_or(usize::MAX))?,
            9 => {
                let length = body.number(4)?;
                let (collection, index) = (body.number(8)?, body.number(4)?);
                self.global(collection, index, length)?
            }
            _ => return structure(place, format!("`{name}` is not a string")),
        };
        // Strings of fixed length are padded.
        let end = text
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        let text = text.slice(..end);
        if is_config {
            check_config(self.check, &text, &name, Some(place));
            self.check.fact("flavor", "keras");
        } else if text.len() <= 100 && path.len() <= 64 {
            self.check
                .fact(&name, shorten(&String::from_utf8_lossy(&text)));
        }
        Ok(())
    }

    /// Reads an object of a global heap, where strings of variable length lie.
    fn global(&mut self, collection: u64, index: u64, length: u64) -> Result<Bytes, Stop> {
        let mut header = self.piece(collection, 16)?;
        if header.take(4)?.as_ref() != b"GCOL" {
            return structure(collection, "a string has no heap");
        }
        header.number(4)?;
        let size = header.number(8)?;
        let end = collection.saturating_add(size);
        let mut at = collection.saturating_add(16);
        for _ in 0..65_536 {
            if at.saturating_add(16) > end {
                break;
            }
            let mut object = self.piece(at, 16)?;
            let found = object.number(2)?;
            object.number(6)?;
            let bytes = object.number(8)?;
            if found == index {
                if length > bytes || length > MAX_CONFIG_BYTES as u64 {
                    return structure(
                        at,
                        "a string is longer than its place, or than any real one",
                    );
                }
                return Ok(self
                    .piece(at.saturating_add(16), usize::try_from(length).unwrap_or(0))?
                    .bytes);
            }
            if found == 0 {
                break;
            }
            at = match bytes
                .checked_next_multiple_of(8)
                .and_then(|bytes| at.checked_add(16)?.checked_add(bytes))
            {
                Some(next) => next,
                None => break,
            };
        }
        structure(collection, "a string is not in its heap")
    }
}

/// What a fractal heap holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dense {
    Links,
    Attributes,
}

/// A fractal heap, as far as managed objects need it.
struct Heap {
    place: u64,
    id_bytes: u64,
    offset_bytes: usize,
    length_bytes: usize,
    table_width: u64,
    start_block: u64,
    max_direct: u64,
    root: u64,
    root_rows: u64,
    direct_header: u64,
    managed: u64,
    huge: u64,
}

impl Heap {
    fn read(walk: &mut Walk<'_, '_>, place: u64) -> Result<Self, Stop> {
        let mut header = walk.piece(place, 142)?;
        if header.take(4)?.as_ref() != b"FRHP" {
            return structure(place, "there is no fractal heap");
        }
        header.number(1)?;
        let id_bytes = header.number(2)?;
        let filter_bytes = header.number(2)?;
        let flags = header.number(1)?;
        let max_object = header.number(4)?;
        header.number(8)?;
        let huge = header.number(8)?;
        header.take(8 * 2)?;
        let managed = header.number(8)?;
        header.take(8 * 7)?;
        let table_width = header.number(2)?;
        let start_block = header.number(8)?;
        let max_direct = header.number(8)?;
        let max_bits = header.number(2)?;
        header.number(2)?;
        let root = header.number(8)?;
        let root_rows = header.number(2)?;
        let sane = filter_bytes == 0
            && table_width.is_power_of_two()
            && start_block.is_power_of_two()
            && max_direct.is_power_of_two()
            && start_block <= max_direct
            && (512..=1 << 24).contains(&max_direct)
            && table_width <= 1024
            && (8..=64).contains(&max_bits);
        if !sane {
            return Err(Stop::at(
                &UNKNOWN,
                place,
                "a fractal heap has unusual dimensions",
            ));
        }
        let offset_bytes = usize::try_from(max_bits.div_ceil(8)).unwrap_or(8);
        let bits = 64 - max_direct.min(max_object.max(1)).leading_zeros();
        let length_bytes = usize::try_from(bits.div_ceil(8)).unwrap_or(8);
        let checksum = if flags & 2 == 0 { 0 } else { 4 };
        Ok(Self {
            place,
            id_bytes,
            offset_bytes,
            length_bytes,
            table_width,
            start_block,
            max_direct,
            root,
            root_rows,
            direct_header: 13 + offset_bytes as u64 + checksum,
            managed,
            huge,
        })
    }

    /// The bytes of the managed object that `id` names.
    fn object(&self, walk: &mut Walk<'_, '_>, id: &[u8]) -> Result<Piece, Stop> {
        // An object too large for a block lies by itself, and is found by its number.
        if id.first().is_some_and(|flags| flags & 0xf0 == 0x10) && self.huge != UNDEFINED {
            let number = little(id.get(1..).unwrap_or_default());
            for record in walk.records(self.huge, 1, 24)? {
                let mut record = Piece {
                    bytes: record,
                    at: 0,
                    offset: self.huge,
                };
                let (place, length, found) =
                    (record.number(8)?, record.number(8)?, record.number(8)?);
                if found == number {
                    return walk.piece(place, usize::try_from(length).unwrap_or(usize::MAX));
                }
            }
            return structure(self.place, "a large object is not in its heap");
        }
        if (id.len() as u64) < self.id_bytes.min(7)
            || id.first().is_none_or(|flags| flags & 0xf0 != 0)
        {
            return Err(Stop::at(
                &UNKNOWN,
                self.place,
                "an object lies outside of the blocks of its heap",
            ));
        }
        let mut piece = Piece {
            bytes: Bytes::copy_from_slice(id),
            at: 1,
            offset: self.place,
        };
        let mut offset = piece.number(self.offset_bytes)?;
        let length = piece.number(self.length_bytes)?;
        if offset >= self.managed || length > self.max_direct {
            return structure(self.place, "an object lies outside of its heap");
        }
        let (mut block, mut rows) = (self.root, self.root_rows);
        for _ in 0..32 {
            if rows == 0 {
                let start = block.saturating_add(offset);
                if offset < self.direct_header {
                    return structure(block, "an object overlaps the header of its block");
                }
                return walk.piece(start, usize::try_from(length).unwrap_or(usize::MAX));
            }
            // Rows double in block size after the second.
            let direct_rows =
                u64::from(self.max_direct.trailing_zeros() - self.start_block.trailing_zeros()) + 2;
            let (mut row, mut row_start) = (0u64, 0u64);
            let block_bytes = loop {
                let bytes = self
                    .start_block
                    .checked_shl(u32::try_from(row.saturating_sub(1)).unwrap_or(64))
                    .unwrap_or(0);
                let span = bytes.checked_mul(self.table_width).unwrap_or(0);
                if row >= rows || span == 0 {
                    return structure(block, "an object lies outside of its heap");
                }
                if offset - row_start < span {
                    break bytes;
                }
                row_start = row_start.saturating_add(span);
                row += 1;
            };
            let column = (offset - row_start) / block_bytes;
            let entry = row * self.table_width + column;
            let header = 13 + self.offset_bytes as u64;
            if walk.piece(block, 4)?.bytes.as_ref() != b"FHIB" {
                return structure(block, "a heap has a broken block");
            }
            let child = walk
                .piece(block.saturating_add(header + entry * 8), 8)?
                .number(8)?;
            offset = (offset - row_start) % block_bytes;
            rows = if row < direct_rows {
                0
            } else {
                let first = self.start_block.saturating_mul(self.table_width);
                u64::from((block_bytes / first.max(1)).max(1).trailing_zeros()) + 1
            };
            block = child;
        }
        structure(self.place, "a heap is nested too deeply")
    }
}

/// Reads a dataspace: its dimensions.
fn dataspace(body: &mut Piece) -> Result<Vec<u64>, Stop> {
    let place = body.offset;
    let version = body.number(1)?;
    let rank = body.number(1)?;
    body.number(1)?;
    let kind = match version {
        1 => {
            body.number(5)?;
            1
        }
        2 => body.number(1)?,
        _ => return structure(place, format!("a dataspace has version {version}")),
    };
    if rank > 32 || kind > 2 {
        return structure(place, format!("a dataspace has {rank} dimensions"));
    }
    if kind == 2 {
        return Ok(vec![0]);
    }
    (0..rank).map(|_| body.number(8)).collect()
}

/// Reads a datatype: its name for facts, the bytes of one element, and its class.
fn datatype(body: &mut Piece) -> Result<(String, u64, u8), Stop> {
    let place = body.offset;
    let head = body.number(1)?;
    let bits = body.number(3)?;
    let size = body.number(4)?;
    let class = (head & 0x0f) as u8;
    let version = head >> 4;
    if class > 10 && class != 11 || !(1..=5).contains(&version) || size == 0 {
        return structure(
            place,
            format!("a datatype has class {class} and version {version}"),
        );
    }
    let name = match class {
        0 => format!(
            "{}int{}",
            if bits & 8 == 0 { "u" } else { "" },
            size.saturating_mul(8)
        ),
        1 => format!("float{}", size.saturating_mul(8)),
        3 => "string".to_owned(),
        4 => "bitfield".to_owned(),
        5 => "opaque".to_owned(),
        6 => "compound".to_owned(),
        7 => "reference".to_owned(),
        8 => "enumeration".to_owned(),
        9 => "variable-length".to_owned(),
        10 => "array".to_owned(),
        _ => "other".to_owned(),
    };
    Ok((name, size, class))
}

fn layout(body: &mut Piece, path: &str) -> Result<Layout, Stop> {
    let place = body.offset;
    let version = body.number(1)?;
    match version {
        1 | 2 => {
            let rank = body.number(1)?;
            let class = body.number(1)?;
            body.number(5)?;
            match class {
                // The size follows from shape and type.
                1 | 2 => {
                    let address = body.number(8)?;
                    let mut size = 1u64;
                    for _ in 0..rank {
                        size = size.saturating_mul(body.number(4)?);
                    }
                    Ok(if class == 1 {
                        Layout::Contiguous(address, size)
                    } else {
                        Layout::Chunked(address)
                    })
                }
                _ => Err(Stop::at(&UNKNOWN, place, "a dataset has an unknown layout")),
            }
        }
        3..=5 => match body.number(1)? {
            0 => Ok(Layout::Compact(body.number(2)?)),
            1 => Ok(Layout::Contiguous(body.number(8)?, body.number(8)?)),
            2 if version == 3 => {
                body.number(1)?;
                Ok(Layout::Chunked(body.number(8)?))
            }
            2 => {
                // The address of the index stands last, whatever its kind.
                let rest = body.take(body.bytes.len() - body.at)?;
                let flags = rest.first().copied().unwrap_or(0);
                let rank = usize::from(rest.get(1).copied().unwrap_or(0));
                let width = usize::from(rest.get(2).copied().unwrap_or(0));
                let index = 3 + rank * width;
                let skip = match rest.get(index) {
                    Some(1) if flags & 2 != 0 => 12,
                    Some(1 | 2) => 0,
                    Some(3) => 1,
                    Some(4) => 5,
                    Some(5) => 6,
                    _ => {
                        return Err(Stop::at(
                            &UNKNOWN,
                            place,
                            "a dataset has an unknown index of chunks",
                        ));
                    }
                };
                match rest.get(index + 1 + skip..index + 9 + skip) {
                    Some(address) => Ok(Layout::Chunked(little(address))),
                    None => structure(place, "a layout ends too early"),
                }
            }
            3 => Err(Stop::at(
                &VIRTUAL,
                place,
                format!("the dataset `{}`", shorten(path)),
            )),
            class => Err(Stop::at(
                &UNKNOWN,
                place,
                format!("a dataset has the layout {class}"),
            )),
        },
        _ => Err(Stop::at(
            &UNKNOWN,
            place,
            format!("a layout has version {version}"),
        )),
    }
}

fn filters(body: &mut Piece) -> Result<(), Stop> {
    let place = body.offset;
    let version = body.number(1)?;
    let count = body.number(1)?;
    if version == 1 {
        body.number(6)?;
    } else if version != 2 {
        return Err(Stop::at(
            &UNKNOWN,
            place,
            format!("filters have version {version}"),
        ));
    }
    if count > 32 {
        return structure(place, "a dataset has more filters than the format allows");
    }
    for _ in 0..count {
        let id = body.number(2)?;
        let name = if version == 1 || id >= 256 {
            body.number(2)?
        } else {
            0
        };
        body.number(2)?;
        let values = usize::try_from(body.number(2)?).unwrap_or(0);
        let name = usize::try_from(name).unwrap_or(0);
        body.take(if version == 1 {
            name.next_multiple_of(8)
        } else {
            name
        })?;
        body.take(values * 4)?;
        if version == 1 && values % 2 == 1 && !body.is_empty() {
            body.number(4)?;
        }
        // deflate, shuffle, fletcher32, szip, nbit, scale-offset, and the lzf of h5py.
        if !matches!(id, 1..=6 | 32000) {
            return Err(Stop::at(&FILTER, place, format!("the filter {id}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;
    use crate::test_support::run;

    /// A file with one object that has these messages, and `data` behind it.
    fn file(messages: &[(u8, Vec<u8>)], data: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, message) in messages {
            body.push(*kind);
            body.extend(u16::try_from(message.len()).unwrap().to_le_bytes());
            body.push(0);
            body.extend(message);
        }
        let mut root = b"OHDR\x02\x01".to_vec();
        root.extend(u16::try_from(body.len()).unwrap().to_le_bytes());
        root.extend(body);
        root.extend([0; 4]);
        root.extend(data);
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([2, 8, 8, 0]);
        for number in [0, UNDEFINED, 48 + root.len() as u64, 48] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend([0; 4]);
        bytes.extend(root);
        bytes
    }

    fn dataspace_of(dimensions: &[u64]) -> (u8, Vec<u8>) {
        let mut message = vec![2, u8::try_from(dimensions.len()).unwrap(), 0, 1];
        message.extend(
            dimensions
                .iter()
                .flat_map(|dimension| dimension.to_le_bytes()),
        );
        (1, message)
    }

    fn float32() -> (u8, Vec<u8>) {
        (3, [&[0x11, 0, 0, 0, 4, 0, 0, 0][..], &[0; 12]].concat())
    }

    fn contiguous(address: u64, size: u64) -> (u8, Vec<u8>) {
        (
            8,
            [&[3, 1][..], &address.to_le_bytes(), &size.to_le_bytes()].concat(),
        )
    }

    fn config(json: &str) -> (u8, Vec<u8>) {
        let kind = [
            &[0x13, 0, 0, 0][..],
            &u32::try_from(json.len()).unwrap().to_le_bytes(),
        ]
        .concat();
        let mut message = vec![3, 0, 13, 0, 8, 0, 4, 0, 0];
        message.extend(b"model_config\0");
        message.extend(kind);
        message.extend([2, 0, 0, 0]);
        message.extend(json.as_bytes());
        (12, message)
    }

    fn rules(bytes: Vec<u8>) -> Vec<String> {
        run(check, "weights.h5", bytes).1
    }

    #[test]
    fn an_honest_dataset_is_clean_and_counted() {
        let object = [dataspace_of(&[2, 3]), float32(), contiguous(48, 24)];
        let (verdict, rules, facts) = run(check, "weights.h5", file(&object, &[0; 24]));
        assert_eq!((verdict, rules), (Verdict::Clean, vec![]));
        assert_eq!(
            (&facts["parameter_count"], &facts["tensor_count"]),
            (&json!(6), &json!(1))
        );
    }

    #[test]
    fn each_departure_is_refused() {
        let external = [&[1, 8, 64, 1][..], b"f", &[0; 4]].concat();
        let filter = [&[2, 1][..], &32015u16.to_le_bytes(), &[0; 6]].concat();
        let one = |message: (u8, Vec<u8>)| file(&[message], &[]);
        let mut long = file(&[], &[]);
        long.push(0);
        for (bytes, rule) in [
            (one((7, vec![0; 16])), "hdf5.external-storage"),
            (one((6, external)), "hdf5.external-link"),
            (one((8, vec![4, 3])), "hdf5.virtual-dataset"),
            (one((11, filter)), "hdf5.unknown-filter"),
            (one((15, vec![0; 16])), "hdf5.unknown-structure"),
            (
                one((
                    16,
                    [48u64, 48]
                        .iter()
                        .flat_map(|number| number.to_le_bytes())
                        .collect(),
                )),
                "hdf5.structure",
            ),
            (
                file(&[dataspace_of(&[2]), float32(), contiguous(48, 4)], &[]),
                "hdf5.structure",
            ),
            (
                file(
                    &[dataspace_of(&[2]), float32(), contiguous(u64::MAX - 1, 8)],
                    &[],
                ),
                "hdf5.structure",
            ),
            (
                file(
                    &[dataspace_of(&[u64::MAX, 2]), float32(), contiguous(48, 8)],
                    &[],
                ),
                "hdf5.structure",
            ),
            (
                file(
                    &[
                        dataspace_of(&[1 << 40]),
                        float32(),
                        contiguous(UNDEFINED, 0),
                    ],
                    &[],
                ),
                "hdf5.oversized-dataset",
            ),
            (one(config(r#"{"class_name":"Lambda"}"#)), "keras.lambda"),
            ([vec![0; 512], file(&[], &[])].concat(), "hdf5.user-block"),
            (long, "hdf5.end-of-file"),
        ] {
            assert_eq!(rules(bytes), [rule]);
        }
        assert_eq!(
            run(check, "model.keras", file(&[], &[])).1,
            ["hdf5.named-keras"]
        );
    }
}
