//! ONNX: a protocol buffer with a graph, its initializers, and references to files that hold their bytes.
//!
//! Specification: <https://github.com/onnx/onnx/blob/main/docs/IR.md> and `onnx/onnx.in.proto` there; external data:
//! `docs/ExternalData.md`.
//! Every tensor wherever it hides (initializers, attributes, subgraphs, functions, training information, sparse
//! tensors) is checked, since loaders resolve external data for all of them.

use crate::check::Check;
use crate::protobuf::{Field, FieldValue, Fields, Wire, outline};
use crate::safetensors::{has_extension, shorten};
use crate::source::ReadError;
use crate::window::{Stop, Window, declare_rules, place_in_bundle, settle, zip_trailer};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

declare_rules! {
    WIRE = "onnx.wire-format", Malformed,
        "A message that breaks the wire format is cut off, or is read differently by different parsers.",
        "Export the model again, and upload the whole file.";
    MODEL = "onnx.model", Malformed,
        "A model without version, graph or operator sets cannot be loaded as the standard says.",
        "Export the model again, and run `onnx.checker.check_model` on it.";
    VERSION = "onnx.version", Malformed,
        "No runtime knows this version, so that what it loads is not what was checked.",
        "Export the model for a published version of the format and of the operator set.";
    GRAPH = "onnx.graph-order", Malformed,
        "A graph whose nodes use values before they exist, or define one twice, hangs or confuses runtimes.",
        "Sort the nodes topologically, and give every value one definition.";
    TENSOR = "onnx.tensor", Malformed,
        "A tensor whose shape does not fill its bytes exactly makes a runtime read foreign memory.",
        "Export the model again.";
    EXTERNAL_PATH = "onnx.external-path", Unsafe,
        "The location of external data leads out of the model's directory, so that loading reads foreign files.",
        "Save the external data beside the model, and name it by a plain relative path.";
    EXTERNAL_DATA = "onnx.external-data", Malformed,
        "External data that is missing, too short or oddly described cannot be loaded, or loads other bytes.",
        "Upload the data file with the model, and save the model again.";
    EXTERNAL_KEY = "onnx.external-key", Unsafe,
        "An unknown key of external data is set as an attribute of the loader (CVE-2025-51480 and its kin).",
        "Use only location, offset, length and checksum.";
    PYTHON_OPERATOR = "onnx.python-operator", Unsafe,
        "The operator runs Python code that is named or carried by the model.",
        "Replace the operator by operators of the standard.";
    CUSTOM_OPERATOR = "onnx.custom-operator", ContainsCode,
        "The operator is not of the standard, so a runtime needs native code of the author to run it.",
        "Use operators of the standard, or have the version approved together with its operator library.";
    NESTING = "onnx.nesting", Unsafe,
        "Subgraphs nested deeper than any real model exhaust the stack of loaders.",
        "Flatten the model.";
    EXPANSION = "onnx.function-expansion", Malformed,
        "Runtimes replace each call of a function by its nodes, without end if it calls itself.",
        "Export the model without functions that call each other so often.";
    POLYGLOT = "onnx.zip-inside", Unsafe,
        "The file ends in a zip directory, so that zip readers load a different file from the same bytes.",
        "Remove the appended archive.";
}

/// Deepest nesting of subgraphs and of types.
const MAX_DEPTH: usize = 32;
/// Most nodes that one function may expand to; the largest published graphs have some hundred thousand.
const MAX_EXPANSION: u64 = 10_000_000;
/// Highest version of the format that is published or announced.
const MAX_IR_VERSION: u64 = 14;
/// Highest operator set per domain that is published or announced.
const OPERATOR_SETS: &[(&str, u64)] = &[
    ("", 30),
    ("ai.onnx", 30),
    ("ai.onnx.ml", 8),
    ("ai.onnx.training", 2),
    ("ai.onnx.preview", 2),
    ("ai.onnx.preview.training", 2),
    // Operators that are built into ONNX Runtime.
    ("com.microsoft", 2),
    ("com.microsoft.experimental", 2),
    ("com.microsoft.nchwc", 2),
    ("com.ms.internal.nhwc", 30),
];
/// Operators that run Python, whatever their domain.
const PYTHON_OPERATORS: &[&str] = &[
    "PyOp",
    "PythonOp",
    "PythonOpGrad",
    "PyFunc",
    "PyCustomOp",
    "CustomPythonOp",
];
/// Operators of a built-in domain that carry or load compiled code.
const NATIVE_OPERATORS: &[&str] = &[
    "EPContext",
    "ATen",
    "ATenOp",
    "ExternalGradient",
    "TritonOp",
    "TorchEmbedding",
];

const STANDARD_OPERATORS: &str = include_str!("onnx_operators.txt");

/// Whether the content is an ONNX model, or is named one and is nothing else.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, size: u64) -> bool {
    let fields = outline(head, size);
    let known = |(number, kind): &(u64, u8)| match number {
        1 | 5 => *kind == 0,
        2..=4 | 6..=8 | 14 | 20 | 25 | 26 => *kind == 2,
        _ => false,
    };
    let looks_like = !fields.is_empty() && fields.iter().all(known);
    let has = |number| fields.iter().any(|(found, _)| *found == number);
    if looks_like && has(7) && (has(1) || has(8)) {
        return true;
    }
    has_extension(path, "onnx")
        && (looks_like || head.first() == Some(&8) || fields.is_empty())
        && !is_other_magic(head)
}

/// The files of the version that hold data of the model at `path`, by the facts that [`check`] told.
pub fn external_files(path: &str, facts: &Map<String, Value>) -> Vec<String> {
    let directory = path
        .rsplit_once('/')
        .map_or(String::new(), |(directory, _)| format!("{directory}/"));
    let locations = facts.get("external_references").and_then(Value::as_array);
    locations
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter(|location| is_plain_relative(location))
        .map(|location| {
            format!(
                "{directory}{}",
                location.strip_prefix("./").unwrap_or(location)
            )
        })
        .collect()
}

/// Whether the content announces a format of its own, whatever the name says.
pub(crate) fn is_other_magic(head: &[u8]) -> bool {
    let magics: [&[u8]; 12] = [
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
        b"\x7fELF",
        b"\x28\xb5\x2f\xfd",
    ];
    magics.iter().any(|magic| head.starts_with(magic)) || head.get(4..8) == Some(b"TFL3")
}

/// Checks the model, its graphs and all of its tensors.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = model(check);
    settle(check, outcome)
}

fn model(check: &mut Check<'_>) -> Result<(), Stop> {
    let size = check.size();
    let tail = check.read(size.saturating_sub(65_536 + 22)..size)?;
    if let Some(at) = zip_trailer(&tail, size) {
        check.find(
            &POLYGLOT,
            Some(size - tail.len() as u64 + at as u64),
            "a zip archive ends where the file ends",
        );
    }
    let mut walk = Walk {
        wire: Wire::new(Window::new(check.source, 64 * 1024, 16), &WIRE),
        functions: HashMap::new(),
        inside: None,
        opsets: BTreeMap::new(),
        custom: BTreeSet::new(),
        external: BTreeSet::new(),
        dtypes: BTreeMap::new(),
        shapes: Map::new(),
        tensors: 0,
        parameters: 0,
        nodes: 0,
        check,
    };
    walk.model(size)
}

/// What a function of the model consists of.
#[derive(Default)]
struct Function {
    nodes: u64,
    /// How often it calls each other function.
    calls: BTreeMap<(String, String), u64>,
}

struct Walk<'c, 'a> {
    wire: Wire<'a>,
    check: &'c mut Check<'a>,
    /// Domain and name of each function that the model defines itself.
    functions: HashMap<(String, String), Function>,
    /// The function whose nodes are walked.
    inside: Option<(String, String)>,
    opsets: BTreeMap<String, u64>,
    custom: BTreeSet<String>,
    external: BTreeSet<String>,
    dtypes: BTreeMap<&'static str, u64>,
    shapes: Map<String, Value>,
    tensors: u64,
    parameters: u64,
    nodes: u64,
}

/// A name as a number, so that memory does not depend on the length of names.
fn name_hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Walk<'_, '_> {
    fn model(&mut self, size: u64) -> Result<(), Stop> {
        let mut fields = Fields::new(0..size, &[1, 2, 3, 4, 5, 6, 7]);
        let (mut ir_version, mut graph) = (None, None);
        let (mut functions, mut training) = (Vec::new(), Vec::new());
        let mut metadata = Map::new();
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, &field.value) {
                (1, FieldValue::Number(version)) => ir_version = Some((*version, field.offset)),
                (2..=4 | 6, FieldValue::Bytes(range)) => {
                    if field.number != 6 && range.end - range.start <= 256 {
                        let text = self.wire.text(range, 256)?;
                        let name = ["", "", "producer_name", "producer_version", "domain"]
                            .get(usize::try_from(field.number).unwrap_or(0));
                        if let Some(name) = name.filter(|_| !text.is_empty()) {
                            self.check.fact(name, text);
                        }
                    }
                }
                (5, FieldValue::Number(version)) => self.check.fact("model_version", *version),
                (7, FieldValue::Bytes(range)) => graph = Some(range.clone()),
                (8, FieldValue::Bytes(range)) => self.opset(range.clone(), true)?,
                (14, FieldValue::Bytes(range)) => {
                    let (key, value) = self.pair(range.clone())?;
                    if metadata.len() < 50 && key.len() <= 100 && value.len() <= 500 {
                        if key.eq_ignore_ascii_case("license")
                            || key.eq_ignore_ascii_case("licence")
                        {
                            self.check.fact("licence", value.clone());
                        }
                        metadata.insert(key, Value::String(value));
                    }
                }
                (20, FieldValue::Bytes(range)) => training.push(range.clone()),
                (25, FieldValue::Bytes(range)) => functions.push(range.clone()),
                (26, FieldValue::Bytes(_)) => {}
                _ => {
                    return Err(Stop::at(
                        &MODEL,
                        field.offset,
                        format!("the model has an unknown field {}", field.number),
                    ));
                }
            }
            if functions.len() > 20_000 || training.len() > 64 {
                return Err(Stop::at(
                    &MODEL,
                    field.offset,
                    "the model has more functions than any real one",
                ));
            }
        }
        let Some((version, offset)) = ir_version else {
            return Err(Stop::whole(
                &MODEL,
                "the model states no version of the format",
            ));
        };
        if !(1..=MAX_IR_VERSION).contains(&version) {
            self.check.find(
                &VERSION,
                Some(offset),
                format!("the format has no version {version}"),
            );
        }
        self.check.fact("ir_version", version);
        if self.opsets.is_empty() && version >= 3 {
            self.check
                .find(&MODEL, None, "the model names no operator set");
        }
        if !metadata.is_empty() {
            self.check.fact("metadata", Value::Object(metadata));
        }
        let mut names = Vec::new();
        for function in &functions {
            let name = self.function_name(function.clone())?;
            self.functions.insert(name.clone(), Function::default());
            names.push(name);
        }
        let Some(graph) = graph else {
            return Err(Stop::whole(&MODEL, "the model has no graph"));
        };
        self.graph(graph, &mut Vec::new(), 0, version)?;
        for (function, name) in functions.into_iter().zip(names) {
            self.inside = Some(name);
            self.function(function, version)?;
        }
        self.inside = None;
        self.expansion();
        for information in training {
            let mut fields = Fields::new(information, &[1, 2]);
            while let Some(field) = fields.next(&mut self.wire)? {
                if let (1 | 2, Some(range)) = (field.number, field.as_range()) {
                    // A training graph may use values of the model's graph, so only its tensors and operators count.
                    self.graph(range, &mut vec![None], 1, version)?;
                }
            }
        }
        self.tell();
        Ok(())
    }

    fn tell(&mut self) {
        self.check.fact("opset_imports", json!(self.opsets));
        self.check.fact("tensor_count", self.tensors);
        self.check.fact("parameter_count", self.parameters);
        self.check.fact("node_count", self.nodes);
        self.check.fact("dtypes", json!(self.dtypes));
        self.check
            .fact("shapes", Value::Object(std::mem::take(&mut self.shapes)));
        if !self.custom.is_empty() {
            self.check.fact("custom_ops", json!(self.custom));
        }
        if !self.external.is_empty() {
            self.check.fact("external_references", json!(self.external));
        }
    }

    fn opset(&mut self, range: Range<u64>, tell: bool) -> Result<(), Stop> {
        let place = range.start;
        let (mut domain, mut version) = (String::new(), 0);
        let mut fields = Fields::new(range, &[1, 2]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, &field.value) {
                (1, FieldValue::Bytes(range)) => domain = self.wire.text(range, 1024)?,
                (2, FieldValue::Number(number)) => version = *number,
                _ => {
                    return Err(Stop::at(
                        &MODEL,
                        field.offset,
                        "an operator set has an unknown field",
                    ));
                }
            }
        }
        if let Some((_, highest)) = OPERATOR_SETS.iter().find(|(known, _)| *known == domain)
            && !(1..=*highest).contains(&version)
        {
            self.check.find(
                &VERSION,
                Some(place),
                format!("the operator set `{domain}` has no version {version}"),
            );
        }
        if tell && self.opsets.len() < 100 {
            self.opsets.insert(
                if domain.is_empty() {
                    "ai.onnx".into()
                } else {
                    domain
                },
                version,
            );
        }
        Ok(())
    }

    fn pair(&mut self, range: Range<u64>) -> Result<(String, String), Stop> {
        let (mut key, mut value) = (String::new(), String::new());
        let mut fields = Fields::new(range, &[1, 2]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (1, Some(range)) => key = self.wire.text(&range, 64 * 1024)?,
                // Long values are notes; they are not looked into.
                (2, Some(range)) if range.end - range.start <= 64 * 1024 => {
                    value = self.wire.text(&range, 64 * 1024)?;
                }
                (2, Some(_)) => value = "…".repeat(200),
                _ => {
                    return Err(Stop::at(
                        &MODEL,
                        field.offset,
                        "a pair has an unknown field",
                    ));
                }
            }
        }
        Ok((key, value))
    }

    fn function_name(&mut self, range: Range<u64>) -> Result<(String, String), Stop> {
        let (mut name, mut domain) = (String::new(), String::new());
        let mut fields = Fields::new(range, &[1, 8, 10, 13]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (1, Some(range)) => name = self.wire.text(&range, 4096)?,
                (10, Some(range)) => domain = self.wire.text(&range, 4096)?,
                _ => {}
            }
        }
        Ok((domain, name))
    }

    /// Counts the nodes that functions expand to, those that they call before those that call them.
    fn expansion(&mut self) {
        let mut sizes: HashMap<&(String, String), u64> = HashMap::new();
        let mut left: Vec<_> = self.functions.iter().collect();
        loop {
            let before = left.len();
            left.retain(|(name, function)| {
                let size =
                    function
                        .calls
                        .iter()
                        .try_fold(function.nodes, |size, (callee, count)| {
                            Some(size.saturating_add(sizes.get(callee)?.saturating_mul(*count)))
                        });
                size.is_none_or(|size| {
                    sizes.insert(name, size);
                    false
                })
            });
            if left.len() == before {
                break;
            }
        }
        let detail = if left.is_empty() {
            sizes
                .values()
                .max()
                .filter(|size| **size > MAX_EXPANSION)
                .map(|size| format!("a function expands to {size} nodes"))
        } else {
            left.iter()
                .map(|((_, name), _)| name)
                .min()
                .map(|name| format!("the function `{}` calls itself", shorten(name)))
        };
        if let Some(detail) = detail {
            self.check.find(&EXPANSION, None, detail);
        }
    }

    fn function(&mut self, range: Range<u64>, version: u64) -> Result<(), Stop> {
        let mut known = HashSet::new();
        let mut nodes = Vec::new();
        let mut fields = Fields::new(range, &[1, 8, 10, 13]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (4, Some(range)) => {
                    known.insert(self.name(&range)?);
                }
                (7, Some(range)) => nodes.push(range),
                (9, Some(range)) => self.opset(range, false)?,
                (11, Some(range)) => self.attribute(range, &mut vec![None], 1, version)?,
                _ => {}
            }
        }
        let mut scopes = vec![Some(known)];
        for node in nodes {
            self.node(node, &mut scopes, 1, version)?;
        }
        Ok(())
    }

    fn name(&mut self, range: &Range<u64>) -> Result<u64, Stop> {
        Ok(name_hash(&self.wire.bytes(range, 64 * 1024)?))
    }

    /// Checks one graph; `scopes` holds the names of the graphs around it, `None` where any name may come from elsewhere.
    fn graph(
        &mut self,
        range: Range<u64>,
        scopes: &mut Vec<Option<HashSet<u64>>>,
        depth: usize,
        version: u64,
    ) -> Result<(), Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::at(
                &NESTING,
                range.start,
                format!("graphs are nested more than {MAX_DEPTH} deep"),
            ));
        }
        let mut known = HashSet::new();
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        let mut initializers: HashSet<u64> = HashSet::new();
        let mut output_names = Vec::new();
        let mut first_pass = Fields::new(range.clone(), &[2, 10]);
        while let Some(field) = first_pass.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (1 | 2 | 10 | 14 | 16, Some(_)) => {}
                (5, Some(range)) => {
                    let name = self.tensor(range, depth == 0)?;
                    if !initializers.insert(name) {
                        self.check.find(
                            &GRAPH,
                            Some(field.offset),
                            "two initializers have one name",
                        );
                    }
                }
                (15, Some(range)) => {
                    initializers.insert(self.sparse_tensor(range)?);
                }
                (11, Some(range)) => {
                    let (name, value) = self.value_info(range)?;
                    if !known.insert(name) {
                        self.check
                            .find(&GRAPH, Some(field.offset), "two inputs have one name");
                    }
                    // Before version 4 of the format initializers are listed as inputs, too; a caller need not give these.
                    inputs.push((name, value));
                }
                (12, Some(range)) => {
                    let (name, value) = self.value_info(range.clone())?;
                    output_names.push((name, range.start));
                    outputs.push((name, value));
                }
                (13, Some(range)) => {
                    self.value_info(range)?;
                }
                _ => {
                    return Err(Stop::at(
                        &MODEL,
                        field.offset,
                        format!("a graph has an unknown field {}", field.number),
                    ));
                }
            }
        }
        if depth == 0 {
            let given: Vec<_> = inputs
                .into_iter()
                .filter(|(name, _)| !initializers.contains(name))
                .map(|(_, value)| value)
                .take(100)
                .collect();
            let answered: Vec<_> = outputs
                .into_iter()
                .map(|(_, value)| value)
                .take(100)
                .collect();
            self.check
                .fact("signature", json!({"inputs": given, "outputs": answered}));
        }
        known.extend(initializers);
        scopes.push(Some(known));
        let mut second_pass = Fields::new(range, &[]);
        while let Some(field) = second_pass.next(&mut self.wire)? {
            if let (1, Some(range)) = (field.number, field.as_range()) {
                self.node(range, scopes, depth, version)?;
            }
        }
        for (name, place) in output_names {
            if !is_known(scopes, name) {
                self.check.find(
                    &GRAPH,
                    Some(place),
                    "an output of the graph is computed by no node",
                );
            }
        }
        scopes.pop();
        Ok(())
    }

    fn node(
        &mut self,
        range: Range<u64>,
        scopes: &mut Vec<Option<HashSet<u64>>>,
        depth: usize,
        version: u64,
    ) -> Result<(), Stop> {
        self.nodes += 1;
        let place = range.start;
        let (mut operator, mut domain) = (String::new(), String::new());
        let mut outputs = Vec::new();
        let mut attributes = Vec::new();
        let mut fields = Fields::new(range, &[3, 4, 6, 7, 8]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (1, Some(range)) if !range.is_empty() => {
                    let name = self.name(&range)?;
                    if !is_known(scopes, name) {
                        let text = self.wire.text(&range, 64 * 1024)?;
                        self.check.find(
                            &GRAPH,
                            Some(field.offset),
                            format!("a node uses `{}` before it exists", shorten(&text)),
                        );
                    }
                }
                (2, Some(range)) if !range.is_empty() => {
                    outputs.push((self.name(&range)?, field.offset));
                }
                (4, Some(range)) => operator = self.wire.text(&range, 1024)?,
                (5, Some(range)) => attributes.push(range),
                (7, Some(range)) => domain = self.wire.text(&range, 1024)?,
                (1 | 2 | 3 | 6 | 8 | 9 | 10, Some(_)) => {}
                _ => {
                    return Err(Stop::at(
                        &MODEL,
                        field.offset,
                        format!("a node has an unknown field {}", field.number),
                    ));
                }
            }
        }
        self.operator(&operator, &domain, place, version);
        for attribute in attributes {
            self.attribute(attribute, scopes, depth, version)?;
        }
        if let Some(Some(innermost)) = scopes.last_mut() {
            for (name, offset) in outputs {
                if !innermost.insert(name) {
                    self.check
                        .find(&GRAPH, Some(offset), "a value is defined twice");
                }
            }
        }
        Ok(())
    }

    fn operator(&mut self, operator: &str, domain: &str, place: u64, version: u64) {
        let told = if domain.is_empty() {
            operator.to_owned()
        } else {
            format!("{domain}:{operator}")
        };
        if PYTHON_OPERATORS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(operator))
        {
            self.check.find(
                &PYTHON_OPERATOR,
                Some(place),
                format!("the operator `{}`", shorten(&told)),
            );
            return;
        }
        let name = (domain.to_owned(), operator.to_owned());
        let is_function = self.functions.contains_key(&name);
        if let Some(function) = self
            .inside
            .as_ref()
            .and_then(|inside| self.functions.get_mut(inside))
        {
            function.nodes += 1;
            if is_function {
                *function.calls.entry(name).or_default() += 1;
            }
        }
        if is_function {
            return;
        }
        let standard = matches!(
            domain,
            "" | "ai.onnx"
                | "ai.onnx.ml"
                | "ai.onnx.preview"
                | "ai.onnx.training"
                | "ai.onnx.preview.training"
        );
        let known = if NATIVE_OPERATORS.contains(&operator) {
            false
        } else if standard {
            // Operators of the first experiments are gone from the list.
            version < 3 || STANDARD_OPERATORS.lines().any(|known| known == operator)
        } else {
            OPERATOR_SETS.iter().any(|(known, _)| *known == domain)
        };
        if !known {
            if self.custom.len() < 100 && self.custom.insert(told.clone()) {
                self.check.find(
                    &CUSTOM_OPERATOR,
                    Some(place),
                    format!("the operator `{}`", shorten(&told)),
                );
            } else {
                // The verdict holds already; the list of findings stays short.
                self.custom.insert(told);
            }
        }
    }

    fn attribute(
        &mut self,
        range: Range<u64>,
        scopes: &mut Vec<Option<HashSet<u64>>>,
        depth: usize,
        version: u64,
    ) -> Result<(), Stop> {
        let mut fields = Fields::new(range, &[1, 2, 3, 4, 5, 6, 13, 14, 20, 21, 22]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (5 | 10, Some(range)) => {
                    self.tensor(range, false)?;
                }
                (6 | 11, Some(range)) => self.graph(range, scopes, depth + 1, version)?,
                (22 | 23, Some(range)) => {
                    self.sparse_tensor(range)?;
                }
                (1..=4 | 7..=9 | 13..=15 | 20 | 21, _) => {}
                _ => {
                    return Err(Stop::at(
                        &MODEL,
                        field.offset,
                        format!("an attribute has an unknown field {}", field.number),
                    ));
                }
            }
        }
        Ok(())
    }

    fn sparse_tensor(&mut self, range: Range<u64>) -> Result<u64, Stop> {
        let mut name = 0;
        let mut fields = Fields::new(range, &[1, 2]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (1, Some(range)) => name = self.tensor(range, false)?,
                (2, Some(range)) => {
                    self.tensor(range, false)?;
                }
                (3, _) => {}
                _ => {
                    return Err(Stop::at(
                        &TENSOR,
                        field.offset,
                        "a sparse tensor has an unknown field",
                    ));
                }
            }
        }
        Ok(name)
    }

    /// Checks a tensor; answers its name.
    ///
    /// A tensor that does not fit ends neither the walk nor the search for worse.
    fn tensor(&mut self, range: Range<u64>, is_initializer: bool) -> Result<u64, Stop> {
        let place = range.start;
        match self.whole_tensor(range, is_initializer) {
            Err(Stop::Found {
                rule,
                offset,
                detail,
            }) if rule.id != WIRE.id => {
                self.check.find(rule, offset, detail);
                Ok(place)
            }
            outcome => outcome,
        }
    }

    fn whole_tensor(&mut self, range: Range<u64>, is_initializer: bool) -> Result<u64, Stop> {
        let place = range.start;
        let mut shape: Vec<u64> = Vec::new();
        let (mut kind, mut location, mut name, mut segment) = (0, 0, None, false);
        let mut raw = None;
        let mut typed = None;
        let mut external = Vec::new();
        let mut fields = Fields::new(range, &[2, 3, 8, 9, 12, 14]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, &field.value) {
                (1, FieldValue::Number(dimension)) => shape.push(*dimension),
                (1, FieldValue::Bytes(range)) => {
                    let mut at = range.start;
                    while at < range.end && shape.len() <= 64 {
                        shape.push(self.wire.varint(&mut at, range.end)?);
                    }
                }
                (2, FieldValue::Number(number)) => kind = *number,
                (3, FieldValue::Bytes(_)) => segment = true,
                (4..=7 | 10 | 11, _) => typed = self.typed(typed, &field)?,
                (8, FieldValue::Bytes(range)) => name = Some(range.clone()),
                (9, FieldValue::Bytes(range)) => raw = Some(range.end - range.start),
                (12 | 16, FieldValue::Bytes(_)) => {}
                (13, FieldValue::Bytes(range)) => external.push(self.pair(range.clone())?),
                (14, FieldValue::Number(number)) => location = *number,
                _ => {
                    return Err(Stop::at(
                        &TENSOR,
                        field.offset,
                        format!("a tensor has an unknown field {}", field.number),
                    ));
                }
            }
            if shape.len() > 64 || external.len() > 16 {
                return Err(Stop::at(
                    &TENSOR,
                    field.offset,
                    "a tensor has more dimensions than any real one",
                ));
            }
        }
        let Some((dtype, bits)) = element_type(kind) else {
            return Err(Stop::at(
                &TENSOR,
                place,
                format!("{kind} is no element type"),
            ));
        };
        let elements = shape
            .iter()
            .try_fold(1u64, |product, dimension| product.checked_mul(*dimension))
            .filter(|elements| {
                i64::try_from(*elements).is_ok() && elements.checked_mul(bits.max(1)).is_some()
            });
        let Some(elements) = elements else {
            return Err(Stop::at(
                &TENSOR,
                place,
                format!("the dimensions {shape:?} overflow or are negative"),
            ));
        };
        let bytes = elements.saturating_mul(bits).div_ceil(8);
        if segment || location > 1 {
            return Err(Stop::at(
                &TENSOR,
                place,
                "a tensor is split, or lies where no loader looks",
            ));
        }
        if !external.is_empty() {
            self.external(&external, (bits > 0).then_some(bytes), place)?;
        }
        if location == 1 && (external.is_empty() || raw.is_some() || typed.is_some()) {
            return Err(Stop::at(
                &EXTERNAL_DATA,
                place,
                "a tensor is said to be external, but carries its data or no location",
            ));
        }
        if location == 0 && external.is_empty() {
            match (raw, typed) {
                (Some(_), Some(_)) => {
                    return Err(Stop::at(&TENSOR, place, "a tensor has its data twice"));
                }
                (Some(raw), None) if bits == 0 || raw != bytes => {
                    return Err(Stop::at(
                        &TENSOR,
                        place,
                        format!("{dtype} {shape:?} takes {bytes} bytes, but {raw} are there"),
                    ));
                }
                (None, Some(typed)) => typed_size(typed, dtype, bits, elements, place)?,
                (None, None) if elements > 0 => {
                    return Err(Stop::at(
                        &TENSOR,
                        place,
                        format!("{dtype} {shape:?} has no data"),
                    ));
                }
                _ => {}
            }
        }
        self.tensors += 1;
        *self.dtypes.entry(dtype).or_default() += 1;
        let Some(range) = name else {
            return Ok(0);
        };
        if is_initializer {
            self.parameters = self.parameters.saturating_add(elements);
            if self.shapes.len() < 50 && range.end - range.start <= 256 {
                let text = self.wire.text(&range, 256)?;
                self.shapes.insert(text, json!(shape));
            }
        }
        self.name(&range)
    }

    /// Adds the data of a typed field: its number, how many values it has, and whether that is known.
    fn typed(&mut self, sofar: Option<Typed>, field: &Field) -> Result<Option<Typed>, Stop> {
        let mut typed = sofar.unwrap_or(Typed {
            field: field.number,
            values: 0,
            counted: true,
        });
        if typed.field != field.number {
            return Err(Stop::at(
                &TENSOR,
                field.offset,
                "a tensor has data of two types",
            ));
        }
        match &field.value {
            FieldValue::Bytes(_) if field.number == 6 => typed.values += 1,
            FieldValue::Number(_) => typed.values += 1,
            FieldValue::Bytes(range) => {
                let length = range.end - range.start;
                match field.number {
                    4 | 10 => {
                        let width = if field.number == 4 { 4 } else { 8 };
                        if length % width != 0 {
                            return Err(Stop::at(
                                &TENSOR,
                                field.offset,
                                "packed numbers end within a number",
                            ));
                        }
                        typed.values += length / width;
                    }
                    _ if length <= 1024 * 1024 => {
                        let bytes = self.wire.bytes(range, 1024 * 1024)?;
                        typed.values += bytes.iter().filter(|byte| **byte < 0x80).count() as u64;
                    }
                    // Counting these would read the payload; a loader that decodes them counts itself.
                    _ => typed.counted = false,
                }
            }
        }
        Ok(Some(typed))
    }

    fn external(
        &mut self,
        pairs: &[(String, String)],
        bytes: Option<u64>,
        place: u64,
    ) -> Result<(), Stop> {
        let mut seen = BTreeMap::new();
        for (key, value) in pairs {
            if !matches!(
                key.as_str(),
                "location" | "offset" | "length" | "checksum" | "basepath"
            ) || key == "basepath"
            {
                self.check.find(
                    &EXTERNAL_KEY,
                    Some(place),
                    format!("the key `{}`", shorten(key)),
                );
                continue;
            }
            if seen.insert(key.as_str(), value.as_str()).is_some() {
                return Err(Stop::at(
                    &EXTERNAL_DATA,
                    place,
                    format!("the key `{key}` stands twice"),
                ));
            }
        }
        let location = seen.get("location").copied().unwrap_or("");
        if self.external.len() < 1000 {
            self.external.insert(if is_plain_relative(location) {
                location.strip_prefix("./").unwrap_or(location).to_owned()
            } else {
                shorten(location)
            });
        }
        if !is_plain_relative(location) {
            self.check.find(
                &EXTERNAL_PATH,
                Some(place),
                format!("the location is `{}`", shorten(location)),
            );
            return Ok(());
        }
        let number = |key: &str| match seen.get(key) {
            None => Ok(None),
            Some(text)
                if !text.is_empty()
                    && text.len() <= 20
                    && text.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                text.parse::<u64>()
                    .map(Some)
                    .map_err(|_| Stop::at(&EXTERNAL_DATA, place, format!("the {key} overflows")))
            }
            Some(text) => Err(Stop::at(
                &EXTERNAL_DATA,
                place,
                format!("the {key} is `{}`", shorten(text)),
            )),
        };
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?;
        let location = location.strip_prefix("./").unwrap_or(location);
        let (local, is_own_bundle) = place_in_bundle(self.check);
        let target = match local.rsplit_once('/') {
            Some((directory, _)) => format!("{directory}/{location}"),
            None => location.to_owned(),
        };
        if target == local {
            return Err(Stop::at(
                &EXTERNAL_DATA,
                place,
                "the external data is the model itself",
            ));
        }
        let Some(file) = self.check.bundle.find(&target) else {
            if !is_own_bundle {
                // A part of a file has no neighbours that could be looked at.
                return Ok(());
            }
            return Err(Stop::at(
                &EXTERNAL_DATA,
                place,
                format!(
                    "the data file `{}` is not part of the version",
                    shorten(&target)
                ),
            ));
        };
        let size = file.source.size();
        let available = size.checked_sub(offset);
        let taken = length.or(available);
        if available.is_none() || taken > available {
            return Err(Stop::at(
                &EXTERNAL_DATA,
                place,
                format!(
                    "the data lies beyond the {size} bytes of `{}`",
                    shorten(&target)
                ),
            ));
        }
        match bytes {
            None => Err(Stop::at(
                &EXTERNAL_DATA,
                place,
                "strings cannot be external",
            )),
            // Without a length loaders take the rest of the file, which may hold more than this tensor.
            Some(bytes) if length.is_some_and(|length| length != bytes) || taken < Some(bytes) => {
                Err(Stop::at(
                    &TENSOR,
                    place,
                    format!(
                        "a tensor of {bytes} bytes has {} in `{}`",
                        taken.unwrap_or(0),
                        shorten(&target)
                    ),
                ))
            }
            Some(_) => Ok(()),
        }
    }

    /// Reads the name and type of an input or output.
    fn value_info(&mut self, range: Range<u64>) -> Result<(u64, Value), Stop> {
        let (mut hash, mut name, mut kind) = (0, String::new(), Value::Null);
        let mut fields = Fields::new(range, &[1, 2, 3]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, field.as_range()) {
                (1, Some(range)) => {
                    name = shorten(&self.wire.text(&range, 64 * 1024)?);
                    hash = self.name(&range)?;
                }
                (2, Some(range)) => kind = self.type_of(range, 0)?,
                (3 | 4, Some(_)) => {}
                _ => {
                    return Err(Stop::at(
                        &MODEL,
                        field.offset,
                        "a value has an unknown field",
                    ));
                }
            }
        }
        Ok((hash, json!({"name": name, "type": kind})))
    }

    fn type_of(&mut self, range: Range<u64>, depth: usize) -> Result<Value, Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::at(
                &NESTING,
                range.start,
                "types are nested too deeply",
            ));
        }
        let mut told = Value::Null;
        let mut fields = Fields::new(range, &[]);
        while let Some(field) = fields.next(&mut self.wire)? {
            let Some(range) = field.as_range() else {
                return Err(Stop::at(&MODEL, field.offset, "a type is a number"));
            };
            match field.number {
                1 | 8 => told = self.tensor_type(range)?,
                4 | 9 => {
                    let inner = self.element_of(range, 1, depth)?;
                    told =
                        json!({ if field.number == 4 { "sequence" } else { "optional" }: inner });
                }
                5 => told = json!({"map": self.element_of(range, 2, depth)?}),
                6 | 7 => {}
                _ => {
                    return Err(Stop::at(
                        &MODEL,
                        field.offset,
                        format!("{} is no type", field.number),
                    ));
                }
            }
        }
        Ok(told)
    }

    fn element_of(&mut self, range: Range<u64>, number: u64, depth: usize) -> Result<Value, Stop> {
        let mut told = Value::Null;
        let mut fields = Fields::new(range, &[1, 2]);
        while let Some(field) = fields.next(&mut self.wire)? {
            if let (true, Some(range)) = (field.number == number, field.as_range()) {
                told = self.type_of(range, depth + 1)?;
            }
        }
        Ok(told)
    }

    fn tensor_type(&mut self, range: Range<u64>) -> Result<Value, Stop> {
        let (mut dtype, mut shape) = ("undefined", Value::Null);
        let mut fields = Fields::new(range, &[1, 2]);
        while let Some(field) = fields.next(&mut self.wire)? {
            match (field.number, &field.value) {
                (1, FieldValue::Number(kind)) => {
                    dtype = element_type(*kind).map_or("undefined", |(name, _)| name);
                }
                (2, FieldValue::Bytes(range)) => {
                    let mut dimensions = Vec::new();
                    let mut fields = Fields::new(range.clone(), &[]);
                    while let Some(field) = fields.next(&mut self.wire)? {
                        let mut told = Value::Null;
                        if let Some(range) = field.as_range() {
                            let mut fields = Fields::new(range, &[]);
                            while let Some(field) = fields.next(&mut self.wire)? {
                                match (field.number, &field.value) {
                                    (1, FieldValue::Number(size)) => {
                                        told = json!(size.cast_signed());
                                    }
                                    (2, FieldValue::Bytes(range)) => {
                                        told = json!(shorten(&self.wire.text(range, 4096)?));
                                    }
                                    _ => {}
                                }
                            }
                        }
                        if dimensions.len() < 64 {
                            dimensions.push(told);
                        }
                    }
                    shape = Value::Array(dimensions);
                }
                _ => {}
            }
        }
        Ok(json!({"dtype": dtype, "shape": shape}))
    }
}

/// The data of a tensor in one of the typed fields.
#[derive(Debug, Clone, Copy)]
struct Typed {
    field: u64,
    values: u64,
    counted: bool,
}

/// Whether a tensor has as many values as its shape asks for, in the field of its type.
fn typed_size(typed: Typed, dtype: &str, bits: u64, elements: u64, place: u64) -> Result<(), Stop> {
    let field = match dtype {
        "float32" | "complex64" => 4,
        "string" => 6,
        "int64" => 7,
        "float64" | "complex128" => 10,
        "uint32" | "uint64" => 11,
        _ => 5,
    };
    let expected = match dtype {
        "complex64" | "complex128" => elements.saturating_mul(2),
        _ if bits > 0 && bits < 8 => elements.div_ceil(8 / bits),
        _ => elements,
    };
    // Four-bit values were stored one per number by early exporters.
    let fits = typed.values == expected || (bits > 0 && bits < 8 && typed.values == elements);
    if typed.field != field || (typed.counted && !fits) {
        return Err(Stop::at(
            &TENSOR,
            place,
            format!(
                "{elements} values of {dtype} are announced, {} are there",
                typed.values
            ),
        ));
    }
    Ok(())
}

fn is_known(scopes: &[Option<HashSet<u64>>], name: u64) -> bool {
    scopes
        .iter()
        .any(|scope| scope.as_ref().is_none_or(|names| names.contains(&name)))
}

/// Whether `location` names a file at or below the directory of the model, for every operating system.
pub(crate) fn is_plain_relative(location: &str) -> bool {
    let location = location.strip_prefix("./").unwrap_or(location);
    !location.is_empty()
        && location.len() <= 1024
        && !location.contains(['\\', ':', '%', '~', '$', '*', '?', '<', '>', '|', '"'])
        && !location.chars().any(char::is_control)
        && location
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != ".." && part.trim() == part)
}

/// Name and bits of an element type; no bits for strings.
fn element_type(kind: u64) -> Option<(&'static str, u64)> {
    Some(match kind {
        1 => ("float32", 32),
        2 => ("uint8", 8),
        3 => ("int8", 8),
        4 => ("uint16", 16),
        5 => ("int16", 16),
        6 => ("int32", 32),
        7 => ("int64", 64),
        8 => ("string", 0),
        9 => ("bool", 8),
        10 => ("float16", 16),
        11 => ("float64", 64),
        12 => ("uint32", 32),
        13 => ("uint64", 64),
        14 => ("complex64", 64),
        15 => ("complex128", 128),
        16 => ("bfloat16", 16),
        17 => ("float8e4m3fn", 8),
        18 => ("float8e4m3fnuz", 8),
        19 => ("float8e5m2", 8),
        20 => ("float8e5m2fnuz", 8),
        21 => ("uint4", 4),
        22 => ("int4", 4),
        23 => ("float4e2m1", 4),
        24 => ("float8e8m0", 8),
        25 => ("uint2", 2),
        26 => ("int2", 2),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::build::{bytes, message, number};
    use crate::report::Verdict;
    use crate::test_support::run_among;
    use bytes::Bytes;

    fn tensor(extra: &[Vec<u8>]) -> Vec<u8> {
        [number(1, 2), number(2, 1), bytes(8, "w"), extra.concat()].concat()
    }

    fn external(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut fields = vec![number(14, 1)];
        for (key, value) in pairs {
            fields.push(message(13, &[bytes(1, key), bytes(2, value)]));
        }
        tensor(&fields)
    }

    fn node(
        operator: &str,
        domain: &str,
        input: &str,
        output: &str,
        attributes: &[Vec<u8>],
    ) -> Vec<u8> {
        message(
            1,
            &[
                bytes(1, input),
                bytes(2, output),
                bytes(4, operator),
                bytes(7, domain),
                attributes.concat(),
            ],
        )
    }

    fn model(nodes: &[Vec<u8>], initializer: &[u8]) -> Vec<u8> {
        let graph = [
            nodes.concat(),
            bytes(5, initializer),
            message(11, &[bytes(1, "x")]),
            message(12, &[bytes(1, "y")]),
        ];
        [
            number(1, 10),
            message(7, &graph),
            message(8, &[number(2, 20)]),
        ]
        .concat()
    }

    fn judge(model: Vec<u8>) -> (Verdict, Vec<String>) {
        let data = Bytes::from(vec![0; 16]);
        let (verdict, rules, _) = run_among(check, "m/model.onnx", model, &[("m/w.bin", data)]);
        (verdict, rules)
    }

    #[test]
    fn honest_models_are_clean() {
        let inline = tensor(&[bytes(9, [0; 8])]);
        let beside = external(&[("location", "w.bin"), ("offset", "8"), ("length", "8")]);
        for initializer in [inline, beside, tensor(&[bytes(4, [0; 8])])] {
            let model = model(
                &[
                    node("Relu", "", "x", "h", &[]),
                    node("Relu", "", "h", "y", &[]),
                ],
                &initializer,
            );
            assert!(detect(&model, &[], "m", model.len() as u64));
            assert_eq!(judge(model), (Verdict::Clean, vec![]));
        }
    }

    #[test]
    fn each_departure_is_refused() {
        let fine = tensor(&[bytes(9, [0; 8])]);
        let relu = || node("Relu", "", "x", "y", &[]);
        let nested =
            |inner: Vec<u8>| node("If", "", "x", "y", &[message(5, &[message(6, &[inner])])]);
        let leak = external(&[("location", "../w.bin")]);
        for (model, rule) in [
            (
                model(&[relu()], &tensor(&[bytes(9, [0; 7])])),
                "onnx.tensor",
            ),
            (model(&[relu()], &tensor(&[])), "onnx.tensor"),
            (
                model(&[relu()], &tensor(&[number(1, u64::MAX)])),
                "onnx.tensor",
            ),
            (model(&[relu()], &leak), "onnx.external-path"),
            (
                model(&[relu()], &external(&[("location", "/etc/passwd")])),
                "onnx.external-path",
            ),
            (
                model(&[relu()], &external(&[("location", "")])),
                "onnx.external-path",
            ),
            (
                model(&[relu()], &external(&[("location", r"..\w")])),
                "onnx.external-path",
            ),
            (
                model(
                    &[relu()],
                    &external(&[("location", "w.bin"), ("__class__", "x"), ("length", "8")]),
                ),
                "onnx.external-key",
            ),
            (
                model(
                    &[relu()],
                    &external(&[("location", "w.bin"), ("length", "99")]),
                ),
                "onnx.external-data",
            ),
            (
                model(
                    &[relu()],
                    &external(&[("location", "w.bin"), ("offset", "18446744073709551615")]),
                ),
                "onnx.external-data",
            ),
            (
                model(&[relu()], &external(&[("location", "none.bin")])),
                "onnx.external-data",
            ),
            (
                model(&[nested(bytes(5, &leak))], &fine),
                "onnx.external-path",
            ),
            (
                model(
                    &[node(
                        "Relu",
                        "",
                        "x",
                        "y",
                        &[message(5, &[bytes(5, &leak)])],
                    )],
                    &fine,
                ),
                "onnx.external-path",
            ),
            (
                model(
                    &[node(
                        "Relu",
                        "",
                        "x",
                        "y",
                        &[message(5, &[bytes(10, &leak)])],
                    )],
                    &fine,
                ),
                "onnx.external-path",
            ),
            (
                model(
                    &[
                        node("Relu", "", "h", "y", &[]),
                        node("Relu", "", "x", "h", &[]),
                    ],
                    &fine,
                ),
                "onnx.graph-order",
            ),
            (model(&[relu(), relu()], &fine), "onnx.graph-order"),
            (
                model(&[node("PyOp", "", "x", "y", &[])], &fine),
                "onnx.python-operator",
            ),
            (
                model(&[node("Evil", "my.domain", "x", "y", &[])], &fine),
                "onnx.custom-operator",
            ),
            (
                model(&[node("Evil", "", "x", "y", &[])], &fine),
                "onnx.custom-operator",
            ),
            (
                [model(&[relu()], &fine), message(8, &[number(2, 999)])].concat(),
                "onnx.version",
            ),
            (
                [model(&[relu()], &fine), number(1, 10)].concat(),
                "onnx.wire-format",
            ),
            (number(1, 10), "onnx.model"),
        ] {
            let mut found = judge(model).1;
            found.dedup();
            assert_eq!(found, [rule]);
        }
    }

    #[test]
    fn nested_graphs_do_not_exhaust_the_stack() {
        let mut graph = Vec::new();
        for _ in 0..2000 {
            graph = message(1, &[bytes(4, "If"), message(5, &[bytes(6, &graph)])]);
        }
        let model = [
            number(1, 10),
            bytes(7, &graph),
            message(8, &[number(2, 20)]),
        ]
        .concat();
        assert_eq!(judge(model).1, ["onnx.nesting"]);
    }
}
