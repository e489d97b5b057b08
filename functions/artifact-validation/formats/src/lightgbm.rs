//! LightGBM models in text, by `src/boosting/gbdt_model_text.cpp` and `src/io/tree.cpp` of LightGBM.
//!
//! The native loader finds trees by the byte lengths in `tree_sizes` and follows child indices without looking, so both are
//! proven here: the trees tile the file as declared, and each is a tree.

use crate::check::Check;
use crate::cursor::{Cursor, Trouble, quote, settle};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::ReadError;
use serde_json::json;
use std::collections::HashMap;

/// The rules of this format.
pub const RULES: &[Rule] = &[MALFORMED, TOO_LARGE, INDEX];

const MALFORMED: Rule = Rule {
    id: "lightgbm.malformed",
    verdict: Verdict::Malformed,
    why: "LightGBM's native loader does not survive every file that breaks its format.",
    fix: "Save the model again with `Booster.save_model`.",
};
const TOO_LARGE: Rule = Rule {
    id: "lightgbm.too-large",
    verdict: Verdict::Incomplete,
    why: "A part of the model is larger than the check may hold in memory.",
    fix: "Train with smaller trees, or ask the operator to inspect the model by hand.",
};
const INDEX: Rule = Rule {
    id: "lightgbm.index-out-of-range",
    verdict: Verdict::Unsafe,
    why: "Native code reads memory at the place that the index names.",
    fix: "Save the model again with `Booster.save_model`; a file that LightGBM wrote has no such index.",
};

/// Longest line, which holds one array of a tree or all names of features.
const MAX_LINE_BYTES: usize = 8 * 1024 * 1024;

/// Most leaves of one tree, so that its arrays stay well below the memory bound.
const MAX_LEAVES: usize = 500_000;

/// Tells whether the file begins like a LightGBM model.
pub fn detect(head: &[u8], _tail: &[u8], _path: &str, _size: u64) -> bool {
    let head = head.strip_prefix(b"tree").unwrap_or(&[]);
    let head = head.strip_prefix(b"\r").unwrap_or(head);
    head.starts_with(b"\nversion=")
}

/// Inspects one model.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let mut cursor = Cursor::new(check.source);
    let outcome = model(&mut cursor);
    if let Some(model) = settle(check, outcome, &MALFORMED, &TOO_LARGE)? {
        check.fact("framework", "lightgbm");
        check.fact("format_version", model.version);
        check.fact("objective", model.objective);
        check.fact("feature_count", model.feature_count);
        check.fact("num_class", model.class_count);
        check.fact("tree_count", model.tree_count);
        check.fact("leaf_count", model.leaf_count);
        check.fact("feature_names", json!(model.feature_names));
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Model {
    version: String,
    objective: String,
    feature_count: u64,
    class_count: u64,
    trees_per_iteration: u64,
    feature_names: Vec<String>,
    tree_sizes: Option<Vec<u64>>,
    tree_count: u64,
    leaf_count: u64,
}

fn model(cursor: &mut Cursor<'_>) -> Result<Model, Trouble> {
    let mut line = Vec::new();
    let mut header: HashMap<String, String> = HashMap::new();
    let mut held = 0_usize;
    let mut model;
    // The header ends at the first tree, or at the end of the trees of a model that has none.
    let mut start;
    loop {
        start = cursor.offset();
        if !cursor.line(&mut line, MAX_LINE_BYTES)? {
            return Err(Trouble::malformed(start, "the file ends within its header"));
        }
        let text = as_text(&line, start)?;
        if text.starts_with("Tree=") || text == "end of trees" {
            model = read_header(&header, start)?;
            break;
        }
        if let Some((key, value)) = text.split_once('=') {
            held = held.saturating_add(text.len());
            if header.len() >= 64 || held > 2 * MAX_LINE_BYTES {
                return Err(Trouble::malformed(start, "the header has too many lines"));
            }
            if header.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(Trouble::malformed(
                    start,
                    format!("the header names {} twice", quote(key)),
                ));
            }
        }
    }
    loop {
        let text = as_text(&line, start)?;
        if text == "end of trees" {
            break;
        }
        let Some(number) = text.strip_prefix("Tree=") else {
            return Err(Trouble::malformed(start, "expected a tree"));
        };
        if number.parse() != Ok(model.tree_count) {
            return Err(Trouble::malformed(
                start,
                format!("expected tree {}", model.tree_count),
            ));
        }
        let mut fields: HashMap<String, Vec<u8>> = HashMap::new();
        let mut held = 0_usize;
        let next = loop {
            let offset = cursor.offset();
            if !cursor.line(&mut line, MAX_LINE_BYTES)? {
                // Files without the end mark come from versions without `tree_sizes`.
                break offset;
            }
            if line.starts_with(b"Tree=") || line.trim_ascii_end() == b"end of trees" {
                break offset;
            }
            let trimmed = line.trim_ascii();
            if trimmed.is_empty() {
                continue;
            }
            let Some(equals) = trimmed.iter().position(|byte| *byte == b'=') else {
                return Err(Trouble::malformed(offset, "a line of a tree without `=`"));
            };
            let (key, value) = trimmed.split_at(equals);
            let key = as_text(key, offset)?.to_owned();
            held = held.saturating_add(value.len());
            if held > 2 * MAX_LINE_BYTES || fields.len() >= 64 {
                return Err(Trouble::too_large(start, "a tree is too large"));
            }
            let value = value.get(1..).unwrap_or(&[]).to_vec();
            if fields.insert(key, value).is_some() {
                return Err(Trouble::malformed(offset, "a tree names a field twice"));
            }
        };
        tree(&fields, &mut model, start)?;
        if let Some(sizes) = &model.tree_sizes {
            let index = usize::try_from(model.tree_count).unwrap_or(usize::MAX);
            let declared = sizes.get(index).copied();
            if declared != Some(next - start) {
                return Err(Trouble::rule(
                    &INDEX,
                    start,
                    format!(
                        "tree {index} has {} bytes, but `tree_sizes` says {declared:?}",
                        next - start
                    ),
                ));
            }
        }
        model.tree_count += 1;
        if next >= cursor.offset() && cursor.remaining() == 0 {
            break;
        }
        start = next;
    }
    if model
        .tree_sizes
        .as_ref()
        .is_some_and(|sizes| sizes.len() as u64 != model.tree_count)
    {
        return Err(Trouble::rule(
            &INDEX,
            start,
            format!(
                "`tree_sizes` names other than the {} trees of the file",
                model.tree_count
            ),
        ));
    }
    if model.tree_count % model.trees_per_iteration.max(1) != 0 {
        return Err(Trouble::malformed(
            start,
            "the last iteration lacks some of its trees",
        ));
    }
    rest(cursor, &mut line)?;
    Ok(model)
}

/// What follows the trees is text: importances, parameters, categories of pandas.
fn rest(cursor: &mut Cursor<'_>, line: &mut Vec<u8>) -> Result<(), Trouble> {
    loop {
        let offset = cursor.offset();
        if !cursor.line(line, MAX_LINE_BYTES)? {
            return Ok(());
        }
        let text = as_text(line, offset)?;
        if text.contains('\0') {
            return Err(Trouble::malformed(offset, "a zero byte within text"));
        }
        if text.starts_with("Tree=") {
            return Err(Trouble::malformed(offset, "a tree behind the end of trees"));
        }
    }
}

fn as_text(line: &[u8], offset: u64) -> Result<&str, Trouble> {
    std::str::from_utf8(line)
        .map(str::trim_end)
        .map_err(|_| Trouble::malformed(offset, "a line that is not UTF-8"))
}

fn read_header(header: &HashMap<String, String>, end: u64) -> Result<Model, Trouble> {
    let field = |key: &str| {
        header
            .get(key)
            .map(String::as_str)
            .ok_or_else(|| Trouble::malformed(end, format!("the header lacks `{key}`")))
    };
    let number = |key: &str| -> Result<u64, Trouble> {
        field(key)?
            .trim()
            .parse()
            .map_err(|_| Trouble::malformed(end, format!("`{key}` is not a count")))
    };
    let largest = number("max_feature_idx")?;
    if largest >= u64::from(u32::MAX >> 1) {
        return Err(Trouble::malformed(
            end,
            "`max_feature_idx` is beyond all reason",
        ));
    }
    let feature_count = largest + 1;
    for key in ["feature_names", "feature_infos"] {
        let Some(value) = header.get(key) else {
            if key == "feature_infos" {
                continue;
            }
            return Err(Trouble::malformed(end, format!("the header lacks `{key}`")));
        };
        let count = value.split_ascii_whitespace().count() as u64;
        if count != feature_count {
            return Err(Trouble::malformed(
                end,
                format!("`{key}` has {count} entries, but there are {feature_count} features"),
            ));
        }
    }
    let tree_sizes = match header.get("tree_sizes") {
        Some(value) => {
            let mut sizes = Vec::new();
            for size in value.split_ascii_whitespace() {
                sizes.push(
                    size.parse()
                        .map_err(|_| Trouble::malformed(end, "`tree_sizes` has no sizes"))?,
                );
            }
            Some(sizes)
        }
        None => None,
    };
    let class_count = number("num_class")?;
    let trees_per_iteration = match header.get("num_tree_per_iteration") {
        Some(_) => number("num_tree_per_iteration")?,
        None => class_count,
    };
    if class_count == 0 || trees_per_iteration == 0 || class_count > 1_000_000 {
        return Err(Trouble::malformed(
            end,
            "the number of classes is not possible",
        ));
    }
    Ok(Model {
        version: header.get("version").cloned().unwrap_or_default(),
        objective: header.get("objective").cloned().unwrap_or_default(),
        feature_count,
        class_count,
        trees_per_iteration,
        feature_names: field("feature_names")?
            .split_ascii_whitespace()
            .take(1000)
            .map(ToOwned::to_owned)
            .collect(),
        tree_sizes,
        tree_count: 0,
        leaf_count: 0,
    })
}

/// The fields of one tree, with typed access.
struct Fields<'a> {
    fields: &'a HashMap<String, Vec<u8>>,
    start: u64,
}

impl Fields<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.fields.get(key)?).ok()
    }

    fn count(&self, key: &str) -> Result<usize, Trouble> {
        self.text(key)
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| Trouble::malformed(self.start, format!("a tree lacks `{key}`")))
    }

    /// Integers of which there are exactly `count`.
    fn integers(&self, key: &str, count: usize) -> Result<Vec<i64>, Trouble> {
        let text = self.text(key).unwrap_or_default();
        let mut values = Vec::new();
        for word in text.split_ascii_whitespace() {
            if values.len() >= count {
                return Err(self.length(key, count));
            }
            values.push(word.parse().map_err(|_| {
                Trouble::malformed(
                    self.start,
                    format!("`{key}` has {} where an integer belongs", quote(word)),
                )
            })?);
        }
        if values.len() != count {
            return Err(self.length(key, count));
        }
        Ok(values)
    }

    fn length(&self, key: &str, count: usize) -> Trouble {
        Trouble::rule(
            &INDEX,
            self.start,
            format!("`{key}` does not have {count} entries as the tree needs"),
        )
    }

    /// Holds that an array has `count` numbers, if it is there or must be.
    fn numbers(&self, key: &str, count: usize, is_required: bool) -> Result<(), Trouble> {
        let Some(text) = self.text(key) else {
            if is_required && count > 0 {
                return Err(self.length(key, count));
            }
            return Ok(());
        };
        let mut found = 0;
        for word in text.split_ascii_whitespace() {
            if word.parse::<f64>().is_err() {
                return Err(Trouble::malformed(
                    self.start,
                    format!("`{key}` has {} where a number belongs", quote(word)),
                ));
            }
            found += 1;
        }
        // The statistics may be left out, and a tree of one leaf has none.
        if found != count && (is_required || found != 0) {
            return Err(self.length(key, count));
        }
        Ok(())
    }
}

fn tree(fields: &HashMap<String, Vec<u8>>, model: &mut Model, start: u64) -> Result<(), Trouble> {
    let fields = Fields { fields, start };
    let leaves = fields.count("num_leaves")?;
    let categorical = fields.count("num_cat")?;
    if leaves == 0 {
        return Err(Trouble::malformed(start, "a tree without leaves"));
    }
    if fields
        .text("leaf_value")
        .is_none_or(|text| leaves > text.len())
    {
        return Err(fields.length("leaf_value", leaves));
    }
    if leaves > MAX_LEAVES {
        return Err(Trouble::too_large(
            start,
            format!("a tree has over {MAX_LEAVES} leaves"),
        ));
    }
    let nodes = leaves - 1;
    fields.numbers("leaf_value", leaves, true)?;
    for key in ["leaf_weight", "leaf_count"] {
        fields.numbers(key, leaves, false)?;
    }
    for key in [
        "split_gain",
        "internal_value",
        "internal_weight",
        "internal_count",
    ] {
        fields.numbers(key, nodes, false)?;
    }
    model.leaf_count = model.leaf_count.saturating_add(leaves as u64);
    if nodes > 0 {
        fields.numbers("threshold", nodes, true)?;
        let features = fields.integers("split_feature", nodes)?;
        if let Some(feature) = features.iter().find(|feature| {
            u64::try_from(**feature).map_or(true, |feature| feature >= model.feature_count)
        }) {
            return Err(Trouble::rule(
                &INDEX,
                start,
                format!(
                    "a tree splits on feature {feature} of {}",
                    model.feature_count
                ),
            ));
        }
        walk(&fields, leaves)?;
        categories(&fields, nodes, categorical)?;
    } else if categorical > 0 {
        return Err(Trouble::malformed(
            start,
            "categories in a tree without splits",
        ));
    }
    if fields.text("is_linear").map(str::trim) == Some("1") {
        linear(&fields, leaves, model.feature_count)?;
    }
    Ok(())
}

/// Walks the tree: children of zero and up are nodes, below zero leaves.
fn walk(fields: &Fields<'_>, leaves: usize) -> Result<(), Trouble> {
    let nodes = leaves - 1;
    let left = fields.integers("left_child", nodes)?;
    let right = fields.integers("right_child", nodes)?;
    let mut reached_nodes = vec![false; nodes];
    let mut reached_leaves = vec![false; leaves];
    let mut pending = vec![0_i64];
    while let Some(index) = pending.pop() {
        let reached = if index >= 0 {
            usize::try_from(index)
                .ok()
                .and_then(|node| reached_nodes.get_mut(node))
        } else {
            usize::try_from(!index)
                .ok()
                .and_then(|leaf| reached_leaves.get_mut(leaf))
        };
        match reached {
            Some(reached) if !*reached => *reached = true,
            Some(_) => {
                return Err(Trouble::rule(
                    &INDEX,
                    fields.start,
                    format!("{index} is reached twice, so that a walk may never end"),
                ));
            }
            None => {
                return Err(Trouble::rule(
                    &INDEX,
                    fields.start,
                    format!("the child {index} in a tree of {leaves} leaves"),
                ));
            }
        }
        if let Ok(node) = usize::try_from(index) {
            pending.extend(left.get(node));
            pending.extend(right.get(node));
        }
    }
    if reached_nodes.contains(&false) || reached_leaves.contains(&false) {
        return Err(Trouble::malformed(
            fields.start,
            "a part of a tree that nothing leads to",
        ));
    }
    Ok(())
}

/// Splits on categories name a range of the bit sets in `cat_threshold`.
fn categories(fields: &Fields<'_>, nodes: usize, categorical: usize) -> Result<(), Trouble> {
    let kinds = fields.integers("decision_type", nodes)?;
    if categorical > 0 {
        if categorical > nodes {
            return Err(fields.length("cat_boundaries", categorical));
        }
        let boundaries = fields.integers("cat_boundaries", categorical + 1)?;
        let mut previous = 0;
        for (index, boundary) in boundaries.iter().enumerate() {
            if *boundary < previous || (index == 0 && *boundary != 0) {
                return Err(Trouble::rule(
                    &INDEX,
                    fields.start,
                    "`cat_boundaries` does not rise from zero",
                ));
            }
            previous = *boundary;
        }
        let words = usize::try_from(previous).unwrap_or(usize::MAX);
        fields.numbers("cat_threshold", words, true)?;
    }
    let thresholds = fields.text("threshold").unwrap_or_default();
    for (kind, threshold) in kinds.iter().zip(thresholds.split_ascii_whitespace()) {
        if kind & 1 == 1 {
            let index: f64 = threshold.parse().unwrap_or(-1.0);
            #[expect(clippy::cast_precision_loss, reason = "a tree has far fewer splits")]
            let is_within = index >= 0.0 && index < categorical as f64 && index.fract() == 0.0;
            if !is_within {
                return Err(Trouble::rule(
                    &INDEX,
                    fields.start,
                    format!("category set {threshold} of {categorical}"),
                ));
            }
        } else if !(0..256).contains(kind) {
            return Err(Trouble::malformed(
                fields.start,
                format!("the decision type {kind}"),
            ));
        }
    }
    Ok(())
}

/// Linear models in leaves: a count of features per leaf, then the features and coefficients of all leaves.
fn linear(fields: &Fields<'_>, leaves: usize, feature_count: u64) -> Result<(), Trouble> {
    fields.numbers("leaf_const", leaves, true)?;
    let counts = fields.integers("num_features", leaves)?;
    let mut total = 0_usize;
    for count in counts {
        total = usize::try_from(count)
            .ok()
            .and_then(|count| total.checked_add(count))
            .ok_or_else(|| fields.length("leaf_features", 0))?;
    }
    let features = fields.integers("leaf_features", total)?;
    if features
        .iter()
        .any(|feature| u64::try_from(*feature).map_or(true, |feature| feature >= feature_count))
    {
        return Err(Trouble::rule(
            &INDEX,
            fields.start,
            "a leaf uses a feature that the model does not have",
        ));
    }
    fields.numbers("leaf_coeff", total, true)
}
