//! TensorFlow Lite: a flatbuffer with operators, tensors and buffers.
//!
//! Specification: `tensorflow/compiler/mlir/lite/schema/schema.fbs` of <https://github.com/tensorflow/tensorflow> and
//! <https://flatbuffers.dev/internals/>.
//! The reader walks tables and skips the contents of buffers; every offset and length is checked before it is used.

use crate::check::Check;
use crate::safetensors::shorten;
use crate::source::ReadError;
use crate::window::{Stop, Window, declare_rules, settle, zip_trailer};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

declare_rules! {
    STRUCTURE = "tflite.structure", Malformed,
        "An offset or length that leaves the file makes interpreters without verification read foreign memory.",
        "Convert the model again.";
    MODEL = "tflite.model", Malformed,
        "Tensors, operators and buffers that do not fit one another crash the interpreter.",
        "Convert the model again with a current converter.";
    CUSTOM = "tflite.custom-operator", ContainsCode,
        "The operator is not built in, so native code of the author, or the whole of TensorFlow, is needed to run it.",
        "Convert the model with built-in operators only, or have the version approved.";
    DANGEROUS = "tflite.dangerous-operator", Unsafe,
        "The TensorFlow operation that is embedded reads or writes files or runs Python.",
        "Remove the operation from the model.";
    POLYGLOT = "tflite.zip-inside", Unsafe,
        "The file ends in a zip directory with members that are no metadata of the model.",
        "Remove the appended archive.";
}

const CUSTOM_OPERATOR: u64 = 32;
/// Highest built-in operator; `STABLEHLO_CASE` and a margin for a release or two.
const MAX_BUILTIN: u64 = 220;
/// Most tables of one file.
const MAX_TABLES: u64 = 4_000_000;

/// Whether the content is a TensorFlow Lite model.
pub fn detect(head: &[u8], _tail: &[u8], _path: &str, _size: u64) -> bool {
    head.get(4..8) == Some(b"TFL3")
}

/// Checks tables, operators, tensors and buffers.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = model(check);
    settle(check, outcome)
}

struct Buffer<'a> {
    window: Window<'a>,
    tables: u64,
}

/// A table: where it lies, where its fields are described, and how many there are.
#[derive(Debug, Clone, Copy)]
struct Table {
    at: u64,
    fields: u64,
    count: u64,
    bytes: u64,
}

/// A vector: where its elements begin, and how many there are.
#[derive(Debug, Clone, Copy, Default)]
struct Vector {
    at: u64,
    count: u64,
}

fn broken<T>(at: u64, detail: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::at(&STRUCTURE, at, detail))
}

impl Buffer<'_> {
    fn number(&mut self, at: u64, width: usize) -> Result<u64, Stop> {
        match self.window.number(at, width)? {
            Some(value) => Ok(value),
            None => broken(at, format!("byte {at} lies outside of the file")),
        }
    }

    /// Follows the offset at `at`.
    fn follow(&mut self, at: u64) -> Result<u64, Stop> {
        let offset = self.number(at, 4)?;
        match at.checked_add(offset) {
            Some(target) if offset > 0 && target < self.window.size() => Ok(target),
            _ => broken(at, format!("an offset of {offset} leaves the file")),
        }
    }

    fn table(&mut self, at: u64) -> Result<Table, Stop> {
        self.tables += 1;
        if self.tables > MAX_TABLES {
            return broken(at, "the file has more tables than any real one");
        }
        let back = u32::try_from(self.number(at, 4)?)
            .unwrap_or(0)
            .cast_signed();
        let Some(fields) = at.checked_add_signed(-i64::from(back)) else {
            return broken(at, "a table has no description");
        };
        let description = self.number(fields, 2)?;
        let bytes = self.number(fields.saturating_add(2), 2)?;
        let within = fields.saturating_add(description) <= self.window.size()
            && at.saturating_add(bytes) <= self.window.size();
        if description < 4 || description % 2 != 0 || bytes < 4 || !within {
            return broken(fields, "a table has a broken description");
        }
        Ok(Table {
            at,
            fields,
            count: (description - 4) / 2,
            bytes,
        })
    }

    /// Where field `index` of a table lies, if it is there.
    fn field(&mut self, table: Table, index: u64, width: u64) -> Result<Option<u64>, Stop> {
        if index >= table.count {
            return Ok(None);
        }
        let offset = self.number(table.fields + 4 + index * 2, 2)?;
        if offset == 0 {
            return Ok(None);
        }
        if offset < 4 || offset + width > table.bytes {
            return broken(table.at, "a field lies outside of its table");
        }
        Ok(Some(table.at + offset))
    }

    fn value(&mut self, table: Table, index: u64, width: usize) -> Result<Option<u64>, Stop> {
        match self.field(table, index, width as u64)? {
            Some(at) => self.number(at, width).map(Some),
            None => Ok(None),
        }
    }

    /// The vector in field `index`, whose elements take `width` bytes each.
    fn vector(&mut self, table: Table, index: u64, width: u64) -> Result<Vector, Stop> {
        let Some(at) = self.field(table, index, 4)? else {
            return Ok(Vector::default());
        };
        let at = self.follow(at)?;
        let count = self.number(at, 4)?;
        let end = count
            .checked_mul(width)
            .and_then(|bytes| bytes.checked_add(at)?.checked_add(4));
        if end.is_none_or(|end| end > self.window.size()) {
            return broken(at, format!("a vector of {count} elements leaves the file"));
        }
        Ok(Vector { at: at + 4, count })
    }

    fn text(&mut self, table: Table, index: u64) -> Result<Option<String>, Stop> {
        if self.field(table, index, 4)?.is_none() {
            return Ok(None);
        }
        let vector = self.vector(table, index, 1)?;
        let length = usize::try_from(vector.count).unwrap_or(usize::MAX);
        if length > 64 * 1024 {
            return broken(vector.at, "a name is longer than any real one");
        }
        match self.window.get(vector.at, length)? {
            Some(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            None => broken(vector.at, "a name leaves the file"),
        }
    }

    /// The table in a vector of tables.
    fn element(&mut self, vector: Vector, index: u64) -> Result<Table, Stop> {
        let at = self.follow(vector.at + index * 4)?;
        self.table(at)
    }

    fn numbers(&mut self, vector: Vector, limit: u64) -> Result<Vec<i64>, Stop> {
        if vector.count > limit {
            return broken(
                vector.at,
                format!(
                    "a list of {} numbers is longer than any real one",
                    vector.count
                ),
            );
        }
        (0..vector.count)
            .map(|index| {
                let value = self.number(vector.at + index * 4, 4)?;
                Ok(i64::from(u32::try_from(value).unwrap_or(0).cast_signed()))
            })
            .collect()
    }
}

/// Name and bits of an element type; no bits where a tensor's bytes are not its elements.
fn element_type(kind: u64) -> Option<(&'static str, u64)> {
    const TYPES: &[(&str, u64)] = &[
        ("float32", 32),
        ("float16", 16),
        ("int32", 32),
        ("uint8", 8),
        ("int64", 64),
        ("string", 0),
        ("bool", 8),
        ("int16", 16),
        ("complex64", 64),
        ("int8", 8),
        ("float64", 64),
        ("complex128", 128),
        ("uint64", 64),
        ("resource", 0),
        ("variant", 0),
        ("uint32", 32),
        ("uint16", 16),
        ("int4", 4),
        ("bfloat16", 16),
        ("int2", 2),
        ("uint4", 4),
    ];
    TYPES.get(usize::try_from(kind).ok()?).copied()
}

fn model(check: &mut Check<'_>) -> Result<(), Stop> {
    let size = check.size();
    let mut buffer = Buffer {
        window: Window::new(check.source, 8 * 1024, 256),
        tables: 0,
    };
    let tail = check.read(size.saturating_sub(65_536 + 22)..size)?;
    if let Some(at) = zip_trailer(&tail, size) {
        // The metadata library packs associated files, such as labels, behind the model; these are texts.
        if !is_label_archive(&tail) {
            check.find(
                &POLYGLOT,
                Some(size - tail.len() as u64 + at as u64),
                "a zip archive ends where the file ends",
            );
        }
    }
    let root = buffer.follow(0)?;
    let root = buffer.table(root)?;
    let version = buffer.value(root, 0, 4)?.unwrap_or(0);
    check.fact("format_version", version);
    if version != 3 {
        return Err(Stop::at(
            &MODEL,
            0,
            format!("the model has version {version}, not 3"),
        ));
    }
    if let Some(text) = buffer.text(root, 3)? {
        check.fact("description", shorten(&text));
    }
    let custom = operators(check, &mut buffer, root)?;
    let sizes = buffers(&mut buffer, root)?;
    let codes = buffer.vector(root, 1, 4)?.count;
    let graphs = buffer.vector(root, 2, 4)?;
    if graphs.count == 0 || graphs.count > 10_000 {
        return Err(Stop::at(
            &MODEL,
            graphs.at,
            format!("the model has {} graphs", graphs.count),
        ));
    }
    let mut facts = Facts::default();
    for index in 0..graphs.count {
        let graph = buffer.element(graphs, index)?;
        subgraph(
            check,
            &mut buffer,
            graph,
            index == 0,
            codes,
            &sizes,
            &mut facts,
        )?;
    }
    let metadata = buffer.vector(root, 6, 4)?;
    for index in 0..metadata.count.min(1000) {
        let entry = buffer.element(metadata, index)?;
        buffer.text(entry, 0)?;
        let target = buffer.value(entry, 1, 4)?.unwrap_or(0);
        if usize::try_from(target).is_ok_and(|target| target >= sizes.len()) {
            return Err(Stop::at(
                &MODEL,
                entry.at,
                format!("metadata lie in the buffer {target}, which does not exist"),
            ));
        }
    }
    check.fact("tensor_count", facts.tensors);
    check.fact("parameter_count", facts.parameters);
    check.fact("dtypes", json!(facts.dtypes));
    check.fact("shapes", Value::Object(facts.shapes));
    check.fact("operator_count", facts.operators);
    if !custom.is_empty() {
        check.fact("custom_ops", json!(custom));
    }
    Ok(())
}

/// Whether every member that the directory at the end lists is a text.
fn is_label_archive(tail: &[u8]) -> bool {
    let mut names = 0;
    let mut at = 0;
    while let Some(found) = tail
        .get(at..)
        .and_then(|rest| rest.windows(4).position(|window| window == b"PK\x01\x02"))
    {
        let entry = at + found;
        let Some(fixed) = tail.get(entry..entry + 46) else {
            return false;
        };
        let length = usize::from(u16::from_le_bytes([fixed[28], fixed[29]]));
        let Some(name) = tail.get(entry + 46..entry + 46 + length) else {
            return false;
        };
        let name = String::from_utf8_lossy(name);
        let is_text = [".txt", ".csv", ".json", ".labels"]
            .iter()
            .any(|end| name.ends_with(end));
        if !is_text
            || name.contains("..")
            || name.contains('/')
            || name == "schema.json"
            || name == "config.json"
        {
            return false;
        }
        names += 1;
        at = entry + 46 + length;
    }
    names > 0
}

/// Checks the list of operators; answers those that are not built in.
fn operators(
    check: &mut Check<'_>,
    buffer: &mut Buffer<'_>,
    root: Table,
) -> Result<BTreeSet<String>, Stop> {
    let codes = buffer.vector(root, 1, 4)?;
    let mut custom = BTreeSet::new();
    if codes.count > 100_000 {
        return broken(codes.at, "the model has more operators than exist");
    }
    for index in 0..codes.count {
        let code = buffer.element(codes, index)?;
        let old = buffer.value(code, 0, 1)?.unwrap_or(0);
        let new = buffer.value(code, 3, 4)?.unwrap_or(0);
        let builtin = old.max(new);
        if builtin > MAX_BUILTIN {
            return Err(Stop::at(
                &MODEL,
                code.at,
                format!("there is no built-in operator {builtin}"),
            ));
        }
        let name = buffer.text(code, 1)?;
        if builtin != CUSTOM_OPERATOR {
            continue;
        }
        let name = name.unwrap_or_default();
        let flex = name.strip_prefix("Flex");
        if flex.is_some_and(crate::savedmodel::is_dangerous) {
            check.find(
                &DANGEROUS,
                Some(code.at),
                format!("the operator `{}`", shorten(&name)),
            );
        } else if BUILT_IN_CUSTOM.contains(&name.as_str()) {
            // Registered by the interpreter itself.
        } else if custom.len() < 100 && custom.insert(shorten(&name)) {
            check.find(
                &CUSTOM,
                Some(code.at),
                format!("the operator `{}`", shorten(&name)),
            );
        }
    }
    Ok(custom)
}

/// Operators that are custom by name only: the interpreter's own resolver knows them.
const BUILT_IN_CUSTOM: &[&str] = &[
    "TFLite_Detection_PostProcess",
    "Mfcc",
    "AudioSpectrogram",
    "NumericVerify",
];

/// Checks the buffers; answers the size of each, `None` if its bytes lie elsewhere in the file.
fn buffers(buffer: &mut Buffer<'_>, root: Table) -> Result<Vec<u64>, Stop> {
    let list = buffer.vector(root, 4, 4)?;
    if list.count > 1_000_000 {
        return broken(list.at, "the model has more buffers than any real one");
    }
    let mut sizes = Vec::new();
    for index in 0..list.count {
        let entry = buffer.element(list, index)?;
        let data = buffer.vector(entry, 0, 1)?;
        let offset = buffer.value(entry, 1, 8)?.unwrap_or(0);
        let length = buffer.value(entry, 2, 8)?.unwrap_or(0);
        if offset > 1
            && offset
                .checked_add(length)
                .is_none_or(|end| end > buffer.window.size())
        {
            return broken(
                entry.at,
                format!("the buffer {index} lies outside of the file"),
            );
        }
        sizes.push(if offset > 1 { length } else { data.count });
    }
    Ok(sizes)
}

#[derive(Default)]
struct Facts {
    tensors: u64,
    parameters: u64,
    operators: u64,
    dtypes: BTreeMap<&'static str, u64>,
    shapes: Map<String, Value>,
}

fn subgraph(
    check: &mut Check<'_>,
    buffer: &mut Buffer<'_>,
    graph: Table,
    is_main: bool,
    codes: u64,
    sizes: &[u64],
    facts: &mut Facts,
) -> Result<(), Stop> {
    let tensors = buffer.vector(graph, 0, 4)?;
    let mut told = Vec::new();
    for index in 0..tensors.count {
        let tensor = buffer.element(tensors, index)?;
        let shape = buffer.vector(tensor, 0, 4)?;
        let shape = buffer.numbers(shape, 64)?;
        let kind = buffer.value(tensor, 1, 1)?.unwrap_or(0);
        let Some((dtype, bits)) = element_type(kind) else {
            return Err(Stop::at(
                &MODEL,
                tensor.at,
                format!("{kind} is no element type"),
            ));
        };
        let at = buffer.value(tensor, 2, 4)?.unwrap_or(0);
        let Some(available) = usize::try_from(at)
            .ok()
            .and_then(|at| sizes.get(at))
            .copied()
        else {
            return Err(Stop::at(
                &MODEL,
                tensor.at,
                format!("a tensor lies in the buffer {at}, which does not exist"),
            ));
        };
        let name = buffer.text(tensor, 3)?.unwrap_or_default();
        for list in [4, 6] {
            if let Some(at) = buffer.field(tensor, list, 4)? {
                let at = buffer.follow(at)?;
                buffer.table(at)?;
            }
        }
        let elements = shape.iter().try_fold(1u64, |product, dimension| {
            product.checked_mul(u64::try_from(*dimension).ok()?)
        });
        let is_sparse = buffer.field(tensor, 6, 4)?.is_some();
        if available > 0 {
            let bytes = elements
                .and_then(|elements| elements.checked_mul(bits))
                .map(|bits| bits.div_ceil(8));
            if bits > 0 && !is_sparse && bytes != Some(available) {
                return Err(Stop::at(
                    &MODEL,
                    tensor.at,
                    format!("{dtype} {shape:?} does not take the {available} bytes of its buffer"),
                ));
            }
            if is_main && bits > 0 {
                facts.parameters = facts.parameters.saturating_add(elements.unwrap_or(0));
            }
            if is_main && facts.shapes.len() < 50 && name.len() <= 256 {
                facts.shapes.insert(name.clone(), json!(shape));
            }
        } else if elements.is_none() && shape.iter().all(|dimension| *dimension >= 0) {
            return Err(Stop::at(
                &MODEL,
                tensor.at,
                format!("the dimensions {shape:?} overflow"),
            ));
        }
        facts.tensors += 1;
        *facts.dtypes.entry(dtype).or_default() += 1;
        if is_main && told.len() < 100_000 {
            told.push((shorten(&name), dtype, shape));
        }
    }
    let known = |numbers: &[i64]| {
        numbers.iter().all(|index| {
            *index == -1 || u64::try_from(*index).is_ok_and(|index| index < tensors.count)
        })
    };
    let mut ends = Vec::new();
    for field in [1, 2] {
        let list = buffer.vector(graph, field, 4)?;
        let numbers = buffer.numbers(list, 100_000)?;
        if !known(&numbers) {
            return Err(Stop::at(
                &MODEL,
                list.at,
                "the graph has an input or output that does not exist",
            ));
        }
        let describe = |index: &i64| {
            usize::try_from(*index)
                .ok()
                .and_then(|index| told.get(index))
                .map(|(name, dtype, shape)| json!({"name": name, "dtype": dtype, "shape": shape}))
        };
        ends.push(
            numbers
                .iter()
                .take(100)
                .filter_map(describe)
                .collect::<Vec<_>>(),
        );
    }
    if is_main && let [inputs, outputs] = ends.as_slice() {
        check.fact("signature", json!({"inputs": inputs, "outputs": outputs}));
    }
    let operators = buffer.vector(graph, 3, 4)?;
    for index in 0..operators.count {
        let operator = buffer.element(operators, index)?;
        let code = buffer.value(operator, 0, 4)?.unwrap_or(0);
        if code >= codes {
            return Err(Stop::at(
                &MODEL,
                operator.at,
                format!("an operator has the code {code}, which does not exist"),
            ));
        }
        for field in [1, 2, 8] {
            let list = buffer.vector(operator, field, 4)?;
            let numbers = buffer.numbers(list, 100_000)?;
            if !known(&numbers) {
                return Err(Stop::at(
                    &MODEL,
                    list.at,
                    "an operator uses a tensor that does not exist",
                ));
            }
        }
        if let Some(at) = buffer.field(operator, 4, 4)? {
            let at = buffer.follow(at)?;
            buffer.table(at)?;
        }
        buffer.vector(operator, 5, 1)?;
        facts.operators += 1;
    }
    buffer.text(graph, 4)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;
    use crate::test_support::run;

    #[test]
    fn offsets_that_leave_the_file_are_refused() {
        for root in [0u32, 4, 8, 1000, u32::MAX] {
            let mut bytes = root.to_le_bytes().to_vec();
            bytes.extend_from_slice(b"TFL3");
            bytes.extend_from_slice(&[0xff; 64]);
            assert!(detect(&bytes, &[], "m", 72));
            assert_eq!(run(check, "m.tflite", bytes).0, Verdict::Malformed);
        }
    }
}
