//! CatBoost models: the binary form `cbm`, by `catboost/libs/model/flatbuffers/model.fbs`, and its export to JSON.
//!
//! The binary form is a flatbuffer whose offsets the native loader verifies, but whose numbers it trusts: splits, depths and
//! leaves are held against each other here, so that applying the model stays within its arrays.

use crate::check::Check;
use crate::cursor::{Trouble, quote, settle};
use crate::events::{Bounds, Event, Events, Json};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::{ReadError, Source};
use bytes::Bytes;
use serde_json::json;

/// The rules of this format.
pub const RULES: &[Rule] = &[MALFORMED, TOO_LARGE, INDEX];

const MALFORMED: Rule = Rule {
    id: "catboost.malformed",
    verdict: Verdict::Malformed,
    why: "CatBoost's native loader does not survive every file that breaks its format.",
    fix: "Save the model again with `save_model`.",
};
const TOO_LARGE: Rule = Rule {
    id: "catboost.too-large",
    verdict: Verdict::Incomplete,
    why: "A part of the model is larger than the check may hold in memory.",
    fix: "Ask the operator to inspect the model by hand.",
};
const INDEX: Rule = Rule {
    id: "catboost.index-out-of-range",
    verdict: Verdict::Unsafe,
    why: "Native code reads memory at the place that the index names.",
    fix: "Save the model again with `save_model`; a file that CatBoost wrote has no such index.",
};

/// Deepest symmetric tree that CatBoost trains.
const MAX_TREE_DEPTH: u32 = 16;

/// Tells whether this is a model in binary form.
pub fn detect(head: &[u8], _tail: &[u8], _path: &str, _size: u64) -> bool {
    head.starts_with(b"CBM1")
}

/// Tells whether this is a model in JSON.
pub fn detect_json(head: &[u8], _tail: &[u8], _path: &str, _size: u64) -> bool {
    let text = head.trim_ascii_start();
    let Some(text) = text.strip_prefix(b"{") else {
        return false;
    };
    let text = text.trim_ascii_start();
    [
        &b"\"features_info\""[..],
        b"\"ctr_data\"",
        b"\"oblivious_trees\"",
    ]
    .iter()
    .any(|key| text.starts_with(key))
}

/// Inspects a model in binary form.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = core(check);
    settle(check, outcome, &MALFORMED, &TOO_LARGE)?;
    Ok(())
}

/// A flatbuffer that is read through a small window.
struct Flat<'a> {
    source: &'a dyn Source,
    /// Where the buffer lies in the file.
    start: u64,
    size: u64,
    window: Bytes,
    window_start: u64,
}

/// A table, with the fields that it has.
struct Table {
    at: u64,
    /// Bytes of the table itself.
    size: u64,
    /// Offsets of the fields within the table; zero if absent.
    fields: Vec<u16>,
}

/// A vector within the buffer.
#[derive(Debug, Clone, Copy)]
struct Vector {
    at: u64,
    length: u64,
}

impl Flat<'_> {
    const WINDOW_BYTES: u64 = 256 * 1024;

    fn broken<T>(&self, at: u64, detail: &str) -> Result<T, Trouble> {
        Err(Trouble::malformed(self.start.saturating_add(at), detail))
    }

    fn bytes<const N: usize>(&mut self, at: u64) -> Result<[u8; N], Trouble> {
        let end = at.checked_add(N as u64).filter(|end| *end <= self.size);
        let Some(end) = end else {
            return self.broken(at, "an offset that leads out of the model");
        };
        let window_end = self.window_start + self.window.len() as u64;
        if at < self.window_start || end > window_end {
            let stop = at.saturating_add(Self::WINDOW_BYTES).min(self.size);
            self.window = self.source.read(self.start + at..self.start + stop)?;
            self.window_start = at;
        }
        let index = usize::try_from(at - self.window_start).unwrap_or(usize::MAX);
        let bytes = self
            .window
            .get(index..)
            .and_then(|rest| rest.first_chunk::<N>());
        match bytes {
            Some(bytes) => Ok(*bytes),
            None => self.broken(at, "an offset that leads out of the model"),
        }
    }

    fn u32(&mut self, at: u64) -> Result<u32, Trouble> {
        Ok(u32::from_le_bytes(self.bytes(at)?))
    }

    fn i32(&mut self, at: u64) -> Result<i32, Trouble> {
        Ok(i32::from_le_bytes(self.bytes(at)?))
    }

    fn u16(&mut self, at: u64) -> Result<u16, Trouble> {
        Ok(u16::from_le_bytes(self.bytes(at)?))
    }

    /// What the offset at `at` points to.
    fn target(&mut self, at: u64) -> Result<u64, Trouble> {
        let offset = self.u32(at)?;
        match at.checked_add(u64::from(offset)) {
            Some(target) if offset > 0 && target < self.size => Ok(target),
            _ => self.broken(at, "an offset that leads out of the model"),
        }
    }

    fn table(&mut self, at: u64) -> Result<Table, Trouble> {
        let back = i64::from(self.i32(at)?);
        let names = i64::try_from(at)
            .ok()
            .and_then(|at| at.checked_sub(back))
            .and_then(|names| u64::try_from(names).ok());
        let Some(names) = names else {
            return self.broken(at, "a table without a list of fields");
        };
        let length = self.u16(names)?;
        let size = u64::from(self.u16(names + 2)?);
        let is_whole = at.checked_add(size).is_some_and(|end| end <= self.size);
        if length < 4 || length % 2 != 0 || length > 512 || size < 4 || !is_whole {
            return self.broken(names, "a list of fields that cannot be");
        }
        let mut fields = Vec::new();
        for index in 0..u64::from(length - 4) / 2 {
            let offset = self.u16(names + 4 + 2 * index)?;
            if u64::from(offset) >= size {
                return self.broken(names, "a field outside of its table");
            }
            fields.push(offset);
        }
        Ok(Table { at, size, fields })
    }

    /// Where field `index` of a table lies, if the table has it and it has `width` bytes.
    fn field(&mut self, table: &Table, index: usize, width: u64) -> Result<Option<u64>, Trouble> {
        match table.fields.get(index).copied() {
            None | Some(0) => Ok(None),
            Some(offset) if u64::from(offset) + width <= table.size => {
                Ok(Some(table.at + u64::from(offset)))
            }
            Some(_) => self.broken(table.at, "a field outside of its table"),
        }
    }

    /// The vector in field `index`, of elements of `width` bytes.
    fn vector(&mut self, table: &Table, index: usize, width: u64) -> Result<Vector, Trouble> {
        let Some(field) = self.field(table, index, 4)? else {
            return Ok(Vector { at: 0, length: 0 });
        };
        let target = self.target(field)?;
        let length = u64::from(self.u32(target)?);
        let end = length
            .checked_mul(width)
            .and_then(|bytes| bytes.checked_add(target + 4));
        match end {
            Some(end) if end <= self.size => Ok(Vector {
                at: target + 4,
                length,
            }),
            _ => self.broken(target, "a vector that is longer than the model"),
        }
    }

    fn text(&mut self, at: u64, limit: u64) -> Result<String, Trouble> {
        let target = self.target(at)?;
        let length = u64::from(self.u32(target)?);
        let end = target.saturating_add(4).saturating_add(length);
        if end > self.size {
            return self.broken(target, "a text that is longer than the model");
        }
        let stop = end.min(target + 4 + limit);
        let bytes = self
            .source
            .read(self.start + target + 4..self.start + stop)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The tables that a vector of offsets points to.
    fn tables(&mut self, vector: Vector) -> Result<Vec<Table>, Trouble> {
        if vector.length > 100_000 {
            return Err(Trouble::too_large(
                self.start + vector.at,
                "too many features",
            ));
        }
        let mut tables = Vec::new();
        for index in 0..vector.length {
            let target = self.target(vector.at + 4 * index)?;
            tables.push(self.table(target)?);
        }
        Ok(tables)
    }
}

fn core(check: &mut Check<'_>) -> Result<(), Trouble> {
    let size = check.size();
    if size < 16 {
        return Err(Trouble::malformed(0, "the file ends within its header"));
    }
    let head = check.read(0..8)?;
    let core_bytes = head
        .get(4..8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_le_bytes);
    let core_bytes = u64::from(core_bytes);
    if core_bytes < 8 || core_bytes > size - 8 {
        return Err(Trouble::malformed(
            4,
            format!("a core of {core_bytes} bytes in a file of {size}"),
        ));
    }
    let mut flat = Flat {
        source: check.source,
        start: 8,
        size: core_bytes,
        window: Bytes::new(),
        window_start: 0,
    };
    let root = flat.target(0)?;
    let root = flat.table(root)?;
    let version = match flat.field(&root, 0, 4)? {
        Some(field) => flat.text(field, 100)?,
        None => String::new(),
    };
    if !version.to_ascii_lowercase().ends_with("model_v1") {
        return Err(Trouble::malformed(
            8,
            format!("the version {} of the format", quote(&version)),
        ));
    }
    let Some(trees) = flat.field(&root, 1, 4)? else {
        return Err(Trouble::malformed(8, "a model without trees"));
    };
    let trees = flat.target(trees)?;
    let trees = flat.table(trees)?;
    let shape = forest(&mut flat, &trees)?;
    let info = flat.vector(&root, 2, 4)?;
    for pair in flat.tables(info)? {
        for index in 0..2 {
            let Some(field) = flat.field(&pair, index, 4)? else {
                return Err(Trouble::malformed(8, "a property without a name or value"));
            };
            flat.text(field, 0)?;
        }
    }
    let part_ids = flat.vector(&root, 3, 4)?;
    if part_ids.length > 16 {
        return Err(Trouble::malformed(8, "too many parts"));
    }
    let mut parts = Vec::new();
    for index in 0..part_ids.length {
        parts.push(flat.text(part_ids.at + 4 * index, 100)?);
    }
    let rest = size - 8 - core_bytes;
    if parts.is_empty() != (rest == 0) {
        return Err(Trouble::malformed(
            8 + core_bytes,
            format!("{rest} bytes behind the core, but {} parts", parts.len()),
        ));
    }
    check.fact("framework", "catboost");
    check.fact("format_version", version);
    check.fact("tree_count", shape.trees);
    check.fact("feature_count", shape.features);
    check.fact("categorical_feature_count", shape.categorical);
    check.fact("leaf_count", shape.leaves);
    check.fact("output_count", shape.outputs);
    check.fact("symmetric_trees", shape.is_symmetric);
    check.fact("parts", json!(parts));
    Ok(())
}

struct Shape {
    trees: u64,
    features: u64,
    categorical: u64,
    leaves: u64,
    outputs: u64,
    is_symmetric: bool,
}

/// Holds the numbers of all trees against each other.
fn forest(flat: &mut Flat<'_>, trees: &Table) -> Result<Shape, Trouble> {
    let at = flat.start + trees.at;
    let outputs = match flat.field(trees, 0, 4)? {
        Some(field) => flat.i32(field)?,
        None => 0,
    };
    let outputs = match u64::try_from(outputs) {
        Ok(outputs) if (1..1_000_000).contains(&outputs) => outputs,
        _ => return Err(Trouble::malformed(at, format!("{outputs} outputs"))),
    };
    let splits = flat.vector(trees, 1, 4)?;
    let sizes = flat.vector(trees, 2, 4)?;
    let starts = flat.vector(trees, 3, 4)?;
    let categorical = flat.vector(trees, 4, 4)?;
    let floats = flat.vector(trees, 5, 4)?;
    let one_hots = flat.vector(trees, 6, 4)?;
    let counters = flat.vector(trees, 7, 4)?;
    let leaves = flat.vector(trees, 8, 8)?;
    let weights = flat.vector(trees, 9, 8)?;
    let nodes = flat.vector(trees, 10, 4)?;
    let leaf_ids = flat.vector(trees, 11, 4)?;
    let texts = flat.vector(trees, 12, 4)?;
    let estimated = flat.vector(trees, 13, 4)?;
    let mut conditions = 0_u64;
    let mut features = categorical.length.saturating_add(texts.length);
    flat.tables(categorical)?;
    flat.tables(texts)?;
    for feature in flat.tables(floats)? {
        features += 1;
        conditions += flat.vector(&feature, 3, 4)?.length;
    }
    for feature in flat.tables(one_hots)? {
        conditions += flat.vector(&feature, 1, 4)?.length;
    }
    for feature in flat.tables(counters)? {
        conditions += flat.vector(&feature, 1, 4)?.length;
    }
    for feature in flat.tables(estimated)? {
        conditions += flat.vector(&feature, 3, 4)?.length;
    }
    let is_symmetric = nodes.length == 0;
    let mut total = 0_u64;
    let mut leaf_total = 0_u64;
    if starts.length != 0 && starts.length != sizes.length {
        return Err(Trouble::malformed(at, "trees without a start"));
    }
    for tree in 0..sizes.length {
        let size = flat.i32(sizes.at + 4 * tree)?;
        let Ok(size) = u32::try_from(size) else {
            return Err(Trouble::rule(
                &INDEX,
                at,
                format!("tree {tree} has the size {size}"),
            ));
        };
        if starts.length != 0 {
            let start = flat.i32(starts.at + 4 * tree)?;
            if u64::try_from(start) != Ok(total) {
                return Err(Trouble::rule(
                    &INDEX,
                    at,
                    format!("tree {tree} starts at {start}, not at {total}"),
                ));
            }
        }
        if is_symmetric {
            if size > MAX_TREE_DEPTH {
                return Err(Trouble::rule(
                    &INDEX,
                    at,
                    format!("tree {tree} is {size} deep"),
                ));
            }
            leaf_total = leaf_total.saturating_add((1_u64 << size).saturating_mul(outputs));
        } else {
            walk(flat, nodes, total, u64::from(size), tree)?;
        }
        total += u64::from(size);
    }
    if total != splits.length {
        return Err(Trouble::rule(
            &INDEX,
            at,
            format!("{} splits, but the trees need {total}", splits.length),
        ));
    }
    for index in 0..splits.length {
        let split = flat.i32(splits.at + 4 * index)?;
        let is_known = u64::try_from(split).is_ok_and(|split| split < conditions);
        // A node of an asymmetric tree that is a leaf has no condition.
        if !(is_known || (!is_symmetric && split == 0)) {
            return Err(Trouble::rule(
                &INDEX,
                flat.start + splits.at + 4 * index,
                format!("a split by condition {split} of {conditions}"),
            ));
        }
    }
    if is_symmetric {
        if leaf_total != leaves.length {
            return Err(Trouble::rule(
                &INDEX,
                at,
                format!(
                    "{} values in leaves, but the trees need {leaf_total}",
                    leaves.length
                ),
            ));
        }
    } else {
        if nodes.length != splits.length || leaf_ids.length != nodes.length {
            return Err(Trouble::rule(
                &INDEX,
                at,
                "arrays of nodes differ in length",
            ));
        }
        for index in 0..leaf_ids.length {
            let diff = flat.u32(nodes.at + 4 * index)?;
            let id = flat.u32(leaf_ids.at + 4 * index)?;
            let is_inner = diff & 0xffff != 0 && diff >> 16 != 0;
            let is_within = u64::from(id)
                .checked_add(outputs)
                .is_some_and(|end| end <= leaves.length);
            if !is_inner && !is_within {
                return Err(Trouble::rule(
                    &INDEX,
                    flat.start + leaf_ids.at + 4 * index,
                    format!("leaf {id} of {}", leaves.length),
                ));
            }
        }
    }
    let leaf_count = leaves.length / outputs;
    if weights.length != 0 && weights.length != leaf_count {
        return Err(Trouble::malformed(
            at,
            format!("{} weights for {leaf_count} leaves", weights.length),
        ));
    }
    Ok(Shape {
        trees: sizes.length,
        features,
        categorical: categorical.length,
        leaves: leaf_count,
        outputs,
        is_symmetric,
    })
}

/// Nodes of an asymmetric tree name their children by the distance forward, so a walk ends; it must end within the tree.
fn walk(
    flat: &mut Flat<'_>,
    nodes: Vector,
    start: u64,
    size: u64,
    tree: u64,
) -> Result<(), Trouble> {
    let is_within = start
        .checked_add(size)
        .is_some_and(|end| end <= nodes.length);
    if !is_within || size == 0 {
        return Err(Trouble::rule(
            &INDEX,
            flat.start + nodes.at,
            format!("tree {tree} has {size} nodes"),
        ));
    }
    for node in 0..size {
        let at = nodes.at + 4 * (start + node);
        let diff = flat.u32(at)?;
        for diff in [diff & 0xffff, diff >> 16] {
            if node + u64::from(diff) >= size {
                return Err(Trouble::rule(
                    &INDEX,
                    flat.start + at,
                    format!("node {node} of tree {tree} leads {diff} nodes on, out of {size}"),
                ));
            }
        }
    }
    Ok(())
}

/// Inspects a model in JSON.
pub fn check_json(check: &mut Check<'_>) -> Result<(), ReadError> {
    let source = check.source;
    let outcome = document(&mut Json::new(source, Bounds::default()));
    if let Some(model) = settle(check, outcome, &MALFORMED, &TOO_LARGE)? {
        check.fact("framework", "catboost");
        check.fact("tree_count", model.trees);
        check.fact("feature_count", model.floats + model.categorical);
        check.fact("categorical_feature_count", model.categorical);
        check.fact("output_count", model.outputs);
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Model {
    floats: u64,
    categorical: u64,
    trees: u64,
    outputs: Option<u64>,
    largest_float: Option<i64>,
    has_features: bool,
}

fn document(events: &mut Json<'_>) -> Result<Model, Trouble> {
    let mut model = Model::default();
    let mut has_trees = false;
    events.object()?;
    while let Some(key) = events.key()? {
        match key.as_str() {
            "features_info" => {
                model.has_features = true;
                events.object()?;
                while let Some(key) = events.key()? {
                    match key.as_str() {
                        "float_features" => model.floats = count(events)?,
                        "categorical_features" => model.categorical = count(events)?,
                        _ => events.skip_next()?,
                    }
                }
            }
            "oblivious_trees" => {
                has_trees = true;
                events.array()?;
                loop {
                    match events.next()? {
                        Event::ObjectStart => tree(events, &mut model)?,
                        Event::ArrayEnd => break,
                        _ => return Err(events.unexpected("a tree")),
                    }
                }
            }
            "trees" => {
                has_trees = true;
                model.trees = count(events)?;
            }
            "ctr_data" | "model_info" | "scale_and_bias" => events.skip_next()?,
            _ => {
                return Err(Trouble::malformed(
                    events.offset(),
                    format!("the key {}, which no model has", quote(&key)),
                ));
            }
        }
    }
    if events.next()? != Event::End {
        return Err(events.unexpected("the end"));
    }
    if !has_trees || !model.has_features {
        return Err(Trouble::malformed(
            events.offset(),
            "the document has no trees, or no features",
        ));
    }
    if let Some(feature) = model.largest_float
        && u64::try_from(feature).map_or(true, |feature| feature >= model.floats)
    {
        return Err(Trouble::rule(
            &INDEX,
            events.offset(),
            format!("a split by feature {feature} of {}", model.floats),
        ));
    }
    Ok(model)
}

/// How many values an array has.
fn count(events: &mut Json<'_>) -> Result<u64, Trouble> {
    events.array()?;
    let mut count = 0;
    loop {
        match events.next()? {
            Event::ArrayEnd => return Ok(count),
            first => events.skip(&first)?,
        }
        count += 1;
    }
}

/// One symmetric tree, whose object was entered.
fn tree(events: &mut Json<'_>, model: &mut Model) -> Result<(), Trouble> {
    let start = events.offset();
    let (mut values, mut weights, mut splits) = (0, None, 0_u32);
    while let Some(key) = events.key()? {
        match key.as_str() {
            "leaf_values" => values = count(events)?,
            "leaf_weights" => weights = Some(count(events)?),
            "splits" => {
                let first = events.next()?;
                // A tree of one leaf has no splits.
                if first == Event::Null {
                    continue;
                }
                if first != Event::ArrayStart {
                    return Err(events.unexpected("splits"));
                }
                loop {
                    match events.next()? {
                        Event::ObjectStart => {}
                        Event::ArrayEnd => break,
                        _ => return Err(events.unexpected("a split")),
                    }
                    splits += 1;
                    if splits > MAX_TREE_DEPTH {
                        return Err(Trouble::rule(&INDEX, start, "a tree that is too deep"));
                    }
                    while let Some(key) = events.key()? {
                        if key == "float_feature_index" {
                            let Event::Integer(feature) = events.next()? else {
                                return Err(events.unexpected("an index"));
                            };
                            if feature < 0 {
                                return Err(Trouble::rule(&INDEX, start, "a negative feature"));
                            }
                            model.largest_float = model.largest_float.max(Some(feature));
                        } else {
                            events.skip_next()?;
                        }
                    }
                }
            }
            _ => events.skip_next()?,
        }
    }
    model.trees += 1;
    let leaves = 1_u64 << splits;
    let outputs = values / leaves;
    if values == 0 || values % leaves != 0 || *model.outputs.get_or_insert(outputs) != outputs {
        return Err(Trouble::rule(
            &INDEX,
            start,
            format!("{values} values in leaves of a tree with {splits} splits"),
        ));
    }
    if weights.is_some_and(|weights| weights != leaves && weights != 0) {
        return Err(Trouble::malformed(
            start,
            "a tree with other weights than leaves",
        ));
    }
    Ok(())
}
