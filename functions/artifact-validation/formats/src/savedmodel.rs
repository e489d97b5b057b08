//! TensorFlow SavedModel: graphs and functions in `saved_model.pb`, variables in a checkpoint beside it.
//!
//! Specification: `tensorflow/core/protobuf/saved_model.proto`, `meta_graph.proto` and `tensor_bundle.proto` of
//! <https://github.com/tensorflow/tensorflow>; the index of variables is a table as in `LevelDB`.
//! A graph is a program, so every operation of the main graph and of the function library is held against a list of
//! those that only compute.
//! The few operations that save and restore variables may stand only where TensorFlow puts them, with the file name
//! that the loader passes.

use crate::check::Check;
use crate::keras_config::{MAX_CONFIG_BYTES, check_config};
use crate::onnx::{is_other_magic, is_plain_relative};
use crate::protobuf::{FieldValue, Fields, Wire, outline};
use crate::safetensors::shorten;
use crate::source::ReadError;
use crate::window::{Stop, Window, declare_rules, little, place_in_bundle, settle, zip_trailer};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

declare_rules! {
    WIRE = "savedmodel.wire-format", Malformed,
        "A message that breaks the wire format is cut off, or is read differently by different parsers.",
        "Export the model again, and upload the whole folder.";
    MODEL = "savedmodel.model", Malformed,
        "A saved model without graphs cannot be loaded.",
        "Export the model again.";
    OPERATION = "savedmodel.dangerous-operation", Unsafe,
        "The operation reads or writes files, runs Python or talks to the network when the model is called.",
        "Remove the operation from the exported functions.";
    CUSTOM = "savedmodel.custom-operation", ContainsCode,
        "The operation is not part of TensorFlow, so a native library of the author is needed to run it.",
        "Use operations of TensorFlow, or have the version approved together with its library.";
    ASSET = "savedmodel.asset-path", Unsafe,
        "An asset whose name leads out of the model's folder makes loading read foreign files.",
        "Export the model again, with its assets in the folder `assets`.";
    MISSING = "savedmodel.missing-file", Malformed,
        "A file that the model refers to is not part of the version.",
        "Upload the whole folder that was exported.";
    INDEX = "savedmodel.variables-index", Malformed,
        "An index that does not match the files of variables makes the loader read foreign bytes.",
        "Export the model again, and upload the whole folder.";
    FORM = "savedmodel.other-form", Unsafe,
        "TensorFlow loads graphs in this form, too, but their operations cannot be followed here.",
        "Export the model again, which writes `saved_model.pb`.";
    POLYGLOT = "savedmodel.zip-inside", Unsafe,
        "The file ends in a zip directory, so that zip readers load a different file from the same bytes.",
        "Remove the appended archive.";
}

const OPERATIONS: &str = include_str!("tensorflow_operators.txt");
const DANGEROUS: &str = include_str!("tensorflow_dangerous_operators.txt");
/// Operations by which TensorFlow saves and restores variables.
const SAVER: &[&str] = &[
    "SaveV2",
    "RestoreV2",
    "MergeV2Checkpoints",
    "ShardedFilename",
];
const TABLE_MAGIC: &[u8] = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb";
/// Largest index; one entry takes some hundred bytes.
const MAX_INDEX_BYTES: u64 = 64 * 1024 * 1024;

/// Whether the content is a part of a saved model.
pub fn detect(head: &[u8], tail: &[u8], path: &str, size: u64) -> bool {
    match part(path) {
        Some(Part::Index) => tail.ends_with(TABLE_MAGIC) || !is_other_magic(head),
        Some(Part::OtherForm) => true,
        Some(Part::Data | Part::Fingerprint | Part::Model | Part::Keras) => !is_other_magic(head),
        None => {
            // A schema version, then graphs, and nothing else.
            let fields = outline(head, size);
            fields.first() == Some(&(1, 0))
                && fields.get(1) == Some(&(2, 2))
                && fields.iter().skip(1).all(|field| *field == (2, 2))
                && contains(head, b"NoOp")
                && (contains(head, b"saver_filename") || contains(head, b"serve"))
        }
    }
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Model,
    Index,
    Data,
    Fingerprint,
    /// Configurations that Keras 2 keeps beside the graphs.
    Keras,
    /// Graphs as text, or split into chunks.
    OtherForm,
}

fn part(path: &str) -> Option<Part> {
    let name = path.rsplit(['/', '!']).next().unwrap_or(path);
    let is_data = name.strip_prefix("variables.data-").is_some_and(|rest| {
        rest.len() == 14
            && rest.get(5..9) == Some("-of-")
            && rest.bytes().filter(u8::is_ascii_digit).count() == 10
    });
    match name {
        "saved_model.pb" => Some(Part::Model),
        "keras_metadata.pb" => Some(Part::Keras),
        "saved_model.pbtxt" | "saved_model.cpb" => Some(Part::OtherForm),
        "fingerprint.pb" => Some(Part::Fingerprint),
        "variables.index" => Some(Part::Index),
        _ if is_data => Some(Part::Data),
        _ => None,
    }
}

/// Checks the graphs, or the index of variables.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = match part(check.path) {
        Some(Part::Index) => index(check),
        // Raw bytes of variables; the index tells what they are.
        Some(Part::Data) => trailer(check),
        Some(Part::Fingerprint) => fingerprint(check),
        Some(Part::Keras) => keras(check),
        Some(Part::OtherForm) => Err(Stop::whole(
            &FORM,
            "the graphs are text, or split into chunks",
        )),
        Some(Part::Model) | None => model(check),
    };
    settle(check, outcome)
}

fn trailer(check: &mut Check<'_>) -> Result<(), Stop> {
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

fn fingerprint(check: &mut Check<'_>) -> Result<(), Stop> {
    let size = check.size();
    let mut wire = Wire::new(Window::new(check.source, 4096, 2), &WIRE);
    let mut fields = Fields::new(0..size, &[1, 2, 3, 4, 5]);
    while let Some(field) = fields.next(&mut wire)? {
        if field.number > 16 {
            return Err(Stop::at(
                &WIRE,
                field.offset,
                "the fingerprint has an unknown field",
            ));
        }
    }
    Ok(())
}

/// Checks the configuration of each node that Keras 2 describes.
fn keras(check: &mut Check<'_>) -> Result<(), Stop> {
    let size = check.size();
    let mut wire = Wire::new(Window::new(check.source, 64 * 1024, 4), &WIRE);
    let mut fields = Fields::new(0..size, &[]);
    while let Some(field) = fields.next(&mut wire)? {
        let (1, Some(node)) = (field.number, field.as_range()) else {
            return Err(Stop::at(
                &WIRE,
                field.offset,
                "the configurations have an unknown field",
            ));
        };
        let mut inner = Fields::new(node, &[5]);
        while let Some(field) = inner.next(&mut wire)? {
            if let (5, Some(range)) = (field.number, field.as_range()) {
                let text = wire.bytes(&range, MAX_CONFIG_BYTES)?;
                check_config(check, &text, "keras_metadata.pb", Some(range.start));
            }
        }
    }
    Ok(())
}

fn model(check: &mut Check<'_>) -> Result<(), Stop> {
    trailer(check)?;
    let size = check.size();
    let mut walk = Walk {
        wire: Wire::new(Window::new(check.source, 64 * 1024, 16), &WIRE),
        check,
        custom: BTreeSet::new(),
        operations: BTreeSet::new(),
        signatures: Map::new(),
        nodes: 0,
    };
    let mut graphs = 0u64;
    let mut fields = Fields::new(0..size, &[1]);
    while let Some(field) = fields.next(&mut walk.wire)? {
        match (field.number, &field.value) {
            (1, FieldValue::Number(version)) => walk.check.fact("format_version", *version),
            (2, FieldValue::Bytes(range)) => {
                graphs += 1;
                walk.meta_graph(range.clone())?;
            }
            _ => {
                return Err(Stop::at(
                    &MODEL,
                    field.offset,
                    format!("the model has an unknown field {}", field.number),
                ));
            }
        }
    }
    if graphs == 0 {
        return Err(Stop::whole(&MODEL, "the model has no graph"));
    }
    let (custom, operations) = (std::mem::take(&mut walk.custom), walk.operations.len());
    let (signatures, nodes) = (std::mem::take(&mut walk.signatures), walk.nodes);
    check.fact("operation_count", nodes);
    check.fact("distinct_operations", operations);
    check.fact("signature", Value::Object(signatures));
    if !custom.is_empty() {
        check.fact("custom_ops", json!(custom));
    }
    Ok(())
}

struct Walk<'c, 'a> {
    wire: Wire<'a>,
    check: &'c mut Check<'a>,
    custom: BTreeSet<String>,
    operations: BTreeSet<String>,
    signatures: Map<String, Value>,
    nodes: u64,
}

/// What a node's check needs to know of the graph around it.
#[derive(Default)]
struct Around {
    /// Name of the function, or nothing in the main graph.
    function: Option<String>,
    /// Names of the function's inputs.
    inputs: HashSet<String>,
    /// The tensor through which the loader passes the name of the checkpoint.
    filename: String,
    /// Nodes that hold names of assets.
    assets: HashSet<String>,
}

impl Walk<'_, '_> {
    fn meta_graph(&mut self, range: Range<u64>) -> Result<(), Stop> {
        let mut main = Around::default();
        let mut graphs = Vec::new();
        let mut signatures = Vec::new();
        let mut fields = Fields::new(range, &[1, 2, 3, 7]);
        while let Some(field) = fields.next(&mut self.wire)? {
            let Some(range) = field.as_range() else {
                continue;
            };
            match field.number {
                1 => self.info(range)?,
                2 => graphs.push(range),
                3 => main.filename = self.string_field(range, 1)?,
                5 => signatures.push(range),
                6 => {
                    let asset = self.asset(range)?;
                    main.assets.insert(asset);
                }
                _ => {}
            }
        }
        for graph in graphs {
            let mut nodes = Vec::new();
            let mut fields = Fields::new(graph, &[2]);
            while let Some(field) = fields.next(&mut self.wire)? {
                match (field.number, field.as_range()) {
                    (1, Some(range)) => nodes.push(range),
                    (2, Some(range)) => self.library(range, &main)?,
                    _ => {}
                }
            }
            for node in nodes {
                self.node(node, &main)?;
            }
        }
        for signature in signatures {
            self.signature(signature)?;
        }
        Ok(())
    }

    fn info(&mut self, range: Range<u64>) -> Result<(), Stop> {
        let mut tags = Vec::new();
        let mut fields = Fields::new(range, &[]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (4, Some(range)) if tags.len() < 16 => tags.push(self.wire.text(&range, 4096)?),
                (5, Some(range)) => {
                    let version = self.wire.text(&range, 4096)?;
                    self.check.fact("framework_version", shorten(&version));
                }
                _ => {}
            }
        }
        self.check.fact("tags", json!(tags));
        Ok(())
    }

    /// The first string with this number within a message.
    fn string_field(&mut self, range: Range<u64>, number: u64) -> Result<String, Stop> {
        let mut text = String::new();
        let mut fields = Fields::new(range, &[]);
        while let Some(field) = fields.next(&mut self.wire)? {
            if let (true, Some(range)) = (field.number == number, field.as_range()) {
                text = self.wire.text(&range, 64 * 1024)?;
            }
        }
        Ok(text)
    }

    fn asset(&mut self, range: Range<u64>) -> Result<String, Stop> {
        let place = range.start;
        let (mut node, mut name) = (String::new(), String::new());
        let mut fields = Fields::new(range, &[1, 2]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (1, Some(range)) => node = self.string_field(range, 1)?,
                (2, Some(range)) => name = self.wire.text(&range, 64 * 1024)?,
                _ => {}
            }
        }
        if is_plain_relative(&name) {
            let (local, is_own_bundle) = place_in_bundle(self.check);
            let folder = local
                .rsplit_once('/')
                .map_or(String::new(), |(folder, _)| format!("{folder}/"));
            if is_own_bundle
                && self
                    .check
                    .bundle
                    .find(&format!("{folder}assets/{name}"))
                    .is_none()
            {
                self.check.find(
                    &MISSING,
                    Some(place),
                    format!("the asset `{}`", shorten(&name)),
                );
            }
        } else {
            self.check.find(
                &ASSET,
                Some(place),
                format!("the asset `{}`", shorten(&name)),
            );
        }
        Ok(node.split(':').next().unwrap_or_default().to_owned())
    }

    fn library(&mut self, range: Range<u64>, main: &Around) -> Result<(), Stop> {
        let mut fields = Fields::new(range, &[]);
        while let Some(field) = fields.next(&mut self.wire)? {
            if let (1, Some(range)) = (field.number, field.as_range()) {
                self.function(range, main)?;
            }
        }
        Ok(())
    }

    fn function(&mut self, range: Range<u64>, main: &Around) -> Result<(), Stop> {
        let mut around = Around {
            function: Some(String::new()),
            assets: main.assets.clone(),
            ..Around::default()
        };
        let mut nodes = Vec::new();
        let mut fields = Fields::new(range, &[1]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (1, Some(range)) => {
                    let mut fields = Fields::new(range, &[1]);
                    while let Some(field) = fields.next(&mut self.wire)? {
                        match (field.number, field.as_range()) {
                            (1, Some(range)) => {
                                around.function = Some(self.wire.text(&range, 4096)?);
                            }
                            (2, Some(range)) => {
                                let name = self.string_field(range, 1)?;
                                if around.inputs.is_empty() {
                                    around.filename.clone_from(&name);
                                }
                                around.inputs.insert(name);
                            }
                            _ => {}
                        }
                    }
                }
                (3, Some(range)) => nodes.push(range),
                _ => {}
            }
        }
        for node in nodes {
            self.node(node, &around)?;
        }
        Ok(())
    }

    fn node(&mut self, range: Range<u64>, around: &Around) -> Result<(), Stop> {
        self.nodes += 1;
        let place = range.start;
        let (mut name, mut operation) = (String::new(), String::new());
        let mut inputs = Vec::new();
        let mut called = Vec::new();
        let mut stream = None;
        let mut fields = Fields::new(range, &[1, 2, 4]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (1, Some(range)) => name = self.wire.text(&range, 16 * 1024)?,
                (2, Some(range)) => operation = self.wire.text(&range, 4096)?,
                (3, Some(range)) if inputs.len() < 3 => {
                    inputs.push(self.wire.text(&range, 64 * 1024)?);
                }
                (5, Some(range)) => self.attribute(range, &mut called, &mut stream)?,
                _ => {}
            }
        }
        if self.operations.len() < 4096 {
            self.operations.insert(operation.clone());
        }
        for function in called {
            let is_saver = is_saver_function(&function);
            let by_loader = around.function.is_none()
                && inputs
                    .first()
                    .is_some_and(|input| same_tensor(input, &around.filename));
            if is_saver && !by_loader {
                self.danger(
                    place,
                    &operation,
                    &name,
                    "calls the function that saves or restores variables",
                );
            }
        }
        let operation = operation.as_str();
        if operation == "PrintV2" {
            if stream.is_some_and(|stream| stream.contains("://") && !stream.starts_with("log(")) {
                self.danger(place, operation, &name, "prints to a file");
            }
        } else if SAVER.contains(&operation) {
            if !is_saver_place(operation, &name, &inputs, around) {
                self.danger(
                    place,
                    operation,
                    &name,
                    "stands where TensorFlow puts none, or takes a file name of its own",
                );
            }
        } else if operation.starts_with("InitializeTableFromTextFile") {
            let file = inputs
                .get(1)
                .map_or("", |input| input.split(':').next().unwrap_or_default());
            let from_asset = around.assets.contains(file)
                || (around.function.is_some()
                    && !around.assets.is_empty()
                    && around.inputs.contains(file));
            if !from_asset {
                self.danger(
                    place,
                    operation,
                    &name,
                    "reads a file that is no asset of the model",
                );
            }
        } else if DANGEROUS.lines().any(|known| known == operation) {
            self.danger(place, operation, &name, "is not allowed");
        } else if !is_known(operation)
            && self.custom.len() < 100
            && self.custom.insert(shorten(operation))
        {
            self.check.find(
                &CUSTOM,
                Some(place),
                format!("the operation `{}`", shorten(operation)),
            );
        }
        Ok(())
    }

    fn danger(&mut self, place: u64, operation: &str, name: &str, why: &str) {
        self.check.find(
            &OPERATION,
            Some(place),
            format!("`{}` of node `{}` {why}", shorten(operation), shorten(name)),
        );
    }

    /// Notes the functions that an attribute names, and the stream of a print.
    fn attribute(
        &mut self,
        range: Range<u64>,
        called: &mut Vec<String>,
        stream: &mut Option<String>,
    ) -> Result<(), Stop> {
        let mut key = String::new();
        let mut value = None;
        let mut fields = Fields::new(range, &[1, 2]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (1, Some(range)) => key = self.wire.text(&range, 4096)?,
                (2, Some(range)) => value = Some(range),
                _ => {}
            }
        }
        let Some(value) = value else { return Ok(()) };
        let mut fields = Fields::new(value, &[]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (1, Some(range)) => {
                    let mut fields = Fields::new(range, &[]);
                    while let Some(field) = fields.next(&mut self.wire)? {
                        if let (9, Some(range)) = (field.number, field.as_range()) {
                            called.push(self.string_field(range, 1)?);
                        }
                    }
                }
                (2, Some(range)) if key == "output_stream" => {
                    *stream = Some(self.wire.text(&range, 4096)?);
                }
                (10, Some(range)) => called.push(self.string_field(range, 1)?),
                _ => {}
            }
            if called.len() > 10_000 {
                return Err(Stop::at(
                    &MODEL,
                    field.offset,
                    "a node names more functions than any real one",
                ));
            }
        }
        Ok(())
    }

    fn signature(&mut self, range: Range<u64>) -> Result<(), Stop> {
        let mut key = String::new();
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        let mut fields = Fields::new(range, &[1, 2]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (1, Some(range)) => key = self.wire.text(&range, 4096)?,
                (2, Some(range)) => {
                    let mut fields = Fields::new(range, &[]);
                    while let Some(field) = fields.next(&mut self.wire)? {
                        let side = match field.number {
                            1 => &mut inputs,
                            2 => &mut outputs,
                            _ => continue,
                        };
                        if let (Some(range), true) = (field.as_range(), side.len() < 50) {
                            side.push(self.argument(range)?);
                        }
                    }
                }
                _ => {}
            }
        }
        if self.signatures.len() < 50 && key != "__saved_model_init_op" {
            self.signatures
                .insert(shorten(&key), json!({"inputs": inputs, "outputs": outputs}));
        }
        Ok(())
    }
}

impl Walk<'_, '_> {
    /// An argument of a signature: an entry of a map from its name to its tensor.
    fn argument(&mut self, range: Range<u64>) -> Result<Value, Stop> {
        let (mut name, mut kind, mut shape) = (String::new(), 0, Value::Null);
        let mut fields = Fields::new(range, &[]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (1, Some(range)) => name = shorten(&self.wire.text(&range, 4096)?),
                (2, Some(range)) => {
                    let mut fields = Fields::new(range, &[]);
                    while let Some(field) = fields.next(&mut self.wire)? {
                        match (field.number, field.as_range()) {
                            (2, None) => kind = field.as_number().unwrap_or(0),
                            (3, Some(range)) => shape = self.sides(range)?,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(json!({"name": name, "dtype": dtype_name(kind), "shape": shape}))
    }

    /// The sides of a shape, `null` where one is open; `null` if their number is.
    fn sides(&mut self, range: Range<u64>) -> Result<Value, Stop> {
        let mut sides = Vec::new();
        let mut fields = Fields::new(range, &[]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (3, None) if field.as_number() == Some(1) => return Ok(Value::Null),
                (2, Some(range)) if sides.len() < 32 => {
                    let mut side = Some(0);
                    let mut fields = Fields::new(range, &[]);
                    while let Some(field) = fields.next(&mut self.wire)? {
                        if let (1, Some(size)) = (field.number, field.as_number()) {
                            side = i64::try_from(size).ok();
                        }
                    }
                    sides.push(json!(side));
                }
                _ => {}
            }
        }
        Ok(Value::Array(sides))
    }
}

/// The name of a type of TensorFlow's `DataType`.
fn dtype_name(kind: u64) -> String {
    const NAMES: [&str; 24] = [
        "invalid",
        "float32",
        "float64",
        "int32",
        "uint8",
        "int16",
        "int8",
        "string",
        "complex64",
        "int64",
        "bool",
        "qint8",
        "quint8",
        "qint32",
        "bfloat16",
        "qint16",
        "quint16",
        "uint16",
        "complex128",
        "float16",
        "resource",
        "variant",
        "uint32",
        "uint64",
    ];
    let name = usize::try_from(kind).ok().and_then(|at| NAMES.get(at));
    name.map_or_else(|| format!("DT_{kind}"), |name| (*name).to_owned())
}

/// Whether an operation of TensorFlow reaches beyond the model.
pub(crate) fn is_dangerous(operation: &str) -> bool {
    SAVER.contains(&operation) || DANGEROUS.lines().any(|known| known == operation)
}

fn is_known(operation: &str) -> bool {
    // Gradients and arguments of functions carry these names within graphs.
    matches!(operation, "_Arg" | "_Retval")
        || operation.starts_with("__inference_")
        || operation.starts_with("__forward_")
        || OPERATIONS.lines().any(|known| known == operation)
}

fn is_saver_function(name: &str) -> bool {
    name.contains("_traced_save") || name.contains("_traced_restore")
}

/// Whether two references name one tensor: `a`, `a:0`.
fn same_tensor(left: &str, right: &str) -> bool {
    !right.is_empty() && left.trim_end_matches(":0") == right.trim_end_matches(":0")
}

/// Whether an operation of the saver stands where TensorFlow puts it, and takes the loader's file name.
fn is_saver_place(operation: &str, name: &str, inputs: &[String], around: &Around) -> bool {
    let first = inputs.first().map_or("", String::as_str);
    let second = inputs.get(1).map_or("", String::as_str);
    let place = match &around.function {
        Some(function) => is_saver_function(function),
        None => name.split('/').next().is_some_and(|scope| {
            scope == "save"
                || scope
                    .strip_prefix("save_")
                    .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
        }),
    };
    let own = |input: &str, node: &str| {
        let input = input.split(':').next().unwrap_or_default();
        let last = input.rsplit('/').next().unwrap_or_default();
        last == node
            || last
                .strip_prefix(node)
                .is_some_and(|rest| rest.starts_with('_'))
    };
    place
        && match operation {
            "RestoreV2" => same_tensor(first, &around.filename),
            "SaveV2" => own(first, "ShardedFilename") || same_tensor(first, &around.filename),
            "MergeV2Checkpoints" => same_tensor(second, &around.filename),
            _ => own(first, "StringJoin") || same_tensor(first, &around.filename),
        }
}

/// Checks the index of variables against the files of data.
fn index(check: &mut Check<'_>) -> Result<(), Stop> {
    let size = check.size();
    if !(48..=MAX_INDEX_BYTES).contains(&size) {
        return Err(Stop::at(&INDEX, 0, format!("the index has {size} bytes")));
    }
    let mut wire = Wire::new(Window::new(check.source, 64 * 1024, 8), &INDEX);
    let footer = size - 48;
    if wire.window.get(size - 8, 8)?.as_deref() != Some(TABLE_MAGIC) {
        return Err(Stop::at(
            &INDEX,
            size - 8,
            "the index does not end as a table",
        ));
    }
    let mut at = footer;
    wire.varint(&mut at, size - 8)?;
    wire.varint(&mut at, size - 8)?;
    let (start, length) = (
        wire.varint(&mut at, size - 8)?,
        wire.varint(&mut at, size - 8)?,
    );
    let blocks = entries(&mut wire, start, length, footer)?;
    let mut dtypes: BTreeMap<String, u64> = BTreeMap::new();
    let mut shapes = Map::new();
    let (mut tensors, mut parameters, mut shards) = (0u64, 0u64, 1u64);
    let (local, is_own_bundle) = place_in_bundle(check);
    let stem = local.strip_suffix("variables.index").unwrap_or_default();
    let mut extents = Vec::new();
    for (_, handle) in blocks {
        let mut at = handle.start;
        let (start, length) = (
            wire.varint(&mut at, handle.end)?,
            wire.varint(&mut at, handle.end)?,
        );
        for (key, value) in entries(&mut wire, start, length, footer)? {
            let mut fields = Fields::new(value.clone(), &[1, 2, 3, 4, 5, 6]);
            let (mut kind, mut shape, mut shard, mut offset, mut bytes) =
                (0, Vec::new(), 0, 0u64, 0u64);
            let mut sliced = false;
            while let Some(field) = fields.next(&mut wire)? {
                match (field.number, &field.value) {
                    (1, FieldValue::Number(count)) if key.is_empty() => shards = *count,
                    (1, FieldValue::Number(number)) => kind = *number,
                    (2, FieldValue::Bytes(range)) if !key.is_empty() => {
                        let mut fields = Fields::new(range.clone(), &[]);
                        while let Some(field) = fields.next(&mut wire)? {
                            if let (2, Some(range)) = (field.number, field.as_range()) {
                                let mut dimension = 0;
                                let mut fields = Fields::new(range, &[]);
                                while let Some(field) = fields.next(&mut wire)? {
                                    if let (1, Some(size)) = (field.number, field.as_number()) {
                                        dimension = size;
                                    }
                                }
                                if shape.len() < 64 {
                                    shape.push(dimension);
                                }
                            }
                        }
                    }
                    (3, FieldValue::Number(number)) => shard = *number,
                    (4, FieldValue::Number(number)) => offset = *number,
                    (5, FieldValue::Number(number)) => bytes = *number,
                    (7, _) => sliced = true,
                    _ => {}
                }
            }
            if key.is_empty() {
                continue;
            }
            let elements = shape
                .iter()
                .try_fold(1u64, |product, dimension| product.checked_mul(*dimension));
            let width = match kind {
                1 | 3 | 13 | 22 => Some(4),
                2 | 8 | 9 | 23 => Some(8),
                4 | 6 | 10 => Some(1),
                5 | 14 | 17 | 19 => Some(2),
                _ => None,
            };
            let expected = elements
                .zip(width)
                .and_then(|(elements, width): (u64, u64)| elements.checked_mul(width));
            if elements.is_none() || (width.is_some() && !sliced && expected != Some(bytes)) {
                return Err(Stop::at(
                    &INDEX,
                    value.start,
                    format!("a variable of type {kind} and shape {shape:?} has {bytes} bytes"),
                ));
            }
            extents.push((shard, offset.checked_add(bytes), value.start));
            tensors += 1;
            if width.is_some() {
                parameters = parameters.saturating_add(elements.unwrap_or(0));
            }
            *dtypes.entry(dtype_name(kind)).or_default() += 1;
            if shapes.len() < 50 && key.len() <= 256 {
                shapes.insert(String::from_utf8_lossy(&key).into_owned(), json!(shape));
            }
            if extents.len() > 500_000 {
                return Err(Stop::at(
                    &INDEX,
                    value.start,
                    "the index has more variables than any real one",
                ));
            }
        }
    }
    if !(1..=99_999).contains(&shards) {
        return Err(Stop::whole(
            &INDEX,
            format!("the variables are said to lie in {shards} files"),
        ));
    }
    let mut sizes = BTreeMap::new();
    for (shard, end, place) in extents {
        let available = *sizes.entry(shard).or_insert_with(|| {
            let name = format!("{stem}variables.data-{shard:05}-of-{shards:05}");
            check.bundle.find(&name).map(|file| file.source.size())
        });
        match available {
            None if !is_own_bundle => {}
            None => {
                return Err(Stop::at(
                    &MISSING,
                    place,
                    format!("the file of variables {shard} of {shards}"),
                ));
            }
            Some(available) if end.is_none_or(|end| end > available) => {
                return Err(Stop::at(
                    &INDEX,
                    place,
                    "a variable lies beyond the end of its file",
                ));
            }
            Some(_) => {}
        }
    }
    check.fact("tensor_count", tensors);
    check.fact("parameter_count", parameters);
    check.fact("dtypes", json!(dtypes));
    check.fact("shapes", Value::Object(shapes));
    Ok(())
}

/// A key of a table, and where its value lies.
type Entry = (Vec<u8>, Range<u64>);

/// The entries of one block of a table.
fn entries(wire: &mut Wire<'_>, start: u64, length: u64, limit: u64) -> Result<Vec<Entry>, Stop> {
    let end = start
        .checked_add(length)
        .filter(|end| *end < limit && length >= 4);
    let Some(end) = end else {
        return Err(wire.broken(start.min(limit), "a block lies outside of the index"));
    };
    if wire.window.number(end, 1)? != Some(0) {
        return Err(wire.broken(end, "a block of the index is compressed"));
    }
    let restarts = wire
        .window
        .get(end - 4, 4)?
        .map_or(0, |bytes| little(&bytes));
    let stop = restarts
        .checked_mul(4)
        .and_then(|bytes| bytes.checked_add(4))
        .and_then(|bytes| end.checked_sub(bytes))
        .filter(|stop| *stop >= start);
    let Some(stop) = stop else {
        return Err(wire.broken(end, "a block of the index has too many restarts"));
    };
    let mut found: Vec<Entry> = Vec::new();
    let mut key: Vec<u8> = Vec::new();
    let mut at = start;
    while at < stop {
        let place = at;
        let shared = wire.varint(&mut at, stop)?;
        let fresh = wire.varint(&mut at, stop)?;
        let value = wire.varint(&mut at, stop)?;
        let shared = usize::try_from(shared)
            .ok()
            .filter(|shared| *shared <= key.len());
        let value_start = at.checked_add(fresh);
        let value_end = value_start
            .and_then(|start| start.checked_add(value))
            .filter(|end| *end <= stop);
        let (Some(shared), Some(value_start), Some(value_end)) = (shared, value_start, value_end)
        else {
            return Err(wire.broken(place, "an entry of the index ends after its block"));
        };
        let bytes = wire.bytes(&(at..value_start), 16 * 1024)?;
        key.truncate(shared);
        key.extend_from_slice(&bytes);
        if key.len() > 16 * 1024 || found.len() > 100_000 {
            return Err(wire.broken(place, "a block of the index is larger than any real one"));
        }
        found.push((key.clone(), value_start..value_end));
        at = value_end;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::build::{bytes, message, number};
    use crate::report::Verdict;
    use crate::test_support::run;

    fn node(name: &str, operation: &str, inputs: &[&str]) -> Vec<u8> {
        let inputs: Vec<u8> = inputs.iter().flat_map(|input| bytes(3, input)).collect();
        [bytes(1, name), bytes(2, operation), inputs].concat()
    }

    fn model(main: &[Vec<u8>], function: &str, nodes: &[Vec<u8>]) -> Vec<u8> {
        let nodes: Vec<u8> = nodes.iter().flat_map(|node| bytes(3, node)).collect();
        let signature = message(
            1,
            &[bytes(1, function), message(2, &[bytes(1, "file_prefix")])],
        );
        let main: Vec<u8> = main.iter().flat_map(|node| bytes(1, node)).collect();
        let graph = [main, message(2, &[message(1, &[signature, nodes])])];
        [
            number(1, 1),
            message(
                2,
                &[
                    message(2, &graph),
                    message(3, &[bytes(1, "saver_filename:0")]),
                ],
            ),
        ]
        .concat()
    }

    #[test]
    fn other_forms_and_configurations_are_not_passed_over() {
        assert!(detect(
            b"saved_model_schema_version: 1",
            &[],
            "m/saved_model.pbtxt",
            29
        ));
        assert_eq!(
            run(check, "m/saved_model.pbtxt", b"x".to_vec()).1,
            ["savedmodel.other-form"]
        );
        let node = |config: &str| message(1, &[number(2, 1), bytes(5, config)]);
        let run = |config: &str| run(check, "m/keras_metadata.pb", node(config)).0;
        assert_eq!(run(r#"{"class_name":"Dense","config":{}}"#), Verdict::Clean);
        assert_eq!(
            run(r#"{"class_name":"Lambda","config":{}}"#),
            Verdict::ContainsCode
        );
    }

    fn verdict(model: Vec<u8>) -> Verdict {
        run(check, "saved_model.pb", model).0
    }

    #[test]
    fn operations_are_judged_in_graphs_and_functions() {
        let restore = |input: &str| [node("RestoreV2", "RestoreV2", &[input, "x"])];
        let call = |input: &str| {
            let attribute = message(
                5,
                &[
                    bytes(1, "f"),
                    message(
                        2,
                        &[message(10, &[bytes(1, "__inference__traced_restore_1")])],
                    ),
                ],
            );
            [[node("c", "StatefulPartitionedCall", &[input]), attribute].concat()]
        };
        for (model, expected) in [
            (
                model(&[node("a", "MatMul", &[])], "f", &[node("b", "Relu", &[])]),
                Verdict::Clean,
            ),
            (
                model(
                    &call("saver_filename"),
                    "__inference__traced_restore_1",
                    &restore("file_prefix"),
                ),
                Verdict::Clean,
            ),
            (
                model(
                    &call("other"),
                    "__inference__traced_restore_1",
                    &restore("file_prefix"),
                ),
                Verdict::Unsafe,
            ),
            (
                model(
                    &[],
                    "__inference__traced_restore_1",
                    &restore("Const:output:0"),
                ),
                Verdict::Unsafe,
            ),
            (model(&[], "f", &restore("file_prefix")), Verdict::Unsafe),
            (model(&[], "f", &call("file_prefix")), Verdict::Unsafe),
            (
                model(&[node("a", "ReadFile", &[])], "f", &[]),
                Verdict::Unsafe,
            ),
            (
                model(&[], "f", &[node("a", "WriteFile", &[])]),
                Verdict::Unsafe,
            ),
            (
                model(&[], "f", &[node("a", "PyFunc", &[])]),
                Verdict::Unsafe,
            ),
            (
                model(
                    &[],
                    "f",
                    &[node("a", "InitializeTableFromTextFileV2", &["t", "Const"])],
                ),
                Verdict::Unsafe,
            ),
            (
                model(&[], "f", &[node("a", "TextLineDataset", &[])]),
                Verdict::Unsafe,
            ),
            (
                model(&[], "f", &[node("a", "MyOperation", &[])]),
                Verdict::ContainsCode,
            ),
            (number(1, 1), Verdict::Malformed),
        ] {
            assert_eq!(verdict(model), expected);
        }
    }
}
