//! XGBoost models in JSON and UBJSON, by the schema in XGBoost's `doc/model.schema` and `src/tree/tree_model.cc`.
//!
//! The native loader trusts the indices that it finds, so every tree is proven to be a tree: arrays of one length,
//! children within range, each node reached once, features within the number that the model declares.

use crate::check::Check;
use crate::cursor::{Trouble, settle};
use crate::events::{Bounds, Event, Events, Json, Ubjson};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::ReadError;
use serde_json::json;

/// The rules of this format.
pub const RULES: &[Rule] = &[MALFORMED, TOO_LARGE, INDEX];

const MALFORMED: Rule = Rule {
    id: "xgboost.malformed",
    verdict: Verdict::Malformed,
    why: "XGBoost's native loader does not survive every document that breaks its schema.",
    fix: "Save the model again with `Booster.save_model`.",
};
const TOO_LARGE: Rule = Rule {
    id: "xgboost.too-large",
    verdict: Verdict::Incomplete,
    why: "A part of the model is larger than the check may hold in memory.",
    fix: "Train with smaller trees, or ask the operator to inspect the model by hand.",
};
const INDEX: Rule = Rule {
    id: "xgboost.index-out-of-range",
    verdict: Verdict::Unsafe,
    why: "Native code reads memory at the place that the index names.",
    fix: "Save the model again with `Booster.save_model`; a file that XGBoost wrote has no such index.",
};

/// Most nodes of one tree, so that its arrays stay well below the memory bound.
const MAX_NODES: usize = 1_000_000;

/// Tells whether the file begins like an XGBoost document.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, _size: u64) -> bool {
    let is_named = path
        .rsplit('.')
        .next()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("ubj"));
    is_ubjson(head) || is_json(head) || (is_named && head.starts_with(b"{"))
}

/// Whether an object begins with a key of a plausible length; text may well begin with `{i`.
fn is_ubjson(head: &[u8]) -> bool {
    let (width, rest) = match head {
        [b'{', b'i' | b'U', rest @ ..] => (1, rest),
        [b'{', b'I', rest @ ..] => (2, rest),
        [b'{', b'l', rest @ ..] => (4, rest),
        [b'{', b'L', rest @ ..] => (8, rest),
        _ => return false,
    };
    let length = rest
        .get(..width)
        .unwrap_or(&[])
        .iter()
        .fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
    let key = length
        .checked_add(width)
        .and_then(|end| rest.get(width..end))
        .unwrap_or(&[]);
    (1..=64).contains(&length)
        && !key.is_empty()
        && key
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

fn is_json(head: &[u8]) -> bool {
    let text = head.trim_ascii_start();
    let Some(text) = text.strip_prefix(b"{") else {
        return false;
    };
    let text = text.trim_ascii_start();
    text.starts_with(b"\"learner\"")
        || (text.starts_with(b"\"version\"")
            && head.windows(9).any(|window| window == b"\"learner\""))
}

/// Inspects one model.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let head = check.read(0..check.size().min(64 * 1024))?;
    let source = check.source;
    let mut model = Model::default();
    let (format, outcome) = if is_json(&head) {
        let mut events = Json::new(source, Bounds::default());
        ("json", document(&mut events, &mut model))
    } else {
        let mut events = Ubjson::new(source, Bounds::default());
        ("ubjson", document(&mut events, &mut model))
    };
    if settle(check, outcome, &MALFORMED, &TOO_LARGE)?.is_some() {
        check.fact("encoding", format);
        check.fact("framework", "xgboost");
        model.tell(check);
    }
    Ok(())
}

/// What is kept of a model while it streams by.
#[derive(Debug, Default)]
struct Model {
    version: Vec<i64>,
    booster: String,
    objective: String,
    feature_count: Option<u64>,
    class_count: u64,
    target_count: u64,
    feature_names: Option<Vec<String>>,
    feature_name_count: u64,
    feature_type_count: u64,
    tree_count: u64,
    declared_tree_count: Option<u64>,
    node_count: u64,
    has_trees: bool,
    /// Groups that the trees belong to: how many, and the largest.
    tree_info: Option<(u64, i64)>,
    /// Boundaries of iterations: the last one.
    iteration_end: Option<i64>,
    weight_drop_count: Option<u64>,
    /// Largest feature that a tree splits on, and where.
    largest_feature: Option<(u64, u64)>,
    tree_feature_counts: Option<(u64, u64)>,
    category_count: u64,
}

fn document(events: &mut dyn Events, model: &mut Model) -> Result<(), Trouble> {
    events.object()?;
    let mut has_learner = false;
    while let Some(key) = events.key()? {
        match key.as_str() {
            "learner" => {
                has_learner = true;
                learner(events, model)?;
            }
            "version" => {
                events.array()?;
                loop {
                    match events.next()? {
                        Event::Integer(number) if model.version.len() < 3 && number >= 0 => {
                            model.version.push(number);
                        }
                        Event::ArrayEnd => break,
                        _ => return Err(events.unexpected("three version numbers")),
                    }
                }
            }
            _ => {
                return Err(Trouble::malformed(
                    events.offset(),
                    format!(
                        "the document has the key {}, which no model has",
                        crate::cursor::quote(&key)
                    ),
                ));
            }
        }
    }
    if events.next()? != Event::End {
        return Err(events.unexpected("the end"));
    }
    let end = events.offset();
    if !has_learner {
        return Err(Trouble::malformed(end, "the document has no learner"));
    }
    if model.version.len() != 3 {
        return Err(Trouble::malformed(end, "the document has no version"));
    }
    agree(model, end)
}

/// Holds the parts of the model against each other.
fn agree(model: &Model, end: u64) -> Result<(), Trouble> {
    let Some(features) = model.feature_count else {
        return Err(Trouble::malformed(end, "the model has no feature count"));
    };
    for (what, count) in [
        ("names", model.feature_name_count),
        ("types", model.feature_type_count),
    ] {
        if count != 0 && count != features {
            return Err(Trouble::malformed(
                end,
                format!("{count} feature {what}, but {features} features"),
            ));
        }
    }
    if let Some((feature, offset)) = model.largest_feature
        && feature >= features
    {
        return Err(Trouble::rule(
            &INDEX,
            offset,
            format!("a tree splits on feature {feature} of {features}"),
        ));
    }
    if let Some((count, offset)) = model.tree_feature_counts
        && count > features
    {
        return Err(Trouble::malformed(
            offset,
            format!("a tree has {count} features, but the model {features}"),
        ));
    }
    if !model.has_trees {
        return Ok(());
    }
    if model.declared_tree_count != Some(model.tree_count) {
        return Err(Trouble::malformed(
            end,
            format!(
                "the model declares {:?} trees, but has {}",
                model.declared_tree_count, model.tree_count
            ),
        ));
    }
    match model.tree_info {
        Some((count, largest)) if count == model.tree_count => {
            let groups = model
                .class_count
                .max(1)
                .saturating_mul(model.target_count.max(1));
            if u64::try_from(largest).is_ok_and(|largest| largest >= groups) {
                return Err(Trouble::rule(
                    &INDEX,
                    end,
                    format!("a tree belongs to output group {largest} of {groups}"),
                ));
            }
        }
        _ => {
            return Err(Trouble::malformed(
                end,
                "`tree_info` does not have one entry per tree",
            ));
        }
    }
    if model
        .iteration_end
        .is_some_and(|last| u64::try_from(last) != Ok(model.tree_count))
    {
        return Err(Trouble::rule(
            &INDEX,
            end,
            "`iteration_indptr` does not end at the last tree",
        ));
    }
    if model
        .weight_drop_count
        .is_some_and(|count| count != model.tree_count)
    {
        return Err(Trouble::rule(
            &INDEX,
            end,
            "`weight_drop` does not have one entry per tree",
        ));
    }
    Ok(())
}

/// A count that XGBoost writes as text.
fn count(events: &mut dyn Events) -> Result<u64, Trouble> {
    match events.next()? {
        Event::Text(text) => text.parse().map_err(|_| events.unexpected("a count")),
        Event::Integer(number) => u64::try_from(number).map_err(|_| events.unexpected("a count")),
        _ => Err(events.unexpected("a count")),
    }
}

/// A count for which XGBoost makes room before it looks at the trees.
fn count_below(events: &mut dyn Events, limit: u64) -> Result<u64, Trouble> {
    let count = count(events)?;
    if count > limit {
        return Err(events.unexpected("a count of classes, targets or features"));
    }
    Ok(count)
}

/// Most classes or targets of a model; for each row, a prediction makes room for all of them.
const MAX_OUTPUTS: u64 = 10_000_000;

fn learner(events: &mut dyn Events, model: &mut Model) -> Result<(), Trouble> {
    events.object()?;
    while let Some(key) = events.key()? {
        match key.as_str() {
            "feature_names" => {
                let mut names = Vec::new();
                model.feature_name_count = texts(events, |name| {
                    if names.len() < 1000 {
                        names.push(name.chars().take(200).collect());
                    }
                })?;
                model.feature_names = Some(names);
            }
            "feature_types" => model.feature_type_count = texts(events, |_| ())?,
            "attributes" => {
                events.object()?;
                while events.key()?.is_some() {
                    events.text()?;
                }
            }
            "learner_model_param" => {
                events.object()?;
                while let Some(key) = events.key()? {
                    match key.as_str() {
                        "num_feature" => {
                            model.feature_count = Some(count_below(events, u64::from(u32::MAX))?);
                        }
                        "num_class" => model.class_count = count_below(events, MAX_OUTPUTS)?,
                        "num_target" => model.target_count = count_below(events, MAX_OUTPUTS)?,
                        _ => events.skip_next()?,
                    }
                }
            }
            "objective" => {
                events.object()?;
                while let Some(key) = events.key()? {
                    if key == "name" {
                        model.objective = events.text()?;
                    } else {
                        events.skip_next()?;
                    }
                }
            }
            "gradient_booster" => gradient_booster(events, model, true)?,
            _ => events.skip_next()?,
        }
    }
    Ok(())
}

/// Texts in an array; returns how many.
fn texts(events: &mut dyn Events, mut each: impl FnMut(String)) -> Result<u64, Trouble> {
    events.array()?;
    let mut count = 0;
    loop {
        match events.next()? {
            Event::Text(text) => {
                count += 1;
                each(text);
            }
            Event::ArrayEnd => return Ok(count),
            _ => return Err(events.unexpected("a text")),
        }
    }
}

fn gradient_booster(
    events: &mut dyn Events,
    model: &mut Model,
    is_outer: bool,
) -> Result<(), Trouble> {
    events.object()?;
    while let Some(key) = events.key()? {
        match key.as_str() {
            "name" => {
                let name = events.text()?;
                if !matches!(name.as_str(), "gbtree" | "gblinear" | "dart") {
                    return Err(events.unexpected("a booster that XGBoost has"));
                }
                if is_outer {
                    model.booster = name;
                }
            }
            "model" => gbtree_model(events, model)?,
            // A dart booster wraps a tree booster.
            "gbtree" if is_outer => gradient_booster(events, model, false)?,
            "weight_drop" => {
                model.weight_drop_count = Some(numbers(events, |_, _| Ok(()))?);
            }
            _ => events.skip_next()?,
        }
    }
    Ok(())
}

fn gbtree_model(events: &mut dyn Events, model: &mut Model) -> Result<(), Trouble> {
    events.object()?;
    while let Some(key) = events.key()? {
        match key.as_str() {
            "gbtree_model_param" => {
                events.object()?;
                while let Some(key) = events.key()? {
                    if key == "num_trees" {
                        model.declared_tree_count = Some(count(events)?);
                    } else {
                        events.skip_next()?;
                    }
                }
            }
            "tree_info" => {
                let mut largest = 0;
                let count = integers(events, |group, offset| {
                    if group < 0 {
                        return Err(Trouble::rule(&INDEX, offset, "a negative output group"));
                    }
                    largest = largest.max(group);
                    Ok(())
                })?;
                model.tree_info = Some((count, largest));
            }
            "iteration_indptr" => {
                let mut last = 0;
                integers(events, |boundary, offset| {
                    if boundary < last {
                        return Err(Trouble::rule(
                            &INDEX,
                            offset,
                            "`iteration_indptr` goes backwards",
                        ));
                    }
                    last = boundary;
                    Ok(())
                })?;
                model.iteration_end = Some(last);
            }
            "trees" => {
                model.has_trees = true;
                events.array()?;
                loop {
                    match events.next()? {
                        Event::ObjectStart => tree(events, model)?,
                        Event::ArrayEnd => break,
                        _ => return Err(events.unexpected("a tree")),
                    }
                }
            }
            _ => events.skip_next()?,
        }
    }
    Ok(())
}

/// Numbers in an array, of which some may be integers; returns how many.
fn numbers(
    events: &mut dyn Events,
    mut each: impl FnMut(f64, u64) -> Result<(), Trouble>,
) -> Result<u64, Trouble> {
    events.array()?;
    let mut count = 0;
    loop {
        let event = events.next()?;
        let number = match event {
            Event::Number(number) => number,
            #[expect(clippy::cast_precision_loss, reason = "the value is not used exactly")]
            Event::Integer(number) => number as f64,
            Event::Boolean(value) => f64::from(u8::from(value)),
            Event::ArrayEnd => return Ok(count),
            _ => return Err(events.unexpected("a number")),
        };
        count += 1;
        each(number, events.offset())?;
    }
}

/// Integers in an array; returns how many.
fn integers(
    events: &mut dyn Events,
    mut each: impl FnMut(i64, u64) -> Result<(), Trouble>,
) -> Result<u64, Trouble> {
    events.array()?;
    let mut count = 0;
    loop {
        match events.next()? {
            Event::Integer(number) => {
                count += 1;
                each(number, events.offset())?;
            }
            Event::Boolean(value) => {
                count += 1;
                each(i64::from(value), events.offset())?;
            }
            Event::ArrayEnd => return Ok(count),
            _ => return Err(events.unexpected("an integer")),
        }
    }
}

/// Collects an array of node or feature numbers.
fn indices(events: &mut dyn Events) -> Result<Vec<i32>, Trouble> {
    let mut indices = Vec::new();
    integers(events, |index, offset| {
        if indices.len() >= MAX_NODES {
            return Err(Trouble::too_large(
                offset,
                format!("a tree has over {MAX_NODES} nodes"),
            ));
        }
        let index = i32::try_from(index)
            .map_err(|_| Trouble::rule(&INDEX, offset, format!("the index {index}")))?;
        indices.push(index);
        Ok(())
    })?;
    Ok(indices)
}

#[derive(Debug, Default)]
struct Tree {
    left: Option<Vec<i32>>,
    right: Option<Vec<i32>>,
    parents: Option<Vec<i32>>,
    features: Option<Vec<i32>>,
    categorical_nodes: Vec<i32>,
    category_starts: Vec<i32>,
    category_sizes: Vec<i32>,
    category_count: u64,
    declared_nodes: Option<u64>,
    deleted: u64,
    leaf_width: u64,
    /// Values in the leaves of a tree with several outputs.
    leaf_weights: Option<u64>,
}

/// One tree, whose object was entered.
fn tree(events: &mut dyn Events, model: &mut Model) -> Result<(), Trouble> {
    let start = events.offset();
    let mut tree = Tree::default();
    // Lengths of the arrays whose values do not matter.
    let mut lengths: Vec<(&'static str, u64)> = Vec::new();
    let mut weights = None;
    while let Some(key) = events.key()? {
        match key.as_str() {
            "left_children" => tree.left = Some(indices(events)?),
            "right_children" => tree.right = Some(indices(events)?),
            "parents" => tree.parents = Some(indices(events)?),
            "split_indices" => tree.features = Some(indices(events)?),
            "categories_nodes" => tree.categorical_nodes = indices(events)?,
            "categories_segments" => tree.category_starts = indices(events)?,
            "categories_sizes" => tree.category_sizes = indices(events)?,
            "categories" => {
                tree.category_count = integers(events, |category, offset| {
                    // Categories become bits of a set of up to 2^24 bits.
                    if !(0..1 << 24).contains(&category) {
                        return Err(Trouble::rule(
                            &INDEX,
                            offset,
                            format!("the category {category}"),
                        ));
                    }
                    Ok(())
                })?;
            }
            "base_weights" => weights = Some(numbers(events, |_, _| Ok(()))?),
            "leaf_weights" => tree.leaf_weights = Some(numbers(events, |_, _| Ok(()))?),
            "split_conditions" => {
                lengths.push(("split_conditions", numbers(events, |_, _| Ok(()))?));
            }
            "default_left" => lengths.push(("default_left", numbers(events, |_, _| Ok(()))?)),
            "loss_changes" => lengths.push(("loss_changes", numbers(events, |_, _| Ok(()))?)),
            "sum_hessian" => lengths.push(("sum_hessian", numbers(events, |_, _| Ok(()))?)),
            "split_type" => {
                let count = integers(events, |kind, offset| match kind {
                    0 | 1 => Ok(()),
                    _ => Err(Trouble::malformed(offset, format!("the split type {kind}"))),
                })?;
                lengths.push(("split_type", count));
            }
            "tree_param" => {
                events.object()?;
                while let Some(key) = events.key()? {
                    match key.as_str() {
                        "num_nodes" => tree.declared_nodes = Some(count(events)?),
                        "num_deleted" => tree.deleted = count(events)?,
                        "size_leaf_vector" => tree.leaf_width = count(events)?,
                        "num_feature" => {
                            let features = count(events)?;
                            if model
                                .tree_feature_counts
                                .is_none_or(|(largest, _)| features > largest)
                            {
                                model.tree_feature_counts = Some((features, events.offset()));
                            }
                        }
                        _ => events.skip_next()?,
                    }
                }
            }
            _ => events.skip_next()?,
        }
    }
    model.tree_count += 1;
    model.category_count = model.category_count.saturating_add(tree.category_count);
    shape(&tree, &lengths, weights, start)?;
    model.node_count = model
        .node_count
        .saturating_add(tree.declared_nodes.unwrap_or_default());
    if let Some(feature) = walk(&tree, start)?
        && model
            .largest_feature
            .is_none_or(|(largest, _)| feature > largest)
    {
        model.largest_feature = Some((feature, start));
    }
    Ok(())
}

/// Every array has as many entries as the tree has nodes.
fn shape(
    tree: &Tree,
    lengths: &[(&'static str, u64)],
    weights: Option<u64>,
    start: u64,
) -> Result<(), Trouble> {
    let Some(nodes) = tree.declared_nodes else {
        return Err(Trouble::malformed(start, "a tree does not tell its size"));
    };
    if nodes == 0 {
        return Err(Trouble::malformed(start, "a tree without nodes"));
    }
    if tree.deleted >= nodes {
        return Err(Trouble::malformed(start, "a tree of deleted nodes only"));
    }
    let length = |array: &Option<Vec<i32>>| array.as_ref().map(|array| array.len() as u64);
    let wanted = [
        ("left_children", length(&tree.left)),
        ("right_children", length(&tree.right)),
        ("parents", length(&tree.parents)),
        ("split_indices", length(&tree.features)),
    ];
    for (name, length) in wanted
        .into_iter()
        .chain(lengths.iter().map(|(name, length)| (*name, Some(*length))))
    {
        // A tree with several outputs leaves out the statistics that it does not keep.
        let may_be_absent = tree.leaf_width > 1 && matches!(name, "loss_changes" | "sum_hessian");
        if length != Some(nodes) && !(may_be_absent && length == Some(0)) {
            return Err(Trouble::malformed(
                start,
                format!(
                    "`{name}` has {} entries, but the tree {nodes} nodes",
                    length.unwrap_or_default()
                ),
            ));
        }
    }
    for name in ["split_conditions", "default_left"] {
        if !lengths.iter().any(|(found, _)| *found == name) {
            return Err(Trouble::malformed(start, format!("a tree lacks `{name}`")));
        }
    }
    let width = tree.leaf_width.max(1);
    let expected = nodes.checked_mul(width);
    if weights.is_none() || weights != expected {
        return Err(Trouble::malformed(
            start,
            format!(
                "`base_weights` has {} entries, but {nodes} nodes of {width} outputs need {}",
                weights.unwrap_or_default(),
                expected.unwrap_or(u64::MAX)
            ),
        ));
    }
    let splits = tree.categorical_nodes.len();
    if tree.category_starts.len() != splits || tree.category_sizes.len() != splits {
        return Err(Trouble::malformed(
            start,
            "the arrays of categorical splits differ in length",
        ));
    }
    let mut previous = -1;
    for ((node, begin), size) in tree
        .categorical_nodes
        .iter()
        .zip(&tree.category_starts)
        .zip(&tree.category_sizes)
    {
        let is_node = u64::try_from(*node).is_ok_and(|node| node < nodes) && *node > previous;
        previous = *node;
        let is_within = u64::try_from(*begin)
            .ok()
            .zip(u64::try_from(*size).ok())
            .and_then(|(begin, size)| begin.checked_add(size))
            .is_some_and(|end| end <= tree.category_count);
        if !is_node || !is_within {
            return Err(Trouble::rule(
                &INDEX,
                start,
                format!("the categories of node {node} lie outside of the tree"),
            ));
        }
    }
    Ok(())
}

/// Walks the tree from its root; returns the largest feature that it splits on.
fn walk(tree: &Tree, start: u64) -> Result<Option<u64>, Trouble> {
    let empty = Vec::new();
    let left = tree.left.as_ref().unwrap_or(&empty);
    let right = tree.right.as_ref().unwrap_or(&empty);
    let parents = tree.parents.as_ref().unwrap_or(&empty);
    let features = tree.features.as_ref().unwrap_or(&empty);
    let out_of_range = |node: usize, child: i32| {
        Trouble::rule(
            &INDEX,
            start,
            format!("node {node} has the child {child} of {} nodes", left.len()),
        )
    };
    // A leaf with several outputs names its place among the leaves instead of a right child.
    let is_leaf_place = |left_child: i32, right_child: i32| {
        left_child == -1
            && tree.leaf_width > 1
            && tree.leaf_weights.is_some_and(|weights| {
                u64::try_from(right_child)
                    .ok()
                    .and_then(|place| place.checked_add(1)?.checked_mul(tree.leaf_width))
                    .is_some_and(|end| end <= weights)
            })
    };
    // The loader also looks at nodes that nothing leads to, so their children must exist as well.
    for (node, (left_child, right_child)) in left.iter().zip(right).enumerate() {
        if is_leaf_place(*left_child, *right_child) {
            continue;
        }
        for child in [*left_child, *right_child] {
            if child != -1 && usize::try_from(child).map_or(true, |child| child >= left.len()) {
                return Err(out_of_range(node, child));
            }
        }
    }
    let mut reached = vec![false; left.len()];
    let mut pending = vec![0_usize];
    let mut count = 0_u64;
    let mut largest = None;
    while let Some(node) = pending.pop() {
        match reached.get_mut(node) {
            Some(reached) if !*reached => *reached = true,
            _ => {
                return Err(Trouble::rule(
                    &INDEX,
                    start,
                    format!("node {node} is reached twice, so that a walk may never end"),
                ));
            }
        }
        count += 1;
        let children = (left.get(node), right.get(node));
        match children {
            (Some(-1), Some(-1)) => {}
            (Some(left_child), Some(right_child)) if is_leaf_place(*left_child, *right_child) => {}
            (Some(left_child), Some(right_child)) => {
                for child in [*left_child, *right_child] {
                    let Ok(index) = usize::try_from(child) else {
                        return Err(out_of_range(node, child));
                    };
                    let parent = parents.get(index).copied().unwrap_or(-1);
                    // The top bit of a parent tells a left child from a right one in some versions.
                    if usize::try_from(parent & 0x7fff_ffff) != Ok(node) {
                        return Err(Trouble::malformed(
                            start,
                            format!("node {index} names {parent} as its parent, not {node}"),
                        ));
                    }
                    pending.push(index);
                }
                let feature = features.get(node).copied().unwrap_or(-1);
                match u64::try_from(feature) {
                    Ok(feature) => largest = largest.max(Some(feature)),
                    Err(_) => {
                        return Err(Trouble::rule(
                            &INDEX,
                            start,
                            format!("node {node} splits on feature {feature}"),
                        ));
                    }
                }
            }
            _ => return Err(out_of_range(node, -1)),
        }
    }
    let expected = (left.len() as u64).saturating_sub(tree.deleted);
    if count != expected {
        return Err(Trouble::malformed(
            start,
            format!("{count} nodes hang together, but {expected} should"),
        ));
    }
    Ok(largest)
}

impl Model {
    fn tell(self, check: &mut Check<'_>) {
        let version: Vec<String> = self.version.iter().map(ToString::to_string).collect();
        check.fact("format_version", version.join("."));
        check.fact("booster", self.booster);
        check.fact("objective", self.objective);
        check.fact("feature_count", self.feature_count);
        check.fact("num_class", self.class_count);
        check.fact("output_count", self.target_count.max(1));
        check.fact("tree_count", self.tree_count);
        check.fact("node_count", self.node_count);
        if self.category_count > 0 {
            check.fact("category_count", self.category_count);
        }
        if let Some(names) = self.feature_names
            && !names.is_empty()
        {
            check.fact("feature_names", json!(names));
        }
    }
}
