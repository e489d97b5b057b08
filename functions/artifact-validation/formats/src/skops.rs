//! skops files: a zip archive of a `schema.json` and arrays, by `skops/io/` (protocols 0 to 2).
//!
//! Loading builds the object that the schema describes: every node names a loader, a module and a class.
//! skops asks whoever loads the file which types to trust, and MLflow answers with a list from the file itself, so a
//! registry must hold each node against its own list. Loaders that call functions or methods are not on it.

use crate::check::Check;
use crate::cursor::{Trouble, quote, settle};
use crate::events::{Bounds, Event, Events, Json};
use crate::inflated::{Coding, Inflated};
use crate::pickle::{self, AllowList, Use};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::{ReadError, Source};
use crate::zip::{Archive, Entry, Part};
use serde_json::json;
use std::collections::{BTreeSet, HashSet};

/// The rules of this format.
pub const RULES: &[Rule] = &[MALFORMED, TOO_LARGE, NODE, TYPE, MEMBER];

const MALFORMED: Rule = Rule {
    id: "skops.malformed",
    verdict: Verdict::Malformed,
    why: "A schema that skops did not write may be read in more than one way.",
    fix: "Save the model again with `skops.io.dump`.",
};
const TOO_LARGE: Rule = Rule {
    id: "skops.too-large",
    verdict: Verdict::Incomplete,
    why: "A part of the schema is larger than the check may hold in memory.",
    fix: "Ask the operator to inspect the model by hand.",
};
const NODE: Rule = Rule {
    id: "skops.node-not-allowed",
    verdict: Verdict::Unsafe,
    why: "The loader of this node calls what the file names, with arguments from the file.",
    fix: "Save a model without functions, methods and partial calls among its parameters.",
};
const TYPE: Rule = Rule {
    id: "skops.type-not-allowed",
    verdict: Verdict::Unsafe,
    why: "skops imports the module and makes an instance of the class.",
    fix: "Use types of scikit-learn, NumPy and SciPy, or extend the list of the deployment.",
};
const MEMBER: Rule = Rule {
    id: "skops.member",
    verdict: Verdict::Malformed,
    why: "A file of skops holds its schema, arrays and bytes that the schema names, and nothing else.",
    fix: "Save the model again with `skops.io.dump`.",
};

/// Longest name of a type, key or member that is kept.
const MAX_NAME_CHARACTERS: usize = 300;

/// Largest literal within the schema.
const MAX_TEXT_BYTES: usize = 4 * 1024 * 1024;

/// Tells whether this is an archive with a schema.
pub fn detect(head: &[u8], tail: &[u8], path: &str, _size: u64) -> bool {
    head.starts_with(b"PK\x03\x04")
        && (path.to_ascii_lowercase().ends_with(".skops")
            || tail
                .windows(46 + 11)
                .any(|entry| entry.starts_with(b"PK\x01\x02") && entry.ends_with(b"schema.json")))
}

/// Inspects one file.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = inspect(check);
    settle(check, outcome, &MALFORMED, &TOO_LARGE)?;
    Ok(())
}

fn inspect(check: &mut Check<'_>) -> Result<(), Trouble> {
    let archive = match Archive::open(check.source) {
        Ok(archive) => archive,
        Err(error) => return Ok(error.report(check)?),
    };
    let Some(schema) = archive.find("schema.json") else {
        return Err(Trouble::malformed(0, "no `schema.json`"));
    };
    let mut walk = Walk::default();
    with_content(&archive, schema, check.source, |content| {
        let bounds = Bounds {
            depth: 1000,
            text_bytes: MAX_TEXT_BYTES,
            keys: 500_000,
        };
        walk.document(&mut Json::new(content, bounds))
    })?;
    for (rule, offset, detail) in std::mem::take(&mut walk.findings) {
        check.find(rule, Some(offset), detail);
    }
    members(check, &archive, &walk)?;
    check.fact("framework", "scikit-learn");
    check.fact(
        "format_version",
        walk.protocol
            .map_or_else(|| "0".to_owned(), |protocol| protocol.to_string()),
    );
    check.fact("skops_version", walk.version);
    check.fact("estimator", walk.root);
    let types: Vec<&String> = walk.types.iter().take(500).collect();
    check.fact("types", json!(types));
    Ok(())
}

/// Gives a member's content as a source, whether it is compressed or not.
fn with_content<T>(
    archive: &Archive<'_>,
    entry: &Entry,
    source: &dyn Source,
    read: impl FnOnce(&dyn Source) -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    if let Some(part) = archive.stored(entry) {
        return read(&part);
    }
    let raw = Part::new(source, entry.range());
    let content = Inflated::with_size(&raw, Coding::Deflate, entry.size);
    read(&content)
}

/// Every array that the schema names is there, holds no objects, and nothing else is there.
fn members(check: &mut Check<'_>, archive: &Archive<'_>, walk: &Walk) -> Result<(), Trouble> {
    let mut present = HashSet::new();
    for entry in archive.entries() {
        present.insert(entry.name.as_str());
        if entry.name == "schema.json" {
            continue;
        }
        if !walk.files.contains(&entry.name) {
            check.find(
                &MEMBER,
                Some(entry.header_offset),
                format!("the schema does not name the member {}", quote(&entry.name)),
            );
            continue;
        }
        let extension = entry.name.rsplit('.').next().unwrap_or("");
        match extension {
            "npy" => crate::npy::member(check, archive, entry, true)?,
            "npz" => {
                // A sparse matrix: arrays in an archive of their own.
                let path = format!("{}!/{}", check.path, entry.name);
                let bytes = match archive.read(entry, 16 * 1024 * 1024) {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        error.report(check)?;
                        continue;
                    }
                };
                let mut inner =
                    Check::new(check.bundle, &path, &bytes, check.limits, check.depth + 1);
                let outcome = crate::npy::npz(&mut inner, true);
                settle(&mut inner, outcome, &MALFORMED, &TOO_LARGE)?;
                let (_, findings, _) = inner.finish();
                for finding in findings {
                    check.find(
                        &MEMBER,
                        Some(entry.data_offset),
                        format!("member {}: {}", quote(&entry.name), finding.detail),
                    );
                }
            }
            "bin" => {}
            _ => check.find(
                &MEMBER,
                Some(entry.header_offset),
                format!("the member {}", quote(&entry.name)),
            ),
        }
    }
    if let Some(file) = walk
        .files
        .iter()
        .find(|file| !present.contains(file.as_str()))
    {
        check.find(
            &MEMBER,
            None,
            format!("the schema names {}, which is not there", quote(file)),
        );
    }
    Ok(())
}

/// One object of the schema that is open.
#[derive(Debug, Default)]
struct Frame {
    is_array: bool,
    /// Key whose value comes next.
    key: String,
    /// Key in the object around this one, where it has that key.
    name: String,
    loader: Option<String>,
    module: Option<String>,
    class: Option<String>,
    file: Option<String>,
    /// Whether a text under `content` is a plain literal, and the literal itself if it is short.
    content: Option<(bool, String)>,
    kind: Option<String>,
    /// Whether the literal is the text that `SciPy` runs when it takes the state of a distribution, as `SciPy` writes it.
    is_template: bool,
    /// What protocols 0 and 1 call the module and name of a function.
    old_module: Option<String>,
    old_function: Option<String>,
}

#[derive(Debug, Default)]
struct Walk {
    findings: Vec<(&'static Rule, u64, String)>,
    files: HashSet<String>,
    types: BTreeSet<String>,
    protocol: Option<i64>,
    version: Option<String>,
    root: Option<String>,
}

impl Walk {
    fn find(&mut self, rule: &'static Rule, offset: u64, detail: String) {
        if self.findings.len() < Check::MAX_FINDINGS {
            self.findings.push((rule, offset, detail));
        }
    }

    fn document(&mut self, events: &mut Json<'_>) -> Result<(), Trouble> {
        let mut stack: Vec<Frame> = Vec::new();
        loop {
            let event = events.next()?;
            let offset = events.offset();
            match event {
                Event::ObjectStart | Event::ArrayStart => {
                    let name = match stack.last() {
                        Some(around) => around.key.clone(),
                        None => String::new(),
                    };
                    stack.push(Frame {
                        is_array: event == Event::ArrayStart,
                        name,
                        ..Frame::default()
                    });
                }
                Event::Key(key) => {
                    if let Some(frame) = stack.last_mut() {
                        frame.key = key.chars().take(MAX_NAME_CHARACTERS).collect();
                    }
                }
                Event::Text(text) => {
                    let is_root = stack.len() == 1;
                    if let Some(frame) = stack.last_mut().filter(|frame| !frame.is_array) {
                        if is_root && frame.key == "_skops_version" {
                            self.version = Some(text.chars().take(40).collect());
                        }
                        if frame.key == "content" {
                            let shown = text.chars().take(100).collect();
                            frame.content = Some((is_plain_literal(&text), shown));
                            frame.is_template = serde_json::from_str(&text)
                                .is_ok_and(|text: String| pickle::is_template(&text));
                            continue;
                        }
                        let slot = match frame.key.as_str() {
                            "__loader__" => &mut frame.loader,
                            "__module__" => &mut frame.module,
                            "__class__" => &mut frame.class,
                            "file" => &mut frame.file,
                            "type" => &mut frame.kind,
                            "module_path" => &mut frame.old_module,
                            "function" => &mut frame.old_function,
                            _ => continue,
                        };
                        // What is longer than any name is no name, and memory is bounded.
                        *slot = Some(text.chars().take(MAX_NAME_CHARACTERS).collect());
                    }
                }
                Event::Integer(number) => {
                    if stack.len() == 1 && stack.last().is_some_and(|frame| frame.key == "protocol")
                    {
                        self.protocol = Some(number);
                        if !(0..=10).contains(&number) {
                            return Err(Trouble::malformed(offset, format!("protocol {number}")));
                        }
                    }
                }
                Event::ObjectEnd => {
                    if let Some(frame) = stack.pop() {
                        let is_root = stack.is_empty();
                        self.node(&frame, is_root, offset)?;
                    }
                }
                Event::ArrayEnd => {
                    stack.pop();
                }
                Event::End => return Ok(()),
                Event::Number(_) | Event::Boolean(_) | Event::Null => {}
            }
        }
    }

    /// Judges an object of the schema once all of it is known.
    fn node(&mut self, frame: &Frame, is_root: bool, offset: u64) -> Result<(), Trouble> {
        if let Some(file) = &frame.file
            && frame.loader.is_some()
        {
            if self.files.len() >= 100_000 {
                return Err(Trouble::too_large(offset, "too many members"));
            }
            self.files.insert(file.clone());
        }
        if let (Some(module), Some(function)) = (&frame.old_module, &frame.old_function) {
            let name = format!("{module}.{function}");
            if !is_function_allowed(module, function) {
                self.find(&NODE, offset, format!("the function {}", quote(&name)));
            }
        }
        let (Some(module), Some(class)) = (&frame.module, &frame.class) else {
            if frame.loader.is_some() || is_root {
                self.find(
                    &MALFORMED,
                    offset,
                    "a node that does not name its loader, module and class".to_owned(),
                );
            }
            return Ok(());
        };
        let name = format!("{module}.{class}");
        if self.types.len() < 10_000 {
            self.types.insert(name.clone());
        }
        if is_root {
            self.root = Some(name.clone());
        }
        self.attribute(frame, offset);
        let Some(loader) = &frame.loader else {
            // Old protocols keep types in objects without a loader.
            if is_root || !is_type_allowed(&name) {
                self.find(&TYPE, offset, format!("the type {}", quote(&name)));
            }
            return Ok(());
        };
        let is_known = match loader.as_str() {
            "JsonNode" => {
                if let Some((is_plain, content)) = &frame.content {
                    self.literal(*is_plain, content, &frame.name, offset);
                }
                matches!(
                    name.as_str(),
                    "builtins.str"
                        | "builtins.int"
                        | "builtins.float"
                        | "builtins.bool"
                        | "builtins.NoneType"
                )
            }
            "ListNode" => name == "builtins.list",
            "TupleNode" => {
                name == "builtins.tuple" || name == "sklearn.impute._iterative._ImputerTriplet"
            }
            "SetNode" => matches!(name.as_str(), "builtins.set" | "builtins.frozenset"),
            "SliceNode" => name == "builtins.slice",
            "BytesNode" => name == "builtins.bytes",
            "BytearrayNode" => name == "builtins.bytearray",
            "DictNode" => matches!(
                name.as_str(),
                "builtins.dict" | "collections.OrderedDict" | "sklearn.utils._bunch.Bunch"
            ),
            "DefaultDictNode" => name == "collections.defaultdict",
            "_DictWithDeprecatedKeysNode" => {
                name == "sklearn.covariance._graph_lasso._DictWithDeprecatedKeys"
            }
            "NdArrayNode" => module == "numpy" && is_numpy_type(class),
            "MaskedArrayNode" => {
                class == "MaskedArray" && matches!(module.as_str(), "numpy.ma" | "numpy.ma.core")
            }
            "DTypeNode" => name == "numpy.dtype",
            "RandomStateNode" => {
                class == "RandomState"
                    && matches!(module.as_str(), "numpy.random" | "numpy.random.mtrand")
            }
            "RandomGeneratorNode" => {
                class == "Generator"
                    && matches!(module.as_str(), "numpy.random" | "numpy.random._generator")
            }
            "SparseMatrixNode" => module.starts_with("scipy.sparse") && is_plain_class(class, true),
            "ObjectNode" => {
                is_type_allowed(&name)
                    || is_listed(module, class, false)
                    || (module == "_loss" && is_plain_class(class, false))
            }
            "TypeNode" => is_type_allowed(&name) || is_listed(module, class, true),
            // What it binds is a node of its own, and it is not called while loading.
            "PartialNode" => name == "functools.partial",
            "LossNode" => {
                matches!(
                    module.as_str(),
                    "sklearn._loss._loss" | "sklearn.linear_model._sgd_fast" | "_loss"
                ) && is_plain_class(class, false)
            }
            "TreeNode" => name == "sklearn.tree._tree.Tree",
            "QuantileForestNode" => name == "quantile_forest._quantile_forest_fast.QuantileForest",
            "FunctionNode" => {
                // The functions of protocols 0 and 1 were judged above.
                if !is_function_allowed(module, class)
                    && !is_listed(module, class, true)
                    && frame.old_function.is_none()
                {
                    self.find(&NODE, offset, format!("the function {}", quote(&name)));
                }
                true
            }
            _ => {
                self.find(
                    &NODE,
                    offset,
                    format!("a {} for {}", quote(loader), quote(&name)),
                );
                true
            }
        };
        if !is_known {
            self.find(
                &TYPE,
                offset,
                format!("a {} of the type {}", quote(loader), quote(&name)),
            );
        }
        Ok(())
    }

    /// Looks at the value of an attribute that loaders run, or call methods of.
    fn attribute(&mut self, frame: &Frame, offset: u64) {
        let loader = frame.loader.as_deref().unwrap_or_default();
        let is_callable = matches!(
            loader,
            "FunctionNode" | "MethodNode" | "PartialNode" | "TypeNode" | "OperatorFuncNode"
        );
        let is_null = matches!(&frame.content, Some((_, content)) if content == "null");
        let is_honest = match frame.name.as_str() {
            pickle::TEMPLATE_ATTRIBUTE => frame.is_template,
            "_qhull" => loader == "JsonNode" && is_null,
            name if pickle::is_called_attribute(name) => !is_callable,
            _ => true,
        };
        // As one of a pair, the name would become an attribute without standing before its value.
        let is_smuggled = matches!(&frame.content, Some((_, content))
            if content.trim() == format!("\"{}\"", pickle::TEMPLATE_ATTRIBUTE));
        if !is_honest || is_smuggled {
            self.find(
                &NODE,
                offset,
                format!(
                    "the attribute {} holds something that loading would run",
                    quote(&frame.name)
                ),
            );
        }
    }

    /// Looks at a value that the schema keeps as JSON within its JSON.
    fn literal(&mut self, is_plain: bool, content: &str, name: &str, offset: u64) {
        if !is_plain {
            self.find(
                &MALFORMED,
                offset,
                format!("the literal {}", quote(content)),
            );
        }
        // NumPy looks this name up in its own module and calls what it finds.
        if name == "bit_generator"
            && let Some(generator) = content
                .strip_prefix('"')
                .and_then(|name| name.strip_suffix('"'))
            && !matches!(
                generator,
                "MT19937" | "PCG64" | "PCG64DXSM" | "Philox" | "SFC64"
            )
        {
            self.find(
                &NODE,
                offset,
                format!("the random generator {}", quote(generator)),
            );
        }
    }
}

/// Whether a value that the schema keeps as JSON is a single number, text or constant.
fn is_plain_literal(content: &str) -> bool {
    // A text is looked at without building it; anything else is short.
    if matches!(content, "NaN" | "Infinity" | "-Infinity") {
        return true;
    }
    let digits = content.trim_start_matches('-');
    // An integer of Python is as long as it likes, but printing it takes the square of its length.
    if !digits.is_empty() && digits.len() < 4300 && digits.bytes().all(|byte| byte.is_ascii_digit())
    {
        return true;
    }
    !content.trim_start().starts_with(['[', '{'])
        && serde_json::from_str::<serde_json::Value>(content).is_ok()
}

fn is_numpy_type(class: &str) -> bool {
    matches!(
        class,
        "ndarray"
            | "matrix"
            | "bool"
            | "bool_"
            | "str_"
            | "bytes_"
            | "void"
            | "datetime64"
            | "timedelta64"
            | "intp"
            | "int8"
            | "int16"
            | "int32"
            | "int64"
            | "longlong"
            | "uint8"
            | "uint16"
            | "uint32"
            | "uint64"
            | "ulonglong"
            | "float16"
            | "float32"
            | "float64"
            | "float128"
            | "longdouble"
            | "complex64"
            | "complex128"
    )
}

/// Whether a name is one identifier that looks like a class.
fn is_plain_class(class: &str, may_be_lower: bool) -> bool {
    let name = class.trim_start_matches('_');
    let first = name.chars().next().unwrap_or('0');
    (first.is_ascii_uppercase() || (may_be_lower && first.is_ascii_lowercase()))
        && !class.starts_with("__")
        && name
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || character == '_')
}

/// Packages of scikit-learn whose classes are estimators, or parts of fitted ones.
const SKLEARN: &[&str] = &[
    "_loss",
    "calibration",
    "cluster",
    "compose",
    "covariance",
    "cross_decomposition",
    "decomposition",
    "discriminant_analysis",
    "dummy",
    "ensemble",
    "feature_extraction",
    "feature_selection",
    "frozen",
    "gaussian_process",
    "impute",
    "isotonic",
    "kernel_approximation",
    "kernel_ridge",
    "linear_model",
    "manifold",
    "metrics",
    "mixture",
    "model_selection",
    "multiclass",
    "multioutput",
    "naive_bayes",
    "neighbors",
    "neural_network",
    "pipeline",
    "preprocessing",
    "random_projection",
    "semi_supervised",
    "svm",
    "tree",
];

/// Whether an instance of this type may be made from a file, whatever attributes it is given.
pub(crate) fn is_type_allowed(name: &str) -> bool {
    let Some((module, class)) = name.rsplit_once('.') else {
        return false;
    };
    let is_path = module.split('.').all(|part| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    if !is_path {
        return false;
    }
    let mut parts = module.split('.');
    match (parts.next().unwrap_or(""), parts.next()) {
        ("builtins", None) => matches!(
            class,
            "str"
                | "int"
                | "float"
                | "bool"
                | "complex"
                | "bytes"
                | "bytearray"
                | "list"
                | "tuple"
                | "dict"
                | "set"
                | "frozenset"
                | "slice"
                | "NoneType"
                | "object"
        ),
        ("collections", None) => matches!(class, "OrderedDict" | "defaultdict" | "Counter"),
        ("numpy", None) => is_numpy_type(class) || class == "dtype",
        ("sklearn", Some(package)) => {
            (SKLEARN.contains(&package) && is_plain_class(class, false))
                || name == "sklearn.utils._bunch.Bunch"
                || name == "sklearn.compose._column_transformer.make_column_selector"
                || name == "sklearn.utils._metadata_requests.MetadataRequest"
                || name == "sklearn.utils._metadata_requests.MethodMetadataRequest"
                || name == "sklearn.utils._tags.Tags"
        }
        ("scipy", Some("sparse")) => is_plain_class(class, true) && class.ends_with(['x', 'y']),
        ("scipy", Some("interpolate")) => {
            matches!(
                class,
                "BSpline" | "PPoly" | "BPoly" | "interp1d" | "PchipInterpolator" | "CubicSpline"
            )
        }
        ("scipy", Some("stats")) => AllowList::built_in().find(module, class) == Some(Use::Class),
        ("scipy", Some("spatial")) => matches!(class, "cKDTree" | "KDTree"),
        ("xgboost", Some("sklearn")) => class.starts_with("XGB") && is_plain_class(class, false),
        ("xgboost", Some("core")) | ("lightgbm", Some("basic")) => class == "Booster",
        ("lightgbm", Some("sklearn")) => class.starts_with("LGBM") && is_plain_class(class, false),
        ("catboost", Some("core")) => class.starts_with("CatBoost") && is_plain_class(class, false),
        (
            "imblearn",
            Some("over_sampling" | "under_sampling" | "combine" | "ensemble" | "pipeline"),
        ) => is_plain_class(class, false),
        ("quantile_forest", _) => class.contains("Quantile") && is_plain_class(class, false),
        _ => false,
    }
}

/// Whether the allow-list of pickles has the type, or the function, which makes of it what skops does.
fn is_listed(module: &str, name: &str, is_mentioned: bool) -> bool {
    match AllowList::built_in().find(module, name) {
        Some(Use::Class | Use::DictClass | Use::ListClass) => true,
        Some(Use::Data) => is_mentioned && (module, name) != ("numpy", "memmap"),
        _ => false,
    }
}

/// Functions of NumPy that compute on numbers; estimators keep them as parameters.
const NUMPY_FUNCTIONS: &[&str] = &[
    "abs",
    "absolute",
    "add",
    "all",
    "amax",
    "amin",
    "any",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "argmax",
    "argmin",
    "argsort",
    "around",
    "average",
    "cbrt",
    "ceil",
    "clip",
    "conj",
    "cos",
    "cosh",
    "cumprod",
    "cumsum",
    "deg2rad",
    "degrees",
    "diff",
    "divide",
    "equal",
    "exp",
    "exp2",
    "expm1",
    "fabs",
    "floor",
    "floor_divide",
    "fmax",
    "fmin",
    "fmod",
    "greater",
    "greater_equal",
    "hypot",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "log",
    "log10",
    "log1p",
    "log2",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "max",
    "maximum",
    "mean",
    "median",
    "min",
    "minimum",
    "mod",
    "multiply",
    "nan_to_num",
    "nanmax",
    "nanmean",
    "nanmedian",
    "nanmin",
    "nanstd",
    "nansum",
    "nanvar",
    "negative",
    "not_equal",
    "positive",
    "power",
    "prod",
    "rad2deg",
    "radians",
    "ravel",
    "reciprocal",
    "remainder",
    "reshape",
    "rint",
    "round",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "squeeze",
    "std",
    "subtract",
    "sum",
    "tan",
    "tanh",
    "transpose",
    "true_divide",
    "trunc",
    "var",
];

/// Functions of `scipy.special` that estimators keep as parameters.
const SPECIAL_FUNCTIONS: &[&str] = &[
    "boxcox",
    "boxcox1p",
    "digamma",
    "erf",
    "erfc",
    "erfcinv",
    "erfinv",
    "exp10",
    "expit",
    "expm1",
    "gamma",
    "gammaln",
    "inv_boxcox",
    "inv_boxcox1p",
    "log1p",
    "log_expit",
    "log_ndtr",
    "logit",
    "ndtr",
    "ndtri",
    "psi",
    "softplus",
    "xlog1py",
    "xlogy",
];

fn is_function_allowed(module: &str, name: &str) -> bool {
    match module {
        "numpy" | "numpy.core._multiarray_umath" | "numpy._core._multiarray_umath" => {
            NUMPY_FUNCTIONS.contains(&name)
        }
        "scipy.special" | "scipy.special._ufuncs" => SPECIAL_FUNCTIONS.contains(&name),
        "scipy._lib.array_api_compat.numpy._aliases" => name == "asarray",
        "sklearn.feature_selection._univariate_selection" => {
            matches!(
                name,
                "f_classif" | "f_oneway" | "f_regression" | "chi2" | "r_regression"
            )
        }
        "sklearn.feature_selection._mutual_info" => {
            matches!(name, "mutual_info_classif" | "mutual_info_regression")
        }
        "sklearn.cluster._kmeans" => name.starts_with("_kmeans_single_"),
        "sklearn.metrics._classification"
        | "sklearn.metrics._regression"
        | "sklearn.metrics._ranking" => {
            name.ends_with("_score") || name.ends_with("_loss") || name.ends_with("_error")
        }
        "sklearn.metrics.pairwise" => {
            name.ends_with("_kernel")
                || name.ends_with("_distances")
                || name.ends_with("_similarity")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_run_or_import_are_not_allowed() {
        for name in [
            "os.system",
            "subprocess.Popen",
            "builtins.eval",
            "builtins.getattr",
            "operator.methodcaller",
            "functools.partial",
            "sklearn.datasets._base.Foo",
            "sklearn.pipeline.os",
            "sklearn.pipeline",
            "sklearn..Pipeline",
            "numpy.memmap",
            "numpy.vectorize",
            "sklearn.utils.Bunch.x",
            "sklearn.externals.Foo",
            "xgboost.core.ctypes",
            "type",
            "",
            "sklearn.svm.__class__",
            "sklearn.pipeline.make_pipeline",
            "sklearn.svm.os.system",
        ] {
            assert!(!is_type_allowed(name), "{name}");
        }
        assert!(is_type_allowed(
            "sklearn.ensemble._forest.RandomForestClassifier"
        ));
        assert!(!is_function_allowed("numpy", "load"));
        assert!(!is_function_allowed("numpy", "fromfile"));
        assert!(!is_function_allowed("os", "system"));
    }
}
