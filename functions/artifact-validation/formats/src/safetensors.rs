//! safetensors: a length, a JSON header, and tensors that tile the rest of the file.
//!
//! Specification: <https://github.com/huggingface/safetensors#format> and `safetensors/src/tensor.rs` there.
//! The reader here is stricter than the library, which accepts unknown fields and duplicate keys, because another
//! reader may give these a meaning.
//! The header is parsed as a stream, so that memory depends on the number of tensors only, which is bounded.

use crate::check::Check;
use crate::source::{ReadError, Source};
use crate::window::{Stop, declare_rules, little, settle, zip_trailer};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;

/// Longest header that the library itself accepts.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Most tensors; the largest published models have some ten thousand per file.
const MAX_TENSORS: usize = 200_000;
/// Longest single string within the header.
const MAX_STRING_BYTES: usize = 4 * 1024 * 1024;
/// How many shapes are told as a fact.
const MAX_SHAPES: usize = 50;

declare_rules! {
    HEADER_LENGTH = "safetensors.header-length", Malformed,
        "A header that is longer than the file or than any real header makes loaders allocate or read outside of it.",
        "Write the file again with the safetensors library.";
    HEADER = "safetensors.header", Malformed,
        "A header that is not exactly the documented JSON object is read differently by different loaders.",
        "Write the file again with the safetensors library.";
    DUPLICATE = "safetensors.duplicate-key", Malformed,
        "Of two equal keys one loader takes the first and another the last, so what was checked is not what is loaded.",
        "Give every tensor its own name.";
    UNKNOWN_FIELD = "safetensors.unknown-field", Malformed,
        "A field that the format does not know may mean something to another reader.",
        "Write the file again with the safetensors library; put own data under `__metadata__`.";
    DTYPE = "safetensors.dtype", Malformed,
        "The size of a tensor of unknown element type cannot be checked.",
        "Use an element type of the safetensors specification.";
    SIZE = "safetensors.tensor-size", Malformed,
        "A tensor whose shape does not fill its bytes exactly makes a loader read foreign memory.",
        "Write the file again with the safetensors library.";
    TILING = "safetensors.tiling", Malformed,
        "Tensors that overlap, or leave bytes that belong to none, can hide other content in the file.",
        "Write the file again with the safetensors library.";
    POLYGLOT = "safetensors.zip-inside", Unsafe,
        "The file ends in a zip directory, so that zip readers, which torch and Keras use, load a different file.",
        "Remove the appended archive, or store the bytes elsewhere.";
}

/// Whether the content is a safetensors file, or is named one and is nothing else.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, _size: u64) -> bool {
    if head.len() < 8 {
        return false;
    }
    let length = little(&head[..8]);
    if head.get(8) == Some(&b'{') && (2..=MAX_HEADER_BYTES).contains(&length) {
        return head
            .get(9)
            .is_none_or(|byte| matches!(byte, b'"' | b'}' | b' ' | b'\n' | b'\r' | b'\t'));
    }
    let magics: [&[u8]; 10] = [
        b"PK\x03\x04",
        b"GGUF",
        b"\x89HDF",
        b"\x93NUMPY",
        b"\x80\x02",
        b"\x80\x03",
        b"\x80\x04",
        b"\x80\x05",
        b"\x1f\x8b",
        b"BZh",
    ];
    has_extension(path, "safetensors") && !magics.iter().any(|magic| head.starts_with(magic))
}

/// Whether `path` ends in `.extension`, in any case of letters.
pub(crate) fn has_extension(path: &str, extension: &str) -> bool {
    path.rsplit_once('.')
        .is_some_and(|(_, last)| last.eq_ignore_ascii_case(extension))
}

/// Checks the header, and that tensors tile the rest of the file.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = header(check);
    settle(check, outcome)
}

fn header(check: &mut Check<'_>) -> Result<(), Stop> {
    let size = check.size();
    let tail = check.read(size.saturating_sub(65_536 + 22)..size)?;
    if let Some(at) = zip_trailer(&tail, size) {
        let offset = size - tail.len() as u64 + at as u64;
        check.find(
            &POLYGLOT,
            Some(offset),
            "a zip archive ends where the file ends",
        );
    }
    if size < 10 {
        return Err(Stop::at(
            &HEADER_LENGTH,
            0,
            format!("the file has only {size} bytes"),
        ));
    }
    let length = little(&check.read(0..8)?);
    let Some(data_start) = length.checked_add(8).filter(|end| *end <= size) else {
        return Err(Stop::at(
            &HEADER_LENGTH,
            0,
            format!("the header is said to have {length} bytes in a file of {size}"),
        ));
    };
    if !(2..=MAX_HEADER_BYTES).contains(&length) {
        return Err(Stop::at(
            &HEADER_LENGTH,
            0,
            format!("the header has {length} bytes"),
        ));
    }
    let mut stream = HeaderStream::new(check.source, 8..data_start);
    if stream.peek()? != Some(b'{') {
        return Err(Stop::at(&HEADER, 8, "the header does not begin with `{`"));
    }
    let mut header = Header::default();
    let parsed = {
        let mut deserializer = serde_json::Deserializer::from_reader(&mut stream);
        HeaderSeed(&mut header)
            .deserialize(&mut deserializer)
            .and_then(|()| deserializer.end())
    };
    if let Some(error) = stream.failure.take() {
        return Err(Stop::Read(error));
    }
    if let Err(error) = parsed {
        let rule = header.rule.unwrap_or(&HEADER);
        return Err(Stop::at(rule, 8, format!("the header is refused: {error}")));
    }
    check.fact("tensor_count", header.extents.len());
    check.fact("parameter_count", header.parameters);
    check.fact("dtypes", json!(header.dtypes));
    check.fact("shapes", json!(header.shapes));
    if !header.metadata.is_empty() {
        check.fact("metadata", json!(header.metadata));
    }
    for key in ["license", "licence"] {
        if let Some(licence) = header.metadata.get(key) {
            check.fact("licence", licence.clone());
        }
    }
    header.extents.sort_unstable();
    let mut expected = 0;
    for (start, end) in &header.extents {
        if *start != expected {
            let what = if *start > expected {
                "leave a hole"
            } else {
                "overlap"
            };
            return Err(Stop::at(
                &TILING,
                data_start.saturating_add(expected),
                format!("tensors {what} between bytes {expected} and {start} of the data"),
            ));
        }
        expected = *end;
    }
    let data = size - data_start;
    if expected != data {
        return Err(Stop::at(
            &TILING,
            data_start.saturating_add(expected.min(data)),
            format!("the tensors fill {expected} bytes, but {data} follow the header"),
        ));
    }
    Ok(())
}

#[derive(Default)]
struct Header {
    extents: Vec<(u64, u64)>,
    parameters: u64,
    dtypes: BTreeMap<&'static str, u64>,
    shapes: BTreeMap<String, Vec<u64>>,
    metadata: BTreeMap<String, String>,
    /// The rule that a refusal belongs to, if it is more than broken JSON.
    rule: Option<&'static crate::rules::Rule>,
}

/// Feeds the header to the JSON parser in blocks, and bounds the length of one string.
struct HeaderStream<'a> {
    source: &'a dyn Source,
    range: std::ops::Range<u64>,
    block: bytes::Bytes,
    in_string: bool,
    escaped: bool,
    string_bytes: usize,
    failure: Option<ReadError>,
}

impl<'a> HeaderStream<'a> {
    const BLOCK_BYTES: u64 = 512 * 1024;

    fn new(source: &'a dyn Source, range: std::ops::Range<u64>) -> Self {
        Self {
            source,
            range,
            block: bytes::Bytes::new(),
            in_string: false,
            escaped: false,
            string_bytes: 0,
            failure: None,
        }
    }

    fn peek(&mut self) -> Result<Option<u8>, ReadError> {
        if self.block.is_empty() && !self.range.is_empty() {
            let end = self
                .range
                .start
                .saturating_add(Self::BLOCK_BYTES)
                .min(self.range.end);
            self.block = self.source.read(self.range.start..end)?;
            self.range.start = end;
        }
        Ok(self.block.first().copied())
    }
}

impl io::Read for HeaderStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Err(error) = self.peek() {
            self.failure = Some(error);
            return Err(io::Error::other("reading failed"));
        }
        let count = buffer.len().min(self.block.len());
        let bytes = self.block.split_to(count);
        for byte in &bytes {
            if !self.in_string {
                self.in_string = *byte == b'"';
                self.string_bytes = 0;
            } else if self.escaped {
                self.escaped = false;
            } else if *byte == b'\\' {
                self.escaped = true;
            } else if *byte == b'"' {
                self.in_string = false;
            }
            self.string_bytes += 1;
            if self.in_string && self.string_bytes > MAX_STRING_BYTES {
                return Err(io::Error::other("a string is too long"));
            }
        }
        buffer[..count].copy_from_slice(&bytes);
        Ok(count)
    }
}

struct HeaderSeed<'h>(&'h mut Header);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let header = self.0;
        let mut names = HashSet::new();
        while let Some(name) = access.next_key::<String>()? {
            if !names.insert(name_digest(&name)) {
                header.rule = Some(&DUPLICATE);
                return Err(A::Error::custom(format!(
                    "duplicate key `{}`",
                    shorten(&name)
                )));
            }
            if name == "__metadata__" {
                access.next_value_seed(MetadataSeed(header))?;
                continue;
            }
            if header.extents.len() >= MAX_TENSORS {
                return Err(A::Error::custom("more tensors than any real file has"));
            }
            let tensor = access.next_value_seed(TensorSeed(header))?;
            let (dtype, bits) = dtype_bits(&tensor.dtype).ok_or_else(|| {
                header.rule = Some(&DTYPE);
                A::Error::custom(format!("unknown dtype `{}`", shorten(&tensor.dtype)))
            })?;
            let elements = tensor
                .shape
                .iter()
                .try_fold(1u64, |product, dimension| product.checked_mul(*dimension));
            let bytes = elements
                .and_then(|count| count.checked_mul(bits))
                .filter(|bits| bits % 8 == 0)
                .map(|bits| bits / 8);
            let (start, end) = tensor.offsets;
            if bytes.is_none() || end.checked_sub(start) != bytes {
                header.rule = Some(&SIZE);
                return Err(A::Error::custom(format!(
                    "tensor `{}` of {dtype} {:?} cannot fill bytes {start}..{end}",
                    shorten(&name),
                    tensor.shape
                )));
            }
            header.extents.push((start, end));
            header.parameters = header.parameters.saturating_add(elements.unwrap_or(0));
            *header.dtypes.entry(dtype).or_default() += 1;
            if header.shapes.len() < MAX_SHAPES && name.len() <= 256 {
                header.shapes.insert(name, tensor.shape);
            }
        }
        Ok(())
    }
}

struct MetadataSeed<'h>(&'h mut Header);

impl<'de> DeserializeSeed<'de> for MetadataSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some((name, value)) = access.next_entry::<String, String>()? {
            if names.len() > 100_000 {
                return Err(A::Error::custom("too much metadata"));
            }
            if !names.insert(name_digest(&name)) {
                self.0.rule = Some(&DUPLICATE);
                return Err(A::Error::custom("duplicate key in `__metadata__`"));
            }
            if self.0.metadata.len() < 50 && name.len() <= 256 && value.len() <= 1024 {
                self.0.metadata.insert(name, value);
            }
        }
        Ok(())
    }
}

struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    offsets: (u64, u64),
}

struct TensorSeed<'h>(&'h mut Header);

impl<'de> DeserializeSeed<'de> for TensorSeed<'_> {
    type Value = Tensor;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tensor, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TensorSeed<'_> {
    type Value = Tensor;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tensor, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = access.next_key::<String>()? {
            let again = match key.as_str() {
                "dtype" => dtype.replace(access.next_value::<String>()?).is_some(),
                "shape" => shape.replace(access.next_value_seed(ShapeSeed)?).is_some(),
                "data_offsets" => offsets
                    .replace(access.next_value::<(u64, u64)>()?)
                    .is_some(),
                _ => {
                    access.next_value::<IgnoredAny>()?;
                    self.0.rule = Some(&UNKNOWN_FIELD);
                    return Err(A::Error::custom(format!(
                        "unknown field `{}`",
                        shorten(&key)
                    )));
                }
            };
            if again {
                self.0.rule = Some(&DUPLICATE);
                return Err(A::Error::custom(format!("duplicate field `{key}`")));
            }
        }
        match (dtype, shape, offsets) {
            (Some(dtype), Some(shape), Some(offsets)) => Ok(Tensor {
                dtype,
                shape,
                offsets,
            }),
            _ => Err(A::Error::custom(
                "a tensor lacks dtype, shape or data_offsets",
            )),
        }
    }
}

/// Reads a shape of bounded rank.
struct ShapeSeed;

impl<'de> DeserializeSeed<'de> for ShapeSeed {
    type Value = Vec<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u64>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ShapeSeed {
    type Value = Vec<u64>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a shape")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Vec<u64>, A::Error> {
        let mut shape = Vec::new();
        while let Some(dimension) = access.next_element::<u64>()? {
            if shape.len() >= 64 {
                return Err(A::Error::custom("more dimensions than any tensor has"));
            }
            shape.push(dimension);
        }
        Ok(shape)
    }
}

/// A short stand-in for a name, so that memory does not depend on the length of names.
fn name_digest(name: &str) -> [u8; 16] {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(name.as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    short
}

/// At most 80 characters of `text`, with control characters escaped, for a finding.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        short.push('…');
    }
    short
}

/// The canonical name of an element type and its size in bits.
fn dtype_bits(name: &str) -> Option<(&'static str, u64)> {
    const TYPES: &[(&str, u64)] = &[
        ("BOOL", 8),
        ("F4", 4),
        ("F6_E2M3", 6),
        ("F6_E3M2", 6),
        ("U8", 8),
        ("I8", 8),
        ("F8_E5M2", 8),
        ("F8_E4M3", 8),
        ("F8_E8M0", 8),
        ("F8_E4M3FNUZ", 8),
        ("F8_E5M2FNUZ", 8),
        ("I16", 16),
        ("U16", 16),
        ("F16", 16),
        ("BF16", 16),
        ("I32", 32),
        ("U32", 32),
        ("F32", 32),
        ("C64", 64),
        ("F64", 64),
        ("I64", 64),
        ("U64", 64),
    ];
    TYPES.iter().copied().find(|(known, _)| *known == name)
}

/// The value as JSON, for tests of facts.
#[cfg(test)]
fn facts(
    bytes: Vec<u8>,
) -> (
    crate::report::Verdict,
    Vec<String>,
    serde_json::Map<String, serde_json::Value>,
) {
    crate::test_support::run(check, "model.safetensors", bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn an_honest_file_is_clean_and_tells_its_facts() {
        let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[],"data_offsets":[16,18]}}   "#;
        let (verdict, rules, facts) = facts(file(header, 18));
        assert_eq!((verdict, rules), (Verdict::Clean, vec![]));
        assert_eq!(facts["parameter_count"], 5);
        assert_eq!(facts["dtypes"], json!({"F32": 1, "BF16": 1}));
    }

    #[test]
    fn each_departure_from_the_format_is_refused() {
        let tensor = |fields: &str| format!(r#"{{"a":{{{fields}}}}}"#);
        for (header, data, rule) in [
            (
                tensor(r#""dtype":"F32","shape":[1],"data_offsets":[0,4]"#),
                5,
                "safetensors.tiling",
            ),
            (
                tensor(r#""dtype":"F32","shape":[1],"data_offsets":[4,8]"#),
                8,
                "safetensors.tiling",
            ),
            (
                tensor(r#""dtype":"F32","shape":[2],"data_offsets":[0,4]"#),
                4,
                "safetensors.tensor-size",
            ),
            (
                tensor(r#""dtype":"F4","shape":[1],"data_offsets":[0,0]"#),
                0,
                "safetensors.tensor-size",
            ),
            (
                tensor(r#""dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]"#),
                0,
                "safetensors.tensor-size",
            ),
            (
                tensor(r#""dtype":"F32","shape":[-1],"data_offsets":[0,4]"#),
                4,
                "safetensors.header",
            ),
            (
                tensor(r#""dtype":"X","shape":[1],"data_offsets":[0,4]"#),
                4,
                "safetensors.dtype",
            ),
            (
                tensor(r#""dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0"#),
                1,
                "safetensors.unknown-field",
            ),
            (
                tensor(r#""dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]"#),
                1,
                "safetensors.duplicate-key",
            ),
            (
                r#"{"__metadata__":{"a":1}}"#.into(),
                0,
                "safetensors.header",
            ),
            (
                r#"{"__metadata__":{"a":"1","a":"2"}}"#.into(),
                0,
                "safetensors.duplicate-key",
            ),
            (r#" {"__metadata__":{}}"#.into(), 0, "safetensors.header"),
            (r#"{"__metadata__":{}}x"#.into(), 0, "safetensors.header"),
            ("[]".into(), 0, "safetensors.header"),
        ] {
            let (verdict, rules, _) = facts(file(&header, data));
            assert_eq!(
                (verdict, rules),
                (Verdict::Malformed, vec![rule.to_owned()]),
                "{header}"
            );
        }
    }

    #[test]
    fn a_header_longer_than_the_file_is_refused_without_allocating() {
        let mut bytes = file("{}", 0);
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(facts(bytes).1, ["safetensors.header-length"]);
    }
}
