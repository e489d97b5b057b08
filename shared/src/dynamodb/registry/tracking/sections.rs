//! Sections: what is small rides in the item of its thing, what is large lies in items beside it.
//!
//! The items beside it have the sort key of the thing with a suffix, so that one Query reads things with all they have.
//! Each carries the `rev` of the change that wrote it, so that a reader knows parts of two changes from each other.

use crate::dynamodb::items::{Builder, Reader};
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::table::{Item, Write};
use crate::error::{Error, Result};
use std::collections::HashMap;

/// A section up to this size rides in the item itself.
const INLINE_BYTES: usize = 1_000;
/// Size of one part; an item may have 400 KB.
const PART_BYTES: usize = 300_000;

/// Most bytes of a section, all parts together. A transaction may have 4 MB, and a function may answer 6 MB: a run
/// with all its sections, whose packed metrics grow sixfold when they are shown, stays below both.
fn max_bytes(name: &str) -> usize {
    match name {
        "params" => 1_200_000,
        "io" => 1_500_000,
        "metrics" => 250_000,
        _ => 1_000_000,
    }
}

/// Texts are readable in the console, packed points are not.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    Text(String),
    Bytes(Vec<u8>),
}

impl Content {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    fn put(&self, builder: Builder, name: &str, from: usize, to: usize) -> Builder {
        match self {
            Self::Text(text) => builder.text(name, text.get(from..to).unwrap_or_default()),
            Self::Bytes(bytes) => {
                builder.bytes(name, bytes.get(from..to).unwrap_or_default().to_vec())
            }
        }
    }

    /// Where parts end, so that no character is cut.
    fn cuts(&self) -> Vec<(usize, usize)> {
        let whole = self.bytes().len();
        let mut cuts = Vec::new();
        let mut from = 0;
        while from < whole {
            let mut to = (from + PART_BYTES).min(whole);
            if let Self::Text(text) = self {
                while !text.is_char_boundary(to) {
                    to -= 1;
                }
            }
            cuts.push((from, to));
            from = to;
        }
        cuts
    }
}

/// A section as it shall be stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Section {
    pub(super) name: &'static str,
    /// Nothing where there is nothing to store.
    pub(super) content: Option<Content>,
}

impl Section {
    pub(super) fn json<T: serde::Serialize>(
        name: &'static str,
        value: &T,
        is_empty: bool,
    ) -> Result<Self> {
        let content = if is_empty {
            None
        } else {
            Some(Content::Text(super::super::json_of(value)?))
        };
        Ok(Self { name, content })
    }
}

/// Where a section lies apart: how many parts, written by which change.
fn place(item: &Item, name: &str) -> Option<(usize, u64)> {
    let (parts, rev) = Reader(item)
        .maybe_text(&format!("{name}_at"))?
        .split_once('@')?;
    Some((parts.parse().ok()?, rev.parse().ok()?))
}

/// Adds sections to the item of a thing, and the writes of those that lie apart.
///
/// `before` is the item as it was, with the sections that it had: an unchanged section is not written again.
pub(super) fn store(
    key: &Key,
    mut builder: Builder,
    rev: u64,
    sections: &[Section],
    before: Option<(&Item, &[Section])>,
) -> Result<(Builder, Vec<Write>)> {
    let mut writes = Vec::new();
    for section in sections {
        let name = section.name;
        let had = before.and_then(|(item, _)| place(item, name));
        let is_unchanged = before.is_some_and(|(_, sections)| sections.contains(section));
        let size = section
            .content
            .as_ref()
            .map_or(0, |content| content.bytes().len());
        if let (true, Some((parts, at))) = (is_unchanged, had) {
            builder = builder.text(&format!("{name}_at"), format!("{parts}@{at}"));
            continue;
        }
        let mut written = 0;
        match &section.content {
            None => {}
            Some(content) if size <= INLINE_BYTES => {
                builder = content.put(builder, name, 0, size);
            }
            Some(_) if size > max_bytes(name) => {
                let what = if name == "io" { "datasets" } else { name };
                return Err(Error::invalid(
                    what,
                    format!(
                        "the {what} take {size} bytes together, and may take {}; log less, or log files as artifacts",
                        max_bytes(name)
                    ),
                ));
            }
            Some(content) => {
                for (part, (from, to)) in content.cuts().into_iter().enumerate() {
                    let item = Builder::at(&keys::section(key, name, part)).number("rev", rev);
                    writes.push(Write::Put {
                        item: content.put(item, "part", from, to).build(),
                        condition: None,
                    });
                    written = part + 1;
                }
                builder = builder.text(&format!("{name}_at"), format!("{written}@{rev}"));
            }
        }
        for part in written..had.map_or(0, |(parts, _)| parts) {
            writes.push(Write::Delete {
                key: keys::section(key, name, part),
                condition: None,
            });
        }
    }
    Ok((builder, writes))
}

/// Keys of all parts that lie apart from an item.
pub(super) fn parts_of(key: &Key, item: &Item, names: &[&str]) -> Vec<Key> {
    names
        .iter()
        .flat_map(|name| {
            let (parts, _) = place(item, name).unwrap_or_default();
            (0..parts).map(move |part| keys::section(key, name, part))
        })
        .collect()
}

/// A section of an item; `None` outside if its parts are not all of the change that the item tells of.
pub(super) fn read(
    key: &Key,
    item: &Item,
    parts: &HashMap<String, Item>,
    name: &'static str,
) -> Result<Option<Section>> {
    let reader = Reader(item);
    let content = match place(item, name) {
        None => reader
            .maybe_text(name)
            .map(|text| Content::Text(text.to_owned()))
            .or_else(|| {
                reader
                    .maybe_bytes(name)
                    .map(|bytes| Content::Bytes(bytes.to_vec()))
            }),
        Some((count, rev)) => {
            let mut whole: Option<Content> = None;
            for part in 0..count {
                let Some(item) = parts.get(&keys::section(key, name, part).sk) else {
                    return Ok(None);
                };
                let reader = Reader(item);
                if reader.number("rev")? != rev {
                    return Ok(None);
                }
                whole = match (whole, reader.maybe_text("part"), reader.maybe_bytes("part")) {
                    (None, Some(text), _) => Some(Content::Text(text.to_owned())),
                    (None, None, Some(bytes)) => Some(Content::Bytes(bytes.to_vec())),
                    (Some(Content::Text(whole)), Some(text), _) => {
                        Some(Content::Text(whole + text))
                    }
                    (Some(Content::Bytes(whole)), None, Some(bytes)) => {
                        Some(Content::Bytes([whole.as_slice(), bytes].concat()))
                    }
                    _ => return Err(reader.broken("part")),
                };
            }
            whole
        }
    };
    Ok(Some(Section { name, content }))
}

impl Section {
    /// The value that was stored as JSON, or an empty one.
    pub(super) fn value<T: serde::de::DeserializeOwned + Default>(&self) -> Result<T> {
        match &self.content {
            None => Ok(T::default()),
            Some(Content::Text(text)) => serde_json::from_str(text).map_err(|error| {
                Error::internal(format!("reading the {} of a run", self.name), error)
            }),
            Some(Content::Bytes(_)) => Err(Error::internal(
                "reading a section",
                format!("`{}` is packed", self.name),
            )),
        }
    }
}
