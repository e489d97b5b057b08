//! Core ML: a protocol buffer with a description and one kind of model, and packages of such with their weights.
//!
//! Specification: `mlmodel/format/Model.proto` and `MIL.proto` of <https://github.com/apple/coremltools>.

use crate::check::Check;
use crate::onnx::{is_other_magic, is_plain_relative};
use crate::protobuf::{FieldValue, Fields, Wire, outline};
use crate::safetensors::{has_extension, shorten};
use crate::source::ReadError;
use crate::window::{Stop, Window, declare_rules, place_in_bundle, settle, zip_trailer};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::ops::Range;

declare_rules! {
    WIRE = "coreml.wire-format", Malformed,
        "A message that breaks the wire format is cut off, or is read differently by different parsers.",
        "Save the model again with coremltools.";
    MODEL = "coreml.model", Malformed,
        "A model without version, description or exactly one kind cannot be loaded.",
        "Save the model again with coremltools.";
    CUSTOM = "coreml.custom-code", ContainsCode,
        "The model names a class of the application that runs when the model is used.",
        "Use layers of Core ML, or have the version approved together with the class.";
    REFERENCE = "coreml.file-reference", Unsafe,
        "The model names a file outside of its package, so that loading reads foreign files.",
        "Save the model as a package, with its weights inside.";
    NESTING = "coreml.nesting", Unsafe,
        "Models nested deeper than any real one exhaust the stack of loaders.",
        "Flatten the pipeline.";
    PACKAGE = "coreml.package", Malformed,
        "A manifest that does not match the files of the package makes loaders read other files.",
        "Save the package again with coremltools, and upload the whole folder.";
    WEIGHTS = "coreml.weights", Malformed,
        "Weights that lie outside of their file make the loader read foreign memory.",
        "Save the package again with coremltools, and upload the whole folder.";
    POLYGLOT = "coreml.zip-inside", Unsafe,
        "The file ends in a zip directory, so that zip readers load a different file from the same bytes.",
        "Remove the appended archive.";
}

/// What each entry of a file of weights begins with.
const BLOB_MARK: u32 = 0xdead_beef;
const MAX_DEPTH: usize = 12;
/// Highest version of the specification that is published, with a margin for a release or two.
const MAX_VERSION: u64 = 13;

/// Whether the content is a Core ML model, or the manifest of a package.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, size: u64) -> bool {
    if is_manifest(path) {
        return head.first() == Some(&b'{') && contains(head, b"rootModelIdentifier");
    }
    if is_blob(head) {
        return true;
    }
    let fields = outline(head, size);
    let is_kind = |(number, kind): &(u64, u8)| *kind == 2 && (200..=3000).contains(number);
    let looks_like = fields.first() == Some(&(1, 0))
        && fields.contains(&(2, 2))
        && fields
            .iter()
            .all(|field| matches!(field, (1 | 10, 0) | (2, 2)) || is_kind(field));
    looks_like && (fields.iter().any(is_kind) || has_extension(path, "mlmodel"))
        || has_extension(path, "mlmodel") && !is_other_magic(head)
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

fn is_manifest(path: &str) -> bool {
    path.rsplit_once('/')
        .is_some_and(|(folder, name)| name == "Manifest.json" && has_extension(folder, "mlpackage"))
}

/// Whether the content is a file of weights, whose first entry begins with a fixed mark.
fn is_blob(head: &[u8]) -> bool {
    head.get(4..8) == Some(&[2, 0, 0, 0]) && head.get(64..68) == Some(&BLOB_MARK.to_le_bytes())
}

/// Checks the model, the weights, or the manifest of a package.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = if is_manifest(check.path) {
        manifest(check)
    } else {
        file_or_weights(check)
    };
    settle(check, outcome)
}

fn manifest(check: &mut Check<'_>) -> Result<(), Stop> {
    let size = check.size();
    if size > 1024 * 1024 {
        return Err(Stop::whole(
            &PACKAGE,
            "the manifest is longer than any real one",
        ));
    }
    let bytes = check.read(0..size)?;
    let value = crate::strict_json::parse(&bytes)
        .map_err(|error| Stop::whole(&PACKAGE, format!("the manifest is refused: {error}")))?;
    let entries = value.get("itemInfoEntries").and_then(Value::as_object);
    let root = value.get("rootModelIdentifier").and_then(Value::as_str);
    let (Some(entries), Some(root)) = (entries, root) else {
        return Err(Stop::whole(
            &PACKAGE,
            "the manifest lists no items or no root",
        ));
    };
    if !entries.contains_key(root) {
        return Err(Stop::whole(
            &PACKAGE,
            "the root of the package is not listed",
        ));
    }
    let (local, is_own_bundle) = place_in_bundle(check);
    let folder = local.strip_suffix("Manifest.json").unwrap_or_default();
    for entry in entries.values().take(10_000) {
        let path = entry.get("path").and_then(Value::as_str).unwrap_or("");
        if !is_plain_relative(path) {
            check.find(&REFERENCE, None, format!("the path `{}`", shorten(path)));
            continue;
        }
        let full = format!("{folder}Data/{path}");
        let inside = format!("{full}/");
        let files = check.bundle.files();
        // An item may be a folder; a neighbour that starts with its path shows that it is there.
        if is_own_bundle
            && !files
                .iter()
                .any(|file| file.path == full || file.path.starts_with(&inside))
        {
            check.find(
                &PACKAGE,
                None,
                format!("the item `{}` is not part of the version", shorten(path)),
            );
        }
    }
    check.fact("item_count", entries.len());
    Ok(())
}

fn file_or_weights(check: &mut Check<'_>) -> Result<(), Stop> {
    let head = check.read(0..check.size().min(68))?;
    if is_blob(&head) {
        weights(check)
    } else {
        file(check)
    }
}

/// Checks that the entries of a file of weights follow one another within the file.
fn weights(check: &mut Check<'_>) -> Result<(), Stop> {
    polyglot(check)?;
    let size = check.size();
    let mut window = Window::new(check.source, 4096, 4);
    let count = window.number(0, 4)?.unwrap_or(0);
    let mut at = 64u64;
    for _ in 0..count {
        let mark = window.number(at, 4)?;
        let (length, start) = (
            window.number(at.saturating_add(8), 8)?,
            window.number(at.saturating_add(16), 8)?,
        );
        let (Some(mark), Some(length), Some(start)) = (mark, length, start) else {
            return Err(Stop::at(&WEIGHTS, at, "an entry ends after the file"));
        };
        let end = start
            .checked_add(length)
            .filter(|end| *end <= size && start >= at);
        let (true, Some(end)) = (mark == u64::from(BLOB_MARK), end) else {
            return Err(Stop::at(
                &WEIGHTS,
                at,
                "an entry is broken, or lies outside of the file",
            ));
        };
        at = end.checked_next_multiple_of(64).unwrap_or(u64::MAX);
    }
    check.fact("tensor_count", count);
    Ok(())
}

fn polyglot(check: &mut Check<'_>) -> Result<(), Stop> {
    let size = check.size();
    let tail = check.read(size.saturating_sub(65_536 + 22)..size)?;
    if let Some(at) = zip_trailer(&tail, size) {
        check.find(
            &POLYGLOT,
            Some(size - tail.len() as u64 + at as u64),
            "a zip archive ends where the file ends",
        );
    }
    Ok(())
}

fn file(check: &mut Check<'_>) -> Result<(), Stop> {
    polyglot(check)?;
    let size = check.size();
    let mut walk = Walk {
        wire: Wire::new(Window::new(check.source, 64 * 1024, 16), &WIRE),
        check,
        custom: BTreeSet::new(),
        layers: 0,
    };
    walk.model(0..size, 0)?;
    let (custom, layers) = (std::mem::take(&mut walk.custom), walk.layers);
    check.fact("layer_count", layers);
    if !custom.is_empty() {
        check.fact("custom_layers", json!(custom));
    }
    Ok(())
}

struct Walk<'c, 'a> {
    wire: Wire<'a>,
    check: &'c mut Check<'a>,
    custom: BTreeSet<String>,
    layers: u64,
}

impl Walk<'_, '_> {
    fn model(&mut self, range: Range<u64>, depth: usize) -> Result<(), Stop> {
        let place = range.start;
        if depth > MAX_DEPTH {
            return Err(Stop::at(
                &NESTING,
                place,
                format!("models are nested more than {MAX_DEPTH} deep"),
            ));
        }
        let mut kinds = Vec::new();
        let (mut version, mut described) = (None, false);
        let mut fields = Fields::new(range, &[1, 2, 10]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, &field.value) {
                (1, FieldValue::Number(number)) => version = Some(*number),
                (2, FieldValue::Bytes(range)) => {
                    described = true;
                    if depth == 0 {
                        self.description(range.clone())?;
                    }
                }
                (10, FieldValue::Number(_)) => {}
                (200..=3000, FieldValue::Bytes(range)) => kinds.push((field.number, range.clone())),
                _ => {
                    return Err(Stop::at(
                        &MODEL,
                        field.offset,
                        format!("the model has an unknown field {}", field.number),
                    ));
                }
            }
        }
        let version = version.filter(|version| (1..=MAX_VERSION).contains(version));
        let (Some(version), true, [(kind, body)]) = (version, described, kinds.as_slice()) else {
            return Err(Stop::at(
                &MODEL,
                place,
                "the model lacks a known version, a description or exactly one kind",
            ));
        };
        if depth == 0 {
            self.check.fact("format_version", version);
            self.check.fact("model_kind", kind_name(*kind));
        }
        let (kind, body) = (*kind, body.clone());
        match kind {
            200 | 201 => {
                let inner = self.children(body, 1)?;
                for pipeline in inner {
                    self.pipeline(pipeline, depth)?;
                }
            }
            202 => self.pipeline(body, depth)?,
            303 | 403 | 500 => self.network(body)?,
            502 => self.program(body)?,
            555 => {
                let name = self.text_field(body.clone(), 10)?;
                self.tell_custom(body.start, &name);
            }
            556 => {
                self.check.find(
                    &REFERENCE,
                    Some(body.start),
                    "the model is a link to another model file",
                );
            }
            3000 => self.tell_custom(body.start, "a serialized model"),
            300
            | 301
            | 302
            | 304
            | 400
            | 401
            | 402
            | 404
            | 501
            | 560
            | 600..=610
            | 900
            | 2000..=2010 => {}
            _ => {
                return Err(Stop::at(
                    &MODEL,
                    body.start,
                    format!("{kind} is no kind of model"),
                ));
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, range: Range<u64>, depth: usize) -> Result<(), Stop> {
        for model in self.children(range, 1)? {
            self.model(model, depth + 1)?;
        }
        Ok(())
    }

    /// The messages with this number within a message.
    fn children(&mut self, range: Range<u64>, number: u64) -> Result<Vec<Range<u64>>, Stop> {
        let mut found = Vec::new();
        let mut fields = Fields::new(range, &[]);
        while let Some(field) = fields.next(&mut self.wire)? {
            if let (true, Some(range)) = (field.number == number, field.as_range()) {
                if found.len() > 200_000 {
                    return Err(Stop::at(
                        &MODEL,
                        field.offset,
                        "the model has more parts than any real one",
                    ));
                }
                found.push(range);
            }
        }
        Ok(found)
    }

    fn text_field(&mut self, range: Range<u64>, number: u64) -> Result<String, Stop> {
        match self.children(range, number)?.first() {
            Some(range) => self.wire.text(range, 64 * 1024),
            None => Ok(String::new()),
        }
    }

    fn tell_custom(&mut self, place: u64, name: &str) {
        if self.custom.len() < 100 && self.custom.insert(shorten(name)) {
            self.check.find(
                &CUSTOM,
                Some(place),
                format!("the class `{}`", shorten(name)),
            );
        }
    }

    /// Looks for custom layers, also in the networks within loops and branches.
    fn network(&mut self, range: Range<u64>) -> Result<(), Stop> {
        let mut open = vec![(range, 0usize)];
        while let Some((network, depth)) = open.pop() {
            if depth > MAX_DEPTH {
                return Err(Stop::at(
                    &NESTING,
                    network.start,
                    "networks are nested deeper than any real one",
                ));
            }
            for layer in self.children(network, 1)? {
                self.layers += 1;
                let mut fields = Fields::new(layer, &[]);
                while let Some(field) = fields.next(&mut self.wire)? {
                    let inner: &[u64] = match field.number {
                        // The parameters of a custom layer; the class name is their field 10.
                        500 => &[],
                        // A branch has two networks, a loop a condition and a body.
                        605 => &[1, 2],
                        615 => &[3, 4],
                        _ => continue,
                    };
                    let Some(range) = field.as_range() else {
                        continue;
                    };
                    if inner.is_empty() {
                        let name = self.text_field(range.clone(), 10)?;
                        self.tell_custom(field.offset, &name);
                    }
                    for number in inner {
                        let networks = self.children(range.clone(), *number)?;
                        open.extend(networks.into_iter().map(|network| (network, depth + 1)));
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks for names of files and custom layers anywhere in a program, whose nesting the format does not bound.
    fn program(&mut self, range: Range<u64>) -> Result<(), Stop> {
        // Program: functions (2) map to blocks (3), those to operations (3), whose inputs and attributes hold values.
        let mut open = vec![(range, 0usize)];
        while let Some((range, depth)) = open.pop() {
            if depth > 40 {
                return Err(Stop::at(
                    &NESTING,
                    range.start,
                    "a program is nested deeper than any real one",
                ));
            }
            if open.len() > 1_000_000 {
                return Err(Stop::at(
                    &MODEL,
                    range.start,
                    "a program has more parts than any real one",
                ));
            }
            let mut fields = Fields::new(range, &[]);
            let mut children = Vec::new();
            // What is no message is a string or packed numbers; it is looked at as such.
            let parsed = loop {
                match fields.next(&mut self.wire) {
                    Ok(Some(field)) => {
                        if let Some(range) = field.as_range() {
                            children.push(range);
                        }
                    }
                    Ok(None) => break true,
                    Err(Stop::Read(error)) => return Err(Stop::Read(error)),
                    Err(Stop::Found { .. }) if depth > 0 => break false,
                    Err(stop) => return Err(stop),
                }
            };
            if self.wire.is_exhausted() {
                return Err(self
                    .wire
                    .broken(0, "the program has more fields than any real one"));
            }
            for child in &children {
                let length = child.end - child.start;
                if (2..=4096).contains(&length) {
                    let bytes = self.wire.bytes(child, 4096)?;
                    self.string(&bytes, child.start);
                }
            }
            if parsed {
                open.extend(
                    children
                        .into_iter()
                        .filter(|child| child.end - child.start < 64 * 1024 * 1024)
                        .map(|child| (child, depth + 1)),
                );
            }
        }
        Ok(())
    }

    fn string(&mut self, bytes: &[u8], place: u64) {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        if text == "custom_layer" {
            self.tell_custom(place, text);
        }
        if let Some(path) = text.strip_prefix("@model_path/") {
            if !is_plain_relative(path) {
                self.check.find(
                    &REFERENCE,
                    Some(place),
                    format!("the file `{}`", shorten(text)),
                );
            }
        } else if has_extension(text, "bin")
            && !text.chars().any(char::is_control)
            && (text.starts_with('/') || text.contains(".."))
        {
            self.check.find(
                &REFERENCE,
                Some(place),
                format!("the file `{}`", shorten(text)),
            );
        }
    }

    fn description(&mut self, range: Range<u64>) -> Result<(), Stop> {
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        let mut fields = Fields::new(range, &[100]);
        while let Some(field) = fields.next(&mut self.wire)? {
            let Some(range) = field.as_range() else {
                continue;
            };
            match field.number {
                1 if inputs.len() < 100 => inputs.push(self.feature(range)?),
                10 if outputs.len() < 100 => outputs.push(self.feature(range)?),
                100 => {
                    let mut card = Map::new();
                    for (number, name) in [
                        (1, "description"),
                        (2, "version"),
                        (3, "author"),
                        (4, "licence"),
                    ] {
                        let text = self.text_field(range.clone(), number)?;
                        if text.is_empty() {
                            continue;
                        }
                        if name == "licence" {
                            self.check
                                .fact("licence", text.chars().take(500).collect::<String>());
                        } else {
                            card.insert(
                                name.to_owned(),
                                Value::String(text.chars().take(500).collect()),
                            );
                        }
                    }
                    if !card.is_empty() {
                        self.check.fact("card", Value::Object(card));
                    }
                }
                _ => {}
            }
        }
        self.check
            .fact("signature", json!({"inputs": inputs, "outputs": outputs}));
        Ok(())
    }
}

impl Walk<'_, '_> {
    /// A feature of the description: its name, its type, and the shape of an array.
    fn feature(&mut self, range: Range<u64>) -> Result<Value, Stop> {
        let name = shorten(&self.text_field(range.clone(), 1)?);
        let mut feature = json!({ "name": name });
        let mut fields = Fields::new(range, &[]);
        while let Some(field) = fields.next(&mut self.wire)? {
            let (3, Some(range)) = (field.number, field.as_range()) else {
                continue;
            };
            let mut fields = Fields::new(range, &[]);
            while let Some(field) = fields.next(&mut self.wire)? {
                let kind = match field.number {
                    1 => "int64",
                    2 => "double",
                    3 => "string",
                    4 => "image",
                    5 => "array",
                    6 => "dictionary",
                    7 => "sequence",
                    8 => "state",
                    _ => continue,
                };
                feature["type"] = json!(kind);
                if let ("array", Some(range)) = (kind, field.as_range()) {
                    let (dtype, shape) = self.array(range)?;
                    feature["dtype"] = json!(dtype);
                    feature["shape"] = json!(shape);
                }
            }
        }
        Ok(feature)
    }

    /// Type of the elements and default shape of an array: `ArrayFeatureType`.
    fn array(&mut self, range: Range<u64>) -> Result<(&'static str, Vec<u64>), Stop> {
        let (mut dtype, mut shape) = ("unknown", Vec::new());
        let mut fields = Fields::new(range, &[]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_number(), field.as_range()) {
                (1, Some(side), _) if shape.len() < 32 => shape.push(side),
                (1, _, Some(packed)) => {
                    let mut at = packed.start;
                    while at < packed.end && shape.len() < 32 {
                        shape.push(self.wire.varint(&mut at, packed.end)?);
                    }
                }
                (2, Some(kind), _) => {
                    dtype = match kind {
                        65_552 => "float16",
                        65_568 => "float32",
                        65_600 => "float64",
                        131_080 => "int8",
                        131_104 => "int32",
                        _ => "unknown",
                    };
                }
                _ => {}
            }
        }
        Ok((dtype, shape))
    }
}

fn kind_name(kind: u64) -> &'static str {
    match kind {
        200..=202 => "pipeline",
        300..=302 | 304 => "regressor",
        303 | 403 | 500 => "neural network",
        400..=402 | 404 => "classifier",
        502 => "program",
        555 => "custom model",
        556 => "linked model",
        900 => "identity",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::build::{bytes, message, number};
    use crate::report::Verdict;
    use crate::test_support::run;

    fn model(kind: &[u8]) -> Vec<u8> {
        [
            number(1, 5),
            message(2, &[message(1, &[bytes(1, "x")])]),
            kind.to_vec(),
        ]
        .concat()
    }

    #[test]
    fn kinds_are_judged_also_within_pipelines() {
        let network = |layer: Vec<u8>| message(500, &[message(1, &[bytes(1, "l"), layer])]);
        let custom = network(message(500, &[bytes(10, "MyLayer")]));
        let pipeline = |inner: &[u8]| message(202, &[bytes(1, model(inner))]);
        let file = |path: &str| message(502, &[message(2, &[message(2, &[bytes(1, path)])])]);
        for (kind, verdict) in [
            (network(message(130, &[])), Verdict::Clean),
            (custom.clone(), Verdict::ContainsCode),
            (
                network(message(
                    605,
                    &[bytes(
                        2,
                        message(1, &[message(500, &[bytes(10, "MyLayer")])]),
                    )],
                )),
                Verdict::ContainsCode,
            ),
            (
                network(message(
                    615,
                    &[bytes(
                        4,
                        message(1, &[message(500, &[bytes(10, "MyLayer")])]),
                    )],
                )),
                Verdict::ContainsCode,
            ),
            (pipeline(&custom), Verdict::ContainsCode),
            (message(555, &[bytes(10, "MyModel")]), Verdict::ContainsCode),
            (message(556, &[]), Verdict::Unsafe),
            (file("@model_path/weights/weight.bin"), Verdict::Clean),
            (file("@model_path/../weight.bin"), Verdict::Unsafe),
            (Vec::new(), Verdict::Malformed),
            (
                [network(Vec::new()), message(900, &[])].concat(),
                Verdict::Malformed,
            ),
        ] {
            let bytes = model(&kind);
            assert_eq!(run(check, "m.mlmodel", bytes).0, verdict);
        }
        let mut deep = network(Vec::new());
        for _ in 0..100 {
            deep = pipeline(&deep);
        }
        assert_eq!(run(check, "m.mlmodel", model(&deep)).1, ["coreml.nesting"]);
    }
}
