//! GGUF: key-value metadata, tensor descriptions, and aligned tensor data.
//!
//! Specification: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, with the stricter rules of `gguf.cpp`
//! there: tensors follow one another in the order of their descriptions.
//! Every count and length is compared with what is left of the file before it is used.

use crate::check::Check;
use crate::safetensors::shorten;
use crate::source::ReadError;
use crate::templates::{MAX_TEMPLATE_BYTES, check_template};
use crate::window::{Stop, Window, declare_rules, settle, zip_trailer};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};

declare_rules! {
    HEADER = "gguf.header", Malformed,
        "A header that breaks the format makes loaders read outside of the file or disagree on what it holds.",
        "Write the file again with the converter of llama.cpp or the gguf library.";
    VERSION = "gguf.version", Malformed,
        "Only versions 2 and 3, little-endian, have a layout that current loaders agree on.",
        "Convert the model again with a current converter.";
    LENGTH = "gguf.length", Malformed,
        "A count or length beyond the end of the file overflows in loaders (CVE-2024-21836 and its kin).",
        "Write the file again; it is damaged or was cut off.";
    DUPLICATE = "gguf.duplicate", Malformed,
        "Of two equal names one loader takes the first and another the last, so what was checked is not what is loaded.",
        "Give every key and every tensor its own name.";
    ALIGNMENT = "gguf.alignment", Malformed,
        "An alignment that is no power of two divides by zero in loaders, and a tensor off its alignment is misread.",
        "Write the file again with the default alignment of 32.";
    TENSOR = "gguf.tensor", Malformed,
        "A tensor whose dimensions, type and place do not agree makes a loader read or write foreign memory.",
        "Write the file again with the gguf library.";
    TILING = "gguf.tiling", Malformed,
        "Tensors that overlap, leave holes or end elsewhere than the file can hide other content.",
        "Write the file again with the gguf library.";
    TEMPLATE = "gguf.template", Unsafe,
        "Loaders render the chat template; this one can reach the interpreter (CVE-2024-34359).",
        "Keep to loops, conditions, plain attributes and the usual filters.";
    POLYGLOT = "gguf.zip-inside", Unsafe,
        "The file ends in a zip directory, so that zip readers load a different file from the same bytes.",
        "Remove the appended archive.";
}

/// Most metadata entries; real files have some fifty.
const MAX_KEYS: u64 = 65_536;
/// Most tensors of one file.
const MAX_TENSORS: u64 = 200_000;
/// Most bytes before the tensor data; vocabularies take some ten megabytes.
const MAX_HEADER_BYTES: u64 = 256 * 1024 * 1024;
/// Longest tensor name, as in `GGML_MAX_NAME`.
const MAX_NAME_BYTES: u64 = 64;

/// Whether the content is a GGUF file.
pub fn detect(head: &[u8], _tail: &[u8], _path: &str, _size: u64) -> bool {
    head.starts_with(b"GGUF")
}

/// Checks metadata, tensor descriptions and the extent of the data.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = header(check);
    settle(check, outcome)
}

struct Cursor<'a> {
    window: Window<'a>,
    at: u64,
}

impl Cursor<'_> {
    fn number(&mut self, width: usize) -> Result<u64, Stop> {
        let value = self
            .window
            .number(self.at, width)?
            .ok_or_else(|| Stop::at(&LENGTH, self.at, "the file ends within its header"))?;
        self.skip(width as u64)?;
        Ok(value)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Stop> {
        match self.at.checked_add(bytes) {
            Some(end) if end <= self.window.size() => {
                self.at = end;
                if end > MAX_HEADER_BYTES {
                    return Err(Stop::at(
                        &HEADER,
                        end,
                        "the header is longer than any real one",
                    ));
                }
                Ok(())
            }
            _ => Err(Stop::at(
                &LENGTH,
                self.at,
                format!(
                    "{bytes} bytes are announced, the file has {}",
                    self.window.size()
                ),
            )),
        }
    }

    /// Reads the length of a string and steps over it; answers where it lies.
    fn string_range(&mut self) -> Result<(u64, u64), Stop> {
        let length = self.number(8)?;
        let start = self.at;
        self.skip(length)?;
        Ok((start, length))
    }

    /// Reads a string of at most `limit` bytes.
    fn string(&mut self, limit: u64) -> Result<String, Stop> {
        let (start, length) = self.string_range()?;
        if length > limit {
            return Err(Stop::at(
                &HEADER,
                start,
                format!("a string of {length} bytes stands where at most {limit} are usual"),
            ));
        }
        self.text(start, length)
    }

    fn text(&mut self, start: u64, length: u64) -> Result<String, Stop> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let bytes = self
            .window
            .get(start, length)?
            .ok_or_else(|| Stop::at(&LENGTH, start, "a string ends after the file"))?;
        String::from_utf8(bytes.to_vec())
            .map_err(|_| Stop::at(&HEADER, start, "a string is not UTF-8"))
    }
}

/// Bytes of a value of fixed size, by its type.
fn scalar_bytes(kind: u64) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

fn header(check: &mut Check<'_>) -> Result<(), Stop> {
    let size = check.size();
    let tail = check.read(size.saturating_sub(65_536 + 22)..size)?;
    if let Some(at) = zip_trailer(&tail, size) {
        check.find(
            &POLYGLOT,
            Some(size - tail.len() as u64 + at as u64),
            "a zip archive ends where the file ends",
        );
    }
    let mut cursor = Cursor {
        window: Window::new(check.source, 512 * 1024, 3),
        at: 4,
    };
    let version = cursor.number(4)?;
    if !(2..=3).contains(&version) {
        return Err(Stop::at(
            &VERSION,
            4,
            format!("version {version:#x} is not 2 or 3"),
        ));
    }
    check.fact("format_version", version);
    let tensor_count = cursor.number(8)?;
    let key_count = cursor.number(8)?;
    // The shortest description takes 24 bytes, the shortest entry 13.
    if tensor_count > MAX_TENSORS || tensor_count.saturating_mul(24) > size {
        return Err(Stop::at(
            &LENGTH,
            8,
            format!("{tensor_count} tensors cannot lie in {size} bytes"),
        ));
    }
    if key_count > MAX_KEYS || key_count.saturating_mul(13) > size {
        return Err(Stop::at(
            &LENGTH,
            16,
            format!("{key_count} entries cannot lie in {size} bytes"),
        ));
    }
    let alignment = metadata(check, &mut cursor, key_count)?;
    tensors(check, &mut cursor, tensor_count, alignment)
}

/// Reads the key-value entries; answers the alignment.
fn metadata(check: &mut Check<'_>, cursor: &mut Cursor<'_>, count: u64) -> Result<u64, Stop> {
    let mut alignment = 32;
    let mut keys = HashSet::new();
    let mut facts = Map::new();
    let mut templates = 0u64;
    for _ in 0..count {
        let place = cursor.at;
        let key = cursor.string(65_535)?;
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Stop::at(&HEADER, place, "a key is not printable ASCII"));
        }
        if key.len() > 1024 {
            return Err(Stop::at(
                &HEADER,
                place,
                "a key is longer than any real one",
            ));
        }
        let kind = cursor.number(4)?;
        if !keys.insert(key.clone()) {
            return Err(Stop::at(
                &DUPLICATE,
                place,
                format!("the key `{}` stands twice", shorten(&key)),
            ));
        }
        let is_template = key.to_ascii_lowercase().contains("template");
        match kind {
            8 => {
                let (start, length) = cursor.string_range()?;
                if is_template {
                    template(check, cursor, &key, start, length)?;
                    templates += 1;
                } else if length <= 1024 {
                    let text = cursor.text(start, length)?;
                    match key.as_str() {
                        "general.architecture" => check.fact("architecture", text),
                        "general.name" => check.fact("name", text),
                        "general.license" => check.fact("licence", text),
                        _ if facts.len() < 60 && length <= 200 => {
                            facts.insert(key.clone(), Value::String(text));
                        }
                        _ => {}
                    }
                }
            }
            9 => array(check, cursor, &key, is_template)?,
            kind => {
                let width = scalar_bytes(kind).ok_or_else(|| {
                    Stop::at(
                        &HEADER,
                        place,
                        format!(
                            "the key `{}` has the unknown value type {kind}",
                            shorten(&key)
                        ),
                    )
                })?;
                let start = cursor.at;
                let value = cursor.number(usize::try_from(width).unwrap_or(8))?;
                if kind == 7 && value > 1 {
                    return Err(Stop::at(&HEADER, start, "a truth value is neither 0 nor 1"));
                }
                if key == "general.alignment" {
                    if kind != 4 || !value.is_power_of_two() || !(8..=1 << 20).contains(&value) {
                        return Err(Stop::at(
                            &ALIGNMENT,
                            start,
                            format!("the alignment is {value}"),
                        ));
                    }
                    alignment = value;
                } else if key == "general.file_type" {
                    check.fact("file_type", value);
                } else if facts.len() < 60 && matches!(kind, 0 | 2 | 4 | 10) {
                    facts.insert(key.clone(), Value::from(value));
                }
            }
        }
        if key == "general.alignment" && kind != 4 {
            return Err(Stop::at(
                &ALIGNMENT,
                place,
                "the alignment is not a 32-bit number",
            ));
        }
        if key == "general.architecture" && kind != 8 {
            return Err(Stop::at(&HEADER, place, "the architecture is not a string"));
        }
    }
    if !keys.contains("general.architecture") {
        return Err(Stop::at(
            &HEADER,
            cursor.at,
            "`general.architecture` is missing",
        ));
    }
    check.fact("metadata", Value::Object(facts));
    check.fact("template_count", templates);
    Ok(alignment)
}

fn array(
    check: &mut Check<'_>,
    cursor: &mut Cursor<'_>,
    key: &str,
    is_template: bool,
) -> Result<(), Stop> {
    let place = cursor.at;
    let kind = cursor.number(4)?;
    let count = cursor.number(8)?;
    if kind != 8 {
        let width = scalar_bytes(kind).ok_or_else(|| {
            Stop::at(
                &HEADER,
                place,
                format!(
                    "`{}` is an array of the type {kind}, which is nested or unknown",
                    shorten(key)
                ),
            )
        })?;
        let bytes = count.checked_mul(width).ok_or_else(|| {
            Stop::at(
                &LENGTH,
                place,
                format!("`{}` is said to have {count} elements", shorten(key)),
            )
        })?;
        return cursor.skip(bytes);
    }
    if count
        .checked_mul(8)
        .is_none_or(|bytes| bytes > cursor.window.size())
    {
        return Err(Stop::at(
            &LENGTH,
            place,
            format!("`{}` is said to have {count} strings", shorten(key)),
        ));
    }
    for _ in 0..count {
        let (start, length) = cursor.string_range()?;
        if is_template {
            template(check, cursor, key, start, length)?;
        }
    }
    Ok(())
}

fn template(
    check: &mut Check<'_>,
    cursor: &mut Cursor<'_>,
    key: &str,
    start: u64,
    length: u64,
) -> Result<(), Stop> {
    if length > MAX_TEMPLATE_BYTES as u64 {
        return Err(Stop::at(
            &TEMPLATE,
            start,
            format!("`{}` has {length} bytes", shorten(key)),
        ));
    }
    let text = cursor.text(start, length)?;
    if let Err(problem) = check_template(&text) {
        check.find(
            &TEMPLATE,
            Some(start.saturating_add(problem.offset as u64)),
            format!("in `{}`: {}", shorten(key), problem.detail),
        );
    }
    Ok(())
}

/// Name, elements per block and bytes per block of each tensor type.
const TENSOR_TYPES: &[(u64, &str, u64, u64)] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
];

fn tensors(
    check: &mut Check<'_>,
    cursor: &mut Cursor<'_>,
    count: u64,
    alignment: u64,
) -> Result<(), Stop> {
    let mut names = HashSet::new();
    let mut dtypes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut shapes = Map::new();
    let mut parameters = 0u64;
    // Where the next tensor begins, and where the last one ends without padding.
    let mut expected = 0u64;
    let mut end = 0u64;
    for _ in 0..count {
        let place = cursor.at;
        let name = cursor.string(MAX_NAME_BYTES)?;
        let rank = cursor.number(4)?;
        if rank > 4 {
            return Err(Stop::at(
                &TENSOR,
                place,
                format!("the tensor `{}` has {rank} dimensions", shorten(&name)),
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            shape.push(cursor.number(8)?);
        }
        let kind = cursor.number(4)?;
        let offset_place = cursor.at;
        let offset = cursor.number(8)?;
        let elements = shape
            .iter()
            .try_fold(1u64, |product, dimension| product.checked_mul(*dimension))
            .filter(|elements| i64::try_from(*elements).is_ok())
            .ok_or_else(|| {
                Stop::at(
                    &TENSOR,
                    place,
                    format!("the dimensions of `{}` overflow", shorten(&name)),
                )
            })?;
        let (_, dtype, block, block_bytes) = TENSOR_TYPES
            .iter()
            .find(|(known, ..)| *known == kind)
            .copied()
            .ok_or_else(|| {
                Stop::at(
                    &TENSOR,
                    place,
                    format!("`{}` has the unknown type {kind}", shorten(&name)),
                )
            })?;
        let row = shape.first().copied().unwrap_or(1);
        if row % block != 0 {
            return Err(Stop::at(
                &TENSOR,
                place,
                format!("rows of {row} elements do not divide into blocks of {block}"),
            ));
        }
        let bytes = (elements / block).checked_mul(block_bytes).ok_or_else(|| {
            Stop::at(
                &TENSOR,
                place,
                format!("the size of `{}` overflows", shorten(&name)),
            )
        })?;
        if offset % alignment != 0 {
            return Err(Stop::at(
                &ALIGNMENT,
                offset_place,
                format!("`{}` begins at {offset}, off the alignment", shorten(&name)),
            ));
        }
        if offset != expected {
            return Err(Stop::at(
                &TILING,
                offset_place,
                format!(
                    "`{}` begins at {offset} instead of {expected}",
                    shorten(&name)
                ),
            ));
        }
        let overflow = || Stop::at(&TENSOR, place, "the size of the data overflows");
        end = offset.checked_add(bytes).ok_or_else(overflow)?;
        expected = end
            .checked_next_multiple_of(alignment)
            .ok_or_else(overflow)?;
        parameters = parameters.saturating_add(elements);
        *dtypes.entry(dtype).or_default() += 1;
        if !names.insert(name.clone()) {
            return Err(Stop::at(
                &DUPLICATE,
                place,
                format!("the tensor `{}` stands twice", shorten(&name)),
            ));
        }
        if shapes.len() < 50 {
            shapes.insert(name, json!(shape));
        }
    }
    check.fact("tensor_count", count);
    check.fact("parameter_count", parameters);
    check.fact("dtypes", json!(dtypes));
    check.fact("shapes", Value::Object(shapes));
    let size = cursor.window.size();
    let header_end = cursor.at;
    let start = header_end
        .checked_next_multiple_of(alignment)
        .unwrap_or(u64::MAX);
    let may_end_here = [
        (count == 0).then_some(header_end),
        start.checked_add(end),
        start.checked_add(expected),
    ];
    if !may_end_here.contains(&Some(size)) {
        let should = start.saturating_add(end);
        return Err(Stop::at(
            &TILING,
            should.min(size),
            format!("the tensors end at byte {should}, the file at {size}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;
    use crate::test_support::run;

    fn text(text: &str) -> Vec<u8> {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    struct Tensor(&'static str, Vec<u64>, u32, u64);

    fn file(entries: &[(&str, u32, Vec<u8>)], tensors: &[Tensor], data: usize) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend((entries.len() as u64 + 1).to_le_bytes());
        bytes.extend(text("general.architecture"));
        bytes.extend(8u32.to_le_bytes());
        bytes.extend(text("llama"));
        for (key, kind, value) in entries {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for Tensor(name, shape, kind, offset) in tensors {
            bytes.extend(text(name));
            bytes.extend(u32::try_from(shape.len()).unwrap().to_le_bytes());
            for dimension in shape {
                bytes.extend(dimension.to_le_bytes());
            }
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn rules(bytes: Vec<u8>) -> Vec<String> {
        run(check, "model.gguf", bytes).1
    }

    #[test]
    fn an_honest_file_is_clean() {
        let entries = [
            (
                "tokenizer.chat_template",
                8,
                text("{{ messages[0].content }}"),
            ),
            ("general.alignment", 4, 32u32.to_le_bytes().to_vec()),
        ];
        let tensors = [Tensor("a", vec![32, 2], 2, 0), Tensor("b", vec![3], 0, 64)];
        let (verdict, rules, facts) = run(check, "m.gguf", file(&entries, &tensors, 64 + 12));
        assert_eq!((verdict, rules), (Verdict::Clean, vec![]));
        assert_eq!(facts["parameter_count"], 67);
    }

    #[test]
    fn each_departure_from_the_format_is_refused() {
        let one = |tensor: Tensor, data: usize| file(&[], &[tensor], data);
        for (bytes, rule) in [
            (one(Tensor("a", vec![1; 5], 0, 0), 4), "gguf.tensor"),
            (one(Tensor("a", vec![33], 2, 0), 64), "gguf.tensor"),
            (one(Tensor("a", vec![u64::MAX, 2], 0, 0), 4), "gguf.tensor"),
            (one(Tensor("a", vec![1], 99, 0), 4), "gguf.tensor"),
            (one(Tensor("a", vec![1], 0, 4), 8), "gguf.alignment"),
            (one(Tensor("a", vec![1], 0, 32), 36), "gguf.tiling"),
            (one(Tensor("a", vec![100], 0, 0), 4), "gguf.tiling"),
            (one(Tensor("a", vec![1], 0, 0), 999), "gguf.tiling"),
            (
                file(
                    &[],
                    &[Tensor("a", vec![1], 0, 0), Tensor("a", vec![1], 0, 32)],
                    36,
                ),
                "gguf.duplicate",
            ),
            (
                file(&[("general.architecture", 8, text("x"))], &[], 0),
                "gguf.duplicate",
            ),
            (
                file(&[("general.alignment", 4, vec![0; 4])], &[], 0),
                "gguf.alignment",
            ),
            (
                file(
                    &[("a", 9, [9u32.to_le_bytes().to_vec(), vec![0; 8]].concat())],
                    &[],
                    0,
                ),
                "gguf.header",
            ),
            (
                file(
                    &[("a", 9, [8u32.to_le_bytes().to_vec(), vec![255; 8]].concat())],
                    &[],
                    0,
                ),
                "gguf.length",
            ),
            (
                file(
                    &[("a", 9, [6u32.to_le_bytes().to_vec(), vec![255; 8]].concat())],
                    &[],
                    0,
                ),
                "gguf.length",
            ),
            (file(&[("a", 7, vec![2])], &[], 0), "gguf.header"),
            (
                file(
                    &[("tokenizer.chat_template.x", 8, text("{{ a.__class__ }}"))],
                    &[],
                    0,
                ),
                "gguf.template",
            ),
            (b"GGUF\0\0\0\x03".to_vec(), "gguf.version"),
        ] {
            assert_eq!(rules(bytes), [rule]);
        }
    }
}
