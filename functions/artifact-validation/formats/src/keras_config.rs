//! Keras configurations: the JSON from which Keras builds a model, in `.keras` archives and in HDF5 attributes.
//!
//! Source: `keras/src/saving/serialization_lib.py` and `keras/src/legacy/saving/serialization.py` of
//! <https://github.com/keras-team/keras>.
//! Keras looks up every object by `module`, `class_name` and `registered_name`, and imports what it does not know, so
//! every object is held against the classes that Keras exports, wherever in the document it stands.

use crate::check::Check;
use crate::safetensors::shorten;
use crate::window::declare_rules;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

declare_rules! {
    MEMBER = "keras.unknown-member", Unsafe,
        "A member that Keras does not write is content that no check has looked into.",
        "Save the model again with Keras, and keep other files beside the archive.";
    MISSING = "keras.missing-member", Malformed,
        "Without `config.json` Keras cannot build the model.",
        "Save the model again with Keras.";
    METADATA = "keras.metadata", Malformed,
        "Metadata that are not one JSON object are read differently by different parsers.",
        "Save the model again with Keras.";
    PICKLE = "keras.pickled-weights", Unsafe,
        "Weights that are stored as Python objects are unpickled when they are loaded.",
        "Save the model again with Keras, which stores weights in HDF5.";
    COMPRESSED = "keras.compressed-weights", Malformed,
        "Keras stores its weights uncompressed; larger compressed ones cannot be checked by ranges.",
        "Save the model again with Keras.";
    JSON = "keras.config", Malformed,
        "A configuration that is not one JSON document with unique keys is read differently by different parsers.",
        "Save the model again with Keras.";
    AMBIGUOUS = "keras.ambiguous-config", Unsafe,
        "Python reads such a configuration as another document than a strict parser does, so that what is loaded is not what was checked.",
        "Save the model again with Keras, as UTF-8 without duplicate keys.";
    LAMBDA = "keras.lambda", ContainsCode,
        "A Lambda layer or function carries byte code of the author that runs when the model is loaded or called.",
        "Write the computation as a registered layer, or have the version approved.";
    CUSTOM = "keras.custom-object", ContainsCode,
        "The object is not part of Keras, so loading needs code of the author.",
        "Use layers of Keras, or have the version approved together with its code.";
    IMPORT = "keras.foreign-module", Unsafe,
        "Keras imports this module and calls what it finds there (CVE-2025-1550 and its kin).",
        "Save the model again with a current version of Keras, without objects from other modules.";
    GADGET = "keras.dangerous-object", Unsafe,
        "The object unpickles data, loads another model, fetches files or switches off safe loading.",
        "Remove the object from the model.";
    FILE = "keras.file-reference", Unsafe,
        "The layer reads a file or address when the model is loaded (CVE-2025-12058).",
        "Save the model with its vocabulary, not with the path of a file.";
    BOMB = "keras.huge-layer", Malformed,
        "Keras makes room for a layer before it reads its weights, so that a size without them exhausts the loader.",
        "Save the model again with Keras.";
}

const CLASSES: &str = include_str!("keras_classes.txt");
const FUNCTIONS: &str = include_str!("keras_functions.txt");
const MODULES: &str = include_str!("python_modules.txt");
/// Parts of Keras that hold classes of models; `keras.src` repeats them.
const KERAS_MODULES: &[&str] = &[
    "activations",
    "constraints",
    "dtype_policies",
    "engine",
    "initializers",
    "layers",
    "legacy",
    "losses",
    "metrics",
    "mixed_precision",
    "models",
    "ops",
    "optimizers",
    "quantizers",
    "random",
    "regularizers",
    "backend",
];
/// Names that stand for values, not for classes.
const VALUES: &[&str] = &[
    "__tensor__",
    "__numpy__",
    "__bytes__",
    "__ellipsis__",
    "__slice__",
    "__keras_tensor__",
    "__none__",
    "__tuple__",
    "__complex__",
    "TensorShape",
    "TypeSpec",
];
const GADGETS: &[&str] = &[
    "TorchModuleWrapper",
    "TFSMLayer",
    "get_file",
    "load_model",
    "enable_unsafe_deserialization",
];
const CODE_LAYERS: &[&str] = &[
    "Lambda",
    "JaxLayer",
    "FlaxLayer",
    "TFOpLambda",
    "SlicingOpLambda",
    "ClassMethod",
    "InstanceMethod",
    "InstanceProperty",
];
/// Keys whose value, if it is a string, names a file.
const FILE_KEYS: &[&str] = &[
    "vocabulary",
    "vocabulary_file",
    "filepath",
    "file_path",
    "origin",
    "idf_weights",
    "cache_dir",
    "cache_subdir",
    "vocab_file",
];
/// Keys whose value, if it is a string, names a function or a class of Keras.
const NAME_KEYS: &[&str] = &["activation", "initializer", "regularizer", "constraint"];
/// Sizes of layers; a layer makes room for as many numbers before it reads its weights.
const SIZE_KEYS: &[&str] = &[
    "filters",
    "input_dim",
    "intermediate_dim",
    "key_dim",
    "num_heads",
    "output_dim",
    "units",
    "value_dim",
];
/// Largest size of a layer; the largest vocabularies have less than a thousandth.
const MAX_LAYER_SIZE: f64 = 2_147_483_647.0;
/// Largest configuration; those of published models have about one megabyte.
pub(crate) const MAX_CONFIG_BYTES: usize = 4 * 1024 * 1024;

/// Checks the configuration `bytes`, which is told as `name` in findings.
pub(crate) fn check_config(check: &mut Check<'_>, bytes: &[u8], name: &str, offset: Option<u64>) {
    let value = match crate::strict_json::parse(bytes) {
        Ok(value) => value,
        Err(error) => {
            let error = error.to_string();
            // Python guesses UTF-16 and UTF-32 from zero bytes and byte order marks.
            let is_other_encoding = bytes.starts_with(&[0xef, 0xbb, 0xbf])
                || bytes.starts_with(&[0xff, 0xfe])
                || bytes.starts_with(&[0xfe, 0xff])
                || bytes.iter().take(4).any(|byte| *byte == 0);
            let rule = if is_other_encoding || error.contains("duplicate key") {
                &AMBIGUOUS
            } else {
                &JSON
            };
            check.find(rule, offset, format!("`{name}`: {error}"));
            return;
        }
    };
    if !value.is_object() {
        check.find(&JSON, offset, format!("`{name}` is not an object"));
        return;
    }
    let mut judge = Judge {
        check,
        name,
        offset,
        custom: BTreeSet::new(),
        layers: 0,
    };
    let mut open = vec![&value];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(values) => open.extend(values),
            Value::Object(object) => {
                judge.object(object);
                open.extend(object.values());
            }
            _ => {}
        }
    }
    let (custom, layers) = (judge.custom, judge.layers);
    if name.ends_with("config.json") || name == "model_config" {
        check.fact("layer_count", layers);
        if let Some(class) = value.get("class_name").and_then(Value::as_str) {
            check.fact("model_class", shorten(class));
        }
        for key in ["build_input_shape", "input_shape"] {
            let config = value.get("config").unwrap_or(&Value::Null);
            let build = value.get("build_config").unwrap_or(&Value::Null);
            if let Some(shape) = config
                .get(key)
                .or_else(|| build.get(key))
                .filter(|shape| shape.to_string().len() < 2000)
            {
                check.fact("signature", serde_json::json!({"inputs": shape}));
                break;
            }
        }
    }
    if !custom.is_empty() {
        check.fact("custom_layers", serde_json::json!(custom));
    }
}

struct Judge<'j, 'a> {
    check: &'j mut Check<'a>,
    name: &'j str,
    offset: Option<u64>,
    custom: BTreeSet<String>,
    layers: u64,
}

impl Judge<'_, '_> {
    fn find(&mut self, rule: &'static crate::rules::Rule, detail: &str) {
        self.check
            .find(rule, self.offset, format!("in `{}`: {detail}", self.name));
    }

    fn object(&mut self, object: &Map<String, Value>) {
        for key in FILE_KEYS {
            if let Some(Value::String(path)) = object.get(*key) {
                self.find(&FILE, &format!("`{key}` is `{}`", shorten(path)));
            }
        }
        for (key, value) in object {
            if NAME_KEYS.iter().any(|name| key.ends_with(name))
                && let Value::String(name) = value
                && name.contains(['.', '>', ':', '/', '(', ' '])
            {
                self.find(&IMPORT, &format!("`{key}` is `{}`", shorten(name)));
            }
            if SIZE_KEYS.contains(&key.as_str())
                && value.as_f64().is_some_and(|size| size > MAX_LAYER_SIZE)
            {
                self.find(&BOMB, &format!("`{key}` is {value}"));
            }
            if key.ends_with("module")
                && key != "module"
                && let Value::String(module) = value
                && !module.is_empty()
            {
                self.foreign(module, "");
            }
        }
        let Some(class) = object.get("class_name") else {
            if let Some(Value::String(module)) = object.get("module") {
                self.foreign(
                    module,
                    object.get("function").and_then(Value::as_str).unwrap_or(""),
                );
            }
            if object
                .get("function_type")
                .and_then(Value::as_str)
                .is_some()
            {
                self.find(&LAMBDA, "a layer carries a function");
            }
            return;
        };
        let Value::String(class) = class else {
            // `class_name` may be the name of a tensor's argument; only strings are looked up.
            if !class.is_null() {
                self.find(&JSON, "a `class_name` is not a string");
            }
            return;
        };
        let module = match object.get("module") {
            None | Some(Value::Null) => None,
            Some(Value::String(module)) => Some(module.as_str()),
            Some(_) => {
                self.find(&JSON, "a `module` is not a string");
                return;
            }
        };
        let registered = match object.get("registered_name") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => Some(name.as_str()),
            Some(_) => {
                self.find(&JSON, "a `registered_name` is not a string");
                return;
            }
        };
        self.layers += 1;
        self.class(class, module, registered, object.get("config"));
    }

    fn class(
        &mut self,
        class: &str,
        module: Option<&str>,
        registered: Option<&str>,
        config: Option<&Value>,
    ) {
        // Some versions of TensorFlow prefix their own optimizers so.
        let class = match class.strip_prefix("Custom>") {
            Some(name) if module.is_none() && CLASSES.lines().any(|known| known == name) => name,
            _ => class,
        };
        let told = module.map_or_else(|| class.to_owned(), |module| format!("{module}.{class}"));
        if class == "__lambda__" {
            self.find(&LAMBDA, "a lambda expression");
            return;
        }
        if VALUES.contains(&class) {
            return;
        }
        if class == "__typespec__" {
            if !module.is_some_and(|module| module.starts_with("tensorflow.python.")) {
                self.find(&IMPORT, &format!("a type from `{}`", shorten(&told)));
            }
            return;
        }
        let names = [
            Some(class),
            registered,
            if class == "function" {
                config.and_then(Value::as_str)
            } else {
                None
            },
        ];
        if names.iter().flatten().any(|name| {
            let last = name.rsplit(['.', '>']).next().unwrap_or(name);
            GADGETS.contains(&last)
        }) {
            self.find(&GADGET, &format!("`{}`", shorten(&told)));
            return;
        }
        if class == "function" {
            self.function(config, module);
            return;
        }
        let home = module.map_or(Home::Keras, home);
        match home {
            Home::Foreign => self.find(&IMPORT, &format!("`{}`", shorten(&told))),
            Home::Keras if CODE_LAYERS.contains(&class) => {
                self.find(&LAMBDA, &format!("`{}`", shorten(&told)));
            }
            Home::Keras if CLASSES.lines().any(|known| known == class) => {
                if registered.is_some_and(|name| name.contains('>')) {
                    self.custom(&told);
                }
            }
            // Within Keras a name in lower case is a function, and no function builds a layer.
            Home::Keras
                if module.is_some()
                    && (class.starts_with(|letter: char| letter.is_ascii_lowercase())
                        || class.contains(['.', '_'])) =>
            {
                self.find(&IMPORT, &format!("`{}`", shorten(&told)));
            }
            Home::Keras | Home::Author => self.custom(&told),
        }
    }

    fn function(&mut self, config: Option<&Value>, module: Option<&str>) {
        // Older versions wrap the name in an object with a module of its own, which the walk sees by itself.
        let name = config.and_then(|config| {
            config
                .as_str()
                .or_else(|| config.get("name").and_then(Value::as_str))
        });
        let Some(name) = name else {
            self.find(&IMPORT, "a function without a name");
            return;
        };
        let known = FUNCTIONS.lines().any(|known| known == name);
        match module {
            None | Some("builtins") if known => {}
            Some(module) if home(module) == Home::Keras && known => {}
            Some("builtins") | None => {
                if BUILTINS.contains(&name) {
                    self.find(&IMPORT, &format!("the function `{}`", shorten(name)));
                } else {
                    self.custom(name);
                }
            }
            Some(module) if home(module) == Home::Author => {
                self.custom(&format!("{module}.{name}"));
            }
            Some(module) => self.find(
                &IMPORT,
                &format!("the function `{}.{}`", shorten(module), shorten(name)),
            ),
        }
    }

    /// Judges a module that is named outside of an object.
    fn foreign(&mut self, module: &str, name: &str) {
        if home(module) == Home::Foreign {
            self.find(&IMPORT, &format!("`{}.{}`", shorten(module), shorten(name)));
        }
    }

    fn custom(&mut self, name: &str) {
        if self.custom.len() < 100 && self.custom.insert(shorten(name)) {
            self.find(&CUSTOM, &format!("`{}`", shorten(name)));
        }
    }
}

/// Holds the index of weights in several files against paths that leave the model.
pub(crate) fn check_index(check: &mut Check<'_>, index: &Value, name: &str, offset: Option<u64>) {
    let shards = index.get("weight_map").and_then(Value::as_object);
    for shard in shards.into_iter().flat_map(Map::values) {
        let names: Vec<&Value> = match shard {
            Value::Array(names) => names.iter().collect(),
            name => vec![name],
        };
        let leaves = names.iter().any(|name| {
            name.as_str()
                .is_none_or(|name| name.contains(['/', '\\', ':']) || name.starts_with('.'))
        });
        if leaves {
            check.find(
                &FILE,
                offset,
                format!("`{}` names a file outside of the model", shorten(name)),
            );
            return;
        }
    }
}

/// Functions of Python itself that have no place in a model.
const BUILTINS: &[&str] = &[
    "exec",
    "eval",
    "compile",
    "open",
    "__import__",
    "getattr",
    "setattr",
    "delattr",
    "globals",
    "locals",
    "vars",
    "input",
    "breakpoint",
    "exit",
    "quit",
    "help",
    "print",
    "type",
    "map",
    "filter",
    "iter",
    "next",
    "memoryview",
    "object",
    "super",
    "classmethod",
    "staticmethod",
    "property",
    "dir",
    "id",
    "hash",
    "callable",
    "copyright",
    "credits",
    "license",
];

/// Who a module belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    /// Keras' classes of models.
    Keras,
    /// Python, or a package that holds functions which should not be called by a model.
    Foreign,
    /// Nobody known: the author.
    Author,
}

fn home(module: &str) -> Home {
    let mut parts = module.split('.');
    let mut root = parts.next().unwrap_or("");
    if root == "tensorflow" && module.starts_with("tensorflow.keras") {
        parts.next();
        root = "keras";
    } else if root == "tf_keras" {
        root = "keras";
    }
    if root == "keras" {
        let mut part = parts.next();
        if matches!(part, Some("src" | "api" | "_tf_keras")) {
            part = parts.next();
        }
        return match part {
            None => Home::Keras,
            // A module that Keras imports for itself, such as `os`, hangs below its own modules.
            Some(_)
                if parts.any(|part| {
                    !matches!(part, "math" | "numpy" | "random")
                        && MODULES.lines().any(|known| known == part)
                }) =>
            {
                Home::Foreign
            }
            Some(part)
                if KERAS_MODULES.contains(&part)
                    && !module.contains("saving")
                    && !module.contains("utils") =>
            {
                Home::Keras
            }
            Some(_) => Home::Foreign,
        };
    }
    let plain = !root.is_empty()
        && module
            .chars()
            .all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '.'));
    if !plain
        || root.starts_with('_') && root != "__main__"
        || MODULES.lines().any(|known| known == root)
    {
        return Home::Foreign;
    }
    Home::Author
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;
    use crate::source::ReadError;
    use crate::test_support::run;

    fn whole(check: &mut Check<'_>) -> Result<(), ReadError> {
        let bytes = check.read(0..check.size())?;
        check_config(check, &bytes, "config.json", None);
        Ok(())
    }

    #[test]
    fn each_object_is_judged_wherever_it_stands() {
        use Verdict::{Clean, ContainsCode, Malformed, Unsafe};
        let lambda = r#"{"class_name":"__lambda__","config":{"code":"YwA="}}"#;
        for (config, verdict) in [
            (r#"{"module":"keras.layers","class_name":"Dense","config":{"activation":"relu"},"registered_name":null}"#.to_owned(), Clean),
            (r#"{"class_name":"Dense","config":{"vocabulary":["a"]}}"#.into(), Clean),
            (r#"{"module":"keras.src.models.functional","class_name":"Functional","registered_name":"Functional"}"#.into(), Clean),
            (r#"{"module":"builtins","class_name":"function","config":"relu","registered_name":"function"}"#.into(), Clean),
            (format!(r#"{{"class_name":"Dense","config":{{"activation":{lambda}}}}}"#), ContainsCode),
            (format!(r#"{{"class_name":"Dense","build_config":{{"x":[{{"y":{lambda}}}]}}}}"#), ContainsCode),
            (r#"{"module":"keras.layers","class_name":"L\u0061mbda","config":{}}"#.into(), ContainsCode),
            (r#"{"module":"my.code","class_name":"Layer","registered_name":"My>Layer"}"#.into(), ContainsCode),
            (r#"{"module":"__main__","class_name":"function","config":"loss"}"#.into(), ContainsCode),
            (r#"{"module":"builtins","class_name":"function","config":"exec","registered_name":"exec"}"#.into(), Unsafe),
            (r#"{"module":"os","class_name":"system","registered_name":"My>Layer"}"#.into(), Unsafe),
            (r#"{"module":"keras.utils","class_name":"get_file"}"#.into(), Unsafe),
            (r#"{"module":"keras.models","class_name":"load_model"}"#.into(), Unsafe),
            (r#"{"module":"keras.models","class_name":"clone_model"}"#.into(), Unsafe),
            (r#"{"module":"keras.layers.os","class_name":"Popen"}"#.into(), Unsafe),
            (r#"{"module":"keras.src.saving.x","class_name":"Dense"}"#.into(), Unsafe),
            (r#"{"module":"keras.layers","class_name":"TorchModuleWrapper"}"#.into(), Unsafe),
            (r#"{"module":"torch.hub","class_name":"Load"}"#.into(), Unsafe),
            (r#"{"class_name":"StringLookup","config":{"vocabulary":"/etc/passwd"}}"#.into(), Unsafe),
            (r#"{"class_name":"Lambda","config":{"function":"system","function_type":"function","module":"os"}}"#.into(), Unsafe),
            (r#"{"class_name":"Dense","class_name":"Lambda"}"#.into(), Unsafe),
            ("\u{feff}{}".into(), Unsafe),
            (r#"{"class_name":["Lambda"]}"#.into(), Malformed),
            ("[]".into(), Malformed),
        ] {
            assert_eq!(run(whole, "config.json", config.clone().into_bytes()).0, verdict, "{config}");
        }
    }
}
