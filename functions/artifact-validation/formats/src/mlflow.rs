//! MLflow model directories, by `mlflow/models/model.py` and the flavors' loaders (MLflow 1 to 3).
//!
//! `MLmodel` tells the loader which Python modules to import and which files to open, so each such field is held against
//! a list: modules and classes by name, paths by staying in the directory and being there.

use crate::bundle::Bundle;
use crate::check::Check;
use crate::cursor::{Trouble, quote, read_small, settle};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::ReadError;
use crate::yaml;
use serde_json::{Map, Value, json};

/// The rules of this format.
pub const RULES: &[Rule] = &[
    MALFORMED,
    UNUSABLE_FLAVOR,
    YAML,
    PATH,
    MISSING,
    LOADER,
    CODE,
    CLASS,
    SIGNATURE,
    NO_SIGNATURE,
    NO_ENVIRONMENT,
];

const MALFORMED: Rule = Rule {
    id: "mlflow.malformed",
    verdict: Verdict::Malformed,
    why: "A model whose description cannot be read, or is read differently by different readers, cannot be served.",
    fix: "Save the model again with MLflow.",
};
const YAML: Rule = Rule {
    id: "mlflow.yaml-feature",
    verdict: Verdict::Unsafe,
    why: "Tags construct objects while the file is read; aliases and depth exhaust the reader.",
    fix: "Save the model again with MLflow, which writes neither.",
};
const PATH: Rule = Rule {
    id: "mlflow.path-escape",
    verdict: Verdict::Unsafe,
    why: "The loader would open a file outside of the model's directory.",
    fix: "Name files relative to the directory of `MLmodel`.",
};
const MISSING: Rule = Rule {
    id: "mlflow.missing-file",
    verdict: Verdict::Malformed,
    why: "The loader needs a file that is not part of the version.",
    fix: "Upload the whole directory that MLflow wrote.",
};
const UNUSABLE_FLAVOR: Rule = Rule {
    id: "mlflow.unusable-flavor",
    verdict: Verdict::Clean,
    why: "Serving uses the generic flavor, but loading by this one fails for a file that is not part of the version.",
    fix: "Upload the whole directory that MLflow wrote.",
};
const LOADER: Rule = Rule {
    id: "mlflow.loader-module",
    verdict: Verdict::Unsafe,
    why: "MLflow imports the module that this field names and calls a function in it.",
    fix: "Use a flavor of MLflow, or ship the loader as code of the model.",
};
const CODE: Rule = Rule {
    id: "mlflow.contains-code",
    verdict: Verdict::ContainsCode,
    why: "Loading the model runs its author's code.",
    fix: "Ask for an approval, or use a flavor that needs no code.",
};
const CLASS: Rule = Rule {
    id: "mlflow.class-not-allowed",
    verdict: Verdict::Unsafe,
    why: "MLflow imports the class that this field names and makes an instance of it.",
    fix: "Save the model with the flavor that its class belongs to.",
};
const SIGNATURE: Rule = Rule {
    id: "mlflow.signature-malformed",
    verdict: Verdict::Malformed,
    why: "A signature that cannot be read makes the loader fail, or checks nothing.",
    fix: "Save the model again with `infer_signature`.",
};
const NO_SIGNATURE: Rule = Rule {
    id: "mlflow.no-signature",
    verdict: Verdict::Clean,
    why: "Without a signature, wrong input is found only when the model fails.",
    fix: "Save the model with `signature=infer_signature(…)`.",
};
const NO_ENVIRONMENT: Rule = Rule {
    id: "mlflow.no-environment",
    verdict: Verdict::Clean,
    why: "Without an environment, nobody knows which packages the model needs.",
    fix: "Save the model with `pip_requirements`.",
};

/// Modules of MLflow that load a model from data alone, as far as its files are of safe formats.
const LOADERS: &[&str] = &[
    "mlflow.catboost",
    "mlflow.diviner",
    "mlflow.fastai",
    "mlflow.gluon",
    "mlflow.h2o",
    "mlflow.keras",
    "mlflow.lightgbm",
    "mlflow.onnx",
    "mlflow.paddle",
    "mlflow.pmdarima",
    "mlflow.prophet",
    "mlflow.pytorch",
    "mlflow.sentence_transformers",
    "mlflow.shap",
    "mlflow.sklearn",
    "mlflow.spacy",
    "mlflow.statsmodels",
    "mlflow.tensorflow",
    "mlflow.transformers",
    "mlflow.xgboost",
];

/// Modules of MLflow that run what the model brings along.
const CODE_LOADERS: &[&str] = &[
    "mlflow.dspy",
    "mlflow.johnsnowlabs",
    "mlflow.langchain",
    "mlflow.llama_index",
    // These make objects of the Java classes that the model names.
    "mlflow.mleap",
    "mlflow.openai",
    "mlflow.promptflow",
    "mlflow.pyfunc.loaders.chat_agent",
    "mlflow.pyfunc.loaders.chat_model",
    "mlflow.pyfunc.loaders.code_model",
    "mlflow.pyfunc.loaders.responses_agent",
    "mlflow.pyfunc.model",
    "mlflow.spark",
];

/// Fields of a flavor that name a file or directory of the model.
const PATH_FIELDS: &[&str] = &[
    "code",
    "data",
    "engine_config",
    "index",
    "loader_path",
    "model_binary",
    "model_config_path",
    "model_data",
    "model_dir",
    "model_path",
    "model_weights",
    "pickled_model",
    "pipeline",
    "processor_data",
    "python_model",
    "saved_model_dir",
    "settings",
    "source_model_path",
    "tokenizer_data",
];

/// Modules that the TensorFlow and Keras flavors import by the name in the model.
const KERAS_MODULES: &[&str] = &[
    "keras",
    "keras.src",
    "tensorflow.keras",
    "tensorflow.python.keras",
    "tf_keras",
    "tensorflow.python.keras.api._v2.keras",
    "keras.api._v2.keras",
];

/// What `predict_fn` may call on a model.
const PREDICTIONS: &[&str] = &[
    "predict",
    "predict_proba",
    "predict_log_proba",
    "predict_joint_log_proba",
    "score",
    "transform",
    "decision_function",
];

/// Longest schema; its values take many times the memory of its text.
const MAX_SIGNATURE_BYTES: usize = 512 * 1024;

/// Deepest the values of a description are looked into.
const MAX_DEPTH: usize = 40;

/// Tells whether this is the description of a model directory.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, _size: u64) -> bool {
    (path == "MLmodel" || path.ends_with("/MLmodel")) && crate::environment::is_text(head)
}

/// Tells whether the bundle holds a model directory.
pub fn detect_bundle(bundle: &Bundle<'_>) -> bool {
    bundle
        .files()
        .iter()
        .any(|file| file.path == "MLmodel" || file.path.ends_with("/MLmodel"))
}

/// Inspects the directory whose `MLmodel` this is.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    check_bundle(check)
}

/// Inspects the directory whose `MLmodel` this is.
pub fn check_bundle(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = inspect(check);
    settle(check, outcome, &MALFORMED, &MALFORMED)?;
    Ok(())
}

fn inspect(check: &mut Check<'_>) -> Result<(), Trouble> {
    let bytes = read_small(check.source, yaml::MAX_BYTES)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| Trouble::malformed(error.valid_up_to() as u64, "not UTF-8"))?;
    let model = yaml::parse(text).map_err(|error| {
        if error.is_dangerous {
            Trouble::rule(&YAML, error.offset, error.detail)
        } else {
            Trouble::malformed(error.offset, error.detail)
        }
    })?;
    let Value::Object(model) = model else {
        return Err(Trouble::malformed(0, "not a mapping"));
    };
    let Some(Value::Object(flavors)) = model.get("flavors") else {
        return Err(Trouble::malformed(0, "no flavors"));
    };
    if flavors.is_empty() {
        return Err(Trouble::malformed(0, "no flavors"));
    }
    let mut directory = Directory::of(check);
    traversal(check, &model);
    for (name, flavor) in flavors {
        let Value::Object(fields) = flavor else {
            return Err(Trouble::malformed(
                0,
                format!("the flavor {} is no mapping", quote(name)),
            ));
        };
        let is_generic = name == "python_function" || !flavors.contains_key("python_function");
        directory.missing = if is_generic {
            &MISSING
        } else {
            &UNUSABLE_FLAVOR
        };
        self::flavor(check, &directory, name, fields)?;
    }
    directory.missing = &MISSING;
    for key in ["saved_input_example_info"] {
        if let Some(Value::Object(info)) = model.get(key) {
            for field in ["artifact_path", "serving_input_path"] {
                if let Some(Value::String(path)) = info.get(field) {
                    directory.require(check, field, path);
                }
            }
            check.fact("has_input_example", true);
        }
    }
    sources(check, &directory);
    picklers(check, &directory)?;
    signature(check, &model);
    facts(check, &model, flavors);
    if directory.find("requirements.txt").is_none() && directory.find("conda.yaml").is_none() {
        check.find(
            &NO_ENVIRONMENT,
            None,
            "neither `requirements.txt` nor `conda.yaml`",
        );
    }
    Ok(())
}

/// The directory that a marker file lies in, and its files.
pub(crate) struct Directory<'a> {
    bundle: &'a Bundle<'a>,
    /// Path of the directory with a `/` at its end, or nothing.
    prefix: String,
    /// What a missing file means for the flavor at hand.
    missing: &'static Rule,
}

impl<'a> Directory<'a> {
    pub(crate) fn of(check: &Check<'a>) -> Self {
        // Within an archive, paths of the bundle are relative to the archive.
        let path = check.path.rsplit("!/").next().unwrap_or(check.path);
        let is_known = check.bundle.find(check.path).is_some();
        let path = if is_known { check.path } else { path };
        Self {
            bundle: check.bundle,
            missing: &MISSING,
            prefix: path
                .rfind('/')
                .map_or_else(String::new, |end| path.get(..=end).unwrap_or("").to_owned()),
        }
    }

    /// The file at `path` within the directory.
    pub(crate) fn find(&self, path: &str) -> Option<crate::bundle::BundleFile<'a>> {
        self.bundle.find(&format!("{}{path}", self.prefix))
    }

    /// Paths within the directory.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &'a str> {
        self.bundle
            .files()
            .iter()
            .filter_map(|file| file.path.strip_prefix(self.prefix.as_str()))
    }

    /// Whether `path` is a file, or a directory with files in it.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path
            .strip_prefix("./")
            .unwrap_or(path)
            .trim_end_matches('/');
        self.find(path).is_some() || matches!(path, "." | "") || self.has_below(path)
    }

    /// Whether any file lies in the directory at `path`; files are sorted, so the first behind its name tells.
    fn has_below(&self, path: &str) -> bool {
        let below = format!("{}{path}/", self.prefix);
        let files = self.bundle.files();
        let first = files.partition_point(|file| file.path < below.as_str());
        files
            .get(first)
            .is_some_and(|file| file.path.starts_with(&below))
    }

    /// Looks for a file that the model can be loaded without.
    fn expect(&self, check: &mut Check<'_>, field: &str, path: &str) {
        if crate::environment::is_inside(path) && !self.has(path) {
            check.find(
                &NO_ENVIRONMENT,
                None,
                format!("`{field}` names {}, which is not there", quote(path)),
            );
        } else {
            self.require(check, field, path);
        }
    }

    fn require(&self, check: &mut Check<'_>, field: &str, path: &str) {
        if !matches!(path, "." | "./") && !crate::environment::is_inside(path) {
            check.find(
                &PATH,
                None,
                format!("`{field}` is {}, which leaves the directory", quote(path)),
            );
        } else if !self.has(path) {
            check.find(
                self.missing,
                None,
                format!("`{field}` names {}, which is not there", quote(path)),
            );
        }
    }
}

/// Refuses `..` in any text of the description, whatever field a flavor may keep it in.
fn traversal(check: &mut Check<'_>, model: &Map<String, Value>) {
    let mut pending: Vec<(&str, &Value, usize)> = model
        .iter()
        // Texts for people, and for other programs than the loader.
        .filter(|(key, _)| {
            !matches!(
                key.as_str(),
                "metadata" | "signature" | "prompts" | "run_id"
            )
        })
        .map(|(key, value)| (key.as_str(), value, 0))
        .collect();
    while let Some((key, value, depth)) = pending.pop() {
        if depth > MAX_DEPTH {
            continue;
        }
        match value {
            Value::String(text) => {
                let is_up = text.split(['/', '\\']).any(|part| part == "..");
                // Where an artifact came from is kept, but not opened.
                if is_up && !matches!(key, "uri" | "model_code_path") {
                    check.find(
                        &PATH,
                        None,
                        format!("`{key}` is {}, which leaves the directory", quote(text)),
                    );
                }
            }
            Value::Array(items) => {
                pending.extend(items.iter().map(|item| (key, item, depth + 1)));
            }
            Value::Object(fields) => pending.extend(
                fields
                    .iter()
                    .map(|(key, value)| (key.as_str(), value, depth + 1)),
            ),
            _ => {}
        }
    }
}

fn flavor(
    check: &mut Check<'_>,
    directory: &Directory<'_>,
    name: &str,
    fields: &Map<String, Value>,
) -> Result<(), Trouble> {
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        match (key.as_str(), value) {
            ("loader_module", Value::String(module)) => loader(check, directory, fields, module),
            ("code", Value::String(path)) => {
                directory.require(check, key, path);
                check.find(
                    &CODE,
                    None,
                    format!("the flavor {} brings code", quote(name)),
                );
            }
            ("model_code_path", Value::String(path)) => {
                // MLflow opens the last part of the path within the directory.
                let file = path.rsplit(['/', '\\']).next().unwrap_or("");
                directory.require(check, key, file);
                check.find(
                    &CODE,
                    None,
                    format!("the model is the script {}", quote(file)),
                );
            }
            ("env", Value::String(path)) => directory.expect(check, key, path),
            ("env", Value::Object(files)) => {
                for (kind, path) in files {
                    match path {
                        Value::String(path) => directory.expect(check, kind, path),
                        Value::Null => {}
                        _ => return Err(Trouble::malformed(0, "an environment that is no path")),
                    }
                }
            }
            ("artifacts", Value::Object(artifacts)) => {
                for (name, artifact) in artifacts {
                    match artifact.get("path") {
                        Some(Value::String(path)) => directory.require(check, name, path),
                        _ => return Err(Trouble::malformed(0, "an artifact without a path")),
                    }
                }
            }
            ("extra_files", Value::Array(files)) => {
                for file in files {
                    if let Some(Value::String(path)) = file.get("path") {
                        directory.require(check, key, path);
                    }
                }
            }
            ("requirements_file", Value::Object(file)) => {
                if let Some(Value::String(path)) = file.get("path") {
                    directory.require(check, key, path);
                }
            }
            ("predict_fn", Value::String(function)) => {
                let is_prediction = PREDICTIONS.contains(&function.as_str());
                if !is_prediction {
                    check.find(
                        &CODE,
                        None,
                        format!("predictions call the method {}", quote(function)),
                    );
                }
            }
            ("model_class", Value::String(class)) => class_name(check, name, class),
            ("keras_module", Value::String(module)) => {
                let is_known = KERAS_MODULES.contains(&module.as_str());
                if !is_known {
                    check.find(&CLASS, None, format!("the module {}", quote(module)));
                }
            }
            ("pickle_module" | "pickle_module_name", Value::String(module)) => {
                check.find(
                    &CODE,
                    None,
                    format!("unpickling by the module {}", quote(module)),
                );
            }
            ("skops_trusted_types", Value::Array(types)) => {
                for name in types {
                    let is_allowed = name.as_str().is_some_and(crate::skops::is_type_allowed);
                    if !is_allowed {
                        check.find(
                            &CODE,
                            None,
                            format!("the model asks to trust the type {name}"),
                        );
                    }
                }
            }
            ("custom_objects", Value::String(path)) => {
                directory.require(check, key, path);
                check.find(&CODE, None, "the model brings custom objects");
            }
            (field, Value::String(path)) if PATH_FIELDS.contains(&field) => {
                directory.require(check, field, path);
                if field == "python_model" {
                    check.find(&CODE, None, "the model is a pickled Python object");
                }
            }
            (field, Value::Object(_) | Value::Array(_)) if PATH_FIELDS.contains(&field) => {
                return Err(Trouble::malformed(0, format!("`{field}` is no path")));
            }
            // What a newer flavor calls its files is not known, but a path that leaves is wrong under any name.
            (field, Value::String(path)) if is_absolute(path) => {
                let is_origin = matches!(
                    field,
                    "source_model_name" | "model_uri" | "uri" | "model_code_path"
                );
                if !is_origin {
                    check.find(
                        &PATH,
                        None,
                        format!("`{field}` is {}, which leaves the directory", quote(path)),
                    );
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_absolute(path: &str) -> bool {
    let mut characters = path.chars();
    let drive = characters
        .next()
        .is_some_and(|letter| letter.is_ascii_alphabetic())
        && characters.next() == Some(':')
        && matches!(characters.next(), Some('/' | '\\'));
    path.starts_with(['/', '\\', '~']) && path != "~" || drive || path.starts_with("file:")
}

fn loader(
    check: &mut Check<'_>,
    directory: &Directory<'_>,
    fields: &Map<String, Value>,
    module: &str,
) {
    if LOADERS.contains(&module) {
        return;
    }
    if CODE_LOADERS.contains(&module) {
        check.find(
            &CODE,
            None,
            format!("the loader {} runs what the model brings", quote(module)),
        );
        return;
    }
    let code = fields.get("code").and_then(Value::as_str);
    let is_name = module.split('.').all(|part| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    let is_shipped = is_name
        && code.is_some_and(|code| {
            let file = module.replace('.', "/");
            let code = code.trim_end_matches('/');
            directory.find(&format!("{code}/{file}.py")).is_some()
                || directory
                    .find(&format!("{code}/{file}/__init__.py"))
                    .is_some()
        });
    if is_shipped {
        check.find(
            &CODE,
            None,
            format!("the loader {} is code of the model", quote(module)),
        );
    } else {
        check.find(
            &LOADER,
            None,
            format!("the loader {} is no flavor of MLflow", quote(module)),
        );
    }
}

fn class_name(check: &mut Check<'_>, flavor: &str, class: &str) {
    let is_plain = class
        .chars()
        .all(|character| character.is_ascii_alphanumeric() || matches!(character, '.' | '_'));
    let allowed: &[&str] = match flavor {
        "xgboost" => &[
            "xgboost.core.Booster",
            "xgboost.sklearn.XGB",
            "xgboost.dask.DaskXGB",
        ],
        "lightgbm" => &[
            "lightgbm.basic.Booster",
            "lightgbm.sklearn.LGBM",
            "lightgbm.engine.CVBooster",
        ],
        _ => &[],
    };
    let is_allowed = is_plain && allowed.iter().any(|prefix| class.starts_with(prefix));
    if !is_allowed && (!allowed.is_empty() || class.contains(['.', ':'])) {
        check.find(
            &CLASS,
            None,
            format!(
                "the flavor {} names the class {}",
                quote(flavor),
                quote(class)
            ),
        );
    }
}

/// Python beside the model is code, whether or not a field mentions it: `code/` is put on the import path.
/// The PyTorch flavor imports the module that this file names, for unpickling.
fn picklers(check: &mut Check<'_>, directory: &Directory<'_>) -> Result<(), Trouble> {
    const FILE: &str = "pickle_module_info.txt";
    const KNOWN: &[&str] = &[
        "cloudpickle",
        "dill",
        "mlflow.pytorch.pickle_module",
        "pickle",
    ];
    let paths: Vec<&str> = directory
        .paths()
        .filter(|path| path.rsplit('/').next() == Some(FILE))
        .collect();
    for path in paths {
        let Some(file) = directory.find(path) else {
            continue;
        };
        let bytes = read_small(file.source, 4096)?;
        let module = String::from_utf8_lossy(&bytes);
        if !KNOWN.contains(&module.trim()) {
            check.find(
                &LOADER,
                None,
                format!("{} names the module {}", quote(path), quote(&module)),
            );
        }
    }
    Ok(())
}

fn sources(check: &mut Check<'_>, directory: &Directory<'_>) {
    const ENDINGS: &[&str] = &[
        ".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".pth",
    ];
    let mut found: Vec<&str> = Vec::new();
    for path in directory.paths() {
        let lower = path.to_ascii_lowercase();
        // `.pth` is also what PyTorch calls its weights, outside of import paths.
        let is_code = ENDINGS.iter().any(|ending| {
            lower.ends_with(ending) && (*ending != ".pth" || lower.starts_with("code/"))
        });
        if is_code && found.len() < 10 {
            found.push(path);
        }
    }
    for path in found {
        check.find(&CODE, None, format!("{} is code", quote(path)));
    }
}

/// Reads the schemas, which are JSON within the YAML.
fn signature(check: &mut Check<'_>, model: &Map<String, Value>) {
    let Some(Value::Object(parts)) = model.get("signature") else {
        check.find(&NO_SIGNATURE, None, "no signature");
        return;
    };
    let mut signature = Map::new();
    for (part, schema) in parts {
        if !matches!(part.as_str(), "inputs" | "outputs" | "params") {
            continue;
        }
        match schema {
            Value::Null => {}
            Value::String(text) if text.len() > MAX_SIGNATURE_BYTES => {
                check.find(&SIGNATURE, None, format!("`{part}` is too long"));
            }
            Value::String(text) => match serde_json::from_str::<Value>(text) {
                Ok(Value::Array(fields)) if fields.iter().all(is_field) => {
                    signature.insert(part.clone(), Value::Array(fields));
                }
                // One object stands for a schema of types such as lists.
                Ok(schema @ Value::Object(_)) => {
                    signature.insert(part.clone(), schema);
                }
                _ => check.find(&SIGNATURE, None, format!("`{part}` is no schema")),
            },
            _ => check.find(&SIGNATURE, None, format!("`{part}` is no schema")),
        }
    }
    check.fact("signature", Value::Object(signature));
}

fn is_field(field: &Value) -> bool {
    let Value::Object(field) = field else {
        return false;
    };
    match field.get("type").and_then(Value::as_str) {
        Some("tensor") => field
            .get("tensor-spec")
            .and_then(|spec| spec.get("shape"))
            .is_some_and(Value::is_array),
        Some(_) => true,
        None => false,
    }
}

fn facts(check: &mut Check<'_>, model: &Map<String, Value>, flavors: &Map<String, Value>) {
    let names: Vec<&String> = flavors.keys().collect();
    check.fact("flavors", json!(names));
    for (field, fact) in [
        ("mlflow_version", "mlflow_version"),
        ("model_uuid", "model_uuid"),
        ("run_id", "run_id"),
        ("utc_time_created", "created"),
    ] {
        if let Some(Value::String(value)) = model.get(field) {
            check.fact(fact, value.as_str());
        }
    }
    let mut versions = Map::new();
    for (name, flavor) in flavors {
        let version = flavor.as_object().into_iter().flatten().find(|(key, _)| {
            key.ends_with("_version")
                && !matches!(key.as_str(), "python_version" | "cloudpickle_version")
        });
        if let Some((_, version)) = version {
            versions.insert(name.clone(), version.clone());
        }
        if let Some(python) = flavor.get("python_version") {
            check.fact("python_version", python.clone());
        }
    }
    if !versions.is_empty() {
        check.fact("framework_versions", Value::Object(versions));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::BundleFile;
    use crate::inspect::Limits;
    use bytes::Bytes;

    fn run(text: &str) -> Verdict {
        let model = Bytes::copy_from_slice(text.as_bytes());
        let empty = Bytes::new();
        let bundle = Bundle::new(
            ["m/MLmodel", "m/model.ubj", "m/code/own.py", "other"]
                .into_iter()
                .map(|path| BundleFile {
                    path,
                    source: if path == "m/MLmodel" { &model } else { &empty },
                })
                .filter(|file| text.contains("own") || file.path != "m/code/own.py")
                .collect(),
        );
        let limits = Limits::default();
        let mut check = Check::new(&bundle, "m/MLmodel", &model, &limits, 0);
        super::check(&mut check).unwrap();
        check.verdict()
    }

    #[test]
    fn fields_that_import_or_open_are_held_against_lists() {
        let flavor = |fields: &str| format!("flavors:\n  xgboost:\n{fields}");
        let cases = [
            (
                "    data: model.ubj\n    loader_module: mlflow.xgboost\n",
                Verdict::Clean,
            ),
            ("    data: ../other\n", Verdict::Unsafe),
            ("    data: /etc/passwd\n", Verdict::Unsafe),
            ("    data: C:\\x\n", Verdict::Unsafe),
            ("    data: gone.ubj\n", Verdict::Malformed),
            ("    anything: /etc/passwd\n", Verdict::Unsafe),
            (
                "    anything:\n    - a:\n        b: x/../../y\n",
                Verdict::Unsafe,
            ),
            ("    loader_module: os\n", Verdict::Unsafe),
            ("    loader_module: mlflow.xgboost.x\n", Verdict::Unsafe),
            (
                "    loader_module: mlflow.pyfunc.model\n",
                Verdict::ContainsCode,
            ),
            (
                "    loader_module: own\n    code: code\n",
                Verdict::ContainsCode,
            ),
            (
                "    loader_module: gone\n    code: m\n    x: own\n",
                Verdict::Unsafe,
            ),
            ("    model_class: xgboost.core.Booster\n", Verdict::Clean),
            ("    model_class: os.system\n", Verdict::Unsafe),
            ("    keras_module: os\n", Verdict::Unsafe),
            ("    data: !!python/name:os.system ''\n", Verdict::Unsafe),
            ("    data: model.ubj\n    data: other\n", Verdict::Malformed),
            (
                "    skops_trusted_types: [os.system]\n",
                Verdict::ContainsCode,
            ),
        ];
        for (fields, verdict) in cases {
            assert_eq!(run(&flavor(fields)), verdict, "{fields}");
        }
    }
}
